/* layers.c: the layers of an image as one mount, for who wants to look into it. Put together by the
 * same steps as a plan's template, in a mount namespace of the moment: the machine's own sees nothing
 * until the result is attached there.
 *
 * No context is needed, and none of its care for memory shared with a child: this child has a copy. Only
 * descriptors are shared, and one page to say which.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "core.h"
#include "syscalls.h"

#define LAYERS_MAX 500
#define NAMES (16 * 512)
#define FCTR_UPPER_MAX 256

enum { SLOT_MERGED, SLOT_USERNS, SLOT_UPPER, SLOT_LAYER };

struct shared {
	struct fctr_result result;
	int slot[SLOT_LAYER + LAYERS_MAX];
	bool finished;
};
struct job { struct fctr_run run; struct shared *shared; };

static struct fctr_step *add(struct fctr_plan *p, int op, int stage, const char *s1)
{
	struct fctr_step *s = fctr_step_add(&p->tmpl, op, stage);

	s->s1 = fctr_blob_str(p, s1);
	return s;
}

static void open_layers(struct fctr_plan *p, const char *const *lower, size_t n, bool in_userns)
{
	struct fctr_step *s;

	for (size_t i = 0; i < n; i++) {
		const char *image = fctr_layer_image(lower[i]);

		s = add(p, image ? FCTR_OP_EROFS : FCTR_OP_OPEN_TREE, FCTR_ST_ROOTFS, image ? image : lower[i]);
		s->slot = (int16_t)(SLOT_LAYER + i);
		s->a = in_userns ? AT_RECURSIVE : 0;	/* what is mounted below cannot be taken off there */
	}
}

static void own_namespace(struct fctr_plan *p, bool in_userns)
{
	struct fctr_step *s;

	if (in_userns) {
		s = add(p, FCTR_OP_SETNS, FCTR_ST_USERNS, "");
		s->slot = SLOT_USERNS;
		s->a = CLONE_NEWUSER;
		add(p, FCTR_OP_ROOT_IDS, FCTR_ST_USERNS, "");
	}
	add(p, FCTR_OP_UNSHARE, FCTR_ST_NAMESPACE, "")->a = CLONE_NEWNS;
	add(p, FCTR_OP_PRIVATE, FCTR_ST_MOUNT, "");
}

/* upper, if there is one, is placed by its parent: upper and <upper>.work must share one mount */
static void merge(struct fctr_plan *p, size_t n, const char *upper, bool in_userns)
{
	char names[NAMES], place[32], text[2][FCTR_UPPER_MAX];
	const char *base = upper ? strrchr(upper, '/') + 1 : NULL;
	size_t used = 0;
	struct fctr_step *s;

	add(p, FCTR_OP_BASE, FCTR_ST_MOUNT, "");
	add(p, FCTR_OP_MKDIR, FCTR_ST_MOUNT, "l")->a = 0700;
	add(p, FCTR_OP_MKDIR, FCTR_ST_MOUNT, "r")->a = 0700;
	for (size_t i = 0; i < n; i++) {
		snprintf(place, sizeof(place), "l/%zu", i);
		add(p, FCTR_OP_PLACE, FCTR_ST_MOUNT, place)->slot = (int16_t)(SLOT_LAYER + i);
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s", place) + 1;
	}
	names[used++] = '\0';
	if (upper) {
		add(p, FCTR_OP_MKDIR, FCTR_ST_MOUNT, "s")->a = 0700;
		add(p, FCTR_OP_PLACE, FCTR_ST_MOUNT, "s")->slot = SLOT_UPPER;
		snprintf(text[0], sizeof(text[0]), "s/%.200s", base);
		snprintf(text[1], sizeof(text[1]), "s/%.200s.work", base);
	}
	s = add(p, FCTR_OP_OVERLAY, FCTR_ST_OVERLAY, "");
	s->slot = SLOT_MERGED;
	s->s1 = fctr_blob_add(p, names, used);
	s->s2 = upper ? fctr_blob_str(p, text[0]) : 0;
	s->s3 = upper ? fctr_blob_str(p, text[1]) : 0;
	s->b = in_userns ? 1 : 0;
}

static int job_main(void *arg)
{
	struct job *job = arg;
	int r = fctr_walk(&job->run);

	job->shared->finished = true;
	return r < 0;
}

