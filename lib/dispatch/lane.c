/*
 * Lanes: everything about one (service, origin) is here, written by one shard. Where an
 * origin has several, each is the only one for its part; see spread.c.
 *
 *   submit ─┬─ plain ───────────────────────────────► ready ──► in flight ──► handed back
 *           └─ durable ─► unclaimed ─► claim asked ─► ▲ │           │ cancel: the transfer is
 *                             │ cancel       ┆          │ cancel    ▼ ended, its answer follows
 *                             ▼              ▼          ▼
 *                           `ended`, handed back by the pump; an asked claim is waited for
 *
 * What waits may be turned away as well: while the breaker is open it is refused,
 * and while the lane pauses it waits with its batch, where it counts as nothing
 * that is under way. It is back LANE_AHEAD_US before the pause is over, so that
 * claims are there and turns are taken among all who want one; what is shorter
 * than that is waited for here. A visit is one batch's presence on this shard: the
 * op that a cancel of the batch arrives at.
 *
 * Invariants
 *  1. lane.in_flight <= its part of max_in_flight; all lanes' together <= the
 *     shard's cap, of which each of several services leaves the others a part.
 *  2. An attempt is in lane.unclaimed, with the store, in lane.ready, in flight or
 *     in d->ended.
 *  3. A visit exists exactly while attempts of its batch are on this shard.
 *  4. A lane exists while it has attempts, and after that until it is as if it were
 *     new; but of those that are idle at most LANES_IDLE_MAX.
 *  5. No attempt starts once its batch's gate is closed, cancel seen or not.
 *  6. lane.claims counts its attempts whose claim is asked for or held and that
 *     have not started: <= its part of max_in_flight. They hold no slot in flight,
 *     so a store that does not answer stops no plain attempt.
 *  7. Nothing is queued in a lane for longer than the pump takes while it refuses, or
 *     pauses for more than LANE_AHEAD_US.
 *  8. Nothing starts in a stale lane: its attempts go back to their batches, and
 *     from there into the lane that their service has now, or to their end.
 */
#include <stdlib.h>

#include "attempt-i.h"
#include "lane-i.h"
#include "residency-i.h"

/* LANES_IDLE_MAX: about a KiB each. */
enum { PUMP_LIMIT_US = 500, LANES_IDLE_MAX = 4096 };

struct visit {
	struct idmap_node node;          /* key: batch */
	struct op op;
};

void lanes_init(struct dispatch *d)
{
	size_t n = d->env.config->service_slots;

	list_init(&d->all_lanes);
	list_init(&d->dirty_lanes);
	list_init(&d->idle_lanes);
	list_init(&d->ended);
	d->starved = xcalloc(n, sizeof *d->starved);
	for (size_t i = 0; i < n; i++)
		list_init(&d->starved[i]);
	residency_init(&d->slots, n);
}

static void lane_free(struct dispatch *d, struct lane *lane)
{
	lane_forget(d, lane);
	heap_remove(&d->lane_waits, &lane->wake);
	list_remove(&lane->all);
	list_remove(&lane->dirty);
	list_remove(&lane->idle);
	idmap_remove(&d->lanes, &lane->node);
	turns_free(&lane->ready);
	turns_free(&lane->unclaimed);
	free((char *)lane->origin.p);
	free(lane);
}

static void idle_free(struct dispatch *d, struct lane *lane)
{
	d->n_idle_lanes--;
	lane_free(d, lane);
}

void lanes_free(struct dispatch *d)
{
	while (!list_empty(&d->idle_lanes))
		idle_free(d, list_entry(d->idle_lanes.next, struct lane, idle));
	REQUIRE(d->lanes.n == 0 && d->visits.n == 0 && d->turns.n == 0 && d->shares.n == 0 && d->slots.used == 0);
	heap_free(&d->lane_waits);
	idmap_free(&d->lanes);
	idmap_free(&d->visits);
	idmap_free(&d->turns);
	idmap_free(&d->shares);
	residency_free(&d->slots);
	free(d->starved);
	channel_scratch_free(&d->scratch);
	buf_free(&d->key);
}

