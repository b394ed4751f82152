/* What stands in the database, and comes back from it. */
#include "sqlite-kit.h"

static struct kit kit;

static int setup(void **state)
{
	(void)state;
	kit_init(&kit);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_done(&kit);
	return 0;
}


static unsigned times_in(const struct buf *text, const char *what)
{
	const char *at = text->p, *end = text->p + text->n;
	unsigned n = 0;

	while (at != NULL && (at = memmem(at, (size_t)(end - at), what, strlen(what))) != NULL) {
		n++;
		at++;
	}
	return n;
}

/* How often this stands in the database and its log. */
static unsigned times_on_disk(const char *what)
{
	struct buf db, wal;
	unsigned n;

	db = kit_bytes(&kit, "settled.db");
	wal = kit_bytes(&kit, "settled.db-wal");
	n = times_in(&db, what) + times_in(&wal, what);
	buf_free(&db);
	buf_free(&wal);
	return n;
}

static void a_batch_is_read_back_as_it_was_accepted(void **state)
{
	struct batch *b = kit_batch(&kit, 5, true);
	struct store_read r;

	(void)state;
	kit_open(&kit);
	b->items[2].ttl_ms = 500;
	b->items[3].dedupe_key = SLICE("once");
	assert_int_equal(kit_accept(&kit, b), 0);
	assert_string_equal(b->durability, "disk");
	kit_open(&kit);
	r = kit_read(&kit, b->id, true);
	assert_int_equal(r.op.answer, STORE_OK);
	assert_true(batch_id_eq(r.batch->id, b->id));
	assert_int_equal(r.batch->state, BATCH_QUEUED);
	assert_string_equal(r.batch->durability, "disk");
	assert_int_equal(r.batch->n_items, 5);
	assert_int_equal(r.batch->counts.pending, 5);
	assert_int_equal(r.batch->policy.deadline_ms, 77000);
	assert_int_equal(r.batch->policy.retry.cap_ms, 99);
	assert_true(r.batch->asynchronous && r.batch->durable);
	assert_true(slice_eq(r.batch->metadata, b->metadata));
	for (uint32_t i = 0; i < 5; i++) {
		const struct item *it = &r.batch->items[i];

		assert_int_equal(it->index, i);
		assert_true(slice_eq(it->id, b->items[i].id));
		assert_true(slice_eq(it->to, b->items[i].to));
		assert_true(slice_eq(it->payload, b->items[i].payload));
		assert_int_equal(it->payload.p == r.batch->payload.p, i % 2 == 0);
		assert_int_equal(it->service, i % 2);
		assert_int_equal(it->ttl_ms, i == 2 ? 500 : HEAP_NONE);
		assert_int_equal(it->dedupe_key.n, i == 3 ? 4 : 0);
		assert_int_equal(it->state, ITEM_PENDING);
		assert_false(it->in_flight);
	}
	batch_unref(r.batch);
	batch_unref(b);
}

static void what_became_of_an_item_is_read_back(void **state)
{
	struct batch *b = kit_batch(&kit, 4, true);
	struct store_read r;

	(void)state;
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(kit_claim(&kit, b, i), 0);
	kit_settle(b, 1, CODE_RECIPIENT_GONE);
	assert_int_equal(kit_update(&kit, b, 1), 0);
	kit_attempt(b, 0, CODE_RATE_LIMITED);
	item_set_state(&b->items[0], ITEM_WAITING);
	b->items[0].due_unix_ms = 1234;
	assert_int_equal(kit_update(&kit, b, 0), 0);
	kit_open(&kit);
	r = kit_read(&kit, b->id, true);
	assert_int_equal(r.batch->state, BATCH_RUNNING);
	assert_int_equal(r.batch->counts.pending, 3);
	assert_int_equal(r.batch->counts.failed, 1);
	assert_int_equal(r.batch->items[0].state, ITEM_WAITING);
	assert_int_equal(r.batch->items[0].due_unix_ms, 1234);
	assert_int_equal(r.batch->items[1].state, ITEM_FINAL);
	assert_int_equal(r.batch->items[1].status, STATUS_FAILED);
	assert_int_equal(r.batch->items[1].http_status, 410);
	assert_string_equal(r.batch->items[1].detail, "gone for good");
	assert_int_equal(r.batch->items[1].started_us, b->created_unix_ms * 1000 + 1000);
	assert_int_equal(r.batch->items[1].latency_ms, 2);
	assert_int_equal(r.batch->items[1].records->duration_us, 2000);
	assert_int_equal(r.batch->items[1].records->code, CODE_RECIPIENT_GONE);
	assert_null(r.batch->items[1].records->next);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(r.batch->items[i].in_flight, i == 2);
	batch_unref(r.batch);
	batch_unref(b);
}

