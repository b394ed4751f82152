#include "wire-kit.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#define GOOD "{\"id\":\"a\",\"to\":\"x\",\"payload\":1,\"service\":\"push\"}"
#define BATCH(members) "{" members ",\"items\":[" GOOD "]}"
#define ITEM(members) "{\"service\":\"push\",\"items\":[{" members "}]}"
#define ID_TO "\"id\":\"a\",\"to\":\"x\","
#define TEN "0123456789"
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN
#define ESCAPED_32 ESCAPED_8 ESCAPED_8 ESCAPED_8 ESCAPED_8
#define ESCAPED_8 "\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061"
#define FIVE_HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED

/* "pointer code" of each error, one a line. */
static void summarise(const struct kit_read *k, struct buf *out)
{
	json_t *doc = json_loadb(k->error.p, k->error.n, JSON_REJECT_DUPLICATES, NULL);
	json_t *errors = json_object_get(doc, "errors"), *e;
	size_t i;

	assert_non_null(doc);
	assert_int_equal(json_integer_value(json_object_get(doc, "status")), problem_status(k->kind));
	assert_string_equal(json_string_value(json_object_get(doc, "code")), problem_str(k->kind));
	assert_true((size_t)json_integer_value(json_object_get(doc, "error_count")) >= json_array_size(errors));
	json_array_foreach(errors, i, e) {
		assert_true(json_string_length(json_object_get(e, "detail")) > 10);
		buf_printf(out, "%s%s %s", i > 0 ? "\n" : "", json_string_value(json_object_get(e, "pointer")),
			   json_string_value(json_object_get(e, "code")));
	}
	json_decref(doc);
	buf_add_char(out, '\0');
}

static void assert_refused(const struct wire_rules *rules, struct slice text, const char *want)
{
	struct kit_read k = kit_read(rules, text);
	struct buf have = {0};

	if (k.rc != -EINVAL)
		print_message("accepted: %.*s\n", (int)MIN(text.n, (size_t)300), text.p);
	assert_int_equal(k.rc, -EINVAL);
	assert_int_equal(k.kind, PROBLEM_VALIDATION_FAILED);
	summarise(&k, &have);
	assert_string_equal(have.p, want);
	buf_free(&have);
	kit_done(&k);
}

static struct kit_read accepted(const struct wire_rules *rules, const char *text)
{
	struct kit_read k = kit_read(rules, slice_str(text));

	if (k.rc != 0)
		print_message("%.*s\n%s\n", (int)k.error.n, k.error.p, text);
	assert_int_equal(k.rc, 0);
	return k;
}

static void assert_text(struct slice have, const char *want)
{
	assert_int_equal(have.n, strlen(want));
	assert_memory_equal(have.p, want, have.n);
}

