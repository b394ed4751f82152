/*
 * The front of a store over a backend whose calls fail, or wait, when a test says
 * so: nothing owed is lost or overtaken, the rest is refused, it recovers.
 */
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "obs/log.h"
#include "store-faulty.h"

/* One of everything, asked while the writer is held. */
struct all {
	struct batch *known, *light;
	struct store_claim claim;
	struct store_accept accept, note;
	struct store_update update;
	struct store_delete delete;
	struct store_finish light_end, end;
	struct store_park park;
};

static void ask_all(struct all *a, struct batch *known)
{
	*a = (struct all){.known = known, .light = rig_batch(1)};
	a->light->durable = a->light->asynchronous = false;
	a->claim = (struct store_claim){.row = known->store_row, .index = 0};
	a->accept.batch = rig_batch(1);
	a->note.batch = batch_ref(a->light);
	rig_ask(s, &a->claim.op, STORE_CLAIM);
	rig_ask(s, &a->accept.op, STORE_ACCEPT);
	rig_ask(s, &a->note.op, STORE_ACCEPT);
	rig_settle(known, 0, CODE_OK, DELIVERED_YES);
	a->update = rig_update_of(known, 0);
	rig_ask(s, &a->update.op, STORE_UPDATE);
	a->delete.id = rig_id(1);
	rig_ask(s, &a->delete.op, STORE_DELETE);
	rig_settle(a->light, 0, CODE_OK, DELIVERED_YES);
	rig_end(a->light, 1000000);
	a->light_end.batch = batch_ref(a->light);
	rig_ask(s, &a->light_end.op, STORE_FINISH);
	a->park = (struct store_park){.row = known->store_row, .due_unix_ms = 5};
	rig_ask(s, &a->park.op, STORE_PARK);
	rig_end(known, 1000000);
	a->end.batch = batch_ref(known);
	rig_ask(s, &a->end.op, STORE_FINISH);
}

/* Owed: all of it is written, in its order, and nothing else. */
static void expect_owed_alone(struct all *a)
{
	static const enum store_do order[] = {STORE_DELETE, STORE_CLAIM, STORE_UPDATE, STORE_PARK, STORE_FINISH};
	struct batch *got = rig_read(s, a->known->id);

	assert_int_equal(holding.op.answer, STORE_NOT_FOUND);
	assert_int_equal(a->claim.op.answer, STORE_OK);
	assert_int_equal(a->update.op.answer, STORE_OK);
	assert_int_equal(a->park.op.answer, STORE_OK);
	assert_int_equal(a->end.op.answer, STORE_OK);
	assert_int_equal(a->accept.op.answer, STORE_UNAVAILABLE);
	assert_int_equal(a->note.op.answer, STORE_UNAVAILABLE);
	assert_int_equal(a->delete.op.answer, STORE_UNAVAILABLE);
	assert_int_equal(a->light_end.op.answer, STORE_UNAVAILABLE);
	assert_int_equal(f.n_log, ARRAY_LEN(order));
	for (unsigned i = 0; i < ARRAY_LEN(order); i++)
		assert_int_equal(f.log[i].what, order[i]);
	assert_int_equal(got->state, BATCH_DONE);
	assert_int_equal(got->items[0].delivered, DELIVERED_YES);
	batch_unref(got);
	assert_int_equal(status().dropped, 2);
	assert_int_equal(status().queued_ops, 0);
	assert_int_equal(status().queued_bytes, 0);
	assert_int_equal(status().unfinished_items, 0);
	assert_false(status().failing);
	/* The memory backend keeps nothing of the light one, which was refused. */
	assert_int_equal(atomic_load(&a->light->refs), 1);
	assert_int_equal(atomic_load(&a->known->refs), 1);
	batch_unref(a->light);
	batch_unref(a->known);
}

/* The group of everything fails once, there. */
static void fail_once(struct fault *of, unsigned skip)
{
	struct all a;
	struct batch *known = accepted(1);

	hold();
	ask_all(&a, known);
	LOCKED(f.held = false; f.from_try = f.tries + 1; *of = (struct fault){.skip = skip, .left = 1});
	rig_wait();
	expect_owed_alone(&a);
}

