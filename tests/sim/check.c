/*
 * The checks that run while things happen: as each request starts and arrives,
 * and after every step of the world.
 */
#include "sim.h"

#include <stdio.h>

/* ---- a request starts ---- */

static const char *header(const struct exchange *e, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < e->n_headers; i++) {
		if (strncasecmp(e->headers[i], name, n) == 0 && e->headers[i][n] == ':')
			return e->headers[i] + n + 1 + strspn(e->headers[i] + n + 1, " ");
	}
	return "";
}

/* Every address ends in "-<batch>-<item>". */
static void identify(struct request *r, const struct exchange *e)
{
	const char *at = strrchr(e->url, '/');

	CHECK(REQUEST, at != NULL && sscanf(at, "/u-%u-%u", &r->batch, &r->item) == 2,
	      "a request to %s, which no item asked for", e->url);
	CHECK(REQUEST, r->batch < sim.n_batches && r->item < sim.batches[r->batch].n_items,
	      "a request to %s, which is no item", e->url);
}

static void check_request(const struct request *r, const struct exchange *e)
{
	const struct sim_batch *b = &sim.batches[r->batch];
	const struct sim_item *it = &b->items[r->item];
	const struct service *s = &sim.services[it->service];
	struct slice origin = model_origin(it);
	char key[112], stamp[24];

	model_key(b, it, key);
	snprintf(stamp, sizeof stamp, "%lld", (long long)(clock_unix_ms() / 1000));
	CHECK(REQUEST, strncmp(e->url, origin.p, origin.n) == 0, "%s instead of %.*s", e->url,
	      (int)origin.n, origin.p);
	CHECK(REQUEST, slice_eq(e->body, slice_str(it->payload)), "%u/%u: the payload is %.*s, not %s",
	      r->batch, r->item, (int)e->body.n, e->body.p, it->payload);
	CHECK(REQUEST, strcmp(header(e, "webhook-id"), key) == 0, "webhook-id %s instead of %s",
	      header(e, "webhook-id"), key);
	CHECK(REQUEST, strcmp(header(e, "webhook-timestamp"), stamp) == 0, "webhook-timestamp %s at %s",
	      header(e, "webhook-timestamp"), stamp);
	CHECK(REQUEST, strcmp(header(e, "content-type"), "application/json") == 0, "content-type %s",
	      header(e, "content-type"));
	CHECK(REQUEST, header(e, "traceparent")[0] != '\0', "no traceparent");
	CHECK(REQUEST, (header(e, "webhook-signature")[0] != '\0') == (s->n_secrets > 0), "signature");
	CHECK(REQUEST, e->guarded == (s->kind == SERVICE_WEBHOOK), "the address guard");
}

/* As the dispatcher has it now: in memory, or as it last said to the store. */
static enum item_state state_of(const struct sim_batch *b, unsigned i)
{
	return (enum item_state)(b->durable ? b->items[i].state : b->b->items[i].state);
}

static enum status status_of(const struct sim_batch *b, unsigned i)
{
	return (enum status)(b->durable ? b->items[i].status : b->b->items[i].status);
}

/* What was accepted once has to be on the disk before anything of it starts. */
static void check_claim(const struct sim_batch *b, struct sim_item *it, unsigned item)
{
	if (!b->durable)
		return;
	CHECK(CLAIM, b->fate == FATE_KEPT, "item %u starts, and its batch is not kept", item);
	CHECK(CLAIM, it->claim_kept && !it->claim_used, "item %u starts, and its claim is not kept", item);
	CHECK(RETRY_WAIT, clock_unix_ms() + 1 >= it->due_unix_ms, "item %u starts %lld ms too early", item,
	      (long long)(it->due_unix_ms - clock_unix_ms()));
	it->claim_used = true;
	it->claim_unstarted = false;
}

