/*
 * A database of schema 1, as its program left it, is taken over with all that is
 * in it, or not at all: whatever fails on the way leaves it as it was.
 */
#include "sqlite-shim.h"

static struct kit kit;

/* The text of the program that wrote schema 1. */
static const char schema_1[] =
	"CREATE TABLE service (n INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
	"CREATE TABLE batch (row INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,"
	" state INTEGER, outcome INTEGER, stop_reason INTEGER, total INTEGER, succeeded INTEGER, failed INTEGER,"
	" indeterminate INTEGER, not_attempted INTEGER, pending INTEGER, due INTEGER, bytes INTEGER, service INTEGER,"
	" flags INTEGER, created INTEGER, finished INTEGER, duration_us INTEGER, expires INTEGER,"
	" contract INTEGER, concurrency INTEGER, deadline_ms INTEGER, attempt_timeout_ms INTEGER,"
	" max_attempts INTEGER, base_ms INTEGER, cap_ms INTEGER, given INTEGER, retry_of BLOB, metadata TEXT,"
	" trace_id BLOB, trace_flags INTEGER, trace_state TEXT, scope TEXT, key TEXT, digest BLOB);"
	"CREATE UNIQUE INDEX keyed ON batch (key, scope) WHERE key IS NOT NULL;"
	"CREATE INDEX unfinished ON batch (id, state, due, pending, bytes, service, flags, created, deadline_ms) WHERE state < 3;"
	"CREATE INDEX ended ON batch (outcome, id) WHERE state = 3;"
	"CREATE INDEX expiry ON batch (expires) WHERE state = 3;"
	"CREATE TABLE item (pos INTEGER PRIMARY KEY, id TEXT, service INTEGER, ttl_ms INTEGER, in_flight INTEGER,"
	" state INTEGER, status INTEGER, code INTEGER, delivered INTEGER, stop INTEGER, duplicate_risk INTEGER,"
	" attempts INTEGER, http_status INTEGER, started_us INTEGER, latency_ms INTEGER, retry_after_ms INTEGER,"
	" due INTEGER, settled INTEGER, message_id TEXT, detail TEXT, records BLOB);"
	"CREATE INDEX settling ON item (settled) WHERE settled IS NOT NULL;"
	"CREATE TABLE letter (pos INTEGER PRIMARY KEY, \"to\" TEXT, dedupe TEXT, payload BLOB);"
	"CREATE TABLE dead (row INTEGER PRIMARY KEY);"
	"PRAGMA application_id = 1584864976; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;";

/* 1: done, one item delivered. 2: a job with a key; its first item is delivered, the
 * second waits for its fourth attempt. 3: the note of a batch that runs. */
static const char rows[] =
	"INSERT INTO service VALUES (1, 'push'), (2, 'mail');"
	"INSERT INTO batch VALUES (1, x'00000000000000010000000000000001', 3, 1, 1, 1, 1, 0, 0, 0, 0, NULL, 700, 1, 32,"
	" 1700000000000, 1700000000100, 100000, 4000000000000, 1, 64, 30000, 0, 3, 100, 2000, 0, NULL, NULL,"
	" x'000102030405060708090a0b0c0d0e0f', 1, NULL, NULL, NULL, NULL);"
	"INSERT INTO batch VALUES (2, x'00000000000000020000000000000001', 1, 0, 0, 2, 1, 0, 0, 0, 1, 1700000009000, 900, 2, 48,"
	" 1700000000200, NULL, NULL, NULL, 2, 9, 86400000, 1234, 10, 1000, 3600000, 1, NULL, '{\"a\":\"b\"}',"
	" x'0f0e0d0c0b0a09080706050403020100', 0, 'v=1', 'POST /v1/batches', 'k',"
	" x'0000000000000000000000000000000000000000000000000000000000000007');"
	"INSERT INTO batch VALUES (3, x'00000000000000030000000000000001', 1, 0, 0, 1, 0, 0, 0, 0, 1, NULL, 600, 1, 0,"
	" 1700000000300, NULL, NULL, NULL, 1, 64, 30000, 0, 3, 100, 2000, 0, NULL, NULL,"
	" x'000102030405060708090a0b0c0d0e0f', 1, NULL, NULL, NULL, NULL);"
	"INSERT INTO item VALUES (1 << 20, 'a', 1, NULL, NULL, 3, 2, 0, 2, 0, 0, 1, 200, 1700000000001000, 4, NULL, NULL,"
	" 1 << 20 | 1, 'm-1', NULL, NULL);"
	"INSERT INTO item VALUES (2 << 20, 'a', 2, NULL, NULL, 3, 2, 0, 2, 0, 0, 2, 200, 1700000000201000, 4, NULL, NULL,"
	" 2 << 20 | 1, NULL, NULL, NULL);"
	"INSERT INTO item VALUES (2 << 20 | 1, 'b', 2, 60000, NULL, 2, 1, 12, 0, 0, 0, 3, 503, 1700000000201000, 4, 1500,"
	" 1700000009000, NULL, NULL, NULL, NULL);"
	"INSERT INTO item VALUES (3 << 20, 'a', 1, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL);"
	"INSERT INTO letter VALUES (2 << 20 | 1, 'to-b', NULL, '{\"n\":1.10}');";

