#include "core/breaker.h"

static const char *const state_names[] = {
#define X(upper, lower) #lower,
	BREAKER_STATE_TABLE(X)
#undef X
};

const char *breaker_state_str(enum breaker_state s)
{
	return state_names[s];
}

enum breaker_said breaker_hears(const struct outcome *o, bool cut_short)
{
	if (o->http_status != 0 && o->http_status != 408 && o->http_status / 100 <= 4)
		return o->http_status == 429 ? BREAKER_NEITHER : BREAKER_SUCCESS;
	switch (o->code) {
	case CODE_TIMEOUT:
		return o->http_status == 0 && cut_short ? BREAKER_NEITHER : BREAKER_FAILURE;
	case CODE_CONNECT_FAILED:
	case CODE_UNAVAILABLE:
	case CODE_CONNECTION_LOST:
	case CODE_UPSTREAM_ERROR:
	case CODE_BAD_RESPONSE:
		return BREAKER_FAILURE;
	case CODE_OK:
	case CODE_INVALID_ITEM:
	case CODE_PAYLOAD_TOO_LARGE:
	case CODE_RECIPIENT_NOT_FOUND:
	case CODE_RECIPIENT_GONE:
	case CODE_UNAUTHENTICATED:
	case CODE_PERMISSION_DENIED:
	case CODE_REJECTED:
	case CODE_EXPIRED:
	case CODE_RATE_LIMITED:
	case CODE_CIRCUIT_OPEN:
	case CODE_NOT_ATTEMPTED:
	case CODE_ABORTED:
	case CODE_INTERRUPTED:
	case CODE_INTERNAL:
	case CODE_MAX:
		break;
	}
	return BREAKER_NEITHER;
}

static void set_state(struct breaker *b, enum breaker_state state)
{
	static const bool legal[BREAKER_STATE_MAX][BREAKER_STATE_MAX] = {
		[BREAKER_CLOSED] = {[BREAKER_OPEN] = true},
		[BREAKER_OPEN] = {[BREAKER_HALF_OPEN] = true, [BREAKER_CLOSED] = true},
		[BREAKER_HALF_OPEN] = {[BREAKER_OPEN] = true, [BREAKER_CLOSED] = true},
	};

	REQUIRE(legal[b->state][state]);
	b->state = state;
	b->probing = false;
}

static void open_until(struct breaker *b, int64_t until_us)
{
	set_state(b, BREAKER_OPEN);
	b->period++;
	b->until_us = until_us;
}

static void close_anew(struct breaker *b)
{
	set_state(b, BREAKER_CLOSED);
	b->period++;
	b->window = (struct window){0};
}

static bool is_outdated(const struct breaker *b, const struct breaker_policy *p, int64_t now_us)
{
	return b->state != BREAKER_CLOSED && !b->probing &&
	       now_us - b->until_us >= BREAKER_FORGETS * p->window_ms * 1000;
}

bool breaker_admits(struct breaker *b, const struct breaker_policy *p, int64_t now_us)
{
	/* Or it was turned off since it opened. */
	if (is_outdated(b, p, now_us) || (p->failure_ratio <= 0 && b->state != BREAKER_CLOSED))
		close_anew(b);
	if (b->state == BREAKER_OPEN && now_us >= b->until_us)
		set_state(b, BREAKER_HALF_OPEN);
	return b->state == BREAKER_CLOSED || (b->state == BREAKER_HALF_OPEN && !b->probing);
}

uint32_t breaker_started(struct breaker *b)
{
	REQUIRE(b->state != BREAKER_OPEN && !b->probing);
	b->probing = b->state == BREAKER_HALF_OPEN;
	return b->period;
}

static void count(struct breaker *b, const struct breaker_policy *p, bool failed, int64_t now_us)
{
	struct counted *now = window_now(&b->window, p->window_ms, now_us), sum;

	now->first++;
	if (!failed)
		return;
	now->second++;
	sum = window_sum(&b->window, WINDOW_PARTS);
	if (sum.first >= p->min_attempts && sum.second >= p->failure_ratio * sum.first)
		open_until(b, now_us + p->open_ms * 1000);
}

void breaker_ended(struct breaker *b, const struct breaker_policy *p, uint32_t period, enum breaker_said said,
		   int64_t now_us)
{
	if (p->failure_ratio <= 0 || period != b->period)
		return;
	if (said == BREAKER_NEITHER && b->probing)
		b->until_us = now_us;
	if (said == BREAKER_NEITHER)
		b->probing = false;
	else if (b->state == BREAKER_CLOSED)
		count(b, p, said == BREAKER_FAILURE, now_us);
	else if (said == BREAKER_FAILURE)
		open_until(b, now_us + p->open_ms * 1000);
	else
		close_anew(b);
}

int64_t breaker_next_us(const struct breaker *b, const struct breaker_policy *p)
{
	if (b->state == BREAKER_CLOSED || p->failure_ratio <= 0)
		return 0;
	if (b->state == BREAKER_OPEN)
		return b->until_us;
	return b->probing ? INT64_MAX : 0;
}

int64_t breaker_moves_us(const struct breaker *b, const struct breaker_policy *p)
{
	if (b->state == BREAKER_CLOSED || b->probing)
		return INT64_MAX;
	return b->until_us + (b->state == BREAKER_OPEN ? 0 : BREAKER_FORGETS * p->window_ms * 1000);
}

bool breaker_idle(struct breaker *b, const struct breaker_policy *p, int64_t now_us)
{
	if (p->failure_ratio <= 0)
		return true;
	(void)window_now(&b->window, p->window_ms, now_us);
	return is_outdated(b, p, now_us) ||
	       (b->state == BREAKER_CLOSED && window_sum(&b->window, WINDOW_SLOTS).first == 0);
}
