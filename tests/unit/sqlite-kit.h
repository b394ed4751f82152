/*
 * For the tests of the SQLite backend: a fresh directory, batches as dispatch
 * would bring them, and the backend's calls as the front makes them.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/backend-i.h"

static const char *const kit_services[] = {"push", "mail"};

struct kit {
	char dir[64];
	struct store_config cfg;
	struct backend *b;
	struct rng rng;
	int64_t now;
};

static inline void kit_init(struct kit *k)
{
	bool in_memory = access("/dev/shm", W_OK) == 0;

	*k = (struct kit){.now = 1700000000000};
	snprintf(k->dir, sizeof k->dir, "%s/settled-sqlite-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(k->dir));
	k->cfg = (struct store_config){.path = k->dir, .services = kit_services, .n_services = 2};
	rng_seed(&k->rng, 7);
}

static inline void kit_close(struct kit *k)
{
	if (k->b != NULL)
		k->b->ops->close(k->b);
	k->b = NULL;
}

static inline void kit_open(struct kit *k)
{
	struct buf err = {0};

	kit_close(k);
	k->b = sqlite_open(&k->cfg, &err);
	if (k->b == NULL)
		fail_msg("%.*s", (int)err.n, err.p);
	buf_free(&err);
}

/* The message with which it is refused to open; "" if it opens. The caller frees it. */
static inline char *kit_refusal(struct kit *k)
{
	struct buf err = {0};
	struct backend *b = sqlite_open(&k->cfg, &err);

	if (b != NULL)
		b->ops->close(b);
	buf_add_char(&err, '\0');
	return err.p;
}

static inline void kit_file(const struct kit *k, const char *name, char out[128])
{
	snprintf(out, 128, "%s/%s", k->dir, name);
}

static inline void kit_clear(const struct kit *k)
{
	DIR *d = opendir(k->dir);
	char path[128 + 256];

	if (d == NULL)
		return;
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		snprintf(path, sizeof path, "%s/%s", k->dir, e->d_name);
		unlink(path);
	}
	closedir(d);
}

static inline void kit_done(struct kit *k)
{
	kit_close(k);
	kit_clear(k);
	rmdir(k->dir);
}

/* A job of n items, of which those with an odd index bring a payload of their own. */
static inline struct batch *kit_batch(struct kit *k, uint32_t n, bool durable)
{
	struct batch *b = batch_new(NULL, n);
	char text[64];

	assert_non_null(b);
	b->id = batch_id_new(&k->rng, k->now++, 3);
	b->asynchronous = b->durable = durable;
	b->created_unix_ms = k->now;
	b->accepted_us = 5000000;
	b->expires_unix_ms = k->now + 1000;
	b->policy = (struct policy){.contract = CONTRACT_BEST_EFFORT, .concurrency = 9, .deadline_ms = 77000,
				    .include_attempts = true,
				    .retry = {.max_attempts = 4, .base_ms = 10, .cap_ms = 99}};
	b->payload = arena_copy(&b->arena, SLICE("{\"shared\":true}"));
	b->metadata = SLICE("{\"a\":\"b\"}");
	for (uint32_t i = 0; i < n; i++) {
		struct item *it = &b->items[i];

		snprintf(text, sizeof text, "item-%u", i);
		it->id = arena_copy(&b->arena, slice_str(text));
		snprintf(text, sizeof text, "to-%u", i);
		it->to = arena_copy(&b->arena, slice_str(text));
		snprintf(text, sizeof text, "{\"own\":%u}", i);
		it->payload = i % 2 == 0 ? b->payload : arena_copy(&b->arena, slice_str(text));
		it->service = i % 2;
	}
	return b;
}

static inline int kit_write(struct kit *k, struct store_op *op, bool synced)
{
	int err = k->b->ops->begin(k->b, synced);

	if (err == 0)
		err = k->b->ops->write(k->b, op);
	if (err == 0)
		err = k->b->ops->commit(k->b);
	if (err != 0)
		k->b->ops->rollback(k->b);
	return err;
}

