/*
 * Whose turn it is among the attempts that wait. See turns.c.
 */
#pragma once

#include "base/heap.h"

struct attempt;
struct dispatch;

/* What is asked for: first attempts alone, or whatever has waited. */
enum turn_kind { TURN_FIRST, TURN_ANY, TURN_KINDS };

/*
 * A fair queue of attempts. Tenants take turns by their weights; a tenant's
 * batches of one priority share its turns as if they were one, with the weight
 * 1 + priority against the other priorities, and take turns one by one among
 * themselves. So nobody starves, however many attempts another one brings.
 *
 * Self-clocked fair queueing (S. J. Golestani, "A self-clocked fair queueing
 * scheme for broadband applications", IEEE INFOCOM, 1994), twice: whoever begins
 * to wait gets the tag clock + 1 / weight, the smallest tag is served, the clock
 * is then that tag, and the tag moves on by 1 / weight. Who has nothing that
 * waits need not be remembered: its tag would not be later than the clock.
 */
struct turns {
	struct heap shares[TURN_KINDS];  /* of tenants that have such; by tag */
	int64_t clock;
	unsigned n[TURN_KINDS];          /* attempts that wait: first ones, all */
};

void turns_free(struct turns *q);                /* empty */
void turns_add(struct dispatch *d, struct turns *q, struct attempt *a);
struct attempt *turns_next(const struct turns *q, enum turn_kind kind);  /* NULL: none */
void turns_charge(struct attempt *a);            /* it has its turn now: turns_remove() follows */
void turns_remove(struct dispatch *d, struct attempt *a);
