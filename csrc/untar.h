/* untar.h: unpack a tar stream below a directory. Stands alone beside fctr.h.
 *
 * A push parser: fctr_untar_feed() takes the stream in pieces of any size, never seeks, and makes the
 * entries as their bytes come. It reads V7, ustar, pax, GNU and star archives (pax(1), tar(5)): long
 * names, big numbers, extended attributes, sparse files of all four forms, times to the nanosecond.
 *
 * Where things go. Everything is opened relative to a directory's descriptor and without following
 * symlinks. A parent that is a symlink is followed by hand, below the directory only: an absolute one
 * starts at the directory, and one that would climb out of it is an error. Leading slashes are taken
 * off; a name that climbs out by ".." is an error.
 *
 * What is made. Modes are as in the archive, whatever the umask; owners are shifted by the maps; times,
 * modes and attributes of directories are set at the end, children first. A later entry replaces an
 * earlier one of the same name, with all that is below it; a directory over a directory keeps what is
 * in it. Missing parents are made 0755 and reported ("implied").
 *
 * Whiteouts (OCI image-spec, layer.md). LAYER leaves them as overlayfs wants them: ".wh.name" is a
 * character device 0/0, ".wh..wh..opq" the attribute trusted.overlay.opaque (user.overlay.opaque), and
 * so is the directory that an archive both whites out and makes anew. MERGE acts on them: what was below
 * the directory before this archive goes, what the archive itself has made stays. Other ".wh..wh.*" are
 * passed over.
 *
 * Attributes. trusted.overlay.* and user.overlay.* are never taken from an archive: they could send an
 * overlay mount elsewhere. security.capability and POSIX ACLs are rewritten when ids are shifted. system.*
 * other than ACLs, and security.selinux unless asked for, are left out.
 *
 * A feeding thread must be one at a time. After an error the object is only good to be closed.
 */
#ifndef FCTR_UNTAR_H
#define FCTR_UNTAR_H

#include "fctr.h"

enum fctr_untar_mode { FCTR_UNTAR_LAYER, FCTR_UNTAR_MERGE };
enum fctr_untar_devices { FCTR_UNTAR_DEV_MAKE, FCTR_UNTAR_DEV_SKIP, FCTR_UNTAR_DEV_REFUSE };

struct fctr_untar_config {
	int dirfd;			/* the directory; borrowed until the close */
	int mode;			/* enum fctr_untar_mode */
	int devices;			/* enum fctr_untar_devices: block and character devices */
	bool userxattr;			/* overlay's marks as user.overlay.*, as its mount option wants it */
	bool selinux;			/* take security.selinux too */
	bool need_end;			/* the two zero blocks at the end must be there */
	bool one_owner;			/* everything belongs to owner_uid:owner_gid; the maps are not used */
	uint32_t owner_uid, owner_gid;
	const struct fctr_idrange *uid_map; size_t n_uid_map;	/* inside: in the archive; empty: as it is */
	const struct fctr_idrange *gid_map; size_t n_gid_map;
	uint64_t max_entries;		/* 0: no limit */
	uint64_t max_size;		/* bytes of all files together, and of one with its holes; 0: no limit */
};

enum fctr_untar_fault {
	FCTR_UNTAR_BAD = 1,		/* the archive is damaged or hostile */
	FCTR_UNTAR_LIMIT,		/* it is bigger than allowed */
	FCTR_UNTAR_SYSTEM		/* the kernel refused: err is the errno */
};
struct fctr_untar_error {
	int fault;			/* enum fctr_untar_fault */
	int err;			/* errno, or 0 */
	char entry[512];		/* the entry's name, cut; empty when none was being read */
	char why[256];			/* a half-sentence about it */
};

struct fctr_untar_stats {
	uint64_t entries;		/* everything that was made, whiteouts among them */
	uint64_t size;			/* bytes of regular files' content, holes not counted */
	uint64_t whiteouts;
	uint64_t skipped_devices;
	uint64_t skipped_xattrs;	/* the filesystem or the user's rights do not allow them */
	bool root_opaque;		/* an opaque mark at the top: overlayfs does not heed it there */
	bool root_seen;			/* the archive has an entry for the directory itself */
};

struct fctr_untar;

int fctr_untar_open(const struct fctr_untar_config *config, struct fctr_untar **out, struct fctr_untar_error *err);

/* Tell that every feed and the finish will come from the calling thread, which is given a umask of its
 * own (unshare(2) CLONE_FS): one chmod less for every file. For a thread that ends afterwards. */
void fctr_untar_own_thread(struct fctr_untar *u);

int fctr_untar_feed(struct fctr_untar *u, const void *buf, size_t len, struct fctr_untar_error *err);

/* The stream is over: check that, link what was missing its target, set what directories get last. */
int fctr_untar_finish(struct fctr_untar *u, struct fctr_untar_error *err);

void fctr_untar_stats(const struct fctr_untar *u, struct fctr_untar_stats *out);

/* After the finish, one by one until NULL. Implied directories, parents first: paths below the directory. */
const char *fctr_untar_implied(struct fctr_untar *u);
/* Hard links whose target is not in this archive (LAYER; an error with MERGE). */
const char *fctr_untar_missing(struct fctr_untar *u, const char **target);

/* LAYER: the whiteouts that were made; something may have taken their place since. */
const char *fctr_untar_whiteout(struct fctr_untar *u);

void fctr_untar_close(struct fctr_untar *u);

/* Remove what is called `name` in the directory `at`, and all below it, however deep. 0, or -1 with errno. */
int fctr_remove_tree(int at, const char *name);

#endif
