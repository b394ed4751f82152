/*
 * One event loop per thread: clock, file descriptors, timers, deferred calls,
 * and a mailbox for messages from other threads. The only user of libevent.
 *
 * Thread: everything but loop_post() and loop_stop() belongs to the thread that
 * runs loop_run(). Before loop_run() starts, the creating thread may use it.
 *
 * Two priorities: URGENT (a client's disconnect) runs before NORMAL
 * (accept, requests, transfers), and NORMAL is looked away from at least every
 * 500 us, so a flood of transfers cannot delay the detection of a disconnect by
 * more than about a millisecond. Deferred calls and messages run with the
 * priority of the callback that asks for them.
 */
#pragma once

#include <stdbool.h>

#include "base/list.h"

struct loop;
struct loop_fd;
struct loop_timer;

enum loop_priority { LOOP_URGENT, LOOP_NORMAL };

enum loop_events {
	LOOP_READ = 1,
	LOOP_WRITE = 2,
	LOOP_CLOSED = 4,                 /* the peer sent FIN (EPOLLRDHUP) */
	LOOP_EDGE = 8,                   /* edge-triggered */
};

struct loop *loop_new(void) MUST_CHECK;          /* NULL: errno says why */
void loop_free(struct loop *l);                  /* every fd and timer must be freed before */
void loop_run(struct loop *l);                   /* until loop_stop() */
void loop_stop(struct loop *l);                  /* any thread */

/* Run what was posted to a loop, and asked for soon, that nobody runs any more: what is
 * freed next may wait for it. In the calling thread; false: there was nothing. NULL is fine. */
bool loop_settle(struct loop *l) MUST_CHECK;
bool loop_is_current(const struct loop *l);      /* the calling thread runs it */

/* The clocks: microseconds, monotonic; milliseconds since 1970, wall. */
int64_t loop_now_us(const struct loop *l);
int64_t loop_unix_ms(const struct loop *l);

/* Watch a file descriptor, persistently. The watcher must go before the fd is
 * closed. `on_ready` may free its own watcher. */
struct loop_fd *loop_fd_new(struct loop *l, int fd, unsigned events, enum loop_priority prio,
			    void (*on_ready)(void *arg, unsigned events), void *arg) MUST_CHECK;
void loop_fd_set(struct loop_fd *f, unsigned events);        /* change what is watched */
void loop_fd_free(struct loop_fd *f);                        /* NULL is fine */

/* A one-shot timer, re-armed at will. at_us in the past: next turn. */
struct loop_timer *loop_timer_new(struct loop *l, enum loop_priority prio, void (*on_due)(void *arg),
				  void *arg) MUST_CHECK;
void loop_timer_at(struct loop_timer *t, int64_t at_us);     /* monotonic; HEAP_NONE disarms */

/* Ring then or earlier: a time later than the present one changes nothing. For
 * the earliest of many times that change: a ring too early costs one look, which
 * asks again, and moving the timer with each change costs more. */
void loop_timer_by(struct loop_timer *t, int64_t at_us);
void loop_timer_free(struct loop_timer *t);                  /* NULL is fine */

/* Run `run` once, later in this turn or early in the next, never inside this
 * call. Asking again before it ran does nothing. Embed it in what it serves. */
struct loop_call {
	struct list node;
	void (*run)(struct loop_call *);
};

void loop_call_init(struct loop_call *c, void (*run)(struct loop_call *));
void loop_call_soon(struct loop *l, struct loop_call *c);
void loop_call_cancel(struct loop_call *c);                  /* no-op if not asked for */

/* A message: handed to the loop `to`, which calls `run` in its own thread. Those
 * of one sender and priority keep their order; an urgent one may overtake. From
 * the loop's own thread too it is never inside this call. One lock and at most
 * one wake-up per burst. */
struct loop_msg {
	struct list node;
	void (*run)(struct loop_msg *);
};

void loop_post(struct loop *to, struct loop_msg *msg);       /* any thread */

/* Live watchers and timers: zero means nothing leaked. */
struct loop_usage {
	unsigned fds, timers;
};
struct loop_usage loop_usage(const struct loop *l);
