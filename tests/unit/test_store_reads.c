/*
 * The contract of a store, what is asked of it: pages of items in either order,
 * and lists of batches.
 */
#include "store-kinds.h"

/* Pages of items. */

enum { ITEMS = 10 };

/* Ten items; seven have settled, in this order, every second delivered; of the
 * others one was claimed, one waits, one is untouched. */
static const uint32_t settling[] = {7, 2, 9, 0, 4, 1, 5};
enum { CLAIMED = 3, WAITS = 6, UNTOUCHED = 8, N_SETTLED = ARRAY_LEN(settling) };

static struct batch *settled_batch(void)
{
	struct batch *b = rig_batch(ITEMS);

	assert_int_equal(rig_accept(s, b), STORE_OK);
	for (uint32_t i = 0; i < N_SETTLED; i++) {
		bool ok = i % 2 == 0;

		rig_claim(s, b, settling[i]);
		rig_settle(b, settling[i], ok ? CODE_OK : CODE_REJECTED, ok ? DELIVERED_YES : DELIVERED_NO);
		rig_update(s, b, settling[i]);
	}
	rig_attempt(b, WAITS, CODE_UNAVAILABLE, DELIVERED_NO);
	item_set_state(&b->items[WAITS], ITEM_WAITING);
	rig_update(s, b, WAITS);
	rig_claim(s, b, CLAIMED);
	return b;
}

/* All pages of `limit`, one after the other; the indexes in the order of coming. */
static uint32_t read_pages(struct store_read first, uint32_t limit, uint32_t *ret)
{
	uint32_t n = 0;
	bool more;

	first.limit = limit;
	do {
		struct store_read r = first;

		assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_OK);
		assert_true(r.batch->n_items <= limit);
		assert_int_equal(r.batch->counts.total, ITEMS);
		for (uint32_t i = 0; i < r.batch->n_items; i++) {
			assert_true(n < ITEMS);
			ret[n++] = r.batch->items[i].index;
		}
		more = r.more;
		if (more) {
			assert_int_equal(r.batch->n_items, limit);
			assert_true(r.next > first.from);
			first.from = r.next;
		}
		batch_unref(r.batch);
	} while (more);
	return n;
}

static void expect_pages(struct store_read first, const uint32_t *want, uint32_t n_want)
{
	uint32_t got[ITEMS];

	for (uint32_t limit = 1; limit <= ITEMS + 1; limit++) {
		assert_int_equal(read_pages(first, limit, got), n_want);
		assert_memory_equal(got, want, n_want * sizeof *want);
	}
}

static void items_come_in_pages_by_index(void **state)
{
	static const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
	struct batch *b = settled_batch();

	(void)state;
	expect_pages((struct store_read){.id = b->id}, all, ITEMS);
	expect_pages((struct store_read){.id = b->id, .from = 4}, all + 4, ITEMS - 4);
	expect_pages((struct store_read){.id = b->id, .from = ITEMS}, all, 0);
	expect_pages((struct store_read){.id = b->id, .from = UINT32_MAX - 1}, all, 0);
	batch_unref(b);
}

static void items_come_in_pages_by_settling(void **state)
{
	struct batch *b = settled_batch();
	struct store_read r = {.id = b->id, .order = STORE_BY_SETTLING};

	(void)state;
	for (r.from = 1; r.from <= N_SETTLED; r.from++)
		expect_pages(r, settling + r.from - 1, N_SETTLED - r.from + 1);
	r.from = 0;
	expect_pages(r, settling, N_SETTLED);
	r.from = N_SETTLED + 1;
	expect_pages(r, settling, 0);
	batch_unref(b);
}

