/*
 * libcurl's sockets in the loop: who watches them, and when they are closed.
 *
 * Invariants
 *  1. No socket is watched that is closed or queued for it, so its number can be
 *     taken again. libcurl takes its watch off a socket before it gives it up; and
 *     one that has carried a request it gives up through xfer_sockets_on_close()
 *     alone, while one that has not may be closed without a word.
 *  2. So a connection that has carried a request stays watched while it idles, as
 *     the next transfer will want the same again: no epoll_ctl(), no memory. If it
 *     becomes ready meanwhile, its peer has ended it, and the watch goes; libcurl
 *     finds out when it looks for a connection.
 *  3. A close() can take 50 us. The queue is worked off a few sockets per turn,
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
	unsigned events;                 /* that the loop looks for */
	bool wanted;                     /* by libcurl: a transfer has it */
	bool carried;                    /* a request, or a part of one */
};

static struct watch *watch_of(const struct xfer *x, curl_socket_t fd)
{
	return (size_t)fd < x->n_watches ? x->watches[fd] : NULL;
}

static void free_watch(struct watch *w)
{
	w->x->watches[w->fd] = NULL;
	loop_fd_free(w->fd_watch);
	free(w);
}

static void on_ready(void *arg, unsigned events)
{
	struct watch *w = arg;

	if (!w->wanted) {
		free_watch(w);
		return;
	}
	/* The call may free the watch. */
	xfer_act(w->x, w->fd,
		 (events & LOOP_READ ? CURL_CSELECT_IN : 0) | (events & LOOP_WRITE ? CURL_CSELECT_OUT : 0));
}

static void make_place(struct xfer *x, curl_socket_t fd)
{
	size_t n = MAX((size_t)fd + 1, x->n_watches * 2);

	if ((size_t)fd < x->n_watches)
		return;
	x->watches = realloc(x->watches, n * sizeof(struct watch *));
	REQUIRE(x->watches != NULL);
	memset(x->watches + x->n_watches, 0, (n - x->n_watches) * sizeof(struct watch *));
	x->n_watches = n;
}

static struct watch *new_watch(struct xfer *x, curl_socket_t fd, unsigned events)
{
	struct watch *w = xcalloc(1, sizeof *w);

	*w = (struct watch){.x = x, .fd = fd, .events = events};
	w->fd_watch = loop_fd_new(x->loop, fd, events, LOOP_NORMAL, on_ready, w);
	make_place(x, fd);
	x->watches[fd] = w;
	return w;
}

static unsigned to_loop(int what)
{
	return (what & CURL_POLL_IN ? LOOP_READ : 0u) | (what & CURL_POLL_OUT ? LOOP_WRITE : 0u);
}

/* A connection that libcurl closes by itself has no transfer of ours. */
static struct transfer *transfer_of(CURL *easy)
{
	struct transfer *t = NULL;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
	return t;
}

static void unwatch(struct watch *w)
{
	if (w == NULL)
		return;
	w->wanted = false;
	if (!w->carried)
		free_watch(w);
}

/* CURLMOPT_SOCKETFUNCTION. */
int xfer_sockets_on_watch(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
	struct xfer *x = arg;
	struct transfer *t = transfer_of(easy);
	struct watch *w = watch_of(x, fd);

	(void)unused;
	if (t != NULL)
		t->fd = what == CURL_POLL_REMOVE ? -1 : fd;
	if (what == CURL_POLL_REMOVE) {
		unwatch(w);
		return 0;
	}
	if (w == NULL)
		w = new_watch(x, fd, to_loop(what));
	if (w->events != to_loop(what)) {
		w->events = to_loop(what);
		loop_fd_set(w->fd_watch, w->events);
	}
	w->wanted = true;
	w->carried = t != NULL && t->seen.requests > 0;
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
	struct watch *w = watch_of(x, fd);

	if (w != NULL)
		free_watch(w);
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
