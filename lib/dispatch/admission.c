/*
 * Admission: what comes into memory, and what those are told that do not.
 *
 * Each bound (limits.queued_items, limits.queued_bytes, limits.connections for callers
 * who wait, a service's max_queued and its limits.queue_ms) is shared out by urgency. A
 * batch of priority p may fill it to (41 + p)/50, so that the last fifth has a slice for
 * each priority, and only 9 has all of it. best_effort has the first four fifths: above
 * them its items are shed, before anybody is refused.
 *
 * Of the process's bounds on items, bytes and callers one service of several may take
 * more only while it holds less than is left: dynamic thresholds, as in residency.c.
 *
 * A service is too far behind if its queue, at the pace of the last seconds, would
 * make the batch wait for more than limits.queue_ms or half of its deadline. Turns
 * are fair, so a small batch waits for as much of each other one as it has itself.
 * The pace of a queue is known only while there is a long one: of a short one it is
 * that of those who send, and who comes with much after it is not to be refused for it.
 *
 * Invariants
 *  1. An item of a counted batch is in group.unfinished and in its service's load
 *     from admission until it is final or its batch leaves the dispatcher; it is in
 *     one of best_effort, too, if its batch may be shed.
 *  2. Nothing here takes a lock, and a shard reads what the others count at its
 *     own time: bounds on items and bytes are exact, the rest are estimates.
 */
#include <stdlib.h>

#include "dispatch-i.h"

/* A queue that is shorter is never too long; a pace is not known from fewer results. */
enum { BEHIND_MIN = 1000, PACE_MIN = 32, PACE_US = 100000, PACE_MAX_US = 1000000 };
/* Seconds. Nothing has finished lately, so nobody knows: long enough to matter. */
enum { RETRY_MAX_S = 60, RETRY_UNKNOWN_S = 10 };

uint64_t admission_share(uint64_t limit, unsigned priority, bool best_effort)
{
	unsigned parts = best_effort ? 40 : 41 + priority;

	return limit / 50 * parts + (limit % 50 * parts + 49) / 50;
}

/* One of several services holds as much as is left: no more of it. */
static bool has_its_part(const struct dispatch *d, uint64_t held, uint64_t left)
{
	return held > 0 && held >= left && services_share(d);
}

/* With `more` there would be too much for best_effort, which then sends nothing. */
static bool sheds(const struct batch *b, uint64_t limit, uint64_t used, uint64_t more)
{
	return b->policy.contract == CONTRACT_BEST_EFFORT && used > 0 &&
	       used + more > admission_share(limit, b->policy.priority, true);
}

/* ---- the pace of a service ---- */

void pace_look(struct pace *p, int64_t now_us, const struct queue_sight *now)
{
	int64_t elapsed_us = now_us - p->since_us;
	uint32_t n = now->settled - p->then.settled;

	if (now->emptied != p->then.emptied) {
		p->per_second = 0;
	} else if (p->then.waiting > 0 && now->waiting > 0) {
		if (elapsed_us < PACE_US || (n < PACE_MIN && elapsed_us < PACE_MAX_US))
			return;
		p->per_second += ((double)n * 1e6 / (double)elapsed_us - p->per_second) * (p->per_second > 0 ? 0.25 : 1);
		p->of_many = p->then.waiting >= BEHIND_MIN && now->waiting >= BEHIND_MIN;
	}
	p->since_us = now_us;
	p->then = *now;
}

void admission_init(struct dispatch *d)
{
	d->admission.outlooks = xcalloc(d->env.config->service_slots, sizeof *d->admission.outlooks);
}

void admission_free(struct dispatch *d)
{
	free(d->admission.outlooks);
}

static struct service_load *load_of(const struct dispatch_group *g, uint16_t service)
{
	return &g->loads[MIN(service, g->service_slots)];
}

/* Items of a service that are not in flight. */
static uint32_t waiting(const struct dispatch *d, uint16_t service)
{
	int64_t in_flight = metrics_read(d->env.meter.metrics, METRIC_IN_FLIGHT, service, 0);
	int64_t n = (int64_t)atomic_load(&load_of(d->env.group, service)->items) - in_flight;

	return (uint32_t)MAX(n, 0);
}

