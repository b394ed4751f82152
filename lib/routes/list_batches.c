/*
 * GET /v1/batches: heads of batches, newest first. From the store alone: a
 * batch that it has no note of is not in the list while it runs.
 */
#include <stdlib.h>

#include "query.h"

enum { LIMIT_DEFAULT = 50 };

struct listing {
	struct route_data data;
	struct store_list stored;
	struct routes *routes;
	struct http_request *req;        /* NULL: the client has gone */
	uint64_t bound;                  /* of its cursors */
	struct buf text;
	char key[KEY_MAX];
};

static void on_end(struct route_data *data, bool gone)
{
	struct listing *s = container_of(data, struct listing, data);

	(void)gone;
	s->req = NULL;
}

/* In the store's thread. */
static void in_thread(struct store_list *l)
{
	struct listing *s = container_of(l, struct listing, stored);
	struct batch_id last = {0};

	buf_add_str(&s->text, "{\"batches\":[");
	for (uint32_t i = 0; i < l->n; i++) {
		if (i > 0)
			buf_add_char(&s->text, ',');
		wire_batch(&s->text, l->heads[i], false);
		last = l->heads[i]->id;
		batch_unref(STEAL_PTR(l->heads[i]));
	}
	buf_add_str(&s->text, "],\"next_cursor\":");
	if (l->more) {
		buf_add_char(&s->text, '"');
		cursor_write(&s->text, (struct cursor){last.hi, last.lo}, s->bound);
		buf_add_str(&s->text, "\"}");
	} else {
		buf_add_str(&s->text, "null}");
	}
}

static void on_listed(struct store_op *op)
{
	struct listing *s = container_of(op, struct listing, stored.op);

	if (s->req != NULL) {
		http_set_data(s->req, NULL);
		if (op->answer != STORE_OK)
			answer_store_problem(s->routes, s->req, op->answer);
		else if (s->text.failed)
			answer_problem(s->routes, s->req, PROBLEM_OVERLOADED, "no memory for so many batches now: ask for fewer");
		else
			answer_text(s->routes, s->req, 200, "application/json", blob_from_buf(&s->text));
	}
	buf_free(&s->text);
	free(s);
}

/* ---- the request ---- */

#define X(upper, lower) #lower,
static const char *const states[] = {BATCH_STATE_TABLE(X)};
static const char *const outcomes[] = {BATCH_OUTCOME_TABLE(X)};
#undef X

/* False: answered with what is wrong. */
static bool read_query(struct listing *s, struct routes *r, struct http_request *req)
{
	int64_t limit = LIMIT_DEFAULT;
	int outcome = -1;
	struct cursor after = {0};
	struct slice cursor = {0}, key = {0};
	struct param params[] = {
		{"state", PARAM_NAME, &s->stored.state, .names = states, .n_names = BATCH_STATE_MAX,
		 .expected = "give one of queued, running, cancelling, done"},
		{"outcome", PARAM_NAME, &outcome, .names = outcomes + 1, .n_names = BATCH_OUTCOME_MAX - 1,
		 .expected = "give one of succeeded, partial, indeterminate, failed"},
		{"key", PARAM_TEXT, &key, 1, KEY_MAX, .expected = "give the Idempotency-Key: 1 to 255 printable characters"},
		{"limit", PARAM_INTEGER, &limit, 1, STORE_LIST_MAX, .expected = "give a number from 1 to 200"},
		{"cursor", PARAM_TEXT, &cursor, 1, CURSOR_LEN, .expected = "give a next_cursor as it came"},
	};
	struct query q;

	query_read(&q, req, params, ARRAY_LEN(params));
	if (outcome >= 0)
		s->stored.outcome = outcome + 1;
	s->bound = slice_hash(key, (uint64_t)(s->stored.state + 1) << 8 | (uint64_t)(outcome + 1));
	query_cursor(&q, cursor, s->bound, &after);
	if (query_refused(&q, r, req))
		return false;
	if (key.p != NULL)
		s->stored.key = (struct slice){memcpy(s->key, key.p, key.n), key.n};
	s->stored.before = (struct batch_id){after.hi, after.lo};
	s->stored.limit = (uint32_t)limit;
	return true;
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct listing *s = xcalloc(1, sizeof *s);

	(void)id;
	*s = (struct listing){.data.on_end = on_end, .routes = r, .req = req,
			      .stored = {.op = {.what = STORE_LIST, .reply_to = r->env.loop, .on_done = on_listed},
					 .tenant = auth_tenant_name(r, req), .state = -1, .outcome = -1, .in_thread = in_thread}};
	if (!read_query(s, r, req)) {
		free(s);
		return;
	}
	http_set_data(req, &s->data);
	store_ask(r->env.store, &s->stored.op);
}

const struct route route_list_batches = {"/v1/batches", HTTP_GET, run};
