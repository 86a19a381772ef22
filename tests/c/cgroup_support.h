/* cgroup_support.h: what both programs that test the control-group layer share: counting, groups to
 * put processes in, and the beginning and end, which look for leftovers. They run on whatever the
 * machine has (v1, hybrid or pure v2), as root or in a delegated v2 group. */
#ifndef CGROUP_SUPPORT_H
#define CGROUP_SUPPORT_H

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

static int passed, failed, skipped, fds_before;
static struct fctr_cgroot *root;
static int mode;
static struct fctr_error err;
static struct fctr_cginfo info;

__attribute__((format(printf, 3, 4)))
static inline bool check_(bool ok, int line, const char *fmt, ...)
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

static inline bool skip(const char *why)
{
	skipped++;
	printf("skipped: %s\n", why);
	return true;
}

static inline struct fctr_limits none(void)
{
	return (struct fctr_limits){
		.cpu_quota_us = FCTR_UNSET, .cpu_period_us = FCTR_UNSET, .cpu_burst_us = FCTR_UNSET,
		.cpu_weight = FCTR_UNSET, .cpu_shares = FCTR_UNSET, .cpu_idle = FCTR_UNSET,
		.memory_max = FCTR_UNSET, .memory_soft = FCTR_UNSET, .memory_swap_max = FCTR_UNSET,
		.memory_swappiness = FCTR_UNSET, .pids_max = FCTR_UNSET, .io_weight = FCTR_UNSET,
	};
}

static inline bool has(const char *ctl)
{
	char buf[300], want[40];

	snprintf(buf, sizeof(buf), " %s ", info.controllers);
	snprintf(want, sizeof(want), " %s ", ctl);
	return strstr(buf, want) != NULL;
}

static inline int64_t pids(int64_t n)
{
	return has("pids") ? n : FCTR_UNSET;
}

/* The text of a file of the group, found through fctr_cgroup_paths(). */
static inline const char *show(struct fctr_cgroup *cg, const char *ctl, const char *file)
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
static inline bool on_v1(struct fctr_cgroup *cg, const char *ctl)
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

static inline bool is(struct fctr_cgroup *cg, const char *ctl, const char *v1, const char *want1, const char *v2, const char *want2)
{
	bool old = v1 && on_v1(cg, ctl);
	const char *got = show(cg, ctl, old ? v1 : v2), *want = old ? want1 : want2;

	return CHECK(!strcmp(got, want), "%s is \"%s\", not \"%s\"", old ? v1 : v2, got, want);
}

static inline struct fctr_cgroup *make(const char *name, const struct fctr_limits *l)
{
	struct fctr_cgroup *cg = NULL;

	return CHECK(fctr_cgroup_create(root, name, l, NULL, 0, &cg, &err) == 0, "create %s", name) ? cg : NULL;
}

/* A process inside the group: born there on v2, joining by itself on v1. */
static inline pid_t spawn(struct fctr_cgroup *cg, int (*work)(void *), void *arg)
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

static inline int reap(pid_t pid)
{
	int status = -1;

	return waitpid(pid, &status, 0) == pid ? status : -1;
}

static inline int run(struct fctr_cgroup *cg, int (*work)(void *), void *arg)
{
	pid_t pid = spawn(cg, work, arg);

	return pid > 0 ? reap(pid) : -1;
}

static inline void nap(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static inline double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static inline void reap_orphans(void)	/* main() makes us their reaper */
{
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static int w_nothing(void *arg) { (void)arg; return 0; }
static int w_sleep(void *arg) { (void)arg; for (;;) pause(); return 0; }
static inline int w_touch(void *arg)
{
	size_t size = *(size_t *)arg;
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < size; i += 4096)
		((volatile char *)p)[i] = 1;
	return 0;
}
static inline int w_spin(void *arg)	/* that much cpu time of its own */
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
static inline int w_tree(void *arg)
{
	w_forks(arg);
	return w_sleep(arg);
}
static inline int w_bomb(void *arg)	/* a tree that forks on and on */
{
	(void)arg;
	for (;;) {
		signal(SIGCHLD, SIG_IGN);
		if (fork() < 0)
			nap(1);
	}
	return 0;
}
static inline int w_count(void *arg)	/* counts in shared memory */
{
	volatile long *n = arg;

	for (;;) {
		++*n;
		nap(1);
	}
	return 0;
}

static char own[32], own_parent[40], own_dead[40], own_live[40];	/* owners' names, with our pid: others may test as well */


/* Directories of ours anywhere below the mount point. */
static inline int left_over(const char *path, int depth)
{
	DIR *d = opendir(path);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d))) {
		char below[4096];

		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		if (!strncmp(e->d_name, own, strlen(own)) || !strcmp(e->d_name, own_parent)) {
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

static inline int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static inline void test_info(void)
{
	CHECK(fctr_cgroup_info(&info, &err) == 0, "info");
	printf("mode %d, controllers \"%s\", parent \"%s\", writable %d, delegated %d, systemd %d\n", info.mode,
	       info.controllers, info.parent, info.writable, info.delegated, info.systemd);
	CHECK(!info.writable || (info.mode != FCTR_CGMODE_NONE && info.controllers[0] && info.parent[0] == '/'), "something is there");
}

/* 0: go on; else the tests are over: no groups may be made here, and that was said well. */
static inline int begin(void)
{
	snprintf(own, sizeof(own), "ctest-%d", getpid());
	snprintf(own_dead, sizeof(own_dead), "%s-dead", own);
	snprintf(own_live, sizeof(own_live), "%s-live", own);
	snprintf(own_parent, sizeof(own_parent), "fctr-%s", own);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fds_before = open_fds();
	test_info();
	if (fctr_cgroot_open(NULL, own, &root, &err) < 0) {
		CHECK(!info.writable && err.what[0] && err.err, "open: %s", err.what);
		printf("no groups here: %s\n", err.what);
		return -1;
	}
	mode = fctr_cgroot_mode(root);
	fctr_cgroup_info(&info, &err);	/* again: v2 has its controllers switched on now */
	return 0;
}

static inline int finish(void)
{
	fctr_cgroot_close(root);
	CHECK(left_over("/sys/fs/cgroup", 0) == 0, "groups are left");
	CHECK(open_fds() == fds_before, "descriptors: %d, before %d", open_fds(), fds_before);
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed ? 1 : 0;
}

#endif
