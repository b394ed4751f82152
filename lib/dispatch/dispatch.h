/*
 * The dispatcher: live batches, the lanes that their attempts wait in, and the
 * cancels and deadlines that end them.
 *
 * Owner: one struct dispatch per shard, on the shard's loop and in its thread.
 * Shards speak to each other by messages alone. A batch belongs to the shard
 * that accepted it; a lane, which is everything about one (service, origin) or
 * its part of that, to the shard that its name hashes to.
 *
 * What can fail: submitting, when the process is full or going down. Nothing
 * after it: whatever happens to an item is its result.
 */
#pragma once

#include "base/idmap.h"
#include "config/config.h"
#include "core/batch.h"
#include "dispatch/tenants.h"
#include "loop/loop.h"
#include "obs/metrics.h"
#include "obs/span.h"
#include "store/store.h"
#include "xfer/xfer.h"

struct dispatch;

/* What is counted of one service: of batches whose callers wait. */
struct service_load {
	atomic_uint items;               /* not final ... */
	atomic_uint in_flight;           /* ... and those of them that are in flight */
	atomic_uint settled;             /* that have come to an end; wraps */
	atomic_uint emptied;             /* how often none was left; wraps */
	atomic_uint batches;             /* not done; of those whose first item is its own ... */
	atomic_size_t bytes;             /* ... and what is held for them */
};

/* What is counted of batches that may be shed: of those whose items may make room for others. */
struct effort_load {
	atomic_uint items;               /* not final ... */
	atomic_uint callers;             /* ... who waits for them ... */
	atomic_size_t bytes;             /* ... and what is held for them */
};

/* What any thread may see of a service's lanes; board.c says who writes what. */
struct lane_board {
	_Atomic int64_t paused_until_us; /* the latest of all lanes */
	_Atomic int64_t rate_due_ns[LANES_MAX];
	/* If its origin has several lanes, by their numbers. */
	_Atomic int64_t refuses_until_us[LANES_MAX];     /* the breaker; INT64_MAX: until its probe is back */
	atomic_uint load[LANES_MAX];     /* attempts that each has been given, and has not given back */
	atomic_uint turn;
};

/* What all shards share. Written before the shards run; then only the counters. */
struct dispatch_group {
	struct dispatch *members[SHARDS_MAX];
	unsigned n;
	uint64_t hash_seed;
	atomic_uint unfinished;          /* items accepted and not final, but for jobs' */
	struct effort_load sheddable[PRIORITY_MAX + 1];  /* of best_effort batches, by priority ... */
	struct effort_load shedding;     /* ... and of those that are being shed */
	atomic_uint callers;             /* who wait for batches that are not done */
	struct service_load *loads;      /* by service; the last for ITEM_NO_SERVICE */
	struct lane_board *boards;       /* by service */
	unsigned service_slots;          /* how many services they are, at most */
	atomic_size_t held_bytes;        /* of batches in memory: bodies and items */
	int64_t started_unix_ms;         /* the process */
	struct dispatch_tenants tenants;
	int64_t recovery_ms;             /* how long the start took to find what was unfinished */
};

/* Zeroed before. `c`: says how many services there may ever be. Free it after its
 * dispatchers and the store, in which batches may be left. */
void dispatch_group_init(struct dispatch_group *g, const struct config *c);
void dispatch_group_free(struct dispatch_group *g);

struct dispatch_env {
	struct loop *loop;
	struct xfer *xfer;
	struct store *store;
	struct config *config;           /* a reference of its own is taken */
	struct dispatch_group *group;
	struct meter meter;
	struct spans *spans;             /* NULL: no traces are recorded */
	unsigned shard;                  /* its place in group->members */
	uint64_t seed;                   /* of jitter and ids; 0: from the system */
};

struct dispatch *dispatch_new(const struct dispatch_env *env) MUST_CHECK;
void dispatch_free(struct dispatch *d);          /* no batch and no attempt may be live */

/* Another configuration from here on, laid over the one before by config_overlay().
 * Takes the reference. New limits hold for whatever starts now; attempts in flight
 * end under the one that they were started under, which is let go of after the last
 * of them. All shards must have it before any of them is given an item for one of
 * its new services. */
void dispatch_reload(struct dispatch *d, struct config *take);

/* Who wants to know about a batch. Called from the loop, never inside
 * dispatch_submit() or dispatch_cancel(). */
struct dispatch_listener {
	/* A durable batch only: what the store said to it. With anything but STORE_OK
	 * the batch is gone, and no other call follows. */
	void (*on_accepted)(void *arg, struct batch *b, const struct store_accept *said);
	/* Items have settled since the last call, and of a durable batch are committed:
	 * from batch.settled_first to told_last. May be NULL. */
	void (*on_settled)(void *arg, struct batch *b);
	/* The batch is done; exactly once. `document` is its JSON with results,
	 * borrowed; NULL if there was no memory for it. Or, at a shutdown, it is a job
	 * that goes on with the next process: then its state is not BATCH_DONE. */
	void (*on_done)(void *arg, struct batch *b, struct blob *document);
};

/* Accept a batch: gives it its id, its times and its place. Takes the caller's
 * reference on success. -EBUSY: there is no room for it, see dispatch_last_refusal();
 * -EDQUOT: its tenant sends too fast, or has too many unfinished items, see
 * dispatch_quota_wait_s(); -ESHUTDOWN: draining. What the store then refuses, as it
 * does where the key is known, costs its tenant nothing either. Of a
 * best_effort batch the items for which there is no room are shed instead, and of
 * one that is here already, too. A durable batch goes to the store first, and
 * nothing of it starts before the store's answer; on_done follows the commit of
 * its end. An asynchronous one may leave memory at any time, and come back. */
