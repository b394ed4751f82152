/*
 * The invariants and the layout are in sqlite-i.h. Here: what changes a batch.
 * SQLite's codes inside, errno at the edge.
 */
#include <errno.h>

#include "base/plant.h"
#include "store/sqlite-i.h"

/* Of one group: the slot of this row, taken if it is new. */
static struct touched *touch(struct sqlite *s, int64_t row)
{
	size_t at = (uint64_t)row * 0x9e3779b97f4a7c15u >> 32;

	for (;; at++) {
		struct touched *t = &s->touched[at % TOUCHED_SLOTS];

		if (t->row == row)
			return t;
		if (t->row == 0) {
			t->row = row;
			s->n_touched++;
			return t;
		}
	}
}

/* SQLITE_ROW: found; SQLITE_OK: there is no such batch. */
static int look_at_head(struct sqlite *s, int64_t row, enum batch_state *ret_state, uint32_t *ret_pending)
{
	sqlite3_stmt *st = s->w[W_HEAD];
	struct binder b = sqlite_bind(st);
	int rc, end;

	bind_int(&b, row);
	if (b.rc != SQLITE_OK)
		return b.rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		*ret_state = (enum batch_state)sqlite3_column_int(st, 0);
		*ret_pending = (uint32_t)sqlite3_column_int64(st, 1);
	}
	end = sqlite3_reset(st);
	return end != SQLITE_OK ? end : rc == SQLITE_ROW ? SQLITE_ROW : SQLITE_OK;
}

static void bind_counts(struct binder *b, const struct counts *c)
{
	bind_int(b, c->succeeded);
	bind_int(b, c->failed);
	bind_int(b, c->indeterminate);
	bind_int(b, c->not_attempted);
	bind_int(b, c->pending);
}

static int set_counts(struct sqlite *s, const struct touched *t, enum batch_state state, uint32_t pending)
{
	struct binder b = sqlite_bind(s->w[W_SET_HEAD]);
	int rc;

	bind_int(&b, MAX((int)state, t->claimed ? BATCH_RUNNING : BATCH_QUEUED));
	bind_counts(&b, &t->counts);
	bind_int(&b, t->row);
	rc = sqlite_run(&b);
	if (rc == SQLITE_OK)
		s->delta += (int64_t)t->counts.pending - pending;
	return rc;
}

static int set_running(struct sqlite *s, int64_t row)
{
	struct binder b = sqlite_bind(s->w[W_SET_RUNNING]);

	bind_int(&b, row);
	return sqlite_run(&b);
}

static int write_head(struct sqlite *s, const struct touched *t)
{
	enum batch_state state = BATCH_QUEUED;
	uint32_t pending = 0;
	int rc = look_at_head(s, t->row, &state, &pending);

	if (rc != SQLITE_ROW || state == BATCH_DONE)
		return rc == SQLITE_ROW ? SQLITE_OK : rc;
	if (t->counted)
		return set_counts(s, t, state, pending);
	return state == BATCH_QUEUED ? set_running(s, t->row) : SQLITE_OK;
}

int sqlite_flush(struct sqlite *s)
{
	int rc = SQLITE_OK;

	if (s->n_touched == 0)
		return SQLITE_OK;
	for (size_t i = 0; rc == SQLITE_OK && i < TOUCHED_SLOTS; i++)
		if (s->touched[i].counted || s->touched[i].claimed)
			rc = write_head(s, &s->touched[i]);
	memset(s->touched, 0, sizeof s->touched);
	s->n_touched = 0;
	return rc;
}

static int make_room(struct sqlite *s)
{
	return s->n_touched < TOUCHED_SLOTS / 2 ? SQLITE_OK : sqlite_flush(s);
}

static int64_t service_number(const struct sqlite *s, uint16_t service)
{
	return service < s->n_services ? s->service_no[service] : 0;
}

/* About what the batch takes when it is read back with its letters. */
static uint32_t bytes_of(const struct batch *b)
{
	size_t n = sizeof *b + b->n_items * sizeof *b->items + b->payload.n + b->metadata.n;

	for (uint32_t i = 0; i < b->n_items; i++) {
		const struct item *it = &b->items[i];

		n += it->id.n + it->to.n + it->dedupe_key.n + (item_shares_payload(it) ? 0 : it->payload.n);
	}
	return (uint32_t)MIN(n, UINT32_MAX);
}

