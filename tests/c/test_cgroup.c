/* test_cgroup.c: the control-group layer on whatever this machine has (v1, hybrid or pure v2).
 * Prints what failed and 'N passed, N failed'. Wants to be root, or in a delegated v2 group.
 * A first argument of "bench" prints what the calls cost instead. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "../../csrc/cgroup.h"
#include "../../csrc/util.h"

static int passed, failed, skipped;
static struct fctr_cgroot *root;
static int mode;
static struct fctr_error err;
static struct fctr_cginfo info;

__attribute__((format(printf, 3, 4)))
static bool check_(bool ok, int line, const char *fmt, ...)
{
	va_list ap;

	if (ok) {
		passed++;
		return true;
	}
	failed++;
	printf("FAILED line %d: ", line);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("  [last error: %s: %s, errno %d]\n", fctr_stage_name(err.stage), err.what, err.err);
	return false;
}
#define CHECK(ok, ...) check_((ok), __LINE__, __VA_ARGS__)

static bool skip(const char *why)
{
	skipped++;
	printf("skipped: %s\n", why);
	return true;
}

static struct fctr_limits none(void)
{
	return (struct fctr_limits){
		.cpu_quota_us = FCTR_UNSET, .cpu_period_us = FCTR_UNSET, .cpu_burst_us = FCTR_UNSET,
		.cpu_weight = FCTR_UNSET, .cpu_shares = FCTR_UNSET, .cpu_idle = FCTR_UNSET,
		.memory_max = FCTR_UNSET, .memory_soft = FCTR_UNSET, .memory_swap_max = FCTR_UNSET,
		.memory_swappiness = FCTR_UNSET, .pids_max = FCTR_UNSET, .io_weight = FCTR_UNSET,
	};
}

static bool has(const char *ctl)
{
	char buf[300], want[40];

	snprintf(buf, sizeof(buf), " %s ", info.controllers);
	snprintf(want, sizeof(want), " %s ", ctl);
	return strstr(buf, want) != NULL;
}

/* The text of a file of the group, found through fctr_cgroup_paths(). */
static const char *show(struct fctr_cgroup *cg, const char *ctl, const char *file)
{
	static char out[4096];
	char lines[4096], path[4400], *save = NULL;

	fctr_cgroup_paths(cg, lines, sizeof(lines));
	for (char *l = strtok_r(lines, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		char *colon = strchr(l, ':');
		bool fits;

		*colon = '\0';
		fits = !strcmp(l, "unified");
		for (char *s2 = NULL, *c = strtok_r(l, ",", &s2); c && !fits; c = strtok_r(NULL, ",", &s2))
			fits = !strcmp(c, ctl);
		if (!fits)
			continue;
		snprintf(path, sizeof(path), "%s/%s", colon + 1, file);
		if (fctr_read_at(AT_FDCWD, path, out, sizeof(out)) >= 0) {
			out[strcspn(out, "\n")] = '\0';
			return out;
		}
	}
	return "(none)";
}

/* Does the group have this controller on v1? On hybrid it depends on the controller. */
static bool on_v1(struct fctr_cgroup *cg, const char *ctl)
{
	char lines[4096], *save = NULL;

	fctr_cgroup_paths(cg, lines, sizeof(lines));
	for (char *l = strtok_r(lines, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		*strchr(l, ':') = '\0';
		for (char *s2 = NULL, *c = strtok_r(l, ",", &s2); c; c = strtok_r(NULL, ",", &s2))
			if (!strcmp(c, ctl))
				return true;
	}
	return false;
}

static bool is(struct fctr_cgroup *cg, const char *ctl, const char *v1, const char *want1, const char *v2, const char *want2)
{
	bool old = v1 && on_v1(cg, ctl);
	const char *got = show(cg, ctl, old ? v1 : v2), *want = old ? want1 : want2;

	return CHECK(!strcmp(got, want), "%s is \"%s\", not \"%s\"", old ? v1 : v2, got, want);
}

static struct fctr_cgroup *make(const char *name, const struct fctr_limits *l)
{
	struct fctr_cgroup *cg = NULL;

	return CHECK(fctr_cgroup_create(root, name, l, NULL, 0, &cg, &err) == 0, "create %s", name) ? cg : NULL;
}

/* A process inside the group: born there on v2, joining by itself on v1. */
static pid_t spawn(struct fctr_cgroup *cg, int (*work)(void *), void *arg)
{
	int fds[FCTR_CG_MAX_TASKS], into = fctr_cgroup_into_fd(cg);
	size_t n = fctr_cgroup_tasks(cg, fds);
	struct clone_args args = { .exit_signal = SIGCHLD };
	pid_t pid;

	if (into >= 0) {
		args.flags = CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)into;
	}
	fflush(stdout);
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid)
		return pid;
	for (size_t i = 0; i < n; i++)
		if (write(fds[i], "0", 1) != 1)
			_exit(99);
	_exit(work(arg));
}