void lane_dirty(struct dispatch *d, struct lane *lane)
{
	if (lane->starved)
		d->n_starved--;
	lane->starved = false;
	list_remove(&lane->dirty);
	list_append(&d->dirty_lanes, &lane->dirty);
	dispatch_pump_soon(d);
}

void lanes_wake(struct dispatch *d, int64_t now_us)
{
	struct heap_node *node;

	while ((node = heap_pop(&d->lane_waits, now_us)) != NULL)
		lane_dirty(d, container_of(node, struct lane, wake));
}

/* A webhook's origins are its callers' choice. */
static bool is_stale(const struct dispatch *d, const struct lane *lane)
{
	const struct service *s = lane_service(d, lane);
	CLEANUP(buf_free) struct buf origin = {0};

	if (s->removed || s->kind != SERVICE_HTTP)
		return s->removed;
	channel_origin(s, (struct slice){0}, &origin);
	return !slice_eq(buf_slice(&origin), lane->origin);
}

void lanes_reload(struct dispatch *d, const struct config *was)
{
	int64_t now_us = loop_now_us(d->env.loop);

	boards_wipe_rates(d, was);
	list_foreach(node, &d->all_lanes) {
		struct lane *lane = list_entry(node, struct lane, all);

		lane_change_rate(d, lane, &was->services[lane->service], now_us);
		lane->stale = is_stale(d, lane);
		lane_show_rate(d, lane);
		lane_show_breaker(d, lane);
		lane_dirty(d, lane);
	}
}

static void add_idle(struct dispatch *d, struct lane *lane)
{
	list_append(&d->idle_lanes, &lane->idle);
	d->n_idle_lanes++;
}

static struct lane *lane_new(struct dispatch *d, const struct lane_name *name, struct batch_id key)
{
	struct lane *lane = xcalloc(1, sizeof *lane);
	char *origin = xcalloc(1, name->origin.n + 1);

	if (name->origin.n > 0)
		memcpy(origin, name->origin.p, name->origin.n);
	lane->origin = (struct slice){origin, name->origin.n};
	lane->service = name->service;
	lane->number = name->number;
	lane->stale = is_stale(d, lane);
	list_append(&d->all_lanes, &lane->all);
	list_init(&lane->dirty);
	add_idle(d, lane);
	idmap_add(&d->lanes, &lane->node, key);
	meter_add(d->env.meter, METRIC_LANES, lane->service, 0, 1);
	return lane;
}

struct lane *lane_find(struct dispatch *d, const struct lane_name *name)
{
	struct batch_id key = {.hi = (uint64_t)name->number << 16 | name->service, .lo = name->hash};

	for (struct idmap_node *n = idmap_find(&d->lanes, key); n != NULL; n = idmap_next(n)) {
		struct lane *lane = container_of(n, struct lane, node);

		if (slice_eq(lane->origin, name->origin))
			return lane;
	}
	return lane_new(d, name, key);
}

/* For an attempt: it is not idle any more. */
static struct lane *lane_get(struct dispatch *d, const struct attempt *a)
{
	struct lane *lane = lane_find(d, &(struct lane_name){.service = a->service, .number = a->number, .hash = a->hash,
							      .origin = buf_slice(&a->origin)});

	if (!list_empty(&lane->idle))
		d->n_idle_lanes--;
	list_remove(&lane->idle);
	return lane;
}

/* With nothing to do it stays while there is something to be remembered of it;
 * over the bound the one goes that has been idle for the longest. */
static void lane_rest(struct dispatch *d, struct lane *lane, int64_t now_us)
{
	if (lane->in_flight > 0 || lane->claims > 0 || lane->ready.n[TURN_ANY] > 0 ||
	    lane->unclaimed.n[TURN_ANY] > 0)
		return;
	if (list_empty(&lane->idle))
		add_idle(d, lane);
	if (lane_is_new(d, lane, now_us))
		idle_free(d, lane);
	while (d->n_idle_lanes > 1) {
		struct lane *oldest = list_entry(d->idle_lanes.next, struct lane, idle);

		if (d->n_idle_lanes <= LANES_IDLE_MAX && !lane_is_new(d, oldest, now_us))
			return;
		idle_free(d, oldest);
	}
}

