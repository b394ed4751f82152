/*
 * What a lane lets start, claims, refuses and remembers: the real dispatcher on a
 * clock of the test's own.
 */
#include "dispatch-rig.h"
#include "dispatch/lane-i.h"
#include "dispatch/live-i.h"

enum { LANES_KEPT = 4096 };

static bool nothing_left(void)
{
	return rig.d->live_by_id.n == 0;
}

static const struct breaker_policy after_one = {.failure_ratio = 1, .min_attempts = 1, .window_ms = 10000,
						.open_ms = 5000};

/* ---- claims ---- */

static void claims_come_as_the_rate_lets_their_attempts_start(void **state)
{
	(void)state;
	rig.services[0].rate = (struct rate_policy){.per_second = 1, .burst = 2};
	submit_job(8, 0);
	run_for(SEC_US / 2);
	assert_int_equal(rig.n_sent, 2);
	assert_int_equal(count_asked(STORE_CLAIM), 2);
	/* A tenth of a second ahead, for the disk. */
	run_for(SEC_US / 2 - 100001);
	assert_int_equal(count_asked(STORE_CLAIM), 2);
	run_for(2);
	assert_int_equal(count_asked(STORE_CLAIM), 3);
	assert_int_equal(rig.n_sent, 2);
	run_for(100000);
	assert_int_equal(rig.n_sent, 3);
}

static void nothing_is_claimed_while_the_lane_pauses(void **state)
{
	(void)state;
	rig.services[0].max_pause_ms = 60000;
	submit_job(2, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, 2);
	answer_one(&rig.sent[0], 429, 10000);
	run_for(1000);
	submit_job(1, 0);
	run_for(9800000);
	assert_int_equal(count_asked(STORE_CLAIM), 2);
	run_for(100000);
	assert_int_equal(count_asked(STORE_CLAIM), 3);
	assert_int_equal(rig.n_sent, 2);
	/* And what was told to wait. */
	run_for(100000);
	assert_int_equal(rig.n_sent, 4);
}

static void no_repeat_is_claimed_without_budget(void **state)
{
	(void)state;
	rig.services[0].retry_budget = (struct budget_policy){.ratio = 0, .per_second = 1, .window_ms = 1000};
	rig.answers = 429;
	submit_job(4, 0);
	run_for(900000);
	rig.answers = 200;
	run_for(30 * (int64_t)SEC_US);
	/* The job is over; its repeats came one in a window, which is a slot longer. */
	assert_true(nothing_left());
	assert_int_equal(count_asked(STORE_CLAIM), rig.n_sent);
	for (unsigned i = 5; i < rig.n_sent; i++)
		assert_true(rig.sent[i].started_us - rig.sent[i - 1].started_us >= SEC_US);
}

static void what_was_claimed_and_refused_is_told_as_not_started(void **state)
{
	struct batch_id id;
	struct batch *b;

	(void)state;
	rig.services[0].breaker = after_one;
	rig.services[0].max_in_flight = 2;
	id = submit_job(6, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, 2);
	assert_int_equal(count_asked(STORE_CLAIM), 4);
	answer_one(&rig.sent[0], 500, RETRY_AFTER_NONE);
	answer_one(&rig.sent[1], 500, RETRY_AFTER_NONE);
	run_for(1000);
	assert_int_equal(rig.n_sent, 2);
	assert_int_equal(rig.d->claims, 0);
	b = stored(id);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(b->items[i].attempts, i < 2);
		assert_int_equal(b->items[i].refused, i >= 2);
		assert_false(b->items[i].in_flight);
		assert_int_equal(b->items[i].state, ITEM_WAITING);
	}
	batch_unref(b);
}

/* ---- pauses ---- */

/* The first service asks for a pause of 10 s from now on. */
static void pause_first_service(void)
{
	struct batch *b = make_batch(1, 0, false, false);

	rig.services[0].max_pause_ms = 60000;
	b->policy.retry.max_attempts = 1;
	submit_batch(b);
	run_for(1000);
	answer_one(&rig.sent[0], 429, 10000);
	run_until(nothing_left);
	rig.n_sent = 0;
}

