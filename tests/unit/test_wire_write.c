#include "wire-kit.h"

#include <jansson.h>
#include <stdio.h>
#include <time.h>

static void assert_written(struct buf *out, const char *want)
{
	assert_false(out->failed);
	buf_add_char(out, '\0');
	assert_string_equal(out->p, want);
	buf_free(out);
}

/* Four items whose ends differ, as in the contract's section 5 and beyond. */
static struct batch *some_batch(bool include)
{
	struct batch *b = batch_new(NULL, 4);

	assert_non_null(b);
	b->policy.include_attempts = include;
	b->policy.contract = CONTRACT_PARTIAL_SUCCESS;
	b->created_unix_ms = 1700000000123;
	b->accepted_us = 5000000;
	for (int i = 0; i < 4; i++)
		b->items[i].id = (struct slice){&"u1u2u3u4"[2 * i], 2};
	return b;
}

static void attempt(struct item *it, struct outcome o, int64_t started_us)
{
	if (it->state != ITEM_PENDING)
		item_set_state(it, ITEM_WAITING);
	item_set_state(it, ITEM_QUEUED);
	item_record(it, &o, started_us, started_us + 12345, 1700000000000 + started_us / 1000);
}

static void a_success_reads_as_in_the_contract(void **state)
{
	struct batch *b = some_batch(false);
	struct buf out = {0};

	(void)state;
	attempt(&b->items[0], (struct outcome){.delivered = DELIVERED_YES, .http_status = 202,
		.retry_after_ms = RETRY_AFTER_NONE, .message_id = SLICE("m-9")}, 1000);
	item_settle(&b->items[0], CODE_OK, STOP_NONE, 13500);
	wire_item(&out, &b->items[0]);
	assert_written(&out, "{\"index\":0,\"id\":\"u1\",\"status\":\"succeeded\",\"ok\":true,\"delivered\":\"yes\","
		       "\"retryable\":false,\"duplicate_risk\":false,\"attempts\":1,\"message_id\":\"m-9\","
		       "\"latency_ms\":12}");
	batch_unref(b);
}

static void a_failure_reads_as_in_the_contract(void **state)
{
	struct batch *b = some_batch(false);
	struct buf out = {0};

	(void)state;
	attempt(&b->items[1], (struct outcome){.code = CODE_RECIPIENT_GONE, .http_status = 410,
		.retry_after_ms = RETRY_AFTER_NONE, .detail = "never shown beside a status"}, 1000);
	item_settle(&b->items[1], CODE_OK, STOP_NOT_RETRYABLE, 10000);
	wire_item(&out, &b->items[1]);
	assert_written(&out, "{\"index\":1,\"id\":\"u2\",\"status\":\"failed\",\"ok\":false,\"delivered\":\"no\","
		       "\"retryable\":false,\"duplicate_risk\":false,\"attempts\":1,\"stop\":\"not_retryable\","
		       "\"latency_ms\":9,\"error\":{\"code\":\"recipient_gone\",\"message\":\"the downstream answered "
		       "410\",\"http_status\":410}}");
	batch_unref(b);
}

static void attempts_are_told_oldest_first(void **state)
{
	struct batch *b = some_batch(true);
	struct item *it = &b->items[2];
	struct buf out = {0};

	(void)state;
	attempt(it, (struct outcome){.code = CODE_TIMEOUT, .delivered = DELIVERED_MAYBE, .phase = PHASE_WAIT,
		.retry_after_ms = RETRY_AFTER_NONE}, 1000);
	attempt(it, (struct outcome){.code = CODE_UNAVAILABLE, .http_status = 503, .phase = PHASE_RECEIVE,
		.retry_after_ms = 1500}, 50000);
	item_settle(it, CODE_OK, STOP_MAX_ATTEMPTS, 70000);
	wire_item(&out, it);
	assert_written(&out, "{\"index\":2,\"id\":\"u3\",\"status\":\"indeterminate\",\"ok\":false,\"delivered\":"
		       "\"maybe\",\"retryable\":true,\"duplicate_risk\":true,\"attempts\":2,\"stop\":\"max_attempts\","
		       "\"latency_ms\":69,\"error\":{\"code\":\"unavailable\",\"message\":\"the downstream answered "
		       "503\",\"http_status\":503,\"retry_after_ms\":1500},\"attempt_log\":[{\"n\":1,\"started_at\":"
		       "\"2023-11-14T22:13:20.001Z\",\"duration_ms\":12,\"code\":\"timeout\",\"delivered\":\"maybe\","
		       "\"phase\":\"wait\",\"http_status\":null},{\"n\":2,\"started_at\":\"2023-11-14T22:13:20.050Z\","
		       "\"duration_ms\":12,\"code\":\"unavailable\",\"delivered\":\"no\",\"phase\":\"receive\","
		       "\"http_status\":503}]}");
	batch_unref(b);
}

