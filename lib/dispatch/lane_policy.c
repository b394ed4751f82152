/*
 * What a lane lets start, and when: a downstream's wish for a pause, the rate,
 * the breaker, the retry budget, and the shard's slots. What waits here holds
 * nothing: no slot, no claim ahead of its time, no connection.
 *
 * Invariants
 *  1. An attempt starts only if all of them agree at that instant, and each is
 *     told of the start before the next one is asked for.
 *  2. A lane with something that waits is in d->lane_waits, or among those that
 *     wait for a slot, or has so much in flight or claimed that an end of these
 *     will wake it.
 *  3. Policies are looked up at use: another configuration counts from its first
 *     look on.
 *  4. A lane keeps to its own part of what its service allows per origin, and the
 *     parts add up: so all of an origin's lanes keep to the whole.
 */
#include "attempt-i.h"
#include "core/part.h"
#include "lane-i.h"
#include "obs/log.h"
#include "residency-i.h"

/* It is looked at again then at the latest. */
static void lane_again(struct lane *lane, int64_t at_us)
{
	lane->again_us = MIN(lane->again_us, at_us);
}

/* ---- its part ---- */

static unsigned max_in_flight_of(const struct service *s, const struct lane *lane)
{
	return part_of(s->max_in_flight, s->lanes, lane->number);
}

static struct rate_policy rate_of(const struct service *s, const struct lane *lane)
{
	return rate_part(&s->rate, s->lanes, lane->number);
}

static struct budget_policy budget_of(const struct dispatch *d, const struct lane *lane)
{
	const struct service *s = lane_service(d, lane);

	return budget_part(&s->retry_budget, s->lanes);
}

/* ---- slots ---- */

static bool slots_may_take(const struct dispatch *d, uint16_t service)
{
	size_t limit = d->env.config->limits.in_flight;

	return services_share(d) ? residency_may_take(&d->slots, limit, service) : d->slots.used < limit;
}

/* It waits until one is free for its service. */
static void slots_starve(struct dispatch *d, struct lane *lane)
{
	if (lane->starved)
		return;
	list_remove(&lane->dirty);
	list_append(&d->starved[lane->service], &lane->dirty);
	lane->starved = true;
	d->n_starved++;
}

/* A slot is free: services take turns, and of one that may take it the lane that
 * has waited the longest, before the lane that gave it up can take it back. */
void slots_wake(struct dispatch *d)
{
	size_t n = d->env.config->n_services;

	for (size_t i = 0; i < n && d->n_starved > 0; i++) {
		size_t service = d->starved_turn++ % n;

		if (list_empty(&d->starved[service]) || !slots_may_take(d, (uint16_t)service))
			continue;
		lane_dirty(d, list_entry(d->starved[service].next, struct lane, dirty));
		return;
	}
}

/* ---- what is shown ---- */

static void count_state(struct dispatch *d, const struct lane *lane, enum breaker_state state, int n)
{
	if (state != BREAKER_CLOSED)
		meter_add(d->env.meter, METRIC_BREAKERS, lane->service, state - BREAKER_OPEN, n);
}

static void log_breaker(const struct dispatch *d, const struct lane *lane)
{
	const struct service *s = lane_service(d, lane);

	log_event(lane->breaker.state == BREAKER_OPEN ? LOG_WARN : LOG_INFO, "breaker",
		  LOG_STR("service", s->name), LOG_SLICE("origin", lane->origin),
		  LOG_STR("state", breaker_state_str(lane->breaker.state)),
		  LOG_INT(s->lanes > 1 ? "lane" : NULL, lane->number));
}

/* The breaker may have moved on from `before`. */
static void note_breaker(struct dispatch *d, const struct lane *lane, enum breaker_state before)
{
	enum breaker_state after = lane->breaker.state;

	if (after == before)
		return;
	count_state(d, lane, before, -1);
	count_state(d, lane, after, 1);
	meter_add(d->env.meter, METRIC_BREAKER_TRANSITIONS, lane->service, after, 1);
	log_breaker(d, lane);
}

static void set_waits_for(struct dispatch *d, struct lane *lane, enum lane_wait what)
{
	if (what != LANE_WAIT_NOTHING && what != lane->waits_for)
		meter_add(d->env.meter, METRIC_LANE_WAITS, lane->service, what - 1, 1);
	lane->waits_for = what;
}

