/* settled-downstream: a downstream that behaves, and misbehaves, as it is told. */
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

static const char help[] =
	"Usage: settled-downstream [--listen HOST:PORT] [--ledger N] [--ledger-body BYTES]\n"
	"\n"
	"An HTTP/1.1 server that answers as each request asks, to try a retry policy on.\n"
	"It says \"listening on http://HOST:PORT\" when it is ready.\n"
	"\n"
	"  --listen HOST:PORT   127.0.0.1:9090 unless given; port 0: any free one\n"
	"  --ledger N           requests remembered, 100000 unless given; 0: only counted\n"
	"  --ledger-body BYTES  of each body remembered, 4096 unless given\n"
	"\n"
	"A request asks in its query, or in a path segment (percent-encoded), by parameters:\n"
	"  status=N  wait_ms=N  retry_after=SECONDS  header=LINE  body=TEXT  body_bytes=N\n"
	"  interim=1xx                            that status first, then the answer\n"
	"  hang | reset | close [=after|before]   no answer; before: the body is not read\n"
	"  drip_ms=N drip_bytes=N                 the answer in pieces\n"
	"  endless=headers|body   broken=status|headers|length|chunk   keep=yes|no|lie\n"
	"  times=N then=STATUS    only the first N requests, then a plain STATUS (200)\n"
	"  mix=200:80,503:10,hang:5 seed=N        one of these by weight, from the seed\n"
	"  key=TEXT               what times and mix count; else path and webhook-id\n"
	"  tag=TEXT               means nothing\n"
	"or by a preset, as a path segment or a word of mix: ok redirect invalid unauthorized\n"
	"  forbidden missing gone limited error down flaky slow hang reset close drip endless\n"
	"  garbage. Parameters may follow: /flaky?times=3\n"
	"\n"
	"  GET /_ledger [?webhook_id= &path=]     every request, one JSON object on each line\n"
	"  GET /_ledger/count, GET /_stats        counts;  DELETE /_ledger starts again at 0\n"
	"  GET /_ledger/wait?requests=N           until so many came; or answered=N, gone=N\n"
	"      (at least), in_flight=N, connections=N (exactly); timeout_ms=N, then it is 408\n"
	"  POST /_script?path=/x [&per=id]        a behaviour on each line, used in turn\n"
	"  DELETE /_script                        forgets scripts and what times= counted\n"
	"\n"
	"  curl 'localhost:9090/any/path?status=503&times=2&retry_after=1' -d '{}'\n"
	"  printf 'down\\nwait_ms=50&status=500\\nok\\n' | \\\n"
	"      curl 'localhost:9090/_script?path=/x' --data-binary @-\n";

struct options {
	char host[256], port[8];
	size_t ledger, ledger_body;
};

static bool read_listen(const char *text, struct options *o)
{
	const char *colon = strrchr(text, ':');
	size_t n = colon == NULL ? 0 : (size_t)(colon - text);
	bool bracketed = n > 2 && text[0] == '[' && text[n - 1] == ']';

	if (n == 0 || n >= sizeof o->host || strlen(colon + 1) >= sizeof o->port)
		return false;
	snprintf(o->host, sizeof o->host, "%.*s", (int)(bracketed ? n - 2 : n), text + bracketed);
	snprintf(o->port, sizeof o->port, "%s", colon + 1);
	return true;
}

static bool read_size(const char *text, size_t max, size_t *ret)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	*ret = (size_t)v;
	return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && v <= max;
}

static int usage(const char *what)
{
	fprintf(stderr, "settled-downstream: %s; try --help\n", what);
	return 2;
}

/* -1: go on; else the exit status. */
static int read_options(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{"listen", required_argument, NULL, 'l'}, {"ledger", required_argument, NULL, 'n'},
		{"ledger-body", required_argument, NULL, 'b'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'}, {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "hv", names, NULL)) != -1) {
		switch (c) {
		case 'l':
			if (!read_listen(optarg, o))
				return usage("--listen wants HOST:PORT");
			break;
		case 'n':
			if (!read_size(optarg, 100 * 1000 * 1000, &o->ledger))
				return usage("--ledger wants a number up to 100000000");
			break;
		case 'b':
			if (!read_size(optarg, 1 << 30, &o->ledger_body))
				return usage("--ledger-body wants a number up to 1073741824");
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		case 'v':
			puts("settled-downstream " SETTLED_VERSION);
			return 0;
		default:
			return 2;
		}
	}
	return optind < argc ? usage("there are no arguments but options") : -1;
}

static int listen_on(const struct options *o)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *ai;
	int fd, one = 1, err = getaddrinfo(o->host, o->port, &hints, &ai);

	if (err != 0) {
		fprintf(stderr, "settled-downstream: %s: %s\n", o->host, gai_strerror(err));
		return -1;
	}
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
		fprintf(stderr, "settled-downstream: %s:%s: %s\n", o->host, o->port, strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(ai);
	return fd;
}

static void say_ready(int fd)
{
	struct sockaddr_storage addr;
	socklen_t n = sizeof addr;
	char host[NI_MAXHOST], port[NI_MAXSERV];
	bool ipv6;

	if (getsockname(fd, (struct sockaddr *)&addr, &n) < 0 ||
	    getnameinfo((struct sockaddr *)&addr, n, host, sizeof host, port, sizeof port,
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	ipv6 = addr.ss_family == AF_INET6;
	printf("listening on http://%s%s%s:%s\n", ipv6 ? "[" : "", host, ipv6 ? "]" : "", port);
	fflush(stdout);
}

static void on_signal(void *arg, unsigned events)
{
	(void)events;
	loop_stop(arg);
}

static int run(const struct options *o)
{
	struct server server = {0};
	struct loop *loop;
	struct loop_fd *signals;
	int fd = listen_on(o), signal_fd;
	sigset_t set;

	if (fd < 0)
		return 1;
	loop = loop_new();
	REQUIRE(loop != NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	signals = loop_fd_new(loop, signal_fd, LOOP_READ, LOOP_URGENT, on_signal, loop);
	ledger_init(&server.ledger, o->ledger, o->ledger_body);
	server_init(&server, loop, fd);
	say_ready(fd);
	loop_run(loop);
	server_done(&server);
	loop_fd_free(signals);
	close(signal_fd);
	loop_free(loop);
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {.host = "127.0.0.1", .port = "9090", .ledger = 100000, .ledger_body = 4096};
	struct rlimit files;
	int status = read_options(argc, argv, &o);

	if (status >= 0)
		return status;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	return run(&o);
}
