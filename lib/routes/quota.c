/*
 * What a tenant may send: RateLimit-Policy and RateLimit, as of
 * draft-ietf-httpapi-ratelimit-headers-10. Each quota has its name; `qu` is left
 * out where a request is the unit, as for batches.
 */
#include <stdio.h>

#include "routes-i.h"

static const struct tenant *may_of(const struct routes *r, const struct http_request *req)
{
	return &r->env.config->tenants[auth_tenant(req)];
}

static struct dispatch_tenant *state_of(const struct routes *r, const struct http_request *req)
{
	return &r->env.group->tenants.of[auth_tenant(req)];
}

void quota_show(struct http_request *req)
{
	http_set_tag(req, http_tag(req) | TAG_METERED);
}

static size_t add_policy(char *to, size_t room, const struct dispatch_quota *q)
{
	int n = snprintf(to, room, "\"%s\";q=%llu", q->name, (unsigned long long)q->most);

	if (q->window_s > 0)
		n += snprintf(to + n, room - (size_t)n, ";w=%u", q->window_s);
	if (q->unit != NULL)
		n += snprintf(to + n, room - (size_t)n, ";qu=\"%s\"", q->unit);
	return (size_t)n;
}

static size_t add_left(char *to, size_t room, const struct dispatch_quota *q)
{
	int n = snprintf(to, room, "\"%s\";r=%llu", q->name, (unsigned long long)q->left);

	if (q->window_s > 0)
		n += snprintf(to + n, room - (size_t)n, ";t=%u", q->full_s);
	return (size_t)n;
}

static void write_list(char *to, size_t room, size_t (*add)(char *to, size_t room, const struct dispatch_quota *q),
		       const struct dispatch_quota *q, unsigned n)
{
	size_t at = 0;

	for (unsigned i = 0; i < n; i++) {
		at += (size_t)snprintf(to + at, room - at, i == 0 ? "" : ", ");
		at += add(to + at, room - at, &q[i]);
		REQUIRE(at < room);
	}
}

size_t quota_headers(struct routes *r, struct http_request *req, struct http_header *ret)
{
	static const char *const names[HTTP_MORE] = {"RateLimit-Policy", "RateLimit"};
	struct dispatch_quota q[DISPATCH_QUOTAS];
	unsigned n;

	if (!(http_tag(req) & TAG_METERED))
		return 0;
	n = dispatch_quotas(state_of(r, req), may_of(r, req), loop_now_us(r->env.loop), q);
	if (n == 0)
		return 0;
	write_list(r->quota_text[0], sizeof r->quota_text[0], add_policy, q, n);
	write_list(r->quota_text[1], sizeof r->quota_text[1], add_left, q, n);
	for (size_t i = 0; i < HTTP_MORE; i++)
		ret[i] = (struct http_header){names[i], r->quota_text[i]};
	return HTTP_MORE;
}
