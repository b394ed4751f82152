/*
 * A run of bytes that somebody else owns.
 */
#pragma once

#include <stdbool.h>
#include <string.h>

#include "base/macros.h"

struct slice {
	const char *p;
	size_t n;
};

#define SLICE(literal) ((struct slice){(literal), sizeof(literal) - 1})

static inline struct slice slice_str(const char *s)
{
	return (struct slice){s, s == NULL ? 0 : strlen(s)};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Without white space (space, tab, CR, LF) at its ends. */
struct slice slice_trim(struct slice s);

/* FNV-1a with a final mix; seeded by the caller where the bytes are untrusted. */
uint64_t slice_hash(struct slice s, uint64_t seed);
