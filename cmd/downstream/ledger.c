#include "ledger.h"

#include <stdlib.h>

#include "wire/wire.h"

struct ledger_entry {
	uint64_t seq, connection, body_bytes;
	int64_t arrived_us, arrived_unix_ms;
	int64_t answered_us, gone_us;    /* 0: not */
	int answered;                    /* status; 0: none */
	bool complete, ended;
	struct behaviour behaviour;
	struct request request;          /* its slices are in `head` */
	char *body;
	size_t body_kept;
	char head[];
};

static struct ledger_entry **slot(const struct ledger *l, uint64_t seq)
{
	return &l->ring[seq % l->cap];
}

static struct ledger_entry *find(const struct ledger *l, uint64_t seq)
{
	struct ledger_entry *e = l->cap == 0 ? NULL : *slot(l, seq);

	return e != NULL && e->seq == seq ? e : NULL;
}

static void forget(struct ledger_entry **e)
{
	if (*e != NULL)
		free((*e)->body);
	free(*e);
	*e = NULL;
}

void ledger_init(struct ledger *l, size_t entries, size_t keep_body)
{
	*l = (struct ledger){.cap = entries, .keep_body = keep_body};
	l->ring = xcalloc(MAX(entries, (size_t)1), sizeof *l->ring);
}

void ledger_free(struct ledger *l)
{
	for (size_t i = 0; i < l->cap; i++)
		forget(&l->ring[i]);
	free(l->ring);
}

void ledger_clear(struct ledger *l)
{
	for (size_t i = 0; i < l->cap; i++)
		forget(&l->ring[i]);
	l->cleared = l->last;
	l->counts = (struct ledger_counts){.in_flight = l->counts.in_flight, .max_in_flight = l->counts.in_flight};
}

uint64_t ledger_arrived(struct ledger *l, const struct ledger_arrival *a)
{
	const struct request *r = a->request;
	struct ledger_entry *e;

	l->last++;
	l->counts.requests++;
	l->counts.in_flight++;
	l->counts.max_in_flight = MAX(l->counts.max_in_flight, l->counts.in_flight);
	if (l->cap == 0)
		return l->last;
	e = malloc(sizeof *e + r->head.n);
	REQUIRE(e != NULL);
	*e = (struct ledger_entry){.seq = l->last, .connection = a->connection, .arrived_us = a->now_us,
				   .arrived_unix_ms = a->unix_ms, .behaviour = *a->behaviour};
	memcpy(e->head, r->head.p, r->head.n);
	e->request = request_moved(r, e->head);
	forget(slot(l, l->last));
	*slot(l, l->last) = e;
	return l->last;
}

void ledger_body(struct ledger *l, uint64_t seq, struct slice body, uint64_t total, bool complete)
{
	struct ledger_entry *e = find(l, seq);

	if (e == NULL)
		return;
	e->complete = complete;
	e->body_bytes = total;
	e->body_kept = MIN(body.n, l->keep_body);
	if (e->body_kept == 0)
		return;
	e->body = malloc(e->body_kept);
	REQUIRE(e->body != NULL);
	memcpy(e->body, body.p, e->body_kept);
}

void ledger_ended(struct ledger *l, uint64_t seq, int status, int64_t now_us)
{
	struct ledger_entry *e = find(l, seq);

	l->counts.in_flight--;
	if (status != 0 && seq > l->cleared)
		l->counts.answered++;
	if (e == NULL)
		return;
	e->ended = true;
	e->answered = status;
	e->answered_us = status != 0 ? now_us : 0;
}

void ledger_gone(struct ledger *l, uint64_t seq, int64_t now_us)
{
	struct ledger_entry *e = find(l, seq);

	l->counts.in_flight--;
	if (seq > l->cleared)
		l->counts.gone++;
	if (e == NULL)
		return;
	e->ended = true;
	e->gone_us = now_us;
}

static bool passes(const struct ledger_filter *f, const struct ledger_entry *e)
{
	return (f->path.p == NULL || slice_eq(f->path, e->request.path)) &&
	       (f->webhook_id.p == NULL || slice_eq(f->webhook_id, e->request.fields[FIELD_WEBHOOK_ID]));
}

