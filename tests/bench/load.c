/*
 * The HTTP client that loads a whole service: `--connections` threads, each
 * with one keep-alive connection, post the same batch again and again and check
 * every answer: status 200, outcome succeeded, one result that is ok for every
 * item. Each connection posts at least one batch; none starts after the time is
 * up; those that run are waited for, and the clock stops with the last of them.
 *
 * `--accept-only`: each answer is to be a 202; its id goes to the file of `--ids`.
 * `--cpu-pid`: also the CPU time that this process (the sender) spent meanwhile.
 * Prints one line of JSON.
 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 256 };

struct client {
	pthread_t thread;
	int fd;
	struct buf answer;
	struct buf ids;                  /* of what was accepted, a line each */
	uint64_t batches;
	uint32_t *took_us;               /* per batch */
	size_t took_cap;
};

/* Written before the threads start a phase, read by all of them. */
static struct {
	struct buf request;
	unsigned items;
	bool accept_only;                /* a 202 is what is wanted */
	uint64_t most;                   /* batches per connection; 0: as time allows */
	int64_t stop_at_us;
} plan;

/* How often `"key":` is followed by `value`; blanks between them are fine. */
static unsigned count_field(struct slice s, const char *key, const char *value)
{
	size_t key_n = strlen(key), value_n = strlen(value);
	const char *p = s.p, *end = s.p + s.n;
	unsigned n = 0;

	while ((p = memmem(p, (size_t)(end - p), key, key_n)) != NULL) {
		p += key_n;
		while (p < end && *p == ' ')
			p++;
		if ((size_t)(end - p) >= value_n && memcmp(p, value, value_n) == 0)
			n++;
	}
	return n;
}

static void check(struct slice head, struct slice body)
{
	unsigned ok;

	if (head.n < 12 || memcmp(head.p + 8, " 200", 4) != 0)
		die("not a 200: %.*s%.*s", (int)head.n, head.p, (int)MIN(body.n, (size_t)600), body.p);
	ok = count_field(body, "\"ok\":", "true");
	if (ok != plan.items || count_field(body, "\"outcome\":", "\"succeeded\"") != 1)
		die("%u of %u items ok: %.*s", ok, plan.items, (int)MIN(body.n, (size_t)600), body.p);
}

static void keep_id(struct client *c, struct slice head)
{
	static const char name[] = "\r\nbatch-id: ";
	char *text = strndup(head.p, head.n), *line;

	line = text == NULL ? NULL : strcasestr(text, name);
	if (line == NULL)
		die("an answer without Batch-Id");
	buf_add(&c->ids, line + sizeof name - 1, strcspn(line + sizeof name - 1, "\r"));
	buf_add_char(&c->ids, '\n');
	free(text);
}

static void one_batch(struct client *c)
{
	struct answer a;

	send_all(c->fd, plan.request.p, plan.request.n);
	a = read_answer(c->fd, &c->answer);
	if (!plan.accept_only)
		check(a.head, a.body);
	else if (a.head.n < 12 || memcmp(a.head.p + 8, " 202", 4) != 0)
		die("not a 202: %.*s%.*s", (int)a.head.n, a.head.p, (int)MIN(a.body.n, (size_t)600), a.body.p);
	else
		keep_id(c, a.head);
}

static void *run_client(void *arg)
{
	struct client *c = arg;
	int64_t t0 = now_us(), t1;

	c->batches = 0;
	do {
		one_batch(c);
		t1 = now_us();
		if (c->batches == c->took_cap) {
			c->took_cap = c->took_cap * 2 + 1024;
			c->took_us = realloc(c->took_us, c->took_cap * sizeof *c->took_us);
			if (c->took_us == NULL)
				die("no memory");
		}
		c->took_us[c->batches++] = (uint32_t)(t1 - t0);
		t0 = t1;
	} while (t0 < plan.stop_at_us && (plan.most == 0 || c->batches < plan.most));
	return NULL;
}

static void run_phase(struct client *clients, unsigned n, int64_t ms)
{
	plan.stop_at_us = now_us() + ms * 1000;
	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&clients[i].thread, NULL, run_client, &clients[i]) != 0)
			die("cannot start a thread");
	for (unsigned i = 0; i < n; i++)
		pthread_join(clients[i].thread, NULL);
}

