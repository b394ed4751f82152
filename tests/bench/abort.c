/*
 * Abort latency. One thread plays both ends around the daemon: the client that
 * posts a batch and goes away, and the downstream (the sink) that takes every
 * request of that batch and never answers. One loop, so "all are in flight" is
 * an event, and all times come from one clock, CLOCK_MONOTONIC, which the
 * daemon's log uses too.
 *
 * Per abort it prints one line of JSON: when the client closed (read before
 * close(), so its cost counts), and when the sink saw the first and the last
 * of the connections end. What the daemon itself says is in its log.
 *
 * With --hold it posts one batch, says so once --in-flight requests have
 * arrived, and keeps everything as it is until its standard input ends: for
 * measuring memory.
 *
 * The listening socket is inherited (--sink-fd), so its port, which the
 * daemon's configuration needs, is known before this program runs.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 4096, HEAD_MAX = 4096, PATIENCE_MS = 10000 };

struct conn {
	bool open, in_flight, gone;
	size_t n;
	char bytes[HEAD_MAX];
};

struct sink {
	int epoll, listener, client;     /* client: -1 when it has left */
	unsigned in_flight;              /* whole requests that arrived, in this round */
	unsigned gone;                   /* of those, how many connections ended */
	int64_t first_gone_us, last_gone_us;
	struct conn *conns[MAX_FD];
};

