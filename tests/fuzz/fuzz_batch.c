/*
 * Any bytes as a batch. What must hold, with jansson as an independent judge:
 *  1. malformed exactly when jansson says so;
 *  2. a refusal is a problem document whose errors add up;
 *  3. an accepted payload lies inside the body, and is the value that jansson
 *     finds there; under validate_only its service takes it;
 *  4. the results of an accepted batch are JSON without duplicate keys, one per
 *     item, and the counts add up;
 *  5. a string that is written reads back as it was.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "wire/wire-i.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int find_service(const void *ctx, struct slice name)
{
	(void)ctx;
	return slice_eq(name, SLICE("push")) ? 0 : -1;
}

static const char *check_to(const void *ctx, int service, struct slice to)
{
	(void)ctx;
	(void)service;
	return to.p[0] == '!' ? "not this one" : NULL;
}

enum { SERVICE_TAKES = 100 };

static size_t service_takes(const void *ctx, int service, const char **ret_name)
{
	(void)ctx;
	(void)service;
	*ret_name = "push";
	return SERVICE_TAKES;
}

static const struct wire_rules rules = {
	.max_items = 50,
	.max_payload = 200,
	.max_priority = 9,
	.max_depth = 12,
	.default_deadline_ms = 30000,
	.max_deadline_ms = 86400000,
	.default_service = 0,
	.find_service = find_service,
	.check_to = check_to,
	.service_takes = service_takes,
};

static json_t *judge(struct slice text, size_t flags, enum json_error_code *ret)
{
	json_error_t error;
	json_t *doc = json_loadb(text.p, text.n, JSON_DECODE_ANY | JSON_ALLOW_NUL | flags, &error);

	*ret = doc == NULL ? json_error_code(&error) : json_error_unknown;
	return doc;
}

/* Numbers it cannot hold, NUL in keys. */
static bool cannot_say(enum json_error_code e)
{
	return e == json_error_numeric_overflow || e == json_error_null_byte_in_key;
}

static json_t *must_be_json(const struct buf *out)
{
	struct value v;
	struct scan s;
	enum json_error_code e;
	json_t *doc = judge(buf_slice(out), JSON_REJECT_DUPLICATES, &e);

	REQUIRE(!out->failed);
	scan_init(&s, buf_slice(out), 64);
	REQUIRE(scan_value(&s, &v) && scan_end(&s));
	scan_free(&s);
	REQUIRE(doc != NULL || cannot_say(e));
	return doc;
}

static void check_refusal(enum problem kind, const struct buf *error)
{
	json_t *doc = must_be_json(error), *errors, *e;
	size_t i;

	REQUIRE(json_integer_value(json_object_get(doc, "status")) == problem_status(kind));
	errors = json_object_get(doc, "errors");
	REQUIRE(kind == PROBLEM_MALFORMED_JSON || json_array_size(errors) > 0);
	REQUIRE(kind == PROBLEM_MALFORMED_JSON ||
		json_array_size(errors) ==
			(size_t)MIN(json_integer_value(json_object_get(doc, "error_count")), FAULTS_LISTED));
	json_array_foreach(errors, i, e) {
		REQUIRE(json_string_value(json_object_get(e, "pointer"))[0] == '#');
		REQUIRE(json_string_length(json_object_get(e, "detail")) > 0);
	}
	json_decref(doc);
}

static void check_payloads(const struct batch *b, json_t *doc)
{
	json_t *items = json_object_get(doc, "items");

	REQUIRE(doc == NULL || json_array_size(items) == b->counts.total);
	for (uint32_t i = 0; i < b->counts.total; i++) {
		const struct item *it = &b->items[i];
		json_t *want = json_object_get(json_array_get(items, i), "payload"), *have;
		enum json_error_code e;

		if (it->state == ITEM_FINAL) {
			REQUIRE(b->policy.contract == CONTRACT_BEST_EFFORT && it->detail != NULL);
			continue;
		}
		REQUIRE(it->id.p != NULL && it->to.n > 0 && it->payload.n > 0);
		REQUIRE(!b->policy.validate_only || it->payload.n <= SERVICE_TAKES);
		REQUIRE(it->payload.p >= b->body->p && it->payload.p + it->payload.n <= b->body->p + b->body->n);
		if (doc == NULL)
			continue;
		if (want == NULL)
			want = json_object_get(doc, "payload");
		have = judge(it->payload, 0, &e);
		REQUIRE(have != NULL && json_equal(have, want));
		json_decref(have);
	}
}

static void check_batch(const struct batch *b, json_t *doc)
{
	const struct counts *c = &b->counts;
	struct buf out = {0};
	json_t *answer;

	REQUIRE(c->total == c->succeeded + c->failed + c->indeterminate + c->not_attempted + c->pending);
	check_payloads(b, doc);
	wire_batch(&out, b, true);
	REQUIRE(memchr(out.p, '\n', out.n) == NULL);
	answer = must_be_json(&out);
	REQUIRE(answer == NULL || json_array_size(json_object_get(answer, "results")) == c->total);
	json_decref(answer);
	buf_free(&out);
}

static void check_string(struct slice text)
{
	struct buf out = {0};
	enum json_error_code e;
	json_t *raw = json_stringn(text.p, text.n), *back;

	wire_string(&out, text);
	back = judge(buf_slice(&out), 0, &e);
	REQUIRE(back != NULL);
	/* Text that is no UTF-8 is changed, and jansson has no value for it. */
	REQUIRE(raw == NULL || json_equal(raw, back));
	json_decref(raw);
	json_decref(back);
	buf_free(&out);
}

static unsigned depth_of(struct slice text)
{
	unsigned depth = 0, most = 0;

	for (size_t i = 0; i < text.n; i++) {
		if (text.p[i] == '[' || text.p[i] == '{')
			most = MAX(most, ++depth);
		else if ((text.p[i] == ']' || text.p[i] == '}') && depth > 0)
			depth--;
	}
	return most;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct slice text = {(const char *)data, n};
	struct buf copy = {0}, error = {0}, id = {0};
	enum problem kind = PROBLEM_MAX;
	struct batch *b = NULL;
	enum json_error_code e;
	struct blob *body;
	json_t *doc;
	int rc;

	buf_add(&copy, data, n);
	body = blob_from_buf(&copy);
	REQUIRE(body != NULL);
	rc = wire_read_batch(body, &rules, &b, &kind, &error);
	doc = judge(text, 0, &e);
	/* jansson's own limit of depth is higher, and a NUL may end its text. */
	if (memchr(data, '\0', n) == NULL && depth_of(text) <= rules.max_depth && (doc != NULL || !cannot_say(e)))
		REQUIRE((doc == NULL) == (kind == PROBLEM_MALFORMED_JSON));
	if (rc == 0) {
		check_batch(b, doc);
		batch_unref(b);
	} else {
		REQUIRE(rc == -EINVAL && body->refs == 1);
		check_refusal(kind, &error);
		blob_unref(body);
	}
	if (wire_message_id(text, &id))
		REQUIRE(id.n > 0 && memchr(id.p, '\0', id.n) == NULL);
	check_string(text);
	json_decref(doc);
	buf_free(&error);
	buf_free(&id);
	return 0;
}
