/*
 * Which items of a batch a retry takes, and the batch that is made of them.
 */
#include "wire-kit.h"

#include <errno.h>
#include <stdio.h>

#define ITEMS                                                                                                \
	"{\"metadata\":{\"k\":\"v\"},\"payload\":{\"shared\":1.10},\"service\":\"push\",\"contract\":\"best_effort\"," \
	"\"items\":[{\"id\":\"yes\",\"to\":\"t0\"},{\"id\":\"no\",\"to\":\"t1\",\"ttl_ms\":77},"                     \
	"{\"id\":\"maybe\",\"to\":\"t2\",\"dedupe_key\":\"mine\",\"payload\":[2]},{\"id\":\"gone\",\"to\":\"t3\"},"  \
	"{\"id\":\"never\",\"to\":\"t4\",\"service\":\"mail\",\"payload\":4},{\"id\":\"late\",\"to\":\"t@5\",\"service\":\"mail\"}]}"

enum { YES, NO, MAYBE, GONE, NEVER, LATE };

static void settle(struct batch *b, uint32_t i, enum code code, enum delivered delivered)
{
	const struct outcome o = {.code = code, .delivered = delivered, .http_status = 200, .retry_after_ms = RETRY_AFTER_NONE};

	item_record(&b->items[i], &o, 1000, 2000, 0);
	item_settle(&b->items[i], code, code == CODE_OK ? STOP_NONE : STOP_MAX_ATTEMPTS, 2000);
	if (delivered == DELIVERED_YES)
		b->items[i].to = b->items[i].payload = b->items[i].dedupe_key = (struct slice){0};
}

/* A batch that is done, an item for each way to end. `never` was refused already. */
static struct kit_read finished(void)
{
	struct kit_read k = kit_read(&kit_rules, SLICE(ITEMS));

	assert_int_equal(k.rc, 0);
	k.batch->id = (struct batch_id){0x0123456789abcdef, 0xfedcba9876543210};
	settle(k.batch, YES, CODE_OK, DELIVERED_YES);
	settle(k.batch, NO, CODE_RATE_LIMITED, DELIVERED_NO);
	settle(k.batch, MAYBE, CODE_TIMEOUT, DELIVERED_MAYBE);
	settle(k.batch, GONE, CODE_RECIPIENT_GONE, DELIVERED_NO);
	assert_int_equal(k.batch->items[NEVER].state, ITEM_FINAL);
	item_settle(&k.batch->items[LATE], CODE_NOT_ATTEMPTED, STOP_CANCELLED, 2000);
	assert_int_equal(k.batch->counts.pending, 0);
	return k;
}

struct chosen {
	uint32_t at[8], n;
	enum problem kind;
	struct buf error;
	int rc;
};

static struct chosen choose(const struct batch *b, struct slice body)
{
	struct chosen c = {.kind = PROBLEM_MAX};
	struct wire_retry *w = NULL;

	c.rc = wire_read_retry(body, 8, &w, &c.kind, &c.error);
	if (c.rc == 0)
		c.rc = wire_retry_choose(w, b, c.at, &c.n, &c.kind, &c.error);
	wire_retry_free(w);
	buf_add_char(&c.error, '\0');
	return c;
}

static void assert_chosen(struct slice body, const uint32_t *want, uint32_t n)
{
	struct kit_read k = finished();
	struct chosen c = choose(k.batch, body);

	assert_int_equal(c.rc, 0);
	assert_int_equal(c.n, n);
	assert_memory_equal(c.at, want, n * sizeof *want);
	buf_free(&c.error);
	kit_done(&k);
}

static void a_retry_is_safe_unless_it_says_otherwise(void **state)
{
	const uint32_t safe[] = {NO, LATE}, maybe[] = {NO, MAYBE, LATE};

	(void)state;
	assert_chosen((struct slice){0}, safe, 2);
	assert_chosen(SLICE("{}"), safe, 2);
	assert_chosen(SLICE(" {\"select\" : \"s\\u0061fe\"} "), safe, 2);
	assert_chosen(SLICE("{\"select\":\"include_maybe\"}"), maybe, 3);
}

