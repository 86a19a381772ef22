/* container.c: a started one, until it is gone: wait, signals, figures, input and output. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "core.h"
#include "park.h"
#include "syscalls.h"

pid_t fctr_container_pid(const struct fctr_container *c) { return c->pid; }
int fctr_container_pidfd(const struct fctr_container *c) { return c->pidfd; }
int fctr_container_master(struct fctr_container *c) { return c->master; }
bool fctr_container_warm(const struct fctr_container *c) { return c->warm; }
const struct fctr_timings *fctr_container_timings(const struct fctr_container *c) { return &c->timings; }

static struct fctr_instance *instance_of(const struct fctr_container *c)
{
	return c->inst ? c->inst : c->host ? c->host->inst : NULL;
}

static struct fctr_cgroup *group_of(const struct fctr_container *c)
{
	return instance_of(c) ? instance_of(c)->cg : NULL;
}

static void lock_group(const struct fctr_container *c) { pthread_mutex_lock(&instance_of(c)->cg_lock); }
static void unlock_group(const struct fctr_container *c) { pthread_mutex_unlock(&instance_of(c)->cg_lock); }

int fctr_container_cgroup_paths(struct fctr_container *c, char *buf, size_t size)
{
	struct fctr_cgroup *cg = group_of(c);

	if (!cg) {
		buf[0] = '\0';
		return 0;
	}
	return fctr_cgroup_paths(cg, buf, size);
}

/* ---- waiting ---------------------------------------------------------------------------- */

/* Somebody waited for our child (SIGCHLD ignored, waitpid(-1)): newer kernels still know. */
static void status_of_lost(struct fctr_container *c)
{
	struct {
		uint64_t mask, cgroupid;
		uint32_t pid, tgid, ppid, ids[8];
		int32_t exit_code;
		uint32_t more[12];
	} info;

	memset(&info, 0, sizeof(info));
	info.mask = 1 << 3;	/* PIDFD_INFO_EXIT, Linux 6.15 */
	/* _IOWR(0xFF, 11, struct pidfd_info) of its first, 64-byte version plus coredump fields */
	for (int i = 0;; i++) {
		struct pollfd gone = { c->pidfd, 0, 0 };	/* POLLHUP: whoever waits for it, a zygote or a thread, is done */
		int r = ioctl(c->pidfd, _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, 72), &info);

		if (r < 0)
			info.mask = 0;
		if (r < 0 || info.mask & 1 << 3 || i == 100)
			break;
		poll(&gone, 1, 10);
		info.mask = 1 << 3;
	}
	if (!(info.mask & 1 << 3)) {
		c->exit.lost = true;
		return;
	}
	c->exit.code = WIFSIGNALED(info.exit_code) ? -WTERMSIG(info.exit_code) : WEXITSTATUS(info.exit_code);
}

/* An init says what became of the job itself: its own status cannot carry a signal. */
static void status_from_init(struct fctr_container *c)
{
	struct fctr_result r;

	if (c->status_fd < 0)
		return;
	while (read(c->status_fd, &r, sizeof(r)) == sizeof(r))
		if (r.hash == FCTR_REPORT_ENDED)
			c->exit.code = WIFSIGNALED(r.detail) ? -WTERMSIG(r.detail) : WEXITSTATUS(r.detail);
	fctr_close_fd(&c->status_fd);
}

