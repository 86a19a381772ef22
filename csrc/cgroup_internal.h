/* cgroup_internal.h: what the cgroup*.c files share. Nobody else includes it. */
#ifndef FCTR_CGROUP_INTERNAL_H
#define FCTR_CGROUP_INTERNAL_H

#include <pthread.h>

#include "cgroup.h"
#include "util.h"

enum fctr_cgctl {
	CT_CPU, CT_CPUACCT, CT_CPUSET, CT_MEMORY, CT_PIDS, CT_IO, CT_HUGETLB, CT_DEVICES, CT_FREEZER,
	CT_COUNT
};
#define CT_BIT(c) (1u << (c))

/* v2: kept on for the figures they give; the others are switched on by the first limit of theirs. */
#define CT_V2_ALWAYS	(CT_BIT(CT_MEMORY) | CT_BIT(CT_PIDS) | CT_BIT(CT_IO))
#define CT_V2_ALL	(CT_V2_ALWAYS | CT_BIT(CT_CPU) | CT_BIT(CT_CPUSET) | CT_BIT(CT_HUGETLB))
/* v1: a job is always in these, for its figures and so that it can be listed and killed. */
#define CT_V1_ALWAYS	(CT_BIT(CT_CPUACCT) | CT_BIT(CT_MEMORY) | CT_BIT(CT_PIDS))

#define CG_MAX_HIER	10	/* one for each controller, and v2 */
#define CG_NAME_MAX	200
#define CG_PATH_MAX	(CG_NAME_MAX + 72)	/* "<group>/<file>" */
#define CG_SELF_LEAF	"fastctr-self"
#define CG_OWN_PLACE	"fastctr"

struct fctr_cghier {
	bool v2;
	unsigned ctls;		/* v1: mounted together here; v2: what our groups can have */
	char *mount, *mount_root;	/* mountinfo: mount point, and what of the hierarchy it shows */
	int mount_fd;
	int owner_fd;		/* -1 until first needed; set once, under the root's lock */
	unsigned enabled;	/* v2: in the owner's subtree_control; under the lock */
	int first_made;		/* component of place from which on we made them, or INT_MAX */
};

struct fctr_cgmap {		/* what is mounted */
	int mode, n, v2;	/* v2: index into hier, or -1 */
	struct fctr_cghier hier[CG_MAX_HIER];
};

/* Figures whose files stay open from the first reading on (an open costs three times a read), as
 * long as the root has not kept too many: the pool's groups, read after every job, do profit. */
enum fctr_cgstat {
	SF_CPU, SF_CPU_USER, SF_CPU_SYS, SF_MEMORY, SF_MEMORY_PEAK, SF_OOM, SF_PIDS, SF_PIDS_PEAK, SF_IO,
	SF_CPU_PRESSURE, SF_MEMORY_PRESSURE, SF_IO_PRESSURE, SF_COUNT
};
#define CG_MAX_KEPT 256

struct fctr_devprog;

struct fctr_cgroot {
	struct fctr_cgmap map;
	int where[CT_COUNT];	/* index into map.hier, or -1; constant once open */
	char *place, *owner;	/* place: no slash at either end */
	bool place_ours;	/* ends in our default name: removed when empty */
	int kept;		/* figures' descriptors; atomic */
	int64_t above_seen;	/* when above_limited was found out, ns; both atomic */
	bool above_limited;
	pthread_mutex_t lock;	/* owner_fd, enabled, progs */
	struct fctr_devprog *progs;
};

struct fctr_cgroup {
	struct fctr_cgroot *root;
	unsigned made;		/* bits of map.hier in which the directory exists */
	int fds[CG_MAX_HIER];	/* v1: its tasks file; v2: the directory; -1 closed */
	int stat_fds[SF_COUNT];
	int peak_fd;		/* v2: memory.peak, reset by recycle for this descriptor only */
	bool frozen, changed;	/* changed: not as it was created, so not to be recycled */
	bool shut;		/* v1 kill left pids.max at 0 */
	int64_t memory_max, memsw_max, cpu_burst, pids_max;	/* as last written */
	struct fctr_usage base;	/* cumulative figures at the last recycle */
	size_t name_len;	/* of "<name>/" */
	char name[CG_NAME_MAX + 2];
};

static inline bool is_set(int64_t v) { return v != FCTR_UNSET; }

/* cgroup_find.c */
extern const char *const fctr_cg_v1_names[CT_COUNT];
int fctr_cg_map(struct fctr_cgmap *map, struct fctr_error *err);
void fctr_cg_unmap(struct fctr_cgmap *map);
unsigned fctr_cg_controllers(int dirfd, const char *file);	/* v2: a list of names as bits */
int fctr_cg_default_place(const struct fctr_cgmap *map, char *out, size_t size, bool *delegated,
			  struct fctr_error *err);

/* cgroup_root.c */
int fctr_cg_ready(struct fctr_cgroot *root, int h, struct fctr_error *err);	/* owner_fd, or -1 */
int fctr_cg_v2_enable_owner(struct fctr_cgroot *root, unsigned want, struct fctr_error *err);

