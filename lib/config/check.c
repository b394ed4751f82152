/*
 * Pure checks of single values.
 */
#include "config/config-i.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <strings.h>

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Decimal, at most 65535, nothing else around it. */
static bool parse_port(struct slice s, unsigned *ret)
{
	unsigned v = 0;

	if (s.n == 0 || s.n > 5)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (!is_digit(s.p[i]))
			return false;
		v = v * 10 + (unsigned)(s.p[i] - '0');
	}
	*ret = v;
	return v <= 65535;
}

static bool is_ipv6(struct slice s)
{
	unsigned char addr[16];
	char text[INET6_ADDRSTRLEN];

	if (s.n >= sizeof text)
		return false;
	memcpy(text, s.p, s.n);
	text[s.n] = '\0';
	return inet_pton(AF_INET6, text, addr) == 1;
}

/* Splits "host:port" and "[host]:port"; `ret_rest` is what follows the host. */
static bool split_host(struct slice s, struct slice *ret_host, struct slice *ret_rest)
{
	const char *end;

	if (s.n > 0 && s.p[0] == '[') {
		end = memchr(s.p, ']', s.n);
		if (end == NULL)
			return false;
		*ret_host = (struct slice){s.p + 1, (size_t)(end - s.p - 1)};
		*ret_rest = (struct slice){end + 1, s.n - ret_host->n - 2};
		return is_ipv6(*ret_host);
	}
	end = memchr(s.p, ':', s.n);
	if (end == NULL)
		end = s.p + s.n;
	*ret_host = (struct slice){s.p, (size_t)(end - s.p)};
	*ret_rest = (struct slice){end, s.n - ret_host->n};
	return ret_host->n > 0;
}

const char *cfg_check_listen(const char *text, char **ret_host, unsigned *ret_port)
{
	static const char problem[] = "not an address and a port: give them as 127.0.0.1:8080 or [::1]:8080";
	struct slice host, rest;
	struct in_addr v4;
	char *copy;

	if (!split_host(slice_str(text), &host, &rest) || rest.n < 2 || rest.p[0] != ':')
		return problem;
	if (!parse_port((struct slice){rest.p + 1, rest.n - 1}, ret_port))
		return problem;
	copy = strndup(host.p, host.n);
	REQUIRE(copy != NULL);
	if (text[0] != '[' && inet_pton(AF_INET, copy, &v4) != 1) {
		free(copy);
		return problem;
	}
	free(*ret_host);
	*ret_host = copy;
	return NULL;
}

bool cfg_check_is_loopback(const char *host)
{
	struct cidr v4, v6, addr;

	REQUIRE(cidr_parse("127.0.0.0/8", &v4) && cidr_parse("::1", &v6) && cidr_parse(host, &addr));
	return cidr_has(&v4, addr.addr) || cidr_has(&v6, addr.addr);
}

bool cfg_check_name(struct slice name)
{
	if (name.n < 1 || name.n > 64)
		return false;
	for (size_t i = 0; i < name.n; i++) {
		char c = name.p[i];

		if (!is_digit(c) && !(c >= 'a' && c <= 'z') && c != '_' && c != '-')
			return false;
	}
	return true;
}

