/*
 *   IDLE ── step(): spans are there, and it is time ──► SENDING
 *    ▲ ▲                                                  │  │ a failure that may pass
 *    │ └────────────── on_done(): taken, or dropped ──────┘  ▼
 *    └──────────── step(): it is the end: dropped ◄────── WAITING ── on_timer() ──► SENDING
 *
 * Invariants
 *  1. At most one request is under way. Its body stays as it is until the request
 *     has succeeded or was given up.
 *  2. Nothing here is waited for: spans that come meanwhile have the ring, and
 *     then no place.
 *  3. After exporter_flush() it comes to IDLE by `flush_by_us`, and stays there.
 */
#include <stdlib.h>
#include <string.h>

#include "app/export.h"
#include "base/builtwith.h"
#include "base/heap.h"
#include "dispatch/metrics.h"
#include "obs/log.h"

enum {
	RING = 4096,                     /* spans, some 600 bytes each */
	SOME = 256,                      /* in one request: 0.3 ms of the loop to write */
	EVERY_US = 1000000,              /* how long a span waits for others */
	TIMEOUT_US = 5000000,
	TRIES = 3,
	BACKOFF_US = 1000000,
	RETRY_AFTER_MAX_MS = 30000,
	ANSWER_MAX = 4096,
};

enum export_state { EXPORT_IDLE, EXPORT_SENDING, EXPORT_WAITING };

struct exporter {
	struct exporter_env env;
	struct spans *spans;
	struct loop_timer *timer;
	struct loop_call soon;
	char *url;
	const char **headers;
	size_t n_headers;
	unsigned service;                /* a place that no service ever has: it shows and trusts none of their files */
	enum export_state state;
	struct transfer *transfer;       /* SENDING */
	struct buf body;                 /* SENDING, WAITING: `n` spans ... */
	unsigned n, tries;               /* ... and how often they were sent */
	bool failing;                    /* said so in the log */
	bool flushing;
	int64_t flush_by_us;
	void (*on_flushed)(void *arg);
	void *arg;
};

static const char *const resource[] = {"service.name", "settled", "service.version", SETTLED_VERSION, NULL};

static void step(struct exporter *e);

static void on_timer(void *arg)
{
	struct exporter *e = arg;

	if (e->state == EXPORT_SENDING)
		xfer_cancel(e->transfer);
	else
		step(e);
}

static void on_soon(struct loop_call *call)
{
	struct exporter *e = container_of(call, struct exporter, soon);

	if (e->state == EXPORT_IDLE)
		step(e);
}

static void on_some(void *arg)
{
	struct exporter *e = arg;

	loop_call_soon(e->env.loop, &e->soon);
}

/* Those that the protocol says may pass: OTLP 1.3, "Failures". */
static bool may_pass(const struct answer *a)
{
	return a->end != ANSWER_COMPLETE || a->status == 429 || a->status == 502 || a->status == 503 || a->status == 504;
}

static void tell(struct exporter *e, const struct answer *a)
{
	bool ok = a->end == ANSWER_COMPLETE && a->status / 100 == 2;

	if (ok == !e->failing)
		return;
	e->failing = !ok;
	if (ok)
		log_event(LOG_INFO, "span_export_recovered");
	else
		log_event(LOG_WARN, "span_export_failing", LOG_INT("http_status", a->status),
			  LOG_STR("why", a->detail == NULL ? "" : a->detail),
			  LOG_STR("effect", "spans are dropped and counted; nothing else is held up"),
			  LOG_STR("do", "look at the collector, and at tracing.endpoint and tracing.headers"));
}

static void count(struct exporter *e, enum span_result result)
{
	meter_add(e->env.meter, METRIC_SPANS, result, 0, e->n);
	e->n = 0;
	e->body.n = 0;
	e->state = EXPORT_IDLE;
}

static void wait_to_repeat(struct exporter *e, int64_t retry_after_ms)
{
	int64_t wait_us = (int64_t)BACKOFF_US << (e->tries - 1);

	wait_us = MAX(wait_us, MIN(retry_after_ms, (int64_t)RETRY_AFTER_MAX_MS) * 1000);
	e->state = EXPORT_WAITING;
	loop_timer_at(e->timer, loop_now_us(e->env.loop) + wait_us);
}

static void on_done(void *arg, const struct answer *a)
{
	struct exporter *e = arg;

	e->transfer = NULL;
	tell(e, a);
	if (a->end == ANSWER_COMPLETE && a->status / 100 == 2) {
		count(e, SPANS_EXPORTED);
	} else if (may_pass(a) && e->tries < TRIES && !e->flushing) {
		wait_to_repeat(e, a->retry_after_ms);
		return;
	} else {
		count(e, SPANS_DROPPED_FAILED);
	}
	if (e->flushing || spans_count(e->spans) >= SOME)
		step(e);
	else
		loop_timer_at(e->timer, loop_now_us(e->env.loop) + EVERY_US);
}

