/* auth.keys and tenants: what is read, and what is refused, with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"

#define A "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
#define B "FCDE2B2EDBA56BF408601FB721FE9B5C338D10EE429EA04FAE5511B68FBF8FB9"

/* Loads the text as a file; NULL: *reterr. */
static struct config *load_text(const char *text, struct buf *reterr)
{
	char path[] = "/tmp/settled-auth-XXXXXX";
	int fd = mkstemp(path);
	struct config *c;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	c = config_load(path, reterr);
	unlink(path);
	return c;
}

static struct config *load(const char *text)
{
	struct buf err = {0};
	struct config *c = load_text(text, &err);

	if (c == NULL)
		fail_msg("%.*s", (int)err.n, err.p);
	buf_free(&err);
	return c;
}

/* The whole list of errors, without the file's name. */
static void refused(const char *text, const char *want)
{
	struct buf err = {0}, got = {0};

	assert_null(load_text(text, &err));
	buf_add_char(&err, '\0');
	for (char *line = strtok(err.p, "\n"); line != NULL; line = strtok(NULL, "\n"))
		buf_printf(&got, "%s\n", strchr(line, ':') + 1);
	buf_add_char(&got, '\0');
	assert_string_equal(got.p, want);
	buf_free(&err);
	buf_free(&got);
}

static void keys_and_tenants_are_read(void **state)
{
	struct config *c = load(
		"auth:\n  keys:\n    - {name: one, tenant: shop, sha256: " A "}\n"
		"    - {name: two, scope: admin, sha256: '" B "'}\n"
		"    - {name: three, tenant: new-one, scope: tenant, sha256: 00000000000000000000000000000000000000000000000000000000000000ff}\n"
		"    - {name: four, tenant: mail, sha256: 00000000000000000000000000000000000000000000000000000000000000fe}\n"
		"tenants:\n  mail: {}\n  shop: {weight: 3, max_priority: 7, batches_per_second: 0.5, items_per_second: 2000.125, "
		"queued_items: 9}\n");

	(void)state;
	assert_int_equal(c->n_keys, 4);
	assert_string_equal(c->keys[0].name, "one");
	assert_true(slice_eq(c->keys[0].tenant, SLICE("shop")));
	assert_int_equal(c->keys[0].scope, KEY_TENANT);
	assert_int_equal(c->keys[0].sha256[0], 0x2c);
	assert_int_equal(c->keys[0].sha256[31], 0xae);
	assert_int_equal(c->keys[1].scope, KEY_ADMIN);
	assert_int_equal(c->keys[1].tenant.n, 0);
	assert_int_equal(c->keys[1].sha256[31], 0xb9);
	assert_int_equal(c->n_tenants, 4);
	assert_string_equal(c->tenants[0].name, "");
	assert_int_equal(config_find_tenant(c, SLICE("mail")), 1);
	assert_int_equal(config_find_tenant(c, SLICE("shop")), 2);
	assert_int_equal(config_find_tenant(c, SLICE("new-one")), 3);
	assert_int_equal(config_find_tenant(c, SLICE("nobody")), 0);
	assert_int_equal(config_find_tenant(c, (struct slice){0}), 0);
	assert_int_equal(c->tenants[2].weight, 3);
	assert_int_equal(c->tenants[2].max_priority, 7);
	assert_true(c->tenants[2].batches_per_second == 0.5 && c->tenants[2].items_per_second == 2000.125);
	assert_int_equal(c->tenants[2].queued_items, 9);
	config_unref(c);
}

static void who_is_only_named_has_the_defaults(void **state)
{
	struct config *c = load("auth: {keys: [{name: a, tenant: shop, sha256: " A "}]}\n");

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		const struct tenant *t = &c->tenants[i];

		assert_int_equal(t->weight, 1);
		assert_int_equal(t->max_priority, 9);
		assert_true(t->batches_per_second == 0 && t->items_per_second == 0);
		assert_int_equal(t->queued_items, 0);
	}
	config_unref(c);
	c = config_load(NULL, &(struct buf){0});
	assert_int_equal(c->n_tenants, 1);
	assert_int_equal(c->n_keys, 0);
	config_unref(c);
	/* Everything may be commented out. */
	config_unref(load("auth:\n  keys:\ntenants:\n"));
}

