/* child_mounts.c: the steps that build a mount namespace. The rules of child.c hold here too:
 * raw system calls only, no libc, no memory but the stack.
 *
 * A path inside the root is resolved once, by openat2(RESOLVE_IN_ROOT), and used through that
 * descriptor: a symlink in an image can point where it likes, it stays inside.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "child.h"

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#define TREE_CLOEXEC 02000000	/* OPEN_TREE_CLOEXEC is O_CLOEXEC */

long child_open_in_root(struct fctr_run *run, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct fctr_open_how how = { flags | O_CLOEXEC, mode, resolve | FCTR_RESOLVE_NO_MAGICLINKS };
	long fd;

	while (*path == '/')
		path++;
	if (!*path)
		path = ".";
	for (int i = 0; i < 8; i++) {	/* EAGAIN: something was renamed while ".." was resolved */
		fd = sys4(SYS_openat2, run->rootfd, path, &how, sizeof(how));
		if (fd != -EAGAIN)
			break;
	}
	return fd;
}

static long file_type(int fd, uint32_t *mode, uint64_t *rdev)
{
	struct statx st;
	long r = sys5(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_MODE, &st);

	if (r < 0)
		return r;
	*mode = st.stx_mode;
	if (rdev)
		*rdev = (uint64_t)st.stx_rdev_major << 32 | st.stx_rdev_minor;
	return 0;
}

/* Open a directory in the root, making what is missing. Copies each prefix of the path onto the
 * stack; PATH_MAX bounds it. */
static long open_dirs(struct fctr_run *run, const char *path, uint32_t mode, uint64_t owner)
{
	char part[4096];
	size_t n = str_len(path), end = 0;
	long fd;

	if (n >= sizeof(part))
		return -ENAMETOOLONG;
	fd = child_open_in_root(run, path, O_PATH | O_DIRECTORY, 0, FCTR_RESOLVE_IN_ROOT);
	if (fd != -ENOENT)
		return fd;
	fd = child_open_in_root(run, "/", O_PATH | O_DIRECTORY, 0, FCTR_RESOLVE_IN_ROOT);
	while (fd >= 0 && end < n) {
		size_t start;
		long next;

		while (end < n && path[end] == '/')
			end++;
		start = end;
		while (end < n && path[end] != '/')
			end++;
		if (start == end)
			break;
		for (size_t i = 0; i < end; i++)
			part[i] = path[i];
		part[end] = '\0';
		next = child_open_in_root(run, part, O_PATH | O_DIRECTORY, 0, FCTR_RESOLVE_IN_ROOT);
		if (next == -ENOENT) {
			long r = sys3(SYS_mkdirat, fd, part + start, mode);

			if (r == 0 && owner)
				r = sys5(SYS_fchownat, fd, part + start, (uint32_t)(owner >> 32), (uint32_t)owner,
					 AT_SYMLINK_NOFOLLOW);
			if (r < 0 && r != -EEXIST) {
				raw_close((int)fd);
				return r;
			}
			next = child_open_in_root(run, part, O_PATH | O_DIRECTORY, 0, FCTR_RESOLVE_IN_ROOT);
		}
		raw_close((int)fd);
		fd = next;
	}
	return fd;
}

/* The directory that holds the last component, and that component. */
static long open_parent(struct fctr_run *run, const char *path, const char **last, uint64_t owner)
{
	char dir[4096];
	size_t n = str_len(path), cut = n;

	while (cut > 0 && path[cut - 1] != '/')
		cut--;
	*last = path + cut;
	if (!**last || n >= sizeof(dir))
		return -EINVAL;
	for (size_t i = 0; i < cut; i++)
		dir[i] = path[i];
	dir[cut] = '\0';
	return open_dirs(run, dir, 0755, owner);
}

