/* stub.c: fctr-stub, a static binary without libc, of three uses:
 *   fctr-join FD          run the start steps of the job in memfd FD, and become the job
 *   fctr-init FD CMD ARG… PID 1 above the job: reap, pass signals on, report to pipe FD
 *   fctr-keep FD          start the jobs that come through socket FD (keeper.c)
 * It is only ever run from a sealed memfd, so nobody inside can change it (/proc/1/exe).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "child.h"
#include "fctr.h"
#include "job.h"

/* gcc makes calls of these out of plain C */
void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	char *t = to;
	const char *f = from;

	while (n--)
		*t++ = *f++;
	return to;
}

void *memset(void *to, int c, size_t n)
{
	char *t = to;

	while (n--)
		*t++ = (char)c;
	return to;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

static __attribute__((noreturn)) void leave(int code)
{
	for (;;)
		sys1(SYS_exit_group, code);
}

static int number(const char *s)
{
	int n = 0;

	while (*s >= '0' && *s <= '9')
		n = n * 10 + (*s++ - '0');
	return n;
}

/* ---- join ------------------------------------------------------------------------------- */

static char **strings(char *base, uint64_t at)
{
	uint64_t *v = (uint64_t *)(base + at);

	for (uint64_t *p = v; *p; p++)
		*p = (uint64_t)(uintptr_t)(base + *p);
	return (char **)v;
}

static void join_main(int job_fd)
{
	struct fctr_job *job = (struct fctr_job *)sys6(SYS_mmap, NULL, sizeof(*job), PROT_READ, MAP_PRIVATE, job_fd, 0);
	struct fctr_result result = { .stage = 0 };
	struct fctr_params *p;
	struct fctr_run run = { .result = &result, .rootfd = AT_FDCWD };
	int *slot;
	char *base;
	uint32_t size;

	if ((long)job < 0 && (long)job > -4096)
		leave(125);
	size = job->size;
	if (job->magic != FCTR_JOB_MAGIC)
		leave(125);
	base = (char *)sys6(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, job_fd, 0);
	if ((long)base < 0 && (long)base > -4096)
		leave(125);
	job = (struct fctr_job *)base;
	p = &job->params;
	p->argv = strings(base, job->argv);
	p->envp = strings(base, job->envp);
	p->candidates = strings(base, job->candidates);
	p->cwd = job->cwd ? base + job->cwd : NULL;
	p->fds = (struct fctr_fdmap *)(base + job->fds);
	p->groups = job->groups ? (uint32_t *)(base + job->groups) : NULL;
	p->seccomp = job->seccomp ? base + job->seccomp : NULL;
	slot = (int *)(base + job->slots);
	/* what we were given is ours alone again */
	for (uint32_t i = 0; i < job->n_slots; i++)
		if (slot[i] >= 0)
			sys3(SYS_fcntl, slot[i], F_SETFD, FD_CLOEXEC);
	for (uint32_t i = 0; i < p->n_fds; i++)
		sys3(SYS_fcntl, p->fds[i].src, F_SETFD, FD_CLOEXEC);
	sys3(SYS_fcntl, p->err_fd, F_SETFD, FD_CLOEXEC);
	if (p->stub_fd >= 0)
		sys3(SYS_fcntl, p->stub_fd, F_SETFD, FD_CLOEXEC);
	raw_close(job_fd);
	run.steps = (struct fctr_step *)(base + job->steps);
	run.n_steps = job->n_steps;
	run.blob = base + job->blob;
	run.slot = slot;
	run.params = p;
	fctr_walk(&run);
	sys3(SYS_write, p->err_fd, &result, sizeof(result));
	leave(127);
}

/* ---- init ------------------------------------------------------------------------------- */

static void report(int fd, uint64_t what, int stage, int err, int detail)
{
	struct fctr_result r = { .stage = stage, .index = -1, .err = err, .detail = detail, .hash = what };

	if (fd >= 0)
		sys3(SYS_write, fd, &r, sizeof(r));
}

static const char *path_in(char **envp)
{
	for (; *envp; envp++) {
		const char *e = *envp, *k = "PATH=";

		while (*k && *e == *k)
			e++, k++;
		if (!*k)
			return e;
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

static long exec_path(char **argv, char **envp)
{
	const char *name = argv[0], *path = path_in(envp);
	long err = -ENOENT;
	char buf[4096];

	for (const char *c = name; *c; c++)
		if (*c == '/')
			return sys3(SYS_execve, name, argv, envp);
	for (;;) {
		size_t n = 0, len = str_len(name);
		long r;

		while (path[n] && path[n] != ':')
			n++;
		if (n + len + 3 < sizeof(buf)) {
			size_t at = 0;

			if (n == 0)
				buf[at++] = '.';
			memcpy(buf + at, path, n);
			at += n;
			buf[at++] = '/';
			memcpy(buf + at, name, len + 1);
			r = sys3(SYS_execve, buf, argv, envp);
			if (r != -ENOENT && r != -ENOTDIR && r != -EACCES)
				return r;
			if (r == -EACCES)
				err = r;
		}
		if (!path[n])
			return err;
		path += n + 1;
	}
}

static void init_main(int fd, char **argv, char **envp)
{
	static const char idle[] = "fctr-idle";
	uint64_t all = ~0ULL, none = 0;
	int one = 0;
	long pid, tty;
	size_t same = 0;

	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
	sys3(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
	while (same < sizeof(idle) && argv[0][same] == idle[same])
		same++;
	if (same == sizeof(idle)) {	/* a resident's: nothing but its namespace's first process */
		sys5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
		pid = -1;
		goto started;
	}
	tty = sys3(SYS_ioctl, 0, 0x540f /* TIOCGPGRP */, &one);
	/* Not clone3: Docker's seccomp policy has no such call. VFORK, so that the child has exec'ed,
	 * or has reported why not, before we say that it started. */
	pid = sys5(SYS_clone, SIGCHLD | CLONE_VFORK, 0, 0, 0, 0);
	if (pid == 0) {
		long r;

		sys2(SYS_setpgid, 0, 0);
		if (tty == 0) {
			one = (int)sys0(SYS_getpid);
			sys3(SYS_ioctl, 0, 0x5410 /* TIOCSPGRP */, &one);
		}
		sys4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
		r = exec_path(argv, envp);
		report(fd, 0, FCTR_ST_EXEC, (int)-r, 0);
		leave(r == -ENOENT ? 127 : 126);
	}
	if (pid < 0) {
		report(fd, 0, FCTR_ST_INIT, (int)-pid, 0);
		leave(125);
	}
started:
	/* our copies of the job's descriptors would keep its pipes open */
	if (fd > 0)
		sys3(SYS_close_range, 0, fd - 1, 0);
	sys3(SYS_close_range, fd + 1, ~0U, 0);
	report(fd, FCTR_REPORT_STARTED, 0, 0, 0);
	for (;;) {
		siginfo_t info;
		long sig = sys4(SYS_rt_sigtimedwait, &all, &info, NULL, 8), got;
		int status;

		if (sig != SIGCHLD) {
			if (sig > 0 && pid > 0)
				sys2(SYS_kill, pid, sig);
			continue;
		}
		while ((got = sys4(SYS_wait4, -1, &status, WNOHANG, NULL)) > 0) {
			if (got != pid)
				continue;
			report(fd, FCTR_REPORT_ENDED, 0, 0, status);
			leave(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
		}
	}
}

__attribute__((used)) static void stub_main(long *sp)
{
	long argc = sp[0];
	char **argv = (char **)(sp + 1), **envp = argv + argc + 1;

	/* "fctr-join", "fctr-init" or "fctr-keep" */
	if (argc == 2 && argv[0][5] == 'j')
		join_main(number(argv[1]));
	if (argc == 2 && argv[0][5] == 'k')
		fctr_keeper_main(number(argv[1]));
	if (argc > 2 && argv[0][5] == 'i')
		init_main(number(argv[1]), argv + 2, envp);
	leave(125);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall stub_main\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x0, sp\n\tbl stub_main\n\tbrk 0\n");
#endif
