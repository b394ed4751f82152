/*
 * What is JSON and what is not: a list of cases in the manner of N. Seriot's
 * JSONTestSuite, and jansson as an independent judge of random texts.
 */
#include "wire-kit.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "wire/wire-i.h"

static bool is_json(struct slice text)
{
	struct kit_read k = kit_read(&kit_rules, text);
	bool malformed = k.kind == PROBLEM_MALFORMED_JSON;

	assert_true(malformed || k.rc == 0 || k.kind == PROBLEM_VALIDATION_FAILED);
	kit_done(&k);
	return !malformed;
}

#define T(literal) {literal, sizeof(literal) - 1}

static const struct slice good[] = {
	T("0"), T("-0"), T("-0.0"), T("1e400"), T("1E+2"), T("1.5e-300"), T("123456789012345678901234567890"),
	T("true"), T("false"), T("null"), T("\"\""), T("[]"), T("{}"), T(" [ ] "), T("\t\n\r {}"), T("[[[]]]"),
	T("[1,2]"), T("{\"\":0}"), T("{\"a\":{\"b\":[]}}"), T("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), T("\"\\u0000\""),
	T("\"\\ud83d\\ude00\""), T("\"\\uD800\\uDC00\""), T("\"\\udbff\\udfff\""), T("\"\\uFFFF\""), T("\"\x7f\""),
	T("\"\xc2\x80\""), T("\"\xdf\xbf\""), T("\"\xe0\xa0\x80\""), T("\"\xed\x9f\xbf\""), T("\"\xee\x80\x80\""),
	T("\"\xef\xbf\xbf\""), T("\"\xf0\x90\x80\x80\""), T("\"\xf4\x8f\xbf\xbf\""), T("\"\xe2\x80\xa8\""),
	T("[\"a\",1,true,null,{\"b\":false}]"), T("\"12345678\\n\""), T("\"1234567\xc3\xa9\""), T("{\"a\":1,\"a\":1}"),
};

static const struct slice bad[] = {
	T(""), T(" "), T("\xef\xbb\xbf{}"), T("\xff\xfe{}"), T("{}x"), T("{} {}"), T("[1]]"), T("1 2"), T("nul"),
	T("nulll"), T("True"), T("tru\0"), T("[1,]"), T("[,1]"), T("[1 2]"), T("[1"), T("["), T("]"), T("[}"), T("{]"),
	T("{\"a\":1,}"), T("{,}"), T("{\"a\"}"), T("{\"a\":}"), T("{\"a\" 1}"), T("{a:1}"), T("{1:1}"), T("{'a':1}"),
	T("{\"a\":1 \"b\":2}"), T("{"), T("{\"a"), T("{\"a\""), T("{\"a\":"), T("{\"a\":1"), T("01"), T("-"), T("+1"),
	T("-01"), T("1."), T(".1"), T("1.e1"), T("1e"), T("1e+"), T("0x1"), T("1_0"), T("NaN"), T("Infinity"), T("-Inf"),
	T("--1"), T("1e1.5"), T("1.2.3"), T("\""), T("\"a"), T("\"\\\""), T("\"\\"), T("\"\\x41\""), T("\"\\'\""),
	T("\"\\u\""), T("\"\\u12\""), T("\"\\u123g\""), T("\"\\U0041\""), T("\"\\ud800\""), T("\"\\udc00\""),
	T("\"\\ud800\\ud800\""), T("\"\\ud800x\""), T("\"\\ud800\\n\""), T("\"\\udc00\\ud800\""), T("\"\\ud800\\u00"),
	T("\"\n\""), T("\"\t\""), T("\"\x1f\""), T("\"a\0b\""), T("\0"), T("{}\0"), T("[\0]"), T("\"\x80\""),
	T("\"\xc0\xaf\""), T("\"\xc1\xbf\""), T("\"\xe0\x80\xaf\""), T("\"\xe0\x9f\xbf\""), T("\"\xf0\x8f\xbf\xbf\""),
	T("\"\xed\xa0\x80\""), T("\"\xed\xbf\xbf\""), T("\"\xf4\x90\x80\x80\""), T("\"\xf5\x80\x80\x80\""),
	T("\"\xff\""), T("\"\xc3\""), T("\"\xc3"), T("\"\xe2\x82\""), T("\"\xe2\x28\xa1\""), T("\"\xf0\x9f\x98\""),
	T("\"\xf8\x88\x80\x80\x80\""), T("[1//c\n]"), T("[1/*c*/]"), T("#\n1"), T("[1\x0c]"), T("[\xc2\xa0]"),
	T("\"12345678\x01\""), T("\"1234567\x80\""), T("\"12345678"), T("[\"a\",\n4\n,1,"), T("\\u007b}"), T("{\"a\":1]"),
};

