/* plan.c: spec -> plan. Everything a launch would otherwise decide, look up or allocate is
 * settled here; nothing is made on the machine except a user namespace to be joined.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/utsname.h>

#include "core.h"
#include "park.h"
#include "syscalls.h"

void fctr_plan_ref(struct fctr_plan *plan)
{
	atomic_fetch_add(&plan->refs, 1);
}

/* For whoever found it in the context's list, where it may be on its way out. */
bool fctr_plan_tryref(struct fctr_plan *plan)
{
	int n = atomic_load(&plan->refs);

	while (n > 0)
		if (atomic_compare_exchange_weak(&plan->refs, &n, n + 1))
			return true;
	return false;
}

uint32_t fctr_blob_add(struct fctr_plan *p, const void *data, size_t len)
{
	uint32_t at = (uint32_t)p->blob_len;

	if (p->blob_len + len > p->blob_cap) {
		size_t cap = (p->blob_cap ? p->blob_cap * 2 : 4096) + len;
		char *blob = realloc(p->blob, cap);

		if (!blob)
			abort();	/* a few kB: nothing sensible can follow */
		p->blob = blob;
		p->blob_cap = cap;
	}
	if (len)
		memcpy(p->blob + p->blob_len, data, len);
	p->blob_len += len;
	return at;
}

uint32_t fctr_blob_str(struct fctr_plan *p, const char *s)
{
	return !s || !*s ? 0 : fctr_blob_add(p, s, strlen(s) + 1);
}

struct fctr_step *fctr_step_add(struct fctr_steps *list, int op, int stage)
{
	struct fctr_step *s;

	if (list->n == list->cap) {
		uint32_t cap = list->cap ? list->cap * 2 : 32;
		struct fctr_step *v = realloc(list->v, cap * sizeof(*v));

		if (!v)
			abort();
		list->v = v;
		list->cap = cap;
	}
	s = &list->v[list->n++];
	memset(s, 0, sizeof(*s));
	s->op = (uint8_t)op;
	s->stage = (uint8_t)stage;
	s->slot = s->slot2 = FCTR_SLOT_NONE;
	return s;
}

/* ---- copies that outlive the spec ----------------------------------------------------- */

static void *keep(struct fctr_plan *p, const void *data, size_t len)
{
	void *copy = malloc(len ? len : 1);
	void **mem = realloc(p->limit_mem, (p->n_limit_mem + 1) * sizeof(void *));

	if (!copy || !mem)
		abort();
	if (len)
		memcpy(copy, data, len);
	p->limit_mem = mem;
	p->limit_mem[p->n_limit_mem++] = copy;
	return copy;
}

static const char *keep_str(struct fctr_plan *p, const char *s)
{
	return s ? keep(p, s, strlen(s) + 1) : NULL;
}

static void keep_limits(struct fctr_plan *p, const struct fctr_limits *from)
{
	struct fctr_limits *to = &p->limits;
	struct fctr_hugelimit *huge;
	struct fctr_kv *kv;

	*to = *from;
	to->cpuset_cpus = keep_str(p, from->cpuset_cpus);
	to->cpuset_mems = keep_str(p, from->cpuset_mems);
	to->io = keep(p, from->io, from->n_io * sizeof(*from->io));
	to->huge = huge = keep(p, from->huge, from->n_huge * sizeof(*from->huge));
	for (size_t i = 0; i < from->n_huge; i++)
		huge[i].size = keep_str(p, from->huge[i].size);
	to->unified = kv = keep(p, from->unified, from->n_unified * sizeof(*from->unified));
	for (size_t i = 0; i < from->n_unified; i++) {
		kv[i].key = keep_str(p, from->unified[i].key);
		kv[i].value = keep_str(p, from->unified[i].value);
	}
}

/* ---- namespaces ------------------------------------------------------------------------ */

