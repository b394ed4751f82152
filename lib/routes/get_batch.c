/*
 * GET /v1/batches/{id}: a batch with its results so far.
 *
 * The id names the shard that accepted the batch. That shard is asked first: it
 * has the batch while it lives, and puts it into the store before it lets go.
 *
 *   here ──ask──► owner ──live: its document──► here
 *                   └────not live──► store ───► here
 */
#include "routes-i.h"

#include <stdlib.h>

struct get {
	struct route_data data;
	struct loop_msg msg;
	struct store_get stored;
	struct routes *here, *owner;
	struct http_request *req;        /* NULL: the client has gone */
	struct batch_id id;
	bool found;
	const char *outcome;             /* NULL: not done */
	struct blob *document;
};

static void on_end(struct route_data *data, bool gone)
{
	struct get *g = container_of(data, struct get, data);

	(void)gone;
	g->req = NULL;
}

static void reply(struct get *g)
{
	struct batch_headers h;

	if (g->req == NULL) {
		blob_unref(g->document);
		free(g);
		return;
	}
	http_set_data(g->req, NULL);
	if (!g->found) {
		answer_problem(g->here, g->req, PROBLEM_NOT_FOUND, "no batch with this id is known; results expire");
	} else if (g->document == NULL) {
		answer_problem(g->here, g->req, PROBLEM_OVERLOADED, "no memory to show this batch now");
	} else {
		batch_headers(&h, g->id, g->outcome, "application/json");
		http_respond(g->req, 200, h.headers, h.n, g->document);
	}
	free(g);
}

static void on_live_reply(struct loop_msg *msg)
{
	reply(container_of(msg, struct get, msg));
}

static void on_stored(struct store_get *s)
{
	struct get *g = container_of(s, struct get, stored);

	g->found = s->found;
	if (s->found) {
		g->document = s->record.document;
		g->outcome = s->record.outcome;
	}
	reply(g);
}

static void ask_owner(struct loop_msg *msg)
{
	struct get *g = container_of(msg, struct get, msg);

	g->document = dispatch_document(g->owner->env.dispatch, g->id, &g->found);
	if (!g->found) {
		g->stored = (struct store_get){.reply_to = g->here->env.loop, .id = g->id,
					       .now_unix_ms = loop_unix_ms(g->owner->env.loop),
					       .on_done = on_stored};
		store_get(g->owner->env.store, &g->stored);
		return;
	}
	g->msg.run = on_live_reply;
	loop_post(g->here->env.loop, &g->msg);
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct batch_id parsed;
	struct get *g;

	if (!batch_id_parse(id, &parsed) || batch_id_shard(parsed) >= r->env.group->n) {
		answer_problem(r, req, PROBLEM_NOT_FOUND, "this is not the id of a batch");
		return;
	}
	g = xcalloc(1, sizeof *g);
	*g = (struct get){.data.on_end = on_end, .msg.run = ask_owner, .here = r, .req = req,
			  .owner = r->env.peers[batch_id_shard(parsed)], .id = parsed};
	http_set_data(req, &g->data);
	loop_post(g->owner->env.loop, &g->msg);
}

const struct route route_get_batch = {"/v1/batches/{id}", HTTP_GET, run};
