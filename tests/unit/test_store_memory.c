/*
 * The memory backend's own promises: what it keeps and what it lets go of, groups
 * that are undone, and every allocation refused once. Its calls are made as the
 * front makes them, in one thread.
 */
#include <errno.h>

#include "store-rig.h"
#include "store/backend-i.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __real_free(void *p);
void __wrap_free(void *p);
void *__wrap_xcalloc(size_t n, size_t size);

static long countdown;                   /* 0: nothing fails; 1: the next does */

static bool refused(void)
{
	return countdown > 0 && --countdown == 0;
}

void *__wrap_malloc(size_t n)
{
	return refused() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return refused() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return refused() ? NULL : __real_realloc(p, n);
}

void __wrap_free(void *p)
{
	__real_free(p);
}

/* Small fixed sizes: by design these end the program, so they do not fail here. */
void *__wrap_xcalloc(size_t n, size_t size)
{
	void *p = __real_calloc(n, size);

	REQUIRE(p != NULL);
	return p;
}

static struct store_config cfg;
static struct backend *b;

static int setup(void **state)
{
	(void)state;
	cfg = (struct store_config){.memory_bytes = 1 << 26};
	b = memory_open(&cfg);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	b->ops->close(b);
	return 0;
}

static int write_one(struct store_op *op, enum store_do what)
{
	op->what = what;
	op->answer = STORE_OK;
	return b->ops->write(b, op);
}

/* In a group of its own. */
static void commit_one(struct store_op *op, enum store_do what)
{
	assert_int_equal(b->ops->begin(b, true), 0);
	assert_int_equal(write_one(op, what), 0);
	assert_int_equal(b->ops->commit(b), 0);
	assert_int_equal(op->answer, STORE_OK);
}

static void accept_it(struct batch *of)
{
	struct store_accept a = {.batch = of};

	commit_one(&a.op, STORE_ACCEPT);
}

static void update_it(struct batch *of, uint32_t index)
{
	struct store_update u = rig_update_of(of, index);

	commit_one(&u.op, STORE_UPDATE);
	batch_unref(u.batch);
}

static void finish_it(struct batch *of)
{
	struct store_finish f = {.batch = of};

	rig_end(of, 1000000);
	commit_one(&f.op, STORE_FINISH);
}

static void live(struct batch *of)
{
	accept_it(of);
	for (uint32_t i = 0; i < of->n_items; i++) {
		rig_settle(of, i, CODE_OK, DELIVERED_YES);
		update_it(of, i);
	}
	finish_it(of);
}

static struct batch *read_it(struct batch_id id)
{
	struct store_read r = {.op.what = STORE_READ, .id = id, .limit = UINT32_MAX, .letters = true};

	assert_int_equal(b->ops->read(b, &r.op), 0);
	return r.batch;
}

static bool has(const struct batch *of)
{
	struct batch *got = read_it(of->id);

	batch_unref(got);
	return got != NULL;
}

/* What it keeps. */

static void the_oldest_that_finished_go_first(void **state)
{
	struct batch *running = rig_batch(50), *v[20];
	struct store_accept again = {.batch = rig_batch(1)};
	unsigned kept = 0;

	(void)state;
	cfg.memory_bytes = 40000;
	accept_it(running);
	for (unsigned i = 0; i < ARRAY_LEN(v); i++) {
		v[i] = rig_batch(10);
		if (i == 0)
			rig_key(v[i], "here", "k", 1);
		live(v[i]);
	}
	for (unsigned i = 0; i < ARRAY_LEN(v); i++) {
		assert_true(kept == 0 || has(v[i]));
		kept += has(v[i]);
	}
	assert_true(kept > 2 && kept < ARRAY_LEN(v));
	assert_true(has(running));
	rig_key(again.batch, "here", "k", 1);
	commit_one(&again.op, STORE_ACCEPT);
	for (unsigned i = 0; i < ARRAY_LEN(v); i++)
		batch_unref(v[i]);
	batch_unref(again.batch);
	batch_unref(running);
}

