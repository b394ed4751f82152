/*
 * The memory backend's own: its records, and how batches are copied in and out.
 * Private to the memory backend; the writer's thread.
 */
#pragma once

#include "base/idmap.h"
#include "store/backend-i.h"

struct record {
	struct idmap_node by_id, by_row, by_key;
	struct list age;                 /* in owner.by_age */
	struct list phase;               /* in running or in finished */
	struct heap_node expiry;         /* key: expires_unix_ms; DONE only */
	struct batch *batch;             /* a copy of its own; or, not durable: the dispatcher's, which is done */
	uint32_t *order;                 /* index of the item that settled as the nth */
	uint32_t n_settled;
	int64_t due_unix_ms;
	size_t bytes;
};

/* A tenant that ever had a batch here. */
struct owner {
	struct idmap_node node;
	struct list all;                 /* memory.all_owners */
	struct list by_age;              /* by id, the oldest first */
	size_t name_n;
	char name[];
};

struct undo;

struct memory {
	struct backend backend;
	struct idmap by_id, by_row, by_key;
	struct idmap owners;             /* by name */
	struct list all_owners;
	struct list running;             /* by id */
	struct list finished;            /* the first to finish first */
	struct heap expiries;
	size_t bytes;                    /* of the finished ones */
	uint64_t key_seed;
	bool *gone;                      /* by service; NULL: none is */
	size_t n_gone;
	int64_t last_row;

	/* The group that runs. */
	struct undo *undo;
	size_t n_undo, undo_cap;
	size_t bytes_before;
	uint64_t unfinished_before;
};

static inline struct memory *memory_of(struct backend *b)
{
	return container_of(b, struct memory, backend);
}

struct record *memory_find(const struct memory *m, struct batch_id id);
struct owner *memory_owner(const struct memory *m, struct slice tenant);  /* NULL: it never had a batch */
struct owner *memory_owner_get(struct memory *m, struct slice tenant);

static inline bool memory_older(struct batch_id a, struct batch_id b)
{
	return a.hi < b.hi || (a.hi == b.hi && a.lo < b.lo);
}

int memory_read(struct backend *b, struct store_op *op);

/* A batch with the head of `from` and room for n items. It shares the body, and
 * copies what lies elsewhere. Its accepted_us is in Unix microseconds. NULL: no
 * memory. */
struct batch *memory_copy_head(const struct batch *from, uint32_t n_items) MUST_CHECK;

/* All of an item but its letter. False: no memory. */
bool memory_copy_item(struct item *to, const struct item *from, const struct batch *from_batch) MUST_CHECK;
bool memory_copy_letter(struct item *to, const struct item *from) MUST_CHECK;

/* What an update says. Copies only those of the records that are new. */
bool memory_copy_facts(struct item *to, const struct item *from, const struct batch *from_batch) MUST_CHECK;
