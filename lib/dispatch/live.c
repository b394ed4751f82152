/*
 * Batches in memory: how they come, and how they go. What ends them from outside is in
 * cancel.c.
 *
 *   dispatch_submit()                    jobs.c: read back
 *      │ durable          │ not             │
 *      ▼                  ▼                 ▼
 *   ACCEPTING ─────────► RUNNING ◄──────────┴── ◄─┐ it has something to do again
 *      │ refused, or      │  └──────► PARKING ─────┘
 *      │ no room          ▼              │
 *      │               FINISHING         │ a job, to its backlog
 *      ▼                  ▼              ▼
 *     gone               gone           gone
 *
 * Invariants
 *  1. A live batch is in live_by_id and in `live`; nothing else holds a pointer
 *     to its struct live for longer than a call, but the one question to the
 *     store that is under way in ACCEPTING, PARKING and FINISHING.
 *  2. Its op is live in RUNNING and PARKING.
 *  3. Nothing of a durable batch starts before the store has it, and nobody is
 *     told that it is done before the store has its end. A batch that is not
 *     durable waits for neither.
 *  4. A job whose listener waits stays in memory; any other may be let go of when
 *     nothing of it is with a lane.
 */
#include <errno.h>
#include <stdlib.h>

#include "admission-i.h"
#include "base/killpoint.h"
#include "dispatch-i.h"
#include "jobs-i.h"
#include "live-i.h"
#include "obs/log.h"
#include "shed-i.h"
#include "tenants-i.h"
#include "throttle-i.h"
#include "trace-i.h"
#include "watch-i.h"
#include "wire/wire.h"

enum { PARK_MIN_US = 2000000 };

struct live *live_find(struct dispatch *d, struct batch_id id)
{
	struct idmap_node *node = idmap_find(&d->live_by_id, id);

	return node == NULL ? NULL : container_of(node, struct live, node);
}

void live_dirty(struct live *lv)
{
	if (list_empty(&lv->dirty))
		list_append(&lv->d->dirty, &lv->dirty);
	dispatch_pump_soon(lv->d);
}

/* ---- come and go ---- */

static struct live *live_new(struct dispatch *d, struct batch *take, uint16_t tenant)
{
	struct live *lv = xcalloc(1, sizeof *lv);

	*lv = (struct live){.d = d, .batch = take, .phase = LIVE_RUNNING, .service = ITEM_NO_SERVICE,
			    .tenant = tenant};
	list_init(&lv->dirty);
	list_init(&lv->effort);
	list_append(&d->live, &lv->all);
	take->live = lv;
	idmap_add(&d->live_by_id, &lv->node, take->id);
	return lv;
}

/* What holds it in the dispatcher's tables and sums. Its op is idle. */
static void gone(struct live *lv)
{
	struct dispatch *d = lv->d;

	jobs_give(lv);
	admission_give_caller(lv);
	idmap_remove(&d->live_by_id, &lv->node);
	list_remove(&lv->all);
	list_remove(&lv->dirty);
	lv->batch->live = NULL;
	blob_unref(lv->document);
	batch_unref(lv->batch);
	free(lv);
	dispatch_pump_soon(d);
}

/* Its items that are not final are no longer this dispatcher's. */
static void uncount(struct live *lv)
{
	admission_give_rest(lv);
	shed_forget(lv);
}

/* Under best_effort, items that validation refused are final from the start. */
static void count_refused_items(struct live *lv)
{
	for (const struct item *it = lv->batch->settled_first; it != NULL; it = it->next_settled)
		meter_add(lv->d->env.meter, METRIC_ITEMS, it->status, it->code, 1);
}

static void begin(struct live *lv)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;

	lv->phase = LIVE_RUNNING;
	op_start(&d->ops, &b->op, &d->root, dispatch_after(b->accepted_us, b->policy.deadline_ms), WHY_DEADLINE,
		 live_on_cancel);
	batch_set_state(b, BATCH_RUNNING);
	b->told_last = b->settled_last;
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, b->counts.pending);
	shed_count(lv);
	if (b->op.why != WHY_NONE)
		live_on_cancel(&b->op, (enum why)b->op.why);
	live_dirty(lv);
}

