#include "dispatch/metrics.h"

#include "base/builtwith.h"
#include "core/batch.h"
#include "store/store.h"
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

static const char *const tenant_limits[TENANT_LIMIT_MAX] = {
#define X(upper, lower) #lower,
	TENANT_LIMIT_TABLE(X)
#undef X
};

/* The first names of these lists never label anything: "none", "completed". */
enum { FIRST_ABORT = STOP_REASON_FIRST_FAILURE };

enum label {
	LABEL_NONE, LABEL_ROUTE, LABEL_HTTP_STATUS, LABEL_MODE, LABEL_OUTCOME, LABEL_STATUS, LABEL_CODE, LABEL_SERVICE,
	LABEL_REASON, LABEL_PROBLEM, LABEL_LIMIT, LABEL_VERSION, LABEL_SPAN_RESULT, LABEL_RELOAD,
	LABEL_LANE_WAIT, LABEL_BREAKER, LABEL_BREAKER_NOT_CLOSED, LABEL_TENANT, LABEL_TENANT_LIMIT, LABEL_MAX,
};

static const char *const routes[] = {
	"none", "POST /v1/batches", "GET /v1/batches", "GET /v1/batches/{id}", "DELETE /v1/batches/{id}",
	"GET /v1/batches/{id}/results", "GET /v1/batches/{id}/events", "POST /v1/batches/{id}/cancel",
	"POST /v1/batches/{id}/retry", "GET /v1/services", "GET /v1/limits", "GET /livez", "GET /readyz",
	"GET /metrics", "GET /openapi.json",
};

/* 499 as nginx has it: the client left before its answer. */
static const char *const http_statuses[] = {
	"499", "200", "202", "204", "207", "304", "400", "401", "403", "404", "405", "406", "409", "411", "413", "414",
	"415", "417", "422", "429", "431", "500", "501", "503", "505", "other",
};

static const uint32_t long_us[] = {1000, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000,
				   10000000, 30000000, 60000000, 300000000, 900000000, 3600000000};
static const struct metric_bounds long_bounds = {long_us, ARRAY_LEN(long_us), 1000000};
static const uint32_t lag_us[] = {100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000,
				  250000, 500000, 1000000};
static const struct metric_bounds lag_bounds = {lag_us, ARRAY_LEN(lag_us), 1000000};
static const struct metric_bounds commit_bounds = {store_timing_bounds_us, ARRAY_LEN(store_timing_bounds_us), 1000000};
static const struct metric_bounds group_bounds = {store_group_bounds, ARRAY_LEN(store_group_bounds), 1};
static const char *const batch_modes[] = {"synchronous", "asynchronous"};
static const char *const span_results[SPAN_RESULT_MAX] = {"exported", "dropped_full", "dropped_failed"};
static const char *const reload_results[RELOAD_RESULTS] = {"ok", "refused"};
static const char *const versions[] = {SETTLED_VERSION};

unsigned dispatch_metrics_route(const char *name)
{
	for (unsigned i = 0; name != NULL && i < ARRAY_LEN(routes); i++) {
		if (strcmp(routes[i], name) == 0)
			return i;
	}
	REQUIRE(name == NULL);
	return 0;
}

unsigned dispatch_metrics_status(int status)
{
	const char digits[4] = {(char)('0' + status / 100 % 10), (char)('0' + status / 10 % 10),
				(char)('0' + status % 10), '\0'};
	unsigned i = 0;

	while (status != 0 && i < ARRAY_LEN(http_statuses) - 1 && strcmp(http_statuses[i], digits) != 0)
		i++;
	return i;
}

struct limit_names {
	const char *name[64];
	unsigned n;
};

static void take_limit(void *arg, const char *name, int64_t value)
{
	struct limit_names *names = arg;

	(void)value;
	REQUIRE(names->n < ARRAY_LEN(names->name));
	names->name[names->n++] = name;
}

struct row {
	const char *name;
	enum metric_kind kind;
	enum label label[2];
	const struct metric_bounds *bounds;
	unsigned scale;
	const char *help;
};