static void json_is_taken_and_nothing_else(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		if (!is_json(good[i]))
			print_message("refused: %.*s\n", (int)good[i].n, good[i].p);
		assert_true(is_json(good[i]));
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		if (is_json(bad[i]))
			print_message("taken: %.*s\n", (int)bad[i].n, bad[i].p);
		assert_false(is_json(bad[i]));
	}
}

/* A text cut anywhere is no JSON, and no byte beyond its end is looked at: the
 * copy has no room behind it. */
static void a_cut_text_is_no_json(void **state)
{
	static const char text[] = "{\"a\\u0041\\ud83d\\ude00\xf0\x9f\x98\x80\":[true,false,null,-1.5e+7,{\"b\":\"\\n\"}]}";

	(void)state;
	for (size_t n = 0; n < sizeof text - 1; n++)
		assert_false(is_json((struct slice){text, n}));
	assert_true(is_json((struct slice){text, sizeof text - 1}));
}

static void depth_has_a_limit(void **state)
{
	char text[200];

	(void)state;
	for (size_t depth = 60; depth < 70; depth++) {
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		assert_int_equal(is_json((struct slice){text, 2 * depth}), depth <= 64);
	}
	for (size_t i = 0; i < 65 * 3; i += 3)
		memcpy(text + i, "{\"\"", 3);
	assert_false(is_json((struct slice){text, sizeof text}));
}

static void malformed_json_is_told_with_its_place(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{"", "line 1, column 1 (byte offset 0): expected a value, found the end of the body"},
		{"{\"items\": [\n  {\"id\" 3}]}",
		 "line 2, column 9 (byte offset 20): expected ':' after a key, found '3'"},
		{"{} x", "line 1, column 4 (byte offset 3): expected the end of the body, found 'x'"},
		{"[1\x01]", "line 1, column 3 (byte offset 2): expected ',' or ']', found the byte 0x01"},
		{"\xef\xbb\xbf{}", "line 1, column 1 (byte offset 0): expected a value, found a byte order mark"},
		{"[\"\n\"]", "line 1, column 3 (byte offset 2): expected no control character in a string: write it as "
			     "\\u00XX, found the byte 0x0a"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct kit_read k = kit_read(&kit_rules, slice_str(cases[i].text));
		json_t *doc = json_loadb(k.error.p, k.error.n, 0, NULL);

		assert_int_equal(k.rc, -EINVAL);
		assert_int_equal(k.kind, PROBLEM_MALFORMED_JSON);
		assert_string_equal(json_string_value(json_object_get(doc, "detail")), cases[i].want);
		assert_int_equal(json_integer_value(json_object_get(doc, "status")), 400);
		json_decref(doc);
		kit_done(&k);
	}
}

/* --- jansson as the judge ---------------------------------------------------- */

static void add_random_string(struct buf *out, struct rng *rng)
{
	static const char *const parts[] = {"a", "id", " ", "\\n", "\\u0041", "\\ud83d\\ude00", "\xc3\xa9", "\\\"",
					    "\xf0\x9f\x98\x80", "0123456789", "/", "\\u00e9", "\x7f"};

	buf_add_char(out, '"');
	for (uint64_t n = rng_below(rng, 4); n > 0; n--)
		buf_add_str(out, parts[rng_below(rng, ARRAY_LEN(parts))]);
	buf_add_char(out, '"');
}

static void add_random_value(struct buf *out, struct rng *rng, int depth)
{
	static const char *const scalars[] = {"0", "-1", "1.5", "1e3", "-0.0E-2", "true", "false", "null", "99"};
	uint64_t kind = rng_below(rng, depth > 0 ? 4 : 2);
	uint64_t n = rng_below(rng, 4);

	if (kind == 0) {
		buf_add_str(out, scalars[rng_below(rng, ARRAY_LEN(scalars))]);
	} else if (kind == 1) {
		add_random_string(out, rng);
	} else {
		buf_add_char(out, kind == 2 ? '[' : '{');
		for (uint64_t i = 0; i < n; i++) {
			buf_add_str(out, i > 0 ? (rng_below(rng, 3) == 0 ? " ,\n" : ",") : "");
			if (kind == 3) {
				add_random_string(out, rng);
				buf_add_char(out, ':');
			}
			add_random_value(out, rng, depth - 1);
		}
		buf_add_char(out, kind == 2 ? ']' : '}');
	}
}

/* No NUL: jansson takes one behind the value for the end of the text. */
static void mutate(struct buf *text, struct rng *rng)
{
	static const char bytes[] = "{}[]:,\"\\u0dD8eE+-. \n1tfn\x80\xc3\xed\xf0\xff";

	for (uint64_t n = rng_below(rng, 3); n > 0 && text->n > 1; n--) {
		size_t at = rng_below(rng, text->n);

		if (rng_below(rng, 3) == 0) {
			memmove(text->p + at, text->p + at + 1, text->n - at - 1);
			text->n--;
		} else {
			text->p[at] = bytes[rng_below(rng, sizeof bytes - 1)];
		}
	}
}

