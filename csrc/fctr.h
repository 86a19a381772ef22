/* fctr.h: the one public header of libfctr.
 *
 * A spec (plain data, filled by the caller) is compiled once into a plan: one flat arena of
 * steps and strings. A plan is launched any number of times. Conventions:
 *   - functions return 0 or a descriptor on success, -1 on failure with *err filled;
 *     err is untouched on success. Nothing prints, nothing is global.
 *   - every descriptor handed out is O_CLOEXEC.
 *   - a count comes before or after its array as n_name; NULL with 0 is an empty list.
 */
#ifndef FCTR_H
#define FCTR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors -------------------------------------------------------------------------- */

/* Where a start can fail. Names by fctr_stage_name(); the list in error.c follows this one. */
enum fctr_stage {
	FCTR_ST_NONE,
	FCTR_ST_SPEC,		/* the spec contradicts itself */
	FCTR_ST_MEMORY,		/* our own allocation */
	FCTR_ST_USERNS, FCTR_ST_IDMAP,
	FCTR_ST_NETNS, FCTR_ST_NAMESPACE, FCTR_ST_TIMENS,
	FCTR_ST_TEMPLATE,	/* the plan's template mount namespace */
	FCTR_ST_ROOTFS, FCTR_ST_OVERLAY, FCTR_ST_MOUNT, FCTR_ST_DEV, FCTR_ST_PROC, FCTR_ST_SYS,
	FCTR_ST_MASK, FCTR_ST_FILE, FCTR_ST_PIVOT,
	FCTR_ST_CGROUP, FCTR_ST_LIMIT, FCTR_ST_CGROUP_JOIN,
	FCTR_ST_CLONE, FCTR_ST_HOSTNAME, FCTR_ST_SYSCTL, FCTR_ST_RLIMIT, FCTR_ST_OOM, FCTR_ST_NICE,
	FCTR_ST_AFFINITY, FCTR_ST_LABEL, FCTR_ST_USER, FCTR_ST_GROUPS, FCTR_ST_CAPS, FCTR_ST_NNP,
	FCTR_ST_SECCOMP, FCTR_ST_STDIO, FCTR_ST_FDS, FCTR_ST_CWD, FCTR_ST_EXEC, FCTR_ST_INIT,
	FCTR_ST_JOIN, FCTR_ST_WAIT, FCTR_ST_STATS, FCTR_ST_FREEZE, FCTR_ST_KILL, FCTR_ST_OUTPUTS,
	FCTR_ST_COUNT
};

struct fctr_error {
	int stage;		/* enum fctr_stage */
	int index;		/* step of the plan, or -1 */
	int err;		/* errno, or 0 where there is none */
	char what[256];		/* the path, key or name it is about; may be empty */
};

const char *fctr_stage_name(int stage);

/* ---- limits and figures -------------------------------------------------------------- */

#define FCTR_UNSET INT64_MIN

struct fctr_iolimit {		/* one block device; FCTR_UNSET leaves a figure alone */
	uint32_t major, minor;
	int64_t rbps, wbps, riops, wiops, weight;
};
struct fctr_hugelimit { const char *size; int64_t bytes; };	/* size as "2MB", "1GB" */
struct fctr_devrule {		/* in order, later ones win; an empty list means no device policy */
	bool allow;
	char type;		/* 'b', 'c' or 'a' */
	int64_t major, minor;	/* -1 any */
	uint8_t access;		/* 1 read, 2 write, 4 mknod */
};
struct fctr_kv { const char *key, *value; };

/* -1 in a *_max means "max" (no limit, written as such); FCTR_UNSET means not touched. */
struct fctr_limits {
	int64_t cpu_quota_us, cpu_period_us, cpu_burst_us;
	int64_t cpu_weight;	/* v2 scale 1..10000; v1 shares are derived from it */
	int64_t cpu_shares;	/* v1 scale 2..262144; v2 weight is derived from it */
	int64_t cpu_idle;	/* 0 or 1 */
	const char *cpuset_cpus, *cpuset_mems;
	int64_t memory_max, memory_soft;
	int64_t memory_swap_max;	/* memory+swap, as Docker's --memory-swap; -1 unlimited */
	int64_t memory_swappiness;	/* v1 only */
	int64_t pids_max;
	int64_t io_weight;	/* 1..10000 (v2 scale); v1 10..1000 derived */
	const struct fctr_iolimit *io; size_t n_io;
	const struct fctr_hugelimit *huge; size_t n_huge;
	const struct fctr_kv *unified; size_t n_unified;	/* raw v2 file -> text */
};