/* A page whose end is the end of what settled goes on when more does. */
static void the_next_page_by_settling_has_what_settled_since(void **state)
{
	struct batch *b = settled_batch();
	struct store_read r = {.id = b->id, .order = STORE_BY_SETTLING, .from = 1, .limit = ITEMS};
	struct store_read next;

	(void)state;
	assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_OK);
	assert_false(r.more);
	batch_unref(r.batch);
	rig_settle(b, UNTOUCHED, CODE_OK, DELIVERED_YES);
	rig_update(s, b, UNTOUCHED);
	next = (struct store_read){.id = b->id, .order = STORE_BY_SETTLING, .from = N_SETTLED + 1, .limit = ITEMS};
	assert_int_equal(rig_do(s, &next.op, STORE_READ), STORE_OK);
	assert_int_equal(next.batch->n_items, 1);
	assert_int_equal(next.batch->items[0].index, UNTOUCHED);
	batch_unref(next.batch);
	batch_unref(b);
}

static void items_are_chosen_by_status(void **state)
{
	static const uint32_t succeeded[] = {4, 5, 7, 9}, failed[] = {0, 1, 2}, running[] = {CLAIMED, WAITS},
			      pending[] = {UNTOUCHED}, unfinished[] = {CLAIMED, WAITS, UNTOUCHED},
			      failed_by_settling[] = {2, 0, 1};
	struct batch *b = settled_batch();
	struct store_read r = {.id = b->id};

	(void)state;
	r.statuses = 1u << STATUS_SUCCEEDED;
	expect_pages(r, succeeded, ARRAY_LEN(succeeded));
	r.statuses = 1u << STATUS_FAILED;
	expect_pages(r, failed, ARRAY_LEN(failed));
	r.statuses = 1u << STATUS_RUNNING;
	expect_pages(r, running, ARRAY_LEN(running));
	r.statuses = 1u << STATUS_PENDING;
	expect_pages(r, pending, ARRAY_LEN(pending));
	r.statuses = 1u << STATUS_PENDING | 1u << STATUS_RUNNING;
	expect_pages(r, unfinished, ARRAY_LEN(unfinished));
	r.statuses = 1u << STATUS_INDETERMINATE;
	expect_pages(r, failed, 0);
	r.statuses = 1u << STATUS_FAILED;
	r.order = STORE_BY_SETTLING;
	expect_pages(r, failed_by_settling, ARRAY_LEN(failed_by_settling));
	batch_unref(b);
}

static void a_batch_that_was_not_durable_is_paged_by_settling(void **state)
{
	struct batch *b = rig_batch(ITEMS);
	static const uint32_t order[] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0};

	(void)state;
	b->asynchronous = b->durable = false;
	for (uint32_t i = 0; i < ITEMS; i++)
		rig_settle(b, order[i], CODE_OK, DELIVERED_YES);
	rig_end(b, 3600000);
	assert_int_equal(rig_finish(s, b), STORE_OK);
	expect_pages((struct store_read){.id = b->id, .order = STORE_BY_SETTLING, .from = 1}, order, ITEMS);
	batch_unref(b);
}

static void a_head_alone_has_no_items(void **state)
{
	struct batch *b = settled_batch();
	struct store_read r = {.id = b->id, .limit = 0};

	(void)state;
	assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_OK);
	assert_int_equal(r.batch->n_items, 0);
	assert_int_equal(r.batch->counts.total, ITEMS);
	assert_int_equal(r.batch->counts.pending, ITEMS - N_SETTLED);
	assert_int_equal(r.batch->store_row, b->store_row);
	batch_unref(r.batch);
	batch_unref(b);
}

static void letters_come_only_where_they_are_asked_for(void **state)
{
	struct batch *b = settled_batch();
	struct store_read r = {.id = b->id, .from = UNTOUCHED, .limit = 1};

	(void)state;
	assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_OK);
	assert_null(r.batch->items[0].to.p);
	assert_null(r.batch->items[0].payload.p);
	batch_unref(r.batch);
	r = (struct store_read){.id = b->id, .from = UNTOUCHED, .limit = 1, .letters = true};
	assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_OK);
	ASSERT_SLICE(r.batch->items[0].to, SLICE("to-8"));
	batch_unref(r.batch);
	batch_unref(b);
}

