/* launch.c: the parent's side of a start.
 *
 * Take an instance, fill the slots, clone with shared memory, and be back when the job has
 * exec'ed. If it has not, its error lies in our memory. See child.c for the rules of the child.
 *
 * Who dies with whom: a job asks for SIGKILL when its parent dies, and the kernel's idea of a
 * parent is the thread that cloned it. run() waits in the same thread, so that is right; a
 * Container may outlive the thread that started it, so unless that is the main thread, the
 * context's own thread clones it (die_with_thread false).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "launch.h"
#include "park.h"
#include "syscalls.h"

struct start {			/* one launch in progress */
	struct fctr_plan *plan;
	const struct fctr_launch *launch;
	struct fctr_instance *inst;
	struct fctr_container *c, *target;
	int slot[FCTR_SLOT_TREE];
	struct fctr_params params;
	struct fctr_fdmap fds[64];
	uint32_t groups[FCTR_GROUPS_MAX];
	char **candidates, *candidate_mem;
	const char **argv;
	int report_r, report_w, stub_fd, slave, owner;
	char *stack;
	int64_t stamps[FCTR_MAX_STAMPS + 1];
};

/* ---- descriptors ------------------------------------------------------------------------ */

static int by_dst(const void *a, const void *b)
{
	return ((const struct fctr_fdmap *)a)->dst - ((const struct fctr_fdmap *)b)->dst;
}

static int map_fds(struct start *s, struct fctr_error *err)
{
	const struct fctr_launch *l = s->launch;
	uint32_t n = 0;

	if (l->n_fds > 60)
		return fctr_fail(err, FCTR_ST_FDS, E2BIG, "more than 60 descriptors to pass");
	for (int i = 0; i < 3; i++) {
		int fd = s->slave >= 0 ? s->slave : l->stdio[i];

		s->fds[n++] = (struct fctr_fdmap){ fd < 0 ? s->plan->ctx->null_fd : fd, i };
	}
	for (size_t i = 0; i < l->n_fds; i++)
		s->fds[n++] = (struct fctr_fdmap){ l->fds[2 * i], l->fds[2 * i + 1] };
	qsort(s->fds, n, sizeof(s->fds[0]), by_dst);
	for (uint32_t i = 0; i < n; i++) {
		if (s->fds[i].dst < 0 || (i && s->fds[i].dst == s->fds[i - 1].dst))
			return fctr_fail(err, FCTR_ST_FDS, EINVAL, "descriptor %d is given twice or negative", s->fds[i].dst);
		if (fcntl(s->fds[i].src, F_GETFD) < 0)
			return fctr_fail(err, FCTR_ST_FDS, EBADF, "descriptor %d is not open", s->fds[i].src);
	}
	s->params.fds = s->fds;
	s->params.n_fds = n;
	/* it is looked at once the job's descriptors are in place: not under one of their numbers */
	if (s->params.owner_pidfd >= 0 && s->params.owner_pidfd <= s->fds[n - 1].dst) {
		s->owner = fcntl(s->params.owner_pidfd, F_DUPFD_CLOEXEC, s->fds[n - 1].dst + 1);
		if (s->owner < 0)
			return fctr_fail(err, FCTR_ST_FDS, errno, "descriptor of this process");
		s->params.owner_pidfd = s->owner;
	}
	return 0;
}

/* The report pipe and the stub must not sit where the job's own descriptors go. */
static int open_report(struct start *s, struct fctr_error *err)
{
	int top = s->fds[s->params.n_fds - 1].dst + 1, pipe_fds[2];

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return fctr_fail(err, FCTR_ST_INIT, errno, "report pipe");
	s->report_r = pipe_fds[0];
	s->report_w = fcntl(pipe_fds[1], F_DUPFD_CLOEXEC, top);
	close(pipe_fds[1]);
	if (s->plan->ctx->config.stub_fd >= 0)
		s->stub_fd = fcntl(s->plan->ctx->config.stub_fd, F_DUPFD_CLOEXEC, top);
	if (s->report_w < 0 || s->stub_fd < 0)
		return fctr_fail(err, FCTR_ST_INIT, errno, "report pipe or stub");
	s->params.err_fd = s->report_w;
	return 0;
}