/* What a mount goes onto: opened, or made as a directory or an empty file. */
static long open_target(struct fctr_run *run, const char *path, bool dir, bool create)
{
	const char *last;
	long fd, parent, r;

	if (dir && create)
		return open_dirs(run, path, 0755, 0);
	fd = child_open_in_root(run, path, O_PATH | (dir ? O_DIRECTORY : 0), 0, FCTR_RESOLVE_IN_ROOT);
	if (fd != -ENOENT || !create)
		return fd;
	parent = open_parent(run, path, &last, 0);
	if (parent < 0)
		return parent;
	r = sys4(SYS_mknodat, parent, last, S_IFREG | 0644, 0);
	raw_close((int)parent);
	if (r < 0 && r != -EEXIST)
		return r;
	return child_open_in_root(run, path, O_PATH, 0, FCTR_RESOLVE_IN_ROOT);
}

static long move_fd_to_fd(int from, int to)
{
	return sys5(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static long set_attr(int fd, unsigned flags, uint64_t set, uint64_t clr, uint64_t propagation, uint64_t userns)
{
	struct fctr_mount_attr attr = { set, clr, propagation, userns };

	return sys5(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr));
}

static long open_tree_step(struct fctr_run *run, const struct fctr_step *s)
{
	long fd = sys3(SYS_open_tree, AT_FDCWD, STR(run, s->s1),
		       OPEN_TREE_CLONE | TREE_CLOEXEC | (s->a & AT_RECURSIVE));

	if (fd == -ENOENT && (s->flags & FCTR_STEP_OPTIONAL))
		return 0;
	if (fd < 0)
		return fd;
	run->slot[s->slot] = (int)fd;
	return 0;
}

static long tree_attr_step(struct fctr_run *run, const struct fctr_step *s)
{
	unsigned rec = s->flags & FCTR_STEP_RECURSIVE ? AT_RECURSIVE : 0;
	uint64_t userns = s->slot2 >= 0 ? (uint64_t)run->slot[s->slot2] : 0;
	int fd = run->slot[s->slot];
	long r = 0;

	if (fd < 0)	/* an optional tree that is not there */
		return 0;
	if (s->c)
		r = set_attr(fd, AT_RECURSIVE, 0, 0, s->c, 0);
	if (r == 0 && (s->a || s->b))
		r = set_attr(fd, rec, (uint64_t)s->a, (uint64_t)s->b, 0, userns);
	return r;
}

static long place_step(struct fctr_run *run, const struct fctr_step *s)
{
	int fd = run->slot[s->slot];
	uint32_t mode;
	long r;

	if (fd < 0)
		return 0;
	r = file_type(fd, &mode, NULL);
	if (r < 0)
		return r;
	if (S_ISDIR(mode))
		r = sys3(SYS_mkdirat, AT_FDCWD, STR(run, s->s1), 0755);
	else
		r = sys4(SYS_mknodat, AT_FDCWD, STR(run, s->s1), S_IFREG | 0644, 0);
	if (r == 0 || r == -EEXIST)
		r = sys5(SYS_move_mount, fd, "", AT_FDCWD, STR(run, s->s1), MOVE_MOUNT_F_EMPTY_PATH);
	raw_close(fd);
	run->slot[s->slot] = -1;
	return r;
}

/* A mount made from options, still detached. */
static long new_mount(const char *type, const char *options, uint64_t attrs, int pidns)
{
	long fs = sys2(SYS_fsopen, type, FSOPEN_CLOEXEC), fd;

	if (fs < 0)
		return fs;
	sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "source", type, 0);	/* what mount(8) shows */
	if (pidns >= 0) {	/* Linux 6.18 */
		fd = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_FD, "pidns", NULL, pidns);
		if (fd < 0) {
			raw_close((int)fs);
			return fd;
		}
	}
	while (*options) {
		const char *value = options + str_len(options) + 1;
		long r = *value ? sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, options, value, 0)
				: sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_FLAG, options, NULL, 0);
		if (r < 0) {
			raw_close((int)fs);
			return r;
		}
		options = value + str_len(value) + 1;
	}
	fd = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_CREATE, NULL, NULL, 0);
	if (fd == 0)
		fd = sys3(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attrs);
	raw_close((int)fs);
	return fd;
}

