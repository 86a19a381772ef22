/* keep.c: the launcher's side of a keeper (keeper.c), which starts the jobs of a slot, or those of a
 * resident's lane.
 *
 * What it says is believed of nothing but which step failed: that a job is ours, and how it ended, is the
 * kernel's to say. It is waited for with a limit. Whatever goes wrong, the keeper is ended, and with it
 * the slot.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "keeper.h"
#include "launch.h"
#include "park.h"
#include "syscalls.h"

#define LIMIT_MS 60000		/* an exec may wait for a slow disk, but not for ever */

#if defined(__x86_64__)
#define FCTR_NATIVE_ARCH AUDIT_ARCH_X86_64
#else
#define FCTR_NATIVE_ARCH AUDIT_ARCH_AARCH64
#endif

struct fctr_keeper {
	pid_t pid;
	int pidfd, sock, cpu;
	uint64_t secret[2];
	uint64_t cpus[16]; long cpus_len;	/* where it may run */
	struct fctr_keeper *next;
};

/* ---- steps ------------------------------------------------------------------------------ */

/* For plans of slots and of commands in a running container. */
void fctr_compile_keeper(struct fctr_plan *p, const struct fctr_spec *spec)
{
	static const uint16_t calls[] = {
		SYS_recvmsg, SYS_sendto, SYS_close, SYS_mmap, SYS_munmap, SYS_pidfd_send_signal, SYS_write,
		SYS_setpriority, SYS_prlimit64, SYS_umask,
	};
	static const struct { int kind, slot; int64_t type; } joins[] = {
		{ FCTR_NS_USER, FCTR_SLOT_USER, CLONE_NEWUSER }, { FCTR_NS_NET, FCTR_SLOT_NET, CLONE_NEWNET },
		{ FCTR_NS_IPC, FCTR_SLOT_IPC, CLONE_NEWIPC }, { FCTR_NS_UTS, FCTR_SLOT_UTS, CLONE_NEWUTS },
		{ FCTR_NS_CGROUP, FCTR_SLOT_CGROUPNS, CLONE_NEWCGROUP }, { FCTR_NS_MNT, FCTR_SLOT_MNT, CLONE_NEWNS },
		{ FCTR_NS_PID, FCTR_SLOT_PID, CLONE_NEWPID },
	};
	bool inside = p->mode == FCTR_MODE_STUB;
	uint32_t first = p->start.n;

	p->keeps = (inside ? !p->own_mnt && spec->ns[FCTR_NS_PID].mode == FCTR_NS_JOIN : p->tenant && p->slot_pids) &&
		   spec->ns[FCTR_NS_TIME].mode == FCTR_NS_HOST && p->ctx->config.stub_fd >= 0;
	if (p->keeps && p->seccomp_len) {
		p->keeps = p->seccomp_len < 4000 && fctr_filter_lets_start(p->seccomp, p->seccomp_len);
		for (size_t i = 0; i < ARRAY_LEN(calls); i++)
			p->keeps = p->keeps && fctr_filter_lets(p->seccomp, p->seccomp_len, calls[i]);
	}
	if (!p->keeps)
		return;
	if (inside)	/* all of it is the container's, lanes too: they are counted there */
		fctr_step_add(&p->keep, FCTR_OP_TASKS, FCTR_ST_CGROUP_JOIN)->slot = FCTR_SLOT_TASKS;
	for (size_t i = 0; i < ARRAY_LEN(joins); i++) {
		struct fctr_step *s;

		if (inside ? spec->ns[joins[i].kind].mode != FCTR_NS_JOIN
			   : joins[i].kind == FCTR_NS_USER || joins[i].kind == FCTR_NS_PID ||
			     spec->ns[joins[i].kind].mode == FCTR_NS_HOST)
			continue;
		s = fctr_step_add(&p->keep, FCTR_OP_SETNS, FCTR_ST_NAMESPACE);
		s->slot = (int16_t)joins[i].slot;
		s->a = joins[i].type;
	}
	/* the first of these are done by the keeper, for all: an exec would cost it what it needs */
	fctr_step_add(&p->keep_job, FCTR_OP_BOUNDING, FCTR_ST_CAPS)->c = spec->caps[FCTR_CAP_BOUNDING];
	if (spec->no_new_privs)
		fctr_step_add(&p->keep_job, FCTR_OP_NNP, FCTR_ST_NNP);
	p->keep_own = p->keep_job.n;
	/* the job's own are those of a start, but for what the keeper has done */
	for (uint32_t i = 0; i < first; i++) {
		const struct fctr_step *s = &p->start.v[i];

		switch (s->op) {
		case FCTR_OP_TASKS:
			if (inside)
				break;
			goto add;
		case FCTR_OP_OOM: case FCTR_OP_RLIMIT: case FCTR_OP_NICE: case FCTR_OP_UMASK: case FCTR_OP_AFFINITY:
		case FCTR_OP_STDIO: case FCTR_OP_LABEL: case FCTR_OP_USER: case FCTR_OP_CAPSET: case FCTR_OP_AMBIENT:
		case FCTR_OP_CLOSE_FDS: case FCTR_OP_CWD: case FCTR_OP_EXEC:
		add:
			*fctr_step_add(&p->keep_job, s->op, s->stage) = *s;
		}
	}
}

