/* Our filters against libseccomp's: both programs are run by an interpreter over all system call
 * numbers of every ABI, with arguments around every value compared.
 *
 *   test_seccomp [profiles [seed]]     random profiles (default 300), then the fixed cases
 *   test_seccomp load N FILE…          how long seccomp(2) takes to load raw programs
 *
 * Built with -DSHARED it is a library for tests/unit/test_seccomp.py. Needs csrc/{seccomp,bpf_build,error}.c
 * and libseccomp.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../csrc/seccomp.h"

#define BAD 0xdeadbeefu		/* a program that does what the kernel would refuse */

uint32_t t_run(const struct sock_filter *prog, size_t count, const struct seccomp_data *data, unsigned *steps)
{
	uint32_t a = 0;

	for (size_t pc = 0; pc < count; pc++) {
		const struct sock_filter *i = &prog[pc];
		bool taken;

		if (steps)
			++*steps;
		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (i->k % 4 || i->k + 4 > sizeof(*data))
				return BAD;
			memcpy(&a, (const char *)data + i->k, 4);
			continue;
		case BPF_RET | BPF_K:
			return i->k;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= i->k;
			continue;
		case BPF_JMP | BPF_JA:
			pc += i->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K: taken = a == i->k; break;
		case BPF_JMP | BPF_JGE | BPF_K: taken = a >= i->k; break;
		case BPF_JMP | BPF_JGT | BPF_K: taken = a > i->k; break;
		case BPF_JMP | BPF_JSET | BPF_K: taken = (a & i->k) != 0; break;
		default:
			return BAD;
		}
		pc += taken ? i->jt : i->jf;
	}
	return BAD;
}

static const uint32_t scmp_arch[FCTR_SC_ARCHS] = {
	SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_X32, SCMP_ARCH_AARCH64, SCMP_ARCH_ARM };
static const uint32_t audit_arch[FCTR_SC_ARCHS] = {
	AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64, AUDIT_ARCH_ARM };

static uint32_t scmp_action(int action, unsigned data)
{
	switch (action) {
	case FCTR_SC_KILL_PROCESS: return SCMP_ACT_KILL_PROCESS;
	case FCTR_SC_KILL_THREAD: return SCMP_ACT_KILL_THREAD;
	case FCTR_SC_TRAP: return SCMP_ACT_TRAP;
	case FCTR_SC_ERRNO: return SCMP_ACT_ERRNO(data);
	case FCTR_SC_NOTIFY: return SCMP_ACT_NOTIFY;
	case FCTR_SC_TRACE: return SCMP_ACT_TRACE(data);
	case FCTR_SC_LOG: return SCMP_ACT_LOG;
	default: return SCMP_ACT_ALLOW;
	}
}

/* The same by libseccomp; *prog from malloc. optimize: SCMP_FLTATR_CTL_OPTIMIZE. Returns 0 or -errno. */
int t_reference(const struct fctr_seccomp_profile *p, int optimize, void **prog, size_t *count)
{
	scmp_filter_ctx ctx = seccomp_init(scmp_action(p->default_action, p->default_data));
	int rc = -ENOMEM, fd = memfd_create("bpf", MFD_CLOEXEC);
	off_t size;

	if (!ctx || fd < 0)
		goto out;
	seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, (uint32_t)optimize);
	seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE);
	for (size_t i = 0; i < p->n_archs; i++) {
		rc = seccomp_arch_add(ctx, scmp_arch[p->archs[i]]);
		if (rc < 0)
			goto out;
	}
	for (size_t i = 0; i < p->n_rules; i++) {
		const struct fctr_seccomp_rule *r = &p->rules[i];
		uint32_t action = scmp_action(r->action, r->data);
		struct scmp_arg_cmp args[6];

		if (action == scmp_action(p->default_action, p->default_data))
			continue;
		for (size_t a = 0; a < r->n_args; a++)
			args[a] = (struct scmp_arg_cmp){ r->args[a].index, (enum scmp_compare)r->args[a].op,
							 r->args[a].value, r->args[a].value2 };
		for (size_t n = 0; n < r->n_names; n++) {
			int nr = seccomp_syscall_resolve_name(r->names[n]);

			if (nr == __NR_SCMP_ERROR)
				continue;
			rc = seccomp_rule_add_array(ctx, action, nr, (unsigned)r->n_args, args);
			if (rc < 0 && rc != -EDOM)
				goto out;
		}
	}
	rc = seccomp_export_bpf(ctx, fd);
	if (rc < 0)
		goto out;
	size = lseek(fd, 0, SEEK_END);
	*prog = malloc((size_t)size);
	*count = (size_t)size / sizeof(struct sock_filter);
	rc = pread(fd, *prog, (size_t)size, 0) == size ? 0 : -EIO;
