/* instance.c: templates, instances and the few that are kept warm.
 *
 * An instance is everything of one container that can be made before its process: mount, ipc,
 * uts and network namespaces, cgroup, stack. Each is used once. A plan that is launched again
 * and again has some made in the background beforehand; when none is there, one is made on the
 * spot by the same steps.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "park.h"
#include "syscalls.h"

static void fill_slots(struct fctr_plan *p, int *slot)
{
	for (uint32_t i = 0; i < p->n_slots; i++)
		slot[i] = -1;
	slot[FCTR_SLOT_USER] = p->ns_fd[FCTR_NS_USER];
	slot[FCTR_SLOT_NET] = p->ns_fd[FCTR_NS_NET];
	slot[FCTR_SLOT_IPC] = p->ns_fd[FCTR_NS_IPC];
	for (size_t i = 0; i < p->n_idmap_fds; i++)
		slot[p->userns_maps + (int)i] = p->idmap_fds[i];
}

static bool is_borrowed(const struct fctr_plan *p, int fd)
{
	for (int i = 0; i < FCTR_NS_COUNT; i++)
		if (fd == p->ns_fd[i])
			return true;
	for (size_t i = 0; i < p->n_idmap_fds; i++)
		if (fd == p->idmap_fds[i])
			return true;
	return false;
}

/* Trees whose placing never came, after a failure. */
static void close_rest(struct fctr_plan *p, int *slot)
{
	for (uint32_t i = 0; i < p->n_slots; i++)
		if (slot[i] >= 0 && !is_borrowed(p, slot[i]))
			close(slot[i]);
}

static int stat_sources(struct fctr_plan *p, bool record)
{
	for (size_t i = 0; i < p->n_sources; i++) {
		struct stat st;

		if (fstatat(AT_FDCWD, p->sources[i].path, &st, 0) < 0)
			st.st_dev = 0, st.st_ino = 0;	/* the step that needs it says so */
		if (record) {
			p->sources[i].dev = st.st_dev;
			p->sources[i].ino = st.st_ino;
		} else if (p->sources[i].dev != st.st_dev || p->sources[i].ino != st.st_ino) {
			return -1;
		}
	}
	return 0;
}

/* With the plan's lock held: a template that shows the host as it is now, and no warm instance
 * made from an older one. */
static int check_template(struct fctr_plan *p, struct fctr_instance **stale)
{
	unsigned gen = p->mount_sensitive ? fctr_ctx_mount_generation(p->ctx) : 0;

	if (p->tmpl_fd >= 0 && gen == p->mount_gen && stat_sources(p, false) == 0)
		return 1;
	*stale = p->warm;
	p->warm = NULL;
	p->n_warm = 0;
	fctr_close_fd(&p->tmpl_fd);
	p->tmpl_gen++;
	p->mount_gen = gen;
	return 0;
}

static int make_template(struct fctr_plan *p, char *stack, struct fctr_error *err)
{
	cleanup_free int *slot = malloc(p->n_slots * sizeof(int));
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct fctr_result result;
	int r;

	if (!slot)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "template");
	fill_slots(p, slot);
	stat_sources(p, true);
	r = fctr_helper(p->ctx, &p->tmpl, p->blob, slot, &params, stack, &result, err);
	if (r == 0) {
		p->tmpl_fd = slot[FCTR_SLOT_TEMPLATE];
		slot[FCTR_SLOT_TEMPLATE] = -1;
	}
	close_rest(p, slot);
	return r;
}

