/*
 * Named scenarios of what protects downstreams and those who share them: rate,
 * breaker, retry budget, pauses, and turns by weight.
 */
#include <stdlib.h>

#include "rig.h"

static void submit_at(struct sim_batch *b, int64_t ms)
{
	run_until_ms(ms);
	world_submit(b);
}

static int64_t start_ms(const struct sim_batch *b, unsigned item)
{
	return elapsed_ms(sim.requests[b->items[item].first].start_us);
}

/* ---- rate ---- */

/* Eight at once, two more of the burst, and then one every 10 ms: never more, and
 * never less. The rule RATE sees to the windows in between. */
static void a_rate_is_exact(unsigned shards)
{
	struct sim_batch *b;

	open_quiet(shards, 0, quick);
	sim.services[0].rate = (struct rate_policy){.per_second = 100, .burst = 10};
	sim.services[0].max_in_flight = 8;
	b = add_batch(200);
	world_open();
	world_submit(b);
	run_to_done(b);
	for (unsigned i = 10; i < sim.n_requests; i++)
		CHECK(RATE, elapsed_ms(sim.requests[i].start_us) == 10 * ((int64_t)i - 9), "start %u after %lld ms", i,
		      (long long)elapsed_ms(sim.requests[i].start_us));
	finish();
}

static void a_rate_is_exact_on_one_shard(void)
{
	a_rate_is_exact(1);
}

static void a_rate_is_exact_on_four_shards(void)
{
	a_rate_is_exact(4);
}

static void a_lane_that_was_idle_has_its_whole_burst(void)
{
	struct sim_batch *first, *second;

	open_quiet(1, 0, quick);
	sim.services[0].rate = (struct rate_policy){.per_second = 10, .burst = 5};
	first = add_batch(5);
	second = add_batch(6);
	world_open();
	world_submit(first);
	run_to_done(first);
	submit_at(second, 500);
	run_to_done(second);
	for (unsigned i = 0; i < 6; i++)
		CHECK(RATE, start_ms(second, i) == (i < 5 ? 500 : 600), "item %u starts after %lld ms", i,
		      (long long)start_ms(second, i));
	finish();
}

/* Five were taken at once, at 10 a second: at 100 a second they are paid for in 50 ms,
 * and not in half a second; and a lower limit forgives nothing. */
static void a_reload_keeps_what_is_owed(void)
{
	struct sim_batch *first, *second, *third;

	open_quiet(1, 0, quick);
	sim.services[0].rate = (struct rate_policy){.per_second = 10, .burst = 5};
	first = add_batch(5);
	second = add_batch(1);
	third = add_batch(5);
	world_open();
	world_submit(first);
	run_to_done(first);
	world_reload_rate((struct rate_policy){.per_second = 100, .burst = 5});
	submit_at(second, 2);
	run_to_done(second);
	CHECK(RATE, start_ms(second, 0) == 10, "an attempt starts after %lld ms", (long long)start_ms(second, 0));
	world_reload_rate((struct rate_policy){.per_second = 1, .burst = 5});
	submit_at(third, 1011);
	run_to_done(third);
	CHECK(RATE, start_ms(third, 0) == 1011 && start_ms(third, 1) > 1500, "a lower limit forgives");
	finish();
}

/* A limit that was there for no time had a place for one of the five alone. */
static void two_reloads_forgive_nothing(void)
{
	struct sim_batch *first, *second;

	open_quiet(1, 0, quick);
	sim.services[0].rate = (struct rate_policy){.per_second = 10, .burst = 5};
	first = add_batch(5);
	second = add_batch(1);
	world_open();
	world_submit(first);
	run_to_done(first);
	world_reload_rate((struct rate_policy){.per_second = 1, .burst = 1});
	world_reload_rate((struct rate_policy){.per_second = 10, .burst = 5});
	submit_at(second, 2);
	run_to_done(second);
	CHECK(RATE, start_ms(second, 0) >= 100, "an attempt starts after %lld ms", (long long)start_ms(second, 0));
	finish();
}

/* ---- breaker ---- */

static void down_for_2500_ms(const struct request *r, struct script *s)
{
	answer(s, elapsed_ms(r->start_us) < 2500 ? 500 : 200, 5 * MS);
}

static void with_breaker(struct service *s)
{
	s->breaker = (struct breaker_policy){.failure_ratio = 0.5, .min_attempts = 4, .window_ms = 10000, .open_ms = 1000};
}