static long fsmount_step(struct fctr_run *run, const struct fctr_step *s)
{
	int pidns = s->flags & FCTR_STEP_PIDNS ? run->slot[FCTR_SLOT_PIDNS] : -1;
	long target, fd = new_mount(STR(run, s->s1), STR(run, s->s3), (uint64_t)s->a, pidns), r;

	if (fd < 0)
		return s->flags & FCTR_STEP_OPTIONAL ? 0 : fd;
	if (s->flags & FCTR_STEP_NOCREATE)	/* /proc and /sys: a symlink there is refused, not followed */
		target = child_open_in_root(run, STR(run, s->s2), O_PATH | O_DIRECTORY, 0, FCTR_RESOLVE_NO_SYMLINKS);
	else
		target = open_target(run, STR(run, s->s2), true, true);
	r = target < 0 ? target : move_fd_to_fd((int)fd, (int)target);
	if (r == 0 && s->c)
		r = set_attr((int)fd, 0, 0, 0, s->c, 0);
	raw_close((int)target);
	raw_close((int)fd);
	return r;
}

static long move_step(struct fctr_run *run, const struct fctr_step *s)
{
	const char *from = STR(run, s->s1);
	long src = raw_open(AT_FDCWD, from, O_PATH | O_CLOEXEC), target, r;
	uint32_t mode;

	if (src < 0)
		return src == -ENOENT && (s->flags & FCTR_STEP_OPTIONAL) ? 0 : src;
	r = file_type((int)src, &mode, NULL);
	if (r < 0) {
		raw_close((int)src);
		return r;
	}
	if (run->rootfd == AT_FDCWD)	/* the root itself is being placed */
		r = sys5(SYS_move_mount, src, "", AT_FDCWD, STR(run, s->s2), MOVE_MOUNT_F_EMPTY_PATH);
	else {
		target = open_target(run, STR(run, s->s2), S_ISDIR(mode), !(s->flags & FCTR_STEP_NOCREATE));
		r = target < 0 ? target : move_fd_to_fd((int)src, (int)target);
		raw_close((int)target);
	}
	raw_close((int)src);
	return r;
}

static long mknod_step(struct fctr_run *run, const struct fctr_step *s)
{
	const char *last;
	long dir = open_parent(run, STR(run, s->s1), &last, 0), r;

	if (dir < 0)
		return dir;
	r = sys4(SYS_mknodat, dir, last, s->a, s->b);
	if (r == 0 && s->c)
		r = sys5(SYS_fchownat, dir, last, (uint32_t)(s->c >> 32), (uint32_t)s->c, AT_SYMLINK_NOFOLLOW);
	raw_close((int)dir);
	return r;
}

static long symlink_step(struct fctr_run *run, const struct fctr_step *s)
{
	const char *last;
	long dir = open_parent(run, STR(run, s->s1), &last, 0), r;

	if (dir < 0)
		return dir;
	r = sys3(SYS_symlinkat, STR(run, s->s2), dir, last);
	raw_close((int)dir);
	return r == -EEXIST && (s->flags & FCTR_STEP_OPTIONAL) ? 0 : r;
}

static long file_step(struct fctr_run *run, const struct fctr_step *s)
{
	const char *last, *data = STR(run, s->s2);
	int64_t left = s->b;
	long dir = open_parent(run, STR(run, s->s1), &last, s->flags & FCTR_STEP_OWN_DIRS ? s->c : 0), fd, r = 0;
	uint32_t type;

	if (dir < 0)
		return dir;
	raw_close((int)dir);
	/* An image may have a pipe there, to keep us waiting, or a disk's node, to be written to:
	 * look before opening, and after. */
	fd = child_open_in_root(run, STR(run, s->s1), O_PATH, 0, FCTR_RESOLVE_IN_ROOT);
	if (fd >= 0) {
		r = file_type((int)fd, &type, NULL);
		raw_close((int)fd);
		if (r < 0 || !S_ISREG(type))
			return r < 0 ? r : S_ISDIR(type) ? -EISDIR : -EINVAL;
	}
	fd = child_open_in_root(run, STR(run, s->s1), O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY, s->a & 07777,
				FCTR_RESOLVE_IN_ROOT);
	if (fd < 0)
		return fd;
	r = file_type((int)fd, &type, NULL);
	if (r == 0 && !S_ISREG(type))
		r = -EINVAL;
	while (left > 0 && r >= 0) {
		r = sys3(SYS_write, fd, data, left);
		if (r > 0) {
			data += r;
			left -= r;
		}
	}
	if (r >= 0)
		r = sys2(SYS_fchmod, fd, s->a & 07777);
	if (r >= 0 && s->c)
		r = sys3(SYS_fchown, fd, (uint32_t)(s->c >> 32), (uint32_t)s->c);
	raw_close((int)fd);
	return r < 0 ? r : 0;
}