static void look(struct dispatch *d, uint16_t service)
{
	struct service_load *l = load_of(d->env.group, service);
	struct pace *p = &d->admission.outlooks[service].pace;
	int64_t now_us = loop_now_us(d->env.loop);

	if (now_us - p->since_us >= PACE_US || atomic_load(&l->emptied) != p->then.emptied)
		pace_look(p, now_us, &(struct queue_sight){.settled = atomic_load(&l->settled),
							   .emptied = atomic_load(&l->emptied),
							   .waiting = waiting(d, service)});
}

static double pace_of_all(const struct dispatch *d)
{
	double sum = 0;

	for (size_t i = 0; i < d->env.config->n_services; i++)
		sum += d->admission.outlooks[i].pace.per_second;
	return sum;
}

/* ---- refusals ---- */

static const char *const details[] = {
	[BOUND_ITEMS] = "too many unfinished items; nothing was sent",
	[BOUND_BYTES] = "too many bytes are held for unfinished batches; nothing was sent",
	[BOUND_CALLERS] = "too many callers wait for unfinished batches; nothing was sent",
	[BOUND_SERVICE] = "too many unfinished items of one of its services; nothing was sent",
	[BOUND_PACE] = "a service of its items is too far behind; nothing was sent",
};

/* How much there is of what is bounded. */
static uint64_t level(const struct dispatch *d, enum bound bound, uint16_t service)
{
	const struct dispatch_group *g = d->env.group;

	switch (bound) {
	case BOUND_ITEMS:
		return atomic_load(&g->unfinished);
	case BOUND_BYTES:
		return atomic_load(&g->held_bytes);
	case BOUND_CALLERS:
		return atomic_load(&g->callers);
	case BOUND_SERVICE:
		return atomic_load(&load_of(g, service)->items);
	case BOUND_PACE:
		return waiting(d, service);
	}
	REQUIRE(false);
}

bool admission_still_refuses(const struct dispatch *d)
{
	const struct admission *a = &d->admission;

	return a->level > 0 && level(d, a->bound, a->service) >= a->level;
}

/* There is `excess` too much of what is bounded, and so much of it goes in a second. Callers
 * that were refused together are not to come back together. */
static void refuse(struct dispatch *d, enum bound bound, uint16_t service, double excess, double per_second)
{
	double seconds = per_second > 0 ? excess / per_second : RETRY_UNKNOWN_S;
	double jittered = seconds * (1 + (double)rng_below(&d->rng, 256) / 1024);
	double left = (double)level(d, bound, service) - excess;

	d->admission.refusal = (struct dispatch_refusal){
		.detail = details[bound], .retry_after_s = (unsigned)MIN(jittered + 1, RETRY_MAX_S)};
	d->admission.bound = bound;
	d->admission.service = service;
	d->admission.level = 1 + (uint64_t)MAX(left, 0);
}

static void refuse_items(struct dispatch *d, uint64_t excess)
{
	refuse(d, BOUND_ITEMS, 0, (double)excess, pace_of_all(d));
}

static void refuse_bytes(struct dispatch *d, uint64_t excess)
{
	const struct dispatch_group *g = d->env.group;
	double each = (double)atomic_load(&g->held_bytes) / MAX(atomic_load(&g->unfinished), 1u);

	refuse(d, BOUND_BYTES, 0, (double)excess, pace_of_all(d) * each);
}

struct dispatch_refusal dispatch_last_refusal(const struct dispatch *d)
{
	return d->admission.refusal;
}

bool admission_is_full(struct dispatch *d, size_t body_bytes, bool job)
{
	const struct dispatch_group *g = d->env.group;
	const struct config *c = d->env.config;
	uint64_t items = atomic_load(&g->unfinished), bytes = atomic_load(&g->held_bytes) + body_bytes;
	uint64_t least = MAX(c->limits.queued_items / 100, 1u);

	if (bytes > c->limits.queued_bytes)
		refuse_bytes(d, bytes - c->limits.queued_bytes);
	else if (!job && items >= c->limits.queued_items && best_effort_items(g) == 0)
		refuse_items(d, items - c->limits.queued_items + least);
	else
		return false;
	return true;
}

