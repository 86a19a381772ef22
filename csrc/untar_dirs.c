/* untar_dirs.c: the directories below the target by their real paths, their descriptors, and the way from
 * a name in the archive to the directory it means. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/random.h>
#include <sys/xattr.h>

#include "untar_int.h"

#define OPEN_DIR	(O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
#define MAX_LINKS	40	/* as path_resolution(7) */

static uint64_t hash_bytes(uint64_t h, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
	return h ^ h >> 29;
}

/* ---- the table */

static struct tar_dir **bucket(struct fctr_untar *u, uint64_t hash)
{
	return &u->buckets[hash & (u->n_buckets - 1)];
}

static int grow(struct fctr_untar *u)
{
	size_t n = u->n_buckets ? u->n_buckets * 4 : 256;
	struct tar_dir **v = calloc(n, sizeof(*v));

	if (!v)
		return tar_memory(u);
	free(u->buckets);
	u->buckets = v;
	u->n_buckets = n;
	for (struct tar_dir *d = u->oldest; d; d = d->newer) {
		struct tar_dir **b = bucket(u, d->hash);

		d->chain = *b;
		*b = d;
	}
	return 0;
}

static uint64_t hash_of(const struct fctr_untar *u, const struct tar_dir *parent, const char *name, size_t len)
{
	return hash_bytes(hash_bytes(u->seed, (const char *)&parent, sizeof(parent)), name, len);
}

struct tar_dir *tar_dir_find(struct fctr_untar *u, const struct tar_dir *parent, const char *name, size_t len)
{
	uint64_t hash = hash_of(u, parent, name, len);

	for (struct tar_dir *d = *bucket(u, hash); d; d = d->chain)
		if (d->hash == hash && d->parent == parent && d->len - d->base == len &&
		    memcmp(d->path + d->base, name, len) == 0)
			return d;
	return NULL;
}

struct tar_dir *tar_dir_add(struct fctr_untar *u, struct tar_dir *parent, const char *name, size_t len, unsigned flags)
{
	size_t base = parent && parent->len ? parent->len + 1 : 0;
	struct tar_dir *d, **b;

	if (base + len > TAR_PATH_MAX) {
		tar_bad(u, "the name is too long");
		return NULL;
	}
	if (u->n_dirs + 1 > u->n_buckets / 2 && grow(u) < 0)
		return NULL;
	d = calloc(1, sizeof(*d) + base + len + 1);
	if (!d) {
		tar_memory(u);
		return NULL;
	}
	d->fd = -1;
	d->flags = flags | (parent ? parent->flags & TAR_D_UNSURE : 0);
	d->mode = d->made_mode = 0755;
	if (base) {
		memcpy(d->path, parent->path, base - 1);
		d->path[base - 1] = '/';
	}
	memcpy(d->path + base, name, len);
	d->base = base;
	d->len = base + len;
	d->hash = hash_of(u, parent, name, len);
	b = bucket(u, d->hash);
	d->chain = *b;
	*b = d;
	d->parent = parent;
	if (parent) {
		d->next = parent->child;
		if (d->next)
			d->next->prev = d;
		parent->child = d;
	}
	d->older = u->newest;
	*(u->newest ? &u->newest->newer : &u->oldest) = d;
	u->newest = d;
	u->n_dirs++;
	return d;
}

static void lru_unlink(struct fctr_untar *u, struct tar_dir *d)
{
	*(d->lru_prev ? &d->lru_prev->lru_next : &u->lru_first) = d->lru_next;
	*(d->lru_next ? &d->lru_next->lru_prev : &u->lru_last) = d->lru_prev;
	d->lru_prev = d->lru_next = NULL;
}

static void lru_front(struct fctr_untar *u, struct tar_dir *d)
{
	d->lru_next = u->lru_first;
	*(u->lru_first ? &u->lru_first->lru_prev : &u->lru_last) = d;
	u->lru_first = d;
}

static void drop_fd(struct fctr_untar *u, struct tar_dir *d)
{
	if (d->fd < 0 || d == u->root)
		return;
	lru_unlink(u, d);
	close(d->fd);
	d->fd = -1;
	u->n_open--;
}

static void keep_fd(struct fctr_untar *u, struct tar_dir *d, int fd)
{
	if (u->n_open >= TAR_OPEN_DIRS)
		drop_fd(u, u->lru_last);
	d->fd = fd;
	lru_front(u, d);
	u->n_open++;
}

static void forget_one(struct fctr_untar *u, struct tar_dir *d)
{
	struct tar_dir **b = bucket(u, d->hash);

	drop_fd(u, d);
	while (*b != d)
		b = &(*b)->chain;
	*b = d->chain;
	if (d->parent) {
		*(d->prev ? &d->prev->next : &d->parent->child) = d->next;
		if (d->next)
			d->next->prev = d->prev;
	}
	*(d->older ? &d->older->newer : &u->oldest) = d->newer;
	*(d->newer ? &d->newer->older : &u->newest) = d->older;
	tar_xattrs_clear(&d->xattrs);
	free(d);
	u->n_dirs--;
}