static void check_order(const struct sim_batch *b, unsigned item)
{
	if (b->want.contract == CONTRACT_ALL_OR_NOTHING)
		for (unsigned i = 0; i < b->n_items; i++)
			CHECK(ALL_OR_NOTHING, state_of(b, i) != ITEM_FINAL || status_of(b, i) == STATUS_SUCCEEDED,
			      "item %u starts, item %u has failed", item, i);
	if (!b->want.sequential)
		return;
	CHECK(SEQUENTIAL, b->running == 0, "item %u starts while another attempt runs", item);
	for (unsigned i = 0; i < b->n_items; i++)
		CHECK(SEQUENTIAL, i < item ? state_of(b, i) == ITEM_FINAL
					   : i == item || b->items[i].starts == 0,
		      "item %u starts, item %u is not in order", item, i);
}

/* What the item's earlier attempts allow. */
static void check_repeat(const struct sim_batch *b, const struct sim_item *it)
{
	const struct request *last = it->last < 0 ? NULL : &sim.requests[it->last];
	struct verdict v;

	CHECK(STICKY, state_of(b, (unsigned)(it - b->items)) != ITEM_FINAL, "a final item starts");
	CHECK(MAX_ATTEMPTS, it->starts + it->refused < b->want.retry.max_attempts, "attempt %u, %u refused", it->starts + 1,
	      it->refused);
	CHECK(MAX_ATTEMPTS, it->running == 0, "two attempts of one item at once");
	CHECK(AT_MOST_ONCE, !b->want.at_most_once || model_delivered(it, b, -1) == DELIVERED_NO,
	      "attempt %u follows one that may have been delivered", it->starts + 1);
	if (last == NULL)
		return;
	v = model_judge(b, last);
	for (unsigned c = 0; c < CODE_MAX; c++)
		CHECK(MAX_ATTEMPTS, !(v.codes >> c & 1) || model_retryable((enum code)c),
		      "an attempt follows %s", code_str((enum code)c));
	if (last->recorded && last->answer.retry_after_ms > 0) {
		cover_race(RACE_RETRY_AFTER);
		CHECK(RETRY_WAIT, clock_now() + model_slack_us(b) >= last->done_us + last->answer.retry_after_ms * 1000,
		      "an attempt after %lld us in spite of Retry-After %lld ms",
		      (long long)(clock_now() - last->done_us), (long long)last->answer.retry_after_ms);
	}
}

static void check_times(const struct sim_batch *b, const struct sim_item *it)
{
	CHECK(NO_START_AFTER_END, b->end.why == WHY_NONE || b->end.why == WHY_DEADLINE,
	      "an attempt starts %lld us after %s", (long long)(clock_now() - b->end.at_us),
	      why_str(b->end.why));
	CHECK(NO_START_LATE, clock_now() - model_slack_us(b) <= model_deadline_us(b), "%lld us after the deadline",
	      (long long)(clock_now() - model_deadline_us(b)));
	CHECK(NO_START_LATE, clock_now() - model_slack_us(b) <= model_ttl_us(b, it), "%lld us after the ttl",
	      (long long)(clock_now() - model_ttl_us(b, it)));
}

static unsigned live_of(unsigned shard, int service)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sim.n_requests; i++) {
		const struct request *r = &sim.requests[i];

		n += r->shard == shard && r->life == sim.life && r->account >= 0 && r->recorded && r->done_us == NEVER &&
		     sim.batches[r->batch].items[r->item].service == service;
	}
	return n;
}

/* One of several services takes a slot of the shard while it holds fewer than are free. */
static bool may_take_slot(unsigned shard, int service, unsigned live)
{
	unsigned most = sim.config.limits.in_flight;

	return live < most && (sim.config.n_services == 1 || live == 0 || 2 * live < most ||
			       live_of(shard, service) < most - live);
}

static void check_slot(const struct request *r)
{
	unsigned live = xfer_usage(sim.xfers[r->shard]).live, most = sim.config.limits.in_flight;
	int service = sim.batches[r->batch].items[r->item].service;

	CHECK(IN_FLIGHT, live < most, "shard %u is over its cap", r->shard);
	CHECK(SLOTS, may_take_slot(r->shard, service, live), "service %d has %u of the slots of shard %u, and %u are free",
	      service, live_of(r->shard, service), r->shard, most - live);
}

