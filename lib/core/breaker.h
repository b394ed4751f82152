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
 * Invariants
 *  1. HALF_OPEN: at most one probe is out. One that ends as BREAKER_NEITHER makes
 *     room for the next.
 *  2. What was started before the breaker opened changes nothing after it did.
 *  3. It is never OPEN or HALF_OPEN with a failure ratio of 0.
 *  4. If nobody has asked for BREAKER_FORGETS windows after one might have, it is
 *     CLOSED again. Else a single probe would stand before the many that come to
 *     an origin whose trouble is long over.
 */
#pragma once

#include <stdbool.h>

#include "core/op.h"
#include "core/outcome.h"
#include "core/window.h"

enum { BREAKER_FORGETS = 10 };

struct breaker_policy {
	double failure_ratio;            /* 0: no breaker */
	unsigned min_attempts;
	int64_t window_ms, open_ms;
};

#define BREAKER_STATE_TABLE(X) X(CLOSED, closed) X(OPEN, open) X(HALF_OPEN, half_open)
#define X(upper, lower) BREAKER_##upper,
enum breaker_state { BREAKER_STATE_TABLE(X) BREAKER_STATE_MAX };
#undef X
const char *breaker_state_str(enum breaker_state s);

enum breaker_said { BREAKER_SUCCESS, BREAKER_FAILURE, BREAKER_NEITHER };

struct breaker {
	enum breaker_state state;
	bool probing;                    /* HALF_OPEN: the probe is out */
	uint32_t period;                 /* counts openings and closings: who started in another one is not heard */
	int64_t until_us;                /* OPEN: then a probe may go; HALF_OPEN: since then another one may */
	struct window window;            /* CLOSED: attempts, and failures among them */
};

/*
 * What the end of an attempt says of its downstream. A failure is what the
 * downstream or the way to it did: 5xx, no connection, a lost one, no HTTP, a
 * timeout. Any other status is a success, as the downstream answered; but 429 is
 * neither, because it asks for a pause alone. Neither is what we did: the guard's
 * refusal, an abort, a defect, and a timeout that came earlier than the service
 * grants (`cut_short`), or an impatient caller could open a breaker for others.
 */
enum breaker_said breaker_hears(const struct outcome *o, bool cut_short);

/* May an attempt start now? Moves OPEN to HALF_OPEN when it is time, and to CLOSED when it is long past. */
bool breaker_admits(struct breaker *b, const struct breaker_policy *p, int64_t now_us);

/* It starts. Returns the period, which breaker_ended() wants back. */
uint32_t breaker_started(struct breaker *b);

void breaker_ended(struct breaker *b, const struct breaker_policy *p, uint32_t period, enum breaker_said said,
		   int64_t now_us);

/* When the next attempt may be admitted: now or earlier, now; INT64_MAX: when the probe is back. */
int64_t breaker_next_us(const struct breaker *b, const struct breaker_policy *p);

/* When breaker_admits() will move it by time alone; INT64_MAX: it will not. */
int64_t breaker_moves_us(const struct breaker *b, const struct breaker_policy *p);

/* Is it as if nothing had ever happened? Then nothing need remember it. */
bool breaker_idle(struct breaker *b, const struct breaker_policy *p, int64_t now_us);
