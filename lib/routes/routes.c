/*
 * From a request to its route, and the answers that all routes share.
 */
#include "routes-i.h"

#include <stdio.h>
#include <stdlib.h>

/* Seconds; until a queue has moved, a batch has gone on. */
#define RETRY_AFTER "1"

static const struct route *const table[] = {
	&route_post_batch, &route_get_batch, &route_delete_batch, &route_cancel, &route_retry, &route_get_results,
	&route_get_events, &route_list_batches, &route_get_services, &route_get_limits, &route_livez, &route_readyz,
	&route_metrics, &route_openapi,
};

static bool pattern_matches(const char *pattern, const char *path, struct slice *ret_id)
{
	const char *hole = strchr(pattern, '{');
	size_t before = hole == NULL ? 0 : (size_t)(hole - pattern);

	if (hole == NULL)
		return strcmp(pattern, path) == 0;
	if (strncmp(pattern, path, before) != 0)
		return false;
	*ret_id = (struct slice){path + before, strcspn(path + before, "/")};
	return ret_id->n > 0 && strcmp(path + before + ret_id->n, strchr(hole, '}') + 1) == 0;
}

static bool method_matches(enum http_method route, enum http_method asked)
{
	return route == asked || (route == HTTP_GET && asked == HTTP_HEAD);
}

static const char *method_names(enum http_method m)
{
	switch (m) {
	case HTTP_GET:
	case HTTP_HEAD:
		return "GET, HEAD";
	case HTTP_POST:
		return "POST";
	case HTTP_DELETE:
		return "DELETE";
	case HTTP_OTHER:
		break;
	}
	return "";
}

/* "GET /v1/batches", as the metrics name it. */
static unsigned label_of(const struct route *route)
{
	char name[64];
	int n = snprintf(name, sizeof name, "%.*s %s", (int)strcspn(method_names(route->method), ","),
			 method_names(route->method), route->pattern);

	REQUIRE(n > 0 && (size_t)n < sizeof name);
	return dispatch_metrics_route(name);
}

/* The route, or NULL with the methods that the path would allow in `allow`. */
static const struct route *find(const struct door *door, struct http_request *req, struct slice *ret_id,
				struct buf *allow)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		if (door->operations && !table[i]->operations)
			continue;
		if (!pattern_matches(table[i]->pattern, http_path(req), ret_id))
			continue;
		if (method_matches(table[i]->method, http_method(req))) {
			http_set_label(req, door->routes->labels[i]);
			return table[i];
		}
		buf_add_str(allow, allow->n > 0 ? ", " : "");
		buf_add_str(allow, method_names(table[i]->method));
	}
	return NULL;
}

void answer_refused(struct routes *r, struct http_request *req, enum problem p, unsigned retry_after_s,
		    struct blob *take_body)
{
	struct http_header h[2] = {{"Content-Type", "application/problem+json"}};
	char seconds[12];
	size_t n = 1;

	meter_add(r->env.meter, METRIC_REFUSED, p, 0, 1);
	snprintf(seconds, sizeof seconds, "%u", retry_after_s);
	if (problem_status(p) == 429 || problem_status(p) == 503)
		h[n++] = (struct http_header){"Retry-After", retry_after_s > 0 ? seconds : RETRY_AFTER};
	http_respond(req, problem_status(p), h, n, take_body);
}

void answer_document(struct routes *r, struct http_request *req, enum problem p, struct blob *take_body)
{
	answer_refused(r, req, p, 0, take_body);
}

struct blob *problem_document(enum problem p, const char *detail)
{
	struct buf text = {0};

	wire_problem(&text, p, detail);
	return blob_from_buf(&text);
}

void answer_problem(struct routes *r, struct http_request *req, enum problem p, const char *detail)
{
	answer_document(r, req, p, problem_document(p, detail));
}

void answer_batch_document(struct routes *r, struct http_request *req, enum problem p, struct batch_id id,
			   struct blob *take_body)
{
	struct batch_headers h;

	meter_add(r->env.meter, METRIC_REFUSED, p, 0, 1);
	batch_headers(&h, id, NULL, "application/problem+json");
	if (problem_status(p) == 409 || problem_status(p) == 503)
		add_retry_after(&h);
	http_respond(req, problem_status(p), h.headers, h.n, take_body);
}

void answer_batch_problem(struct routes *r, struct http_request *req, enum problem p, struct batch_id id,
			  const char *detail)
{
	answer_batch_document(r, req, p, id, problem_document(p, detail));
}

