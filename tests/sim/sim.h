/*
 * The simulator's own memory of one seed: what was planned, what the downstream
 * saw (the ledger), and what the dispatcher said about it. The checks compare
 * these; none of them asks the code under test what would have been right.
 */
#pragma once

#include "dispatch/dispatch.h"
#include "fake.h"
#include "fake_store.h"

/* What is proved. The name is what a failure prints and a planted defect must hit. */
#define RULE_TABLE(X)                                                                  \
	X(RESULTS, "one result per item, in order")                                        \
	X(COUNTS, "counts and outcome are arithmetic on the results")                      \
	X(OK, "ok, delivered and error agree")                                             \
	X(VERDICT, "code and delivered follow from the evidence of all attempts")          \
	X(STICKY, "a final result and a delivered maximum never change back")              \
	X(DUPLICATE, "duplicate_risk is told exactly")                                     \
	X(ATTEMPTS, "attempts reported are the requests started")                          \
	X(SEEN, "requests seen downstream are at most the attempts reported")              \
	X(ALL_OR_NOTHING, "all_or_nothing: nothing starts after the first final failure")  \
	X(SEQUENTIAL, "sequential: one after the other, in order")                         \
	X(AT_MOST_ONCE, "at_most_once: nothing follows what may have been delivered")      \
	X(NO_START_AFTER_END, "no attempt starts after its batch was ended")               \
	X(NO_START_LATE, "no attempt starts after its ttl or its batch's deadline")        \
	X(OUTLIVES, "no attempt outlives its deadline")                                    \
	X(CONCURRENCY, "a batch's concurrency is a bound")                                 \
	X(IN_FLIGHT, "max_in_flight is a bound per origin, in_flight per shard")           \
	X(MAX_ATTEMPTS, "max_attempts is a bound, and nothing follows a final answer")     \
	X(RETRY_WAIT, "a retry waits within its jitter and not less than Retry-After")     \
	X(ABORT_AT_ONCE, "an end from outside ends waits and attempts at once")            \
	X(REQUEST, "the request is the item's: address, id, payload byte for byte")        \
	X(STOP, "stop says why there was no further attempt")                              \
	X(STOP_REASON, "stop_reason says why the batch ended")                             \
	X(DOCUMENT, "the document says what the batch is")                                 \
	X(SHED, "best_effort makes room before others are refused, and nobody else does")  \
	X(LISTENER, "the listener is called from the loop, on_done once")                  \
	X(ADMISSION, "a refusal has its reason and leaves nothing behind")                 \
	X(RATE, "an origin's starts are at most burst + rate * time, over any window")     \
	X(PAUSE, "nothing starts in a lane before its downstream's Retry-After is over")   \
	X(HELD, "what waits for a lane that pauses holds up no other items of its batch")  \
	X(BREAKER, "an open breaker lets nothing through, a half-open one a single probe") \
	X(REFUSED, "a try is refused by an open breaker alone, and is no attempt")         \
	X(BUDGET, "an origin's repeats are within its retry budget")                       \
	X(SLOTS, "a service takes a shard's slot while it holds fewer than are free")      \
	X(FAIR, "tenants and batches get starts in proportion to their weights")           \
	X(IDLE, "no capacity stands idle while work waits")                                \
	X(LIVENESS, "every batch finishes")                                                \
	X(LEAK, "timers, listeners and operations are all given back")                     \
	X(ACK, "nothing is acknowledged, and no end is told, before it is kept")           \
	X(CLAIM, "no attempt starts before its batch and its claim are kept")              \
	X(UPDATE, "each step that goes to the store is what happened, in order")           \
	X(FROZEN, "what the store reads does not change under it")                         \
	X(KEPT, "what was acknowledged survives, whole, and final results as they were")   \
	X(LETTER, "a letter is kept until its item was delivered, and no longer")          \
	X(PARK, "a job leaves memory with nothing under way, and knows when to come back") \
	X(WATCH, "who watches is told of the end, and of nothing after it")                \
	X(RESIDENT, "the bytes of jobs in memory are bounded")                             \
	X(SHUTDOWN, "no job is settled by a shutdown")                                     \
	X(REQUIRE, "no invariant of the code under test is broken")

