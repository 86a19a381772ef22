/* core.h: the parent side's own structures. Internal to libfctr. */
#ifndef FCTR_CORE_H
#define FCTR_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "cgroup.h"
#include "fctr.h"
#include "plan.h"
#include "user.h"
#include "util.h"

#define FCTR_STACK_SIZE (64 * 1024)	/* one for a child, one for a second child */

/* A list of steps of one plan. */
struct fctr_steps { struct fctr_step *v; uint32_t n, cap; };

struct fctr_park;

struct fctr_source {		/* something on the host an instance was made from */
	const char *path;
	dev_t dev;
	ino_t ino;
};

/* A network namespace made beforehand, fresh or proven equal to fresh. */
struct fctr_netns {
	int fd;
	uint64_t hash;
	bool used;
	struct fctr_netns *next;
};

enum fctr_mode { FCTR_MODE_DIRECT, FCTR_MODE_TWO_STEP, FCTR_MODE_STUB };

struct fctr_plan {
	struct fctr_ctx *ctx;
	atomic_int refs;
	pthread_mutex_t lock;		/* warm, groups, template, sources, counters below */
	struct fctr_steps tmpl, inst, start;
	char *blob; size_t blob_len, blob_cap;
	int mode;
	bool own_mnt, has_userns, net_pool, pooled, need_user, has_cgroup, pid_private, init;
	bool time_fork;			/* a new time namespace is entered by a fork (before Linux 6.3) */
	bool group_missing;		/* there was none to be had, and nothing needed it */
	bool pid_prepared;		/* the pid namespace and its /proc are made beforehand */
	bool share_files;		/* the start opens nothing, so it may share the descriptor table */
	bool parks;			/* a prepared container may have its process already: park.c */
	int64_t park_after;		/* ns, CLOCK_MONOTONIC: not before that */
	uint32_t park_at;		/* the start's steps before the process is put to sleep */
	bool has_devpts, disk_scratch, closed;
	bool tenant;			/* its containers are used again, once verified: slot.c */
	bool slot_fine;			/* … the kernel tells the times of changes apart */
	bool slot_pids;			/* … and pid namespaces with their /proc are made ahead for their jobs */
	uint32_t slot_places;		/* tenant: what may be written, a list of paths in the blob */
	uint32_t slot_sysctls;		/* path and value in turn */
	struct fctr_steps slot_proc;	/* what masks a job's /proc */
	bool keeps;			/* a keeper may start its jobs: keep.c */
	struct fctr_steps keep, keep_job;	/* what makes a keeper; what is left for each of its jobs */
	uint32_t keep_own;		/* so many of the latter are for the keeper itself */
	int slots_out, slots_dirty;
	bool zygote, pivoted;		/* a zygote's; its instances have nothing of the host's in their mounts */
	uint64_t clone_flags;		/* namespaces made by clone itself */
	int ns_fd[FCTR_NS_COUNT];	/* joined ones, and the user namespace made */
	int userns_maps;		/* idmaps of binds: descriptors in slots after the trees */
	int *idmap_fds; size_t n_idmap_fds;
	uint32_t n_slots;
	uint32_t uid, gid, *groups; size_t n_groups; bool groups_given;
	uint32_t root_uid, root_gid;	/* of the user namespace: who makes files in it */
	char *user;
	void *seccomp; uint16_t seccomp_len; unsigned seccomp_flags;
	char *scratch, *upper;
	struct fctr_limits limits;	/* deep copy; strings in limit_mem */
	void **limit_mem; size_t n_limit_mem;
	struct fctr_devrule *devrules; size_t n_devrules;
	struct fctr_cgroot *cgroot;
	struct fctr_source *sources; size_t n_sources;
	bool mount_sensitive;		/* made from recursive binds: the host's mount table matters */
	unsigned mount_gen;
	unsigned tmpl_gen;		/* raised when the template is given up: what was made from it is old */
	int tmpl_fd;			/* template mount namespace, -1 not made yet */