static void a_payload_stands_on_disk_once_until_it_was_delivered(void **state)
{
	struct batch *b = kit_batch(&kit, 4, true);

	(void)state;
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	kit_close(&kit);
	assert_int_equal(times_on_disk("{\"shared\":true}"), 1);
	assert_int_equal(times_on_disk("{\"own\":1}"), 1);
	kit_open(&kit);
	kit_settle(b, 1, CODE_OK);
	assert_int_equal(kit_update(&kit, b, 1), 0);
	kit_settle(b, 3, CODE_RECIPIENT_GONE);
	assert_int_equal(kit_update(&kit, b, 3), 0);
	kit_settle(b, 0, CODE_OK);
	assert_int_equal(kit_update(&kit, b, 0), 0);
	kit_settle(b, 2, CODE_OK);
	assert_int_equal(kit_update(&kit, b, 2), 0);
	assert_int_equal(kit_finish(&kit, b), 0);
	kit_close(&kit);
	assert_int_equal(times_on_disk("{\"own\":1}"), 0);
	assert_int_equal(times_on_disk("{\"own\":3}"), 1);
	assert_int_equal(kit_ask(&kit, "SELECT count(*) FROM letter"), 2);
	batch_unref(b);
}

static void what_all_items_share_goes_when_all_were_delivered(void **state)
{
	struct batch *b = kit_batch(&kit, 3, true);

	(void)state;
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	for (uint32_t i = 0; i < 3; i++) {
		kit_settle(b, i, CODE_OK);
		assert_int_equal(kit_update(&kit, b, i), 0);
	}
	assert_int_equal(kit_finish(&kit, b), 0);
	kit_close(&kit);
	assert_int_equal(kit_ask(&kit, "SELECT count(*) FROM letter"), 0);
	assert_int_equal(times_on_disk("{\"shared\":true}"), 0);
	batch_unref(b);
}

static void a_note_counts_as_in_flight_until_its_end_is_written(void **state)
{
	struct batch *b = kit_batch(&kit, 4, false);
	struct store_read r;

	(void)state;
	kit_open(&kit);
	item_settle(&b->items[2], CODE_INVALID_ITEM, STOP_NOT_RETRYABLE, 5000000);
	assert_int_equal(kit_accept(&kit, b), 0);
	assert_int_equal(kit_ask(&kit, "SELECT count(*) FROM letter"), 0);
	kit_open(&kit);
	assert_int_equal(kit_measure(&kit).unfinished_items, 3);
	r = kit_read(&kit, b->id, true);
	assert_int_equal(r.batch->counts.pending, 3);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(r.batch->items[i].in_flight, i != 2);
	assert_null(r.batch->items[0].to.p);
	batch_unref(r.batch);
	kit_settle(b, 1, CODE_OK);
	kit_settle(b, 0, CODE_RECIPIENT_GONE);
	kit_settle(b, 3, CODE_RECIPIENT_GONE);
	assert_int_equal(kit_finish(&kit, b), 0);
	r = kit_read(&kit, b->id, true);
	assert_int_equal(r.batch->state, BATCH_DONE);
	assert_int_equal(r.batch->n_items, 4);
	assert_int_equal(r.batch->finished_us - r.batch->accepted_us, 1000000);
	assert_null(r.batch->items[1].to.p);
	assert_true(slice_eq(r.batch->items[0].payload, b->payload));
	assert_true(slice_eq(r.batch->items[3].payload, SLICE("{\"own\":3}")));
	assert_int_equal(kit_measure(&kit).unfinished_items, 0);
	assert_int_equal(kit_ask(&kit, "SELECT group_concat(settled & 15, '') FROM item ORDER BY pos"), 3214);
	batch_unref(r.batch);
	batch_unref(b);
}

/* It was noted by the process before, and only what was unfinished is in memory. */
static void an_interrupted_note_keeps_what_had_settled(void **state)
{
	struct batch *b = kit_batch(&kit, 3, false);
	struct store_read r = {.op.what = STORE_READ, .limit = 9,
			       .statuses = 1 << STATUS_PENDING | 1 << STATUS_RUNNING};

	(void)state;
	kit_open(&kit);
	item_settle(&b->items[0], CODE_INVALID_ITEM, STOP_NOT_RETRYABLE, 5000000);
	assert_int_equal(kit_accept(&kit, b), 0);
	kit_open(&kit);
	r.id = b->id;
	assert_int_equal(kit.b->ops->read(kit.b, &r.op), 0);
	assert_int_equal(r.batch->n_items, 2);
	kit_settle(r.batch, 0, CODE_INTERRUPTED);
	kit_settle(r.batch, 1, CODE_INTERRUPTED);
	assert_int_equal(kit_finish(&kit, r.batch), 0);
	batch_unref(r.batch);
	r = kit_read(&kit, b->id, false);
	assert_int_equal(r.batch->state, BATCH_DONE);
	assert_int_equal(r.batch->n_items, 3);
	assert_int_equal(r.batch->items[0].code, CODE_INVALID_ITEM);
	assert_int_equal(r.batch->items[2].code, CODE_INTERRUPTED);
	assert_int_equal(kit_ask(&kit, "SELECT group_concat(settled & 15, '') FROM item ORDER BY pos"), 123);
	batch_unref(r.batch);
	batch_unref(b);
}

