/* test_cgroup.c: the control-group layer: names, limits read back, refusals, devices, parents.
 * Prints what failed and 'N passed, N failed, N skipped'; see cgroup_support.h. */
#define _GNU_SOURCE
#include "cgroup_support.h"

static void test_names(void)
{
	struct fctr_cgroot *r = NULL;
	struct fctr_cgroup *cg = NULL;
	struct fctr_limits l = none();
	static const char *const bad[] = { "", "..", "a/b", ".x", "a\nb" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		CHECK(fctr_cgroot_open(NULL, bad[i], &r, &err) < 0 && err.err == EINVAL, "owner \"%s\"", bad[i]);
		CHECK(fctr_cgroup_create(root, bad[i], &l, NULL, 0, &cg, &err) < 0 && err.err == EINVAL, "group \"%s\"", bad[i]);
	}
	CHECK(fctr_cgroot_open("/a/../b", "x", &r, &err) < 0 && err.err == EINVAL, "parent with ..");
	cg = make("twice", &l);
	if (cg) {
		struct fctr_cgroup *other = NULL;

		CHECK(fctr_cgroup_create(root, "twice", &l, NULL, 0, &other, &err) < 0 && err.err == EEXIST, "twice");
		CHECK(strcmp(show(cg, "cpuacct", "cgroup.procs"), "(none)") != 0, "the first one lives on");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
}

static void test_limits(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;
	char text[32];

	l.memory_max = 64 << 20;
	l.memory_soft = 32 << 20;
	l.memory_swap_max = 96 << 20;
	l.pids_max = pids(17);
	if (fctr_cgroup_check(root, &l, 0, &err) < 0) {
		CHECK(strstr(err.what, "memory.") != NULL, "check names the limit");
		l.memory_swap_max = FCTR_UNSET;
		if (!has("memory"))
			l.memory_max = l.memory_soft = FCTR_UNSET;
	}
	if (has("cpu")) {
		l.cpu_quota_us = 50000;
		l.cpu_period_us = 200000;
		l.cpu_burst_us = 20000;
		l.cpu_weight = 333;
	}
	if (has("cpuset")) {
		l.cpuset_cpus = "0";
		l.cpuset_mems = "0";
	}
	CHECK(fctr_cgroup_check(root, &l, 0, &err) == 0, "check");
	cg = make("limits", &l);
	if (!cg)
		return;
	if (l.memory_max != FCTR_UNSET) {
		is(cg, "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864");
		is(cg, "memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432");
	}
	if (l.memory_swap_max != FCTR_UNSET)
		is(cg, "memory", "memory.memsw.limit_in_bytes", "100663296", "memory.swap.max", "33554432");
	if (has("pids"))
		is(cg, "pids", "pids.max", "17", "pids.max", "17");
	if (has("cpu")) {
		is(cg, "cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 200000");
		is(cg, "cpu", "cpu.cfs_period_us", "200000", "cpu.max", "50000 200000");
		is(cg, "cpu", "cpu.cfs_burst_us", "20000", "cpu.max.burst", "20000");
		snprintf(text, sizeof(text), "%d", 2 + (332 * 262142 + 9998) / 9999);
		is(cg, "cpu", "cpu.shares", text, "cpu.weight", "333");
		/* changed: the quota below the burst, then the period alone, then no quota */
		l = none();
		l.cpu_quota_us = 10000;
		CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "quota below the burst");
		is(cg, "cpu", "cpu.cfs_burst_us", "10000", "cpu.max.burst", "10000");
		l = none();
		l.cpu_period_us = 100000;
		CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "period alone");
		is(cg, "cpu", "cpu.cfs_quota_us", "10000", "cpu.max", "10000 100000");
		l = none();
		l.cpu_quota_us = -1;
		l.cpu_burst_us = 0;
		l.cpu_shares = 512;
		CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "no quota");
		is(cg, "cpu", "cpu.cfs_quota_us", "-1", "cpu.max", "max 100000");
		is(cg, "cpu", "cpu.shares", "512", "cpu.weight", "20");
		l = none();
		l.cpu_idle = 1;
		if (fctr_cgroup_check(root, &l, 0, &err) == 0) {
			CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "idle");
			is(cg, "cpu", "cpu.idle", "1", "cpu.idle", "1");
			l.cpu_idle = 0;
			l.cpu_shares = 1024;
			CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "not idle any more");
			is(cg, "cpu", "cpu.shares", "1024", "cpu.weight", "39");
		}
	}
	if (has("cpuset")) {
		is(cg, "cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0");
		is(cg, "cpuset", "cpuset.mems", "0", "cpuset.mems", "0");
		l = none();
		l.cpuset_cpus = "4000";
		CHECK(fctr_cgroup_limit(cg, &l, &err) < 0 && strstr(err.what, "cpuset.cpus"), "cpu 4000");
		l.cpuset_cpus = "a-b";
		CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && err.err == EINVAL, "cpus a-b");
	}
	/* memory up past the old sum, and down below the old limit */
	l = none();
	l.memory_max = 200 << 20;
	l.memory_swap_max = 300 << 20;
	if (fctr_cgroup_check(root, &l, 0, &err) == 0) {
		CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "raise both");
		is(cg, "memory", "memory.memsw.limit_in_bytes", "314572800", "memory.swap.max", "104857600");
		l.memory_max = 400 << 20;
		l.memory_swap_max = FCTR_UNSET;
		CHECK(fctr_cgroup_limit(cg, &l, &err) < 0 && strstr(err.what, "memory.swap"), "memory above the sum");
		l.memory_max = 20 << 20;
		l.memory_swap_max = 20 << 20;
		CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "lower both");
		is(cg, "memory", "memory.memsw.limit_in_bytes", "20971520", "memory.swap.max", "0");
		l.memory_max = -1;
		l.memory_swap_max = -1;
		CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "no limit");
		is(cg, "memory", "memory.memsw.limit_in_bytes", show(cg, "memory", "memory.memsw.limit_in_bytes"), "memory.swap.max", "max");
	}
	l = none();
	l.memory_swap_max = 1 << 20;
	if (fctr_cgroup_check(root, &l, 0, &err) == 0)
		CHECK(fctr_cgroup_limit(cg, &l, &err) < 0 && strstr(err.what, "memory.max"), "swap without memory");
	l = none();
	l.pids_max = -1;
	if (has("pids")) {
		CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "pids max");
		is(cg, "pids", "pids.max", "max", "pids.max", "max");
	}
	CHECK(fctr_cgroup_recycle(cg, false) == 0, "a changed group is not recycled");
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
}

