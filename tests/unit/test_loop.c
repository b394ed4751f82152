#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/heap.h"
#include "loop/loop.h"

static struct loop *loop;
static char order[16];
static unsigned ran;

struct letter {
	struct loop_msg msg;
	struct loop_call call;
	char letter;
};

static void on_msg(struct loop_msg *m)
{
	order[ran++] = container_of(m, struct letter, msg)->letter;
}

static void on_call(struct loop_call *c)
{
	order[ran++] = container_of(c, struct letter, call)->letter;
}

static void stop_loop(void *arg)
{
	(void)arg;
	loop_stop(loop);
}

static void timers_calls_and_messages_run_once_and_never_inside(void **state)
{
	struct letter a = {.letter = 'a'}, b = {.letter = 'b'}, c = {.letter = 'c'};
	struct loop_timer *t;

	(void)state;
	loop = loop_new();
	assert_non_null(loop);
	ran = 0;
	loop_call_init(&a.call, on_call);
	loop_call_init(&b.call, on_call);
	c.msg.run = on_msg;
	loop_call_soon(loop, &a.call);
	loop_call_soon(loop, &a.call);
	loop_call_soon(loop, &b.call);
	loop_call_cancel(&b.call);
	loop_post(loop, &c.msg);
	assert_int_equal(ran, 0);
	t = loop_timer_new(loop, LOOP_NORMAL, stop_loop, NULL);
	loop_timer_at(t, loop_now_us(loop) + 5000);
	loop_run(loop);
	assert_int_equal(ran, 2);
	assert_int_equal(loop_usage(loop).timers, 1);
	loop_timer_free(t);
	assert_int_equal(loop_usage(loop).timers, 0);
	loop_free(loop);
}

static void a_timer_that_is_moved_forward_only_keeps_its_earliest_time(void **state)
{
	struct loop_timer *t;

	(void)state;
	for (int round = 0; round < 2; round++) {
		loop = loop_new();
		t = loop_timer_new(loop, LOOP_NORMAL, stop_loop, NULL);
		loop_timer_by(t, loop_now_us(loop) + (round == 0 ? 1000 : INT64_C(3600000000)));
		loop_timer_by(t, loop_now_us(loop) + (round == 0 ? INT64_C(3600000000) : 1000));
		loop_timer_by(t, HEAP_NONE);
		loop_run(loop);
		loop_timer_free(t);
		loop_free(loop);
	}
}

static unsigned seen_events;

static void on_fd(void *arg, unsigned events)
{
	char c;

	seen_events |= events;
	while (recv(*(int *)arg, &c, 1, MSG_DONTWAIT) == 1)
		;
	if (events & LOOP_CLOSED)
		loop_stop(loop);
}

static void a_peer_that_leaves_is_seen_behind_its_bytes(void **state)
{
	int fds[2];
	struct loop_fd *f;

	(void)state;
	loop = loop_new();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	f = loop_fd_new(loop, fds[0], LOOP_READ | LOOP_CLOSED | LOOP_EDGE, LOOP_URGENT, on_fd, &fds[0]);
	assert_int_equal(write(fds[1], "x", 1), 1);
	close(fds[1]);
	loop_run(loop);
	assert_int_equal(seen_events, LOOP_READ | LOOP_CLOSED);
	loop_fd_free(f);
	close(fds[0]);
	loop_free(loop);
}

enum { POSTS = 20000 };
static struct loop_msg posts[POSTS];
static unsigned posted;

static void count_post(struct loop_msg *m)
{
	assert_ptr_equal(m, &posts[posted]);
	if (++posted == POSTS)
		loop_stop(loop);
}

static void *post_all(void *arg)
{
	(void)arg;
	for (int i = 0; i < POSTS; i++) {
		posts[i].run = count_post;
		loop_post(loop, &posts[i]);
	}
	return NULL;
}

static void messages_from_another_thread_arrive_in_order(void **state)
{
	pthread_t thread;

	(void)state;
	loop = loop_new();
	pthread_create(&thread, NULL, post_all, NULL);
	loop_run(loop);
	pthread_join(thread, NULL);
	assert_int_equal(posted, POSTS);
	loop_free(loop);
}

static void post_again(struct loop_msg *m)
{
	struct letter *l = container_of(m, struct letter, msg);

	order[ran++] = l->letter;
	l->msg.run = on_msg;
	loop_post(loop, &l->msg);
	loop_call_soon(loop, &l->call);
}

/* From another thread, as from one that has ended, and by what runs then. */
static void what_a_loop_that_stopped_has_not_read_can_be_run(void **state)
{
	struct letter a = {.letter = 'a', .msg.run = post_again}, b = {.letter = 'b', .msg.run = on_msg};

	(void)state;
	loop = loop_new();
	assert_non_null(loop);
	ran = 0;
	loop_call_init(&a.call, on_call);
	loop_stop(loop);
	loop_run(loop);
	assert_false(loop_settle(loop));
	loop_post(loop, &a.msg);
	loop_post(loop, &b.msg);
	while (loop_settle(loop))
		;
	assert_int_equal(ran, 4);
	assert_memory_equal(order, "abaa", 4);
	assert_false(loop_is_current(loop));
	loop_free(loop);
}

/* The store's thread, say, still answers. */
static void what_comes_while_a_loop_that_stopped_is_run_is_run_too(void **state)
{
	pthread_t thread;

	(void)state;
	loop = loop_new();
	posted = 0;
	pthread_create(&thread, NULL, post_all, NULL);
	while (posted < POSTS)
		(void)!loop_settle(loop);
	pthread_join(thread, NULL);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_calls_and_messages_run_once_and_never_inside),
		cmocka_unit_test(a_timer_that_is_moved_forward_only_keeps_its_earliest_time),
		cmocka_unit_test(a_peer_that_leaves_is_seen_behind_its_bytes),
		cmocka_unit_test(messages_from_another_thread_arrive_in_order),
		cmocka_unit_test(what_a_loop_that_stopped_has_not_read_can_be_run),
		cmocka_unit_test(what_comes_while_a_loop_that_stopped_is_run_is_run_too),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
