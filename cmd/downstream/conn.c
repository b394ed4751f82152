/*
 * Invariants
 *  1. A request that entered the ledger leaves `active` exactly once: ended by
 *     us in finish(), or lost in lost().
 *  2. Nothing frees a connection but settle(), last in every callback, and the
 *     server's end.
 *  3. While holding() nothing is read: the peer's end is then seen by edge and
 *     asked from the socket, because unread bytes hide it.
 *
 *   HEAD ──whole──► BODY ──whole──► WAITING ──due──► WRITING ──all──► HEAD
 *    ▲    (early: WAITING at once)   │ hang: for ever    │
 *    └── keep-alive                  └──close──► LEAVING ◄──ends connection
 */
#include "conn.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answer.h"
#include "base/heap.h"
#include "control.h"

enum {
	READ_BYTES = 4096,
	READ_BODY_BYTES = 64 * 1024,
	INPUT_MAX = 64 * 1024,           /* pipelined bytes kept while an answer is due */
	KEPT_BUFFER = 64 * 1024,         /* an idle connection's buffers are not larger */
	WRITE_ROUNDS = 16,               /* before others have their turn */
	LEAVE_US = 5000000,
};

static int64_t now(const struct conn *c)
{
	return loop_now_us(c->server->loop);
}

static struct slice input(const struct conn *c)
{
	return (struct slice){c->in.p + c->in_at, c->in.n - c->in_at};
}

static void on_timer(void *arg);

static void set_timer(struct conn *c, int64_t at_us)
{
	if (c->timer == NULL && at_us == HEAP_NONE)
		return;
	if (c->timer == NULL)
		c->timer = loop_timer_new(c->server->loop, SERVER_PRIORITY, on_timer, c);
	loop_timer_at(c->timer, at_us);
}

static void record_body(struct conn *c)
{
	ledger_body(&c->server->ledger, c->seq, buf_slice(&c->body), c->reader.total, c->complete);
}

/* Ended by us; status 0: without an answer. */
static void finish(struct conn *c, int status)
{
	if (!c->active)
		return;
	c->active = false;
	if (!c->complete)
		record_body(c);
	ledger_ended(&c->server->ledger, c->seq, status, c->sent_us);
	server_changed(c->server);
}

/* Ended by the peer, or by the network. */
static void lost(struct conn *c)
{
	c->dead = true;
	if (!c->active)
		return;
	c->active = false;
	if (!c->complete)
		record_body(c);
	ledger_gone(&c->server->ledger, c->seq, now(c));
	server_changed(c->server);
}

/* A FIN, and then patience: a close() with unread bytes would be a RST. */
static void leave(struct conn *c)
{
	shutdown(c->fd, SHUT_WR);
	c->state = CONN_LEAVING;
	c->blocked = false;
	set_timer(c, now(c) + LEAVE_US);
}

static void reset(struct conn *c)
{
	const struct linger hard = {.l_onoff = 1, .l_linger = 0};

	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
	c->dead = true;
}

static void answer(struct conn *c)
{
	c->close_after |= answer_ends_connection(&c->plan);
	answer_add(&c->out, &(struct answer_plan){.behaviour = &c->plan, .text = buf_slice(&c->answer_text),
						  .n = c->seq - c->server->ledger.cleared, .head_only = c->head_only,
						  .close = c->close_after && c->plan.keep != KEEP_LIE});
	c->state = CONN_WRITING;
	c->drip_due = true;
}

static void perform(struct conn *c)
{
	c->state = CONN_WAITING;
	switch ((enum act)c->plan.act) {
	case ACT_HANG:
		return;
	case ACT_RESET:
		finish(c, 0);
		reset(c);
		return;
	case ACT_CLOSE:
		finish(c, 0);
		leave(c);
		return;
	case ACT_ANSWER:
		answer(c);
		return;
	}
}

static void act(struct conn *c)
{
	if (c->plan.wait_ms == 0) {
		perform(c);
		return;
	}
	c->state = CONN_WAITING;
	set_timer(c, now(c) + c->plan.wait_ms * 1000);
}

static void refuse(struct conn *c)
{
	c->server->malformed++;
	finish(c, 0);
	c->refill = NULL;
	c->close_after = true;
	conn_reply(c, 400, "text/plain", SLICE("not HTTP/1.1 as this program reads it\n"));
}

static bool refill_endless(struct conn *c)
{
	answer_add_more(&c->out, &c->plan);
	return true;
}

