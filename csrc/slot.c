/* slot.c: a container that serves one job after another of the same tenant (fastctr.Slots).
 *
 * Mounts, network, ipc and uts namespaces and the control group stay; a pid namespace with its /proc is
 * each job's own. Once a job is over, and with its pid namespace everything it ran, the slot must prove
 * that it is as it was before its first job; else it is torn down like any other container.
 *
 * The proof of a file system in memory: it has as many inodes and blocks in use as it had, and each
 * inode that was there still is, with the same ctime, which no call can set. Then there is no other, and
 * none was changed. Only what is written through a mapping leaves the ctime alone: files are read again.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "launch.h"
#include "syscalls.h"

#define PLACES_MAX 24
#define SEEN_MAX 4096
#define FILE_MAX (256 * 1024)
#define TEXTS 7			/* three of System V IPC, four of the network */
#define AHEAD 8			/* pid namespaces made at a time; so many jobs' /proc lie on one another at most */
#define TICK_NS 20000000	/* a ctime this old is told from one of a job's: see fresh() */
#define MQUEUE_MAGIC 0x19800202
#define DEVPTS_MAGIC 0x1cd1

struct seen {			/* an inode that was there before the first job */
	char *name;		/* below the root of the file system; "" the root itself */
	struct statx st;
	uint64_t hash;		/* a file's content */
};

struct watch {
	int fd;
	long type;
	struct statfs fs;
	struct seen *seen;
	size_t n;
};

struct fctr_tenant {
	struct watch watch[PLACES_MAX];
	int n_watch;
	int text[TEXTS];
	char *was[TEXTS];
	size_t was_len[TEXTS];
	int under;		/* the mount under the jobs' /proc */
	int buried;		/* how many of them are dead and still mounted */
	int null;		/* the slot's /dev/null */
	int pidns[AHEAD], proc[AHEAD], ahead;	/* for the jobs to come, and how many of them are left */
	int64_t noted;		/* when all this was looked at, ns */
};

/* ---- what may be written ---------------------------------------------------------------- */

static void place(char *buf, size_t size, size_t *n, const char *path)
{
	if (*n + strlen(path) + 2 < size)
		*n += (size_t)snprintf(buf + *n, size - *n, "%s", path) + 1;
}

/* A job's /proc is made while nobody needs it: mounted for its pid namespace, masked, and left
 * unattached. The first step is the mount itself. */
static int proc_steps(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err)
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
	if (count + 8 > PLACES_MAX || n + 64 > sizeof(buf))
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
	return proc_steps(p, spec, err);
}

/* ---- opening them ----------------------------------------------------------------------- */

struct opener {
	struct fctr_instance *inst;
	struct fctr_tenant *slot;
	const char *places, *sysctls;
	long err;
	int at;
	int into;
};

