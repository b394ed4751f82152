/*
 * Where batches are kept: one table of operations over a backend (memory or
 * SQLite), with one writer that commits in groups.
 *
 * Owner: the process; one struct store, shared by all shards. Any shard asks,
 * by an operation that it embeds or allocates; the answer is a message to the
 * loop that it names, in on_done, never inside the call.
 *
 * Invariants
 *  1. Writes take effect in the order in which they were asked for by one shard,
 *     and are answered after their commit: what a read saw, or an answer said,
 *     survives the process. What was asked with `synced` (accept with
 *     `batch->durable`, claim of an at_most_once item) survives the machine too.
 *  2. A write that is owed (STORE_CLAIM, STORE_UPDATE, STORE_PARK, STORE_FINISH of a
 *     batch that is durable or has its note in the store, which would else run for
 *     ever) is never dropped before store_give_up(): while the disk fails it waits,
 *     and is tried again. Everything else is then answered STORE_UNAVAILABLE.
 *  3. A read sees only what is committed, and all of what was answered before.
 *  4. The queue to the writer is bounded: over it, accepts and deletes are answered
 *     STORE_BUSY. What finishes was counted when it was accepted.
 */
#pragma once

#include "core/batch.h"
#include "loop/loop.h"
#include "obs/metrics.h"

struct store;

/* How an operation ended. */
enum store_answer {
	STORE_OK,
	STORE_NOT_FOUND,
	STORE_KEY_EXISTS,                /* accept: see `existing` and `same_body` */
	STORE_NOT_DONE,                  /* delete: it still runs */
	STORE_BUSY,                      /* too much waits for the writer, or too many items are stored */
	STORE_UNAVAILABLE,               /* the disk fails; nothing was written */
};

enum store_do {
	STORE_ACCEPT, STORE_CLAIM, STORE_UPDATE, STORE_FINISH, STORE_PARK, STORE_DELETE,
	STORE_READ, STORE_LIST,
};

/* The head of every operation. Embed it first; alive until on_done ran. */
struct store_op {
	struct loop_msg msg;             /* private: the queue, then the answer */
	enum store_do what;
	struct loop *reply_to;           /* NULL: nobody waits; the store frees it with free() */
	enum store_answer answer;
	void (*on_done)(struct store_op *op);
};

/*
 * A new batch. `durable`: it stands with all its items, letters and key before
 * the answer, and until then its owner changes nothing in it but the gate. Not
 * durable: a note that it runs, without letters, of which the store reads only
 * what does not change after acceptance; dropped if it cannot be written.
 * `n_settled` items were final at acceptance: the first of settled_first's chain.
 */
struct store_accept {
	struct store_op op;              /* STORE_ACCEPT */
	struct batch *batch;             /* a reference, the store's to drop */
	uint32_t n_settled;
	struct batch_id existing;        /* STORE_KEY_EXISTS: which of its tenant's has batch->key in its scope ... */
	bool same_body;                  /* ... and whether its digest is the same */
	uint64_t excess;                 /* STORE_BUSY: by so many items there are too many in the store ... */
	double per_second;               /* ... and so many went in a second lately */
};

/* The item may be in flight from now on: after a crash it counts as an attempt
 * that was `interrupted`, until an update says what became of it. */
struct store_claim {
	struct store_op op;              /* STORE_CLAIM */
	int64_t row;                     /* batch.store_row */
	uint32_t index;
	bool synced;
};

/* What is known of an item after an attempt: WAITING with due_unix_ms, or PENDING
 * (it was claimed and not started), or FINAL. Its letter is dropped once it was
 * delivered. `seq`, its place in the order of settling from 1 on; 0: not final. */
struct store_update {
	struct store_op op;              /* STORE_UPDATE */
	struct batch *batch;             /* a reference, the store's to drop: the strings are its */
	struct item item;                /* a copy */
	struct counts counts;            /* of the batch, with this item */
	uint32_t seq;
};

/* The batch is DONE. Durable: its head is written. Not durable: all of it, with
 * the letters of the items that were not delivered, so that a retry finds them.
 * The batch does not change any more. */
struct store_finish {
	struct store_op op;              /* STORE_FINISH */
	struct batch *batch;             /* a reference, the store's to drop */
	bool owed;                       /* private */
};

/* The batch leaves memory unfinished, and is wanted again at due_unix_ms. */
struct store_park {
	struct store_op op;              /* STORE_PARK */
	int64_t row;
	int64_t due_unix_ms;
};

/* Forget a batch that is DONE. */
struct store_delete {
	struct store_op op;              /* STORE_DELETE */
	struct batch_id id;
	struct slice tenant;             /* another's is not found; p NULL: whoever's. Borrowed until on_done */
};

enum store_order { STORE_BY_INDEX, STORE_BY_SETTLING };

/*
 * A batch's head and some of its items. The batch that comes back is the asker's
 * alone: not live, `n_items` of its items, counts of the whole. Items that are
 * not final are PENDING, or WAITING with due_unix_ms; in_flight: it was claimed.
 * Times are wall-clock: created_unix_ms, finished_unix_ms, expires_unix_ms; the
 * monotonic ones hold differences only (finished_us - accepted_us is right), but
 * an item's started_us is in Unix microseconds.
 */
