/* plan_root.c: the steps that make the template and the instances of a plan.
 *
 * The template is a mount namespace nobody ever runs in: one small tmpfs that holds clones of
 * all the host trees the plan names (/l: rootfs and layers, /m: bind sources, /p and /y: /proc
 * and /sys for a user namespace, which may mount new ones only where it sees old ones). An
 * instance is a copy of it, and so costs the same however many mounts the host has; in it the
 * root is put together at /r and becomes the only thing there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "plan_build.h"

#define LOWER_NAMES (16 * 512)
#define MERGE_MIN 9	/* with fewer layers a look-up costs less than a second overlay does */

/* Become the namespace's root, or whoever is first in it. One that is joined has maps we cannot
 * know: its root, then. */
static void root_ids(struct fctr_build *b, struct fctr_steps *list)
{
	struct fctr_step *s = fctr_step_add(list, FCTR_OP_ROOT_IDS, FCTR_ST_USERNS);

	s->a = b->spec->n_uid_map ? b->spec->uid_map[0].inside : 0;
	s->b = b->spec->n_gid_map ? b->spec->gid_map[0].inside : 0;
}

/* ---- template -------------------------------------------------------------------------- */

/* Clones of the host's trees, and file systems mounted from layers' images. */
static void open_trees(struct fctr_build *b)
{
	struct fctr_plan *p = b->p;
	struct fctr_step *s;

	for (size_t i = 0; i < b->n_trees; i++) {
		struct fctr_tree *tree = &b->trees[i];
		int stage = tree->root ? FCTR_ST_ROOTFS : FCTR_ST_MOUNT;

		s = fctr_step_add(&p->tmpl, tree->image ? FCTR_OP_EROFS : FCTR_OP_OPEN_TREE, stage);
		s->slot = tree->slot;
		s->s1 = fctr_blob_str(p, tree->source);
		s->a = tree->recursive || !p->ctx->config.privileged ? AT_RECURSIVE : 0;
		s->flags = tree->optional ? FCTR_STEP_OPTIONAL : 0;
		s = fctr_step_add(&p->tmpl, FCTR_OP_TREE_ATTR, tree->idmap_slot >= 0 ? FCTR_ST_IDMAP : stage);
		s->slot = tree->slot;
		s->slot2 = (int16_t)tree->idmap_slot;
		s->a = (int64_t)(tree->set | (tree->idmap_slot >= 0 ? MOUNT_ATTR_IDMAP : 0));
		s->b = (int64_t)tree->clr;
		s->c = tree->propagation ? tree->propagation : MS_PRIVATE;
		s->flags = tree->attr_rec ? FCTR_STEP_RECURSIVE : 0;
		s->s1 = fctr_blob_str(p, tree->source);
	}
}

void fctr_build_template_dirs(struct fctr_build *b, const char *names)
{
	fctr_step_add(&b->p->tmpl, FCTR_OP_PRIVATE, FCTR_ST_TEMPLATE);
	fctr_step_add(&b->p->tmpl, FCTR_OP_BASE, FCTR_ST_TEMPLATE);
	for (; *names; names += 2) {
		struct fctr_step *s = fctr_step_add(&b->p->tmpl, FCTR_OP_MKDIR, FCTR_ST_TEMPLATE);

		s->s1 = fctr_blob_str(b->p, names);
		s->a = 0755;
	}
}

void fctr_build_place_trees(struct fctr_build *b, bool layers)
{
	for (size_t i = 0; i < b->n_trees; i++) {
		struct fctr_step *s;

		if (b->merged_slot >= 0 && b->trees[i].root != layers)
			continue;
		s = fctr_step_add(&b->p->tmpl, FCTR_OP_PLACE, FCTR_ST_TEMPLATE);
		s->slot = b->trees[i].slot;
		s->s1 = fctr_blob_str(b->p, b->trees[i].place);
	}
}

