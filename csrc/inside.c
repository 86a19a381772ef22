/* inside.c: what one launch asks of its container's root: a user looked up there, files put in before
 * the start, files taken out after the end. A child joins the mount namespace for it (helper.c); launches
 * that ask for nothing do not pay for it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>

#include "launch.h"
#include "plan.h"

void fctr_start_slots(const struct fctr_plan *p, const struct fctr_instance *inst,
		      const struct fctr_container *target, int slot[FCTR_SLOT_TREE])
{
	static const int map[][2] = {
		{ FCTR_NS_MNT, FCTR_SLOT_MNT }, { FCTR_NS_PID, FCTR_SLOT_PID }, { FCTR_NS_NET, FCTR_SLOT_NET },
		{ FCTR_NS_IPC, FCTR_SLOT_IPC }, { FCTR_NS_UTS, FCTR_SLOT_UTS }, { FCTR_NS_CGROUP, FCTR_SLOT_CGROUPNS },
		{ FCTR_NS_USER, FCTR_SLOT_USER }, { FCTR_NS_TIME, FCTR_SLOT_TIME },
	};

	for (int i = 0; i < FCTR_SLOT_TREE; i++)
		slot[i] = -1;
	for (size_t i = 0; i < ARRAY_LEN(map); i++)
		slot[map[i][1]] = target ? target->pidfd : p->ns_fd[map[i][0]];
	if (!inst)
		return;
	if (inst->mnt >= 0)
		slot[FCTR_SLOT_MNT] = inst->mnt;
	if (inst->cgroupns >= 0)
		slot[FCTR_SLOT_CGROUPNS] = inst->cgroupns;
	slot[FCTR_SLOT_EMPTY] = inst->slot_empty;
	slot[FCTR_SLOT_PROC] = inst->slot_proc;
	slot[FCTR_SLOT_OLD] = inst->slot_old;
	slot[FCTR_SLOT_GRAVE] = inst->slot_grave;
	slot[FCTR_SLOT_AT] = inst->slot_at;
	if (inst->ipc >= 0)
		slot[FCTR_SLOT_IPC] = inst->ipc;
	if (inst->uts >= 0)
		slot[FCTR_SLOT_UTS] = inst->uts;
	if (inst->net)
		slot[FCTR_SLOT_NET] = inst->net->fd;
	else if (inst->net_fd >= 0)
		slot[FCTR_SLOT_NET] = inst->net_fd;
}

/* Who the job is. groups: room for those of a user that was looked up. */
void fctr_identity(const struct fctr_plan *p, const struct fctr_instance *inst, uint32_t groups[FCTR_GROUPS_MAX],
		   struct fctr_params *q)
{
	const struct fctr_user *u = !inst ? NULL : inst->own_user ? &inst->launch_user : p->need_user ? &inst->user : NULL;

	q->uid = u ? u->uid : p->uid;
	q->gid = u ? u->gid : p->gid;
	q->groups = p->groups;
	q->n_groups = (uint32_t)p->n_groups;
	if (u && !p->groups_given) {	/* those of the user, and those to add */
		q->n_groups = 0;
		groups[q->n_groups++] = u->gid;	/* else a file could bar the group and not this user */
		for (size_t i = 0; i < u->n_groups; i++)
			groups[q->n_groups++] = u->groups[i];
		for (size_t i = 0; i < p->n_groups && q->n_groups < FCTR_GROUPS_MAX; i++)
			groups[q->n_groups++] = p->groups[i];
		q->groups = groups;
	}
}

#define USER_STEPS 2	/* of the plan's start: the user, and the capabilities kept */

struct inside {
	struct fctr_steps steps;
	char *blob;
	size_t len;
	int *slot;
	size_t n_slots;
};

static void inside_free(struct inside *in)
{
	for (size_t i = FCTR_SLOT_TREE; in->slot && i < in->n_slots; i++)
		fctr_close_fd(&in->slot[i]);
	free(in->steps.v);
	free(in->blob);
	free(in->slot);
}