/* ---- the breaker ---- */

bool lane_refuses(const struct dispatch *d, const struct lane *lane, int64_t now_us)
{
	return breaker_next_us(&lane->breaker, &lane_service(d, lane)->breaker) > now_us;
}

/* It moves with time, also while nobody asks: what is shown of it is true. */
void lane_move_breaker(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	const struct breaker_policy *p = &lane_service(d, lane)->breaker;
	enum breaker_state before = lane->breaker.state;

	(void)breaker_admits(&lane->breaker, p, now_us);
	note_breaker(d, lane, before);
	lane_again(lane, breaker_moves_us(&lane->breaker, p));
}

/* With the probe out nobody knows how long. */
struct outcome lane_refusal(const struct dispatch *d, const struct lane *lane, int64_t now_us)
{
	int64_t next_us = breaker_next_us(&lane->breaker, &lane_service(d, lane)->breaker);

	return (struct outcome){
		.code = CODE_CIRCUIT_OPEN,
		.phase = PHASE_QUEUE,
		.retry_after_ms = next_us == INT64_MAX ? RETRY_AFTER_NONE : (next_us - now_us + 999) / 1000,
	};
}

/* ---- the pause ---- */

bool lane_pauses(const struct lane *lane, int64_t now_us)
{
	return lane->paused_until_us - now_us > LANE_AHEAD_US;
}

/* ---- what may start ---- */

/* When pause and rate let the next one start. */
static int64_t opens_us(const struct dispatch *d, const struct lane *lane)
{
	const struct rate_policy rate = rate_of(lane_service(d, lane), lane);

	return MAX(lane->paused_until_us, rate_next_us(&lane->rate, &rate));
}

bool lane_lacks_budget(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	const struct budget_policy p = budget_of(d, lane);

	return budget_left(&lane->budget, &p, now_us) == 0;
}

static void wait_for_budget(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	const struct budget_policy p = budget_of(d, lane);

	lane_again(lane, budget_next_us(&lane->budget, &p, now_us));
	set_waits_for(d, lane, LANE_WAIT_BUDGET);
}

/* First attempts pass repeats that have no budget. */
static enum turn_kind kind_now(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	bool repeats = lane->ready.n[TURN_ANY] > lane->ready.n[TURN_FIRST];

	return repeats && lane_lacks_budget(d, lane, now_us) ? TURN_FIRST : TURN_ANY;
}

struct attempt *lane_next(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	int64_t at_us = opens_us(d, lane);
	struct attempt *a;

	if (lane->ready.n[TURN_ANY] == 0 || lane_refuses(d, lane, now_us) ||
	    lane->in_flight >= max_in_flight_of(lane_service(d, lane), lane))
		return NULL;
	if (at_us > now_us) {
		lane_again(lane, at_us);
		set_waits_for(d, lane, lane->paused_until_us > now_us ? LANE_WAIT_PAUSE : LANE_WAIT_RATE);
		return NULL;
	}
	a = turns_next(&lane->ready, kind_now(d, lane, now_us));
	if (a == NULL) {
		wait_for_budget(d, lane, now_us);
	} else if (!slots_may_take(d, lane->service)) {
		slots_starve(d, lane);
		return NULL;
	}
	return a;
}

/* ---- claims ---- */

/* As many as may be in flight are claimed ahead, so that a slot that gets free
 * does not wait for the disk; but only what can start soon, because a claimed
 * attempt counts as one if this process dies. */
unsigned lane_claims(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	const struct service *s = lane_service(d, lane);
	const struct rate_policy rate = rate_of(s, lane);
	int64_t soon_us = now_us + LANE_AHEAD_US, at_us = opens_us(d, lane);

	if (lane_refuses(d, lane, now_us))
		return 0;
	if (at_us > soon_us) {
		lane_again(lane, at_us - LANE_AHEAD_US);
		return 0;
	}
	if (lane->breaker.state != BREAKER_CLOSED)
		return 1;
	return MIN(max_in_flight_of(s, lane), rate_count(&lane->rate, &rate, now_us, soon_us));
}

