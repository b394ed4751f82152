/*
 * Named scenarios of what outlives a process: what the kill test shows for real,
 * here with exact times, and the faults that seeds have found.
 */
#include "rig.h"

/* A caller that has its 202 and goes. */
static void submit_and_leave(struct sim_batch *b)
{
	world_submit(b);
	world_detach(b);
}

static void step_until_seen(const struct sim_batch *b, unsigned item, unsigned times)
{
	while (b->items[item].starts < times || sim.requests[b->items[item].last].seen == 0)
		CHECK(LIVENESS, world_step(), "the item is not sent, and nothing is left to happen");
}

static void hangs_once(const struct request *r, struct script *s)
{
	if (r->n == 1)
		hang(s);
	else
		answer(s, 200, 5 * MS);
}

/* ---- crashes ---- */

static void crash_in_flight(bool at_most_once)
{
	struct sim_batch *b;

	open_quiet(1, 0, hangs_once);
	b = add_job(1);
	b->want.at_most_once = at_most_once;
	world_open();
	submit_and_leave(b);
	step_until_seen(b, 0, 1);
	life_crash(2);
	run_to_done(b);
	if (at_most_once)
		EXPECT_ITEM(b, 0, INTERRUPTED, MAYBE_DELIVERED, MAYBE, 1);
	else
		EXPECT_ITEM(b, 0, OK, NONE, YES, 2);
	CHECK(DUPLICATE, b->items[0].duplicate_risk == !at_most_once, "duplicate_risk");
	finish();
}

static void an_attempt_that_a_crash_cut_is_repeated(void)
{
	crash_in_flight(false);
}

static void under_at_most_once_it_is_not(void)
{
	crash_in_flight(true);
}

static void a_claim_counts_though_nothing_was_sent(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, quick);
	b = add_job(1);
	world_open();
	submit_and_leave(b);
	while (!b->items[0].claim_kept)
		world_step();
	CHECK(CLAIM, b->items[0].starts == 0, "there is no moment between the claim and the start");
	life_crash(1);
	run_to_done(b);
	EXPECT_ITEM(b, 0, OK, NONE, YES, 2);
	CHECK(SEEN, sim.requests[b->items[0].last].seen == 1, "it was not sent");
	finish();
}

static void an_acceptance_that_a_crash_swallowed_leaves_nothing(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, quick);
	b = add_job(3);
	world_open();
	world_submit(b);
	life_crash(1);
	finish();
	CHECK(KEPT, b->fate == FATE_ABSENT && sim.n_requests == 0, "something of it is left");
}

static void busy_for_long(const struct request *r, struct script *s)
{
	answer(s, r->n == 1 ? 503 : 200, 5 * MS);
	s->retry_after_ms = r->n == 1 ? 60000 : RETRY_AFTER_NONE;
}

static void a_retry_wait_survives_a_crash(void)
{
	const struct request *second;
	struct sim_batch *b;

	open_quiet(1, 0, busy_for_long);
	b = add_job(1);
	world_open();
	submit_and_leave(b);
	step_until_waiting(b, 0);
	run_until_ms(20000);
	life_crash(1);
	run_to_done(b);
	second = &sim.requests[b->items[0].last];
	CHECK(RETRY_WAIT, elapsed_ms(second->start_us) >= 60005 && elapsed_ms(second->start_us) <= 60010,
	      "sent again after %lld ms", (long long)elapsed_ms(second->start_us));
	finish();
}

static void a_batch_under_a_key_ends_as_interrupted(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, hangs_once);
	b = add_batch(2);
	b->durable = true;
	b->key = 1;
	b->want.concurrency = 1;
	world_open();
	world_submit(b);
	step_until_seen(b, 0, 1);
	life_crash(1);
	run_to_done(b);
	EXPECT_ITEM(b, 0, INTERRUPTED, INTERRUPTED, MAYBE, 1);
	EXPECT_ITEM(b, 1, NOT_ATTEMPTED, INTERRUPTED, NO, 0);
	finish();
}

static void second_fails(const struct request *r, struct script *s)
{
	if (r->item == 1)
		answer(s, 410, 5 * MS);
	else
		hang(s);
}

static void a_first_failure_is_not_forgotten_by_a_crash(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, second_fails);
	b = add_job(4);
	b->want.contract = CONTRACT_ALL_OR_NOTHING;
	b->want.concurrency = 2;
	world_open();
	submit_and_leave(b);
	while (b->items[1].kept.state != ITEM_FINAL)
		world_step();
	life_crash(1);
	run_to_done(b);
	CHECK(ALL_OR_NOTHING, b->items[2].starts == 0 && b->items[3].starts == 0, "it goes on");
	CHECK(STOP, b->items[3].stop == STOP_FIRST_FAILURE, "stop %s", stop_str((enum stop)b->items[3].stop));
	finish();
}

/* ---- the disk ---- */

