/* cgroup.c: one job's group: made, limited, joined, measured, recycled and removed, on v1 and v2 alike. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>

#include "cgroup_internal.h"

/* ---- files of a group ---------------------------------------------------------------- */

/* Files are reached from the owner's directory as "<group>/<file>": a running job needs no
 * descriptors of its own. */
static const char *at(const struct fctr_cgroup *cg, char buf[CG_PATH_MAX], const char *file)
{
	size_t len = strlen(file);

	if (cg->name_len + len >= CG_PATH_MAX)
		len = CG_PATH_MAX - 1 - cg->name_len;
	memcpy(buf, cg->name, cg->name_len);
	memcpy(buf + cg->name_len, file, len);
	buf[cg->name_len + len] = '\0';
	return buf;
}

static int owner_fd(const struct fctr_cgroup *cg, int h)
{
	return __atomic_load_n(&cg->root->map.hier[h].owner_fd, __ATOMIC_ACQUIRE);
}

int fctr_cg_write(struct fctr_cgroup *cg, int h, const char *file, const char *text)
{
	char path[CG_PATH_MAX];

	return fctr_write_at(owner_fd(cg, h), at(cg, path, file), text, strlen(text));
}

ssize_t fctr_cg_read(struct fctr_cgroup *cg, int h, const char *file, char *buf, size_t size)
{
	char path[CG_PATH_MAX];
	int fd = openat(owner_fd(cg, h), at(cg, path, file), O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, buf, size - 1);	/* a control file of this size comes in one piece */
	fctr_close_fd(&fd);
	if (n >= 0)
		buf[n] = '\0';
	return n;
}

