/*
 * Who listens to the dispatcher: the listener of each batch, which stands for the
 * request that submitted it, and watchers, which stand for pollers. Nothing that
 * a dead process says counts.
 */
#include "sim.h"

static void check_caller(const struct sim_batch *b, const char *what)
{
	CHECK(LISTENER, !sim.inside, "%s is called inside a call into the dispatcher", what);
	CHECK(LISTENER, loop_is_current(sim.loops[b->shard]), "%s is called in another loop", what);
	CHECK(LISTENER, !b->detached, "%s is called after dispatch_detach()", what);
	CHECK(LISTENER, b->durable ? !b->told_done : !b->done, "%s is called after the end", what);
}

/* ---- the listener ---- */

static void on_refused(struct sim_batch *b, enum store_answer said)
{
	CHECK(ACK, b->fate == FATE_ABSENT, "batch %u is kept, and refused", (unsigned)(b - sim.batches));
	if (said == STORE_KEY_EXISTS)
		cover_race(RACE_KEY_EXISTS);
	else
		CHECK(ADMISSION, store_disk_troubled(sim.disk) || sim.stored_items < 1000, "refused with %d", (int)said);
	cover_race(RACE_ACCEPT_REFUSED);
	b->detached = true;
}

static void on_accepted(void *arg, struct batch *real, const struct store_accept *said)
{
	struct sim_batch *b = arg;

	if (sim.dead)
		return;
	check_caller(b, "on_accepted");
	CHECK(LISTENER, b->durable && !b->answered && real == b->b, "on_accepted is not expected");
	trace("told of the acceptance: batch, answer", b - sim.batches, said->op.answer, 0);
	b->answered = true;
	batch_unref(b->b);
	b->b = NULL;
	if (said->op.answer != STORE_OK) {
		on_refused(b, said->op.answer);
		return;
	}
	CHECK(ACK, b->fate == FATE_KEPT, "batch %u is acknowledged, and not kept", (unsigned)(b - sim.batches));
	act_in_accepted(b);
	b->beyond = !b->detached || b->end.why != WHY_NONE;
}

static void note_settled(struct sim_batch *b, const struct batch *real)
{
	CHECK(LISTENER, b->last_settled != real->told_last, "on_settled is called for nothing");
	while (b->last_settled != real->told_last) {
		struct item *it = b->last_settled == NULL ? real->settled_first : b->last_settled->next_settled;

		CHECK(LISTENER, it->state == ITEM_FINAL, "an item that is not final is told as settled");
		CHECK(ACK, !b->durable || it->attempts == 0 || b->items[it->index].kept_final_us > 0,
		      "item %u is told as settled, and not kept so", it->index);
		b->settled++;
		b->last_settled = it;
	}
}

static void on_settled(void *arg, struct batch *real)
{
	struct sim_batch *b = arg;

	if (sim.dead)
		return;
	check_caller(b, "on_settled");
	CHECK(LISTENER, !b->durable || b->answered, "on_settled is called before on_accepted");
	if (!b->asynchronous)
		note_settled(b, real);
	if (!b->durable)
		check_settled_now(b);
	if (b->act_on_settled > 0 && --b->act_on_settled == 0)
		act_in_settled(b);
}

/* The process goes down, and the next one goes on with the job. */
static bool is_handed_on(struct sim_batch *b, const struct batch *real)
{
	if (real->state == BATCH_DONE)
		return false;
	CHECK(LISTENER, b->asynchronous && world_goes_down(), "on_done brings a batch that is not done");
	b->detached = true;
	return true;
}

static void on_done(void *arg, struct batch *real, struct blob *document)
{
	struct sim_batch *b = arg;

	if (sim.dead)
		return;
	check_caller(b, "on_done");
	if (b->durable && is_handed_on(b, real))
		return;
	CHECK(LISTENER, b->durable || real == b->b, "on_done brings another batch");
	if (!b->asynchronous)
		CHECK(LISTENER, b->settled == b->n_items, "%u items were told as settled, not %u", b->settled, b->n_items);
	CHECK(DOCUMENT, document != NULL, "no document");
	if (b->durable) {
		CHECK(ACK, b->finish_kept, "batch %u is told as done, and its end is not kept",
		      (unsigned)(b - sim.batches));
		b->told_done = true;
		b->b = real;
		check_document(b, (struct slice){document->p, document->n});
		b->b = NULL;
	} else {
		check_batch(b, document);
	}
	act_in_done(b);
}