static int lock_upper(struct fctr_plan *p, struct fctr_instance *inst, struct fctr_error *err)
{
	/* two overlays on one upperdir would corrupt each other */
	inst->upper_lock = open(p->upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (inst->upper_lock < 0)
		return fctr_fail(err, FCTR_ST_OVERLAY, errno, "%s", p->upper);
	if (flock(inst->upper_lock, LOCK_EX | LOCK_NB) < 0)
		return fctr_fail(err, FCTR_ST_OVERLAY, EBUSY, "%s", p->upper);
	return 0;
}

static void drop_scratch(struct fctr_plan *p, struct fctr_instance *inst)
{
	if (inst->scratch_name[0]) {
		cleanup_close int dir = open(p->scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0)
			fctr_rmtree(dir, inst->scratch_name);
		inst->scratch_name[0] = '\0';
	}
}

static int make_scratch(struct fctr_plan *p, struct fctr_instance *inst, struct fctr_error *err)
{
	cleanup_close int dir = open(p->scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int own = -1;

	if (dir < 0)
		return fctr_fail(err, FCTR_ST_OVERLAY, errno, "%s", p->scratch);
	snprintf(inst->scratch_name, sizeof(inst->scratch_name), "%u", atomic_fetch_add(&p->ctx->serial, 1));
	if (mkdirat(dir, inst->scratch_name, 0700) < 0) {
		inst->scratch_name[0] = '\0';
		return fctr_fail(err, FCTR_ST_OVERLAY, errno, "%s", p->scratch);
	}
	own = openat(dir, inst->scratch_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (own < 0 || mkdirat(own, "u", 0755) < 0 || mkdirat(own, "w", 0755) < 0 || fchmodat(own, "u", 0755, 0) < 0)
		return fctr_fail(err, FCTR_ST_OVERLAY, errno, "%s/%s", p->scratch, inst->scratch_name);
	return 0;
}

#define NET_USED 1	/* the network namespace does not look fresh any more */

/* tmpl: a descriptor of the template's that becomes ours: the plan may close its own any time. */
static int make_mounts(struct fctr_plan *p, struct fctr_instance *inst, int tmpl, struct fctr_error *err)
{
	cleanup_free int *slot = malloc(p->n_slots * sizeof(int));
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1, .cwd = inst->scratch_name };
	struct fctr_result result;
	char command[sizeof(p->last_exec)];
	char *candidates[] = { command, NULL };
	int r, net_given;

	pthread_mutex_lock(&p->lock);
	memcpy(command, p->last_exec, sizeof(command));
	pthread_mutex_unlock(&p->lock);
	params.candidates = command[0] ? candidates : NULL;
	if (!slot) {
		close(tmpl);
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "instance");
	}
	fill_slots(p, slot);
	slot[FCTR_SLOT_TEMPLATE] = tmpl;
	if (inst->net)
		slot[FCTR_SLOT_NET] = inst->net->fd;
	net_given = slot[FCTR_SLOT_NET];
	r = fctr_helper(p->ctx, &p->inst, p->blob, slot, &params, inst->stack, &result, err);
	if (r == 0 && inst->net && inst->net->used && result.hash != inst->net->hash)
		r = NET_USED;
	if (r == 0 && p->need_user)
		r = fctr_user_lookup(slot[FCTR_SLOT_PASSWD], slot[FCTR_SLOT_GROUP], p->user, &inst->user, err);
	for (size_t i = 0; r == 0 && p->need_user && i < p->n_groups; i++)	/* group_add: besides those found */
		if (inst->user.n_groups < FCTR_USER_GROUPS)
			inst->user.groups[inst->user.n_groups++] = p->groups[i];
	if (r == 0) {
		inst->mnt = slot[FCTR_SLOT_MNT];
		slot[FCTR_SLOT_MNT] = -1;
		if (slot[FCTR_SLOT_IPC] != p->ns_fd[FCTR_NS_IPC])
			inst->ipc = slot[FCTR_SLOT_IPC];
		slot[FCTR_SLOT_IPC] = -1;
		inst->upper = slot[FCTR_SLOT_UPPER];
		slot[FCTR_SLOT_UPPER] = -1;
		inst->pidns = slot[FCTR_SLOT_PIDNS];
		slot[FCTR_SLOT_PIDNS] = -1;
		inst->uts = slot[FCTR_SLOT_UTS];
		slot[FCTR_SLOT_UTS] = -1;
		if (slot[FCTR_SLOT_NET] != net_given)
			inst->net_fd = slot[FCTR_SLOT_NET];
		slot[FCTR_SLOT_NET] = -1;
	} else if (slot[FCTR_SLOT_NET] == net_given) {
		slot[FCTR_SLOT_NET] = -1;
	}
	close_rest(p, slot);
	return r;
}

static void teardown_list(struct fctr_instance *list)
{
	while (list) {
		struct fctr_instance *next = list->next;

		fctr_instance_teardown(list, true);
		list = next;
	}
}

static int make_root(struct fctr_plan *p, struct fctr_instance *inst, struct fctr_error *err)
{
	struct fctr_instance *stale = NULL;
	int r = 0, tmpl = -1;

	pthread_mutex_lock(&p->lock);
	if (!check_template(p, &stale))
		r = make_template(p, inst->stack, err);
	if (r == 0) {
		tmpl = fcntl(p->tmpl_fd, F_DUPFD_CLOEXEC, 3);
		if (tmpl < 0)
			r = fctr_fail(err, FCTR_ST_TEMPLATE, errno, "descriptor of the template");
	}
	inst->tmpl_gen = p->tmpl_gen;
	pthread_mutex_unlock(&p->lock);
	teardown_list(stale);
	return r < 0 ? r : make_mounts(p, inst, tmpl, err);
}

static int make_group(struct fctr_plan *p, struct fctr_instance *inst, struct fctr_error *err)
{
	char name[24];

	pthread_mutex_lock(&p->lock);
	if (p->n_groups_free > 0)
		inst->cg = p->groups_free[--p->n_groups_free];
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_lock(&p->ctx->lock);
	if (inst->cg)
		p->ctx->counters.cg_reused++;
	else
		p->ctx->counters.cg_new++;
	pthread_mutex_unlock(&p->ctx->lock);
	if (inst->cg) {
		int fds[FCTR_CG_MAX_TASKS];

		fctr_cgroup_tasks(inst->cg, fds);	/* opened here, if they are not, off the path */
		return 0;
	}
	snprintf(name, sizeof(name), "%u", atomic_fetch_add(&p->ctx->serial, 1));
	return fctr_cgroup_create(p->cgroot, name, &p->limits, p->devrules, p->n_devrules, &inst->cg, err);
}

struct fctr_instance *fctr_instance_make(struct fctr_plan *p, struct fctr_error *err)
{
	struct fctr_instance *inst = calloc(1, sizeof(*inst));
	int r = 0;

	if (!inst) {
		fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "instance");
		return NULL;
	}
	inst->plan = p;
	inst->upper = inst->slot_empty = inst->slot_proc = inst->slot_old = inst->slot_grave =
		inst->cgroupns = -1;
	inst->mnt = inst->ipc = inst->uts = inst->pidns = inst->upper_lock = inst->net_fd = inst->zombie = -1;
	pthread_mutex_init(&inst->cg_lock, NULL);
	fctr_plan_ref(p);
	inst->stack = fctr_stack_get(p->ctx);
	if (!inst->stack) {
		fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "stack");
		goto fail;
	}
	if (p->has_cgroup && make_group(p, inst, err) < 0)
		goto fail;
	if (p->net_pool) {
		inst->net = fctr_netns_get(p->ctx, inst->stack, err);
		if (!inst->net)
			goto fail;
	}
	if (p->own_mnt) {
		if (p->upper && lock_upper(p, inst, err) < 0)
			goto fail;
		if (p->disk_scratch && make_scratch(p, inst, err) < 0)
			goto fail;
		r = make_root(p, inst, err);
		while (r == NET_USED) {
			fctr_netns_drop(inst->net);
			inst->net = fctr_netns_get(p->ctx, inst->stack, err);
			r = inst->net ? 0 : -1;
			if (r == 0 && p->disk_scratch) {	/* a volatile overlay's directories serve once */
				drop_scratch(p, inst);
				r = make_scratch(p, inst, err);
			}
			if (r == 0)
				r = make_root(p, inst, err);
		}
		if (r < 0)
			goto fail;
	} else if (p->need_user) {
		inst->user.uid = p->uid;
		inst->user.gid = p->gid;
	}
	if (p->tenant && fctr_slot_open(inst, err) < 0)
		goto fail;
	pthread_mutex_lock(&p->ctx->lock);
	p->ctx->counters.prepared++;
	pthread_mutex_unlock(&p->ctx->lock);
	return inst;
