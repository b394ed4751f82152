/*
 * What a backend does. The front (store.c) owns the threads, the queue, the
 * groups and the answers; a backend only keeps batches.
 *
 * Threads: the writer's calls come from one thread. The readers' calls come from
 * another one if `concurrent` is set, with a handle of its own; otherwise they
 * come from the writer's thread too, between groups.
 *
 * Errors: 0, or a negative errno for a failure of the disk; `why` then says it
 * for people. A refusal is no failure: it is in op->answer.
 */
#pragma once

#include <stdatomic.h>

#include "store/store.h"

struct backend;

struct backend_ops {
	bool concurrent;                 /* reads may run beside the writer */
	bool keeps_notes;                /* wants the note of a batch that is not durable */

	/* A group: begin, any number of writes, commit or rollback. `synced`: it must
	 * be on the medium when commit returns; known at the start, for a database
	 * takes it for a whole transaction. A begin, write or commit that fails spoils
	 * the group: the front rolls it back, and tries its operations again or refuses
	 * them. */
	int (*begin)(struct backend *b, bool synced);
	int (*write)(struct backend *b, struct store_op *op);
	int (*commit)(struct backend *b);
	void (*rollback)(struct backend *b);

	/* In a group: write something small, so that its commit shows whether the disk
	 * works again while nobody asks for a write. NULL: nothing of it can fail. */
	int (*touch)(struct backend *b);

	/* Reads, and the answer in op->answer. */
	int (*read)(struct backend *b, struct store_op *op);

	/* A small step of forgetting what has expired or was deleted, in its own group.
	 * *ret_more: there is more of it. */
	int (*expire)(struct backend *b, int64_t now_unix_ms, bool *ret_more);

	/* See store.h; between groups. The first is NULL where no names are kept. */
	bool (*name_services)(struct backend *b, const char *const *names, size_t n, struct buf *reterr);
	void (*set_services)(struct backend *b, const bool *gone, size_t n);

	/* In the opener's thread or the writer's, between groups. */
	int (*each_unfinished)(struct backend *b, void (*each)(void *arg, const struct store_unfinished *u), void *arg);
	void (*measure)(struct backend *b, struct store_status *ret);    /* file_bytes, oldest */
	void (*close)(struct backend *b);
};

struct backend {
	const struct backend_ops *ops;
	const struct store_config *cfg;
	char why[160];                   /* the last failure of the writer, for people */
	uint64_t unfinished;             /* items that are not final, as of the last commit */
	atomic_bool hopeless;            /* it will not go away by itself: the file is corrupt. Any thread looks */
};

/* The front over a backend that is open: takes it. */
struct store *store_open_backend(const struct store_config *cfg, struct backend *take) MUST_CHECK;

struct backend *memory_open(const struct store_config *cfg) MUST_CHECK;
struct backend *sqlite_open(const struct store_config *cfg, struct buf *reterr) MUST_CHECK;
