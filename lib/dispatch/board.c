/*
 * What lanes show to other threads: each service has a board in the group, written
 * with no lock.
 *
 * Invariants
 *  1. Of an origin that has several lanes each has a place of its own, by its number.
 *     Of all others each shard has one, and shows in it the latest that any of its
 *     lanes of the service came to.
 *  2. A place is written by one shard, but for the pause's. What is read is a hint,
 *     a moment old.
 */
#include "core/part.h"
#include "lane-i.h"

static struct lane_board *board_of(const struct dispatch *d, uint16_t service)
{
	return &d->env.group->boards[service];
}

static void show(_Atomic int64_t *at, int64_t time)
{
	atomic_store_explicit(at, time, memory_order_relaxed);
}

static void show_latest(_Atomic int64_t *at, int64_t time)
{
	int64_t seen = atomic_load_explicit(at, memory_order_relaxed);

	while (time > seen &&
	       !atomic_compare_exchange_weak_explicit(at, &seen, time, memory_order_relaxed, memory_order_relaxed))
		;
}

void lane_show_rate(const struct dispatch *d, const struct lane *lane)
{
	struct lane_board *b = board_of(d, lane->service);
	int64_t due_ns = lane->stale ? 0 : lane->rate.due_ns;

	if (lane_service(d, lane)->lanes > 1)
		show(&b->rate_due_ns[lane->number], due_ns);
	else
		show_latest(&b->rate_due_ns[d->env.shard], due_ns);
}

void lane_show_breaker(const struct dispatch *d, const struct lane *lane)
{
	const struct service *s = lane_service(d, lane);

	if (s->lanes > 1)
		show(&board_of(d, lane->service)->refuses_until_us[lane->number],
		     lane->stale ? 0 : breaker_next_us(&lane->breaker, &s->breaker));
}

void lane_show_pause(const struct dispatch *d, const struct lane *lane)
{
	show_latest(&board_of(d, lane->service)->paused_until_us, lane->paused_until_us);
}

void boards_wipe_rates(const struct dispatch *d, const struct config *was)
{
	for (size_t i = 0; i < was->n_services; i++) {
		if (was->services[i].lanes == 1)
			show(&board_of(d, (uint16_t)i)->rate_due_ns[d->env.shard], 0);
	}
}

/* ---- who looks ---- */

static uint32_t left_at(const struct lane_board *b, unsigned place, const struct rate_policy *p, int64_t now_us)
{
	const struct rate r = {.due_ns = atomic_load_explicit(&b->rate_due_ns[place], memory_order_relaxed)};

	return rate_count(&r, p, now_us, now_us);
}

/* What all of an origin's lanes would let start; of several origins the one that is the
 * furthest behind. */
static uint32_t rate_left(const struct dispatch *d, const struct service *s, const struct lane_board *b)
{
	int64_t now_us = loop_now_us(d->env.loop);
	uint32_t sum = 0, least = UINT32_MAX;

	for (unsigned i = 0; s->lanes > 1 && i < s->lanes; i++) {
		const struct rate_policy p = rate_part(&s->rate, s->lanes, i);

		sum += left_at(b, i, &p, now_us);
	}
	for (unsigned i = 0; s->lanes == 1 && i < d->env.group->n; i++)
		least = MIN(least, left_at(b, i, &s->rate, now_us));
	return s->lanes > 1 ? sum : least;
}

struct dispatch_service dispatch_service(const struct dispatch *d, uint16_t service)
{
	const struct lane_board *b = board_of(d, service);

	return (struct dispatch_service){
		.rate_left = rate_left(d, &d->env.config->services[service], b),
		.paused_until_us = atomic_load_explicit(&b->paused_until_us, memory_order_relaxed),
	};
}
