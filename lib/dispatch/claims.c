/*
 * Claims: the store has it in writing that a durable attempt may have begun before
 * it begins. How many are held is said in lane_policy.c.
 *
 *   unclaimed ── asked for ──► (waits for the store) ── answer ──► ready
 */
#include "attempt-i.h"
#include "lane-i.h"
#include "store/store.h"

static void on_claimed(struct store_op *op)
{
	struct attempt *a = container_of(op, struct attempt, claim.op);
	struct dispatch *d = a->at;
	struct lane *lane = a->lane;

	/* The store has given up, as the process is about to end: the next one claims it. */
	if (op->answer != STORE_OK)
		op_cancel(&d->ops, &a->op, WHY_SHUTDOWN);
	a->claimed = CLAIM_HELD;
	lane_dirty(d, lane);
	turns_add(d, &lane->ready, a);
	if (a->op.why == WHY_NONE)
		return;
	lane_unqueue(d, a);
	list_append(&d->ended, &a->node);
}

static void ask(struct dispatch *d, struct lane *lane, struct attempt *a)
{
	turns_charge(a);
	turns_remove(d, a);
	lane->claims++;
	lane->claimed_repeats += a->repeat;
	d->claims++;
	a->claimed = CLAIM_ASKED;
	a->claim.op = (struct store_op){.what = STORE_CLAIM, .reply_to = d->env.loop, .on_done = on_claimed};
	store_ask(d->env.store, &a->claim.op);
}

void claim_ahead(struct dispatch *d, struct lane *lane, int64_t until_us)
{
	while (lane->unclaimed.n[TURN_ANY] > 0) {
		int64_t now_us = loop_now_us(d->env.loop);
		struct attempt *a;

		if (lane->claims >= lane_claims(d, lane, now_us))
			return;
		if (now_us > until_us) {
			lane_dirty(d, lane);
			return;
		}
		a = turns_next(&lane->unclaimed, lane_claim_kind(d, lane, now_us));
		if (a == NULL)
			return;
		if (!lane_ends(d, a, now_us))
			ask(d, lane, a);
	}
}