static void a_disk_that_fails_stops_jobs_alone(void)
{
	struct sim_batch *job, *plain, *refused;

	open_quiet(1, 0, quick);
	job = add_job(3);
	plain = add_batch(3);
	refused = add_job(1);
	job->want.concurrency = 1;
	world_open();
	submit_and_leave(job);
	step_until_seen(job, 0, 1);
	store_disk_fail(sim.disk, clock_now() + 10000 * MS);
	world_submit(plain);
	world_submit(refused);
	run_to_done(plain);
	CHECK(ACK, elapsed_ms(plain->done_us) < 20, "a plain batch waits for the disk");
	run_until_ms(5000);
	CHECK(CLAIM, job->items[1].starts == 0, "a job starts without its claim");
	CHECK(ACK, refused->fate == FATE_ABSENT, "a job is accepted without the disk");
	run_to_done(job);
	finish();
}

/* ---- memory ---- */

static void fails_for_a_minute(const struct request *r, struct script *s)
{
	bool fails = elapsed_ms(r->start_us) < 60000;

	answer(s, fails ? 503 : 200, 5 * MS);
	s->retry_after_ms = fails ? 10000 : RETRY_AFTER_NONE;
}

static void a_job_that_waits_leaves_memory(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, fails_for_a_minute);
	b = add_job(4);
	b->want.retry = (struct retry_policy){.max_attempts = 20, .base_ms = 60000, .cap_ms = 60000};
	world_open();
	submit_and_leave(b);
	run_until_ms(10);
	for (unsigned i = 0; i < 4; i++)
		step_until_waiting(b, i);
	run_until_ms(100);
	CHECK(RESIDENT, atomic_load(&sim.group.held_bytes) == 0 && dispatch_usage(sim.dispatches[0]).backlog == 1,
	      "it waits in memory");
	run_to_done(b);
	CHECK(COUNTS, b->reloaded, "it was never loaded");
	finish();
}

static void open_two_services(void)
{
	open_quiet(1, 0, first_is_dead);
	sim.services[0].attempt_timeout_ms = 600000;
	add_service();
	sim.config.limits.resident_bytes = 8000;
}

/* Jobs for a service that hangs come first, then three for another one. */
static void hung_service(unsigned n_hung, unsigned n_items)
{
	open_two_services();
	for (unsigned i = 0; i < n_hung + 3; i++)
		send_to(add_job(i < n_hung ? n_items : 4), i < n_hung ? 0 : 1);
	world_open();
	for (unsigned i = 0; i < sim.n_batches; i++)
		submit_and_leave(&sim.batches[i]);
	run_until_ms(1000);
	for (unsigned i = 0; i < sim.n_batches; i++)
		CHECK(RESIDENT, sim.batches[i].done == (i >= n_hung), "the hung service keeps the others out");
	for (unsigned i = 0; i < n_hung; i++)
		world_end(&sim.batches[i], WHY_CANCELLED);
	finish();
}

static void a_service_that_hangs_leaves_room_for_others(void)
{
	hung_service(20, 4);
}

static void a_job_larger_than_all_room_leaves_some(void)
{
	hung_service(1, 200);
	hung_service(2, 200);
}

static void a_job_is_cancelled_where_it_is(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, fails_for_a_minute);
	b = add_job(2);
	b->want.retry = (struct retry_policy){.max_attempts = 20, .base_ms = 60000, .cap_ms = 60000};
	world_open();
	submit_and_leave(b);
	step_until_waiting(b, 0);
	step_until_waiting(b, 1);
	run_until_ms(100);
	listen_watch(b);
	world_end(b, WHY_CANCELLED);
	run_to_done(b);
	CHECK(ABORT_AT_ONCE, elapsed_ms(b->done_us) < 110, "cancelled after %lld ms", (long long)elapsed_ms(b->done_us));
	EXPECT_ITEM(b, 0, UNAVAILABLE, CANCELLED, MAYBE, 1);
	finish();
}

/* ---- in good order ---- */

static void go_down(void)
{
	sim.down = true;
	for (unsigned i = 0; i < sim.n_shards; i++)
		if (!sim.draining[i])
			world_drain(i);
	for (unsigned i = 0; i < sim.n_shards; i++)
		world_shut_down(i);
	while (!life_is_quiet())
		CHECK(LIVENESS, world_step(), "it does not go down, and nothing is left to happen");
}

static void a_shutdown_settles_no_job(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, hangs_once);
	b = add_job(2);
	b->want.concurrency = 1;
	world_open();
	submit_and_leave(b);
	step_until_seen(b, 0, 1);
	go_down();
	CHECK(SHUTDOWN, b->pending == 2, "%u items are open", b->pending);
	life_restart(3);
	run_to_done(b);
	EXPECT_ITEM(b, 0, OK, NONE, YES, 2);
	EXPECT_ITEM(b, 1, OK, NONE, YES, 2);
	finish();
}

/* ---- what seeds have found ---- */