static void a_single_batch_stays_whatever_its_size(void **state)
{
	struct batch *large = rig_batch(100), *next = rig_batch(1);

	(void)state;
	cfg.memory_bytes = 1;
	live(large);
	assert_true(has(large));
	live(next);
	assert_true(has(next));
	assert_false(has(large));
	batch_unref(large);
	batch_unref(next);
}

/* It is kept as it is, and stands under the bound of the store from then on. */
static void a_light_batch_no_longer_counts_as_held(void **state)
{
	struct batch *light = rig_batch(1);
	atomic_size_t held = 500;

	(void)state;
	light->durable = false;
	light->held[HELD_ALL] = &held;
	light->held_bytes = 500;
	rig_settle(light, 0, CODE_OK, DELIVERED_YES);
	finish_it(light);
	assert_int_equal(held, 0);
	batch_unref(light);
	assert_int_equal(held, 0);
	assert_int_equal(b->unfinished, 0);
}

/* Many that expire at once go in steps. */
static void forgetting_goes_in_steps(void **state)
{
	struct batch *v[100];
	bool more;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(v); i++)
		live(v[i] = rig_batch(1));
	assert_int_equal(b->ops->expire(b, v[0]->finished_unix_ms, &more), 0);
	assert_false(more);
	assert_true(has(v[0]));
	assert_int_equal(b->ops->expire(b, v[99]->expires_unix_ms, &more), 0);
	assert_true(more);
	assert_int_equal(b->ops->expire(b, v[99]->expires_unix_ms, &more), 0);
	assert_false(more);
	for (unsigned i = 0; i < ARRAY_LEN(v); i++) {
		assert_false(has(v[i]));
		batch_unref(v[i]);
	}
}

/* Groups that are undone. */

struct told {
	int64_t due;
	unsigned n;
};

static void on_unfinished(void *arg, const struct store_unfinished *u)
{
	struct told *t = arg;

	t->due = u->due_unix_ms;
	t->n++;
}

static struct told unfinished(void)
{
	struct told t = {0};

	assert_int_equal(b->ops->each_unfinished(b, on_unfinished, &t), 0);
	return t;
}

static void a_group_that_is_undone_leaves_nothing(void **state)
{
	struct batch *known = rig_batch(2), *done = rig_batch(1), *got;
	struct store_accept a = {.batch = rig_batch(5)}, second = {.batch = rig_batch(1)};
	struct store_claim c = {.index = 1};
	struct store_update u;
	struct store_park p = {.due_unix_ms = 77};
	struct store_finish f = {.batch = known}, light = {.batch = rig_batch(1)};
	struct store_delete d = {.id = done->id};

	(void)state;
	accept_it(known);
	live(done);
	rig_key(a.batch, "here", "k", 1);
	rig_key(second.batch, "here", "k", 2);
	c.row = p.row = known->store_row;
	rig_settle(known, 0, CODE_OK, DELIVERED_YES);
	u = rig_update_of(known, 0);
	light.batch->durable = false;
	rig_settle(light.batch, 0, CODE_OK, DELIVERED_YES);
	rig_end(light.batch, 1000);
	assert_int_equal(b->ops->begin(b, true), 0);
	assert_int_equal(write_one(&a.op, STORE_ACCEPT), 0);
	assert_int_equal(write_one(&second.op, STORE_ACCEPT), 0);
	assert_int_equal(second.op.answer, STORE_KEY_EXISTS);
	assert_int_equal(write_one(&c.op, STORE_CLAIM), 0);
	assert_int_equal(write_one(&u.op, STORE_UPDATE), 0);
	assert_int_equal(write_one(&p.op, STORE_PARK), 0);
	rig_settle(known, 1, CODE_OK, DELIVERED_YES);
	rig_end(known, 1000);
	assert_int_equal(write_one(&f.op, STORE_FINISH), 0);
	assert_int_equal(write_one(&light.op, STORE_FINISH), 0);
	assert_int_equal(write_one(&d.op, STORE_DELETE), 0);
	b->ops->rollback(b);
	assert_false(has(a.batch));
	assert_false(has(light.batch));
	assert_true(has(done));
	got = read_it(known->id);
	assert_int_equal(got->state, BATCH_QUEUED);
	assert_int_equal(got->counts.pending, 2);
	assert_int_equal(got->items[0].state, ITEM_PENDING);
	assert_int_equal(got->items[0].to.n, 4);
	assert_false(got->items[1].in_flight);
	batch_unref(got);
	assert_int_equal(b->unfinished, 2);
	assert_int_equal(unfinished().n, 1);
	assert_int_equal(unfinished().due, 0);
	/* And all of it can be done after. */
	commit_one(&second.op, STORE_ACCEPT);
	commit_one(&c.op, STORE_CLAIM);
	commit_one(&f.op, STORE_FINISH);
	commit_one(&light.op, STORE_FINISH);
	commit_one(&d.op, STORE_DELETE);
	assert_false(has(done));
	assert_true(has(light.batch));
	assert_int_equal(b->unfinished, 1);
	batch_unref(u.batch);
	batch_unref(a.batch);
	batch_unref(second.batch);
	batch_unref(light.batch);
	batch_unref(known);
	batch_unref(done);
}

