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
	pthread_mutex_t lock;            /* for the rates: a few additions, so that limits are exact over all shards */
	struct rate batch_rate, item_rate;
	_Atomic(const char *) name;      /* NULL: not asked for yet */
	atomic_uint_fast64_t queued;     /* items accepted and not final, jobs' too */
	atomic_uint_fast64_t batches, items;     /* accepted, ever */
	/* What it has of what all share. */
	atomic_uint unfinished, callers; /* of batches whose callers wait: items that are not final, and those callers ... */
	atomic_size_t bytes;             /* ... and what is held for them */
	atomic_uint waiting, readers;    /* requests that wait for a batch's end; event streams */
};

struct dispatch_tenants {
	pthread_mutex_t lock;
	struct idmap names;              /* under the lock */
	struct dispatch_tenant of[TENANTS_MAX + 1];
};

/* A copy of a configured tenant's name, by its number, that stays as long as the group;
 * n 0: of [0]. */
struct slice dispatch_tenant_name(struct dispatch_tenants *t, const struct config *c, unsigned tenant);

/* One more of what all tenants share, of which there may be `most`: one of several tenants may
 * have as many as it leaves. False: there are too many, and nothing is counted. */
bool dispatch_tenant_take(const struct config *c, atomic_uint *of_all, atomic_uint *of_tenant, unsigned most) MUST_CHECK;
void dispatch_tenant_give(atomic_uint *of_all, atomic_uint *of_tenant);

/*
 * Quotas. A rate lets one second's worth through at once, and at least one. Of a
 * batch with more items than that all are taken when the rate is full, and the
 * debt is paid before the next one: so such a batch can be sent, and in the long
 * run no more is let through than the rate.
 */

/* From now_us on it may have another rate: what it owes is then as in rate_change(). */
void dispatch_quota_change(struct dispatch_tenant *t, const struct tenant *was, const struct tenant *is, int64_t now_us);

struct dispatch_quota {
	const char *name;                /* "batches", "items" or "queued" */
	const char *unit;                /* NULL: batches */
	uint64_t most, left;             /* at once, and now */
	unsigned window_s;               /* in which `most` comes again; 0: as items end */
	unsigned full_s;                 /* until all of it is there again */
};

enum { DISPATCH_QUOTAS = 3 };

/* What there is of each quota that the tenant has; how many they are. */
unsigned dispatch_quotas(struct dispatch_tenant *t, const struct tenant *may, int64_t now_us,
			 struct dispatch_quota ret[DISPATCH_QUOTAS]);