static const struct {
	const char *text, *want;
} refusals[] = {
	/* The document. */
	{"3", "# type"},
	{"[]", "# type"},
	{"{}", "#/items required"},
	{"{\"items\":{}}", "#/items type"},
	{"{\"items\":null}", "#/items type"},
	{"{\"items\":[]}", "#/items empty_batch"},
	{"{\"items\":[3,null,[]],\"service\":\"push\"}", "#/items/0 type\n#/items/1 type\n#/items/2 type"},
	{BATCH("\"contarct\":1"), "#/contarct unknown_field"},
	{BATCH("\"a/b~c d\\u00e9%\":1"), "#/a~1b~0c%20d%C3%A9%25 unknown_field"},
	{BATCH("\"\":1"), "#/ unknown_field"},
	{"{\"items\":[" GOOD "],\"items\":3}", "#/items duplicate_key"},
	{BATCH("\"delivery\":\"at_most_once\",\"deliver\\u0079\":\"at_most_once\""), "#/delivery duplicate_key"},
	{BATCH("\"x\":1,\"x\":{\"y\":1,\"y\":2}"),
	 "#/x unknown_field\n#/x duplicate_key\n#/x unknown_field\n#/x/y duplicate_key"},
	/* Enumerations. */
	{BATCH("\"contract\":\"best\""), "#/contract enum"},
	{BATCH("\"contract\":null"), "#/contract type"},
	{BATCH("\"order\":\"ANY\""), "#/order enum"},
	{BATCH("\"order\":1"), "#/order type"},
	{BATCH("\"delivery\":\"\""), "#/delivery enum"},
	{BATCH("\"delivery\":false"), "#/delivery type"},
	{BATCH("\"on_disconnect\":\"continue \""), "#/on_disconnect enum"},
	{BATCH("\"on_disconnect\":[]"), "#/on_disconnect type"},
	{BATCH("\"validate_only\":\"true\""), "#/validate_only type"},
	{BATCH("\"validate_only\":null"), "#/validate_only type"},
	{BATCH("\"include\":\"attempts\""), "#/include type"},
	{BATCH("\"include\":[\"attempt\",1]"), "#/include/0 enum\n#/include/1 type"},
	/* Integers. */
	{BATCH("\"concurrency\":0"), "#/concurrency range"},
	{BATCH("\"concurrency\":1025"), "#/concurrency range"},
	{BATCH("\"concurrency\":1.0"), "#/concurrency type"},
	{BATCH("\"concurrency\":1e2"), "#/concurrency type"},
	{BATCH("\"concurrency\":1E2"), "#/concurrency type"},
	{BATCH("\"concurrency\":\"1\""), "#/concurrency type"},
	{BATCH("\"concurrency\":-1"), "#/concurrency range"},
	{BATCH("\"concurrency\":18446744073709551617"), "#/concurrency range"},
	{BATCH("\"concurrency\":-99999999999999999999999999"), "#/concurrency range"},
	{BATCH("\"order\":\"sequential\",\"concurrency\":2"), "#/concurrency conflict"},
	{BATCH("\"concurrency\":64,\"order\":\"sequential\""), "#/concurrency conflict"},
	{BATCH("\"priority\":-1"), "#/priority range"},
	{BATCH("\"priority\":10"), "#/priority range"},
	{BATCH("\"priority\":\"9\""), "#/priority type"},
	{BATCH("\"priority\":5.0"), "#/priority type"},
	{BATCH("\"deadline_ms\":0"), "#/deadline_ms range"},
	{BATCH("\"deadline_ms\":86400001"), "#/deadline_ms range"},
	{BATCH("\"deadline_ms\":null"), "#/deadline_ms type"},
	{BATCH("\"attempt_timeout_ms\":0"), "#/attempt_timeout_ms range"},
	{BATCH("\"attempt_timeout_ms\":3600001"), "#/attempt_timeout_ms range"},
	{BATCH("\"retry\":3"), "#/retry type"},
	{BATCH("\"retry\":{\"max_attempts\":0}"), "#/retry/max_attempts range"},
	{BATCH("\"retry\":{\"max_attempts\":21}"), "#/retry/max_attempts range"},
	{BATCH("\"retry\":{\"base_ms\":-1}"), "#/retry/base_ms range"},
	{BATCH("\"retry\":{\"base_ms\":3600001,\"cap_ms\":86400001}"),
	 "#/retry/base_ms range\n#/retry/cap_ms range"},
	{BATCH("\"retry\":{\"max\":10}"), "#/retry/max unknown_field"},
	{BATCH("\"retry\":{\"cap_ms\":500,\"cap_ms\":500}"), "#/retry/cap_ms duplicate_key"},
	/* Metadata. */
	{BATCH("\"metadata\":[]"), "#/metadata type"},
	{BATCH("\"metadata\":{\"a\":1}"), "#/metadata/a type"},
	{BATCH("\"metadata\":{\"a\":\"1\",\"a\":\"1\"}"), "#/metadata/a duplicate_key"},
	{BATCH("\"metadata\":{\"a\":\"" HUNDRED FIVE_HUNDRED FIVE_HUNDRED "\"}"), "#/metadata length"},
	{BATCH("\"metadata\":{\"1\":\"\",\"2\":\"\",\"3\":\"\",\"4\":\"\",\"5\":\"\",\"6\":\"\",\"7\":\"\","
	       "\"8\":\"\",\"9\":\"\",\"10\":\"\",\"11\":\"\",\"12\":\"\",\"13\":\"\",\"14\":\"\","
	       "\"15\":\"\",\"16\":\"\",\"17\":\"\"}"), "#/metadata length"},
	/* Services. */
	{BATCH("\"service\":\"pigeon\""), "#/service unknown_service"},
	{BATCH("\"service\":\"\""), "#/service length"},
	{BATCH("\"service\":1"), "#/service type"},
	{"{\"items\":[{" ID_TO "\"payload\":1}]}", "#/items/0/service required"},
	{"{\"service\":0,\"items\":[{" ID_TO "\"payload\":1}]}", "#/service type"},
	{ITEM(ID_TO "\"payload\":1,\"service\":\"pigeon\""), "#/items/0/service unknown_service"},
	{ITEM(ID_TO "\"payload\":1,\"service\":null"), "#/items/0/service type"},
	/* Items. */
	{ITEM("\"to\":\"x\",\"payload\":1"), "#/items/0/id required"},
	{ITEM("\"id\":\"a\",\"payload\":1"), "#/items/0/to required"},
	{ITEM("\"id\":\"a\",\"to\":\"x\""), "#/items/0/payload required"},
	{"{\"items\":[{}]}", "#/items/0/id required\n#/items/0/to required\n#/items/0/payload required\n"
			     "#/items/0/service required"},
	{ITEM("\"id\":7,\"to\":\"x\",\"payload\":1"), "#/items/0/id type"},
	{ITEM("\"id\":\"\",\"to\":\"x\",\"payload\":1"), "#/items/0/id length"},
	{ITEM("\"id\":\"" HUNDRED TEN TEN "012345678\",\"to\":\"x\",\"payload\":1"), "#/items/0/id length"},
	{ITEM("\"id\":\"" FIVE_HUNDRED FIVE_HUNDRED "\",\"to\":\"x\",\"payload\":1"), "#/items/0/id length"},
	{ITEM("\"id\":\"a b\",\"to\":\"x\",\"payload\":1"), "#/items/0/id format"},
	{ITEM("\"id\":\"a\\u0000\",\"to\":\"x\",\"payload\":1"), "#/items/0/id format"},
	{ITEM("\"id\":\"\xc3\xa9\",\"to\":\"x\",\"payload\":1"), "#/items/0/id format"},
	{ITEM("\"id\":\"a\",\"to\":\"\",\"payload\":1"), "#/items/0/to length"},
	{ITEM("\"id\":\"a\",\"to\":null,\"payload\":1"), "#/items/0/to type"},
	{ITEM("\"id\":\"a\",\"to\":\"x\\u0000y\",\"payload\":1"), "#/items/0/to format"},
	{ITEM("\"id\":\"a\",\"payload\":1,\"to\":\"" FIVE_HUNDRED FIVE_HUNDRED FIVE_HUNDRED FIVE_HUNDRED
	      TEN TEN TEN TEN "012345678\""), "#/items/0/to length"},
	{ITEM(ID_TO "\"payload\":1,\"service\":\"mail\""), "#/items/0/to format"},
	{ITEM(ID_TO "\"payload\":{\"a\":[{\"b\":1,\"b\":1}]}"), "#/items/0/payload/a/0/b duplicate_key"},
	{ITEM(ID_TO "\"payload\":1,\"dedupe_key\":\"\""), "#/items/0/dedupe_key length"},
	{ITEM(ID_TO "\"payload\":1,\"dedupe_key\":\"a b\""), "#/items/0/dedupe_key format"},
	{ITEM(ID_TO "\"payload\":1,\"dedupe_key\":\"a\\n\""), "#/items/0/dedupe_key format"},
	{ITEM(ID_TO "\"payload\":1,\"dedupe_key\":\"a\x7f\""), "#/items/0/dedupe_key format"},
	{ITEM(ID_TO "\"payload\":1,\"dedupe_key\":\"\xc3\xa9\""), "#/items/0/dedupe_key format"},
	{ITEM(ID_TO "\"payload\":1,\"dedupe_key\":\"" HUNDRED HUNDRED TEN TEN TEN TEN TEN "012345\""),
	 "#/items/0/dedupe_key length"},
	{ITEM(ID_TO "\"payload\":1,\"ttl_ms\":0"), "#/items/0/ttl_ms range"},
	{ITEM(ID_TO "\"payload\":1,\"ttl_ms\":86400001"), "#/items/0/ttl_ms range"},
	{ITEM(ID_TO "\"payload\":1,\"ttl_ms\":null"), "#/items/0/ttl_ms type"},
	{ITEM(ID_TO "\"payload\":1,\"paylaod\":1"), "#/items/0/paylaod unknown_field"},
	{ITEM(ID_TO "\"payload\":1,\"to\":\"y\""), "#/items/0/to duplicate_key"},
	{"{\"items\":[" GOOD "," GOOD "]}", "#/items/1/id duplicate_id"},
	{"{\"items\":[" GOOD ",{\"i\\u0064\":\"\\u0061\",\"to\":\"x\",\"payload\":1}],\"service\":\"push\"}",
	 "#/items/1/id duplicate_id"},
	/* In the order of the items, whenever they were found. */
	{"{\"items\":[{\"id\":\"a\"},{\"id\":3,\"to\":\"x\"}],\"payload\":1,\"service\":\"push\"}",
	 "#/items/0/to required\n#/items/1/id type"},
	/* A batch's own faults refuse it under best_effort, too. */
	{"{\"items\":[{\"id\":\"a\"}],\"contract\":\"best_effort\",\"concurrency\":0}", "#/concurrency range"},
	{"{\"items\":[{\"id\":\"a\"}],\"contract\":\"best_effort\",\"validate_only\":true,\"payload\":1,"
	 "\"service\":\"push\"}", "#/items/0/to required"},
};

