/* cgroup_check.c: which controllers and files limits ask for, and whether they are there. */
#define _GNU_SOURCE
#include <fcntl.h>

#include "cgroup_internal.h"

/* One plain figure each: its files, and the values the kernel can take (-1 is "max" where allowed). */
static const struct limit {
	const char *name;
	int ctl;
	size_t at;
	const char *v1, *v2;
	bool max;
	int64_t low, high;
	const char *without;	/* what a kernel lacks that has the controller and not the file */
} table[] = {
#define AT(f) offsetof(struct fctr_limits, f)
	{ "cpu.quota", CT_CPU, AT(cpu_quota_us), "cpu.cfs_quota_us", "cpu.max", true, 1000, INT64_MAX,
	  "cpu bandwidth control" },
	{ "cpu.period", CT_CPU, AT(cpu_period_us), "cpu.cfs_period_us", "cpu.max", false, 1000, 1000000,
	  "cpu bandwidth control" },
	{ "cpu.burst", CT_CPU, AT(cpu_burst_us), "cpu.cfs_burst_us", "cpu.max.burst", false, 0, INT64_MAX,
	  "cpu burst (it came with 5.14)" },
	{ "cpu.weight", CT_CPU, AT(cpu_weight), "cpu.shares", "cpu.weight", false, 1, 10000, "cpu weights" },
	{ "cpu.shares", CT_CPU, AT(cpu_shares), "cpu.shares", "cpu.weight", false, 2, 262144, "cpu weights" },
	{ "cpu.idle", CT_CPU, AT(cpu_idle), "cpu.idle", "cpu.idle", false, 0, 1,
	  "idle groups (they came with 5.15)" },
	{ "memory.max", CT_MEMORY, AT(memory_max), "memory.limit_in_bytes", "memory.max", true, 0, INT64_MAX,
	  "memory limits" },
	{ "memory.soft", CT_MEMORY, AT(memory_soft), "memory.soft_limit_in_bytes", "memory.low", true, 0, INT64_MAX,
	  "soft memory limits" },
	{ "memory.swap", CT_MEMORY, AT(memory_swap_max), "memory.memsw.limit_in_bytes", "memory.swap.max", true, 0, INT64_MAX,
	  "swap accounting" },
	{ "memory.swappiness", CT_MEMORY, AT(memory_swappiness), "memory.swappiness", NULL, false, 0, 200,
	  "swappiness of a group, which only cgroup v1 has" },
	{ "pids.max", CT_PIDS, AT(pids_max), "pids.max", "pids.max", true, 0, INT32_MAX, "limit on processes" },
#undef AT
};

static int64_t field(const struct fctr_limits *l, size_t at)
{
	return *(const int64_t *)((const char *)l + at);
}

unsigned fctr_cg_needs(const struct fctr_limits *l)
{
	unsigned need = 0;

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (is_set(field(l, table[i].at)))
			need |= CT_BIT(table[i].ctl);
	if (l->cpuset_cpus || l->cpuset_mems)
		need |= CT_BIT(CT_CPUSET);
	if (is_set(l->io_weight) || l->n_io)
		need |= CT_BIT(CT_IO);
	if (l->n_huge)
		need |= CT_BIT(CT_HUGETLB);
	for (size_t i = 0; i < l->n_unified; i++) {
		const char *key = l->unified[i].key;
		size_t len = strcspn(key, ".");

		for (int c = 0; c < CT_COUNT; c++) {
			const char *name = c == CT_IO ? "io" : fctr_cg_v1_names[c];

			if (strlen(name) == len && !memcmp(name, key, len))
				need |= CT_BIT(c);
		}
	}
	return need;
}

/* The same lines as runc and crun draw between the two scales, so that figures agree with theirs. */
int64_t fctr_cg_weight(const struct fctr_limits *l)
{
	if (is_set(l->cpu_weight))
		return l->cpu_weight;
	return is_set(l->cpu_shares) ? 1 + (l->cpu_shares - 2) * 9999 / 262142 : FCTR_UNSET;
}

int64_t fctr_cg_shares(const struct fctr_limits *l)
{
	if (is_set(l->cpu_shares))
		return l->cpu_shares;
	/* Rounded up, so that the weight read back is the one asked for. */
	return is_set(l->cpu_weight) ? 2 + ((l->cpu_weight - 1) * 262142 + 9998) / 9999 : FCTR_UNSET;
}

int64_t fctr_cg_blkio_weight(int64_t weight)
{
	return 10 + (weight - 1) * 990 / 9999;
}

const char *fctr_cg_weight_file(int fd, bool v2, bool device)
{
	static const char *const v1[] = { "blkio.weight", "blkio.bfq.weight" };
	static const char *const v1_dev[] = { "blkio.weight_device", "blkio.bfq.weight_device" };
	static const char *const v2_any[] = { "io.weight", "io.bfq.weight" };
	const char *const *files = v2 ? v2_any : device ? v1_dev : v1;

	for (int i = 0; i < 2; i++)
		if (faccessat(fd, files[i], F_OK, 0) == 0)
			return files[i];
	return NULL;
}

