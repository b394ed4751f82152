/* The key of a line of Authorization, and which of those that are configured it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/digest.h"
#include "routes/routes-i.h"

static void a_key_is_one_word_after_bearer(void **state)
{
	static const char *const none[] = {
		NULL, "", "Bearer", "Bearer ", "Bearer   ", "Bearerkey", "Basic key", "Bearer a b", "Bearer a\tb", " Bearer a",
		"Bearer \x7f", "Bearer \xc3\xa4", "Bearer a\rb", "key", "Bear key", "\tBearer a",
	};
	static const char *const some[] = {"Bearer key", "bearer key", "BEARER  key ", "Bearer \tkey"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(none); i++)
		assert_int_equal(auth_bearer(none[i]).n, 0);
	for (size_t i = 0; i < ARRAY_LEN(some); i++)
		assert_true(slice_eq(auth_bearer(some[i]), SLICE("key")));
	assert_true(slice_eq(auth_bearer("Bearer !~\"{}"), SLICE("!~\"{}")));
}

static void a_key_is_bounded(void **state)
{
	enum { MOST = 1024 };
	char line[7 + MOST + 2] = "Bearer ";

	(void)state;
	memset(line + 7, 'k', MOST);
	assert_int_equal(auth_bearer(line).n, MOST);
	line[7 + MOST] = 'k';
	assert_int_equal(auth_bearer(line).n, 0);
}

static void only_the_key_itself_is_found(void **state)
{
	static const char *const texts[] = {"first", "second", "third"};
	struct auth_key keys[ARRAY_LEN(texts)] = {0};
	struct config c = {.keys = keys, .n_keys = ARRAY_LEN(texts)};
	static const char *const wrong[] = {"", "firs", "firstt", "First", "fourth"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_true(digest_sha256(slice_str(texts[i]), keys[i].sha256));
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_ptr_equal(auth_find(&c, slice_str(texts[i])), &keys[i]);
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_null(auth_find(&c, slice_str(wrong[i])));
	c.n_keys = 0;
	assert_null(auth_find(&c, SLICE("first")));
}

static void digests_are_equal_in_every_byte(void **state)
{
	unsigned char a[DIGEST_BYTES] = {0}, b[DIGEST_BYTES] = {0};

	(void)state;
	assert_true(digest_equal(a, b));
	for (size_t i = 0; i < DIGEST_BYTES; i++) {
		b[i] = 0x80;
		assert_false(digest_equal(a, b));
		b[i] = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_key_is_one_word_after_bearer),
		cmocka_unit_test(a_key_is_bounded),
		cmocka_unit_test(only_the_key_itself_is_found),
		cmocka_unit_test(digests_are_equal_in_every_byte),
	};

	return cmocka_run_group_tests_name("auth", tests, NULL, NULL);
}
