/* plan.h: what a compiled plan looks like inside. Shared by the parent side, by child.c and by
 * the static stub, so it holds plain data only: offsets into one blob and descriptor slots, no
 * pointers, and can be copied into another process as it is.
 */
#ifndef FCTR_PLAN_H
#define FCTR_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One step does one thing. s1..s3 are offsets into the blob (0 is ""). */
enum fctr_op {
	/* cgroups and namespaces */
	FCTR_OP_TASKS,		/* slot..slot+a: join v1 groups */
	FCTR_OP_SETNS,		/* slot, a: CLONE_NEW* */
	FCTR_OP_UNSHARE,	/* a: CLONE_NEW* */
	FCTR_OP_NSDIR,		/* slot: this process's /proc/self/ns, before the root changes */
	FCTR_OP_NSFD,		/* slot <- nsdir slot2 / s1 */
	FCTR_OP_LO_UP,
	FCTR_OP_ROOT_IDS,	/* be a: uid, b: gid of the user namespace just entered, to own what is made */
	FCTR_OP_NEW_PIDNS,	/* slot <- a pid namespace nobody is in yet */
	FCTR_OP_SLOT_PROC,	/* the last job's /proc away, this one's to s1 */
	FCTR_OP_NET_HASH,	/* what the network namespace shows, into a result */
	FCTR_OP_TIMENS,		/* s1: offsets */
	FCTR_OP_NO_DUMP,	/* stub only: not to be traced from here on */
	FCTR_OP_FORK,		/* stub only: the job is born here; a: CLONE_NEWPID or 0 (joined before) */
	FCTR_OP_FORK_VM,	/* the same without the stub: a second vfork; a: CLONE_NEWPID */
	/* template: one tmpfs with everything a container of this plan will be made of */
	FCTR_OP_OPEN_TREE,	/* slot <- clone of s1; a: AT_RECURSIVE or 0; flag OPTIONAL */
	FCTR_OP_EROFS,		/* slot <- the EROFS image in the file s1, mounted read-only */
	FCTR_OP_TREE_ATTR,	/* slot, a set, b clear, c propagation, slot2 userns; flag RECURSIVE */
	FCTR_OP_PRIVATE,	/* the whole tree private */
	FCTR_OP_BASE,		/* a tmpfs over "/", and into it */
	FCTR_OP_UNMOUNT,	/* what is on top at s1, with all below it */
	FCTR_OP_PLACE,		/* slot -> s1 (made as a file or a directory, whichever it is) */
	FCTR_OP_MKDIR,		/* s1 in the working directory, a: mode */
	FCTR_OP_PIVOT,		/* the working directory becomes "/", the old root goes */
	/* instance and start: mounts; targets are resolved in the root, never by string alone */
	FCTR_OP_FSMOUNT,	/* s1 type, s2 target, s3 options k\0v\0..\0, a: MOUNT_ATTR_*, c propagation */
	FCTR_OP_OVERLAY,	/* s1 lowerdirs l\0l\0\0, s2 upper, s3 work, a: attrs, b: 1 userxattr, 2 volatile; on /r, or in slot */
	FCTR_OP_ROOT,		/* the root is s1 from here on */
	FCTR_OP_MOVE,		/* mount s1 of the template -> s2 in the root; flag NOCREATE */
	FCTR_OP_MKDIRS,		/* s1 in the root, a: mode */
	FCTR_OP_MKNOD,		/* s1 in the root, a: mode and type, b: device, c: uid<<32|gid */
	FCTR_OP_OPAQUE,		/* s1: hide what lower layers have in this directory */
	FCTR_OP_SYMLINK,	/* s1 in the root -> text s2 */
	FCTR_OP_FILE,		/* s1 in the root <- b bytes at s2, a: mode, c: uid<<32|gid */
	FCTR_OP_MASK,		/* s1 in the root; s2: an empty directory's mount to clone, or "" */
	FCTR_OP_RDONLY,		/* s1 in the root */
	FCTR_OP_ROOT_ATTR,	/* a: attrs set on the root mount, c: propagation */
	FCTR_OP_LOOK_UP,	/* the command started last, so that its directory entries are there */
	FCTR_OP_KEEP,		/* slot <- s1 in the root, opened for reading; absent is fine */
	FCTR_OP_TAKE,		/* slot <- the regular file s1 in the root, for reading; slot2: a /proc; absent is fine */
	FCTR_OP_PTY,		/* slot <- master, slot2 <- slave, on the container's own devpts; a: bind on /dev/console */
	FCTR_OP_CHDIR,		/* s1, before the root is final */
	/* the process */
	FCTR_OP_HOSTNAME, FCTR_OP_DOMAINNAME,	/* s1 */
	FCTR_OP_SYSCTL,		/* s1 path below /proc/sys, s2 value */
	FCTR_OP_OOM,		/* s1 text */
	FCTR_OP_RLIMIT,		/* a resource, b soft, c hard */
	FCTR_OP_NICE, FCTR_OP_UMASK,		/* a */
	FCTR_OP_AFFINITY,	/* a bytes at s1 */
	FCTR_OP_STDIO,
	FCTR_OP_LABEL,		/* s1 attribute file, s2 text */
	FCTR_OP_NNP,
	FCTR_OP_SECCOMP,	/* flag EARLY: before the capabilities go */
	FCTR_OP_BOUNDING,	/* c: mask kept */
	FCTR_OP_USER,
	FCTR_OP_CAPSET,		/* a effective, b permitted, c inheritable */
	FCTR_OP_AMBIENT,	/* c: mask */
	FCTR_OP_PDEATHSIG,
	FCTR_OP_CLOSE_FDS,
	FCTR_OP_CWD,
	FCTR_OP_EXEC,
};

