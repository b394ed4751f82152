/*
 * What the files of httpd share. One struct conn per accepted connection, made
 * and freed by libmicrohttpd's connection notices; it embeds the one request
 * that HTTP/1.1 lets it have at a time.
 *
 *   httpd.c     the daemon, its place in the loop, connections, stop
 *   deadline.c  one heap of absolute deadlines for all connections
 *   request.c   a request from its request line to its end; its states
 *   framing.c   which requests are refused before a handler sees them
 *   respond.c   answers and streams
 *   tls.c       certificates, and what TLS needs done differently
 *   watch.c     the client's end while nobody reads from it
 *   listen.c    listening sockets
 */
#pragma once

#include <microhttpd.h>

#include "base/heap.h"
#include "base/list.h"
#include "httpd/httpd.h"

enum req_state {
	REQ_NONE,                        /* no request line yet */
	REQ_HEAD,                        /* request line parsed, headers coming */
	REQ_BODY,                        /* accepted, body coming */
	REQ_REFUSED,                     /* answered within its body; the rest is thrown away */
	REQ_HANDLER,                     /* on_request is running */
	REQ_PARKED,                      /* suspended, waiting for the answer */
	REQ_ANSWERED,                    /* the answer is ready or being written */
	REQ_STREAM,                      /* so is a stream */
	REQ_GONE,                        /* on_end has said so; the connection is to close */
	REQ_STATE_MAX
};

/* What http_refuse() was told. */
struct refusal {
	bool given;
	enum problem problem;
	const char *detail;
	unsigned retry_after_s;
};

struct http_request {
	enum req_state state;
	bool seen;                       /* the handler knows it: on_end is owed */
	bool suspended;
	bool drained;                    /* pipelined bytes were thrown away */
	bool woken;                      /* http_stream_wake() during a fill */
	bool bad_escape;
	bool chunked;
	enum http_method method;
	const char *path;
	size_t target_n;                 /* as received */
	size_t welcome;                  /* body bytes the handler takes */
	size_t discarded;
	size_t discard_max;              /* REFUSED: how much of the body is read */
	uint64_t tag;                    /* the handler's */
	struct refusal refusal;
	size_t held;                     /* counted in httpd.held_bytes */
	struct buf body;
	struct blob *blob;
	void *data;
	struct MHD_Response *response;   /* built, not yet queued */
	int status;                      /* 0: no answer yet */
	unsigned label;
	int64_t begun_us;                /* its first line was there */
	ssize_t (*fill)(void *data, char *out, size_t max);
	struct loop_fd *watch;
};

enum conn_wait { WAIT_HEAD, WAIT_IDLE, WAIT_BODY, WAIT_WRITE };

struct conn {
	struct list node;                /* httpd.conns */
	struct httpd *h;
	struct MHD_Connection *mc;
	int fd;
	struct heap_node due;            /* the next look; never later than `until` */
	int64_t until;
	enum conn_wait wait;
	int64_t since;                   /* when this wait began */
	uint64_t acked;                  /* bytes the peer had taken when last looked */
	bool first;                      /* its first request; header_ms runs from accept */
	struct httpd_tls *tls;           /* what it was shown: its handshake may need it again; NULL */
	struct http_request req;
};

struct httpd {
	struct loop *loop;
	struct httpd_config cfg;
	struct httpd_handler handler;
	struct MHD_Daemon *daemon;
	struct loop_fd *epoll;
	struct loop_timer *again;        /* libmicrohttpd wants to be run again */
	bool again_armed;
	bool moved;                      /* this run called back */
	unsigned n_first;                /* connections before their first request line */
	unsigned vain;                   /* runs that it asked for, and that moved nothing */
	struct loop_call kick;           /* after a resume */
	struct loop_timer *due_timer;
	struct loop_timer *full;         /* looks for whom to send away while there is no room */
	struct heap due;                 /* struct conn.due */
	struct list conns;
	struct httpd_usage usage;
	size_t held_bytes;               /* of bodies on their way */
	struct refusal refusal;          /* the last one that was told after its body ... */
	struct MHD_Response *refused;    /* ... and its answer, as the next is mostly the same; or NULL */
	bool last_answers;               /* each closes its connection */
	bool quiescing, closing;
	int listen_fd;                   /* -1 once closed */
};

static inline struct conn *request_conn(const struct http_request *r)
{
	return container_of(r, struct conn, req);
}

static inline struct conn *conn_of(struct MHD_Connection *mc)
{
	return MHD_get_connection_info(mc, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* httpd.c */
void httpd_kick(struct httpd *h);

/* httpd.c: has somebody connected whom libmicrohttpd has not taken yet? */
bool httpd_backlog(const struct httpd *h);

/* deadline.c: a connection waits for one thing at a time, or for none. */
void deadline_set(struct conn *c, enum conn_wait wait);
void deadline_soon(struct conn *c);              /* it is idle and we are stopping */
void deadline_clear(struct conn *c);
void deadline_due(void *h);                      /* the heap's timer */
void deadline_full(void *h);                     /* the timer `full` */

/* request.c */
void request_set_state(struct http_request *r, enum req_state to);
void request_suspend(struct http_request *r);
void request_resume(struct http_request *r);
void request_release(struct http_request *r);    /* its body's bytes are counted no more */
void *request_on_line(void *cls, const char *uri, struct MHD_Connection *mc);
size_t request_unescape(void *cls, struct MHD_Connection *mc, char *s);
enum MHD_Result request_on_access(void *cls, struct MHD_Connection *mc, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_n, void **con_cls);
void request_on_completed(void *cls, struct MHD_Connection *mc, void **con_cls,
			  enum MHD_RequestTerminationCode why);

/* framing.c. `error`: NULL if the request may pass, else why it may not. */
struct framing {
	const char *error;
	enum problem problem;
	bool chunked, has_length;
	uint64_t length;
};

/* As libmicrohttpd has it; the target's length is that before it was decoded. */
struct request_line {
	const char *method, *version;
	size_t target_n;
};
struct framing framing_check(struct MHD_Connection *mc, const struct request_line *line);

/* respond.c */
void respond_problem(struct http_request *r, enum problem p, const char *detail);
void respond_within_body(struct http_request *r, enum problem p, const char *detail);
enum MHD_Result respond_refusal(struct http_request *r);         /* http_refuse()'s, after its body */
enum MHD_Result respond_queue(struct http_request *r);

/* tls.c: on a connection of a TLS listener, inside no call of libmicrohttpd's but its
 * callbacks. */
struct MHD_OptionItem;
void tls_options(struct MHD_OptionItem ret[4]);
ssize_t tls_receive(struct conn *c, char *out, size_t max);      /* 0: the end; -1: errno */
bool tls_send_last(struct conn *c, struct slice s);              /* and say that nothing follows */

/* watch.c */
void watch_start(struct http_request *r);
void watch_stop(struct http_request *r);
bool watch_hung_up(int fd);                      /* FIN, RST or an error */
