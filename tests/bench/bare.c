/*
 * The yardstick: a libcurl multi loop on libevent with nothing around it. It
 * sends what settled would send for the same batches: the same method, URL,
 * headers and payload for every item, `--in-flight` at once, batches one after
 * the other in each of `--streams` streams (as many as the load client has
 * connections). Easy handles, header lists and connections are reused.
 * `--minimal` sends one fixed request with a content-type alone and changes no
 * option between transfers: what libcurl itself costs.
 *
 * Every answer must be a 200, or the program ends with an error.
 * Prints one line of JSON.
 */
#include "bench.h"

#include <curl/curl.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_IN_FLIGHT = 1024, MAX_STREAMS = 64, MAX_FD = MAX_IN_FLIGHT * 4, ANSWER_MAX = 512 };
enum { N_HEADERS = 5 };

struct stream {
	unsigned unstarted, unfinished;  /* items of its present batch */
};

struct slot {                            /* one transfer in flight, or free */
	CURL *easy;
	struct stream *stream;
	struct slot *next_free;
	struct curl_slist headers[N_HEADERS]; /* our own nodes: no allocation per transfer */
	char id[80], stamp[40], trace[80], url[256];
	char answer[ANSWER_MAX];
	size_t answer_n;
};

struct sock {
	struct event event;
	short want;
};

struct bare {
	struct event_base *base;
	struct event timer;
	CURLM *multi;
	struct slot *free_slots;
	struct slot slots[MAX_IN_FLIGHT];
	struct sock socks[MAX_FD];
	struct stream streams[MAX_STREAMS];
	unsigned turn;                   /* the stream that starts the next item */
	struct slice *payloads;          /* one per item of a batch */
	int64_t stop_at_us;              /* no batch starts after it ... */
	uint64_t batches_left;           /* ... nor when this is 0 */
	uint64_t started, done, connections;
	/* What was asked for. */
	unsigned in_flight, n_streams, batch;
	const char *url;
	bool minimal;
};

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct slot *s = arg;
	size_t room = ANSWER_MAX - s->answer_n, take = MIN(size * n, room);

	memcpy(s->answer + s->answer_n, p, take);
	s->answer_n += take;
	return size * n;
}

static void setup_slot(struct bare *b, struct slot *s)
{
	char *lines[N_HEADERS] = {(char *)"content-type: application/json", (char *)"Expect:", s->id, s->stamp,
				  s->trace};
	unsigned n = b->minimal ? 2 : N_HEADERS;

	s->easy = curl_easy_init();
	if (s->easy == NULL)
		die("curl_easy_init failed");
	for (unsigned i = 0; i < n; i++)
		s->headers[i] = (struct curl_slist){lines[i], i + 1 < n ? &s->headers[i + 1] : NULL};
	snprintf(s->url, sizeof s->url, "%suser-0", b->url);
	curl_easy_setopt(s->easy, CURLOPT_URL, s->url);
	curl_easy_setopt(s->easy, CURLOPT_PRIVATE, s);
	curl_easy_setopt(s->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, b->payloads[0].p);
	curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE, (long)b->payloads[0].n);
	curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, s->headers);
	curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
	curl_easy_setopt(s->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(s->easy, CURLOPT_PROXY, "");
	curl_easy_setopt(s->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	s->next_free = b->free_slots;
	b->free_slots = s;
}

/* What differs from item to item, as in the daemon: recipient, ids, payload. */
static void address(struct bare *b, struct slot *s, unsigned item)
{
	uint64_t n = b->started;

	snprintf(s->url, sizeof s->url, "%suser-%u", b->url, item);
	snprintf(s->id, sizeof s->id, "webhook-id: b_%026llu.u%u", (unsigned long long)(n / b->batch), item);
	snprintf(s->stamp, sizeof s->stamp, "webhook-timestamp: %lld", (long long)time(NULL));
	snprintf(s->trace, sizeof s->trace, "traceparent: 00-%032llx-%016llx-01",
		 (unsigned long long)(n / b->batch + 1), (unsigned long long)(n + 1));
	curl_easy_setopt(s->easy, CURLOPT_URL, s->url);
	curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, b->payloads[item].p);
	curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE, (long)b->payloads[item].n);
}

