/* seccomp.c: from rules by name to one search tree per ABI. The program is written by bpf_build.c. */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <seccomp.h>

#include "bpf_build.h"
#include "seccomp.h"
#include "util.h"

#define X32_BIT 0x40000000u

static const struct arch {
	uint32_t audit;		/* what seccomp_data.arch says */
	uint32_t scmp;
	bool wide;
} arches[FCTR_SC_ARCHS] = {
	[FCTR_SC_X86_64] = { AUDIT_ARCH_X86_64, SCMP_ARCH_X86_64, true },
	[FCTR_SC_X86] = { AUDIT_ARCH_I386, SCMP_ARCH_X86, false },
	[FCTR_SC_X32] = { AUDIT_ARCH_X86_64, SCMP_ARCH_X32, false },
	[FCTR_SC_AARCH64] = { AUDIT_ARCH_AARCH64, SCMP_ARCH_AARCH64, true },
	[FCTR_SC_ARM] = { AUDIT_ARCH_ARM, SCMP_ARCH_ARM, false },
};

/* Calls younger than the libseccomp we may be built with. From 424 on every ABI has the same numbers. */
static const struct { const char *name; int number; } younger[] = {
	{ "cachestat", 451 }, { "fchmodat2", 452 }, { "map_shadow_stack", 453 }, { "futex_wake", 454 },
	{ "futex_wait", 455 }, { "futex_requeue", 456 }, { "statmount", 457 }, { "listmount", 458 },
	{ "lsm_get_self_attr", 459 }, { "lsm_set_self_attr", 460 }, { "lsm_list_modules", 461 },
	{ "mseal", 462 }, { "setxattrat", 463 }, { "getxattrat", 464 }, { "listxattrat", 465 },
	{ "removexattrat", 466 }, { "open_tree_attr", 467 }, { "file_getattr", 468 }, { "file_setattr", 469 },
};

int fctr_seccomp_number(int arch, const char *name)
{
	int nr;

	if (arch < 0 || arch >= FCTR_SC_ARCHS)
		return -1;
	nr = seccomp_syscall_resolve_name_arch(arches[arch].scmp, name);
	if (nr != __NR_SCMP_ERROR)
		return nr;
	if (arch == FCTR_SC_X86_64 && !strcmp(name, "uretprobe"))
		return 335;
	for (size_t i = 0; i < ARRAY_LEN(younger); i++)
		if (!strcmp(name, younger[i].name))
			return younger[i].number | (arch == FCTR_SC_X32 ? (int)X32_BIT : 0);
	return -1;
}

/* i386 reaches sockets and SysV IPC in two ways: by socketcall(2) and ipc(2) with the operation as
 * their first argument, and by calls of their own. libseccomp calls operation n of socketcall
 * -(100 + n), of ipc -(200 + n); a rule for one holds for both. */
#define I386_SOCKETCALL 102
#define I386_IPC 117

int fctr_seccomp_i386_direct(int pseudo)
{
	static const int16_t sock[] = { [1] = 359, [2] = 361, [3] = 362, [4] = 363, [6] = 367, [7] = 368,
		[8] = 360, [11] = 369, [12] = 371, [13] = 373, [14] = 366, [15] = 365, [16] = 370,
		[17] = 372, [18] = 364, [19] = 337, [20] = 345 };
	static const int16_t ipc[] = { [2] = 393, [3] = 394, [11] = 400, [12] = 401, [13] = 399,
		[14] = 402, [21] = 397, [22] = 398, [23] = 395, [24] = 396 };

	if (pseudo > -100 || pseudo <= -300)
		return 0;
	if (pseudo <= -200)
		return (size_t)(-pseudo - 200) < ARRAY_LEN(ipc) ? ipc[-pseudo - 200] : 0;
	return (size_t)(-pseudo - 100) < ARRAY_LEN(sock) ? sock[-pseudo - 100] : 0;
}

/* ---- rules by number ----------------------------------------------------------------- */

struct use {		/* one rule for one number of one ABI */
	uint32_t nr, seq, ret;
	const struct fctr_seccomp_rule *rule;
	int mux;	/* i386: the operation that argument 0 has to be, or 0 */
};

struct build {
	const struct fctr_seccomp_profile *profile;
	struct bpf_out out;
	struct use *uses;
	struct bpf_segment *segs;
	size_t n_uses, n_segs, max_uses;
	uint32_t default_ret;
};

