/* launch.h: between launch.c and the context's thread. */
#ifndef FCTR_LAUNCH_H
#define FCTR_LAUNCH_H

#include "core.h"

struct fctr_launch_request {
	struct fctr_plan *plan;
	const struct fctr_launch *launch;
	struct fctr_container *target, **out;
	struct fctr_error *err;
	int result;
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct fctr_launch_request *next;
};

/* The descriptors a start's steps name: an instance's, a container's to join, the plan's. */
void fctr_start_slots(const struct fctr_plan *plan, const struct fctr_instance *inst,
		      const struct fctr_container *target, int slot[FCTR_SLOT_TREE]);
/* Paths to try for a command, NULL-terminated, to be freed with the memory they lie in. */
int fctr_candidates(const char *name, const char *const *envp, char ***list, char **mem, struct fctr_error *err);
void fctr_launch_serve(struct fctr_launch_request *req);
bool fctr_ctx_request(struct fctr_ctx *ctx, struct fctr_launch_request *req);

#endif
