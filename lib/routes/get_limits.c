/*
 * GET /v1/limits: every setting under `limits`, as it is in force.
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

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct buf text = {0};

	(void)id;
	config_each_limit(r->env.config, add_limit, &text);
	buf_add_char(&text, '}');
	answer_text(req, 200, "application/json", blob_from_buf(&text));
}

const struct route route_get_limits = {"/v1/limits", HTTP_GET, run, .access = ACCESS_KEY, .operations = true};
