/* The invariants and the layout are in sqlite-i.h. Here: the files, the schema and its versions, the statements. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/sqlite-i.h"

static const char *const steps[] = {
	/* 1 */
	"CREATE TABLE service (n INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
	"CREATE TABLE batch (row INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,"
	" state INTEGER, outcome INTEGER, stop_reason INTEGER, total INTEGER, succeeded INTEGER, failed INTEGER,"
	" indeterminate INTEGER, not_attempted INTEGER, pending INTEGER, due INTEGER, bytes INTEGER, service INTEGER,"
	" flags INTEGER, created INTEGER, finished INTEGER, duration_us INTEGER, expires INTEGER,"
	" contract INTEGER, concurrency INTEGER, deadline_ms INTEGER, attempt_timeout_ms INTEGER,"
	" max_attempts INTEGER, base_ms INTEGER, cap_ms INTEGER, given INTEGER, retry_of BLOB, metadata TEXT,"
	" trace_id BLOB, trace_flags INTEGER, trace_state TEXT, scope TEXT, key TEXT, digest BLOB);"
	/* What recovery, the list and retention look for, without touching the rest. */
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
	"CREATE TABLE dead (row INTEGER PRIMARY KEY);",
	/* 2: whose a batch is. What was there before is nobody's who has a key. */
	"ALTER TABLE batch ADD COLUMN tenant TEXT NOT NULL DEFAULT '';"
	"ALTER TABLE batch ADD COLUMN priority INTEGER NOT NULL DEFAULT 5;"
	"ALTER TABLE item ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;"
	"DROP INDEX keyed;"
	"DROP INDEX unfinished;"
	"DROP INDEX ended;"
	"CREATE UNIQUE INDEX keyed ON batch (tenant, key, scope) WHERE key IS NOT NULL;"
	"CREATE INDEX unfinished ON batch (id, state, due, pending, bytes, service, flags, created, deadline_ms, tenant, priority)"
	" WHERE state < 3;"
	"CREATE INDEX owned ON batch (tenant, id);"
	"CREATE INDEX owned_unfinished ON batch (tenant, id) WHERE state < 3;"
	"CREATE INDEX owned_ended ON batch (tenant, outcome, id) WHERE state = 3;",
};

/* quick_check reads everything: of a large file as much as fits into this time. */
static const int64_t check_ns = 2000000000;

static const char *const write_sql[W_MAX] = {
	[W_BEGIN] = "BEGIN IMMEDIATE",
	[W_COMMIT] = "COMMIT",
	[W_ROLLBACK] = "ROLLBACK",
	[W_KEY] = "SELECT id, digest FROM batch INDEXED BY keyed WHERE tenant = ? AND key = ? AND scope = ?",
	[W_ADD_BATCH] = "INSERT INTO batch (" HEAD_COLUMNS ") VALUES "
		"(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
	[W_ADD_ITEM] = "REPLACE INTO item (" ITEM_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
	[W_ADD_LETTER] = "REPLACE INTO letter (pos, \"to\", dedupe, payload) VALUES (?,?,?,?)",
	[W_CLAIM] = "UPDATE item SET in_flight = 1, status = 1 WHERE pos = ? AND state < 3",
	[W_UPDATE] = "UPDATE item SET in_flight = NULL, state = ?, status = ?, code = ?, delivered = ?, stop = ?, "
		"duplicate_risk = ?, attempts = ?, refused = ?, http_status = ?, started_us = ?, latency_ms = ?, "
		"retry_after_ms = ?, due = ?, settled = ?, message_id = ?, detail = ?, records = ? WHERE pos = ?",
	[W_DROP_LETTER] = "DELETE FROM letter WHERE pos = ?",
	[W_HEAD] = "SELECT state, pending FROM batch WHERE row = ?",
	[W_SET_HEAD] = "UPDATE batch SET state = ?, succeeded = ?, failed = ?, indeterminate = ?, not_attempted = ?, "
		"pending = ? WHERE row = ?",
	[W_SET_RUNNING] = "UPDATE batch SET state = 1 WHERE row = ?",
	[W_FINISH] = "UPDATE batch SET due = NULL, state = ?, outcome = ?, stop_reason = ?, succeeded = ?, failed = ?, "
		"indeterminate = ?, not_attempted = ?, pending = ?, finished = ?, duration_us = ?, expires = ? "
		"WHERE row = ?",
	[W_PARK] = "UPDATE batch SET due = ? WHERE row = ? AND state < 3",
	[W_BY_ID] = "SELECT row, state FROM batch WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)",
	[W_BURY] = "INSERT INTO dead (row) VALUES (?)",
	[W_DROP_BATCH] = "DELETE FROM batch WHERE row = ?",
	[W_OLDEST] = "SELECT created FROM batch INDEXED BY unfinished WHERE state < 3 ORDER BY id LIMIT 1",
	[W_EXPIRED] = "SELECT row FROM batch INDEXED BY expiry WHERE state = 3 AND expires <= ? "
		"ORDER BY expires LIMIT 1",
	[W_DEAD] = "SELECT row FROM dead LIMIT 1",
	[W_SOME_LETTERS] = "SELECT pos, length(payload) FROM letter WHERE pos BETWEEN ? AND ? ORDER BY pos",
	[W_DROP_LETTERS] = "DELETE FROM letter WHERE pos BETWEEN ? AND ?",
	[W_SOME_ITEMS] = "SELECT pos FROM item WHERE pos BETWEEN ? AND ? ORDER BY pos",
	[W_DROP_ITEMS] = "DELETE FROM item WHERE pos BETWEEN ? AND ?",
	[W_DROP_DEAD] = "DELETE FROM dead WHERE row = ?",
	[W_UNFINISHED] = "SELECT id, due, pending, bytes, service, flags, created, deadline_ms, tenant, priority "
		"FROM batch INDEXED BY unfinished "
		"WHERE state < 3 ORDER BY id",
};