static void template_steps(struct fctr_build *b)
{
	struct fctr_plan *p = b->p;
	struct fctr_steps *t = &p->tmpl;
	static const char ro[] = "ro\0\0mode\0" "0555\0nr_inodes\0" "2\0";
	bool privileged = p->ctx->config.privileged, merged = b->merged_slot >= 0;
	struct fctr_step *s;

	fctr_step_add(t, FCTR_OP_NSDIR, FCTR_ST_TEMPLATE)->slot = FCTR_SLOT_NSDIR;
	fctr_step_add(t, FCTR_OP_UMASK, FCTR_ST_TEMPLATE);
	/* Without privilege trees can be cloned only inside the user namespace, where mounts below
	 * them are locked to them; with it they are cloned first, so that idmaps can be set. */
	if (privileged)
		open_trees(b);
	if (privileged && merged) {	/* nor could trusted.overlay.* be read from inside */
		fctr_step_add(t, FCTR_OP_UNSHARE, FCTR_ST_NAMESPACE)->a = CLONE_NEWNS;
		fctr_build_merge(b);
	}
	if (p->has_userns) {
		s = fctr_step_add(t, FCTR_OP_SETNS, FCTR_ST_USERNS);
		s->slot = FCTR_SLOT_USER;
		s->a = CLONE_NEWUSER;
		root_ids(b, t);
	}
	if (p->has_userns || !privileged || !merged)
		fctr_step_add(t, FCTR_OP_UNSHARE, FCTR_ST_NAMESPACE)->a = CLONE_NEWNS;
	if (!privileged) {
		open_trees(b);
		if (merged)
			fctr_build_merge(b);
	}
	fctr_build_template_dirs(b, "l\0m\0s\0r\0");
	if (b->dev_layer)
		fctr_build_dev_layer(b);
	if (b->shared_mask) {
		s = fctr_step_add(t, FCTR_OP_MKDIR, FCTR_ST_TEMPLATE);
		s->s1 = fctr_blob_str(p, "e");
		s->a = 0555;
		s = fctr_step_add(t, FCTR_OP_FSMOUNT, FCTR_ST_MASK);
		s->s1 = fctr_blob_str(p, "tmpfs");
		s->s2 = fctr_blob_str(p, "e");
		s->s3 = fctr_blob_add(p, ro, sizeof(ro));
		s->a = MOUNT_ATTR_RDONLY | NOSUID_NODEV_NOEXEC;
	}
	fctr_build_place_trees(b, false);
	if (merged) {
		s = fctr_step_add(t, FCTR_OP_PLACE, FCTR_ST_TEMPLATE);
		s->slot = b->merged_slot;
		s->s1 = fctr_blob_str(p, "l/0");
	}
	fctr_step_add(t, FCTR_OP_PIVOT, FCTR_ST_TEMPLATE);
	s = fctr_step_add(t, FCTR_OP_NSFD, FCTR_ST_TEMPLATE);
	s->slot = FCTR_SLOT_TEMPLATE;
	s->slot2 = FCTR_SLOT_NSDIR;
	s->s1 = fctr_blob_str(p, "mnt");
}

static int idmap_slot(struct fctr_build *b, int fd, struct fctr_error *err)
{
	struct fctr_plan *p = b->p;
	int *v = realloc(p->idmap_fds, (p->n_idmap_fds + 1) * sizeof(int));

	if (!v)
		abort();
	p->idmap_fds = v;
	v[p->n_idmap_fds] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (v[p->n_idmap_fds] < 0)
		return fctr_fail(err, FCTR_ST_IDMAP, errno, "user namespace of an idmapped mount");
	p->n_idmap_fds++;
	if (p->userns_maps == 0) {	/* a run of slots of their own, reserved at the first */
		p->userns_maps = (int)p->n_slots;
		p->n_slots += 64;
	}
	if (p->n_idmap_fds > 64)
		return fctr_fail(err, FCTR_ST_SPEC, E2BIG, "more than 64 idmapped mounts");
	return p->userns_maps + (int)p->n_idmap_fds - 1;
}

/* ---- instance -------------------------------------------------------------------------- */

