/* The rule is in residency-i.h, beside the struct. */
#include <stdlib.h>

#include "base/macros.h"
#include "residency-i.h"

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

/* A quarter of what is left: of one part that hangs, most of the room is for the others. */
bool residency_part_may_take(const struct residency *r, size_t limit, size_t held)
{
	return held == 0 || held < (limit - MIN(r->used, limit)) / 4;
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
