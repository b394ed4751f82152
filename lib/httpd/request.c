/*
 * A request's life.
 *
 *   NONE ── request_on_line ──► HEAD ── on_head_complete ──► BODY ──► HANDLER
 *                                │ │                          │         │
 *                     (no body)  │ └─► ANSWERED ◄──────────── │ ────────┤
 *                                └──► HANDLER      REFUSED ◄──┘         │
 *                        on_body's limit, or memory ──┘                 │
 *   HANDLER ── on_request answers ──► ANSWERED or STREAM                │
 *   HANDLER ── hand_over ──► PARKED ── http_respond ──► ANSWERED        │
 *                             │ └───── http_stream ───► STREAM          │
 *                             └─ http_drop ────► GONE ◄─ STREAM         │
 *   any ── request_on_completed ──► NONE
 *
 * Invariants
 *  1. request_set_state() alone changes the state, and counts what httpd_usage
 *     reports.
 *  2. `seen` is set before the handler first learns of the request, and cleared
 *     by the one on_end() that this owes.
 *  3. A suspended request is PARKED or STREAM. Whoever leaves these states
 *     resumes it, and the kick then runs libmicrohttpd: nothing else would.
 *  4. request_on_access() leaves a complete request either with a queued answer,
 *     or suspended, or refused: libmicrohttpd would spin on anything else.
 */
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "httpd/httpd-i.h"

/* A refused body that is no longer is awaited: to close costs both sides more. */
enum { AWAITED_MAX = 64 * 1024 };

#define TO(state) (1u << REQ_##state)

static const unsigned legal[REQ_STATE_MAX] = {
	[REQ_NONE] = TO(HEAD),
	[REQ_HEAD] = TO(BODY) | TO(HANDLER) | TO(ANSWERED) | TO(NONE),
	[REQ_BODY] = TO(HANDLER) | TO(REFUSED) | TO(ANSWERED) | TO(NONE),
	[REQ_REFUSED] = TO(NONE),
	[REQ_HANDLER] = TO(PARKED) | TO(ANSWERED) | TO(STREAM) | TO(NONE),
	[REQ_PARKED] = TO(ANSWERED) | TO(STREAM) | TO(GONE),
	[REQ_ANSWERED] = TO(NONE),
	[REQ_STREAM] = TO(GONE) | TO(NONE),
	[REQ_GONE] = TO(NONE),
};

void request_set_state(struct http_request *r, enum req_state to)
{
	struct httpd_usage *usage = &request_conn(r)->h->usage;

	REQUIRE((legal[r->state] & 1u << to) != 0);
	usage->parked += (unsigned)(to == REQ_PARKED) - (unsigned)(r->state == REQ_PARKED);
	usage->streams += (unsigned)(to == REQ_STREAM) - (unsigned)(r->state == REQ_STREAM);
	r->state = to;
}

static void request_end(struct http_request *r, bool gone)
{
	const struct httpd_handler *handler = &request_conn(r)->h->handler;

	if (!r->seen)
		return;
	r->seen = false;
	handler->on_end(handler->arg, r, STEAL_PTR(r->data), gone);
}

/* The client has left while parked or streaming, or might as well have. */
void http_drop(struct http_request *r)
{
	watch_stop(r);
	request_set_state(r, REQ_GONE);
	if (r->suspended)
		request_resume(r);
	else
		shutdown(request_conn(r)->fd, SHUT_RDWR);
	request_end(r, true);
}

void request_suspend(struct http_request *r)
{
	r->suspended = true;
	MHD_suspend_connection(request_conn(r)->mc);
}

void request_resume(struct http_request *r)
{
	struct conn *c = request_conn(r);

	r->suspended = false;
	MHD_resume_connection(c->mc);
	httpd_kick(c->h);
}