const struct dispatch_listener sim_listener = {
	.on_accepted = on_accepted, .on_settled = on_settled, .on_done = on_done,
};

void listen_idle(void *arg)
{
	unsigned shard = (unsigned)(uintptr_t)arg;

	if (sim.dead)
		return;
	CHECK(LISTENER, !sim.idle[shard], "on_idle is called twice");
	CHECK(LISTENER, sim.draining[shard] && !sim.inside, "on_idle is called inside dispatch_drain()");
	sim.idle[shard] = true;
	trace("idle: shard", shard, 0, 0);
	for (unsigned i = 0; i < sim.n_batches; i++) {
		const struct sim_batch *b = &sim.batches[i];

		CHECK(LISTENER, b->shard != shard || b->durable || b->b == NULL || b->done || b->detached,
		      "idle with a live batch");
	}
}

/* ---- watchers ---- */

static void on_change(struct dispatch_watch *watch, bool done)
{
	struct watcher *w = container_of(watch, struct watcher, watch);

	if (sim.dead)
		return;
	CHECK(WATCH, !sim.inside, "a watcher is told inside a call into the dispatcher");
	CHECK(WATCH, loop_is_current(sim.loops[w->shard]), "a watcher is told in another loop");
	CHECK(WATCH, w->on && !w->told, "a watcher is told after the end");
	CHECK(WATCH, !done || w->of->finish_kept, "a watcher is told of an end that is not kept");
	trace("watcher told: batch, done", w->of - sim.batches, done, 0);
	w->told = done;
	w->told_us = clock_now();
}

void listen_watch(struct sim_batch *b)
{
	struct watcher *w = !b->watchers[0].on ? &b->watchers[0] : &b->watchers[1];

	if (w->on || b->fate != FATE_KEPT || sim.down)
		return;
	*w = (struct watcher){.of = b, .shard = batch_id_shard(b->id) % sim.n_shards, .since_us = clock_now(), .on = true,
			      .watch = {.on_change = on_change}};
	cover_race(RACE_WATCHED);
	fake_loop_enter(sim.loops[w->shard]);
	sim.inside = true;
	dispatch_watch(sim.dispatches[w->shard], &w->watch, b->id);
	sim.inside = false;
	trace("watch: batch", b - sim.batches, 0, 0);
}

/* Is the word of what was kept then on its way still? */
static bool may_be_under_way(int64_t kept_us)
{
	return clock_now() <= kept_us + sim.set.delay_us + 4 * sim.set.turn_us || sim.stalls;
}

static void check_told(const struct sim_batch *b, const struct watcher *w, bool at_rest)
{
	unsigned n = (unsigned)(b - sim.batches);

	if (b->finish_kept && b->finish_kept_us > w->since_us && (at_rest || !may_be_under_way(b->finish_kept_us)))
		CHECK(WATCH, w->told, "batch %u: who watched is not told of the end", n);
	/* A process that goes down lets go of its jobs with their last changes under way;
	 * who came after an update was asked for is told by a later group of the store. */
	if (at_rest && !world_goes_down() && b->changed_us > w->since_us)
		CHECK(WATCH, w->told_us >= b->changed_us, "batch %u: who watched is not told of a change", n);
}

/* The pollers leave. Who began to watch before the end was kept must have been told. */
void listen_leave(struct sim_batch *b, bool at_rest)
{
	for (unsigned i = 0; i < ARRAY_LEN(b->watchers); i++) {
		struct watcher *w = &b->watchers[i];

		if (!w->on)
			continue;
		if (!sim.dead)
			check_told(b, w, at_rest);
		fake_loop_enter(sim.loops[w->shard]);
		dispatch_unwatch(sim.dispatches[w->shard], &w->watch);
		w->on = false;
	}
}
