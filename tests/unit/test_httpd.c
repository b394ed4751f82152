/* Requests that are answered at once, and those that are refused. */
#include "httpd-rig.h"

/* A huge allocation is to fail, not to abort, under a sanitizer, which asks
 * before it is ready for instrumented code. */
#define FAILING_ALLOCATIONS(sanitizer)                                                      \
	const char *__##sanitizer##_default_options(void);                                  \
	__attribute__((no_sanitize("address", "thread", "undefined"))) const char *         \
		__##sanitizer##_default_options(void)                                       \
	{                                                                                   \
		return "allocator_may_return_null=1";                                       \
	}

FAILING_ALLOCATIONS(asan)
FAILING_ALLOCATIONS(tsan)

static void a_connection_serves_many_requests(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	for (int i = 0; i < 3; i++) {
		say(fd, GET("/hi"));
		hear(fd, false);
		assert_int_equal(reply.status, 200);
		assert_string_equal(reply.body, "hello");
		assert_true(has("\r\nx-test: yes\r\n"));
		assert_false(has("\r\nconnection: close"));
	}
	say(fd, GET("/hi/a%20b?other"));
	hear(fd, false);
	assert_string_equal(reply.body, "a b");
	say(fd, GET("http://example.test/hi/absolute"));
	hear(fd, false);
	assert_string_equal(reply.body, "absolute");
	say(fd, "HEAD /hi HTTP/1.1\r\n" HOST "\r\n");
	hear(fd, true);
	assert_int_equal(reply.n, 5);
	say(fd, GET("/not/%68ere"));
	hear(fd, false);
	assert_int_equal(reply.status, 404);
	assert_string_equal(reply.body, "/not/here");
	say(fd, GET("/hi") GET("/hi/second"));
	hear(fd, false);
	hear(fd, false);
	assert_string_equal(reply.body, "second");
	for (int i = 0; i < 9; i++)
		patiently(&s.end_sem);
	close(fd);
	stop();
	assert_int_equal(s.gones, 0);
}

static void a_query_is_decoded_and_keeps_its_order(void **state)
{
	static const struct {
		const char *target, *found;
	} cases[] = {
		{"/query", ""},
		{"/query?", ""},
		{"/query?a=1&b=2&a=3", "[a=1][b=2][a=3]"},
		{"/query?a&b=&=c", "[a][b=][=c]"},
		{"/query?k%65y=%26%3d+%2B&x=y?z", "[key=&= +][x=y?z]"},
		{"http://example.test/query?a=1", "[a=1]"},
		{"/query?a=1&stop=2&b=3", "[a=1][stop=2]stopped"},
	};
	static const char *const broken[] = {"/query?a=%0", "/query?a=%zz", "/query?%=1", "/query?a=%00"};
	char line[128];
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		snprintf(line, sizeof line, "GET %s HTTP/1.1\r\n" HOST "\r\n", cases[i].target);
		say(fd, line);
		hear(fd, false);
		assert_int_equal(reply.status, 200);
		assert_string_equal(reply.body, cases[i].found);
	}
	close(fd);
	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		fd = dial();
		snprintf(line, sizeof line, "GET %s HTTP/1.1\r\n" HOST "\r\n", broken[i]);
		say(fd, line);
		hear(fd, false);
		assert_int_equal(reply.status, 400);
		close(fd);
	}
	stop();
}

static void an_old_client_is_served_and_closed(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "GET /hi HTTP/1.0\r\n\r\n");
	hear(fd, false);
	assert_string_equal(reply.body, "hello");
	assert_int_equal(closed(fd), 0);
	fd = dial();
	say(fd, "POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc");
	hear(fd, false);
	assert_string_equal(reply.body, "abc");
	assert_int_equal(closed(fd), 0);
	stop();
}

