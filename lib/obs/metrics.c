/*
 * Invariants
 *  1. Every shard has a block of its own on its own cache lines, and the process
 *     has the last one, laid out alike: a family's cells stand together, row i
 *     before row i + 1.
 *  2. A cell is one number; a histogram's is a count for each bucket (the last
 *     one above every bound) and the sum of the values.
 *  3. Cells are atomics without order: a number is exact, two numbers may be
 *     from different instants. A histogram's `_count` is the sum of the buckets
 *     just read, so these always agree.
 *
 * What is left out of the text: a counter's or histogram's cell with two labels
 * that never counted. Everything else is written, zero or not, so that a rate
 * over it exists from the start.
 */
#include "obs/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static const uint32_t default_us[] = {500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000,
				      2500000, 5000000, 10000000, 30000000, 60000000};
static const struct metric_bounds default_bounds = {default_us, ARRAY_LEN(default_us), 1000000};

enum { CACHE_LINE = 64, BUCKETS_MAX = 32 };

struct family {
	struct metric_def def;
	unsigned n[2];                   /* rows and columns, 1 for no label; reserved ones too */
	char **values[2];                /* of each label */
	atomic_uint used[2];             /* of n: written */
	size_t first;                    /* place of its first number in a block */
	size_t width;                    /* numbers per cell */
};

struct metrics {
	struct family *families;
	unsigned n_families, n_blocks;
	_Atomic int64_t **blocks;        /* one per shard, and the process's */
	void *memory;                    /* of all blocks */
};

static size_t family_init(struct family *f, const struct metric_def *def, size_t first)
{
	REQUIRE(def->label[0].name != NULL || def->label[1].name == NULL);
	f->def = *def;
	f->first = first;
	if (f->def.bounds == NULL)
		f->def.bounds = &default_bounds;
	REQUIRE(f->def.bounds->n < BUCKETS_MAX);
	f->def.scale = MAX(def->scale, 1u);
	f->width = def->kind == METRIC_HISTOGRAM ? f->def.bounds->n + 2 : 1;
	for (int k = 0; k < 2; k++) {
		const struct metric_label *l = &def->label[k];
		unsigned used = l->name == NULL ? 1 : l->n;

		f->n[k] = used + l->room;
		f->values[k] = xcalloc(MAX(f->n[k], 1u), sizeof *f->values[k]);
		for (unsigned i = 0; i < l->n; i++)
			f->values[k][i] = xstrdup(l->values[i]);
		atomic_init(&f->used[k], used);
	}
	return first + (size_t)f->n[0] * f->n[1] * f->width;
}

static void family_done(struct family *f)
{
	for (int k = 0; k < 2; k++) {
		for (unsigned i = 0; f->values[k] != NULL && i < f->n[k]; i++)
			free(f->values[k][i]);
		free(f->values[k]);
	}
}

struct metrics *metrics_new(const struct metric_def *defs, unsigned n_defs, unsigned shards)
{
	struct metrics *m = xcalloc(1, sizeof *m);
	size_t numbers = 0, bytes;
	char *at;

	m->families = xcalloc(MAX(n_defs, 1u), sizeof *m->families);
	m->blocks = xcalloc(shards + 1, sizeof *m->blocks);
	m->n_families = n_defs;
	for (unsigned i = 0; i < n_defs; i++)
		numbers = family_init(&m->families[i], &defs[i], numbers);
	bytes = (numbers * sizeof **m->blocks / CACHE_LINE + 1) * CACHE_LINE;
	/* Zero as it comes from the kernel: reserved cells take no memory until they count. */
	m->memory = xcalloc(1, (shards + 1) * bytes + CACHE_LINE);
	at = (char *)m->memory + CACHE_LINE - (uintptr_t)m->memory % CACHE_LINE;
	for (; m->n_blocks < shards + 1; at += bytes)
		m->blocks[m->n_blocks++] = (_Atomic int64_t *)at;
	return m;
}

void metrics_free(struct metrics *m)
{
	if (m == NULL)
		return;
	free(m->memory);
	free(m->blocks);
	for (unsigned i = 0; i < m->n_families; i++)
		family_done(&m->families[i]);
	free(m->families);
	free(m);
}

/* Whoever sees the number sees the value. */
static bool grow(struct family *f, int k, const char *value)
{
	unsigned n = atomic_load_explicit(&f->used[k], memory_order_relaxed);

	if (n == f->n[k])
		return false;
	f->values[k][n] = xstrdup(value);
	atomic_store_explicit(&f->used[k], n + 1, memory_order_release);
	return true;
}

