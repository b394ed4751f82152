/*
 * Names: how many are looked up at once, and who waits for whom. The resolver
 * is this program's own getaddrinfo(): it blocks while `held`, or for names that
 * begin with "dead" while `dead`; knows *.test as the loopback; *.again has a
 * name server that does not answer, *.broken one that fails; "flip.test" is
 * another address each time.
 */
#include "xfer-rig.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>

enum { THREADS = 8, AT_ONCE = 4, NAMES = 100, DEAD = 2 };

static struct {
	bool held, dead;
	unsigned calls, running, most, flips;
	bool no_thread, time_flies;
	bool threads_held;               /* threads that are made do not begin */
	unsigned threads;                /* made meanwhile */
} resolver;

static bool ends_with(const char *s, const char *tail)
{
	size_t n = strlen(s), t = strlen(tail);

	return n >= t && strcmp(s + n - t, tail) == 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
	static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	const char *address = "127.0.0.1";

	pthread_mutex_lock(&rig_lock);
	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
	resolver.calls++;
	resolver.running++;
	resolver.most = MAX(resolver.most, resolver.running);
	pthread_cond_broadcast(&rig_changed);
	while (resolver.held || (resolver.dead && strncmp(node, "dead", 4) == 0))
		pthread_cond_wait(&rig_changed, &rig_lock);
	if (strcmp(node, "flip.test") == 0 && resolver.flips++ % 2 == 1)
		address = "127.0.0.2";
	resolver.running--;
	pthread_cond_broadcast(&rig_changed);
	pthread_mutex_unlock(&rig_lock);
	if (ends_with(node, ".again"))
		return EAI_AGAIN;
	if (ends_with(node, ".broken"))
		return EAI_FAIL;
	if (!ends_with(node, ".test") && !ends_with(node, ".test."))
		return EAI_NONAME;
	return real(address, service, hints, ret);
}

/* The clock of libcurl's own cache. */
time_t time(time_t *ret)
{
	static time_t later;
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	later += resolver.time_flies ? 10 : 0;
	if (ret != NULL)
		*ret = ts.tv_sec + later;
	return ts.tv_sec + later;
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*run)(void *), void *arg);

static void *(*run_held)(void *);

static void *begin_late(void *arg)
{
	WAIT_FOR(!resolver.threads_held);
	return run_held(arg);
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	if (resolver.threads_held) {
		resolver.threads++;
		run_held = run;
		run = begin_late;
	}
	return resolver.no_thread ? EAGAIN : __real_pthread_create(t, attr, run, arg);
}

