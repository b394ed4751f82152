/*
 * Answers and streams.
 *
 * Invariants
 *  1. A response is built by whoever answers and queued by respond_queue(), the
 *     one place that libmicrohttpd lets it be queued.
 *  2. A refusal closes its connection: the next byte may be anything.
 *  3. A stream's fill runs only while the client takes bytes; a fill that has
 *     none leaves the connection suspended.
 */
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#include "httpd/httpd-i.h"

enum { STREAM_BLOCK = 16 * 1024 };

/* Never reached: write_ms is the limit. */
#define END_TIMEOUT_S 86400u

/* How much of a refused body is read so that the refusal arrives: of one that was
 * begun, and of one that nobody wanted. */
enum { DISCARD_MAX = 16 * 1024 * 1024, DISCARD_AHEAD_MAX = 8 * 1024 * 1024 };

static void free_blob(void *blob)
{
	blob_unref(blob);
}

static struct MHD_Response *response_from_blob(struct blob *take_body)
{
	struct MHD_Response *resp;

	if (take_body == NULL)
		return MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	resp = MHD_create_response_from_buffer_with_free_callback_cls(take_body->n, take_body->p, free_blob,
								      take_body);
	if (resp == NULL)
		blob_unref(take_body);
	return resp;
}

static bool add_headers(struct MHD_Response *resp, const struct http_header *headers, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (MHD_add_response_header(resp, headers[i].name, headers[i].value) != MHD_YES)
			return false;
	}
	return true;
}

/* Those that the handler has for any answer. */
static bool add_more_headers(struct http_request *r, struct MHD_Response *resp)
{
	const struct httpd_handler *handler = &request_conn(r)->h->handler;
	struct http_header more[HTTP_MORE];

	if (handler->more_headers == NULL)
		return true;
	return add_headers(resp, more, handler->more_headers(handler->arg, r, more));
}

static bool add_close(struct MHD_Response *resp)
{
	return MHD_add_response_header(resp, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
}

/* The answer is ready: a parked request has to be woken to take it, any other
 * is still inside libmicrohttpd's call, which queues it. Without a response
 * (no memory) the connection closes. */
static void answered(struct http_request *r, struct MHD_Response *resp, int status, enum req_state next)
{
	r->response = resp;
	r->status = status;
	request_set_state(r, next);
	if (r->suspended)
		request_resume(r);
}

static struct blob *problem_document(enum problem p, const char *detail)
{
	struct buf b = {0};

	wire_problem(&b, p, detail);
	return blob_from_buf(&b);
}

static void tell_refused(struct http_request *r, enum problem p)
{
	const struct httpd_handler *handler = &request_conn(r)->h->handler;

	if (handler->on_refused != NULL)
		handler->on_refused(handler->arg, p);
}

/* The headers of a problem: "1" is when to come again unless the handler knew better. */
struct problem_headers {
	struct http_header v[2];
	size_t n;
	char seconds[12];
};

static void problem_headers(const struct http_request *r, enum problem p, struct problem_headers *ret)
{
	snprintf(ret->seconds, sizeof ret->seconds, "%u", MAX(r->refusal.retry_after_s, 1u));
	ret->v[0] = (struct http_header){"Content-Type", "application/problem+json"};
	ret->v[1] = (struct http_header){"Retry-After", ret->seconds};
	ret->n = problem_status(p) == 503 ? 2 : 1;
}

static struct MHD_Response *response_of_problem(const struct http_request *r, enum problem p, const char *detail)
{
	struct problem_headers h;
	struct blob *doc = problem_document(p, detail);
	struct MHD_Response *resp = doc == NULL ? NULL : response_from_blob(doc);

	problem_headers(r, p, &h);
	if (resp != NULL && !add_headers(resp, h.v, h.n))
		MHD_destroy_response(STEAL_PTR(resp));
	return resp;
}

/* What httpd refuses by itself. The connection closes: its next byte may be
 * anything. */
void respond_problem(struct http_request *r, enum problem p, const char *detail)
{
	struct MHD_Response *resp = response_of_problem(r, p, detail);

	tell_refused(r, p);
	if (resp != NULL && !add_close(resp))
		MHD_destroy_response(STEAL_PTR(resp));
	answered(r, resp, problem_status(p), REQ_ANSWERED);
}

/* Under overload there are thousands of these a second. */
static struct MHD_Response *refusal_response(struct http_request *r)
{
	struct httpd *h = request_conn(r)->h;

	if (h->refused != NULL && memcmp(&h->refusal, &r->refusal, sizeof h->refusal) == 0)
		return h->refused;
	if (h->refused != NULL)
		MHD_destroy_response(h->refused);
	h->refusal = r->refusal;
	h->refused = response_of_problem(r, r->refusal.problem, r->refusal.detail);
	return h->refused;
}

/* The body was whole: the next request may follow. */
enum MHD_Result respond_refusal(struct http_request *r)
{
	struct conn *c = request_conn(r);
	struct MHD_Response *resp;

	if (c->h->last_answers) {
		respond_problem(r, r->refusal.problem, r->refusal.detail);
		return respond_queue(r);
	}
	resp = refusal_response(r);
	tell_refused(r, r->refusal.problem);
	request_set_state(r, REQ_ANSWERED);
	if (resp == NULL || MHD_queue_response(c->mc, (unsigned)problem_status(r->refusal.problem), resp) != MHD_YES)
		return MHD_NO;
	deadline_set(c, WAIT_WRITE);
	return MHD_YES;
}

static void add_head(struct buf *out, int status, const struct http_header *headers, size_t n, size_t body_n)
{
	time_t now = time(NULL);
	struct tm tm;
	char date[40];

	strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
	buf_printf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\n", status,
		   MHD_get_reason_phrase_for((unsigned)status), date);
	for (size_t i = 0; i < n; i++)
		buf_printf(out, "%s: %s\r\n", headers[i].name, headers[i].value);
	buf_printf(out, "Content-Length: %zu\r\n\r\n", body_n);
}

