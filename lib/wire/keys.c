/*
 * Invariants
 *  1. Without slots, fewer than LINEAR keys were added: they are compared one
 *     by one.
 *  2. With slots, at most half of them are taken, and every key has one.
 */
#include <errno.h>
#include <stdlib.h>

#include "wire/wire-i.h"

enum { LINEAR = 12, FIRST_SLOTS = 64 };

static bool key_eq(const struct key *a, const struct key *b)
{
	return a->hash == b->hash && slice_eq(a->text, b->text);
}

static uint32_t tag_of(const struct key *k)
{
	return (uint32_t)(k->hash >> 32);
}

static struct key_slot *find(const struct key_index *ix, const struct key *v, const struct key *k)
{
	size_t at = k->hash & (ix->n_slots - 1);

	while (ix->slots[at].place != 0 &&
	       !(ix->slots[at].tag == tag_of(k) && key_eq(&v[ix->slots[at].place - 1], k)))
		at = (at + 1) & (ix->n_slots - 1);
	return &ix->slots[at];
}

static int grow(struct key_index *ix, const struct key *v, size_t n)
{
	struct key_index wide = {.n_slots = ix->n_slots == 0 ? FIRST_SLOTS : ix->n_slots * 4};

	if (n >= UINT32_MAX)
		return -ENOMEM;
	wide.slots = calloc(wide.n_slots, sizeof *wide.slots);
	if (wide.slots == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		*find(&wide, v, &v[i]) = (struct key_slot){(uint32_t)(i + 1), tag_of(&v[i])};
	free(ix->slots);
	*ix = wide;
	return 0;
}

int key_index_add(struct key_index *ix, const struct key *v, size_t n)
{
	struct key_slot *slot;

	if (ix->slots == NULL && n < LINEAR) {
		for (size_t i = 0; i < n; i++) {
			if (key_eq(&v[i], &v[n]))
				return 0;
		}
		return 1;
	}
	if (2 * (n + 1) > ix->n_slots && grow(ix, v, n) < 0)
		return -ENOMEM;
	slot = find(ix, v, &v[n]);
	if (slot->place != 0)
		return 0;
	*slot = (struct key_slot){(uint32_t)(n + 1), tag_of(&v[n])};
	return 1;
}

void key_index_free(struct key_index *ix)
{
	free(ix->slots);
	*ix = (struct key_index){0};
}