static int bind_mount(struct fctr_build *b, size_t i, const struct fctr_mount *m, struct fctr_error *err)
{
	char place[32];
	struct fctr_tree t = {
		.source = m->source, .recursive = m->flags & FCTR_MNT_F_RECURSIVE,
		.optional = m->flags & FCTR_MNT_F_OPTIONAL, .set = m->attr_set, .clr = m->attr_clr,
		.propagation = m->propagation, .attr_rec = m->flags & FCTR_MNT_F_ATTR_REC, .idmap_slot = -1,
	};
	struct fctr_step *s;

	if (m->idmap_fd >= 0) {
		t.idmap_slot = idmap_slot(b, m->idmap_fd, err);
		if (t.idmap_slot < 0)
			return -1;
	}
	snprintf(place, sizeof(place), "m/%zu", i);
	t.place = place;
	fctr_build_tree(b, t);
	snprintf(place, sizeof(place), "/m/%zu", i);
	s = fctr_build_path(b, FCTR_OP_MOVE, FCTR_ST_MOUNT, place);
	s->s2 = fctr_blob_str(b->p, m->target);
	s->flags = (m->flags & FCTR_MNT_F_NOCREATE ? FCTR_STEP_NOCREATE : 0) |
		   (m->flags & FCTR_MNT_F_OPTIONAL ? FCTR_STEP_OPTIONAL : 0);
	return 0;
}

static void file_content(struct fctr_build *b, const char *path, const struct fctr_mount *m)
{
	struct fctr_step *s = fctr_build_path(b, FCTR_OP_FILE, FCTR_ST_FILE, path);

	s->s2 = fctr_blob_add(b->p, m->data, m->n_data);
	s->b = (int64_t)m->n_data;
	s->a = m->mode;
	s->c = (uint64_t)m->uid << 32 | m->gid;
}

/* A directory root is the user's own: a file goes in as a mount from a private tmpfs at /s, so
 * that nothing is written there. First pass, before the root is entered. */
static void stage_files(struct fctr_build *b)
{
	char place[32];
	bool first = true;

	for (size_t i = 0; i < b->spec->n_mounts; i++) {
		const struct fctr_mount *m = &b->spec->mounts[i];
		struct fctr_step *s;

		if (m->kind != FCTR_MNT_FILE)
			continue;
		if (first)
			FCTR_BUILD_MOUNT(b, FCTR_ST_FILE, "tmpfs", "s", "mode\0" "0755\0", NOSUID_NODEV);
		first = false;
		snprintf(place, sizeof(place), "s/f%zu", i);
		file_content(b, place, m);
		s = fctr_build_path(b, FCTR_OP_OPEN_TREE, FCTR_ST_FILE, place);
		s->slot = (int16_t)b->p->n_slots++;
		snprintf(place, sizeof(place), "s/m%zu", i);
		fctr_build_path(b, FCTR_OP_PLACE, FCTR_ST_FILE, place)->slot = s->slot;
	}
}

