/*
 * The contract of a store: what was written is what is read, through all the steps
 * of a batch's life. Pages and lists are in test_store_reads.c, many askers and
 * bounds in test_store_load.c, and a disk that fails in test_store_front.c.
 */
#include "store-kinds.h"

/* Reading back every field. */

static void assert_key(const struct batch_key *got, const struct batch_key *want)
{
	assert_int_equal(got == NULL, want == NULL);
	if (want == NULL)
		return;
	ASSERT_SLICE(got->scope, want->scope);
	ASSERT_SLICE(got->key, want->key);
	assert_memory_equal(got->digest, want->digest, sizeof want->digest);
}

static void assert_policy(const struct policy *got, const struct policy *want)
{
	assert_int_equal(got->contract, want->contract);
	assert_int_equal(got->sequential, want->sequential);
	assert_int_equal(got->at_most_once, want->at_most_once);
	assert_int_equal(got->continue_on_disconnect, want->continue_on_disconnect);
	assert_int_equal(got->include_attempts, want->include_attempts);
	assert_int_equal(got->concurrency, want->concurrency);
	assert_int_equal(got->deadline_ms, want->deadline_ms);
	assert_int_equal(got->attempt_timeout_ms, want->attempt_timeout_ms);
	assert_int_equal(got->retry.max_attempts, want->retry.max_attempts);
	assert_int_equal(got->retry.base_ms, want->retry.base_ms);
	assert_int_equal(got->retry.cap_ms, want->retry.cap_ms);
}

static void assert_counts(const struct counts *got, const struct counts *want)
{
	assert_int_equal(got->total, want->total);
	assert_int_equal(got->succeeded, want->succeeded);
	assert_int_equal(got->failed, want->failed);
	assert_int_equal(got->indeterminate, want->indeterminate);
	assert_int_equal(got->not_attempted, want->not_attempted);
	assert_int_equal(got->pending, want->pending);
}

static void assert_head(const struct batch *got, const struct batch *want)
{
	assert_true(batch_id_eq(got->id, want->id));
	assert_policy(&got->policy, &want->policy);
	assert_int_equal(got->asynchronous, want->asynchronous);
	assert_int_equal(got->durable, want->durable);
	assert_string_equal(got->durability, kind->durability);
	assert_true(batch_id_eq(got->retry_of, want->retry_of));
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
	assert_null(got->held);
}

static void assert_text(const char *got, const char *want)
{
	assert_int_equal(got == NULL, want == NULL);
	if (want != NULL)
		assert_string_equal(got, want);
}

static void assert_records(const struct attempt_record *got, const struct attempt_record *want)
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
static void assert_item(const struct batch *got_in, const struct batch *want_in, uint32_t index)
{
	const struct item *got = &got_in->items[index], *want = &want_in->items[index];

	assert_ptr_equal(got->batch, got_in);
	assert_int_equal(got->index, index);
	ASSERT_SLICE(got->id, want->id);
	assert_int_equal(got->service, want->service);
	assert_int_equal(got->ttl_ms, want->ttl_ms);
	assert_int_equal(got->state, want->state == ITEM_QUEUED ? ITEM_PENDING : want->state);
	assert_int_equal(got->attempts, want->attempts);
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

static void assert_letter(const struct batch *got_in, const struct batch *want_in, uint32_t index)
{
	ASSERT_SLICE(got_in->items[index].to, want_in->items[index].to);
	ASSERT_SLICE(got_in->items[index].payload, want_in->items[index].payload);
	ASSERT_SLICE(got_in->items[index].dedupe_key, want_in->items[index].dedupe_key);
}

static void assert_stored(const struct batch *want)
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

static struct slice in_arena(struct batch *b, struct slice text)
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
	.deadline_ms = 86400000,
	.attempt_timeout_ms = 4321,
	.retry = {.max_attempts = 20, .base_ms = 1001, .cap_ms = 3600001},
};

/* Something in every field; the same for the same id. */
static struct batch *odd_batch(struct batch_id id)
{
	struct batch *b = rig_batch(5);