static int hex_digit(char c)
{
	return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool cfg_check_sha256(struct slice hex, unsigned char ret[32])
{
	if (hex.n != 64)
		return false;
	for (size_t i = 0; i < hex.n; i += 2) {
		if (!is_hex(hex.p[i]) || !is_hex(hex.p[i + 1]))
			return false;
		ret[i / 2] = (unsigned char)(hex_digit(hex.p[i]) << 4 | hex_digit(hex.p[i + 1]));
	}
	return true;
}

static const char *check_authority(struct slice s)
{
	struct slice host, rest;
	unsigned port;

	if (memchr(s.p, '@', s.n) != NULL)
		return "holds a user name or password: send an authorization header instead";
	if (memchr(s.p, '{', s.n) != NULL)
		return "{to} stands before the path: it may stand in the path or in the query";
	if (!split_host(s, &host, &rest) || host.n > 253)
		return "has no valid host: give a name or an address, IPv6 in [brackets]";
	for (size_t i = 0; i < host.n && s.p[0] != '['; i++) {
		if (!is_alnum(host.p[i]) && strchr(".-_", host.p[i]) == NULL)
			return "has no valid host: use letters, digits, dots and hyphens";
	}
	if (rest.n == 0)
		return NULL;
	if (rest.p[0] != ':' || !parse_port((struct slice){rest.p + 1, rest.n - 1}, &port) || port == 0)
		return "has no valid port: give 1 to 65535";
	return NULL;
}

/* Path and query. */
static const char *check_target(const char *p)
{
	while (*p != '\0') {
		if (strncmp(p, "{to}", 4) == 0) {
			p += 4;
			continue;
		}
		if (*p == '{' || *p == '}')
			return "has a brace that is not part of {to}: write %7B or %7D";
		if (*p == '#')
			return "has a fragment: leave out the # and what follows";
		if (*p <= ' ' || *p >= 0x7f || strchr("\"<>\\^`|", *p) != NULL)
			return "has a character that no URL may hold: percent-encode it";
		if (*p == '%' && !(is_hex(p[1]) && is_hex(p[2])))
			return "has a % without two hexadecimal digits: write %25 for a plain %";
		p++;
	}
	return NULL;
}

const char *cfg_check_url(const char *url)
{
	const char *authority, *problem;
	size_t n;

	if (strncasecmp(url, "http://", 7) == 0)
		authority = url + 7;
	else if (strncasecmp(url, "https://", 8) == 0)
		authority = url + 8;
	else
		return "not an http or https URL: begin it with http:// or https://";
	if (strlen(url) > 4096)
		return "longer than 4096 bytes: give a shorter URL";
	n = strcspn(authority, "/?#");
	problem = check_authority((struct slice){authority, n});
	return problem != NULL ? problem : check_target(authority + n);
}

const char *cfg_check_header_name(struct slice name)
{
	/* Set by the dispatcher, or they would let a header change the framing. */
	static const char *const taken[] = {
		"connection", "content-length", "content-type", "expect", "host", "keep-alive", "proxy-connection",
		"te", "traceparent", "trailer", "transfer-encoding", "upgrade",
	};

	if (name.n == 0 || name.n > 256)
		return "not a header's name: give 1 to 256 characters";
	for (size_t i = 0; i < name.n; i++) {
		if (name.p[i] == '\0' || (!is_alnum(name.p[i]) && strchr("!#$%&'*+-.^_`|~", name.p[i]) == NULL))
			return "not a header's name: use letters, digits and hyphens";
	}
	if (name.n >= 8 && strncasecmp(name.p, "webhook-", 8) == 0)
		return "set by the dispatcher itself: leave it out";
	for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
		if (strlen(taken[i]) == name.n && strncasecmp(name.p, taken[i], name.n) == 0)
			return "set by the dispatcher itself: leave it out";
	}
	return NULL;
}

const char *cfg_check_header_value(struct slice value)
{
	if (value.n == 0)
		return "empty: give a value, or leave the header out";
	if (value.n > 8192)
		return "longer than 8192 bytes: give a shorter value";
	for (size_t i = 0; i < value.n; i++) {
		unsigned char c = (unsigned char)value.p[i];

		if ((c < ' ' && c != '\t') || c == 0x7f)
			return "has a control character, such as a line's end: give one line";
	}
	if (strchr(" \t", value.p[0]) != NULL || strchr(" \t", value.p[value.n - 1]) != NULL)
		return "begins or ends with a space: take it away";
	return NULL;
}

static int base64_digit(char c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c == '\0' ? NULL : strchr(digits, c);

	return at == NULL ? -1 : (int)(at - digits);
}

/* As Standard Webhooks 1.0 writes a symmetric secret. The value is never shown. */
const char *cfg_check_secret(struct slice text, struct slice *ret_key)
{
	static const char problem[] = "not a signing secret: give whsec_ and the base64 of 24 to 64 random bytes";
	const char *p = text.p + 6;
	size_t n = text.n - 6, pad = 0, bytes;
	uint32_t bits = 0;
	char *key;

	if (text.n < 6 || strncmp(text.p, "whsec_", 6) != 0 || n % 4 != 0 || n > 88)
		return problem;
	while (pad < 2 && pad < n && p[n - 1 - pad] == '=')
		pad++;
	bytes = n / 4 * 3 - pad;
	if (n == 0 || bytes < 24 || bytes > 64)
		return problem;
	for (size_t i = 0; i < n - pad; i++) {
		if (base64_digit(p[i]) < 0)
			return problem;
	}
	key = xcalloc(1, bytes);
	for (size_t i = 0, at = 0; i < n; i++) {
		bits = bits << 6 | (i < n - pad ? (uint32_t)base64_digit(p[i]) : 0);
		for (int shift = 16; i % 4 == 3 && shift >= 0 && at < bytes; shift -= 8)
			key[at++] = (char)(bits >> shift);
	}
	*ret_key = (struct slice){key, bytes};
	return NULL;
}
