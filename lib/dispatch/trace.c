/*
 * What a batch and its attempts leave in a trace (names and attributes as in
 * OpenTelemetry's semantic conventions for HTTP, and settled.* of our own).
 *
 *   caller's span ─► POST (SERVER) ─┬─► POST (CLIENT), one for each attempt
 *                                   └─► batch (INTERNAL), of a job ─► POST (CLIENT) ...
 *
 * A job outlives its request: that span ends with the 202, and the job has one
 * of its own, which the attempts belong to. Ids come from the batch's, so they
 * are the same in the process that goes on with it.
 *
 * No URL, payload or recipient is told: any may be a secret.
 */
#include <stdio.h>

#include "attempt-i.h"
#include "dispatch-i.h"
#include "trace-i.h"

enum { PART_REQUEST, PART_JOB };

void trace_format(const struct trace *t, char *ret)
{
	for (size_t i = 0; i < sizeof t->id; i++)
		snprintf(ret + 2 * i, 3, "%02x", t->id[i]);
}

static bool wanted(const struct dispatch *d, const struct batch *b)
{
	return d->env.spans != NULL && (b->trace.flags & TRACE_SAMPLED) != 0;
}

/* All spans of a shard are put on the wall's clock by the same difference, so
 * that they keep their order; it follows when the clock is set. */
static int64_t wall_us(struct dispatch *d, int64_t us)
{
	enum { SET_US = 5000 };
	int64_t ahead_us = loop_unix_ms(d->env.loop) * 1000 - loop_now_us(d->env.loop);

	if (d->wall_ahead_us - ahead_us > SET_US || ahead_us - d->wall_ahead_us > SET_US)
		d->wall_ahead_us = ahead_us;
	return us + d->wall_ahead_us;
}

static struct span *add(struct dispatch *d, const struct batch *b, int64_t start_us, int64_t end_us)
{
	struct span *s = spans_add(d->env.spans);
	char id[BATCH_ID_LEN + 1];

	if (s == NULL) {
		meter_add(d->env.meter, METRIC_SPANS, SPANS_DROPPED_FULL, 0, 1);
		return NULL;
	}
	memcpy(s->trace, b->trace.id, sizeof s->trace);
	s->start_us = wall_us(d, start_us);
	s->end_us = wall_us(d, end_us);
	batch_id_format(b->id, id);
	span_text(s, "settled.batch.id", slice_str(id));
	return s;
}

static bool is_retry(const struct batch *b)
{
	return b->retry_of.hi != 0 || b->retry_of.lo != 0;
}

static struct span *add_request(struct dispatch *d, const struct batch *b, int64_t end_us)
{
	struct span *s = add(d, b, b->accepted_us, end_us);

	if (s == NULL)
		return NULL;
	s->kind = SPAN_SERVER;
	s->id = span_id(b->id, PART_REQUEST);
	s->parent = b->trace.parent;
	s->name = is_retry(b) ? "POST /v1/batches/{id}/retry" : "POST /v1/batches";
	span_text(s, "http.request.method", SLICE("POST"));
	span_text(s, "http.route", slice_str(s->name + strlen("POST ")));
	span_text(s, "settled.tenant", b->tenant);
	span_number(s, "settled.items", b->counts.total);
	return s;
}

static void add_end(struct span *s, const struct batch *b)
{
	span_text(s, "settled.batch.outcome", slice_str(batch_outcome_str(b->outcome)));
	span_text(s, "settled.batch.stop_reason", slice_str(stop_reason_str(b->stop_reason)));
	s->failed = b->outcome == BATCH_OUTCOME_FAILED || b->outcome == BATCH_OUTCOME_INDETERMINATE;
	if (s->failed)
		span_text(s, "error.type", slice_str(batch_outcome_str(b->outcome)));
}

/* Its status is not known yet: 202, or what a caller that waits will get. */
void trace_accepted(struct dispatch *d, const struct batch *b)
{
	if (wanted(d, b) && b->asynchronous)
		add_request(d, b, loop_now_us(d->env.loop));
}

static void add_job(struct dispatch *d, const struct batch *b)
{
	struct span *s = add(d, b, b->accepted_us, b->finished_us);

	if (s == NULL)
		return;
	s->kind = SPAN_INTERNAL;
	s->id = span_id(b->id, PART_JOB);
	s->parent = span_id(b->id, PART_REQUEST);
	s->name = "batch";
	span_number(s, "settled.items", b->counts.total);
	add_end(s, b);
}

void trace_done(struct dispatch *d, const struct batch *b)
{
	struct span *s;

	if (!wanted(d, b))
		return;
	if (b->asynchronous) {
		add_job(d, b);
		return;
	}
	s = add_request(d, b, b->finished_us);
	if (s == NULL)
		return;
	span_number(s, "http.response.status_code", b->outcome == BATCH_OUTCOME_SUCCEEDED ? 200 : 207);
	add_end(s, b);
}

/* "scheme://host:port", as channel_origin() makes it. */
static void add_server(struct span *s, struct slice origin)
{
	const char *host = memmem(origin.p, origin.n, "://", 3), *colon;
	unsigned port = 0;
	size_t n;

	if (host == NULL)
		return;
	host += 3;
	n = origin.n - (size_t)(host - origin.p);
	colon = memrchr(host, ':', n);
	if (colon == NULL)
		return;
	span_text(s, "server.address", (struct slice){host, (size_t)(colon - host)});
	for (const char *p = colon + 1; p < origin.p + origin.n; p++)
		port = port * 10 + (unsigned)(*p - '0');
	span_number(s, "server.port", port);
}

void trace_attempt(struct dispatch *d, const struct attempt *a)
{
	const struct batch *b = a->item->batch;
	const struct service *service = &d->env.config->services[a->service];
	const struct outcome *o = &a->outcome;
	struct span *s = wanted(d, b) ? add(d, b, a->started_us, a->done_us) : NULL;
	char status[8];

	if (s == NULL)
		return;
	s->kind = SPAN_CLIENT;
	s->id = a->span_id;
	s->parent = span_id(b->id, b->asynchronous ? PART_JOB : PART_REQUEST);
	s->name = service->kind == SERVICE_HTTP ? service->method : "POST";
	s->failed = o->code != CODE_OK;
	span_text(s, "http.request.method", slice_str(s->name));
	span_text(s, "settled.service", slice_str(service->name));
	span_text(s, "settled.item.id", a->item->id);
	span_text(s, "settled.delivered", slice_str(delivered_str(o->delivered)));
	snprintf(status, sizeof status, "%d", o->http_status);
	if (s->failed)
		span_text(s, "error.type", slice_str(o->http_status >= 400 ? status : code_str(o->code)));
	add_server(s, buf_slice(&a->origin));
	span_number(s, "settled.attempt", a->item->attempts);
	if (a->item->attempts > 1)
		span_number(s, "http.request.resend_count", a->item->attempts - 1);
	if (o->http_status != 0)
		span_number(s, "http.response.status_code", o->http_status);
}