/* The plan's filter, before it the calls a keeper makes with its secret in registers they do not use. */
static struct sock_filter *keeper_filter(const struct fctr_plan *p, const uint64_t secret[2], size_t *len)
{
#define ARG(n, hi) ((uint32_t)(offsetof(struct seccomp_data, args) + 8 * (n) + 4 * (hi)))
#define WORD(n, hi, v, out) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARG(n, hi)), \
			    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)((v) >> (32 * (hi))), 0, out)
	struct sock_filter before[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FCTR_NATIVE_ARCH, 0, 18),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_setns, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_move_mount, 9, 14),
		WORD(2, 0, secret[0], 12), WORD(2, 1, secret[0], 10), WORD(3, 0, secret[1], 8), WORD(3, 1, secret[1], 6),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		WORD(5, 0, secret[0], 3), WORD(5, 1, secret[0], 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_filter *all = malloc(sizeof(before) + (size_t)p->seccomp_len * sizeof(*all));

	if (!all)
		return NULL;
	memcpy(all, before, sizeof(before));
	memcpy(all + ARRAY_LEN(before), p->seccomp, (size_t)p->seccomp_len * sizeof(*all));
	*len = ARRAY_LEN(before) + p->seccomp_len;
	return all;
}

/* ---- messages --------------------------------------------------------------------------- */

static int send_all(int sock, const void *data, size_t len, const int *fds, size_t n)
{
	union { struct cmsghdr h; char room[CMSG_SPACE(FCTR_KEEP_FDS * sizeof(int))]; } control;
	struct iovec iov = { (void *)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			      .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	ssize_t r;

	control.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(n * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.h), fds, n * sizeof(int));
	do
		r = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	return r == (ssize_t)len ? 0 : -1;
}

/* 0, or -1: it is gone, or does not answer, or something else does. */
static int hear(struct fctr_keeper *k, struct fctr_keep_reply *reply)
{
	int64_t until = fctr_now() + LIMIT_MS * 1000000LL;

	for (;;) {
		struct timespec left;
		struct pollfd p = { k->sock, POLLIN, 0 };
		int64_t ns = until - fctr_now();
		ssize_t n;

		/* SO_RCVTIMEO is set, so that the common case is one call */
		n = recv(k->sock, reply, sizeof(*reply), 0);
		if (n == (ssize_t)sizeof(*reply) && reply->magic == FCTR_KEEP_MAGIC)
			return 0;
		if (n >= 0 || (errno != EINTR && errno != EAGAIN) || ns <= 0)
			return -1;
		left = (struct timespec){ ns / 1000000000, ns % 1000000000 };
		ppoll(&p, 1, &left, NULL);
	}
}

/* ---- starting one ----------------------------------------------------------------------- */