static int init_argv(struct start *s, struct fctr_error *err)
{
	static __thread char number[16];
	size_t n = 0;

	while (s->launch->argv[n])
		n++;
	s->argv = calloc(n + 3, sizeof(char *));
	if (!s->argv)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "argv");
	snprintf(number, sizeof(number), "%d", s->report_w);
	s->argv[0] = "fctr-init";
	s->argv[1] = number;
	memcpy(s->argv + 2, s->launch->argv, n * sizeof(char *));
	s->params.argv = (char *const *)s->argv;
	s->params.stub_fd = s->stub_fd;
	return 0;
}

/* ---- clone ------------------------------------------------------------------------------ */

static int child_main(void *arg)
{
	fctr_walk(arg);
	return 127;
}

static int reap_failed(struct start *s, struct fctr_result *result, struct fctr_error *err)
{
	while (wait4(s->c->pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
		;
	fctr_close_fd(&s->c->pidfd);
	s->c->pid = 0;
	fctr_step_error(err, &s->plan->start, s->plan->blob, result);
	if (result->stage == FCTR_ST_EXEC)
		snprintf(err->what, sizeof(err->what), "%s", s->launch->argv[0]);
	if (result->stage == FCTR_ST_CWD && s->launch->cwd)
		snprintf(err->what, sizeof(err->what), "%s", s->launch->cwd);
	return -1;
}

static void remember_command(struct fctr_plan *p, const char *path)
{
	if (!p->pooled || strncmp(p->last_exec, path, sizeof(p->last_exec)) == 0)
		return;
	pthread_mutex_lock(&p->lock);
	snprintf(p->last_exec, sizeof(p->last_exec), "%s", strlen(path) < sizeof(p->last_exec) ? path : "");
	pthread_mutex_unlock(&p->lock);
}

static int clone_direct(struct start *s, struct fctr_error *err)
{
	struct fctr_plan *p = s->plan;
	struct fctr_cgroup *cg = s->inst ? s->inst->cg : NULL;
	int into = cg ? fctr_cgroup_into_fd(cg) : -1, pidfd = -1;
	struct fctr_result result = { .stage = 0 };
	struct fctr_run run = {
		.steps = p->start.v, .n_steps = p->start.n, .blob = p->blob, .slot = s->slot,
		.params = &s->params, .result = &result, .rootfd = AT_FDCWD,
		.stamps = s->launch->stamps ? s->stamps : NULL,
		.stack2 = s->stack + FCTR_STACK_SIZE, .stack2_size = FCTR_STACK_SIZE,
	};
	bool two_step = p->mode == FCTR_MODE_TWO_STEP;
	struct fctr_clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | p->clone_flags |
			 (two_step || p->share_files ? CLONE_FILES : 0) | (into >= 0 ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
		.stack = (uint64_t)(uintptr_t)s->stack, .stack_size = FCTR_STACK_SIZE,
		.cgroup = into >= 0 ? (uint64_t)into : 0,
	};
	struct fctr_sigs saved;
	int status = 0;
	long pid;

	fctr_before_creds(p->ctx);
	fctr_block_signals(&saved);
	/* this thread's children are born in the prepared namespace, for this one clone */
	pid = s->inst->pidns >= 0 ? sys2(SYS_setns, s->inst->pidns, CLONE_NEWPID) : 0;
	if (pid == 0) {
		pid = fctr_clone_fn(&args, sizeof(args), child_main, &run);
		if (s->inst->pidns >= 0)
			sys2(SYS_setns, p->ctx->pidns_fd, CLONE_NEWPID);
	}
	fctr_restore_signals(&saved);
	fctr_after_creds(p->ctx);
	if (pid < 0)
		return fctr_fail(err, FCTR_ST_CLONE, (int)-pid, "%s", pid == -EBADF && into >= 0 ? "cgroup" : "");
	s->c->pid = (pid_t)pid;
	s->c->pidfd = pidfd;
	if (two_step) {
		while (wait4((pid_t)pid, &status, __WALL, NULL) < 0 && errno == EINTR)
			;
		fctr_close_fd(&s->c->pidfd);
		s->c->pid = result.detail;
		s->c->pidfd = result.detail > 0 ? result.pidfd : -1;
		if (result.detail > 0 && WIFSIGNALED(status)) {	/* then the second may not have exec'ed yet */
			sys4(SYS_pidfd_send_signal, s->c->pidfd, SIGKILL, NULL, 0);
			while (wait4(s->c->pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
				;
			fctr_close_fd(&s->c->pidfd);
			s->c->pid = 0;
			return fctr_fail(err, FCTR_ST_CLONE, ECHILD, "killed while it was starting");
		}
		if (result.detail <= 0) {	/* the first one failed, or was killed */
			if (!result.stage)
				return fctr_fail(err, FCTR_ST_CLONE, ECHILD, "killed while it was starting");
			fctr_step_error(err, &p->start, p->blob, &result);
			s->c->pid = 0;
			return -1;
		}
	}
	if (result.stage)
		return reap_failed(s, &result, err);
	if (!p->init)
		remember_command(p, s->candidates[result.candidate]);
	return 0;
}

static int wake_parked(struct start *s, struct fctr_error *err)
{
	struct fctr_result result;

	fctr_before_creds(s->plan->ctx);
	fctr_park_go(s->inst, &s->params, s->launch->stamps ? s->stamps : NULL, &result, s->c,
		     s->launch->linger_us);
	if (s->launch->keep || result.stage)
		fctr_unpin(s->c);
	fctr_after_creds(s->plan->ctx);
	if (result.stage)
		return reap_failed(s, &result, err);
	if (!s->plan->init)
		remember_command(s->plan, s->candidates[result.candidate]);
	return 0;
}

static int keeper_start(struct start *s, struct fctr_keeper *k, int into, struct fctr_error *err)
{
	struct fctr_result result = { .stage = 0 };
	int r = fctr_keeper_launch(k, s->inst, s->slot, into, &s->params, &result, s->c, err);

	s->c->kept = true;
	if (s->target)
		fctr_lane_put(s->target, k, r == 0);
	if (r < 0 && s->inst)
		fctr_slot_lost(s->inst);
	if (r < 0)
		return -1;
	if (s->launch->keep)
		fctr_unpin(s->c);
	if (result.stage) {
		result.index = -1;	/* of another list than the start's */
		return reap_failed(s, &result, err);
	}
	remember_command(s->plan, s->candidates[result.candidate]);
	return 0;
}

/* With an init or through the stub there is a second exec: success is a report, or its end. */
static int read_report(struct start *s, struct fctr_error *err)
{
	struct fctr_result result;
	ssize_t n;

	fctr_close_fd(&s->report_w);
	for (;;) {
		n = read(s->report_r, &result, sizeof(result));
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(result))
			break;
		if (result.stage)
			return reap_failed(s, &result, err);
		if (result.hash == FCTR_REPORT_STARTED)
			break;
	}
	s->c->status_fd = s->plan->init ? fctr_steal_fd(&s->report_r) : -1;
	return 0;
}

static int open_pty(struct start *s, struct fctr_error *err)
{
	char *stack = fctr_stack_get(s->plan->ctx);	/* a parked process sleeps on the instance's */
	int r;

	if (!stack)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "stack");
	r = fctr_instance_pty(s->inst ? s->inst : s->target->inst, s->inst != NULL, stack, &s->c->master, &s->slave, err);
	fctr_stack_put(s->plan->ctx, stack);
	return r;
}

static int begin(struct start *s, struct fctr_error *err)
{
	int into = -1;
	struct fctr_plan *p = s->plan;
	const struct fctr_launch *l = s->launch;
	struct fctr_cgroup *cg = s->target && s->target->inst ? s->target->inst->cg : s->inst ? s->inst->cg : NULL;

	s->params = (struct fctr_params){
		.argv = (char *const *)l->argv, .envp = (char *const *)l->envp, .cwd = l->cwd,
		.err_fd = -1, .stub_fd = -1, .owner_pidfd = p->ctx->owner_pidfd, .tty = l->tty,
		.seccomp = p->seccomp, .seccomp_len = p->seccomp_len, .seccomp_flags = p->seccomp_flags,
	};
	fctr_start_slots(p, s->inst, s->target, s->slot);
	fctr_identity(p, s->target ? s->target->inst : s->inst, s->groups, &s->params);	/* an exec is the same user */
	if (cg) {
		struct fctr_instance *inst = s->target ? s->target->inst : s->inst;

		pthread_mutex_lock(&inst->cg_lock);
		s->params.n_tasks = (uint32_t)fctr_cgroup_tasks(cg, s->slot + FCTR_SLOT_TASKS);
		into = fctr_cgroup_into_fd(cg);
		pthread_mutex_unlock(&inst->cg_lock);
	}
	if (fctr_candidates(l->argv[0], l->envp, &s->candidates, &s->candidate_mem, err) < 0)
		return -1;
	s->params.candidates = s->candidates;
	if (l->tty && open_pty(s, err) < 0)
		return -1;
	if (l->tty && l->rows) {
		struct winsize ws = { .ws_row = l->rows, .ws_col = l->cols };

		ioctl(s->c->master, TIOCSWINSZ, &ws);
	}
	if (map_fds(s, err) < 0)
		return -1;
	if (s->inst && s->inst->keeper)
		return keeper_start(s, s->inst->keeper, into, err);
	if (s->target && s->target->lanes && !l->tty) {
		struct fctr_keeper *k = fctr_lane_take(s->target, p, s->stack, err);

		if (k)
			return keeper_start(s, k, into, err);
	}
	if ((p->init || p->mode == FCTR_MODE_STUB) && open_report(s, err) < 0)
		return -1;
	if (p->init && init_argv(s, err) < 0)
		return -1;
	if (p->share_files) {
		int top = s->params.err_fd > s->params.stub_fd ? s->params.err_fd : s->params.stub_fd;

		for (uint32_t i = 0; i < s->params.n_fds; i++) {
			top = s->fds[i].src > top ? s->fds[i].src : top;
			top = s->fds[i].dst > top ? s->fds[i].dst : top;
		}
		top = s->params.owner_pidfd > top ? s->params.owner_pidfd : top;
		s->params.shared_top = top + 1;
	}
	if (p->mode == FCTR_MODE_STUB) {
		if (fctr_stub_launch(p, s->slot, &s->params, into, s->stub_fd, s->stack,
				     s->report_r, &s->report_w, &s->c->pid, &s->c->pidfd, err) < 0)
			return -1;
	} else if (s->inst && s->inst->park ? wake_parked(s, err) < 0 : clone_direct(s, err) < 0) {
		return -1;
	}
	if (!p->init)
		return 0;
	if (p->mode != FCTR_MODE_STUB)
		return read_report(s, err);
	s->c->status_fd = fctr_steal_fd(&s->report_r);
	return 0;
}

static void stamp_timings(struct start *s)
{
	struct fctr_timings *t = &s->c->timings;
	uint32_t n = s->plan->start.n < FCTR_MAX_STAMPS ? s->plan->start.n : FCTR_MAX_STAMPS;

	if (!s->launch->stamps || s->plan->mode == FCTR_MODE_STUB || s->c->kept)
		return;
	for (uint32_t i = 0; i < n; i++) {
		int64_t end = i + 1 < n ? s->stamps[i + 1] : s->c->t_spawned;

		t->stage[i] = s->plan->start.v[i].stage;
		t->us[i] = (float)((double)(end - s->stamps[i]) / 1000.0);
	}
	t->n = (int)n;
}

static int launch_here(struct fctr_plan *plan, struct fctr_container *target, const struct fctr_launch *launch,
		       struct fctr_container **out, struct fctr_error *err)
{
	struct start *s = calloc(1, sizeof(*s));
	struct fctr_container *c = calloc(1, sizeof(*c));
	int64_t t0 = fctr_now(), t1;
	int r = -1;

	if (!s || !c) {
		free(s);
		free(c);
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "launch");
	}
	*s = (struct start){ .plan = plan, .launch = launch, .c = c, .target = target,
			     .report_r = -1, .report_w = -1, .stub_fd = -1, .slave = -1, .owner = -1 };
	*c = (struct fctr_container){ .plan = plan, .pidfd = -1, .status_fd = -1, .master = -1, .t_start = t0 };
	atomic_init(&c->refs, 1);
	fctr_plan_ref(plan);
	if (!target) {
		s->inst = fctr_instance_take(plan, plan->parks && fctr_park_small(launch->limits), err);
		while (s->inst && s->inst->park && !fctr_park_fits(s->inst)) {
			fctr_ctx_bury(plan->ctx, s->inst);
			s->inst = fctr_instance_take(plan, false, err);
		}
		if (!s->inst)
			goto out;
		c->warm = s->inst->was_warm;
		if (launch->limits) {
			s->inst->cg_dirty = true;
			if (!s->inst->cg) {
				fctr_no_group(plan, FCTR_ST_LIMIT, err);
				goto out;
			}
			if (fctr_cgroup_check(plan->cgroot, launch->limits, 0, err) < 0 ||
			    fctr_cgroup_limit(s->inst->cg, launch->limits, err) < 0)
				goto out;
		}
		if ((launch->user || launch->ids_given || launch->n_files) && fctr_inside_prepare(s->inst, launch, err) < 0)
			goto out;
	}
	s->stack = s->inst ? s->inst->stack : fctr_stack_get(plan->ctx);
	t1 = fctr_now();
	r = begin(s, err);
	c->t_spawned = fctr_now();
	c->timings.acquire = (double)(t1 - t0) / 1000.0;
	c->timings.spawn = (double)(c->t_spawned - t1) / 1000.0;
	if (r == 0)
		stamp_timings(s);
	if (s->inst && s->inst->want_refill && (launch->keep || r < 0)) {	/* else once it is waited for */
		s->inst->want_refill = false;
		fctr_ctx_want_refill(plan->ctx, plan);
	}
out:
	if (!s->inst && s->stack)
		fctr_stack_put(plan->ctx, s->stack);
	fctr_close_fd(&s->report_r);
	fctr_close_fd(&s->report_w);
	fctr_close_fd(&s->stub_fd);
	fctr_close_fd(&s->slave);
	fctr_close_fd(&s->owner);
	free(s->candidates);
	free(s->candidate_mem);
	free(s->argv);
	if (r == 0 && launch->keep && s->inst) {
		/* out of the way of descriptors to come: see shared_top */
		fctr_move_high(&c->pidfd);
		fctr_move_high(&s->inst->mnt);
		if (s->inst->net)
			fctr_move_high(&s->inst->net->fd);
		fctr_move_high(&s->inst->net_fd);
		fctr_close_fd(&s->inst->ipc);
		fctr_close_fd(&s->inst->uts);
		fctr_close_fd(&s->inst->pidns);
		if (s->inst->cg)
			fctr_cgroup_slim(s->inst->cg);
	}
	if (r == 0) {
		c->inst = s->inst;
		c->reap_later = c->inst && plan->pid_private && !plan->tenant && !launch->keep;
		c->host = target;
		if (target)
			atomic_fetch_add(&target->refs, 1);
		pthread_mutex_lock(&plan->ctx->lock);
		plan->ctx->counters.started++;
		pthread_mutex_unlock(&plan->ctx->lock);
		if (plan->ns_fd[FCTR_NS_PID] >= 0 && !c->kept)	/* else the thread that started it waits */
			fctr_ctx_watch(plan->ctx, c);
		*out = c;
	} else {
		if (c->pid > 0 && c->pidfd >= 0) {	/* it runs, but we could not hear from it */
			sys4(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
			while (wait4(c->pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
				;
		}
		fctr_close_fd(&c->pidfd);
		fctr_close_fd(&c->master);
		fctr_close_fd(&c->status_fd);
		if (s->inst)
			fctr_ctx_bury(plan->ctx, s->inst);
		fctr_plan_unref(plan);
		free(c);
	}
	free(s);
	return r;
}

void fctr_launch_serve(struct fctr_launch_request *req)
{
	int r = launch_here(req->plan, req->target, req->launch, req->out, req->err);

	pthread_mutex_lock(&req->lock);
	req->result = r;
	req->done = true;
	pthread_cond_signal(&req->cond);
	pthread_mutex_unlock(&req->lock);
}

static int launch_any(struct fctr_plan *plan, struct fctr_container *target, const struct fctr_launch *launch,
		      struct fctr_container **out, struct fctr_error *err)
{
	struct fctr_launch_request req = { .plan = plan, .target = target, .launch = launch, .out = out, .err = err };

	if (!launch->argv || !launch->argv[0] || !launch->argv[0][0])
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "argv is empty");
	if (!fctr_ctx_enter(plan->ctx))
		return fctr_fail(err, FCTR_ST_CLONE, ECANCELED, "shutdown() has been called");
	if (launch->die_with_thread || (pid_t)sys0(SYS_gettid) == getpid()) {
		req.result = launch_here(plan, target, launch, out, err);
		fctr_ctx_started(plan->ctx, req.result == 0 ? *out : NULL);
		return req.result;
	}
	pthread_mutex_init(&req.lock, NULL);
	pthread_cond_init(&req.cond, NULL);
	if (fctr_ctx_request(plan->ctx, &req)) {
		pthread_mutex_lock(&req.lock);
		while (!req.done)
			pthread_cond_wait(&req.cond, &req.lock);
		pthread_mutex_unlock(&req.lock);
	} else {
		req.result = launch_here(plan, target, launch, out, err);
	}
	pthread_mutex_destroy(&req.lock);
	pthread_cond_destroy(&req.cond);
	fctr_ctx_started(plan->ctx, req.result == 0 ? *out : NULL);
	return req.result;
}

int fctr_launch(struct fctr_plan *plan, const struct fctr_launch *launch, struct fctr_container **out,
		struct fctr_error *err)
{
	return launch_any(plan, NULL, launch, out, err);
}

int fctr_exec(struct fctr_container *target, struct fctr_plan *plan, const struct fctr_launch *launch,
	      struct fctr_container **out, struct fctr_error *err)
{
	if (!target->inst && target->host)	/* an exec's own execs are its container's */
		target = target->host;
	if (target->ended || target->pid <= 0)
		return fctr_fail(err, FCTR_ST_JOIN, ESRCH, "the container has ended");
	if (target->frozen)	/* what joins its group would stop too, and we wait for it */
		return fctr_fail(err, FCTR_ST_JOIN, EBUSY, "the container is paused");
	if (plan->mode != FCTR_MODE_STUB)
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "not a plan for exec");
	if (launch->user || launch->ids_given || launch->n_files)
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "user= and files= are the container's: an exec has none of its own");
	return launch_any(plan, target, launch, out, err);
}
