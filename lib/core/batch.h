/*
 * A batch and its items: the state that the contract talks about, and the
 * reductions over it. Pure; no clock, no I/O.
 *
 * Owner: the shard that accepted the batch; one thread writes it. Other shards
 * see only `gate`, and the item's bytes while one of its attempts is with them.
 *
 * Item states, and who moves them (all through item_set_state()):
 *
 *   PENDING ──dispatch: submitted──► QUEUED ──outcome, another try──► WAITING
 *      │                              │  ▲                              │
 *      │                              │  └──────── its wait ended ──────┘
 *      └──────────► FINAL ◄───────────┴─────────────────────────────────┘
 *
 * A QUEUED item whose lane pauses is WAITING too, until that is over: no try was made.
 * A QUEUED item whose attempt is handed back without a start, because its batch
 * leaves memory, is what it was before: PENDING, or WAITING if it had attempts.
 *
 * Invariants
 *  1. counts: items in FINAL are counted once, under their status.
 *  2. A FINAL item never changes again.
 *  3. item.delivered is the maximum over all of its attempts.
 *  4. state DONE exactly when every item is FINAL and batch_finish() ran.
 */
#pragma once

#include <stdatomic.h>

#include "base/arena.h"
#include "base/buf.h"
#include "core/op.h"
#include "core/retry.h"

#define CONTRACT_TABLE(X) \
	X(ALL_OR_NOTHING, all_or_nothing) X(PARTIAL_SUCCESS, partial_success) X(BEST_EFFORT, best_effort)
#define BATCH_STATE_TABLE(X) \
	X(QUEUED, queued) X(RUNNING, running) X(CANCELLING, cancelling) X(DONE, done)
#define BATCH_OUTCOME_TABLE(X) \
	X(NONE, none) X(SUCCEEDED, succeeded) X(PARTIAL, partial) X(INDETERMINATE, indeterminate) X(FAILED, failed)
#define STOP_REASON_TABLE(X)                                                    \
	X(NONE, none) X(COMPLETED, completed) X(FIRST_FAILURE, first_failure)       \
	X(DEADLINE, deadline) X(DISCONNECTED, disconnected) X(CANCELLED, cancelled) \
	X(SHUTDOWN, shutdown) X(INTERRUPTED, interrupted)

#define X(upper, lower) CONTRACT_##upper,
enum contract { CONTRACT_TABLE(X) CONTRACT_MAX };
#undef X
#define X(upper, lower) BATCH_##upper,
enum batch_state { BATCH_STATE_TABLE(X) BATCH_STATE_MAX };
#undef X
#define X(upper, lower) BATCH_OUTCOME_##upper,
enum batch_outcome { BATCH_OUTCOME_TABLE(X) BATCH_OUTCOME_MAX };
#undef X
#define X(upper, lower) STOP_REASON_##upper,
enum stop_reason { STOP_REASON_TABLE(X) STOP_REASON_MAX };
#undef X

const char *contract_str(enum contract c);
const char *batch_state_str(enum batch_state s);
const char *batch_outcome_str(enum batch_outcome o);
const char *stop_reason_str(enum stop_reason r);

/* What the caller gave itself; the rest are defaults, and a job's are others. */
enum policy_given {
	GIVEN_DEADLINE = 1,
	GIVEN_MAX_ATTEMPTS = 2,
	GIVEN_BASE = 4,
	GIVEN_CAP = 8,
	GIVEN_ALL = 15,
};

enum { PRIORITY_MAX = 9, PRIORITY_DEFAULT = 5 };

struct policy {
	enum contract contract;
	bool sequential;
	bool at_most_once;
	bool continue_on_disconnect;
	bool include_attempts;
	bool validate_only;
	unsigned concurrency;
	unsigned priority;               /* 0..9; the most urgent is 9 */
	unsigned given;                  /* enum policy_given */
	int64_t deadline_ms;
	int64_t attempt_timeout_ms;      /* 0: the service's */
	struct retry_policy retry;
};

