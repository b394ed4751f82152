/*
 * A batch made from some items of another. Its bytes are copied, so that those
 * of the items that were not chosen need not be kept.
 *
 * Invariant: write_letter() and read_letter() know the same order of the bytes.
 */
#include "core/batch.h"

/* The key that the first attempt went out with stands for all that follow, in
 * whatever batch. */
static size_t write_dedupe_key(struct buf *out, const struct item *it)
{
	size_t before = out->n;
	char id[BATCH_ID_LEN + 1];

	if (it->dedupe_key.p != NULL) {
		buf_add_slice(out, it->dedupe_key);
	} else {
		batch_id_format(it->batch->id, id);
		buf_add_str(out, id);
		buf_add_char(out, '.');
		buf_add_slice(out, it->id);
	}
	return out->n - before;
}

/* Into `out`; the new item learns the lengths. */
static void write_letter(struct buf *out, const struct item *from, struct item *to)
{
	to->id.n = from->id.n;
	to->to.n = from->to.n;
	to->payload.n = from->payload.n;
	buf_add_slice(out, from->id);
	buf_add_slice(out, from->to);
	if (!item_shares_payload(from))
		buf_add_slice(out, from->payload);
	to->dedupe_key.n = write_dedupe_key(out, from);
}

static void cut(struct slice *s, const char **at)
{
	s->p = *at;
	*at += s->n;
}

static void read_letter(const char **at, const struct item *from, struct item *to)
{
	cut(&to->id, at);
	cut(&to->to, at);
	if (item_shares_payload(from))
		to->payload = to->batch->payload;
	else
		cut(&to->payload, at);
	cut(&to->dedupe_key, at);
}

/* False: no memory. */
static bool copy_letters(struct batch *b, const struct batch *first, const uint32_t *chosen)
{
	struct buf text = {0};
	const char *at;

	buf_add_slice(&text, first->payload);
	for (uint32_t i = 0; i < b->n_items; i++)
		write_letter(&text, &first->items[chosen[i]], &b->items[i]);
	b->body = blob_from_buf(&text);
	if (b->body == NULL)
		return false;
	at = b->body->p;
	b->payload.n = first->payload.n;
	if (first->payload.p != NULL)
		cut(&b->payload, &at);
	for (uint32_t i = 0; i < b->n_items; i++)
		read_letter(&at, &first->items[chosen[i]], &b->items[i]);
	return true;
}

struct batch *batch_again(const struct batch *first, const uint32_t *chosen, uint32_t n)
{
	struct batch *b = batch_new(NULL, n);

	if (b == NULL)
		return NULL;
	b->policy = first->policy;
	b->retry_of = first->id;
	for (uint32_t i = 0; i < n; i++) {
		b->items[i].ttl_ms = first->items[chosen[i]].ttl_ms;
		b->items[i].service = first->items[chosen[i]].service;
	}
	if (first->metadata.n > 0)
		b->metadata = arena_copy(&b->arena, first->metadata);
	if ((first->metadata.n > 0 && b->metadata.p == NULL) || !copy_letters(b, first, chosen)) {
		batch_unref(b);
		return NULL;
	}
	return b;
}
