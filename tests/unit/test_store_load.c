/*
 * The contract of a store under load: many askers, the order of answers, bounds,
 * and what becomes of a full queue at the end.
 */
#include "store-kinds.h"

/* Many askers. */

enum { ASKERS = 4, ACCEPTS = 50 };

static struct asker {
	pthread_t thread;
	struct store_accept accepts[ACCEPTS];
	struct batch_id ids[ACCEPTS];
} askers[ASKERS];

static void for_all_askers(void *(*run)(void *arg))
{
	for (unsigned i = 0; i < ASKERS; i++)
		assert_int_equal(pthread_create(&askers[i].thread, NULL, run, &askers[i]), 0);
	for (unsigned i = 0; i < ASKERS; i++)
		pthread_join(askers[i].thread, NULL);
	rig_wait();
}

static void *ask_with_one_key(void *arg)
{
	struct asker *me = arg;

	for (unsigned i = 0; i < ACCEPTS; i++) {
		struct batch *b = rig_batch(2);

		me->ids[i] = b->id;
		rig_key(b, "here", "k", (unsigned char)(i % 2));
		me->accepts[i] = (struct store_accept){.batch = b};
		rig_ask(s, &me->accepts[i].op, STORE_ACCEPT);
	}
	return NULL;
}

static void of_many_with_one_key_at_once_one_is_accepted(void **state)
{
	struct batch_id winner = {0};
	unsigned accepted = 0, same = 0;
	bool won_with = false;

	(void)state;
	for_all_askers(ask_with_one_key);
	for (unsigned i = 0; i < ASKERS * ACCEPTS; i++) {
		if (askers[i / ACCEPTS].accepts[i % ACCEPTS].op.answer != STORE_OK)
			continue;
		accepted++;
		winner = askers[i / ACCEPTS].ids[i % ACCEPTS];
		won_with = i % ACCEPTS % 2;
	}
	assert_int_equal(accepted, 1);
	for (unsigned i = 0; i < ASKERS * ACCEPTS; i++) {
		const struct store_accept *a = &askers[i / ACCEPTS].accepts[i % ACCEPTS];
		struct batch *got = rig_read(s, askers[i / ACCEPTS].ids[i % ACCEPTS]);

		assert_int_equal(got != NULL, a->op.answer == STORE_OK);
		batch_unref(got);
		if (a->op.answer == STORE_OK)
			continue;
		assert_int_equal(a->op.answer, STORE_KEY_EXISTS);
		assert_true(batch_id_eq(a->existing, winner));
		assert_int_equal(a->same_body, i % ACCEPTS % 2 == won_with);
		same += a->same_body;
	}
	assert_int_equal(same, ASKERS * ACCEPTS / 2 - 1);
}

/* In the heap, and the store's to free. */
static void *step(size_t size, enum store_do what)
{
	struct store_op *op = xcalloc(1, size);

	op->what = what;
	return op;
}

static void tell(struct batch *b, uint32_t index)
{
	struct store_update *u;

	if (!b->durable)
		return;
	u = step(sizeof *u, STORE_UPDATE);
	*u = rig_update_of(b, index);
	u->op.what = STORE_UPDATE;
	store_ask(s, &u->op);
}

static void claim(struct batch *b, uint32_t index)
{
	struct store_claim *c;

	if (!b->durable)
		return;
	c = step(sizeof *c, STORE_CLAIM);
	c->row = b->store_row;
	c->index = index;
	store_ask(s, &c->op);
}

/* Its whole life after acceptance, without waiting for an answer. */
static void live_on(struct batch *b)
{
	struct store_finish *f = step(sizeof *f, STORE_FINISH);

	for (uint32_t i = 0; i < b->n_items; i++) {
		claim(b, i);
		rig_attempt(b, i, CODE_UNAVAILABLE, DELIVERED_NO);
		item_set_state(&b->items[i], ITEM_WAITING);
		tell(b, i);
		claim(b, i);
		rig_settle(b, i, CODE_OK, DELIVERED_YES);
		tell(b, i);
	}
	rig_end(b, 3600000);
	f->batch = batch_ref(b);
	f->op.what = STORE_FINISH;
	store_ask(s, &f->op);
}

static void *ask_for_whole_lives(void *arg)
{
	struct asker *me = arg;

	for (unsigned i = 0; i < ACCEPTS; i++) {
		struct batch *b = rig_batch(5);

		me->ids[i] = b->id;
		assert_int_equal(rig_accept(s, b), STORE_OK);
		live_on(b);
		batch_unref(b);
	}
	return NULL;
}

/* A write that is answered after all that this thread asked for before. */
static void barrier(void)
{
	assert_int_equal(rig_delete(s, rig_id(1)), STORE_NOT_FOUND);
}

static void assert_succeeded(struct batch_id id, uint32_t n_items)
{
	struct batch *got = rig_read(s, id);

	assert_non_null(got);
	assert_int_equal(got->state, BATCH_DONE);
	assert_int_equal(got->outcome, BATCH_OUTCOME_SUCCEEDED);
	assert_int_equal(got->n_items, n_items);
	assert_int_equal(got->counts.succeeded, n_items);
	for (uint32_t i = 0; i < n_items; i++) {
		assert_int_equal(got->items[i].state, ITEM_FINAL);
		assert_int_equal(got->items[i].attempts, 2);
		assert_false(got->items[i].in_flight);
	}
	batch_unref(got);
}

