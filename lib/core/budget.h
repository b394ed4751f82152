/*
 * A retry budget: repeats are at most a part of the first attempts in a window,
 * plus a floor, so that a downstream which comes back is not drowned in what
 * it missed. Pure: time is an argument.
 *
 * As in Finagle (RetryBudget: ttl, minRetriesPerSec, percentCanRetry) and the
 * Google SRE book (chapter 21, "Handling Overload"): over any window of
 * window_ms, repeats <= ratio * firsts + per_second * window.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { BUDGET_SLOTS = 10 };

struct budget_policy {
	double ratio;                    /* of the first attempts */
	double per_second;               /* the floor */
	int64_t window_ms;
};

struct budget {
	int64_t slot;                    /* the newest slot's number: time / (window / BUDGET_SLOTS) */
	struct {
		uint32_t firsts, repeats;
	} slots[BUDGET_SLOTS];
};

void budget_first(struct budget *b, const struct budget_policy *p, int64_t now_us);     /* one has started */
void budget_repeat(struct budget *b, const struct budget_policy *p, int64_t now_us);

/* May a repeat start now? */
bool budget_allows(struct budget *b, const struct budget_policy *p, int64_t now_us);

/* When to ask again, if it may not and no first attempt comes. */
int64_t budget_next_us(const struct budget *b, const struct budget_policy *p, int64_t now_us);

bool budget_idle(const struct budget *b, const struct budget_policy *p, int64_t now_us);
