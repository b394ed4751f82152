/*
 * What a lane reckons with: rate, breaker, retry budget and the window under the
 * last two, against oracles that count one by one, with a clock of the test's own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>

#include "base/rand.h"
#include "core/breaker.h"
#include "core/budget.h"
#include "core/part.h"
#include "core/rate.h"

enum { SEC_US = 1000000, MAX_EVENTS = 4000 };

/* What happened, oldest first. */
struct history {
	int64_t at[MAX_EVENTS];
	unsigned n;
};

static void note(struct history *h, int64_t at)
{
	assert_true(h->n < MAX_EVENTS);
	h->at[h->n++] = at;
}

/* Those later than `from`, up to `to`. */
static unsigned count_in(const struct history *h, int64_t from, int64_t to)
{
	unsigned n = 0;

	for (unsigned i = 0; i < h->n; i++)
		n += h->at[i] > from && h->at[i] <= to;
	return n;
}

/* ---- the window ---- */

static void the_window_holds_what_is_in_it_and_one_slot_more(void **state)
{
	static const int64_t windows_ms[] = {1, 7, 10, 100, 1000};
	struct rng rng;

	(void)state;
	rng_seed(&rng, 1);
	for (size_t k = 0; k < ARRAY_LEN(windows_ms); k++) {
		int64_t window_us = windows_ms[k] * 1000, slot_us = MAX(window_us / WINDOW_PARTS, 1), now = 0;
		struct history all = {0};
		struct window w = {0};

		for (int i = 0; i < 1000; i++) {
			/* Often not at all, often a slot, sometimes past all of them. */
			now += (int64_t)rng_below(&rng, 3) * (int64_t)rng_below(&rng, (uint64_t)(i % 50 == 0 ? 30 : 2) * slot_us);
			window_now(&w, windows_ms[k], now)->first++;
			note(&all, now);
			assert_true(window_sum(&w, WINDOW_PARTS).first <= count_in(&all, now - window_us, now));
			assert_true(window_sum(&w, WINDOW_SLOTS).first >= count_in(&all, now - window_us, now));
			assert_true(window_next_us(&w) > now && window_next_us(&w) <= now + slot_us);
		}
	}
}

static void another_window_begins_anew_and_a_clock_out_of_order_does_no_harm(void **state)
{
	struct window w = {0};

	(void)state;
	window_now(&w, 1000, 5 * SEC_US)->first = 7;
	window_now(&w, 1000, 4 * SEC_US)->second = 3;
	assert_int_equal(window_sum(&w, WINDOW_SLOTS).first, 7);
	assert_int_equal(window_sum(&w, WINDOW_SLOTS).second, 3);
	window_now(&w, 2000, 5 * SEC_US)->first++;
	assert_int_equal(window_sum(&w, WINDOW_SLOTS).first, 1);
	assert_int_equal(window_sum(&w, WINDOW_SLOTS).second, 0);
}

/* ---- rate ---- */

/* Over every window between two that were taken: at most burst + rate * w. */
static void assert_rate_held(const struct history *h, const struct rate_policy *p)
{
	for (unsigned i = 0; i < h->n; i++) {
		for (unsigned j = i; j < h->n; j++)
			assert_true(j - i + 1 <= p->burst + p->per_second * (double)(h->at[j] - h->at[i]) / 1e6 + 1e-9);
	}
}

static void over_any_window_no_more_than_burst_and_rate(void **state)
{
	static const struct rate_policy policies[] = {
		{0.001, 1}, {0.001, 5}, {0.7, 2}, {1, 1}, {3, 1}, {100, 1}, {100, 10}, {333.333, 7}, {999999, 3},
		{1000000, 1}, {1000000, 1000},
	};
	struct rng rng;

	(void)state;
	rng_seed(&rng, 2);
	for (size_t k = 0; k < ARRAY_LEN(policies); k++) {
		const struct rate_policy *p = &policies[k];
		struct history taken = {0};
		struct rate r = {0};
		int64_t now = 12345;

		while (taken.n < 600) {
			int64_t next = rate_next_us(&r, p);

			if (next <= now) {
				assert_true(rate_count(&r, p, now, now) >= 1);
				rate_take(&r, p, 1, now);
				note(&taken, now);
				continue;
			}
			assert_int_equal(rate_count(&r, p, now, now), 0);
			/* At the very instant, a microsecond early, or after a rest. */
			now = rng_below(&rng, 3) > 0 ? next : MAX(now, next - 1);
			if (rng_below(&rng, 20) == 0)
				now += (int64_t)rng_below(&rng, (uint64_t)(1e7 / p->per_second) + 2);
		}
		assert_rate_held(&taken, p);
	}
}

