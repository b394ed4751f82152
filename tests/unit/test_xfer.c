#include "xfer-rig.h"

#include <sys/resource.h>
#include <time.h>

static void an_answer_comes_back_whole_and_its_connection_is_used_again(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;

	(void)state;
	for (unsigned i = 1; i <= 3; i++) {
		job_post(&j, d->port);
		job_run(&j);
		assert_int_equal(j.a.end, ANSWER_COMPLETE);
		assert_int_equal(j.a.status, 200);
		assert_true(j.a.wrote);
		assert_int_equal(j.a.phase, PHASE_RECEIVE);
		assert_int_equal(j.a.retry_after_ms, RETRY_AFTER_NONE);
		ASSERT_BODY(j.a, "hello");
		assert_int_equal(d->requests, i);
	}
	assert_int_equal(d->n_peers, 1);
	finish_with(d);
}

static void the_request_says_what_was_asked_and_little_else(void **state)
{
	static const char *const headers[] = {"Content-Type: application/json", "webhook-id: b.1"};
	struct downstream *d = downstream_new(serve_text, OK);
	char want[512];
	struct job j;

	(void)state;
	job_post(&j, d->port);
	j.e.headers = headers;
	j.e.n_headers = 2;
	job_run(&j);
	snprintf(want, sizeof want,
		 "POST /in HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: rig\r\nAccept: */*\r\n"
		 "Content-Type: application/json\r\nwebhook-id: b.1\r\nContent-Length: 7\r\n\r\n",
		 d->port);
	assert_string_equal(d->request, want);
	assert_true(d->body_hash == slice_hash(SLICE("{\"n\":1}"), 0));
	/* Neither a type that nobody gave, nor the headers of the one before. */
	job_post(&j, d->port);
	job_run(&j);
	snprintf(want, sizeof want,
		 "POST /in HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: rig\r\nAccept: */*\r\n"
		 "Content-Length: 7\r\n\r\n",
		 d->port);
	assert_string_equal(d->request, want);
	finish_with(d);
}

static void each_method_goes_out_as_itself(void **state)
{
	static const struct {
		const char *method;
		struct slice body;
		const char *length;
	} cases[] = {
		{"PUT", {"x", 1}, "Content-Length: 1\r\n"}, {"POST", {"x", 1}, "Content-Length: 1\r\n"},
		{"DELETE", {NULL, 0}, NULL},                {"GET", {NULL, 0}, NULL},
		{"POST", {NULL, 0}, "Content-Length: 0\r\n"}, {"HEAD", {NULL, 0}, NULL},
		{"PATCH", {"x", 1}, "Content-Length: 1\r\n"}, {"GET", {"x", 1}, "Content-Length: 1\r\n"},
		{"POST", {"x", 1}, "Content-Length: 1\r\n"},
	};
	struct downstream *d = downstream_new(serve_text, "HTTP/1.1 204 No Content\r\n\r\n");
	struct job j;
	char url[64];

	(void)state;
	snprintf(url, sizeof url, "http://127.0.0.1:%d/a/../b", d->port);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t n = strlen(cases[i].method);

		job_init(&j, cases[i].method, url, cases[i].body);
		job_run(&j);
		assert_int_equal(j.a.status, 204);
		assert_memory_equal(d->request, cases[i].method, n);
		assert_memory_equal(d->request + n, " /a/../b HTTP/1.1\r\n", 19);
		assert_int_equal(d->body_n, cases[i].body.n);
		if (cases[i].length != NULL)
			assert_non_null(strstr(d->request, cases[i].length));
		else
			assert_null(strstr(d->request, "Content-Length"));
	}
	assert_int_equal(d->n_peers, 1);
	finish_with(d);
}

static void a_large_body_goes_out_byte_for_byte_without_a_wait(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	size_t n = 3 * 1024 * 1024 + 7;
	char *bytes = xcalloc(1, n);
	struct job j;

	(void)state;
	for (size_t i = 0; i < n; i++)
		bytes[i] = (char)(i * i >> 3);
	job_post(&j, d->port);
	j.e.body = (struct slice){bytes, n};
	job_run(&j);
	assert_int_equal(j.a.status, 200);
	assert_int_equal(d->body_n, n);
	assert_true(d->body_hash == slice_hash(j.e.body, 0));
	assert_null(strstr(d->request, "Expect"));
	free(bytes);
	finish_with(d);
}

