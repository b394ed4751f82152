#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"

#define FILE_NAME "t.yaml"
#define KEY24 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
#define SERVICE "services:\n  a:\n    kind: http\n    url: http://h/\n"
#define LINE(place, message) FILE_NAME ":" place ": " message "\n"

static char dir[] = "/tmp/settled-config-XXXXXX";

static void write_file(const char *name, const void *p, size_t n)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static struct config *load_bytes(const void *p, size_t n, struct buf *err)
{
	struct config *c;

	write_file(FILE_NAME, p, n);
	c = config_load(FILE_NAME, err);
	buf_add_char(err, '\0');
	return c;
}

static struct config *load(const char *text)
{
	struct buf err = {0};
	struct config *c = load_bytes(text, strlen(text), &err);

	if (c == NULL)
		print_message("# %s", err.p);
	assert_non_null(c);
	assert_int_equal(err.n, 1);
	buf_free(&err);
	return c;
}

/* All of the output, so that nothing is said that is not expected. */
static void refused(const char *text, const char *errors)
{
	struct buf err = {0};
	struct config *c = load_bytes(text, strlen(text), &err);

	assert_null(c);
	assert_string_equal(err.p, errors);
	buf_free(&err);
}

static void assert_defaults(const struct config *c)
{
	cpu_set_t set;
	const struct service *s = &c->services[0];

	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	assert_string_equal(c->listen_host, "127.0.0.1");
	assert_int_equal(c->listen_port, 8080);
	assert_int_equal(c->shards, MIN(CPU_COUNT(&set), 64));
	assert_int_equal(c->limits.items, 10000);
	assert_int_equal(c->limits.body_bytes, 16 << 20);
	assert_int_equal(c->limits.payload_bytes, 256 << 10);
	assert_int_equal(c->limits.answer_bytes, 64 << 10);
	assert_int_equal(c->limits.json_depth, 64);
	assert_int_equal(c->limits.connections, 10000);
	assert_int_equal(c->limits.queued_items, 1000000);
	assert_int_equal(c->limits.results_bytes, 64 << 20);
	assert_int_equal(c->limits.in_flight, 4096);
	assert_int_equal(c->limits.keep_results_ms, 24 * 3600000);
	assert_int_equal(c->limits.header_ms, 10000);
	assert_int_equal(c->limits.body_ms, 60000);
	assert_int_equal(c->limits.idle_ms, 75000);
	assert_int_equal(c->limits.write_ms, 30000);
	assert_int_equal(c->limits.lame_duck_ms, 0);
	assert_int_equal(c->limits.drain_ms, 25000);
	assert_int_equal(c->limits.deadline_ms, 30000);
	assert_int_equal(c->limits.max_deadline_ms, 7 * 24 * 3600000);
	assert_int_equal(c->log_format, LOG_LOGFMT);
	assert_int_equal(c->log_level, LOG_INFO);
	assert_false(c->open);
	assert_int_equal(c->n_services, 1);
	assert_string_equal(s->name, "webhook");
	assert_int_equal(s->kind, SERVICE_WEBHOOK);
	assert_null(s->url);
	assert_string_equal(s->method, "POST");
	assert_int_equal(s->n_headers + s->n_secrets + s->n_allow, 0);
	assert_int_equal(s->attempt_timeout_ms, 5000);
	assert_int_equal(s->max_in_flight, 256);
	assert_int_equal(s->max_payload, 256 << 10);
	assert_false(s->refuses_with_503);
}

static void no_file_and_files_that_say_nothing_are_the_defaults(void **state)
{
	static const char *const texts[] = {
		"", "# nothing\n", "---\n", "{}", "services:\n", "services: {}\n", "limits:\nlog: ~\nstore: null\n",
		"store: {memory: true}\nauth: {open: false}\n",
	};
	struct buf err = {0};
	struct config *c = config_load(NULL, &err);

	(void)state;
	assert_non_null(c);
	assert_int_equal(err.n, 0);
	assert_defaults(c);
	config_unref(c);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		c = load(texts[i]);
		assert_defaults(c);
		config_unref(c);
	}
	config_unref(NULL);
}

static void the_printed_defaults_load_as_the_defaults(void **state)
{
	struct buf out = {0};
	struct config *c;

	(void)state;
	config_defaults(&out);
	buf_add_char(&out, '\0');
	c = load(out.p);
	assert_defaults(c);
	assert_non_null(strstr(out.p, "\nlog:\n  # How a line on standard error is written. (logfmt, json)\n"
	                              "  format: logfmt\n"));
	assert_non_null(strstr(out.p, "\n    # The method that the downstream expects. (POST, PUT, PATCH, DELETE, GET; only http)\n"
	                              "    # method: POST\n"));
	assert_non_null(strstr(out.p, "\n    # secret:\n"));
	assert_non_null(strstr(out.p, "\n    # breaker:\n    #   # An origin that fails so often is left alone, and its items "
	                              "fail fast; 0 is no breaker. (number, 0 to 1 of attempts)\n"
	                              "    #   failure_ratio: 0.5\n"));
	config_unref(c);
	buf_free(&out);
}

static void the_description_has_a_row_for_every_setting(void **state)
{
	struct buf out = {0};

	(void)state;
	config_describe(&out);
	buf_add_char(&out, '\0');
	assert_non_null(strstr(out.p, "| `limits.items` | integer, 1 to 1000000 items | `10000` | One batch, "));
	assert_non_null(strstr(out.p, "\n| `services.*.url` | URL | none | "));
	assert_non_null(strstr(out.p, "\n| `services.*.rate.burst` | integer, 1 to 1000000 attempts | none | "));
	for (const char *row = out.p; (row = strchr(row, '\n')) != NULL && row[1] != '\0'; row++)
		assert_int_equal(row[1], '|');
	buf_free(&out);
}

