/*
 * The invariants and the layout are in sqlite-i.h. Here: the reader's side, and
 * what the writer's thread reads for recovery.
 *
 * Each answer is read in one transaction, so head and items are of one moment.
 * What stands on the medium is checked before it becomes an enumeration's value:
 * a number that is none fails the read with -EBADMSG; -EUCLEAN is a broken page.
 */
#include <errno.h>
#include <stdlib.h>

#include "store/sqlite-i.h"

/* A row whose columns are taken one after the other. */
struct row {
	sqlite3_stmt *st;
	int at;
	int err;                         /* 0, -ENOMEM or -EBADMSG */
	struct arena *arena;
};

static int64_t take_int(struct row *r)
{
	return sqlite3_column_int64(r->st, r->at++);
}

static int64_t take_int_or(struct row *r, int64_t null)
{
	bool none = sqlite3_column_type(r->st, r->at) == SQLITE_NULL;
	int64_t v = take_int(r);

	return none ? null : v;
}

static uint32_t take_u32(struct row *r)
{
	int64_t v = take_int(r);

	if (v < 0 || v > UINT32_MAX)
		r->err = -EBADMSG;
	return (uint32_t)v;
}

/* A number below `max`. */
static unsigned take_below(struct row *r, unsigned max)
{
	int64_t v = take_int(r);

	if (v < 0 || v >= max) {
		r->err = -EBADMSG;
		return 0;
	}
	return (unsigned)v;
}

/* A copy in the arena, with a NUL behind it; p NULL: NULL. */
static struct slice take_bytes(struct row *r)
{
	int at = r->at++;
	struct slice s = {0};

	if (sqlite3_column_type(r->st, at) == SQLITE_NULL)
		return s;
	s.p = sqlite3_column_blob(r->st, at);
	s.n = (size_t)sqlite3_column_bytes(r->st, at);
	if (s.p == NULL)
		s.p = "";
	s = arena_copy(r->arena, s);
	if (s.p == NULL)
		r->err = -ENOMEM;
	return s;
}

/* Valid until the next step. */
static struct slice borrow_bytes(struct row *r)
{
	int at = r->at++;

	return (struct slice){sqlite3_column_blob(r->st, at), (size_t)sqlite3_column_bytes(r->st, at)};
}

static struct batch_id take_id(struct row *r)
{
	int at = r->at++;

	if (sqlite3_column_type(r->st, at) == SQLITE_NULL)
		return (struct batch_id){0};
	if (sqlite3_column_bytes(r->st, at) != 16) {
		r->err = -EBADMSG;
		return (struct batch_id){0};
	}
	return sqlite_id(sqlite3_column_blob(r->st, at));
}

static void take_exactly(struct row *r, void *to, size_t n)
{
	int at = r->at++;

	if (sqlite3_column_bytes(r->st, at) == (int)n)
		memcpy(to, sqlite3_column_blob(r->st, at), n);
	else
		r->err = -EBADMSG;
}

static uint16_t service_index(const struct sqlite *s, int64_t n)
{
	return n > 0 && n < s->n_service_of ? atomic_load(&s->service_of[n]) : ITEM_NO_SERVICE;
}

static void take_flags(struct row *r, struct batch *b)
{
	int64_t flags = take_int(r);

	b->policy.sequential = flags & HEAD_SEQUENTIAL;
	b->policy.at_most_once = flags & HEAD_AT_MOST_ONCE;
	b->policy.continue_on_disconnect = flags & HEAD_CONTINUE;
	b->policy.include_attempts = flags & HEAD_ATTEMPTS;
	b->asynchronous = flags & HEAD_ASYNCHRONOUS;
	b->durable = flags & HEAD_DURABLE;
}

static void take_policy(struct row *r, struct policy *p)
{
	p->contract = (enum contract)take_below(r, CONTRACT_MAX);
	p->concurrency = take_u32(r);
	p->deadline_ms = take_int(r);
	p->attempt_timeout_ms = take_int(r);
	p->retry.max_attempts = take_u32(r);
	p->retry.base_ms = take_int(r);
	p->retry.cap_ms = take_int(r);
	p->given = take_below(r, GIVEN_ALL + 1);
}

static void take_key(struct row *r, struct batch *b)
{
	struct batch_key key, *kept;

	key.scope = take_bytes(r);
	key.key = take_bytes(r);
	if (key.key.p == NULL) {
		r->at++;
		return;
	}
	take_exactly(r, key.digest, sizeof key.digest);
	kept = arena_alloc(r->arena, sizeof *kept);
	if (kept == NULL) {
		r->err = -ENOMEM;
		return;
	}
	*kept = key;
	b->key = kept;
}

