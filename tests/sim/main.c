/*
 * sim_test [--seed N] [--from N] [--seeds N] [--sqlite DIR] [--verbose]: runs the
 * scenarios and then the seeds, as TAP, a line per thousand. With --seed, that one
 * alone. With --sqlite, on a database in DIR, which is slow, instead of in memory.
 */
#include <stdio.h>
#include <stdlib.h>

#include "obs/log.h"
#include "sim.h"

enum { PER_LINE = 1000, ENOUGH_FOR_COVER = 2000 };

static uint64_t from = 1, seeds = 10000, only;
static unsigned tap_line;

static uint64_t to_number(const char *s)
{
	char *end;
	uint64_t n = s == NULL ? 0 : strtoull(s, &end, 10);

	if (s == NULL || *end != '\0') {
		fprintf(stderr, "usage: sim_test [--seed N] [--from N] [--seeds N] [--sqlite DIR] [--verbose]\n");
		exit(2);
	}
	return n;
}

static void read_options(char **arg)
{
	const char *env = getenv("SETTLED_SIM_SEEDS");

	if (env != NULL)
		seeds = to_number(env);
	for (; *arg != NULL; arg++) {
		if (strcmp(*arg, "--verbose") == 0)
			sim.verbose = true;
		else if (strcmp(*arg, "--seed") == 0)
			only = to_number(*++arg);
		else if (strcmp(*arg, "--seeds") == 0)
			seeds = to_number(*++arg);
		else if (strcmp(*arg, "--sqlite") == 0 && arg[1] != NULL)
			sim.sqlite = *++arg;
		else if (strcmp(*arg, "--from") == 0)
			from = to_number(*++arg);
		else
			to_number("?");
	}
}

static void ok(const char *name)
{
	printf("ok %u - %s\n", ++tap_line, name);
	fflush(stdout);
}

/* The simulator itself: without this no seed could be repeated. */
static void same_seed_same_trace(void)
{
	for (uint64_t seed = 1; seed <= 50; seed++) {
		uint64_t hash;

		run_seed(seed, PLANT_NONE);
		hash = sim.trace_hash;
		run_seed(seed, PLANT_NONE);
		CHECK(LIVENESS, sim.trace_hash == hash, "two runs of one seed differ");
	}
}

static void run_scenarios(const struct scenario *v, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		v[i].run();
		ok(v[i].name);
	}
}

static void run_all(void)
{
	uint64_t last = from + seeds;
	char name[96];

	run_scenarios(scenarios, n_scenarios);
	run_scenarios(job_scenarios, n_job_scenarios);
	run_scenarios(lane_scenarios, n_lane_scenarios);
	same_seed_same_trace();
	ok("the same seed gives the same trace");
	for (uint64_t seed = from; seed < last; seed++) {
		run_seed(seed, PLANT_NONE);
		if ((seed - from + 1) % PER_LINE != 0 && seed + 1 != last)
			continue;
		snprintf(name, sizeof name, "seeds up to %llu keep every invariant", (unsigned long long)seed);
		ok(name);
	}
	cover_report();
	if (seeds >= ENOUGH_FOR_COVER) {
		CHECK(LIVENESS, cover_missing() == NULL, "never exercised: %s", cover_missing());
		ok("every code, stop and race was exercised");
	}
	printf("1..%u\n", tap_line);
}

int main(int argc, char **argv)
{
	(void)argc;
	log_init(LOG_LOGFMT, LOG_ERROR);
	read_options(argv + 1);
	if (only == 0) {
		run_all();
		return 0;
	}
	run_seed(only, PLANT_NONE);
	ok("the seed keeps every invariant");
	printf("1..1\n");
	return 0;
}