static int take_ns(struct fctr_plan *p, const struct fctr_spec *spec, int kind, struct fctr_error *err)
{
	if (spec->ns[kind].mode != FCTR_NS_JOIN)
		return 0;
	p->ns_fd[kind] = fcntl(spec->ns[kind].fd, F_DUPFD_CLOEXEC, 3);
	if (p->ns_fd[kind] < 0)
		return fctr_fail(err, FCTR_ST_NAMESPACE, errno, "descriptor of a namespace to join");
	return 0;
}

bool fctr_kernel_has(int major, int minor)
{
	struct utsname u;
	int a = 0, b = 0;

	return uname(&u) == 0 && sscanf(u.release, "%d.%d", &a, &b) == 2 && (a > major || (a == major && b >= minor));
}

static int decide(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err)
{
	const struct fctr_ns *ns = spec->ns;

	for (int i = 0; i < FCTR_NS_COUNT; i++)
		if (take_ns(p, spec, i, err) < 0)
			return -1;
	p->own_mnt = ns[FCTR_NS_MNT].mode == FCTR_NS_NEW;
	p->has_userns = ns[FCTR_NS_USER].mode != FCTR_NS_HOST;
	p->pid_private = ns[FCTR_NS_PID].mode == FCTR_NS_NEW;
	p->init = spec->init;
	p->tenant = spec->tenant;
	p->zygote = spec->zygote;
	if (ns[FCTR_NS_USER].mode == FCTR_NS_NEW && p->ns_fd[FCTR_NS_USER] < 0)
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "a new user namespace is made by fctr_userns_create and joined");
	if (spec->rootfs_kind == FCTR_ROOT_NONE && p->own_mnt)
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "a mount namespace of its own needs a root filesystem");
	/* From Linux 6.3 on a process enters the time namespace it has made when it execs; before, only its
	 * children do, and those may not share its memory. */
	p->time_fork = ns[FCTR_NS_TIME].mode == FCTR_NS_NEW && !fctr_kernel_has(6, 3);
	/* A job that can be traced from a pid namespace it did not start must never have this
	 * process's memory: it goes through the stub. So does what wants to be single-threaded. */
	if (!p->pid_private || ns[FCTR_NS_TIME].mode == FCTR_NS_JOIN || ns[FCTR_NS_MNT].mode == FCTR_NS_JOIN || p->time_fork)
		p->mode = FCTR_MODE_STUB;
	else
		p->mode = p->has_userns ? FCTR_MODE_TWO_STEP : FCTR_MODE_DIRECT;
	if ((p->mode == FCTR_MODE_STUB || p->init) && p->ctx->config.stub_fd < 0)
		return fctr_fail(err, FCTR_ST_INIT, ENOENT, "the helper binary fctr-stub is missing from the installation");
	if (p->zygote && (p->mode != FCTR_MODE_TWO_STEP || !p->own_mnt || p->init || ns[FCTR_NS_TIME].mode != FCTR_NS_HOST))
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "a zygote's jobs need user, mount and pid namespaces of their own");
	p->pivoted = p->zygote && fctr_kernel_has(6, 18);
	p->pid_prepared = p->mode == FCTR_MODE_DIRECT && p->own_mnt && !p->tenant && p->ctx->can_prepare_pid;
	p->slot_pids = p->tenant && p->ctx->can_prepare_pid;
	if (p->mode == FCTR_MODE_DIRECT && !p->pid_prepared && !p->slot_pids)
		p->clone_flags = CLONE_NEWPID;
	/* a job with the power to change its network namespace takes it to the grave */
	p->net_pool = ns[FCTR_NS_NET].mode == FCTR_NS_NEW && !p->has_userns && p->own_mnt;
	p->pooled = p->own_mnt && !spec->upper;
	return 0;
}

/* Sysctls of a network namespace show in no counter: uid 0 may write them without any capability
 * where /proc/sys is not read-only, and so does a spec that asks for some. */
