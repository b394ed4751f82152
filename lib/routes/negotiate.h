/*
 * What a client says in its headers about formats and traces. Pure.
 */
#pragma once

#include "base/slice.h"

enum media { MEDIA_NONE, MEDIA_JSON, MEDIA_NDJSON };

/* The best answer to an Accept header (RFC 9110 section 12.5.1): NDJSON only if
 * it is named. NULL: anything goes. */
enum media negotiate_accept(const char *accept);

/* Is this Content-Type JSON (with any parameters)? */
bool negotiate_is_json(const char *content_type);

/* The trace id of a valid traceparent (W3C Trace Context, section 3.2). */
bool negotiate_trace_id(const char *traceparent, unsigned char ret[16]);
