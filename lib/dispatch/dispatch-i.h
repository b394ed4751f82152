/*
 * What the parts of the dispatcher share.
 *
 *   live.c       batches in memory: accepted, begun, ended, let go of
 *   cancel.c     what ends them from outside
 *   attempt.c    their attempts, kept to be used again
 *   admission.c  which batches may come into memory
 *   refusal.c    what the others are told
 *   pace.c       how fast the queue of a service is worked off
 *   throttle.c   what is refused before it is read
 *   shed.c       best_effort items that make room for others
 *   batch.c      their items: what starts next
 *   result.c     what an outcome means, and what the store is told of it
 *   lane.c       the attempts that were handed to a lane; its parts are in lane-i.h
 *   spread.c     the lanes of an origin that has several
 *   jobs.c       jobs that are in the store alone, and how they come back
 *   residency.c  how services share what there is of something: room, slots
 *   watch.c      who is told that a batch has changed
 *   reload.c     the configurations that are in use here
 *   trace.c      the spans of batches and attempts
 *   show.c       what is shown of a batch from memory
 *   tenants.c    what all shards know of each tenant; quota.c what it may send
 */
#pragma once

#include "base/idmap.h"
#include "channel/channel.h"
#include "dispatch/dispatch.h"
#include "dispatch/metrics.h"

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
	ATTEMPT_TRIED,                   /* all that follows; why, if it was cut short */
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

/* A configuration in use: the current one, or one that attempts in flight were
 * started under. */
struct held_config {
	struct list node;                /* dispatch.old, or none */
	struct config *config;           /* a reference */
	unsigned attempts;
};

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

/*
 * Something there is a limit of, shared between services: room in memory for
 * jobs, by bytes, and slots in flight, one by one. By dynamic thresholds
 * (A. K. Choudhury, E. L. Hahne, "Dynamic queue length thresholds for
 * shared-memory packet switches", IEEE/ACM Transactions on Networking, 1998):
 * a service may take more while what it holds is less than what is free, so
 * whoever never gives any back leaves the others a fair part. Pure.
 */
struct residency {
	size_t used;
	size_t *held;                    /* by service; the last for ITEM_NO_SERVICE */
	size_t n_services;
};

void residency_init(struct residency *r, size_t n_services);
void residency_free(struct residency *r);
/* Whoever takes only when it may never makes `used` more than the limit and one. */
bool residency_may_take(const struct residency *r, size_t limit, uint16_t service);
/* The same for one of several parts of a service, which holds so much. */
bool residency_part_may_take(const struct residency *r, size_t limit, size_t held);
void residency_take(struct residency *r, uint16_t service, uint32_t bytes);
void residency_give(struct residency *r, uint16_t service, uint32_t bytes);

/* The same rule for what the group counts, between services and between tenants: how much
 * too much one of `several` would hold with `more`, as if it took them one by one; 0: it may
 * have them. More than a quarter of what is left counts as that quarter: or a batch that
 * fits an idle process would wait until nothing is held by its service or tenant. Pure. */
static inline uint64_t over_its_part(bool several, uint64_t held, uint64_t more, uint64_t left)
{
	uint64_t last = held + MIN(2 * (more - MIN(more, 1u)), left / 2);

	return held > 0 && last >= left && several ? last + 1 - left : 0;
}

/* What is seen of a service's queue at one time. */
struct queue_sight {
	uint32_t settled;                /* items that have come to an end so far; wraps */
	uint32_t emptied;                /* how often there was none left; wraps */
	uint32_t waiting;                /* items that are not in flight */
};

/* How fast it is worked off. A pace is what the service can do only while many wait
 * all the time; and once nothing is left, what it was says nothing of what it will be. */
struct pace {
	int64_t since_us;
	struct queue_sight then;         /* at that time */
	double per_second;               /* 0: not known */
	bool of_many;                    /* many waited while it was measured last */
};

/* pace.c. A queue that is shorter is never too long. */
enum { BEHIND_MIN = 1000 };
void paces_init(struct dispatch *d);
void paces_free(struct dispatch *d);
void pace_look(struct pace *p, int64_t now_us, const struct queue_sight *now);
void pace_note(struct dispatch *d, uint16_t service);     /* look at it, if it is time */
double pace_of_all(const struct dispatch *d);    /* of all services, a second */
struct service_load *load_of_service(const struct dispatch_group *g, uint16_t service);
uint32_t service_waiting(const struct dispatch *d, uint16_t service);    /* counted items that are not in flight */
void service_started(struct dispatch *d, const struct attempt *a);       /* it goes out */
void service_ended(struct dispatch *d, const struct attempt *a);         /* it is back */

/* How many items of a service a batch wants that asks for room. See admission.c. */
struct want {
	uint32_t n, next;                /* the next service that it is for */
};

