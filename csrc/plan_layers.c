/* plan_layers.c: the root's layers: as clones in the template, merged there, and below an instance's
 * writable layer.
 */
#define _GNU_SOURCE
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include "plan_build.h"

#define LOWER_NAMES (16 * 512)
#define MERGE_MIN 9	/* with fewer layers a look-up costs no more than a second overlay does */

/* ---- template -------------------------------------------------------------------------- */

static size_t lower_names(char *to, size_t room, const char *format, size_t count)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		n += (size_t)snprintf(to + n, room - n, format, i) + 1;
	to[n++] = '\0';
	return n;
}

/* Overlay takes two levels of itself: layers that lie on one already are left unmerged. */
static bool on_overlay(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 && fs.f_type == OVERLAYFS_SUPER_MAGIC;
}

/* From 6.8 on directories can be given to overlay as they are, one by one: nothing to clone and place. */
static bool by_paths(const struct fctr_spec *spec)
{
	if (!fctr_kernel_has(6, 8))
		return false;
	for (size_t i = 0; i < spec->n_lower; i++)
		if (fctr_layer_image(spec->lower[i]) || strlen(spec->lower[i]) > 255)
			return false;
	return true;
}

static int decide_merge(struct fctr_build *b, bool shifted, struct fctr_error *err)
{
	const struct fctr_spec *spec = b->spec;
	const char *image = fctr_layer_image(spec->n_lower ? spec->lower[0] : "");

	if (!spec->lower_fixed || spec->n_lower < 2 || (!shifted && spec->n_lower < MERGE_MIN))
		return 0;
	if (!on_overlay(image ? image : spec->lower[0])) {
		b->merged_slot = (int16_t)b->p->n_slots++;
		b->merge_paths = !shifted && by_paths(spec);
		return 0;
	}
	if (shifted)
		return fctr_fail(err, FCTR_ST_OVERLAY, EINVAL, "layers on an overlay file system cannot be shown to a user "
				 "namespace: %.120s", spec->lower[0]);
	return 0;
}

int fctr_build_root_trees(struct fctr_build *b, struct fctr_error *err)
{
	const struct fctr_spec *spec = b->spec;
	/* the root's files belong to the container's ids; only privilege can arrange that */
	bool idmap = b->p->has_userns && b->p->ctx->config.privileged;
	struct fctr_tree t = { .idmap_slot = idmap ? FCTR_SLOT_USER : -1, .root = true };

	if (spec->rootfs_kind == FCTR_ROOT_DIR) {
		t.source = spec->rootfs;
		t.place = "l/0";
		t.recursive = !idmap;	/* what is mounted below may not be idmappable */
		fctr_build_tree(b, t);
		return 0;
	}
	if (decide_merge(b, idmap, err) < 0)
		return -1;
	for (size_t i = 0; i < spec->n_lower && !b->merge_paths; i++) {
		const char *image = fctr_layer_image(spec->lower[i]);
		char place[32];

		snprintf(place, sizeof(place), "l/%zu", i);
		t.source = image ? image : spec->lower[i];
		t.image = image != NULL;
		t.place = place;
		fctr_build_tree(b, t);
	}
	return 0;
}

/* Layers that never change are made one overlay in the template, where a name is looked up in all of
 * them once a plan and not once a container. Where they have to be placed for that, it is on a tmpfs
 * that then goes: the overlay has its own hold of them, and an instance no copies of their mounts. */
void fctr_build_merge(struct fctr_build *b)
{
	struct fctr_plan *p = b->p;
	char lowers[LOWER_NAMES];
	struct fctr_step *s;
	uint32_t names;

	if (b->merge_paths) {
		names = fctr_blob_str(p, b->spec->lower[0]);
		for (size_t i = 1; i < b->spec->n_lower; i++)
			fctr_blob_str(p, b->spec->lower[i]);
		fctr_blob_add(p, "", 1);
	} else {
		fctr_build_template_dirs(b, "l\0r\0");
		fctr_build_place_trees(b, true);
		names = fctr_blob_add(p, lowers, lower_names(lowers, sizeof(lowers), "l/%zu", b->spec->n_lower));
	}
	s = fctr_step_add(&p->tmpl, FCTR_OP_OVERLAY, FCTR_ST_OVERLAY);
	s->s1 = names;
	s->slot = b->merged_slot;
	s->b = p->ctx->config.privileged ? 0 : 1;
	if (!b->merge_paths)
		fctr_step_add(&p->tmpl, FCTR_OP_UNMOUNT, FCTR_ST_TEMPLATE)->s1 = fctr_blob_str(p, "/");
}

