/* Cursors, the events' text, and which types a client takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "routes/negotiate.h"
#include "routes/page.h"
#include "routes/query.h"

enum { BOUND = 7 };

static struct buf text;

static struct slice written(struct cursor c, uint64_t bound)
{
	text.n = 0;
	cursor_write(&text, c, bound);
	assert_false(text.failed);
	return buf_slice(&text);
}

static void a_cursor_comes_back_as_it_was(void **state)
{
	static const struct cursor cases[] = {
		{0, 0}, {0, 1}, {0, UINT32_MAX}, {1, 0}, {UINT64_MAX, UINT64_MAX}, {0x0123456789abcdef, 0xfedcba9876543210},
	};
	struct cursor got;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct slice s = written(cases[i], BOUND);

		assert_int_equal(s.n, CURSOR_LEN);
		assert_true(cursor_parse(s, BOUND, &got));
		assert_true(got.hi == cases[i].hi && got.lo == cases[i].lo);
	}
	buf_free(&text);
}

static void a_cursor_is_refused_where_it_does_not_belong(void **state)
{
	struct cursor got = {1, 2};

	(void)state;
	assert_false(cursor_parse(written((struct cursor){3, 4}, BOUND), BOUND + 1, &got));
	assert_false(cursor_parse((struct slice){0}, BOUND, &got));
	assert_false(cursor_parse(SLICE(""), BOUND, &got));
	written((struct cursor){3, 4}, BOUND);
	assert_false(cursor_parse((struct slice){text.p, text.n - 1}, BOUND, &got));
	/* Any other character at any place. */
	for (size_t i = 0; i < CURSOR_LEN; i++) {
		char was = text.p[i];

		for (const char *c = "0123456789abcdefAg/: "; *c != '\0'; c++) {
			text.p[i] = *c;
			assert_int_equal(cursor_parse(buf_slice(&text), BOUND, &got), *c == was);
		}
		text.p[i] = was;
	}
	assert_true(got.hi == 3 && got.lo == 4);
	buf_free(&text);
}

static void errors_are_counted_beyond_those_that_are_listed(void **state)
{
	static struct query q;

	(void)state;
	for (int i = 0; i < QUERY_ERRORS_LISTED + 9; i++)
		query_error(&q, SLICE("limit"), i == 0 ? FAULT_RANGE : FAULT_TYPE, "a number");
	assert_int_equal(q.n_errors, QUERY_ERRORS_LISTED + 9);
	assert_int_equal(q.errors[0].fault, FAULT_RANGE);
	assert_int_equal(q.errors[QUERY_ERRORS_LISTED - 1].fault, FAULT_TYPE);
}

static void an_event_is_three_lines_and_an_empty_one(void **state)
{
	(void)state;
	page_event(&text, "done", 4000000000, SLICE("{\"a\":1}"));
	buf_add_char(&text, '\0');
	assert_string_equal(text.p, "event: done\nid: 4000000000\ndata: {\"a\":1}\n\n");
	buf_free(&text);
}

static void the_closest_range_says_whether_a_type_is_taken(void **state)
{
	static const struct {
		const char *accept;
		bool taken;
	} cases[] = {
		{NULL, true}, {"", true}, {" ", true}, {"*/*", true}, {"text/*", true}, {"text/event-stream", true},
		{"Text/Event-Stream;charset=utf-8", true}, {"text/html, text/event-stream;q=0.001", true},
		{"text/event-stream;q=0, */*", false}, {"text/*;q=0, */*", false}, {"*/*;q=0", false},
		{"*/*;q=0, text/event-stream", true}, {"text/*;q=0, text/event-stream", true},
		{"application/*", false}, {"text/html", false}, {"text/", false}, {"text/event-streams", false}, {",,;", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(negotiate_takes(cases[i].accept, "text/event-stream"), cases[i].taken);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cursor_comes_back_as_it_was),
		cmocka_unit_test(a_cursor_is_refused_where_it_does_not_belong),
		cmocka_unit_test(errors_are_counted_beyond_those_that_are_listed),
		cmocka_unit_test(an_event_is_three_lines_and_an_empty_one),
		cmocka_unit_test(the_closest_range_says_whether_a_type_is_taken),
	};

	return cmocka_run_group_tests_name("query", tests, NULL, NULL);
}