/* What a batch may be refused by. */
enum bound {
	BOUND_ITEMS, BOUND_BYTES, BOUND_CALLERS,
	BOUND_SERVICE, BOUND_PACE,
	BOUND_TENANT_ITEMS, BOUND_TENANT_BYTES, BOUND_TENANT_CALLERS,    /* the part of one of several */
};

struct refusal {
	struct dispatch_refusal said;
	enum bound bound;                /* by this ... */
	uint16_t of;                     /* ... of this service or tenant ... */
	uint64_t level;                  /* ... of which there was about so much */
};

/* refusal.c: there is `excess` too much of what is bounded; `of` a service or a tenant,
 * where the bound is one's. */
void refuse_batch(struct dispatch *d, enum bound bound, unsigned of, double excess);
bool refusal_stands(const struct dispatch *d, unsigned tenant);  /* would the last one be the same now, for a batch of it? */
void refusal_found_room(struct dispatch *d, const struct batch *b);      /* although it stands */

/* How much of what is asked is admitted, and whether the loop is late. See throttle.c. */
struct throttle {
	double asked, admitted;          /* of about the last second ... */
	double passed;                   /* ... and how many there seemed to be room for */
	int64_t since_us;                /* when these were last made less */
	struct loop_timer *probe;
	int64_t due_us;                  /* when it should ring; 0: it is not set */
	int64_t late_until_us;           /* it was late, and counts as late until then */
};

/* Pure: count a batch; the timer rings; how many of one are to be refused unread, of those
 * that there seems to be no room for, and where there are several services. */
void throttle_count(struct throttle *t, int64_t now_us, bool admitted);
void throttle_ring(struct throttle *t, int64_t now_us);
double throttle_refuses(const struct throttle *t, int64_t now_us, bool several);

/* Jobs of one service that are due, and in the store alone; see jobs.c. Tenants, and the
 * origins of a service that has several, are hashed into classes, each of which holds less
 * than a part of the room that is left, so that one that hangs leaves most of it to the
 * others. */
enum { JOB_CLASSES = 16, JOB_CLASS_NONE = 0 };

struct shelf {
	struct list due[JOB_CLASSES];    /* oldest first */
	size_t held[JOB_CLASSES];        /* room */
	unsigned n_due, turn;            /* the class whose turn it is */
};

struct jobs {
	struct idmap by_id;
	struct heap asleep;              /* by due time */
	struct heap deadlines;           /* of those that wait and are not urgent */
	struct shelf **shelves;          /* by service, NULL until it has a job; the last for ITEM_NO_SERVICE */
	struct list urgent;              /* to be ended, or over: past the others, and room */
	struct residency residency;
	size_t turn;                     /* the service whose turn it is */
	unsigned n_due, loads, n_urgent; /* n_urgent: fetched, and not gone yet */
	int64_t retry_us;                /* the store failed: nothing is fetched before ... */
	int64_t backoff_us;              /* ... and how long that was */
};