static void credentials_of_one_url_do_not_reach_the_next(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;
	char url[64];

	(void)state;
	snprintf(url, sizeof url, "http://user:secret@127.0.0.1:%d/in", d->port);
	job_init(&j, "POST", url, SLICE("x"));
	job_run(&j);
	assert_non_null(strstr(d->request, "Authorization: Basic"));
	job_post(&j, d->port);
	job_run(&j);
	assert_null(strstr(d->request, "Authorization"));
	finish_with(d);
}

static void a_path_and_a_query_go_out_as_they_are_given(void **state)
{
	static const struct {
		const char *url, *sent;
	} cases[] = {
		{"http://127.0.0.1:%d", "/"},
		{"http://127.0.0.1:%d?a=/../%%2e", "/?a=/../%2e"},
		{"http://127.0.0.1:%d/?", "/?"},
		{"http://127.0.0.1:%d//a/./%%2E%%2e/%%zz/;b=+?c=%%20?d#e?f", "//a/./%2E%2e/%zz/;b=+?c=%20?d"},
		{"HTTP://2130706433:%d/../", "/../"},
		{"http://0177.1:%d/~%%7E%%00", "/~%7E%00"},
	};
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;
	char url[128], head[128];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		snprintf(url, sizeof url, cases[i].url, d->port);
		snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n", cases[i].sent, d->port);
		job_init(&j, "POST", url, SLICE("x"));
		job_run(&j);
		assert_int_equal(j.a.status, 200);
		d->request[strlen(head)] = '\0';
		assert_string_equal(d->request, head);
	}
	finish_with(d);
}

static void a_proxy_in_the_environment_is_not_used(void **state)
{
	struct answer a;

	(void)state;
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
	a = ask(serve_text, OK);
	unsetenv("http_proxy");
	unsetenv("ALL_PROXY");
	assert_int_equal(a.status, 200);
}

static void endless_body(struct peer *p)
{
	if (!read_request(p) || !say(p, "HTTP/1.1 201 Created\r\n\r\n"))
		return;
	while (say(p, "more and more and more and more and more and more and more"))
		;
}

static void a_body_over_the_limit_is_cut_and_the_status_stands(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct answer a;
	struct job j;

	(void)state;
	job_post(&j, d->port);
	j.e.answer_limit = 5;
	job_run(&j);
	assert_null(j.a.detail);
	ASSERT_BODY(j.a, "hello");
	job_post(&j, d->port);
	j.e.answer_limit = 4;
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_COMPLETE);
	assert_int_equal(j.a.status, 200);
	assert_non_null(j.a.detail);
	ASSERT_BODY(j.a, "hell");
	finish_with(d);
	a = ask(endless_body, NULL);
	assert_int_equal(a.end, ANSWER_COMPLETE);
	assert_int_equal(a.status, 201);
	assert_int_equal(a.body.n, 1024);
}

static void answer_early(struct peer *p)
{
	char c;

	recv(p->fd, &c, 1, 0);
	say(p, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
	wait_for_end(p);
}

static void an_answer_before_the_request_has_ended_counts(void **state)
{
	struct downstream *d = downstream_new(answer_early, NULL);
	size_t n = 8 * 1024 * 1024;
	char *bytes = xcalloc(1, n);
	struct job j;

	(void)state;
	job_post(&j, d->port);
	j.e.body = (struct slice){bytes, n};
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_COMPLETE);
	assert_int_equal(j.a.status, 413);
	free(bytes);
	finish_with(d);
}

