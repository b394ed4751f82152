/*
 * Results: what an attempt that came back means for its item, and how an item
 * ends. Each step of a durable batch's item goes to the store from here.
 *
 * Invariants
 *  1. The store is told of an item after its claim, and in the order of what
 *     happened to it: all updates of a batch come from its own shard.
 *  2. What was claimed and did not start is told too, or the next process would
 *     count it as an attempt.
 */
#include <stdlib.h>

#include "admission-i.h"
#include "attempt-i.h"
#include "base/plant.h"
#include "dispatch-i.h"
#include "live-i.h"
#include "obs/log.h"
#include "tenants-i.h"
#include "trace-i.h"
#include "watch-i.h"

/* ---- what the store is told ---- */

struct update {
	struct store_update update;
	struct dispatch *d;
	struct batch_id id;
};

static bool tells_items(const struct live *lv)
{
	return lv->listener != NULL && lv->listener->on_settled != NULL;
}

/* The next of its items has settled for good: whatever dies now, it stays so. */
static void committed(struct live *lv)
{
	struct batch *b;

	if (lv == NULL || !tells_items(lv))
		return;
	b = lv->batch;
	b->told_last = b->told_last == NULL ? b->settled_first : b->told_last->next_settled;
	live_tell(lv);
}

static void on_update(struct store_op *op)
{
	struct update *u = container_of(op, struct update, update.op);

	u->d->answers--;
	if (u->update.seq > 0 && op->answer == STORE_OK)
		committed(live_find(u->d, u->id));
	watches_changed(u->d, u->id, false);
	dispatch_pump_soon(u->d);
	free(u);
}

/* Nobody waits for the answer, unless somebody watches the batch, or is told of
 * each item. One that the store has not got is shown from memory, so what is
 * there is there at once. */
static void tell_store(struct live *lv, const struct item *it)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	bool awaited = watches_any(d, b->id) || tells_items(lv);
	struct update *u;

	if (!b->durable) {
		watches_changed(d, b->id, false);
		return;
	}
	u = xcalloc(1, sizeof *u);
	*u = (struct update){
		.update = {.op = {.what = STORE_UPDATE, .on_done = on_update,
				  .reply_to = awaited ? d->env.loop : NULL},
			   .batch = batch_ref(b),
			   .item = *it,
			   .counts = b->counts,
			   .seq = it->state == ITEM_FINAL ? b->counts.total - b->counts.pending : 0},
		.d = d,
		.id = b->id,
	};
	if (awaited)
		d->answers++;
	else
		lv->untold = true;
	store_ask(d->env.store, &u->update.op);
}

/* ---- how an item goes on ---- */

void item_final(struct live *lv, struct item *it, enum code code, enum stop stop)
{
	struct dispatch *d = lv->d;

	item_settle(it, code, stop, loop_now_us(d->env.loop));
	if (it->op.live)
		op_finish(&d->ops, &it->op);
	admission_give_item(lv, it);
	tenant_unqueue(d, lv->tenant, 1);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, -1);
	meter_add(d->env.meter, METRIC_ITEMS, it->status, it->code, 1);
	if (it->service != ITEM_NO_SERVICE)
		meter_observe_us(d->env.meter, METRIC_ITEM_SECONDS, it->service, 0,
				 loop_now_us(d->env.loop) - lv->batch->accepted_us);
	meter_add(d->env.meter, METRIC_SHED, 0, 0, stop == STOP_SHED);
	tell_store(lv, it);
	if (contract_stops_on(lv->batch->policy.contract, it))
		op_cancel(&d->ops, &lv->batch->op, WHY_FIRST_FAILURE);
}

static void wait_until(struct dispatch *d, struct item *it, int64_t at_us)
{
	int64_t wait_us = MAX(at_us - loop_now_us(d->env.loop), 0);

	item_set_state(it, ITEM_WAITING);
	it->for_lane = false;
	it->due_unix_ms = loop_unix_ms(d->env.loop) + (wait_us + 999) / 1000;
	heap_set(&d->waits, &it->wake, at_us);
}

/* What follows from an attempt: the stop, or STOP_NONE and when the next one is
 * due. A success has nothing to stop. */
static struct retry_answer decide(struct live *lv, const struct item *it, const struct outcome *o, enum why why,
				  int64_t done_us)
{
	const struct batch *b = lv->batch;
	struct retry_answer r;

	if (why != WHY_NONE && why != WHY_ATTEMPT_TIMEOUT && o->http_status == 0 && code_retryable(o->code) &&
	    !live_goes_on(lv, why))
		return (struct retry_answer){.stop = stop_from_why(why)};
	r = retry_decide(&(struct retry_question){
				 .policy = &b->policy.retry,
				 .at_most_once = b->policy.at_most_once,
				 .tries = it->attempts + it->refused,
				 .outcome = o,
				 .delivered = (enum delivered)it->delivered,
				 .now_us = done_us,
				 .deadline_us = it->op.deadline_us,
				 .deadline_stop = stop_from_why((enum why)it->op.at_deadline),
			 },
			 &lv->d->rng);
	if (r.stop == STOP_NONE && !live_leaving(lv))
		r.stop = stop_from_why(gate_why(&b->gate));
	return r;
}