/* Name and value of each, one a line. */
static void add_limit(void *arg, const char *name, int64_t value)
{
	buf_printf(arg, "%s %lld\n", name, (long long)value);
}

static void every_limit_is_told_as_it_is_in_force(void **state)
{
	struct config *c = load("limits: {items: 7, results_bytes: 8589934592, drain_ms: 0}\n");
	struct buf have = {0}, all = {0};
	size_t rows = 0, lines = 0;

	(void)state;
	config_each_limit(c, add_limit, &have);
	buf_add_char(&have, '\0');
	assert_non_null(strstr(have.p, "items 7\nbody_bytes 16777216\npayload_bytes 262144\n"));
	assert_non_null(strstr(have.p, "\nresults_bytes 8589934592\n"));
	assert_non_null(strstr(have.p, "\ndrain_ms 0\n"));
	config_describe(&all);
	buf_add_char(&all, '\0');
	for (const char *p = all.p; (p = strstr(p, "| `limits.")) != NULL; p++)
		rows++;
	for (const char *p = have.p; (p = strchr(p, '\n')) != NULL; p++)
		lines++;
	assert_int_equal(lines, rows);
	buf_free(&have);
	buf_free(&all);
	config_unref(c);
}

static void a_collector_is_read(void **state)
{
	struct config *c = load("tracing: {endpoint: 'https://c:4318/otlp/', ratio: 0.25, headers: {api-key: k, b: c}}\n");

	(void)state;
	assert_string_equal(c->tracing.endpoint, "https://c:4318/otlp");
	assert_true(c->tracing.ratio == 0.25);
	assert_int_equal(c->tracing.n_headers, 2);
	assert_string_equal(c->tracing.headers[0], "api-key: k");
	config_unref(c);
	c = load("log: {level: info}\n");
	assert_null(c->tracing.endpoint);
	assert_true(c->tracing.ratio == 1 && c->tracing.n_headers == 0);
	config_unref(c);
}

static void every_setting_is_read(void **state)
{
	struct config *c = load(
		"listen: '[::1]:0'\nshards: 3\nlog: {format: json, level: debug}\nauth: {open: true}\n"
		"names: {threads: 2, queued: 3, ttl_ms: 0, negative_ttl_ms: 5}\n"
		"limits: {items: 1000000, body_bytes: 2, payload_bytes: 3, answer_bytes: 4, json_depth: 5, connections: 6,\n"
		"  queued_items: 7, queue_ms: 0, results_bytes: 8589934592, in_flight: 9, keep_results_ms: 10, header_ms: 11,\n"
		"  body_ms: 12, idle_ms: 13, write_ms: 14, lame_duck_ms: 15, drain_ms: 0, deadline_ms: 16, max_deadline_ms: 2592000000}\n"
		"services:\n"
		"  partner: {kind: webhook, secret: [whsec_" KEY24 KEY24 ", whsec_" KEY24 "], allow: ['127.0.0.0/8', 'fd00::/8', '::1']}\n"
		"  push:\n"
		"    kind: http\n"
		"    url: https://Push.internal:8443/send/{to}?x={to}&y=%20\n"
		"    method: PUT\n"
		"    headers: {Authorization: Bearer x, x-n: 2}\n"
		"    attempt_timeout_ms: 17\n"
		"    max_in_flight: 65535\n"
		"    lanes: 64\n"
		"    max_queued: 19\n"
		"    max_payload_bytes: 18\n"
		"    refuses_with: [503]\n");
	const struct service *w = &c->services[0], *p = &c->services[1];

	(void)state;
	assert_string_equal(c->listen_host, "::1");
	assert_int_equal(c->listen_port, 0);
	assert_int_equal(c->shards, 3);
	assert_true(c->open && c->log_format == LOG_JSON && c->log_level == LOG_DEBUG);
	assert_true(c->names.threads == 2 && c->names.queued == 3 && c->names.ttl_ms == 0 && c->names.negative_ttl_ms == 5);
	assert_true(c->limits.items == 1000000 && c->limits.body_bytes == 2 && c->limits.payload_bytes == 3);
	assert_true(c->limits.answer_bytes == 4 && c->limits.json_depth == 5 && c->limits.connections == 6);
	assert_true(c->limits.queued_items == 7 && c->limits.queue_ms == 0);
	assert_true(c->limits.results_bytes == 8589934592 && c->limits.in_flight == 9);
	assert_true(c->limits.keep_results_ms == 10 && c->limits.header_ms == 11 && c->limits.body_ms == 12);
	assert_true(c->limits.idle_ms == 13 && c->limits.write_ms == 14 && c->limits.drain_ms == 0);
	assert_int_equal(c->limits.lame_duck_ms, 15);
	assert_true(c->limits.deadline_ms == 16 && c->limits.max_deadline_ms == 2592000000);
	assert_int_equal(c->n_services, 2);
	assert_int_equal(config_find_service(c, SLICE("push")), 1);
	assert_int_equal(config_find_service(c, SLICE("pus")), -1);
	assert_string_equal(service_kind_str(w->kind), "webhook");
	assert_string_equal(service_kind_str(p->kind), "http");
	assert_int_equal(w->max_payload, 3);
	assert_int_equal(w->n_allow, 3);
	assert_int_equal(w->n_secrets, 2);
	assert_int_equal(w->secrets[1].n, 24);
	assert_string_equal(p->url, "https://Push.internal:8443/send/{to}?x={to}&y=%20");
	assert_string_equal(p->method, "PUT");
	assert_int_equal(p->n_headers, 2);
	assert_string_equal(p->headers[0], "Authorization: Bearer x");
	assert_string_equal(p->headers[1], "x-n: 2");
	assert_true(p->attempt_timeout_ms == 17 && p->max_in_flight == 65535 && p->max_payload == 18);
	assert_true(p->lanes == 64 && w->lanes == 1);
	assert_true(p->refuses_with_503 && p->max_queued == 19 && w->max_queued == 0);
	config_unref(c);
}

