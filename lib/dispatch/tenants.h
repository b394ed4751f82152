/*
 * What all shards know together of each tenant.
 *
 * Owner: the group; any thread. Zeroed, it is ready.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/idmap.h"
#include "config/config.h"

/* By its number in the configuration, which stays the same while the process lives. */
struct dispatch_tenant {
	_Atomic(const char *) name;      /* NULL: not asked for yet */
	atomic_uint_fast64_t queued;     /* items accepted and not final, jobs' too */
	atomic_uint_fast64_t batches, items;     /* accepted, ever */
};

struct dispatch_tenants {
	pthread_mutex_t lock;
	struct idmap names;              /* under the lock */
	struct dispatch_tenant of[TENANTS_MAX + 1];
};

void dispatch_tenants_free(struct dispatch_tenants *t);

/* A copy of the name that stays until dispatch_tenants_free(): one for each name,
 * also of tenants that no configuration has any more. */
const char *dispatch_tenants_name(struct dispatch_tenants *t, struct slice name);

/* The same for one that is configured, by its number; n 0: of [0]. */
struct slice dispatch_tenant_name(struct dispatch_tenants *t, const struct config *c, unsigned tenant);
