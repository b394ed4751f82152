/*
 * Invariants
 *  1. The ring holds `n` spans from `first` on; none moves.
 *  2. `on_some` is called when `n` rises to `some`, and not again before it has
 *     fallen below.
 */
#include "obs/span.h"

#include <stdlib.h>

struct spans {
	struct span *ring;
	unsigned capacity, some, first, n;
	void (*on_some)(void *arg);
	void *arg;
};

void span_text(struct span *s, const char *key, struct slice value)
{
	size_t n = MIN(value.n, (size_t)SPAN_BYTES - s->n_bytes);

	if (n == 0 || s->n_texts == SPAN_TEXTS)
		return;
	memcpy(s->bytes + s->n_bytes, value.p, n);
	s->texts[s->n_texts].key = key;
	s->texts[s->n_texts].at = (uint16_t)s->n_bytes;
	s->texts[s->n_texts].n = (uint16_t)n;
	s->n_texts++;
	s->n_bytes += (unsigned)n;
}

void span_number(struct span *s, const char *key, int64_t value)
{
	if (s->n_numbers == SPAN_NUMBERS)
		return;
	s->numbers[s->n_numbers].key = key;
	s->numbers[s->n_numbers++].value = value;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood, 2014). */
static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t span_id(struct batch_id batch, unsigned part)
{
	uint64_t id = mix(mix(batch.hi + UINT64_C(0x9e3779b97f4a7c15) * (part + 1)) ^ batch.lo);

	return id == 0 ? 1 : id;
}

bool span_sampled(const unsigned char trace[16], double ratio)
{
	const double all = 9007199254740992.0;  /* 2^53: a double holds no more bits */
	uint64_t random = 0;

	for (int i = 9; i < 16; i++)
		random = random << 8 | trace[i];
	return (double)(random >> 3) < ratio * all;
}

struct spans *spans_new(unsigned capacity, unsigned some, void (*on_some)(void *arg), void *arg)
{
	struct spans *r = xcalloc(1, sizeof *r);

	*r = (struct spans){.capacity = capacity, .some = some, .on_some = on_some, .arg = arg};
	r->ring = xcalloc(capacity, sizeof *r->ring);
	return r;
}

void spans_free(struct spans *r)
{
	if (r == NULL)
		return;
	free(r->ring);
	free(r);
}

struct span *spans_add(struct spans *r)
{
	struct span *s;

	if (r->n == r->capacity)
		return NULL;
	s = &r->ring[(r->first + r->n++) % r->capacity];
	s->n_texts = s->n_numbers = s->n_bytes = 0;
	s->failed = false;
	if (r->n == r->some)
		r->on_some(r->arg);
	return s;
}

unsigned spans_count(const struct spans *r)
{
	return r->n;
}

unsigned spans_clear(struct spans *r)
{
	unsigned n = r->n;

	r->n = 0;
	return n;
}

/* ---- OTLP ---- */

static void add_hex(struct buf *out, const unsigned char *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	buf_add_char(out, '"');
	for (size_t i = 0; i < n; i++) {
		buf_add_char(out, digits[p[i] >> 4]);
		buf_add_char(out, digits[p[i] & 15]);
	}
	buf_add_char(out, '"');
}

static void add_id(struct buf *out, uint64_t id)
{
	unsigned char bytes[8];

	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(id >> (56 - 8 * i));
	add_hex(out, bytes, sizeof bytes);
}

/* What is not plain ASCII is shown by its byte's number: names are plain ASCII,
 * and what a caller made of a host is for people. */
static void add_string(struct buf *out, const char *p, size_t n)
{
	buf_add_char(out, '"');
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c < 0x20 || c >= 0x7f)
			buf_printf(out, "\\u%04x", c);
		else if (c == '"' || c == '\\')
			buf_printf(out, "\\%c", c);
		else
			buf_add_char(out, p[i]);
	}
	buf_add_char(out, '"');
}

static void add_text(struct buf *out, const char *key, const char *p, size_t n)
{
	buf_printf(out, "{\"key\":\"%s\",\"value\":{\"stringValue\":", key);
	add_string(out, p, n);
	buf_add_str(out, "}}");
}

static void add_attributes(struct buf *out, const struct span *s)
{
	buf_add_str(out, ",\"attributes\":[");
	for (unsigned i = 0; i < s->n_texts; i++) {
		buf_add_str(out, i == 0 ? "" : ",");
		add_text(out, s->texts[i].key, s->bytes + s->texts[i].at, s->texts[i].n);
	}
	for (unsigned i = 0; i < s->n_numbers; i++)
		buf_printf(out, "%s{\"key\":\"%s\",\"value\":{\"intValue\":\"%lld\"}}", i + s->n_texts == 0 ? "" : ",",
			   s->numbers[i].key, (long long)s->numbers[i].value);
	buf_add_char(out, ']');
}

static void add_span(struct buf *out, const struct span *s)
{
	buf_add_str(out, "{\"traceId\":");
	add_hex(out, s->trace, sizeof s->trace);
	buf_add_str(out, ",\"spanId\":");
	add_id(out, s->id);
	if (s->parent != 0) {
		buf_add_str(out, ",\"parentSpanId\":");
		add_id(out, s->parent);
	}
	buf_printf(out, ",\"name\":\"%s\",\"kind\":%d,\"startTimeUnixNano\":\"%lld000\",\"endTimeUnixNano\":\"%lld000\"",
		   s->name, (int)s->kind, (long long)s->start_us, (long long)s->end_us);
	add_attributes(out, s);
	buf_add_str(out, s->failed ? ",\"status\":{\"code\":2}}" : ",\"status\":{}}");
}

unsigned spans_take(struct spans *r, unsigned most, const char *const *resource, struct buf *out)
{
	unsigned n = MIN(r->n, most);

	buf_add_str(out, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
	for (const char *const *pair = resource; *pair != NULL; pair += 2) {
		buf_add_str(out, pair == resource ? "" : ",");
		add_text(out, pair[0], pair[1], strlen(pair[1]));
	}
	buf_add_str(out, "]},\"scopeSpans\":[{\"scope\":{\"name\":\"settled\"},\"spans\":[");
	for (unsigned i = 0; i < n; i++) {
		buf_add_str(out, i == 0 ? "" : ",");
		add_span(out, &r->ring[(r->first + i) % r->capacity]);
	}
	buf_add_str(out, "]}]}]}");
	r->first = (r->first + n) % r->capacity;
	r->n -= n;
	return n;
}
