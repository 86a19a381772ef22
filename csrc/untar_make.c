/* untar_make.c: making entries with as few system calls as they need, and what is set at the very end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/sysmacros.h>

#include "untar_int.h"

/* ---- what is in the way */

/* A later entry replaces an earlier one, or in MERGE what was there. */
int tar_clear_way(struct fctr_untar *u, struct tar_dir *parent, const char *name, bool *was_whiteout)
{
	struct tar_dir *d = tar_dir_find(u, parent, name, strlen(name));
	int fd = tar_dir_fd(u, parent);
	struct stat st;

	*was_whiteout = false;
	if (fd < 0)
		return -1;
	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		*was_whiteout = tar_is_whiteout(u, &st);
	if (fctr_remove_tree(fd, name) < 0 && errno != ENOENT)
		return tar_sys(u, errno, "replacing what is there");
	if (d)
		tar_dir_forget(u, d);
	u->last_dir = NULL;
	return 0;
}

/* ---- regular files */

static bool plain_mode(const struct fctr_untar *u)
{
	return u->umask_known && !u->made_unsure;
}

static int begin_file(struct fctr_untar *u, struct tar_dir *parent, const char *name)
{
	struct tar_entry *e = &u->e;
	mode_t mode = e->mode & 0777;
	bool was_whiteout;
	int fd = tar_dir_fd(u, parent);

	if (fd < 0)
		return -1;
	/* Without the others' rights until the owner is right. */
	if (e->uid != u->made_uid || e->gid != u->made_gid)
		mode &= 0700;
	u->fd = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (u->fd < 0 && errno == EEXIST) {
		if (tar_clear_way(u, parent, name, &was_whiteout) < 0)
			return -1;
		fd = tar_dir_fd(u, parent);
		if (fd < 0)
			return -1;
		u->fd = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	}
	if (u->fd < 0)
		return tar_sys(u, errno, "making the file");
	return 0;
}

