/*
 * POST /v1/batches: settle a batch and answer with the truth about every item,
 * in one document or as a stream of lines.
 *
 *   request ──► submitted ──on_done──► answered ──► over
 *                  │ client gone: the batch is cancelled (on_disconnect: abort)
 *                  ▼                  or goes on alone (continue)
 *                over
 *
 * Invariants
 *  1. While `live`, the dispatcher has this post as its listener; the post is
 *     freed only when the request is over, and detaches first.
 *  2. A stream holds a reference on its batch: its lines are made from it when
 *     the client takes them, so nothing grows with a slow reader.
 */
#include <errno.h>
#include <stdlib.h>

#include "channel/channel.h"
#include "negotiate.h"
#include "routes-i.h"

enum { TRACE_SAMPLED = 1 };

struct post {
	struct route_data data;
	struct routes *routes;
	struct http_request *req;
	struct batch_id id;
	bool live;                       /* on_done has not come yet */
	bool continue_alone;
	/* Streaming only. */
	struct batch *batch;             /* a reference; NULL: not a stream */
	struct item *sent;               /* the last item put into a line */
	bool last_line_made;
	struct buf line;
	size_t line_sent;
};

static void on_end(struct route_data *data, bool gone)
{
	struct post *p = container_of(data, struct post, data);
	struct dispatch *d = p->routes->env.dispatch;

	meter_add(p->routes->env.meter, METRIC_PARKED, 0, 0, -1);
	if (p->live) {
		dispatch_detach(d, p->id);
		if (gone && !p->continue_alone)
			dispatch_cancel(d, p->id, WHY_DISCONNECTED);
	}
	batch_unref(p->batch);
	buf_free(&p->line);
	free(p);
}

/* Attempts were made, so never a 5xx: if even the short form finds no memory,
 * the answer has no body, and the headers tell the outcome. */
static void answer_batch(struct post *p, struct batch *b, struct blob *document)
{
	const char *outcome = batch_outcome_str(b->outcome);
	struct batch_headers h;
	struct buf text = {0};

	batch_headers(&h, b->id, outcome, "application/json");
	if (document == NULL) {
		wire_batch(&text, b, false);
		document = blob_from_buf(&text);
	} else {
		blob_ref(document);
	}
	http_respond(p->req, batch_status(outcome), h.headers, h.n, document);
}

static void on_done(void *arg, struct batch *b, struct blob *document)
{
	struct post *p = arg;

	p->live = false;
	if (p->batch != NULL)
		http_stream_wake(p->req);
	else
		answer_batch(p, b, document);
}

/* ---- streaming ---- */

static void on_settled(void *arg, struct batch *b)
{
	struct post *p = arg;

	(void)b;
	http_stream_wake(p->req);
}

/* Make the next line; false: there is none yet, or no more. */
static bool next_line(struct post *p)
{
	struct batch *b = p->batch;
	struct item *it = p->sent == NULL ? b->settled_first : p->sent->next_settled;

	p->line.n = p->line_sent = 0;
	if (it != NULL) {
		wire_item(&p->line, it);
		p->sent = it;
	} else if (!p->live && !p->last_line_made) {
		buf_add_str(&p->line, "{\"batch\":");
		wire_batch(&p->line, b, false);
		buf_add_char(&p->line, '}');
		p->last_line_made = true;
	} else {
		return false;
	}
	buf_add_char(&p->line, '\n');
	return true;
}

static ssize_t fill(void *data, char *out, size_t max)
{
	struct post *p = container_of((struct route_data *)data, struct post, data);
	size_t n = 0;

	while (n < max) {
		size_t part = MIN(p->line.n - p->line_sent, max - n);

		if (part > 0)
			memcpy(out + n, p->line.p + p->line_sent, part);
		p->line_sent += part;
		n += part;
		if (p->line_sent == p->line.n && !next_line(p))
			break;
		if (p->line.failed)
			return -2;
	}
	if (n > 0)
		return (ssize_t)n;
	return p->last_line_made ? -1 : 0;
}

static const struct dispatch_listener whole = {.on_done = on_done};
static const struct dispatch_listener streamed = {.on_settled = on_settled, .on_done = on_done};

/* ---- the request ---- */

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

static struct wire_rules rules(const struct config *config)
{
	return (struct wire_rules){
		.max_items = config->limits.items,
		.max_payload = config->limits.payload_bytes,
		.max_depth = config->limits.json_depth,
		.default_deadline_ms = config->limits.deadline_ms,
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
	else if (http_header(req, "Idempotency-Key") != NULL)
		answer_problem(r, req, PROBLEM_MALFORMED_REQUEST,
			       "Idempotency-Key needs a durable store, which this version has not: "
			       "send the batch without it");
	else
		return false;
	return true;
}

/* Read the body; NULL: the request was answered. */
static struct batch *read_batch(struct routes *r, struct http_request *req)
{
	struct wire_rules wr = rules(r->env.config);
	struct http_header h[] = {{"Content-Type", "application/problem+json"}};
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
	meter_add(r->env.meter, METRIC_REFUSED, kind, 0, 1);
	http_respond(req, problem_status(kind), h, 1, blob_from_buf(&problem));
	return NULL;
}

static void answer_valid(struct http_request *req, const struct batch *b)
{
	struct buf text = {0};

	buf_printf(&text, "{\"valid\":true,\"items\":%u}", b->counts.total);
	answer_text(req, 200, "application/json", blob_from_buf(&text));
}

static void set_trace(struct routes *r, struct http_request *req, struct batch *b)
{
	uint64_t id[2] = {rng_u64(&r->rng), rng_u64(&r->rng) | 1};
	struct slice state = negotiate_tracestate(http_header(req, "tracestate"));

	if (negotiate_traceparent(http_header(req, "traceparent"), b->trace.id, &b->trace.flags)) {
		if (state.n > 0)
			b->trace.state = arena_copy(&b->arena, state);
		return;
	}
	memcpy(b->trace.id, id, sizeof id);
	b->trace.flags = TRACE_SAMPLED;
}

static void submit(struct routes *r, struct http_request *req, struct batch *b, bool stream)
{
	struct post *p = xcalloc(1, sizeof *p);
	struct batch_headers h;
	int err;

	*p = (struct post){.data.on_end = on_end, .routes = r, .req = req, .live = true,
			   .continue_alone = b->policy.continue_on_disconnect};
	set_trace(r, req, b);
	err = dispatch_submit(r->env.dispatch, b, stream ? &streamed : &whole, p);
	if (err < 0) {
		free(p);
		batch_unref(b);
		answer_problem(r, req, err == -EBUSY ? PROBLEM_OVERLOADED : PROBLEM_SHUTTING_DOWN,
			       "too many unfinished items; nothing was sent");
		return;
	}
	p->id = b->id;
	meter_add(r->env.meter, METRIC_PARKED, 0, 0, 1);
	http_set_data(req, &p->data);
	if (stream) {
		p->batch = batch_ref(b);
		batch_headers(&h, b->id, NULL, "application/x-ndjson");
		http_stream(req, 200, h.headers, h.n, fill);
	}
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	enum media accept = negotiate_accept(http_header(req, "Accept"));
	struct batch *b;

	(void)id;
	if (refuse_headers(r, req, accept))
		return;
	b = read_batch(r, req);
	if (b == NULL)
		return;
	if (b->policy.validate_only) {
		answer_valid(req, b);
		batch_unref(b);
		return;
	}
	submit(r, req, b, accept == MEDIA_NDJSON);
}

const struct route route_post_batch = {"/v1/batches", HTTP_POST, run};