static int action_ret(int action, unsigned data, uint32_t *ret)
{
	static const uint32_t rets[FCTR_SC_ACTIONS] = {
		SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
		SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW,
	};

	if (action < 0 || action >= FCTR_SC_ACTIONS)
		return -1;
	*ret = rets[action];
	if (action == FCTR_SC_ERRNO || action == FCTR_SC_TRACE) {
		if (data > (action == FCTR_SC_ERRNO ? 4095u : 65535u))
			return -1;
		*ret |= data;
	}
	return 0;
}

static int check(const struct fctr_seccomp_profile *p, struct build *b, struct fctr_error *err)
{
	uint32_t ret;

	if (action_ret(p->default_action, p->default_data, &b->default_ret) < 0)
		return fctr_fail(err, FCTR_ST_SECCOMP, EINVAL, "default action %d (%u)", p->default_action,
				 p->default_data);
	if (p->n_archs == 0)
		return fctr_fail(err, FCTR_ST_SECCOMP, EINVAL, "no architecture");
	for (size_t i = 0; i < p->n_archs; i++)
		if (p->archs[i] < 0 || p->archs[i] > FCTR_SC_NO_X32)
			return fctr_fail(err, FCTR_ST_SECCOMP, EINVAL, "architecture %d", p->archs[i]);
	for (size_t i = 0; i < p->n_rules; i++) {
		const struct fctr_seccomp_rule *r = &p->rules[i];
		unsigned seen = 0;

		if (action_ret(r->action, r->data, &ret) < 0)
			return fctr_fail(err, FCTR_ST_SECCOMP, EINVAL, "rule %zu: action %d (%u)", i, r->action,
					 r->data);
		for (size_t a = 0; a < r->n_args; a++) {
			const struct fctr_seccomp_arg *arg = &r->args[a];

			if (arg->index > 5 || (seen & 1u << arg->index))
				return fctr_fail(err, FCTR_ST_SECCOMP, EINVAL, "rule %zu: argument %u %s", i,
						 arg->index, arg->index > 5 ? "is over 5" : "occurs twice");
			int op = arg->op & ~FCTR_SC_LOW32;

			if (op < FCTR_SC_NE || op > FCTR_SC_MASKED_EQ)
				return fctr_fail(err, FCTR_ST_SECCOMP, EINVAL, "rule %zu: operator %d", i, arg->op);
			seen |= 1u << arg->index;
		}
		b->max_uses += r->n_names;
	}
	return 0;
}

static void add_use(struct build *b, uint32_t nr, const struct fctr_seccomp_rule *rule, int mux)
{
	struct use *u = &b->uses[b->n_uses];

	*u = (struct use){ .nr = nr, .seq = (uint32_t)b->n_uses, .rule = rule, .mux = mux };
	action_ret(rule->action, rule->data, &u->ret);
	if (u->ret != b->default_ret)	/* else it says nothing new; runc passes over it too */
		b->n_uses++;
}

static int by_number(const void *x, const void *y)
{
	const struct use *a = x, *b = y;

	if (a->nr != b->nr)
		return a->nr < b->nr ? -1 : 1;
	return a->seq < b->seq ? -1 : 1;
}

/* Everything the policy says about one ABI, sorted. Returns the largest number it names, or 0. */
static int collect(struct build *b, int arch)
{
	int largest = 0;

	b->n_uses = 0;
	for (size_t i = 0; i < b->profile->n_rules; i++) {
		const struct fctr_seccomp_rule *r = &b->profile->rules[i];

		for (size_t n = 0; n < r->n_names; n++) {
			int nr = fctr_seccomp_number(arch, r->names[n]);

			int direct = arch == FCTR_SC_X86 ? fctr_seccomp_i386_direct(nr) : 0;

			if (nr > largest)
				largest = nr;
			if (direct > largest)
				largest = direct;
			if (nr >= 0) {
				add_use(b, (uint32_t)nr, r, 0);
			} else if (arch == FCTR_SC_X86 && nr <= -100 && nr > -300) {
				if (direct)
					add_use(b, (uint32_t)direct, r, 0);
				if (nr <= -200)
					add_use(b, I386_IPC, r, -nr - 200);
				else
					add_use(b, I386_SOCKETCALL, r, -nr - 100);
			}
		}
	}
	qsort(b->uses, b->n_uses, sizeof(*b->uses), by_number);
	return largest;
}

/* ---- what one number gets ------------------------------------------------------------ */

/* A mask of 0 compares nothing: a rule with nothing else to compare is unconditional. */
static bool conditional(const struct use *u, bool wide)
{
	for (size_t a = 0; a < u->rule->n_args; a++) {
		const struct fctr_seccomp_arg *arg = &u->rule->args[a];
		bool all = wide && !(arg->op & FCTR_SC_LOW32);

		if ((arg->op & ~FCTR_SC_LOW32) != FCTR_SC_MASKED_EQ ||
		    (all ? arg->value : (uint32_t)arg->value) != 0)
			return true;
	}
	return u->mux != 0;
}