/* The request line is parsed, the target not yet decoded. */
void *request_on_line(void *cls, const char *uri, struct MHD_Connection *mc)
{
	struct conn *c = conn_of(mc);

	(void)cls;
	request_set_state(&c->req, REQ_HEAD);
	if (!c->first)
		deadline_set(c, WAIT_HEAD);
	c->h->moved = true;
	c->h->n_first -= c->first;
	c->first = false;
	c->req.target_n = strlen(uri);
	c->req.begun_us = loop_now_us(c->h->loop);
	return &c->req;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* In place. libmicrohttpd's own would cut the text at a %00 and keep a broken
 * escape as it stands; both are refused once the headers are there. */
size_t request_unescape(void *cls, struct MHD_Connection *mc, char *s)
{
	char *in = s, *out = s;

	(void)cls;
	while (*in != '\0') {
		int hi = *in == '%' ? hex(in[1]) : -1, lo = hi < 0 ? -1 : hex(in[2]);

		if (*in != '%') {
			*out++ = *in++;
			continue;
		}
		if (lo < 0 || hi * 16 + lo == 0) {
			conn_of(mc)->req.bad_escape = true;
			break;
		}
		*out++ = (char)(hi * 16 + lo);
		in += 3;
	}
	*out = '\0';
	return (size_t)(out - s);
}

static enum http_method parse_method(const char *s)
{
	static const struct {
		const char *name;
		enum http_method method;
	} known[] = {{"GET", HTTP_GET}, {"HEAD", HTTP_HEAD}, {"POST", HTTP_POST}, {"DELETE", HTTP_DELETE}};

	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strcmp(s, known[i].name) == 0)
			return known[i].method;
	}
	return HTTP_OTHER;
}

/* The absolute form of a target (RFC 9112 section 3.2.2) names its host, too. */
static const char *path_of(const char *target)
{
	size_t scheme = strncasecmp(target, "http://", 7) == 0 ? 7 : strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
	const char *slash;

	if (scheme == 0)
		return target;
	slash = strchr(target + scheme, '/');
	return slash == NULL ? "/" : slash;
}

/* Whoever waits for "100 Continue" has sent nothing yet. Everybody else sends
 * while we refuse: to close on unread bytes would reset the connection, and what
 * the refusal says would be lost on its way. */
static void refuse_body(struct http_request *r, enum problem p, const char *detail)
{
	if (http_header(r, "Expect") != NULL) {
		respond_problem(r, p, detail);
		return;
	}
	request_set_state(r, REQ_BODY);
	deadline_set(request_conn(r), WAIT_BODY);
	respond_within_body(r, p, detail);
}

void http_refuse(struct http_request *r, enum problem p, const char *detail, unsigned retry_after_s)
{
	r->refusal.given = true;
	r->refusal.problem = p;
	r->refusal.detail = detail;
	r->refusal.retry_after_s = retry_after_s;
}

static void refuse_unread(struct http_request *r, const struct framing *f)
{
	if (!f->has_length || f->length > AWAITED_MAX || http_header(r, "Expect") != NULL) {
		refuse_body(r, r->refusal.problem, r->refusal.detail);
		return;
	}
	request_set_state(r, REQ_BODY);
	deadline_set(request_conn(r), WAIT_BODY);
}

/* Count n more bytes of a body on its way. False: too many of them already. */
static bool hold(struct http_request *r, size_t n)
{
	struct httpd *h = request_conn(r)->h;

	if (n > h->cfg.body_bytes - MIN(h->cfg.body_bytes, h->held_bytes))
		return false;
	h->held_bytes += n;
	r->held += n;
	return true;
}

void request_release(struct http_request *r)
{
	request_conn(r)->h->held_bytes -= r->held;
	r->held = 0;
}

static const char *too_large(const struct http_request *r)
{
	return r->welcome == 0 ? "no body is wanted here"
			       : "more than is taken here: /v1/limits has the `body_bytes` of a batch; send several";
}

