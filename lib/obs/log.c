/*
 * Invariants
 *  1. A line is at most LINE_MAX_BYTES with its newline. That is PIPE_BUF, so
 *     lines of several threads never mix in a pipe, and no lock is needed.
 *  2. A field stands in a line whole or not at all: line_undo() takes back what
 *     did not fit, so a cut line is still valid JSON and valid logfmt.
 *  3. TAIL bytes stay free until line_end(), which says `cut=true` if a field
 *     is missing.
 *  4. A pipe or socket whose reader has stopped is not waited for: lines are
 *     dropped and counted, and the next one that finds room is preceded by
 *     their number. Only a race of threads for the last free page can block.
 *  5. What is written is printable UTF-8: a byte that is not UTF-8 is shown as
 *     \xNN, a control character as \uNNNN or its short form.
 */
#include "obs/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	LINE_MAX_BYTES = PIPE_BUF,
	VALUE_MAX = 1024,                /* of one value, as written */
	TAIL = 16,                       /* room for ,"cut":true}\n */
};

struct line {
	char p[LINE_MAX_BYTES];
	size_t n;
	bool full;                       /* the last field did not fit */
	bool cut;                        /* some field is missing */
};

static _Atomic enum log_format format = LOG_LOGFMT;
static _Atomic enum log_level threshold = LOG_INFO;
static bool may_block;                   /* standard error has a reader that may stop */
static atomic_ulong dropped;             /* and not told of yet */
static atomic_ulong dropped_ever;

void log_set(enum log_format new_format, enum log_level level)
{
	atomic_store_explicit(&format, new_format, memory_order_relaxed);
	atomic_store_explicit(&threshold, level, memory_order_relaxed);
}

void log_init(enum log_format new_format, enum log_level level)
{
	struct stat st;

	log_set(new_format, level);
	may_block = fstat(STDERR_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

bool log_wants(enum log_level level)
{
	return level >= atomic_load_explicit(&threshold, memory_order_relaxed);
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_DEBUG:
		return "debug";
	case LOG_INFO:
		return "info";
	case LOG_WARN:
		return "warn";
	case LOG_ERROR:
		return "error";
	}
	return "error";
}

static void line_add(struct line *l, const char *p, size_t n)
{
	if (l->full || n > sizeof l->p - TAIL - l->n) {
		l->full = true;
		return;
	}
	memcpy(l->p + l->n, p, n);
	l->n += n;
}

static void line_add_str(struct line *l, const char *s)
{
	line_add(l, s, strlen(s));
}

static void line_undo(struct line *l, size_t n)
{
	l->n = n;
	l->full = false;
	l->cut = true;
}

/* Bytes of the well-formed UTF-8 character at `p` (RFC 3629), 0 if there is
 * none. */
static size_t utf8_len(const unsigned char *p, size_t n)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t len;

	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	len = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	/* No overlong form, no surrogate, nothing above U+10FFFF. */
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	if (n < len || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if (p[i] < 0x80 || p[i] > 0xbf)
			return 0;
	}
	return len;
}

/* The next character of a value as it is written: how many bytes of `p` it
 * took, and up to 7 bytes in `ret`. */
static size_t escape(const unsigned char *p, size_t n, char ret[8])
{
	size_t len = utf8_len(p, n);
	bool c1 = len == 2 && p[0] == 0xc2 && p[1] < 0xa0;

	if (len == 0) {
		/* JSON knows no \x, so its backslash is escaped: readers see \xNN. */
		snprintf(ret, 8, "%s\\x%02x", format == LOG_JSON ? "\\" : "", p[0]);
		return 1;
	}
	if (p[0] == '"' || p[0] == '\\')
		snprintf(ret, 8, "\\%c", p[0]);
	else if (p[0] == '\n')
		snprintf(ret, 8, "\\n");
	else if (p[0] == '\r')
		snprintf(ret, 8, "\\r");
	else if (p[0] == '\t')
		snprintf(ret, 8, "\\t");
	else if (p[0] < 0x20 || p[0] == 0x7f || c1)
		snprintf(ret, 8, "\\u%04x", c1 ? p[1] : p[0]);
	else
		snprintf(ret, 8, "%.*s", (int)len, (const char *)p);
	return len;
}

static bool needs_quotes(struct slice v)
{
	if (format == LOG_JSON || v.n == 0)
		return true;
	for (size_t i = 0; i < v.n; i++) {
		unsigned char c = (unsigned char)v.p[i];

		if (c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '=')
			return true;
	}
	return false;
}

