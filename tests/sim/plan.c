/*
 * What a random world looks like: its configuration, its batches, and how the
 * downstream meets each request.
 */
#include <stdio.h>
#include <stdlib.h>

#include "sim.h"

static const char *const names[MAX_SERVICES] = {"push", "hooks", "mail", "partner"};
static const char *const urls[MAX_SERVICES] = {
	"http://push.test/send/{to}",
	"http://hooks.test:8080/{to}",
	"https://mail.test/v1/messages/{to}",
	"http://push.test/other/{to}",
};

/* One of the first n, the small ones more often. */
static unsigned few(unsigned most)
{
	return 1 + (unsigned)dice_below(1 + dice_below(most));
}

static int64_t pick(const int64_t *v, size_t n)
{
	return v[dice_below(n)];
}

static void plan_rate(struct rate_policy *p)
{
	static const double rates[] = {0.5, 1, 3, 7.3, 10, 100, 1000};
	static const unsigned bursts[] = {1, 1, 2, 5, 100};

	*p = (struct rate_policy){0};
	if (sim.guarded && dice_chance(50))
		*p = (struct rate_policy){rates[dice_below(ARRAY_LEN(rates))], bursts[dice_below(ARRAY_LEN(bursts))]};
}

/* As many as can have a part each. */
static unsigned plan_lanes(struct service *s)
{
	unsigned lanes = s->kind == SERVICE_HTTP && dice_chance(50) ? 2 + (unsigned)dice_below(2) : 1;

	if (lanes > s->max_in_flight || (s->rate.per_second > 0 && lanes > s->rate.burst))
		return 1;
	return lanes;
}

/* Others for what all lanes share: each goes down to its new part by itself, so only up. */
static void plan_reload_shared(struct service *s)
{
	struct rate_policy rate;

	if (dice_chance(50)) {
		plan_rate(&rate);
		rate.burst = MAX(rate.burst, rate.per_second > 0 ? s->lanes : 0);
		s->rate = rate;
	}
	if (dice_chance(50))
		s->max_in_flight *= 2;
}

/* How much each origin is sent, and what makes it stop. */
static void plan_protection(struct service *s)
{
	static const double ratios[] = {0.25, 0.5, 1}, parts[] = {0, 0.2, 1},
			    floors[] = {0, 0.1, 1, 10};
	s->max_pause_ms = dice_chance(50) ? 60000 : dice_log(1, 60000);
	if (!sim.guarded)
		return;
	plan_rate(&s->rate);
	if (dice_chance(50))
		s->breaker = (struct breaker_policy){.failure_ratio = ratios[dice_below(ARRAY_LEN(ratios))],
						     .min_attempts = few(5), .window_ms = dice_log(10, 20000),
						     .open_ms = dice_log(1, 20000)};
	s->retry_budget = (struct budget_policy){.ratio = 0.2, .per_second = 1000, .window_ms = 10000};
	if (dice_chance(50))
		s->retry_budget = (struct budget_policy){parts[dice_below(ARRAY_LEN(parts))],
							 floors[dice_below(ARRAY_LEN(floors))], dice_log(10, 20000)};
}

/* Much is changed by a reload, but no windows: with other windows all counts begin anew. */
void plan_reload(void)
{
	static const unsigned in_flight[] = {1, 3, 100, 1000}, caps[] = {1, 2, 4, 64};

	for (size_t i = 0; i < sim.config.n_services; i++) {
		struct service *s = &sim.services[i];

		if (s->lanes > 1) {
			plan_reload_shared(s);
			continue;
		}
		if (dice_chance(50))
			plan_rate(&s->rate);
		if (dice_chance(50))
			s->max_in_flight = caps[dice_below(ARRAY_LEN(caps))];
		if (dice_chance(30))
			s->retry_budget.per_second *= dice_chance(50) ? 10 : 0.1;
	}
	if (dice_chance(30))
		sim.config.limits.in_flight = in_flight[dice_below(ARRAY_LEN(in_flight))];
}

