/*
 * Outbound transfers: one HTTP request out, the evidence of its answer back.
 * The only user of libcurl; also the address guard and the store of trusted
 * certificates.
 *
 * Owner: one struct xfer per shard; its loop's thread only.
 * Limits: it queues nothing but look-ups of names, which the whole process has
 * in common, and has no timeouts of its own: callers start only what may run
 * now, and cancel what is due.
 *
 * Invariants
 *  1. on_done runs exactly once per started transfer, from the loop, never
 *     inside xfer_start() or xfer_cancel().
 *  2. After xfer_cancel() the transfer's connection is closed; no byte is sent.
 *  3. libcurl never sends a request twice: its silent re-send over a fresh
 *     connection is refused and reported as ANSWER_LOST with wrote = true.
 */
#pragma once

#include "base/buf.h"
#include "core/exchange.h"
#include "loop/loop.h"

struct xfer;
struct transfer;

struct xfer_config {
	unsigned max_idle;               /* connections kept open while unused */
	int64_t idle_ms;                 /* and for how long at most */
	const char *user_agent;
};

/* Look-ups of host names, in the whole process. */
struct xfer_names {
	unsigned threads;                /* for callers' names, and as many for the configuration's; two descriptors each */
	unsigned queued;                 /* names that may wait for them */
	int64_t ttl_ms, negative_ttl_ms; /* how long an answer is kept, and the lack of one */
	int64_t thread_idle_ms;          /* a thread without work ends */
};

/* Once per process, before any other thread. 0 or a negative errno. Free: after
 * every xfer; a look-up that hangs does not hold it. */
int xfer_global_init(const struct xfer_names *names) MUST_CHECK;
void xfer_global_free(void);

/* Any thread: other values, from now on. */
void xfer_names_configure(const struct xfer_names *names);

/* Any thread: what the process counts about look-ups, as Prometheus text. */
void xfer_metrics_render(struct buf *out);

/* These as rows of metrics_describe()'s table. */
void xfer_metrics_describe(struct buf *out);

/* What a service's TLS needs; NULL: the system's authorities, and no certificate of its own. */
struct xfer_tls {
	const char *ca_file, *cert_file, *key_file;      /* PEM; the last two together */
};

/* Read the files of all services, a place each as in exchange.service. Several
 * services with one ca_file share what is parsed. NULL: what is wrong is in
 * *reterr, one line. Any thread. */
struct xfer_tls_set;
struct xfer_tls_set *xfer_tls_load(const struct xfer_tls *services, size_t n, struct buf *reterr) MUST_CHECK;
void xfer_tls_set_free(struct xfer_tls_set *set);        /* that is not in use; NULL is fine */

/* Any thread: every transfer that starts from now on uses it, and the system's
 * authorities are read anew. Connections that were made with other files are not
 * used again. */
void xfer_tls_use(struct xfer_tls_set *take);

struct xfer *xfer_new(struct loop *l, const struct xfer_config *cfg) MUST_CHECK;     /* NULL: no memory */
void xfer_free(struct xfer *x);                  /* no transfer may be live, nor the loop run again */

/* Another number of connections to keep open while unused. */
void xfer_set_max_idle(struct xfer *x, unsigned max_idle);

/* Start one request. `e` and what it points at are copied or used up inside the
 * call, but for e->body, which stays valid until on_done. The answer and all in
 * it is valid during on_done only. Returns NULL when there is no memory. */
struct transfer *xfer_start(struct xfer *x, const struct exchange *e,
			    void (*on_done)(void *arg, const struct answer *answer),
			    void *arg) MUST_CHECK;

/* End it now. Idempotent. on_done follows with ANSWER_CANCELLED and the
 * evidence so far. An answer that has arrived wins, even if nobody has read it
 * yet: it is complete, or its status line is in the evidence. */
void xfer_cancel(struct transfer *t);

struct xfer_usage {
	unsigned live;                   /* started, on_done not yet called */
	unsigned closing;                /* sockets waiting for their close() */
	unsigned lookups;                /* of names, asked for and not answered */
	unsigned unresolved;             /* live, waiting for a look-up */
};
struct xfer_usage xfer_usage(const struct xfer *x);

/* The address guard, pure: is this address (IPv4 as ::ffff:a.b.c.d) one of the
 * special-purpose ranges (IANA registries, RFC 6890; cloud metadata) that a
 * caller-chosen URL must not reach? Embedded IPv4 forms are unwrapped. */
bool xfer_addr_special(const unsigned char addr[16]);