static void a_breaker_opens_refuses_and_closes(void)
{
	struct sim_batch *openers, *impatient, *job;

	open_quiet(1, 0, down_for_2500_ms);
	with_breaker(&sim.services[0]);
	openers = add_batch(4);
	openers->want.retry.max_attempts = 1;
	impatient = add_batch(2);
	job = add_job(1);
	job->want.retry = (struct retry_policy){.max_attempts = 20, .base_ms = 500, .cap_ms = 500};
	world_open();
	world_submit(openers);
	run_to_done(openers);
	submit_at(impatient, 10);
	run_to_done(impatient);
	EXPECT_ITEM(impatient, 0, CIRCUIT_OPEN, MAX_ATTEMPTS, NO, 0);
	EXPECT_ITEM(impatient, 1, CIRCUIT_OPEN, MAX_ATTEMPTS, NO, 0);
	CHECK(REFUSED, elapsed_ms(impatient->done_us) <= 10 + 100 + 200, "done after %lld ms",
	      (long long)elapsed_ms(impatient->done_us));
	submit_at(job, 400);
	run_to_done(job);
	CHECK(VERDICT, job->items[0].status == STATUS_SUCCEEDED && job->items[0].attempts <= 3 && job->items[0].refused > 0,
	      "%u attempts, %u refused", job->items[0].attempts, job->items[0].refused);
	finish();
}

static void gone(const struct request *r, struct script *s)
{
	(void)r;
	answer(s, 410, MS);
}

static void what_is_the_items_own_fault_opens_no_breaker(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, gone);
	with_breaker(&sim.services[0]);
	b = add_batch(50);
	b->want.concurrency = 1;
	world_open();
	world_submit(b);
	run_to_done(b);
	EXPECT_ITEM(b, 49, RECIPIENT_GONE, NOT_RETRYABLE, NO, 1);
	finish();
}

/* When the attempts of the healthy service start, beside the dead one or alone. */
static void starts_beside(bool dead, int64_t starts[20])
{
	struct sim_batch *first, *second;

	open_quiet(1, 0, first_is_dead);
	add_service();
	sim.config.limits.in_flight = 40;
	sim.services[1].max_in_flight = 4;
	with_breaker(&sim.services[0]);
	first = send_to(add_batch(200), 0);
	first->want.deadline_ms = 5000;
	second = send_to(add_batch(20), 1);
	world_open();
	if (dead)
		world_submit(first);
	submit_at(second, 50);
	run_to_done(second);
	for (unsigned i = 0; i < 20; i++)
		starts[i] = start_ms(second, i);
	finish();
}

static void a_dead_service_does_not_delay_another(void)
{
	int64_t alone[20], beside[20];

	starts_beside(false, alone);
	starts_beside(true, beside);
	for (unsigned i = 0; i < 20; i++)
		CHECK(FAIR, alone[i] == beside[i], "item %u starts after %lld ms, and alone after %lld ms", i,
		      (long long)beside[i], (long long)alone[i]);
}

/* ---- budget ---- */

static void down_for_10_s(const struct request *r, struct script *s)
{
	answer(s, elapsed_ms(r->start_us) < 10000 ? 503 : 200, 5 * MS);
}

/* 200 that are tried again every half second would be 4,000 requests. */
static void a_downstream_that_comes_back_meets_no_storm(void)
{
	struct sim_batch *job;
	unsigned before, after;

	open_quiet(1, 0, down_for_10_s);
	sim.services[0].retry_budget = (struct budget_policy){.ratio = 0.2, .per_second = 10, .window_ms = 10000};
	sim.services[0].max_in_flight = 500;
	job = add_job(200);
	job->want.retry = (struct retry_policy){.max_attempts = 20, .base_ms = 500, .cap_ms = 500};
	world_open();
	world_submit(job);
	run_until_ms(10000);
	before = sim.n_requests;
	run_until_ms(11000);
	after = sim.n_requests;
	run_to_done(job);
	CHECK(BUDGET, before <= 200 + 140, "%u requests to a downstream that is down", before);
	CHECK(BUDGET, after - before <= 140, "%u requests in its first second", after - before);
	CHECK(LIVENESS, job->items[199].status == STATUS_SUCCEEDED, "not delivered");
	finish();
}

static void breaks_once(const struct request *r, struct script *s)
{
	answer(s, r->batch == 0 ? 500 : 200, MS);
}

