#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

void base_require_failed(const char *what, const char *file, int line)
{
	fprintf(stderr, "settled: broken invariant at %s:%d: %s\n", file, line, what);
	abort();
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (p == NULL) {
		fprintf(stderr, "settled: out of memory (%zu bytes)\n", n * size);
		abort();
	}
	return p;
}

char *xstrdup(const char *s)
{
	size_t n = strlen(s) + 1;

	return memcpy(xcalloc(1, n), s, n);
}
