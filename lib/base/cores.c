#include "base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/macros.h"

/* "200000 100000": so many microseconds in each period; "max 100000": no limit, UINT_MAX. */
static unsigned granted_by(const char *groups, const char *group)
{
	char path[PATH_MAX];
	unsigned long long quota, period;
	bool limited;
	FILE *f;

	if (snprintf(path, sizeof path, "%s%s/cpu.max", groups, group) >= (int)sizeof path)
		return UINT_MAX;
	f = fopen(path, "re");
	if (f == NULL)
		return UINT_MAX;
	limited = fscanf(f, "%llu %llu", &quota, &period) == 2 && period > 0;
	fclose(f);
	return limited ? (unsigned)MIN(MAX((quota + period - 1) / period, 1ULL), (unsigned long long)UINT_MAX) : UINT_MAX;
}

/* The line "0::/the/group" is that of version 2. */
static bool read_group(const char *self, char *ret, size_t n)
{
	FILE *f = fopen(self, "re");
	bool found = false;

	while (f != NULL && !found && fgets(ret, (int)n, f) != NULL)
		found = strncmp(ret, "0::/", 4) == 0;
	if (f != NULL)
		fclose(f);
	if (!found)
		return false;
	ret[strcspn(ret, "\n")] = '\0';
	memmove(ret, ret + 3, strlen(ret + 3) + 1);
	return true;
}

unsigned cores_granted(const char *self, const char *groups)
{
	char group[PATH_MAX], *end;
	unsigned least = UINT_MAX;

	if (!read_group(self, group, sizeof group))
		return 0;
	/* From its own up to that of all. */
	do {
		least = MIN(least, granted_by(groups, group));
		end = strrchr(group, '/');
		if (end != NULL)
			*end = '\0';
	} while (end != NULL);
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
