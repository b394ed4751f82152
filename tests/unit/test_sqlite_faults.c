/*
 * Every call that the database makes of its files and its memory fails once, and
 * in another run from then on. In each run: no wrong success, nothing half done,
 * and all of it works again when the faults end.
 */
#include "sqlite-shim.h"

#include <errno.h>

#include "store/sqlite-i.h"

enum step { ACCEPT_A, CLAIM_A, UPDATE_A, ACCEPT_B, PARK_B, END_A, NOTE_C, FINISH_C, DELETE_A, SWEEP, STEPS };

enum { ITEMS_A = 3, ITEMS_B = 40, ITEMS_C = 5, DUE = 4242 };

static struct {
	struct kit kit;
	struct batch *a, *b, *c;
	bool tried[STEPS], acked[STEPS];
} w;

static int accept_a(void)
{
	return kit_accept(&w.kit, w.a);
}

static int claim_a(void)
{
	return kit_claim(&w.kit, w.a, 0);
}

static void settle_once(struct batch *b, uint32_t index, enum code code)
{
	if (b->items[index].state != ITEM_FINAL)
		kit_settle(b, index, code);
}

static int update_a(void)
{
	settle_once(w.a, 0, CODE_OK);
	return kit_update(&w.kit, w.a, 0);
}

static int accept_b(void)
{
	return kit_accept(&w.kit, w.b);
}

static int park_b(void)
{
	struct store_park p = {.op.what = STORE_PARK, .row = w.b->store_row, .due_unix_ms = DUE};

	return kit_write(&w.kit, &p.op, false);
}

/* One group of three operations. */
static int end_a(void)
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

static int note_c(void)
{
	return kit_accept(&w.kit, w.c);
}

static int finish_c(void)
{
	for (uint32_t i = 0; i < ITEMS_C; i++)
		settle_once(w.c, i, i == 1 ? CODE_OK : CODE_RECIPIENT_GONE);
	return kit_finish(&w.kit, w.c);
}

static int delete_a(void)
{
	struct store_delete d = {.op.what = STORE_DELETE, .id = w.a->id};

	return kit_write(&w.kit, &d.op, false);
}

static int sweep(void)
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

static void look_meanwhile(void)
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
static bool is_wanted(enum step i)
{
	if (w.acked[i] || (i == NOTE_C && w.acked[FINISH_C]))
		return false;
	return steps[i].after == STEPS || w.acked[steps[i].after];
}

static void run_steps(enum step n)
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

static bool must(enum step s)
{
	return w.acked[s];
}

static bool may(enum step s)
{
	return w.tried[s];
}

/* It is there if it must, not if it may not. */
static bool found(const struct store_read *r, bool must_be, bool may_be)
{
	if (r->op.answer != STORE_OK)
		assert_int_equal(r->op.answer, STORE_NOT_FOUND);
	if (must_be)
		assert_int_equal(r->op.answer, STORE_OK);
	if (!may_be)
		assert_int_equal(r->op.answer, STORE_NOT_FOUND);
	return r->op.answer == STORE_OK;
}

static uint32_t final_items(const struct batch *b)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->n_items; i++)
		n += b->items[i].state == ITEM_FINAL;
	assert_int_equal(b->counts.pending, b->counts.total - n);
	return n;
}

static uint32_t check_a(void)
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

static void see_due(void *arg, const struct store_unfinished *u)
{
	if (batch_id_eq(u->id, w.b->id))
		*(int64_t *)arg = u->due_unix_ms;
}

static uint32_t check_b(void)
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

static uint32_t check_c(void)
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

static void check(void)
{
	uint32_t unfinished = check_a() + check_b() + check_c();

	assert_int_equal(kit_measure(&w.kit).unfinished_items, unfinished);
}

static void world_open(void)
{
	kit_open(&w.kit);
	sqlite_of(w.kit.b)->checkpoint_frames = sqlite_of(w.kit.b)->checkpoint_at = 4;
}

static void world_make(void)
{
	memset(&w, 0, sizeof w);
	memset(&shim, 0, sizeof shim);
	kit_init(&w.kit);
	w.a = kit_batch(&w.kit, ITEMS_A, true);
	w.b = kit_batch(&w.kit, ITEMS_B, true);
	w.c = kit_batch(&w.kit, ITEMS_C, false);
}

static void world_end(void)
{
	kit_done(&w.kit);
	batch_unref(w.a);
	batch_unref(w.b);
	batch_unref(w.c);
}

