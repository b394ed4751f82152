/*
 * What the tests of xfer share: a loop in a thread of its own, so that a test
 * can wait in the middle, and a downstream whose behaviour is one function per
 * connection. All waiting is for events, under one lock.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "xfer/xfer.h"

enum { PEERS_MAX = 256, BODY_MAX = 4096, REQUEST_MAX = 8 * 1024 };

static pthread_mutex_t rig_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rig_changed = PTHREAD_COND_INITIALIZER;

/* Wait until `cond`, which reads what is written under the lock. */
#define WAIT_FOR(cond)                                                  \
	do {                                                            \
		pthread_mutex_lock(&rig_lock);                          \
		while (!(cond))                                         \
			pthread_cond_wait(&rig_changed, &rig_lock);     \
		pthread_mutex_unlock(&rig_lock);                        \
	} while (0)

#define CHANGE(statement)                                \
	do {                                             \
		pthread_mutex_lock(&rig_lock);           \
		statement;                               \
		pthread_cond_broadcast(&rig_changed);    \
		pthread_mutex_unlock(&rig_lock);         \
	} while (0)

/* The downstream. */

struct peer {
	struct downstream *of;
	pthread_t thread;
	int fd;
	unsigned requests;               /* on this connection */
};

struct downstream {
	int fd;
	int port;
	pthread_t thread;
	void (*serve)(struct peer *p);
	const char *text;                /* for serve */
	unsigned n_peers, requests, gone;
	struct peer peers[PEERS_MAX];
	char request[REQUEST_MAX];       /* the last one's start, NUL-terminated */
	size_t body_n;                   /* of the last one */
	uint64_t body_hash;
};

static void *peer_main(void *arg)
{
	struct peer *p = arg;

	p->of->serve(p);
	close(p->fd);
	CHANGE(p->of->gone++);
	return NULL;
}