static int flags_of(const struct batch *b)
{
	const struct policy *p = &b->policy;

	return (p->sequential ? HEAD_SEQUENTIAL : 0) | (p->at_most_once ? HEAD_AT_MOST_ONCE : 0) |
	       (p->continue_on_disconnect ? HEAD_CONTINUE : 0) | (p->include_attempts ? HEAD_ATTEMPTS : 0) |
	       (b->asynchronous ? HEAD_ASYNCHRONOUS : 0) | (b->durable ? HEAD_DURABLE : 0);
}

/* What does not change after acceptance. */
static void bind_acceptance(struct sqlite *s, struct binder *to, const struct batch *b)
{
	const struct policy *p = &b->policy;
	const struct batch_key *key = PLANTED(FORGET_KEY) ? NULL : b->key;

	bind_int(to, b->store_row);
	bind_id(to, b->id);
	bind_int(to, flags_of(b));
	bind_int(to, p->contract);
	bind_int(to, p->concurrency);
	bind_int(to, p->deadline_ms);
	bind_int(to, p->attempt_timeout_ms);
	bind_int(to, p->retry.max_attempts);
	bind_int(to, p->retry.base_ms);
	bind_int(to, p->retry.cap_ms);
	bind_int(to, p->given);
	bind_int(to, b->created_unix_ms);
	bind_int(to, b->counts.total);
	bind_int(to, b->n_items > 0 ? service_number(s, b->items[0].service) : 0);
	bind_int(to, bytes_of(b));
	bind_id(to, b->retry_of);
	bind_text(to, b->metadata.n > 0 ? b->metadata : (struct slice){0});
	bind_name(to, b->tenant);
	bind_int(to, p->priority);
	bind_blob(to, b->trace.id, sizeof b->trace.id);
	bind_int(to, b->trace.flags);
	bind_text(to, b->trace.state.n > 0 ? b->trace.state : (struct slice){0});
	bind_text(to, key == NULL ? (struct slice){0} : key->scope);
	bind_text(to, key == NULL ? (struct slice){0} : key->key);
	bind_blob(to, key == NULL ? NULL : key->digest, sizeof key->digest);
}

static void bind_end(struct binder *to, const struct batch *b)
{
	bind_int(to, BATCH_DONE);
	bind_int(to, b->outcome);
	bind_int(to, b->stop_reason);
	bind_counts(to, &b->counts);
	bind_int(to, b->finished_unix_ms);
	bind_int(to, b->finished_us - b->accepted_us);
	bind_int(to, b->expires_unix_ms);
}

static int add_new_head(struct sqlite *s, const struct batch *b, const struct counts *c)
{
	struct binder to = sqlite_bind(s->w[W_ADD_BATCH]);

	bind_acceptance(s, &to, b);
	bind_null(&to);
	/* Of what is not durable there is only the note that it runs. */
	bind_int(&to, b->durable ? BATCH_QUEUED : BATCH_RUNNING);
	bind_int(&to, BATCH_OUTCOME_NONE);
	bind_int(&to, STOP_REASON_NONE);
	bind_counts(&to, c);
	bind_null(&to);
	bind_null(&to);
	bind_null(&to);
	return sqlite_run(&to);
}

static int add_finished_head(struct sqlite *s, const struct batch *b)
{
	struct binder to = sqlite_bind(s->w[W_ADD_BATCH]);

	bind_acceptance(s, &to, b);
	bind_null(&to);
	bind_end(&to, b);
	return sqlite_run(&to);
}

static void put_u64(unsigned char *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (unsigned char)(v >> 8 * i);
}

static size_t pack_records(unsigned char *p, const struct attempt_record *r)
{
	size_t n = 0;

	for (; r != NULL && n < RECORDS_MAX * RECORD_BYTES; r = r->next, n += RECORD_BYTES) {
		put_u64(p + n, (uint64_t)r->started_unix_ms);
		put_u64(p + n + 8, (uint64_t)r->duration_us);
		p[n + 16] = (unsigned char)r->n;
		p[n + 17] = (unsigned char)(r->n >> 8);
		p[n + 18] = (unsigned char)r->http_status;
		p[n + 19] = (unsigned char)(r->http_status >> 8);
		p[n + 20] = r->code;
		p[n + 21] = r->delivered;
		p[n + 22] = r->phase;
		p[n + 23] = 0;
	}
	return n;
}

static int64_t started_unix_us(const struct batch *b, const struct item *it)
{
	return it->started_us == 0 ? 0 : b->created_unix_ms * 1000 + it->started_us - b->accepted_us;
}

