#include "request.h"

#include <strings.h>

static const char *const field_names[] = {
	[FIELD_WEBHOOK_ID] = "webhook-id",
	[FIELD_WEBHOOK_TIMESTAMP] = "webhook-timestamp",
	[FIELD_WEBHOOK_SIGNATURE] = "webhook-signature",
	[FIELD_TRACEPARENT] = "traceparent",
	[FIELD_CONTENT_TYPE] = "content-type",
};

static bool is(struct slice s, const char *word)
{
	return s.n == strlen(word) && strncasecmp(s.p, word, s.n) == 0;
}

/* The line at *at without its end; false: it has none yet. */
static bool next_line(struct slice in, size_t *at, struct slice *ret)
{
	const char *p = in.p + *at, *lf = *at < in.n ? memchr(p, '\n', in.n - *at) : NULL;

	if (lf == NULL)
		return false;
	*ret = (struct slice){p, (size_t)(lf - p)};
	if (ret->n > 0 && p[ret->n - 1] == '\r')
		ret->n--;
	*at = (size_t)(lf - in.p) + 1;
	return true;
}

static bool split_header(struct slice line, struct slice *ret_name, struct slice *ret_value)
{
	const char *colon = memchr(line.p, ':', line.n);

	if (colon == NULL || colon == line.p)
		return false;
	*ret_name = (struct slice){line.p, (size_t)(colon - line.p)};
	*ret_value = slice_trim((struct slice){colon + 1, line.n - ret_name->n - 1});
	return true;
}

static bool read_target(struct slice target, struct request *ret)
{
	const char *q;

	if (target.n == 0 || target.p[0] != '/')
		return false;
	q = memchr(target.p, '?', target.n);
	ret->path = (struct slice){target.p, q == NULL ? target.n : (size_t)(q - target.p)};
	if (q != NULL)
		ret->query = (struct slice){q + 1, target.n - ret->path.n - 1};
	return true;
}

static bool read_request_line(struct slice line, struct request *ret)
{
	const char *first = memchr(line.p, ' ', line.n), *last = memrchr(line.p, ' ', line.n);
	struct slice version;

	if (first == NULL || first == last || first == line.p)
		return false;
	ret->method = (struct slice){line.p, (size_t)(first - line.p)};
	version = (struct slice){last + 1, (size_t)(line.p + line.n - last) - 1};
	if (version.n != 8 || memcmp(version.p, "HTTP/1.", 7) != 0)
		return false;
	ret->close = version.p[7] == '0';
	return read_target((struct slice){first + 1, (size_t)(last - first) - 1}, ret);
}

static bool read_length(struct slice s, uint64_t *ret)
{
	uint64_t v = 0;

	if (s.n == 0 || s.n > 18)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(s.p[i] - '0');
	}
	*ret = v;
	return true;
}

static bool read_header(struct slice name, struct slice value, struct request *ret)
{
	for (int f = 0; f < FIELD_MAX; f++) {
		if (is(name, field_names[f])) {
			ret->fields[f] = value;
			return true;
		}
	}
	if (is(name, "content-length"))
		return read_length(value, &ret->length);
	if (is(name, "transfer-encoding"))
		return ret->chunked = is(value, "chunked");
	if (is(name, "connection"))
		ret->close = is(value, "close") || (ret->close && !is(value, "keep-alive"));
	else if (is(name, "expect"))
		ret->expects_continue = is(value, "100-continue");
	return true;
}

bool request_header(struct slice head, size_t *at, struct slice *ret_name, struct slice *ret_value)
{
	struct slice line;

	if (*at == 0)
		next_line(head, at, &line);
	return next_line(head, at, &line) && line.n > 0 && split_header(line, ret_name, ret_value);
}

enum parse request_parse(struct slice in, struct request *ret)
{
	struct slice line, name, value;
	bool first = true;
	size_t at = 0;

	*ret = (struct request){0};
	while (next_line(in, &at, &line)) {
		if (at > REQUEST_HEAD_MAX)
			return PARSE_BAD;
		if (line.n == 0) {
			ret->head = (struct slice){in.p, at};
			return first ? PARSE_BAD : PARSE_DONE;
		}
		if (first ? !read_request_line(line, ret)
			  : !split_header(line, &name, &value) || !read_header(name, value, ret))
			return PARSE_BAD;
		first = false;
	}
	return in.n > REQUEST_HEAD_MAX ? PARSE_BAD : PARSE_MORE;
}

static struct slice moved(struct slice s, const char *from, const char *to)
{
	return s.p == NULL ? s : (struct slice){to + (s.p - from), s.n};
}

struct request request_moved(const struct request *r, const char *head)
{
	struct request m = *r;

	m.head.p = head;
	m.method = moved(r->method, r->head.p, head);
	m.path = moved(r->path, r->head.p, head);
	m.query = moved(r->query, r->head.p, head);
	for (int f = 0; f < FIELD_MAX; f++)
		m.fields[f] = moved(r->fields[f], r->head.p, head);
	return m;
}

void request_body_init(struct request_body *b, const struct request *r, size_t keep)
{
	*b = (struct request_body){
		.state = r->chunked ? BODY_SIZE : BODY_PLAIN, .left = r->chunked ? 0 : r->length, .keep = keep};
}

static size_t take(struct request_body *b, struct slice in, struct buf *out)
{
	size_t n = MIN(b->left, (uint64_t)in.n);

	if (out->n < b->keep)
		buf_add(out, in.p, MIN(n, b->keep - out->n));
	b->left -= n;
	b->total += n;
	return n;
}

static bool read_chunk_size(struct slice line, uint64_t *ret)
{
	uint64_t v = 0;
	size_t i;

	for (i = 0; i < line.n && i < 15; i++) {
		const char *digits = "0123456789abcdef", *d = line.p[i] == '\0' ? NULL : strchr(digits, line.p[i] | 0x20);

		if (d == NULL)
			break;
		v = v * 16 + (uint64_t)(d - digits);
	}
	*ret = v;
	return i > 0 && (i == line.n || line.p[i] == ';' || line.p[i] == ' ');
}

/* One line of the chunked coding: a size, the end of a chunk, a trailer. */
static enum parse read_chunk_line(struct request_body *b, struct slice line)
{
	if (b->state == BODY_DATA_END) {
		b->state = BODY_SIZE;
		return line.n == 0 ? PARSE_MORE : PARSE_BAD;
	}
	if (b->state == BODY_TRAILER)
		return line.n == 0 ? PARSE_DONE : PARSE_MORE;
	if (!read_chunk_size(line, &b->left))
		return PARSE_BAD;
	b->state = b->left == 0 ? BODY_TRAILER : BODY_DATA;
	return PARSE_MORE;
}

enum parse request_body_read(struct request_body *b, struct slice in, struct buf *out, size_t *ret_used)
{
	enum parse p = PARSE_MORE;
	struct slice line;
	size_t at = 0;

	while (p == PARSE_MORE) {
		if (b->state == BODY_PLAIN || b->state == BODY_DATA) {
			at += take(b, (struct slice){in.p + at, in.n - at}, out);
			if (b->left > 0)
				break;
			if (b->state == BODY_PLAIN)
				p = PARSE_DONE;
			else
				b->state = BODY_DATA_END;
		} else if (next_line(in, &at, &line)) {
			p = read_chunk_line(b, line);
		} else {
			p = in.n - at > REQUEST_HEAD_MAX ? PARSE_BAD : PARSE_MORE;
			break;
		}
	}
	*ret_used = at;
	return p;
}