static uint64_t queued_in_lane(void)
{
	return metrics_read(rig.metrics, METRIC_LANE_QUEUED, 0, 0);
}

/* Six items of the service that pauses, and after them two of the other one. */
static struct batch *make_mixed(bool job)
{
	struct batch *b = make_batch(8, 0, job, job);

	b->items[6].service = b->items[7].service = 1;
	b->policy.concurrency = 2;
	return b;
}

static void assert_sent(unsigned n, const char *names)
{
	assert_int_equal(rig.n_sent, n);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(rig.sent[i].url[strlen(rig.sent[i].url) - 1], names[i]);
}

static void items_of_a_lane_that_pauses_hold_up_no_others(void **state)
{
	(void)state;
	for (int job = 0; job < 2; job++) {
		pause_first_service();
		rig.answers = 200;
		submit_batch(make_mixed(job));
		run_for(SEC_US);
		assert_sent(2, "gh");
		assert_int_equal(queued_in_lane(), 0);
		/* A job has left memory until then. */
		assert_int_equal(metrics_read(rig.metrics, METRIC_QUEUED, 0, 0), job ? 0 : 6);
		/* In the order of the request, as many at once as the batch may have. */
		run_until(nothing_left);
		run_for(10 * (int64_t)SEC_US);
		assert_int_equal(dispatch_usage(rig.d).backlog, 0);
		assert_sent(8, "ghabcdef");
		rig.answers = 0;
	}
}

static void they_are_there_before_the_pause_is_over(void **state)
{
	(void)state;
	pause_first_service();
	submit_batch(make_mixed(false));
	run_for(9800000);
	assert_int_equal(queued_in_lane(), 0);
	run_for(110000);
	/* The other two are in flight, and have the batch's places. */
	assert_int_equal(queued_in_lane(), 0);
	answer_one(&rig.sent[0], 200, RETRY_AFTER_NONE);
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	run_for(10000);
	assert_int_equal(queued_in_lane(), 2);
	assert_int_equal(rig.n_sent, 2);
	run_for(90000);
	assert_sent(4, "ghab");
}

static void a_pause_that_is_nearly_over_is_waited_for_in_the_lane(void **state)
{
	(void)state;
	pause_first_service();
	run_for(9900000);
	submit_batch(make_mixed(false));
	run_for(1000);
	assert_int_equal(queued_in_lane(), 2);
	assert_int_equal(rig.n_sent, 0);
	run_for(100000);
	assert_sent(2, "ab");
}

static void nothing_overtakes_in_a_sequential_batch(void **state)
{
	struct batch *b = make_mixed(false);

	(void)state;
	b->policy.sequential = true;
	b->policy.concurrency = 1;
	pause_first_service();
	rig.answers = 200;
	submit_batch(b);
	run_for(9 * (int64_t)SEC_US);
	assert_int_equal(rig.n_sent, 0);
	run_until(nothing_left);
	assert_sent(8, "abcdefgh");
}

static void a_pause_that_is_too_long_ends_an_item_at_once(void **state)
{
	struct batch *b = make_mixed(false);

	(void)state;
	b->policy.deadline_ms = 5000;
	b->items[1].ttl_ms = 4000;
	pause_first_service();
	rig.answers = 200;
	batch_ref(b);
	submit_batch(b);
	run_until(nothing_left);
	assert_sent(2, "gh");
	assert_true(b->finished_us - b->accepted_us < SEC_US);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(b->items[i].code, CODE_NOT_ATTEMPTED);
		assert_int_equal(b->items[i].stop, i == 1 ? STOP_TTL : STOP_DEADLINE);
		assert_int_equal(b->items[i].status, STATUS_NOT_ATTEMPTED);
		assert_int_equal(b->items[i].retry_after_ms, 10000);
	}
	assert_int_equal(b->stop_reason, STOP_REASON_COMPLETED);
	batch_unref(b);
}

static void an_end_from_outside_ends_what_waits_for_its_lane(void **state)
{
	struct batch *b = make_mixed(false);
	struct batch_id id;

	(void)state;
	pause_first_service();
	batch_ref(b);
	id = submit_batch(b);
	run_for(SEC_US);
	dispatch_cancel(rig.d, id, WHY_CANCELLED);
	run_until(nothing_left);
	assert_true(b->finished_us - b->accepted_us < 2 * SEC_US);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(b->items[i].stop, STOP_CANCELLED);
	batch_unref(b);
}

