#include "core/rate.h"

#include "base/macros.h"
#include "core/part.h"

struct rate_policy rate_part(const struct rate_policy *p, unsigned n, unsigned i)
{
	return (struct rate_policy){.per_second = p->per_second / n, .burst = part_of(p->burst, n, i)};
}

/* Between two of them; rounded up, so that no window holds one too many. */
static int64_t interval_ns(const struct rate_policy *p)
{
	double exact = 1e9 / p->per_second;
	int64_t whole = (int64_t)exact;

	return whole + ((double)whole < exact);
}

/* How far the debt may run ahead of the clock. */
static int64_t tolerance_ns(const struct rate_policy *p)
{
	return (int64_t)(MAX(p->burst, 1u) - 1) * interval_ns(p);
}

int64_t rate_next_us(const struct rate *r, const struct rate_policy *p)
{
	int64_t at_ns;

	if (p->per_second <= 0)
		return 0;
	at_ns = MAX(r->due_ns - tolerance_ns(p), 0);
	return at_ns / 1000 + (at_ns % 1000 > 0);
}

uint32_t rate_count(const struct rate *r, const struct rate_policy *p, int64_t now_us, int64_t until_us)
{
	int64_t room_ns;

	if (p->per_second <= 0)
		return UINT32_MAX;
	room_ns = until_us * 1000 - MAX(r->due_ns, now_us * 1000) + tolerance_ns(p);
	return room_ns < 0 ? 0 : (uint32_t)MIN(room_ns / interval_ns(p) + 1, (int64_t)UINT32_MAX);
}

void rate_take(struct rate *r, const struct rate_policy *p, unsigned n, int64_t now_us)
{
	int64_t takes_ns;

	if (p->per_second <= 0)
		return;
	takes_ns = (int64_t)n * interval_ns(p);
	r->due_ns = MAX(r->due_ns, now_us * 1000) + takes_ns;
	r->all_ns = MAX(r->all_ns, now_us * 1000) + takes_ns;
}

void rate_give_back(struct rate *r, const struct rate_policy *p, unsigned n)
{
	int64_t takes_ns;

	if (p->per_second <= 0)
		return;
	takes_ns = (int64_t)n * interval_ns(p);
	r->due_ns = MAX(r->due_ns - takes_ns, 0);
	r->all_ns = MAX(r->all_ns - takes_ns, 0);
}

/* How many are owed at that instant, and when so many are paid for. */
static double owed_at(int64_t due_ns, const struct rate_policy *p, int64_t now_us)
{
	return (double)MAX(due_ns - now_us * 1000, 0) / (double)interval_ns(p);
}

static int64_t paid_ns(double owed, const struct rate_policy *p, int64_t now_us)
{
	/* One more, as it is never early by rounding. */
	return now_us * 1000 + (int64_t)MIN(owed * (double)interval_ns(p), (double)(INT64_MAX / 4)) + 1;
}

void rate_change(struct rate *r, const struct rate_policy *from, const struct rate_policy *to, int64_t now_us)
{
	double all, beyond;

	if (rate_idle(r, now_us) || (from->per_second == to->per_second && from->burst == to->burst))
		return;
	if (from->per_second <= 0 || to->per_second <= 0) {
		*r = (struct rate){0};
		return;
	}
	all = owed_at(r->all_ns, from, now_us);
	beyond = MAX(owed_at(r->due_ns, from, now_us) - MAX(from->burst, 1u), 0.0);
	r->due_ns = paid_ns(beyond + MIN(all - beyond, MAX(to->burst, 1u)), to, now_us);
	r->all_ns = MAX(paid_ns(all, to, now_us), r->due_ns);
}

bool rate_idle(const struct rate *r, int64_t now_us)
{
	return r->all_ns <= now_us * 1000;
}