static void line_add_value(struct line *l, struct slice v)
{
	bool quotes = needs_quotes(v) || v.n > VALUE_MAX;
	size_t start, at = 0;

	if (quotes)
		line_add(l, "\"", 1);
	start = l->n;
	while (at < v.n && !l->full) {
		char one[8], mark[48];
		size_t took = escape((const unsigned char *)v.p + at, v.n - at, one);

		if (l->n - start + strlen(one) > VALUE_MAX) {
			snprintf(mark, sizeof mark, " [cut: %zu bytes]", v.n);
			line_add_str(l, mark);
			break;
		}
		line_add_str(l, one);
		at += took;
	}
	if (quotes)
		line_add(l, "\"", 1);
}

static void line_add_field(struct line *l, const char *key, const struct log_field *f)
{
	size_t before = l->n;

	if (before > 0)
		line_add_str(l, format == LOG_JSON ? "," : " ");
	else if (format == LOG_JSON)
		line_add_str(l, "{");
	if (format == LOG_JSON)
		line_add_str(l, "\"");
	line_add_str(l, key);
	line_add_str(l, format == LOG_JSON ? "\":" : "=");
	if (f->kind == LOG_IS_INT) {
		char digits[24];

		snprintf(digits, sizeof digits, "%lld", (long long)f->num);
		line_add_str(l, digits);
	} else {
		line_add_value(l, f->str);
	}
	if (l->full)
		line_undo(l, before);
}

/* RFC 3339 in UTC. Not gmtime_r(), which takes the C library's time zone lock.
 * The date is Howard Hinnant's civil_from_days(), for days since 1970. */
static void now_rfc3339(char *ret, size_t size)
{
	struct timespec ts;
	long long days, secs, era, doe, yoe, doy, mp, month;

	clock_gettime(CLOCK_REALTIME, &ts);
	days = ts.tv_sec / 86400 + 719468;
	secs = ts.tv_sec % 86400;
	era = days / 146097;
	doe = days % 146097;
	yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	mp = (5 * doy + 2) / 153;
	month = mp < 10 ? mp + 3 : mp - 9;
	snprintf(ret, size, "%04lld-%02lld-%02lldT%02lld:%02lld:%02lld.%03ldZ",
	         yoe + era * 400 + (month <= 2), month, doy - (153 * mp + 2) / 5 + 1,
	         secs / 3600, secs / 60 % 60, secs % 60, ts.tv_nsec / 1000000);
}

static void line_end(struct line *l)
{
	const char *cut = "", *end = "\n";

	if (l->cut)
		cut = format == LOG_JSON ? ",\"cut\":true" : " cut=true";
	if (format == LOG_JSON)
		end = "}\n";
	l->n += (size_t)snprintf(l->p + l->n, TAIL, "%s%s", cut, end);
}

static bool has_room(void)
{
	struct pollfd p = {STDERR_FILENO, POLLOUT, 0};

	return !may_block || poll(&p, 1, 0) > 0;
}

static void make_line(struct line *l, enum log_level level, const char *event, const struct log_field *fields)
{
	char now[64];

	l->n = 0;
	l->full = l->cut = false;
	now_rfc3339(now, sizeof now);
	line_add_field(l, "ts", &LOG_STR("", now));
	line_add_field(l, "level", &LOG_STR("", level_name(level)));
	line_add_field(l, "event", &LOG_STR("", event));
	for (; fields->key != NULL; fields++)
		line_add_field(l, fields->key, fields);
	line_end(l);
}

/* A line that standard error does not take is lost: nobody can be told. */
static void put_line(const struct line *l)
{
	while (write(STDERR_FILENO, l->p, l->n) < 0 && errno == EINTR)
		;
}

bool log_admits(struct log_limit *l, unsigned *ret_suppressed)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	if (atomic_exchange(&l->second, (long long)ts.tv_sec) != (long long)ts.tv_sec)
		atomic_store(&l->lines, 0);
	if (atomic_fetch_add(&l->lines, 1) >= LOG_LIMIT) {
		atomic_fetch_add(&l->suppressed, 1);
		return false;
	}
	*ret_suppressed = atomic_exchange(&l->suppressed, 0);
	return true;
}

unsigned long log_lines_dropped(void)
{
	return atomic_load(&dropped_ever);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
	struct line l;
	int saved = errno;
	unsigned long lost;

	if (!has_room()) {
		atomic_fetch_add(&dropped, 1);
		atomic_fetch_add(&dropped_ever, 1);
		errno = saved;
		return;
	}
	lost = atomic_exchange(&dropped, 0);
	if (lost > 0) {
		make_line(&l, LOG_WARN, "log_lines_dropped",
			  (const struct log_field[]){LOG_INT("lines", lost), {0}});
		put_line(&l);
	}
	make_line(&l, level, event, fields);
	put_line(&l);
	errno = saved;
}
