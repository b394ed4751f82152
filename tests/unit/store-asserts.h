/*
 * For the tests of what a store keeps: a batch with something in every field, and
 * how it is compared with what comes back.
 */
#pragma once

#include "store-kinds.h"

/* Batches. */

static inline struct slice in_arena(struct batch *b, struct slice text)
{
	struct slice copy = arena_copy(&b->arena, text);

	assert_non_null(copy.p);
	return copy;
}

static const struct policy odd_policy = {
	.contract = CONTRACT_BEST_EFFORT,
	.sequential = true,
	.at_most_once = true,
	.continue_on_disconnect = true,
	.include_attempts = true,
	.concurrency = 17,
	.priority = 7,
	.given = GIVEN_DEADLINE | GIVEN_BASE,
	.deadline_ms = 86400000,
	.attempt_timeout_ms = 4321,
	.retry = {.max_attempts = 20, .base_ms = 1001, .cap_ms = 3600001},
};

/* Something in every field; the same for the same id. Of a time to come, so that it
 * does not expire. */
static inline struct batch *odd_batch(struct batch_id id)
{
	struct batch *b = rig_batch(5);

	b->id = id;
	b->created_unix_ms = INT64_C(4000000000123);
	b->policy = odd_policy;
	b->retry_of = (struct batch_id){0x0123456789abcdef, UINT64_MAX};
	b->trace = (struct trace){.id = {0xff, 0, 1, 2, [15] = 0x80}, .flags = 0xfe};
	b->trace.state = in_arena(b, SLICE("vendor=a,other=b"));
	b->metadata = in_arena(b, SLICE("{\"campaign\":\"Fr\xc3\xbchling \\u0000\"}"));
	b->payload = in_arena(b, SLICE("{\"default\":1.10}"));
	b->tenant = in_arena(b, SLICE("shop-7"));
	b->items[2].refused = 9;
	rig_key(b, "/v1/batches", "a \"key\" of 'odd' bytes; --", 0xfe);
	b->items[0].payload = b->items[1].payload = b->payload;
	b->items[2].payload = in_arena(b, SLICE("{\"a\":\"\0\xff\xfe'\"}"));
	b->items[2].to = in_arena(b, SLICE("\xe2\x82\xac \x01\x7f%s'"));
	b->items[3].dedupe_key = in_arena(b, SLICE("order-7:\xf0\x9f\x98\x80"));
	b->items[1].service = 1;
	b->items[3].ttl_ms = 60000;
	b->items[4].ttl_ms = INT64_C(86400000000);
	return b;
}

/* Reading back every field. */

static inline void assert_key(const struct batch_key *got, const struct batch_key *want)
{
	assert_int_equal(got == NULL, want == NULL);
	if (want == NULL)
		return;
	ASSERT_SLICE(got->scope, want->scope);
	ASSERT_SLICE(got->key, want->key);
	assert_memory_equal(got->digest, want->digest, sizeof want->digest);
}

static inline void assert_policy(const struct policy *got, const struct policy *want)
{
	assert_int_equal(got->contract, want->contract);
	assert_int_equal(got->sequential, want->sequential);
	assert_int_equal(got->at_most_once, want->at_most_once);
	assert_int_equal(got->continue_on_disconnect, want->continue_on_disconnect);
	assert_int_equal(got->include_attempts, want->include_attempts);
	assert_int_equal(got->concurrency, want->concurrency);
	assert_int_equal(got->priority, want->priority);
	assert_int_equal(got->given, want->given);
	assert_int_equal(got->deadline_ms, want->deadline_ms);
	assert_int_equal(got->attempt_timeout_ms, want->attempt_timeout_ms);
	assert_int_equal(got->retry.max_attempts, want->retry.max_attempts);
	assert_int_equal(got->retry.base_ms, want->retry.base_ms);
	assert_int_equal(got->retry.cap_ms, want->retry.cap_ms);
}

static inline void assert_counts(const struct counts *got, const struct counts *want)
{
	assert_int_equal(got->total, want->total);
	assert_int_equal(got->succeeded, want->succeeded);
	assert_int_equal(got->failed, want->failed);
	assert_int_equal(got->indeterminate, want->indeterminate);
	assert_int_equal(got->not_attempted, want->not_attempted);
	assert_int_equal(got->pending, want->pending);
}

