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
	METRIC_PARKED,
	METRIC_WAITING,
	METRIC_REFUSED,                  /* problem */
	METRIC_EVENT_READERS,
	METRIC_RELOADS,                  /* enum reload_result */
	METRIC_RELOADED_AT,
	METRIC_MAX,
};

/* What became of a SIGHUP. */
enum reload_result { RELOAD_OK, RELOAD_REFUSED, RELOAD_RESULTS };

/* With room for every service that a reload may add. */
struct metrics *dispatch_metrics_new(const struct config *config, unsigned shards) MUST_CHECK;

/* The services that `config` has and the metrics have not; any thread, one at a time. */
void dispatch_metrics_grow(struct metrics *m, const struct config *config, size_t known);