/* What came back stays as it was, whatever is written after. */
static void a_batch_that_was_read_is_the_askers_alone(void **state)
{
	struct batch *b = settled_batch(), *got = rig_read(s, b->id);

	(void)state;
	rig_settle(b, UNTOUCHED, CODE_OK, DELIVERED_YES);
	rig_update(s, b, UNTOUCHED);
	assert_int_equal(got->items[UNTOUCHED].state, ITEM_PENDING);
	ASSERT_SLICE(got->items[UNTOUCHED].to, SLICE("to-8"));
	got->items[UNTOUCHED].attempts = 9;
	batch_unref(got);
	got = rig_read(s, b->id);
	assert_int_equal(got->items[UNTOUCHED].attempts, 1);
	batch_unref(got);
	batch_unref(b);
}

static unsigned answers_made;

static void make_answer(struct store_read *r)
{
	answers_made++;
	assert_false(loop_is_current(rig_loop));
	batch_unref(r->batch);
	r->batch = NULL;
}

static void make_list(struct store_list *l)
{
	answers_made += l->n;
}

static void an_answer_is_made_in_the_stores_thread(void **state)
{
	struct batch *b = settled_batch();
	struct store_read r = {.id = b->id, .limit = ITEMS, .in_thread = make_answer};
	struct store_read none = {.id = batch_id_new(&rig_rng, 1, 0), .limit = ITEMS, .in_thread = make_answer};
	static struct store_list l;

	(void)state;
	answers_made = 0;
	assert_int_equal(rig_do(s, &r.op, STORE_READ), STORE_OK);
	assert_null(r.batch);
	assert_int_equal(answers_made, 1);
	assert_int_equal(rig_do(s, &none.op, STORE_READ), STORE_NOT_FOUND);
	assert_null(none.batch);
	assert_int_equal(answers_made, 1);
	l = (struct store_list){.state = -1, .outcome = -1, .limit = 1, .in_thread = make_list};
	assert_int_equal(rig_do(s, &l.op, STORE_LIST), STORE_OK);
	assert_int_equal(answers_made, 2);
	batch_unref(l.heads[0]);
	batch_unref(b);
}

/* Lists. */

enum { BATCHES = 7 };

static struct batch *v[BATCHES];         /* the oldest first */

/* 0, 1: succeeded; 2: failed, with a key; 3: running, with the same key elsewhere;
 * 4, 5: queued; 6: succeeded, not durable. */
static void fill_list(void)
{
	for (unsigned i = 0; i < BATCHES; i++) {
		v[i] = rig_batch(1);
		v[i]->id = batch_id_new(&rig_rng, v[i]->created_unix_ms + i, i);
		if (i == 2 || i == 3)
			rig_key(v[i], i == 2 ? "here" : "there", "k", 1);
		v[i]->durable = i != 6;
	}
	/* Shards ask in no order. */
	for (unsigned n = 0; n < BATCHES; n++) {
		unsigned i = n * 3 % BATCHES;

		if (i < 2 || i == 6)
			rig_live(s, v[i]);
		else
			assert_int_equal(rig_accept(s, v[i]), STORE_OK);
	}
	rig_settle(v[2], 0, CODE_REJECTED, DELIVERED_NO);
	rig_update(s, v[2], 0);
	rig_end(v[2], 3600000);
	assert_int_equal(rig_finish(s, v[2]), STORE_OK);
	rig_claim(s, v[3], 0);
	rig_attempt(v[3], 0, CODE_UNAVAILABLE, DELIVERED_NO);
	item_set_state(&v[3]->items[0], ITEM_WAITING);
	rig_update(s, v[3], 0);
}

static void empty_list(void)
{
	for (unsigned i = 0; i < BATCHES; i++)
		batch_unref(v[i]);
}

