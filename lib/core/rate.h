/*
 * A rate limit: at most `burst` at once and `per_second` from then on, over any
 * window of time. Pure: time is an argument.
 *
 * The generic cell rate algorithm (ITU-T I.371, annex A): one number, the
 * theoretical arrival time of the next one, and no refill to compute. Over any
 * window of w seconds at most burst + per_second * w are let through.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct rate_policy {
	double per_second;               /* 0: no limit */
	unsigned burst;                  /* at least 1 */
};

/* Part i of n of a limit, each with its own account: together they let through what it
 * does, over any window. A burst of n at least, or the parts are more than the whole. */
struct rate_policy rate_part(const struct rate_policy *p, unsigned n, unsigned i);

struct rate {
	int64_t due_ns;                  /* when what holds up the next ones is paid for; 0: long ago */
	int64_t all_ns;                  /* and all that was taken: later, if a smaller burst had no place for it */
};

/* When the next one may be taken, monotonic; now or earlier: now. Never early by
 * rounding. */
int64_t rate_next_us(const struct rate *r, const struct rate_policy *p);

/* How many may be taken from now_us until `until_us`, that instant included. */
uint32_t rate_count(const struct rate *r, const struct rate_policy *p, int64_t now_us, int64_t until_us);

/* Take `n` now. With rate_next_us() later than now_us it goes into debt. */
void rate_take(struct rate *r, const struct rate_policy *p, unsigned n, int64_t now_us);

/* What was taken was not used after all. Never more is let through than if it had not been taken. */
void rate_give_back(struct rate *r, const struct rate_policy *p, unsigned n);

/* From now_us on there is another limit. What is owed stays owed, counted in what was
 * taken and not in time. Of a larger burst no more than the new one holds up the next
 * ones; a larger one after that finds the rest again, but for what was paid meanwhile.
 * So over any window that holds changes, no more is let through than the largest burst
 * and what each limit grants in its part of the window. What went beyond a burst, into
 * debt, holds them up until it is paid. */
void rate_change(struct rate *r, const struct rate_policy *from, const struct rate_policy *to, int64_t now_us);

/* Is it as if nothing had ever been taken? Then nothing need remember it. */
bool rate_idle(const struct rate *r, int64_t now_us);
