#include "base/rand.h"

#include <sys/random.h>

static uint64_t rotl(uint64_t x, int k)
{
	return (x << k) | (x >> (64 - k));
}

void rng_seed(struct rng *r, uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		uint64_t z = (seed += 0x9e3779b97f4a7c15u);

		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
		r->s[i] = z ^ (z >> 31);
	}
}

void rng_seed_from_os(struct rng *r)
{
	uint64_t seed;

	REQUIRE(getrandom(&seed, sizeof seed, 0) == (ssize_t)sizeof seed);
	rng_seed(r, seed);
}

uint64_t rng_u64(struct rng *r)
{
	uint64_t *s = r->s;
	uint64_t result = rotl(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return result;
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)rng_u64(r) * n) >> 64);
}

struct batch_id batch_id_new(struct rng *r, int64_t unix_ms, unsigned shard)
{
	uint64_t hi = rng_u64(r), lo = rng_u64(r);

	return (struct batch_id){
		.hi = ((uint64_t)unix_ms << 16) | ((uint64_t)(shard & 0xff) << 8) | (hi & 0xff),
		.lo = lo,
	};
}

unsigned batch_id_shard(struct batch_id id)
{
	return (unsigned)(id.hi >> 8) & 0xff;
}

static const char crockford[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

void batch_id_format(struct batch_id id, char out[BATCH_ID_LEN + 1])
{
	unsigned __int128 v = ((unsigned __int128)id.hi << 64) | id.lo;

	out[0] = 'b';
	out[1] = '_';
	for (int i = 25; i >= 0; i--) {
		out[2 + i] = crockford[(unsigned)v & 31];
		v >>= 5;
	}
	out[BATCH_ID_LEN] = '\0';
}

bool batch_id_parse(struct slice s, struct batch_id *ret)
{
	unsigned __int128 v = 0;

	if (s.n != BATCH_ID_LEN || s.p[0] != 'b' || s.p[1] != '_' || s.p[2] > '7')
		return false;
	for (size_t i = 2; i < s.n; i++) {
		const char *at = s.p[i] == '\0' ? NULL : strchr(crockford, s.p[i]);

		if (at == NULL)
			return false;
		v = (v << 5) | (unsigned)(at - crockford);
	}
	*ret = (struct batch_id){.hi = (uint64_t)(v >> 64), .lo = (uint64_t)v};
	return true;
}
