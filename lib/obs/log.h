/*
 * Structured log lines on standard error: logfmt or JSON, one write(2) a line.
 * Any thread. Never a secret, never a payload: only what callers name.
 *
 *   log_event(LOG_INFO, "batch_done", LOG_STR("batch", id), LOG_INT("items", n));
 */
#pragma once

#include <stdatomic.h>

#include "base/slice.h"

enum log_format { LOG_LOGFMT, LOG_JSON };
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
	const char *key;                 /* NULL ends the list */
	enum { LOG_IS_STR, LOG_IS_INT } kind;
	struct slice str;
	int64_t num;
};

#define LOG_STR(k, v) ((struct log_field){.key = (k), .kind = LOG_IS_STR, .str = slice_str(v)})
#define LOG_SLICE(k, v) ((struct log_field){.key = (k), .kind = LOG_IS_STR, .str = (v)})
#define LOG_INT(k, v) ((struct log_field){.key = (k), .kind = LOG_IS_INT, .num = (int64_t)(v)})

#define log_event(level, event, ...)                                          \
	do {                                                                      \
		if (log_wants(level))                                                 \
			log_write(level, event, (const struct log_field[]){__VA_ARGS__ __VA_OPT__(,) {0}}); \
	} while (0)

/* The same where a flood is possible: at most LOG_LIMIT lines a second from each place
 * in the code; the next one says in `suppressed` how many were left out before it. */
enum { LOG_LIMIT = 10 };

struct log_limit {
	atomic_llong second;             /* of the monotonic clock */
	atomic_uint lines;               /* in it */
	atomic_uint suppressed;
};

#define log_event_limited(level, event, ...)                                  \
	do {                                                                      \
		static struct log_limit log_limit_;                                   \
		unsigned log_suppressed_;                                             \
		if (log_wants(level) && log_admits(&log_limit_, &log_suppressed_))    \
			log_write(level, event, (const struct log_field[]){__VA_ARGS__,   \
				LOG_INT(log_suppressed_ > 0 ? "suppressed" : NULL, log_suppressed_), {0}}); \
	} while (0)

/* May one more line be written? *ret_suppressed: how many were not, since the last one
 * that was. Any thread; two at once may err by a line. */
bool log_admits(struct log_limit *l, unsigned *ret_suppressed);

/* Once, before any other thread. Default: logfmt, info. */
void log_init(enum log_format format, enum log_level level);
void log_set(enum log_format format, enum log_level level);  /* another one: any thread, any time */
bool log_wants(enum log_level level);
unsigned long log_lines_dropped(void);  /* since the start, as standard error did not take them */
void log_write(enum log_level level, const char *event, const struct log_field *fields);
