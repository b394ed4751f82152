/*
 * The configurations that this shard uses: the current one, and those that
 * attempts in flight were started under.
 *
 * Invariants
 *  1. d->env.config is d->held->config.
 *  2. A held configuration that is not the current one is in d->old exactly while
 *     it has attempts; with the last of them its reference is dropped.
 *  3. Nothing else keeps a pointer into a configuration over a turn of the loop.
 */
#include <stdlib.h>

#include "attempt-i.h"
#include "dispatch-i.h"
#include "lane-i.h"
#include "live-i.h"
#include "reload-i.h"

static void let_go(struct held_config *h)
{
	list_remove(&h->node);
	config_unref(h->config);
	free(h);
}

static void hold(struct dispatch *d, struct config *take)
{
	d->held = xcalloc(1, sizeof *d->held);
	list_init(&d->held->node);
	d->held->config = d->env.config = take;
}

void held_init(struct dispatch *d)
{
	list_init(&d->old);
	hold(d, config_ref(d->env.config));
}

void held_free(struct dispatch *d)
{
	REQUIRE(list_empty(&d->old) && d->held->attempts == 0);
	let_go(d->held);
}

void dispatch_reload(struct dispatch *d, struct config *take)
{
	struct held_config *was = d->held;

	hold(d, take);
	lanes_reload(d, was->config);
	batches_reload(d);
	if (was->attempts == 0)
		let_go(was);
	else
		list_append(&d->old, &was->node);
	dispatch_pump_soon(d);
}

void held_start(struct dispatch *d, struct attempt *a)
{
	a->held = d->held;
	a->held->attempts++;
}

const struct service *held_service(const struct attempt *a)
{
	return &a->held->config->services[a->service];
}

void held_done(struct dispatch *d, struct attempt *a)
{
	struct held_config *h = STEAL_PTR(a->held);

	if (--h->attempts == 0 && h != d->held)
		let_go(h);
}
