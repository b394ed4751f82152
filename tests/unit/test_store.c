/*
 * The contract of a store: what was written is what is read, through all the steps
 * of a batch's life. Pages and lists are in test_store_reads.c, a restart in
 * test_store_restart.c, many askers and bounds in test_store_load.c, and a disk
 * that fails in test_store_front.c.
 */
#include "store-asserts.h"

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
};

int main(void)
{
	return run_cases("store", cases, ARRAY_LEN(cases));
}