static void every_fault_has_its_pointer_and_code(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(refusals); i++)
		assert_refused(&kit_rules, slice_str(refusals[i].text), refusals[i].want);
}

static void defaults_are_the_contracts(void **state)
{
	struct kit_read k = accepted(&kit_rules, "{\"items\":[" GOOD "]}");
	const struct policy *p = &k.batch->policy;
	const struct item *it = &k.batch->items[0];

	(void)state;
	assert_int_equal(p->contract, CONTRACT_PARTIAL_SUCCESS);
	assert_false(p->sequential || p->at_most_once || p->continue_on_disconnect);
	assert_false(p->include_attempts || p->validate_only);
	assert_int_equal(p->concurrency, 64);
	assert_int_equal(p->priority, 5);
	assert_int_equal(p->deadline_ms, 30000);
	assert_int_equal(p->attempt_timeout_ms, 0);
	assert_int_equal(p->retry.max_attempts, 3);
	assert_int_equal(p->retry.base_ms, 100);
	assert_int_equal(p->retry.cap_ms, 2000);
	assert_int_equal(k.batch->metadata.n, 0);
	assert_int_equal(it->ttl_ms, HEAP_NONE);
	assert_null(it->dedupe_key.p);
	assert_int_equal(it->state, ITEM_PENDING);
	assert_int_equal(k.batch->counts.pending, 1);
	kit_done(&k);
}

