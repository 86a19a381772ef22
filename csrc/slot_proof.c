/* slot_proof.c: whether a slot is as it was before its first job.
 *
 * The proof of a file system in memory: it has as many inodes and blocks in use as it had, and each
 * inode that was there still is, with the same ctime, which no call can set. Then there is no other, and
 * none was changed. Only what is written through a mapping leaves the ctime alone: files are read again.
 * Of the ipc and network namespaces: the tables the kernel shows read as they did.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/xattr.h>

#include "slot.h"

#define SEEN_MAX 4096
#define FILE_MAX (256 * 1024)

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

static int note_one(struct fctr_watch *w, const char *name)
{
	struct fctr_seen *v = realloc(w->seen, (w->n + 1) * sizeof(*v));
	struct fctr_seen *s;
	bool ok = true;

	if (!v || w->n >= SEEN_MAX)
		return -1;
	w->seen = v;
	s = &v[w->n];
	memset(s, 0, sizeof(*s));
	if (statx(w->fd, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_WANT, &s->st) < 0)
		return -1;
	if (w->n && (s->st.stx_dev_major != v[0].st.stx_dev_major || s->st.stx_dev_minor != v[0].st.stx_dev_minor)) {
		w->fixed = true;
		return 0;	/* something is mounted there: what is below cannot be reached */
	}
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

static int note_below(struct fctr_watch *w, const char *name)
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

static int note(struct fctr_watch *w)
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

	for (int i = 0; i < SLOT_TEXTS; i++) {
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

/* ---- comparing ------------------------------------------------------------------------ */

static bool same(const struct statx *a, const struct statx *b)
{
	return a->stx_ino == b->stx_ino && a->stx_mode == b->stx_mode && a->stx_uid == b->stx_uid &&
	       a->stx_gid == b->stx_gid && a->stx_nlink == b->stx_nlink && a->stx_size == b->stx_size &&
	       a->stx_ctime.tv_sec == b->stx_ctime.tv_sec && a->stx_ctime.tv_nsec == b->stx_ctime.tv_nsec &&
	       a->stx_attributes == b->stx_attributes;
}

static bool unchanged(const struct fctr_watch *w, const struct fctr_seen *s)
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

static bool entries_are(const struct fctr_watch *w, int want)
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

/* Where the kernel's clock is coarse, a directory emptied a moment ago may be changed without a new ctime:
 * all that its inode can hold is looked at, then. */
static bool clean(const struct fctr_watch *w, bool fine)
{
	struct statfs now;

	if (w->type == TMPFS_MAGIC && (fstatfs(w->fd, &now) < 0 || !now.f_files || now.f_ffree != w->fs.f_ffree ||
				       now.f_bfree != w->fs.f_bfree || now.f_files != w->fs.f_files ||
				       now.f_blocks != w->fs.f_blocks))
		return false;
	if (!fine && w->n == 1 && flistxattr(w->fd, NULL, 0) > 0 && w->type != MQUEUE_MAGIC && !w->fixed)
		return false;
	if (w->type != TMPFS_MAGIC && !entries_are(w, (int)w->n - 1))
		return false;
	for (size_t i = 0; i < w->n; i++)
		if (!unchanged(w, &w->seen[i]))
			return false;
	return true;
}

#define DEPTH_MAX 64
#define WIPE_MAX 10000	/* more files than that are left to the kernel, and the slot with them */

/* A job made this tree: no link is followed, no mount entered, no depth taken for granted. */
static bool wipe(int parent, const char *name, int depth)
{
	struct fctr_open_how how = { O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0,
				     0x01 /* RESOLVE_NO_XDEV */ | FCTR_RESOLVE_NO_SYMLINKS | FCTR_RESOLVE_BENEATH };
	bool ok = true;
	struct dirent *e;
	DIR *dir;
	int fd;

	if (*name && unlinkat(parent, name, 0) == 0)
		return true;
	fd = depth > DEPTH_MAX ? -1 : (int)sys4(SYS_openat2, parent, *name ? name : ".", &how, sizeof(how));
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (ok && (e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			ok = wipe(fd, e->d_name, depth + 1);
	closedir(dir);
	return ok && (!*name || unlinkat(parent, name, AT_REMOVEDIR) == 0);
}

/* One that was empty is emptied: nobody is alive who could write to it. */
static bool emptied(struct fctr_watch *w, bool fine)
{
	struct fctr_seen *root = &w->seen[0];
	struct timespec times[2] = {
		{ root->st.stx_atime.tv_sec, root->st.stx_atime.tv_nsec },
		{ root->st.stx_mtime.tv_sec, root->st.stx_mtime.tv_nsec },
	};
	struct statx now;
	struct statfs fs;

	if (w->n != 1 || w->fixed || w->type == DEVPTS_MAGIC || fstatfs(w->fd, &fs) < 0 ||
	    (w->type == TMPFS_MAGIC && w->fs.f_ffree - fs.f_ffree > WIPE_MAX) || !wipe(w->fd, "", 0))
		return false;
	if (flistxattr(w->fd, NULL, 0) > 0 || futimens(w->fd, times) < 0 ||
	    statx(w->fd, "", AT_EMPTY_PATH, STATX_WANT, &now) < 0)
		return false;
	root->st.stx_ctime = now.stx_ctime;	/* it is ours; all the rest must be as it was */
	return clean(w, fine);
}

static bool texts_are(const struct fctr_tenant *slot)
{
	char buf[TEXT_MAX];

	for (int i = 0; i < SLOT_TEXTS; i++)
		if (slot->text[i] >= 0 && (read_text(slot->text[i], buf, sizeof(buf)) != (ssize_t)slot->was_len[i] ||
					   memcmp(buf, slot->was[i], slot->was_len[i]) != 0))
			return false;
	return true;
}


int fctr_slot_note(struct fctr_tenant *slot)
{
	choose(slot);
	for (int i = 0; i < slot->n_watch; i++)
		if (note(&slot->watch[i]) < 0)
			return -1;
	return note_texts(slot);
}

bool fctr_slot_clean(struct fctr_tenant *slot)
{
	for (int i = 0; i < slot->n_watch; i++)
		if (!clean(&slot->watch[i], slot->fine) && !emptied(&slot->watch[i], slot->fine))
			return false;
	return texts_are(slot);
}
