/*
 * Random numbers that are fast and seedable, and batch ids.
 *
 * xoshiro256** (Blackman, Vigna: "Scrambled linear pseudorandom number
 * generators", 2021), seeded through splitmix64. Not for secrets: jitter, ids,
 * trace ids and tests. One generator per shard; no locks.
 */
#pragma once

#include "base/slice.h"

struct rng {
	uint64_t s[4];
};

void rng_seed(struct rng *r, uint64_t seed);
void rng_seed_from_os(struct rng *r);                        /* getrandom(2) */
uint64_t rng_u64(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n);               /* 0..n-1; 0 if n is 0 */

/*
 * A batch id: 48 bits of Unix milliseconds, 8 bits of the accepting shard and
 * 72 random bits, printed as "b_" and 26 letters of Crockford's base 32, as in
 * the ULID specification, so ids sort by time.
 */
struct batch_id {
	uint64_t hi, lo;
};

enum { BATCH_ID_LEN = 28 };

struct batch_id batch_id_new(struct rng *r, int64_t unix_ms, unsigned shard);
unsigned batch_id_shard(struct batch_id id);
void batch_id_format(struct batch_id id, char out[BATCH_ID_LEN + 1]);
bool batch_id_parse(struct slice s, struct batch_id *ret);   /* false: not an id of ours */

static inline bool batch_id_eq(struct batch_id a, struct batch_id b)
{
	return a.hi == b.hi && a.lo == b.lo;
}
