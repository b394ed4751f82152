/*
 * The memory backend: the writes. Each is applied at once, with what undoes it,
 * as nobody reads while a group runs. Reads are in memory_read.c.
 *
 * Invariants
 *  1. Outside a group every record is in by_id, by_row and its owner's by_age, in
 *     by_key if it has a key, and in running or, once DONE, in finished and expiries.
 *  2. `bytes` is the sum over the finished ones, and at most memory_bytes between
 *     groups, but for a single batch that is larger.
 *  3. backend.unfinished is the sum of counts.pending over the running ones.
 *  4. A record that left in the group that runs is in undo alone.
 */
#include "store/memory-i.h"

#include <errno.h>
#include <stdlib.h>

enum { EXPIRE_STEP = 64 };

enum undo_what { UNDO_ADDED, UNDO_CHANGED, UNDO_REMOVED };

struct undo {
	enum undo_what what;
	struct record *rec;
	struct item item;                /* as it was; batch NULL: no item changed */
	struct counts counts;
	int64_t due_unix_ms;
	uint32_t n_settled;
	enum batch_state state;
};

/* Records and their indexes. */

struct record *memory_find(const struct memory *m, struct batch_id id)
{
	struct idmap_node *node = idmap_find(&m->by_id, id);

	return node == NULL ? NULL : container_of(node, struct record, by_id);
}

static struct batch_id row_id(int64_t row)
{
	return (struct batch_id){.lo = (uint64_t)row};
}

static struct record *find_row(const struct memory *m, int64_t row)
{
	struct idmap_node *node = idmap_find(&m->by_row, row_id(row));

	return node == NULL ? NULL : container_of(node, struct record, by_row);
}

static struct batch_id key_id(const struct memory *m, const struct batch *b)
{
	uint64_t seed = slice_hash(b->tenant, m->key_seed);

	return (struct batch_id){slice_hash(b->key->scope, seed), slice_hash(b->key->key, seed)};
}

/* Who has the key of this one: the same tenant's, in the same scope. */
static const struct batch *find_key(const struct memory *m, const struct batch *of)
{
	const struct batch_key *key = of->key;
	struct idmap_node *node = idmap_find(&m->by_key, key_id(m, of));

	for (; node != NULL; node = idmap_next(node)) {
		const struct batch *b = container_of(node, struct record, by_key)->batch;

		if (slice_eq(b->tenant, of->tenant) && slice_eq(b->key->scope, key->scope) &&
		    slice_eq(b->key->key, key->key))
			return b;
	}
	return NULL;
}

static struct batch_id age_of(const struct list *node)
{
	return list_entry(node, const struct record, age)->batch->id;
}

static struct batch_id running_of(const struct list *node)
{
	return list_entry(node, const struct record, phase)->batch->id;
}

/* Ids come nearly in order, so the place is near the end. */
static void insert(struct list *head, struct list *node, struct batch_id (*id_of)(const struct list *))
{
	struct list *at = head->prev;

	while (at != head && memory_older(id_of(node), id_of(at)))
		at = at->prev;
	list_prepend(at, node);
}

static void link_record(struct memory *m, struct record *rec)
{
	const struct batch *b = rec->batch;

	idmap_add(&m->by_id, &rec->by_id, b->id);
	idmap_add(&m->by_row, &rec->by_row, row_id(b->store_row));
	if (b->key != NULL)
		idmap_add(&m->by_key, &rec->by_key, key_id(m, b));
	insert(&memory_owner_get(m, b->tenant)->by_age, &rec->age, age_of);
	if (b->state == BATCH_DONE) {
		list_append(&m->finished, &rec->phase);
		heap_set(&m->expiries, &rec->expiry, b->expires_unix_ms);
		m->bytes += rec->bytes;
	} else {
		insert(&m->running, &rec->phase, running_of);
	}
}

static void unlink_record(struct memory *m, struct record *rec)
{
	idmap_remove(&m->by_id, &rec->by_id);
	idmap_remove(&m->by_row, &rec->by_row);
	if (rec->batch->key != NULL)
		idmap_remove(&m->by_key, &rec->by_key);
	list_remove(&rec->age);
	list_remove(&rec->phase);
	if (heap_has(&rec->expiry)) {
		heap_remove(&m->expiries, &rec->expiry);
		m->bytes -= rec->bytes;
	}
}

static void record_free(struct record *rec)
{
	batch_unref(rec->batch);
	free(rec->order);
	free(rec);
}

static void forget(struct memory *m, struct record *rec)
{
	unlink_record(m, rec);
	record_free(rec);
}

