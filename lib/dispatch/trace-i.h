/*
 * The spans of batches and attempts. See trace.c.
 */
#pragma once

#include "core/batch.h"

struct attempt;
struct dispatch;

/* The trace's id in hexadecimal digits, which `ret` has room for. */
void trace_format(const struct trace *t, char *ret);

/* Spans, if traces are recorded and this one is. */
void trace_accepted(struct dispatch *d, const struct batch *b);
void trace_done(struct dispatch *d, const struct batch *b);
void trace_attempt(struct dispatch *d, const struct attempt *a);         /* which its item counts already */