static void a_key_is_whole(void **state)
{
	(void)state;
	refused("auth:\n  keys:\n    - {name: a, sha256: " A "}\n",
		"3:7: auth.keys[0]: it has no tenant: give the name of whose key it is, or scope: admin\n");
	refused("auth:\n  keys:\n    - {name: a, scope: admin, tenant: shop, sha256: " A "}\n",
		"3:31: auth.keys[0].tenant: an admin key is nobody's: leave it out, or give scope: tenant\n");
	refused("auth:\n  keys:\n    - {tenant: shop}\n",
		"3:7: auth.keys[0]: it has no name: give one, by which people know it\n"
		"3:7: auth.keys[0]: it has no sha256: give that of the key, such as from `printf %s KEY | sha256sum`\n");
	refused("auth:\n  keys:\n    - {name: A B, tenant: shop, sha256: " A "}\n",
		"3:14: auth.keys[0].name: A B is not a name: use 1 to 64 of a-z, 0-9, _ and -\n");
	refused("auth:\n  keys:\n    - {name: a, tenant: shop, scope: root, sha256: " A "}\n",
		"3:38: auth.keys[0].scope: root is not known: give tenant or admin\n");
	refused("auth:\n  keys: [word]\n", "2:10: auth.keys[0]: not a key: give {name: N, tenant: T, sha256: HEX}\n");
	refused("auth:\n  keys: {a: b}\n", "2:3: auth.keys: not a list: give [{name: N, tenant: T, sha256: HEX}]\n");
}

/* It may be the key itself: never shown. */
static void a_hash_has_64_digits(void **state)
{
	static const char *const wrong[] = {
		"hunter2", "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7a", A "0",
		"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ag",
	};
	char text[256];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		snprintf(text, sizeof text, "auth:\n  keys:\n    - {name: a, tenant: shop, sha256: %s}\n", wrong[i]);
		refused(text, "3:39: auth.keys[0].sha256: not a SHA-256: give its 64 hexadecimal digits, such as from "
			      "`printf %s KEY | sha256sum`\n");
	}
}

static void no_two_keys_are_the_same(void **state)
{
	(void)state;
	refused("auth:\n  keys:\n    - {name: a, tenant: shop, sha256: " A "}\n    - {name: a, tenant: mail, sha256: " B "}\n",
		"4:14: auth.keys[1].name: a is the name of another key: give each its own\n");
	refused("auth:\n  keys:\n    - {name: a, tenant: shop, sha256: " A "}\n    - {name: b, tenant: mail, sha256: " A "}\n",
		"4:39: auth.keys[1].sha256: the same as that of the key a: give each its own\n");
}

#define KEY_OF_A "auth: {keys: [{name: k, tenant: a, sha256: " A "}]}\n"

static void a_tenant_without_a_key_is_known_as_such(void **state)
{
	struct config *c = load("tenants:\n  a: {}\n  b: {weight: 2}\n" KEY_OF_A);

	(void)state;
	assert_false(c->tenants[config_find_tenant(c, SLICE("a"))].keyless);
	assert_true(c->tenants[config_find_tenant(c, SLICE("b"))].keyless);
	config_unref(c);
}

static void tenants_are_named_and_bounded(void **state)
{
	struct buf text = {0}, err = {0};

	(void)state;
	refused("tenants: [a]\n", "1:1: tenants: not a map: give tenants as NAME: {weight: 1}\n");
	refused("tenants:\n  A: {}\n", "2:3: tenants.A: not a tenant's name: use 1 to 64 of a-z, 0-9, _ and -\n");
	refused("tenants:\n  a: {wight: 2}\n" KEY_OF_A, "2:7: tenants.a.wight: unknown key: did you mean weight?\n");
	refused("tenants:\n  a: {weight: 0}\n" KEY_OF_A, "2:15: tenants.a.weight: 0 is out of range: give 1 to 1000 shares\n");
	refused("tenants:\n  a: {max_priority: 10}\n" KEY_OF_A,
		"2:21: tenants.a.max_priority: 10 is out of range: give 0 to 9 levels\n");
	buf_add_str(&text, "auth:\n  keys:\n");
	for (unsigned i = 0; i < TENANTS_MAX; i++)
		buf_printf(&text, "    - {name: k%u, tenant: t%u, sha256: '%064x'}\n", i, i, i + 1);
	buf_add_char(&text, '\0');
	config_unref(load(text.p));
	text.n--;
	buf_add_str(&text, "tenants: {one-more: {}}\n");
	buf_add_char(&text, '\0');
	assert_null(load_text(text.p, &err));
	buf_add_char(&err, '\0');
	assert_non_null(strstr(err.p, "more than 1000 tenants"));
	buf_free(&text);
	buf_free(&err);
}

