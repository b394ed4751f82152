/* A configuration laid over another one, and printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"

#define SECRET "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
#define OTHER_SECRET "whsec_BAECAwQFBgcICQoLDA0ODxAREhMUFRYX"

static char path[] = "/tmp/settled-reload-XXXXXX";

static struct config *load(const char *text)
{
	struct buf err = {0};
	FILE *f = fopen(path, "w");
	struct config *c;

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	c = config_load(path, &err);
	if (c == NULL)
		fail_msg("%.*s", (int)err.n, err.p);
	return c;
}

static void assert_list(const struct buf *list, const char *want)
{
	assert_int_equal(list->n, strlen(want));
	assert_memory_equal(list->n == 0 ? "" : list->p, want, list->n);
}

/* The new one, which then has the only reference; `said` may be NULL. */
static struct config *lay(struct config *take_running, const char *text, struct config_changes *said)
{
	struct config_changes changes = {0};
	struct config *fresh = load(text);
	struct buf err = {0};

	if (!config_overlay(fresh, take_running, &changes, &err))
		fail_msg("%.*s", (int)err.n, err.p);
	if (said != NULL)
		*said = changes;
	else
		config_changes_free(&changes);
	config_unref(take_running);
	return fresh;
}

static void services_keep_their_places(void **state)
{
	struct config_changes said;
	struct config *c = load("services: {a: {kind: webhook}, b: {kind: webhook}, c: {kind: webhook}}");

	(void)state;
	c = lay(c, "services: {d: {kind: webhook}, c: {kind: webhook}, a: {kind: webhook, max_in_flight: 3}}", &said);
	assert_int_equal(c->n_services, 4);
	assert_int_equal(config_find_service(c, SLICE("a")), 0);
	assert_int_equal(config_find_service(c, SLICE("b")), -1);
	assert_int_equal(config_find_service(c, SLICE("c")), 2);
	assert_int_equal(config_find_service(c, SLICE("d")), 3);
	assert_true(c->services[1].removed && c->services[0].max_in_flight == 3);
	assert_list(&said.added, "d");
	assert_list(&said.removed, "b");
	assert_list(&said.changed, "a");
	config_changes_free(&said);
	c = lay(c, "services: {b: {kind: http, url: http://h/}}", &said);
	assert_int_equal(config_only_service(c), 1);
	assert_string_equal(c->services[1].url, "http://h/");
	assert_list(&said.added, "b");
	assert_list(&said.removed, "a, c, d");
	config_changes_free(&said);
	config_unref(c);
}

/* Each tenant's own. */
#define KEY(tenant) "{name: " #tenant ", tenant: " #tenant ", sha256: " #tenant SHA256_REST "}"
#define SHA256_REST "c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

static void tenants_keep_their_numbers(void **state)
{
	struct config *c = load("tenants: {a: {weight: 2}}\nauth: {keys: [" KEY(a) ", " KEY(b) "]}");

	(void)state;
	assert_true(config_has_several_tenants(c));
	c = lay(c, "tenants: {b: {weight: 5}}\nauth: {keys: [" KEY(c) ", " KEY(b) "]}", NULL);
	assert_int_equal(config_find_tenant(c, SLICE("a")), 1);
	assert_int_equal(config_find_tenant(c, SLICE("b")), 2);
	assert_int_equal(config_find_tenant(c, SLICE("c")), 3);
	assert_true(c->tenants[1].removed && c->tenants[1].weight == 1 && c->tenants[2].weight == 5);
	assert_true(config_has_several_tenants(c));
	c = lay(c, "tenants: {a: {weight: 7}}\nauth: {keys: [" KEY(a) "]}", NULL);
	assert_true(!c->tenants[1].removed && c->tenants[1].weight == 7 && c->n_tenants == 4);
	assert_false(config_has_several_tenants(c));
	/* One that has no key sends nothing. */
	c = lay(c, "tenants: {a: {weight: 7}, d: {weight: 1}}\nauth: {keys: [" KEY(a) "]}", NULL);
	assert_false(config_has_several_tenants(c));
	config_unref(c);
}

