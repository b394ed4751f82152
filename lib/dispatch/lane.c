/*
 * Lanes: everything about one (service, origin) is here, written by one shard.
 *
 *   submit ─┬─ plain ──────────────────────► ready in a turn ──► in flight ──► handed back
 *           └─ durable ─► unclaimed ─► claim asked ─► ▲ │            │ cancel: the transfer is
 *                             │ cancel       ┆          │ cancel     ▼ ended, its answer follows
 *                             ▼              ▼          ▼
 *                           `ended`, handed back by the pump; an asked claim is waited for
 *
 * A turn is what one batch has queued in one lane; a lane serves its turns round
 * robin, so a batch of 100,000 does not starve a batch of 1. A visit is one
 * batch's presence on this shard: the op that a cancel of the batch arrives at.
 *
 * Invariants
 *  1. lane.in_flight <= the service's max_in_flight; d->in_flight <= the cap.
 *  2. A turn exists exactly while it has attempts. It is in lane.turns while one of
 *     them is ready, and in lane.wanting while one of them is unclaimed.
 *  3. A visit exists exactly while attempts of its batch are on this shard.
 *  4. A lane exists while it has turns or attempts in flight.
 *  5. No attempt starts once its batch's gate is closed, cancel seen or not.
 *  6. lane.claims counts its attempts whose claim is asked for or held and that
 *     have not started: <= max_in_flight. They hold no slot in flight, so a store
 *     that does not answer stops no plain attempt.
 */
#include "dispatch-i.h"

#include <stdlib.h>

#include "base/killpoint.h"

enum { PUMP_LIMIT_US = 500 };

struct lane {
	struct idmap_node node;          /* key: service, hash of the origin */
	struct list dirty;               /* dirty_lanes or starved */
	struct list turns;               /* with something ready */
	struct list wanting;             /* turns with something unclaimed */
	struct slice origin;             /* owned */
	const struct service *service;
	uint16_t service_index;
	unsigned n_turns, in_flight, claims;
};

struct turn {
	struct idmap_node node;          /* key: batch and lane */
	struct list rr, want;            /* its places in lane.turns, lane.wanting */
	struct list ready, unclaimed;
	unsigned asked;                  /* claims, not answered */
	struct lane *lane;
};

struct visit {
	struct idmap_node node;          /* key: batch */
	struct op op;
};

void lanes_init(struct dispatch *d)
{
	list_init(&d->dirty_lanes);
	list_init(&d->starved);
	list_init(&d->ended);
}

void lanes_free(struct dispatch *d)
{
	REQUIRE(d->lanes.n == 0 && d->visits.n == 0 && d->turns.n == 0);
	idmap_free(&d->lanes);
	idmap_free(&d->visits);
	idmap_free(&d->turns);
	channel_scratch_free(&d->scratch);
	buf_free(&d->key);
}

static void lane_dirty(struct dispatch *d, struct lane *lane)
{
	list_remove(&lane->dirty);
	list_append(&d->dirty_lanes, &lane->dirty);
	dispatch_pump_soon(d);
}

static struct lane *lane_get(struct dispatch *d, const struct attempt *a)
{
	struct batch_id key = {.hi = a->service, .lo = a->hash};
	struct lane *lane;
	char *origin;

	for (struct idmap_node *n = idmap_find(&d->lanes, key); n != NULL; n = idmap_next(n)) {
		lane = container_of(n, struct lane, node);
		if (slice_eq(lane->origin, buf_slice(&a->origin)))
			return lane;
	}
	lane = xcalloc(1, sizeof *lane);
	origin = xcalloc(1, a->origin.n + 1);
	if (a->origin.n > 0)
		memcpy(origin, a->origin.p, a->origin.n);
	*lane = (struct lane){.origin = {origin, a->origin.n}, .service_index = a->service,
			      .service = &d->env.config->services[a->service]};
	list_init(&lane->dirty);
	list_init(&lane->turns);
	list_init(&lane->wanting);
	idmap_add(&d->lanes, &lane->node, key);
	return lane;
}

static void lane_drop_if_idle(struct dispatch *d, struct lane *lane)
{
	if (lane->in_flight > 0 || lane->n_turns > 0)
		return;
	list_remove(&lane->dirty);
	idmap_remove(&d->lanes, &lane->node);
	free((char *)lane->origin.p);
	free(lane);
}

