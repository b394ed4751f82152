/*
 * Bump allocation with one lifetime: many small things of one batch, freed at
 * once. One owner, one thread. Returns NULL when there is no memory.
 */
#pragma once

#include "base/slice.h"

struct arena_chunk;

struct arena {
	struct arena_chunk *chunks;
	size_t left;
	char *next;
};

void *arena_alloc(struct arena *a, size_t n) MUST_CHECK;     /* 16-byte aligned, not zeroed */
void arena_free(struct arena *a);

/* A NUL-terminated copy; `p` is NULL when there is no memory. */
struct slice arena_copy(struct arena *a, struct slice s) MUST_CHECK;
