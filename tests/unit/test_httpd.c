/*
 * The server's loop runs in a thread of its own; the test is the client, with
 * blocking sockets, and waits for what the handler tells it.
 */
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

/* A huge allocation is to fail, not to abort, under the address sanitizer. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

static struct {
	struct loop *loop;
	struct httpd *h;
	pthread_t thread;
	unsigned port;
	struct loop_usage baseline;
	/* Written by the server's thread; read after a semaphore or the join. */
	struct http_request *parked;
	unsigned requests, ends, gones, filled;
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

static size_t on_head(void *arg, struct http_request *r)
{
	(void)arg;
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

static void on_request(void *arg, struct http_request *r)
{
	const char *path = http_path(r), *name;
	struct blob *body;

	(void)arg;
	s.requests++;
	http_set_data(r, &s);
	if (strcmp(path, "/hi") == 0) {
		name = http_query(r, "name");
		respond(r, 200, name == NULL ? "hello" : name);
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
					  .header_ms = 20000,
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

/* Do something in the server's thread, and wait until it is done. */
struct order {
	struct loop_msg msg;
	void (*run)(void);
};

static void obey(struct loop_msg *msg)
{
	container_of(msg, struct order, msg)->run();
	sem_post(&s.told_sem);
}

static void tell(void (*run)(void))
{
	struct order o = {.msg.run = obey, .run = run};

	loop_post(s.loop, &o.msg);
	patiently(&s.told_sem);
}

static struct httpd_usage usage;

static void read_usage(void)
{
	usage = httpd_usage(s.h);
}

static void answer_parked(void)
{
	respond(s.parked, 200, "late");
}

static void stream_parked(void)
{
	s.available = 5;
	http_stream(s.parked, 200, plain, ARRAY_LEN(plain), fill);
}

static void feed(void)
{
	s.available += 7;
	http_stream_wake(s.parked);
}

static void finish_stream(void)
{
	s.stream_over = true;
	http_stream_wake(s.parked);
}

static void quiesce(void)
{
	httpd_quiesce(s.h);
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

static void reset(int fd)
{
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	close(fd);
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

static void a_connection_serves_many_requests(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	for (int i = 0; i < 3; i++) {
		say(fd, GET("/hi"));
		hear(fd, false);
		assert_int_equal(reply.status, 200);
		assert_string_equal(reply.body, "hello");
		assert_true(has("\r\nx-test: yes\r\n"));
		assert_false(has("\r\nconnection: close"));
	}
	say(fd, GET("/hi?other&name=a%20b"));
	hear(fd, false);
	assert_string_equal(reply.body, "a b");
	say(fd, GET("/hi?name"));
	hear(fd, false);
	assert_int_equal(reply.n, 0);
	say(fd, "HEAD /hi HTTP/1.1\r\n" HOST "\r\n");
	hear(fd, true);
	assert_int_equal(reply.n, 5);
	say(fd, GET("/not/%68ere"));
	hear(fd, false);
	assert_int_equal(reply.status, 404);
	assert_string_equal(reply.body, "/not/here");
	say(fd, GET("/hi") GET("/hi?name=second"));
	hear(fd, false);
	hear(fd, false);
	assert_string_equal(reply.body, "second");
	close(fd);
	stop();
	assert_int_equal(s.gones, 0);
}

static void an_old_client_is_served_and_closed(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "GET /hi HTTP/1.0\r\n\r\n");
	hear(fd, false);
	assert_string_equal(reply.body, "hello");
	assert_int_equal(closed(fd), 0);
	fd = dial();
	say(fd, "POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc");
	hear(fd, false);
	assert_string_equal(reply.body, "abc");
	assert_int_equal(closed(fd), 0);
	stop();
}

static void a_body_arrives_byte_for_byte(void **state)
{
	static char big[BIG_LIMIT];
	char head[128];
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 6\r\n\r\nab\r\n\t!");
	hear(fd, false);
	assert_string_equal(reply.body, "ab\r\n\t!");
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
		"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n");
	hear(fd, false);
	assert_string_equal(reply.body, "abcdefg");
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.n, 0);
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
	read_head(fd);
	assert_int_equal(reply.status, 100);
	say(fd, "ok");
	hear(fd, false);
	assert_int_equal(reply.status, 200);
	assert_string_equal(reply.body, "ok");
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = (char)(i * 7 + i / 251);
	snprintf(head, sizeof head, "POST /big HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n", sizeof big);
	say(fd, head);
	say_n(fd, big, sizeof big);
	read_head(fd);
	for (size_t at = 0; at < sizeof big;) {
		char got[65536];
		ssize_t n = recv(fd, got, sizeof got, 0);

		assert_true(n > 0 && at + (size_t)n <= sizeof big);
		assert_memory_equal(got, big + at, n);
		at += (size_t)n;
	}
	close(fd);
	stop();
}

static void a_body_too_large_is_refused(void **state)
{
	static char junk[LIMIT + 1];
	int fd;

	(void)state;
	memset(junk, 'j', sizeof junk);
	start(usual);
	fd = dial();
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 413);
	assert_true(has("\r\ncontent-type: application/problem+json"));
	assert_true(has("\r\nconnection: close"));
	assert_int_equal(closed(fd), 0);
	fd = dial();
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3e9\r\n");
	say_n(fd, junk, sizeof junk);
	say(fd, "\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 413);
	assert_true(has("\r\nconnection: close"));
	say(fd, "5\r\nabcde\r\n0\r\n\r\n");
	assert_int_equal(closed(fd), 0);
	s.requests += 2;
	fd = dial();
	say(fd, "POST /nowhere HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 404);
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
}

/* The answer survives a client that sends all of it before it reads. */
static void a_refusal_arrives_behind_a_body_on_its_way(void **state)
{
	static char junk[100000];
	const char *heads[] = {"Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n"};

	(void)state;
	start(usual);
	for (unsigned i = 0; i < 20; i++) {
		int fd = dial();

		say(fd, "POST /echo HTTP/1.1\r\n" HOST);
		say(fd, heads[i % 2]);
		(void)!send(fd, junk, sizeof junk, MSG_NOSIGNAL);
		read_head(fd);
		assert_int_equal(reply.status, 413);
		closed(fd);
		patiently(&s.end_sem);
		s.requests++;
	}
	stop();
}

static void a_body_without_memory_is_refused_and_the_next_served(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "POST /huge HTTP/1.1\r\n" HOST "Content-Length: 4000000000000000000\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 503);
	assert_true(has("\r\nretry-after: "));
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
}

static const struct {
	int status;
	const char *bytes;
} refused[] = {
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length : 37\r\n\r\nGET /hi HTTP/1.1\r\n" HOST "\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length\t: 37\r\n\r\nGET /hi HTTP/1.1\r\n" HOST "\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\n 7\r\n\r\nGET /hi HTTP/1.1\r\n" HOST "\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n x\r\n\r\n0\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "X: y\r\n Content-Length: 3\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b" "chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Host: u\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: 3,3\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: 0x3\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\nabc"},
	{413, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length-Too: 3\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Sp ace: 3\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Br{ce: 3\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n\r\n"},
	{400, "GET /a%00b HTTP/1.1\r\n" HOST "\r\n"},
	{400, "GET /a%zz HTTP/1.1\r\n" HOST "\r\n"},
	{400, "GET /hi?name=%0 HTTP/1.1\r\n" HOST "\r\n"},
	{411, "POST /echo HTTP/1.1\r\n" HOST "\r\n"},
};

static void what_could_be_smuggled_is_refused_and_closed(void **state)
{
	(void)state;
	start(usual);
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		int fd = dial();

		say(fd, refused[i].bytes);
		read_head(fd);
		if (reply.status != refused[i].status)
			print_message("# %s\n", refused[i].bytes);
		assert_int_equal(reply.status, refused[i].status);
		closed(fd);
		assert_int_equal(s.requests, i);
		still_serves();
	}
	stop();
}

static int park(void)
{
	int fd = dial();

	say(fd, GET("/park"));
	patiently(&s.parked_sem);
	return fd;
}

static void a_parked_request_is_answered_later(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	for (int i = 0; i < 3; i++) {
		say(fd, GET("/park"));
		patiently(&s.parked_sem);
		still_serves();
		patiently(&s.end_sem);
		tell(read_usage);
		assert_int_equal(usage.parked, 1);
		tell(answer_parked);
		hear(fd, false);
		assert_string_equal(reply.body, "late");
		patiently(&s.end_sem);
		assert_int_equal(s.gones, 0);
	}
	tell(read_usage);
	assert_int_equal(usage.parked, 0);
	close(fd);
	stop();
}

static void leave_by_fin(int fd)
{
	close(fd);
}

static void leave_by_half_close(int fd)
{
	shutdown(fd, SHUT_WR);
	closed(fd);
}

static void leave_behind_pipelined_by_fin(int fd)
{
	say(fd, GET("/hi"));
	close(fd);
}

static void leave_behind_pipelined_by_reset(int fd)
{
	say(fd, GET("/hi"));
	reset(fd);
}

/* More than the server's receive buffer holds. */
static void leave_behind_a_flood(int fd)
{
	static char flood[900 * 1024];

	say_n(fd, flood, sizeof flood);
	close(fd);
}

static void leave_behind_too_much(int fd)
{
	static char flood[64 * 1024];

	while (send(fd, flood, sizeof flood, MSG_NOSIGNAL) > 0)
		;
	close(fd);
}

static void (*const leave[])(int fd) = {leave_by_fin,
					reset,
					leave_by_half_close,
					leave_behind_pipelined_by_fin,
					leave_behind_pipelined_by_reset,
					leave_behind_a_flood,
					leave_behind_too_much};

static void a_parked_client_that_leaves_is_seen_once(void **state)
{
	(void)state;
	start(usual);
	for (unsigned i = 0; i < ARRAY_LEN(leave); i++) {
		leave[i](park());
		patiently(&s.gone_sem);
		tell(read_usage);
		assert_int_equal(usage.parked, 0);
		still_serves();
		assert_int_equal(s.gones, i + 1);
	}
	stop();
	assert_int_equal(s.gones, ARRAY_LEN(leave));
}

static void a_client_gone_before_it_is_parked_is_seen(void **state)
{
	(void)state;
	start(usual);
	for (unsigned i = 0; i < 20; i++) {
		int fd = dial();

		say(fd, GET("/park"));
		close(fd);
		patiently(&s.gone_sem);
	}
	stop();
	assert_int_equal(s.gones, 20);
}

static void what_came_with_a_parked_request_is_answered_after_it(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, GET("/park") GET("/hi?name=second"));
	patiently(&s.parked_sem);
	tell(answer_parked);
	hear(fd, false);
	assert_string_equal(reply.body, "late");
	assert_false(has("connection: close"));
	hear(fd, false);
	assert_string_equal(reply.body, "second");
	close(fd);
	stop();
}

static void what_came_after_it_was_parked_is_drained_and_the_answer_closes(void **state)
{
	static char later[512 * 1024];
	int fd;

	(void)state;
	small_buffers = true;
	start(usual);
	fd = park();
	small_buffers = false;
	/* More than the sockets hold: some was drained when this returns. */
	say_n(fd, later, sizeof later);
	tell(answer_parked);
	hear(fd, false);
	assert_string_equal(reply.body, "late");
	assert_true(has("\r\nconnection: close"));
	closed(fd);
	stop();
	assert_int_equal(s.gones, 0);
}

/* One chunk of x's. */
static void hear_chunk(int fd, size_t n)
{
	char want[64], got[64];

	snprintf(want, sizeof want, "%zx\r\n%.*s\r\n", n, (int)n, "xxxxxxxxxxxxxxxxxxxxxxxx");
	assert_int_equal(recv(fd, got, strlen(want), MSG_WAITALL), strlen(want));
	assert_memory_equal(got, want, strlen(want));
}

static void a_stream_flows_as_it_is_fed(void **state)
{
	int fd;
	char end[5];

	(void)state;
	start(usual);
	fd = dial();
	say(fd, GET("/stream"));
	read_head(fd);
	assert_int_equal(reply.status, 200);
	assert_true(has("transfer-encoding: chunked"));
	patiently(&s.dry_sem);
	tell(feed);
	hear_chunk(fd, 7);
	patiently(&s.dry_sem);
	tell(feed);
	tell(read_usage);
	assert_int_equal(usage.streams, 1);
	hear_chunk(fd, 7);
	patiently(&s.dry_sem);
	tell(finish_stream);
	assert_int_equal(recv(fd, end, 5, MSG_WAITALL), 5);
	assert_memory_equal(end, "0\r\n\r\n", 5);
	assert_int_equal(closed(fd), 0);
	s.stream_over = false;
	fd = park();
	tell(stream_parked);
	read_head(fd);
	hear_chunk(fd, 5);
	patiently(&s.dry_sem);
	tell(finish_stream);
	closed(fd);
	stop();
	assert_int_equal(s.gones, 0);
}

static void an_old_client_gets_a_stream_without_chunks(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "GET /stream HTTP/1.0\r\n\r\n");
	read_head(fd);
	assert_false(has("chunked"));
	patiently(&s.dry_sem);
	tell(feed);
	patiently(&s.dry_sem);
	tell(finish_stream);
	assert_int_equal(closed(fd), 7);
	stop();
	assert_int_equal(s.gones, 0);
}

static void a_quiet_streams_client_that_leaves_is_seen(void **state)
{
	(void)state;
	start(usual);
	for (int i = 0; i < 4; i++) {
		int fd = dial();

		say(fd, GET("/stream"));
		patiently(&s.dry_sem);
		leave[i](fd);
		patiently(&s.gone_sem);
		still_serves();
	}
	stop();
	assert_int_equal(s.gones, 4);
}

static void flood(void)
{
	s.available = SIZE_MAX / 2;
	if (s.parked != NULL)
		http_stream_wake(s.parked);
}

static int stalled_reader(void)
{
	int fd = dial();

	say(fd, GET("/stream"));
	read_head(fd);
	return fd;
}

static void a_stalled_reader_is_bounded_and_ended(void **state)
{
	struct httpd_config cfg = usual;
	int fd;

	(void)state;
	cfg.write_ms = 60;
	start(cfg);
	fd = stalled_reader();
	tell(flood);
	patiently(&s.gone_sem);
	assert_in_range(s.filled, 1, 16 * 1024 * 1024);
	closed(fd);
	still_serves();
	stop();
	assert_int_equal(s.gones, 1);
}

static void a_stalled_reader_of_a_long_answer_is_ended(void **state)
{
	static char big[BIG_LIMIT];
	struct httpd_config cfg = usual;
	int fd;

	(void)state;
	cfg.write_ms = 60;
	small_buffers = true;
	start(cfg);
	fd = dial();
	small_buffers = false;
	say(fd, "POST /big HTTP/1.1\r\n" HOST "Content-Length: 8388608\r\n\r\n");
	say_n(fd, big, sizeof big);
	patiently(&s.gone_sem);
	assert_in_range(closed(fd), 0, sizeof big - 1);
	still_serves();
	stop();
	assert_int_equal(s.gones, 1);
}

/* Its FIN comes with its request, or with half of one. */
static void a_half_closed_client_is_answered_and_closed(void **state)
{
	(void)state;
	start(usual);
	for (int i = 0; i < 20; i++) {
		int fd = dial();

		say(fd, i % 2 == 0 ? GET("/hi") GET("/hi") : GET("/hi") GET("/hi") "GET /hi HT");
		shutdown(fd, SHUT_WR);
		hear(fd, false);
		hear(fd, false);
		assert_string_equal(reply.body, "hello");
		assert_int_equal(closed(fd), 0);
	}
	stop();
}

/* It is blocked in writing, where libmicrohttpd sees no FIN. */
static void a_stalled_reader_that_leaves_is_seen(void **state)
{
	(void)state;
	start(usual);
	for (int i = 0; i < 4; i++) {
		int fd = stalled_reader();

		tell(flood);
		leave[i == 2 ? 0 : i](fd);
		patiently(&s.gone_sem);
		s.available = 0;
		still_serves();
	}
	stop();
	assert_int_equal(s.gones, 4);
}

/* Bytes that drip in do not move the deadline: the writer stops only when it is
 * cut off. */
static void drip_until_cut(int fd, const char *drip)
{
	char byte;

	while (send(fd, drip, strlen(drip), MSG_NOSIGNAL) > 0) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 5) > 0 && recv(fd, &byte, 1, 0) <= 0)
			break;
	}
	close(fd);
}