static void a_repeat_without_budget_waits_and_nobody_behind_it(void)
{
	struct sim_batch *b, *c;

	open_quiet(1, 0, breaks_once);
	sim.services[0].retry_budget = (struct budget_policy){.ratio = 0.2, .per_second = 0, .window_ms = 1000};
	b = add_batch(2);
	b->want.deadline_ms = 3000;
	c = add_batch(3);
	world_open();
	world_submit(b);
	submit_at(c, 1000);
	run_to_done(b);
	EXPECT_ITEM(b, 0, UPSTREAM_ERROR, RETRY_BUDGET, MAYBE, 1);
	CHECK(STOP, elapsed_ms(b->done_us) <= 3000, "done after %lld ms", (long long)elapsed_ms(b->done_us));
	for (unsigned i = 0; i < 3; i++)
		CHECK(BUDGET, start_ms(c, i) == 1000, "a first attempt waits for %lld ms", (long long)start_ms(c, i));
	finish();
}

/* ---- pauses ---- */

static void busy_once(const struct request *r, struct script *s)
{
	answer(s, r->batch == 0 && r->n == 1 ? 429 : 200, 5 * MS);
	if (r->batch == 0 && r->n == 1)
		s->retry_after_ms = 5000;
}

static void retry_after_pauses_the_lane_but_not_for_ever(void)
{
	struct sim_batch *b, *c;

	open_quiet(1, 0, busy_once);
	sim.services[0].max_pause_ms = 2000;
	b = add_batch(1);
	c = add_batch(2);
	world_open();
	world_submit(b);
	submit_at(c, 100);
	run_to_done(c);
	CHECK(PAUSE, start_ms(c, 0) == 2005 && start_ms(c, 1) == 2005, "the lane goes on after %lld ms",
	      (long long)start_ms(c, 0));
	run_to_done(b);
	CHECK(RETRY_WAIT, elapsed_ms(b->done_us) >= 5010, "the item itself does not wait");
	EXPECT_ITEM(b, 0, OK, NONE, YES, 2);
	finish();
}

/* The first batch's one, and then what else its service gets. */
static void first_asks_for_a_pause(const struct request *r, struct script *s)
{
	answer(s, r->batch == 0 ? 503 : 200, 5 * MS);
	if (r->batch == 0)
		s->retry_after_ms = 10000;
}

/* When the items of the healthy service start, behind 100 of one that pauses, or alone. */
static void starts_behind(bool paused, int64_t starts[20])
{
	struct sim_batch *first, *mixed;

	open_quiet(1, 0, first_asks_for_a_pause);
	add_service();
	sim.services[1].max_in_flight = 4;
	first = send_to(add_batch(1), 0);
	first->want.retry.max_attempts = 1;
	mixed = send_to(add_batch(120), 0);
	mixed->want.concurrency = 8;
	for (unsigned i = paused ? 100 : 0; i < 120; i++)
		mixed->items[i].service = 1;
	world_open();
	world_submit(first);
	submit_at(mixed, 50);
	run_to_done(mixed);
	for (unsigned i = 0; i < 20; i++)
		starts[i] = start_ms(mixed, paused ? 100 + i : i);
	for (unsigned i = 0; paused && i < 100; i++)
		CHECK(PAUSE, start_ms(mixed, i) >= 10005 && (i == 0 || start_ms(mixed, i) >= start_ms(mixed, i - 1)),
		      "item %u starts after %lld ms", i, (long long)start_ms(mixed, i));
	finish();
}

static void a_lane_that_pauses_does_not_delay_other_items(void)
{
	int64_t alone[20], behind[20];

	starts_behind(false, alone);
	starts_behind(true, behind);
	for (unsigned i = 0; i < 20; i++)
		CHECK(HELD, alone[i] == behind[i], "item %u starts after %lld ms, and alone after %lld ms", i,
		      (long long)behind[i], (long long)alone[i]);
}

/* The first item's ttl ends it, and so the batch; others are on their way back by then,
 * from another shard to one of the two batches. */
