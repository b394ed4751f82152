/*
 * What the tests of store share: a loop in a thread of its own, operations that
 * are answered before the next line, and batches.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/store.h"

static struct loop *rig_loop;
static pthread_t rig_thread;
static struct rng rig_rng;
static pthread_mutex_t rig_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rig_changed = PTHREAD_COND_INITIALIZER;
static unsigned rig_waiting;             /* operations that are not answered */
static _Thread_local bool rig_inside;    /* this thread is in store_ask() */

static inline void *rig_main(void *arg)
{
	(void)arg;
	loop_run(rig_loop);
	return NULL;
}

static inline void rig_start(void)
{
	rig_loop = loop_new();
	assert_non_null(rig_loop);
	rig_waiting = 0;
	pthread_create(&rig_thread, NULL, rig_main, NULL);
}

static inline void rig_stop(void)
{
	loop_stop(rig_loop);
	pthread_join(rig_thread, NULL);
	loop_free(rig_loop);
}

static inline int64_t rig_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static inline void rig_answered(struct store_op *op)
{
	assert_false(rig_inside);
	pthread_mutex_lock(&rig_lock);
	op->reply_to = NULL;
	rig_waiting--;
	pthread_cond_broadcast(&rig_changed);
	pthread_mutex_unlock(&rig_lock);
}

static inline void rig_ask(struct store *s, struct store_op *op, enum store_do what)
{
	op->what = what;
	op->reply_to = rig_loop;
	op->on_done = rig_answered;
	pthread_mutex_lock(&rig_lock);
	rig_waiting++;
	pthread_mutex_unlock(&rig_lock);
	rig_inside = true;
	store_ask(s, op);
	rig_inside = false;
}

/* Until no more than so many of what was asked are not answered. */
static inline void rig_wait_for(unsigned left)
{
	pthread_mutex_lock(&rig_lock);
	while (rig_waiting > left)
		pthread_cond_wait(&rig_changed, &rig_lock);
	pthread_mutex_unlock(&rig_lock);
}

static inline void rig_wait(void)
{
	rig_wait_for(0);
}

/* Until this one is answered. */
static inline enum store_answer rig_do(struct store *s, struct store_op *op, enum store_do what)
{
	rig_ask(s, op, what);
	pthread_mutex_lock(&rig_lock);
	while (op->reply_to != NULL)
		pthread_cond_wait(&rig_changed, &rig_lock);
	pthread_mutex_unlock(&rig_lock);
	return op->answer;
}

/* Any thread. */
static inline struct batch_id rig_id(int64_t unix_ms)
{
	struct batch_id id;

	pthread_mutex_lock(&rig_lock);
	id = batch_id_new(&rig_rng, unix_ms, 0);
	pthread_mutex_unlock(&rig_lock);
	return id;
}

/* A job of n items, all bytes of it in the body: item i goes to "to-i" with its
 * own payload. */
static inline struct batch *rig_batch(uint32_t n)
{
	struct buf text = {0};
	struct slice *at = xcalloc(n * 3 + 1, sizeof *at);
	struct batch *b;

	for (uint32_t i = 0; i < n * 3; i++) {
		static const char *const form[] = {"item-%u", "to-%u", "{\"text\":\"hello %u\"}"};
		size_t from = text.n;

		buf_printf(&text, form[i % 3], i / 3);
		at[i] = (struct slice){(const char *)from, text.n - from};
	}
	buf_add_char(&text, '\n');
	b = batch_new(blob_from_buf(&text), n);
	assert_non_null(b);
	for (uint32_t i = 0; i < n; i++) {
		struct item *it = &b->items[i];
		struct slice *part[] = {&it->id, &it->to, &it->payload};

		for (unsigned k = 0; k < 3; k++)
			*part[k] = (struct slice){b->body->p + (size_t)at[i * 3 + k].p, at[i * 3 + k].n};
	}
	free(at);
	b->created_unix_ms = rig_now_ms();
	b->id = rig_id(b->created_unix_ms);
	b->accepted_us = 5000000;
	b->asynchronous = b->durable = true;
	b->policy.concurrency = 64;
	return b;
}