out:
	if (ctx)
		seccomp_release(ctx);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* ---- comparing ----------------------------------------------------------------------- */

/* Resolved once a profile: the oracle asks for the same few names a million times. */
static unsigned era;
static int number(int arch, const char *name)
{
	static struct { const char *name; int arch, nr; unsigned era; } memo[1024];
	size_t h = ((uintptr_t)name / 2 * 7 + (size_t)arch * 131) % 1024;

	if (memo[h].name != name || memo[h].arch != arch || memo[h].era != era) {
		memo[h].name = name;
		memo[h].arch = arch;
		memo[h].era = era;
		memo[h].nr = fctr_seccomp_number(arch, name);
	}
	return memo[h].nr;
}

struct samples { uint64_t v[6][96]; size_t n[6]; };

static void sample(struct samples *s, unsigned index, uint64_t v)
{
	const uint64_t around[] = { v, v - 1, v + 1, v ^ 1ull << 32, v + (1ull << 32), v - (1ull << 32),
		(uint32_t)v, v | ~0xffffffffull, v << 32 | v >> 32 };

	for (size_t i = 0; i < sizeof(around) / sizeof(*around) && s->n[index] < 96; i++)
		s->v[index][s->n[index]++] = around[i];
}

static bool names(const struct fctr_seccomp_rule *r, int arch, uint32_t nr)
{
	for (size_t i = 0; i < r->n_names; i++) {
		int n = number(arch, r->names[i]);

		if ((uint32_t)n == nr || n < -99)	/* the last: through socketcall or ipc */
			return true;
	}
	return false;
}

static uint64_t state = 1;
static uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * 0x2545f4914f6cdd1dull;
}

static int explain(const struct fctr_seccomp_profile *p, int arch, const struct seccomp_data *d, uint32_t ours,
		   uint32_t theirs)
{
	for (size_t i = 0; i < p->n_rules; i++) {
		if (!names(&p->rules[i], arch, (uint32_t)d->nr))
			continue;
		fprintf(stderr, "rule %zu (%s …): action %d, %u:", i, p->rules[i].names[0], p->rules[i].action,
			p->rules[i].data);
		for (size_t a = 0; a < p->rules[i].n_args; a++)
			fprintf(stderr, " [arg %u op %d %#llx %#llx]", p->rules[i].args[a].index,
				p->rules[i].args[a].op, (unsigned long long)p->rules[i].args[a].value,
				(unsigned long long)p->rules[i].args[a].value2);
		fputc('\n', stderr);
	}
	fprintf(stderr, "arch %x nr %#x args", d->arch, (unsigned)d->nr);
	for (int i = 0; i < 6; i++)
		fprintf(stderr, " %#llx", (unsigned long long)d->args[i]);
	fprintf(stderr, ": ours %#x, libseccomp's %#x\n", ours, theirs);
	return 1;
}

static bool listed(const struct fctr_seccomp_profile *p, int arch)
{
	for (size_t i = 0; i < p->n_archs; i++)
		if (p->archs[i] == arch)
			return true;
	return false;
}

/* ---- what the policy says, read rule by rule ----------------------------------------- */