enum turn_kind lane_claim_kind(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	const struct budget_policy p = budget_of(d, lane);

	if (lane->unclaimed.n[TURN_ANY] == lane->unclaimed.n[TURN_FIRST] ||
	    budget_left(&lane->budget, &p, now_us) > lane->claimed_repeats)
		return TURN_ANY;
	/* If claimed ones hold what is left, their starts or ends wake the lane. */
	if (lane_lacks_budget(d, lane, now_us))
		wait_for_budget(d, lane, now_us);
	return TURN_FIRST;
}

/* ---- what happened ---- */

void lane_started(struct dispatch *d, struct lane *lane, struct attempt *a)
{
	const struct service *s = lane_service(d, lane);
	const struct rate_policy rate = rate_of(s, lane);
	const struct budget_policy budget = budget_of(d, lane);
	enum breaker_state before = lane->breaker.state;
	bool admitted = breaker_admits(&lane->breaker, &s->breaker, a->started_us);

	REQUIRE(admitted);
	note_breaker(d, lane, before);
	a->breaker_period = breaker_started(&lane->breaker);
	lane_show_breaker(d, lane);
	rate_take(&lane->rate, &rate, 1, a->started_us);
	lane_show_rate(d, lane);
	if (a->repeat)
		budget_repeat(&lane->budget, &budget, a->started_us);
	else
		budget_first(&lane->budget, &budget, a->started_us);
	set_waits_for(d, lane, LANE_WAIT_NOTHING);
	residency_take(&d->slots, lane->service, 1);
	lane->in_flight++;
}

void lane_pause(struct dispatch *d, struct lane *lane, int64_t until_us)
{
	lane->paused_until_us = MAX(lane->paused_until_us, until_us);
	lane_show_pause(d, lane);
	if (!lane->paused)
		meter_add(d->env.meter, METRIC_LANES_PAUSED, lane->service, 0, 1);
	lane->paused = true;
}

/* The downstream asks for a pause, of everybody: 429 and 503 with Retry-After. */
static void pause(struct dispatch *d, struct lane *lane, const struct attempt *a)
{
	int64_t wish_ms = MIN(a->outcome.retry_after_ms, lane_service(d, lane)->max_pause_ms);

	if ((a->outcome.http_status != 429 && a->outcome.http_status != 503) || wish_ms <= 0)
		return;
	lane_pause(d, lane, a->done_us + wish_ms * 1000);
	spread_pause(d, lane);
	meter_add(d->env.meter, METRIC_LANE_PAUSES, lane->service, 0, 1);
}

void lane_ended(struct dispatch *d, struct lane *lane, struct attempt *a)
{
	const struct service *s = lane_service(d, lane);
	enum breaker_state before = lane->breaker.state;
	bool cut_short = a->done_us - a->started_us < s->attempt_timeout_ms * 1000;

	breaker_ended(&lane->breaker, &s->breaker, a->breaker_period, breaker_hears(&a->outcome, cut_short),
		      a->done_us);
	note_breaker(d, lane, before);
	lane_show_breaker(d, lane);
	pause(d, lane, a);
	residency_give(&d->slots, lane->service, 1);
	lane->in_flight--;
}

void lane_unpause(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	if (!lane->paused)
		return;
	if (lane->paused_until_us > now_us) {
		lane_again(lane, lane->paused_until_us);
		return;
	}
	lane->paused = false;
	meter_add(d->env.meter, METRIC_LANES_PAUSED, lane->service, 0, -1);
}

void lane_change_rate(struct dispatch *d, struct lane *lane, const struct service *was, int64_t now_us)
{
	const struct rate_policy from = rate_of(was, lane), to = rate_of(lane_service(d, lane), lane);

	rate_change(&lane->rate, &from, &to, now_us);
}

bool lane_is_new(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	const struct service *s = lane_service(d, lane);
	const struct budget_policy budget = budget_of(d, lane);

	/* What its service no longer leads to is nobody's concern. */
	if (lane->stale)
		return true;
	return lane->paused_until_us <= now_us && rate_idle(&lane->rate, now_us) &&
	       budget_idle(&lane->budget, &budget, now_us) &&
	       breaker_idle(&lane->breaker, &s->breaker, now_us);
}

void lane_forget(struct dispatch *d, struct lane *lane)
{
	count_state(d, lane, lane->breaker.state, -1);
	if (lane->paused)
		meter_add(d->env.meter, METRIC_LANES_PAUSED, lane->service, 0, -1);
	meter_add(d->env.meter, METRIC_LANES, lane->service, 0, -1);
}
