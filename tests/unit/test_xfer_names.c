/*
 * Names: how many are looked up at once, and who waits for whom. The resolver
 * is this program's own getaddrinfo(), which libcurl's threads find first: it
 * blocks while `held`, knows *.test as the loopback, and nothing else.
 */
#include "xfer-rig.h"

#include <dlfcn.h>
#include <netdb.h>

enum { AT_ONCE = 4, NAMES = 100 };

static struct {
	bool held;
	unsigned calls, running, most;
} resolver;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
	static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	size_t n = strlen(node);

	pthread_mutex_lock(&rig_lock);
	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
	resolver.calls++;
	resolver.running++;
	resolver.most = MAX(resolver.most, resolver.running);
	pthread_cond_broadcast(&rig_changed);
	while (resolver.held)
		pthread_cond_wait(&rig_changed, &rig_lock);
	resolver.running--;
	pthread_cond_broadcast(&rig_changed);
	pthread_mutex_unlock(&rig_lock);
	if (n < 5 || strcmp(node + n - 5, ".test") != 0)
		return EAI_NONAME;
	return real("127.0.0.1", service, hints, ret);
}

static struct cidr loopback = {{[10] = 0xff, [11] = 0xff, [12] = 127}, 104};
static struct job jobs[NAMES];

static int names_setup(void **state)
{
	(void)state;
	resolver.held = true;
	resolver.calls = resolver.running = resolver.most = 0;
	rig_setup_with(&(struct xfer_config){.max_idle = 0, .idle_ms = 60000, .lookups = AT_ONCE});
	return 0;
}

static void read_usage(void *arg)
{
	*(struct xfer_usage *)arg = xfer_usage(rig_xfer);
}

static struct xfer_usage usage_now(void)
{
	struct xfer_usage usage;

	on_loop(read_usage, &usage);
	return usage;
}

static int names_teardown(void **state)
{
	CHANGE(resolver.held = false);
	while (usage_now().lookups > 0)
		;
	return rig_teardown(state);
}

#define NAMES_TEST(f) cmocka_unit_test_setup_teardown(f, names_setup, names_teardown)

/* One to a host of a caller's choice, as a webhook's. */
static void job_to(struct job *j, const char *host, int port)
{
	char url[128];

	snprintf(url, sizeof url, "http://%s:%d/in", host, port);
	job_init(j, "POST", url, SLICE("{}"));
	j->e.guarded = true;
	j->e.allow = &loopback;
	j->e.n_allow = 1;
}

static void start_all(void *arg)
{
	(void)arg;
	for (int i = 0; i < NAMES; i++)
		start_job(&jobs[i]);
}

static void cancel_all(void *arg)
{
	(void)arg;
	for (int i = 0; i < NAMES; i++)
		cancel_job(&jobs[i]);
}

static void reset_jobs(void)
{
	for (int i = 0; i < NAMES; i++)
		jobs[i].calls = 0;
}

/* Start them all, `format` taking a number, until all wait for a look-up. */
static void start_names(const char *format, int port)
{
	for (int i = 0; i < NAMES; i++) {
		char host[64];

		snprintf(host, sizeof host, format, i);
		job_to(&jobs[i], host, port);
	}
	on_loop(start_all, NULL);
	while (usage_now().unresolved < NAMES)
		;
}

static void all_end(enum answer_end end, enum phase phase, int status)
{
	for (int i = 0; i < NAMES; i++) {
		job_wait(&jobs[i]);
		assert_int_equal(jobs[i].a.end, end);
		assert_int_equal(jobs[i].a.phase, phase);
		assert_int_equal(jobs[i].a.status, status);
		assert_int_equal(jobs[i].a.wrote, status != 0);
	}
}

static void many_names_are_looked_up_a_few_at_once(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);

	(void)state;
	start_names("h%d.test", d->port);
	WAIT_FOR(resolver.running == AT_ONCE);
	assert_int_equal(usage_now().lookups, AT_ONCE);
	CHANGE(resolver.held = false);
	all_end(ANSWER_COMPLETE, PHASE_RECEIVE, 200);
	assert_int_equal(resolver.most, AT_ONCE);
	assert_int_equal(resolver.calls, NAMES);
	downstream_free(d);
}