static void json_is_a_configuration_too(void **state)
{
	struct config *c = load("{\n\t\"listen\":\t\"127.0.0.1:9\",\n\t\"limits\":{\"items\":5},\"auth\":{\"open\":true},\n"
	                        "\t\"services\": {\t\"a\":{\"kind\":\"http\",\"url\":\"http:\\/\\/h\\/\\u0041\",\n"
	                        "\t\t\"headers\": null, \"refuses_with\":[\t503 ]}}\n}\n");

	(void)state;
	assert_int_equal(c->listen_port, 9);
	assert_int_equal(c->limits.items, 5);
	assert_true(c->open);
	assert_string_equal(c->services[0].url, "http://h/A");
	assert_true(c->services[0].refuses_with_503);
	config_unref(c);
}

static void ranges_are_parsed_as_such(void **state)
{
	struct config *c = load("services: {w: {kind: webhook, allow: [10.0.0.0/8, '::1']}}");
	unsigned char v4[16] = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 7}, v6[16] = {[15] = 1};

	(void)state;
	assert_true(cidr_has(&c->services[0].allow[0], v4));
	assert_false(cidr_has(&c->services[0].allow[0], v6));
	assert_true(cidr_has(&c->services[0].allow[1], v6));
	config_unref(c);
	refused("services: {w: {kind: webhook, allow: [10.0.0.1/8,\n  'x', [y]]}}",
	        LINE("1:39", "services.w.allow[0]: 10.0.0.1/8 is not a range of addresses: give one as 10.0.0.0/8 or "
	             "fd00::/8, with no bits set behind the prefix")
	        LINE("2:3", "services.w.allow[1]: x is not a range of addresses: give one as 10.0.0.0/8 or "
	             "fd00::/8, with no bits set behind the prefix")
	        LINE("2:8", "services.w.allow[2]: a list: give a range of addresses"));
	refused("services: {w: {kind: webhook, allow: all}}",
	        LINE("1:38", "services.w.allow: not a list: give [\"10.0.0.0/8\"]"));
}

static void the_environment_and_files_fill_in_values(void **state)
{
	struct config *c;

	(void)state;
	setenv("T_TOKEN", "x: {y: [z\t#", 1);
	setenv("T_N", "7", 1);
	setenv("T_SECRET", "whsec_" KEY24, 1);
	write_file("token", "from file\r\n", 11);
	c = load("limits: {items: \"${T_N}\"}\nauth: {open: \"${T_OPEN}\"}\nservices:\n  a:\n    kind: http\n"
	         "    url: http://h/\n    max_in_flight: ${T_N}7\n    secret: ${T_SECRET}\n    headers:\n"
	         "      a: Bearer ${T_TOKEN}\n      b: '<${file:token}>'\n      c: $${T_NONE} $ $$ {}\n      d: $$${T_N}\n");
	assert_int_equal(c->limits.items, 7);
	assert_true(c->open);
	assert_int_equal(c->services[0].max_in_flight, 77);
	assert_int_equal(c->services[0].n_secrets, 1);
	assert_int_equal(c->services[0].secrets[0].n, 24);
	assert_string_equal(c->services[0].headers[0], "a: Bearer x: {y: [z\t#");
	assert_string_equal(c->services[0].headers[1], "b: <from file>");
	assert_string_equal(c->services[0].headers[2], "c: ${T_NONE} $ $$ {}");
	assert_string_equal(c->services[0].headers[3], "d: $${T_N}");
	config_unref(c);
}

#define NO_NESTING "store.path: ${NAME:-TEXT} takes no ${ in TEXT, which ends at the first }: give a plain text"

/* An empty variable is as good as none, as in a shell. */
static void what_has_a_default_need_not_be_in_the_environment(void **state)
{
	struct config *c;

	(void)state;
	setenv("T_N", "7", 1);
	setenv("T_EMPTY", "", 1);
	c = load("operations: ${T_NONE:-}\nlimits: {items: '${T_N:-8}', waiting: '${T_NONE:-9}', json_depth: '${T_EMPTY:-10}'}\n"
	         "services:\n  a:\n    kind: http\n    url: http://h/\n    secret: ${T_EMPTY:-}\n    headers:\n"
	         "      a: ${T_NONE:-}\n      b: x${T_NONE:-}\n"
	         "  w:\n    kind: webhook\n    allow:\n      - 127.0.0.0/8\n      - ${T_NONE:-}\n");
	assert_null(c->operations_host);
	assert_int_equal(c->limits.items, 7);
	assert_int_equal(c->limits.waiting, 9);
	assert_int_equal(c->limits.json_depth, 10);
	assert_int_equal(c->services[0].n_secrets, 0);
	assert_int_equal(c->services[0].n_headers, 1);
	assert_string_equal(c->services[0].headers[0], "b: x");
	config_unref(c);
	setenv("T_OPERATIONS", "127.0.0.1:81", 1);
	c = load("operations: ${T_OPERATIONS:-}\n");
	assert_string_equal(c->operations_host, "127.0.0.1");
	config_unref(c);
	refused(SERVICE "    headers:\n      a: '${T_NONE:-}'\n      b: ${1x:-POST}\n",
	        LINE("7:10", "services.a.headers.b: ${...} needs a variable's name or file:PATH: write $${ for a plain ${")
	        LINE("6:10", "services.a.headers.a: empty: give a value, or leave the header out"));
	/* Not the path ${T_N}, nor where the variable is set, what it holds and a brace. */
	refused("store:\n  path: ${T_NONE:-${T_N}}\n", LINE("2:9", NO_NESTING));
	refused("store:\n  path: ${T_N:-/${T_NONE:-x}}\n", LINE("2:9", NO_NESTING));
	refused("services:\n  a:\n    kind: http\n    url: ${T_NONE:-}\n",
	        LINE("2:3", "services.a.url: required for kind http: give the URL, with {to} where the recipient goes"));
}

