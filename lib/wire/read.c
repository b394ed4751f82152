/*
 * A request's body to a batch.
 *
 * Invariants
 *  1. The body is JSON to its last byte before anything else is said about it:
 *     faults are gathered on the way and dropped if the scanner fails.
 *  2. Until the batch is built, what belongs in it lives in reader.arena; a call
 *     that fails frees everything and leaves the body to its caller.
 */
#include <errno.h>
#include <stdlib.h>

#include "wire/wire-i.h"

enum { MAX_CONCURRENCY = 1024, DEFAULT_CONCURRENCY = 64, MAX_ATTEMPTS = 20 };
enum { MAX_ATTEMPT_TIMEOUT_MS = 3600000, MAX_BASE_MS = 3600000, MAX_CAP_MS = 86400000 };
enum { METADATA_PAIRS = 16, METADATA_BYTES = 1024 };

/* The synchronous ones of the contract, section 3. */
static const struct retry_policy retry_defaults = {.max_attempts = 3, .base_ms = 100, .cap_ms = 2000};

static bool read_contract(struct reader *r)
{
	const char *names[CONTRACT_MAX];
	size_t v = r->policy.contract;

	for (size_t i = 0; i < CONTRACT_MAX; i++)
		names[i] = contract_str((enum contract)i);
	if (!read_enum(r, names, CONTRACT_MAX, &v))
		return false;
	r->policy.contract = (enum contract)v;
	return true;
}

/* One of two words: false for the first, true for the second. */
static bool read_choice(struct reader *r, const char *first, const char *second, bool *ret)
{
	size_t v = 0;

	if (!read_enum(r, (const char *[]){first, second}, 2, &v))
		return false;
	*ret = v == 1;
	return true;
}

static bool read_order(struct reader *r)
{
	return read_choice(r, "any", "sequential", &r->policy.sequential);
}

static bool read_delivery(struct reader *r)
{
	return read_choice(r, "at_least_once", "at_most_once", &r->policy.at_most_once);
}

static bool read_on_disconnect(struct reader *r)
{
	return read_choice(r, "abort", "continue", &r->policy.continue_on_disconnect);
}

static bool read_concurrency(struct reader *r)
{
	return read_int(r, 1, MAX_CONCURRENCY, &r->concurrency);
}

static bool read_priority(struct reader *r)
{
	return read_int(r, 0, r->rules->max_priority, &r->priority);
}

static bool read_deadline_ms(struct reader *r)
{
	return read_int(r, 1, r->rules->max_deadline_ms, &r->policy.deadline_ms);
}

static bool read_attempt_timeout_ms(struct reader *r)
{
	return read_int(r, 1, MAX_ATTEMPT_TIMEOUT_MS, &r->policy.attempt_timeout_ms);
}

static bool read_max_attempts(struct reader *r)
{
	return read_int(r, 1, MAX_ATTEMPTS, &r->max_attempts);
}

static bool read_base_ms(struct reader *r)
{
	return read_int(r, 0, MAX_BASE_MS, &r->policy.retry.base_ms);
}

static bool read_cap_ms(struct reader *r)
{
	return read_int(r, 0, MAX_CAP_MS, &r->policy.retry.cap_ms);
}

static const struct field retry_fields[] = {
	{"max_attempts", read_max_attempts},
	{"base_ms", read_base_ms},
	{"cap_ms", read_cap_ms},
};

static bool read_retry(struct reader *r)
{
	return read_object(r, retry_fields, ARRAY_LEN(retry_fields)) != OPEN_FAILED;
}

static bool read_included(struct reader *r)
{
	size_t which = SIZE_MAX;

	if (!read_enum(r, (const char *[]){"attempts"}, 1, &which))
		return false;
	if (which == 0)
		r->policy.include_attempts = true;
	return true;
}

static bool read_include(struct reader *r)
{
	return read_list(r, read_included) != OPEN_FAILED;
}

static bool read_validate_only(struct reader *r)
{
	return read_bool(r, &r->policy.validate_only);
}

