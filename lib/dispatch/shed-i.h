/*
 * best_effort items that make room for others. See shed.c.
 */
#pragma once

#include "dispatch/live-i.h"

void shed_init(struct dispatch *d);
void shed_if_full(struct dispatch *d);           /* ask all shards, if there is too much */
void shed_count(struct live *lv);                /* it has begun: it may be shed if it is best_effort */
void shed_item_final(struct live *lv);           /* one of its items */
void shed_forget(struct live *lv);               /* it is done, or leaves */
uint32_t best_effort_items(const struct dispatch_group *g);      /* not final */
