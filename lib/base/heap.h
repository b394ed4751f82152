/*
 * Intrusive binary min-heap on a 64-bit key, with removal from the middle.
 * One owner, one thread. The heap owns its array, never its nodes.
 */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct heap_node {
	int64_t key;
	uint32_t at;                     /* 1-based place; 0: in no heap */
};

struct heap {
	struct heap_node **v;
	uint32_t n, cap;
};

#define HEAP_NONE INT64_MAX

static inline bool heap_has(const struct heap_node *node)
{
	return node->at != 0;
}

/* Key of the smallest, HEAP_NONE when empty. */
static inline int64_t heap_min(const struct heap *h)
{
	return h->n == 0 ? HEAP_NONE : h->v[0]->key;
}

/* Insert, or move if the node is in already. */
void heap_set(struct heap *h, struct heap_node *node, int64_t key);
void heap_remove(struct heap *h, struct heap_node *node);    /* no-op if in no heap */

/* The smallest with key <= limit, taken out; NULL when there is none. */
struct heap_node *heap_pop(struct heap *h, int64_t limit);
void heap_free(struct heap *h);