static void every_member_arrives(void **state)
{
	struct kit_read k = accepted(&kit_rules,
		"{\"items\":[{\"id\":\"u1\",\"to\":\"us\\u0065r@1\",\"dedupe_key\":\"order-7:u1\",\"ttl_ms\":60000},"
		"{\"service\":\"push\",\"to\":\"p\",\"payload\":null,\"id\":\"A-z_.:@/+0\"}],"
		"\"contract\":\"all_or_nothing\",\"order\":\"sequential\",\"concurrency\":1,\"deadline_ms\":86400000,"
		"\"priority\":9,"
		"\"attempt_timeout_ms\":3600000,\"delivery\":\"at_most_once\",\"on_disconnect\":\"continue\","
		"\"retry\":{\"max_attempts\":20,\"base_ms\":0,\"cap_ms\":0},\"include\":[\"attempts\",\"attempts\"],"
		"\"validate_only\":false,\"metadata\":{ \"k\\\" :\" :\n\"v \\\\\"},\"service\":\"mail\",\"payload\":[ ]}");
	const struct policy *p = &k.batch->policy;
	const struct item *it = k.batch->items;

	(void)state;
	assert_int_equal(k.batch->counts.total, 2);
	assert_text(it[0].id, "u1");
	assert_text(it[0].to, "user@1");
	assert_text(it[0].payload, "[ ]");
	assert_text(it[0].dedupe_key, "order-7:u1");
	assert_int_equal(it[0].ttl_ms, 60000);
	assert_int_equal(it[0].service, 1);
	assert_text(it[1].id, "A-z_.:@/+0");
	assert_text(it[1].payload, "null");
	assert_int_equal(it[1].service, 0);
	assert_int_equal(p->contract, CONTRACT_ALL_OR_NOTHING);
	assert_true(p->sequential && p->at_most_once && p->continue_on_disconnect && p->include_attempts);
	assert_int_equal(p->concurrency, 1);
	assert_int_equal(p->priority, 9);
	assert_int_equal(p->deadline_ms, 86400000);
	assert_int_equal(p->attempt_timeout_ms, 3600000);
	assert_int_equal(p->retry.max_attempts, 20);
	assert_int_equal(p->retry.base_ms, 0);
	assert_int_equal(p->retry.cap_ms, 0);
	assert_text(k.batch->metadata, "{\"k\\\" :\":\"v \\\\\"}");
	kit_done(&k);
}

static void sequential_means_a_concurrency_of_one(void **state)
{
	struct kit_read k = accepted(&kit_rules, BATCH("\"order\":\"sequential\""));

	(void)state;
	assert_int_equal(k.batch->policy.concurrency, 1);
	kit_done(&k);
}