static void slow_headers_and_bodies_are_cut(void **state)
{
	struct httpd_config cfg = usual;
	int fd;

	(void)state;
	cfg.header_ms = cfg.body_ms = cfg.idle_ms = 60;
	start(cfg);
	fd = dial();
	say(fd, "GET /hi HTTP/1.1\r\n" HOST);
	drip_until_cut(fd, "X: y\r\n");
	fd = dial();
	say(fd, GET("/hi"));
	hear(fd, false);
	drip_until_cut(fd, "G");
	fd = dial();
	say(fd, GET("/hi"));
	hear(fd, false);
	say(fd, "GET /hi HTTP/1.1\r\n");
	drip_until_cut(fd, "X: y\r\n");
	fd = dial();
	say(fd, "POST /big HTTP/1.1\r\n" HOST "Content-Length: 1000000\r\n\r\n");
	drip_until_cut(fd, "b");
	s.requests++;
	patiently(&s.gone_sem);
	fd = dial();
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
	assert_int_equal(s.gones, 1);
}

static void quiescing_refuses_new_and_closes_old(void **state)
{
	struct pollfd p;
	int idle, parked, fd;

	(void)state;
	start(usual);
	idle = dial();
	say(idle, GET("/hi"));
	hear(idle, false);
	parked = park();
	tell(quiesce);
	assert_int_equal(closed(idle), 0);
	for (;;) {
		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s.port),
					 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
			break;
		p = (struct pollfd){.fd = fd, .events = POLLIN};
		poll(&p, 1, PATIENCE_S * 1000);
		close(fd);
	}
	assert_int_equal(errno, ECONNREFUSED);
	close(fd);
	tell(answer_parked);
	hear(parked, false);
	assert_string_equal(reply.body, "late");
	assert_true(has("\r\nconnection: close"));
	assert_int_equal(closed(parked), 0);
	stop();
	assert_int_equal(s.gones, 0);
}