static bool holds(const struct fctr_seccomp_arg *a, uint64_t v, bool wide)
{
	uint64_t x = a->value, y = a->value2;

	if (!wide || (a->op & FCTR_SC_LOW32)) {
		x = (uint32_t)x;
		y = (uint32_t)y;
		v = (uint32_t)v;
	}
	switch (a->op & ~FCTR_SC_LOW32) {
	case FCTR_SC_NE: return v != x;
	case FCTR_SC_LT: return v < x;
	case FCTR_SC_LE: return v <= x;
	case FCTR_SC_EQ: return v == x;
	case FCTR_SC_GE: return v >= x;
	case FCTR_SC_GT: return v > x;
	default: return (v & x) == (y & x);
	}
}

static uint32_t raw(int action, unsigned data)
{
	static const uint32_t rets[] = { 0x80000000, 0, 0x30000, 0x50000, 0x7fc00000, 0x7ff00000, 0x7ffc0000, 0x7fff0000 };

	return rets[action] | (action == FCTR_SC_ERRNO || action == FCTR_SC_TRACE ? data : 0);
}

/* false: an i386 call that other names reach through socketcall or ipc; libseccomp is asked instead */
static bool oracle(const struct fctr_seccomp_profile *p, int arch, const struct seccomp_data *d, uint32_t *verdict)
{
	uint32_t def = raw(p->default_action, p->default_data), first = def;
	bool matched = false;

	for (size_t i = 0; i < p->n_rules; i++) {
		const struct fctr_seccomp_rule *r = &p->rules[i];
		uint32_t ret = raw(r->action, r->data);
		bool wide = arch == FCTR_SC_X86_64 || arch == FCTR_SC_AARCH64;
		bool all = true, here = false, always = true;

		for (size_t n = 0; n < r->n_names; n++) {
			int nr = number(arch, r->names[n]);

			if (arch == FCTR_SC_X86 && nr <= -100 && nr > -300)
				return false;
			here |= nr == d->nr && nr >= 0;
		}
		if (!here || ret == def)
			continue;
		for (size_t a = 0; a < r->n_args; a++) {
			all &= holds(&r->args[a], d->args[r->args[a].index], wide);
			always &= (r->args[a].op & ~FCTR_SC_LOW32) == FCTR_SC_MASKED_EQ &&
				  !(wide && !(r->args[a].op & FCTR_SC_LOW32) ? r->args[a].value : (uint32_t)r->args[a].value);
		}
		if (always) {
			*verdict = ret;
			return true;
		}
		if (all && !matched) {
			matched = true;
			first = ret;
		}
	}
	*verdict = first;
	return true;
}

static int probe(const struct fctr_seccomp_profile *p, int arch, uint32_t audit, uint32_t nr,
		 const void *ours, size_t n_ours, const void *theirs, size_t n_theirs, bool enosys)
{
	static const uint64_t constants[] = { 0, 1, 2, 3, 20, 21, 22, 23, 24, 0xffffffff, 1ull << 32, ~0ull };
	struct samples s = { .n = { 0 } };
	struct seccomp_data d = { .nr = (int)nr, .arch = audit };
	bool named = false;

	for (size_t i = 0; i < p->n_rules; i++) {
		if (p->rules[i].n_args == 0 || !names(&p->rules[i], arch, nr))
			continue;
		named = true;
		for (size_t a = 0; a < p->rules[i].n_args; a++) {
			sample(&s, p->rules[i].args[a].index, p->rules[i].args[a].value);
			sample(&s, p->rules[i].args[a].index, p->rules[i].args[a].value2);
			sample(&s, p->rules[i].args[a].index, p->rules[i].args[a].value2 | ~p->rules[i].args[a].value);
		}
	}
	for (unsigned i = 0; i < 6; i++)
		for (size_t k = 0; k < sizeof(constants) / sizeof(*constants) && s.n[i] < 96; k++)
			s.v[i][s.n[i]++] = constants[k];
	for (int round = 0; round < (named ? 200 : 3); round++) {
		uint32_t a, b;

		for (unsigned i = 0; i < 6; i++)
			d.args[i] = s.v[i][rnd() % s.n[i]];
		a = t_run(ours, n_ours, &d, NULL);
		if (!theirs) {
			if (audit != audit_arch[arch] || !listed(p, arch) || (arch == FCTR_SC_X86_64 && nr >> 30))
				continue;
			if (enosys)
				b = SECCOMP_RET_ERRNO | ENOSYS;
			else if (!oracle(p, arch, &d, &b))
				continue;
			if (a != b)
				return explain(p, arch, &d, a, b);
			continue;
		}
		b = enosys ? SECCOMP_RET_ERRNO | ENOSYS : t_run(theirs, n_theirs, &d, NULL);
		if (a != b)
			return explain(p, arch, &d, a, b);
	}
	return 0;
}

