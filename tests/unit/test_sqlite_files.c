/* The files: who may open them, and which are refused. */
#include "sqlite-kit.h"

#include <sys/stat.h>

#include "store/sqlite-i.h"

static struct kit kit;

static int setup(void **state)
{
	(void)state;
	kit_init(&kit);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_done(&kit);
	return 0;
}


static void overwrite(const char *name, off_t at, const void *p, size_t n)
{
	char path[128];
	int fd;

	kit_file(&kit, name, path);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, p, n, at), n);
	close(fd);
}

static void one_process_per_directory(void **state)
{
	char mine[16];
	struct stat st;
	char *said;

	(void)state;
	kit_open(&kit);
	said = kit_refusal(&kit);
	snprintf(mine, sizeof mine, "process %d ", getpid());
	assert_non_null(strstr(said, kit.dir));
	assert_non_null(strstr(said, mine));
	assert_non_null(strstr(said, "store.path"));
	free(said);
	kit_close(&kit);
	kit_open(&kit);
	kit_close(&kit);
	kit_clear(&kit);
	rmdir(kit.dir);
	kit_open(&kit);
	assert_int_equal(stat(kit.dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
}

static void the_files_are_for_their_owner_alone(void **state)
{
	static const char *const names[] = {"settled.db", "settled.db-wal", "lock"};
	struct batch *b = kit_batch(&kit, 1, true);
	char path[128];
	struct stat st;

	(void)state;
	umask(022);
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		kit_file(&kit, names[i], path);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
	batch_unref(b);
}

/* Refused with these words, and not a byte of it has changed. */
static void assert_refused(const char *words)
{
	struct buf before = kit_bytes(&kit, "settled.db"), wal_before = kit_bytes(&kit, "settled.db-wal");
	struct buf after, wal_after;
	char *said = kit_refusal(&kit);
	char path[128];

	kit_file(&kit, "settled.db", path);
	if (strstr(said, words) == NULL || strstr(said, path) == NULL)
		fail_msg("\"%s\" was to say \"%s\" and name the file", said, words);
	free(said);
	after = kit_bytes(&kit, "settled.db");
	wal_after = kit_bytes(&kit, "settled.db-wal");
	assert_true(slice_eq(buf_slice(&before), buf_slice(&after)));
	assert_true(slice_eq(buf_slice(&wal_before), buf_slice(&wal_after)));
	buf_free(&before);
	buf_free(&after);
	buf_free(&wal_before);
	buf_free(&wal_after);
}

/* A database of some pages, closed. */
static void make_some(void)
{
	kit_open(&kit);
	for (unsigned i = 0; i < 20; i++) {
		struct batch *b = kit_batch(&kit, 50, true);

		assert_int_equal(kit_accept(&kit, b), 0);
		batch_unref(b);
	}
	kit_close(&kit);
}

static void a_file_that_is_no_database_is_refused(void **state)
{
	char text[8192];
	char path[128];

	(void)state;
	memset(text, 'x', sizeof text);
	overwrite("settled.db", 0, text, sizeof text);
	assert_refused("no database of settled");
	kit_file(&kit, "settled.db", path);
	assert_int_equal(truncate(path, 0), 0);
	assert_refused("no database of settled");
}

static void a_file_of_another_program_is_refused(void **state)
{
	(void)state;
	kit_tell(&kit, "CREATE TABLE theirs (n INTEGER)");
	assert_refused("another program");
}

static void a_file_without_its_end_is_refused(void **state)
{
	char path[128];

	(void)state;
	make_some();
	kit_file(&kit, "settled.db", path);
	assert_int_equal(truncate(path, 5 * 4096 + 100), 0);
	assert_refused("damaged");
}

static void a_file_with_an_overwritten_page_is_refused(void **state)
{
	char page[4096];

	(void)state;
	memset(page, 0xa5, sizeof page);
	make_some();
	overwrite("settled.db", 20 * 4096, page, sizeof page);
	assert_refused("damaged");
	kit_clear(&kit);
	make_some();
	overwrite("settled.db", 0, page, sizeof page);
	assert_refused("damaged");
	kit_clear(&kit);
	make_some();
	overwrite("settled.db", 100, page, sizeof page - 100);
	assert_refused("damaged");
}

/* The log of a process that died is not written into a file that is damaged. */
static void a_damaged_file_keeps_its_log(void **state)
{
	struct buf db, log;
	struct batch *b = kit_batch(&kit, 1, true);
	char page[4096];

	(void)state;
	memset(page, 0xa5, sizeof page);
	make_some();
	kit_open(&kit);
	assert_int_equal(kit_accept(&kit, b), 0);
	db = kit_bytes(&kit, "settled.db");
	log = kit_bytes(&kit, "settled.db-wal");
	assert_true(log.n > 0);
	kit_close(&kit);
	overwrite("settled.db", 0, db.p, db.n);
	overwrite("settled.db-wal", 0, log.p, log.n);
	overwrite("settled.db", 20 * 4096, page, sizeof page);
	assert_refused("damaged");
	overwrite("settled.db", 0, db.p, db.n);
	kit_open(&kit);
	assert_int_equal(kit_ask(&kit, "SELECT count(*) FROM batch"), 21);
	buf_free(&db);
	buf_free(&log);
	batch_unref(b);
}

/* What would follow is a new database to which the old one's log is applied. */
static void a_log_without_its_database_is_refused(void **state)
{
	(void)state;
	overwrite("settled.db-wal", 0, "left", 4);
	assert_refused("missing");
}

static void a_later_schema_is_refused(void **state)
{
	(void)state;
	make_some();
	kit_tell(&kit, "PRAGMA user_version = 99");
	assert_refused("schema version 99");
}

static void the_schema_goes_forward_by_steps(void **state)
{
	static const char *const steps[] = {
		"CREATE TABLE a (n INTEGER); INSERT INTO a VALUES (7);",
		"ALTER TABLE a ADD COLUMN m INTEGER DEFAULT 5;",
		"UPDATE a SET n = n + m;",
	};
	static const char *const broken[] = {"", "", "", "UPDATE a SET n = 0; UPDATE b SET n = 0;"};
	struct buf err = {0};
	char path[128];
	sqlite3 *db;

	(void)state;
	kit_file(&kit, "settled.db", path);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_true(sqlite_migrate(db, steps, 1, &err));
	assert_int_equal(kit_ask(&kit, "PRAGMA user_version"), 1);
	assert_true(sqlite_migrate(db, steps, 3, &err));
	assert_int_equal(kit_ask(&kit, "PRAGMA user_version"), 3);
	assert_int_equal(kit_ask(&kit, "SELECT n FROM a"), 12);
	assert_true(sqlite_migrate(db, steps, 3, &err));
	assert_int_equal(kit_ask(&kit, "SELECT n FROM a"), 12);
	assert_int_equal(err.n, 0);
	assert_false(sqlite_migrate(db, broken, 4, &err));
	assert_int_equal(kit_ask(&kit, "PRAGMA user_version"), 3);
	assert_int_equal(kit_ask(&kit, "SELECT n FROM a"), 12);
	assert_true(err.n > 0);
	buf_free(&err);
	sqlite3_close(db);
}

static void run_sql(const struct kit *k, const char *sql)
{
	char path[128];
	sqlite3 *db;

	snprintf(path, sizeof path, "%s/settled.db", k->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void a_name_that_cannot_be_written_changes_nothing(void **state)
{
	static const char *const names[] = {"push", "mail", "late"};
	struct kit *k = &kit;
	struct buf err = {0};

	(void)state;
	k->cfg.service_slots = 3;
	kit_open(k);
	run_sql(k, "CREATE TRIGGER no BEFORE INSERT ON service BEGIN SELECT raise(ABORT, 'no'); END");
	assert_false(k->b->ops->name_services(k->b, names, 3, &err));
	assert_true(err.n > 0);
	run_sql(k, "DROP TRIGGER no");
	assert_true(k->b->ops->name_services(k->b, names, 3, &err));
	assert_true(k->b->ops->name_services(k->b, names, 3, &err));
	k->b->ops->set_services(k->b, (const bool[]){false, true, false}, 3);
	kit_close(k);
	k->cfg.service_slots = 0;
	buf_free(&err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_process_per_directory, setup, teardown),
		cmocka_unit_test_setup_teardown(the_files_are_for_their_owner_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_that_is_no_database_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_of_another_program_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_without_its_end_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_with_an_overwritten_page_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_damaged_file_keeps_its_log, setup, teardown),
		cmocka_unit_test_setup_teardown(a_log_without_its_database_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_later_schema_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(the_schema_goes_forward_by_steps, setup, teardown),
		cmocka_unit_test_setup_teardown(a_name_that_cannot_be_written_changes_nothing, setup, teardown),
	};

	return cmocka_run_group_tests_name("sqlite_files", tests, NULL, NULL);
}
