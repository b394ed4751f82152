/*
 * The frame of one shard's dispatcher: its pump, its timer, its ends.
 *
 * Invariants
 *  1. Callbacks record and ask for the pump; the pump acts. It is idempotent.
 *  2. The timer is due at or before the earliest deadline, the earliest end of a
 *     wait, the earliest lane and the earliest job that are due: every change of
 *     these is followed by the pump, which sets it.
 */
#include <stdlib.h>

#include "admission-i.h"
#include "attempt-i.h"
#include "dispatch-i.h"
#include "jobs-i.h"
#include "lane-i.h"
#include "live-i.h"
#include "pace-i.h"
#include "reload-i.h"
#include "shed-i.h"
#include "tenants-i.h"
#include "throttle-i.h"
#include "watch-i.h"

int64_t dispatch_after(int64_t us, int64_t ms)
{
	return ms >= (INT64_MAX - MAX(us, 0)) / 1000 ? INT64_MAX : us + ms * 1000;
}

static void arm(struct dispatch *d)
{
	int64_t items_us = MIN(op_next(&d->ops), heap_min(&d->waits));

	loop_timer_by(d->timer, MIN(items_us, MIN(heap_min(&d->lane_waits), jobs_next(d))));
}

/* The store owes no answer either: nothing would be there to take it. */
static bool is_idle(const struct dispatch *d)
{
	return list_empty(&d->live) && jobs_loading(d) == 0 && d->answers == 0;
}

static void pump(struct loop_call *call)
{
	struct dispatch *d = container_of(call, struct dispatch, pump);

	lanes_pump(d);
	batches_pump(d);
	jobs_pump(d);
	watches_pump(d);
	arm(d);
	if (d->draining && d->on_idle != NULL && is_idle(d))
		STEAL_PTR(d->on_idle)(d->on_idle_arg);
}

static void on_timer(void *arg)
{
	struct dispatch *d = arg;
	int64_t now_us = loop_now_us(d->env.loop);

	op_expire(&d->ops, now_us);
	batches_wake(d, now_us);
	lanes_wake(d, now_us);
	jobs_wake(d, now_us);
	dispatch_pump_soon(d);
}

void dispatch_group_init(struct dispatch_group *g, const struct config *c)
{
	g->service_slots = c->service_slots;
	g->loads = xcalloc(g->service_slots + 1, sizeof *g->loads);
	g->boards = xcalloc(g->service_slots, sizeof *g->boards);
}

void dispatch_group_free(struct dispatch_group *g)
{
	dispatch_tenants_free(&g->tenants);
	free(g->loads);
	free(g->boards);
}

struct dispatch *dispatch_new(const struct dispatch_env *env)
{
	struct dispatch *d = xcalloc(1, sizeof *d);

	d->env = *env;
	if (env->seed == 0)
		rng_seed_from_os(&d->rng);
	else
		rng_seed(&d->rng, env->seed);
	held_init(d);
	op_tree_init(&d->ops, &d->root);
	loop_call_init(&d->pump, pump);
	list_init(&d->live);
	list_init(&d->dirty);
	list_init(&d->spare);
	list_init(&d->changed);
	paces_init(d);
	admission_init(d);
	shed_init(d);
	throttle_init(d);
	jobs_init(d);
	lanes_init(d);
	d->timer = loop_timer_new(env->loop, LOOP_NORMAL, on_timer, d);
	return d;
}

void dispatch_free(struct dispatch *d)
{
	if (d == NULL)
		return;
	REQUIRE(is_idle(d));
	attempts_free(d);
	jobs_free(d);
	paces_free(d);
	admission_free(d);
	throttle_free(d);
	idmap_free(&d->watches);
	loop_call_cancel(&d->pump);
	loop_timer_free(d->timer);
	lanes_free(d);
	held_free(d);
	idmap_free(&d->live_by_id);
	heap_free(&d->waits);
	op_tree_free(&d->ops);
	free(d);
}

bool dispatch_draining(const struct dispatch *d)
{
	return d->draining;
}

struct dispatch_usage dispatch_usage(const struct dispatch *d)
{
	return (struct dispatch_usage){
		.batches = (unsigned)d->live_by_id.n,
		.lanes = (unsigned)d->lanes.n - d->n_idle_lanes,
		.turns = (unsigned)(d->turns.n + d->shares.n + d->visits.n),
		.ops = d->ops.live,
		.waits = d->waits.n,
		.claims = d->claims,
		.loads = jobs_loading(d),
		.watches = (unsigned)d->watches.n,
		.backlog = jobs_backlog(d),
	};
}