/* Is this the item's attempt to make, and now? Fills in what the ledger keeps. */
void check_start(struct request *r, const struct exchange *e)
{
	struct sim_batch *b;
	struct sim_item *it;

	identify(r, e);
	b = &sim.batches[r->batch];
	it = &b->items[r->item];
	CHECK(NO_START_AFTER_END, b->submitted && !b->done, "batch %u is not live", r->batch);
	check_request(r, e);
	check_claim(b, it, r->item);
	check_order(b, r->item);
	check_times(b, it);
	check_repeat(b, it);
	check_slot(r);
	r->n = ++it->starts;
	r->deadline_us = MIN(r->start_us + model_timeout_us(b, it), model_deadline_us(b));
	r->deadline_us = MIN(r->deadline_us, model_ttl_us(b, it));
	trace("start: batch, item, attempt", r->batch, r->item, r->n);
	if (r->shard != b->shard)
		cover_race(RACE_OTHER_SHARD);
}

/* In flight to the item's origin, from one shard. */
static unsigned running_there(const struct request *like, unsigned shard)
{
	const struct sim_item *it = &sim.batches[like->batch].items[like->item];
	unsigned n = 0;

	for (unsigned i = 0; i < sim.n_batches; i++) {
		const struct sim_batch *b = &sim.batches[i];

		for (unsigned j = 0; b->running > 0 && j < b->n_items; j++)
			if (b->items[j].running > 0 && b->items[j].service == it->service &&
			    sim.requests[b->items[j].last].shard == shard &&
			    slice_eq(model_origin(&b->items[j]), model_origin(it)))
				n += b->items[j].running;
	}
	return n;
}

static unsigned running_to_origin(const struct request *like)
{
	unsigned n = 0;

	for (unsigned shard = 0; shard < sim.n_shards; shard++)
		n += running_there(like, shard);
	return n;
}

/* The request is in the ledger now: it counts. */
void check_running(const struct request *r)
{
	struct sim_batch *b = &sim.batches[r->batch];
	unsigned most = sim.services[b->items[r->item].service].max_in_flight;
	unsigned lane;

	b->items[r->item].running++;
	b->running++;
	CHECK(CONCURRENCY, b->running <= b->want.concurrency, "%u attempts of batch %u at once", b->running,
	      r->batch);
	if (b->running == b->want.concurrency && b->n_items > b->running)
		cover_race(b->want.sequential ? RACE_SEQUENTIAL : RACE_CONCURRENCY_FULL);
	lane = running_to_origin(r);
	CHECK(IN_FLIGHT, lane <= most, "%u in flight to one origin, %u allowed", lane, most);
	if (lane == most)
		cover_race(RACE_LANE_FULL);
	if (running_there(r, r->shard) < lane)
		cover_race(RACE_LANES_SHARE);
	check_fair((unsigned)r->account, &b->items[r->item]);
}

void check_seen(const struct request *r, struct slice body)
{
	const struct sim_batch *b = &sim.batches[r->batch];
	const struct sim_item *it = &b->items[r->item];
	unsigned seen = 0;

	CHECK(REQUEST, slice_eq(body, slice_str(it->payload)), "the downstream got %.*s, not %s", (int)body.n,
	      body.p, it->payload);
	for (int i = it->first; i >= 0; i = sim.requests[i].next)
		seen += sim.requests[i].seen;
	CHECK(SEEN, seen <= it->starts, "item %u/%u: %u requests seen, %u attempts", r->batch, r->item, seen,
	      it->starts);
	if (seen > 1)
		cover_race(RACE_DUPLICATE_SEEN);
}

/* ---- after each step ---- */

static void check_wait(const struct sim_batch *b, const struct item *it, const struct sim_item *si)
{
	int64_t bound = 1000 * model_backoff_ms(b, si), wish = 1000 * model_wish_ms(si);
	int64_t wait = clock_from_loop(it->wake.key) - si->tried_us;

	/* Of a refusal is known when its batch heard of it. */
	CHECK(RETRY_WAIT, (wait >= 0 || si->refused_last) && wait <= MAX(bound, wish), "a wait of %lld us, %lld at most",
	      (long long)wait, (long long)MAX(bound, wish));
	CHECK(RETRY_WAIT, clock_from_loop(it->wake.key) < MIN(model_deadline_us(b), model_ttl_us(b, si)),
	      "a wait that ends after the item's deadline");
}

