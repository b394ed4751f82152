#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "obs/log.h"
#include "obs/metrics.h"

/* Standard error goes to a pipe between capture() and captured(). */
static int kept_fd, pipe_fds[2];
static char text[65536];

static void capture(void)
{
	assert_int_equal(pipe(pipe_fds), 0);
	kept_fd = dup(STDERR_FILENO);
	dup2(pipe_fds[1], STDERR_FILENO);
	close(pipe_fds[1]);
}

static size_t captured(void)
{
	size_t n = 0;
	ssize_t got;

	dup2(kept_fd, STDERR_FILENO);
	close(kept_fd);
	while ((got = read(pipe_fds[0], text + n, sizeof text - 1 - n)) > 0)
		n += (size_t)got;
	close(pipe_fds[0]);
	text[n] = '\0';
	return n;
}

/* What follows the time stamp and the level. */
static const char *after_event(const char *line)
{
	const char *p = strstr(line, "event");

	assert_non_null(p);
	return p;
}

static void a_line_has_time_level_event_and_fields(void **state)
{
	int y, mo, d, h, mi, s, ms, end = 0;

	(void)state;
	log_init(LOG_LOGFMT, LOG_INFO);
	capture();
	errno = 77;
	log_event(LOG_INFO, "batch_done", LOG_STR("batch", "b_1"), LOG_INT("items", -12));
	assert_int_equal(errno, 77);
	log_event(LOG_WARN, "bare");
	captured();
	assert_int_equal(sscanf(text, "ts=%4d-%2d-%2dT%2d:%2d:%2d.%3dZ level=info %n", &y, &mo, &d, &h,
	                        &mi, &s, &ms, &end), 7);
	assert_int_equal(end, 39);
	assert_true(y >= 2024 && mo >= 1 && mo <= 12 && d >= 1 && d <= 31);
	assert_memory_equal(text + end, "event=batch_done batch=b_1 items=-12\nts=", 40);
	assert_non_null(strstr(text, " level=warn event=bare\n"));
}

static void a_reader_that_stops_blocks_nobody(void **state)
{
	char page[4096];
	int lines = 0;

	(void)state;
	capture();
	log_init(LOG_LOGFMT, LOG_INFO);
	/* More than a pipe holds: without the look before it, this would never return. */
	for (int i = 0; i < 3000; i++)
		log_event(LOG_INFO, "flood", LOG_INT("i", i));
	for (int i = 0; i < 8; i++)
		assert_true(read(pipe_fds[0], page, sizeof page) > 0);
	log_event(LOG_INFO, "after");
	captured();
	log_init(LOG_LOGFMT, LOG_INFO);
	assert_non_null(strstr(text, "level=warn event=log_lines_dropped lines="));
	assert_non_null(strstr(text, "event=after\n"));
	for (const char *p = text; (p = strstr(p, "event=log_lines_dropped")) != NULL; p++)
		lines++;
	assert_int_equal(lines, 1);
}

static void the_time_is_the_clocks(void **state)
{
	struct timespec before, after;
	char a[32], b[32];

	(void)state;
	log_init(LOG_LOGFMT, LOG_INFO);
	capture();
	clock_gettime(CLOCK_REALTIME, &before);
	log_event(LOG_INFO, "now");
	clock_gettime(CLOCK_REALTIME, &after);
	captured();
	strftime(a, sizeof a, "ts=%Y-%m-%dT%H:%M:%S", gmtime(&before.tv_sec));
	strftime(b, sizeof b, "ts=%Y-%m-%dT%H:%M:%S", gmtime(&after.tv_sec));
	assert_true(strncmp(text, a, strlen(a)) >= 0 && strncmp(text, b, strlen(b)) <= 0);
}

static void levels_below_the_threshold_are_silent(void **state)
{
	(void)state;
	log_init(LOG_LOGFMT, LOG_WARN);
	capture();
	log_event(LOG_DEBUG, "a");
	log_event(LOG_INFO, "b");
	assert_false(log_wants(LOG_INFO));
	assert_true(log_wants(LOG_ERROR));
	assert_int_equal(captured(), 0);
}