static void take_state(struct row *r, struct batch *b)
{
	r->at++;
	b->state = (enum batch_state)take_below(r, BATCH_STATE_MAX);
	b->outcome = (enum batch_outcome)take_below(r, BATCH_OUTCOME_MAX);
	b->stop_reason = (enum stop_reason)take_below(r, STOP_REASON_MAX);
	b->counts.succeeded = take_u32(r);
	b->counts.failed = take_u32(r);
	b->counts.indeterminate = take_u32(r);
	b->counts.not_attempted = take_u32(r);
	b->counts.pending = take_u32(r);
	b->finished_unix_ms = take_int(r);
	b->finished_us = take_int(r);
	b->expires_unix_ms = take_int(r);
}

/* The columns are HEAD_COLUMNS. NULL: *reterr. */
static struct batch *take_head(sqlite3_stmt *st, int *reterr)
{
	struct batch *b = batch_new(NULL, 0);
	struct row r = {.st = st, .arena = b == NULL ? NULL : &b->arena};

	if (b == NULL) {
		*reterr = -ENOMEM;
		return NULL;
	}
	b->store_row = take_int(&r);
	b->id = take_id(&r);
	take_flags(&r, b);
	b->durability = b->durable ? "disk" : "memory";
	take_policy(&r, &b->policy);
	b->created_unix_ms = take_int(&r);
	b->counts.total = take_u32(&r);
	r.at += 2;
	b->retry_of = take_id(&r);
	b->metadata = take_bytes(&r);
	b->tenant = take_bytes(&r);
	b->policy.priority = take_below(&r, PRIORITY_MAX + 1);
	take_exactly(&r, b->trace.id, sizeof b->trace.id);
	b->trace.flags = (unsigned char)take_below(&r, 256);
	b->trace.state = take_bytes(&r);
	take_key(&r, b);
	take_state(&r, b);
	if (r.err == 0)
		return b;
	*reterr = r.err;
	batch_unref(b);
	return NULL;
}