/* FCTR_UNSET where the kernel or the cgroup mode cannot tell. Times in µs, sizes in bytes. */
struct fctr_usage {
	int64_t cpu_user_us, cpu_system_us, cpu_total_us;
	int64_t nr_throttled, throttled_us;
	int64_t memory_current, memory_peak, memory_limit;
	int64_t oom_kills;
	int64_t pids_current, pids_peak;
	int64_t io_read_bytes, io_write_bytes, io_reads, io_writes;
	int64_t cpu_pressure_us, memory_pressure_us, io_pressure_us;	/* PSI "some" totals */
};

/* ---- the spec ------------------------------------------------------------------------ */

enum fctr_ns_kind {
	FCTR_NS_MNT, FCTR_NS_PID, FCTR_NS_NET, FCTR_NS_IPC, FCTR_NS_UTS, FCTR_NS_CGROUP,
	FCTR_NS_USER, FCTR_NS_TIME, FCTR_NS_COUNT
};
enum fctr_ns_mode { FCTR_NS_HOST, FCTR_NS_NEW, FCTR_NS_JOIN };
struct fctr_ns { int mode; int fd; };	/* fd: JOIN only; the plan keeps a duplicate */

struct fctr_idrange { uint32_t inside, outside, count; };

enum fctr_rootfs_kind { FCTR_ROOT_NONE, FCTR_ROOT_DIR, FCTR_ROOT_OVERLAY };

enum fctr_mount_kind {
	FCTR_MNT_BIND, FCTR_MNT_TMPFS, FCTR_MNT_PROC, FCTR_MNT_SYSFS, FCTR_MNT_MQUEUE,
	FCTR_MNT_DEVPTS, FCTR_MNT_CGROUP, FCTR_MNT_FILE, FCTR_MNT_SYMLINK
};
#define FCTR_MNT_F_RECURSIVE	1u	/* bind: bring submounts along */
#define FCTR_MNT_F_ATTR_REC	2u	/* apply attrs to submounts too */
#define FCTR_MNT_F_OPTIONAL	4u	/* a missing source is not an error */
#define FCTR_MNT_F_NOCREATE	8u	/* do not make the target */
struct fctr_mount {
	int kind;
	unsigned flags;
	const char *source;	/* bind: host path; symlink: its text; cgroup: v1 controllers, NULL for v2 */
	const char *target;	/* absolute, inside the root */
	uint64_t attr_set, attr_clr;	/* MOUNT_ATTR_* */
	uint64_t propagation;	/* MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE (never MS_REC), or 0 */
	int64_t size;		/* tmpfs: bytes, -1 the kernel's default */
	uint32_t mode;		/* tmpfs and file: permission bits */
	uint32_t uid, gid;	/* tmpfs and file: owner inside the container */
	int idmap_fd;		/* bind: user namespace to idmap by, or -1 */
	const void *data; size_t n_data;	/* file: content */
};

struct fctr_device {
	const char *path;	/* inside, as "/dev/fuse" */
	char type;		/* 'b', 'c', 'p' */
	uint32_t major, minor, mode, uid, gid;
};
struct fctr_rlimit { int resource; uint64_t soft, hard; };

enum fctr_capset { FCTR_CAP_BOUNDING, FCTR_CAP_EFFECTIVE, FCTR_CAP_PERMITTED, FCTR_CAP_INHERITABLE,
	FCTR_CAP_AMBIENT, FCTR_CAP_SETS };