/* 1: JSON, 0: not, -1: jansson cannot say (numbers it cannot hold, NUL in keys). */
static int ask_jansson(struct slice text)
{
	json_error_t error;
	json_t *doc = json_loadb(text.p, text.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);

	if (doc != NULL) {
		json_decref(doc);
		return 1;
	}
	if (json_error_code(&error) == json_error_numeric_overflow ||
	    json_error_code(&error) == json_error_null_byte_in_key)
		return -1;
	return 0;
}

static void jansson_agrees(void **state)
{
	unsigned taken = 0, refused = 0;
	struct rng rng;

	(void)state;
	rng_seed(&rng, 20240229);
	for (int i = 0; i < 40000; i++) {
		struct buf text = {0};
		int want;

		add_random_value(&text, &rng, 5);
		mutate(&text, &rng);
		want = ask_jansson(buf_slice(&text));
		if (want >= 0 && is_json(buf_slice(&text)) != want)
			print_message("jansson says %d: %.*s\n", want, (int)text.n, text.p);
		assert_true(want < 0 || is_json(buf_slice(&text)) == want);
		taken += want == 1;
		refused += want == 0;
		buf_free(&text);
	}
	assert_true(taken > 5000 && refused > 5000);
}

/* --- aimed at the clock ------------------------------------------------------ */

/* Each ends with what it says, and in no time that grows with the square. */
static uint64_t count_faults(const struct buf *text)
{
	struct kit_read k = kit_read(&kit_rules, buf_slice(text));
	json_t *doc;
	uint64_t n;

	assert_true(k.rc == 0 || k.kind == PROBLEM_VALIDATION_FAILED);
	if (k.rc == 0) {
		kit_done(&k);
		return 0;
	}
	doc = json_loadb(k.error.p, k.error.n, 0, NULL);
	n = (uint64_t)json_integer_value(json_object_get(doc, "error_count"));
	json_decref(doc);
	kit_done(&k);
	return n;
}

static void large_objects_are_no_attack(void **state)
{
	static const char *const forms[] = {"\"%d\":0", "\"\\u00%02x%d\":0", "\"same\":0", "\"%08x\":{\"k\":0}"};

	(void)state;
	for (size_t f = 0; f < ARRAY_LEN(forms); f++) {
		struct buf text = {0};
		int n = 0;

		buf_add_str(&text, "{\"items\":[{\"id\":\"a\",\"to\":\"b\",\"service\":\"push\",\"payload\":1}],\"x\":{");
		for (; text.n < 1000000; n++) {
			buf_add_str(&text, n > 0 ? "," : "");
			if (f == 1)
				buf_printf(&text, forms[f], 0x40 + n % 0x30, n);
			else
				buf_printf(&text, forms[f], n);
		}
		buf_add_str(&text, "}}");
		assert_int_equal(count_faults(&text), f == 2 ? n : 1);
		buf_free(&text);
	}
}

static void ten_thousand_ids_are_no_attack(void **state)
{
	struct buf text = {0};

	(void)state;
	buf_add_str(&text, "{\"service\":\"push\",\"payload\":0,\"items\":[");
	for (int i = 0; i < 10000; i++)
		buf_printf(&text, "%s{\"id\":\"%d\",\"to\":\"x\"}", i > 0 ? "," : "", i % 9999);
	buf_add_str(&text, "]}");
	assert_int_equal(count_faults(&text), 1);
	buf_free(&text);
}

/* Nobody can aim at a seeded hash; if two keys meet all the same, they stay two. */
static void keys_with_one_hash_stay_apart(void **state)
{
	static char texts[500][8];
	static struct key keys[501];
	struct key_index ix = {0};

	(void)state;
	for (size_t i = 0; i < 500; i++) {
		snprintf(texts[i], sizeof texts[i], "%zu", i);
		keys[i] = (struct key){42, slice_str(texts[i])};
		assert_int_equal(key_index_add(&ix, keys, i), 1);
	}
	for (size_t i = 0; i < 500; i++) {
		keys[500] = keys[i];
		assert_int_equal(key_index_add(&ix, keys, 500), 0);
	}
	key_index_free(&ix);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_is_taken_and_nothing_else),
		cmocka_unit_test(a_cut_text_is_no_json),
		cmocka_unit_test(depth_has_a_limit),
		cmocka_unit_test(malformed_json_is_told_with_its_place),
		cmocka_unit_test(jansson_agrees),
		cmocka_unit_test(keys_with_one_hash_stay_apart),
		cmocka_unit_test(large_objects_are_no_attack),
		cmocka_unit_test(ten_thousand_ids_are_no_attack),
	};

	return cmocka_run_group_tests_name("wire_json", tests, NULL, NULL);
}
