/*
 * The trace, and the one way in which a check fails.
 */
#include <stdio.h>
#include <stdlib.h>

#include "sim.h"

enum { KEPT = 256 };

struct traced {
	int64_t at_us, v[3];
	const char *what;
};

static struct traced ring[KEPT];
static uint64_t n_traced;

#define X(upper, text) [RULE_##upper] = #upper,
static const char *const rule_names[] = {RULE_TABLE(X)};
#undef X
#define X(upper, text) [RULE_##upper] = text,
static const char *const rule_texts[] = {RULE_TABLE(X)};
#undef X

const char *rule_str(enum rule r)
{
	return rule_names[r];
}

static void print(const struct traced *t)
{
	printf("# %14lld us  %s: %lld %lld %lld\n", (long long)(t->at_us - 1000000000), t->what,
	       (long long)t->v[0], (long long)t->v[1], (long long)t->v[2]);
}

void trace_start(void)
{
	n_traced = 0;
}

void trace(const char *what, int64_t a, int64_t b, int64_t c)
{
	struct traced *t = &ring[n_traced++ % KEPT];

	*t = (struct traced){clock_now(), {a, b, c}, what};
	sim.last_us = t->at_us;
	sim.trace_hash = slice_hash((struct slice){(const char *)&t->at_us, 4 * sizeof(int64_t)}, sim.trace_hash);
	if (sim.verbose)
		print(t);
}

void sim_fail(enum rule rule, const char *fmt, ...)
{
	uint64_t from = n_traced > 60 ? n_traced - 60 : 0;
	va_list ap;

	for (uint64_t i = from; i < n_traced && !sim.verbose; i++)
		print(&ring[i % KEPT]);
	printf("# broken: %s\n# rule: %s\n# at %lld us, step %llu: ", rule_names[rule], rule_texts[rule],
	       (long long)(clock_now() - 1000000000), (unsigned long long)sim.steps);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	if (sim.seed == 0)
		printf("\n# repeat with: sim_test --verbose --seeds 0 (a scenario)\n");
	else
		printf("\n# repeat with: sim_test --verbose --seed %llu\n", (unsigned long long)sim.seed);
	printf("Bail out! seed %llu breaks %s\n", (unsigned long long)sim.seed, rule_names[rule]);
	fflush(stdout);
	_Exit(1);
}

/* The code under test found its own invariant broken: a failure with a trace. */
NORETURN void __wrap_base_require_failed(const char *what, const char *file, int line);

void __wrap_base_require_failed(const char *what, const char *file, int line)
{
	sim_fail(RULE_REQUIRE, "%s:%d: %s", file, line, what);
}
