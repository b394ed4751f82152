#include "core/window.h"

#include "base/macros.h"

struct counted *window_now(struct window *w, int64_t window_ms, int64_t now_us)
{
	int64_t width_us = MAX(window_ms * 1000 / WINDOW_PARTS, 1), slot = now_us / width_us;

	if (width_us != w->width_us)
		*w = (struct window){.width_us = width_us, .slot = slot};
	if (slot - w->slot >= WINDOW_SLOTS)
		*w = (struct window){.width_us = width_us, .slot = slot};
	for (; w->slot < slot; w->slot++)
		w->slots[(w->slot + 1) % WINDOW_SLOTS] = (struct counted){0};
	return &w->slots[w->slot % WINDOW_SLOTS];
}

struct counted window_sum(const struct window *w, unsigned n)
{
	struct counted sum = {0};

	for (unsigned i = 0; i < n; i++) {
		const struct counted *c = &w->slots[(w->slot + WINDOW_SLOTS - i) % WINDOW_SLOTS];

		sum.first += c->first;
		sum.second += c->second;
	}
	return sum;
}

int64_t window_next_us(const struct window *w)
{
	return (w->slot + 1) * w->width_us;
}
