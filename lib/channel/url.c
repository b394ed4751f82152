#include "channel/channel-i.h"

#include <arpa/inet.h>
#include <strings.h>

enum { NAME_MAX_BYTES = 253, LABEL_MAX_BYTES = 63 };

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool printable(struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] <= 0x20 || s.p[i] >= 0x7f || s.p[i] == '\\')
			return false;
	}
	return true;
}

static struct slice after(struct slice s, size_t n)
{
	return (struct slice){s.p + n, s.n - n};
}

static bool take_scheme(struct slice *s, struct channel_url *ret)
{
	size_t n = s->n >= 5 && (s->p[4] == 's' || s->p[4] == 'S') ? 5 : 4;

	if (s->n < n + 3 || strncasecmp(s->p, "https", n) != 0 || memcmp(s->p + n, "://", 3) != 0)
		return false;
	ret->scheme = (struct slice){s->p, n};
	ret->port = n == 5 ? 443 : 80;
	*s = after(*s, n + 3);
	return true;
}

/* Labels of letters, digits, '-' and '_', with dots between; IPv4 is one too. */
static bool is_name(struct slice host)
{
	size_t label = 0;

	if (host.n == 0 || host.n > NAME_MAX_BYTES)
		return false;
	for (size_t i = 0; i < host.n; i++) {
		char c = host.p[i];

		if (c == '.' && label == 0)
			return false;
		if (c != '.' && !is_alnum(c) && c != '-' && c != '_')
			return false;
		label = c == '.' ? 0 : label + 1;
		if (label > LABEL_MAX_BYTES)
			return false;
	}
	return true;
}

static bool is_ipv6(struct slice bracketed)
{
	char text[INET6_ADDRSTRLEN];
	unsigned char addr[16];
	size_t n = bracketed.n - 2;

	if (bracketed.n < 4 || n >= sizeof text)
		return false;
	memcpy(text, bracketed.p + 1, n);
	text[n] = '\0';
	return inet_pton(AF_INET6, text, addr) == 1;
}

static bool read_port(struct slice digits, unsigned *ret)
{
	unsigned v = 0;

	if (digits.n == 0 || digits.n > 5)
		return false;
	for (size_t i = 0; i < digits.n; i++) {
		if (digits.p[i] < '0' || digits.p[i] > '9')
			return false;
		v = v * 10 + (unsigned)(digits.p[i] - '0');
	}
	*ret = v;
	return v >= 1 && v <= 65535;
}

static const char *read_authority(struct slice s, struct channel_url *ret)
{
	const char *bracket, *colon;
	bool ipv6 = s.n > 0 && s.p[0] == '[';

	if (memchr(s.p, '@', s.n) != NULL)
		return "must not carry a user name or password";
	if (ipv6) {
		bracket = memchr(s.p, ']', s.n);
		if (bracket == NULL)
			return "has no valid host";
		ret->host = (struct slice){s.p, (size_t)(bracket - s.p) + 1};
	} else {
		colon = memchr(s.p, ':', s.n);
		ret->host = (struct slice){s.p, colon == NULL ? s.n : (size_t)(colon - s.p)};
	}
	if (ipv6 ? !is_ipv6(ret->host) : !is_name(ret->host))
		return "has no valid host";
	s = after(s, ret->host.n);
	if (s.n == 0)
		return NULL;
	if (s.p[0] != ':' || !read_port(after(s, 1), &ret->port))
		return "must have a port from 1 to 65535, or none";
	return NULL;
}

const char *channel_url_parse(struct slice s, struct channel_url *ret)
{
	size_t n = 0;

	if (!printable(s))
		return "must be a URL of printable ASCII, without spaces or backslashes";
	if (!take_scheme(&s, ret))
		return "must be an absolute http or https URL";
	if (memchr(s.p, '#', s.n) != NULL)
		return "must not have a fragment";
	while (n < s.n && s.p[n] != '/' && s.p[n] != '?')
		n++;
	return read_authority((struct slice){s.p, n}, ret);
}

void channel_percent_encode(struct slice s, struct buf *out)
{
	static const char digits[] = "0123456789ABCDEF";

	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (is_alnum((char)c) || c == '-' || c == '.' || c == '_' || c == '~')
			buf_add_char(out, (char)c);
		else
			buf_add(out, (char[]){'%', digits[c >> 4], digits[c & 15]}, 3);
	}
}
