/* cgroup_v1.c: limits and figures of the v1 controllers. Files: the kernel's admin-guide/cgroup-v1/. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>

#include "cgroup_internal.h"

/* The hierarchy of a controller if it is on v1, else -1. */
static int on_v1(const struct fctr_cgroup *cg, int ctl)
{
	int h = cg->root->where[ctl];

	return h >= 0 && h != cg->root->map.v2 ? h : -1;
}

/* ---- cpuset -------------------------------------------------------------------------- */

static int populate(int parent, int dir, const char *file, const char *from, const char *text)
{
	char buf[1024];
	ssize_t n;

	if (!text) {	/* keep what is there, else what the parent really has */
		n = fctr_read_at(dir, file, buf, sizeof(buf));
		if (n < 0)
			return -1;
		if (n > 1)
			return 0;
		n = fctr_read_at(parent, from, buf, sizeof(buf));
		if (n <= 1)	/* before 3.18 there are no effective_* files */
			n = fctr_read_at(parent, file, buf, sizeof(buf));
		if (n < 0)
			return -1;
		text = buf;
	}
	return fctr_write_at(dir, file, text, strlen(text));
}

int fctr_cg1_populate_cpuset(int parent, int dir, const char *cpus, const char *mems)
{
	if (populate(parent, dir, "cpuset.cpus", "cpuset.effective_cpus", cpus) < 0)
		return -1;
	return populate(parent, dir, "cpuset.mems", "cpuset.effective_mems", mems);
}

/* ---- limits -------------------------------------------------------------------------- */

static int limit_cpu(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	int64_t shares = fctr_cg_shares(l), burst = l->cpu_burst_us;

	if (h < 0)
		return 0;
	/* The kernel takes no weight for an idle group: out of idle before, into it after. */
	if (is_set(l->cpu_idle) && !l->cpu_idle && fctr_cg_set(cg, h, "cpu.idle", "cpu.idle", 0, "0", err) < 0)
		return -1;
	if (is_set(shares) && fctr_cg_set(cg, h, "cpu.weight", "cpu.shares", shares, "", err) < 0)
		return -1;
	if (is_set(l->cpu_idle) && l->cpu_idle && fctr_cg_set(cg, h, "cpu.idle", "cpu.idle", 1, "1", err) < 0)
		return -1;
	/* A burst may not exceed the quota: out of its way while the quota changes. */
	if (is_set(l->cpu_quota_us) && cg->cpu_burst > 0) {
		if (fctr_cg_set(cg, h, "cpu.burst", "cpu.cfs_burst_us", 0, "", err) < 0)
			return -1;
		if (!is_set(burst) && l->cpu_quota_us > 0)
			burst = cg->cpu_burst < l->cpu_quota_us ? cg->cpu_burst : l->cpu_quota_us;
	}
	if (is_set(l->cpu_period_us) && fctr_cg_set(cg, h, "cpu.period", "cpu.cfs_period_us", l->cpu_period_us, "", err) < 0)
		return -1;
	if (is_set(l->cpu_quota_us) && fctr_cg_set(cg, h, "cpu.quota", "cpu.cfs_quota_us", l->cpu_quota_us, "-1", err) < 0)
		return -1;
	if (is_set(burst) && fctr_cg_set(cg, h, "cpu.burst", "cpu.cfs_burst_us", burst, "", err) < 0)
		return -1;
	return 0;
}

static int limit_cpuset(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	if (h < 0)
		return 0;
	/* fctr_cg_add() has filled both already; only what was asked for is left. */
	if (l->cpuset_cpus && fctr_cg_set_text(cg, h, "cpuset.cpus", "cpuset.cpus", l->cpuset_cpus, err) < 0)
		return -1;
	if (l->cpuset_mems && fctr_cg_set_text(cg, h, "cpuset.mems", "cpuset.mems", l->cpuset_mems, err) < 0)
		return -1;
	return 0;
}