struct dispatch {
	struct dispatch_env env;         /* config: held->config */
	struct held_config *held;        /* the current one */
	struct list old;                 /* struct held_config: those before */
	struct rng rng;
	struct op_tree ops;
	struct op root;
	struct loop_call pump;
	struct loop_timer *timer;
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
	struct jobs jobs;
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
	int64_t wall_ahead_us;           /* trace.c: the wall's clock, before the loop's */
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

static inline uint64_t origin_hash(const struct dispatch_group *g, uint16_t service, struct slice origin)
{
	return slice_hash(origin, g->hash_seed + service);
}

/* `ms` after a monotonic time; never more than INT64_MAX. */
int64_t dispatch_after(int64_t us, int64_t ms);

/* live.c */
struct live *live_find(struct dispatch *d, struct batch_id id);
void live_dirty(struct live *lv);
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

/* tenants.c: take a new batch of what its tenant may send, and have unfinished. False: it
 * would be too much, see d->quota_wait_s, and nothing was taken. */
bool tenant_take(struct dispatch *d, unsigned tenant, const struct batch *b) MUST_CHECK;
void tenant_give_back(struct dispatch *d, unsigned tenant, const struct batch *b);        /* it was refused */
void tenant_queue_known(struct dispatch *d, unsigned tenant, uint32_t n);         /* whatever its limit */
void tenant_unqueue(struct dispatch *d, unsigned tenant, uint32_t n);
void tenant_accepted(struct live *lv);

/* quota.c: take a batch of n items at `now_us`. 0: it was taken; or in how many
 * microseconds it may be, and nothing was. */
int64_t quota_take(struct dispatch_tenant *t, const struct tenant *may, uint32_t n, int64_t now_us);
void quota_give_back(struct dispatch_tenant *t, const struct tenant *may, uint32_t n);    /* it was refused */

/* admission.c: room for the tenant's batch. False: it is refused, see d->refusal,
 * and nothing is counted; else of best_effort the items without room are final. */
bool admission_take(struct dispatch *d, struct batch *b, unsigned tenant, bool counted);
bool admission_counts(const struct batch *b);    /* its caller waits: its items count for the bounds in memory */
void admission_give_item(struct live *lv, const struct item *it);        /* it is final */
void admission_give_rest(struct live *lv);       /* what is not final is no longer this dispatcher's */
void admission_give_caller(struct live *lv);     /* it is done, or leaves memory: once counts */
void admission_init(struct dispatch *d);
void admission_free(struct dispatch *d);

/* Is there room for no batch of the tenant that is not read yet? */
bool admission_is_full(struct dispatch *d, unsigned tenant, size_t body_bytes, bool job);

/* throttle.c */
void throttle_init(struct dispatch *d);
void throttle_free(struct dispatch *d);
void throttle_note(struct dispatch *d, bool admitted);   /* of a batch whose caller waits */

/* How much of `limit` a batch may fill. Pure. */
uint64_t admission_share(uint64_t limit, unsigned priority, bool best_effort);

/* shed.c */
void shed_init(struct dispatch *d);
void shed_if_full(struct dispatch *d);           /* ask all shards, if there is too much */
void shed_count(struct live *lv);                /* it has begun: it may be shed if it is best_effort */
void shed_item_final(struct live *lv);           /* one of its items */
void shed_forget(struct live *lv);               /* it is done, or leaves */
uint32_t best_effort_items(const struct dispatch_group *g);      /* not final */

/* batch.c: its listener is told of the items up to told_last. */
void live_tell(struct live *lv);

/* batch.c: the pump of the batches, and the ends of waits. */
void batches_pump(struct dispatch *d);
void batches_wake(struct dispatch *d, int64_t now_us);
/* Another configuration: what waits for a lane that pauses may have one that does not. */
void batches_reload(struct dispatch *d);

/* result.c: what an attempt means for its item, and the end of an item. */
void batch_on_result(struct loop_msg *msg);
void batch_resume(struct live *lv);              /* the items that were read back */
void item_final(struct live *lv, struct item *it, enum code code, enum stop stop);

/* attempt.c */
struct attempt *attempt_get(struct dispatch *d);         /* zeroed, but for its buffers' memory */
void attempt_put(struct dispatch *d, struct attempt *a);
void attempts_free(struct dispatch *d);

/* trace.c: the trace's id in hexadecimal digits, which `ret` has room for. */
void trace_format(const struct trace *t, char *ret);

/* Spans, if traces are recorded and this one is. */
void trace_accepted(struct dispatch *d, const struct batch *b);
void trace_done(struct dispatch *d, const struct batch *b);
void trace_attempt(struct dispatch *d, const struct attempt *a);         /* which its item counts already */

/* jobs.c */
void jobs_init(struct dispatch *d);
void jobs_free(struct dispatch *d);
bool jobs_have_room(struct live *lv);            /* and sets whose room it is */
void jobs_take(struct live *lv, size_t bytes);
void jobs_give(struct live *lv);
void jobs_add(struct live *lv, int64_t due_us);  /* it leaves memory */
bool jobs_cancel(struct dispatch *d, struct batch_id id, struct slice tenant);
void jobs_wake(struct dispatch *d, int64_t now_us);
void jobs_pump(struct dispatch *d);
int64_t jobs_next(const struct dispatch *d);

/* watch.c */
bool watches_any(const struct dispatch *d, struct batch_id id);
void watches_changed(struct dispatch *d, struct batch_id id, bool done);
void watches_pump(struct dispatch *d);

/* lane.c */
void lanes_init(struct dispatch *d);
void lanes_free(struct dispatch *d);
void lanes_pump(struct dispatch *d);
void lanes_wake(struct dispatch *d, int64_t now_us);
void lane_on_submit(struct loop_msg *msg);
void lane_on_cancel(struct dispatch *d, struct batch_id batch, enum why why);
void lanes_reload(struct dispatch *d, const struct config *was);         /* env.config is another one now */

/* spread.c: which of its origin's lanes takes the attempt; and it is back. On its batch's shard. */
void spread_out(struct dispatch *d, struct attempt *a);
void spread_back(struct attempt *a);

/* reload.c: an attempt is in flight, and is no longer. */
void held_start(struct dispatch *d, struct attempt *a);
void held_done(struct dispatch *d, struct attempt *a);
const struct service *held_service(const struct attempt *a);
void held_init(struct dispatch *d);
void held_free(struct dispatch *d);