/* Two in flight, two claimed ahead of them: these have not begun, and the store knows. */
static void what_was_claimed_when_its_lane_pauses_is_given_back(void **state)
{
	struct batch_id id;
	struct batch *b;

	(void)state;
	rig.services[0].max_pause_ms = 60000;
	rig.services[0].max_in_flight = 2;
	id = submit_job(6, 0);
	run_for(1000);
	assert_int_equal(count_asked(STORE_CLAIM), 4);
	answer_one(&rig.sent[0], 503, 10000);
	run_for(1000);
	assert_int_equal(rig.d->claims, 0);
	b = stored(id);
	for (uint32_t i = 2; i < 6; i++) {
		assert_int_equal(b->items[i].attempts + b->items[i].refused, 0);
		assert_false(b->items[i].in_flight);
	}
	batch_unref(b);
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	rig.answers = 200;
	run_for(20 * (int64_t)SEC_US);
	assert_true(nothing_left());
	assert_int_equal(rig.n_sent, 7);
	assert_int_equal(count_asked(STORE_CLAIM), 9);
}

/* ---- the breaker ---- */

static void one_probe_alone_asks_and_what_waits_is_refused(void **state)
{
	struct batch *b = make_batch(8, 0, false, false);

	(void)state;
	rig.services[0].breaker = after_one;
	b->policy.retry = (struct retry_policy){20, 6000, 6000};
	b->policy.concurrency = 2;
	rig.answers = 500;
	submit_batch(b);
	run_for(100000);
	assert_int_equal(rig.n_sent, 2);
	rig.answers = 0;
	run_for(12 * SEC_US);
	assert_int_equal(rig.n_sent, 3);
	answer_one(&rig.sent[2], 500, RETRY_AFTER_NONE);
	run_for(12 * SEC_US);
	assert_int_equal(rig.n_sent, 4);
	rig.answers = 200;
	answer_one(&rig.sent[3], 200, RETRY_AFTER_NONE);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 4 + 7);
	assert_int_equal(metrics_read(rig.metrics, METRIC_BREAKER_TRANSITIONS, 0, BREAKER_OPEN), 2);
	assert_int_equal(metrics_read(rig.metrics, METRIC_BREAKERS, 0, BREAKER_OPEN - 1), 0);
	assert_int_equal(metrics_read(rig.metrics, METRIC_BREAKERS, 0, BREAKER_HALF_OPEN - 1), 0);
}

/* The probe says nothing of the downstream when its batch is cancelled. */
static void a_probe_that_is_cancelled_makes_room_for_the_next(void **state)
{
	struct batch_id id;

	(void)state;
	rig.services[0].breaker = after_one;
	rig.answers = 500;
	id = submit_job(1, 0);
	run_for(1000);
	dispatch_cancel_job(rig.d, id, (struct slice){0});
	run_for(5 * SEC_US);
	rig.answers = 0;
	id = submit_job(1, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, 2);
	dispatch_cancel_job(rig.d, id, (struct slice){0});
	run_for(1000);
	submit_job(1, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, 3);
}

static int64_t breakers(enum breaker_state state)
{
	return metrics_read(rig.metrics, METRIC_BREAKERS, 0, state - 1);
}

/* Nobody asks for the origin, so nothing but time moves it. */
static void what_is_shown_of_a_breaker_is_true_when_its_time_is_over(void **state)
{
	struct batch *b = make_batch(1, 0, false, false);

	(void)state;
	rig.services[0].breaker = after_one;
	b->policy.retry.max_attempts = 1;
	rig.answers = 500;
	submit_batch(b);
	run_for(4 * SEC_US);
	assert_int_equal(breakers(BREAKER_OPEN), 1);
	run_for(2 * SEC_US);
	assert_int_equal(breakers(BREAKER_OPEN), 0);
	assert_int_equal(breakers(BREAKER_HALF_OPEN), 1);
	run_for(BREAKER_FORGETS * after_one.window_ms * 1000);
	assert_int_equal(breakers(BREAKER_HALF_OPEN), 0);
	assert_int_equal(metrics_read(rig.metrics, METRIC_BREAKER_TRANSITIONS, 0, BREAKER_CLOSED), 1);
}