int dispatch_submit(struct dispatch *d, struct batch *take, const struct dispatch_listener *l, void *arg);

/* Of the last -EDQUOT: in how many seconds the batch may be sent again; 0: nobody knows
 * when items will have ended. */
unsigned dispatch_quota_wait_s(const struct dispatch *d);

/* How many of its items there may be at once where nothing else is: if that is less than
 * its unfinished ones, dispatch_submit() would refuse it for ever. In the shard's thread. */
uint64_t dispatch_most(struct dispatch *d, const struct batch *b, unsigned tenant);

/* Does it take more than limits.queued_bytes by itself? That is refused for ever, too. */
bool dispatch_too_large(const struct dispatch *d, const struct batch *b);

/* Why there was no room, and how long it is expected to take until there is, from the
 * pace of the last seconds: of the last -EBUSY, or of dispatch_refuses_unread(). */
struct dispatch_refusal {
	const char *detail;              /* static text for people */
	unsigned retry_after_s;          /* 1 to 60 */
};
struct dispatch_refusal dispatch_last_refusal(const struct dispatch *d);

/* The same for another bound, of which there is `excess` too much: 1 to 60 s, at random a
 * little more than it takes. per_second 0: nobody knows. In the shard's thread. */
unsigned dispatch_retry_after(struct dispatch *d, double excess, double per_second);

/* Before the body of a batch is read: is there room for none, or for none of its tenant (by
 * its number in the configuration), or no time to read what would probably be refused?
 * `job`: its items are not counted in memory. */
bool dispatch_refuses_unread(struct dispatch *d, unsigned tenant, size_t body_bytes, bool job);

/* Nobody listens any more: no further call of its listener. */
void dispatch_detach(struct dispatch *d, struct batch_id id);

/* End a live batch from outside. A stale id finds nothing. From here on no
 * attempt of it starts, in any shard; on_done follows when all are back. */
void dispatch_cancel(struct dispatch *d, struct batch_id id, enum why why);

/* The same for a tenant's job that may not be in memory: it is fetched to be ended.
 * False: it is not unfinished here, or is another tenant's, or it is in the store
 * and this shard goes down. */
bool dispatch_cancel_job(struct dispatch *d, struct batch_id id, struct slice tenant);

/* A batch that was unfinished when the process before ended: an asynchronous one
 * goes on when its time comes, a synchronous one ends as `interrupted`. Before
 * the loop runs. */
void dispatch_recover(struct dispatch *d, const struct store_unfinished *u);

/* Who wants to know that a batch has changed: embed it. on_change runs on the
 * loop of the batch's shard, after the change is committed, never inside
 * dispatch_watch(); after `done` there is no other call. A watch of an id that is
 * not unfinished here is told nothing: look into the store after watching. */
struct dispatch_watch {
	struct idmap_node node;          /* private, as are the next two */
	struct list changed;
	bool done;
	void (*on_change)(struct dispatch_watch *w, bool done);
};
void dispatch_watch(struct dispatch *d, struct dispatch_watch *w, struct batch_id id);
void dispatch_unwatch(struct dispatch *d, struct dispatch_watch *w);     /* also after `done` */

/* End everything, for good: after dispatch_drain() only. */
void dispatch_cancel_all(struct dispatch *d, enum why why);

/* The document of a batch that dispatch_shows(), as it stands, with a reference;
 * NULL: it does not, or there is no memory. Making it takes time that the loop has
 * not, so who asks again soon gets the same: at most a tenth of the time goes into
 * a batch's documents. */
struct blob *dispatch_document(struct dispatch *d, struct batch_id id);

/* Call `show`, at once, with a live batch of the tenant that the store has not got
 * (it is not durable). False: there is no such batch, or the store has it. */
bool dispatch_show(struct dispatch *d, struct batch_id id, struct slice tenant,
		   void (*show)(void *arg, const struct batch *b), void *arg);

/* Is the tenant's batch shown from memory: does it live here, and is not durable?
 * *ret_outcome: NULL until it is done. */
bool dispatch_shows(struct dispatch *d, struct batch_id id, struct slice tenant, const char **ret_outcome);

/* Accept nothing more; call on_idle once, when this shard's last batch is done.
 * Jobs start nothing more, and leave memory when what is in flight has come back:
 * the next process goes on with them. */
void dispatch_drain(struct dispatch *d, void (*on_idle)(void *arg), void *arg);
bool dispatch_draining(const struct dispatch *d);

/* What a service's lanes in all shards say of themselves, a moment ago. Of several
 * origins, the one that is the furthest behind. */
struct dispatch_service {
	uint32_t rate_left;              /* attempts that its rate would let start now */
	int64_t paused_until_us;         /* in the past: none is */
};
struct dispatch_service dispatch_service(const struct dispatch *d, uint16_t service);

/* For leak checks: all zero when nothing is going on, but for the backlog. */
struct dispatch_usage {
	unsigned batches, lanes, turns, ops, waits, claims, loads, watches;
	unsigned backlog;                /* jobs that are not in memory: no leak */
};
struct dispatch_usage dispatch_usage(const struct dispatch *d);