/* Some block device's numbers. */
static bool block_device(uint32_t *major, uint32_t *minor)
{
	DIR *d = opendir("/sys/block");
	struct dirent *e;
	bool found = false;

	while (d && !found && (e = readdir(d))) {
		char path[300], buf[32];
		unsigned a, b;

		snprintf(path, sizeof(path), "/sys/block/%.200s/dev", e->d_name);
		if (e->d_name[0] != '.' && strncmp(e->d_name, "zram", 4) && strncmp(e->d_name, "loop", 4) &&
		    fctr_read_at(AT_FDCWD, path, buf, sizeof(buf)) > 0 && sscanf(buf, "%u:%u", &a, &b) == 2) {
			*major = a;
			*minor = b;
			found = true;
		}
	}
	if (d)
		closedir(d);
	return found;
}

static void test_io(void)
{
	struct fctr_iolimit dev = { .rbps = 1 << 20, .wbps = -1, .riops = FCTR_UNSET, .wiops = 100, .weight = FCTR_UNSET };
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;
	char want[64], want2[128];

	l.io = &dev;
	l.n_io = 1;
	if (!has("io") && !has("blkio")) {
		CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && !strncmp(err.what, "io: ", 4), "io is missing");
		return;
	}
	if (!block_device(&dev.major, &dev.minor) && skip("io: no block device"))
		return;
	CHECK(fctr_cgroup_check(root, &l, 0, &err) == 0, "check io");
	cg = make("io", &l);
	snprintf(want, sizeof(want), "%u:%u 1048576", dev.major, dev.minor);
	snprintf(want2, sizeof(want2), "%u:%u rbps=1048576 wbps=max riops=max wiops=100", dev.major, dev.minor);
	if (cg) {
		struct fctr_usage u;

		is(cg, "blkio", "blkio.throttle.read_bps_device", want, "io.max", want2);
		snprintf(want, sizeof(want), "%u:%u 100", dev.major, dev.minor);
		is(cg, "blkio", "blkio.throttle.write_iops_device", want, "io.max", want2);
		CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.io_read_bytes == 0 && u.io_writes == 0, "io figures %lld", (long long)u.io_read_bytes);
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	l.n_io = 0;
	l.io_weight = 5000;
	if (fctr_cgroup_check(root, &l, 0, &err) < 0) {
		CHECK(!strncmp(err.what, "io.weight: ", 11), "no weights: said so");
	} else if ((cg = make("weight", &l))) {
		bool bfq = strcmp(show(cg, "blkio", mode == FCTR_CGMODE_V2 ? "io.weight" : "blkio.weight"), "(none)") == 0;

		is(cg, "blkio", bfq ? "blkio.bfq.weight" : "blkio.weight", "504", bfq ? "io.bfq.weight" : "io.weight", bfq ? "default 504" : "default 5000");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	l.io_weight = FCTR_UNSET;
	l.n_io = 1;
	dev.major = 4000;
	cg = NULL;
	CHECK(fctr_cgroup_create(root, "io", &l, NULL, 0, &cg, &err) < 0 && err.err == ENODEV && strstr(err.what, "4000:"), "no such device");
	CHECK(!cg, "nothing made");
}

