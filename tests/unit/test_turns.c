/*
 * Whose turn it is in a lane: shares by weight, nobody forgotten, nobody starved.
 * The queue by itself; attempts are made up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "dispatch/attempt-i.h"
#include "dispatch/dispatch-i.h"
#include "dispatch/turns-i.h"

enum { MAX_ATTEMPTS = 40000, MAX_BATCHES = 64 };

static struct dispatch d;
static struct turns q;
static struct attempt attempts[MAX_ATTEMPTS];
static unsigned n_attempts;

static int begin(void **state)
{
	(void)state;
	q = (struct turns){0};
	n_attempts = 0;
	memset(attempts, 0, sizeof attempts);
	return 0;
}

/* What was waiting is gone, and nothing is left of it. */
static int end(void **state)
{
	struct attempt *a;

	(void)state;
	while ((a = turns_next(&q, TURN_ANY)) != NULL)
		turns_remove(&d, a);
	assert_int_equal(q.n[TURN_ANY] + q.n[TURN_FIRST], 0);
	assert_int_equal(d.turns.n + d.shares.n, 0);
	assert_int_equal(q.shares[TURN_ANY].n + q.shares[TURN_FIRST].n, 0);
	turns_free(&q);
	idmap_free(&d.turns);
	idmap_free(&d.shares);
	return 0;
}

/* A batch's number is also its priority's and its tenant's place in the tests' tables. */
struct maker {
	unsigned batch, tenant, weight, priority;
	bool repeat;
};

static struct attempt *add(struct maker m)
{
	struct attempt *a = &attempts[n_attempts++];

	assert_true(n_attempts <= MAX_ATTEMPTS);
	a->batch = (struct batch_id){.hi = 1, .lo = m.batch};
	a->tenant = (uint16_t)m.tenant;
	a->weight = m.weight;
	a->priority = (uint8_t)m.priority;
	a->repeat = m.repeat;
	turns_add(&d, &q, a);
	return a;
}

static struct attempt *serve(enum turn_kind kind)
{
	struct attempt *a = turns_next(&q, kind);

	if (a != NULL) {
		turns_charge(a);
		turns_remove(&d, a);
	}
	return a;
}

/* With all of them waiting, at each moment no one is ahead of another one by more
 * than a turn of each. */
static void assert_in_proportion(const unsigned *served, const unsigned *weights, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		for (unsigned j = 0; j < n; j++)
			assert_true((double)served[i] / weights[i] - (double)served[j] / weights[j] <=
				    1.0 / weights[i] + 1.0 / weights[j] + 0.001);
	}
}

static void tenants_are_served_by_weight_however_much_they_bring(void **state)
{
	static const unsigned weights[] = {1, 2, 5, 100};
	unsigned served[4] = {0};

	(void)state;
	for (unsigned t = 0; t < 4; t++) {
		for (unsigned i = 0; i < 5000; i++)
			add((struct maker){.batch = t * 8 + i % (t + 1), .tenant = t, .weight = weights[t], .priority = 5});
	}
	for (unsigned i = 0; i < 5000; i++) {
		served[serve(TURN_ANY)->tenant]++;
		assert_in_proportion(served, weights, 4);
	}
	assert_true(served[0] >= 45);
}

static void priorities_are_served_by_one_and_their_number(void **state)
{
	unsigned weights[10], served[10] = {0};

	(void)state;
	for (unsigned p = 0; p < 10; p++) {
		weights[p] = 1 + p;
		for (unsigned i = 0; i < 1200; i++)
			add((struct maker){.batch = p * 8 + i % (10 - p), .weight = 3, .priority = p});
	}
	for (unsigned i = 0; i < 5000; i++) {
		served[serve(TURN_ANY)->priority]++;
		assert_in_proportion(served, weights, 10);
	}
	assert_true(served[0] >= 90);
}

/* One priority of a tenant is one, however many batches it has, and another
 * tenant's priorities are no concern of it. */