struct fctr_spec {
	int rootfs_kind;
	const char *rootfs;			/* DIR */
	const char *const *lower; size_t n_lower;	/* OVERLAY, topmost first; a directory, or "erofs:" and a file */
	bool lower_fixed;			/* they never change: may be merged once for all containers */
	const char *upper, *work;		/* OVERLAY kept at a path; NULL: thrown away */
	const char *scratch;			/* thrown away, but on disk below this directory */
	int64_t scratch_size;			/* tmpfs size in bytes, -1 the kernel's default */
	bool rootfs_readonly;
	uint64_t rootfs_propagation;		/* MS_* or 0: private */

	struct fctr_ns ns[FCTR_NS_COUNT];
	const struct fctr_idrange *uid_map; size_t n_uid_map;
	const struct fctr_idrange *gid_map; size_t n_gid_map;
	int64_t monotonic_ns, boottime_ns;	/* time namespace offsets, FCTR_UNSET for none */
	const char *hostname, *domainname;

	const struct fctr_mount *mounts; size_t n_mounts;	/* in order */
	bool dev;				/* make a standard /dev */
	int64_t shm_size;			/* bytes; 0: no /dev/shm */
	const struct fctr_device *devices; size_t n_devices;
	const char *const *masked; size_t n_masked;
	const char *const *readonly; size_t n_readonly;
	const struct fctr_kv *sysctl; size_t n_sysctl;

	uint64_t caps[FCTR_CAP_SETS];		/* bit masks */
	bool no_new_privs;
	const void *seccomp; size_t seccomp_len;	/* struct sock_filter[], count; NULL none */
	unsigned seccomp_flags;
	const char *apparmor, *selinux;
	const struct fctr_rlimit *rlimits; size_t n_rlimits;
	int oom_score_adj;			/* INT_MIN: left alone */
	int nice;				/* INT_MIN: left alone */
	const void *affinity; size_t affinity_len;	/* cpu_set_t bytes */
	int umask;				/* -1: left alone */

	uint32_t uid, gid;
	const char *user;			/* "name", "name:group", "7", "7:group": looked up inside; NULL: uid/gid */
	const uint32_t *groups; size_t n_groups;
	bool groups_given;			/* groups replace those found by user */
	const char *cwd;			/* NULL "/" */
	bool cwd_create;
	bool init;				/* our PID 1 above the job */
	bool tenant;				/* a container serves one job after another, verified: slot.c */
	bool zygote;				/* it is entered by a fork of a running process: zygote.c */

	bool cgroup;				/* put it in a group of its own at all */
	const char *cgroup_parent;		/* NULL: found by itself */
	struct fctr_limits limits;
	const struct fctr_devrule *devrules; size_t n_devrules;
};

/* ---- context: what plans of one process share ----------------------------------------- */

struct fctr_ctx;
struct fctr_plan;
struct fctr_container;

struct fctr_config {
	const char *runtime_dir;	/* owner locks; made if missing, as "/run/fastctr" */
	const char *owner;		/* unique name of this process: cgroup and lock are called so */
	int stub_fd;			/* sealed copy of the static stub; borrowed; -1 none */
	int warm_max;			/* prepared instances kept for one plan */
	int idle_ms;			/* after which they are dropped */
	bool privileged;		/* CAP_SYS_ADMIN in this user namespace */
};
int fctr_ctx_open(const struct fctr_config *config, struct fctr_ctx **out, struct fctr_error *err);
/* Wait until nothing is left to tear down in the background. keep: leave prepared instances. */
void fctr_ctx_drain(struct fctr_ctx *ctx, bool keep_warm);
void fctr_ctx_close(struct fctr_ctx *ctx);	/* drains, ends the thread, removes cgroups and lock */
void fctr_ctx_forked(struct fctr_ctx *ctx);	/* in the child of a fork: forget, touch nothing shared */
int fctr_ctx_note_scratch(struct fctr_ctx *ctx, const char *path);	/* a directory to sweep should we die */
int fctr_ctx_sweep(struct fctr_ctx *ctx);	/* what dead processes left; returns how many owners */
struct fctr_counters { int64_t started, prepared, warm_hits, net_new, net_reused, cg_new, cg_reused, pending, warm; };
void fctr_ctx_counters(struct fctr_ctx *ctx, struct fctr_counters *out);

