/*
 * A growing byte buffer, and an immutable shared one.
 *
 * struct buf: one owner, one thread. An append that finds no memory sets
 * `failed`, and every later append does nothing: check once, at the end.
 * struct blob: bytes that several owners read; the reference count is atomic.
 */
#pragma once

#include <stdarg.h>
#include <stdatomic.h>

#include "base/slice.h"

struct buf {
	char *p;
	size_t n, cap;
	bool failed;
};

void buf_free(struct buf *b);                                /* b is empty after */
bool buf_reserve(struct buf *b, size_t more);                /* false: no memory */
void buf_add_u64(struct buf *b, uint64_t v);                 /* decimal */
void buf_add_i64(struct buf *b, int64_t v);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_vprintf(struct buf *b, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);

/* Read a whole file, for text that may be secret: the buffer is not moved while it
 * grows, so a wipe gets every byte. 0 or a negative errno, -EFBIG if it has more
 * than `max` bytes. */
int buf_read_file(const char *path, size_t max, struct buf *ret) MUST_CHECK;
void buf_wipe(struct buf *b);                                /* and free; b is empty after */

static inline void buf_add(struct buf *b, const void *p, size_t n)
{
	if (n == 0 || b->failed || (n > b->cap - b->n && !buf_reserve(b, n)))
		return;
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static inline void buf_add_char(struct buf *b, char c)
{
	buf_add(b, &c, 1);
}

static inline void buf_add_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

static inline void buf_add_slice(struct buf *b, struct slice s)
{
	buf_add(b, s.p, s.n);
}

static inline struct slice buf_slice(const struct buf *b)
{
	return (struct slice){b->p, b->n};
}

struct blob {
	atomic_uint refs;
	size_t n;
	char *p;
};

/* Takes the buffer's bytes without copying; the buffer is empty after.
 * NULL if the buffer had failed or there is no memory. */
struct blob *blob_from_buf(struct buf *take);
struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob *b);                             /* NULL is fine */