static void a_callers_bound_on_priority_bounds_the_default_too(void **state)
{
	struct wire_rules rules = kit_rules;
	struct kit_read k;

	(void)state;
	rules.max_priority = 3;
	k = accepted(&rules, BATCH("\"priority\":3"));
	assert_int_equal(k.batch->policy.priority, 3);
	kit_done(&k);
	k = accepted(&rules, "{\"items\":[" GOOD "]}");
	assert_int_equal(k.batch->policy.priority, 3);
	kit_done(&k);
	assert_refused(&rules, slice_str(BATCH("\"priority\":4")), "#/priority range");
}

static void rules_give_the_other_defaults(void **state)
{
	struct wire_rules rules = kit_rules;
	struct kit_read k;

	(void)state;
	rules.default_service = 0;
	rules.default_retry = (struct retry_policy){.max_attempts = 10, .base_ms = 1000, .cap_ms = 3600000};
	rules.default_deadline_ms = 86400000;
	k = accepted(&rules, "{\"retry\":{\"max_attempts\":2},\"items\":[{" ID_TO "\"payload\":1}]}");
	assert_int_equal(k.batch->policy.retry.max_attempts, 2);
	assert_int_equal(k.batch->policy.retry.base_ms, 1000);
	assert_int_equal(k.batch->policy.retry.cap_ms, 3600000);
	assert_int_equal(k.batch->policy.deadline_ms, 86400000);
	assert_int_equal(k.batch->items[0].service, 0);
	kit_done(&k);
}

