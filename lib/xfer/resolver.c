/*
 * The process's look-ups of names: getaddrinfo() blocks, so threads do it, a
 * fixed number at most, made when there is work and ended when there is none.
 *
 *   name:   WAITS ── a thread takes it ──► RUNS ── settle() ──► KEPT ── its time is up: forgotten
 *             └─ nobody waits any more: forgotten
 *
 * Invariants
 *  1. Everything is under `lock`; no thread holds it inside getaddrinfo().
 *  2. A name is looked up once at a time, whoever asks. All who asked by its end
 *     share its answer; resolver_ask() hands out a kept one at once.
 *  3. Services take turns. A service may begin a look-up while fewer of its own
 *     run than threads are free, and may wait with one more name while fewer of
 *     its own wait than there is room: however many of one hang, half of what is
 *     left goes to the next (Choudhury and Hahne, "Dynamic queue length
 *     thresholds for shared-memory packet switches", 1998).
 *  4. Names of the configuration and callers' names have as many threads each,
 *     so that no caller is in the way of what the operator set up.
 *  5. A look-up that has begun runs to its end: its thread cannot be stopped, and
 *     keeps its place for as long. The resolver lives until its last thread ends.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "obs/metrics.h"
#include "xfer/xfer-i.h"

enum {
	KEPT_MAX = 10000,                /* names; about 200 bytes each */
	ADDRESSES_MAX = 32,              /* of one name */
	STACK_BYTES = 256 * 1024,        /* getaddrinfo() and what nsswitch.conf loads into it */
};

enum { METRIC_LOOKUPS, METRIC_SECONDS, METRIC_RUNNING, METRIC_WAITING, METRIC_MAX };

enum name_state { NAME_WAITS, NAME_RUNS, NAME_KEPT };

struct name {
	struct idmap_node node;          /* resolver.names; key: hash of the host */
	enum name_state state;
	struct list asks;                /* struct ask */
	struct list place;               /* resolver.kept */
	enum lookup_result result;       /* from here on: KEPT */
	struct blob *addresses;
	int64_t until_us;
	size_t host_n;
	char host[];
};

/* One service's names that wait, of one class. */
struct queue {
	struct list turn;                /* class.turns while it is not empty */
	struct list asks;
	unsigned waiting, running;
};

/* Callers' names, or those of the configuration. */
struct class {
	struct queue **queues;           /* by service */
	unsigned n_queues;
	struct list turns;
	unsigned waiting, running;
};

struct resolver {
	pthread_mutex_t lock;
	pthread_cond_t work, ended;
	struct xfer_names cfg;
	struct class class[2];           /* [1]: of the configuration */
	struct idmap names;
	struct list kept;                /* oldest first */
	unsigned n_kept;
	unsigned threads, idle;
	unsigned refs;                   /* its owner's and each thread's */
	bool ending;
	uint64_t seed;
	struct metrics *metrics;
};

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

#define X(name, str, detail) str,
static const char *const results[] = {LOOKUP_RESULTS(X)};
#undef X
#define X(name, str, detail) detail,
static const char *const details[] = {LOOKUP_RESULTS(X)};
#undef X

const char *lookup_detail(enum lookup_result r)
{
	return details[r];
}

static struct metrics *new_metrics(void)
{
	const struct metric_def defs[METRIC_MAX] = {
		[METRIC_LOOKUPS] = {"settled_name_lookups_total",
				    "Look-ups of host names that ended, and names that were not looked up, by result.",
				    METRIC_COUNTER, {{"result", results, LOOKUP_MAX}}},
		[METRIC_SECONDS] = {"settled_name_lookup_duration_seconds", "Time that a look-up of a host name took.",
				    METRIC_HISTOGRAM, {{0}}},
		[METRIC_RUNNING] = {"settled_name_lookups_running", "Look-ups of host names, each with its thread.",
				    METRIC_GAUGE, {{0}}},
		[METRIC_WAITING] = {"settled_name_lookups_waiting", "Host names that wait for a thread.",
				    METRIC_GAUGE, {{0}}},
	};

	return metrics_new(defs, METRIC_MAX, 1);
}

static void count(struct resolver *r, unsigned metric, unsigned i, int64_t delta)
{
	meter_add((struct meter){r->metrics, 0}, metric, i, 0, delta);
}

struct resolver *resolver_new(const struct xfer_names *cfg)
{
	struct resolver *r = xcalloc(1, sizeof *r);
	pthread_condattr_t attr;
	struct rng rng;

