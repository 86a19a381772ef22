/* park.c: the process of a prepared container, asleep a few steps before it becomes the job.
 *
 * It is cloned by the background thread, joins what was prepared, gives up what it can and waits on
 * a futex. A launch writes what is its own (descriptors, argv, environment) into memory they share
 * and wakes it. Each is used once. Until then it has the launcher's own user and capabilities, so
 * that nobody who may not trace the launcher may trace it; those go last, as in every start.
 *
 * One word says how far it is. The kernel clears it when the process leaves our memory, at its exec
 * or its end (CLONE_CHILD_CLEARTID), and wakes whoever waits.
 *
 * When a control group is out of memory the kernel kills a process in it and all who share its memory,
 * and that would be the launcher. (A child of vfork it spares, but its parent waits in state D, which
 * counts as load.) So there are none in groups that could run out before the job's exec: those with a
 * small limit, and below one that is limited by somebody else. Those starts clone as ever, by vfork.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/ioprio.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "launch.h"
#include "park.h"
#include "syscalls.h"

enum { GONE, STARTING, PARKED, GO };
#define PAUSE_NS 2000000000LL
#define ROOM (16 << 20)	/* an exec's arguments take 6 MB at most, and little else is in a fresh group */

/* What a child has from its parent that nothing in the plan sets. The launcher may have changed its
 * own since, and a job is to have what a clone now would give it. */
struct inherited {
	int nice, policy, ioprio, personality, securebits, slack, nnp;
	uint64_t limits[RLIM_NLIMITS][2];
	uint64_t cpus[16];
	uint32_t ids[6];
	struct __user_cap_data_struct caps[2];
	char oom[16];
};

struct fctr_park {
	uint32_t word;
	pid_t pid;
	int pidfd;
	struct fctr_run run;
	struct fctr_params params;
	struct fctr_result result;
	struct inherited from;
	uint64_t cpus[16];		/* where it may run, as the plan says */
	long cpus_len;
	int slot[FCTR_SLOT_TREE];
};

static long wait_while(uint32_t *word, uint32_t value)
{
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value)
		sys4(SYS_futex, word, FUTEX_WAIT, value, NULL);	/* also EINTR: look again */
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void tell(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	sys3(SYS_futex, word, FUTEX_WAKE, 1);
}

/* ---- what is inherited ----------------------------------------------------------------- */

static void read_inherited(struct inherited *in, int oom_fd)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	ssize_t n;

	memset(in, 0, sizeof(*in));
	in->nice = (int)sys2(SYS_getpriority, 0, 0);
	in->policy = (int)sys1(SYS_sched_getscheduler, 0);
	in->ioprio = (int)sys2(SYS_ioprio_get, 1, 0);
	in->personality = (int)sys1(SYS_personality, 0xffffffffL);
	in->securebits = (int)sys5(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0);
	in->slack = (int)sys5(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0);
	in->nnp = (int)sys5(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	for (int i = 0; i < RLIM_NLIMITS; i++)
		sys4(SYS_prlimit64, 0, i, NULL, in->limits[i]);
	sys3(SYS_sched_getaffinity, 0, sizeof(in->cpus), in->cpus);
	sys3(SYS_getresuid, &in->ids[0], &in->ids[1], &in->ids[2]);
	sys3(SYS_getresgid, &in->ids[3], &in->ids[4], &in->ids[5]);
	sys2(SYS_capget, &head, in->caps);
	n = oom_fd < 0 ? -1 : pread(oom_fd, in->oom, sizeof(in->oom), 0);
	if (n < 0)
		in->oom[0] = '\0';
}

bool fctr_park_fits(struct fctr_instance *inst)
{
	struct fctr_park *park = inst->park;
	struct inherited now;

	if (__atomic_load_n(&park->word, __ATOMIC_ACQUIRE) != PARKED)	/* somebody killed it */
		return false;
	read_inherited(&now, inst->plan->ctx->oom_fd);
	if (memcmp(&now, &park->from, sizeof(now)) == 0)
		return true;
	/* perhaps this thread differs from ours for good: not again too soon */
	__atomic_store_n(&inst->plan->park_after, fctr_now() + PAUSE_NS, __ATOMIC_RELAXED);
	return false;
}

/* ---- the process ------------------------------------------------------------------------ */

