/*
 * A batch from its acceptance to its answer: in one document, as a stream of
 * lines, or with 202 before it is done.
 *
 *   submitted ──────not durable──────► running ──on_done──► answered ──► over
 *       │ on_accepted                     ▲
 *       ├── stored, synchronous ──────────┘
 *       ├── stored, a job ──► waits as long as was preferred ──► answered
 *       ├── its key is known ──► replay.c
 *       └── refused, unless recall.c knows its key
 *
 * Until it is answered its client may go: a synchronous batch is then cancelled
 * (on_disconnect: abort) or goes on alone, as a job always does.
 *
 * Invariants
 *  1. While `live`, the dispatcher has this post as its listener; the post is
 *     freed only when the request is over, and detaches first.
 *  2. A stream holds a reference on its batch: its lines are made from it when
 *     the client takes them, so nothing grows with a slow reader.
 *  3. Of a durable batch nothing is answered before on_accepted.
 */
#include <errno.h>
#include <stdlib.h>

#include "routes-i.h"

const struct retry_policy job_retry = {.max_attempts = 10, .base_ms = 1000, .cap_ms = 3600000};

struct post {
	struct route_data data;
	struct routes *routes;
	struct http_request *req;
	struct batch_id id;
	bool live;                       /* on_done is still to come */
	bool goes_on_alone, job, stream;
	struct prefer prefer;
	/* A job only. */
	struct wait wait;
	struct blob *accepted;           /* the document of its 202 */
	/* Streaming only. */
	struct batch *batch;             /* a reference; NULL: not begun */
	struct item *sent;               /* the last item put into a line */
	bool last_line_made;
	struct buf line;
	size_t line_sent;
};

static void post_free(struct post *p)
{
	meter_add(p->routes->env.meter, METRIC_PARKED, 0, 0, -1);
	wait_cancel(&p->wait);
	blob_unref(p->accepted);
	batch_unref(p->batch);
	buf_free(&p->line);
	free(p);
}

