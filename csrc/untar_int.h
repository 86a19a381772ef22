/* untar_int.h: what the files of the tar reader share. Included by untar*.c alone. */
#ifndef FCTR_UNTAR_INT_H
#define FCTR_UNTAR_INT_H

#include <limits.h>
#include <sys/stat.h>

#include "untar.h"
#include "util.h"

#define TAR_BLOCK	512
#define TAR_META_MAX	(4u << 20)	/* one extended header */
#define TAR_PATH_MAX	(PATH_MAX - 1)
#define TAR_OPEN_DIRS	48		/* descriptors of directories kept */
#define TAR_SEGMENTS	(4u << 20)	/* of one sparse file */

struct tar_str { char *p; size_t len; };	/* p is NUL-terminated and ours */

struct tar_xattr { char *name; char *value; size_t len; };
struct tar_xattrs { struct tar_xattr *v; size_t n, cap; };

struct tar_segment { uint64_t at, len; };

/* What extended headers have said. One for the next entry, one for all that follow. */
struct tar_pax {
	bool has_size, has_uid, has_gid, has_mtime, has_atime;
	bool sparse;			/* any GNU.sparse.* but version 1.0's */
	bool sparse_1_0;
	bool has_real;
	struct tar_str path, link, sparse_name;
	uint64_t size, real_size;
	uint32_t uid, gid;
	struct timespec mtime, atime;
	int major, minor;
	struct tar_xattrs xattrs;
	struct tar_segment *map; size_t n_map, cap_map;
	bool half;			/* an offset has come, its length not yet */
};

/* The entry being read: strings point into the header or a tar_pax. */
struct tar_entry {
	char type;			/* '0' … '6' */
	bool sparse, sparse_in_data;
	char path[PATH_MAX];		/* normalised: no leading or trailing slash; "" is the top */
	size_t path_len;
	size_t base;			/* where the last component begins */
	char link[PATH_MAX];		/* symlink: as it is; hard link: normalised */
	size_t link_len;
	uint32_t mode, uid, gid;
	uint32_t major, minor;
	uint64_t size;			/* bytes that follow the header */
	uint64_t real_size;
	struct timespec mtime, atime;
	struct tar_xattrs xattrs;	/* filtered and rewritten */
	struct tar_segment *map; size_t n_map;	/* borrowed from the tar_pax */
};

/* A directory below the target, by its real path. */
struct tar_dir {
	struct tar_dir *parent, *child, *prev, *next;	/* tree: siblings are a list */
	struct tar_dir *newer, *older;			/* all, in order of making */
	struct tar_dir *lru_prev, *lru_next;		/* those whose fd is open */
	struct tar_dir *chain;				/* hash */
	uint64_t hash;
	int fd;
	unsigned flags;
	uint32_t made_mode, mode, uid, gid;
	struct timespec mtime, atime;
	struct tar_xattrs xattrs;
	size_t len, base;				/* of path; where the last component begins */
	char path[];
};
#define TAR_D_IMPLIED	1u	/* no entry of its own so far */
#define TAR_D_FOUND	2u	/* was there before this archive */
#define TAR_D_ENTRY	4u	/* has metadata from its entry */
#define TAR_D_OPAQUE	8u
#define TAR_D_SEEN	16u	/* MERGE: made or touched by this archive */
#define TAR_D_REPLACES	64u	/* what is below this layer at its place was whited out: nothing to take over */
#define TAR_D_UNSURE	32u	/* what is made in it may get another group, mode or ACL than asked for */

struct tar_missing { struct tar_missing *next; char *target; char path[]; };
struct tar_hidden { struct tar_hidden *next; char path[]; };

enum tar_state { TAR_HEADER, TAR_META, TAR_SPARSE_EXT, TAR_SPARSE_MAP, TAR_DATA, TAR_SKIP, TAR_ZEROS, TAR_FAILED,
	TAR_FINISHED };

struct fctr_untar {
	struct fctr_untar_config c;
	struct fctr_idrange *maps;	/* our copy of both */
	struct fctr_untar_stats stats;
	struct fctr_untar_error *err;	/* of the call under way */

	int state;
	unsigned char block[TAR_BLOCK];	/* a header in pieces */
	size_t have;
	int zero_blocks;
	uint64_t left, skip;		/* bytes of the entry's content; of padding or unwanted content */

	char meta_type;			/* 'x', 'g', 'L', 'K' */
	char *meta; size_t meta_len, meta_size, meta_cap;
	struct tar_pax pax, global;
	struct tar_str long_name, long_link;
	uint64_t map_left, map_number;	/* sparse 1.0: numbers to come (0: their count), the one being read */
	bool map_counted, map_digits;

	struct tar_entry e;
	char name[512];			/* for messages: as the archive spells it */
	int fd;				/* the file being written */
	bool made_unsure;		/* in a TAR_D_UNSURE directory */
	size_t segment;			/* sparse: the one being written, and how much of it is */
	uint64_t segment_done;

	/* what creating gives */
	uint32_t made_uid, made_gid;
	bool umask_known;		/* modes given to open and mkdir are those that come out */
	bool plain;			/* the target gives nothing else: no ACL, no setgid */
	bool weak;			/* not root: closed directories are opened for the time being */