static void logfmt_quotes_only_what_needs_it(void **state)
{
	(void)state;
	log_init(LOG_LOGFMT, LOG_INFO);
	capture();
	log_event(LOG_INFO, "e", LOG_STR("plain", "a/b:c"), LOG_STR("empty", ""), LOG_STR("none", NULL),
	          LOG_STR("space", "a b"), LOG_STR("eq", "a=b"), LOG_STR("quote", "a\"\\"),
	          LOG_STR("ctl", "\n\r\t\x1b\x7f"), LOG_STR("utf8", "é"), LOG_STR("bad", "\xff\xc3"),
	          LOG_STR("c1", "\xc2\x9b"));
	captured();
	assert_string_equal(after_event(text),
	                    "event=e plain=a/b:c empty=\"\" none=\"\" space=\"a b\" eq=\"a=b\" "
	                    "quote=\"a\\\"\\\\\" ctl=\"\\n\\r\\t\\u001b\\u007f\" utf8=\"é\" "
	                    "bad=\"\\xff\\xc3\" c1=\"\\u009b\"\n");
}

static void json_lines_hold_strings_and_numbers(void **state)
{
	(void)state;
	log_init(LOG_JSON, LOG_INFO);
	capture();
	log_event(LOG_ERROR, "e", LOG_STR("s", "a \"b\"\n"), LOG_INT("n", INT64_MIN),
	          LOG_SLICE("nul", ((struct slice){"a\0b", 3})), LOG_STR("bad", "\xe0\x80\xed\xa0\xf0\x9f\x98\x80"));
	captured();
	assert_int_equal(strncmp(text, "{\"ts\":\"2", 8), 0);
	assert_string_equal(strstr(text, "\"level\""),
	                    "\"level\":\"error\",\"event\":\"e\",\"s\":\"a \\\"b\\\"\\n\","
	                    "\"n\":-9223372036854775808,\"nul\":\"a\\u0000b\","
	                    "\"bad\":\"\\\\xe0\\\\x80\\\\xed\\\\xa0\xf0\x9f\x98\x80\"}\n");
}

static void a_long_value_is_cut_at_a_character_and_marked(void **state)
{
	char value[3001], want[1100];

	(void)state;
	log_init(LOG_LOGFMT, LOG_INFO);
	for (size_t i = 0; i < 3000; i += 3)
		memcpy(value + i, "€", 4);
	capture();
	log_event(LOG_INFO, "e", LOG_STR("v", value), LOG_INT("next", 1));
	captured();
	snprintf(want, sizeof want, "event=e v=\"%.*s [cut: 3000 bytes]\" next=1\n", 1023, value);
	assert_string_equal(after_event(text), want);
}

static void a_line_never_outgrows_its_buffer(void **state)
{
	char value[2001];
	struct slice v = {value, 2000};

	(void)state;
	memset(value, 1, sizeof value);
	for (int format = LOG_LOGFMT; format <= LOG_JSON; format++) {
		log_init((enum log_format)format, LOG_INFO);
		capture();
		log_event(LOG_INFO, "e", LOG_SLICE("a", v), LOG_SLICE("b", v), LOG_SLICE("c", v),
		          LOG_SLICE("d", v), LOG_SLICE("f", v), LOG_INT("last", 1));
		assert_true(captured() <= PIPE_BUF);
		assert_null(strstr(text, "d="));
		assert_string_equal(strstr(text, "last"),
		                    format == LOG_JSON ? "last\":1,\"cut\":true}\n" : "last=1 cut=true\n");
	}
}

/* One byte more each time, so that every end of the buffer is met. */
static void every_length_of_line_ends_whole(void **state)
{
	char value[1025];

	(void)state;
	memset(value, 'x', sizeof value);
	log_init(LOG_JSON, LOG_INFO);
	for (size_t n = 700; n <= 1024; n++) {
		struct slice v = {value, n};
		size_t got;

		capture();
		log_event(LOG_INFO, "e", LOG_SLICE("a", v), LOG_SLICE("b", v), LOG_SLICE("c", v), LOG_SLICE("d", v));
		got = captured();
		assert_true(got <= PIPE_BUF);
		assert_int_equal(strcmp(text + got - 2, "}\n"), 0);
		assert_true(text[got - 3] == '"' || strcmp(text + got - 13, ",\"cut\":true}\n") == 0);
	}
}

static void *write_lines(void *arg)
{
	(void)arg;
	for (int i = 0; i < 50; i++)
		log_event(LOG_INFO, "line", LOG_STR("v", "0123456789 0123456789"));
	return NULL;
}

static void lines_of_several_threads_do_not_mix(void **state)
{
	pthread_t threads[4];
	unsigned lines = 0;

	(void)state;
	log_init(LOG_LOGFMT, LOG_INFO);
	capture();
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	captured();
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		assert_int_equal(strncmp(line, "ts=", 3), 0);
		assert_string_equal(after_event(line), "event=line v=\"0123456789 0123456789\"");
		lines++;
	}
	assert_int_equal(lines, 200);
}

