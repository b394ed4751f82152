/* What best_effort gives up to make room. */
#include "admission-kit.h"
#include "dispatch/admission-i.h"
#include "obs/log.h"

static void what_has_no_room_is_shed_when_it_comes(void **state)
{
	struct batch *b;

	(void)state;
	one_service_and(100);
	assert_accepted(plain(75, ONE, 5));
	b = effort(20, ONE, 9);
	assert_int_equal(count_shed(b), 15);
	/* Those that go out are its first ones. */
	assert_int_equal(b->items[4].state, ITEM_PENDING);
	assert_int_equal(b->items[5].state, ITEM_FINAL);
	assert_int_equal(unfinished(), 80);
	batch_unref(b);
	b = effort(3, ONE, 9);
	assert_int_equal(count_shed(b), 3);
	batch_unref(b);
	run_for(1);
	assert_int_equal(rig.n_done, 1);
	assert_int_equal(metrics_read(rig.metrics, METRIC_SHED, 0, 0), 18);
}

/* Of a service that is full its items go, and no others. */
static void of_a_mixed_batch_those_go_that_have_no_room(void **state)
{
	struct batch *b;

	(void)state;
	rig.services[TWO].max_queued = 1;
	b = submit(mixed(CONTRACT_BEST_EFFORT));
	assert_int_equal(count_shed(b), 2);
	assert_int_equal(b->items[0].state, ITEM_PENDING);
	assert_int_equal(b->items[2].stop, STOP_SHED);
	assert_int_equal(b->items[4].stop, STOP_SHED);
	batch_unref(b);
}

static void the_least_urgent_and_newest_make_room_first(void **state)
{
	struct batch *urgent, *older, *newer;

	(void)state;
	one_service_and(100);
	older = effort(20, ONE, 3);
	urgent = effort(20, ONE, 4);
	newer = effort(20, ONE, 3);
	run_until(four_sent);
	assert_accepted(plain(30, ONE, 5));
	run_for(1);
	assert_int_equal(count_shed(newer), 10);
	assert_int_equal(newer->items[9].stop, STOP_NONE);
	assert_int_equal(count_shed(older) + count_shed(urgent), 0);
	assert_int_equal(unfinished(), 80);
	assert_accepted(plain(12, ONE, 5));
	run_for(1);
	/* What a lane has goes too, when what no lane has is not enough. */
	assert_int_equal(count_shed(newer), 20);
	assert_int_equal(count_shed(older), 2);
	assert_int_equal(count_shed(urgent), 0);
	assert_int_equal(unfinished(), 80);
	batch_unref(older);
	batch_unref(urgent);
	batch_unref(newer);
}

/* A batch holds its bytes until it is done, so it goes as a whole. */
static void what_waits_makes_room_by_bytes(void **state)
{
	struct batch *urgent, *older, *newer;

	(void)state;
	rig.config.n_services = 1;
	rig.config.limits.queued_bytes = 10 * sizeof(struct item);
	older = effort(2, ONE, 3);
	urgent = effort(2, ONE, 4);
	run_until(four_sent);
	newer = effort(3, ONE, 3);
	assert_accepted(plain(1, ONE, 5));
	run_for(1);
	assert_int_equal(count_shed(newer), 0);
	assert_accepted(plain(1, ONE, 5));
	run_for(1);
	assert_int_equal(count_shed(newer), 3);
	assert_int_equal(newer->state, BATCH_DONE);
	batch_unref(newer);
	assert_int_equal(rig.group.held_bytes, 6 * sizeof(struct item));
	/* What is in flight keeps its own result, and what it holds until then. */
	assert_accepted(plain(3, ONE, 5));
	run_for(1);
	answer_one(&rig.sent[0], 503, RETRY_AFTER_NONE);
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	run_for(1);
	assert_int_equal(older->items[0].stop, STOP_SHED);
	assert_int_equal(older->items[0].code, CODE_UNAVAILABLE);
	assert_int_equal(older->counts.succeeded, 1);
	assert_int_equal(gate_why(&urgent->gate), WHY_NONE);
	batch_unref(older);
	batch_unref(urgent);
}