/* A limit that let through too little would hold the property above as well. */
/* Three of five are owed, whatever they are paid for by; and no more than a burst is. */
static void another_rate_owes_the_same_number(void **state)
{
	const struct rate_policy slow = {.per_second = 1, .burst = 5}, fast = {.per_second = 100, .burst = 5},
				 small = {.per_second = 10, .burst = 1}, none = {0};
	struct rate r = {0}, all = {0}, off;

	(void)state;
	rate_take(&r, &slow, 3, SEC_US);
	off = r;
	rate_change(&r, &slow, &fast, SEC_US);
	assert_int_equal(rate_count(&r, &fast, SEC_US, SEC_US), 1);
	assert_int_equal(rate_count(&r, &fast, SEC_US, SEC_US + 1), 2);
	rate_take(&r, &fast, 2, SEC_US + 1);
	rate_change(&r, &fast, &slow, SEC_US + 1);
	assert_true(rate_next_us(&r, &slow) > 2 * SEC_US - 10000 && rate_next_us(&r, &slow) <= 2 * SEC_US + 10);
	rate_take(&all, &fast, 5, SEC_US);
	rate_change(&all, &fast, &small, SEC_US);
	assert_int_equal(rate_next_us(&all, &small), SEC_US + 100001);
	rate_change(&off, &slow, &none, SEC_US);
	assert_true(rate_idle(&off, SEC_US));
}

/* A smaller burst is soon held up no more; but the larger one that comes back is as it was left. */
static void two_changes_forgive_nothing(void **state)
{
	const struct rate_policy large = {.per_second = 100, .burst = 50}, small = {.per_second = 1, .burst = 2};
	struct rate r = {0};

	(void)state;
	rate_take(&r, &large, 50, SEC_US);
	rate_change(&r, &large, &small, SEC_US);
	assert_int_equal(rate_next_us(&r, &small), 2 * SEC_US + 1);
	rate_change(&r, &small, &large, SEC_US);
	assert_in_range(rate_next_us(&r, &large), SEC_US + 10000, SEC_US + 10001);
	/* What is let through between them is owed as well, and what is paid there is not. */
	rate_change(&r, &large, &small, SEC_US);
	rate_take(&r, &small, 1, 2 * SEC_US + 1);
	rate_change(&r, &small, &large, 4 * SEC_US);
	assert_int_equal(rate_count(&r, &large, 4 * SEC_US, 4 * SEC_US), 1);
	rate_change(&r, &large, &small, 4 * SEC_US);
	assert_false(rate_idle(&r, 52 * SEC_US));
	rate_change(&r, &small, &large, 52 * SEC_US);
	assert_int_equal(rate_count(&r, &large, 52 * SEC_US, 52 * SEC_US), 49);
	assert_true(rate_idle(&r, 54 * SEC_US));
}

/* It was let through on the word that it is paid for. */
static void what_went_beyond_the_burst_is_owed_at_any_rate(void **state)
{
	const struct rate_policy slow = {.per_second = 1, .burst = 1}, fast = {.per_second = 100, .burst = 100};
	struct rate r = {0};

	(void)state;
	rate_take(&r, &slow, 1000, SEC_US);
	rate_change(&r, &slow, &fast, SEC_US);
	assert_in_range(rate_next_us(&r, &fast), 10 * SEC_US + 10000, 10 * SEC_US + 10001);
	rate_change(&r, &fast, &slow, SEC_US);
	assert_true(rate_next_us(&r, &slow) >= 901 * (int64_t)SEC_US);
}

static void all_of_the_rate_can_be_had(void **state)
{
	static const struct rate_policy policies[] = {{1, 1}, {100, 10}, {333.333, 7}, {0.5, 1}};

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(policies); k++) {
		const struct rate_policy *p = &policies[k];
		struct rate r = {0};
		int64_t begun = SEC_US, now = begun;
		unsigned n = 0;

		assert_int_equal(rate_count(&r, p, now, now), p->burst);
		for (; n < 500; n++) {
			now = MAX(now, rate_next_us(&r, p));
			rate_take(&r, p, 1, now);
		}
		/* The last one came when the rate had made place for it, to a microsecond each. */
		assert_true((double)(now - begun) <= (n - p->burst) * 1e6 / p->per_second + n);
	}
}