static void keys_are_bounded(void **state)
{
	struct buf text = {0}, err = {0};

	(void)state;
	buf_add_str(&text, "auth:\n  keys:\n");
	for (unsigned i = 0; i <= AUTH_KEYS_MAX; i++)
		buf_printf(&text, "    - {name: k%u, scope: admin, sha256: %064x}\n", i, i + 1);
	buf_add_char(&text, '\0');
	assert_null(load_text(text.p, &err));
	buf_add_char(&err, '\0');
	assert_non_null(strstr(err.p, ":2:3: auth.keys: more than 1000 keys: take some away\n"));
	*strstr(text.p, "    - {name: k1000,") = '\0';
	config_unref(load(text.p));
	buf_free(&text);
	buf_free(&err);
}

static void open_and_keys_contradict_each_other(void **state)
{
	(void)state;
	refused("auth:\n  open: true\n  keys: [{name: a, tenant: shop, sha256: " A "}]\n",
		"2:9: auth.open: auth.keys asks every caller for a key: leave one of the two out\n");
}

static void beyond_loopback_with_keys_or_what_says_so(void **state)
{
	static const char *const fine[] = {
		"listen: 0.0.0.0:1\nauth: {keys: [{name: a, tenant: shop, sha256: " A "}]}\n",
		"operations: 127.0.0.1:2\n",
		"operations: '[::1]:2'\n",
		"operations: '[::1]:8080'\n",
		"listen: 127.0.0.1:0\noperations: 127.0.0.1:0\n",
		"operations: 0.0.0.0:2\nauth: {open_operations: true}\n",
		"operations: 10.0.0.1:2\nauth: {open: true}\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fine); i++)
		config_unref(load(fine[i]));
	refused("operations: 10.0.0.1:2\nauth: {keys: [{name: a, tenant: shop, sha256: " A "}]}\n",
		"1:13: operations: 10.0.0.1 can be reached from other machines, and nobody is asked for a key there: give an "
		"address of 127.0.0.0/8, or set auth: {open_operations: true}\n");
	/* An open address for operations opens no other. */
	refused("listen: 0.0.0.0:1\nauth: {open_operations: true}\n",
		"1:9: listen: 0.0.0.0 can be reached from other machines and no caller is asked for a key: give auth.keys, "
		"listen on 127.0.0.1, or set auth: {open: true}\n");
	refused("operations: 127.0.0.1:8080\n", "1:13: operations: the same address as listen: give it another port\n");
	refused("listen: '[::1]:2'\noperations: '[::1]:2'\n",
		"2:13: operations: the same address as listen: give it another port\n");
	refused("operations: 80\n",
		"1:13: operations: 80 is not an address and a port: give them as 127.0.0.1:8080 or [::1]:8080\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_and_tenants_are_read),
		cmocka_unit_test(who_is_only_named_has_the_defaults),
		cmocka_unit_test(a_key_is_whole),
		cmocka_unit_test(a_hash_has_64_digits),
		cmocka_unit_test(no_two_keys_are_the_same),
		cmocka_unit_test(a_tenant_without_a_key_is_known_as_such),
		cmocka_unit_test(tenants_are_named_and_bounded),
		cmocka_unit_test(keys_are_bounded),
		cmocka_unit_test(open_and_keys_contradict_each_other),
		cmocka_unit_test(beyond_loopback_with_keys_or_what_says_so),
	};

	return cmocka_run_group_tests_name("config_auth", tests, NULL, NULL);
}