/* On memory shared with the launcher: the rules of child.c hold. */
static int parked(void *arg)
{
	struct fctr_park *park = arg;
	struct pollfd owner = { park->params.owner_pidfd, POLLIN, 0 };
	struct timespec now = { 0, 0 };

	/* the thread that cloned us lives as long as its process does; had it gone before, nobody tells */
	sys5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	sys5(SYS_prctl, PR_SET_NAME, (unsigned long)"fctr-parked", 0, 0, 0);
	if (sys5(SYS_ppoll, &owner, 1, &now, NULL, 8) > 0)
		return 125;
	fctr_default_signals();
	sys0(SYS_setsid);	/* a terminal's signals would lie in wait for the job */
	if (fctr_walk(&park->run) < 0)
		return 127;
	park->cpus_len = sys3(SYS_sched_getaffinity, 0, sizeof(park->cpus), park->cpus);
	tell(&park->word, PARKED);
	wait_while(&park->word, PARKED);
	if (park->cpus_len > 0)
		sys3(SYS_sched_setaffinity, 0, park->cpus_len, park->cpus);
	fctr_walk(&park->run);
	return 127;
}

bool fctr_park_small(const struct fctr_limits *limits)
{
	for (size_t i = 0; limits && i < limits->n_unified; i++)
		if (strncmp(limits->unified[i].key, "memory.", 7) == 0)
			return true;
	return limits && limits->memory_max != FCTR_UNSET && limits->memory_max >= 0 && limits->memory_max < ROOM;
}

/* With the plan's lock held or not: whether its prepared containers are to have their process now. */
bool fctr_plan_parks(const struct fctr_plan *p)
{
	return p->parks && fctr_now() >= __atomic_load_n(&p->park_after, __ATOMIC_RELAXED) &&
	       !(p->has_cgroup && p->cgroot && fctr_cgroot_short(p->cgroot));
}

bool fctr_park_wanted(const struct fctr_instance *inst)
{
	const struct fctr_plan *p = inst->plan;

	return !inst->park && inst->pidns >= 0 && fctr_plan_parks(p);
}

bool fctr_park(struct fctr_instance *inst)
{
	struct fctr_plan *p = inst->plan;
	struct fctr_park *park;
	int into = inst->cg ? fctr_cgroup_into_fd(inst->cg) : -1;
	struct fctr_clone_args args;
	struct fctr_sigs saved;
	long pid;

	if (!fctr_park_wanted(inst))
		return true;
	park = calloc(1, sizeof(*park));
	if (!park)
		return true;
	park->pidfd = -1;
	park->word = STARTING;
	park->params = (struct fctr_params){
		.err_fd = -1, .stub_fd = -1, .owner_pidfd = p->ctx->owner_pidfd,
		.seccomp = p->seccomp, .seccomp_len = p->seccomp_len, .seccomp_flags = p->seccomp_flags,
	};
	fctr_start_slots(p, inst, NULL, park->slot);
	if (inst->cg)
		park->params.n_tasks = (uint32_t)fctr_cgroup_tasks(inst->cg, park->slot + FCTR_SLOT_TASKS);
	park->run = (struct fctr_run){
		.steps = p->start.v, .n_steps = p->park_at, .blob = p->blob, .slot = park->slot,
		.params = &park->params, .result = &park->result, .rootfd = AT_FDCWD, .signals_default = true,
	};
	args = (struct fctr_clone_args){
		.flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_CHILD_CLEARTID |
			 p->clone_flags | (into >= 0 ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uint64_t)(uintptr_t)&park->pidfd, .child_tid = (uint64_t)(uintptr_t)&park->word,
		.stack = (uint64_t)(uintptr_t)inst->stack, .stack_size = FCTR_STACK_SIZE,
		.cgroup = into >= 0 ? (uint64_t)into : 0,
	};
	read_inherited(&park->from, p->ctx->oom_fd);
	fctr_block_signals(&saved);
	pid = sys2(SYS_setns, inst->pidns, CLONE_NEWPID);
	if (pid == 0) {
		pid = fctr_clone_fn(&args, sizeof(args), parked, park);
		sys2(SYS_setns, p->ctx->pidns_fd, CLONE_NEWPID);
	}
	fctr_restore_signals(&saved);
	if (pid < 0) {
		free(park);
		return true;
	}
	park->pid = (pid_t)pid;
	inst->park = park;
	return wait_while(&park->word, STARTING) == PARKED;
}

/* The launcher is about to sleep, so let the job run on its processor instead of rousing another, which in
 * a virtual machine takes longer than a short job. The same the other way round: for the first moments the
 * launcher is held there, too. */
static void one_processor(struct fctr_park *park, struct fctr_container *c, bool both)
{
	uint64_t mask[16] = { 0 };
	unsigned cpu = 0;

	if (park->cpus_len <= 0 || sys3(SYS_getcpu, &cpu, NULL, NULL) < 0 || cpu >= 64 * ARRAY_LEN(mask))
		return;
	mask[cpu / 64] = 1ULL << (cpu % 64);
	if (!(mask[cpu / 64] & park->cpus[cpu / 64]) ||
	    sys3(SYS_sched_setaffinity, c->pid, sizeof(mask), mask) < 0 || !both)
		return;
	c->pinned_len = sys3(SYS_sched_getaffinity, 0, sizeof(c->pinned_from), c->pinned_from);
	if (c->pinned_len > 0 && sys3(SYS_sched_setaffinity, 0, sizeof(mask), mask) == 0)
		c->pinned = (pid_t)sys0(SYS_gettid);
}