static void what_cannot_be_filled_in_is_an_error(void **state)
{
	static char big[65537];

	(void)state;
	memset(big, 'x', sizeof big);
	write_file("big", big, sizeof big);
	write_file("nul", "a\0b", 3);
	refused(SERVICE "    headers:\n      a: ${T_NONE}\n      b: a ${T_N\n      c: ${}\n      d: ${1x}\n"
	        "      e: ${file:none}\n      f: ${file:.}\n      g: ${file:big}\n      h: ${file:}\n",
	        LINE("6:10", "services.a.headers.a: the environment variable T_NONE is not set: set it, or write $${ for a "
	             "plain ${")
	        LINE("7:10", "services.a.headers.b: ${ without }: close it, or write $${ for a plain ${")
	        LINE("8:10", "services.a.headers.c: ${...} needs a variable's name or file:PATH: write $${ for a plain ${")
	        LINE("9:10", "services.a.headers.d: ${...} needs a variable's name or file:PATH: write $${ for a plain ${")
	        LINE("10:10", "services.a.headers.e: ${file:none} cannot be read: No such file or directory")
	        LINE("11:10", "services.a.headers.f: ${file:.} cannot be read: Is a directory")
	        LINE("12:10", "services.a.headers.g: ${file:big} holds more than 64 KiB: give a smaller file")
	        LINE("13:10", "services.a.headers.h: ${...} needs a variable's name or file:PATH: write $${ for a plain "
	             "${"));
	refused(SERVICE "    secret: ${file:nul}\n",
	        LINE("5:13", "services.a.secret: holds a NUL byte: take it away"));
	write_file("big", big, 40000);
	refused(SERVICE "    headers: {a: '${file:big}${file:big}'}\n",
	        LINE("5:18", "services.a.headers.a: longer than 64 KiB: give a shorter value"));
	refused(SERVICE "    headers: {a: '${file:big}'}\n",
	        LINE("5:18", "services.a.headers.a: longer than 8192 bytes: give a shorter value"));
}

static void an_error_never_shows_what_came_in(void **state)
{
	(void)state;
	setenv("T_HUSH", "hush-hush\n", 1);
	refused("listen: ${T_HUSH}\nshards: ${T_HUSH}\nlog: {level: '${T_HUSH}'}\nlimits: {items: '${T_HUSH}'}\n"
	        "auth: {open: '${T_HUSH}'}\nservices:\n  a:\n    kind: http\n    url: ${T_HUSH}\n    method: ${T_HUSH}\n"
	        "    headers: {a: '${T_HUSH}'}\n    secret: ${T_HUSH}\n    refuses_with: ['${T_HUSH}']\n"
	        "  b: {kind: webhook, allow: ['${T_HUSH}']}\n",
	        LINE("1:9", "listen: ${T_HUSH} is not an address and a port: give them as 127.0.0.1:8080 or [::1]:8080")
	        LINE("2:9", "shards: ${T_HUSH} is neither: give auto, or 1 to 64 threads")
	        LINE("3:14", "log.level: ${T_HUSH} is not known: give debug, info, warn or error")
	        LINE("4:17", "limits.items: ${T_HUSH} is not a whole number: give 1 to 1000000 items")
	        LINE("5:14", "auth.open: not a yes or no: give true or false, without quotes")
	        LINE("9:10", "services.a.url: not an http or https URL: begin it with http:// or https://")
	        LINE("10:13", "services.a.method: ${T_HUSH} is not known: give POST, PUT, PATCH, DELETE or GET")
	        LINE("11:18", "services.a.headers.a: has a control character, such as a line's end: give one line")
	        LINE("12:13", "services.a.secret: not a signing secret: give whsec_ and the base64 of 24 to 64 random bytes")
	        LINE("13:20", "services.a.refuses_with[0]: ${T_HUSH} cannot be given: 503 is the one status that can mean a "
	             "refusal")
	        LINE("14:30", "services.b.allow[0]: ${T_HUSH} is not a range of addresses: give one as 10.0.0.0/8 or "
	             "fd00::/8, with no bits set behind the prefix"));
}

