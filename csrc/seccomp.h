/* seccomp.h: a system call policy compiled to a classic BPF program, small and quick to load.
 *
 * The kernel checks, translates and JIT-compiles a filter each time it is loaded, and then runs it
 * once for every system call number of every ABI to find those that are always allowed. That is
 * paid by each container start: what counts is how many instructions a number passes through, then
 * how long the program is. So each ABI gets a search tree over ranges of numbers with one verdict,
 * weighted by the width of the ranges. Meaning is that of libseccomp (seccomp_rule_add(3)) as runc
 * uses it. See seccomp(2), and the kernel's seccomp_filter.rst.
 */
#ifndef FCTR_SECCOMP_H
#define FCTR_SECCOMP_H

#include "fctr.h"

enum fctr_seccomp_action {
	FCTR_SC_KILL_PROCESS, FCTR_SC_KILL_THREAD, FCTR_SC_TRAP, FCTR_SC_ERRNO, FCTR_SC_NOTIFY,
	FCTR_SC_TRACE, FCTR_SC_LOG, FCTR_SC_ALLOW, FCTR_SC_ACTIONS
};

enum fctr_seccomp_op {	/* the numbers of libseccomp's enum scmp_compare */
	FCTR_SC_NE = 1, FCTR_SC_LT, FCTR_SC_LE, FCTR_SC_EQ, FCTR_SC_GE, FCTR_SC_GT,
	FCTR_SC_MASKED_EQ,	/* (argument & value) == (value2 & value) */
	/* or-ed to one of these: only the low 32 bits count, as they do in the kernel for an argument of
	 * type int. Without, socket(2) with family 2^32 + 40 is not family 40 to the filter, but is to
	 * the kernel. */
	FCTR_SC_LOW32 = 0x100
};

enum fctr_seccomp_arch {
	FCTR_SC_X86_64, FCTR_SC_X86, FCTR_SC_X32, FCTR_SC_AARCH64, FCTR_SC_ARM, FCTR_SC_ARCHS,
	FCTR_SC_NO_X32 = FCTR_SC_ARCHS	/* x32 calls get ENOSYS, as from a kernel built without them */
};

struct fctr_seccomp_arg {	/* unsigned; 64 bits on x86_64 and aarch64, the low 32 elsewhere */
	unsigned index;		/* 0..5, each at most once in a rule */
	int op;
	uint64_t value, value2;
};

struct fctr_seccomp_rule {	/* matches if every argument comparison does */
	const char *const *names; size_t n_names;	/* unknown ones are passed over */
	int action;
	unsigned data;		/* ERRNO: 0..4095; TRACE: 0..65535; else ignored */
	const struct fctr_seccomp_arg *args; size_t n_args;
};

struct fctr_seccomp_profile {
	int default_action;
	unsigned default_data;
	const int *archs; size_t n_archs;	/* enum fctr_seccomp_arch, the machine's own first */
	const struct fctr_seccomp_rule *rules; size_t n_rules;
};

/* Compile. *prog is struct sock_filter[*count], from malloc. Beside the rules:
 *   - a call of an ABI that is not listed kills the process (x32 too, unless FCTR_SC_X32 or _NO_X32 is);
 *   - an unconditional rule beats the conditional ones of its call, and the first of several counts;
 *   - of conditional rules the first one in the list that matches counts;
 *   - unless the default is to let calls through (ALLOW, LOG, TRACE), a number above the largest the
 *     policy names gets ENOSYS, so that programs fall back from calls newer than the policy.
 * -1 with FCTR_ST_SECCOMP (EINVAL: what is wrong; E2BIG: over 4096 instructions) or FCTR_ST_MEMORY. */
int fctr_seccomp_compile(const struct fctr_seccomp_profile *p, void **prog, size_t *count,
			 struct fctr_error *err);

/* The number of a call on an ABI, as the kernel sees it in seccomp_data.nr (x32 with bit 30 set);
 * below -1: one the ABI has only through socketcall(2) or ipc(2), or not at all; -1: no such name. */
int fctr_seccomp_number(int arch, const char *name);

/* The i386 call that does directly what such a number below -1 stands for, or 0. */
int fctr_seccomp_i386_direct(int number);

#endif
