#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "config/config-i.h"

#define KEY24 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"

static void urls_are_checked(void **state)
{
	static const char *const fine[] = {
		"http://h", "HTTPS://h:1?{to}", "http://[::1]:65535/", "http://1.2.3.4/a%2f{to}{to}", "http://a_b.c-d/~!$&'()*+,;=:@",
	};
	static const struct {
		const char *url, *problem;
	} wrong[] = {
		{"ftp://h/", "not an http or https URL: begin it with http:// or https://"},
		{"http:/h", "not an http or https URL: begin it with http:// or https://"},
		{"http://", "has no valid host: give a name or an address, IPv6 in [brackets]"},
		{"http://:80/", "has no valid host: give a name or an address, IPv6 in [brackets]"},
		{"http://[::g]/", "has no valid host: give a name or an address, IPv6 in [brackets]"},
		{"http://h h/", "has no valid host: use letters, digits, dots and hyphens"},
		{"http://h\\x/", "has no valid host: use letters, digits, dots and hyphens"},
		{"http://u:p@h/", "holds a user name or password: send an authorization header instead"},
		{"http://{to}/", "{to} stands before the path: it may stand in the path or in the query"},
		{"http://h:{to}/", "{to} stands before the path: it may stand in the path or in the query"},
		{"http://h:0/", "has no valid port: give 1 to 65535"},
		{"http://h:/", "has no valid port: give 1 to 65535"},
		{"http://h:65536/", "has no valid port: give 1 to 65535"},
		{"http://h/{id}", "has a brace that is not part of {to}: write %7B or %7D"},
		{"http://h/}", "has a brace that is not part of {to}: write %7B or %7D"},
		{"http://h/#{to}", "has a fragment: leave out the # and what follows"},
		{"http://h/a b", "has a character that no URL may hold: percent-encode it"},
		{"http://h/é", "has a character that no URL may hold: percent-encode it"},
		{"http://h/%2", "has a % without two hexadecimal digits: write %25 for a plain %"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fine); i++)
		assert_null(cfg_check_url(fine[i]));
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_string_equal(cfg_check_url(wrong[i].url), wrong[i].problem);
}

static void a_secret_is_decoded_to_its_bytes(void **state)
{
	static const char *const wrong[] = {
		"", "whsec_", "whsec_AAAA", KEY24, "whsec_" KEY24 "A", "whsec_*" KEY24 "AAA", "whsec_AA=A" KEY24,
		"whsec_" KEY24 "====", "whsec_" KEY24 KEY24 KEY24, "Whsec_" KEY24, "whsec_" KEY24 "AA==\n",
		"whsec_" KEY24 "A-_=", "whsec_====" KEY24,
	};
	struct slice key = {0};

	(void)state;
	assert_null(cfg_check_secret(SLICE("whsec_" KEY24 "+/8="), &key));
	assert_int_equal(key.n, 26);
	for (size_t i = 0; i < 24; i++)
		assert_int_equal(key.p[i], i);
	assert_memory_equal(key.p + 24, "\xfb\xff", 2);
	free((char *)key.p);
	assert_null(cfg_check_secret(SLICE("whsec_" KEY24 KEY24 "AAAAAAAAAAAAAAAAAAAAAA=="), &key));
	assert_int_equal(key.n, 64);
	free((char *)key.p);
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_string_equal(cfg_check_secret(slice_str(wrong[i]), &key),
		                    "not a signing secret: give whsec_ and the base64 of 24 to 64 random bytes");
}

static void a_service_name_fits_a_label_and_a_path(void **state)
{
	char name[66];

	(void)state;
	memset(name, 'a', sizeof name);
	assert_true(cfg_check_name(SLICE("a-b_0")));
	assert_true(cfg_check_name((struct slice){name, 64}));
	assert_false(cfg_check_name((struct slice){name, 65}));
	assert_false(cfg_check_name(SLICE("")));
	assert_false(cfg_check_name(SLICE("a.b")));
	assert_false(cfg_check_name(SLICE("a/b")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(urls_are_checked),
		cmocka_unit_test(a_secret_is_decoded_to_its_bytes),
		cmocka_unit_test(a_service_name_fits_a_label_and_a_path),
	};

	return cmocka_run_group_tests_name("config_check", tests, NULL, NULL);
}