static void a_group_that_cannot_begin_costs_only_what_is_not_owed(void **state)
{
	(void)state;
	fail_once(&f.begins, 0);
}

static void a_write_that_fails_costs_only_what_is_not_owed(void **state)
{
	(void)state;
	for (unsigned at = 0; at < 8; at++) {
		fail_once(&f.writes, at);
		reopen(true, true);
	}
}

static void a_commit_that_fails_costs_only_what_is_not_owed(void **state)
{
	(void)state;
	fail_once(&f.commits, 0);
}

/* Failing for long. */

/* What is owed is taken, more and more of it, and comes out as it went in. */
static void what_is_owed_waits_in_order(void **state)
{
	enum { CLAIMS = 500 };
	static struct store_claim c[CLAIMS];
	struct batch *b = accepted(CLAIMS);

	(void)state;
	break_disk();
	for (unsigned i = 0; i < CLAIMS; i++) {
		c[i] = (struct store_claim){.row = b->store_row, .index = CLAIMS - 1 - i};
		rig_ask(s, &c[i].op, STORE_CLAIM);
		if (i % 100 == 0)
			assert_int_equal(try_delete(), STORE_UNAVAILABLE);
	}
	assert_int_equal(status().queued_ops, CLAIMS);
	pthread_mutex_lock(&rig_lock);
	for (unsigned tries = f.tries; f.tries < tries + 2;)
		pthread_cond_wait(&rig_changed, &rig_lock);
	assert_int_equal(rig_waiting, CLAIMS);
	pthread_mutex_unlock(&rig_lock);
	mend_disk();
	rig_wait();
	assert_int_equal(f.n_log, CLAIMS);
	for (unsigned i = 0; i < CLAIMS; i++) {
		assert_int_equal(c[i].op.answer, STORE_OK);
		assert_int_equal(f.log[i].index, CLAIMS - 1 - i);
	}
	assert_false(status().failing);
	assert_int_equal(try_delete(), STORE_NOT_FOUND);
	batch_unref(b);
}

static void a_read_is_answered_while_writes_fail(void **state)
{
	struct batch *b = accepted(1), *got;

	(void)state;
	break_disk();
	got = rig_read(s, b->id);
	assert_non_null(got);
	batch_unref(got);
	batch_unref(b);
	mend_disk();
}

/* Readiness says no, so nobody asks: the writer finds out by itself. */
static void it_recovers_though_nobody_asks(void **state)
{
	(void)state;
	break_disk();
	mend_disk();
	WAIT_UNTIL(f.touches > 0);
	assert_int_equal(try_delete(), STORE_NOT_FOUND);
	assert_false(status().failing);
}

/* The backend has nothing small to write: the next that asks shows it. */
static void the_first_that_asks_is_the_probe(void **state)
{
	unsigned tries = 0, untried = 0;

	(void)state;
	reopen(true, false);
	break_disk();
	/* Most are refused without a try: it has its times. */
	for (unsigned n = 0; untried < 10; n++) {
		unsigned before = tries;

		assert_true(n < 60);
		assert_int_equal(try_delete(), STORE_UNAVAILABLE);
		LOCKED(tries = f.tries);
		untried += tries == before;
	}
	mend_disk();
	while (try_delete() != STORE_NOT_FOUND)
		continue;
	assert_false(status().failing);
}

static void a_failure_of_forgetting_shows_too(void **state)
{
	(void)state;
	LOCKED(f.expires = (struct fault){.left = FOR_EVER}; f.commits = (struct fault){.left = FOR_EVER});
	while (!status().failing)
		continue;
	LOCKED(f.expires = (struct fault){0});
	mend_disk();
	WAIT_UNTIL(f.touches > 0);
	assert_int_equal(try_delete(), STORE_NOT_FOUND);
	assert_false(status().failing);
}

static void a_read_that_fails_is_unavailable(void **state)
{
	struct batch *b = accepted(1), *got;
	struct store_read r = {.id = b->id, .limit = 1};
	static struct store_list l = {.state = -1, .outcome = -1, .limit = 1};

	(void)state;
	LOCKED(f.reads = -EIO);
	assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_UNAVAILABLE);
	assert_null(r.batch);
	assert_int_equal(rig_do(s, &l.op, STORE_LIST), STORE_UNAVAILABLE);
	LOCKED(f.reads = 0);
	got = rig_read(s, b->id);
	assert_non_null(got);
	batch_unref(got);
	batch_unref(b);
}