static bool may_write_net_sysctls(const struct fctr_spec *spec)
{
	bool covered = false;

	for (size_t i = 0; i < spec->n_sysctl; i++)
		if (strncmp(spec->sysctl[i].key, "net", 3) == 0)
			return true;
	for (size_t i = 0; i < spec->n_readonly; i++)
		covered |= strcmp(spec->readonly[i], "/proc/sys") == 0 || strcmp(spec->readonly[i], "/proc") == 0;
	for (size_t i = 0; i < spec->n_mounts; i++) {
		const struct fctr_mount *m = &spec->mounts[i];

		if (m->kind == FCTR_MNT_PROC && (!covered || strcmp(m->target, "/proc") != 0) &&
		    !(m->attr_set & MOUNT_ATTR_RDONLY))
			return true;
		if (m->kind == FCTR_MNT_BIND && strncmp(m->source, "/proc", 5) == 0 && !(m->attr_set & MOUNT_ATTR_RDONLY))
			return true;
	}
	return false;
}

static bool may_reuse_net(const struct fctr_spec *spec)
{
	uint64_t danger = 1ULL << 12 | 1ULL << 21;	/* CAP_NET_ADMIN, CAP_SYS_ADMIN */

	return !((spec->caps[FCTR_CAP_BOUNDING] | spec->caps[FCTR_CAP_PERMITTED] |
		  spec->caps[FCTR_CAP_INHERITABLE]) & danger) && spec->seccomp_len > 0 && !may_write_net_sysctls(spec);
}

const char *fctr_layer_image(const char *lower)
{
	return strncmp(lower, "erofs:", 6) == 0 ? lower + 6 : NULL;
}

/* ---- where an instance came from ------------------------------------------------------- */

static void add_source(struct fctr_plan *p, const char *path)
{
	struct fctr_source *v = realloc(p->sources, (p->n_sources + 1) * sizeof(*v));

	if (!v)
		abort();
	p->sources = v;
	p->sources[p->n_sources++] = (struct fctr_source){ .path = keep_str(p, path) };
}

static void collect_sources(struct fctr_plan *p, const struct fctr_spec *spec)
{
	if (spec->rootfs_kind == FCTR_ROOT_DIR)
		add_source(p, spec->rootfs);
	/* of layers that never change the topmost tells whether the store still has them */
	for (size_t i = 0; i < (spec->lower_fixed && spec->n_lower ? 1 : spec->n_lower); i++) {
		const char *image = fctr_layer_image(spec->lower[i]);

		add_source(p, image ? image : spec->lower[i]);
	}
	p->mount_sensitive = spec->rootfs_kind == FCTR_ROOT_DIR;
	for (size_t i = 0; i < spec->n_mounts; i++) {
		if (spec->mounts[i].kind != FCTR_MNT_BIND)
			continue;
		add_source(p, spec->mounts[i].source);
		if (spec->mounts[i].flags & FCTR_MNT_F_RECURSIVE)
			p->mount_sensitive = true;
	}
}

/* ---- public ---------------------------------------------------------------------------- */