	b->id = id;
	b->created_unix_ms = INT64_C(1790000000123);
	b->policy = odd_policy;
	b->retry_of = (struct batch_id){0x0123456789abcdef, UINT64_MAX};
	b->trace = (struct trace){.id = {0xff, 0, 1, 2, [15] = 0x80}, .flags = 0xfe};
	b->trace.state = in_arena(b, SLICE("vendor=a,other=b"));
	b->metadata = in_arena(b, SLICE("{\"campaign\":\"Fr\xc3\xbchling \\u0000\"}"));
	b->payload = in_arena(b, SLICE("{\"default\":1.10}"));
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

static struct batch_id new_id(void)
{
	return batch_id_new(&rig_rng, rig_now_ms(), 3);
}

/* What was accepted may go from memory at once. */
static void every_field_of_a_new_batch_is_read_back(void **state)
{
	struct batch_id id = new_id();
	struct batch *b = odd_batch(id), *want = odd_batch(id);

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	assert_int_not_equal(b->store_row, 0);
	batch_unref(b);
	assert_stored(want);
	batch_unref(want);
}

static void a_batch_with_nothing_but_items_is_read_back(void **state)
{
	struct batch *b = rig_batch(1);

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	assert_stored(b);
	batch_unref(b);
}

static void a_shared_payload_comes_back_shared(void **state)
{
	struct batch *b = odd_batch(new_id()), *got;

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	got = rig_read(s, b->id);
	ASSERT_SLICE(got->payload, b->payload);
	assert_ptr_equal(got->items[0].payload.p, got->payload.p);
	assert_ptr_equal(got->items[1].payload.p, got->payload.p);
	assert_ptr_not_equal(got->items[2].payload.p, got->payload.p);
	batch_unref(got);
	batch_unref(b);
}

static void items_that_were_final_at_acceptance_are_so_in_the_store(void **state)
{
	struct batch *b = rig_batch(3);
	struct store_accept a = {.batch = batch_ref(b), .n_settled = 1};
	struct store_read r = {.id = b->id, .order = STORE_BY_SETTLING, .from = 1, .limit = 9};

	(void)state;
	b->items[1].detail = in_arena(b, SLICE("`to` must be an address")).p;
	b->items[1].id = (struct slice){0};
	item_settle(&b->items[1], CODE_INVALID_ITEM, STOP_NOT_RETRYABLE, b->accepted_us);
	assert_int_equal(rig_do(s, &a.op, STORE_ACCEPT), STORE_OK);
	assert_stored(b);
	assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_OK);
	assert_int_equal(r.batch->n_items, 1);
	assert_int_equal(r.batch->items[0].index, 1);
	batch_unref(r.batch);
	batch_unref(b);
}

/* Steps. */

static void a_claim_shows_as_in_flight_until_its_update(void **state)
{
	struct batch *b = rig_batch(2), *got;

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	rig_claim(s, b, 1);
	got = rig_read(s, b->id);
	assert_false(got->items[0].in_flight);
	assert_true(got->items[1].in_flight);
	assert_int_equal(got->items[0].status, STATUS_PENDING);
	assert_int_equal(got->items[1].status, STATUS_RUNNING);
	assert_int_equal(got->items[1].attempts, 0);
	batch_unref(got);
	rig_update(s, b, 1);
	got = rig_read(s, b->id);
	assert_false(got->items[1].in_flight);
	assert_int_equal(got->items[1].status, STATUS_PENDING);
	assert_stored(b);
	batch_unref(got);
	batch_unref(b);
}

/* One attempt that may have been delivered, then waiting; claimed again in between. */
static void an_item_waits_in_the_store(void **state)
{
	struct batch *b = odd_batch(new_id()), *got;
	struct item *it = &b->items[2];

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	rig_claim(s, b, 2);
	rig_attempt(b, 2, CODE_UNAVAILABLE, DELIVERED_MAYBE);
	it->retry_after_ms = 7000;
	it->detail = "the downstream answered 503";
	item_set_state(it, ITEM_WAITING);
	it->due_unix_ms = b->created_unix_ms + 98765;
	rig_update(s, b, 2);
	assert_stored(b);
	rig_claim(s, b, 2);
	got = rig_read(s, b->id);
	assert_true(got->items[2].in_flight);
	assert_int_equal(got->items[2].attempts, 1);
	assert_int_equal(got->items[2].status, STATUS_RUNNING);
	batch_unref(got);
	batch_unref(b);
}

