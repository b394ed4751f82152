/*
 * The address guard: it judges the address being connected to, so neither a
 * spelling nor a name nor a name that changes can get around it.
 *
 * Invariants
 *  1. Every socket of a transfer is made by xfer_guard_open(), for an address
 *     that passed; a connection from the pool passes xfer_guard_request(), as
 *     it may have been opened by a transfer that was allowed more.
 *  2. One request per transfer: once libcurl was about to send, it gets neither
 *     a socket nor leave to send again.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>

#include "xfer/xfer-i.h"

/* IPv4 in the 128-bit form. */
#define V4(a, b, c, d, bits) {{[10] = 0xff, [11] = 0xff, [12] = (a), (b), (c), (d)}, 96 + (bits)}

/* IANA's special-purpose IPv4 registry, multicast and the reserved class E;
 * 168.63.129.16 is a cloud's metadata (the others' are link-local or shared). */
static const struct cidr special_v4[] = {
	V4(0, 0, 0, 0, 8),
	V4(10, 0, 0, 0, 8),
	V4(100, 64, 0, 0, 10),
	V4(127, 0, 0, 0, 8),
	V4(168, 63, 129, 16, 32),
	V4(169, 254, 0, 0, 16),
	V4(172, 16, 0, 0, 12),
	V4(192, 0, 0, 0, 24),
	V4(192, 0, 2, 0, 24),
	V4(192, 88, 99, 0, 24),
	V4(192, 168, 0, 0, 16),
	V4(198, 18, 0, 0, 15),
	V4(198, 51, 100, 0, 24),
	V4(203, 0, 113, 0, 24),
	V4(224, 0, 0, 0, 4),
	V4(240, 0, 0, 0, 4),
};

/* All that is unicast on the Internet; the rest of IPv6 is special. */
static const struct cidr global_v6 = {{0x20}, 3};

/* What is special inside it: protocol assignments with Teredo, documentation
 * (two), 6to4. */
static const struct cidr special_v6[] = {
	{{0x20, 0x01}, 23},
	{{0x20, 0x01, 0x0d, 0xb8}, 32},
	{{0x20, 0x02}, 16},
	{{0x3f, 0xff}, 20},
};

/* Prefixes with an IPv4 address in the last four bytes: IPv4-mapped,
 * IPv4-compatible, NAT64. */
static const struct cidr embedding[] = {
	{{[10] = 0xff, [11] = 0xff}, 96},
	{{0}, 96},
	{{0x00, 0x64, 0xff, 0x9b}, 96},
};

static bool any_has(const struct cidr *c, size_t n, const unsigned char addr[16])
{
	for (size_t i = 0; i < n; i++) {
		if (cidr_has(&c[i], addr))
			return true;
	}
	return false;
}

static void map_v4(const unsigned char v4[4], unsigned char ret[16])
{
	memset(ret, 0, 10);
	memset(ret + 10, 0xff, 2);
	memcpy(ret + 12, v4, 4);
}

static bool unwrap(const unsigned char addr[16], unsigned char ret[16])
{
	if (!any_has(embedding, ARRAY_LEN(embedding), addr))
		return false;
	map_v4(addr + 12, ret);
	return true;
}

/* Any network may tunnel by ISATAP (RFC 5214): there the last eight bytes name
 * an IPv4 host. */
static bool is_isatap(const unsigned char addr[16])
{
	return (addr[8] == 0 || addr[8] == 2) && memcmp(addr + 9, (const unsigned char[]){0, 0x5e, 0xfe}, 3) == 0;
}

bool xfer_addr_special(const unsigned char addr[16])
{
	unsigned char v4[16];

	if (unwrap(addr, v4))
		return any_has(special_v4, ARRAY_LEN(special_v4), v4);
	map_v4(addr + 12, v4);
	return !cidr_has(&global_v6, addr) || any_has(special_v6, ARRAY_LEN(special_v6), addr) ||
	       (is_isatap(addr) && any_has(special_v4, ARRAY_LEN(special_v4), v4));
}

/* A range that lets an IPv4 address through also does so for the forms that
 * embed it, since they lead to the same host. */
static bool passes(const struct transfer *t, const unsigned char addr[16])
{
	unsigned char v4[16];

	if (!t->guarded || !xfer_addr_special(addr))
		return true;
	return any_has(t->allow, t->n_allow, addr) ||
	       (unwrap(addr, v4) && any_has(t->allow, t->n_allow, v4));
}

/* False: an address family that no HTTP request has business with. */
static bool address_of(const struct curl_sockaddr *a, unsigned char ret[16])
{
	if (a->family == AF_INET && a->addrlen >= sizeof(struct sockaddr_in)) {
		struct sockaddr_in in;

		memcpy(&in, &a->addr, sizeof in);
		map_v4((const unsigned char *)&in.sin_addr, ret);
		return true;
	}
	if (a->family == AF_INET6 && a->addrlen >= offsetof(struct sockaddr_in6, sin6_scope_id)) {
		const char *in6 = (const char *)&a->addr;

		memcpy(ret, in6 + offsetof(struct sockaddr_in6, sin6_addr), 16);
		return true;
	}
	return false;
}

static bool parse_ip(const char *text, unsigned char ret[16])
{
	unsigned char v4[4];

	if (inet_pton(AF_INET, text, v4) == 1) {
		map_v4(v4, ret);
		return true;
	}
	return inet_pton(AF_INET6, text, ret) == 1;
}

/* Libcurl's own socket() would leak into children. */
static curl_socket_t new_socket(struct xfer *x, const struct curl_sockaddr *a)
{
	int type = a->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK;
	int fd = socket(a->family, type, a->protocol);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE) && x->closing.n > 0) {
		xfer_sockets_close_all(x);
		fd = socket(a->family, type, a->protocol);
	}
	return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* CURLOPT_OPENSOCKETFUNCTION: called for each address, before connecting. */
curl_socket_t xfer_guard_open(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
	struct transfer *t = arg;
	unsigned char addr[16];

	(void)purpose;
	if (t->seen.requests > 0) {
		t->seen.resend = true;
		return CURL_SOCKET_BAD;
	}
	if (!address_of(a, addr) || !passes(t, addr)) {
		t->seen.refused = true;
		return CURL_SOCKET_BAD;
	}
	t->seen.connecting = true;
	return new_socket(t->x, a);
}

/* CURLOPT_PREREQFUNCTION: connected, new or from the pool, and about to send. */
int xfer_guard_request(void *arg, char *peer_ip, char *local_ip, int peer_port, int local_port)
{
	struct transfer *t = arg;
	unsigned char addr[16];

	(void)local_ip;
	(void)peer_port;
	(void)local_port;
	if (t->seen.requests > 0) {
		t->seen.resend = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (t->guarded && (!parse_ip(peer_ip, addr) || !passes(t, addr))) {
		t->seen.refused = true;
		return CURL_PREREQFUNC_ABORT;
	}
	t->seen.requests++;
	return CURL_PREREQFUNC_OK;
}
