/*
 * GET /v1/batches/{id}/results: results by status and page, in one document or
 * as a stream of lines.
 *
 *   request ──► parked ──first page──► answered
 *                             └──────► stream ──its pages are taken──► over
 *
 * Invariants
 *  1. While `asking`, the page belongs to whoever makes it; a request that ends
 *     meanwhile leaves its state to the page's answer.
 *  2. A stream has one page at a time, and asks for the next when the client has
 *     taken it: nothing grows with a slow reader, or with the batch.
 */
#include <stdlib.h>

#include "page.h"
#include "query.h"

enum { LIMIT_DEFAULT = 100, LIMIT_MAX = 1000, STREAM_PAGE = 256 };

struct results {
	struct route_data data;
	struct routes *routes;
	struct http_request *req;        /* NULL: the client has gone */
	struct page page;
	uint64_t bound;                  /* of its cursors */
	bool asking;
	/* A stream only. */
	bool streaming;
	bool broken;
	int64_t left;                    /* items that it may still bring */
	size_t sent;                     /* of the page */
};

static void release(struct results *s)
{
	if (s->req != NULL || s->asking)
		return;
	page_done(&s->page);
	free(s);
}

static void on_end(struct route_data *data, bool gone)
{
	struct results *s = container_of(data, struct results, data);

	(void)gone;
	s->req = NULL;
	release(s);
}

static void ask(struct results *s)
{
	s->asking = true;
	s->sent = 0;
	page_ask(&s->page);
}

/* ---- one document ---- */

static void answer_page(struct results *s)
{
	const struct page *p = &s->page;
	struct batch_headers h;
	struct buf text = {0};
	char id[BATCH_ID_LEN + 1];

	batch_id_format(p->id, id);
	buf_printf(&text, "{\"id\":\"%s\",\"state\":\"%s\",\"results\":[", id, batch_state_str(p->state));
	buf_add_slice(&text, buf_slice(&p->items));
	buf_add_str(&text, "],\"next_cursor\":");
	if (p->more) {
		buf_add_char(&text, '"');
		cursor_write(&text, (struct cursor){.lo = p->next}, s->bound);
		buf_add_char(&text, '"');
	} else {
		buf_add_str(&text, "null");
	}
	buf_add_char(&text, '}');
	text.failed |= p->items.failed;
	batch_headers(&h, p->id, p->state == BATCH_DONE ? batch_outcome_str(p->outcome) : NULL, "application/json");
	if (text.failed)
		answer_problem(s->routes, s->req, PROBLEM_OVERLOADED, "no memory for so many results now: ask for fewer");
	else
		http_respond(s->req, 200, h.headers, h.n, blob_from_buf(&text));
	buf_free(&text);
}

/* ---- a stream ---- */

static bool is_last(const struct results *s)
{
	return !s->page.more || s->left == 0;
}

static ssize_t fill(void *data, char *out, size_t max)
{
	struct results *s = container_of((struct route_data *)data, struct results, data);
	const struct buf *items = &s->page.items;
	size_t n;

	if (s->asking)
		return 0;
	if (s->broken)
		return -2;
	n = MIN(items->n - s->sent, max);
	if (n > 0) {
		memcpy(out, items->p + s->sent, n);
		s->sent += n;
		return (ssize_t)n;
	}
	if (is_last(s))
		return -1;
	s->page.from = s->page.next;
	s->page.limit = (uint32_t)MIN(s->left, (int64_t)STREAM_PAGE);
	ask(s);
	return 0;
}

static void begin_stream(struct results *s)
{
	const struct page *p = &s->page;
	struct batch_headers h;

	batch_headers(&h, p->id, p->state == BATCH_DONE ? batch_outcome_str(p->outcome) : NULL,
		      "application/x-ndjson");
	s->streaming = true;
	http_stream(s->req, 200, h.headers, h.n, fill);
}

static void on_page(struct page *p)
{
	struct results *s = container_of(p, struct results, page);

	s->asking = false;
	s->left -= p->answer == STORE_OK ? p->n : 0;
	s->broken = p->answer != STORE_OK || p->items.failed;
	if (s->req == NULL)
		release(s);
	else if (s->streaming)
		http_stream_wake(s->req);
	else if (p->answer != STORE_OK)
		answer_store_problem(s->routes, s->req, p->answer);
	else if (p->form == PAGE_LINES)
		begin_stream(s);
	else
		answer_page(s);
}

/* ---- the request ---- */

#define X(upper, lower) #lower,
static const char *const statuses[] = {STATUS_TABLE(X)};
#undef X

/* What a cursor belongs to: the batch, and which of its items are wanted. */
static uint64_t bound_of(struct batch_id id, unsigned mask)
{
	char text[BATCH_ID_LEN + 1];

	batch_id_format(id, text);
	return slice_hash(slice_str(text), mask);
}

/* False: answered with what is wrong. */
static bool read_query(struct results *s, struct routes *r, struct http_request *req, bool stream)
{
	int64_t limit = stream ? INT64_MAX : LIMIT_DEFAULT;
	struct cursor begin = {0};
	struct slice cursor = {0};
	struct param params[] = {
		{"status", PARAM_NAMES, &s->page.statuses, .names = statuses, .n_names = STATUS_MAX,
		 .expected = "give some of pending, running, succeeded, failed, indeterminate, not_attempted, "
			     "with a comma between two"},
		{"limit", PARAM_INTEGER, &limit, 1, LIMIT_MAX, .expected = "give a number from 1 to 1000"},
		{"cursor", PARAM_TEXT, &cursor, 1, CURSOR_LEN, .expected = "give a next_cursor as it came"},
	};
	struct query q;

	query_read(&q, req, params, ARRAY_LEN(params));
	s->bound = bound_of(s->page.id, s->page.statuses);
	query_cursor(&q, cursor, s->bound, &begin);
	if (query_refused(&q, r, req))
		return false;
	s->page.from = (uint32_t)begin.lo;
	s->page.limit = (uint32_t)MIN(limit, (int64_t)(stream ? STREAM_PAGE : LIMIT_MAX));
	s->left = limit;
	return true;
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	CLEANUP(buf_free) struct buf accepts = {0};
	enum media accept = negotiate_accept(join_lines(req, "Accept", &accepts));
	struct results *s;
	struct batch_id parsed;

	if (!read_id(r, req, id, &parsed))
		return;
	if (accept == MEDIA_NONE) {
		answer_problem(r, req, PROBLEM_NOT_ACCEPTABLE, "results are application/json or application/x-ndjson");
		return;
	}
	s = xcalloc(1, sizeof *s);
	*s = (struct results){.data.on_end = on_end, .routes = r, .req = req,
			      .page = {.here = r, .id = parsed, .tenant = auth_tenant_name(r, req), .on_done = on_page,
				       .form = accept == MEDIA_NDJSON ? PAGE_LINES : PAGE_ARRAY}};
	if (!read_query(s, r, req, accept == MEDIA_NDJSON)) {
		free(s);
		return;
	}
	http_set_data(req, &s->data);
	ask(s);
}

const struct route route_get_results = {"/v1/batches/{id}/results", HTTP_GET, run};
