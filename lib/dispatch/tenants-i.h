/*
 * Tenants' names, and what they may send and have unfinished. See tenants.h for the rules.
 */
#pragma once

#include "dispatch/live-i.h"

/* The group's end. */
void dispatch_tenants_free(struct dispatch_tenants *t);

/* A copy of the name that stays until then: one for each name, also of tenants that no
 * configuration has any more. Any thread. */
const char *dispatch_tenants_name(struct dispatch_tenants *t, struct slice name);

/* Take a new batch of it. False: it would be too much, see d->quota_wait_s, and nothing was
 * taken. */
bool tenant_take(struct dispatch *d, unsigned tenant, const struct batch *b) MUST_CHECK;
void tenant_give_back(struct dispatch *d, unsigned tenant, const struct batch *b);        /* it was refused */
void tenant_queue_known(struct dispatch *d, unsigned tenant, uint32_t n);         /* whatever its limit */
void tenant_unqueue(struct dispatch *d, unsigned tenant, uint32_t n);
void tenant_accepted(struct live *lv);

/* quota.c: take a batch of n items at `now_us`. 0: it was taken; or in how many
 * microseconds it may be, and nothing was. */
int64_t quota_take(struct dispatch_tenant *t, const struct tenant *may, uint32_t n, int64_t now_us);
void quota_give_back(struct dispatch_tenant *t, const struct tenant *may, uint32_t n);    /* it was refused */
