/*
 * Planted defects of the second kind: the dispatcher's own decisions are bent
 * at link time (--wrap), so that lib/dispatch needs no hooks for its tests.
 */
#include <errno.h>

#include "channel/channel.h"
#include "sim.h"
#include "wire/wire.h"
#include "wrap.h"

WRAPPED(enum why, gate_why, const struct gate *g)
{
	if (sim.plant == PLANT_GATE_OPEN)
		return WHY_NONE;
	return __real_gate_why(g);
}

WRAPPED(struct retry_answer, retry_decide, const struct retry_question *q, struct rng *rng)
{
	struct retry_question bent = *q;
	struct retry_answer r;

	if (sim.plant == PLANT_REPEATS_MAYBE)
		bent.at_most_once = false;
	r = __real_retry_decide(&bent, rng);
	if (sim.plant == PLANT_IMPATIENT && r.stop == STOP_NONE)
		r.at_us = q->now_us + (r.at_us - q->now_us) / 2;
	if (sim.plant == PLANT_SLEEPS_LONG && r.stop == STOP_NONE)
		r.at_us = q->now_us + (r.at_us - q->now_us) * 2;
	return r;
}

WRAPPED(bool, contract_stops_on, enum contract c, const struct item *it)
{
	return sim.plant != PLANT_GOES_ON && __real_contract_stops_on(c, it);
}

WRAPPED(void, item_record, struct item *it, const struct outcome *o, int64_t started_us, int64_t now_us,
	int64_t started_unix_ms)
{
	__real_item_record(it, o, started_us, now_us, started_unix_ms);
	if (sim.plant == PLANT_FORGETS_DELIVERED)
		it->delivered = (uint8_t)o->delivered;
	if (sim.plant == PLANT_MISCOUNTS && it->attempts == 3)
		it->attempts--;
	if (sim.plant == PLANT_NO_DUPLICATE_RISK)
		it->duplicate_risk = false;
}

WRAPPED(void, item_settle, struct item *it, enum code code, enum stop stop, int64_t now_us)
{
	if (sim.plant == PLANT_WRONG_STOP && stop != STOP_NONE)
		stop = STOP_MAX_ATTEMPTS;
	if (sim.plant == PLANT_SETTLED_BY_SHUTDOWN && stop == STOP_CANCELLED && sim.shut_down)
		stop = STOP_SHUTDOWN;
	__real_item_settle(it, code, stop, now_us);
	if (sim.plant == PLANT_SETTLES_TWICE)
		__real_item_settle(it, code, stop, now_us);
}

WRAPPED(void, batch_finish, struct batch *b, int64_t now_us, int64_t now_unix_ms)
{
	__real_batch_finish(b, now_us, now_unix_ms);
	if (sim.plant == PLANT_WRONG_REASON)
		b->stop_reason = STOP_REASON_COMPLETED;
	if (sim.plant == PLANT_WRONG_OUTCOME)
		b->outcome = BATCH_OUTCOME_SUCCEEDED;
}

WRAPPED(void, op_expire, struct op_tree *t, int64_t now_us)
{
	if (sim.plant != PLANT_NO_EXPIRY)
		__real_op_expire(t, now_us);
}

/* Cancels of attempts arrive nowhere; the gate alone still works. */
WRAPPED(void, op_cancel, struct op_tree *t, struct op *op, enum why why)
{
	if (sim.plant == PLANT_NO_CANCEL_TREE && op->parent != NULL && op->parent->parent == NULL &&
	    op->on_cancel == NULL)
		return;
	__real_op_cancel(t, op, why);
}

WRAPPED(void, channel_classify, const struct service *s, const struct answer *a, enum why why, struct buf *id,
	struct outcome *ret)
{
	struct answer bent = *a;