const char *store_trouble(enum store_answer answer)
{
	switch (answer) {
	case STORE_BUSY:
		return "too much waits for the store, or too many unfinished items are in it; nothing was done";
	case STORE_UNAVAILABLE:
		return "the store's disk fails; nothing was done";
	case STORE_OK:
	case STORE_NOT_FOUND:
	case STORE_KEY_EXISTS:
	case STORE_NOT_DONE:
		break;
	}
	REQUIRE(false);
}

void answer_store_problem(struct routes *r, struct http_request *req, enum store_answer answer)
{
	if (answer == STORE_NOT_FOUND)
		answer_problem(r, req, PROBLEM_NOT_FOUND, NO_SUCH_BATCH);
	else
		answer_problem(r, req, PROBLEM_OVERLOADED, store_trouble(answer));
}

bool read_id(struct routes *r, struct http_request *req, struct slice text, struct batch_id *ret)
{
	if (batch_id_parse(text, ret))
		return true;
	answer_problem(r, req, PROBLEM_NOT_FOUND, "this is not the id of a batch");
	return false;
}

/* So many lines of one header are looked at. */
enum { LINES_MAX = 32 };

struct prefer read_prefer(struct http_request *req)
{
	const char *lines[LINES_MAX];
	size_t n = http_headers(req, "Prefer", lines, LINES_MAX);

	return negotiate_prefer(lines, MIN(n, (size_t)LINES_MAX));
}

const char *join_lines(struct http_request *req, const char *name, struct buf *joined)
{
	const char *lines[LINES_MAX];
	size_t n = http_headers(req, name, lines, LINES_MAX);

	if (n <= 1)
		return n == 0 ? NULL : lines[0];
	for (size_t i = 0; i < MIN(n, (size_t)LINES_MAX); i++) {
		buf_add_str(joined, i > 0 ? ", " : "");
		buf_add_str(joined, lines[i]);
	}
	buf_add_char(joined, '\0');
	return joined->failed ? lines[0] : joined->p;
}

void answer_text(struct routes *r, struct http_request *req, int status, const char *type, struct blob *take_body)
{
	const struct http_header h[] = {{"Content-Type", type}};

	if (take_body == NULL)
		answer_problem(r, req, PROBLEM_INTERNAL, "no memory for the answer: try again later");
	else
		http_respond(req, status, h, 1, take_body);
}

static void answer_unrouted(struct routes *r, struct http_request *req, struct buf *allow)
{
	struct http_header h[2] = {{"Content-Type", "application/problem+json"}};
	enum problem p = allow->n > 0 ? PROBLEM_METHOD_NOT_ALLOWED : PROBLEM_NOT_FOUND;
	struct buf text = {0};
	size_t n = 1;

	meter_add(r->env.meter, METRIC_REFUSED, p, 0, 1);
	buf_add_char(allow, '\0');
	if (p == PROBLEM_METHOD_NOT_ALLOWED && !allow->failed)
		h[n++] = (struct http_header){"Allow", allow->p};
	wire_problem(&text, p, p == PROBLEM_NOT_FOUND ? "there is nothing at this path; see /openapi.json"
						      : "this path has other methods; see Allow");
	http_respond(req, problem_status(p), h, n, blob_from_buf(&text));
}

static bool admits(const struct door *door, struct http_request *req, const struct route *route)
{
	return door->operations || auth_admits(door->routes, req, route);
}

/* A process that is full, for all or for the caller's tenant, or too busy, refuses a batch
 * before it has read it, unless it has a key: that may be known, and then its record is
 * the answer. One that is too large is told so. */
static bool refuse_unread(struct routes *r, struct http_request *req, size_t body_bytes)
{
	if (body_bytes > r->env.config->limits.body_bytes || http_header(req, "Idempotency-Key") != NULL ||
	    !dispatch_refuses_unread(r->env.dispatch, auth_tenant(req), body_bytes, read_prefer(req).respond_async))
		return false;
	http_refuse(req, PROBLEM_OVERLOADED, dispatch_last_refusal(r->env.dispatch).detail,
		    dispatch_last_refusal(r->env.dispatch).retry_after_s);
	return true;
}

static size_t on_head(void *arg, struct http_request *req, size_t body_bytes)
{
	CLEANUP(buf_free) struct buf allow = {0};
	const struct door *door = arg;
	struct slice id;
	const struct route *route = find(door, req, &id, &allow);

	/* Nobody without a key, and nobody who is lost, is to be waited for. */
	if (route == NULL)
		answer_unrouted(door->routes, req, &allow);
	if (route == NULL || !admits(door, req, route) ||
	    (route == &route_post_batch && refuse_unread(door->routes, req, body_bytes)))
		return 0;
	return route->method != HTTP_POST ? 0 : door->routes->env.config->limits.body_bytes;
}