static int reap(pid_t pid)
{
	int status = -1;

	return waitpid(pid, &status, 0) == pid ? status : -1;
}

static int run(struct fctr_cgroup *cg, int (*work)(void *), void *arg)
{
	pid_t pid = spawn(cg, work, arg);

	return pid > 0 ? reap(pid) : -1;
}

static void nap(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void reap_orphans(void)	/* main() makes us their reaper */
{
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static int w_nothing(void *arg) { (void)arg; return 0; }
static int w_sleep(void *arg) { (void)arg; for (;;) pause(); return 0; }
static int w_touch(void *arg)
{
	size_t size = *(size_t *)arg;
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < size; i += 4096)
		((volatile char *)p)[i] = 1;
	return 0;
}
static int w_spin(void *arg)	/* that much cpu time of its own */
{
	long ms = *(long *)arg;
	struct timespec t;

	do
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	while (t.tv_sec * 1000 + t.tv_nsec / 1000000 < ms);
	return 0;
}
static int w_forks(void *arg)	/* as many children as it gets, up to 30; their number is the status */
{
	int n = 0;

	(void)arg;
	for (; n < 30; n++) {
		pid_t p = fork();

		if (p < 0)
			break;
		if (!p)
			w_sleep(NULL);
	}
	return n;
}
static int w_bomb(void *arg)	/* a tree that forks on and on */
{
	(void)arg;
	for (;;) {
		signal(SIGCHLD, SIG_IGN);
		if (fork() < 0)
			nap(1);
	}
	return 0;
}
static int w_count(void *arg)	/* counts in shared memory */
{
	volatile long *n = arg;

	for (;;) {
		++*n;
		nap(1);
	}
	return 0;
}
static int w_open(void *arg)	/* errno of opening a device node */
{
	const char *text = arg;
	int fd = open(text + 2, text[0] == 'r' ? O_RDONLY : text[0] == 'w' ? O_WRONLY : O_RDWR);

	return fd < 0 ? errno : 0;
}

/* ---- the tests ----------------------------------------------------------------------- */

static void test_info(void)
{
	CHECK(fctr_cgroup_info(&info, &err) == 0, "info");
	printf("mode %d, controllers \"%s\", parent \"%s\", writable %d, delegated %d, systemd %d\n", info.mode,
	       info.controllers, info.parent, info.writable, info.delegated, info.systemd);
	CHECK(!info.writable || (info.mode != FCTR_CGMODE_NONE && info.controllers[0] && info.parent[0] == '/'), "something is there");
}

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
	l.pids_max = 17;
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
	CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "pids max");
	is(cg, "pids", "pids.max", "max", "pids.max", "max");
	CHECK(fctr_cgroup_recycle(cg) == 0, "a changed group is not recycled");
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