	if (sim.plant == PLANT_CANCEL_BEATS_STATUS && a->end == ANSWER_CANCELLED)
		bent.status = 0;
	__real_channel_classify(s, &bent, why, id, ret);
	if (sim.plant == PLANT_ALWAYS_OK && ret->code == CODE_UPSTREAM_ERROR)
		ret->code = CODE_OK;
}

static void swap_first_results(struct batch *b)
{
	struct item first = b->items[0];

	b->items[0] = b->items[1];
	b->items[1] = first;
}

/* Both texts are of one length. */
static void rewrite(struct buf *out, const char *from, const char *to)
{
	size_t n = strlen(from);

	for (size_t i = 0; i + n <= out->n; i++)
		if (memcmp(out->p + i, from, n) == 0)
			memcpy(out->p + i, to, n);
}

WRAPPED(void, wire_batch, struct buf *out, const struct batch *b, bool results)
{
	bool swap = sim.plant == PLANT_SHUFFLED_RESULTS && b->counts.total > 1;

	if (swap)
		swap_first_results((struct batch *)b);
	__real_wire_batch(out, b, results);
	if (swap)
		swap_first_results((struct batch *)b);
	if (sim.plant == PLANT_OK_IS_TRUE)
		rewrite(out, "\"ok\":false", "\"ok\":true ");
	if (sim.plant == PLANT_ALL_RETRYABLE)
		rewrite(out, "\"retryable\":false", "\"retryable\":true ");
}

WRAPPED(int, dispatch_submit, struct dispatch *d, struct batch *take, const struct dispatch_listener *l, void *arg)
{
	if (sim.plant == PLANT_ALWAYS_BUSY)
		return -EBUSY;
	if (sim.plant == PLANT_EARLY_CALL)
		l->on_done(arg, take, NULL);
	return __real_dispatch_submit(d, take, l, arg);
}

/* Jobs are ended like all the others. */
WRAPPED(void, dispatch_cancel_all, struct dispatch *d, enum why why)
{
	if (sim.plant == PLANT_SETTLED_BY_SHUTDOWN && !sim.dead)
		for (unsigned i = 0; i < sim.n_batches; i++)
			if (sim.batches[i].asynchronous)
				dispatch_cancel(d, sim.batches[i].id, WHY_CANCELLED);
	__real_dispatch_cancel_all(d, why);
}

WRAPPED(void, dispatch_watch, struct dispatch *d, struct dispatch_watch *w, struct batch_id id)
{
	if (sim.plant != PLANT_DEAF_WATCH)
		__real_dispatch_watch(d, w, id);
}

WRAPPED(void, dispatch_unwatch, struct dispatch *d, struct dispatch_watch *w)
{
	if (sim.plant != PLANT_DEAF_WATCH)
		__real_dispatch_unwatch(d, w);
}

WRAPPED(void, item_record_interrupted, struct item *it, int64_t now_us, int64_t now_unix_ms, struct outcome *ret)
{
	__real_item_record_interrupted(it, now_us, now_unix_ms, ret);
	if (sim.plant == PLANT_UNCOUNTED)
		it->attempts--;
	if (sim.plant == PLANT_INTERRUPTED_IS_NO)
		it->delivered = ret->delivered = DELIVERED_NO;
}

/* The disk itself: it forgets the letter of what was tried, or writes past its place. */
WRAPPED(bool, memory_copy_letter, struct item *to, const struct item *from)
{
	if (sim.plant == PLANT_LOSES_LETTERS && from->attempts > 0)
		return true;
	return __real_memory_copy_letter(to, from);
}

WRAPPED(bool, memory_copy_facts, struct item *to, const struct item *from, const struct batch *from_batch)
{
	bool done = __real_memory_copy_facts(to, from, from_batch);

	if (sim.plant == PLANT_REFUSED_UNKEPT)
		to->refused = 0;
	if (sim.plant == PLANT_CHANGES_RESULTS && from->state == ITEM_WAITING)
		to->batch->items[0].code = from->code;
	return done;
}