static void conclude(struct live *lv, struct item *it, const struct outcome *o, enum why why, int64_t done_us)
{
	struct retry_answer r = decide(lv, it, o, why, done_us);

	if (o->code == CODE_OK) {
		item_final(lv, it, CODE_OK, STOP_NONE);
	} else if (r.stop != STOP_NONE) {
		item_final(lv, it, CODE_NOT_ATTEMPTED, r.stop);
	} else {
		wait_until(lv->d, it, r.at_us);
		tell_store(lv, it);
	}
}

/* A lane has not started it, because its job leaves memory or its service has changed:
 * it is what it was. */
static void hand_back(struct live *lv, struct item *it, const struct attempt *a)
{
	struct batch *b = lv->batch;

	if (it->attempts + it->refused > 0) {
		wait_until(lv->d, it, loop_now_us(lv->d->env.loop));
	} else {
		op_finish(&lv->d->ops, &it->op);
		item_set_state(it, ITEM_PENDING);
		b->next_pending = MIN(b->next_pending, (uint32_t)(it - b->items));
	}
	if (a->claimed == CLAIM_HELD)
		tell_store(lv, it);
}

/* Its lane pauses, and that was no try. It will be there again when the lane goes on,
 * those of one batch in the order of the request, unless its deadline is earlier. */
static void wait_for_lane(struct live *lv, struct item *it, const struct attempt *a)
{
	int64_t early_us = LANE_AHEAD_US - MIN((int64_t)it->index, LANE_AHEAD_US);

	if (a->paused_until_us >= it->op.deadline_us) {
		if (it->attempts + it->refused == 0) {
			it->detail = "its downstream asks for a pause that ends after the deadline";
			it->retry_after_ms = MAX(a->paused_until_us - loop_now_us(lv->d->env.loop) + 999, 0) / 1000;
		}
		item_final(lv, it, CODE_NOT_ATTEMPTED, stop_from_why((enum why)it->op.at_deadline));
		return;
	}
	wait_until(lv->d, it, a->paused_until_us - early_us);
	it->for_lane = true;
	if (a->claimed == CLAIM_HELD)
		tell_store(lv, it);
}

static void log_refusal(const struct attempt *a)
{
	char id[BATCH_ID_LEN + 1];

	if (!log_wants(LOG_DEBUG))
		return;
	batch_id_format(a->batch, id);
	log_event(LOG_DEBUG, "attempt_refused", LOG_STR("batch", id), LOG_SLICE("item", a->item->id),
		  LOG_STR("service", a->owner->env.config->services[a->service].name),
		  LOG_STR("code", code_str(a->outcome.code)), LOG_INT("tries", a->item->attempts + a->item->refused),
		  LOG_INT("retry_after_ms", a->outcome.retry_after_ms));
}

/* Its turn came while the breaker was open: no attempt, but a try. */
static void refused(struct live *lv, struct item *it, const struct attempt *a)
{
	item_refuse(it, &a->outcome);
	log_refusal(a);
	conclude(lv, it, &a->outcome, WHY_NONE, a->done_us);
}

static void log_attempt(const struct attempt *a)
{
	char id[BATCH_ID_LEN + 1];

	if (!log_wants(LOG_DEBUG))
		return;
	batch_id_format(a->batch, id);
	log_event(LOG_DEBUG, "attempt_done", LOG_STR("batch", id), LOG_SLICE("item", a->item->id),
		  LOG_STR("service", a->owner->env.config->services[a->service].name),
		  LOG_INT("n", a->item->attempts), LOG_STR("code", code_str(a->outcome.code)),
		  LOG_STR("delivered", delivered_str(a->outcome.delivered)),
		  LOG_STR("phase", phase_str(a->outcome.phase)),
		  LOG_INT("http_status", a->outcome.http_status),
		  LOG_INT("queued_us", a->started_us - a->queued_us), LOG_INT("started_at_us", a->started_us),
		  LOG_INT("duration_us", a->done_us - a->started_us),
		  LOG_INT("shard", a->at->env.shard), LOG_STR("detail", a->outcome.detail == NULL ? "" : a->outcome.detail),
		  LOG_SLICE(a->quote.n > 0 ? "answer" : NULL, buf_slice(&a->quote)));
}

static void tried(struct live *lv, struct item *it, const struct attempt *a)
{
	struct dispatch *d = lv->d;

	meter_observe_us(d->env.meter, METRIC_QUEUE_SECONDS, a->service, 0, a->started_us - a->queued_us);
	item_record(it, &a->outcome, a->started_us, a->done_us, a->started_unix_ms);
	log_attempt(a);
	trace_attempt(d, a);
	conclude(lv, it, &a->outcome, a->why, a->done_us);
}

