/*
 * What the tests of admission and shedding share: batches of any size, and the
 * look at what is counted when all is over.
 */
#pragma once

#include <errno.h>

#include "dispatch-rig.h"
#include "dispatch/shed-i.h"

enum { ONE, TWO };

enum { NOBODY, SHOP, POST };

static struct tenant tenants[] = {
	[NOBODY] = {.name = "", .weight = 1, .max_priority = PRIORITY_MAX},
	[SHOP] = {.name = "shop", .weight = 1, .max_priority = PRIORITY_MAX},
	[POST] = {.name = "post", .weight = 1, .max_priority = PRIORITY_MAX},
};

/* ---- batches of any size ---- */

static struct batch *ask_for(uint32_t n, uint16_t service, enum contract contract, unsigned priority)
{
	struct batch *b = batch_new(NULL, n);

	b->policy = (struct policy){.contract = contract, .concurrency = 8, .deadline_ms = 86400000,
				    .priority = priority, .retry = {10, 1000, 3600000}};
	b->metadata = SLICE("{}");
	for (uint32_t i = 0; i < n; i++) {
		b->items[i].id = b->items[i].to = b->items[i].payload = SLICE("1");
		b->items[i].service = service;
	}
	return b;
}

/* The batch, which is the caller's to drop, or NULL if it is refused. */
static struct batch *submit(struct batch *b)
{
	int err;

	fake_loop_enter(rig.loop);
	err = dispatch_submit(rig.d, batch_ref(b), &listener, NULL);
	if (err == 0)
		return b;
	assert_int_equal(err, -EBUSY);
	batch_unref(b);
	batch_unref(b);
	return NULL;
}

static struct batch *plain(uint32_t n, uint16_t service, unsigned priority)
{
	return submit(ask_for(n, service, CONTRACT_PARTIAL_SUCCESS, priority));
}

static struct batch *effort(uint32_t n, uint16_t service, unsigned priority)
{
	return submit(ask_for(n, service, CONTRACT_BEST_EFFORT, priority));
}

static void assert_accepted(struct batch *b)
{
	assert_non_null(b);
	batch_unref(b);
}

static void assert_refused(struct batch *b, const char *what)
{
	struct dispatch_refusal r = dispatch_last_refusal(rig.d);

	assert_null(b);
	assert_non_null(strstr(r.detail, what));
	assert_in_range(r.retry_after_s, 1, 60);
}

static uint32_t count_shed(const struct batch *b)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->n_items; i++) {
		const struct item *it = &b->items[i];

		if (it->state != ITEM_FINAL || it->stop != STOP_SHED)
			continue;
		assert_int_equal(it->code, CODE_NOT_ATTEMPTED);
		assert_int_equal(it->status, STATUS_NOT_ATTEMPTED);
		assert_int_equal(it->attempts, 0);
		n++;
	}
	return n;
}

static uint32_t unfinished(void)
{
	return atomic_load(&rig.group.unfinished);
}

static bool four_sent(void)
{
	return rig.n_sent == 4;
}

/* Everything that is counted, of everything that there was, is zero at the end. */
static int close_and_check(void **state)
{
	(void)state;
	rig_stop();
	assert_int_equal(best_effort_items(&rig.group), 0);
	assert_int_equal(rig.group.callers, 0);
	for (unsigned p = 0; p <= PRIORITY_MAX; p++)
		assert_int_equal(rig.group.sheddable[p].callers + rig.group.sheddable[p].bytes, 0);
	assert_int_equal(rig.group.shedding.callers + rig.group.shedding.bytes, 0);
	for (unsigned s = 0; s < N_SERVICES; s++) {
		assert_int_equal(rig.group.loads[s].items, 0);
		assert_int_equal(rig.group.loads[s].batches, 0);
		assert_int_equal(rig.group.loads[s].bytes, 0);
	}
	for (unsigned t = 0; t < ARRAY_LEN(tenants); t++) {
		assert_int_equal(rig.group.tenants.of[t].unfinished, 0);
		assert_int_equal(rig.group.tenants.of[t].callers, 0);
		assert_int_equal(rig.group.tenants.of[t].bytes, 0);
	}
	dispatch_group_free(&rig.group);
	return 0;
}

static void one_service_and(uint32_t queued_items)
{
	rig.config.n_services = 1;
	rig.config.limits.queued_items = queued_items;
}

static struct batch *mixed(enum contract contract)
{
	struct batch *b = ask_for(6, ONE, contract, 9);

	for (uint32_t i = 0; i < 6; i += 2)
		b->items[i].service = TWO;
	return b;
}

#define RIG(test) cmocka_unit_test_setup_teardown(test, rig_open, close_and_check)
