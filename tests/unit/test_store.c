/*
 * The contract of a store, by which every backend must stand: one table of cases,
 * run against each.
 */
#include "store-rig.h"

struct kind {
	const char *name;
	struct store *(*open)(const struct store_config *cfg);
	const char *durability;          /* of what is read back */
};

static struct store *open_memory(const struct store_config *cfg)
{
	struct buf error = {0};

	return store_open(cfg, &error);
}

static const struct kind kinds[] = {
	{"memory", open_memory, "memory"},
};

static const struct kind *kind;
static struct store *s;
static struct store_config cfg;

static int setup(void **state)
{
	static const char *const services[] = {"push", "mail"};

	kind = *state;
	rig_start();
	cfg = (struct store_config){
		.memory_bytes = 64 * 1024 * 1024,
		.queue_bytes = 64 * 1024 * 1024,
		.stored_items = 1000000,
		.services = services,
		.n_services = ARRAY_LEN(services),
	};
	s = kind->open(&cfg);
	assert_non_null(s);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	store_close(s);
	rig_stop();
	return 0;
}

static void an_accepted_batch_is_read_back(void **state)
{
	struct batch *b = rig_batch(3), *back;

	(void)state;
	assert_int_equal(rig_accept(s, b), STORE_OK);
	assert_int_not_equal(b->store_row, 0);
	back = rig_read(s, b->id);
	assert_non_null(back);
	assert_true(batch_id_eq(back->id, b->id));
	assert_int_equal(back->n_items, 3);
	assert_string_equal(back->durability, kind->durability);
	ASSERT_SLICE(back->items[2].to, SLICE("to-2"));
	ASSERT_SLICE(back->items[2].payload, SLICE("{\"text\":\"hello 2\"}"));
	batch_unref(back);
	batch_unref(b);
}

static void a_life_ends_in_the_store(void **state)
{
	struct batch *b = rig_batch(2), *back;

	(void)state;
	rig_live(s, b);
	back = rig_read(s, b->id);
	assert_int_equal(back->state, BATCH_DONE);
	assert_int_equal(back->counts.succeeded, 2);
	assert_int_equal(back->items[1].delivered, DELIVERED_YES);
	assert_null(back->items[1].to.p);
	batch_unref(back);
	batch_unref(b);
}

static const struct {
	const char *name;
	CMUnitTestFunction run;
} cases[] = {
#define CASE(f) {#f, f}
	CASE(an_accepted_batch_is_read_back),
	CASE(a_life_ends_in_the_store),
#undef CASE
};

int main(void)
{
	static struct CMUnitTest tests[ARRAY_LEN(kinds) * ARRAY_LEN(cases)];
	static char names[ARRAY_LEN(tests)][160];
	size_t n = 0;

	rng_seed(&rig_rng, 5);
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		for (size_t c = 0; c < ARRAY_LEN(cases); c++, n++) {
			snprintf(names[n], sizeof names[n], "%s: %s", kinds[k].name, cases[c].name);
			tests[n] = (struct CMUnitTest){names[n], cases[c].run, setup, teardown, (void *)(uintptr_t)&kinds[k]};
		}
	}
	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