/* A body is announced: ask how much of it is welcome, and make room. */
static void expect_body(struct http_request *r, const struct framing *f)
{
	struct conn *c = request_conn(r);
	const struct httpd_handler *handler = &c->h->handler;

	r->seen = true;
	r->welcome = handler->on_head(handler->arg, r, f->length);
	if (r->state == REQ_ANSWERED || r->state == REQ_REFUSED)
		return;
	if (r->refusal.given) {
		refuse_unread(r, f);
		return;
	}
	if (r->welcome == 0 || f->length > r->welcome) {
		refuse_body(r, PROBLEM_BODY_TOO_LARGE, too_large(r));
		return;
	}
	if (f->has_length && (!hold(r, f->length) || !buf_reserve(&r->body, f->length))) {
		respond_problem(r, PROBLEM_OVERLOADED, NULL);
		return;
	}
	request_set_state(r, REQ_BODY);
	deadline_set(c, WAIT_BODY);
}

static bool may_lack_body(struct http_request *r)
{
	const struct httpd_handler *handler = &request_conn(r)->h->handler;

	return handler->may_lack_body != NULL && handler->may_lack_body(handler->arg, r);
}

/* An answer queued here closes the connection, which is what a refusal wants;
 * all others wait for the request's end. */
static enum MHD_Result on_head_complete(struct http_request *r, const char *url, const char *method,
					const char *version)
{
	struct conn *c = request_conn(r);
	const struct request_line line = {method, version, r->target_n};
	struct framing f = framing_check(c->mc, &line);

	deadline_clear(c);
	r->method = parse_method(method);
	r->path = path_of(url);
	r->chunked = f.chunked;
	if (f.error != NULL && (f.problem != PROBLEM_LENGTH_REQUIRED || !may_lack_body(r)))
		respond_problem(r, f.problem, f.error);
	else if (r->bad_escape)
		respond_problem(r, PROBLEM_MALFORMED_REQUEST, "a broken percent escape in the target");
	else if (f.chunked || f.length > 0)
		expect_body(r, &f);
	return r->state == REQ_ANSWERED ? respond_queue(r) : MHD_YES;
}

static enum MHD_Result on_body(struct http_request *r, const char *p, size_t n)
{
	if (r->state == REQ_REFUSED) {
		r->discarded += n;
		return r->discarded <= r->discard_max ? MHD_YES : MHD_NO;
	}
	if (r->refusal.given)
		return MHD_YES;
	if (n > r->welcome - r->body.n) {
		respond_within_body(r, PROBLEM_BODY_TOO_LARGE, too_large(r));
		return MHD_YES;
	}
	if (r->chunked && !hold(r, n))
		r->body.failed = true;
	buf_add(&r->body, p, n);
	if (r->body.failed)
		respond_within_body(r, PROBLEM_OVERLOADED, NULL);
	return MHD_YES;
}

/* The request is complete: the handler answers now, or it is parked. */
static enum MHD_Result hand_over(struct http_request *r)
{
	const struct httpd_handler *handler = &request_conn(r)->h->handler;

	deadline_clear(request_conn(r));
	if (r->refusal.given)
		return respond_refusal(r);
	if (r->state == REQ_BODY) {
		r->blob = blob_from_buf(&r->body);
		request_release(r);
		if (r->blob == NULL) {
			respond_problem(r, PROBLEM_OVERLOADED, NULL);
			return respond_queue(r);
		}
	}
	request_set_state(r, REQ_HANDLER);
	r->seen = true;
	handler->on_request(handler->arg, r);
	if (r->state != REQ_HANDLER)
		return respond_queue(r);
	request_set_state(r, REQ_PARKED);
	request_suspend(r);
	watch_start(r);
	return MHD_YES;
}

enum MHD_Result request_on_access(void *cls, struct MHD_Connection *mc, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_n, void **con_cls)
{
	struct http_request *r = *con_cls;
	size_t n = *upload_n;

