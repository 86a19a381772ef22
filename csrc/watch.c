/* watch.c: how the background thread sleeps, what it reaps meanwhile, and who is alive.
 *
 * Our child in a pid namespace that is not its own (an exec, or one that joined by pid=): as long
 * as it is not waited for, the init of that namespace cannot end either (pid_namespaces(7)). So
 * whoever waits for that init must not depend on somebody asking after this one as well: the
 * background waits for it, and fctr_wait() finds its status kept.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "core.h"

/* With the lock held. */
void fctr_ctx_wake(struct fctr_ctx *ctx)
{
	uint64_t one = 1;

	if (ctx->asleep && write(ctx->wake_fd, &one, sizeof(one)) == sizeof(one))
		ctx->asleep = false;
}

/* With the lock held, which is let go meanwhile: until there is work or a watched one ended.
 * Returns false when the time was up. */
bool fctr_ctx_sleep(struct fctr_ctx *ctx, int timeout_ms)
{
	struct pollfd few[16], *p = few;
	size_t n = 1, i = 1;
	uint64_t count;
	int r;

	for (struct fctr_container *c = ctx->watched; c; c = c->next_watched)
		n++;
	if (n > ARRAY_LEN(few))
		p = malloc(n * sizeof(*p));
	if (!p) {
		p = few;
		n = ARRAY_LEN(few);
	}
	p[0] = (struct pollfd){ ctx->wake_fd, POLLIN, 0 };
	for (struct fctr_container *c = ctx->watched; c && i < n; c = c->next_watched)
		p[i++] = (struct pollfd){ c->pidfd, POLLIN, 0 };
	ctx->asleep = true;
	pthread_mutex_unlock(&ctx->lock);
	r = poll(p, i, timeout_ms);
	if (r > 0 && p[0].revents && read(ctx->wake_fd, &count, sizeof(count)) < 0)
		r = 1;	/* somebody else's wake-up: look all the same */
	if (p != few)
		free(p);
	pthread_mutex_lock(&ctx->lock);
	ctx->asleep = false;
	for (struct fctr_container **at = &ctx->watched; *at;) {
		if (fctr_reap(*at))
			*at = (*at)->next_watched;
		else
			at = &(*at)->next_watched;
	}
	return r != 0;
}

void fctr_ctx_watch(struct fctr_ctx *ctx, struct fctr_container *c)
{
	pthread_mutex_lock(&ctx->lock);
	if (fctr_ctx_start_thread(ctx)) {
		c->next_watched = ctx->watched;
		ctx->watched = c;
		fctr_ctx_wake(ctx);
	}
	pthread_mutex_unlock(&ctx->lock);
}

void fctr_ctx_unwatch(struct fctr_ctx *ctx, struct fctr_container *c)
{
	pthread_mutex_lock(&ctx->lock);
	for (struct fctr_container **at = &ctx->watched; *at; at = &(*at)->next_watched)
		if (*at == c) {
			*at = c->next_watched;
			break;
		}
	pthread_mutex_unlock(&ctx->lock);
}

/* ---- what is alive ---------------------------------------------------------------------- */

bool fctr_ctx_enter(struct fctr_ctx *ctx)
{
	bool ok;

	pthread_mutex_lock(&ctx->lock);
	ok = !ctx->closing;
	ctx->launching += ok;
	pthread_mutex_unlock(&ctx->lock);
	return ok;
}

void fctr_ctx_started(struct fctr_ctx *ctx, struct fctr_container *c)
{
	pthread_mutex_lock(&ctx->lock);
	ctx->launching--;
	if (c) {
		c->next_live = ctx->live;
		c->at_live = &ctx->live;
		if (ctx->live)
			ctx->live->at_live = &c->next_live;
		ctx->live = c;
	}
	if (ctx->closing)
		pthread_cond_broadcast(&ctx->idle);
	pthread_mutex_unlock(&ctx->lock);
}

void fctr_ctx_gone(struct fctr_ctx *ctx, struct fctr_container *c)
{
	pthread_mutex_lock(&ctx->lock);
	*c->at_live = c->next_live;
	if (c->next_live)
		c->next_live->at_live = c->at_live;
	if (ctx->closing)
		pthread_cond_broadcast(&ctx->idle);
	pthread_mutex_unlock(&ctx->lock);
}

/* Before the context closes: other threads may be in the middle of a start or a wait. End what they
 * wait for, and wait for them, but not for ever: one may be this very thread, further up its stack. */
void fctr_ctx_end_all(struct fctr_ctx *ctx)
{
	struct timespec until;
	struct fctr_error ignored;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	pthread_mutex_lock(&ctx->lock);
	ctx->closing = true;
	while ((ctx->live || ctx->launching) && !ctx->abandoned) {
		for (struct fctr_container *c = ctx->live; c; c = c->next_live)
			if (!c->releasing && c->pidfd >= 0)
				fctr_signal(c, SIGKILL, &ignored);
		if (pthread_cond_timedwait(&ctx->idle, &ctx->lock, &until) == ETIMEDOUT)
			ctx->abandoned = true;
	}
	pthread_mutex_unlock(&ctx->lock);
}