static void a_body_arrives_byte_for_byte(void **state)
{
	static char big[BIG_LIMIT];
	char head[128];
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 6\r\n\r\nab\r\n\t!");
	hear(fd, false);
	assert_string_equal(reply.body, "ab\r\n\t!");
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
		"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n");
	hear(fd, false);
	assert_string_equal(reply.body, "abcdefg");
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.n, 0);
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
	read_head(fd);
	assert_int_equal(reply.status, 100);
	say(fd, "ok");
	hear(fd, false);
	assert_int_equal(reply.status, 200);
	assert_string_equal(reply.body, "ok");
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = (char)(i * 7 + i / 251);
	snprintf(head, sizeof head, "POST /big HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n", sizeof big);
	say(fd, head);
	say_n(fd, big, sizeof big);
	read_head(fd);
	for (size_t at = 0; at < sizeof big;) {
		char got[65536];
		ssize_t n = recv(fd, got, sizeof got, 0);

		assert_true(n > 0 && at + (size_t)n <= sizeof big);
		assert_memory_equal(got, big + at, n);
		at += (size_t)n;
	}
	close(fd);
	stop();
}

static void a_body_too_large_is_refused(void **state)
{
	static char junk[LIMIT + 1];
	int fd;

	(void)state;
	memset(junk, 'j', sizeof junk);
	start(usual);
	fd = dial();
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 413);
	assert_true(has("\r\ncontent-type: application/problem+json"));
	assert_true(has("\r\nconnection: close"));
	assert_int_equal(closed(fd), 0);
	fd = dial();
	say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3e9\r\n");
	say_n(fd, junk, sizeof junk);
	say(fd, "\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 413);
	assert_true(has("\r\nconnection: close"));
	say(fd, "5\r\nabcde\r\n0\r\n\r\n");
	assert_int_equal(closed(fd), 0);
	s.requests += 2;
	fd = dial();
	say(fd, "POST /nowhere HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 404);
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
}

/* The answer survives a client that sends all of it before it reads. */
static void a_refusal_arrives_behind_a_body_on_its_way(void **state)
{
	static char junk[100000];
	const char *heads[] = {"Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n"};

	(void)state;
	start(usual);
	for (unsigned i = 0; i < 20; i++) {
		int fd = dial();

		say(fd, "POST /echo HTTP/1.1\r\n" HOST);
		say(fd, heads[i % 2]);
		(void)!send(fd, junk, sizeof junk, MSG_NOSIGNAL);
		read_head(fd);
		assert_int_equal(reply.status, 413);
		closed(fd);
		patiently(&s.end_sem);
		s.requests++;
	}
	stop();
}

static void a_body_without_memory_is_refused_and_the_next_served(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, "POST /huge HTTP/1.1\r\n" HOST "Content-Length: 4000000000000000000\r\n\r\n");
	hear(fd, false);
	assert_int_equal(reply.status, 503);
	assert_true(has("\r\nretry-after: "));
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
}

/* It may be of attempts that were made: no 5xx is true of it. */
static void an_answer_that_cannot_be_made_is_none(void **state)
{
	int fd;

	(void)state;
	start(usual);
	fd = dial();
	say(fd, GET("/untold"));
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
}

static const struct {
	int status;
	const char *bytes;
} refused[] = {
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length : 37\r\n\r\nGET /hi HTTP/1.1\r\n" HOST "\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length\t: 37\r\n\r\nGET /hi HTTP/1.1\r\n" HOST "\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\n 7\r\n\r\nGET /hi HTTP/1.1\r\n" HOST "\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n x\r\n\r\n0\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "X: y\r\n Content-Length: 3\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\nabc"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b" "chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{400, "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Host: u\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: 3,3\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: 0x3\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\nabc"},
	{413, "GET /hi HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\nabc"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Content-Length-Too: 3\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Sp ace: 3\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "Br{ce: 3\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n\r\n"},
	{400, "GET /a%00b HTTP/1.1\r\n" HOST "\r\n"},
	{400, "GET /a%zz HTTP/1.1\r\n" HOST "\r\n"},
	{400, "GET /hi/%0 HTTP/1.1\r\n" HOST "\r\n"},
	{411, "POST /echo HTTP/1.1\r\n" HOST "\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "X: y\r\n z\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "X: y\nZ: y\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\n" HOST "\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST "X: y\rZ: y\r\n\r\n"},
	{400, "GET /hi HTTP/1.1\r\n" HOST ": y\r\nGET /hi HTTP/1.1\r\n" HOST "\r\n"},
};

static void what_could_be_smuggled_is_refused_and_closed(void **state)
{
	(void)state;
	start(usual);
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		int fd = dial();

		say(fd, refused[i].bytes);
		read_head(fd);
		if (reply.status != refused[i].status)
			print_message("# %s\n", refused[i].bytes);
		assert_int_equal(reply.status, refused[i].status);
		closed(fd);
		assert_int_equal(s.requests, i);
		still_serves();
	}
	stop();
}

