/* cgroup_v2.c: limits and figures of cgroup v2. Files: the kernel's admin-guide/cgroup-v2.rst. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "cgroup_internal.h"

static bool on_v2(const struct fctr_cgroup *cg, int ctl)
{
	return cg->root->where[ctl] >= 0 && cg->root->where[ctl] == cg->root->map.v2;
}

/* ---- switching controllers on -------------------------------------------------------- */

static bool all_ours(const struct fctr_cgpids *list)
{
	bool self = false;

	if (list->hidden)
		return false;
	for (size_t i = 0; i < list->n; i++) {
		char path[32];
		struct stat st;

		self |= list->pid[i] == getpid();
		snprintf(path, sizeof(path), "/proc/%d", list->pid[i]);
		if (geteuid() != 0 && stat(path, &st) == 0 && st.st_uid != geteuid())
			return false;
	}
	return self;
}

/* A group may not hold processes and hand controllers down (the rule of no internal processes). The
 * group we are in ourselves, when all in it are ours, is emptied into a leaf of its own beside the
 * jobs' groups. Never another group: its processes are somebody else's to place. */
static int step_aside(int dirfd)
{
	struct fctr_cgpids list = { .own_only = true };
	cleanup_close int leaf = -1;
	bool ours = fctr_cg_list(dirfd, &list) == 0 && all_ours(&list);

	free(list.pid);
	if (!ours || (mkdirat(dirfd, CG_SELF_LEAF, 0755) < 0 && errno != EEXIST))
		return -1;
	leaf = openat(dirfd, CG_SELF_LEAF, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return leaf >= 0 ? fctr_cg_move_all(dirfd, leaf, true, 2000) : -1;
}

static int switch_on(int dirfd, unsigned mask)
{
	char text[128];
	size_t at = 0;

	for (int c = 0; c < CT_COUNT; c++)
		if (mask & CT_BIT(c))
			at += (size_t)snprintf(text + at, sizeof(text) - at, "+%s ", c == CT_IO ? "io" : fctr_cg_v1_names[c]);
	return fctr_write_at(dirfd, "cgroup.subtree_control", text, at);
}

unsigned fctr_cg2_enable(int dirfd, unsigned want)
{
	unsigned on = fctr_cg_controllers(dirfd, "cgroup.subtree_control");

	want &= ~on;
	if (want)
		want &= fctr_cg_controllers(dirfd, "cgroup.controllers");
	if (!want)
		return on;
	if (switch_on(dirfd, want) == 0)
		return on | want;
	if (errno == EBUSY && step_aside(dirfd) == 0 && switch_on(dirfd, want) == 0)
		return on | want;
	for (int c = 0; c < CT_COUNT; c++)	/* one may be refused and the others not */
		if (want & CT_BIT(c))
			switch_on(dirfd, CT_BIT(c));
	return fctr_cg_controllers(dirfd, "cgroup.subtree_control");
}

/* ---- limits -------------------------------------------------------------------------- */

static int limit_cpu(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	int64_t weight = fctr_cg_weight(l), burst = l->cpu_burst_us;
	char text[64], old[64];

	if (is_set(l->cpu_idle) && !l->cpu_idle && fctr_cg_set(cg, h, "cpu.idle", "cpu.idle", 0, "0", err) < 0)
		return -1;
	if (is_set(weight) && fctr_cg_set(cg, h, "cpu.weight", "cpu.weight", weight, "", err) < 0)
		return -1;
	if (is_set(l->cpu_idle) && l->cpu_idle && fctr_cg_set(cg, h, "cpu.idle", "cpu.idle", 1, "1", err) < 0)
		return -1;
	if (is_set(l->cpu_quota_us) && cg->cpu_burst > 0) {	/* as on v1: burst out of the quota's way */
		if (fctr_cg_set(cg, h, "cpu.burst", "cpu.max.burst", 0, "", err) < 0)
			return -1;
		if (!is_set(burst) && l->cpu_quota_us > 0)
			burst = cg->cpu_burst < l->cpu_quota_us ? cg->cpu_burst : l->cpu_quota_us;
	}
	if (is_set(l->cpu_quota_us) || is_set(l->cpu_period_us)) {
		size_t at;

		if (is_set(l->cpu_quota_us) && l->cpu_quota_us != -1) {
			snprintf(text, sizeof(text), "%lld", (long long)l->cpu_quota_us);
		} else if (is_set(l->cpu_quota_us)) {
			strcpy(text, "max");
		} else {	/* the file takes no period alone */
			if (fctr_cg_read(cg, h, "cpu.max", old, sizeof(old)) <= 0)
				strcpy(old, "max");
			old[strcspn(old, " \n")] = '\0';
			snprintf(text, sizeof(text), "%.40s", old);
		}
		at = strlen(text);
		if (is_set(l->cpu_period_us))
			snprintf(text + at, sizeof(text) - at, " %lld", (long long)l->cpu_period_us);
		if (fctr_cg_set_text(cg, h, "cpu.quota", "cpu.max", text, err) < 0)
			return -1;
	}
	if (is_set(burst) && fctr_cg_set(cg, h, "cpu.burst", "cpu.max.burst", burst, "", err) < 0)
		return -1;
	return 0;
}

/* A memory.max below what is in use would kill: ask for the difference back first, then refuse. */
static int make_room(struct fctr_cgroup *cg, int h, int64_t max, struct fctr_error *err)
{
	int64_t now = fctr_cg_num(cg, h, "memory.current");
	char text[24];

	if (max < 0 || !is_set(now) || now <= max)
		return 0;
	snprintf(text, sizeof(text), "%lld", (long long)(now - max));
	fctr_cg_write(cg, h, "memory.reclaim", text);
	now = fctr_cg_num(cg, h, "memory.current");
	if (!is_set(now) || now <= max)
		return 0;
	return fctr_fail(err, FCTR_ST_LIMIT, EBUSY, "memory.max: %lld is less than the %lld bytes in use, which cannot be reclaimed",
			 (long long)max, (long long)now);
}

static int limit_memory(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	int64_t mem = is_set(l->memory_max) ? l->memory_max : cg->memory_max;
	int64_t sum = is_set(l->memory_swap_max) ? l->memory_swap_max : cg->memsw_max;

	if (is_set(l->memory_max)) {
		if (cg->changed && make_room(cg, h, l->memory_max, err) < 0)
			return -1;
		if (fctr_cg_set(cg, h, "memory.max", "memory.max", l->memory_max, "max", err) < 0)
			return -1;
	}
	/* The sum stays as it was asked for when only memory.max changes. */
	if (is_set(sum) && (is_set(l->memory_swap_max) || (is_set(l->memory_max) && sum >= 0)) &&
	    fctr_cg_set(cg, h, "memory.swap", "memory.swap.max", sum < 0 ? -1 : sum - mem, "max", err) < 0)
		return -1;
	if (is_set(l->memory_soft) && fctr_cg_set(cg, h, "memory.soft", "memory.low", l->memory_soft, "0", err) < 0)
		return -1;
	if (is_set(l->memory_swappiness))
		return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "memory.swappiness: only cgroup v1 has it");
	return 0;
}