static void a_row_is_never_given_twice(void **state)
{
	struct batch *a = kit_batch(&kit, 1, true), *b = kit_batch(&kit, 1, true), *c = kit_batch(&kit, 1, true);
	struct store_accept accept = {.op.what = STORE_ACCEPT, .batch = a};
	struct store_delete forget = {.op.what = STORE_DELETE};

	(void)state;
	kit_open(&kit);
	assert_int_equal(kit.b->ops->begin(kit.b, true), 0);
	assert_int_equal(kit.b->ops->write(kit.b, &accept.op), 0);
	kit.b->ops->rollback(kit.b);
	assert_int_equal(kit_accept(&kit, b), 0);
	assert_true(b->store_row > a->store_row);
	kit_settle(b, 0, CODE_RECIPIENT_GONE);
	assert_int_equal(kit_update(&kit, b, 0), 0);
	assert_int_equal(kit_finish(&kit, b), 0);
	forget.id = b->id;
	assert_int_equal(kit_write(&kit, &forget.op, true), 0);
	assert_int_equal(forget.op.answer, STORE_OK);
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, c), 0);
	assert_true(c->store_row > b->store_row);
	batch_unref(a);
	batch_unref(b);
	batch_unref(c);
}

static void a_service_that_was_renamed_is_nobodys(void **state)
{
	static const char *const renamed[] = {"fax", "mail"}, *const moved[] = {"mail", "push"};
	struct batch *b = kit_batch(&kit, 2, true);
	struct store_read r;

	(void)state;
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	kit.cfg.services = renamed;
	kit_open(&kit);
	r = kit_read(&kit, b->id, false);
	assert_int_equal(r.batch->items[0].service, ITEM_NO_SERVICE);
	assert_int_equal(r.batch->items[1].service, 1);
	batch_unref(r.batch);
	kit.cfg.services = moved;
	kit_open(&kit);
	r = kit_read(&kit, b->id, false);
	assert_int_equal(r.batch->items[0].service, 1);
	assert_int_equal(r.batch->items[1].service, 0);
	batch_unref(r.batch);
	batch_unref(b);
}

static void one_round_of_work(unsigned n_batches)
{
	bool more = true;

	for (unsigned n = 0; n < n_batches; n++) {
		struct batch *b = kit_batch(&kit, 50, true);

		assert_int_equal(kit_accept(&kit, b), 0);
		assert_int_equal(kit.b->ops->begin(kit.b, false), 0);
		for (uint32_t i = 0; i < 50; i++) {
			struct store_update u;

			kit_settle(b, i, i % 3 == 0 ? CODE_RECIPIENT_GONE : CODE_OK);
			u = kit_update_of(b, i);
			assert_int_equal(kit.b->ops->write(kit.b, &u.op), 0);
		}
		assert_int_equal(kit.b->ops->commit(kit.b), 0);
		assert_int_equal(kit_finish(&kit, b), 0);
		batch_unref(b);
	}
	while (more)
		assert_int_equal(kit.b->ops->expire(kit.b, kit.now + 100000, &more), 0);
}

static void the_files_size_levels_off(void **state)
{
	uint64_t after[3];

	(void)state;
	kit_open(&kit);
	for (unsigned i = 0; i < ARRAY_LEN(after); i++) {
		for (unsigned round = 0; round < 4; round++)
			one_round_of_work(60);
		after[i] = kit_measure(&kit).file_bytes;
	}
	assert_true(after[2] <= after[1] + after[1] / 10);
	assert_int_equal(kit_ask(&kit, "SELECT (SELECT count(*) FROM item) + (SELECT count(*) FROM letter) + "
			     "(SELECT count(*) FROM batch) + (SELECT count(*) FROM dead)"), 0);
}

