/* netns.c: network namespaces made beforehand.
 *
 * Making one is the dearest step of a start, and one that nobody with power over networks has
 * been in can be used again, if it shows nothing: its sockets, counters and TIME_WAIT entries
 * are hashed when it is new, and again each time before it is given out. Only a namespace whose
 * whole visible state equals a fresh one's is reused (docs/security.md).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>

#include "core.h"

#define NET_POOL_MAX 64

static const char blob[] = "\0"
	"/proc/self/net/sockstat\0/proc/self/net/sockstat6\0/proc/self/net/dev\0/proc/self/net/snmp\0"
	"/proc/self/net/snmp6\0/proc/self/net/netstat\0/proc/self/net/unix\0/proc/self/net/packet\0"
	"/proc/self/net/netlink\0\0"
	"net\0";
#define FILES_AT 1
#define NET_AT (sizeof(blob) - 5)

static struct fctr_step make_v[] = {
	{ .op = FCTR_OP_NSDIR, .stage = FCTR_ST_NETNS, .slot = FCTR_SLOT_NSDIR, .slot2 = -1 },
	{ .op = FCTR_OP_UNSHARE, .stage = FCTR_ST_NETNS, .slot = -1, .slot2 = -1, .a = CLONE_NEWNET },
	{ .op = FCTR_OP_LO_UP, .stage = FCTR_ST_NETNS, .slot = -1, .slot2 = -1 },
	{ .op = FCTR_OP_NSFD, .stage = FCTR_ST_NETNS, .slot = FCTR_SLOT_NET, .slot2 = FCTR_SLOT_NSDIR, .s1 = NET_AT },
	{ .op = FCTR_OP_NET_HASH, .stage = FCTR_ST_NETNS, .slot = -1, .slot2 = -1, .s1 = FILES_AT },
};
static struct fctr_step check_v[] = {
	{ .op = FCTR_OP_SETNS, .stage = FCTR_ST_NETNS, .slot = FCTR_SLOT_NET, .slot2 = -1, .a = CLONE_NEWNET },
	{ .op = FCTR_OP_NET_HASH, .stage = FCTR_ST_NETNS, .slot = -1, .slot2 = -1, .s1 = FILES_AT },
};
static const struct fctr_steps make_steps = { make_v, ARRAY_LEN(make_v), 0 };
static const struct fctr_steps check_steps = { check_v, ARRAY_LEN(check_v), 0 };

static bool looks_fresh(struct fctr_ctx *ctx, struct fctr_netns *net, char *stack)
{
	int slot[FCTR_SLOT_TREE];
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct fctr_result result;
	struct fctr_error err;

	for (size_t i = 0; i < ARRAY_LEN(slot); i++)
		slot[i] = -1;
	slot[FCTR_SLOT_NET] = net->fd;
	return fctr_helper(ctx, &check_steps, blob, slot, &params, stack, &result, &err) == 0 &&
	       result.hash == net->hash;
}

struct fctr_netns *fctr_netns_get(struct fctr_ctx *ctx, char *stack, struct fctr_error *err)
{
	int slot[FCTR_SLOT_TREE];
	struct fctr_params params = { .owner_pidfd = -1, .err_fd = -1, .stub_fd = -1 };
	struct fctr_result result;
	struct fctr_netns *net;
	int r;

	for (;;) {
		pthread_mutex_lock(&ctx->lock);
		net = ctx->nets;
		if (net) {
			ctx->nets = net->next;
			ctx->n_nets--;
		}
		pthread_mutex_unlock(&ctx->lock);
		if (!net)
			break;
		if (!net->used || looks_fresh(ctx, net, stack)) {
			pthread_mutex_lock(&ctx->lock);
			ctx->counters.net_reused++;
			pthread_mutex_unlock(&ctx->lock);
			return net;
		}
		fctr_netns_drop(net);
	}
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
