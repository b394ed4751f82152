/*
 * Fair turns: of two that have something ready in a lane all the time, each gets
 * starts in proportion to its weight, whatever else goes on there.
 *
 * Judged in worlds that are made for it (sim.contended), where whoever has
 * anything ready has it in the lane: no limit of a batch's own is in its way.
 */
#include "sim.h"

/* It is in the lane, and has been for long enough to be seen there. */
static bool is_ready(const struct sim_batch *b, const struct sim_item *it, const struct sim_item *like)
{
	int64_t slack = 2 * sim.set.delay_us + 8 * sim.set.turn_us;

	return it->state == ITEM_QUEUED && it->starts == it->attempts && it->since_us + slack < clock_now() &&
	       b->end.why == WHY_NONE && it->service == like->service && slice_eq(model_origin(it), model_origin(like));
}

static bool has_ready(const struct sim_batch *b, const struct sim_item *like)
{
	for (unsigned i = 0; b->submitted && !b->done && i < b->n_items; i++)
		if (is_ready(b, &b->items[i], like))
			return true;
	return false;
}

/* Since when has the batch had something ready all the time? */
static void note_ready(const struct sim_item *like)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *b = &sim.batches[i];

		if (!has_ready(b, like))
			b->ready_us = NEVER;
		else if (b->ready_us == NEVER)
			b->ready_us = clock_now();
	}
}

/* Who shares what: tenants the lane, a tenant's priorities its turns, and batches of
 * one priority the turns of that. */
enum level { LEVEL_TENANTS, LEVEL_PRIORITIES, LEVEL_BATCHES };

static enum level level_of(const struct sim_batch *b, const struct sim_batch *c)
{
	if (b->tenant != c->tenant)
		return LEVEL_TENANTS;
	return b->want.priority != c->want.priority ? LEVEL_PRIORITIES : LEVEL_BATCHES;
}

static double weight_at(const struct sim_batch *b, enum level level)
{
	if (level == LEVEL_TENANTS)
		return sim.config.tenants[b->tenant].weight;
	return level == LEVEL_PRIORITIES ? 1 + b->want.priority : 1;
}

/* Does a start of batch c count as one of b's at this level? */
static bool counts_for(const struct sim_batch *c, const struct sim_batch *b, enum level level)
{
	return c == b || (level < LEVEL_BATCHES && c->tenant == b->tenant &&
			  (level == LEVEL_TENANTS || c->want.priority == b->want.priority));
}

static unsigned starts_of(unsigned account, const struct sim_batch *b, enum level level, int64_t since_us)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sim.n_requests; i++) {
		const struct request *r = &sim.requests[i];

		n += r->account == (int)account && r->start_us > since_us &&
		     counts_for(&sim.batches[r->batch], b, level);
	}
	return n;
}

/* Neither is ahead of the other by more than two turns of each. */
static void check_pair(unsigned account, const struct sim_batch *b, const struct sim_batch *c)
{
	static const char *const names[] = {"tenants", "priorities", "batches"};
	enum level level = level_of(b, c);
	int64_t since = MAX(b->ready_us, c->ready_us);
	unsigned nb = starts_of(account, b, level, since), nc = starts_of(account, c, level, since);
	double wb = weight_at(b, level), wc = weight_at(c, level), ahead = nb / wb - nc / wc, most = 2 / wb + 2 / wc;

	CHECK(FAIR, ahead <= most && ahead >= -most, "of two %s %u and %u starts, at weights of %g and %g",
	      names[level], nb, nc, wb, wc);
	if (nb + nc > 20 && wb != wc)
		cover_race(level == LEVEL_TENANTS ? RACE_TENANTS_SHARE : RACE_PRIORITIES_SHARE);
}

/* An attempt of `like` starts in this lane, and is in the ledger. */
void check_fair(unsigned account, const struct sim_item *like)
{
	if (!sim.contended)
		return;
	note_ready(like);
	for (unsigned i = 0; i < sim.n_batches; i++)
		for (unsigned j = 0; j < i; j++)
			if (sim.batches[i].ready_us != NEVER && sim.batches[j].ready_us != NEVER)
				check_pair(account, &sim.batches[i], &sim.batches[j]);
}
