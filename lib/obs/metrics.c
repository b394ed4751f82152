/*
 * Invariants
 *  1. Every shard has a block of its own on its own cache lines, laid out alike:
 *     a family's cells stand together, row i before row i + 1.
 *  2. A cell is one number; a histogram's is N_BUCKETS + 1 counts (the last one
 *     above every bound) and the sum in microseconds.
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
#include <stdlib.h>

static const struct bound {
	int64_t us;
	const char *le;
} bounds[] = {
	{500, "0.0005"},   {1000, "0.001"},   {2500, "0.0025"},  {5000, "0.005"},
	{10000, "0.01"},   {25000, "0.025"},  {50000, "0.05"},   {100000, "0.1"},
	{250000, "0.25"},  {500000, "0.5"},   {1000000, "1"},    {2500000, "2.5"},
	{5000000, "5"},    {10000000, "10"},  {30000000, "30"},  {60000000, "60"},
};

enum {
	CACHE_LINE = 64,
	N_BUCKETS = ARRAY_LEN(bounds),
	HISTOGRAM_NUMBERS = N_BUCKETS + 2,
	HISTOGRAM_SUM = N_BUCKETS + 1,
};

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
	unsigned n_families, shards;
	_Atomic int64_t **blocks;        /* one per shard */
};

static size_t family_init(struct family *f, const struct metric_def *def, size_t first)
{
	REQUIRE(def->label[0].name != NULL || def->label[1].name == NULL);
	f->def = *def;
	f->first = first;
	f->width = def->kind == METRIC_HISTOGRAM ? HISTOGRAM_NUMBERS : 1;
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

	m->families = xcalloc(MAX(n_defs, 1u), sizeof *m->families);
	m->blocks = xcalloc(MAX(shards, 1u), sizeof *m->blocks);
	m->n_families = n_defs;
	for (unsigned i = 0; i < n_defs; i++)
		numbers = family_init(&m->families[i], &defs[i], numbers);
	bytes = (numbers * sizeof **m->blocks / CACHE_LINE + 1) * CACHE_LINE;
	for (; m->shards < shards; m->shards++) {
		m->blocks[m->shards] = aligned_alloc(CACHE_LINE, bytes);
		if (m->blocks[m->shards] == NULL) {
			metrics_free(m);
			return NULL;
		}
		memset(m->blocks[m->shards], 0, bytes);
	}
	return m;
}

void metrics_free(struct metrics *m)
{
	if (m == NULL)
		return;
	for (unsigned i = 0; i < m->shards; i++)
		free(m->blocks[i]);
	free(m->blocks);
	for (unsigned i = 0; i < m->n_families; i++)
		family_done(&m->families[i]);
	free(m->families);
	free(m);
}

/* Whoever sees the number sees the value. */
static bool add_value(struct family *f, int k, const char *value)
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
				ok &= add_value(&m->families[i], k, value);
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
	REQUIRE(metric < m.metrics->n_families && m.shard < m.metrics->shards);
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
	_Atomic int64_t *cell;
	unsigned bucket = 0;

	if (m.metrics == NULL)
		return;
	REQUIRE(m.metrics->families[metric].width == HISTOGRAM_NUMBERS);
	cell = meter_cell(m, metric, i, j);
	while (bucket < N_BUCKETS && us > bounds[bucket].us)
		bucket++;
	atomic_fetch_add_explicit(&cell[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&cell[HISTOGRAM_SUM], MAX(us, 0), memory_order_relaxed);
}

static int64_t metrics_sum(const struct metrics *m, size_t at)
{
	int64_t sum = 0;

	for (unsigned i = 0; i < m->shards; i++)
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

static void render_histogram(const struct metrics *m, const struct family *f,
	                     const unsigned at[2], struct buf *out)
{
	size_t first = family_at(f, at[0], at[1]);
	int64_t n[N_BUCKETS + 1], count = 0, below = 0;
	int64_t sum = metrics_sum(m, first + HISTOGRAM_SUM);

	for (size_t b = 0; b <= N_BUCKETS; b++)
		count += n[b] = metrics_sum(m, first + b);
	if (count == 0 && f->def.label[1].name != NULL)
		return;
	for (size_t b = 0; b <= N_BUCKETS; b++) {
		below += n[b];
		add_series(out, f, at, "_bucket", b < N_BUCKETS ? bounds[b].le : "+Inf");
		buf_add_i64(out, below);
		buf_add_char(out, '\n');
	}
	add_series(out, f, at, "_sum", NULL);
	buf_printf(out, "%lld.%06lld\n", (long long)(sum / 1000000), (long long)(sum % 1000000));
	add_series(out, f, at, "_count", NULL);
	buf_add_i64(out, count);
	buf_add_char(out, '\n');
}

static void render_number(const struct metrics *m, const struct family *f,
	                  const unsigned at[2], struct buf *out)
{
	int64_t v = metrics_sum(m, family_at(f, at[0], at[1]));

	if (v == 0 && f->def.kind == METRIC_COUNTER && f->def.label[1].name != NULL)
		return;
	add_series(out, f, at, "", NULL);
	buf_add_i64(out, v);
	buf_add_char(out, '\n');
}

static void render_head(const struct family *f, struct buf *out)
{
	static const char *const types[] = {
		[METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram",
	};

	buf_printf(out, "# HELP %s ", f->def.name);
	add_escaped(out, f->def.help, false);
	buf_printf(out, "\n# TYPE %s %s\n", f->def.name, types[f->def.kind]);
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
