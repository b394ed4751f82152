/*
 * The items of the batches in memory: what starts next, and when all is over.
 *
 * Invariants
 *  1. attempts_out counts a batch's items in QUEUED, and is at most the policy's
 *     concurrency, which is 1 if it is sequential.
 *  2. A WAITING item is in `waits` or, once its wait has ended, in the batch's
 *     ready queue. It waits for its next try, or for its lane, which pauses.
 *  3. Once the gate is closed no attempt is made; items that are not with a lane
 *     settle in the next pump, the others when they come back. But a job that is
 *     left to the next process keeps its items as they are.
 *  4. The batch ends in the pump that finds no item pending.
 */
#include "attempt-i.h"
#include "dispatch-i.h"
#include "live-i.h"

static uint64_t origin_hash(const struct dispatch_group *g, uint16_t service, struct slice origin)
{
	return slice_hash(origin, g->hash_seed + service);
}

static void submit(struct live *lv, struct item *it)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	const struct service *s = &d->env.config->services[it->service];
	struct attempt *a = attempt_get(d);

	item_set_state(it, ITEM_QUEUED);
	channel_origin(s, it->to, &a->origin);
	a->hash = origin_hash(d->env.group, it->service, buf_slice(&a->origin));
	a->service = it->service;
	spread_out(d, a);
	a->owner = d;
	a->item = it;
	a->batch = b->id;
	a->gate = &b->gate;
	a->kind = s->kind;
	a->tenant = lv->tenant;
	a->weight = lv->tenant < d->env.config->n_tenants ? d->env.config->tenants[lv->tenant].weight : 1;
	a->priority = (uint8_t)MIN(b->policy.priority, (unsigned)PRIORITY_MAX);
	a->repeat = it->attempts > 0;
	a->durable = b->durable;
	a->counted = lv->counted;
	/* Of a batch that is not durable the row is the store's alone to look at. */
	if (b->durable)
		a->claim = (struct store_claim){.row = b->store_row, .index = it->index,
						.synced = b->policy.at_most_once};
	a->batch_deadline_us = b->op.deadline_us;
	a->deadline_us = it->op.deadline_us;
	a->at_deadline = (enum why)it->op.at_deadline;
	a->timeout_us = 1000 * (b->policy.attempt_timeout_ms != 0 ? b->policy.attempt_timeout_ms
								  : s->attempt_timeout_ms);
	a->span_id = rng_u64(&d->rng) | 1;
	a->queued_us = loop_now_us(d->env.loop);
	a->msg.run = lane_on_submit;
	b->attempts_out++;
	lv->shards |= UINT64_C(1) << a->at->env.shard;
	loop_post(a->at->env.loop, &a->msg);
}

/* What a reload, or a restart, may have made of its service; NULL: it takes the item. */
static const char *not_taken(const struct dispatch *d, const struct item *it)
{
	if (it->service == ITEM_NO_SERVICE || d->env.config->services[it->service].removed)
		return "its service is no longer configured";
	if (channel_check_to(&d->env.config->services[it->service], it->to) != NULL)
		return "its service has another kind now, which takes no such recipient";
	return NULL;
}

/* The item's turn has come: submit it, unless it is known already how it ends. */
static void start_item(struct live *lv, struct item *it)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	const char *why_not = not_taken(d, it);

	if (why_not != NULL) {
		it->detail = it->attempts == 0 ? why_not : it->detail;
		item_final(lv, it, CODE_INVALID_ITEM, STOP_NOT_RETRYABLE);
		return;
	}
	if (!it->op.live)
		op_start(&d->ops, &it->op, &b->op, dispatch_after(b->accepted_us, it->ttl_ms), WHY_TTL, NULL);
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

void batches_wake(struct dispatch *d, int64_t now_us)
{
	struct heap_node *node;

	while ((node = heap_pop(&d->waits, now_us)) != NULL) {
		struct item *it = container_of(node, struct item, wake);

		batch_push_ready(it->batch, it);
		live_dirty(it->batch->live);
	}
}

void batches_reload(struct dispatch *d)
{
	int64_t now_us = loop_now_us(d->env.loop);

	list_foreach(node, &d->live) {
		struct live *lv = list_entry(node, struct live, all);

		if (lv->phase != LIVE_RUNNING)
			continue;
		list_foreach(child, &lv->batch->op.children) {
			struct item *it = container_of(child, struct item, op.sibling);

			if (it->for_lane && heap_has(&it->wake))
				heap_set(&d->waits, &it->wake, MIN(it->wake.key, now_us + it->index));
		}
	}
}

void live_tell(struct live *lv)
{
	struct batch *b = lv->batch;

	if (!b->durable)
		b->told_last = b->settled_last;
	if (lv->seen == b->told_last)
		return;
	lv->seen = b->told_last;
	if (lv->listener != NULL && lv->listener->on_settled != NULL)
		lv->listener->on_settled(lv->arg, b);
}

static void pump_one(struct live *lv)
{
	enum why why;

	if (lv->phase != LIVE_RUNNING)
		return;
	start_items(lv);
	why = gate_why(&lv->batch->gate);
	if (why != WHY_NONE && !live_leaving(lv))
		settle_rest(lv, why);
	live_tell(lv);
	if (lv->batch->counts.pending > 0) {
		live_let_go(lv);
		return;
	}
	list_remove(&lv->dirty);
	live_end(lv);
}

void batches_pump(struct dispatch *d)
{
	struct list now, *node;

	list_init(&now);
	list_splice(&now, &d->dirty);
	while ((node = list_pop(&now)) != NULL)
		pump_one(list_entry(node, struct live, dirty));
}