static struct turn *turn_get(struct dispatch *d, struct lane *lane, struct batch_id batch)
{
	struct batch_id key = {.hi = batch.hi ^ (uintptr_t)lane, .lo = batch.lo};
	struct turn *turn;

	for (struct idmap_node *n = idmap_find(&d->turns, key); n != NULL; n = idmap_next(n)) {
		turn = container_of(n, struct turn, node);
		if (turn->lane == lane)
			return turn;
	}
	turn = xcalloc(1, sizeof *turn);
	turn->lane = lane;
	list_init(&turn->rr);
	list_init(&turn->want);
	list_init(&turn->ready);
	list_init(&turn->unclaimed);
	lane->n_turns++;
	idmap_add(&d->turns, &turn->node, key);
	return turn;
}

/* Its places are those that its attempts ask for. */
static void turn_set(struct dispatch *d, struct turn *turn)
{
	struct lane *lane = turn->lane;

	if (list_empty(&turn->ready))
		list_remove(&turn->rr);
	else if (list_empty(&turn->rr))
		list_append(&lane->turns, &turn->rr);
	if (list_empty(&turn->unclaimed))
		list_remove(&turn->want);
	else if (list_empty(&turn->want))
		list_append(&lane->wanting, &turn->want);
	if (turn->asked > 0 || !list_empty(&turn->ready) || !list_empty(&turn->unclaimed))
		return;
	lane->n_turns--;
	idmap_remove(&d->turns, &turn->node);
	free(turn);
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
static void give_back(struct dispatch *d, struct attempt *a)
{
	struct visit *v = a->visit;

	a->why = (enum why)a->op.why;
	if (!a->started && a->why == WHY_NONE)
		a->why = gate_why(a->gate);
	op_finish(&d->ops, &a->op);
	visit_drop_if_empty(d, v);
	a->msg.run = batch_on_result;
	loop_post(a->owner->env.loop, &a->msg);
}

/* Out of its turn, which may be gone then; a claim that it held is used up. */
static void unqueue(struct dispatch *d, struct attempt *a)
{
	struct turn *turn = STEAL_PTR(a->turn);

	list_remove(&a->node);
	meter_add(d->env.meter, METRIC_LANE_QUEUED, a->service, 0, -1);
	if (a->claimed == CLAIM_HELD) {
		turn->lane->claims--;
		d->claims--;
	}
	turn_set(d, turn);
}

static void on_attempt_cancel(struct op *op, enum why why)
{
	struct attempt *a = container_of(op, struct attempt, op);
	struct dispatch *d = a->at;

	(void)why;
	if (a->transfer != NULL) {
		xfer_cancel(a->transfer);
	} else if (a->turn != NULL && a->claimed != CLAIM_ASKED) {
		lane_dirty(d, a->turn->lane);
		unqueue(d, a);
		list_append(&d->ended, &a->node);
	}
}

/* A job that is parked loses what has not started; what is in flight may finish. */
static void park(struct dispatch *d, struct visit *v)
{
	list_foreach(node, &v->op.children) {
		struct attempt *a = container_of(node, struct attempt, op.sibling);

		if (!a->started)
			op_cancel(&d->ops, &a->op, WHY_PARKED);
	}
}

void lane_on_cancel(struct dispatch *d, struct batch_id batch, enum why why)
{
	struct idmap_node *node = idmap_find(&d->visits, batch);
	struct visit *v = node == NULL ? NULL : container_of(node, struct visit, node);

	if (v == NULL)
		return;
	if (why == WHY_PARKED)
		park(d, v);
	else
		op_cancel(&d->ops, &v->op, why);
}

void lane_on_submit(struct loop_msg *msg)
{
	struct attempt *a = container_of(msg, struct attempt, msg);
	struct dispatch *d = a->at;
	struct lane *lane;

	a->visit = visit_get(d, a);
	op_start(&d->ops, &a->op, &a->visit->op, a->deadline_us, a->at_deadline, on_attempt_cancel);
	dispatch_pump_soon(d);
	if (a->op.why != WHY_NONE || gate_why(a->gate) != WHY_NONE) {
		list_append(&d->ended, &a->node);
		return;
	}
	lane = lane_get(d, a);
	a->turn = turn_get(d, lane, a->batch);
	list_append(a->durable ? &a->turn->unclaimed : &a->turn->ready, &a->node);
	turn_set(d, a->turn);
	meter_add(d->env.meter, METRIC_LANE_QUEUED, a->service, 0, 1);
	lane_dirty(d, lane);
}

/* ---- claims ---- */

static void on_claimed(struct store_op *op)
{
	struct attempt *a = container_of(op, struct attempt, claim.op);
	struct dispatch *d = a->at;

	/* The store has given up, as the process is about to end: the next one claims it. */
	if (op->answer != STORE_OK)
		op_cancel(&d->ops, &a->op, WHY_SHUTDOWN);
	a->claimed = CLAIM_HELD;
	a->turn->asked--;
	list_append(&a->turn->ready, &a->node);
	lane_dirty(d, a->turn->lane);
	if (a->op.why == WHY_NONE) {
		turn_set(d, a->turn);
		return;
	}
	unqueue(d, a);
	list_append(&d->ended, &a->node);
}

static void ask_claim(struct dispatch *d, struct attempt *a)
{
	struct turn *turn = a->turn;

	list_remove(&a->node);
	turn->asked++;
	turn->lane->claims++;
	d->claims++;
	a->claimed = CLAIM_ASKED;
	a->claim.op = (struct store_op){.what = STORE_CLAIM, .reply_to = d->env.loop, .on_done = on_claimed};
	store_ask(d->env.store, &a->claim.op);
	list_remove(&turn->want);
	turn_set(d, turn);
}

/* As many as may be in flight are claimed ahead, a turn after the other: a slot
 * that gets free does not wait for the disk. */
static void claim_ahead(struct dispatch *d, struct lane *lane, int64_t until_us)
{
	while (lane->claims < lane->service->max_in_flight && !list_empty(&lane->wanting)) {
		struct turn *turn = list_entry(lane->wanting.next, struct turn, want);
		struct attempt *a = list_entry(turn->unclaimed.next, struct attempt, node);
		int64_t now_us = loop_now_us(d->env.loop);

		if (now_us > until_us) {
			lane_dirty(d, lane);
			return;
		}
		if (a->op.deadline_us <= now_us) {
			op_cancel(&d->ops, &a->op, (enum why)a->op.at_deadline);
		} else if (gate_why(a->gate) != WHY_NONE) {
			unqueue(d, a);
			give_back(d, a);
		} else {
			ask_claim(d, a);
		}
	}
}

/* ---- starts ---- */

/* A slot of the shard's own is free: it goes to the lane that has waited for one
 * the longest, before the lane that gave it up can take it back. */
static void wake_starved(struct dispatch *d)
{
	struct list *node;

	if (d->in_flight >= d->env.config->limits.in_flight || (node = list_pop(&d->starved)) == NULL)
		return;
	lane_dirty(d, list_entry(node, struct lane, dirty));
}

/* ---- one attempt in flight ---- */

/* Why a downstream refused is for the operator alone, who asks by log.level. */
static void quote_answer(struct attempt *a, const struct answer *answer)
{
	enum { QUOTE_MAX = 256 };

	if (a->outcome.code != CODE_OK && log_wants(LOG_DEBUG))
		buf_add(&a->quote, answer->body.p, MIN(answer->body.n, (size_t)QUOTE_MAX));
}

static void on_transfer_done(void *arg, const struct answer *answer)
{
	struct attempt *a = arg;
	struct dispatch *d = a->at;
	struct lane *lane = a->lane;

	KILL_POINT("result_not_recorded");
	a->transfer = NULL;
	a->done_us = loop_now_us(d->env.loop);
	channel_classify(lane->service, answer, (enum why)a->op.why, &a->message_id, &a->outcome);
	quote_answer(a, answer);
	lane->in_flight--;
	d->in_flight--;
	meter_add(d->env.meter, METRIC_IN_FLIGHT, a->service, 0, -1);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, 1);
	meter_add(d->env.meter, METRIC_ATTEMPTS, a->service, a->outcome.code, 1);
	meter_observe_us(d->env.meter, METRIC_ATTEMPT_SECONDS, a->service, 0, a->done_us - a->started_us);
	wake_starved(d);
	lane_dirty(d, lane);
	give_back(d, a);
}

