/*
 * GET /livez, /readyz, /metrics, /openapi.json: what operators and probes ask.
 */
#include "routes-i.h"
#include "xfer/xfer.h"

extern const unsigned char openapi_json[];
extern const size_t openapi_json_len;

static void answer_json(struct routes *r, struct http_request *req, int status, const char *json)
{
	struct buf text = {0};

	buf_add_str(&text, json);
	answer_text(r, req, status, "application/json", blob_from_buf(&text));
}

static void livez(struct routes *r, struct http_request *req, struct slice id)
{
	(void)id;
	answer_json(r, req, 200, "{\"status\":\"alive\"}");
}

void routes_not_ready(struct routes *r)
{
	r->not_ready = true;
}

static void readyz(struct routes *r, struct http_request *req, struct slice id)
{
	struct store_status store;

	(void)id;
	store_status(r->env.store, &store);
	if (r->not_ready || dispatch_draining(r->env.dispatch))
		answer_problem(r, req, PROBLEM_SHUTTING_DOWN, "shutting down: running batches are finished first");
	else if (store.failing)
		answer_problem(r, req, PROBLEM_OVERLOADED, store.why);
	else
		answer_json(r, req, 200, "{\"status\":\"ready\"}");
}

static void metrics(struct routes *r, struct http_request *req, struct slice id)
{
	struct buf text = {0};

	(void)id;
	sample(r);
	metrics_render(r->env.meter.metrics, &text);
	xfer_metrics_render(&text);
	answer_text(r, req, 200, "text/plain; version=0.0.4; charset=utf-8", blob_from_buf(&text));
}

/* One copy for all who read it, however slowly: nobody is asked for a key here. */
static void openapi(struct routes *r, struct http_request *req, struct slice id)
{
	struct buf text = {0};

	(void)id;
	if (r->openapi == NULL) {
		buf_add(&text, openapi_json, openapi_json_len);
		r->openapi = blob_from_buf(&text);
	}
	answer_text(r, req, 200, "application/json", r->openapi == NULL ? NULL : blob_ref(r->openapi));
}

const struct route route_livez = {"/livez", HTTP_GET, livez, .access = ACCESS_ANYBODY, .operations = true};
const struct route route_readyz = {"/readyz", HTTP_GET, readyz, .access = ACCESS_ANYBODY, .operations = true};
const struct route route_metrics = {"/metrics", HTTP_GET, metrics, .access = ACCESS_ADMIN, .operations = true};
const struct route route_openapi = {"/openapi.json", HTTP_GET, openapi, .access = ACCESS_ANYBODY, .operations = true};