static int64_t number(const char *s)
{
	uint64_t v = 0;

	if (*s < '0' || *s > '9')
		return FCTR_UNSET;
	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (uint64_t)(*s - '0');
	return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

int64_t fctr_cg_num(struct fctr_cgroup *cg, int h, const char *file)
{
	char buf[32];

	if (h < 0 || fctr_cg_read(cg, h, file, buf, sizeof(buf)) <= 0)
		return FCTR_UNSET;
	return buf[0] == 'm' || buf[0] == '-' ? -1 : number(buf);
}

void fctr_cg_stat_close(struct fctr_cgroup *cg, int which)
{
	if (cg->stat_fds[which] < 0)
		return;
	fctr_close_fd(&cg->stat_fds[which]);
	__atomic_sub_fetch(&cg->root->kept, 1, __ATOMIC_RELAXED);
}

ssize_t fctr_cg_stat_text(struct fctr_cgroup *cg, int h, int which, const char *file, char *buf, size_t size)
{
	char path[CG_PATH_MAX];
	int fd = cg->stat_fds[which];
	ssize_t n;

	if (fd < 0)
		fd = openat(owner_fd(cg, h), at(cg, path, file), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = pread(fd, buf, size - 1, 0);
	if (n >= 0)
		buf[n] = '\0';
	if (cg->stat_fds[which] >= 0)
		return n;
	if (n >= 0 && __atomic_add_fetch(&cg->root->kept, 1, __ATOMIC_RELAXED) <= CG_MAX_KEPT) {
		cg->stat_fds[which] = fd;
		return n;
	}
	if (n >= 0)
		__atomic_sub_fetch(&cg->root->kept, 1, __ATOMIC_RELAXED);
	fctr_close_fd(&fd);
	return n;
}

int64_t fctr_cg_stat_num(struct fctr_cgroup *cg, int h, int which, const char *file)
{
	char buf[32];

	if (h < 0 || fctr_cg_stat_text(cg, h, which, file, buf, sizeof(buf)) <= 0)
		return FCTR_UNSET;
	return buf[0] == 'm' || buf[0] == '-' ? -1 : number(buf);
}

int64_t fctr_cg_key(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *p = text; (p = strstr(p, key)); p += len)
		if ((p == text || p[-1] == '\n' || p[-1] == ' ') && (p[len] == ' ' || p[len] == '='))
			return number(p + len + 1);
	return FCTR_UNSET;
}

int fctr_cg_set_text(struct fctr_cgroup *cg, int h, const char *limit, const char *file,
		     const char *text, struct fctr_error *err)
{
	if (fctr_cg_write(cg, h, file, text) == 0)
		return 0;
	if (errno == ENODEV)
		return fctr_fail(err, FCTR_ST_LIMIT, ENODEV, "%s: \"%.100s\" names no block device of this machine", limit, text);
	return fctr_fail(err, FCTR_ST_LIMIT, errno, "%s: the kernel refuses \"%.100s\" in %.60s", limit, text, file);
}

int fctr_cg_set(struct fctr_cgroup *cg, int h, const char *limit, const char *file, int64_t v,
		const char *max_word, struct fctr_error *err)
{
	char buf[24];

	snprintf(buf, sizeof(buf), "%lld", (long long)v);
	return fctr_cg_set_text(cg, h, limit, file, v == -1 ? max_word : buf, err);
}

/* ---- making -------------------------------------------------------------------------- */

int fctr_cg_add(struct fctr_cgroup *cg, int h, struct fctr_error *err)
{
	struct fctr_cghier *hier = &cg->root->map.hier[h];
	int fd = fctr_cg_ready(cg->root, h, err), dir = -1;
	char bare[CG_NAME_MAX + 2];

	if (fd < 0)
		return -1;
	if (cg->made & (1u << h))
		return 0;
	memcpy(bare, cg->name, cg->name_len);
	bare[cg->name_len - 1] = '\0';
	if (mkdirat(fd, bare, 0755) < 0)
		return fctr_fail(err, FCTR_ST_CGROUP, errno, "control group \"%s\" %s in %.60s/%.60s", bare,
				 errno == EEXIST ? "exists already" : "cannot be made", hier->mount, cg->root->place);
	cg->made |= 1u << h;
	if (!hier->v2 && (hier->ctls & CT_BIT(CT_CPUSET))) {
		dir = openat(fd, bare, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0 || fctr_cg1_populate_cpuset(fd, dir, NULL, NULL) < 0) {
			fctr_fail(err, FCTR_ST_CGROUP, errno, "cpuset of control group \"%s\" cannot be filled", bare);
			fctr_close_fd(&dir);
			return -1;
		}
		fctr_close_fd(&dir);
	}
	return 0;
}

int fctr_cg_open_dir(struct fctr_cgroup *cg, int h)
{
	char path[CG_PATH_MAX];

	return openat(owner_fd(cg, h), at(cg, path, ""), O_PATH | O_DIRECTORY | O_CLOEXEC);
}

int fctr_cg_source(const struct fctr_cgroup *cg)
{
	static const int order[] = { CT_PIDS, CT_MEMORY, CT_CPUACCT };
	int v2 = cg->root->map.v2;

	for (size_t i = 0; i < ARRAY_LEN(order); i++) {
		int h = cg->root->where[order[i]];

		if (h >= 0 && (cg->made & (1u << h)))
			return h;
	}
	return v2 >= 0 && (cg->made & (1u << v2)) ? v2 : -1;
}

/* The hierarchies in which these controllers are; switches v2 controllers on that are still off. */
static int hierarchies(struct fctr_cgroot *root, unsigned need, bool devices, unsigned *out, struct fctr_error *err)
{
	int v2 = root->map.v2;
	unsigned v2_need = 0;

	*out = root->map.mode == FCTR_CGMODE_V2 ? 1u << v2 : 0;
	for (int c = 0; c < CT_COUNT; c++) {
		bool asked = (need & CT_BIT(c)) || (c == CT_DEVICES && devices);
		int h = root->where[c];

		if (asked && h < 0)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "the %s controller is not there, and a limit asks for it",
					 fctr_cg_v1_names[c]);
		if (h < 0 || !(asked || (CT_V1_ALWAYS & CT_BIT(c))))
			continue;
		*out |= 1u << h;
		if (h == v2)
			v2_need |= CT_BIT(c) & CT_V2_ALL & root->map.hier[v2].ctls;
	}
	return v2_need ? fctr_cg_v2_enable_owner(root, v2_need, err) : 0;
}

