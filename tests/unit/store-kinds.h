/*
 * The kinds of store that the contract suite is run against, and the runner: each
 * case, against each kind, with a store of its own.
 */
#pragma once

#include <unistd.h>

#include "store-rig.h"

struct kind {
	const char *name;
	struct store *(*open)(const struct store_config *cfg);
	const char *durability;          /* of what is read back */
	bool notes;                      /* shows a batch that is not durable while it runs */
	bool survives;                   /* the end of its process */
};

static inline struct store *open_memory(const struct store_config *cfg)
{
	struct buf error = {0};

	return store_open(cfg, &error);
}

static char store_dir[64];

/* In a directory that ends with the test. */
static inline struct store *open_sqlite(const struct store_config *with)
{
	struct store_config at = *with;
	struct buf error = {0};
	struct store *s;

	if (store_dir[0] == '\0') {
		snprintf(store_dir, sizeof store_dir, "/tmp/settled-store-XXXXXX");
		assert_non_null(mkdtemp(store_dir));
	}
	at.path = store_dir;
	s = store_open(&at, &error);
	if (s == NULL)
		fail_msg("%.*s", (int)error.n, error.p);
	return s;
}

static inline void remove_dir(void)
{
	static const char *const names[] = {"lock", "settled.db", "settled.db-wal", "settled.db-shm"};
	char path[128];

	if (store_dir[0] == '\0')
		return;
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof path, "%s/%s", store_dir, names[i]);
		unlink(path);
	}
	assert_int_equal(rmdir(store_dir), 0);
	store_dir[0] = '\0';
}

static const struct kind kinds[] = {
	{"memory", open_memory, "memory", false, false},
	{"sqlite", open_sqlite, "disk", true, true},
};

struct rig_case {
	const char *name;
	CMUnitTestFunction run;
	bool survives;                   /* only of a kind that does */
};

#define CASE(f) {#f, f, false}
#define AFTER_RESTART(f) {#f, f, true}

static const struct kind *kind;
static struct store *s;
static struct store_config cfg;

static inline void open_store(void)
{
	s = kind->open(&cfg);
	assert_non_null(s);
}

/* Again, with other settings; what was in it is gone, or not, as its kind is. */
static inline void reopen_store(void)
{
	store_close(s);
	open_store();
}

static inline int kind_setup(void **state)
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
	open_store();
	return 0;
}

static inline int kind_teardown(void **state)
{
	(void)state;
	store_close(s);
	remove_dir();
	rig_stop();
	return 0;
}

static inline int run_cases(const char *group, const struct rig_case *cases, size_t n_cases)
{
	enum { TESTS_MAX = 128 };
	static struct CMUnitTest tests[TESTS_MAX];
	static char names[TESTS_MAX][160];
	size_t n = 0;

	rng_seed(&rig_rng, 5);
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		for (size_t c = 0; c < n_cases; c++) {
			if (cases[c].survives && !kinds[k].survives)
				continue;
			REQUIRE(n < TESTS_MAX);
			snprintf(names[n], sizeof names[n], "%s: %s", kinds[k].name, cases[c].name);
			tests[n] = (struct CMUnitTest){names[n], cases[c].run, kind_setup, kind_teardown,
						       (void *)(uintptr_t)&kinds[k]};
			n++;
		}
	}
	return _cmocka_run_group_tests(group, tests, n, NULL, NULL);
}