/* A clone of the container's /dev/null, which must be the real one. */
static long clone_null(struct fctr_run *run)
{
	long fd = child_open_in_root(run, "dev/null", O_PATH | O_NOFOLLOW, 0, FCTR_RESOLVE_NO_SYMLINKS), tree;
	uint32_t mode;
	uint64_t rdev;

	if (fd < 0)
		return fd;
	tree = file_type((int)fd, &mode, &rdev);
	if (tree == 0 && (!S_ISCHR(mode) || rdev != ((uint64_t)1 << 32 | 3)))
		tree = -ENODEV;
	if (tree == 0)
		tree = sys3(SYS_open_tree, fd, "", OPEN_TREE_CLONE | TREE_CLOEXEC | AT_EMPTY_PATH);
	raw_close((int)fd);
	return tree;
}

/* Without a /dev in the root: an empty file of a file system of its own (a clone of a part of a
 * mount that is nowhere attached needs Linux 6.15). */
static long empty_file(void)
{
	long fs = new_mount("tmpfs", "nr_inodes\0" "3\0", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, -1), r;

	if (fs < 0)
		return fs;
	r = sys4(SYS_mknodat, fs, "none", S_IFREG | 0444, 0);
	if (r == 0)
		r = set_attr((int)fs, 0, MOUNT_ATTR_RDONLY, 0, 0, 0);
	if (r == 0)
		r = sys3(SYS_open_tree, fs, "none", OPEN_TREE_CLONE | TREE_CLOEXEC);
	raw_close((int)fs);
	return r;
}

static long mask_step(struct fctr_run *run, const struct fctr_step *s)
{
	long fd = child_open_in_root(run, STR(run, s->s1), O_PATH, 0, FCTR_RESOLVE_IN_ROOT), tree, r;
	uint32_t mode;

	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	if (fd < 0)
		return fd;
	r = file_type((int)fd, &mode, NULL);
	if (r == 0) {
		/* read-only in the superblock too, so that a clear of the mount's flag opens nothing */
		if (s->slot >= 0 && (S_ISDIR(mode) || s->slot2 >= 0))
			tree = sys3(SYS_open_tree, run->slot[S_ISDIR(mode) ? s->slot : s->slot2], "",
				    OPEN_TREE_CLONE | TREE_CLOEXEC | AT_EMPTY_PATH);
		else if (S_ISDIR(mode) && s->s2)
			tree = sys3(SYS_open_tree, AT_FDCWD, STR(run, s->s2), OPEN_TREE_CLONE | TREE_CLOEXEC);
		else
			tree = S_ISDIR(mode) ? new_mount("tmpfs", "ro\0\0nr_inodes\0" "2\0\0",
						 MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, -1)
				     : clone_null(run);
		if (tree == -ENOENT && !S_ISDIR(mode))
			tree = empty_file();
		r = tree < 0 ? tree : move_fd_to_fd((int)tree, (int)fd);
		raw_close((int)tree);
	}
	raw_close((int)fd);
	return r;
}