/* An object without the white space between its parts: results are lines. */
static void compact(struct buf *out, struct slice json)
{
	bool inside = false;

	for (size_t i = 0; i < json.n; i++) {
		char c = json.p[i];

		if (inside && c == '\\')
			buf_add_char(out, json.p[i++]);
		else if (c == '"')
			inside = !inside;
		if (inside || (c != ' ' && c != '\t' && c != '\n' && c != '\r'))
			buf_add_char(out, json.p[i]);
	}
}

static void keep_metadata(struct reader *r, struct slice raw, size_t pairs)
{
	CLEANUP(buf_free) struct buf text = {0};

	if (pairs > METADATA_PAIRS)
		fault_here(r, FAULT_LENGTH, "metadata has %zu pairs; at most %d are allowed", pairs, METADATA_PAIRS);
	compact(&text, raw);
	if (!text.failed && text.n > METADATA_BYTES) {
		fault_here(r, FAULT_LENGTH, "metadata has %zu bytes; at most %d are allowed", text.n,
			   METADATA_BYTES);
		return;
	}
	if (!text.failed)
		r->metadata = arena_copy(&r->arena, buf_slice(&text));
	if (r->metadata.p == NULL)
		r->scan.no_memory = true;
}

static bool read_metadata(struct reader *r)
{
	size_t pairs = 0;
	struct value v;

	switch (read_open(r, KIND_OBJECT, &v)) {
	case OPEN_FAILED:
		return false;
	case OPEN_OTHER:
		return true;
	case OPENED:
		break;
	}
	for (;; pairs++) {
		struct value member;

		switch (scan_next(&r->scan)) {
		case STEP_FAILED:
			return false;
		case STEP_END:
			v.raw.n = (size_t)(r->scan.p - v.raw.p);
			keep_metadata(r, v.raw, pairs);
			return true;
		case STEP_MEMBER:
			if (!scan_value(&r->scan, &member))
				return false;
			if (member.kind != KIND_STRING)
				fault_here(r, FAULT_TYPE, "the values of metadata are strings");
			break;
		}
	}
}

static bool read_default_service(struct reader *r)
{
	return read_service(r, &r->service);
}

static bool read_default_payload(struct reader *r)
{
	r->payload_seen = true;
	return read_payload(r, &r->payload);
}

static const struct field batch_fields[] = {
	{"items", read_items},
	{"contract", read_contract},
	{"order", read_order},
	{"concurrency", read_concurrency},
	{"priority", read_priority},
	{"deadline_ms", read_deadline_ms},
	{"attempt_timeout_ms", read_attempt_timeout_ms},
	{"delivery", read_delivery},
	{"retry", read_retry},
	{"on_disconnect", read_on_disconnect},
	{"include", read_include},
	{"validate_only", read_validate_only},
	{"metadata", read_metadata},
	{"service", read_default_service},
	{"payload", read_default_payload},
};

static bool read_body(struct reader *r)
{
	enum opened found = read_object(r, batch_fields, ARRAY_LEN(batch_fields));

	if (found == OPEN_FAILED || !scan_end(&r->scan))
		return false;
	if (found == OPENED && !r->items_seen)
		fault_at(r, NO_ITEM, "items", FAULT_REQUIRED, "a batch needs items");
	return true;
}

static unsigned given_of(const struct reader *r)
{
	const struct policy *p = &r->policy;

	return (p->deadline_ms > 0 ? GIVEN_DEADLINE : 0) | (r->max_attempts > 0 ? GIVEN_MAX_ATTEMPTS : 0) |
	       (p->retry.base_ms >= 0 ? GIVEN_BASE : 0) | (p->retry.cap_ms >= 0 ? GIVEN_CAP : 0);
}

