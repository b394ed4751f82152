/*
 * The checks of the document that a client reads: parsed back by jansson, every
 * fact in it against the ledger and the contract's own rules.
 */
#include <jansson.h>

#include "sim.h"

static const char *text(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s == NULL ? "" : s;
}

static int64_t number(const json_t *object, const char *key)
{
	const json_t *v = json_object_get(object, key);

	CHECK(DOCUMENT, json_is_integer(v), "%s is no integer", key);
	return json_integer_value(v);
}

static bool boolean(const json_t *object, const char *key)
{
	const json_t *v = json_object_get(object, key);

	CHECK(DOCUMENT, json_is_boolean(v), "%s is no boolean", key);
	return json_is_true(v);
}

static enum code to_code(const char *name)
{
	for (unsigned c = CODE_OK + 1; c < CODE_MAX; c++)
		if (strcmp(code_str((enum code)c), name) == 0)
			return (enum code)c;
	sim_fail(RULE_DOCUMENT, "the code %s is not in the list", name);
}

/* A time that was written down may have lost a millisecond on its way. */
static bool is_about(const struct sim_batch *b, int64_t is, int64_t want)
{
	return b->durable ? is >= want - 2 && is <= want + 2 : is == want;
}

/* When an interrupted attempt began, nobody knows. */
static bool any_interrupted(const struct sim_item *si)
{
	for (int i = si->first; i >= 0; i = sim.requests[i].next)
		if (sim.requests[i].interrupted)
			return true;
	return false;
}

/* ok, delivered and error are three views of one fact; status follows. */
static void check_facts(const struct sim_batch *b, const json_t *r, const struct sim_item *si)
{
	const json_t *error = json_object_get(r, "error");
	bool ok = boolean(r, "ok"), yes = strcmp(text(r, "delivered"), "yes") == 0;
	enum code code = error == NULL ? CODE_OK : to_code(text(error, "code"));
	int64_t attempts = number(r, "attempts");

	CHECK(OK, ok == yes && ok == (error == NULL), "item %s: ok %d, delivered %s, error %d", si->id, ok,
	      text(r, "delivered"), error != NULL);
	CHECK(OK, attempts > 0 || strcmp(text(r, "delivered"), "no") == 0, "item %s: delivered unattempted", si->id);
	CHECK(ATTEMPTS, attempts == si->starts, "item %s: %lld attempts", si->id, (long long)attempts);
	CHECK(DOCUMENT, code == si->code, "item %s: code %s", si->id, text(error, "code"));
	CHECK(DOCUMENT, strcmp(text(r, "delivered"), delivered_str((enum delivered)si->delivered)) == 0,
	      "item %s: delivered %s", si->id, text(r, "delivered"));
	CHECK(DOCUMENT,
	      strcmp(text(r, "status"), status_str(model_status((enum delivered)si->delivered, si->starts, code))) == 0,
	      "item %s: status %s", si->id, text(r, "status"));
	CHECK(DOCUMENT, boolean(r, "retryable") == (!ok && model_retryable(code)), "item %s: retryable", si->id);
	CHECK(DUPLICATE, !boolean(r, "duplicate_risk") || attempts >= 2, "item %s: duplicate_risk", si->id);
	CHECK(DOCUMENT, strcmp(text(r, "stop"), ok ? "" : stop_str((enum stop)si->stop)) == 0, "item %s: stop %s",
	      si->id, text(r, "stop"));
	if (error != NULL)
		CHECK(DOCUMENT, text(error, "message")[0] != '\0', "item %s: no message", si->id);
	if (attempts > 0 && !any_interrupted(si))
		CHECK(DOCUMENT,
		      is_about(b, number(r, "latency_ms"), (si->final_us - sim.requests[si->first].start_us) / 1000),
		      "item %s: latency_ms %lld", si->id, (long long)number(r, "latency_ms"));
}

static void check_message_id(const json_t *r, const struct sim_item *si)
{
	const struct request *last = si->last < 0 ? NULL : &sim.requests[si->last];
	char want[64] = "";

	if (last != NULL && last->recorded && last->answer.status / 100 == 2 &&
	    last->answer.end == ANSWER_COMPLETE && last->answer.body.n > 0 &&
	    strncmp(last->answer.body.p, "{\"id\":\"", 7) == 0)
		snprintf(want, sizeof want, "%.*s", (int)strcspn(last->answer.body.p + 7, "\""),
			 last->answer.body.p + 7);
	CHECK(DOCUMENT, strcmp(text(r, "message_id"), want) == 0, "item %s: message_id %s, not %s", si->id,
	      text(r, "message_id"), want);
}

