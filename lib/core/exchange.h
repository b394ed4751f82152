/*
 * What passes between a channel, which knows what to say, and a transfer,
 * which knows how to say it: one request, and the evidence of what came back.
 * Plain values; everything pointed at is borrowed from the caller.
 */
#pragma once

#include "base/cidr.h"
#include "core/outcome.h"

struct exchange {
	const char *method;
	const char *url;                 /* absolute, http or https */
	const char *const *headers;      /* "Name: value" */
	size_t n_headers;
	struct slice body;               /* stays valid until the transfer is done */
	unsigned service;                /* its place in the configuration */
	bool guarded;                    /* refuse special-purpose addresses ... */
	const struct cidr *allow;        /* ... but for these */
	size_t n_allow;
	size_t answer_limit;             /* bytes of body kept */
};

/* How a transfer ended, as seen from the wire. */
enum answer_end {
	ANSWER_COMPLETE,                 /* a whole HTTP answer */
	ANSWER_FORBIDDEN,                /* the address guard refused every address */
	ANSWER_NO_CONNECTION,            /* name, refused, TLS */
	ANSWER_LOST,                     /* reset or end of file after connecting */
	ANSWER_MALFORMED,                /* not HTTP, or headers over the limit */
	ANSWER_CANCELLED,                /* xfer_cancel(): the owner knows why */
	ANSWER_INTERNAL,                 /* a defect, or no memory */
};

struct answer {
	enum answer_end end;
	bool wrote;                      /* at least one request byte went out */
	int status;                      /* final status line, 0: none arrived */
	enum phase phase;
	int64_t retry_after_ms;          /* from Retry-After, seconds or a date */
	struct slice body;               /* at most answer_limit bytes; borrowed */
	const char *detail;              /* static text for people, or NULL */
};
