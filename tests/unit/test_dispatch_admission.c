/* What comes into memory, and what is refused. */
#include "admission-kit.h"
#include "dispatch/admission-i.h"
#include "dispatch/pace-i.h"
#include "obs/log.h"

/* ---- shares ---- */

static void each_priority_has_a_slice_of_the_last_fifth(void **state)
{
	(void)state;
	assert_int_equal(admission_share(1000, 0, true), 800);
	assert_int_equal(admission_share(1000, 9, true), 800);
	assert_int_equal(admission_share(1000, 0, false), 820);
	assert_int_equal(admission_share(1000, 5, false), 920);
	assert_int_equal(admission_share(1000, 9, false), 1000);
	assert_int_equal(admission_share(1, 0, false), 1);
	assert_int_equal(admission_share(3, 5, false), 3);
	assert_true(admission_share(UINT64_MAX, 9, false) == UINT64_MAX);
}

static void the_less_urgent_is_refused_first(void **state)
{
	(void)state;
	one_service_and(100);
	assert_accepted(plain(82, ONE, 0));
	assert_refused(plain(1, ONE, 0), "too many unfinished items;");
	assert_accepted(plain(2, ONE, 1));
	assert_accepted(plain(8, ONE, 5));
	assert_refused(plain(1, ONE, 5), "too many unfinished items;");
	assert_accepted(plain(8, ONE, 9));
	assert_refused(plain(1, ONE, 9), "too many unfinished items;");
	assert_int_equal(unfinished(), 100);
}

static void an_empty_process_takes_what_its_limit_says(void **state)
{
	(void)state;
	one_service_and(100);
	assert_refused(plain(101, ONE, 9), "too many");
	assert_accepted(plain(100, ONE, 0));
}

/* ---- services ---- */

static void a_service_has_its_own_bound(void **state)
{
	(void)state;
	rig.config.limits.queued_items = 1000;
	rig.services[ONE].max_queued = 10;
	assert_accepted(plain(9, ONE, 9));
	assert_refused(plain(2, ONE, 9), "of one of its services");
	assert_accepted(plain(100, TWO, 5));
	assert_accepted(plain(1, ONE, 9));
	assert_int_equal(rig.group.loads[ONE].items, 10);
}

static void an_idle_service_takes_what_its_bound_says(void **state)
{
	(void)state;
	rig.services[ONE].max_queued = 10;
	assert_refused(plain(11, ONE, 9), "of one of its services");
	assert_accepted(plain(10, ONE, 0));
}

static void one_of_several_services_holds_less_than_what_is_left(void **state)
{
	(void)state;
	rig.config.limits.queued_items = 100;
	assert_accepted(plain(30, ONE, 9));
	assert_accepted(plain(25, ONE, 9));
	assert_refused(plain(1, ONE, 9), "of one of its services");
	assert_accepted(plain(40, TWO, 9));
}

/* One of its services is full: nothing of the other one is counted either. */
static void a_mixed_batch_is_counted_per_service_or_not_at_all(void **state)
{
	(void)state;
	rig.services[TWO].max_queued = 2;
	assert_refused(submit(mixed(CONTRACT_PARTIAL_SUCCESS)), "of one of its services");
	assert_int_equal(unfinished(), 0);
	assert_int_equal(rig.group.loads[ONE].items + rig.group.loads[TWO].items, 0);
	rig.services[TWO].max_queued = 3;
	assert_accepted(submit(mixed(CONTRACT_PARTIAL_SUCCESS)));
	assert_int_equal(rig.group.loads[ONE].items, 3);
	assert_int_equal(rig.group.loads[TWO].items, 3);
}

/* ---- bytes ---- */

static void bytes_have_the_same_slices(void **state)
{
	struct batch *b;

	(void)state;
	rig.config.n_services = 1;
	rig.config.limits.queued_bytes = 10 * sizeof(struct item);
	assert_accepted(plain(8, ONE, 5));
	b = effort(1, ONE, 5);
	assert_int_equal(count_shed(b), 1);
	batch_unref(b);
	run_for(1);
	assert_refused(plain(2, ONE, 5), "bytes");
	assert_accepted(plain(2, ONE, 9));
	assert_refused(effort(1, ONE, 9), "bytes");
	assert_true(admission_is_full(rig.d, 0, 1, true));
	assert_false(admission_is_full(rig.d, 0, 0, true));
}