static void on_end(struct route_data *data, bool gone)
{
	struct post *p = container_of(data, struct post, data);
	struct dispatch *d = p->routes->env.dispatch;

	if (p->live) {
		dispatch_detach(d, p->id);
		if (gone && !p->goes_on_alone)
			dispatch_cancel(d, p->id, WHY_DISCONNECTED);
	}
	post_free(p);
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

/* What was accepted is never refused any more: without memory the answer has no
 * body, and the headers say what counts. */
void answer_accepted(struct http_request *req, struct batch_id id, struct blob *take_document, struct prefer applied,
		     bool replayed)
{
	struct batch_headers h;

	batch_headers(&h, id, NULL, "application/json");
	add_retry_after(&h);
	add_applied(&h, applied);
	if (replayed)
		add_header(&h, "Idempotent-Replayed", "true");
	http_respond(req, 202, h.headers, h.n, take_document);
}

/* A job whose caller waits (on_disconnect: continue), of a process that ends: the
 * next one goes on with it. */
static void answer_unfinished(struct post *p, const struct batch *b)
{
	struct buf text = {0};

	wire_batch(&text, b, false);
	answer_accepted(p->req, b->id, blob_from_buf(&text), p->prefer, false);
}

static void on_done(void *arg, struct batch *b, struct blob *document)
{
	struct post *p = arg;

	p->live = false;
	if (p->stream)
		http_stream_wake(p->req);
	else if (b->state == BATCH_DONE)
		answer_batch(p, b, document);
	else
		answer_unfinished(p, b);
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
	struct item *it = NULL;

	if (p->sent != b->told_last)
		it = p->sent == NULL ? b->settled_first : p->sent->next_settled;
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

static void start_stream(struct post *p, struct batch *b)
{
	struct batch_headers h;

	p->batch = batch_ref(b);
	batch_headers(&h, b->id, NULL, "application/x-ndjson");
	http_stream(p->req, 200, h.headers, h.n, fill);
}

/* ---- jobs ---- */

static void on_ready(struct wait *w, const struct shown *s)
{
	struct post *p = container_of(w, struct post, wait);
	struct batch_headers h;

	if (s->answer != STORE_OK || s->outcome == NULL || s->whole == NULL) {
		answer_accepted(p->req, p->id, STEAL_PTR(p->accepted), p->prefer, false);
		return;
	}
	batch_headers(&h, p->id, s->outcome, "application/json");
	add_applied(&h, p->prefer);
	http_respond(p->req, batch_status(s->outcome), h.headers, h.n, blob_ref(s->whole));
}

static void job_accepted(struct post *p, const struct batch *b)
{
	struct buf text = {0};

	dispatch_detach(p->routes->env.dispatch, p->id);
	p->live = false;
	wire_batch(&text, b, false);
	p->accepted = blob_from_buf(&text);
	if (p->prefer.wait_s > 0 && wait_start(&p->wait, p->id, p->prefer.wait_s))
		return;
	/* There was no place to wait. */
	if (p->prefer.wait_s > 0)
		p->prefer.wait_s = -1;
	answer_accepted(p->req, p->id, STEAL_PTR(p->accepted), p->prefer, false);
}

/* ---- acceptance ---- */

/* The request goes on without this post. */
static struct replay_request hand_over(struct post *p, struct batch_id existing)
{
	const struct replay_request rest = {.routes = p->routes, .req = p->req, .id = existing, .prefer = p->prefer,
					    .stream = p->stream};

	post_free(p);
	http_set_data(rest.req, NULL);
	return rest;
}

static void key_exists(struct post *p, const struct store_accept *said)
{
	const struct replay_request replay = hand_over(p, said->existing);

	if (said->same_body)
		replay_batch(&replay);
	else
		answer_batch_problem(replay.routes, replay.req, PROBLEM_KEY_REUSED, replay.id,
				     "this key came with another body before: take a new key for a new request");
}

/* Its key may be known all the same: the store had no look at it. */
static void not_stored(struct post *p, const struct batch *b, const struct store_accept *said)
{
	struct replay_request known = hand_over(p, (struct batch_id){0});

	if (said->excess > 0)
		known.retry_after_s = dispatch_retry_after(known.routes->env.dispatch, (double)said->excess, said->per_second);
	refuse_unknown(&known, b->key, PROBLEM_OVERLOADED,
		       problem_document(PROBLEM_OVERLOADED, store_trouble(said->op.answer)));
}

static void on_accepted(void *arg, struct batch *b, const struct store_accept *said)
{
	struct post *p = arg;

	switch (said->op.answer) {
	case STORE_OK:
		if (p->job)
			job_accepted(p, b);
		else if (p->stream)
			start_stream(p, b);
		return;
	case STORE_KEY_EXISTS:
		key_exists(p, said);
		return;
	case STORE_BUSY:
	case STORE_UNAVAILABLE:
	case STORE_NOT_FOUND:
	case STORE_NOT_DONE:
		not_stored(p, b, said);
		return;
	}
}

static const struct dispatch_listener whole = {.on_accepted = on_accepted, .on_done = on_done};
static const struct dispatch_listener streamed = {.on_accepted = on_accepted, .on_settled = on_settled, .on_done = on_done};

/* The caller decides whether its trace is recorded; for one that begins here the
 * configuration does. Without an endpoint nothing is recorded here, but who comes
 * after may want to. */
static void set_trace(struct routes *r, struct http_request *req, struct batch *b)
{
	uint64_t id[2] = {rng_u64(&r->rng), rng_u64(&r->rng) | 1};
	CLEANUP(buf_free) struct buf joined = {0};
	struct slice state = negotiate_tracestate(join_lines(req, "tracestate", &joined));
	const char *parent;

	/* Of two nobody knows which is meant. */
	if (http_headers(req, "traceparent", &parent, 1) == 1 && negotiate_traceparent(parent, &b->trace)) {
		if (state.n > 0)
			b->trace.state = arena_copy(&b->arena, state);
		return;
	}
	b->trace = (struct trace){0};
	memcpy(b->trace.id, id, sizeof id);
	if (r->env.config->tracing.endpoint == NULL || span_sampled(b->trace.id, r->env.config->tracing.ratio))
		b->trace.flags = TRACE_SAMPLED;
}

/* Unless its key is known. */
static struct replay_request known_of(const struct submission *s)
{
	return (struct replay_request){.routes = s->routes, .req = s->req, .prefer = s->prefer, .stream = s->stream && !s->job};
}

/* What an error of dispatch_submit() is for its answer. */
static void refuse(const struct submission *s, int err)
{
	const struct dispatch *d = s->routes->env.dispatch;
	const struct dispatch_refusal full = dispatch_last_refusal(d);
	unsigned wait_s = err == -EBUSY ? full.retry_after_s : err == -EDQUOT ? dispatch_quota_wait_s(d) : 0;
	enum problem kind = err == -EBUSY ? PROBLEM_OVERLOADED : err == -EDQUOT ? PROBLEM_QUOTA_EXCEEDED : PROBLEM_SHUTTING_DOWN;
	const char *why = err == -EBUSY ? full.detail : err == -ESHUTDOWN ? NO_NEW_BATCHES :
			  wait_s > 0 ? "faster than your quota; nothing was sent" :
				       "more unfinished items than your quota; nothing was sent";
	struct replay_request known = known_of(s);

	known.retry_after_s = wait_s;
	refuse_unknown(&known, s->take->key, kind, problem_document(kind, why));
}

bool submit_never_fits(const struct submission *s, const char *pointer)
{
	const struct replay_request known = known_of(s);
	uint64_t n = s->take->counts.pending;
	uint64_t most = dispatch_most(s->routes->env.dispatch, s->take, auth_tenant(s->req));
	bool too_large = dispatch_too_large(s->routes->env.dispatch, s->take);
	struct buf text = {0};

	if (!too_large && most >= n)
		return false;
	if (too_large)
		wire_problem(&text, PROBLEM_BODY_TOO_LARGE, "the batch takes more memory than there is: send several batches");
	else
		wire_never_fits(&text, pointer, n, most);
	refuse_unknown(&known, s->take->key, too_large ? PROBLEM_BODY_TOO_LARGE : PROBLEM_VALIDATION_FAILED, blob_from_buf(&text));
	batch_unref(s->take);
	return true;
}

void submit_batch(const struct submission *s)
{
	struct routes *r = s->routes;
	struct post *p = xcalloc(1, sizeof *p);
	struct batch *b = s->take;
	int err;

	*p = (struct post){.data.on_end = on_end, .routes = r, .req = s->req, .live = true, .job = s->job,
			   .stream = s->stream && !s->job, .prefer = s->prefer, .goes_on_alone = b->asynchronous};
	wait_init(&p->wait, r, s->req, on_ready);
	set_trace(r, s->req, b);
	b->tenant = auth_tenant_name(r, s->req);
	b->caller = arena_copy(&b->arena, auth_key_name(r, s->req));
	err = dispatch_submit(r->env.dispatch, b, p->stream ? &streamed : &whole, p);
	if (err < 0) {
		free(p);
		refuse(s, err);
		batch_unref(b);
		return;
	}
	p->id = b->id;
	meter_add(r->env.meter, METRIC_PARKED, 0, 0, 1);
	http_set_data(s->req, &p->data);
	if (p->stream && !b->durable)
		start_stream(p, b);
}
