/*
 * Two counts over a window that slides: what the breaker and the retry budget
 * look back on. Pure: time is an argument.
 *
 * The window is cut into WINDOW_PARTS slots, and one slot more is kept, so that
 * both can be asked for: what surely lies inside the last window (the present
 * slot and the WINDOW_PARTS - 1 before it) and all that may (one slot more).
 * A clock that stands still, or is read a little out of order, does no harm.
 */
#pragma once

#include <stdint.h>

enum { WINDOW_PARTS = 10, WINDOW_SLOTS = WINDOW_PARTS + 1 };

struct counted {
	uint32_t first, second;
};

struct window {
	int64_t width_us;                /* of a slot; with another policy all begins anew */
	int64_t slot;                    /* the newest one's number: time / width */
	struct counted slots[WINDOW_SLOTS];
};

/* The slot that is counted in now; those that are too old are empty then. */
struct counted *window_now(struct window *w, int64_t window_ms, int64_t now_us);

/* What the newest n slots hold, as of the last window_now(). */
struct counted window_sum(const struct window *w, unsigned n);

/* When the present slot ends, as of the last window_now(). */
int64_t window_next_us(const struct window *w);