/* One attempt, for `include: ["attempts"]`. In the batch's arena. */
struct attempt_record {
	struct attempt_record *next;
	int64_t started_unix_ms;
	int64_t duration_us;
	uint16_t n, http_status;
	uint8_t code, delivered, phase;
};

struct live;

enum item_state { ITEM_PENDING, ITEM_QUEUED, ITEM_WAITING, ITEM_FINAL };

/* The service that the item was accepted for is no longer configured. */
enum { ITEM_NO_SERVICE = UINT16_MAX };

struct item {
	struct slice id;                 /* p NULL: an invalid item had no usable id */
	struct slice to, payload;        /* in the batch's body or arena */
	struct slice dedupe_key;         /* p NULL: "{batch id}.{item id}" */
	struct batch *batch;
	const char *detail;              /* text for error.message, or NULL */
	const char *message_id;          /* in the arena, or NULL */
	struct attempt_record *records;  /* newest first */
	union {
		struct item *next_ready;     /* its wait ended: the next one to be tried again */
		struct item *next_settled;   /* FINAL: the next one that settled */
		int64_t due_unix_ms;         /* WAITING: the end of the wait by the wall clock, which the store keeps */
	};
	struct heap_node wake;           /* WAITING: end of the wait */
	struct op op;                    /* live from QUEUED to FINAL */
	int64_t ttl_ms;                  /* HEAP_NONE: none */
	int64_t started_us;              /* first attempt, monotonic; 0: none */
	int64_t retry_after_ms;
	uint32_t index;                  /* its place in the request */
	int32_t latency_ms;
	uint16_t service;                /* index into the configuration, or ITEM_NO_SERVICE */
	uint16_t http_status;
	uint8_t attempts;                /* come to an end */
	uint8_t refused;                 /* tries that an open breaker refused: no attempts, but the policy counts them */
	atomic_bool in_flight;           /* one more has started: the lane's shard says so */
	uint8_t state, status, code, delivered, stop;
	bool duplicate_risk;
	bool for_lane;                   /* WAITING: its lane pauses; else for its next try */
};

/* What every shard looks at before it starts an attempt: set once, by the batch's
 * owner. A batch outlives its attempts, so they point at it. */
struct gate {
	atomic_int why;                  /* enum why; not WHY_NONE: start nothing more */
};

void gate_close(struct gate *g, enum why why);
enum why gate_why(const struct gate *g);

enum { TRACE_SAMPLED = 1 };

/* The caller's trace, continued (W3C Trace Context). */
struct trace {
	unsigned char id[16];
	unsigned char flags;             /* TRACE_SAMPLED */
	uint64_t parent;                 /* the caller's span; 0: none, or not known any more */
	struct slice state;              /* tracestate; n 0: none */
};

/* The caller's Idempotency-Key. */
struct batch_key {
	struct slice scope;              /* where it counts: the route, and what it is applied to */
	struct slice key;
	unsigned char digest[32];        /* SHA-256 of the request's body */
};

struct counts {
	uint32_t total, succeeded, failed, indeterminate, not_attempted, pending;
};

/* Where the bytes are counted that a batch holds: of all, of its service, of its tenant, of
 * those that were shed. */
enum held { HELD_ALL, HELD_SERVICE, HELD_TENANT, HELD_SHED, HELD_MAX };