static inline void assert_head(const struct batch *got, const struct batch *want)
{
	assert_true(batch_id_eq(got->id, want->id));
	assert_policy(&got->policy, &want->policy);
	assert_int_equal(got->asynchronous, want->asynchronous);
	assert_int_equal(got->durable, want->durable);
	assert_string_equal(got->durability, want->durable ? kind->durability : "memory");
	assert_true(batch_id_eq(got->retry_of, want->retry_of));
	assert_true(slice_eq(got->tenant, want->tenant));
	assert_int_equal(got->metadata.n, want->metadata.n);
	assert_memory_equal(got->metadata.p, want->metadata.p, want->metadata.n);
	assert_memory_equal(got->trace.id, want->trace.id, sizeof want->trace.id);
	assert_int_equal(got->trace.flags, want->trace.flags);
	assert_int_equal(got->trace.state.n, want->trace.state.n);
	assert_memory_equal(got->trace.state.p, want->trace.state.p, want->trace.state.n);
	assert_key(got->key, want->key);
	assert_counts(&got->counts, &want->counts);
	assert_int_equal(got->created_unix_ms, want->created_unix_ms);
	assert_int_equal(got->finished_unix_ms, want->finished_unix_ms);
	if (want->state == BATCH_DONE) {
		assert_int_equal(got->expires_unix_ms, want->expires_unix_ms);
		assert_int_equal(got->finished_us - got->accepted_us, want->finished_us - want->accepted_us);
	}
	assert_int_equal(got->outcome, want->outcome);
	assert_int_equal(got->stop_reason, want->stop_reason);
	assert_false(got->op.live);
	assert_null(got->live);
	assert_null(got->held[HELD_ALL]);
}

static inline void assert_text(const char *got, const char *want)
{
	assert_int_equal(got == NULL, want == NULL);
	if (want != NULL)
		assert_string_equal(got, want);
}

static inline void assert_records(const struct attempt_record *got, const struct attempt_record *want)
{
	for (; want != NULL; got = got->next, want = want->next) {
		assert_non_null(got);
		assert_int_equal(got->n, want->n);
		assert_int_equal(got->started_unix_ms, want->started_unix_ms);
		assert_int_equal(got->duration_us, want->duration_us);
		assert_int_equal(got->http_status, want->http_status);
		assert_int_equal(got->code, want->code);
		assert_int_equal(got->delivered, want->delivered);
		assert_int_equal(got->phase, want->phase);
	}
	assert_null(got);
}

/* Of what the store was told: a letter is looked at where a test is about it. */
static inline void assert_item(const struct batch *got_in, const struct batch *want_in, uint32_t index)
{
	const struct item *got = &got_in->items[index], *want = &want_in->items[index];

	assert_ptr_equal(got->batch, got_in);
	assert_int_equal(got->index, index);
	ASSERT_SLICE(got->id, want->id);
	assert_int_equal(got->service, want->service);
	assert_int_equal(got->ttl_ms, want->ttl_ms);
	assert_int_equal(got->state, want->state == ITEM_QUEUED ? ITEM_PENDING : want->state);
	assert_int_equal(got->attempts, want->attempts);
	if (want->attempts > 0)
		assert_int_equal(got->refused, want->refused);
	assert_int_equal(got->code, want->code);
	assert_int_equal(got->delivered, want->delivered);
	assert_int_equal(got->stop, want->stop);
	assert_int_equal(got->http_status, want->http_status);
	assert_int_equal(got->duplicate_risk, want->duplicate_risk);
	assert_int_equal(got->retry_after_ms, want->retry_after_ms);
	assert_text(got->detail, want->detail);
	assert_text(got->message_id, want->message_id);
	assert_records(got->records, want->records);
	if (want->state == ITEM_FINAL) {
		assert_int_equal(got->status, want->status);
		assert_int_equal(got->latency_ms, want->latency_ms);
	}
	if (want->state == ITEM_WAITING)
		assert_int_equal(got->due_unix_ms, want->due_unix_ms);
	if (want->attempts > 0)
		assert_int_equal(got->started_us - got_in->created_unix_ms * 1000,
				 want->started_us - want_in->accepted_us);
}

static inline void assert_letter(const struct batch *got_in, const struct batch *want_in, uint32_t index)
{
	ASSERT_SLICE(got_in->items[index].to, want_in->items[index].to);
	ASSERT_SLICE(got_in->items[index].payload, want_in->items[index].payload);
	ASSERT_SLICE(got_in->items[index].dedupe_key, want_in->items[index].dedupe_key);
}

static inline void assert_stored(const struct batch *want)
{
	struct batch *got = rig_read(s, want->id);

	assert_non_null(got);
	assert_int_equal(got->n_items, want->n_items);
	assert_head(got, want);
	for (uint32_t i = 0; i < want->n_items; i++) {
		assert_item(got, want, i);
		if (want->items[i].delivered != DELIVERED_YES)
			assert_letter(got, want, i);
	}
	batch_unref(got);
}