/* A user namespace with these maps, as a descriptor. newuidmap/newgidmap: paths of the helpers to
 * write maps we may not write ourselves, or NULL. user_namespaces(7). */
int fctr_userns_create(const struct fctr_idrange *uids, size_t n_uids, const struct fctr_idrange *gids,
		       size_t n_gids, const char *newuidmap, const char *newgidmap, struct fctr_error *err);

/* Layers, topmost first ("erofs:" and a file, or a directory), as one read-only mount that is nowhere
 * yet: its descriptor. Goes with its last descriptor unless it is attached. upper: NULL, or where what is
 * written goes, with <upper>.work beside it; else the mount is read-only. userns: -1 with
 * CAP_SYS_ADMIN; else a user namespace to mount in, and the layers' marks are user.overlay.*. */
int fctr_mount_layers(const char *const *lower, size_t n, const char *upper, int userns, struct fctr_error *err);
/* Attach it at a directory; take off again what is on top there. 0, or -1 with errno. */
int fctr_mount_attach(int mount, const char *target);
int fctr_mount_detach(const char *target);

/* ---- plans ---------------------------------------------------------------------------- */

/* Compiles; makes nothing on the machine. The spec may go once this returns. */
int fctr_plan_compile(struct fctr_ctx *ctx, const struct fctr_spec *spec, struct fctr_plan **out,
		      struct fctr_error *err);
void fctr_plan_close(struct fctr_plan *plan);	/* running containers keep what they need of it */
int fctr_plan_warm(struct fctr_plan *plan, int n, struct fctr_error *err);	/* prepare n now */
/* tenant: how many are clean and unused, in use, and torn down since they could not be told to be clean. */
void fctr_plan_slots(struct fctr_plan *plan, int *ready, int *running, int *destroyed);
/* Keep this many more prepared, whether the plan is used or not; negative: no longer. The background
 * makes them. */
void fctr_plan_hold(struct fctr_plan *plan, int more);
struct fctr_plan_counters { int ready, prepared, target; };	/* ready: prepared to the last step */
void fctr_plan_counters(struct fctr_plan *plan, struct fctr_plan_counters *out);
int fctr_plan_ready(const struct fctr_plan *plan);	/* how many are prepared this moment; takes no lock */
size_t fctr_plan_steps(const struct fctr_plan *plan, int *template_steps, int *instance_steps);
int fctr_plan_start_stage(const struct fctr_plan *plan, int index);	/* stage of a start step, or 0 */

/* ---- launching ------------------------------------------------------------------------ */

struct fctr_launch {
	const char *const *argv, *const *envp;	/* NULL-terminated */
	const char *cwd;		/* NULL: the plan's */
	int stdio[3];			/* descriptors of ours, or -1 for /dev/null */
	const int *fds; size_t n_fds;	/* pairs ours, the job's (3 or more) */
	const struct fctr_limits *limits;	/* on top of the plan's, this job only; or NULL */
	const char *user;		/* in place of the plan's, looked up inside; or NULL */
	bool ids_given; uint32_t uid, gid;	/* the same as numbers */
	const struct fctr_mount *files; size_t n_files;	/* FILEs put in before the start; uid -1: the job's own */
	bool tty;			/* a terminal of the container's; stdio is ignored */
	uint16_t rows, cols;
	bool keep;			/* it may run for long: hold few descriptors meanwhile */
	unsigned linger_us;		/* nobody has to read or write for it: a job as short as this may have ended
					 * when the launch is back, which spares one being roused in between */
	bool die_with_thread;		/* SIGKILL when the calling thread ends: see launch.c */
	bool stamps;
};

#define FCTR_MAX_STAMPS 160
struct fctr_timings {			/* µs */
	double acquire, spawn, run, collect;
	int n;
	int16_t stage[FCTR_MAX_STAMPS];
	float us[FCTR_MAX_STAMPS];
};

int fctr_launch(struct fctr_plan *plan, const struct fctr_launch *launch, struct fctr_container **out,
		struct fctr_error *err);
/* Run a command inside a running container, joined to its namespaces and cgroup. plan: what the
 * command's own process is given (user, capabilities, seccomp, limits of its own are not). */
