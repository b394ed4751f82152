/*
 * GET /v1/services: what is configured, without anything that could be a
 * secret, and what goes on there now, in all shards together.
 */
#include "channel/channel.h"
#include "query.h"

/* The origin that an operator's URL leads to; null where it is stranger than
 * that, because then the rest of it could be shown, too. */
static void add_origin(struct buf *out, const struct service *s)
{
	CLEANUP(buf_free) struct buf origin = {0};
	const char *rest;

	if (s->kind == SERVICE_HTTP)
		channel_origin(s, (struct slice){0}, &origin);
	buf_add_char(&origin, '\0');
	rest = origin.failed ? NULL : strstr(origin.p, "://");
	if (rest != NULL && strpbrk(rest + 3, "/?#@") == NULL)
		wire_string(out, slice_str(origin.p));
	else
		buf_add_str(out, "null");
}

/* Decimals have three places at most. */
static void add_number(struct buf *out, const char *before, double v)
{
	buf_printf(out, "%s%.10g", before, v);
}

static void add_breaker(struct buf *out, const struct routes *r, size_t i)
{
	const struct metrics *m = r->env.meter.metrics;
	int64_t open = metrics_read(m, METRIC_BREAKERS, (unsigned)i, BREAKER_OPEN - 1);
	int64_t half_open = metrics_read(m, METRIC_BREAKERS, (unsigned)i, BREAKER_HALF_OPEN - 1);
	enum breaker_state worst = open > 0 ? BREAKER_OPEN : half_open > 0 ? BREAKER_HALF_OPEN : BREAKER_CLOSED;

	if (r->env.config->services[i].breaker.failure_ratio <= 0)
		buf_add_str(out, ",\"breaker\":null");
	else
		buf_printf(out, ",\"breaker\":{\"state\":\"%s\",\"open\":%lld,\"half_open\":%lld}",
			   breaker_state_str(worst), (long long)open, (long long)half_open);
}

static void add_rate(struct buf *out, const struct service *s, const struct dispatch_service *live)
{
	if (s->rate.per_second <= 0) {
		buf_add_str(out, ",\"rate\":null");
		return;
	}
	add_number(out, ",\"rate\":{\"per_second\":", s->rate.per_second);
	buf_printf(out, ",\"burst\":%u,\"available\":%u}", s->rate.burst, live->rate_left);
}

static void add_pause(struct buf *out, const struct routes *r, size_t i, const struct dispatch_service *live)
{
	int64_t left_us = live->paused_until_us - loop_now_us(r->env.loop);
	int64_t lanes = metrics_read(r->env.meter.metrics, METRIC_LANES_PAUSED, (unsigned)i, 0);

	if (lanes <= 0 || left_us <= 0) {
		buf_add_str(out, ",\"pause\":null");
		return;
	}
	buf_printf(out, ",\"pause\":{\"lanes\":%lld,\"until\":", (long long)lanes);
	wire_time(out, loop_unix_ms(r->env.loop) + left_us / 1000);
	buf_add_char(out, '}');
}

/* What protects the downstream, and where that stands now. */
static void add_lanes(struct buf *out, const struct routes *r, size_t i)
{
	const struct service *s = &r->env.config->services[i];
	const struct metrics *m = r->env.meter.metrics;
	const struct dispatch_service live = dispatch_service(r->env.dispatch, (uint16_t)i);

	buf_printf(out, ",\"lanes_per_origin\":%u,\"lanes\":", s->lanes);
	buf_add_i64(out, metrics_read(m, METRIC_LANES, (unsigned)i, 0));
	add_breaker(out, r, i);
	add_rate(out, s, &live);
	add_number(out, ",\"retry_budget\":{\"ratio\":", s->retry_budget.ratio);
	add_number(out, ",\"per_second\":", s->retry_budget.per_second);
	buf_printf(out, ",\"window_ms\":%lld,\"queued\":", (long long)s->retry_budget.window_ms);
	buf_add_i64(out, metrics_read(m, METRIC_REPEATS_QUEUED, (unsigned)i, 0));
	buf_add_char(out, '}');
	add_pause(out, r, i, &live);
}

static void add_service(struct buf *out, const struct routes *r, size_t i)
{
	const struct service *s = &r->env.config->services[i];
	const struct metrics *m = r->env.meter.metrics;

	buf_add_str(out, "{\"name\":");
	wire_string(out, slice_str(s->name));
	buf_printf(out, ",\"kind\":\"%s\",\"origin\":", service_kind_str(s->kind));
	add_origin(out, s);
	buf_printf(out, ",\"attempt_timeout_ms\":%lld,\"max_in_flight\":%u", (long long)s->attempt_timeout_ms,
		   s->max_in_flight);
	buf_add_str(out, ",\"in_flight\":");
	buf_add_i64(out, metrics_read(m, METRIC_IN_FLIGHT, (unsigned)i, 0));
	buf_add_str(out, ",\"queued\":");
	buf_add_i64(out, metrics_read(m, METRIC_LANE_QUEUED, (unsigned)i, 0));
	add_lanes(out, r, i);
	buf_add_char(out, '}');
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	const struct config *config = r->env.config;
	struct buf text = {0};
	size_t shown = 0;
	struct query q;

	(void)id;
	query_read(&q, req, NULL, 0);
	if (query_refused(&q, r, req))
		return;
	buf_add_str(&text, "{\"services\":[");
	for (size_t i = 0; i < config->n_services; i++) {
		if (config->services[i].removed)
			continue;
		if (shown++ > 0)
			buf_add_char(&text, ',');
		add_service(&text, r, i);
	}
	buf_add_str(&text, "]}");
	answer_text(r, req, 200, "application/json", blob_from_buf(&text));
}

const struct route route_get_services = {"/v1/services", HTTP_GET, run, .access = ACCESS_ADMIN, .operations = true};