static int limit_memory(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	int64_t mem = l->memory_max, sum = l->memory_swap_max;
	bool sum_first;

	if (h < 0)
		return 0;
	/* memory <= memory+swap holds at every moment, so raising begins at the sum and lowering ends there. */
	sum_first = is_set(sum) && cg->memsw_max >= 0 && (mem == -1 || mem > cg->memsw_max);
	if (sum_first && fctr_cg_set(cg, h, "memory.swap", "memory.memsw.limit_in_bytes", sum, "-1", err) < 0)
		return -1;
	if (is_set(mem) && fctr_cg_set(cg, h, "memory.max", "memory.limit_in_bytes", mem, "-1", err) < 0)
		return -1;
	if (is_set(sum) && !sum_first && (sum != -1 || cg->memsw_max >= 0) &&
	    fctr_cg_set(cg, h, "memory.swap", "memory.memsw.limit_in_bytes", sum, "-1", err) < 0)
		return -1;
	if (is_set(l->memory_soft) && fctr_cg_set(cg, h, "memory.soft", "memory.soft_limit_in_bytes", l->memory_soft, "-1", err) < 0)
		return -1;
	if (is_set(l->memory_swappiness) &&
	    fctr_cg_set(cg, h, "memory.swappiness", "memory.swappiness", l->memory_swappiness, "", err) < 0)
		return -1;
	return 0;
}

static int limit_device(struct fctr_cgroup *cg, int h, const struct fctr_iolimit *d, struct fctr_error *err)
{
	const struct { int64_t v; const char *file; } rates[] = {
		{ d->rbps, "blkio.throttle.read_bps_device" }, { d->wbps, "blkio.throttle.write_bps_device" },
		{ d->riops, "blkio.throttle.read_iops_device" }, { d->wiops, "blkio.throttle.write_iops_device" },
	};
	char text[64];

	for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
		if (!is_set(rates[i].v))
			continue;
		snprintf(text, sizeof(text), "%u:%u %lld", d->major, d->minor,
			 rates[i].v == -1 ? 0LL : (long long)rates[i].v);	/* 0 takes the rule away */
		if (fctr_cg_set_text(cg, h, "io", rates[i].file, text, err) < 0)
			return -1;
	}
	return 0;
}

static int limit_io(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	int owner = h >= 0 ? cg->root->map.hier[h].owner_fd : -1;
	const char *file;
	char text[64];

	if (h < 0)
		return 0;
	if (is_set(l->io_weight)) {
		file = fctr_cg_weight_file(owner, false, false);
		if (!file)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "io.weight: this kernel has no io weights");
		if (fctr_cg_set(cg, h, "io.weight", file, fctr_cg_blkio_weight(l->io_weight), "", err) < 0)
			return -1;
	}
	for (size_t i = 0; i < l->n_io; i++) {
		const struct fctr_iolimit *d = &l->io[i];

		if (limit_device(cg, h, d, err) < 0)
			return -1;
		if (!is_set(d->weight))
			continue;
		file = fctr_cg_weight_file(owner, false, true);
		if (!file)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "io.weight: this kernel has no io weights of a device");
		snprintf(text, sizeof(text), "%u:%u %lld", d->major, d->minor, (long long)fctr_cg_blkio_weight(d->weight));
		if (fctr_cg_set_text(cg, h, "io.weight", file, text, err) < 0)
			return -1;
	}
	return 0;
}

static int limit_huge(struct fctr_cgroup *cg, int h, const struct fctr_limits *l, struct fctr_error *err)
{
	for (size_t i = 0; h >= 0 && i < l->n_huge; i++) {
		char name[28], file[64];

		snprintf(name, sizeof(name), "hugetlb.%.16s", l->huge[i].size);
		snprintf(file, sizeof(file), "%s.limit_in_bytes", name);
		if (fctr_cg_set(cg, h, name, file, l->huge[i].bytes, "-1", err) < 0)
			return -1;
		/* Reservations too, where counted: else the job gets SIGBUS at the touch, not ENOMEM at mmap. */
		snprintf(file, sizeof(file), "%s.rsvd.limit_in_bytes", name);
		if (fctr_cg_set(cg, h, name, file, l->huge[i].bytes, "-1", err) < 0 && err->err != ENOENT)
			return -1;
	}
	return 0;
}