static const struct row rows[METRIC_MAX] = {
	[METRIC_REQUESTS] = {"settled_http_requests_total", METRIC_COUNTER, {LABEL_ROUTE, LABEL_HTTP_STATUS},
		.help = "Requests that are over, by route and status; 499: the client left before its answer."},
	[METRIC_REQUEST_SECONDS] = {"settled_http_request_duration_seconds", METRIC_HISTOGRAM, {LABEL_ROUTE},
		.help = "From a request's first line to its answer's last byte, by route; a synchronous batch and a "
			"wait are part of it."},
	[METRIC_BATCHES] = {"settled_batches_total", METRIC_COUNTER, {LABEL_OUTCOME},
		.help = "Batches settled, by outcome."},
	[METRIC_BATCH_SECONDS] = {"settled_batch_duration_seconds", METRIC_HISTOGRAM,
		{LABEL_MODE, LABEL_OUTCOME}, &long_bounds,
		.help = "From a batch's acceptance to its end, by mode and outcome."},
	[METRIC_ITEMS] = {"settled_items_total", METRIC_COUNTER, {LABEL_STATUS, LABEL_CODE},
		.help = "Items settled, by status and last code."},
	[METRIC_ITEM_SECONDS] = {"settled_item_duration_seconds", METRIC_HISTOGRAM, {LABEL_SERVICE}, &long_bounds,
		.help = "From a batch's acceptance to an item's end, by service; waits between attempts are part of "
			"it."},
	[METRIC_ATTEMPTS] = {"settled_attempts_total", METRIC_COUNTER, {LABEL_SERVICE, LABEL_CODE},
		.help = "Attempts made, by service and code."},
	[METRIC_ATTEMPT_SECONDS] = {"settled_attempt_duration_seconds", METRIC_HISTOGRAM, {LABEL_SERVICE},
		.help = "Time from the start of an attempt to its outcome."},
	[METRIC_QUEUE_SECONDS] = {"settled_attempt_queue_seconds", METRIC_HISTOGRAM, {LABEL_SERVICE}, &long_bounds,
		.help = "How long an attempt waited in its lane for its start, by service."},
	[METRIC_ABORTS] = {"settled_aborts_total", METRIC_COUNTER, {LABEL_REASON},
		.help = "Batches ended before completion, by reason."},
	[METRIC_IN_FLIGHT] = {"settled_attempts_in_flight", METRIC_GAUGE, {LABEL_SERVICE},
		.help = "Attempts in flight, by service."},
	[METRIC_QUEUED] = {"settled_items_queued", METRIC_GAUGE,
		.help = "Unfinished items in memory, jobs' too, that are not in flight."},
	[METRIC_UNFINISHED] = {"settled_items_unfinished", METRIC_GAUGE,
		.help = "Unfinished items, but for jobs': what limits.queued_items bounds."},
	[METRIC_LANE_QUEUED] = {"settled_attempts_queued", METRIC_GAUGE, {LABEL_SERVICE},
		.help = "Attempts that wait for their start, by service."},
	[METRIC_REPEATS_QUEUED] = {"settled_repeats_queued", METRIC_GAUGE, {LABEL_SERVICE},
		.help = "Attempts that wait for their start and are not their item's first, by service."},
	[METRIC_LANES] = {"settled_lanes", METRIC_GAUGE, {LABEL_SERVICE},
		.help = "Lanes that something is known of, by service: one for each origin, or as many as its `lanes`."},
	[METRIC_LANES_PAUSED] = {"settled_lanes_paused", METRIC_GAUGE, {LABEL_SERVICE},
		.help = "Lanes that pause, as their origin asked for it, by service."},
	[METRIC_LANE_PAUSES] = {"settled_lane_pauses_total", METRIC_COUNTER, {LABEL_SERVICE},
		.help = "Answers of 429 or 503 with Retry-After that paused an origin, by service."},
	[METRIC_LANE_WAITS] = {"settled_lane_waits_total", METRIC_COUNTER, {LABEL_SERVICE, LABEL_LANE_WAIT},
		.help = "How often a lane's attempts began to wait, by service and for what."},
	[METRIC_BREAKERS] = {"settled_breakers", METRIC_GAUGE, {LABEL_SERVICE, LABEL_BREAKER_NOT_CLOSED},
		.help = "Lanes whose breaker is not closed, by service and state."},
	[METRIC_BREAKER_TRANSITIONS] = {"settled_breaker_transitions_total", METRIC_COUNTER,
		{LABEL_SERVICE, LABEL_BREAKER},
		.help = "Changes of breakers, by service and new state."},
	[METRIC_REFUSALS] = {"settled_attempts_refused_total", METRIC_COUNTER, {LABEL_SERVICE},
		.help = "Tries that an open breaker refused, by service."},
	[METRIC_RESIDENT_JOBS] = {"settled_jobs_resident", METRIC_GAUGE,
		.help = "Jobs in memory, and on their way into it."},
	[METRIC_RESIDENT_BYTES] = {"settled_jobs_resident_bytes", METRIC_GAUGE,
		.help = "Memory taken by jobs."},
	[METRIC_BACKLOG_JOBS] = {"settled_jobs_backlog", METRIC_GAUGE,
		.help = "Unfinished jobs that are in the store alone."},
	[METRIC_JOB_LOADS] = {"settled_job_loads_total", METRIC_COUNTER,
		.help = "Jobs asked back from the store."},
	[METRIC_JOB_PARKS] = {"settled_job_parks_total", METRIC_COUNTER,
		.help = "Jobs that left memory to wait."},
	[METRIC_JOBS_RECOVERED] = {"settled_batches_recovered_total", METRIC_COUNTER,
		.help = "Batches that the process before had not finished."},
	[METRIC_ITEMS_INTERRUPTED] = {"settled_items_interrupted_total", METRIC_COUNTER,
		.help = "Items that were in flight when the process before ended."},
	[METRIC_SHED] = {"settled_items_shed_total", METRIC_COUNTER,
		.help = "Items of best_effort batches that made room for others."},
	[METRIC_PARKED] = {"settled_requests_parked", METRIC_GAUGE,
		.help = "Requests waiting for their batch."},
	[METRIC_WAITING] = {"settled_requests_waiting", METRIC_GAUGE,
		.help = "Requests that wait for a batch that is not theirs."},
	[METRIC_REFUSED] = {"settled_requests_refused_total", METRIC_COUNTER, {LABEL_PROBLEM},
		.help = "Requests refused, by problem code."},
	[METRIC_EVENT_READERS] = {"settled_event_readers", METRIC_GAUGE,
		.help = "Readers of event streams."},
	[METRIC_RELOADS] = {"settled_config_reloads_total", METRIC_COUNTER, {LABEL_RELOAD},
		.help = "Reloads of the configuration, by result."},
	[METRIC_RELOADED_AT] = {"settled_config_last_reload_success_timestamp_seconds", METRIC_GAUGE, {LABEL_NONE},
		.help = "When the configuration in force was read."},
	[METRIC_SPANS] = {"settled_spans_total", METRIC_COUNTER, {LABEL_SPAN_RESULT},
		.help = "Spans of traces, by what became of them: dropped_full is for want of room, dropped_failed by the "
			"collector's fault."},
	[METRIC_CONNECTIONS] = {"settled_connections", METRIC_GAUGE,
		.help = "Callers' connections, open."},
	[METRIC_LOOP_LAG] = {"settled_loop_lag_seconds", METRIC_HISTOGRAM, {LABEL_NONE}, &lag_bounds,
		.help = "How late a timer of an event loop rang; ten looks a second in each shard."},
	[METRIC_HELD_BYTES] = {"settled_batches_held_bytes", METRIC_GAUGE,
		.help = "Memory for batches that are not done, and for bodies."},
	[METRIC_TENANT_BATCHES] = {"settled_tenant_batches_total", METRIC_COUNTER, {LABEL_TENANT},
		.help = "Batches accepted, by tenant; who has no key has no name."},
	[METRIC_TENANT_ITEMS] = {"settled_tenant_items_total", METRIC_COUNTER, {LABEL_TENANT},
		.help = "Items of accepted batches, by tenant."},
	[METRIC_TENANT_QUEUED] = {"settled_tenant_items_queued", METRIC_GAUGE, {LABEL_TENANT},
		.help = "Unfinished items, those of jobs too, by tenant."},
	[METRIC_TENANT_HELD] = {"settled_tenant_held", METRIC_GAUGE, {LABEL_TENANT, LABEL_TENANT_LIMIT},
		.help = "How much each tenant has of a limit that all share, see settled_limit; items and bytes but for jobs', "
			"connections for callers who wait for their batches."},
	[METRIC_LIMITS] = {"settled_limit", METRIC_GAUGE, {LABEL_LIMIT},
		.help = "Each setting under limits, as it is in force."},
	[METRIC_LOG_DROPPED] = {"settled_log_lines_dropped_total", METRIC_COUNTER,
		.help = "Log lines that standard error did not take."},
	[METRIC_STORE_FAILING] = {"settled_store_failing", METRIC_GAUGE,
		.help = "1 while the store cannot write."},
	[METRIC_STORE_QUEUED_OPS] = {"settled_store_queued_operations", METRIC_GAUGE,
		.help = "Operations that wait for the store's writer."},
	[METRIC_STORE_QUEUED_BYTES] = {"settled_store_queued_bytes", METRIC_GAUGE,
		.help = "Bytes of batches that wait for the store's writer."},
	[METRIC_STORE_FILE_BYTES] = {"settled_store_file_bytes", METRIC_GAUGE,
		.help = "Size of the database and its log."},
	[METRIC_STORE_UNFINISHED] = {"settled_store_unfinished_items", METRIC_GAUGE,
		.help = "Items in the store without a final result."},
	[METRIC_STORE_OLDEST] = {"settled_store_oldest_unfinished_seconds", METRIC_GAUGE, {LABEL_NONE}, NULL, 1000000,
		.help = "Age of the oldest batch that is not done."},
	[METRIC_STORE_DROPPED] = {"settled_store_dropped_total", METRIC_COUNTER,
		.help = "Results that the store could not keep."},
	[METRIC_STORE_COMMIT_SECONDS] = {"settled_store_commit_duration_seconds", METRIC_HISTOGRAM,
		{LABEL_NONE}, &commit_bounds,
		.help = "Time that the commit of a group took, without its writes."},
	[METRIC_STORE_GROUP] = {"settled_store_group_operations", METRIC_HISTOGRAM, {LABEL_NONE}, &group_bounds,
		.help = "Operations in one commit."},
	[METRIC_RECOVERY_SECONDS] = {"settled_recovery_seconds", METRIC_GAUGE, {LABEL_NONE}, NULL, 1000000,
		.help = "How long the start took to find unfinished batches."},
	[METRIC_BUILD_INFO] = {"settled_build_info", METRIC_GAUGE, {LABEL_VERSION},
		.help = "Always 1; the label says which version runs."},
	[METRIC_PROCESS_START] = {"process_start_time_seconds", METRIC_GAUGE, {LABEL_NONE}, NULL, 1000000,
		.help = "When the process started, since 1970."},
	[METRIC_PROCESS_CPU] = {"process_cpu_seconds_total", METRIC_COUNTER, {LABEL_NONE}, NULL, 1000000,
		.help = "Processor time that the process has used."},
	[METRIC_PROCESS_RESIDENT] = {"process_resident_memory_bytes", METRIC_GAUGE,
		.help = "Resident memory."},
	[METRIC_PROCESS_VIRTUAL] = {"process_virtual_memory_bytes", METRIC_GAUGE,
		.help = "Virtual memory."},
	[METRIC_PROCESS_FDS] = {"process_open_fds", METRIC_GAUGE,
		.help = "File descriptors, open."},
	[METRIC_PROCESS_FDS_MAX] = {"process_max_fds", METRIC_GAUGE,
		.help = "File descriptors that the process may have."},
};

