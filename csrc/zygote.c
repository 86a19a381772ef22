/* zygote.c: containers entered by a fork of a running process.
 *
 * A zygote is an interpreter with its modules loaded, in a container of its own and with power over
 * nothing but its user namespace. The launcher prepares a job's container as for any start, and sends
 * the steps of the start and the descriptors they name; the zygote's child walks them (zygote_child.c)
 * and is the job. The launcher learns of it by a pidfd. What comes from the zygote is the image's to
 * choose: nothing here believes it further than that its jobs are what it says.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>

#include "launch.h"
#include "syscalls.h"

#define JOB_SOCKET 3

struct sending { int *fds; size_t n; };

/* Its place among what is sent, or -1. */
static int place(struct sending *s, int fd)
{
	if (fd < 0)
		return -1;
	for (size_t i = 0; i < s->n; i++)
		if (s->fds[i] == fd)
			return (int)i;
	if (s->n == FCTR_ZYGOTE_FDS)
		return -1;
	s->fds[s->n] = fd;
	return (int)s->n++;
}

static void identity(const struct fctr_plan *p, const struct fctr_instance *inst, struct fctr_params *q, uint32_t *groups)
{
	const struct fctr_user *u = p->need_user ? &inst->user : NULL;

	q->uid = u ? u->uid : p->uid;
	q->gid = u ? u->gid : p->gid;
	q->groups = p->groups;
	q->n_groups = (uint32_t)p->n_groups;
	if (u && !p->groups_given) {	/* group_add is among them since the user was looked up */
		q->n_groups = 0;
		groups[q->n_groups++] = u->gid;
		for (size_t i = 0; i < u->n_groups; i++)
			groups[q->n_groups++] = u->groups[i];
		q->groups = groups;
	}
}

/* The zygote's child is in the user namespace, has forked, and does not exec. */
static struct fctr_step *steps_of(const struct fctr_plan *p, uint32_t *n)
{
	struct fctr_step *v = malloc(p->start.n * sizeof(*v));

	*n = 0;
	for (uint32_t i = 0; v && i < p->start.n; i++) {
		struct fctr_step *s = &v[(*n)++];

		*s = p->start.v[i];
		if (s->op == FCTR_OP_FORK_VM || (s->op == FCTR_OP_SETNS && s->slot == FCTR_SLOT_USER)) {
			s->op = FCTR_OP_UNSHARE;	/* of nothing: places stay those of the plan */
			s->slot = FCTR_SLOT_NONE;
			s->a = 0;
		} else if (s->op == FCTR_OP_EXEC) {
			(*n)--;
		}
	}
	return v;
}

static int limit(struct fctr_plan *p, struct fctr_instance *inst, const struct fctr_limits *limits, struct fctr_error *err)
{
	if (!limits)
		return 0;
	inst->cg_dirty = true;
	if (!inst->cg)
		return fctr_no_group(p, FCTR_ST_LIMIT, err);
	if (fctr_cgroup_check(p->cgroot, limits, 0, err) < 0)
		return -1;
	return fctr_cgroup_limit(inst->cg, limits, err);
}

static int send_list(struct fctr_plan *p, struct fctr_instance *inst, int sock, const int *nulls, size_t n_nulls,
		     struct sending *list, size_t *n_own, struct fctr_error *err)
{
	cleanup_free struct fctr_step *steps = NULL;
	cleanup_free struct fctr_fdmap *map = calloc(n_nulls + 4, sizeof(*map));
	uint32_t groups[FCTR_USER_GROUPS + 1], n_steps;
	int slot[FCTR_SLOT_TREE], into, procs = -1;
	struct fctr_params params = {
		.err_fd = -1, .stub_fd = -1, .owner_pidfd = -1,
		.seccomp = p->seccomp, .seccomp_len = p->seccomp_len, .seccomp_flags = p->seccomp_flags,
	};