/* It is done, and the store has yet to write that: its bytes are on their way out. */
static void what_is_shed_makes_room_by_bytes_once(void **state)
{
	struct batch *efforts[3];

	(void)state;
	rig.config.n_services = 1;
	rig.config.limits.queued_bytes = 10 * sizeof(struct item);
	for (unsigned i = 0; i < ARRAY_LEN(efforts); i++)
		efforts[i] = effort(2, ONE, 3);
	run_until(four_sent);
	store_set(&rig.store, true, false);
	assert_accepted(plain(3, ONE, 5));
	run_for(1);
	assert_int_equal(efforts[2]->state, BATCH_DONE);
	assert_int_equal(rig.group.held_bytes, 9 * sizeof(struct item));
	assert_accepted(plain(1, ONE, PRIORITY_MAX));
	run_for(1);
	assert_int_equal(gate_why(&efforts[1]->gate), WHY_NONE);
	store_set(&rig.store, false, false);
	run_for(1);
	assert_int_equal(rig.group.held_bytes, 8 * sizeof(struct item));
	assert_accepted(plain(1, ONE, PRIORITY_MAX));
	run_for(1);
	assert_int_equal(gate_why(&efforts[1]->gate), WHY_SHED);
	assert_int_equal(gate_why(&efforts[0]->gate), WHY_NONE);
	for (unsigned i = 0; i < ARRAY_LEN(efforts); i++)
		batch_unref(efforts[i]);
}

static void what_waits_makes_room_for_callers(void **state)
{
	struct batch *efforts[8];

	(void)state;
	rig.config.n_services = 1;
	rig.config.limits.connections = 10;
	for (unsigned i = 0; i < ARRAY_LEN(efforts); i++)
		efforts[i] = effort(1, ONE, 9);
	run_until(four_sent);
	for (unsigned i = 8; i > 4; i--) {
		assert_accepted(plain(1, ONE, 0));
		run_for(1);
		assert_int_equal(count_shed(efforts[i - 1]), 1);
		assert_int_equal(count_shed(efforts[i - 2]), 0);
		assert_int_equal(rig.group.callers, 8);
	}
	/* The rest is in flight, and there is room for one of the least urgent. */
	assert_accepted(plain(1, ONE, 0));
	assert_refused(plain(1, ONE, 0), "callers");
	for (unsigned i = 0; i < ARRAY_LEN(efforts); i++)
		batch_unref(efforts[i]);
}

/* Nobody is refused while there is something to shed, even if it is all over at once. */
static void items_that_may_be_shed_stand_in_nobodys_way(void **state)
{
	struct batch *b;

	(void)state;
	one_service_and(100);
	b = effort(80, ONE, 9);
	run_until(four_sent);
	assert_false(admission_is_full(rig.d, 0, 1, false));
	assert_accepted(plain(82, ONE, 0));
	assert_refused(plain(20, ONE, 0), "too many");
	run_for(1);
	assert_int_equal(count_shed(b), 76);
	/* Those in flight keep their own results. */
	answer_one(&rig.sent[0], 200, RETRY_AFTER_NONE);
	answer_one(&rig.sent[1], 503, RETRY_AFTER_NONE);
	run_for(1);
	assert_int_equal(b->counts.succeeded, 1);
	assert_int_equal(b->items[1].code, CODE_UNAVAILABLE);
	assert_int_equal(b->items[1].stop, STOP_SHED);
	answer_one(&rig.sent[2], 200, RETRY_AFTER_NONE);
	answer_one(&rig.sent[3], 200, RETRY_AFTER_NONE);
	run_for(1);
	assert_int_equal(b->state, BATCH_DONE);
	assert_int_equal(b->stop_reason, STOP_REASON_COMPLETED);
	batch_unref(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG(what_has_no_room_is_shed_when_it_comes),
		RIG(of_a_mixed_batch_those_go_that_have_no_room),
		RIG(the_least_urgent_and_newest_make_room_first),
		RIG(what_waits_makes_room_by_bytes),
		RIG(what_is_shed_makes_room_by_bytes_once),
		RIG(what_waits_makes_room_for_callers),
		RIG(items_that_may_be_shed_stand_in_nobodys_way),
	};

	log_init(LOG_LOGFMT, LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