static uint32_t add_bytes(struct inside *in, const void *data, size_t len)
{
	uint32_t at = (uint32_t)in->len;

	memcpy(in->blob + at, data, len);
	in->len += len;
	return at;
}

static struct fctr_step *add_path(struct inside *in, int op, int stage, const char *path)
{
	struct fctr_step *s = fctr_step_add(&in->steps, op, stage);

	s->s1 = add_bytes(in, path, strlen(path) + 1);
	return s;
}

/* Room for `bytes` of paths and contents and n results; the first steps lead into the root. started: the
 * job's first process has been there, so a user namespace's has pivoted. */
static int inside_begin(struct inside *in, struct fctr_instance *inst, bool started, size_t bytes, size_t n, int stage,
			struct fctr_error *err)
{
	struct fctr_plan *p = inst->plan;
	struct fctr_step *s;
	int base[FCTR_SLOT_TREE];

	*in = (struct inside){ .n_slots = FCTR_SLOT_TREE + n };
	if (inst->mnt < 0 && p->ns_fd[FCTR_NS_MNT] < 0)
		return fctr_fail(err, stage, ENOTSUP, "the container has no root of its own (mnt namespace of the host)");
	if (bytes > (size_t)UINT32_MAX - 4096)
		return fctr_fail(err, stage, EFBIG, "the files together");
	in->blob = malloc(bytes + 64);
	in->slot = malloc(in->n_slots * sizeof(int));
	if (!in->blob || !in->slot) {
		inside_free(in);
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "files of a launch");
	}
	fctr_start_slots(p, inst, NULL, base);
	memcpy(in->slot, base, sizeof(base));
	for (size_t i = FCTR_SLOT_TREE; i < in->n_slots; i++)
		in->slot[i] = -1;
	add_bytes(in, "", 1);
	fctr_step_add(&in->steps, FCTR_OP_UMASK, stage);
	if (p->has_userns) {
		s = fctr_step_add(&in->steps, FCTR_OP_SETNS, FCTR_ST_USERNS);
		s->slot = FCTR_SLOT_USER;
		s->a = CLONE_NEWUSER;
		s = fctr_step_add(&in->steps, FCTR_OP_ROOT_IDS, FCTR_ST_USERNS);
		s->a = p->root_uid;
		s->b = p->root_gid;
	}
	s = fctr_step_add(&in->steps, FCTR_OP_SETNS, FCTR_ST_NAMESPACE);
	s->slot = FCTR_SLOT_MNT;
	s->a = CLONE_NEWNS;
	add_path(in, FCTR_OP_CHDIR, stage, p->has_userns && p->own_mnt && !started ? "/r" : "/");
	return 0;
}

static int inside_run(struct inside *in, struct fctr_instance *inst, const struct fctr_params *params,
		      struct fctr_error *err)
{
	char *stack = fctr_stack_get(inst->plan->ctx);	/* a parked process sleeps on the instance's */
	struct fctr_result result;
	int r;

	if (!stack)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "stack");
	r = fctr_helper(inst->plan->ctx, &in->steps, in->blob, in->slot, params, stack, &result, err);
	fctr_stack_put(inst->plan->ctx, stack);
	return r;
}

static int look_up_user(struct fctr_instance *inst, const char *user, struct fctr_error *err)
{
	static const struct fctr_params none = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct inside in;
	int r;

	if (inside_begin(&in, inst, false, 64, 2, FCTR_ST_USER, err) < 0)
		return -1;
	add_path(&in, FCTR_OP_KEEP, FCTR_ST_USER, "/etc/passwd")->slot = FCTR_SLOT_TREE;
	add_path(&in, FCTR_OP_KEEP, FCTR_ST_USER, "/etc/group")->slot = FCTR_SLOT_TREE + 1;
	r = inside_run(&in, inst, &none, err);
	if (r == 0)
		r = fctr_user_lookup(in.slot[FCTR_SLOT_TREE], in.slot[FCTR_SLOT_TREE + 1], user, &inst->launch_user, err);
	inside_free(&in);
	return r;
}