static void on_unfinished(void *arg, const struct store_unfinished *u)
{
	(void)u;
	++*(unsigned *)arg;
}

static void what_is_unfinished_is_told_or_why_not(void **state)
{
	struct batch *b = accepted(1);
	struct buf error = {0};
	unsigned n = 0;

	(void)state;
	LOCKED(f.begins = (struct fault){.left = 1});
	assert_false(store_each_unfinished(s, on_unfinished, &n, &error));
	buf_add_char(&error, '\0');
	assert_non_null(strstr(error.p, "the disk is on holiday"));
	buf_free(&error);
	assert_true(store_each_unfinished(s, on_unfinished, &n, &error));
	assert_int_equal(n, 1);
	batch_unref(b);
}

/* The end while it fails. */

/* Neither its loop nor its batches wait for ever. */
static void what_can_never_be_written_is_given_up_at_the_end(void **state)
{
	struct batch *b = accepted(2);
	struct store_claim c = {.row = b->store_row};
	struct store_update u;

	(void)state;
	break_disk();
	rig_ask(s, &c.op, STORE_CLAIM);
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	u = rig_update_of(b, 0);
	rig_ask(s, &u.op, STORE_UPDATE);
	store_close(s);
	rig_wait();
	assert_int_equal(c.op.answer, STORE_UNAVAILABLE);
	assert_int_equal(u.op.answer, STORE_UNAVAILABLE);
	assert_int_equal(atomic_load(&b->refs), 1);
	batch_unref(b);
	open_front(true, true);
}

