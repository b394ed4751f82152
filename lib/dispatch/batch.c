/*
 * Live batches: what starts next, what an outcome means, when it is over.
 *
 * Invariants
 *  1. A live batch is in live_by_id and in `live`; its op is live; nothing else
 *     holds a pointer to its struct live for longer than a call.
 *  2. attempts_out counts its items in QUEUED, and is at most the policy's
 *     concurrency, which is 1 if it is sequential.
 *  3. A WAITING item is in `waits` or, once its wait has ended, in the batch's
 *     ready queue.
 *  4. Once the gate is closed no attempt is made; items that are not with a lane
 *     settle in the next pump, the others when they come back.
 *  5. The batch ends in the pump that finds no item pending.
 */
#include "dispatch-i.h"

#include <errno.h>
#include <stdlib.h>

#include "obs/log.h"
#include "wire/wire.h"

enum { SPARE_MAX = 1024 };

struct live {
	struct idmap_node node;
	struct list all, dirty;
	struct dispatch *d;
	struct batch *batch;
	const struct dispatch_listener *listener;
	void *arg;
	struct item *seen;               /* last settled item the listener was told of */
	uint64_t shards;                 /* bit i: shard i may hold attempts of it */
	int64_t ended_us;                /* when an end from outside was seen */
	struct blob *document;           /* dispatch_document()'s last, or NULL ... */
	int64_t document_until_us;       /* ... and how long it will do */
};

static void dirty(struct live *lv)
{
	if (list_empty(&lv->dirty))
		list_append(&lv->d->dirty, &lv->dirty);
	dispatch_pump_soon(lv->d);
}

/* ---- cancel ---- */

struct cancel_msg {
	struct loop_msg msg;
	struct dispatch *at;
	struct batch_id batch;
	enum why why;
};

static void on_cancel_msg(struct loop_msg *msg)
{
	struct cancel_msg *c = container_of(msg, struct cancel_msg, msg);

	lane_on_cancel(c->at, c->batch, c->why);
	free(c);
}

static void tell_lanes(struct live *lv, enum why why)
{
	const struct dispatch_group *g = lv->d->env.group;

	for (unsigned i = 0; i < g->n; i++) {
		struct cancel_msg *c;

		if (!(lv->shards >> i & 1))
			continue;
		c = xcalloc(1, sizeof *c);
		*c = (struct cancel_msg){.msg.run = on_cancel_msg, .at = g->members[i],
					 .batch = lv->batch->id, .why = why};
		loop_post(c->at->env.loop, &c->msg);
	}
}

static void on_batch_cancel(struct op *op, enum why why)
{
	struct batch *b = container_of(op, struct batch, op);

	/* With every item final it has ended by itself, but for the pump's last look. */
	if (b->counts.pending == 0 && why != WHY_FIRST_FAILURE)
		return;
	gate_close(&b->gate, why);
	batch_set_state(b, BATCH_CANCELLING);
	b->live->ended_us = loop_now_us(b->live->d->env.loop);
	tell_lanes(b->live, why);
	dirty(b->live);
}

static struct live *find(struct dispatch *d, struct batch_id id)
{
	struct idmap_node *node = idmap_find(&d->live_by_id, id);

	return node == NULL ? NULL : container_of(node, struct live, node);
}

void dispatch_cancel(struct dispatch *d, struct batch_id id, enum why why)
{
	struct live *lv = find(d, id);

	if (lv != NULL)
		op_cancel(&d->ops, &lv->batch->op, why);
}

void dispatch_cancel_all(struct dispatch *d, enum why why)
{
	REQUIRE(d->draining);
	op_cancel(&d->ops, &d->root, why);
}

void dispatch_detach(struct dispatch *d, struct batch_id id)
{
	struct live *lv = find(d, id);

	if (lv != NULL)
		lv->listener = NULL;
}

