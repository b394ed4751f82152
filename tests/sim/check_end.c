/*
 * The checks of a batch that is done: every result against the ledger.
 */
#include "sim.h"

#include <stdlib.h>

static const struct request *last_request(const struct sim_item *it)
{
	return it->last < 0 ? NULL : &sim.requests[it->last];
}

/* A defect of ours leaves it open: then it counts as sent. */
static bool was_sent(const struct request *r)
{
	return r->interrupted ||
	       (r->recorded && (r->answer.wrote || r->answer.status != 0 || r->answer.end == ANSWER_INTERNAL ||
			       r->answer.end == ANSWER_MALFORMED));
}

/* Was an attempt that may have been delivered followed by one that was sent? */
static bool model_duplicate(const struct sim_batch *b, const struct sim_item *it)
{
	bool maybe = false;

	for (int i = it->first; i >= 0; i = sim.requests[i].next) {
		const struct request *r = &sim.requests[i];

		if (maybe && was_sent(r))
			return true;
		maybe = maybe || model_judge(b, r).delivered != DELIVERED_NO;
	}
	return false;
}

static unsigned stop_bit(enum why w)
{
	static const enum stop of[] = {
		[WHY_DEADLINE] = STOP_DEADLINE,         [WHY_FIRST_FAILURE] = STOP_FIRST_FAILURE,
		[WHY_DISCONNECTED] = STOP_DISCONNECTED, [WHY_CANCELLED] = STOP_CANCELLED,
		[WHY_SHUTDOWN] = STOP_SHUTDOWN,         [WHY_INTERRUPTED] = STOP_INTERRUPTED,
	};

	return 1u << of[w];
}

/* The stops that an end of the batch explains, of an item that it found unsettled. */
static unsigned stops_of_end(const struct sim_batch *b, const struct sim_item *it)
{
	unsigned stops = 0;

	if (b->end.why != WHY_NONE && it->final_us >= b->end.at_us)
		for (unsigned w = WHY_DEADLINE; w <= WHY_INTERRUPTED; w++)
			stops |= b->end.lanes_saw >> w & 1 ? stop_bit((enum why)w) : 0;
	if (model_may_shed(b))
		stops |= 1u << STOP_SHED;
	/* A lane of another shard may go down a moment before the batch's own. */
	if (sim.shut_down && !b->asynchronous)
		stops |= 1u << STOP_SHUTDOWN;
	return stops;
}

/* A wait that could end past the item's deadline, whichever of its two is first. */
static unsigned stops_of_wait(const struct sim_batch *b, const struct sim_item *it)
{
	int64_t deadline = model_deadline_us(b), ttl = model_ttl_us(b, it);
	int64_t bound = MAX(model_backoff_ms(b, it), model_wish_ms(it)), end;

	end = MAX(it->tried_us + bound * 1000, it->final_us);
	if (end < MIN(deadline, ttl) - model_slack_us(b))
		return 0;
	if (model_slack_us(b) > 0 && deadline < INT64_MAX && ttl < INT64_MAX && llabs(ttl - deadline) < model_slack_us(b))
		return 1u << STOP_TTL | 1u << STOP_DEADLINE;
	return 1u << (ttl < deadline ? STOP_TTL : STOP_DEADLINE);
}

/* Its lane pauses for longer than the item has. */
static unsigned stops_of_pause(const struct sim_batch *b, const struct sim_item *it)
{
	int64_t deadline = model_deadline_us(b), ttl = model_ttl_us(b, it);

	if (account_paused_us(it) < MIN(deadline, ttl) - model_slack_us(b))
		return 0;
	cover_race(RACE_HELD_TOO_LONG);
	return 1u << (ttl < deadline ? STOP_TTL : STOP_DEADLINE);
}

/* A repeat whose deadline came while its lane had no budget for it, which its batch may
 * have heard of a moment later. */
bool model_lacks_budget(const struct sim_batch *b, const struct sim_item *it)
{
	int64_t deadline = MIN(model_deadline_us(b), model_ttl_us(b, it));
	int64_t heard_us = it->final_us - sim.set.delay_us - 4 * sim.set.turn_us;

	return it->starts > 0 && it->final_us >= deadline - model_slack_us(b) &&
	       (sim.stalls || account_lacks_budget(it, it->final_us) || account_lacks_budget(it, heard_us) ||
		account_lacks_budget(it, MIN(it->final_us, deadline)));
}

static unsigned stops_after_tries(const struct sim_batch *b, const struct sim_item *it)
{
	unsigned stops = stops_of_end(b, it) | stops_of_wait(b, it) | stops_of_pause(b, it);

	if (it->starts + it->refused == b->want.retry.max_attempts)
		stops |= 1u << STOP_MAX_ATTEMPTS;
	if (it->lacked_budget)
		stops |= 1u << STOP_RETRY_BUDGET;
	return stops;
}