/* May its lane have just let it go, because it pauses for more than a moment? */
bool was_held(const struct sim_item *si)
{
	int64_t until = account_paused_us(si), slack = 2 * sim.set.delay_us + 8 * sim.set.turn_us + sim.set.late_us;

	return until != NEVER && (sim.stalls || until - 100000 > clock_now() - slack);
}

/* It waits for its lane, which was no try: until that goes on, and before its deadline. */
static void check_held(const struct sim_batch *b, const struct item *it, const struct sim_item *si)
{
	int64_t until = clock_from_loop(it->wake.key);

	CHECK(HELD, was_held(si) && until <= account_paused_us(si), "item %u waits for %lld us, and its lane does not pause",
	      it->index, (long long)(until - clock_now()));
	CHECK(RETRY_WAIT, until < MIN(model_deadline_us(b), model_ttl_us(b, si)), "a pause that ends after the item's deadline");
	cover_race(RACE_HELD);
	trace("held: batch, item, us", b - sim.batches, it->index, until - clock_now());
}

/* Another try of the item is over: an attempt, or one that an open breaker refused. */
void note_try(const struct sim_batch *b, struct sim_item *si, const struct item *it)
{
	unsigned n = (unsigned)(si - b->items);

	CHECK(REFUSED, it->refused >= si->refused && it->attempts + it->refused <= si->attempts + si->refused + 1,
	      "item %u: %u attempts and %u refused, after %u and %u", n, it->attempts, it->refused, si->attempts, si->refused);
	if (it->refused > si->refused) {
		CHECK(REFUSED, account_refused_since(si, MAX(si->tried_us, b->accepted_us)),
		      "item %u is refused, and its breaker was not open", n);
		CHECK(REFUSED, si->running == 0, "item %u is refused while it runs", n);
		cover_race(RACE_REFUSED);
		trace("refused: batch, item, times", b - sim.batches, n, it->refused);
		si->tried_us = clock_now();
	} else if (it->attempts > si->attempts) {
		si->tried_us = sim.requests[si->last].done_us;
	} else {
		CHECK(REFUSED, it->state != ITEM_WAITING || si->state == ITEM_WAITING || world_goes_down() || was_held(si),
		      "item %u is to be tried again, and was not tried", n);
		return;
	}
	si->refused_last = it->refused > si->refused;
	si->refused = it->refused;
	si->attempts = it->attempts;
}

static void check_item(struct sim_batch *b, const struct item *it, struct sim_item *si)
{
	unsigned n = (unsigned)(si - b->items);
	bool tried = it->attempts != si->attempts || it->refused != si->refused;

	CHECK(STICKY, it->delivered >= si->delivered, "item %u: delivered went down", n);
	CHECK(STICKY, it->attempts >= si->attempts, "item %u: attempts went down", n);
	CHECK(SEEN, it->attempts <= si->starts, "item %u: %u attempts told, %u started", n, it->attempts,
	      si->starts);
	CHECK(DUPLICATE, !it->duplicate_risk || it->attempts >= 2, "item %u: after one attempt", n);
	note_try(b, si, it);
	if (it->state == ITEM_WAITING && heap_has(&it->wake) && tried)
		check_wait(b, it, si);
	else if (it->state == ITEM_WAITING && heap_has(&it->wake) && si->state != ITEM_WAITING)
		check_held(b, it, si);
	if (si->state == ITEM_FINAL) {
		CHECK(STICKY,
		      it->state == ITEM_FINAL && it->code == si->code && it->stop == si->stop &&
			      it->status == si->status && it->delivered == si->delivered &&
			      it->attempts == si->attempts,
		      "item %u: a final result changed", n);
		return;
	}
	if (si->state != it->state)
		si->since_us = clock_now();
	si->state = it->state;
	si->delivered = it->delivered;
	si->code = it->code;
	si->stop = it->stop;
	si->status = it->status;
	if (it->state != ITEM_FINAL)
		return;
	si->final_us = clock_now();
	si->lacked_budget = model_lacks_budget(b, si);
	trace("final: item, code, stop", n, it->code, it->stop);
}

