/*
 * An open-loop client: it posts batches at a given rate, whatever becomes of those
 * before, over as many keep-alive connections as that takes, and tells what each was
 * answered with and after how long. `--phase RATE:MS` may stand several times: one
 * phase follows the other, each is a line of JSON at the end. `--cpu-pid`: also the CPU
 * time that this process (the service) spent in each.
 *
 * A batch belongs to the phase and the second in which it was due, whenever its answer
 * comes. The time of an answer is counted from when the request was due, so that a
 * client or a service that is late is not flattered. A batch for which there is no
 * connection any more is not sent, and counted as such.
 *
 * One thread, one epoll, levels. It sleeps for whole milliseconds and then sends all that
 * has become due: to spin until the next one is due would take the core from whoever shares
 * it. After the last phase it waits for what is under way.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_PHASES = 8, MAX_SECONDS = 600, MAX_CONNECTIONS = 9000, EVENTS = 256 };
enum kind { OK, PARTIAL, REFUSED, FAILED, KINDS };

struct samples {
	uint32_t *us;
	size_t n, cap;
};

struct phase {
	double rate;
	int64_t ms, begin_us;
	double cpu_s, own_cpu_s;         /* of the process --cpu-pid, and of this one */
	uint64_t sent, unsent, good_items, count[KINDS];
	struct samples took[KINDS];
	struct {
		uint32_t count[KINDS], good_items;
		struct samples took;     /* of those that were settled */
	} second[MAX_SECONDS];
};

struct conn {
	int fd;
	struct conn *next_free;
	struct phase *phase;             /* NULL: idle */
	int64_t due_us;
	unsigned second;
	size_t written;
	struct buf in;
};

static struct {
	struct buf request;
	unsigned port, batch;
	int epoll;
	struct phase phases[MAX_PHASES];
	unsigned n_phases, max_connections, n_connections, busy;
	long cpu_pid;
	struct conn *free;
} flood = {.max_connections = 4000};

static void add_sample(struct samples *s, int64_t us)
{
	if (s->n == s->cap) {
		s->cap = s->cap * 2 + 256;
		s->us = realloc(s->us, s->cap * sizeof *s->us);
		if (s->us == NULL)
			die("no memory");
	}
	s->us[s->n++] = (uint32_t)MIN(us, UINT32_MAX);
}

/* ---- one connection ---- */

