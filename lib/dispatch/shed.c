/*
 * Shedding: items of best_effort batches that have not started make room for others,
 * from the high-water mark on: of the lowest priority first, and there of the newest
 * batch first.
 *
 *   above the mark ──► every shard is asked ──► each looks how much is too much, and sheds
 *                      (once, until it looks)   what is its own of the lowest priorities
 *
 * Of a batch what no lane has goes first, from its end, as much as is needed; then all
 * of it that is not in flight: its gate is closed, as at any end from outside, and what
 * was in flight keeps its own result.
 *
 * Invariants
 *  1. A batch is in d.efforts from its begin until its gate is closed, or it is gone.
 *  2. group.sheddable counts the unfinished items of batches in efforts, by priority;
 *     group.shedding those whose gate was closed for this.
 */
#include "admission-i.h"
#include "dispatch-i.h"
#include "live-i.h"
#include "shed-i.h"

uint32_t best_effort_items(const struct dispatch_group *g)
{
	uint32_t n = atomic_load(&g->shedding);

	for (unsigned p = 0; p <= PRIORITY_MAX; p++)
		n += atomic_load(&g->sheddable[p]);
	return n;
}

void shed_count(struct live *lv)
{
	struct batch *b = lv->batch;

	if (!lv->counted || b->policy.contract != CONTRACT_BEST_EFFORT)
		return;
	lv->effort_of = &lv->d->env.group->sheddable[b->policy.priority];
	atomic_fetch_add(lv->effort_of, b->counts.pending);
	list_append(&lv->d->efforts[b->policy.priority], &lv->effort);
}

void shed_uncount(struct live *lv, uint32_t n)
{
	if (lv->effort_of != NULL)
		atomic_fetch_sub(lv->effort_of, n);
}

/* How many items are above the mark, but for those that are on their way out. */
static uint32_t too_many(const struct dispatch *d)
{
	const struct dispatch_group *g = d->env.group;
	uint64_t mark = admission_share(d->env.config->limits.queued_items, 0, true);
	uint64_t used = atomic_load(&g->unfinished), leaving = atomic_load(&g->shedding);

	return used > mark + leaving ? (uint32_t)(used - mark - leaving) : 0;
}

/* What no lane has, from the end, at most n of them. */
static uint32_t shed_pending(struct live *lv, uint32_t n)
{
	struct batch *b = lv->batch;
	uint32_t shed = 0;

	for (uint32_t i = b->n_items; i > b->next_pending && shed < n; i--) {
		struct item *it = &b->items[i - 1];

		if (it->state != ITEM_PENDING)
			continue;
		item_final(lv, it, CODE_NOT_ATTEMPTED, STOP_SHED);
		shed++;
	}
	return shed;
}

/* All the rest that is not in flight: how many these are. */
static uint32_t shed_rest(struct live *lv)
{
	struct batch *b = lv->batch;
	struct dispatch_group *g = lv->d->env.group;
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->n_items; i++)
		n += b->items[i].state != ITEM_FINAL && !atomic_load(&b->items[i].in_flight);
	list_remove(&lv->effort);
	atomic_fetch_sub(lv->effort_of, b->counts.pending);
	lv->effort_of = &g->shedding;
	atomic_fetch_add(lv->effort_of, b->counts.pending);
	if (gate_why(&b->gate) == WHY_NONE)
		live_shed(lv);
	return n;
}

/* Of this shard's batches of one priority, at most about n items. */
static uint32_t shed_some(struct dispatch *d, unsigned priority, uint32_t n)
{
	struct list *all = &d->efforts[priority];
	uint32_t shed = 0;

	while (shed < n && !list_empty(all)) {
		struct live *lv = list_entry(all->prev, struct live, effort);

		shed += shed_pending(lv, n - shed);
		if (shed < n)
			shed += shed_rest(lv);
		live_dirty(lv);
	}
	return MIN(shed, n);
}

static void on_shed(struct loop_msg *msg)
{
	struct dispatch *d = container_of(msg, struct dispatch, shed);
	uint32_t n;

	atomic_store(&d->shed_asked, false);
	n = too_many(d);
	for (unsigned p = 0; p <= PRIORITY_MAX && n > 0; p++) {
		n -= shed_some(d, p, n);
		/* The rest of this priority is other shards' to shed before the next. */
		n -= MIN(n, atomic_load(&d->env.group->sheddable[p]));
	}
}

void shed_if_full(struct dispatch *d)
{
	const struct dispatch_group *g = d->env.group;

	if (too_many(d) == 0 || best_effort_items(g) == 0)
		return;
	for (unsigned i = 0; i < g->n; i++) {
		struct dispatch *to = g->members[i];

		if (atomic_exchange(&to->shed_asked, true))
			continue;
		to->shed.run = on_shed;
		loop_post(to->env.loop, &to->shed);
	}
}

void shed_init(struct dispatch *d)
{
	for (unsigned p = 0; p <= PRIORITY_MAX; p++)
		list_init(&d->efforts[p]);
}