/* About what it takes. */
static size_t bytes_of(const struct batch *b)
{
	size_t n = sizeof(struct record) + sizeof *b + b->metadata.n + (b->body == NULL ? 0 : b->body->n);

	for (uint32_t i = 0; i < b->n_items; i++) {
		const struct item *it = &b->items[i];

		n += sizeof *it + sizeof(uint32_t) + (it->message_id == NULL ? 0 : strlen(it->message_id));
		for (const struct attempt_record *r = it->records; r != NULL; r = r->next)
			n += sizeof *r;
	}
	return n;
}

/* Groups. */

static int begin(struct backend *b, bool synced)
{
	struct memory *m = memory_of(b);

	(void)synced;
	m->n_undo = 0;
	m->bytes_before = m->bytes;
	m->unfinished_before = m->backend.unfinished;
	return 0;
}

/* NULL: no memory. */
static struct undo *remember(struct memory *m, enum undo_what what, struct record *rec)
{
	struct undo *u;

	if (m->n_undo == m->undo_cap) {
		size_t cap = MAX(m->undo_cap * 2, 64u);

		u = realloc(m->undo, cap * sizeof *u);
		if (u == NULL)
			return NULL;
		m->undo = u;
		m->undo_cap = cap;
	}
	u = &m->undo[m->n_undo++];
	*u = (struct undo){
		.what = what,
		.rec = rec,
		.counts = rec->batch->counts,
		.due_unix_ms = rec->due_unix_ms,
		.n_settled = rec->n_settled,
		.state = rec->batch->state,
	};
	return u;
}

static int commit(struct backend *b)
{
	struct memory *m = memory_of(b);

	for (size_t i = 0; i < m->n_undo; i++)
		if (m->undo[i].what == UNDO_REMOVED)
			record_free(m->undo[i].rec);
	m->n_undo = 0;
	while (m->bytes > b->cfg->memory_bytes && m->finished.next != m->finished.prev)
		forget(m, list_entry(m->finished.next, struct record, phase));
	return 0;
}

static void change_back(struct memory *m, const struct undo *u)
{
	struct record *rec = u->rec;
	struct batch *b = rec->batch;

	if (u->item.batch != NULL)
		b->items[u->item.index] = u->item;
	b->counts = u->counts;
	rec->due_unix_ms = u->due_unix_ms;
	rec->n_settled = u->n_settled;
	if (b->state == BATCH_DONE && u->state != BATCH_DONE) {
		heap_remove(&m->expiries, &rec->expiry);
		list_remove(&rec->phase);
		insert(&m->running, &rec->phase, running_of);
	}
	b->state = u->state;
}

static void rollback(struct backend *b)
{
	struct memory *m = memory_of(b);

	while (m->n_undo > 0) {
		const struct undo *u = &m->undo[--m->n_undo];

		switch (u->what) {
		case UNDO_ADDED:
			forget(m, u->rec);
			break;
		case UNDO_REMOVED:
			link_record(m, u->rec);
			break;
		case UNDO_CHANGED:
			change_back(m, u);
			break;
		}
	}
	m->bytes = m->bytes_before;
	m->backend.unfinished = m->unfinished_before;
}

/* The writes: 0, or -ENOMEM. */

/* The first n of the chain of those that settled. */
static void note_order(struct record *rec, const struct batch *from, uint32_t n)
{
	const struct item *it = from->settled_first;

	for (; it != NULL && rec->n_settled < n; it = it->next_settled)
		rec->order[rec->n_settled++] = it->index;
}

static struct record *record_new(struct memory *m, struct batch *take, uint32_t total)
{
	struct record *rec = calloc(1, sizeof *rec);
	uint32_t *order = calloc(MAX(total, 1u), sizeof *order);

	if (rec == NULL || order == NULL || take == NULL) {
		free(rec);
		free(order);
		batch_unref(take);
		return NULL;
	}
	rec->batch = take;
	rec->order = order;
	list_init(&rec->age);
	list_init(&rec->phase);
	take->store_row = ++m->last_row;
	return rec;
}

static struct batch *copy_batch(const struct batch *from)
{
	struct batch *to = memory_copy_head(from, from->n_items);

	if (to == NULL)
		return NULL;
	to->state = BATCH_QUEUED;
	for (uint32_t i = 0; i < from->n_items; i++) {
		if (!memory_copy_item(&to->items[i], &from->items[i], from) ||
		    !memory_copy_letter(&to->items[i], &from->items[i])) {
			batch_unref(to);
			return NULL;
		}
	}
	return to;
}

static int add(struct memory *m, struct record *rec)
{
	if (remember(m, UNDO_ADDED, rec) == NULL) {
		record_free(rec);
		return -ENOMEM;
	}
	link_record(m, rec);
	return 0;
}

