/*
 * The memory backend: the reads. What comes back is the asker's alone.
 */
#include <errno.h>

#include "store/memory-i.h"

/* Of an item that is not final it follows from what was written of it. */
static enum status status_of(const struct item *it)
{
	if (it->state == ITEM_FINAL)
		return (enum status)it->status;
	return atomic_load(&it->in_flight) || it->state == ITEM_WAITING || it->attempts > 0 ? STATUS_RUNNING :
											      STATUS_PENDING;
}

/* The next item that is wanted, from *at on, which is then its place; NULL: none. */
static const struct item *next_wanted(const struct record *rec, const struct store_read *r, uint32_t *at)
{
	const struct batch *b = rec->batch;
	bool settled = r->order == STORE_BY_SETTLING;
	uint32_t end = settled ? rec->n_settled + 1 : b->n_items;

	for (*at = MAX(*at, (uint32_t)settled); *at < end; ++*at) {
		const struct item *it = &b->items[settled ? rec->order[*at - 1] : *at];

		if (r->statuses == 0 || (r->statuses & 1u << status_of(it)))
			return it;
	}
	return NULL;
}

static uint32_t count_wanted(const struct record *rec, struct store_read *r)
{
	uint32_t n = 0;

	if (r->limit == 0)
		return 0;
	while (next_wanted(rec, r, &r->next) != NULL) {
		if (n == r->limit) {
			r->more = true;
			break;
		}
		n++;
		r->next++;
	}
	return n;
}

static bool copy_wanted(const struct memory *m, const struct record *rec, const struct store_read *r, struct batch *to)
{
	uint32_t at = r->from;

	for (uint32_t i = 0; i < to->n_items; i++, at++) {
		const struct item *from = next_wanted(rec, r, &at);
		struct item *it = &to->items[i];

		if (!memory_copy_item(it, from, rec->batch))
			return false;
		if (it->service < m->n_gone && m->gone[it->service])
			it->service = ITEM_NO_SERVICE;
		it->status = (uint8_t)status_of(from);
		if (r->letters && from->delivered != DELIVERED_YES && !memory_copy_letter(it, from))
			return false;
	}
	return true;
}

static struct batch *head_of(const struct record *rec, uint32_t n_items)
{
	struct batch *b = memory_copy_head(rec->batch, n_items);

	if (b != NULL)
		b->store_row = rec->batch->store_row;
	return b;
}

static int read_batch(const struct memory *m, struct store_read *r)
{
	const struct record *rec = memory_find(m, r->id);

	if (rec == NULL || (r->tenant.p != NULL && !slice_eq(rec->batch->tenant, r->tenant))) {
		r->op.answer = STORE_NOT_FOUND;
		return 0;
	}
	r->batch = head_of(rec, count_wanted(rec, r));
	if (r->batch == NULL)
		return -ENOMEM;
	if (copy_wanted(m, rec, r, r->batch))
		return 0;
	batch_unref(r->batch);
	r->batch = NULL;
	return -ENOMEM;
}

static bool fits(const struct batch *b, const struct store_list *l)
{
	return (l->state < 0 || b->state == (enum batch_state)l->state) &&
	       (l->outcome < 0 || b->outcome == (enum batch_outcome)l->outcome) &&
	       (l->key.p == NULL || (b->key != NULL && slice_eq(b->key->key, l->key)));
}

/* Where the newest that is older than l->before may be. */
static const struct list *list_start(const struct memory *m, const struct owner *o, const struct store_list *l)
{
	const struct record *rec = memory_find(m, l->before);
	const struct list *node = o->by_age.prev;

	if (rec != NULL && slice_eq(rec->batch->tenant, l->tenant))
		return rec->age.prev;
	if (batch_id_eq(l->before, (struct batch_id){0}))
		return node;
	while (node != &o->by_age && !memory_older(list_entry(node, const struct record, age)->batch->id, l->before))
		node = node->prev;
	return node;
}

static int list_batches(const struct memory *m, struct store_list *l)
{
	uint32_t limit = MIN(l->limit, (uint32_t)STORE_LIST_MAX);
	const struct owner *o = memory_owner(m, l->tenant);

	if (o == NULL)
		return 0;
	for (const struct list *node = list_start(m, o, l); node != &o->by_age && !l->more; node = node->prev) {
		const struct record *rec = list_entry(node, const struct record, age);

		if (!fits(rec->batch, l))
			continue;
		if (l->n == limit) {
			l->more = true;
			break;
		}
		l->heads[l->n] = head_of(rec, 0);
		if (l->heads[l->n] == NULL) {
			while (l->n > 0)
				batch_unref(l->heads[--l->n]);
			return -ENOMEM;
		}
		l->n++;
	}
	return 0;
}

int memory_read(struct backend *b, struct store_op *op)
{
	const struct memory *m = memory_of(b);

	if (op->what == STORE_READ)
		return read_batch(m, container_of(op, struct store_read, op));
	return list_batches(m, container_of(op, struct store_list, op));
}
