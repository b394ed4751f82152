/*
 * DELETE /v1/batches/{id}: forget a batch that is done.
 *
 *   here ──► owner ──still in memory, not done──► here: 409
 *              └────else────► store ────────────► here
 *
 * The owner asks the store, so that what it has just given to it is found.
 */
#include "routes-i.h"

#include <stdlib.h>

struct forget {
	struct route_data data;
	struct loop_msg msg;
	struct store_delete del;
	struct routes *here, *owner;
	struct http_request *req;        /* NULL: the client has gone */
};

static void on_end(struct route_data *data, bool gone)
{
	struct forget *f = container_of(data, struct forget, data);

	(void)gone;
	f->req = NULL;
}

static void reply(struct forget *f, enum store_answer answer)
{
	struct batch_headers h;

	if (f->req != NULL) {
		http_set_data(f->req, NULL);
		if (answer == STORE_OK) {
			batch_headers(&h, f->del.id, NULL, NULL);
			http_respond(f->req, 204, h.headers, h.n, NULL);
		} else if (answer == STORE_NOT_DONE) {
			answer_batch_problem(f->here, f->req, PROBLEM_NOT_FINISHED, f->del.id,
					     "it still runs: cancel it first, or wait for its end");
		} else {
			answer_store_problem(f->here, f->req, answer);
		}
	}
	free(f);
}

static void on_live(struct loop_msg *msg)
{
	reply(container_of(msg, struct forget, msg), STORE_NOT_DONE);
}

static void on_deleted(struct store_op *op)
{
	reply(container_of(op, struct forget, del.op), op->answer);
}

static void at_owner(struct loop_msg *msg)
{
	struct forget *f = container_of(msg, struct forget, msg);
	const char *outcome;

	if (dispatch_shows(f->owner->env.dispatch, f->del.id, f->del.tenant, &outcome) && outcome == NULL) {
		f->msg.run = on_live;
		loop_post(f->here->env.loop, &f->msg);
		return;
	}
	f->del.op = (struct store_op){.what = STORE_DELETE, .reply_to = f->here->env.loop, .on_done = on_deleted};
	store_ask(f->owner->env.store, &f->del.op);
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct batch_id parsed;
	struct forget *f;

	if (!read_id(r, req, id, &parsed))
		return;
	f = xcalloc(1, sizeof *f);
	f->data.on_end = on_end;
	f->here = r;
	f->owner = batch_owner(r, parsed);
	f->req = req;
	f->del.id = parsed;
	f->del.tenant = auth_tenant_name(r, req);
	f->msg.run = at_owner;
	http_set_data(req, &f->data);
	loop_post(f->owner->env.loop, &f->msg);
}

const struct route route_delete_batch = {"/v1/batches/{id}", HTTP_DELETE, run};
