/* The rule is in dispatch-i.h, beside the struct. */
#include <stdlib.h>

#include "dispatch-i.h"

void residency_init(struct residency *r, size_t n_services)
{
	*r = (struct residency){.n_services = n_services,
				.held = xcalloc(n_services + 1, sizeof *r->held)};
}

void residency_free(struct residency *r)
{
	free(r->held);
}

static size_t *held(const struct residency *r, uint16_t service)
{
	return &r->held[MIN((size_t)service, r->n_services)];
}

/* With nothing held there is always room for one, however large it is. */
bool residency_may_take(const struct residency *r, size_t limit, uint16_t service)
{
	size_t left = limit - MIN(r->used, limit);

	return r->used == 0 || *held(r, service) < left;
}

void residency_take(struct residency *r, uint16_t service, uint32_t bytes)
{
	r->used += bytes;
	*held(r, service) += bytes;
}

void residency_give(struct residency *r, uint16_t service, uint32_t bytes)
{
	REQUIRE(r->used >= bytes && *held(r, service) >= bytes);
	r->used -= bytes;
	*held(r, service) -= bytes;
}
