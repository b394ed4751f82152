/*
 * libcurl's sockets in the loop: who watches them, and when they are closed.
 *
 * Invariants
 *  1. libcurl takes its watch off before it gives a socket up, so no queued
 *     socket is watched, and its number cannot be taken while it is queued.
 *  2. A close() can take 50 us. The queue is worked off a few sockets per turn,
 *     so a hundred transfers that end together do not hold up the loop.
 */
#include <stdlib.h>
#include <unistd.h>

#include "xfer/xfer-i.h"

enum { CLOSES_PER_TURN = 32, CLOSING_FIRST_CAP = 64 };

struct watch {
	struct xfer *x;
	struct loop_fd *fd_watch;
	curl_socket_t fd;
};

static void on_ready(void *arg, unsigned events)
{
	struct watch *w = arg;

	/* The call may free the watch. */
	xfer_act(w->x, w->fd,
		 (events & LOOP_READ ? CURL_CSELECT_IN : 0) | (events & LOOP_WRITE ? CURL_CSELECT_OUT : 0));
}

static unsigned to_loop(int what)
{
	return (what & CURL_POLL_IN ? LOOP_READ : 0u) | (what & CURL_POLL_OUT ? LOOP_WRITE : 0u);
}

/* A connection that libcurl closes by itself has no transfer of ours. */
static void tell_transfer(CURL *easy, curl_socket_t fd, int what)
{
	struct transfer *t = NULL;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
	if (t != NULL)
		t->fd = what == CURL_POLL_REMOVE ? -1 : fd;
}

/* CURLMOPT_SOCKETFUNCTION. */
int xfer_sockets_on_watch(CURL *easy, curl_socket_t fd, int what, void *arg, void *watch)
{
	struct xfer *x = arg;
	struct watch *w = watch;

	tell_transfer(easy, fd, what);
	if (what == CURL_POLL_REMOVE) {
		if (w != NULL)
			loop_fd_free(w->fd_watch);
		free(w);
	} else if (w != NULL) {
		loop_fd_set(w->fd_watch, to_loop(what));
	} else {
		w = xcalloc(1, sizeof *w);
		*w = (struct watch){.x = x, .fd = fd};
		w->fd_watch = loop_fd_new(x->loop, fd, to_loop(what), LOOP_NORMAL, on_ready, w);
		REQUIRE(curl_multi_assign(x->multi, fd, w) == CURLM_OK);
	}
	return 0;
}

/* The loop has a moment: a timer, as a deferred call would run in this turn. */
static void ask_for_turn(struct closing *c)
{
	loop_timer_at(c->timer, 0);
}

static bool make_room(struct closing *c)
{
	unsigned cap = c->cap == 0 ? CLOSING_FIRST_CAP : c->cap * 2;
	int *fds;

	if (c->first + c->n < c->cap)
		return true;
	if (c->first > c->n) {
		memcpy(c->fds, c->fds + c->first, c->n * sizeof *c->fds);
		c->first = 0;
		return true;
	}
	fds = realloc(c->fds, cap * sizeof *fds);
	if (fds == NULL)
		return false;
	c->fds = fds;
	c->cap = cap;
	return true;
}

/* CURLOPT_CLOSESOCKETFUNCTION. */
int xfer_sockets_on_close(void *arg, curl_socket_t fd)
{
	struct xfer *x = arg;
	struct closing *c = &x->closing;

	if (!make_room(c))
		return close(fd);
	c->fds[c->first + c->n++] = fd;
	if (c->n == 1)
		ask_for_turn(c);
	return 0;
}

static void close_up_to(struct closing *c, unsigned max)
{
	for (; max > 0 && c->n > 0; max--) {
		c->n--;
		close(c->fds[c->first++]);
	}
	if (c->n == 0)
		c->first = 0;
}

void xfer_sockets_close_some(void *arg)
{
	struct xfer *x = arg;

	close_up_to(&x->closing, CLOSES_PER_TURN);
	if (x->closing.n > 0)
		ask_for_turn(&x->closing);
}

void xfer_sockets_close_all(struct xfer *x)
{
	close_up_to(&x->closing, x->closing.n);
}