static void whole_lives_from_several_threads_end_well(void **state)
{
	struct store_status st;

	(void)state;
	for_all_askers(ask_for_whole_lives);
	barrier();
	for (unsigned i = 0; i < ASKERS * ACCEPTS; i++)
		assert_succeeded(askers[i / ACCEPTS].ids[i % ACCEPTS], 5);
	store_status(s, &st);
	assert_false(st.failing);
	assert_int_equal(st.queued_ops, 0);
	assert_int_equal(st.queued_bytes, 0);
	assert_int_equal(st.unfinished_items, 0);
	assert_int_equal(st.dropped, 0);
}

static void groups_are_timed_and_counted(void **state)
{
	struct store_timings t;
	uint64_t by_time = 0, by_size = 0;

	(void)state;
	for_all_askers(ask_for_whole_lives);
	barrier();
	store_timings(s, &t);
	assert_int_equal(t.ops, ASKERS * ACCEPTS * (1 + 5 * 4 + 1) + 1);
	for (unsigned i = 0; i < ARRAY_LEN(t.commit_us_le); i++) {
		by_time += t.commit_us_le[i];
		by_size += t.group_le[i];
	}
	assert_true(t.commits > 0);
	assert_int_equal(by_time, t.commits);
	assert_int_equal(by_size, t.commits);
}

/* Order. */

static unsigned answered[16], n_answered;

static void note_answer(struct store_op *op)
{
	answered[n_answered++] = (unsigned)op->what;
	rig_answered(op);
}

/* What one asker asks takes effect, and is answered, in that order. */
static void writes_of_one_asker_keep_their_order(void **state)
{
	struct batch *b = rig_batch(1), *got;
	struct store_claim c = {.index = 0};
	struct store_update wait, end;
	struct store_finish f;
	struct store_delete d = {.id = b->id};
	struct store_op *ops[] = {&c.op, &wait.op, &end.op, &f.op, &d.op};
	static const enum store_do whats[] = {STORE_CLAIM, STORE_UPDATE, STORE_UPDATE, STORE_FINISH, STORE_DELETE};

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	c.row = b->store_row;
	rig_attempt(b, 0, CODE_UNAVAILABLE, DELIVERED_NO);
	item_set_state(&b->items[0], ITEM_WAITING);
	wait = rig_update_of(b, 0);
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	end = rig_update_of(b, 0);
	rig_end(b, 3600000);
	f = (struct store_finish){.batch = batch_ref(b)};
	n_answered = 0;
	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		pthread_mutex_lock(&rig_lock);
		rig_waiting++;
		pthread_mutex_unlock(&rig_lock);
		ops[i]->what = whats[i];
		ops[i]->reply_to = rig_loop;
		ops[i]->on_done = note_answer;
		store_ask(s, ops[i]);
	}
	rig_wait();
	assert_int_equal(n_answered, ARRAY_LEN(ops));
	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		assert_int_equal(answered[i], whats[i]);
		assert_int_equal(ops[i]->answer, STORE_OK);
	}
	got = rig_read(s, b->id);
	assert_null(got);
	batch_unref(b);
}

/* From the loop that is answered too. */
struct on_loop {
	struct loop_msg msg;
	struct store_read read;
	struct store_claim claim;
	struct store_accept note;
	struct store_op asked;           /* stands for this message */
};

static void ask_on_loop(struct loop_msg *msg)
{
	struct on_loop *o = container_of(msg, struct on_loop, msg);

	rig_ask(s, &o->read.op, STORE_READ);
	rig_ask(s, &o->claim.op, STORE_CLAIM);
	rig_ask(s, &o->note.op, STORE_ACCEPT);
	rig_answered(&o->asked);
}

/* rig_answered() checks it. */
static void no_answer_comes_inside_the_call(void **state)
{
	struct on_loop o = {.msg.run = ask_on_loop, .claim = {.row = 999}};

	(void)state;
	o.note.batch = rig_batch(1);
	o.note.batch->durable = false;
	rig_waiting = 1;
	loop_post(rig_loop, &o.msg);
	rig_wait();
	assert_int_equal(o.read.op.answer, STORE_NOT_FOUND);
	assert_int_equal(o.claim.op.answer, STORE_NOT_FOUND);
	assert_int_equal(o.note.op.answer, STORE_OK);
}

/* What nobody waits for is freed, and lets go of its batch. */
static void an_operation_without_a_reply_lets_go_of_its_batch(void **state)
{
	struct batch *b = rig_batch(3);
	struct store_accept *a = step(sizeof *a, STORE_ACCEPT);

	(void)state;
	a->batch = batch_ref(b);
	store_ask(s, &a->op);
	barrier();
	assert_int_equal(atomic_load(&b->refs), 1);
	live_on(b);
	barrier();
	assert_int_equal(atomic_load(&b->refs), 1);
	assert_succeeded(b->id, 3);
	batch_unref(b);
}

