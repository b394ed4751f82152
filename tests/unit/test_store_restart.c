/*
 * The contract of a store, what is not done: it is told at the start, and stands as
 * it was left, where the kind of store outlives its process.
 */
#include "store-asserts.h"

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

static struct seen look(void)
{
	struct seen seen = {0};
	struct buf error = {0};

	assert_true(store_each_unfinished(s, on_unfinished, &seen, &error));
	return seen;
}

static void park(const struct batch *b, int64_t due_unix_ms)
{
	struct store_park p = {.row = b->store_row, .due_unix_ms = due_unix_ms};

	assert_int_equal(rig_do(s, &p.op, STORE_PARK), STORE_OK);
}

static void assert_told(const struct store_unfinished *u, const struct batch *want, int64_t due_unix_ms)
{
	assert_true(batch_id_eq(u->id, want->id));
	assert_int_equal(u->pending, want->counts.pending);
	assert_int_equal(u->asynchronous, want->asynchronous);
	assert_int_equal(u->service, want->items[0].service);
	assert_int_equal(u->due_unix_ms, due_unix_ms);
	assert_true(u->bytes > 0);
}

static void the_unfinished_are_told_oldest_first(void **state)
{
	struct batch *v[4];
	struct seen seen;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		v[i] = rig_batch(3);
		v[i]->id = rig_id(v[i]->created_unix_ms + i);
	}
	v[2]->asynchronous = false;
	v[2]->items[0].service = 1;
	for (unsigned i = 4; i-- > 1;)
		assert_int_equal(rig_accept(s, v[i]), STORE_OK);
	rig_live(s, v[0]);
	rig_settle(v[3], 1, CODE_OK, DELIVERED_YES);
	rig_update(s, v[3], 1);
	park(v[3], 12345);
	seen = look();
	assert_int_equal(seen.n, 3);
	assert_told(&seen.v[0], v[1], 0);
	assert_told(&seen.v[1], v[2], 0);
	assert_told(&seen.v[2], v[3], 12345);
	for (unsigned i = 0; i < 4; i++)
		batch_unref(v[i]);
}

/* A job of five: one delivered, one waits, one was claimed, and so was the one
 * that waited. */
static struct batch *half_done(void)
{
	struct batch *b = odd_batch(rig_id(rig_now_ms()));

	assert_int_equal(rig_accept(s, b), STORE_OK);
	rig_claim(s, b, 0);
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	rig_update(s, b, 0);
	for (uint32_t i = 1; i < 3; i++) {
		rig_claim(s, b, i);
		rig_attempt(b, i, CODE_UNAVAILABLE, DELIVERED_MAYBE);
		item_set_state(&b->items[i], ITEM_WAITING);
		b->items[i].due_unix_ms = b->created_unix_ms + 1000 * i;
		rig_update(s, b, i);
	}
	rig_claim(s, b, 2);
	rig_claim(s, b, 3);
	return b;
}

static void a_job_stands_after_a_restart_as_it_was_left(void **state)
{
	struct batch *b, *got, *again = rig_batch(1);
	struct store_accept a = {.batch = again};
	struct seen seen;

	(void)state;
	b = half_done();
	park(b, 777);
	cfg.stored_items = 5;
	reopen_store();
	assert_stored(b);
	got = rig_read(s, b->id);
	for (uint32_t i = 0; i < b->n_items; i++)
		assert_int_equal(got->items[i].in_flight, i == 2 || i == 3);
	assert_int_equal(got->state, BATCH_RUNNING);
	batch_unref(got);
	seen = look();
	assert_int_equal(seen.n, 1);
	assert_told(&seen.v[0], b, 777);
	again->key = b->key;
	again->tenant = b->tenant;
	assert_int_equal(rig_do(s, &a.op, STORE_ACCEPT), STORE_KEY_EXISTS);
	assert_true(batch_id_eq(a.existing, b->id));
	batch_unref(b);
}

/* Four of five are not final: there is room for one. */
static void the_bound_on_items_counts_what_was_there_before(void **state)
{
	struct batch *b, *two = rig_batch(2), *one = rig_batch(1);

	(void)state;
	b = half_done();
	cfg.stored_items = 5;
	reopen_store();
	assert_int_equal(rig_accept(s, two), STORE_BUSY);
	assert_int_equal(rig_accept(s, one), STORE_OK);
	batch_unref(one);
	batch_unref(two);
	batch_unref(b);
}

/* The next process goes on with what it read. */
static void a_job_goes_on_after_a_restart(void **state)
{
	struct batch *b, *got;

	(void)state;
	b = half_done();
	reopen_store();
	got = rig_read(s, b->id);
	got->accepted_us = -5000000;
	for (uint32_t i = 0; i < b->n_items; i++)
		if (got->items[i].attempts > 0)
			got->items[i].started_us += got->accepted_us - got->created_unix_ms * 1000;
	for (uint32_t i = 1; i < b->n_items; i++) {
		rig_claim(s, got, i);
		rig_settle(got, i, CODE_REJECTED, DELIVERED_NO);
		rig_update(s, got, i);
	}
	rig_end(got, 1000000);
	assert_int_equal(rig_finish(s, got), STORE_OK);
	reopen_store();
	assert_stored(got);
	assert_int_equal(look().n, 0);
	assert_int_equal(got->items[2].attempts, 2);
	batch_unref(got);
	batch_unref(b);
}

/* Only its start is known, and it ends as a whole. */
static void a_light_batch_that_was_cut_is_told_and_ended(void **state)
{
	struct batch *b = rig_batch(2), *got;
	struct seen seen;
	struct store_status st;

	(void)state;
	b->asynchronous = b->durable = false;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	reopen_store();
	seen = look();
	assert_int_equal(seen.n, 1);
	assert_told(&seen.v[0], b, 0);
	got = rig_read(s, b->id);
	assert_false(got->durable);
	for (uint32_t i = 0; i < 2; i++) {
		assert_true(got->items[i].in_flight);
		rig_settle(got, i, CODE_INTERRUPTED, DELIVERED_MAYBE);
	}
	rig_end(got, 1000000);
	assert_int_equal(rig_finish(s, got), STORE_OK);
	assert_int_equal(look().n, 0);
	assert_stored(got);
	store_status(s, &st);
	assert_int_equal(st.unfinished_items, 0);
	batch_unref(got);
	batch_unref(b);
}

static const struct rig_case cases[] = {
	CASE(the_unfinished_are_told_oldest_first),
	AFTER_RESTART(a_job_stands_after_a_restart_as_it_was_left),
	AFTER_RESTART(the_bound_on_items_counts_what_was_there_before),
	AFTER_RESTART(a_job_goes_on_after_a_restart),
	AFTER_RESTART(a_light_batch_that_was_cut_is_told_and_ended),
};

int main(void)
{
	return run_cases("store_restart", cases, ARRAY_LEN(cases));
}