bool metrics_add_value(struct metrics *m, const char *label, const char *value)
{
	bool ok = true;

	for (unsigned i = 0; i < m->n_families; i++) {
		for (int k = 0; k < 2; k++) {
			const char *name = m->families[i].def.label[k].name;

			if (name != NULL && strcmp(name, label) == 0)
				ok &= grow(&m->families[i], k, value);
		}
	}
	return ok;
}

static size_t family_at(const struct family *f, unsigned i, unsigned j)
{
	REQUIRE(i < f->n[0] && j < f->n[1]);
	return f->first + ((size_t)i * f->n[1] + j) * f->width;
}

/* The numbers of one cell in the meter's own block. */
static _Atomic int64_t *meter_cell(struct meter m, unsigned metric, unsigned i, unsigned j)
{
	REQUIRE(metric < m.metrics->n_families && m.shard < m.metrics->n_blocks - 1);
	return m.metrics->blocks[m.shard] + family_at(&m.metrics->families[metric], i, j);
}

void meter_add(struct meter m, unsigned metric, unsigned i, unsigned j, int64_t delta)
{
	if (m.metrics == NULL)
		return;
	REQUIRE(m.metrics->families[metric].width == 1);
	atomic_fetch_add_explicit(meter_cell(m, metric, i, j), delta, memory_order_relaxed);
}

void meter_set(struct meter m, unsigned metric, unsigned i, unsigned j, int64_t value)
{
	if (m.metrics == NULL)
		return;
	REQUIRE(m.metrics->families[metric].width == 1);
	atomic_store_explicit(meter_cell(m, metric, i, j), value, memory_order_relaxed);
}