static bool failed_for_good(const struct batch *b)
{
	const struct counts *c = &b->counts;

	return b->policy.contract == CONTRACT_ALL_OR_NOTHING && c->failed + c->indeterminate + c->not_attempted > 0;
}

struct live *live_adopt(struct dispatch *d, struct batch *take, uint16_t tenant)
{
	int64_t now_us = loop_now_us(d->env.loop), unix_ms = loop_unix_ms(d->env.loop);
	struct live *lv = live_new(d, take, tenant);

	take->state = BATCH_QUEUED;
	/* A clock that was set back since lengthens nothing. */
	take->accepted_us = now_us + MIN(take->created_unix_ms - unix_ms, 0) * 1000;
	begin(lv);
	/* What failed for good before this process began ends the batch all the same. */
	if (failed_for_good(take))
		live_cancel(lv, WHY_FIRST_FAILURE);
	return lv;
}

/* ---- accept ---- */

/* It is kept: into memory, or if there is no room for the job, to the others. */
static void place(struct live *lv)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	bool wanted = lv->listener != NULL || lv->end_early != WHY_NONE;

	count_refused_items(lv);
	tenant_accepted(lv);
	if (b->asynchronous && !wanted && (d->draining || !jobs_have_room(lv))) {
		uncount(lv);
		jobs_add(lv, loop_now_us(d->env.loop));
		gone(lv);
		return;
	}
	if (b->asynchronous)
		jobs_take(lv, b->held_bytes);
	begin(lv);
	if (lv->end_early != WHY_NONE)
		live_cancel(lv, lv->end_early);
}

static void on_accept(struct store_op *op)
{
	struct live *lv = container_of(op, struct live, ask.accept.op);

	KILL_POINT("accepted_before_answer");
	/* Whoever asked may have left, and the answer shows what there is of the quota. */
	if (op->answer != STORE_OK)
		tenant_give_back(lv->d, lv->tenant, lv->batch);
	if (lv->listener != NULL && lv->listener->on_accepted != NULL)
		lv->listener->on_accepted(lv->arg, lv->batch, &lv->ask.accept);
	if (op->answer == STORE_OK) {
		trace_accepted(lv->d, lv->batch);
		place(lv);
	} else {
		uncount(lv);
		gone(lv);
	}
}

/* The store is told before anything starts: of a durable batch for its answer. */
static void tell_store(struct live *lv)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	struct store_accept *a = b->durable ? &lv->ask.accept : xcalloc(1, sizeof *a);

	*a = (struct store_accept){.op = {.what = STORE_ACCEPT, .on_done = on_accept,
					  .reply_to = b->durable ? d->env.loop : NULL},
				   .batch = batch_ref(b),
				   .n_settled = b->counts.total - b->counts.pending};
	store_ask(d->env.store, &a->op);
}

int dispatch_submit(struct dispatch *d, struct batch *take, const struct dispatch_listener *l, void *arg)
{
	bool counted = admission_counts(take);
	uint16_t tenant = (uint16_t)config_find_tenant(d->env.config, take->tenant);
	uint32_t n = take->counts.pending;
	struct live *lv;
	bool taken;

	REQUIRE(take->durable || !take->asynchronous);
	if (d->draining)
		return -ESHUTDOWN;
	if (!tenant_take(d, tenant, take))
		return -EDQUOT;
	taken = admission_take(d, take, tenant, counted);
	shed_if_full(d);
	if (counted)
		throttle_note(d, taken);
	if (!taken) {
		tenant_give_back(d, tenant, take);
		return -EBUSY;
	}
	tenant_unqueue(d, tenant, n - take->counts.pending);
	take->created_unix_ms = loop_unix_ms(d->env.loop);
	take->accepted_us = loop_now_us(d->env.loop);
	take->id = batch_id_new(&d->rng, take->created_unix_ms, d->env.shard);
	lv = live_new(d, take, tenant);
	lv->listener = l;
	lv->arg = arg;
	lv->counted = lv->awaited = counted;
	tell_store(lv);
	if (take->durable) {
		lv->phase = LIVE_ACCEPTING;
	} else {
		count_refused_items(lv);
		tenant_accepted(lv);
		begin(lv);
	}
	return 0;
}

