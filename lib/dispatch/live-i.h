/*
 * A batch in memory: live.c has how it comes and goes, cancel.c what ends it from outside,
 * batch.c what of it starts next, result.c what its attempts mean.
 *
 * Owner: the shard that accepted the batch; its thread.
 */
#pragma once

#include <stdatomic.h>

#include "base/idmap.h"
#include "core/batch.h"
#include "dispatch/dispatch.h"
#include "store/store.h"

enum live_phase {
	LIVE_ACCEPTING,                  /* the store has not answered: nothing starts */
	LIVE_RUNNING,
	LIVE_PARKING,                    /* the store is told when it is wanted again */
	LIVE_FINISHING,                  /* done; the store writes its end */
};

/* A batch in memory. See live.c. */
struct live {
	struct idmap_node node;
	struct list all, dirty;
	struct dispatch *d;
	struct batch *batch;
	const struct dispatch_listener *listener;
	void *arg;
	enum live_phase phase;
	enum why end_early;              /* asked for before the store had answered */
	struct item *seen;               /* last settled item the listener was told of */
	uint64_t shards;                 /* bit i: shard i may hold attempts of it */
	int64_t ended_us;                /* when an end from outside was seen */
	struct blob *document;           /* dispatch_document()'s last, or NULL ... */
	int64_t document_until_us;       /* ... and how long it will do */
	uint32_t room;                   /* taken of jobs.residency; 0: none */
	uint16_t service;                /* whose room it is ... */
	uint8_t class;                   /* ... and of which of its classes */
	uint16_t tenant;                 /* by its number in the configuration; 0 if it is not there */
	bool counted;                    /* its items are in group->unfinished */
	bool awaited;                    /* its caller is in group->callers */
	struct list effort;              /* d->efforts, if it may be shed */
	struct effort_load *effort_of;   /* where it is counted then; or NULL */
	bool urgent;                     /* it came back past the others, to be ended */
	bool untold;                     /* updates are on their way that nobody hears of */
	union {
		struct store_accept accept;
		struct store_finish finish;
		struct store_park park;
	} ask;
};

/* live.c */
struct live *live_find(struct dispatch *d, struct batch_id id);
void live_dirty(struct live *lv);                /* ask for the pump */
struct live *live_adopt(struct dispatch *d, struct batch *take, uint16_t tenant);        /* one that was read back */
void live_let_go(struct live *lv);               /* if it is a job that need not be in memory */
void live_end(struct live *lv);                  /* every item is final */

/* cancel.c */
void live_cancel(struct live *lv, enum why why);
void live_on_cancel(struct op *op, enum why why);        /* of a batch */
bool live_goes_on(const struct live *lv, enum why why);  /* with the next process, after such an end? */
bool live_leaving(const struct live *lv);        /* does it, as its gate has been closed? */
/* The process goes down: nothing more of the job starts, and what a lane has not
 * started comes back. */
void live_hand_over(struct live *lv);
void live_shed(struct live *lv);                 /* nothing more of it starts, for others' sake */

/* batch.c: the pump of the batches, and the ends of waits. */
void batches_pump(struct dispatch *d);
void batches_wake(struct dispatch *d, int64_t now_us);
/* Another configuration: what waits for a lane that pauses may have one that does not. */
void batches_reload(struct dispatch *d);
void live_tell(struct live *lv);                 /* its listener, of the items up to told_last */

/* result.c */
void item_final(struct live *lv, struct item *it, enum code code, enum stop stop);
void batch_resume(struct live *lv);              /* the items that were read back */
