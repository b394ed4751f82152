/* Requests that take their time, clients that leave or stall, and the server's stop. */
#include "httpd-rig.h"

/* Do something in the server's thread, and wait until it is done. */
struct order {
	struct loop_msg msg;
	void (*run)(void);
};

static void obey(struct loop_msg *msg)
{
	container_of(msg, struct order, msg)->run();
	sem_post(&s.told_sem);
}

static void tell(void (*run)(void))
{
	struct order o = {.msg.run = obey, .run = run};

	loop_post(s.loop, &o.msg);
	patiently(&s.told_sem);
}

static struct httpd_usage usage;

static void read_usage(void)
{
	usage = httpd_usage(s.h);
}

static void answer_parked(void)
{
	respond(s.parked, 200, "late");
}

static void stream_parked(void)
{
	s.available = 5;
	http_stream(s.parked, 200, plain, ARRAY_LEN(plain), fill);
}

static void feed(void)
{
	s.available += 7;
	http_stream_wake(s.parked);
}

static void finish_stream(void)
{
	s.stream_over = true;
	http_stream_wake(s.parked);
}

static void quiesce(void)
{
	httpd_quiesce(s.h);
}

static void last_answers(void)
{
	httpd_last_answers(s.h);
}

static void reset(int fd)
{
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	close(fd);
}

static int park(void)
{
	int fd = dial();

	say(fd, GET("/park"));
	patiently(&s.parked_sem);
	return fd;
}

static void a_parked_request_is_answered_later(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	for (int i = 0; i < 3; i++) {
		say(fd, GET("/park"));
		patiently(&s.parked_sem);
		still_serves();
		patiently(&s.end_sem);
		tell(read_usage);
		assert_int_equal(usage.parked, 1);
		tell(answer_parked);
		hear(fd, false);
		assert_string_equal(reply.body, "late");
		patiently(&s.end_sem);
		assert_int_equal(s.gones, 0);
	}
	tell(read_usage);
	assert_int_equal(usage.parked, 0);
	close(fd);
	stop();
}

static void leave_by_fin(int fd)
{
	close(fd);
}

static void leave_by_half_close(int fd)
{
	shutdown(fd, SHUT_WR);
	closed(fd);
}

static void leave_behind_pipelined_by_fin(int fd)
{
	say(fd, GET("/hi"));
	close(fd);
}

static void leave_behind_pipelined_by_reset(int fd)
{
	say(fd, GET("/hi"));
	reset(fd);
}

/* More than the server's receive buffer holds. */
static void leave_behind_a_flood(int fd)
{
	static char flood[900 * 1024];

	say_n(fd, flood, sizeof flood);
	close(fd);
}

static void leave_behind_too_much(int fd)
{
	static char flood[64 * 1024];

	while (send(fd, flood, sizeof flood, MSG_NOSIGNAL) > 0)
		;
	close(fd);
}

static void (*const leave[])(int fd) = {leave_by_fin,
					reset,
					leave_by_half_close,
					leave_behind_pipelined_by_fin,
					leave_behind_pipelined_by_reset,
					leave_behind_a_flood,
					leave_behind_too_much};

static void a_parked_client_that_leaves_is_seen_once(void **state)
{
	(void)state;
	start(usual);
	for (unsigned i = 0; i < ARRAY_LEN(leave); i++) {
		leave[i](park());
		patiently(&s.gone_sem);
		tell(read_usage);
		assert_int_equal(usage.parked, 0);
		still_serves();
		assert_int_equal(s.gones, i + 1);
	}
	stop();
	assert_int_equal(s.gones, ARRAY_LEN(leave));
}

static void a_client_gone_before_it_is_parked_is_seen(void **state)
{
	(void)state;
	start(usual);
	for (unsigned i = 0; i < 20; i++) {
		int fd = dial();

		say(fd, GET("/park"));
		close(fd);
		patiently(&s.gone_sem);
	}
	stop();
	assert_int_equal(s.gones, 20);
}

static void what_came_with_a_parked_request_is_answered_after_it(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, GET("/park") GET("/hi/second"));
	patiently(&s.parked_sem);
	tell(answer_parked);
	hear(fd, false);
	assert_string_equal(reply.body, "late");
	assert_false(has("connection: close"));
	hear(fd, false);
	assert_string_equal(reply.body, "second");
	close(fd);
	stop();
}

static void what_came_after_it_was_parked_is_drained_and_the_answer_closes(void **state)
{
	static char later[512 * 1024];
	int fd;

	(void)state;
	small_buffers = true;
	start(usual);
	fd = park();
	small_buffers = false;
	/* More than the sockets hold: some was drained when this returns. */
	say_n(fd, later, sizeof later);
	tell(answer_parked);
	hear(fd, false);
	assert_string_equal(reply.body, "late");
	assert_true(has("\r\nconnection: close"));
	closed(fd);
	stop();
	assert_int_equal(s.gones, 0);
}