/* So that a default can be told from a wish that is the same. */
static void what_was_given_is_known(void **state)
{
	static const struct {
		const char *text;
		unsigned given;
	} cases[] = {
		{BATCH("\"deadline_ms\":30000"), GIVEN_DEADLINE},
		{BATCH("\"retry\":{\"max_attempts\":3}"), GIVEN_MAX_ATTEMPTS},
		{BATCH("\"retry\":{\"base_ms\":0}"), GIVEN_BASE},
		{BATCH("\"retry\":{\"cap_ms\":2000}"), GIVEN_CAP},
		{BATCH("\"deadline_ms\":1,\"retry\":{\"base_ms\":1,\"cap_ms\":0,\"max_attempts\":1}"), GIVEN_ALL},
		{BATCH("\"retry\":{},\"concurrency\":1,\"attempt_timeout_ms\":1"), 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct kit_read k = accepted(&kit_rules, cases[i].text);

		assert_int_equal(k.batch->policy.given, cases[i].given);
		kit_done(&k);
	}
}

/* The wait is min(cap_ms, base_ms * 2^(n-1)): the smaller one simply wins. */
static void a_base_over_the_cap_is_the_cap(void **state)
{
	struct kit_read k = accepted(&kit_rules, BATCH("\"retry\":{\"base_ms\":11,\"cap_ms\":10}"));

	(void)state;
	assert_int_equal(k.batch->policy.retry.base_ms, 11);
	assert_int_equal(k.batch->policy.retry.cap_ms, 10);
	kit_done(&k);
	k = accepted(&kit_rules, BATCH("\"retry\":{\"cap_ms\":10}"));
	assert_int_equal(k.batch->policy.retry.base_ms, 100);
	assert_int_equal(k.batch->policy.retry.cap_ms, 10);
	kit_done(&k);
	k = accepted(&kit_rules, BATCH("\"retry\":{\"base_ms\":2001}"));
	assert_int_equal(k.batch->policy.retry.base_ms, 2001);
	assert_int_equal(k.batch->policy.retry.cap_ms, 2000);
	kit_done(&k);
}

static void bounds_themselves_are_fine(void **state)
{
	static const char *const texts[] = {
		BATCH("\"concurrency\":1024"), BATCH("\"concurrency\":1"), BATCH("\"deadline_ms\":1"),
		BATCH("\"priority\":0"), BATCH("\"priority\":9"),
		BATCH("\"attempt_timeout_ms\":1"), BATCH("\"retry\":{}"), BATCH("\"include\":[]"),
		BATCH("\"retry\":{\"base_ms\":3600000,\"cap_ms\":86400000}"), BATCH("\"metadata\":{}"),
		BATCH("\"retry\":{\"base_ms\":10,\"cap_ms\":10}"), BATCH("\"retry\":{\"base_ms\":-0}"),
		BATCH("\"metadata\":{\"a\":\"" FIVE_HUNDRED FIVE_HUNDRED "0123456789012345\"}"),
		BATCH("\"metadata\":{\"a\":\"" FIVE_HUNDRED FIVE_HUNDRED "0123456789012345\"    }"),
		ITEM("\"id\":\"" HUNDRED TEN TEN "01234567\",\"to\":\"x\",\"payload\":1"),
		ITEM("\"id\":\"" ESCAPED_32 ESCAPED_32 ESCAPED_32 ESCAPED_32 "\",\"to\":\"x\",\"payload\":1"),
		ITEM("\"id\":\"a\",\"payload\":1,\"to\":\"" FIVE_HUNDRED FIVE_HUNDRED FIVE_HUNDRED FIVE_HUNDRED
		     TEN TEN TEN TEN "01234567\""),
		ITEM(ID_TO "\"payload\":1,\"dedupe_key\":\"" HUNDRED HUNDRED TEN TEN TEN TEN TEN "!~345\""),
		ITEM(ID_TO "\"payload\":1,\"ttl_ms\":86400000"), ITEM(ID_TO "\"payload\":1,\"ttl_ms\":1"),
		" \t\r\n{ \"items\" : [ " GOOD " ] } \n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct kit_read k = accepted(&kit_rules, texts[i]);

		kit_done(&k);
	}
}

static void payloads_stay_as_received(void **state)
{
	static const char *const payloads[] = {
		"1.10", "-0", "12345678901234567890", "1e400", "0.1E-0009", "\"\\u00e9\\/\\u0000\\ud83d\\ude00\"", "\"\"",
		"{\"z\":1,\"a\":2,\"m\":{ \"k\" : [ 1 ,\t2 ] } }", "[]", "{}", "null", "true", "false",
		"\"\xf0\x9f\x98\x80 \xc3\xa9\"", "[1,\n  2]",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(payloads); i++) {
		char text[512];
		struct kit_read k;
		struct slice have;

		snprintf(text, sizeof text, ITEM(ID_TO "\"payload\": %s "), payloads[i]);
		k = accepted(&kit_rules, text);
		have = k.batch->items[0].payload;
		assert_text(have, payloads[i]);
		assert_true(have.p >= k.batch->body->p && have.p + have.n <= k.batch->body->p + k.batch->body->n);
		kit_done(&k);
	}
}

static void a_payload_has_a_limit(void **state)
{
	struct wire_rules rules = kit_rules;
	struct kit_read k;

	(void)state;
	rules.max_payload = 5;
	k = accepted(&rules, ITEM(ID_TO "\"payload\": [1,2] "));
	kit_done(&k);
	assert_refused(&rules, SLICE(ITEM(ID_TO "\"payload\":[1,22]")), "#/items/0/payload length");
	assert_refused(&rules, SLICE("{\"payload\":\"1234\",\"items\":[" GOOD "]}"), "#/payload length");
}

static size_t mail_takes_three(const void *ctx, int service, const char **ret_name)
{
	(void)ctx;
	*ret_name = service == 1 ? "mail" : "push";
	return service == 1 ? 3 : SIZE_MAX;
}

/* Otherwise it is a result of its item, once the others have gone out. */
static void validation_alone_finds_what_a_service_does_not_take(void **state)
{
#define TWO "\"service\":\"mail\",\"items\":[{\"id\":\"a\",\"to\":\"x@y\",\"payload\":1234}," \
	"{\"id\":\"b\",\"to\":\"x@y\"},{\"id\":\"c\",\"to\":\"x\",\"payload\":1234,\"service\":\"push\"}]"
	struct wire_rules rules = kit_rules;
	struct kit_read k;

	(void)state;
	rules.service_takes = mail_takes_three;
	k = accepted(&rules, "{\"payload\":123," TWO "}");
	kit_done(&k);
	assert_refused(&rules, SLICE("{\"payload\":123,\"validate_only\":true," TWO "}"), "#/items/0/payload length");
	assert_refused(&rules, SLICE("{\"payload\":[ 1],\"contract\":\"best_effort\"," TWO ",\"validate_only\":true}"),
		       "#/items/0/payload length\n#/items/1/payload length");
	k = kit_read(&rules, SLICE("{\"payload\":123,\"validate_only\":true," TWO "}"));
	assert_non_null(memmem(k.error.p, k.error.n, "has 4 bytes; the service \\\"mail\\\" takes at most 3\"", 48));
	kit_done(&k);
	k = accepted(&rules, "{\"payload\":123,\"validate_only\":true,\"service\":\"mail\",\"items\":["
		     "{\"id\":\"a\",\"to\":\"x@y\"}]}");
	kit_done(&k);
#undef TWO
}

/* Of a thousand and more faults a hundred are listed, and all are counted. */
static void a_hundred_faults_are_listed_and_all_counted(void **state)
{
	struct buf text = {0};
	struct kit_read k;
	json_t *doc;

	(void)state;
	buf_add_str(&text, "{\"concurrency\":0,\"x\":1,\"service\":\"push\",\"items\":[");
	for (int i = 0; i < 1000; i++)
		buf_printf(&text, "%s{\"id\":\"i%d\",\"payload\":1}", i > 0 ? "," : "", i);
	buf_add_str(&text, "]}");
	k = kit_read(&kit_rules, buf_slice(&text));
	assert_int_equal(k.rc, -EINVAL);
	doc = json_loadb(k.error.p, k.error.n, 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(doc, "error_count")), 1002);
	assert_int_equal(json_array_size(json_object_get(doc, "errors")), 100);
	json_decref(doc);
	assert_non_null(memmem(k.error.p, k.error.n, "#/items/97/to\",\"item_id\":\"i97\"", 30));
	assert_null(memmem(k.error.p, k.error.n, "#/items/98/", 11));
	kit_done(&k);
	buf_free(&text);
}