static void test_figures(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;
	struct fctr_usage u;
	size_t small = 10 << 20, big = 80 << 20;
	long ms = 60;
	int status, recycled;
	bool anew;	/* must recycle: on v2 a pids.peak above one, or an old kernel's memory.peak, forbids it */

	if (!has("memory") && skip("figures: no memory controller"))
		return;
	l.memory_max = 40 << 20;
	l.pids_max = 8;
	cg = make("figures", &l);
	if (!cg)
		return;
	anew = on_v1(cg, "memory") && on_v1(cg, "pids");
	CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.cpu_total_us == 0 && u.memory_limit == 40 << 20 && u.pids_current == 0,
	      "fresh: cpu %lld, limit %lld", (long long)u.cpu_total_us, (long long)u.memory_limit);

	status = run(cg, w_touch, &small);
	CHECK(status == 0, "touching 10 MB: status %x", (unsigned)status);
	CHECK(fctr_cgroup_stats(cg, &u, &err) == 0, "stats");
	CHECK(u.memory_peak >= 10 << 20 && u.memory_peak < 20 << 20, "peak %lld", (long long)u.memory_peak);
	CHECK(u.oom_kills == 0, "oom kills %lld", (long long)u.oom_kills);
	CHECK(u.pids_peak == 1 || u.pids_peak == FCTR_UNSET, "pids peak %lld", (long long)u.pids_peak);
	CHECK(u.cpu_total_us > 0 && u.cpu_user_us + u.cpu_system_us <= u.cpu_total_us + 2, "cpu %lld", (long long)u.cpu_total_us);

	recycled = fctr_cgroup_recycle(cg);
	printf("recycle after a plain job: %d\n", recycled);
	if (anew)
		CHECK(recycled == 1, "recycle after a plain job");
	if (recycled) {
		CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.cpu_total_us == 0 && u.memory_peak < 1 << 20 && u.pids_current == 0,
		      "recycled: cpu %lld peak %lld", (long long)u.cpu_total_us, (long long)u.memory_peak);
		status = run(cg, w_spin, &ms);
		CHECK(status == 0, "spin: status %x", (unsigned)status);
		CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.cpu_total_us >= 59000 && u.cpu_total_us < 200000, "cpu %lld", (long long)u.cpu_total_us);
		CHECK(u.memory_peak < 8 << 20, "peak of the second job alone: %lld", (long long)u.memory_peak);
	}

	status = run(cg, w_touch, &big);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "80 MB in 40: status %x", (unsigned)status);
	CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.oom_kills == 1, "oom kills %lld", (long long)u.oom_kills);
	CHECK(u.memory_peak > 38 << 20 && u.memory_peak <= 40 << 20, "peak %lld", (long long)u.memory_peak);

	status = run(cg, w_forks, NULL);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "forks within 8: status %x", (unsigned)status);
	CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.pids_current == 7, "pids %lld", (long long)u.pids_current);
	CHECK(u.pids_peak == 8 || u.pids_peak == FCTR_UNSET, "pids peak %lld", (long long)u.pids_peak);
	CHECK(fctr_cgroup_recycle(cg) == 0, "not recycled while populated");
	CHECK(fctr_cgroup_kill(cg, 3000, &err) == 0, "kill the orphans");
	reap_orphans();
	recycled = fctr_cgroup_recycle(cg);
	printf("recycle after an oom, forks and a kill: %d\n", recycled);
#ifndef __SANITIZE_ADDRESS__	/* its shadow pages stay charged: then no is the right answer */
	if (anew)
		CHECK(recycled == 1, "recycle after forks");
#endif
	if (recycled) {
		is(cg, "pids", "pids.max", "8", "pids.max", "8");
		CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.oom_kills == 0 && u.pids_peak <= 0, "clean: oom %lld pids peak %lld",
		      (long long)u.oom_kills, (long long)u.pids_peak);
		status = run(cg, w_nothing, NULL);
		CHECK(status == 0, "joins again: status %x", (unsigned)status);
		CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && (u.pids_peak == 1 || u.pids_peak == FCTR_UNSET), "pids peak %lld", (long long)u.pids_peak);
	}
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
}

