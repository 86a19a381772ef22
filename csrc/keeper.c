/* keeper.c: fctr-keep, which starts job after job in namespaces it has joined once.
 *
 * It lives in the launcher's pid namespace, outside of what its jobs see, and in no group of theirs; it
 * runs a sealed binary, cannot be traced, and holds nothing of the launcher's but a socket. A job is born
 * of it by vfork as a child of the launcher (CLONE_PARENT), which so hears of its end from the kernel.
 * What all jobs have in common is done here once: joining namespaces, the bounding set, the system call
 * filter, which takes as long to load as a job to start.
 *
 * That filter lets nobody make the few calls a keeper needs besides a job's. They are let through with
 * 16 random bytes in registers those calls do not use, which only the keeper and the launcher know.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "child.h"
#include "fctr.h"
#include "keeper.h"

void *memset(void *to, int c, size_t n);
void *memcpy(void *restrict to, const void *restrict from, size_t n);

static struct {
	int sock, last, owner;		/* last: pidfd of the job started last; owner: the launcher's */
	const struct fctr_keep_setup *setup;
	const char *base;
	char packet[FCTR_KEEP_PACKET] __attribute__((aligned(16)));
	char *vector[FCTR_KEEP_PACKET / 2];
	char stack[32768] __attribute__((aligned(16)));
} k;

struct birth {
	struct fctr_run run;
	struct fctr_params params;
	struct fctr_result result;
	const struct fctr_keep_job *job;
	int proc, old, grave;
};

static __attribute__((noreturn)) void leave(int code)
{
	for (;;)
		sys1(SYS_exit_group, code);
}

/* clone3 on a stack of its own, with the secret beside its arguments. */
static long birth_clone3(struct fctr_clone_args *args, int (*fn)(void *), void *arg)
{
#if defined(__x86_64__)
	long ret;
	register long r10 __asm__("r10") = (long)k.setup->secret[1];
	register int (*r12)(void *) __asm__("r12") = fn;
	register void *r13 __asm__("r13") = arg;
	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r13, %%rdi\n\t"
			 "call *%%r12\n\tmov %%eax, %%edi\n\tmov %[nr_exit], %%eax\n\tsyscall\n\thlt\n1:"
			 : "=a"(ret)
			 : "a"((long)SYS_clone3), "D"(args), "S"(sizeof(*args)), "d"(k.setup->secret[0]), "r"(r10),
			   "r"(r12), "r"(r13), [nr_exit] "i"(SYS_exit)
			 : "rcx", "r11", "memory");
	return ret;
#else
	register long x8 __asm__("x8") = SYS_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = (long)sizeof(*args);
	register long x2 __asm__("x2") = (long)k.setup->secret[0];
	register long x3 __asm__("x3") = (long)k.setup->secret[1];
	register int (*x9)(void *) __asm__("x9") = fn;
	register void *x10 __asm__("x10") = arg;
	__asm__ volatile("svc 0\n\tcbnz x0, 1f\n\tmov x29, xzr\n\tmov x0, x10\n\tblr x9\n\t"
			 "mov x8, %[nr_exit]\n\tsvc 0\n\tbrk 0\n1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x9), "r"(x10), [nr_exit] "i"(SYS_exit)
			 : "memory", "x30", "cc");
	return x0;
#endif
}

/* The job, on memory shared with the keeper until its exec. */
static int born(void *arg)
{
	struct birth *b = arg;
	char at[2] = { (char)('0' + b->job->slot_at), '\0' };
	uint64_t *secret = (uint64_t *)k.setup->secret;
	long r = 0;

	if (k.setup->cpus_len)
		sys3(SYS_sched_setaffinity, 0, k.setup->cpus_len, k.setup->cpus);
	if (b->old >= 0)	/* the last job's /proc away; see slot.c */
		r = sys6(SYS_move_mount, b->old, "", b->grave, at, 4 /* F_EMPTY_PATH */, secret[0]);
	if (r == 0 && b->proc >= 0)
		r = sys6(SYS_move_mount, b->proc, "", AT_FDCWD, "/proc", 4, secret[0]);
	if (r < 0) {
		b->result = (struct fctr_result){ .stage = FCTR_ST_PROC, .index = -1, .err = (int32_t)-r };
		return 127;
	}
	fctr_walk(&b->run);
	return 127;
}