struct blob *dispatch_document(struct dispatch *d, struct batch_id id, bool *retlive)
{
	struct live *lv = find(d, id);
	int64_t begun_us = loop_now_us(d->env.loop), took_us;
	struct buf text = {0};

	*retlive = lv != NULL;
	if (lv == NULL)
		return NULL;
	if (lv->document == NULL || begun_us >= lv->document_until_us) {
		blob_unref(lv->document);
		wire_batch(&text, lv->batch, true);
		lv->document = blob_from_buf(&text);
		took_us = loop_now_us(d->env.loop) - begun_us;
		lv->document_until_us = begun_us + 10 * took_us;
	}
	return lv->document == NULL ? NULL : blob_ref(lv->document);
}

bool dispatch_show(struct dispatch *d, struct batch_id id, void (*show)(void *arg, const struct batch *b), void *arg)
{
	struct live *lv = find(d, id);

	if (lv == NULL || lv->batch->durable)
		return false;
	show(arg, lv->batch);
	return true;
}

/* ---- accept ---- */

static int64_t after(int64_t now_us, int64_t ms)
{
	return ms >= (INT64_MAX - now_us) / 1000 ? INT64_MAX : now_us + ms * 1000;
}

/* Under best_effort, items that validation refused are final from the start. */
static void count_refused_items(struct live *lv)
{
	for (const struct item *it = lv->batch->settled_first; it != NULL; it = it->next_settled)
		meter_add(lv->d->env.meter, METRIC_ITEMS, it->status, it->code, 1);
}

/* Room for the batch under the process's limits on items and bytes. */
static bool admit(struct dispatch *d, struct batch *b)
{
	const struct config *c = d->env.config;
	struct dispatch_group *g = d->env.group;
	uint32_t n = b->counts.pending;
	size_t bytes = (b->body == NULL ? 0 : b->body->n) + b->n_items * sizeof *b->items;

	if (atomic_fetch_add(&g->unfinished, n) + n > c->limits.queued_items) {
		atomic_fetch_sub(&g->unfinished, n);
		return false;
	}
	if (atomic_fetch_add(&g->held_bytes, bytes) + bytes > c->limits.queued_bytes) {
		atomic_fetch_sub(&g->held_bytes, bytes);
		atomic_fetch_sub(&g->unfinished, n);
		return false;
	}
	b->held = &g->held_bytes;
	b->held_bytes = bytes;
	return true;
}

int dispatch_submit(struct dispatch *d, struct batch *take, const struct dispatch_listener *l, void *arg)
{
	struct live *lv;

	if (d->draining)
		return -ESHUTDOWN;
	if (!admit(d, take))
		return -EBUSY;
	lv = xcalloc(1, sizeof *lv);
	*lv = (struct live){.d = d, .batch = take, .listener = l, .arg = arg};
	list_init(&lv->dirty);
	list_append(&d->live, &lv->all);
	take->live = lv;
	take->created_unix_ms = loop_unix_ms(d->env.loop);
	take->accepted_us = loop_now_us(d->env.loop);
	take->id = batch_id_new(&d->rng, take->created_unix_ms, d->env.shard);
	idmap_add(&d->live_by_id, &lv->node, take->id);
	op_start(&d->ops, &take->op, &d->root, after(take->accepted_us, take->policy.deadline_ms),
		 WHY_DEADLINE, on_batch_cancel);
	batch_set_state(take, BATCH_RUNNING);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, take->counts.pending);
	count_refused_items(lv);
	dirty(lv);
	return 0;
}

/* ---- items ---- */

static void item_final(struct live *lv, struct item *it, enum code code, enum stop stop)
{
	struct dispatch *d = lv->d;

	item_settle(it, code, stop, loop_now_us(d->env.loop));
	if (it->op.live)
		op_finish(&d->ops, &it->op);
	atomic_fetch_sub(&d->env.group->unfinished, 1);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, -1);
	meter_add(d->env.meter, METRIC_ITEMS, it->status, it->code, 1);
	if (contract_stops_on(lv->batch->policy.contract, it))
		op_cancel(&d->ops, &lv->batch->op, WHY_FIRST_FAILURE);
}

