/*
 * What /metrics says of the process as a whole: nobody counts it as it happens,
 * so it is looked up when somebody asks. The store counts for itself; the rest
 * is the kernel's (proc(5)).
 */
#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "routes-i.h"

static void sample_store(struct metrics *m, struct store *store, int64_t now_unix_ms)
{
	struct store_status s;
	struct store_timings t;
	int64_t oldest_ms;

	store_status(store, &s);
	store_timings(store, &t);
	oldest_ms = s.oldest_unfinished_unix_ms == 0 ? 0 : MAX(now_unix_ms - s.oldest_unfinished_unix_ms, INT64_C(0));
	metrics_set(m, METRIC_STORE_FAILING, 0, 0, s.failing);
	metrics_set(m, METRIC_STORE_QUEUED_OPS, 0, 0, (int64_t)s.queued_ops);
	metrics_set(m, METRIC_STORE_QUEUED_BYTES, 0, 0, (int64_t)s.queued_bytes);
	metrics_set(m, METRIC_STORE_FILE_BYTES, 0, 0, (int64_t)s.file_bytes);
	metrics_set(m, METRIC_STORE_UNFINISHED, 0, 0, (int64_t)s.unfinished_items);
	metrics_set(m, METRIC_STORE_OLDEST, 0, 0, oldest_ms * 1000);
	metrics_set(m, METRIC_STORE_DROPPED, 0, 0, (int64_t)s.dropped);
	metrics_set_histogram(m, METRIC_STORE_COMMIT_SECONDS, t.commit_us_le, t.commit_us_sum);
	metrics_set_histogram(m, METRIC_STORE_GROUP, t.group_le, t.ops);
}

static void sample_held(struct metrics *m, unsigned tenant, const struct dispatch_tenant *t)
{
	const int64_t held[TENANT_LIMIT_MAX] = {
		[TENANT_LIMIT_ITEMS] = atomic_load(&t->unfinished),
		[TENANT_LIMIT_BYTES] = (int64_t)atomic_load(&t->bytes),
		[TENANT_LIMIT_CALLERS] = atomic_load(&t->callers),
		[TENANT_LIMIT_WAITING] = atomic_load(&t->waiting),
		[TENANT_LIMIT_READERS] = atomic_load(&t->readers),
	};

	for (unsigned i = 0; i < TENANT_LIMIT_MAX; i++)
		metrics_set(m, METRIC_TENANT_HELD, tenant, i, held[i]);
}

static void sample_tenants(struct metrics *m, const struct routes *r)
{
	for (unsigned i = 0; i < r->env.config->n_tenants; i++) {
		struct dispatch_tenant *t = &r->env.group->tenants.of[i];

		metrics_set(m, METRIC_TENANT_BATCHES, i, 0, (int64_t)atomic_load(&t->batches));
		metrics_set(m, METRIC_TENANT_ITEMS, i, 0, (int64_t)atomic_load(&t->items));
		metrics_set(m, METRIC_TENANT_QUEUED, i, 0, (int64_t)atomic_load(&t->queued));
		sample_held(m, i, t);
	}
}

struct limits {
	struct metrics *metrics;
	unsigned n;
};

static void sample_limit(void *arg, const char *name, int64_t value)
{
	struct limits *l = arg;

	(void)name;
	metrics_set(l->metrics, METRIC_LIMITS, l->n++, 0, value);
}

static int64_t count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int64_t n = -3;                  /* ".", "..", and the directory's own */

	if (dir == NULL)
		return 0;
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

/* In pages: all, and those in memory. */
static void sample_memory(struct metrics *m)
{
	FILE *f = fopen("/proc/self/statm", "re");
	long long all, resident, page = sysconf(_SC_PAGESIZE);

	if (f == NULL)
		return;
	if (fscanf(f, "%lld %lld", &all, &resident) == 2) {
		metrics_set(m, METRIC_PROCESS_VIRTUAL, 0, 0, all * page);
		metrics_set(m, METRIC_PROCESS_RESIDENT, 0, 0, resident * page);
	}
	fclose(f);
}

static void sample_process(struct metrics *m)
{
	struct rusage used;
	struct rlimit files;

	sample_memory(m);
	if (getrusage(RUSAGE_SELF, &used) == 0)
		metrics_set(m, METRIC_PROCESS_CPU, 0, 0,
			    ((int64_t)used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 + used.ru_utime.tv_usec +
				    used.ru_stime.tv_usec);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0)
		metrics_set(m, METRIC_PROCESS_FDS_MAX, 0, 0, (int64_t)files.rlim_cur);
	metrics_set(m, METRIC_PROCESS_FDS, 0, 0, count_fds());
	metrics_set(m, METRIC_LOG_DROPPED, 0, 0, (int64_t)log_lines_dropped());
	metrics_set(m, METRIC_BUILD_INFO, 0, 0, 1);
}

void sample(struct routes *r)
{
	struct metrics *m = r->env.meter.metrics;
	struct limits limits = {.metrics = m};

	sample_store(m, r->env.store, loop_unix_ms(r->env.loop));
	config_each_limit(r->env.config, sample_limit, &limits);
	sample_tenants(m, r);
	sample_process(m);
	metrics_set(m, METRIC_UNFINISHED, 0, 0, (int64_t)atomic_load(&r->env.group->unfinished));
	metrics_set(m, METRIC_HELD_BYTES, 0, 0, (int64_t)atomic_load(&r->env.group->held_bytes));
	metrics_set(m, METRIC_RECOVERY_SECONDS, 0, 0, r->env.group->recovery_ms * 1000);
	metrics_set(m, METRIC_PROCESS_START, 0, 0, r->env.group->started_unix_ms * 1000);
}
