/*
 * A small world for the tests that make the database's calls fail: three batches,
 * the steps that change them, what was tried and what acknowledged, and a check
 * of what stands against it.
 */
#pragma once

#include "sqlite-shim.h"

#include "store/sqlite-i.h"

enum step { ACCEPT_A, CLAIM_A, UPDATE_A, ACCEPT_B, PARK_B, END_A, NOTE_C, FINISH_C, DELETE_A, SWEEP, STEPS };

enum { ITEMS_A = 3, ITEMS_B = 40, ITEMS_C = 5, DUE = 4242 };

static struct {
	struct kit kit;
	struct batch *a, *b, *c;
	bool tried[STEPS], acked[STEPS];
} w;

static inline int accept_a(void)
{
	return kit_accept(&w.kit, w.a);
}

static inline int claim_a(void)
{
	return kit_claim(&w.kit, w.a, 0);
}

static inline void settle_once(struct batch *b, uint32_t index, enum code code)
{
	if (b->items[index].state != ITEM_FINAL)
		kit_settle(b, index, code);
}

static inline int update_a(void)
{
	settle_once(w.a, 0, CODE_OK);
	return kit_update(&w.kit, w.a, 0);
}

static inline int accept_b(void)
{
	return kit_accept(&w.kit, w.b);
}

static inline int park_b(void)
{
	struct store_park p = {.op.what = STORE_PARK, .row = w.b->store_row, .due_unix_ms = DUE};

	return kit_write(&w.kit, &p.op, false);
}

/* One group of three operations. */
static inline int end_a(void)
{
	struct store_update u[2];
	struct store_finish f = {.op.what = STORE_FINISH, .batch = w.a};
	struct backend *b = w.kit.b;
	int err;

	for (uint32_t i = 0; i < 2; i++) {
		settle_once(w.a, i + 1, CODE_RECIPIENT_GONE);
		u[i] = kit_update_of(w.a, i + 1);
	}
	if (w.a->state != BATCH_DONE) {
		batch_set_state(w.a, BATCH_RUNNING);
		batch_finish(w.a, 6000000, w.a->created_unix_ms + 1000);
	}
	err = b->ops->begin(b, false);
	for (uint32_t i = 0; err == 0 && i < 2; i++)
		err = b->ops->write(b, &u[i].op);
	if (err == 0)
		err = b->ops->write(b, &f.op);
	if (err == 0)
		err = b->ops->commit(b);
	if (err != 0)
		b->ops->rollback(b);
	return err;
}

static inline int note_c(void)
{
	return kit_accept(&w.kit, w.c);
}

static inline int finish_c(void)
{
	for (uint32_t i = 0; i < ITEMS_C; i++)
		settle_once(w.c, i, i == 1 ? CODE_OK : CODE_RECIPIENT_GONE);
	return kit_finish(&w.kit, w.c);
}

static inline int delete_a(void)
{
	struct store_delete d = {.op.what = STORE_DELETE, .id = w.a->id};

	return kit_write(&w.kit, &d.op, false);
}

static inline int sweep(void)
{
	bool more = true;
	int err = 0;

	while (err == 0 && more)
		err = w.kit.b->ops->expire(w.kit.b, 0, &more);
	return err;
}

/* What a step needs to have been acknowledged, and whether it is synced itself. */
static const struct {
	int (*run)(void);
	enum step after;
	bool synced;
} steps[STEPS] = {
	[ACCEPT_A] = {accept_a, STEPS, true}, [CLAIM_A] = {claim_a, ACCEPT_A, false},
	[UPDATE_A] = {update_a, CLAIM_A, false}, [ACCEPT_B] = {accept_b, STEPS, true},
	[PARK_B] = {park_b, ACCEPT_B, false}, [END_A] = {end_a, UPDATE_A, false},
	[NOTE_C] = {note_c, STEPS, false}, [FINISH_C] = {finish_c, STEPS, false},
	[DELETE_A] = {delete_a, END_A, false}, [SWEEP] = {sweep, STEPS, false},
};

static inline void look_meanwhile(void)
{
	struct store_read r = kit_read(&w.kit, w.a->id, true);

	if (r.op.answer == STORE_NOT_FOUND)
		assert_true(!w.acked[ACCEPT_A] || w.tried[DELETE_A]);
	if (r.op.answer == STORE_OK) {
		assert_int_equal(r.batch->n_items, ITEMS_A);
		assert_true(w.tried[ACCEPT_A]);
	}
	batch_unref(r.batch);
}

/* A note that could not be written is dropped: it is of no use after the end. */
static inline bool is_wanted(enum step i)
{
	if (w.acked[i] || (i == NOTE_C && w.acked[FINISH_C]))
		return false;
	return steps[i].after == STEPS || w.acked[steps[i].after];
}