#define FCTR_STEP_OPTIONAL 1u
#define FCTR_STEP_RECURSIVE 2u
#define FCTR_STEP_NOCREATE 4u
#define FCTR_STEP_OWN_DIRS 16u	/* FILE: directories made for it belong to its owner */
#define FCTR_STEP_PIDNS 8u	/* FSMOUNT: a procfs of the pid namespace in slot PIDNS */

struct fctr_step {
	uint8_t op, stage;
	uint16_t flags;
	int16_t slot, slot2;
	uint32_t s1, s2, s3;
	int64_t a, b;
	uint64_t c;
};

/* Descriptor slots: a plan's steps name slots, a launch fills them. */
enum fctr_slot {
	FCTR_SLOT_NONE = -1,
	FCTR_SLOT_TEMPLATE, FCTR_SLOT_MNT, FCTR_SLOT_PID, FCTR_SLOT_NET, FCTR_SLOT_IPC, FCTR_SLOT_UTS,
	FCTR_SLOT_CGROUPNS, FCTR_SLOT_USER, FCTR_SLOT_TIME,
	FCTR_SLOT_NSDIR, FCTR_SLOT_PIDNS, FCTR_SLOT_PASSWD, FCTR_SLOT_GROUP, FCTR_SLOT_MASTER, FCTR_SLOT_SLAVE,
	FCTR_SLOT_GO,		/* stub: the job it forks waits for a byte of this */
	FCTR_SLOT_UPPER,	/* slot.c: where the root's changes go */
	FCTR_SLOT_EMPTY, FCTR_SLOT_NULL,	/* slot.c: an empty directory, and /dev/null, to mask others with */
	FCTR_SLOT_PROC, FCTR_SLOT_OLD,	/* slot.c: the job's /proc, not attached yet; the last job's, or -1 */
	FCTR_SLOT_GRAVE, FCTR_SLOT_AT,	/* slot.c: a directory to move that to; its name there, a digit */
	FCTR_SLOT_TASKS, FCTR_SLOT_TASKS_END = FCTR_SLOT_TASKS + 12,
	FCTR_SLOT_TREE = FCTR_SLOT_TASKS_END,	/* template: one a tree; then one an idmap */
};

#define FCTR_MAX_TREES 600
#define FCTR_MAX_SLOTS (FCTR_SLOT_TREE + FCTR_MAX_TREES)
#define FCTR_MAX_STEPS 4096

/* What the child reports, in memory the parent reads once the child has exec'ed or gone. */
struct fctr_result {
	int32_t stage, index, err;	/* stage 0: no failure so far */
	int32_t detail;			/* fork: the job's pid */
	int32_t pidfd;			/* FORK_VM: its pidfd, in the table shared with the launcher */
	int32_t candidate;		/* exec: which one was tried last, so which one it became */
	uint64_t hash;			/* NET_HASH; in a report FCTR_REPORT_* */
};
#define FCTR_REPORT_PID 1		/* detail: the job's pid, as the launcher sees it */
#define FCTR_REPORT_STARTED 2		/* init: the job has exec'ed */
#define FCTR_REPORT_ENDED 3		/* init: detail is its wait status */

struct fctr_fdmap { int32_t src, dst; };

/* What one launch adds to a plan. Pointers are the launcher's own memory (or the stub's copy). */
struct fctr_params {
	char *const *argv, *const *envp;
	char *const *candidates;	/* paths to try, NULL-terminated */
	const char *cwd;		/* NULL: the plan's, in the CWD step */
	const struct fctr_fdmap *fds;	/* sorted by dst */
	uint32_t n_fds;
	uint32_t n_tasks;
	uint32_t uid, gid;
	const uint32_t *groups;
	uint32_t n_groups;
	uint16_t pad;
	uint16_t seccomp_len;		/* instructions; 0 none */
	uint32_t seccomp_flags;
	const void *seccomp;
	int32_t tty;			/* make descriptor 0 the controlling terminal */
	int32_t owner_pidfd;		/* die with it; -1 */
	int32_t err_fd;			/* stub: where to report; -1 */
	int32_t stub_fd;		/* init: exec this above the job; -1 */
	int32_t shared_top;		/* descriptor table shared with the launcher: copy what is below; 0 not shared */
};

struct fctr_run {
	const struct fctr_step *steps;
	uint32_t n_steps;
	const char *blob;
	int *slot;
	const struct fctr_params *params;
	struct fctr_result *result;
	int64_t *stamps;		/* one a step in ns, or NULL */
	int rootfd;			/* AT_FDCWD, or the root being built */
	uint32_t first;			/* index of steps[0] in the plan's list */
	void *stack2;			/* FORK_VM */
	uint64_t stack2_size;
	bool signals_default;		/* done already */
};

/* child.c: walk the steps. Returns 0 when all were done (preparation), -1 with the result filled.
 * A walk that ends in EXEC does not return on success. */
int fctr_walk(struct fctr_run *run);
void fctr_default_signals(void);

#endif
