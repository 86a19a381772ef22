/* netns.c: network namespaces made beforehand.
 *
 * Making one is the dearest step of a start, and one that nobody with power over networks has
 * been in can be used again, if it shows nothing. Four files are hashed when it is new, and again
 * each time before it is given out: the sockets of every kind that are alive in it, TIME_WAIT and
 * fragments too (sockstat), the packets of its only interface (dev), and the counters of the IP
 * stacks, which every attempt to send raises, routable or not (snmp, snmp6). Only one that equals
 * a fresh one is reused (docs/security.md).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>

#include "core.h"

#define NET_POOL_MAX 64	/* prepared ones and those of the dead that wait */

#define FILES "/proc/self/net/sockstat\0/proc/self/net/dev\0/proc/self/net/snmp\0/proc/self/net/snmp6\0\0"
const char fctr_net_files[] = FILES;
const size_t fctr_net_files_len = sizeof(FILES);
static const char blob[] = "\0" FILES "net\0";
#define FILES_AT 1
#define NET_AT (1 + sizeof(FILES) - 1)

static struct fctr_step make_v[] = {
	{ .op = FCTR_OP_NSDIR, .stage = FCTR_ST_NETNS, .slot = FCTR_SLOT_NSDIR, .slot2 = -1 },
	{ .op = FCTR_OP_UNSHARE, .stage = FCTR_ST_NETNS, .slot = -1, .slot2 = -1, .a = CLONE_NEWNET },
	{ .op = FCTR_OP_LO_UP, .stage = FCTR_ST_NETNS, .slot = -1, .slot2 = -1 },
	{ .op = FCTR_OP_NSFD, .stage = FCTR_ST_NETNS, .slot = FCTR_SLOT_NET, .slot2 = FCTR_SLOT_NSDIR, .s1 = NET_AT },
	{ .op = FCTR_OP_NET_HASH, .stage = FCTR_ST_NETNS, .slot = -1, .slot2 = -1, .s1 = FILES_AT },
};
static const struct fctr_steps make_steps = { make_v, ARRAY_LEN(make_v), 0 };

struct fctr_netns *fctr_netns_get(struct fctr_ctx *ctx, char *stack, struct fctr_error *err)
{
	int slot[FCTR_SLOT_TREE];
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct fctr_result result;
	struct fctr_netns *net;
	int r;

	pthread_mutex_lock(&ctx->lock);
	net = ctx->nets;
	if (net) {
		ctx->nets = net->next;
		ctx->n_nets--;
		ctx->counters.net_reused++;
	}
	pthread_mutex_unlock(&ctx->lock);
	if (net)	/* whether it still looks fresh is found out by whoever enters it first */
		return net;
	net = calloc(1, sizeof(*net));
	if (!net) {
		fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "network namespace");
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_LEN(slot); i++)
		slot[i] = -1;
	r = fctr_helper(ctx, &make_steps, blob, slot, &params, stack, &result, err);
	fctr_close_fd(&slot[FCTR_SLOT_NSDIR]);
	net->fd = slot[FCTR_SLOT_NET];
	if (r < 0) {
		fctr_netns_drop(net);
		return NULL;
	}
	net->hash = result.hash;
	pthread_mutex_lock(&ctx->lock);
	ctx->counters.net_new++;
	pthread_mutex_unlock(&ctx->lock);
	return net;
}

void fctr_netns_drop(struct fctr_netns *net)
{
	fctr_close_fd(&net->fd);
	free(net);
}

void fctr_netns_put(struct fctr_ctx *ctx, struct fctr_netns *net)
{
	net->used = true;
	pthread_mutex_lock(&ctx->lock);
	if (ctx->n_nets < NET_POOL_MAX && !ctx->stop) {
		net->next = ctx->nets;
		ctx->nets = net;
		ctx->n_nets++;
		net = NULL;
	}
	pthread_mutex_unlock(&ctx->lock);
	if (net)
		fctr_netns_drop(net);
}
