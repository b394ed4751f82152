/*
 * The metrics of the service, each with its place in the registry.
 */
#pragma once

#include "config/config.h"
#include "obs/metrics.h"

enum metric {
	METRIC_REQUESTS,                 /* route, status: see dispatch_metrics_route(), _status() */
	METRIC_REQUEST_SECONDS,          /* route */
	METRIC_BATCHES,                  /* outcome - 1: there is no "none" */
	METRIC_BATCH_SECONDS,            /* asynchronous, outcome - 1 */
	METRIC_ITEMS,                    /* status, code */
	METRIC_ITEM_SECONDS,             /* service */
	METRIC_ATTEMPTS,                 /* service, code */
	METRIC_ATTEMPT_SECONDS,          /* service */
	METRIC_QUEUE_SECONDS,            /* service */
	METRIC_ABORTS,                   /* reason - STOP_REASON_FIRST_FAILURE */
	METRIC_IN_FLIGHT,                /* service */
	METRIC_QUEUED,
	METRIC_UNFINISHED,
	METRIC_LANE_QUEUED,              /* service */
	METRIC_REPEATS_QUEUED,           /* service */
	METRIC_LANES,                    /* service */
	METRIC_LANES_PAUSED,             /* service */
	METRIC_LANE_PAUSES,              /* service */
	METRIC_LANE_WAITS,               /* service, enum lane_wait - 1: there is no "nothing" */
	METRIC_BREAKERS,                 /* service, enum breaker_state - 1: closed ones are not counted */
	METRIC_BREAKER_TRANSITIONS,      /* service, enum breaker_state */
	METRIC_REFUSALS,                 /* service */
	METRIC_RESIDENT_JOBS,
	METRIC_RESIDENT_BYTES,
	METRIC_BACKLOG_JOBS,
	METRIC_JOB_LOADS,
	METRIC_JOB_PARKS,
	METRIC_JOBS_RECOVERED,
	METRIC_ITEMS_INTERRUPTED,
	METRIC_SHED,
	METRIC_PARKED,
	METRIC_WAITING,
	METRIC_REFUSED,                  /* problem */
	METRIC_EVENT_READERS,
	METRIC_RELOADS,                  /* enum reload_result */
	METRIC_RELOADED_AT,
	METRIC_SPANS,                    /* enum span_result */
	METRIC_CONNECTIONS,
	METRIC_LOOP_LAG,
	/* Of the process: set whenever somebody asks, see lib/routes/sampled.c. */
	METRIC_HELD_BYTES,
	METRIC_TENANT_BATCHES,           /* tenant */
	METRIC_TENANT_ITEMS,             /* tenant */
	METRIC_TENANT_QUEUED,            /* tenant */
	METRIC_TENANT_HELD,              /* tenant, enum tenant_limit */
	METRIC_LIMITS,                   /* limit, in config_each_limit()'s order */
	METRIC_LOG_DROPPED,
	METRIC_STORE_FAILING,
	METRIC_STORE_QUEUED_OPS,
	METRIC_STORE_QUEUED_BYTES,
	METRIC_STORE_FILE_BYTES,
	METRIC_STORE_UNFINISHED,
	METRIC_STORE_OLDEST,
	METRIC_STORE_DROPPED,
	METRIC_STORE_COMMIT_SECONDS,
	METRIC_STORE_GROUP,
	METRIC_RECOVERY_SECONDS,
	METRIC_BUILD_INFO,               /* version */
	METRIC_PROCESS_START,
	METRIC_PROCESS_CPU,
	METRIC_PROCESS_RESIDENT,
	METRIC_PROCESS_VIRTUAL,
	METRIC_PROCESS_FDS,
	METRIC_PROCESS_FDS_MAX,
	METRIC_MAX,
};

/* What becomes of a span. */
enum span_result { SPANS_EXPORTED, SPANS_DROPPED_FULL, SPANS_DROPPED_FAILED, SPAN_RESULT_MAX };
/* What all tenants share, named as in settled_limit. */
#define TENANT_LIMIT_TABLE(X) X(ITEMS, queued_items) X(BYTES, queued_bytes) X(CALLERS, connections) X(WAITING, waiting) \
	X(READERS, event_readers)
#define X(upper, lower) TENANT_LIMIT_##upper,
enum tenant_limit { TENANT_LIMIT_TABLE(X) TENANT_LIMIT_MAX };
#undef X

/* What a lane that has something to start waits for. */
#define LANE_WAIT_TABLE(X) X(NOTHING, nothing) X(PAUSE, pause) X(RATE, rate) X(BUDGET, retry_budget)
#define X(upper, lower) LANE_WAIT_##upper,
enum lane_wait { LANE_WAIT_TABLE(X) LANE_WAIT_MAX };
#undef X

/* What became of a SIGHUP. */
enum reload_result { RELOAD_OK, RELOAD_REFUSED, RELOAD_RESULTS };

/* With room for every service and tenant that a reload may add. */
struct metrics *dispatch_metrics_new(const struct config *config, unsigned shards) MUST_CHECK;

/* The services and tenants that `config` has and `known`, which it follows, had not. Any
 * thread, one at a time. */
void dispatch_metrics_grow(struct metrics *m, const struct config *config, const struct config *known);

/* The label value for a route, "GET /v1/batches/{id}", or NULL for a request that
 * found none; and the one for an answer's status, 0 where the client left without. */
unsigned dispatch_metrics_route(const char *name);
unsigned dispatch_metrics_status(int status);
