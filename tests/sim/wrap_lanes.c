/*
 * Planted defects in what protects downstreams: the decisions of lib/core's rate,
 * breaker and budget, and of the lanes that ask them, are bent at link time.
 */
#include "dispatch/lane-i.h"
#include "dispatch/live-i.h"
#include "sim.h"
#include "wrap.h"

WRAPPED(void, rate_take, struct rate *r, const struct rate_policy *p, unsigned n, int64_t now_us)
{
	if (sim.plant != PLANT_RATE_UNPAID || dice_chance(80))
		__real_rate_take(r, p, n, now_us);
}

/* Who is idle is forgotten, with all that it owes. */
WRAPPED(bool, lane_is_new, struct dispatch *d, struct lane *lane, int64_t now_us)
{
	return sim.plant == PLANT_LANE_FORGETS || __real_lane_is_new(d, lane, now_us);
}

WRAPPED(int64_t, breaker_next_us, const struct breaker *b, const struct breaker_policy *p)
{
	if (sim.plant == PLANT_TWO_PROBES && b->state == BREAKER_HALF_OPEN)
		return 0;
	return __real_breaker_next_us(b, p);
}

WRAPPED(bool, breaker_admits, struct breaker *b, const struct breaker_policy *p, int64_t now_us)
{
	if (sim.plant == PLANT_TWO_PROBES)
		b->probing = false;
	return __real_breaker_admits(b, p, now_us);
}

WRAPPED(void, breaker_ended, struct breaker *b, const struct breaker_policy *p, uint32_t period, enum breaker_said said,
	int64_t now_us)
{
	if (sim.plant == PLANT_STALE_OUTCOME && b->state != BREAKER_CLOSED)
		period = b->period;
	if (sim.plant == PLANT_PROBE_LOST && b->probing && said == BREAKER_NEITHER)
		return;
	__real_breaker_ended(b, p, period, said, now_us);
}

WRAPPED(enum breaker_said, breaker_hears, const struct outcome *o, bool cut_short)
{
	int status = o->http_status;

	if ((sim.plant == PLANT_4XX_FAILS && status / 100 == 4 && status != 429) ||
	    (sim.plant == PLANT_429_FAILS && status == 429) || (sim.plant == PLANT_ABORT_FAILS && o->code == CODE_ABORTED))
		return BREAKER_FAILURE;
	if (sim.plant == PLANT_5XX_SUCCEEDS && status / 100 == 5)
		return BREAKER_SUCCESS;
	if (sim.plant == PLANT_TIMEOUT_IS_NEITHER && o->code == CODE_TIMEOUT)
		return BREAKER_NEITHER;
	return __real_breaker_hears(o, cut_short);
}

WRAPPED(void, budget_repeat, struct budget *b, const struct budget_policy *p, int64_t now_us)
{
	if (sim.plant != PLANT_REPEAT_UNPAID || dice_chance(50))
		__real_budget_repeat(b, p, now_us);
}

WRAPPED(void, budget_first, struct budget *b, const struct budget_policy *p, int64_t now_us)
{
	if (sim.plant == PLANT_FIRSTS_PAY)
		__real_budget_repeat(b, p, now_us);
	else
		__real_budget_first(b, p, now_us);
}

/* No first attempt passes a repeat that has no budget. */
WRAPPED(struct attempt *, turns_next, const struct turns *q, enum turn_kind kind)
{
	if (sim.plant == PLANT_FIRSTS_WAIT && kind == TURN_FIRST && q->n[TURN_ANY] > q->n[TURN_FIRST])
		return NULL;
	return __real_turns_next(q, kind);
}

/* Of slots, not of room for jobs. */
WRAPPED(bool, residency_may_take, const struct residency *r, size_t limit, uint16_t service)
{
	if (sim.plant == PLANT_UNFAIR_SLOTS && limit == sim.config.limits.in_flight)
		return r->used < limit;
	return __real_residency_may_take(r, limit, service);
}

