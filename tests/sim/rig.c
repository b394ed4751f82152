/* What the scenarios are made of. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>

void open_quiet(unsigned shards, int64_t turn_us, void (*script)(const struct request *, struct script *))
{
	world_reset();
	sim.set = (struct fake_settings){.seed = 1, .grain_us = 1, .turn_us = turn_us};
	clock_start(&sim.set);
	sim.exact = true;
	sim.script = script;
	sim.n_shards = shards;
	sim.services[0] = (struct service){
		.name = "push", .kind = SERVICE_HTTP, .url = "http://push.test/{to}", .method = "POST",
		.attempt_timeout_ms = 1000, .max_in_flight = 64, .lanes = 1, .max_payload = 65536, .max_pause_ms = 60000,
		.retry_budget = {.ratio = 0.2, .per_second = 1000, .window_ms = 10000},
	};
	sim.tenants[0] = (struct tenant){.name = "", .weight = 1, .max_priority = PRIORITY_MAX};
	sim.config = (struct config){.shards = shards, .services = sim.services, .n_services = 1,
				     .service_slots = MAX_SERVICES, .tenants = sim.tenants, .n_tenants = 1};
	sim.config.limits.items = 10000;
	sim.config.limits.payload_bytes = 65536;
	sim.config.limits.json_depth = 64;
	sim.config.limits.connections = 10000;
	sim.config.limits.queued_items = 100000;
	sim.config.limits.queued_bytes = sim.config.limits.resident_bytes = (size_t)1 << 30;
	sim.config.limits.stored_items = sim.stored_items = 100000;
	sim.config.limits.results_bytes = 16 << 20;
	sim.config.limits.in_flight = 1000;
	sim.config.limits.keep_results_ms = 86400000;
	sim.config.limits.deadline_ms = 30000;
	sim.config.limits.max_deadline_ms = 86400000;
}

void add_service(void)
{
	sim.services[1] = sim.services[0];
	sim.services[1].name = "mail";
	sim.services[1].url = "http://mail.test/{to}";
	sim.config.n_services = 2;
}

struct sim_batch *add_batch(unsigned n_items)
{
	unsigned number = sim.n_batches++;
	struct sim_batch *b = &sim.batches[number];

	b->want = (struct policy){
		.contract = CONTRACT_PARTIAL_SUCCESS, .concurrency = 1024, .priority = PRIORITY_DEFAULT, .deadline_ms = 30000,
		.include_attempts = true, .retry = {.max_attempts = 3, .base_ms = 100, .cap_ms = 2000},
	};
	b->n_items = n_items;
	b->ready_us = NEVER;
	b->items = xcalloc(n_items, sizeof *b->items);
	for (unsigned i = 0; i < n_items; i++) {
		b->items[i] = (struct sim_item){.first = -1, .last = -1, .ttl_ms = HEAP_NONE, .own_payload = true};
		snprintf(b->items[i].id, sizeof b->items[i].id, "i%u.%u", number, i);
		snprintf(b->items[i].to, sizeof b->items[i].to, "u-%u-%u", number, i);
		snprintf(b->items[i].payload, sizeof b->items[i].payload, "{\"n\":%u}", i);
	}
	return b;
}

struct sim_batch *add_job(unsigned n_items)
{
	struct sim_batch *b = add_batch(n_items);

	b->durable = b->asynchronous = true;
	b->want.deadline_ms = 86400000;
	return b;
}

struct sim_batch *send_to(struct sim_batch *b, unsigned service)
{
	for (unsigned i = 0; i < b->n_items; i++) {
		b->items[i].service = (int)service;
		b->items[i].own_service = true;
	}
	return b;
}

void answer(struct script *s, int status, int64_t after_us)
{
	*s = (struct script){.end = ANSWER_COMPLETE, .status = status, .retry_after_ms = RETRY_AFTER_NONE, .body = "",
			     .at_write = 0, .at_seen = 0, .at_status = after_us, .at_end = after_us};
}

void hang(struct script *s)
{
	answer(s, 0, 0);
	s->at_status = s->at_end = NEVER;
}

void refuse(struct script *s)
{
	answer(s, 0, 0);
	s->end = ANSWER_NO_CONNECTION;
	s->at_write = s->at_seen = s->at_status = NEVER;
}

void quick(const struct request *r, struct script *s)
{
	(void)r;
	answer(s, 200, MS);
}

void first_is_dead(const struct request *r, struct script *s)
{
	if (sim.batches[r->batch].items[r->item].service == 0)
		hang(s);
	else
		answer(s, 200, MS);
}

void finish(void)
{
	while (world_step())
		;
	world_close();
}

int64_t elapsed_ms(int64_t at_us)
{
	return (at_us - 1000000000) / MS;
}

void run_to_done(const struct sim_batch *b)
{
	while (!b->done)
		CHECK(LIVENESS, world_step(), "the batch is not done, and nothing is left to happen");
}

void step_until_waiting(const struct sim_batch *b, unsigned item)
{
	while ((b->durable ? b->items[item].state : b->b->items[item].state) != ITEM_WAITING)
		CHECK(LIVENESS, world_step(), "the item does not come to wait");
}

/* A moment at which the world is to be looked at or acted upon. */
struct moment {
	struct event event;
	bool came;
};

static void on_moment(struct event *e)
{
	container_of(e, struct moment, event)->came = true;
}

void run_until_ms(int64_t ms)
{
	struct moment m = {0};

	event_init(&m.event, NULL, on_moment);
	event_at(&m.event, 1000000000 + ms * MS);
	while (!m.came)
		world_step();
}