/* What its size made impossible is refused alone, not the group that it is in. */
static int accept_batch(struct memory *m, struct store_accept *a)
{
	const struct batch_key *key = a->batch->key;
	const struct batch *holder = key == NULL ? NULL : find_key(m, a->batch);
	struct record *rec;

	if (holder != NULL) {
		a->op.answer = STORE_KEY_EXISTS;
		a->existing = holder->id;
		a->same_body = memcmp(holder->key->digest, key->digest, sizeof key->digest) == 0;
		return 0;
	}
	rec = record_new(m, copy_batch(a->batch), a->batch->n_items);
	if (rec == NULL) {
		a->op.answer = STORE_UNAVAILABLE;
		return 0;
	}
	note_order(rec, a->batch, a->n_settled);
	a->batch->store_row = rec->batch->store_row;
	m->backend.unfinished += rec->batch->counts.pending;
	return add(m, rec);
}

/* The item is about to change, and the batch is at work: NULL: no memory. */
static struct item *change_item(struct memory *m, struct record *rec, uint32_t index)
{
	struct undo *u = remember(m, UNDO_CHANGED, rec);

	if (u == NULL)
		return NULL;
	u->item = rec->batch->items[index];
	if (rec->batch->state == BATCH_QUEUED)
		rec->batch->state = BATCH_RUNNING;
	return &rec->batch->items[index];
}

static int claim(struct memory *m, struct store_claim *c)
{
	struct record *rec = find_row(m, c->row);
	struct item *it;

	if (rec == NULL || c->index >= rec->batch->n_items) {
		c->op.answer = STORE_NOT_FOUND;
		return 0;
	}
	it = change_item(m, rec, c->index);
	if (it == NULL)
		return -ENOMEM;
	atomic_store(&it->in_flight, true);
	return 0;
}

static int update(struct memory *m, struct store_update *u)
{
	struct record *rec = find_row(m, u->batch->store_row);
	struct item *it;

	if (rec == NULL || u->item.index >= rec->batch->n_items || u->seq > rec->batch->n_items) {
		u->op.answer = STORE_NOT_FOUND;
		return 0;
	}
	it = change_item(m, rec, u->item.index);
	if (it == NULL || !memory_copy_facts(it, &u->item, u->batch))
		return -ENOMEM;
	atomic_store(&it->in_flight, false);
	m->backend.unfinished += (uint64_t)u->counts.pending - rec->batch->counts.pending;
	rec->batch->counts = u->counts;
	if (u->seq > 0) {
		rec->order[u->seq - 1] = it->index;
		rec->n_settled = u->seq;
	}
	return 0;
}

/* Durable: its items are here already. */
static int finish_known(struct memory *m, struct store_finish *f)
{
	struct record *rec = find_row(m, f->batch->store_row);
	const struct batch *from = f->batch;
	struct batch *b;

	if (rec == NULL) {
		f->op.answer = STORE_NOT_FOUND;
		return 0;
	}
	if (remember(m, UNDO_CHANGED, rec) == NULL)
		return -ENOMEM;
	b = rec->batch;
	m->backend.unfinished += (uint64_t)from->counts.pending - b->counts.pending;
	b->counts = from->counts;
	b->state = BATCH_DONE;
	b->outcome = from->outcome;
	b->stop_reason = from->stop_reason;
	b->finished_unix_ms = from->finished_unix_ms;
	b->expires_unix_ms = from->expires_unix_ms;
	b->finished_us = b->accepted_us + from->finished_us - from->accepted_us;
	rec->bytes = bytes_of(b);
	m->bytes += rec->bytes;
	list_remove(&rec->phase);
	list_append(&m->finished, &rec->phase);
	heap_set(&m->expiries, &rec->expiry, b->expires_unix_ms);
	return 0;
}

/* Not durable: it changes no more, so it is kept as it is. */
static int finish_unknown(struct memory *m, struct store_finish *f)
{
	struct record *rec = record_new(m, batch_ref(f->batch), f->batch->n_items);

	if (rec == NULL) {
		f->op.answer = STORE_UNAVAILABLE;
		return 0;
	}
	batch_count_no_more(f->batch);
	note_order(rec, f->batch, f->batch->n_items);
	rec->bytes = bytes_of(f->batch);
	return add(m, rec);
}

static int park(struct memory *m, struct store_park *p)
{
	struct record *rec = find_row(m, p->row);

	if (rec == NULL) {
		p->op.answer = STORE_NOT_FOUND;
		return 0;
	}
	if (remember(m, UNDO_CHANGED, rec) == NULL)
		return -ENOMEM;
	rec->due_unix_ms = p->due_unix_ms;
	return 0;
}