/* ---- let go of a job ---- */

/* Take what is live of it out of the trees; it is as the store has it. */
static void unwind(struct live *lv)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;

	while (batch_pop_ready(b) != NULL)
		;
	list_foreach(node, &b->op.children) {
		struct item *it = container_of(node, struct item, op.sibling);

		heap_remove(&d->waits, &it->wake);
		op_finish(&d->ops, &it->op);
	}
	op_finish(&d->ops, &b->op);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, -(int64_t)b->counts.pending);
	uncount(lv);
}

/* When it has something to do again: the first end of a wait. Before `soon_us`
 * any will do: a job of many short waits is looked at after each of them. */
static int64_t next_wake(const struct live *lv, int64_t soon_us)
{
	int64_t at_us = HEAP_NONE;

	list_foreach(node, &lv->batch->op.children) {
		const struct item *it = container_of(node, struct item, op.sibling);

		at_us = MIN(at_us, heap_has(&it->wake) ? it->wake.key : 0);
		if (at_us < soon_us)
			break;
	}
	return at_us;
}

static void on_park(struct store_op *op)
{
	struct live *lv = container_of(op, struct live, ask.park.op);
	struct dispatch *d = lv->d;
	int64_t now_us = loop_now_us(d->env.loop), at_us = next_wake(lv, now_us + 1);

	lv->phase = LIVE_RUNNING;
	watches_changed(d, lv->batch->id, false);
	if (lv->listener != NULL || gate_why(&lv->batch->gate) != WHY_NONE || at_us <= now_us) {
		live_dirty(lv);
		return;
	}
	meter_add(d->env.meter, METRIC_JOB_PARKS, 0, 0, 1);
	unwind(lv);
	jobs_add(lv, at_us);
	gone(lv);
}

/* The next process goes on. Who still waits for it is told that much. */
static void leave(struct live *lv)
{
	const struct dispatch_listener *l = STEAL_PTR(lv->listener);

	if (l != NULL)
		l->on_done(lv->arg, lv->batch, NULL);
	tenant_unqueue(lv->d, lv->tenant, lv->batch->counts.pending);
	unwind(lv);
	gone(lv);
}

void live_let_go(struct live *lv)
{
	struct dispatch *d = lv->d;
	struct batch *b = lv->batch;
	int64_t now_us = loop_now_us(d->env.loop), wait_us;

	if (!b->asynchronous || b->attempts_out > 0)
		return;
	if (live_leaving(lv)) {
		leave(lv);
		return;
	}
	if (lv->listener != NULL || gate_why(&b->gate) != WHY_NONE)
		return;
	wait_us = next_wake(lv, now_us + PARK_MIN_US) - now_us;
	if (wait_us < PARK_MIN_US)
		return;
	lv->phase = LIVE_PARKING;
	lv->ask.park = (struct store_park){
		.op = {.what = STORE_PARK, .reply_to = d->env.loop, .on_done = on_park},
		.row = b->store_row,
		.due_unix_ms = loop_unix_ms(d->env.loop) + wait_us / 1000,
	};
	store_ask(d->env.store, &lv->ask.park.op);
}

/* ---- the end of a batch ---- */

/* Attempts of the items that are here, and how long the first of them was waited for. */
static void sum_up(const struct batch *b, unsigned *ret_attempts, int64_t *retwait_us)
{
	int64_t first_us = b->finished_us;

	*ret_attempts = 0;
	for (uint32_t i = 0; i < b->n_items; i++) {
		*ret_attempts += b->items[i].attempts;
		if (b->items[i].started_us != 0)
			first_us = MIN(first_us, b->items[i].started_us);
	}
	*retwait_us = MAX(first_us - b->accepted_us, INT64_C(0));
}