/* ---- callers ---- */

/* Each holds a connection, which others need. */
static void callers_who_wait_have_the_same_slices(void **state)
{
	struct batch *b;

	(void)state;
	rig.config.n_services = 1;
	rig.config.limits.connections = 10;
	for (unsigned i = 0; i < 8; i++)
		assert_accepted(plain(1, ONE, 5));
	b = effort(1, ONE, 5);
	assert_int_equal(count_shed(b), 1);
	batch_unref(b);
	run_for(1);
	assert_accepted(plain(1, ONE, 0));
	assert_refused(plain(1, ONE, 0), "callers");
	assert_accepted(plain(1, ONE, 5));
	assert_refused(plain(1, ONE, 9), "callers");
	assert_int_equal(rig.group.callers, 10);
	assert_int_equal(unfinished(), 10);
}

static void callers_of_one_service_leave_connections_to_the_others(void **state)
{
	(void)state;
	rig.config.limits.connections = 10;
	for (unsigned i = 0; i < 5; i++)
		assert_accepted(plain(1, ONE, 9));
	assert_refused(plain(1, ONE, 9), "callers");
	assert_accepted(plain(1, TWO, 9));
}

/* ---- tenants ---- */

static void two_tenants_and(uint32_t queued_items)
{
	one_service_and(queued_items);
	tenants[POST].removed = false;
	rig.config.tenants = tenants;
	rig.config.n_tenants = ARRAY_LEN(tenants);
}

/* Of the first service, as urgent as can be. */
static struct batch *of_tenant(unsigned tenant, uint32_t n, enum contract contract)
{
	struct batch *b = ask_for(n, ONE, contract, PRIORITY_MAX);

	b->tenant = slice_str(tenants[tenant].name);
	return submit(b);
}

static struct batch *sent_by(unsigned tenant, uint32_t n)
{
	return of_tenant(tenant, n, CONTRACT_PARTIAL_SUCCESS);
}

static void assert_all_shed(struct batch *b)
{
	assert_non_null(b);
	assert_int_equal(count_shed(b), b->n_items);
	batch_unref(b);
	run_for(1);
}

static void one_of_several_tenants_holds_less_than_what_is_left(void **state)
{
	(void)state;
	two_tenants_and(100);
	assert_accepted(sent_by(SHOP, 30));
	assert_accepted(sent_by(SHOP, 25));
	assert_refused(sent_by(SHOP, 1), "items of its tenant");
	assert_accepted(sent_by(POST, 40));
	assert_int_equal(rig.group.tenants.of[SHOP].unfinished, 55);
	assert_int_equal(rig.group.tenants.of[POST].unfinished, 40);
}

/* It is judged by what there would be with it, not by what was there before. */
static void a_large_batch_takes_nobody_over_its_part(void **state)
{
	(void)state;
	two_tenants_and(100);
	rig.config.limits.queued_bytes = 1000 * sizeof(struct item);
	assert_accepted(sent_by(SHOP, 40));
	assert_refused(sent_by(SHOP, 12), "items of its tenant");
	assert_accepted(sent_by(SHOP, 10));
	assert_refused(sent_by(SHOP, 1), "items of its tenant");
	assert_accepted(sent_by(POST, 25));
	assert_int_equal(rig.group.tenants.of[SHOP].unfinished, 50);
	/* Bytes likewise. */
	rig.config.limits.queued_items = 1000;
	rig.config.limits.queued_bytes = 125 * sizeof(struct item);
	assert_refused(sent_by(SHOP, 2), "bytes are held for unfinished batches of its tenant");
	rig.config.limits.queued_bytes = 200 * sizeof(struct item);
	assert_accepted(sent_by(SHOP, 30));
	assert_refused(sent_by(SHOP, 10), "bytes are held for unfinished batches of its tenant");
}

static void a_large_batch_takes_no_service_over_its_part(void **state)
{
	(void)state;
	rig.config.limits.queued_items = 100;
	assert_accepted(plain(40, ONE, 9));
	assert_refused(plain(12, ONE, 9), "one of its services");
	assert_accepted(plain(10, ONE, 9));
	assert_accepted(plain(40, TWO, 9));
}

