/*
 * What clients, operators and the system do to a random world: submit, leave,
 * cancel, drain, shut down, and let a thread stand still.
 */
#include <stdlib.h>

#include "sim.h"

enum act_kind {
	ACT_SUBMIT, ACT_DISCONNECT, ACT_CANCEL, ACT_DETACH, ACT_DRAIN, ACT_SHUT_DOWN, ACT_STALL, ACT_WATCH, ACT_LEAVE,
	ACT_CRASH, ACT_GO_DOWN, ACT_COME_BACK, ACT_DISK_FAILS, ACT_DISK_BUSY, ACT_RELOAD,
};

enum { POLL_US = 20000 };

struct act {
	struct event event;
	struct act *next;
	enum act_kind kind;
	unsigned on;                     /* batch or shard */
};

static struct act *acts;

/* As a route does when the client of a synchronous request leaves. */
static void disconnect(struct sim_batch *b)
{
	if (!b->want.continue_on_disconnect && !b->asynchronous)
		world_end(b, WHY_DISCONNECTED);
	if (b->want.continue_on_disconnect || dice_chance(30))
		world_detach(b);
}

/* In good order: first every shard drains, then what is left is cut. */
static void go_down(bool at_once)
{
	sim.down = true;
	for (unsigned i = 0; i < sim.n_shards; i++)
		if (!sim.draining[i])
			world_drain(i);
	for (unsigned i = 0; at_once && i < sim.n_shards; i++)
		world_shut_down(i);
}

static void come_back(struct act *a)
{
	if (!sim.down)
		return;
	if (!sim.shut_down)
		go_down(true);
	if (life_is_quiet())
		life_restart(1 + (unsigned)dice_below(MAX_SHARDS));
	else
		event_at(&a->event, clock_now() + POLL_US);
}

/* Whose thread it is in. */
static unsigned shard_of(const struct act *a)
{
	const struct sim_batch *b = &sim.batches[a->on];

	switch (a->kind) {
	case ACT_SUBMIT:
	case ACT_DISCONNECT:
	case ACT_DETACH:
		return b->shard % sim.n_shards;
	case ACT_CANCEL:
	case ACT_WATCH:
	case ACT_LEAVE:
		return b->fate == FATE_KEPT ? batch_id_shard(b->id) % sim.n_shards : b->shard % sim.n_shards;
	case ACT_DRAIN:
	case ACT_SHUT_DOWN:
	case ACT_STALL:
	case ACT_CRASH:
	case ACT_GO_DOWN:
	case ACT_COME_BACK:
	case ACT_DISK_FAILS:
	case ACT_DISK_BUSY:
	case ACT_RELOAD:
		break;
	}
	return a->on % sim.n_shards;
}

/* Not now: the loop that it would run in stands still, or the process goes down. */
static bool is_put_off(struct act *a)
{
	int64_t until = fake_loop_stalled_until(sim.loops[shard_of(a)]);

	if (a->kind == ACT_COME_BACK)
		return false;
	if (sim.down && a->kind != ACT_SUBMIT)
		until = clock_now() + POLL_US;
	if (until <= clock_now())
		return false;
	event_at(&a->event, until);
	return true;
}

static void on_act(struct event *e)
{
	struct act *a = container_of(e, struct act, event);

	if (sim.dead) {
		event_at(&a->event, clock_now() + POLL_US);
		return;
	}
	if (is_put_off(a))
		return;
	switch (a->kind) {
	case ACT_SUBMIT:
		world_submit(&sim.batches[a->on]);
		break;
	case ACT_DISCONNECT:
		disconnect(&sim.batches[a->on]);
		break;
	case ACT_CANCEL:
		world_end(&sim.batches[a->on], WHY_CANCELLED);
		break;
	case ACT_DETACH:
		world_detach(&sim.batches[a->on]);
		break;
	case ACT_WATCH:
		listen_watch(&sim.batches[a->on]);
		break;
	case ACT_LEAVE:
		listen_leave(&sim.batches[a->on], false);
		break;
	case ACT_CRASH:
		life_crash(1 + (unsigned)dice_below(MAX_SHARDS));
		break;
	case ACT_GO_DOWN:
		go_down(dice_chance(20));
		a->kind = ACT_COME_BACK;
		event_at(&a->event, clock_now() + dice_span(0, 10000000));
		break;
	case ACT_COME_BACK:
		come_back(a);
		break;
	case ACT_DISK_FAILS:
		store_disk_fail(sim.disk, clock_now() + dice_log(1000, 30000000));
		break;
	case ACT_DISK_BUSY:
		store_disk_busy(sim.disk, clock_now() + dice_log(1000, 5000000));
		break;
	case ACT_RELOAD:
		world_reload();
		break;
	case ACT_DRAIN:
		a->on %= sim.n_shards;
		if (!sim.draining[a->on])
			world_drain(a->on);
		break;
	case ACT_SHUT_DOWN:
		a->on %= sim.n_shards;
		if (!sim.draining[a->on])
			world_drain(a->on);
		world_shut_down(a->on);
		break;
	case ACT_STALL:
		cover_race(RACE_STALLED);
		fake_loop_stall(sim.loops[a->on % sim.n_shards], clock_now() + dice_log(1000, 2000000));
		break;
	}
}