static void a_secret_that_changes_is_a_change(void **state)
{
	struct config_changes said;
	struct config *c = load("services: {a: {kind: webhook, secret: " SECRET "}}");

	(void)state;
	c = lay(c, "services: {a: {kind: webhook, secret: " OTHER_SECRET "}}", &said);
	assert_list(&said.changed, "a");
	config_changes_free(&said);
	c = lay(c, "services: {a: {kind: webhook, secret: " OTHER_SECRET "}}", &said);
	assert_list(&said.changed, "");
	config_changes_free(&said);
	config_unref(c);
}

static void what_needs_a_restart_stays(void **state)
{
	struct config_changes said;
	struct config *c = load("listen: 127.0.0.1:1\noperations: 127.0.0.1:2\nshards: 3\nstore: {path: /a}\n"
				"tracing: {endpoint: 'http://t/', headers: {x: y}}\n");

	(void)state;
	c = lay(c, "listen: 127.0.0.1:9\nshards: 4\nstore: {memory: true}\nlimits: {connections: 5, items: 6}\n"
		   "tls: {cert_file: /c, key_file: /k}\ntracing: {headers: {x: z}}\n", &said);
	assert_list(&said.restart, "tls, listen, operations, shards, limits.connections, store.path, store.memory, "
				   "tracing.endpoint, tracing.headers");
	assert_list(&said.settings, "limits.items");
	assert_true(c->listen_port == 1 && c->operations_port == 2 && c->shards == 3 && !c->store_memory);
	assert_true(c->limits.connections == 10000 && c->limits.items == 6 && c->tls_cert_file == NULL);
	assert_string_equal(c->store_path, "/a");
	assert_string_equal(c->tracing.endpoint, "http://t");
	assert_string_equal(c->tracing.headers[0], "x: y");
	config_changes_free(&said);
	config_unref(c);
}

static void refused(struct config *running, const char *text, const char *why)
{
	struct config_changes changes = {0};
	struct config *fresh = load(text);
	struct buf err = {0};

	assert_false(config_overlay(fresh, running, &changes, &err));
	buf_add_char(&err, '\0');
	assert_non_null(strstr(err.p, why));
	config_changes_free(&changes);
	buf_free(&err);
	config_unref(fresh);
}

#define SHA256 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void what_would_open_it_to_everybody_is_refused(void **state)
{
	struct config *c = load("listen: 0.0.0.0:1\nauth: {open: true}\n");

	(void)state;
	refused(c, "log: {}", "keep a key");
	config_unref(c);
	c = load("auth: {keys: [{name: k, tenant: t, sha256: " SHA256 "}]}\n");
	refused(c, "log: {}", "callers need a key");
	config_unref(c);
	c = load("operations: 0.0.0.0:1\nauth: {open_operations: true}\n");
	refused(c, "log: {}", "open_operations");
	config_unref(c);
}

static void a_file_that_says_nothing_is_refused(void **state)
{
	struct config *c = load("limits: {items: 3}\n");

	(void)state;
	refused(c, "", "the file is empty");
	refused(c, "# soon\n", "the file is empty");
	refused(c, "{}", "the file is empty");
	config_unref(c);
}

static void add_many(struct buf *text, const char *section, unsigned from, unsigned n, const char *what)
{
	buf_printf(text, "%s:\n", section);
	for (unsigned i = 0; i < n; i++)
		buf_printf(text, "  n%u: %s\n", from + i, what);
	buf_add_char(text, '\0');
}

static void add_tenants(struct buf *text, unsigned n)
{
	buf_add_str(text, "auth:\n  keys:\n");
	for (unsigned i = 0; i < n; i++)
		buf_printf(text, "    - {name: n%u, tenant: n%u, sha256: '%064x'}\n", i, i, i + 1);
	buf_add_char(text, '\0');
}

