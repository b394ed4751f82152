/*
 * The routes of the wire contract, one file each: requests in, answers out,
 * with the dispatcher and the store behind them.
 *
 * Owner: one struct routes per shard, in the shard's thread.
 */
#pragma once

#include "dispatch/dispatch.h"
#include "dispatch/metrics.h"
#include "httpd/httpd.h"

struct routes_env {
	struct loop *loop;
	const struct config *config;
	struct dispatch *dispatch;
	struct dispatch_group *group;
	struct routes *const *peers;     /* by shard, as in group->members */
	struct store *store;
	struct meter meter;
};

struct routes;

struct routes *routes_new(const struct routes_env *env) MUST_CHECK;
void routes_free(struct routes *r);              /* no request is open any more, and no loop runs */

/* Another configuration from the next request on. Lent, as the first one was: until
 * the next, or the end. In the shard's thread. */
void routes_reload(struct routes *r, const struct config *config);

/* The next step of a reload: a request that is under way, of httpd_each(), ends if its
 * caller's key is gone. `r`: the routes. */
void routes_recheck(void *r, struct http_request *req, enum http_stage stage);

/* From now on /readyz says that the process ends; all else goes on. In the shard's thread. */
void routes_not_ready(struct routes *r);

/* The end is near: whoever waits for a batch is answered with what is there, and
 * nobody waits any more; streams of events end. In the shard's thread. */
void routes_stop(struct routes *r);

/* What to give to httpd_new(); valid as long as the routes. */
const struct httpd_handler *routes_handler(struct routes *r);

/* The same for an address where operations are, and nothing else; nobody is asked for a key. */
const struct httpd_handler *routes_operations_handler(struct routes *r);
