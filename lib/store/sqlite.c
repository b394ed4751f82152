/* The invariants and the layout are in sqlite-i.h. Here: open, groups, failures, close. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/sqlite-i.h"

enum {
	CHECKPOINT_FRAMES = 2048,
	/* Over it no group begins before a checkpoint: where the database cannot be
	 * written, the log would fill the disk. */
	WAL_FRAMES_MAX = 65536,
};

struct binder sqlite_bind(sqlite3_stmt *st)
{
	return (struct binder){.st = st};
}

void bind_int(struct binder *b, int64_t v)
{
	b->rc |= sqlite3_bind_int64(b->st, ++b->at, v);
}

void bind_null(struct binder *b)
{
	b->rc |= sqlite3_bind_null(b->st, ++b->at);
}

void bind_int_or_null(struct binder *b, int64_t v, int64_t null)
{
	if (v == null)
		bind_null(b);
	else
		bind_int(b, v);
}

void bind_text(struct binder *b, struct slice s)
{
	b->rc |= sqlite3_bind_text64(b->st, ++b->at, s.p, s.n, SQLITE_STATIC, SQLITE_UTF8);
}

void bind_name(struct binder *b, struct slice s)
{
	bind_text(b, s.p == NULL ? SLICE("") : s);
}

void bind_blob(struct binder *b, const void *p, size_t n)
{
	b->rc |= sqlite3_bind_blob64(b->st, ++b->at, p, n, SQLITE_STATIC);
}

void bind_id(struct binder *b, struct batch_id id)
{
	unsigned char bytes[16];

	if (id.hi == 0 && id.lo == 0) {
		bind_null(b);
		return;
	}
	for (int i = 0; i < 8; i++) {
		bytes[i] = (unsigned char)(id.hi >> (56 - 8 * i));
		bytes[8 + i] = (unsigned char)(id.lo >> (56 - 8 * i));
	}
	b->rc |= sqlite3_bind_blob(b->st, ++b->at, bytes, sizeof bytes, SQLITE_TRANSIENT);
}

int sqlite_run(struct binder *b)
{
	if (b->rc != SQLITE_OK)
		return b->rc;
	sqlite3_step(b->st);
	return sqlite3_reset(b->st);
}

struct batch_id sqlite_id(const void *bytes)
{
	const unsigned char *p = bytes;
	struct batch_id id = {0};

	for (int i = 0; i < 8; i++) {
		id.hi = id.hi << 8 | p[i];
		id.lo = id.lo << 8 | p[8 + i];
	}
	return id;
}

int sqlite_errno(sqlite3 *db, int rc)
{
	int os = db == NULL ? 0 : sqlite3_system_errno(db);

	if (rc == SQLITE_IOERR_NOMEM)
		return -ENOMEM;
	switch (rc & 0xff) {
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EUCLEAN;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
		return os == ENOSPC || os == EDQUOT ? -ENOSPC : os == EROFS ? -EROFS : os == ENOMEM ? -ENOMEM : -EIO;
	default:
		return -EIO;
	}
}

const char *sqlite_reason(int err)
{
	switch (-err) {
	case ENOSPC:
		return "the disk is full";
	case ENOMEM:
		return "no memory for the database";
	case EROFS:
		return "the database is read-only";
	case EBUSY:
		return "another program has locked the database";
	case EUCLEAN:
		return "the database file is damaged; restore it, or move it away with its -wal file";
	default:
		return "I/O error";
	}
}

int sqlite_failed(struct sqlite *s, int rc)
{
	int err;

	if (rc == SQLITE_OK)
		return 0;
	err = sqlite_errno(s->writer, rc);
	if (rc == SQLITE_IOERR_FSYNC)
		s->log_suspect = true;
	if (err == -EUCLEAN)
		s->base.hopeless = true;
	/* The log's own room is used again after a checkpoint, which needs little if
	 * the database has free pages. */
	if (err == -ENOSPC)
		s->checkpoint_at = 0;
	if (err == -EIO)
		snprintf(s->base.why, sizeof s->base.why, "I/O error (%s): %s", sqlite3_errstr(rc), s->path);
	else
		snprintf(s->base.why, sizeof s->base.why, "%s: %s", sqlite_reason(err), s->path);
	return err;
}

/* The kernel may forget what a failed sync should have written, and report the next
 * one as fine. So the log begins anew, after what it holds was written elsewhere. */