static struct cidr loopback = {{[10] = 0xff, [11] = 0xff, [12] = 127}, 104};
static struct cidr just_one = {{[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}, 128};
static struct job jobs[NAMES];
static struct xfer *other_xfer;

static struct xfer_names names_config = {
	.threads = THREADS, .queued = 10 * NAMES, .ttl_ms = 60000, .negative_ttl_ms = 60000, .thread_idle_ms = 60000};

static int names_setup(void **state)
{
	(void)state;
	memset(&resolver, 0, sizeof resolver);
	resolver.held = true;
	assert_int_equal(xfer_global_init(&names_config), 0);
	rig_setup_with(&(struct xfer_config){.max_idle = 0, .idle_ms = 60000});
	other_xfer = NULL;
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
	CHANGE(resolver.held = resolver.dead = resolver.threads_held = false);
	while (usage_now().lookups > 0)
		;
	rig_teardown(state);
	xfer_global_free();
	return 0;
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

/* One to a host that the configuration names. */
static void job_configured(struct job *j, unsigned service, const char *host, int port)
{
	job_to(j, host, port);
	j->e.guarded = false;
	j->e.service = service;
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

/* `format` takes a number; jobs are spread over so many services. */
static void init_names(const char *format, int port, unsigned services)
{
	for (int i = 0; i < NAMES; i++) {
		char host[64];

		snprintf(host, sizeof host, format, i);
		job_to(&jobs[i], host, port);
		jobs[i].e.service = (unsigned)i % services;
	}
}

/* Start them all until all wait for a look-up. */
static void start_names(const char *format, int port)
{
	init_names(format, port, 1);
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

static void expect_metric(const char *line)
{
	struct buf out = {0};

	xfer_metrics_render(&out);
	buf_add_char(&out, '\0');
	if (strstr(out.p, line) == NULL)
		fail_msg("no %s in\n%s", line, out.p);
	buf_free(&out);
}

static void many_names_are_looked_up_a_few_at_once(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);

	(void)state;
	start_names("h%d.test", d->port);
	WAIT_FOR(resolver.running == AT_ONCE);
	assert_int_equal(usage_now().lookups, NAMES);
	expect_metric("settled_name_lookups_running 4\n");
	expect_metric("settled_name_lookups_waiting 96\n");
	CHANGE(resolver.held = false);
	all_end(ANSWER_COMPLETE, PHASE_RECEIVE, 200);
	assert_int_equal(resolver.most, AT_ONCE);
	assert_int_equal(resolver.calls, NAMES);
	expect_metric("settled_name_lookups_total{result=\"found\"} 100\n");
	expect_metric("settled_name_lookup_duration_seconds_count 100\n");
	expect_metric("settled_name_lookups_waiting 0\n");
	downstream_free(d);
}

/* Many names may come before the first thread begins. */
static void no_more_threads_are_made_than_look_up_names(void **state)
{
	(void)state;
	CHANGE(resolver.threads_held = true);
	start_names("h%d.invalid", 1);
	assert_int_equal(resolver.threads, 1);
	CHANGE(resolver.threads_held = false);
	WAIT_FOR(resolver.running == AT_ONCE);
	CHANGE(resolver.held = false);
	all_end(ANSWER_NO_CONNECTION, PHASE_RESOLVE, 0);
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

static void start_on_other(void *arg)
{
	struct job *j = arg;

	if (other_xfer == NULL)
		other_xfer = xfer_new(rig_loop, &(struct xfer_config){.max_idle = 0, .idle_ms = 60000});
	j->t = xfer_start(other_xfer, &j->e, on_job_done, j);
}

static void free_other(void *arg)
{
	(void)arg;
	xfer_free(STEAL_PTR(other_xfer));
}

/* Of all shards, and of all services. */
static void one_look_up_serves_the_whole_process(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job first, second, third;

	(void)state;
	job_to(&first, "Same.test", d->port);
	job_to(&second, "same.TEST", d->port);
	job_configured(&third, 7, "same.test", d->port);
	on_loop(start_job, &first);
	on_loop(start_on_other, &second);
	on_loop(start_job, &third);
	while (usage_now().unresolved < 2)
		;
	CHANGE(resolver.held = false);
	job_wait(&first);
	job_wait(&second);
	job_wait(&third);
	assert_int_equal(first.a.status + second.a.status + third.a.status, 600);
	assert_int_equal(resolver.calls, 1);
	on_loop(free_other, NULL);
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
	reset_jobs();
	on_loop(start_all, NULL);
	all_end(ANSWER_NO_CONNECTION, PHASE_RESOLVE, 0);
	assert_int_equal(resolver.calls, 1);
}

static void expect_fault(const char *host, const char *detail, const char *metric)
{
	struct job j;

	job_to(&j, host, 1);
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_NO_CONNECTION);
	assert_int_equal(j.a.phase, PHASE_RESOLVE);
	assert_string_equal(j.a.detail, detail);
	expect_metric(metric);
}

static void what_is_wrong_with_a_name_is_said(void **state)
{
	(void)state;
	CHANGE(resolver.held = false);
	expect_fault("h.invalid", "the host name does not resolve", "{result=\"not_found\"} 1\n");
	expect_fault("h.again", "the name server gave no answer in time", "{result=\"no_answer\"} 1\n");
	expect_fault("h.broken", "the host name could not be looked up", "{result=\"failed\"} 1\n");
}

static void without_a_thread_a_look_up_fails_and_the_next_may_not(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;

	(void)state;
	CHANGE(resolver.held = false);
	resolver.no_thread = true;
	expect_fault("h.test", "the host name could not be looked up", "{result=\"failed\"} 1\n");
	resolver.no_thread = false;
	job_to(&j, "h.test", d->port);
	job_run(&j);
	assert_int_equal(j.a.status, 200);
	downstream_free(d);
}

static void run_to(const char *host, int port, struct cidr *allow)
{
	job_to(&jobs[0], host, port);
	jobs[0].e.allow = allow;
	job_run(&jobs[0]);
}

/* libcurl's own cache, which knows host and port, is out of the way. */
static void restart_xfer(void)
{
	rig_teardown(NULL);
	rig_setup_with(&(struct xfer_config){.max_idle = 0, .idle_ms = 60000});
}

static void an_answer_is_kept_for_its_time(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);

	(void)state;
	CHANGE(resolver.held = false);
	for (unsigned round = 0; round < 2; round++) {
		run_to("h.test", d->port, &loopback);
		assert_int_equal(jobs[0].a.status, 200);
		run_to("h.invalid", d->port, &loopback);
		restart_xfer();
		assert_int_equal(resolver.calls, 2);
	}
	xfer_names_configure(&(struct xfer_names){.threads = 1, .queued = 1, .thread_idle_ms = 60000});
	for (unsigned round = 0; round < 3; round++) {
		run_to("i.test", d->port, &loopback);
		assert_int_equal(jobs[0].a.status, 200);
		run_to("i.invalid", d->port, &loopback);
		restart_xfer();
		assert_int_equal(resolver.calls, 4 + 2 * round);
	}
	downstream_free(d);
}

static void a_fault_is_kept_for_a_time_of_its_own(void **state)
{
	struct xfer_names brief = names_config;

	(void)state;
	brief.negative_ttl_ms = 0;
	xfer_names_configure(&brief);
	CHANGE(resolver.held = false);
	for (unsigned round = 1; round <= 3; round++) {
		run_to("h.invalid", 1, &loopback);
		run_to("h.again", 1, &loopback);
		assert_int_equal(resolver.calls, 2 * round);
	}
}

static void start_two(void *arg)
{
	(void)arg;
	start_job(&jobs[0]);
	start_job(&jobs[1]);
}

/* One idle thread is there, and what it takes hangs: the other gets a new one. */
static void what_comes_at_once_does_not_wait_for_one_idle_thread(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 20; round++) {
		char host[2][32];

		CHANGE(resolver.held = false);
		snprintf(host[0], sizeof host[0], "warm%u.invalid", round);
		run_to(host[0], 1, &loopback);
		CHANGE(resolver.held = true);
		for (unsigned i = 0; i < 2; i++) {
			snprintf(host[i], sizeof host[i], "%u-%u.invalid", round, i);
			job_to(&jobs[i], host[i], 1);
		}
		on_loop(start_two, NULL);
		WAIT_FOR(resolver.running == 2);
		CHANGE(resolver.held = false);
		job_wait(&jobs[0]);
		job_wait(&jobs[1]);
		xfer_global_free();
		assert_int_equal(xfer_global_init(&names_config), 0);
	}
}

static void a_name_that_changes_does_not_get_past_the_guard(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);