/* One chunk of x's. */
static void hear_chunk(int fd, size_t n)
{
	char want[64], got[64];

	snprintf(want, sizeof want, "%zx\r\n%.*s\r\n", n, (int)n, "xxxxxxxxxxxxxxxxxxxxxxxx");
	assert_int_equal(recv(fd, got, strlen(want), MSG_WAITALL), strlen(want));
	assert_memory_equal(got, want, strlen(want));
}

static void a_stream_flows_as_it_is_fed(void **state)
{
	int fd;
	char end[5];

	(void)state;
	start(usual);
	fd = dial();
	say(fd, GET("/stream"));
	read_head(fd);
	assert_int_equal(reply.status, 200);
	assert_true(has("transfer-encoding: chunked"));
	patiently(&s.dry_sem);
	tell(feed);
	hear_chunk(fd, 7);
	patiently(&s.dry_sem);
	tell(feed);
	tell(read_usage);
	assert_int_equal(usage.streams, 1);
	hear_chunk(fd, 7);
	patiently(&s.dry_sem);
	tell(finish_stream);
	assert_int_equal(recv(fd, end, 5, MSG_WAITALL), 5);
	assert_memory_equal(end, "0\r\n\r\n", 5);
	assert_int_equal(closed(fd), 0);
	s.stream_over = false;
	fd = park();
	tell(stream_parked);
	read_head(fd);
	hear_chunk(fd, 5);
	patiently(&s.dry_sem);
	tell(finish_stream);
	closed(fd);
	stop();
	assert_int_equal(s.gones, 0);
}

static void head_gets_a_streams_headers_alone(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "HEAD /stream HTTP/1.1\r\n" HOST "\r\n");
	read_head(fd);
	assert_int_equal(reply.status, 200);
	assert_int_equal(closed(fd), 0);
	patiently(&s.end_sem);
	stop();
	assert_int_equal(s.gones, 0);
}

static void an_old_client_gets_a_stream_without_chunks(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "GET /stream HTTP/1.0\r\n\r\n");
	read_head(fd);
	assert_false(has("chunked"));
	patiently(&s.dry_sem);
	tell(feed);
	patiently(&s.dry_sem);
	tell(finish_stream);
	assert_int_equal(closed(fd), 7);
	stop();
	assert_int_equal(s.gones, 0);
}

static void a_quiet_streams_client_that_leaves_is_seen(void **state)
{
	(void)state;
	start(usual);
	for (int i = 0; i < 4; i++) {
		int fd = dial();

		say(fd, GET("/stream"));
		patiently(&s.dry_sem);
		leave[i](fd);
		patiently(&s.gone_sem);
		still_serves();
	}
	stop();
	assert_int_equal(s.gones, 4);
}

static void flood(void)
{
	s.available = SIZE_MAX / 2;
	if (s.parked != NULL)
		http_stream_wake(s.parked);
}

static int stalled_reader(void)
{
	int fd = dial();

	say(fd, GET("/stream"));
	read_head(fd);
	return fd;
}

static void a_stalled_reader_is_bounded_and_ended(void **state)
{
	struct httpd_config cfg = usual;
	int fd;

	(void)state;
	cfg.write_ms = 60;
	start(cfg);
	fd = stalled_reader();
	tell(flood);
	patiently(&s.gone_sem);
	assert_in_range(s.filled, 1, 16 * 1024 * 1024);
	closed(fd);
	still_serves();
	stop();
	assert_int_equal(s.gones, 1);
}

static void a_stalled_reader_of_a_long_answer_is_ended(void **state)
{
	static char big[BIG_LIMIT];
	struct httpd_config cfg = usual;
	int fd;

	(void)state;
	cfg.write_ms = 60;
	small_buffers = true;
	start(cfg);
	fd = dial();
	small_buffers = false;
	say(fd, "POST /big HTTP/1.1\r\n" HOST "Content-Length: 8388608\r\n\r\n");
	say_n(fd, big, sizeof big);
	patiently(&s.gone_sem);
	assert_in_range(closed(fd), 0, sizeof big - 1);
	still_serves();
	stop();
	assert_int_equal(s.gones, 1);
}

/* It is blocked in writing, where libmicrohttpd sees no FIN. */
static void a_stalled_reader_that_leaves_is_seen(void **state)
{
	(void)state;
	start(usual);
	for (int i = 0; i < 4; i++) {
		int fd = stalled_reader();

		tell(flood);
		leave[i == 2 ? 0 : i](fd);
		patiently(&s.gone_sem);
		s.available = 0;
		still_serves();
	}
	stop();
	assert_int_equal(s.gones, 4);
}

/* Bytes that drip in do not move the deadline: the writer stops only when it is
 * cut off. */
static void drip_until_cut(int fd, const char *drip)
{
	char byte;

	while (send(fd, drip, strlen(drip), MSG_NOSIGNAL) > 0) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 5) > 0 && recv(fd, &byte, 1, 0) <= 0)
			break;
	}
	close(fd);
}