static long rdonly_step(struct fctr_run *run, const struct fctr_step *s)
{
	long fd = child_open_in_root(run, STR(run, s->s1), O_PATH, 0, FCTR_RESOLVE_IN_ROOT), tree, r;

	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	if (fd < 0)
		return fd;
	tree = sys3(SYS_open_tree, fd, "", OPEN_TREE_CLONE | TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
	r = tree < 0 ? tree : set_attr((int)tree, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0, 0);
	if (r == 0)
		r = move_fd_to_fd((int)tree, (int)fd);
	raw_close((int)tree);
	raw_close((int)fd);
	return r;
}

static long pivot_step(void)
{
	long r = sys2(SYS_pivot_root, ".", ".");

	if (r < 0)
		return r;
	/* "." is the old root now, on top of the new one: off it goes, with all below it */
	r = sys2(SYS_umount2, ".", MNT_DETACH);
	return r < 0 ? r : sys1(SYS_chdir, "/");
}

static long root_step(struct fctr_run *run, const struct fctr_step *s)
{
	long fd = raw_open(AT_FDCWD, STR(run, s->s1), O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return fd;
	run->rootfd = (int)fd;
	return sys1(SYS_fchdir, fd);
}

static long base_step(void)
{
	long fd = new_mount("tmpfs", "mode\0" "0755\0", MOUNT_ATTR_NOSUID, -1), r;

	if (fd < 0)
		return fd;
	r = sys5(SYS_move_mount, fd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
	if (r == 0)
		r = sys1(SYS_fchdir, fd);
	raw_close((int)fd);
	return r;
}

/* A terminal on the container's own devpts: the master is ours, the slave its stdio. */
static long pty_step(struct fctr_run *run, const struct fctr_step *s)
{
	long master = child_open_in_root(run, "dev/pts/ptmx", O_RDWR | O_NOCTTY, 0, FCTR_RESOLVE_NO_SYMLINKS);
	long slave, r, tree, console;
	int zero = 0;

	if (master < 0)
		return master;
	r = sys3(SYS_ioctl, master, 0x40045431 /* TIOCSPTLCK */, &zero);
	slave = r < 0 ? r : sys3(SYS_ioctl, master, 0x5441 /* TIOCGPTPEER */, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0) {
		raw_close((int)master);
		return slave;
	}
	run->slot[s->slot] = (int)master;
	run->slot[s->slot2] = (int)slave;
	r = sys3(SYS_fchown, slave, run->params->uid, (uint32_t)-1);
	if (r < 0 && r != -EPERM && r != -EINVAL)
		return r;
	if (!s->a)
		return 0;
	console = open_target(run, "dev/console", false, true);
	if (console < 0)
		return console;
	tree = sys3(SYS_open_tree, slave, "", OPEN_TREE_CLONE | TREE_CLOEXEC | AT_EMPTY_PATH);
	r = tree < 0 ? tree : move_fd_to_fd((int)tree, (int)console);
	raw_close((int)tree);
	raw_close((int)console);
	return r;
}

/* The last job's /proc is not taken off here: that waits for the kernel's readers, and many can go at once. */
static long slot_proc_step(struct fctr_run *run, const struct fctr_step *s)
{
	char name[2] = { (char)('0' + run->slot[FCTR_SLOT_AT]), '\0' };
	long r = 0;

	if (run->slot[FCTR_SLOT_OLD] >= 0)
		r = sys5(SYS_move_mount, run->slot[FCTR_SLOT_OLD], "", run->slot[FCTR_SLOT_GRAVE], name, MOVE_MOUNT_F_EMPTY_PATH);
	if (r == 0)
		r = sys5(SYS_move_mount, run->slot[FCTR_SLOT_PROC], "", AT_FDCWD, STR(run, s->s1), MOVE_MOUNT_F_EMPTY_PATH);
	return r;
}

/* What a job has left. It chose what is there, so nothing is opened before it is known to be a regular
 * file, and what is opened then is that very file: a pipe, a disk's node or a link is refused. */
static long take_step(struct fctr_run *run, const struct fctr_step *s)
{
	char name[32] = "self/fd/", digits[12];
	long at = child_open_in_root(run, STR(run, s->s1), O_PATH | O_NOFOLLOW, 0, FCTR_RESOLVE_IN_ROOT), fd;
	size_t n = 0, end = str_len(name);
	uint32_t mode;

	if (at < 0)
		return at == -ENOENT || at == -ENOTDIR ? 0 : at;
	fd = file_type((int)at, &mode, NULL);
	if (fd == 0 && !S_ISREG(mode))
		fd = S_ISLNK(mode) ? -ELOOP : S_ISDIR(mode) ? -EISDIR : -EINVAL;
	if (fd == 0) {
		for (long v = at; v || !n; v /= 10)
			digits[n++] = (char)('0' + v % 10);
		while (n > 0)
			name[end++] = digits[--n];
		name[end] = '\0';
		fd = raw_open(run->slot[s->slot2], name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	}
	raw_close((int)at);
	run->slot[s->slot] = fd < 0 ? -1 : (int)fd;
	return fd < 0 ? fd : 0;
}

long child_mount_step(struct fctr_run *run, const struct fctr_step *s)
{
	long fd;

	switch (s->op) {
	case FCTR_OP_OPEN_TREE: return open_tree_step(run, s);
	case FCTR_OP_TREE_ATTR: return tree_attr_step(run, s);
	case FCTR_OP_PRIVATE: return sys5(SYS_mount, "", "/", NULL, MS_PRIVATE | MS_REC, NULL);
	case FCTR_OP_BASE: return base_step();
	case FCTR_OP_UNMOUNT: return sys2(SYS_umount2, STR(run, s->s1), MNT_DETACH);
	case FCTR_OP_PLACE: return place_step(run, s);
	case FCTR_OP_MKDIR: return sys3(SYS_mkdirat, AT_FDCWD, STR(run, s->s1), s->a);
	case FCTR_OP_PIVOT: return pivot_step();
	case FCTR_OP_FSMOUNT: return fsmount_step(run, s);
	case FCTR_OP_SLOT_PROC: return slot_proc_step(run, s);
	case FCTR_OP_OVERLAY: return child_overlay_step(run, s);
	case FCTR_OP_EROFS: return child_erofs_step(run, s);
	case FCTR_OP_ROOT: return root_step(run, s);
	case FCTR_OP_MOVE: return move_step(run, s);
	case FCTR_OP_MKDIRS:
		fd = open_dirs(run, STR(run, s->s1), (uint32_t)s->a, 0);
		raw_close((int)fd);
		return fd < 0 ? fd : 0;
	case FCTR_OP_MKNOD: return mknod_step(run, s);
	case FCTR_OP_OPAQUE: return sys5(SYS_setxattr, STR(run, s->s1), "trusted.overlay.opaque", "y", 1, 0);
	case FCTR_OP_SYMLINK: return symlink_step(run, s);
	case FCTR_OP_FILE: return file_step(run, s);
	case FCTR_OP_MASK: return mask_step(run, s);
	case FCTR_OP_RDONLY: return rdonly_step(run, s);
	case FCTR_OP_ROOT_ATTR:
		fd = s->c ? set_attr(run->rootfd, 0, 0, 0, s->c, 0) : 0;
		return fd == 0 && s->a ? set_attr(run->rootfd, 0, (uint64_t)s->a, 0, 0, 0) : fd;
	case FCTR_OP_KEEP:
		fd = child_open_in_root(run, STR(run, s->s1), O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, FCTR_RESOLVE_IN_ROOT);
		run->slot[s->slot] = fd < 0 ? -1 : (int)fd;
		return 0;
	case FCTR_OP_TAKE: return take_step(run, s);
	case FCTR_OP_LOOK_UP:	/* a fresh overlay knows no names yet, and finding them takes as long as an exec */
		if (run->params->candidates)
			raw_close((int)child_open_in_root(run, run->params->candidates[0], O_PATH, 0, FCTR_RESOLVE_IN_ROOT));
		return 0;
	case FCTR_OP_PTY: return pty_step(run, s);
	case FCTR_OP_CHDIR: return sys1(SYS_chdir, STR(run, s->s1));
	}
	return -ENOSYS;
}