/* cgroup.c: files of one group */
int fctr_cg_write(struct fctr_cgroup *cg, int h, const char *file, const char *text);
ssize_t fctr_cg_read(struct fctr_cgroup *cg, int h, const char *file, char *buf, size_t size);
int64_t fctr_cg_num(struct fctr_cgroup *cg, int h, const char *file);	/* FCTR_UNSET; -1 for "max" */
ssize_t fctr_cg_stat_text(struct fctr_cgroup *cg, int h, int which, const char *file, char *buf, size_t size);
int64_t fctr_cg_stat_num(struct fctr_cgroup *cg, int h, int which, const char *file);
void fctr_cg_stat_close(struct fctr_cgroup *cg, int which);
int64_t fctr_cg_key(const char *text, const char *key);	/* "key 12" or "key=12" in lines; FCTR_UNSET */
/* Write one limit (-1 as max_word) and fill err with its name when refused. */
int fctr_cg_set(struct fctr_cgroup *cg, int h, const char *limit, const char *file, int64_t v,
		const char *max_word, struct fctr_error *err);
int fctr_cg_set_text(struct fctr_cgroup *cg, int h, const char *limit, const char *file,
		     const char *text, struct fctr_error *err);
int fctr_cg_add(struct fctr_cgroup *cg, int h, struct fctr_error *err);	/* mkdir in one hierarchy */
int fctr_cg_add_living(struct fctr_cgroup *cg, int h, struct fctr_error *err);	/* … and move its processes there */
int fctr_cg_open_dir(struct fctr_cgroup *cg, int h);
int fctr_cg_source(const struct fctr_cgroup *cg);	/* the hierarchy to list processes in */

/* cgroup_check.c */
unsigned fctr_cg_needs(const struct fctr_limits *l);	/* controllers that these limits ask for */
const char *fctr_cg_weight_file(int owner_fd, bool v2, bool device);	/* NULL: none */
int64_t fctr_cg_shares(const struct fctr_limits *l);	/* v1 scale, FCTR_UNSET */
int64_t fctr_cg_weight(const struct fctr_limits *l);	/* v2 scale, FCTR_UNSET */
int64_t fctr_cg_blkio_weight(int64_t weight);

/* cgroup_procs.c */
struct fctr_cgpids {
	pid_t *pid; size_t n, cap;
	size_t hidden;		/* processes that our pid namespace does not show */
	bool own_only;		/* in: not of the groups below */
};
int fctr_cg_list(int dirfd, struct fctr_cgpids *out);	/* with groups below; sorted, unique; -1 errno */
bool fctr_cg_has(const struct fctr_cgpids *list, pid_t pid);
struct fctr_cgkill { int fd; bool v2, pids, freezer; };
int fctr_cg_kill_dirs(const struct fctr_cgkill *dirs, size_t n, int deadline_ms);	/* 0 were empty, 1, -1 errno */
int fctr_cg_move_all(int from, int to, bool own_only, int deadline_ms);	/* 0 or -1 errno */
int fctr_cg_wait_event(int dirfd, const char *key, int64_t value, int deadline_ms);	/* v2; 0 or -1 errno */
int fctr_cg_rmtree(int parent, const char *name, int budget_ms);	/* 0 or -1 errno; kills nothing */
bool fctr_cg_has_children(int parent, const char *name);
int64_t fctr_cg_now_ms(void);
void fctr_cg_sleep_us(long us);

/* cgroup_v1.c, cgroup_v2.c: each deals with the limits whose controllers are on its side */
int fctr_cg1_limit(struct fctr_cgroup *cg, const struct fctr_limits *l, struct fctr_error *err);
void fctr_cg1_usage(struct fctr_cgroup *cg, struct fctr_usage *u, bool all);
void fctr_cg1_share_cpu(struct fctr_usage *u);
int fctr_cg1_recycle(struct fctr_cgroup *cg);
int fctr_cg1_populate_cpuset(int parent, int dir, const char *cpus, const char *mems);	/* 0 or -1 errno */
int fctr_cg2_limit(struct fctr_cgroup *cg, const struct fctr_limits *l, struct fctr_error *err);
void fctr_cg2_usage(struct fctr_cgroup *cg, struct fctr_usage *u);
int fctr_cg2_recycle(struct fctr_cgroup *cg, bool tenant);
unsigned fctr_cg2_enable(int dirfd, unsigned want);	/* what is enabled afterwards */

/* cgroup_dev.c */
int fctr_cg_dev_v1(struct fctr_cgroup *cg, int h, const struct fctr_devrule *rules, size_t n,
		   struct fctr_error *err);
int fctr_cg_dev_v2(struct fctr_cgroot *root, int dirfd, const struct fctr_devrule *rules, size_t n,
		   struct fctr_error *err);
int fctr_cg_dev_v2_check(struct fctr_error *err);
void fctr_cg_dev_free(struct fctr_cgroot *root);

#endif