static void collect(struct fctr_container *c, const struct rusage *ru, struct fctr_error *err)
{
	struct fctr_cgroup *cg = c->inst ? c->inst->cg : NULL;
	struct fctr_usage *u = &c->exit.usage;
	struct fctr_error ignored;
	int64_t *figures = (int64_t *)u;

	(void)err;
	c->t_exit = fctr_now();
	c->timings.run = (double)(c->t_exit - c->t_spawned) / 1000.0;
	status_from_init(c);
	for (size_t i = 0; i < sizeof(*u) / sizeof(int64_t); i++)
		figures[i] = FCTR_UNSET;
	/* with a pid namespace of its own the kernel has ended the rest; else it is on us */
	if (cg) {
		lock_group(c);
		if (!c->plan->pid_private)
			fctr_cgroup_kill(cg, 5000, &ignored);
		fctr_cgroup_stats(cg, u, &ignored);
		unlock_group(c);
	}
	if (u->cpu_user_us == FCTR_UNSET && ru) {
		u->cpu_user_us = ru->ru_utime.tv_sec * 1000000LL + ru->ru_utime.tv_usec;
		u->cpu_system_us = ru->ru_stime.tv_sec * 1000000LL + ru->ru_stime.tv_usec;
		u->cpu_total_us = u->cpu_user_us + u->cpu_system_us;
	}
	/* v1 groups do not count what is written back later, and there may be none: getrusage(2) tells it of all
	 * that was waited for in there, and the end of the init waits for the rest; in blocks of 512 */
	if (ru && c->inst && c->plan->pid_private) {
		if (u->io_read_bytes < ru->ru_inblock * 512LL)
			u->io_read_bytes = ru->ru_inblock * 512LL;
		if (u->io_write_bytes < ru->ru_oublock * 512LL)
			u->io_write_bytes = ru->ru_oublock * 512LL;
	}
	c->exit.oom = u->oom_kills > 0;
	c->timings.collect = (double)(fctr_now() - c->t_exit) / 1000.0;
}

/* Whether somebody has waited for it; its status is kept if it was us. */
bool fctr_reap(struct fctr_container *c)
{
	siginfo_t info = { .si_pid = 0 };
	long r = sys5(SYS_waitid, P_PIDFD, c->pidfd, &info, WEXITED | __WALL | WNOHANG, &c->ru);

	if (r < 0 || info.si_pid == 0)
		return r < 0;
	c->exit.code = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
	c->reaped = true;
	return true;
}

static bool was_reaped(struct fctr_container *c)
{
	bool yes;

	pthread_mutex_lock(&c->plan->ctx->lock);
	yes = c->reaped;
	pthread_mutex_unlock(&c->plan->ctx->lock);
	return yes;
}

/* The next instance is prepared once this start is over: beside it, it would slow it down. A short
 * job is waited for, a longer one not. */
#define SHORT_MS 2

static bool wants_refill(const struct fctr_container *c)
{
	return c->inst && c->inst->want_refill;
}

/* What is put off until a start has proved not to be a short job's. */
static bool wants_more(const struct fctr_container *c)
{
	return wants_refill(c) || c->pinned;
}

static void do_more(struct fctr_container *c)
{
	fctr_unpin(c);
	if (!wants_refill(c))
		return;
	c->inst->want_refill = false;
	fctr_ctx_want_refill(c->plan->ctx, c->plan);
}

void fctr_unpin(struct fctr_container *c)
{
	if (c->pinned)
		sys3(SYS_sched_setaffinity, c->pinned, c->pinned_len, c->pinned_from);
	c->pinned = 0;
}