struct batch {
	struct batch_id id;
	atomic_uint refs;                /* batch_ref() */
	struct policy policy;
	bool asynchronous;               /* a job: no disconnect ends it, and a restart goes on with it */
	bool durable;                    /* the store has it before its first attempt, and each step of it after */
	const char *durability;          /* what is promised for it: "disk" (the store says so) or "memory"; static */
	struct batch_id retry_of;        /* all zero: none */
	int64_t store_row;               /* the store's own number for it; 0: none yet. The store's to set */
	struct blob *body;               /* the request's bytes; items point into it; may be NULL */
	struct slice payload;            /* the default payload, which items share by pointer; p NULL: none */
	struct arena arena;
	struct slice tenant;             /* whose it is, in the arena or for ever; n 0: of who has no key */
	struct slice caller;             /* what people call the key it came with, in the arena; n 0: none, or not known any more */
	struct slice metadata;           /* the JSON object as received; n 0: {} */
	struct trace trace;
	const struct batch_key *key;     /* in the arena; NULL: none */
	atomic_size_t *held[HELD_MAX];   /* held_bytes are counted in these; NULL: not there */
	size_t held_bytes;
	struct item *items;
	uint32_t n_items;                /* in `items`: all of them, or those that the store was asked for */
	struct counts counts;            /* of the whole batch */
	struct gate gate;
	struct op op;
	struct live *live;               /* dispatch's side of it, while it lives */
	struct item *ready_first, *ready_last;       /* to be tried again now */
	uint32_t next_pending;           /* no item before this one is PENDING */
	uint32_t attempts_out;           /* with lanes, not back yet */
	struct item *settled_first, *settled_last;
	struct item *told_last;          /* of that chain: up to here the store has it, if the batch is durable */
	int64_t created_unix_ms, finished_unix_ms;
	int64_t accepted_us, finished_us;      /* monotonic */
	int64_t expires_unix_ms;
	enum batch_state state;
	enum batch_outcome outcome;
	enum stop_reason stop_reason;
};

/* An empty batch of n items, PENDING, with their index; NULL: no memory. Takes
 * `body` on success. One reference, the caller's; any thread may drop the last. */
struct batch *batch_new(struct blob *take_body, uint32_t n_items);
struct batch *batch_ref(struct batch *b);
void batch_unref(struct batch *b);             /* NULL is fine */

/* Whoever keeps it now counts its bytes elsewhere: before others drop theirs. */
void batch_count_no_more(struct batch *b);

/* A new batch of some items of another, by their places in its `items`: with the
 * same policy, metadata, ids and dedupe keys, in memory of its own. They must
 * have their letters. NULL: no memory. */
struct batch *batch_again(const struct batch *first, const uint32_t *chosen, uint32_t n) MUST_CHECK;

/* An outcome came back from an attempt: count and remember it. */
void item_record(struct item *it, const struct outcome *o, int64_t started_us, int64_t now_us,
		 int64_t started_unix_ms);

/* The item was claimed when the process that had it ended: its attempt counts, and
 * may have been delivered. When it began is not known. *ret: its outcome. */
void item_record_interrupted(struct item *it, int64_t now_us, int64_t now_unix_ms, struct outcome *ret);

/* A try that an open breaker refused: no attempt. What an attempt left stays, as
 * the last attempt's cause is what is told. */
void item_refuse(struct item *it, const struct outcome *o);

/* The item has its final result; `code` is used only if no attempt was made, and
 * of one that was refused the refusal is told rather than CODE_NOT_ATTEMPTED. */
void item_settle(struct item *it, enum code code, enum stop stop, int64_t now_us);

void item_set_state(struct item *it, enum item_state state);
void batch_set_state(struct batch *b, enum batch_state state);

/* Every item is FINAL: outcome, stop reason, times. */
void batch_finish(struct batch *b, int64_t now_us, int64_t now_unix_ms);

/* Outcome by arithmetic on the counts alone (contract section 5). */
enum batch_outcome batch_reduce(const struct counts *c);

/* The queue of WAITING items whose wait has ended. Pop: NULL when it is empty. */
void batch_push_ready(struct batch *b, struct item *it);
struct item *batch_pop_ready(struct batch *b);

/* How an end from outside shows in an item and in the batch. */
enum stop stop_from_why(enum why w);
enum stop_reason stop_reason_from_why(enum why w);

/* Has it brought no payload of its own, and shares the batch's? */
bool item_shares_payload(const struct item *it);

/* Does this final item end its batch (all_or_nothing)? */
bool contract_stops_on(enum contract c, const struct item *it);
