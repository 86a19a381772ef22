/* child.c: everything between clone and execve.
 *
 * The child usually shares its parent's memory (CLONE_VM|CLONE_VFORK), on a stack of its own,
 * while other threads of the parent go on. So nothing here may take a lock, allocate, touch
 * errno or stdio, or call a libc function that changes process-wide state (the set*id wrappers
 * signal every thread): raw system calls only, results in *run. The parent has blocked all
 * signals, and CLONE_CLEAR_SIGHAND dropped its handlers, so no handler of the parent's can run
 * in the child. What lives in the shared memory descriptor (dumpable) is put back by the parent.
 *
 * The same walk builds templates and instances in helper children that share the parent's
 * descriptor table, so that the descriptors they open stay, and runs in the static stub.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include "child.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif
#define CLOSE_RANGE_UNSHARE_ 2
#define SIOCGIFFLAGS_ 0x8913
#define SIOCSIFFLAGS_ 0x8914

static long write_file(int dirfd, const char *path, const char *text)
{
	long fd = raw_open(dirfd, path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return fd;
	r = sys3(SYS_write, fd, text, str_len(text));
	raw_close((int)fd);
	return r < 0 ? r : 0;
}

static long tasks_step(struct fctr_run *run, const struct fctr_step *s)
{
	for (uint32_t i = 0; i < run->params->n_tasks; i++) {
		long r = sys3(SYS_write, run->slot[s->slot + (int)i], "0", 1);
		if (r < 0)
			return r;
	}
	return 0;
}

static long lo_up_step(void)
{
	long fd = sys3(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r;
	struct ifreq req = { .ifr_name = "lo" };

	if (fd < 0)
		return fd;
	r = sys3(SYS_ioctl, fd, SIOCGIFFLAGS_, &req);
	if (r == 0) {
		req.ifr_flags |= IFF_UP | IFF_RUNNING;
		r = sys3(SYS_ioctl, fd, SIOCSIFFLAGS_, &req);
	}
	raw_close((int)fd);
	return r;
}

/* All that a job could have left in a network namespace without CAP_NET_ADMIN shows in these:
 * counters, sockets, TIME_WAIT. Equal to the hash of a fresh one means nothing happened in it. */
static long net_hash_step(struct fctr_run *run, const struct fctr_step *s)
{
	char buf[4096];
	uint64_t hash = 0xcbf29ce484222325ULL;

	for (const char *name = STR(run, s->s1); *name; name += str_len(name) + 1) {
		long fd = raw_open(AT_FDCWD, name, O_RDONLY | O_CLOEXEC), n;

		if (fd == -ENOENT)	/* no IPv6 */
			continue;
		if (fd < 0)
			return fd;
		while ((n = sys3(SYS_read, fd, buf, sizeof(buf))) > 0)
			for (long i = 0; i < n; i++)
				hash = (hash ^ (unsigned char)buf[i]) * 0x100000001b3ULL;
		raw_close((int)fd);
		if (n < 0)
			return n;
	}
	run->result->hash = hash;
	return 0;
}

static long timens_step(struct fctr_run *run, const struct fctr_step *s)
{
	long r = sys1(SYS_unshare, CLONE_NEWTIME);

	/* effective at exec (kernel 6.3), or at the stub's fork */
	return r < 0 ? r : write_file(AT_FDCWD, "/proc/self/timens_offsets", STR(run, s->s1));
}

static long fork_step(struct fctr_run *run, const struct fctr_step *s)
{
	/* born in the joined or new pid namespace, and the launcher's own child, not the stub's */
	struct fctr_clone_args args = { .flags = CLONE_PARENT | (uint64_t)s->a };
	char go;
	long pid = sys2(SYS_clone3, &args, sizeof(args));

	if (pid < 0)
		return pid;
	if (pid > 0) {
		struct fctr_result res = { .detail = (int32_t)pid, .hash = FCTR_REPORT_PID };

		sys3(SYS_write, run->params->err_fd, &res, sizeof(res));
		sys1(SYS_exit_group, 0);
	}
	/* until the launcher has our pidfd: before that nobody may have waited for us */
	while ((pid = sys3(SYS_read, run->slot[FCTR_SLOT_GO], &go, 1)) == -EINTR)
		;
	if (pid == 0)	/* it gave up, or has died */
		sys1(SYS_exit_group, 125);
	return pid < 0 ? pid : 0;
}

/* Linux 6.11 gives out a pid namespace that has no init yet (PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE);
 * whoever is born into it first is PID 1. */
