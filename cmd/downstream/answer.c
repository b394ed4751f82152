#include "answer.h"

enum { MORE_BYTES = 16 * 1024, MISSING_BYTES = 100 };

static void add_filler(struct buf *out, size_t n)
{
	if (!buf_reserve(out, n))
		return;
	memset(out->p + out->n, 'x', n);
	out->n += n;
}

static void add_status(struct buf *out, int status)
{
	buf_add_str(out, "HTTP/1.1 ");
	buf_add_u64(out, (uint64_t)status);
	buf_add_str(out, " \r\n");
}

/* A status of these has no body (RFC 9110, section 6.4.1). */
static bool bodyless(int status)
{
	return status < 200 || status == 204 || status == 304;
}

static void add_body(struct buf *out, const struct answer_plan *p)
{
	const struct behaviour *b = p->behaviour;

	if (b->has_body) {
		buf_add(out, p->text.p + b->header_bytes, p->text.n - b->header_bytes);
	} else if (b->body_bytes > 0) {
		add_filler(out, (size_t)b->body_bytes);
	} else if (b->status / 100 == 2) {
		buf_add_str(out, "{\"id\":\"m-");
		buf_add_u64(out, p->n);
		buf_add_str(out, "\"}");
	}
}

static void add_fields(struct buf *out, const struct answer_plan *p)
{
	const struct behaviour *b = p->behaviour;

	if (b->retry_after >= 0) {
		buf_add_str(out, "Retry-After: ");
		buf_add_i64(out, b->retry_after);
		buf_add_str(out, "\r\n");
	}
	/* A client that follows redirects shows itself in the ledger. */
	if (b->status / 100 == 3)
		buf_add_str(out, "Location: /redirected\r\n");
	buf_add(out, p->text.p, b->header_bytes);
	if (p->close)
		buf_add_str(out, "Connection: close\r\n");
	if (b->broken == BROKEN_HEADERS)
		buf_add_str(out, "a line without what every header has\r\n");
}

void answer_add(struct buf *out, const struct answer_plan *p)
{
	const struct behaviour *b = p->behaviour;
	struct buf body CLEANUP(buf_free) = {0};

	if (b->broken == BROKEN_STATUS) {
		buf_add_str(out, "this is not HTTP\r\n\r\n");
		return;
	}
	if (b->interim != 0) {
		add_status(out, b->interim);
		buf_add_str(out, "\r\n");
	}
	add_status(out, b->status);
	add_fields(out, p);
	if (b->endless == ENDLESS_HEADERS)
		return;
	if (b->endless == ENDLESS_BODY || b->broken == BROKEN_CHUNK) {
		buf_add_str(out, "Transfer-Encoding: chunked\r\n\r\n");
		if (b->broken == BROKEN_CHUNK)
			buf_add_str(out, "2\r\n{}\r\nzz\r\n");
		return;
	}
	add_body(&body, p);
	if (body.n > 0)
		buf_add_str(out, b->invalid ? "Content-Type: text/plain\r\n" : "Content-Type: application/json\r\n");
	if (!bodyless(b->status)) {
		buf_add_str(out, "Content-Length: ");
		buf_add_u64(out, body.n + (b->broken == BROKEN_LENGTH ? MISSING_BYTES : 0u));
		buf_add_str(out, "\r\n");
	}
	buf_add_str(out, "\r\n");
	if (!bodyless(b->status) && !p->head_only)
		buf_add_slice(out, buf_slice(&body));
}

void answer_add_more(struct buf *out, const struct behaviour *b)
{
	if (b->endless == ENDLESS_HEADERS) {
		for (int i = 0; i < MORE_BYTES / 16; i++)
			buf_add_str(out, "X-Endless: yes\r\n");
		return;
	}
	buf_add_str(out, "4000\r\n");
	add_filler(out, MORE_BYTES);
	buf_add_str(out, "\r\n");
}

bool answer_ends_connection(const struct behaviour *b)
{
	return b->broken != BROKEN_NO || b->keep != KEEP_YES || b->status < 200;
}
