/*
 * Invariants
 *  1. libmicrohttpd runs in pump() alone, called by the loop: when its epoll fd
 *     is ready, when it asked to be run again, and after a resume, which wakes
 *     nothing by itself. pump() never runs inside one of its callbacks.
 *  2. `conns` holds exactly the connections that libmicrohttpd has.
 *  3. It is stopped only when no connection is suspended: it would abort the
 *     process.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "httpd/httpd-i.h"

/* Rounds that empty the backlog, or end what is open. One accepts ten. */
enum { STOP_ROUNDS = 256 };

/* See pause_us(). */
enum { VAIN_RUNS = 100, VAIN_PAUSE_US = 1000 };

/* Not the timer `again`: the next pump() may disarm that. */
void httpd_kick(struct httpd *h)
{
	loop_call_soon(h->loop, &h->kick);
}

static void on_connection(void *cls, struct MHD_Connection *mc, void **socket_context,
			  enum MHD_ConnectionNotificationCode what)
{
	struct httpd *h = cls;
	struct conn *c = *socket_context;

	h->moved = true;
	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		c = xcalloc(1, sizeof *c);
		c->h = h;
		c->mc = mc;
		c->fd = MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
		c->first = true;
		h->n_first++;
		list_append(&h->conns, &c->node);
		if (++h->usage.connections == h->cfg.connections)
			loop_timer_at(h->full, loop_now_us(h->loop) + 1);
		deadline_set(c, WAIT_HEAD);
		if (h->quiescing)
			deadline_soon(c);
		*socket_context = c;
		return;
	}
	deadline_clear(c);
	list_remove(&c->node);
	h->usage.connections--;
	h->n_first -= c->first;
	httpd_tls_unref(c->tls);
	free(c);
	/* At its limit, or without free descriptors, it stops to listen, and
	 * begins again only in a later run. */
	httpd_kick(h);
}

static void close_listener(struct httpd *h)
{
	MHD_socket fd;

	if (h->listen_fd < 0)
		return;
	h->listen_fd = -1;
	fd = MHD_quiesce_daemon(h->daemon);
	if (fd >= 0)
		close(fd);
}

bool httpd_backlog(const struct httpd *h)
{
	struct pollfd p = {.fd = h->listen_fd, .events = POLLIN};

	return h->listen_fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & POLLIN) != 0;
}

/* It asks to be run again at once for as long as a handshake stands still within a
 * record. Whoever begins one must not have the processor for it. */
static int64_t pause_us(struct httpd *h, bool asked)
{
	if (h->moved || h->cfg.tls == NULL || h->n_first == 0)
		h->vain = 0;
	else
		h->vain += asked;
	return h->vain > VAIN_RUNS ? VAIN_PAUSE_US : 0;
}

/* `asked`: by libmicrohttpd itself. */
static void pump(struct httpd *h, bool asked)
{
	MHD_UNSIGNED_LONG_LONG ms;
	int64_t wait_us;

	h->moved = false;
	MHD_run(h->daemon);
	wait_us = pause_us(h, asked);
	if (h->quiescing && h->listen_fd >= 0) {
		/* Whoever is in the backlog has been told "connected": take them
		 * before the socket closes, which would reset them. */
		for (int i = 0; i < STOP_ROUNDS && httpd_backlog(h) &&
				h->usage.connections < h->cfg.connections; i++)
			MHD_run(h->daemon);
		close_listener(h);
	}
	if (MHD_get_timeout(h->daemon, &ms) == MHD_YES) {
		loop_timer_at(h->again, loop_now_us(h->loop) + MAX((int64_t)ms * 1000, wait_us));
		h->again_armed = true;
	} else if (h->again_armed) {
		loop_timer_at(h->again, HEAP_NONE);
		h->again_armed = false;
	}
}

static void on_epoll(void *arg, unsigned events)
{
	(void)events;
	pump(arg, false);
}

static void on_again(void *arg)
{
	struct httpd *h = arg;

	h->again_armed = false;
	pump(h, true);
}

static void on_kick(struct loop_call *call)
{
	pump(container_of(call, struct httpd, kick), false);
}

/* Without MHD_USE_ERROR_LOG it formats no messages: what is worth knowing about
 * a request comes through its termination. */
static struct MHD_Daemon *start(struct httpd *h)
{
	unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | (h->cfg.tls != NULL ? MHD_USE_TLS : 0);
	struct MHD_OptionItem tls[] = {{MHD_OPTION_END, 0, NULL}, {0}, {0}, {0}};