void plan_services(void)
{
	static const char *headers[] = {"authorization: Bearer secret"};
	static struct slice secrets[] = {{"0123456789abcdef0123456789abcdef", 32}, {"fedcba9876543210fedcba9876543210", 32}};
	static const int64_t caps[] = {1, 1, 2, 4, 64};

	sim.config.n_services = few(MAX_SERVICES);
	sim.config.service_slots = MAX_SERVICES;
	sim.config.services = sim.services;
	for (size_t i = 0; i < sim.config.n_services; i++) {
		bool webhook = dice_chance(40);

		sim.services[i] = (struct service){
			.name = names[i],
			.kind = webhook ? SERVICE_WEBHOOK : SERVICE_HTTP,
			.url = webhook ? NULL : urls[i],
			.method = "POST",
			.headers = webhook ? NULL : headers,
			.n_headers = webhook ? 0 : 1,
			.secrets = secrets,
			.n_secrets = dice_chance(20) ? 1 + (size_t)dice_below(2) : 0,
			.attempt_timeout_ms = dice_log(1, 10000),
			.max_in_flight = (unsigned)pick(caps, ARRAY_LEN(caps)),
			.max_payload = dice_chance(10) ? 40 : 65536,
			.refuses_with_503 = dice_chance(30),
			.max_queued = dice_chance(10) ? (uint32_t)dice_log(1, 100) : 0,
		};
		plan_protection(&sim.services[i]);
		sim.services[i].lanes = plan_lanes(&sim.services[i]);
	}
}

static void plan_tenants(void)
{
	static const char *const tenant_names[MAX_TENANTS] = {"", "shop", "post"};

	sim.config.tenants = sim.tenants;
	sim.config.n_tenants = MAX_TENANTS;
	for (unsigned i = 0; i < MAX_TENANTS; i++)
		sim.tenants[i] = (struct tenant){.name = tenant_names[i], .weight = few(10), .max_priority = PRIORITY_MAX,
						  .queued_items = dice_chance(10) ? (uint32_t)dice_log(1, 100) : 0};
}

static void plan_limits(void)
{
	static const int64_t in_flight[] = {1, 3, 100, 1000};
	static const int64_t resident[] = {1, 3000, 20000, 1 << 30, 1 << 30};

	sim.config.limits.items = 10000;
	sim.config.limits.payload_bytes = 65536;
	sim.config.limits.answer_bytes = 4096;
	sim.config.limits.json_depth = 64;
	sim.config.limits.connections = 10000;
	sim.config.limits.queued_items = dice_chance(25) ? (unsigned)dice_log(8, 50) : 100000;
	sim.config.limits.queue_ms = 10000;
	sim.config.limits.queued_bytes = (size_t)1 << 30;
	sim.config.limits.resident_bytes = (size_t)pick(resident, ARRAY_LEN(resident));
	sim.config.limits.stored_items = dice_chance(5) ? 10 : 100000;
	sim.stored_items = sim.config.limits.stored_items;
	sim.slow_us = dice_log(0, 20000);
	sim.config.limits.results_bytes = 1 << 20;
	sim.config.limits.in_flight = (unsigned)pick(in_flight, ARRAY_LEN(in_flight));
	sim.config.limits.keep_results_ms = 86400000;
	sim.config.limits.deadline_ms = 30000;
	sim.config.limits.max_deadline_ms = 86400000;
}