WRAPPED(void, slots_wake, struct dispatch *d)
{
	if (sim.plant != PLANT_STARVED_SLEEP)
		__real_slots_wake(d);
}

/* What waits stays where it is, and its batch has no more than its concurrency. */
WRAPPED(bool, lane_pauses, const struct lane *lane, int64_t now_us)
{
	return sim.plant != PLANT_WAITS_IN_LANE && __real_lane_pauses(lane, now_us);
}

/* Time passes, and no lane hears of it. */
WRAPPED(void, lanes_wake, struct dispatch *d, int64_t now_us)
{
	while (sim.plant == PLANT_NO_TIMER && heap_pop(&d->lane_waits, now_us) != NULL)
		;
	__real_lanes_wake(d, now_us);
}

WRAPPED(void, item_refuse, struct item *it, const struct outcome *o)
{
	__real_item_refuse(it, o);
	if (sim.plant == PLANT_REFUSED_IS_ATTEMPT)
		it->attempts++;
	if (sim.plant == PLANT_REFUSED_UNCOUNTED || sim.plant == PLANT_REFUSED_IS_ATTEMPT)
		it->refused--;
}

/* ---- the lanes of one origin ---- */

WRAPPED(unsigned, part_of, unsigned whole, unsigned n, unsigned i)
{
	return __real_part_of(whole, n, i) + (sim.plant == PLANT_PARTS_OF_FLIGHT && i > 0);
}

WRAPPED(struct rate_policy, rate_part, const struct rate_policy *p, unsigned n, unsigned i)
{
	return sim.plant == PLANT_PARTS_OF_RATE ? *p : __real_rate_part(p, n, i);
}

WRAPPED(struct budget_policy, budget_part, const struct budget_policy *p, unsigned n)
{
	return sim.plant == PLANT_PARTS_OF_BUDGET ? *p : __real_budget_part(p, n);
}

WRAPPED(void, spread_pause, struct dispatch *d, const struct lane *lane)
{
	if (sim.plant != PLANT_PAUSE_UNTOLD)
		__real_spread_pause(d, lane);
}

/* ---- other limits while it runs ---- */

WRAPPED(void, rate_change, struct rate *r, const struct rate_policy *from, const struct rate_policy *to, int64_t now_us)
{
	if (sim.plant != PLANT_DEBT_FORGIVEN)
		__real_rate_change(r, from, to, now_us);
	else
		r->due_ns = 0;
}

WRAPPED(void, dispatch_reload, struct dispatch *d, struct config *take)
{
	if (sim.plant == PLANT_OLD_LIMITS)
		config_unref(take);
	else
		__real_dispatch_reload(d, take);
}

/* ---- who is let in ---- */

WRAPPED(void, shed_if_full, struct dispatch *d)
{
	if (sim.plant != PLANT_NEVER_SHEDS)
		__real_shed_if_full(d);
}

/* The high-water mark, as it is asked for from outside of the admission. */
WRAPPED(uint64_t, admission_share, uint64_t limit, unsigned priority, bool best_effort)
{
	uint64_t share = __real_admission_share(limit, priority, best_effort);

	return sim.plant == PLANT_SHEDS_EARLY ? share / 8 : share;
}

WRAPPED(bool, config_has_several_tenants, const struct config *c)
{
	return __real_config_has_several_tenants(c) && sim.plant != PLANT_TENANT_TAKES_ALL;
}

WRAPPED(void, admission_give_caller, struct live *lv)
{
	if (sim.plant == PLANT_CALLER_LEAK && lv->awaited && dice_chance(10))
		atomic_fetch_add(&sim.group.tenants.of[lv->tenant].callers, 1);
	__real_admission_give_caller(lv);
}

WRAPPED(void, tenant_unqueue, struct dispatch *d, unsigned tenant, uint32_t n)
{
	if (sim.plant != PLANT_TENANT_LEAK || dice_chance(90))
		__real_tenant_unqueue(d, tenant, n);
}