/* What fits an idle process does not wait until whoever asks has nothing left there. */
static void a_batch_that_is_larger_than_a_part_finds_a_process_with_little_in_it(void **state)
{
	(void)state;
	two_tenants_and(100);
	assert_accepted(sent_by(SHOP, 3));
	assert_accepted(sent_by(SHOP, 97));
	assert_int_equal(rig.group.tenants.of[SHOP].unfinished, 100);
}

/* Another one that a reload took away wants nothing of what it would leave. */
static void a_tenant_that_is_alone_takes_all(void **state)
{
	(void)state;
	two_tenants_and(100);
	tenants[POST].removed = true;
	rig.config.limits.connections = 3;
	assert_accepted(sent_by(SHOP, 60));
	assert_accepted(sent_by(SHOP, 39));
	assert_accepted(sent_by(SHOP, 1));
}

/* The second of its services is asked when the first one's items are counted: as one batch. */
static void what_a_batch_takes_itself_is_not_held_against_it(void **state)
{
	(void)state;
	two_tenants_and(6);
	rig.config.n_services = 2;
	assert_accepted(submit(mixed(CONTRACT_PARTIAL_SUCCESS)));
	assert_int_equal(rig.group.tenants.of[NOBODY].unfinished, 6);
	/* And what is not taken after all is not held. */
	rig.config.limits.queued_items = 100;
	rig.services[ONE].max_queued = 4;
	assert_refused(submit(mixed(CONTRACT_PARTIAL_SUCCESS)), "of one of its services");
	assert_int_equal(rig.group.tenants.of[NOBODY].unfinished, 6);
}

static void bytes_of_one_tenant_leave_room_to_the_others(void **state)
{
	(void)state;
	two_tenants_and(1000);
	rig.config.limits.queued_bytes = 10 * sizeof(struct item);
	assert_accepted(sent_by(SHOP, 4));
	assert_all_shed(of_tenant(SHOP, 1, CONTRACT_BEST_EFFORT));
	assert_accepted(sent_by(SHOP, 1));
	assert_refused(sent_by(SHOP, 1), "bytes are held for unfinished batches of its tenant");
	assert_refused(sent_by(POST, 6), "bytes are held for unfinished batches;");
	assert_accepted(sent_by(POST, 5));
}

static void callers_of_one_tenant_leave_connections_to_the_others(void **state)
{
	(void)state;
	two_tenants_and(1000);
	rig.config.limits.connections = 10;
	for (unsigned i = 0; i < 4; i++)
		assert_accepted(sent_by(SHOP, 1));
	assert_all_shed(of_tenant(SHOP, 1, CONTRACT_BEST_EFFORT));
	assert_accepted(sent_by(SHOP, 1));
	assert_refused(sent_by(SHOP, 1), "callers of its tenant");
	for (unsigned i = 0; i < 3; i++)
		assert_accepted(sent_by(POST, 1));
	assert_refused(sent_by(POST, 1), "callers of its tenant");
	assert_int_equal(rig.group.tenants.of[SHOP].callers, 5);
	assert_int_equal(rig.group.callers, 8);
}

/* From its tenant's part of the first four fifths on; and what may be shed holds no place. */
static void best_effort_of_a_tenant_is_shed_before_others_of_it_are_refused(void **state)
{
	(void)state;
	two_tenants_and(100);
	rig.config.limits.connections = 10;
	assert_accepted(sent_by(SHOP, 40));
	assert_all_shed(of_tenant(SHOP, 1, CONTRACT_BEST_EFFORT));
	assert_accepted(of_tenant(POST, 20, CONTRACT_BEST_EFFORT));
	/* It holds as much as nobody has, and what may be shed is as good as free. */
	assert_accepted(sent_by(SHOP, 5));
	assert_accepted(sent_by(SHOP, 1));
	assert_accepted(sent_by(SHOP, 1));
	assert_all_shed(of_tenant(SHOP, 1, CONTRACT_BEST_EFFORT));
	assert_accepted(sent_by(SHOP, 1));
	assert_refused(of_tenant(SHOP, 1, CONTRACT_BEST_EFFORT), "callers of its tenant");
}

