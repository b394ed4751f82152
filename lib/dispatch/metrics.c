#include "dispatch/metrics.h"

#include "core/batch.h"
#include "wire/wire.h"

static const char *lane_wait_str(unsigned w)
{
	static const char *const names[] = {
#define X(upper, lower) #lower,
		LANE_WAIT_TABLE(X)
#undef X
	};

	return names[w];
}

/* The first names of these lists never label anything: "none", "completed". */
enum { FIRST_ABORT = STOP_REASON_FIRST_FAILURE };

#define NAMES(fn, last, array)                             \
	static const char *array[last];                        \
	for (unsigned i = 0; i < last; i++)                    \
		array[i] = fn(i)

struct metrics *dispatch_metrics_new(const struct config *config, unsigned shards)
{
	static const char *services[UINT16_MAX];
	NAMES(code_str, CODE_MAX, codes);
	NAMES(status_str, STATUS_MAX, statuses);
	NAMES(batch_outcome_str, BATCH_OUTCOME_MAX, outcomes);
	NAMES(stop_reason_str, STOP_REASON_MAX, reasons);
	NAMES(problem_str, PROBLEM_MAX, problems);
	NAMES(lane_wait_str, LANE_WAIT_MAX, waits);
	NAMES(breaker_state_str, BREAKER_STATE_MAX, states);
	const struct metric_label service = {"service", services, (unsigned)config->n_services};
	const struct metric_label code = {"code", codes, CODE_MAX};
	const struct metric_def defs[METRIC_MAX] = {
		[METRIC_BATCHES] = {"settled_batches_total", "Batches settled, by outcome.",
				    METRIC_COUNTER, {{"outcome", outcomes + 1, BATCH_OUTCOME_MAX - 1}}},
		[METRIC_ITEMS] = {"settled_items_total", "Items settled, by status and last code.",
				  METRIC_COUNTER, {{"status", statuses, STATUS_MAX}, code}},
		[METRIC_ATTEMPTS] = {"settled_attempts_total", "Attempts made, by service and code.",
				     METRIC_COUNTER, {service, code}},
		[METRIC_ATTEMPT_SECONDS] = {"settled_attempt_duration_seconds",
					    "Time from the start of an attempt to its outcome.",
					    METRIC_HISTOGRAM, {service}},
		[METRIC_ABORTS] = {"settled_aborts_total", "Batches ended before completion, by reason.",
				   METRIC_COUNTER, {{"reason", reasons + FIRST_ABORT, STOP_REASON_MAX - FIRST_ABORT}}},
		[METRIC_IN_FLIGHT] = {"settled_attempts_in_flight", "Attempts in flight, by service.",
				      METRIC_GAUGE, {service}},
		[METRIC_QUEUED] = {"settled_items_queued", "Unfinished items that are not in flight.",
				   METRIC_GAUGE, {{0}}},
		[METRIC_LANE_QUEUED] = {"settled_attempts_queued", "Attempts that wait for their start, by service.",
					METRIC_GAUGE, {service}},
		[METRIC_REPEATS_QUEUED] = {"settled_repeats_queued",
					   "Attempts that wait for their start and are not their item's first, by service.",
					   METRIC_GAUGE, {service}},
		[METRIC_LANES] = {"settled_lanes", "Origins that something is known of, by service.",
				  METRIC_GAUGE, {service}},
		[METRIC_LANES_PAUSED] = {"settled_lanes_paused", "Origins that asked for a pause, by service.",
					 METRIC_GAUGE, {service}},
		[METRIC_LANE_PAUSES] = {"settled_lane_pauses_total",
					"Answers of 429 or 503 with Retry-After that paused an origin, by service.",
					METRIC_COUNTER, {service}},
		[METRIC_LANE_WAITS] = {"settled_lane_waits_total",
				       "How often an origin's attempts began to wait, by service and for what.",
				       METRIC_COUNTER, {service, {"reason", waits + 1, LANE_WAIT_MAX - 1}}},
		[METRIC_BREAKERS] = {"settled_breakers", "Origins whose breaker is not closed, by service and state.",
				     METRIC_GAUGE, {service, {"state", states + 1, BREAKER_STATE_MAX - 1}}},
		[METRIC_BREAKER_TRANSITIONS] = {"settled_breaker_transitions_total",
						"Changes of breakers, by service and new state.",
						METRIC_COUNTER, {service, {"state", states, BREAKER_STATE_MAX}}},
		[METRIC_REFUSALS] = {"settled_attempts_refused_total",
				     "Tries that an open breaker refused, by service.", METRIC_COUNTER, {service}},
		[METRIC_RESIDENT_JOBS] = {"settled_jobs_resident", "Jobs in memory, and on their way into it.",
					  METRIC_GAUGE, {{0}}},
		[METRIC_RESIDENT_BYTES] = {"settled_jobs_resident_bytes", "Memory taken by jobs.",
					   METRIC_GAUGE, {{0}}},
		[METRIC_BACKLOG_JOBS] = {"settled_jobs_backlog", "Unfinished jobs that are in the store alone.",
					 METRIC_GAUGE, {{0}}},
		[METRIC_JOB_LOADS] = {"settled_job_loads_total", "Jobs asked back from the store.",
				      METRIC_COUNTER, {{0}}},
		[METRIC_JOB_PARKS] = {"settled_job_parks_total", "Jobs that left memory to wait.",
				      METRIC_COUNTER, {{0}}},
		[METRIC_JOBS_RECOVERED] = {"settled_batches_recovered_total",
					   "Batches that the process before had not finished.",
					   METRIC_COUNTER, {{0}}},
		[METRIC_ITEMS_INTERRUPTED] = {"settled_items_interrupted_total",
					      "Items that were in flight when the process before ended.",
					      METRIC_COUNTER, {{0}}},
		[METRIC_SHED] = {"settled_items_shed_total", "Items of best_effort batches that made room for others.",
				 METRIC_COUNTER, {{0}}},
		[METRIC_PARKED] = {"settled_requests_parked", "Requests waiting for their batch.",
				   METRIC_GAUGE, {{0}}},
		[METRIC_WAITING] = {"settled_requests_waiting", "Requests that wait for a batch that is not theirs.",
				    METRIC_GAUGE, {{0}}},
		[METRIC_REFUSED] = {"settled_requests_refused_total", "Requests refused, by problem code.",
				    METRIC_COUNTER, {{"problem", problems, PROBLEM_MAX}}},
		[METRIC_EVENT_READERS] = {"settled_event_readers", "Readers of event streams.",
					  METRIC_GAUGE, {{0}}},
	};

	for (size_t i = 0; i < config->n_services; i++)
		services[i] = config->services[i].name;
	return metrics_new(defs, METRIC_MAX, shards);
}
