#include "control.h"

#include <stdlib.h>

enum { STREAM_BYTES = 64 * 1024, WAIT_MS = 30000, WAIT_MS_MAX = 3600 * 1000 };

struct control {
	struct list waiting;             /* in server->waiters while it is parked */
	struct conn *conn;
	struct request request;
	struct buf path, webhook_id;     /* decoded; what the filter points at */
	struct ledger_filter filter;
	uint64_t seq;                    /* how far the stream has come */
	bool streamed;
	/* What is waited for; -1: not. */
	int64_t requests, answered, gone, in_flight, connections;
	char head[];
};

bool control_wants(struct slice path)
{
	return path.n >= 2 && path.p[0] == '/' && path.p[1] == '_';
}

void control_begin(struct conn *c, const struct request *r)
{
	struct control *ctl = xcalloc(1, sizeof *ctl + r->head.n);

	memcpy(ctl->head, r->head.p, r->head.n);
	list_init(&ctl->waiting);
	ctl->conn = c;
	ctl->request = request_moved(r, ctl->head);
	if (query_get(ctl->request.query, "path", &ctl->path))
		ctl->filter.path = (struct slice){ctl->path.n == 0 ? "" : ctl->path.p, ctl->path.n};
	if (query_get(ctl->request.query, "webhook_id", &ctl->webhook_id))
		ctl->filter.webhook_id = (struct slice){ctl->webhook_id.n == 0 ? "" : ctl->webhook_id.p, ctl->webhook_id.n};
	c->control = ctl;
}

void control_end(struct conn *c)
{
	struct control *ctl = STEAL_PTR(c->control);

	if (ctl == NULL)
		return;
	list_remove(&ctl->waiting);
	buf_free(&ctl->path);
	buf_free(&ctl->webhook_id);
	free(ctl);
}

static void reply_text(struct conn *c, int status, const char *text)
{
	conn_reply(c, status, "text/plain", slice_str(text));
}

static void reply_counts(struct conn *c, int status)
{
	const struct server *s = c->server;
	struct ledger_counts n = ledger_count(&s->ledger, &c->control->filter);
	struct buf out CLEANUP(buf_free) = {0};

	buf_printf(&out, "{\"requests\":%ju,\"answered\":%ju,\"gone\":%ju,\"in_flight\":%ju,\"connections\":%ju}\n",
		   (uintmax_t)n.requests, (uintmax_t)n.answered, (uintmax_t)n.gone, (uintmax_t)n.in_flight,
		   (uintmax_t)s->connections);
	conn_reply(c, status, "application/json", buf_slice(&out));
}

static void get_count(struct conn *c)
{
	reply_counts(c, 200);
}

static void get_stats(struct conn *c)
{
	const struct server *s = c->server;
	const struct ledger_counts *n = &s->ledger.counts;
	struct buf out CLEANUP(buf_free) = {0};

	buf_printf(&out, "{\"requests\":%ju,\"answered\":%ju,\"gone\":%ju,\"in_flight\":%ju,\"max_in_flight\":%ju,"
			 "\"connections\":%ju,\"sockets\":%ju,\"accepted\":%ju,\"malformed\":%ju,\"total\":%ju}\n",
		   (uintmax_t)n->requests, (uintmax_t)n->answered, (uintmax_t)n->gone, (uintmax_t)n->in_flight,
		   (uintmax_t)n->max_in_flight, (uintmax_t)s->connections, (uintmax_t)s->sockets,
		   (uintmax_t)s->accepted, (uintmax_t)s->malformed, (uintmax_t)s->ledger.last);
	conn_reply(c, 200, "application/json", buf_slice(&out));
}

/* One chunk of some lines; the last chunk after the last line. */
static bool refill_ledger(struct conn *c)
{
	struct control *ctl = c->control;
	const struct ledger *l = &c->server->ledger;
	struct buf lines CLEANUP(buf_free) = {0};
	const struct ledger_entry *e;

	if (ctl->streamed)
		return false;
	while (lines.n < STREAM_BYTES && (e = ledger_next(l, &ctl->filter, &ctl->seq)) != NULL)
		ledger_write(l, e, &lines);
	c->out.failed |= lines.failed;
	ctl->streamed = lines.n == 0;
	buf_printf(&c->out, "%zx\r\n", lines.n);
	buf_add_slice(&c->out, buf_slice(&lines));
	buf_add_str(&c->out, "\r\n");
	return true;
}

static void get_ledger(struct conn *c)
{
	conn_stream(c, "application/x-ndjson", refill_ledger);
}

static void delete_ledger(struct conn *c)
{
	ledger_clear(&c->server->ledger);
	server_changed(c->server);
	reply_text(c, 204, "");
}

