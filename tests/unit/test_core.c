#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/batch.h"

static unsigned cancels;
static enum why last_why;

static void count_cancel(struct op *op, enum why why)
{
	(void)op;
	cancels++;
	last_why = why;
}

static void a_cancel_flows_down_once_with_its_first_reason(void **state)
{
	struct op_tree t;
	struct op root, parent, child, late;

	(void)state;
	cancels = 0;
	op_tree_init(&t, &root);
	op_start(&t, &parent, &root, 100, WHY_DEADLINE, count_cancel);
	op_start(&t, &child, &parent, 50, WHY_TTL, count_cancel);
	op_cancel(&t, &parent, WHY_DISCONNECTED);
	op_cancel(&t, &parent, WHY_CANCELLED);
	op_cancel(&t, &child, WHY_CANCELLED);
	assert_int_equal(cancels, 2);
	assert_int_equal(child.why, WHY_DISCONNECTED);
	op_start(&t, &late, &parent, 10, WHY_TTL, count_cancel);
	assert_int_equal(late.why, WHY_DISCONNECTED);
	assert_int_equal(op_next(&t), INT64_MAX);
	op_finish(&t, &late);
	op_finish(&t, &child);
	op_finish(&t, &parent);
	op_tree_free(&t);
}

static void a_deadline_is_the_smaller_of_its_own_and_its_parents(void **state)
{
	struct op_tree t;
	struct op root, parent, child;

	(void)state;
	cancels = 0;
	op_tree_init(&t, &root);
	op_start(&t, &parent, &root, 100, WHY_DEADLINE, count_cancel);
	op_start(&t, &child, &parent, 500, WHY_ATTEMPT_TIMEOUT, count_cancel);
	assert_int_equal(child.deadline_us, 100);
	op_set_deadline(&t, &child, 60, WHY_ATTEMPT_TIMEOUT);
	assert_int_equal(op_next(&t), 60);
	op_expire(&t, 59);
	assert_int_equal(cancels, 0);
	op_expire(&t, 60);
	assert_int_equal(cancels, 1);
	assert_int_equal(last_why, WHY_ATTEMPT_TIMEOUT);
	op_expire(&t, 100);
	assert_int_equal(cancels, 2);
	assert_int_equal(last_why, WHY_DEADLINE);
	op_finish(&t, &child);
	op_finish(&t, &parent);
	op_tree_free(&t);
}

static void waits_are_full_jitter_below_the_cap(void **state)
{
	const struct retry_policy p = {.max_attempts = 9, .base_ms = 100, .cap_ms = 1000};
	const int64_t bound_ms[] = {100, 200, 400, 800, 1000, 1000};
	struct rng rng;

	(void)state;
	rng_seed(&rng, 3);
	for (unsigned n = 1; n <= ARRAY_LEN(bound_ms); n++) {
		int64_t low = INT64_MAX, high = 0;

		for (int i = 0; i < 2000; i++) {
			int64_t w = retry_wait_us(&p, n, &rng);

			low = MIN(low, w);
			high = MAX(high, w);
		}
		assert_true(high <= bound_ms[n - 1] * 1000);
		assert_true(high > bound_ms[n - 1] * 900);
		assert_true(low < bound_ms[n - 1] * 100);
	}
}

static void a_base_over_the_cap_waits_as_the_cap_says(void **state)
{
	const struct retry_policy p = {.max_attempts = 9, .base_ms = 500, .cap_ms = 20};
	int64_t high = 0;
	struct rng rng;

	(void)state;
	rng_seed(&rng, 3);
	for (unsigned i = 0; i < 2000; i++)
		high = MAX(high, retry_wait_us(&p, 1 + i % 4, &rng));
	assert_in_range(high, 18000, 20000);
}

static struct retry_answer ask(struct retry_question q, enum code code)
{
	const struct retry_policy p = {.max_attempts = 3, .base_ms = 0, .cap_ms = 0};
	struct outcome o = {.code = code, .retry_after_ms = q.outcome != NULL ? q.outcome->retry_after_ms
									      : RETRY_AFTER_NONE};
	struct rng rng;

	rng_seed(&rng, 1);
	q.policy = &p;
	q.outcome = &o;
	q.deadline_us = q.deadline_us == 0 ? INT64_MAX / 2 : q.deadline_us;
	q.deadline_stop = STOP_DEADLINE;
	return retry_decide(&q, &rng);
}

