/*
 * Invariants
 *  1. A connection is in the heap exactly while it waits for its peer: for
 *     headers, for a body, for the next request, or for room to write. While a
 *     request is with its handler it is not: its time is the handler's.
 *  2. Deadlines are absolute: bytes that drip in do not move them. Only a
 *     writer's moves, and only if the peer has taken something since.
 *  3. `due_armed` is never later than the heap's smallest key. The timer is not
 *     moved back when a deadline goes; a ring too early costs one look.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "httpd/httpd-i.h"

/* A kept-alive connection gets this long to bring a request that is on its way
 * when we stop. */
enum { STOPPING_IDLE_MS = 100 };

static void arm(struct httpd *h)
{
	int64_t at = heap_min(&h->due);

	if (at >= h->due_armed)
		return;
	h->due_armed = at;
	loop_timer_at(h->due_timer, at);
}

static void set_after(struct conn *c, enum conn_wait wait, int64_t ms)
{
	c->wait = wait;
	heap_set(&c->h->due, &c->due, loop_now_us(c->h->loop) + ms * 1000);
	arm(c->h);
}

void deadline_set(struct conn *c, enum conn_wait wait)
{
	const struct httpd_config *cfg = &c->h->cfg;

	switch (wait) {
	case WAIT_HEAD:
		set_after(c, wait, cfg->header_ms);
		break;
	case WAIT_IDLE:
		set_after(c, wait, cfg->idle_ms);
		break;
	case WAIT_BODY:
		set_after(c, wait, cfg->body_ms);
		break;
	case WAIT_WRITE:
		set_after(c, wait, cfg->write_ms);
		break;
	}
}

void deadline_soon(struct conn *c)
{
	int64_t at = loop_now_us(c->h->loop) + STOPPING_IDLE_MS * 1000;

	if (heap_has(&c->due) && c->due.key <= at)
		return;
	set_after(c, WAIT_IDLE, STOPPING_IDLE_MS);
}

void deadline_clear(struct conn *c)
{
	heap_remove(&c->h->due, &c->due);
}

/* Everything written has arrived, or some of it since the last look. What the
 * peer's kernel acknowledged is the measure: a stalled reader's window closes. */
static bool peer_takes(struct conn *c)
{
	struct tcp_info info;
	socklen_t n = sizeof info;
	int unsent;

	if (ioctl(c->fd, SIOCOUTQ, &unsent) == 0 && unsent == 0)
		return true;
	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 || info.tcpi_bytes_acked <= c->acked)
		return false;
	c->acked = info.tcpi_bytes_acked;
	return true;
}

void deadline_due(void *arg)
{
	struct httpd *h = arg;
	int64_t now = loop_now_us(h->loop);
	struct heap_node *node;

	h->due_armed = HEAP_NONE;
	while ((node = heap_pop(&h->due, now)) != NULL) {
		struct conn *c = container_of(node, struct conn, due);

		/* libmicrohttpd sees the end of file, closes, and tells us. */
		if (c->wait == WAIT_WRITE && peer_takes(c))
			deadline_set(c, WAIT_WRITE);
		else
			shutdown(c->fd, SHUT_RDWR);
	}
	arm(h);
}