static void act_at(enum act_kind kind, unsigned on, int64_t at_us)
{
	struct act *a = xcalloc(1, sizeof *a);

	*a = (struct act){.kind = kind, .on = on, .next = acts};
	acts = a;
	event_init(&a->event, NULL, on_act);
	event_at(&a->event, at_us);
}

static void plan_ends(unsigned i)
{
	const struct sim_batch *b = &sim.batches[i];

	while (dice_chance(30))
		act_at(dice_chance(60) ? ACT_DISCONNECT : ACT_CANCEL, i,
		       b->submit_us + dice_span(0, dice_chance(50) ? 50000 : 30000000));
	if (dice_chance(5))
		act_at(ACT_DETACH, i, b->submit_us + dice_span(0, 5000000));
	if (dice_chance(20)) {
		sim.batches[i].act_on_settled = 1 + (unsigned)dice_below(4);
		sim.batches[i].act = dice_chance(50) ? WHY_DISCONNECTED : WHY_CANCELLED;
	}
}

static void plan_shutdown(void)
{
	int64_t at = clock_now() + dice_span(0, 30000000);

	for (unsigned i = 0; i < sim.n_shards; i++) {
		int64_t drain = at + dice_between(0, 3000);

		act_at(ACT_DRAIN, i, drain);
		if (dice_chance(70))
			act_at(ACT_SHUT_DOWN, i, drain + dice_span(0, 10000000));
	}
}

/* When the world is likely to be in the middle of something. */
static int64_t some_time(void)
{
	const struct sim_batch *b = &sim.batches[dice_below(sim.n_batches)];

	return b->submit_us + dice_span(0, dice_chance(50) ? 100000 : dice_chance(80) ? 30000000 : 3600000000);
}

static void plan_disk(void)
{
	while (dice_chance(25))
		act_at(dice_chance(60) ? ACT_DISK_FAILS : ACT_DISK_BUSY, 0, some_time());
}

static void plan_lives(void)
{
	unsigned ends = dice_chance(60) ? 1 + (unsigned)dice_below(4) : 0;

	plan_disk();
	for (unsigned i = 0; i < ends; i++)
		act_at(dice_chance(70) ? ACT_CRASH : ACT_GO_DOWN, 0, some_time());
}

static void plan_watchers(unsigned i)
{
	const struct sim_batch *b = &sim.batches[i];

	while (b->durable && dice_chance(40)) {
		int64_t at = b->submit_us + dice_span(0, 10000000);

		act_at(ACT_WATCH, i, at);
		if (dice_chance(30))
			act_at(ACT_LEAVE, i, at + dice_span(0, 10000000));
	}
}

void act_plan(void)
{
	if (sim.jobs)
		plan_lives();
	for (unsigned i = 0; i < sim.n_batches; i++) {
		sim.batches[i].held = !sim.contended && i > 0 && dice_chance(10);
		if (sim.batches[i].held)
			continue;
		act_at(ACT_SUBMIT, i, sim.batches[i].submit_us);
		if (sim.contended)
			continue;
		plan_ends(i);
		plan_watchers(i);
	}
	if (!sim.contended && dice_chance(15))
		plan_shutdown();
	while (!sim.contended && !sim.stalls && dice_chance(20))
		act_at(ACT_RELOAD, 0, some_time());
	for (unsigned i = 0; sim.stalls && i < 4; i++) {
		unsigned shard = (unsigned)dice_below(sim.n_shards);

		act_at(ACT_STALL, shard, clock_now() + dice_span(0, 10000000));
	}
}

void act_free(void)
{
	while (acts != NULL) {
		struct act *a = acts;

		acts = a->next;
		free(a);
	}
}

/* A job's caller has its answer; it may go on to wait, as `wait=N` does. */
void act_in_accepted(struct sim_batch *b)
{
	if (dice_chance(40))
		listen_watch(b);
	if (b->asynchronous && dice_chance(80))
		world_detach(b);
}

/* Inside a listener's call: the dispatcher must bear being asked from there. */
void act_in_settled(struct sim_batch *b)
{
	struct sim_batch *other = &sim.batches[dice_below(sim.n_batches)];

	cover_race(RACE_END_IN_CALLBACK);
	if (!other->durable && other->shard == b->shard && dice_chance(50))
		world_end(other, b->act);
	world_end(b, b->act);
	if (dice_chance(20))
		world_detach(b);
}

void act_in_done(const struct sim_batch *b)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *next = &sim.batches[i];

		if (!next->held || next->shard != b->shard)
			continue;
		next->held = false;
		if (sim.down)
			continue;
		cover_race(RACE_SUBMIT_IN_CALLBACK);
		world_submit(next);
	}
}
