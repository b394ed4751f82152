/* The states and invariants are in the header's head. */
#include "core/batch.h"

#include <stdlib.h>

#define X(upper, lower) [CONTRACT_##upper] = #lower,
static const char *const contract_names[] = {CONTRACT_TABLE(X)};
#undef X
#define X(upper, lower) [BATCH_##upper] = #lower,
static const char *const batch_state_names[] = {BATCH_STATE_TABLE(X)};
#undef X
#define X(upper, lower) [BATCH_OUTCOME_##upper] = #lower,
static const char *const batch_outcome_names[] = {BATCH_OUTCOME_TABLE(X)};
#undef X
#define X(upper, lower) [STOP_REASON_##upper] = #lower,
static const char *const stop_reason_names[] = {STOP_REASON_TABLE(X)};
#undef X

const char *contract_str(enum contract c)
{
	return contract_names[c];
}

const char *batch_state_str(enum batch_state s)
{
	return batch_state_names[s];
}

const char *batch_outcome_str(enum batch_outcome o)
{
	return batch_outcome_names[o];
}

const char *stop_reason_str(enum stop_reason r)
{
	return stop_reason_names[r];
}

void gate_close(struct gate *g, enum why why)
{
	atomic_store_explicit(&g->why, (int)why, memory_order_release);
}

enum why gate_why(const struct gate *g)
{
	return (enum why)atomic_load_explicit(&g->why, memory_order_acquire);
}

struct batch *batch_new(struct blob *take_body, uint32_t n_items)
{
	struct batch *b = calloc(1, sizeof *b);
	struct item *items = calloc(MAX(n_items, 1u), sizeof *items);

	if (b == NULL || items == NULL) {
		free(b);
		free(items);
		return NULL;
	}
	*b = (struct batch){
		.refs = 1,
		.body = take_body,
		.items = items,
		.n_items = n_items,
		.durability = "memory",
		.counts = {.total = n_items, .pending = n_items},
	};
	for (uint32_t i = 0; i < n_items; i++) {
		items[i].batch = b;
		items[i].index = i;
		items[i].ttl_ms = HEAP_NONE;
		items[i].retry_after_ms = RETRY_AFTER_NONE;
	}
	return b;
}

struct batch *batch_ref(struct batch *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
	return b;
}

void batch_count_no_more(struct batch *b)
{
	for (size_t i = 0; i < ARRAY_LEN(b->held); i++) {
		if (b->held[i] != NULL)
			atomic_fetch_sub(b->held[i], b->held_bytes);
		b->held[i] = NULL;
	}
}

void batch_unref(struct batch *b)
{
	if (b == NULL || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) > 1)
		return;
	REQUIRE(!b->op.live);
	batch_count_no_more(b);
	arena_free(&b->arena);
	blob_unref(b->body);
	free(b->items);
	free(b);
}

void item_set_state(struct item *it, enum item_state state)
{
	static const unsigned char legal[] = {
		[ITEM_PENDING] = 1 << ITEM_QUEUED | 1 << ITEM_FINAL,
		[ITEM_QUEUED] = 1 << ITEM_PENDING | 1 << ITEM_WAITING | 1 << ITEM_FINAL,
		[ITEM_WAITING] = 1 << ITEM_QUEUED | 1 << ITEM_FINAL,
		[ITEM_FINAL] = 0,
	};

	REQUIRE(legal[it->state] & (1 << state));
	it->state = (uint8_t)state;
	if (state == ITEM_QUEUED)
		it->status = STATUS_RUNNING;
	else if (state == ITEM_PENDING)
		it->status = STATUS_PENDING;
}

void batch_set_state(struct batch *b, enum batch_state state)
{
	static const unsigned char legal[] = {
		[BATCH_QUEUED] = 1 << BATCH_RUNNING,
		[BATCH_RUNNING] = 1 << BATCH_CANCELLING | 1 << BATCH_DONE,
		[BATCH_CANCELLING] = 1 << BATCH_DONE,
		[BATCH_DONE] = 0,
	};

	REQUIRE(legal[b->state] & (1 << state));
	b->state = state;
}

static void keep_attempt(struct item *it, const struct outcome *o, int64_t duration_us,
			 int64_t started_unix_ms)
{
	struct attempt_record *r = arena_alloc(&it->batch->arena, sizeof *r);

	REQUIRE(r != NULL);
	*r = (struct attempt_record){
		.next = it->records,
		.started_unix_ms = started_unix_ms,
		.duration_us = duration_us,
		.n = it->attempts,
		.http_status = (uint16_t)o->http_status,
		.code = (uint8_t)o->code,
		.delivered = (uint8_t)o->delivered,
		.phase = (uint8_t)o->phase,
	};
	it->records = r;
}

void item_record(struct item *it, const struct outcome *o, int64_t started_us, int64_t now_us,
		 int64_t started_unix_ms)
{
	it->attempts++;
	if (it->attempts == 1)
		it->started_us = started_us;
	/* No status and surely not delivered: not a byte of it was sent. */
	if (it->delivered != DELIVERED_NO && (o->delivered != DELIVERED_NO || o->http_status != 0))
		it->duplicate_risk = true;
	it->delivered = MAX(it->delivered, (uint8_t)o->delivered);
	it->code = (uint8_t)o->code;
	it->http_status = (uint16_t)o->http_status;
	it->retry_after_ms = o->retry_after_ms;
	it->detail = o->detail;
	if (o->message_id.n > 0)
		it->message_id = arena_copy(&it->batch->arena, o->message_id).p;
	if (it->batch->policy.include_attempts)
		keep_attempt(it, o, now_us - started_us, started_unix_ms);
}

