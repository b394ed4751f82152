/*
 * The invariants and the layout are in sqlite-i.h. Here: forgetting.
 *
 * A batch is forgotten in two moves: its head goes, so nobody finds it, and its
 * row becomes one of the dead; then its letters and items go, some at each call.
 * A call touches at most STEP_ROWS rows and about STEP_BYTES of payloads, so the
 * writer never waits long for it.
 */
#include "store/sqlite-i.h"

enum { STEP_ROWS = 500, STEP_BYTES = 4 << 20, OVERHEAD = 64 };

/* What is left of a step. */
struct budget {
	int64_t rows, bytes;
};

/* The one number of a statement with one parameter. SQLITE_ROW: there is one. */
static int find_one(sqlite3_stmt *st, int64_t *ret)
{
	int rc = sqlite3_step(st), end;

	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	end = sqlite3_reset(st);
	return end != SQLITE_OK ? end : rc == SQLITE_ROW ? SQLITE_ROW : SQLITE_OK;
}

/* Bury what has expired. SQLITE_OK: there is none left, or no budget. */
static int bury_expired(struct sqlite *s, int64_t now_unix_ms, struct budget *left)
{
	while (left->rows > 0) {
		struct binder b = sqlite_bind(s->w[W_EXPIRED]);
		int64_t row = 0;
		int rc;

		bind_int(&b, now_unix_ms);
		rc = b.rc == SQLITE_OK ? find_one(b.st, &row) : b.rc;
		if (rc != SQLITE_ROW)
			return rc;
		rc = sqlite_bury(s, row);
		if (rc != SQLITE_OK)
			return rc;
		left->rows -= 4;
	}
	return SQLITE_OK;
}

/* Delete the first rows of [first, last] that the budget allows. *ret_done: no row
 * of the range is left. */
static int drop_some(struct sqlite *s, enum sqlite_write some, enum sqlite_write drop, const int64_t range[2],
		     struct budget *left)
{
	struct binder look = sqlite_bind(s->w[some]), b = sqlite_bind(s->w[drop]);
	int64_t to = -1;
	int rc;

	bind_int(&look, range[0]);
	bind_int(&look, range[1]);
	if (look.rc != SQLITE_OK)
		return look.rc;
	while (left->rows > 0 && left->bytes > 0 && sqlite3_step(look.st) == SQLITE_ROW) {
		to = sqlite3_column_int64(look.st, 0);
		left->rows--;
		left->bytes -= OVERHEAD + sqlite3_column_int64(look.st, 1);
	}
	rc = sqlite3_reset(look.st);
	if (rc != SQLITE_OK || to < 0)
		return rc;
	bind_int(&b, range[0]);
	bind_int(&b, to);
	return sqlite_run(&b);
}

/* The dead, one after the other, until the budget is used. */
static int sweep(struct sqlite *s, struct budget *left)
{
	while (left->rows > 0 && left->bytes > 0) {
		struct binder b = sqlite_bind(s->w[W_DROP_DEAD]);
		int64_t row = 0, range[2];
		int rc = find_one(s->w[W_DEAD], &row);

		if (rc != SQLITE_ROW)
			return rc;
		range[0] = sqlite_pos(row, 0);
		range[1] = sqlite_pos(row, SHARED_INDEX);
		rc = drop_some(s, W_SOME_LETTERS, W_DROP_LETTERS, range, left);
		if (rc == SQLITE_OK && left->rows > 0)
			rc = drop_some(s, W_SOME_ITEMS, W_DROP_ITEMS, range, left);
		if (rc != SQLITE_OK || left->rows <= 0 || left->bytes <= 0)
			return rc;
		bind_int(&b, row);
		rc = sqlite_run(&b);
		if (rc != SQLITE_OK)
			return rc;
		left->rows--;
	}
	return SQLITE_OK;
}

static int is_there_work(struct sqlite *s, int64_t now_unix_ms, bool *ret)
{
	struct binder b = sqlite_bind(s->w[W_EXPIRED]);
	int64_t row = 0;
	int rc = find_one(s->w[W_DEAD], &row);

	if (rc == SQLITE_OK) {
		bind_int(&b, now_unix_ms);
		rc = b.rc == SQLITE_OK ? find_one(b.st, &row) : b.rc;
	}
	*ret = rc == SQLITE_ROW;
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int sqlite_expire(struct backend *backend, int64_t now_unix_ms, bool *ret_more)
{
	struct sqlite *s = sqlite_of(backend);
	struct budget left = {.rows = STEP_ROWS, .bytes = STEP_BYTES};
	bool work = false;
	int rc = is_there_work(s, now_unix_ms, &work), err;

	*ret_more = false;
	if (rc != SQLITE_OK || !work)
		return sqlite_failed(s, rc);
	err = backend->ops->begin(backend, false);
	if (err != 0)
		return err;
	rc = bury_expired(s, now_unix_ms, &left);
	if (rc == SQLITE_OK)
		rc = sweep(s, &left);
	err = rc == SQLITE_OK ? backend->ops->commit(backend) : sqlite_failed(s, rc);
	if (err != 0)
		backend->ops->rollback(backend);
	*ret_more = err == 0 && is_there_work(s, now_unix_ms, &work) == SQLITE_OK && work;
	return err;
}
