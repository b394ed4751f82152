#include "core/retry.h"

int64_t retry_wait_us(const struct retry_policy *p, unsigned n, struct rng *rng)
{
	int64_t bound = p->base_ms;

	for (unsigned i = 1; i < n && bound < p->cap_ms; i++)
		bound *= 2;
	bound = MIN(bound, p->cap_ms) * 1000;
	return (int64_t)rng_below(rng, (uint64_t)bound + 1);
}

struct retry_answer retry_decide(const struct retry_question *q, struct rng *rng)
{
	int64_t wait;

	if (q->outcome->code == CODE_OK)
		return (struct retry_answer){.stop = STOP_NOT_RETRYABLE};
	if (q->at_most_once && q->delivered != DELIVERED_NO)
		return (struct retry_answer){.stop = STOP_MAYBE_DELIVERED};
	if (!code_retryable(q->outcome->code))
		return (struct retry_answer){.stop = STOP_NOT_RETRYABLE};
	if (q->tries >= q->policy->max_attempts)
		return (struct retry_answer){.stop = STOP_MAX_ATTEMPTS};
	wait = retry_wait_us(q->policy, q->tries, rng);
	if (q->outcome->retry_after_ms != RETRY_AFTER_NONE && q->outcome->code != CODE_CIRCUIT_OPEN) {
		int64_t wish = MIN(q->outcome->retry_after_ms, INT64_MAX / 4000) * 1000;

		wait = MAX(wait, wish);
	}
	if (wait >= q->deadline_us - q->now_us)
		return (struct retry_answer){.stop = q->deadline_stop};
	return (struct retry_answer){.at_us = q->now_us + wait};
}