	if (h->cfg.tls != NULL)
		tls_options(tls);
	return MHD_start_daemon(flags, 0, NULL, NULL, request_on_access, h,
				MHD_OPTION_LISTEN_SOCKET, (MHD_socket)h->listen_fd,
				MHD_OPTION_CONNECTION_LIMIT, h->cfg.connections,
				MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32 * 1024,
				MHD_OPTION_STRICT_FOR_CLIENT, 1,
				MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
				MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
				MHD_OPTION_NOTIFY_COMPLETED, request_on_completed, h,
				MHD_OPTION_URI_LOG_CALLBACK, request_on_line, h,
				MHD_OPTION_UNESCAPE_CALLBACK, request_unescape, h,
				MHD_OPTION_ARRAY, tls,
				MHD_OPTION_END);
}

struct httpd *httpd_new(struct loop *l, int take_listen_fd, const struct httpd_config *cfg,
			const struct httpd_handler *handler)
{
	struct httpd *h = xcalloc(1, sizeof *h);
	int epoll_fd;

	*h = (struct httpd){.loop = l, .cfg = *cfg, .handler = *handler, .listen_fd = take_listen_fd};
	list_init(&h->conns);
	loop_call_init(&h->kick, on_kick);
	if (h->cfg.tls != NULL)
		httpd_tls_ref(h->cfg.tls);
	errno = 0;
	h->daemon = start(h);
	if (h->daemon == NULL)
		goto fail;
	epoll_fd = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
	h->again = loop_timer_new(l, LOOP_NORMAL, on_again, h);
	h->full = loop_timer_new(l, LOOP_NORMAL, deadline_full, h);
	h->due_timer = loop_timer_new(l, LOOP_URGENT, deadline_due, h);
	h->epoll = loop_fd_new(l, epoll_fd, LOOP_READ, LOOP_NORMAL, on_epoll, h);
	return h;
fail:
	if (errno == 0)
		errno = EINVAL;
	httpd_free(h);
	return NULL;
}

void httpd_reload(struct httpd *h, const struct httpd_config *cfg)
{
	struct httpd_config was = h->cfg;

	REQUIRE((was.tls == NULL) == (cfg->tls == NULL));
	h->cfg = *cfg;
	h->cfg.connections = was.connections;
	if (h->cfg.tls != NULL)
		httpd_tls_ref(h->cfg.tls);
	httpd_tls_unref(was.tls);
}

static bool stage_of(const struct http_request *r, enum http_stage *ret)
{
	switch (r->state) {
	case REQ_BODY:
		*ret = HTTP_COMING;
		return r->seen;
	case REQ_PARKED:
		*ret = HTTP_PARKED;
		return true;
	case REQ_STREAM:
		*ret = HTTP_STREAMING;
		return true;
	case REQ_NONE:
	case REQ_HEAD:
	case REQ_REFUSED:
	case REQ_HANDLER:
	case REQ_ANSWERED:
	case REQ_GONE:
	case REQ_STATE_MAX:
		return false;
	}
	return false;
}

void httpd_each(struct httpd *h, void (*each)(void *arg, struct http_request *r, enum http_stage stage), void *arg)
{
	list_foreach(node, &h->conns) {
		struct http_request *r = &list_entry(node, struct conn, node)->req;
		enum http_stage stage;

		if (stage_of(r, &stage))
			each(arg, r, stage);
	}
}

void httpd_last_answers(struct httpd *h)
{
	h->last_answers = true;
}

void httpd_quiesce(struct httpd *h)
{
	if (h->quiescing)
		return;
	h->quiescing = true;
	httpd_last_answers(h);
	list_foreach(node, &h->conns) {
		struct conn *c = list_entry(node, struct conn, node);

		if (c->req.state == REQ_NONE)
			deadline_soon(c);
	}
	httpd_kick(h);
}

struct httpd_usage httpd_usage(const struct httpd *h)
{
	return h->usage;
}

/* End what is open. on_end() may answer or wake other requests of ours. */
static void close_connections(struct httpd *h)
{
	h->closing = true;
	list_foreach(node, &h->conns) {
		struct conn *c = list_entry(node, struct conn, node);

		if (c->req.state == REQ_PARKED || c->req.state == REQ_STREAM)
			http_drop(&c->req);
		shutdown(c->fd, SHUT_RDWR);
	}
	for (int i = 0; i < STOP_ROUNDS && !list_empty(&h->conns); i++)
		MHD_run(h->daemon);
}

void httpd_free(struct httpd *h)
{
	int err = errno;

	if (h == NULL)
		return;
	if (h->daemon != NULL) {
		close_listener(h);
		close_connections(h);
	} else if (h->listen_fd >= 0) {
		close(h->listen_fd);
	}
	loop_fd_free(h->epoll);
	if (h->daemon != NULL)
		MHD_stop_daemon(h->daemon);
	loop_call_cancel(&h->kick);
	if (h->refused != NULL)
		MHD_destroy_response(h->refused);
	loop_timer_free(h->again);
	loop_timer_free(h->full);
	loop_timer_free(h->due_timer);
	heap_free(&h->due);
	httpd_tls_unref(h->cfg.tls);
	free(h);
	errno = err;
}