void tar_dir_forget(struct fctr_untar *u, struct tar_dir *top)
{
	struct tar_dir *d = top;

	u->last_dir = NULL;
	for (;;) {
		struct tar_dir *parent = d->parent;

		if (d->child) {
			d = d->child;
			continue;
		}
		forget_one(u, d);
		if (d == top)
			return;
		d = parent;
	}
}

/* ---- descriptors */

/* From the nearest ancestor that is open, a component at a time: no link in between is ever followed. Those
 * in between stay open too, for their turn is likely next. */
static int open_below(struct fctr_untar *u, struct tar_dir *d)
{
	struct tar_dir *way[TAR_PATH_MAX / 2 + 1];
	size_t n = 0;
	int fd;

	for (; d->fd < 0; d = d->parent)
		way[n++] = d;
	fd = d->fd;
	while (n--) {
		fd = openat(fd, way[n]->path + way[n]->base, OPEN_DIR);
		if (fd < 0)
			return tar_sys(u, errno, "opening the directory \"%s\"", way[n]->path);
		keep_fd(u, way[n], fd);
	}
	return fd;
}

int tar_dir_fd(struct fctr_untar *u, struct tar_dir *d)
{
	int fd = d->fd;

	if (d == u->root)
		return fd;
	if (fd >= 0) {
		if (u->lru_first != d) {
			lru_unlink(u, d);
			lru_front(u, d);
		}
		return fd;
	}
	return open_below(u, d);
}

/* A directory from before this archive: it keeps what it has, its times too (its children will change). */
void tar_dir_found(struct tar_dir *d, const struct stat *st)
{
	d->flags |= TAR_D_FOUND | TAR_D_UNSURE;
	d->mode = d->made_mode = st->st_mode & 07777;
	d->uid = st->st_uid;
	d->gid = st->st_gid;
	d->mtime = st->st_mtim;
	d->atime = st->st_atim;
}

/* Its mode comes back at the end. */
void tar_dir_unlock(struct fctr_untar *u, struct tar_dir *d, int parent_fd, const char *name)
{
	if (u->weak && (d->made_mode & 0700) != 0700 && fchmodat(parent_fd, name, d->made_mode | 0700, 0) == 0)
		d->made_mode |= 0700;
}

/* Of root's, 0755, and of no time: settling takes all that from the layers below, where they have it. */
static void as_implied(struct fctr_untar *u, struct tar_dir *d)
{
	if (tar_shift(u, false, 0, &d->uid) < 0)
		d->uid = u->made_uid;
	if (tar_shift(u, true, 0, &d->gid) < 0)
		d->gid = u->made_gid;
	d->mode = 0755;
	d->mtime = d->atime = (struct timespec){ 0 };
}

