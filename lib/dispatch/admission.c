/*
 * Admission: what comes into memory. What those are told that do not is in refusal.c.
 *
 * Each bound (limits.queued_items, limits.queued_bytes, limits.connections for callers
 * who wait, a service's max_queued and its limits.queue_ms) is shared out by urgency. A
 * batch of priority p may fill it to (41 + p)/50, so that the last fifth has a slice for
 * each priority, and only 9 has all of it. best_effort has the first four fifths: above
 * them its items are shed, before anybody is refused.
 *
 * Of the process's bounds on items, bytes and callers one service of several, and one
 * tenant of several, may take more only while it holds less than is left: dynamic
 * thresholds, as in residency.c. What it would hold with the batch counts, but of
 * best_effort, which gives way to others.
 *
 * A service is too far behind if its queue, at its pace (pace.c), would make the batch
 * wait for more than limits.queue_ms or half of its deadline. Turns are fair, so a
 * small batch waits for as much of each other one as it has itself.
 *
 * Invariants
 *  1. An item of a counted batch is in group.unfinished, in its service's load and in
 *     its tenant's from admission until it is final or its batch leaves the dispatcher;
 *     it is in one of best_effort, too, if its batch may be shed (shed.c).
 *  2. Nothing here takes a lock, and a shard reads what the others count at its
 *     own time: bounds on items and bytes are exact, the rest are estimates.
 */
#include <stdlib.h>

#include "admission-i.h"
#include "dispatch-i.h"
#include "live-i.h"
#include "pace-i.h"
#include "refusal-i.h"
#include "residency-i.h"
#include "shed-i.h"

/* How many items of a service a batch wants that asks for room. */
struct want {
	uint32_t n, next;                /* the next service that it is for */
};

uint64_t admission_share(uint64_t limit, unsigned priority, bool best_effort)
{
	unsigned parts = best_effort ? 40 : 41 + priority;

	return limit / 50 * parts + (limit % 50 * parts + 49) / 50;
}

static uint64_t over_part_of_service(const struct dispatch *d, uint64_t held, uint64_t more, uint64_t left)
{
	return over_its_part(services_share(d), held, more, left);
}

static uint64_t over_part_of_tenant(const struct dispatch *d, uint64_t held, uint64_t more, uint64_t left)
{
	return over_its_part(config_has_several_tenants(d->env.config), held, more, left);
}

void admission_init(struct dispatch *d)
{
	d->wants = xcalloc(d->env.config->service_slots, sizeof *d->wants);
}

void admission_free(struct dispatch *d)
{
	free(d->wants);
}

/* ---- unread ---- */

/* Has it its part of what any batch of it needs, however urgent? */
static bool tenant_is_full(struct dispatch *d, unsigned tenant)
{
	const struct dispatch_group *g = d->env.group;
	const struct dispatch_tenant *t = &g->tenants.of[tenant];
	const struct config *c = d->env.config;
	const struct {
		enum bound bound;
		uint64_t limit, used, held;
	} shared[] = {
		{BOUND_TENANT_CALLERS, c->limits.connections, atomic_load(&g->callers), atomic_load(&t->callers)},
		{BOUND_TENANT_BYTES, c->limits.queued_bytes, atomic_load(&g->held_bytes), atomic_load(&t->bytes)},
		/* What may be shed stands in nobody's way. */
		{BOUND_TENANT_ITEMS, (uint64_t)c->limits.queued_items + best_effort_items(g), atomic_load(&g->unfinished),
		 atomic_load(&t->unfinished)},
	};

	for (size_t i = 0; i < ARRAY_LEN(shared); i++) {
		uint64_t left = shared[i].limit - MIN(shared[i].used, shared[i].limit);
		uint64_t over = over_part_of_tenant(d, shared[i].held, 1, left);

		if (left == 0 || over == 0)
			continue;
		refuse_batch(d, shared[i].bound, tenant, (double)over);
		return true;
	}
	return false;
}