static void *downstream_main(void *arg)
{
	struct downstream *d = arg;
	int fd;

	while ((fd = accept4(d->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		struct peer *p = &d->peers[d->n_peers];

		assert_true(d->n_peers < PEERS_MAX);
		*p = (struct peer){.of = d, .fd = fd};
		CHANGE(d->n_peers++);
		pthread_create(&p->thread, NULL, peer_main, p);
	}
	return NULL;
}

static int listen_on_loopback(int backlog, int *ret_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
	assert_int_equal(listen(fd, backlog), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

static struct downstream *downstream_new(void (*serve)(struct peer *p), const char *text)
{
	struct downstream *d = xcalloc(1, sizeof *d);

	d->serve = serve;
	d->text = text;
	d->fd = listen_on_loopback(PEERS_MAX, &d->port);
	pthread_create(&d->thread, NULL, downstream_main, d);
	return d;
}

/* Only when no connection is left open, as it waits for their threads. */
static void downstream_free(struct downstream *d)
{
	shutdown(d->fd, SHUT_RDWR);
	pthread_join(d->thread, NULL);
	for (unsigned i = 0; i < d->n_peers; i++)
		pthread_join(d->peers[i].thread, NULL);
	close(d->fd);
	free(d);
}

static size_t content_length(const char *head)
{
	const char *p = strcasestr(head, "\r\nContent-Length:");

	return p == NULL ? 0 : strtoul(p + 17, NULL, 10);
}

/* Read one request to its end. False: the client has gone. */
static bool read_request(struct peer *p)
{
	char head[REQUEST_MAX];
	size_t n = 0, want, got = 0;
	ssize_t r;

	do {
		r = recv(p->fd, head + n, 1, 0);
		if (r != 1)
			return false;
		head[++n] = '\0';
		assert_true(n + 1 < sizeof head);
	} while (n < 4 || memcmp(head + n - 4, "\r\n\r\n", 4) != 0);
	want = content_length(head);
	char *body = xcalloc(1, want + 1);

	for (; got < want; got += (size_t)r) {
		r = recv(p->fd, body + got, want - got, 0);
		if (r <= 0) {
			free(body);
			return false;
		}
	}
	p->requests++;
	CHANGE(p->of->requests++; memcpy(p->of->request, head, n + 1); p->of->body_n = want;
	       p->of->body_hash = slice_hash((struct slice){body, want}, 0));
	free(body);
	return true;
}

static bool say(struct peer *p, const char *text)
{
	size_t n = strlen(text);

	return send(p->fd, text, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static void wait_for_end(struct peer *p)
{
	char c;

	while (recv(p->fd, &c, 1, 0) > 0)
		;
}

/* Answer each request with d->text. */
static inline void serve_text(struct peer *p)
{
	while (read_request(p))
		say(p, p->of->text);
}

/* Answer once with d->text, and end the connection in order. */
static inline void serve_text_and_close(struct peer *p)
{
	if (read_request(p))
		say(p, p->of->text);
	shutdown(p->fd, SHUT_WR);
	wait_for_end(p);
}

#define OK "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

/* The loop, and transfers in it. */

#define XFER_TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

static inline int rig_global_setup(void **state)
{
	(void)state;
	return xfer_global_init(&(struct xfer_names){.threads = 8, .queued = 1000, .ttl_ms = 60000, .negative_ttl_ms = 60000});
}

static inline int rig_global_teardown(void **state)
{
	(void)state;
	xfer_global_free();
	return 0;
}

static struct loop *rig_loop;
static struct xfer *rig_xfer;
static pthread_t rig_thread;
static bool rig_inside;                  /* in start or cancel; loop's thread */

struct job {
	struct exchange e;
	char url[256];
	struct transfer *t;
	struct answer a;
	char body[BODY_MAX];
	unsigned calls;                  /* of on_done */
	bool inside;                     /* ... and that from inside a call */
};

struct task {
	struct loop_msg msg;
	void (*run)(void *arg);
	void *arg;
	bool done;
};

static void run_task(struct loop_msg *m)
{
	struct task *t = container_of(m, struct task, msg);

	t->run(t->arg);
	CHANGE(t->done = true);
}

/* Run it in the loop's thread, and wait for it. */
static void on_loop(void (*run)(void *arg), void *arg)
{
	struct task t = {.msg.run = run_task, .run = run, .arg = arg};

	loop_post(rig_loop, &t.msg);
	WAIT_FOR(t.done);
}

static inline void count_watched(void *arg)
{
	*(unsigned *)arg = loop_usage(rig_loop).fds;
}

static void *rig_main(void *arg)
{
	(void)arg;
	loop_run(rig_loop);
	return NULL;
}

static void rig_setup_with(const struct xfer_config *cfg)
{
	rig_loop = loop_new();
	assert_non_null(rig_loop);
	rig_xfer = xfer_new(rig_loop, cfg);
	assert_non_null(rig_xfer);
	pthread_create(&rig_thread, NULL, rig_main, NULL);
}

static int rig_setup(void **state)
{
	(void)state;
	rig_setup_with(&(struct xfer_config){.max_idle = 64, .idle_ms = 60000, .user_agent = "rig"});
	return 0;
}

/* Everything that transfers needed is gone after them. */
static int rig_teardown(void **state)
{
	(void)state;
	loop_stop(rig_loop);
	pthread_join(rig_thread, NULL);
	assert_int_equal(xfer_usage(rig_xfer).live, 0);
	xfer_free(rig_xfer);
	assert_int_equal(loop_usage(rig_loop).fds, 0);
	assert_int_equal(loop_usage(rig_loop).timers, 0);
	loop_free(rig_loop);
	return 0;
}

/* Close pooled connections, so that a downstream can end. */
static void rig_restart(void)
{
	rig_teardown(NULL);
	rig_setup(NULL);
}

static inline void finish_with(struct downstream *d)
{
	rig_restart();
	downstream_free(d);
}

static void on_job_done(void *arg, const struct answer *a)
{
	struct job *j = arg;

	pthread_mutex_lock(&rig_lock);
	j->a = *a;
	j->a.body.n = MIN(a->body.n, sizeof j->body);
	if (a->body.n > 0)
		memcpy(j->body, a->body.p, j->a.body.n);
	j->a.body.p = j->body;
	j->calls++;
	j->inside = rig_inside;
	pthread_cond_broadcast(&rig_changed);
	pthread_mutex_unlock(&rig_lock);
}

static void start_job(void *arg)
{
	struct job *j = arg;

	rig_inside = true;
	j->t = xfer_start(rig_xfer, &j->e, on_job_done, j);
	rig_inside = false;
}

static inline void cancel_job(void *arg)
{
	struct job *j = arg;

	rig_inside = true;
	xfer_cancel(j->t);
	xfer_cancel(j->t);
	rig_inside = false;
}

static void job_init(struct job *j, const char *method, const char *url, struct slice body)
{
	memset(j, 0, sizeof *j);
	snprintf(j->url, sizeof j->url, "%s", url);
	j->e = (struct exchange){.method = method, .url = j->url, .body = body, .answer_limit = 1024};
}

static void job_post(struct job *j, int port)
{
	char url[64];

	snprintf(url, sizeof url, "http://127.0.0.1:%d/in", port);
	job_init(j, "POST", url, SLICE("{\"n\":1}"));
}

static void job_wait(struct job *j)
{
	WAIT_FOR(j->calls > 0);
	assert_int_equal(j->calls, 1);
	assert_false(j->inside);
}

static inline void job_run(struct job *j)
{
	on_loop(start_job, j);
	assert_non_null(j->t);
	job_wait(j);
}

/* One request to a downstream that behaves so. */
static inline struct answer ask(void (*serve)(struct peer *p), const char *text)
{
	static struct job j;
	struct downstream *d = downstream_new(serve, text);

	job_post(&j, d->port);
	job_run(&j);
	finish_with(d);
	return j.a;
}

#define ASSERT_BODY(a, text)                                              \
	do {                                                              \
		assert_int_equal((a).body.n, strlen(text));               \
		assert_memory_equal((a).body.p, text, strlen(text));      \
	} while (0)