static struct attempt *attempt_get(struct dispatch *d)
{
	struct list *node = list_pop(&d->spare);
	struct attempt *a;
	struct buf origin, message_id, quote;

	if (node == NULL)
		return xcalloc(1, sizeof(struct attempt));
	d->n_spare--;
	a = list_entry(node, struct attempt, node);
	origin = a->origin;
	message_id = a->message_id;
	quote = a->quote;
	origin.n = message_id.n = quote.n = 0;
	*a = (struct attempt){.origin = origin, .message_id = message_id, .quote = quote};
	return a;
}

static void attempt_put(struct dispatch *d, struct attempt *a)
{
	if (d->n_spare < SPARE_MAX) {
		d->n_spare++;
		list_append(&d->spare, &a->node);
		return;
	}
	buf_free(&a->origin);
	buf_free(&a->message_id);
	buf_free(&a->quote);
	free(a);
}

static void submit(struct live *lv, struct item *it)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	const struct service *s = &d->env.config->services[it->service];
	struct attempt *a = attempt_get(d);
	unsigned shard;

	item_set_state(it, ITEM_QUEUED);
	channel_origin(s, it->to, &a->origin);
	a->hash = slice_hash(buf_slice(&a->origin), d->env.group->hash_seed + it->service);
	shard = (unsigned)((a->hash >> 32) % d->env.group->n);
	a->owner = d;
	a->at = d->env.group->members[shard];
	a->item = it;
	a->batch = b->id;
	a->gate = &b->gate;
	a->service = it->service;
	a->batch_deadline_us = b->op.deadline_us;
	a->deadline_us = it->op.deadline_us;
	a->at_deadline = (enum why)it->op.at_deadline;
	a->timeout_us = 1000 * (b->policy.attempt_timeout_ms != 0 ? b->policy.attempt_timeout_ms
								  : s->attempt_timeout_ms);
	a->msg.run = lane_on_submit;
	b->attempts_out++;
	lv->shards |= UINT64_C(1) << shard;
	loop_post(a->at->env.loop, &a->msg);
}

/* The item's turn has come: submit it, unless it is known already how it ends. */
static void start_item(struct live *lv, struct item *it)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;

	if (!it->op.live)
		op_start(&d->ops, &it->op, &b->op, after(b->accepted_us, it->ttl_ms), WHY_TTL, NULL);
	if (it->op.deadline_us <= loop_now_us(d->env.loop))
		op_cancel(&d->ops, it->op.at_deadline == WHY_DEADLINE ? &b->op : &it->op,
			  (enum why)it->op.at_deadline);
	if (it->op.why != WHY_NONE)
		item_final(lv, it, it->op.why == WHY_TTL ? CODE_EXPIRED : CODE_NOT_ATTEMPTED,
			   stop_from_why((enum why)it->op.why));
	else if (it->payload.n > d->env.config->services[it->service].max_payload)
		item_final(lv, it, CODE_PAYLOAD_TOO_LARGE, STOP_NOT_RETRYABLE);
	else
		submit(lv, it);
}

static struct item *next_item(struct live *lv)
{
	struct batch *b = lv->batch;
	struct item *ready = batch_pop_ready(b);

	if (ready != NULL)
		return ready;
	if (b->policy.sequential && !list_empty(&b->op.children))
		return NULL;
	while (b->next_pending < b->n_items) {
		struct item *it = &b->items[b->next_pending++];

		if (it->state == ITEM_PENDING)
			return it;
	}
	return NULL;
}

static void start_items(struct live *lv)
{
	struct batch *b = lv->batch;
	unsigned most = b->policy.sequential ? 1 : b->policy.concurrency;
	struct item *it;

	while (b->attempts_out < most && gate_why(&b->gate) == WHY_NONE &&
	       (it = next_item(lv)) != NULL)
		start_item(lv, it);
}

