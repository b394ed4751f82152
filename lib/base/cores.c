#include "base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/macros.h"

/* Where each version says how much time a group has in each period, in microseconds: version 2
 * as "200000 100000" or "max 100000", version 1 in two files, the first of which may have -1. */
static const struct version {
	const char *controller, *mount, *files[2];
} versions[] = {
	{"", "", {"cpu.max", NULL}},
	{"cpu", "/cpu", {"cpu.cfs_quota_us", "cpu.cfs_period_us"}},
};

/* UINT_MAX: no limit, or none that can be read. */
static unsigned granted_by(const struct version *v, const char *groups, const char *group)
{
	long long number[2] = {0, 0};           /* the time, the period */
	unsigned have = 0;
	char path[PATH_MAX];

	for (unsigned i = 0; i < 2 && v->files[i] != NULL; i++) {
		FILE *f;

		if (snprintf(path, sizeof path, "%s%s%s/%s", groups, v->mount, group, v->files[i]) >= (int)sizeof path)
			return UINT_MAX;
		f = fopen(path, "re");
		while (f != NULL && have < 2 && fscanf(f, "%lld", &number[have]) == 1)
			have++;
		if (f != NULL)
			fclose(f);
	}
	if (have < 2 || number[0] < 0 || number[1] <= 0)
		return UINT_MAX;
	return (unsigned)MIN(MAX((number[0] + number[1] - 1) / number[1], 1LL), (long long)UINT_MAX);
}

static bool is_among(const char *name, char *names)
{
	for (const char *one = strsep(&names, ","); one != NULL; one = strsep(&names, ","))
		if (strcmp(one, name) == 0)
			return true;
	return false;
}

/* A line is "4:cpu,cpuacct:/the/group"; that of version 2 has no controllers. */
static bool read_group(const char *self, const char *controller, char *ret, size_t n)
{
	FILE *f = fopen(self, "re");
	char line[PATH_MAX];
	bool found = false;

	while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
		char *group = line, *controllers;

		(void)strsep(&group, ":");
		controllers = strsep(&group, ":");
		found = group != NULL && group[0] == '/' && is_among(controller, controllers);
		if (found)
			snprintf(ret, n, "%.*s", (int)strcspn(group, "\n"), group);
	}
	if (f != NULL)
		fclose(f);
	return found;
}

unsigned cores_granted(const char *self, const char *groups)
{
	char group[PATH_MAX], *end;
	unsigned least = UINT_MAX;

	for (const struct version *v = versions; v < versions + ARRAY_LEN(versions); v++) {
		if (!read_group(self, v->controller, group, sizeof group))
			continue;
		/* From its own up to that of all. */
		do {
			least = MIN(least, granted_by(v, groups, group));
			end = strrchr(group, '/');
			if (end != NULL)
				*end = '\0';
		} while (end != NULL);
	}
	return least == UINT_MAX ? 0 : least;
}

unsigned cores_usable(void)
{
	unsigned granted = cores_granted("/proc/self/cgroup", "/sys/fs/cgroup");
	cpu_set_t set;
	long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);

	n = MAX(n, 1);
	return granted == 0 ? (unsigned)n : MIN((unsigned)n, granted);
}
