/* The database and its disk: what is synced, what is lost with the power, what a full or damaged one does. */
#include "sqlite-world.h"

#include <errno.h>

/* The allocations of our own code: `refuse_memory` links them here. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_xcalloc(size_t n, size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_xcalloc(size_t n, size_t size);
void __wrap_free(void *p);

static unsigned own_at, own_seen;        /* the own_at-th fails; 0: none */

static bool refused(void)
{
	return own_at > 0 && ++own_seen == own_at;
}

void *__wrap_malloc(size_t n)
{
	return refused() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return refused() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return refused() ? NULL : __real_realloc(p, n);
}

void *__wrap_xcalloc(size_t n, size_t size)
{
	return __real_xcalloc(n, size);
}

void __wrap_free(void *p)
{
	__real_free(p);
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

/* A checkpoint syncs the log first: what was only written may be gone if it fails,
 * and the next sync would not say so. */
static void after_a_checkpoint_that_fails_the_log_begins_anew(void **state)
{
	(void)state;
	world_make();
	kit_open(&w.kit);
	assert_int_equal(accept_a(), 0);
	assert_int_equal(claim_a(), 0);
	sqlite_of(w.kit.b)->checkpoint_at = 1;
	shim.kind = SHIM_SYNC;
	shim.at = 1;
	assert_int_equal(w.kit.b->ops->begin(w.kit.b, false), 0);
	shim.kind = SHIM_NONE;
	assert_int_equal(w.kit.b->ops->commit(w.kit.b), 0);
	shim_synced[1].n = 0;
	lose_power();
	w.tried[ACCEPT_A] = w.acked[ACCEPT_A] = w.tried[CLAIM_A] = w.acked[CLAIM_A] = true;
	check_a();
	world_end();
}

/* Nobody but the store can make room, on a disk that is its own. */
static void a_full_disk_leaves_the_room_of_the_log(void **state)
{
	int err = 0;

	(void)state;
	world_make();
	kit_open(&w.kit);
	shim.log_room = 64 * 4096;
	for (unsigned i = 0; err == 0 && i < 1000; i++) {
		struct batch *b = kit_batch(&w.kit, 20, true);

		err = kit_accept(&w.kit, b);
		batch_unref(b);
	}
	assert_int_equal(err, -ENOSPC);
	assert_non_null(strstr(w.kit.b->why, "the disk is full"));
	assert_int_equal(accept_a(), 0);
	w.tried[ACCEPT_A] = w.acked[ACCEPT_A] = true;
	shim.log_room = 0;
	kit_open(&w.kit);
	check_a();
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

static bool read_without(unsigned at)
{
	struct store_read r;

	own_at = at;
	own_seen = 0;
	r = kit_read(&w.kit, w.b->id, true);
	own_at = 0;
	if (r.op.answer == STORE_OK) {
		assert_int_equal(r.batch->n_items, ITEMS_B);
		assert_true(slice_eq(r.batch->metadata, w.b->metadata));
		assert_true(slice_eq(r.batch->items[ITEMS_B - 1].payload, w.b->items[ITEMS_B - 1].payload));
	} else {
		assert_int_equal(r.op.answer, STORE_UNAVAILABLE);
		assert_null(r.batch);
	}
	batch_unref(r.batch);
	return own_seen >= at;
}

static bool list_without(unsigned at)
{
	struct store_list l = {.op.what = STORE_LIST, .state = -1, .outcome = -1, .limit = 10};

	own_at = at;
	own_seen = 0;
	w.kit.b->ops->read(w.kit.b, &l.op);
	own_at = 0;
	assert_int_equal(l.op.answer, l.n == 2 ? STORE_OK : STORE_UNAVAILABLE);
	assert_true(l.n == 2 || l.n == 0);
	while (l.n > 0)
		batch_unref(l.heads[--l.n]);
	return own_seen >= at;
}

/* Never a part of the answer for the whole. */
static void a_read_without_memory_is_no_answer(void **state)
{
	unsigned at = 1;

	(void)state;
	world_make();
	world_open();
	w.a->key = &(struct batch_key){.scope = SLICE("here"), .key = SLICE("once")};
	run_steps(PARK_B);
	while (read_without(at))
		at++;
	assert_true(at > 4);
	for (at = 1; list_without(at);)
		at++;
	assert_true(at > 4);
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
		cmocka_unit_test(what_was_to_be_synced_survives_a_loss_of_power),
		cmocka_unit_test(a_group_is_synced_when_it_is_to_be_and_only_then),
		cmocka_unit_test(after_a_failed_sync_the_log_begins_anew),
		cmocka_unit_test(after_a_checkpoint_that_fails_the_log_begins_anew),
		cmocka_unit_test(a_full_disk_leaves_the_room_of_the_log),
		cmocka_unit_test(a_rollback_without_memory_is_made_up_for),
		cmocka_unit_test(a_read_without_memory_is_no_answer),
		cmocka_unit_test(damage_found_at_work_is_hopeless),
	};

	shim_install();
	return cmocka_run_group_tests_name("sqlite_disk", tests, NULL, NULL);
}