static long open_in_root(const char *path, uint64_t flags, uint64_t resolve)
{
	struct fctr_open_how how = { flags | O_CLOEXEC, 0, resolve | FCTR_RESOLVE_NO_MAGICLINKS };

	return sys4(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static void add_watch(struct fctr_tenant *slot, long fd)
{
	if (slot->n_watch < PLACES_MAX)
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

static long make_under(struct opener *o)
{
	static const char *const dirs[] = { "e", "g", "0", "1", "2", "3", "4", "5", "6", "7" };
	struct fctr_mount_attr attr = { MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, 0, 0, 0 };
	long fs, fd, target = open_in_root("/proc", O_PATH | O_DIRECTORY, FCTR_RESOLVE_NO_SYMLINKS), r;

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

/* In a child on shared memory and descriptors: the rules of child.c hold. */
static int open_places(void *arg)
{
	static const char *const texts[TEXTS] = {
		"sysvipc/shm", "sysvipc/sem", "sysvipc/msg", "thread-self/net/sockstat", "thread-self/net/dev",
		"thread-self/net/snmp", "thread-self/net/snmp6",
	};
	struct opener *o = arg;
	struct fctr_tenant *slot = o->slot;
	int net = o->inst->net ? o->inst->net->fd : o->inst->net_fd;
	long proc = sys4(SYS_openat, AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0), r;

	r = proc;
	if (r >= 0)
		r = sys2(SYS_setns, o->inst->ipc, CLONE_NEWIPC);
	if (r == 0)
		r = sys2(SYS_setns, net, CLONE_NEWNET);
	for (int i = 0; r >= 0 && i < TEXTS; i++) {
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
		r = open_in_root(path, O_RDONLY | O_DIRECTORY, FCTR_RESOLVE_IN_ROOT);
		if (r >= 0)
			add_watch(slot, r);
		else if (r == -ENOENT || r == -ENOTDIR)	/* masked, or covered by a file */
			r = 0;
		o->at = 30;
	}
	if (r >= 0 && o->inst->plan->slot_proc.n) {
		r = make_under(o);
		o->at = 40;
	}
	if (r >= 0) {
		struct statx st;

		r = open_in_root("/dev/null", O_PATH | O_NOFOLLOW, FCTR_RESOLVE_NO_SYMLINKS);
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

static long make_proc(struct opener *o, int pidns)
{
	const struct fctr_plan *p = o->inst->plan;
	int slots[FCTR_SLOT_TREE];
	struct fctr_result result = { .stage = 0 };
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct fctr_run run = {
		.steps = p->slot_proc.v + 1, .n_steps = p->slot_proc.n - 1, .blob = p->blob, .slot = slots,
		.params = &params, .result = &result,
	};
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
	slots[FCTR_SLOT_EMPTY] = o->inst->slot_empty;
	slots[FCTR_SLOT_NULL] = o->slot->null;
	run.rootfd = (int)fd;
	if (fctr_walk(&run) == 0)
		return fd;
	sys1(SYS_close, fd);
	return -result.err;
}

/* In the slot's mount namespace: what the last jobs' /proc have left goes, and the next jobs' are made. */
static int renew_procs(void *arg)
{
	struct opener *o = arg;
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
	while (r >= 0 && self >= 0 && slot->ahead < AHEAD) {
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

static int in_child(struct fctr_instance *inst, int (*fn)(void *), struct opener *o)
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

/* ---- noting what is there --------------------------------------------------------------- */

#define STATX_WANT (STATX_BASIC_STATS)

static uint64_t content(int dir, const char *name, uint64_t size, bool *ok)
{
	cleanup_close int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	uint64_t hash = 0xcbf29ce484222325ULL;
	char buf[4096];
	ssize_t n = -1;

	if (fd >= 0 && size <= FILE_MAX)
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			for (ssize_t i = 0; i < n; i++)
				hash = (hash ^ (unsigned char)buf[i]) * 0x100000001b3ULL;
	*ok = n == 0;
	return hash;
}

static int note_one(struct watch *w, const char *name)
{
	struct seen *v = realloc(w->seen, (w->n + 1) * sizeof(*v));
	struct seen *s;
	bool ok = true;

	if (!v || w->n >= SEEN_MAX)
		return -1;
	w->seen = v;
	s = &v[w->n];
	memset(s, 0, sizeof(*s));
	if (statx(w->fd, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_WANT, &s->st) < 0)
		return -1;
	if (w->n && (s->st.stx_dev_major != v[0].st.stx_dev_major || s->st.stx_dev_minor != v[0].st.stx_dev_minor))
		return 0;	/* something is mounted there: what is below cannot be reached */
	if (S_ISREG(s->st.stx_mode) && w->type != MQUEUE_MAGIC)
		s->hash = content(w->fd, name, s->st.stx_size, &ok);
	if (!ok)
		return -1;
	s->name = strdup(name);
	if (!s->name)
		return -1;
	w->n++;
	return S_ISDIR(s->st.stx_mode) ? 1 : 0;
}

static int note_below(struct watch *w, const char *name)
{
	int fd = openat(w->fd, *name ? name : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!dir) {
		fctr_close_fd(&fd);
		return -1;
	}
	while (r == 0 && (e = readdir(dir))) {
		char path[4096];

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (snprintf(path, sizeof(path), "%s%s%s", name, *name ? "/" : "", e->d_name) >= (int)sizeof(path))
			r = -1;
		else
			r = note_one(w, path);
		if (r == 1)
			r = note_below(w, path);
	}
	closedir(dir);
	return r;
}

static int note(struct watch *w)
{
	if (fstatfs(w->fd, &w->fs) < 0 || note_one(w, "") < 0)
		return -1;
	w->type = (long)w->fs.f_type;
	return note_below(w, "");
}

static ssize_t read_text(int fd, char *buf, size_t size)
{
	size_t n = 0;
	ssize_t r;

	while (n < size && (r = pread(fd, buf + n, size - n, (off_t)n)) > 0)
		n += (size_t)r;
	return n == size ? -1 : (ssize_t)n;
}

#define TEXT_MAX 16384

static int note_texts(struct fctr_tenant *slot)
{
	char buf[TEXT_MAX];

	for (int i = 0; i < TEXTS; i++) {
		ssize_t n;

		if (slot->text[i] < 0)
			continue;
		n = read_text(slot->text[i], buf, sizeof(buf));
		if (n < 0)
			return -1;
		slot->was[i] = malloc((size_t)n + 1);
		if (!slot->was[i])
			return -1;
		memcpy(slot->was[i], buf, (size_t)n);
		slot->was_len[i] = (size_t)n;
	}
	return 0;
}

/* Leave out what a job cannot write, or what is another's: read-only, binds, the root's own overlay. */
static void choose(struct fctr_tenant *slot)
{
	int n = 0;

	for (int i = 0; i < slot->n_watch; i++) {
		struct statfs fs;
		struct statx st, other;
		bool mine = fstatfs(slot->watch[i].fd, &fs) == 0 && !(fs.f_flags & 1 /* ST_RDONLY */) &&
			    (fs.f_type == TMPFS_MAGIC || fs.f_type == MQUEUE_MAGIC || fs.f_type == DEVPTS_MAGIC);

		if (mine && statx(slot->watch[i].fd, "", AT_EMPTY_PATH, STATX_WANT, &st) == 0)
			for (int j = 0; j < n && mine; j++)
				mine = statx(slot->watch[j].fd, "", AT_EMPTY_PATH, STATX_WANT, &other) != 0 ||
				       other.stx_dev_major != st.stx_dev_major || other.stx_dev_minor != st.stx_dev_minor;
		if (mine)
			slot->watch[n++] = slot->watch[i];
		else
			close(slot->watch[i].fd);
	}
	slot->n_watch = n;
}

/* The pid namespace and /proc of the job to come. */
static bool next_job(struct fctr_instance *inst)
{
	struct fctr_tenant *slot = inst->slot;
	struct opener o = { inst, slot, NULL, NULL, 0, 0, -1 };

	if (!inst->plan->slot_pids)
		return true;
	fctr_close_fd(&inst->pidns);
	if (inst->slot_old >= 0)	/* the job's start has moved it */
		slot->buried++;
	fctr_close_fd(&inst->slot_old);
	inst->slot_old = fctr_steal_fd(&inst->slot_proc);
	inst->slot_at = slot->buried;
	if (!slot->ahead && in_child(inst, renew_procs, &o) < 0)
		return false;
	inst->slot_at = slot->buried;
	slot->ahead--;
	inst->pidns = slot->pidns[slot->ahead];
	inst->slot_proc = slot->proc[slot->ahead];
	return true;
}

/* Their root is where the process is that makes them. */
static int make_cgroupns(void *arg)
{
	struct opener *o = arg;
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
	struct opener o = { .inst = inst, .into = inst->cg ? fctr_cgroup_into_fd(inst->cg) : -1 };
	int slot[FCTR_SLOT_TREE];

	if (!inst->plan->keeps || !inst->cg)
		return 0;
	if (in_child(inst, make_cgroupns, &o) < 0)
		return fctr_fail(err, FCTR_ST_NAMESPACE, (int)o.err, "cgroup namespace of a slot");
	fctr_cgroup_recycle(inst->cg);	/* what that took is not a job's */
	fctr_start_slots(inst->plan, inst, NULL, slot);
	return fctr_keeper_start(inst->plan, slot, 0, -1, inst->stack, &inst->keeper, err);
}

int fctr_slot_open(struct fctr_instance *inst, struct fctr_error *err)
{
	struct fctr_tenant *slot = calloc(1, sizeof(*slot));
	struct opener o = { inst, slot, inst->plan->blob + inst->plan->slot_places,
			    inst->plan->blob + inst->plan->slot_sysctls, 0, 0, -1 };

	if (!slot)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "slot");
	inst->slot = slot;
	slot->under = slot->null = -1;
	for (int i = 0; i < TEXTS; i++)
		slot->text[i] = -1;
	if (inst->upper >= 0)
		add_watch(slot, fctr_steal_fd(&inst->upper));
	if (in_child(inst, open_places, &o) < 0)
		return fctr_fail(err, FCTR_ST_NAMESPACE, (int)o.err, "what a slot is checked by (%d)", o.at);
	choose(slot);
	for (int i = 0; i < slot->n_watch; i++)
		if (note(&slot->watch[i]) < 0)
			return fctr_fail(err, FCTR_ST_ROOTFS, E2BIG, "too much in a writable file system of a slot to check it each time");
	if (note_texts(slot) < 0)
		return fctr_fail(err, FCTR_ST_NETNS, ENOMEM, "what a slot is checked by");
	if (!next_job(inst))
		return fctr_fail(err, FCTR_ST_PROC, ENOMEM, "/proc of a slot's jobs");
	if (start_keeper(inst, err) < 0)
		return -1;
	slot->noted = fctr_now();
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
	for (int i = 0; i < TEXTS; i++) {
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

/* In the child of a fork: its copies of our descriptors. The keeper is the parent's. */
void fctr_slot_forked(struct fctr_instance *inst)
{
	fctr_keeper_forked(inst->keeper);
	inst->keeper = NULL;
	fctr_slot_close(inst);
}

/* ---- the proof -------------------------------------------------------------------------- */

static bool same(const struct statx *a, const struct statx *b)
{
	return a->stx_ino == b->stx_ino && a->stx_mode == b->stx_mode && a->stx_uid == b->stx_uid &&
	       a->stx_gid == b->stx_gid && a->stx_nlink == b->stx_nlink && a->stx_size == b->stx_size &&
	       a->stx_ctime.tv_sec == b->stx_ctime.tv_sec && a->stx_ctime.tv_nsec == b->stx_ctime.tv_nsec &&
	       a->stx_attributes == b->stx_attributes;
}

static bool unchanged(const struct watch *w, const struct seen *s)
{
	struct statx now;
	bool ok = true;

	if (statx(w->fd, s->name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_WANT, &now) < 0 ||
	    !same(&s->st, &now))
		return false;
	if (S_ISREG(now.stx_mode) && w->type != MQUEUE_MAGIC)
		return content(w->fd, s->name, now.stx_size, &ok) == s->hash && ok;
	return true;
}

static bool entries_are(const struct watch *w, int want)
{
	char buf[2048] __attribute__((aligned(8)));
	int n = 0;

	if (lseek(w->fd, 0, SEEK_SET) < 0)
		return false;
	for (;;) {
		long len = sys3(SYS_getdents64, w->fd, buf, sizeof(buf));

		if (len < 0)
			return false;
		if (len == 0)
			return n == want + 2;	/* . and .. */
		for (long at = 0; at < len; at += *(unsigned short *)(void *)(buf + at + 16))
			n++;
	}
}

static bool clean(const struct watch *w)
{
	struct statfs now;

	if (w->type == TMPFS_MAGIC && (fstatfs(w->fd, &now) < 0 || !now.f_files || now.f_ffree != w->fs.f_ffree ||
				       now.f_bfree != w->fs.f_bfree || now.f_files != w->fs.f_files ||
				       now.f_blocks != w->fs.f_blocks))
		return false;
	if (w->type != TMPFS_MAGIC && !entries_are(w, (int)w->n - 1))
		return false;
	for (size_t i = 0; i < w->n; i++)
		if (!unchanged(w, &w->seen[i]))
			return false;
	return true;
}

/* One that was empty is emptied: nobody is alive who could write to it. */
static bool emptied(struct watch *w)
{
	struct seen *root = &w->seen[0];
	struct timespec times[2] = {
		{ root->st.stx_atime.tv_sec, root->st.stx_atime.tv_nsec },
		{ root->st.stx_mtime.tv_sec, root->st.stx_mtime.tv_nsec },
	};
	struct statx now;
	struct dirent *e;
	DIR *dir;
	int fd;

	if (w->n != 1 || w->type == DEVPTS_MAGIC)
		return false;
	fd = openat(w->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		fctr_close_fd(&fd);
		return false;
	}
	while ((e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fctr_rmtree(w->fd, e->d_name);
	closedir(dir);
	if (flistxattr(w->fd, NULL, 0) > 0 || futimens(w->fd, times) < 0 ||
	    statx(w->fd, "", AT_EMPTY_PATH, STATX_WANT, &now) < 0)
		return false;
	root->st.stx_ctime = now.stx_ctime;	/* it is ours; all the rest must be as it was */
	return clean(w);
}

static bool texts_are(const struct fctr_tenant *slot)
{
	char buf[TEXT_MAX];

	for (int i = 0; i < TEXTS; i++)
		if (slot->text[i] >= 0 && (read_text(slot->text[i], buf, sizeof(buf)) != (ssize_t)slot->was_len[i] ||
					   memcmp(buf, slot->was[i], slot->was_len[i]) != 0))
			return false;
	return true;
}

static bool ready_again(struct fctr_instance *inst)
{
	struct fctr_tenant *slot = inst->slot;
	bool washed = false;

	for (int i = 0; i < slot->n_watch; i++)
		if (!clean(&slot->watch[i])) {
			if (!emptied(&slot->watch[i]))
				return false;
			washed = true;
		}
	if (!texts_are(slot))
		return false;
	if (inst->keeper && !fctr_keeper_lives(inst->keeper))
		return false;
	if (inst->own_user && inst->plan->need_user)	/* the plan's own has to be looked up again */
		return false;
	inst->own_user = false;
	if (inst->cg && (inst->cg_dirty || fctr_cgroup_recycle(inst->cg) != 1))
		return false;
	if (!next_job(inst))
		return false;
	if (washed)
		slot->noted = fctr_now();
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
