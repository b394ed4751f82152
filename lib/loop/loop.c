/*
 * Invariants
 *  1. libevent is touched by the loop's own thread alone; other threads only
 *     lock the mailbox and write the eventfd.
 *  2. `inbox` is empty or a wake-up is on its way.
 *  3. A call or message runs from run_calls(), which handles what stood in the
 *     list when it began: what those ask for comes in the next round.
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

struct loop {
	struct event_base *base;
	struct event *calls_event;
	struct list calls;               /* struct loop_call */
	struct list local;               /* messages from this thread */
	struct loop_usage usage;
	/* Shared with other threads. */
	pthread_mutex_t lock;
	struct list inbox;
	atomic_bool stop;
	int wake_fd;
	struct event *wake_event;
};

/* The loop that this thread runs. */
static _Thread_local struct loop *current;

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

static void run_calls(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;
	struct list now, msgs, *node;

	(void)fd;
	(void)what;
	list_init(&msgs);
	list_splice(&msgs, &l->local);
	run_messages(&msgs);
	list_init(&now);
	list_splice(&now, &l->calls);
	while ((node = list_pop(&now)) != NULL) {
		struct loop_call *c = list_entry(node, struct loop_call, node);

		c->run(c);
	}
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;
	struct list msgs;
	uint64_t count;

	(void)what;
	if (read(fd, &count, sizeof count) < 0 && errno != EAGAIN)
		REQUIRE(errno == EINTR);
	list_init(&msgs);
	pthread_mutex_lock(&l->lock);
	list_splice(&msgs, &l->inbox);
	pthread_mutex_unlock(&l->lock);
	run_messages(&msgs);
	if (atomic_load(&l->stop))
		event_base_loopbreak(l->base);
}

static void wake(struct loop *l)
{
	uint64_t one = 1;

	while (write(l->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
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
		event_base_priority_init(base, 2);
	return base;
}

struct loop *loop_new(void)
{
	struct loop *l = xcalloc(1, sizeof *l);

	list_init(&l->calls);
	list_init(&l->local);
	list_init(&l->inbox);
	pthread_mutex_init(&l->lock, NULL);
	l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->wake_fd < 0)
		goto fail;
	l->base = new_base();
	if (l->base == NULL) {
		errno = ENOMEM;
		goto fail_fd;
	}
	l->calls_event = event_new(l->base, -1, 0, run_calls, l);
	l->wake_event = event_new(l->base, l->wake_fd, EV_READ | EV_PERSIST, on_wake, l);
	REQUIRE(l->calls_event != NULL && l->wake_event != NULL);
	event_priority_set(l->calls_event, LOOP_URGENT);
	event_priority_set(l->wake_event, LOOP_URGENT);
	event_add(l->wake_event, NULL);
	return l;

fail_fd:
	close(l->wake_fd);
fail:
	pthread_mutex_destroy(&l->lock);
	free(l);
	return NULL;
}

void loop_free(struct loop *l)
{
	if (l == NULL)
		return;
	REQUIRE(l->usage.fds == 0 && l->usage.timers == 0);
	event_free(l->calls_event);
	event_free(l->wake_event);
	event_base_free(l->base);
	close(l->wake_fd);
	pthread_mutex_destroy(&l->lock);
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
	wake(l);
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

	(void)fd;
	f->on_ready(f->arg, events);
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
	t->on_due(t->arg);
}

struct loop_timer *loop_timer_new(struct loop *l, enum loop_priority prio, void (*on_due)(void *arg),
				  void *arg)
{
	struct loop_timer *t = xcalloc(1, sizeof *t);

	*t = (struct loop_timer){.loop = l, .on_due = on_due, .arg = arg};
	t->event = event_new(l->base, -1, 0, on_timer, t);
	REQUIRE(t->event != NULL);
	event_priority_set(t->event, (int)prio);
	l->usage.timers++;
	return t;
}

void loop_timer_at(struct loop_timer *t, int64_t at_us)
{
	int64_t wait;

	if (at_us == INT64_MAX) {
		event_del(t->event);
		return;
	}
	wait = MAX(at_us - loop_now_us(t->loop), (int64_t)0);
	event_add(t->event, &(struct timeval){.tv_sec = wait / 1000000, .tv_usec = wait % 1000000});
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
	if (!list_empty(&c->node))
		return;
	list_append(&l->calls, &c->node);
	event_active(l->calls_event, EV_TIMEOUT, 0);
}

void loop_call_cancel(struct loop_call *c)
{
	list_remove(&c->node);
}

void loop_post(struct loop *to, struct loop_msg *msg)
{
	bool first;

	if (current == to) {
		list_append(&to->local, &msg->node);
		event_active(to->calls_event, EV_TIMEOUT, 0);
		return;
	}
	pthread_mutex_lock(&to->lock);
	first = list_empty(&to->inbox);
	list_append(&to->inbox, &msg->node);
	pthread_mutex_unlock(&to->lock);
	if (first)
		wake(to);
}

struct loop_usage loop_usage(const struct loop *l)
{
	return l->usage;
}