static void what_is_not_yaml_says_where(void **state)
{
	struct buf err = {0};
	static const char bytes[] = "listen: 127.0.0.1:1\nshards: \xff\n";

	(void)state;
	refused("limits:\n  items: 1\n bad\n", LINE("3:2", "not valid YAML: did not find expected key while parsing a "
	                                            "block mapping"));
	refused("a: {b: 1\n", LINE("2:1", "not valid YAML: did not find expected ',' or '}' while parsing a flow mapping"));
	refused("limits:\n\titems: 1\n", LINE("2:1", "not valid YAML: found character that cannot start any token while "
	                                       "scanning for the next token"));
	assert_null(load_bytes(bytes, sizeof bytes - 1, &err));
	assert_string_equal(err.p, LINE("2:9", "not valid YAML: invalid leading UTF-8 octet: write UTF-8"));
	buf_free(&err);
	refused("shards: 1\n---\nshards: 2\n", LINE("2:1", "a second document: put everything into one"));
	refused("shards: &n 1\n", LINE("1:9", "anchors are not supported: write the value where it belongs"));
	refused("shards: *n\n", LINE("1:9", "aliases are not supported: write the value again"));
	refused("services:\n  *n : 1\n", LINE("2:3", "aliases are not supported: write the value again"));
	refused("shards: !!int 1\n", LINE("1:9", "tags are not supported: write the value without it"));
	refused("? [a]\n: 1\n", LINE("1:3", "a key must be a text: write NAME: VALUE"));
	refused("[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\n", LINE("1:18", "nested too deeply: no setting is that deep"));
}

static void files_have_bounds(void **state)
{
	static char big[1024 * 1024 + 1];
	struct buf err = {0};

	(void)state;
	memset(big, '#', sizeof big);
	assert_null(load_bytes(big, sizeof big, &err));
	assert_string_equal(err.p, FILE_NAME ": larger than 1 MiB: give a smaller file\n");
	err.n = 0;
	config_unref(load_bytes(big, sizeof big - 1, &err));
	assert_string_equal(err.p, "");
	err.n = 0;
	for (size_t i = 0; i < 60000; i++)
		memcpy(big + i * 2, i == 0 ? "[ " : "1,", 2);
	assert_null(load_bytes(big, 120000, &err));
	assert_non_null(strstr(err.p, ": too many values: a file may hold 20000\n"));
	err.n = 0;
	assert_null(config_load("none.yaml", &err));
	assert_memory_equal(err.p, "none.yaml: No such file or directory: give a file that can be read\n", err.n);
	err.n = 0;
	assert_null(config_load(".", &err));
	assert_memory_equal(err.p, ".: Is a directory: give a file that can be read\n", err.n);
	buf_free(&err);
}

static void unknown_keys_get_a_suggestion(void **state)
{
	(void)state;
	refused("lisen: x\nlimits:\n  itmes: 1\n  zzz: 1\nlog: {colour: red}\nserivces: {}\n" SERVICE "    metod: POST\n"
	        "    x: 1\n",
	        LINE("1:1", "lisen: unknown key: did you mean listen?")
	        LINE("3:3", "limits.itmes: unknown key: did you mean items?")
	        LINE("4:3", "limits.zzz: unknown key: known here are items, body_bytes, payload_bytes, answer_bytes, "
	             "json_depth, connections, queued_items, queued_bytes, queue_ms, resident_bytes, stored_items, results_bytes, in_flight, "
	             "event_readers, event_comment_ms, waiting, keep_results_ms, header_ms, body_ms, idle_ms, write_ms, lame_duck_ms, drain_ms, deadline_ms, max_deadline_ms")
	        LINE("5:7", "log.colour: unknown key: known here are format, level")
	        LINE("6:1", "serivces: unknown key: did you mean services?")
	        LINE("11:5", "services.a.metod: unknown key: did you mean method?")
	        LINE("12:5", "services.a.x: unknown key: known here are kind, url, method, headers, secret, ca_file, "
	             "cert_file, key_file, allow, attempt_timeout_ms, max_in_flight, lanes, max_queued, max_payload_bytes, refuses_with, rate, "
	             "breaker, retry_budget, max_pause_ms"));
}

static void duplicate_keys_are_errors(void **state)
{
	(void)state;
	refused("shards: 1\n" SERVICE "    url: http://i/\n    headers: {a: 1, a: 2, B: 1, b: 2}\n    headers: {c: 1}\n"
	        "  a: {kind: webhook}\nshards: 2\nlimits: {}\nlimits: {max_deadline_ms: 1}\n",
	        LINE("6:5", "services.a.url: duplicate key: it stands on line 5 already")
	        LINE("7:21", "services.a.headers.a: duplicate key: it stands on line 7 already")
	        LINE("8:5", "services.a.headers: duplicate key: it stands on line 7 already")
	        LINE("9:3", "services.a: duplicate key: it stands on line 3 already")
	        LINE("10:1", "shards: duplicate key: it stands on line 1 already")
	        LINE("12:1", "limits: duplicate key: it stands on line 11 already")
	        LINE("7:33", "services.a.headers.b: given twice: upper and lower case are the same to HTTP"));
}

static void numbers_say_their_range_and_unit(void **state)
{
	(void)state;
	refused("shards: 65\nlimits:\n  items: 1000001\n  header_ms: 10s\n  body_ms: 0\n  idle_ms: 010\n  write_ms: '1'\n"
	        "  drain_ms: [1]\n  in_flight:\n  json_depth: 1001\n  connections: -1\n"
	        "  queued_items: 99999999999999999999999\n" SERVICE "    max_in_flight: 65536\n    attempt_timeout_ms: 1.5\n",
	        LINE("1:9", "shards: 65 is neither: give auto, or 1 to 64 threads")
	        LINE("3:10", "limits.items: 1000001 is out of range: give 1 to 1000000 items")
	        LINE("4:14", "limits.header_ms: 10s is not a whole number: give 1 to 3600000 ms, without a suffix")
	        LINE("5:12", "limits.body_ms: 0 is out of range: give 1 to 3600000 ms")
	        LINE("6:12", "limits.idle_ms: 010 is not a whole number: give 1 to 3600000 ms, without a suffix")
	        LINE("7:13", "limits.write_ms: a text in quotes: give the number without them")
	        LINE("8:3", "limits.drain_ms: a list: give a whole number")
	        LINE("9:13", "limits.in_flight: no value: give a whole number")
	        LINE("10:15", "limits.json_depth: 1001 is out of range: give 4 to 1000 levels")
	        LINE("11:16", "limits.connections: -1 is not a whole number: give 1 to 1000000 connections")
	        LINE("12:17", "limits.queued_items: 99999999999999999999999 is not a whole number: give 1 to 100000000 items")
	        LINE("17:20", "services.a.max_in_flight: 65536 is out of range: give 1 to 65535 attempts")
	        LINE("18:25", "services.a.attempt_timeout_ms: 1.5 is not a whole number: give 1 to 3600000 ms, without a "
	             "suffix"));
}