static void send(struct exporter *e)
{
	const struct exchange x = {
		.method = "POST",
		.url = e->url,
		.headers = e->headers,
		.n_headers = e->n_headers,
		.body = buf_slice(&e->body),
		.service = e->service,
		.answer_limit = ANSWER_MAX,
	};
	int64_t until_us = loop_now_us(e->env.loop) + TIMEOUT_US;

	e->tries++;
	e->state = EXPORT_SENDING;
	e->transfer = e->body.failed ? NULL : xfer_start(e->env.xfer, &x, on_done, e);
	if (e->transfer == NULL) {
		e->body.failed = false;
		count(e, SPANS_DROPPED_FAILED);
		until_us = loop_now_us(e->env.loop) + EVERY_US;
	}
	loop_timer_at(e->timer, e->flushing ? MIN(until_us, e->flush_by_us) : until_us);
}

/* The last ones are gone, or their time is up. */
static bool flushed(struct exporter *e)
{
	bool late = loop_now_us(e->env.loop) >= e->flush_by_us;

	if (late) {
		e->n = spans_clear(e->spans);
		count(e, SPANS_DROPPED_FAILED);
	}
	if (spans_count(e->spans) > 0)
		return false;
	loop_timer_at(e->timer, HEAP_NONE);
	if (e->on_flushed != NULL)
		STEAL_PTR(e->on_flushed)(e->arg);
	return true;
}

/* IDLE or WAITING: what is to be done now. */
static void step(struct exporter *e)
{
	if (e->flushing && e->state == EXPORT_WAITING)
		count(e, SPANS_DROPPED_FAILED);
	if (e->flushing && flushed(e))
		return;
	if (e->state == EXPORT_IDLE) {
		if (spans_count(e->spans) == 0) {
			loop_timer_at(e->timer, loop_now_us(e->env.loop) + EVERY_US);
			return;
		}
		e->n = spans_take(e->spans, SOME, resource, &e->body);
		e->tries = 0;
	}
	send(e);
}

void exporter_flush(struct exporter *e, int64_t by_us, void (*on_flushed)(void *arg), void *arg)
{
	if (e == NULL) {
		on_flushed(arg);
		return;
	}
	e->flushing = true;
	e->flush_by_us = by_us;
	e->on_flushed = on_flushed;
	e->arg = arg;
	if (e->state == EXPORT_SENDING)
		loop_timer_by(e->timer, by_us);
	else
		loop_timer_at(e->timer, 0);
}

static void add_headers(struct exporter *e, const struct config *c)
{
	e->headers = xcalloc(c->tracing.n_headers + 1, sizeof *e->headers);
	e->headers[e->n_headers++] = xstrdup("Content-Type: application/json");
	for (size_t i = 0; i < c->tracing.n_headers; i++)
		e->headers[e->n_headers++] = xstrdup(c->tracing.headers[i]);
}

struct exporter *exporter_new(const struct exporter_env *env)
{
	const struct config *c = env->config;
	struct exporter *e;
	size_t size;

	if (c->tracing.endpoint == NULL)
		return NULL;
	e = xcalloc(1, sizeof *e);
	size = strlen(c->tracing.endpoint) + sizeof "/v1/traces";
	e->env = *env;
	e->service = c->service_slots;
	e->url = xcalloc(1, size);
	strcat(strcpy(e->url, c->tracing.endpoint), "/v1/traces");
	add_headers(e, c);
	loop_call_init(&e->soon, on_soon);
	e->spans = spans_new(RING, SOME, on_some, e);
	e->timer = loop_timer_new(env->loop, LOOP_NORMAL, on_timer, e);
	loop_timer_at(e->timer, loop_now_us(env->loop) + EVERY_US);
	e->env.config = NULL;            /* a reload frees it */
	return e;
}

void exporter_free(struct exporter *e)
{
	if (e == NULL)
		return;
	REQUIRE(e->transfer == NULL);
	loop_call_cancel(&e->soon);
	loop_timer_free(e->timer);
	spans_free(e->spans);
	buf_free(&e->body);
	for (size_t i = 0; i < e->n_headers; i++) {
		explicit_bzero((char *)e->headers[i], strlen(e->headers[i]));
		free((char *)e->headers[i]);
	}
	free(e->headers);
	free(e->url);
	free(e);
}

struct spans *exporter_spans(struct exporter *e)
{
	return e == NULL ? NULL : e->spans;
}