static int put_files(struct fctr_instance *inst, const struct fctr_launch *l, struct fctr_error *err)
{
	static const struct fctr_params none = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	uint32_t groups[FCTR_GROUPS_MAX];
	struct fctr_params who = none;
	struct inside in;
	size_t bytes = 0;
	int r;

	fctr_identity(inst->plan, inst, groups, &who);
	for (size_t i = 0; i < l->n_files; i++)
		bytes += strlen(l->files[i].target) + 1 + l->files[i].n_data;
	if (inside_begin(&in, inst, false, bytes, 0, FCTR_ST_FILE, err) < 0)
		return -1;
	for (size_t i = 0; i < l->n_files; i++) {
		const struct fctr_mount *f = &l->files[i];
		uint32_t uid = f->uid == UINT32_MAX ? who.uid : f->uid, gid = f->gid == UINT32_MAX ? who.gid : f->gid;
		struct fctr_step *s = add_path(&in, FCTR_OP_FILE, FCTR_ST_FILE, f->target);

		s->s2 = add_bytes(&in, f->data, f->n_data);
		s->flags = FCTR_STEP_OWN_DIRS;
		s->a = f->mode;
		s->b = (int64_t)f->n_data;
		s->c = (uint64_t)uid << 32 | gid;
	}
	r = inside_run(&in, inst, &none, err);
	inside_free(&in);
	return r;
}

int fctr_inside_prepare(struct fctr_instance *inst, const struct fctr_launch *l, struct fctr_error *err)
{
	if (l->ids_given) {
		inst->launch_user = (struct fctr_user){ .uid = l->uid, .gid = l->gid, .home = "/" };
		inst->own_user = true;
	} else if (l->user) {
		if (look_up_user(inst, l->user, err) < 0)
			return -1;
		inst->own_user = true;
	}
	return l->n_files ? put_files(inst, l, err) : 0;
}

int fctr_take_files(struct fctr_container *c, const char *const *paths, size_t n, int *fds, struct fctr_error *err)
{
	struct fctr_instance *inst = c->inst;
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	uint32_t groups[FCTR_GROUPS_MAX];
	struct inside in;
	size_t bytes = 0;
	int r;

	if (!inst)
		return fctr_fail(err, FCTR_ST_OUTPUTS, EINVAL, "an exec's files are its container's");
	for (size_t i = 0; i < n; i++)
		bytes += strlen(paths[i]) + 1;
	if (inside_begin(&in, inst, true, bytes, n + 1, FCTR_ST_OUTPUTS, err) < 0)
		return -1;
	in.slot[FCTR_SLOT_TREE + n] = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fctr_identity(inst->plan, inst, groups, &params);
	/* a link of the job's must not show us what the job could not read itself */
	for (uint32_t i = 0, found = 0; i < inst->plan->start.n && found < USER_STEPS; i++) {
		const struct fctr_step *s = &inst->plan->start.v[i];

		if (s->op == FCTR_OP_USER || s->op == FCTR_OP_CAPSET) {
			*fctr_step_add(&in.steps, s->op, s->stage) = *s;
			found++;
		}
	}
	for (size_t i = 0; i < n; i++) {
		struct fctr_step *s = add_path(&in, FCTR_OP_TAKE, FCTR_ST_OUTPUTS, paths[i]);

		s->slot = (int16_t)(FCTR_SLOT_TREE + i);
		s->slot2 = (int16_t)(FCTR_SLOT_TREE + n);
	}
	r = inside_run(&in, inst, &params, err);
	for (size_t i = 0; r == 0 && i < n; i++)
		fds[i] = fctr_steal_fd(&in.slot[FCTR_SLOT_TREE + i]);
	inside_free(&in);
	return r;
}