bool admission_is_full(struct dispatch *d, unsigned tenant, size_t body_bytes, bool job)
{
	const struct dispatch_group *g = d->env.group;
	const struct config *c = d->env.config;
	uint64_t items = atomic_load(&g->unfinished), bytes = atomic_load(&g->held_bytes) + body_bytes;
	uint64_t least = MAX(c->limits.queued_items / 100, 1u);

	if (bytes > c->limits.queued_bytes)
		refuse_batch(d, BOUND_BYTES, 0, (double)(bytes - c->limits.queued_bytes));
	else if (!job && items >= c->limits.queued_items && best_effort_items(g) == 0)
		refuse_batch(d, BOUND_ITEMS, 0, (double)(items - c->limits.queued_items + least));
	else
		return !job && tenant_is_full(d, tenant);
	return true;
}

/* ---- items ---- */

/* A batch that asks for room. */
struct ask {
	struct batch *b;
	struct service_load *first;      /* of its first item: bytes and callers count for that service ... */
	struct dispatch_tenant *tenant;  /* ... and for its tenant ... */
	unsigned tenant_no;              /* ... whose number this is */
	bool best_effort;
	uint64_t taken;                  /* its items that are counted already */
};

static uint64_t share_of(const struct ask *q, uint64_t limit)
{
	return admission_share(limit, q->b->policy.priority, q->best_effort);
}

/* What of `more` counts against the part of its service or tenant. */
static uint64_t counts_of(const struct ask *q, uint64_t more)
{
	return q->best_effort ? 1 : more;
}

/* How many items too many n of them would wait for, of those that wait already; not above
 * 0 if that is not so, or not known. */
static double too_far_behind(struct dispatch *d, const struct ask *q, uint16_t service, uint32_t n)
{
	int64_t patience_ms = MIN(d->env.config->limits.queue_ms, q->b->policy.deadline_ms / 2);
	const struct pace *p = &d->paces[service];
	uint64_t ahead = service_waiting(d, service), others = atomic_load(&load_of_service(d->env.group, service)->batches);

	if (ahead < BEHIND_MIN || !p->of_many || p->per_second <= 0 || patience_ms == 0)
		return 0;
	/* The asking batch is one of them. */
	ahead = MIN(ahead, n * (others - MIN(others, 1u)));
	return (double)ahead - p->per_second * (double)share_of(q, (uint64_t)patience_ms) / 1000;
}

/* How many of n items there is room for under `limits.queued_items`: they are counted.
 * Items that may be shed stand in nobody's way. */
static uint32_t take_of_all(struct dispatch *d, struct ask *q, uint32_t n, uint64_t *ret_free)
{
	struct dispatch_group *g = d->env.group;
	uint64_t limit = d->env.config->limits.queued_items, share = share_of(q, limit);
	uint64_t used = atomic_fetch_add(&g->unfinished, n);
	uint32_t room;

	if (used == q->taken)
		share = limit;
	*ret_free = share - MIN(used, share);
	if (!q->best_effort && used + n > share)
		share += best_effort_items(g);
	room = (uint32_t)MIN(share - MIN(used, share), n);
	atomic_fetch_sub(&g->unfinished, n - room);
	if (room < n)
		refuse_batch(d, BOUND_ITEMS, 0, (double)(used + n - share));
	return room;
}

/* And of n items of one service under its own bounds. */
static uint32_t take_of_service(struct dispatch *d, const struct ask *q, uint16_t service, uint32_t n, uint64_t free_items)
{
	const struct config *c = d->env.config;
	struct service_load *l = load_of_service(d->env.group, service);
	uint64_t held = atomic_fetch_add(&l->items, n), most = c->services[service].max_queued;
	uint64_t share = most == 0 ? UINT64_MAX : held == 0 ? most : share_of(q, most);
	uint32_t room = (uint32_t)MIN(share - MIN(held, share), n);

	if (over_part_of_service(d, held, counts_of(q, n), free_items) > 0)
		room = 0;
	atomic_fetch_sub(&l->items, n - room);
	if (room < n)
		refuse_batch(d, BOUND_SERVICE, service, n - room);
	return room;
}