/* A request for the ledger. */
static void begin_judged(struct conn *c, const struct request *r)
{
	struct server *s = c->server;

	server_choose(s, r, &c->plan, &c->answer_text);
	if (!c->used)
		s->connections++;
	c->used = true;
	c->active = true;
	c->complete = r->length == 0 && !r->chunked;
	c->seq = ledger_arrived(&s->ledger, &(struct ledger_arrival){.request = r, .behaviour = &c->plan,
								     .connection = c->id, .now_us = now(c),
								     .unix_ms = loop_unix_ms(s->loop)});
	server_changed(s);
	if (c->plan.act == ACT_ANSWER && c->plan.endless != ENDLESS_NO)
		c->refill = refill_endless;
	if (r->expects_continue && !c->complete && !c->plan.early)
		(void)!send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL);
}

static bool read_head(struct conn *c)
{
	struct request r;
	enum parse p = request_parse(input(c), &r);

	if (p == PARSE_MORE)
		return false;
	c->refill = NULL;
	c->close_after = false;
	c->body.n = 0;
	if (p == PARSE_BAD) {
		refuse(c);
		return true;
	}
	c->close_after = r.close;
	c->head_only = slice_eq(r.method, SLICE("HEAD"));
	c->state = CONN_BODY;
	if (control_wants(r.path)) {
		request_body_init(&c->reader, &r, CONTROL_BODY_MAX + 1);
		control_begin(c, &r);
	} else {
		request_body_init(&c->reader, &r, c->server->ledger.keep_body);
		begin_judged(c, &r);
	}
	c->in_at += r.head.n;
	if (c->control == NULL && c->plan.early)
		act(c);
	return true;
}

static bool read_body(struct conn *c)
{
	size_t used;
	enum parse p = request_body_read(&c->reader, input(c), &c->body, &used);

	c->in_at += used;
	if (p == PARSE_MORE)
		return false;
	if (p == PARSE_BAD) {
		control_end(c);
		refuse(c);
	} else if (c->control != NULL) {
		control_run(c);
	} else {
		c->complete = true;
		record_body(c);
		act(c);
	}
	return true;
}

/* The whole answer is with the kernel. */
static void written(struct conn *c)
{
	finish(c, c->plan.broken == BROKEN_STATUS ? 0 : c->plan.status);
	control_end(c);
	set_timer(c, HEAP_NONE);
	c->state = CONN_HEAD;
	if (c->close_after)
		leave(c);
}

/* One send(); false: it cannot go on now. */
static bool write_some(struct conn *c)
{
	bool dripping = c->control == NULL && c->active && c->plan.drip_ms > 0;
	size_t n = c->out.n - c->out_at;
	ssize_t w;

	if (dripping && !c->drip_due)
		return false;
	if (dripping)
		n = MIN(n, (size_t)MAX(c->plan.drip_bytes, (int64_t)1));
	c->sent_us = now(c);
	w = send(c->fd, c->out.p + c->out_at, n, MSG_NOSIGNAL);
	if (w < 0) {
		c->blocked = errno == EAGAIN || errno == EINTR;
		if (!c->blocked)
			lost(c);
		return false;
	}
	c->out_at += (size_t)w;
	if (dripping) {
		c->drip_due = false;
		set_timer(c, now(c) + c->plan.drip_ms * 1000);
	}
	return true;
}

static bool flush(struct conn *c)
{
	for (int i = 0; i < WRITE_ROUNDS; i++) {
		if (c->out_at == c->out.n) {
			c->out_at = c->out.n = 0;
			if (c->refill == NULL || !c->refill(c)) {
				written(c);
				return true;
			}
		}
		if (!write_some(c))
			return false;
	}
	c->blocked = true;
	return false;
}

static void advance(struct conn *c)
{
	bool on = true;

	while (on && !c->dead) {
		switch (c->state) {
		case CONN_HEAD:
			on = c->in_at < c->in.n && read_head(c);
			break;
		case CONN_BODY:
			on = read_body(c);
			break;
		case CONN_WRITING:
			on = !c->blocked && flush(c);
			break;
		case CONN_WAITING:
		case CONN_LEAVING:
			on = false;
			break;
		}
	}
}

static bool holding(const struct conn *c)
{
	if (c->state != CONN_WAITING && c->state != CONN_WRITING)
		return false;
	return (c->active && c->plan.early) || c->in.n - c->in_at >= INPUT_MAX;
}