int fctr_wait(struct fctr_container *c, int timeout_ms, struct fctr_exit *out, struct fctr_error *err)
{
	struct rusage ru;
	siginfo_t info = { .si_pid = 0 };
	struct pollfd p = { c->pidfd, POLLIN, 0 };
	long r;

	if (c->ended) {
		*out = c->exit;
		return 1;
	}
	if (wants_more(c) && (timeout_ms == 0 || (timeout_ms < 0 && poll(&p, 1, SHORT_MS) == 0)))
		do_more(c);
	if (timeout_ms > 0) {
		bool first = wants_more(c) && timeout_ms > SHORT_MS;

		r = poll(&p, 1, first ? SHORT_MS : timeout_ms);
		if (r == 0 && first) {
			do_more(c);
			r = poll(&p, 1, timeout_ms - SHORT_MS);
		}
		if (r == 0)
			return 0;
		if (r < 0)
			return fctr_fail(err, FCTR_ST_WAIT, errno, "poll");
	}
	memset(&ru, 0, sizeof(ru));
	r = sys5(SYS_waitid, P_PIDFD, c->pidfd, &info,
		 WEXITED | __WALL | (timeout_ms == 0 ? WNOHANG : 0) | (c->reap_later ? WNOWAIT : 0), &ru);
	if (r == -EINTR)
		return fctr_fail(err, FCTR_ST_WAIT, EINTR, "waitid");
	if (r == 0 && info.si_pid == 0)
		return 0;
	if (r == -ECHILD) {
		if (poll(&p, 1, timeout_ms) == 0)
			return 0;
		if (was_reaped(c))
			ru = c->ru;
		else
			status_of_lost(c);
	} else if (r < 0) {
		return fctr_fail(err, FCTR_ST_WAIT, (int)-r, "waitid");
	} else {
		c->exit.code = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
		c->zombie = c->reap_later;
	}
	c->ended = true;
	fctr_unpin(c);
	collect(c, r == -ECHILD && !c->reaped ? NULL : &ru, err);
	*out = c->exit;
	return 1;
}

/* ---- signals, freezing ------------------------------------------------------------------ */

int fctr_signal(struct fctr_container *c, int sig, struct fctr_error *err)
{
	long r;

	if (c->ended)
		return 0;
	r = sys4(SYS_pidfd_send_signal, c->pidfd, sig, NULL, 0);
	if (r == -ESRCH)	/* ended, not waited for yet: as subprocess has it */
		return 0;
	return r < 0 ? fctr_fail(err, FCTR_ST_KILL, (int)-r, "signal %d", sig) : 0;
}

int fctr_kill_all(struct fctr_container *c, struct fctr_error *err)
{
	struct fctr_cgroup *cg = c->inst ? c->inst->cg : NULL;
	struct fctr_error ignored;
	int r = 0;

	if (!c->ended)
		r = fctr_signal(c, SIGKILL, err);
	if (c->kept && !c->inst && !c->ended)	/* a resident's command: those it started, too */
		kill(-c->pid, SIGKILL);
	/* the end of a pid namespace's init is the end of all in it, and of what joined it */
	if (cg) {
		lock_group(c);
		if (!c->plan->pid_private)
			r = fctr_cgroup_kill(cg, 5000, err);
		if (c->frozen)
			fctr_cgroup_freeze(cg, false, &ignored);
		c->frozen = false;
		unlock_group(c);
	}
	/* an exec in a paused container: on v1 it cannot die before it is let go */
	if (!c->inst && c->host && c->host->frozen && group_of(c)) {
		struct pollfd p = { c->pidfd, POLLIN, 0 };

		lock_group(c);
		fctr_cgroup_freeze(group_of(c), false, &ignored);
		poll(&p, 1, 2000);
		fctr_cgroup_freeze(group_of(c), true, &ignored);
		unlock_group(c);
	}
	return r;
}

/* Why there is no group: it was not wanted, or none was to be had. */
int fctr_no_group(const struct fctr_plan *plan, int stage, struct fctr_error *err)
{
	if (plan->group_missing)
		return fctr_fail(err, FCTR_ST_CGROUP, EACCES, "this needs a control group of the container's own");
	return fctr_fail(err, stage, ENOTSUP, "the container was started without a control group (cgroup=False)");
}

static int need_group(struct fctr_container *c, struct fctr_cgroup **cg, int stage, struct fctr_error *err)
{
	*cg = group_of(c);
	if (!*cg && c->host && c->host->ended)
		return fctr_fail(err, stage, ESRCH, "the container has ended");
	if (!*cg)
		return fctr_no_group(c->host ? c->host->plan : c->plan, stage, err);
	return 0;
}

