/*
 * What the tests of httpd share. The server's loop runs in a thread of its own;
 * the test is the client, with blocking sockets, and waits for what the handler
 * tells it.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "httpd/httpd.h"

enum { PATIENCE_S = 20, LIMIT = 1000, BIG_LIMIT = 8 * 1024 * 1024 };

static struct {
	struct loop *loop;
	struct httpd *h;
	pthread_t thread;
	unsigned port;
	struct loop_usage baseline;
	/* Written by the server's thread; read after a semaphore or the join. */
	struct http_request *parked;
	unsigned requests, ends, gones, filled;
	size_t announced;                /* by the last head */
	size_t available;
	bool stream_over;
	sem_t parked_sem, end_sem, gone_sem, told_sem, dry_sem;
} s;

/* Sockets are made with small buffers. */
static bool small_buffers;

static void shrink(int fd)
{
	if (!small_buffers)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int));
}

static void patiently(sem_t *sem)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += PATIENCE_S;
	assert_int_equal(sem_timedwait(sem, &ts), 0);
}

static struct blob *text(const char *p, size_t n)
{
	struct buf b = {0};

	buf_add(&b, p, n);
	return blob_from_buf(&b);
}

static const struct http_header plain[] = {{"Content-Type", "text/plain"}, {"X-Test", "yes"}};

static void respond(struct http_request *r, int status, const char *body)
{
	http_respond(r, status, plain, ARRAY_LEN(plain), text(body, strlen(body)));
}

static size_t on_head(void *arg, struct http_request *r, size_t body_bytes)
{
	(void)arg;
	s.announced = body_bytes;
	if (strcmp(http_path(r), "/full") == 0) {
		s.requests++;
		http_refuse(r, PROBLEM_OVERLOADED, "full to the brim", 7);
		return 0;
	}
	if (strcmp(http_path(r), "/nowhere") == 0) {
		s.requests++;
		respond(r, 404, "no such path");
		return 0;
	}
	if (strcmp(http_path(r), "/huge") == 0)
		s.requests++;
	if (strcmp(http_path(r), "/big") == 0)
		return BIG_LIMIT;
	return strcmp(http_path(r), "/huge") == 0 ? SIZE_MAX : LIMIT;
}

/* As much as was made available, in x's. */
static ssize_t fill(void *data, char *out, size_t max)
{
	size_t n = MIN(max, s.available);

	assert_ptr_equal(data, &s);
	s.filled += (unsigned)n;
	if (n == 0 && s.stream_over)
		return -1;
	if (n == 0)
		sem_post(&s.dry_sem);
	memset(out, 'x', n);
	s.available -= n;
	return (ssize_t)n;
}

/* The parameters in brackets, one behind the other; "stop" stops. */
static bool note_parameter(void *arg, struct slice name, struct slice value)
{
	struct buf *out = arg;

	buf_printf(out, "[%.*s", (int)name.n, name.p);
	if (value.p != NULL)
		buf_printf(out, "=%.*s", (int)value.n, value.p);
	buf_add_char(out, ']');
	return !slice_eq(name, SLICE("stop"));
}

static void respond_query(struct http_request *r)
{
	struct buf out = {0};

	if (!http_each_query(r, note_parameter, &out))
		buf_add_str(&out, "stopped");
	http_respond(r, 200, plain, ARRAY_LEN(plain), blob_from_buf(&out));
}

static void on_request(void *arg, struct http_request *r)
{
	const char *path = http_path(r);
	struct blob *body;

	(void)arg;
	s.requests++;
	http_set_data(r, &s);
	if (strcmp(path, "/hi") == 0) {
		respond(r, 200, "hello");
	} else if (strncmp(path, "/hi/", 4) == 0) {
		respond(r, 200, path + 4);
	} else if (strcmp(path, "/untold") == 0) {
		http_respond(r, 207, &(struct http_header){"X-Test", "no\nheader"}, 1, text("done", 4));
	} else if (strcmp(path, "/query") == 0) {
		respond_query(r);
	} else if (strcmp(path, "/echo") == 0 || strcmp(path, "/big") == 0) {
		body = http_take_body(r);
		assert_null(http_take_body(r));
		http_respond(r, 200, NULL, 0, body);
	} else if (strcmp(path, "/park") == 0) {
		s.parked = r;
		sem_post(&s.parked_sem);
	} else if (strcmp(path, "/stream") == 0) {
		s.parked = r;
		http_stream(r, 200, plain, ARRAY_LEN(plain), fill);
	} else {
		respond(r, 404, path);
	}
}