/* Defaults, and members that contradict each other. */
static void check_policy(struct reader *r)
{
	const struct wire_rules *rules = r->rules;
	const struct retry_policy *d = rules->default_retry.max_attempts != 0 ? &rules->default_retry
									      : &retry_defaults;
	struct policy *p = &r->policy;

	if (p->sequential && r->concurrency > 1)
		fault_at(r, NO_ITEM, "concurrency", FAULT_CONFLICT,
			 "order sequential means a concurrency of 1: leave one of the two out");
	p->given = given_of(r);
	p->concurrency = r->concurrency > 0 ? (unsigned)r->concurrency
					    : (p->sequential ? 1 : DEFAULT_CONCURRENCY);
	p->priority = r->priority >= 0 ? (unsigned)r->priority : MIN((unsigned)PRIORITY_DEFAULT, rules->max_priority);
	p->retry.max_attempts = r->max_attempts > 0 ? (unsigned)r->max_attempts : d->max_attempts;
	if (p->retry.base_ms < 0)
		p->retry.base_ms = d->base_ms;
	if (p->retry.cap_ms < 0)
		p->retry.cap_ms = d->cap_ms;
	if (p->deadline_ms == 0)
		p->deadline_ms = MIN(rules->default_deadline_ms, rules->max_deadline_ms);
	if (r->service == SERVICE_NONE && rules->default_service >= 0)
		r->service = rules->default_service;
}

static void fill_item(struct item *it, const struct draft *d)
{
	it->id = d->id;
	it->to = d->to;
	it->payload = d->payload;
	it->dedupe_key = d->dedupe_key;
	it->ttl_ms = d->ttl_ms;
	it->service = (uint16_t)MAX(d->service, 0);
	if (d->faults == 0)
		return;
	it->detail = d->detail;
	item_settle(it, CODE_INVALID_ITEM, STOP_NOT_RETRYABLE, 0);
}

static struct batch *build(struct reader *r, struct blob *body)
{
	struct batch *b = batch_new(body, (uint32_t)r->n_drafts);

	if (b == NULL)
		return NULL;
	b->policy = r->policy;
	b->metadata = r->metadata;
	b->payload = r->payload;
	for (size_t i = 0; i < r->n_drafts; i++)
		fill_item(&b->items[i], &r->drafts[i]);
	b->arena = r->arena;
	r->arena = (struct arena){0};
	return b;
}

static int read_all(struct reader *r, enum problem *ret_kind, struct buf *reterr)
{
	bool item_faults_refuse;

	if (!read_body(r)) {
		if (r->scan.no_memory)
			return -ENOMEM;
		*ret_kind = PROBLEM_MALFORMED_JSON;
		problem_malformed(reterr, &r->scan);
		return -EINVAL;
	}
	check_policy(r);
	if (check_items(r) < 0)
		return -ENOMEM;
	item_faults_refuse = r->policy.contract != CONTRACT_BEST_EFFORT || r->policy.validate_only;
	if (!item_faults_refuse)
		fault_count_more(r);
	if (r->scan.no_memory)
		return -ENOMEM;
	if (r->batch_faults.count == 0 && (r->item_faults.count == 0 || !item_faults_refuse))
		return 0;
	*ret_kind = PROBLEM_VALIDATION_FAILED;
	problem_invalid(reterr, r);
	return -EINVAL;
}

int wire_read_batch(struct blob *take_body, const struct wire_rules *rules, struct batch **ret,
		    enum problem *ret_kind, struct buf *reterr)
{
	struct reader r = {
		.rules = rules,
		.item = NO_ITEM,
		.service = SERVICE_NONE,
		.priority = -1,
		.policy = {.contract = CONTRACT_PARTIAL_SUCCESS, .retry = {.base_ms = -1, .cap_ms = -1}},
	};
	int rc;

	scan_init(&r.scan, (struct slice){take_body->p, take_body->n}, rules->max_depth);
	r.scan.on_duplicate = fault_duplicate_key;
	rc = read_all(&r, ret_kind, reterr);
	if (rc == 0) {
		*ret = build(&r, take_body);
		rc = *ret == NULL ? -ENOMEM : 0;
	} else if (reterr->failed) {
		rc = -ENOMEM;
	}
	free(r.drafts);
	scan_free(&r.scan);
	arena_free(&r.scratch);
	arena_free(&r.arena);
	return rc;
}