static void redirects_and_errors_are_answers(void **state)
{
	struct answer a;

	(void)state;
	a = ask(serve_text, "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
	assert_int_equal(a.end, ANSWER_COMPLETE);
	assert_int_equal(a.status, 302);
	a = ask(serve_text, "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno");
	assert_int_equal(a.status, 503);
	ASSERT_BODY(a, "no");
	a = ask(serve_text_and_close, "HTTP/1.0 200 OK\r\n\r\nold");
	assert_int_equal(a.status, 200);
	ASSERT_BODY(a, "old");
}

static void lines_before_the_final_status_are_passed_over(void **state)
{
	struct answer a;

	(void)state;
	a = ask(serve_text, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n"
			    "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok");
	assert_int_equal(a.end, ANSWER_COMPLETE);
	assert_int_equal(a.status, 202);
	assert_int_equal(a.retry_after_ms, RETRY_AFTER_NONE);
	ASSERT_BODY(a, "ok");
	a = ask(serve_text_and_close, "HTTP/1.1 100 Continue\r\n\r\n");
	assert_int_equal(a.end, ANSWER_LOST);
	assert_int_equal(a.status, 0);
	assert_true(a.wrote);
	a = ask(serve_text_and_close, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nbytes");
	assert_int_equal(a.end, ANSWER_MALFORMED);
	assert_int_equal(a.status, 0);
}

static int64_t retry_after(const char *value)
{
	char text[256];

	snprintf(text, sizeof text, "HTTP/1.1 503 No\r\nretry-AFTER:%s\r\nContent-Length: 0\r\n\r\n", value);
	return ask(serve_text, text).retry_after_ms;
}

static void retry_after_is_read_in_both_its_forms(void **state)
{
	time_t later = time(NULL) + 3600;
	char date[64];
	struct tm tm;
	int64_t ms;

	(void)state;
	assert_int_equal(retry_after(" 120 "), 120000);
	assert_int_equal(retry_after("0"), 0);
	strftime(date, sizeof date, " %a, %d %b %Y %H:%M:%S GMT", gmtime_r(&later, &tm));
	ms = retry_after(date);
	assert_true(ms > 0 && ms <= 3600000);
	assert_int_equal(retry_after(" Wed, 21 Oct 2015 07:28:00 GMT"), 0);
	assert_int_equal(retry_after(" soon"), RETRY_AFTER_NONE);
	assert_int_equal(retry_after(""), RETRY_AFTER_NONE);
	assert_int_equal(retry_after(" -5"), RETRY_AFTER_NONE);
	assert_true(retry_after(" 99999999999999999999999999") <= INT64_C(366) * 24 * 3600 * 1000);
}

static void a_refused_connection_wrote_nothing(void **state)
{
	struct job j;
	int port, fd = listen_on_loopback(1, &port);

	(void)state;
	close(fd);
	job_post(&j, port);
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_NO_CONNECTION);
	assert_false(j.a.wrote);
	assert_int_equal(j.a.phase, PHASE_CONNECT);
	assert_string_equal(j.a.detail, "the host refused the connection");
}

static void without_a_descriptor_there_is_no_connection(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct rlimit now, none = {0};
	struct job j;

	(void)state;
	getrlimit(RLIMIT_NOFILE, &now);
	none.rlim_max = now.rlim_max;
	setrlimit(RLIMIT_NOFILE, &none);
	job_post(&j, d->port);
	job_run(&j);
	setrlimit(RLIMIT_NOFILE, &now);
	assert_int_equal(j.a.end, ANSWER_NO_CONNECTION);
	assert_false(j.a.wrote);
	finish_with(d);
}

static void a_url_that_cannot_be_called_wrote_nothing(void **state)
{
	static const char *const urls[] = {"ftp://127.0.0.1/x", "file:///etc/passwd", "gopher://127.0.0.1:1/",
					   "http://", "http://a b/", "http://127.0.0.1:99999/"};
	struct job j;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
		job_init(&j, "POST", urls[i], SLICE("x"));
		job_run(&j);
		assert_int_equal(j.a.end, ANSWER_FORBIDDEN);
		assert_false(j.a.wrote);
	}
	job_init(&j, "POST", "http://nowhere.invalid/", SLICE("x"));
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_NO_CONNECTION);
	assert_int_equal(j.a.phase, PHASE_RESOLVE);
}

static void a_url_is_not_relative_to_the_last_one(void **state)
{
	static const char *const urls[] = {"/other", "other", "?other", "//other", "", "mailto:other"};
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
		job_post(&j, d->port);
		job_run(&j);
		assert_int_equal(j.a.status, 200);
		job_init(&j, "POST", urls[i], SLICE("x"));
		job_run(&j);
		assert_int_equal(j.a.status, 0);
		assert_false(j.a.wrote);
		assert_int_equal(d->requests, i + 1);
	}
	finish_with(d);
}

