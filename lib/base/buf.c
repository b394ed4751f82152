#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void buf_free(struct buf *b)
{
	free(b->p);
	*b = (struct buf){0};
}

bool buf_reserve(struct buf *b, size_t more)
{
	size_t cap = b->cap;
	char *p;

	if (b->failed || more > SIZE_MAX / 4 - b->n) {
		b->failed = true;
		return false;
	}
	if (b->n + more <= cap)
		return true;
	if (cap == 0) {
		cap = MAX(more, (size_t)64);
	} else {
		while (cap < b->n + more)
			cap *= 2;
	}
	p = realloc(b->p, cap);
	if (p == NULL) {
		b->failed = true;
		return false;
	}
	b->p = p;
	b->cap = cap;
	return true;
}

void buf_add_u64(struct buf *b, uint64_t v)
{
	char tmp[20];
	size_t i = sizeof tmp;

	do {
		tmp[--i] = (char)('0' + v % 10);
		v /= 10;
	} while (v != 0);
	buf_add(b, tmp + i, sizeof tmp - i);
}

void buf_add_i64(struct buf *b, int64_t v)
{
	if (v < 0) {
		buf_add_char(b, '-');
		buf_add_u64(b, (uint64_t) - (v + 1) + 1);
	} else {
		buf_add_u64(b, (uint64_t)v);
	}
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
	va_list again;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0 || !buf_reserve(b, (size_t)n + 1)) {
		b->failed = true;
		return;
	}
	vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap);
	b->n += (size_t)n;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	buf_vprintf(b, fmt, ap);
	va_end(ap);
}

struct blob *blob_from_buf(struct buf *take)
{
	struct blob *blob = take->failed ? NULL : malloc(sizeof *blob);

	if (blob == NULL) {
		buf_free(take);
		return NULL;
	}
	atomic_init(&blob->refs, 1);
	blob->n = take->n;
	blob->p = take->p;
	if (take->cap > take->n + take->n / 8 && take->n > 0) {
		char *fit = realloc(take->p, take->n);

		blob->p = fit != NULL ? fit : take->p;
	}
	*take = (struct buf){0};
	return blob;
}

struct blob *blob_ref(struct blob *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
	return b;
}

void blob_unref(struct blob *b)
{
	if (b == NULL || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(b->p);
	free(b);
}

void buf_wipe(struct buf *b)
{
	if (b->p != NULL)
		explicit_bzero(b->p, b->cap);
	buf_free(b);
}

int buf_read_file(const char *path, size_t max, struct buf *ret)
{
	int fd, err = 0;
	ssize_t got = 1;

	if (!buf_reserve(ret, max + 1))
		return -ENOMEM;
	/* To open a pipe that nobody writes to would wait for somebody. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	(void)fcntl(fd, F_SETFL, 0);
	while (got > 0 && ret->n <= max) {
		got = read(fd, ret->p + ret->n, max + 1 - ret->n);
		if (got > 0)
			ret->n += (size_t)got;
		else if (got < 0 && errno == EINTR)
			got = 1;
		else if (got < 0)
			err = -errno;
	}
	close(fd);
	return err == 0 && ret->n > max ? -EFBIG : err;
}