static void read_input(struct conn *c)
{
	ssize_t n;

	if (c->in_at == c->in.n || c->state == CONN_LEAVING) {
		c->in_at = c->in.n = 0;
	} else if (c->in_at > 0) {
		memmove(c->in.p, c->in.p + c->in_at, c->in.n - c->in_at);
		c->in.n -= c->in_at;
		c->in_at = 0;
	}
	if (!buf_reserve(&c->in, c->state == CONN_BODY ? READ_BODY_BYTES : READ_BYTES)) {
		lost(c);
		return;
	}
	n = recv(c->fd, c->in.p + c->in.n, c->in.cap - c->in.n, 0);
	if (n > 0)
		c->in.n += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		lost(c);
}

/* Did the peer leave, whatever is still unread? */
static void check_peer(struct conn *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};

	if (poll(&p, 1, 0) > 0)
		lost(c);
}

static void shrink(struct buf *b)
{
	if (b->n == 0 && b->cap > KEPT_BUFFER)
		buf_free(b);
}

/* The end of every callback. */
static void settle(struct conn *c)
{
	unsigned events;

	if (c->in.failed || c->out.failed || c->body.failed || c->answer_text.failed)
		lost(c);
	if (c->dead) {
		conn_free(c);
		return;
	}
	if (c->state == CONN_HEAD) {
		c->body.n = c->answer_text.n = 0;
		if (c->in_at == c->in.n)
			c->in_at = c->in.n = 0;
		shrink(&c->in);
		shrink(&c->out);
		shrink(&c->body);
		shrink(&c->answer_text);
	}
	events = LOOP_READ | (holding(c) ? (unsigned)LOOP_CLOSED | LOOP_EDGE : 0u) | (c->blocked ? LOOP_WRITE : 0u);
	if (events != c->watched) {
		c->watched = events;
		loop_fd_set(c->watch, events);
	}
}

static void on_ready(void *arg, unsigned events)
{
	struct conn *c = arg;

	if (events & LOOP_WRITE)
		c->blocked = false;
	if (c->watched & LOOP_EDGE)
		check_peer(c);
	else if (events & LOOP_READ)
		read_input(c);
	advance(c);
	settle(c);
}

static void on_timer(void *arg)
{
	struct conn *c = arg;

	if (c->state == CONN_LEAVING)
		c->dead = true;
	else if (c->state == CONN_WRITING)
		c->drip_due = true;
	else if (c->control != NULL)
		control_timeout(c);
	else
		perform(c);
	advance(c);
	settle(c);
}

void conn_new(struct server *s, int take_fd)
{
	struct conn *c = xcalloc(1, sizeof *c);

	c->server = s;
	c->fd = take_fd;
	c->id = ++s->accepted;
	s->sockets++;
	list_append(&s->conns, &c->node);
	c->watched = LOOP_READ;
	c->watch = loop_fd_new(s->loop, take_fd, c->watched, SERVER_PRIORITY, on_ready, c);
}

void conn_free(struct conn *c)
{
	struct server *s = c->server;

	control_end(c);
	loop_fd_free(c->watch);
	loop_timer_free(c->timer);
	close(c->fd);
	list_remove(&c->node);
	buf_free(&c->in);
	buf_free(&c->out);
	buf_free(&c->body);
	buf_free(&c->answer_text);
	s->sockets--;
	s->connections -= c->used;
	server_listen(s);
	server_changed(s);
	free(c);
}

void conn_reply(struct conn *c, int status, const char *type, struct slice body)
{
	buf_printf(&c->out, "HTTP/1.1 %d \r\nContent-Length: %zu\r\n%s%s%s%s\r\n", status, body.n,
		   body.n > 0 ? "Content-Type: " : "", body.n > 0 ? type : "", body.n > 0 ? "\r\n" : "",
		   c->close_after ? "Connection: close\r\n" : "");
	if (!c->head_only)
		buf_add_slice(&c->out, body);
	c->state = CONN_WRITING;
}

void conn_stream(struct conn *c, const char *type, bool (*refill)(struct conn *c))
{
	buf_printf(&c->out, "HTTP/1.1 200 \r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n%s\r\n", type,
		   c->close_after ? "Connection: close\r\n" : "");
	c->refill = c->head_only ? NULL : refill;
	c->state = CONN_WRITING;
}

void conn_wait(struct conn *c, int64_t until_us)
{
	c->state = CONN_WAITING;
	set_timer(c, until_us);
}

void conn_wake(struct conn *c)
{
	advance(c);
	settle(c);
}