/* ---- items ---- */

/* Of a batch that asks for room. */
struct ask {
	const struct batch *b;
	bool best_effort;
	uint64_t taken;                  /* its items that are counted already */
};

static uint64_t share_of(const struct ask *q, uint64_t limit)
{
	return admission_share(limit, q->b->policy.priority, q->best_effort);
}

/* How many items too many n of them would wait for, of those that wait already; not above
 * 0 if that is not so, or not known. */
static double too_far_behind(struct dispatch *d, const struct ask *q, uint16_t service, uint32_t n)
{
	int64_t patience_ms = MIN(d->env.config->limits.queue_ms, q->b->policy.deadline_ms / 2);
	const struct pace *p = &d->admission.outlooks[service].pace;
	uint64_t ahead = waiting(d, service), others = atomic_load(&load_of(d->env.group, service)->batches);

	if (ahead < BEHIND_MIN || !p->of_many || p->per_second <= 0 || patience_ms == 0)
		return 0;
	/* The asking batch is one of them. */
	ahead = MIN(ahead, n * (others - MIN(others, 1u)));
	return (double)ahead - p->per_second * (double)share_of(q, (uint64_t)patience_ms) / 1000;
}

/* How many of n items there is room for under `limits.queued_items`: they are counted.
 * Items that may be shed stand in nobody's way. */
static uint32_t take_of_all(struct dispatch *d, struct ask *q, uint32_t n, uint64_t *retfree)
{
	struct dispatch_group *g = d->env.group;
	uint64_t limit = d->env.config->limits.queued_items, share = share_of(q, limit);
	uint64_t used = atomic_fetch_add(&g->unfinished, n);
	uint32_t room;

	if (used == q->taken)
		share = limit;
	*retfree = share - MIN(used, share);
	if (!q->best_effort && used + n > share)
		share += best_effort_items(g);
	room = (uint32_t)MIN(share - MIN(used, share), n);
	atomic_fetch_sub(&g->unfinished, n - room);
	if (room < n)
		refuse_items(d, used + n - share);
	return room;
}

/* And of n items of one service under its own bounds. */
static uint32_t take_of_service(struct dispatch *d, const struct ask *q, uint16_t service, uint32_t n, uint64_t free_items)
{
	const struct config *c = d->env.config;
	struct service_load *l = load_of(d->env.group, service);
	uint64_t held = atomic_fetch_add(&l->items, n), most = c->services[service].max_queued;
	uint64_t share = most == 0 ? UINT64_MAX : held == 0 ? most : share_of(q, most);
	uint32_t room = (uint32_t)MIN(share - MIN(held, share), n);

	if (has_its_part(d, held, free_items))
		room = 0;
	atomic_fetch_sub(&l->items, n - room);
	if (room < n)
		refuse(d, BOUND_SERVICE, service, n - room, d->admission.outlooks[service].pace.per_second);
	return room;
}

/* As many of n items of one service as there is room for. */
static uint32_t take_some(struct dispatch *d, struct ask *q, uint16_t service, uint32_t n)
{
	uint64_t free_items;
	double excess;
	uint32_t fit, room;

	look(d, service);
	excess = too_far_behind(d, q, service, n);
	if (excess > 0) {
		refuse(d, BOUND_PACE, service, excess, d->admission.outlooks[service].pace.per_second);
		return 0;
	}
	fit = take_of_all(d, q, n, &free_items);
	room = take_of_service(d, q, service, fit, free_items);
	atomic_fetch_sub(&d->env.group->unfinished, fit - room);
	q->taken += room;
	return room;
}

