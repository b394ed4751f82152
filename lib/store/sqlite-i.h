/*
 * What the files of the SQLite backend share. Private to them and their tests.
 *
 * Owner: the front (backend-i.h). The writer's thread uses `writer` and all that
 * stands below it; the reader's thread uses `reader`, `r`, and what never changes
 * after sqlite_open().
 *
 * On the medium: DIRECTORY/settled.db and its log, DIRECTORY/lock.
 *   batch    one row each: the head. Found by id; `row` is given in order. `tenant` is
 *            '' of who has no key.
 *   item     pos = row << ROW_BITS | index: what changes with each attempt
 *   letter   pos as the item's: what is sent. It goes when it was delivered. What
 *            the batch's items share stands once, at SHARED_INDEX.
 *   dead     rows of batches that were forgotten: no reader finds them, and their
 *            items and letters go in small steps
 *   service  the names that items were accepted for
 *
 * Invariants
 *  1. A row that was given once is never given again while the process lives, nor
 *     while anything of it is on the medium; also if its group was rolled back.
 *  2. counts and state of a head are right at each commit: groups collect them
 *     (`touched`) and write each head once.
 *  3. An item's `settled` is row << ROW_BITS | seq once it is final, NULL before.
 *  4. The files are never made anew over others: what cannot be read is refused.
 */
#pragma once

#include <sqlite3.h>

#include "store/backend-i.h"

enum {
	ROW_BITS = 20,
	SHARED_INDEX = (1 << ROW_BITS) - 1,      /* above every index: a batch has fewer items */
	TOUCHED_SLOTS = 1024,                    /* a power of two; written out when half full */
	RECORD_BYTES = 24,
	RECORDS_MAX = UINT8_MAX,                 /* as item.attempts */
	SQLITE_APPLICATION_ID = 0x5e771ed0,
};

/* Bits of batch.flags. */
enum {
	HEAD_SEQUENTIAL = 1,
	HEAD_AT_MOST_ONCE = 2,
	HEAD_CONTINUE = 4,
	HEAD_ATTEMPTS = 8,
	HEAD_ASYNCHRONOUS = 16,
	HEAD_DURABLE = 32,
};

/* The numbers of these stand on the medium: a new name goes to the end of its
 * table, or the schema gets a step that changes what is stored. */
_Static_assert(CODE_MAX == 21 && STOP_MAX == 13 && DELIVERED_MAX == 3 && STATUS_MAX == 6 && PHASE_MAX == 7,
	       "the medium knows the numbers of the outcomes");
_Static_assert(GIVEN_ALL == 15, "the medium knows the bits of what was given");
_Static_assert(CONTRACT_MAX == 3 && BATCH_RUNNING == 1 && BATCH_DONE == 3 && BATCH_OUTCOME_MAX == 5 &&
	       STOP_REASON_MAX == 8 && ITEM_WAITING == 2 && ITEM_FINAL == 3,
	       "the medium knows the numbers of the states");

/* The columns of a head and of an item, in the order in which they are written and read. */
#define HEAD_COLUMNS                                                                          \
	"row, id, flags, contract, concurrency, deadline_ms, attempt_timeout_ms, "            \
	"max_attempts, base_ms, cap_ms, given, created, total, service, bytes, retry_of, "    \
	"metadata, tenant, priority, "                                                        \
	"trace_id, trace_flags, trace_state, scope, key, digest, "                            \
	"due, state, outcome, stop_reason, succeeded, failed, indeterminate, not_attempted, " \
	"pending, finished, duration_us, expires"
#define ITEM_COLUMNS                                                                                \
	"pos, id, service, ttl_ms, state, status, code, delivered, stop, duplicate_risk, attempts, " \
	"refused, http_status, started_us, latency_ms, retry_after_ms, due, settled, message_id, detail, records"

enum sqlite_write {
	W_BEGIN, W_COMMIT, W_ROLLBACK,
	W_KEY, W_ADD_BATCH, W_ADD_ITEM, W_ADD_LETTER,
	W_CLAIM, W_UPDATE, W_DROP_LETTER,
	W_HEAD, W_SET_HEAD, W_SET_RUNNING, W_FINISH, W_PARK, W_BY_ID, W_BURY, W_DROP_BATCH, W_OLDEST,
	W_EXPIRED, W_DEAD, W_SOME_LETTERS, W_DROP_LETTERS, W_SOME_ITEMS, W_DROP_ITEMS, W_DROP_DEAD,
	W_UNFINISHED,
	W_MAX,
};