static inline void rig_key(struct batch *b, const char *scope, const char *key, unsigned char body)
{
	struct batch_key *k = arena_alloc(&b->arena, sizeof *k);

	assert_non_null(k);
	*k = (struct batch_key){.scope = slice_str(scope), .key = slice_str(key), .digest = {body, 1, 2}};
	b->key = k;
}

/* The caller keeps its reference. */
static inline enum store_answer rig_accept(struct store *s, struct batch *b)
{
	struct store_accept a = {.batch = batch_ref(b)};

	return rig_do(s, &a.op, STORE_ACCEPT);
}

static inline void rig_claim(struct store *s, const struct batch *b, uint32_t index)
{
	struct store_claim c = {.row = b->store_row, .index = index};

	assert_int_equal(rig_do(s, &c.op, STORE_CLAIM), STORE_OK);
}

static inline struct store_update rig_update_of(struct batch *b, uint32_t index)
{
	const struct item *it = &b->items[index];

	return (struct store_update){
		.batch = batch_ref(b),
		.item = *it,
		.counts = b->counts,
		.seq = it->state == ITEM_FINAL ? b->counts.total - b->counts.pending : 0,
	};
}

static inline void rig_update(struct store *s, struct batch *b, uint32_t index)
{
	struct store_update u = rig_update_of(b, index);

	assert_int_equal(rig_do(s, &u.op, STORE_UPDATE), STORE_OK);
}

/* What an attempt brought; the item is not final yet. */
static inline void rig_attempt(struct batch *b, uint32_t index, enum code code, enum delivered delivered)
{
	struct item *it = &b->items[index];
	struct outcome o = {
		.code = code,
		.delivered = delivered,
		.phase = PHASE_RECEIVE,
		.http_status = code == CODE_OK ? 200 : 503,
		.retry_after_ms = RETRY_AFTER_NONE,
	};

	if (it->state != ITEM_QUEUED)
		item_set_state(it, ITEM_QUEUED);
	item_record(it, &o, b->accepted_us + 1000, b->accepted_us + 4000, b->created_unix_ms + 1);
}

static inline void rig_settle(struct batch *b, uint32_t index, enum code code, enum delivered delivered)
{
	rig_attempt(b, index, code, delivered);
	item_settle(&b->items[index], code, STOP_NONE, b->accepted_us + 9000);
}

/* The end of a batch whose items are all final; keep_ms: how long it is kept. */
static inline void rig_end(struct batch *b, int64_t keep_ms)
{
	if (b->state == BATCH_QUEUED)
		batch_set_state(b, BATCH_RUNNING);
	batch_finish(b, b->accepted_us + 20000, b->created_unix_ms + 20);
	b->expires_unix_ms = b->finished_unix_ms + keep_ms;
}

static inline enum store_answer rig_finish(struct store *s, struct batch *b)
{
	struct store_finish f = {.batch = batch_ref(b)};

	return rig_do(s, &f.op, STORE_FINISH);
}

/* A whole life: accepted, each item delivered, finished. */
static inline void rig_live(struct store *s, struct batch *b)
{
	if (b->durable)
		assert_int_equal(rig_accept(s, b), STORE_OK);
	for (uint32_t i = 0; i < b->n_items; i++) {
		rig_settle(b, i, CODE_OK, DELIVERED_YES);
		if (b->durable)
			rig_update(s, b, i);
	}
	rig_end(b, 3600 * 1000);
	assert_int_equal(rig_finish(s, b), STORE_OK);
}

/* All items by index, with letters. NULL: not found. */
static inline struct batch *rig_read(struct store *s, struct batch_id id)
{
	struct store_read r = {.id = id, .limit = UINT32_MAX, .letters = true};

	return rig_do(s, &r.op, STORE_READ) == STORE_OK ? r.batch : NULL;
}

static inline enum store_answer rig_delete(struct store *s, struct batch_id id)
{
	struct store_delete d = {.id = id};

	return rig_do(s, &d.op, STORE_DELETE);
}

#define ASSERT_SLICE(got, want)                                             \
	do {                                                                \
		struct slice got_ = (got), want_ = (want);                  \
		assert_int_equal(got_.n, want_.n);                          \
		assert_int_equal(got_.p == NULL, want_.p == NULL);          \
		if (want_.n > 0)                                            \
			assert_memory_equal(got_.p, want_.p, want_.n);      \
	} while (0)