fail:
	fctr_instance_teardown(inst, true);
	return NULL;
}

/* With the lock held: one that has its process, else any. */
static struct fctr_instance *take_warm(struct fctr_plan *p)
{
	struct fctr_instance **at = &p->warm, *inst;

	while (*at && !(*at)->park)
		at = &(*at)->next;
	if (!*at)
		at = &p->warm;
	inst = *at;
	*at = inst->next;
	p->n_warm--;
	return inst;
}

struct fctr_instance *fctr_instance_take(struct fctr_plan *p, bool fresh, struct fctr_error *err)
{
	struct fctr_instance *inst = NULL, *stale = NULL;
	int64_t now = fctr_now();
	bool want = false, hit = false, again;

	pthread_mutex_lock(&p->lock);
	again = p->last_used && now - p->last_used < 2000000000LL;	/* one use alone says nothing of a next */
	p->last_used = now;
	if (p->pooled && !fresh) {
		if (p->held)
			fctr_plan_want(p, p->held);
		if (p->warm && check_template(p, &stale))
			inst = take_warm(p);
		if (!inst && again && !p->tenant && p->target < p->ctx->config.warm_max &&
			   __atomic_load_n(&p->ctx->targets, __ATOMIC_RELAXED) < p->ctx->targets_max) {
			p->target++;
			__atomic_add_fetch(&p->ctx->targets, 1, __ATOMIC_RELAXED);
		}
		want = !p->tenant && p->n_warm + p->preparing < p->target;
	}
	pthread_mutex_unlock(&p->lock);
	teardown_list(stale);
	if (!inst)
		inst = fctr_instance_make(p, err);
	else
		hit = true;
	if (inst) {
		inst->slot_out = p->tenant;
		inst->slot_since = now;
		if (p->tenant)
			__atomic_add_fetch(&p->slots_out, 1, __ATOMIC_RELAXED);
		inst->next = NULL;
		inst->want_refill = want;
		inst->was_warm = hit;
	}
	if (hit) {
		pthread_mutex_lock(&p->ctx->lock);
		p->ctx->counters.warm_hits++;
		pthread_mutex_unlock(&p->ctx->lock);
	}
	return inst;
}

