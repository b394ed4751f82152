/*
 * An attempt, and its way: the one thing that batches' shards and lanes' shards pass to
 * each other.
 *
 *   batch.c ─ spread_out() ─► lane_on_submit() ─ ... ─► batch_on_result() ─► result.c
 *
 * Owner: whoever has it last been posted to; in that shard's thread.
 */
#pragma once

#include <stdatomic.h>

#include "base/buf.h"
#include "config/config.h"
#include "core/batch.h"
#include "loop/loop.h"
#include "store/store.h"

struct dispatch;

enum claim_state {
	CLAIM_NONE,                      /* not asked for, or not needed */
	CLAIM_ASKED,                     /* the store writes it */
	CLAIM_HELD,                      /* written: it may start */
};

/* How an attempt comes back to its batch. What it says beside that: */
enum attempt_end {
	ATTEMPT_ENDED,                   /* from outside, before it started: why */
	ATTEMPT_NO_BUDGET,               /* its deadline came while it waited for the retry budget: why */
	ATTEMPT_REFUSED,                 /* by the breaker: outcome, done_us */
	ATTEMPT_PAUSED,                  /* its lane pauses, and does not keep it: paused_until_us */
	ATTEMPT_MOVED,                   /* its service leads elsewhere now: it is what it was */
	ATTEMPT_TRIED,                   /* its outcome and times; why, if it was cut short */
};

/*
 * One attempt on its way: made by the batch's shard, handed to the lane's by
 * message, and handed back with its result. Whoever holds it may write it; the
 * item's own fields are the batch's shard's alone.
 */
struct attempt {
	struct loop_msg msg;
	struct dispatch *owner, *at;     /* the batch's shard, the lane's */
	struct item *item;
	struct batch_id batch;
	struct gate *gate;               /* the batch's, which outlives its attempts */
	uint16_t service;
	uint16_t tenant;                 /* index into the configuration */
	unsigned weight;                 /* the tenant's */
	uint8_t priority;
	enum service_kind kind;          /* of its service when it was submitted, which takes the item */
	bool repeat;                     /* not the item's first attempt */
	bool durable;                    /* it needs a claim before it starts */
	bool counted;                    /* its item is: see admission.c */
	struct buf origin;               /* the lane's name ... */
	uint64_t hash;                   /* ... of service and origin ... */
	uint8_t number;                  /* ... and which of its origin's it is */
	atomic_uint *load;               /* where it is counted for these; NULL: there is one alone */
	int64_t batch_deadline_us;
	int64_t deadline_us;             /* the item's */
	enum why at_deadline;            /* and what it means */
	int64_t timeout_us;
	int64_t queued_us;               /* when it was made */
	uint64_t span_id;                /* its span, which the downstream is told of */
	/* On the lane's shard. */
	struct op op;
	struct list node;                /* a list of its turn, or dispatch.ended */
	struct visit *visit;
	struct lane *lane;               /* until it is handed back */
	struct turn *turn;               /* while queued */
	uint32_t breaker_period;         /* in which it started */
	struct transfer *transfer;       /* while in flight */
	struct held_config *held;        /* while in flight: what it was started under */
	struct store_claim claim;
	enum claim_state claimed;
	/* The result. */
	enum attempt_end end;
	enum why why;                    /* what ended it from outside */
	int64_t paused_until_us;
	struct outcome outcome;
	struct buf message_id;           /* outcome.message_id borrows from it */
	struct buf quote;                /* the start of an answer that is no success, for the log */
	int64_t started_us, done_us, started_unix_ms;
};

/* So long before its lane may go on an attempt is there: what is durable is claimed by
 * then, and all that want their turn have come. As long as a slow commit may take. */
enum { LANE_AHEAD_US = 100000 };

/* attempt.c */
struct attempt *attempt_get(struct dispatch *d);         /* zeroed, but for its buffers' memory */
void attempt_put(struct dispatch *d, struct attempt *a);
void attempts_free(struct dispatch *d);

/* spread.c: which of its origin's lanes takes it; and it is back. On its batch's shard. */
void spread_out(struct dispatch *d, struct attempt *a);
void spread_back(struct attempt *a);

void lane_on_submit(struct loop_msg *msg);       /* lane.c: it comes to its lane's shard */
void batch_on_result(struct loop_msg *msg);      /* result.c: it is back, and what it means for its item */