static unsigned stops_after_attempts(const struct sim_batch *b, const struct sim_item *it, enum code code)
{
	unsigned stops = stops_of_end(b, it);

	if (b->want.at_most_once && it->delivered == DELIVERED_MAYBE)
		stops |= 1u << STOP_MAYBE_DELIVERED;
	if (!model_retryable(code))
		return stops | 1u << STOP_NOT_RETRYABLE;
	return stops | stops_after_tries(b, it);
}

static unsigned stops_unstarted(const struct sim_batch *b, const struct sim_item *si)
{
	if (si->code == CODE_INVALID_ITEM)
		return si->invalid ? 1u << STOP_NOT_RETRYABLE : 0;
	if (si->code == CODE_PAYLOAD_TOO_LARGE)
		return strlen(si->payload) > sim.services[si->service].max_payload ? 1u << STOP_NOT_RETRYABLE : 0;
	if (si->code == CODE_EXPIRED)
		return si->final_us >= model_ttl_us(b, si) - model_slack_us(b) ? 1u << STOP_TTL : 0;
	if (si->refused > 0)
		return si->code == CODE_CIRCUIT_OPEN ? stops_after_tries(b, si) : 0;
	return si->code == CODE_NOT_ATTEMPTED ? stops_of_end(b, si) | stops_of_pause(b, si) : 0;
}

static void check_never_started(const struct sim_batch *b, const struct sim_item *si, const struct item *it, unsigned n)
{
	unsigned stops = stops_unstarted(b, si);

	CHECK(VERDICT, stops != 0, "item %u: %s without an attempt", n, code_str((enum code)si->code));
	CHECK(STOP, stops >> si->stop & 1, "item %u: %s, stop %s", n, code_str((enum code)si->code),
	      stop_str((enum stop)si->stop));
	CHECK(VERDICT, si->delivered == DELIVERED_NO, "item %u: delivered without an attempt", n);
	CHECK(VERDICT, si->code != CODE_NOT_ATTEMPTED || it->retry_after_ms <= sim.services[si->service].max_pause_ms,
	      "item %u: retry_after_ms %lld", n, (long long)it->retry_after_ms);
	CHECK(REFUSED, si->code != CODE_CIRCUIT_OPEN || it->retry_after_ms <= sim.services[si->service].breaker.open_ms,
	      "item %u: retry_after_ms %lld", n, (long long)it->retry_after_ms);
}

static void check_started(const struct sim_batch *b, const struct sim_item *si, const struct item *it, unsigned n)
{
	const struct request *last = last_request(si);
	struct verdict v = model_judge(b, last);
	enum delivered delivered = model_delivered(si, b, -1);
	enum code code = (enum code)si->code;

	CHECK(VERDICT, v.codes >> code & 1, "item %u: %s (answer %d, status %d)", n, code_str(code),
	      (int)last->answer.end, last->answer.status);
	CHECK(VERDICT, si->delivered == delivered, "item %u: delivered %s, not %s", n,
	      delivered_str((enum delivered)si->delivered), delivered_str(delivered));
	CHECK(VERDICT, it->http_status == last->answer.status, "item %u: status %u, not %d", n,
	      it->http_status, last->answer.status);
	CHECK(DUPLICATE, it->duplicate_risk == model_duplicate(b, si), "item %u: duplicate_risk %d", n,
	      it->duplicate_risk);
	if (code == CODE_OK) {
		CHECK(STOP, si->stop == STOP_NONE, "item %u: a success that stops", n);
		return;
	}
	CHECK(STOP, stops_after_attempts(b, si, code) >> si->stop & 1, "item %u: %s after %u attempts, stop %s",
	      n, code_str(code), si->starts, stop_str((enum stop)si->stop));
	CHECK(VERDICT, !model_retryable(code) || it->retry_after_ms == last->answer.retry_after_ms,
	      "item %u: retry_after_ms %lld", n, (long long)it->retry_after_ms);
}

/* The item `it` of batch b is said to be final. */
void check_final(const struct sim_batch *b, const struct item *it, unsigned n)
{
	const struct sim_item *si = &b->items[n];

	CHECK(RESULTS, it->state == ITEM_FINAL, "item %u is not final", n);
	CHECK(RESULTS, slice_eq(it->id, slice_str(si->id)), "item %u has another id", n);
	CHECK(ATTEMPTS, it->attempts == si->starts, "item %u: %u attempts told, %u started", n, it->attempts,
	      si->starts);
	CHECK(ATTEMPTS, si->running == 0, "item %u: an attempt is still on the wire", n);
	CHECK(VERDICT,
	      it->status == model_status((enum delivered)it->delivered, it->attempts, (enum code)it->code),
	      "item %u: status %s", n, status_str((enum status)it->status));
	CHECK(VERDICT, si->invalid == (it->code == CODE_INVALID_ITEM && it->attempts == 0),
	      "item %u: the invalid ones and no others", n);
	if (si->stop == STOP_SHED)
		check_shed(b, n);
	if (si->starts == 0)
		check_never_started(b, si, it, n);
	else
		check_started(b, si, it, n);
}

