/*
 * The items: first as drafts, since the defaults and the contract may follow
 * them in the body; then what needs the whole of it.
 */
#include <errno.h>
#include <stdlib.h>

#include "wire/wire-i.h"

enum { ID_MAX = 128, TO_MAX = 2048, DEDUPE_KEY_MAX = 255 };

static struct draft *draft(struct reader *r)
{
	return &r->drafts[r->item];
}

static bool is_id_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
	       (c != '\0' && strchr("_.:@/+-", c) != NULL);
}

static bool read_id(struct reader *r)
{
	struct slice id = {0};

	draft(r)->seen |= ITEM_ID;
	if (!read_string(r, 1, ID_MAX, &id))
		return false;
	for (size_t i = 0; i < id.n; i++) {
		if (!is_id_char(id.p[i])) {
			fault_here(r, FAULT_FORMAT, "an id is made of letters, digits and _ . : @ / + -");
			return true;
		}
	}
	draft(r)->id = id;
	return true;
}

static bool read_to(struct reader *r)
{
	struct slice to = {0};

	draft(r)->seen |= ITEM_TO;
	if (!read_string(r, 1, TO_MAX, &to))
		return false;
	if (to.p != NULL && memchr(to.p, '\0', to.n) != NULL)
		fault_here(r, FAULT_FORMAT, "a recipient cannot contain the character \\u0000");
	else
		draft(r)->to = to;
	return true;
}

static bool read_item_payload(struct reader *r)
{
	draft(r)->seen |= ITEM_PAYLOAD;
	return read_payload(r, &draft(r)->payload);
}

static bool read_item_service(struct reader *r)
{
	draft(r)->seen |= ITEM_SERVICE;
	return read_service(r, &draft(r)->service);
}

static bool read_dedupe_key(struct reader *r)
{
	struct slice key = {0};

	if (!read_string(r, 1, DEDUPE_KEY_MAX, &key))
		return false;
	for (size_t i = 0; i < key.n; i++) {
		if (key.p[i] < 0x21 || key.p[i] > 0x7e) {
			fault_here(r, FAULT_FORMAT, "a dedupe_key is made of printable ASCII characters "
						    "without spaces: it becomes a header's value");
			return true;
		}
	}
	draft(r)->dedupe_key = key;
	return true;
}

static bool read_ttl_ms(struct reader *r)
{
	return read_int(r, 1, r->rules->max_deadline_ms, &draft(r)->ttl_ms);
}

static const struct field item_fields[] = {
	{"id", read_id},
	{"to", read_to},
	{"payload", read_item_payload},
	{"service", read_item_service},
	{"dedupe_key", read_dedupe_key},
	{"ttl_ms", read_ttl_ms},
};

static bool add_draft(struct reader *r)
{
	if (r->n_drafts == r->drafts_cap) {
		size_t cap = r->drafts_cap == 0 ? 16 : r->drafts_cap * 2;
		struct draft *v = realloc(r->drafts, cap * sizeof *v);

		if (v == NULL) {
			r->scan.no_memory = true;
			return false;
		}
		r->drafts = v;
		r->drafts_cap = cap;
	}
	r->drafts[r->n_drafts++] = (struct draft){.ttl_ms = HEAP_NONE, .service = SERVICE_NONE};
	return true;
}

/* Items over the limit refuse the batch by their number: they must be JSON, and
 * nothing else is asked of them. */
static bool pass_item(struct reader *r)
{
	void (*on_duplicate)(struct scan *) = r->scan.on_duplicate;
	struct value v;
	bool ok;

	r->scan.on_duplicate = NULL;
	ok = scan_value(&r->scan, &v);
	r->scan.on_duplicate = on_duplicate;
	return ok;
}

static bool read_item(struct reader *r)
{
	enum opened found;

	if (r->n_items++ >= r->rules->max_items)
		return pass_item(r);
	if (!add_draft(r))
		return false;
	r->item = (int64_t)r->n_drafts - 1;
	found = read_object(r, item_fields, ARRAY_LEN(item_fields));
	if (found == OPEN_OTHER)
		draft(r)->seen = ITEM_ALL;
	r->item = NO_ITEM;
	return found != OPEN_FAILED;
}

bool read_items(struct reader *r)
{
	enum opened found;

	r->items_seen = true;
	found = read_list(r, read_item);
	if (found != OPENED)
		return found == OPEN_OTHER;
	if (r->n_items == 0)
		fault_here(r, FAULT_EMPTY_BATCH, "a batch has at least one item");
	else if (r->n_items > r->rules->max_items)
		fault_here(r, FAULT_TOO_MANY_ITEMS, "%zu items; at most %u are allowed: send several batches", r->n_items,
			   r->rules->max_items);
	return true;
}

static void check_required(struct reader *r, int64_t i, const struct draft *d)
{
	if (!(d->seen & ITEM_ID))
		fault_at(r, i, "id", FAULT_REQUIRED, "every item needs an id, unique in the batch");
	if (!(d->seen & ITEM_TO))
		fault_at(r, i, "to", FAULT_REQUIRED, "every item needs a recipient");
	if (!(d->seen & ITEM_PAYLOAD) && !r->payload_seen)
		fault_at(r, i, "payload", FAULT_REQUIRED, "the item has no payload and the batch no default for it");
	if (!(d->seen & ITEM_SERVICE) && r->service == SERVICE_NONE)
		fault_at(r, i, "service", FAULT_REQUIRED, "neither the item nor the batch names a service");
}

/* Defaults and the recipient, which only its service can judge. */
static void check_service(struct reader *r, int64_t i, struct draft *d)
{
	const char *wrong;

	if (!(d->seen & ITEM_SERVICE))
		d->service = r->service;
	if (!(d->seen & ITEM_PAYLOAD))
		d->payload = r->payload;
	if (d->service < 0 || d->to.p == NULL)
		return;
	wrong = r->rules->check_to(r->rules->ctx, d->service, d->to);
	if (wrong != NULL)
		fault_at(r, i, "to", FAULT_FORMAT, "%s", wrong);
}

/* What would come back as payload_too_large if the batch were sent. */
static void check_sendable(struct reader *r, int64_t i, const struct draft *d)
{
	const char *name;
	size_t max;

	if (!r->policy.validate_only || r->rules->service_takes == NULL || d->service < 0 || d->payload.p == NULL)
		return;
	max = r->rules->service_takes(r->rules->ctx, d->service, &name);
	if (d->payload.n > max)
		fault_at(r, i, "payload", FAULT_LENGTH, "the payload has %zu bytes; the service \"%s\" takes at most %zu",
			 d->payload.n, name, max);
}

int check_items(struct reader *r)
{
	struct key *ids = malloc(MAX(r->n_drafts, (size_t)1) * sizeof *ids);
	struct key_index ix = {0};
	size_t n = 0;
	int rc = 1;

	if (ids == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < r->n_drafts && rc >= 0; i++) {
		struct draft *d = &r->drafts[i];

		check_required(r, (int64_t)i, d);
		check_service(r, (int64_t)i, d);
		check_sendable(r, (int64_t)i, d);
		if (d->id.p == NULL)
			continue;
		ids[n] = (struct key){slice_hash(d->id, r->scan.seed), d->id};
		rc = key_index_add(&ix, ids, n);
		if (rc == 0)
			fault_at(r, (int64_t)i, "id", FAULT_DUPLICATE_ID, "an earlier item has the id " QUOTE ", too",
				 QUOTED(d->id));
		n += rc == 1;
	}
	key_index_free(&ix);
	free(ids);
	return MIN(rc, 0);
}