void meter_observe_us(struct meter m, unsigned metric, unsigned i, unsigned j, int64_t us)
{
	const struct metric_bounds *bounds;
	_Atomic int64_t *cell;
	unsigned bucket = 0;

	if (m.metrics == NULL)
		return;
	REQUIRE(m.metrics->families[metric].def.kind == METRIC_HISTOGRAM);
	bounds = m.metrics->families[metric].def.bounds;
	cell = meter_cell(m, metric, i, j);
	while (bucket < bounds->n && us > (int64_t)bounds->at[bucket])
		bucket++;
	atomic_fetch_add_explicit(&cell[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&cell[bounds->n + 1], MAX(us, 0), memory_order_relaxed);
}

void metrics_set(struct metrics *m, unsigned metric, unsigned i, unsigned j, int64_t value)
{
	REQUIRE(metric < m->n_families && m->families[metric].width == 1);
	atomic_store_explicit(&m->blocks[m->n_blocks - 1][family_at(&m->families[metric], i, j)], value,
			      memory_order_relaxed);
}

void metrics_set_histogram(struct metrics *m, unsigned metric, const uint64_t *counts, uint64_t sum)
{
	const struct family *f = &m->families[metric];
	_Atomic int64_t *cell;

	REQUIRE(metric < m->n_families && f->def.kind == METRIC_HISTOGRAM && f->n[0] == 1);
	cell = m->blocks[m->n_blocks - 1] + f->first;
	for (unsigned b = 0; b <= f->def.bounds->n; b++)
		atomic_store_explicit(&cell[b], (int64_t)counts[b], memory_order_relaxed);
	atomic_store_explicit(&cell[f->def.bounds->n + 1], (int64_t)sum, memory_order_relaxed);
}

static int64_t metrics_sum(const struct metrics *m, size_t at)
{
	int64_t sum = 0;

	for (unsigned i = 0; i < m->n_blocks; i++)
		sum += atomic_load_explicit(&m->blocks[i][at], memory_order_relaxed);
	return sum;
}

int64_t metrics_read(const struct metrics *m, unsigned metric, unsigned i, unsigned j)
{
	REQUIRE(metric < m->n_families && m->families[metric].width == 1);
	return metrics_sum(m, family_at(&m->families[metric], i, j));
}

/* HELP text escapes backslash and newline; a label's value the quote as well. */
static void add_escaped(struct buf *out, const char *s, bool in_quotes)
{
	for (; *s != '\0'; s++) {
		if (*s == '\n') {
			buf_add_str(out, "\\n");
			continue;
		}
		if (*s == '\\' || (*s == '"' && in_quotes))
			buf_add_char(out, '\\');
		buf_add_char(out, *s);
	}
}

static void add_label(struct buf *out, char before, const char *name, const char *value)
{
	buf_add_char(out, before);
	buf_add_str(out, name);
	buf_add_str(out, "=\"");
	add_escaped(out, value, true);
	buf_add_char(out, '"');
}

/* name, suffix and labels, up to the space before the number. */
static void add_series(struct buf *out, const struct family *f, const unsigned at[2],
		       const char *suffix, const char *le)
{
	char before = '{';

	buf_add_str(out, f->def.name);
	buf_add_str(out, suffix);
	for (int k = 0; k < 2 && f->def.label[k].name != NULL; k++) {
		add_label(out, before, f->def.label[k].name, f->values[k][at[k]]);
		before = ',';
	}
	if (le != NULL) {
		add_label(out, before, "le", le);
		before = ',';
	}
	buf_add_str(out, before == '{' ? " " : "} ");
}

/* `scale` is 1 or a million. */
static void add_value(struct buf *out, int64_t v, unsigned scale)
{
	if (scale == 1)
		buf_add_i64(out, v);
	else
		buf_printf(out, "%s%lld.%06lld", v < 0 ? "-" : "", llabs(v / scale), llabs(v % scale));
	buf_add_char(out, '\n');
}

static void render_histogram(const struct metrics *m, const struct family *f,
	                     const unsigned at[2], struct buf *out)
{
	const struct metric_bounds *bounds = f->def.bounds;
	size_t first = family_at(f, at[0], at[1]);
	int64_t n[BUCKETS_MAX], count = 0, below = 0;
	int64_t sum = metrics_sum(m, first + bounds->n + 1);
	char le[32];

	for (unsigned b = 0; b <= bounds->n; b++)
		count += n[b] = metrics_sum(m, first + b);
	if (count == 0 && f->def.label[1].name != NULL)
		return;
	for (unsigned b = 0; b <= bounds->n; b++) {
		below += n[b];
		if (b < bounds->n)
			snprintf(le, sizeof le, "%.6g", (double)bounds->at[b] / bounds->scale);
		add_series(out, f, at, "_bucket", b < bounds->n ? le : "+Inf");
		add_value(out, below, 1);
	}
	add_series(out, f, at, "_sum", NULL);
	add_value(out, sum, bounds->scale);
	add_series(out, f, at, "_count", NULL);
	add_value(out, count, 1);
}

static void render_number(const struct metrics *m, const struct family *f,
	                  const unsigned at[2], struct buf *out)
{
	int64_t v = metrics_sum(m, family_at(f, at[0], at[1]));

	if (v == 0 && f->def.kind == METRIC_COUNTER && f->def.label[1].name != NULL)
		return;
	add_series(out, f, at, "", NULL);
	add_value(out, v, f->def.scale);
}

static const char *const kinds[] = {
	[METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram",
};

static void render_head(const struct family *f, struct buf *out)
{
	buf_printf(out, "# HELP %s ", f->def.name);
	add_escaped(out, f->def.help, false);
	buf_printf(out, "\n# TYPE %s %s\n", f->def.name, kinds[f->def.kind]);
}

void metrics_render(const struct metrics *m, struct buf *out)
{
	for (unsigned k = 0; k < m->n_families; k++) {
		const struct family *f = &m->families[k];
		unsigned at[2], n[2];

		for (int l = 0; l < 2; l++)
			n[l] = atomic_load_explicit(&f->used[l], memory_order_acquire);
		render_head(f, out);
		for (at[0] = 0; at[0] < n[0]; at[0]++) {
			for (at[1] = 0; at[1] < n[1]; at[1]++) {
				if (f->def.kind == METRIC_HISTOGRAM)
					render_histogram(m, f, at, out);
				else
					render_number(m, f, at, out);
			}
		}
	}
}

/* The operator knows the names that are his own. */
static void describe_label(const struct metric_label *l, struct buf *out)
{
	buf_printf(out, "`%s`", l->name);
	if (l->configured)
		return;
	for (unsigned i = 0; i < l->n; i++)
		buf_printf(out, "%s%s", i == 0 ? " (" : ", ", l->values[i]);
	buf_add_char(out, ')');
}

/* As its name ends: Prometheus's own rule. */
static const char *unit_of(const struct metric_def *def)
{
	const char *total = strstr(def->name, "_total");
	size_t n = total == NULL ? strlen(def->name) : (size_t)(total - def->name);

	if (n > 8 && strncmp(def->name + n - 8, "_seconds", 8) == 0)
		return "seconds";
	if (n > 6 && strncmp(def->name + n - 6, "_bytes", 6) == 0)
		return "bytes";
	return "count";
}

void metrics_describe(const struct metrics *m, struct buf *out)
{
	if (out->n == 0)
		buf_add_str(out, "| Metric | Kind | Unit | Labels | Says |\n|---|---|---|---|---|\n");
	for (unsigned k = 0; k < m->n_families; k++) {
		const struct metric_def *def = &m->families[k].def;

		buf_printf(out, "| `%s` | %s | %s | ", def->name, kinds[def->kind], unit_of(def));
		for (int i = 0; i < 2 && def->label[i].name != NULL; i++) {
			buf_add_str(out, i == 0 ? "" : ", ");
			describe_label(&def->label[i], out);
		}
		buf_printf(out, " | %s |\n", def->help);
	}
}
