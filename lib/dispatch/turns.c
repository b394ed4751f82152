/*
 * Whose turn it is. The rule is in turns-i.h, beside the struct.
 *
 *   turns ── share (a tenant's) ── priority ── turn (a batch's) ── attempts
 *
 * Invariants
 *  1. A share exists exactly while it has turns, a turn while it has attempts.
 *  2. Of each kind apart: a share is in turns.shares[kind], and a turn in its
 *     share's turns[kind], exactly while it has attempts of that kind. Everything
 *     is of the kind TURN_ANY.
 *  3. A tag is never earlier than the clock that it began at; a clock never goes
 *     back. What could not be served for a while, as repeats without budget,
 *     catches up by one turn at most.
 */
#include <stdlib.h>

#include "attempt-i.h"
#include "dispatch-i.h"
#include "turns-i.h"

enum {
	PRIORITIES = PRIORITY_MAX + 1,
	TENANT_SCALE = 1 << 20,          /* weights above it are all alike */
	PRIORITY_SCALE = 2520,           /* what 1 to 10 divide */
};

struct share {
	struct idmap_node node;          /* key: queue and tenant */
	struct turns *of;
	struct heap_node at[TURN_KINDS];
	struct list turns[TURN_KINDS][PRIORITIES];
	int64_t tag, clock;
	int64_t tags[PRIORITIES];
	unsigned weight;
	unsigned n[TURN_KINDS];          /* turns */
};

struct turn {
	struct idmap_node node;          /* key: queue and batch */
	struct share *share;
	struct list at[TURN_KINDS];      /* in share->turns */
	struct list first, repeats;      /* attempts */
	unsigned priority;
};

void turns_free(struct turns *q)
{
	REQUIRE(q->n[TURN_ANY] == 0);
	for (int kind = 0; kind < TURN_KINDS; kind++)
		heap_free(&q->shares[kind]);
}

static int64_t stride(const struct share *share)
{
	return MAX(TENANT_SCALE / MAX((int64_t)share->weight, 1), 1);
}

static int64_t priority_stride(unsigned priority)
{
	return PRIORITY_SCALE / (1 + (int64_t)priority);
}

static struct share *share_get(struct dispatch *d, struct turns *q, const struct attempt *a)
{
	struct batch_id key = {.hi = (uintptr_t)q, .lo = a->tenant};
	struct share *share;

	for (struct idmap_node *n = idmap_find(&d->shares, key); n != NULL; n = idmap_next(n)) {
		share = container_of(n, struct share, node);
		share->weight = a->weight;
		return share;
	}
	share = xcalloc(1, sizeof *share);
	share->of = q;
	share->weight = a->weight;
	share->tag = q->clock + stride(share);
	for (int kind = 0; kind < TURN_KINDS; kind++) {
		for (int p = 0; p < PRIORITIES; p++)
			list_init(&share->turns[kind][p]);
	}
	idmap_add(&d->shares, &share->node, key);
	return share;
}

static struct turn *turn_get(struct dispatch *d, struct turns *q, const struct attempt *a)
{
	struct batch_id key = {.hi = a->batch.hi ^ (uintptr_t)q, .lo = a->batch.lo};
	struct turn *turn;

	for (struct idmap_node *n = idmap_find(&d->turns, key); n != NULL; n = idmap_next(n)) {
		turn = container_of(n, struct turn, node);
		if (turn->share->of == q)
			return turn;
	}
	turn = xcalloc(1, sizeof *turn);
	turn->share = share_get(d, q, a);
	turn->priority = a->priority;
	list_init(&turn->at[TURN_FIRST]);
	list_init(&turn->at[TURN_ANY]);
	list_init(&turn->first);
	list_init(&turn->repeats);
	idmap_add(&d->turns, &turn->node, key);
	return turn;
}

static bool has(const struct turn *turn, enum turn_kind kind)
{
	return !list_empty(&turn->first) || (kind == TURN_ANY && !list_empty(&turn->repeats));
}

/* Into its share's list of the kind or out of it, as its attempts want. */
static void turn_place(struct turn *turn, enum turn_kind kind)
{
	struct share *share = turn->share;
	struct list *all = &share->turns[kind][turn->priority];
	bool is_in = !list_empty(&turn->at[kind]);

	if (has(turn, kind) == is_in)
		return;
	if (is_in) {
		list_remove(&turn->at[kind]);
		if (--share->n[kind] == 0)
			heap_remove(&share->of->shares[kind], &share->at[kind]);
		return;
	}
	if (kind == TURN_ANY && list_empty(all))
		share->tags[turn->priority] = share->clock + priority_stride(turn->priority);
	list_append(all, &turn->at[kind]);
	if (share->n[kind]++ == 0)
		heap_set(&share->of->shares[kind], &share->at[kind], share->tag);
}

static void turn_set(struct dispatch *d, struct turn *turn)
{
	struct share *share = turn->share;

	turn_place(turn, TURN_ANY);
	turn_place(turn, TURN_FIRST);
	if (has(turn, TURN_ANY))
		return;
	idmap_remove(&d->turns, &turn->node);
	free(turn);
	if (share->n[TURN_ANY] > 0)
		return;
	idmap_remove(&d->shares, &share->node);
	free(share);
}

void turns_add(struct dispatch *d, struct turns *q, struct attempt *a)
{
	a->turn = turn_get(d, q, a);
	list_append(a->repeat ? &a->turn->repeats : &a->turn->first, &a->node);
	q->n[TURN_ANY]++;
	if (!a->repeat)
		q->n[TURN_FIRST]++;
	turn_set(d, a->turn);
}

void turns_remove(struct dispatch *d, struct attempt *a)
{
	struct turn *turn = STEAL_PTR(a->turn);
	struct turns *q = turn->share->of;

	list_remove(&a->node);
	q->n[TURN_ANY]--;
	if (!a->repeat)
		q->n[TURN_FIRST]--;
	turn_set(d, turn);
}

static struct turn *next_of_share(const struct share *share, enum turn_kind kind)
{
	const struct list *best = NULL;
	int64_t best_tag = INT64_MAX;

	for (int p = PRIORITY_MAX; p >= 0; p--) {
		if (list_empty(&share->turns[kind][p]) || share->tags[p] >= best_tag)
			continue;
		best = &share->turns[kind][p];
		best_tag = share->tags[p];
	}
	return list_entry(best->next, struct turn, at[kind]);
}

/* A repeat has waited longer than what its batch has not begun. */
struct attempt *turns_next(const struct turns *q, enum turn_kind kind)
{
	const struct heap *shares = &q->shares[kind];
	const struct turn *turn;
	const struct list *from;

	if (shares->n == 0)
		return NULL;
	turn = next_of_share(container_of(shares->v[0], struct share, at[kind]), kind);
	from = kind == TURN_ANY && !list_empty(&turn->repeats) ? &turn->repeats : &turn->first;
	return list_entry(from->next, struct attempt, node);
}

void turns_charge(struct attempt *a)
{
	struct turn *turn = a->turn;
	struct share *share = turn->share;
	struct turns *q = share->of;
	unsigned p = turn->priority;

	q->clock = MAX(q->clock, share->tag);
	share->tag = q->clock + stride(share);
	share->clock = MAX(share->clock, share->tags[p]);
	share->tags[p] = share->clock + priority_stride(p);
	for (int kind = 0; kind < TURN_KINDS; kind++) {
		if (list_empty(&turn->at[kind]))
			continue;
		heap_set(&q->shares[kind], &share->at[kind], share->tag);
		list_remove(&turn->at[kind]);
		list_append(&share->turns[kind][p], &turn->at[kind]);
	}
}
