/*
 * GET /v1/batches/{id}/events: a batch as it settles, as server-sent events.
 *
 *   request ──► watching ──first page──► stream: snapshot, items, progress, ...
 *                  │                        ▲  │ a page was taken, and the batch
 *                  │ unknown: refused       └──┘ has changed: the next page
 *                  ▼                           ▼ nothing is left: done
 *                over ◄────────────────────────┘
 *
 * Items come from the store, in the order of settling, when the client takes
 * them; the owner shard only says that there is something new.
 *
 * Invariants
 *  1. The owner watches before the first page is read, so that nothing that
 *     comes after a page goes unnoticed: `changed` asks for another one.
 *  2. At most one message is out to the owner (`calling`), and one back from it
 *     (`told`). A reader is freed when none is, the owner does not watch any more,
 *     and its request is over.
 *  3. A reader has one page at a time, and its next one is made when that was
 *     taken: nothing grows with one that stalls.
 *  4. Each item comes once, with its place in the order of settling as its id.
 *     Of a batch that cannot be read to its end the stream breaks off.
 *  5. Readers of this shard are in routes.readers from the admission until they
 *     are freed; what is left when the loops have stopped is freed with it.
 */
#include <stdlib.h>

#include "page.h"
#include "query.h"

struct reader {
	struct list node;                /* routes.readers */
	struct route_data data;
	struct routes *here, *owner;
	struct http_request *req;        /* NULL: it is over */
	struct batch_id id;
	atomic_uint *of_tenant;          /* its tenant's readers */
	struct page_rider page;
	bool asking;
	bool more;                       /* there was more than what the last page had */
	bool changed;                    /* since it was asked for */
	/* Between here and the owner. */
	struct loop_msg call;
	bool calling, watching;
	struct loop_msg tell;
	atomic_bool told;
	struct dispatch_watch watch;     /* the owner's */
	/* The stream. */
	bool streaming, broken;
	bool last;                       /* `done` is in the text */
	uint32_t seq;                    /* the last item in the text, or the one that the client had */
	struct buf text;
	size_t sent;
};

static void release(struct reader *r);

/* ---- the owner's side ---- */

static void on_told(struct loop_msg *msg);

static void on_change(struct dispatch_watch *w, bool done)
{
	struct reader *r = container_of(w, struct reader, watch);

	(void)done;
	if (atomic_exchange(&r->told, true))
		return;
	r->tell.run = on_told;
	loop_post(r->here->env.loop, &r->tell);
}

static void on_called(struct loop_msg *msg);

static void watch(struct loop_msg *msg)
{
	struct reader *r = container_of(msg, struct reader, call);

	r->watch.on_change = on_change;
	dispatch_watch(r->owner->env.dispatch, &r->watch, r->id);
	r->call.run = on_called;
	loop_post(r->here->env.loop, &r->call);
}

static void unwatch(struct loop_msg *msg)
{
	struct reader *r = container_of(msg, struct reader, call);

	dispatch_unwatch(r->owner->env.dispatch, &r->watch);
	r->call.run = on_called;
	loop_post(r->here->env.loop, &r->call);
}

static void call_owner(struct reader *r, void (*run)(struct loop_msg *msg))
{
	r->calling = true;
	r->call.run = run;
	loop_post(r->owner->env.loop, &r->call);
}

/* ---- pages ---- */

/* Ask for what comes next, unless there is nothing, or the answer is awaited. */
static void ask(struct reader *r)
{
	if (r->asking || r->last || r->broken || !(r->changed || r->more))
		return;
	r->asking = true;
	r->changed = false;
	page_join(r->here, &r->page, r->id, r->seq + 1);
}

static void on_told(struct loop_msg *msg)
{
	struct reader *r = container_of(msg, struct reader, tell);

	/* Before the page is asked for: what changes from here on is told again. */
	atomic_store(&r->told, false);
	r->changed = true;
	if (r->req == NULL)
		release(r);
	else if (r->streaming)
		http_stream_wake(r->req);
}