/* Page by page; `want` ends with -1. */
static void expect_list(struct store_list first, const int *want)
{
	for (uint32_t limit = 1; limit <= BATCHES + 1; limit++) {
		static struct store_list l;
		unsigned n = 0;

		first.before = (struct batch_id){0};
		do {
			l = first;
			l.limit = limit;
			assert_int_equal(rig_do(s, &l.op, STORE_LIST), STORE_OK);
			assert_true(l.n <= limit);
			for (uint32_t i = 0; i < l.n; i++, n++) {
				assert_true(want[n] >= 0);
				assert_true(batch_id_eq(l.heads[i]->id, v[want[n]]->id));
				assert_int_equal(l.heads[i]->counts.total, 1);
				assert_int_equal(l.heads[i]->n_items, 0);
				first.before = l.heads[i]->id;
				batch_unref(l.heads[i]);
			}
		} while (l.more);
		assert_int_equal(want[n], -1);
	}
}

#define LIST(...) (const int[]){__VA_ARGS__ __VA_OPT__(,) -1}

static void batches_are_listed_newest_first(void **state)
{
	struct store_list all = {.state = -1, .outcome = -1};

	(void)state;
	expect_list(all, LIST());
	fill_list();
	expect_list(all, LIST(6, 5, 4, 3, 2, 1, 0));
	empty_list();
}

static void a_list_is_filtered(void **state)
{
	const struct store_list any = {.state = -1, .outcome = -1};
	struct store_list l;

	(void)state;
	fill_list();
	l = any, l.state = BATCH_DONE;
	expect_list(l, LIST(6, 2, 1, 0));
	l = any, l.state = BATCH_QUEUED;
	expect_list(l, LIST(5, 4));
	l = any, l.state = BATCH_RUNNING;
	expect_list(l, LIST(3));
	l = any, l.outcome = BATCH_OUTCOME_SUCCEEDED;
	expect_list(l, LIST(6, 1, 0));
	l = any, l.outcome = BATCH_OUTCOME_FAILED, l.state = BATCH_DONE;
	expect_list(l, LIST(2));
	l = any, l.outcome = BATCH_OUTCOME_FAILED, l.state = BATCH_RUNNING;
	expect_list(l, LIST());
	l = any, l.key = SLICE("k");
	expect_list(l, LIST(3, 2));
	l = any, l.key = SLICE("k"), l.state = BATCH_DONE;
	expect_list(l, LIST(2));
	l = any, l.key = SLICE("kk");
	expect_list(l, LIST());
	empty_list();
}

/* The batch that a cursor names may be gone by the time it is used. */
static void a_cursor_outlives_its_batch(void **state)
{
	static struct store_list l;

	(void)state;
	fill_list();
	assert_int_equal(rig_delete(s, v[2]->id), STORE_OK);
	l = (struct store_list){.state = -1, .outcome = -1, .before = v[2]->id, .limit = STORE_LIST_MAX};
	assert_int_equal(rig_do(s, &l.op, STORE_LIST), STORE_OK);
	assert_int_equal(l.n, 2);
	assert_true(batch_id_eq(l.heads[0]->id, v[1]->id));
	assert_true(batch_id_eq(l.heads[1]->id, v[0]->id));
	assert_false(l.more);
	batch_unref(l.heads[0]);
	batch_unref(l.heads[1]);
	empty_list();
}

static const struct rig_case cases[] = {
	CASE(items_come_in_pages_by_index),
	CASE(items_come_in_pages_by_settling),
	CASE(the_next_page_by_settling_has_what_settled_since),
	CASE(items_are_chosen_by_status),
	CASE(a_batch_that_was_not_durable_is_paged_by_settling),
	CASE(a_head_alone_has_no_items),
	CASE(letters_come_only_where_they_are_asked_for),
	CASE(a_batch_that_was_read_is_the_askers_alone),
	CASE(an_answer_is_made_in_the_stores_thread),
	CASE(batches_are_listed_newest_first),
	CASE(a_list_is_filtered),
	CASE(a_cursor_outlives_its_batch),
};

int main(void)
{
	return run_cases("store_reads", cases, ARRAY_LEN(cases));
}
