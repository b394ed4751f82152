/*
 * The bytes of an answer, right or wrong on purpose. Pure.
 */
#pragma once

#include "behaviour.h"

struct answer_plan {
	const struct behaviour *behaviour;
	struct slice text;               /* header_bytes of it, then the body if it has one */
	uint64_t n;                      /* the request's number: part of the default body */
	bool head_only;                  /* the request was a HEAD */
	bool close;                      /* say so */
};

void answer_add(struct buf *out, const struct answer_plan *p);

/* More of an endless answer; at least one byte, not much over 16 KiB. */
void answer_add_more(struct buf *out, const struct behaviour *b);

/* After its answer the connection cannot be used again. */
bool answer_ends_connection(const struct behaviour *b);
