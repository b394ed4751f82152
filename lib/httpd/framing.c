/*
 * The framing police. libmicrohttpd 0.9.75 lets requests through that another
 * server on the way would cut differently, so that bytes of one client's body
 * run as another's request. Whatever RFC 9112 (2.2, 5.1, 5.2, 6.1, 6.3, 11.2)
 * lets a server refuse is refused here.
 *
 * Much of it cannot be seen in the headers' text: a NUL ends a value early, a
 * bare LF ends a line, ": x" ends the head, a folded line goes into a name. But
 * libmicrohttpd cuts the head where it was received, so the addresses tell: each
 * line has to begin where the one before it and its CRLF end, and the last one
 * has to end with the head. Anything else is refused.
 */
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "httpd/httpd-i.h"

struct scan {
	struct framing f;
	uintptr_t next;                  /* where the next line has to begin */
	unsigned lengths, codings, hosts;
};

/* RFC 9110 section 5.6.2. */
static const bool is_token[256] = {
	['!'] = true, ['#' ... '\''] = true, ['*'] = true, ['+'] = true, ['-'] = true,
	['.'] = true, ['0' ... '9'] = true,  ['A' ... 'Z'] = true, ['^' ... 'z'] = true,
	['|'] = true, ['~'] = true,
};

static void refuse(struct scan *s, const char *why)
{
	if (s->f.error != NULL)
		return;
	s->f.problem = PROBLEM_MALFORMED_REQUEST;
	s->f.error = why;
}

static bool all_token(const char *name)
{
	const unsigned char *p = (const unsigned char *)name;

	while (is_token[*p])
		p++;
	return *p == '\0' && name[0] != '\0';
}

static void read_length(struct scan *s, const char *value)
{
	uint64_t n = 0;

	if (*value == '\0')
		refuse(s, "Content-Length is empty");
	for (; *value != '\0'; value++) {
		if (*value < '0' || *value > '9' || n > (UINT64_MAX - 9) / 10) {
			refuse(s, "Content-Length is not a number");
			return;
		}
		n = n * 10 + (uint64_t)(*value - '0');
	}
	s->f.has_length = true;
	s->f.length = n;
	if (++s->lengths > 1)
		refuse(s, "two Content-Length headers");
}

static void read_coding(struct scan *s, const char *value)
{
	s->f.chunked = true;
	if (++s->codings > 1)
		refuse(s, "two Transfer-Encoding headers");
	if (strcasecmp(value, "chunked") != 0)
		refuse(s, "a transfer coding other than chunked");
}

/* A folded line leaves its first word glued to the name: "Content-Length7". */
static bool is_header(struct scan *s, const char *name, const char *known, size_t known_n)
{
	if (strncasecmp(name, known, known_n) != 0)
		return false;
	if (name[known_n] != '\0')
		refuse(s, "a header name that could be read as another");
	return true;
}

/* A line from `name` to the end of `value`. */
static void follow(struct scan *s, const char *name, const char *value)
{
	if ((uintptr_t)name != s->next || strchr(value, '\r') != NULL)
		refuse(s, "a line that is folded, holds a NUL or CR, or does not end in CRLF");
	s->next = (uintptr_t)value + strlen(value) + 2;
}

static enum MHD_Result on_header(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct scan *s = arg;

	(void)kind;
	if (value == NULL)
		value = "";
	follow(s, name, value);
	if (!all_token(name))
		refuse(s, "a header name with characters that no name has");
	if (is_header(s, name, "content-length", 14))
		read_length(s, value);
	else if (is_header(s, name, "transfer-encoding", 17))
		read_coding(s, value);
	else if (strcasecmp(name, "host") == 0 && ++s->hosts > 1)
		refuse(s, "two Host headers");
	return s->f.error == NULL ? MHD_YES : MHD_NO;
}

/* "GET /path HTTP/1.1": where its parts are tells that nothing is between them. */
static void follow_request_line(struct scan *s, const struct request_line *line)
{
	if ((uintptr_t)line->version != (uintptr_t)line->method + strlen(line->method) + 1 + line->target_n + 1)
		refuse(s, "a request line that is not METHOD TARGET VERSION with one space between");
	s->next = (uintptr_t)line->version + strlen(line->version) + 2;
}

static void check_end(struct scan *s, struct MHD_Connection *mc, const struct request_line *line)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mc, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);

	if (info == NULL || s->next + 2 != (uintptr_t)line->method + info->header_size)
		refuse(s, "a header line that is no NAME: VALUE in one line");
}

struct framing framing_check(struct MHD_Connection *mc, const struct request_line *line)
{
	struct scan s = {0};

	follow_request_line(&s, line);
	MHD_get_connection_values(mc, MHD_HEADER_KIND, on_header, &s);
	check_end(&s, mc, line);
	if (s.f.chunked && s.f.has_length)
		refuse(&s, "both Content-Length and Transfer-Encoding");
	if (s.f.chunked && strcmp(line->version, MHD_HTTP_VERSION_1_1) != 0)
		refuse(&s, "Transfer-Encoding before HTTP/1.1");
	if (s.f.error == NULL && !s.f.chunked && !s.f.has_length && strcmp(line->method, "POST") == 0) {
		s.f.problem = PROBLEM_LENGTH_REQUIRED;
		s.f.error = "a POST needs Content-Length or Transfer-Encoding: chunked";
	}
	return s.f;
}
