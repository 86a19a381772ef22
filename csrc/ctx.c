/* ctx.c: what the plans of one process share, and its one background thread, which tears dead
 * containers down and prepares the next ones. The thread starts with first use. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>

#include "core.h"
#include "launch.h"
#include "park.h"
#include "syscalls.h"

#define BACKLOG_MAX 64	/* more dead containers than this, and launchers bury their own */

int fctr_rmtree(int dirfd, const char *name)
{
	int fd, r = 0;
	DIR *dir;
	struct dirent *e;

	if (unlinkat(dirfd, name, 0) == 0)
		return 0;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -1;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -1;
	}
	while ((e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && fctr_rmtree(fd, e->d_name) < 0)
			r = -1;
	closedir(dir);
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 ? -1 : r;
}

/* ---- the host's mount table ------------------------------------------------------------ */

unsigned fctr_ctx_mount_generation(struct fctr_ctx *ctx)
{
	struct pollfd p = { ctx->mountinfo_fd, POLLPRI, 0 };
	unsigned gen;

	pthread_mutex_lock(&ctx->lock);
	/* the kernel tells each open file once of a change: proc_pid_mountinfo(5) */
	if (poll(&p, 1, 0) > 0)
		ctx->mount_gen++;
	gen = ctx->mount_gen;
	pthread_mutex_unlock(&ctx->lock);
	return gen;
}

/* ---- background ------------------------------------------------------------------------ */

static void refill_one(struct fctr_ctx *ctx, struct fctr_plan *p)
{
	struct fctr_instance *inst = NULL;
	struct fctr_error err;
	bool want;

	pthread_mutex_lock(&p->lock);
	want = p->n_warm + p->slots_out < p->target;
	/* one without its process is soon made, and better than none: those first, while they are few */
	if (!want || p->n_warm > 1)
		inst = fctr_instance_unparked(p);
	if (want || inst)
		p->preparing++;
	pthread_mutex_unlock(&p->lock);
	if (!want && !inst)
		return;
	if (!inst) {
		inst = fctr_instance_make(p, &err);
	} else if (!fctr_park(inst)) {
		fctr_instance_teardown(inst, true);
		inst = NULL;
	}
	pthread_mutex_lock(&p->lock);
	p->preparing--;
	if (inst) {
		if (fctr_instance_keep(inst))
			inst = NULL;
		want = p->n_warm < p->target || fctr_plan_has_unparked(p);
	} else {	/* a launch that needs it will report the same */
		fctr_plan_no_target(p);
		want = false;
	}
	pthread_mutex_unlock(&p->lock);
	if (inst)
		fctr_instance_teardown(inst, true);
	if (want)
		fctr_ctx_want_refill(ctx, p);
}

/* Plans nobody has used for a while give up what they keep. Returns whether any keeps something. */
static bool expire(struct fctr_ctx *ctx)
{
	int64_t now = fctr_now();
	struct fctr_plan *list[64];
	int n = 0;
	bool left = false;

	pthread_mutex_lock(&ctx->lock);
	for (struct fctr_plan *p = ctx->plans; p && n < 64; p = p->next) {
		if (p->held || (p->n_warm == 0 && p->n_groups_free == 0 && p->tmpl_fd < 0))
			continue;
		if (now - p->last_used < ctx->config.idle_ms * 1000000LL) {
			left = true;
			continue;
		}
		if (fctr_plan_tryref(p))
			list[n++] = p;
	}
	pthread_mutex_unlock(&ctx->lock);
	for (int i = 0; i < n; i++) {
		fctr_plan_drop_warm(list[i]);
		fctr_plan_unref(list[i]);
	}
	return left || ctx->n_nets > 0;
}

