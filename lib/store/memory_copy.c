/*
 * Batches of one thread made into batches of another: bytes of the shared body
 * are pointed at, all else is copied.
 */
#include "store/memory-i.h"

static bool inside(const struct blob *body, const char *p)
{
	return body != NULL && p >= body->p && p < body->p + body->n;
}

/* False: no memory. */
static bool carry(struct batch *to, struct slice from, struct slice *ret)
{
	*ret = from;
	if (from.p == NULL || inside(to->body, from.p))
		return true;
	*ret = arena_copy(&to->arena, from);
	return ret->p != NULL;
}

static bool carry_text(struct batch *to, const char *from, const char **ret)
{
	struct slice s;

	if (!carry(to, slice_str(from), &s))
		return false;
	*ret = s.p;
	return true;
}

static bool copy_key(struct batch *to, const struct batch_key *from)
{
	struct batch_key *key;

	if (from == NULL)
		return true;
	key = arena_alloc(&to->arena, sizeof *key);
	if (key == NULL)
		return false;
	*key = *from;
	to->key = key;
	return carry(to, from->scope, &key->scope) && carry(to, from->key, &key->key);
}

struct batch *memory_copy_head(const struct batch *from, uint32_t n_items)
{
	struct blob *body = from->body == NULL ? NULL : blob_ref(from->body);
	struct batch *to = batch_new(body, n_items);

	if (to == NULL) {
		blob_unref(body);
		return NULL;
	}
	to->id = from->id;
	to->policy = from->policy;
	to->asynchronous = from->asynchronous;
	to->durable = from->durable;
	to->retry_of = from->retry_of;
	to->trace = from->trace;
	to->counts = from->counts;
	to->created_unix_ms = from->created_unix_ms;
	to->finished_unix_ms = from->finished_unix_ms;
	to->expires_unix_ms = from->expires_unix_ms;
	to->accepted_us = from->created_unix_ms * 1000;
	to->finished_us = from->finished_us == 0 ? 0 : to->accepted_us + from->finished_us - from->accepted_us;
	to->state = from->state;
	to->outcome = from->outcome;
	to->stop_reason = from->stop_reason;
	if (carry(to, from->metadata, &to->metadata) && carry(to, from->tenant, &to->tenant) && carry(to, from->trace.state, &to->trace.state) &&
	    carry(to, from->payload, &to->payload) && copy_key(to, from->key))
		return to;
	batch_unref(to);
	return NULL;
}

/* The newest first, as they are; those that `to` has already stay. */
static bool copy_records(struct item *to, const struct attempt_record *from)
{
	struct attempt_record *known = to->records, **at = &to->records;

	for (; from != NULL && (known == NULL || from->n > known->n); from = from->next) {
		struct attempt_record *r = arena_alloc(&to->batch->arena, sizeof *r);

		if (r == NULL) {
			to->records = known;
			return false;
		}
		*r = *from;
		r->next = known;
		*at = r;
		at = &r->next;
	}
	return true;
}

bool memory_copy_facts(struct item *to, const struct item *from, const struct batch *from_batch)
{
	if (!carry_text(to->batch, from->detail, &to->detail) ||
	    !carry_text(to->batch, from->message_id, &to->message_id) || !copy_records(to, from->records))
		return false;
	to->started_us = from->started_us == 0 ? 0 :
			 from->started_us - from_batch->accepted_us + from_batch->created_unix_ms * 1000;
	to->retry_after_ms = from->retry_after_ms;
	to->due_unix_ms = from->state == ITEM_WAITING ? from->due_unix_ms : 0;
	to->latency_ms = from->latency_ms;
	to->http_status = from->http_status;
	to->attempts = from->attempts;
	to->refused = from->refused;
	to->state = from->state;
	to->status = from->status;
	to->code = from->code;
	to->delivered = from->delivered;
	to->stop = from->stop;
	to->duplicate_risk = from->duplicate_risk;
	return true;
}

bool memory_copy_item(struct item *to, const struct item *from, const struct batch *from_batch)
{
	to->index = from->index;
	to->service = from->service;
	to->ttl_ms = from->ttl_ms;
	atomic_store(&to->in_flight, atomic_load(&from->in_flight));
	return carry(to->batch, from->id, &to->id) && memory_copy_facts(to, from, from_batch);
}

bool memory_copy_letter(struct item *to, const struct item *from)
{
	struct batch *b = to->batch;

	if (item_shares_payload(from))
		to->payload = b->payload;
	else if (!carry(b, from->payload, &to->payload))
		return false;
	return carry(b, from->to, &to->to) && carry(b, from->dedupe_key, &to->dedupe_key);
}