static void a_crowd_of_batches_gains_nothing(void **state)
{
	unsigned served[3] = {0}, of_other_tenant = 0;

	(void)state;
	for (unsigned i = 0; i < 3000; i++) {
		add((struct maker){.batch = i % 50, .tenant = 1, .weight = 1, .priority = 0});
		add((struct maker){.batch = 60, .tenant = 1, .weight = 1, .priority = 9});
		add((struct maker){.batch = 61, .tenant = 2, .weight = 1, .priority = 0});
	}
	for (unsigned i = 0; i < 2200; i++) {
		const struct attempt *a = serve(TURN_ANY);

		served[a->tenant == 2 ? 2 : a->priority == 9]++;
		of_other_tenant += a->tenant == 2;
		assert_true(of_other_tenant * 2 <= i + 2 && of_other_tenant * 2 + 2 >= i);
	}
	assert_in_range(served[0], 99, 101);
	assert_in_range(served[1], 998, 1002);
}

static void batches_of_one_priority_take_turns_one_by_one(void **state)
{
	static const unsigned sizes[] = {1, 500, 3, 40};
	unsigned left[] = {1, 500, 3, 40}, last = 0;

	(void)state;
	for (unsigned b = 0; b < 4; b++) {
		for (unsigned i = 0; i < sizes[b]; i++)
			add((struct maker){.batch = b, .weight = 1, .priority = 5});
	}
	for (unsigned i = 0; i < 544; i++) {
		unsigned b = (unsigned)serve(TURN_ANY)->batch.lo;

		for (unsigned between = (last + 1) % 4; i > 0 && between != b; between = (between + 1) % 4)
			assert_int_equal(left[between], 0);
		left[b]--;
		last = b;
	}
}

/* Who comes when others have waited for long waits for one round, no more. */
static void a_newcomer_has_its_turn_within_a_round(void **state)
{
	(void)state;
	for (unsigned t = 0; t < 10; t++) {
		for (unsigned i = 0; i < 1000; i++)
			add((struct maker){.batch = t, .tenant = t, .weight = 1, .priority = 5});
	}
	for (unsigned round = 0; round < 50; round++) {
		unsigned waited = 0;

		for (unsigned i = 0; i < round * 3 % 17; i++)
			assert_non_null(serve(TURN_ANY));
		add((struct maker){.batch = 50, .tenant = 50, .weight = 1, .priority = round % 10});
		while (serve(TURN_ANY)->tenant != 50)
			waited++;
		assert_true(waited <= 20);
	}
}

/* One item at a time, the next one when it has gone: no more than its weight. */
static void who_comes_anew_each_time_gains_nothing(void **state)
{
	unsigned served[2][2] = {{0}};

	(void)state;
	for (unsigned i = 0; i < 5000; i++) {
		add((struct maker){.batch = 1, .tenant = 1, .weight = 9, .priority = 9});
		add((struct maker){.batch = 2, .tenant = 2, .weight = 9, .priority = 9});
	}
	add((struct maker){.batch = 3, .tenant = 1, .weight = 9, .priority = 0});
	add((struct maker){.batch = 4, .tenant = 3, .weight = 2, .priority = 9});
	for (unsigned i = 0; i < 3000; i++) {
		const struct attempt *a = serve(TURN_ANY);

		served[0][a->batch.lo == 3]++;
		served[1][a->batch.lo == 4]++;
		if (a->batch.lo > 2)
			add((struct maker){.batch = (unsigned)a->batch.lo, .tenant = a->tenant, .weight = a->weight,
					   .priority = a->priority});
	}
	/* A tenth of 9 in 20, and 2 in 20, of all three thousand. */
	assert_in_range(served[0][1], 110, 140);
	assert_in_range(served[1][1], 285, 315);
}