enum sqlite_read {
	R_HEAD, R_BY_INDEX, R_BY_INDEX_LETTERS, R_BY_SETTLING, R_BY_SETTLING_LETTERS, R_SHARED,
	R_LIST, R_LIST_LIVE, R_LIST_ENDED, R_LIST_KEY,
	R_BEGIN, R_COMMIT,
	R_MAX,
};

/* What a group has to say of a batch's head. */
struct touched {
	int64_t row;                     /* 0: free */
	struct counts counts;
	bool counted, claimed;
};

struct sqlite {
	struct backend base;
	char *path, *wal_path;           /* of the database and its log */
	int lock_fd;
	_Atomic uint16_t *service_of;    /* the index by the number on the medium */
	int64_t n_service_of;            /* with room for those that come later */
	int64_t *service_no;             /* and the other way: the writer's */
	size_t n_services, service_slots;
	sqlite3 *reader;
	sqlite3_stmt *r[R_MAX];

	sqlite3 *writer;
	sqlite3_stmt *w[W_MAX];
	int64_t next_row;
	int wal_frames;                  /* after the last commit */
	/* What commits may leave in the log before it is written into the database: it
	 * bounds the stall, and the time to read the log after a crash. */
	int checkpoint_frames;
	int checkpoint_at;               /* when the log has so many, the next one is tried */
	bool full;                       /* the present level of `synchronous` */
	bool log_suspect;                /* a sync of the log failed: what it holds may never reach the medium */
	struct touched touched[TOUCHED_SLOTS];
	unsigned n_touched;
	unsigned char records[RECORDS_MAX * RECORD_BYTES];       /* of the item that is being written */
	int64_t delta;                   /* to base.unfinished, from the present group */
};

static inline struct sqlite *sqlite_of(struct backend *b)
{
	return container_of(b, struct sqlite, base);
}

static inline int64_t sqlite_pos(int64_t row, uint32_t index)
{
	return row << ROW_BITS | index;
}

/* A statement whose parameters are given one after the other, and run. */
struct binder {
	sqlite3_stmt *st;
	int at;
	int rc;
};
struct binder sqlite_bind(sqlite3_stmt *st);
void bind_int(struct binder *b, int64_t v);
void bind_null(struct binder *b);
void bind_int_or_null(struct binder *b, int64_t v, int64_t null);
void bind_text(struct binder *b, struct slice s);        /* p NULL: NULL. Borrowed until it ran */
void bind_name(struct binder *b, struct slice s);        /* p NULL: an empty text */
void bind_blob(struct binder *b, const void *p, size_t n);
void bind_id(struct binder *b, struct batch_id id);      /* borrowed: all zero is NULL */
int sqlite_run(struct binder *b);                        /* SQLITE_OK, or the error; reset in either case */

struct batch_id sqlite_id(const void *bytes);

/* sqlite.c: remember the writer's failure for people. 0 or a negative errno. */
int sqlite_failed(struct sqlite *s, int rc);
int sqlite_errno(sqlite3 *db, int rc);
const char *sqlite_reason(int err);

/* sqlite_schema.c. False: *reterr has why. `steps[i]` leads from version i to i + 1. */
bool sqlite_files_open(struct sqlite *s, struct buf *reterr);
bool sqlite_migrate(sqlite3 *db, const char *const *steps, unsigned n_steps, struct buf *reterr);
bool sqlite_prepare_all(struct sqlite *s, struct buf *reterr);

bool sqlite_refuse(const char *path, sqlite3 *db, int rc, struct buf *reterr);   /* false */
int sqlite_number(sqlite3 *db, const char *sql, int64_t *ret);

/* sqlite_services.c */
bool sqlite_services_open(struct sqlite *s, struct buf *reterr);
bool sqlite_name_services(struct backend *b, const char *const *names, size_t n, struct buf *reterr);
void sqlite_set_services(struct backend *b, const bool *gone, size_t n);

/* sqlite_write.c */
int sqlite_write(struct backend *b, struct store_op *op);
int sqlite_flush(struct sqlite *s);                      /* write the heads that the group touched */
int sqlite_bury(struct sqlite *s, int64_t row);

/* sqlite_read.c */
int sqlite_read(struct backend *b, struct store_op *op);
int sqlite_each_unfinished(struct backend *b, void (*each)(void *arg, const struct store_unfinished *u), void *arg);

/* sqlite_expire.c */
int sqlite_expire(struct backend *b, int64_t now_unix_ms, bool *ret_more);
