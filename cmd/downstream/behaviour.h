/*
 * What to do with a request, and the small language it is said in: parameters
 * as in a query string, `status=503&times=2`, and presets, `flaky?times=3`.
 * Pure but for the scratch of a struct spec, which has one owner.
 */
#pragma once

#include "base/buf.h"

enum act { ACT_ANSWER, ACT_HANG, ACT_RESET, ACT_CLOSE };
enum endless { ENDLESS_NO, ENDLESS_HEADERS, ENDLESS_BODY };
enum broken { BROKEN_NO, BROKEN_STATUS, BROKEN_HEADERS, BROKEN_LENGTH, BROKEN_CHUNK };
enum keep { KEEP_YES, KEEP_NO, KEEP_LIE };

struct behaviour {
	uint8_t act, endless, broken, keep;
	bool early;                      /* hang, reset, close: before the body is read */
	bool invalid;                    /* the request asked for something unknown */
	bool has_body;
	size_t header_bytes;             /* of `header=`: lines with their ends */
	int status;
	int interim;                     /* a 1xx answer first; 0: none */
	int64_t wait_ms;
	int64_t retry_after;             /* seconds; -1: none */
	int64_t body_bytes;              /* of filler; 0: none */
	int64_t drip_ms, drip_bytes;
};

/* A behaviour as it is being read. */
struct spec {
	struct behaviour b;
	int64_t times;                   /* 0: always */
	int then;                        /* the status after that */
	int64_t seed;
	struct buf headers, body, key, mix, text, value;
};

void spec_free(struct spec *s);
void spec_reset(struct spec *s);

/* Read `text` on top of what is there. NULL, or static text saying what is
 * wrong. */
const char *spec_read(struct spec *s, struct slice text);

/* Read a request's target: path segments that are a preset or hold a '=', then
 * the query. */
const char *spec_read_target(struct spec *s, struct slice path, struct slice query);

/* Of the n-th request (from 1) under this key: the behaviour that is its turn. */
const char *spec_settle(struct spec *s, uint64_t key, uint32_t n);

/* "answer", "hang before", "broken chunk" ... for the ledger. */
void behaviour_describe(const struct behaviour *b, struct buf *out);

/* The value of a query parameter, decoded; false: not there. */
bool query_get(struct slice query, const char *name, struct buf *out);
bool query_get_number(struct slice query, const char *name, int64_t *ret);