static bool send_last(struct conn *c, struct slice s)
{
	return c->h->cfg.tls != NULL ? tls_send_last(c, s) : send(c->fd, s.p, s.n, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

/* libmicrohttpd takes no answer while a body arrives, so this one goes to the
 * socket directly; nothing else has been written for this request but perhaps
 * "100 Continue". It fits the socket's buffer; if not, the connection is lost
 * anyway. What is left of the body is then read and thrown away for a while, so
 * that closing does not reset the answer on its way. */
static void respond_directly(struct http_request *r, int status, const struct http_header *headers, size_t n_headers,
			     struct blob *take_body)
{
	struct buf out = {0};

	request_set_state(r, REQ_REFUSED);
	r->status = status;
	buf_free(&r->body);
	request_release(r);
	r->discarded = 0;
	if (take_body != NULL) {
		add_head(&out, status, headers, n_headers, take_body->n);
		if (r->method != HTTP_HEAD)
			buf_add(&out, take_body->p, take_body->n);
	}
	if (take_body == NULL || out.failed || !send_last(request_conn(r), buf_slice(&out)))
		shutdown(request_conn(r)->fd, SHUT_RDWR);
	else
		shutdown(request_conn(r)->fd, SHUT_WR);
	buf_free(&out);
	blob_unref(take_body);
}

void respond_within_body(struct http_request *r, enum problem p, const char *detail)
{
	struct problem_headers h;

	tell_refused(r, p);
	problem_headers(r, p, &h);
	r->discard_max = DISCARD_MAX;
	respond_directly(r, problem_status(p), h.v, h.n, problem_document(p, detail));
}

/* From on_head: before a byte of the body was read. Whoever waits for "100
 * Continue" sends none, and can have an answer as any other. */
static bool respond_ahead(struct http_request *r, int status, const struct http_header *headers, size_t n_headers,
			  struct blob *take_body)
{
	if (r->state != REQ_HEAD || http_header(r, "Expect") != NULL)
		return false;
	request_set_state(r, REQ_BODY);
	deadline_set(request_conn(r), WAIT_BODY);
	r->discard_max = DISCARD_AHEAD_MAX;
	respond_directly(r, status, headers, n_headers, take_body);
	return true;
}

/* Inside libmicrohttpd's call alone. */
enum MHD_Result respond_queue(struct http_request *r)
{
	struct conn *c = request_conn(r);
	struct MHD_Response *resp = STEAL_PTR(r->response);
	enum MHD_Result ok;

	if (resp == NULL)
		return MHD_NO;
	ok = MHD_queue_response(c->mc, (unsigned)r->status, resp);
	MHD_destroy_response(resp);
	if (ok == MHD_YES)
		deadline_set(c, WAIT_WRITE);
	return ok;
}

static bool may_answer(const struct http_request *r)
{
	return r->state == REQ_HEAD || r->state == REQ_HANDLER || r->state == REQ_PARKED;
}

void http_respond(struct http_request *r, int status, const struct http_header *headers,
		  size_t n_headers, struct blob *take_body)
{
	struct MHD_Response *resp;

	REQUIRE(may_answer(r));
	if (respond_ahead(r, status, headers, n_headers, take_body))
		return;
	watch_stop(r);
	resp = response_from_blob(take_body);
	/* An answer without its headers would say something else, and so would a 500: there
	 * may have been attempts. */
	if (resp != NULL && (!add_headers(resp, headers, n_headers) || !add_more_headers(r, resp)))
		MHD_destroy_response(STEAL_PTR(resp));
	if (resp != NULL && (r->drained || request_conn(r)->h->last_answers) && !add_close(resp))
		MHD_destroy_response(STEAL_PTR(resp));
	answered(r, resp, status, REQ_ANSWERED);
}

/* Where libmicrohttpd closes a connection right after this call, it comes back
 * for its descriptor only if the socket has more news, which it has not once it
 * was suspended, or if the connection has a timeout of its own. */
static ssize_t end_stream(struct http_request *r, ssize_t how)
{
	MHD_set_connection_option(request_conn(r)->mc, MHD_CONNECTION_OPTION_TIMEOUT, END_TIMEOUT_S);
	return how;
}

/* libmicrohttpd asks for more whenever it has written what it had. A zero that
 * left the connection running would spin. */
static ssize_t on_fill(void *cls, uint64_t pos, char *out, size_t max)
{
	struct http_request *r = cls;
	ssize_t n;

	(void)pos;
	if (r->state != REQ_STREAM || request_conn(r)->h->closing)
		return end_stream(r, MHD_CONTENT_READER_END_WITH_ERROR);
	request_conn(r)->h->moved = true;
	r->woken = false;
	n = r->fill(r->data, out, max);
	if (n > 0)
		return n;
	if (n < 0)
		return end_stream(r, n == -1 ? MHD_CONTENT_READER_END_OF_STREAM
					     : MHD_CONTENT_READER_END_WITH_ERROR);
	request_suspend(r);
	if (r->woken)
		request_resume(r);
	return 0;
}

/* A stream closes its connection: what its client pipelines is drained, and by
 * then the headers have left. */
void http_stream(struct http_request *r, int status, const struct http_header *headers,
		 size_t n_headers, ssize_t (*fill)(void *data, char *out, size_t max))
{
	struct MHD_Response *resp;

	REQUIRE(may_answer(r) && r->state != REQ_HEAD);
	r->fill = fill;
	resp = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, on_fill, r, NULL);
	/* To HEAD it would send the end of chunks that it did not begin. */
	if (resp != NULL && r->method == HTTP_HEAD)
		MHD_set_response_options(resp, MHD_RF_HTTP_VERSION_1_0_ONLY, MHD_RO_END);
	if (resp != NULL && (!add_headers(resp, headers, n_headers) || !add_more_headers(r, resp) || !add_close(resp)))
		MHD_destroy_response(STEAL_PTR(resp));
	watch_start(r);
	answered(r, resp, status, REQ_STREAM);
}

void http_stream_wake(struct http_request *r)
{
	r->woken = true;
	if (r->state == REQ_STREAM && r->suspended)
		request_resume(r);
}