/* Would its tenant have more than its part with n more? What may be shed is as good as free. */
static bool refuse_items_of_tenant(struct dispatch *d, const struct ask *q, uint32_t n, uint64_t free_items)
{
	uint64_t left = free_items + q->taken + (q->best_effort ? 0 : best_effort_items(d->env.group));
	uint64_t held = atomic_load(&q->tenant->unfinished) - q->taken;
	uint64_t over = over_part_of_tenant(d, held, counts_of(q, q->taken + n), left);

	if (over > 0)
		refuse_batch(d, BOUND_TENANT_ITEMS, q->tenant_no, (double)over);
	return over > 0;
}

/* As many of n items of one service as there is room for. */
static uint32_t take_some(struct dispatch *d, struct ask *q, uint16_t service, uint32_t n)
{
	uint64_t free_items;
	double excess;
	uint32_t fit, room;

	pace_note(d, service);
	excess = too_far_behind(d, q, service, n);
	if (excess > 0) {
		refuse_batch(d, BOUND_PACE, service, excess);
		return 0;
	}
	fit = take_of_all(d, q, n, &free_items);
	if (fit == 0 || refuse_items_of_tenant(d, q, fit, free_items))
		room = 0;
	else
		room = take_of_service(d, q, service, fit, free_items);
	atomic_fetch_sub(&d->env.group->unfinished, fit - room);
	atomic_fetch_add(&q->tenant->unfinished, room);
	q->taken += room;
	return room;
}

static void give(struct dispatch *d, unsigned tenant, uint16_t service, uint32_t n)
{
	struct service_load *l = load_of_service(d->env.group, service);

	atomic_fetch_sub(&d->env.group->unfinished, n);
	atomic_fetch_sub(&d->env.group->tenants.of[tenant].unfinished, n);
	if (atomic_fetch_sub(&l->items, n) == n)
		atomic_fetch_add(&l->emptied, 1);
}

/* Each of its services says how many items it wants: a chain of them, from *first. */
static void count_wanted(struct dispatch *d, const struct batch *b, uint32_t *first)
{
	*first = UINT32_MAX;
	for (uint32_t i = 0; i < b->n_items; i++) {
		struct want *w;

		if (b->items[i].state == ITEM_FINAL)
			continue;
		w = &d->wants[b->items[i].service];
		if (w->n++ == 0) {
			w->next = *first;
			*first = b->items[i].service;
		}
	}
}

/* Nothing stays wanted for the next batch. */
static void want_nothing(struct dispatch *d, uint32_t first)
{
	for (uint32_t s = first; s != UINT32_MAX; s = d->wants[s].next)
		d->wants[s].n = 0;
}

/* How many of a counted batch's items an empty process would take. */
static uint64_t most_waiting(struct dispatch *d, const struct batch *b)
{
	const struct config *c = d->env.config;
	uint64_t sum = 0;
	uint32_t first;

	count_wanted(d, b, &first);
	for (uint32_t s = first; s != UINT32_MAX; s = d->wants[s].next) {
		uint32_t most = c->services[s].max_queued;

		sum += MIN(d->wants[s].n, most == 0 ? UINT32_MAX : most);
	}
	want_nothing(d, first);
	return MIN(sum, c->limits.queued_items);
}

bool admission_counts(const struct batch *b)
{
	return !b->asynchronous || b->policy.continue_on_disconnect;
}

uint64_t dispatch_most(struct dispatch *d, const struct batch *b, unsigned tenant)
{
	const struct config *c = d->env.config;
	uint64_t n = b->counts.pending, of_tenant = c->tenants[tenant].queued_items;
	uint64_t most = of_tenant == 0 ? n : MIN(n, of_tenant), kept = n;

	if (admission_counts(b))
		kept = MIN(n, most_waiting(d, b));
	/* What best_effort sheds is no reason to refuse it, nor does it go to the store. */
	if (b->policy.contract != CONTRACT_BEST_EFFORT)
		most = MIN(most, kept);
	if (b->durable && kept > c->limits.stored_items)
		most = MIN(most, c->limits.stored_items);
	return most;
}