static void wrong_types_are_errors(void **state)
{
	(void)state;
	refused("- 1\n", LINE("1:1", "not a map: give settings as NAME: VALUE"));
	refused("hello\n", LINE("1:1", "not a map: give settings as NAME: VALUE"));
	refused("limits: 3\nlog: {format: {a: b}, level: 7}\nauth:\n  open: yes\nstore: {memory: 3}\nservices: [a]\n",
	        LINE("1:9", "limits: not a map: give settings as NAME: VALUE")
	        LINE("2:7", "log.format: a map: give logfmt or json")
	        LINE("2:30", "log.level: 7 is not known: give debug, info, warn or error")
	        LINE("4:9", "auth.open: not a yes or no: give true or false, without quotes")
	        LINE("5:17", "store.memory: not a yes or no: give true or false, without quotes")
	        LINE("6:1", "services: not a map: give services as NAME: {kind: webhook}"));
	refused("services:\n  a: http\n  b:\n",
	        LINE("2:6", "services.a: not a map: give settings as NAME: VALUE")
	        LINE("3:3", "services.b.kind: required: give http or webhook"));
}

static void the_store_is_a_directory_or_memory(void **state)
{
	struct config *c = config_load(NULL, &(struct buf){0});

	(void)state;
	assert_string_equal(c->store_path, "./settled-data");
	assert_false(c->store_memory);
	config_unref(c);
	refused("store: {path: \"\"}\n", LINE("1:15", "store.path: not the path of a directory: give 1 to 3900 bytes"));
	refused("store: {path: a, memory: true}\n",
	        LINE("1:15", "store.path: store.memory is true, so nothing would be kept there: leave one of the two out"));
	refused("store: {path: [a]}\n", LINE("1:9", "store.path: a list: give a directory"));
}

static void assert_lane(const struct service *s, const struct rate_policy *rate, const struct breaker_policy *breaker,
			const struct budget_policy *budget)
{
	assert_true(s->rate.per_second == rate->per_second && s->rate.burst == rate->burst);
	assert_true(s->breaker.failure_ratio == breaker->failure_ratio);
	assert_int_equal(s->breaker.min_attempts, breaker->min_attempts);
	assert_int_equal(s->breaker.window_ms, breaker->window_ms);
	assert_int_equal(s->breaker.open_ms, breaker->open_ms);
	assert_true(s->retry_budget.ratio == budget->ratio && s->retry_budget.per_second == budget->per_second);
	assert_int_equal(s->retry_budget.window_ms, budget->window_ms);
}

static void what_protects_a_downstream_is_its_services(void **state)
{
	const struct breaker_policy breaker = {.failure_ratio = 0.5, .min_attempts = 20, .window_ms = 10000,
	                                       .open_ms = 5000};
	const struct budget_policy budget = {.ratio = 0.2, .per_second = 10, .window_ms = 10000};
	struct config *c = load(
		"services:\n"
		"  a: {kind: webhook}\n"
		"  b: {kind: webhook, rate: {per_second: 500, burst: 7}, breaker: {failure_ratio: 0, min_attempts: 1,\n"
		"    window_ms: 100, open_ms: 10}, retry_budget: {ratio: 1.25, per_second: 0.125, window_ms: 3600000},\n"
		"    max_pause_ms: 0}\n"
		"  c: {kind: webhook, rate: {per_second: 129.999}}\n"
		"  d: {kind: webhook, rate: {per_second: 0.001}}\n");

	(void)state;
	assert_lane(&c->services[0], &(struct rate_policy){.burst = 1}, &breaker, &budget);
	assert_int_equal(c->services[0].max_pause_ms, 60000);
	assert_lane(&c->services[1], &(struct rate_policy){500, 7},
	            &(struct breaker_policy){.min_attempts = 1, .window_ms = 100, .open_ms = 10},
	            &(struct budget_policy){1.25, 0.125, 3600000});
	assert_int_equal(c->services[1].max_pause_ms, 0);
	assert_lane(&c->services[2], &(struct rate_policy){129.999, 12}, &breaker, &budget);
	assert_lane(&c->services[3], &(struct rate_policy){0.001, 1}, &breaker, &budget);
	config_unref(c);
}

static void what_protects_a_downstream_is_checked(void **state)
{
	(void)state;
	refused(SERVICE "    rate: {per_second: fast, burst: 0}\n    breaker: {failure_ratio: 1.001, openms: 5}\n"
	        "    retry_budget: 5\n    max_pause_ms: 3600001\n",
	        LINE("5:24", "services.a.rate.per_second: fast is not a number: give 0 to 1000000 attempts, with up to "
	             "three decimal places")
	        LINE("5:37", "services.a.rate.burst: 0 is out of range: give 1 to 1000000 attempts")
	        LINE("6:30", "services.a.breaker.failure_ratio: 1.001 is out of range: give 0 to 1 of attempts")
	        LINE("6:37", "services.a.breaker.openms: unknown key: did you mean open_ms?")
	        LINE("7:19", "services.a.retry_budget: not a map: give settings as NAME: VALUE")
	        LINE("8:19", "services.a.max_pause_ms: 3600001 is out of range: give 0 to 3600000 ms"));
	refused(SERVICE "    rate: {burst: 5}\n",
	        LINE("5:5", "services.a.rate: a burst of a rate without a limit: give per_second, or leave the burst out"));
	refused(SERVICE "    retry_budget: {ratio: 0, per_second: 0.05}\n",
	        LINE("5:5", "services.a.retry_budget: less than one repeat in window_ms, so there would be none: raise per_second "
	             "or window_ms, or give a ratio"));
}

