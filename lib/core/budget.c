#include "core/budget.h"

#include "base/macros.h"

struct budget_policy budget_part(const struct budget_policy *p, unsigned n)
{
	return (struct budget_policy){.ratio = p->ratio, .per_second = p->per_second / n, .window_ms = p->window_ms};
}

void budget_first(struct budget *b, const struct budget_policy *p, int64_t now_us)
{
	window_now(&b->window, p->window_ms, now_us)->first++;
}

void budget_repeat(struct budget *b, const struct budget_policy *p, int64_t now_us)
{
	window_now(&b->window, p->window_ms, now_us)->second++;
}

uint32_t budget_left(struct budget *b, const struct budget_policy *p, int64_t now_us)
{
	double left;

	if (p->window_ms <= 0)
		return UINT32_MAX;
	(void)window_now(&b->window, p->window_ms, now_us);
	left = p->ratio * window_sum(&b->window, WINDOW_PARTS).first +
	       p->per_second * (double)p->window_ms / 1000 - window_sum(&b->window, WINDOW_SLOTS).second;
	return left < 1 ? 0 : (uint32_t)MIN(left, (double)UINT32_MAX);
}

int64_t budget_next_us(struct budget *b, const struct budget_policy *p, int64_t now_us)
{
	if (budget_left(b, p, now_us) > 0)
		return now_us;
	return window_sum(&b->window, WINDOW_SLOTS).second == 0 ? INT64_MAX : window_next_us(&b->window);
}

bool budget_idle(struct budget *b, const struct budget_policy *p, int64_t now_us)
{
	struct counted sum;

	(void)window_now(&b->window, p->window_ms, now_us);
	sum = window_sum(&b->window, WINDOW_SLOTS);
	return sum.first == 0 && sum.second == 0;
}