#define ITEMS_FROM "SELECT in_flight, " ITEM_COLUMNS
#define LETTERS_FROM "SELECT in_flight, " ITEM_COLUMNS ", \"to\", dedupe, payload"
#define BY_INDEX " WHERE pos BETWEEN ?1 AND ?2 AND ((1 << status) & ?3) <> 0 ORDER BY pos LIMIT ?4"
#define BY_SETTLING " WHERE settled BETWEEN ?1 AND ?2 AND ((1 << status) & ?3) <> 0 ORDER BY settled LIMIT ?4"
#define LIST_REST " AND id < ?1 AND (?2 < 0 OR state = ?2) AND (?3 < 0 OR outcome = ?3) ORDER BY id DESC LIMIT ?4"

static const char *const read_sql[R_MAX] = {
	[R_HEAD] = "SELECT " HEAD_COLUMNS " FROM batch WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)",
	[R_BY_INDEX] = ITEMS_FROM " FROM item" BY_INDEX,
	[R_BY_INDEX_LETTERS] = LETTERS_FROM " FROM item LEFT JOIN letter USING (pos)" BY_INDEX,
	[R_BY_SETTLING] = ITEMS_FROM " FROM item INDEXED BY settling" BY_SETTLING,
	[R_BY_SETTLING_LETTERS] = LETTERS_FROM " FROM item INDEXED BY settling LEFT JOIN letter USING (pos)"
		BY_SETTLING,
	[R_SHARED] = "SELECT payload FROM letter WHERE pos = ?",
	[R_LIST] = "SELECT " HEAD_COLUMNS " FROM batch INDEXED BY owned WHERE tenant = ?5" LIST_REST,
	[R_LIST_LIVE] = "SELECT " HEAD_COLUMNS " FROM batch INDEXED BY owned_unfinished WHERE tenant = ?5 AND state < 3"
		LIST_REST,
	[R_LIST_ENDED] = "SELECT " HEAD_COLUMNS " FROM batch INDEXED BY owned_ended WHERE tenant = ?5 AND state = 3 AND outcome = ?3"
		LIST_REST,
	[R_LIST_KEY] = "SELECT " HEAD_COLUMNS " FROM batch INDEXED BY keyed WHERE tenant = ?5 AND key = ?6" LIST_REST,
	[R_BEGIN] = "BEGIN",
	[R_COMMIT] = "COMMIT",
};

