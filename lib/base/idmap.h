/*
 * An intrusive hash table from batch ids to what carries them; several nodes
 * may share an id. Owns its array, never its nodes. One owner, one thread.
 */
#pragma once

#include "base/rand.h"

struct idmap_node {
	struct idmap_node *next;
	struct batch_id id;
};

struct idmap {
	struct idmap_node **slots;
	size_t n, n_slots;
};

void idmap_add(struct idmap *m, struct idmap_node *node, struct batch_id id);
void idmap_remove(struct idmap *m, struct idmap_node *node);

/* First node with this id, and the next one after it; NULL: no more. */
struct idmap_node *idmap_find(const struct idmap *m, struct batch_id id);
struct idmap_node *idmap_next(const struct idmap_node *node);

void idmap_free(struct idmap *m);