/* ---- instance -------------------------------------------------------------------------- */

void fctr_build_overlay(struct fctr_build *b)
{
	struct fctr_plan *p = b->p;
	const struct fctr_spec *spec = b->spec;
	char options[128], lowers[LOWER_NAMES];
	size_t n = 0, n_lower = b->merged_slot >= 0 ? 1 : spec->n_lower;
	struct fctr_step *s;

	if (spec->n_lower == 0) {	/* nothing below: an empty root, filled by mounts */
		n = fctr_build_tmpfs(options, sizeof(options), spec->scratch_size, 0755, 0, 0);
		fctr_build_mount(b, FCTR_ST_ROOTFS, "tmpfs", "r", options, n, MOUNT_ATTR_NOSUID);
		return;
	}
	if (spec->upper) {	/* its parent lies at /s: upper and work must share one mount */
		const char *base = strrchr(spec->upper, '/');

		fctr_build_path(b, FCTR_OP_CHDIR, FCTR_ST_OVERLAY, "/s");
		base = base ? base + 1 : spec->upper;
		snprintf(options, sizeof(options), "%.100s.work", base);
		n = lower_names(lowers, sizeof(lowers), "/l/%zu", n_lower);
		s = fctr_step_add(&p->inst, FCTR_OP_OVERLAY, FCTR_ST_OVERLAY);
		s->s1 = fctr_blob_add(p, lowers, n);
		s->s2 = fctr_blob_str(p, base);
		s->s3 = fctr_blob_str(p, options);
		s->b = p->has_userns || !p->ctx->config.privileged ? 1 : 0;	/* trusted.* cannot be written from inside */
		fctr_build_path(b, FCTR_OP_CHDIR, FCTR_ST_OVERLAY, "/");
		return;
	}
	if (!p->disk_scratch) {
		n = fctr_build_tmpfs(options, sizeof(options), spec->scratch_size, 0755, 0, 0);
		fctr_build_mount(b, FCTR_ST_OVERLAY, "tmpfs", "s", options, n, MOUNT_ATTR_NOSUID);
		fctr_build_path(b, FCTR_OP_CHDIR, FCTR_ST_OVERLAY, "/s");
		fctr_build_path(b, FCTR_OP_MKDIR, FCTR_ST_OVERLAY, "u")->a = 0755;
		fctr_build_path(b, FCTR_OP_MKDIR, FCTR_ST_OVERLAY, "w")->a = 0755;
		if (p->tenant)
			fctr_build_path(b, FCTR_OP_KEEP, FCTR_ST_OVERLAY, "u")->slot = FCTR_SLOT_UPPER;
	} else {
		fctr_build_path(b, FCTR_OP_CHDIR, FCTR_ST_OVERLAY, "/s");
		fctr_step_add(&p->inst, FCTR_OP_CWD, FCTR_ST_OVERLAY);	/* into this instance's own */
	}
	n = 0;
	if (b->dev_layer)
		n = (size_t)snprintf(lowers, sizeof(lowers), "/d") + 1;
	n += lower_names(lowers + n, sizeof(lowers) - n, "/l/%zu", n_lower);
	s = fctr_step_add(&p->inst, FCTR_OP_OVERLAY, FCTR_ST_OVERLAY);
	s->s1 = fctr_blob_add(p, lowers, n);
	s->s2 = fctr_blob_str(p, "u");
	s->s3 = fctr_blob_str(p, "w");
	s->b = (p->has_userns ? 1 : 0) | (p->disk_scratch ? 2 : 0);
	fctr_build_path(b, FCTR_OP_CHDIR, FCTR_ST_OVERLAY, "/");
}