enum { PLAIN, ONE, TWO, LEVEL, TIME, TIMES };
static const char *const colours[] = {"red", "a\"b\\c\nd"};
static const char *const sizes[] = {"s", "m", "l"};
#define COLOUR {"colour", colours, 2}
#define SIZE {"size", sizes, 3}

static const struct metric_def defs[] = {
	[PLAIN] = {"plain_total", "Plain\nand \\ simple.", METRIC_COUNTER, {{0}}},
	[ONE] = {"one_total", "One label.", METRIC_COUNTER, {COLOUR}},
	[TWO] = {"two_total", "Two labels.", METRIC_COUNTER, {COLOUR, SIZE}},
	[LEVEL] = {"level", "A gauge.", METRIC_GAUGE, {{0}}},
	[TIME] = {"time_seconds", "A histogram.", METRIC_HISTOGRAM, {{0}}},
	[TIMES] = {"times_seconds", "Labelled.", METRIC_HISTOGRAM, {COLOUR, SIZE}},
};

static char *render(const struct metrics *m)
{
	struct buf out = {0};

	metrics_render(m, &out);
	buf_add_char(&out, '\0');
	assert_false(out.failed);
	return out.p;
}

static void counters_sum_the_shards_and_skip_idle_pairs(void **state)
{
	struct metrics *m = metrics_new(defs, TIME, 3);
	char *got;

	(void)state;
	assert_non_null(m);
	for (unsigned shard = 0; shard < 3; shard++) {
		meter_add((struct meter){m, shard}, PLAIN, 0, 0, 5);
		meter_set((struct meter){m, shard}, LEVEL, 0, 0, shard + 1);
	}
	meter_add((struct meter){m, 2}, ONE, 1, 0, 7);
	meter_add((struct meter){m, 0}, TWO, 1, 2, 1);
	meter_add((struct meter){m, 0}, LEVEL, 0, 0, -9);
	assert_int_equal(metrics_read(m, PLAIN, 0, 0), 15);
	assert_int_equal(metrics_read(m, ONE, 1, 0), 7);
	assert_int_equal(metrics_read(m, TWO, 1, 2), 1);
	assert_int_equal(metrics_read(m, TWO, 0, 0), 0);
	assert_int_equal(metrics_read(m, LEVEL, 0, 0), -3);
	got = render(m);
	assert_string_equal(got,
	                    "# HELP plain_total Plain\\nand \\\\ simple.\n# TYPE plain_total counter\nplain_total 15\n"
	                    "# HELP one_total One label.\n# TYPE one_total counter\n"
	                    "one_total{colour=\"red\"} 0\none_total{colour=\"a\\\"b\\\\c\\nd\"} 7\n"
	                    "# HELP two_total Two labels.\n# TYPE two_total counter\n"
	                    "two_total{colour=\"a\\\"b\\\\c\\nd\",size=\"l\"} 1\n"
	                    "# HELP level A gauge.\n# TYPE level gauge\nlevel -3\n");
	free(got);
	metrics_free(m);
}

static void a_histogram_is_cumulative_and_in_seconds(void **state)
{
	struct metrics *m = metrics_new(defs, ARRAY_LEN(defs), 2);
	char *got;

	(void)state;
	assert_non_null(m);
	meter_observe_us((struct meter){m, 0}, TIME, 0, 0, 500);
	meter_observe_us((struct meter){m, 1}, TIME, 0, 0, 501);
	meter_observe_us((struct meter){m, 1}, TIME, 0, 0, 61000000);
	meter_observe_us((struct meter){m, 1}, TIMES, 1, 1, 7);
	got = render(m);
	assert_non_null(strstr(got, "# TYPE time_seconds histogram\ntime_seconds_bucket{le=\"0.0005\"} 1\n"
	                            "time_seconds_bucket{le=\"0.001\"} 2\n"));
	assert_non_null(strstr(got, "time_seconds_bucket{le=\"60\"} 2\ntime_seconds_bucket{le=\"+Inf\"} 3\n"
	                            "time_seconds_sum 61.001001\ntime_seconds_count 3\n"));
	assert_non_null(strstr(got, "times_seconds_bucket{colour=\"a\\\"b\\\\c\\nd\",size=\"m\",le=\"0.0005\"} 1\n"));
	assert_null(strstr(got, "colour=\"red\",size"));
	free(got);
	metrics_free(m);
}