/* memory and memory+swap are one question on v1 and two on v2: what both will be after these limits. */
static int check_swap(const struct fctr_cgroup *cg, const struct fctr_limits *l, struct fctr_error *err)
{
	int64_t mem = is_set(l->memory_max) ? l->memory_max : cg->memory_max;
	int64_t sum = is_set(l->memory_swap_max) ? l->memory_swap_max : cg->memsw_max;

	if (sum < 0)
		return 0;
	if (mem < 0)
		return fctr_fail(err, FCTR_ST_LIMIT, EINVAL,
				 "memory.swap: %lld is memory and swap together, so it needs memory.max as well", (long long)sum);
	if (mem > sum)
		return fctr_fail(err, FCTR_ST_LIMIT, EINVAL,
				 "memory.swap: %lld is memory and swap together and cannot be less than memory.max, %lld; raise it too",
				 (long long)sum, (long long)mem);
	return 0;
}

static int write_limits(struct fctr_cgroup *cg, const struct fctr_limits *l, struct fctr_error *err)
{
	if (check_swap(cg, l, err) < 0)
		return -1;
	if (cg->root->map.mode != FCTR_CGMODE_V2 && fctr_cg1_limit(cg, l, err) < 0)
		return -1;
	if (cg->root->map.v2 >= 0 && (cg->made & (1u << cg->root->map.v2)) && fctr_cg2_limit(cg, l, err) < 0)
		return -1;
	if (is_set(l->memory_max))
		cg->memory_max = l->memory_max;
	if (is_set(l->memory_swap_max))
		cg->memsw_max = l->memory_swap_max;
	if (is_set(l->cpu_burst_us))
		cg->cpu_burst = l->cpu_burst_us;
	if (is_set(l->pids_max))
		cg->pids_max = l->pids_max;
	return 0;
}

static int write_devices(struct fctr_cgroup *cg, const struct fctr_devrule *rules, size_t n, struct fctr_error *err)
{
	int h = cg->root->where[CT_DEVICES], dir;

	if (!n)
		return 0;
	if (h < 0)
		return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "devices: the devices controller is not mounted");
	if (!cg->root->map.hier[h].v2)
		return fctr_cg_dev_v1(cg, h, rules, n, err);
	dir = fctr_cgroup_into_fd(cg);
	if (dir < 0)
		return fctr_fail(err, FCTR_ST_LIMIT, errno, "devices: the group cannot be opened");
	return fctr_cg_dev_v2(cg->root, dir, rules, n, err);
}

static int fill(struct fctr_cgroup *cg, const struct fctr_limits *l, const struct fctr_devrule *rules,
		size_t n_rules, struct fctr_error *err)
{
	unsigned want;
	int fds[FCTR_CG_MAX_TASKS];

	if (hierarchies(cg->root, fctr_cg_needs(l), n_rules > 0, &want, err) < 0)
		return -1;
	for (int h = 0; h < cg->root->map.n; h++)
		if ((want & (1u << h)) && fctr_cg_add(cg, h, err) < 0)
			return -1;
	if (write_limits(cg, l, err) < 0 || write_devices(cg, rules, n_rules, err) < 0)
		return -1;
	/* Opened now, off the start path; what cannot be opened now could not be joined later. */
	for (int h = 0; h < cg->root->map.n; h++)
		if ((want & (1u << h)) && !cg->root->map.hier[h].v2) {
			if (fctr_cgroup_tasks(cg, fds) == 0)
				return fctr_fail(err, FCTR_ST_CGROUP, errno, "tasks of control group \"%.*s\" cannot be opened",
						 (int)cg->name_len - 1, cg->name);
			break;
		}
	if (cg->root->map.v2 >= 0 && (want & (1u << cg->root->map.v2)) && fctr_cgroup_into_fd(cg) < 0)
		return fctr_fail(err, FCTR_ST_CGROUP, errno, "control group \"%.*s\" cannot be opened",
				 (int)cg->name_len - 1, cg->name);
	return 0;
}

