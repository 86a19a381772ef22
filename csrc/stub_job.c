/* stub_job.c: launch through the static stub.
 *
 * For a job that enters namespaces where others already live: until it execs, somebody in there
 * could trace it or read its memory, so it must not have ours. The stub is a sealed copy of a
 * tiny static binary; it gets the plan in a memfd, enters, and becomes the job.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "core.h"
#include "job.h"
#include "syscalls.h"

struct image { char *data; size_t len, cap; };

static uint64_t put(struct image *im, const void *data, size_t len)
{
	size_t at = (im->len + 15) & ~(size_t)15;

	if (at + len > im->cap) {
		size_t cap = (at + len) * 2;
		char *p = realloc(im->data, cap);

		if (!p)
			abort();
		im->data = p;
		im->cap = cap;
	}
	memset(im->data + im->len, 0, at - im->len);
	if (len)
		memcpy(im->data + at, data, len);
	im->len = at + len;
	return at;
}

static uint64_t put_strings(struct image *im, char *const *v)
{
	size_t n = 0;
	cleanup_free uint64_t *offsets = NULL;

	while (v && v[n])
		n++;
	offsets = calloc(n + 1, sizeof(*offsets));
	if (!offsets)
		abort();
	for (size_t i = 0; i < n; i++)
		offsets[i] = put(im, v[i], strlen(v[i]) + 1);
	return put(im, offsets, (n + 1) * sizeof(*offsets));
}

/* Each descriptor that must survive the exec, once. */
static size_t inherited(const int *slot, const struct fctr_params *p, int *out)
{
	size_t n = 0;

	for (int i = 0; i < FCTR_SLOT_TREE; i++)
		if (slot[i] >= 0)
			out[n++] = slot[i];
	for (uint32_t i = 0; i < p->n_fds; i++)
		out[n++] = p->fds[i].src;
	if (p->owner_pidfd >= 0)
		out[n++] = p->owner_pidfd;
	out[n++] = p->err_fd;
	if (p->stub_fd >= 0)
		out[n++] = p->stub_fd;
	return n;
}

int fctr_job_make(const struct fctr_plan *plan, const struct fctr_step *steps, uint32_t n_steps, const int *slot,
		  const struct fctr_params *params, struct fctr_error *err)
{
	struct image im = { NULL, 0, 0 };
	struct fctr_job job = { .magic = FCTR_JOB_MAGIC, .n_steps = n_steps, .n_slots = FCTR_SLOT_TREE };
	cleanup_close int fd = -1;

	put(&im, &job, sizeof(job));
	job.steps = put(&im, steps, n_steps * sizeof(struct fctr_step));
	job.blob = put(&im, plan->blob, plan->blob_len);
	job.slots = put(&im, slot, FCTR_SLOT_TREE * sizeof(int));
	job.argv = put_strings(&im, params->argv);
	job.envp = put_strings(&im, params->envp);
	job.candidates = put_strings(&im, params->candidates);
	job.cwd = params->cwd ? put(&im, params->cwd, strlen(params->cwd) + 1) : 0;
	job.fds = put(&im, params->fds, params->n_fds * sizeof(*params->fds));
	job.groups = params->n_groups ? put(&im, params->groups, params->n_groups * 4) : 0;
	job.seccomp = params->seccomp_len ? put(&im, params->seccomp, (size_t)params->seccomp_len * 8) : 0;
	job.params = *params;
	job.size = (uint32_t)im.len;
	memcpy(im.data, &job, sizeof(job));
	fd = memfd_create("fctr-job", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || fctr_write_all(fd, im.data, im.len) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
		free(im.data);
		return fctr_fail(err, FCTR_ST_JOIN, errno, "memfd for the stub");
	}
	free(im.data);
	return fctr_steal_fd(&fd);
}

struct enter { const int *fds; size_t n; int stub_fd; char *const *argv; long error; };

static int enter_stub(void *arg)
{
	struct enter *e = arg;
	char *const none[] = { NULL };

	for (size_t i = 0; i < e->n; i++)
		sys3(SYS_fcntl, e->fds[i], F_SETFD, 0);
	e->error = sys5(SYS_execveat, e->stub_fd, "", e->argv, none, AT_EMPTY_PATH);
	return 127;
}

int fctr_stub_launch(struct fctr_plan *plan, int *slot, const struct fctr_params *params, int cgroup_fd,
		     int stub_fd, char *stack, int report_r, int *report_w, pid_t *pid, int *pidfd,
		     struct fctr_error *err)
{
	int fds[FCTR_SLOT_TREE + 70], first_fd = -1;
	cleanup_close int job = -1;
	char number[16];
	char *argv[] = { "fctr-join", number, NULL };
	struct enter e = { .fds = fds, .stub_fd = stub_fd, .argv = argv };
	struct fctr_clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND |
			 (cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uint64_t)(uintptr_t)&first_fd,
		.stack = (uint64_t)(uintptr_t)stack, .stack_size = FCTR_STACK_SIZE,
		.cgroup = cgroup_fd >= 0 ? (uint64_t)cgroup_fd : 0,
	};
	struct fctr_result r = { .stage = 0 };
	struct fctr_sigs saved;
	bool in_place = false, failed = false, started = false;
	cleanup_close int go_r = -1, go_w = -1;
	int go[2];
	long first;
	ssize_t n;

	if (pipe2(go, O_CLOEXEC) < 0)
		return fctr_fail(err, FCTR_ST_JOIN, errno, "pipe for the stub");
	slot[FCTR_SLOT_GO] = go_r = go[0];
	go_w = go[1];
	job = fctr_job_make(plan, plan->start.v, plan->start.n, slot, params, err);
	if (job < 0)
		return -1;
	snprintf(number, sizeof(number), "%d", job);
	e.n = inherited(slot, params, fds);
	fds[e.n++] = job;
	fctr_block_signals(&saved);
	first = fctr_clone_fn(&args, sizeof(args), enter_stub, &e);
	fctr_restore_signals(&saved);
	fctr_close_fd(report_w);
	if (first < 0)
		return fctr_fail(err, FCTR_ST_CLONE, (int)-first, "stub");
	*pid = 0;
	*pidfd = -1;
	if (e.error) {
		fctr_fail(err, FCTR_ST_JOIN, (int)-e.error, "fctr-stub");
		failed = true;
	}
	while (!failed && !started) {
		n = read(report_r, &r, sizeof(r));
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(r))	/* closed by the exec */
			break;
		if (r.stage) {
			fctr_step_error(err, &plan->start, plan->blob, &r);
			if (r.stage == FCTR_ST_EXEC)
				snprintf(err->what, sizeof(err->what), "%s", params->candidates[0]);
			failed = true;
		} else if (r.hash == FCTR_REPORT_PID) {
			*pid = r.detail;
			*pidfd = (int)sys2(SYS_pidfd_open, *pid, 0);	/* it waits for us: it is still there */
			if (write(go_w, "", 1) < 0)
				failed = true;
		} else if (r.hash == FCTR_REPORT_STARTED) {
			started = true;
		}
	}
	in_place = *pid == 0;	/* it did not fork: the stub's process is the job's */
	if (in_place) {
		*pid = (pid_t)first;
		*pidfd = first_fd;
	} else {
		while (wait4((pid_t)first, NULL, __WALL, NULL) < 0 && errno == EINTR)
			;
		fctr_close_fd(&first_fd);
	}
	if (!failed)
		return 0;
	while (wait4(*pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
		;
	fctr_close_fd(pidfd);
	*pid = 0;
	return -1;
}