static int limit_device(struct fctr_cgroup *cg, int h, const struct fctr_iolimit *d, struct fctr_error *err)
{
	const struct { int64_t v; const char *key; } rates[] = {
		{ d->rbps, "rbps" }, { d->wbps, "wbps" }, { d->riops, "riops" }, { d->wiops, "wiops" },
	};
	char text[160];
	size_t at = (size_t)snprintf(text, sizeof(text), "%u:%u", d->major, d->minor), bare = at;

	for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
		if (!is_set(rates[i].v))
			continue;
		if (rates[i].v == -1)
			at += (size_t)snprintf(text + at, sizeof(text) - at, " %s=max", rates[i].key);
		else
			at += (size_t)snprintf(text + at, sizeof(text) - at, " %s=%lld", rates[i].key, (long long)rates[i].v);
	}
	return at > bare ? fctr_cg_set_text(cg, h, "io", "io.max", text, err) : 0;
}

static int limit_io(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	const char *file = fctr_cg_weight_file(cg->root->map.hier[h].owner_fd, true, false);
	bool bfq = file && !strcmp(file, "io.bfq.weight");	/* its scale is v1's */
	char text[64];

	if (is_set(l->io_weight)) {
		if (!file)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "io.weight: this kernel has no io weights");
		snprintf(text, sizeof(text), "default %lld", (long long)(bfq ? fctr_cg_blkio_weight(l->io_weight) : l->io_weight));
		if (fctr_cg_set_text(cg, h, "io.weight", file, text, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < l->n_io; i++) {
		const struct fctr_iolimit *d = &l->io[i];

		if (limit_device(cg, h, d, err) < 0)
			return -1;
		if (!is_set(d->weight))
			continue;
		if (!file)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "io.weight: this kernel has no io weights");
		snprintf(text, sizeof(text), "%u:%u %lld", d->major, d->minor,
			 (long long)(bfq ? fctr_cg_blkio_weight(d->weight) : d->weight));
		if (fctr_cg_set_text(cg, h, "io.weight", file, text, err) < 0)
			return -1;
	}
	return 0;
}