bool sqlite_refuse(const char *path, sqlite3 *db, int rc, struct buf *reterr)
{
	int err = sqlite_errno(db, rc);

	if ((rc & 0xff) == SQLITE_NOTADB)
		buf_printf(reterr, "%s: this is no database of settled, or its start is damaged; restore it, or "
			   "move it away with its -wal file", path);
	else if (err == -EIO)
		buf_printf(reterr, "%s: %s (%s)", path, sqlite_reason(err), sqlite3_errstr(rc));
	else
		buf_printf(reterr, "%s: %s", path, sqlite_reason(err));
	return false;
}

static bool exec(sqlite3 *db, const char *sql, const char *path, struct buf *reterr)
{
	int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK || sqlite_refuse(path, db, rc, reterr);
}

/* The one number that a pragma or a query answers. */
int sqlite_number(sqlite3 *db, const char *sql, int64_t *ret)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? SQLITE_OK : rc == SQLITE_DONE ? SQLITE_CORRUPT : rc;
}

static bool migrate_one(sqlite3 *db, const char *step, int64_t to, struct buf *reterr)
{
	struct buf sql = {0};
	bool ok;

	buf_printf(&sql, "BEGIN IMMEDIATE; %s PRAGMA user_version = %lld; COMMIT", step, (long long)to);
	ok = !sql.failed && exec(db, sql.p, sqlite3_db_filename(db, "main"), reterr);
	if (!ok && !sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	buf_free(&sql);
	return ok;
}

bool sqlite_migrate(sqlite3 *db, const char *const *to_steps, unsigned n_steps, struct buf *reterr)
{
	const char *path = sqlite3_db_filename(db, "main");
	int64_t version = 0;
	int rc = sqlite_number(db, "PRAGMA user_version", &version);

	if (rc != SQLITE_OK)
		return sqlite_refuse(path, db, rc, reterr);
	if (version < 0 || version > n_steps) {
		buf_printf(reterr, "%s: it has the schema version %lld, and this program knows %u at most: start "
			   "the later version that wrote it, or give another store.path", path, (long long)version, n_steps);
		return false;
	}
	while (version < n_steps && migrate_one(db, to_steps[version], version + 1, reterr))
		version++;
	return version == n_steps;
}

static sqlite3 *open_one(const char *path, int flags, struct buf *reterr)
{
	sqlite3 *db = NULL;
	int rc = sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

	if (rc == SQLITE_OK) {
		sqlite3_extended_result_codes(db, 1);
		/* Nothing is written to files that turn out to be damaged. */
		sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
		sqlite3_busy_timeout(db, 1000);
		return db;
	}
	sqlite_refuse(path, db, rc, reterr);
	sqlite3_close(db);
	return NULL;
}

static bool sync_directory(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool fill_new(const char *path, struct buf *reterr)
{
	sqlite3 *db = open_one(path, SQLITE_OPEN_CREATE, reterr);
	char id[64];
	bool ok = db != NULL;

	sqlite3_snprintf(sizeof id, id, "PRAGMA application_id = %d", SQLITE_APPLICATION_ID);
	ok = ok && exec(db, "PRAGMA page_size = 4096; PRAGMA journal_mode = MEMORY; PRAGMA synchronous = FULL", path,
			reterr) && exec(db, id, path, reterr) && sqlite_migrate(db, steps, ARRAY_LEN(steps), reterr);
	sqlite3_close(db);
	return ok;
}

/* For this user alone; SQLite gives its log the same mode. */
static bool make_private(const char *path, struct buf *reterr)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0) {
		buf_printf(reterr, "%s: cannot make this file: %s", path, strerror(errno));
		return false;
	}
	close(fd);
	return true;
}

/* Under another name until it is complete: so an empty or short file under the
 * right name is always damage, and never a start that was cut off. */