static long new_pidns_step(struct fctr_run *run, const struct fctr_step *s)
{
	long r = sys1(SYS_unshare, CLONE_NEWPID), pidfd;

	if (r < 0)
		return r;
	pidfd = sys2(SYS_pidfd_open, sys0(SYS_getpid), 0);
	if (pidfd < 0)
		return pidfd;
	r = sys3(SYS_ioctl, pidfd, 0xff06 /* _IO(0xff, 6) */, 0);
	raw_close((int)pidfd);
	if (r < 0)
		return r;
	run->slot[s->slot] = (int)r;
	return 0;
}

static int second_child(void *arg)
{
	struct fctr_run *run = arg;

	fctr_walk(run);
	return 127;
}

/* The first child has entered the user namespace, so the pid namespace made here belongs to it.
 * The second walks on, on a stack of its own, sharing memory like the first; its pidfd lands in
 * the descriptor table that the first shares with the launcher. */
static long fork_vm_step(struct fctr_run *run, const struct fctr_step *s, uint32_t at)
{
	struct fctr_run rest = *run;
	/* both are told by the kernel, before it runs: should we be killed the launcher knows of it */
	struct fctr_clone_args args = {
		.flags = CLONE_PARENT | CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_PARENT_SETTID | (uint64_t)s->a,
		.pidfd = (uint64_t)(uintptr_t)&run->result->pidfd,
		.parent_tid = (uint64_t)(uintptr_t)&run->result->detail,
		.stack = (uint64_t)(uintptr_t)run->stack2, .stack_size = run->stack2_size,
	};
	long pid;

	rest.steps = run->steps + at + 1;
	rest.n_steps = run->n_steps - at - 1;
	rest.first = run->first + at + 1;
	rest.stamps = run->stamps ? run->stamps + at + 1 : NULL;
	pid = fctr_clone_fn(&args, sizeof(args), second_child, &rest);
	if (pid < 0)
		return pid;
	sys1(SYS_exit_group, run->result->stage ? 127 : 0);
	return 0;
}

static long stdio_step(struct fctr_run *run)
{
	const struct fctr_params *p = run->params;
	struct fctr_fdmap map[64];
	int top = p->n_fds ? p->fds[p->n_fds - 1].dst + 1 : 3;
	long r;

	if (p->n_fds > 64)
		return -E2BIG;
	if (p->shared_top > 0) {
		/* The table is still the launcher's: take a copy of the low part only. Copying and
		 * closing thousands of descriptors would cost more than the start. */
		r = sys3(SYS_close_range, p->shared_top, ~0U, CLOSE_RANGE_UNSHARE_);
		if (r < 0)
			return r;
	}
	r = sys0(SYS_setsid);
	if (r < 0 && r != -EPERM)
		return r;
	/* first out of each other's way, and out of the way of what is still needed */
	for (uint32_t i = 0; i < p->n_fds; i++) {
		map[i] = p->fds[i];
		if (map[i].src < top && map[i].src != map[i].dst) {
			r = sys3(SYS_fcntl, map[i].src, F_DUPFD_CLOEXEC, top);
			if (r < 0)
				return r;
			map[i].src = (int32_t)r;
		}
	}
	for (uint32_t i = 0; i < p->n_fds; i++) {
		if (map[i].src == map[i].dst)
			r = sys3(SYS_fcntl, map[i].src, F_SETFD, 0);
		else
			r = sys3(SYS_dup3, map[i].src, map[i].dst, 0);
		if (r < 0)
			return r;
	}
	if (p->tty)
		return sys3(SYS_ioctl, 0, 0x540e /* TIOCSCTTY */, 0);
	return 0;
}

/* Close all but what the job was given, our report pipe and the stub. Real closes, not the
 * CLOEXEC flag: a directory still open at the last chdir would be a way out of the root. */