/* The dedupe key: the item's own, or "{batch id}.{item id}". */
static struct slice dedupe_key(struct dispatch *d, const struct attempt *a)
{
	char id[BATCH_ID_LEN + 1];

	if (a->item->dedupe_key.p != NULL)
		return a->item->dedupe_key;
	batch_id_format(a->batch, id);
	d->key.n = 0;
	buf_add(&d->key, id, BATCH_ID_LEN);
	buf_add_char(&d->key, '.');
	buf_add_slice(&d->key, a->item->id);
	return buf_slice(&d->key);
}

static struct transfer *transfer_new(struct dispatch *d, struct attempt *a)
{
	const struct item *it = a->item;
	struct channel_message m = {
		.to = it->to,
		.payload = it->payload,
		.id = dedupe_key(d, a),
		.unix_s = a->started_unix_ms / 1000,
		.trace = &it->batch->trace,
		.span_id = a->span_id,
	};
	struct exchange e;

	if (d->key.failed || !channel_encode(a->lane->service, &m, &d->scratch, &e))
		return NULL;
	e.answer_limit = d->env.config->limits.answer_bytes;
	return xfer_start(d->env.xfer, &e, on_transfer_done, a);
}

/* `now_us` was read before the deadline and the gate were: the attempt's start
 * is the instant at which it still might. */