static bool make_new(struct sqlite *s, struct buf *reterr)
{
	struct buf path = {0};
	bool ok;

	if (access(s->wal_path, F_OK) == 0) {
		buf_printf(reterr, "%s: it is missing, but its log %s is here: restore the database, or move the log "
			   "away", s->path, s->wal_path);
		return false;
	}
	buf_printf(&path, "%s.new", s->path);
	REQUIRE(!path.failed);
	unlink(path.p);
	ok = make_private(path.p, reterr) && fill_new(path.p, reterr);
	if (ok && (rename(path.p, s->path) != 0 || !sync_directory(s->base.cfg->path))) {
		buf_printf(reterr, "%s: cannot make this file: %s", s->path, strerror(errno));
		ok = false;
	}
	buf_free(&path);
	return ok;
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static int out_of_time(void *until)
{
	return now_ns() > *(int64_t *)until;
}

static bool check_pages(sqlite3 *db, const char *path, struct buf *reterr)
{
	int64_t until = now_ns() + check_ns;
	sqlite3_stmt *st = NULL;
	bool sound = false;
	int rc;

	sqlite3_progress_handler(db, 10000, out_of_time, &until);
	rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		sound = strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
	sqlite3_finalize(st);
	sqlite3_progress_handler(db, 0, NULL, NULL);
	if (rc == SQLITE_INTERRUPT || (rc == SQLITE_ROW && sound))
		return true;
	return sqlite_refuse(path, db, rc == SQLITE_ROW ? SQLITE_CORRUPT : rc, reterr);
}

static bool check_file(sqlite3 *db, const char *path, struct buf *reterr)
{
	int64_t id = 0, version = 0;
	int rc = sqlite_number(db, "PRAGMA application_id", &id);

	if (rc == SQLITE_OK)
		rc = sqlite_number(db, "PRAGMA user_version", &version);
	if (rc != SQLITE_OK)
		return sqlite_refuse(path, db, rc, reterr);
	if (id != SQLITE_APPLICATION_ID) {
		buf_printf(reterr, "%s: this database belongs to another program: move it away, or give another "
			   "store.path", path);
		return false;
	}
	if (sqlite3_db_readonly(db, "main") != 0)
		return sqlite_refuse(path, db, SQLITE_READONLY, reterr);
	/* A later version may have a form that this check does not know. */
	return version > (int64_t)ARRAY_LEN(steps) || check_pages(db, path, reterr);
}

static bool settle_modes(struct sqlite *s, struct buf *reterr)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(s->writer, "PRAGMA journal_mode = WAL", -1, &st, NULL);
	bool wal = rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW &&
		   strcmp((const char *)sqlite3_column_text(st, 0), "wal") == 0;

	sqlite3_finalize(st);
	if (!wal)
		return sqlite_refuse(s->path, s->writer, rc == SQLITE_ROW ? SQLITE_IOERR : rc, reterr);
	return exec(s->writer, "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384; PRAGMA mmap_size = 0;"
		    "PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 33554432; PRAGMA secure_delete = FAST;"
		    "PRAGMA temp_store = MEMORY", s->path, reterr);
}

bool sqlite_files_open(struct sqlite *s, struct buf *reterr)
{
	struct stat st;

	/* One thread per connection: the library's counting of memory would be the only lock that they share. */
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
	if (stat(s->path, &st) != 0) {
		if (errno != ENOENT) {
			buf_printf(reterr, "%s: %s", s->path, strerror(errno));
			return false;
		}
		if (!make_new(s, reterr))
			return false;
	} else if (st.st_size == 0) {
		return sqlite_refuse(s->path, NULL, SQLITE_NOTADB, reterr);
	}
	s->writer = open_one(s->path, 0, reterr);
	if (s->writer == NULL || !check_file(s->writer, s->path, reterr) ||
	    !sqlite_migrate(s->writer, steps, ARRAY_LEN(steps), reterr) || !settle_modes(s, reterr))
		return false;
	s->reader = open_one(s->path, 0, reterr);
	return s->reader != NULL &&
	       exec(s->reader, "PRAGMA query_only = ON; PRAGMA cache_size = -8192; PRAGMA mmap_size = 0;"
		    "PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY", s->path, reterr);
}

static int prepare(sqlite3 *db, const char *const *sql, sqlite3_stmt **st, unsigned n)
{
	int rc = SQLITE_OK;

	for (unsigned i = 0; rc == SQLITE_OK && i < n; i++)
		rc = sqlite3_prepare_v3(db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &st[i], NULL);
	return rc;
}

bool sqlite_prepare_all(struct sqlite *s, struct buf *reterr)
{
	int rc = prepare(s->writer, write_sql, s->w, W_MAX);

	if (rc != SQLITE_OK)
		return sqlite_refuse(s->path, s->writer, rc, reterr);
	rc = prepare(s->reader, read_sql, s->r, R_MAX);
	return rc == SQLITE_OK || sqlite_refuse(s->path, s->reader, rc, reterr);
}
