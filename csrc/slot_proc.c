/* slot_proc.c: pid namespaces for a slot's jobs, each with a /proc of its own, made several at a time.
 *
 * A job's /proc waits unattached till its start puts it in its place, where it takes the last job's away.
 * Those are taken off together: the kernel waits for its readers each time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

#include "slot.h"

/* A job's /proc is made while nobody needs it: mounted for its pid namespace, masked, and left
 * unattached. The first step is the mount itself. */
int fctr_slot_proc_steps(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err)
{
	const struct fctr_mount *proc = NULL;
	struct fctr_step *s;

	for (size_t i = 0; i < spec->n_mounts; i++) {
		if (spec->mounts[i].kind != FCTR_MNT_PROC)
			continue;
		if (proc || strcmp(spec->mounts[i].target, "/proc") != 0)
			return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "a slot has one procfs, at /proc");
		proc = &spec->mounts[i];
	}
	if (!proc)
		return 0;
	s = fctr_step_add(&p->slot_proc, FCTR_OP_FSMOUNT, FCTR_ST_PROC);
	s->a = (int64_t)proc->attr_set;
	for (size_t i = 0; i < spec->n_readonly; i++)
		if (strncmp(spec->readonly[i], "/proc/", 6) == 0)
			fctr_step_add(&p->slot_proc, FCTR_OP_RDONLY, FCTR_ST_MASK)->s1 = fctr_blob_str(p, spec->readonly[i] + 6);
	for (size_t i = 0; i < spec->n_masked; i++)
		if (strncmp(spec->masked[i], "/proc/", 6) == 0) {
			s = fctr_step_add(&p->slot_proc, FCTR_OP_MASK, FCTR_ST_MASK);
			s->s1 = fctr_blob_str(p, spec->masked[i] + 6);
			s->slot = FCTR_SLOT_EMPTY;
			s->slot2 = FCTR_SLOT_NULL;
		}
	return 0;
}

/* Under the jobs' /proc lies a tmpfs that they never see: an empty directory "e" to mask others with, and
 * "g", where what the jobs' /proc have left is kept until it is taken off, all of it at once, by its own
 * directory's descriptor. Above a job's /proc nothing could be taken off without what covers it. */
static long new_grave(struct fctr_tenant *slot)
{
	long fd = sys3(SYS_open_tree, slot->under, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH), r;

	if (fd < 0)
		return fd;
	r = sys5(SYS_move_mount, fd, "", slot->under, "g", MOVE_MOUNT_F_EMPTY_PATH);
	if (r < 0) {
		sys1(SYS_close, fd);
		return r;
	}
	return fd;
}

long fctr_slot_under(struct fctr_opener *o)
{
	static const char *const dirs[] = { "e", "g", "0", "1", "2", "3", "4", "5", "6", "7" };
	struct fctr_mount_attr attr = { MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, 0, 0, 0 };
	long fs, fd, target = fctr_slot_open_in_root("/proc", O_PATH | O_DIRECTORY, FCTR_RESOLVE_NO_SYMLINKS), r;

	if (target < 0)
		return target;
	fs = sys2(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
	fd = fs < 0 ? fs : sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "mode", "0555", 0);
	if (fd == 0)
		fd = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_CREATE, NULL, NULL, 0);
	if (fd == 0)
		fd = sys3(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	if (fs >= 0)
		sys1(SYS_close, fs);
	r = fd < 0 ? fd : 0;
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(dirs); i++)
		r = sys3(SYS_mkdirat, fd, dirs[i], 0555);
	if (r == 0)
		r = sys5(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr));
	if (r == 0)
		r = sys5(SYS_move_mount, fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	sys1(SYS_close, target);
	if (fd >= 0)
		o->slot->under = (int)fd;
	if (r < 0)
		return r;
	r = sys4(SYS_openat, fd, "e", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	o->inst->slot_empty = r < 0 ? -1 : (int)r;
	if (r < 0)
		return r;
	if (o->inst->plan->slot_pids) {
		r = new_grave(o->slot);
		o->inst->slot_grave = r < 0 ? -1 : (int)r;
		return r;
	}
	/* where /proc is mounted in the start, that first takes off what is there */
	fs = sys3(SYS_open_tree, o->inst->slot_empty, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	r = fs < 0 ? fs : sys5(SYS_move_mount, fs, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH);
	if (fs >= 0)
		sys1(SYS_close, fs);
	return r;
}

/* What a step comes to on this machine. A path of one word is of the kernel's making: no link, and a file or
 * a directory for good, so it can be done in few calls. */
enum { BY_STEP, ABSENT, READONLY, EMPTY_FILE, EMPTY_DIR };

static bool plain(const char *s)
{
	if (!*s || (*s >= '0' && *s <= '9') || strcmp(s, "self") == 0 || strcmp(s, "thread-self") == 0)
		return false;
	return !strchr(s, '/') && s[0] != '.';
}

static void know_masks(struct fctr_tenant *slot, const struct fctr_plan *p, int proc)
{
	slot->masks_known = true;
	for (uint32_t i = 1; i < p->slot_proc.n && i < SLOT_MASKS; i++) {
		const struct fctr_step *s = &p->slot_proc.v[i];
		const char *name = p->blob + s->s1;
		struct statx st;
		long r;

		slot->mask[i] = BY_STEP;
		if (!plain(name))
			continue;
		r = sys5(SYS_statx, proc, name, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st);
		if (r == -ENOENT)
			slot->mask[i] = ABSENT;
		else if (r == 0 && s->op == FCTR_OP_RDONLY)
			slot->mask[i] = READONLY;
		else if (r == 0 && S_ISDIR(st.stx_mode))
			slot->mask[i] = EMPTY_DIR;
		else if (r == 0 && S_ISREG(st.stx_mode) && slot->null >= 0)
			slot->mask[i] = EMPTY_FILE;
	}
}

static long mask_one(struct fctr_opener *o, int how, int proc, const char *name)
{
	struct fctr_mount_attr attr = { MOUNT_ATTR_RDONLY, 0, 0, 0 };
	int from = how == READONLY ? proc : how == EMPTY_DIR ? o->inst->slot_empty : o->slot->null;
	long tree = sys3(SYS_open_tree, from, how == READONLY ? name : "",
			 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (how == READONLY ? 0 : AT_EMPTY_PATH));
	long r = tree < 0 ? tree : 0;

	if (r == 0 && how == READONLY)
		r = sys5(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof(attr));
	if (r == 0)
		r = sys5(SYS_move_mount, tree, "", proc, name, MOVE_MOUNT_F_EMPTY_PATH);
	if (tree >= 0)
		sys1(SYS_close, tree);
	return r;
}

static long make_proc(struct fctr_opener *o, int pidns)
{
	const struct fctr_plan *p = o->inst->plan;
	int slots[FCTR_SLOT_TREE];
	struct fctr_result result = { .stage = 0 };
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct fctr_run run = { .n_steps = 1, .blob = p->blob, .slot = slots, .params = &params, .result = &result };
	long fs = sys2(SYS_fsopen, "proc", FSOPEN_CLOEXEC), r, fd;

	if (fs < 0)
		return fs;
	sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "source", "proc", 0);
	r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_FD, "pidns", NULL, pidns);
	if (r == 0)
		r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_CREATE, NULL, NULL, 0);
	fd = r < 0 ? r : sys3(SYS_fsmount, fs, FSMOUNT_CLOEXEC, p->slot_proc.v[0].a);
	sys1(SYS_close, fs);
	if (fd < 0)
		return fd;
	/* each time anew for the first of a batch: a module may have brought what was absent */
	if (!o->slot->masks_known)
		know_masks(o->slot, p, (int)fd);
	slots[FCTR_SLOT_EMPTY] = o->inst->slot_empty;
	slots[FCTR_SLOT_NULL] = o->slot->null;
	run.rootfd = (int)fd;
	for (uint32_t i = 1; r == 0 && i < p->slot_proc.n; i++) {
		int how = i < SLOT_MASKS ? o->slot->mask[i] : BY_STEP;

		if (how == ABSENT)
			continue;
		if (how != BY_STEP) {
			r = mask_one(o, how, (int)fd, p->blob + p->slot_proc.v[i].s1);
		} else {
			run.steps = &p->slot_proc.v[i];
			r = fctr_walk(&run) < 0 ? -result.err : 0;
		}
	}
	if (r == 0)
		return fd;
	sys1(SYS_close, fd);
	return r;
}