void item_record_interrupted(struct item *it, int64_t now_us, int64_t now_unix_ms, struct outcome *ret)
{
	*ret = (struct outcome){.code = CODE_INTERRUPTED, .delivered = DELIVERED_MAYBE, .phase = PHASE_WAIT,
				.retry_after_ms = RETRY_AFTER_NONE};
	atomic_store(&it->in_flight, false);
	item_record(it, ret, now_us, now_us, now_unix_ms);
}

void item_refuse(struct item *it, const struct outcome *o)
{
	it->refused++;
	if (it->attempts > 0)
		return;
	it->code = (uint8_t)o->code;
	it->retry_after_ms = o->retry_after_ms;
}

void item_settle(struct item *it, enum code code, enum stop stop, int64_t now_us)
{
	struct batch *b = it->batch;

	if (it->attempts == 0 && (it->refused == 0 || code != CODE_NOT_ATTEMPTED))
		it->code = (uint8_t)code;
	if (it->attempts > 0)
		it->latency_ms = (int32_t)MIN((now_us - it->started_us) / 1000, INT32_MAX);
	it->stop = (uint8_t)stop;
	it->status = (uint8_t)outcome_status((enum delivered)it->delivered, it->attempts,
					     (enum code)it->code);
	item_set_state(it, ITEM_FINAL);
	b->counts.pending--;
	switch ((enum status)it->status) {
	case STATUS_SUCCEEDED:
		b->counts.succeeded++;
		break;
	case STATUS_FAILED:
		b->counts.failed++;
		break;
	case STATUS_INDETERMINATE:
		b->counts.indeterminate++;
		break;
	case STATUS_NOT_ATTEMPTED:
		b->counts.not_attempted++;
		break;
	case STATUS_PENDING:
	case STATUS_RUNNING:
	case STATUS_MAX:
		REQUIRE(false);
	}
	it->next_settled = NULL;
	if (b->settled_last == NULL)
		b->settled_first = it;
	else
		b->settled_last->next_settled = it;
	b->settled_last = it;
}

enum batch_outcome batch_reduce(const struct counts *c)
{
	if (c->succeeded == c->total)
		return BATCH_OUTCOME_SUCCEEDED;
	if (c->succeeded > 0)
		return BATCH_OUTCOME_PARTIAL;
	if (c->indeterminate > 0)
		return BATCH_OUTCOME_INDETERMINATE;
	return BATCH_OUTCOME_FAILED;
}

void batch_finish(struct batch *b, int64_t now_us, int64_t now_unix_ms)
{
	REQUIRE(b->counts.pending == 0);
	b->outcome = batch_reduce(&b->counts);
	b->stop_reason = stop_reason_from_why(gate_why(&b->gate));
	b->finished_us = now_us;
	b->finished_unix_ms = now_unix_ms;
	batch_set_state(b, BATCH_DONE);
}

void batch_push_ready(struct batch *b, struct item *it)
{
	it->next_ready = NULL;
	if (b->ready_first == NULL)
		b->ready_first = it;
	else
		b->ready_last->next_ready = it;
	b->ready_last = it;
}

struct item *batch_pop_ready(struct batch *b)
{
	struct item *it = b->ready_first;

	if (it != NULL) {
		b->ready_first = it->next_ready;
		it->next_ready = NULL;
	}
	return it;
}

enum stop stop_from_why(enum why w)
{
	switch (w) {
	case WHY_TTL:
		return STOP_TTL;
	case WHY_DEADLINE:
		return STOP_DEADLINE;
	case WHY_FIRST_FAILURE:
		return STOP_FIRST_FAILURE;
	case WHY_DISCONNECTED:
		return STOP_DISCONNECTED;
	case WHY_CANCELLED:
		return STOP_CANCELLED;
	case WHY_SHUTDOWN:
		return STOP_SHUTDOWN;
	case WHY_INTERRUPTED:
		return STOP_INTERRUPTED;
	case WHY_SHED:
		return STOP_SHED;
	case WHY_NONE:
	case WHY_ATTEMPT_TIMEOUT:
	case WHY_PARKED:
		break;
	}
	return STOP_NONE;
}

enum stop_reason stop_reason_from_why(enum why w)
{
	switch (w) {
	case WHY_DEADLINE:
		return STOP_REASON_DEADLINE;
	case WHY_FIRST_FAILURE:
		return STOP_REASON_FIRST_FAILURE;
	case WHY_DISCONNECTED:
		return STOP_REASON_DISCONNECTED;
	case WHY_CANCELLED:
		return STOP_REASON_CANCELLED;
	case WHY_SHUTDOWN:
		return STOP_REASON_SHUTDOWN;
	case WHY_INTERRUPTED:
		return STOP_REASON_INTERRUPTED;
	case WHY_NONE:
	case WHY_ATTEMPT_TIMEOUT:
	case WHY_TTL:
	case WHY_SHED:
	case WHY_PARKED:
		break;
	}
	return STOP_REASON_COMPLETED;
}

bool item_shares_payload(const struct item *it)
{
	return it->payload.p != NULL && it->payload.p == it->batch->payload.p;
}

bool contract_stops_on(enum contract c, const struct item *it)
{
	return c == CONTRACT_ALL_OR_NOTHING && it->status != STATUS_SUCCEEDED;
}
