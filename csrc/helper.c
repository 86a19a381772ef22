/* helper.c: prepare things in a child that shares our memory and our descriptor table: it can
 * change its namespaces as it likes, and what it opens stays with us. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "core.h"
#include "syscalls.h"

int64_t fctr_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* The raw calls: libc's keeps its own internal signals open, and one handler run in a child on
 * shared memory is one too many. */
void fctr_block_signals(struct fctr_sigs *saved)
{
	uint64_t all = ~0ULL;

	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &saved->mask, 8);
}

void fctr_restore_signals(const struct fctr_sigs *saved)
{
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &saved->mask, NULL, 8);
}

char *fctr_stack_get(struct fctr_ctx *ctx)
{
	char *stack = NULL;

	pthread_mutex_lock(&ctx->lock);
	if (ctx->n_stacks > 0)
		stack = ctx->stacks[--ctx->n_stacks];
	pthread_mutex_unlock(&ctx->lock);
	if (!stack) {
		stack = mmap(NULL, 2 * FCTR_STACK_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
		if (stack == MAP_FAILED)
			return NULL;
	}
	return stack;
}

void fctr_stack_put(struct fctr_ctx *ctx, char *stack)
{
	if (!stack)
		return;
	pthread_mutex_lock(&ctx->lock);
	if (ctx->n_stacks < (int)ARRAY_LEN(ctx->stacks)) {
		ctx->stacks[ctx->n_stacks++] = stack;
		stack = NULL;
	}
	pthread_mutex_unlock(&ctx->lock);
	if (stack)
		munmap(stack, 2 * FCTR_STACK_SIZE);
}

/* A child that shares our memory has, towards its exec, no more rights than a container's job:
 * one of those (or a host user of the same uid) that sees its pid could trace it, and so read and
 * write our memory. Memory that is not dumpable can't be traced without CAP_SYS_PTRACE (ptrace(2)),
 * so ours isn't while there is such a child. The kernel does the same on some changes of credentials;
 * put it back when the last child is gone, not before. Without privilege it stays as it was: /proc/self
 * would be root's, and the child's user namespace is what keeps others out. */
void fctr_before_creds(struct fctr_ctx *ctx)
{
	pthread_mutex_lock(&ctx->lock);
	if (ctx->cred_changes++ == 0) {
		ctx->dumpable = prctl(PR_GET_DUMPABLE);
		if (ctx->config.privileged)
			prctl(PR_SET_DUMPABLE, 0);
	}
	pthread_mutex_unlock(&ctx->lock);
}

void fctr_after_creds(struct fctr_ctx *ctx)
{
	pthread_mutex_lock(&ctx->lock);
	if (--ctx->cred_changes == 0 && ctx->dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	pthread_mutex_unlock(&ctx->lock);
}

/* Descriptors held for long go to the upper half, so that the low numbers, which a start copies,
 * stay free for the ones it needs. */
void fctr_move_high(int *fd)
{
	static const int floor_min = 256;
	struct rlimit lim;
	int high;

	if (*fd < 0 || getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return;
	high = lim.rlim_cur > 8192 ? 4096 : (int)lim.rlim_cur / 2;	/* a table is copied up to its highest */
	if (high < floor_min || *fd >= high)
		return;
	high = fcntl(*fd, F_DUPFD_CLOEXEC, high);
	if (high < 0)		/* it is full up there */
		return;
	close(*fd);
	*fd = high;
}

struct walk { struct fctr_run *run; bool finished; };

static int walk_main(void *arg)
{
	struct walk *walk = arg;
	int r = fctr_walk(walk->run);

	walk->finished = true;
	return r < 0 ? 1 : 0;
}

int fctr_helper(struct fctr_ctx *ctx, const struct fctr_steps *steps, const char *blob, int *slot,
		const struct fctr_params *params, char *stack, struct fctr_result *result,
		struct fctr_error *err)
{
	struct fctr_run run = {
		.steps = steps->v, .n_steps = steps->n, .blob = blob, .slot = slot,
		.params = params, .result = result, .rootfd = AT_FDCWD,
	};
	/* exit_signal 0: no SIGCHLD, and nobody else's wait() sees it */
	struct fctr_clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_CLEAR_SIGHAND,
		.stack = (uint64_t)(uintptr_t)stack, .stack_size = FCTR_STACK_SIZE,
	};
	struct walk walk = { &run, false };
	struct fctr_sigs saved;
	long pid;

	fctr_before_creds(ctx);
	memset(result, 0, sizeof(*result));
	fctr_block_signals(&saved);
	pid = fctr_clone_fn(&args, sizeof(args), walk_main, &walk);
	fctr_restore_signals(&saved);
	fctr_after_creds(ctx);
	if (pid < 0)
		return fctr_fail(err, FCTR_ST_CLONE, (int)-pid, "helper");
	while (wait4((pid_t)pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
		;
	if (run.rootfd >= 0)
		close(run.rootfd);
	if (result->stage) {
		fctr_step_error(err, steps, blob, result);
		return -1;
	}
	if (!walk.finished)
		return fctr_fail(err, FCTR_ST_CLONE, ECHILD, "killed while it was preparing");
	return 0;
}

/* The step's own text says what it was about: a target where it has one, else its path. */
void fctr_step_error(struct fctr_error *err, const struct fctr_steps *steps, const char *blob,
		     const struct fctr_result *result)
{
	const struct fctr_step *s = NULL;
	const char *about = "";

	if (result->index >= 0 && (uint32_t)result->index < steps->n)
		s = &steps->v[result->index];
	if (s && s->op != FCTR_OP_AFFINITY && s->op != FCTR_OP_CWD)
		about = blob + s->s1;
	if (s && (s->op == FCTR_OP_FSMOUNT || s->op == FCTR_OP_MOVE) && s->s2)
		about = blob + s->s2;
	if (s && s->op == FCTR_OP_CWD)
		about = blob + s->s1;
	errno = result->err;
	err->stage = result->stage;
	err->index = result->index;
	err->err = result->err;
	snprintf(err->what, sizeof(err->what), "%s", about);
}
