/*
 * A request whose key is known: its answer is made from the recorded batch, and
 * nothing is sent.
 *
 *   done: as the first answer was, a stream as the same lines
 *   running as a job: 202, or as soon as it is done, if it may take a while
 *   running for the first request, which waits for it: 409
 */
#include "routes-i.h"

#include <stdlib.h>

struct replay {
	struct route_data data;
	struct wait wait;
	struct store_read read;
	struct routes *routes;
	struct http_request *req;        /* NULL: the client has gone */
	struct prefer prefer;
	bool stream;
	bool reading;                    /* `read` is under way: the replay stays until it is back */
	const char *outcome;
	struct blob *lines;
};

static void replay_free(struct replay *p)
{
	blob_unref(p->lines);
	free(p);
}

static void on_end(struct route_data *data, bool gone)
{
	struct replay *p = container_of(data, struct replay, data);

	(void)gone;
	wait_cancel(&p->wait);
	p->req = NULL;
	if (!p->reading)
		replay_free(p);
}

static void answer_done(struct replay *p, int status, const char *type, struct blob *take_document)
{
	struct batch_headers h;

	if (take_document == NULL) {
		answer_problem(p->routes, p->req, PROBLEM_OVERLOADED, "no memory to show this batch now");
		return;
	}
	batch_headers(&h, p->wait.id, p->outcome, type);
	add_header(&h, "Idempotent-Replayed", "true");
	/* What is done is no longer answered asynchronously, but its end may have been waited for. */
	if (p->prefer.wait_s >= 0)
		add_applied(&h, p->prefer);
	http_respond(p->req, status, h.headers, h.n, take_document);
}

/* ---- as lines ---- */

/* In the store's thread. */
static void render(struct store_read *read)
{
	struct replay *p = container_of(read, struct replay, read);
	struct batch *b = STEAL_PTR(read->batch);
	struct buf text = {0};

	for (uint32_t i = 0; i < b->n_items; i++) {
		wire_item(&text, &b->items[i]);
		buf_add_char(&text, '\n');
	}
	buf_add_str(&text, "{\"batch\":");
	wire_batch(&text, b, false);
	buf_add_str(&text, "}\n");
	p->lines = blob_from_buf(&text);
	batch_unref(b);
}

static void on_read(struct store_op *op)
{
	struct replay *p = container_of(op, struct replay, read.op);

	p->reading = false;
	if (p->req == NULL)
		replay_free(p);
	else if (op->answer != STORE_OK)
		answer_store_problem(p->routes, p->req, op->answer);
	else
		answer_done(p, 200, "application/x-ndjson", STEAL_PTR(p->lines));
}

static void read_lines(struct replay *p)
{
	p->reading = true;
	p->read = (struct store_read){
		.op = {.what = STORE_READ, .reply_to = p->routes->env.loop, .on_done = on_read},
		.id = p->wait.id, .tenant = p->wait.look.tenant, .order = STORE_BY_SETTLING, .limit = UINT32_MAX, .in_thread = render};
	store_ask(p->routes->env.store, &p->read.op);
}

static void on_ready(struct wait *w, const struct shown *s)
{
	struct replay *p = container_of(w, struct replay, wait);

	p->outcome = s->outcome;
	if (s->answer == STORE_NOT_FOUND)
		answer_problem(p->routes, p->req, PROBLEM_OVERLOADED, "the batch of this key was just forgotten: send it again");
	else if (s->answer != STORE_OK)
		answer_store_problem(p->routes, p->req, s->answer);
	else if (s->outcome != NULL && p->stream)
		read_lines(p);
	else if (s->outcome != NULL)
		answer_done(p, batch_status(s->outcome), "application/json", s->whole == NULL ? NULL : blob_ref(s->whole));
	else if (s->asynchronous)
		answer_accepted(p->req, w->id, s->head == NULL ? NULL : blob_ref(s->head), p->prefer, true);
	else
		answer_batch_problem(p->routes, p->req, PROBLEM_IN_PROGRESS, w->id,
				     "the first request with this key waits for its batch: ask for that, or send this again later");
}

void replay_batch(const struct replay_request *q)
{
	struct replay *p = xcalloc(1, sizeof *p);

	p->data.on_end = on_end;
	p->routes = q->routes;
	p->req = q->req;
	p->prefer = q->prefer;
	if (!p->prefer.respond_async)
		p->prefer.wait_s = -1;
	p->stream = q->stream;
	wait_init(&p->wait, q->routes, q->req, on_ready);
	http_set_data(q->req, &p->data);
	if (wait_start(&p->wait, q->id, MAX(p->prefer.wait_s, 0)))
		return;
	/* There was no place to wait. */
	p->prefer.wait_s = -1;
	if (!wait_start(&p->wait, q->id, 0))
		REQUIRE(false);
}
