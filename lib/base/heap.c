#include "base/heap.h"

#include <stdlib.h>

/* Invariants: v[node->at - 1] == node for every member; parent key <= child key. */

static void place(struct heap *h, uint32_t i, struct heap_node *node)
{
	h->v[i] = node;
	node->at = i + 1;
}

static void sift_up(struct heap *h, uint32_t i, struct heap_node *node)
{
	while (i > 0 && h->v[(i - 1) / 2]->key > node->key) {
		place(h, i, h->v[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	place(h, i, node);
}

static void sift_down(struct heap *h, uint32_t i, struct heap_node *node)
{
	for (;;) {
		uint32_t child = 2 * i + 1;

		if (child >= h->n)
			break;
		if (child + 1 < h->n && h->v[child + 1]->key < h->v[child]->key)
			child++;
		if (h->v[child]->key >= node->key)
			break;
		place(h, i, h->v[child]);
		i = child;
	}
	place(h, i, node);
}

void heap_set(struct heap *h, struct heap_node *node, int64_t key)
{
	uint32_t i;

	if (heap_has(node)) {
		i = node->at - 1;
	} else {
		if (h->n == h->cap) {
			uint32_t cap = h->cap == 0 ? 16 : h->cap * 2;
			struct heap_node **v = realloc(h->v, cap * sizeof *v);

			REQUIRE(v != NULL);
			h->v = v;
			h->cap = cap;
		}
		i = h->n++;
		h->v[i] = node;
		node->key = INT64_MAX;
	}
	if (key < node->key) {
		node->key = key;
		sift_up(h, i, node);
	} else {
		node->key = key;
		sift_down(h, i, node);
	}
}

void heap_remove(struct heap *h, struct heap_node *node)
{
	uint32_t i = node->at - 1;
	struct heap_node *last;

	if (!heap_has(node))
		return;
	node->at = 0;
	last = h->v[--h->n];
	if (last == node)
		return;
	if (last->key < node->key)
		sift_up(h, i, last);
	else
		sift_down(h, i, last);
}

struct heap_node *heap_pop(struct heap *h, int64_t limit)
{
	struct heap_node *node = h->n == 0 ? NULL : h->v[0];

	if (node == NULL || node->key > limit)
		return NULL;
	heap_remove(h, node);
	return node;
}

void heap_free(struct heap *h)
{
	free(h->v);
	*h = (struct heap){0};
}
