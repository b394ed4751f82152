/*
 * The simulated disk and the stores in front of it: one disk for all of a seed,
 * one store for each process that runs on it.
 */
#pragma once

#include "store/store.h"

struct store_disk;

struct store_disk *store_disk_new(uint64_t stored_items, int64_t slow_us);
void store_disk_free(struct store_disk *k);
void store_disk_fail(struct store_disk *k, int64_t until_us);
void store_disk_busy(struct store_disk *k, int64_t until_us);
bool store_disk_troubled(const struct store_disk *k);        /* it failed or was busy at some time */
bool store_disk_well_since(const struct store_disk *k, int64_t us);
struct batch *store_disk_look(struct store_disk *k, struct batch_id id);

struct store *store_on_disk(struct store_disk *k);
void store_bury(struct store *s);                /* from now on it is void */
bool store_is_quiet(const struct store *s);

/* What the checks hear, of stores that are not void: when a shard asks, and when
 * the answer stands, which for a write is after its commit. */
void store_asked(struct store_op *op);
void store_answered(struct store_op *op);