static void more_items_than_allowed_refuse_the_batch(void **state)
{
	struct wire_rules rules = kit_rules;

	(void)state;
	rules.max_items = 2;
	assert_refused(&rules, SLICE("{\"contract\":\"best_effort\",\"items\":[" GOOD ",3,{\"x\":1,\"x\":{}}]}"),
		       "#/items too_many_items");
}

static void best_effort_settles_what_is_invalid(void **state)
{
	static const char text[] =
		"{\"items\":[{\"id\":\"a\",\"payload\":1},{\"id\":\"b\",\"to\":\"x\",\"payload\":1},"
		"{\"id\":\"b\",\"to\":\"x\",\"payload\":1},{\"id\":\"no good\",\"to\":\"x\",\"payload\":1},[]],"
		"\"service\":\"push\",\"contract\":\"best_effort\"}";
	struct kit_read k = accepted(&kit_rules, text);
	struct item *it = k.batch->items;
	struct buf out = {0};

	(void)state;
	assert_int_equal(k.batch->counts.total, 5);
	assert_int_equal(k.batch->counts.failed, 4);
	assert_int_equal(k.batch->counts.pending, 1);
	assert_int_equal(it[1].state, ITEM_PENDING);
	assert_int_equal(it[0].state, ITEM_FINAL);
	assert_int_equal(it[0].code, CODE_INVALID_ITEM);
	assert_int_equal(it[0].stop, STOP_NOT_RETRYABLE);
	assert_string_equal(it[0].detail, "to: required: every item needs a recipient");
	assert_string_equal(it[2].detail, "id: duplicate_id: an earlier item has the id \"b\", too");
	assert_text(it[2].id, "b");
	assert_null(it[3].id.p);
	assert_string_equal(it[4].detail, "type: this must be an object, not an array");
	wire_item(&out, &it[4]);
	buf_add_char(&out, '\0');
	assert_string_equal(out.p, "{\"index\":4,\"id\":null,\"status\":\"failed\",\"ok\":false,\"delivered\":\"no\","
			    "\"retryable\":false,\"duplicate_risk\":false,\"attempts\":0,\"stop\":\"not_retryable\","
			    "\"error\":{\"code\":\"invalid_item\",\"message\":\"type: this must be an object, not an "
			    "array\"}}");
	buf_free(&out);
	kit_done(&k);
}

static void best_effort_accepts_a_batch_of_nothing_but_faults(void **state)
{
	struct kit_read k = accepted(&kit_rules, "{\"contract\":\"best_effort\",\"items\":[1,2,{}]}");

	(void)state;
	assert_int_equal(k.batch->counts.failed, 3);
	kit_done(&k);
}

static void best_effort_says_what_is_wrong_with_each(void **state)
{
	struct buf text = {0};
	struct kit_read k;

	(void)state;
	buf_add_str(&text, "{\"contract\":\"best_effort\",\"service\":\"push\",\"items\":[");
	for (int i = 0; i < 300; i++)
		buf_printf(&text, "%s{\"id\":\"%d\",\"to\":\"x\"}", i > 0 ? "," : "", i);
	buf_add_str(&text, "]}");
	k = kit_read(&kit_rules, buf_slice(&text));
	assert_int_equal(k.rc, 0);
	for (uint32_t i = 0; i < 300; i++)
		assert_string_equal(k.batch->items[i].detail,
				    "payload: required: the item has no payload and the batch no default for it");
	kit_done(&k);
	buf_free(&text);
}

