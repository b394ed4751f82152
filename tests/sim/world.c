/*
 * One world: what is done to its dispatchers, and how it is run.
 */
#include <stdlib.h>

#include "sim.h"

struct sim sim;

enum { MOST_STEPS = 5000000 };

/* ---- what is done to the dispatcher, each in the shard's own loop ---- */

void world_submit(struct sim_batch *b)
{
	struct batch *real = text_to_batch(b);

	doctor_batch(real);
	b->shard %= sim.n_shards;
	fake_loop_enter(sim.loops[b->shard]);
	b->accepted_us = clock_now();
	b->b = batch_ref(real);
	room_before(b);
	sim.inside = true;
	b->refused = dispatch_submit(sim.dispatches[b->shard], real, &sim_listener, b);
	sim.inside = false;
	b->pending = real->counts.pending;
	trace("submit: batch, items, refused", b - sim.batches, b->n_items, b->refused);
	if (b->refused != 0) {
		room_after(b, real);
		CHECK(ADMISSION, b->fate == FATE_NONE, "refused, and sent to the store");
		batch_unref(real);
		batch_unref(STEAL_PTR(b->b));
		return;
	}
	for (unsigned i = 0; i < b->n_items; i++)
		b->items[i].shed = model_shed(b, &real->items[i]);
	b->submitted = true;
	b->life = sim.life;
	b->id = real->id;
	b->bytes = real->held_bytes + 1024 + 64 * (size_t)b->n_items;
	room_after(b, real);
	doctor_accepted(real);
}

/* By its tenant, after another has tried. */
static bool cancel_job(const struct sim_batch *b, struct dispatch *d)
{
	CHECK(KEPT, !dispatch_cancel_job(d, b->id, model_tenant((b->tenant + 1) % (unsigned)sim.config.n_tenants)) ||
			    sim.config.n_tenants == 1,
	      "batch %u is found for another tenant", (unsigned)(b - sim.batches));
	return dispatch_cancel_job(d, b->id, model_tenant(b->tenant));
}

/* An end from outside of a batch that the store has: it may be in memory, or not. */
static void end_durable(struct sim_batch *b, enum why why)
{
	unsigned shard = b->fate == FATE_KEPT ? batch_id_shard(b->id) % sim.n_shards : b->shard;
	bool live = b->pending > 0 && !b->finish_asked, found = true;

	if (b->fate == FATE_ABSENT || sim.down || (b->asynchronous && why != WHY_CANCELLED) || (b->fate == FATE_KEPT && b->detached && why != WHY_CANCELLED))
		return;
	fake_loop_enter(sim.loops[shard]);
	sim.inside = true;
	if (why == WHY_CANCELLED && b->fate == FATE_KEPT)
		found = cancel_job(b, sim.dispatches[shard]);
	else
		dispatch_cancel(sim.dispatches[shard], b->id, why);
	sim.inside = false;
	trace("end from outside: batch, why, found", b - sim.batches, why, found);
	CHECK(KEPT, found || !live || world_goes_down(), "batch %u is not found to be cancelled",
	      (unsigned)(b - sim.batches));
	if (live && found)
		note_end(b, why);
	/* Fetched to be ended, whatever room there is. */
	b->beyond = b->beyond || found;
	if (live && found && b->asynchronous)
		cover_race(RACE_CANCEL_IN_STORE);
}

void world_end(struct sim_batch *b, enum why why)
{
	bool live = b->b != NULL && !b->done && b->b->counts.pending > 0;

	if (b->durable && b->submitted)
		end_durable(b, why);
	if (b->durable || b->b == NULL)
		return;
	if (!live)
		cover_race(RACE_END_OF_DONE);
	fake_loop_enter(sim.loops[b->shard]);
	sim.inside = true;
	dispatch_cancel(sim.dispatches[b->shard], b->id, why);
	sim.inside = false;
	if (live)
		note_end(b, why);
}

void world_detach(struct sim_batch *b)
{
	if (b->detached || (b->durable ? !b->submitted || b->told_done || b->cut : b->b == NULL || b->done))
		return;
	fake_loop_enter(sim.loops[b->shard]);
	dispatch_detach(sim.dispatches[b->shard], b->id);
	b->detached = true;
	if (b->durable)
		batch_unref(STEAL_PTR(b->b));
	cover_race(RACE_DETACHED);
	trace("detach: batch", b - sim.batches, 0, 0);
}

void world_drain(unsigned shard)
{
	fake_loop_enter(sim.loops[shard]);
	sim.draining[shard] = sim.inside = true;
	dispatch_drain(sim.dispatches[shard], listen_idle, (void *)(uintptr_t)shard);
	sim.inside = false;
	CHECK(ADMISSION, dispatch_draining(sim.dispatches[shard]), "not draining");
	cover_race(RACE_DRAINED);
	trace("drain: shard", shard, 0, 0);
}