/* What changes with each attempt. */
static void bind_facts(struct sqlite *s, struct binder *to, const struct batch *b, const struct item *it, uint32_t seq)
{
	size_t n_records = pack_records(s->records, it->records);
	int state = it->state == ITEM_FINAL || it->state == ITEM_WAITING ? it->state : ITEM_PENDING;

	bind_int(to, state);
	bind_int(to, it->status);
	bind_int(to, it->code);
	bind_int(to, it->delivered);
	bind_int(to, it->stop);
	bind_int(to, it->duplicate_risk);
	bind_int(to, it->attempts);
	bind_int(to, it->refused);
	bind_int(to, it->http_status);
	bind_int(to, started_unix_us(b, it));
	bind_int(to, it->latency_ms);
	bind_int_or_null(to, it->retry_after_ms, RETRY_AFTER_NONE);
	bind_int_or_null(to, state == ITEM_WAITING ? it->due_unix_ms : 0, 0);
	bind_int_or_null(to, seq == 0 ? 0 : sqlite_pos(b->store_row, seq), 0);
	bind_text(to, slice_str(it->message_id));
	bind_text(to, slice_str(it->detail));
	bind_blob(to, n_records == 0 ? NULL : s->records, n_records);
}

static int add_item(struct sqlite *s, const struct batch *b, const struct item *it, const struct item *facts,
		    uint32_t seq)
{
	struct binder to = sqlite_bind(s->w[W_ADD_ITEM]);

	bind_int(&to, sqlite_pos(b->store_row, it->index));
	bind_text(&to, it->id);
	bind_int(&to, service_number(s, it->service));
	bind_int_or_null(&to, it->ttl_ms, HEAP_NONE);
	bind_facts(s, &to, b, facts, seq);
	return sqlite_run(&to);
}

static int update_item(struct sqlite *s, const struct batch *b, const struct item *it, uint32_t seq)
{
	struct binder to = sqlite_bind(s->w[W_UPDATE]);

	bind_facts(s, &to, b, it, seq);
	bind_int(&to, sqlite_pos(b->store_row, it->index));
	return sqlite_run(&to);
}

static int add_letter(struct sqlite *s, const struct batch *b, const struct item *it)
{
	struct binder to = sqlite_bind(s->w[W_ADD_LETTER]);

	if (it->to.p == NULL && it->payload.p == NULL && it->dedupe_key.p == NULL)
		return SQLITE_OK;
	bind_int(&to, sqlite_pos(b->store_row, it->index));
	bind_text(&to, it->to);
	bind_text(&to, it->dedupe_key);
	if (item_shares_payload(it))
		bind_int(&to, 0);
	else
		bind_blob(&to, it->payload.p, it->payload.n);
	return sqlite_run(&to);
}

static int add_shared_payload(struct sqlite *s, const struct batch *b)
{
	struct binder to = sqlite_bind(s->w[W_ADD_LETTER]);

	if (b->payload.p == NULL)
		return SQLITE_OK;
	bind_int(&to, sqlite_pos(b->store_row, SHARED_INDEX));
	bind_null(&to);
	bind_null(&to);
	bind_blob(&to, b->payload.p, b->payload.n);
	return sqlite_run(&to);
}

static int drop_letter(struct sqlite *s, int64_t row, uint32_t index)
{
	struct binder to = sqlite_bind(s->w[W_DROP_LETTER]);

	bind_int(&to, sqlite_pos(row, index));
	return sqlite_run(&to);
}

/* SQLITE_ROW: the key is taken, and a->existing and a->same_body say by whom. */
static int look_for_key(struct sqlite *s, struct store_accept *a)
{
	const struct batch_key *key = a->batch->key;
	sqlite3_stmt *st = s->w[W_KEY];
	struct binder b = sqlite_bind(st);
	int rc, end;

	if (key == NULL)
		return SQLITE_OK;
	bind_name(&b, a->batch->tenant);
	bind_text(&b, key->key);
	bind_text(&b, key->scope);
	if (b.rc != SQLITE_OK)
		return b.rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW && sqlite3_column_bytes(st, 0) == 16) {
		a->existing = sqlite_id(sqlite3_column_blob(st, 0));
		a->same_body = sqlite3_column_bytes(st, 1) == (int)sizeof key->digest &&
			       memcmp(sqlite3_column_blob(st, 1), key->digest, sizeof key->digest) == 0;
	}
	end = sqlite3_reset(st);
	return end != SQLITE_OK ? end : rc == SQLITE_ROW ? SQLITE_ROW : SQLITE_OK;
}

