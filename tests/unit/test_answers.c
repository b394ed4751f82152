/* The answers that all routes share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "routes/routes-i.h"

/* What was answered last. */
static int status;
static char type[64], body[256];

void __wrap_http_respond(struct http_request *r, int code, const struct http_header *headers, size_t n_headers,
			 struct blob *take_body);

void __wrap_http_respond(struct http_request *r, int code, const struct http_header *headers, size_t n_headers,
			 struct blob *take_body)
{
	(void)r;
	assert_true(n_headers > 0 && strcmp(headers[0].name, "Content-Type") == 0);
	status = code;
	snprintf(type, sizeof type, "%s", headers[0].value);
	snprintf(body, sizeof body, "%.*s", (int)take_body->n, take_body->p);
	blob_unref(take_body);
}

static void an_answer_without_memory_is_an_internal_problem_and_counts(void **state)
{
	struct config *config = calloc(1, sizeof *config);
	struct metrics *metrics = dispatch_metrics_new(config, 1);
	struct routes r = {.env = {.config = config, .meter = {metrics, 0}}};
	struct buf text = {0};

	(void)state;
	buf_add_str(&text, "{}");
	answer_text(&r, NULL, 200, "application/json", blob_from_buf(&text));
	assert_int_equal(status, 200);
	assert_string_equal(type, "application/json");
	assert_string_equal(body, "{}");
	assert_int_equal(metrics_read(metrics, METRIC_REFUSED, PROBLEM_INTERNAL, 0), 0);
	answer_text(&r, NULL, 200, "application/json", NULL);
	assert_int_equal(status, 500);
	assert_string_equal(type, "application/problem+json");
	assert_non_null(strstr(body, "\"internal\""));
	assert_int_equal(metrics_read(metrics, METRIC_REFUSED, PROBLEM_INTERNAL, 0), 1);
	metrics_free(metrics);
	free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_answer_without_memory_is_an_internal_problem_and_counts),
	};

	return cmocka_run_group_tests_name("answers", tests, NULL, NULL);
}