/* What creating a file in the target gives: owner, group, mode. Of a file without a name where that can be. */
static int probe(struct fctr_untar *u)
{
	cleanup_close int fd = openat(u->c.dirfd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	struct stat st, top;
	char name[40] = "";

	if (fd < 0) {
		uint64_t random = 0;

		(void)!getrandom(&random, sizeof(random), 0);
		snprintf(name, sizeof(name), ".fastctr-%016llx", (unsigned long long)random);
		fd = openat(u->c.dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return tar_sys(u, errno, "writing to the directory");
		unlinkat(u->c.dirfd, name, 0);
	}
	if (fstat(fd, &st) < 0 || fstat(u->c.dirfd, &top) < 0)
		return tar_sys(u, errno, "looking at the directory");
	u->made_uid = st.st_uid;
	u->made_gid = st.st_gid;
	u->plain = !(top.st_mode & S_ISGID) && fgetxattr(u->c.dirfd, "system.posix_acl_default", NULL, 0) < 0;
	u->weak = geteuid() != 0;
	tar_dir_found(u->root, &top);
	if (u->c.mode == FCTR_UNTAR_LAYER) {
		u->root->flags = TAR_D_IMPLIED | (u->plain ? 0 : TAR_D_UNSURE);
		as_implied(u, u->root);
		u->root->made_mode = top.st_mode & 07777;
	}
	return 0;
}

int tar_dirs_open(struct fctr_untar *u)
{
	(void)!getrandom(&u->seed, sizeof(u->seed), 0);
	u->root = tar_dir_add(u, NULL, "", 0, 0);
	if (!u->root)
		return -1;
	/* Our own, readable one: the caller's may be O_PATH. */
	u->root->fd = openat(u->c.dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (u->root->fd < 0)
		return tar_sys(u, errno, "opening the directory");
	u->c.dirfd = u->root->fd;
	return probe(u);
}

void tar_dirs_close(struct fctr_untar *u)
{
	struct tar_dir *next;

	for (struct tar_dir *d = u->oldest; d; d = next) {
		next = d->newer;
		if (d->fd >= 0)
			close(d->fd);
		tar_xattrs_clear(&d->xattrs);
		free(d);
	}
	free(u->buckets);
	u->oldest = u->newest = u->root = NULL;
	u->buckets = NULL;
}

/* ---- resolving */

/* `name` in `in` is no directory: what it is instead. 1: a link, whose text is in `text`; 0: it was a
 * whiteout, now out of the way, or, without create, anything; -1: an error is set. */
static int not_directory(struct fctr_untar *u, struct tar_dir *in, const char *name, char *text, size_t size,
			 bool create)
{
	int fd = tar_dir_fd(u, in);
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return -1;
	n = readlinkat(fd, name, text, size);
	if (n == (ssize_t)size)
		return tar_bad(u, "the link \"%s\" on the way to it is too long", name);
	if (n >= 0) {
		text[n] = '\0';
		return 1;
	}
	if (!create || (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && tar_is_whiteout(u, &st) &&
			unlinkat(fd, name, 0) == 0))
		return 0;
	return tar_bad(u, "\"%s%s%s\" is not a directory, and is a parent of it", in->path, in->len ? "/" : "", name);
}

static struct tar_dir *make_implied(struct fctr_untar *u, struct tar_dir *in, const char *name, size_t len, bool opaque)
{
	int fd = tar_dir_fd(u, in);
	struct tar_dir *d;

	if (fd < 0)
		return NULL;
	if (mkdirat(fd, name, 0755) < 0) {
		tar_sys(u, errno, "making the directory \"%s\" above it", name);
		return NULL;
	}
	d = tar_dir_add(u, in, name, len, TAR_D_IMPLIED | TAR_D_SEEN | (opaque ? TAR_D_OPAQUE | TAR_D_REPLACES : 0));
	if (d)
		as_implied(u, d);
	return d;
}

struct walk {
	char *rest;		/* what is still to be walked; in one of two buffers */
	size_t left;
	char buf[2][2 * PATH_MAX + 2];
	int which, links;
};

/* One component from `cur`. NULL: an error, or absent. */
static struct tar_dir *step(struct fctr_untar *u, struct walk *w, struct tar_dir *cur, const char *name, size_t len,
			    bool create, bool *absent)
{
	struct tar_dir *d = tar_dir_find(u, cur, name, len);
	char text[PATH_MAX];
	struct stat st;
	int fd, r;

	if (d)
		return d;
	fd = tar_dir_fd(u, cur);
	if (fd < 0)
		return NULL;
	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT && create)
			return make_implied(u, cur, name, len, false);
		*absent = errno == ENOENT;
		if (!*absent)
			tar_sys(u, errno, "looking at \"%s\" above it", name);
		return NULL;
	}
	if (S_ISDIR(st.st_mode)) {
		d = tar_dir_add(u, cur, name, len, 0);
		if (d) {
			tar_dir_found(d, &st);
			tar_dir_unlock(u, d, fd, name);
		}
		return d;
	}
	r = not_directory(u, cur, name, text, sizeof(text), create);
	if (r < 0)
		return NULL;
	if (r == 0 && create)
		return make_implied(u, cur, name, len, true);
	if (r == 0) {
		*absent = true;
		return NULL;
	}
	if (++w->links > MAX_LINKS || strlen(text) + 1 + w->left > sizeof(w->buf[0]) - 1) {
		tar_bad(u, "the links on the way to it never end");
		return NULL;
	}
	w->which = !w->which;
	w->left = (size_t)snprintf(w->buf[w->which], sizeof(w->buf[0]), "%s/%.*s", text, (int)w->left, w->rest);
	w->rest = w->buf[w->which];
	return text[0] == '/' ? u->root : cur;
}

static struct tar_dir *walk(struct fctr_untar *u, struct walk *w, bool create, bool *absent)
{
	struct tar_dir *cur = u->root;

	while (cur && w->left) {
		const char *slash = memchr(w->rest, '/', w->left);
		size_t n = slash ? (size_t)(slash - w->rest) : w->left;
		size_t whole = n + (slash != NULL);
		char name[NAME_MAX + 1];

		if (n > NAME_MAX) {
			tar_bad(u, "a name on the way to it is too long");
			return NULL;
		}
		memcpy(name, w->rest, n);
		name[n] = '\0';
		w->rest += whole;
		w->left -= whole;
		if (n == 0 || strcmp(name, ".") == 0)
			continue;
		if (strcmp(name, "..") == 0) {	/* of a link: names of the archive have none left */
			if (!cur->parent) {
				tar_bad(u, "a link on the way to it leaves the root");
				return NULL;
			}
			cur = cur->parent;
			continue;
		}
		cur = step(u, w, cur, name, n, create, absent);
	}
	return cur;
}

struct tar_dir *tar_resolve(struct fctr_untar *u, const char *path, size_t len, bool create, bool *absent)
{
	struct tar_dir *d;
	struct walk w;

	*absent = false;
	if (len == 0)
		return u->root;
	if (u->last_dir && u->last_parent_len == len && memcmp(u->last_parent, path, len) == 0)
		return u->last_dir;
	w.which = w.links = 0;
	w.rest = w.buf[0];
	w.left = len;
	memcpy(w.buf[0], path, len);
	d = walk(u, &w, create, absent);
	if (d) {
		u->last_dir = d;
		memcpy(u->last_parent, path, len);
		u->last_parent_len = len;
	}
	return d;
}