static void every_field_of_a_settled_item_is_read_back(void **state)
{
	struct batch *b = odd_batch(new_id());
	struct item *it = &b->items[3];

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	for (unsigned n = 0; n < 4; n++) {
		rig_claim(s, b, 3);
		rig_attempt(b, 3, CODE_UNAVAILABLE, DELIVERED_MAYBE);
		it->records->duration_us += n;
		item_set_state(it, ITEM_WAITING);
		it->due_unix_ms = b->created_unix_ms + n;
		rig_update(s, b, 3);
	}
	rig_settle(b, 3, CODE_OK, DELIVERED_YES);
	it->message_id = in_arena(b, SLICE("m-\xc3\xa4'\"9")).p;
	rig_update(s, b, 3);
	rig_settle(b, 0, CODE_REJECTED, DELIVERED_NO);
	b->items[0].detail = in_arena(b, SLICE("the downstream's \"no\"")).p;
	b->items[0].stop = STOP_NOT_RETRYABLE;
	rig_update(s, b, 0);
	assert_true(it->duplicate_risk);
	assert_int_equal(it->attempts, 5);
	assert_stored(b);
	batch_unref(b);
}

static void a_batch_of_which_something_was_tried_is_running(void **state)
{
	struct batch *b = rig_batch(2), *got;

	(void)state;
	batch_set_state(b, BATCH_RUNNING);
	assert_int_equal(rig_accept(s, b), STORE_OK);
	got = rig_read(s, b->id);
	assert_int_equal(got->state, BATCH_QUEUED);
	batch_unref(got);
	rig_claim(s, b, 0);
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	rig_update(s, b, 0);
	got = rig_read(s, b->id);
	assert_int_equal(got->state, BATCH_RUNNING);
	assert_int_equal(got->outcome, BATCH_OUTCOME_NONE);
	assert_counts(&got->counts, &b->counts);
	batch_unref(got);
	batch_unref(b);
}

static void the_end_of_a_job_is_read_back(void **state)
{
	struct batch *b = odd_batch(new_id());

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	for (uint32_t i = 0; i < b->n_items; i++) {
		if (i % 2 == 0)
			rig_settle(b, i, CODE_OK, DELIVERED_YES);
		else
			item_settle(&b->items[i], CODE_NOT_ATTEMPTED, STOP_CANCELLED, b->accepted_us);
		rig_update(s, b, i);
	}
	gate_close(&b->gate, WHY_CANCELLED);
	rig_end(b, 3600000);
	assert_int_equal(b->stop_reason, STOP_REASON_CANCELLED);
	assert_int_equal(rig_finish(s, b), STORE_OK);
	assert_stored(b);
	batch_unref(b);
}

/* All of it is written at its end, whether or not there was a note before. */
static void a_batch_that_is_not_durable_is_written_when_it_is_done(void **state)
{
	struct batch *noted = odd_batch(new_id()), *unknown = odd_batch(new_id()), *got;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct batch *b = i == 0 ? noted : unknown;

		b->key = NULL;
		b->asynchronous = b->durable = false;
		if (b == noted) {
			assert_int_equal(rig_accept(s, b), STORE_OK);
			got = rig_read(s, b->id);
			assert_int_equal(got != NULL, kind->notes);
			batch_unref(got);
		}
		for (uint32_t k = 0; k < b->n_items; k++)
			rig_settle(b, k, k % 2 ? CODE_OK : CODE_TIMEOUT, k % 2 ? DELIVERED_YES : DELIVERED_MAYBE);
		rig_end(b, 3600000);
		assert_int_equal(rig_finish(s, b), STORE_OK);
		assert_stored(b);
	}
	batch_unref(noted);
	batch_unref(unknown);
}

