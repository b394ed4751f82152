#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

double cpu_seconds(long pid)
{
	struct timespec ts = {0};
	clockid_t clock;

	if (pid == 0)
		return 0;
	if (clock_getcpuclockid((pid_t)pid, &clock) != 0 || clock_gettime(clock, &ts) != 0)
		die("no CPU clock of process %ld", pid);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Any thread may fail, and several at once: one write each, and no exit handlers. */
void die(const char *fmt, ...)
{
	char text[1500];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	dprintf(STDERR_FILENO, "%s: %s\n", program_invocation_short_name, text);
	_exit(1);
}

long number(const char *name, const char *text, long min, long max)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || v < min || v > max)
		die("--%s wants a number from %ld to %ld, not \"%s\"", name, min, max, text);
	return v;
}

void add_payload(struct buf *b, unsigned item)
{
	buf_printf(b, "{\"title\":\"Your order has shipped\",\"text\":\"Order %07u is on its way.\",", item);
	buf_printf(b, "\"badge\":1,\"link\":\"shop://orders/%07u\"}", item);
}

static void add_batch(struct buf *b, const struct batch_spec *spec, size_t *ret_payload)
{
	size_t payload = 0, before;

	buf_printf(b, "{\"service\":\"%s\",\"concurrency\":%u,\"deadline_ms\":%lld,\"items\":[", spec->service,
		   spec->concurrency, (long long)(spec->deadline_ms != 0 ? spec->deadline_ms : BENCH_HOLD_MS));
	for (unsigned i = 0; i < spec->items; i++) {
		buf_printf(b, "%s{\"id\":\"u%u\",\"to\":\"user-%u\",\"payload\":", i == 0 ? "" : ",", i, i);
		before = b->n;
		add_payload(b, i);
		payload += b->n - before;
		buf_add_char(b, '}');
	}
	buf_add_str(b, "]}");
	if (ret_payload != NULL)
		*ret_payload = payload;
}

void add_request(struct buf *b, const struct batch_spec *spec, unsigned port, size_t *ret_payload)
{
	struct buf body = {0};

	add_batch(&body, spec, ret_payload);
	buf_printf(b, "POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n", port);
	if (spec->prefer != NULL)
		buf_printf(b, "Prefer: %s\r\n", spec->prefer);
	buf_printf(b, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body.n);
	buf_add(b, body.p, body.n);
	if (b->failed || body.failed)
		die("no memory for a batch of %u", spec->items);
	buf_free(&body);
}

int connect_to(unsigned port)
{
	const struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof to) < 0)
		die("connect to 127.0.0.1:%u: %s", port, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

void send_all(int fd, const char *p, size_t n)
{
	ssize_t sent;

	while (n > 0) {
		sent = send(fd, p, n, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			die("send: %s", strerror(errno));
		p += sent;
		n -= (size_t)sent;
	}
}

static void read_more(int fd, struct buf *answer)
{
	enum { READ_SIZE = 256 * 1024 };
	ssize_t n;

	if (!buf_reserve(answer, READ_SIZE))
		die("no memory");
	do
		n = recv(fd, answer->p + answer->n, READ_SIZE, 0);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		die("the service closed the connection: %s", n == 0 ? "end of file" : strerror(errno));
	answer->n += (size_t)n;
}

static size_t content_length(struct slice head)
{
	static const char name[] = "\r\ncontent-length:";
	char *text = strndup(head.p, head.n), *line;
	size_t n;

	if (text == NULL)
		die("no memory");
	line = strcasestr(text, name);
	if (line == NULL)
		die("an answer without Content-Length: %s", text);
	n = (size_t)number("content-length", strtok(line + sizeof name - 1, " \r\n"), 0, INT32_MAX);
	free(text);
	return n;
}

struct answer read_answer(int fd, struct buf *answer)
{
	const char *blank = NULL;
	size_t head_n, body_n;

	answer->n = 0;
	while (blank == NULL) {
		read_more(fd, answer);
		blank = memmem(answer->p, answer->n, "\r\n\r\n", 4);
	}
	head_n = (size_t)(blank - answer->p) + 4;
	body_n = content_length((struct slice){answer->p, head_n});
	while (answer->n < head_n + body_n)
		read_more(fd, answer);
	return (struct answer){{answer->p, head_n}, {answer->p + head_n, body_n}};
}

static int by_size(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

void sort_us(uint32_t *v, size_t n)
{
	qsort(v, n, sizeof *v, by_size);
}

uint32_t percentile_us(const uint32_t *sorted, size_t n, unsigned p)
{
	return sorted[(n * p + 99) / 100 - 1];
}
