/*
 * Inbound HTTP/1.1: whole requests in, answers or streams out, and the news
 * that a client has gone, within about a millisecond. The only user of
 * libmicrohttpd.
 *
 * Owner: one struct httpd per shard, on the shard's loop and in its thread.
 *
 * A request, from the handler's side:
 *
 *   on_request ──► http_respond() ──────────────► on_end(gone = false)
 *       │                                           or (gone = true)
 *       ├──► returns without an answer: the request is parked, its socket
 *       │    watched; http_respond() or http_stream() may follow later
 *       └──► client leaves while parked or streaming: on_end(gone = true)
 *
 * Invariants
 *  1. on_end runs exactly once for each request that on_head or on_request has
 *     seen, never inside a call of the handler's into httpd but http_drop(); the
 *     request is invalid after it.
 *  2. A parked request's client is watched for FIN and RST, also behind
 *     pipelined bytes, which are drained and cost the connection its keep-alive.
 *  3. Requests that could be smuggled are refused before a handler sees them
 *     (RFC 9112 sections 5.1, 6.1, 6.3, 11.2).
 *  4. Headers, bodies and stalled readers have absolute time limits.
 */
#pragma once

#include <sys/types.h>

#include "base/buf.h"
#include "loop/loop.h"
#include "wire/wire.h"

struct httpd;
struct http_request;

struct http_header {
	const char *name, *value;
};

enum { HTTP_MORE = 2 };

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_DELETE, HTTP_OTHER };

struct httpd_handler {
	void *arg;
	/* Headers are complete, and a body is to come, of so many bytes as far as they
	 * say: how many bytes of it are welcome? 0: none; http_respond() may be called
	 * instead, and the connection then closes, once a part of the body was read and
	 * thrown away so that the answer arrives; or http_refuse(). Not called for
	 * requests without a body. */
	size_t (*on_head)(void *arg, struct http_request *r, size_t body_bytes);
	/* A POST that says nothing of a body: is it one without? Otherwise, or if this
	 * is NULL, it is refused with 411. */
	bool (*may_lack_body)(void *arg, struct http_request *r);
	/* The request is complete. */
	void (*on_request)(void *arg, struct http_request *r);
	/* A request that on_request has seen is answered: up to HTTP_MORE headers for whatever
	 * answer it is, valid until the next call; how many. May be NULL. */
	size_t (*more_headers)(void *arg, struct http_request *r, struct http_header *ret);
	/* httpd refuses a request by itself. May be NULL. */
	void (*on_refused)(void *arg, enum problem p);
	/* A request is over, whether the handler has seen it or not, and what it took
	 * from its first line. `label` is what http_set_label() left, 0 if nothing did;
	 * `status` is 0 if its client left before there was an answer. May be NULL. */
	void (*on_over)(void *arg, unsigned label, int status, int64_t took_us);
	/* It is over. `data` is what http_set_data() left; NULL if nothing did. */
	void (*on_end)(void *arg, struct http_request *r, void *data, bool gone);
};

/* What a TLS listener shows: a certificate with its chain, and its key. Immutable;
 * shared by the shards, with an atomic count of references. */
struct httpd_tls;

/* Read both files, PEM. NULL: *reterr says which one, what is wrong with it, and what
 * to do; never what is in it. */
struct httpd_tls *httpd_tls_new(const char *cert_file, const char *key_file, struct buf *reterr) MUST_CHECK;
struct httpd_tls *httpd_tls_ref(struct httpd_tls *t);
void httpd_tls_unref(struct httpd_tls *t);       /* NULL is fine */
bool httpd_tls_same(const struct httpd_tls *a, const struct httpd_tls *b);       /* the same certificate? */

struct httpd_config {
	unsigned connections;            /* at once, of this shard */
	size_t body_bytes;               /* of bodies on their way, of all connections; then 503 */
	int64_t header_ms, body_ms;      /* first byte to the last, absolute */
	int64_t idle_ms;                 /* between requests */
	int64_t write_ms;                /* a reader that takes nothing */
	struct httpd_tls *tls;           /* it speaks TLS alone; NULL: plain text alone. A reference is taken */
};

/* `take_listen_fd`: a bound, listening, non-blocking socket. NULL: errno. */
struct httpd *httpd_new(struct loop *l, int take_listen_fd, const struct httpd_config *cfg,
			const struct httpd_handler *handler) MUST_CHECK;