static void plan_free(struct fctr_plan *p)
{
	struct fctr_ctx *ctx = p->ctx;

	fctr_plan_drop_warm(p);	/* the template and free groups */
	pthread_mutex_lock(&ctx->lock);
	for (struct fctr_plan **at = &ctx->plans; *at; at = &(*at)->next)
		if (*at == p) {
			*at = p->next;
			break;
		}
	pthread_mutex_unlock(&ctx->lock);
	for (int i = 0; i < FCTR_NS_COUNT; i++)
		fctr_close_fd(&p->ns_fd[i]);
	for (size_t i = 0; i < p->n_idmap_fds; i++)
		fctr_close_fd(&p->idmap_fds[i]);
	fctr_close_fd(&p->tmpl_fd);
	for (size_t i = 0; i < p->n_limit_mem; i++)
		free(p->limit_mem[i]);
	free(p->limit_mem);
	free(p->idmap_fds);
	free(p->sources);
	free(p->devrules);
	free(p->seccomp);
	free(p->groups);
	free(p->user);
	free(p->scratch);
	free(p->upper);
	free(p->tmpl.v);
	free(p->inst.v);
	free(p->start.v);
	free(p->slot_proc.v);
	free(p->keep.v);
	free(p->keep_job.v);
	free(p->blob);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void fctr_plan_unref(struct fctr_plan *plan)
{
	if (plan && atomic_fetch_sub(&plan->refs, 1) == 1)
		plan_free(plan);
}

/* Prepared instances hold references of their own: let them go first, and make no more. */
void fctr_plan_close(struct fctr_plan *plan)
{
	pthread_mutex_lock(&plan->lock);
	plan->closed = true;
	plan->pooled = false;
	pthread_mutex_unlock(&plan->lock);
	fctr_plan_drop_warm(plan);
	fctr_plan_unref(plan);
}

void fctr_plan_want(struct fctr_plan *p, int n)
{
	if (p->target >= n)
		return;
	__atomic_add_fetch(&p->ctx->targets, n - p->target, __ATOMIC_RELAXED);
	p->target = n;
}

void fctr_plan_hold(struct fctr_plan *p, int more)
{
	bool refill;

	pthread_mutex_lock(&p->lock);
	p->held += more;
	p->last_used = fctr_now();
	if (p->pooled)
		fctr_plan_want(p, p->held);
	refill = p->pooled && p->n_warm < p->held;
	pthread_mutex_unlock(&p->lock);
	if (refill)
		fctr_ctx_want_refill(p->ctx, p);
}

void fctr_plan_counters(struct fctr_plan *p, struct fctr_plan_counters *out)
{
	bool parks;

	*out = (struct fctr_plan_counters){ .ready = 0 };
	parks = fctr_plan_parks(p);
	pthread_mutex_lock(&p->lock);
	for (const struct fctr_instance *inst = p->warm; inst; inst = inst->next)
		out->ready += inst->park || !parks;
	out->prepared = p->n_warm;
	out->target = p->target;
	pthread_mutex_unlock(&p->lock);
}

static char *dup_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

static void copy_identity(struct fctr_plan *p, const struct fctr_spec *spec)
{
	p->uid = spec->uid;
	p->gid = spec->gid;
	p->root_uid = spec->n_uid_map ? spec->uid_map[0].inside : 0;
	p->root_gid = spec->n_gid_map ? spec->gid_map[0].inside : 0;
	p->n_groups = spec->n_groups;
	p->groups = calloc(spec->n_groups + 1, sizeof(uint32_t));
	for (size_t i = 0; i < spec->n_groups && p->groups; i++)
		p->groups[i] = spec->groups[i];
	p->groups_given = spec->groups_given;
	p->user = dup_or_null(spec->user);
	p->need_user = spec->user != NULL;
	p->scratch = dup_or_null(spec->scratch);
	p->upper = dup_or_null(spec->upper);
	p->disk_scratch = spec->rootfs_kind == FCTR_ROOT_OVERLAY && spec->scratch && !spec->upper;
	if (spec->seccomp_len) {
		p->seccomp = malloc(spec->seccomp_len * 8);
		if (p->seccomp)
			memcpy(p->seccomp, spec->seccomp, spec->seccomp_len * 8);
		p->seccomp_len = (uint16_t)spec->seccomp_len;
		p->seccomp_flags = spec->seccomp_flags;
	}
}

static bool no_limits(const struct fctr_limits *l)
{
	const int64_t v[] = { l->cpu_quota_us, l->cpu_period_us, l->cpu_burst_us, l->cpu_weight, l->cpu_shares,
			      l->cpu_idle, l->memory_max, l->memory_soft, l->memory_swap_max, l->memory_swappiness,
			      l->pids_max, l->io_weight };

	for (size_t i = 0; i < ARRAY_LEN(v); i++)
		if (v[i] != FCTR_UNSET)
			return false;
	return !l->cpuset_cpus && !l->cpuset_mems && !l->n_io && !l->n_huge && !l->n_unified;
}

/* An unprivileged user may have no group to put others in. A job that asks for nothing of it, and
 * that ends whole with its pid namespace, goes without one. */
static int take_group(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err)
{
	struct fctr_error why = { 0 };

	if (fctr_ctx_cgroot(p->ctx, spec->cgroup_parent, &p->cgroot, &why) < 0) {
		bool denied = why.err == EACCES || why.err == EPERM || why.err == EROFS || why.err == ENOTSUP;

		p->group_missing = denied && geteuid() != 0 && !spec->cgroup_parent && !p->n_devrules &&
				   p->pid_private && no_limits(&p->limits);
		if (p->group_missing)
			return 0;
		*err = why;
		return -1;
	}
	if (fctr_cgroup_check(p->cgroot, &p->limits, p->n_devrules, err) < 0)
		return -1;
	p->has_cgroup = true;
	return 0;
}

int fctr_plan_compile(struct fctr_ctx *ctx, const struct fctr_spec *spec, struct fctr_plan **out,
		      struct fctr_error *err)
{
	struct fctr_plan *p = calloc(1, sizeof(*p));

	if (!p)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "plan");
	p->ctx = ctx;
	atomic_init(&p->refs, 1);
	pthread_mutex_init(&p->lock, NULL);
	p->tmpl_fd = -1;
	p->n_slots = FCTR_SLOT_TREE;
	for (int i = 0; i < FCTR_NS_COUNT; i++)
		p->ns_fd[i] = -1;
	fctr_blob_add(p, "\0", 2);	/* offset 0: the empty string, and an empty list of strings */
	copy_identity(p, spec);
	keep_limits(p, &spec->limits);
	p->n_devrules = spec->n_devrules;
	p->devrules = calloc(spec->n_devrules + 1, sizeof(*p->devrules));
	if (spec->n_devrules)
		memcpy(p->devrules, spec->devrules, spec->n_devrules * sizeof(*p->devrules));
	collect_sources(p, spec);
	if (spec->seccomp_len > 4096 || spec->n_lower > 500 || spec->n_mounts > 2000) {
		fctr_fail(err, FCTR_ST_SPEC, E2BIG, "too many layers, mounts or seccomp instructions");
		goto fail;
	}
	if (decide(p, spec, err) < 0)
		goto fail;
	if (p->net_pool && !may_reuse_net(spec))
		p->net_pool = false;
	if (p->tenant && fctr_slot_places(p, spec, err) < 0)
		goto fail;
	if (p->own_mnt && fctr_compile_root(p, spec, err) < 0)
		goto fail;
	if (fctr_compile_process(p, spec, err) < 0)
		goto fail;
	if (p->n_slots > FCTR_MAX_SLOTS) {
		fctr_fail(err, FCTR_ST_SPEC, E2BIG, "too many layers and mounts (%u)", p->n_slots);
		goto fail;
	}
	if (spec->cgroup && take_group(p, spec, err) < 0)
		goto fail;
	if (p->zygote)	/* who forks into it is not ours: what else may be in its group is looked for */
		p->pid_private = false;
	pthread_mutex_lock(&ctx->lock);
	p->next = ctx->plans;
	ctx->plans = p;
	pthread_mutex_unlock(&ctx->lock);
	*out = p;
	return 0;
fail:
	plan_free(p);
	return -1;
}

size_t fctr_plan_steps(const struct fctr_plan *plan, int *template_steps, int *instance_steps)
{
	*template_steps = (int)plan->tmpl.n;
	*instance_steps = (int)plan->inst.n;
	return plan->start.n;
}

int fctr_plan_start_stage(const struct fctr_plan *plan, int index)
{
	return index >= 0 && (uint32_t)index < plan->start.n ? plan->start.v[index].stage : 0;
}
