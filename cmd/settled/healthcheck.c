#include "healthcheck.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "httpd/httpd.h"

enum { LIMIT_S = 3 };

static int not_ready(const struct config *c, const char *why)
{
	fprintf(stderr, "settled healthcheck: %s:%u is not ready: %s\n", c->listen_host, c->listen_port, why);
	return 1;
}

/* A daemon that listens on every address is asked on the loopback. */
static socklen_t address(const struct config *c, struct sockaddr_storage *ret)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;

	memset(ret, 0, sizeof *ret);
	if (inet_pton(AF_INET, c->listen_host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)c->listen_port);
		if (v4->sin_addr.s_addr == htonl(INADDR_ANY))
			v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof *v4;
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)c->listen_port);
	inet_pton(AF_INET6, c->listen_host, &v6->sin6_addr);
	if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr))
		v6->sin6_addr = in6addr_loopback;
	return sizeof *v6;
}

/* One that is stopped and goes on, as a container that is frozen for a moment, finds its calls interrupted. */
static bool interrupted(ssize_t n)
{
	return n < 0 && errno == EINTR;
}

/* As many of the first bytes of the answer as come, or -1 with errno. */
static ssize_t receive(int fd, char *ret, size_t n)
{
	size_t got = 0;
	ssize_t more;

	do {
		more = recv(fd, ret + got, n - got, 0);
		got += more > 0 ? (size_t)more : 0;
	} while ((more > 0 && got < n) || interrupted(more));
	return more < 0 ? -1 : (ssize_t)got;
}

/* The same, of an answer to our request. */
static ssize_t ask(const struct config *config, int fd, char *ret, size_t n)
{
	static const char request[] = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
	ssize_t sent;

	if (config->tls_cert_file != NULL)
		return httpd_ask_tls(fd, SLICE(request), ret, n);
	while (interrupted(sent = send(fd, request, sizeof request - 1, MSG_NOSIGNAL)))
		;
	return sent == (ssize_t)sizeof request - 1 ? receive(fd, ret, n) : -1;
}

int healthcheck_run(const struct config *config)
{
	const struct timeval limit = {.tv_sec = LIMIT_S};
	struct sockaddr_storage to;
	socklen_t len = address(config, &to);
	char answer[12];
	ssize_t n = -1;
	int err, fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return not_ready(config, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	while (interrupted(n = connect(fd, (struct sockaddr *)&to, len)))
		;
	if (n == 0)
		n = ask(config, fd, answer, sizeof answer);
	err = errno;
	close(fd);
	if (n < 0)
		return not_ready(config, err != 0 ? strerror(err) : "no TLS connection");
	if (n < (ssize_t)sizeof answer || memcmp(answer, "HTTP/1.1 200", sizeof answer) != 0)
		return not_ready(config, "it does not answer 200 on /readyz; is it draining?");
	return 0;
}
