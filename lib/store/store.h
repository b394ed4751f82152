/*
 * Where finished batches are kept, behind one table of operations; in memory
 * for now. Any shard may ask; answers come back to the asking loop.
 *
 * Owner: the process; one struct store, shared by all shards.
 */
#pragma once

#include "base/buf.h"
#include "base/rand.h"
#include "loop/loop.h"

struct store;

struct store_record {
	struct batch_id id;
	const char *outcome;             /* static: the value of Batch-Outcome */
	struct blob *document;           /* the batch with its results, as JSON */
	int64_t expires_unix_ms;
};

/* A question that is under way: embed it; alive until on_done ran. */
struct store_get {
	struct loop_msg msg;             /* private */
	struct loop *reply_to;
	struct batch_id id;
	int64_t now_unix_ms;
	bool found;                      /* the answer ... */
	struct store_record record;      /* ... with a reference on the document */
	void (*on_done)(struct store_get *g);
};

/* Keeps at most max_bytes of documents: the oldest go first. */
struct store *store_new_memory(size_t max_bytes) MUST_CHECK;
void store_free(struct store *s);

/* Keep a record; takes the reference on its document. */
void store_put(struct store *s, const struct store_record *take);

/* Never answers inside this call. */
void store_get(struct store *s, struct store_get *g);