/* All items, or those that best_effort may send: then d->wants says how many of each
 * service. False: none, and nothing is counted. */
static bool take_items(struct dispatch *d, struct ask *q, uint32_t first)
{
	bool all = true;

	for (uint32_t s = first; s != UINT32_MAX; s = d->wants[s].next) {
		struct want *w = &d->wants[s];
		uint32_t room = all ? take_some(d, q, (uint16_t)s, w->n) : 0;

		all = q->best_effort || room == w->n;
		w->n = room;
	}
	for (uint32_t s = first; !all && s != UINT32_MAX; s = d->wants[s].next)
		give(d, q->tenant_no, (uint16_t)s, d->wants[s].n);
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
		if (d->wants[it->service].n > 0) {
			d->wants[it->service].n--;
			continue;
		}
		item_settle(it, CODE_NOT_ATTEMPTED, STOP_SHED, loop_now_us(d->env.loop));
		n++;
	}
	meter_add(d->env.meter, METRIC_SHED, 0, 0, n);
}

static bool admit_items(struct dispatch *d, struct ask *q, bool shed_all)
{
	bool taken;
	uint32_t first;

	count_wanted(d, q->b, &first);
	if (shed_all)
		want_nothing(d, first);
	taken = shed_all || take_items(d, q, first);
	if (q->best_effort)
		shed_unwanted(d, q->b);
	else
		want_nothing(d, first);
	return taken;
}

/* ---- bytes and callers ---- */

/* What there was of a bound when a batch asked for more. */
struct sight {
	uint64_t limit, used, of_service, of_tenant;
};

static struct service_load *first_load(const struct dispatch *d, const struct batch *b)
{
	return load_of_service(d->env.group, b->n_items == 0 ? (uint16_t)ITEM_NO_SERVICE : b->items[0].service);
}

/* Up to where the batch may fill it, and what is left of that. */
static uint64_t share_for(const struct ask *q, const struct sight *s, bool best_effort)
{
	return s->used == 0 ? s->limit : admission_share(s->limit, q->b->policy.priority, best_effort);
}

static uint64_t left_for(const struct ask *q, const struct sight *s, bool best_effort)
{
	uint64_t share = share_for(q, s, best_effort);

	return share - MIN(s->used, share);
}

/* With `more` there would be too much for best_effort, or its tenant has its part: it then
 * sends nothing. */
static bool sheds(const struct dispatch *d, const struct ask *q, const struct sight *s, uint64_t more)
{
	uint64_t left = left_for(q, s, true);

	return q->best_effort && s->used > 0 && (more > left || over_part_of_tenant(d, s->of_tenant, 1, left) > 0);
}

static size_t bytes_of(const struct batch *b)
{
	return (b->body == NULL ? 0 : b->body->n) + b->n_items * sizeof *b->items;
}

bool dispatch_too_large(const struct dispatch *d, const struct batch *b)
{
	return bytes_of(b) > d->env.config->limits.queued_bytes;
}

/* Count the bytes of a batch: false, and nothing is counted, if there are too many, so that
 * it is refused. *ret_shed: they are so many that best_effort sends nothing. */
