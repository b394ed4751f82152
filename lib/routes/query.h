/*
 * What a request asks for in its query, and cursors, which say where its next
 * page begins. A parameter that nobody knows, or that stands twice, is an error:
 * a misspelt filter must not silently show everything.
 *
 * Thread: the shard's. Everything here lives for one call of a route.
 */
#pragma once

#include "routes-i.h"

enum param_kind {
	PARAM_INTEGER,                   /* int64_t: min..max */
	PARAM_NAME,                      /* int: which of the names */
	PARAM_NAMES,                     /* unsigned: 1 << which, of a list with commas */
	PARAM_TEXT,                      /* struct slice, as long as the request: min..max printable characters */
};

struct param {
	const char *name;
	enum param_kind kind;
	void *ret;                       /* left alone where the parameter is absent */
	int64_t min, max;
	const char *const *names;
	unsigned n_names;
	const char *expected;            /* for people: "a number from 1 to 9" */
	bool seen;
};

enum { QUERY_ERRORS_LISTED = 100 };

struct query {
	struct param *params;
	size_t n_params;
	struct query_error errors[QUERY_ERRORS_LISTED];
	uint64_t n_errors;               /* all of them */
};

/* Read all parameters of the request, and note what is wrong. */
void query_read(struct query *q, struct http_request *req, struct param *params, size_t n);
void query_error(struct query *q, struct slice name, enum fault f, const char *detail);

/* Answer with the errors, if there are any; true: it did. */
bool query_refused(const struct query *q, struct routes *r, struct http_request *req);

/* Where a page begins, in two numbers of the route's own. `bound`, a hash of what
 * else was asked for, keeps a cursor to the request that it belongs to. */
struct cursor {
	uint64_t hi, lo;
};

enum { CURSOR_LEN = 48 };

void cursor_write(struct buf *out, struct cursor c, uint64_t bound);
bool cursor_parse(struct slice text, uint64_t bound, struct cursor *ret);

/* The parameter `cursor`; `text` has p NULL: the first page, and ret stays. */
void query_cursor(struct query *q, struct slice text, uint64_t bound, struct cursor *ret);