int fctr_cgroup_create(struct fctr_cgroot *root, const char *name, const struct fctr_limits *limits,
		       const struct fctr_devrule *devrules, size_t n_devrules,
		       struct fctr_cgroup **out, struct fctr_error *err)
{
	size_t len = name ? strlen(name) : 0;
	struct fctr_cgroup *cg;

	if (!len || len > CG_NAME_MAX || name[0] == '.' || strpbrk(name, "/\n\r\t"))
		return fctr_fail(err, FCTR_ST_CGROUP, EINVAL,
				 "control group \"%.60s\": wants a name without slash or leading dot, at most %d long", name ? name : "", CG_NAME_MAX);
	cg = malloc(sizeof(*cg));
	if (!cg)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "control group");
	*cg = (struct fctr_cgroup){ .root = root, .peak_fd = -1, .memory_max = FCTR_UNSET,
				    .memsw_max = FCTR_UNSET, .pids_max = FCTR_UNSET, .name_len = len + 1 };
	memcpy(cg->name, name, len);
	cg->name[len] = '/';
	for (int h = 0; h < CG_MAX_HIER; h++)
		cg->fds[h] = -1;
	for (int f = 0; f < SF_COUNT; f++)
		cg->stat_fds[f] = -1;
	if (fill(cg, limits, devrules, n_devrules, err) < 0) {
		fctr_cgroup_destroy(cg);
		errno = err->err;
		return -1;
	}
	*out = cg;
	return 0;
}

/* A hierarchy that a living group did not need so far: its processes come along. */
int fctr_cg_add_living(struct fctr_cgroup *cg, int h, struct fctr_error *err)
{
	int source = fctr_cg_source(cg);
	cleanup_close int from = -1, to = -1;

	if (cg->made & (1u << h))
		return 0;
	if (fctr_cg_add(cg, h, err) < 0)
		return -1;
	from = fctr_cg_open_dir(cg, source);
	to = fctr_cg_open_dir(cg, h);
	if (from < 0 || to < 0 || fctr_cg_move_all(from, to, false, 2000) < 0)
		return fctr_fail(err, FCTR_ST_CGROUP, errno, "the job's processes cannot be moved to its group in %.100s",
				 cg->root->map.hier[h].mount);
	return 0;
}

int fctr_cgroup_limit(struct fctr_cgroup *cg, const struct fctr_limits *limits, struct fctr_error *err)
{
	unsigned want;

	if (fctr_cgroup_check(cg->root, limits, 0, err) < 0 ||
	    hierarchies(cg->root, fctr_cg_needs(limits), false, &want, err) < 0)
		return -1;
	cg->changed = true;
	for (int h = 0; h < cg->root->map.n; h++)
		if ((want & (1u << h)) && fctr_cg_add_living(cg, h, err) < 0)
			return -1;
	return write_limits(cg, limits, err);
}

/* ---- joining ------------------------------------------------------------------------- */

int fctr_cgroup_into_fd(struct fctr_cgroup *cg)
{
	int v2 = cg->root->map.v2;

	if (v2 < 0 || !(cg->made & (1u << v2)))
		return -1;
	if (cg->fds[v2] < 0)
		cg->fds[v2] = fctr_cg_open_dir(cg, v2);
	return cg->fds[v2];
}

size_t fctr_cgroup_tasks(struct fctr_cgroup *cg, int fds[FCTR_CG_MAX_TASKS])
{
	size_t n = 0;
	char path[CG_PATH_MAX];

	if (cg->shut) {	/* a kill left it so that nothing can fork */
		char text[24] = "max";

		if (is_set(cg->pids_max) && cg->pids_max != -1)
			snprintf(text, sizeof(text), "%lld", (long long)cg->pids_max);
		if (fctr_cg_write(cg, cg->root->where[CT_PIDS], "pids.max", text) == 0)
			cg->shut = false;
	}
	for (int h = 0; h < cg->root->map.n; h++) {
		if (cg->root->map.hier[h].v2 || !(cg->made & (1u << h)))
			continue;
		if (cg->fds[h] < 0)
			cg->fds[h] = openat(owner_fd(cg, h), at(cg, path, "tasks"), O_WRONLY | O_CLOEXEC);
		if (cg->fds[h] < 0)
			return 0;	/* never join some of them only */
		fds[n++] = cg->fds[h];
	}
	return n;
}