static bool admit_bytes(struct dispatch *d, const struct ask *q, bool counted, bool *ret_shed)
{
	struct batch *b = q->b;
	size_t bytes = bytes_of(b);
	const struct sight s = {.limit = d->env.config->limits.queued_bytes,
				.used = atomic_fetch_add(&d->env.group->held_bytes, bytes),
				.of_service = counted ? atomic_load(&q->first->bytes) : 0,
				.of_tenant = counted ? atomic_load(&q->tenant->bytes) : 0};
	uint64_t left = left_for(q, &s, false), more = counts_of(q, bytes);
	uint64_t over = over_part_of_tenant(d, s.of_tenant, more, left);
	bool full = bytes > left;

	if (full || over > 0 || over_part_of_service(d, s.of_service, more, left) > 0) {
		atomic_fetch_sub(&d->env.group->held_bytes, bytes);
		if (over > 0 && !full)
			refuse_batch(d, BOUND_TENANT_BYTES, q->tenant_no, (double)over);
		else
			refuse_batch(d, BOUND_BYTES, 0, (double)bytes);
		return false;
	}
	*ret_shed = sheds(d, q, &s, bytes);
	b->held_bytes = bytes;
	b->held[HELD_ALL] = &d->env.group->held_bytes;
	if (counted) {
		b->held[HELD_SERVICE] = &q->first->bytes;
		b->held[HELD_TENANT] = &q->tenant->bytes;
		atomic_fetch_add(&q->first->bytes, bytes);
		atomic_fetch_add(&q->tenant->bytes, bytes);
	}
	return true;
}

static void give_caller(struct dispatch *d, const struct batch *b, unsigned tenant)
{
	atomic_fetch_sub(&d->env.group->callers, 1);
	atomic_fetch_sub(&first_load(d, b)->batches, 1);
	atomic_fetch_sub(&d->env.group->tenants.of[tenant].callers, 1);
}

/* The same for the caller of a batch, who holds a connection, which others need. */
static bool admit_caller(struct dispatch *d, const struct ask *q, bool *ret_shed)
{
	const struct sight s = {.limit = d->env.config->limits.connections,
				.used = atomic_fetch_add(&d->env.group->callers, 1),
				.of_service = atomic_fetch_add(&q->first->batches, 1),
				.of_tenant = atomic_fetch_add(&q->tenant->callers, 1)};
	uint64_t share = share_for(q, &s, false), left = left_for(q, &s, false);
	uint64_t over = over_part_of_tenant(d, s.of_tenant, 1, left);
	bool full = left == 0;

	*ret_shed |= sheds(d, q, &s, 1);
	if (!full && over == 0 && over_part_of_service(d, s.of_service, 1, left) == 0)
		return true;
	give_caller(d, q->b, q->tenant_no);
	if (over > 0 && !full)
		refuse_batch(d, BOUND_TENANT_CALLERS, q->tenant_no, (double)over);
	else
		refuse_batch(d, BOUND_CALLERS, 0, (double)(s.used + 1 + (services_share(d) ? s.of_service : 0) - share));
	return false;
}

/* ---- in and out ---- */

bool admission_take(struct dispatch *d, struct batch *b, unsigned tenant, bool counted)
{
	struct ask q = {.b = b, .first = first_load(d, b), .tenant = &d->env.group->tenants.of[tenant], .tenant_no = tenant,
			.best_effort = b->policy.contract == CONTRACT_BEST_EFFORT};
	bool surprising = refusal_stands(d, tenant);
	bool shed_all, taken;

	if (!admit_bytes(d, &q, counted, &shed_all))
		return false;
	if (!counted)
		return true;
	taken = admit_caller(d, &q, &shed_all);
	if (taken && !admit_items(d, &q, shed_all)) {
		give_caller(d, b, tenant);
		taken = false;
	}
	if (!taken)
		batch_count_no_more(b);
	else if (surprising)
		refusal_found_room(d, b);
	return taken;
}

void admission_give_item(struct live *lv, const struct item *it)
{
	struct dispatch *d = lv->d;

	if (!lv->counted)
		return;
	give(d, lv->tenant, it->service, 1);
	atomic_fetch_add(&load_of_service(d->env.group, it->service)->settled, 1);
	shed_item_final(lv);
	pace_note(d, it->service);
}

void admission_give_rest(struct live *lv)
{
	struct batch *b = lv->batch;

	for (uint32_t i = 0; lv->counted && i < b->n_items; i++) {
		if (b->items[i].state != ITEM_FINAL)
			give(lv->d, lv->tenant, b->items[i].service, 1);
	}
}

void admission_give_caller(struct live *lv)
{
	if (lv->awaited)
		give_caller(lv->d, lv->batch, lv->tenant);
	lv->awaited = false;
}
