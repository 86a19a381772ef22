/* job.h: a plan and a launch, flattened into one memfd for the static stub. Pointers inside are
 * stored as offsets from the start and put right by the stub. */
#ifndef FCTR_JOB_H
#define FCTR_JOB_H

#include "plan.h"

#define FCTR_JOB_MAGIC 0x66637472u
struct fctr_job {
	uint32_t magic, size, n_steps, n_slots;
	uint64_t steps, blob, slots;
	uint64_t argv, envp, candidates;	/* NULL-terminated arrays of offsets; 0 is NULL */
	uint64_t cwd, fds, groups, seccomp;	/* 0: none */
	struct fctr_params params;		/* its pointers are filled from the above */
};

#endif