static void a_letter_goes_when_it_was_delivered(void **state)
{
	struct batch *b = rig_batch(3), *got;

	(void)state;
	b->items[0].dedupe_key = in_arena(b, SLICE("mine"));
	assert_int_equal(rig_accept(s, b), STORE_OK);
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	rig_update(s, b, 0);
	rig_settle(b, 1, CODE_REJECTED, DELIVERED_NO);
	rig_update(s, b, 1);
	got = rig_read(s, b->id);
	assert_null(got->items[0].to.p);
	assert_null(got->items[0].payload.p);
	assert_null(got->items[0].dedupe_key.p);
	assert_letter(got, b, 1);
	assert_letter(got, b, 2);
	batch_unref(got);
	batch_unref(b);
}

/* Keys. */

static struct store_accept try_key(const char *scope, const char *key, unsigned char body)
{
	struct batch *b = rig_batch(1);
	struct store_accept a = {.batch = b};

	rig_key(b, scope, key, body);
	a.existing = b->id;
	rig_do(s, &a.op, STORE_ACCEPT);
	assert_null(a.batch);
	return a;
}

static void a_key_counts_once_in_its_scope(void **state)
{
	struct batch *b = rig_batch(1);
	struct store_accept a;

	(void)state;
	b->asynchronous = false;
	rig_key(b, "here", "k", 7);
	assert_int_equal(rig_accept(s, b), STORE_OK);
	a = try_key("here", "k", 7);
	assert_int_equal(a.op.answer, STORE_KEY_EXISTS);
	assert_true(batch_id_eq(a.existing, b->id));
	assert_true(a.same_body);
	a = try_key("here", "k", 8);
	assert_int_equal(a.op.answer, STORE_KEY_EXISTS);
	assert_true(batch_id_eq(a.existing, b->id));
	assert_false(a.same_body);
	assert_int_equal(try_key("there", "k", 7).op.answer, STORE_OK);
	assert_int_equal(try_key("her", "ek", 7).op.answer, STORE_OK);
	assert_int_equal(try_key("here", "K", 7).op.answer, STORE_OK);
	assert_stored(b);
	batch_unref(b);
}

/* What was refused has left nothing behind. */
static void a_batch_whose_key_exists_is_not_stored(void **state)
{
	struct batch *b = rig_batch(1), *again = rig_batch(1);

	(void)state;
	rig_key(b, "here", "k", 7);
	rig_key(again, "here", "k", 7);
	assert_int_equal(rig_accept(s, b), STORE_OK);
	assert_int_equal(rig_accept(s, again), STORE_KEY_EXISTS);
	assert_null(rig_read(s, again->id));
	batch_unref(b);
	batch_unref(again);
}

static void a_key_goes_with_its_batch(void **state)
{
	struct batch *b = rig_batch(1);

	(void)state;
	rig_key(b, "here", "k", 7);
	rig_live(s, b);
	assert_int_equal(try_key("here", "k", 7).op.answer, STORE_KEY_EXISTS);
	assert_int_equal(rig_delete(s, b->id), STORE_OK);
	assert_int_equal(try_key("here", "k", 7).op.answer, STORE_OK);
	batch_unref(b);
}

/* Forgetting. */

static void only_what_is_done_is_deleted(void **state)
{
	struct batch *b = rig_batch(1);

	(void)state;
	assert_int_equal(rig_delete(s, b->id), STORE_NOT_FOUND);
	assert_int_equal(rig_accept(s, b), STORE_OK);
	assert_int_equal(rig_delete(s, b->id), STORE_NOT_DONE);
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	rig_update(s, b, 0);
	rig_end(b, 3600000);
	assert_int_equal(rig_finish(s, b), STORE_OK);
	assert_int_equal(rig_delete(s, b->id), STORE_OK);
	assert_null(rig_read(s, b->id));
	assert_int_equal(rig_delete(s, b->id), STORE_NOT_FOUND);
	batch_unref(b);
}

