/* The process as a whole: what it plans for, and how it ends when a shard does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app/app-i.h"

static struct config config_of(unsigned shards, unsigned connections, unsigned in_flight)
{
	return (struct config){.shards = shards, .names.threads = 16,
			       .limits = {.connections = connections, .in_flight = in_flight}};
}

static void caps_that_fit_stay(void **state)
{
	struct config c = config_of(2, 10000, 4096);

	(void)state;
	assert_false(limits_fit(&c, 64 + 4 * 16 + 2 * 8 + 10000 + 2 * 4096));
	assert_int_equal(c.limits.connections, 10000);
	assert_int_equal(c.limits.in_flight, 4096);
	assert_true(limits_fit(&c, 64 + 4 * 16 + 2 * 8 + 10000 + 2 * 4096 - 1));
}

static void caps_never_exceed_the_descriptors_and_keep_their_proportion(void **state)
{
	(void)state;
	for (unsigned shards = 1; shards <= 64; shards++) {
		unsigned fixed = 64 + 4 * 16 + shards * 8;

		for (unsigned fds = fixed + 4 * shards; fds < fixed + 6000; fds += 97) {
			struct config c = config_of(shards, 6000 * shards, 2000);

			assert_true(limits_fit(&c, fds) == (fds < fixed + 8000 * shards));
			assert_true(fixed + c.limits.connections + shards * c.limits.in_flight <= fds ||
				    fds >= fixed + 8000 * shards);
			assert_in_range(c.limits.connections, 3 * shards * c.limits.in_flight,
					3 * shards * (c.limits.in_flight + 1));
		}
	}
}

static void each_shard_keeps_one_connection_and_one_attempt(void **state)
{
	struct config c = config_of(4, UINT32_MAX, UINT32_MAX);

	(void)state;
	assert_true(limits_fit(&c, 20));
	assert_int_equal(c.limits.connections, 4);
	assert_int_equal(c.limits.in_flight, 1);
}

/* A dispatcher that never comes to its end, and time that flies once it should. */
static atomic_uint cancelled;

void __real_dispatch_drain(struct dispatch *d, void (*on_idle)(void *arg), void *arg);
void __wrap_dispatch_drain(struct dispatch *d, void (*on_idle)(void *arg), void *arg);
void __wrap_dispatch_cancel_all(struct dispatch *d, enum why why);
int __real_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret);
int __real_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms);

static void never(void *arg)
{
	(void)arg;
}

void __wrap_dispatch_drain(struct dispatch *d, void (*on_idle)(void *arg), void *arg)
{
	(void)on_idle;
	__real_dispatch_drain(d, never, arg);
}

void __wrap_dispatch_cancel_all(struct dispatch *d, enum why why)
{
	(void)d;
	(void)why;
	cancelled++;
}

int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
	int err = __real_clock_gettime(id, ret);

	if (cancelled > 0)
		ret->tv_sec += 20 * cancelled++;
	return err;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int ms)
{
	return __real_poll(p, n, ms < 0 ? 10 : MIN(ms, 10));
}

static void after_a_reload_attempts_alone_give_way(void **state)
{
	struct config c = {.shards = 2, .names = {.threads = 16}, .limits = {.connections = 1000, .in_flight = 5000}};

	(void)state;
	limits_fit_in_flight(&c, 1 << 20);
	assert_int_equal(c.limits.in_flight, 5000);
	limits_fit_in_flight(&c, 4000);
	assert_int_equal(c.limits.connections, 1000);
	assert_true(c.limits.in_flight > 1000 && c.limits.in_flight < 1500);
	limits_fit_in_flight(&c, 10);
	assert_int_equal(c.limits.in_flight, 1);
}

/* Serve until the test's signal; the log goes to `log_fd`. */
static NORETURN void serve_in_child(int log_fd)
{
	char path[] = "/tmp/settled-test-XXXXXX";
	const char *text = "listen: 127.0.0.1:0\nshards: 2\nlimits: {drain_ms: 0}\n";
	int fd = mkstemp(path);
	struct buf err = {0};
	struct config *c;

	if (write(fd, text, strlen(text)) < 0)
		_exit(3);
	c = config_load(path, &err);
	unlink(path);
	dup2(log_fd, STDERR_FILENO);
	_exit(c == NULL ? 3 : app_run(NULL, c, "test"));
}

static void a_shard_that_does_not_stop_ends_the_process_with_a_word(void **state)
{
	char line[1024], all[8192] = "";
	int fds[2], status;
	pid_t child;
	FILE *log;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	fflush(stdout);
	child = fork();
	if (child == 0)
		serve_in_child(fds[1]);
	close(fds[1]);
	log = fdopen(fds[0], "r");
	while (fgets(line, sizeof line, log) != NULL) {
		strncat(all, line, sizeof all - strlen(all) - 1);
		if (strstr(line, "event=listening") != NULL)
			kill(child, SIGTERM);
	}
	fclose(log);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	assert_non_null(strstr(all, "level=error event=stop_failed shards=2"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(caps_that_fit_stay),
		cmocka_unit_test(caps_never_exceed_the_descriptors_and_keep_their_proportion),
		cmocka_unit_test(each_shard_keeps_one_connection_and_one_attempt),
		cmocka_unit_test(after_a_reload_attempts_alone_give_way),
		cmocka_unit_test(a_shard_that_does_not_stop_ends_the_process_with_a_word),
	};

	return cmocka_run_group_tests_name("app", tests, NULL, NULL);
}
