/*
 * Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): one per request,
 * and with it the digest of what it was sent for.
 */
#include "base/digest.h"
#include "routes-i.h"

bool key_read(struct routes *r, struct http_request *req, struct slice scope, struct slice body, struct key_text *ret)
{
	const char *line;
	size_t n = http_headers(req, "Idempotency-Key", &line, 1);

	ret->claim = (struct batch_key){.scope = scope};
	if (n == 0)
		return true;
	if (n == 1)
		ret->claim.key = negotiate_key(line, ret->text);
	if (ret->claim.key.n > 0 && digest_sha256(body, ret->claim.digest))
		return true;
	if (ret->claim.key.n > 0)
		answer_problem(r, req, PROBLEM_OVERLOADED, "no memory for this now; nothing was sent");
	else
		answer_problem(r, req, PROBLEM_MALFORMED_REQUEST,
			       n > 1 ? "Idempotency-Key stands twice: send one"
				     : "Idempotency-Key is 1 to 255 printable ASCII characters, in quotes or bare");
	return false;
}

bool key_attach(struct batch *b, const struct batch_key *key)
{
	struct batch_key *k = arena_alloc(&b->arena, sizeof *k);

	if (k == NULL)
		return false;
	*k = *key;
	k->scope = arena_copy(&b->arena, key->scope);
	k->key = arena_copy(&b->arena, key->key);
	if (k->scope.p == NULL || k->key.p == NULL)
		return false;
	b->key = k;
	return true;
}
