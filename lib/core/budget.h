/*
 * A retry budget: repeats are at most a part of the first attempts in a window,
 * plus a floor, so that a downstream which comes back is not drowned in what
 * it missed. Pure: time is an argument.
 *
 * As in Finagle (RetryBudget: ttl, minRetriesPerSec, percentCanRetry) and the
 * Google SRE book (chapter 21, "Handling Overload"). At each repeat, looking back
 * over window_ms:
 *
 *   repeats, this one included <= ratio * first attempts + per_second * window
 *
 * Counted in slots, always on the safe side: of first attempts only those that are
 * surely in the window, of repeats all that may be, which costs up to a tenth.
 */
#pragma once

#include <stdbool.h>

#include "core/window.h"

struct budget_policy {
	double ratio;                    /* of the first attempts */
	double per_second;               /* the floor */
	int64_t window_ms;               /* 0: no budget, any number of repeats */
};

/* One of n equal parts: the ratio is of its own first attempts. */
struct budget_policy budget_part(const struct budget_policy *p, unsigned n);

struct budget {
	struct window window;            /* first attempts, repeats */
};

/* One has started. */
void budget_first(struct budget *b, const struct budget_policy *p, int64_t now_us);
void budget_repeat(struct budget *b, const struct budget_policy *p, int64_t now_us);

/* How many repeats may start now. */
uint32_t budget_left(struct budget *b, const struct budget_policy *p, int64_t now_us);

/* When to ask again, if none may and no first attempt comes; INT64_MAX: in vain. */
int64_t budget_next_us(struct budget *b, const struct budget_policy *p, int64_t now_us);

/* Is it as if nothing had ever happened? Then nothing need remember it. */
bool budget_idle(struct budget *b, const struct budget_policy *p, int64_t now_us);
