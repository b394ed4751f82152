/* What a tenant may send, by a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "dispatch/tenants-i.h"

enum { SECOND = 1000000 };

static struct dispatch_tenant t;

static int setup(void **state)
{
	(void)state;
	memset(&t, 0, sizeof t);
	return 0;
}

static int64_t take(const struct tenant *may, uint32_t n, int64_t now_us)
{
	return quota_take(&t, may, n, now_us);
}

static void without_a_quota_all_is_taken(void **state)
{
	const struct tenant may = {.queued_items = 1};
	struct dispatch_quota q[DISPATCH_QUOTAS];

	(void)state;
	for (int i = 0; i < 100; i++)
		assert_int_equal(take(&may, 1000000, 1), 0);
	assert_int_equal(dispatch_quotas(&t, &may, 1, q), 1);
	assert_string_equal(q[0].name, "queued");
}

static void a_seconds_worth_comes_at_once_and_then_the_rate(void **state)
{
	const struct tenant may = {.batches_per_second = 4};
	int64_t now_us = 77 * SECOND;

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(take(&may, 9, now_us), 0);
	assert_int_equal(take(&may, 9, now_us), SECOND / 4);
	assert_int_equal(take(&may, 9, now_us + SECOND / 4 - 1), 1);
	assert_int_equal(take(&may, 9, now_us + SECOND / 4), 0);
	assert_int_equal(take(&may, 9, now_us + SECOND / 4), SECOND / 4);
	/* Rest earns no more than a second's worth. */
	for (int i = 0; i < 4; i++)
		assert_int_equal(take(&may, 9, now_us + 100 * SECOND), 0);
	assert_int_equal(take(&may, 9, now_us + 100 * SECOND), SECOND / 4);
}

static void less_than_one_a_second_is_one_at_once(void **state)
{
	const struct tenant may = {.batches_per_second = 0.25};

	(void)state;
	assert_int_equal(take(&may, 1, 0), 0);
	assert_int_equal(take(&may, 1, SECOND), 3 * SECOND);
	assert_int_equal(take(&may, 1, 4 * SECOND), 0);
}

static void a_large_batch_goes_when_all_is_there_and_is_paid_for(void **state)
{
	const struct tenant may = {.items_per_second = 10};

	(void)state;
	assert_int_equal(take(&may, 1, 50 * SECOND), 0);
	/* One of ten is missing. */
	assert_int_equal(take(&may, 100, 50 * SECOND), SECOND / 10);
	assert_int_equal(take(&may, 100, 50 * SECOND + SECOND / 10), 0);
	/* A hundred at ten a second, and a second's worth may be owed. */
	assert_int_equal(take(&may, 1, 50 * SECOND + SECOND / 10), 91 * SECOND / 10);
	assert_int_equal(take(&may, 10, 50 * SECOND + SECOND / 10), 10 * SECOND);
	assert_int_equal(take(&may, 10, 60 * SECOND + SECOND / 10), 0);
}

static void both_are_taken_or_neither(void **state)
{
	const struct tenant may = {.batches_per_second = 2, .items_per_second = 10};

	(void)state;
	assert_int_equal(take(&may, 10, SECOND), 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(take(&may, 5, SECOND), SECOND / 2);
	assert_int_equal(take(&may, 0, SECOND), SECOND / 10);
	assert_int_equal(take(&may, 5, SECOND + SECOND / 2), 0);
}

static void what_is_given_back_is_there_again_and_no_more(void **state)
{
	const struct tenant may = {.batches_per_second = 2, .items_per_second = 10};

	(void)state;
	for (int i = 0; i < 50; i++) {
		assert_int_equal(take(&may, 10, SECOND), 0);
		assert_true(take(&may, 1, SECOND) > 0);
		quota_give_back(&t, &may, 10);
	}
	assert_int_equal(take(&may, 10, SECOND), 0);
	assert_true(take(&may, 1, SECOND) > 0);
	/* Late, when the time has paid for it already. */
	quota_give_back(&t, &may, 10);
	assert_int_equal(take(&may, 10, 9 * SECOND), 0);
	assert_true(take(&may, 1, 9 * SECOND) > 0);
}

enum { THREADS = 4 };

/* All at the same moment, until there is nothing left. */
static void *take_all(void *arg)
{
	const struct tenant may = {.batches_per_second = 1000000};
	uintptr_t taken = 0;

	pthread_barrier_wait(arg);
	while (take(&may, 2, SECOND) == 0)
		taken++;
	return (void *)taken;
}

static void of_several_threads_none_gets_more(void **state)
{
	pthread_t threads[THREADS];
	pthread_barrier_t together;
	uintptr_t sum = 0;
	void *taken;

	(void)state;
	pthread_barrier_init(&together, NULL, THREADS);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_all, &together), 0);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], &taken), 0);
		sum += (uintptr_t)taken;
	}
	pthread_barrier_destroy(&together);
	assert_int_equal(sum, 1000000);
}