#define X(upper, text) RULE_##upper,
enum rule { RULE_TABLE(X) RULE_MAX };
#undef X

const char *rule_str(enum rule r);

/* Report, with the seed and the end of the trace, and end the process. */
NORETURN void sim_fail(enum rule rule, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define CHECK(rule, cond, ...) ((cond) ? (void)0 : sim_fail(RULE_##rule, __VA_ARGS__))

/* The trace: static text and three numbers, kept in a ring, hashed as a whole. */
void trace_start(void);
void trace(const char *what, int64_t a, int64_t b, int64_t c);

enum { MAX_SHARDS = 4, MAX_BATCHES = 24, MAX_SERVICES = 4, MAX_TENANTS = 3, MAX_ACCOUNTS = 32, MAX_RELOADS = 2, NEVER = -1 };

/* What a breaker hears of an attempt. */
enum said {
	SAID_NOTHING,                    /* it is not over */
	SAID_SUCCESS, SAID_FAILURE, SAID_NEITHER,
	SAID_UNCLEAR,                    /* two ends came at once, and they say different things */
};

/* One attempt, as the wire saw it. Times are NEVER until they happen. */
struct request {
	unsigned batch, item, n, shard;
	int next;                        /* of the same item; -1: the last */
	int64_t start_us, wrote_us, cancel_us, done_us;
	int64_t deadline_us;             /* when its own timeout is due */
	unsigned seen;                   /* times the downstream got it whole */
	bool recorded;                   /* a transfer was really started */
	bool from_outside;               /* its cancel may have come from outside, in a process before */
	bool interrupted;                /* its process died before what became of it was kept */
	int account;                     /* its origin's; -1: it never came to a lane */
	int lane;                        /* its lane's, which is the same one where there is no other lane */
	unsigned life, period;           /* the process it started in; and its breaker's period */
	enum said said;
	struct answer answer;            /* body: a static text */
};

/* The account of an origin, or of one of its several lanes, since this process began. See
 * account.c. */
enum account_state { ACCOUNT_CLOSED, ACCOUNT_OPEN, ACCOUNT_PROBING, ACCOUNT_HALF_OPEN };

struct account {
	int service;
	struct slice origin;
	int shard;                       /* the lane's; NEVER: of the whole origin */
	double level, all;               /* of the bucket, as it was at level_us; and with what no smaller one had place for */
	int64_t level_us;
	int64_t paused_us;               /* until then */
	int64_t told_us, heard_us;       /* all lanes have heard of a pause until told_us, and from heard_us on of paused_us */
	enum account_state state;        /* HALF_OPEN: its probe came back and said nothing */
	bool unsure;                     /* of its breaker nothing is known any more */
	unsigned period;                 /* counts openings and closings */
	int64_t until_us;                /* OPEN: until then */
	int64_t refused_us;              /* the last time at which it refused, once it no longer does */
};

/* An item, as a step of it was written. */
struct step {
	uint8_t state, attempts, refused, delivered, code, stop, status;
	bool duplicate_risk;
	int64_t due_unix_ms;
};

struct sim_item {
	char id[48], to[96], key[64];    /* key "": the default one */
	char payload[600];
	int service;
	int64_t ttl_ms;                  /* HEAP_NONE: none */
	bool invalid;                    /* under best_effort */
	bool own_service, own_payload;   /* written in the item, not in the batch */
	/* What happened. */
	int first, last;                 /* requests in the ledger; -1: none */
	unsigned starts, running;
	uint8_t state;                   /* as seen after the last step ... */
	uint8_t delivered, attempts, refused;
	uint8_t code, stop, status;      /* ... and once final */
	int64_t final_us, since_us;      /* ... and in this state since */
	int64_t tried_us;                /* when its last try was over, as far as is known */
	bool refused_last;               /* that try was refused */
	bool lacked_budget;              /* so it may have been when it ended, by the limits of then */
	bool shed;                       /* there was no room for it when its batch came */
	bool duplicate_risk;
	/* Durable: what was asked of the store, and what it kept. */
	bool claimed, claim_unstarted;   /* asked for, and no update since; and no start */
	bool claim_kept, claim_used;     /* kept; and an attempt started on it */
	unsigned claim_life;             /* the process that asked for it */
	int64_t due_unix_ms;             /* the end of its wait as last told */
	struct step kept;
	int64_t kept_final_us;
};

/* What became of a durable batch's acceptance. */
enum fate { FATE_NONE, FATE_ASKED, FATE_KEPT, FATE_ABSENT };

/* A client that waits for news of a batch. */
struct watcher {
	struct dispatch_watch watch;
	struct sim_batch *of;
	unsigned shard;
	int64_t since_us;
	int64_t told_us;                 /* when it was last told of anything */
	bool on, told;                   /* told: done */
};

/* An end from outside, a deadline or a first failure. */
struct sim_end {
	enum why why;                    /* WHY_NONE: it was not ended */
	int64_t at_us;
	unsigned reasons;                /* a bit for each why that may count as first ... */
	unsigned lanes_saw;              /* ... and for each that a lane may have seen first */
};

struct sim_batch {
	struct policy want;              /* as the contract defines the request */
	bool plain;                      /* the request leaves the policy to its defaults */
	unsigned n_items, shard;
	unsigned tenant;                 /* of config.tenants */
	unsigned life;                   /* the process that it was submitted to */
	bool needs_room;                 /* best_effort batches that were here had to make some for it */
	bool too_much;                   /* there was no room for all of it when it came */
	bool has_part, may_have_part;    /* its tenant has no part left for its items: surely, perhaps */
	int64_t ready_us;                /* since then it has had something ready in its lane; NEVER: it has not */
	struct sim_item *items;
	int64_t submit_us;
	struct batch *b;                 /* our reference */
	struct batch_id id;
	bool submitted, done, detached, deadline_noted;
	int refused;                     /* what dispatch_submit() answered */
	int64_t accepted_us, done_us;
	struct sim_end end;
	unsigned running;                /* attempts on the wire */
	unsigned pending;                /* items open after the last step */
	unsigned settled;                /* told by on_settled */
	struct item *last_settled;
	bool held;                       /* submitted in another's on_done */
	unsigned act_on_settled;         /* act at this call of on_settled; 0: never */
	enum why act;
	/* Durable. */
	bool durable, asynchronous;      /* as the request asked */
	unsigned key;                    /* 0: none; else the number of its Idempotency-Key ... */
	unsigned body;                   /* ... and that of its body: it has no other effect */
	enum fate fate;
	int64_t row;                     /* the store's number */
	bool noted, note_open;           /* plain: a note of it is kept; and its process is gone */
	bool answered, cut;              /* on_accepted ran; its process died while it ran */
	bool beyond;                     /* in memory whatever room there was, as somebody waited */
	size_t bytes;                    /* what it takes in memory, at most */
	bool finish_asked, finish_kept, told_done;
	bool finish_refused;             /* plain: the disk failed when it was done, and its note stays */
	bool reloaded;                   /* its times went through the wall clock */
	int64_t accept_said_us, finish_kept_us;
	int64_t changed_us;              /* when an update was last kept */
	int64_t asleep_unix_ms;          /* until then it was parked, whatever process is there by then */
	uint32_t settled_steps;          /* final updates asked for */
	struct watcher watchers[2];
};

/* How the downstream meets one request; times from the start, NEVER: it does not. */
struct script {
	enum answer_end end;
	int status;
	int64_t retry_after_ms;
	const char *body;
	int64_t at_write, at_seen, at_status, at_end;
	bool wrote_anyway;               /* a failed connection had sent something */
	bool no_memory;
};

enum plant {
	PLANT_NONE,
	/* lanes */
	PLANT_PARTS_OF_FLIGHT, PLANT_PARTS_OF_RATE, PLANT_PARTS_OF_BUDGET, PLANT_PAUSE_UNTOLD,
	/* the fakes misbehave */
	PLANT_SENDS_TWICE, PLANT_LOSES_CANCELS, PLANT_CHANGES_BODIES, PLANT_DROPS_MESSAGES,
	PLANT_LEAKS_TIMERS, PLANT_LOSES_CALLS,
	/* the dispatcher is told other things than the checks */
	PLANT_CONCURRENCY, PLANT_NOT_SEQUENTIAL, PLANT_MORE_ATTEMPTS, PLANT_NO_TTL, PLANT_LONG_DEADLINE,
	PLANT_LONG_TIMEOUT, PLANT_SHORT_PAYLOAD, PLANT_NO_KEY, PLANT_IN_FLIGHT, PLANT_OTHER_CONTRACT,
	/* the dispatcher's own decisions are bent */
	PLANT_GATE_OPEN, PLANT_REPEATS_MAYBE, PLANT_GOES_ON, PLANT_IMPATIENT, PLANT_SLEEPS_LONG,
	PLANT_FORGETS_DELIVERED, PLANT_MISCOUNTS, PLANT_WRONG_STOP, PLANT_NO_EXPIRY, PLANT_503_IS_NO,
	PLANT_CANCEL_BEATS_STATUS, PLANT_ALWAYS_OK, PLANT_SHUFFLED_RESULTS, PLANT_WRONG_REASON,
	PLANT_NO_DUPLICATE_RISK, PLANT_NO_CANCEL_TREE, PLANT_WRONG_OUTCOME, PLANT_OK_IS_TRUE,
	PLANT_ALL_RETRYABLE, PLANT_EARLY_CALL, PLANT_ALWAYS_BUSY, PLANT_SETTLES_TWICE,
	/* the store misbehaves, or is asked for the wrong thing */
	PLANT_EARLY_ACK, PLANT_NO_CLAIM, PLANT_LOSES_UPDATES, PLANT_FORGETS_WAITS, PLANT_FORGETS_CLAIMS,
	PLANT_LOSES_LETTERS, PLANT_OTHER_KEY, PLANT_HASTY_FINISH, PLANT_LOSES_ITEMS, PLANT_FORGETS_JOBS,
	PLANT_UNSYNCED, PLANT_EARLY_DONE, PLANT_SETTLED_BY_SHUTDOWN, PLANT_LATE_PARK, PLANT_CHANGES_ACCEPTED,
	PLANT_DEAF_WATCH, PLANT_NO_ROOM_LIMIT, PLANT_CHANGES_RESULTS, PLANT_UNCOUNTED, PLANT_INTERRUPTED_IS_NO, PLANT_OVERSLEEPS,
	PLANT_FORGETS_NOTES,
	/* a lane's limits are misread */
	PLANT_BURST_AND_ONE, PLANT_FAST, PLANT_NO_BURST, PLANT_NO_PAUSE, PLANT_SHORT_PAUSE, PLANT_LONG_PAUSE,
	PLANT_NO_BREAKER, PLANT_SHORT_OPEN, PLANT_EAGER_BREAKER, PLANT_NO_BUDGET, PLANT_SHORT_WINDOW, PLANT_POOR_BUDGET,
	PLANT_NO_WEIGHTS, PLANT_NO_PRIORITIES,
	/* a lane's decisions are bent */
	PLANT_RATE_UNPAID, PLANT_LANE_FORGETS, PLANT_TWO_PROBES, PLANT_STALE_OUTCOME, PLANT_4XX_FAILS, PLANT_429_FAILS,
	PLANT_5XX_SUCCEEDS, PLANT_ABORT_FAILS, PLANT_TIMEOUT_IS_NEITHER, PLANT_PROBE_LOST, PLANT_REPEAT_UNPAID,
	PLANT_FIRSTS_PAY, PLANT_FIRSTS_WAIT, PLANT_NO_TIMER, PLANT_UNFAIR_SLOTS, PLANT_STARVED_SLEEP,
	PLANT_REFUSED_IS_ATTEMPT, PLANT_REFUSED_UNCOUNTED, PLANT_REFUSED_UNTOLD, PLANT_REFUSED_UNKEPT,
	PLANT_OLD_LIMITS, PLANT_DEBT_FORGIVEN, PLANT_WAITS_IN_LANE,
	/* who is let in */
	PLANT_MORE_QUEUED, PLANT_MORE_ITEMS, PLANT_MORE_OF_TENANT, PLANT_NEVER_SHEDS, PLANT_SHEDS_EARLY, PLANT_TENANT_LEAK,
	PLANT_TENANT_TAKES_ALL, PLANT_CALLER_LEAK
};

/* A configuration as a dispatcher has it. */
struct told {
	struct config config;
	struct service services[MAX_SERVICES];
	struct tenant tenants[MAX_TENANTS];
};

/* One seed's world. There is one at a time. */
struct sim {
	uint64_t seed;
	enum plant plant;
	struct config config;            /* what the checks believe */
	struct service services[MAX_SERVICES];
	struct tenant tenants[MAX_TENANTS];
	struct told tolds[MAX_RELOADS + 1], *told;       /* what the dispatcher is told, now and before */
	struct fake_settings set;
	bool stalls;                     /* shards may stand still for a while */
	bool exact;                      /* no stall, no late timer: instants are exact */
	unsigned mood;                   /* how the downstream is today */
	void (*script)(const struct request *r, struct script *ret);
	unsigned n_shards, n_batches;
	unsigned life;                   /* how many processes there were before this one */
	bool dead;                       /* this one died, and is being buried */
	bool down;                       /* it is going down, and another follows */
	bool jobs;                       /* some batches are durable, and processes may end */
	bool notes;                      /* the disk keeps notes of plain batches */
	bool crowd;                      /* many jobs at once */
	bool contended;                  /* a lane that many want, and whose turns are counted */
	bool guarded;                    /* lanes have rates, breakers and budgets of their own */
	uint64_t stored_items;
	int64_t slow_us;                 /* a commit takes this long at most */
	struct sim_batch batches[MAX_BATCHES];
	struct loop *loops[MAX_SHARDS];
	struct xfer *xfers[MAX_SHARDS];
	struct dispatch *dispatches[MAX_SHARDS];
	struct dispatch_group group;
	struct metrics *metrics;
	struct store_disk *disk;
	struct store *store;
	struct request *requests;
	unsigned n_requests, cap_requests;
	struct account accounts[MAX_ACCOUNTS];
	unsigned n_accounts;
	bool inside;                     /* a call into the dispatcher that must not call back */
	bool draining[MAX_SHARDS], idle[MAX_SHARDS], shut_down;
	bool must_shed;                  /* a batch came, and best_effort has to make room */
	bool crowded;                    /* so many items were unfinished once that some may be shed */
	bool verbose;
	const char *sqlite;              /* the folder of the database that plays the disk; NULL: memory does */
	int64_t last_us;                 /* when something was last traced */
	uint64_t trace_hash;
	uint64_t steps;
	struct event tick;               /* somebody looks, though nothing happens ... */
	struct event lane_tick;          /* ... and when a lane may go on */
};
extern struct sim sim;

/* plan.c: a random world, and batch `b` of it. */
void plan_world(uint64_t seed);
void plan_services(void);
void plan_batch(struct sim_batch *b, unsigned number);
void plan_reload(void);
void plan_script(const struct request *r, struct script *ret);

/* text.c: the only place where a planned batch becomes a real one. */
struct batch *text_to_batch(const struct sim_batch *b);

/* doctor.c: planted defects that tell the dispatcher other things than the checks. */
void doctor_config(void);
void doctor_batch(struct batch *b);
void doctor_accepted(struct batch *b);
void doctor_asked(struct store_op *op);
void doctor_read(struct store_op *op);

/* world.c: set up, run, tear down. */
void world_open(void);
void world_submit(struct sim_batch *b);
void world_end(struct sim_batch *b, enum why why);
void world_drain(unsigned shard);
void world_shut_down(unsigned shard);
bool world_goes_down(void);
void world_reload(void);
void world_reload_rate(struct rate_policy rate);  /* of the first service */
void world_detach(struct sim_batch *b);
bool world_step(void);                   /* one event, and every check after it */
void world_close(void);
void world_reset(void);
void run_seed(uint64_t seed, enum plant plant);

/* listen.c: who is told. */
extern const struct dispatch_listener sim_listener;
void listen_idle(void *arg);
void listen_watch(struct sim_batch *b);
void listen_leave(struct sim_batch *b, bool at_rest);

/* life.c: one process after the other. */
void life_open(void);
void life_close(void);
bool life_is_quiet(void);
void life_crash(unsigned next_shards);
void life_restart(unsigned next_shards);

/* fake_xfer.c: the ledger, and what a dying process leaves on the wire. */
unsigned ledger_add(const struct request *r);
void xfer_cut(struct xfer *x);

/* act.c: what clients and operators do to the batches of a random seed. */
void act_plan(void);
void act_free(void);
void act_in_accepted(struct sim_batch *b);
void act_in_settled(struct sim_batch *b);
void act_in_done(const struct sim_batch *b);

/* check.c: after each step; and by the fake transfers, as they go. */
void check_start(struct request *r, const struct exchange *e);
void check_running(const struct request *r);
void check_seen(const struct request *r, struct slice body);
void check_settled_now(struct sim_batch *b);
void note_try(const struct sim_batch *b, struct sim_item *si, const struct item *it);
bool was_held(const struct sim_item *si);
void notice_end(struct sim_batch *b);
void check_step(void);
void check_resident(void);

/* check_end.c, check_json.c: when a batch is done. */
void note_end(struct sim_batch *b, enum why why);
void check_batch(struct sim_batch *b, const struct blob *document);
void check_final(const struct sim_batch *b, const struct item *it, unsigned n);
void check_end(const struct sim_batch *b);
bool model_lacks_budget(const struct sim_batch *b, const struct sim_item *it);
void check_document(const struct sim_batch *b, struct slice json);

/* check_kept.c: what the disk has. */
void check_kept(const struct sim_batch *b);
void check_kept_end(struct sim_batch *b);
void check_plain_end(struct sim_batch *b);

/* account.c: what each lane may do. */
void account_forget(void);
void account_settle(void);                /* the limits are about to change ... */
void account_go_on(void);                /* ... and have changed */
void account_start(struct request *r);
void account_answer(struct request *r);
bool account_holds(const struct sim_item *it, int64_t us);
bool account_lacks_budget(const struct sim_item *it, int64_t us);
bool account_refused_since(const struct sim_item *it, int64_t us);
int64_t account_next_us(void);
int64_t account_paused_us(const struct sim_item *it);      /* the end of its lane's pause; may be over */

/* check_room.c: who is let in. */
void room_before(struct sim_batch *b);
void room_after(const struct sim_batch *b, const struct batch *real);
void room_close(void);
void check_shed(const struct sim_batch *b, unsigned item);
void check_room(void);

/* fair.c: whose turn it is. */
void check_fair(unsigned account, const struct sim_item *like);

/* model.c: what the contract says, written a second time. */
struct verdict {
	uint32_t codes;                  /* a bit for each code that is right */
	enum delivered delivered;
};
bool model_from_outside(const struct sim_batch *b, const struct request *r);
struct verdict model_judge(const struct sim_batch *b, const struct request *r);
enum said model_said(const struct sim_batch *b, const struct request *r);
bool model_retryable(enum code c);
bool model_may_shed(const struct sim_batch *b);            /* its items may make room for others */
bool model_shed(const struct sim_batch *b, const struct item *it);
enum status model_status(enum delivered d, unsigned attempts, enum code c);
enum delivered model_delivered(const struct sim_item *it, const struct sim_batch *b, int up_to);
int64_t model_backoff_ms(const struct sim_batch *b, const struct sim_item *it);
int64_t model_wish_ms(const struct sim_item *it);
int64_t model_slack_us(const struct sim_batch *b);
int64_t model_timeout_us(const struct sim_batch *b, const struct sim_item *it);
int64_t model_deadline_us(const struct sim_batch *b);
int64_t model_ttl_us(const struct sim_batch *b, const struct sim_item *it);
struct slice model_tenant(unsigned tenant);
struct slice model_origin(const struct sim_item *it);
void model_key(const struct sim_batch *b, const struct sim_item *it, char out[112]);

/* cover.c: what all seeds together have exercised. */
enum race {
	RACE_CANCEL_IN_WAIT, RACE_CANCEL_QUEUED, RACE_CANCEL_UNWRITTEN, RACE_CANCEL_WRITTEN,
	RACE_STATUS_BEFORE_CANCEL, RACE_ANSWER_UNDER_WAY, RACE_FIRST_FAILURE_IN_FLIGHT,
	RACE_DEADLINE_IN_FLIGHT, RACE_DEADLINE_IN_WAIT, RACE_TIMEOUT_AT_ANSWER, RACE_ENDED_TWICE,
	RACE_END_OF_DONE, RACE_END_IN_CALLBACK, RACE_OTHER_SHARD, RACE_CONCURRENCY_FULL, RACE_LANE_FULL,
	RACE_RETRY_AFTER, RACE_DUPLICATE_SEEN, RACE_BUSY, RACE_SHUTDOWN_REFUSED, RACE_DETACHED,
	RACE_DRAINED, RACE_SEQUENTIAL, RACE_NO_MEMORY, RACE_SEEN_AFTER_CANCEL, RACE_STALLED,
	RACE_SUBMIT_IN_CALLBACK, RACE_DISK_FAILED, RACE_PARKED, RACE_LOADED, RACE_CRASH, RACE_RESTART,
	RACE_INTERRUPTED_SEEN, RACE_CLAIMED_NOT_STARTED, RACE_OUTCOME_LOST, RACE_ACCEPT_LOST, RACE_ACK_LOST,
	RACE_KEY_EXISTS, RACE_ACCEPT_REFUSED, RACE_CANCEL_IN_STORE, RACE_WATCHED, RACE_OTHER_SHARDS,
	RACE_CRASH_AFTER_FINISH, RACE_NOTE_INTERRUPTED, RACE_PAUSED, RACE_PAUSE_CUT, RACE_BREAKER_OPENED,
	RACE_BREAKER_CLOSED, RACE_PROBE_SAID_NOTHING, RACE_STALE_OUTCOME, RACE_REFUSED, RACE_RATE_HELD, RACE_BUDGET_HELD,
	RACE_TENANTS_SHARE, RACE_PRIORITIES_SHARE, RACE_SHED_AT_ONCE, RACE_SHED_LATER, RACE_TENANT_FULL, RACE_TENANT_HAS_PART,
	RACE_RELOADED, RACE_HELD, RACE_HELD_TOO_LONG, RACE_LANES_SHARE, RACE_PAUSE_TOLD, RACE_MAX
};
void cover_race(enum race r);
void cover_batch(const struct sim_batch *b);
void cover_report(void);
const char *cover_missing(void);         /* NULL: all that matters was exercised */

/* scenarios.c, scenarios_jobs.c, scenarios_lanes.c */
struct scenario {
	const char *name;
	void (*run)(void);
};
extern const struct scenario scenarios[];
extern const unsigned n_scenarios;
extern const struct scenario job_scenarios[];
extern const unsigned n_job_scenarios;
extern const struct scenario lane_scenarios[];
extern const unsigned n_lane_scenarios;
