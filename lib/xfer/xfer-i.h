/*
 * What the files of this module share: the multi handle with its sockets
 * (xfer.c, sockets.c), one transfer's life (transfer.c), who waits for a name
 * (names.c), the process's look-ups (resolver.c), the address guard (guard.c)
 * and the certificates (tls.c).
 */
#pragma once

#include <curl/curl.h>

#include "base/buf.h"
#include "base/heap.h"
#include "base/idmap.h"
#include "xfer/xfer.h"

enum transfer_state {
	TRANSFER_SPARE,                  /* x->spare: kept for the next start */
	TRANSFER_STARTING,               /* x->starting: libcurl gets it soon */
	TRANSFER_LIVE,                   /* libcurl has it */
	TRANSFER_UNRESOLVED,             /* t->lookup: waits for its host's address */
	TRANSFER_DONE,                   /* x->done: answer known, on_done to come */
};

/* Sockets that libcurl is done with, oldest first; closed a few per turn. */
struct closing {
	int *fds;
	unsigned first, n, cap;
	struct loop_timer *timer;
};

/* What this shard has asked the resolver for. */
struct names {
	struct idmap all;                /* struct lookup */
	struct list asked;               /* the same */
	unsigned n_asked;
	unsigned n_waiters;
	uint64_t seed;
};

/* How a look-up ends: its name as a label, and what people are told. */
#define LOOKUP_RESULTS(X) \
	X(FOUND, "found", NULL) \
	X(NOT_FOUND, "not_found", "the host name does not resolve") \
	X(NO_ANSWER, "no_answer", "the name server gave no answer in time") \
	X(FAILED, "failed", "the host name could not be looked up") \
	X(QUEUE_FULL, "queue_full", "too many host names of this service wait to be looked up")

#define X(name, str, detail) LOOKUP_##name,
enum lookup_result { LOOKUP_RESULTS(X) LOOKUP_MAX };
#undef X

/* A question to the resolver, and its answer: in `msg`, or at once. */
struct ask {
	struct loop_msg msg;
	struct loop *loop;
	unsigned service;                /* whose turn it takes */
	bool configured;                 /* the operator gave the name */
	struct list in_name, in_queue;   /* the resolver's, as is: */
	struct name *name;               /* NULL: not asked, or answered */
	enum lookup_result result;
	struct blob *addresses;          /* LOOKUP_FOUND: as CURLOPT_RESOLVE has them; the asker's */
};

struct xfer {
	struct loop *loop;
	CURLM *multi;
	struct loop_timer *timer;        /* libcurl's one timer ... */
	int64_t due_us;                  /* and when it wants it; HEAP_NONE: not */
	struct loop_timer *quiet;        /* closes what nothing has used */
	int64_t quiet_since_us;
	unsigned max_idle;
	int64_t idle_ms;
	char *user_agent;
	long max_connects;               /* what the multi was told */
	unsigned in_multi;
	unsigned live;
	struct list starting;            /* struct transfer */
	struct loop_call start;
	struct loop_timer *start_rest;
	bool starting_now;               /* libcurl is being given transfers */
	struct list done;                /* struct transfer */
	struct loop_call deliver;
	bool delivering;
	struct list spare;               /* struct transfer */
	unsigned n_spare;
	struct watch **watches;          /* by socket */
	size_t n_watches;
	struct closing closing;
	struct names names;
};

struct transfer {
	struct list node;
	enum transfer_state state;
	struct xfer *x;
	CURL *easy;
	CURLU *url;                      /* that it was told last */
	curl_socket_t fd;                /* that libcurl has watched for it, or -1 */
	struct lookup *lookup;
	struct tls_profile *profile;     /* https: a reference */
	struct curl_slist resolve;       /* what libcurl is told of its host */
	struct buf addresses;            /* its text */
	void (*on_done)(void *arg, const struct answer *answer);
	void *arg;

