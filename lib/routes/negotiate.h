/*
 * What a client says in its headers about formats, waiting, keys and traces. Pure.
 */
#pragma once

#include "base/slice.h"
#include "core/batch.h"

enum media { MEDIA_NONE, MEDIA_JSON, MEDIA_NDJSON };

/* The best answer to an Accept header (RFC 9110 section 12.5.1): NDJSON only if
 * it is named. NULL: anything goes. */
enum media negotiate_accept(const char *accept);

/* May the answer be of this type? NULL: anything goes. */
bool negotiate_takes(const char *accept, const char *type);

/* Is this Content-Type JSON (with any parameters)? */
bool negotiate_is_json(const char *content_type);

/* Id, parent and flags of a valid traceparent (W3C Trace Context, section 3.2; flags
 * that it does not know are not for passing on); false: it is none, and `ret` may hold
 * parts of it. */
bool negotiate_traceparent(const char *traceparent, struct trace *ret);

/* A tracestate that may be passed on (section 3.3); n 0: there is none. */
struct slice negotiate_tracestate(const char *tracestate);

enum { PREFER_WAIT_MAX_S = 60, KEY_MAX = 255 };

/* Prefer (RFC 7240): what of it is understood here. */
struct prefer {
	bool respond_async;
	int wait_s;                      /* at most PREFER_WAIT_MAX_S; -1: not asked for */
};

/* The header's lines. What is malformed or unknown is passed over; of a
 * preference that stands twice, the first counts. */
struct prefer negotiate_prefer(const char *const *lines, size_t n);

/* What of it was applied, for Preference-Applied; "": nothing. */
enum { PREFER_APPLIED_MAX = 32 };
void negotiate_applied(struct prefer p, char ret[PREFER_APPLIED_MAX]);

/* An Idempotency-Key: a string of RFC 8941 or the same without quotes; decoded.
 * n 0: it is neither, or has not 1 to KEY_MAX printable characters. */
struct slice negotiate_key(const char *value, char out[KEY_MAX]);