static int run_steps(struct fctr_plan *p, struct shared *shared, char *stack, struct fctr_error *err)
{
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct job job = {
		.run = { .steps = p->tmpl.v, .n_steps = p->tmpl.n, .blob = p->blob, .slot = shared->slot,
			 .params = &params, .result = &shared->result, .rootfd = AT_FDCWD },
		.shared = shared,
	};
	struct fctr_clone_args args = {	/* exit_signal 0: nobody else's wait() sees it */
		.flags = CLONE_VFORK | CLONE_FILES | CLONE_CLEAR_SIGHAND,
		.stack = (uint64_t)(uintptr_t)stack, .stack_size = FCTR_STACK_SIZE,
	};
	struct fctr_sigs saved;
	long pid;

	fctr_block_signals(&saved);
	pid = fctr_clone_fn(&args, sizeof(args), job_main, &job);
	fctr_restore_signals(&saved);
	if (pid < 0)
		return fctr_fail(err, FCTR_ST_CLONE, (int)-pid, "helper");
	while (wait4((pid_t)pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
		;
	if (shared->result.stage) {
		fctr_step_error(err, &p->tmpl, p->blob, &shared->result);
		return -1;
	}
	return shared->finished ? 0 : fctr_fail(err, FCTR_ST_CLONE, ECHILD, "killed while it was preparing");
}

static void open_upper(struct fctr_plan *p, const char *upper, bool in_userns)
{
	cleanup_free char *parent = strndup(upper, (size_t)(strrchr(upper, '/') - upper));
	struct fctr_step *s = add(p, FCTR_OP_OPEN_TREE, FCTR_ST_OVERLAY, parent);

	s->slot = SLOT_UPPER;
	s->a = in_userns ? AT_RECURSIVE : 0;
}

int fctr_mount_layers(const char *const *lower, size_t n, const char *upper, int userns, struct fctr_error *err)
{
	struct fctr_plan plan = { 0 };
	cleanup_free char *stack = malloc(FCTR_STACK_SIZE);
	bool merged = n > 1 || upper;
	int which = merged ? SLOT_MERGED : SLOT_LAYER, fd = -1;
	struct shared *shared;
	struct fctr_step *s;

	if (n < 1 || n > LAYERS_MAX)
		return fctr_fail(err, FCTR_ST_OVERLAY, E2BIG, "%zu layers: overlay takes 1 to %d", n, LAYERS_MAX);
	if (upper && (upper[0] != '/' || strrchr(upper, '/') == upper || strlen(strrchr(upper, '/')) > 200))
		return fctr_fail(err, FCTR_ST_OVERLAY, EINVAL, "upper: %s has no directory it lies in", upper);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!stack || shared == MAP_FAILED)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "layers");
	for (size_t i = 0; i < ARRAY_LEN(shared->slot); i++)
		shared->slot[i] = -1;
	shared->slot[SLOT_USERNS] = userns;
	fctr_blob_add(&plan, "\0", 2);
	if (merged || userns >= 0)
		own_namespace(&plan, userns >= 0);
	open_layers(&plan, lower, n, userns >= 0);
	if (upper)
		open_upper(&plan, upper, userns >= 0);
	if (merged)
		merge(&plan, n, upper, userns >= 0);
	s = add(&plan, FCTR_OP_TREE_ATTR, FCTR_ST_MOUNT, lower[0]);
	s->slot = (int16_t)which;
	s->a = (upper ? 0 : MOUNT_ATTR_RDONLY) | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
	s->c = MS_PRIVATE;
	if (run_steps(&plan, shared, stack, err) == 0)
		fd = fctr_steal_fd(&shared->slot[which]);
	shared->slot[SLOT_USERNS] = -1;	/* the caller's */
	for (size_t i = 0; i < ARRAY_LEN(shared->slot); i++)
		fctr_close_fd(&shared->slot[i]);
	munmap(shared, sizeof(*shared));
	free(plan.blob);
	free(plan.tmpl.v);
	return fd;
}

static int result_of(long r)
{
	errno = r < 0 ? (int)-r : errno;
	return r < 0 ? -1 : 0;
}

int fctr_mount_attach(int mount, const char *target)
{
	return result_of(sys5(SYS_move_mount, mount, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH));
}

int fctr_mount_detach(const char *target)
{
	return result_of(sys2(SYS_umount2, target, MNT_DETACH | UMOUNT_NOFOLLOW));
}
