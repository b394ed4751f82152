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

static size_t slot_of(const struct key_index *ix, const struct key *v, const struct key *k)
{
	size_t at = k->hash & (ix->n_slots - 1);

	while (ix->slots[at] != 0 && !key_eq(&v[ix->slots[at] - 1], k))
		at = (at + 1) & (ix->n_slots - 1);
	return at;
}

static int grow(struct key_index *ix, const struct key *v, size_t n)
{
	struct key_index wide = {.n_slots = ix->n_slots == 0 ? FIRST_SLOTS : ix->n_slots * 2};

	if (n >= UINT32_MAX)
		return -ENOMEM;
	wide.slots = calloc(wide.n_slots, sizeof *wide.slots);
	if (wide.slots == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		wide.slots[slot_of(&wide, v, &v[i])] = (uint32_t)(i + 1);
	free(ix->slots);
	*ix = wide;
	return 0;
}

int key_index_add(struct key_index *ix, const struct key *v, size_t n)
{
	size_t at;

	if (ix->slots == NULL && n < LINEAR) {
		for (size_t i = 0; i < n; i++) {
			if (key_eq(&v[i], &v[n]))
				return 0;
		}
		return 1;
	}
	if (2 * (n + 1) > ix->n_slots && grow(ix, v, n) < 0)
		return -ENOMEM;
	at = slot_of(ix, v, &v[n]);
	if (ix->slots[at] != 0)
		return 0;
	ix->slots[at] = (uint32_t)(n + 1);
	return 1;
}

void key_index_free(struct key_index *ix)
{
	free(ix->slots);
	*ix = (struct key_index){0};
}