static void what_may_be_taken_until_then_is_counted(void **state)
{
	const struct rate_policy p = {100, 4}, none = {0, 1};
	struct rng rng;

	(void)state;
	rng_seed(&rng, 3);
	for (int round = 0; round < 300; round++) {
		int64_t now = SEC_US + (int64_t)rng_below(&rng, SEC_US), until = now + (int64_t)rng_below(&rng, SEC_US);
		struct rate r = {.due_ns = (now + (int64_t)rng_below(&rng, 300000) - 100000) * 1000};
		uint32_t n = rate_count(&r, &p, now, until), have = 0;

		for (int64_t at = MAX(now, rate_next_us(&r, &p)); at <= until; at = MAX(at, rate_next_us(&r, &p))) {
			rate_take(&r, &p, 1, at);
			have++;
		}
		assert_int_equal(have, n);
	}
	assert_int_equal(rate_count(&(struct rate){0}, &none, 0, 0), UINT32_MAX);
	assert_int_equal(rate_next_us(&(struct rate){.due_ns = INT64_MAX}, &none), 0);
}

static void a_debt_is_paid_before_the_next_one(void **state)
{
	const struct rate_policy p = {10, 5}, none = {0, 1};
	struct rate r = {0};

	(void)state;
	assert_true(rate_idle(&r, 0));
	rate_take(&r, &p, 25, SEC_US);
	assert_int_equal(rate_next_us(&r, &p), SEC_US + 21 * SEC_US / 10);
	assert_false(rate_idle(&r, SEC_US + 25 * SEC_US / 10 - 1));
	assert_true(rate_idle(&r, SEC_US + 25 * SEC_US / 10));
	r = (struct rate){0};
	rate_take(&r, &none, 25, SEC_US);
	assert_int_equal(r.due_ns, 0);
}

/* Over every window that holds the change: the larger burst, and what each limit
 * grants in its part. Neither more nor, soon after, less than the new one. */
static void another_limit_lets_no_window_have_more(void **state)
{
	static const struct rate_policy policies[] = {{1, 1}, {100, 10}, {5, 40}, {333.333, 7}, {0.5, 3}};
	struct rng rng;

	(void)state;
	rng_seed(&rng, 6);
	for (size_t k = 0; k < ARRAY_LEN(policies) * ARRAY_LEN(policies); k++) {
		const struct rate_policy *from = &policies[k / ARRAY_LEN(policies)], *to = &policies[k % ARRAY_LEN(policies)];
		struct history taken = {0};
		struct rate r = {0};
		int64_t now = SEC_US, change;
		unsigned before = 20 + (unsigned)rng_below(&rng, 20);

		for (; taken.n < before; now = MAX(now, rate_next_us(&r, from))) {
			rate_take(&r, from, 1, now);
			note(&taken, now);
		}
		change = taken.at[before - 1] + (int64_t)rng_below(&rng, 3) * 7;
		rate_change(&r, from, to, change);
		assert_true(rate_next_us(&r, to) <= change + (int64_t)(1e6 / to->per_second) + 2);
		for (now = change; taken.n < before + 60; note(&taken, now)) {
			now = MAX(now, rate_next_us(&r, to));
			rate_take(&r, to, 1, now);
		}
		for (unsigned i = 0; i < before; i++) {
			for (unsigned j = before; j < taken.n; j++) {
				double granted = from->per_second * (double)(change - taken.at[i]) / 1e6 +
						 to->per_second * (double)(taken.at[j] - change) / 1e6;

				assert_true(j - i + 1 <= MAX(from->burst, to->burst) + granted + 1e-6);
			}
		}
	}
}

/* ---- budget ---- */

