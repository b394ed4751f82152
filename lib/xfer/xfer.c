/*
 * libcurl's multi handle in the loop, and the transfers in it.
 *
 * A transfer's states, each change in the function named:
 *
 *     SPARE ── xfer_start() ──► STARTING ─ start_some() ─► LIVE
 *       ▲                       │  ▲                        │       │
 *       │                       │  │ xfer_start_soon()      │       │
 *       │                       │  └────── UNRESOLVED ◄─────┘       │
 *       │         xfer_cancel() │             │ xfer_give_up(),     │ finish(),
 *       │                       ▼             ▼ xfer_cancel()       ▼ xfer_cancel()
 *       └────── deliver() ─────────────────────── DONE
 *
 * Invariants
 *  1. LIVE: the easy handle is in the multi. Otherwise it is not.
 *  2. STARTING: in x->starting, with the start call asked for or start_rest
 *     armed. libcurl would connect or send for all that it is given at once, up
 *     to 60 us each, so it is given some and the loop sees to other things. The
 *     first ones start in this turn: a connection that is used again at once
 *     costs no epoll_ctl().
 *  3. DONE: in x->done with the deliver call asked for; the answer is final, so
 *     a cancel changes nothing any more.
 *  4. Messages of the multi are drained after each call into it that can make
 *     some, so xfer_cancel() never meets a finished transfer.
 *  5. No callback of libcurl calls the multi or the owner.
 *  6. UNRESOLVED: in the list of its look-up, see names.c. libcurl looks nothing up.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "xfer/xfer-i.h"

enum {
	STARTS_PER_STEP = 8,
	START_LIMIT_US = 500,
	SPARE_MAX = 128,                 /* some 10 KB each */
};

struct resolver *xfer_resolver;