static void count_settled(struct counts *c, const struct item *it)
{
	c->pending--;
	c->succeeded += it->status == STATUS_SUCCEEDED;
	c->failed += it->status == STATUS_FAILED;
	c->indeterminate += it->status == STATUS_INDETERMINATE;
	c->not_attempted += it->status == STATUS_NOT_ATTEMPTED;
}

/* The items as they were accepted: none of them is looked at for what its owner
 * may change meanwhile. */
static int add_accepted_items(struct sqlite *s, const struct batch *b)
{
	const struct item fresh = {.retry_after_ms = RETRY_AFTER_NONE};
	int rc = b->durable ? add_shared_payload(s, b) : SQLITE_OK;

	for (uint32_t i = 0; rc == SQLITE_OK && i < b->n_items; i++) {
		rc = add_item(s, b, &b->items[i], &fresh, 0);
		if (rc == SQLITE_OK && b->durable)
			rc = add_letter(s, b, &b->items[i]);
	}
	return rc;
}

static int accept(struct sqlite *s, struct store_accept *a)
{
	struct batch *b = a->batch;
	struct counts c = {.total = b->n_items, .pending = b->n_items};
	const struct item *it = NULL;
	int rc = look_for_key(s, a);

	if (rc == SQLITE_ROW) {
		a->op.answer = STORE_KEY_EXISTS;
		return SQLITE_OK;
	}
	REQUIRE(b->n_items < SHARED_INDEX);
	b->store_row = s->next_row++;
	if (rc == SQLITE_OK)
		rc = add_accepted_items(s, b);
	for (uint32_t i = 0; rc == SQLITE_OK && i < a->n_settled; i++) {
		it = i == 0 ? b->settled_first : it->next_settled;
		count_settled(&c, it);
		rc = update_item(s, b, it, i + 1);
	}
	if (rc == SQLITE_OK)
		rc = add_new_head(s, b, &c);
	if (rc == SQLITE_OK)
		s->delta += c.pending;
	/* Nobody shows it before the answer, and there is none without the commit. */
	if (b->durable)
		b->durability = "disk";
	return rc;
}

static int claim(struct sqlite *s, struct store_claim *c)
{
	struct binder b = sqlite_bind(s->w[W_CLAIM]);
	int rc = make_room(s);

	bind_int(&b, sqlite_pos(c->row, c->index));
	if (rc == SQLITE_OK)
		rc = sqlite_run(&b);
	if (rc != SQLITE_OK)
		return rc;
	if (sqlite3_changes(s->writer) == 0)
		c->op.answer = STORE_NOT_FOUND;
	else
		touch(s, c->row)->claimed = true;
	return SQLITE_OK;
}

static int update(struct sqlite *s, struct store_update *u)
{
	int64_t row = u->batch->store_row;
	struct touched *t;
	int rc = make_room(s);

	if (rc == SQLITE_OK)
		rc = update_item(s, u->batch, &u->item, u->seq);
	if (rc != SQLITE_OK)
		return rc;
	if (sqlite3_changes(s->writer) == 0) {
		u->op.answer = STORE_NOT_FOUND;
		return SQLITE_OK;
	}
	t = touch(s, row);
	t->counts = u->counts;
	t->counted = true;
	if (u->item.state == ITEM_FINAL && u->item.delivered == DELIVERED_YES)
		rc = drop_letter(s, row, u->item.index);
	return rc;
}

static int finish_durable(struct sqlite *s, struct store_finish *f)
{
	const struct batch *b = f->batch;
	struct binder to = sqlite_bind(s->w[W_FINISH]);
	enum batch_state state = BATCH_QUEUED;
	uint32_t pending = 0;
	int rc = look_at_head(s, b->store_row, &state, &pending);

	if (rc != SQLITE_ROW) {
		f->op.answer = STORE_NOT_FOUND;
		return rc;
	}
	bind_end(&to, b);
	bind_int(&to, b->store_row);
	rc = sqlite_run(&to);
	if (rc == SQLITE_OK)
		s->delta += (int64_t)b->counts.pending - pending;
	if (rc == SQLITE_OK && b->counts.succeeded == b->counts.total)
		rc = drop_letter(s, b->store_row, SHARED_INDEX);
	return rc;
}