/* Its template may have been given up while it was made, or the plan closed: then it is of no use. */
bool fctr_instance_keep(struct fctr_instance *inst)
{
	struct fctr_plan *p = inst->plan;

	if (p->closed || inst->tmpl_gen != p->tmpl_gen)
		return false;
	inst->next = p->warm;
	p->warm = inst;
	p->n_warm++;
	return true;
}

bool fctr_plan_has_unparked(const struct fctr_plan *p)
{
	for (const struct fctr_instance *inst = p->warm; inst; inst = inst->next)
		if (fctr_park_wanted(inst))
			return true;
	return false;
}

struct fctr_instance *fctr_instance_unparked(struct fctr_plan *p)
{
	for (struct fctr_instance **at = &p->warm; *at; at = &(*at)->next) {
		struct fctr_instance *inst = *at;

		if (fctr_park_wanted(inst)) {
			*at = inst->next;
			p->n_warm--;
			return inst;
		}
	}
	return NULL;
}

static void give_group_back(struct fctr_plan *p, struct fctr_instance *inst, bool reuse)
{
	bool kept = false;

	if (reuse && !p->closed && !inst->cg_dirty && fctr_cgroup_recycle(inst->cg, false) == 1) {
		pthread_mutex_lock(&p->lock);
		if (p->n_groups_free < (int)ARRAY_LEN(p->groups_free) && p->n_groups_free < p->target + 2) {
			p->groups_free[p->n_groups_free++] = inst->cg;
			kept = true;
		}
		pthread_mutex_unlock(&p->lock);
	}
	if (!kept)
		fctr_cgroup_destroy(inst->cg);
}

/* A job's end is seen without reaping it: the kernel then throws away what lookups have left of it in
 * every procfs, and where a monitor has been through /proc/<pid>/fd that takes half a millisecond. */