static long close_step(struct fctr_run *run)
{
	const struct fctr_params *p = run->params;
	int keep[66], n = 0;
	long r = 0;
	unsigned from = 0;

	for (uint32_t i = 0; i < p->n_fds; i++)
		keep[n++] = p->fds[i].dst;
	for (int extra = 0; extra < 2; extra++) {
		int fd = extra ? p->stub_fd : p->err_fd, at;

		if (fd < 0)
			continue;
		for (at = n; at > 0 && keep[at - 1] > fd; at--)
			keep[at] = keep[at - 1];
		keep[at] = fd;
		n++;
	}
	for (int i = 0; i < n && r == 0; i++) {
		if ((unsigned)keep[i] > from)
			r = sys3(SYS_close_range, from, keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	return r < 0 ? r : sys3(SYS_close_range, from, ~0U, 0);
}

static long user_step(struct fctr_run *run)
{
	const struct fctr_params *p = run->params;
	long r = sys2(SYS_setgroups, p->n_groups, p->groups);

	/* a user namespace with setgroups denied has only the groups it was born with */
	if (r == -EPERM && (p->n_groups == 0 || (p->n_groups == 1 && p->groups[0] == p->gid)))
		r = 0;
	if (r < 0)
		return r;
	r = sys3(SYS_setresgid, p->gid, p->gid, p->gid);
	if (r == 0 && p->uid)	/* what may stay is decided by CAPSET; execve clears the flag */
		r = sys5(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
	return r < 0 ? r : sys3(SYS_setresuid, p->uid, p->uid, p->uid);
}

/* The ids we came with may have no place in the user namespace, and the kernel makes no file for
 * such an owner. */
static long root_ids_step(const struct fctr_step *s)
{
	long r = sys3(SYS_setresgid, s->b, s->b, s->b);

	if (r == 0)
		r = sys5(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (r == 0)
		r = sys3(SYS_setresuid, s->a, s->a, s->a);
	return r;
}

static long bounding_step(const struct fctr_step *s)
{
	for (int cap = 0; cap < 64; cap++) {
		long r;

		if (s->c & 1ULL << cap)
			continue;
		r = sys5(SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
		if (r == -EINVAL)	/* past the last one */
			break;
		if (r < 0)
			return r;
	}
	return 0;
}

static long capset_step(struct fctr_run *run, const struct fctr_step *s)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct have[2], data[2];
	uint64_t eff = (uint64_t)s->a, perm = (uint64_t)s->b, inh = s->c, held;
	long r = sys2(SYS_capget, &head, have);

	if (r < 0)
		return r;
	held = have[0].permitted | (uint64_t)have[1].permitted << 32;
	if (run->params->uid != 0)	/* as a change of user has it: what is not inheritable is gone */
		eff = perm = perm & inh;
	eff &= held;
	perm &= held;
	for (int i = 0; i < 2; i++) {
		data[i].effective = (uint32_t)(eff >> (32 * i));
		data[i].permitted = (uint32_t)(perm >> (32 * i));
		data[i].inheritable = (uint32_t)(inh >> (32 * i));
	}
	return sys2(SYS_capset, &head, data);
}

static long ambient_step(const struct fctr_step *s)
{
	long r = sys5(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);

	for (int cap = 0; cap < 64 && r >= 0; cap++)
		if (s->c & 1ULL << cap)
			r = sys5(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	return r;
}

static long pdeathsig_step(struct fctr_run *run)
{
	struct pollfd owner = { run->params->owner_pidfd, POLLIN, 0 };
	struct timespec now = { 0, 0 };
	long r;

	if (owner.fd < 0)
		return 0;
	r = sys5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (r < 0)
		return r;
	/* it may have died before: then no signal will come */
	if (sys5(SYS_ppoll, &owner, 1, &now, NULL, 8) > 0)
		sys1(SYS_exit_group, 125);
	return 0;
}

static long seccomp_step(struct fctr_run *run)
{
	const struct fctr_params *p = run->params;
	struct { unsigned short len; const void *filter; } prog = { p->seccomp_len, p->seccomp };
	long r;

	if (!p->seccomp_len)
		return 0;
	r = sys3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->seccomp_flags, &prog);
	return r < 0 ? r : 0;
}

static long cwd_step(struct fctr_run *run, const struct fctr_step *s)
{
	const char *cwd = run->params->cwd ? run->params->cwd : STR(run, s->s1);
	char where[4096];
	long r = sys1(SYS_chdir, cwd);

	if (r < 0)
		return r;
	/* the kernel writes "(unreachable)…" for a directory outside the root */
	r = sys2(SYS_getcwd, where, sizeof(where));
	if (r < 0)
		return r == -ERANGE ? 0 : r;
	return where[0] == '/' ? 0 : -EXDEV;
}

/* CLONE_CLEAR_SIGHAND leaves ignored signals ignored: Python's SIGPIPE, nohup's SIGHUP, and posix_spawn
 * of glibc 32 and 33: make's, and whoever else's children have them ignored. */
void fctr_default_signals(void)
{
	uint64_t dfl[8] = { 0 };

	for (int sig = 1; sig < 34; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			sys4(SYS_rt_sigaction, sig, dfl, NULL, 8);
}

static long exec_step(struct fctr_run *run)
{
	const struct fctr_params *p = run->params;
	uint64_t none = 0;
	long err = -ENOENT;

	if (!run->signals_default)
		fctr_default_signals();
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
	if (p->stub_fd >= 0)	/* the init keeps the report, to say how the job ended */
		sys3(SYS_fcntl, p->err_fd, F_SETFD, 0);
	if (p->stub_fd >= 0)
		return sys5(SYS_execveat, p->stub_fd, "", p->argv, p->envp, AT_EMPTY_PATH);
	for (int i = 0; p->candidates[i]; i++) {
		long r;

		run->result->candidate = i;
		r = sys3(SYS_execve, p->candidates[i], p->argv, p->envp);

		/* as execvp(3): go on past what is not there, remember what may not be run */
		if (r != -ENOENT && r != -ENOTDIR && r != -EACCES)
			return r;
		if (r == -EACCES || (r == -ENOTDIR && err == -ENOENT && !p->candidates[1]))
			err = r;
	}
	return err;
}

static long process_step(struct fctr_run *run, const struct fctr_step *s)
{
	struct { uint64_t soft, hard; } lim;
	long r;

	switch (s->op) {
	case FCTR_OP_TASKS: return tasks_step(run, s);
	case FCTR_OP_SETNS: return sys2(SYS_setns, run->slot[s->slot], s->a);
	case FCTR_OP_UNSHARE: return sys1(SYS_unshare, s->a);
	case FCTR_OP_NSDIR:
		/* O_PATH: the directory is root's while our memory is not dumpable */
		r = raw_open(AT_FDCWD, "/proc/self/ns", O_PATH | O_DIRECTORY | O_CLOEXEC);
		run->slot[s->slot] = r < 0 ? -1 : (int)r;
		return r < 0 ? r : 0;
	case FCTR_OP_NSFD:
		r = raw_open(run->slot[s->slot2], STR(run, s->s1), O_RDONLY | O_CLOEXEC);
		run->slot[s->slot] = r < 0 ? -1 : (int)r;
		return r < 0 ? r : 0;
	case FCTR_OP_ROOT_IDS: return root_ids_step(s);
	case FCTR_OP_NEW_PIDNS: return new_pidns_step(run, s);
	case FCTR_OP_LO_UP: return lo_up_step();
	case FCTR_OP_NET_HASH: return net_hash_step(run, s);
	case FCTR_OP_TIMENS: return timens_step(run, s);
	case FCTR_OP_NO_DUMP: return sys5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	case FCTR_OP_FORK: return fork_step(run, s);
	case FCTR_OP_FORK_VM: return fork_vm_step(run, s, (uint32_t)(s - run->steps));
	case FCTR_OP_HOSTNAME: return sys2(SYS_sethostname, STR(run, s->s1), str_len(STR(run, s->s1)));
	case FCTR_OP_DOMAINNAME: return sys2(SYS_setdomainname, STR(run, s->s1), str_len(STR(run, s->s1)));
	case FCTR_OP_SYSCTL: return write_file(AT_FDCWD, STR(run, s->s1), STR(run, s->s2));
	case FCTR_OP_OOM: return write_file(AT_FDCWD, "/proc/self/oom_score_adj", STR(run, s->s1));
	case FCTR_OP_RLIMIT:
		lim.soft = (uint64_t)s->b;
		lim.hard = s->c;
		return sys4(SYS_prlimit64, 0, s->a, &lim, NULL);
	case FCTR_OP_NICE: return sys3(SYS_setpriority, 0, 0, s->a);
	case FCTR_OP_UMASK: sys1(SYS_umask, s->a); return 0;
	case FCTR_OP_AFFINITY:
		r = sys3(SYS_sched_setaffinity, 0, s->a, STR(run, s->s1));
		return r < 0 ? r : 0;
	case FCTR_OP_STDIO: return stdio_step(run);
	case FCTR_OP_LABEL: return write_file(AT_FDCWD, STR(run, s->s1), STR(run, s->s2));
	case FCTR_OP_NNP: return sys5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	case FCTR_OP_SECCOMP: return seccomp_step(run);
	case FCTR_OP_BOUNDING: return bounding_step(s);
	case FCTR_OP_USER: return user_step(run);
	case FCTR_OP_CAPSET: return capset_step(run, s);
	case FCTR_OP_AMBIENT: return ambient_step(s);
	case FCTR_OP_PDEATHSIG: return pdeathsig_step(run);
	case FCTR_OP_CLOSE_FDS: return close_step(run);
	case FCTR_OP_CWD: return cwd_step(run, s);
	case FCTR_OP_EXEC: return exec_step(run);
	}
	return child_mount_step(run, s);
}

int fctr_walk(struct fctr_run *run)
{
	struct timespec ts;

	for (uint32_t i = 0; i < run->n_steps; i++) {
		const struct fctr_step *s = &run->steps[i];
		long r;

		if (run->stamps) {
			sys2(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
			run->stamps[i] = ts.tv_sec * 1000000000LL + ts.tv_nsec;
		}
		r = process_step(run, s);
		if (r < 0) {
			run->result->index = (int32_t)(run->first + i);
			run->result->err = (int32_t)-r;
			run->result->stage = s->stage;
			return -1;
		}
	}
	return 0;
}