/* A message and its descriptors, which land on the numbers after our own in order. */
static long receive(char *buf, size_t size, int *fds, int *n_fds)
{
	union { struct cmsghdr h; char room[CMSG_SPACE(FCTR_KEEP_FDS * sizeof(int))]; } control;
	struct iovec iov = { buf, size };
	struct pollfd p[2] = { { k.sock, POLLIN, 0 }, { k.owner, POLLIN, 0 } };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	long n;

	*n_fds = 0;
	do {	/* a fork of the launcher may hold the other end of the socket, too */
		n = k.owner >= 0 ? sys5(SYS_ppoll, p, 2, NULL, NULL, 8) : 0;
		if (n > 0 && p[1].revents)
			return 0;
		if (n >= 0)
			n = sys3(SYS_recvmsg, k.sock, &msg, MSG_CMSG_CLOEXEC);
	} while (n == -EINTR);
	if (n <= 0)
		return n;
	if (msg.msg_controllen >= sizeof(struct cmsghdr) && control.h.cmsg_level == SOL_SOCKET &&
	    control.h.cmsg_type == SCM_RIGHTS) {
		*n_fds = (int)((control.h.cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(&control.h), (size_t)*n_fds * sizeof(int));
	}
	return msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EMSGSIZE : n;
}

static long setup(void)
{
	char one;
	int fd[FCTR_KEEP_FDS], n;
	const struct fctr_keep_setup *s;
	struct { unsigned short len; const void *filter; } prog;
	struct birth own = { .proc = -1 };
	long r = receive(&one, 1, fd, &n);

	if (r != 1 || n != 2)
		return -EPROTO;
	s = (void *)sys6(SYS_mmap, NULL, sizeof(*s), PROT_READ, MAP_PRIVATE, fd[0], 0);
	if ((unsigned long)s > -4096UL || s->magic != FCTR_KEEP_MAGIC)
		return -EPROTO;
	k.base = (void *)sys6(SYS_mmap, NULL, s->size, PROT_READ, MAP_PRIVATE, fd[0], 0);
	if ((unsigned long)k.base > -4096UL)
		return -ENOMEM;
	k.setup = (const void *)k.base;
	raw_close(fd[0]);
	k.owner = fd[1];
	s = k.setup;
	own.run = (struct fctr_run){
		.steps = (const struct fctr_step *)(k.base + s->steps), .n_steps = s->n_own, .blob = k.base + s->blob,
		.params = &own.params, .result = &own.result, .rootfd = AT_FDCWD,
	};
	if (fctr_walk(&own.run) < 0)
		return -own.result.err;
	if (!s->seccomp_len)
		return 0;
	prog.len = (unsigned short)s->seccomp_len;
	prog.filter = k.base + s->seccomp;
	r = sys3(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, s->seccomp_flags, &prog);
	return r < 0 ? r : 0;
}

static char *strings(char *at, char **v, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		v[i] = at;
		at += str_len(at) + 1;
	}
	v[n] = NULL;
	return at;
}