static void *background(void *arg)
{
	struct fctr_ctx *ctx = arg;
	bool timed = true;

	pthread_mutex_lock(&ctx->lock);
	for (;;) {
		struct fctr_instance *dead = ctx->dead;
		struct fctr_plan *p = NULL;
		struct fctr_launch_request *req = ctx->requests;

		if (req)
			ctx->requests = req->next;
		/* the dead have network namespaces, which cost more to make than the rest to clear away */
		else if (ctx->n_refill > 0 && (!dead || (ctx->n_dead < BACKLOG_MAX / 4 && ctx->nets))) {
			p = ctx->refill[0];
			memmove(ctx->refill, ctx->refill + 1, (size_t)--ctx->n_refill * sizeof(p));
		} else if (dead) {
			ctx->dead = dead->next;
			ctx->n_dead--;
		}
		if (!req && !p && !dead) {
			if (ctx->stop)
				break;
			ctx->busy = false;
			pthread_cond_broadcast(&ctx->idle);
			if (fctr_ctx_sleep(ctx, timed ? 1000 : -1)) {
				timed = true;
			} else {
				pthread_mutex_unlock(&ctx->lock);
				timed = expire(ctx);
				pthread_mutex_lock(&ctx->lock);
			}
			continue;
		}
		ctx->busy = true;
		pthread_mutex_unlock(&ctx->lock);
		if (req)
			fctr_launch_serve(req);
		else if (p) {
			refill_one(ctx, p);
			fctr_plan_unref(p);
		} else {
			fctr_instance_teardown(dead, true);
		}
		pthread_mutex_lock(&ctx->lock);
	}
	ctx->busy = false;
	pthread_cond_broadcast(&ctx->idle);
	pthread_mutex_unlock(&ctx->lock);
	return NULL;
}

/* With the lock held. All signals stay blocked in the thread: they are the user's. */
bool fctr_ctx_start_thread(struct fctr_ctx *ctx)
{
	struct fctr_sigs saved;

	if (ctx->thread_started || ctx->stop)
		return ctx->thread_started;
	fctr_block_signals(&saved);
	if (pthread_create(&ctx->thread, NULL, background, ctx) == 0) {
		pthread_setname_np(ctx->thread, "fastctr");
		ctx->thread_started = true;
	}
	fctr_restore_signals(&saved);
	return ctx->thread_started;
}

void fctr_ctx_bury(struct fctr_ctx *ctx, struct fctr_instance *inst)
{
	bool queued = false;

	pthread_mutex_lock(&ctx->lock);
	if (fctr_ctx_start_thread(ctx) && !ctx->stop && ctx->n_dead < BACKLOG_MAX) {
		struct fctr_instance **at = &ctx->dead;

		while (*at)
			at = &(*at)->next;
		inst->next = NULL;
		*at = inst;
		ctx->n_dead++;
		ctx->busy = true;
		queued = true;
		fctr_ctx_wake(ctx);
	}
	pthread_mutex_unlock(&ctx->lock);
	if (!queued)
		fctr_instance_teardown(inst, true);
}

void fctr_ctx_want_refill(struct fctr_ctx *ctx, struct fctr_plan *plan)
{
	pthread_mutex_lock(&ctx->lock);
	for (int i = 0; i < ctx->n_refill; i++)
		if (ctx->refill[i] == plan)
			goto out;
	if (ctx->n_refill < (int)ARRAY_LEN(ctx->refill) && !ctx->stop && fctr_ctx_start_thread(ctx)) {
		fctr_plan_ref(plan);
		ctx->refill[ctx->n_refill++] = plan;
		ctx->busy = true;
		fctr_ctx_wake(ctx);
	}
out:
	pthread_mutex_unlock(&ctx->lock);
}

/* A launch to be made by a thread that lives as long as the process. */
bool fctr_ctx_request(struct fctr_ctx *ctx, struct fctr_launch_request *req)
{
	bool ok;

	pthread_mutex_lock(&ctx->lock);
	ok = fctr_ctx_start_thread(ctx) && !ctx->stop;
	if (ok) {
		struct fctr_launch_request **at = &ctx->requests;

		while (*at)
			at = &(*at)->next;
		req->next = NULL;
		*at = req;
		fctr_ctx_wake(ctx);
	}
	pthread_mutex_unlock(&ctx->lock);
	return ok;
}

void fctr_ctx_settle(struct fctr_ctx *ctx)
{
	pthread_mutex_lock(&ctx->lock);
	while (ctx->thread_started && !ctx->stop && (ctx->busy || ctx->dead || ctx->n_refill))
		pthread_cond_wait(&ctx->idle, &ctx->lock);
	pthread_mutex_unlock(&ctx->lock);
}

