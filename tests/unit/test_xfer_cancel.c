/* What a cancel does, and what it says of how far the request came. */
#include "xfer-rig.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

static void a_cancel_before_anything_happened_says_so(void **state)
{
	const struct xfer_config cfg = {.max_idle = 1, .idle_ms = 1000};
	struct job j;

	(void)state;
	rig_teardown(NULL);
	rig_loop = loop_new();
	rig_xfer = xfer_new(rig_loop, &cfg);
	job_post(&j, 1);
	start_job(&j);
	cancel_job(&j);
	assert_int_equal(j.calls, 0);
	pthread_create(&rig_thread, NULL, rig_main, NULL);
	job_wait(&j);
	assert_int_equal(j.a.end, ANSWER_CANCELLED);
	assert_int_equal(j.a.phase, PHASE_QUEUE);
	assert_false(j.a.wrote);
}

/* A listener whose queue is full drops the handshake, so connecting hangs. */
static void a_cancel_while_connecting_wrote_nothing(void **state)
{
	int fds[8], port, listener = listen_on_loopback(0, &port);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				.sin_port = htons((uint16_t)port)};
	unsigned watched = 0;
	struct job j;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)!connect(fds[i], (struct sockaddr *)&a, sizeof a);
	}
	job_post(&j, port);
	on_loop(start_job, &j);
	while (watched == 0)
		on_loop(count_watched, &watched);
	on_loop(cancel_job, &j);
	job_wait(&j);
	assert_int_equal(j.a.end, ANSWER_CANCELLED);
	assert_int_equal(j.a.phase, PHASE_CONNECT);
	assert_false(j.a.wrote);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
	close(listener);
}

static void read_and_wait(struct peer *p)
{
	read_request(p);
	wait_for_end(p);
}

static void a_cancel_while_waiting_may_have_been_delivered(void **state)
{
	struct downstream *d = downstream_new(read_and_wait, NULL);
	struct job j;

	(void)state;
	job_post(&j, d->port);
	on_loop(start_job, &j);
	WAIT_FOR(d->requests == 1);
	on_loop(cancel_job, &j);
	job_wait(&j);
	assert_int_equal(j.a.end, ANSWER_CANCELLED);
	assert_int_equal(j.a.phase, PHASE_WAIT);
	assert_true(j.a.wrote);
	assert_int_equal(j.a.status, 0);
	WAIT_FOR(d->gone == 1);
	downstream_free(d);
}

static void wait_for_first_byte(struct peer *p)
{
	char c;

	recv(p->fd, &c, 1, MSG_PEEK);
	CHANGE(p->of->requests++);
	WAIT_FOR(p->of->text != NULL);
}

enum { BIG = 32 * 1024 * 1024 };         /* more than the sockets' buffers hold */

static void a_cancel_while_sending_wrote_something(void **state)
{
	struct downstream *d = downstream_new(wait_for_first_byte, NULL);
	char *big = xcalloc(1, BIG);
	struct job j;

	(void)state;
	job_post(&j, d->port);
	j.e.body = (struct slice){big, BIG};
	on_loop(start_job, &j);
	WAIT_FOR(d->requests == 1);
	on_loop(cancel_job, &j);
	job_wait(&j);
	assert_int_equal(j.a.end, ANSWER_CANCELLED);
	assert_int_equal(j.a.phase, PHASE_SEND);
	assert_true(j.a.wrote);
	CHANGE(d->text = "end");
	downstream_free(d);
	free(big);
}

static void big_answer_without_end(struct peer *p)
{
	char *big = xcalloc(1, BIG);

	read_request(p);
	say(p, "HTTP/1.1 200 OK\r\n\r\n");
	memset(big, 'x', BIG - 1);
	say(p, big);
	free(big);
	CHANGE(p->of->text = "sent");
	wait_for_end(p);
}

/* The answer has arrived when more than the buffers hold has been taken. */
static void a_cancel_after_the_status_line_keeps_it(void **state)
{
	struct downstream *d = downstream_new(big_answer_without_end, NULL);
	struct job j;

	(void)state;
	job_post(&j, d->port);
	j.e.answer_limit = 2 * (size_t)BIG;
	on_loop(start_job, &j);
	WAIT_FOR(d->text != NULL);
	on_loop(cancel_job, &j);
	job_wait(&j);
	assert_int_equal(j.a.end, ANSWER_CANCELLED);
	assert_int_equal(j.a.status, 200);
	assert_int_equal(j.a.phase, PHASE_RECEIVE);
	assert_true(j.a.wrote);
	WAIT_FOR(d->gone == 1);
	downstream_free(d);
}