static void first_attempts_pass_repeats_where_these_may_not_go(void **state)
{
	struct attempt *repeat = add((struct maker){.batch = 1, .weight = 1, .repeat = true});
	struct attempt *first = add((struct maker){.batch = 1, .weight = 1});
	struct attempt *other = add((struct maker){.batch = 2, .tenant = 2, .weight = 1});

	(void)state;
	assert_int_equal(q.n[TURN_ANY], 3);
	assert_int_equal(q.n[TURN_FIRST], 2);
	assert_ptr_equal(serve(TURN_FIRST), first);
	assert_ptr_equal(serve(TURN_FIRST), other);
	assert_null(serve(TURN_FIRST));
	assert_ptr_equal(serve(TURN_ANY), repeat);
	assert_null(serve(TURN_ANY));
}

static void a_repeat_goes_before_what_its_batch_has_not_begun(void **state)
{
	struct attempt *first = add((struct maker){.batch = 1, .weight = 1});
	struct attempt *repeat = add((struct maker){.batch = 1, .weight = 1, .repeat = true});

	(void)state;
	assert_ptr_equal(serve(TURN_ANY), repeat);
	assert_ptr_equal(serve(TURN_ANY), first);
}

static void repeats_that_had_to_wait_do_not_crowd_out_the_others_then(void **state)
{
	unsigned repeats = 0;

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		add((struct maker){.batch = 1, .tenant = 1, .weight = 1, .repeat = true});
		add((struct maker){.batch = 2, .tenant = 2, .weight = 1});
	}
	for (unsigned i = 0; i < 500; i++)
		assert_int_equal(serve(TURN_FIRST)->tenant, 2);
	for (unsigned i = 0; i < 400; i++) {
		repeats += serve(TURN_ANY)->tenant == 1;
		assert_in_range(repeats + 1, (i + 1) / 2, (i + 1) / 2 + 3);
	}
}

/* Everything that comes goes once, in whatever way, and the counts are right. */
static void at_random_nothing_is_lost(void **state)
{
	static struct attempt *waiting[MAX_ATTEMPTS];
	unsigned n = 0, firsts = 0;
	struct rng rng;

	(void)state;
	rng_seed(&rng, 7);
	while (n_attempts < 30000) {
		uint64_t dice = rng_below(&rng, 10);
		struct attempt *gone = NULL;

		if (dice < 5) {
			unsigned batch = (unsigned)rng_below(&rng, MAX_BATCHES);

			waiting[n++] = add((struct maker){.batch = batch, .tenant = batch % 7, .weight = 1 + batch % 3,
							  .priority = batch % 10, .repeat = rng_below(&rng, 3) == 0});
			firsts += !waiting[n - 1]->repeat;
		} else if (dice < 9 || n == 0) {
			enum turn_kind kind = dice % 2 == 0 ? TURN_ANY : TURN_FIRST;

			gone = serve(kind);
			assert_int_equal(gone == NULL, kind == TURN_ANY ? n == 0 : firsts == 0);
			assert_true(gone == NULL || kind == TURN_ANY || !gone->repeat);
		} else {
			gone = waiting[rng_below(&rng, n)];
			turns_remove(&d, gone);
		}
		for (unsigned i = 0; gone != NULL && i < n; i++) {
			if (waiting[i] != gone)
				continue;
			waiting[i] = waiting[--n];
			firsts -= !gone->repeat;
			gone = NULL;
		}
		assert_null(gone);
		assert_int_equal(q.n[TURN_ANY], n);
		assert_int_equal(q.n[TURN_FIRST], firsts);
		/* At times it runs empty, as lanes do. */
		for (; n_attempts % 3000 == 0 && n > 0; n--)
			assert_non_null(serve(TURN_ANY));
		firsts = n == 0 ? 0 : firsts;
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tenants_are_served_by_weight_however_much_they_bring),
		TEST(priorities_are_served_by_one_and_their_number),
		TEST(a_crowd_of_batches_gains_nothing),
		TEST(batches_of_one_priority_take_turns_one_by_one),
		TEST(a_newcomer_has_its_turn_within_a_round),
		TEST(who_comes_anew_each_time_gains_nothing),
		TEST(first_attempts_pass_repeats_where_these_may_not_go),
		TEST(a_repeat_goes_before_what_its_batch_has_not_begun),
		TEST(repeats_that_had_to_wait_do_not_crowd_out_the_others_then),
		TEST(at_random_nothing_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