/* Its FIN comes with its request, or with half of one. */
static void assert_full(void)
{
	assert_int_equal(reply.status, 503);
	assert_true(has("\r\nretry-after: 7"));
	assert_true(has("\r\ncontent-type: application/problem+json"));
	assert_non_null(strstr(reply.body, "full to the brim"));
}

/* The bytes that follow are no request: none of them may be read as one. */
static void what_is_refused_unread_keeps_a_connection_whose_body_is_short(void **state)
{
	static char junk[65 * 1024];
	int fd;

	(void)state;
	memset(junk, 'j', sizeof junk);
	start(usual);
	fd = dial();
	for (int i = 0; i < 2; i++) {
		say(fd, "POST /full HTTP/1.1\r\n" HOST "Content-Length: 65536\r\n\r\n");
		say_n(fd, junk, 65536);
		hear(fd, false);
		assert_full();
		assert_false(has("\r\nconnection: close"));
		assert_int_equal(s.announced, 65536);
	}
	say(fd, GET("/hi"));
	hear(fd, false);
	assert_int_equal(reply.status, 200);
	close(fd);
	fd = dial();
	say(fd, "POST /full HTTP/1.1\r\n" HOST "Content-Length: 65537\r\n\r\n");
	hear(fd, false);
	assert_full();
	assert_true(has("\r\nconnection: close"));
	close(fd);
	fd = dial();
	say(fd, "POST /full HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
	hear(fd, false);
	assert_full();
	close(fd);
	fd = dial();
	say(fd, "POST /full HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n");
	hear(fd, false);
	assert_full();
	assert_int_equal(closed(fd), 0);
	still_serves();
	stop();
}

static void a_half_closed_client_is_answered_and_closed(void **state)
{
	(void)state;
	start(usual);
	for (int i = 0; i < 20; i++) {
		int fd = dial();

		say(fd, i % 2 == 0 ? GET("/hi") GET("/hi") : GET("/hi") GET("/hi") "GET /hi HT");
		shutdown(fd, SHUT_WR);
		hear(fd, false);
		hear(fd, false);
		assert_string_equal(reply.body, "hello");
		assert_int_equal(closed(fd), 0);
	}
	stop();
}

static void addresses_are_numeric(void **state)
{
	int fd = httpd_listen("::1", 0, true);

	(void)state;
	if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL) {
		assert_true(fd >= 0);
		assert_int_not_equal(httpd_port(fd), 0);
		close(fd);
	}
	assert_int_equal(httpd_listen("localhost", 0, true), -EINVAL);
	assert_int_equal(httpd_listen("127.0.0.1", 65536, true), -EINVAL);
	assert_true(httpd_listen("192.0.2.1", 0, true) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_serves_many_requests),
		cmocka_unit_test(a_query_is_decoded_and_keeps_its_order),
		cmocka_unit_test(an_old_client_is_served_and_closed),
		cmocka_unit_test(a_body_arrives_byte_for_byte),
		cmocka_unit_test(a_body_too_large_is_refused),
		cmocka_unit_test(what_is_refused_unread_keeps_a_connection_whose_body_is_short),
		cmocka_unit_test(a_half_closed_client_is_answered_and_closed),
		cmocka_unit_test(a_refusal_arrives_behind_a_body_on_its_way),
		cmocka_unit_test(a_body_without_memory_is_refused_and_the_next_served),
		cmocka_unit_test(an_answer_that_cannot_be_made_is_none),
		cmocka_unit_test(what_could_be_smuggled_is_refused_and_closed),
		cmocka_unit_test(addresses_are_numeric),
	};

	return cmocka_run_group_tests_name("httpd", tests, NULL, NULL);
}