const struct ledger_entry *ledger_next(const struct ledger *l, const struct ledger_filter *f, uint64_t *seq)
{
	uint64_t oldest = l->last > l->cap ? l->last - l->cap + 1 : 1;

	*seq = MAX(*seq, MAX(oldest, l->cleared + 1));
	while (*seq <= l->last) {
		const struct ledger_entry *e = find(l, (*seq)++);

		if (e != NULL && passes(f, e))
			return e;
	}
	return NULL;
}

struct ledger_counts ledger_count(const struct ledger *l, const struct ledger_filter *f)
{
	struct ledger_counts c = {0};
	const struct ledger_entry *e;
	uint64_t seq = 0;

	if (f->path.p == NULL && f->webhook_id.p == NULL)
		return l->counts;
	while ((e = ledger_next(l, f, &seq)) != NULL) {
		c.requests++;
		c.answered += e->answered != 0;
		c.gone += e->gone_us != 0;
		c.in_flight += !e->ended;
	}
	return c;
}

static void add_name(struct buf *out, const char *name)
{
	if (out->p[out->n - 1] != '{')
		buf_add_char(out, ',');
	buf_add_char(out, '"');
	buf_add_str(out, name);
	buf_add_str(out, "\":");
}

static void add_number(struct buf *out, const char *name, int64_t v, bool there)
{
	add_name(out, name);
	if (there)
		buf_add_i64(out, v);
	else
		buf_add_str(out, "null");
}

static void add_text(struct buf *out, const char *name, struct slice v)
{
	add_name(out, name);
	if (v.p == NULL)
		buf_add_str(out, "null");
	else
		wire_string(out, v);
}

static void add_base64(struct buf *out, const unsigned char *p, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < n; i += 3) {
		unsigned v = (unsigned)p[i] << 16 | (i + 1 < n ? (unsigned)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0u);

		buf_add(out, (char[]){digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=',
				      i + 2 < n ? digits[v & 63] : '='}, 4);
	}
}

static void add_headers(struct buf *out, struct slice head)
{
	struct slice name, value;
	size_t at = 0;
	bool first = true;

	add_name(out, "headers");
	buf_add_char(out, '[');
	while (request_header(head, &at, &name, &value)) {
		buf_add_str(out, first ? "[" : ",[");
		wire_string(out, name);
		buf_add_char(out, ',');
		wire_string(out, value);
		buf_add_char(out, ']');
		first = false;
	}
	buf_add_char(out, ']');
}

static void add_request(struct buf *out, const struct request *r)
{
	add_text(out, "method", r->method);
	add_text(out, "path", r->path);
	add_text(out, "query", r->query);
	add_text(out, "webhook_id", r->fields[FIELD_WEBHOOK_ID]);
	add_text(out, "webhook_timestamp", r->fields[FIELD_WEBHOOK_TIMESTAMP]);
	add_text(out, "webhook_signature", r->fields[FIELD_WEBHOOK_SIGNATURE]);
	add_text(out, "traceparent", r->fields[FIELD_TRACEPARENT]);
	add_text(out, "content_type", r->fields[FIELD_CONTENT_TYPE]);
	add_headers(out, r->head);
}

void ledger_write(const struct ledger *l, const struct ledger_entry *e, struct buf *out)
{
	buf_add_char(out, '{');
	add_number(out, "n", (int64_t)(e->seq - l->cleared), true);
	add_number(out, "connection", (int64_t)e->connection, true);
	add_number(out, "arrived_us", e->arrived_us, true);
	add_name(out, "arrived_at");
	wire_time(out, e->arrived_unix_ms);
	add_request(out, &e->request);
	add_name(out, "body");
	buf_add_char(out, '"');
	add_base64(out, (const unsigned char *)e->body, e->body_kept);
	buf_add_char(out, '"');
	add_number(out, "body_bytes", (int64_t)e->body_bytes, true);
	add_name(out, "complete");
	buf_add_str(out, e->complete ? "true" : "false");
	add_name(out, "behaviour");
	buf_add_char(out, '"');
	behaviour_describe(&e->behaviour, out);
	buf_add_char(out, '"');
	add_number(out, "answered", e->answered, e->answered != 0);
	add_number(out, "answered_us", e->answered_us, e->answered != 0);
	add_number(out, "peer_gone_us", e->gone_us, e->gone_us != 0);
	buf_add_str(out, "}\n");
}
