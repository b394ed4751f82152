/* Listening sockets: what every accepted one inherits is set here. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#include "httpd/httpd.h"

/* Accepted sockets inherit these. The probes find a host that vanished without
 * a FIN within about a minute. */
static const struct {
	int level, name, value;
} options[] = {
	{SOL_SOCKET, SO_REUSEADDR, 1},
	{SOL_SOCKET, SO_KEEPALIVE, 1},
	{IPPROTO_TCP, TCP_KEEPIDLE, 30},
	{IPPROTO_TCP, TCP_KEEPINTVL, 10},
	{IPPROTO_TCP, TCP_KEEPCNT, 3},
	{IPPROTO_TCP, TCP_NODELAY, 1},
	/* The kernel's part of what a slow reader has not taken; it doubles it. */
	{SOL_SOCKET, SO_SNDBUF, 128 * 1024},
};

static int listen_at(const struct addrinfo *ai, bool shared)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	if (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)) < 0)
		goto fail;
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		if (setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int)) < 0)
			goto fail;
	}
	/* "::" serves IPv4 as well, whatever the system's default is. */
	if (ai->ai_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int)) < 0)
		goto fail;
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
		return fd;
fail:
	err = errno;
	close(fd);
	return -err;
}

int httpd_listen(const char *host, unsigned port, bool shared)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
				       .ai_socktype = SOCK_STREAM};
	struct addrinfo *ai;
	char service[16];
	int fd;

	if (port > 65535)
		return -EINVAL;
	snprintf(service, sizeof service, "%u", port);
	switch (getaddrinfo(host, service, &hints, &ai)) {
	case 0:
		break;
	case EAI_MEMORY:
		return -ENOMEM;
	default:
		return -EINVAL;
	}
	fd = listen_at(ai, shared);
	freeaddrinfo(ai);
	return fd;
}

unsigned httpd_port(int listen_fd)
{
	struct sockaddr_storage addr;
	socklen_t n = sizeof addr;

	if (getsockname(listen_fd, (struct sockaddr *)&addr, &n) < 0)
		return 0;
	if (addr.ss_family == AF_INET)
		return ntohs(((const struct sockaddr_in *)(const void *)&addr)->sin_port);
	if (addr.ss_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)(const void *)&addr)->sin6_port);
	return 0;
}