	rng_seed_from_os(&rng);
	r->seed = rng_u64(&rng);
	r->refs = 1;
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->work, &attr);
	pthread_cond_init(&r->ended, &attr);
	pthread_condattr_destroy(&attr);
	list_init(&r->kept);
	for (size_t i = 0; i < ARRAY_LEN(r->class); i++)
		list_init(&r->class[i].turns);
	r->metrics = new_metrics();
	resolver_configure(r, cfg);
	return r;
}

void resolver_configure(struct resolver *r, const struct xfer_names *cfg)
{
	pthread_mutex_lock(&r->lock);
	r->cfg = *cfg;
	r->cfg.threads = MAX(cfg->threads, 1u);
	r->cfg.queued = MAX(cfg->queued, 1u);
	pthread_mutex_unlock(&r->lock);
}

void xfer_metrics_describe(struct buf *out)
{
	struct metrics *m = new_metrics();

	metrics_describe(m, out);
	metrics_free(m);
}

void resolver_render(struct resolver *r, struct buf *out)
{
	metrics_render(r->metrics, out);
}

static void name_free(struct resolver *r, struct name *n)
{
	if (n->state == NAME_KEPT) {
		list_remove(&n->place);
		r->n_kept--;
	}
	idmap_remove(&r->names, &n->node);
	blob_unref(n->addresses);
	free(n);
}

static void class_free(struct class *c)
{
	for (unsigned i = 0; i < c->n_queues; i++)
		free(c->queues[i]);
	free(c->queues);
}

/* The lock is held, and given up. */
static void unref(struct resolver *r)
{
	bool last = --r->refs == 0;

	pthread_mutex_unlock(&r->lock);
	if (!last)
		return;
	while (!list_empty(&r->kept))
		name_free(r, list_entry(r->kept.next, struct name, place));
	idmap_free(&r->names);
	for (size_t i = 0; i < ARRAY_LEN(r->class); i++)
		class_free(&r->class[i]);
	metrics_free(r->metrics);
	pthread_cond_destroy(&r->work);
	pthread_cond_destroy(&r->ended);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static struct queue *queue_of(struct resolver *r, const struct ask *a)
{
	struct class *c = &r->class[a->configured];
	unsigned had = c->n_queues;

	if (a->service >= had) {
		c->n_queues = a->service + 1;
		c->queues = reallocarray(c->queues, c->n_queues, sizeof(struct queue *));
		REQUIRE(c->queues != NULL);
		memset(c->queues + had, 0, (c->n_queues - had) * sizeof(struct queue *));
	}
	if (c->queues[a->service] == NULL) {
		struct queue *q = c->queues[a->service] = xcalloc(1, sizeof *q);

		list_init(&q->turn);
		list_init(&q->asks);
	}
	return c->queues[a->service];
}

static void enqueue(struct resolver *r, struct ask *a)
{
	struct queue *q = queue_of(r, a);
	struct class *c = &r->class[a->configured];

	list_append(&q->asks, &a->in_queue);
	if (q->waiting++ == 0)
		list_append(&c->turns, &q->turn);
	c->waiting++;
	count(r, METRIC_WAITING, 0, 1);
}

static void dequeue(struct resolver *r, struct ask *a)
{
	struct queue *q = queue_of(r, a);

	if (list_empty(&a->in_queue))
		return;
	list_remove(&a->in_queue);
	r->class[a->configured].waiting--;
	count(r, METRIC_WAITING, 0, -1);
	if (--q->waiting == 0)
		list_remove(&q->turn);
}

/* The next look-up that may begin; its service's turn is over. NULL: none. */
static struct ask *next_ask(struct resolver *r, bool take)
{
	for (size_t i = ARRAY_LEN(r->class); i-- > 0;) {
		struct class *c = &r->class[i];
		unsigned free_threads = r->cfg.threads - MIN(c->running, r->cfg.threads);

		list_foreach(node, &c->turns) {
			struct queue *q = list_entry(node, struct queue, turn);

			if (q->running >= free_threads)
				continue;
			if (take) {
				list_remove(&q->turn);
				list_append(&c->turns, &q->turn);
			}
			return list_entry(q->asks.next, struct ask, in_queue);
		}
	}
	return NULL;
}

static void add_address(struct buf *out, const struct addrinfo *ai)
{
	char text[INET6_ADDRSTRLEN];

	if (ai->ai_family == AF_INET) {
		struct sockaddr_in in;

		memcpy(&in, ai->ai_addr, sizeof in);
		inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
		buf_printf(out, "%s%s", out->n > 0 ? "," : "", text);
	} else if (ai->ai_family == AF_INET6) {
		struct sockaddr_in6 in6;

		memcpy(&in6, ai->ai_addr, sizeof in6);
		inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof text);
		buf_printf(out, "%s[%s]", out->n > 0 ? "," : "", text);
	}
}