struct become { struct fctr_run run; int sock, null_fd, stub_fd; char *argv[3]; char number[16]; };

static int become_keeper(void *arg)
{
	struct become *b = arg;
	char *const none[] = { NULL };
	long r = fctr_walk(&b->run);

	if (r < 0)
		return 127;
	sys0(SYS_setsid);
	for (int i = 0; i < 3 && r >= 0; i++)
		r = sys3(SYS_dup3, b->null_fd, i, 0);
	if (r >= 0)
		r = sys3(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
	if (r >= 0)
		r = sys3(SYS_fcntl, b->sock, F_SETFD, 0);
	if (r >= 0)
		r = sys5(SYS_execveat, b->stub_fd, "", b->argv, none, AT_EMPTY_PATH);
	*b->run.result = (struct fctr_result){ .stage = FCTR_ST_INIT, .index = -1, .err = (int32_t)-r };
	return 127;
}

static int send_setup(struct fctr_keeper *k, const struct fctr_plan *p, struct fctr_error *err)
{
	struct fctr_keep_setup s = { .magic = FCTR_KEEP_MAGIC, .n_steps = p->keep_job.n, .n_own = p->keep_own, .seccomp_flags = p->seccomp_flags };
	struct fctr_keep_reply reply;
	cleanup_close int fd = memfd_create("fctr-keep", MFD_CLOEXEC);
	cleanup_free struct sock_filter *filter = NULL;
	size_t n = 0;

	if (p->seccomp_len) {
		filter = keeper_filter(p, k->secret, &n);
		if (!filter)
			return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "filter");
	}
	memcpy(s.secret, k->secret, sizeof(s.secret));
	memcpy(s.cpus, k->cpus, sizeof(s.cpus));
	s.cpus_len = k->cpus_len > 0 ? (uint64_t)k->cpus_len : 0;
	s.seccomp_len = (uint32_t)n;
	s.steps = (sizeof(s) + 15) & ~15UL;
	s.blob = (s.steps + p->keep_job.n * sizeof(struct fctr_step) + 15) & ~15UL;
	s.seccomp = (s.blob + p->blob_len + 15) & ~15UL;
	s.size = (uint32_t)(s.seccomp + n * sizeof(*filter));
	if (fd < 0 || pwrite(fd, &s, sizeof(s), 0) < 0 ||
	    pwrite(fd, p->keep_job.v, p->keep_job.n * sizeof(struct fctr_step), (off_t)s.steps) < 0 ||
	    pwrite(fd, p->blob, p->blob_len, (off_t)s.blob) < 0 ||
	    (n && pwrite(fd, filter, n * sizeof(*filter), (off_t)s.seccomp) < 0))
		return fctr_fail(err, FCTR_ST_INIT, errno, "memfd for a keeper");
	if (send_all(k->sock, "", 1, (int[]){ fd, p->ctx->owner_pidfd }, 2) < 0 || hear(k, &reply) < 0)
		return fctr_fail(err, FCTR_ST_INIT, EPIPE, "the keeper does not answer");
	if (reply.result.err)
		return fctr_fail(err, FCTR_ST_SECCOMP, reply.result.err, "keeper");
	return 0;
}

int fctr_keeper_start(struct fctr_plan *p, int *slot, uint32_t n_tasks, int into, char *stack,
		      struct fctr_keeper **out, struct fctr_error *err)
{
	struct fctr_keeper *k = calloc(1, sizeof(*k));
	struct timeval limit = { LIMIT_MS / 1000, 0 };
	struct fctr_params params = { .err_fd = -1, .stub_fd = -1, .owner_pidfd = -1, .n_tasks = n_tasks };
	struct fctr_result result = { .stage = 0 };
	struct become b = { .null_fd = p->ctx->null_fd, .stub_fd = p->ctx->config.stub_fd };
	struct fctr_sigs saved;
	struct fctr_clone_args args;
	int pair[2];
	long pid;

