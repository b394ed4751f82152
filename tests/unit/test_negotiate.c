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
	struct trace t = {0};

	(void)state;
	assert_true(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &t));
	assert_int_equal(t.id[0], 0x4b);
	assert_int_equal(t.id[15], 0x36);
	assert_int_equal(t.flags, 1);
	assert_int_equal(t.parent, 0x00f067aa0ba902b7);
	assert_true(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", &t));
	assert_int_equal(t.flags, 0);
	assert_true(negotiate_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-x", &t));
	assert_int_equal(t.flags, 1);
	assert_false(negotiate_traceparent(NULL, &t));
	assert_false(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", &t));
	assert_false(negotiate_traceparent("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &t));
	assert_false(negotiate_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01", &t));
	assert_false(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", &t));
	assert_false(negotiate_traceparent("00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &t));
	assert_false(negotiate_traceparent("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01", &t));
	assert_false(negotiate_traceparent("00-4bf9", &t));
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

static struct prefer prefer(const char *line)
{
	return negotiate_prefer(&line, 1);
}

static void a_wish_to_be_answered_early_is_understood_in_every_form(void **state)
{
	static const struct {
		const char *line;
		bool async;
		int wait_s;
	} rows[] = {
		{"respond-async", true, -1},
		{"Respond-Async , WAIT = 10", true, 10},
		{"respond-async, wait=\"10\"", true, 10},
		{"respond-async; foo=\"a;b,c\", wait=0", true, 0},
		{"respond-async=\"\"", true, -1},
		{"wait=60", false, 60},
		{"wait=61, respond-async", true, 60},
		{"wait=99999999999999999999", false, 60},
		{"wait=5, wait=9", false, 5},
		{"foo=\"respond-async, wait=3\"", false, -1},
		{"foo=\"\\\"\", wait=3", false, 3},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(prefer(rows[i].line).respond_async, rows[i].async);
		assert_int_equal(prefer(rows[i].line).wait_s, rows[i].wait_s);
	}
}

static void a_malformed_preference_is_passed_over(void **state)
{
	static const char *const lines[] = {
		"", ",", ";", "wait", "wait=", "wait=-1", "wait=1.5", "wait=x", "wait=1 2", "respond-async=1",
		"respond async", "\"respond-async\"", "foo=\"respond-async", "=respond-async", "wait=\"",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		assert_false(prefer(lines[i]).respond_async);
		assert_int_equal(prefer(lines[i]).wait_s, -1);
	}
	assert_int_equal(prefer("wait=x, wait=7").wait_s, 7);
}

static void preferences_may_stand_on_several_lines(void **state)
{
	const char *const lines[] = {"return=minimal", "wait=4", "respond-async, wait=9"};
	struct prefer p = negotiate_prefer(lines, ARRAY_LEN(lines));
	char applied[PREFER_APPLIED_MAX];

	(void)state;
	assert_true(p.respond_async);
	assert_int_equal(p.wait_s, 4);
	negotiate_applied(p, applied);
	assert_string_equal(applied, "respond-async, wait=4");
	negotiate_applied((struct prefer){true, -1}, applied);
	assert_string_equal(applied, "respond-async");
	negotiate_applied((struct prefer){false, 60}, applied);
	assert_string_equal(applied, "wait=60");
	negotiate_applied((struct prefer){false, -1}, applied);
	assert_string_equal(applied, "");
}

static bool key_is(const char *value, const char *want)
{
	char out[KEY_MAX];

	return slice_eq(negotiate_key(value, out), slice_str(want));
}

static void a_key_is_the_same_with_quotes_and_without(void **state)
{
	(void)state;
	assert_true(key_is("order-7", "order-7"));
	assert_true(key_is("  \"order-7\" ", "order-7"));
	assert_true(key_is("\"a \\\"b\\\" \\\\\"", "a \"b\" \\"));
	assert_true(key_is("a\\b\"c", "a\\b\"c"));
	assert_true(key_is("x", "x"));
}

static void a_key_that_is_none_is_told_apart(void **state)
{
	static const char *const bad[] = {
		"", " ", "\"\"", "\"", "\"a", "\"a\"b\"", "\"a\"; p=1", "\"a\\\"", "\"a\\b\"", "a\tb", "\x7f", "\xc3\xa9",
	};
	char long_key[KEY_MAX + 2];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_true(key_is(bad[i], ""));
	memset(long_key, 'k', sizeof long_key);
	long_key[KEY_MAX + 1] = '\0';
	assert_true(key_is(long_key, ""));
	assert_true(key_is(long_key + 1, long_key + 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ndjson_is_sent_only_to_those_who_name_it),
		cmocka_unit_test(json_is_known_by_its_type_alone),
		cmocka_unit_test(a_trace_is_continued_only_if_it_is_valid),
		cmocka_unit_test(a_tracestate_is_passed_on_only_if_it_fits_a_header),
		cmocka_unit_test(a_wish_to_be_answered_early_is_understood_in_every_form),
		cmocka_unit_test(a_malformed_preference_is_passed_over),
		cmocka_unit_test(preferences_may_stand_on_several_lines),
		cmocka_unit_test(a_key_is_the_same_with_quotes_and_without),
		cmocka_unit_test(a_key_that_is_none_is_told_apart),
	};

	return cmocka_run_group_tests_name("negotiate", tests, NULL, NULL);
}
