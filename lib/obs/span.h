/*
 * Spans of distributed traces, kept until they are exported: a ring of fixed
 * size, and its text as OpenTelemetry's protocol has it (OTLP 1.3, JSON).
 *
 * Owner: one ring per shard, in the shard's thread.
 * What can fail: a full ring takes no more. Nothing else is held up by it.
 */
#pragma once

#include "base/buf.h"
#include "base/rand.h"

/* The protocol's numbers. */
enum span_kind { SPAN_INTERNAL = 1, SPAN_SERVER = 2, SPAN_CLIENT = 3 };

enum { SPAN_TEXTS = 8, SPAN_NUMBERS = 8, SPAN_BYTES = 384 };

/* One span. Texts are kept as offsets into `bytes`, so that it owns nothing. */
struct span {
	unsigned char trace[16];
	uint64_t id, parent;             /* parent 0: the trace begins here */
	const char *name;                /* static, as are all keys */
	enum span_kind kind;
	bool failed;
	int64_t start_us, end_us;        /* since 1970 */
	struct {
		const char *key;
		uint16_t at, n;
	} texts[SPAN_TEXTS];
	struct {
		const char *key;
		int64_t value;
	} numbers[SPAN_NUMBERS];
	unsigned n_texts, n_numbers, n_bytes;
	char bytes[SPAN_BYTES];
};

/* Attributes. A text that does not fit is cut; what has no room is left out. */
void span_text(struct span *s, const char *key, struct slice value);
void span_number(struct span *s, const char *key, int64_t value);

/* The id of a batch's span: the same whenever and wherever it is asked for, so
 * nobody has to keep it. Different for each `part`; never 0. */
uint64_t span_id(struct batch_id batch, unsigned part);

/* Is a trace that begins here recorded? By its id alone, so that everybody who
 * asks with the same ratio decides alike (W3C Trace Context level 2 and
 * OpenTelemetry's consistent probability sampling: its last 56 bits are random). */
bool span_sampled(const unsigned char trace[16], double ratio);

struct spans;

/* `capacity` spans at most. `on_some`, with `arg`: `some` of them are there. */
struct spans *spans_new(unsigned capacity, unsigned some, void (*on_some)(void *arg), void *arg) MUST_CHECK;
void spans_free(struct spans *ring);             /* NULL is fine */

/* A place for the next span, empty; NULL: it is full. It is in the ring at once:
 * fill it before the next call. */
struct span *spans_add(struct spans *ring);
unsigned spans_count(const struct spans *ring);

unsigned spans_clear(struct spans *ring);        /* how many there were */

/* Append the oldest spans, `most` of them at most, as a request's body, and take
 * them out. `resource` is what all spans share, "service.version" for instance,
 * as pairs of key and value, ended by NULL. Returns how many. */
unsigned spans_take(struct spans *ring, unsigned most, const char *const *resource, struct buf *out);