static void on_end(void *arg, struct http_request *r, void *data, bool gone)
{
	(void)arg;
	(void)data;
	if (s.parked == r)
		s.parked = NULL;
	s.ends++;
	sem_post(&s.end_sem);
	if (gone) {
		s.gones++;
		sem_post(&s.gone_sem);
	}
}

static void *serve(void *arg)
{
	(void)arg;
	loop_run(s.loop);
	return NULL;
}

static void start(struct httpd_config cfg)
{
	const struct httpd_handler handler = {.on_head = on_head, .on_request = on_request, .on_end = on_end};
	int fd = httpd_listen("127.0.0.1", 0, true);

	assert_true(fd >= 0);
	shrink(fd);
	memset(&s, 0, sizeof s);
	sem_init(&s.parked_sem, 0, 0);
	sem_init(&s.end_sem, 0, 0);
	sem_init(&s.gone_sem, 0, 0);
	sem_init(&s.told_sem, 0, 0);
	sem_init(&s.dry_sem, 0, 0);
	s.port = httpd_port(fd);
	s.loop = loop_new();
	assert_non_null(s.loop);
	s.baseline = loop_usage(s.loop);
	s.h = httpd_new(s.loop, fd, &cfg, &handler);
	assert_non_null(s.h);
	pthread_create(&s.thread, NULL, serve, NULL);
}

static const struct httpd_config usual = {.connections = 64,
					  .body_bytes = 1 << 30, .header_ms = 20000,
					  .body_ms = 20000,
					  .idle_ms = 20000,
					  .write_ms = 20000};

/* Whatever is still open ends; nothing is left; each request had its end. */
static void stop(void)
{
	struct loop_usage left;

	loop_stop(s.loop);
	pthread_join(s.thread, NULL);
	httpd_free(s.h);
	left = loop_usage(s.loop);
	assert_int_equal(left.fds, s.baseline.fds);
	assert_int_equal(left.timers, s.baseline.timers);
	assert_int_equal(s.ends, s.requests);
	loop_free(s.loop);
}

/* The client. */

static int dial(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s.port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	shrink(fd);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = PATIENCE_S}, sizeof(struct timeval));
	setsockopt(fd, IPPROTO_TCP, 1, &(int){1}, sizeof(int));
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	return fd;
}

static void say_n(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);

		assert_true(k > 0);
		p += k;
		n -= (size_t)k;
	}
}

static void say(int fd, const char *str)
{
	say_n(fd, str, strlen(str));
}

struct reply {
	int status;
	char head[2048];
	char body[4096];
	size_t n;                        /* of the body; may be more than fits */
};

static struct reply reply;

static void read_head(int fd)
{
	size_t n = 0;

	memset(&reply, 0, sizeof reply);
	while (strstr(reply.head, "\r\n\r\n") == NULL) {
		assert_true(n < sizeof reply.head - 1);
		assert_int_equal(recv(fd, reply.head + n, 1, 0), 1);
		n++;
	}
	assert_int_equal(sscanf(reply.head, "HTTP/1.1 %d ", &reply.status), 1);
}

/* One answer with a Content-Length. Its body is checked to be there. */
static void hear(int fd, bool head_only)
{
	const char *length;
	char byte;

	read_head(fd);
	length = strcasestr(reply.head, "\r\ncontent-length: ");
	assert_non_null(length);
	assert_non_null(strcasestr(reply.head, "\r\ndate: "));
	reply.n = strtoul(length + 18, NULL, 10);
	for (size_t i = 0; i < reply.n && !head_only; i++) {
		assert_int_equal(recv(fd, &byte, 1, 0), 1);
		if (i < sizeof reply.body - 1)
			reply.body[i] = byte;
	}
}

static bool has(const char *text_in_head)
{
	return strcasestr(reply.head, text_in_head) != NULL;
}

/* The server ends the connection; bytes on the way are let pass. */
static size_t closed(int fd)
{
	char buf[4096];
	size_t all = 0;
	ssize_t n;

	while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
		all += (size_t)n;
	assert_true(n == 0 || errno == ECONNRESET);
	close(fd);
	return all;
}

#define HOST "Host: t\r\n"
#define GET(path) "GET " path " HTTP/1.1\r\n" HOST "\r\n"

static void still_serves(void)
{
	int fd = dial();

	say(fd, GET("/hi"));
	hear(fd, false);
	assert_int_equal(reply.status, 200);
	close(fd);
}