/* The batch was ended from outside: what is not with a lane is final now. */
static void settle_rest(struct live *lv, enum why why)
{
	struct batch *b = lv->batch;
	enum stop stop = stop_from_why(why);

	while (batch_pop_ready(b) != NULL)
		;
	list_foreach(node, &b->op.children) {
		struct item *it = container_of(node, struct item, op.sibling);

		if (it->state != ITEM_WAITING)
			continue;
		heap_remove(&lv->d->waits, &it->wake);
		item_final(lv, it, CODE_NOT_ATTEMPTED, stop);
	}
	for (; b->next_pending < b->n_items; b->next_pending++) {
		if (b->items[b->next_pending].state == ITEM_PENDING)
			item_final(lv, &b->items[b->next_pending], CODE_NOT_ATTEMPTED, stop);
	}
}

/* ---- results ---- */

/* What follows from an attempt that came back: the stop, or STOP_NONE and when
 * the next attempt is due. A success has nothing to stop. */
static struct retry_answer decide(struct live *lv, const struct attempt *a)
{
	const struct batch *b = lv->batch;
	const struct item *it = a->item;
	struct retry_answer r;

	if (!a->started)
		return (struct retry_answer){.stop = stop_from_why(a->why)};
	if (a->why != WHY_NONE && a->why != WHY_ATTEMPT_TIMEOUT && a->outcome.http_status == 0 &&
	    code_retryable(a->outcome.code))
		return (struct retry_answer){.stop = stop_from_why(a->why)};
	r = retry_decide(&(struct retry_question){
				 .policy = &b->policy.retry,
				 .at_most_once = b->policy.at_most_once,
				 .attempts = it->attempts,
				 .outcome = &a->outcome,
				 .delivered = (enum delivered)it->delivered,
				 .now_us = a->done_us,
				 .deadline_us = it->op.deadline_us,
				 .deadline_stop = stop_from_why((enum why)it->op.at_deadline),
			 },
			 &lv->d->rng);
	if (r.stop == STOP_NONE && gate_why(&b->gate) != WHY_NONE)
		r.stop = stop_from_why(gate_why(&b->gate));
	return r;
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
		  LOG_INT("started_at_us", a->started_us), LOG_INT("duration_us", a->done_us - a->started_us),
		  LOG_STR("detail", a->outcome.detail == NULL ? "" : a->outcome.detail),
		  LOG_SLICE(a->quote.n > 0 ? "answer" : NULL, buf_slice(&a->quote)));
}

void batch_on_result(struct loop_msg *msg)
{
	struct attempt *a = container_of(msg, struct attempt, msg);
	struct item *it = a->item;
	struct live *lv = it->batch->live;
	struct dispatch *d = lv->d;
	struct retry_answer r;

	it->batch->attempts_out--;
	atomic_store(&it->in_flight, false);
	if (a->why == WHY_DEADLINE)
		op_cancel(&d->ops, &it->batch->op, WHY_DEADLINE);
	if (a->started) {
		item_record(it, &a->outcome, a->started_us, a->done_us, a->started_unix_ms);
		log_attempt(a);
	}
	r = decide(lv, a);
	if (a->started && a->outcome.code == CODE_OK) {
		item_final(lv, it, CODE_OK, STOP_NONE);
	} else if (r.stop != STOP_NONE) {
		item_final(lv, it, a->why == WHY_TTL ? CODE_EXPIRED : CODE_NOT_ATTEMPTED, r.stop);
	} else {
		item_set_state(it, ITEM_WAITING);
		heap_set(&d->waits, &it->wake, r.at_us);
	}
	attempt_put(d, a);
	dirty(lv);
}

void batches_wake(struct dispatch *d, int64_t now_us)
{
	struct heap_node *node;

	while ((node = heap_pop(&d->waits, now_us)) != NULL) {
		struct item *it = container_of(node, struct item, wake);

		batch_push_ready(it->batch, it);
		dirty(it->batch->live);
	}
}