static void a_downstream_may_wish_for_no_wait(void **state)
{
	struct batch *b = some_batch(false);
	struct buf out = {0};

	(void)state;
	attempt(&b->items[0], (struct outcome){.code = CODE_CONNECT_FAILED, .detail = "no \"route\""}, 1000);
	item_settle(&b->items[0], CODE_OK, STOP_DEADLINE, 1000);
	wire_item(&out, &b->items[0]);
	assert_written(&out, "{\"index\":0,\"id\":\"u1\",\"status\":\"failed\",\"ok\":false,\"delivered\":\"no\","
		       "\"retryable\":true,\"duplicate_risk\":false,\"attempts\":1,\"stop\":\"deadline\","
		       "\"latency_ms\":0,\"error\":{\"code\":\"connect_failed\",\"message\":\"no \\\"route\\\"\","
		       "\"retry_after_ms\":0}}");
	batch_unref(b);
}

static void what_is_not_final_says_what_is_known(void **state)
{
	struct batch *b = some_batch(true);
	struct buf out = {0};

	(void)state;
	wire_item(&out, &b->items[3]);
	assert_written(&out, "{\"index\":3,\"id\":\"u4\",\"status\":\"pending\",\"ok\":null,\"delivered\":\"no\","
		       "\"retryable\":false,\"duplicate_risk\":false,\"attempts\":0,\"attempt_log\":[]}");
	attempt(&b->items[3], (struct outcome){.code = CODE_TIMEOUT, .delivered = DELIVERED_MAYBE,
		.retry_after_ms = RETRY_AFTER_NONE}, 1000);
	b->policy.include_attempts = false;
	wire_item(&out, &b->items[3]);
	assert_written(&out, "{\"index\":3,\"id\":\"u4\",\"status\":\"running\",\"ok\":null,\"delivered\":\"maybe\","
		       "\"retryable\":false,\"duplicate_risk\":false,\"attempts\":1}");
	batch_unref(b);
}

static bool counts_one_attempt(const struct item *it)
{
	struct buf out = {0};
	bool found;

	wire_item(&out, it);
	found = memmem(out.p, out.n, "\"attempts\":1", 12) != NULL;
	buf_free(&out);
	return found;
}

/* Of one that was read back it is not known whether what was claimed has started. */
static void an_attempt_under_way_counts_while_its_batch_is_live(void **state)
{
	struct batch *b = some_batch(false);

	(void)state;
	item_set_state(&b->items[0], ITEM_QUEUED);
	atomic_store(&b->items[0].in_flight, true);
	assert_false(counts_one_attempt(&b->items[0]));
	b->live = (struct live *)b;
	assert_true(counts_one_attempt(&b->items[0]));
	b->live = NULL;
	batch_unref(b);
}

static void what_never_started_says_why(void **state)
{
	struct batch *b = some_batch(false);
	struct buf out = {0};

	(void)state;
	item_settle(&b->items[0], CODE_NOT_ATTEMPTED, STOP_CANCELLED, 10000);
	wire_item(&out, &b->items[0]);
	assert_written(&out, "{\"index\":0,\"id\":\"u1\",\"status\":\"not_attempted\",\"ok\":false,\"delivered\":\"no\","
		       "\"retryable\":true,\"duplicate_risk\":false,\"attempts\":0,\"stop\":\"cancelled\",\"error\":"
		       "{\"code\":\"not_attempted\",\"message\":\"the batch ended before this item was started\"}}");
	batch_unref(b);
}

#define HEAD_RUNNING "{\"id\":\"b_00000000000000000000000000\",\"state\":\"queued\",\"outcome\":null," \
	"\"stop_reason\":null,\"contract\":\"partial_success\",\"durability\":\"memory\",\"created_at\":" \
	"\"2023-11-14T22:13:20.123Z\",\"finished_at\":null,\"duration_ms\":null,\"expires_at\":null," \
	"\"retry_of\":null,\"metadata\":{},\"counts\":{\"total\":4,\"succeeded\":0,\"failed\":0," \
	"\"indeterminate\":0,\"not_attempted\":0,\"pending\":4}"
#define HEAD_DONE "{\"id\":\"b_00000000000000000000000000\",\"state\":\"done\",\"outcome\":\"failed\"," \
	"\"stop_reason\":\"completed\",\"contract\":\"partial_success\",\"durability\":\"memory\",\"created_at\":" \
	"\"2023-11-14T22:13:20.123Z\",\"finished_at\":\"2023-11-14T22:13:21.126Z\",\"duration_ms\":1003," \
	"\"expires_at\":\"2023-11-15T22:13:21.126Z\",\"retry_of\":null,\"metadata\":{\"a\":\"b\"}," \
	"\"counts\":{\"total\":4,\"succeeded\":0,\"failed\":0,\"indeterminate\":0,\"not_attempted\":4,\"pending\":0}"