/* The owner's directory in the hierarchy of a controller, or -1 with a sentence why not. */
static int dir_of(struct fctr_cgroot *root, int ctl, const char *limit, struct fctr_error *err)
{
	int h = root->where[ctl];

	if (h >= 0)
		return fctr_cg_ready(root, h, err);
	if (root->map.mode == FCTR_CGMODE_V2)
		return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP,
				 "%s: the %s controller is not available below /%.100s; it has to be delegated",
				 limit, ctl == CT_IO ? "io" : fctr_cg_v1_names[ctl], root->place);
	return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "%s: the %s controller is not mounted", limit,
			 fctr_cg_v1_names[ctl]);
}

static int want_file(int fd, const char *file, const char *limit, const char *without, struct fctr_error *err)
{
	if (file && faccessat(fd, file, F_OK, 0) == 0)
		return 0;
	return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "%s: this kernel has no %s", limit, without);
}

/* ---- cpu lists ----------------------------------------------------------------------- */

#define LIST_BITS 8192

static int parse_list(const char *s, uint8_t bits[LIST_BITS / 8])
{
	memset(bits, 0, LIST_BITS / 8);
	while (*s && *s != '\n') {
		char *end;
		unsigned long a = strtoul(s, &end, 10), b = a;

		if (end == s || *s == '-' || *s == '+' || *s == ' ')
			return -1;
		if (*end == '-') {
			s = end + 1;
			b = strtoul(s, &end, 10);
			if (end == s || *s == '-' || *s == '+' || *s == ' ')
				return -1;
		}
		if (b < a || b >= LIST_BITS || (*end && *end != ',' && *end != '\n'))
			return -1;
		for (; a <= b; a++)
			bits[a / 8] |= (uint8_t)(1u << (a % 8));
		s = *end == ',' ? end + 1 : end;
	}
	return 0;
}

static int check_list(int fd, const char *limit, const char *file, const char *text, struct fctr_error *err)
{
	uint8_t want[LIST_BITS / 8], have[LIST_BITS / 8];
	char buf[1024];
	ssize_t n;

	if (parse_list(text, want) < 0 || !text[0])
		return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "%s: \"%.60s\" is not a list such as 0-2,5", limit, text);
	n = fctr_read_at(fd, file, buf, sizeof(buf));
	if (n < 0)
		return fctr_fail(err, FCTR_ST_LIMIT, errno, "%s: %s cannot be read", limit, file);
	if (n > 0 && buf[n - 1] == '\n')
		buf[n - 1] = '\0';
	if (parse_list(buf, have) < 0)
		return 0;
	for (size_t i = 0; i < sizeof(want); i++)	/* v2 would take it silently and give others */
		if (want[i] & ~have[i])
			return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "%s: \"%.60s\" is not within %.60s, which is what there is here",
					 limit, text, buf);
	return 0;
}

static int check_cpuset(struct fctr_cgroot *root, const struct fctr_limits *l, struct fctr_error *err)
{
	const char *limit = l->cpuset_cpus ? "cpuset.cpus" : "cpuset.mems";
	int fd = dir_of(root, CT_CPUSET, limit, err);
	bool v2;

	if (fd < 0)
		return -1;
	v2 = root->map.hier[root->where[CT_CPUSET]].v2;
	if (l->cpuset_cpus &&
	    check_list(fd, "cpuset.cpus", v2 ? "cpuset.cpus.effective" : "cpuset.effective_cpus", l->cpuset_cpus, err) < 0)
		return -1;
	if (l->cpuset_mems &&
	    check_list(fd, "cpuset.mems", v2 ? "cpuset.mems.effective" : "cpuset.effective_mems", l->cpuset_mems, err) < 0)
		return -1;
	return 0;
}

/* ---- io, hugetlb, unified ------------------------------------------------------------ */

