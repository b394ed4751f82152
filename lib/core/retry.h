/*
 * The retry policy: which outcomes are repeated, how often, after what wait.
 * Pure: time and chance are arguments.
 *
 * The wait is "full jitter" exponential backoff: random(0, min(cap, base *
 * 2^(n-1))) (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
 * Blog, 2015); a downstream's Retry-After (RFC 9110, section 10.2.3) is a lower
 * bound on it. An open breaker's is none: its items fail fast.
 */
#pragma once

#include "base/rand.h"
#include "core/outcome.h"

struct retry_policy {
	unsigned max_attempts;           /* the first one counts; 1..20 */
	int64_t base_ms, cap_ms;
};

struct retry_question {
	const struct retry_policy *policy;
	bool at_most_once;
	unsigned tries;                  /* so far, this one included: attempts, and refusals by the breaker */
	const struct outcome *outcome;   /* of the last one */
	enum delivered delivered;        /* maximum over all attempts */
	int64_t now_us;
	int64_t deadline_us;             /* of the item: the smaller of its two ... */
	enum stop deadline_stop;         /* ... and which: STOP_DEADLINE or STOP_TTL */
};

struct retry_answer {
	enum stop stop;                  /* STOP_NONE: there is another attempt ... */
	int64_t at_us;                   /* ... at this time */
};

struct retry_answer retry_decide(const struct retry_question *q, struct rng *rng);

/* The wait before try n + 1, in microseconds. */
int64_t retry_wait_us(const struct retry_policy *p, unsigned n, struct rng *rng);
