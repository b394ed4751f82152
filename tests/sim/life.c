/*
 * One process after the other on the same disk: how it starts, how it ends in
 * good order, and how it dies.
 *
 * Who dies cannot be freed on the spot: its dispatchers hold attempts and
 * batches that only they can take apart. So its store and its transfers become
 * void, everything is cancelled, and what is left of it runs until it is idle.
 * The downstream and the disk see nothing of that, and its word counts nothing.
 */
#include <stdlib.h>

#include "dispatch/metrics.h"
#include "sim.h"

enum { MOST_BURIAL_STEPS = 1000000 };

/* ---- a process starts ---- */

static void recover(void *arg, const struct store_unfinished *u)
{
	unsigned shard = batch_id_shard(u->id) % sim.n_shards;
	struct store_unfinished told = *u;

	(void)arg;
	if (sim.plant == PLANT_FORGETS_NOTES && !u->asynchronous)
		return;
	if (sim.plant == PLANT_OVERSLEEPS)
		told.due_unix_ms = clock_unix_ms() + 3600000;
	fake_loop_enter(sim.loops[shard]);
	dispatch_recover(sim.dispatches[shard], &told);
}

/* A synchronous batch that was cut off does not go on. */
static void note_interrupted(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *b = &sim.batches[i];

		if (b->fate != FATE_KEPT || b->asynchronous || b->finish_kept)
			continue;
		if (b->pending > 0)
			note_end(b, WHY_INTERRUPTED);
		else
			b->end.reasons = 1u << WHY_INTERRUPTED;
	}
}

void life_open(void)
{
	CLEANUP(buf_free) struct buf error = {0};

	account_forget();
	sim.metrics = dispatch_metrics_new(&sim.told->config, sim.n_shards);
	sim.store = store_on_disk(sim.disk);
	sim.group = (struct dispatch_group){.hash_seed = dice_below(UINT64_MAX), .n = sim.n_shards};
	dispatch_group_init(&sim.group, &sim.told->config);
	for (unsigned i = 0; i < sim.n_shards; i++) {
		sim.draining[i] = sim.idle[i] = false;
		sim.xfers[i] = xfer_new(sim.loops[i], &(struct xfer_config){0});
		fake_loop_enter(sim.loops[i]);
		sim.dispatches[i] = dispatch_new(&(struct dispatch_env){
			.loop = sim.loops[i],
			.xfer = sim.xfers[i],
			.store = sim.store,
			.config = &sim.told->config,
			.group = &sim.group,
			.meter = {sim.metrics, i},
			.shard = i,
			.seed = dice_below(UINT64_MAX) | 1,
		});
		sim.group.members[i] = sim.dispatches[i];
	}
	sim.shut_down = sim.down = sim.dead = false;
	note_interrupted();
	REQUIRE(store_each_unfinished(sim.store, recover, NULL, &error));
	fake_loop_enter(NULL);
}

/* ---- and is taken apart ---- */

static bool is_gauge(const char *row)
{
	static const char *const names[] = {
		"settled_attempts_in_flight", "settled_attempts_queued", "settled_items_queued", "settled_jobs_resident",
		"settled_jobs_backlog",
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strncmp(row, names[i], strlen(names[i])) == 0)
			return true;
	return false;
}

/* Gauges are sums of many small steps: any that is lost or doubled shows. */
static void check_gauges(void)
{
	CLEANUP(buf_free) struct buf out = {0};

	metrics_render(sim.metrics, &out);
	buf_add_char(&out, '\0');
	for (char *rest = out.p, *row; (row = strsep(&rest, "\n")) != NULL;) {
		const char *value = strrchr(row, ' ');

		if (is_gauge(row))
			CHECK(LEAK, value != NULL && strcmp(value, " 0") == 0, "%s", row);
	}
}