int fctr_exec(struct fctr_container *target, struct fctr_plan *plan, const struct fctr_launch *launch,
	      struct fctr_container **out, struct fctr_error *err);

/* Commands in it are started by processes that have joined it once. */
int fctr_container_lanes(struct fctr_container *c, struct fctr_error *err);
pid_t fctr_container_pid(const struct fctr_container *c);
int fctr_container_pidfd(const struct fctr_container *c);	/* borrowed */
bool fctr_container_warm(const struct fctr_container *c);	/* it found something prepared */
int fctr_container_master(struct fctr_container *c);		/* the pty's master, borrowed; -1 */
const struct fctr_timings *fctr_container_timings(const struct fctr_container *c);
int fctr_container_cgroup_paths(struct fctr_container *c, char *buf, size_t size);

struct fctr_exit {
	bool lost;		/* somebody else waited for it and the kernel could not tell */
	int code;		/* exit code, or -signal */
	bool oom;		/* the kernel killed something in it for memory */
	struct fctr_usage usage;
};
/* 1: it ended, *out filled, and everything in it is gone; 0: timeout_ms passed; -1 error, EINTR
 * when a signal came (call again). timeout_ms -1: for ever; 0: look only. */
int fctr_wait(struct fctr_container *c, int timeout_ms, struct fctr_exit *out, struct fctr_error *err);
int fctr_signal(struct fctr_container *c, int sig, struct fctr_error *err);	/* the first process */
int fctr_kill_all(struct fctr_container *c, struct fctr_error *err);		/* everything in it */
int fctr_freeze(struct fctr_container *c, bool frozen, struct fctr_error *err);
int fctr_stats(struct fctr_container *c, struct fctr_usage *usage, struct fctr_error *err);
int fctr_update(struct fctr_container *c, const struct fctr_limits *limits, struct fctr_error *err);
int fctr_pids(struct fctr_container *c, pid_t **pids, size_t *n, struct fctr_error *err);
/* Open regular files of its root for reading, with the job's own user and capabilities: fds[i], or -1 for
 * one that is not there. Of what is no regular file, or must not be read by the job: an error and none. */
int fctr_take_files(struct fctr_container *c, const char *const *paths, size_t n, int *fds, struct fctr_error *err);
/* Kills what still runs and hands the remains to the background; c is gone. */
void fctr_release(struct fctr_container *c);

/* capture: read both pipes to their ends (or until the container ended), write input. Buffers are
 * malloc'ed and grown. Returns as fctr_wait; call again after 0 or EINTR: state is in *io. */
struct fctr_io {
	int in, out, err;	/* our ends, non-blocking; closed and set to -1 as they finish */
	const char *input; size_t input_len, input_done;
	char *out_buf; size_t out_len, out_cap;
	char *err_buf; size_t err_len, err_cap;
	size_t limit;		/* bytes of each kept; what comes after them is read and dropped */
	bool out_more, err_more;	/* there was more */
};
int fctr_communicate(struct fctr_container *c, struct fctr_io *io, int timeout_ms, struct fctr_exit *out,
		     struct fctr_error *err);

/* ---- zygotes -------------------------------------------------------------------------- */

/* A container of a plan with `zygote`, all but its process, for a process that will fork itself into it.
 * fds: what that one has to be sent: a memfd with the steps of the start, and the descriptors they name
 * by their place in fds. The first n_own are the caller's to close, the others are the container's.
 * sock becomes the job's descriptor 3; the numbers in nulls become /dev/null. limits: of this job, or NULL. */
#define FCTR_ZYGOTE_FDS 32
int fctr_zygote_prepare(struct fctr_plan *plan, const struct fctr_limits *limits, int sock, const int *nulls,
			size_t n_nulls, struct fctr_container **out, int fds[FCTR_ZYGOTE_FDS], size_t *n_fds,
			size_t *n_own, struct fctr_error *err);
/* Its process is there: it need not be our child. Takes the pidfd. */
int fctr_zygote_adopt(struct fctr_container *c, int pidfd, struct fctr_error *err);

#ifdef __cplusplus
}
#endif
#endif