/* How long it takes is told by the pace of its own part of the items. */
static void a_tenant_is_told_when_its_part_has_room(void **state)
{
	(void)state;
	two_tenants_and(1000);
	assert_accepted(sent_by(SHOP, 600));
	assert_accepted(sent_by(POST, 200));
	rig.d->paces[ONE] = (struct pace){.since_us = clock_now(), .per_second = 40};
	assert_refused(sent_by(SHOP, 1), "items of its tenant");
	/* 401 too many, and 30 of 40 a second are its own. */
	assert_in_range(dispatch_last_refusal(rig.d).retry_after_s, 14, 18);
}

static void a_tenant_that_has_its_part_is_refused_unread(void **state)
{
	(void)state;
	two_tenants_and(1000);
	rig.config.limits.connections = 4;
	for (unsigned i = 0; i < 2; i++) {
		assert_false(dispatch_refuses_unread(rig.d, SHOP, 1, false));
		assert_accepted(sent_by(SHOP, 1));
	}
	assert_true(dispatch_refuses_unread(rig.d, SHOP, 1, false));
	assert_non_null(strstr(dispatch_last_refusal(rig.d).detail, "callers of its tenant"));
	assert_in_range(dispatch_last_refusal(rig.d).retry_after_s, 1, 60);
	assert_false(dispatch_refuses_unread(rig.d, SHOP, 1, true));
	assert_false(dispatch_refuses_unread(rig.d, POST, 1, false));
}

/* A late shard refused one tenant: of another it knows nothing by that. */
static void a_late_shard_reads_what_another_tenant_sends(void **state)
{
	(void)state;
	two_tenants_and(100);
	assert_accepted(sent_by(SHOP, 46));
	for (unsigned i = 0; i < 100; i++) {
		struct batch *b = ask_for(1, ONE, CONTRACT_PARTIAL_SUCCESS, 0);

		b->tenant = slice_str(tenants[SHOP].name);
		assert_refused(submit(b), "items of its tenant");
	}
	rig.d->throttle.late_until_us = clock_now() + SEC_US;
	for (unsigned i = 0; i < 100; i++)
		assert_false(dispatch_refuses_unread(rig.d, POST, 1, false));
}

/* ---- before the body ---- */

static void a_full_process_says_so_before_it_reads(void **state)
{
	(void)state;
	one_service_and(10);
	assert_false(admission_is_full(rig.d, 0, 1, false));
	assert_accepted(plain(10, ONE, 9));
	assert_true(admission_is_full(rig.d, 0, 1, false));
	assert_in_range(dispatch_last_refusal(rig.d).retry_after_s, 1, 60);
	/* A job's items are not counted here. */
	assert_false(admission_is_full(rig.d, 0, 1, true));
}

/* ---- pace ---- */

static void see(struct pace *p, int64_t at_us, uint32_t settled, uint32_t emptied, uint32_t waiting)
{
	pace_look(p, at_us, &(struct queue_sight){.settled = settled, .emptied = emptied, .waiting = waiting});
}

static void a_pace_is_known_while_some_wait(void **state)
{
	struct pace p = {0};

	(void)state;
	see(&p, 1000000, 0, 0, 9);
	see(&p, 1050000, 1000, 0, 9);
	assert_true(p.per_second == 0);
	see(&p, 1100000, 1000, 0, 9);
	assert_true(p.per_second == 10000);
	see(&p, 1200000, 3000, 0, 9);
	assert_true(p.per_second == 12500);
	/* Few results take longer to tell. */
	see(&p, 1300000, 3001, 0, 9);
	assert_true(p.per_second == 12500);
	see(&p, 2200000, 3001, 0, 9);
	assert_true(p.per_second < 10000 && p.per_second > 0);
	/* What came of a time when nothing waited says nothing. */
	see(&p, 2300000, 3002, 0, 0);
	see(&p, 9000000, 3003, 0, 0);
	see(&p, 9900000, 3003, 0, 9);
	see(&p, 9950000, 90000, 0, 9);
	assert_true(p.per_second < 10000 && p.per_second > 0);
}

/* Between two looks that both met a queue it may have been idle: an hour of nothing is no pace. */
static void a_pace_is_forgotten_with_its_queue(void **state)
{
	struct pace p = {0};

	(void)state;
	see(&p, 1000000, 0, 0, 5000);
	see(&p, 1100000, 1000, 0, 5000);
	assert_true(p.per_second == 10000 && p.of_many);
	see(&p, 3600000000, 6000, 1, 5000);
	assert_true(p.per_second == 0);
	see(&p, 3600100000, 9000, 1, 5000);
	assert_true(p.per_second == 30000 && p.of_many);
}

