/* plan_build.h: what the files that compile a root share. Internal to plan_*.c. */
#ifndef FCTR_PLAN_BUILD_H
#define FCTR_PLAN_BUILD_H

#include "core.h"
#include "syscalls.h"

#define NOSUID_NODEV (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
#define NOSUID_NODEV_NOEXEC (NOSUID_NODEV | MOUNT_ATTR_NOEXEC)

struct fctr_tree {			/* a host tree for the template; source and place are copied in */
	const char *source, *place;
	bool recursive, optional;
	bool root, image;		/* of the root; source is an EROFS image */
	uint64_t set, clr, propagation;
	bool attr_rec;
	int idmap_slot;
	int16_t slot;
};
struct fctr_build {
	struct fctr_plan *p;
	const struct fctr_spec *spec;
	struct fctr_tree *trees;
	size_t n_trees, cap;
	struct fctr_steps *list;	/* where fctr_build_path() adds */
	const char *dev;		/* where /dev is put together: "/dev", or in the device layer */
	bool dev_layer, shared_mask;
	int16_t merged_slot;		/* the root's layers as one overlay, or -1 */
	bool merge_paths;		/* made of the host's paths, not of clones */
};

void fctr_build_tree(struct fctr_build *b, struct fctr_tree t);
struct fctr_step *fctr_build_path(struct fctr_build *b, int op, int stage, const char *path);
void fctr_build_dirs(struct fctr_build *b, int stage, const char *path, int mode);
struct fctr_step *fctr_build_mount(struct fctr_build *b, int stage, const char *type, const char *target,
				   const char *options, size_t len, uint64_t attrs);
#define FCTR_BUILD_MOUNT(b, stage, type, target, options, attrs) \
	fctr_build_mount(b, stage, type, target, options, sizeof(options), attrs)	/* the literal's NUL ends the list */
size_t fctr_build_tmpfs(char *buf, size_t room, int64_t size, uint32_t mode, uint32_t uid, uint32_t gid);

/* plan_root.c */
void fctr_build_template_dirs(struct fctr_build *b, const char *names);	/* of one letter; "l\0r\0" */
void fctr_build_place_trees(struct fctr_build *b, bool layers);		/* merged layers, or all the others */

/* plan_layers.c */
int fctr_build_root_trees(struct fctr_build *b, struct fctr_error *err);
void fctr_build_merge(struct fctr_build *b);
void fctr_build_overlay(struct fctr_build *b);

/* plan_dev.c */
void fctr_build_dev(struct fctr_build *b);
void fctr_build_dev_layer(struct fctr_build *b);

#endif
