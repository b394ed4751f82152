/*
 * What the routes share: the table's entries, a request's state, the answers.
 */
#pragma once

#include "obs/log.h"
#include "routes/routes.h"
#include "wire/wire.h"

struct routes {
	struct routes_env env;
	struct httpd_handler handler;
	struct rng rng;
};

/* One live request's state, whatever its route: the first member of each. */
struct route_data {
	void (*on_end)(struct route_data *data, bool gone);
};

struct route {
	const char *pattern;             /* "{id}" stands for one segment */
	enum http_method method;         /* GET serves HEAD too */
	void (*run)(struct routes *r, struct http_request *req, struct slice id);
};

extern const struct route route_post_batch, route_get_batch, route_get_limits, route_livez, route_readyz, route_metrics,
	route_openapi;

/* Answers. The blob's reference is taken; a NULL blob is a 500, "no memory". */
void answer_problem(struct routes *r, struct http_request *req, enum problem p, const char *detail);
void answer_text(struct http_request *req, int status, const char *type, struct blob *take_body);

/* store_metrics.c: the store's part of /metrics. */
void store_metrics_render(struct routes *r, struct buf *out);

/* The headers that every answer about a batch carries. */
struct batch_headers {
	char location[sizeof "/v1/batches/" + BATCH_ID_LEN];
	struct http_header headers[6];
	size_t n;
};
void batch_headers(struct batch_headers *h, struct batch_id id, const char *outcome, const char *type);

/* 200 if every item succeeded, 207 if not. */
int batch_status(const char *outcome);
