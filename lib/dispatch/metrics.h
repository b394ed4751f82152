/*
 * The metrics of the service, each with its place in the registry.
 */
#pragma once

#include "config/config.h"
#include "obs/metrics.h"

enum metric {
	METRIC_BATCHES,                  /* outcome - 1: there is no "none" */
	METRIC_ITEMS,                    /* status, code */
	METRIC_ATTEMPTS,                 /* service, code */
	METRIC_ATTEMPT_SECONDS,          /* service */
	METRIC_ABORTS,                   /* reason - STOP_REASON_FIRST_FAILURE */
	METRIC_IN_FLIGHT,                /* service */
	METRIC_QUEUED,
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
	METRIC_MAX,
};

/* What a lane that has something to start waits for. */
#define LANE_WAIT_TABLE(X) X(NOTHING, nothing) X(PAUSE, pause) X(RATE, rate) X(BUDGET, retry_budget)
#define X(upper, lower) LANE_WAIT_##upper,
enum lane_wait { LANE_WAIT_TABLE(X) LANE_WAIT_MAX };
#undef X

/* Label values point into `config`, which must outlive the metrics. */
struct metrics *dispatch_metrics_new(const struct config *config, unsigned shards) MUST_CHECK;
