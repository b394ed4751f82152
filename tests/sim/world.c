/*
 * One world: as many shards as it has, their dispatchers, and the listener that
 * stands for the parked requests.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "dispatch/metrics.h"
#include "sim.h"

struct sim sim;

enum { MOST_STEPS = 5000000 };

/* ---- the listener ---- */

static void check_caller(const struct sim_batch *b, const char *what)
{
	CHECK(LISTENER, !sim.inside, "%s is called inside a call into the dispatcher", what);
	CHECK(LISTENER, loop_is_current(sim.loops[b->shard]), "%s is called in another loop", what);
	CHECK(LISTENER, !b->detached, "%s is called after dispatch_detach()", what);
	CHECK(LISTENER, !b->done, "%s is called after the end", what);
}

static void on_settled(void *arg, struct batch *real)
{
	struct sim_batch *b = arg;
	struct item *it = b->last_settled == NULL ? real->settled_first : b->last_settled->next_settled;

	check_caller(b, "on_settled");
	CHECK(LISTENER, it != NULL, "on_settled is called for nothing");
	for (; it != NULL; it = it->next_settled) {
		CHECK(LISTENER, it->state == ITEM_FINAL, "an item that is not final is told as settled");
		b->settled++;
		b->last_settled = it;
	}
	check_settled_now(b);
	if (b->act_on_settled > 0 && --b->act_on_settled == 0)
		act_in_settled(b);
}

static void on_done(void *arg, struct batch *real, struct blob *document)
{
	struct sim_batch *b = arg;

	check_caller(b, "on_done");
	CHECK(LISTENER, real == b->b, "on_done brings another batch");
	CHECK(LISTENER, b->settled == b->n_items, "%u items were told as settled, not %u", b->settled, b->n_items);
	CHECK(DOCUMENT, document != NULL, "no document");
	check_batch(b, document);
	act_in_done(b);
}

static const struct dispatch_listener listener = {.on_settled = on_settled, .on_done = on_done};

static void on_idle(void *arg)
{
	unsigned shard = (unsigned)(uintptr_t)arg;

	CHECK(LISTENER, !sim.idle[shard], "on_idle is called twice");
	CHECK(LISTENER, sim.draining[shard] && !sim.inside, "on_idle is called inside dispatch_drain()");
	sim.idle[shard] = true;
	for (unsigned i = 0; i < sim.n_batches; i++) {
		const struct sim_batch *b = &sim.batches[i];

		CHECK(LISTENER, b->shard != shard || b->b == NULL || b->done || b->detached,
		      "idle with a live batch");
	}
}

/* ---- what is done to the dispatcher, each in the shard's own loop ---- */

static void check_refusal(const struct sim_batch *b, const struct batch *real, unsigned before)
{
	uint32_t n = real->counts.pending;

	if (b->refused == -ESHUTDOWN) {
		CHECK(ADMISSION, sim.draining[b->shard], "refused as if draining");
		cover_race(RACE_SHUTDOWN_REFUSED);
	} else if (b->refused == -EBUSY) {
		CHECK(ADMISSION, before + n > sim.config.limits.queued_items, "refused with %u unfinished", before);
		cover_race(RACE_BUSY);
	} else {
		CHECK(ADMISSION, b->refused == 0, "refused with %d", b->refused);
		CHECK(ADMISSION, !sim.draining[b->shard], "accepted while draining");
	}
	CHECK(ADMISSION, atomic_load(&sim.group.unfinished) == before + (b->refused == 0 ? n : 0),
	      "%u unfinished, %u before", atomic_load(&sim.group.unfinished), before);
}

void world_submit(struct sim_batch *b)
{
	unsigned before = atomic_load(&sim.group.unfinished);
	struct batch *real = text_to_batch(b);

	doctor_batch(real);
	fake_loop_enter(sim.loops[b->shard]);
	b->accepted_us = clock_now();
	sim.inside = true;
	b->refused = dispatch_submit(sim.dispatches[b->shard], batch_ref(real), &listener, b);
	sim.inside = false;
	trace("submit: batch, items, refused", b - sim.batches, b->n_items, b->refused);
	check_refusal(b, real, before);
	if (b->refused != 0) {
		batch_unref(real);
		batch_unref(real);
		return;
	}
	b->submitted = true;
	b->pending = real->counts.pending;
	b->b = real;
	b->id = real->id;
	CHECK(ADMISSION, real->live != NULL, "the batch does not live");
}

void world_end(struct sim_batch *b, enum why why)
{
	bool live = b->b != NULL && !b->done && b->b->counts.pending > 0;

	if (b->b == NULL)
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
	if (b->b == NULL || b->done)
		return;
	fake_loop_enter(sim.loops[b->shard]);
	dispatch_detach(sim.dispatches[b->shard], b->id);
	b->detached = true;
	cover_race(RACE_DETACHED);
	trace("detach: batch", b - sim.batches, 0, 0);
}

void world_drain(unsigned shard)
{
	fake_loop_enter(sim.loops[shard]);
	sim.draining[shard] = sim.inside = true;
	dispatch_drain(sim.dispatches[shard], on_idle, (void *)(uintptr_t)shard);
	sim.inside = false;
	CHECK(ADMISSION, dispatch_draining(sim.dispatches[shard]), "not draining");
	cover_race(RACE_DRAINED);
	trace("drain: shard", shard, 0, 0);
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

		if (b->shard == shard && b->b != NULL && !b->done && b->b->counts.pending > 0)
			note_end(b, WHY_SHUTDOWN);
	}
}