static void start_item(struct bare *b, struct stream *st)
{
	struct slot *s = b->free_slots;

	b->free_slots = s->next_free;
	s->stream = st;
	s->answer_n = 0;
	if (!b->minimal)
		address(b, s, b->batch - st->unstarted);
	st->unstarted--;
	b->started++;
	if (curl_multi_add_handle(b->multi, s->easy) != CURLM_OK)
		die("curl_multi_add_handle failed");
}

/* A stream begins its next batch once every item of the last one is done. */
static bool refill(struct bare *b, struct stream *st)
{
	if (st->unfinished > 0)
		return st->unstarted > 0;
	if (b->batches_left == 0 || now_us() >= b->stop_at_us)
		return false;
	b->batches_left--;
	st->unstarted = st->unfinished = b->batch;
	return true;
}

static void start_items(struct bare *b)
{
	for (unsigned idle = 0; b->free_slots != NULL && idle < b->n_streams;) {
		struct stream *st = &b->streams[b->turn++ % b->n_streams];

		if (refill(b, st)) {
			start_item(b, st);
			idle = 0;
		} else {
			idle++;
		}
	}
}

static void finish(struct bare *b, const CURLMsg *m)
{
	long status = 0, connects = 0;
	CURLcode result = m->data.result;
	CURL *easy = m->easy_handle;
	struct slot *s;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &s);
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects);
	if (result != CURLE_OK || status != 200 || s->answer_n == 0)
		die("a transfer ended with %s, status %ld, %zu bytes", curl_easy_strerror(result), status,
		    s->answer_n);
	curl_multi_remove_handle(b->multi, easy);
	s->stream->unfinished--;
	s->next_free = b->free_slots;
	b->free_slots = s;
	b->connections += (uint64_t)connects;
	b->done++;
}

static void pump(struct bare *b)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(b->multi, &left)) != NULL)
		if (m->msg == CURLMSG_DONE)
			finish(b, m);
	start_items(b);
	if (b->done == b->started)
		event_base_loopbreak(b->base);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct bare *b = arg;
	int mask = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
	int running;

	curl_multi_socket_action(b->multi, fd, mask, &running);
	pump(b);
}

static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct bare *b = arg;
	int running;

	(void)fd;
	(void)what;
	curl_multi_socket_action(b->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	pump(b);
}

static int on_socket_wish(CURL *easy, curl_socket_t fd, int what, void *arg, void *sockp)
{
	struct bare *b = arg;
	struct sock *s;
	short want = (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));

	(void)easy;
	(void)sockp;
	if (fd >= MAX_FD)
		die("descriptor %d is over the limit", fd);
	s = &b->socks[fd];
	if (what == CURL_POLL_REMOVE)
		want = 0;
	if (want == s->want)
		return 0;
	if (s->want != 0)
		event_del(&s->event);
	if (want != 0) {
		event_assign(&s->event, b->base, fd, (short)(want | EV_PERSIST), on_ready, b);
		event_add(&s->event, NULL);
	}
	s->want = want;
	return 0;
}

/* "At once" is the usual wish, one per transfer: an activation costs less than
 * a timer, and curl forbids a call from inside this callback. */
static int on_timer_wish(CURLM *multi, long ms, void *arg)
{
	struct bare *b = arg;

	(void)multi;
	if (ms < 0)
		event_del(&b->timer);
	else if (ms == 0)
		event_active(&b->timer, EV_TIMEOUT, 0);
	else
		event_add(&b->timer, &(struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000});
	return 0;
}