static long give_birth(char *packet, const int *fds, int n_fds, struct fctr_keep_reply *reply)
{
	const struct fctr_keep_job *job = (const void *)packet;
	int32_t *dst = (int32_t *)(job + 1);
	struct fctr_fdmap map[64];
	int slot[FCTR_SLOT_TREE], at = 0, into = -1, pidns = -1, pidfd = -1;
	struct birth b = { .job = job, .proc = -1, .old = -1, .grave = -1 };
	struct fctr_clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PARENT | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
		.stack = (uint64_t)(uintptr_t)k.stack, .stack_size = sizeof(k.stack),
	};
	char **v = k.vector, *text;
	long r = 0;

	if (job->n_fds > 64 || job->n_tasks > 12 || (uint64_t)job->argc + job->envc + job->candc + 3 > FCTR_KEEP_PACKET / 2)
		return -E2BIG;
	for (uint32_t i = 0; i < job->n_fds; i++)
		map[i] = (struct fctr_fdmap){ fds[at++], dst[i] };
	for (int i = 0; i < FCTR_SLOT_TREE; i++)
		slot[i] = -1;
	for (uint32_t i = 0; i < job->n_tasks; i++)
		slot[FCTR_SLOT_TASKS + i] = fds[at++];
	if (job->flags & FCTR_KEEP_PIDNS)
		pidns = fds[at++];
	if (job->flags & FCTR_KEEP_PROC) {
		b.proc = fds[at++];
		b.grave = fds[at++];
	}
	if (job->flags & FCTR_KEEP_OLD)
		b.old = fds[at++];
	if (job->flags & FCTR_KEEP_INTO)
		into = fds[at++];
	if (at != n_fds)
		return -EPROTO;
	text = (char *)(dst + job->n_fds + job->n_groups);
	b.params = (struct fctr_params){
		.argv = v, .envp = v + job->argc + 1, .candidates = v + job->argc + job->envc + 2,
		.fds = map, .n_fds = job->n_fds, .n_tasks = job->n_tasks, .uid = job->uid, .gid = job->gid,
		.groups = (const uint32_t *)(dst + job->n_fds), .n_groups = job->n_groups,
		.err_fd = -1, .stub_fd = -1, .owner_pidfd = -1,
	};
	text = strings(text, v, job->argc);
	text = strings(text, v + job->argc + 1, job->envc);
	text = strings(text, v + job->argc + job->envc + 2, job->candc);
	b.params.cwd = job->flags & FCTR_KEEP_CWD ? text : NULL;
	b.run = (struct fctr_run){
		.steps = (const struct fctr_step *)(k.base + k.setup->steps) + k.setup->n_own,
		.n_steps = k.setup->n_steps - k.setup->n_own,
		.blob = k.base + k.setup->blob, .slot = slot, .params = &b.params, .result = &b.result,
		.rootfd = AT_FDCWD, .signals_default = true,
	};
	if (pidns >= 0)
		r = sys6(SYS_setns, pidns, CLONE_NEWPID, k.setup->secret[0], k.setup->secret[1], 0, 0);
	if (r < 0)
		return r;
	if (into >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)into;
	}
	r = birth_clone3(&args, born, &b);
	if (r < 0)
		return r;
	raw_close(k.last);
	k.last = pidfd;
	reply->pid = (int32_t)r;
	reply->result = b.result;
	return 0;
}

__attribute__((noreturn)) void fctr_keeper_main(int sock)
{
	uint64_t all = ~0ULL;
	struct fctr_keep_reply reply = { .magic = FCTR_KEEP_MAGIC };
	int fds[FCTR_KEEP_FDS], n_fds;
	long r;

	sys5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
	fctr_default_signals();
	k.sock = sock;
	k.last = k.owner = -1;
	sys3(SYS_fcntl, sock, F_SETFD, FD_CLOEXEC);
	r = setup();
	reply.result.err = (int32_t)-r;
	sys6(SYS_sendto, sock, &reply, sizeof(reply), MSG_NOSIGNAL, NULL, 0);
	if (r < 0)
		leave(125);
	for (;;) {
		struct fctr_keep_job *job = (void *)k.packet;
		char *big = NULL;

		r = receive(k.packet, sizeof(k.packet), fds, &n_fds);
		if (r <= 0)
			break;
		reply = (struct fctr_keep_reply){ .magic = FCTR_KEEP_MAGIC };
		if ((size_t)r < sizeof(*job) || job->magic != FCTR_KEEP_MAGIC) {
			r = -EPROTO;
		} else if (job->size > sizeof(k.packet)) {	/* it lies in the first descriptor */
			size_t size = job->size;

			big = (void *)sys6(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[0], 0);
			r = (unsigned long)big > -4096UL ? -ENOMEM : give_birth(big, fds + 1, n_fds - 1, &reply);
			if ((unsigned long)big <= -4096UL)
				sys2(SYS_munmap, big, size);
		} else {
			r = give_birth(k.packet, fds, n_fds, &reply);
		}
		if (r < 0)
			reply.result = (struct fctr_result){ .stage = FCTR_ST_CLONE, .index = -1, .err = (int32_t)-r };
		for (int i = 0; i < n_fds; i++)
			raw_close(fds[i]);
		if (sys6(SYS_sendto, sock, &reply, sizeof(reply), MSG_NOSIGNAL, NULL, 0) < 0)
			break;
	}
	/* the launcher has gone, or wants no more: what it started last goes with us */
	if (k.last >= 0)
		sys4(SYS_pidfd_send_signal, k.last, SIGKILL, NULL, 0);
	leave(0);
}
