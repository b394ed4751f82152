#include "base/cidr.h"

#include <arpa/inet.h>
#include <string.h>

static bool parse_bits(const char *text, unsigned max, unsigned *ret)
{
	unsigned v = 0;

	if (*text == '\0')
		return false;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9' || v > max)
			return false;
		v = v * 10 + (unsigned)(*text - '0');
	}
	*ret = v;
	return v <= max;
}

bool cidr_parse(const char *text, struct cidr *ret)
{
	static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
	const char *slash = strchr(text, '/');
	size_t n = slash == NULL ? strlen(text) : (size_t)(slash - text);
	char host[INET6_ADDRSTRLEN];
	unsigned bits, width;

	if (n >= sizeof host)
		return false;
	memcpy(host, text, n);
	host[n] = '\0';
	if (inet_pton(AF_INET, host, ret->addr + 12) == 1) {
		memcpy(ret->addr, mapped, sizeof mapped);
		width = 32;
	} else if (inet_pton(AF_INET6, host, ret->addr) == 1) {
		width = 128;
	} else {
		return false;
	}
	bits = width;
	if (slash != NULL && !parse_bits(slash + 1, width, &bits))
		return false;
	ret->bits = (unsigned char)(bits + 128 - width);
	for (unsigned i = ret->bits; i < 128; i++) {
		if (ret->addr[i / 8] & (0x80 >> i % 8))
			return false;
	}
	return true;
}

bool cidr_has(const struct cidr *c, const unsigned char addr[16])
{
	unsigned whole = c->bits / 8, rest = c->bits % 8;

	if (memcmp(c->addr, addr, whole) != 0)
		return false;
	return rest == 0 || ((c->addr[whole] ^ addr[whole]) >> (8 - rest)) == 0;
}