static void setup(struct bare *b)
{
	struct event_config *cfg = event_config_new();

	event_config_set_flag(cfg, EVENT_BASE_FLAG_PRECISE_TIMER | EVENT_BASE_FLAG_NOLOCK |
					   EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
	b->base = event_base_new_with_config(cfg);
	event_config_free(cfg);
	b->multi = curl_multi_init();
	if (b->base == NULL || b->multi == NULL)
		die("cannot set up the loop");
	event_assign(&b->timer, b->base, -1, 0, on_due, b);
	curl_multi_setopt(b->multi, CURLMOPT_SOCKETFUNCTION, on_socket_wish);
	curl_multi_setopt(b->multi, CURLMOPT_SOCKETDATA, b);
	curl_multi_setopt(b->multi, CURLMOPT_TIMERFUNCTION, on_timer_wish);
	curl_multi_setopt(b->multi, CURLMOPT_TIMERDATA, b);
	curl_multi_setopt(b->multi, CURLMOPT_MAXCONNECTS, (long)b->in_flight * 2);
	b->payloads = xcalloc(b->batch, sizeof *b->payloads);
	for (unsigned i = 0; i < b->batch; i++) {
		struct buf text = {0};

		add_payload(&text, i);
		b->payloads[i] = buf_slice(&text);
	}
	for (unsigned i = 0; i < b->in_flight; i++)
		setup_slot(b, &b->slots[i]);
}

/* Whole batches until the time or the number is used up; all are done after. */
static void run_phase(struct bare *b, int64_t ms, uint64_t batches)
{
	b->stop_at_us = now_us() + ms * 1000;
	b->batches_left = batches;
	b->started = b->done = b->connections = 0;
	start_items(b);
	if (b->started > 0)
		event_base_loop(b->base, EVLOOP_NO_EXIT_ON_EMPTY);
}

static void measure(struct bare *b, int64_t ms, uint64_t batches)
{
	struct timespec cpu0, cpu1;
	int64_t t0 = now_us(), us;
	double cpu_s;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu0);
	run_phase(b, ms, batches);
	us = now_us() - t0;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu1);
	cpu_s = (double)(cpu1.tv_sec - cpu0.tv_sec) + (double)(cpu1.tv_nsec - cpu0.tv_nsec) / 1e9;
	printf("{\"items\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"connections\": %llu}\n",
	       (unsigned long long)b->done, (double)us / 1e6, cpu_s, (unsigned long long)b->connections);
}

static void teardown(struct bare *b)
{
	for (unsigned i = 0; i < b->in_flight; i++)
		curl_easy_cleanup(b->slots[i].easy);
	curl_multi_cleanup(b->multi);
	event_del(&b->timer);
	event_base_free(b->base);
	for (unsigned i = 0; i < b->batch; i++)
		free((void *)(uintptr_t)b->payloads[i].p);
	free(b->payloads);
}

NORETURN static void usage(void)
{
	puts("usage: bench_bare --url PREFIX [--batch N] [--streams N] [--in-flight N] [--ms N]");
	puts("                  [--warmup-ms N] [--requests N] [--minimal] | --versions");
	puts("Sends batches for --ms, or --requests requests (whole batches) if given.");
	exit(0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"url", 1, NULL, 'u'},     {"batch", 1, NULL, 'b'},     {"streams", 1, NULL, 's'},
		{"in-flight", 1, NULL, 'f'}, {"ms", 1, NULL, 't'},      {"warmup-ms", 1, NULL, 'w'},
		{"requests", 1, NULL, 'n'}, {"minimal", 0, NULL, 'm'},  {"versions", 0, NULL, 'v'},
		{"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
	static struct bare b = {.in_flight = 64, .n_streams = 4, .batch = 100};
	long ms = 1500, warmup_ms = 0, requests = 0;

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 'u': b.url = optarg; break;
		case 'b': b.batch = (unsigned)number("batch", optarg, 1, 1000000); break;
		case 's': b.n_streams = (unsigned)number("streams", optarg, 1, MAX_STREAMS); break;
		case 'f': b.in_flight = (unsigned)number("in-flight", optarg, 1, MAX_IN_FLIGHT); break;
		case 't': ms = number("ms", optarg, 1, 3600000); break;
		case 'w': warmup_ms = number("warmup-ms", optarg, 0, 3600000); break;
		case 'n': requests = number("requests", optarg, 1, 1000000000); break;
		case 'm': b.minimal = true; break;
		case 'v': printf("%s; libevent/%s\n", curl_version(), event_get_version()); return 0;
		case 'h': usage();
		default: return 2;
		}
	}
	if (b.url == NULL)
		die("--url is required");
	curl_global_init(CURL_GLOBAL_ALL);
	setup(&b);
	if (warmup_ms > 0)
		run_phase(&b, warmup_ms, UINT64_MAX);
	if (requests > 0)
		measure(&b, INT32_MAX, ((uint64_t)requests + b.batch - 1) / b.batch);
	else
		measure(&b, ms, UINT64_MAX);
	teardown(&b);
	curl_global_cleanup();
	return 0;
}
