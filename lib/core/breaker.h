/*
 * A circuit breaker (M. Nygard, "Release It!", 2nd ed., 2018, section 5.2): a
 * downstream that fails too often is left alone for a while, then asked by one
 * attempt whether it is back. Pure: time is an argument.
 *
 *   CLOSED ── failures / attempts >= ratio, of min_attempts or more ──► OPEN
 *     ▲       in the window                                             │ open_ms
 *     │                                                                 ▼
 *     └────────────── the probe succeeded ───────────────────────── HALF_OPEN
 *                                       OPEN ◄── the probe failed ──────┘
 *
 * A failure is what the downstream or the way to it did; what is the item's own
 * (its 4xx) is a success here: the downstream answered. An attempt that we ended
 * ourselves, and that says nothing of the downstream, counts as neither.
 *
 * Invariants
 *  1. HALF_OPEN: at most one probe is out. One that ends as BREAKER_NEITHER makes
 *     room for the next.
 *  2. What was started before the breaker opened changes nothing after it did.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { BREAKER_SLOTS = 10 };

struct breaker_policy {
	double failure_ratio;            /* 0: no breaker */
	unsigned min_attempts;
	int64_t window_ms, open_ms;
};

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };
const char *breaker_state_str(enum breaker_state s);

enum breaker_said { BREAKER_SUCCESS, BREAKER_FAILURE, BREAKER_NEITHER };

struct breaker {
	enum breaker_state state;
	bool probing;                    /* HALF_OPEN: the probe is out */
	uint32_t period;                 /* counts openings and closings: who started in another one is not heard */
	int64_t until_us;                /* OPEN: then a probe may go */
	int64_t slot;                    /* the newest slot's number: time / (window / BREAKER_SLOTS) */
	struct {
		uint32_t attempts, failures;
	} slots[BREAKER_SLOTS];
};

/* May an attempt start now? Moves OPEN to HALF_OPEN when it is time. */
bool breaker_admits(struct breaker *b, const struct breaker_policy *p, int64_t now_us);

/* It starts. Returns the period, which breaker_ended() wants back. */
uint32_t breaker_started(struct breaker *b);

void breaker_ended(struct breaker *b, const struct breaker_policy *p, uint32_t period, enum breaker_said said,
		   int64_t now_us);

/* When the next attempt may be admitted: now_us or earlier, now; INT64_MAX: when the probe is back. */
int64_t breaker_next_us(const struct breaker *b);

/* Is it as if nothing had ever happened? Then nothing need remember it. */
bool breaker_idle(const struct breaker *b, const struct breaker_policy *p, int64_t now_us);