	steps = steps_of(p, &n_steps);
	if (!map || !steps)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "job of a zygote");
	list->fds[list->n++] = -1;	/* the memfd, when all is known */
	*n_own = 1;
	fctr_start_slots(p, inst, NULL, slot);
	slot[FCTR_SLOT_USER] = -1;
	if (inst->cg) {
		params.n_tasks = (uint32_t)fctr_cgroup_tasks(inst->cg, slot + FCTR_SLOT_TASKS);
		into = fctr_cgroup_into_fd(inst->cg);
		if (into >= 0 && params.n_tasks < FCTR_CG_MAX_TASKS) {	/* v2: it was not born there */
			procs = openat(into, "cgroup.procs", O_WRONLY | O_CLOEXEC);
			if (procs < 0)
				return fctr_fail(err, FCTR_ST_CGROUP_JOIN, errno, "cgroup.procs");
			slot[FCTR_SLOT_TASKS + params.n_tasks++] = procs;
			list->fds[list->n++] = procs;
			*n_own = 2;
		}
	}
	for (int i = 0; i < FCTR_SLOT_TREE; i++)
		slot[i] = place(list, slot[i]);
	for (int i = 0; i < 3; i++)
		map[params.n_fds++] = (struct fctr_fdmap){ place(list, p->ctx->null_fd), i };
	map[params.n_fds++] = (struct fctr_fdmap){ place(list, sock), JOB_SOCKET };
	for (size_t i = 0; i < n_nulls; i++)
		if (nulls[i] > map[params.n_fds - 1].dst)	/* ascending */
			map[params.n_fds++] = (struct fctr_fdmap){ map[0].src, nulls[i] };
	params.fds = map;
	identity(p, inst, &params, groups);
	list->fds[0] = fctr_job_make(p, steps, n_steps, slot, &params, err);
	return list->fds[0] < 0 ? -1 : 0;
}

int fctr_zygote_prepare(struct fctr_plan *p, const struct fctr_limits *limits, int sock, const int *nulls,
			size_t n_nulls, struct fctr_container **out, int fds[FCTR_ZYGOTE_FDS], size_t *n_fds,
			size_t *n_own, struct fctr_error *err)
{
	struct sending list = { fds, 0 };
	struct fctr_container *c;
	struct fctr_instance *inst;

	if (!p->zygote || n_nulls > 50)
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, p->zygote ? "more than 50 descriptors open in a zygote" : "not a zygote's plan");
	if (!fctr_ctx_enter(p->ctx))
		return fctr_fail(err, FCTR_ST_CLONE, ECANCELED, "shutdown() has been called");
	c = calloc(1, sizeof(*c));
	inst = c ? fctr_instance_take(p, false, err) : NULL;
	if (!inst) {
		if (!c)
			fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "job of a zygote");
		goto fail;
	}
	*n_own = 0;
	if (limit(p, inst, limits, err) < 0 || send_list(p, inst, sock, nulls, n_nulls, &list, n_own, err) < 0) {
		for (size_t i = 0; i < *n_own; i++)
			fctr_close_fd(&fds[i]);
		fctr_ctx_bury(p->ctx, inst);
		goto fail;
	}
	*n_fds = list.n;
	/* until it is adopted there is nothing to wait for */
	*c = (struct fctr_container){ .plan = p, .inst = inst, .pidfd = -1, .status_fd = -1, .master = -1,
				      .ended = true, .t_start = fctr_now() };
	atomic_init(&c->refs, 1);
	fctr_plan_ref(p);
	fctr_ctx_started(p->ctx, c);
	*out = c;
	return 0;
fail:
	fctr_ctx_started(p->ctx, NULL);
	free(c);
	return -1;
}

/* The pid as we see it, or -1 if it is no pidfd of a process that is there. */
static pid_t pid_of(int pidfd)
{
	char path[48], text[512], *at;
	cleanup_close int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	at = strstr(text, "\nPid:\t");
	return at ? (pid_t)atoi(at + 6) : -1;
}

int fctr_zygote_adopt(struct fctr_container *c, int pidfd, struct fctr_error *err)
{
	pid_t pid = pid_of(pidfd);

	if (pid <= 0 || pid == getpid()) {
		close(pidfd);
		return fctr_fail(err, FCTR_ST_JOIN, ESRCH, "the zygote's child is gone");
	}
	pthread_mutex_lock(&c->plan->ctx->lock);
	c->pid = pid;
	c->pidfd = pidfd;
	c->ended = false;
	pthread_mutex_unlock(&c->plan->ctx->lock);
	c->t_spawned = fctr_now();
	pthread_mutex_lock(&c->plan->ctx->lock);
	c->plan->ctx->counters.started++;
	pthread_mutex_unlock(&c->plan->ctx->lock);
	return 0;
}