static void best_effort_says_how_many_faults_an_item_has(void **state)
{
	struct kit_read k = accepted(&kit_rules,
		"{\"contract\":\"best_effort\",\"service\":\"push\",\"items\":[{\"id\":\"a\",\"to\":\"x\"},"
		"{\"id\":\"b\"},{\"id\":\"c d\",\"ttl_ms\":0}]}");

	(void)state;
	assert_string_equal(k.batch->items[0].detail,
			    "payload: required: the item has no payload and the batch no default for it");
	assert_string_equal(k.batch->items[1].detail, "to: required: every item needs a recipient; and 1 more");
	assert_string_equal(k.batch->items[2].detail,
			    "id: format: an id is made of letters, digits and _ . : @ / + -; and 3 more");
	kit_done(&k);
}

static void long_paths_do_not_make_long_answers(void **state)
{
	struct buf text = {0}, have = {0};
	struct kit_read k;

	(void)state;
	buf_add_str(&text, "{\"items\":[" GOOD "],\"x\":");
	for (int i = 0; i < 20; i++)
		buf_add_str(&text, "{\"" HUNDRED HUNDRED "\":");
	buf_add_str(&text, "{\"k\":1,\"k\":2}");
	for (int i = 0; i < 20; i++)
		buf_add_str(&text, "}");
	buf_add_str(&text, "}");
	k = kit_read(&kit_rules, buf_slice(&text));
	summarise(&k, &have);
	assert_string_equal(have.p, "#/x unknown_field\n#/x/" HUNDRED HUNDRED "/" HUNDRED HUNDRED "/" HUNDRED HUNDRED "/"
			    HUNDRED HUNDRED "/" HUNDRED HUNDRED " duplicate_key");
	buf_free(&have);
	kit_done(&k);
	buf_free(&text);
}

/* A hundred pointers, each with the caller's key of a hundred kilobytes, would
 * be a large answer to a small request. */
static void long_keys_do_not_make_long_answers(void **state)
{
	struct buf text = {0};
	struct kit_read k;

	(void)state;
	buf_add_str(&text, "{\"items\":[" GOOD "],\"");
	for (int i = 0; i < 100000; i++)
		buf_add_str(&text, "\xc3\xa9");
	buf_add_str(&text, "\":{\"x\":[");
	for (int i = 0; i < 200; i++)
		buf_printf(&text, "%s{\"k\":1,\"k\":2}", i > 0 ? "," : "");
	buf_add_str(&text, "]}}");
	k = kit_read(&kit_rules, buf_slice(&text));
	assert_int_equal(k.kind, PROBLEM_VALIDATION_FAILED);
	assert_true(k.error.n < 20000);
	assert_non_null(memmem(k.error.p, k.error.n, "\"pointer\":\"#\"", 13));
	kit_done(&k);
	buf_free(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_fault_has_its_pointer_and_code),
		cmocka_unit_test(defaults_are_the_contracts),
		cmocka_unit_test(every_member_arrives),
		cmocka_unit_test(sequential_means_a_concurrency_of_one),
		cmocka_unit_test(a_callers_bound_on_priority_bounds_the_default_too),
		cmocka_unit_test(rules_give_the_other_defaults),
		cmocka_unit_test(what_was_given_is_known),
		cmocka_unit_test(a_base_over_the_cap_is_the_cap),
		cmocka_unit_test(bounds_themselves_are_fine),
		cmocka_unit_test(payloads_stay_as_received),
		cmocka_unit_test(a_payload_has_a_limit),
		cmocka_unit_test(validation_alone_finds_what_a_service_does_not_take),
		cmocka_unit_test(a_hundred_faults_are_listed_and_all_counted),
		cmocka_unit_test(more_items_than_allowed_refuse_the_batch),
		cmocka_unit_test(best_effort_settles_what_is_invalid),
		cmocka_unit_test(best_effort_accepts_a_batch_of_nothing_but_faults),
		cmocka_unit_test(best_effort_says_what_is_wrong_with_each),
		cmocka_unit_test(best_effort_says_how_many_faults_an_item_has),
		cmocka_unit_test(long_paths_do_not_make_long_answers),
		cmocka_unit_test(long_keys_do_not_make_long_answers),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