static void make_old(void)
{
	kit_init(&kit);
	kit_tell(&kit, schema_1);
	kit_tell(&kit, rows);
	assert_int_equal(kit_ask(&kit, "PRAGMA user_version"), 1);
}

static int setup(void **state)
{
	(void)state;
	memset(&shim, 0, sizeof shim);
	make_old();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	memset(&shim, 0, sizeof shim);
	kit_done(&kit);
	return 0;
}

static struct batch *read_old(uint64_t n, struct slice tenant)
{
	struct store_read r = {.op.what = STORE_READ, .id = {n, 1}, .tenant = tenant, .limit = UINT32_MAX, .letters = true};

	assert_int_equal(kit.b->ops->read(kit.b, &r.op), 0);
	return r.batch;
}

static void count_one(void *arg, const struct store_unfinished *u)
{
	assert_int_equal(u->tenant.n, 0);
	assert_int_equal(u->priority, PRIORITY_DEFAULT);
	++*(unsigned *)arg;
}

static void check_job(void)
{
	struct batch *b = read_old(2, (struct slice){0});
	const struct item *it;

	assert_non_null(b);
	assert_int_equal(b->tenant.n, 0);
	assert_int_equal(b->policy.priority, PRIORITY_DEFAULT);
	assert_true(b->asynchronous && b->durable);
	assert_int_equal(b->policy.contract, CONTRACT_BEST_EFFORT);
	assert_int_equal(b->policy.concurrency, 9);
	assert_int_equal(b->counts.pending, 1);
	assert_true(slice_eq(b->metadata, SLICE("{\"a\":\"b\"}")));
	assert_true(slice_eq(b->trace.state, SLICE("v=1")));
	assert_true(slice_eq(b->key->key, SLICE("k")));
	assert_int_equal(b->key->digest[31], 7);
	assert_int_equal(b->n_items, 2);
	it = &b->items[1];
	assert_int_equal(it->state, ITEM_WAITING);
	assert_int_equal(it->due_unix_ms, 1700000009000);
	assert_int_equal(it->attempts, 3);
	assert_int_equal(it->refused, 0);
	assert_int_equal(it->http_status, 503);
	assert_int_equal(it->retry_after_ms, 1500);
	assert_int_equal(it->service, 1);
	assert_true(slice_eq(it->payload, SLICE("{\"n\":1.10}")));
	assert_true(slice_eq(it->to, SLICE("to-b")));
	batch_unref(b);
}