static void plan_clock(uint64_t seed)
{
	static const int64_t grains[] = {1, 1, 1000, 10000};

	sim.set = (struct fake_settings){.seed = seed, .grain_us = 1};
	clock_start(&sim.set);
	sim.stalls = dice_chance(15);
	sim.set.delay_us = dice_log(0, 5000);
	sim.set.turn_us = dice_log(0, 200);
	sim.set.late_us = dice_chance(25) ? dice_log(0, 3000) : 0;
	sim.set.grain_us = pick(grains, ARRAY_LEN(grains));
	sim.exact = !sim.stalls && sim.set.late_us == 0;
	sim.set.drop_messages = sim.plant == PLANT_DROPS_MESSAGES;
	sim.set.lose_calls = sim.plant == PLANT_LOSES_CALLS;
	sim.set.leak_timers = sim.plant == PLANT_LEAKS_TIMERS;
	sim.set.seed = dice_below(UINT64_MAX);
	clock_start(&sim.set);
}

/* One lane, and more that want its turns than it can serve: see fair.c. */
static void plan_contended(void)
{
	static const int64_t caps[] = {1, 2, 4, 16};
	struct service *s = &sim.services[0];

	sim.config.n_services = 1;
	s->kind = SERVICE_HTTP;
	s->url = urls[0];
	s->lanes = 1;
	s->max_payload = 65536;
	s->max_in_flight = (unsigned)pick(caps, ARRAY_LEN(caps));
	s->attempt_timeout_ms = 10000;
	s->breaker.failure_ratio = 0;
	s->rate.per_second = s->rate.per_second > 5 ? s->rate.per_second : 0;
	s->max_queued = 0;
	for (unsigned i = 0; i < MAX_TENANTS; i++)
		sim.tenants[i].queued_items = 0;
	sim.config.limits.in_flight = 100;
	sim.config.limits.queued_items = 100000;
	sim.jobs = sim.crowd = false;
	sim.mood = 0;
	sim.n_batches = 2 + (unsigned)dice_below(5);
}

/* It has all it has in the lane from its beginning on. */
static void plan_contender(struct sim_batch *b)
{
	b->plain = false;
	b->want = (struct policy){.contract = CONTRACT_PARTIAL_SUCCESS, .concurrency = 1024, .deadline_ms = 300000,
				  .priority = (unsigned)dice_below(PRIORITY_MAX + 1), .retry = {.max_attempts = 1}};
	b->n_items = (unsigned)dice_between(20, 100);
}

void plan_world(uint64_t seed)
{
	plan_clock(seed);
	sim.guarded = dice_chance(60);
	plan_services();
	plan_tenants();
	plan_limits();
	sim.script = plan_script;
	sim.mood = (unsigned)dice_below(8);
	sim.n_shards = few(MAX_SHARDS);
	sim.config.shards = sim.n_shards;
	sim.jobs = dice_chance(60);
	sim.notes = dice_chance(50);
	sim.crowd = sim.jobs && dice_chance(8);
	sim.n_batches = sim.crowd ? MAX_BATCHES : few(sim.jobs ? 10 : 6);
	sim.contended = sim.exact && dice_chance(3);
	if (sim.contended)
		plan_contended();
	for (unsigned i = 0; i < sim.n_batches; i++)
		plan_batch(&sim.batches[i], i);
}

/* ---- batches ---- */

static void plan_policy(struct policy *p)
{
	*p = (struct policy){
		.contract = (enum contract)dice_below(CONTRACT_MAX),
		.sequential = dice_chance(20),
		.at_most_once = dice_chance(25),
		.continue_on_disconnect = dice_chance(20),
		.include_attempts = dice_chance(50),
		.concurrency = dice_chance(50) ? few(4) : 64,
		.priority = (unsigned)dice_below(PRIORITY_MAX + 1),
		.deadline_ms = dice_chance(30) ? dice_log(1, 1000) : dice_log(1000, 300000),
		.attempt_timeout_ms = dice_chance(50) ? 0 : dice_log(1, 20000),
		.retry = {.max_attempts = few(8), .base_ms = dice_log(0, 2000)},
	};
	p->retry.cap_ms = dice_log(p->retry.base_ms, 60000);
	if (p->sequential)
		p->concurrency = 1;
}

