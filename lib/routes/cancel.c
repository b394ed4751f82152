/*
 * POST /v1/batches/{id}/cancel: end what is left of a batch, and show it.
 *
 *   here ──► owner: cancel ──► here: wait until it is done, not for long ──► answered
 */
#include "routes-i.h"

#include <stdlib.h>

/* For attempts in flight to be aborted, and for the store to be told. */
enum { CANCEL_WAIT_S = 2 };

struct cancel {
	struct route_data data;
	struct wait wait;
	struct loop_msg msg;
	struct routes *owner;
	struct http_request *req;        /* NULL: the client has gone */
	struct batch_id id;
	bool asking;                     /* `msg` is on its way: the cancel stays until it is back */
	bool too_late;                   /* the owner goes down: its jobs are the next process's */
};

static void on_end(struct route_data *data, bool gone)
{
	struct cancel *c = container_of(data, struct cancel, data);

	(void)gone;
	wait_cancel(&c->wait);
	c->req = NULL;
	if (!c->asking)
		free(c);
}

static void on_ready(struct wait *w, const struct shown *s)
{
	struct cancel *c = container_of(w, struct cancel, wait);

	if (c->too_late && s->answer == STORE_OK && s->outcome == NULL)
		answer_batch_problem(w->here, c->req, PROBLEM_SHUTTING_DOWN, c->id,
				     "the next process goes on with this batch: cancel it there");
	else
		answer_shown(w->here, c->req, c->id, s, (struct prefer){.wait_s = -1});
}

static void on_asked(struct loop_msg *msg)
{
	struct cancel *c = container_of(msg, struct cancel, msg);

	c->asking = false;
	if (c->req == NULL)
		free(c);
	else if (!wait_start(&c->wait, c->id, CANCEL_WAIT_S) && !wait_start(&c->wait, c->id, 0))
		REQUIRE(false);
}

static void at_owner(struct loop_msg *msg)
{
	struct cancel *c = container_of(msg, struct cancel, msg);
	struct dispatch *d = c->owner->env.dispatch;

	/* What is not unfinished is done, or was never there: the look tells. */
	(void)dispatch_cancel_job(d, c->id, c->wait.look.tenant);
	c->too_late = dispatch_draining(d);
	c->msg.run = on_asked;
	loop_post(c->wait.here->env.loop, &c->msg);
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct batch_id parsed;
	struct cancel *c;

	if (!read_id(r, req, id, &parsed))
		return;
	c = xcalloc(1, sizeof *c);
	c->data.on_end = on_end;
	c->req = req;
	c->id = parsed;
	c->asking = true;
	c->owner = batch_owner(r, parsed);
	c->msg.run = at_owner;
	wait_init(&c->wait, r, req, on_ready);
	http_set_data(req, &c->data);
	loop_post(c->owner->env.loop, &c->msg);
}

const struct route route_cancel = {"/v1/batches/{id}/cancel", HTTP_POST, run, .body_optional = true};