static bool any_failed(const struct sim_batch *b)
{
	for (unsigned i = 0; i < b->n_items; i++)
		if (b->items[i].status != STATUS_SUCCEEDED)
			return true;
	return false;
}

static void check_stop_reason(const struct sim_batch *b)
{
	static const enum stop_reason of[] = {
		[WHY_DEADLINE] = STOP_REASON_DEADLINE,         [WHY_FIRST_FAILURE] = STOP_REASON_FIRST_FAILURE,
		[WHY_DISCONNECTED] = STOP_REASON_DISCONNECTED, [WHY_CANCELLED] = STOP_REASON_CANCELLED,
		[WHY_SHUTDOWN] = STOP_REASON_SHUTDOWN,         [WHY_INTERRUPTED] = STOP_REASON_INTERRUPTED,
	};
	unsigned allowed = 0, by_itself = 1u << STOP_REASON_COMPLETED;

	/* The failure that ends the batch may be that of its last item. */
	if (b->want.contract == CONTRACT_ALL_OR_NOTHING && any_failed(b))
		by_itself = 1u << STOP_REASON_FIRST_FAILURE;
	for (unsigned w = WHY_DEADLINE; w <= WHY_INTERRUPTED; w++)
		allowed |= b->end.reasons >> w & 1 ? 1u << of[w] : 0;
	/* As in stops_of_end(). */
	if (sim.shut_down && !b->asynchronous)
		allowed |= 1u << STOP_REASON_SHUTDOWN;
	/* A job that a shutdown has stopped already is not stopped again by a cancel: what is in
	 * flight comes to its own end. */
	if (world_goes_down() && b->asynchronous)
		allowed |= by_itself;
	/* The last answer may beat the deadline's timer, which is a turn behind; and of
	 * what passed while it was not in memory the items' own ends come first. */
	if (b->end.why == WHY_NONE ||
	    (b->end.why == WHY_DEADLINE &&
	     (!sim.exact || b->reloaded || b->done_us - b->end.at_us <= 4 * sim.set.turn_us + sim.set.delay_us)))
		allowed |= by_itself;
	CHECK(STOP_REASON, allowed >> b->b->stop_reason & 1, "%s, ended by %s",
	      stop_reason_str(b->b->stop_reason), why_str(b->end.why));
}

/* A shutdown that ended an item is no completion, whichever shard saw it first. */
static void check_stops_agree(const struct sim_batch *b)
{
	for (unsigned i = 0; i < b->n_items; i++)
		CHECK(STOP_REASON,
		      b->b->items[i].stop != STOP_SHUTDOWN || b->b->stop_reason != STOP_REASON_COMPLETED,
		      "an item was stopped by the shutdown, its batch by %s", stop_reason_str(b->b->stop_reason));
}

static void check_outcome(const struct sim_batch *b)
{
	unsigned yes = 0, maybe = 0;
	enum batch_outcome want = BATCH_OUTCOME_FAILED;

	for (unsigned i = 0; i < b->n_items; i++) {
		yes += b->items[i].delivered == DELIVERED_YES;
		maybe += b->items[i].delivered == DELIVERED_MAYBE;
	}
	if (yes == b->n_items)
		want = BATCH_OUTCOME_SUCCEEDED;
	else if (yes > 0)
		want = BATCH_OUTCOME_PARTIAL;
	else if (maybe > 0)
		want = BATCH_OUTCOME_INDETERMINATE;
	CHECK(COUNTS, b->b->outcome == want, "outcome %s", batch_outcome_str(b->b->outcome));
	CHECK(COUNTS, b->b->state == BATCH_DONE, "state %s", batch_state_str(b->b->state));
}

/* Its items are final, and were checked: what follows from them. */
void check_end(const struct sim_batch *b)
{
	CHECK(COUNTS, b->b->counts.pending == 0, "%u pending", b->b->counts.pending);
	check_outcome(b);
	check_stop_reason(b);
	check_stops_agree(b);
}

/* The batch is done: now everything about it must be right. */
void check_batch(struct sim_batch *b, const struct blob *document)
{
	check_settled_now(b);
	b->done = true;
	b->done_us = clock_now();
	for (unsigned i = 0; i < b->n_items; i++)
		check_final(b, &b->b->items[i], i);
	check_end(b);
	if (document != NULL)
		check_document(b, (struct slice){document->p, document->n});
	cover_batch(b);
	trace("done: batch, outcome, stop_reason", b - sim.batches, b->b->outcome, b->b->stop_reason);
}
