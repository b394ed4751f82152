/*
 * What /metrics says of the store, which counts for itself and not by shard.
 */
#include "routes-i.h"

struct gauge {
	const char *name, *help;
	double value;
};

static void add_head(struct buf *out, const char *name, const char *help, const char *type)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_gauges(struct buf *out, const struct store_status *s, int64_t now_unix_ms, int64_t recovery_ms)
{
	int64_t oldest_ms = s->oldest_unfinished_unix_ms;
	const struct gauge gauges[] = {
		{"settled_store_failing", "1 while the store cannot write.", s->failing},
		{"settled_store_queued_operations", "Operations that wait for the store's writer.", (double)s->queued_ops},
		{"settled_store_queued_bytes", "Bytes of batches that wait for the store's writer.", (double)s->queued_bytes},
		{"settled_store_file_bytes", "Size of the database and its log.", (double)s->file_bytes},
		{"settled_store_unfinished_items", "Items in the store without a final result.",
		 (double)s->unfinished_items},
		{"settled_store_oldest_unfinished_seconds", "Age of the oldest batch that is not done.",
		 oldest_ms == 0 ? 0 : (double)MAX(now_unix_ms - oldest_ms, INT64_C(0)) / 1e3},
		{"settled_recovery_seconds", "How long the start took to find unfinished batches.",
		 (double)recovery_ms / 1e3},
	};

	for (size_t i = 0; i < ARRAY_LEN(gauges); i++) {
		add_head(out, gauges[i].name, gauges[i].help, "gauge");
		buf_printf(out, "%s %.6f\n", gauges[i].name, gauges[i].value);
	}
	add_head(out, "settled_store_dropped_total", "Results that the store could not keep.", "counter");
	buf_printf(out, "settled_store_dropped_total %llu\n", (unsigned long long)s->dropped);
}

/* `scale`: what a bound is divided by to be shown. */
static void add_buckets(struct buf *out, const char *name, const uint32_t *bounds, const uint64_t *cells, double scale)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < ARRAY_LEN(store_group_bounds); i++) {
		sum += cells[i];
		buf_printf(out, "%s_bucket{le=\"%.6g\"} %llu\n", name, bounds[i] / scale, (unsigned long long)sum);
	}
}

static void add_histogram(struct buf *out, const char *name, double sum, uint64_t count)
{
	buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name, (unsigned long long)count,
		   name, sum, name, (unsigned long long)count);
}

void store_metrics_render(struct routes *r, struct buf *out)
{
	static const char seconds[] = "settled_store_commit_duration_seconds";
	static const char group[] = "settled_store_group_operations";
	struct store_status status;
	struct store_timings t;

	store_status(r->env.store, &status);
	store_timings(r->env.store, &t);
	add_gauges(out, &status, loop_unix_ms(r->env.loop), r->env.group->recovery_ms);
	add_head(out, seconds, "Time that the commit of a group took, without its writes.", "histogram");
	add_buckets(out, seconds, store_timing_bounds_us, t.commit_us_le, 1e6);
	add_histogram(out, seconds, (double)t.commit_us_sum / 1e6, t.commits);
	add_head(out, group, "Operations in one commit.", "histogram");
	add_buckets(out, group, store_group_bounds, t.group_le, 1);
	add_histogram(out, group, (double)t.ops, t.commits);
}
