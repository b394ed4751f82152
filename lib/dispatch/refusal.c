/*
 * Refusals: what those are told that do not come in, and whether the next one would be
 * told the same.
 *
 * Invariants
 *  1. d->refusal is this shard's last one; refuse_batch() alone writes what it says.
 *  2. It stands while there is as much of what it was refused by as there was then, less
 *     what was too much. Level 0: it does not stand.
 */
#include "dispatch-i.h"
#include "pace-i.h"
#include "refusal-i.h"

/* Seconds. Nothing has finished lately, so nobody knows: long enough to matter. */
enum { RETRY_MAX_S = 60, RETRY_UNKNOWN_S = 10 };

static const char *const details[] = {
	[BOUND_ITEMS] = "too many unfinished items; nothing was sent",
	[BOUND_BYTES] = "too many bytes are held for unfinished batches; nothing was sent",
	[BOUND_CALLERS] = "too many callers wait for unfinished batches; nothing was sent",
	[BOUND_SERVICE] = "too many unfinished items of one of its services; nothing was sent",
	[BOUND_PACE] = "a service of its items is too far behind; nothing was sent",
	[BOUND_TENANT_ITEMS] = "too many unfinished items of its tenant; nothing was sent",
	[BOUND_TENANT_BYTES] = "too many bytes are held for unfinished batches of its tenant; nothing was sent",
	[BOUND_TENANT_CALLERS] = "too many callers of its tenant wait for unfinished batches; nothing was sent",
};

/* How much there is of what is bounded; `of`: of which service or tenant. */
static uint64_t level(const struct dispatch *d, enum bound bound, uint16_t of)
{
	const struct dispatch_group *g = d->env.group;

	switch (bound) {
	case BOUND_ITEMS:
		return atomic_load(&g->unfinished);
	case BOUND_BYTES:
		return atomic_load(&g->held_bytes);
	case BOUND_CALLERS:
		return atomic_load(&g->callers);
	case BOUND_SERVICE:
		return atomic_load(&load_of_service(g, of)->items);
	case BOUND_PACE:
		return service_waiting(d, of);
	case BOUND_TENANT_ITEMS:
		return atomic_load(&g->tenants.of[of].unfinished);
	case BOUND_TENANT_BYTES:
		return atomic_load(&g->tenants.of[of].bytes);
	case BOUND_TENANT_CALLERS:
		return atomic_load(&g->tenants.of[of].callers);
	}
	REQUIRE(false);
}

/* How much of it goes in a second; 0: nobody knows. A tenant has as much of the pace of all
 * as it has of the items. */
static double pace_of(const struct dispatch *d, enum bound bound, uint16_t of)
{
	unsigned items = atomic_load(&d->env.group->unfinished);
	double held = (double)level(d, bound, of);

	switch (bound) {
	case BOUND_ITEMS:
		return pace_of_all(d);
	case BOUND_CALLERS:
		return pace_of_all(d) / MAX(items / MAX(held, 1), 1);
	case BOUND_SERVICE:
	case BOUND_PACE:
		return d->paces[of].per_second;
	case BOUND_BYTES:
	case BOUND_TENANT_ITEMS:
	case BOUND_TENANT_BYTES:
	case BOUND_TENANT_CALLERS:
		return pace_of_all(d) * (held / MAX(items, 1u));
	}
	REQUIRE(false);
}

/* Callers that were refused together are not to come back together. */
unsigned dispatch_retry_after(struct dispatch *d, double excess, double per_second)
{
	double seconds = per_second > 0 ? excess / per_second : RETRY_UNKNOWN_S;
	double jittered = seconds * (1 + (double)rng_below(&d->rng, 256) / 1024);

	return (unsigned)MIN(jittered + 1, RETRY_MAX_S);
}

void refuse_batch(struct dispatch *d, enum bound bound, unsigned of, double excess)
{
	double left = (double)level(d, bound, (uint16_t)of) - excess;

	d->refusal = (struct refusal){
		.said = {.detail = details[bound],
			 .retry_after_s = dispatch_retry_after(d, excess, pace_of(d, bound, (uint16_t)of))},
		.bound = bound,
		.of = (uint16_t)of,
		.level = 1 + (uint64_t)MAX(left, 0),
	};
}

struct dispatch_refusal dispatch_last_refusal(const struct dispatch *d)
{
	return d->refusal.said;
}

bool refusal_stands(const struct dispatch *d, unsigned tenant)
{
	const struct refusal *r = &d->refusal;

	if (r->bound >= BOUND_TENANT_ITEMS && r->of != tenant)
		return false;
	return r->level > 0 && level(d, r->bound, r->of) >= r->level;
}

/* This one is smaller or more urgent, or the pace has grown. So nothing is known until the
 * next refusal. */
void refusal_found_room(struct dispatch *d, const struct batch *b)
{
	struct refusal *r = &d->refusal;
	bool of_service = r->bound == BOUND_SERVICE || r->bound == BOUND_PACE;

	if (!of_service || (b->n_items > 0 && b->items[0].service == r->of))
		r->level = 0;
}