/* A rule that is one equality of argument `index`; *all: of all its 64 bits. */
static bool is_equality(const struct use *u, bool wide, unsigned *index, bool *all, uint64_t *value)
{
	struct fctr_seccomp_arg arg;

	if (u->mux && (u->rule->n_args == 0 || (u->rule->n_args == 1 && u->rule->args[0].index == 0)))
		arg = (struct fctr_seccomp_arg){ 0, FCTR_SC_EQ, (uint64_t)u->mux, 0 };
	else if (!u->mux && u->rule->n_args == 1)
		arg = u->rule->args[0];
	else
		return false;
	*index = arg.index;
	*all = wide && !(arg.op & FCTR_SC_LOW32);
	*value = *all ? arg.value : (uint32_t)arg.value;
	return (arg.op & ~FCTR_SC_LOW32) == FCTR_SC_EQ;
}

static uint32_t emit_rule(struct bpf_out *o, const struct use *u, bool wide, uint32_t no)
{
	uint32_t label = bpf_ret(o, u->ret);

	for (size_t a = u->rule->n_args; a-- > 0;)
		if (!u->mux || u->rule->args[a].index != 0)
			label = bpf_compare(o, &u->rule->args[a], wide, label, no);
	if (u->mux)
		label = bpf_compare(o, &(struct fctr_seccomp_arg){ 0, FCTR_SC_EQ, (uint64_t)u->mux, 0 }, wide,
				    label, no);
	return label;
}

static struct bpf_leaf leaf_at(const struct bpf_out *o, uint32_t label)
{
	if (BPF_CLASS(o->ins[label].code) == BPF_RET)
		return (struct bpf_leaf){ BPF_LEAF_RET, o->ins[label].k };
	return (struct bpf_leaf){ BPF_LEAF_LABEL, label };
}

/* The verdict on the number that uses[0..n) speak of. */
static struct bpf_leaf verdict(struct build *b, const struct use *uses, size_t n, bool wide)
{
	struct bpf_out *o = &b->out;
	uint32_t label;
	uint64_t values[64];

	for (size_t i = 0; i < n; i++)
		if (!conditional(&uses[i], wide))
			return (struct bpf_leaf){ BPF_LEAF_RET, uses[i].ret };
	label = bpf_ret(o, b->default_ret);
	while (n > 0) {
		unsigned index, other;
		bool all, other_all;
		size_t run = 1;

		/* Neighbours that compare one argument with constants load it once. */
		if (is_equality(&uses[n - 1], wide, &index, &all, &values[0])) {
			while (run < n && run < ARRAY_LEN(values) && uses[n - run - 1].ret == uses[n - 1].ret &&
			       is_equality(&uses[n - run - 1], wide, &other, &other_all, &values[run]) &&
			       other == index && other_all == all && values[run] >> 32 == values[0] >> 32)
				run++;
		}
		if (run > 1)
			label = bpf_compare_any(o, index, values, run, all, bpf_ret(o, uses[n - 1].ret), label);
		else
			label = emit_rule(o, &uses[n - 1], wide, label);
		n -= run;
	}
	return leaf_at(o, label);
}

static void segment(struct build *b, uint32_t first, struct bpf_leaf leaf)
{
	if (b->n_segs && b->segs[b->n_segs - 1].first == first)
		b->n_segs--;
	if (b->n_segs == 0 || !bpf_leaf_same(b->segs[b->n_segs - 1].leaf, leaf))
		b->segs[b->n_segs++] = (struct bpf_segment){ first, leaf };
}