static void use_config(void)
{
	account_go_on();
	sim.told++;
	doctor_config();
	for (unsigned i = 0; i < sim.n_shards; i++) {
		fake_loop_enter(sim.loops[i]);
		dispatch_reload(sim.dispatches[i], config_ref(&sim.told->config));
	}
	cover_race(RACE_RELOADED);
	trace("reload", 0, 0, 0);
}

/* Other limits from here on, in all shards. */
void world_reload(void)
{
	if (sim.told == &sim.tolds[MAX_RELOADS])
		return;
	account_settle();
	plan_reload();
	use_config();
}

void world_reload_rate(struct rate_policy rate)
{
	account_settle();
	sim.services[0].rate = rate;
	use_config();
}

/* Shards go down one after the other. */
bool world_goes_down(void)
{
	for (unsigned i = 0; i < sim.n_shards; i++)
		if (sim.draining[i])
			return true;
	return false;
}

void world_shut_down(unsigned shard)
{
	fake_loop_enter(sim.loops[shard]);
	sim.shut_down = sim.inside = true;
	dispatch_cancel_all(sim.dispatches[shard], WHY_SHUTDOWN);
	sim.inside = false;
	trace("shut down: shard", shard, 0, 0);
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *b = &sim.batches[i];

		if (b->durable ? b->fate != FATE_NONE && b->fate != FATE_ABSENT && !b->asynchronous && b->pending > 0 &&
					 batch_id_shard(b->id) % sim.n_shards == shard
			       : b->shard == shard && b->b != NULL && !b->done && b->b->counts.pending > 0)
			note_end(b, WHY_SHUTDOWN);
	}
}

/* ---- the world ---- */

static bool any_unfinished(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		if (sim.batches[i].fate == FATE_KEPT && !sim.batches[i].finish_kept)
			return true;
	return false;
}

/* Less and less often, while nothing happens. */
static void on_tick(struct event *e)
{
	if (!world_goes_down() && any_unfinished())
		event_at(e, clock_now() + 11000000 + 2 * (clock_now() - sim.last_us));
}

static bool any_open(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		if (sim.batches[i].submitted && !sim.batches[i].done && !sim.batches[i].finish_kept)
			return true;
	return false;
}

/* Just after a lane could go on something must have happened. */
static void set_lane_tick(void)
{
	int64_t slack = 2 * sim.set.delay_us + 8 * sim.set.turn_us + 1, next = account_next_us();

	if (next < INT64_MAX && !heap_has(&sim.lane_tick.due) && any_open())
		event_at(&sim.lane_tick, next + slack);
}

static void on_lane_tick(struct event *e)
{
	(void)e;
}

void world_open(void)
{
	event_init(&sim.tick, NULL, on_tick);
	event_init(&sim.lane_tick, NULL, on_lane_tick);
	sim.told = sim.tolds;
	doctor_config();
	sim.disk = store_disk_new(sim.config.limits.stored_items, sim.slow_us);
	for (unsigned i = 0; i < MAX_SHARDS; i++)
		sim.loops[i] = loop_new();
	life_open();
}

bool world_step(void)
{
	if (!clock_step())
		return false;
	if (!heap_has(&sim.tick.due) && any_unfinished() && !world_goes_down())
		event_at(&sim.tick, clock_now() + 11000000);
	set_lane_tick();
	CHECK(LIVENESS, ++sim.steps < MOST_STEPS, "the world does not come to rest");
	check_step();
	fake_loop_enter(NULL);
	return true;
}

/* Who was accepted has come to an end, unless the process was stopped before. */
static void check_all_ended(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *b = &sim.batches[i];

		if (b->submitted && !b->durable)
			CHECK(LIVENESS, b->done, "batch %u is not done, and nothing is left to happen", i);
		CHECK(LIVENESS, b->fate != FATE_ASKED, "batch %u: its acceptance is never answered", i);
		if (b->fate == FATE_KEPT && !b->finish_kept)
			CHECK(LIVENESS, (b->asynchronous || b->end.reasons >> WHY_INTERRUPTED & 1) && world_goes_down(), "batch %u is not done: %u items", i,
			      b->pending);
		if (b->finish_kept && !b->detached)
			CHECK(LISTENER, b->told_done || !b->durable, "batch %u: its end is not told", i);
		CHECK(LIVENESS, !b->note_open || b->finish_kept || world_goes_down(),
		      "batch %u: its note is left open", i);
		check_kept(b);
	}
}

void world_close(void)
{
	check_all_ended();
	life_close();
	for (unsigned i = 0; i < MAX_SHARDS; i++)
		loop_free(sim.loops[i]);
	for (unsigned i = 0; i < sim.n_batches; i++)
		free(sim.batches[i].items);
	store_disk_free(sim.disk);
	free(sim.requests);
	clock_stop();
}

void world_reset(void)
{
	sim = (struct sim){.verbose = sim.verbose, .sqlite = sim.sqlite};
	trace_start();
}

void run_seed(uint64_t seed, enum plant plant)
{
	world_reset();
	sim.seed = seed;
	sim.plant = plant;
	plan_world(seed);
	world_open();
	act_plan();
	while (world_step())
		;
	world_close();
	act_free();
}