static void give(struct dispatch *d, uint16_t service, uint32_t n)
{
	struct service_load *l = load_of(d->env.group, service);

	atomic_fetch_sub(&d->env.group->unfinished, n);
	if (atomic_fetch_sub(&l->items, n) == n)
		atomic_fetch_add(&l->emptied, 1);
}

/* Each of its services says how many items it wants: a chain of them, from *first. */
static void count_wanted(struct dispatch *d, const struct batch *b, uint32_t *first)
{
	*first = UINT32_MAX;
	for (uint32_t i = 0; i < b->n_items; i++) {
		struct outlook *o;

		if (b->items[i].state == ITEM_FINAL)
			continue;
		o = &d->admission.outlooks[b->items[i].service];
		if (o->wanted++ == 0) {
			o->next = *first;
			*first = b->items[i].service;
		}
	}
}

/* All items, or those that best_effort may send: then outlook.wanted is how many of each
 * service. False: none, and nothing is counted. */
static bool take_items(struct dispatch *d, struct ask *q, uint32_t first)
{
	bool all = true;

	for (uint32_t s = first; s != UINT32_MAX; s = d->admission.outlooks[s].next) {
		struct outlook *o = &d->admission.outlooks[s];
		uint32_t room = all ? take_some(d, q, (uint16_t)s, o->wanted) : 0;

		all = q->best_effort || room == o->wanted;
		o->wanted = room;
	}
	for (uint32_t s = first; !all && s != UINT32_MAX; s = d->admission.outlooks[s].next)
		give(d, (uint16_t)s, d->admission.outlooks[s].wanted);
	return all;
}

/* What there is no room for ends here: the first ones of a service are those that go out. */
static void shed_unwanted(struct dispatch *d, struct batch *b)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->n_items; i++) {
		struct item *it = &b->items[i];

		if (it->state == ITEM_FINAL)
			continue;
		if (d->admission.outlooks[it->service].wanted > 0) {
			d->admission.outlooks[it->service].wanted--;
			continue;
		}
		item_settle(it, CODE_NOT_ATTEMPTED, STOP_SHED, loop_now_us(d->env.loop));
		n++;
	}
	meter_add(d->env.meter, METRIC_SHED, 0, 0, n);
}

/* Nothing stays wanted for the next batch. */
static void want_nothing(struct dispatch *d, uint32_t first)
{
	for (uint32_t s = first; s != UINT32_MAX; s = d->admission.outlooks[s].next)
		d->admission.outlooks[s].wanted = 0;
}

static bool admit_items(struct dispatch *d, struct batch *b, bool shed_all)
{
	struct ask q = {.b = b, .best_effort = b->policy.contract == CONTRACT_BEST_EFFORT};
	bool taken;
	uint32_t first;

	count_wanted(d, b, &first);
	if (shed_all)
		want_nothing(d, first);
	taken = shed_all || take_items(d, &q, first);
	if (q.best_effort)
		shed_unwanted(d, b);
	else
		want_nothing(d, first);
	return taken;
}

/* ---- bytes ---- */

/* Bytes and callers count for the service of the first item. */
static struct service_load *first_load(const struct dispatch *d, const struct batch *b)
{
	return load_of(d->env.group, b->n_items == 0 ? (uint16_t)ITEM_NO_SERVICE : b->items[0].service);
}

/* Count the bytes of a batch: false, and nothing is counted, if there are too many, so that
 * it is refused. *retshed: they are so many that best_effort sends nothing. */
static bool admit_bytes(struct dispatch *d, struct batch *b, bool counted, bool *retshed)
{
	uint64_t limit = d->env.config->limits.queued_bytes, share = admission_share(limit, b->policy.priority, false);
	size_t bytes = (b->body == NULL ? 0 : b->body->n) + b->n_items * sizeof *b->items;
	struct service_load *l = first_load(d, b);
	uint64_t used = atomic_fetch_add(&d->env.group->held_bytes, bytes);
	uint64_t held = counted ? atomic_load(&l->bytes) : 0;

	if (used == 0)
		share = limit;
	if (used + bytes > share || has_its_part(d, held, share - used)) {
		atomic_fetch_sub(&d->env.group->held_bytes, bytes);
		refuse_bytes(d, bytes);
		return false;
	}
	*retshed = sheds(b, limit, used, bytes);
	b->held = &d->env.group->held_bytes;
	b->held_bytes = bytes;
	if (counted) {
		b->held_too = &l->bytes;
		atomic_fetch_add(b->held_too, bytes);
	}
	return true;
}