/* ---- the world ---- */

void world_open(void)
{
	doctor_config();
	sim.metrics = dispatch_metrics_new(&sim.told, sim.n_shards);
	sim.store = store_new_memory(sim.config.limits.results_bytes);
	sim.group.hash_seed = dice_below(UINT64_MAX);
	sim.group.n = sim.n_shards;
	for (unsigned i = 0; i < sim.n_shards; i++)
		sim.loops[i] = loop_new();
	for (unsigned i = 0; i < sim.n_shards; i++) {
		sim.xfers[i] = xfer_new(sim.loops[i], &(struct xfer_config){0});
		fake_loop_enter(sim.loops[i]);
		sim.dispatches[i] = dispatch_new(&(struct dispatch_env){
			.loop = sim.loops[i],
			.xfer = sim.xfers[i],
			.store = sim.store,
			.config = &sim.told,
			.group = &sim.group,
			.meter = {sim.metrics, i},
			.shard = i,
			.seed = dice_below(UINT64_MAX) | 1,
		});
		sim.group.members[i] = sim.dispatches[i];
	}
	fake_loop_enter(NULL);
}

bool world_step(void)
{
	if (!clock_step())
		return false;
	CHECK(LIVENESS, ++sim.steps < MOST_STEPS, "the world does not come to rest");
	check_step();
	fake_loop_enter(NULL);
	return true;
}

/* Gauges are sums of many small steps: any that is lost or doubled shows. */
static void check_gauges(void)
{
	CLEANUP(buf_free) struct buf out = {0};

	metrics_render(sim.metrics, &out);
	buf_add_char(&out, '\0');
	for (char *rest = out.p, *row; (row = strsep(&rest, "\n")) != NULL;) {
		const char *value = strrchr(row, ' ');

		if (strncmp(row, "settled_attempts_in_flight", 26) == 0 ||
		    strncmp(row, "settled_items_queued", 20) == 0)
			CHECK(LEAK, value != NULL && strcmp(value, " 0") == 0, "%s", row);
	}
}

static void check_at_rest(void)
{
	CHECK(LEAK, atomic_load(&sim.group.unfinished) == 0, "%u items unfinished",
	      atomic_load(&sim.group.unfinished));
	for (unsigned i = 0; i < sim.n_shards; i++) {
		struct dispatch_usage u = dispatch_usage(sim.dispatches[i]);

		CHECK(LEAK, (u.batches | u.lanes | u.turns | u.ops | u.waits) == 0,
		      "shard %u: %u batches, %u lanes, %u turns, %u ops, %u waits", i, u.batches, u.lanes, u.turns,
		      u.ops, u.waits);
		CHECK(LEAK, xfer_usage(sim.xfers[i]).live == 0, "shard %u: transfers", i);
		CHECK(LISTENER, sim.idle[i] == sim.draining[i], "shard %u: on_idle is not called", i);
	}
	check_gauges();
}

static void on_record(struct store_get *g)
{
	const struct sim_batch *b = NULL;

	for (unsigned i = 0; i < sim.n_batches; i++)
		if (sim.batches[i].b != NULL && batch_id_eq(sim.batches[i].id, g->id))
			b = &sim.batches[i];
	CHECK(DOCUMENT, g->found, "batch %u is not in the store", (unsigned)(b - sim.batches));
	CHECK(DOCUMENT, strcmp(g->record.outcome, batch_outcome_str(b->b->outcome)) == 0, "outcome %s",
	      g->record.outcome);
	check_document(b, (struct slice){g->record.document->p, g->record.document->n});
	blob_unref(g->record.document);
	free(g);
}

static void check_records(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *b = &sim.batches[i];
		struct store_get *g;

		if (b->b == NULL)
			continue;
		CHECK(LIVENESS, b->done, "batch %u is not done, and nothing is left to happen", i);
		g = xcalloc(1, sizeof *g);
		*g = (struct store_get){.reply_to = sim.loops[b->shard], .id = b->id,
					.now_unix_ms = b->b->created_unix_ms, .on_done = on_record};
		store_get(sim.store, g);
	}
	while (clock_step())
		;
	fake_loop_enter(NULL);
}

void world_close(void)
{
	check_records();
	check_at_rest();
	for (unsigned i = 0; i < sim.n_shards; i++) {
		fake_loop_enter(sim.loops[i]);
		dispatch_free(sim.dispatches[i]);
		xfer_free(sim.xfers[i]);
	}
	fake_loop_enter(NULL);
	for (unsigned i = 0; i < sim.n_shards; i++) {
		struct loop_usage u = loop_usage(sim.loops[i]);

		CHECK(LEAK, u.timers == 0 && u.fds == 0, "shard %u: %u timers, %u fds", i, u.timers, u.fds);
		loop_free(sim.loops[i]);
	}
	for (unsigned i = 0; i < sim.n_batches; i++) {
		batch_unref(sim.batches[i].b);
		free(sim.batches[i].items);
	}
	store_free(sim.store);
	metrics_free(sim.metrics);
	free(sim.requests);
	clock_stop();
}

void world_reset(void)
{
	sim = (struct sim){.verbose = sim.verbose};
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
