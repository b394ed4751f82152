/*
 * The ownership tree: every started operation has a parent, a deadline, a way
 * to be cancelled and one place where its result goes.
 *
 * Owner: the shard whose tree it is; one thread. Pure: time is an argument.
 *
 * Invariants
 *  1. A live op is linked to a live parent (the tree's root has none), and a
 *     parent cannot finish while it has children.
 *  2. deadline <= parent's deadline. There is no "none": the root's is the
 *     caller's choice, often INT64_MAX.
 *  3. A cancel is remembered once, with its first reason, and flows down at
 *     once; a child that is started under a cancelled parent is cancelled.
 *  4. on_cancel runs once at most, only between start and finish. It records
 *     and asks; it never frees, finishes or starts an op.
 *  5. An op is in the tree's heap exactly while it is live, uncancelled and its
 *     own deadline is earlier than its parent's: the others expire with theirs.
 *
 *   idle --op_start--> live --op_cancel/op_expire--> cancelled
 *                       |                                |
 *                       +-----------op_finish------------+--> idle
 */
#pragma once

#include "base/heap.h"
#include "base/list.h"

/* Why an operation was ended from outside. Deadlines first: local limits. */
enum why {
	WHY_NONE,
	WHY_ATTEMPT_TIMEOUT,
	WHY_TTL,
	WHY_DEADLINE,
	WHY_FIRST_FAILURE,
	WHY_DISCONNECTED,
	WHY_CANCELLED,
	WHY_SHUTDOWN,
	WHY_INTERRUPTED,                 /* the process that ran it died */
	WHY_SHED,                        /* it makes room for others */
	WHY_PARKED,                      /* no end: this process lets go of it, the store has it */
};

const char *why_str(enum why w);

/* A local deadline, as opposed to an end that came from outside. */
static inline bool why_is_deadline(enum why w)
{
	return w == WHY_ATTEMPT_TIMEOUT || w == WHY_TTL || w == WHY_DEADLINE;
}

struct op;

struct op_tree {
	struct heap deadlines;
	unsigned live;                   /* for leak checks: zero when all is done */
};

struct op {
	struct op *parent;               /* NULL: idle, or the root */
	struct list sibling, children;
	struct heap_node due;            /* key: the deadline, microseconds, monotonic */
	void (*on_cancel)(struct op *op, enum why why);
	int64_t deadline_us;
	uint8_t why;                     /* enum why; WHY_NONE: not cancelled */
	uint8_t at_deadline;             /* enum why that the deadline means */
	bool live;
};

void op_tree_init(struct op_tree *t, struct op *root);
void op_tree_free(struct op_tree *t);

/* Start `op` under `parent`. `own_us` may be later than the parent's deadline,
 * which then rules. `on_cancel` may be NULL. If the parent was cancelled, so is
 * op, and on_cancel has not run: look at op->why. */
void op_start(struct op_tree *t, struct op *op, struct op *parent, int64_t own_us,
	      enum why at_deadline, void (*on_cancel)(struct op *, enum why));

/* Move the deadline of a live op closer (or back, up to its parent's). */
void op_set_deadline(struct op_tree *t, struct op *op, int64_t own_us, enum why at_deadline);

/* Idempotent; flows down the tree; never frees. */
void op_cancel(struct op_tree *t, struct op *op, enum why why);

/* Unlink a live op without children. */
void op_finish(struct op_tree *t, struct op *op);

/* Cancel everything whose deadline is at or before now. */
void op_expire(struct op_tree *t, int64_t now_us);

/* When op_expire() is wanted next; INT64_MAX: never. */
int64_t op_next(const struct op_tree *t);