static void watch(struct conn *c, int op, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = c};

	if (epoll_ctl(flood.epoll, op, c->fd, &e) != 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void dial(struct conn *c)
{
	c->fd = connect_to(flood.port);
	if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
		die("fcntl: %s", strerror(errno));
	watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static struct conn *conn_get(void)
{
	struct conn *c = flood.free;

	if (c != NULL) {
		flood.free = c->next_free;
		return c;
	}
	if (flood.n_connections == flood.max_connections)
		return NULL;
	flood.n_connections++;
	c = xcalloc(1, sizeof *c);
	dial(c);
	return c;
}

/* The answer to what the connection has asked is here, or will never be. */
static void finish(struct conn *c, enum kind kind, unsigned items)
{
	struct phase *p = c->phase;
	int64_t took_us = now_us() - c->due_us;

	p->count[kind]++;
	p->second[c->second].count[kind]++;
	p->good_items += items;
	p->second[c->second].good_items += items;
	add_sample(&p->took[kind], took_us);
	if (kind == OK || kind == PARTIAL)
		add_sample(&p->second[c->second].took, took_us);
	c->phase = NULL;
	c->in.n = 0;
	flood.busy--;
	c->next_free = flood.free;
	flood.free = c;
}

static void lost(struct conn *c)
{
	close(c->fd);
	dial(c);
	if (c->phase != NULL)
		finish(c, FAILED, 0);
}

static void send_more(struct conn *c)
{
	ssize_t n = send(c->fd, flood.request.p + c->written, flood.request.n - c->written, MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN) {
		lost(c);
		return;
	}
	c->written += (size_t)MAX(n, 0);
	if (c->written < flood.request.n)
		watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static unsigned number_after(const struct buf *in, const char *name)
{
	const char *at = memmem(in->p, in->n, name, strlen(name));

	return at == NULL ? 0 : (unsigned)strtoul(at + strlen(name), NULL, 10);
}

/* The whole of an answer is here. */
static void judge(struct conn *c)
{
	int status = atoi(c->in.p + 9);
	unsigned items = status == 200 || status == 207 ? number_after(&c->in, "\"succeeded\":") : 0;
	bool close_it = memmem(c->in.p, c->in.n, "\r\nConnection: close", 19) != NULL;

	if (status == 200 && items == flood.batch)
		finish(c, OK, items);
	else if (status == 207)
		finish(c, PARTIAL, items);
	else if (status == 503 || status == 429)
		finish(c, REFUSED, 0);
	else
		die("an answer that nobody asked for: %.*s", (int)MIN(c->in.n, (size_t)600), c->in.p);
	if (close_it) {
		close(c->fd);
		dial(c);
	}
}

static bool is_whole(struct buf *in)
{
	const char *blank = memmem(in->p, in->n, "\r\n\r\n", 4);

	if (blank == NULL)
		return false;
	return in->n >= (size_t)(blank - in->p) + 4 + number_after(in, "\r\nContent-Length: ");
}

static void receive(struct conn *c)
{
	enum { READ_SIZE = 64 * 1024 };
	ssize_t n;

	if (!buf_reserve(&c->in, READ_SIZE + 1))
		die("no memory");
	n = recv(c->fd, c->in.p + c->in.n, READ_SIZE, 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0 || c->phase == NULL) {
		lost(c);
		return;
	}
	c->in.n += (size_t)n;
	c->in.p[c->in.n] = '\0';
	if (is_whole(&c->in))
		judge(c);
}

static void take_events(int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(flood.epoll, events, EVENTS, timeout_ms);

	for (int i = 0; i < n; i++) {
		struct conn *c = events[i].data.ptr;

		if (events[i].events & EPOLLOUT) {
			watch(c, EPOLL_CTL_MOD, EPOLLIN);
			send_more(c);
		}
		if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
			receive(c);
	}
}

/* ---- the phases ---- */

static void post(struct phase *p, int64_t due_us)
{
	struct conn *c = conn_get();

	if (c == NULL) {
		p->unsent++;
		return;
	}
	p->sent++;
	flood.busy++;
	c->phase = p;
	c->due_us = due_us;
	c->second = (unsigned)MIN((due_us - p->begin_us) / 1000000, MAX_SECONDS - 1);
	c->written = 0;
	send_more(c);
}

static void run_phase(struct phase *p)
{
	double cpu_s = cpu_seconds(flood.cpu_pid), own_cpu_s = cpu_seconds(getpid());
	uint64_t n = 0;
	int64_t end_us, due_us;

	p->begin_us = now_us();
	end_us = p->begin_us + p->ms * 1000;
	while ((due_us = p->begin_us + (int64_t)((double)n * 1e6 / p->rate)) < end_us) {
		int64_t now = now_us();

		if (due_us > now) {
			take_events((int)((due_us - now) / 1000) + 1);
			continue;
		}
		post(p, due_us);
		/* Who is late goes on reading answers, or none would get free. */
		if (++n % 16 == 0)
			take_events(0);
	}
	p->cpu_s = cpu_seconds(flood.cpu_pid) - cpu_s;
	p->own_cpu_s = cpu_seconds(getpid()) - own_cpu_s;
}

static void report_samples(const char *name, struct samples *s)
{
	sort_us(s->us, s->n);
	printf(", \"%s\": {\"n\": %zu, \"p50\": %u, \"p99\": %u, \"max\": %u}", name, s->n,
	       s->n == 0 ? 0 : percentile_us(s->us, s->n, 50), s->n == 0 ? 0 : percentile_us(s->us, s->n, 99),
	       s->n == 0 ? 0 : s->us[s->n - 1]);
}

static void report(struct phase *p)
{
	printf("{\"rate\": %.1f, \"seconds\": %.3f, \"sent\": %llu, \"unsent\": %llu, \"good_items\": %llu", p->rate,
	       (double)p->ms / 1000, (unsigned long long)p->sent, (unsigned long long)p->unsent,
	       (unsigned long long)p->good_items);
	printf(", \"cpu_seconds\": %.6f, \"client_cpu_seconds\": %.6f", p->cpu_s, p->own_cpu_s);
	report_samples("ok_us", &p->took[OK]);
	report_samples("partial_us", &p->took[PARTIAL]);
	report_samples("refused_us", &p->took[REFUSED]);
	report_samples("failed_us", &p->took[FAILED]);
	printf(", \"by_second\": [");
	for (int64_t i = 0; i < MIN((p->ms + 999) / 1000, MAX_SECONDS); i++) {
		const uint32_t *n = p->second[i].count;
		struct samples *s = &p->second[i].took;

		sort_us(s->us, s->n);
		printf("%s{\"ok\": %u, \"partial\": %u, \"refused\": %u, \"failed\": %u, \"good_items\": %u, \"p99\": %u}",
		       i > 0 ? ", " : "", n[OK], n[PARTIAL], n[REFUSED], n[FAILED], p->second[i].good_items,
		       s->n == 0 ? 0 : percentile_us(s->us, s->n, 99));
	}
	puts("]}");
}

static void add_phase(const char *text)
{
	struct phase *p = &flood.phases[flood.n_phases++];
	long long ms;

	if (flood.n_phases > MAX_PHASES || sscanf(text, "%lf:%lld", &p->rate, &ms) != 2 || p->rate <= 0 || ms < 1 ||
	    ms > MAX_SECONDS * 1000LL)
		die("--phase wants RATE:MS, at most %d times", MAX_PHASES);
	p->ms = ms;
}

NORETURN static void usage(void)
{
	puts("usage: bench_flood --port N --phase BATCHES_PER_SECOND:MS... [--service NAME] [--batch N]");
	puts("                   [--concurrency N] [--connections N] [--deadline-ms N] [--cpu-pid PID]");
	exit(0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"port", 1, NULL, 'p'},        {"service", 1, NULL, 's'},     {"batch", 1, NULL, 'b'},
		{"concurrency", 1, NULL, 'k'}, {"connections", 1, NULL, 'c'}, {"phase", 1, NULL, 'r'},
		{"deadline-ms", 1, NULL, 'd'}, {"cpu-pid", 1, NULL, 'u'},     {"help", 0, NULL, 'h'},
		{NULL, 0, NULL, 0}};
	struct batch_spec spec = {.service = "push", .items = 100, .concurrency = 64, .deadline_ms = 30000};

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 'p': flood.port = (unsigned)number("port", optarg, 1, 65535); break;
		case 's': spec.service = optarg; break;
		case 'b': spec.items = (unsigned)number("batch", optarg, 1, 1000000); break;
		case 'k': spec.concurrency = (unsigned)number("concurrency", optarg, 1, 1024); break;
		case 'c': flood.max_connections = (unsigned)number("connections", optarg, 1, MAX_CONNECTIONS); break;
		case 'r': add_phase(optarg); break;
		case 'd': spec.deadline_ms = number("deadline-ms", optarg, 1, 604800000); break;
		case 'u': flood.cpu_pid = number("cpu-pid", optarg, 1, INT32_MAX); break;
		case 'h': usage();
		default: return 2;
		}
	}
	if (flood.port == 0 || flood.n_phases == 0)
		die("--port and --phase are required");
	flood.batch = spec.items;
	flood.epoll = epoll_create1(EPOLL_CLOEXEC);
	add_request(&flood.request, &spec, flood.port, NULL);
	for (unsigned i = 0; i < flood.n_phases; i++)
		run_phase(&flood.phases[i]);
	while (flood.busy > 0)
		take_events(1000);
	for (unsigned i = 0; i < flood.n_phases; i++)
		report(&flood.phases[i]);
	return 0;
}