/* The tree of one ABI. beyond: x86_64 only, what numbers with the x32 bit get. */
static uint32_t emit_arch(struct build *b, int arch, const struct bpf_leaf *beyond)
{
	const struct bpf_leaf fallback = { BPF_LEAF_RET, b->default_ret };
	const struct bpf_leaf enosys = { BPF_LEAF_RET, SECCOMP_RET_ERRNO | ENOSYS };
	const struct bpf_leaf kill = { BPF_LEAF_RET, SECCOMP_RET_KILL_PROCESS };
	int def = b->profile->default_action;
	bool lenient = def == FCTR_SC_ALLOW || def == FCTR_SC_LOG || def == FCTR_SC_TRACE;
	int largest = collect(b, arch);
	size_t n;

	b->n_segs = 0;
	segment(b, arch == FCTR_SC_X32 ? X32_BIT : 0, fallback);
	for (size_t i = 0; i < b->n_uses; i += n) {
		for (n = 1; i + n < b->n_uses && b->uses[i + n].nr == b->uses[i].nr;)
			n++;
		segment(b, b->uses[i].nr, verdict(b, &b->uses[i], n, arches[arch].wide));
		segment(b, b->uses[i].nr + 1, fallback);
	}
	if (largest != 0 && !lenient)
		segment(b, (uint32_t)largest + 1, enosys);
	if (beyond) {
		segment(b, X32_BIT, *beyond);
	} else if (arch == FCTR_SC_X86_64) {
		segment(b, X32_BIT, kill);
		segment(b, UINT32_MAX, fallback);	/* -1: a tracer has cancelled the call */
	}
	return bpf_tree(&b->out, b->segs, b->n_segs, arch == FCTR_SC_X32 ? 0 : 512);
}

static bool has_arch(const struct fctr_seccomp_profile *p, int arch)
{
	for (size_t i = 0; i < p->n_archs; i++)
		if (p->archs[i] == arch)
			return true;
	return false;
}

static void emit_program(struct build *b)
{
	const struct fctr_seccomp_profile *p = b->profile;
	struct bpf_out *o = &b->out;
	const uint32_t kill = SECCOMP_RET_KILL_PROCESS;
	uint32_t other = bpf_ret(o, kill), label;
	int order[FCTR_SC_ARCHS];
	size_t n = 0;

	for (size_t i = 0; i < p->n_archs; i++) {	/* x32 calls say they are x86_64 ones */
		bool is_x32 = p->archs[i] == FCTR_SC_X32 || p->archs[i] == FCTR_SC_NO_X32;
		int arch = is_x32 ? FCTR_SC_X86_64 : p->archs[i];
		size_t k = 0;

		while (k < n && order[k] != arch)
			k++;
		if (k == n)
			order[n++] = arch;
	}
	while (n-- > 0) {
		struct bpf_leaf x32 = { BPF_LEAF_RET, kill };
		bool with_x32 = false;

		if (order[n] == FCTR_SC_X86_64 && has_arch(p, FCTR_SC_X32)) {
			x32 = leaf_at(o, emit_arch(b, FCTR_SC_X32, NULL));
			with_x32 = true;
		} else if (order[n] == FCTR_SC_X86_64 && has_arch(p, FCTR_SC_NO_X32)) {
			x32.value = SECCOMP_RET_ERRNO | ENOSYS;
			with_x32 = true;
		}
		if (has_arch(p, order[n]))
			label = emit_arch(b, order[n], with_x32 ? &x32 : NULL);
		else
			label = bpf_jump(o, BPF_JGE, X32_BIT, x32.kind == BPF_LEAF_RET ? bpf_ret(o, x32.value)
					 : x32.value, bpf_ret(o, kill));
		if (label != o->n - 1)	/* a tree that is one shared return */
			bpf_stmt(o, BPF_JMP | BPF_JA, o->n - label - 1);
		label = bpf_load(o, offsetof(struct seccomp_data, nr));
		other = bpf_jump(o, BPF_JEQ, arches[order[n]].audit, label, other);
	}
	bpf_load(o, offsetof(struct seccomp_data, arch));
}

int fctr_seccomp_compile(const struct fctr_seccomp_profile *p, void **prog, size_t *count,
			 struct fctr_error *err)
{
	cleanup_free struct build *b = calloc(1, sizeof(*b));
	cleanup_free struct use *uses = NULL;
	cleanup_free struct bpf_segment *segs = NULL;
	struct sock_filter *out;

	if (!b)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "seccomp program");
	b->profile = p;
	if (check(p, b, err) < 0)
		return -1;
	b->uses = uses = calloc(b->max_uses * 2 + 1, sizeof(*uses));
	b->segs = segs = calloc(b->max_uses * 4 + 8, sizeof(*segs));
	if (!uses || !segs)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "seccomp program");
	emit_program(b);
	if (b->out.overflow)
		return fctr_fail(err, FCTR_ST_SECCOMP, E2BIG,
				 "the policy needs more than %d instructions; use fewer argument rules",
				 BPF_MAXINSNS);
	out = malloc(b->out.n * sizeof(*out));
	if (!out)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "seccomp program");
	for (uint32_t i = 0; i < b->out.n; i++)
		out[i] = b->out.ins[b->out.n - 1 - i];
	*prog = out;
	*count = b->out.n;
	return 0;
}
