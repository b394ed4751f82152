#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "routes/negotiate.h"

static void ndjson_is_sent_only_to_those_who_name_it(void **state)
{
	(void)state;
	assert_int_equal(negotiate_accept(NULL), MEDIA_JSON);
	assert_int_equal(negotiate_accept(""), MEDIA_JSON);
	assert_int_equal(negotiate_accept("*/*"), MEDIA_JSON);
	assert_int_equal(negotiate_accept("application/*"), MEDIA_JSON);
	assert_int_equal(negotiate_accept("application/json"), MEDIA_JSON);
	assert_int_equal(negotiate_accept("application/x-ndjson"), MEDIA_NDJSON);
	assert_int_equal(negotiate_accept("Application/X-NDJSON , */*"), MEDIA_NDJSON);
	assert_int_equal(negotiate_accept("application/json, application/x-ndjson"), MEDIA_JSON);
	assert_int_equal(negotiate_accept("application/json;q=0.5,application/x-ndjson"), MEDIA_NDJSON);
	assert_int_equal(negotiate_accept("application/x-ndjson;q=0, */*;q=0.1"), MEDIA_JSON);
	assert_int_equal(negotiate_accept("text/html"), MEDIA_NONE);
	assert_int_equal(negotiate_accept("application/json;q=0"), MEDIA_NONE);
	assert_int_equal(negotiate_accept("application/json;q=0, */*"), MEDIA_NONE);
	assert_int_equal(negotiate_accept("text/html;level=1;q=0.4, application/json;charset=utf-8"), MEDIA_JSON);
	assert_int_equal(negotiate_accept(",,;;q=,"), MEDIA_NONE);
}

static void json_is_known_by_its_type_alone(void **state)
{
	(void)state;
	assert_true(negotiate_is_json("application/json"));
	assert_true(negotiate_is_json("Application/JSON; charset=utf-8"));
	assert_false(negotiate_is_json(NULL));
	assert_false(negotiate_is_json("application/jsonp"));
	assert_false(negotiate_is_json("text/plain;charset=UTF-8"));
}

static void a_trace_is_continued_only_if_it_is_valid(void **state)
{
	unsigned char id[16] = {0}, flags = 0;

	(void)state;
	assert_true(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", id, &flags));
	assert_int_equal(id[0], 0x4b);
	assert_int_equal(id[15], 0x36);
	assert_int_equal(flags, 1);
	assert_true(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", id, &flags));
	assert_int_equal(flags, 0);
	assert_true(negotiate_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", id, &flags));
	assert_false(negotiate_traceparent(NULL, id, &flags));
	assert_false(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", id, &flags));
	assert_false(negotiate_traceparent("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", id, &flags));
	assert_false(negotiate_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01", id, &flags));
	assert_false(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", id, &flags));
	assert_false(negotiate_traceparent("00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", id, &flags));
	assert_false(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01", id, &flags));
	assert_false(negotiate_traceparent("00-4bf9", id, &flags));
}

static void a_tracestate_is_passed_on_only_if_it_fits_a_header(void **state)
{
	char text[514];

	(void)state;
	assert_true(slice_eq(negotiate_tracestate(" a=1, b=2 "), SLICE("a=1, b=2")));
	assert_int_equal(negotiate_tracestate(NULL).n, 0);
	assert_int_equal(negotiate_tracestate("a=\x01").n, 0);
	memset(text, 'a', sizeof text);
	text[513] = '\0';
	assert_int_equal(negotiate_tracestate(text).n, 0);
	text[512] = '\0';
	assert_int_equal(negotiate_tracestate(text).n, 512);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ndjson_is_sent_only_to_those_who_name_it),
		cmocka_unit_test(json_is_known_by_its_type_alone),
		cmocka_unit_test(a_trace_is_continued_only_if_it_is_valid),
		cmocka_unit_test(a_tracestate_is_passed_on_only_if_it_fits_a_header),
	};

	return cmocka_run_group_tests_name("negotiate", tests, NULL, NULL);
}