static void a_repeat_is_within_what_the_window_behind_it_allows(void **state)
{
	static const struct budget_policy policies[] = {
		{0.2, 10, 1000}, {0.2, 0, 1000}, {0, 10, 1000}, {1, 0.5, 500}, {20, 0, 100}, {0, 0, 1000}, {0.5, 3.5, 777},
	};
	static struct history firsts, repeats;
	struct rng rng;

	(void)state;
	rng_seed(&rng, 4);
	for (unsigned k = 0; k < 10 * ARRAY_LEN(policies); k++) {
		const struct budget_policy *p = &policies[k % ARRAY_LEN(policies)];
		int64_t window_us = p->window_ms * 1000, now = (int64_t)rng_below(&rng, SEC_US);
		struct budget b = {0};

		firsts.n = repeats.n = 0;
		for (int i = 0; i < 2000; i++) {
			uint64_t phase = (uint64_t)(i / 250) % 3;

			now += (int64_t)rng_below(&rng, phase == 0 ? 3 : (uint64_t)window_us / 40);
			if (rng_below(&rng, 3) < phase) {
				budget_first(&b, p, now);
				note(&firsts, now);
			} else if (budget_left(&b, p, now) > 0) {
				budget_repeat(&b, p, now);
				note(&repeats, now);
				assert_true(count_in(&repeats, now - window_us, now) <=
					    p->ratio * count_in(&firsts, now - window_us, now) +
						    p->per_second * (double)p->window_ms / 1000 + 1e-9);
			}
		}
	}
}

/* Nine tenths of it at least: one slot is on the safe side. */
static void the_budget_can_be_had(void **state)
{
	const struct budget_policy p = {0.2, 10, 10000};
	struct budget b = {0};
	int64_t now = 0;
	unsigned n = 0;

	(void)state;
	for (unsigned i = 0; i < 1000; i++)
		budget_first(&b, &p, now);
	assert_int_equal(budget_left(&b, &p, now), 300);
	for (; budget_left(&b, &p, now) > 0; n++)
		budget_repeat(&b, &p, now);
	assert_int_equal(n, 300);
	/* Then the floor alone, whenever it says that there is some. */
	for (n = 0; now < 1000 * (int64_t)SEC_US; now = budget_next_us(&b, &p, now)) {
		for (; budget_left(&b, &p, now) > 0; n++)
			budget_repeat(&b, &p, now);
	}
	assert_in_range(n, 10 * 1000 * 10 / 11 - 200, 10 * 1000);
}

static void a_budget_says_when_to_ask_again(void **state)
{
	const struct budget_policy p = {0, 1, 1000}, never = {0.2, 0.5, 1000}, none = {0};
	struct budget b = {0};

	(void)state;
	assert_true(budget_idle(&b, &p, 0));
	assert_int_equal(budget_next_us(&b, &p, 70), 70);
	budget_repeat(&b, &p, 70);
	assert_false(budget_idle(&b, &p, SEC_US));
	assert_int_equal(budget_left(&b, &p, SEC_US), 0);
	assert_int_equal(budget_next_us(&b, &p, SEC_US), 11 * SEC_US / 10);
	assert_int_equal(budget_left(&b, &p, 11 * SEC_US / 10), 1);
	assert_true(budget_idle(&b, &p, 11 * SEC_US / 10));
	/* Less than one in a window, and no first attempt: in vain. */
	assert_int_equal(budget_next_us(&b, &never, 5 * SEC_US), INT64_MAX);
	for (int i = 0; i < 3; i++)
		budget_first(&b, &never, 5 * SEC_US);
	assert_int_equal(budget_next_us(&b, &never, 5 * SEC_US), 5 * SEC_US);
	assert_int_equal(budget_left(&b, &none, 5 * SEC_US), UINT32_MAX);
}

/* ---- breaker ---- */

static const struct breaker_policy half = {.failure_ratio = 0.5, .min_attempts = 4, .window_ms = 1000, .open_ms = 300};

static void say(struct breaker *b, enum breaker_said said, int64_t now)
{
	assert_true(breaker_admits(b, &half, now));
	breaker_ended(b, &half, breaker_started(b), said, now);
}

static struct breaker opened_at(int64_t now)
{
	struct breaker b = {0};

	for (int i = 0; i < 4; i++)
		say(&b, BREAKER_FAILURE, now);
	assert_int_equal(b.state, BREAKER_OPEN);
	return b;
}

static void it_opens_when_enough_have_failed_in_the_window(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 12; n++) {
		for (unsigned failures = 0; failures <= n; failures++) {
			struct breaker b = {0};

			for (unsigned i = 0; i < n - failures; i++)
				say(&b, BREAKER_SUCCESS, 5);
			for (unsigned i = 0; i < failures && b.state == BREAKER_CLOSED; i++)
				say(&b, BREAKER_FAILURE, 5);
			assert_int_equal(b.state == BREAKER_OPEN, n >= 4 && 2 * failures >= n);
		}
	}
}