static void reset_after_request(struct peer *p)
{
	const struct linger now = {.l_onoff = 1};

	if (read_request(p))
		setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static void end_after_request(struct peer *p)
{
	read_request(p);
}

static void a_connection_that_breaks_before_the_status_is_lost(void **state)
{
	static void (*const ways[])(struct peer *p) = {reset_after_request, end_after_request};
	struct answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		a = ask(ways[i], NULL);
		assert_int_equal(a.end, ANSWER_LOST);
		assert_true(a.wrote);
		assert_int_equal(a.phase, PHASE_WAIT);
		assert_int_equal(a.status, 0);
	}
	a = ask(serve_text_and_close, "HTTP/1.1 20");
	assert_int_equal(a.end, ANSWER_LOST);
	assert_int_equal(a.status, 0);
}

static void an_answer_that_breaks_off_keeps_its_status(void **state)
{
	static const char *const texts[] = {
		"HTTP/1.1 410 Gone\r\n",
		"HTTP/1.1 410 Gone\r\nContent-Le",
		"HTTP/1.1 410 Gone\r\nContent-Length: 10\r\n\r\nhello",
		"HTTP/1.1 410 Gone\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
		"HTTP/1.1 410 Gone\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 410 Gone\r\nContent-Length: -1\r\n\r\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct answer a = ask(serve_text_and_close, texts[i]);

		assert_int_equal(a.end, ANSWER_COMPLETE);
		assert_int_equal(a.status, 410);
		assert_true(a.wrote);
	}
}

static void end_on_second(struct peer *p)
{
	while (read_request(p) && p->requests == 1)
		say(p, OK);
}

static void reset_on_second(struct peer *p)
{
	const struct linger now = {.l_onoff = 1};

	while (read_request(p) && p->requests == 1)
		say(p, OK);
	setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

/* Invariant 3 of the header. */
static void a_request_on_a_used_connection_is_never_sent_again(void **state)
{
	static void (*const ways[])(struct peer *p) = {end_on_second, reset_on_second};
	struct job j;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		struct downstream *d = downstream_new(ways[i], NULL);

		job_post(&j, d->port);
		job_run(&j);
		assert_int_equal(j.a.status, 200);
		job_post(&j, d->port);
		job_run(&j);
		assert_int_equal(j.a.end, ANSWER_LOST);
		assert_true(j.a.wrote);
		assert_int_equal(j.a.phase, PHASE_WAIT);
		rig_restart();
		WAIT_FOR(d->gone == d->n_peers);
		assert_int_equal(d->n_peers, 1);
		assert_int_equal(d->requests, 2);
		downstream_free(d);
	}
}

static void what_is_no_http_is_malformed(void **state)
{
	static const char *const texts[] = {
		"SSH-2.0-OpenSSH_9.2\r\n", "\r\n\r\n\r\n", "<html>hello</html>", "HTTP/9.9 200 OK\r\n\r\n",
		"HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 007 Low\r\n\r\n", "220 smtp ready\r\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct answer a = ask(serve_text_and_close, texts[i]);

		assert_int_equal(a.end, ANSWER_MALFORMED);
		assert_int_equal(a.status, 0);
		assert_true(a.wrote);
	}
}

static void endless_lines(struct peer *p)
{
	if (!read_request(p) || !say(p, p->of->text))
		return;
	while (say(p, "X-More: and more\r\n"))
		;
}

static void endless_line(struct peer *p)
{
	if (!read_request(p) || !say(p, p->of->text))
		return;
	while (say(p, "and more and more and more"))
		;
}

static void endless_continues(struct peer *p)
{
	if (!read_request(p))
		return;
	while (say(p, "HTTP/1.1 100 Continue\r\n\r\n"))
		;
}

static void endless_headers_are_cut(void **state)
{
	struct answer a;

	(void)state;
	a = ask(endless_lines, "HTTP/1.1 200 OK\r\n");
	assert_int_equal(a.end, ANSWER_COMPLETE);
	assert_int_equal(a.status, 200);
	a = ask(endless_lines, "HTTP/1.1 100 Continue\r\n");
	assert_int_equal(a.end, ANSWER_MALFORMED);
	a = ask(endless_continues, NULL);
	assert_int_equal(a.end, ANSWER_MALFORMED);
	a = ask(endless_line, "HTTP/1.1 200 OK\r\nX: ");
	assert_int_equal(a.end, ANSWER_COMPLETE);
	assert_int_equal(a.status, 200);
	a = ask(endless_line, "HTTP/1.1 200 ");
	assert_int_equal(a.end, ANSWER_MALFORMED);
	assert_true(a.wrote);
}

