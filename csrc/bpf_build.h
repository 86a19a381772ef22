/* bpf_build.h: writes a classic BPF program from its end to its start. Internal to seccomp.c.
 *
 * Classic BPF only jumps forward, so emitting backwards means every target is known when a jump is
 * written. A label is an instruction's distance from the end.
 */
#ifndef FCTR_BPF_BUILD_H
#define FCTR_BPF_BUILD_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "seccomp.h"

enum bpf_leaf_kind { BPF_LEAF_RET, BPF_LEAF_LABEL };
struct bpf_leaf {
	int kind;
	uint32_t value;		/* what to return, or the label to go on at (the number still in A) */
};
static inline bool bpf_leaf_same(struct bpf_leaf a, struct bpf_leaf b)
{
	return a.kind == b.kind && a.value == b.value;
}

struct bpf_segment { uint32_t first; struct bpf_leaf leaf; };	/* up to the next one's first */

#define BPF_RET_KINDS 32

struct bpf_out {
	struct sock_filter ins[BPF_MAXINSNS];	/* backwards: ins[0] is the last instruction */
	uint32_t n;
	bool overflow;
	uint32_t ret_value[BPF_RET_KINDS], ret_label[BPF_RET_KINDS];	/* newest copy of a return */
	unsigned n_rets;
};

uint32_t bpf_ret(struct bpf_out *o, uint32_t value);			/* a return within reach */
uint32_t bpf_stmt(struct bpf_out *o, uint16_t code, uint32_t k);
uint32_t bpf_jump(struct bpf_out *o, uint16_t code, uint32_t k, uint32_t yes, uint32_t no);
uint32_t bpf_load(struct bpf_out *o, size_t offset);			/* of struct seccomp_data */

/* One argument comparison; wide: all 64 bits count. */
uint32_t bpf_compare(struct bpf_out *o, const struct fctr_seccomp_arg *arg, bool wide,
		     uint32_t yes, uint32_t no);
/* Argument `index` equals one of values[], whose high words are all the same. */
uint32_t bpf_compare_any(struct bpf_out *o, unsigned index, const uint64_t *values, size_t n_values,
			 bool wide, uint32_t yes, uint32_t no);
/* The search over segments (sorted, the first starts at 0 or at what A is known to be at least).
 * emulated: how many numbers from 0 the kernel tries at load, for the weights. A holds the number. */
uint32_t bpf_tree(struct bpf_out *o, const struct bpf_segment *segs, size_t n, uint32_t emulated);

#endif