static enum lookup_result result_of(int eai)
{
	switch (eai) {
	case EAI_NONAME:
	case EAI_NODATA:
		return LOOKUP_NOT_FOUND;
	case EAI_AGAIN:
		return LOOKUP_NO_ANSWER;
	}
	return LOOKUP_FAILED;
}

/* Blocks. The addresses are in the order of RFC 6724, which libcurl keeps. */
static enum lookup_result look_up(const char *host, struct blob **ret)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	struct buf text = {0};
	int eai = getaddrinfo(host, NULL, &hints, &list);
	unsigned n = 0;

	if (eai != 0)
		return result_of(eai);
	for (const struct addrinfo *ai = list; ai != NULL && n < ADDRESSES_MAX; ai = ai->ai_next, n++)
		add_address(&text, ai);
	freeaddrinfo(list);
	buf_add_char(&text, '\0');
	*ret = text.n > 1 ? blob_from_buf(&text) : NULL;
	buf_free(&text);
	return *ret == NULL ? LOOKUP_FAILED : LOOKUP_FOUND;
}

static void give(struct ask *a, const struct name *n)
{
	a->name = NULL;
	a->result = n->result;
	a->addresses = n->addresses == NULL ? NULL : blob_ref(n->addresses);
}

/* Also what nobody has asked for again. */
static void forget_old(struct resolver *r)
{
	int64_t at_us = now_us();

	while (!list_empty(&r->kept)) {
		struct name *n = list_entry(r->kept.next, struct name, place);

		if (r->n_kept <= KEPT_MAX && n->until_us > at_us)
			break;
		name_free(r, n);
	}
}

/* Everybody who waits gets the answer, and it is kept for those to come. */
static void settle(struct resolver *r, struct name *n)
{
	bool found = n->result == LOOKUP_FOUND;
	struct list *node;

	while ((node = list_pop(&n->asks)) != NULL) {
		struct ask *a = list_entry(node, struct ask, in_name);

		give(a, n);
		loop_post(a->loop, &a->msg);
	}
	n->until_us = now_us() + (found ? r->cfg.ttl_ms : r->cfg.negative_ttl_ms) * 1000;
	n->state = NAME_KEPT;
	list_append(&r->kept, &n->place);
	r->n_kept++;
	forget_old(r);
}

static void employ(struct resolver *r);

/* The lock is held, but not while it blocks. */
static void run(struct resolver *r, struct ask *a)
{
	struct name *n = a->name;
	struct queue *q = queue_of(r, a);
	struct class *c = &r->class[a->configured];
	int64_t begun_us = now_us();

	n->state = NAME_RUNS;
	list_foreach(node, &n->asks)
		dequeue(r, list_entry(node, struct ask, in_name));
	q->running++;
	c->running++;
	count(r, METRIC_RUNNING, 0, 1);
	employ(r);
	pthread_mutex_unlock(&r->lock);
	n->result = look_up(n->host, &n->addresses);
	pthread_mutex_lock(&r->lock);
	q->running--;
	c->running--;
	count(r, METRIC_RUNNING, 0, -1);
	count(r, METRIC_LOOKUPS, n->result, 1);
	meter_observe_us((struct meter){r->metrics, 0}, METRIC_SECONDS, 0, 0, now_us() - begun_us);
	settle(r, n);
}

/* False: there has been no work for so long that the thread may end. */
static bool wait_for_work(struct resolver *r)
{
	int64_t until_us = now_us() + r->cfg.thread_idle_ms * 1000;
	struct timespec until = {until_us / 1000000, until_us % 1000000 * 1000};
	int err;

	r->idle++;
	err = pthread_cond_timedwait(&r->work, &r->lock, &until);
	r->idle--;
	return err == 0 && !r->ending;
}

