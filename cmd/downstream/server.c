#include "server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conn.h"
#include "control.h"

enum { ACCEPT_BURST = 64 };

static void on_connection(void *arg, unsigned events)
{
	struct server *s = arg;
	int one = 1;

	(void)events;
	for (int i = 0; i < ACCEPT_BURST; i++) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
			loop_fd_free(STEAL_PTR(s->listener));
			return;
		}
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0)
			return;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		conn_new(s, fd);
	}
}

static void on_check(struct loop_call *call)
{
	control_check(container_of(call, struct server, check_waiters));
}

void server_listen(struct server *s)
{
	if (s->listener == NULL)
		s->listener = loop_fd_new(s->loop, s->listen_fd, LOOP_READ, SERVER_PRIORITY, on_connection, s);
}

void server_init(struct server *s, struct loop *l, int take_listen_fd)
{
	s->loop = l;
	s->listen_fd = take_listen_fd;
	list_init(&s->conns);
	list_init(&s->waiters);
	loop_call_init(&s->check_waiters, on_check);
	scripts_init(&s->scripts);
	server_listen(s);
}

void server_done(struct server *s)
{
	list_foreach(node, &s->conns)
		conn_free(list_entry(node, struct conn, node));
	loop_call_cancel(&s->check_waiters);
	loop_fd_free(STEAL_PTR(s->listener));
	close(s->listen_fd);
	ledger_free(&s->ledger);
	scripts_clear(&s->scripts);
	spec_free(&s->spec);
}

static const char *choose(struct server *s, const struct request *r)
{
	struct spec *spec = &s->spec;
	struct slice id = r->fields[FIELD_WEBHOOK_ID], line;
	const char *wrong;
	uint64_t key;

	spec_reset(spec);
	if (scripts_next(&s->scripts, r->path, id, &line))
		wrong = spec_read(spec, line);
	else
		wrong = spec_read_target(spec, r->path, r->query);
	if (wrong != NULL || (spec->times == 0 && spec->mix.n == 0))
		return wrong;
	key = spec->key.n > 0 ? slice_hash(buf_slice(&spec->key), 0) : slice_hash(id, slice_hash(r->path, 1));
	return spec_settle(spec, key, counter_next(&s->scripts, key));
}

void server_choose(struct server *s, const struct request *r, struct behaviour *ret, struct buf *text)
{
	const char *wrong = choose(s, r);

	text->n = 0;
	if (wrong != NULL) {
		*ret = (struct behaviour){.status = 400, .retry_after = -1, .invalid = true, .has_body = true};
		buf_add_str(text, wrong);
		return;
	}
	*ret = s->spec.b;
	buf_add_slice(text, buf_slice(&s->spec.headers));
	buf_add_slice(text, buf_slice(&s->spec.body));
}

void server_changed(struct server *s)
{
	if (!list_empty(&s->waiters))
		loop_call_soon(s->loop, &s->check_waiters);
}