static void there_is_room_for_so_many(void **state)
{
	struct buf services = {0}, tenants = {0};
	struct config *c = load("{}");

	(void)state;
	add_many(&services, "services", 0, 256, "{kind: webhook}");
	refused(c, services.p, "257 services");
	config_unref(c);
	add_tenants(&tenants, 1000);
	c = load(tenants.p);
	refused(c, "auth: {keys: [" KEY(a) "]}", "1001 tenants");
	config_unref(c);
	buf_free(&services);
	buf_free(&tenants);
}

#define LANES(n, more) "services: {a: {kind: http, url: 'http://h/', lanes: " #n more "}}"

static void the_number_of_lanes_needs_a_restart(void **state)
{
	struct config_changes said;
	struct config *c = load(LANES(4, ""));

	(void)state;
	c = lay(c, LANES(2, ", max_in_flight: 9"), &said);
	assert_list(&said.restart, "services.a.lanes");
	assert_list(&said.changed, "a");
	assert_true(c->services[0].lanes == 4 && c->services[0].max_in_flight == 9);
	config_changes_free(&said);
	/* Attempts of what was removed may still be in flight when it is back. */
	c = lay(c, "services: {b: {kind: webhook}}", &said);
	assert_list(&said.restart, "");
	assert_int_equal(c->services[0].lanes, 4);
	config_changes_free(&said);
	c = lay(c, LANES(1, ""), &said);
	assert_list(&said.restart, "services.a.lanes");
	assert_int_equal(c->services[0].lanes, 4);
	config_changes_free(&said);
	refused(c, LANES(2, ", max_in_flight: 3"), "services.a: it has 4 lanes until a restart, too many to share "
		"max_in_flight, of which there are 3: raise what they share, or restart\n");
	refused(c, LANES(2, ", rate: {per_second: 10, burst: 2}"), "too many to share rate.burst");
	config_unref(c);
}

static void what_is_printed_loads_as_the_same(void **state)
{
	struct buf first = {0}, second = {0};
	struct config *c = load("listen: '[::1]:7'\noperations: 127.0.0.1:8\nlimits: {items: 9}\nstore: {memory: true}\n"
				"tenants: {t: {items_per_second: 2.125}}\nauth: {keys: [{name: 'null', tenant: t, sha256: "
				"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}]}\n"
				"services:\n  a: {kind: http, url: 'http://h/{to}?q=%7D', method: PUT, refuses_with: [503], "
				"rate: {per_second: 0.5, burst: 3}}\n  b: {kind: webhook, allow: [10.0.0.0/8, 'fd00::/8', 1.2.3.4]}\n");

	(void)state;
	config_print(c, &first);
	buf_add_char(&first, '\0');
	config_unref(c);
	c = load(first.p);
	config_print(c, &second);
	buf_add_char(&second, '\0');
	assert_string_equal(first.p, second.p);
	assert_int_equal(c->tenants[1].items_per_second * 1000, 2125);
	assert_true(c->services[1].n_allow == 3 && c->services[0].rate.burst == 3);
	config_unref(c);
	buf_free(&first);
	buf_free(&second);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(services_keep_their_places),
		cmocka_unit_test(a_file_that_says_nothing_is_refused),
		cmocka_unit_test(tenants_keep_their_numbers),
		cmocka_unit_test(a_secret_that_changes_is_a_change),
		cmocka_unit_test(what_needs_a_restart_stays),
		cmocka_unit_test(what_would_open_it_to_everybody_is_refused),
		cmocka_unit_test(there_is_room_for_so_many),
		cmocka_unit_test(the_number_of_lanes_needs_a_restart),
		cmocka_unit_test(what_is_printed_loads_as_the_same),
	};
	int fd = mkstemp(path), ret;

	close(fd);
	ret = cmocka_run_group_tests_name("config_reload", tests, NULL, NULL);
	unlink(path);
	return ret;
}
