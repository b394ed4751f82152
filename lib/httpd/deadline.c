/*
 * Invariants
 *  1. A connection is in the heap exactly while it waits for its peer: for
 *     headers, for a body, for the next request, or for room to write. While a
 *     request is with its handler it is not: its time is the handler's.
 *  2. Deadlines are absolute: bytes that drip in do not move them. Only a
 *     writer's moves, and only if the peer has taken something since.
 *  3. Once soon after a wait for bytes began, the socket is looked at: when a FIN
 *     comes together with bytes, libmicrohttpd reads those and misses the FIN.
 *  4. The timer rings at the heap's smallest key or before.
 *  5. Whoever has a place and sends no request does not keep it from those who wait
 *     for one: see make_room(). Whoever sends a body, or is answered, keeps it.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "httpd/httpd-i.h"

/* LOOK: invariant 3. STOPPING_IDLE: a kept-alive connection gets this long to
 * bring a request that is on its way when we stop. */
enum { LOOK_MS = 100, STOPPING_IDLE_MS = 100 };

/* Without room: how often to look, and after what time a connection may be taken from
 * a peer that is still at its headers, or between two requests. */
enum { FULL_LOOK_MS = 100, FULL_HEAD_MS = 1000, FULL_IDLE_MS = 5000, FULL_STEP = 64 };

static void arm(struct httpd *h)
{
	loop_timer_by(h->due_timer, heap_min(&h->due));
}

static void set_after(struct conn *c, enum conn_wait wait, int64_t ms)
{
	int64_t now = loop_now_us(c->h->loop);

	c->wait = wait;
	c->since = now;
	c->until = now + ms * 1000;
	heap_set(&c->h->due, &c->due, wait == WAIT_WRITE ? c->until : MIN(c->until, now + LOOK_MS * 1000));
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

/* Once its request line is there, it has header_ms again. */
void deadline_soon(struct conn *c)
{
	c->h->n_first -= c->first;
	c->first = false;
	set_after(c, WAIT_IDLE, STOPPING_IDLE_MS);
}

void deadline_clear(struct conn *c)
{
	heap_remove(&c->h->due, &c->due);
}

static int unsent(const struct conn *c)
{
	int n;

	return ioctl(c->fd, SIOCOUTQ, &n) == 0 ? n : -1;
}

/* Everything written has arrived, or some of it since the last look. What the
 * peer's kernel acknowledged is the measure: a stalled reader's window closes. */
static bool peer_takes(struct conn *c)
{
	struct tcp_info info;
	socklen_t n = sizeof info;

	if (unsent(c) == 0)
		return true;
	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 || info.tcpi_bytes_acked <= c->acked)
		return false;
	c->acked = info.tcpi_bytes_acked;
	return true;
}

/* A FIN, and nothing left to read before it. */
static bool peer_is_silent(const struct conn *c)
{
	int unread;

	return watch_hung_up(c->fd) && ioctl(c->fd, SIOCINQ, &unread) == 0 && unread == 0;
}

/* libmicrohttpd sees the end of file, closes, and tells us. What a reader does not take
 * goes with its connection: the kernel would keep it for minutes. */
static void cut(struct conn *c, bool stalled)
{
	const struct linger none = {.l_onoff = 1};

	if (stalled)
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
	shutdown(c->fd, SHUT_RDWR);
}

/* Of one that idles the last answers may still be on their way: that is a reader. */
static bool still_reads(const struct conn *c)
{
	return c->wait == WAIT_IDLE && !c->h->quiescing && unsent(c) > 0;
}

static void ring(struct conn *c, int64_t now)
{
	bool over = c->wait == WAIT_WRITE && c->req.state == REQ_NONE && unsent(c) == 0;

	if ((c->wait == WAIT_WRITE && !over && peer_takes(c)) || (now >= c->until && still_reads(c)))
		deadline_set(c, WAIT_WRITE);
	else if (c->wait != WAIT_WRITE && now < c->until && !peer_is_silent(c))
		heap_set(&c->h->due, &c->due, c->until);
	else
		cut(c, c->wait == WAIT_WRITE && !over);
}

void deadline_due(void *arg)
{
	struct httpd *h = arg;
	int64_t now = loop_now_us(h->loop);
	struct heap_node *node;

	while ((node = heap_pop(&h->due, now)) != NULL)
		ring(container_of(node, struct conn, due), now);
	arm(h);
}

static bool may_go(const struct conn *c, int64_t now)
{
	if (!heap_has(&c->due) || (c->req.state != REQ_NONE && c->req.state != REQ_HEAD))
		return false;
	if (c->wait == WAIT_HEAD)
		return now - c->since >= FULL_HEAD_MS * 1000;
	return c->wait == WAIT_IDLE && now - c->since >= FULL_IDLE_MS * 1000;
}

/* Those that are here the longest go first; a few at a time, as they are gone only
 * when libmicrohttpd has seen it. */
static void make_room(struct httpd *h, int64_t now)
{
	unsigned n = 0;

	list_foreach(node, &h->conns) {
		struct conn *c = list_entry(node, struct conn, node);

		if (n == FULL_STEP)
			return;
		if (!may_go(c, now))
			continue;
		deadline_clear(c);
		shutdown(c->fd, SHUT_RDWR);
		n++;
	}
}

void deadline_full(void *arg)
{
	struct httpd *h = arg;
	int64_t now = loop_now_us(h->loop);

	if (h->usage.connections < h->cfg.connections)
		return;
	if (httpd_backlog(h))
		make_room(h, now);
	loop_timer_at(h->full, now + FULL_LOOK_MS * 1000);
}
