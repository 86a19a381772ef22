/* cgroup_dev.c: device policy: v1 devices.allow/deny, on v2 a small BPF program (BPF_PROG_TYPE_CGROUP_DEVICE).
 *
 * Meaning, the same on both: every bit of an access (read, write, mknod) is decided by the last rule
 * that fits device and bit; a bit that no rule fits is denied.
 */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <sys/syscall.h>

#include "cgroup_internal.h"

enum { R_READ = 1, R_WRITE = 2, R_MKNOD = 4, R_ALL = 7 };

static int check_rules(const struct fctr_devrule *rules, size_t n, struct fctr_error *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct fctr_devrule *r = &rules[i];

		if ((r->type != 'a' && r->type != 'b' && r->type != 'c') || !r->access || (r->access & ~R_ALL) ||
		    r->major < -1 || r->major > UINT32_MAX || r->minor < -1 || r->minor > UINT32_MAX)
			return fctr_fail(err, FCTR_ST_LIMIT, EINVAL,
					 "devices: rule %zu: wants type a, b or c, numbers or -1 for any, and one of r, w, m at least", i);
	}
	return 0;
}

/* ---- v1 ------------------------------------------------------------------------------ */

/* v1 knows one default and exceptions from it, and takes an exception away only by its exact name.
 * So the rules are played through here, and only what is left of them is written. */
struct v1_policy {
	bool allow_all;		/* else everything is denied but the exceptions */
	size_t n;
	struct fctr_devrule *ex;
};

static bool covers(const struct fctr_devrule *a, const struct fctr_devrule *b)
{
	return a->type == b->type && (a->major == -1 || a->major == b->major) && (a->minor == -1 || a->minor == b->minor);
}

static bool overlaps(const struct fctr_devrule *a, const struct fctr_devrule *b)
{
	return a->type == b->type && (a->major == -1 || b->major == -1 || a->major == b->major) &&
	       (a->minor == -1 || b->minor == -1 || a->minor == b->minor);
}

static int play_one(struct v1_policy *p, const struct fctr_devrule *r, size_t index, struct fctr_error *err)
{
	if (r->allow != p->allow_all) {		/* one more exception */
		p->ex[p->n++] = *r;
		return 0;
	}
	for (size_t i = 0; i < p->n; i++) {	/* back to the default: less of the exceptions */
		struct fctr_devrule *e = &p->ex[i];

		if (covers(r, e))
			e->access &= (uint8_t)~r->access;
		else if (overlaps(r, e) && (e->access & r->access))
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP,
					 "devices: rule %zu takes a part out of an earlier, wider rule, which cgroup v1 cannot express; "
					 "name the devices one by one", index);
	}
	return 0;
}

static int play(struct v1_policy *p, const struct fctr_devrule *rules, size_t n, struct fctr_error *err)
{
	for (size_t i = 0; i < n; i++) {
		struct fctr_devrule r = rules[i];

		if (r.type == 'a' && r.major == -1 && r.minor == -1 && r.access == R_ALL) {
			p->allow_all = r.allow;
			p->n = 0;
			continue;
		}
		for (int both = 0; both < (r.type == 'a' ? 2 : 1); both++) {
			struct fctr_devrule one = r;

			if (r.type == 'a')
				one.type = both ? 'c' : 'b';
			if (play_one(p, &one, i, err) < 0)
				return -1;
		}
	}
	/* The kernel wants one exception that fits the whole access: give narrow ones the wide ones' bits. */
	for (size_t i = 0; i < p->n; i++)
		for (size_t k = 0; k < p->n; k++)
			if (p->ex[i].access && covers(&p->ex[k], &p->ex[i]))
				p->ex[i].access |= p->ex[k].access;
	return 0;
}

static void number_or_star(char out[12], int64_t v)
{
	if (v < 0)
		strcpy(out, "*");
	else
		snprintf(out, 12, "%u", (unsigned)v);
}

