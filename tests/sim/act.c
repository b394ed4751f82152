/*
 * What clients, operators and the system do to a random world: submit, leave,
 * cancel, drain, shut down, and let a thread stand still.
 */
#include <stdlib.h>

#include "sim.h"

enum act_kind { ACT_SUBMIT, ACT_DISCONNECT, ACT_CANCEL, ACT_DETACH, ACT_DRAIN, ACT_SHUT_DOWN, ACT_STALL };

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
	if (!b->want.continue_on_disconnect)
		world_end(b, WHY_DISCONNECTED);
	if (b->want.continue_on_disconnect || dice_chance(30))
		world_detach(b);
}

static void on_act(struct event *e)
{
	struct act *a = container_of(e, struct act, event);

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
	case ACT_DRAIN:
		if (!sim.draining[a->on])
			world_drain(a->on);
		break;
	case ACT_SHUT_DOWN:
		if (!sim.draining[a->on])
			world_drain(a->on);
		world_shut_down(a->on);
		break;
	case ACT_STALL:
		cover_race(RACE_STALLED);
		fake_loop_stall(sim.loops[a->on], clock_now() + dice_log(1000, 2000000));
		break;
	}
}

static void act_at(enum act_kind kind, unsigned on, unsigned shard, int64_t at_us)
{
	struct act *a = xcalloc(1, sizeof *a);

	*a = (struct act){.kind = kind, .on = on, .next = acts};
	acts = a;
	event_init(&a->event, sim.loops[shard], on_act);
	event_at(&a->event, at_us);
}

static void plan_ends(unsigned i)
{
	const struct sim_batch *b = &sim.batches[i];

	while (dice_chance(30))
		act_at(dice_chance(60) ? ACT_DISCONNECT : ACT_CANCEL, i, b->shard,
		       b->submit_us + dice_span(0, dice_chance(50) ? 50000 : 30000000));
	if (dice_chance(5))
		act_at(ACT_DETACH, i, b->shard, b->submit_us + dice_span(0, 5000000));
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

		act_at(ACT_DRAIN, i, i, drain);
		if (dice_chance(70))
			act_at(ACT_SHUT_DOWN, i, i, drain + dice_span(0, 10000000));
	}
}

void act_plan(void)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		sim.batches[i].held = i > 0 && dice_chance(10);
		if (sim.batches[i].held)
			continue;
		act_at(ACT_SUBMIT, i, sim.batches[i].shard, sim.batches[i].submit_us);
		plan_ends(i);
	}
	if (dice_chance(15))
		plan_shutdown();
	for (unsigned i = 0; sim.stalls && i < 4; i++) {
		unsigned shard = (unsigned)dice_below(sim.n_shards);

		act_at(ACT_STALL, shard, shard, clock_now() + dice_span(0, 10000000));
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

/* Inside a listener's call: the dispatcher must bear being asked from there. */
void act_in_settled(struct sim_batch *b)
{
	struct sim_batch *other = &sim.batches[dice_below(sim.n_batches)];

	cover_race(RACE_END_IN_CALLBACK);
	if (other->shard == b->shard && dice_chance(50))
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
		cover_race(RACE_SUBMIT_IN_CALLBACK);
		world_submit(next);
	}
}