static void a_meter_without_metrics_counts_nothing(void **state)
{
	struct meter none = {0};

	(void)state;
	meter_add(none, 3, 4, 5, 1);
	meter_set(none, 3, 4, 5, 1);
	meter_observe_us(none, 3, 4, 5, 1);
	metrics_free(NULL);
}

static void a_flood_is_cut_and_counted(void **state)
{
	struct log_limit l = {0};
	unsigned written = 0, suppressed = 0, told = 0;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		if (log_admits(&l, &suppressed)) {
			written++;
			told += suppressed;
		}
	}
	/* The second may have turned meanwhile. */
	assert_in_range(written, LOG_LIMIT, 2 * LOG_LIMIT);
	assert_int_equal(told + atomic_load(&l.suppressed), 1000 - written);
	atomic_store(&l.second, 0);
	assert_true(log_admits(&l, &suppressed));
	assert_int_equal(told + suppressed, 1000 - written);
}

static void a_line_says_what_was_left_out_before_it(void **state)
{
	(void)state;
	log_init(LOG_LOGFMT, LOG_INFO);
	capture();
	for (int i = 0; i < LOG_LIMIT; i++)
		log_event_limited(LOG_WARN, "often", LOG_INT("i", i));
	captured();
	assert_null(strstr(text, "suppressed"));
	assert_non_null(strstr(text, "event=often i=9\n"));
}

static void *count(void *arg)
{
	for (int i = 0; i < 10000; i++)
		meter_add(*(struct meter *)arg, PLAIN, 0, 0, 1);
	return NULL;
}

static void rendering_beside_counting_is_safe(void **state)
{
	struct metrics *m = metrics_new(defs, 1, 4);
	struct meter meters[4];
	pthread_t threads[4];
	char *got;

	(void)state;
	assert_non_null(m);
	for (unsigned i = 0; i < 4; i++) {
		meters[i] = (struct meter){m, i};
		assert_int_equal(pthread_create(&threads[i], NULL, count, &meters[i]), 0);
	}
	free(render(m));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	got = render(m);
	assert_non_null(strstr(got, "\nplain_total 40000\n"));
	free(got);
	metrics_free(m);
}

static void a_label_grows_as_far_as_there_is_room(void **state)
{
	static const char *const names[] = {"a"};
	const struct metric_def growing[] = {
		{"hits_total", "Hits.", METRIC_COUNTER, {{"service", names, 1, .room = 1}}},
		{"other", "Other.", METRIC_GAUGE, {{"kind", names, 1}}},
	};
	struct metrics *m = metrics_new(growing, ARRAY_LEN(growing), 1);
	char name[] = "b";
	struct buf out = {0};

	(void)state;
	meter_add((struct meter){m, 0}, 0, 1, 0, 7);
	metrics_render(m, &out);
	buf_add_char(&out, '\0');
	assert_null(strstr(out.p, " 7\n"));
	assert_true(metrics_add_value(m, "service", name));
	name[0] = 'x';
	assert_false(metrics_add_value(m, "service", "c"));
	out.n = 0;
	metrics_render(m, &out);
	buf_add_char(&out, '\0');
	assert_non_null(strstr(out.p, "hits_total{service=\"a\"} 0\nhits_total{service=\"b\"} 7\n# "));
	assert_null(strstr(out.p, "kind=\"b\""));
	buf_free(&out);
	metrics_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_has_time_level_event_and_fields),
		cmocka_unit_test(a_reader_that_stops_blocks_nobody),
		cmocka_unit_test(the_time_is_the_clocks),
		cmocka_unit_test(levels_below_the_threshold_are_silent),
		cmocka_unit_test(logfmt_quotes_only_what_needs_it),
		cmocka_unit_test(json_lines_hold_strings_and_numbers),
		cmocka_unit_test(a_long_value_is_cut_at_a_character_and_marked),
		cmocka_unit_test(a_line_never_outgrows_its_buffer),
		cmocka_unit_test(every_length_of_line_ends_whole),
		cmocka_unit_test(lines_of_several_threads_do_not_mix),
		cmocka_unit_test(counters_sum_the_shards_and_skip_idle_pairs),
		cmocka_unit_test(a_histogram_is_cumulative_and_in_seconds),
		cmocka_unit_test(a_flood_is_cut_and_counted),
		cmocka_unit_test(a_line_says_what_was_left_out_before_it),
		cmocka_unit_test(a_meter_without_metrics_counts_nothing),
		cmocka_unit_test(rendering_beside_counting_is_safe),
		cmocka_unit_test(a_label_grows_as_far_as_there_is_room),
	};

	return cmocka_run_group_tests_name("obs", tests, NULL, NULL);
}