static int write_at(struct fctr_untar *u, const char *p, size_t len, uint64_t at)
{
	while (len > 0) {
		ssize_t n = u->e.sparse ? pwrite(u->fd, p, len, (off_t)at) : write(u->fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return tar_sys(u, n < 0 ? errno : EIO, "writing the file");
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int tar_write(struct fctr_untar *u, const char *p, size_t len)
{
	if (!u->e.sparse)
		return write_at(u, p, len, 0);
	while (len > 0) {	/* the map and the content agree: it was checked */
		const struct tar_segment *s = &u->e.map[u->segment];
		uint64_t n = s->len - u->segment_done;

		if (n == 0) {
			u->segment++;
			u->segment_done = 0;
			continue;
		}
		if (n > len)
			n = len;
		if (write_at(u, p, (size_t)n, s->at + u->segment_done) < 0)
			return -1;
		u->segment_done += n;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Owner, mode, attributes, times: in this order, as each may undo one before. */
int tar_file_done(struct fctr_untar *u)
{
	struct tar_entry *e = &u->e;
	struct timespec times[2] = { e->atime, e->mtime };
	bool owned = e->uid == u->made_uid && e->gid == u->made_gid;
	int r = 0;

	if (e->sparse && ftruncate(u->fd, (off_t)e->real_size) < 0)
		r = tar_sys(u, errno, "setting its size to %llu", (unsigned long long)e->real_size);
	if (r == 0 && (!owned || u->made_unsure) && fchown(u->fd, e->uid, e->gid) < 0)
		r = tar_sys(u, errno, "giving it to %u:%u", e->uid, e->gid);
	if (r == 0 && (!owned || !plain_mode(u) || e->mode & 07000) && fchmod(u->fd, e->mode) < 0)
		r = tar_sys(u, errno, "setting its mode to %o", e->mode);
	if (r == 0 && e->xattrs.n)
		r = tar_xattrs_set(u, &e->xattrs, u->fd);
	if (r == 0 && futimens(u->fd, times) < 0)
		r = tar_sys(u, errno, "setting its times");
	if (close(u->fd) < 0 && r == 0)
		r = tar_sys(u, errno, "closing the file");
	u->fd = -1;
	tar_xattrs_clear(&e->xattrs);
	tar_pax_clear(&u->pax);
	tar_str_clear(&u->long_name);
	tar_str_clear(&u->long_link);
	u->skip = tar_padding(e->size);
	u->state = u->skip ? TAR_SKIP : TAR_HEADER;
	return r;
}

/* ---- what has no descriptor: symbolic links, devices, fifos */

static int set_by_name(struct fctr_untar *u, int fd, const char *name, bool link)
{
	struct tar_entry *e = &u->e;
	struct timespec times[2] = { e->atime, e->mtime };
	bool owned = e->uid == u->made_uid && e->gid == u->made_gid && !u->made_unsure;

	if (!owned && fchownat(fd, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return tar_sys(u, errno, "giving it to %u:%u", e->uid, e->gid);
	if (!link && (!owned || !plain_mode(u) || e->mode & 07000)) {
		cleanup_close int path = openat(fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		char proc[40];

		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path);
		if (path < 0 || chmod(proc, e->mode) < 0)
			return tar_sys(u, errno, "setting its mode to %o", e->mode);
	}
	if (e->xattrs.n && tar_xattrs_set_at(u, &e->xattrs, fd, name) < 0)
		return -1;
	if (utimensat(fd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return tar_sys(u, errno, "setting its times");
	return 0;
}

static int make_node(struct fctr_untar *u, int fd, const char *name)
{
	struct tar_entry *e = &u->e;
	mode_t type = e->type == '3' ? S_IFCHR : e->type == '4' ? S_IFBLK : S_IFIFO;

	if (e->type == '2')
		return symlinkat(e->link, fd, name);
	return mknodat(fd, name, type | (e->mode & 0777), type == S_IFIFO ? 0 : makedev(e->major, e->minor));
}

static int make_special(struct fctr_untar *u, struct tar_dir *parent, const char *name)
{
	struct tar_entry *e = &u->e;
	bool device = e->type == '3' || e->type == '4', was_whiteout;
	int fd = tar_dir_fd(u, parent);

	if (fd < 0)
		return -1;
	if (device && (e->major || e->minor) && u->c.devices != FCTR_UNTAR_DEV_MAKE) {
		if (u->c.devices == FCTR_UNTAR_DEV_REFUSE)
			return tar_bad(u, "a device, which may not be made here");
		u->stats.skipped_devices++;
		return 0;
	}
	if (u->c.mode == FCTR_UNTAR_LAYER && e->type == '3' && !e->major && !e->minor &&
	    tar_hidden_add(u, parent, name) < 0)
		return -1;		/* to overlayfs it is a whiteout */
	if (make_node(u, fd, name) < 0) {
		if (errno == EEXIST) {
			if (tar_clear_way(u, parent, name, &was_whiteout) < 0)
				return -1;
			fd = tar_dir_fd(u, parent);
			if (fd < 0)
				return -1;
			if (make_node(u, fd, name) == 0)
				return set_by_name(u, fd, name, e->type == '2');
		}
		return tar_sys(u, errno, e->type == '2' ? "making the symbolic link" :
			       device ? "making the device" : "making the fifo");
	}
	return set_by_name(u, fd, name, e->type == '2');
}

/* ---- hard links */

/* By its real path: links on the way to it are not looked at again. */
static int add_missing(struct fctr_untar *u, struct tar_dir *parent, const char *name)
{
	struct tar_entry *e = &u->e;
	size_t size = parent->len + strlen(name) + 2;
	struct tar_missing *m = malloc(sizeof(*m) + size);

	if (u->c.mode == FCTR_UNTAR_MERGE) {
		free(m);
		return tar_bad(u, "a hard link to \"%s\", which is not there", e->link);
	}
	if (!m || !(m->target = strdup(e->link))) {
		free(m);
		return tar_memory(u);
	}
	snprintf(m->path, size, "%s%s%s", parent->path, parent->len ? "/" : "", name);
	m->next = NULL;
	*u->missing_end = m;
	u->missing_end = &m->next;
	return 0;
}

/* 1 when the target is not there. */
static int link_entry(struct fctr_untar *u, struct tar_dir *parent, const char *name, const char *target, size_t len)
{
	const char *slash = memrchr(target, '/', len), *base = slash ? slash + 1 : target;
	bool absent, was_whiteout;
	struct tar_dir *from;
	struct stat st, there;
	int from_fd, fd;

	if (len == 0)
		return tar_bad(u, "a hard link to the root");
	from = tar_resolve(u, target, slash ? (size_t)(slash - target) : 0, false, &absent);
	if (!from)
		return absent ? 1 : -1;
	from_fd = tar_dir_fd(u, from);
	if (from_fd < 0)
		return -1;
	if (fstatat(from_fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 1 : tar_sys(u, errno, "looking at the hard link's target \"%s\"", target);
	if (tar_is_whiteout(u, &st))
		return 1;
	if (S_ISDIR(st.st_mode))
		return tar_bad(u, "a hard link to the directory \"%s\"", target);
	fd = tar_dir_fd(u, parent);
	if (fd < 0)
		return -1;
	if (fstatat(fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0) {
		if (there.st_dev == st.st_dev && there.st_ino == st.st_ino)
			return 0;	/* a link to itself, or told twice */
		for (struct tar_dir *d = from; d; d = d->parent)
			if (d->parent == parent && strcmp(d->path + d->base, name) == 0)
				return tar_bad(u, "a hard link in place of the directory that its target \"%s\" is in", target);
		if (tar_clear_way(u, parent, name, &was_whiteout) < 0)
			return -1;
		from_fd = tar_dir_fd(u, from);
		fd = tar_dir_fd(u, parent);
		if (from_fd < 0 || fd < 0)
			return -1;
	}
	if (linkat(from_fd, base, fd, name, 0) < 0)
		return tar_sys(u, errno, "linking it to \"%s\"", target);
	return 0;
}

/* Links whose target came after them; those that something else has replaced since are done with. */
int tar_relink(struct fctr_untar *u)
{
	struct tar_missing **at = &u->missing, *m;

	while ((m = *at)) {
		const char *slash = strrchr(m->path, '/'), *base = slash ? slash + 1 : m->path;
		struct tar_dir *parent;
		struct stat st;
		bool absent;
		int r = 0, fd;

		snprintf(u->name, sizeof(u->name), "%s", m->path);
		parent = tar_resolve(u, m->path, slash ? (size_t)(slash - m->path) : 0, false, &absent);
		if (!parent && !absent)
			return -1;
		if (parent) {
			fd = tar_dir_fd(u, parent);
			if (fd < 0)
				return -1;
			if (fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
				r = link_entry(u, parent, base, m->target, strlen(m->target));
			if (r < 0)
				return -1;
		}
		if (r > 0) {
			at = &m->next;
			continue;
		}
		*at = m->next;
		free(m->target);
		free(m);
	}
	u->missing_end = at;
	u->name[0] = '\0';
	return 0;
}

/* ---- directories */

static void directory_data(struct fctr_untar *u, struct tar_dir *d)
{
	struct tar_entry *e = &u->e;

	d->mode = e->mode;
	d->uid = e->uid;
	d->gid = e->gid;
	d->mtime = e->mtime;
	d->atime = e->atime;
	tar_xattrs_clear(&d->xattrs);
	d->xattrs = e->xattrs;
	memset(&e->xattrs, 0, sizeof(e->xattrs));
	d->flags = (d->flags & ~TAR_D_IMPLIED) | TAR_D_ENTRY | TAR_D_SEEN;
}

static int make_directory(struct fctr_untar *u, struct tar_dir *parent, const char *name, size_t len)
{
	struct tar_dir *d = tar_dir_find(u, parent, name, len);
	mode_t mode = (u->e.mode & 0777) | 0700;
	bool was_whiteout = false;
	struct stat st;
	int fd;

	if (!d) {
		fd = tar_dir_fd(u, parent);
		if (fd < 0)
			return -1;
		if (mkdirat(fd, name, mode) == 0) {
			d = tar_dir_add(u, parent, name, len, 0);
			if (d)
				d->made_mode = mode;
		} else if (errno != EEXIST) {
			return tar_sys(u, errno, "making the directory");
		} else if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) {
			d = tar_dir_add(u, parent, name, len, 0);
			if (d) {
				tar_dir_found(d, &st);
				tar_dir_unlock(u, d, fd, name);
			}
		} else {
			if (tar_clear_way(u, parent, name, &was_whiteout) < 0)
				return -1;
			fd = tar_dir_fd(u, parent);
			if (fd < 0)
				return -1;
			if (mkdirat(fd, name, mode) < 0)
				return tar_sys(u, errno, "making the directory");
			d = tar_dir_add(u, parent, name, len, was_whiteout ? TAR_D_OPAQUE | TAR_D_REPLACES : 0);
			if (d)
				d->made_mode = mode;
		}
		if (!d)
			return -1;
	}
	directory_data(u, d);
	return 0;
}

/* Owner, mode, attributes, times of one directory, now that nothing more is made in it. */
static int directory_done(struct fctr_untar *u, struct tar_dir *d)
{
	struct timespec times[2] = { d->atime, d->mtime };
	bool ours = !(d->flags & TAR_D_UNSURE), owned;
	int fd;

	snprintf(u->name, sizeof(u->name), "%s", d->path);
	fd = tar_dir_fd(u, d);
	if (fd < 0)
		return -1;
	if (d->flags & (TAR_D_ENTRY | TAR_D_IMPLIED)) {
		owned = ours && d != u->root && d->uid == u->made_uid && d->gid == u->made_gid;
		if (!owned && fchown(fd, d->uid, d->gid) < 0)
			return tar_sys(u, errno, "giving it to %u:%u", d->uid, d->gid);
		if ((!ours || !u->umask_known || d->mode != d->made_mode) && fchmod(fd, d->mode) < 0)
			return tar_sys(u, errno, "setting its mode to %o", d->mode);
		if (d->flags & TAR_D_FOUND && tar_xattrs_drop(u, fd) < 0)
			return -1;
		if (tar_xattrs_set(u, &d->xattrs, fd) < 0)
			return -1;
	} else if (d->mode != d->made_mode && fchmod(fd, d->mode) < 0)
		return tar_sys(u, errno, "setting its mode to %o", d->mode);
	if (d->flags & TAR_D_OPAQUE && tar_opaque_set(u, fd) < 0)
		return -1;
	if (futimens(fd, times) < 0 && !(errno == EPERM && d->flags & TAR_D_FOUND))
		return tar_sys(u, errno, "setting its times");
	return 0;
}

int tar_dirs_done(struct fctr_untar *u)
{
	for (struct tar_dir *d = u->newest; d; d = d->older)	/* children before their parents */
		if (directory_done(u, d) < 0)
			return -1;
	u->name[0] = '\0';
	return 0;
}

/* ---- */

int tar_make(struct fctr_untar *u)
{
	struct tar_entry *e = &u->e;
	const char *name = e->path + e->base;
	struct tar_dir *parent;
	bool taken, absent;
	uint32_t id;
	int r;

	if (e->path_len == 0) {
		if (e->type != '5')
			return tar_bad(u, "the root can only be a directory");
	} else {
		if (tar_whiteout(u, name, &taken) < 0)
			return -1;
		if (taken)
			return 0;
	}
	if (tar_shift(u, false, e->uid, &id) < 0)
		return tar_bad(u, "its user id %u is not in the map", e->uid);
	e->uid = id;
	if (tar_shift(u, true, e->gid, &id) < 0)
		return tar_bad(u, "its group id %u is not in the map", e->gid);
	e->gid = id;
	if (e->path_len == 0) {
		directory_data(u, u->root);
		u->stats.root_seen = true;
		return 0;
	}
	parent = tar_resolve(u, e->path, e->base ? e->base - 1 : 0, true, &absent);
	if (!parent)
		return -1;
	u->made_unsure = parent->flags & TAR_D_UNSURE;
	if (e->type == '5')
		r = make_directory(u, parent, name, e->path_len - e->base);
	else if (e->type == '0')
		r = begin_file(u, parent, name);
	else if (e->type == '1')
		r = link_entry(u, parent, name, e->link, e->link_len);
	else
		r = make_special(u, parent, name);
	if (r == 1)
		r = add_missing(u, parent, name);
	if (r == 0 && u->c.mode == FCTR_UNTAR_MERGE)
		r = tar_seen_add(u, parent, name);
	return r;
}