static void plan_defaults(struct policy *p)
{
	*p = (struct policy){
		.contract = CONTRACT_PARTIAL_SUCCESS,
		.concurrency = 64,
		.priority = PRIORITY_DEFAULT,
		.deadline_ms = sim.config.limits.deadline_ms,
		.retry = {.max_attempts = 3, .base_ms = 100, .cap_ms = 2000},
	};
}

/* How it is asked for: as a job, under a key, to go on without its caller, or plainly. */
static void plan_durable(struct sim_batch *b)
{
	unsigned kind = (unsigned)dice_below(sim.crowd ? 40 : 100);

	if (!sim.jobs)
		return;
	b->asynchronous = kind < 45 || b->want.continue_on_disconnect;
	if ((kind >= 40 && kind < 60))
		b->key = 1 + (unsigned)dice_below(4);
	b->body = (unsigned)dice_below(2);
	b->durable = b->asynchronous || b->key != 0;
	if (!b->asynchronous || b->plain || dice_chance(40))
		return;
	b->want.deadline_ms = dice_log(60000, 86400000);
	b->want.retry.base_ms = dice_log(1000, 60000);
	b->want.retry.cap_ms = dice_log(b->want.retry.base_ms, 3600000);
}

static void plan_payload(struct sim_item *it)
{
	static const char *const samples[] = {
		"{\"text\":\"hi\"}", "1.10", "12345678901234567890", "-0.0e-7", "\"\"", "null", "[ ]",
		"{\"b\":1, \"a\" : [true,false , null], \"c\":{}}", "\"\\u00e9\\ud83d\\ude00\\/\"",
		"{\n\t\"nested\": [[[[\"x\"]]]]\n}", "1E400", "\"Zu\xc3\xbcrich \xe2\x82\xac\"",
	};
	size_t n;

	if (dice_chance(80)) {
		strcpy(it->payload, samples[dice_below(ARRAY_LEN(samples))]);
		return;
	}
	n = (size_t)dice_between(0, sizeof it->payload - 3);
	it->payload[0] = '"';
	for (size_t i = 1; i <= n; i++)
		it->payload[i] = (char)('a' + dice_below(26));
	strcpy(it->payload + n + 1, "\"");
}

static void plan_item(struct sim_batch *b, unsigned number, unsigned n)
{
	struct sim_item *it = &b->items[n];

	it->first = it->last = -1;
	it->service = (int)dice_below(sim.config.n_services);
	it->own_service = n == 0 || dice_chance(50);
	if (!it->own_service)
		it->service = b->items[0].service;
	snprintf(it->id, sizeof it->id, "i%u.%u", number, n);
	if (sim.services[it->service].kind == SERVICE_HTTP)
		snprintf(it->to, sizeof it->to, "u-%u-%u", number, n);
	else
		snprintf(it->to, sizeof it->to, "%s://h%u.test/hook/u-%u-%u", dice_chance(50) ? "http" : "https",
			 (unsigned)dice_below(3), number, n);
	if (dice_chance(40))
		snprintf(it->key, sizeof it->key, "order-%u:%u/%u", (unsigned)dice_below(1000), number, n);
	plan_payload(it);
	it->own_payload = n == 0 || dice_chance(70);
	if (!it->own_payload)
		strcpy(it->payload, b->items[0].payload);
	it->ttl_ms = !sim.contended && dice_chance(15) ? dice_log(1, 20000) : HEAP_NONE;
	it->invalid = b->want.contract == CONTRACT_BEST_EFFORT && dice_chance(10);
}

void plan_batch(struct sim_batch *b, unsigned number)
{
	*b = (struct sim_batch){.plain = dice_chance(10), .tenant = (unsigned)dice_below(MAX_TENANTS), .ready_us = NEVER};
	if (b->plain)
		plan_defaults(&b->want);
	else
		plan_policy(&b->want);
	plan_durable(b);
	b->n_items = dice_chance(2) ? (unsigned)dice_between(50, 200) : few(16);
	if (sim.contended)
		plan_contender(b);
	b->shard = (unsigned)dice_below(sim.n_shards);
	b->submit_us = clock_now() + (dice_chance(sim.crowd ? 90 : 50) ? 0 : dice_span(0, 20000000));
	b->items = xcalloc(b->n_items, sizeof *b->items);
	for (unsigned i = 0; i < b->n_items; i++)
		plan_item(b, number, i);
}