static void reap(struct fctr_instance *inst)
{
	siginfo_t info;

	if (inst->zombie >= 0)
		while (sys5(SYS_waitid, P_PIDFD, inst->zombie, &info, WEXITED | __WALL, NULL) == -EINTR)
			;
	fctr_close_fd(&inst->zombie);
}

void fctr_instance_teardown(struct fctr_instance *inst, bool reuse)
{
	struct fctr_plan *p = inst->plan;
	struct fctr_ctx *ctx = p->ctx;

	reap(inst);
	fctr_park_end(inst);
	fctr_slot_close(inst);
	fctr_close_fd(&inst->mnt);
	fctr_close_fd(&inst->ipc);
	fctr_close_fd(&inst->uts);
	fctr_close_fd(&inst->pidns);
	fctr_close_fd(&inst->net_fd);
	drop_scratch(p, inst);
	fctr_close_fd(&inst->upper_lock);
	if (inst->net && reuse)
		fctr_netns_put(ctx, inst->net);
	else if (inst->net)
		fctr_netns_drop(inst->net);
	if (inst->cg)
		give_group_back(p, inst, reuse);
	fctr_stack_put(ctx, inst->stack);
	pthread_mutex_destroy(&inst->cg_lock);
	free(inst);
	fctr_plan_unref(p);
}

void fctr_plan_no_target(struct fctr_plan *p)
{
	__atomic_sub_fetch(&p->ctx->targets, p->target, __ATOMIC_RELAXED);
	p->target = 0;
}

void fctr_plan_drop_warm(struct fctr_plan *p)
{
	struct fctr_instance *list;
	struct fctr_cgroup *groups[ARRAY_LEN(p->groups_free)];
	int n;

	pthread_mutex_lock(&p->lock);
	list = p->warm;
	p->warm = NULL;
	p->n_warm = 0;
	fctr_plan_no_target(p);
	fctr_close_fd(&p->tmpl_fd);
	pthread_mutex_unlock(&p->lock);
	teardown_list(list);
	pthread_mutex_lock(&p->lock);
	n = p->n_groups_free;
	p->n_groups_free = 0;
	memcpy(groups, p->groups_free, sizeof(groups));
	pthread_mutex_unlock(&p->lock);
	for (int i = 0; i < n; i++)
		fctr_cgroup_destroy(groups[i]);
}

int fctr_plan_warm(struct fctr_plan *p, int n, struct fctr_error *err)
{
	if (!p->pooled)
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "a plan with a kept upperdir, or without a mount namespace, is not prepared ahead");
	for (;;) {
		struct fctr_instance *inst;
		bool enough, kept;

		pthread_mutex_lock(&p->lock);
		enough = p->n_warm >= n || p->closed;
		fctr_plan_want(p, n);
		p->last_used = fctr_now();
		pthread_mutex_unlock(&p->lock);
		if (enough) {
			if (p->parks) {
				fctr_ctx_want_refill(p->ctx, p);
				fctr_ctx_settle(p->ctx);
			}
			return 0;
		}
		inst = fctr_instance_make(p, err);
		if (!inst)
			return -1;
		pthread_mutex_lock(&p->lock);
		kept = fctr_instance_keep(inst);
		pthread_mutex_unlock(&p->lock);
		if (!kept)
			fctr_instance_teardown(inst, true);
	}
}

int fctr_plan_ready(const struct fctr_plan *p)
{
	return __atomic_load_n(&p->n_warm, __ATOMIC_RELAXED);
}

