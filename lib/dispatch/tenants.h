/*
 * What all shards know together of each tenant: a place per tenant of the
 * configuration, whose numbers never change while the process lives. Owner: the
 * group; any thread.
 */
#pragma once

#include <stdatomic.h>

#include "config/config.h"

struct dispatch_tenant {
	_Atomic(const char *) name;      /* a copy, which outlives every configuration; NULL: not asked for yet */
	atomic_uint_fast64_t queued;     /* items accepted and not final, jobs' too */
	atomic_uint_fast64_t batches, items;     /* accepted, ever */
};

/* The name of a tenant by its number in `c`, for as long as the process lives; n 0: of [0]. */
struct slice dispatch_tenant_name(struct dispatch_tenant *all, const struct config *c, unsigned tenant);
void dispatch_tenants_free(struct dispatch_tenant *all);
