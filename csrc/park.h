/* park.h: between park.c and those who make, start and end prepared containers. */
#ifndef FCTR_PARK_H
#define FCTR_PARK_H

#include "core.h"

/* Whether a start may go through its last steps under this filter, whatever their arguments. */
bool fctr_filter_lets_start(const void *filter, size_t n);
bool fctr_filter_lets(const void *filter, size_t n, uint32_t nr);	/* … and this call */

/* In the background thread: give an instance its process, asleep. Best effort: without one the
 * start clones as ever. False: it failed half-way, and the instance is of no use any more. */
bool fctr_park(struct fctr_instance *inst);
bool fctr_park_wanted(const struct fctr_instance *inst);
bool fctr_plan_parks(const struct fctr_plan *p);
/* Whether these limits leave a group so little memory that it may run out before the exec. */
bool fctr_park_small(const struct fctr_limits *limits);
/* Whether the parked process still is what a clone would give now. */
bool fctr_park_fits(struct fctr_instance *inst);
/* Wake it with what this launch adds, and be back when it has exec'ed or gone. pid and pidfd are
 * the caller's from then on. */
void fctr_park_go(struct fctr_instance *inst, const struct fctr_params *params, int64_t *stamps,
		  struct fctr_result *result, struct fctr_container *c, unsigned linger_us);
/* Kill and reap it, if it was never woken. */
void fctr_park_end(struct fctr_instance *inst);
/* In the child of a fork: the parent's, but for our copy of its descriptor. */
void fctr_park_forked(struct fctr_instance *inst);

#endif
