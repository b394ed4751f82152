/*
 * What the programs of the benchmark share: the batch that is posted, so that
 * every sender gets the same items, and a few calls that end the program when
 * they fail, because a benchmark that goes on after a fault measures nothing.
 * No state; any thread.
 */
#pragma once

#include "base/buf.h"

struct batch_spec {
	const char *service;
	unsigned items;
	unsigned concurrency;
	const char *prefer;              /* the Prefer header's value; NULL: none, a synchronous batch */
	int64_t deadline_ms;
};

enum { BENCH_HOLD_MS = 60000 };          /* deadline of a batch that is meant to hang */

/* In place; and the value at p per cent, by nearest rank. */
void sort_us(uint32_t *v, size_t n);
uint32_t percentile_us(const uint32_t *sorted, size_t n, unsigned p);

int64_t now_us(void);                    /* CLOCK_MONOTONIC, as in the daemon's log */
double cpu_seconds(long pid);            /* that this process has spent; 0 for pid 0 */
NORETURN void die(const char *fmt, ...) PRINTF_LIKE(1, 2);
long number(const char *name, const char *text, long min, long max);

/* The payload of an item: a push notification of ordinary size. Every item's
 * has the same length. */
void add_payload(struct buf *b, unsigned item);

/* POST /v1/batches with its head. `ret_payload` (may be NULL): bytes of all payloads. */
void add_request(struct buf *b, const struct batch_spec *spec, unsigned port, size_t *ret_payload);

/* One answer with a Content-Length, read into `answer` from its start on. */
struct answer {
	struct slice head, body;
};
struct answer read_answer(int fd, struct buf *answer);

int connect_to(unsigned port);           /* blocking, to loopback */
void send_all(int fd, const char *p, size_t n);
