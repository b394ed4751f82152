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

/* Label values point into `config`, which must outlive the metrics. */
struct metrics *dispatch_metrics_new(const struct config *config, unsigned shards) MUST_CHECK;