static void check_usage(unsigned i)
{
	struct dispatch_usage u = dispatch_usage(sim.dispatches[i]);

	CHECK(LEAK, (u.batches | u.lanes | u.turns | u.ops | u.waits) == 0,
	      "shard %u: %u batches, %u lanes, %u turns, %u ops, %u waits", i, u.batches, u.lanes, u.turns, u.ops,
	      u.waits);
	CHECK(LEAK, (u.claims | u.loads | u.watches) == 0, "shard %u: %u claims, %u loads, %u watches", i, u.claims,
	      u.loads, u.watches);
	CHECK(LEAK, xfer_usage(sim.xfers[i]).live == 0, "shard %u: transfers", i);
	CHECK(LEAK, u.backlog == 0 || sim.dead || world_goes_down(), "shard %u: %u jobs in the backlog", i, u.backlog);
	CHECK(LISTENER, sim.dead || sim.idle[i] == sim.draining[i], "shard %u: on_idle is not called", i);
}

/* Nothing is going on any more. */
void life_close(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		listen_leave(&sim.batches[i], true);
		batch_unref(sim.batches[i].b);
		sim.batches[i].b = NULL;
	}
	for (unsigned i = 0; i < sim.n_shards; i++)
		check_usage(i);
	for (unsigned i = 0; i < sim.n_shards; i++) {
		fake_loop_enter(sim.loops[i]);
		dispatch_free(sim.dispatches[i]);
		xfer_free(sim.xfers[i]);
	}
	fake_loop_enter(NULL);
	for (unsigned i = 0; i < sim.n_shards; i++) {
		struct loop_usage u = loop_usage(sim.loops[i]);

		CHECK(LEAK, u.timers == 0 && u.fds == 0, "shard %u: %u timers, %u fds", i, u.timers, u.fds);
	}
	CHECK(LEAK, atomic_load(&sim.group.unfinished) == 0, "%u items unfinished",
	      atomic_load(&sim.group.unfinished));
	CHECK(LEAK, atomic_load(&sim.group.held_bytes) == 0, "%zu bytes held", atomic_load(&sim.group.held_bytes));
	room_close();
	check_gauges();
	store_close(STEAL_PTR(sim.store));
	dispatch_group_free(&sim.group);
	metrics_free(STEAL_PTR(sim.metrics));
}

bool life_is_quiet(void)
{
	for (unsigned i = 0; i < sim.n_shards; i++)
		if (!sim.idle[i] || !fake_loop_is_quiet(sim.loops[i]))
			return false;
	return store_is_quiet(sim.store);
}

/* ---- what the end of a process does to what is known ---- */

/* A claim stands on the disk, and nothing after it: for the next process this is
 * an attempt that was interrupted, whether or not one was on its way. */
static void interrupt(const struct sim_batch *b, struct sim_item *si)
{
	struct request *r;

	if (!si->claim_used) {
		cover_race(RACE_CLAIMED_NOT_STARTED);
		ledger_add(&(struct request){.batch = (unsigned)(b - sim.batches), .item = (unsigned)(si - b->items),
					     .n = ++si->starts, .next = -1, .start_us = clock_now(), .wrote_us = NEVER,
					     .cancel_us = NEVER, .account = -1, .lane = -1});
	} else if (sim.requests[si->last].answer.status != 0) {
		cover_race(RACE_OUTCOME_LOST);
	}
	r = &sim.requests[si->last];
	if (r->seen > 0)
		cover_race(RACE_INTERRUPTED_SEEN);
	r->interrupted = true;
	r->done_us = NEVER;
	r->answer = (struct answer){.end = ANSWER_LOST, .retry_after_ms = RETRY_AFTER_NONE};
	si->claim_used = true;
}

/* Why attempts were cancelled is known as long as their process is. */
static void note_cancels(const struct sim_batch *b)
{
	for (unsigned i = 0; i < b->n_items; i++)
		for (int at = b->items[i].first; at >= 0; at = sim.requests[at].next)
			sim.requests[at].from_outside = model_from_outside(b, &sim.requests[at]);
}

static void fall_back(struct sim_batch *b)
{
	note_cancels(b);
	b->pending = b->settled_steps = 0;
	for (unsigned i = 0; i < b->n_items; i++) {
		struct sim_item *si = &b->items[i];

		si->state = si->kept.state;
		si->attempts = si->kept.attempts;
		si->refused = si->kept.refused;
		si->delivered = si->kept.delivered;
		si->code = si->kept.code;
		si->stop = si->kept.stop;
		si->status = si->kept.status;
		si->duplicate_risk = si->kept.duplicate_risk;
		si->due_unix_ms = si->kept.due_unix_ms;
		si->final_us = si->kept_final_us;
		si->claimed = si->claim_kept;
		si->claim_unstarted = false;
		if (si->state == ITEM_FINAL)
			b->settled_steps++;
		else
			b->pending++;
		if (si->claim_kept)
			interrupt(b, si);
		CHECK(CLAIM, si->kept.attempts + (unsigned)si->claim_kept == si->starts, "item %u: %u attempts kept, %u started", i,
		      si->kept.attempts, si->starts);
	}
	b->finish_asked = b->beyond = false;
	b->end = (struct sim_end){0};
	b->deadline_noted = false;
}

