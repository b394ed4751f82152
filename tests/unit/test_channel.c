#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <strings.h>

#include "channel/channel.h"

/* The Standard Webhooks specification's example. */
static const char spec_key[] = "\x31\xf2\x90\xf6\xbf\x06\x29\x8a\xab\x4f\x08\xd4"
			       "\x3c\x3f\x08\x2c\xf6\x48\xa3\x62\xda\x2d\xa4\xb0";
static const struct trace trace = {.id = {0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6,
					  0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36},
				   .flags = 1};
static const struct service webhook = {.name = "webhook", .kind = SERVICE_WEBHOOK};
static const struct service push = {
	.name = "push", .kind = SERVICE_HTTP, .url = "http://Push.Internal/send/{to}?again={to}", .method = "PUT"};

static struct channel_message message(const char *to, const char *payload)
{
	return (struct channel_message){
		.to = slice_str(to), .payload = slice_str(payload), .id = SLICE("msg_p5jXN8AQM9LWM0D4loKWxJek"),
		.unix_s = 1614265330, .trace = &trace, .span_id = 0x00f067aa0ba902b7};
}

static const char *header(const struct exchange *e, const char *name)
{
	const char *found = NULL;
	size_t n = strlen(name);

	for (size_t i = 0; i < e->n_headers; i++) {
		if (strncasecmp(e->headers[i], name, n) == 0 && e->headers[i][n] == ':') {
			assert_null(found);
			found = e->headers[i] + n + 2;
		}
	}
	return found;
}

static void webhook_accepts_plain_urls(void **state)
{
	static const char *const good[] = {
		"http://example.com", "https://example.com/a?b=c&d=%20", "HTTP://EXAMPLE.com:8080/", "http://127.0.0.1:1/x",
		"http://[::1]:65535/", "https://[2001:db8::1]", "http://a_b.example.com./x", "http://h?q=user@host",
		"http://h/a:b@c", "http://xn--bcher-kva.example/"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		if (channel_check_to(&webhook, slice_str(good[i])) != NULL)
			fail_msg("refused %s", good[i]);
	}
}

static void webhook_refuses_everything_else(void **state)
{
	static const char *const bad[] = {
		"", "http", "http:", "http://", "http:///x", "https://:80/", "ftp://h/", "httpx://h/", "//h/", "/x", "h:80",
		" http://h/", "http://h/ ", "http://h/a b", "http://h/\t", "http://h/\r\nX: y", "http://h/\x7f",
		"http://h/\xc3\xa9", "http://h\\@g/", "http://u@h/", "http://u:p@h/", "http://h:/", "http://h:0/",
		"http://h:65536/", "http://h:123456/", "http://h:8x/", "http://h:-1/", "http://h:80:80/", "http://h/#f",
		"http://h#f", "http://[::1", "http://[]/", "http://[::1]x/", "http://[::1%25eth0]/", "http://[1.2.3.4]/",
		"http://::1/", "http://.h/", "http://h..g/", "http://h%2f/", "http://h,g/", "http:/h/", "http://*/"};
	char longest[2049 + 1] = "http://h/";

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		if (channel_check_to(&webhook, slice_str(bad[i])) == NULL)
			fail_msg("accepted %s", bad[i]);
	}
	assert_string_equal(channel_check_to(&webhook, SLICE("a b")),
			    "must be a URL of printable ASCII, without spaces or backslashes");
	assert_non_null(channel_check_to(&webhook, (struct slice){"http://h/\0", 10}));
	memset(longest + 9, 'a', 2040);
	assert_non_null(channel_check_to(&webhook, slice_str(longest)));
	longest[2048] = '\0';
	assert_null(channel_check_to(&webhook, slice_str(longest)));
}

static void http_takes_any_bytes(void **state)
{
	char big[2049];

	(void)state;
	memset(big, 0xff, sizeof big);
	assert_null(channel_check_to(&push, (struct slice){big, 2048}));
	assert_non_null(channel_check_to(&push, (struct slice){big, 2049}));
	assert_non_null(channel_check_to(&push, SLICE("")));
	assert_null(channel_check_to(&push, SLICE("\0\r\n")));
	assert_null(channel_check_to(&push, SLICE("...")));
	assert_non_null(channel_check_to(&push, SLICE("..")));
	assert_non_null(channel_check_to(&push, SLICE(".")));
}