/* ---- other settings, later ---- */

static void a_policy_is_looked_up_when_it_is_needed(void **state)
{
	(void)state;
	rig.services[0].rate = (struct rate_policy){.per_second = 0.001, .burst = 1};
	rig.answers = 200;
	submit_job(8, 0);
	run_for(SEC_US);
	assert_int_equal(rig.n_sent, 1);
	rig.services[0].rate = (struct rate_policy){.burst = 1};
	submit_job(1, 0);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 9);
}

static void an_origin_that_its_service_has_left_is_forgotten(void **state)
{
	(void)state;
	rig.services[0].breaker = after_one;
	rig.answers = 500;
	submit_job(1, 0);
	run_for(1000);
	assert_int_equal(metrics_read(rig.metrics, METRIC_BREAKERS, 0, BREAKER_OPEN - 1), 1);
	rig.services[0].url = "http://127.0.0.1:9/{to}";
	lanes_reload(rig.d, &rig.config);
	rig.answers = 200;
	run_until(nothing_left);
	assert_int_equal(metrics_read(rig.metrics, METRIC_BREAKERS, 0, BREAKER_OPEN - 1), 0);
	assert_int_equal(rig.d->lanes.n, 1);
}

/* But not what waits for its next try, nor what is not accepted yet. */
static void what_waits_for_a_pause_asks_again_after_a_reload(void **state)
{
	(void)state;
	rig.services[0].max_pause_ms = 60000;
	submit_job(2, 0);
	run_for(1000);
	answer_one(&rig.sent[0], 429, 20000);
	submit_batch(make_batch(3, 0, false, false));
	run_for(1000);
	assert_int_equal(rig.n_sent, 2);
	store_set(&rig.store, true, false);
	submit_job(1, 0);
	rig.answers = 200;
	rig.services[0].url = "http://127.0.0.1:9/{to}";
	lanes_reload(rig.d, &rig.config);
	batches_reload(rig.d);
	run_for(1000);
	assert_int_equal(rig.n_sent, 5);
	store_set(&rig.store, false, false);
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	run_for(19 * (int64_t)SEC_US);
	assert_int_equal(rig.n_sent, 6);
	run_for(SEC_US);
	assert_int_equal(rig.n_sent, 7);
	assert_true(nothing_left());
}

/* ---- several lanes of one origin ---- */

static void several_lanes_have_together_what_one_would_have(void **state)
{
	(void)state;
	rig.services[0].lanes = 3;
	rig.services[0].rate = (struct rate_policy){.per_second = 1, .burst = 5};
	submit_job(8, 0);
	run_for(SEC_US / 2);
	assert_int_equal(rig.d->lanes.n, 3);
	assert_int_equal(rig.n_sent, 4);
	assert_int_equal(rig.d->slots.used, 4);
	assert_int_equal(dispatch_service(rig.d, 0).rate_left, 1);
	rig.answers = 200;
	for (unsigned i = 0; i < 4; i++)
		answer_one(&rig.sent[i], 200, RETRY_AFTER_NONE);
	run_for(1000);
	assert_int_equal(rig.n_sent, 5);
	assert_int_equal(dispatch_service(rig.d, 0).rate_left, 0);
	/* Another one each second, and three of them every three. */
	run_for(4 * SEC_US);
	assert_int_equal(rig.n_sent, 8);
	assert_true(nothing_left());
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig.group.boards[0].load[i], 0);
}