	(void)state;
	CHANGE(resolver.held = false);
	xfer_names_configure(&(struct xfer_names){.threads = 1, .queued = 1, .thread_idle_ms = 60000});
	for (unsigned round = 0; round < 6; round++) {
		run_to("flip.test", d->port, &just_one);
		assert_int_equal(jobs[0].a.end, round % 2 == 0 ? ANSWER_COMPLETE : ANSWER_FORBIDDEN);
		restart_xfer();
	}
	assert_int_equal(resolver.flips, 6);
	assert_int_equal(d->n_peers, 3);
	downstream_free(d);
}

static void addresses_and_configured_names_do_not_wait_for_callers_names(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job address, odd, configured, dotted;

	(void)state;
	start_names("h%d.test", d->port);
	WAIT_FOR(resolver.running == AT_ONCE);
	job_to(&address, "127.0.0.1", d->port);
	job_run(&address);
	assert_int_equal(address.a.status, 200);
	job_to(&odd, "0x7f.1", d->port);
	job_run(&odd);
	assert_int_equal(odd.a.status, 200);
	job_to(&odd, "localhost", d->port);
	job_run(&odd);
	assert_int_equal(odd.a.status, 200);
	job_configured(&configured, 0, "h99.test", d->port);
	on_loop(start_job, &configured);
	WAIT_FOR(resolver.running == AT_ONCE + 1);
	CHANGE(resolver.held = false);
	job_wait(&configured);
	assert_int_equal(configured.a.status, 200);
	all_end(ANSWER_COMPLETE, PHASE_RECEIVE, 200);
	assert_int_equal(resolver.calls, NAMES);
	job_to(&dotted, "h0.test.", d->port);
	job_run(&dotted);
	assert_int_equal(dotted.a.status, 200);
	downstream_free(d);
}

