/*
 * Who asks: by the key of `Authorization: Bearer KEY` (RFC 6750), of which the
 * configuration has the SHA-256. Nothing of it is kept or logged.
 *
 * The presented key is hashed once, and compared with every key that there is,
 * each in constant time and without an early end: how long it takes tells
 * nothing of the keys.
 *
 * After a reload each request that is under way is asked again. Whose key is gone
 * reads nothing more: a poll is answered with 401, and a stream breaks off. What a
 * POST was accepted for goes on, and is answered.
 */
#include <strings.h>

#include "base/digest.h"
#include "routes-i.h"

enum { KEY_TEXT_MAX = 1024 };

struct slice auth_bearer(const char *line)
{
	struct slice key;

	if (line == NULL || strncasecmp(line, "Bearer ", 7) != 0)
		return (struct slice){0};
	key = slice_trim(slice_str(line + 7));
	if (key.n > KEY_TEXT_MAX)
		return (struct slice){0};
	for (size_t i = 0; i < key.n; i++) {
		if (key.p[i] <= ' ' || key.p[i] > '~')
			return (struct slice){0};
	}
	return key;
}

const struct auth_key *auth_find(const struct config *c, struct slice key)
{
	unsigned char digest[DIGEST_BYTES];
	const struct auth_key *found = NULL;

	if (key.n == 0 || !digest_sha256(key, digest))
		return NULL;
	for (size_t i = 0; i < c->n_keys; i++)
		found = digest_equal(c->keys[i].sha256, digest) ? &c->keys[i] : found;
	return found;
}

static uint64_t tag_of(const struct config *c, const struct auth_key *k)
{
	if (k->scope == KEY_ADMIN)
		return TAG_KNOWN | TAG_ADMIN;
	return TAG_KNOWN | (uint64_t)config_find_tenant(c, k->tenant) << TAG_TENANT_SHIFT |
	       (uint64_t)(k - c->keys + 1) << TAG_KEY_SHIFT;
}

static void answer_unauthenticated(struct routes *r, struct http_request *req, const char *detail)
{
	static const struct http_header h[] = {{"Content-Type", "application/problem+json"},
					       {"WWW-Authenticate", "Bearer"}};

	meter_add(r->env.meter, METRIC_REFUSED, PROBLEM_UNAUTHENTICATED, 0, 1);
	http_respond(req, problem_status(PROBLEM_UNAUTHENTICATED), h, ARRAY_LEN(h),
		     problem_document(PROBLEM_UNAUTHENTICATED, detail));
}

/* 0: none that we know, and *ret_why says so. */
static uint64_t identify(const struct routes *r, struct http_request *req, const char **ret_why)
{
	const struct config *c = r->env.config;
	const char *line;
	size_t n = http_headers(req, "Authorization", &line, 1);
	struct slice key = auth_bearer(n == 1 ? line : NULL);
	const struct auth_key *found = auth_find(c, key);

	*ret_why = n == 0 ? "send your key as Authorization: Bearer KEY"
		  : key.n == 0 ? "Authorization is not Bearer and a key" : "this key is not known here";
	return found == NULL ? 0 : tag_of(c, found);
}

static bool may(enum access access, uint64_t tag)
{
	switch (access) {
	case ACCESS_TENANT:
		return !(tag & TAG_ADMIN);
	case ACCESS_ADMIN:
		return tag & TAG_ADMIN;
	case ACCESS_KEY:
	case ACCESS_ANYBODY:
		return true;
	}
	return false;
}

bool auth_admits(struct routes *r, struct http_request *req, const struct route *route)
{
	uint64_t tag = http_tag(req);
	const char *why;

	if (route->access == ACCESS_ANYBODY || r->env.config->n_keys == 0 || (tag & TAG_KNOWN) != 0)
		return true;
	tag = identify(r, req, &why);
	if (tag == 0) {
		answer_unauthenticated(r, req, why);
		return false;
	}
	if (!may(route->access, tag)) {
		answer_problem(r, req, PROBLEM_FORBIDDEN, tag & TAG_ADMIN ? "this is for the keys of tenants"
								       : "this is for admin keys");
		return false;
	}
	http_set_tag(req, tag);
	return true;
}

/* Its keys have changed: is it the same one's who asked? */
static bool is_still_known(const struct routes *r, struct http_request *req)
{
	const uint64_t who = TAG_KNOWN | TAG_ADMIN | ((UINT64_C(1) << TAG_KEY_SHIFT) - (UINT64_C(1) << TAG_TENANT_SHIFT));
	bool open = r->env.config->n_keys == 0;
	const char *why;
	uint64_t was = http_tag(req), is = open ? 0 : identify(r, req, &why);

	if ((!open && is == 0) || ((was ^ is) & who) != 0)
		return false;
	http_set_tag(req, is | (was & TAG_METERED));
	return true;
}

/* What the route still holds goes as if the client had left. */
static void end_reading(struct routes *r, struct http_request *req, enum http_stage stage)
{
	struct route_data *d = http_data(req);

	if (stage == HTTP_STREAMING) {
		http_drop(req);
		return;
	}
	http_set_data(req, NULL);
	if (d != NULL)
		d->on_end(d, true);
	answer_unauthenticated(r, req, "this key is not known here any more");
}

void auth_ask_again(struct routes *r, struct http_request *req, const struct route *route, enum http_stage stage)
{
	if (route->access == ACCESS_ANYBODY || is_still_known(r, req))
		return;
	/* Whose it was counts on; the place of its key may be another's now. */
	http_set_tag(req, stage == HTTP_COMING ? 0 : (uint32_t)http_tag(req));
	if (stage != HTTP_COMING && route->method == HTTP_GET)
		end_reading(r, req, stage);
}

unsigned auth_tenant(const struct http_request *req)
{
	return (unsigned)(uint32_t)http_tag(req) >> TAG_TENANT_SHIFT;
}

struct slice auth_key_name(const struct routes *r, const struct http_request *req)
{
	const struct config *c = r->env.config;
	uint64_t n = http_tag(req) >> TAG_KEY_SHIFT;

	return n == 0 ? (struct slice){0} : slice_str(c->keys[n - 1].name);
}

struct slice auth_tenant_name(struct routes *r, const struct http_request *req)
{
	return dispatch_tenant_name(&r->env.group->tenants, r->env.config, auth_tenant(req));
}