static int user_mounts(struct fctr_build *b, struct fctr_error *err)
{
	for (size_t i = 0; i < b->spec->n_mounts; i++) {
		const struct fctr_mount *m = &b->spec->mounts[i];
		char options[256], place[32];
		struct fctr_step *s;
		size_t n;

		switch (m->kind) {
		case FCTR_MNT_BIND:
			if (bind_mount(b, i, m, err) < 0)
				return -1;
			break;
		case FCTR_MNT_TMPFS:
			n = fctr_build_tmpfs(options, sizeof(options), m->size, m->mode, m->uid, m->gid);
			fctr_build_mount(b, FCTR_ST_MOUNT, "tmpfs", m->target, options, n, m->attr_set)->c = m->propagation;
			break;
		case FCTR_MNT_MQUEUE:
			fctr_build_mount(b, FCTR_ST_DEV, "mqueue", m->target, "", 0, m->attr_set);
			break;
		case FCTR_MNT_DEVPTS:
			FCTR_BUILD_MOUNT(b, FCTR_ST_DEV, "devpts", m->target, "newinstance\0\0ptmxmode\0" "0666\0mode\0" "0620\0", m->attr_set);
			break;
		case FCTR_MNT_SYSFS:
			if (!b->dev_layer || strcmp(m->target, "/sys") != 0)
				fctr_build_dirs(b, FCTR_ST_SYS, m->target, 0755);
			if (b->p->has_userns && b->spec->ns[FCTR_NS_NET].mode != FCTR_NS_NEW) {
				/* a sysfs wants a network namespace of one's own: the host's, read-only */
				fctr_build_tree(b, (struct fctr_tree){ .source = "/sys", .place = "m/sys", .recursive = true,
							   .set = MOUNT_ATTR_RDONLY, .attr_rec = true, .idmap_slot = -1 });
				fctr_build_path(b, FCTR_OP_MOVE, FCTR_ST_SYS, "/m/sys")->s2 = fctr_blob_str(b->p, m->target);
				break;
			}
			fctr_build_mount(b, FCTR_ST_SYS, "sysfs", m->target, "", 0, m->attr_set)->flags = FCTR_STEP_NOCREATE;
			break;
		case FCTR_MNT_PROC:
			if (!b->dev_layer || strcmp(m->target, "/proc") != 0)
				fctr_build_dirs(b, FCTR_ST_PROC, m->target, 0755);	/* mounted at the start, in its pid namespace */
			break;
		case FCTR_MNT_CGROUP:
			fctr_build_dirs(b, FCTR_ST_CGROUP, m->target, 0755);
			break;
		case FCTR_MNT_SYMLINK:
			s = fctr_build_path(b, FCTR_OP_SYMLINK, FCTR_ST_MOUNT, m->target);
			s->s2 = fctr_blob_str(b->p, m->source);
			s->flags = FCTR_STEP_OPTIONAL;
			break;
		case FCTR_MNT_FILE:
			if (b->spec->rootfs_kind != FCTR_ROOT_DIR) {
				file_content(b, m->target, m);
				break;
			}
			snprintf(place, sizeof(place), "/s/m%zu", i);
			fctr_build_path(b, FCTR_OP_MOVE, FCTR_ST_FILE, place)->s2 = fctr_blob_str(b->p, m->target);
			break;
		}
	}
	return 0;
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static void enter_instance(struct fctr_build *b)
{
	struct fctr_plan *p = b->p;
	const struct fctr_ns *ns = b->spec->ns;
	struct fctr_step *s;
	int64_t fresh = 0;

	fctr_step_add(&p->inst, FCTR_OP_NSDIR, FCTR_ST_NAMESPACE)->slot = FCTR_SLOT_NSDIR;
	fctr_step_add(&p->inst, FCTR_OP_UMASK, FCTR_ST_NAMESPACE);
	if (p->has_userns) {
		s = fctr_step_add(&p->inst, FCTR_OP_SETNS, FCTR_ST_USERNS);
		s->slot = FCTR_SLOT_USER;
		s->a = CLONE_NEWUSER;
		root_ids(b, &p->inst);
	}
	if (ns[FCTR_NS_NET].mode == FCTR_NS_NEW && !p->net_pool) {
		fctr_step_add(&p->inst, FCTR_OP_UNSHARE, FCTR_ST_NETNS)->a = CLONE_NEWNET;
		fctr_step_add(&p->inst, FCTR_OP_LO_UP, FCTR_ST_NETNS);
	} else if (ns[FCTR_NS_NET].mode != FCTR_NS_HOST) {	/* pooled or joined: sysfs shows it */
		s = fctr_step_add(&p->inst, FCTR_OP_SETNS, FCTR_ST_NETNS);
		s->slot = FCTR_SLOT_NET;
		s->a = CLONE_NEWNET;
		if (p->net_pool)
			fctr_step_add(&p->inst, FCTR_OP_NET_HASH, FCTR_ST_NETNS)->s1 =
				fctr_blob_add(p, fctr_net_files, fctr_net_files_len);
	}
	if (ns[FCTR_NS_IPC].mode == FCTR_NS_JOIN) {
		s = fctr_step_add(&p->inst, FCTR_OP_SETNS, FCTR_ST_NAMESPACE);
		s->slot = FCTR_SLOT_IPC;
		s->a = CLONE_NEWIPC;
	}
	if (ns[FCTR_NS_IPC].mode == FCTR_NS_NEW)
		fresh |= CLONE_NEWIPC;
	if (ns[FCTR_NS_UTS].mode == FCTR_NS_NEW)
		fresh |= CLONE_NEWUTS;
	if (fresh)
		fctr_step_add(&p->inst, FCTR_OP_UNSHARE, FCTR_ST_NAMESPACE)->a = fresh;
	if (fresh & CLONE_NEWUTS) {
		if (b->spec->hostname)
			fctr_build_path(b, FCTR_OP_HOSTNAME, FCTR_ST_HOSTNAME, b->spec->hostname);
		if (b->spec->domainname)
			fctr_build_path(b, FCTR_OP_DOMAINNAME, FCTR_ST_HOSTNAME, b->spec->domainname);
	}
	if (p->pid_prepared || p->pivoted)
		fctr_step_add(&p->inst, FCTR_OP_NEW_PIDNS, FCTR_ST_NAMESPACE)->slot = FCTR_SLOT_PIDNS;
	s = fctr_step_add(&p->inst, FCTR_OP_SETNS, FCTR_ST_NAMESPACE);
	s->slot = FCTR_SLOT_TEMPLATE;
	s->a = CLONE_NEWNS;
	fctr_step_add(&p->inst, FCTR_OP_UNSHARE, FCTR_ST_NAMESPACE)->a = CLONE_NEWNS;
}

static void leave_instance(struct fctr_build *b)
{
	static const struct { int kind, slot; const char *name; } out[] = {
		{ FCTR_NS_MNT, FCTR_SLOT_MNT, "mnt" }, { FCTR_NS_IPC, FCTR_SLOT_IPC, "ipc" },
		{ FCTR_NS_UTS, FCTR_SLOT_UTS, "uts" }, { FCTR_NS_NET, FCTR_SLOT_NET, "net" },
	};

	for (size_t i = 0; i < ARRAY_LEN(out); i++) {
		struct fctr_step *s;

		if (b->spec->ns[out[i].kind].mode != FCTR_NS_NEW || (out[i].kind == FCTR_NS_NET && b->p->net_pool))
			continue;
		s = fctr_build_path(b, FCTR_OP_NSFD, FCTR_ST_NAMESPACE, out[i].name);
		s->slot = (int16_t)out[i].slot;
		s->slot2 = FCTR_SLOT_NSDIR;
	}
}

int fctr_compile_root(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err)
{
	struct fctr_build b = { .p = p, .spec = spec, .list = &p->inst, .merged_slot = -1 };
	bool admin = (spec->caps[FCTR_CAP_BOUNDING] | spec->caps[FCTR_CAP_PERMITTED]) & 1ULL << 21;
	struct fctr_step *s;
	int r = -1;

	/* as with Docker, /dev of a read-only root can be written: it is a tmpfs then */
	b.dev_layer = spec->rootfs_kind == FCTR_ROOT_OVERLAY && spec->n_lower && spec->dev && !p->has_userns &&
		      !spec->rootfs_readonly && !spec->upper;
	/* CAP_SYS_ADMIN could make an empty read-only tmpfs writable: then it is not shared */
	b.shared_mask = !p->has_userns && !admin;
	if (fctr_build_root_trees(&b, err) < 0)
		goto out;
	if (spec->rootfs_kind == FCTR_ROOT_OVERLAY && (spec->upper || p->disk_scratch)) {
		char *parent = strdup(spec->upper ? spec->upper : spec->scratch), *cut = strrchr(parent, '/');

		if (spec->upper && cut)
			*(cut == parent ? cut + 1 : cut) = '\0';
		fctr_build_tree(&b, (struct fctr_tree){ .source = parent, .place = "s", .idmap_slot =
			p->has_userns && p->ctx->config.privileged ? FCTR_SLOT_USER : -1 });
		free(parent);
	}
	enter_instance(&b);
	if (spec->rootfs_kind == FCTR_ROOT_DIR) {
		s = fctr_build_path(&b, FCTR_OP_MOVE, FCTR_ST_ROOTFS, "/l/0");
		s->s2 = fctr_blob_str(p, "/r");
		stage_files(&b);
	} else {
		fctr_build_overlay(&b);
	}
	fctr_build_path(&b, FCTR_OP_ROOT, FCTR_ST_ROOTFS, "/r");
	if (spec->dev)
		fctr_build_dev(&b);
	if (user_mounts(&b, err) < 0)
		goto out;
	if (p->pid_prepared)
		fctr_compile_proc_mounts(p, spec, &p->inst, b.shared_mask ? "/e" : "");
	if (spec->cwd_create && spec->cwd)
		fctr_build_dirs(&b, FCTR_ST_CWD, spec->cwd, 0755);
	for (size_t i = 0; i < spec->n_masked; i++)
		if (!is_below(spec->masked[i], "/proc"))
			fctr_build_path(&b, FCTR_OP_MASK, FCTR_ST_MASK, spec->masked[i])->s2 =
				fctr_blob_str(p, b.shared_mask ? "/e" : "");
	for (size_t i = 0; i < spec->n_readonly; i++)
		if (!is_below(spec->readonly[i], "/proc"))
			fctr_build_path(&b, FCTR_OP_RDONLY, FCTR_ST_MASK, spec->readonly[i]);
	if (p->pooled)
		fctr_step_add(&p->inst, FCTR_OP_LOOK_UP, FCTR_ST_ROOTFS);
	if (p->need_user) {
		fctr_build_path(&b, FCTR_OP_KEEP, FCTR_ST_USER, "/etc/passwd")->slot = FCTR_SLOT_PASSWD;
		fctr_build_path(&b, FCTR_OP_KEEP, FCTR_ST_USER, "/etc/group")->slot = FCTR_SLOT_GROUP;
	}
	if (spec->rootfs_readonly || spec->rootfs_propagation) {
		s = fctr_step_add(&p->inst, FCTR_OP_ROOT_ATTR, FCTR_ST_ROOTFS);
		s->a = spec->rootfs_readonly ? MOUNT_ATTR_RDONLY : 0;
		s->c = spec->rootfs_propagation;
	}
	if (p->has_userns) {	/* pivoted at the start, once /proc is there */
		fctr_build_tree(&b, (struct fctr_tree){ .source = "/proc", .place = "p", .recursive = true, .optional = true, .idmap_slot = -1 });
		fctr_build_tree(&b, (struct fctr_tree){ .source = "/sys", .place = "y", .recursive = true, .optional = true, .idmap_slot = -1 });
	}
	/* A zygote's child mounts its own /proc, which the kernel grants only beside another one: not the host's,
	 * which the zygote could look at, but that of a pid namespace where nobody will ever be, below the child's. */
	for (size_t i = 0; p->pivoted && i < spec->n_mounts; i++)
		if (spec->mounts[i].kind == FCTR_MNT_PROC) {
			s = fctr_step_add(&p->inst, FCTR_OP_FSMOUNT, FCTR_ST_PROC);
			s->s1 = fctr_blob_str(p, "proc");
			s->s2 = fctr_blob_str(p, spec->mounts[i].target);
			s->flags = FCTR_STEP_NOCREATE | FCTR_STEP_PIDNS;
		}
	if (!p->has_userns || p->pivoted)
		fctr_step_add(&p->inst, FCTR_OP_PIVOT, FCTR_ST_PIVOT);
	leave_instance(&b);
	template_steps(&b);
	r = 0;
out:
	for (size_t i = 0; i < b.n_trees; i++) {
		free((void *)b.trees[i].source);
		free((void *)b.trees[i].place);
	}
	free(b.trees);
	return r;
}