static void test_quota(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;
	struct fctr_usage u;
	long ms = 100;
	double t0;
	int status;

	if (!has("cpu") && skip("quota: no cpu controller"))
		return;
	l.cpu_quota_us = 20000;
	l.cpu_period_us = 100000;
	cg = make("quota", &l);
	if (!cg)
		return;
	t0 = now_us();
	status = run(cg, w_spin, &ms);
	t0 = (now_us() - t0) / 1000;
	CHECK(status == 0 && t0 > 250, "100 ms of cpu at 20 %% took %.0f ms", t0);
	CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.nr_throttled > 0 && u.throttled_us > 50000, "throttled %lld times, %lld us",
	      (long long)u.nr_throttled, (long long)u.throttled_us);
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
}

static void test_freeze(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg = make("freeze", &l);
	volatile long *n = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid, *pids = NULL;
	size_t n_pids = 0;
	long before;

	if (!cg)
		return;
	pid = spawn(cg, w_count, (void *)n);
	nap(50);
	CHECK(fctr_cgroup_pids(cg, &pids, &n_pids, &err) == 0 && n_pids == 1 && pids[0] == pid, "listed: %zu", n_pids);
	free(pids);
	fctr_cgroup_slim(cg);
	CHECK(fctr_cgroup_freeze(cg, true, &err) == 0, "freeze");
	before = *n;
	nap(60);
	CHECK(before > 0 && *n == before, "counted on while frozen: %ld, %ld", before, *n);
	CHECK(fctr_cgroup_freeze(cg, false, &err) == 0, "thaw");
	nap(60);
	CHECK(*n > before, "counts again: %ld, %ld", before, *n);
	CHECK(fctr_cgroup_freeze(cg, true, &err) == 0, "freeze again");
	CHECK(fctr_cgroup_kill(cg, 3000, &err) == 0, "kill while frozen");
	CHECK(WTERMSIG(reap(pid)) == SIGKILL, "killed");
	CHECK(fctr_cgroup_recycle(cg) == 0, "frozen: not recycled");
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	munmap((void *)n, 4096);
}

static void test_kill(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;
	struct fctr_usage u;
	double t0;
	pid_t pid;

	l.pids_max = 150;
	cg = make("bomb", &l);
	if (!cg)
		return;
	pid = spawn(cg, w_bomb, NULL);
	nap(150);
	CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && u.pids_current > 50, "bomb went off: %lld", (long long)u.pids_current);
	t0 = now_us();
	CHECK(fctr_cgroup_kill(cg, 10000, &err) == 0, "kill a fork bomb");
	printf("fork bomb of %lld killed in %.1f ms\n", (long long)u.pids_current, (now_us() - t0) / 1000);
	CHECK(WTERMSIG(reap(pid)) == SIGKILL, "killed");
	reap_orphans();
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
}

static void test_late_controller(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;
	char path[64], buf[1024];
	pid_t pid;

	if (!has("cpu") && skip("late controller: no cpu"))
		return;
	cg = make("late", &l);
	if (!cg)
		return;
	pid = spawn(cg, w_sleep, NULL);
	nap(20);
	l.cpu_quota_us = 30000;
	CHECK(fctr_cgroup_limit(cg, &l, &err) == 0, "a quota for a running job");
	is(cg, "cpu", "cpu.cfs_quota_us", "30000", "cpu.max", "30000 100000");
	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	CHECK(fctr_read_at(AT_FDCWD, path, buf, sizeof(buf)) > 0 && strstr(buf, mode == FCTR_CGMODE_V2 ? "0::" : ":cpu") &&
	      strstr(strstr(buf, mode == FCTR_CGMODE_V2 ? "0::" : ":cpu"), "/late"), "it is in there: %s", buf);
	CHECK(fctr_cgroup_kill(cg, 3000, &err) == 0, "kill");
	reap(pid);
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
}

