/*
 * What ends batches in memory from outside: a cancel, a deadline, a first failure, other
 * batches' need of room, the end of the process.
 *
 *   live_cancel() ─► op_cancel() ─┐                   ┌─► the pump settles what no lane has
 *   a deadline ───────────────────┴─► live_on_cancel() ┤
 *                                                     └─► the lanes end what they have
 *   live_shed(), live_hand_over(): the same, but what is in flight may finish
 *
 * Invariants
 *  1. The gate is closed before any lane is told: no attempt starts after it.
 *  2. A batch whose store has not answered yet is ended when it has.
 *  3. A job that the next process goes on with keeps its state: it is only let go of.
 */
#include <stdlib.h>

#include "dispatch-i.h"
#include "jobs-i.h"
#include "lane-i.h"
#include "live-i.h"

/* ---- what lanes hear ---- */

struct cancel_msg {
	struct loop_msg msg;
	struct dispatch *at;
	struct batch_id batch;
	enum why why;
};

static void on_cancel_msg(struct loop_msg *msg)
{
	struct cancel_msg *c = container_of(msg, struct cancel_msg, msg);

	lane_on_cancel(c->at, c->batch, c->why);
	free(c);
}

static void tell_lanes(struct live *lv, enum why why)
{
	const struct dispatch_group *g = lv->d->env.group;

	for (unsigned i = 0; i < g->n; i++) {
		struct cancel_msg *c;

		if (!(lv->shards >> i & 1))
			continue;
		c = xcalloc(1, sizeof *c);
		*c = (struct cancel_msg){.msg.run = on_cancel_msg, .at = g->members[i],
					 .batch = lv->batch->id, .why = why};
		loop_post(c->at->env.loop, &c->msg);
	}
}

/* ---- cancels and deadlines ---- */

/* An end of the process ends no job: its items go on with the next one. */
bool live_goes_on(const struct live *lv, enum why why)
{
	return lv->batch->asynchronous && (why == WHY_PARKED || why == WHY_SHUTDOWN);
}

bool live_leaving(const struct live *lv)
{
	return live_goes_on(lv, gate_why(&lv->batch->gate));
}

void live_on_cancel(struct op *op, enum why why)
{
	struct batch *b = container_of(op, struct batch, op);

	/* With every item final it has ended by itself, but for the pump's last look. */
	if (b->counts.pending == 0 && why != WHY_FIRST_FAILURE)
		return;
	gate_close(&b->gate, why);
	if (!live_leaving(b->live)) {
		batch_set_state(b, BATCH_CANCELLING);
		b->live->ended_us = loop_now_us(b->live->d->env.loop);
	}
	tell_lanes(b->live, why);
	live_dirty(b->live);
}

void live_cancel(struct live *lv, enum why why)
{
	switch (lv->phase) {
	case LIVE_ACCEPTING:
		if (lv->end_early == WHY_NONE)
			lv->end_early = why;
		break;
	case LIVE_RUNNING:
	case LIVE_PARKING:
		op_cancel(&lv->d->ops, &lv->batch->op, why);
		break;
	case LIVE_FINISHING:
		break;
	}
}

void dispatch_cancel(struct dispatch *d, struct batch_id id, enum why why)
{
	struct live *lv = live_find(d, id);

	if (lv != NULL)
		live_cancel(lv, why);
}

bool dispatch_cancel_job(struct dispatch *d, struct batch_id id, struct slice tenant)
{
	struct live *lv = live_find(d, id);

	if (lv == NULL)
		return jobs_cancel(d, id, tenant);
	if (!slice_eq(lv->batch->tenant, tenant))
		return false;
	live_cancel(lv, WHY_CANCELLED);
	return lv->phase != LIVE_FINISHING;
}

void dispatch_cancel_all(struct dispatch *d, enum why why)
{
	REQUIRE(d->draining);
	op_cancel(&d->ops, &d->root, why);
}

/* ---- what is in flight may finish ---- */

void live_hand_over(struct live *lv)
{
	if (gate_why(&lv->batch->gate) != WHY_NONE)
		return;
	gate_close(&lv->batch->gate, WHY_PARKED);
	tell_lanes(lv, WHY_PARKED);
	live_dirty(lv);
}

void live_shed(struct live *lv)
{
	gate_close(&lv->batch->gate, WHY_SHED);
	tell_lanes(lv, WHY_SHED);
}

/* A job of a shard that goes down, unless somebody waits for it. */
static void hand_over(struct live *lv)
{
	if (lv->batch->asynchronous && lv->listener == NULL && lv->phase != LIVE_ACCEPTING)
		live_hand_over(lv);
}

void dispatch_drain(struct dispatch *d, void (*on_idle)(void *arg), void *arg)
{
	d->draining = true;
	d->on_idle = on_idle;
	d->on_idle_arg = arg;
	list_foreach(node, &d->live)
		hand_over(list_entry(node, struct live, all));
	dispatch_pump_soon(d);
}

void dispatch_detach(struct dispatch *d, struct batch_id id)
{
	struct live *lv = live_find(d, id);

	if (lv == NULL)
		return;
	lv->listener = NULL;
	if (d->draining)
		hand_over(lv);
	else if (lv->batch->asynchronous)
		live_dirty(lv);
}
