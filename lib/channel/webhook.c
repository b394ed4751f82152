/* The caller chose the URL: it is `to`, and the address guard is on. */
#include "channel/channel-i.h"

static const char *check_to(struct slice to)
{
	struct channel_url u;

	if (to.n < 1 || to.n > CHANNEL_TO_MAX)
		return "must have 1 to 2048 bytes";
	return channel_url_parse(to, &u);
}

static struct slice origin_url(const struct service *s, struct slice to)
{
	(void)s;
	return to;
}

static size_t url_max(const struct service *s, struct slice to)
{
	(void)s;
	return to.n;
}

static void url(const struct service *s, struct slice to, struct buf *out)
{
	(void)s;
	buf_add_slice(out, to);
}

static void exchange(const struct service *s, struct exchange *ret)
{
	ret->guarded = true;
	ret->allow = s->allow;
	ret->n_allow = s->n_allow;
}

const struct channel_kind channel_webhook = {
	.check_to = check_to,
	.origin_url = origin_url,
	.url_max = url_max,
	.url = url,
	.exchange = exchange,
};