static void *thread_main(void *arg)
{
	struct resolver *r = arg;
	bool idle_for_long = false;
	struct ask *a;

	pthread_mutex_lock(&r->lock);
	/* Work may come in the moment that it gives up waiting: it looks again. */
	while ((a = next_ask(r, true)) != NULL || !idle_for_long) {
		if (a != NULL)
			run(r, a);
		idle_for_long = a == NULL && (r->ending || !wait_for_work(r));
	}
	r->threads--;
	pthread_cond_broadcast(&r->ended);
	unref(r);
	return NULL;
}

/* False: the system gives no thread. */
static bool start_thread(struct resolver *r)
{
	pthread_attr_t attr;
	pthread_t thread;
	bool ok;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	ok = pthread_create(&thread, &attr, thread_main, r) == 0;
	pthread_attr_destroy(&attr);
	r->threads += ok;
	r->refs += ok;
	return ok;
}

/* One thread for what may begin; each that begins sees to the next. While one is on its
 * way to look for work, as it was just made or has just ended a look-up, no other is. */
static void employ(struct resolver *r)
{
	if (r->threads > r->idle + r->class[0].running + r->class[1].running || next_ask(r, false) == NULL)
		return;
	if (r->idle > 0)
		pthread_cond_signal(&r->work);
	else
		(void)start_thread(r);
}

static struct name *find(struct resolver *r, struct batch_id key, struct slice host)
{
	for (struct idmap_node *node = idmap_find(&r->names, key); node != NULL; node = idmap_next(node)) {
		struct name *n = container_of(node, struct name, node);

		if (slice_eq((struct slice){n->host, n->host_n}, host))
			return n;
	}
	return NULL;
}

static struct name *get(struct resolver *r, struct slice host)
{
	struct batch_id key = {.lo = slice_hash(host, r->seed)};
	struct name *n = find(r, key, host);

	if (n != NULL && n->state == NAME_KEPT && n->until_us <= now_us()) {
		name_free(r, n);
		n = NULL;
	}
	if (n != NULL)
		return n;
	n = xcalloc(1, sizeof *n + host.n + 1);
	memcpy(n->host, host.p, host.n);
	n->host_n = host.n;
	list_init(&n->asks);
	idmap_add(&r->names, &n->node, key);
	return n;
}

static void leave(struct resolver *r, struct ask *a)
{
	struct name *n = STEAL_PTR(a->name);

	dequeue(r, a);
	list_remove(&a->in_name);
	if (n->state == NAME_WAITS && list_empty(&n->asks))
		name_free(r, n);
}

static bool refuse(struct resolver *r, struct ask *a, enum lookup_result why)
{
	leave(r, a);
	a->result = why;
	count(r, METRIC_LOOKUPS, why, 1);
	return true;
}

/* The lock is held. */
static bool ask(struct resolver *r, struct ask *a, struct slice host)
{
	struct class *c = &r->class[a->configured];
	struct name *n = get(r, host);

	if (n->state == NAME_KEPT) {
		give(a, n);
		return true;
	}
	a->name = n;
	list_append(&n->asks, &a->in_name);
	if (n->state == NAME_RUNS)
		return false;
	if (queue_of(r, a)->waiting >= r->cfg.queued - MIN(c->waiting, r->cfg.queued))
		return refuse(r, a, LOOKUP_QUEUE_FULL);
	enqueue(r, a);
	employ(r);
	return r->threads == 0 && refuse(r, a, LOOKUP_FAILED);
}

bool resolver_ask(struct resolver *r, struct ask *a, struct slice host)
{
	bool answered;

	list_init(&a->in_name);
	list_init(&a->in_queue);
	a->name = NULL;
	a->addresses = NULL;
	pthread_mutex_lock(&r->lock);
	answered = ask(r, a, host);
	pthread_mutex_unlock(&r->lock);
	return answered;
}

bool resolver_leave(struct resolver *r, struct ask *a)
{
	bool waits;

	pthread_mutex_lock(&r->lock);
	waits = a->name != NULL;
	if (waits)
		leave(r, a);
	pthread_mutex_unlock(&r->lock);
	return waits;
}

void resolver_free(struct resolver *r)
{
	if (r == NULL)
		return;
	pthread_mutex_lock(&r->lock);
	r->ending = true;
	pthread_cond_broadcast(&r->work);
	while (r->threads > r->class[0].running + r->class[1].running)
		pthread_cond_wait(&r->ended, &r->lock);
	unref(r);
}