/* Ends that are undone, however many, push out nothing. */
static void what_is_undone_takes_no_room(void **state)
{
	struct batch *done = rig_batch(1), *known = rig_batch(1);
	struct store_finish f = {.batch = known};

	(void)state;
	cfg.memory_bytes = 10000;
	live(done);
	accept_it(known);
	rig_settle(known, 0, CODE_OK, DELIVERED_YES);
	update_it(known, 0);
	rig_end(known, 1000000);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(b->ops->begin(b, true), 0);
		assert_int_equal(write_one(&f.op, STORE_FINISH), 0);
		b->ops->rollback(b);
	}
	commit_one(&f.op, STORE_FINISH);
	assert_true(has(done));
	assert_true(has(known));
	batch_unref(done);
	batch_unref(known);
}

/* What was deleted in a group is not there for what follows in it. */
static void a_group_sees_what_it_did_before(void **state)
{
	struct batch *done = rig_batch(1);
	struct store_delete first = {.id = done->id}, second = first;
	struct store_accept again = {.batch = rig_batch(1)};

	(void)state;
	rig_key(done, "here", "k", 1);
	rig_key(again.batch, "here", "k", 2);
	live(done);
	assert_int_equal(b->ops->begin(b, true), 0);
	assert_int_equal(write_one(&first.op, STORE_DELETE), 0);
	assert_int_equal(write_one(&second.op, STORE_DELETE), 0);
	assert_int_equal(write_one(&again.op, STORE_ACCEPT), 0);
	assert_int_equal(b->ops->commit(b), 0);
	assert_int_equal(first.op.answer, STORE_OK);
	assert_int_equal(second.op.answer, STORE_NOT_FOUND);
	assert_int_equal(again.op.answer, STORE_OK);
	batch_unref(done);
	batch_unref(again.batch);
}

/* No memory. */

static struct batch *full_batch(void)
{
	struct batch *of = rig_batch(3);

	rig_key(of, "here", "a key", 1);
	of->policy.include_attempts = true;
	of->metadata = arena_copy(&of->arena, SLICE("{\"a\":\"b\"}"));
	of->items[1].payload = arena_copy(&of->arena, SLICE("{\"own\":true}"));
	return of;
}

/* One operation in a group, with the nth allocation refused until none is. */
static unsigned refuse_each(struct store_op *op, enum store_do what)
{
	unsigned n = 0;
	bool done = false;

	while (!done) {
		int rc;

		assert_true(++n < 1000);
		assert_int_equal(b->ops->begin(b, true), 0);
		countdown = n;
		rc = write_one(op, what);
		done = countdown > 0;
		countdown = 0;
		if (rc == 0) {
			assert_int_equal(op->answer, done ? STORE_OK : STORE_UNAVAILABLE);
			assert_int_equal(b->ops->commit(b), 0);
		} else {
			assert_int_equal(rc, -ENOMEM);
			b->ops->rollback(b);
		}
	}
	return n - 1;
}

