#include "negotiate.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* The part before `stop`, trimmed; `rest` moves behind it. */
static struct slice next_part(struct slice *rest, char stop)
{
	const char *at = rest->n == 0 ? NULL : memchr(rest->p, stop, rest->n);
	size_t n = at == NULL ? rest->n : (size_t)(at - rest->p);
	struct slice part = {rest->p, n};
	size_t skip = at == NULL ? n : n + 1;

	*rest = (struct slice){rest->p + skip, rest->n - skip};
	return slice_trim(part);
}

static bool same(struct slice s, const char *name)
{
	return s.n == strlen(name) && strncasecmp(s.p, name, s.n) == 0;
}

/* The weight of one media range, 0 to 1; its name goes to `name`. */
static double range_weight(struct slice range, struct slice *name)
{
	double q = 1;

	*name = next_part(&range, ';');
	while (range.n > 0) {
		struct slice param = next_part(&range, ';');
		char digits[8] = "";

		if (param.n > 2 && (param.p[0] == 'q' || param.p[0] == 'Q') && param.p[1] == '=') {
			memcpy(digits, param.p + 2, MIN(param.n - 2, sizeof digits - 1));
			q = strtod(digits, NULL);
		}
	}
	return q >= 0 && q <= 1 ? q : 0;
}

enum media negotiate_accept(const char *accept)
{
	struct slice rest = slice_str(accept), name;
	double exact = -1, group = -1, all = -1, ndjson = 0, json;

	if (slice_trim(rest).n == 0)
		return MEDIA_JSON;
	while (rest.n > 0) {
		double q = range_weight(next_part(&rest, ','), &name);

		if (same(name, "application/json"))
			exact = q;
		else if (same(name, "application/x-ndjson"))
			ndjson = q;
		else if (same(name, "application/*"))
			group = q;
		else if (same(name, "*/*"))
			all = q;
	}
	json = exact >= 0 ? exact : group >= 0 ? group : all;
	if (ndjson > 0 && (ndjson > json || (exact < 0 && ndjson >= json)))
		return MEDIA_NDJSON;
	return json > 0 ? MEDIA_JSON : MEDIA_NONE;
}

/* Is the range "GROUP/" and a star, for the group of this type? */
static bool is_group_of(struct slice range, const char *type)
{
	size_t n = (size_t)(strchr(type, '/') - type) + 1;

	return range.n == n + 1 && strncasecmp(range.p, type, n) == 0 && range.p[n] == '*';
}

bool negotiate_takes(const char *accept, const char *type)
{
	struct slice rest = slice_str(accept), name;
	double exact = -1, group = -1, all = -1;

	if (slice_trim(rest).n == 0)
		return true;
	while (rest.n > 0) {
		double q = range_weight(next_part(&rest, ','), &name);

		if (same(name, type))
			exact = q;
		else if (is_group_of(name, type))
			group = q;
		else if (same(name, "*/*"))
			all = q;
	}
	return (exact >= 0 ? exact : group >= 0 ? group : all) > 0;
}

bool negotiate_is_json(const char *content_type)
{
	struct slice rest = slice_str(content_type);

	return same(next_part(&rest, ';'), "application/json");
}

enum { TRACESTATE_MAX = 512 };

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_hex(const char *p, size_t n, unsigned char *ret)
{
	for (size_t i = 0; i < n; i++) {
		int high = hex(p[2 * i]), low = high < 0 ? -1 : hex(p[2 * i + 1]);

		if (low < 0)
			return false;
		ret[i] = (unsigned char)(high << 4 | low);
	}
	return true;
}

static bool any(const unsigned char *p, size_t n)
{
	unsigned char bits = 0;

	for (size_t i = 0; i < n; i++)
		bits |= p[i];
	return bits != 0;
}

bool negotiate_traceparent(const char *traceparent, struct trace *ret)
{
	struct slice s = slice_str(traceparent);
	unsigned char version, parent[8];

	if (s.n < 55 || s.p[2] != '-' || s.p[35] != '-' || s.p[52] != '-')
		return false;
	if (!parse_hex(s.p, 1, &version) || !parse_hex(s.p + 53, 1, &ret->flags) || version == 0xff)
		return false;
	if (memcmp(s.p, "00", 2) == 0 ? s.n != 55 : s.n > 55 && s.p[55] != '-')
		return false;
	if (!parse_hex(s.p + 3, 16, ret->id) || !any(ret->id, 16) || !parse_hex(s.p + 36, 8, parent) || !any(parent, 8))
		return false;
	ret->flags &= TRACE_SAMPLED;
	ret->parent = 0;
	for (int i = 0; i < 8; i++)
		ret->parent = ret->parent << 8 | parent[i];
	return true;
}