static void test_huge_and_unified(void)
{
	struct fctr_hugelimit huge = { "2MB", 4 << 20 };
	struct fctr_kv kv = { "memory.high", "8388608" };
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;

	l.huge = &huge;
	l.n_huge = 1;
	if (!has("hugetlb")) {
		CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && !strncmp(err.what, "hugetlb", 7), "hugetlb is missing");
	} else {
		CHECK(fctr_cgroup_check(root, &l, 0, &err) == 0, "check hugetlb");
		cg = make("huge", &l);
		if (cg) {
			int status;

			if (mode == FCTR_CGMODE_HYBRID)
				CHECK(fctr_cgroup_into_fd(cg) >= 0, "a v2 group on hybrid");
			CHECK(!strcmp(show(cg, "hugetlb", "hugetlb.2MB.max"), "4194304") ||
			      !strcmp(show(cg, "hugetlb", "hugetlb.2MB.limit_in_bytes"), "4194304"), "hugetlb limit is written");
			status = run(cg, w_nothing, NULL);
			CHECK(status == 0, "born in the v2 group and joined v1: status %x", (unsigned)status);
			CHECK(fctr_cgroup_kill(cg, 1000, &err) == 0, "kill of nothing");
			CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
		}
		huge.size = "3MB";
		CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && strstr(err.what, "3MB"), "no 3MB pages");
		huge.size = "../x";
		CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && err.err == EINVAL, "no path as a size");
	}
	l = none();
	l.unified = &kv;
	l.n_unified = 1;
	if (mode != FCTR_CGMODE_V2) {
		CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && strstr(err.what, "unified.memory.high") && strstr(err.what, "v2"), "unified on v1");
		return;
	}
	CHECK(fctr_cgroup_check(root, &l, 0, &err) == 0, "check unified");
	cg = make("unified", &l);
	if (cg) {
		is(cg, "memory", NULL, NULL, "memory.high", "8388608");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	kv.key = "../memory.high";
	CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && err.err == EINVAL, "a key with a slash");
	kv.key = "memory.no_such";
	CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && strstr(err.what, "memory.no_such"), "no such key");
	kv.key = "cgroup.procs";
	CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0, "cgroup.procs is not a limit");
}

static void test_refusals(void)
{
	struct fctr_limits l = none();

	l.pids_max = -7;
	CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && strstr(err.what, "pids.max") && strstr(err.what, "-7"), "pids -7");
	l = none();
	l.cpu_weight = 20000;
	CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && strstr(err.what, "cpu.weight"), "weight 20000");
	l = none();
	l.memory_swappiness = 10;
	if (fctr_cgroup_check(root, &l, 0, &err) < 0)
		CHECK(mode != FCTR_CGMODE_V1 || !has("memory") ? strstr(err.what, "memory.swappiness") != NULL : false, "swappiness refused");
	else
		CHECK(mode != FCTR_CGMODE_V2, "swappiness on v2");
	if (!has("cpu")) {
		l = none();
		l.cpu_quota_us = 10000;
		CHECK(fctr_cgroup_check(root, &l, 0, &err) < 0 && strstr(err.what, "cpu controller"), "no cpu controller");
	}
}

static int w_open(void *arg)	/* errno of opening a device node */
{
	const char *text = arg;
	int fd = open(text + 2, text[0] == 'r' ? O_RDONLY : text[0] == 'w' ? O_WRONLY : O_RDWR);

	return fd < 0 ? errno : 0;
}