static void ids_are_taken_in_the_order_of_the_batch(void **state)
{
	const uint32_t want[] = {NO, MAYBE, GONE};

	(void)state;
	assert_chosen(SLICE("{\"ids\":[\"gone\",\"m\\u0061ybe\",\"no\"]}"), want, 3);
}

static void assert_refused_of(struct kit_read k, struct slice body, enum problem kind, const char *const *parts)
{
	struct chosen c = choose(k.batch, body);

	assert_int_equal(c.rc, -EINVAL);
	assert_int_equal(c.kind, kind);
	assert_int_equal(c.n, 0);
	for (; *parts != NULL; parts++) {
		if (strstr(c.error.p, *parts) == NULL)
			fail_msg("%s is not in %s", *parts, c.error.p);
	}
	buf_free(&c.error);
	kit_done(&k);
}

static void assert_refused(struct slice body, enum problem kind, const char *const *parts)
{
	assert_refused_of(finished(), body, kind, parts);
}

#define PARTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void what_cannot_be_sent_again_is_told_one_by_one(void **state)
{
	(void)state;
	assert_refused(SLICE("{\"ids\":[\"no\",\"yes\",\"ye\",\"no\",\"never\"]}"), PROBLEM_VALIDATION_FAILED,
		       PARTS("\"error_count\":4", "{\"pointer\":\"#/ids/1\",\"code\":\"conflict\"", "was delivered",
			     "{\"pointer\":\"#/ids/2\",\"code\":\"enum\"", "{\"pointer\":\"#/ids/3\",\"code\":\"duplicate_id\"",
			     "{\"pointer\":\"#/ids/4\",\"code\":\"enum\""));
	assert_refused(SLICE("{\"ids\":[]}"), PROBLEM_NOTHING_SELECTED, PARTS("nothing_selected"));
}

/* As a batch that nobody promised to keep is read after a crash: that it ran, without
 * its letters. */
static struct kit_read cut_off(void)
{
	struct kit_read k = kit_read(&kit_rules, SLICE("{\"service\":\"push\",\"payload\":1,\"items\":["
						       "{\"id\":\"u0\",\"to\":\"t\"},{\"id\":\"u1\",\"to\":\"t\"}]}"));

	assert_int_equal(k.rc, 0);
	for (uint32_t i = 0; i < 2; i++) {
		settle(k.batch, i, CODE_INTERRUPTED, DELIVERED_MAYBE);
		k.batch->items[i].to = k.batch->items[i].payload = (struct slice){0};
	}
	return k;
}

static void what_was_never_stored_is_not_called_delivered(void **state)
{
	(void)state;
	assert_refused_of(cut_off(), SLICE("{\"ids\":[\"u0\"]}"), PROBLEM_VALIDATION_FAILED,
			  PARTS("\"error_count\":1", "{\"pointer\":\"#/ids/0\",\"code\":\"conflict\"",
				"the payload of the item \\\"u0\\\" is not kept, as the batch had no key"));
	assert_refused_of(cut_off(), SLICE("{\"select\":\"include_maybe\"}"), PROBLEM_NOTHING_SELECTED,
			  PARTS("the payloads of the items that could be sent again are not kept"));
	assert_refused_of(cut_off(), SLICE("{}"), PROBLEM_NOTHING_SELECTED, PARTS("surely not delivered"));
}

static void a_wish_has_to_make_sense(void **state)
{
	(void)state;
	assert_refused(SLICE("{\"ids\":[\"no\"],\"select\":\"safe\"}"), PROBLEM_VALIDATION_FAILED,
		       PARTS("#/ids\",\"code\":\"conflict\""));
	assert_refused(SLICE("{\"selected\":1,\"ids\":{}}"), PROBLEM_VALIDATION_FAILED,
		       PARTS("#/selected\",\"code\":\"unknown_field\"", "did you mean \\\"select\\\"", "#/ids\",\"code\":\"type\""));
	assert_refused(SLICE("{\"ids\":[\"no\"],\"ids\":[]}"), PROBLEM_VALIDATION_FAILED, PARTS("duplicate_key"));
	assert_refused(SLICE("\"safe\""), PROBLEM_VALIDATION_FAILED, PARTS("\"pointer\":\"#\",\"code\":\"type\""));
	assert_refused(SLICE("{\"ids\":[\"no\"]"), PROBLEM_MALFORMED_JSON, PARTS("malformed_json"));
	assert_refused(SLICE("{\"ids\":[[[[[[[[[]]]]]]]]]}"), PROBLEM_MALFORMED_JSON, PARTS("the depth limit is 8"));
}