static void what_comes_back_to_an_ended_batch_does_not_wait(void)
{
	struct sim_batch *first, *all[2];

	open_quiet(2, 1, first_asks_for_a_pause);
	sim.set.delay_us = MS;
	clock_start(&sim.set);
	first = add_batch(1);
	first->want.retry.max_attempts = 1;
	for (unsigned i = 0; i < 2; i++) {
		all[i] = add_batch(50);
		all[i]->shard = i;
		all[i]->want.contract = CONTRACT_ALL_OR_NOTHING;
		all[i]->items[0].ttl_ms = 1000;
	}
	world_open();
	world_submit(first);
	submit_at(all[0], 50);
	world_submit(all[1]);
	run_to_done(all[0]);
	run_to_done(all[1]);
	for (unsigned i = 0; i < 2; i++) {
		EXPECT_ITEM(all[i], 0, NOT_ATTEMPTED, TTL, NO, 0);
		EXPECT_ITEM(all[i], 49, NOT_ATTEMPTED, FIRST_FAILURE, NO, 0);
	}
	finish();
}

/* ---- several lanes of one origin ---- */

static void hangs(const struct request *r, struct script *s)
{
	(void)r;
	hang(s);
}

static void with_lanes(unsigned lanes, unsigned shards, unsigned max_in_flight,
		       void (*script)(const struct request *, struct script *))
{
	open_quiet(shards, 0, script);
	sim.services[0].lanes = lanes;
	sim.services[0].max_in_flight = max_in_flight;
}

static unsigned started_from(unsigned shard)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sim.n_requests; i++)
		n += sim.requests[i].shard == shard;
	return n;
}

/* What one large batch makes use of, or as many small ones that come to one shard. */
static void all_that_may_be_in_flight_is_used(unsigned n_batches, unsigned n_items)
{
	with_lanes(4, 4, 10, hangs);
	for (unsigned i = 0; i < n_batches; i++)
		add_batch(n_items);
	world_open();
	for (unsigned i = 0; i < n_batches; i++)
		world_submit(&sim.batches[i]);
	run_until_ms(100);
	CHECK(IDLE, sim.n_requests == 10, "%u in flight", sim.n_requests);
	for (unsigned shard = 0; shard < 4; shard++)
		CHECK(IDLE, started_from(shard) == 2 || started_from(shard) == 3, "%u from shard %u", started_from(shard), shard);
	finish();
}

static void one_large_batch_uses_all_lanes(void)
{
	all_that_may_be_in_flight_is_used(1, 200);
}

static void so_do_many_small_ones(void)
{
	all_that_may_be_in_flight_is_used(12, 1);
}

static void what_needs_no_other_lane_stays_on_its_shard(void)
{
	for (unsigned shard = 0; shard < 4; shard++) {
		struct sim_batch *b;

		with_lanes(4, 4, 64, quick);
		b = add_batch(8);
		b->shard = shard;
		world_open();
		world_submit(b);
		run_to_done(b);
		CHECK(IDLE, started_from(shard) == 8, "%u of 8 start on shard %u", started_from(shard), shard);
		finish();
	}
}

/* 190 after the burst are 95 for each lane, at 50 a second. */
static void a_rate_is_used_to_the_full_by_two_lanes(void)
{
	struct sim_batch *b;

	with_lanes(2, 4, 8, quick);
	sim.services[0].rate = (struct rate_policy){.per_second = 100, .burst = 10};
	b = add_batch(200);
	world_open();
	world_submit(b);
	run_to_done(b);
	CHECK(RATE, elapsed_ms(b->done_us) <= 1920, "done after %lld ms", (long long)elapsed_ms(b->done_us));
	finish();
}

static void retry_after_pauses_all_lanes_of_the_origin(void)
{
	struct sim_batch *b, *c;

	with_lanes(4, 4, 8, busy_once);
	sim.services[0].max_pause_ms = 2000;
	b = add_batch(1);
	c = add_batch(8);
	world_open();
	world_submit(b);
	submit_at(c, 100);
	run_to_done(c);
	for (unsigned i = 0; i < 8; i++)
		CHECK(PAUSE, start_ms(c, i) == 2005, "item %u starts after %lld ms", i, (long long)start_ms(c, i));
	finish();
}

static void fails_on_shard_0(const struct request *r, struct script *s)
{
	answer(s, r->shard == 0 && elapsed_ms(r->start_us) < 900 ? 500 : 200, MS);
}