/* The job's own shard is the second to go down, and its lane's is the first. */
static void a_lane_that_goes_down_first_is_not_asked_again(void)
{
	unsigned met = 0;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim_batch *b;
		unsigned lane;

		open_quiet(2, 0, hangs_once);
		sim.set.seed = seed;
		clock_start(&sim.set);
		b = add_job(2);
		b->want.concurrency = 1;
		world_open();
		world_submit(b);
		step_until_seen(b, 0, 1);
		lane = sim.requests[0].shard;
		met += lane != b->shard;
		world_drain(lane);
		world_shut_down(lane);
		run_until_ms(100);
		CHECK(SHUTDOWN, b->pending == 2, "%u items are open", b->pending);
		go_down();
		life_restart(1);
		run_to_done(b);
		finish();
	}
	CHECK(SHUTDOWN, met > 0, "the lane is always the job's own shard's");
}

/* The lane's shard hears of the deadline before the job's own, which is shut down first. */
static void a_deadline_in_a_shutdown_is_the_reason(void)
{
	unsigned met = 0;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim_batch *b;
		struct batch *kept;

		open_quiet(2, 0, hangs_once);
		sim.set.seed = seed;
		clock_start(&sim.set);
		sim.exact = false;
		sim.stalls = true;
		b = add_job(1);
		b->want.deadline_ms = 100;
		world_open();
		world_submit(b);
		step_until_seen(b, 0, 1);
		if (sim.requests[0].shard != b->shard) {
			fake_loop_stall(sim.loops[b->shard], clock_now() + 102 * MS);
			run_until_ms(101);
			world_drain(b->shard);
			world_shut_down(b->shard);
			met++;
		}
		run_to_done(b);
		EXPECT_ITEM(b, 0, TIMEOUT, DEADLINE, MAYBE, 1);
		kept = store_disk_look(sim.disk, b->id);
		CHECK(STOP_REASON, kept->stop_reason == STOP_REASON_DEADLINE, "%s", stop_reason_str(kept->stop_reason));
		batch_unref(kept);
		finish();
	}
	CHECK(STOP_REASON, met > 0, "the lane is always the job's own shard's");
}

static void a_last_failure_in_a_shutdown_is_the_first(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, hangs_once);
	b = add_job(1);
	b->want.contract = CONTRACT_ALL_OR_NOTHING;
	b->want.at_most_once = true;
	world_open();
	submit_and_leave(b);
	step_until_seen(b, 0, 1);
	go_down();
	EXPECT_ITEM(b, 0, ABORTED, MAYBE_DELIVERED, MAYBE, 1);
	finish();
}

/* The first job is ended between the answer to its claim and its start. */
static void a_claim_that_is_given_back_makes_place(void)
{
	for (unsigned steps = 0; steps < 12; steps++) {
		struct sim_batch *first, *second;

		open_quiet(1, 100, quick);
		sim.services[0].max_in_flight = 1;
		first = add_job(1);
		second = add_job(1);
		world_open();
		submit_and_leave(first);
		submit_and_leave(second);
		while (!first->items[0].claimed)
			world_step();
		for (unsigned i = 0; i < steps; i++)
			world_step();
		world_end(first, WHY_CANCELLED);
		run_until_ms(1000);
		CHECK(IDLE, second->done, "the second job waits for nothing, after %u steps", steps);
		finish();
	}
}

const struct scenario job_scenarios[] = {
	{"an attempt that a crash cut is repeated", an_attempt_that_a_crash_cut_is_repeated},
	{"under at_most_once it is not", under_at_most_once_it_is_not},
	{"a claim counts, though nothing was sent", a_claim_counts_though_nothing_was_sent},
	{"an acceptance that a crash swallowed leaves nothing", an_acceptance_that_a_crash_swallowed_leaves_nothing},
	{"a retry wait survives a crash", a_retry_wait_survives_a_crash},
	{"a batch under a key ends as interrupted", a_batch_under_a_key_ends_as_interrupted},
	{"a first failure is not forgotten by a crash", a_first_failure_is_not_forgotten_by_a_crash},
	{"a disk that fails stops jobs alone", a_disk_that_fails_stops_jobs_alone},
	{"a job that waits leaves memory", a_job_that_waits_leaves_memory},
	{"a service that hangs leaves room for others", a_service_that_hangs_leaves_room_for_others},
	{"a job larger than all room leaves some for others", a_job_larger_than_all_room_leaves_some},
	{"a job is cancelled where it is", a_job_is_cancelled_where_it_is},
	{"a shutdown settles no job", a_shutdown_settles_no_job},
	{"a lane that goes down first is not asked again", a_lane_that_goes_down_first_is_not_asked_again},
	{"a claim that is given back makes place", a_claim_that_is_given_back_makes_place},
	{"a deadline in a shutdown is the reason", a_deadline_in_a_shutdown_is_the_reason},
	{"a last failure in a shutdown is the first", a_last_failure_in_a_shutdown_is_the_first},
};
const unsigned n_job_scenarios = ARRAY_LEN(job_scenarios);