/* Other limits from now on; `connections`, and whether it speaks TLS, stay as they are.
 * A wait that has begun ends as it would have; a new certificate is for connections
 * that begin. In the shard's thread. */
void httpd_reload(struct httpd *h, const struct httpd_config *cfg);

/* What goes on with a request that the handler has seen and not answered in whole. */
enum http_stage {
	HTTP_COMING,                     /* its body */
	HTTP_PARKED,                     /* it waits for its answer, which may be given */
	HTTP_STREAMING,
};

/* Each of these. From the loop alone. */
void httpd_each(struct httpd *h, void (*each)(void *arg, struct http_request *r, enum http_stage stage), void *arg);

/* From now on every answer closes its connection; new ones are still accepted. */
void httpd_last_answers(struct httpd *h);

/* Stop accepting too, and close what is idle. */
void httpd_quiesce(struct httpd *h);
void httpd_free(struct httpd *h);                /* ends what is open: on_end, gone */

struct httpd_usage {
	unsigned connections, parked, streams;
};
struct httpd_usage httpd_usage(const struct httpd *h);

/* A bound and listening TCP socket with keep-alive probes. Host is a numeric
 * address. `shared`: with SO_REUSEPORT, for one socket per shard; without it a
 * port that anybody listens on is -EADDRINUSE. Returns the fd or a negative errno. */
int httpd_listen(const char *host, unsigned port, bool shared);
unsigned httpd_port(int listen_fd);              /* the port the kernel gave */

/* The other side, for a health check: over TLS, on a connected socket with time limits,
 * send `request` and receive the first n bytes of the answer. The certificate is not
 * looked at, so say nothing that is secret. How many came, or -1. */
ssize_t httpd_ask_tls(int fd, struct slice request, char *ret, size_t n);

/* The request. All slices live as long as it does. */
enum http_method http_method(const struct http_request *r);
const char *http_path(const struct http_request *r);         /* without the query */
const char *http_header(struct http_request *r, const char *name); /* NULL: absent */

/* Each parameter of the query, decoded, in the order in which they stand: a plus
 * sign is a space, and `value` has p NULL where there is no "=". To the end, or
 * until `each` returns false; which is what this then returns. */
bool http_each_query(struct http_request *r, bool (*each)(void *arg, struct slice name, struct slice value), void *arg);

/* The lines of a header that may come in several, in their order: how many there
 * are; the first `max` of them are in `ret`. */
size_t http_headers(struct http_request *r, const char *name, const char **ret, size_t max);
struct blob *http_take_body(struct http_request *r);         /* one reference; NULL: no body */
void http_set_data(struct http_request *r, void *data);
void *http_data(const struct http_request *r);
void http_set_label(struct http_request *r, unsigned label); /* for on_over */

/* A number of the handler's own, from on_head or on_request on; 0 at first. */
void http_set_tag(struct http_request *r, uint64_t tag);
uint64_t http_tag(const struct http_request *r);

/* Answer. `headers` are copied; takes the reference on `body` (NULL: empty).
 * HEAD sends no body but its length. At most once per request. */
void http_respond(struct http_request *r, int status, const struct http_header *headers,
		  size_t n_headers, struct blob *take_body);

/* From on_head: refuse with a problem (`detail` is static) and Retry-After, and keep
 * nothing of the body. A short one is awaited first, so that the connection stays. */
void http_refuse(struct http_request *r, enum problem p, const char *detail, unsigned retry_after_s);

/* Answer with a stream of unknown length, whose end closes the connection. Not
 * from on_head. `fill` is asked for bytes whenever the client takes some: it
 * returns how many it wrote, 0 for "none now: call http_stream_wake()", -1 for the
 * end, or -2 to break off, so that the client sees an answer that is not whole. It
 * is never asked while the client is not reading, so nothing need be queued for it. */
void http_stream(struct http_request *r, int status, const struct http_header *headers,
		 size_t n_headers, ssize_t (*fill)(void *data, char *out, size_t max));
void http_stream_wake(struct http_request *r);

/* End one that is parked or a stream as if its client had left: on_end comes from within
 * this call, and the connection closes. From the loop alone. */
void http_drop(struct http_request *r);
