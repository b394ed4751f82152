/* The process as a whole: what it plans for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "app/app-i.h"

static struct config config_of(unsigned shards, unsigned connections, unsigned in_flight)
{
	return (struct config){.shards = shards, .limits = {.connections = connections, .in_flight = in_flight}};
}

static void caps_that_fit_stay(void **state)
{
	struct config c = config_of(2, 10000, 4096);

	(void)state;
	assert_false(limits_fit(&c, 64 + 2 * (8 + 2 * LOOKUPS) + 10000 + 2 * 4096));
	assert_int_equal(c.limits.connections, 10000);
	assert_int_equal(c.limits.in_flight, 4096);
	assert_true(limits_fit(&c, 64 + 2 * (8 + 2 * LOOKUPS) + 10000 + 2 * 4096 - 1));
}

static void caps_never_exceed_the_descriptors_and_keep_their_proportion(void **state)
{
	(void)state;
	for (unsigned shards = 1; shards <= 64; shards++) {
		unsigned fixed = 64 + shards * (8 + 2 * LOOKUPS);

		for (unsigned fds = fixed + 4 * shards; fds < fixed + 6000; fds += 97) {
			struct config c = config_of(shards, 6000 * shards, 2000);

			assert_true(limits_fit(&c, fds) == (fds < fixed + 8000 * shards));
			assert_true(fixed + c.limits.connections + shards * c.limits.in_flight <= fds ||
				    fds >= fixed + 8000 * shards);
			assert_in_range(c.limits.connections, 3 * shards * c.limits.in_flight,
					3 * shards * (c.limits.in_flight + 1));
		}
	}
}

static void each_shard_keeps_one_connection_and_one_attempt(void **state)
{
	struct config c = config_of(4, UINT32_MAX, UINT32_MAX);

	(void)state;
	assert_true(limits_fit(&c, 20));
	assert_int_equal(c.limits.connections, 4);
	assert_int_equal(c.limits.in_flight, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(caps_that_fit_stay),
		cmocka_unit_test(caps_never_exceed_the_descriptors_and_keep_their_proportion),
		cmocka_unit_test(each_shard_keeps_one_connection_and_one_attempt),
	};

	return cmocka_run_group_tests_name("app", tests, NULL, NULL);
}
