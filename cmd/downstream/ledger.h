/*
 * What arrived, and what became of it: one entry per request, in the order of
 * arrival. Bounded: the oldest entries go first, the counts stay true.
 *
 * Invariants
 *  1. A request's sequence number never repeats; n, as shown, is that number
 *     less `cleared`, so it starts at 1 again after ledger_clear().
 *  2. in_flight = arrived, and neither ledger_ended() nor ledger_gone(), since
 *     the program's start. The other counts are since ledger_clear().
 */
#pragma once

#include "behaviour.h"
#include "request.h"

struct ledger_entry;

struct ledger_counts {
	uint64_t requests, answered, gone, in_flight, max_in_flight;
};

struct ledger {
	struct ledger_entry **ring;
	size_t cap;                      /* 0: only counts are kept */
	size_t keep_body;
	uint64_t last, cleared;          /* sequence numbers */
	struct ledger_counts counts;
};

/* What a question about the ledger is restricted to; `p` NULL: not. */
struct ledger_filter {
	struct slice path, webhook_id;
};

struct ledger_arrival {
	const struct request *request;
	const struct behaviour *behaviour;
	uint64_t connection;
	int64_t now_us, unix_ms;
};

void ledger_init(struct ledger *l, size_t entries, size_t keep_body);
void ledger_free(struct ledger *l);
void ledger_clear(struct ledger *l);

/* The new request's sequence number. */
uint64_t ledger_arrived(struct ledger *l, const struct ledger_arrival *a);

/* The body has ended, or what there was of it. */
void ledger_body(struct ledger *l, uint64_t seq, struct slice body, uint64_t total, bool complete);

/* Its end, exactly one of both: ended by us with an answer (or without, status
 * 0), or by the peer, who left before. */
void ledger_ended(struct ledger *l, uint64_t seq, int status, int64_t now_us);
void ledger_gone(struct ledger *l, uint64_t seq, int64_t now_us);

/* Of all requests, or of those in the ledger that pass a filter. */
struct ledger_counts ledger_count(const struct ledger *l, const struct ledger_filter *f);

/* The first entry at or after *seq that passes; *seq moves behind it. NULL: no
 * more. */
const struct ledger_entry *ledger_next(const struct ledger *l, const struct ledger_filter *f, uint64_t *seq);

/* The entry as one line of NDJSON. */
void ledger_write(const struct ledger *l, const struct ledger_entry *e, struct buf *out);