struct slice negotiate_tracestate(const char *tracestate)
{
	struct slice s = slice_trim(slice_str(tracestate));

	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < 0x20 || s.p[i] > 0x7e)
			return (struct slice){0};
	}
	return s.n <= TRACESTATE_MAX ? s : (struct slice){0};
}

/* ---- Prefer ---- */

static bool is_token_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
	       (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_token(struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		if (!is_token_char(s.p[i]))
			return false;
	}
	return s.n > 0;
}

/* As next_part(), but a stop inside of a quoted string is none. */
static struct slice next_unquoted(struct slice *rest, char stop)
{
	struct slice part = {rest->p, 0};
	bool quoted = false;

	for (; part.n < rest->n; part.n++) {
		char c = rest->p[part.n];

		if (quoted && c == '\\' && part.n + 1 < rest->n)
			part.n++;
		else if (c == '"')
			quoted = !quoted;
		else if (c == stop && !quoted)
			break;
	}
	*rest = part.n == rest->n ? (struct slice){rest->p + part.n, 0}
				  : (struct slice){rest->p + part.n + 1, rest->n - part.n - 1};
	return slice_trim(part);
}

/* The text of a quoted string without escapes, which no value that is known here needs. */
static struct slice unquote(struct slice s)
{
	return s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"' ? (struct slice){s.p + 1, s.n - 2} : s;
}

/* Seconds, held at the most that is granted; -1: no number. */
static int wait_seconds(struct slice s)
{
	int v = 0;

	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return -1;
		v = MIN(v * 10 + (s.p[i] - '0'), PREFER_WAIT_MAX_S);
	}
	return s.n == 0 ? -1 : v;
}

static void read_preference(struct slice part, struct prefer *p)
{
	struct slice rest = next_unquoted(&part, ';');
	struct slice name = next_unquoted(&rest, '='), value = unquote(slice_trim(rest));

	if (!is_token(name))
		return;
	/* An empty value is none (RFC 7240 section 2). */
	if (same(name, "respond-async") && value.n == 0)
		p->respond_async = true;
	else if (same(name, "wait") && p->wait_s < 0)
		p->wait_s = wait_seconds(value);
}

struct prefer negotiate_prefer(const char *const *lines, size_t n)
{
	struct prefer p = {.wait_s = -1};

	for (size_t i = 0; i < n; i++) {
		struct slice rest = slice_str(lines[i]);

		while (rest.n > 0)
			read_preference(next_unquoted(&rest, ','), &p);
	}
	return p;
}

void negotiate_applied(struct prefer p, char ret[PREFER_APPLIED_MAX])
{
	char wait[16] = "";

	if (p.wait_s >= 0)
		snprintf(wait, sizeof wait, "wait=%d", p.wait_s);
	snprintf(ret, PREFER_APPLIED_MAX, "%s%s%s", p.respond_async ? "respond-async" : "",
		 p.respond_async && p.wait_s >= 0 ? ", " : "", wait);
}

/* ---- Idempotency-Key ---- */

/* In quotes (RFC 8941 section 3.3.3), the quote and the backslash are escaped. */
struct slice negotiate_key(const char *value, char out[KEY_MAX])
{
	const struct slice bad = {0};
	struct slice s = slice_trim(slice_str(value));
	bool quoted = s.n > 0 && s.p[0] == '"';
	size_t n = 0;

	if (quoted && (s.n < 2 || s.p[s.n - 1] != '"'))
		return bad;
	if (quoted)
		s = (struct slice){s.p + 1, s.n - 2};
	for (size_t i = 0; i < s.n; i++) {
		if (quoted && s.p[i] == '"')
			return bad;
		if (quoted && s.p[i] == '\\' && (++i == s.n || (s.p[i] != '\\' && s.p[i] != '"')))
			return bad;
		if (s.p[i] < 0x20 || s.p[i] > 0x7e || n == KEY_MAX)
			return bad;
		out[n++] = s.p[i];
	}
	return (struct slice){out, n};
}
