/* plan_dev.c: the steps that make /dev, and the small helpers that all of a root's steps are made with. */
#define _GNU_SOURCE
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "plan_build.h"

void fctr_build_tree(struct fctr_build *b, struct fctr_tree t)
{
	if (b->n_trees == b->cap) {
		b->cap = b->cap ? b->cap * 2 : 16;
		b->trees = realloc(b->trees, b->cap * sizeof(t));
		if (!b->trees)
			abort();
	}
	t.slot = (int16_t)b->p->n_slots++;
	t.source = strdup(t.source);
	t.place = strdup(t.place);
	if (!t.source || !t.place)
		abort();
	b->trees[b->n_trees++] = t;
}

struct fctr_step *fctr_build_mount(struct fctr_build *b, int stage, const char *type, const char *target,
				  const char *options, size_t len, uint64_t attrs)
{
	struct fctr_step *s = fctr_step_add(&b->p->inst, FCTR_OP_FSMOUNT, stage);

	s->s1 = fctr_blob_str(b->p, type);
	s->s2 = fctr_blob_str(b->p, target);
	s->s3 = len ? fctr_blob_add(b->p, options, len) : 0;
	s->a = (int64_t)attrs;
	return s;
}

struct fctr_step *fctr_build_path(struct fctr_build *b, int op, int stage, const char *path)
{
	struct fctr_step *s = fctr_step_add(b->list, op, stage);

	s->s1 = fctr_blob_str(b->p, path);
	return s;
}

void fctr_build_dirs(struct fctr_build *b, int stage, const char *path, int mode)
{
	fctr_build_path(b, FCTR_OP_MKDIRS, stage, path)->a = mode;
}

size_t fctr_build_tmpfs(char *buf, size_t room, int64_t size, uint32_t mode, uint32_t uid, uint32_t gid)
{
	size_t n = 0;

#define OPT(key, fmt, value) do { \
		n += (size_t)snprintf(buf + n, room - n, key) + 1; \
		n += (size_t)snprintf(buf + n, room - n, fmt, value) + 1; \
	} while (0)
	OPT("mode", "%04o", mode & 07777);
	if (size >= 0)
		OPT("size", "%lld", (long long)size);
	if (uid)
		OPT("uid", "%u", uid);
	if (gid)
		OPT("gid", "%u", gid);
#undef OPT
	buf[n++] = '\0';
	return n;
}

/* ---- /dev --------------------------------------------------------------------------- */

static const char *in_dev(struct fctr_build *b, char *buf, size_t size, const char *name)
{
	snprintf(buf, size, "%s/%s", b->dev, name);
	return buf;
}