static void watch(struct sink *s, int fd, uint32_t events)
{
	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = events, .data.fd = fd}) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void accept_all(struct sink *s)
{
	int fd;

	while ((fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (fd >= MAX_FD)
			die("too many connections at the sink");
		if (s->conns[fd] == NULL)
			s->conns[fd] = xcalloc(1, sizeof **s->conns);
		s->conns[fd]->open = true;
		s->conns[fd]->in_flight = s->conns[fd]->gone = false;
		s->conns[fd]->n = 0;
		watch(s, fd, EPOLLIN | EPOLLRDHUP | EPOLLET);
	}
	if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
		die("accept: %s", strerror(errno));
}

/* The whole request, head and body, is here. */
static bool request_complete(const struct conn *c)
{
	const char *blank = memmem(c->bytes, c->n, "\r\n\r\n", 4), *line;
	unsigned long body;

	if (blank == NULL)
		return false;
	line = strcasestr(c->bytes, "\r\ncontent-length:");
	if (line == NULL || line > blank)
		die("a request without Content-Length reached the sink");
	body = strtoul(line + strlen("\r\ncontent-length:"), NULL, 10);
	return c->n >= (size_t)(blank - c->bytes) + 4 + body;
}

static void read_conn(struct sink *s, int fd, uint32_t events)
{
	struct conn *c = s->conns[fd];
	ssize_t n;

	while ((n = recv(fd, c->bytes + c->n, HEAD_MAX - 1 - c->n, 0)) > 0) {
		c->n += (size_t)n;
		if (c->n == HEAD_MAX - 1)
			die("a request over %d bytes reached the sink", HEAD_MAX - 1);
	}
	c->bytes[c->n] = '\0';
	if (!c->in_flight && request_complete(c)) {
		c->in_flight = true;
		s->in_flight++;
	}
	if (c->gone || !(n == 0 || events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		return;
	c->gone = true;
	if (!c->in_flight)
		return;
	s->last_gone_us = now_us();
	if (s->gone++ == 0)
		s->first_gone_us = s->last_gone_us;
}

static void client_ready(const struct sink *s)
{
	char text[800] = "";
	ssize_t n = recv(s->client, text, sizeof text - 1, 0);

	die("the batch ended before its client left (%u in flight): %s", s->in_flight,
	    n > 0 ? text : "connection closed");
}

/* One round of events; the patience is for a daemon that never gets there. */
static void turn(struct sink *s, int64_t give_up_us)
{
	struct epoll_event events[64];
	int n = epoll_wait(s->epoll, events, ARRAY_LEN(events), 1000);

	for (int i = 0; i < n; i++) {
		int fd = events[i].data.fd;

		if (fd == s->listener)
			accept_all(s);
		else if (fd == s->client)
			client_ready(s);
		else
			read_conn(s, fd, events[i].events);
	}
	if (now_us() > give_up_us)
		die("gave up waiting: %u in flight at the sink, %u of them gone", s->in_flight, s->gone);
}

/* A reset leaves no TIME_WAIT behind, which thousands of aborts would pile up. */
static void close_hard(int fd)
{
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	close(fd);
}

static void clear_sink(struct sink *s)
{
	for (int fd = 0; fd < MAX_FD; fd++) {
		if (s->conns[fd] == NULL || !s->conns[fd]->open)
			continue;
		close_hard(fd);
		s->conns[fd]->open = false;
	}
	s->in_flight = s->gone = 0;
}

static void post(struct sink *s, unsigned port, struct slice request, unsigned in_flight)
{
	int64_t give_up_us = now_us() + PATIENCE_MS * 1000;

	s->client = connect_to(port);
	watch(s, s->client, EPOLLIN | EPOLLRDHUP);
	send_all(s->client, request.p, request.n);
	while (s->in_flight < in_flight)
		turn(s, give_up_us);
}

static void abort_once(struct sink *s, bool reset)
{
	int64_t closed_us, give_up_us = now_us() + PATIENCE_MS * 1000;
	unsigned in_flight = s->in_flight;
	int fd = s->client;

	s->client = -1;
	if (reset)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	closed_us = now_us();
	close(fd);
	while (s->gone < s->in_flight)
		turn(s, give_up_us);
	if (s->in_flight != in_flight)
		die("%u requests arrived after the abort", s->in_flight - in_flight);
	printf("{\"closed_us\": %lld, \"first_fin_us\": %lld, \"last_fin_us\": %lld, \"in_flight\": %u}\n",
	       (long long)closed_us, (long long)s->first_gone_us, (long long)s->last_gone_us, in_flight);
}

static void hold(const struct sink *s, size_t request_n, size_t payload_n)
{
	char byte;

	printf("{\"in_flight\": %u, \"request_bytes\": %zu, \"payload_bytes\": %zu}\n", s->in_flight, request_n,
	       payload_n);
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
}

NORETURN static void usage(void)
{
	puts("usage: bench_abort --sink-fd FD --port N [--service NAME] [--items N] [--concurrency N]");
	puts("                   [--count N] [--reset] | ... --hold [--in-flight N]");
	exit(0);
}

struct wishes {
	struct batch_spec spec;
	unsigned in_flight, port, count;
	int sink_fd;
	bool reset, hold;
};

static void parse(int argc, char **argv, struct wishes *w)
{
	static const struct option options[] = {
		{"sink-fd", 1, NULL, 'f'}, {"port", 1, NULL, 'p'},        {"service", 1, NULL, 's'},
		{"items", 1, NULL, 'i'},   {"concurrency", 1, NULL, 'k'}, {"count", 1, NULL, 'n'},
		{"reset", 0, NULL, 'r'},   {"hold", 0, NULL, 'o'},        {"in-flight", 1, NULL, 'l'},
		{"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 'f': w->sink_fd = (int)number("sink-fd", optarg, 3, MAX_FD); break;
		case 'p': w->port = (unsigned)number("port", optarg, 1, 65535); break;
		case 's': w->spec.service = optarg; break;
		case 'i': w->spec.items = (unsigned)number("items", optarg, 1, 1000000); break;
		case 'k': w->spec.concurrency = (unsigned)number("concurrency", optarg, 1, 1024); break;
		case 'n': w->count = (unsigned)number("count", optarg, 1, 1000000); break;
		case 'r': w->reset = true; break;
		case 'o': w->hold = true; break;
		case 'l': w->in_flight = (unsigned)number("in-flight", optarg, 1, 1024); break;
		case 'h': usage();
		default: exit(2);
		}
	}
	if (w->sink_fd < 0 || w->port == 0)
		die("--sink-fd and --port are required");
	if (w->spec.concurrency == 0)
		w->spec.concurrency = MIN(w->spec.items, 1024u);
	if (w->in_flight == 0)
		w->in_flight = MIN(w->spec.items, w->spec.concurrency);
}

int main(int argc, char **argv)
{
	static struct sink sink;
	struct wishes w = {.spec = {.service = "hang", .items = 10}, .sink_fd = -1, .count = 100};
	struct buf request = {0};
	size_t payload_n;

	parse(argc, argv, &w);
	sink.listener = w.sink_fd;
	sink.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (sink.epoll < 0 || fcntl(w.sink_fd, F_SETFL, O_NONBLOCK) < 0)
		die("cannot use the sink's socket: %s", strerror(errno));
	watch(&sink, sink.listener, EPOLLIN);
	add_request(&request, &w.spec, w.port, &payload_n);
	for (unsigned i = 0; i < (w.hold ? 1 : w.count); i++) {
		post(&sink, w.port, buf_slice(&request), w.in_flight);
		if (w.hold)
			hold(&sink, request.n, payload_n);
		else
			abort_once(&sink, w.reset);
		clear_sink(&sink);
	}
	for (int fd = 0; fd < MAX_FD; fd++)
		free(sink.conns[fd]);
	buf_free(&request);
	close(sink.epoll);
	return 0;
}