/* ---- the downstream ---- */

static int plan_status(void)
{
	static const int retryable[] = {429, 500, 502, 503, 503, 503, 504, 408, 507};
	static const int final[] = {301, 304, 307, 400, 401, 403, 404, 405, 409, 410, 413, 415, 418, 422, 451};
	static const int fine[] = {200, 200, 200, 201, 202, 204, 299};
	unsigned fine_percent = sim.mood == 0 ? 100 : sim.mood == 1 ? 95 : sim.mood == 2 ? 20 : 60;

	if (dice_chance(fine_percent))
		return fine[dice_below(ARRAY_LEN(fine))];
	if (dice_chance(sim.mood == 2 ? 95 : 60))
		return retryable[dice_below(ARRAY_LEN(retryable))];
	return final[dice_below(ARRAY_LEN(final))];
}

static void plan_times(struct script *s)
{
	static const int64_t scales[] = {100, 20000, 20000, 500000, 5000000, 60000000};
	int64_t most = scales[dice_below(sim.mood == 0 ? 3 : ARRAY_LEN(scales))];

	s->at_write = dice_span(0, most / 4);
	s->at_seen = s->at_write + dice_span(0, most / 4);
	s->at_status = s->at_seen + dice_span(0, most / 4);
	s->at_end = s->at_status + dice_span(0, most / 4);
}

static void plan_answer(struct script *s)
{
	static const char *const bodies[] = {"", "{\"id\":\"m-1\"}", "{\"id\":\"m-22\",\"x\":[1]}", "{\"id\":", "[]", "ok"};

	s->end = ANSWER_COMPLETE;
	s->status = plan_status();
	s->body = bodies[dice_below(ARRAY_LEN(bodies))];
	if ((s->status == 429 || s->status == 503) && dice_chance(50))
		s->retry_after_ms = dice_chance(90) ? 1000 * dice_log(0, 30) : 1000 * dice_log(0, INT32_MAX);
}

/* No answer. What was written may have arrived, or not. */
static void plan_failure(const struct request *r, struct script *s)
{
	const struct sim_item *it = &sim.batches[r->batch].items[r->item];
	bool wrote = dice_chance(60);

	s->at_status = NEVER;
	if (!wrote)
		s->at_write = s->at_seen = NEVER;
	if (dice_chance(50))
		s->at_seen = NEVER;
	switch (dice_below(sim.mood == 3 ? 2 : 6)) {
	case 0:
	case 1:
		s->at_end = NEVER;
		break;
	case 2:
		s->end = ANSWER_MALFORMED;
		s->wrote_anyway = true;
		break;
	case 3:
		s->end = dice_chance(95) ? ANSWER_LOST : ANSWER_INTERNAL;
		break;
	default:
		s->at_write = s->at_seen = NEVER;
		s->end = ANSWER_NO_CONNECTION;
		if (sim.services[it->service].kind == SERVICE_WEBHOOK && dice_chance(20))
			s->end = ANSWER_FORBIDDEN;
		break;
	}
}

void plan_script(const struct request *r, struct script *ret)
{
	static const unsigned failures[] = {0, 10, 10, 60, 30, 80, 30, 5};

	ret->no_memory = dice_below(2000) == 0;
	plan_times(ret);
	if (dice_chance(failures[sim.mood])) {
		plan_failure(r, ret);
		return;
	}
	plan_answer(ret);
	/* The status line came, then the connection broke. */
	if (dice_chance(3))
		ret->end = dice_chance(50) ? ANSWER_LOST : ANSWER_MALFORMED;
}