/* Bounds. */

static enum store_answer try_accept(uint32_t n_items)
{
	struct batch *b = rig_batch(n_items);
	enum store_answer said = rig_accept(s, b);

	batch_unref(b);
	return said;
}

/* To the last item, and what ended or was refused makes room at once. */
static void unfinished_items_are_bounded(void **state)
{
	struct batch *b = rig_batch(3), *again = rig_batch(4);

	(void)state;
	cfg.stored_items = 10;
	reopen_store();
	rig_key(b, "here", "k", 1);
	rig_key(again, "here", "k", 1);
	assert_int_equal(rig_accept(s, b), STORE_OK);
	assert_int_equal(try_accept(8), STORE_BUSY);
	assert_int_equal(rig_accept(s, again), STORE_KEY_EXISTS);
	assert_int_equal(try_accept(7), STORE_OK);
	assert_int_equal(try_accept(1), STORE_BUSY);
	rig_settle(b, 1, CODE_OK, DELIVERED_YES);
	rig_update(s, b, 1);
	assert_int_equal(try_accept(2), STORE_BUSY);
	assert_int_equal(try_accept(1), STORE_OK);
	assert_int_equal(try_accept(1), STORE_BUSY);
	batch_unref(b);
	batch_unref(again);
}

static void expect_refused(uint32_t n, uint64_t excess, double per_second)
{
	struct store_accept a = {.batch = rig_batch(n)};

	rig_ask(s, &a.op, STORE_ACCEPT);
	rig_wait();
	assert_int_equal(a.op.answer, STORE_BUSY);
	assert_int_equal(a.excess, excess);
	assert_float_equal(a.per_second, per_second, 0.001);
}

/* So that who is refused can be told when to come back. */
static void a_refusal_says_what_is_too_much_and_how_fast_it_goes(void **state)
{
	struct batch *b = rig_batch(10), *of_two;

	(void)state;
	cfg.stored_items = 10;
	reopen_store();
	assert_int_equal(rig_accept(s, b), STORE_OK);
	expect_refused(3, 3, 0);
	for (uint32_t i = 0; i < 5; i++) {
		rig_settle(b, i, CODE_OK, DELIVERED_YES);
		rig_update(s, b, i);
	}
	expect_refused(8, 3, 0.5);
	/* What comes is not taken for what goes. */
	of_two = rig_batch(2);
	assert_int_equal(rig_accept(s, of_two), STORE_OK);
	expect_refused(8, 5, 0.5);
	batch_unref(b);
	batch_unref(of_two);
}

/* Also while none of them is answered. */
static void the_bound_holds_for_what_waits(void **state)
{
	struct store_accept a[8];
	unsigned accepted = 0;

	(void)state;
	cfg.stored_items = 10;
	reopen_store();
	for (unsigned i = 0; i < ARRAY_LEN(a); i++) {
		a[i] = (struct store_accept){.batch = rig_batch(3)};
		rig_ask(s, &a[i].op, STORE_ACCEPT);
	}
	rig_wait();
	for (unsigned i = 0; i < ARRAY_LEN(a); i++)
		accepted += a[i].op.answer == STORE_OK;
	assert_int_equal(accepted, 3);
}

/* The end. */

static void a_full_queue_is_written_before_the_end(void **state)
{
	enum { MANY = 300 };
	static struct store_accept a[MANY];
	static struct batch *b[MANY];
	unsigned found = 0;

	(void)state;
	for (unsigned i = 0; i < MANY; i++) {
		b[i] = rig_batch(2);
		if (i % 2 == 0) {
			b[i]->durable = false;
			live_on(b[i]);
			continue;
		}
		a[i] = (struct store_accept){.batch = batch_ref(b[i])};
		rig_ask(s, &a[i].op, STORE_ACCEPT);
	}
	reopen_store();
	rig_wait();
	for (unsigned i = 0; i < MANY; i++) {
		struct batch *got = rig_read(s, b[i]->id);

		if (i % 2 == 1)
			assert_int_equal(a[i].op.answer, STORE_OK);
		found += got != NULL;
		batch_unref(got);
		batch_unref(b[i]);
	}
	assert_int_equal(found, kind->survives ? MANY : 0);
}

static void a_store_that_was_never_asked_closes(void **state)
{
	(void)state;
	reopen_store();
	store_close(NULL);
}

static const struct rig_case cases[] = {
	CASE(of_many_with_one_key_at_once_one_is_accepted),
	CASE(whole_lives_from_several_threads_end_well),
	CASE(groups_are_timed_and_counted),
	CASE(writes_of_one_asker_keep_their_order),
	CASE(no_answer_comes_inside_the_call),
	CASE(an_operation_without_a_reply_lets_go_of_its_batch),
	CASE(unfinished_items_are_bounded),
	CASE(a_refusal_says_what_is_too_much_and_how_fast_it_goes),
	CASE(the_bound_holds_for_what_waits),
	CASE(a_full_queue_is_written_before_the_end),
	CASE(a_store_that_was_never_asked_closes),
};

int main(void)
{
	return run_cases("store_load", cases, ARRAY_LEN(cases));
}