static void failures_age(void **state)
{
	struct breaker b = {0};

	(void)state;
	for (int i = 0; i < 3; i++)
		say(&b, BREAKER_FAILURE, 0);
	say(&b, BREAKER_FAILURE, SEC_US);
	assert_int_equal(b.state, BREAKER_CLOSED);
	for (int i = 0; i < 3; i++)
		say(&b, BREAKER_FAILURE, SEC_US + 800000);
	assert_int_equal(b.state, BREAKER_OPEN);
}

static void an_open_one_refuses_until_its_time_then_lets_one_probe_out(void **state)
{
	struct breaker b = opened_at(0);

	(void)state;
	assert_int_equal(breaker_next_us(&b, &half), 300000);
	assert_false(breaker_admits(&b, &half, 0));
	assert_false(breaker_admits(&b, &half, 299999));
	assert_int_equal(b.state, BREAKER_OPEN);
	assert_true(breaker_admits(&b, &half, 300000));
	assert_int_equal(b.state, BREAKER_HALF_OPEN);
	/* Nothing started yet: asking is no probe. */
	assert_true(breaker_admits(&b, &half, 300000));
	assert_int_equal(breaker_next_us(&b, &half), 0);
	(void)breaker_started(&b);
	assert_false(breaker_admits(&b, &half, 300000));
	assert_false(breaker_admits(&b, &half, INT64_MAX));
	assert_int_equal(breaker_next_us(&b, &half), INT64_MAX);
}

