/* slot.c: a container that serves one job after another of the same tenant (fastctr.Slots).
 *
 * Mounts, network, ipc and uts namespaces and the control group stay; a pid namespace with its /proc is
 * each job's own. Once a job is over, and with its pid namespace everything it ran, the slot must prove
 * that it is as it was before its first job; else it is torn down like any other container.
 *
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#include "slot.h"

/* Kernels before 6.13 tell a change's time to a tick or two: what is noted and changed within one looks
 * the same. So nothing runs in a new slot for so long. */
#define TICK_NS 25000000

/* ---- what may be written ---------------------------------------------------------------- */

static void place(char *buf, size_t size, size_t *n, const char *path)
{
	if (*n + strlen(path) + 2 < size)
		*n += (size_t)snprintf(buf + *n, size - *n, "%s", path) + 1;
}

/* Paths in the root whose file systems are the container's own, for slot_open(). What a plan may not have
 * is told by slots_check.py, which names the field; here only what would make the proof wrong. */
int fctr_slot_places(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err)
{
	char buf[8192];
	size_t n = 0, count = 0;

	if (p->mode != FCTR_MODE_DIRECT || !p->own_mnt || !p->pooled || p->disk_scratch || p->init ||
	    spec->ns[FCTR_NS_NET].mode != FCTR_NS_NEW || spec->ns[FCTR_NS_IPC].mode != FCTR_NS_NEW)
		return fctr_fail(err, FCTR_ST_SPEC, EINVAL, "a slot needs namespaces and a throw-away root of its own");
	if (spec->dev) {
		place(buf, sizeof(buf), &n, "/dev");
		place(buf, sizeof(buf), &n, "/dev/pts");
		place(buf, sizeof(buf), &n, "/dev/shm");
	}
	for (size_t i = 0; i < spec->n_mounts; i++) {
		const struct fctr_mount *m = &spec->mounts[i];

		if (m->kind == FCTR_MNT_TMPFS || m->kind == FCTR_MNT_DEVPTS) {
			place(buf, sizeof(buf), &n, m->target);
			count++;
		}
	}
	if (count + 8 > SLOT_PLACES || n + 64 > sizeof(buf))
		return fctr_fail(err, FCTR_ST_SPEC, E2BIG, "too many tmpfs for a slot");
	buf[n++] = '\0';
	p->slot_places = fctr_blob_add(p, buf, n);
	n = 0;
	for (size_t i = 0; i < spec->n_sysctl; i++) {
		char path[300];

		snprintf(path, sizeof(path), "sys/%s", spec->sysctl[i].key);
		for (char *c = path; *c; c++)
			if (*c == '.')
				*c = '/';
		place(buf, sizeof(buf), &n, path);
		place(buf, sizeof(buf), &n, spec->sysctl[i].value);
	}
	if (n + 400 > sizeof(buf))
		return fctr_fail(err, FCTR_ST_SPEC, E2BIG, "too many sysctls for a slot");
	buf[n++] = '\0';
	p->slot_sysctls = fctr_blob_add(p, buf, n);
	p->slot_fine = fctr_kernel_has(6, 13);
	return fctr_slot_proc_steps(p, spec, err);
}

/* ---- opening them ----------------------------------------------------------------------- */