static bool may_lack_body(void *arg, struct http_request *req)
{
	CLEANUP(buf_free) struct buf allow = {0};
	struct slice id;
	const struct route *route = find(arg, req, &id, &allow);

	return route != NULL && route->body_optional;
}

static void on_request(void *arg, struct http_request *req)
{
	CLEANUP(buf_free) struct buf allow = {0};
	const struct door *door = arg;
	struct slice id;
	const struct route *route = find(door, req, &id, &allow);

	if (route == NULL)
		answer_unrouted(door->routes, req, &allow);
	else if (admits(door, req, route))
		route->run(door->routes, req, id);
}

static size_t more_headers(void *arg, struct http_request *req, struct http_header *ret)
{
	const struct door *door = arg;

	return quota_headers(door->routes, req, ret);
}

static void on_refused(void *arg, enum problem p)
{
	const struct door *door = arg;

	meter_add(door->routes->env.meter, METRIC_REFUSED, p, 0, 1);
}

static void on_over(void *arg, unsigned label, int status, int64_t took_us)
{
	const struct routes *r = ((const struct door *)arg)->routes;

	meter_add(r->env.meter, METRIC_REQUESTS, label, dispatch_metrics_status(status), 1);
	meter_observe_us(r->env.meter, METRIC_REQUEST_SECONDS, label, 0, took_us);
}

static void on_end(void *arg, struct http_request *req, void *data, bool gone)
{
	struct route_data *d = data;

	(void)arg;
	(void)req;
	if (d != NULL)
		d->on_end(d, gone);
}

void add_header(struct batch_headers *h, const char *name, const char *value)
{
	REQUIRE(h->n < ARRAY_LEN(h->headers));
	h->headers[h->n++] = (struct http_header){name, value};
}

void batch_headers(struct batch_headers *h, struct batch_id id, const char *outcome, const char *type)
{
	memcpy(h->location, "/v1/batches/", sizeof "/v1/batches/");
	batch_id_format(id, h->location + sizeof "/v1/batches/" - 1);
	h->n = 0;
	if (type != NULL)
		add_header(h, "Content-Type", type);
	add_header(h, "Location", h->location);
	add_header(h, "Batch-Id", h->location + sizeof "/v1/batches/" - 1);
	if (outcome != NULL)
		add_header(h, "Batch-Outcome", outcome);
}

void add_applied(struct batch_headers *h, struct prefer p)
{
	negotiate_applied(p, h->applied);
	if (h->applied[0] != '\0')
		add_header(h, "Preference-Applied", h->applied);
}

void add_retry_after(struct batch_headers *h)
{
	add_header(h, "Retry-After", RETRY_AFTER);
}

int batch_status(const char *outcome)
{
	return strcmp(outcome, batch_outcome_str(BATCH_OUTCOME_SUCCEEDED)) == 0 ? 200 : 207;
}

static void door_init(struct door *d, struct routes *r, bool operations)
{
	*d = (struct door){
		.routes = r, .operations = operations,
		.handler = {.arg = d, .on_head = on_head, .may_lack_body = may_lack_body, .on_request = on_request,
			    .more_headers = more_headers, .on_refused = on_refused, .on_over = on_over, .on_end = on_end}};
}

struct routes *routes_new(const struct routes_env *env)
{
	struct routes *r = xcalloc(1, sizeof *r);

	r->env = *env;
	_Static_assert(ARRAY_LEN(table) <= ARRAY_LEN(r->labels), "every route has its label");
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		r->labels[i] = label_of(table[i]);
	door_init(&r->front, r, false);
	door_init(&r->operations, r, true);
	rng_seed_from_os(&r->rng);
	waits_init(r);
	events_init(r);
	return r;
}

void routes_reload(struct routes *r, const struct config *config)
{
	r->env.config = config;
}

void routes_recheck(void *arg, struct http_request *req, enum http_stage stage)
{
	CLEANUP(buf_free) struct buf allow = {0};
	struct routes *r = arg;
	struct slice id;
	const struct route *route = find(&r->front, req, &id, &allow);

	if (route != NULL)
		auth_ask_again(r, req, route, stage);
}

void routes_free(struct routes *r)
{
	if (r == NULL)
		return;
	events_free(r);
	waits_free(r);
	idmap_free(&r->flights);
	idmap_free(&r->pages);
	blob_unref(r->openapi);
	free(r);
}

const struct httpd_handler *routes_handler(struct routes *r)
{
	return &r->front.handler;
}

const struct httpd_handler *routes_operations_handler(struct routes *r)
{
	return &r->operations.handler;
}