/* A step is small; who asks meanwhile finds nothing of what is half forgotten. */
static void a_large_batch_is_forgotten_in_steps_and_gone_at_once(void **state)
{
	struct batch *b = kit_batch(&kit, 2000, true);
	struct store_read r;
	unsigned steps = 0;
	int64_t before = 0, now;
	bool more = true;

	(void)state;
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	for (uint32_t i = 0; i < b->n_items; i++)
		item_settle(&b->items[i], CODE_NOT_ATTEMPTED, STOP_CANCELLED, 1);
	assert_int_equal(kit_finish(&kit, b), 0);
	assert_int_equal(kit.b->ops->expire(kit.b, b->expires_unix_ms - 1, &more), 0);
	assert_false(more);
	before = kit_ask(&kit, "SELECT count(*) FROM item") + kit_ask(&kit, "SELECT count(*) FROM letter");
	for (more = true; more; steps++) {
		assert_int_equal(kit.b->ops->expire(kit.b, b->expires_unix_ms, &more), 0);
		r = kit_read(&kit, b->id, false);
		assert_int_equal(r.op.answer, STORE_NOT_FOUND);
		now = kit_ask(&kit, "SELECT count(*) FROM item") + kit_ask(&kit, "SELECT count(*) FROM letter");
		assert_true(before - now <= 500);
		before = now;
	}
	assert_int_equal(before, 0);
	assert_true(steps >= 8);
	batch_unref(b);
}

/* Where a page is bad that the check had no time for, the read says so. */
static void a_number_that_means_nothing_fails_the_read(void **state)
{
	struct batch *b = kit_batch(&kit, 2, true);
	struct store_read r;

	(void)state;
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	kit_tell(&kit, "UPDATE item SET code = 200 WHERE id = 'item-1'");
	r = kit_read(&kit, b->id, false);
	assert_int_equal(r.op.answer, STORE_UNAVAILABLE);
	assert_null(r.batch);
	kit_tell(&kit, "UPDATE item SET code = 0; UPDATE batch SET state = 9");
	r = kit_read(&kit, b->id, false);
	assert_int_equal(r.op.answer, STORE_UNAVAILABLE);
	batch_unref(b);
}

static void collect(void *arg, const struct store_unfinished *u)
{
	struct store_unfinished **at = arg;

	*(*at)++ = *u;
}

static void the_unfinished_come_back_in_order_for_recovery(void **state)
{
	struct batch *b[3];
	struct store_unfinished found[4], *end = found;
	struct store_park park = {.op.what = STORE_PARK, .due_unix_ms = 4242};

	(void)state;
	kit_open(&kit);
	for (unsigned i = 0; i < 3; i++) {
		b[i] = kit_batch(&kit, 2, i != 2);
		assert_int_equal(kit_accept(&kit, b[i]), 0);
	}
	park.row = b[1]->store_row;
	assert_int_equal(kit_write(&kit, &park.op, false), 0);
	kit_open(&kit);
	assert_int_equal(kit.b->ops->each_unfinished(kit.b, collect, &end), 0);
	assert_int_equal(end - found, 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(batch_id_eq(found[i].id, b[i]->id));
		assert_int_equal(found[i].pending, 2);
		assert_int_equal(found[i].due_unix_ms, i == 1 ? 4242 : 0);
		assert_int_equal(found[i].asynchronous, i != 2);
		assert_int_equal(found[i].service, 0);
		assert_true(found[i].bytes > 2 * sizeof(struct item));
		batch_unref(b[i]);
	}
	assert_int_equal(kit_measure(&kit).oldest_unfinished_unix_ms, kit.now - 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_batch_is_read_back_as_it_was_accepted, setup, teardown),
		cmocka_unit_test_setup_teardown(what_became_of_an_item_is_read_back, setup, teardown),
		cmocka_unit_test_setup_teardown(a_payload_stands_on_disk_once_until_it_was_delivered, setup, teardown),
		cmocka_unit_test_setup_teardown(what_all_items_share_goes_when_all_were_delivered, setup, teardown),
		cmocka_unit_test_setup_teardown(a_note_counts_as_in_flight_until_its_end_is_written, setup, teardown),
		cmocka_unit_test_setup_teardown(an_interrupted_note_keeps_what_had_settled, setup, teardown),
		cmocka_unit_test_setup_teardown(a_row_is_never_given_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(a_service_that_was_renamed_is_nobodys, setup, teardown),
		cmocka_unit_test_setup_teardown(the_files_size_levels_off, setup, teardown),
		cmocka_unit_test_setup_teardown(a_large_batch_is_forgotten_in_steps_and_gone_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(a_number_that_means_nothing_fails_the_read, setup, teardown),
		cmocka_unit_test_setup_teardown(the_unfinished_come_back_in_order_for_recovery, setup, teardown),
	};

	return cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
}
