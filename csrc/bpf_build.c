/* bpf_build.c: the backward BPF writer, argument comparisons and the search tree. See bpf_build.h. */
#include <stdlib.h>

#include "bpf_build.h"

#define REACH 255u		/* how far a conditional jump goes */
#define DP_MAX 96u		/* segments up to which the cheapest tree is looked for */

/* What one more number through one more test costs, and one more instruction, in ns/10, as measured
 * for loading a filter: the emulation of every number, and check + translation + JIT. */
#define COST_TEST 22u
#define COST_INSN 1600u

static uint32_t push(struct bpf_out *o, struct sock_filter ins)
{
	if (o->n == BPF_MAXINSNS) {
		o->overflow = true;
		o->n = 0;	/* the result is thrown away; stay within bounds until then */
	}
	o->ins[o->n] = ins;
	return o->n++;
}

uint32_t bpf_stmt(struct bpf_out *o, uint16_t code, uint32_t k)
{
	return push(o, (struct sock_filter)BPF_STMT(code, k));
}

uint32_t bpf_load(struct bpf_out *o, size_t offset)
{
	return bpf_stmt(o, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset);
}

uint32_t bpf_ret(struct bpf_out *o, uint32_t value)
{
	unsigned i = 0;

	while (i < o->n_rets && o->ret_value[i] != value)
		i++;
	/* Two short of the reach: a comparison may write two instructions before its jump. */
	if (i < o->n_rets && o->n - o->ret_label[i] <= REACH - 2)
		return o->ret_label[i];
	if (i == BPF_RET_KINDS)
		return bpf_stmt(o, BPF_RET | BPF_K, value);
	if (i == o->n_rets)
		o->ret_value[o->n_rets++] = value;
	return o->ret_label[i] = bpf_stmt(o, BPF_RET | BPF_K, value);
}

/* A stand-in for a target that is out of reach: a copy if it is a return, else a long jump. */
static uint32_t bring_near(struct bpf_out *o, uint32_t label)
{
	if (BPF_CLASS(o->ins[label].code) == BPF_RET)
		return bpf_ret(o, o->ins[label].k);
	return bpf_stmt(o, BPF_JMP | BPF_JA, o->n - label - 1);
}

uint32_t bpf_jump(struct bpf_out *o, uint16_t code, uint32_t k, uint32_t yes, uint32_t no)
{
	if (yes == no)
		return yes;
	for (;;) {
		if (o->overflow)
			return 0;
		if (o->n - yes - 1 > REACH)
			yes = bring_near(o, yes);
		else if (o->n - no - 1 > REACH)
			no = bring_near(o, no);
		else
			break;
	}
	return push(o, (struct sock_filter)BPF_JUMP(BPF_JMP | code | BPF_K, k, (uint8_t)(o->n - yes - 1),
						    (uint8_t)(o->n - no - 1)));
}

static size_t arg_low(unsigned index)
{
	size_t off = offsetof(struct seccomp_data, args) + index * sizeof(uint64_t);

	return off + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0);
}

static size_t arg_high(unsigned index)
{
	size_t off = offsetof(struct seccomp_data, args) + index * sizeof(uint64_t);

	return off + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 0 : 4);
}

/* (word & mask) == (value & mask), as libseccomp has it */
static uint32_t masked(struct bpf_out *o, size_t off, uint32_t mask, uint32_t value, uint32_t yes, uint32_t no)
{
	value &= mask;
	if (mask == 0 || yes == no)
		return yes;
	if (mask != UINT32_MAX && value == 0) {
		bpf_jump(o, BPF_JSET, mask, no, yes);
	} else {
		bpf_jump(o, BPF_JEQ, value, yes, no);
		if (mask != UINT32_MAX)
			bpf_stmt(o, BPF_ALU | BPF_AND | BPF_K, mask);
	}
	return bpf_load(o, off);
}

