#include "sqlite-kit.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "store/sqlite-i.h"

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


static void a_batch_is_read_back_as_it_was_accepted(void **state)
{
	struct batch *b = kit_batch(&kit, 5, true);
	struct store_read r;

	(void)state;
	kit_open(&kit);
	b->items[2].ttl_ms = 500;
	b->items[3].dedupe_key = SLICE("once");
	assert_int_equal(kit_accept(&kit, b), 0);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_batch_is_read_back_as_it_was_accepted, setup, teardown),
	};

	return cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
}