int fctr_cg1_limit(struct fctr_cgroup *cg, const struct fctr_limits *l, struct fctr_error *err)
{
	unsigned need = fctr_cg_needs(l);

	if ((need & CT_BIT(CT_CPU)) && limit_cpu(cg, on_v1(cg, CT_CPU), l, err) < 0)
		return -1;
	if ((need & CT_BIT(CT_CPUSET)) && limit_cpuset(cg, on_v1(cg, CT_CPUSET), l, err) < 0)
		return -1;
	if ((need & CT_BIT(CT_MEMORY)) && limit_memory(cg, on_v1(cg, CT_MEMORY), l, err) < 0)
		return -1;
	if ((need & CT_BIT(CT_PIDS)) && on_v1(cg, CT_PIDS) >= 0 && is_set(l->pids_max) &&
	    fctr_cg_set(cg, on_v1(cg, CT_PIDS), "pids.max", "pids.max", l->pids_max, "max", err) < 0)
		return -1;
	if ((need & CT_BIT(CT_IO)) && limit_io(cg, on_v1(cg, CT_IO), l, err) < 0)
		return -1;
	if ((need & CT_BIT(CT_HUGETLB)) && limit_huge(cg, on_v1(cg, CT_HUGETLB), l, err) < 0)
		return -1;
	return 0;
}

/* ---- figures ------------------------------------------------------------------------- */

#define TICK_US 4000	/* user and system time are sampled by ticks, mostly of this length */

static void usage_cpu(struct fctr_cgroup *cg, struct fctr_usage *u, bool all)
{
	int h = on_v1(cg, CT_CPUACCT), cpu = on_v1(cg, CT_CPU);
	int64_t total, user, sys;
	char buf[512];

	if (h < 0)
		return;
	total = fctr_cg_stat_num(cg, h, SF_CPU, "cpuacct.usage");
	if (!is_set(total))
		return;
	u->cpu_total_us = total / 1000;
	if (!all && is_set(cg->base.cpu_total_us) && u->cpu_total_us - cg->base.cpu_total_us < TICK_US) {
		u->cpu_user_us = cg->base.cpu_user_us;	/* how it splits would be chance */
		u->cpu_system_us = cg->base.cpu_system_us;
	} else {
		user = fctr_cg_stat_num(cg, h, SF_CPU_USER, "cpuacct.usage_user");
		sys = fctr_cg_stat_num(cg, h, SF_CPU_SYS, "cpuacct.usage_sys");
		u->cpu_user_us = is_set(user) ? user / 1000 : FCTR_UNSET;
		u->cpu_system_us = is_set(sys) ? sys / 1000 : FCTR_UNSET;
	}
	u->nr_throttled = u->throttled_us = 0;	/* without a cpu limit there is no group and no throttling */
	if (cpu >= 0 && (cg->made & (1u << cpu)) && fctr_cg_read(cg, cpu, "cpu.stat", buf, sizeof(buf)) > 0) {
		int64_t ns = fctr_cg_key(buf, "throttled_time");

		u->nr_throttled = fctr_cg_key(buf, "nr_throttled");
		u->throttled_us = is_set(ns) ? ns / 1000 : FCTR_UNSET;
	}
}

/* The total is exact; user and system are ticks, of which a short job may have none, so they only
 * share out the total (as the kernel does for getrusage). */
void fctr_cg1_share_cpu(struct fctr_usage *u)
{
	int64_t ticks;

	if (!is_set(u->cpu_total_us) || !is_set(u->cpu_user_us) || !is_set(u->cpu_system_us))
		return;
	ticks = u->cpu_user_us + u->cpu_system_us;
	if (ticks > 0)
		u->cpu_user_us = (int64_t)((double)u->cpu_total_us * ((double)u->cpu_user_us / (double)ticks));
	else
		u->cpu_user_us = u->cpu_total_us;
	u->cpu_system_us = u->cpu_total_us - u->cpu_user_us;
}

/* Lines "254:0 Read 4096": the sum over devices. */
static void sum_io(const char *text, int64_t *reads, int64_t *writes)
{
	*reads = *writes = 0;
	for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		const char *word = strchr(p, ' ');

		if (*p < '0' || *p > '9' || !word)
			continue;
		if (!strncmp(word, " Read ", 6))
			*reads += strtoll(word + 6, NULL, 10);
		else if (!strncmp(word, " Write ", 7))
			*writes += strtoll(word + 7, NULL, 10);
	}
}

