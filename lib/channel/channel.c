#include "channel/channel-i.h"

#include <stdlib.h>
#include <strings.h>

/* Bytes of all headers but for the id and the signatures; one signature with its space. */
enum { OWN_HEADERS = 6, HEADERS_MAX = 512, SIGNATURE_BYTES = 48, TRACE_BYTES = 16 };

static const struct channel_kind *kind_of(const struct service *s)
{
	static const struct channel_kind *const kinds[] = {
		[SERVICE_HTTP] = &channel_http,
		[SERVICE_WEBHOOK] = &channel_webhook,
	};

	return kinds[s->kind];
}

const char *channel_check_to(const struct service *s, struct slice to)
{
	return kind_of(s)->check_to(to);
}

static void add_lower(struct buf *out, struct slice s)
{
	size_t from = out->n;

	buf_add_slice(out, s);
	for (size_t i = from; i < out->n; i++)
		out->p[i] = out->p[i] >= 'A' && out->p[i] <= 'Z' ? (char)(out->p[i] + 32) : out->p[i];
}

void channel_origin(const struct service *s, struct slice to, struct buf *out)
{
	struct slice url = kind_of(s)->origin_url(s, to);
	struct channel_url u;

	/* An operator's URL may be stranger than a caller's: then it is its own
	 * key, and the transfer says what is wrong with it. */
	if (channel_url_parse(url, &u) != NULL) {
		buf_add_slice(out, url);
		return;
	}
	add_lower(out, u.scheme);
	buf_add_str(out, "://");
	add_lower(out, u.host);
	buf_add_char(out, ':');
	buf_add_u64(out, u.port);
}

void channel_scratch_free(struct channel_scratch *s)
{
	buf_free(&s->bytes);
	free(s->lines);
	*s = (struct channel_scratch){0};
}

static bool reserve_lines(struct channel_scratch *s, size_t n)
{
	const char **lines;

	if (n <= s->cap)
		return true;
	lines = reallocarray(s->lines, n, sizeof *lines);
	if (lines == NULL)
		return false;
	s->lines = lines;
	s->cap = n;
	return true;
}

/* One header line: begun with its name, ended with a NUL. The bytes have been
 * reserved before, so they do not move. */
static void begin(struct channel_scratch *s, size_t *n, const char *name_colon)
{
	s->lines[(*n)++] = s->bytes.p + s->bytes.n;
	buf_add_str(&s->bytes, name_colon);
}

static void end(struct channel_scratch *s)
{
	buf_add_char(&s->bytes, '\0');
}

/* An id comes from outside: no control byte of it may end the line. Returns it
 * as it is sent, which is what the signature covers. */
static struct slice add_id(struct buf *out, struct slice id)
{
	size_t from = out->n, done = 0;

	for (size_t i = 0; i < id.n; i++) {
		if ((unsigned char)id.p[i] >= 0x20 && id.p[i] != 0x7f)
			continue;
		buf_add(out, id.p + done, i - done);
		channel_percent_encode((struct slice){id.p + i, 1}, out);
		done = i + 1;
	}
	buf_add(out, id.p + done, id.n - done);
	return (struct slice){out->p + from, out->n - from};
}

static void add_hex(struct buf *out, const unsigned char *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * TRACE_BYTES];

	for (size_t i = 0; i < n; i++) {
		text[2 * i] = digits[p[i] >> 4];
		text[2 * i + 1] = digits[p[i] & 15];
	}
	buf_add(out, text, 2 * n);
}

/* W3C Trace Context: version 00. */
static void add_traceparent(struct buf *out, const struct channel_message *m)
{
	unsigned char span[8];

	for (int i = 0; i < 8; i++)
		span[i] = (unsigned char)(m->span_id >> (56 - 8 * i));
	buf_add_str(out, "00-");
	add_hex(out, m->trace->id, TRACE_BYTES);
	buf_add_char(out, '-');
	add_hex(out, span, sizeof span);
	buf_add_char(out, '-');
	add_hex(out, &m->trace->flags, 1);
}

/* Every header of ours, then the operator's. False: no memory to sign. */
static bool add_headers(const struct service *s, const struct channel_message *m,
			struct channel_scratch *scratch, size_t *n)
{
	struct buf *out = &scratch->bytes;
	struct slice id, timestamp;

	scratch->lines[(*n)++] = "Content-Type: application/json";
	begin(scratch, n, "webhook-id: ");
	id = add_id(out, m->id);
	end(scratch);
	begin(scratch, n, "webhook-timestamp: ");
	timestamp.p = out->p + out->n;
	buf_add_i64(out, m->unix_s);
	timestamp.n = (size_t)(out->p + out->n - timestamp.p);
	end(scratch);
	if (s->n_secrets > 0) {
		begin(scratch, n, "webhook-signature: ");
		for (size_t i = 0; i < s->n_secrets; i++) {
			if (i > 0)
				buf_add_char(out, ' ');
			if (!channel_sign(s->secrets[i], id, timestamp, m->payload, out))
				return false;
		}
		end(scratch);
	}
	begin(scratch, n, "traceparent: ");
	add_traceparent(out, m);
	end(scratch);
	if (m->trace->state.n > 0) {
		begin(scratch, n, "tracestate: ");
		buf_add_slice(out, m->trace->state);
		end(scratch);
	}
	for (size_t i = 0; i < s->n_headers; i++)
		scratch->lines[(*n)++] = s->headers[i];
	return true;
}

bool channel_encode(const struct service *s, const struct channel_message *m,
		    struct channel_scratch *scratch, struct exchange *ret)
{
	const struct channel_kind *kind = kind_of(s);
	struct buf *out = &scratch->bytes;
	size_t n = 0;

	out->n = 0;
	out->failed = false;
	if (!buf_reserve(out, kind->url_max(s, m->to) + m->id.n * 3 + m->trace->state.n + HEADERS_MAX +
			       s->n_secrets * SIGNATURE_BYTES) ||
	    !reserve_lines(scratch, OWN_HEADERS + s->n_headers))
		return false;
	kind->url(s, m->to, out);
	buf_add_char(out, '\0');
	if (!add_headers(s, m, scratch, &n))
		return false;
	*ret = (struct exchange){
		.method = "POST",
		.url = out->p,
		.headers = scratch->lines,
		.n_headers = n,
		.body = m->payload,
	};
	kind->exchange(s, ret);
	return true;
}
