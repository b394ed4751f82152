/*
 * Invariants
 *  1. libevent is touched by the loop's own thread alone; other threads only
 *     lock a mailbox and write its eventfd.
 *  2. A mailbox's `inbox` is empty or a wake-up is on its way.
 *  3. A call or message runs from run_soon(), with the priority of whoever asked
 *     for it; run_soon() handles what stood in its lists when it began.
 *  4. NORMAL work makes nothing URGENT active: libevent would then leave its
 *     queue of ready sockets, and poll all of them again, after each callback.
 */
#include "loop/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { N_PRIORITIES = LOOP_NORMAL + 1, SOON_EVERY = 8 };

/* What is to run soon with one priority. */
struct soon {
	struct loop *loop;
	struct event *event;
	struct list calls;               /* struct loop_call */
	struct list local;               /* messages from this thread */
	unsigned callbacks;              /* of sockets, since what was asked for ran */
	/* Shared with other threads. */
	pthread_mutex_t lock;
	struct list inbox;
	int wake_fd;
	struct event *wake_event;
};

struct loop {
	struct event_base *base;
	struct soon soon[N_PRIORITIES];
	struct loop_usage usage;
	atomic_bool stop;
};

/* The loop that this thread runs, and the priority of the present callback. */
static _Thread_local struct loop *current;
static _Thread_local enum loop_priority running = LOOP_NORMAL;

struct loop_fd {
	struct loop *loop;
	struct event *event;
	int fd;
	enum loop_priority prio;
	void (*on_ready)(void *arg, unsigned events);
	void *arg;
};

struct loop_timer {
	struct loop *loop;
	struct event *event;
	enum loop_priority prio;
	int64_t at_us;                   /* when it rings; INT64_MAX: not armed */
	void (*on_due)(void *arg);
	void *arg;
};