static void slow_headers_and_bodies_are_cut(void **state)
{
	struct httpd_config cfg = usual;
	int fd;

	(void)state;
	/* Longer than a machine may stand still before what is to be served has been said. */
	cfg.header_ms = cfg.body_ms = cfg.idle_ms = 1500;
	start(cfg);
	fd = dial();
	say(fd, "GET /hi HTTP/1.1\r\n" HOST);
	drip_until_cut(fd, "X: y\r\n");
	fd = dial();
	say(fd, GET("/hi"));
	hear(fd, false);
	drip_until_cut(fd, "G");
	fd = dial();
	say(fd, GET("/hi"));
	hear(fd, false);
	say(fd, "GET /hi HTTP/1.1\r\n");
	drip_until_cut(fd, "X: y\r\n");
	fd = dial();
	say(fd, "POST /big HTTP/1.1\r\n" HOST "Content-Length: 1000000\r\n\r\n");
	drip_until_cut(fd, "b");
	s.requests++;
	patiently(&s.gone_sem);
	fd = dial();
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
	assert_int_equal(s.gones, 1);
}

static void quiescing_refuses_new_and_closes_old(void **state)
{
	struct pollfd p;
	int idle, fresh, parked, fd;

	(void)state;
	start(usual);
	fresh = dial();
	idle = dial();
	say(idle, GET("/hi"));
	hear(idle, false);
	parked = park();
	tell(quiesce);
	assert_int_equal(closed(idle), 0);
	assert_int_equal(closed(fresh), 0);
	for (;;) {
		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s.port),
					 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
			break;
		p = (struct pollfd){.fd = fd, .events = POLLIN};
		poll(&p, 1, PATIENCE_S * 1000);
		close(fd);
	}
	assert_int_equal(errno, ECONNREFUSED);
	close(fd);
	tell(answer_parked);
	hear(parked, false);
	assert_string_equal(reply.body, "late");
	assert_true(has("\r\nconnection: close"));
	assert_int_equal(closed(parked), 0);
	stop();
	assert_int_equal(s.gones, 0);
}

static void last_answers_close_but_new_connections_are_served(void **state)
{
	int idle, parked, fresh;

	(void)state;
	start(usual);
	idle = dial();
	say(idle, GET("/hi"));
	hear(idle, false);
	assert_false(has("\r\nconnection: close"));
	parked = park();
	tell(last_answers);
	tell(answer_parked);
	hear(parked, false);
	assert_true(has("\r\nconnection: close"));
	assert_int_equal(closed(parked), 0);
	say(idle, GET("/hi"));
	hear(idle, false);
	assert_true(has("\r\nconnection: close"));
	assert_int_equal(closed(idle), 0);
	fresh = dial();
	say(fresh, GET("/hi"));
	hear(fresh, false);
	assert_string_equal(reply.body, "hello");
	assert_true(has("\r\nconnection: close"));
	assert_int_equal(closed(fresh), 0);
	stop();
	assert_int_equal(s.gones, 0);
}

static void freeing_ends_what_is_open(void **state)
{
	int fds[5];

	(void)state;
	start(usual);
	fds[0] = park();
	fds[1] = park();
	fds[2] = dial();
	say(fds[2], GET("/stream"));
	patiently(&s.dry_sem);
	fds[3] = dial();
	say(fds[3], "GET /hi HT");
	fds[4] = stalled_reader();
	tell(flood);
	tell(quiesce);
	stop();
	assert_int_equal(s.gones, 4);
	for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
		closed(fds[i]);
}

static void connections_beyond_the_limit_wait(void **state)
{
	struct httpd_config cfg = usual;
	int a, b, c;

	(void)state;
	cfg.connections = 2;
	start(cfg);
	a = park();
	b = dial();
	say(b, GET("/hi"));
	hear(b, false);
	c = dial();
	say(c, GET("/hi/third"));
	tell(read_usage);
	assert_int_equal(usage.connections, 2);
	close(b);
	hear(c, false);
	assert_string_equal(reply.body, "third");
	close(a);
	patiently(&s.gone_sem);
	close(c);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_parked_request_is_answered_later),
		cmocka_unit_test(a_parked_client_that_leaves_is_seen_once),
		cmocka_unit_test(a_client_gone_before_it_is_parked_is_seen),
		cmocka_unit_test(what_came_with_a_parked_request_is_answered_after_it),
		cmocka_unit_test(what_came_after_it_was_parked_is_drained_and_the_answer_closes),
		cmocka_unit_test(a_stream_flows_as_it_is_fed),
		cmocka_unit_test(head_gets_a_streams_headers_alone),
		cmocka_unit_test(an_old_client_gets_a_stream_without_chunks),
		cmocka_unit_test(a_quiet_streams_client_that_leaves_is_seen),
		cmocka_unit_test(a_stalled_reader_is_bounded_and_ended),
		cmocka_unit_test(a_stalled_reader_of_a_long_answer_is_ended),
		cmocka_unit_test(a_stalled_reader_that_leaves_is_seen),
		cmocka_unit_test(slow_headers_and_bodies_are_cut),
		cmocka_unit_test(quiescing_refuses_new_and_closes_old),
		cmocka_unit_test(last_answers_close_but_new_connections_are_served),
		cmocka_unit_test(freeing_ends_what_is_open),
		cmocka_unit_test(connections_beyond_the_limit_wait),
	};

	return cmocka_run_group_tests_name("httpd_live", tests, NULL, NULL);
}