static uint32_t largest(const struct fctr_seccomp_profile *p, int arch)
{
	int max = 0;

	for (size_t i = 0; i < p->n_rules; i++)
		for (size_t n = 0; n < p->rules[i].n_names; n++) {
			int nr = number(arch, p->rules[i].names[n]);
			if (arch == FCTR_SC_X86 && nr < -1)
				nr = fctr_seccomp_i386_direct(nr);
			max = nr > max ? nr : max;
		}
	return (uint32_t)max;
}

/* 0 if both programs say the same of every call; theirs NULL: if ours says what the policy does. */
int t_compare(const struct fctr_seccomp_profile *p, const void *ours, size_t n_ours, const void *theirs,
	      size_t n_theirs)
{
	static const uint32_t far[] = { 601, 1024, 0xf0000, 0xf0001, 0xf0005, 0xf0006, 0x3fffffff, 0x80000000, 0xfffffffe,
		0xffffffff };
	bool lenient = p->default_action >= FCTR_SC_TRACE;
	int bad = 0;

	era++;
	for (int arch = 0; arch < FCTR_SC_ARCHS; arch++) {
		uint32_t base = arch == FCTR_SC_X32 ? 0x40000000 : 0, max = largest(p, arch);

		for (uint32_t i = 0; i <= 600 && !bad; i++)
			bad = probe(p, arch, audit_arch[arch], base + i, ours, n_ours, theirs, n_theirs,
				    listed(p, arch) && !lenient && max != 0 && base + i > max);
		for (size_t i = 0; i < sizeof(far) / sizeof(*far) && !bad; i++) {
			/* numbers with the x32 bit are x32's, and above all of its */
			bool other = (arch == FCTR_SC_X86_64 || arch == FCTR_SC_X32) && far[i] >= 0x40000000;
			uint32_t m = other ? largest(p, FCTR_SC_X32) : max;
			bool here = listed(p, other ? FCTR_SC_X32 : arch);

			if (arch == FCTR_SC_X32 && !other)
				continue;
			bad = probe(p, arch, audit_arch[arch], far[i], ours, n_ours, theirs, n_theirs,
				    here && !lenient && m != 0 && far[i] > m);
		}
	}
	for (uint32_t i = 0; i < 500 && !bad; i += 7)
		bad = probe(p, 0, AUDIT_ARCH_PPC64, i, ours, n_ours, theirs, n_theirs, false);
	return bad;
}

void t_free(void *p) { free(p); }

double t_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

#ifndef SHARED

/* ---- random profiles ----------------------------------------------------------------- */

static const char *const pool[] = {
	"read", "write", "open", "close", "stat", "mmap", "rt_sigaction", "ioctl", "socket", "connect", "accept",
	"accept4", "sendto", "bind", "recv", "msgget", "semop", "shmat", "clone", "fork", "execve", "personality",
	"chown32", "setuid32", "futex", "futex_time64", "prctl", "openat", "pselect6", "clone3", "futex_waitv",
	"process_vm_readv", "ipc", "socketcall", "set_tls", "getpid", "uname", "nosuchcall", "io_uring_setup",
	"statx", "arch_prctl", "_llseek", "time", "keyctl", "ptrace", "mount", "reboot", "kexec_load", "clock_settime64",
};

struct storage {
	struct fctr_seccomp_profile p;
	struct fctr_seccomp_rule rules[64];
	struct fctr_seccomp_arg args[64][6];
	const char *names[64][24];
	int archs[3];
};

