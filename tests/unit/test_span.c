/* Spans: the ring, their text, and which traces are recorded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "obs/span.h"

static unsigned rang;

static void ring_bell(void *arg)
{
	rang += *(unsigned *)arg;
}

static unsigned one = 1;
static const char *const resource[] = {"service.name", "x", NULL};

static struct span *put(struct spans *ring, uint64_t id)
{
	struct span *s = spans_add(ring);

	if (s == NULL)
		return NULL;
	memset(s->trace, 0xab, sizeof s->trace);
	s->id = id;
	s->parent = 0;
	s->name = "POST";
	s->kind = SPAN_CLIENT;
	s->start_us = 1;
	s->end_us = 20;
	return s;
}

static char *taken(struct spans *ring, unsigned most, unsigned want)
{
	struct buf out = {0};

	assert_int_equal(spans_take(ring, most, resource, &out), want);
	buf_add_char(&out, '\0');
	assert_false(out.failed);
	return out.p;
}

static void a_span_is_text_as_the_protocol_has_it(void **state)
{
	struct spans *ring = spans_new(2, 2, ring_bell, &one);
	struct span *s = put(ring, 0x1f);
	char *got;

	(void)state;
	s->parent = UINT64_C(0xfedcba9876543210);
	s->failed = true;
	span_text(s, "a", SLICE("q\"\\\n\xff"));
	span_text(s, "empty", SLICE(""));
	span_number(s, "b", -7);
	got = taken(ring, 5, 1);
	assert_string_equal(got,
		"{\"resourceSpans\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"x\"}}]},"
		"\"scopeSpans\":[{\"scope\":{\"name\":\"settled\"},\"spans\":[{\"traceId\":\"abababababababababababababababab\","
		"\"spanId\":\"000000000000001f\",\"parentSpanId\":\"fedcba9876543210\",\"name\":\"POST\",\"kind\":3,"
		"\"startTimeUnixNano\":\"1000\",\"endTimeUnixNano\":\"20000\",\"attributes\":["
		"{\"key\":\"a\",\"value\":{\"stringValue\":\"q\\\"\\\\\\u000a\\u00ff\"}},"
		"{\"key\":\"b\",\"value\":{\"intValue\":\"-7\"}}],\"status\":{\"code\":2}}]}]}]}");
	free(got);
	spans_free(ring);
}

static void a_full_ring_takes_no_more_and_keeps_its_order(void **state)
{
	struct spans *ring = spans_new(3, 2, ring_bell, &one);
	char *got;

	(void)state;
	rang = 0;
	for (uint64_t id = 1; id <= 3; id++)
		assert_non_null(put(ring, id));
	assert_null(put(ring, 4));
	assert_int_equal(rang, 1);
	got = taken(ring, 2, 2);
	assert_non_null(strstr(got, "\"spanId\":\"0000000000000001\""));
	assert_null(strstr(got, "\"spanId\":\"0000000000000003\""));
	free(got);
	assert_non_null(put(ring, 5));
	assert_int_equal(rang, 2);
	assert_non_null(put(ring, 6));
	assert_int_equal(spans_count(ring), 3);
	got = taken(ring, 9, 3);
	assert_true(strstr(got, "0000000000000003") < strstr(got, "0000000000000005"));
	assert_true(strstr(got, "0000000000000005") < strstr(got, "0000000000000006"));
	assert_null(strstr(got, "parentSpanId"));
	free(got);
	assert_non_null(put(ring, 7));
	assert_int_equal(spans_clear(ring), 1);
	assert_int_equal(spans_count(ring), 0);
	spans_free(ring);
	spans_free(NULL);
}

static void what_has_no_room_in_a_span_is_cut_or_left_out(void **state)
{
	struct spans *ring = spans_new(1, 9, ring_bell, &one);
	struct span *s = put(ring, 1);
	char big[SPAN_BYTES + 50];
	char *got;

	(void)state;
	memset(big, 'x', sizeof big);
	span_text(s, "big", (struct slice){big, sizeof big});
	span_text(s, "none", SLICE("left"));
	assert_int_equal(s->n_texts, 1);
	assert_int_equal(s->texts[0].n, SPAN_BYTES);
	for (int i = 0; i < SPAN_NUMBERS + 3; i++)
		span_number(s, "n", i);
	got = taken(ring, 1, 1);
	assert_non_null(strstr(got, "\"intValue\":\"7\""));
	assert_null(strstr(got, "\"intValue\":\"8\""));
	free(got);
	s = put(ring, 2);
	for (int i = 0; i < SPAN_TEXTS + 3; i++)
		span_text(s, "t", SLICE("1"));
	assert_int_equal(s->n_texts, SPAN_TEXTS);
	spans_free(ring);
}

static void a_batchs_spans_have_ids_of_their_own_that_stay(void **state)
{
	struct batch_id a = {1, 2}, b = {1, 3}, c = {2, 2};

	(void)state;
	assert_true(span_id(a, 0) == span_id(a, 0));
	assert_true(span_id(a, 0) != span_id(a, 1));
	assert_true(span_id(a, 0) != span_id(b, 0));
	assert_true(span_id(a, 0) != span_id(c, 0));
	assert_true(span_id((struct batch_id){0, 0}, 0) != 0);
}

static void the_last_56_bits_decide_and_the_ends_are_exact(void **state)
{
	unsigned char low[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, high[16];
	unsigned char half[16] = {[9] = 0x80};

	(void)state;
	memset(high, 0xff, sizeof high);
	assert_false(span_sampled(low, 0));
	assert_true(span_sampled(low, 0.001));
	assert_false(span_sampled(high, 0.999));
	assert_true(span_sampled(half, 0.501));
	assert_false(span_sampled(half, 0.5));
	assert_true(span_sampled(low, 1));
	assert_true(span_sampled(high, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_span_is_text_as_the_protocol_has_it),
		cmocka_unit_test(a_full_ring_takes_no_more_and_keeps_its_order),
		cmocka_unit_test(what_has_no_room_in_a_span_is_cut_or_left_out),
		cmocka_unit_test(a_batchs_spans_have_ids_of_their_own_that_stay),
		cmocka_unit_test(the_last_56_bits_decide_and_the_ends_are_exact),
	};

	return cmocka_run_group_tests_name("span", tests, NULL, NULL);
}