/* The store looks at least once a second. */
static void what_has_expired_is_forgotten_with_its_key(void **state)
{
	struct batch *gone = rig_batch(2), *stays = rig_batch(1), *runs = rig_batch(1), *got;

	(void)state;
	rig_key(gone, "here", "k", 7);
	rig_live(s, stays);
	assert_int_equal(rig_accept(s, runs), STORE_OK);
	assert_int_equal(rig_accept(s, gone), STORE_OK);
	for (uint32_t i = 0; i < 2; i++) {
		rig_settle(gone, i, CODE_REJECTED, DELIVERED_NO);
		rig_update(s, gone, i);
	}
	rig_end(gone, -1000);
	assert_int_equal(rig_finish(s, gone), STORE_OK);
	while ((got = rig_read(s, gone->id)) != NULL)
		batch_unref(got);
	assert_int_equal(try_key("here", "k", 7).op.answer, STORE_OK);
	assert_stored(stays);
	assert_stored(runs);
	batch_unref(gone);
	batch_unref(stays);
	batch_unref(runs);
}

/* What is not done. */

struct seen {
	struct store_unfinished v[16];
	unsigned n;
};

static void on_unfinished(void *arg, const struct store_unfinished *u)
{
	struct seen *seen = arg;

	assert_true(seen->n < ARRAY_LEN(seen->v));
	seen->v[seen->n++] = *u;
}

static void the_unfinished_are_told_oldest_first(void **state)
{
	struct batch *v[4];
	struct seen seen = {0};
	struct buf error = {0};
	struct store_park p = {.due_unix_ms = 12345};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		v[i] = rig_batch(3);
		v[i]->id = batch_id_new(&rig_rng, v[i]->created_unix_ms + i, 0);
	}
	v[2]->asynchronous = false;
	v[2]->items[0].service = 1;
	for (unsigned i = 4; i-- > 0;)
		assert_int_equal(rig_accept(s, v[i]), STORE_OK);
	for (uint32_t i = 0; i < 3; i++) {
		rig_settle(v[1], i, CODE_OK, DELIVERED_YES);
		rig_update(s, v[1], i);
	}
	rig_end(v[1], 3600000);
	assert_int_equal(rig_finish(s, v[1]), STORE_OK);
	rig_settle(v[3], 1, CODE_OK, DELIVERED_YES);
	rig_update(s, v[3], 1);
	p.row = v[3]->store_row;
	assert_int_equal(rig_do(s, &p.op, STORE_PARK), STORE_OK);
	assert_true(store_each_unfinished(s, on_unfinished, &seen, &error));
	assert_int_equal(seen.n, 3);
	for (unsigned i = 0; i < 3; i++) {
		const struct batch *want = v[i == 0 ? 0 : i + 1];

		assert_true(batch_id_eq(seen.v[i].id, want->id));
		assert_int_equal(seen.v[i].pending, want->counts.pending);
		assert_int_equal(seen.v[i].asynchronous, want->asynchronous);
		assert_int_equal(seen.v[i].service, want->items[0].service);
		assert_true(seen.v[i].bytes > 0);
	}
	assert_int_equal(seen.v[0].due_unix_ms, 0);
	assert_int_equal(seen.v[2].due_unix_ms, 12345);
	for (unsigned i = 0; i < 4; i++)
		batch_unref(v[i]);
}

static const struct rig_case cases[] = {
	CASE(every_field_of_a_new_batch_is_read_back),
	CASE(a_batch_with_nothing_but_items_is_read_back),
	CASE(a_shared_payload_comes_back_shared),
	CASE(items_that_were_final_at_acceptance_are_so_in_the_store),
	CASE(a_claim_shows_as_in_flight_until_its_update),
	CASE(an_item_waits_in_the_store),
	CASE(every_field_of_a_settled_item_is_read_back),
	CASE(a_batch_of_which_something_was_tried_is_running),
	CASE(the_end_of_a_job_is_read_back),
	CASE(a_batch_that_is_not_durable_is_written_when_it_is_done),
	CASE(a_letter_goes_when_it_was_delivered),
	CASE(a_key_counts_once_in_its_scope),
	CASE(a_batch_whose_key_exists_is_not_stored),
	CASE(a_key_goes_with_its_batch),
	CASE(only_what_is_done_is_deleted),
	CASE(what_has_expired_is_forgotten_with_its_key),
	CASE(the_unfinished_are_told_oldest_first),
};

int main(void)
{
	return run_cases("store", cases, ARRAY_LEN(cases));
}