/* The process ends here and now, and another one opens what it left. */
static void die_and_return(void)
{
	unsigned seen = shim.seen;

	shim.kind = SHIM_NONE;
	shim.dead = true;
	kit_close(&w.kit);
	memset(&shim, 0, sizeof shim);
	shim.seen = seen;
	world_open();
}

static void recover_in_place(void)
{
	shim.kind = SHIM_NONE;
	assert_false(w.kit.b->hopeless);
	run_steps(STEPS);
	for (enum step i = 0; i < STEPS; i++)
		assert_true(w.acked[i] || i == NOTE_C);
	check();
	world_open();
}

/* Returns whether the fault came at all. */
static bool survives(enum shim_kind kind, unsigned at, unsigned how)
{
	world_make();
	world_open();
	shim.kind = kind;
	shim.at = at;
	shim.persistent = how & 1;
	shim.full = how & 2;
	run_steps(STEPS);
	if (how & 2)
		recover_in_place();
	else
		die_and_return();
	check();
	world_end();
	return shim.seen >= at;
}

/* Every call; where all is ten times slower (valgrind), some of them. */
static unsigned strides(unsigned n)
{
	const char *patience = getenv("SETTLED_TEST_PATIENCE");

	return patience != NULL && atoi(patience) >= 10 ? n * 7 : n;
}

/* Once or from then on; to die of it, or to see the end of it. With a stride, each
 * of these looks at other calls. */
static void survives_all(enum shim_kind kind, unsigned stride)
{
	for (unsigned how = 0; how < 4; how++) {
		unsigned at = 1 + how % stride;

		while (survives(kind, at, how))
			at += stride;
		assert_true(at > 4);
	}
}

static void each_write_may_fail(void **state)
{
	(void)state;
	survives_all(SHIM_WRITE, strides(1));
}

static void each_sync_may_fail(void **state)
{
	(void)state;
	survives_all(SHIM_SYNC, strides(1));
}

static void each_read_may_fail(void **state)
{
	(void)state;
	survives_all(SHIM_READ, strides(1));
}

static void each_shared_map_and_lock_may_fail(void **state)
{
	(void)state;
	survives_all(SHIM_SHARED, strides(1));
}

static void each_allocation_may_fail(void **state)
{
	(void)state;
	survives_all(SHIM_ALLOC, strides(11));
}

/* Refused with a reason, or opened; then the next one opens it, with all that was in it. */
static bool opens_later(enum shim_kind kind, unsigned at, unsigned how)
{
	bool fresh = how & 2;
	char *said;

	world_make();
	if (!fresh) {
		world_open();
		run_steps(PARK_B);
		shim.dead = true;
		kit_close(&w.kit);
		shim.dead = false;
	}
	shim.kind = kind;
	shim.at = at;
	shim.persistent = how & 1;
	said = kit_refusal(&w.kit);
	shim.kind = SHIM_NONE;
	if (said[0] != '\0')
		assert_non_null(strstr(said, w.kit.dir));
	free(said);
	world_open();
	check();
	run_steps(STEPS);
	check();
	world_end();
	return shim.seen >= at;
}

static void each_step_of_opening_may_fail(void **state)
{
	static const struct {
		enum shim_kind kind;
		unsigned stride;
	} kinds[] = {{SHIM_WRITE, 1}, {SHIM_SYNC, 1}, {SHIM_OPEN, 1}, {SHIM_TRUNCATE, 1}, {SHIM_READ, 1}, {SHIM_DELETE, 1},
		     {SHIM_LOCK, 1}, {SHIM_SHARED, 1}, {SHIM_ALLOC, 47}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		for (unsigned how = 0; how < 4; how++) {
			unsigned at = 1;

			while (opens_later(kinds[i].kind, at, how))
				at += strides(kinds[i].stride);
		}
	}
}

static void restore(const char *name, const struct buf *was)
{
	char path[128];
	int fd;

	kit_file(&w.kit, name, path);
	unlink(path);
	if (was->n == 0)
		return;
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, was->p, was->n), was->n);
	close(fd);
}

/* The machine loses its power: of each file there is what was synced last. */
static void lose_power(void)
{
	static const struct buf nothing;

	shim.dead = true;
	kit_close(&w.kit);
	restore("settled.db", &shim_synced[0]);
	restore("settled.db-wal", &shim_synced[1]);
	restore("settled.db-shm", &nothing);
	memset(&shim, 0, sizeof shim);
	world_open();
}