static void all_lanes_of_an_origin_pause_together(void **state)
{
	(void)state;
	rig.services[0].lanes = 4;
	rig.services[0].max_pause_ms = 60000;
	submit_job(2, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, 2);
	assert_true(rig.d->lanes.n < 4);
	answer_one(&rig.sent[0], 429, 10000);
	run_for(1000);
	assert_int_equal(metrics_read(rig.metrics, METRIC_LANES_PAUSED, 0, 0), 4);
	assert_int_equal(metrics_read(rig.metrics, METRIC_LANE_PAUSES, 0, 0), 1);
	submit_job(8, 0);
	run_for(9 * (int64_t)SEC_US);
	assert_int_equal(rig.n_sent, 2);
	rig.answers = 200;
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	run_until(nothing_left);
	assert_int_equal(metrics_read(rig.metrics, METRIC_LANES_PAUSED, 0, 0), 0);
}

/* To where another origin's breakers are still open, and where there is none any more. */
static void assert_all_of_eight_go_out(void)
{
	unsigned before = rig.n_sent;

	rig.answers = 0;
	submit_job(1, 0);
	run_for(1000);
	submit_job(7, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, before + 8);
	for (unsigned i = before; i < rig.n_sent; i++)
		answer_one(&rig.sent[i], 200, RETRY_AFTER_NONE);
	run_until(nothing_left);
}

static void all_lanes_refuse(void)
{
	struct batch *b = make_batch(8, 0, false, false);

	rig.services[0].breaker = after_one;
	rig.services[0].lanes = 4;
	rig.services[0].max_in_flight = 8;
	b->policy.retry.max_attempts = 1;
	rig.answers = 500;
	submit_batch(b);
	run_until(nothing_left);
	assert_int_equal(breakers(BREAKER_OPEN), 4);
}

static void no_lane_is_left_out_for_what_another_origin_was(void **state)
{
	(void)state;
	all_lanes_refuse();
	rig.services[0].url = "http://127.0.0.1:9/{to}";
	lanes_reload(rig.d, &rig.config);
	assert_all_of_eight_go_out();
}

static void no_lane_is_left_out_for_a_breaker_that_is_off_now(void **state)
{
	(void)state;
	all_lanes_refuse();
	rig.services[0].breaker.failure_ratio = 0;
	lanes_reload(rig.d, &rig.config);
	assert_all_of_eight_go_out();
}

/* ---- slots ---- */

static void a_service_leaves_the_others_a_part_of_the_slots(void **state)
{
	(void)state;
	rig.config.limits.in_flight = 6;
	submit_job(8, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, 3);
	rig.services[0].max_in_flight = rig.services[1].max_in_flight = 100;
	submit_job(8, 1);
	run_for(1000);
	assert_int_equal(rig.n_sent, 5);
	/* One that gives a slot back does not always get it again. */
	for (unsigned i = 0; i < rig.n_sent && rig.n_sent < 19; i++) {
		answer_one(&rig.sent[i], 200, RETRY_AFTER_NONE);
		run_for(1000);
		assert_true(rig.d->slots.used <= 5);
	}
	assert_int_equal(rig.n_sent, 16);
	run_until(nothing_left);
	assert_int_equal(rig.d->n_starved, 0);
}

static void a_service_alone_may_have_all_slots(void **state)
{
	(void)state;
	rig.config.limits.in_flight = 6;
	rig.services[1].removed = true;
	rig.services[0].max_in_flight = 100;
	submit_job(8, 0);
	run_for(1000);
	assert_int_equal(rig.n_sent, 6);
	rig.answers = 200;
	for (unsigned i = 0; i < 6; i++)
		answer_one(&rig.sent[i], 200, RETRY_AFTER_NONE);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 8);
}

/* ---- what is remembered ---- */

static char urls[64][32];

/* To one of many origins, and its answer. */
static void visit(unsigned n)
{
	struct batch *b = make_batch(1, 1, false, false);

	snprintf(urls[n % 64], sizeof urls[0], "http://h%u/", n);
	b->items[0].to = slice_str(urls[n % 64]);
	b->policy.retry.max_attempts = 1;
	submit_batch(b);
	run_until(nothing_left);
	rig.n_sent = rig.store.n_asked = 0;
}