	struct tar_dir *root, **buckets;
	size_t n_buckets, n_dirs;
	uint64_t seed;			/* of the hashes: nobody can make names that collide */
	struct tar_dir *newest, *oldest, *lru_first, *lru_last;
	size_t n_open;
	struct tar_dir *last_dir;	/* what the parent's path last stood for, until something is replaced */
	char last_parent[PATH_MAX]; size_t last_parent_len;

	char **seen; size_t n_seen, cap_seen;	/* MERGE: real paths of this archive's files */

	struct tar_missing *missing, **missing_end, *missing_at;
	struct tar_dir *implied_at;
	bool implied_begun, missing_begun, hidden_begun;
	struct tar_hidden *hidden, *hidden_at;
};

/* ---- untar.c */
__attribute__((format(printf, 2, 3)))
int tar_bad(struct fctr_untar *u, const char *fmt, ...);		/* the archive's fault; returns -1 */
__attribute__((format(printf, 3, 4)))
int tar_sys(struct fctr_untar *u, int errnum, const char *fmt, ...);	/* the kernel's answer; returns -1 */
int tar_memory(struct fctr_untar *u);

/* ---- untar_header.c */
int tar_header(struct fctr_untar *u, const unsigned char *h);	/* sets u->state and what goes with it */
int tar_sparse_ext(struct fctr_untar *u, const unsigned char *h);
int tar_entry_known(struct fctr_untar *u);	/* all headers and maps are read: make it */
uint64_t tar_padding(uint64_t size);
int tar_number(const unsigned char *field, size_t size, int64_t *out);	/* 0 or -1 */
int tar_add_segment(struct fctr_untar *u, struct tar_pax *p, uint64_t at, uint64_t len);
int tar_normalise(struct fctr_untar *u, const char *from, size_t len, char *to, size_t *to_len, const char *what);

/* ---- untar_pax.c */
int tar_pax_parse(struct fctr_untar *u, struct tar_pax *p, char *data, size_t len, bool global);
void tar_pax_clear(struct tar_pax *p);
int tar_str_set(struct fctr_untar *u, struct tar_str *s, const char *p, size_t len);
void tar_str_clear(struct tar_str *s);

/* ---- untar_xattr.c */
int tar_xattr_add(struct fctr_untar *u, struct tar_xattrs *x, const char *name, size_t name_len, const char *value,
		  size_t len);
int tar_xattr_base64(struct fctr_untar *u, struct tar_xattrs *x, const char *name, size_t name_len,
		     const char *text, size_t len);
void tar_xattrs_clear(struct tar_xattrs *x);
int tar_xattrs_take(struct fctr_untar *u);	/* those of pax and global that may be set, into the entry */
int tar_xattrs_set(struct fctr_untar *u, const struct tar_xattrs *x, int fd);
int tar_xattrs_set_at(struct fctr_untar *u, const struct tar_xattrs *x, int dirfd, const char *name);
int tar_xattrs_drop(struct fctr_untar *u, int fd);	/* a directory's from before, but for overlay's */
int tar_opaque_set(struct fctr_untar *u, int fd);
int tar_shift(struct fctr_untar *u, bool group, uint32_t id, uint32_t *out);	/* 0, or -1 when not mapped */

/* ---- untar_dirs.c */
int tar_dirs_open(struct fctr_untar *u);
void tar_dirs_close(struct fctr_untar *u);
int tar_dir_fd(struct fctr_untar *u, struct tar_dir *d);	/* good until the next call; or -1 with the error set */
struct tar_dir *tar_dir_find(struct fctr_untar *u, const struct tar_dir *parent, const char *name, size_t len);
struct tar_dir *tar_dir_add(struct fctr_untar *u, struct tar_dir *parent, const char *name, size_t len, unsigned flags);
void tar_dir_found(struct tar_dir *d, const struct stat *st);
void tar_dir_unlock(struct fctr_untar *u, struct tar_dir *d, int parent_fd, const char *name);
void tar_dir_forget(struct fctr_untar *u, struct tar_dir *d);	/* and all below it */
/* The directory that the first len bytes of path are, made if need be and `create`; NULL: an error is set,
 * or, without create, there is none (*absent). */
struct tar_dir *tar_resolve(struct fctr_untar *u, const char *path, size_t len, bool create, bool *absent);

/* ---- untar_make.c */
int tar_make(struct fctr_untar *u);			/* the entry; a regular file stays open in u->fd */
int tar_write(struct fctr_untar *u, const char *p, size_t len);
int tar_file_done(struct fctr_untar *u);
int tar_clear_way(struct fctr_untar *u, struct tar_dir *parent, const char *name, bool *was_whiteout);
int tar_relink(struct fctr_untar *u);			/* missing targets that came later */
int tar_dirs_done(struct fctr_untar *u);

/* ---- untar_layer.c */
int tar_whiteout(struct fctr_untar *u, const char *name, bool *taken);	/* a ".wh." entry, by its last component */
bool tar_is_whiteout(struct fctr_untar *u, const struct stat *st);
int tar_seen_add(struct fctr_untar *u, struct tar_dir *parent, const char *name);
int tar_hidden_add(struct fctr_untar *u, struct tar_dir *in, const char *name);
void tar_seen_clear(struct fctr_untar *u);

#endif