static struct visit *visit_get(struct dispatch *d, const struct attempt *a)
{
	struct idmap_node *node = idmap_find(&d->visits, a->batch);
	struct visit *v;

	if (node != NULL)
		return container_of(node, struct visit, node);
	v = xcalloc(1, sizeof *v);
	idmap_add(&d->visits, &v->node, a->batch);
	op_start(&d->ops, &v->op, &d->root, a->batch_deadline_us, WHY_DEADLINE, NULL);
	return v;
}

static void visit_drop_if_empty(struct dispatch *d, struct visit *v)
{
	if (!list_empty(&v->op.children))
		return;
	op_finish(&d->ops, &v->op);
	idmap_remove(&d->visits, &v->node);
	free(v);
}

/* Hand the attempt back to its batch's shard. */
void lane_give_back(struct dispatch *d, struct attempt *a)
{
	struct visit *v = a->visit;

	a->why = (enum why)a->op.why;
	op_finish(&d->ops, &a->op);
	visit_drop_if_empty(d, v);
	a->msg.run = batch_on_result;
	loop_post(a->owner->env.loop, &a->msg);
}

void lane_unqueue(struct dispatch *d, struct attempt *a)
{
	turns_remove(d, a);
	meter_add(d->env.meter, METRIC_LANE_QUEUED, a->service, 0, -1);
	if (a->repeat)
		meter_add(d->env.meter, METRIC_REPEATS_QUEUED, a->service, 0, -1);
	if (a->claimed != CLAIM_HELD)
		return;
	a->lane->claims--;
	a->lane->claimed_repeats -= a->repeat;
	d->claims--;
}

static void on_attempt_cancel(struct op *op, enum why why)
{
	struct attempt *a = container_of(op, struct attempt, op);
	struct dispatch *d = a->at;

	if (a->transfer != NULL) {
		xfer_cancel(a->transfer);
	} else if (a->turn != NULL) {
		if (a->repeat && why_is_deadline(why) && lane_lacks_budget(d, a->lane, loop_now_us(d->env.loop)))
			a->end = ATTEMPT_NO_BUDGET;
		lane_dirty(d, a->lane);
		lane_unqueue(d, a);
		list_append(&d->ended, &a->node);
	}
}

/* A batch that is parked or shed loses what has not started; what is in flight may finish. */
static void end_waiting(struct dispatch *d, struct visit *v, enum why why)
{
	list_foreach(node, &v->op.children) {
		struct attempt *a = container_of(node, struct attempt, op.sibling);

		if (a->end != ATTEMPT_TRIED)
			op_cancel(&d->ops, &a->op, why);
	}
}

void lane_on_cancel(struct dispatch *d, struct batch_id batch, enum why why)
{
	struct idmap_node *node = idmap_find(&d->visits, batch);
	struct visit *v = node == NULL ? NULL : container_of(node, struct visit, node);

	if (v == NULL)
		return;
	if (why == WHY_PARKED || why == WHY_SHED)
		end_waiting(d, v, why);
	else
		op_cancel(&d->ops, &v->op, why);
}

void lane_on_submit(struct loop_msg *msg)
{
	struct attempt *a = container_of(msg, struct attempt, msg);
	struct dispatch *d = a->at;

	a->visit = visit_get(d, a);
	op_start(&d->ops, &a->op, &a->visit->op, a->deadline_us, a->at_deadline, on_attempt_cancel);
	dispatch_pump_soon(d);
	if (a->op.why != WHY_NONE || gate_why(a->gate) != WHY_NONE) {
		list_append(&d->ended, &a->node);
		return;
	}
	a->lane = lane_get(d, a);
	turns_add(d, a->durable ? &a->lane->unclaimed : &a->lane->ready, a);
	meter_add(d->env.meter, METRIC_LANE_QUEUED, a->service, 0, 1);
	if (a->repeat)
		meter_add(d->env.meter, METRIC_REPEATS_QUEUED, a->service, 0, 1);
	lane_dirty(d, a->lane);
}

/* ---- the pump ---- */

/* What has not started goes to its batch, which knows what is next. */
static void send_back(struct dispatch *d, struct attempt *a, enum attempt_end end)
{
	a->end = end;
	lane_unqueue(d, a);
	lane_give_back(d, a);
}