static uint64_t value(void)
{
	switch (rnd() % 6) {
	case 0: return 0;
	case 1: return rnd() % 8;
	case 2: return rnd() & 0xffffffff;
	case 3: return rnd();
	case 4: return 1ull << rnd() % 64;
	default: return (rnd() % 3) << 32 | rnd() % 3;
	}
}

/* Has a number only on ABIs of another machine: libseccomp keeps such rules where there is no code for
 * it, with the same effect as above. */
static bool other_abi(const char *name)
{
	return fctr_seccomp_number(FCTR_SC_AARCH64, name) < -1 || fctr_seccomp_number(FCTR_SC_X86_64, name) < -1;
}

/* libseccomp merges a call's conditional rules into one tree and does not always come out with what
 * they say one by one: after a first comparison held it does not come back to rules with other ones,
 * and a 64-bit ordered comparison does not go on to the arguments after it. So with reference a call
 * has one rule with one comparison, or one with several that are no ordered ones, or several with
 * equalities of one argument. Without, anything goes and the policy itself is asked. */
static void random_profile(struct storage *s, bool reference)
{
	static const int sets[][4] = { { 0, -1 }, { 0, 1, -1 }, { 0, 1, 2, -1 }, { 1, -1 }, { 2, -1 }, { 3, -1 },
		{ 3, 4, -1 }, { 4, -1 }, { 0, 2, -1 }, { 1, 0, -1 } };
	static const int unordered[] = { FCTR_SC_NE, FCTR_SC_EQ, FCTR_SC_MASKED_EQ };
	const size_t n_pool = sizeof(pool) / sizeof(*pool);
	const int *set = sets[rnd() % 10];
	bool used[sizeof(pool) / sizeof(*pool)] = { false };
	size_t again = n_pool;
	size_t rules = rnd() % (rnd() % 4 ? 12 : 60) + 1;

	memset(s, 0, sizeof(*s));
	s->p.default_action = (int)(rnd() % FCTR_SC_ACTIONS);
	s->p.default_data = (unsigned)(rnd() % 4096);
	for (s->p.n_archs = 0; set[s->p.n_archs] >= 0; s->p.n_archs++)
		s->archs[s->p.n_archs] = set[s->p.n_archs];
	s->p.archs = s->archs;
	s->p.rules = s->rules;
	for (size_t i = 0; i < rules; i++) {
		struct fctr_seccomp_rule *r = &s->rules[s->p.n_rules];
		const char **names = s->names[s->p.n_rules];
		struct fctr_seccomp_arg *args = s->args[s->p.n_rules];
		bool conditional = rnd() % 3 != 0;
		size_t pick = rnd() % n_pool;
		unsigned index = (unsigned)(rnd() % 3);

		r->names = names;
		r->args = args;
		r->action = (int)(rnd() % FCTR_SC_ACTIONS);
		r->data = (unsigned)(rnd() % 4096);
		r->n_names = conditional ? (reference ? 1 : 1 + rnd() % 3) : 1 + rnd() % 24;
		for (size_t n = 0; n < r->n_names; n++)
			do	/* libseccomp forgets to load the number if the first of a filter is one of these */
				names[n] = pool[n ? rnd() % n_pool : pick];
			while (reference && (!strcmp(names[n], "accept") || !strcmp(names[n], "semop") ||
					     !strcmp(names[n], "recv") || other_abi(names[n])) && (pick = rnd() % n_pool, true));
		if (conditional && reference) {
			size_t max = 1 + rnd() % 3;

			if (again < n_pool) {	/* one more equality for the call of the last rule */
				names[0] = pool[again];
				args[0] = s->args[s->p.n_rules - 1][0];
				args[0].value = value();
				r->action = s->rules[s->p.n_rules - 1].action;
				r->data = s->rules[s->p.n_rules - 1].data;
				r->n_args = 1;
				if (rnd() % 2)
					again = n_pool;
			} else {
				if (used[pick] || !strcmp(names[0], "socketcall") || !strcmp(names[0], "ipc"))
					continue;
				used[pick] = true;
				for (; r->n_args < max && index < 6; index += 1 + (unsigned)(rnd() % 3))
					args[r->n_args++] = (struct fctr_seccomp_arg){ index,
						max == 1 ? (int)(1 + rnd() % 7) : unordered[rnd() % 3], value(), value() };
				if (max == 1 && args[0].op == FCTR_SC_EQ && rnd() % 2)
					again = pick;
			}
		} else if (conditional) {
			for (; r->n_args < 3 && index < 6; index += 1 + (unsigned)(rnd() % 3))
				args[r->n_args++] = (struct fctr_seccomp_arg){ index,
					(int)(1 + rnd() % 7) | (rnd() % 4 ? 0 : FCTR_SC_LOW32), value(), value() };
		} else {
			again = n_pool;
		}
		s->p.n_rules++;
	}
}