void fctr_ctx_drain(struct fctr_ctx *ctx, bool keep_warm)
{
	struct fctr_plan *list[256];
	int n = 0;

	for (;;) {
		struct fctr_netns *nets = NULL;
		bool quiet;

		pthread_mutex_lock(&ctx->lock);
		while (ctx->thread_started && (ctx->busy || ctx->dead || ctx->n_refill))
			pthread_cond_wait(&ctx->idle, &ctx->lock);
		n = 0;
		for (struct fctr_plan *p = ctx->plans; p && n < 256 && !keep_warm; p = p->next)
			if ((p->n_warm || p->n_groups_free || p->tmpl_fd >= 0 || p->target) && fctr_plan_tryref(p))
				list[n++] = p;
		pthread_mutex_unlock(&ctx->lock);
		for (int i = 0; i < n; i++) {
			fctr_plan_drop_warm(list[i]);
			fctr_plan_unref(list[i]);
		}
		pthread_mutex_lock(&ctx->lock);
		quiet = n == 0;
		if (quiet && !keep_warm) {
			nets = ctx->nets;
			ctx->nets = NULL;
			ctx->n_nets = 0;
		}
		pthread_mutex_unlock(&ctx->lock);
		while (nets) {
			struct fctr_netns *next = nets->next;

			fctr_netns_drop(nets);
			nets = next;
		}
		if (quiet)
			return;
	}
}

/* ---- cgroup roots ---------------------------------------------------------------------- */

int fctr_ctx_cgroot(struct fctr_ctx *ctx, const char *parent, struct fctr_cgroot **out, struct fctr_error *err)
{
	struct fctr_cgroot_entry *e;
	int r = 0;

	pthread_mutex_lock(&ctx->lock);
	for (e = ctx->cgroots; e; e = e->next)
		if ((!e->parent && !parent) || (e->parent && parent && strcmp(e->parent, parent) == 0))
			break;
	if (!e) {
		e = calloc(1, sizeof(*e));
		r = fctr_cgroot_open(parent, ctx->owner, &e->root, err);
		if (r < 0) {
			free(e);
			e = NULL;
		} else {
			e->parent = parent ? strdup(parent) : NULL;
			e->next = ctx->cgroots;
			ctx->cgroots = e;
		}
	}
	pthread_mutex_unlock(&ctx->lock);
	if (r == 0)
		*out = e->root;
	return r;
}

/* ---- open and close -------------------------------------------------------------------- */

int fctr_ctx_open(const struct fctr_config *config, struct fctr_ctx **out, struct fctr_error *err)
{
	struct fctr_ctx *ctx = calloc(1, sizeof(*ctx));
	cleanup_close int dir = -1;
	char tag[72];
	struct rlimit files;

	if (!ctx)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "context");
	ctx->config = *config;
	if (fctr_owner_tag(config->runtime_dir, tag, sizeof(tag)) < 0) {
		free(ctx);
		return fctr_fail(err, FCTR_ST_FILE, errno, "%s", config->runtime_dir);
	}
	ctx->runtime_dir = strdup(config->runtime_dir);
	if (asprintf(&ctx->owner, "%s%s", config->owner, tag) < 0)
		ctx->owner = NULL;
	if (!ctx->runtime_dir || !ctx->owner) {
		free(ctx->runtime_dir);
		free(ctx->owner);
		free(ctx);
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "context");
	}
	ctx->config.runtime_dir = ctx->config.owner = NULL;
	ctx->pid = getpid();
	/* an instance holds up to 16 descriptors; all of them together a quarter of what there may be */
	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur / 64 > 1024)
		files.rlim_cur = 64 * 1024;
	ctx->targets_max = files.rlim_cur / 64 < 4 ? 4 : (int)(files.rlim_cur / 64);
	ctx->lock_fd = ctx->null_fd = ctx->owner_pidfd = ctx->mountinfo_fd = ctx->pidns_fd = ctx->oom_fd =
		ctx->wake_fd = -1;
	pthread_mutex_init(&ctx->lock, NULL);
	pthread_cond_init(&ctx->idle, NULL);
	dir = open(ctx->runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ctx->lock_fd = dir < 0 ? -1 : fctr_owner_lock(dir, ctx->owner);
	if (ctx->lock_fd < 0) {
		fctr_fail(err, FCTR_ST_FILE, errno, "%s/%s", ctx->runtime_dir, ctx->owner);
		goto fail;
	}
	ctx->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	ctx->owner_pidfd = (int)sys2(SYS_pidfd_open, getpid(), 0);
	ctx->mountinfo_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	ctx->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ctx->null_fd < 0 || ctx->owner_pidfd < 0 || ctx->mountinfo_fd < 0 || ctx->wake_fd < 0) {
		fctr_fail(err, FCTR_ST_FILE, errno, "/dev/null, pidfd, eventfd or /proc/self/mountinfo");
		goto fail;
	}
	ctx->pidns_fd = open("/proc/thread-self/ns/pid", O_RDONLY | O_CLOEXEC);
	ctx->oom_fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
	ctx->can_prepare_pid = config->privileged && ctx->pidns_fd >= 0 && fctr_probe_pidns(ctx);
	*out = ctx;
	return 0;