static int limit_huge(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	for (size_t i = 0; i < l->n_huge; i++) {
		char name[28], file[64];

		snprintf(name, sizeof(name), "hugetlb.%.16s", l->huge[i].size);
		snprintf(file, sizeof(file), "%s.max", name);
		if (fctr_cg_set(cg, h, name, file, l->huge[i].bytes, "max", err) < 0)
			return -1;
		/* Reservations too: else the job gets SIGBUS at the touch instead of ENOMEM at mmap. */
		snprintf(file, sizeof(file), "%s.rsvd.max", name);
		if (fctr_cg_set(cg, h, name, file, l->huge[i].bytes, "max", err) < 0 && err->err != ENOENT)
			return -1;
	}
	return 0;
}

int fctr_cg2_limit(struct fctr_cgroup *cg, const struct fctr_limits *l, struct fctr_error *err)
{
	int h = cg->root->map.v2;

	if (on_v2(cg, CT_CPU) && limit_cpu(cg, h, l, err) < 0)
		return -1;
	if (on_v2(cg, CT_CPUSET)) {
		if (l->cpuset_cpus && fctr_cg_set_text(cg, h, "cpuset.cpus", "cpuset.cpus", l->cpuset_cpus, err) < 0)
			return -1;
		if (l->cpuset_mems && fctr_cg_set_text(cg, h, "cpuset.mems", "cpuset.mems", l->cpuset_mems, err) < 0)
			return -1;
	}
	if (on_v2(cg, CT_MEMORY) && limit_memory(cg, h, l, err) < 0)
		return -1;
	if (on_v2(cg, CT_PIDS) && is_set(l->pids_max) &&
	    fctr_cg_set(cg, h, "pids.max", "pids.max", l->pids_max, "max", err) < 0)
		return -1;
	if (on_v2(cg, CT_IO) && (is_set(l->io_weight) || l->n_io) && limit_io(cg, h, l, err) < 0)
		return -1;
	if (on_v2(cg, CT_HUGETLB) && limit_huge(cg, h, l, err) < 0)
		return -1;
	for (size_t i = 0; i < l->n_unified; i++) {
		char name[96];

		snprintf(name, sizeof(name), "unified.%.80s", l->unified[i].key);
		if (strchr(l->unified[i].key, '/') || l->unified[i].key[0] == '.')
			return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "%s: wants the plain name of a file, such as memory.high", name);
		if (fctr_cg_set_text(cg, h, name, l->unified[i].key, l->unified[i].value, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- figures ------------------------------------------------------------------------- */

/* Sum of one "key=123" over the lines of io.stat. */
static int64_t sum_key(const char *text, const char *key)
{
	size_t len = strlen(key);
	int64_t sum = 0;

	for (const char *p = text; (p = strstr(p, key)); p += len)
		if (p > text && p[-1] == ' ')
			sum += strtoll(p + len, NULL, 10);
	return sum;
}

static int64_t pressure(struct fctr_cgroup *cg, int which, const char *file)
{
	char buf[256];

	if (fctr_cg_stat_text(cg, cg->root->map.v2, which, file, buf, sizeof(buf)) <= 0 || strncmp(buf, "some", 4))
		return FCTR_UNSET;
	return fctr_cg_key(buf, "total");	/* the first line's */
}

static int64_t peak(struct fctr_cgroup *cg)
{
	char buf[32];
	ssize_t n;

	if (cg->peak_fd < 0)
		return fctr_cg_stat_num(cg, cg->root->map.v2, SF_MEMORY_PEAK, "memory.peak");
	n = pread(cg->peak_fd, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return FCTR_UNSET;
	buf[n] = '\0';
	return strtoll(buf, NULL, 10);
}

void fctr_cg2_usage(struct fctr_cgroup *cg, struct fctr_usage *u)
{
	int h = cg->root->map.v2;
	char buf[16384];

	if (!is_set(u->cpu_total_us) && fctr_cg_stat_text(cg, h, SF_CPU, "cpu.stat", buf, sizeof(buf)) > 0) {
		u->cpu_total_us = fctr_cg_key(buf, "usage_usec");
		u->cpu_user_us = fctr_cg_key(buf, "user_usec");
		u->cpu_system_us = fctr_cg_key(buf, "system_usec");
		u->nr_throttled = fctr_cg_key(buf, "nr_throttled");
		u->throttled_us = fctr_cg_key(buf, "throttled_usec");
		if (!is_set(u->nr_throttled))	/* no cpu controller on: no limit, no throttling */
			u->nr_throttled = u->throttled_us = 0;
	}
	if (on_v2(cg, CT_MEMORY)) {
		u->memory_current = fctr_cg_stat_num(cg, h, SF_MEMORY, "memory.current");
		u->memory_peak = peak(cg);
		if (fctr_cg_stat_text(cg, h, SF_OOM, "memory.events", buf, sizeof(buf)) > 0)
			u->oom_kills = fctr_cg_key(buf, "oom_kill");
	}
	if (on_v2(cg, CT_PIDS)) {
		u->pids_current = fctr_cg_stat_num(cg, h, SF_PIDS, "pids.current");
		u->pids_peak = fctr_cg_stat_num(cg, h, SF_PIDS_PEAK, "pids.peak");
	}
	if (on_v2(cg, CT_IO) && fctr_cg_stat_text(cg, h, SF_IO, "io.stat", buf, sizeof(buf)) >= 0) {
		u->io_read_bytes = sum_key(buf, "rbytes=");
		u->io_write_bytes = sum_key(buf, "wbytes=");
		u->io_reads = sum_key(buf, "rios=");
		u->io_writes = sum_key(buf, "wios=");
	}
	u->cpu_pressure_us = pressure(cg, SF_CPU_PRESSURE, "cpu.pressure");
	u->memory_pressure_us = pressure(cg, SF_MEMORY_PRESSURE, "memory.pressure");
	u->io_pressure_us = pressure(cg, SF_IO_PRESSURE, "io.pressure");
}

/* ---- the next job -------------------------------------------------------------------- */

#define RESIDUE (1 << 20)

int fctr_cg2_recycle(struct fctr_cgroup *cg, bool tenant)
{
	int h = cg->root->map.v2;
	int64_t usage, pids_peak;
	char text[24], path[CG_PATH_MAX];

	if (on_v2(cg, CT_PIDS)) {
		/* It cannot be reset; but every job has one process, so a peak of one says as much as none. */
		pids_peak = fctr_cg_stat_num(cg, h, SF_PIDS_PEAK, "pids.peak");
		if (fctr_cg_stat_num(cg, h, SF_PIDS, "pids.current") != 0 || (!tenant && is_set(pids_peak) && pids_peak > 1))
			return 0;
	}
	if (!on_v2(cg, CT_MEMORY))
		return 1;
	usage = fctr_cg_stat_num(cg, h, SF_MEMORY, "memory.current");
	if (usage >= RESIDUE) {
		snprintf(text, sizeof(text), "%lld", (long long)usage);
		fctr_cg_write(cg, h, "memory.reclaim", text);
		usage = fctr_cg_stat_num(cg, h, SF_MEMORY, "memory.current");
	}
	if (!is_set(usage) || usage >= RESIDUE)
		return 0;
	/* From 6.12 on a write resets the peak for readers of this descriptor. */
	if (cg->peak_fd < 0) {
		snprintf(path, sizeof(path), "%.*smemory.peak", (int)cg->name_len, cg->name);
		cg->peak_fd = openat(cg->root->map.hier[h].owner_fd, path, O_RDWR | O_CLOEXEC);
		if (cg->peak_fd < 0)
			return errno == ENOENT;	/* no such figure at all, then nothing to tell apart */
	}
	return pwrite(cg->peak_fd, "reset\n", 6, 0) == 6;
}