static void log_done(const struct live *lv)
{
	const struct batch *b = lv->batch;
	char id[BATCH_ID_LEN + 1], trace[2 * sizeof b->trace.id + 1];
	unsigned attempts;
	int64_t wait_us;

	if (!log_wants(LOG_INFO))
		return;
	sum_up(b, &attempts, &wait_us);
	batch_id_format(b->id, id);
	trace_format(&b->trace, trace);
	log_event(LOG_INFO, "batch_done", LOG_STR("batch", id),
		  LOG_STR("outcome", batch_outcome_str(b->outcome)),
		  LOG_STR("stop_reason", stop_reason_str(b->stop_reason)),
		  LOG_INT("items", b->counts.total), LOG_INT("succeeded", b->counts.succeeded),
		  LOG_INT("failed", b->counts.failed), LOG_INT("indeterminate", b->counts.indeterminate),
		  LOG_INT("not_attempted", b->counts.not_attempted),
		  LOG_INT(b->n_items == b->counts.total ? "attempts" : "attempts_of_rest", attempts),
		  LOG_INT("wait_ms", wait_us / 1000), LOG_INT("duration_ms", (b->finished_us - b->accepted_us) / 1000),
		  LOG_INT("ended_at_us", lv->ended_us), LOG_INT("done_at_us", b->finished_us),
		  LOG_INT("priority", b->policy.priority), LOG_STR("trace", trace),
		  LOG_SLICE(b->tenant.n > 0 ? "tenant" : NULL, b->tenant),
		  LOG_SLICE(b->caller.n > 0 ? "key" : NULL, b->caller));
}

static void tell_done(struct live *lv)
{
	const struct dispatch_listener *l = STEAL_PTR(lv->listener);
	struct batch *b = lv->batch;
	struct blob *document = NULL;
	struct buf text = {0};

	if (l == NULL)
		return;
	if (b->state == BATCH_DONE)
		b->told_last = b->settled_last;
	if (b->n_items == b->counts.total) {
		wire_batch(&text, b, true);
		document = blob_from_buf(&text);
	}
	/* Whoever asks before the store has it gets what the caller got. */
	blob_unref(lv->document);
	lv->document = document;
	lv->document_until_us = INT64_MAX;
	l->on_done(lv->arg, b, document);
}

static void on_finish(struct store_op *op)
{
	struct live *lv = container_of(op, struct live, ask.finish.op);
	struct dispatch *d = lv->d;

	/* Its end could not be written, as the process is about to end with a broken disk. */
	if (op->answer != STORE_OK)
		lv->batch->durability = "memory";
	if (lv->batch->durable)
		tell_done(lv);
	watches_changed(d, lv->batch->id, true);
	gone(lv);
}

void live_end(struct live *lv)
{
	struct batch *b = lv->batch;
	struct dispatch *d = lv->d;
	int64_t now_unix_ms = loop_unix_ms(d->env.loop);

	/* Its last item settled by itself, and nothing of it is left for the next process. */
	if (live_leaving(lv))
		gate_close(&b->gate, failed_for_good(b) ? WHY_FIRST_FAILURE : WHY_NONE);
	b->expires_unix_ms = now_unix_ms + d->env.config->limits.keep_results_ms;
	batch_finish(b, loop_now_us(d->env.loop), now_unix_ms);
	op_finish(&d->ops, &b->op);
	shed_forget(lv);
	admission_give_caller(lv);
	log_done(lv);
	trace_done(d, b);
	meter_add(d->env.meter, METRIC_BATCHES, b->outcome - 1, 0, 1);
	meter_observe_us(d->env.meter, METRIC_BATCH_SECONDS, b->asynchronous, b->outcome - 1,
			 b->finished_us - b->accepted_us);
	if (b->stop_reason != STOP_REASON_COMPLETED)
		meter_add(d->env.meter, METRIC_ABORTS, b->stop_reason - STOP_REASON_FIRST_FAILURE, 0, 1);
	/* A document that was made while it ran would do for a while longer. */
	lv->document_until_us = 0;
	lv->phase = LIVE_FINISHING;
	lv->ask.finish = (struct store_finish){
		.op = {.what = STORE_FINISH, .reply_to = d->env.loop, .on_done = on_finish},
		.batch = batch_ref(b),
	};
	store_ask(d->env.store, &lv->ask.finish.op);
	if (!b->durable)
		tell_done(lv);
}