/* Many names each, of several services and of the configuration. */
static void names_that_hang_leave_threads_for_other_services(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job healthy, own[DEAD], fine;

	(void)state;
	CHANGE(resolver.held = false; resolver.dead = true);
	init_names("dead%d.test", 1, DEAD);
	on_loop(start_all, NULL);
	WAIT_FOR(resolver.running == THREADS - 2);
	for (unsigned i = 0; i < DEAD; i++) {
		job_configured(&own[i], 10 + i, i == 0 ? "dead-a.test" : "dead-b.test", 1);
		on_loop(start_job, &own[i]);
	}
	WAIT_FOR(resolver.running == THREADS - 2 + DEAD);
	for (int i = 0; i < 50; i++) {
		char host[32];

		snprintf(host, sizeof host, "fine%d.test", i);
		job_to(&healthy, host, d->port);
		healthy.e.service = 5;
		job_run(&healthy);
		assert_int_equal(healthy.a.status, 200);
		snprintf(host, sizeof host, "own%d.test", i);
		job_configured(&fine, 20, host, d->port);
		job_run(&fine);
		assert_int_equal(fine.a.status, 200);
	}
	assert_int_equal(resolver.running, THREADS - 2 + DEAD);
	on_loop(cancel_all, NULL);
	all_end(ANSWER_CANCELLED, PHASE_RESOLVE, 0);
	for (unsigned i = 0; i < DEAD; i++) {
		on_loop(cancel_job, &own[i]);
		job_wait(&own[i]);
	}
	CHANGE(resolver.dead = false);
	WAIT_FOR(resolver.running == 0);
	downstream_free(d);
}

/* However often that happens, it does not go on for ever. */
static void an_address_that_libcurl_forgets_at_once_is_told_again_a_few_times(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;

	(void)state;
	CHANGE(resolver.held = false);
	resolver.time_flies = true;
	job_to(&j, "h.test", d->port);
	job_run(&j);
	resolver.time_flies = false;
	assert_int_equal(j.a.end, ANSWER_NO_CONNECTION);
	assert_int_equal(j.a.phase, PHASE_RESOLVE);
	assert_string_equal(j.a.detail, "the host's addresses went out of date before they were used");
	assert_int_equal(resolver.calls, 1);
	downstream_free(d);
}

static unsigned count_ended(void)
{
	unsigned n = 0;

	pthread_mutex_lock(&rig_lock);
	for (int i = 0; i < NAMES; i++)
		n += jobs[i].calls;
	pthread_mutex_unlock(&rig_lock);
	return n;
}

/* Half of the room for one service, half of the rest for the next. */
static void the_queue_is_bounded_and_shared(void **state)
{
	unsigned refused;
	struct job other;
	char metric[64];

	(void)state;
	xfer_names_configure(&(struct xfer_names){.threads = THREADS, .queued = 40, .ttl_ms = 60000, .thread_idle_ms = 60000});
	init_names("h%d.test", 1, 1);
	on_loop(start_all, NULL);
	WAIT_FOR(resolver.running == AT_ONCE);
	while (count_ended() + usage_now().unresolved < NAMES)
		;
	refused = count_ended();
	for (int i = 0; i < NAMES; i++) {
		if (jobs[i].calls == 0)
			continue;
		assert_int_equal(jobs[i].a.end, ANSWER_NO_CONNECTION);
		assert_int_equal(jobs[i].a.phase, PHASE_RESOLVE);
		assert_string_equal(jobs[i].a.detail, "too many host names of this service wait to be looked up");
	}
	/* What had begun made room while the others came. */
	assert_in_range(refused, NAMES - AT_ONCE - 20, NAMES - 20);
	snprintf(metric, sizeof metric, "settled_name_lookups_waiting %u\n", NAMES - AT_ONCE - refused);
	expect_metric(metric);
	job_to(&other, "other.test", 1);
	other.e.service = 1;
	on_loop(start_job, &other);
	while (usage_now().unresolved < NAMES - refused + 1)
		;
	assert_int_equal(other.calls, 0);
	CHANGE(resolver.held = false);
	for (int i = 0; i < NAMES; i++)
		job_wait(&jobs[i]);
	job_wait(&other);
}

static void cancelled_ones_wrote_nothing_and_leave_only_what_had_begun(void **state)
{
	(void)state;
	for (int round = 0; round < 3; round++) {
		start_names(round == 0 ? "h%d.test" : "again%d.test", 1);
		WAIT_FOR(resolver.running == AT_ONCE);
		on_loop(cancel_all, NULL);
		all_end(ANSWER_CANCELLED, PHASE_RESOLVE, 0);
		assert_int_equal(usage_now().lookups, 0);
		expect_metric("settled_name_lookups_running 4\n");
		expect_metric("settled_name_lookups_waiting 0\n");
	}
	CHANGE(resolver.held = false);
	WAIT_FOR(resolver.running == 0);
	assert_int_equal(resolver.calls, AT_ONCE);
}

static void let_go_and_cancel(void *arg)
{
	CHANGE(resolver.held = false);
	/* So long that answers are posted while this loop is busy. */
	WAIT_FOR(resolver.running == 0);
	cancel_all(arg);
}