/* Which is empty, and so would have the most room. In the end its probe closes it. */
static void a_lane_that_refuses_leaves_its_attempts_to_the_others(void)
{
	struct sim_batch *b, *c, *e;

	with_lanes(2, 2, 64, fails_on_shard_0);
	with_breaker(&sim.services[0]);
	b = add_batch(8);
	b->want.retry.max_attempts = 1;
	c = add_batch(200);
	e = add_batch(200);
	e->want.concurrency = 10;
	world_open();
	world_submit(b);
	run_to_done(b);
	submit_at(c, 100);
	run_to_done(c);
	CHECK(REFUSED, started_from(0) == 8 && started_from(1) == 200, "%u and %u starts", started_from(0), started_from(1));
	submit_at(e, 1100);
	run_to_done(e);
	CHECK(BREAKER, started_from(0) > 50, "%u starts in the lane that is back", started_from(0));
	for (unsigned i = 0; i < 200; i++)
		CHECK(REFUSED, c->items[i].status == STATUS_SUCCEEDED && e->items[i].status == STATUS_SUCCEEDED, "item %u fails", i);
	finish();
}

/* ---- turns ---- */

static unsigned starts_in_first(unsigned n, const struct sim_batch *b)
{
	unsigned of = 0;

	for (unsigned i = 0; i < n; i++)
		of += sim.requests[i].batch == (unsigned)(b - sim.batches);
	return of;
}

static void tenants_share_by_weight(void)
{
	struct sim_batch *light, *heavy;

	open_quiet(1, 0, quick);
	sim.services[0].max_in_flight = 1;
	sim.tenants[1] = (struct tenant){.name = "shop", .weight = 3, .max_priority = PRIORITY_MAX};
	sim.config.n_tenants = 2;
	light = add_batch(100);
	heavy = add_batch(100);
	heavy->tenant = 1;
	world_open();
	world_submit(light);
	world_submit(heavy);
	run_to_done(heavy);
	CHECK(FAIR, abs((int)starts_in_first(80, heavy) - 60) <= 2, "%u of 80 starts", starts_in_first(80, heavy));
	finish();
}

static void batches_share_by_priority(void)
{
	struct sim_batch *low, *high;

	open_quiet(1, 0, quick);
	sim.services[0].max_in_flight = 1;
	low = add_batch(100);
	low->want.priority = 0;
	high = add_batch(100);
	high->want.priority = 4;
	world_open();
	world_submit(low);
	world_submit(high);
	run_to_done(high);
	CHECK(FAIR, abs((int)starts_in_first(60, high) - 50) <= 2, "%u of 60 starts", starts_in_first(60, high));
	finish();
}

const struct scenario lane_scenarios[] = {
	{"a rate is exact and used to the full, on one shard", a_rate_is_exact_on_one_shard},
	{"a rate is exact and used to the full, on four shards", a_rate_is_exact_on_four_shards},
	{"a lane that was idle has its whole burst", a_lane_that_was_idle_has_its_whole_burst},
	{"a reload keeps what is owed to a rate", a_reload_keeps_what_is_owed},
	{"two reloads forgive nothing", two_reloads_forgive_nothing},
	{"a breaker opens, refuses, probes and closes", a_breaker_opens_refuses_and_closes},
	{"what is the item's own fault opens no breaker", what_is_the_items_own_fault_opens_no_breaker},
	{"a dead service does not delay another", a_dead_service_does_not_delay_another},
	{"a downstream that comes back meets no storm", a_downstream_that_comes_back_meets_no_storm},
	{"a repeat without budget waits, and nobody behind it", a_repeat_without_budget_waits_and_nobody_behind_it},
	{"Retry-After pauses the lane, but not for ever", retry_after_pauses_the_lane_but_not_for_ever},
	{"a lane that pauses does not delay other items of its batch", a_lane_that_pauses_does_not_delay_other_items},
	{"what comes back to an ended batch does not wait", what_comes_back_to_an_ended_batch_does_not_wait},
	{"one large batch uses all lanes, and all that may be in flight", one_large_batch_uses_all_lanes},
	{"many small ones of one shard use all lanes, too", so_do_many_small_ones},
	{"what needs no other lane stays on its shard", what_needs_no_other_lane_stays_on_its_shard},
	{"a rate is used to the full by two lanes", a_rate_is_used_to_the_full_by_two_lanes},
	{"Retry-After pauses all lanes of the origin", retry_after_pauses_all_lanes_of_the_origin},
	{"a lane that refuses leaves its attempts to the others", a_lane_that_refuses_leaves_its_attempts_to_the_others},
	{"tenants share a lane by weight", tenants_share_by_weight},
	{"batches of a tenant share a lane by priority", batches_share_by_priority},
};
const unsigned n_lane_scenarios = ARRAY_LEN(lane_scenarios);
