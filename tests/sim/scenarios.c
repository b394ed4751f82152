/*
 * Named scenarios with exact times: the four tests that the project's founding
 * article asks for, fairness, and the faults that seeds have found.
 */
#include <stdio.h>
#include <stdlib.h>

#include "rig.h"

/* ---- partial failures ---- */

static void some_fail(const struct request *r, struct script *s)
{
	static const int statuses[] = {200, 410, 200, 503, 400};

	answer(s, statuses[r->item], 5 * MS);
}

static void partial_failures(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, some_fail);
	b = add_batch(5);
	world_open();
	world_submit(b);
	run_to_done(b);
	EXPECT_ITEM(b, 0, OK, NONE, YES, 1);
	EXPECT_ITEM(b, 1, RECIPIENT_GONE, NOT_RETRYABLE, NO, 1);
	EXPECT_ITEM(b, 2, OK, NONE, YES, 1);
	EXPECT_ITEM(b, 3, UNAVAILABLE, MAX_ATTEMPTS, MAYBE, 3);
	EXPECT_ITEM(b, 4, INVALID_ITEM, NOT_RETRYABLE, NO, 1);
	CHECK(COUNTS, b->b->outcome == BATCH_OUTCOME_PARTIAL, "outcome");
	CHECK(STOP_REASON, b->b->stop_reason == STOP_REASON_COMPLETED, "stop_reason");
	finish();
}

/* ---- timeouts ---- */

static void hangs_once(const struct request *r, struct script *s)
{
	if (r->n == 1)
		hang(s);
	else if (r->item == 0)
		answer(s, 200, 5 * MS);
	else
		refuse(s);
}

static void a_timeout_is_retried(void)
{
	const struct request *first;
	struct sim_batch *b;

	open_quiet(1, 0, hangs_once);
	b = add_batch(2);
	world_open();
	world_submit(b);
	run_to_done(b);
	first = &sim.requests[b->items[0].first];
	CHECK(OUTLIVES, elapsed_ms(first->cancel_us) == 1000, "cancelled after %lld ms",
	      (long long)elapsed_ms(first->cancel_us));
	EXPECT_ITEM(b, 0, OK, NONE, YES, 2);
	CHECK(DUPLICATE, b->b->items[0].duplicate_risk, "a second sending is no risk");
	/* The last error is a refusal; that the first may have arrived is not forgotten. */
	EXPECT_ITEM(b, 1, CONNECT_FAILED, MAX_ATTEMPTS, MAYBE, 3);
	CHECK(DUPLICATE, !b->b->items[1].duplicate_risk, "nothing was sent twice");
	finish();
}

static void hangs_always(const struct request *r, struct script *s)
{
	(void)r;
	hang(s);
}

static void a_deadline_ends_everything_at_its_instant(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, hangs_always);
	sim.services[0].max_in_flight = 1;
	b = add_batch(2);
	b->want.deadline_ms = 700;
	world_open();
	world_submit(b);
	run_to_done(b);
	CHECK(OUTLIVES, elapsed_ms(b->done_us) == 700, "done after %lld ms", (long long)elapsed_ms(b->done_us));
	EXPECT_ITEM(b, 0, TIMEOUT, DEADLINE, MAYBE, 1);
	EXPECT_ITEM(b, 1, NOT_ATTEMPTED, DEADLINE, NO, 0);
	finish();
}

static void at_most_once_does_not_repeat_a_timeout(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, hangs_always);
	b = add_batch(1);
	b->want.at_most_once = true;
	world_open();
	world_submit(b);
	run_to_done(b);
	EXPECT_ITEM(b, 0, TIMEOUT, MAYBE_DELIVERED, MAYBE, 1);
	finish();
}

/* ---- cancellation during a retry wait ---- */

static void busy_for_long(const struct request *r, struct script *s)
{
	(void)r;
	answer(s, 503, 5 * MS);
	s->retry_after_ms = 20000;
}