	(void)mc;
	((struct httpd *)cls)->moved = true;
	if (((struct httpd *)cls)->closing)
		return MHD_NO;
	*upload_n = 0;
	switch (r->state) {
	case REQ_HEAD:
		if (r->path == NULL)
			return on_head_complete(r, url, method, version);
		return hand_over(r);
	case REQ_BODY:
		return n > 0 ? on_body(r, upload, n) : hand_over(r);
	case REQ_REFUSED:
		return n > 0 ? on_body(r, upload, n) : MHD_NO;
	case REQ_ANSWERED:
	case REQ_STREAM:
		return respond_queue(r);
	case REQ_NONE:
	case REQ_HANDLER:
	case REQ_PARKED:
	case REQ_GONE:
	case REQ_STATE_MAX:
		return MHD_NO;
	}
	return MHD_NO;
}

static void tell_over(const struct http_request *r)
{
	struct httpd *h = request_conn(r)->h;

	if (h->handler.on_over != NULL)
		h->handler.on_over(h->handler.arg, r->label, r->status, loop_now_us(h->loop) - r->begun_us);
}

/* Once for each request line, whatever came of it; before the socket closes. */
void request_on_completed(void *cls, struct MHD_Connection *mc, void **con_cls,
			  enum MHD_RequestTerminationCode why)
{
	struct http_request *r = *con_cls;
	struct conn *c;

	(void)cls;
	(void)mc;
	if (r == NULL)
		return;
	c = request_conn(r);
	watch_stop(r);
	request_end(r, why != MHD_REQUEST_TERMINATED_COMPLETED_OK);
	tell_over(r);
	if (r->response != NULL)
		MHD_destroy_response(r->response);
	buf_free(&r->body);
	request_release(r);
	blob_unref(r->blob);
	request_set_state(r, REQ_NONE);
	*r = (struct http_request){.state = REQ_NONE};
	deadline_set(c, WAIT_IDLE);
	if (c->h->quiescing)
		deadline_soon(c);
}

enum http_method http_method(const struct http_request *r)
{
	return r->method;
}

const char *http_path(const struct http_request *r)
{
	return r->path;
}

const char *http_header(struct http_request *r, const char *name)
{
	return MHD_lookup_connection_value(request_conn(r)->mc, MHD_HEADER_KIND, name);
}

struct query_visit {
	bool (*each)(void *arg, struct slice name, struct slice value);
	void *arg;
	bool stopped;
};

static enum MHD_Result on_parameter(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_n,
				    const char *value, size_t value_n)
{
	struct query_visit *v = cls;

	(void)kind;
	v->stopped = !v->each(v->arg, (struct slice){name, name_n}, (struct slice){value, value == NULL ? 0 : value_n});
	return v->stopped ? MHD_NO : MHD_YES;
}

bool http_each_query(struct http_request *r, bool (*each)(void *arg, struct slice name, struct slice value), void *arg)
{
	struct query_visit v = {.each = each, .arg = arg};

	MHD_get_connection_values_n(request_conn(r)->mc, MHD_GET_ARGUMENT_KIND, on_parameter, &v);
	return !v.stopped;
}

struct header_visit {
	const char *name, **ret;
	size_t n, max;
};

static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct header_visit *v = cls;

	(void)kind;
	if (strcasecmp(name, v->name) != 0)
		return MHD_YES;
	if (v->n < v->max)
		v->ret[v->n] = value == NULL ? "" : value;
	v->n++;
	return MHD_YES;
}

size_t http_headers(struct http_request *r, const char *name, const char **ret, size_t max)
{
	struct header_visit v = {.name = name, .ret = ret, .max = max};

	MHD_get_connection_values(request_conn(r)->mc, MHD_HEADER_KIND, on_header, &v);
	return v.n;
}

struct blob *http_take_body(struct http_request *r)
{
	return STEAL_PTR(r->blob);
}

void http_set_label(struct http_request *r, unsigned label)
{
	r->label = label;
}

void http_set_data(struct http_request *r, void *data)
{
	r->data = data;
}

void *http_data(const struct http_request *r)
{
	return r->data;
}

void http_set_tag(struct http_request *r, uint64_t tag)
{
	r->tag = tag;
}

uint64_t http_tag(const struct http_request *r)
{
	return r->tag;
}

