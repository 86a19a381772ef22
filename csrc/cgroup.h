/* cgroup.h: control groups by directory descriptor, v1, v2 and hybrid behind one interface.
 *
 * A root is our owner's directory in every hierarchy that matters (one on v2, several on v1);
 * a group is one job's directory below it. Nothing here moves a process on the start path: a
 * job is born in its v2 group (CLONE_INTO_CGROUP) or joins its v1 groups by writing "0" to the
 * `tasks` descriptors itself. See cgroups(7) and the kernel's cgroup-v1/ and cgroup-v2.rst.
 */
#ifndef FCTR_CGROUP_H
#define FCTR_CGROUP_H

#include "fctr.h"

#define FCTR_CG_MAX_TASKS 12

struct fctr_cgroot;
struct fctr_cgroup;

enum fctr_cgmode { FCTR_CGMODE_NONE, FCTR_CGMODE_V1, FCTR_CGMODE_V2, FCTR_CGMODE_HYBRID };

/* What this machine offers; pure inspection, changes nothing. controllers: names separated by
 * spaces, those a job could be limited by from here. */
struct fctr_cginfo { int mode; char controllers[256]; char parent[256]; bool writable, delegated, systemd; };
int fctr_cgroup_info(struct fctr_cginfo *info, struct fctr_error *err);

/* Open (make on first use) <parent>/<owner> in each hierarchy. parent is below the visible root of
 * the mount, with or without a leading slash, made if missing. NULL: "/fastctr" as root without
 * systemd; else "fastctr" in the nearest delegated, writable group upward from our own (as root with
 * none such: "/fastctr"). Fails with a sentence (EACCES, EROFS, ENOTSUP) where none may be made. */
int fctr_cgroot_open(const char *parent, const char *owner, struct fctr_cgroot **out, struct fctr_error *err);
/* Removes the owner's directories if empty, then parents that we made and "fastctr" itself if empty.
 * Groups must be destroyed before. */
void fctr_cgroot_close(struct fctr_cgroot *root);
int fctr_cgroot_mode(const struct fctr_cgroot *root);
/* Whether a group above the owner's, and not above our own process, has a limit of memory: what is born
 * in its groups may then be killed for others. Looked at again after 100 ms. */
bool fctr_cgroot_short(struct fctr_cgroot *root);
/* Remove (killing what is left inside) sibling owners for which dead(name, arg) is true. Returns how many. */
int fctr_cgroot_sweep(struct fctr_cgroot *root, bool (*dead)(const char *name, void *arg), void *arg);

/* Refuse, before anything is made, limits whose controller is not there. */
int fctr_cgroup_check(struct fctr_cgroot *root, const struct fctr_limits *limits,
		      size_t n_devrules, struct fctr_error *err);

/* Make a group and write its limits. devrules as in the spec (v2: an eBPF program, cached in the
 * root by content, so that the second group with the same rules only attaches it). Of the rules that
 * fit an access the last one wins, bit by bit; what no rule allows is denied, unless there are none. */
int fctr_cgroup_create(struct fctr_cgroot *root, const char *name, const struct fctr_limits *limits,
		       const struct fctr_devrule *devrules, size_t n_devrules,
		       struct fctr_cgroup **out, struct fctr_error *err);
/* Change limits of a living group; such a group is not recycled. On v1 a controller it did not need so
 * far is joined now, which moves its processes (slow). */
int fctr_cgroup_limit(struct fctr_cgroup *cg, const struct fctr_limits *limits, struct fctr_error *err);

/* v2 directory to be born in, or -1. On hybrid: only when a limit lives in v2, and then the job is
 * born there AND joins its tasks. The group's own; reopened on demand after fctr_cgroup_slim(). */
int fctr_cgroup_into_fd(struct fctr_cgroup *cg);
/* v1: open descriptors of the `tasks` files a job must join; returns how many (0 on v2). They
 * stay the group's own. After fctr_cgroup_slim() they are reopened on demand. */
size_t fctr_cgroup_tasks(struct fctr_cgroup *cg, int fds[FCTR_CG_MAX_TASKS]);
/* Close all descriptors of the group that can be reopened by name: for jobs that stay. Without it a
 * group keeps its tasks (v1) or directory (v2) and, from the first stats on, its figures' files (6 to
 * 10; a root keeps at most 256 of these, further groups open and close them): stats once off the path
 * after create makes stats at the job's end four times quicker. */
void fctr_cgroup_slim(struct fctr_cgroup *cg);
/* "controllers:path" lines ("cpu,cpuacct:/sys/fs/cgroup/…"; v2 as "unified:…"), paths as in our mount
 * namespace, each with its newline. Returns the length it needs, as snprintf does. */
int fctr_cgroup_paths(const struct fctr_cgroup *cg, char *buf, size_t size);

int fctr_cgroup_stats(struct fctr_cgroup *cg, struct fctr_usage *usage, struct fctr_error *err);
int fctr_cgroup_freeze(struct fctr_cgroup *cg, bool frozen, struct fctr_error *err);
/* Every process in the group, atomically against forks: cgroup.kill, or on v1 pids.max 0 (nothing can
 * fork any more), SIGKILL, thaw if frozen. Lists and re-lists until empty or deadline_ms passes
 * (ETIMEDOUT). Signals by pidfds of processes seen in the group after the pidfd was opened. */
int fctr_cgroup_kill(struct fctr_cgroup *cg, int deadline_ms, struct fctr_error *err);
int fctr_cgroup_pids(struct fctr_cgroup *cg, pid_t **pids, size_t *n, struct fctr_error *err);	/* malloc'ed */
/* Move a process in (exec, adopt): slow, never on the start path. */
int fctr_cgroup_attach(struct fctr_cgroup *cg, pid_t pid, struct fctr_error *err);

/* Make an emptied group ready for its next job of the same limits (after the last job was reaped; not
 * for jobs that had the group mounted writable): counters reset, or a baseline kept so that
 * fctr_cgroup_stats() gives this job's figures alone. Returns 1 ready, 0 not fit for reuse (still
 * populated, residual memory, a figure that cannot be told apart): destroy it. */
int fctr_cgroup_recycle(struct fctr_cgroup *cg, bool tenant);	/* one tenant's: a pids.peak of v2 may be lost */
/* rmdir, with short retries on EBUSY; frees cg in any case. Returns 0, or -1 if a directory stayed. */
int fctr_cgroup_destroy(struct fctr_cgroup *cg);

#endif