static void the_policy_answers_which_how_many_and_when(void **state)
{
	const struct outcome wish = {.retry_after_ms = 1500};

	(void)state;
	assert_int_equal(ask((struct retry_question){.tries = 1}, CODE_TIMEOUT).stop, STOP_NONE);
	assert_int_equal(ask((struct retry_question){.tries = 3}, CODE_TIMEOUT).stop, STOP_MAX_ATTEMPTS);
	assert_int_equal(ask((struct retry_question){.tries = 1}, CODE_RECIPIENT_GONE).stop,
			 STOP_NOT_RETRYABLE);
	assert_int_equal(ask((struct retry_question){.tries = 1, .at_most_once = true,
						     .delivered = DELIVERED_MAYBE}, CODE_TIMEOUT).stop,
			 STOP_MAYBE_DELIVERED);
	assert_int_equal(ask((struct retry_question){.tries = 1, .at_most_once = true},
			     CODE_CONNECT_FAILED).stop, STOP_NONE);
	assert_int_equal(ask((struct retry_question){.tries = 1, .outcome = &wish, .now_us = 5},
			     CODE_RATE_LIMITED).at_us, 1500005);
	assert_int_equal(ask((struct retry_question){.tries = 1, .outcome = &wish, .deadline_us = 1500000},
			     CODE_RATE_LIMITED).stop, STOP_DEADLINE);
}

static void settle_one(struct item *it, enum delivered d, enum code code)
{
	struct outcome o = {.code = code, .delivered = d, .retry_after_ms = RETRY_AFTER_NONE};

	item_set_state(it, ITEM_QUEUED);
	item_record(it, &o, 1000, 5000, 0);
	item_settle(it, CODE_OK, STOP_NONE, 9000);
}

static void delivered_is_the_maximum_over_all_attempts(void **state)
{
	struct batch *b = batch_new(NULL, 1);
	struct outcome maybe = {.code = CODE_TIMEOUT, .delivered = DELIVERED_MAYBE};
	struct outcome no = {.code = CODE_CONNECT_FAILED, .delivered = DELIVERED_NO};

	(void)state;
	item_set_state(&b->items[0], ITEM_QUEUED);
	item_record(&b->items[0], &maybe, 1000, 2000, 0);
	assert_false(b->items[0].duplicate_risk);
	item_set_state(&b->items[0], ITEM_WAITING);
	item_set_state(&b->items[0], ITEM_QUEUED);
	item_record(&b->items[0], &no, 3000, 4000, 0);
	item_settle(&b->items[0], CODE_OK, STOP_MAX_ATTEMPTS, 4000);
	assert_int_equal(b->items[0].delivered, DELIVERED_MAYBE);
	assert_int_equal(b->items[0].code, CODE_CONNECT_FAILED);
	assert_int_equal(b->items[0].status, STATUS_INDETERMINATE);
	assert_int_equal(b->items[0].latency_ms, 3);
	batch_unref(b);
}

static void only_an_attempt_that_was_sent_can_be_a_duplicate(void **state)
{
	struct batch *b = batch_new(NULL, 1);
	struct outcome maybe = {.code = CODE_TIMEOUT, .delivered = DELIVERED_MAYBE};
	struct outcome refused = {.code = CODE_CONNECT_FAILED, .delivered = DELIVERED_NO};
	struct outcome answered = {.code = CODE_RATE_LIMITED, .delivered = DELIVERED_NO, .http_status = 429};

	(void)state;
	item_record(&b->items[0], &maybe, 1000, 2000, 0);
	item_record(&b->items[0], &refused, 3000, 4000, 0);
	assert_false(b->items[0].duplicate_risk);
	item_record(&b->items[0], &answered, 5000, 6000, 0);
	assert_true(b->items[0].duplicate_risk);
	batch_unref(b);
}

static void what_was_claimed_when_its_process_ended_counts_as_an_attempt(void **state)
{
	struct batch *b = batch_new(NULL, 1);
	struct item *it = &b->items[0];
	struct outcome o;

	(void)state;
	it->in_flight = true;
	item_record_interrupted(it, 1000, 2000, &o);
	assert_false(it->in_flight);
	assert_int_equal(it->attempts, 1);
	assert_int_equal(it->code, CODE_INTERRUPTED);
	assert_int_equal(it->delivered, DELIVERED_MAYBE);
	assert_false(it->duplicate_risk);
	assert_true(code_retryable(o.code));
	it->in_flight = true;
	item_record_interrupted(it, 1000, 2000, &o);
	assert_int_equal(it->attempts, 2);
	assert_true(it->duplicate_risk);
	assert_int_equal(stop_from_why(WHY_INTERRUPTED), STOP_INTERRUPTED);
	assert_int_equal(stop_reason_from_why(WHY_INTERRUPTED), STOP_REASON_INTERRUPTED);
	batch_unref(b);
}

