#include "base/idmap.h"

#include <stdlib.h>

/* Ids are random in their low half, so that half is the hash. */
static struct idmap_node **slot_of(const struct idmap *m, struct batch_id id)
{
	return &m->slots[id.lo & (m->n_slots - 1)];
}

static void grow(struct idmap *m)
{
	struct idmap old = *m;

	m->n_slots = old.n_slots == 0 ? 64 : old.n_slots * 2;
	m->slots = xcalloc(m->n_slots, sizeof *m->slots);
	for (size_t i = 0; i < old.n_slots; i++) {
		while (old.slots[i] != NULL) {
			struct idmap_node *node = old.slots[i];
			struct idmap_node **slot = slot_of(m, node->id);

			old.slots[i] = node->next;
			node->next = *slot;
			*slot = node;
		}
	}
	free(old.slots);
}

void idmap_add(struct idmap *m, struct idmap_node *node, struct batch_id id)
{
	struct idmap_node **slot;

	if (m->n >= m->n_slots)
		grow(m);
	node->id = id;
	slot = slot_of(m, id);
	node->next = *slot;
	*slot = node;
	m->n++;
}

void idmap_remove(struct idmap *m, struct idmap_node *node)
{
	struct idmap_node **at = slot_of(m, node->id);

	while (*at != node)
		at = &(*at)->next;
	*at = node->next;
	m->n--;
}

static struct idmap_node *match(struct idmap_node *node, struct batch_id id)
{
	while (node != NULL && !batch_id_eq(node->id, id))
		node = node->next;
	return node;
}

struct idmap_node *idmap_find(const struct idmap *m, struct batch_id id)
{
	return m->n_slots == 0 ? NULL : match(*slot_of(m, id), id);
}

struct idmap_node *idmap_next(const struct idmap_node *node)
{
	return match(node->next, node->id);
}

void idmap_free(struct idmap *m)
{
	free(m->slots);
	*m = (struct idmap){0};
}