static void end_a_wait(enum why why)
{
	struct sim_batch *b;

	open_quiet(1, 0, busy_for_long);
	b = add_batch(3);
	world_open();
	world_submit(b);
	step_until_waiting(b, 2);
	run_until_ms(5000);
	world_end(b, why);
	run_to_done(b);
	CHECK(ABORT_AT_ONCE, elapsed_ms(b->done_us) == 5000, "done after %lld ms", (long long)elapsed_ms(b->done_us));
	for (unsigned i = 0; i < 3; i++) {
		CHECK(STOP, b->items[i].stop == (why == WHY_CANCELLED ? STOP_CANCELLED : STOP_DISCONNECTED), "stop");
		CHECK(VERDICT, b->items[i].code == CODE_UNAVAILABLE, "the last error is lost");
	}
	finish();
}

static void a_cancel_ends_a_wait_at_once(void)
{
	end_a_wait(WHY_CANCELLED);
}

static void a_disconnect_ends_a_wait_at_once(void)
{
	end_a_wait(WHY_DISCONNECTED);
}

/* ---- mixed success in one batch ---- */

static void one_of_each(const struct request *r, struct script *s)
{
	if (r->item == 0)
		answer(s, 200, 5 * MS);
	else if (r->item == 1)
		answer(s, 410, 5 * MS);
	else
		hang(s);
}

static void mixed_success(void)
{
	const struct counts *c;
	struct sim_batch *b;

	open_quiet(1, 0, one_of_each);
	b = add_batch(4);
	b->want.concurrency = 1;
	b->want.deadline_ms = 1003;
	world_open();
	world_submit(b);
	run_to_done(b);
	EXPECT_ITEM(b, 0, OK, NONE, YES, 1);
	EXPECT_ITEM(b, 1, RECIPIENT_GONE, NOT_RETRYABLE, NO, 1);
	EXPECT_ITEM(b, 2, TIMEOUT, DEADLINE, MAYBE, 1);
	EXPECT_ITEM(b, 3, NOT_ATTEMPTED, DEADLINE, NO, 0);
	c = &b->b->counts;
	CHECK(COUNTS, c->succeeded == 1 && c->failed == 1 && c->indeterminate == 1 && c->not_attempted == 1, "counts");
	CHECK(COUNTS, b->b->outcome == BATCH_OUTCOME_PARTIAL, "outcome");
	finish();
}

static void fails_second(const struct request *r, struct script *s)
{
	if (r->item == 1)
		answer(s, 404, 5 * MS);
	else
		answer(s, 200, (r->item == 0 ? 1 : 50) * MS);
}

static void all_or_nothing_stops_at_the_first_failure(void)
{
	struct sim_batch *b;

	open_quiet(1, 0, fails_second);
	b = add_batch(4);
	b->want.contract = CONTRACT_ALL_OR_NOTHING;
	b->want.concurrency = 2;
	world_open();
	world_submit(b);
	run_to_done(b);
	EXPECT_ITEM(b, 0, OK, NONE, YES, 1);
	EXPECT_ITEM(b, 1, RECIPIENT_NOT_FOUND, NOT_RETRYABLE, NO, 1);
	EXPECT_ITEM(b, 2, ABORTED, FIRST_FAILURE, MAYBE, 1);
	EXPECT_ITEM(b, 3, NOT_ATTEMPTED, FIRST_FAILURE, NO, 0);
	CHECK(STOP_REASON, b->b->stop_reason == STOP_REASON_FIRST_FAILURE, "stop_reason");
	finish();
}

/* ---- fairness ---- */

static void a_batch_of_1000_does_not_starve_a_batch_of_1(void)
{
	struct sim_batch *many, *one;
	unsigned before;

	open_quiet(1, 0, quick);
	sim.services[0].max_in_flight = 4;
	many = add_batch(1000);
	one = add_batch(1);
	world_open();
	world_submit(many);
	run_until_ms(10);
	before = sim.n_requests;
	world_submit(one);
	run_to_done(one);
	CHECK(LIVENESS, sim.n_requests - before <= 2 * 4, "%u requests before it was served", sim.n_requests - before);
	CHECK(LIVENESS, !many->done && sim.n_requests < 100, "the large batch is done already");
	finish();
}

/* The items of the second service go to another origin, so to another lane. */
static void a_lane_gets_its_turn_although_another_fills_the_shard(void)
{
	struct sim_batch *many, *one;
	unsigned before;

	open_quiet(1, 0, quick);
	sim.config.limits.in_flight = 2;
	add_service();
	many = send_to(add_batch(500), 0);
	one = send_to(add_batch(1), 1);
	world_open();
	world_submit(many);
	run_until_ms(10);
	before = sim.n_requests;
	world_submit(one);
	run_to_done(one);
	CHECK(LIVENESS, sim.n_requests - before <= 3 * 2, "%u requests before it was served", sim.n_requests - before);
	CHECK(LIVENESS, !many->done && sim.n_requests < 100, "the large batch is done already");
	finish();
}