long fctr_slot_open_in_root(const char *path, uint64_t flags, uint64_t resolve)
{
	struct fctr_open_how how = { flags | O_CLOEXEC, 0, resolve | FCTR_RESOLVE_NO_MAGICLINKS };

	return sys4(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static void add_watch(struct fctr_tenant *slot, long fd)
{
	if (slot->n_watch < SLOT_PLACES)
		slot->watch[slot->n_watch++].fd = (int)fd;
}

static long open_mqueue(void)
{
	long fs = sys2(SYS_fsopen, "mqueue", FSOPEN_CLOEXEC), fd, dir;

	if (fs < 0)
		return fs;
	fd = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_CREATE, NULL, NULL, 0);
	if (fd == 0)
		fd = sys3(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	sys1(SYS_close, fs);
	if (fd < 0)
		return fd;
	dir = sys4(SYS_openat, fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	sys1(SYS_close, fd);
	return dir;
}

/* In a child on shared memory and descriptors: the rules of child.c hold. */
static int open_places(void *arg)
{
	static const char *const texts[SLOT_TEXTS] = {
		"sysvipc/shm", "sysvipc/sem", "sysvipc/msg", "thread-self/net/sockstat", "thread-self/net/dev",
		"thread-self/net/snmp", "thread-self/net/snmp6",
	};
	struct fctr_opener *o = arg;
	struct fctr_tenant *slot = o->slot;
	int net = o->inst->net ? o->inst->net->fd : o->inst->net_fd;
	long proc = sys4(SYS_openat, AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0), r;

	r = proc;
	if (r >= 0)
		r = sys2(SYS_setns, o->inst->ipc, CLONE_NEWIPC);
	if (r == 0)
		r = sys2(SYS_setns, net, CLONE_NEWNET);
	for (int i = 0; r >= 0 && i < SLOT_TEXTS; i++) {
		r = sys4(SYS_openat, proc, texts[i], O_RDONLY | O_CLOEXEC, 0);
		slot->text[i] = r < 0 ? -1 : (int)r;
		if (r == -ENOENT)	/* no IPv6, or no System V IPC, in this kernel */
			r = 0;
		o->at = i;
	}
	if (r >= 0) {
		r = open_mqueue();
		if (r >= 0)
			add_watch(slot, r);
		else if (r == -ENODEV)
			r = 0;
		o->at = 20;
	}
	if (r >= 0 && *o->sysctls)	/* through the machine's /proc: the tables are those of our namespaces */
		r = sys2(SYS_setns, o->inst->uts, CLONE_NEWUTS);
	for (const char *s = o->sysctls; r >= 0 && *s; s += strlen(s) + 1) {
		long fd = sys4(SYS_openat, proc, s, O_WRONLY | O_CLOEXEC, 0);

		s += strlen(s) + 1;
		r = fd < 0 ? fd : sys3(SYS_write, fd, s, strlen(s));
		if (fd >= 0)
			sys1(SYS_close, fd);
		o->at = 25;
	}
	if (r >= 0)
		r = sys2(SYS_setns, o->inst->mnt, CLONE_NEWNS);
	for (const char *path = o->places; r >= 0 && *path; path += strlen(path) + 1) {
		r = fctr_slot_open_in_root(path, O_RDONLY | O_DIRECTORY, FCTR_RESOLVE_IN_ROOT);
		if (r >= 0)
			add_watch(slot, r);
		else if (r == -ENOENT || r == -ENOTDIR)	/* masked, or covered by a file */
			r = 0;
		o->at = 30;
	}
	if (r >= 0 && o->inst->plan->slot_proc.n) {
		r = fctr_slot_under(o);
		o->at = 40;
	}
	if (r >= 0) {
		struct statx st;

		r = fctr_slot_open_in_root("/dev/null", O_PATH | O_NOFOLLOW, FCTR_RESOLVE_NO_SYMLINKS);
		slot->null = r < 0 ? -1 : (int)r;
		if (r >= 0 && (sys5(SYS_statx, r, "", AT_EMPTY_PATH, STATX_TYPE, &st) < 0 || !S_ISCHR(st.stx_mode) ||
			       st.stx_rdev_major != 1 || st.stx_rdev_minor != 3))
			r = -ENODEV;
		else if (r == -ENOENT)	/* a root without /dev: then it has no files to mask with, and */
			r = 0;		/* masking fails if there is something to be masked */
		o->at = 50;
	}
	sys1(SYS_close, proc);
	o->err = r < 0 ? -r : 0;
	return 0;
}

int fctr_slot_child(struct fctr_instance *inst, int (*fn)(void *), struct fctr_opener *o)
{
	struct fctr_clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_CLEAR_SIGHAND | (o->into >= 0 ? CLONE_INTO_CGROUP : 0),
		.stack = (uint64_t)(uintptr_t)inst->stack, .stack_size = FCTR_STACK_SIZE,
		.cgroup = o->into >= 0 ? (uint64_t)o->into : 0,
	};
	struct fctr_ctx *ctx = inst->plan->ctx;
	struct fctr_sigs saved;
	int status = 0;
	long pid;

	o->err = ECHILD;
	fctr_before_creds(ctx);
	fctr_block_signals(&saved);
	pid = fctr_clone_fn(&args, sizeof(args), fn, o);
	fctr_restore_signals(&saved);
	fctr_after_creds(ctx);
	if (pid < 0) {
		o->err = -pid;
		return -1;
	}
	while (wait4((pid_t)pid, &status, __WALL, NULL) < 0 && errno == EINTR)
		;
	return status || o->err ? -1 : 0;
}

/* Their root is where the process is that makes them. */
static int make_cgroupns(void *arg)
{
	struct fctr_opener *o = arg;
	int fds[FCTR_CG_MAX_TASKS];
	size_t n = fctr_cgroup_tasks(o->inst->cg, fds);
	long r = 0;

	for (size_t i = 0; r >= 0 && i < n; i++)
		r = sys3(SYS_write, fds[i], "0", 1);
	if (r >= 0)
		r = sys1(SYS_unshare, CLONE_NEWCGROUP);
	if (r == 0)
		r = sys4(SYS_openat, AT_FDCWD, "/proc/self/ns/cgroup", O_RDONLY | O_CLOEXEC, 0);
	o->inst->cgroupns = r < 0 ? -1 : (int)r;
	o->err = r < 0 ? -r : 0;
	return 0;
}

/* Without one the jobs are started as others are. */
static int start_keeper(struct fctr_instance *inst, struct fctr_error *err)
{
	struct fctr_opener o = { .inst = inst, .into = inst->cg ? fctr_cgroup_into_fd(inst->cg) : -1 };
	int slot[FCTR_SLOT_TREE];

	if (!inst->plan->keeps || !inst->cg)
		return 0;
	if (fctr_slot_child(inst, make_cgroupns, &o) < 0)
		return fctr_fail(err, FCTR_ST_NAMESPACE, (int)o.err, "cgroup namespace of a slot");
	fctr_cgroup_recycle(inst->cg, true);	/* what that took is not a job's */
	fctr_start_slots(inst->plan, inst, NULL, slot);
	return fctr_keeper_start(inst->plan, slot, 0, -1, inst->stack, &inst->keeper, err);
}

int fctr_slot_open(struct fctr_instance *inst, struct fctr_error *err)
{
	struct fctr_tenant *slot = calloc(1, sizeof(*slot));
	struct fctr_opener o = { inst, slot, inst->plan->blob + inst->plan->slot_places,
			    inst->plan->blob + inst->plan->slot_sysctls, 0, 0, -1 };

	if (!slot)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "slot");
	inst->slot = slot;
	slot->fine = inst->plan->slot_fine;
	slot->under = slot->null = -1;
	for (int i = 0; i < SLOT_TEXTS; i++)
		slot->text[i] = -1;
	if (inst->upper >= 0)
		add_watch(slot, fctr_steal_fd(&inst->upper));
	slot->watch[0].fixed = slot->n_watch == 1;
	if (fctr_slot_child(inst, open_places, &o) < 0)
		return fctr_fail(err, FCTR_ST_NAMESPACE, (int)o.err, "what a slot is checked by (%d)", o.at);
	if (fctr_slot_note(slot) < 0)
		return fctr_fail(err, FCTR_ST_ROOTFS, E2BIG, "too much in a writable file system of a slot to check it each time");
	if (!fctr_slot_next_job(inst))
		return fctr_fail(err, FCTR_ST_PROC, ENOMEM, "/proc of a slot's jobs");
	if (start_keeper(inst, err) < 0)
		return -1;
	if (!slot->fine)
		nanosleep(&(struct timespec){ 0, TICK_NS }, NULL);
	return 0;
}

void fctr_slot_close(struct fctr_instance *inst)
{
	struct fctr_tenant *slot = inst->slot;

	fctr_keeper_end(inst->keeper);
	inst->keeper = NULL;
	fctr_close_fd(&inst->cgroupns);
	fctr_close_fd(&inst->upper);
	fctr_close_fd(&inst->slot_empty);
	fctr_close_fd(&inst->slot_proc);
	fctr_close_fd(&inst->slot_old);
	fctr_close_fd(&inst->slot_grave);
	if (inst->slot_out)
		__atomic_sub_fetch(&inst->plan->slots_out, 1, __ATOMIC_RELAXED);
	inst->slot_out = false;
	if (!slot)
		return;
	for (int i = 0; i < slot->n_watch; i++) {
		fctr_close_fd(&slot->watch[i].fd);
		for (size_t j = 0; j < slot->watch[i].n; j++)
			free(slot->watch[i].seen[j].name);
		free(slot->watch[i].seen);
	}
	for (int i = 0; i < SLOT_TEXTS; i++) {
		fctr_close_fd(&slot->text[i]);
		free(slot->was[i]);
	}
	fctr_close_fd(&slot->under);
	fctr_close_fd(&slot->null);
	while (slot->ahead > 0) {
		slot->ahead--;
		fctr_close_fd(&slot->pidns[slot->ahead]);
		fctr_close_fd(&slot->proc[slot->ahead]);
	}
	free(slot);
	inst->slot = NULL;
}

void fctr_slot_lost(struct fctr_instance *inst)
{
	struct fctr_error ignored;
	pid_t *pids = NULL;
	size_t n = 0;

	if (!inst->cg || fctr_cgroup_pids(inst->cg, &pids, &n, &ignored) < 0)
		return;
	fctr_cgroup_kill(inst->cg, 2000, &ignored);
	for (size_t i = 0; i < n; i++)	/* one of them is our child, and has a zombie's peace till we look */
		while (wait4(pids[i], NULL, __WALL, NULL) < 0 && errno == EINTR)
			;
	free(pids);
}

/* In the child of a fork: its copies of our descriptors. The keeper is the parent's. */
void fctr_slot_forked(struct fctr_instance *inst)
{
	fctr_keeper_forked(inst->keeper);
	inst->keeper = NULL;
	fctr_slot_close(inst);
}

static bool ready_again(struct fctr_instance *inst)
{
	struct fctr_tenant *slot = inst->slot;
	if (!fctr_slot_clean(slot))
		return false;
	if (inst->keeper && !fctr_keeper_lives(inst->keeper))
		return false;
	if (inst->own_user && inst->plan->need_user)	/* the plan's own has to be looked up again */
		return false;
	inst->own_user = false;
	if (inst->cg && (inst->cg_dirty || fctr_cgroup_recycle(inst->cg, true) != 1))
		return false;
	if (!fctr_slot_next_job(inst))
		return false;
	return true;
}

bool fctr_slot_give(struct fctr_instance *inst)
{
	struct fctr_plan *p = inst->plan;
	bool kept = false;

	if (!p->closed && inst->slot && ready_again(inst)) {
		pthread_mutex_lock(&p->lock);
		__atomic_sub_fetch(&p->slots_out, 1, __ATOMIC_RELAXED);
		inst->slot_out = false;
		kept = fctr_instance_keep(inst);
		pthread_mutex_unlock(&p->lock);
	}
	if (!kept)
		__atomic_add_fetch(&p->slots_dirty, 1, __ATOMIC_RELAXED);
	return kept;
}

void fctr_plan_slots(struct fctr_plan *p, int *ready, int *running, int *destroyed)
{
	pthread_mutex_lock(&p->lock);
	*ready = p->n_warm;
	*running = __atomic_load_n(&p->slots_out, __ATOMIC_RELAXED);
	*destroyed = __atomic_load_n(&p->slots_dirty, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&p->lock);
}
