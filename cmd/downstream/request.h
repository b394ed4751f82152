/*
 * HTTP/1.1 requests: a head parser and a body reader that take bytes as they
 * come. Lenient where that is harmless (bare LF, any method), since this
 * program judges by what it records. Pure.
 */
#pragma once

#include "base/buf.h"

enum { REQUEST_HEAD_MAX = 16 * 1024 };

enum parse { PARSE_MORE, PARSE_BAD, PARSE_DONE };

/* Headers that the ledger shows by name. */
enum field {
	FIELD_WEBHOOK_ID,
	FIELD_WEBHOOK_TIMESTAMP,
	FIELD_WEBHOOK_SIGNATURE,
	FIELD_TRACEPARENT,
	FIELD_CONTENT_TYPE,
	FIELD_MAX,
};

/* Every slice points into the head; `p` is NULL where there is none. */
struct request {
	struct slice head;               /* as received, with its empty line */
	struct slice method, path, query;
	struct slice fields[FIELD_MAX];
	uint64_t length;
	bool chunked;
	bool close;                      /* the client wants no further request */
	bool expects_continue;
};

/* PARSE_DONE: ret->head.n bytes are used up. */
enum parse request_parse(struct slice in, struct request *ret);

/* A copy that points into `head`, which has the same bytes. */
struct request request_moved(const struct request *r, const char *head);

/* The next header line of a head: `at` starts as 0. False: no more. */
bool request_header(struct slice head, size_t *at, struct slice *ret_name, struct slice *ret_value);

struct request_body {
	enum { BODY_PLAIN, BODY_SIZE, BODY_DATA, BODY_DATA_END, BODY_TRAILER } state;
	uint64_t left;                   /* of the body, or of the chunk */
	uint64_t total;                  /* bytes of body so far */
	size_t keep;                     /* how many of them are put into `out` */
};

void request_body_init(struct request_body *b, const struct request *r, size_t keep);

/* Use up `in` as far as it is body. PARSE_DONE: *ret_used bytes belonged to it. */
enum parse request_body_read(struct request_body *b, struct slice in, struct buf *out, size_t *ret_used);