/* Both at once: the loop is told the answers when nobody wants them any more. */
static void a_cancel_may_meet_the_answer(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		CHANGE(resolver.held = true);
		start_names("same.test", 1);
		WAIT_FOR(resolver.running == 1);
		on_loop(let_go_and_cancel, NULL);
		all_end(ANSWER_CANCELLED, PHASE_RESOLVE, 0);
		while (usage_now().lookups > 0)
			;
		xfer_global_free();
		assert_int_equal(xfer_global_init(&names_config), 0);
	}
}

static unsigned count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned n = 0;

	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

static void threads_without_work_end(void **state)
{
	unsigned at_first = count_threads();
	struct xfer_names brief = names_config;

	(void)state;
	brief.thread_idle_ms = 1;
	xfer_names_configure(&brief);
	for (int round = 0; round < 3; round++) {
		CHANGE(resolver.held = true);
		start_names(round == 0 ? "a%d.invalid" : round == 1 ? "b%d.invalid" : "c%d.invalid", 1);
		WAIT_FOR(resolver.running == AT_ONCE);
		CHANGE(resolver.held = false);
		all_end(ANSWER_NO_CONNECTION, PHASE_RESOLVE, 0);
		while (count_threads() > at_first)
			;
	}
}

/* The thread gives up waiting in the moment that it gets something to do. */
static void a_thread_that_ends_leaves_nothing_undone(void **state)
{
	struct xfer_names none = names_config;

	(void)state;
	CHANGE(resolver.held = false);
	for (unsigned round = 0; round < 2000; round++) {
		char host[32];

		none.thread_idle_ms = round % 2;
		xfer_names_configure(&none);
		snprintf(host, sizeof host, "h%u.invalid", round);
		run_to(host, 1, &loopback);
	}
	assert_int_equal(resolver.calls, 2000);
}

/* A process that ends does not wait for a name server. */
static void a_look_up_that_hangs_does_not_hold_the_end(void **state)
{
	unsigned at_first = count_threads() - 1;

	(void)state;
	start_names("h%d.test", 1);
	WAIT_FOR(resolver.running == AT_ONCE);
	on_loop(cancel_all, NULL);
	all_end(ANSWER_CANCELLED, PHASE_RESOLVE, 0);
	loop_stop(rig_loop);
	pthread_join(rig_thread, NULL);
	xfer_free(rig_xfer);
	assert_int_equal(loop_usage(rig_loop).fds, 0);
	assert_int_equal(loop_usage(rig_loop).timers, 0);
	loop_free(rig_loop);
	xfer_global_free();
	CHANGE(resolver.held = false);
	WAIT_FOR(resolver.running == 0);
	while (count_threads() > at_first)
		;
	names_setup(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		NAMES_TEST(many_names_are_looked_up_a_few_at_once),
		NAMES_TEST(no_more_threads_are_made_than_look_up_names),
		NAMES_TEST(many_names_that_do_not_exist_fail_a_few_at_once),
		NAMES_TEST(one_look_up_serves_all_that_wait_for_the_name),
		NAMES_TEST(one_look_up_serves_the_whole_process),
		NAMES_TEST(a_name_that_does_not_resolve_fails_all_that_wait_for_it),
		NAMES_TEST(what_is_wrong_with_a_name_is_said),
		NAMES_TEST(without_a_thread_a_look_up_fails_and_the_next_may_not),
		NAMES_TEST(an_answer_is_kept_for_its_time),
		NAMES_TEST(a_fault_is_kept_for_a_time_of_its_own),
		NAMES_TEST(what_comes_at_once_does_not_wait_for_one_idle_thread),
		NAMES_TEST(a_name_that_changes_does_not_get_past_the_guard),
		NAMES_TEST(addresses_and_configured_names_do_not_wait_for_callers_names),
		NAMES_TEST(names_that_hang_leave_threads_for_other_services),
		NAMES_TEST(an_address_that_libcurl_forgets_at_once_is_told_again_a_few_times),
		NAMES_TEST(the_queue_is_bounded_and_shared),
		NAMES_TEST(cancelled_ones_wrote_nothing_and_leave_only_what_had_begun),
		NAMES_TEST(a_cancel_may_meet_the_answer),
		NAMES_TEST(threads_without_work_end),
		NAMES_TEST(a_thread_that_ends_leaves_nothing_undone),
		NAMES_TEST(a_look_up_that_hangs_does_not_hold_the_end),
	};

	return cmocka_run_group_tests_name("xfer_names", tests, NULL, NULL);
}