static void start(struct dispatch *d, struct lane *lane, struct attempt *a, int64_t now_us)
{
	int64_t timeout_us;

	a->lane = lane;
	a->started_us = now_us;
	a->started_unix_ms = loop_unix_ms(d->env.loop);
	timeout_us = a->started_us + a->timeout_us;
	if (timeout_us < a->op.deadline_us)
		op_set_deadline(&d->ops, &a->op, timeout_us, WHY_ATTEMPT_TIMEOUT);
	a->started = true;
	atomic_store(&a->item->in_flight, true);
	lane->in_flight++;
	d->in_flight++;
	meter_add(d->env.meter, METRIC_IN_FLIGHT, a->service, 0, 1);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, -1);
	a->transfer = transfer_new(d, a);
	if (a->transfer == NULL)
		on_transfer_done(a, &(struct answer){.end = ANSWER_NO_CONNECTION,
						     .phase = PHASE_QUEUE,
						     .retry_after_ms = RETRY_AFTER_NONE,
						     .detail = "out of memory; nothing was sent"});
	KILL_POINT("attempt_started");
}

/* Start what may start. With much to do it stops at `until_us` and asks for the
 * pump again: a thousand signatures would otherwise hold up the loop. */
static void start_ready(struct dispatch *d, struct lane *lane, int64_t until_us)
{
	while (lane->in_flight < lane->service->max_in_flight && !list_empty(&lane->turns)) {
		struct turn *turn = list_entry(lane->turns.next, struct turn, rr);
		struct attempt *a = list_entry(turn->ready.next, struct attempt, node);
		int64_t now_us = loop_now_us(d->env.loop);

		if (d->in_flight >= d->env.config->limits.in_flight) {
			list_remove(&lane->dirty);
			list_append(&d->starved, &lane->dirty);
			return;
		}
		if (now_us > until_us) {
			lane_dirty(d, lane);
			return;
		}
		/* The timer may be late, or the message was: time decides, not the timer. */
		if (a->op.deadline_us <= now_us) {
			op_cancel(&d->ops, &a->op, (enum why)a->op.at_deadline);
			continue;
		}
		list_remove(&turn->rr);
		list_append(&lane->turns, &turn->rr);
		unqueue(d, a);
		if (gate_why(a->gate) != WHY_NONE)
			give_back(d, a);
		else
			start(d, lane, a, now_us);
	}
}

/* Claims come after the starts: each start, and each claim that is given back,
 * makes place for one. */
static void lane_pump(struct dispatch *d, struct lane *lane, int64_t until_us)
{
	start_ready(d, lane, until_us);
	claim_ahead(d, lane, until_us);
	wake_starved(d);
	lane_drop_if_idle(d, lane);
}

void lanes_pump(struct dispatch *d)
{
	int64_t until_us = loop_now_us(d->env.loop) + PUMP_LIMIT_US;
	struct list now, *node;

	while ((node = list_pop(&d->ended)) != NULL)
		give_back(d, list_entry(node, struct attempt, node));
	list_init(&now);
	list_splice(&now, &d->dirty_lanes);
	while ((node = list_pop(&now)) != NULL)
		lane_pump(d, list_entry(node, struct lane, dirty), until_us);
}