/* The process is gone: what was not kept is lost, and nobody listens any more. */
static void let_go(struct sim_batch *b)
{
	bool running = b->durable ? !b->finish_kept : !b->done;

	if (!b->submitted)
		return;
	if (b->fate == FATE_ASKED) {
		cover_race(RACE_ACCEPT_LOST);
		b->fate = FATE_ABSENT;
	} else if (b->fate == FATE_KEPT && !b->answered) {
		cover_race(RACE_ACK_LOST);
	}
	if (b->finish_kept && b->durable && !b->detached)
		cover_race(RACE_CRASH_AFTER_FINISH);
	b->detached = b->answered = true;
	b->running = 0;
	for (unsigned i = 0; i < b->n_items; i++)
		b->items[i].running = 0;
	b->note_open = b->noted && !b->finish_kept;
	b->finish_refused = false;
	if (running && !b->durable)
		b->done = b->cut = true;
	if (running && b->fate == FATE_KEPT)
		fall_back(b);
}

static void check_disk(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		check_kept(&sim.batches[i]);
}

static void start_next(unsigned shards)
{
	sim.life++;
	if (shards != sim.n_shards)
		cover_race(RACE_OTHER_SHARDS);
	sim.n_shards = sim.config.shards = sim.told->config.shards = shards;
	if (dice_chance(50))
		clock_reboot();
	life_open();
	trace("start: life, shards", sim.life, shards, 0);
}

/* ---- the two ends ---- */

static void on_buried(void *arg)
{
	sim.idle[(uintptr_t)arg] = true;
}

static void bury(void)
{
	sim.dead = true;
	store_bury(sim.store);
	for (unsigned i = 0; i < sim.n_batches; i++)
		listen_leave(&sim.batches[i], false);
	for (unsigned i = 0; i < sim.n_shards; i++) {
		fake_loop_enter(sim.loops[i]);
		fake_loop_stall(sim.loops[i], 0);
		sim.idle[i] = false;
		dispatch_drain(sim.dispatches[i], on_buried, (void *)(uintptr_t)i);
		dispatch_cancel_all(sim.dispatches[i], WHY_SHUTDOWN);
	}
	for (unsigned steps = 0; !life_is_quiet(); steps++)
		CHECK(LIVENESS, steps < MOST_BURIAL_STEPS && clock_step(), "a dead process does not come to rest");
	fake_loop_enter(NULL);
	life_close();
}

void life_crash(unsigned next_shards)
{
	cover_race(RACE_CRASH);
	trace("crash: life", sim.life, 0, 0);
	for (unsigned i = 0; i < sim.n_shards; i++)
		xfer_cut(sim.xfers[i]);
	for (unsigned i = 0; i < sim.n_batches; i++)
		let_go(&sim.batches[i]);
	check_disk();
	bury();
	check_disk();
	start_next(next_shards);
}

/* In good order nothing is interrupted. */
static void check_no_claims(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		for (unsigned j = 0; sim.batches[i].fate == FATE_KEPT && j < sim.batches[i].n_items; j++) {
			const struct sim_item *si = &sim.batches[i].items[j];

			CHECK(SHUTDOWN, !si->claim_kept || si->claim_life != sim.life,
			      "batch %u, item %u: its claim is left behind", i, j);
		}
}

/* Everything is idle: the next process goes on. */
void life_restart(unsigned next_shards)
{
	cover_race(RACE_RESTART);
	trace("restart: life", sim.life, 0, 0);
	life_close();
	check_no_claims();
	for (unsigned i = 0; i < sim.n_batches; i++)
		let_go(&sim.batches[i]);
	check_disk();
	start_next(next_shards);
}