uint32_t bpf_compare(struct bpf_out *o, const struct fctr_seccomp_arg *arg, bool wide, uint32_t yes, uint32_t no)
{
	uint32_t high = (uint32_t)(arg->value >> 32), low = (uint32_t)arg->value;
	uint32_t mask_high = UINT32_MAX, mask_low = UINT32_MAX, label, swap;
	int op = arg->op & ~FCTR_SC_LOW32;

	wide = wide && !(arg->op & FCTR_SC_LOW32);
	if (yes == no)
		return yes;
	if (op == FCTR_SC_NE || op == FCTR_SC_LT || op == FCTR_SC_LE) {
		swap = yes;
		yes = no;
		no = swap;
		op = op == FCTR_SC_NE ? FCTR_SC_EQ : op == FCTR_SC_LT ? FCTR_SC_GE : FCTR_SC_GT;
	}
	if (op == FCTR_SC_MASKED_EQ) {
		mask_high = high;
		mask_low = low;
		high = (uint32_t)(arg->value2 >> 32);
		low = (uint32_t)arg->value2;
	}
	if (op == FCTR_SC_GE || op == FCTR_SC_GT) {
		bpf_jump(o, op == FCTR_SC_GE ? BPF_JGE : BPF_JGT, low, yes, no);
		label = bpf_load(o, arg_low(arg->index));
		if (!wide)
			return label;
		if (high != 0)	/* nothing is below a high word of 0 */
			label = bpf_jump(o, BPF_JEQ, high, label, no);
		bpf_jump(o, BPF_JGT, high, yes, label);
		return bpf_load(o, arg_high(arg->index));
	}
	label = masked(o, arg_low(arg->index), mask_low, low, yes, no);
	if (wide)
		label = masked(o, arg_high(arg->index), mask_high, high, label, no);
	return label;
}

uint32_t bpf_compare_any(struct bpf_out *o, unsigned index, const uint64_t *values, size_t n_values,
			 bool wide, uint32_t yes, uint32_t no)
{
	uint32_t label = no;

	if (yes == no)
		return yes;
	for (size_t i = n_values; i-- > 0;)
		label = bpf_jump(o, BPF_JEQ, (uint32_t)values[i], yes, label);
	label = bpf_load(o, arg_low(index));
	if (wide)
		label = masked(o, arg_high(index), UINT32_MAX, (uint32_t)(values[0] >> 32), label, no);
	return label;
}

/* ---- the tree ------------------------------------------------------------------------ */

struct tree {
	struct bpf_out *out;
	const struct bpf_segment *segs;
	size_t n;
	uint32_t emulated;
	uint64_t *cost;		/* DP_MAX * DP_MAX, of segments base+i .. base+j */
	uint8_t *choice;	/* split before base+choice; 0: a chain of equalities */
	size_t base, width;
};

static bool is_single(const struct tree *t, size_t i)
{
	return i + 1 < t->n ? t->segs[i + 1].first - t->segs[i].first == 1 : t->segs[i].first == UINT32_MAX;
}

static uint64_t weight(const struct tree *t, size_t i)
{
	uint32_t first = t->segs[i].first;
	uint32_t end = i + 1 < t->n ? t->segs[i + 1].first : UINT32_MAX;

	if (end > t->emulated)
		end = t->emulated;
	return 1 + (end > first ? end - first : 0);
}

/* If every segment of lo..hi is one verdict but for single numbers: one equality test for each of
 * them. The verdict is that of the first segment that is not a single number. */
static bool is_chain(const struct tree *t, size_t lo, size_t hi, struct bpf_leaf *rest, size_t *tests)
{
	bool have = false;

	*tests = 0;
	for (size_t i = lo; i <= hi; i++) {
		if (is_single(t, i))
			continue;
		if (have && !bpf_leaf_same(*rest, t->segs[i].leaf))
			return false;
		*rest = t->segs[i].leaf;
		have = true;
	}
	if (!have)
		return false;
	for (size_t i = lo; i <= hi; i++)
		*tests += !bpf_leaf_same(*rest, t->segs[i].leaf);
	return *tests <= 6;
}

