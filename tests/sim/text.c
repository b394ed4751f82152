/*
 * A planned batch as the JSON that a client would send, read by lib/wire.
 */
#include <stdio.h>
#include <stdlib.h>

#include "channel/channel.h"
#include "sim.h"
#include "wire/wire.h"

static void gap(struct buf *out)
{
	static const char *const gaps[] = {"", "", "", " ", "\n", "\t \r\n"};

	buf_add_str(out, gaps[dice_below(ARRAY_LEN(gaps))]);
}

/* A member with what stands before it; `value` is JSON. */
static void member(struct buf *out, const char *key, const char *value)
{
	if (out->p[out->n - 1] != '{')
		buf_add_char(out, ',');
	gap(out);
	buf_printf(out, "\"%s\":", key);
	gap(out);
	buf_add_str(out, value);
}

static void member_str(struct buf *out, const char *key, const char *value)
{
	char text[160];

	snprintf(text, sizeof text, "\"%s\"", value);
	member(out, key, text);
}

static void member_int(struct buf *out, const char *key, int64_t value)
{
	char text[32];

	snprintf(text, sizeof text, "%lld", (long long)value);
	member(out, key, text);
}

static void add_policy(struct buf *out, const struct sim_batch *b)
{
	const struct policy *p = &b->want;
	char retry[128];

	if (b->plain)
		return;
	member_str(out, "contract", contract_str(p->contract));
	member_str(out, "order", p->sequential ? "sequential" : "any");
	if (!p->sequential || dice_chance(50))
		member_int(out, "concurrency", p->concurrency);
	member_int(out, "deadline_ms", p->deadline_ms);
	if (p->attempt_timeout_ms != 0)
		member_int(out, "attempt_timeout_ms", p->attempt_timeout_ms);
	member_str(out, "delivery", p->at_most_once ? "at_most_once" : "at_least_once");
	member_str(out, "on_disconnect", p->continue_on_disconnect ? "continue" : "abort");
	snprintf(retry, sizeof retry, "{\"max_attempts\":%u,\"base_ms\":%lld, \"cap_ms\":%lld}",
		 p->retry.max_attempts, (long long)p->retry.base_ms, (long long)p->retry.cap_ms);
	member(out, "retry", retry);
	if (p->include_attempts)
		member(out, "include", "[\"attempts\"]");
}

static void add_item(struct buf *out, const struct sim_item *it)
{
	buf_add_char(out, '{');
	member_str(out, "id", it->id);
	if (!it->invalid)
		member_str(out, "to", it->to);
	if (it->own_payload)
		member(out, "payload", it->payload);
	if (it->own_service)
		member_str(out, "service", sim.services[it->service].name);
	if (it->key[0] != '\0')
		member_str(out, "dedupe_key", it->key);
	if (it->ttl_ms != HEAP_NONE)
		member_int(out, "ttl_ms", it->ttl_ms);
	gap(out);
	buf_add_char(out, '}');
}

static struct blob *to_json(const struct sim_batch *b)
{
	struct buf out = {0};

	buf_add_char(&out, '{');
	add_policy(&out, b);
	member_str(&out, "service", sim.services[b->items[0].service].name);
	member(&out, "payload", b->items[0].payload);
	member(&out, "items", "[");
	for (unsigned i = 0; i < b->n_items; i++) {
		if (i > 0)
			buf_add_char(&out, ',');
		gap(&out);
		add_item(&out, &b->items[i]);
	}
	buf_add_str(&out, "]}");
	return blob_from_buf(&out);
}

static int find_service(const void *ctx, struct slice name)
{
	(void)ctx;
	for (size_t i = 0; i < sim.config.n_services; i++)
		if (slice_eq(name, slice_str(sim.services[i].name)))
			return (int)i;
	return -1;
}

static const char *check_to(const void *ctx, int service, struct slice to)
{
	(void)ctx;
	return channel_check_to(&sim.services[service], to);
}

/* What a route reads from the request's headers. */
static void add_headers(const struct sim_batch *b, struct batch *real)
{
	struct batch_key *key;
	char text[32];

	real->asynchronous = b->asynchronous;
	real->durable = b->durable;
	real->policy.priority = b->want.priority;
	real->tenant = arena_copy(&real->arena, model_tenant(b->tenant));
	if (b->key == 0)
		return;
	key = arena_alloc(&real->arena, sizeof *key);
	REQUIRE(key != NULL);
	snprintf(text, sizeof text, "key-%u", b->key);
	*key = (struct batch_key){.scope = SLICE("POST /v1/batches"), .key = arena_copy(&real->arena, slice_str(text))};
	memcpy(key->digest, &b->body, sizeof b->body);
	real->key = key;
}

struct batch *text_to_batch(const struct sim_batch *b)
{
	const struct wire_rules rules = {
		.max_items = sim.config.limits.items,
		.max_payload = sim.config.limits.payload_bytes,
		.max_depth = sim.config.limits.json_depth,
		.default_deadline_ms = sim.config.limits.deadline_ms,
		.max_deadline_ms = sim.config.limits.max_deadline_ms,
		.default_service = -1,
		.find_service = find_service,
		.check_to = check_to,
	};
	CLEANUP(buf_free) struct buf error = {0};
	struct blob *body = to_json(b);
	enum problem problem;
	struct batch *ret;

	if (wire_read_batch(body, &rules, &ret, &problem, &error) != 0)
		sim_fail(RULE_ADMISSION, "wire refuses a batch: %.*s\n# %.*s", (int)error.n, error.p, (int)body->n,
			 body->p);
	add_headers(b, ret);
	return ret;
}