static void lanes_can_share_what_there_is(void **state)
{
	struct config *c = load("services:\n  a: {kind: http, url: 'http://h/', lanes: 10, max_in_flight: 10, rate: {per_second: 100},"
				" retry_budget: {ratio: 0, per_second: 1}}\n");

	(void)state;
	assert_int_equal(c->services[0].lanes, 10);
	config_unref(c);
	refused(SERVICE "    lanes: 3\n    max_in_flight: 2\n",
	        LINE("5:12", "services.a.lanes: 3 lanes are too many to share max_in_flight, of which there are 2: give 2 at "
	             "most, or raise what they share"));
	refused(SERVICE "    lanes: 11\n    rate: {per_second: 100}\n",
	        LINE("5:12", "services.a.lanes: 11 lanes are too many to share rate.burst, of which there are 10: give 10 at "
	             "most, or raise what they share"));
	refused(SERVICE "    lanes: 11\n    retry_budget: {ratio: 0, per_second: 1}\n",
	        LINE("5:12", "services.a.lanes: 11 lanes are too many to share the repeats that retry_budget has in any case, "
	             "of which there are 10: give 10 at most, or raise what they share"));
	refused(SERVICE "    lanes: 65\n", LINE("5:12", "services.a.lanes: 65 is out of range: give 1 to 64 lanes"));
	refused("services:\n  a:\n    kind: webhook\n    lanes: 2\n",
	        LINE("4:5", "services.a.lanes: only for kind http: leave it out"));
}

static void listening_beyond_loopback_must_be_meant(void **state)
{
	static const char *const fine[] = {
		"listen: 127.3.2.1:1", "listen: '[::1]:1'", "listen: '[::ffff:127.0.0.1]:1'",
		"listen: 0.0.0.0:1\nauth: {open: true}",
	};
	static const char *const wrong[] = {
		"8080", "localhost:80", "127.0.0.1", "'127.0.0.1:'", "127.0.0.1:65536", "127.0.0.1:x", "::1:80", "127.1:80",
		"'[127.0.0.1]:80'", "'[::1]'", "'[::1:80'", "'[::1]80'", "':80'", "127.0.0.1/8:80", "127.0.0.1:000080",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fine); i++)
		config_unref(load(fine[i]));
	refused("listen: 0.0.0.0:1\n", LINE("1:9", "listen: 0.0.0.0 can be reached from other machines and no caller is "
	                                    "asked for a key: give auth.keys, listen on 127.0.0.1, or set auth: {open: true}"));
	refused("auth: {open: false}\nlisten: \"[::]:1\"\n",
	        LINE("2:9", "listen: :: can be reached from other machines and no caller is asked for a key: give "
	             "auth.keys, listen on 127.0.0.1, or set auth: {open: true}"));
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		char text[64], want[200];
		size_t quote = wrong[i][0] == '\'';

		snprintf(text, sizeof text, "listen: %s", wrong[i]);
		snprintf(want, sizeof want, LINE("1:9", "listen: %.*s is not an address and a port: give them as "
		                                 "127.0.0.1:8080 or [::1]:8080"),
		         (int)(strlen(wrong[i]) - 2 * quote), wrong[i] + quote);
		refused(text, want);
	}
}

static void deadlines_must_agree(void **state)
{
	(void)state;
	refused("limits:\n  max_deadline_ms: 1000\n",
	        LINE("2:20", "limits.max_deadline_ms: limits.deadline_ms (30000) is longer than limits.max_deadline_ms (1000): "
	             "lower the first or raise the second"));
	refused("limits:\n  max_deadline_ms: 1000\n  deadline_ms: 1001\n",
	        LINE("3:16", "limits.deadline_ms: limits.deadline_ms (1001) is longer than limits.max_deadline_ms (1000): "
	             "lower the first or raise the second"));
}

static void a_service_has_what_its_kind_needs(void **state)
{
	(void)state;
	refused("services:\n  push: {kind: http, allow: []}\n  Bad: {kind: webhook}\n  hook:\n    kind: webhook\n"
	        "    url: http://h/\n    method: POST\n    headers: {}\n  mail: {kind: smtp}\n  none: {url: http://h/}\n",
	        LINE("2:22", "services.push.allow: only for kind webhook: leave it out")
	        LINE("2:3", "services.push.url: required for kind http: give the URL, with {to} where the recipient goes")
	        LINE("3:3", "services.Bad: not a service's name: use 1 to 64 of a-z, 0-9, _ and -")
	        LINE("6:5", "services.hook.url: only for kind http: leave it out")
	        LINE("7:5", "services.hook.method: only for kind http: leave it out")
	        LINE("8:5", "services.hook.headers: only for kind http: leave it out")
	        LINE("9:16", "services.mail.kind: smtp is not known: give http or webhook")
	        LINE("10:3", "services.none.kind: required: give http or webhook"));
}

