/*
 * One shard's dispatcher, which all its parts work on. What a part offers to the others is
 * in the header that is named like its file, where it is not said otherwise:
 *
 *   batches        live.c       accepted, begun, ended, let go of
 *   (live-i.h)     cancel.c     what ends them from outside
 *                  batch.c      their items: what starts next
 *                  result.c     what an attempt means, and what the store is told of it
 *                  jobs.c       jobs that are in the store alone, and how they come back
 *   attempts       attempt.c    kept to be used again
 *   lanes          lane.c       the attempts that were handed to a lane
 *   (lane-i.h)     and its parts, which lane-i.h names
 *   who comes in   admission.c  which batches may come into memory
 *                  refusal.c    what the others are told
 *                  throttle.c   what is refused before it is read
 *                  shed.c       best_effort items that make room for others
 *                  tenants.c    what all shards know of each tenant; quota.c what it may send
 *   shared rules   residency.c  how services share what there is of something: room, slots
 *                  pace.c       how fast the queue of a service is worked off
 *   besides        watch.c      who is told that a batch has changed
 *                  reload.c     the configurations that are in use here
 *                  trace.c      the spans of batches and attempts
 *                  show.c       what is shown of a batch from memory
 *                  metrics.c    the metrics of the whole service
 */
#pragma once

#include "base/heap.h"
#include "base/idmap.h"
#include "base/rand.h"
#include "channel/channel.h"
#include "dispatch/dispatch.h"
#include "dispatch/metrics.h"
#include "dispatch/refusal-i.h"
#include "dispatch/residency-i.h"
#include "dispatch/throttle-i.h"

struct dispatch {
	struct dispatch_env env;         /* config: held->config */
	struct held_config *held;        /* the current one */
	struct list old;                 /* struct held_config: those before */
	struct rng rng;
	struct op_tree ops;
	struct op root;
	struct loop_call pump;
	struct loop_timer *timer;
	int64_t wall_ahead_us;           /* trace.c: the wall's clock, before the loop's */
	/* live.c, batch.c */
	struct idmap live_by_id;
	struct list live;                /* every struct live, oldest first */
	struct list dirty;               /* those that ask for the pump */
	struct heap waits;               /* items between two attempts, or whose lane pauses */
	struct list spare;               /* attempts to be used again */
	unsigned n_spare;
	bool draining;
	void (*on_idle)(void *arg);
	void *on_idle_arg;
	struct jobs *jobs;
	/* who comes in */
	struct pace *paces;              /* pace.c: by service */
	struct want *wants;              /* admission.c: by service */
	struct refusal refusal;
	unsigned quota_wait_s;           /* tenants.c: of the last batch that its tenant may not send yet */
	struct throttle throttle;
	struct list efforts[PRIORITY_MAX + 1];           /* batches that may be shed, oldest first */
	struct loop_msg shed;
	atomic_bool shed_asked;          /* and not looked at yet */
	/* watch.c */
	struct idmap watches;
	struct list changed;             /* those to be told */
	unsigned answers;                /* of the store's, that are awaited for them */
	/* lane-i.h */
	struct idmap lanes, visits, turns, shares;
	struct list all_lanes, dirty_lanes, idle_lanes;
	struct heap lane_waits;          /* lanes that are to be looked at again */
	struct residency slots;          /* in flight, against the shard's own cap */
	struct list *starved;            /* lanes that wait for a slot, by service */
	size_t starved_turn;             /* the service whose turn it is */
	struct list ended;               /* attempts cancelled while queued */
	unsigned n_idle_lanes, n_starved, claims;
	struct channel_scratch scratch;
	struct buf key;                  /* a default dedupe key, while encoding */
};

/* Ask for the pump: once, later in this turn. */
static inline void dispatch_pump_soon(struct dispatch *d)
{
	loop_call_soon(d->env.loop, &d->pump);
}

/* Are there several services? Of one alone nobody wants what it would leave. */
static inline bool services_share(const struct dispatch *d)
{
	return config_only_service(d->env.config) < 0;
}

/* `ms` after a monotonic time; never more than INT64_MAX. */
int64_t dispatch_after(int64_t us, int64_t ms);