static void many_names_that_do_not_exist_fail_a_few_at_once(void **state)
{
	(void)state;
	start_names("h%d.invalid", 1);
	WAIT_FOR(resolver.running == AT_ONCE);
	CHANGE(resolver.held = false);
	all_end(ANSWER_NO_CONNECTION, PHASE_RESOLVE, 0);
	assert_string_equal(jobs[NAMES - 1].a.detail, "the host name does not resolve");
	assert_int_equal(resolver.most, AT_ONCE);
	assert_int_equal(resolver.calls, NAMES);
}

static void one_look_up_serves_all_that_wait_for_the_name(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);

	(void)state;
	start_names("same.test", d->port);
	WAIT_FOR(resolver.running == 1);
	CHANGE(resolver.held = false);
	all_end(ANSWER_COMPLETE, PHASE_RECEIVE, 200);
	assert_int_equal(resolver.calls, 1);
	reset_jobs();
	on_loop(start_all, NULL);
	all_end(ANSWER_COMPLETE, PHASE_RECEIVE, 200);
	assert_int_equal(resolver.calls, 1);
	downstream_free(d);
}

static void a_name_that_does_not_resolve_fails_all_that_wait_for_it(void **state)
{
	(void)state;
	start_names("same.invalid", 1);
	WAIT_FOR(resolver.running == 1);
	CHANGE(resolver.held = false);
	all_end(ANSWER_NO_CONNECTION, PHASE_RESOLVE, 0);
	assert_int_equal(resolver.calls, 1);
}

static void addresses_and_configured_names_do_not_wait_for_callers_names(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job address, odd, configured;

	(void)state;
	start_names("h%d.test", d->port);
	WAIT_FOR(resolver.running == AT_ONCE);
	job_to(&address, "127.0.0.1", d->port);
	job_run(&address);
	assert_int_equal(address.a.status, 200);
	job_to(&odd, "0x7f.1", d->port);
	job_run(&odd);
	assert_int_equal(odd.a.status, 200);
	job_to(&configured, "h99.test", d->port);
	configured.e.guarded = false;
	on_loop(start_job, &configured);
	WAIT_FOR(resolver.running == AT_ONCE + 1);
	CHANGE(resolver.held = false);
	job_wait(&configured);
	assert_int_equal(configured.a.status, 200);
	all_end(ANSWER_COMPLETE, PHASE_RECEIVE, 200);
	assert_int_equal(resolver.calls, NAMES);
	downstream_free(d);
}

/* What has begun keeps its place until its thread has ended. */
static void cancelled_ones_wrote_nothing_and_leave_only_what_had_begun(void **state)
{
	(void)state;
	for (int round = 0; round < 3; round++) {
		start_names(round == 0 ? "h%d.test" : "again%d.test", 1);
		WAIT_FOR(resolver.running == AT_ONCE);
		on_loop(cancel_all, NULL);
		all_end(ANSWER_CANCELLED, PHASE_RESOLVE, 0);
		assert_int_equal(usage_now().lookups, AT_ONCE);
	}
	CHANGE(resolver.held = false);
	while (usage_now().lookups > 0)
		;
	assert_int_equal(resolver.calls, AT_ONCE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		NAMES_TEST(many_names_are_looked_up_a_few_at_once),
		NAMES_TEST(many_names_that_do_not_exist_fail_a_few_at_once),
		NAMES_TEST(one_look_up_serves_all_that_wait_for_the_name),
		NAMES_TEST(a_name_that_does_not_resolve_fails_all_that_wait_for_it),
		NAMES_TEST(addresses_and_configured_names_do_not_wait_for_callers_names),
		NAMES_TEST(cancelled_ones_wrote_nothing_and_leave_only_what_had_begun),
	};

	return cmocka_run_group_tests_name("xfer_names", tests, rig_global_setup, rig_global_teardown);
}
