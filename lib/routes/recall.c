/*
 * A refusal of a request that has a key. The key may be known: then the record
 * is the answer, which takes no room, no service and no new batch, so that a
 * client learns what became of its request also from a process that is full or
 * going down.
 *
 *   refused ──► store: the batches of this key ──► one has its scope and body: replay.c
 *                                              └─► none: the refusal
 */
#include <stdlib.h>

#include "routes-i.h"

struct recall {
	struct route_data data;
	struct store_list list;
	struct replay_request found;     /* its request is NULL: the client has gone */
	char key_text[KEY_MAX], scope_text[SCOPE_MAX];
	struct batch_key key;
	enum problem kind;
	struct blob *document;           /* the refusal */
	bool known;
};

static void on_end(struct route_data *data, bool gone)
{
	struct recall *c = container_of(data, struct recall, data);

	(void)gone;
	c->found.req = NULL;
}

static void answer_refusal(const struct replay_request *q, enum problem kind, struct blob *take_document)
{
	if ((q->id.hi | q->id.lo) != 0)
		answer_batch_document(q->routes, q->req, kind, q->id, take_document);
	else
		answer_refused(q->routes, q->req, kind, q->retry_after_s, take_document);
}

static void on_listed(struct store_op *op)
{
	struct recall *c = container_of(op, struct recall, list.op);

	for (uint32_t i = 0; i < c->list.n; i++) {
		struct batch *b = c->list.heads[i];

		if (!c->known && b->key != NULL && slice_eq(b->key->scope, c->key.scope) &&
		    memcmp(b->key->digest, c->key.digest, sizeof c->key.digest) == 0) {
			c->known = true;
			c->found.id = b->id;
		}
		batch_unref(b);
	}
	if (c->found.req != NULL && c->known) {
		replay_batch(&c->found);
	} else if (c->found.req != NULL) {
		http_set_data(c->found.req, NULL);
		answer_refusal(&c->found, c->kind, STEAL_PTR(c->document));
	}
	blob_unref(c->document);
	free(c);
}

static struct slice copy(char *to, struct slice s)
{
	memcpy(to, s.p, s.n);
	return (struct slice){to, s.n};
}

void refuse_unknown(const struct replay_request *q, const struct batch_key *key, enum problem kind,
		    struct blob *take_document)
{
	struct recall *c;

	if (key == NULL || key->key.n == 0) {
		answer_refusal(q, kind, take_document);
		return;
	}
	REQUIRE(key->key.n <= KEY_MAX && key->scope.n <= SCOPE_MAX);
	c = xcalloc(1, sizeof *c);
	c->data.on_end = on_end;
	c->found = *q;
	c->kind = kind;
	c->document = take_document;
	c->key = *key;
	c->key.key = copy(c->key_text, key->key);
	c->key.scope = copy(c->scope_text, key->scope);
	c->list = (struct store_list){
		.op = {.what = STORE_LIST, .reply_to = q->routes->env.loop, .on_done = on_listed},
		.tenant = auth_tenant_name(q->routes, q->req), .state = -1, .outcome = -1, .key = c->key.key, .limit = STORE_LIST_MAX};
	http_set_data(q->req, &c->data);
	store_ask(q->routes->env.store, &c->list.op);
}
