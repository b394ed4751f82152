/*
 * What the two halves of the dispatcher share: batch.c, which owns live
 * batches, and lane.c, which owns the attempts that were handed to it.
 */
#pragma once

#include "base/idmap.h"
#include "channel/channel.h"
#include "dispatch/dispatch.h"
#include "dispatch/metrics.h"

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
	struct buf origin;               /* the lane's name */
	uint64_t hash;                   /* of service and origin */
	int64_t batch_deadline_us;
	int64_t deadline_us;             /* the item's */
	enum why at_deadline;            /* and what it means */
	int64_t timeout_us;
	/* On the lane's shard. */
	struct op op;
	struct list node;                /* turn.queued, or dispatch.ended */
	struct visit *visit;
	struct turn *turn;               /* while queued */
	struct lane *lane;               /* while in flight */
	struct transfer *transfer;       /* while in flight */
	/* The result. */
	bool started;                    /* false: nothing was tried, see why */
	enum why why;                    /* what ended it from outside */
	struct outcome outcome;
	struct buf message_id;           /* outcome.message_id borrows from it */
	struct buf quote;                /* the start of an answer that is no success, for the log */
	int64_t started_us, done_us, started_unix_ms;
};

struct dispatch {
	struct dispatch_env env;
	struct rng rng;
	struct op_tree ops;
	struct op root;
	struct loop_call pump;
	struct loop_timer *timer;
	/* batch.c */
	struct idmap live_by_id;
	struct list live;                /* every struct live, oldest first */
	struct list dirty;               /* those that ask for the pump */
	struct heap waits;               /* items between two attempts */
	struct list spare;               /* attempts to be used again */
	unsigned n_spare;
	bool draining;
	void (*on_idle)(void *arg);
	void *on_idle_arg;
	/* lane.c */
	struct idmap lanes, visits, turns;
	struct list dirty_lanes;
	struct list starved;             /* lanes that wait for the shard's own cap */
	struct list ended;               /* attempts cancelled while queued */
	unsigned in_flight;
	struct channel_scratch scratch;
	struct buf key;                  /* a default dedupe key, while encoding */
};

/* Ask for the pump: once, later in this turn. */
static inline void dispatch_pump_soon(struct dispatch *d)
{
	loop_call_soon(d->env.loop, &d->pump);
}

/* batch.c: the pump of the batches, the ends of waits, a returned attempt. */
void batches_pump(struct dispatch *d);
void batches_wake(struct dispatch *d, int64_t now_us);
void batch_on_result(struct loop_msg *msg);

/* lane.c */
void lanes_init(struct dispatch *d);
void lanes_free(struct dispatch *d);
void lanes_pump(struct dispatch *d);
void lane_on_submit(struct loop_msg *msg);
void lane_on_cancel(struct dispatch *d, struct batch_id batch, enum why why);