int xfer_global_init(const struct xfer_names *names)
{
	/* CURLOPT_NOSIGNAL leaves to us what a TLS write to a closed peer raises. */
	signal(SIGPIPE, SIG_IGN);
	if (!xfer_tls_init() || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return -ENOMEM;
	xfer_resolver = resolver_new(names);
	return 0;
}

void xfer_names_configure(const struct xfer_names *names)
{
	resolver_configure(xfer_resolver, names);
}

void xfer_metrics_render(struct buf *out)
{
	resolver_render(xfer_resolver, out);
}

void xfer_global_free(void)
{
	resolver_free(STEAL_PTR(xfer_resolver));
	xfer_tls_use(NULL);
	curl_global_cleanup();
}

/* The multi counts used connections too, and with too small a number it would
 * close one for each that ends: room for all in use, or for the idle ones. */
static void allow_connections(struct xfer *x)
{
	long n = (long)MAX(MAX(x->in_multi, x->max_idle), 1u);

	if (n == x->max_connects)
		return;
	curl_multi_setopt(x->multi, CURLMOPT_MAXCONNECTS, n);
	x->max_connects = n;
}

void xfer_set_max_idle(struct xfer *x, unsigned max_idle)
{
	x->max_idle = max_idle;
	allow_connections(x);
}

/* Nothing is in flight: begin to count the time that connections idle. */
static void note_quiet(struct xfer *x)
{
	x->quiet_since_us = loop_now_us(x->loop);
	loop_timer_by(x->quiet, x->quiet_since_us + x->idle_ms * 1000);
}

static void set_done(struct transfer *t)
{
	t->state = TRANSFER_DONE;
	list_append(&t->x->done, &t->node);
	loop_call_soon(t->x->loop, &t->x->deliver);
}

static bool multi_add(struct xfer *x, CURL *easy)
{
	x->in_multi++;
	allow_connections(x);
	if (curl_multi_add_handle(x->multi, easy) == CURLM_OK)
		return true;
	x->in_multi--;
	return false;
}

static void multi_remove(struct xfer *x, CURL *easy)
{
	curl_multi_remove_handle(x->multi, easy);
	x->in_multi--;
	allow_connections(x);
	if (x->in_multi == 0)
		note_quiet(x);
}

void xfer_give_up(struct transfer *t, CURLcode rc)
{
	xfer_transfer_conclude(t, rc, false);
	set_done(t);
}

void xfer_start_soon(struct transfer *t)
{
	t->state = TRANSFER_STARTING;
	list_append(&t->x->starting, &t->node);
	loop_call_soon(t->x->loop, &t->x->start);
}

static void finish(struct xfer *x, CURL *easy, CURLcode rc)
{
	struct transfer *t = NULL;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
	if (t->seen.unresolved) {
		multi_remove(x, easy);
		xfer_names_wait(t);
	} else {
		xfer_transfer_conclude(t, rc, false);
		multi_remove(x, easy);
		set_done(t);
	}
}

/* Let libcurl handle an event. Its only error here is a lack of memory, which
 * ends in the transfers' own results or, at worst, in their owners' deadlines. */
void xfer_act(struct xfer *x, curl_socket_t fd, int events)
{
	CURLMsg *m;
	int n;

	curl_multi_socket_action(x->multi, fd, events, &n);
	while ((m = curl_multi_info_read(x->multi, &n)) != NULL) {
		if (m->msg == CURLMSG_DONE)
			finish(x, m->easy_handle, m->data.result);
	}
}

/* libcurl says anew when it wants the timer, if it still does. */
static void run_timeouts(struct xfer *x)
{
	x->due_us = HEAP_NONE;
	xfer_act(x, CURL_SOCKET_TIMEOUT, 0);
}

static void on_timer(void *arg)
{
	struct xfer *x = arg;

	if (x->due_us <= loop_now_us(x->loop))
		run_timeouts(x);
	loop_timer_by(x->timer, x->due_us);
}

static void add_to_multi(struct transfer *t)
{
	t->state = TRANSFER_LIVE;
	if (!multi_add(t->x, t->easy))
		xfer_give_up(t, CURLE_OUT_OF_MEMORY);
}

static void start_some(struct xfer *x)
{
	int64_t until_us = loop_now_us(x->loop) + START_LIMIT_US;

	do {
		x->starting_now = true;
		for (int n = 0; n < STARTS_PER_STEP && !list_empty(&x->starting); n++)
			add_to_multi(list_entry(list_pop(&x->starting), struct transfer, node));
		x->starting_now = false;
		run_timeouts(x);
	} while (!list_empty(&x->starting) && loop_now_us(x->loop) < until_us);
	loop_timer_by(x->timer, x->due_us);
	if (!list_empty(&x->starting))
		loop_timer_at(x->start_rest, 0);
}

static void on_start(struct loop_call *c)
{
	start_some(container_of(c, struct xfer, start));
}

static void on_start_rest(void *arg)
{
	start_some(arg);
}

/* CURLMOPT_TIMERFUNCTION. */
static int on_set_timer(CURLM *multi, long ms, void *arg)
{
	struct xfer *x = arg;

	(void)multi;
	x->due_us = ms < 0 ? HEAP_NONE : ms == 0 ? 0 : loop_now_us(x->loop) + (int64_t)ms * 1000;
	if (!x->starting_now)
		loop_timer_by(x->timer, x->due_us);
	return 0;
}

static void keep_spare(struct transfer *t)
{
	struct xfer *x = t->x;

	if (x->n_spare >= SPARE_MAX) {
		xfer_transfer_free(t);
		return;
	}
	xfer_transfer_reset(t);
	t->state = TRANSFER_SPARE;
	list_prepend(&x->spare, &t->node);
	x->n_spare++;
}

static struct transfer *take_spare(struct xfer *x)
{
	struct list *node = list_pop(&x->spare);

	if (node == NULL)
		return xfer_transfer_new(x);
	x->n_spare--;
	return list_entry(node, struct transfer, node);
}

static void free_spares(struct xfer *x)
{
	while (x->n_spare > 0)
		xfer_transfer_free(take_spare(x));
}

/* What is done while this runs waits for the next call. */
static void deliver(struct loop_call *c)
{
	struct xfer *x = container_of(c, struct xfer, deliver);
	struct list now, *node;

	list_init(&now);
	list_splice(&now, &x->done);
	x->delivering = true;
	while ((node = list_pop(&now)) != NULL) {
		struct transfer *t = list_entry(node, struct transfer, node);

		x->live--;
		t->on_done(t->arg, &t->answer);
		keep_spare(t);
	}
	x->delivering = false;
}

static CURLM *new_multi(struct xfer *x)
{
	CURLM *m = curl_multi_init();

	if (m == NULL)
		return NULL;
	curl_multi_setopt(m, CURLMOPT_SOCKETFUNCTION, xfer_sockets_on_watch);
	curl_multi_setopt(m, CURLMOPT_SOCKETDATA, x);
	curl_multi_setopt(m, CURLMOPT_TIMERFUNCTION, on_set_timer);
	curl_multi_setopt(m, CURLMOPT_TIMERDATA, x);
	curl_multi_setopt(m, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	return m;
}

/* Connections leave the pool only when a transfer looks for one, so after a
 * quiet time the whole pool goes, and the spare handles with it. */
static void on_quiet(void *arg)
{
	struct xfer *x = arg;
	int64_t due = x->quiet_since_us + x->idle_ms * 1000;
	CURLM *fresh;

	if (x->in_multi > 0)
		return;
	if (due > loop_now_us(x->loop)) {
		loop_timer_by(x->quiet, due);
		return;
	}
	fresh = new_multi(x);
	if (fresh == NULL)
		return;
	free_spares(x);
	curl_multi_cleanup(x->multi);
	x->due_us = HEAP_NONE;
	x->multi = fresh;
	x->max_connects = 0;
	allow_connections(x);
}

struct xfer *xfer_new(struct loop *l, const struct xfer_config *cfg)
{
	struct xfer *x = xcalloc(1, sizeof *x);

	x->loop = l;
	x->due_us = HEAP_NONE;
	x->max_idle = cfg->max_idle;
	x->idle_ms = MAX(cfg->idle_ms, INT64_C(1));
	x->user_agent = cfg->user_agent == NULL ? NULL : xstrdup(cfg->user_agent);
	list_init(&x->starting);
	list_init(&x->done);
	list_init(&x->spare);
	xfer_names_init(&x->names);
	loop_call_init(&x->deliver, deliver);
	x->multi = new_multi(x);
	if (x->multi == NULL) {
		free(x->user_agent);
		free(x);
		return NULL;
	}
	allow_connections(x);
	loop_call_init(&x->start, on_start);
	x->start_rest = loop_timer_new(l, LOOP_NORMAL, on_start_rest, x);
	x->timer = loop_timer_new(l, LOOP_NORMAL, on_timer, x);
	x->quiet = loop_timer_new(l, LOOP_NORMAL, on_quiet, x);
	x->closing.timer = loop_timer_new(l, LOOP_NORMAL, xfer_sockets_close_some, x);
	return x;
}

void xfer_free(struct xfer *x)
{
	if (x == NULL)
		return;
	REQUIRE(x->live == 0 && !x->delivering);
	loop_call_cancel(&x->deliver);
	xfer_names_free(x);
	free_spares(x);
	/* Closes the idle connections, through the queue. */
	curl_multi_cleanup(x->multi);
	xfer_sockets_close_all(x);
	loop_call_cancel(&x->start);
	loop_timer_free(x->start_rest);
	loop_timer_free(x->timer);
	loop_timer_free(x->quiet);
	loop_timer_free(x->closing.timer);
	free(x->closing.fds);
	free(x->watches);
	free(x->user_agent);
	free(x);
}

struct transfer *xfer_start(struct xfer *x, const struct exchange *e,
			    void (*on_done)(void *arg, const struct answer *answer), void *arg)
{
	struct transfer *t = take_spare(x);

	if (t == NULL)
		return NULL;
	if (!xfer_transfer_prepare(t, e)) {
		xfer_transfer_free(t);
		return NULL;
	}
	t->on_done = on_done;
	t->arg = arg;
	xfer_start_soon(t);
	x->live++;
	return t;
}

/* Under load an answer can have arrived that the loop has not come to. */
static void read_what_waits(struct transfer *t)
{
	char c;

	if (t->state == TRANSFER_LIVE && t->seen.requests > 0 && t->seen.status == 0 && t->fd >= 0 &&
	    recv(t->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
		xfer_act(t->x, t->fd, CURL_CSELECT_IN);
}

void xfer_cancel(struct transfer *t)
{
	read_what_waits(t);
	switch (t->state) {
	case TRANSFER_STARTING:
		xfer_transfer_conclude(t, CURLE_OK, true);
		list_remove(&t->node);
		break;
	case TRANSFER_LIVE:
		xfer_transfer_conclude(t, CURLE_OK, true);
		multi_remove(t->x, t->easy);
		break;
	case TRANSFER_UNRESOLVED:
		xfer_transfer_conclude(t, CURLE_OK, true);
		xfer_names_leave(t);
		break;
	case TRANSFER_DONE:
	case TRANSFER_SPARE:
		return;
	}
	set_done(t);
}

struct xfer_usage xfer_usage(const struct xfer *x)
{
	return (struct xfer_usage){.live = x->live,
				   .closing = x->closing.n,
				   .lookups = x->names.n_asked,
				   .unresolved = x->names.n_waiters};
}