static void what_is_left_is_told(void **state)
{
	const struct tenant may = {.batches_per_second = 2.5, .items_per_second = 10, .queued_items = 20};
	struct dispatch_quota q[DISPATCH_QUOTAS];

	(void)state;
	atomic_store(&t.queued, 15);
	assert_int_equal(take(&may, 4, SECOND), 0);
	assert_int_equal(dispatch_quotas(&t, &may, SECOND, q), 3);
	assert_string_equal(q[0].name, "batches");
	assert_null(q[0].unit);
	assert_int_equal(q[0].most, 3);
	assert_int_equal(q[0].left, 2);
	assert_int_equal(q[0].window_s, 2);
	assert_int_equal(q[0].full_s, 1);
	assert_int_equal(q[1].most, 10);
	assert_int_equal(q[1].left, 6);
	assert_int_equal(q[1].window_s, 1);
	assert_string_equal(q[1].unit, "items");
	assert_int_equal(q[2].most, 20);
	assert_int_equal(q[2].left, 5);
	assert_int_equal(q[2].window_s, 0);
	assert_int_equal(dispatch_quotas(&t, &may, 9 * SECOND, q), 3);
	assert_int_equal(q[0].left, 3);
	assert_int_equal(q[1].left, 10);
	assert_int_equal(q[1].full_s, 0);
	/* In debt, and with more unfinished than a smaller quota lets in. */
	assert_int_equal(take(&may, 1000, 9 * SECOND), 0);
	atomic_store(&t.queued, 25);
	dispatch_quotas(&t, &may, 9 * SECOND, q);
	assert_int_equal(q[1].left, 0);
	assert_int_equal(q[1].full_s, 100);
	assert_int_equal(q[2].left, 0);
}

static void what_is_owed_is_paid_at_the_new_rate(void **state)
{
	const struct tenant slow = {.items_per_second = 1, .batches_per_second = 1}, none = {0};
	const struct tenant fast = {.items_per_second = 100, .batches_per_second = 100};

	(void)state;
	assert_int_equal(take(&slow, 1000, SECOND), 0);
	assert_true(take(&slow, 1, SECOND) > 900 * (int64_t)SECOND);
	dispatch_quota_change(&t, &slow, &fast, SECOND);
	assert_in_range(take(&fast, 100, SECOND), 10 * SECOND, 10 * SECOND + 1);
	/* And there and back it is as it was. */
	dispatch_quota_change(&t, &fast, &slow, SECOND);
	assert_true(take(&slow, 1, SECOND) > 900 * (int64_t)SECOND);
	dispatch_quota_change(&t, &slow, &fast, SECOND);
	assert_in_range(take(&fast, 100, SECOND), 10 * SECOND, 10 * SECOND + 1);
	assert_int_equal(take(&fast, 100, 11 * SECOND + 1), 0);
	dispatch_quota_change(&t, &fast, &none, 11 * SECOND + 1);
	dispatch_quota_change(&t, &none, &slow, 11 * SECOND + 1);
	assert_int_equal(take(&slow, 1, 11 * SECOND + 1), 0);
}

static void a_name_is_kept_once_for_each(void **state)
{
	static struct dispatch_tenants all;
	struct tenant tenants[] = {{.name = ""}, {.name = "shop"}};
	const struct config c = {.tenants = tenants, .n_tenants = 2};
	const char *shop = dispatch_tenants_name(&all, SLICE("shop"));

	(void)state;
	assert_string_equal(shop, "shop");
	assert_ptr_equal(dispatch_tenants_name(&all, (struct slice){"shopping", 4}), shop);
	assert_ptr_not_equal(dispatch_tenants_name(&all, SLICE("shoq")), shop);
	assert_string_equal(dispatch_tenants_name(&all, (struct slice){0}), "");
	assert_ptr_equal(dispatch_tenant_name(&all, &c, 1).p, shop);
	assert_ptr_equal(dispatch_tenant_name(&all, &c, 1).p, shop);
	assert_int_equal(dispatch_tenant_name(&all, &c, 0).n, 0);
	assert_non_null(dispatch_tenant_name(&all, &c, 0).p);
	dispatch_tenants_free(&all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(without_a_quota_all_is_taken, setup),
		cmocka_unit_test_setup(a_seconds_worth_comes_at_once_and_then_the_rate, setup),
		cmocka_unit_test_setup(less_than_one_a_second_is_one_at_once, setup),
		cmocka_unit_test_setup(a_large_batch_goes_when_all_is_there_and_is_paid_for, setup),
		cmocka_unit_test_setup(both_are_taken_or_neither, setup),
		cmocka_unit_test_setup(what_is_given_back_is_there_again_and_no_more, setup),
		cmocka_unit_test_setup(of_several_threads_none_gets_more, setup),
		cmocka_unit_test_setup(what_is_left_is_told, setup),
		cmocka_unit_test_setup(what_is_owed_is_paid_at_the_new_rate, setup),
		cmocka_unit_test(a_name_is_kept_once_for_each),
	};

	return cmocka_run_group_tests_name("quota", tests, NULL, NULL);
}
