/*
 * The lanes of an origin that has several: where they are, which of them an attempt
 * takes, and what one tells the others.
 *
 * They follow each other over the shards, from the one that the origin's name hashes to.
 * Each keeps to its part of what its service allows, so no limit needs to be spoken of.
 * What they know of each other is how many attempts each has and whether it refuses them,
 * which are hints; and a pause, as it is the origin that asks for it.
 */
#include <limits.h>
#include <stdlib.h>

#include "attempt-i.h"
#include "core/part.h"
#include "lane-i.h"

/* So many more than another one has are not worth a message to its shard. */
enum { LANE_NEAR = 8 };

static unsigned lane_shard(const struct dispatch_group *g, uint64_t hash, unsigned number)
{
	return (unsigned)(((hash >> 32) + number) % g->n);
}

/* ---- which one ---- */

struct sight {
	unsigned number;
	int room;                        /* less than nothing: so many wait */
};

/* One that refuses is empty, and comes last all the same. */
static struct sight look(const struct lane_board *b, const struct service *s, unsigned number, int64_t now_us)
{
	unsigned load = atomic_load_explicit(&b->load[number], memory_order_relaxed);
	bool refuses = atomic_load_explicit(&b->refuses_until_us[number], memory_order_relaxed) > now_us;
	int room = (int)part_of(s->max_in_flight, s->lanes, number) - (int)load;

	return (struct sight){.number = number, .room = refuses ? INT_MIN : room};
}

/* The one with the most room or the shortest queue, of equals the one whose turn it is.
 * One on this shard does as well while it has room, but for what a rate grants, which is
 * for all of them to use up. */
static unsigned choose(struct dispatch *d, const struct service *s, const struct attempt *a)
{
	struct lane_board *b = &d->env.group->boards[a->service];
	unsigned turn = atomic_fetch_add_explicit(&b->turn, 1, memory_order_relaxed);
	int64_t now_us = loop_now_us(d->env.loop);
	struct sight best = look(b, s, turn % s->lanes, now_us), here = {0};

	for (unsigned i = 0; i < s->lanes; i++) {
		struct sight it = look(b, s, (turn + i) % s->lanes, now_us);

		if (it.room > best.room)
			best = it;
		if (it.room > here.room && lane_shard(d->env.group, a->hash, it.number) == d->env.shard)
			here = it;
	}
	if (s->rate.per_second <= 0 && here.room > 0 && here.room + LANE_NEAR >= best.room)
		return here.number;
	return best.number;
}

void spread_out(struct dispatch *d, struct attempt *a)
{
	const struct service *s = &d->env.config->services[a->service];

	if (s->lanes > 1) {
		a->number = (uint8_t)choose(d, s, a);
		a->load = &d->env.group->boards[a->service].load[a->number];
		atomic_fetch_add_explicit(a->load, 1, memory_order_relaxed);
	}
	a->at = d->env.group->members[lane_shard(d->env.group, a->hash, a->number)];
}

void spread_back(struct attempt *a)
{
	if (a->load != NULL)
		atomic_fetch_sub_explicit(a->load, 1, memory_order_relaxed);
}

/* ---- a pause ---- */

struct pause_msg {
	struct loop_msg msg;
	struct dispatch *at;
	struct lane_name name;           /* its origin is in the same memory */
	int64_t until_us;
};

static void on_pause_msg(struct loop_msg *msg)
{
	struct pause_msg *p = container_of(msg, struct pause_msg, msg);
	struct lane *lane = lane_find(p->at, &p->name);

	lane_pause(p->at, lane, p->until_us);
	lane_dirty(p->at, lane);
	free(p);
}

void spread_pause(struct dispatch *d, const struct lane *lane)
{
	const struct dispatch_group *g = d->env.group;

	for (unsigned i = 0; i < lane_service(d, lane)->lanes; i++) {
		struct pause_msg *p;

		if (i == lane->number)
			continue;
		p = xcalloc(1, sizeof *p + lane->origin.n);
		memcpy(p + 1, lane->origin.p, lane->origin.n);
		p->msg.run = on_pause_msg;
		p->at = g->members[lane_shard(g, lane->node.id.lo, i)];
		p->name = (struct lane_name){.service = lane->service, .number = (uint8_t)i, .hash = lane->node.id.lo,
					     .origin = {(const char *)(p + 1), lane->origin.n}};
		p->until_us = lane->paused_until_us;
		loop_post(p->at->env.loop, &p->msg);
	}
}