static int check_io(struct fctr_cgroot *root, const struct fctr_limits *l, struct fctr_error *err)
{
	int fd = dir_of(root, CT_IO, is_set(l->io_weight) ? "io.weight" : "io", err);
	bool v2, weight = is_set(l->io_weight), device_weight = false, throttle = false;

	if (fd < 0)
		return -1;
	v2 = root->map.hier[root->where[CT_IO]].v2;
	if (weight && (l->io_weight < 1 || l->io_weight > 10000))
		return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "io.weight: %lld is not within 1 to 10000", (long long)l->io_weight);
	for (size_t i = 0; i < l->n_io; i++) {
		const struct fctr_iolimit *d = &l->io[i];
		const int64_t rates[] = { d->rbps, d->wbps, d->riops, d->wiops };

		for (size_t r = 0; r < ARRAY_LEN(rates); r++) {
			throttle |= is_set(rates[r]);
			if (is_set(rates[r]) && rates[r] != -1 && rates[r] < 1)
				return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "io: %lld for device %u:%u is not a rate; wants 1 or more, or -1 for no limit",
						 (long long)rates[r], d->major, d->minor);
		}
		if (is_set(d->weight)) {
			device_weight = true;
			if (d->weight < 1 || d->weight > 10000)
				return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "io.weight: %lld for device %u:%u is not within 1 to 10000",
						 (long long)d->weight, d->major, d->minor);
		}
	}
	if (weight && !fctr_cg_weight_file(fd, v2, false))
		return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "io.weight: this kernel has no io weights (neither bfq nor io.cost)");
	if (device_weight && !fctr_cg_weight_file(fd, v2, true))
		return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "io.weight: this kernel has no io weights of a device");
	if (throttle && faccessat(fd, v2 ? "io.max" : "blkio.throttle.read_bps_device", F_OK, 0) < 0)
		return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "io: this kernel has no io throttling");
	return 0;
}

static int check_huge(struct fctr_cgroot *root, const struct fctr_limits *l, struct fctr_error *err)
{
	int fd = dir_of(root, CT_HUGETLB, "hugetlb", err);

	if (fd < 0)
		return -1;
	for (size_t i = 0; i < l->n_huge; i++) {
		const char *size = l->huge[i].size;
		char file[64];

		if (!size || !size[0] || strlen(size) > 16 || strspn(size, "0123456789KMGTB") != strlen(size))
			return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "hugetlb: \"%.40s\" is not a page size such as 2MB", size ? size : "");
		snprintf(file, sizeof(file), "hugetlb.%s.%s", size,
			 root->map.hier[root->where[CT_HUGETLB]].v2 ? "max" : "limit_in_bytes");
		if (faccessat(fd, file, F_OK, 0) < 0)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "hugetlb.%s: this kernel has no pages of that size", size);
	}
	return 0;
}

static int check_unified(struct fctr_cgroot *root, const struct fctr_limits *l, struct fctr_error *err)
{
	/* These are ours: writing them would move, kill or stop processes behind our back. */
	static const char *const kept[] = { "cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze",
					    "cgroup.type", "cgroup.subtree_control" };

	for (size_t i = 0; i < l->n_unified; i++) {
		const char *key = l->unified[i].key;
		int fd;

		if (root->map.mode != FCTR_CGMODE_V2)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "unified.%.80s: raw keys need cgroup v2, "
					 "and this machine's controllers are on v1", key);
		if (!key[0] || key[0] == '.' || strchr(key, '/') || strlen(key) > 64)
			return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "unified.%.80s: wants the plain name of a file, such as memory.high", key);
		for (size_t k = 0; k < ARRAY_LEN(kept); k++)
			if (!strcmp(key, kept[k]))
				return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "unified.%s: is not a limit", key);
		fd = fctr_cg_ready(root, root->map.v2, err);
		if (fd < 0)
			return -1;
		if (faccessat(fd, key, F_OK, 0) < 0)
			return fctr_fail(err, FCTR_ST_LIMIT, ENOTSUP, "unified.%s: there is no such file in this machine's control groups", key);
	}
	return 0;
}

int fctr_cgroup_check(struct fctr_cgroot *root, const struct fctr_limits *l, size_t n_devrules, struct fctr_error *err)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct limit *t = &table[i];
		int64_t v = field(l, t->at);
		int fd;

		if (!is_set(v))
			continue;
		if (!(v == -1 && t->max) && (v < t->low || v > t->high))
			return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, t->high == INT64_MAX ? "%s: %lld is less than %lld" :
					 "%s: %lld is not within %lld to %lld", t->name, (long long)v, (long long)t->low, (long long)t->high);
		fd = dir_of(root, t->ctl, t->name, err);
		if (fd < 0)
			return -1;
		if (want_file(fd, root->map.hier[root->where[t->ctl]].v2 ? t->v2 : t->v1, t->name, t->without, err) < 0)
			return -1;
	}
	if (is_set(l->cpu_idle) && l->cpu_idle && (is_set(l->cpu_weight) || is_set(l->cpu_shares)))
		return fctr_fail(err, FCTR_ST_LIMIT, EINVAL, "cpu.idle: an idle group has no weight; leave cpu.weight and cpu.shares out");
	if ((l->cpuset_cpus || l->cpuset_mems) && check_cpuset(root, l, err) < 0)
		return -1;
	if ((is_set(l->io_weight) || l->n_io) && check_io(root, l, err) < 0)
		return -1;
	if (l->n_huge && check_huge(root, l, err) < 0)
		return -1;
	if (check_unified(root, l, err) < 0)
		return -1;
	if (n_devrules && dir_of(root, CT_DEVICES, "devices", err) < 0)
		return -1;
	if (n_devrules && root->map.hier[root->where[CT_DEVICES]].v2)
		return fctr_cg_dev_v2_check(err);
	return 0;
}
