/*
 * Address ranges, IPv4 and IPv6 alike: IPv4 is kept as ::ffff:a.b.c.d (RFC 4291
 * section 2.5.5.2). Pure.
 */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct cidr {
	unsigned char addr[16];
	unsigned char bits;              /* 0..128, counted in the 128-bit form */
};

/* "10.0.0.0/8", "fd00::/8", or an address alone. False: not a range, or with
 * bits set behind the prefix. */
bool cidr_parse(const char *text, struct cidr *ret);
bool cidr_has(const struct cidr *c, const unsigned char addr[16]);
