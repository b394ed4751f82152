/*
 * Many who wait, and one who asks: `--pollers` connections in a long poll and
 * `--readers` of events, spread over the batches of `--ids`, which do not end
 * meanwhile; then `--gets` plain requests one after the other on a connection of
 * their own, each for the next of these batches, timed. Who waits reconnects at
 * the end of a poll. Prints one line of JSON.
 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ID_LEN = 28, POLL_S = 60 };

struct waiter {
	int fd;
	bool reader;
	unsigned id;
	uint64_t bytes;                  /* received so far */
};

static struct {
	unsigned port;
	char (*ids)[ID_LEN + 1];
	unsigned n_ids;
	int epoll;
} plan;

static void read_ids(const char *path)
{
	FILE *f = fopen(path, "r");
	char line[64];

	if (f == NULL)
		die("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof line, f) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (strlen(line) != ID_LEN)
			die("%s: not the id of a batch: %s", path, line);
		plan.ids = realloc(plan.ids, (plan.n_ids + 1) * sizeof *plan.ids);
		if (plan.ids == NULL)
			die("no memory");
		memcpy(plan.ids[plan.n_ids++], line, ID_LEN + 1);
	}
	fclose(f);
	if (plan.n_ids == 0)
		die("%s: no ids", path);
}

static void ask(struct waiter *w)
{
	char text[256];
	int n;

	if (w->reader)
		n = snprintf(text, sizeof text, "GET /v1/batches/%s/events HTTP/1.1\r\nHost: b\r\n"
			     "Accept: text/event-stream\r\n\r\n", plan.ids[w->id]);
	else
		n = snprintf(text, sizeof text, "GET /v1/batches/%s HTTP/1.1\r\nHost: b\r\nPrefer: wait=%d\r\n\r\n",
			     plan.ids[w->id], POLL_S);
	send_all(w->fd, text, (size_t)n);
}

static void start(struct waiter *w)
{
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = w};

	w->fd = connect_to(plan.port);
	ask(w);
	if (epoll_ctl(plan.epoll, EPOLL_CTL_ADD, w->fd, &e) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

/* What came for those who wait. None may be refused or cut off. */
static void take(struct waiter *w)
{
	char text[65536];
	ssize_t n = recv(w->fd, text, sizeof text, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		die("a %s was cut off: %s", w->reader ? "reader" : "poller", n == 0 ? "end of file" : strerror(errno));
	if (w->bytes == 0 && (n < 12 || memcmp(text + 8, " 200", 4) != 0))
		die("a %s was refused: %.*s", w->reader ? "reader" : "poller", (int)MIN(n, (ssize_t)600), text);
	w->bytes += (uint64_t)n;
}

static void serve_waiters(int wait_ms)
{
	struct epoll_event e[256];
	int n = epoll_wait(plan.epoll, e, ARRAY_LEN(e), wait_ms);

	for (int i = 0; i < n; i++)
		take(e[i].data.ptr);
}

/* Every reader has got its snapshot. */
static void wait_for_readers(const struct waiter *w, unsigned n)
{
	int64_t give_up = now_us() + 30000000;

	for (unsigned i = 0; i < n; i++) {
		while (w[i].reader && w[i].bytes == 0) {
			if (now_us() > give_up)
				die("a reader got nothing in 30 s");
			serve_waiters(100);
		}
	}
}

static void get(int fd, const char *id, struct buf *answer)
{
	char text[256];
	struct answer a;

	send_all(fd, text, (size_t)snprintf(text, sizeof text, "GET /v1/batches/%s HTTP/1.1\r\nHost: b\r\n\r\n", id));
	a = read_answer(fd, answer);
	if (memcmp(a.head.p + 8, " 200", 4) != 0 || memmem(a.body.p, a.body.n, id, ID_LEN) == NULL)
		die("GET %s: %.*s", id, (int)MIN(a.head.n + a.body.n, (size_t)600), a.head.p);
}

static void report(uint32_t *took, unsigned n, unsigned pollers, unsigned readers)
{
	sort_us(took, n);
	printf("{\"pollers\": %u, \"readers\": %u, \"gets\": %u, \"get_us_p50\": %u, \"get_us_p99\": %u, "
	       "\"get_us_max\": %u}\n", pollers, readers, n, percentile_us(took, n, 50), percentile_us(took, n, 99),
	       took[n - 1]);
}

static void run(unsigned pollers, unsigned readers, unsigned gets)
{
	unsigned n = pollers + readers;
	struct waiter *waiters = xcalloc(MAX(n, 1u), sizeof *waiters);
	uint32_t *took = xcalloc(gets, sizeof *took);
	struct buf answer = {0};
	int fd = connect_to(plan.port);

	plan.epoll = epoll_create1(EPOLL_CLOEXEC);
	for (unsigned i = 0; i < n; i++) {
		waiters[i].reader = i >= pollers;
		waiters[i].id = i % plan.n_ids;
		start(&waiters[i]);
		serve_waiters(0);
	}
	wait_for_readers(waiters, n);
	for (unsigned i = 0; i < gets; i++) {
		int64_t t0 = now_us();

		get(fd, plan.ids[i % plan.n_ids], &answer);
		took[i] = (uint32_t)(now_us() - t0);
		serve_waiters(0);
	}
	report(took, gets, pollers, readers);
	for (unsigned i = 0; i < n; i++)
		close(waiters[i].fd);
	close(fd);
	close(plan.epoll);
	buf_free(&answer);
	free(took);
	free(waiters);
}

NORETURN static void usage(void)
{
	puts("usage: bench_watch --port N --ids FILE [--pollers N] [--readers N] [--gets N]");
	exit(0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"port", 1, NULL, 'p'}, {"ids", 1, NULL, 'i'}, {"pollers", 1, NULL, 'l'}, {"readers", 1, NULL, 'r'},
		{"gets", 1, NULL, 'g'}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
	unsigned pollers = 0, readers = 0, gets = 1000;

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 'p': plan.port = (unsigned)number("port", optarg, 1, 65535); break;
		case 'i': read_ids(optarg); break;
		case 'l': pollers = (unsigned)number("pollers", optarg, 0, 30000); break;
		case 'r': readers = (unsigned)number("readers", optarg, 0, 30000); break;
		case 'g': gets = (unsigned)number("gets", optarg, 1, 1000000); break;
		case 'h': usage();
		default: return 2;
		}
	}
	if (plan.port == 0 || plan.n_ids == 0)
		die("--port and --ids are required");
	run(pollers, readers, gets);
	free(plan.ids);
	return 0;
}