static int renew_log(struct sqlite *s)
{
	int rc = sqlite3_wal_checkpoint_v2(s->writer, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);

	if (rc == SQLITE_OK)
		s->log_suspect = false;
	return rc;
}

/* Before a group, when the answers of the one before are out. A checkpoint that
 * fails costs nothing yet, for the log has all of it; and while a reader looks at an
 * old state it does little. So the next try comes when the log has grown again.
 * But an I/O error is not waited for: the log's own sync may have failed. */
static int keep_log_short(struct sqlite *s)
{
	int rc;

	if (s->log_suspect)
		return renew_log(s);
	if (s->wal_frames < s->checkpoint_at)
		return SQLITE_OK;
	rc = sqlite3_wal_checkpoint_v2(s->writer, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	if ((rc & 0xff) == SQLITE_IOERR) {
		s->log_suspect = true;
		return renew_log(s);
	}
	if (s->wal_frames >= WAL_FRAMES_MAX)
		return rc;
	s->checkpoint_at = s->wal_frames + s->checkpoint_frames;
	return SQLITE_OK;
}

static int set_level(struct sqlite *s, bool full)
{
	int rc;

	if (s->full == full)
		return SQLITE_OK;
	rc = sqlite3_exec(s->writer, full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", NULL, NULL,
			  NULL);
	if (rc == SQLITE_OK)
		s->full = full;
	return rc;
}

static int end_transaction(struct sqlite *s)
{
	if (sqlite3_get_autocommit(s->writer))
		return SQLITE_OK;
	return sqlite_run(&(struct binder){.st = s->w[W_ROLLBACK]});
}

static int begin(struct backend *b, bool synced)
{
	struct sqlite *s = sqlite_of(b);
	int rc = end_transaction(s);

	if (rc == SQLITE_OK)
		rc = keep_log_short(s);
	if (rc == SQLITE_OK)
		rc = set_level(s, synced);
	if (rc == SQLITE_OK)
		rc = sqlite_run(&(struct binder){.st = s->w[W_BEGIN]});
	return sqlite_failed(s, rc);
}

static void forget_touched(struct sqlite *s)
{
	memset(s->touched, 0, sizeof s->touched);
	s->n_touched = 0;
}

static int commit(struct backend *b)
{
	struct sqlite *s = sqlite_of(b);
	int rc = sqlite_flush(s);

	if (rc == SQLITE_OK)
		rc = sqlite_run(&(struct binder){.st = s->w[W_COMMIT]});
	if (rc != SQLITE_OK)
		return sqlite_failed(s, rc);
	s->base.unfinished += (uint64_t)s->delta;
	s->delta = 0;
	return 0;
}

/* Where there is not even the memory for it, the next begin does it. */
static void rollback(struct backend *b)
{
	struct sqlite *s = sqlite_of(b);

	forget_touched(s);
	s->delta = 0;
	end_transaction(s);
}

/* SQLite writes the number anew though it is the same. */
static int touch(struct backend *b)
{
	char text[64];

	snprintf(text, sizeof text, "PRAGMA application_id = %d", SQLITE_APPLICATION_ID);
	return sqlite_failed(sqlite_of(b), sqlite3_exec(sqlite_of(b)->writer, text, NULL, NULL, NULL));
}

static uint64_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void measure(struct backend *b, struct store_status *ret)
{
	struct sqlite *s = sqlite_of(b);
	sqlite3_stmt *st = s->w[W_OLDEST];

	ret->file_bytes = size_of(s->path) + size_of(s->wal_path);
	ret->oldest_unfinished_unix_ms = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
	sqlite3_reset(st);
}

static void close_all(struct backend *b)
{
	struct sqlite *s = sqlite_of(b);

	for (unsigned i = 0; i < R_MAX; i++)
		sqlite3_finalize(s->r[i]);
	for (unsigned i = 0; i < W_MAX; i++)
		sqlite3_finalize(s->w[i]);
	sqlite3_close(s->reader);
	sqlite3_close(s->writer);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	free(s->service_of);
	free(s->service_no);
	free(s->wal_path);
	free(s->path);
	free(s);
}

static const struct backend_ops ops = {
	.concurrent = true,
	.keeps_notes = true,
	.begin = begin,
	.write = sqlite_write,
	.commit = commit,
	.rollback = rollback,
	.touch = touch,
	.read = sqlite_read,
	.expire = sqlite_expire,
	.name_services = sqlite_name_services,
	.set_services = sqlite_set_services,
	.each_unfinished = sqlite_each_unfinished,
	.measure = measure,
	.close = close_all,
};

static int remember_frames(void *arg, sqlite3 *db, const char *name, int frames)
{
	struct sqlite *s = arg;

	(void)db;
	(void)name;
	/* It began anew. */
	if (frames < s->wal_frames)
		s->checkpoint_at = s->checkpoint_frames;
	s->wal_frames = frames;
	return SQLITE_OK;
}

/* Each missing folder of the path, for this user alone. */
static bool make_directory(const char *path, struct buf *reterr)
{
	char *part = xstrdup(path);
	bool ok = true;

	for (char *at = part + 1; ok && *at != '\0'; at++) {
		if (*at != '/')
			continue;
		*at = '\0';
		ok = mkdir(part, 0700) == 0 || errno == EEXIST;
		*at = '/';
	}
	ok = ok && (mkdir(part, 0700) == 0 || errno == EEXIST);
	if (!ok)
		buf_printf(reterr, "%s: cannot make this directory for the store: %s", path, strerror(errno));
	free(part);
	return ok;
}

static void say_who_holds(int fd, const char *dir, struct buf *reterr)
{
	char pid[16] = "";
	ssize_t n = pread(fd, pid, sizeof pid - 1, 0);

	pid[MAX(n, 0)] = '\0';
	pid[strcspn(pid, "\n")] = '\0';
	buf_printf(reterr, "%s: process %s uses this directory: end it first, or give this one another store.path", dir,
		   pid[0] != '\0' ? pid : "(unknown)");
}

/* One process per directory. The kernel lets go of the lock when it ends. */
static int take_lock(const char *dir, struct buf *reterr)
{
	struct buf name = {0};
	char pid[16];
	int fd;

	buf_printf(&name, "%s/lock", dir);
	fd = name.failed ? -1 : open(name.p, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	buf_free(&name);
	if (fd < 0) {
		buf_printf(reterr, "%s: cannot open the file \"lock\" in it: %s", dir, strerror(errno));
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno == EWOULDBLOCK)
			say_who_holds(fd, dir, reterr);
		else
			buf_printf(reterr, "%s: cannot lock the file \"lock\" in it: %s", dir, strerror(errno));
		close(fd);
		return -1;
	}
	/* Only to name this process: on a full disk it stays empty. */
	if (ftruncate(fd, 0) == 0)
		(void)!pwrite(fd, pid, (size_t)snprintf(pid, sizeof pid, "%ld\n", (long)getpid()), 0);
	return fd;
}

static char *joined(const char *dir, const char *name)
{
	char *text = NULL;

	REQUIRE(asprintf(&text, "%s/%s", dir, name) > 0);
	return text;
}

static bool seed_numbers(struct sqlite *s, struct buf *reterr)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(s->writer,
		"SELECT max(ifnull((SELECT max(row) FROM batch), 0), ifnull((SELECT max(row) FROM dead), 0)) + 1, "
		"(SELECT ifnull(sum(pending), 0) FROM batch INDEXED BY unfinished WHERE state < 3)", -1, &st, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		s->next_row = sqlite3_column_int64(st, 0);
		s->base.unfinished = (uint64_t)sqlite3_column_int64(st, 1);
	} else {
		buf_printf(reterr, "%s: %s", s->path, sqlite_reason(sqlite_errno(s->writer, rc)));
	}
	sqlite3_finalize(st);
	return rc == SQLITE_ROW;
}

struct backend *sqlite_open(const struct store_config *cfg, struct buf *reterr)
{
	struct sqlite *s = xcalloc(1, sizeof *s);

	s->base = (struct backend){.ops = &ops, .cfg = cfg};
	s->lock_fd = -1;
	s->checkpoint_frames = s->checkpoint_at = CHECKPOINT_FRAMES;
	s->path = joined(cfg->path, "settled.db");
	s->wal_path = joined(cfg->path, "settled.db-wal");
	if (!make_directory(cfg->path, reterr))
		goto failed;
	s->lock_fd = take_lock(cfg->path, reterr);
	if (s->lock_fd < 0 || !sqlite_files_open(s, reterr) || !sqlite_services_open(s, reterr) ||
	    !sqlite_prepare_all(s, reterr) || !seed_numbers(s, reterr))
		goto failed;
	sqlite3_wal_hook(s->writer, remember_frames, s);
	/* From here on the files are known to be sound: the last one out tidies up. */
	sqlite3_db_config(s->writer, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	return &s->base;

failed:
	close_all(&s->base);
	return NULL;
}