static void device_nodes(struct fctr_build *b)
{
	static const struct { const char *name; unsigned major, minor; } nodes[] = {
		{ "null", 1, 3 }, { "zero", 1, 5 }, { "full", 1, 7 },
		{ "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 },
	};
	char path[64], place[64];

	for (size_t i = 0; i < ARRAY_LEN(nodes); i++) {
		struct fctr_step *s;

		in_dev(b, path, sizeof(path), nodes[i].name);
		if (!b->p->has_userns) {
			s = fctr_build_path(b, FCTR_OP_MKNOD, FCTR_ST_DEV, path);
			s->a = S_IFCHR | 0666;
			s->b = (int64_t)makedev(nodes[i].major, nodes[i].minor);
			continue;
		}
		/* no nodes are made in a user namespace: the host's are bound */
		snprintf(place, sizeof(place), "m/d%zu", i);
		fctr_build_tree(b, (struct fctr_tree){ .source = path, .place = place, .idmap_slot = -1 });
		snprintf(place, sizeof(place), "/m/d%zu", i);
		s = fctr_build_path(b, FCTR_OP_MOVE, FCTR_ST_DEV, place);
		s->s2 = fctr_blob_str(b->p, path);
	}
}

/* Nodes, links and directories; what is mounted in /dev comes after, in fctr_build_dev(). */
static void fill_dev(struct fctr_build *b)
{
	static const struct { const char *name, *text; } links[] = {
		{ "fd", "/proc/self/fd" }, { "stdin", "/proc/self/fd/0" },
		{ "stdout", "/proc/self/fd/1" }, { "stderr", "/proc/self/fd/2" },
		{ "core", "/proc/kcore" }, { "ptmx", "pts/ptmx" },
	};
	char path[64];

	device_nodes(b);
	for (size_t i = 0; i < ARRAY_LEN(links); i++)
		fctr_build_path(b, FCTR_OP_SYMLINK, FCTR_ST_DEV, in_dev(b, path, sizeof(path), links[i].name))->s2 =
			fctr_blob_str(b->p, links[i].text);
}

/* With an overlay for a root, the nodes can lie in a layer of their own, made once with the
 * template: nothing is to be made for each container, and what it changes is in its upperdir. */
void fctr_build_dev_layer(struct fctr_build *b)
{
	static const struct { const char *path; int mode; } dirs[] = {
		{ "d", 0755 }, { "d/proc", 0755 }, { "d/sys", 0755 }, { "d/dev", 0755 },
		{ "d/dev/pts", 0755 }, { "d/dev/shm", 01777 }, { "d/dev/mqueue", 01777 },
	};

	b->list = &b->p->tmpl;
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		fctr_build_path(b, FCTR_OP_MKDIR, FCTR_ST_DEV, dirs[i].path)->a = dirs[i].mode;
	fctr_build_path(b, FCTR_OP_OPAQUE, FCTR_ST_DEV, "d/dev");
	b->dev = "d/dev";
	fill_dev(b);
	b->list = &b->p->inst;
}

static void given_devices(struct fctr_build *b)
{
	for (size_t i = 0; i < b->spec->n_devices; i++) {
		const struct fctr_device *d = &b->spec->devices[i];
		struct fctr_step *s = fctr_build_path(b, FCTR_OP_MKNOD, FCTR_ST_DEV, d->path);

		s->a = (d->type == 'b' ? S_IFBLK : d->type == 'p' ? S_IFIFO : S_IFCHR) | (d->mode & 07777);
		s->b = (int64_t)makedev(d->major, d->minor);
		s->c = (uint64_t)d->uid << 32 | d->gid;
	}
}

void fctr_build_dev(struct fctr_build *b)
{
	const struct fctr_spec *spec = b->spec;
	char options[128];
	size_t n;
	bool gid5 = !b->p->has_userns;

	for (size_t i = 0; i < spec->n_gid_map; i++)
		if (spec->gid_map[i].inside <= 5 && 5 - spec->gid_map[i].inside < spec->gid_map[i].count)
			gid5 = true;
	if (!b->dev_layer) {
		fctr_build_dirs(b, FCTR_ST_DEV, "/dev", 0755);
		FCTR_BUILD_MOUNT(b, FCTR_ST_DEV, "tmpfs", "/dev", "mode\0" "0755\0size\0" "65536k\0", MOUNT_ATTR_NOSUID)->flags =
			FCTR_STEP_NOCREATE;
		b->dev = "/dev";
		fill_dev(b);
	}
	if (gid5)
		FCTR_BUILD_MOUNT(b, FCTR_ST_DEV, "devpts", "/dev/pts", "newinstance\0\0ptmxmode\0" "0666\0mode\0" "0620\0gid\0" "5\0",
			 MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	else
		FCTR_BUILD_MOUNT(b, FCTR_ST_DEV, "devpts", "/dev/pts", "newinstance\0\0ptmxmode\0" "0666\0mode\0" "0620\0",
			 MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	b->p->has_devpts = true;
	if (spec->shm_size) {
		n = fctr_build_tmpfs(options, sizeof(options), spec->shm_size, 01777, 0, 0);
		fctr_build_mount(b, FCTR_ST_DEV, "tmpfs", "/dev/shm", options, n, NOSUID_NODEV_NOEXEC);
	}
	given_devices(b);
}