void fctr_cgroup_slim(struct fctr_cgroup *cg)
{
	for (int h = 0; h < CG_MAX_HIER; h++)
		fctr_close_fd(&cg->fds[h]);
	for (int f = 0; f < SF_COUNT; f++)
		fctr_cg_stat_close(cg, f);
}

int fctr_cgroup_attach(struct fctr_cgroup *cg, pid_t pid, struct fctr_error *err)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	for (int h = 0; h < cg->root->map.n; h++)
		if ((cg->made & (1u << h)) && fctr_cg_write(cg, h, "cgroup.procs", text) < 0)
			return fctr_fail(err, FCTR_ST_CGROUP_JOIN, errno, "process %d cannot be moved to control group \"%.*s\" in %.60s",
					 pid, (int)cg->name_len - 1, cg->name, cg->root->map.hier[h].mount);
	return 0;
}

int fctr_cgroup_paths(const struct fctr_cgroup *cg, char *buf, size_t size)
{
	size_t have = 0;

	if (size)
		buf[0] = '\0';
	for (int i = 0; i < cg->root->map.n; i++) {
		const struct fctr_cghier *h = &cg->root->map.hier[i];
		char names[96] = "unified";
		size_t at_name = 0;

		if (!(cg->made & (1u << i)))
			continue;
		for (int c = 0; c < CT_COUNT && !h->v2; c++)
			if (h->ctls & CT_BIT(c))
				at_name += (size_t)snprintf(names + at_name, sizeof(names) - at_name, "%s%s",
							    at_name ? "," : "", fctr_cg_v1_names[c]);
		have += (size_t)snprintf(have < size ? buf + have : NULL, have < size ? size - have : 0,
					 "%s:%s/%s%s%s/%.*s\n", names, h->mount, cg->root->place,
					 cg->root->place[0] ? "/" : "", cg->root->owner, (int)cg->name_len - 1, cg->name);
	}
	return (int)have;
}

/* ---- figures ------------------------------------------------------------------------- */

/* all: also what a quick reading leaves at its base. */
static void raw_usage(struct fctr_cgroup *cg, struct fctr_usage *u, bool all)
{
	int v2 = cg->root->map.v2;

	*u = (struct fctr_usage){
		.cpu_user_us = FCTR_UNSET, .cpu_system_us = FCTR_UNSET, .cpu_total_us = FCTR_UNSET,
		.nr_throttled = FCTR_UNSET, .throttled_us = FCTR_UNSET, .memory_current = FCTR_UNSET,
		.memory_peak = FCTR_UNSET, .memory_limit = FCTR_UNSET, .oom_kills = FCTR_UNSET,
		.pids_current = FCTR_UNSET, .pids_peak = FCTR_UNSET, .io_read_bytes = FCTR_UNSET,
		.io_write_bytes = FCTR_UNSET, .io_reads = FCTR_UNSET, .io_writes = FCTR_UNSET,
		.cpu_pressure_us = FCTR_UNSET, .memory_pressure_us = FCTR_UNSET, .io_pressure_us = FCTR_UNSET,
	};
	if (cg->root->map.mode != FCTR_CGMODE_V2)
		fctr_cg1_usage(cg, u, all);
	if (v2 >= 0 && (cg->made & (1u << v2)))
		fctr_cg2_usage(cg, u);
	if (cg->memory_max >= 0)
		u->memory_limit = cg->memory_max;
}

static void less(int64_t *v, int64_t base)
{
	if (is_set(*v) && is_set(base))
		*v = *v > base ? *v - base : 0;
}

