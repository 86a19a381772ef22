/* zygote_child.c: how a fork of an interpreter becomes a job. Built, without libc, into a small shared
 * object that any Python of the same architecture can load by ctypes: it has no dependencies, knows
 * nothing of the interpreter, and the steps are those of every other start (child.c).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "child.h"
#include "fctr.h"
#include "job.h"

#define EXPORT __attribute__((visibility("default")))
#define FAILED(p) ((unsigned long)(p) > -4096UL)

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

static int fail(struct fctr_result *result, int stage, long err)
{
	result->stage = stage;
	result->index = -1;
	result->err = (int32_t)-err;
	return -1;
}

/* What an exec would have done for it: it can be traced by itself again, and holds no right it was not given. */
static long as_after_exec(void)
{
	long r = sys5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);

	if (r == 0)
		r = sys5(SYS_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);
	if (r == 0)
		r = sys5(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
	return r;
}

/* Walk the job's steps. fds: the descriptors it was sent with, by place. 0, or -1 with the result filled;
 * then the process is in between and can only end. */
EXPORT int fctr_zygote_enter(const int *fds, uint32_t n_fds, struct fctr_result *result)
{
	struct fctr_job *job = (struct fctr_job *)sys6(SYS_mmap, NULL, sizeof(*job), PROT_READ, MAP_PRIVATE, fds[0], 0);
	struct fctr_run run = { .result = result, .rootfd = AT_FDCWD };
	struct fctr_params *p;
	char *base;
	int *slot;
	long r;

	memset(result, 0, sizeof(*result));
	if (FAILED(job))
		return fail(result, FCTR_ST_JOIN, (long)job);
	base = (char *)sys6(SYS_mmap, NULL, job->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[0], 0);
	if (FAILED(base))
		return fail(result, FCTR_ST_JOIN, (long)base);
	job = (struct fctr_job *)base;
	if (job->magic != FCTR_JOB_MAGIC)
		return fail(result, FCTR_ST_JOIN, -22);
	p = &job->params;
	p->cwd = job->cwd ? base + job->cwd : NULL;
	p->fds = (struct fctr_fdmap *)(base + job->fds);
	p->groups = job->groups ? (uint32_t *)(base + job->groups) : NULL;
	p->seccomp = job->seccomp ? base + job->seccomp : NULL;
	slot = (int *)(base + job->slots);
	for (uint32_t i = 0; i < job->n_slots; i++)
		slot[i] = slot[i] >= 0 && (uint32_t)slot[i] < n_fds ? fds[slot[i]] : -1;
	for (uint32_t i = 0; i < p->n_fds; i++) {
		struct fctr_fdmap *map = (struct fctr_fdmap *)&p->fds[i];

		if (map->src < 0 || (uint32_t)map->src >= n_fds)
			return fail(result, FCTR_ST_FDS, -9);
		map->src = fds[map->src];
	}
	run.steps = (struct fctr_step *)(base + job->steps);
	run.blob = base + job->blob;
	run.slot = slot;
	run.params = p;
	while (run.n_steps < job->n_steps && run.steps[run.n_steps].op != FCTR_OP_PDEATHSIG)
		run.n_steps++;
	if (fctr_walk(&run) < 0)
		return -1;
	r = as_after_exec();
	if (r < 0)
		return fail(result, FCTR_ST_WAIT, r);
	run.first = run.n_steps;
	run.steps += run.n_steps;
	run.n_steps = job->n_steps - run.first;
	return fctr_walk(&run);
}

/* Memory that is shared between processes becomes a copy of this one's own. */
EXPORT int fctr_zygote_private(char *at, size_t len, int prot)
{
	char *copy = (char *)sys6(SYS_mmap, NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long r;

	if (FAILED(copy))
		return -1;
	memcpy(copy, at, len);
	r = sys3(SYS_mprotect, copy, len, prot);
	if (r == 0)
		r = sys5(SYS_mremap, copy, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at);
	return FAILED(r) ? -1 : 0;
}