static void a_write_without_memory_changes_nothing(void **state)
{
	struct batch *of = full_batch(), *got;
	struct store_accept a = {.batch = of};
	struct store_update u;

	(void)state;
	assert_true(refuse_each(&a.op, STORE_ACCEPT) >= 4);
	assert_int_equal(b->unfinished, 3);
	rig_settle(of, 0, CODE_REJECTED, DELIVERED_NO);
	/* More than a chunk of an arena has. */
	of->items[0].message_id = arena_alloc(&of->arena, 9001);
	assert_non_null(of->items[0].message_id);
	memset((void *)(uintptr_t)of->items[0].message_id, 'm', 9000);
	((char *)(uintptr_t)of->items[0].message_id)[9000] = '\0';
	u = rig_update_of(of, 0);
	assert_true(refuse_each(&u.op, STORE_UPDATE) >= 1);
	assert_int_equal(b->unfinished, 2);
	got = read_it(of->id);
	assert_string_equal(got->items[0].message_id, of->items[0].message_id);
	assert_non_null(got->items[0].records);
	assert_null(got->items[0].records->next);
	batch_unref(got);
	batch_unref(u.batch);
	batch_unref(of);
}

static void the_end_of_a_light_batch_without_memory_changes_nothing(void **state)
{
	struct store_finish f = {.batch = rig_batch(1)};
	struct batch *first = rig_batch(1);

	(void)state;
	/* So that what grows with the number of batches has grown. */
	live(first);
	f.batch->durable = false;
	rig_settle(f.batch, 0, CODE_OK, DELIVERED_YES);
	rig_end(f.batch, 1000);
	assert_true(refuse_each(&f.op, STORE_FINISH) >= 2);
	assert_int_equal(f.batch->refs, 2);
	batch_unref(f.batch);
	batch_unref(first);
}

static void a_read_without_memory_fails_alone(void **state)
{
	struct batch *of = full_batch(), *other = rig_batch(1);
	struct store_read r = {.op.what = STORE_READ, .id = of->id, .limit = 9, .letters = true};
	static struct store_list l;
	bool done = false;

	(void)state;
	accept_it(of);
	accept_it(other);
	for (long n = 1; !done; n++) {
		int rc;

		countdown = n;
		rc = b->ops->read(b, &r.op);
		done = countdown > 0;
		countdown = 0;
		assert_int_equal(rc, done ? 0 : -ENOMEM);
		assert_int_equal(r.batch != NULL, done);
	}
	batch_unref(r.batch);
	done = false;
	for (long n = 1; !done; n++) {
		int rc;

		l = (struct store_list){.op.what = STORE_LIST, .state = -1, .outcome = -1, .limit = 9};
		countdown = n;
		rc = b->ops->read(b, &l.op);
		done = countdown > 0;
		countdown = 0;
		assert_int_equal(rc, done ? 0 : -ENOMEM);
		assert_int_equal(l.n, done ? 2 : 0);
	}
	batch_unref(l.heads[0]);
	batch_unref(l.heads[1]);
	batch_unref(other);
	batch_unref(of);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_oldest_that_finished_go_first),
		TEST(a_single_batch_stays_whatever_its_size),
		TEST(a_light_batch_no_longer_counts_as_held),
		TEST(forgetting_goes_in_steps),
		TEST(a_group_that_is_undone_leaves_nothing),
		TEST(what_is_undone_takes_no_room),
		TEST(a_group_sees_what_it_did_before),
		TEST(a_write_without_memory_changes_nothing),
		TEST(the_end_of_a_light_batch_without_memory_changes_nothing),
		TEST(a_read_without_memory_fails_alone),
	};

	rng_seed(&rig_rng, 5);
	return cmocka_run_group_tests_name("store_memory", tests, NULL, NULL);
}