static void secrets_are_one_or_a_few(void **state)
{
	(void)state;
	refused(SERVICE "    secret: []\n",
	        LINE("5:5", "services.a.secret: 0 secrets: give one, or a list of 1 to 8, the newest first"));
	refused(SERVICE "    secret: [a, b, c, d, e, f, g, h, i]\n",
	        LINE("5:5", "services.a.secret: 9 secrets: give one, or a list of 1 to 8, the newest first"));
	refused(SERVICE "    secret: [whsec_" KEY24 ", x, {}]\n    secret: y\n",
	        LINE("6:5", "services.a.secret: duplicate key: it stands on line 5 already")
	        LINE("5:54", "services.a.secret[1]: not a signing secret: give whsec_ and the base64 of 24 to 64 random bytes")
	        LINE("5:57", "services.a.secret[2]: a map: give a signing secret"));
}

static void headers_cannot_change_the_framing(void **state)
{
	static const char *const taken[] = {"Content-Length", "transfer-encoding", "HOST", "Connection", "Webhook-Id"};
	char text[200], want[200];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
		snprintf(text, sizeof text, SERVICE "    headers: {%s: x}\n", taken[i]);
		snprintf(want, sizeof want, LINE("5:15", "services.a.headers.%s: set by the dispatcher itself: leave it out"),
		         taken[i]);
		refused(text, want);
	}
	refused(SERVICE "    headers:\n      \"a b\": x\n      \"\": x\n      c: \"x\\r\\ny: z\"\n      d: \"\\0\"\n"
	        "      e: \"\"\n      f:\n      g: [x]\n      h: \" x\"\n",
	        LINE("6:7", "services.a.headers.a b: not a header's name: use letters, digits and hyphens")
	        LINE("7:7", "services.a.headers.: not a header's name: give 1 to 256 characters")
	        LINE("8:10", "services.a.headers.c: has a control character, such as a line's end: give one line")
	        LINE("9:10", "services.a.headers.d: holds a NUL byte: take it away")
	        LINE("10:10", "services.a.headers.e: empty: give a value, or leave the header out")
	        LINE("11:9", "services.a.headers.f: no value: give the header's value")
	        LINE("12:7", "services.a.headers.g: a list: give the header's value")
	        LINE("13:10", "services.a.headers.h: begins or ends with a space: take it away"));
	refused("services: {a: {kind: http, url: \"http://h/é\", secret: x}}\n",
	        LINE("1:33", "services.a.url: has a character that no URL may hold: percent-encode it")
	        LINE("1:55", "services.a.secret: not a signing secret: give whsec_ and the base64 of 24 to 64 random bytes"));
	refused(SERVICE "    headers: x\n", LINE("5:14", "services.a.headers: not a map: give {Name: value}"));
}

static void errors_are_counted_beyond_a_hundred(void **state)
{
	struct buf text = {0}, err = {0};
	unsigned lines = 0;

	(void)state;
	for (int i = 0; i < 150; i++)
		buf_printf(&text, "zzzzzzzz%d: 1\n", i);
	assert_null(load_bytes(text.p, text.n, &err));
	for (const char *p = err.p; (p = strchr(p, '\n')) != NULL; p++)
		lines++;
	assert_int_equal(lines, 101);
	assert_non_null(strstr(err.p, "\n" FILE_NAME ": and 50 more\n"));
	buf_free(&text);
	buf_free(&err);
}

static int enter_dir(void **state)
{
	(void)state;
	setenv("T_OPEN", "true", 1);
	return mkdtemp(dir) == NULL || chdir(dir) != 0;
}

static int leave_dir(void **state)
{
	static const char *const names[] = {FILE_NAME, "token", "big", "nul"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unlink(names[i]);
	return chdir("/") != 0 || rmdir(dir) != 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_file_and_files_that_say_nothing_are_the_defaults),
		cmocka_unit_test(the_printed_defaults_load_as_the_defaults),
		cmocka_unit_test(the_description_has_a_row_for_every_setting),
		cmocka_unit_test(every_limit_is_told_as_it_is_in_force),
		cmocka_unit_test(a_collector_is_read),
		cmocka_unit_test(every_setting_is_read),
		cmocka_unit_test(json_is_a_configuration_too),
		cmocka_unit_test(ranges_are_parsed_as_such),
		cmocka_unit_test(the_environment_and_files_fill_in_values),
		cmocka_unit_test(what_has_a_default_need_not_be_in_the_environment),
		cmocka_unit_test(what_cannot_be_filled_in_is_an_error),
		cmocka_unit_test(an_error_never_shows_what_came_in),
		cmocka_unit_test(what_is_not_yaml_says_where),
		cmocka_unit_test(files_have_bounds),
		cmocka_unit_test(unknown_keys_get_a_suggestion),
		cmocka_unit_test(duplicate_keys_are_errors),
		cmocka_unit_test(numbers_say_their_range_and_unit),
		cmocka_unit_test(wrong_types_are_errors),
		cmocka_unit_test(the_store_is_a_directory_or_memory),
		cmocka_unit_test(what_protects_a_downstream_is_its_services),
		cmocka_unit_test(what_protects_a_downstream_is_checked),
		cmocka_unit_test(lanes_can_share_what_there_is),
		cmocka_unit_test(listening_beyond_loopback_must_be_meant),
		cmocka_unit_test(deadlines_must_agree),
		cmocka_unit_test(a_service_has_what_its_kind_needs),
		cmocka_unit_test(secrets_are_one_or_a_few),
		cmocka_unit_test(headers_cannot_change_the_framing),
		cmocka_unit_test(errors_are_counted_beyond_a_hundred),
	};

	return cmocka_run_group_tests_name("config", tests, enter_dir, leave_dir);
}