static void test_attach(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg = make("attach", &l);
	pid_t pid, *pids = NULL;
	size_t n = 0;

	if (!cg)
		return;
	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(w_sleep(NULL));
	CHECK(fctr_cgroup_attach(cg, pid, &err) == 0, "attach");
	CHECK(fctr_cgroup_pids(cg, &pids, &n, &err) == 0 && n == 1 && pids[0] == pid, "attached");
	free(pids);
	CHECK(fctr_cgroup_kill(cg, 3000, &err) == 0, "kill");
	reap(pid);
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
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

static void *churn(void *arg)	/* makes, uses and removes groups of its own */
{
	long id = (long)arg, bad = 0;

	for (int i = 0; i < 15; i++) {
		struct fctr_limits l = none();
		struct fctr_error e = { 0 };
		struct fctr_cgroup *cg = NULL;
		struct fctr_usage u;
		char name[32];

		l.pids_max = 5;
		if (i % 3 == 0 && has("cpu"))
			l.cpu_weight = 50;
		snprintf(name, sizeof(name), "t%ld-%d", id, i);
		if (fctr_cgroup_create(root, name, &l, NULL, 0, &cg, &e) < 0) {
			bad++;
			continue;
		}
		bad += fctr_cgroup_stats(cg, &u, &e) != 0;
		bad += fctr_cgroup_destroy(cg) != 0;
	}
	return (void *)bad;
}

static void test_threads(void)
{
	pthread_t t[4];
	long bad = 0;
	void *r;

	for (long i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, churn, (void *)i);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &r);
		bad += (long)r;
	}
	CHECK(bad == 0, "%ld calls failed in four threads", bad);
}

static bool is_test_dead(const char *name, void *arg)
{
	++*(int *)arg;
	return !strcmp(name, "ctest-dead");
}

static void test_sweep(void)
{
	struct fctr_cgroot *dead = NULL, *live = NULL;
	struct fctr_limits l = none();
	struct fctr_cgroup *cg = NULL;
	int asked = 0, n;

	if (!CHECK(fctr_cgroot_open(NULL, "ctest-dead", &dead, &err) == 0, "open the dead") ||
	    !CHECK(fctr_cgroot_open(NULL, "ctest-live", &live, &err) == 0, "open the living"))
		return;
	l.pids_max = 10;
	if (has("cpu"))
		l.cpu_weight = 20;
	CHECK(fctr_cgroup_create(dead, "left", &l, NULL, 0, &cg, &err) == 0, "create");
	CHECK(spawn(cg, w_forks, NULL) > 0, "spawn");
	nap(50);
	CHECK(fctr_cgroup_freeze(cg, true, &err) == 0, "freeze");
	n = fctr_cgroot_sweep(root, is_test_dead, &asked);
	CHECK(n == 1 && asked == 2, "swept %d of %d", n, asked);
	reap_orphans();
	CHECK(!strcmp(show(cg, "pids", "cgroup.procs"), "(none)"), "its groups are gone");
	CHECK(fctr_cgroup_destroy(cg) == 0, "destroy of what is gone");
	n = fctr_cgroot_sweep(root, is_test_dead, &asked);
	CHECK(n == 0, "nothing more to sweep: %d", n);
	fctr_cgroot_close(dead);
	fctr_cgroot_close(live);
}

static void test_parent(void)
{
	struct fctr_cgroot *r = NULL;
	struct fctr_cgroup *cg = NULL;
	struct fctr_limits l = none();
	char lines[4096];

	if (geteuid() != 0 && skip("named parent: not root"))
		return;
	if (!CHECK(fctr_cgroot_open("fctr-ctest//one/./two/", "own", &r, &err) == 0, "a relative parent"))
		return;
	if (CHECK(fctr_cgroup_create(r, "job", &l, NULL, 0, &cg, &err) == 0, "create")) {
		fctr_cgroup_paths(cg, lines, sizeof(lines));
		CHECK(strstr(lines, "/fctr-ctest/one/two/own/job\n") != NULL, "paths: %s", lines);
		CHECK(run(cg, w_nothing, NULL) == 0, "run");
		CHECK(fctr_cgroup_destroy(cg) == 0, "destroy");
	}
	fctr_cgroot_close(r);
	r = NULL;
	CHECK(fctr_cgroot_open("/fctr-ctest", "own", &r, &err) == 0, "an absolute parent");
	fctr_cgroot_close(r);
}