struct store_read {
	struct store_op op;              /* STORE_READ */
	struct batch_id id;
	struct slice tenant;             /* another's is not found; p NULL: whoever's. Borrowed until on_done */
	enum store_order order;
	uint32_t from;                   /* the first index, or the first seq, that is wanted */
	uint32_t limit;                  /* items; 0: the head alone */
	unsigned statuses;               /* 1 << enum status each; 0: all */
	bool letters;                    /* with to, payload and dedupe_key; p NULL: dropped */
	/* Runs in the store's thread when the batch is there, to make an answer from it
	 * where that holds up no loop. May be NULL; may drop the batch and set it NULL. */
	void (*in_thread)(struct store_read *r);
	struct batch *batch;             /* the answer; STORE_NOT_FOUND: NULL */
	bool more;                       /* items after these exist */
	uint32_t next;                   /* and `from` for them */
};

enum { STORE_LIST_MAX = 200 };

/* Heads of a tenant's batches, newest first. */
struct store_list {
	struct store_op op;              /* STORE_LIST */
	struct slice tenant;             /* n 0: of who has no key. Borrowed until on_done */
	int state;                       /* enum batch_state, -1: any */
	int outcome;                     /* enum batch_outcome, -1: any */
	struct slice key;                /* p NULL: any. Borrowed until on_done */
	struct batch_id before;          /* older than this one; all zero: from the newest on */
	uint32_t limit;                  /* 1..STORE_LIST_MAX */
	void (*in_thread)(struct store_list *l);         /* as in store_read */
	struct batch *heads[STORE_LIST_MAX];
	uint32_t n;
	bool more;
};

/* Ask. Never answers inside this call. */
void store_ask(struct store *s, struct store_op *op);

/* A batch that was not done when the process before ended. */
struct store_unfinished {
	struct batch_id id;
	int64_t due_unix_ms;             /* when it is wanted in memory; 0: now */
	int64_t created_unix_ms, deadline_unix_ms;
	uint32_t pending;                /* its items that are not final */
	uint32_t bytes;                  /* about what it takes in memory */
	uint16_t service;                /* of its first item; or ITEM_NO_SERVICE */
	unsigned priority;
	struct slice tenant;             /* valid in the call */
	bool asynchronous;
};

struct store_config {
	const char *path;                /* a directory, made if missing; NULL: memory */
	size_t memory_bytes;             /* memory: of finished batches; the oldest go first */
	size_t queue_bytes;              /* bound of what waits for the writer */
	uint64_t stored_items;           /* bound of unfinished items in the store */
	const char *const *services;     /* names, by item.service; copied */
	size_t n_services;
	size_t service_slots;            /* no more than these will be named; 0: no more than at the start */
};

/* Open, and begin to serve. NULL: *reterr says what, where, and what to do. */
struct store *store_open(const struct store_config *cfg, struct buf *reterr) MUST_CHECK;

/* Each batch that is not done, oldest first; before the shards run. False: the
 * store cannot be read, see *reterr. */
bool store_each_unfinished(struct store *s, void (*each)(void *arg, const struct store_unfinished *u), void *arg,
			   struct buf *reterr);

/*
 * Other services and limits while it runs; from one thread at a time, which may wait
 * for a group to end.
 *
 * store_name_services(): names[i] with i from the number that it has on are new: items
 * may be accepted for them once this returned. False: nothing has changed, see *reterr.
 * store_set_services(): what is read from now on belongs to service i unless gone[i],
 * and to none then; before, every asker must know all of them.
 */
bool store_name_services(struct store *s, const char *const *names, size_t n, struct buf *reterr) MUST_CHECK;
void store_set_services(struct store *s, const bool *gone, size_t n);

/* Limits as in store_config; what is over a lower one stays. */
struct store_limits {
	size_t memory_bytes, queue_bytes;
	uint64_t stored_items;
};
void store_set_limits(struct store *s, const struct store_limits *limits);

/* For the last part of a stop, so that a broken disk does not hold it up: from
 * here on what is owed and cannot be written is answered STORE_UNAVAILABLE after
 * one try. What was committed stands; the next process goes on from there. */
void store_give_up(struct store *s);

/* Write what is queued, answer it, and close. No shard may ask any more; the loops
 * that are answered must be there until it returns. */
void store_close(struct store *s);               /* NULL is fine */

/* For readiness and metrics; any thread. */
struct store_status {
	bool failing;                    /* writes fail now ... */
	char why[160];                   /* ... and why, for people */
	uint64_t queued_ops, queued_bytes;
	uint64_t file_bytes;             /* of the database and its log */
	uint64_t unfinished_items;
	int64_t oldest_unfinished_unix_ms;       /* 0: none */
	uint64_t dropped;                /* notes and results that were not owed and could not be written */
};
void store_status(struct store *s, struct store_status *ret);

/* How long commits took and how many operations each held: any thread. */
struct store_timings {
	uint64_t commits, ops;
	uint64_t commit_us_sum;
	uint64_t commit_us_le[12];       /* not cumulative; bounds in store_timing_bounds_us, the last is +Inf */
	uint64_t group_le[12];           /* bounds in store_group_bounds */
};
extern const uint32_t store_timing_bounds_us[11], store_group_bounds[11];
void store_timings(struct store *s, struct store_timings *ret);