	struct fctr_instance *warm; int n_warm, target, preparing;
	int held;			/* target even when nobody uses it: fctr_plan_hold() */
	struct fctr_cgroup *groups_free[32]; int n_groups_free;
	char last_exec[128];		/* the path of the command started last, if it fits */
	int64_t last_used;		/* ns, CLOCK_MONOTONIC */
	struct fctr_plan *next;		/* in the context */
};

/* Everything of one container that is made before its process. */
struct fctr_instance {
	struct fctr_plan *plan;
	int mnt, ipc, uts, pidns, upper_lock;
	struct fctr_netns *net;
	int net_fd;			/* one made for this instance alone (user namespace), or -1 */
	struct fctr_cgroup *cg;
	struct fctr_park *park;		/* its process, asleep; NULL none */
	struct fctr_tenant *slot;		/* tenant: what it looked like before its first job */
	int upper;			/* tenant: where the root's changes go, or -1 */
	bool slot_out;			/* tenant: in use */
	int64_t slot_since;		/* tenant: when it was taken */
	struct fctr_keeper *keeper;	/* tenant: who starts its jobs; NULL none */
	int cgroupns;			/* tenant: its jobs' cgroup namespace, or -1 */
	int slot_empty, slot_proc, slot_old, slot_grave, slot_at;	/* tenant: see fctr_slot in plan.h; or -1 */
	int zombie;			/* pidfd of its ended process, still to be reaped; -1 none */
	unsigned tmpl_gen;
	pthread_mutex_t cg_lock;	/* once the container is known to several threads */
	bool want_refill;		/* ask for another once the start is over */
	bool was_warm;			/* made before its start */
	bool own_user;			/* this launch has one in place of the plan's: */
	struct fctr_user launch_user;
	bool cg_dirty;			/* limits changed by the launch or later: not for reuse as it is */
	char *stack;
	char scratch_name[24];
	struct fctr_user user;
	struct fctr_instance *next;
};

struct fctr_container {
	struct fctr_plan *plan;
	struct fctr_instance *inst;	/* NULL for an exec */
	struct fctr_container *host;	/* exec: whose groups and namespaces; keeps its struct alive */
	atomic_int refs;
	struct fctr_lanes *lanes;	/* keepers for commands in it; NULL: they go through the stub */
	bool kept;			/* started by one */
	pid_t pid;
	int pidfd, status_fd, master;
	bool ended, frozen, releasing;
	bool warm;			/* its instance was there before the start */
	bool reap_later, zombie;	/* with its instance: see reap() in instance.c */
	pid_t pinned;			/* thread held on one processor while it waits for a short job; 0 none */
	uint64_t pinned_from[16]; long pinned_len;
	struct fctr_container *next_live, **at_live;	/* from its start to the end of its release */
	bool reaped;			/* by the background, see fctr_ctx_watch(): code and ru are known */
	struct rusage ru;
	struct fctr_container *next_watched;
	struct fctr_exit exit;
	int64_t t_start, t_spawned, t_exit;
	struct fctr_timings timings;
};

struct fctr_cgroot_entry { char *parent; struct fctr_cgroot *root; struct fctr_cgroot_entry *next; };

struct fctr_ctx {
	struct fctr_config config;
	char *runtime_dir, *owner;
	int lock_fd, null_fd, owner_pidfd, mountinfo_fd, pidns_fd, oom_fd, wake_fd;
	bool can_prepare_pid;
	pid_t pid;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	pthread_t thread;
	bool thread_started, stop, busy, asleep;	/* asleep: wake it by wake_fd */
	unsigned mount_gen;
	atomic_uint serial;
	int cred_changes, dumpable;	/* children on shared memory, in flight; our own before them */
	struct fctr_plan *plans;
	struct fctr_instance *dead; int n_dead;		/* to be torn down */
	struct fctr_plan *refill[64]; int n_refill;
	struct fctr_launch_request *requests;
	struct fctr_container *watched, *live;
	int launching;
	int targets, targets_max;	/* what all plans are to keep warm by themselves: descriptors are few */
	bool closing, abandoned;	/* abandoned: somebody did not let go, so nothing is freed any more */
	struct fctr_netns *nets; int n_nets;
	char *stacks[40]; int n_stacks;
	struct fctr_cgroot_entry *cgroots;
	struct fctr_counters counters;
};

