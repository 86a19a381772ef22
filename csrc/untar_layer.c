/* untar_layer.c: whiteouts, in overlayfs' form or acted on, and removing what they and later entries replace. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/sysmacros.h>

#include "untar_int.h"

/* ---- MERGE: what this archive has made, by real path */

static uint64_t hash_text(uint64_t seed, const char *p)
{
	uint64_t h = seed;

	while (*p)
		h = (h ^ (unsigned char)*p++) * 0x100000001b3u;
	return h ^ h >> 31;
}

static char **seen_slot(uint64_t seed, char **table, size_t cap, const char *path)
{
	size_t i = hash_text(seed, path) & (cap - 1);

	while (table[i] && strcmp(table[i], path) != 0)
		i = (i + 1) & (cap - 1);
	return &table[i];
}

/* Not inlined: remove_older goes as deep as directories are, and has no room for paths. */
static __attribute__((noinline)) bool seen(const struct fctr_untar *u, const struct tar_dir *in, const char *name)
{
	char path[PATH_MAX + NAME_MAX + 2];

	snprintf(path, sizeof(path), "%s%s%s", in->path, in->len ? "/" : "", name);
	return u->cap_seen && *seen_slot(u->seed, u->seen, u->cap_seen, path);
}

int tar_seen_add(struct fctr_untar *u, struct tar_dir *parent, const char *name)
{
	char path[PATH_MAX + NAME_MAX + 2];
	char **slot;

	for (struct tar_dir *d = parent; d && !(d->flags & TAR_D_SEEN); d = d->parent)
		d->flags |= TAR_D_SEEN;
	if (u->n_seen + 1 > u->cap_seen / 2) {
		size_t cap = u->cap_seen ? u->cap_seen * 2 : 1024;
		char **table = calloc(cap, sizeof(*table));

		if (!table)
			return tar_memory(u);
		for (size_t i = 0; i < u->cap_seen; i++)
			if (u->seen[i])
				*seen_slot(u->seed, table, cap, u->seen[i]) = u->seen[i];
		free(u->seen);
		u->seen = table;
		u->cap_seen = cap;
	}
	snprintf(path, sizeof(path), "%s%s%s", parent->path, parent->len ? "/" : "", name);
	slot = seen_slot(u->seed, u->seen, u->cap_seen, path);
	if (*slot)
		return 0;
	*slot = strdup(path);
	if (!*slot)
		return tar_memory(u);
	u->n_seen++;
	return 0;
}

void tar_seen_clear(struct fctr_untar *u)
{
	for (size_t i = 0; i < u->cap_seen; i++)
		free(u->seen[i]);
	free(u->seen);
	u->seen = NULL;
	u->cap_seen = u->n_seen = 0;
}

/* ---- removing */

static bool dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

#define REMOVE_DEPTH	32	/* levels with a descriptor open */

static DIR *list_of(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *list;

	if (fd < 0 && errno == EACCES && fchmodat(at, name, 0700, 0) == 0)	/* ours, and shut */
		fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	list = fd < 0 ? NULL : fdopendir(fd);
	if (!list)
		fctr_close_fd(&fd);
	return list;
}

static int remove_one(int at, const char *name)
{
	if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno == EACCES && fchmod(at, 0700) == 0 && unlinkat(at, name, 0) == 0)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -1;
	return unlinkat(at, name, AT_REMOVEDIR);
}

static bool not_empty(int errnum)
{
	return errnum == ENOTEMPTY || errnum == EEXIST;
}

/* What is deeper than descriptors are to be had for is moved up to `top` and found there again. */
static int remove_below(int top, int at, const char *name, int depth, unsigned *moved)
{
	DIR *list = list_of(at, name);
	struct dirent *e;
	int r = 0, fd, saved;

	if (!list)
		return -1;
	fd = dirfd(list);
	while (r == 0 && (e = readdir(list))) {
		char aside[32];

		if (dots(e->d_name) || remove_one(fd, e->d_name) == 0)
			continue;
		if (!not_empty(errno)) {
			r = -1;
		} else if (depth < REMOVE_DEPTH) {
			r = remove_below(top < 0 ? fd : top, fd, e->d_name, depth + 1, moved);
		} else {
			snprintf(aside, sizeof(aside), ".fastctr-rm-%u", (*moved)++);
			if (renameat(fd, e->d_name, top, aside) < 0 && !not_empty(errno))
				r = -1;		/* a name that is taken: the next pass has another */
		}
	}
	saved = errno;
	closedir(list);
	errno = saved;
	if (r == 0 && unlinkat(at, name, AT_REMOVEDIR) < 0 && (depth == 0 || !not_empty(errno)))
		r = -1;
	return r;
}

int fctr_remove_tree(int at, const char *name)
{
	unsigned moved = 0, before;

	if (unlinkat(at, name, 0) == 0)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -1;
	do {
		before = moved;
		if (remove_below(-1, at, name, 0, &moved) == 0)
			return 0;
	} while (not_empty(errno) && moved != before);
	return -1;
}