/* All that was there is there, of nobody who has a key. */
static void check_new(void)
{
	unsigned n = 0;
	struct batch *b;

	assert_int_equal(kit_ask(&kit, "PRAGMA user_version"), 2);
	for (uint64_t i = 1; i <= 3; i++) {
		b = read_old(i, SLICE(""));
		assert_non_null(b);
		batch_unref(b);
		assert_null(read_old(i, SLICE("shop")));
	}
	check_job();
	assert_int_equal(kit.b->ops->each_unfinished(kit.b, count_one, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(kit.b->unfinished, 2);
}

static struct store_accept accept_key(struct batch *b)
{
	struct store_accept a = {.op.what = STORE_ACCEPT, .batch = b};

	assert_int_equal(kit_write(&kit, &a.op, true), 0);
	return a;
}

static void an_old_database_is_taken_over(void **state)
{
	(void)state;
	kit_open(&kit);
	check_new();
	kit_open(&kit);
	check_new();
}

static void its_keys_are_still_taken(void **state)
{
	const struct batch_key key = {.scope = SLICE("POST /v1/batches"), .key = SLICE("k"), .digest = {[31] = 7}};
	struct batch *same = kit_batch(&kit, 1, true), *other = kit_batch(&kit, 1, true);
	struct store_accept a;

	(void)state;
	same->key = other->key = &key;
	other->tenant = SLICE("shop");
	kit_open(&kit);
	a = accept_key(same);
	assert_int_equal(a.op.answer, STORE_KEY_EXISTS);
	assert_true(batch_id_eq(a.existing, (struct batch_id){2, 1}));
	assert_true(a.same_body);
	assert_int_equal(accept_key(other).op.answer, STORE_OK);
	batch_unref(same);
	batch_unref(other);
}

/* Refused with a reason, or opened; dead from the N-th write on, or going on
 * without it. Then what is there is whole: the next one opens it. */
static bool opens_later(enum shim_kind kind, unsigned at, bool persistent)
{
	char *said;

	make_old();
	memset(&shim, 0, sizeof shim);
	shim.kind = kind;
	shim.at = at;
	shim.persistent = persistent;
	said = kit_refusal(&kit);
	if (said[0] != '\0')
		assert_non_null(strstr(said, kit.dir));
	free(said);
	shim.kind = SHIM_NONE;
	kit_open(&kit);
	check_new();
	kit_done(&kit);
	return shim.seen >= at;
}

static void whatever_fails_it_is_taken_over_later(void **state)
{
	static const enum shim_kind kinds[] = {SHIM_WRITE, SHIM_SYNC, SHIM_OPEN, SHIM_READ, SHIM_LOCK, SHIM_SHARED};

	(void)state;
	kit_done(&kit);
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		for (unsigned how = 0; how < 2; how++) {
			unsigned at = 1;

			while (opens_later(kinds[i], at, how))
				at++;
			assert_true(at > 1);
		}
	}
	make_old();
}

/* The process ends within the step, its transaction open. */
static void a_process_that_dies_in_between_leaves_it_as_it_was(void **state)
{
	static const char *const halves[] = {
		"BEGIN IMMEDIATE; ALTER TABLE batch ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
		"BEGIN IMMEDIATE; DROP INDEX keyed; DROP INDEX ended; PRAGMA user_version = 2",
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(halves); i++) {
		char path[128];
		sqlite3 *db;

		kit_file(&kit, "settled.db", path);
		assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
		assert_int_equal(sqlite3_exec(db, "PRAGMA cache_size = 1", NULL, NULL, NULL), SQLITE_OK);
		assert_int_equal(sqlite3_exec(db, halves[i], NULL, NULL, NULL), SQLITE_OK);
		shim.dead = true;
		sqlite3_close(db);
		shim.dead = false;
		assert_int_equal(kit_ask(&kit, "PRAGMA user_version"), 1);
	}
	kit_open(&kit);
	check_new();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_old_database_is_taken_over, setup, teardown),
		cmocka_unit_test_setup_teardown(its_keys_are_still_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(whatever_fails_it_is_taken_over_later, setup, teardown),
		cmocka_unit_test_setup_teardown(a_process_that_dies_in_between_leaves_it_as_it_was, setup, teardown),
	};

	shim_install();
	return cmocka_run_group_tests_name("sqlite_migrate", tests, NULL, NULL);
}
