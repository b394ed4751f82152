/* The operator chose the origin; `to` goes into the URL's {to}. */
#include "channel/channel-i.h"

static const struct slice placeholder = {"{to}", 4};

static const char *check_to(struct slice to)
{
	if (to.n < 1 || to.n > CHANNEL_TO_MAX)
		return "must have 1 to 2048 bytes";
	/* As a segment of its own a dot is removed on the way, percent-encoded
	 * or not (RFC 3986 section 6.2.2): another resource would be reached. */
	if (slice_eq(to, SLICE(".")) || slice_eq(to, SLICE("..")))
		return "must not be \".\" or \"..\"";
	return NULL;
}

static struct slice origin_url(const struct service *s, struct slice to)
{
	(void)to;
	return slice_str(s->url);
}

static size_t url_max(const struct service *s, struct slice to)
{
	size_t n = strlen(s->url), places = 0;

	for (const char *p = s->url; (p = strstr(p, placeholder.p)) != NULL; p += placeholder.n)
		places++;
	return n + places * to.n * 3;
}

static void url(const struct service *s, struct slice to, struct buf *out)
{
	const char *p = s->url, *next;

	while ((next = strstr(p, placeholder.p)) != NULL) {
		buf_add(out, p, (size_t)(next - p));
		channel_percent_encode(to, out);
		p = next + placeholder.n;
	}
	buf_add_str(out, p);
}

static void exchange(const struct service *s, struct exchange *ret)
{
	if (s->method != NULL)
		ret->method = s->method;
}

const struct channel_kind channel_http = {
	.check_to = check_to,
	.origin_url = origin_url,
	.url_max = url_max,
	.url = url,
	.exchange = exchange,
};
