/*
 * GET /v1/limits: every setting under `limits`, as it is in force, what services take
 * besides, and what the caller's tenant may have.
 */
#include "routes-i.h"

static void add_limit(void *arg, const char *name, int64_t value)
{
	struct buf *text = arg;

	buf_add_str(text, text->n == 0 ? "{\"" : ",\"");
	buf_add_str(text, name);
	buf_add_str(text, "\":");
	buf_add_i64(text, value);
}

/* Of the services that have a bound of their own. */
static void add_max_queued(struct buf *text, const struct config *c)
{
	const char *before = "";

	buf_add_str(text, ",\"max_queued\":{");
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service *s = &c->services[i];

		if (s->removed || s->max_queued == 0)
			continue;
		buf_printf(text, "%s\"%s\":%u", before, s->name, s->max_queued);
		before = ",";
	}
	buf_add_char(text, '}');
}

/* 0, which is no limit, is null. */
static void add_quota(struct buf *text, const char *name, double value)
{
	buf_printf(text, value > 0 ? ",\"%s\":%.15g" : ",\"%s\":null", name, value);
}

static void add_tenant(struct buf *text, const struct tenant *t)
{
	if (t->name[0] == '\0') {
		buf_add_str(text, ",\"tenant\":null}");
		return;
	}
	buf_printf(text, ",\"tenant\":{\"name\":\"%s\",\"weight\":%u,\"max_priority\":%u", t->name, t->weight, t->max_priority);
	add_quota(text, "batches_per_second", t->batches_per_second);
	add_quota(text, "items_per_second", t->items_per_second);
	add_quota(text, "queued_items", t->queued_items);
	buf_add_str(text, "}}");
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct buf text = {0};

	(void)id;
	config_each_limit(r->env.config, add_limit, &text);
	add_max_queued(&text, r->env.config);
	add_tenant(&text, &r->env.config->tenants[auth_tenant(req)]);
	answer_text(r, req, 200, "application/json", blob_from_buf(&text));
}

const struct route route_get_limits = {"/v1/limits", HTTP_GET, run, .access = ACCESS_KEY, .operations = true};