int fctr_cg_dev_v1(struct fctr_cgroup *cg, int h, const struct fctr_devrule *rules, size_t n, struct fctr_error *err)
{
	cleanup_free struct fctr_devrule *ex = malloc((2 * n + 1) * sizeof(*ex));
	struct v1_policy p = { .ex = ex };

	if (!ex)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "device rules");
	if (check_rules(rules, n, err) < 0 || play(&p, rules, n, err) < 0)
		return -1;
	if (fctr_cg_set_text(cg, h, "devices", p.allow_all ? "devices.allow" : "devices.deny", "a", err) < 0)
		return -1;
	for (size_t i = 0; i < p.n; i++) {
		const struct fctr_devrule *e = &p.ex[i];
		char major[12], minor[12], text[48];

		if (!e->access)
			continue;
		number_or_star(major, e->major);
		number_or_star(minor, e->minor);
		snprintf(text, sizeof(text), "%c %s:%s %s%s%s", e->type, major, minor, e->access & R_READ ? "r" : "",
			 e->access & R_WRITE ? "w" : "", e->access & R_MKNOD ? "m" : "");
		if (fctr_cg_set_text(cg, h, "devices", p.allow_all ? "devices.deny" : "devices.allow", text, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- v2 ------------------------------------------------------------------------------ */

struct fctr_devprog {
	struct fctr_devprog *next;
	int fd;
	size_t n;
	struct fctr_devrule rules[];
};

static int bpf_call(int cmd, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static int load(const struct bpf_insn *insns, size_t n)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uintptr_t)insns;
	attr.insn_cnt = (uint32_t)n;
	attr.license = (uintptr_t)"MIT";
	return bpf_call(BPF_PROG_LOAD, &attr);	/* close-on-exec by itself */
}

enum { CTX = BPF_REG_1, TYPE = BPF_REG_2, WANT = BPF_REG_3, MAJOR = BPF_REG_4, MINOR = BPF_REG_5 };
#define INSN(code_, dst, src, off_, imm_) \
	((struct bpf_insn){ .code = (code_), .dst_reg = (dst), .src_reg = (src), .off = (int16_t)(off_), .imm = (int32_t)(imm_) })
#define LOAD32(dst, field)	INSN(BPF_LDX | BPF_MEM | BPF_W, dst, CTX, offsetof(struct bpf_cgroup_dev_ctx, field), 0)
#define OP32(op, reg, v)	INSN(BPF_ALU | BPF_K | (op), reg, 0, 0, v)
#define JUMP32(op, reg, v, to)	INSN(BPF_JMP32 | BPF_K | (op), reg, 0, to, v)
#define RETURN_MAX 2
#define RULE_MAX 8

static size_t put_return(struct bpf_insn *p, int verdict)
{
	p[0] = INSN(BPF_ALU64 | BPF_K | BPF_MOV, BPF_REG_0, 0, 0, verdict);
	p[1] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	return RETURN_MAX;
}

/* One rule; falls through to the next (earlier) one when it does not decide everything. */
static size_t put_rule(struct bpf_insn *out, const struct fctr_devrule *r)
{
	uint32_t access = (r->access & R_MKNOD ? BPF_DEVCG_ACC_MKNOD : 0) | (r->access & R_READ ? BPF_DEVCG_ACC_READ : 0) |
			  (r->access & R_WRITE ? BPF_DEVCG_ACC_WRITE : 0);
	struct bpf_insn tests[3];
	size_t n_tests = 0, n = 0;
	const size_t body = 2 + RETURN_MAX;	/* of either kind */

	if (r->type != 'a')
		tests[n_tests++] = JUMP32(BPF_JNE, TYPE, r->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR, 0);
	if (r->major >= 0)
		tests[n_tests++] = JUMP32(BPF_JNE, MAJOR, (uint32_t)r->major, 0);
	if (r->minor >= 0)
		tests[n_tests++] = JUMP32(BPF_JNE, MINOR, (uint32_t)r->minor, 0);
	for (; n < n_tests; n++) {
		out[n] = tests[n];
		out[n].off = (int16_t)(n_tests - n - 1 + body);
	}
	if (r->allow) {		/* these bits are settled; when none is left, the access is granted */
		out[n++] = OP32(BPF_AND, WANT, ~access & 7u);
		out[n++] = JUMP32(BPF_JNE, WANT, 0, RETURN_MAX);
		return n + put_return(out + n, 1);
	}
	/* A denied bit among those not settled by a later rule: refused. */
	out[n++] = INSN(BPF_JMP | BPF_K | BPF_JSET, WANT, 0, 1, access);
	out[n++] = INSN(BPF_JMP | BPF_JA, 0, 0, RETURN_MAX, 0);
	return n + put_return(out + n, 0);
}

static int compile(const struct fctr_devrule *rules, size_t n_rules)
{
	cleanup_free struct bpf_insn *p = calloc(8 + n_rules * RULE_MAX, sizeof(*p));
	size_t n = 0;

	if (!p)
		return -1;
	p[n++] = LOAD32(TYPE, access_type);
	p[n++] = INSN(BPF_ALU64 | BPF_X | BPF_MOV, WANT, TYPE, 0, 0);
	p[n++] = OP32(BPF_AND, TYPE, 0xffff);
	p[n++] = OP32(BPF_RSH, WANT, 16);
	p[n++] = LOAD32(MAJOR, major);
	p[n++] = LOAD32(MINOR, minor);
	for (size_t i = n_rules; i-- > 0; )
		n += put_rule(p + n, &rules[i]);
	n += put_return(p + n, 0);
	return load(p, n);
}

static bool same_rules(const struct fctr_devrule *a, const struct fctr_devrule *b, size_t n)
{
	for (size_t i = 0; i < n; i++)	/* field by field: there is padding */
		if (a[i].allow != b[i].allow || a[i].type != b[i].type || a[i].major != b[i].major ||
		    a[i].minor != b[i].minor || a[i].access != b[i].access)
			return false;
	return true;
}

static int load_fail(int e, struct fctr_error *err)
{
	if (e == EPERM || e == EACCES)
		return fctr_fail(err, FCTR_ST_LIMIT, e, "devices: a device policy on cgroup v2 is a BPF program, "
				 "and loading one takes CAP_BPF and CAP_NET_ADMIN (root)");
	if (e == EINVAL || e == ENOSYS)
		return fctr_fail(err, FCTR_ST_LIMIT, e, "devices: this kernel has no BPF device policies for groups");
	return fctr_fail(err, FCTR_ST_LIMIT, e, "devices: the policy cannot be loaded");
}

int fctr_cg_dev_v2_check(struct fctr_error *err)
{
	struct bpf_insn p[RETURN_MAX];
	cleanup_close int fd = load(p, put_return(p, 1));

	return fd < 0 ? load_fail(errno, err) : 0;
}

int fctr_cg_dev_v2(struct fctr_cgroot *root, int dirfd, const struct fctr_devrule *rules, size_t n,
		   struct fctr_error *err)
{
	struct fctr_devprog *prog;
	union bpf_attr attr;
	int e = 0;

	if (check_rules(rules, n, err) < 0)
		return -1;
	pthread_mutex_lock(&root->lock);
	for (prog = root->progs; prog && !(prog->n == n && same_rules(prog->rules, rules, n)); prog = prog->next)
		;
	if (!prog) {
		prog = malloc(sizeof(*prog) + n * sizeof(*rules));
		if (prog) {
			prog->n = n;
			memcpy(prog->rules, rules, n * sizeof(*rules));
			prog->fd = compile(rules, n);
			e = prog->fd < 0 ? errno : 0;
		} else {
			e = ENOMEM;
		}
		if (e) {
			free(prog);
			prog = NULL;
		} else {
			prog->next = root->progs;
			root->progs = prog;
		}
	}
	pthread_mutex_unlock(&root->lock);
	if (!prog)
		return load_fail(e, err);
	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (uint32_t)dirfd;
	attr.attach_bpf_fd = (uint32_t)prog->fd;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;	/* beside what a parent (systemd) has: both must allow */
	if (bpf_call(BPF_PROG_ATTACH, &attr) < 0)
		return fctr_fail(err, FCTR_ST_LIMIT, errno, "devices: the policy cannot be attached to the group");
	return 0;
}

void fctr_cg_dev_free(struct fctr_cgroot *root)
{
	while (root->progs) {
		struct fctr_devprog *next = root->progs->next;

		close(root->progs->fd);
		free(root->progs);
		root->progs = next;
	}
}