static void a_batch_has_nulls_until_it_is_done(void **state)
{
	struct batch *b = some_batch(false);
	struct buf out = {0};

	(void)state;
	wire_batch(&out, b, false);
	assert_written(&out, HEAD_RUNNING "}");
	batch_set_state(b, BATCH_RUNNING);
	for (int i = 0; i < 4; i++)
		item_settle(&b->items[i], CODE_NOT_ATTEMPTED, STOP_SHED, 0);
	batch_finish(b, 6003999, 1700000001126);
	b->expires_unix_ms = 1700000001126 + 86400000;
	b->metadata = SLICE("{\"a\":\"b\"}");
	wire_batch(&out, b, false);
	assert_written(&out, HEAD_DONE "}");
	batch_unref(b);
}

static void results_stand_in_order(void **state)
{
	struct batch *b = some_batch(false);
	struct buf out = {0};
	json_t *doc, *results, *r;
	size_t i;

	(void)state;
	wire_batch(&out, b, true);
	doc = json_loadb(out.p, out.n, JSON_REJECT_DUPLICATES, NULL);
	results = json_object_get(doc, "results");
	assert_int_equal(json_array_size(results), 4);
	json_array_foreach(results, i, r)
		assert_int_equal(json_integer_value(json_object_get(r, "index")), i);
	assert_memory_equal(out.p, HEAD_RUNNING ",\"results\":[{", sizeof HEAD_RUNNING ",\"results\":[{" - 1);
	json_decref(doc);
	buf_free(&out);
	batch_unref(b);
}

static void times_are_rfc_3339(void **state)
{
	static const struct {
		int64_t ms;
		const char *want;
	} cases[] = {
		{0, "\"1970-01-01T00:00:00.000Z\""},
		{-1, "\"1969-12-31T23:59:59.999Z\""},
		{951782399999, "\"2000-02-28T23:59:59.999Z\""},
		{951782400000, "\"2000-02-29T00:00:00.000Z\""},
		{4107542400000, "\"2100-03-01T00:00:00.000Z\""},
		{253402300799999, "\"9999-12-31T23:59:59.999Z\""},
		{INT64_MAX, "\"9999-12-31T23:59:59.999Z\""},
		{INT64_MIN, "\"0001-01-01T00:00:00.000Z\""},
	};
	struct buf out = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		wire_time(&out, cases[i].ms);
		assert_written(&out, cases[i].want);
	}
}

static void times_agree_with_the_c_library(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed(&rng, 11);
	for (int i = 0; i < 20000; i++) {
		int64_t ms = (int64_t)rng_below(&rng, 253402300800000) - (i % 2 ? 0 : 60000000000000);
		time_t s = (time_t)(ms >= 0 ? ms / 1000 : -((-ms + 999) / 1000));
		struct buf out = {0};
		char want[64];
		struct tm tm;

		assert_non_null(gmtime_r(&s, &tm));
		snprintf(want, sizeof want, "\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\"", tm.tm_year + 1900, tm.tm_mon + 1,
			 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ms - (int64_t)s * 1000));
		wire_time(&out, ms);
		assert_written(&out, want);
	}
}