fail:
	if (ctx->lock_fd >= 0)
		unlinkat(dir, ctx->owner, 0);
	fctr_ctx_forked(ctx);
	free(ctx);
	return -1;
}

void fctr_ctx_close(struct fctr_ctx *ctx)
{
	cleanup_close int dir = -1;

	fctr_ctx_end_all(ctx);
	fctr_ctx_drain(ctx, false);
	pthread_mutex_lock(&ctx->lock);
	ctx->stop = true;
	fctr_ctx_wake(ctx);
	pthread_mutex_unlock(&ctx->lock);
	if (ctx->thread_started)
		pthread_join(ctx->thread, NULL);
	ctx->thread_started = false;
	if (ctx->abandoned)	/* leave all of it; whoever sweeps next clears it away */
		return;
	fctr_ctx_drain(ctx, false);	/* what came in between */
	for (struct fctr_cgroot_entry *e = ctx->cgroots; e; e = e->next)
		fctr_cgroot_close(e->root);
	ctx->cgroots = NULL;
	fctr_close_fd(&ctx->null_fd);	/* one to spare, if the process has no more descriptors */
	dir = open(ctx->runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0)
		unlinkat(dir, ctx->owner, 0);
	for (int i = 0; i < ctx->n_stacks; i++)
		sys2(SYS_munmap, ctx->stacks[i], 2 * FCTR_STACK_SIZE);
	ctx->n_stacks = 0;
	fctr_ctx_forked(ctx);
}

/* Our copies of the descriptors only: groups, locks and containers are the parent's. The memory
 * stays (a few kB): its mutexes may have been held by threads that do not exist here. */
static void close_instances(struct fctr_instance *list)
{
	for (struct fctr_instance *i = list; i; i = i->next) {
		fctr_close_fd(&i->mnt);
		fctr_close_fd(&i->ipc);
		fctr_close_fd(&i->uts);
		fctr_close_fd(&i->pidns);
		fctr_park_forked(i);
		fctr_slot_forked(i);
		fctr_close_fd(&i->net_fd);
		fctr_close_fd(&i->upper_lock);
		if (i->net)
			fctr_close_fd(&i->net->fd);
	}
}

void fctr_ctx_forked(struct fctr_ctx *ctx)
{
	fctr_close_fd(&ctx->lock_fd);
	fctr_close_fd(&ctx->null_fd);
	fctr_close_fd(&ctx->owner_pidfd);
	fctr_close_fd(&ctx->mountinfo_fd);
	fctr_close_fd(&ctx->pidns_fd);
	fctr_close_fd(&ctx->oom_fd);
	fctr_close_fd(&ctx->wake_fd);
	for (struct fctr_netns *n = ctx->nets; n; n = n->next)
		fctr_close_fd(&n->fd);
	for (struct fctr_plan *p = ctx->plans; p; p = p->next) {
		fctr_close_fd(&p->tmpl_fd);
		close_instances(p->warm);
	}
	close_instances(ctx->dead);
	ctx->nets = NULL;
	ctx->plans = NULL;
}

void fctr_ctx_counters(struct fctr_ctx *ctx, struct fctr_counters *out)
{
	pthread_mutex_lock(&ctx->lock);
	*out = ctx->counters;
	out->pending = ctx->n_dead;
	out->warm = 0;
	for (struct fctr_plan *p = ctx->plans; p; p = p->next)
		out->warm += p->n_warm;
	pthread_mutex_unlock(&ctx->lock);
}
