/*
 * Planted defects of the first kind: the dispatcher is told something else than
 * what the checks believe, as if it had misread its configuration or a batch.
 */
#include "sim.h"

/* What protects a downstream is misread. */
static void doctor_protection(struct service *s)
{
	if (sim.plant == PLANT_MORE_QUEUED && s->max_queued > 0)
		s->max_queued++;
	if (sim.plant == PLANT_BURST_AND_ONE)
		s->rate.burst++;
	if (sim.plant == PLANT_FAST)
		s->rate.per_second *= 1.1;
	if (sim.plant == PLANT_NO_BURST)
		s->rate.burst = 1;
	if (sim.plant == PLANT_NO_PAUSE)
		s->max_pause_ms = 0;
	if (sim.plant == PLANT_SHORT_PAUSE)
		s->max_pause_ms /= 2;
	if (sim.plant == PLANT_LONG_PAUSE)
		s->max_pause_ms *= 10;
	if (sim.plant == PLANT_NO_BREAKER)
		s->breaker.failure_ratio = 0;
	if (sim.plant == PLANT_SHORT_OPEN)
		s->breaker.open_ms /= 2;
	if (sim.plant == PLANT_EAGER_BREAKER && s->breaker.min_attempts > 1)
		s->breaker.min_attempts--;
	if (sim.plant == PLANT_NO_BUDGET)
		s->retry_budget.per_second = 1000000;
	if (sim.plant == PLANT_SHORT_WINDOW) {
		s->retry_budget.window_ms /= 4;
		s->retry_budget.per_second *= 4;
	}
	if (sim.plant == PLANT_POOR_BUDGET)
		s->retry_budget.per_second = s->retry_budget.ratio = 0;
}

void doctor_config(void)
{
	struct config *c = &sim.told->config;

	*c = sim.config;
	atomic_store(&c->refs, 1);
	memcpy(sim.told->services, sim.services, sizeof sim.services);
	c->services = sim.told->services;
	memcpy(sim.told->tenants, sim.tenants, sizeof sim.tenants);
	c->tenants = sim.told->tenants;
	if (sim.plant == PLANT_NO_ROOM_LIMIT)
		c->limits.resident_bytes = (size_t)1 << 30;
	for (size_t i = 0; i < c->n_services; i++) {
		struct service *s = &sim.told->services[i];

		if (sim.plant == PLANT_IN_FLIGHT)
			s->max_in_flight++;
		if (sim.plant == PLANT_LONG_TIMEOUT)
			s->attempt_timeout_ms *= 2;
		if (sim.plant == PLANT_503_IS_NO)
			s->refuses_with_503 = true;
		doctor_protection(s);
	}
	if (sim.plant == PLANT_MORE_ITEMS)
		c->limits.queued_items += c->limits.queued_items / 10;
	for (size_t i = 0; sim.plant == PLANT_MORE_OF_TENANT && i < c->n_tenants; i++)
		sim.told->tenants[i].queued_items += sim.tenants[i].queued_items > 0;
	for (size_t i = 0; sim.plant == PLANT_NO_WEIGHTS && i < c->n_tenants; i++)
		sim.told->tenants[i].weight = 1;
}

static void doctor_items(struct batch *b)
{
	for (uint32_t i = 0; i < b->counts.total; i++) {
		struct item *it = &b->items[i];

		if (sim.plant == PLANT_NO_TTL)
			it->ttl_ms = HEAP_NONE;
		if (sim.plant == PLANT_SHORT_PAYLOAD && it->payload.n > 1)
			it->payload.n--;
		if (sim.plant == PLANT_NO_KEY)
			it->dedupe_key = (struct slice){0};
	}
}

void doctor_batch(struct batch *b)
{
	struct policy *p = &b->policy;

	if (sim.plant == PLANT_CONCURRENCY)
		p->concurrency *= 2;
	if (sim.plant == PLANT_NOT_SEQUENTIAL)
		p->sequential = false;
	if (sim.plant == PLANT_MORE_ATTEMPTS)
		p->retry.max_attempts++;
	if (sim.plant == PLANT_LONG_DEADLINE)
		p->deadline_ms *= 2;
	if (sim.plant == PLANT_NO_PRIORITIES)
		p->priority = PRIORITY_DEFAULT;
	if (sim.plant == PLANT_OTHER_CONTRACT)
		p->contract = CONTRACT_PARTIAL_SUCCESS;
	doctor_items(b);
}

/* The dispatcher goes on changing what it has handed to the store. */
void doctor_accepted(struct batch *b)
{
	if (sim.plant == PLANT_CHANGES_ACCEPTED && b->durable && b->n_items > 0)
		b->items[0].latency_ms++;
}

/* The dispatcher asks for something else than it should. */
void doctor_asked(struct store_op *op)
{
	if (sim.plant == PLANT_UNSYNCED && op->what == STORE_CLAIM)
		container_of(op, struct store_claim, op)->synced = false;
	if (sim.plant == PLANT_LATE_PARK && op->what == STORE_PARK && container_of(op, struct store_park, op)->due_unix_ms > 0)
		container_of(op, struct store_park, op)->due_unix_ms += 10000;
}

static void doctor_items_read(struct batch *b)
{
	if (sim.plant == PLANT_LOSES_ITEMS && b->n_items > 1)
		b->n_items--;
	for (uint32_t i = 0; i < b->n_items; i++) {
		struct item *it = &b->items[i];

		if (sim.plant == PLANT_FORGETS_WAITS)
			it->due_unix_ms = 0;
		if (sim.plant == PLANT_FORGETS_CLAIMS)
			atomic_store(&it->in_flight, false);
		if (sim.plant == PLANT_OTHER_KEY)
			it->dedupe_key = SLICE("another");
	}
}

/* The dispatcher reads something else than there is. */
void doctor_read(struct store_op *op)
{
	if (op->what == STORE_READ && op->answer == STORE_OK)
		doctor_items_read(container_of(op, struct store_read, op)->batch);
}