/* Directories of ours anywhere below the mount point. */
static int left_over(const char *path, int depth)
{
	DIR *d = opendir(path);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d))) {
		char below[4096];

		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		if (!strncmp(e->d_name, "ctest", 5) || !strncmp(e->d_name, "fctr-ctest", 10)) {
			printf("left: %s/%s\n", path, e->d_name);
			n++;
		}
		if (depth < 8 && snprintf(below, sizeof(below), "%s/%s", path, e->d_name) < (int)sizeof(below))
			n += left_over(below, depth + 1);
	}
	if (d)
		closedir(d);
	return n;
}

static int by_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

enum { B_CREATE, B_STATS, B_STATS_AGAIN, B_STATS_SLIM, B_RECYCLE, B_KILL, B_DESTROY, B_COUNT };
#define B_MAX 500

static void bench(void)
{
	static const char *const names[] = { "create", "stats", "stats again", "stats slim", "recycle", "kill of nothing", "destroy" };
	static double t[B_COUNT][B_MAX];
	struct fctr_limits l = none();
	struct fctr_cgroup *cg = NULL;
	struct fctr_usage u;
	int rounds = mode == FCTR_CGMODE_V2 ? 50 : B_MAX, recycled = 0;
#define TIME(what, call) do { double t0 = now_us(); call; t[what][i] = now_us() - t0; } while (0)

	l.memory_max = 64 << 20;
	l.pids_max = 32;
	if (has("cpu"))
		l.cpu_quota_us = 50000;
	for (int i = 0; i < rounds; i++) {
		TIME(B_CREATE, if (fctr_cgroup_create(root, "bench", &l, NULL, 0, &cg, &err) < 0) return);
		run(cg, w_nothing, NULL);
		TIME(B_STATS, fctr_cgroup_stats(cg, &u, &err));
		TIME(B_STATS_AGAIN, fctr_cgroup_stats(cg, &u, &err));
		TIME(B_RECYCLE, recycled += fctr_cgroup_recycle(cg));
		fctr_cgroup_slim(cg);
		TIME(B_STATS_SLIM, fctr_cgroup_stats(cg, &u, &err));
		TIME(B_KILL, fctr_cgroup_kill(cg, 100, &err));
		TIME(B_DESTROY, fctr_cgroup_destroy(cg));
	}
	for (int b = 0; b < B_COUNT; b++) {
		qsort(t[b], (size_t)rounds, sizeof(double), by_double);
		printf("%-16s p50 %7.1f  p95 %7.1f us\n", names[b], t[b][rounds / 2], t[b][rounds * 95 / 100]);
	}
	printf("recycled %d of %d\n", recycled, rounds);
}

static int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

int main(int argc, char **argv)
{
	int fds = open_fds();

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	test_info();
	if (fctr_cgroot_open(NULL, "ctest", &root, &err) < 0) {
		CHECK(!info.writable && err.what[0] && err.err, "open: %s", err.what);
		printf("no groups here: %s\n", err.what);
		printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
		return failed ? 1 : 0;
	}
	mode = fctr_cgroot_mode(root);
	fctr_cgroup_info(&info, &err);
	if (argc > 1 && !strcmp(argv[1], "bench")) {
		bench();
	} else {
		test_names();
		test_limits();
		test_io();
		test_huge_and_unified();
		test_refusals();
		test_figures();
		test_quota();
		test_freeze();
		test_kill();
		test_late_controller();
		test_attach();
		test_devices();
		test_threads();
		test_sweep();
		test_parent();
	}
	fctr_cgroot_close(root);
	CHECK(left_over("/sys/fs/cgroup", 0) == 0, "groups are left");
	CHECK(open_fds() == fds, "descriptors: %d, before %d", open_fds(), fds);
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed ? 1 : 0;
}