int64_t loop_now_us(const struct loop *l)
{
	struct timespec ts;

	(void)l;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t loop_unix_ms(const struct loop *l)
{
	struct timespec ts;

	(void)l;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void run_messages(struct list *msgs)
{
	struct list *node;

	while ((node = list_pop(msgs)) != NULL) {
		struct loop_msg *m = list_entry(node, struct loop_msg, node);

		m->run(m);
	}
}

static void run_soon(evutil_socket_t fd, short what, void *arg)
{
	struct soon *soon = arg;
	struct list calls, msgs, *node;

	(void)fd;
	(void)what;
	running = (enum loop_priority)(soon - soon->loop->soon);
	list_init(&msgs);
	list_splice(&msgs, &soon->local);
	run_messages(&msgs);
	list_init(&calls);
	list_splice(&calls, &soon->calls);
	while ((node = list_pop(&calls)) != NULL) {
		struct loop_call *c = list_entry(node, struct loop_call, node);

		c->run(c);
	}
}

/* Between the callbacks of a long queue of ready sockets, what they asked for
 * soon is run after every few of them, not behind the last: a connection that is
 * used again before the next poll costs one epoll_ctl() less, and its data is
 * still in the cache. */
static void run_soon_between(struct loop *l, enum loop_priority prio)
{
	struct soon *soon = &l->soon[prio];

	if (++soon->callbacks < SOON_EVERY)
		return;
	soon->callbacks = 0;
	if (!list_empty(&soon->calls) || !list_empty(&soon->local))
		run_soon(-1, 0, soon);
}

static bool run_inbox(struct soon *soon)
{
	struct list msgs;
	bool any;

	running = (enum loop_priority)(soon - soon->loop->soon);
	list_init(&msgs);
	pthread_mutex_lock(&soon->lock);
	list_splice(&msgs, &soon->inbox);
	pthread_mutex_unlock(&soon->lock);
	any = !list_empty(&msgs);
	run_messages(&msgs);
	return any;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct soon *soon = arg;
	uint64_t count;

	(void)what;
	if (read(fd, &count, sizeof count) < 0)
		REQUIRE(errno == EINTR || errno == EAGAIN);
	(void)run_inbox(soon);
	if (atomic_load(&soon->loop->stop))
		event_base_loopbreak(soon->loop->base);
}

static void wake(struct soon *soon)
{
	uint64_t one = 1;

	while (write(soon->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* libevent's settings, each measured: precise timers (the default clock is 3 to
 * 6 ms late), batched epoll_ctl, no locks, bounded dispatch between polls. */
static struct event_base *new_base(void)
{
	struct event_config *cfg = event_config_new();
	const struct timeval interval = {.tv_usec = 500};
	struct event_base *base = NULL;

	if (cfg == NULL)
		return NULL;
	if (event_config_set_flag(cfg, EVENT_BASE_FLAG_PRECISE_TIMER | EVENT_BASE_FLAG_NOLOCK |
					       EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST) == 0 &&
	    event_config_set_max_dispatch_interval(cfg, &interval, 64, LOOP_NORMAL) == 0)
		base = event_base_new_with_config(cfg);
	event_config_free(cfg);
	if (base != NULL)
		event_base_priority_init(base, N_PRIORITIES);
	return base;
}

static void soon_free(struct soon *soon)
{
	if (soon->event != NULL)
		event_free(soon->event);
	if (soon->wake_event != NULL)
		event_free(soon->wake_event);
	if (soon->wake_fd >= 0)
		close(soon->wake_fd);
	pthread_mutex_destroy(&soon->lock);
}

/* False: errno says why. To be freed either way. */
static bool soon_init(struct soon *soon, struct loop *l, enum loop_priority prio)
{
	*soon = (struct soon){.loop = l};
	list_init(&soon->calls);
	list_init(&soon->local);
	list_init(&soon->inbox);
	pthread_mutex_init(&soon->lock, NULL);
	soon->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (soon->wake_fd < 0)
		return false;
	soon->event = event_new(l->base, -1, 0, run_soon, soon);
	soon->wake_event = event_new(l->base, soon->wake_fd, EV_READ | EV_PERSIST, on_wake, soon);
	REQUIRE(soon->event != NULL && soon->wake_event != NULL);
	event_priority_set(soon->event, (int)prio);
	event_priority_set(soon->wake_event, (int)prio);
	event_add(soon->wake_event, NULL);
	return true;
}

struct loop *loop_new(void)
{
	struct loop *l = xcalloc(1, sizeof *l);
	bool ok = true;
	int err;

	l->base = new_base();
	if (l->base == NULL) {
		free(l);
		errno = ENOMEM;
		return NULL;
	}
	for (int i = 0; i < N_PRIORITIES; i++)
		ok = soon_init(&l->soon[i], l, (enum loop_priority)i) && ok;
	if (ok)
		return l;
	err = errno;
	loop_free(l);
	errno = err;
	return NULL;
}

void loop_free(struct loop *l)
{
	if (l == NULL)
		return;
	REQUIRE(l->usage.fds == 0 && l->usage.timers == 0);
	for (int i = 0; i < N_PRIORITIES; i++)
		soon_free(&l->soon[i]);
	event_base_free(l->base);
	free(l);
}

void loop_run(struct loop *l)
{
	current = l;
	while (!atomic_load(&l->stop))
		REQUIRE(event_base_loop(l->base, EVLOOP_NO_EXIT_ON_EMPTY) == 0);
	current = NULL;
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stop, true);
	wake(&l->soon[LOOP_URGENT]);
}

bool loop_settle(struct loop *l)
{
	bool any = false;

	if (l == NULL)
		return false;
	current = l;
	for (int i = 0; i < N_PRIORITIES; i++) {
		struct soon *soon = &l->soon[i];

		any |= run_inbox(soon) || !list_empty(&soon->local) || !list_empty(&soon->calls);
		run_soon(-1, 0, soon);
	}
	current = NULL;
	return any;
}

bool loop_is_current(const struct loop *l)
{
	return current == l;
}

static short to_libevent(unsigned events)
{
	return (short)(EV_PERSIST | (events & LOOP_READ ? EV_READ : 0) |
		       (events & LOOP_WRITE ? EV_WRITE : 0) | (events & LOOP_CLOSED ? EV_CLOSED : 0) |
		       (events & LOOP_EDGE ? EV_ET : 0));
}

static void on_fd(evutil_socket_t fd, short what, void *arg)
{
	struct loop_fd *f = arg;
	unsigned events = (what & EV_READ ? LOOP_READ : 0u) | (what & EV_WRITE ? LOOP_WRITE : 0u) |
			  (what & EV_CLOSED ? LOOP_CLOSED : 0u);
	struct loop *l = f->loop;
	enum loop_priority prio = f->prio;

	(void)fd;
	running = prio;
	f->on_ready(f->arg, events);
	run_soon_between(l, prio);
}

struct loop_fd *loop_fd_new(struct loop *l, int fd, unsigned events, enum loop_priority prio,
			    void (*on_ready)(void *arg, unsigned events), void *arg)
{
	struct loop_fd *f = xcalloc(1, sizeof *f);

	*f = (struct loop_fd){.loop = l, .fd = fd, .prio = prio, .on_ready = on_ready, .arg = arg};
	f->event = event_new(l->base, fd, to_libevent(events), on_fd, f);
	REQUIRE(f->event != NULL);
	event_priority_set(f->event, (int)prio);
	event_add(f->event, NULL);
	l->usage.fds++;
	return f;
}

void loop_fd_set(struct loop_fd *f, unsigned events)
{
	event_del(f->event);
	event_assign(f->event, f->loop->base, f->fd, to_libevent(events), on_fd, f);
	event_priority_set(f->event, (int)f->prio);
	event_add(f->event, NULL);
}

void loop_fd_free(struct loop_fd *f)
{
	if (f == NULL)
		return;
	event_free(f->event);
	f->loop->usage.fds--;
	free(f);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct loop_timer *t = arg;

	(void)fd;
	(void)what;
	running = t->prio;
	t->at_us = INT64_MAX;
	t->on_due(t->arg);
}

struct loop_timer *loop_timer_new(struct loop *l, enum loop_priority prio, void (*on_due)(void *arg),
				  void *arg)
{
	struct loop_timer *t = xcalloc(1, sizeof *t);

	*t = (struct loop_timer){.loop = l, .prio = prio, .at_us = INT64_MAX, .on_due = on_due, .arg = arg};
	t->event = event_new(l->base, -1, 0, on_timer, t);
	REQUIRE(t->event != NULL);
	event_priority_set(t->event, (int)prio);
	l->usage.timers++;
	return t;
}

void loop_timer_at(struct loop_timer *t, int64_t at_us)
{
	int64_t wait;

	t->at_us = at_us;
	if (at_us == INT64_MAX) {
		event_del(t->event);
		return;
	}
	wait = MAX(at_us - loop_now_us(t->loop), (int64_t)0);
	event_add(t->event, &(struct timeval){.tv_sec = wait / 1000000, .tv_usec = wait % 1000000});
}

void loop_timer_by(struct loop_timer *t, int64_t at_us)
{
	if (at_us < t->at_us)
		loop_timer_at(t, at_us);
}

void loop_timer_free(struct loop_timer *t)
{
	if (t == NULL)
		return;
	event_free(t->event);
	t->loop->usage.timers--;
	free(t);
}

void loop_call_init(struct loop_call *c, void (*run)(struct loop_call *))
{
	list_init(&c->node);
	c->run = run;
}

void loop_call_soon(struct loop *l, struct loop_call *c)
{
	struct soon *soon = &l->soon[running];

	/* Asked for again: only an urgent wish moves it forward. */
	if (!list_empty(&c->node) && running != LOOP_URGENT)
		return;
	list_remove(&c->node);
	list_append(&soon->calls, &c->node);
	event_active(soon->event, EV_TIMEOUT, 0);
}

void loop_call_cancel(struct loop_call *c)
{
	list_remove(&c->node);
}

void loop_post(struct loop *to, struct loop_msg *msg)
{
	struct soon *soon = &to->soon[running];
	bool first;

	if (current == to) {
		list_append(&soon->local, &msg->node);
		event_active(soon->event, EV_TIMEOUT, 0);
		return;
	}
	pthread_mutex_lock(&soon->lock);
	first = list_empty(&soon->inbox);
	list_append(&soon->inbox, &msg->node);
	pthread_mutex_unlock(&soon->lock);
	if (first)
		wake(soon);
}

struct loop_usage loop_usage(const struct loop *l)
{
	return l->usage;
}
