/*
 * Counters, gauges and histograms, rendered as Prometheus text (exposition
 * format 0.0.4). A family has up to two labels whose values are closed lists, with
 * a known room to grow, so its cells are an array and nothing is looked up or
 * allocated when counting.
 *
 * Threads: each shard writes its own cells (relaxed atomics); any thread may
 * render, which sums the shards. What the process as a whole has (sizes, limits)
 * is set by whoever renders, in cells of its own.
 */
#pragma once

#include "base/buf.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_label {
	const char *name;                /* NULL: no such label */
	const char *const *values;
	unsigned n;
	bool configured;                 /* the values are the operator's own names */
	unsigned room;                   /* for values that metrics_add_value() adds */
};

/* The buckets of a histogram. */
struct metric_bounds {
	const uint32_t *at;              /* rising; one more bucket is above the last */
	unsigned n;
	unsigned scale;                  /* what a value is divided by to be shown: 1, or 1000000 */
};

struct metric_def {
	const char *name, *help;         /* the name ends in its unit: _seconds, _bytes, _total of a count */
	enum metric_kind kind;
	struct metric_label label[2];
	const struct metric_bounds *bounds;      /* of a histogram; NULL: 0.5 ms to a minute */
	unsigned scale;                  /* of a counter or a gauge: as in metric_bounds; 0 is 1 */
};

struct metrics;

/* `defs` and the values of labels are copied, but names and help must outlive the
 * metrics. A metric's number is its place in `defs`. */
struct metrics *metrics_new(const struct metric_def *defs, unsigned n_defs, unsigned shards) MUST_CHECK;
void metrics_free(struct metrics *m);

/* One more value for every label of this name, with the next number: it is written
 * from now on. Copied. One thread at a time. False: no room is left for it. */
bool metrics_add_value(struct metrics *m, const char *label, const char *value) MUST_CHECK;

/* One shard's handle: what the shard's code counts with. */
struct meter {
	struct metrics *metrics;
	unsigned shard;
};

/* i, j: label values by number; 0 where there is no such label. */
void meter_add(struct meter m, unsigned metric, unsigned i, unsigned j, int64_t delta);
void meter_set(struct meter m, unsigned metric, unsigned i, unsigned j, int64_t value);
void meter_observe_us(struct meter m, unsigned metric, unsigned i, unsigned j, int64_t us); /* rendered in seconds */

/* Set what the process as a whole has, whatever the shards count. Any thread. */
void metrics_set(struct metrics *m, unsigned metric, unsigned i, unsigned j, int64_t value);

/* The same of a histogram without labels: `counts` has a number for each bucket,
 * the one above the last bound included; `sum` is that of the values. */
void metrics_set_histogram(struct metrics *m, unsigned metric, const uint64_t *counts, uint64_t sum);

/* What all shards together have counted; of a counter or a gauge. */
int64_t metrics_read(const struct metrics *m, unsigned metric, unsigned i, unsigned j);

void metrics_render(const struct metrics *m, struct buf *out);

/* Every family with its kind, unit, labels and help, as a Markdown table, or more
 * rows of one. */
void metrics_describe(const struct metrics *m, struct buf *out);