static void report(const struct client *clients, unsigned n, double seconds, double cpu)
{
	uint64_t batches = 0, at = 0;
	uint32_t *all;

	for (unsigned i = 0; i < n; i++)
		batches += clients[i].batches;
	all = xcalloc(batches, sizeof *all);
	for (unsigned i = 0; i < n; i++) {
		memcpy(all + at, clients[i].took_us, clients[i].batches * sizeof *all);
		at += clients[i].batches;
	}
	sort_us(all, batches);
	printf("{\"items\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, ",
	       (unsigned long long)(batches * plan.items), seconds, cpu);
	printf("\"batches\": %llu, \"batch_us_p50\": %u, \"batch_us_p99\": %u}\n", (unsigned long long)batches,
	       percentile_us(all, batches, 50), percentile_us(all, batches, 99));
	free(all);
}

static void run(unsigned port, unsigned n, int64_t ms, int64_t warmup_ms, long cpu_pid, FILE *ids)
{
	struct client *clients = xcalloc(n, sizeof *clients);
	double cpu;
	int64_t t0;

	for (unsigned i = 0; i < n; i++)
		clients[i].fd = connect_to(port);
	if (warmup_ms > 0)
		run_phase(clients, n, warmup_ms);
	cpu = cpu_seconds(cpu_pid);
	t0 = now_us();
	run_phase(clients, n, ms);
	report(clients, n, (double)(now_us() - t0) / 1e6, cpu_seconds(cpu_pid) - cpu);
	for (unsigned i = 0; i < n; i++) {
		close(clients[i].fd);
		if (ids != NULL)
			fwrite(clients[i].ids.p, 1, clients[i].ids.n, ids);
		buf_free(&clients[i].ids);
		buf_free(&clients[i].answer);
		free(clients[i].took_us);
	}
	free(clients);
}

NORETURN static void usage(void)
{
	puts("usage: bench_load --port N [--service NAME] [--batch N] [--concurrency N]");
	puts("                  [--connections N] [--ms N] [--warmup-ms N] [--cpu-pid PID]");
	puts("                  [--prefer TEXT] [--accept-only] [--most N] [--ids FILE] [--deadline-ms N]");
	exit(0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"port", 1, NULL, 'p'},        {"service", 1, NULL, 's'},   {"batch", 1, NULL, 'b'},
		{"concurrency", 1, NULL, 'k'}, {"connections", 1, NULL, 'c'}, {"ms", 1, NULL, 't'},
		{"warmup-ms", 1, NULL, 'w'},   {"cpu-pid", 1, NULL, 'u'},   {"help", 0, NULL, 'h'},
		{"prefer", 1, NULL, 'f'},      {"accept-only", 0, NULL, 'a'}, {"most", 1, NULL, 'm'},
		{"ids", 1, NULL, 'i'},         {"deadline-ms", 1, NULL, 'd'},
		{NULL, 0, NULL, 0}};
	struct batch_spec spec = {.service = "push", .items = 100, .concurrency = 64};
	FILE *ids = NULL;
	long port = 0, connections = 4, ms = 1500, warmup_ms = 0, cpu_pid = 0;

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 'p': port = number("port", optarg, 1, 65535); break;
		case 's': spec.service = optarg; break;
		case 'b': spec.items = (unsigned)number("batch", optarg, 1, 1000000); break;
		case 'k': spec.concurrency = (unsigned)number("concurrency", optarg, 1, 1024); break;
		case 'c': connections = number("connections", optarg, 1, MAX_CONNECTIONS); break;
		case 't': ms = number("ms", optarg, 1, 3600000); break;
		case 'w': warmup_ms = number("warmup-ms", optarg, 0, 3600000); break;
		case 'u': cpu_pid = number("cpu-pid", optarg, 1, INT32_MAX); break;
		case 'f': spec.prefer = optarg; break;
		case 'a': plan.accept_only = true; break;
		case 'm': plan.most = (uint64_t)number("most", optarg, 1, 1000000); break;
		case 'd': spec.deadline_ms = number("deadline-ms", optarg, 1, 604800000); break;
		case 'i':
			if ((ids = fopen(optarg, "w")) == NULL)
				die("%s: %s", optarg, strerror(errno));
			break;
		case 'h': usage();
		default: return 2;
		}
	}
	if (port == 0)
		die("--port is required");
	plan.items = spec.items;
	add_request(&plan.request, &spec, (unsigned)port, NULL);
	run((unsigned)port, (unsigned)connections, ms, warmup_ms, cpu_pid, ids);
	if (ids != NULL && fclose(ids) != 0)
		die("the file of ids: %s", strerror(errno));
	buf_free(&plan.request);
	return 0;
}