	if (!k)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "keeper");
	k->pidfd = k->sock = k->cpu = -1;
	if (getrandom(k->secret, sizeof(k->secret), 0) != sizeof(k->secret) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		free(k);
		return fctr_fail(err, FCTR_ST_INIT, errno, "socket of a keeper");
	}
	k->sock = pair[0];
	setsockopt(k->sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	b.sock = pair[1];
	snprintf(b.number, sizeof(b.number), "%d", pair[1]);
	b.argv[0] = "fctr-keep";
	b.argv[1] = b.number;
	b.run = (struct fctr_run){
		.steps = p->keep.v, .n_steps = p->keep.n, .blob = p->blob, .slot = slot, .params = &params,
		.result = &result, .rootfd = AT_FDCWD,
	};
	args = (struct fctr_clone_args){
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | (into >= 0 ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uint64_t)(uintptr_t)&k->pidfd, .stack = (uint64_t)(uintptr_t)stack,
		.stack_size = FCTR_STACK_SIZE, .cgroup = into >= 0 ? (uint64_t)into : 0,
	};
	k->cpus_len = sys3(SYS_sched_getaffinity, 0, sizeof(k->cpus), k->cpus);
	fctr_before_creds(p->ctx);
	fctr_block_signals(&saved);
	pid = fctr_clone_fn(&args, sizeof(args), become_keeper, &b);
	fctr_restore_signals(&saved);
	fctr_after_creds(p->ctx);
	close(pair[1]);
	k->pid = pid < 0 ? 0 : (pid_t)pid;
	if (pid < 0 || result.stage) {
		if (pid < 0)
			fctr_fail(err, FCTR_ST_CLONE, (int)-pid, "keeper");
		else
			fctr_step_error(err, &p->keep, p->blob, &result);
		fctr_keeper_end(k);
		return -1;
	}
	if (send_setup(k, p, err) < 0) {
		fctr_keeper_end(k);
		return -1;
	}
	*out = k;
	return 0;
}