/* With little to do a service is as fast as its callers: nobody is refused for that. */
static void a_pace_of_few_says_not_what_a_service_can_do(void **state)
{
	struct pace p = {0};

	(void)state;
	see(&p, 1000000, 0, 0, 10);
	see(&p, 2000000, 100, 0, 5000);
	assert_true(p.per_second == 100 && !p.of_many);
	see(&p, 2100000, 2100, 0, 5000);
	assert_true(p.of_many);
}

/* n items wait for a service that settles 100 a second. */
static void fall_behind_by(uint32_t n)
{
	struct service_load *l = &rig.group.loads[ONE];
	struct pace *p;

	assert_accepted(plain(n, ONE, 9));
	p = &rig.d->paces[ONE];
	*p = (struct pace){.since_us = clock_now(), .then = {l->settled, l->emptied, n}, .per_second = 100, .of_many = true};
}

static void fall_behind(void)
{
	one_service_and(100000);
	fall_behind_by(2000);
}

static void a_service_that_is_behind_refuses_what_would_wait_too_long(void **state)
{
	unsigned after_s;

	(void)state;
	rig.config.limits.queue_ms = 5000;
	fall_behind();
	assert_refused(plain(2000, ONE, 9), "too far behind");
	after_s = dispatch_last_refusal(rig.d).retry_after_s;
	assert_in_range(after_s, 15, 20);
	/* Turns are fair: a small one passes the large one. */
	assert_accepted(plain(400, ONE, 9));
	rig.config.limits.queue_ms = 0;
	assert_accepted(plain(2000, ONE, 9));
}

static bool fifty_sent(void)
{
	return rig.n_sent == 50;
}

/* They are in flight, and none of those that wait here. */
static void jobs_in_flight_hide_nobody_who_waits(void **state)
{
	struct batch *jobs = ask_for(50, ONE, CONTRACT_PARTIAL_SUCCESS, 9);

	(void)state;
	rig.config.limits.queue_ms = 5000;
	one_service_and(100000);
	rig.services[ONE].max_in_flight = jobs->policy.concurrency = 50;
	jobs->asynchronous = jobs->durable = true;
	submit_batch(jobs);
	run_until(fifty_sent);
	fall_behind_by(1030);
	assert_refused(plain(1030, ONE, 9), "too far behind");
}

static void a_batch_waits_at_most_for_half_of_its_deadline(void **state)
{
	struct batch *b;

	(void)state;
	rig.config.limits.queue_ms = 3600000;
	fall_behind();
	b = ask_for(2000, ONE, CONTRACT_PARTIAL_SUCCESS, 9);
	b->policy.deadline_ms = 30000;
	assert_refused(submit(b), "too far behind");
	b = ask_for(2000, ONE, CONTRACT_PARTIAL_SUCCESS, 9);
	b->policy.deadline_ms = 50000;
	assert_accepted(submit(b));
}

/* ---- what is not read ---- */

static void ask(struct throttle *t, unsigned n, bool admitted)
{
	for (unsigned i = 0; i < n; i++)
		throttle_count(t, 1000000, admitted);
}

static void only_who_is_late_refuses_unread_most_of_what_is_refused(void **state)
{
	struct throttle t = {.since_us = 1000000, .due_us = 1000000}, few = {.since_us = 1000000, .due_us = 1000000};

	(void)state;
	ask(&t, 900, false);
	ask(&t, 100, true);
	assert_true(throttle_refuses(&t, 1000000, false) == 0);
	/* One late timer is no overload while few ask. */
	ask(&few, 99, false);
	throttle_ring(&few, 1003000);
	assert_true(throttle_refuses(&few, 1003000, false) == 0);
	ask(&few, 1, false);
	assert_true(throttle_refuses(&few, 1003000, false) > 0.9);
	throttle_ring(&t, 1000500);
	assert_true(throttle_refuses(&t, 1000500, false) == 0);
	t.due_us = 1002000;
	throttle_ring(&t, 1003000);
	assert_true(throttle_refuses(&t, 1003000, false) > 0.85 && throttle_refuses(&t, 1003000, false) < 0.95);
	assert_true(throttle_refuses(&t, 1253000, false) == 0);
	t.due_us = 1252000;
	throttle_ring(&t, 1253000);
	ask(&t, 10000, false);
	/* Some are always read: they may be for somebody else. */
	assert_true(throttle_refuses(&t, 1253000, false) == 0.98);
	ask(&t, 60000, true);
	assert_true(throttle_refuses(&t, 1253000, false) == 0);
	/* It is forgotten. */
	throttle_count(&t, 60000000, false);
	assert_true(t.asked < 2 && t.admitted < 1);
}

