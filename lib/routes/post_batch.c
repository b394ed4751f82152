/*
 * POST /v1/batches: read a batch, and settle it: now, or as a job.
 */
#include <errno.h>
#include <stdlib.h>

#include "channel/channel.h"
#include "routes-i.h"

struct request {
	enum media accept;
	struct prefer prefer;
	struct slice key;                /* n 0: none */
	char key_text[KEY_MAX];
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

static size_t service_takes(const void *ctx, int service, const char **retname)
{
	const struct service *s = &((const struct config *)ctx)->services[service];

	*retname = s->name;
	return s->max_payload;
}

static struct wire_rules rules(const struct config *config, bool job)
{
	return (struct wire_rules){
		.max_items = config->limits.items,
		.max_payload = config->limits.payload_bytes,
		.max_depth = config->limits.json_depth,
		.default_deadline_ms = job ? JOB_DEADLINE_MS : config->limits.deadline_ms,
		.default_retry = job ? job_retry : (struct retry_policy){0},
		.max_deadline_ms = config->limits.max_deadline_ms,
		.default_service = config->n_services == 1 ? 0 : -1,
		.ctx = config,
		.find_service = find_service,
		.check_to = check_to,
		.service_takes = service_takes,
	};
}

/* Refuse what the headers rule out; true: refused. */
static bool refuse_headers(struct routes *r, struct http_request *req, enum media accept)
{
	if (dispatch_draining(r->env.dispatch))
		answer_problem(r, req, PROBLEM_SHUTTING_DOWN, "no new batches: try another instance, or later");
	else if (!negotiate_is_json(http_header(req, "Content-Type")))
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

/* Read the body; NULL: the request was answered. */
static struct batch *read_batch(struct routes *r, struct http_request *req, const struct request *q)
{
	struct wire_rules wr = rules(r->env.config, q->prefer.respond_async);
	struct blob *body = http_take_body(req);
	struct buf problem = {0};
	struct batch *b = NULL;
	enum problem kind = PROBLEM_MALFORMED_JSON;
	int err;

	if (body == NULL) {
		answer_problem(r, req, PROBLEM_MALFORMED_JSON, "the body is empty: send a batch as JSON");
		return NULL;
	}
	err = wire_read_batch(body, &wr, &b, &kind, &problem);
	if (err == 0)
		return b;
	blob_unref(body);
	if (err == -ENOMEM) {
		buf_free(&problem);
		answer_problem(r, req, PROBLEM_OVERLOADED, "no memory for this batch now; nothing was sent");
		return NULL;
	}
	answer_document(r, req, kind, blob_from_buf(&problem));
	return NULL;
}

static void answer_valid(struct http_request *req, const struct batch *b)
{
	struct buf text = {0};

	buf_printf(&text, "{\"valid\":true,\"items\":%u}", b->counts.total);
	answer_text(req, 200, "application/json", blob_from_buf(&text));
}

/* How it is kept, which the dispatcher and the store go by. */
static bool set_keeping(struct batch *b, const struct request *q)
{
	b->asynchronous = q->prefer.respond_async || b->policy.continue_on_disconnect;
	b->durable = b->asynchronous || q->key.n > 0;
	return q->key.n == 0 ||
	       key_attach(b, SLICE("POST /v1/batches"), q->key, (struct slice){b->body->p, b->body->n});
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct request q = {.accept = negotiate_accept(http_header(req, "Accept")), .prefer = read_prefer(req)};
	struct batch *b;

	(void)id;
	if (refuse_headers(r, req, q.accept) || !key_read(r, req, q.key_text, &q.key))
		return;
	b = read_batch(r, req, &q);
	if (b == NULL)
		return;
	if (b->policy.validate_only) {
		answer_valid(req, b);
		batch_unref(b);
		return;
	}
	if (!set_keeping(b, &q)) {
		batch_unref(b);
		answer_problem(r, req, PROBLEM_OVERLOADED, "no memory for this batch now; nothing was sent");
		return;
	}
	submit_batch(&(struct submission){.routes = r, .req = req, .take = b, .prefer = q.prefer,
					  .job = q.prefer.respond_async, .stream = q.accept == MEDIA_NDJSON});
}

const struct route route_post_batch = {"/v1/batches", HTTP_POST, run};
