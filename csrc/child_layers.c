/* child_layers.c: the steps that put layers together. The rules of child.c hold here too: raw system
 * calls only, no libc, no memory but the stack.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mount.h>

#include "child.h"

#define TREE_CLOEXEC 02000000	/* OPEN_TREE_CLOEXEC is O_CLOEXEC */
#define PAGE_OPTIONS 4096	/* what mount(2) takes, its NUL included */
#define STRING_MAX 255		/* what fsconfig(2) takes as one value */

static long make_mount(long fs, uint64_t attrs)
{
	long r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_CREATE, NULL, NULL, 0);

	return r == 0 ? sys3(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attrs) : r;
}

/* From 6.8 on: one layer after the other, as many as overlay takes (500). */
static long overlay_new(struct fctr_run *run, const struct fctr_step *s)
{
	long fs = sys2(SYS_fsopen, "overlay", FSOPEN_CLOEXEC), r = 0;

	if (fs < 0)
		return fs;
	sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "source", "overlay", 0);
	for (const char *lower = STR(run, s->s1); r == 0 && *lower; lower += str_len(lower) + 1)
		r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "lowerdir+", lower, 0);
	if (r == 0 && s->s2)
		r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "upperdir", STR(run, s->s2), 0);
	if (r == 0 && s->s3)
		r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "workdir", STR(run, s->s3), 0);
	if (r == 0 && (s->b & 1))
		r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_FLAG, "userxattr", NULL, 0);
	if (r == 0 && (s->b & 2))	/* thrown away: never write it back to disk */
		r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_FLAG, "volatile", NULL, 0);
	if (r == 0)
		r = make_mount(fs, (uint64_t)s->a);
	raw_close((int)fs);
	return r;
}

struct options { char text[PAGE_OPTIONS]; size_t n; };

static void put(struct options *o, const char *text, bool escape)
{
	for (; *text; text++) {
		if (escape && (*text == ',' || *text == ':' || *text == '\\') && o->n < sizeof(o->text))
			o->text[o->n++] = '\\';
		if (o->n < sizeof(o->text))
			o->text[o->n++] = *text;
	}
}

/* Before: all layers in one option. fsconfig takes 255 bytes of it there, mount(2) a page; the layers'
 * short names in the template ("l/17") leave room for all that overlay takes. */
static long overlay_old(struct fctr_run *run, const struct fctr_step *s)
{
	const char *lower = STR(run, s->s1), *target = s->slot >= 0 ? "r" : "/r";
	struct options o;
	long r;

	o.n = 0;
	put(&o, "lowerdir=", false);
	for (bool first = true; *lower; lower += str_len(lower) + 1, first = false) {
		put(&o, first ? "" : ":", false);
		put(&o, lower, true);
	}
	if (s->s2) {
		put(&o, ",upperdir=", false);
		put(&o, STR(run, s->s2), true);
	}
	if (s->s3) {
		put(&o, ",workdir=", false);
		put(&o, STR(run, s->s3), true);
	}
	put(&o, s->b & 1 ? ",userxattr" : "", false);
	put(&o, s->b & 2 ? ",volatile" : "", false);
	if (o.n == sizeof(o.text))
		return -E2BIG;
	o.text[o.n] = '\0';
	r = sys5(SYS_mount, "overlay", target, "overlay", 0, o.text);
	if (r < 0 || s->slot < 0)
		return r;
	return sys3(SYS_open_tree, AT_FDCWD, target, OPEN_TREE_CLONE | TREE_CLOEXEC);
}

long child_overlay_step(struct fctr_run *run, const struct fctr_step *s)
{
	long fd = overlay_new(run, s), r;

	if (fd == -EINVAL || fd == -EOPNOTSUPP) {
		fd = overlay_old(run, s);
		if (fd < 0 || s->slot < 0)	/* it is where it belongs */
			return fd;
	}
	if (fd < 0)
		return fd;
	if (s->slot >= 0) {
		run->slot[s->slot] = (int)fd;
		return 0;
	}
	r = sys5(SYS_move_mount, fd, "", AT_FDCWD, "/r", MOVE_MOUNT_F_EMPTY_PATH);
	raw_close((int)fd);
	return r;
}

/* "/proc/self/fd/<fd>" */
static void fd_path(char *to, long fd)
{
	static const char dir[] = "/proc/self/fd/";
	char digits[12];
	size_t n = 0, at = 0;

	for (; dir[at]; at++)
		to[at] = dir[at];
	do
		digits[n++] = (char)('0' + fd % 10);
	while (fd /= 10);
	while (n > 0)
		to[at++] = digits[--n];
	to[at] = '\0';
}

/* Straight from its file, without a loop device (Linux 6.12); before, the kernel says ENOTBLK. */
long child_erofs_step(struct fctr_run *run, const struct fctr_step *s)
{
	const char *path = STR(run, s->s1);
	long file = -1, fs = sys2(SYS_fsopen, "erofs", FSOPEN_CLOEXEC), r;
	char name[32];

	if (fs < 0)
		return fs;
	if (str_len(path) > STRING_MAX) {
		file = raw_open(AT_FDCWD, path, O_PATH | O_CLOEXEC);
		if (file < 0) {
			raw_close((int)fs);
			return file;
		}
		fd_path(name, file);
		path = name;
	}
	r = sys5(SYS_fsconfig, fs, FCTR_FSCONFIG_STRING, "source", path, 0);
	if (r == 0)
		r = make_mount(fs, MOUNT_ATTR_RDONLY);
	raw_close((int)file);
	raw_close((int)fs);
	if (r < 0)
		return r;
	run->slot[s->slot] = (int)r;
	return 0;
}