/* In the slot's mount namespace: what the last jobs' /proc have left goes, and the next jobs' are made. */
static int renew_procs(void *arg)
{
	struct fctr_opener *o = arg;
	struct fctr_tenant *slot = o->slot;
	long self = o->inst->plan->slot_pids ? sys2(SYS_pidfd_open, sys0(SYS_getpid), 0) : -1;
	long r = sys2(SYS_setns, o->inst->mnt, CLONE_NEWNS);

	if (r == 0 && slot->buried) {
		r = sys1(SYS_fchdir, o->inst->slot_grave);
		if (r == 0)
			r = sys2(SYS_umount2, ".", MNT_DETACH);
		if (r == 0)
			r = new_grave(slot);
		if (r >= 0) {
			sys1(SYS_close, o->inst->slot_grave);
			o->inst->slot_grave = (int)r;
			slot->buried = 0;
		}
	}
	slot->masks_known = false;
	while (r >= 0 && self >= 0 && slot->ahead < SLOT_AHEAD) {
		/* one more can be made only with our own in place again */
		r = slot->ahead ? sys2(SYS_setns, o->inst->plan->ctx->pidns_fd, CLONE_NEWPID) : 0;
		if (r == 0)
			r = sys1(SYS_unshare, CLONE_NEWPID);
		if (r == 0)
			r = sys3(SYS_ioctl, self, 0xff06 /* PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE */, 0);
		if (r < 0)
			break;
		slot->pidns[slot->ahead] = (int)r;
		if (o->inst->plan->slot_proc.n) {
			r = make_proc(o, slot->pidns[slot->ahead]);
			if (r < 0) {
				sys1(SYS_close, slot->pidns[slot->ahead]);
				break;
			}
			slot->proc[slot->ahead] = (int)r;
		} else {
			slot->proc[slot->ahead] = -1;
		}
		slot->ahead++;
	}
	if (self >= 0)
		sys1(SYS_close, self);
	o->err = r < 0 ? -r : 0;
	return 0;
}

/* The pid namespace and /proc of the job to come. */
bool fctr_slot_next_job(struct fctr_instance *inst)
{
	struct fctr_tenant *slot = inst->slot;
	struct fctr_opener o = { inst, slot, NULL, NULL, 0, 0, -1 };

	if (!inst->plan->slot_pids)
		return true;
	fctr_close_fd(&inst->pidns);
	if (inst->slot_old >= 0)	/* the job's start has moved it */
		slot->buried++;
	fctr_close_fd(&inst->slot_old);
	inst->slot_old = fctr_steal_fd(&inst->slot_proc);
	inst->slot_at = slot->buried;
	if (!slot->ahead && fctr_slot_child(inst, renew_procs, &o) < 0)
		return false;
	inst->slot_at = slot->buried;
	slot->ahead--;
	inst->pidns = slot->pidns[slot->ahead];
	inst->slot_proc = slot->proc[slot->ahead];
	return true;
}
