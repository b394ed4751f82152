/*
 * libmicrohttpd does not look at a suspended connection, nor, while it writes,
 * for a FIN. So its socket is watched here.
 *
 * Invariants
 *  1. A request is watched exactly from being parked, or from its stream's
 *     start, to its answer or its end. The watcher goes before the fd closes.
 *  2. Edge-triggered on READ and CLOSED together: CLOSED alone misses an RST.
 *     After each ring everything readable has been read, so that whatever comes
 *     next rings again; a FIN behind a full receive buffer would never ring.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "httpd/httpd-i.h"

/* Nobody pipelines this much behind a request that is being worked on. */
enum { DRAIN_MAX = 1024 * 1024, DRAIN_STEP = 16 * 1024 };

/* False: the peer has gone, or sent more than it may. Over TLS its end may be a record
 * that only decrypting tells from a request. MSG_TRUNC throws a TCP
 * socket's bytes away without copying them; other sockets fill the sink. */
static bool drain(struct http_request *r)
{
	struct conn *c = request_conn(r);
	char sink[DRAIN_STEP];
	ssize_t n;

	for (;;) {
		if (c->h->cfg.tls != NULL)
			n = tls_receive(c, sink, sizeof sink);
		else
			n = recv(c->fd, sink, sizeof sink, MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0)
			return false;
		r->drained = true;
		r->discarded += (size_t)n;
		if (r->discarded > DRAIN_MAX)
			return false;
	}
}

/* libevent reports an error or a hang-up as READ. */
bool watch_hung_up(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLERR | POLLHUP)) != 0;
}

static void on_ready(void *arg, unsigned events)
{
	struct http_request *r = arg;

	if ((events & LOOP_CLOSED) != 0 || watch_hung_up(request_conn(r)->fd) || !drain(r))
		http_drop(r);
}

void watch_start(struct http_request *r)
{
	struct conn *c = request_conn(r);

	if (r->watch != NULL)
		return;
	r->discarded = 0;
	r->watch = loop_fd_new(c->h->loop, c->fd, LOOP_READ | LOOP_CLOSED | LOOP_EDGE, LOOP_URGENT,
			       on_ready, r);
}

void watch_stop(struct http_request *r)
{
	loop_fd_free(STEAL_PTR(r->watch));
}