static int64_t clock_us(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

/* From one step of forgetting to the next, a second later, there is nothing to do. */
static void a_broken_disk_that_was_given_up_keeps_no_core_busy(void **state)
{
	int64_t begun_us, begun_cpu_us;
	unsigned expired;

	(void)state;
	break_disk();
	store_give_up(s);
	LOCKED(expired = f.expired);
	WAIT_UNTIL(f.expired > expired);
	begun_us = clock_us(CLOCK_MONOTONIC);
	begun_cpu_us = clock_us(CLOCK_PROCESS_CPUTIME_ID);
	WAIT_UNTIL(f.expired > expired + 1);
	assert_true(clock_us(CLOCK_PROCESS_CPUTIME_ID) - begun_cpu_us < (clock_us(CLOCK_MONOTONIC) - begun_us) / 2);
}

/* Later steps without those before them would tell of what never was. */
static void what_follows_what_was_given_up_is_not_written(void **state)
{
	struct batch *b = accepted(2), *got;
	struct store_claim first = {.row = b->store_row}, second = {.row = b->store_row, .index = 1};

	(void)state;
	break_disk();
	rig_ask(s, &first.op, STORE_CLAIM);
	store_give_up(s);
	rig_wait();
	assert_int_equal(first.op.answer, STORE_UNAVAILABLE);
	mend_disk();
	rig_ask(s, &second.op, STORE_CLAIM);
	rig_wait();
	assert_int_equal(second.op.answer, STORE_UNAVAILABLE);
	got = rig_read(s, b->id);
	assert_false(got->items[0].in_flight || got->items[1].in_flight);
	batch_unref(got);
	batch_unref(b);
	reopen(true, true);
}

static void a_disk_that_works_again_gets_all_at_the_end(void **state)
{
	struct batch *b = accepted(1);
	struct store_claim c = {.row = b->store_row};

	(void)state;
	break_disk();
	rig_ask(s, &c.op, STORE_CLAIM);
	mend_disk();
	store_close(s);
	rig_wait();
	assert_int_equal(c.op.answer, STORE_OK);
	batch_unref(b);
	open_front(true, true);
}

/* A failure that is met only at the end is not taken for the last word. */
static void the_end_tries_twice(void **state)
{
	struct batch *b = accepted(1);
	struct store_claim c = {.row = b->store_row};

	(void)state;
	LOCKED(f.commits = (struct fault){.left = 1});
	rig_ask(s, &c.op, STORE_CLAIM);
	store_close(s);
	rig_wait();
	assert_int_equal(c.op.answer, STORE_OK);
	batch_unref(b);
	open_front(true, true);
}

/* A corrupt file does not heal: nothing is tried, and what is owed waits. */
static void a_corrupt_file_is_left_alone(void **state)
{
	struct batch *b = accepted(1);
	struct store_claim c = {.row = b->store_row};
	unsigned tries;

	(void)state;
	hold();
	f.backend.hopeless = true;
	LOCKED(f.commits = (struct fault){.left = 1});
	let_go();
	rig_wait();
	assert_int_equal(holding.op.answer, STORE_UNAVAILABLE);
	LOCKED(tries = f.tries);
	rig_ask(s, &c.op, STORE_CLAIM);
	assert_int_equal(try_delete(), STORE_UNAVAILABLE);
	store_close(s);
	rig_wait();
	assert_int_equal(c.op.answer, STORE_UNAVAILABLE);
	assert_int_equal(f.tries, tries);
	batch_unref(b);
	open_front(true, true);
}

static enum store_answer read_with(int err)
{
	struct store_read r = {.id = rig_id(1), .limit = 1};

	LOCKED(f.reads = err);
	return rig_do(s, &r.op, STORE_READ);
}

/* Else it would acknowledge what the next start refuses to read. */
static void a_read_that_meets_a_broken_page_ends_all_writing(void **state)
{
	unsigned tries;

	(void)state;
	assert_int_equal(read_with(-EUCLEAN), STORE_UNAVAILABLE);
	while (!status().failing)
		continue;
	assert_non_null(strstr(status().why, "damaged"));
	LOCKED(tries = f.tries);
	assert_int_equal(try_delete(), STORE_UNAVAILABLE);
	assert_int_equal(read_with(0), STORE_NOT_FOUND);
	assert_int_equal(try_delete(), STORE_UNAVAILABLE);
	assert_int_equal(f.tries, tries);
}

static void damage_that_a_reload_meets_ends_all_writing(void **state)
{
	unsigned tries;

	(void)state;
	assert_int_equal(try_delete(), STORE_NOT_FOUND);
	LOCKED(tries = f.tries);
	f.backend.hopeless = true;
	assert_int_equal(try_delete(), STORE_UNAVAILABLE);
	assert_true(status().failing);
	assert_int_equal(f.tries, tries);
}

/* Who was told that it goes on by itself would wait for that. */
static void damage_is_told_of_though_the_disk_was_full_before(void **state)
{
	int kept = dup(STDERR_FILENO), file = memfd_create("log", MFD_CLOEXEC);
	char text[4096] = "";

	(void)state;
	dup2(file, STDERR_FILENO);
	LOCKED(f.commits = (struct fault){.left = FOR_EVER});
	(void)try_delete();
	(void)read_with(-EUCLEAN);
	while (strstr(status().why, "damaged") == NULL)
		continue;
	(void)try_delete();
	dup2(kept, STDERR_FILENO);
	close(kept);
	assert_true(pread(file, text, sizeof text - 1, 0) > 0);
	close(file);
	assert_non_null(strstr(text, "it then goes on by itself"));
	assert_non_null(strstr(text, "stop the process, restore the database"));
}

static void a_batch_that_cannot_be_read_does_not(void **state)
{
	(void)state;
	assert_int_equal(read_with(-EBADMSG), STORE_UNAVAILABLE);
	assert_int_equal(try_delete(), STORE_NOT_FOUND);
	assert_false(status().failing);
}

/* Groups. */

static void what_waits_goes_in_one_group(void **state)
{
	enum { MANY = 5000 };
	static struct store_claim c[MANY];
	struct batch *b = accepted(1);

	(void)state;
	hold();
	for (unsigned i = 0; i < MANY; i++) {
		c[i] = (struct store_claim){.row = b->store_row};
		rig_ask(s, &c[i].op, STORE_CLAIM);
	}
	let_go();
	rig_wait();
	assert_int_equal(f.n_log, MANY + 1);
	assert_true(f.largest > 100);
	assert_true(f.largest <= 4096);
	batch_unref(b);
}

static bool sync_of(struct store_op *op, enum store_do what)
{
	bool synced;

	assert_int_equal(rig_do(s, op, what), STORE_OK);
	LOCKED(synced = f.synced);
	return synced;
}

/* What a 202, a key or at_most_once rests on. */
static void only_what_must_be_synced_is(void **state)
{
	struct batch *b = accepted(1), *light = rig_batch(1);
	struct store_accept a = {.batch = rig_batch(1)}, note = {.batch = batch_ref(light)};
	struct store_claim c = {.row = b->store_row}, once = {.row = b->store_row, .synced = true};
	struct store_park p = {.row = b->store_row};
	struct store_update u;
	struct store_finish end;

	(void)state;
	light->durable = false;
	assert_true(sync_of(&a.op, STORE_ACCEPT));
	assert_false(sync_of(&c.op, STORE_CLAIM));
	assert_true(sync_of(&once.op, STORE_CLAIM));
	assert_false(sync_of(&p.op, STORE_PARK));
	assert_false(sync_of(&note.op, STORE_ACCEPT));
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	u = rig_update_of(b, 0);
	assert_false(sync_of(&u.op, STORE_UPDATE));
	rig_end(b, 1000000);
	end.batch = batch_ref(b);
	assert_false(sync_of(&end.op, STORE_FINISH));
	batch_unref(light);
	batch_unref(b);
}

/* One of them makes its whole group so. */
static void a_group_is_synced_for_any_of_it(void **state)
{
	struct batch *b = accepted(1);
	struct store_claim c = {.row = b->store_row}, once = {.row = b->store_row, .synced = true};

	(void)state;
	hold();
	rig_ask(s, &c.op, STORE_CLAIM);
	rig_ask(s, &once.op, STORE_CLAIM);
	let_go();
	rig_wait();
	assert_int_equal(f.groups, 2);
	assert_true(f.synced);
	batch_unref(b);
}

/* Bounds. */

static void what_is_not_owed_is_bounded_in_the_queue(void **state)
{
	struct batch *b;
	struct store_accept a[64];
	struct store_claim c;
	struct store_finish light = {.batch = rig_batch(1)};
	unsigned busy = 0;

	(void)state;
	cfg.queue_bytes = 20000;
	reopen(true, true);
	b = accepted(1);
	hold();
	for (unsigned i = 0; i < ARRAY_LEN(a); i++) {
		a[i] = (struct store_accept){.batch = rig_batch(1)};
		rig_ask(s, &a[i].op, STORE_ACCEPT);
	}
	assert_true(status().queued_bytes <= cfg.queue_bytes);
	assert_true(status().queued_ops < ARRAY_LEN(a));
	light.batch->durable = false;
	rig_ask(s, &light.op, STORE_FINISH);
	c = (struct store_claim){.row = b->store_row};
	rig_ask(s, &c.op, STORE_CLAIM);
	let_go();
	rig_wait();
	for (unsigned i = 0; i < ARRAY_LEN(a); i++) {
		busy += a[i].op.answer == STORE_BUSY;
		assert_true(a[i].op.answer == (busy > 0 ? STORE_BUSY : STORE_OK));
	}
	assert_true(busy > 0 && busy < ARRAY_LEN(a));
	assert_int_equal(light.op.answer, STORE_OK);
	assert_int_equal(status().dropped, 0);
	assert_int_equal(c.op.answer, STORE_OK);
	assert_int_equal(status().queued_bytes, 0);
	batch_unref(b);
}

/* However large, or nobody could ever ask it. */
static void an_empty_queue_takes_anything(void **state)
{
	struct batch *b;

	(void)state;
	cfg.queue_bytes = 1;
	reopen(true, true);
	b = accepted(100);
	batch_unref(b);
}

static void a_full_queue_of_a_failing_store_says_so(void **state)
{
	struct batch *b;
	struct store_claim c[64];

	(void)state;
	cfg.queue_bytes = 4000;
	reopen(true, true);
	b = accepted(1);
	break_disk();
	for (unsigned i = 0; i < ARRAY_LEN(c); i++) {
		c[i] = (struct store_claim){.row = b->store_row};
		rig_ask(s, &c[i].op, STORE_CLAIM);
	}
	assert_true(status().queued_bytes > cfg.queue_bytes);
	assert_int_equal(rig_accept(s, b), STORE_UNAVAILABLE);
	mend_disk();
	rig_wait();
	batch_unref(b);
}

/* A refusal gives back the room that the items had. */
static void room_for_items_is_given_back_by_a_failure(void **state)
{
	struct batch *b;
	struct store_accept a = {.batch = rig_batch(10)};

	(void)state;
	cfg.stored_items = 10;
	reopen(true, true);
	LOCKED(f.commits = (struct fault){.left = 1});
	assert_int_equal(rig_do(s, &a.op, STORE_ACCEPT), STORE_UNAVAILABLE);
	WAIT_UNTIL(f.touches > 0);
	b = accepted(10);
	assert_int_equal(status().unfinished_items, 10);
	batch_unref(b);
}

static void notes_go_to_a_backend_that_wants_them(void **state)
{
	struct store_accept note = {.batch = rig_batch(1)};

	(void)state;
	note.batch->durable = false;
	assert_int_equal(rig_do(s, &note.op, STORE_ACCEPT), STORE_OK);
	assert_int_equal(f.n_log, 1);
	reopen(false, true);
	note = (struct store_accept){.batch = rig_batch(1)};
	note.batch->durable = false;
	assert_int_equal(rig_do(s, &note.op, STORE_ACCEPT), STORE_OK);
	assert_int_equal(f.n_log, 0);
}

static void the_oldest_that_is_unfinished_is_measured(void **state)
{
	struct batch *b = accepted(1);

	(void)state;
	while (status().oldest_unfinished_unix_ms != b->created_unix_ms)
		continue;
	rig_settle(b, 0, CODE_OK, DELIVERED_YES);
	rig_update(s, b, 0);
	rig_end(b, 1000000);
	assert_int_equal(rig_finish(s, b), STORE_OK);
	while (status().oldest_unfinished_unix_ms != 0)
		continue;
	batch_unref(b);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_group_that_cannot_begin_costs_only_what_is_not_owed),
		TEST(a_write_that_fails_costs_only_what_is_not_owed),
		TEST(a_commit_that_fails_costs_only_what_is_not_owed),
		TEST(what_is_owed_waits_in_order),
		TEST(a_read_is_answered_while_writes_fail),
		TEST(it_recovers_though_nobody_asks),
		TEST(the_first_that_asks_is_the_probe),
		TEST(a_failure_of_forgetting_shows_too),
		TEST(a_read_that_fails_is_unavailable),
		TEST(what_is_unfinished_is_told_or_why_not),
		TEST(what_can_never_be_written_is_given_up_at_the_end),
		TEST(a_broken_disk_that_was_given_up_keeps_no_core_busy),
		TEST(what_follows_what_was_given_up_is_not_written),
		TEST(a_disk_that_works_again_gets_all_at_the_end),
		TEST(the_end_tries_twice),
		TEST(a_corrupt_file_is_left_alone),
		TEST(a_read_that_meets_a_broken_page_ends_all_writing),
		TEST(damage_that_a_reload_meets_ends_all_writing),
		TEST(damage_is_told_of_though_the_disk_was_full_before),
		TEST(a_batch_that_cannot_be_read_does_not),
		TEST(what_waits_goes_in_one_group),
		TEST(only_what_must_be_synced_is),
		TEST(a_group_is_synced_for_any_of_it),
		TEST(what_is_not_owed_is_bounded_in_the_queue),
		TEST(an_empty_queue_takes_anything),
		TEST(a_full_queue_of_a_failing_store_says_so),
		TEST(room_for_items_is_given_back_by_a_failure),
		TEST(notes_go_to_a_backend_that_wants_them),
		TEST(the_oldest_that_is_unfinished_is_measured),
	};

	rng_seed(&rig_rng, 5);
	log_init(LOG_LOGFMT, LOG_ERROR);
	return cmocka_run_group_tests_name("store_front", tests, NULL, NULL);
}