static bool reached(const struct control *ctl)
{
	const struct server *s = ctl->conn->server;
	struct ledger_counts n = ledger_count(&s->ledger, &ctl->filter);

	return (ctl->requests < 0 || n.requests >= (uint64_t)ctl->requests) &&
	       (ctl->answered < 0 || n.answered >= (uint64_t)ctl->answered) &&
	       (ctl->gone < 0 || n.gone >= (uint64_t)ctl->gone) &&
	       (ctl->in_flight < 0 || n.in_flight == (uint64_t)ctl->in_flight) &&
	       (ctl->connections < 0 || s->connections == (uint64_t)ctl->connections);
}

static void get_wait(struct conn *c)
{
	struct control *ctl = c->control;
	int64_t timeout_ms = WAIT_MS;
	const struct {
		const char *name;
		int64_t *to;
	} conditions[] = {{"requests", &ctl->requests}, {"answered", &ctl->answered}, {"gone", &ctl->gone},
			  {"in_flight", &ctl->in_flight}, {"connections", &ctl->connections}};
	bool any = false;

	for (size_t i = 0; i < ARRAY_LEN(conditions); i++) {
		*conditions[i].to = -1;
		any |= query_get_number(ctl->request.query, conditions[i].name, conditions[i].to);
	}
	query_get_number(ctl->request.query, "timeout_ms", &timeout_ms);
	if (!any) {
		reply_text(c, 400, "want requests=, answered=, gone=, in_flight= or connections=\n");
	} else if (reached(ctl)) {
		reply_counts(c, 200);
	} else {
		list_append(&c->server->waiters, &ctl->waiting);
		conn_wait(c, loop_now_us(c->server->loop) + MIN(timeout_ms, (int64_t)WAIT_MS_MAX) * 1000);
	}
}

void control_timeout(struct conn *c)
{
	list_remove(&c->control->waiting);
	reply_counts(c, 408);
}

void control_check(struct server *s)
{
	struct list pending, *node;

	list_init(&pending);
	list_splice(&pending, &s->waiters);
	while ((node = list_pop(&pending)) != NULL) {
		struct control *ctl = list_entry(node, struct control, waiting);

		if (reached(ctl)) {
			reply_counts(ctl->conn, 200);
			conn_wake(ctl->conn);
		} else {
			list_append(&s->waiters, node);
		}
	}
}

/* Every line must mean something: the first that does not is told. */
static bool check_lines(struct conn *c, struct slice lines)
{
	struct spec *spec = &c->server->spec;
	struct buf out CLEANUP(buf_free) = {0};
	struct slice line;
	unsigned n = 0;

	while (script_line(&lines, &line)) {
		const char *wrong;

		n++;
		spec_reset(spec);
		wrong = spec_read(spec, line);
		if (wrong == NULL && spec->mix.n > 0)
			wrong = spec_settle(spec, 0, 1);
		if (wrong == NULL)
			continue;
		buf_printf(&out, "line %u: %s", n, wrong);
		conn_reply(c, 400, "text/plain", buf_slice(&out));
		return false;
	}
	if (n == 0)
		reply_text(c, 400, "want a behaviour on each line\n");
	return n > 0;
}

static void post_script(struct conn *c)
{
	struct control *ctl = c->control;
	struct buf per CLEANUP(buf_free) = {0};
	bool per_id = query_get(ctl->request.query, "per", &per) && slice_eq(buf_slice(&per), SLICE("id"));

	if (ctl->filter.path.p == NULL || (per.n > 0 && !per_id))
		reply_text(c, 400, "want /_script?path=/the/path, and per=id if each webhook-id has its own turn\n");
	else if (c->reader.total > CONTROL_BODY_MAX)
		reply_text(c, 413, "a script has 1 MiB at most\n");
	else if (!check_lines(c, buf_slice(&c->body)))
		return;
	else if (!scripts_set(&c->server->scripts, ctl->filter.path, buf_slice(&c->body), per_id))
		reply_text(c, 429, "too many scripts; DELETE /_script forgets them\n");
	else
		reply_text(c, 204, "");
}

static void delete_script(struct conn *c)
{
	scripts_clear(&c->server->scripts);
	reply_text(c, 204, "");
}

static const struct route {
	const char *method, *path;
	void (*run)(struct conn *c);
} routes[] = {
	{"GET", "/_ledger", get_ledger},
	{"DELETE", "/_ledger", delete_ledger},
	{"GET", "/_ledger/count", get_count},
	{"GET", "/_ledger/wait", get_wait},
	{"POST", "/_script", post_script},
	{"DELETE", "/_script", delete_script},
	{"GET", "/_stats", get_stats},
};

void control_run(struct conn *c)
{
	struct slice method = c->head_only ? SLICE("GET") : c->control->request.method;

	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		if (slice_eq(c->control->request.path, slice_str(routes[i].path)) &&
		    slice_eq(method, slice_str(routes[i].method))) {
			routes[i].run(c);
			return;
		}
	}
	reply_text(c, 404, "no such route; see settled-downstream --help\n");
}