static void freeing_ends_what_is_open(void **state)
{
	int fds[5];

	(void)state;
	start(usual);
	fds[0] = park();
	fds[1] = park();
	fds[2] = dial();
	say(fds[2], GET("/stream"));
	patiently(&s.dry_sem);
	fds[3] = dial();
	say(fds[3], "GET /hi HT");
	fds[4] = stalled_reader();
	tell(flood);
	tell(quiesce);
	stop();
	assert_int_equal(s.gones, 4);
	for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
		closed(fds[i]);
}

static void connections_beyond_the_limit_wait(void **state)
{
	struct httpd_config cfg = usual;
	int a, b, c;

	(void)state;
	cfg.connections = 2;
	start(cfg);
	a = park();
	b = dial();
	say(b, GET("/hi"));
	hear(b, false);
	c = dial();
	say(c, GET("/hi?name=third"));
	tell(read_usage);
	assert_int_equal(usage.connections, 2);
	close(b);
	hear(c, false);
	assert_string_equal(reply.body, "third");
	close(a);
	patiently(&s.gone_sem);
	close(c);
	stop();
}

static void addresses_are_numeric(void **state)
{
	int fd = httpd_listen("::1", 0, true);

	(void)state;
	if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL) {
		assert_true(fd >= 0);
		assert_int_not_equal(httpd_port(fd), 0);
		close(fd);
	}
	assert_int_equal(httpd_listen("localhost", 0, true), -EINVAL);
	assert_int_equal(httpd_listen("127.0.0.1", 65536, true), -EINVAL);
	assert_true(httpd_listen("192.0.2.1", 0, true) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_serves_many_requests),
		cmocka_unit_test(an_old_client_is_served_and_closed),
		cmocka_unit_test(a_body_arrives_byte_for_byte),
		cmocka_unit_test(a_body_too_large_is_refused),
		cmocka_unit_test(a_half_closed_client_is_answered_and_closed),
		cmocka_unit_test(a_refusal_arrives_behind_a_body_on_its_way),
		cmocka_unit_test(a_body_without_memory_is_refused_and_the_next_served),
		cmocka_unit_test(what_could_be_smuggled_is_refused_and_closed),
		cmocka_unit_test(a_parked_request_is_answered_later),
		cmocka_unit_test(a_parked_client_that_leaves_is_seen_once),
		cmocka_unit_test(a_client_gone_before_it_is_parked_is_seen),
		cmocka_unit_test(what_came_with_a_parked_request_is_answered_after_it),
		cmocka_unit_test(what_came_after_it_was_parked_is_drained_and_the_answer_closes),
		cmocka_unit_test(a_stream_flows_as_it_is_fed),
		cmocka_unit_test(an_old_client_gets_a_stream_without_chunks),
		cmocka_unit_test(a_quiet_streams_client_that_leaves_is_seen),
		cmocka_unit_test(a_stalled_reader_is_bounded_and_ended),
		cmocka_unit_test(a_stalled_reader_of_a_long_answer_is_ended),
		cmocka_unit_test(a_stalled_reader_that_leaves_is_seen),
		cmocka_unit_test(slow_headers_and_bodies_are_cut),
		cmocka_unit_test(quiescing_refuses_new_and_closes_old),
		cmocka_unit_test(freeing_ends_what_is_open),
		cmocka_unit_test(connections_beyond_the_limit_wait),
		cmocka_unit_test(addresses_are_numeric),
	};

	return cmocka_run_group_tests_name("httpd", tests, NULL, NULL);
}