static void an_idle_lane_is_remembered_until_there_is_nothing_to_remember(void **state)
{
	(void)state;
	rig.services[1].kind = SERVICE_WEBHOOK;
	rig.services[1].breaker = after_one;
	rig.answers = 200;
	visit(1);
	visit(2);
	assert_int_equal(rig.d->lanes.n, 2);
	assert_int_equal(rig.d->n_idle_lanes, 2);
	assert_int_equal(dispatch_usage(rig.d).lanes, 0);
	run_for(12 * SEC_US);
	visit(2);
	assert_int_equal(rig.d->lanes.n, 1);
	assert_int_equal(metrics_read(rig.metrics, METRIC_LANES, 1, 0), 1);
}

static void over_the_bound_the_oldest_idle_lane_goes(void **state)
{
	(void)state;
	rig.services[1].kind = SERVICE_WEBHOOK;
	rig.services[1].breaker = (struct breaker_policy){.failure_ratio = 1, .min_attempts = 1, .window_ms = 3600000,
							  .open_ms = 3600000};
	rig.answers = 500;
	for (unsigned n = 0; n < LANES_KEPT + 10; n++)
		visit(n);
	assert_int_equal(rig.d->lanes.n, LANES_KEPT);
	assert_int_equal(metrics_read(rig.metrics, METRIC_BREAKERS, 1, BREAKER_OPEN - 1), LANES_KEPT);
	/* The newest is still refused, the oldest is sent again. */
	visit(LANES_KEPT + 9);
	assert_int_equal(metrics_read(rig.metrics, METRIC_REFUSALS, 1, 0), 1);
	visit(0);
	assert_int_equal(metrics_read(rig.metrics, METRIC_REFUSALS, 1, 0), 1);
}

static void a_pause_is_over_though_nothing_waits(void **state)
{
	struct batch *b = make_batch(1, 0, false, false);

	(void)state;
	rig.services[0].max_pause_ms = 60000;
	b->policy.retry.max_attempts = 1;
	submit_batch(b);
	run_for(1000);
	answer_one(&rig.sent[0], 503, 3600000);
	run_until(nothing_left);
	assert_int_equal(metrics_read(rig.metrics, METRIC_LANES_PAUSED, 0, 0), 1);
	assert_true(dispatch_service(rig.d, 0).paused_until_us > loop_now_us(rig.loop) + 59 * SEC_US);
	run_for(61 * (int64_t)SEC_US);
	assert_int_equal(metrics_read(rig.metrics, METRIC_LANES_PAUSED, 0, 0), 0);
	assert_int_equal(rig.d->lanes.n, 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, rig_open, rig_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(claims_come_as_the_rate_lets_their_attempts_start),
		TEST(nothing_is_claimed_while_the_lane_pauses),
		TEST(no_repeat_is_claimed_without_budget),
		TEST(what_was_claimed_and_refused_is_told_as_not_started),
		TEST(items_of_a_lane_that_pauses_hold_up_no_others),
		TEST(they_are_there_before_the_pause_is_over),
		TEST(a_pause_that_is_nearly_over_is_waited_for_in_the_lane),
		TEST(nothing_overtakes_in_a_sequential_batch),
		TEST(a_pause_that_is_too_long_ends_an_item_at_once),
		TEST(an_end_from_outside_ends_what_waits_for_its_lane),
		TEST(what_was_claimed_when_its_lane_pauses_is_given_back),
		TEST(one_probe_alone_asks_and_what_waits_is_refused),
		TEST(a_probe_that_is_cancelled_makes_room_for_the_next),
		TEST(what_is_shown_of_a_breaker_is_true_when_its_time_is_over),
		TEST(a_policy_is_looked_up_when_it_is_needed),
		TEST(an_origin_that_its_service_has_left_is_forgotten),
		TEST(what_waits_for_a_pause_asks_again_after_a_reload),
		TEST(several_lanes_have_together_what_one_would_have),
		TEST(all_lanes_of_an_origin_pause_together),
		TEST(no_lane_is_left_out_for_what_another_origin_was),
		TEST(no_lane_is_left_out_for_a_breaker_that_is_off_now),
		TEST(a_service_leaves_the_others_a_part_of_the_slots),
		TEST(a_service_alone_may_have_all_slots),
		TEST(an_idle_lane_is_remembered_until_there_is_nothing_to_remember),
		TEST(over_the_bound_the_oldest_idle_lane_goes),
		TEST(a_pause_is_over_though_nothing_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