/* From outside, before it started. */
static void ended(struct live *lv, struct item *it, const struct attempt *a)
{
	if (live_goes_on(lv, a->why)) {
		/* A lane's shard may go down before this one: to ask it again would be in vain. */
		hand_back(lv, it, a);
		live_hand_over(lv);
		return;
	}
	item_final(lv, it, a->why == WHY_TTL ? CODE_EXPIRED : CODE_NOT_ATTEMPTED,
		   a->end == ATTEMPT_NO_BUDGET ? STOP_RETRY_BUDGET : stop_from_why(a->why));
}

/* What has not been tried ends with its batch, whatever its lane said before. */
static void heed_gate(struct attempt *a)
{
	if (a->end == ATTEMPT_TRIED || a->end == ATTEMPT_REFUSED || a->why != WHY_NONE)
		return;
	a->why = gate_why(a->gate);
	if (a->why != WHY_NONE)
		a->end = ATTEMPT_ENDED;
}

static void on_end(struct live *lv, struct item *it, const struct attempt *a)
{
	switch (a->end) {
	case ATTEMPT_TRIED:
		tried(lv, it, a);
		break;
	case ATTEMPT_REFUSED:
		refused(lv, it, a);
		break;
	case ATTEMPT_PAUSED:
		wait_for_lane(lv, it, a);
		break;
	case ATTEMPT_MOVED:
		hand_back(lv, it, a);
		break;
	case ATTEMPT_ENDED:
	case ATTEMPT_NO_BUDGET:
		ended(lv, it, a);
		break;
	}
}

void batch_on_result(struct loop_msg *msg)
{
	struct attempt *a = container_of(msg, struct attempt, msg);
	struct item *it = a->item;
	struct live *lv = it->batch->live;
	struct dispatch *d = lv->d;

	it->batch->attempts_out--;
	spread_back(a);
	atomic_store(&it->in_flight, false);
	/* A lane's shard may see the end of the whole batch first. */
	if (a->why == WHY_DEADLINE || (a->why == WHY_SHUTDOWN && !it->batch->asynchronous))
		op_cancel(&d->ops, &it->batch->op, a->why);
	/* A shutdown may have come before it, but there is nothing left for the next process. */
	if (a->why == WHY_DEADLINE && live_leaving(lv))
		gate_close(&it->batch->gate, WHY_DEADLINE);
	heed_gate(a);
	on_end(lv, it, a);
	attempt_put(d, a);
	live_dirty(lv);
}

/* ---- items that were read back ---- */

static void resume(struct live *lv, struct item *it, int64_t now_us, int64_t unix_ms)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	struct outcome o;

	if (it->attempts > 0)
		it->started_us = now_us + it->started_us - unix_ms * 1000;
	if (it->state == ITEM_FINAL || (it->state == ITEM_PENDING && !it->in_flight))
		return;
	op_start(&d->ops, &it->op, &b->op, dispatch_after(b->accepted_us, it->ttl_ms), WHY_TTL, NULL);
	if (it->in_flight) {
		item_set_state(it, ITEM_QUEUED);
		item_record_interrupted(it, now_us, unix_ms, &o);
		meter_add(d->env.meter, METRIC_ITEMS_INTERRUPTED, 0, 0, 1);
		conclude(lv, it, &o, WHY_NONE, now_us);
	} else if (!PLANTED(DROP_WAIT)) {
		heap_set(&d->waits, &it->wake, now_us + MAX(it->due_unix_ms - unix_ms, 0) * 1000);
	}
}

/* The time by which the waits of a batch are measured. Of a clock that was set back
 * behind the batch's own beginning only their order is left: the first is over. */
static int64_t now_for(const struct batch *b, int64_t unix_ms)
{
	int64_t first_ms = INT64_MAX;

	if (unix_ms >= b->created_unix_ms)
		return unix_ms;
	for (uint32_t i = 0; i < b->n_items; i++) {
		if (b->items[i].state == ITEM_WAITING)
			first_ms = MIN(first_ms, b->items[i].due_unix_ms);
	}
	return first_ms == INT64_MAX ? b->created_unix_ms : first_ms;
}

/* Of a batch that was not durable only its start is known: whatever was not final
 * then may have been in flight at the end. */
void batch_resume(struct live *lv)
{
	struct batch *b = lv->batch;
	int64_t now_us = loop_now_us(lv->d->env.loop), unix_ms = now_for(b, loop_unix_ms(lv->d->env.loop));

	for (uint32_t i = 0; i < b->n_items; i++) {
		struct item *it = &b->items[i];

		if (!b->durable && it->state != ITEM_FINAL)
			it->in_flight = true;
		resume(lv, it, now_us, unix_ms);
	}
	live_dirty(lv);
}