/* The records of `include`, one per request in the ledger. */
static void check_log(const struct sim_batch *b, const json_t *r, const struct sim_item *si)
{
	const json_t *log = json_object_get(r, "attempt_log");
	size_t n = 0;

	CHECK(DOCUMENT, (log != NULL) == b->want.include_attempts, "item %s: attempt_log", si->id);
	if (log == NULL)
		return;
	CHECK(ATTEMPTS, json_array_size(log) == si->starts, "item %s: %zu records", si->id, json_array_size(log));
	for (int i = si->first; i >= 0; i = sim.requests[i].next, n++) {
		const json_t *a = json_array_get(log, n);
		const struct request *q = &sim.requests[i];
		struct verdict v = model_judge(b, q);
		const char *code = text(a, "code");

		CHECK(DOCUMENT, number(a, "n") == (int64_t)n + 1, "item %s: record %zu is out of order", si->id, n);
		CHECK(VERDICT, v.codes >> (code[0] == '\0' ? CODE_OK : to_code(code)) & 1,
		      "item %s: record %zu has %s", si->id, n, code);
		CHECK(VERDICT, strcmp(text(a, "delivered"), delivered_str(v.delivered)) == 0,
		      "item %s: record %zu, delivered %s", si->id, n, text(a, "delivered"));
		CHECK(DOCUMENT, q->interrupted || number(a, "duration_ms") == (q->done_us - q->start_us) / 1000,
		      "item %s: record %zu, duration_ms", si->id, n);
		CHECK(DOCUMENT, json_integer_value(json_object_get(a, "http_status")) == q->answer.status,
		      "item %s: record %zu, http_status", si->id, n);
	}
}

static void check_counts(const json_t *doc, const json_t *results)
{
	const json_t *counts = json_object_get(doc, "counts"), *r;
	int64_t n[STATUS_MAX] = {0};
	size_t i;

	json_array_foreach(results, i, r)
		for (unsigned s = 0; s < STATUS_MAX; s++)
			n[s] += strcmp(text(r, "status"), status_str((enum status)s)) == 0;
	CHECK(COUNTS,
	      number(counts, "total") == (int64_t)json_array_size(results) && number(counts, "pending") == 0 &&
		      number(counts, "succeeded") == n[STATUS_SUCCEEDED] &&
		      number(counts, "failed") == n[STATUS_FAILED] &&
		      number(counts, "indeterminate") == n[STATUS_INDETERMINATE] &&
		      number(counts, "not_attempted") == n[STATUS_NOT_ATTEMPTED],
	      "the document's counts are not those of its results");
}

static void check_head(const struct sim_batch *b, const json_t *doc)
{
	char id[BATCH_ID_LEN + 1];

	batch_id_format(b->id, id);
	CHECK(DOCUMENT, strcmp(text(doc, "id"), id) == 0, "id %s", text(doc, "id"));
	CHECK(DOCUMENT, strcmp(text(doc, "state"), "done") == 0, "state %s", text(doc, "state"));
	CHECK(DOCUMENT, strcmp(text(doc, "contract"), contract_str(b->want.contract)) == 0, "contract %s",
	      text(doc, "contract"));
	CHECK(DOCUMENT, strcmp(text(doc, "outcome"), batch_outcome_str(b->b->outcome)) == 0, "outcome %s",
	      text(doc, "outcome"));
	CHECK(DOCUMENT, strcmp(text(doc, "stop_reason"), stop_reason_str(b->b->stop_reason)) == 0, "stop_reason %s",
	      text(doc, "stop_reason"));
	CHECK(DOCUMENT, is_about(b, number(doc, "duration_ms"), (b->done_us - b->accepted_us) / 1000), "duration_ms");
}

void check_document(const struct sim_batch *b, struct slice json)
{
	json_t *doc = json_loadb(json.p, json.n, JSON_REJECT_DUPLICATES, NULL);
	const json_t *results = json_object_get(doc, "results");

	CHECK(DOCUMENT, doc != NULL, "the document is no JSON: %.*s", (int)json.n, json.p);
	check_head(b, doc);
	CHECK(RESULTS, json_array_size(results) == b->n_items, "%zu results", json_array_size(results));
	for (unsigned i = 0; i < b->n_items; i++) {
		const json_t *r = json_array_get(results, i);
		const struct sim_item *si = &b->items[i];

		CHECK(RESULTS, number(r, "index") == i && strcmp(text(r, "id"), si->id) == 0,
		      "result %u is that of %s", i, text(r, "id"));
		CHECK(DOCUMENT, json_object_get(r, "payload") == NULL, "result %u echoes its payload", i);
		check_facts(b, r, si);
		check_message_id(r, si);
		check_log(b, r, si);
	}
	check_counts(doc, results);
	json_decref(doc);
}
