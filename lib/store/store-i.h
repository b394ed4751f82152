/*
 * The front's own: the queue, the writer and the reader. Private to store.
 *
 *   store_ask() ──► inbox ──writer: take──► todo ──group──► committed ──► answered
 *                                            ▲                 │ failed
 *                                            └── what is owed ─┘  the rest: STORE_UNAVAILABLE
 *
 * Threads: `lock` guards what both sides touch; `turn` is held by whoever uses the
 * backend's writing side. The rest belongs to the writer's thread.
 */
#pragma once

#include <pthread.h>

#include "core/window.h"
#include "store/backend-i.h"

struct store {
	struct store_config cfg;
	struct backend *backend;
	pthread_t writer, reader;
	pthread_mutex_t turn;

	pthread_mutex_t lock;
	pthread_cond_t wake_writer, wake_reader;
	struct list inbox, reads;
	bool closing, giving_up;
	bool want_measure;
	bool read_damage;                /* told to the writer: a read met a broken page */
	struct store_status status;      /* queued_*: in inbox, in todo, or in the group that runs */
	struct store_timings timings;
	uint64_t reserved;               /* items of durable accepts that are not answered */
	struct window went;              /* `first`: items that got their final result */

	/* The writer's. */
	struct list todo, group;
	int64_t group_us;                /* the last one's begin */
	int64_t retry_at_us, backoff_us; /* while it fails */
	int64_t recovered_us;
	int64_t expire_at_us, measured_us;
	bool more_to_expire;

	bool gave_up;                    /* something owed is lost: nothing may follow it */
	bool reads_fail;                 /* of the thread that reads */
};

void *store_writer_main(void *arg);
void *store_reader_main(void *arg);

/* What it takes in the queue: of what does not change while it waits. */
size_t store_op_bytes(const struct store_op *op);

/* Waits for ever, if it must: see the header's second invariant. The writer's
 * thread alone can tell, of what it has taken. */
bool store_op_owed(const struct store_op *op);

static inline bool store_op_reads(const struct store_op *op)
{
	return op->what == STORE_READ || op->what == STORE_LIST;
}

/* Not owed, and nobody learns that it was not written unless it is counted. */
bool store_op_lost(const struct store_op *op);

/* Drop what the operation owns, and answer it or free it: it is gone after. */
void store_op_end(struct store_op *op, enum store_answer answer);

int64_t store_now_us(void);

/* How far back the pace is looked for at which unfinished items go. */
enum { STORE_PACE_MS = 10000 };

static inline struct store_op *store_op_of(struct list *node)
{
	return container_of(node, struct store_op, msg.node);
}
