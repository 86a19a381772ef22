/* test_cgroup_jobs.c: the control-group layer with processes in it: figures, out of memory, freezing,
 * killing, recycling, sweeping. Prints what failed and 'N passed, N failed, N skipped'; see
 * cgroup_support.h. A first argument of "bench" prints what the calls cost instead. */
#define _GNU_SOURCE
#include "cgroup_support.h"

static void test_figures(void)
{
	struct fctr_limits l = none();
	struct fctr_cgroup *cg;
	struct fctr_usage u;
	size_t small = 10 << 20, big = 80 << 20;
	long ms = 60;
	int status, recycled;
	bool anew;	/* must recycle: on v2 a pids.peak above one, or an old kernel's memory.peak, forbids it */

	if ((!has("memory") || !has("pids")) && skip("figures: no memory or pids controller"))
		return;
	l.memory_max = 40 << 20;
	l.pids_max = pids(8);
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

	recycled = fctr_cgroup_recycle(cg, false);
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
	CHECK(fctr_cgroup_recycle(cg, false) == 0, "not recycled while populated");
	CHECK(fctr_cgroup_kill(cg, 3000, &err) == 0, "kill the orphans");
	reap_orphans();
	recycled = fctr_cgroup_recycle(cg, false);
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
	CHECK(fctr_cgroup_recycle(cg, false) == 0, "frozen: not recycled");
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

	l.pids_max = pids(150);
	cg = make("bomb", &l);
	if (!cg)
		return;
	/* Where nothing bounds a bomb, a tree of 31 has to do. */
	pid = spawn(cg, has("pids") ? w_bomb : w_tree, NULL);
	nap(150);
	CHECK(fctr_cgroup_stats(cg, &u, &err) == 0 && (u.pids_current > 50 || !has("pids")), "bomb went off: %lld", (long long)u.pids_current);
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

static void *churn(void *arg)	/* makes, uses and removes groups of its own */
{
	long id = (long)arg, bad = 0;

	for (int i = 0; i < 15; i++) {
		struct fctr_limits l = none();
		struct fctr_error e = { 0 };
		struct fctr_cgroup *cg = NULL;
		struct fctr_usage u;
		char name[32];

		l.pids_max = pids(5);
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
	*(int *)arg += !strcmp(name, own) * 100 + !strcmp(name, own_dead) + !strcmp(name, own_live);
	return !strcmp(name, own_dead);
}

static void test_sweep(void)
{
	struct fctr_cgroot *dead = NULL, *live = NULL;
	struct fctr_limits l = none();
	struct fctr_cgroup *cg = NULL;
	int asked = 0, n;

	if (!CHECK(fctr_cgroot_open(NULL, own_dead, &dead, &err) == 0, "open the dead") ||
	    !CHECK(fctr_cgroot_open(NULL, own_live, &live, &err) == 0, "open the living"))
		return;
	l.pids_max = pids(10);
	if (has("cpu"))
		l.cpu_weight = 20;
	if (!CHECK(fctr_cgroup_create(dead, "left", &l, NULL, 0, &cg, &err) == 0, "create"))
		return;
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
	l.pids_max = pids(32);
	if (has("cpu"))
		l.cpu_quota_us = 50000;
	for (int i = 0; i < rounds; i++) {
		TIME(B_CREATE, if (fctr_cgroup_create(root, "bench", &l, NULL, 0, &cg, &err) < 0) return);
		run(cg, w_nothing, NULL);
		TIME(B_STATS, fctr_cgroup_stats(cg, &u, &err));
		TIME(B_STATS_AGAIN, fctr_cgroup_stats(cg, &u, &err));
		TIME(B_RECYCLE, recycled += fctr_cgroup_recycle(cg, false));
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

int main(int argc, char **argv)
{
	if (begin() == 0) {
		if (argc > 1 && !strcmp(argv[1], "bench")) {
			bench();
			return finish();
		}
		test_figures();
		test_quota();
		test_freeze();
		test_kill();
		test_late_controller();
		test_attach();
		test_threads();
		test_sweep();
	}
	return finish();
}