int fctr_cgroup_stats(struct fctr_cgroup *cg, struct fctr_usage *u, struct fctr_error *err)
{
	const struct fctr_usage *b = &cg->base;

	raw_usage(cg, u, false);
	if (!is_set(u->cpu_total_us) && !is_set(u->memory_current) && !is_set(u->pids_current))
		return fctr_fail(err, FCTR_ST_STATS, errno, "control group \"%.*s\" has no figures; was it removed?",
				 (int)cg->name_len - 1, cg->name);
	less(&u->cpu_user_us, b->cpu_user_us);
	less(&u->cpu_system_us, b->cpu_system_us);
	less(&u->cpu_total_us, b->cpu_total_us);
	if (cg->root->where[CT_CPUACCT] >= 0)
		fctr_cg1_share_cpu(u);
	less(&u->nr_throttled, b->nr_throttled);
	less(&u->throttled_us, b->throttled_us);
	less(&u->oom_kills, b->oom_kills);
	less(&u->io_read_bytes, b->io_read_bytes);
	less(&u->io_write_bytes, b->io_write_bytes);
	less(&u->io_reads, b->io_reads);
	less(&u->io_writes, b->io_writes);
	less(&u->cpu_pressure_us, b->cpu_pressure_us);
	less(&u->memory_pressure_us, b->memory_pressure_us);
	less(&u->io_pressure_us, b->io_pressure_us);
	/* a peak that was as high before may be another job's: see fctr_cg2_recycle() */
	if (cg->root->map.mode == FCTR_CGMODE_V2 && is_set(b->pids_peak) && b->pids_peak > 1 && u->pids_peak <= b->pids_peak)
		u->pids_peak = FCTR_UNSET;
	return 0;
}

/* ---- the end of a job ---------------------------------------------------------------- */

int fctr_cgroup_recycle(struct fctr_cgroup *cg, bool tenant)
{
	struct fctr_cgpids list = { 0 };
	int v2 = cg->root->map.v2, source = fctr_cg_source(cg), fds[FCTR_CG_MAX_TASKS];
	cleanup_close int dir = -1;
	struct fctr_usage base;
	bool empty;

	if (cg->changed || cg->frozen || source < 0)
		return 0;
	if (cg->root->where[CT_FREEZER] >= 0 && cg->root->where[CT_FREEZER] != v2 &&
	    (cg->made & (1u << cg->root->where[CT_FREEZER])))
		return 0;	/* was frozen once: the next job should not have to join one more */
	for (int h = 0; h < cg->root->map.n; h++)
		if ((cg->made & (1u << h)) && fctr_cg_has_children(owner_fd(cg, h), cg->name))
			return 0;	/* the job made groups of its own */
	dir = fctr_cg_open_dir(cg, source);
	empty = dir >= 0 && fctr_cg_list(dir, &list) == 0 && !list.n && !list.hidden;
	free(list.pid);
	if (!empty)
		return 0;
	if (cg->root->map.mode != FCTR_CGMODE_V2 && !fctr_cg1_recycle(cg))
		return 0;
	if (v2 >= 0 && (cg->made & (1u << v2)) && !fctr_cg2_recycle(cg, tenant))
		return 0;
	raw_usage(cg, &base, true);
	cg->base = base;
	if (cg->root->map.mode != FCTR_CGMODE_V2 && fctr_cgroup_tasks(cg, fds) == 0)
		return 0;
	return !cg->shut && (v2 < 0 || !(cg->made & (1u << v2)) || fctr_cgroup_into_fd(cg) >= 0);
}

int fctr_cgroup_destroy(struct fctr_cgroup *cg)
{
	char bare[CG_NAME_MAX + 2];
	int left = 0;
	int64_t until = fctr_cg_now_ms() + 200;

	if (!cg)
		return 0;
	fctr_cgroup_slim(cg);
	fctr_close_fd(&cg->peak_fd);
	memcpy(bare, cg->name, cg->name_len);
	bare[cg->name_len - 1] = '\0';
	for (int h = 0; h < cg->root->map.n; h++) {
		int64_t budget = until - fctr_cg_now_ms();

		if ((cg->made & (1u << h)) && fctr_cg_rmtree(owner_fd(cg, h), bare, budget > 0 ? (int)budget : 0) < 0)
			left = -1;
	}
	free(cg);
	return left;
}