static void what_was_to_be_synced_survives_a_loss_of_power(void **state)
{
	(void)state;
	for (enum step n = 1; n <= STEPS; n++) {
		bool later = true;

		shim_synced[0].n = shim_synced[1].n = 0;
		world_make();
		world_open();
		run_steps(n);
		for (enum step i = n; i-- > 0;) {
			later = later && !steps[i].synced;
			w.acked[i] = w.acked[i] && !later;
		}
		lose_power();
		check();
		world_end();
	}
}

static void a_group_is_synced_when_it_is_to_be_and_only_then(void **state)
{
	unsigned before;

	(void)state;
	world_make();
	kit_open(&w.kit);
	before = shim.log_syncs;
	assert_int_equal(accept_a(), 0);
	assert_int_equal(shim.log_syncs, before + 1);
	assert_int_equal(claim_a(), 0);
	assert_int_equal(update_a(), 0);
	assert_int_equal(shim.log_syncs, before + 1);
	assert_int_equal(accept_b(), 0);
	assert_int_equal(shim.log_syncs, before + 2);
	world_end();
}

/* What the kernel was to write may be lost though a later sync says it is well. */
static void after_a_failed_sync_the_log_begins_anew(void **state)
{
	struct batch *late;

	(void)state;
	world_make();
	kit_open(&w.kit);
	late = kit_batch(&w.kit, 1, true);
	assert_int_equal(accept_a(), 0);
	assert_int_equal(claim_a(), 0);
	shim.kind = SHIM_SYNC;
	shim.at = 1;
	assert_int_equal(accept_b(), -EIO);
	shim.kind = SHIM_NONE;
	assert_int_equal(kit_accept(&w.kit, late), 0);
	shim_synced[1].n = 0;
	lose_power();
	w.tried[ACCEPT_A] = w.acked[ACCEPT_A] = w.tried[CLAIM_A] = w.acked[CLAIM_A] = true;
	check_a();
	batch_unref(late);
	world_end();
}

/* What it wrote must not be committed with the next group. */
static void a_rollback_without_memory_is_made_up_for(void **state)
{
	struct store_accept a = {.op.what = STORE_ACCEPT};

	(void)state;
	world_make();
	world_open();
	a.batch = w.a;
	assert_int_equal(w.kit.b->ops->begin(w.kit.b, true), 0);
	assert_int_equal(w.kit.b->ops->write(w.kit.b, &a.op), 0);
	shim.kind = SHIM_ALLOC;
	shim.at = 1;
	shim.persistent = true;
	w.kit.b->ops->rollback(w.kit.b);
	assert_true(shim.seen > 0);
	shim.kind = SHIM_NONE;
	assert_int_equal(accept_b(), 0);
	w.tried[ACCEPT_B] = w.acked[ACCEPT_B] = true;
	check();
	world_end();
}

/* Broken pages are found at work, too: then there is no use in trying again. */
static void damage_found_at_work_is_hopeless(void **state)
{
	char page[4096];
	char path[128];
	int fd;

	(void)state;
	memset(page, 0xa5, sizeof page);
	world_make();
	world_open();
	kit_file(&w.kit, "settled.db", path);
	assert_int_equal(sqlite3_wal_checkpoint_v2(sqlite_of(w.kit.b)->writer, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL,
						   NULL), SQLITE_OK);
	sqlite3_db_release_memory(sqlite_of(w.kit.b)->writer);
	fd = open(path, O_WRONLY);
	for (off_t at = 4096; at < 20 * 4096; at += 4096)
		assert_int_equal(pwrite(fd, page, sizeof page, at), sizeof page);
	close(fd);
	assert_int_equal(accept_a(), -EUCLEAN);
	assert_true(w.kit.b->hopeless);
	assert_non_null(strstr(w.kit.b->why, "damaged"));
	assert_non_null(strstr(w.kit.b->why, "restore it"));
	shim.dead = true;
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_write_may_fail),
		cmocka_unit_test(each_sync_may_fail),
		cmocka_unit_test(each_read_may_fail),
		cmocka_unit_test(each_shared_map_and_lock_may_fail),
		cmocka_unit_test(each_allocation_may_fail),
		cmocka_unit_test(each_step_of_opening_may_fail),
		cmocka_unit_test(what_was_to_be_synced_survives_a_loss_of_power),
		cmocka_unit_test(a_group_is_synced_when_it_is_to_be_and_only_then),
		cmocka_unit_test(after_a_failed_sync_the_log_begins_anew),
		cmocka_unit_test(a_rollback_without_memory_is_made_up_for),
		cmocka_unit_test(damage_found_at_work_is_hopeless),
	};

	shim_install();
	return cmocka_run_group_tests_name("sqlite_faults", tests, NULL, NULL);
}