/* ---- the end of a batch ---- */

static void log_done(const struct live *lv)
{
	const struct batch *b = lv->batch;
	char id[BATCH_ID_LEN + 1];
	unsigned attempts = 0;

	if (!log_wants(LOG_INFO))
		return;
	for (uint32_t i = 0; i < b->n_items; i++)
		attempts += b->items[i].attempts;
	batch_id_format(b->id, id);
	log_event(LOG_INFO, "batch_done", LOG_STR("batch", id),
		  LOG_STR("outcome", batch_outcome_str(b->outcome)),
		  LOG_STR("stop_reason", stop_reason_str(b->stop_reason)),
		  LOG_INT("items", b->counts.total), LOG_INT("succeeded", b->counts.succeeded),
		  LOG_INT("failed", b->counts.failed), LOG_INT("indeterminate", b->counts.indeterminate),
		  LOG_INT("not_attempted", b->counts.not_attempted), LOG_INT("attempts", attempts),
		  LOG_INT("duration_ms", (b->finished_us - b->accepted_us) / 1000),
		  LOG_INT("ended_at_us", lv->ended_us), LOG_INT("done_at_us", b->finished_us));
}

static void record(struct live *lv, struct blob *document)
{
	const struct batch *b = lv->batch;
	struct dispatch *d = lv->d;

	log_done(lv);
	meter_add(d->env.meter, METRIC_BATCHES, b->outcome - 1, 0, 1);
	if (b->stop_reason != STOP_REASON_COMPLETED)
		meter_add(d->env.meter, METRIC_ABORTS, b->stop_reason - STOP_REASON_FIRST_FAILURE, 0, 1);
	if (document != NULL)
		store_put(d->env.store, &(struct store_record){
						.id = b->id,
						.outcome = batch_outcome_str(b->outcome),
						.document = blob_ref(document),
						.expires_unix_ms = b->expires_unix_ms,
					});
}

static void end(struct live *lv)
{
	struct batch *b = lv->batch;
	struct dispatch *d = lv->d;
	struct buf text = {0};
	struct blob *document;
	int64_t now_unix_ms = loop_unix_ms(d->env.loop);

	b->expires_unix_ms = now_unix_ms + d->env.config->limits.keep_results_ms;
	batch_finish(b, loop_now_us(d->env.loop), now_unix_ms);
	wire_batch(&text, b, true);
	document = blob_from_buf(&text);
	record(lv, document);
	op_finish(&d->ops, &b->op);
	idmap_remove(&d->live_by_id, &lv->node);
	list_remove(&lv->all);
	b->live = NULL;
	if (lv->listener != NULL)
		lv->listener->on_done(lv->arg, b, document);
	blob_unref(document);
	blob_unref(lv->document);
	batch_unref(b);
	free(lv);
}

static void tell_listener(struct live *lv)
{
	struct batch *b = lv->batch;

	if (lv->seen == b->settled_last)
		return;
	lv->seen = b->settled_last;
	if (lv->listener != NULL && lv->listener->on_settled != NULL)
		lv->listener->on_settled(lv->arg, b);
}

void batches_pump(struct dispatch *d)
{
	struct list now, *node;

	list_init(&now);
	list_splice(&now, &d->dirty);
	while ((node = list_pop(&now)) != NULL) {
		struct live *lv = list_entry(node, struct live, dirty);
		enum why why;

		start_items(lv);
		why = gate_why(&lv->batch->gate);
		if (why != WHY_NONE)
			settle_rest(lv, why);
		tell_listener(lv);
		if (lv->batch->counts.pending == 0) {
			list_remove(&lv->dirty);
			end(lv);
		}
	}
	if (d->draining && list_empty(&d->live) && d->on_idle != NULL)
		STEAL_PTR(d->on_idle)(d->on_idle_arg);
}