/* From each state, by what the probe or the attempt said. */
static void what_the_probe_says_decides(void **state)
{
	static const struct {
		enum breaker_said said;
		enum breaker_state then;
		int64_t next_us;
	} rows[] = {
		{BREAKER_SUCCESS, BREAKER_CLOSED, 0},
		{BREAKER_FAILURE, BREAKER_OPEN, 800000},
		{BREAKER_NEITHER, BREAKER_HALF_OPEN, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct breaker b = opened_at(0);

		say(&b, rows[i].said, 500000);
		assert_int_equal(b.state, rows[i].then);
		assert_int_equal(breaker_next_us(&b, &half), rows[i].next_us);
		if (rows[i].then == BREAKER_HALF_OPEN)
			say(&b, BREAKER_SUCCESS, 500000);
		if (rows[i].then == BREAKER_OPEN)
			continue;
		/* What failed before is forgotten. */
		for (int n = 0; n < 3; n++)
			say(&b, BREAKER_FAILURE, 500000);
		assert_int_equal(b.state, BREAKER_CLOSED);
	}
}

static void who_started_in_another_period_is_not_heard(void **state)
{
	struct breaker b = {0};
	uint32_t before, probe;

	(void)state;
	before = breaker_started(&b);
	b = opened_at(0);
	breaker_ended(&b, &half, before, BREAKER_SUCCESS, 1);
	assert_int_equal(b.state, BREAKER_OPEN);
	assert_true(breaker_admits(&b, &half, 300000));
	probe = breaker_started(&b);
	breaker_ended(&b, &half, before, BREAKER_SUCCESS, 300001);
	breaker_ended(&b, &half, before, BREAKER_FAILURE, 300001);
	breaker_ended(&b, &half, before, BREAKER_NEITHER, 300001);
	assert_int_equal(b.state, BREAKER_HALF_OPEN);
	assert_true(b.probing);
	breaker_ended(&b, &half, probe, BREAKER_SUCCESS, 300002);
	for (int i = 0; i < 9; i++)
		breaker_ended(&b, &half, before, BREAKER_FAILURE, 300003);
	assert_int_equal(b.state, BREAKER_CLOSED);
}

static void neither_counts_for_nothing(void **state)
{
	struct breaker b = {0};

	(void)state;
	for (int i = 0; i < 100; i++)
		say(&b, BREAKER_NEITHER, 0);
	assert_true(breaker_idle(&b, &half, 0));
	for (int i = 0; i < 4; i++)
		say(&b, BREAKER_FAILURE, 0);
	assert_int_equal(b.state, BREAKER_OPEN);
}

static void one_that_is_turned_off_lets_all_through(void **state)
{
	const struct breaker_policy off = {.min_attempts = 1, .window_ms = 1000, .open_ms = 300};
	struct breaker b = opened_at(0);

	(void)state;
	assert_int_equal(breaker_next_us(&b, &off), 0);
	assert_true(breaker_admits(&b, &off, 1));
	assert_int_equal(b.state, BREAKER_CLOSED);
	for (int i = 0; i < 100; i++) {
		uint32_t period = breaker_started(&b);

		breaker_ended(&b, &off, period, BREAKER_FAILURE, 1);
		assert_true(breaker_admits(&b, &off, 1));
	}
	assert_true(breaker_idle(&b, &off, 1));
}

static void one_is_idle_when_its_window_is_empty(void **state)
{
	struct breaker b = {0};

	(void)state;
	assert_true(breaker_idle(&b, &half, 0));
	say(&b, BREAKER_SUCCESS, 0);
	assert_false(breaker_idle(&b, &half, SEC_US));
	assert_true(breaker_idle(&b, &half, 11 * SEC_US / 10));
	b = opened_at(0);
	assert_false(breaker_idle(&b, &half, 10299999));
	assert_true(breaker_idle(&b, &half, 10300000));
}

/* Ten windows after it might have been asked it is as if nothing had happened: many may go at once. */
static void what_it_knew_is_forgotten_when_nobody_asks(void **state)
{
	struct breaker b = opened_at(0);

	(void)state;
	assert_true(breaker_admits(&b, &half, 10299999));
	assert_int_equal(b.state, BREAKER_HALF_OPEN);
	b = opened_at(0);
	for (int i = 0; i < 3; i++) {
		assert_true(breaker_admits(&b, &half, 10300000));
		breaker_ended(&b, &half, breaker_started(&b), BREAKER_FAILURE, 10300000);
		assert_int_equal(b.state, BREAKER_CLOSED);
	}
	say(&b, BREAKER_FAILURE, 10300000);
	assert_int_equal(b.state, BREAKER_OPEN);
	/* So it is after a probe that told nothing, but not while one is out. */
	say(&b, BREAKER_NEITHER, 11000000);
	assert_false(breaker_idle(&b, &half, 20999999));
	assert_true(breaker_idle(&b, &half, 21000000));
	assert_true(breaker_admits(&b, &half, 20999999));
	(void)breaker_started(&b);
	assert_false(breaker_admits(&b, &half, 90000000));
	assert_false(breaker_idle(&b, &half, 90000000));
}

/* Random attempts that overlap, against a plain count of what was heard. */
static void at_random_it_keeps_its_word(void **state)
{
	struct rng rng;
	unsigned opened = 0, closed = 0;

	(void)state;
	rng_seed(&rng, 5);
	for (int round = 0; round < 200; round++) {
		struct breaker b = {0};
		uint32_t out[8];
		unsigned n_out = 0;
		int64_t now = 0, refused_until = 0;

		for (int i = 0; i < 500; i++) {
			enum breaker_state before = b.state;

			/* The clock often stands still. */
			now += (int64_t)rng_below(&rng, 2) * (int64_t)rng_below(&rng, 100000);
			if (n_out < 8 && rng_below(&rng, 2) == 0) {
				bool admits = breaker_admits(&b, &half, now);

				assert_int_equal(admits, breaker_next_us(&b, &half) <= now);
				assert_true(!admits || now >= refused_until);
				if (admits)
					out[n_out++] = breaker_started(&b);
			} else if (n_out > 0) {
				unsigned which = (unsigned)rng_below(&rng, n_out);
				bool stale = out[which] != b.period;

				breaker_ended(&b, &half, out[which], (enum breaker_said)rng_below(&rng, 3), now);
				out[which] = out[--n_out];
				assert_true(!stale || b.state == before);
			}
			if (b.state == BREAKER_OPEN && before != BREAKER_OPEN) {
				refused_until = now + half.open_ms * 1000;
				opened++;
			}
			closed += b.state == BREAKER_CLOSED && before != BREAKER_CLOSED;
		}
	}
	assert_true(opened > 1000 && closed > 1000);
}

static void what_the_downstream_did_is_told_from_what_others_did(void **state)
{
	static const struct {
		enum code code;
		int http_status;
		bool cut_short;
		enum breaker_said said;
	} rows[] = {
		{CODE_OK, 200, false, BREAKER_SUCCESS},
		{CODE_OK, 200, true, BREAKER_SUCCESS},
		{CODE_REJECTED, 302, true, BREAKER_SUCCESS},
		{CODE_INVALID_ITEM, 400, true, BREAKER_SUCCESS},
		{CODE_UNAUTHENTICATED, 401, true, BREAKER_SUCCESS},
		{CODE_PERMISSION_DENIED, 403, true, BREAKER_SUCCESS},
		{CODE_RECIPIENT_NOT_FOUND, 404, true, BREAKER_SUCCESS},
		{CODE_RECIPIENT_GONE, 410, true, BREAKER_SUCCESS},
		{CODE_PAYLOAD_TOO_LARGE, 413, true, BREAKER_SUCCESS},
		{CODE_REJECTED, 418, true, BREAKER_SUCCESS},
		{CODE_RATE_LIMITED, 429, true, BREAKER_NEITHER},
		{CODE_TIMEOUT, 408, true, BREAKER_FAILURE},
		{CODE_TIMEOUT, 504, true, BREAKER_FAILURE},
		{CODE_UPSTREAM_ERROR, 500, true, BREAKER_FAILURE},
		{CODE_UNAVAILABLE, 503, true, BREAKER_FAILURE},
		{CODE_BAD_RESPONSE, 999, true, BREAKER_FAILURE},
		{CODE_BAD_RESPONSE, 0, true, BREAKER_FAILURE},
		{CODE_CONNECT_FAILED, 0, true, BREAKER_FAILURE},
		{CODE_CONNECTION_LOST, 0, true, BREAKER_FAILURE},
		{CODE_TIMEOUT, 0, false, BREAKER_FAILURE},
		{CODE_TIMEOUT, 0, true, BREAKER_NEITHER},
		{CODE_ABORTED, 0, false, BREAKER_NEITHER},
		{CODE_PERMISSION_DENIED, 0, true, BREAKER_NEITHER},
		{CODE_INTERNAL, 0, false, BREAKER_NEITHER},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct outcome o = {.code = rows[i].code, .http_status = rows[i].http_status};

		assert_int_equal(breaker_hears(&o, rows[i].cut_short), rows[i].said);
	}
	assert_string_equal(breaker_state_str(BREAKER_HALF_OPEN), "half_open");
}

/* ---- parts ---- */

static void the_parts_of_a_number_add_up_to_it(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 64; n++) {
		for (unsigned whole = n; whole < 3000; whole += 1 + whole / 7) {
			unsigned sum = 0;

			for (unsigned i = 0; i < n; i++) {
				assert_true(part_of(whole, n, i) - whole / n <= 1 && part_of(whole, n, i) >= 1);
				/* One that is raised takes no part of it from anybody. */
				assert_true(part_of(whole + 1, n, i) >= part_of(whole, n, i));
				sum += part_of(whole, n, i);
			}
			assert_int_equal(sum, whole);
		}
	}
}