static void check_counts(const struct sim_batch *b)
{
	const struct counts *c = &b->b->counts;
	unsigned n[STATUS_MAX] = {0}, pending = 0;

	for (unsigned i = 0; i < b->n_items; i++) {
		if (b->b->items[i].state == ITEM_FINAL)
			n[b->b->items[i].status]++;
		else
			pending++;
	}
	CHECK(COUNTS,
	      c->total == b->n_items && c->pending == pending && c->succeeded == n[STATUS_SUCCEEDED] &&
		      c->failed == n[STATUS_FAILED] && c->indeterminate == n[STATUS_INDETERMINATE] &&
		      c->not_attempted == n[STATUS_NOT_ATTEMPTED],
	      "the counts are not those of the items");
}

static void cover_end(const struct sim_batch *b, enum why why)
{
	bool local = why == WHY_DEADLINE;

	if (b->running > 0 && local)
		cover_race(RACE_DEADLINE_IN_FLIGHT);
	if (b->running > 0 && why == WHY_FIRST_FAILURE)
		cover_race(RACE_FIRST_FAILURE_IN_FLIGHT);
	for (unsigned i = 0; i < b->n_items; i++) {
		enum item_state state = state_of(b, i);

		if (state == ITEM_WAITING)
			cover_race(local ? RACE_DEADLINE_IN_WAIT : RACE_CANCEL_IN_WAIT);
		if (state == ITEM_QUEUED && b->items[i].running == 0 && !local)
			cover_race(RACE_CANCEL_QUEUED);
	}
}

/* The batch has been ended. Of two reasons the first counts; either one where
 * they come at the same instant, or where instants are not exact. */
void note_end(struct sim_batch *b, enum why why)
{
	/* The timer is set by the pump: it may be a turn behind. */
	int64_t behind = b->end.why == WHY_DEADLINE ? 2 * sim.set.turn_us : 0;

	if (b->end.why == WHY_NONE) {
		b->end = (struct sim_end){.why = why, .at_us = clock_now(), .reasons = 1u << why, .lanes_saw = 1u << why};
		trace("ended: batch, why, pending", b - sim.batches, why, b->pending);
		cover_end(b, why);
	} else if (!sim.exact || b->durable || clock_now() - b->end.at_us <= behind) {
		b->end.reasons |= 1u << why;
		cover_race(RACE_ENDED_TWICE);
	}
	if (!sim.exact || b->durable || clock_now() - b->end.at_us <= sim.set.delay_us + 2 * sim.set.turn_us)
		b->end.lanes_saw |= 1u << why;
}

/* Did an item fail while others were still open? */
static bool has_first_failure(const struct sim_batch *b)
{
	for (unsigned i = 0; b->durable && i < b->n_items; i++)
		if (state_of(b, i) == ITEM_FINAL && status_of(b, i) != STATUS_SUCCEEDED)
			return b->pending > 0;
	if (b->durable)
		return false;
	for (const struct item *it = b->b->settled_first; it != NULL; it = it->next_settled)
		if (it->status != STATUS_SUCCEEDED)
			return it->next_settled != NULL || b->b->counts.pending > 0;
	return false;
}

/* A deadline that passed and a first failure are ends, too. What was open at the
 * end of the last step was open until this one. */
void notice_end(struct sim_batch *b)
{
	if (b->pending > 0 && clock_now() >= model_deadline_us(b) - model_slack_us(b) && !b->deadline_noted) {
		b->deadline_noted = true;
		note_end(b, WHY_DEADLINE);
	}
	if (!b->durable)
		b->pending = b->b->counts.pending;
	if (b->want.contract == CONTRACT_ALL_OR_NOTHING && !(b->end.reasons >> WHY_FIRST_FAILURE & 1) &&
	    has_first_failure(b))
		note_end(b, WHY_FIRST_FAILURE);
}

