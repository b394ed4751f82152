/*
 * Which batches come into memory. See admission.c.
 */
#pragma once

#include "dispatch/live-i.h"

void admission_init(struct dispatch *d);
void admission_free(struct dispatch *d);

/* How much of `limit` a batch may fill. Pure. */
uint64_t admission_share(uint64_t limit, unsigned priority, bool best_effort);

/* Does its caller wait, so that its items count for the bounds in memory? */
bool admission_counts(const struct batch *b);

/* Is there room for no batch of the tenant that is not read yet? */
bool admission_is_full(struct dispatch *d, unsigned tenant, size_t body_bytes, bool job);

/* Room for the tenant's batch. False: it is refused, see d->refusal, and nothing is counted;
 * else of best_effort the items without room are final. */
bool admission_take(struct dispatch *d, struct batch *b, unsigned tenant, bool counted);
void admission_give_item(struct live *lv, const struct item *it);        /* it is final */
void admission_give_rest(struct live *lv);       /* what is not final is no longer this dispatcher's */
void admission_give_caller(struct live *lv);     /* it is done, or leaves memory: once counts */