void fctr_keeper_end(struct fctr_keeper *k)
{
	if (!k)
		return;
	if (k->pid > 0) {
		sys4(SYS_pidfd_send_signal, k->pidfd, SIGKILL, NULL, 0);
		while (wait4(k->pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
			;
	}
	fctr_keeper_forked(k);
	free(k);
}

void fctr_keeper_forked(struct fctr_keeper *k)
{
	if (k) {
		fctr_close_fd(&k->pidfd);
		fctr_close_fd(&k->sock);
	}
}

/* ---- a job ------------------------------------------------------------------------------ */

static size_t strings_len(char *const *v, uint32_t *n)
{
	size_t len = 0;

	for (*n = 0; v && v[*n]; (*n)++)
		len += strlen(v[*n]) + 1;
	return len;
}

static char *put_strings(char *at, char *const *v)
{
	for (; v && *v; v++)
		at = stpcpy(at, *v) + 1;
	return at;
}

/* The keeper works while we wait for it: on our processor, instead of rousing another. */
static void same_processor(struct fctr_keeper *k, struct fctr_container *c)
{
	uint64_t mask[16] = { 0 };
	unsigned cpu = 0;

	if (k->cpus_len <= 0 || sys3(SYS_getcpu, &cpu, NULL, NULL) < 0 || cpu >= 64 * ARRAY_LEN(mask))
		return;
	mask[cpu / 64] = 1ULL << (cpu % 64);
	if ((int)cpu != k->cpu) {
		if (!(mask[cpu / 64] & k->cpus[cpu / 64]) || sys3(SYS_sched_setaffinity, k->pid, sizeof(mask), mask) < 0)
			return;
		k->cpu = (int)cpu;
	}
	c->pinned_len = sys3(SYS_sched_getaffinity, 0, sizeof(c->pinned_from), c->pinned_from);
	if (c->pinned_len > 0 && sys3(SYS_sched_setaffinity, 0, sizeof(mask), mask) == 0)
		c->pinned = (pid_t)sys0(SYS_gettid);
}

int fctr_keeper_launch(struct fctr_keeper *k, const struct fctr_instance *inst, const int *slot, int into,
		       const struct fctr_params *q, struct fctr_result *result, struct fctr_container *c,
		       struct fctr_error *err)
{
	struct fctr_keep_job job = {
		.magic = FCTR_KEEP_MAGIC, .n_fds = q->n_fds, .n_tasks = inst ? q->n_tasks : 0, .n_groups = q->n_groups,
		.uid = q->uid, .gid = q->gid,
	};
	char small[4096], *data = small, *at;
	cleanup_free char *large = NULL;
	cleanup_close int memfd = -1;
	struct fctr_keep_reply reply;
	int fds[FCTR_KEEP_FDS];
	size_t n = 0, len = sizeof(job) + 4 * (size_t)(q->n_fds + q->n_groups);

	len += strings_len(q->argv, &job.argc) + strings_len(q->envp, &job.envc) + strings_len(q->candidates, &job.candc);
	len += q->cwd ? strlen(q->cwd) + 1 : 0;
	if (len > UINT32_MAX / 2 || (uint64_t)job.argc + job.envc + job.candc + 3 > FCTR_KEEP_PACKET / 2)
		return fctr_fail(err, FCTR_ST_EXEC, E2BIG, "argv");
	if (len > sizeof(small)) {
		data = large = malloc(len);
		if (!data)
			return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "argv");
	}
	if (len > FCTR_KEEP_PACKET)
		fds[n++] = -1;
	for (uint32_t i = 0; i < q->n_fds; i++)
		fds[n++] = q->fds[i].src;
	for (uint32_t i = 0; i < job.n_tasks; i++)
		fds[n++] = slot[FCTR_SLOT_TASKS + i];
	if (inst) {
		job.flags |= FCTR_KEEP_PIDNS;
		fds[n++] = inst->pidns;
		if (inst->slot_proc >= 0) {
			job.flags |= FCTR_KEEP_PROC;
			fds[n++] = inst->slot_proc;
			fds[n++] = inst->slot_grave;
			job.slot_at = inst->slot_at;
		}
		if (inst->slot_old >= 0) {
			job.flags |= FCTR_KEEP_OLD;
			fds[n++] = inst->slot_old;
		}
		if (into >= 0) {
			job.flags |= FCTR_KEEP_INTO;
			fds[n++] = into;
		}
	}
	job.flags |= q->cwd ? FCTR_KEEP_CWD : 0;
	job.size = (uint32_t)len;
	memcpy(data, &job, sizeof(job));
	at = data + sizeof(job);
	for (uint32_t i = 0; i < q->n_fds; i++, at += 4)
		memcpy(at, &q->fds[i].dst, 4);
	memcpy(at, q->groups ? (const void *)q->groups : "", 4 * (size_t)q->n_groups);
	at = put_strings(put_strings(put_strings(at + 4 * (size_t)q->n_groups, q->argv), q->envp), q->candidates);
	if (q->cwd)
		strcpy(at, q->cwd);
	if (len > FCTR_KEEP_PACKET) {
		memfd = memfd_create("fctr-job", MFD_CLOEXEC);
		if (memfd < 0 || fctr_write_all(memfd, data, len) < 0)
			return fctr_fail(err, FCTR_ST_JOIN, errno, "memfd for a job");
		fds[0] = memfd;
		len = sizeof(job);
	}
	same_processor(k, c);
	if (send_all(k->sock, data, len, fds, n) < 0 || hear(k, &reply) < 0) {
		fctr_unpin(c);
		return fctr_fail(err, FCTR_ST_CLONE, ECHILD, "the keeper of this slot is gone");
	}
	*result = reply.result;
	if (result->candidate < 0 || (uint32_t)result->candidate >= job.candc)
		result->candidate = 0;
	if (result->stage < 0 || result->stage >= FCTR_ST_COUNT)
		result->stage = FCTR_ST_CLONE;
	c->pid = reply.pid;
	c->pidfd = -1;
	if (reply.pid > 0) {
		siginfo_t info;

		/* ours, then: a child that nobody else waits for keeps its pid until we have */
		c->pidfd = (int)sys2(SYS_pidfd_open, reply.pid, 0);
		if (c->pidfd < 0 || sys5(SYS_waitid, P_PIDFD, c->pidfd, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, NULL) < 0) {
			fctr_close_fd(&c->pidfd);
			c->pid = 0;
			fctr_unpin(c);
			return fctr_fail(err, FCTR_ST_CLONE, ECHILD, "the keeper of this slot does not tell the truth");
		}
	}
	if (result->stage)
		fctr_unpin(c);
	if (c->pid <= 0) {
		fctr_unpin(c);
		fctr_fail(err, result->stage ? result->stage : FCTR_ST_CLONE, result->err ? result->err : ECHILD, "keeper");
		return -1;
	}
	return 0;
}

bool fctr_keeper_lives(const struct fctr_keeper *k)
{
	struct pollfd p = { k->pidfd, POLLIN, 0 };

	return poll(&p, 1, 0) == 0;
}

/* ---- lanes of a resident ----------------------------------------------------------------- */

/* Keepers in one running container, as many as launch in it at a time. One that has started a command is
 * free for the next at once: the command is the launcher's child. */
#define LANES_MAX 64

struct fctr_lanes {
	pthread_mutex_t lock;
	struct fctr_keeper *idle;
	int n;
	bool closed;
};

int fctr_container_lanes(struct fctr_container *c, struct fctr_error *err)
{
	if (c->lanes || c->ended || !c->inst)
		return fctr_fail(err, FCTR_ST_JOIN, EINVAL, "not a running container, or it has lanes already");
	c->lanes = calloc(1, sizeof(*c->lanes));
	if (!c->lanes)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "lanes");
	pthread_mutex_init(&c->lanes->lock, NULL);
	return 0;
}