/* The timer may be late, or the message was: time decides, not the timer. */
bool lane_ends(struct dispatch *d, struct attempt *a, int64_t now_us)
{
	if (a->op.deadline_us <= now_us) {
		op_cancel(&d->ops, &a->op, (enum why)a->op.at_deadline);
		return true;
	}
	if (gate_why(a->gate) == WHY_NONE)
		return false;
	send_back(d, a, ATTEMPT_ENDED);
	return true;
}

/* Start what may start. With much to do it stops at `until_us` and asks for the
 * pump again: a thousand signatures would otherwise hold up the loop. */
static void start_ready(struct dispatch *d, struct lane *lane, int64_t until_us)
{
	for (;;) {
		int64_t now_us = loop_now_us(d->env.loop);
		struct attempt *a = lane_next(d, lane, now_us);

		if (a == NULL)
			return;
		if (now_us > until_us) {
			lane_dirty(d, lane);
			return;
		}
		if (lane_ends(d, a, now_us))
			continue;
		if (lane_service(d, lane)->kind != a->kind) {
			send_back(d, a, ATTEMPT_MOVED);
			continue;
		}
		turns_charge(a);
		lane_unqueue(d, a);
		flight_start(d, lane, a, now_us);
	}
}

static void refuse(struct dispatch *d, struct attempt *a, int64_t now_us)
{
	a->outcome = lane_refusal(d, a->lane, now_us);
	a->done_us = now_us;
	meter_add(d->env.meter, METRIC_REFUSALS, a->service, 0, 1);
	send_back(d, a, ATTEMPT_REFUSED);
}

/* An open breaker refuses what waits, and a pause lets it wait elsewhere. */
static void turn_away(struct dispatch *d, struct lane *lane, struct turns *q, int64_t until_us)
{
	struct attempt *a;

	while ((a = turns_next(q, TURN_ANY)) != NULL) {
		int64_t now_us = loop_now_us(d->env.loop);
		bool refuses = lane_refuses(d, lane, now_us);

		if (!refuses && !lane_pauses(lane, now_us))
			return;
		if (now_us > until_us) {
			lane_dirty(d, lane);
			return;
		}
		if (lane_ends(d, a, now_us))
			continue;
		if (refuses) {
			refuse(d, a, now_us);
			continue;
		}
		a->paused_until_us = lane->paused_until_us;
		send_back(d, a, ATTEMPT_PAUSED);
	}
}

static void move_away(struct dispatch *d, struct turns *q)
{
	struct attempt *a;

	while ((a = turns_next(q, TURN_ANY)) != NULL)
		send_back(d, a, ATTEMPT_MOVED);
}

/* While the breaker is open or the lane pauses nothing waits here, whatever slots
 * there are. Claims come after the starts: each start, and each claim that is
 * given back, makes place for one. */
static void lane_pump(struct dispatch *d, struct lane *lane, int64_t until_us)
{
	int64_t now_us = loop_now_us(d->env.loop);

	lane->again_us = HEAP_NONE;
	lane_unpause(d, lane, now_us);
	lane_move_breaker(d, lane, now_us);
	if (lane->stale) {
		move_away(d, &lane->ready);
		move_away(d, &lane->unclaimed);
	}
	start_ready(d, lane, until_us);
	turn_away(d, lane, &lane->ready, until_us);
	turn_away(d, lane, &lane->unclaimed, until_us);
	claim_ahead(d, lane, until_us);
	slots_wake(d);
	if (lane->again_us == HEAP_NONE)
		heap_remove(&d->lane_waits, &lane->wake);
	else
		heap_set(&d->lane_waits, &lane->wake, lane->again_us);
	lane_rest(d, lane, now_us);
}

void lanes_pump(struct dispatch *d)
{
	int64_t until_us = loop_now_us(d->env.loop) + PUMP_LIMIT_US;
	struct list now, *node;

	while ((node = list_pop(&d->ended)) != NULL)
		lane_give_back(d, list_entry(node, struct attempt, node));
	list_init(&now);
	list_splice(&now, &d->dirty_lanes);
	while ((node = list_pop(&now)) != NULL)
		lane_pump(d, list_entry(node, struct lane, dirty), until_us);
}