/* Whether this kernel can make a pid namespace and its procfs before there is a process in it. */
bool fctr_probe_pidns(struct fctr_ctx *ctx)
{
	static const char blob[] = "\0\0proc\0/";
	struct fctr_step v[] = {
		{ .op = FCTR_OP_NEW_PIDNS, .stage = FCTR_ST_NAMESPACE, .slot = FCTR_SLOT_PIDNS, .slot2 = -1 },
		{ .op = FCTR_OP_UNSHARE, .stage = FCTR_ST_NAMESPACE, .slot = -1, .slot2 = -1, .a = 0x00020000 /* CLONE_NEWNS */ },
		{ .op = FCTR_OP_PRIVATE, .stage = FCTR_ST_NAMESPACE, .slot = -1, .slot2 = -1 },
		{ .op = FCTR_OP_CHDIR, .stage = FCTR_ST_NAMESPACE, .slot = -1, .slot2 = -1, .s1 = 7 },
		{ .op = FCTR_OP_FSMOUNT, .stage = FCTR_ST_PROC, .slot = -1, .slot2 = -1, .s1 = 2, .s2 = 2,
		  .flags = FCTR_STEP_NOCREATE | FCTR_STEP_PIDNS },
	};
	struct fctr_steps steps = { v, ARRAY_LEN(v), 0 };
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct fctr_result result;
	struct fctr_error err;
	int slot[FCTR_SLOT_TREE];
	char *stack = fctr_stack_get(ctx);
	bool ok;

	for (size_t i = 0; i < ARRAY_LEN(slot); i++)
		slot[i] = -1;
	ok = stack && fctr_helper(ctx, &steps, blob, slot, &params, stack, &result, &err) == 0;
	fctr_close_fd(&slot[FCTR_SLOT_PIDNS]);
	fctr_stack_put(ctx, stack);
	return ok;
}

/* console: also as /dev/console, which is the container's own first terminal and no later one's. */
int fctr_instance_pty(struct fctr_instance *inst, bool console, char *stack, int *master, int *slave,
		      struct fctr_error *err)
{
	static const char blob[] = "\0/";
	struct fctr_step v[] = {
		{ .op = FCTR_OP_SETNS, .stage = FCTR_ST_USERNS, .slot = FCTR_SLOT_USER, .slot2 = -1, .a = 0x10000000 /* CLONE_NEWUSER */ },
		{ .op = FCTR_OP_ROOT_IDS, .stage = FCTR_ST_USERNS, .slot = -1, .slot2 = -1,
		  .a = inst->plan->root_uid, .b = inst->plan->root_gid },
		{ .op = FCTR_OP_SETNS, .stage = FCTR_ST_NAMESPACE, .slot = FCTR_SLOT_MNT, .slot2 = -1, .a = 0x00020000 /* CLONE_NEWNS */ },
		{ .op = FCTR_OP_CHDIR, .stage = FCTR_ST_STDIO, .slot = -1, .slot2 = -1 },
		{ .op = FCTR_OP_PTY, .stage = FCTR_ST_STDIO, .slot = FCTR_SLOT_MASTER, .slot2 = FCTR_SLOT_SLAVE, .a = console },
	};
	char own[4] = { 0 };
	struct fctr_plan *p = inst->plan;
	struct fctr_steps steps = { v, ARRAY_LEN(v), 0 };
	int slot[FCTR_SLOT_TREE];
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1,
				      .uid = inst->own_user ? inst->launch_user.uid : p->need_user ? inst->user.uid : p->uid };
	struct fctr_result result;
	int r;

	if (!p->has_devpts)
		return fctr_fail(err, FCTR_ST_STDIO, ENXIO, "a terminal needs the container's own /dev (dev=True)");
	for (size_t i = 0; i < ARRAY_LEN(slot); i++)
		slot[i] = -1;
	slot[FCTR_SLOT_MNT] = inst->mnt;
	slot[FCTR_SLOT_USER] = p->ns_fd[FCTR_NS_USER];
	memcpy(own, blob, sizeof(blob));
	own[1] = '/';
	/* before its first process has pivoted, the root of one with a user namespace is below /r */
	strcpy(own + 1, p->has_userns && console ? "/r" : "/");
	v[3].s1 = 1;
	if (!p->has_userns) {
		steps.v += 2;
		steps.n -= 2;
	}
	r = fctr_helper(p->ctx, &steps, own, slot, &params, stack, &result, err);
	*master = slot[FCTR_SLOT_MASTER];
	*slave = slot[FCTR_SLOT_SLAVE];
	if (r < 0) {
		fctr_close_fd(master);
		fctr_close_fd(slave);
	}
	return r;
}