static int differential(long rounds)
{
	struct storage *s = malloc(sizeof(*s));
	size_t sum_ours = 0, sum_theirs = 0;
	int failed = 0, done = 0;

	for (long i = 0; i < rounds && failed < 3; i++) {
		void *ours = NULL, *theirs = NULL;
		size_t n_ours = 0, n_theirs = 0;
		struct fctr_error err;
		uint64_t seed = state;
		int rc;

		random_profile(s, i % 3);
		rc = i % 3 == 0 ? 0 : t_reference(&s->p, (int)(i % 3), &theirs, &n_theirs);
		if (fctr_seccomp_compile(&s->p, &ours, &n_ours, &err) < 0) {
			fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, err.what);
			failed++;
		} else if (rc == 0) {
			done++;
			sum_ours += theirs ? n_ours : 0;
			sum_theirs += n_theirs;
			if (t_compare(&s->p, ours, n_ours, theirs, n_theirs)) {
				fprintf(stderr, "seed %llu (profile %ld)\n", (unsigned long long)seed, i);
				failed++;
			}
		}
		free(ours);
		free(theirs);
	}
	printf("%d random profiles, %d failed; instructions: ours %zu, libseccomp's %zu\n", done, failed, sum_ours,
	       sum_theirs);
	free(s);
	return failed;
}

/* ---- how long the kernel takes ------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int load_times(int n, int files, char **path)
{
	double *us = mmap(NULL, sizeof(*us) * (size_t)(n * files), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sock_fprog *progs = calloc((size_t)files, sizeof(*progs));

	if (us == MAP_FAILED || !progs)
		return 1;
	for (int f = 0; f < files; f++) {
		int fd = open(path[f], O_RDONLY | O_CLOEXEC);
		ssize_t size;

		progs[f].filter = malloc(BPF_MAXINSNS * sizeof(struct sock_filter));
		size = read(fd, progs[f].filter, BPF_MAXINSNS * sizeof(struct sock_filter));
		if (size <= 0)
			return 1;
		progs[f].len = (unsigned short)((size_t)size / sizeof(struct sock_filter));
		close(fd);
	}
	for (int i = 0; i < n; i++) {	/* interleaved */
		for (int f = 0; f < files; f++) {
			int status = 0;
			pid_t pid = fork();

			if (pid == 0) {
				double start;

				prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
				start = t_now();
				if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &progs[f]))
					_exit(1);
				us[f * n + i] = t_now() - start;
				_exit(0);
			}
			if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
				return 1;
		}
	}
	for (int f = 0; f < files; f++) {
		qsort(us + f * n, (size_t)n, sizeof(*us), by_value);
		printf("%-32s %4u instructions, load µs p10 %.1f p50 %.1f p90 %.1f\n", path[f], progs[f].len,
		       us[f * n + n / 10], us[f * n + n / 2], us[f * n + n * 9 / 10]);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[1], "load") && atoi(argv[2]) > 0)
		return load_times(atoi(argv[2]), argc - 3, argv + 3);
	if (argc > 2)
		state = strtoull(argv[2], NULL, 0) ?: 1;
	return differential(argc > 1 ? atol(argv[1]) : 300) != 0;
}
#endif