/* The items of the settled chain, with the letters that a retry may want. */
static int add_settled_items(struct sqlite *s, const struct batch *b)
{
	uint32_t seq = b->counts.total;
	bool shared = false;
	int rc = SQLITE_OK;

	for (const struct item *it = b->settled_first; it != NULL; it = it->next_settled)
		seq--;
	for (const struct item *it = b->settled_first; rc == SQLITE_OK && it != NULL; it = it->next_settled) {
		rc = add_item(s, b, it, it, ++seq);
		if (rc == SQLITE_OK && it->delivered != DELIVERED_YES) {
			rc = add_letter(s, b, it);
			shared = shared || item_shares_payload(it);
		}
	}
	return rc == SQLITE_OK && shared ? add_shared_payload(s, b) : rc;
}

/* Its note, if there is one, gives way to all of it. */
static int finish_undurable(struct sqlite *s, struct store_finish *f)
{
	struct batch *b = f->batch;
	struct binder drop = sqlite_bind(s->w[W_DROP_BATCH]);
	enum batch_state state = BATCH_QUEUED;
	uint32_t pending = 0;
	int rc;

	if (b->store_row == 0)
		b->store_row = s->next_row++;
	rc = look_at_head(s, b->store_row, &state, &pending);
	if (rc == SQLITE_ROW) {
		bind_int(&drop, b->store_row);
		rc = sqlite_run(&drop);
	}
	if (rc == SQLITE_OK)
		rc = add_finished_head(s, b);
	if (rc == SQLITE_OK)
		rc = add_settled_items(s, b);
	if (rc == SQLITE_OK)
		s->delta += (int64_t)b->counts.pending - pending;
	return rc;
}

/* After the end of a batch the group has nothing more to say of its head. */
static int finish(struct sqlite *s, struct store_finish *f)
{
	struct touched *t;
	int rc = make_room(s);

	if (rc != SQLITE_OK)
		return rc;
	rc = f->batch->durable ? finish_durable(s, f) : finish_undurable(s, f);
	if (f->batch->store_row != 0) {
		t = touch(s, f->batch->store_row);
		t->counted = t->claimed = false;
	}
	return rc;
}

static int park(struct sqlite *s, struct store_park *p)
{
	struct binder b = sqlite_bind(s->w[W_PARK]);
	int rc;

	bind_int_or_null(&b, p->due_unix_ms, 0);
	bind_int(&b, p->row);
	rc = sqlite_run(&b);
	if (rc == SQLITE_OK && sqlite3_changes(s->writer) == 0)
		p->op.answer = STORE_NOT_FOUND;
	return rc;
}

int sqlite_bury(struct sqlite *s, int64_t row)
{
	struct binder grave = sqlite_bind(s->w[W_BURY]), drop = sqlite_bind(s->w[W_DROP_BATCH]);
	int rc;

	bind_int(&grave, row);
	bind_int(&drop, row);
	rc = sqlite_run(&grave);
	return rc == SQLITE_OK ? sqlite_run(&drop) : rc;
}

static int forget(struct sqlite *s, struct store_delete *d)
{
	sqlite3_stmt *st = s->w[W_BY_ID];
	struct binder b = sqlite_bind(st);
	int64_t row = 0;
	int rc, end;

	bind_id(&b, d->id);
	bind_text(&b, d->tenant);
	if (b.rc != SQLITE_OK)
		return b.rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		row = sqlite3_column_int64(st, 0);
		d->op.answer = sqlite3_column_int(st, 1) == BATCH_DONE ? STORE_OK : STORE_NOT_DONE;
	} else {
		d->op.answer = STORE_NOT_FOUND;
	}
	end = sqlite3_reset(st);
	return end == SQLITE_OK && d->op.answer == STORE_OK ? sqlite_bury(s, row) : end;
}

static int write_one(struct sqlite *s, struct store_op *op)
{
	switch (op->what) {
	case STORE_ACCEPT:
		return accept(s, container_of(op, struct store_accept, op));
	case STORE_CLAIM:
		return claim(s, container_of(op, struct store_claim, op));
	case STORE_UPDATE:
		return update(s, container_of(op, struct store_update, op));
	case STORE_FINISH:
		return finish(s, container_of(op, struct store_finish, op));
	case STORE_PARK:
		return park(s, container_of(op, struct store_park, op));
	case STORE_DELETE:
		return forget(s, container_of(op, struct store_delete, op));
	case STORE_READ:
	case STORE_LIST:
		break;
	}
	REQUIRE(false);
}

int sqlite_write(struct backend *b, struct store_op *op)
{
	struct sqlite *s = sqlite_of(b);

	op->answer = STORE_OK;
	return sqlite_failed(s, write_one(s, op));
}