static int delete(struct memory *m, struct store_delete *d)
{
	struct record *rec = memory_find(m, d->id);

	if (rec != NULL && d->tenant.p != NULL && !slice_eq(rec->batch->tenant, d->tenant))
		rec = NULL;
	if (rec == NULL || rec->batch->state != BATCH_DONE) {
		d->op.answer = rec == NULL ? STORE_NOT_FOUND : STORE_NOT_DONE;
		return 0;
	}
	if (remember(m, UNDO_REMOVED, rec) == NULL)
		return -ENOMEM;
	unlink_record(m, rec);
	return 0;
}

static int write_op(struct backend *b, struct store_op *op)
{
	struct memory *m = memory_of(b);
	struct store_finish *f;

	switch (op->what) {
	case STORE_ACCEPT:
		return accept_batch(m, container_of(op, struct store_accept, op));
	case STORE_CLAIM:
		return claim(m, container_of(op, struct store_claim, op));
	case STORE_UPDATE:
		return update(m, container_of(op, struct store_update, op));
	case STORE_FINISH:
		f = container_of(op, struct store_finish, op);
		return f->batch->durable ? finish_known(m, f) : finish_unknown(m, f);
	case STORE_PARK:
		return park(m, container_of(op, struct store_park, op));
	case STORE_DELETE:
		return delete(m, container_of(op, struct store_delete, op));
	case STORE_READ:
	case STORE_LIST:
		break;
	}
	REQUIRE(false);
	return -EINVAL;
}

static int expire(struct backend *b, int64_t now_unix_ms, bool *ret_more)
{
	struct memory *m = memory_of(b);

	for (unsigned i = 0; i < EXPIRE_STEP && heap_min(&m->expiries) <= now_unix_ms; i++)
		forget(m, container_of(m->expiries.v[0], struct record, expiry));
	*ret_more = heap_min(&m->expiries) <= now_unix_ms;
	return 0;
}

static int each_unfinished(struct backend *b, void (*each)(void *arg, const struct store_unfinished *u), void *arg)
{
	struct memory *m = memory_of(b);

	list_foreach(node, &m->running) {
		const struct record *rec = list_entry(node, struct record, phase);
		const struct batch *of = rec->batch;

		each(arg, &(struct store_unfinished){
			.id = of->id,
			.due_unix_ms = rec->due_unix_ms,
			.created_unix_ms = of->created_unix_ms,
			.deadline_unix_ms = of->created_unix_ms + of->policy.deadline_ms,
			.pending = of->counts.pending,
			.bytes = (uint32_t)MIN(bytes_of(of), UINT32_MAX),
			.service = of->n_items == 0 ? ITEM_NO_SERVICE : of->items[0].service,
			.priority = of->policy.priority,
			.tenant = of->tenant,
			.asynchronous = of->asynchronous,
		});
	}
	return 0;
}

static void measure(struct backend *b, struct store_status *ret)
{
	struct memory *m = memory_of(b);

	if (!list_empty(&m->running))
		ret->oldest_unfinished_unix_ms =
			list_entry(m->running.next, struct record, phase)->batch->created_unix_ms;
}

static void set_services(struct backend *b, const bool *gone, size_t n)
{
	struct memory *m = memory_of(b);

	free(m->gone);
	m->gone = xcalloc(n + 1, sizeof *m->gone);
	memcpy(m->gone, gone, n * sizeof *gone);
	m->n_gone = n;
}

static void close_memory(struct backend *b)
{
	struct memory *m = memory_of(b);

	list_foreach(node, &m->all_owners) {
		struct owner *o = list_entry(node, struct owner, all);
		struct list *age;

		while ((age = list_pop(&o->by_age)) != NULL)
			forget(m, list_entry(age, struct record, age));
		free(o);
	}
	idmap_free(&m->owners);
	idmap_free(&m->by_id);
	idmap_free(&m->by_row);
	idmap_free(&m->by_key);
	heap_free(&m->expiries);
	free(m->gone);
	free(m->undo);
	free(m);
}

struct backend *memory_open(const struct store_config *cfg)
{
	static const struct backend_ops ops = {
		.begin = begin,
		.write = write_op,
		.commit = commit,
		.rollback = rollback,
		.read = memory_read,
		.expire = expire,
		.set_services = set_services,
		.each_unfinished = each_unfinished,
		.measure = measure,
		.close = close_memory,
	};
	struct memory *m = xcalloc(1, sizeof *m);
	struct rng rng;

	m->backend = (struct backend){.ops = &ops, .cfg = cfg};
	list_init(&m->all_owners);
	list_init(&m->running);
	list_init(&m->finished);
	rng_seed_from_os(&rng);
	m->key_seed = rng_u64(&rng);
	return &m->backend;
}
