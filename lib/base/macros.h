/*
 * Attributes and small helpers that every module uses.
 * No state, no allocation; safe from any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))
#define COLD __attribute__((cold))
#define CLEANUP(fn) __attribute__((cleanup(fn)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* Take a pointer out of a variable: the hand-off that a CLEANUP local needs. */
#define STEAL_PTR(p)                  \
	({                            \
		__auto_type taken_ = (p); \
		(p) = NULL;           \
		taken_;               \
	})

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* A broken invariant of our own: say where, and stop. Checked in every build. */
#define REQUIRE(cond) \
	((cond) ? (void)0 : base_require_failed(#cond, __FILE__, __LINE__))

NORETURN COLD void base_require_failed(const char *what, const char *file, int line);

/* Small pieces of a fixed size: zeroed, and the process ends if there is no
 * memory for one. A body, a batch's items, a document, whatever has the size that
 * a caller chose, uses malloc and is refused instead. */
void *xcalloc(size_t n, size_t size) MUST_CHECK;
char *xstrdup(const char *s) MUST_CHECK;
