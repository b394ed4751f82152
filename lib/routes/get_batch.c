/*
 * GET /v1/batches/{id}: a batch with its results so far; with `Prefer: wait=N`
 * as soon as it is done, or after N seconds.
 */
#include "routes-i.h"

#include <stdlib.h>

struct get {
	struct route_data data;
	struct wait wait;
	struct http_request *req;
	struct prefer prefer;
};

static void on_end(struct route_data *data, bool gone)
{
	struct get *g = container_of(data, struct get, data);

	(void)gone;
	wait_cancel(&g->wait);
	free(g);
}

void answer_shown(struct routes *r, struct http_request *req, struct batch_id id, const struct shown *s,
		  struct prefer applied)
{
	struct batch_headers h;

	if (s->answer != STORE_OK) {
		answer_store_problem(r, req, s->answer);
	} else if (s->whole == NULL) {
		answer_problem(r, req, PROBLEM_OVERLOADED, "no memory to show this batch now");
	} else {
		batch_headers(&h, id, s->outcome, "application/json");
		add_applied(&h, applied);
		http_respond(req, 200, h.headers, h.n, blob_ref(s->whole));
	}
}

static void on_ready(struct wait *w, const struct shown *s)
{
	struct get *g = container_of(w, struct get, wait);

	answer_shown(w->here, g->req, w->id, s, g->prefer);
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct batch_id parsed;
	struct get *g;

	if (!read_id(r, req, id, &parsed))
		return;
	g = xcalloc(1, sizeof *g);
	g->data.on_end = on_end;
	g->req = req;
	g->prefer = (struct prefer){.wait_s = read_prefer(req).wait_s};
	wait_init(&g->wait, r, req, on_ready);
	http_set_data(req, &g->data);
	if (!wait_start(&g->wait, parsed, g->prefer.wait_s))
		answer_problem(r, req, PROBLEM_OVERLOADED,
			       "too many requests wait for batches, of all callers or of your tenant: ask without wait");
}

const struct route route_get_batch = {"/v1/batches/{id}", HTTP_GET, run};