static void strings_are_escaped_and_always_valid(void **state)
{
	struct buf out = {0};

	(void)state;
	wire_string(&out, SLICE("a\"b\\c/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9\xf0\x9f\x98\x80"));
	assert_written(&out, "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\xf0\x9f\x98\x80\"");
	wire_string(&out, SLICE("\0x"));
	assert_written(&out, "\"\\u0000x\"");
	wire_string(&out, SLICE("a\xff\xc3z\xed\xa0\x80"));
	assert_written(&out, "\"a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
	wire_string(&out, (struct slice){0});
	assert_written(&out, "\"\"");
}

static void problems_are_rfc_9457(void **state)
{
	struct buf out = {0};

	(void)state;
	wire_problem(&out, PROBLEM_NOT_FOUND, NULL);
	assert_written(&out, "{\"type\":\"about:blank\",\"title\":\"Not found\",\"status\":404,\"code\":\"not_found\"}");
	wire_problem(&out, PROBLEM_OVERLOADED, "say \"please\"");
	assert_written(&out, "{\"type\":\"about:blank\",\"title\":\"Too busy to accept this\",\"status\":503,"
		       "\"detail\":\"say \\\"please\\\"\",\"code\":\"overloaded\"}");
	for (int p = 0; p < PROBLEM_MAX; p++) {
		assert_non_null(problem_str((enum problem)p));
		assert_in_range(problem_status((enum problem)p), 400, 503);
	}
}

static void a_querys_errors_are_listed_with_their_true_count(void **state)
{
	static const char longest[] = "an-unknown-parameter-with-a-name-too-long-to-quote";
	const struct query_error errors[] = {
		{SLICE("limit"), FAULT_RANGE, "from 1 to 1000"},
		{SLICE("a/b \"\x80"), FAULT_UNKNOWN_FIELD, "say \"what\""},
		{{longest, sizeof longest - 1}, FAULT_UNKNOWN_FIELD, ""},
	};
	struct buf out = {0};

	(void)state;
	wire_invalid_query(&out, errors, 1, 1);
	assert_written(&out, "{\"type\":\"about:blank\",\"title\":\"The request is not valid\",\"status\":422,"
		       "\"detail\":\"1 error; nothing was sent\",\"code\":\"validation_failed\",\"error_count\":1,"
		       "\"errors\":[{\"pointer\":\"#/query/limit\",\"code\":\"range\",\"detail\":\"from 1 to 1000\"}]}");
	wire_invalid_query(&out, errors, 3, 700);
	buf_add_char(&out, '\0');
	assert_non_null(strstr(out.p, "\"700 errors; nothing was sent\""));
	assert_non_null(strstr(out.p, "\"error_count\":700"));
	assert_non_null(strstr(out.p, "{\"pointer\":\"#/query/a~1b%20%22%80\",\"code\":\"unknown_field\","
				      "\"detail\":\"say \\\"what\\\"\"},{\"pointer\":\"#/query\","));
	buf_free(&out);
}

#define X(upper, lower) assert_string_equal(problem_str(PROBLEM_##upper), #lower);
static void problem_names_are_the_tables(void **state)
{
	(void)state;
	PROBLEM_TABLE(X)
}
#undef X

static void a_message_id_is_found_in_an_answer(void **state)
{
	static const struct {
		const char *json, *want;
	} cases[] = {
		{"{\"id\":\"m-9\"}", "m-9"},
		{"{\"name\":\"n\",\"message_id\":\"m\"}", "m"},
		{"{\"name\":\"n\",\"message_id\":\"m\",\"id\":\"i\"}", "i"},
		{"{\"id\":7,\"name\":\"n\"}", "n"},
		{"{\"id\":\"\",\"name\":\"n\"}", "n"},
		{"{\"id\":\"\\u00e9\\\"\"}", "\xc3\xa9\""},
		{"{\"id\":\"a\\u0000b\",\"name\":\"n\"}", "n"},
		{"{\"i\\u0064\":\"a\",\"id\":\"b\"}", "a"},
		{" {\"x\":{\"id\":\"no\"},\"id\":\"yes\"} ", "yes"},
		{"{\"x\":{\"id\":\"no\"}}", NULL},
		{"{\"id\":null}", NULL},
		{"{}", NULL},
		{"", NULL},
		{"[{\"id\":\"x\"}]", NULL},
		{"\"id\"", NULL},
		{"{\"id\":\"x\"", NULL},
		{"{\"id\":\"x\"}}", NULL},
		{"{\"id\":\"\xff\"}", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct buf out = {0};

		assert_int_equal(wire_message_id(slice_str(cases[i].json), &out), cases[i].want != NULL);
		if (cases[i].want != NULL)
			assert_written(&out, cases[i].want);
		assert_int_equal(out.n, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_success_reads_as_in_the_contract),
		cmocka_unit_test(a_failure_reads_as_in_the_contract),
		cmocka_unit_test(attempts_are_told_oldest_first),
		cmocka_unit_test(a_downstream_may_wish_for_no_wait),
		cmocka_unit_test(what_is_not_final_says_what_is_known),
		cmocka_unit_test(an_attempt_under_way_counts_while_its_batch_is_live),
		cmocka_unit_test(what_never_started_says_why),
		cmocka_unit_test(a_batch_has_nulls_until_it_is_done),
		cmocka_unit_test(results_stand_in_order),
		cmocka_unit_test(times_are_rfc_3339),
		cmocka_unit_test(times_agree_with_the_c_library),
		cmocka_unit_test(strings_are_escaped_and_always_valid),
		cmocka_unit_test(problems_are_rfc_9457),
		cmocka_unit_test(a_querys_errors_are_listed_with_their_true_count),
		cmocka_unit_test(problem_names_are_the_tables),
		cmocka_unit_test(a_message_id_is_found_in_an_answer),
	};

	return cmocka_run_group_tests_name("wire_write", tests, NULL, NULL);
}