/* Send the answer when told to, and tell when it is in the client's kernel. */
static void answer_when_told(struct peer *p)
{
	int unacknowledged = 1;

	read_request(p);
	WAIT_FOR(p->of->text != NULL);
	say(p, p->of->text);
	while (unacknowledged != 0 && ioctl(p->fd, SIOCOUTQ, &unacknowledged) == 0)
		;
	CHANGE(p->of->body_n = 0);
	wait_for_end(p);
}

struct late {
	struct job job;
	struct downstream *d;
};

/* The loop is busy while the answer arrives, and next comes the cancel. */
static void cancel_late(void *arg)
{
	struct late *late = arg;

	CHANGE(late->d->text = OK);
	WAIT_FOR(late->d->body_n == 0);
	cancel_job(&late->job);
}

static void an_answer_that_nobody_has_read_yet_wins_over_a_cancel(void **state)
{
	static struct late late;

	(void)state;
	late.d = downstream_new(answer_when_told, NULL);
	job_post(&late.job, late.d->port);
	on_loop(start_job, &late.job);
	WAIT_FOR(late.d->requests == 1);
	on_loop(cancel_late, &late);
	job_wait(&late.job);
	assert_int_equal(late.job.a.end, ANSWER_COMPLETE);
	assert_int_equal(late.job.a.status, 200);
	ASSERT_BODY(late.job.a, "hello");
	finish_with(late.d);
}

enum { MANY = 100 };
static struct job many[MANY];

static void start_many(void *arg)
{
	for (int i = 0; i < MANY; i++) {
		job_post(&many[i], *(int *)arg);
		start_job(&many[i]);
	}
}

static void cancel_many(void *arg)
{
	for (int i = 0; i < MANY; i++)
		cancel_job(&many[i]);
	*(struct xfer_usage *)arg = xfer_usage(rig_xfer);
}

static void read_usage(void *arg)
{
	*(struct xfer_usage *)arg = xfer_usage(rig_xfer);
}

static void a_hundred_cancelled_at_once_leave_no_connection(void **state)
{
	struct downstream *d = downstream_new(read_and_wait, NULL);
	struct xfer_usage usage;

	(void)state;
	on_loop(start_many, &d->port);
	WAIT_FOR(d->requests == MANY);
	on_loop(cancel_many, &usage);
	assert_int_equal(usage.live, MANY);
	assert_int_equal(usage.closing, MANY);
	for (int i = 0; i < MANY; i++) {
		job_wait(&many[i]);
		assert_int_equal(many[i].a.end, ANSWER_CANCELLED);
		assert_true(many[i].a.wrote);
	}
	WAIT_FOR(d->gone == MANY);
	on_loop(read_usage, &usage);
	assert_int_equal(usage.live, 0);
	assert_int_equal(usage.closing, 0);
	downstream_free(d);
}

static struct job *other;

static void cancel_other(void *arg, const struct answer *a)
{
	if (other != NULL)
		xfer_cancel(STEAL_PTR(other)->t);
	on_job_done(arg, a);
}

static void start_both(void *arg)
{
	struct job *both = arg;

	both[0].t = xfer_start(rig_xfer, &both[0].e, cancel_other, &both[0]);
	both[1].t = xfer_start(rig_xfer, &both[1].e, cancel_other, &both[1]);
}

/* Whatever the second had come to, it ends once. */
static void a_cancel_from_on_done_ends_the_other_once(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job both[2];

	(void)state;
	job_post(&both[0], d->port);
	job_post(&both[1], d->port);
	other = &both[1];
	on_loop(start_both, both);
	job_wait(&both[0]);
	job_wait(&both[1]);
	finish_with(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		XFER_TEST(a_cancel_before_anything_happened_says_so),
		XFER_TEST(a_cancel_while_connecting_wrote_nothing),
		XFER_TEST(a_cancel_while_sending_wrote_something),
		XFER_TEST(a_cancel_while_waiting_may_have_been_delivered),
		XFER_TEST(a_cancel_after_the_status_line_keeps_it),
		XFER_TEST(an_answer_that_nobody_has_read_yet_wins_over_a_cancel),
		XFER_TEST(a_hundred_cancelled_at_once_leave_no_connection),
		XFER_TEST(a_cancel_from_on_done_ends_the_other_once),
	};

	return cmocka_run_group_tests_name("xfer_cancel", tests, rig_global_setup, rig_global_teardown);
}