	/* The request. */
	char *copy;                      /* header nodes, ranges, header lines */
	size_t copy_cap;
	const struct cidr *allow;
	size_t n_allow;
	size_t body_n, answer_limit;
	unsigned service;
	bool guarded, tls;
	bool custom_method, own_ciphers; /* what the easy handle still carries */

	/* What has happened; cleared by every start. */
	struct evidence {
		unsigned requests;       /* times libcurl was about to send one */
		bool resolving;
		bool unresolved;         /* ended, to wait for a look-up */
		unsigned told;           /* times libcurl was told the addresses */
		const char *name_fault;  /* why there is none; static text */
		bool connecting;
		bool handshake;          /* of TLS, begun */
		bool refused;            /* the guard said no at least once */
		bool resend;             /* libcurl wanted to send it again */
		bool not_http;           /* its first line is no status line */
		bool overlong_head;
		bool overlong_body;
		bool switched;           /* 101: no HTTP after it */
		size_t head_n;
		int status;
		int64_t retry_after_ms;
	} seen;
	struct buf body;
	struct answer answer;
};

/* transfer.c */
struct transfer *xfer_transfer_new(struct xfer *x) MUST_CHECK;
void xfer_transfer_free(struct transfer *t);
bool xfer_transfer_prepare(struct transfer *t, const struct exchange *e) MUST_CHECK;
void xfer_transfer_conclude(struct transfer *t, CURLcode rc, bool cancelled);
void xfer_transfer_reset(struct transfer *t);

/* guard.c */
curl_socket_t xfer_guard_open(void *arg, curlsocktype purpose, struct curl_sockaddr *a);
int xfer_guard_request(void *arg, char *peer_ip, char *local_ip, int peer_port, int local_port);

/* sockets.c */
int xfer_sockets_on_watch(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused);
int xfer_sockets_on_close(void *arg, curl_socket_t fd);
void xfer_sockets_close_some(void *arg);
void xfer_sockets_close_all(struct xfer *x);

/* names.c. Inside libcurl's call: may this transfer resolve its host by itself?
 * If not, it ends, and xfer_names_wait() has it wait for the look-up. */
void xfer_names_init(struct names *names);
void xfer_names_free(struct xfer *x);            /* the loop has ended: no message comes any more */
bool xfer_names_allow(struct transfer *t);
void xfer_names_wait(struct transfer *t);
void xfer_names_leave(struct transfer *t);

/* resolver.c. One per process; any thread. */
struct resolver;
struct resolver *resolver_new(const struct xfer_names *cfg) MUST_CHECK;
void resolver_free(struct resolver *r);          /* does not wait for a look-up that hangs; NULL is fine */
void resolver_configure(struct resolver *r, const struct xfer_names *cfg);
void resolver_render(struct resolver *r, struct buf *out);
/* True: answered at once. Else a->msg will be posted, unless the asker leaves first. */
bool resolver_ask(struct resolver *r, struct ask *a, struct slice host) MUST_CHECK;
/* False: too late, the message is on its way. */
bool resolver_leave(struct resolver *r, struct ask *a) MUST_CHECK;
const char *lookup_detail(enum lookup_result r);

/* xfer.c */
void xfer_act(struct xfer *x, curl_socket_t fd, int events);
extern struct resolver *xfer_resolver;           /* from xfer_global_init() to xfer_global_free() */
void xfer_start_soon(struct transfer *t);        /* SPARE, or UNRESOLVED: its name is known */
void xfer_give_up(struct transfer *t, CURLcode rc);

/* tls.c. A NULL profile is that of services without files of their own. */
bool xfer_tls_init(void) MUST_CHECK;                     /* before curl_global_init(), which sets OpenSSL up */
struct tls_profile *xfer_tls_profile(unsigned service);  /* a reference */
void xfer_tls_unref(struct tls_profile *p);              /* any thread */
CURLcode xfer_tls_configure(const struct tls_profile *p, void *ssl_ctx);
const char *xfer_tls_ciphers(const struct tls_profile *p);       /* NULL: libcurl's */
