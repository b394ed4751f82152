#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/store.h"

static struct loop *loop;
static struct rng rng;
static unsigned answered;

static struct batch_id put(struct store *s, size_t bytes, int64_t expires)
{
	struct buf text = {0};
	struct batch_id id = batch_id_new(&rng, 1700000000000, 0);

	for (size_t i = 0; i < bytes; i++)
		buf_add_char(&text, 'x');
	store_put(s, &(struct store_record){.id = id, .outcome = "partial",
					    .document = blob_from_buf(&text), .expires_unix_ms = expires});
	return id;
}

static void on_done(struct store_get *g)
{
	(void)g;
	answered++;
	loop_stop(loop);
}

/* Ask, and return the size of the document; 0: not found. */
static size_t get(struct store *s, struct batch_id id, int64_t now)
{
	struct store_get g = {.reply_to = loop, .id = id, .now_unix_ms = now, .on_done = on_done};
	unsigned before = answered;
	size_t n = 0;

	loop = g.reply_to = loop_new();
	store_get(s, &g);
	assert_int_equal(answered, before);
	loop_run(loop);
	assert_int_equal(answered, before + 1);
	if (g.found) {
		n = g.record.document->n;
		assert_string_equal(g.record.outcome, "partial");
		blob_unref(g.record.document);
	}
	loop_free(loop);
	return n;
}

static void a_record_is_found_until_it_expires(void **state)
{
	struct store *s = store_new_memory(1000);
	struct batch_id a = put(s, 10, 100), b = put(s, 20, 200);

	(void)state;
	assert_int_equal(get(s, a, 99), 10);
	assert_int_equal(get(s, b, 99), 20);
	assert_int_equal(get(s, batch_id_new(&rng, 1, 0), 99), 0);
	assert_int_equal(get(s, a, 100), 0);
	assert_int_equal(get(s, b, 100), 20);
	store_free(s);
}

static void the_oldest_go_first_when_it_is_full(void **state)
{
	struct store *s = store_new_memory(100);
	struct batch_id a = put(s, 40, 1000), b = put(s, 40, 1000), c = put(s, 40, 1000);

	(void)state;
	assert_int_equal(get(s, a, 0), 0);
	assert_int_equal(get(s, b, 0), 40);
	assert_int_equal(get(s, c, 0), 40);
	a = put(s, 500, 1000);
	assert_int_equal(get(s, a, 0), 500);
	assert_int_equal(get(s, c, 0), 0);
	store_free(s);
	store_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_is_found_until_it_expires),
		cmocka_unit_test(the_oldest_go_first_when_it_is_full),
	};

	rng_seed(&rng, 5);
	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