static void expect_origin(const struct service *s, const char *to, const char *want)
{
	struct buf out CLEANUP(buf_free) = {0};

	channel_origin(s, slice_str(to), &out);
	buf_add_char(&out, '\0');
	assert_string_equal(out.p, want);
}

static void origin_is_lower_case_with_its_port(void **state)
{
	const struct service odd = {.kind = SERVICE_HTTP, .url = "http://u:p@H/{to}"};

	(void)state;
	expect_origin(&webhook, "HTTPS://Example.COM/Path?Q", "https://example.com:443");
	expect_origin(&webhook, "http://h?x", "http://h:80");
	expect_origin(&webhook, "http://h:0080", "http://h:80");
	expect_origin(&webhook, "http://[2001:DB8::1]:81/", "http://[2001:db8::1]:81");
	expect_origin(&push, "anyone", "http://push.internal:80");
	expect_origin(&odd, "anyone", "http://u:p@H/{to}");
}

static void webhook_signature_matches_the_specification(void **state)
{
	struct service s = webhook;
	struct channel_message m = message("http://h/x", "{\"test\": 2432232314}");
	struct channel_scratch scratch CLEANUP(channel_scratch_free) = {0};
	struct cidr allow = {0};
	struct exchange e;

	(void)state;
	s.secrets = &(struct slice){spec_key, 24};
	s.n_secrets = 1;
	s.allow = &allow;
	s.n_allow = 1;
	assert_true(channel_encode(&s, &m, &scratch, &e));
	assert_string_equal(header(&e, "webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
	assert_string_equal(header(&e, "webhook-id"), "msg_p5jXN8AQM9LWM0D4loKWxJek");
	assert_string_equal(header(&e, "webhook-timestamp"), "1614265330");
	assert_string_equal(header(&e, "content-type"), "application/json");
	assert_string_equal(header(&e, "traceparent"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
	assert_int_equal(e.n_headers, 5);
	assert_string_equal(e.method, "POST");
	assert_string_equal(e.url, "http://h/x");
	assert_true(e.guarded && e.allow == &allow && e.n_allow == 1);
	assert_ptr_equal(e.body.p, m.payload.p);
	assert_int_equal(e.body.n, m.payload.n);
}

/* While a secret is replaced, those who know only the old one still verify. */
static void each_secret_signs_the_newest_first(void **state)
{
	struct slice secrets[9];
	struct service s = webhook;
	struct channel_message m = message("http://h/x", "{\"test\": 2432232314}");
	struct channel_scratch scratch CLEANUP(channel_scratch_free) = {0};
	struct exchange e;
	const char *signatures;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(secrets); i++)
		secrets[i] = SLICE("another key of twenty-four");
	secrets[1] = (struct slice){spec_key, 24};
	s.secrets = secrets;
	s.n_secrets = ARRAY_LEN(secrets);
	assert_true(channel_encode(&s, &m, &scratch, &e));
	signatures = header(&e, "webhook-signature");
	assert_int_equal(strlen(signatures), ARRAY_LEN(secrets) * 48 - 1);
	assert_memory_equal(signatures + 47, " v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1,", 52);
	assert_string_equal(header(&e, "traceparent"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
}

static void http_fills_the_operators_request(void **state)
{
	const char *headers[] = {"authorization: Bearer x", "x-tag: 7"};
	struct service s = push;
	struct channel_message m = message("", "{}");
	struct channel_scratch scratch CLEANUP(channel_scratch_free) = {0};
	struct exchange e;

	(void)state;
	m.to = SLICE("a/b?\xc3\xa9 ~-._%\0Z");
	s.headers = headers;
	s.n_headers = 2;
	assert_true(channel_encode(&s, &m, &scratch, &e));
	assert_string_equal(e.url, "http://Push.Internal/send/a%2Fb%3F%C3%A9%20~-._%25%00Z"
				   "?again=a%2Fb%3F%C3%A9%20~-._%25%00Z");
	assert_string_equal(e.method, "PUT");
	assert_string_equal(header(&e, "content-type"), "application/json");
	assert_string_equal(header(&e, "x-tag"), "7");
	assert_string_equal(header(&e, "authorization"), "Bearer x");
	assert_null(header(&e, "webhook-signature"));
	assert_false(e.guarded);
	s.n_headers = 0;
	assert_true(channel_encode(&s, &m, &scratch, &e));
	assert_string_equal(header(&e, "content-type"), "application/json");
}

static void a_callers_trace_goes_on_as_it_came(void **state)
{
	struct channel_message m = message("http://h/", "{}");
	struct trace unsampled = trace;
	struct channel_scratch scratch CLEANUP(channel_scratch_free) = {0};
	struct exchange e;

	(void)state;
	assert_true(channel_encode(&webhook, &m, &scratch, &e));
	assert_null(header(&e, "tracestate"));
	unsampled.flags = 0;
	unsampled.state = SLICE("vendor=1,other=2");
	m.trace = &unsampled;
	assert_true(channel_encode(&webhook, &m, &scratch, &e));
	assert_string_equal(header(&e, "traceparent"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
	assert_string_equal(header(&e, "tracestate"), "vendor=1,other=2");
}

static void an_id_cannot_break_out_of_its_header(void **state)
{
	struct channel_message m = message("http://h/", "{}");
	struct channel_scratch scratch CLEANUP(channel_scratch_free) = {0};
	struct exchange e;

	(void)state;
	m.id = SLICE("a\r\nX: y\0\xc3\xa9");
	assert_true(channel_encode(&webhook, &m, &scratch, &e));
	assert_string_equal(header(&e, "webhook-id"), "a%0D%0AX: y%00\xc3\xa9");
}

static void scratch_is_reused_for_long_and_short(void **state)
{
	struct channel_scratch scratch CLEANUP(channel_scratch_free) = {0};
	struct channel_message m = message("http://h/", "{}");
	char *to = malloc(2048), *id = malloc(4096);
	struct exchange e;

	(void)state;
	assert_true(channel_encode(&webhook, &m, &scratch, &e));
	memset(to, '\xff', 2048);
	memset(id, '\n', 4096);
	m.to = (struct slice){to, 2048};
	m.id = (struct slice){id, 4096};
	assert_true(channel_encode(&push, &m, &scratch, &e));
	assert_int_equal(strlen(e.url), strlen("http://Push.Internal/send/?again=") + 2 * 3 * 2048);
	assert_int_equal(strlen(header(&e, "webhook-id")), 3 * 4096);
	m = message("http://h/", "{}");
	assert_true(channel_encode(&webhook, &m, &scratch, &e));
	assert_string_equal(e.url, "http://h/");
	free(to);
	free(id);
}

struct expected {
	int status;
	enum code code;
	enum delivered delivered;
};

static void every_status_has_its_code(void **state)
{
	static const struct expected table[] = {
		{200, CODE_OK, DELIVERED_YES}, {201, CODE_OK, DELIVERED_YES}, {202, CODE_OK, DELIVERED_YES},
		{204, CODE_OK, DELIVERED_YES}, {299, CODE_OK, DELIVERED_YES},
		{300, CODE_REJECTED, DELIVERED_NO}, {301, CODE_REJECTED, DELIVERED_NO}, {304, CODE_REJECTED, DELIVERED_NO},
		{308, CODE_REJECTED, DELIVERED_NO}, {400, CODE_INVALID_ITEM, DELIVERED_NO},
		{401, CODE_UNAUTHENTICATED, DELIVERED_NO}, {402, CODE_REJECTED, DELIVERED_NO},
		{403, CODE_PERMISSION_DENIED, DELIVERED_NO}, {404, CODE_RECIPIENT_NOT_FOUND, DELIVERED_NO},
		{405, CODE_REJECTED, DELIVERED_NO}, {408, CODE_TIMEOUT, DELIVERED_MAYBE},
		{409, CODE_REJECTED, DELIVERED_NO}, {410, CODE_RECIPIENT_GONE, DELIVERED_NO},
		{411, CODE_REJECTED, DELIVERED_NO}, {413, CODE_PAYLOAD_TOO_LARGE, DELIVERED_NO},
		{415, CODE_REJECTED, DELIVERED_NO}, {422, CODE_INVALID_ITEM, DELIVERED_NO},
		{425, CODE_REJECTED, DELIVERED_NO}, {429, CODE_RATE_LIMITED, DELIVERED_NO},
		{499, CODE_REJECTED, DELIVERED_NO}, {500, CODE_UPSTREAM_ERROR, DELIVERED_MAYBE},
		{501, CODE_UPSTREAM_ERROR, DELIVERED_MAYBE}, {502, CODE_UPSTREAM_ERROR, DELIVERED_MAYBE},
		{503, CODE_UNAVAILABLE, DELIVERED_MAYBE}, {504, CODE_TIMEOUT, DELIVERED_MAYBE},
		{599, CODE_UPSTREAM_ERROR, DELIVERED_MAYBE}, {100, CODE_BAD_RESPONSE, DELIVERED_MAYBE},
		{101, CODE_BAD_RESPONSE, DELIVERED_MAYBE}, {600, CODE_BAD_RESPONSE, DELIVERED_MAYBE},
		{999, CODE_BAD_RESPONSE, DELIVERED_MAYBE}, {7, CODE_BAD_RESPONSE, DELIVERED_MAYBE}};
	static const enum answer_end ends[] = {ANSWER_COMPLETE, ANSWER_LOST, ANSWER_MALFORMED, ANSWER_CANCELLED,
					       ANSWER_INTERNAL};
	struct buf id CLEANUP(buf_free) = {0};
	struct outcome o;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		for (size_t k = 0; k < ARRAY_LEN(ends); k++) {
			struct answer a = {.end = ends[k], .wrote = true, .status = table[i].status, .phase = PHASE_RECEIVE,
					   .retry_after_ms = 1500, .detail = "the connection was reset"};

			channel_classify(&webhook, &a, WHY_CANCELLED, &id, &o);
			if (o.code != table[i].code || o.delivered != table[i].delivered)
				fail_msg("%d: %s, %s", table[i].status, code_str(o.code), delivered_str(o.delivered));
			assert_int_equal(o.http_status, table[i].status);
			assert_int_equal(o.phase, PHASE_RECEIVE);
			assert_int_equal(o.retry_after_ms, code_retryable(o.code) ? 1500 : RETRY_AFTER_NONE);
			if (table[i].status / 100 == 3)
				assert_string_equal(o.detail, "redirects are not followed");
			else
				assert_null(o.detail);
		}
	}
}

static void a_service_may_mean_no_by_503(void **state)
{
	struct service s = push;
	struct answer a = {.wrote = true, .status = 503, .retry_after_ms = RETRY_AFTER_NONE};
	struct buf id CLEANUP(buf_free) = {0};
	struct outcome o;

	(void)state;
	s.refuses_with_503 = true;
	channel_classify(&s, &a, WHY_NONE, &id, &o);
	assert_int_equal(o.code, CODE_UNAVAILABLE);
	assert_int_equal(o.delivered, DELIVERED_NO);
	assert_int_equal(o.retry_after_ms, RETRY_AFTER_NONE);
}

static void without_a_status_the_evidence_decides(void **state)
{
	static const struct {
		enum answer_end end;
		bool wrote;
		enum why why;
		enum code code;
		enum delivered delivered;
	} table[] = {
		{ANSWER_FORBIDDEN, false, WHY_NONE, CODE_PERMISSION_DENIED, DELIVERED_NO},
		{ANSWER_NO_CONNECTION, false, WHY_NONE, CODE_CONNECT_FAILED, DELIVERED_NO},
		{ANSWER_LOST, false, WHY_NONE, CODE_CONNECT_FAILED, DELIVERED_NO},
		{ANSWER_LOST, true, WHY_NONE, CODE_CONNECTION_LOST, DELIVERED_MAYBE},
		{ANSWER_MALFORMED, true, WHY_NONE, CODE_BAD_RESPONSE, DELIVERED_MAYBE},
		{ANSWER_MALFORMED, false, WHY_NONE, CODE_BAD_RESPONSE, DELIVERED_MAYBE},
		{ANSWER_COMPLETE, true, WHY_NONE, CODE_BAD_RESPONSE, DELIVERED_MAYBE},
		{ANSWER_INTERNAL, false, WHY_NONE, CODE_INTERNAL, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, true, WHY_ATTEMPT_TIMEOUT, CODE_TIMEOUT, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, false, WHY_ATTEMPT_TIMEOUT, CODE_TIMEOUT, DELIVERED_NO},
		{ANSWER_CANCELLED, true, WHY_TTL, CODE_TIMEOUT, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, true, WHY_DEADLINE, CODE_TIMEOUT, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, false, WHY_DEADLINE, CODE_TIMEOUT, DELIVERED_NO},
		{ANSWER_CANCELLED, true, WHY_FIRST_FAILURE, CODE_ABORTED, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, true, WHY_DISCONNECTED, CODE_ABORTED, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, false, WHY_DISCONNECTED, CODE_ABORTED, DELIVERED_NO},
		{ANSWER_CANCELLED, true, WHY_CANCELLED, CODE_ABORTED, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, true, WHY_SHUTDOWN, CODE_ABORTED, DELIVERED_MAYBE},
		{ANSWER_CANCELLED, true, WHY_NONE, CODE_ABORTED, DELIVERED_MAYBE},
	};
	struct buf id CLEANUP(buf_free) = {0};
	struct outcome o;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		struct answer a = {.end = table[i].end, .wrote = table[i].wrote, .phase = PHASE_WAIT,
				   .retry_after_ms = RETRY_AFTER_NONE, .detail = "why"};

		channel_classify(&webhook, &a, table[i].why, &id, &o);
		if (o.code != table[i].code || o.delivered != table[i].delivered)
			fail_msg("row %zu: %s, %s", i, code_str(o.code), delivered_str(o.delivered));
		assert_int_equal(o.http_status, 0);
		assert_string_equal(o.detail, "why");
		assert_int_equal(o.message_id.n, 0);
	}
}

static void an_accepted_answer_brings_its_id(void **state)
{
	struct answer a = {.wrote = true, .status = 202, .body = SLICE("{\"id\":\"m-9\"}")};
	struct buf id CLEANUP(buf_free) = {0};
	struct outcome o;

	(void)state;
	channel_classify(&webhook, &a, WHY_NONE, &id, &o);
	assert_true(slice_eq(o.message_id, SLICE("m-9")));
	channel_classify(&webhook, &a, WHY_NONE, &id, &o);
	assert_true(slice_eq(o.message_id, SLICE("m-9")));
	a.body = SLICE("<html>");
	channel_classify(&webhook, &a, WHY_NONE, &id, &o);
	assert_int_equal(o.message_id.n, 0);
	a = (struct answer){.wrote = true, .status = 500, .body = SLICE("{\"id\":\"m-9\"}")};
	channel_classify(&webhook, &a, WHY_NONE, &id, &o);
	assert_int_equal(o.message_id.n, 0);
}

static void an_endless_id_is_no_id(void **state)
{
	struct buf id CLEANUP(buf_free) = {0}, body CLEANUP(buf_free) = {0};
	struct outcome o;

	(void)state;
	for (size_t n = 255; n <= 256; n++) {
		body.n = 0;
		buf_printf(&body, "{\"id\":\"%0*d\"}", (int)n, 7);
		channel_classify(&webhook, &(struct answer){.wrote = true, .status = 200, .body = buf_slice(&body)},
				 WHY_NONE, &id, &o);
		assert_int_equal(o.code, CODE_OK);
		assert_int_equal(o.message_id.n, n == 255 ? 255 : 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(webhook_accepts_plain_urls),
		cmocka_unit_test(webhook_refuses_everything_else),
		cmocka_unit_test(http_takes_any_bytes),
		cmocka_unit_test(origin_is_lower_case_with_its_port),
		cmocka_unit_test(webhook_signature_matches_the_specification),
		cmocka_unit_test(each_secret_signs_the_newest_first),
		cmocka_unit_test(http_fills_the_operators_request),
		cmocka_unit_test(a_callers_trace_goes_on_as_it_came),
		cmocka_unit_test(an_id_cannot_break_out_of_its_header),
		cmocka_unit_test(scratch_is_reused_for_long_and_short),
		cmocka_unit_test(every_status_has_its_code),
		cmocka_unit_test(a_service_may_mean_no_by_503),
		cmocka_unit_test(without_a_status_the_evidence_decides),
		cmocka_unit_test(an_accepted_answer_brings_its_id),
		cmocka_unit_test(an_endless_id_is_no_id),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