static void usage_io(struct fctr_cgroup *cg, struct fctr_usage *u)
{
	int h = on_v1(cg, CT_IO);
	char buf[8192];

	if (h < 0 || !(cg->made & (1u << h)))
		return;
	if (fctr_cg_read(cg, h, "blkio.throttle.io_service_bytes", buf, sizeof(buf)) >= 0)
		sum_io(buf, &u->io_read_bytes, &u->io_write_bytes);
	if (fctr_cg_read(cg, h, "blkio.throttle.io_serviced", buf, sizeof(buf)) >= 0)
		sum_io(buf, &u->io_reads, &u->io_writes);
}

void fctr_cg1_usage(struct fctr_cgroup *cg, struct fctr_usage *u, bool all)
{
	int mem = on_v1(cg, CT_MEMORY), pids = on_v1(cg, CT_PIDS);
	char buf[128];

	usage_cpu(cg, u, all);
	usage_io(cg, u);
	if (mem >= 0) {
		u->memory_current = fctr_cg_stat_num(cg, mem, SF_MEMORY, "memory.usage_in_bytes");
		u->memory_peak = fctr_cg_stat_num(cg, mem, SF_MEMORY_PEAK, "memory.max_usage_in_bytes");
		if (fctr_cg_stat_text(cg, mem, SF_OOM, "memory.oom_control", buf, sizeof(buf)) > 0)
			u->oom_kills = fctr_cg_key(buf, "oom_kill");
	}
	if (pids >= 0) {
		u->pids_current = fctr_cg_stat_num(cg, pids, SF_PIDS, "pids.current");
		u->pids_peak = fctr_cg_stat_num(cg, pids, SF_PIDS_PEAK, "pids.peak");
	}
}

/* ---- the next job -------------------------------------------------------------------- */

#define RESIDUE (1 << 20)	/* bytes: what per-cpu batches of the kernel may still hold */

static int recycle_memory(struct fctr_cgroup *cg, int h)
{
	int64_t usage = fctr_cg_stat_num(cg, h, SF_MEMORY, "memory.usage_in_bytes");

	if (usage >= RESIDUE) {	/* page cache of the last job: its charge must not be the next one's */
		fctr_cg_write(cg, h, "memory.force_empty", "0");
		usage = fctr_cg_stat_num(cg, h, SF_MEMORY, "memory.usage_in_bytes");
	}
	if (!is_set(usage) || usage >= RESIDUE)
		return 0;
	return fctr_cg_write(cg, h, "memory.max_usage_in_bytes", "0") == 0;
}

/* pids.peak cannot be reset, but a directory of nothing but pids is cheap to make anew. A job has
 * one process at least, so a peak of one tells the next job's peak as well as none. */
static int recycle_pids(struct fctr_cgroup *cg, int h)
{
	int64_t peak = fctr_cg_stat_num(cg, h, SF_PIDS_PEAK, "pids.peak");
	struct fctr_error err = { 0 };
	int owner = cg->root->map.hier[h].owner_fd;

	if (fctr_cg_stat_num(cg, h, SF_PIDS, "pids.current") != 0)
		return 0;	/* somebody is dead but not reaped */
	if (!is_set(peak) || peak <= 1)
		return 1;
	if (cg->root->map.hier[h].ctls != CT_BIT(CT_PIDS))
		return 0;
	fctr_close_fd(&cg->fds[h]);
	fctr_cg_stat_close(cg, SF_PIDS);
	fctr_cg_stat_close(cg, SF_PIDS_PEAK);
	if (unlinkat(owner, cg->name, AT_REMOVEDIR) < 0)
		return 0;
	cg->made &= ~(1u << h);
	if (fctr_cg_add(cg, h, &err) < 0)
		return 0;
	cg->shut = false;
	return !is_set(cg->pids_max) || fctr_cg_set(cg, h, "pids.max", "pids.max", cg->pids_max, "max", &err) == 0;
}

int fctr_cg1_recycle(struct fctr_cgroup *cg)
{
	int mem = on_v1(cg, CT_MEMORY), pids = on_v1(cg, CT_PIDS);

	if (pids >= 0 && !recycle_pids(cg, pids))
		return 0;
	return mem < 0 || recycle_memory(cg, mem);
}