/* The values of each label, found when the metrics are made: those of the
 * configuration live as long as it does. */
struct labels {
	struct metric_label of[LABEL_MAX];
	const char *codes[CODE_MAX], *statuses[STATUS_MAX], *outcomes[BATCH_OUTCOME_MAX], *reasons[STOP_REASON_MAX],
		*problems[PROBLEM_MAX], *waits[LANE_WAIT_MAX], *breakers[BREAKER_STATE_MAX], *services[UINT16_MAX],
		*tenants[TENANTS_MAX + 1];
	struct limit_names limits;
};

#define NAMES(fn, array)                                   \
	for (unsigned i = 0; i < ARRAY_LEN(array); i++)    \
		array[i] = fn(i)

static void find_names(struct labels *l, const struct config *config)
{
	NAMES(code_str, l->codes);
	NAMES(status_str, l->statuses);
	NAMES(batch_outcome_str, l->outcomes);
	NAMES(stop_reason_str, l->reasons);
	NAMES(problem_str, l->problems);
	NAMES(lane_wait_str, l->waits);
	NAMES(breaker_state_str, l->breakers);
	for (size_t i = 0; i < config->n_services; i++)
		l->services[i] = config->services[i].name;
	for (size_t i = 0; i < config->n_tenants; i++)
		l->tenants[i] = config->tenants[i].name;
	l->limits.n = 0;
	config_each_limit(config, take_limit, &l->limits);
}