static inline void run_steps(enum step n)
{
	for (enum step i = 0; i < n; i++) {
		if (!is_wanted(i))
			continue;
		w.tried[i] = true;
		w.acked[i] = steps[i].run() == 0;
		if (!w.acked[i])
			assert_true(w.kit.b->why[0] != '\0');
		look_meanwhile();
	}
}

static inline bool must(enum step s)
{
	return w.acked[s];
}

static inline bool may(enum step s)
{
	return w.tried[s];
}

/* It is there if it must, not if it may not. */
static inline bool found(const struct store_read *r, bool must_be, bool may_be)
{
	if (r->op.answer != STORE_OK)
		assert_int_equal(r->op.answer, STORE_NOT_FOUND);
	if (must_be)
		assert_int_equal(r->op.answer, STORE_OK);
	if (!may_be)
		assert_int_equal(r->op.answer, STORE_NOT_FOUND);
	return r->op.answer == STORE_OK;
}

static inline uint32_t final_items(const struct batch *b)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->n_items; i++)
		n += b->items[i].state == ITEM_FINAL;
	assert_int_equal(b->counts.pending, b->counts.total - n);
	return n;
}

static inline uint32_t check_a(void)
{
	struct store_read r = kit_read(&w.kit, w.a->id, true);
	uint32_t n, pending;
	bool done;

	if (!found(&r, must(ACCEPT_A) && !may(DELETE_A), may(ACCEPT_A) && !must(DELETE_A)))
		return 0;
	assert_int_equal(r.batch->n_items, ITEMS_A);
	n = final_items(r.batch);
	done = r.batch->state == BATCH_DONE;
	if (must(END_A))
		assert_true(done);
	if (!may(END_A))
		assert_false(done);
	assert_int_equal(r.batch->items[1].state, done ? ITEM_FINAL : ITEM_PENDING);
	assert_int_equal(n, r.batch->items[0].state == ITEM_FINAL ? (done ? 3 : 1) : 0);
	if (must(UPDATE_A))
		assert_true(n > 0);
	if (n == 0 && must(CLAIM_A))
		assert_true(r.batch->items[0].in_flight);
	if (n == 0)
		assert_true(slice_eq(r.batch->items[0].to, w.a->items[0].to));
	assert_true(slice_eq(r.batch->items[1].payload, w.a->items[1].payload));
	pending = r.batch->counts.pending;
	batch_unref(r.batch);
	return pending;
}

static inline void see_due(void *arg, const struct store_unfinished *u)
{
	if (batch_id_eq(u->id, w.b->id))
		*(int64_t *)arg = u->due_unix_ms;
}

static inline uint32_t check_b(void)
{
	struct store_read r = kit_read(&w.kit, w.b->id, true);
	int64_t due = 0;

	if (!found(&r, must(ACCEPT_B), may(ACCEPT_B)))
		return 0;
	assert_int_equal(r.batch->n_items, ITEMS_B);
	assert_int_equal(final_items(r.batch), 0);
	for (uint32_t i = 0; i < ITEMS_B; i++)
		assert_true(slice_eq(r.batch->items[i].payload, w.b->items[i].payload));
	assert_int_equal(w.kit.b->ops->each_unfinished(w.kit.b, see_due, &due), 0);
	if (must(PARK_B))
		assert_int_equal(due, DUE);
	if (!may(PARK_B))
		assert_int_equal(due, 0);
	batch_unref(r.batch);
	return ITEMS_B;
}

static inline uint32_t check_c(void)
{
	struct store_read r = kit_read(&w.kit, w.c->id, true);
	uint32_t pending;

	if (!found(&r, must(NOTE_C) || must(FINISH_C), may(NOTE_C) || may(FINISH_C)))
		return 0;
	assert_int_equal(r.batch->n_items, ITEMS_C);
	final_items(r.batch);
	pending = r.batch->counts.pending;
	assert_true(pending == (r.batch->state == BATCH_DONE ? 0 : ITEMS_C));
	if (must(FINISH_C))
		assert_int_equal(pending, 0);
	if (pending == 0)
		assert_true(slice_eq(r.batch->items[3].payload, w.c->items[3].payload));
	batch_unref(r.batch);
	return pending;
}

static inline void check(void)
{
	uint32_t unfinished = check_a() + check_b() + check_c();

	assert_int_equal(kit_measure(&w.kit).unfinished_items, unfinished);
}

static inline void world_open(void)
{
	kit_open(&w.kit);
	sqlite_of(w.kit.b)->checkpoint_frames = sqlite_of(w.kit.b)->checkpoint_at = 4;
}

static inline void world_make(void)
{
	memset(&w, 0, sizeof w);
	memset(&shim, 0, sizeof shim);
	kit_init(&w.kit);
	w.a = kit_batch(&w.kit, ITEMS_A, true);
	w.b = kit_batch(&w.kit, ITEMS_B, true);
	w.c = kit_batch(&w.kit, ITEMS_C, false);
}

static inline void world_end(void)
{
	kit_done(&w.kit);
	batch_unref(w.a);
	batch_unref(w.b);
	batch_unref(w.c);
}
