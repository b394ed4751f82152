/*
 * What those are told that do not come in. See refusal.c.
 */
#pragma once

#include "core/batch.h"
#include "dispatch/dispatch.h"

/* What a batch may be refused by. */
enum bound {
	BOUND_ITEMS, BOUND_BYTES, BOUND_CALLERS,
	BOUND_SERVICE, BOUND_PACE,
	BOUND_TENANT_ITEMS, BOUND_TENANT_BYTES, BOUND_TENANT_CALLERS,    /* the part of one of several */
};

struct refusal {
	struct dispatch_refusal said;
	enum bound bound;                /* by this ... */
	uint16_t of;                     /* ... of this service or tenant ... */
	uint64_t level;                  /* ... of which there was about so much */
};

/* There is `excess` too much of what is bounded; `of` a service or a tenant, where the
 * bound is one's. */
void refuse_batch(struct dispatch *d, enum bound bound, unsigned of, double excess);
bool refusal_stands(const struct dispatch *d, unsigned tenant);  /* would the last one be the same now, for a batch of it? */
void refusal_found_room(struct dispatch *d, const struct batch *b);      /* although it stands */