void fctr_park_go(struct fctr_instance *inst, const struct fctr_params *params, int64_t *stamps,
		  struct fctr_result *result, struct fctr_container *c, unsigned linger_us)
{
	struct timespec linger = { 0, (long)linger_us * 1000 };
	struct pollfd ended_fd = { inst->park->pidfd, POLLIN, 0 };
	struct fctr_park *park = inst->park;
	struct fctr_plan *p = inst->plan;
	int64_t now = stamps ? fctr_now() : 0;

	c->pid = park->pid;
	c->pidfd = fctr_steal_fd(&park->pidfd);
	park->pid = 0;
	park->params = *params;
	park->run.steps = p->start.v + p->park_at;
	park->run.n_steps = p->start.n - p->park_at;
	park->run.first = p->park_at;
	for (uint32_t i = 0; stamps && i < p->park_at; i++)	/* done before: they take no time */
		stamps[i] = now;
	park->run.stamps = stamps ? stamps + p->park_at : NULL;
	if (__atomic_load_n(&park->word, __ATOMIC_ACQUIRE) == PARKED) {
		uint32_t was = PARKED;

		one_processor(park, c, inst->want_refill);
		/* it may be killed this moment: then its word stays cleared */
		if (__atomic_compare_exchange_n(&park->word, &was, GO, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			sys3(SYS_futex, &park->word, FUTEX_WAKE, 1);
	}
	if (linger_us)
		sys5(SYS_ppoll, &ended_fd, 1, &linger, NULL, 8);
	wait_while(&park->word, GO);
	*result = park->result;
}

void fctr_park_end(struct fctr_instance *inst)
{
	struct fctr_park *park = inst->park;

	if (!park)
		return;
	if (park->pid > 0) {
		/* its number: somebody may have closed our descriptor, and we are about to wait for it */
		if (sys4(SYS_pidfd_send_signal, park->pidfd, SIGKILL, NULL, 0) < 0)
			sys2(SYS_kill, park->pid, SIGKILL);
		while (wait4(park->pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
			;
	}
	fctr_close_fd(&park->pidfd);
	free(park);
	inst->park = NULL;
}

void fctr_park_forked(struct fctr_instance *inst)
{
	if (inst->park)
		fctr_close_fd(&inst->park->pidfd);
}

/* ---- the filter -------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#else
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#endif

/* Run a filter for one system call; false when it looks at arguments, or at all doubts. */
bool fctr_filter_lets(const void *filter, size_t n, uint32_t nr)
{
	const struct sock_filter *f = filter;
	uint32_t a = 0;

	for (size_t i = 0; i < n; i++) {
		const struct sock_filter *s = &f[i];

		switch (s->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (s->k == offsetof(struct seccomp_data, nr))
				a = nr;
			else if (s->k == offsetof(struct seccomp_data, arch))
				a = NATIVE_ARCH;
			else
				return false;
			break;
		case BPF_JMP | BPF_JA: i += s->k; break;
		case BPF_JMP | BPF_JEQ | BPF_K: i += a == s->k ? s->jt : s->jf; break;
		case BPF_JMP | BPF_JGT | BPF_K: i += a > s->k ? s->jt : s->jf; break;
		case BPF_JMP | BPF_JGE | BPF_K: i += a >= s->k ? s->jt : s->jf; break;
		case BPF_JMP | BPF_JSET | BPF_K: i += a & s->k ? s->jt : s->jf; break;
		case BPF_ALU | BPF_AND | BPF_K: a &= s->k; break;
		case BPF_RET | BPF_K: return (s->k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ALLOW;
		default: return false;
		}
	}
	return false;
}

bool fctr_filter_lets_start(const void *filter, size_t n)
{
	/* what child.c calls from the park to the exec */
	static const uint16_t calls[] = {
		SYS_futex, SYS_close_range, SYS_setsid, SYS_fcntl, SYS_dup3, SYS_ioctl, SYS_setgroups,
		SYS_setresgid, SYS_setresuid, SYS_prctl, SYS_capget, SYS_capset, SYS_ppoll, SYS_chdir,
		SYS_getcwd, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_clock_gettime, SYS_execve,
		SYS_execveat, SYS_exit, SYS_exit_group, SYS_sched_getaffinity, SYS_sched_setaffinity,
	};

	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		if (!fctr_filter_lets(filter, n, calls[i]))
			return false;
	return true;
}