static void items_whose_service_is_gone_are_named(void **state)
{
	static const char *const bodies[] = {"", "{\"ids\":[\"late\"]}"};
	static const char *const pointers[] = {"#/select", "#/ids"};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct kit_read k = finished();
		struct chosen c;

		k.batch->items[LATE].service = ITEM_NO_SERVICE;
		c = choose(k.batch, slice_str(bodies[i]));
		assert_int_equal(c.rc, -EINVAL);
		assert_non_null(strstr(c.error.p, pointers[i]));
		assert_non_null(strstr(c.error.p, "\"code\":\"unknown_service\""));
		assert_non_null(strstr(c.error.p, "late"));
		buf_free(&c.error);
		kit_done(&k);
	}
}

static void the_new_batch_sends_what_the_first_did_under_the_same_keys(void **state)
{
	const uint32_t which[] = {NO, MAYBE, LATE};
	struct kit_read k = finished();
	struct batch *first = k.batch, *b = batch_again(first, which, 3), *next;
	char id[BATCH_ID_LEN + 1], key[64];

	(void)state;
	assert_non_null(b);
	assert_true(batch_id_eq(b->retry_of, first->id));
	assert_int_equal(b->counts.total, 3);
	assert_int_equal(b->counts.pending, 3);
	assert_int_equal(b->policy.contract, CONTRACT_BEST_EFFORT);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(b->items[i].index, i);
		assert_int_equal(b->items[i].state, ITEM_PENDING);
		assert_true(slice_eq(b->items[i].id, first->items[which[i]].id));
		assert_true(slice_eq(b->items[i].to, first->items[which[i]].to));
		assert_true(slice_eq(b->items[i].payload, first->items[which[i]].payload));
		assert_int_equal(b->items[i].service, first->items[which[i]].service);
		assert_int_equal(b->items[i].ttl_ms, first->items[which[i]].ttl_ms);
	}
	assert_true(slice_eq(b->payload, SLICE("{\"shared\":1.10}")));
	assert_ptr_equal(b->items[0].payload.p, b->payload.p);
	assert_ptr_not_equal(b->items[1].payload.p, b->payload.p);
	batch_id_format(first->id, id);
	snprintf(key, sizeof key, "%s.no", id);
	assert_true(slice_eq(b->items[0].dedupe_key, slice_str(key)));
	assert_true(slice_eq(b->items[1].dedupe_key, SLICE("mine")));
	/* Nothing of it is the first batch's. */
	kit_done(&k);
	assert_true(slice_eq(b->metadata, SLICE("{\"k\":\"v\"}")));
	b->id = (struct batch_id){1, 2};
	next = batch_again(b, (const uint32_t[]){0, 1}, 2);
	batch_unref(b);
	assert_true(slice_eq(next->items[0].dedupe_key, slice_str(key)));
	assert_true(slice_eq(next->items[1].dedupe_key, SLICE("mine")));
	assert_true(slice_eq(next->items[1].payload, SLICE("[2]")));
	batch_unref(next);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_retry_is_safe_unless_it_says_otherwise),
		cmocka_unit_test(ids_are_taken_in_the_order_of_the_batch),
		cmocka_unit_test(what_cannot_be_sent_again_is_told_one_by_one),
		cmocka_unit_test(what_was_never_stored_is_not_called_delivered),
		cmocka_unit_test(a_wish_has_to_make_sense),
		cmocka_unit_test(items_whose_service_is_gone_are_named),
		cmocka_unit_test(the_new_batch_sends_what_the_first_did_under_the_same_keys),
	};

	return cmocka_run_group_tests_name("wire_retry", tests, NULL, NULL);
}