static void on_called(struct loop_msg *msg)
{
	struct reader *r = container_of(msg, struct reader, call);

	r->calling = false;
	r->watching = !r->watching;
	if (r->req == NULL) {
		release(r);
		return;
	}
	r->changed = true;
	ask(r);
}

static void add_progress(struct reader *r, const struct page *p)
{
	CLEANUP(buf_free) struct buf data = {0};

	buf_printf(&data, "{\"state\":\"%s\",\"counts\":", batch_state_str(p->state));
	wire_counts(&data, &p->counts);
	buf_add_char(&data, '}');
	page_event(&r->text, "progress", r->seq, buf_slice(&data));
	r->text.failed |= data.failed;
}

/* The page's events behind what opens the stream, and before what closes the
 * burst. An id beyond what has settled means that the client has all of that. */
static void add_page(struct reader *r, const struct page *p)
{
	r->more = p->more;
	r->sent = 0;
	if (!r->streaming) {
		r->seq = MIN(r->seq, p->counts.total - p->counts.pending);
		page_event(&r->text, "snapshot", r->seq, buf_slice(&p->head));
	}
	buf_add_slice(&r->text, buf_slice(&p->items));
	r->seq += p->n;
	if (!p->more && p->state == BATCH_DONE) {
		page_event(&r->text, "done", r->seq, buf_slice(&p->head));
		r->last = true;
	} else if (!p->more && p->n > 0) {
		add_progress(r, p);
	}
	r->broken = r->text.failed || p->items.failed || p->head.failed;
}

/* ---- the stream ---- */

static ssize_t fill(void *data, char *out, size_t max)
{
	struct reader *r = container_of((struct route_data *)data, struct reader, data);
	size_t n = MIN(r->text.n - r->sent, max);

	if (r->broken)
		return -2;
	if (n > 0) {
		memcpy(out, r->text.p + r->sent, n);
		r->sent += n;
		return (ssize_t)n;
	}
	buf_free(&r->text);
	r->sent = 0;
	if (r->last)
		return -1;
	ask(r);
	return r->here->stopping && !r->asking ? -1 : 0;
}

static void begin_stream(struct reader *r, const struct page *p)
{
	struct batch_headers h;

	batch_headers(&h, p->id, p->state == BATCH_DONE ? batch_outcome_str(p->outcome) : NULL, "text/event-stream");
	add_header(&h, "Cache-Control", "no-store");
	add_header(&h, "X-Accel-Buffering", "no");
	add_page(r, p);
	r->streaming = true;
	http_stream(r->req, 200, h.headers, h.n, fill);
}

static void on_page(struct page_rider *rider, const struct page *p)
{
	struct reader *r = container_of(rider, struct reader, page);

	r->asking = false;
	if (!r->streaming && p->answer != STORE_OK) {
		answer_store_problem(r->here, r->req, p->answer);
	} else if (!r->streaming) {
		begin_stream(r, p);
	} else {
		if (p->answer == STORE_OK)
			add_page(r, p);
		else
			r->broken = true;
		http_stream_wake(r->req);
	}
}

/* ---- all readers of a shard ---- */

static void reader_free(struct reader *r)
{
	list_remove(&r->node);
	page_leave(&r->page);
	buf_free(&r->text);
	free(r);
}

static void arm_comments(struct routes *r)
{
	loop_timer_at(r->comments, loop_now_us(r->env.loop) + r->env.config->limits.event_comment_ms * 1000);
}

static bool reads(const struct reader *r)
{
	return r->req != NULL && r->streaming;
}

/* A comment for whoever has nothing else to read. */
static void comment(struct routes *r)
{
	list_foreach(node, &r->readers) {
		struct reader *reader = list_entry(node, struct reader, node);

		if (!reads(reader) || reader->asking || reader->sent < reader->text.n || reader->last)
			continue;
		buf_add_str(&reader->text, ":\n\n");
		http_stream_wake(reader->req);
	}
}

