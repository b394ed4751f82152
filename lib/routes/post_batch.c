/*
 * POST /v1/batches: read a batch, and settle it: now, or as a job.
 */
#include <errno.h>

#include "channel/channel.h"
#include "routes-i.h"

struct request {
	struct routes *routes;
	struct http_request *req;
	enum media accept;
	struct prefer prefer;
	struct blob *body;               /* NULL: empty */
	struct key_text key;
};

static int find_service(const void *ctx, struct slice name)
{
	return config_find_service(ctx, name);
}

static const char *check_to(const void *ctx, int service, struct slice to)
{
	const struct config *config = ctx;

	return channel_check_to(&config->services[service], to);
}

static size_t service_takes(const void *ctx, int service, const char **ret_name)
{
	const struct service *s = &((const struct config *)ctx)->services[service];

	*ret_name = s->name;
	return s->max_payload;
}

static struct wire_rules rules(const struct config *config, const struct tenant *tenant, bool job)
{
	return (struct wire_rules){
		.max_items = config->limits.items,
		.max_payload = config->limits.payload_bytes,
		.max_depth = config->limits.json_depth,
		.max_priority = tenant->max_priority,
		.default_deadline_ms = job ? JOB_DEADLINE_MS : config->limits.deadline_ms,
		.default_retry = job ? job_retry : (struct retry_policy){0},
		.max_deadline_ms = config->limits.max_deadline_ms,
		.default_service = config_only_service(config),
		.ctx = config,
		.find_service = find_service,
		.check_to = check_to,
		.service_takes = service_takes,
	};
}

/* Refuse what the headers rule out; true: refused. */
static bool refuse_headers(struct routes *r, struct http_request *req, enum media accept)
{
	if (!negotiate_is_json(http_header(req, "Content-Type")))
		answer_problem(r, req, PROBLEM_UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json");
	else if (http_header(req, "Content-Encoding") != NULL)
		answer_problem(r, req, PROBLEM_UNSUPPORTED_MEDIA_TYPE, "send the body without a Content-Encoding");
	else if (accept == MEDIA_NONE)
		answer_problem(r, req, PROBLEM_NOT_ACCEPTABLE,
			       "answers are application/json or application/x-ndjson");
	else
		return false;
	return true;
}

/* Unless the key is known. */
static void refuse(const struct request *q, enum problem kind, struct blob *take_document)
{
	const struct replay_request known = {.routes = q->routes, .req = q->req, .prefer = q->prefer,
					     .stream = q->accept == MEDIA_NDJSON && !q->prefer.respond_async};

	refuse_unknown(&known, &q->key.claim, kind, take_document);
}

static void refuse_no_memory(const struct request *q)
{
	refuse(q, PROBLEM_OVERLOADED, problem_document(PROBLEM_OVERLOADED, "no memory for this batch now; nothing was sent"));
}

/* Read the body; NULL: the request was answered. */
static struct batch *read_batch(struct request *q)
{
	const struct config *c = q->routes->env.config;
	struct wire_rules wr = rules(c, &c->tenants[auth_tenant(q->req)], q->prefer.respond_async);
	struct buf problem = {0};
	struct batch *b = NULL;
	enum problem kind = PROBLEM_MALFORMED_JSON;
	int err;

	if (q->body == NULL) {
		answer_problem(q->routes, q->req, kind, "the body is empty: send a batch as JSON");
		return NULL;
	}
	err = wire_read_batch(q->body, &wr, &b, &kind, &problem);
	if (err == 0) {
		q->body = NULL;
		return b;
	}
	if (err == -ENOMEM) {
		buf_free(&problem);
		refuse_no_memory(q);
		return NULL;
	}
	refuse(q, kind, blob_from_buf(&problem));
	return NULL;
}

static void answer_valid(struct routes *r, struct http_request *req, const struct batch *b)
{
	struct buf text = {0};

	buf_printf(&text, "{\"valid\":true,\"items\":%u}", b->counts.total);
	answer_text(r, req, 200, "application/json", blob_from_buf(&text));
}

/* How it is kept, which the dispatcher and the store go by. */
static bool set_keeping(struct batch *b, const struct request *q)
{
	b->asynchronous = q->prefer.respond_async || b->policy.continue_on_disconnect;
	b->durable = b->asynchronous || q->key.claim.key.n > 0;
	return q->key.claim.key.n == 0 || key_attach(b, &q->key.claim);
}

static void settle(struct request *q)
{
	struct batch *b = read_batch(q);
	const struct submission s = {.routes = q->routes, .req = q->req, .take = b, .prefer = q->prefer,
				     .job = q->prefer.respond_async, .stream = q->accept == MEDIA_NDJSON};

	if (b == NULL)
		return;
	if (!set_keeping(b, q)) {
		batch_unref(b);
		refuse_no_memory(q);
	} else if (submit_never_fits(&s, "#/items")) {
		return;
	} else if (b->policy.validate_only) {
		answer_valid(q->routes, q->req, b);
		batch_unref(b);
	} else {
		submit_batch(&s);
	}
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	CLEANUP(buf_free) struct buf accept = {0};
	struct request q = {.routes = r, .req = req, .accept = negotiate_accept(join_lines(req, "Accept", &accept)),
			    .prefer = read_prefer(req)};
	struct slice body = {0};

	(void)id;
	quota_show(req);
	if (refuse_headers(r, req, q.accept))
		return;
	q.body = http_take_body(req);
	if (q.body != NULL)
		body = (struct slice){q.body->p, q.body->n};
	if (key_read(r, req, SLICE("POST /v1/batches"), body, &q.key)) {
		if (dispatch_draining(r->env.dispatch))
			refuse(&q, PROBLEM_SHUTTING_DOWN, problem_document(PROBLEM_SHUTTING_DOWN, NO_NEW_BATCHES));
		else
			settle(&q);
	}
	blob_unref(q.body);
}

const struct route route_post_batch = {"/v1/batches", HTTP_POST, run};
