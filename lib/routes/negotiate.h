/*
 * What a client says in its headers about formats and traces. Pure.
 */
#pragma once

#include "base/slice.h"

enum media { MEDIA_NONE, MEDIA_JSON, MEDIA_NDJSON };

/* The best answer to an Accept header (RFC 9110 section 12.5.1): NDJSON only if
 * it is named. NULL: anything goes. */
enum media negotiate_accept(const char *accept);

/* May the answer be of this type? NULL: anything goes. */
bool negotiate_takes(const char *accept, const char *type);

/* Is this Content-Type JSON (with any parameters)? */
bool negotiate_is_json(const char *content_type);

/* The trace id and flags of a valid traceparent (W3C Trace Context, section 3.2). */
bool negotiate_traceparent(const char *traceparent, unsigned char retid[16], unsigned char *retflags);

/* A tracestate that may be passed on (section 3.3); n 0: there is none. */
struct slice negotiate_tracestate(const char *tracestate);
