/* keeper.h: what the launcher and a keeper (keeper.c, a part of the static stub) say to each other, over
 * a SEQPACKET socket. Plain data: sizes first, then what they count. */
#ifndef FCTR_KEEPER_H
#define FCTR_KEEPER_H

#include "plan.h"

#define FCTR_KEEP_MAGIC 0x6b656570u
#define FCTR_KEEP_PACKET 65536		/* a longer job comes in a memfd, its first descriptor */
#define FCTR_KEEP_FDS 128

/* The first message has a memfd with this: what is the same for all jobs. Offsets from its start. */
struct fctr_keep_setup {
	uint32_t magic, size, n_steps, n_own, seccomp_len, seccomp_flags;	/* own: the first of the steps, done once */
	uint64_t steps, blob, seccomp;
	uint64_t secret[2];	/* see keeper_filter() */
	uint64_t cpus[16], cpus_len;	/* where its jobs may run: it is itself held where the launcher is */
};

#define FCTR_KEEP_CWD 1u		/* a working directory is the last string */
#define FCTR_KEEP_PIDNS 2u		/* descriptors, in this order, after those of the job and the tasks files */
#define FCTR_KEEP_PROC 4u		/* its /proc, and the directory the last one goes to */
#define FCTR_KEEP_OLD 8u
#define FCTR_KEEP_INTO 16u		/* the v2 group to be born in */

/* Then int32 dst[n_fds], uint32 groups[n_groups], and the strings of argv, envp, candidates, cwd. */
struct fctr_keep_job {
	uint32_t magic, size, argc, envc, candc, n_fds, n_tasks, n_groups, uid, gid, flags;
	int32_t slot_at;
};

struct fctr_keep_reply {
	uint32_t magic;
	int32_t pid;		/* of the job, a child of the launcher; 0 none */
	struct fctr_result result;
};

#endif