/* ---- what seeds have found ---- */

/* The shard stands still until both have passed: the timer fires late. */
static void nothing_starts_late_although_the_timer_is_late(void)
{
	struct sim_batch *b, *c;

	open_quiet(1, 0, quick);
	sim.exact = false;
	sim.stalls = true;
	b = add_batch(1);
	b->want.deadline_ms = 100;
	c = add_batch(1);
	c->items[0].ttl_ms = 100;
	world_open();
	world_submit(b);
	world_submit(c);
	/* The first turn: the attempts are on their way to their lane. */
	while (b->b->items[0].state != ITEM_QUEUED || c->b->items[0].state != ITEM_QUEUED)
		world_step();
	fake_loop_stall(sim.loops[0], clock_now() + 200 * MS);
	run_to_done(b);
	run_to_done(c);
	EXPECT_ITEM(b, 0, NOT_ATTEMPTED, DEADLINE, NO, 0);
	EXPECT_ITEM(c, 0, EXPIRED, TTL, NO, 0);
	finish();
}

static void a_cancel_after_the_last_result_changes_nothing(void)
{
	struct sim_batch *b;

	open_quiet(1, 100, quick);
	b = add_batch(2);
	world_open();
	world_submit(b);
	while (b->b->counts.pending > 0)
		world_step();
	CHECK(STOP_REASON, !b->done, "there is no moment between the last result and the end");
	world_end(b, WHY_CANCELLED);
	run_to_done(b);
	CHECK(STOP_REASON, b->b->stop_reason == STOP_REASON_COMPLETED, "stop_reason");
	finish();
}

static void no_http(const struct request *r, struct script *s)
{
	(void)r;
	answer(s, 0, 0);
	s->end = ANSWER_MALFORMED;
	s->at_status = NEVER;
	s->at_end = 50 * MS;
}

/* The answer is there, but not yet told, when the ttl cancels its transfer. */
static void a_final_answer_is_the_stop_though_the_ttl_passed(void)
{
	unsigned met = 0;

	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct sim_batch *b;

		open_quiet(1, 10 * MS, no_http);
		sim.set.seed = seed;
		clock_start(&sim.set);
		b = add_batch(1);
		b->items[0].ttl_ms = 60;
		world_open();
		world_submit(b);
		run_to_done(b);
		if (b->items[0].code == CODE_BAD_RESPONSE) {
			EXPECT_ITEM(b, 0, BAD_RESPONSE, NOT_RETRYABLE, MAYBE, 1);
			met += sim.requests[0].cancel_us != NEVER;
		}
		finish();
	}
	CHECK(VERDICT, met > 0, "the two never met");
}

const struct scenario scenarios[] = {
	{"partial failures are reported item by item", partial_failures},
	{"a timeout is retried, and what may have been delivered is not forgotten", a_timeout_is_retried},
	{"a deadline ends everything at its instant", a_deadline_ends_everything_at_its_instant},
	{"at_most_once does not repeat a timeout", at_most_once_does_not_repeat_a_timeout},
	{"a cancel ends a retry wait at once", a_cancel_ends_a_wait_at_once},
	{"a disconnect ends a retry wait at once", a_disconnect_ends_a_wait_at_once},
	{"mixed success in one batch: one of each status", mixed_success},
	{"all_or_nothing stops at the first failure", all_or_nothing_stops_at_the_first_failure},
	{"a batch of 1,000 does not starve a batch of 1", a_batch_of_1000_does_not_starve_a_batch_of_1},
	{"a lane gets its turn although another fills the shard", a_lane_gets_its_turn_although_another_fills_the_shard},
	{"nothing starts late although the timer is late", nothing_starts_late_although_the_timer_is_late},
	{"a final answer is the stop, though the ttl passed", a_final_answer_is_the_stop_though_the_ttl_passed},
	{"a cancel after the last result changes nothing", a_cancel_after_the_last_result_changes_nothing},
};
const unsigned n_scenarios = ARRAY_LEN(scenarios);
