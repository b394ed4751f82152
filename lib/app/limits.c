/*
 * What the process does at once, from the file descriptors that it may have.
 *
 * Each shard needs some for itself, each look-up of a name two, and the process a
 * reserve. The rest goes to callers (limits.connections) and attempts
 * (limits.in_flight in each shard, connections kept open included): as
 * configured if that is enough, else to both in the proportion configured, but
 * at least one of each in each shard.
 *
 * And how long a body may be, so that none is told to wait for room that never comes.
 */
#include "app-i.h"

enum { RESERVE = 64, SHARD_OWN = 8, LOOKUP_FDS = 2, LOOKUP_CLASSES = 2 };

/* What is left for callers and attempts. */
static uint64_t left_of(const struct config *c, uint64_t fds)
{
	uint64_t fixed = RESERVE + (uint64_t)c->shards * SHARD_OWN +
			 (uint64_t)c->names.threads * LOOKUP_FDS * LOOKUP_CLASSES +
			 (c->operations_host == NULL ? 0 : SHARD_OWN + OPERATIONS_CONNECTIONS);

	return fds > fixed ? fds - fixed : 0;
}

uint64_t limits_fewest_fds(const struct config *c)
{
	return RESERVE + (uint64_t)c->shards * (SHARD_OWN + 2) + (c->operations_host == NULL ? 0 : SHARD_OWN);
}

void limits_fit_in_flight(struct config *c, uint64_t fds)
{
	uint64_t left = left_of(c, fds), callers = c->limits.connections;
	uint64_t each = left > callers ? (left - callers) / c->shards : 0;

	c->limits.in_flight = (unsigned)MIN((uint64_t)c->limits.in_flight, MAX(each, UINT64_C(1)));
}

/* Bodies on their way count in limits.queued_bytes, of which each shard has its part. */
void limits_fit_bodies(struct config *c, unsigned shards)
{
	c->limits.body_bytes = MAX(MIN(c->limits.body_bytes, c->limits.queued_bytes / shards), 1u);
}

bool limits_fit(struct config *c, uint64_t fds)
{
	uint64_t wanted = c->limits.connections + (uint64_t)c->shards * c->limits.in_flight;
	uint64_t left = left_of(c, fds);

	if (wanted <= left)
		return false;
	c->limits.connections = (unsigned)MAX(c->limits.connections * left / wanted, (uint64_t)c->shards);
	c->limits.in_flight = (unsigned)MAX(c->limits.in_flight * left / wanted, UINT64_C(1));
	return true;
}
