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
	buf_add_str(out, ",\"breaker\":null,\"rate\":null}");
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
	answer_text(req, 200, "application/json", blob_from_buf(&text));
}

const struct route route_get_services = {"/v1/services", HTTP_GET, run, .access = ACCESS_ADMIN, .operations = true};