/* Nothing of an ended batch lingers: not for longer than messages there, the
 * transfers' own ends and messages back can take. */
static void check_ended(const struct sim_batch *b)
{
	int64_t turns = 4 * sim.set.turn_us + sim.set.late_us;
	int64_t since = clock_now() - b->end.at_us;

	if (b->end.why == WHY_NONE || sim.stalls)
		return;
	for (unsigned i = 0; since > turns && i < b->n_items; i++)
		CHECK(ABORT_AT_ONCE, b->b->items[i].state != ITEM_WAITING,
		      "item %u still waits %lld us after %s", i, (long long)since, why_str(b->end.why));
	CHECK(ABORT_AT_ONCE, since <= 4 * (turns + sim.set.delay_us) + 1000 * (int64_t)b->n_items,
	      "batch %u is not done %lld us after %s", (unsigned)(b - sim.batches), (long long)since,
	      why_str(b->end.why));
}

/* The timer is set by the pump: it may be a turn behind. */
static void check_deadlines(const struct sim_batch *b)
{
	if (sim.stalls || b->running == 0)
		return;
	for (unsigned i = 0; i < b->n_items; i++) {
		const struct sim_item *it = &b->items[i];
		const struct request *r = it->running > 0 ? &sim.requests[it->last] : NULL;

		if (r != NULL && r->cancel_us == NEVER)
			CHECK(OUTLIVES, clock_now() <= r->deadline_us + model_slack_us(b) + sim.set.late_us + sim.set.turn_us,
			      "item %u: the attempt runs %lld us after its deadline", i,
			      (long long)(clock_now() - r->deadline_us));
	}
}

/* Its lane has been pausing, and goes on to. */
static bool is_paused(const struct sim_batch *b, unsigned i, int64_t slack)
{
	return b->items[i].running == 0 && account_paused_us(&b->items[i]) - 100000 > clock_now() + slack;
}

/* Handed out to lanes, running there or not: what concurrency counts. */
static unsigned handed_out(const struct sim_batch *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->n_items; i++)
		n += b->b->items[i].state == ITEM_QUEUED;
	return n;
}

/* Of these: those in lanes that pause. */
static unsigned handed_to_paused(const struct sim_batch *b, int64_t slack)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->n_items; i++)
		n += b->b->items[i].state == ITEM_QUEUED && is_paused(b, i, slack);
	return n;
}

/* Whichever lane it is in has no reason to let it wait. */
static bool lane_is_free(const struct sim_batch *b, unsigned i, int64_t slack)
{
	const struct service *s = &sim.services[b->items[i].service];
	const struct request like = {.batch = (unsigned)(b - sim.batches), .item = i};

	for (unsigned shard = 0; shard < sim.n_shards; shard++)
		if (!may_take_slot(shard, b->items[i].service, xfer_usage(sim.xfers[shard]).live) ||
		    running_there(&like, shard) >= s->max_in_flight / s->lanes)
			return false;
	return !account_holds(&b->items[i], clock_now() - slack);
}

/* Nothing but its lane may hold the item up. */
static bool wants_to_run(const struct sim_batch *b, unsigned i, int64_t slack)
{
	const struct sim_item *si = &b->items[i];
	const struct item *it = &b->b->items[i];
	int64_t quiet = clock_now() - slack;

	if (si->running > 0 || sim.last_us >= quiet || b->accepted_us >= quiet)
		return false;
	switch ((enum item_state)it->state) {
	case ITEM_QUEUED:
		return si->since_us < quiet;
	case ITEM_WAITING:
		return clock_from_loop(it->wake.key) < quiet && handed_out(b) < b->want.concurrency;
	case ITEM_PENDING:
		return !b->want.sequential && handed_out(b) < b->want.concurrency;
	case ITEM_FINAL:
		break;
	}
	return false;
}