static int64_t next_of_all(const struct rate *lanes, const struct rate_policy *p, unsigned n)
{
	int64_t next = INT64_MAX;

	for (unsigned i = 0; i < n; i++) {
		const struct rate_policy part = rate_part(p, n, i);

		next = MIN(next, rate_next_us(&lanes[i], &part));
	}
	return next;
}

/* Of those lanes that have anything left one at random takes it; and rests, at times. */
static void take_by_turns(const struct rate_policy *p, unsigned n, struct rng *rng, struct history *taken)
{
	struct rate lanes[64] = {0};
	int64_t now = 12345;

	while (taken->n < 300) {
		unsigned i = (unsigned)rng_below(rng, n);
		const struct rate_policy part = rate_part(p, n, i);

		if (rate_next_us(&lanes[i], &part) <= now) {
			rate_take(&lanes[i], &part, 1, now);
			note(taken, now);
		} else if (next_of_all(lanes, p, n) > now) {
			now = next_of_all(lanes, p, n);
			if (rng_below(rng, 20) == 0)
				now += (int64_t)rng_below(rng, (uint64_t)(1e7 / p->per_second) + 2);
		}
	}
}

static void the_parts_of_a_rate_let_no_window_have_more_than_the_whole(void **state)
{
	static const struct rate_policy policies[] = {
		{0.001, 64}, {0.7, 64}, {3, 65}, {100, 64}, {100, 100}, {333.333, 77}, {999999, 127}, {1000000, 64},
	};
	static const unsigned lanes[] = {1, 2, 3, 4, 7, 16, 63, 64};
	struct rng rng;

	(void)state;
	rng_seed(&rng, 9);
	for (size_t k = 0; k < ARRAY_LEN(policies); k++) {
		for (size_t i = 0; i < ARRAY_LEN(lanes); i++) {
			struct history taken = {0};

			take_by_turns(&policies[k], lanes[i], &rng, &taken);
			assert_rate_held(&taken, &policies[k]);
		}
	}
}

