/* bare.c: starts one command again and again by vfork and exec, and times each from the call to
 * the reaped exit. Every side that is a program (the bare binary, crun, runc, bwrap, a Python
 * command) is started by this same small process, so that no launcher's cost is counted.
 *
 *   bare [options] -- COMMAND [ARGUMENT]...
 *     -p            a private mount namespace for this process (implied by -u, -m, -o)
 *     -u DIR        unmount DIR in it, where it is mounted
 *     -m N:DIR      make N tmpfs mounts below DIR in it
 *     -o LOWER:DIR  mount an overlay of LOWER at DIR/merged, its writable layer on a tmpfs at DIR
 *     -s FILE       open FILE as descriptor 9 for each start
 *     -x            become COMMAND instead of starting it again and again
 *   On standard input:  "go N PAUSE_MS"        answers N lines of microseconds, then "end"
 *                       "rate THREADS SECONDS" answers "COUNT SECONDS", then "end"
 *                       "jobs THREADS N STEP"  N starts in all; a line of seconds since the first for
 *                                              every STEP of them that are done, then "end"
 *                       "first N"              COMMAND prints CLOCK_MONOTONIC in ns as tiny.c does; N lines
 *                                              of microseconds from the vfork to that and to the reaped
 *                                              exit, its output read from a pipe; then "end"
 *   "{}" in an argument becomes the number of the thread. A start that does not exit with 0 ends
 *   everything with a line "error ...".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 64
#define SECCOMP_FD 9

extern char **environ;
static const char *seccomp_file;
static int null_fd = -1;
static char **command;

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
	va_list ap;

	fputs("error ", stdout);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	_exit(1);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* ---- the mounts a side finds ---------------------------------------------------------- */

static void private_mounts(void)
{
	static int done;

	if (done)
		return;
	done = 1;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		fail("private mount namespace: %s", strerror(errno));
}

static char *after_colon(char *text)
{
	char *colon = strchr(text, ':');

	if (!colon)
		fail("%s: expected A:B", text);
	*colon = 0;
	return colon + 1;
}

static void many_mounts(char *text)
{
	char *dir = after_colon(text), path[4096];

	private_mounts();
	if (mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
		fail("mount %s: %s", dir, strerror(errno));
	for (int i = 0; i < atoi(text); i++) {
		snprintf(path, sizeof(path), "%s/%d", dir, i);
		if (mkdir(path, 0755) || mount("tmpfs", path, "tmpfs", 0, "size=4k"))
			fail("mount %s: %s", path, strerror(errno));
	}
}

static void overlay(char *lower)
{
	char *dir = after_colon(lower), options[8192], path[4096];
	static const char *const names[] = {"upper", "work", "merged"};

	private_mounts();
	if (mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
		fail("mount %s: %s", dir, strerror(errno));
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		if (mkdir(path, 0755))
			fail("mkdir %s: %s", path, strerror(errno));
	}
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir);
	if (mount("overlay", path, "overlay", 0, options))
		fail("overlay on %s: %s", path, strerror(errno));
}

/* ---- one start ------------------------------------------------------------------------ */

static double start_once(char **argv, int out_fd, int err_fd)
{
	int status;
	volatile int exec_errno = 0;
	const double begin = now_us();
	const int extra = seccomp_file ? open(seccomp_file, O_RDONLY | O_CLOEXEC) : -1;

	if (seccomp_file && extra < 0)
		fail("%s: %s", seccomp_file, strerror(errno));
	pid_t pid = vfork();
	if (pid == 0) {
		dup2(null_fd, 0);
		dup2(out_fd, 1);
		dup2(err_fd, 2);
		if (extra == SECCOMP_FD)
			fcntl(extra, F_SETFD, 0);
		else if (extra >= 0)
			dup2(extra, SECCOMP_FD);
		execve(argv[0], argv, environ);
		exec_errno = errno;
		_exit(127);
	}
	if (pid < 0)
		fail("vfork: %s", strerror(errno));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail("waitpid: %s", strerror(errno));
	double took = now_us() - begin;

	if (extra >= 0)
		close(extra);
	if (status) {
		char text[512] = "";
		ssize_t n = pread(err_fd, text, sizeof(text) - 1, 0);

		for (ssize_t i = 0; i < n; i++)
			if (text[i] == '\n')
				text[i] = ' ';
		fail("%s: wait status 0x%x, exec errno %d: %s", argv[0], (unsigned)status, exec_errno, text);
	}
	return took;
}

static int error_file(void)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC | O_APPEND, 0600);

	if (fd < 0)
		fail("a temporary file: %s", strerror(errno));
	return fd;
}

/* The command with every "{}" replaced by the number of the thread. */
static char **argv_for(int number)
{
	size_t n = 0;

	while (command[n])
		n++;
	char **argv = calloc(n + 1, sizeof(*argv));
	for (size_t i = 0; argv && i < n; i++) {
		char *at = strstr(command[i], "{}");

		argv[i] = command[i];
		if (at && asprintf(&argv[i], "%.*s%d%s", (int)(at - command[i]), command[i], number, at + 2) < 0)
			fail("out of memory");
	}
	if (!argv)
		fail("out of memory");
	return argv;
}