int fctr_freeze(struct fctr_container *c, bool frozen, struct fctr_error *err)
{
	struct fctr_cgroup *cg;
	int r;

	if (need_group(c, &cg, FCTR_ST_FREEZE, err) < 0)
		return -1;
	if (c->ended)
		return fctr_fail(err, FCTR_ST_FREEZE, ESRCH, "the container has ended");
	lock_group(c);
	r = fctr_cgroup_freeze(cg, frozen, err);
	unlock_group(c);
	if (r < 0)
		return -1;
	if (!c->inst)	/* an exec stands for the whole container */
		c = c->host;
	c->frozen = frozen;
	c->inst->cg_dirty = true;
	return 0;
}

int fctr_stats(struct fctr_container *c, struct fctr_usage *usage, struct fctr_error *err)
{
	struct fctr_cgroup *cg;
	int r;

	if (c->ended) {
		*usage = c->exit.usage;
		return 0;
	}
	if (need_group(c, &cg, FCTR_ST_STATS, err) < 0)
		return -1;
	lock_group(c);
	r = fctr_cgroup_stats(cg, usage, err);
	unlock_group(c);
	return r;
}

int fctr_update(struct fctr_container *c, const struct fctr_limits *limits, struct fctr_error *err)
{
	struct fctr_cgroup *cg;
	int r;

	if (need_group(c, &cg, FCTR_ST_LIMIT, err) < 0)
		return -1;
	if (c->ended)
		return fctr_fail(err, FCTR_ST_LIMIT, ESRCH, "the container has ended");
	if (!c->plan->cgroot)
		return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "an exec has the limits of its container");
	if (fctr_cgroup_check(c->plan->cgroot, limits, 0, err) < 0)
		return -1;
	if (c->inst)
		c->inst->cg_dirty = true;
	lock_group(c);
	r = fctr_cgroup_limit(cg, limits, err);
	unlock_group(c);
	return r;
}

int fctr_pids(struct fctr_container *c, pid_t **pids, size_t *n, struct fctr_error *err)
{
	struct fctr_cgroup *cg;
	int r;

	if (need_group(c, &cg, FCTR_ST_STATS, err) < 0)
		return -1;
	lock_group(c);
	r = fctr_cgroup_pids(cg, pids, n, err);
	unlock_group(c);
	return r;
}

void fctr_release(struct fctr_container *c)
{
	fctr_unpin(c);
	struct fctr_plan *plan = c->plan;
	struct fctr_ctx *ctx = plan->ctx;
	struct fctr_exit gone;
	struct fctr_error err;

	fctr_lanes_end(c);
	pthread_mutex_lock(&plan->ctx->lock);
	c->releasing = true;
	pthread_mutex_unlock(&plan->ctx->lock);
	if (!c->ended) {
		fctr_kill_all(c, &err);
		while (fctr_wait(c, -1, &gone, &err) < 0 && err.err == EINTR)
			;
	}
	if (plan->ctx->abandoned)	/* what it needs to be torn down is gone */
		return;
	fctr_ctx_unwatch(plan->ctx, c);
	if (c->zombie)
		c->inst->zombie = fctr_steal_fd(&c->pidfd);
	fctr_close_fd(&c->pidfd);
	fctr_close_fd(&c->master);
	fctr_close_fd(&c->status_fd);
	if (c->inst && plan->upper)	/* the next start may want the same upperdir at once */
		fctr_instance_teardown(c->inst, true);
	else if (c->inst && plan->tenant && fctr_slot_give(c->inst))
		;
	else if (c->inst) {
		bool want = wants_refill(c);

		fctr_ctx_bury(plan->ctx, c->inst);
		if (want)
			fctr_ctx_want_refill(plan->ctx, plan);
	}
	c->inst = NULL;
	c->ended = true;
	fctr_plan_unref(plan);
	if (c->host)
		fctr_container_unref(c->host);
	fctr_ctx_gone(ctx, c);
	fctr_container_unref(c);
}

void fctr_container_unref(struct fctr_container *c)
{
	if (atomic_fetch_sub(&c->refs, 1) == 1) {
		free(c->lanes);
		free(c);
	}
}

/* ---- input and output ------------------------------------------------------------------- */