/* With nothing less of what it refused by, a late shard does not read on. */
static void a_late_shard_does_not_read_what_it_would_refuse(void **state)
{
	unsigned unread = 0;

	(void)state;
	rig.services[ONE].max_queued = 10;
	assert_accepted(plain(10, ONE, 9));
	for (unsigned i = 0; i < 100; i++)
		assert_refused(plain(1, ONE, 9), "of one of its services");
	assert_false(dispatch_refuses_unread(rig.d, 0, 1, false));
	rig.d->throttle.late_until_us = clock_now() + SEC_US;
	for (unsigned i = 0; i < 100; i++)
		unread += dispatch_refuses_unread(rig.d, 0, 1, false);
	assert_in_range(unread, 80, 100);
	assert_false(dispatch_refuses_unread(rig.d, 0, 1, true));
	/* Room again: everything is read. */
	run_until(four_sent);
	answer_one(&rig.sent[0], 200, RETRY_AFTER_NONE);
	run_for(1);
	for (unsigned i = 0; i < 100; i++)
		assert_false(dispatch_refuses_unread(rig.d, 0, 1, false));
}

/* How many batches were read, and how many of them admitted. */
struct reading {
	unsigned read, admitted;
};

/* A second in which a late shard has room for a hundred, and ten times as many ask. */
static struct reading read_for_a_second(void)
{
	struct reading sum = {0};

	for (unsigned i = 0; i < 1000; i++) {
		struct batch *b;

		rig.d->throttle.late_until_us = clock_now() + SEC_US;
		if (!dispatch_refuses_unread(rig.d, 0, 1, false)) {
			sum.read++;
			b = plain(1, ONE, 9);
			if (b != NULL) {
				sum.admitted++;
				batch_unref(b);
			}
		}
		if (i % 10 == 9) {
			run_for(SEC_US / 100);
			rig.n_sent = rig.store.n_asked = 0;
		}
	}
	return sum;
}

/* With several services it reads as much again: those may have room. */
static void a_late_shard_reads_little_more_than_it_has_room_for(void **state)
{
	struct reading r;

	(void)state;
	rig.services[ONE].max_queued = 1;
	rig.answers = 200;
	read_for_a_second();
	r = read_for_a_second();
	assert_int_equal(r.admitted, 100);
	assert_in_range(r.read, 180, 250);
	rig.config.n_services = 1;
	read_for_a_second();
	r = read_for_a_second();
	assert_int_equal(r.admitted, 100);
	assert_in_range(r.read, 100, 150);
}

/* What was refused last is no measure for what comes, once something else found room. */
static void a_batch_that_finds_room_opens_to_those_behind_it(void **state)
{
	(void)state;
	rig.config.limits.queue_ms = 5000;
	fall_behind();
	rig.config.n_services = N_SERVICES;
	assert_refused(plain(2000, ONE, 9), "too far behind");
	assert_true(refusal_stands(rig.d, 0));
	assert_accepted(plain(1, TWO, 9));
	assert_true(refusal_stands(rig.d, 0));
	assert_accepted(plain(400, ONE, 9));
	assert_false(refusal_stands(rig.d, 0));
	assert_refused(plain(2000, ONE, 9), "too far behind");
	assert_true(refusal_stands(rig.d, 0));
}

static void a_shard_that_refuses_looks_whether_it_is_late(void **state)
{
	(void)state;
	rig.services[ONE].max_queued = 1;
	assert_accepted(plain(1, ONE, 9));
	assert_int_equal(rig.d->throttle.due_us, 0);
	assert_refused(plain(1, ONE, 9), "of one of its services");
	assert_true(rig.d->throttle.due_us > 0);
	run_for(SEC_US);
	assert_int_equal(rig.d->throttle.due_us, 0);
}