/* For those that a reload adds. */
static unsigned room(size_t most, size_t n)
{
	return (unsigned)(MAX(most, n) - n);
}

static void find_labels(struct labels *l, const struct config *config)
{
	const struct metric_label of[LABEL_MAX] = {
		[LABEL_ROUTE] = {"route", routes, ARRAY_LEN(routes)},
		[LABEL_HTTP_STATUS] = {"status", http_statuses, ARRAY_LEN(http_statuses)},
		[LABEL_MODE] = {"mode", batch_modes, ARRAY_LEN(batch_modes)},
		[LABEL_OUTCOME] = {"outcome", l->outcomes + 1, BATCH_OUTCOME_MAX - 1},
		[LABEL_STATUS] = {"status", l->statuses, STATUS_MAX},
		[LABEL_CODE] = {"code", l->codes, CODE_MAX},
		[LABEL_SERVICE] = {"service", l->services, (unsigned)config->n_services, true,
				   .room = room(config->service_slots, config->n_services)},
		[LABEL_LANE_WAIT] = {"reason", l->waits + 1, LANE_WAIT_MAX - 1},
		[LABEL_BREAKER] = {"state", l->breakers, BREAKER_STATE_MAX},
		[LABEL_BREAKER_NOT_CLOSED] = {"state", l->breakers + 1, BREAKER_STATE_MAX - 1},
		[LABEL_TENANT] = {"tenant", l->tenants, (unsigned)config->n_tenants, true,
				  .room = room(TENANTS_MAX + 1, config->n_tenants)},
		[LABEL_TENANT_LIMIT] = {"limit", tenant_limits, ARRAY_LEN(tenant_limits)},
		[LABEL_REASON] = {"reason", l->reasons + FIRST_ABORT, STOP_REASON_MAX - FIRST_ABORT},
		[LABEL_PROBLEM] = {"problem", l->problems, PROBLEM_MAX},
		[LABEL_LIMIT] = {"limit", l->limits.name, l->limits.n},
		[LABEL_SPAN_RESULT] = {"result", span_results, ARRAY_LEN(span_results)},
		[LABEL_RELOAD] = {"result", reload_results, ARRAY_LEN(reload_results)},
		[LABEL_VERSION] = {"version", versions, ARRAY_LEN(versions)},
	};

	memcpy(l->of, of, sizeof of);
}

struct metrics *dispatch_metrics_new(const struct config *config, unsigned shards)
{
	static struct labels labels;
	struct metric_def defs[METRIC_MAX];

	find_names(&labels, config);
	find_labels(&labels, config);
	for (unsigned i = 0; i < METRIC_MAX; i++)
		defs[i] = (struct metric_def){.name = rows[i].name, .help = rows[i].help, .kind = rows[i].kind,
					      .label = {labels.of[rows[i].label[0]], labels.of[rows[i].label[1]]},
					      .bounds = rows[i].bounds, .scale = rows[i].scale};
	return metrics_new(defs, METRIC_MAX, shards);
}

void dispatch_metrics_grow(struct metrics *m, const struct config *config, const struct config *known)
{
	for (size_t i = known->n_services; i < config->n_services; i++)
		REQUIRE(metrics_add_value(m, "service", config->services[i].name));
	for (size_t i = known->n_tenants; i < config->n_tenants; i++)
		REQUIRE(metrics_add_value(m, "tenant", config->tenants[i].name));
}