static inline int kit_accept(struct kit *k, struct batch *b)
{
	struct store_accept a = {.op.what = STORE_ACCEPT, .batch = b};

	for (const struct item *it = b->settled_first; it != NULL; it = it->next_settled)
		a.n_settled++;
	return kit_write(k, &a.op, b->durable);
}

static inline int kit_claim(struct kit *k, const struct batch *b, uint32_t index)
{
	struct store_claim c = {.op.what = STORE_CLAIM, .row = b->store_row, .index = index};

	return kit_write(k, &c.op, false);
}

/* The item is attempted, with this outcome, and settles. */
static inline void kit_attempt(struct batch *b, uint32_t index, enum code code)
{
	struct item *it = &b->items[index];
	const struct outcome o = {.code = code, .delivered = code == CODE_OK ? DELIVERED_YES : DELIVERED_NO,
				  .http_status = code == CODE_OK ? 200 : 410, .phase = PHASE_RECEIVE,
				  .retry_after_ms = RETRY_AFTER_NONE, .message_id = SLICE("m-1"),
				  .detail = code == CODE_OK ? NULL : "gone for good"};

	if (it->state == ITEM_PENDING)
		item_set_state(it, ITEM_QUEUED);
	item_record(it, &o, 5001000, 5003000, b->created_unix_ms + 1);
}

static inline void kit_settle(struct batch *b, uint32_t index, enum code code)
{
	kit_attempt(b, index, code);
	item_settle(&b->items[index], code, code == CODE_OK ? STOP_NONE : STOP_NOT_RETRYABLE, 5003000);
}

static inline struct store_update kit_update_of(struct batch *b, uint32_t index)
{
	bool final = b->items[index].state == ITEM_FINAL;

	return (struct store_update){.op.what = STORE_UPDATE, .batch = b, .item = b->items[index], .counts = b->counts,
				     .seq = final ? b->counts.total - b->counts.pending : 0};
}

static inline int kit_update(struct kit *k, struct batch *b, uint32_t index)
{
	struct store_update u = kit_update_of(b, index);

	return kit_write(k, &u.op, false);
}

static inline int kit_finish(struct kit *k, struct batch *b)
{
	struct store_finish f = {.op.what = STORE_FINISH, .batch = b};

	if (b->state == BATCH_QUEUED)
		batch_set_state(b, BATCH_RUNNING);
	if (b->state != BATCH_DONE)
		batch_finish(b, 6000000, b->created_unix_ms + 1000);
	return kit_write(k, &f.op, b->durable);
}

static inline struct store_read kit_read(struct kit *k, struct batch_id id, bool letters)
{
	struct store_read r = {.op.what = STORE_READ, .id = id, .limit = 100000, .letters = letters};

	k->b->ops->read(k->b, &r.op);
	return r;
}

static inline struct store_status kit_measure(struct kit *k)
{
	struct store_status st = {.unfinished_items = k->b->unfinished};

	k->b->ops->measure(k->b, &st);
	return st;
}

/* The one number that a query answers, from a connection of its own. */
static inline int64_t kit_ask(const struct kit *k, const char *sql)
{
	char path[128];
	sqlite3 *db;
	sqlite3_stmt *st;
	int64_t n;

	kit_file(k, "settled.db", path);
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	n = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	sqlite3_close(db);
	return n;
}

static inline void kit_tell(const struct kit *k, const char *sql)
{
	char path[128];
	sqlite3 *db;

	kit_file(k, "settled.db", path);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

/* A file's bytes; n 0: it is not there. */
static inline struct buf kit_bytes(const struct kit *k, const char *name)
{
	struct buf text = {0};
	char path[128], part[4096];
	ssize_t n;
	int fd;

	kit_file(k, name, path);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return text;
	while ((n = read(fd, part, sizeof part)) > 0)
		buf_add(&text, part, (size_t)n);
	close(fd);
	return text;
}