static void all_of_a_rate_can_be_had_by_its_parts(void **state)
{
	static const struct rate_policy policies[] = {{1, 64}, {100, 64}, {333.333, 70}};

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(policies); k++) {
		for (unsigned n = 1; n <= 64; n += 9) {
			uint32_t burst = 0, later = 0;

			for (unsigned i = 0; i < n; i++) {
				const struct rate_policy part = rate_part(&policies[k], n, i);
				struct rate r = {0};

				burst += rate_count(&r, &part, SEC_US, SEC_US);
				rate_take(&r, &part, part.burst, SEC_US);
				later += rate_count(&r, &part, SEC_US, 101 * SEC_US);
			}
			assert_int_equal(burst, policies[k].burst);
			/* In 100 s. What a part of it is not there yet, each lane waits for. */
			assert_true(later <= 100 * policies[k].per_second && later + n >= 100 * policies[k].per_second - 1);
		}
	}
}

static void the_parts_of_a_budget_add_up(void **state)
{
	const struct budget_policy p = {.ratio = 0.25, .per_second = 6.4, .window_ms = 10000};

	(void)state;
	for (unsigned n = 1; n <= 64; n *= 2) {
		const struct budget_policy part = budget_part(&p, n);
		uint32_t left = 0;

		for (unsigned i = 0; i < n; i++) {
			struct budget b = {0};

			for (int first = 0; first < 4; first++)
				budget_first(&b, &part, 50 * SEC_US);
			left += budget_left(&b, &part, 50 * SEC_US);
		}
		assert_int_equal(left, 64 + n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_window_holds_what_is_in_it_and_one_slot_more),
		cmocka_unit_test(another_window_begins_anew_and_a_clock_out_of_order_does_no_harm),
		cmocka_unit_test(over_any_window_no_more_than_burst_and_rate),
		cmocka_unit_test(another_rate_owes_the_same_number),
		cmocka_unit_test(two_changes_forgive_nothing),
		cmocka_unit_test(what_went_beyond_the_burst_is_owed_at_any_rate),
		cmocka_unit_test(all_of_the_rate_can_be_had),
		cmocka_unit_test(what_may_be_taken_until_then_is_counted),
		cmocka_unit_test(a_debt_is_paid_before_the_next_one),
		cmocka_unit_test(another_limit_lets_no_window_have_more),
		cmocka_unit_test(a_repeat_is_within_what_the_window_behind_it_allows),
		cmocka_unit_test(the_budget_can_be_had),
		cmocka_unit_test(a_budget_says_when_to_ask_again),
		cmocka_unit_test(it_opens_when_enough_have_failed_in_the_window),
		cmocka_unit_test(failures_age),
		cmocka_unit_test(an_open_one_refuses_until_its_time_then_lets_one_probe_out),
		cmocka_unit_test(what_the_probe_says_decides),
		cmocka_unit_test(who_started_in_another_period_is_not_heard),
		cmocka_unit_test(neither_counts_for_nothing),
		cmocka_unit_test(one_that_is_turned_off_lets_all_through),
		cmocka_unit_test(one_is_idle_when_its_window_is_empty),
		cmocka_unit_test(what_it_knew_is_forgotten_when_nobody_asks),
		cmocka_unit_test(at_random_it_keeps_its_word),
		cmocka_unit_test(what_the_downstream_did_is_told_from_what_others_did),
		cmocka_unit_test(the_parts_of_a_number_add_up_to_it),
		cmocka_unit_test(the_parts_of_a_rate_let_no_window_have_more_than_the_whole),
		cmocka_unit_test(all_of_a_rate_can_be_had_by_its_parts),
		cmocka_unit_test(the_parts_of_a_budget_add_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