/* ---- callers ---- */

/* How many more there are than may be, of a batch whose caller waits; not above 0: it is
 * counted. Each holds a connection, which others need. *retshed: as for bytes. */
static int64_t take_caller(struct dispatch *d, const struct batch *b, bool *retshed)
{
	struct service_load *l = first_load(d, b);
	uint64_t limit = d->env.config->limits.connections;
	uint64_t used = atomic_fetch_add(&d->env.group->callers, 1), held = atomic_fetch_add(&l->batches, 1);
	uint64_t share = used == 0 ? limit : admission_share(limit, b->policy.priority, false);
	int64_t excess = (int64_t)(used + 1 - MIN(share, used + 1));

	if (held > 0 && services_share(d))
		excess = MAX(excess, (int64_t)(used + held + 1) - (int64_t)share);
	*retshed |= sheds(b, limit, used, 1);
	if (excess <= 0)
		return 0;
	atomic_fetch_sub(&d->env.group->callers, 1);
	atomic_fetch_sub(&l->batches, 1);
	return excess;
}

static bool admit_caller(struct dispatch *d, const struct batch *b, bool *retshed)
{
	const struct dispatch_group *g = d->env.group;
	int64_t excess = take_caller(d, b, retshed);
	double each = (double)atomic_load(&g->unfinished) / MAX(atomic_load(&g->callers), 1u);

	if (excess > 0)
		refuse(d, BOUND_CALLERS, 0, (double)excess, pace_of_all(d) / MAX(each, 1));
	return excess <= 0;
}

static void give_caller(struct dispatch *d, const struct batch *b)
{
	atomic_fetch_sub(&d->env.group->callers, 1);
	atomic_fetch_sub(&first_load(d, b)->batches, 1);
}

/* ---- in and out ---- */

/* There is room although what the last one was refused by has not become less: this one is
 * smaller or more urgent, or the pace has grown. So nothing is known until the next refusal. */
static void found_room(struct dispatch *d, const struct batch *b)
{
	struct admission *a = &d->admission;
	bool of_all = a->bound != BOUND_SERVICE && a->bound != BOUND_PACE;

	if (of_all || (b->n_items > 0 && b->items[0].service == a->service))
		a->level = 0;
}

bool admission_take(struct dispatch *d, struct batch *b, bool counted)
{
	bool surprising = admission_still_refuses(d);
	bool shed_all, taken;

	if (!admit_bytes(d, b, counted, &shed_all))
		return false;
	if (!counted)
		return true;
	taken = admit_caller(d, b, &shed_all);
	if (taken && !admit_items(d, b, shed_all)) {
		give_caller(d, b);
		taken = false;
	}
	if (!taken)
		batch_count_no_more(b);
	else if (surprising)
		found_room(d, b);
	shed_if_full(d);
	return taken;
}

void admission_give_item(struct live *lv, const struct item *it)
{
	struct dispatch *d = lv->d;

	if (!lv->counted)
		return;
	give(d, it->service, 1);
	atomic_fetch_add(&load_of(d->env.group, it->service)->settled, 1);
	shed_uncount(lv, 1);
	look(d, it->service);
}

void admission_give_rest(struct live *lv)
{
	struct batch *b = lv->batch;

	for (uint32_t i = 0; lv->counted && i < b->n_items; i++) {
		if (b->items[i].state != ITEM_FINAL)
			give(lv->d, b->items[i].service, 1);
	}
	if (lv->counted)
		shed_uncount(lv, b->counts.pending);
}

void admission_give_caller(struct live *lv)
{
	if (lv->awaited)
		give_caller(lv->d, lv->batch);
	lv->awaited = false;
}