static void an_item_that_is_handed_back_is_pending_again(void **state)
{
	struct batch *b = batch_new(NULL, 1);
	struct item *it = &b->items[0];

	(void)state;
	item_set_state(it, ITEM_QUEUED);
	assert_int_equal(it->status, STATUS_RUNNING);
	item_set_state(it, ITEM_PENDING);
	assert_int_equal(it->status, STATUS_PENDING);
	assert_int_equal(stop_from_why(WHY_PARKED), STOP_NONE);
	assert_int_equal(stop_reason_from_why(WHY_PARKED), STOP_REASON_COMPLETED);
	batch_unref(b);
}

static void outcome_is_arithmetic_on_the_counts(void **state)
{
	struct batch *b = batch_new(NULL, 4);

	(void)state;
	assert_int_equal(batch_reduce(&(struct counts){.total = 2, .succeeded = 2}), BATCH_OUTCOME_SUCCEEDED);
	assert_int_equal(batch_reduce(&(struct counts){.total = 2, .succeeded = 1, .failed = 1}),
			 BATCH_OUTCOME_PARTIAL);
	assert_int_equal(batch_reduce(&(struct counts){.total = 2, .indeterminate = 1, .failed = 1}),
			 BATCH_OUTCOME_INDETERMINATE);
	assert_int_equal(batch_reduce(&(struct counts){.total = 2, .not_attempted = 2}), BATCH_OUTCOME_FAILED);
	batch_set_state(b, BATCH_RUNNING);
	settle_one(&b->items[0], DELIVERED_YES, CODE_OK);
	settle_one(&b->items[1], DELIVERED_NO, CODE_RECIPIENT_GONE);
	settle_one(&b->items[2], DELIVERED_MAYBE, CODE_TIMEOUT);
	item_settle(&b->items[3], CODE_NOT_ATTEMPTED, STOP_CANCELLED, 9000);
	assert_int_equal(b->items[3].status, STATUS_NOT_ATTEMPTED);
	assert_ptr_equal(b->settled_first, &b->items[0]);
	assert_ptr_equal(b->settled_last, &b->items[3]);
	batch_finish(b, 9000, 0);
	assert_int_equal(b->outcome, BATCH_OUTCOME_PARTIAL);
	assert_int_equal(b->stop_reason, STOP_REASON_COMPLETED);
	batch_unref(b);
}

static void an_item_that_never_can_succeed_has_failed(void **state)
{
	(void)state;
	assert_int_equal(outcome_status(DELIVERED_NO, 0, CODE_EXPIRED), STATUS_FAILED);
	assert_int_equal(outcome_status(DELIVERED_NO, 0, CODE_NOT_ATTEMPTED), STATUS_NOT_ATTEMPTED);
	assert_int_equal(outcome_status(DELIVERED_NO, 0, CODE_CIRCUIT_OPEN), STATUS_NOT_ATTEMPTED);
	assert_int_equal(outcome_status(DELIVERED_NO, 1, CODE_CONNECT_FAILED), STATUS_FAILED);
	assert_int_equal(outcome_status(DELIVERED_MAYBE, 1, CODE_CONNECT_FAILED), STATUS_INDETERMINATE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cancel_flows_down_once_with_its_first_reason),
		cmocka_unit_test(a_deadline_is_the_smaller_of_its_own_and_its_parents),
		cmocka_unit_test(waits_are_full_jitter_below_the_cap),
		cmocka_unit_test(a_base_over_the_cap_waits_as_the_cap_says),
		cmocka_unit_test(the_policy_answers_which_how_many_and_when),
		cmocka_unit_test(delivered_is_the_maximum_over_all_attempts),
		cmocka_unit_test(only_an_attempt_that_was_sent_can_be_a_duplicate),
		cmocka_unit_test(what_was_claimed_when_its_process_ended_counts_as_an_attempt),
		cmocka_unit_test(an_item_that_is_handed_back_is_pending_again),
		cmocka_unit_test(outcome_is_arithmetic_on_the_counts),
		cmocka_unit_test(an_item_that_never_can_succeed_has_failed),
	};

	return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