static int grow(char **buf, size_t *cap, size_t len)
{
	size_t want = *cap ? *cap * 2 : 16384;
	char *p;

	if (*cap - len >= 4096)
		return 0;
	p = realloc(*buf, want);
	if (!p)
		return -1;
	*buf = p;
	*cap = want;
	return 0;
}

/* Read what is there. -1: no memory. */
static int drain_one(int *fd, char **buf, size_t *len, size_t *cap, size_t limit, bool *more)
{
	for (;;) {
		ssize_t n;

		if (*len >= limit) {
			char rest[65536];

			n = read(*fd, rest, sizeof(rest));
			*more |= n > 0;
			if (n > 0 || (n < 0 && errno == EINTR))
				continue;
			if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
				fctr_close_fd(fd);
			return 0;
		}
		if (grow(buf, cap, *len) < 0)
			return -1;
		n = read(*fd, *buf + *len, *cap - *len);
		if (n > 0) {
			*len += (size_t)n;
			if (*len > limit) {
				*len = limit;
				*more = true;
			}
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
			fctr_close_fd(fd);
		return 0;
	}
}

static int drain_out(struct fctr_io *io)
{
	return drain_one(&io->out, &io->out_buf, &io->out_len, &io->out_cap, io->limit, &io->out_more);
}

static int drain_err(struct fctr_io *io)
{
	return drain_one(&io->err, &io->err_buf, &io->err_len, &io->err_cap, io->limit, &io->err_more);
}

static void feed(struct fctr_io *io)
{
	while (io->input_done < io->input_len) {
		ssize_t n = write(io->in, io->input + io->input_done, io->input_len - io->input_done);

		if (n > 0) {
			io->input_done += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		break;		/* EPIPE: it does not want more */
	}
	fctr_close_fd(&io->in);
}

int fctr_communicate(struct fctr_container *c, struct fctr_io *io, int timeout_ms, struct fctr_exit *out,
		     struct fctr_error *err)
{
	int64_t until = timeout_ms < 0 ? 0 : fctr_now() + timeout_ms * 1000000LL;

	if (io->in >= 0 && io->input_done >= io->input_len)
		fctr_close_fd(&io->in);
	while (io->in >= 0 || io->out >= 0 || io->err >= 0) {
		struct pollfd p[4] = {
			{ io->in, POLLOUT, 0 }, { io->out, POLLIN, 0 }, { io->err, POLLIN, 0 },
			{ c->ended ? -1 : c->pidfd, POLLIN, 0 },
		};
		int left = -1, r;

		if (timeout_ms >= 0) {
			int64_t ms = (until - fctr_now() + 999999) / 1000000;

			left = ms < 0 ? 0 : (int)ms;
		}
		if (wants_more(c) && (left < 0 || left > SHORT_MS)) {
			r = poll(p, 4, SHORT_MS);
			if (r == 0) {
				do_more(c);
				continue;
			}
		} else {
			r = poll(p, 4, left);
		}
		if (r < 0)
			return fctr_fail(err, FCTR_ST_WAIT, errno, "poll");
		if (r == 0)
			return 0;
		if (p[0].revents)
			feed(io);
		if ((p[1].revents && drain_out(io) < 0) || (p[2].revents && drain_err(io) < 0))
			return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "output");
		if (!p[3].revents)
			continue;
		/* It has ended, and all in it: what is written is in the pipes. A descriptor passed
		 * out of the container could hold them open; that is not waited for. */
		r = fctr_wait(c, -1, out, err);
		if (r < 0)
			return r;
		if ((io->out >= 0 && drain_out(io) < 0) || (io->err >= 0 && drain_err(io) < 0))
			return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "output");
		fctr_close_fd(&io->in);
		fctr_close_fd(&io->out);
		fctr_close_fd(&io->err);
	}
	if (timeout_ms >= 0) {
		int64_t ms = (until - fctr_now() + 999999) / 1000000;

		timeout_ms = ms < 0 ? 0 : (int)ms;
	}
	return fctr_wait(c, timeout_ms, out, err);
}