/* Something else of the batch could run, but for those that wait for a lane that pauses. */
static void check_not_held_up(const struct sim_batch *b, int64_t slack)
{
	unsigned paused = handed_to_paused(b, slack);

	if (paused == 0 || b->want.sequential || handed_out(b) < b->want.concurrency)
		return;
	for (unsigned i = 0; i < b->n_items; i++)
		CHECK(HELD, b->b->items[i].state != ITEM_PENDING || !lane_is_free(b, i, slack),
		      "item %u could run, and %u of its batch wait for a lane that pauses", i, paused);
}

/* A wake-up that is lost shows as nothing at all, until some deadline comes. */
static void check_idle(const struct sim_batch *b)
{
	int64_t slack = 2 * sim.set.delay_us + 8 * sim.set.turn_us;

	if (!sim.exact || sim.shut_down || b->end.why != WHY_NONE || sim.last_us >= clock_now() - slack)
		return;
	check_not_held_up(b, slack);
	for (unsigned i = 0; i < b->n_items; i++)
		if (wants_to_run(b, i, slack))
			CHECK(IDLE, !lane_is_free(b, i, slack), "item %u waits for nothing", i);
}

/* One batch, now. Also called by its listener, before it is let go. */
void check_settled_now(struct sim_batch *b)
{
	for (unsigned i = 0; i < b->n_items; i++)
		check_item(b, &b->b->items[i], &b->items[i]);
	check_counts(b);
	notice_end(b);
}

static bool any_held(int64_t us)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		for (unsigned j = 0; j < sim.batches[i].n_items; j++)
			if (sim.batches[i].items[j].state != ITEM_FINAL && account_holds(&sim.batches[i].items[j], us))
				return true;
	return false;
}

/* Nothing happens anywhere, and this job should be at work: its wake-up is lost. The
 * disk may have failed a while ago, and is asked again a few seconds later. */
static void check_awake(const struct sim_batch *b)
{
	int64_t quiet = clock_now() - 10000000;

	if (sim.stalls || sim.last_us >= quiet || b->end.why != WHY_NONE || world_goes_down() || sim.down ||
	    !store_disk_well_since(sim.disk, quiet))
		return;
	/* A lane that waits holds up the batches behind it; and a job that somebody waits
	 * for stays in memory, and keeps its room. */
	if (any_held(quiet) || b->asleep_unix_ms >= clock_to_unix_ms(quiet))
		return;
	for (unsigned i = 0; i < sim.n_batches; i++)
		if (sim.batches[i].running > 0 || (sim.batches[i].beyond && !sim.batches[i].finish_kept))
			return;
	for (unsigned i = 0; i < b->n_items; i++)
		CHECK(IDLE, b->items[i].state == ITEM_FINAL || b->items[i].due_unix_ms >= clock_to_unix_ms(quiet) ||
				    (b->want.sequential && b->items[i].state == ITEM_PENDING),
		      "batch %u, item %u: it is due, and nobody wakes it", (unsigned)(b - sim.batches), i);
}

/* A durable batch, of which the store hears everything. */
static void check_job(struct sim_batch *b)
{
	int64_t since;

	if (b->fate != FATE_KEPT || b->finish_asked)
		return;
	check_deadlines(b);
	notice_end(b);
	check_awake(b);
	since = clock_now() - b->end.at_us - model_slack_us(b);
	if (b->end.why != WHY_NONE && !sim.stalls)
		CHECK(ABORT_AT_ONCE,
		      b->running == 0 || since <= 4 * (4 * sim.set.turn_us + sim.set.late_us + sim.set.delay_us) +
						      1000 * (int64_t)b->n_items,
		      "batch %u has attempts in flight %lld us after %s", (unsigned)(b - sim.batches), (long long)since,
		      why_str(b->end.why));
}

void check_step(void)
{
	struct loop *at = fake_loop_current();

	check_resident();
	check_room();
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *b = &sim.batches[i];

		if (b->durable)
			check_job(b);
		if (b->durable || b->b == NULL || b->done)
			continue;
		check_deadlines(b);
		check_ended(b);
		if (at == NULL || at == sim.loops[b->shard])
			check_settled_now(b);
		check_idle(b);
		if (b->detached && b->b->state == BATCH_DONE)
			check_batch(b, NULL);
	}
}