static int opens(struct fctr_cgroup *cg, const char *how)
{
	int status = run(cg, w_open, (void *)how);

	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_devices(void)
{
	static const struct fctr_devrule list[] = {
		{ false, 'a', -1, -1, 7 }, { true, 'c', 1, 3, 7 }, { true, 'c', 1, 5, 1 }, { true, 'c', 1, 5, 4 },
		{ true, 'c', 1, -1, 2 }, { true, 'c', 1, 9, 3 }, { false, 'c', 1, 9, 7 },
	};
	static const struct fctr_devrule all_but[] = { { true, 'a', -1, -1, 7 }, { false, 'c', 1, 5, 1 } };
	static const struct fctr_devrule part[] = { { false, 'a', -1, -1, 7 }, { true, 'c', 1, -1, 7 }, { false, 'c', 1, 5, 7 } };
	struct fctr_limits l = none();
	struct fctr_cgroup *cg = NULL;
	int r;

	if (fctr_cgroup_check(root, &l, 2, &err) < 0) {
		CHECK(!strncmp(err.what, "devices: ", 9) && geteuid() != 0, "devices refused");
		return;
	}
	for (int again = 0; again < 2; again++) {	/* the second time from the cache */
		r = fctr_cgroup_create(root, "dev", &l, list, ARRAY_LEN(list) - 2, &cg, &err);
		if (!CHECK(r == 0, "create with devices"))
			return;
		CHECK(opens(cg, "b /dev/null") == 0, "null for both");
		CHECK(opens(cg, "r /dev/zero") == 0, "zero for reading");
		CHECK(opens(cg, "w /dev/zero") == 0, "zero for writing, by the wide rule");
		CHECK(opens(cg, "b /dev/zero") == 0, "zero for both, by two rules");
		CHECK(opens(cg, "r /dev/urandom") == EPERM, "urandom for reading");
		CHECK(opens(cg, "r /dev/full") == EPERM, "full for reading");
		CHECK(opens(cg, "r /dev/tty") == EPERM, "another major");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	r = fctr_cgroup_create(root, "dev", &l, all_but, ARRAY_LEN(all_but), &cg, &err);
	if (CHECK(r == 0, "create with all but one")) {
		CHECK(opens(cg, "r /dev/zero") == EPERM, "zero for reading");
		CHECK(opens(cg, "b /dev/zero") == EPERM, "zero for both");
		CHECK(opens(cg, "w /dev/zero") == 0, "zero for writing");
		CHECK(opens(cg, "r /dev/urandom") == 0, "urandom");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	r = fctr_cgroup_create(root, "dev", &l, part, ARRAY_LEN(part), &cg, &err);
	if (mode != FCTR_CGMODE_V2) {
		CHECK(r < 0 && strstr(err.what, "rule 2"), "a hole in a wide rule: v1 cannot");
	} else if (CHECK(r == 0, "a hole in a wide rule")) {
		CHECK(opens(cg, "r /dev/zero") == EPERM && opens(cg, "r /dev/null") == 0, "the hole");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	r = fctr_cgroup_create(root, "dev", &l, list, ARRAY_LEN(list), &cg, &err);
	if (mode == FCTR_CGMODE_V2 && CHECK(r == 0, "create with all rules")) {
		CHECK(opens(cg, "r /dev/urandom") == EPERM && opens(cg, "w /dev/urandom") == EPERM, "taken back");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
}

static void test_parent(void)
{
	struct fctr_cgroot *r = NULL;
	struct fctr_cgroup *cg = NULL;
	struct fctr_limits l = none();
	char lines[4096], path[80];

	if (geteuid() != 0 && skip("named parent: not root"))
		return;
	snprintf(path, sizeof(path), "%s//one/./two/", own_parent);
	if (!CHECK(fctr_cgroot_open(path, "own", &r, &err) == 0, "a relative parent"))
		return;
	if (CHECK(fctr_cgroup_create(r, "job", &l, NULL, 0, &cg, &err) == 0, "create")) {
		fctr_cgroup_paths(cg, lines, sizeof(lines));
		snprintf(path, sizeof(path), "/%s/one/two/own/job\n", own_parent);
		CHECK(strstr(lines, path) != NULL, "paths: %s", lines);
		CHECK(run(cg, w_nothing, NULL) == 0, "run");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	fctr_cgroot_close(r);
	r = NULL;
	snprintf(path, sizeof(path), "/%s", own_parent);
	CHECK(fctr_cgroot_open(path, "own", &r, &err) == 0, "an absolute parent");
	fctr_cgroot_close(r);
}

int main(void)
{
	if (begin() == 0) {
		test_names();
		test_limits();
		test_io();
		test_huge_and_unified();
		test_refusals();
		test_devices();
		test_parent();
	}
	return finish();
}
