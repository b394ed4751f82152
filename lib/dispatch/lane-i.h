/*
 * What the parts of a lane share, and what they offer to the rest of the dispatcher.
 *
 *   lane.c         the lanes: attempts come, wait, are refused or cancelled, go back
 *   turns.c        whose turn it is among those that wait
 *   spread.c       the lanes of an origin that has several
 *   board.c        what lanes show to other threads
 *   lane_policy.c  what may start now: pause, rate, breaker, retry budget, slots
 *   claims.c       what is claimed ahead
 *   flight.c       one attempt in flight
 */
#pragma once

#include "core/breaker.h"
#include "core/budget.h"
#include "core/rate.h"
#include "dispatch/dispatch-i.h"
#include "dispatch/turns-i.h"

/* What tells lanes apart. */
struct lane_name {
	uint16_t service;                /* index into the configuration */
	uint8_t number;                  /* which of its origin's */
	uint64_t hash;                   /* of service and origin */
	struct slice origin;
};

struct lane {
	struct idmap_node node;          /* key: service and number, hash of the origin */
	struct list all;                 /* d->all_lanes */
	struct list dirty;               /* dirty_lanes, or its service's starved ones */
	struct list idle;                /* d->idle_lanes, while nothing of it waits or is in flight */
	struct heap_node wake;           /* d->lane_waits */
	struct slice origin;             /* owned */
	uint16_t service;                /* index; what is configured is looked up where it is needed */
	uint8_t number;                  /* which of its origin's: it has that part of what there is per origin */
	bool starved, paused;
	bool stale;                      /* its service goes elsewhere now, or was removed */
	enum lane_wait waits_for;
	struct turns ready, unclaimed;
	unsigned in_flight, claims;
	unsigned claimed_repeats;        /* of `claims` */
	int64_t again_us;                /* while it is pumped: when it is to be looked at again */
	int64_t paused_until_us;
	struct rate rate;
	struct breaker breaker;
	struct budget budget;
};

static inline const struct service *lane_service(const struct dispatch *d, const struct lane *lane)
{
	return &d->env.config->services[lane->service];
}

/* lane.c: for the dispatcher */
void lanes_init(struct dispatch *d);
void lanes_free(struct dispatch *d);
void lanes_pump(struct dispatch *d);
void lanes_wake(struct dispatch *d, int64_t now_us);
void lane_on_cancel(struct dispatch *d, struct batch_id batch, enum why why);
void lanes_reload(struct dispatch *d, const struct config *was);         /* env.config is another one now */

/* lane.c: for its parts */
struct lane *lane_find(struct dispatch *d, const struct lane_name *name);        /* of this shard; made if there is none */
void lane_dirty(struct dispatch *d, struct lane *lane);
void lane_unqueue(struct dispatch *d, struct attempt *a);        /* a claim that it held is used up */
void lane_give_back(struct dispatch *d, struct attempt *a);
/* Is there something that ends the attempt, which waits? Then it is out of the queue. */
bool lane_ends(struct dispatch *d, struct attempt *a, int64_t now_us);

/* lane_policy.c: everything about time is pure arithmetic on the lane's state. */
bool lane_refuses(const struct dispatch *d, const struct lane *lane, int64_t now_us);
bool lane_pauses(const struct lane *lane, int64_t now_us);      /* for more than a moment */
void lane_move_breaker(struct dispatch *d, struct lane *lane, int64_t now_us);
struct outcome lane_refusal(const struct dispatch *d, const struct lane *lane, int64_t now_us);
/* The next attempt that may start now; NULL: none, and the lane knows when to look again. */
struct attempt *lane_next(struct dispatch *d, struct lane *lane, int64_t now_us);
unsigned lane_claims(struct dispatch *d, struct lane *lane, int64_t now_us);     /* how many may be held now */
enum turn_kind lane_claim_kind(struct dispatch *d, struct lane *lane, int64_t now_us);
bool lane_lacks_budget(struct dispatch *d, struct lane *lane, int64_t now_us);
void lane_started(struct dispatch *d, struct lane *lane, struct attempt *a);
void lane_change_rate(struct dispatch *d, struct lane *lane, const struct service *was, int64_t now_us);
void lane_ended(struct dispatch *d, struct lane *lane, struct attempt *a);       /* it has its outcome */
void lane_pause(struct dispatch *d, struct lane *lane, int64_t until_us);
void lane_unpause(struct dispatch *d, struct lane *lane, int64_t now_us);        /* if it is over */
bool lane_is_new(struct dispatch *d, struct lane *lane, int64_t now_us);         /* nothing to be remembered */
void lane_forget(struct dispatch *d, struct lane *lane);         /* it goes: out of the gauges */
void slots_wake(struct dispatch *d);             /* a slot in flight may be free: for a lane that waits for one */

/* spread.c, where an origin has several. */
void spread_pause(struct dispatch *d, const struct lane *lane);  /* the others pause as long as it does */

/* board.c: to GET /v1/services, and to those who choose between an origin's lanes. */
void lane_show_rate(const struct dispatch *d, const struct lane *lane);
void lane_show_breaker(const struct dispatch *d, const struct lane *lane);
void lane_show_pause(const struct dispatch *d, const struct lane *lane);
/* This shard's, before its lanes show them again: they may owe less by other limits. */
void boards_wipe_rates(const struct dispatch *d, const struct config *was);

/* claims.c */
void claim_ahead(struct dispatch *d, struct lane *lane, int64_t until_us);

/* flight.c */
void flight_start(struct dispatch *d, struct lane *lane, struct attempt *a, int64_t now_us);