/* ---- quotas ---- */

static struct batch *with_key(void)
{
	static const struct batch_key key = {.scope = {"here", 4}, .key = {"k", 1}, .digest = {1}};
	struct batch *b = make_batch(2, ONE, false, true);

	b->key = &key;
	return b;
}

static uint64_t left_of(unsigned quota)
{
	struct dispatch_quota q[DISPATCH_QUOTAS];

	assert_in_range(quota, 0, dispatch_quotas(&rig.group.tenants.of[0], &rig.tenant, clock_now(), q) - 1);
	return q[quota].left;
}

/* Its key is known, and its caller leaves before the store has said so. */
static void what_the_store_refuses_costs_nothing_whoever_listens(void **state)
{
	(void)state;
	rig.answers = 200;
	submit_batch(with_key());
	run_for(SEC_US);
	rig.tenant.batches_per_second = rig.tenant.items_per_second = 0.001;
	rig.tenant.queued_items = 5;
	for (unsigned leaves = 0; leaves < 2; leaves++) {
		struct batch_id id;

		store_set(&rig.store, true, false);
		id = submit_batch(with_key());
		assert_int_equal(left_of(0) + left_of(1), 0);
		assert_int_equal(left_of(2), 3);
		if (leaves) {
			dispatch_detach(rig.d, id);
			dispatch_cancel(rig.d, id, WHY_DISCONNECTED);
		}
		store_set(&rig.store, false, false);
		run_for(1000);
		assert_int_equal(left_of(0), 1);
		assert_int_equal(left_of(1), 1);
		assert_int_equal(left_of(2), 5);
	}
	assert_int_equal(rig.n_sent, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_priority_has_a_slice_of_the_last_fifth),
		RIG(the_less_urgent_is_refused_first),
		RIG(an_empty_process_takes_what_its_limit_says),
		RIG(a_service_has_its_own_bound),
		RIG(an_idle_service_takes_what_its_bound_says),
		RIG(one_of_several_services_holds_less_than_what_is_left),
		RIG(a_mixed_batch_is_counted_per_service_or_not_at_all),
		RIG(bytes_have_the_same_slices),
		RIG(callers_who_wait_have_the_same_slices),
		RIG(callers_of_one_service_leave_connections_to_the_others),
		RIG(one_of_several_tenants_holds_less_than_what_is_left),
		RIG(a_large_batch_takes_nobody_over_its_part),
		RIG(a_large_batch_takes_no_service_over_its_part),
		RIG(a_batch_that_is_larger_than_a_part_finds_a_process_with_little_in_it),
		RIG(a_tenant_that_is_alone_takes_all),
		RIG(what_a_batch_takes_itself_is_not_held_against_it),
		RIG(bytes_of_one_tenant_leave_room_to_the_others),
		RIG(callers_of_one_tenant_leave_connections_to_the_others),
		RIG(best_effort_of_a_tenant_is_shed_before_others_of_it_are_refused),
		RIG(a_tenant_is_told_when_its_part_has_room),
		RIG(a_tenant_that_has_its_part_is_refused_unread),
		RIG(a_late_shard_reads_what_another_tenant_sends),
		RIG(a_full_process_says_so_before_it_reads),
		cmocka_unit_test(a_pace_is_known_while_some_wait),
		cmocka_unit_test(a_pace_is_forgotten_with_its_queue),
		cmocka_unit_test(a_pace_of_few_says_not_what_a_service_can_do),
		RIG(a_service_that_is_behind_refuses_what_would_wait_too_long),
		RIG(jobs_in_flight_hide_nobody_who_waits),
		RIG(a_batch_waits_at_most_for_half_of_its_deadline),
		cmocka_unit_test(only_who_is_late_refuses_unread_most_of_what_is_refused),
		RIG(a_late_shard_does_not_read_what_it_would_refuse),
		RIG(a_late_shard_reads_little_more_than_it_has_room_for),
		RIG(a_batch_that_finds_room_opens_to_those_behind_it),
		RIG(a_shard_that_refuses_looks_whether_it_is_late),
		RIG(what_the_store_refuses_costs_nothing_whoever_listens),
	};

	log_init(LOG_LOGFMT, LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