static unsigned chain_left;

static void start_next(void *arg, const struct answer *a)
{
	struct job *j = arg;

	if (a->status == 200 && --chain_left > 0) {
		j->t = xfer_start(rig_xfer, &j->e, start_next, j);
		return;
	}
	on_job_done(arg, a);
}

static void start_chain(void *arg)
{
	struct job *j = arg;

	j->t = xfer_start(rig_xfer, &j->e, start_next, j);
}

static void on_done_may_start_the_next(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;

	(void)state;
	chain_left = 200;
	job_post(&j, d->port);
	on_loop(start_chain, &j);
	job_wait(&j);
	assert_int_equal(j.a.status, 200);
	assert_int_equal(d->requests, 200);
	finish_with(d);
}

static void unused_connections_are_closed_after_a_while(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;

	(void)state;
	rig_teardown(NULL);
	rig_setup_with(&(struct xfer_config){.max_idle = 4, .idle_ms = 1});
	for (unsigned i = 1; i <= 3; i++) {
		job_post(&j, d->port);
		job_run(&j);
		assert_int_equal(j.a.status, 200);
		WAIT_FOR(d->gone == i);
	}
	downstream_free(d);
}

static void serve_two_and_end(struct peer *p)
{
	while (p->requests < 2 && read_request(p))
		say(p, p->of->text);
	shutdown(p->fd, SHUT_WR);
	wait_for_end(p);
}

/* So that the next transfer on it costs the loop nothing. */
static void a_connection_stays_watched_while_it_idles_and_until_its_peer_ends_it(void **state)
{
	struct downstream *d = downstream_new(serve_two_and_end, OK);
	unsigned watched;
	struct job j;

	(void)state;
	job_post(&j, d->port);
	job_run(&j);
	on_loop(count_watched, &watched);
	assert_int_equal(watched, 1);
	job_post(&j, d->port);
	job_run(&j);
	assert_int_equal(d->n_peers, 1);
	while (watched > 0)
		on_loop(count_watched, &watched);
	job_post(&j, d->port);
	job_run(&j);
	assert_int_equal(j.a.status, 200);
	assert_int_equal(d->n_peers, 2);
	on_loop(count_watched, &watched);
	assert_int_equal(watched, 1);
	finish_with(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		XFER_TEST(an_answer_comes_back_whole_and_its_connection_is_used_again),
		XFER_TEST(the_request_says_what_was_asked_and_little_else),
		XFER_TEST(each_method_goes_out_as_itself),
		XFER_TEST(a_large_body_goes_out_byte_for_byte_without_a_wait),
		XFER_TEST(credentials_of_one_url_do_not_reach_the_next),
		XFER_TEST(a_path_and_a_query_go_out_as_they_are_given),
		XFER_TEST(a_proxy_in_the_environment_is_not_used),
		XFER_TEST(a_body_over_the_limit_is_cut_and_the_status_stands),
		XFER_TEST(an_answer_before_the_request_has_ended_counts),
		XFER_TEST(redirects_and_errors_are_answers),
		XFER_TEST(lines_before_the_final_status_are_passed_over),
		XFER_TEST(retry_after_is_read_in_both_its_forms),
		XFER_TEST(a_refused_connection_wrote_nothing),
		XFER_TEST(without_a_descriptor_there_is_no_connection),
		XFER_TEST(a_url_that_cannot_be_called_wrote_nothing),
		XFER_TEST(a_url_is_not_relative_to_the_last_one),
		XFER_TEST(a_connection_that_breaks_before_the_status_is_lost),
		XFER_TEST(an_answer_that_breaks_off_keeps_its_status),
		XFER_TEST(a_request_on_a_used_connection_is_never_sent_again),
		XFER_TEST(what_is_no_http_is_malformed),
		XFER_TEST(endless_headers_are_cut),
		XFER_TEST(on_done_may_start_the_next),
		XFER_TEST(unused_connections_are_closed_after_a_while),
		XFER_TEST(a_connection_stays_watched_while_it_idles_and_until_its_peer_ends_it),
	};

	return cmocka_run_group_tests_name("xfer", tests, rig_global_setup, rig_global_teardown);
}