/* What has settled up to now is told before a stream ends. */
void events_close(struct routes *r)
{
	list_foreach(node, &r->readers) {
		struct reader *reader = list_entry(node, struct reader, node);

		reader->changed = true;
		if (reads(reader))
			http_stream_wake(reader->req);
	}
}

static void on_comment(void *arg)
{
	struct routes *r = arg;

	comment(r);
	if (!list_empty(&r->readers))
		arm_comments(r);
}

void events_init(struct routes *r)
{
	list_init(&r->readers);
	r->comments = loop_timer_new(r->env.loop, LOOP_NORMAL, on_comment, r);
}

void events_free(struct routes *r)
{
	list_foreach(node, &r->readers)
		reader_free(list_entry(node, struct reader, node));
	loop_timer_free(r->comments);
}

/* ---- the request ---- */

/* The process's readers are counted at the first shard. */
static bool admit(struct routes *r, atomic_uint *of_tenant)
{
	const struct config *c = r->env.config;

	if (!dispatch_tenant_take(c, &r->env.peers[0]->n_readers, of_tenant, c->limits.event_readers))
		return false;
	meter_add(r->env.meter, METRIC_EVENT_READERS, 0, 0, 1);
	return true;
}

static void release(struct reader *r)
{
	if (r->req != NULL || r->calling)
		return;
	if (r->watching) {
		call_owner(r, unwatch);
		return;
	}
	if (!atomic_load(&r->told))
		reader_free(r);
}

static void on_end(struct route_data *data, bool gone)
{
	struct reader *r = container_of(data, struct reader, data);

	(void)gone;
	dispatch_tenant_give(&r->here->env.peers[0]->n_readers, r->of_tenant);
	meter_add(r->here->env.meter, METRIC_EVENT_READERS, 0, 0, -1);
	page_leave(&r->page);
	r->req = NULL;
	release(r);
}

/* The place of the last event that the client has; none: 0. False: no place. */
static bool read_last_event(const char *text, uint32_t *ret)
{
	uint64_t v = 0;

	for (; text != NULL && *text != '\0'; text++) {
		if (*text < '0' || *text > '9')
			return false;
		v = MIN(v * 10 + (uint64_t)(*text - '0'), (uint64_t)UINT32_MAX - 1);
	}
	*ret = (uint32_t)v;
	return true;
}

/* True: answered with what is wrong. */
static bool refused(struct routes *r, struct http_request *req, struct slice id, struct reader *ret)
{
	CLEANUP(buf_free) struct buf accept = {0};
	struct query q;

	query_read(&q, req, NULL, 0);
	if (!read_id(r, req, id, &ret->id))
		return true;
	if (!negotiate_takes(join_lines(req, "Accept", &accept), "text/event-stream"))
		answer_problem(r, req, PROBLEM_NOT_ACCEPTABLE, "events are text/event-stream");
	else if (!read_last_event(http_header(req, "Last-Event-ID"), &ret->seq))
		answer_problem(r, req, PROBLEM_MALFORMED_REQUEST, "Last-Event-ID is the id of an event, which is a number");
	else if (query_refused(&q, r, req))
		return true;
	else if (!admit(r, ret->of_tenant))
		answer_problem(r, req, PROBLEM_OVERLOADED,
			       "too many readers of events, of all callers or of your tenant: ask for the batch, or come later");
	else
		return false;
	return true;
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct reader asked = {.of_tenant = &r->env.group->tenants.of[auth_tenant(req)].readers}, *reader;

	if (refused(r, req, id, &asked))
		return;
	reader = xcalloc(1, sizeof *reader);
	*reader = (struct reader){.data.on_end = on_end, .here = r, .req = req, .owner = batch_owner(r, asked.id),
				  .id = asked.id, .of_tenant = asked.of_tenant, .seq = asked.seq};
	page_rider_init(&reader->page, auth_tenant_name(r, req), on_page);
	if (list_empty(&r->readers))
		arm_comments(r);
	list_append(&r->readers, &reader->node);
	http_set_data(req, &reader->data);
	call_owner(reader, watch);
}

const struct route route_get_events = {"/v1/batches/{id}/events", HTTP_GET, run};