int64_t fctr_now(void);

/* plan.c */
void fctr_plan_ref(struct fctr_plan *plan);
bool fctr_plan_tryref(struct fctr_plan *plan);
void fctr_plan_unref(struct fctr_plan *plan);
uint32_t fctr_blob_add(struct fctr_plan *p, const void *data, size_t len);
uint32_t fctr_blob_str(struct fctr_plan *p, const char *s);
bool fctr_kernel_has(int major, int minor);
const char *fctr_layer_image(const char *lower);	/* the file of "erofs:/file", or NULL */
struct fctr_step *fctr_step_add(struct fctr_steps *list, int op, int stage);

/* plan_root.c, plan_proc.c: the parts of compiling */
int fctr_compile_root(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err);
int fctr_compile_process(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err);
void fctr_compile_proc_mounts(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_steps *list,
			      const char *empty_dir);	/* to mask directories with; "" makes one each time */
/* instance.c */
bool fctr_probe_pidns(struct fctr_ctx *ctx);

/* helper.c: run steps in a child that shares memory and descriptors, and wait for it */
int fctr_helper(struct fctr_ctx *ctx, const struct fctr_steps *steps, const char *blob, int *slot,
		const struct fctr_params *params, char *stack, struct fctr_result *result,
		struct fctr_error *err);
void fctr_step_error(struct fctr_error *err, const struct fctr_steps *steps, const char *blob,
		     const struct fctr_result *result);
char *fctr_stack_get(struct fctr_ctx *ctx);
void fctr_stack_put(struct fctr_ctx *ctx, char *stack);
void fctr_move_high(int *fd);
void fctr_before_creds(struct fctr_ctx *ctx);
void fctr_after_creds(struct fctr_ctx *ctx);
struct fctr_sigs { uint64_t mask; };
void fctr_block_signals(struct fctr_sigs *saved);
void fctr_restore_signals(const struct fctr_sigs *saved);

/* netns.c */
extern const char fctr_net_files[];	/* what NET_HASH reads */
extern const size_t fctr_net_files_len;
struct fctr_netns *fctr_netns_get(struct fctr_ctx *ctx, char *stack, struct fctr_error *err);
void fctr_netns_put(struct fctr_ctx *ctx, struct fctr_netns *net);	/* keep for reuse, or drop */
void fctr_netns_drop(struct fctr_netns *net);

/* instance.c */
struct fctr_instance *fctr_instance_take(struct fctr_plan *plan, bool fresh, struct fctr_error *err);
struct fctr_instance *fctr_instance_make(struct fctr_plan *plan, struct fctr_error *err);
void fctr_instance_teardown(struct fctr_instance *inst, bool reuse);
void fctr_plan_drop_warm(struct fctr_plan *plan);
void fctr_plan_want(struct fctr_plan *p, int n);	/* with the plan's lock: at least n are to be kept warm */
void fctr_plan_no_target(struct fctr_plan *p);	/* with the plan's lock: nothing is to be kept warm */
bool fctr_plan_has_unparked(const struct fctr_plan *p);
struct fctr_instance *fctr_instance_unparked(struct fctr_plan *p);	/* with the lock: one of the warm, taken out */
bool fctr_instance_keep(struct fctr_instance *inst);	/* with the plan's lock: among its warm ones */
int fctr_instance_pty(struct fctr_instance *inst, bool console, char *stack, int *master, int *slave,
		      struct fctr_error *err);

/* ctx.c */
void fctr_ctx_bury(struct fctr_ctx *ctx, struct fctr_instance *inst);	/* tear down in the background */
void fctr_ctx_want_refill(struct fctr_ctx *ctx, struct fctr_plan *plan);
void fctr_ctx_settle(struct fctr_ctx *ctx);	/* wait till the background has nothing to do */
unsigned fctr_ctx_mount_generation(struct fctr_ctx *ctx);
int fctr_no_group(const struct fctr_plan *plan, int stage, struct fctr_error *err);
int fctr_ctx_cgroot(struct fctr_ctx *ctx, const char *parent, struct fctr_cgroot **out, struct fctr_error *err);
int fctr_rmtree(int dirfd, const char *name);
bool fctr_ctx_start_thread(struct fctr_ctx *ctx);	/* with the lock held */

