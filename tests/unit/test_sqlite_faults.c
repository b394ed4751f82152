/*
 * Every call that the database makes of its files and its memory fails once, and
 * in another run from then on. In each run: no wrong success, nothing half done,
 * and all of it works again when the faults end.
 */
#include "sqlite-world.h"

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

/* Every call; where all is ten times slower (valgrind), some of them. So, too, for
 * ThreadSanitizer: one thread does all of it. */
static unsigned strides(unsigned n)
{
#ifdef __SANITIZE_THREAD__
	return n * 7;
#else
	const char *patience = getenv("SETTLED_TEST_PATIENCE");

	return patience != NULL && atoi(patience) >= 10 ? n * 7 : n;
#endif
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
	} kinds[] = {{SHIM_WRITE, 1}, {SHIM_SYNC, 1}, {SHIM_OPEN, 1}, {SHIM_TRUNCATE, 1}, {SHIM_READ, 1},
		     {SHIM_DELETE, 1}, {SHIM_LOCK, 1}, {SHIM_SHARED, 1}, {SHIM_ALLOC, 47}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		for (unsigned how = 0; how < 4; how++) {
			unsigned at = 1;

			while (opens_later(kinds[i].kind, at, how))
				at += strides(kinds[i].stride);
		}
	}
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
	};

	shim_install();
	return cmocka_run_group_tests_name("sqlite_faults", tests, NULL, NULL);
}