/* The cheapest tree over lo..hi (hi - lo < DP_MAX), into t->choice. */
static void plan(struct tree *t, size_t lo, size_t hi)
{
	size_t n = hi - lo + 1;

	t->base = lo;
	t->width = n;
	for (size_t len = 1; len <= n; len++) {
		for (size_t i = 0; i + len <= n; i++) {
			size_t j = i + len - 1, tests;
			uint64_t w = 0, best = UINT64_MAX;
			struct bpf_leaf rest;
			uint8_t pick = 0;

			for (size_t s = i; s <= j; s++)
				w += weight(t, lo + s);
			if (len == 1)
				best = 0;
			else if (is_chain(t, lo + i, lo + j, &rest, &tests))
				best = w * tests * COST_TEST + tests * COST_INSN;
			for (size_t s = i + 1; s <= j; s++) {
				uint64_t c = t->cost[i * DP_MAX + s - 1] + t->cost[s * DP_MAX + j] +
					     w * COST_TEST + COST_INSN;
				if (c < best) {
					best = c;
					pick = (uint8_t)s;
				}
			}
			t->cost[i * DP_MAX + j] = best;
			t->choice[i * DP_MAX + j] = pick;
		}
	}
}

/* Too many segments for plan(): halve by weight until there are few enough. */
static size_t halve(const struct tree *t, size_t lo, size_t hi)
{
	uint64_t total = 0, part = 0;

	for (size_t i = lo; i <= hi; i++)
		total += weight(t, i);
	for (size_t i = lo; i < hi; i++) {
		part += weight(t, i);
		if (part * 2 >= total)
			return i + 1;
	}
	return hi;
}

static uint32_t leaf_label(struct bpf_out *o, struct bpf_leaf leaf)
{
	return leaf.kind == BPF_LEAF_RET ? bpf_ret(o, leaf.value) : leaf.value;
}

static uint32_t emit(struct tree *t, size_t lo, size_t hi, bool planned)
{
	uint32_t left = 0, right = 0;
	struct bpf_leaf rest;
	size_t split, tests;

	if (lo == hi)
		return leaf_label(t->out, t->segs[lo].leaf);
	if (!planned && hi - lo < DP_MAX) {
		plan(t, lo, hi);
		planned = true;
	}
	split = planned ? t->choice[(lo - t->base) * DP_MAX + (hi - t->base)] : 0;
	if (planned && split == 0) {
		is_chain(t, lo, hi, &rest, &tests);
		right = leaf_label(t->out, rest);
		for (size_t i = lo; i <= hi; i++)
			if (!bpf_leaf_same(rest, t->segs[i].leaf))
				right = bpf_jump(t->out, BPF_JEQ, t->segs[i].first,
						 leaf_label(t->out, t->segs[i].leaf), right);
		return right;
	}
	split = planned ? t->base + split : halve(t, lo, hi);
	if (split < hi)		/* subtrees first, so that a return they need is still in reach after */
		right = emit(t, split, hi, planned);
	if (lo + 1 < split)
		left = emit(t, lo, split - 1, planned);
	if (split == hi)
		right = leaf_label(t->out, t->segs[hi].leaf);
	if (lo + 1 == split)
		left = leaf_label(t->out, t->segs[lo].leaf);
	return bpf_jump(t->out, BPF_JGE, t->segs[split].first, right, left);
}

uint32_t bpf_tree(struct bpf_out *o, const struct bpf_segment *segs, size_t n, uint32_t emulated)
{
	struct tree t = { .out = o, .segs = segs, .n = n, .emulated = emulated };
	uint32_t label;

	t.cost = malloc(DP_MAX * DP_MAX * sizeof(*t.cost));
	t.choice = malloc(DP_MAX * DP_MAX);
	if (!t.cost || !t.choice) {
		o->overflow = true;
		label = 0;
	} else {
		label = emit(&t, 0, n - 1, false);
	}
	free(t.cost);
	free(t.choice);
	return label;
}