/* owners.c */
int fctr_owner_tag(const char *runtime_dir, char *out, size_t size);
int fctr_owner_lock(int dir, const char *name);	/* make our file and lock it: a descriptor, or -1 errno */

/* slot.c */
int fctr_slot_places(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err);
int fctr_slot_open(struct fctr_instance *inst, struct fctr_error *err);	/* once it is made */
bool fctr_slot_give(struct fctr_instance *inst);	/* after a job: true if it is clean, and its plan's again */
void fctr_slot_close(struct fctr_instance *inst);
void fctr_slot_lost(struct fctr_instance *inst);	/* its keeper is gone: so is what it may have started */
void fctr_slot_forked(struct fctr_instance *inst);

/* keep.c */
struct fctr_keeper;
void fctr_compile_keeper(struct fctr_plan *p, const struct fctr_spec *spec);
int fctr_keeper_start(struct fctr_plan *p, int *slot, uint32_t n_tasks, int into, char *stack,
		      struct fctr_keeper **out, struct fctr_error *err);
void fctr_keeper_end(struct fctr_keeper *k);
void fctr_keeper_forked(struct fctr_keeper *k);
bool fctr_keeper_lives(const struct fctr_keeper *k);
struct fctr_lanes;
struct fctr_keeper *fctr_lane_take(struct fctr_container *c, struct fctr_plan *p, char *stack, struct fctr_error *err);
void fctr_lane_put(struct fctr_container *c, struct fctr_keeper *k, bool fit);
void fctr_lanes_end(struct fctr_container *c);	/* the last reference to the container frees them */
int fctr_keeper_launch(struct fctr_keeper *k, const struct fctr_instance *inst, const int *slot, int into,
		       const struct fctr_params *params, struct fctr_result *result, struct fctr_container *c,
		       struct fctr_error *err);

/* watch.c */
void fctr_ctx_wake(struct fctr_ctx *ctx);		/* with the lock held */
bool fctr_ctx_sleep(struct fctr_ctx *ctx, int timeout_ms);
void fctr_ctx_watch(struct fctr_ctx *ctx, struct fctr_container *c);
void fctr_ctx_unwatch(struct fctr_ctx *ctx, struct fctr_container *c);
bool fctr_ctx_enter(struct fctr_ctx *ctx);		/* a launch begins; false: the context closes */
void fctr_ctx_started(struct fctr_ctx *ctx, struct fctr_container *c);	/* its end; c: NULL if it failed */
void fctr_ctx_gone(struct fctr_ctx *ctx, struct fctr_container *c);
void fctr_ctx_end_all(struct fctr_ctx *ctx);

/* container.c */
void fctr_unpin(struct fctr_container *c);
void fctr_container_unref(struct fctr_container *c);
bool fctr_reap(struct fctr_container *c);	/* with the context's lock */

/* inside.c: what one launch asks of its container's root */
int fctr_inside_prepare(struct fctr_instance *inst, const struct fctr_launch *launch, struct fctr_error *err);
#define FCTR_GROUPS_MAX 256
void fctr_identity(const struct fctr_plan *p, const struct fctr_instance *inst, uint32_t groups[FCTR_GROUPS_MAX],
		   struct fctr_params *params);

/* stub_job.c: a launch in a sealed memfd; slots and params as they are to be found in there */
int fctr_job_make(const struct fctr_plan *plan, const struct fctr_step *steps, uint32_t n_steps, const int *slot,
		  const struct fctr_params *params, struct fctr_error *err);
/* The same launch through the static stub, which gets the plan in a memfd. On success
 * pid and pidfd are the job's, and it has exec'ed (or, with an init, the init has started it). */
int fctr_stub_launch(struct fctr_plan *plan, int *slot, const struct fctr_params *params, int cgroup_fd,
		     int stub_fd, char *stack, int report_r, int *report_w, pid_t *pid, int *pidfd,
		     struct fctr_error *err);

#endif
