/*
 * Shedding: items of best_effort batches that have not started make room for others,
 * from the high-water mark of a bound on: of the lowest priority first, and there of the
 * newest batch first.
 *
 *   above the mark ──► every shard is asked ──► each looks how much is too much, and sheds
 *                      (once, until it looks)   what is its own of the lowest priorities
 *
 * Of a batch what no lane has goes first, from its end, as much as is needed; then all
 * of it that is not in flight: its gate is closed, as at any end from outside, and what
 * was in flight keeps its own result. Bytes and callers go with the whole batch.
 *
 * Invariants
 *  1. A batch is in d.efforts from its begin until all of it is shed, it is done, or it
 *     is gone.
 *  2. group.sheddable counts batches in efforts, by priority, and their unfinished items;
 *     group.shedding those that were all shed, until they are done, and their bytes as
 *     long as these are held: what is on its way out is not shed for again.
 */
#include "admission-i.h"
#include "dispatch-i.h"
#include "live-i.h"
#include "shed-i.h"

uint32_t best_effort_items(const struct dispatch_group *g)
{
	uint32_t n = atomic_load(&g->shedding.items);

	for (unsigned p = 0; p <= PRIORITY_MAX; p++)
		n += atomic_load(&g->sheddable[p].items);
	return n;
}

static void count_at(struct live *lv, struct effort_load *of)
{
	lv->effort_of = of;
	atomic_fetch_add(&of->items, lv->batch->counts.pending);
	atomic_fetch_add(&of->callers, 1);
	atomic_fetch_add(&of->bytes, lv->batch->held_bytes);
}

void shed_count(struct live *lv)
{
	struct batch *b = lv->batch;

	if (!lv->counted || b->policy.contract != CONTRACT_BEST_EFFORT)
		return;
	count_at(lv, &lv->d->env.group->sheddable[b->policy.priority]);
	list_append(&lv->d->efforts[b->policy.priority], &lv->effort);
}

void shed_item_final(struct live *lv)
{
	if (lv->effort_of != NULL)
		atomic_fetch_sub(&lv->effort_of->items, 1);
}

void shed_forget(struct live *lv)
{
	struct effort_load *of = STEAL_PTR(lv->effort_of);

	if (of == NULL)
		return;
	list_remove(&lv->effort);
	atomic_fetch_sub(&of->items, lv->batch->counts.pending);
	atomic_fetch_sub(&of->callers, 1);
	if (of != &lv->d->env.group->shedding)
		atomic_fetch_sub(&of->bytes, lv->batch->held_bytes);
}

/* What is above the marks, but for what is on its way out. */
struct excess {
	uint64_t items, callers, bytes;
};

static uint64_t less(uint64_t n, uint64_t by)
{
	return n - MIN(n, by);
}

static uint64_t above_mark(uint64_t limit, uint64_t used, uint64_t leaving)
{
	return less(used, admission_share(limit, 0, true) + leaving);
}

static struct excess too_much(const struct dispatch *d)
{
	const struct config *c = d->env.config;
	const struct dispatch_group *g = d->env.group;
	const struct effort_load *leaving = &g->shedding;

	return (struct excess){
		.items = above_mark(c->limits.queued_items, atomic_load(&g->unfinished), atomic_load(&leaving->items)),
		.callers = above_mark(c->limits.connections, atomic_load(&g->callers), atomic_load(&leaving->callers)),
		.bytes = above_mark(c->limits.queued_bytes, atomic_load(&g->held_bytes), atomic_load(&leaving->bytes)),
	};
}

static bool is_any(const struct excess *x)
{
	return x->items > 0 || x->callers > 0 || x->bytes > 0;
}

/* What no lane has, from the end, at most n of them. */
static uint32_t shed_pending(struct live *lv, uint64_t n)
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

/* All the rest that is not in flight. */
static void shed_rest(struct live *lv, struct excess *x)
{
	struct batch *b = lv->batch;

	for (uint32_t i = 0; i < b->n_items; i++)
		x->items = less(x->items, b->items[i].state != ITEM_FINAL && !atomic_load(&b->items[i].in_flight));
	x->callers = less(x->callers, 1);
	x->bytes = less(x->bytes, b->held_bytes);
	shed_forget(lv);
	count_at(lv, &lv->d->env.group->shedding);
	b->held[HELD_SHED] = &lv->d->env.group->shedding.bytes;
	if (gate_why(&b->gate) == WHY_NONE)
		live_shed(lv);
}

/* Of this shard's batches of one priority. */
static void shed_some(struct dispatch *d, unsigned priority, struct excess *x)
{
	struct list *all = &d->efforts[priority];

	while (is_any(x) && !list_empty(all)) {
		struct live *lv = list_entry(all->prev, struct live, effort);

		if (x->callers == 0 && x->bytes == 0)
			x->items -= shed_pending(lv, x->items);
		if (is_any(x))
			shed_rest(lv, x);
		live_dirty(lv);
	}
}

static void on_shed(struct loop_msg *msg)
{
	struct dispatch *d = container_of(msg, struct dispatch, shed);
	struct excess x;

	atomic_store(&d->shed_asked, false);
	x = too_much(d);
	for (unsigned p = 0; p <= PRIORITY_MAX && is_any(&x); p++) {
		const struct effort_load *others = &d->env.group->sheddable[p];

		shed_some(d, p, &x);
		/* The rest of this priority is other shards' to shed before the next. */
		x.items = less(x.items, atomic_load(&others->items));
		x.callers = less(x.callers, atomic_load(&others->callers));
		x.bytes = less(x.bytes, atomic_load(&others->bytes));
	}
}

void shed_if_full(struct dispatch *d)
{
	const struct dispatch_group *g = d->env.group;
	const struct excess x = too_much(d);

	if (!is_any(&x) || best_effort_items(g) == 0)
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