/* From the vfork to the first instruction and to the exit, the command's output read from a pipe. */
static void first(char **argv, int err_fd)
{
	char text[64];
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		fail("pipe: %s", strerror(errno));
	const double begin = now_us();
	const double took = start_once(argv, ends[1], err_fd);

	close(ends[1]);
	ssize_t n = read(ends[0], text, sizeof(text) - 1);

	close(ends[0]);
	if (n <= 0)
		fail("%s printed nothing", argv[0]);
	text[n] = 0;
	printf("%.1f %.1f\n", strtod(text, NULL) / 1e3 - begin, took);
}

struct racer { pthread_t thread; int number; double until; long count; };

static void *race(void *arg)
{
	struct racer *me = arg;
	char **argv = argv_for(me->number);
	int err_fd = error_file();

	while (now_us() < me->until) {
		start_once(argv, null_fd, err_fd);
		me->count++;
	}
	close(err_fd);
	return NULL;
}

/* The jobs still to be started, and when every step of them was done. */
static struct { atomic_long taken, done; long number, step; double *stamps; } jobs;

static void *work(void *arg)
{
	struct racer *me = arg;
	char **argv = argv_for(me->number);
	int err_fd = error_file();

	while (atomic_fetch_add(&jobs.taken, 1) < jobs.number) {
		start_once(argv, null_fd, err_fd);
		const long done = atomic_fetch_add(&jobs.done, 1) + 1;

		if (done % jobs.step == 0)
			jobs.stamps[done / jobs.step - 1] = now_us();
		me->count++;
	}
	close(err_fd);
	return NULL;
}

/* THREADS threads do BODY; the number of starts, and when they began. */
static long run_threads(int threads, double seconds, void *(*body)(void *), double *begin)
{
	static struct racer racers[MAX_THREADS];
	long total = 0;

	if (threads < 1 || threads > MAX_THREADS)
		fail("%d threads: expected 1 to %d", threads, MAX_THREADS);
	*begin = now_us();
	for (int i = 0; i < threads; i++) {
		racers[i] = (struct racer){.number = i, .until = *begin + seconds * 1e6};
		if (pthread_create(&racers[i].thread, NULL, body, &racers[i]))
			fail("pthread_create");
	}
	for (int i = 0; i < threads; i++) {
		pthread_join(racers[i].thread, NULL);
		total += racers[i].count;
	}
	return total;
}

static void rate(int threads, double seconds)
{
	double begin;
	const long total = run_threads(threads, seconds, race, &begin);

	printf("%ld %.6f\nend\n", total, (now_us() - begin) / 1e6);
}

static void all_jobs(int threads, long number, long step)
{
	double begin;

	if (step < 1 || number < step)
		fail("%ld jobs in steps of %ld", number, step);
	jobs.number = number;
	jobs.step = step;
	jobs.stamps = calloc((size_t)(number / step), sizeof(*jobs.stamps));
	if (!jobs.stamps)
		fail("out of memory");
	atomic_store(&jobs.taken, 0);
	atomic_store(&jobs.done, 0);
	run_threads(threads, 0, work, &begin);
	for (long i = 0; i < number / step; i++)
		printf("%.6f\n", (jobs.stamps[i] - begin) / 1e6);
	puts("end");
	free(jobs.stamps);
}

int main(int argc, char **argv)
{
	int option, become = 0;
	char line[256];

	while ((option = getopt(argc, argv, "+pu:m:o:s:x")) != -1) {
		switch (option) {
		case 'p': private_mounts(); break;
		case 'u':
			private_mounts();
			if (umount2(optarg, MNT_DETACH) && errno != EINVAL && errno != ENOENT)
				fail("umount %s: %s", optarg, strerror(errno));
			break;
		case 'm': many_mounts(optarg); break;
		case 'o': overlay(optarg); break;
		case 's': seccomp_file = optarg; break;
		case 'x': become = 1; break;
		default: return 2;
		}
	}
	command = argv + optind;
	if (!*command)
		fail("no command given");
	if (become) {
		execve(command[0], command, environ);
		fail("%s: %s", command[0], strerror(errno));
	}
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int err_fd = error_file();
	char **mine = argv_for(0);

	while (fgets(line, sizeof(line), stdin)) {
		int n, pause_ms = 0;
		long number, step;
		double seconds;

		if (sscanf(line, "go %d %d", &n, &pause_ms) >= 1) {
			for (int i = 0; i < n; i++) {
				if (pause_ms)
					usleep((useconds_t)pause_ms * 1000);
				printf("%.1f\n", start_once(mine, null_fd, err_fd));
			}
			puts("end");
		} else if (sscanf(line, "rate %d %lf", &n, &seconds) == 2) {
			rate(n, seconds);
		} else if (sscanf(line, "jobs %d %ld %ld", &n, &number, &step) == 3) {
			all_jobs(n, number, step);
		} else if (sscanf(line, "first %d", &n) == 1) {
			for (int i = 0; i < n; i++)
				first(mine, err_fd);
			puts("end");
		} else {
			fail("unknown request %s", line);
		}
		fflush(stdout);
	}
	return 0;
}
