/*
 * Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): one per request,
 * and with it the digest of what it was sent for.
 */
#include "base/digest.h"
#include "routes-i.h"

bool key_read(struct routes *r, struct http_request *req, char text[KEY_MAX], struct slice *ret)
{
	const char *line;
	size_t n = http_headers(req, "Idempotency-Key", &line, 1);

	*ret = (struct slice){0};
	if (n == 0)
		return true;
	if (n == 1)
		*ret = negotiate_key(line, text);
	if (ret->n > 0)
		return true;
	answer_problem(r, req, PROBLEM_MALFORMED_REQUEST,
		       n > 1 ? "Idempotency-Key stands twice: send one"
			     : "Idempotency-Key is 1 to 255 printable ASCII characters, in quotes or bare");
	return false;
}

bool key_attach(struct batch *b, struct slice scope, struct slice key, struct slice body)
{
	struct batch_key *k = arena_alloc(&b->arena, sizeof *k);

	if (k == NULL)
		return false;
	k->scope = arena_copy(&b->arena, scope);
	k->key = arena_copy(&b->arena, key);
	if (k->scope.p == NULL || k->key.p == NULL || !digest_sha256(body, k->digest))
		return false;
	b->key = k;
	return true;
}