static uint64_t get_u64(const unsigned char *p)
{
	uint64_t v = 0;

	for (int i = 7; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

static void take_one_record(struct row *r, const unsigned char *p, struct attempt_record **link)
{
	struct attempt_record *rec = arena_alloc(r->arena, sizeof *rec);

	if (rec == NULL) {
		r->err = -ENOMEM;
		return;
	}
	*rec = (struct attempt_record){
		.started_unix_ms = (int64_t)get_u64(p),
		.duration_us = (int64_t)get_u64(p + 8),
		.n = (uint16_t)(p[16] | p[17] << 8),
		.http_status = (uint16_t)(p[18] | p[19] << 8),
		.code = p[20],
		.delivered = p[21],
		.phase = p[22],
	};
	if (rec->code >= CODE_MAX || rec->delivered >= DELIVERED_MAX || rec->phase >= PHASE_MAX)
		r->err = -EBADMSG;
	*link = rec;
}

static void take_records(struct row *r, struct item *it)
{
	int at = r->at++;
	const unsigned char *p = sqlite3_column_blob(r->st, at);
	int n = sqlite3_column_bytes(r->st, at);
	struct attempt_record **link = &it->records;

	if (n % RECORD_BYTES != 0)
		r->err = -EBADMSG;
	for (int i = 0; r->err == 0 && i < n; i += RECORD_BYTES) {
		take_one_record(r, p + i, link);
		if (r->err == 0)
			link = &(*link)->next;
	}
}

static void take_facts(struct row *r, struct item *it)
{
	int64_t due_unix_ms;

	it->state = (uint8_t)take_below(r, ITEM_FINAL + 1);
	it->status = (uint8_t)take_below(r, STATUS_MAX);
	it->code = (uint8_t)take_below(r, CODE_MAX);
	it->delivered = (uint8_t)take_below(r, DELIVERED_MAX);
	it->stop = (uint8_t)take_below(r, STOP_MAX);
	it->duplicate_risk = take_int(r) != 0;
	it->attempts = (uint8_t)take_below(r, UINT8_MAX + 1);
	it->refused = (uint8_t)take_below(r, UINT8_MAX + 1);
	it->http_status = (uint16_t)take_below(r, UINT16_MAX + 1);
	it->started_us = take_int(r);
	it->latency_ms = (int32_t)take_int(r);
	it->retry_after_ms = take_int_or(r, RETRY_AFTER_NONE);
	due_unix_ms = take_int(r);
	if (it->state == ITEM_WAITING)
		it->due_unix_ms = due_unix_ms;
	r->at++;
	it->message_id = take_bytes(r).p;
	it->detail = take_bytes(r).p;
	take_records(r, it);
}

/* The columns are "to", dedupe, payload. A payload that is a number stands for the
 * one that the batch's items share. */
static void take_letter(struct row *r, struct batch *b, struct item *it)
{
	it->to = take_bytes(r);
	it->dedupe_key = take_bytes(r);
	if (sqlite3_column_type(r->st, r->at) == SQLITE_INTEGER)
		it->payload = b->payload;
	else
		it->payload = take_bytes(r);
}

/* The columns are in_flight, ITEM_COLUMNS, and with `letter` those of the letter. */
static int take_item(const struct sqlite *s, sqlite3_stmt *st, struct batch *b, bool letter)
{
	struct row r = {.st = st, .arena = &b->arena};
	struct item *it = &b->items[b->n_items];
	bool claimed = take_int(&r) != 0;

	*it = (struct item){.batch = b};
	it->index = (uint32_t)take_int(&r) & SHARED_INDEX;
	it->id = take_bytes(&r);
	it->service = service_index(s, take_int(&r));
	it->ttl_ms = take_int_or(&r, HEAP_NONE);
	take_facts(&r, it);
	if (letter)
		take_letter(&r, b, it);
	/* Nobody was told what became of a batch that has but a note: any of it may have been sent. */
	if (it->state != ITEM_FINAL && (claimed || !b->durable)) {
		atomic_store_explicit(&it->in_flight, true, memory_order_relaxed);
		it->status = STATUS_RUNNING;
	}
	if (r.err == 0)
		b->n_items++;
	return r.err;
}

static int reader_error(const struct sqlite *s, int rc)
{
	return rc == SQLITE_OK ? 0 : sqlite_errno(s->reader, rc);
}

/* All items that may come, and no more than the batch has. */
static int make_items(struct batch *b, uint32_t limit)
{
	struct item *items = calloc(MAX(MIN(limit, b->counts.total), 1u), sizeof *items);

	if (items == NULL)
		return -ENOMEM;
	free(b->items);
	b->items = items;
	return 0;
}

static int load_shared(const struct sqlite *s, struct batch *b)
{
	struct binder to = sqlite_bind(s->r[R_SHARED]);
	struct row r = {.st = to.st, .arena = &b->arena};
	int rc;

	bind_int(&to, sqlite_pos(b->store_row, SHARED_INDEX));
	if (to.rc != SQLITE_OK)
		return reader_error(s, to.rc);
	if (sqlite3_step(to.st) == SQLITE_ROW)
		b->payload = take_bytes(&r);
	rc = sqlite3_reset(to.st);
	return rc != SQLITE_OK ? reader_error(s, rc) : r.err;
}

static sqlite3_stmt *items_statement(const struct sqlite *s, const struct store_read *q)
{
	if (q->order == STORE_BY_INDEX)
		return s->r[q->letters ? R_BY_INDEX_LETTERS : R_BY_INDEX];
	return s->r[q->letters ? R_BY_SETTLING_LETTERS : R_BY_SETTLING];
}

/* Where the page after this one begins: at the row that was found behind it. */
static void note_more(struct store_read *q, sqlite3_stmt *st)
{
	q->more = true;
	q->next = (uint32_t)sqlite3_column_int64(st, q->order == STORE_BY_INDEX ? 1 : 18) & SHARED_INDEX;
}

static int load_items(const struct sqlite *s, struct store_read *q, struct batch *b)
{
	struct binder to = sqlite_bind(items_statement(s, q));
	uint32_t from = MIN(q->from, (uint32_t)SHARED_INDEX - 1);
	int rc, err = make_items(b, q->limit);

	if (err != 0)
		return err;
	if (q->letters)
		err = load_shared(s, b);
	bind_int(&to, sqlite_pos(b->store_row, from));
	bind_int(&to, sqlite_pos(b->store_row, SHARED_INDEX - 1));
	bind_int(&to, q->statuses == 0 ? -1 : (int64_t)q->statuses);
	bind_int(&to, (int64_t)q->limit + 1);
	if (to.rc != SQLITE_OK)
		return reader_error(s, to.rc);
	while (err == 0 && (rc = sqlite3_step(to.st)) == SQLITE_ROW) {
		if (b->n_items == q->limit) {
			note_more(q, to.st);
			break;
		}
		err = b->n_items < b->counts.total ? take_item(s, to.st, b, q->letters) : -EBADMSG;
	}
	rc = sqlite3_reset(to.st);
	return rc != SQLITE_OK ? reader_error(s, rc) : err;
}

static int read_batch(const struct sqlite *s, struct store_read *q)
{
	struct binder to = sqlite_bind(s->r[R_HEAD]);
	struct batch *b = NULL;
	int rc, err = 0;

	bind_id(&to, q->id);
	bind_text(&to, q->tenant);
	if (to.rc != SQLITE_OK)
		return reader_error(s, to.rc);
	if (sqlite3_step(to.st) == SQLITE_ROW)
		b = take_head(to.st, &err);
	else
		q->op.answer = STORE_NOT_FOUND;
	rc = sqlite3_reset(to.st);
	if (rc != SQLITE_OK)
		err = reader_error(s, rc);
	if (err == 0 && b != NULL && q->limit > 0)
		err = load_items(s, q, b);
	if (err == 0)
		q->batch = STEAL_PTR(b);
	batch_unref(b);
	return err;
}

static sqlite3_stmt *list_statement(const struct sqlite *s, const struct store_list *l)
{
	if (l->key.p != NULL)
		return s->r[R_LIST_KEY];
	if (l->outcome > BATCH_OUTCOME_NONE)
		return s->r[R_LIST_ENDED];
	if (l->outcome == BATCH_OUTCOME_NONE || (l->state >= 0 && l->state < BATCH_DONE))
		return s->r[R_LIST_LIVE];
	return s->r[R_LIST];
}

static void bind_list(struct binder *to, const struct store_list *l)
{
	bool newest = l->before.hi == 0 && l->before.lo == 0;

	bind_id(to, newest ? (struct batch_id){UINT64_MAX, UINT64_MAX} : l->before);
	bind_int(to, l->state);
	bind_int(to, l->outcome);
	bind_int(to, (int64_t)l->limit + 1);
	bind_name(to, l->tenant);
	if (l->key.p != NULL)
		bind_text(to, l->key);
}

static void drop_heads(struct store_list *l)
{
	while (l->n > 0)
		batch_unref(l->heads[--l->n]);
}

static int read_list(const struct sqlite *s, struct store_list *l)
{
	struct binder to = sqlite_bind(list_statement(s, l));
	int rc, err = 0;

	bind_list(&to, l);
	if (to.rc != SQLITE_OK)
		return reader_error(s, to.rc);
	while (err == 0 && !l->more && sqlite3_step(to.st) == SQLITE_ROW) {
		if (l->n == MIN(l->limit, (uint32_t)STORE_LIST_MAX)) {
			l->more = true;
			continue;
		}
		l->heads[l->n] = take_head(to.st, &err);
		if (err == 0)
			l->n++;
	}
	rc = sqlite3_reset(to.st);
	if (rc != SQLITE_OK)
		err = reader_error(s, rc);
	if (err != 0)
		drop_heads(l);
	return err;
}

static int read_one(const struct sqlite *s, struct store_op *op)
{
	switch (op->what) {
	case STORE_READ:
		return read_batch(s, container_of(op, struct store_read, op));
	case STORE_LIST:
		return read_list(s, container_of(op, struct store_list, op));
	case STORE_ACCEPT:
	case STORE_CLAIM:
	case STORE_UPDATE:
	case STORE_FINISH:
	case STORE_PARK:
	case STORE_DELETE:
		break;
	}
	REQUIRE(false);
}

/* Where there is not even the memory for it, the next read does it. */
static int end_transaction(const struct sqlite *s)
{
	if (sqlite3_get_autocommit(s->reader))
		return SQLITE_OK;
	return sqlite_run(&(struct binder){.st = s->r[R_COMMIT]});
}

int sqlite_read(struct backend *b, struct store_op *op)
{
	struct sqlite *s = sqlite_of(b);
	int err, rc = end_transaction(s);

	if (rc == SQLITE_OK)
		rc = sqlite_run(&(struct binder){.st = s->r[R_BEGIN]});
	op->answer = STORE_OK;
	err = rc == SQLITE_OK ? read_one(s, op) : reader_error(s, rc);
	end_transaction(s);
	if (err != 0)
		op->answer = STORE_UNAVAILABLE;
	return err;
}

int sqlite_each_unfinished(struct backend *b, void (*each)(void *arg, const struct store_unfinished *u), void *arg)
{
	struct sqlite *s = sqlite_of(b);
	sqlite3_stmt *st = s->w[W_UNFINISHED];
	int err = 0, rc;

	while (err == 0 && sqlite3_step(st) == SQLITE_ROW) {
		struct row r = {.st = st};
		struct store_unfinished u;

		u.id = take_id(&r);
		u.due_unix_ms = take_int(&r);
		u.pending = take_u32(&r);
		u.bytes = take_u32(&r);
		u.service = service_index(s, take_int(&r));
		u.asynchronous = take_int(&r) & HEAD_ASYNCHRONOUS;
		u.created_unix_ms = take_int(&r);
		u.deadline_unix_ms = u.created_unix_ms + take_int(&r);
		u.tenant = borrow_bytes(&r);
		u.priority = take_below(&r, PRIORITY_MAX + 1);
		err = r.err;
		if (err == 0)
			each(arg, &u);
	}
	rc = sqlite3_reset(st);
	return sqlite_failed(s, rc != SQLITE_OK ? rc : err == 0 ? SQLITE_OK : SQLITE_CORRUPT);
}