/* MERGE: all in `d` goes that this archive has not made. */
static int remove_older(struct fctr_untar *u, struct tar_dir *d)
{
	int fd = tar_dir_fd(u, d), copy;
	char **names = NULL;
	size_t n = 0, cap = 0;
	struct dirent *e;
	DIR *list;
	int r = 0;

	if (fd < 0)
		return -1;
	copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	list = copy < 0 ? NULL : fdopendir(copy);
	if (!list) {
		fctr_close_fd(&copy);
		return tar_sys(u, errno, "reading the directory \"%s\"", d->path);
	}
	while ((e = readdir(list)) && r == 0) {	/* listed first: descriptors may be closed on the way */
		if (dots(e->d_name))
			continue;
		if (n == cap) {
			size_t more = cap ? cap * 2 : 64;
			char **v = realloc(names, more * sizeof(*v));

			if (!v) {
				r = tar_memory(u);
				break;
			}
			names = v;
			cap = more;
		}
		names[n] = strdup(e->d_name);
		if (!names[n++])
			r = tar_memory(u);
	}
	closedir(list);
	for (size_t i = 0; i < n; i++) {
		struct tar_dir *child = r == 0 ? tar_dir_find(u, d, names[i], strlen(names[i])) : NULL;

		if (r < 0 || (!child && seen(u, d, names[i]))) {
			/* stays */
		} else if (child && child->flags & TAR_D_SEEN) {
			r = remove_older(u, child);
		} else {
			fd = tar_dir_fd(u, d);
			if (fd < 0 || fctr_remove_tree(fd, names[i]) < 0)
				r = fd < 0 ? -1 : tar_sys(u, errno, "removing \"%s\"", names[i]);
			else if (child)
				tar_dir_forget(u, child);
			u->last_dir = NULL;
		}
	}
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return r;
}

/* ---- whiteouts */

bool tar_is_whiteout(struct fctr_untar *u, const struct stat *st)
{
	return u->c.mode == FCTR_UNTAR_LAYER && S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

int tar_hidden_add(struct fctr_untar *u, struct tar_dir *in, const char *name)
{
	size_t size = in->len + strlen(name) + 2;
	struct tar_hidden *h = malloc(sizeof(*h) + size);

	if (!h)
		return tar_memory(u);
	snprintf(h->path, size, "%s%s%s", in->path, in->len ? "/" : "", name);
	h->next = u->hidden;
	u->hidden = h;
	return 0;
}

static int opaque(struct fctr_untar *u, struct tar_dir *d)
{
	u->stats.whiteouts++;
	if (u->c.mode == FCTR_UNTAR_MERGE)
		return remove_older(u, d);
	d->flags |= TAR_D_OPAQUE;
	if (d == u->root)
		u->stats.root_opaque = true;
	return 0;
}

/* A whiteout hides what is below this layer alone, wherever in the archive it stands. */
static int hide(struct fctr_untar *u, struct tar_dir *in, const char *name)
{
	struct tar_dir *d = tar_dir_find(u, in, name, strlen(name));
	int fd = tar_dir_fd(u, in);

	if (fd < 0)
		return -1;
	if (u->c.mode == FCTR_UNTAR_LAYER) {
		if (d) {
			d->flags |= TAR_D_REPLACES;
			return opaque(u, d);
		}
		u->stats.whiteouts++;
		if (mknodat(fd, name, S_IFCHR, makedev(0, 0)) == 0)
			return tar_hidden_add(u, in, name);
		return errno == EEXIST ? 0 : tar_sys(u, errno, "making a whiteout");
	}
	if (d && d->flags & TAR_D_SEEN)
		return opaque(u, d);
	u->stats.whiteouts++;
	if (!d && seen(u, in, name))
		return 0;
	if (fctr_remove_tree(fd, name) < 0 && errno != ENOENT)
		return tar_sys(u, errno, "removing \"%s\"", name);
	if (d)
		tar_dir_forget(u, d);
	u->last_dir = NULL;
	return 0;
}

int tar_whiteout(struct fctr_untar *u, const char *name, bool *taken)
{
	struct tar_entry *e = &u->e;
	struct tar_dir *in;
	bool absent;

	*taken = true;
	if (strncmp(e->path, ".wh..wh.", 8) == 0 && strcmp(e->path, ".wh..wh..opq") != 0)
		return 0;		/* aufs' own, with all below it */
	if (strncmp(name, ".wh.", 4) != 0) {
		*taken = false;
		return 0;
	}
	if (strncmp(name, ".wh..wh.", 8) == 0 && strcmp(name, ".wh..wh..opq") != 0)
		return 0;
	if (name[4] == '\0' || dots(name + 4))
		return tar_bad(u, "a whiteout of nothing that can be");
	in = tar_resolve(u, e->path, e->base ? e->base - 1 : 0, true, &absent);
	if (!in)
		return -1;
	if (u->c.mode == FCTR_UNTAR_MERGE)
		for (struct tar_dir *d = in; d && !(d->flags & TAR_D_SEEN); d = d->parent)
			d->flags |= TAR_D_SEEN;
	return strcmp(name, ".wh..wh..opq") == 0 ? opaque(u, in) : hide(u, in, name + 4);
}
