/*
 * Every allocation of a request fails once: -ENOMEM, nothing leaks, and the
 * body stays its caller's. The program's own allocations are wrapped at link
 * time; jansson is given the same functions.
 */
#include "wire-kit.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
void *__wrap_xcalloc(size_t n, size_t size);

static long countdown;                   /* 0: nothing fails; 1: the next does */
static long live;

static bool refused(void)
{
	return countdown > 0 && --countdown == 0;
}

void *__wrap_malloc(size_t n)
{
	void *p = refused() ? NULL : __real_malloc(n);

	live += p != NULL;
	return p;
}

void *__wrap_calloc(size_t n, size_t size)
{
	void *p = refused() ? NULL : __real_calloc(n, size);

	live += p != NULL;
	return p;
}

void *__wrap_realloc(void *p, size_t n)
{
	void *q = refused() ? NULL : __real_realloc(p, n);

	live += p == NULL && q != NULL;
	return q;
}

void __wrap_free(void *p)
{
	live -= p != NULL;
	__real_free(p);
}

/* Small fixed sizes: by design these end the program, so they do not fail here. */
void *__wrap_xcalloc(size_t n, size_t size)
{
	void *p = __real_calloc(n, size);

	live++;
	return p;
}

static void assert_survives(struct slice text, int want)
{
	long before = live;
	int rc = -ENOMEM;

	for (long nth = 1; rc == -ENOMEM; nth++) {
		struct buf copy = {0}, error = {0};
		enum problem kind = PROBLEM_MAX;
		struct batch *b = NULL;
		struct blob *body;
		bool failed;

		buf_add_slice(&copy, text);
		body = blob_from_buf(&copy);
		assert_non_null(body);
		countdown = nth;
		rc = wire_read_batch(body, &kit_rules, &b, &kind, &error);
		failed = countdown == 0;
		countdown = 0;
		assert_int_equal(rc, failed ? -ENOMEM : want);
		if (rc != 0) {
			assert_null(b);
			assert_int_equal(body->refs, 1);
			assert_memory_equal(body->p, text.p, text.n);
			blob_unref(body);
		}
		batch_unref(b);
		buf_free(&error);
		assert_int_equal(live, before);
	}
}

/* Items, escapes, depth, and objects large enough for an index. */
static void add_everything(struct buf *text, const char *first)
{
	buf_printf(text, "{%s,\"service\":\"p\\u0075sh\",\"metadata\":{\"a\\n\":\"b\"},\"payload\":", first);
	for (int i = 0; i < 40; i++)
		buf_add_str(text, "[");
	for (int i = 0; i < 40; i++)
		buf_add_str(text, "]");
	buf_add_str(text, ",\"items\":[");
	for (int i = 0; i < 40; i++)
		buf_printf(text, "%s{\"id\":\"%d\",\"to\":\"\\u0041\"}", i > 0 ? "," : "", i);
	buf_add_str(text, ",{\"id\":\"x\",\"to\":\"y\",\"payload\":{");
	for (int i = 0; i < 150; i++)
		buf_printf(text, "%s\"k%d\":\"v\"", i > 0 ? "," : "", i);
	buf_add_str(text, "}}");
}

static void reading_survives_the_want_of_memory(void **state)
{
	struct buf text = {0};

	(void)state;
	add_everything(&text, "\"contract\":\"best_effort\"");
	buf_add_str(&text, ",3,{}]}");
	assert_survives(buf_slice(&text), 0);
	buf_free(&text);
	add_everything(&text, "\"contract\":\"all_or_nothing\"");
	buf_add_str(&text, ",3,{\"id\":\"1\"}],\"\xc3\xa9\":{\"a\":1,\"a\":2}}");
	assert_survives(buf_slice(&text), -EINVAL);
	buf_free(&text);
	add_everything(&text, "\"contract\":\"all_or_nothing\"");
	assert_survives(buf_slice(&text), -EINVAL);
	buf_free(&text);
}

static void writing_survives_the_want_of_memory(void **state)
{
	struct kit_read k = kit_read(&kit_rules, SLICE("{\"contract\":\"best_effort\",\"items\":[1,2,{}]}"));
	bool done = false;

	(void)state;
	for (long nth = 1; !done; nth++) {
		struct buf out = {0};

		countdown = nth;
		wire_batch(&out, k.batch, true);
		done = countdown > 0;
		countdown = 0;
		assert_int_equal(out.failed, !done);
		buf_free(&out);
	}
	kit_done(&k);
}

/* One try of a retry: read, choose, copy. */
static int try_retry(const struct batch *first, struct slice body)
{
	enum problem kind = PROBLEM_MAX;
	struct wire_retry *w = NULL;
	struct buf error = {0};
	struct batch *b = NULL;
	uint32_t chosen[64], n = 0;
	int rc = wire_read_retry(body, 8, &w, &kind, &error);

	if (rc == 0)
		rc = wire_retry_choose(w, first, chosen, &n, &kind, &error);
	if (rc == 0) {
		b = batch_again(first, chosen, n);
		rc = b == NULL ? -ENOMEM : 0;
	}
	wire_retry_free(w);
	batch_unref(b);
	buf_free(&error);
	return rc;
}

static void a_retry_survives_the_want_of_memory(void **state)
{
	static const char *const bodies[] = {"", "{\"ids\":[\"1\",\"\\u0032\",\"3\"]}", "{\"ids\":[\"1\",\"0\",\"nobody\"]}"};
	static const int wants[] = {0, 0, -EINVAL};
	struct buf text = {0};
	struct kit_read k;

	(void)state;
	add_everything(&text, "\"retry\":{}");
	buf_add_str(&text, "]}");
	k = kit_read(&kit_rules, buf_slice(&text));
	assert_int_equal(k.rc, 0);
	for (uint32_t i = 0; i < k.batch->n_items; i++)
		item_settle(&k.batch->items[i], CODE_NOT_ATTEMPTED, STOP_CANCELLED, 0);
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		long before = live;
		bool failed = true;

		for (long nth = 1; failed; nth++) {
			int rc;

			countdown = nth;
			rc = try_retry(k.batch, slice_str(bodies[i]));
			failed = countdown == 0;
			countdown = 0;
			/* That a buffer is not made smaller harms nobody. */
			if (rc != -ENOMEM || !failed)
				assert_int_equal(rc, wants[i]);
			assert_int_equal(live, before);
		}
	}
	kit_done(&k);
	buf_free(&text);
}

static void a_message_id_survives_the_want_of_memory(void **state)
{
	long before = live;
	bool found = false;

	(void)state;
	for (long nth = 1; !found; nth++) {
		struct buf out = {0};
		bool failed;

		countdown = nth;
		found = wire_message_id(SLICE("{\"id\":\"\\u0041\",\"x\":[[]]}"), &out);
		failed = countdown == 0;
		countdown = 0;
		assert_int_equal(found, !failed);
		buf_free(&out);
		assert_int_equal(live, before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reading_survives_the_want_of_memory),
		cmocka_unit_test(writing_survives_the_want_of_memory),
		cmocka_unit_test(a_retry_survives_the_want_of_memory),
		cmocka_unit_test(a_message_id_survives_the_want_of_memory),
	};

	json_set_alloc_funcs(malloc, free);
	return cmocka_run_group_tests_name("wire_memory", tests, NULL, NULL);
}