/* NULL without *err: the container has none to spare, and the start goes through the stub. */
struct fctr_keeper *fctr_lane_take(struct fctr_container *c, struct fctr_plan *p, char *stack, struct fctr_error *err)
{
	struct fctr_lanes *l = c->lanes;
	struct fctr_keeper *k;
	int slot[FCTR_SLOT_TREE];
	uint32_t n_tasks = 0;
	int into = -1;
	bool more;

	if (!l || !p->keeps)
		return NULL;
	pthread_mutex_lock(&l->lock);
	k = l->idle;
	if (k)
		l->idle = k->next;
	more = !k && l->n < LANES_MAX && !l->closed;
	l->n += more;
	pthread_mutex_unlock(&l->lock);
	if (!more)
		return k;
	fctr_start_slots(p, NULL, c, slot);
	if (c->inst->cg) {
		pthread_mutex_lock(&c->inst->cg_lock);
		n_tasks = (uint32_t)fctr_cgroup_tasks(c->inst->cg, slot + FCTR_SLOT_TASKS);
		into = fctr_cgroup_into_fd(c->inst->cg);
		pthread_mutex_unlock(&c->inst->cg_lock);
	}
	if (fctr_keeper_start(p, slot, n_tasks, into, stack, &k, err) == 0)
		return k;
	pthread_mutex_lock(&l->lock);
	l->n--;
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

void fctr_lane_put(struct fctr_container *c, struct fctr_keeper *k, bool fit)
{
	struct fctr_lanes *l = c->lanes;

	pthread_mutex_lock(&l->lock);
	fit = fit && !l->closed;
	if (fit) {
		k->next = l->idle;
		l->idle = k;
	} else {
		l->n--;
	}
	pthread_mutex_unlock(&l->lock);
	if (!fit)
		fctr_keeper_end(k);
}

void fctr_lanes_end(struct fctr_container *c)
{
	struct fctr_lanes *l = c->lanes;
	struct fctr_keeper *k;

	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->closed = true;
	k = l->idle;
	l->idle = NULL;
	pthread_mutex_unlock(&l->lock);
	while (k) {
		struct fctr_keeper *next = k->next;

		fctr_keeper_end(k);
		k = next;
	}
}
