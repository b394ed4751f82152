/* Durable batches, from their acceptance by the store to the commit of their end. */
#include "dispatch-rig.h"
#include "obs/log.h"

/* ---- what a test waits for ---- */

static bool one_sent(void)
{
	return rig.n_sent == 1;
}

static bool two_sent(void)
{
	return rig.n_sent == 2;
}

static bool is_done(void)
{
	return rig.n_done > 0;
}

static bool is_accepted(void)
{
	return rig.n_accepted > 0;
}

static bool is_parked(void)
{
	struct dispatch_usage u = dispatch_usage(rig.d);

	return u.batches == 0 && u.backlog == 1;
}

static bool nothing_left(void)
{
	struct dispatch_usage u = dispatch_usage(rig.d);

	if (u.batches == 0 && u.backlog == 0)
		assert_int_equal(rig.group.tenants.of[0].queued, 0);
	return (u.batches | u.backlog | u.lanes | u.turns | u.ops | u.waits | u.claims | u.loads) == 0;
}

static void assert_done(struct batch_id id, enum batch_outcome outcome, enum stop_reason reason)
{
	struct batch *b = stored(id);

	assert_int_equal(b->state, BATCH_DONE);
	assert_int_equal(b->outcome, outcome);
	assert_int_equal(b->stop_reason, reason);
	batch_unref(b);
}

/* ---- acceptance ---- */

static void a_batch_that_the_store_refuses_starts_nothing(void **state)
{
	(void)state;
	store_set(&rig.store, false, true);
	submit_job(2, 0);
	submit_batch(make_batch(2, 0, false, true));
	run_for(SEC_US);
	assert_int_equal(rig.n_accepted, 2);
	assert_int_equal(rig.accepted, STORE_UNAVAILABLE);
	assert_int_equal(rig.n_sent, 0);
	assert_int_equal(rig.n_done, 0);
	assert_true(nothing_left());
}

static void nothing_starts_before_the_store_has_the_batch(void **state)
{
	(void)state;
	store_set(&rig.store, true, false);
	submit_batch(make_batch(1, 0, false, true));
	run_for(SEC_US);
	assert_int_equal(rig.n_accepted, 0);
	assert_int_equal(count_asked(STORE_CLAIM), 0);
	store_set(&rig.store, false, false);
	run_until(one_sent);
	assert_int_equal(rig.n_accepted, 1);
}

static void an_end_before_the_answer_is_remembered(void **state)
{
	struct batch_id id;

	(void)state;
	store_set(&rig.store, true, false);
	id = submit_batch(make_batch(2, 0, false, true));
	dispatch_detach(rig.d, id);
	dispatch_cancel(rig.d, id, WHY_DISCONNECTED);
	store_set(&rig.store, false, false);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 0);
	assert_int_equal(rig.n_accepted, 0);
	assert_done(id, BATCH_OUTCOME_FAILED, STOP_REASON_DISCONNECTED);
}

/* ---- the steps ---- */

static void an_attempt_starts_after_its_claim_is_committed(void **state)
{
	struct batch_id id = submit_job(1, 0);
	struct batch *b;

	(void)state;
	run_until(is_accepted);
	store_set(&rig.store, true, false);
	run_for(SEC_US);
	assert_int_equal(count_asked(STORE_CLAIM), 1);
	assert_int_equal(rig.n_sent, 0);
	assert_int_equal(dispatch_usage(rig.d).claims, 1);
	store_set(&rig.store, false, false);
	run_until(one_sent);
	b = stored(id);
	assert_true(stored_item(b, 0)->in_flight);
	batch_unref(b);
}

static void a_lane_claims_no_more_ahead_than_may_be_in_flight(void **state)
{
	(void)state;
	submit_job(8, 0);
	run_until(is_accepted);
	store_set(&rig.store, true, false);
	run_for(SEC_US);
	assert_int_equal(count_asked(STORE_CLAIM), 4);
	store_set(&rig.store, false, false);
	run_for(SEC_US);
	assert_int_equal(rig.n_sent, 4);
	assert_int_equal(count_asked(STORE_CLAIM), 8);
}

/* A lost claim would let the next process repeat what may have been delivered. */
static void a_claim_is_on_the_medium_only_where_a_repeat_is_forbidden(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct batch *b = make_batch(1, 0, true, true);

		b->policy.at_most_once = i == 1;
		submit_batch(b);
	}
	run_until(two_sent);
	for (unsigned i = 0, claims = 0; i < rig.store.n_asked; i++)
		if (rig.store.asked[i].what == STORE_CLAIM)
			assert_int_equal(rig.store.asked[i].synced, claims++ == 1);
	assert_int_equal(count_asked(STORE_CLAIM), 2);
}

static void each_step_goes_to_the_store_in_its_order(void **state)
{
	static const enum store_do order[] = {STORE_ACCEPT, STORE_CLAIM, STORE_UPDATE, STORE_CLAIM, STORE_UPDATE,
					      STORE_FINISH};
	struct batch *b = make_batch(1, 0, false, true);

	(void)state;
	b->policy.retry = (struct retry_policy){3, 1, 1};
	submit_batch(b);
	run_until(one_sent);
	answer_one(&rig.sent[0], 503, RETRY_AFTER_NONE);
	run_until(two_sent);
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	run_until(is_done);
	assert_true(rig.document);
	assert_int_equal(rig.store.n_asked, ARRAY_LEN(order));
	for (unsigned i = 0; i < ARRAY_LEN(order); i++)
		assert_int_equal(rig.store.asked[i].what, order[i]);
	assert_int_equal(rig.store.asked[2].state, ITEM_WAITING);
	assert_int_equal(rig.store.asked[2].seq, 0);
	assert_int_equal(rig.store.asked[4].state, ITEM_FINAL);
	assert_int_equal(rig.store.asked[4].seq, 1);
}

static void nobody_is_told_of_an_end_that_is_not_committed(void **state)
{
	struct batch_id id = submit_batch(make_batch(1, 0, false, true));

	(void)state;
	run_until(one_sent);
	store_set(&rig.store, false, true);
	answer_one(&rig.sent[0], 200, RETRY_AFTER_NONE);
	run_for(SEC_US);
	assert_int_equal(rig.n_done, 0);
	store_set(&rig.store, false, false);
	run_until(is_done);
	assert_done(id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
}

static void a_plain_batch_is_answered_before_the_store_has_it(void **state)
{
	struct batch_id id;
	const char *outcome = NULL;
	struct blob *document;

	(void)state;
	rig.answers = 200;
	store_set(&rig.store, true, false);
	id = submit_batch(make_batch(1, 0, false, false));
	run_until(is_done);
	assert_true(rig.document);
	/* Until it has, the batch is shown from memory, as it ended. */
	document = dispatch_document(rig.d, id);
	assert_non_null(document);
	assert_non_null(memmem(document->p, document->n, "\"state\":\"done\"", 14));
	blob_unref(document);
	assert_true(dispatch_shows(rig.d, id, (struct slice){0}, &outcome));
	assert_string_equal(outcome, "succeeded");
	store_set(&rig.store, false, false);
	run_until(nothing_left);
	assert_done(id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
}

static void a_failing_store_stops_jobs_and_no_plain_batch(void **state)
{
	(void)state;
	submit_job(8, 0);
	run_until(is_accepted);
	store_set(&rig.store, false, true);
	submit_batch(make_batch(8, 0, false, false));
	rig.answers = 200;
	run_until(is_done);
	assert_int_equal(rig.n_sent, 8);
	run_for(SEC_US);
	assert_int_equal(rig.n_sent, 8);
	store_set(&rig.store, false, false);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 16);
}

static void a_claim_that_was_not_used_is_taken_back(void **state)
{
	struct batch_id id = submit_job(8, 0);
	struct batch *b;

	(void)state;
	run_for(SEC_US);
	assert_int_equal(count_asked(STORE_CLAIM), 8);
	dispatch_drain(rig.d, on_idle, NULL);
	run_for(SEC_US);
	b = stored(id);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(stored_item(b, i)->in_flight, i < 4);
		assert_int_equal(stored_item(b, i)->state, ITEM_PENDING);
	}
	batch_unref(b);
	dispatch_cancel_all(rig.d, WHY_SHUTDOWN);
}

static void a_cancel_waits_for_the_claim_that_is_asked_for(void **state)
{
	struct batch_id id = submit_job(1, 0);

	(void)state;
	run_until(is_accepted);
	store_set(&rig.store, true, false);
	run_for(SEC_US);
	assert_true(dispatch_cancel_job(rig.d, id, (struct slice){0}));
	run_for(SEC_US);
	assert_int_equal(count_asked(STORE_UPDATE), 0);
	store_set(&rig.store, false, false);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 0);
	assert_done(id, BATCH_OUTCOME_FAILED, STOP_REASON_CANCELLED);
}

/* ---- residency ---- */

static void a_job_that_waits_leaves_memory_and_comes_back_as_it_was(void **state)
{
	struct batch_id id = submit_job(1, 0);
	char key[160];
	struct batch *b;
	int64_t begun;

	(void)state;
	run_until(one_sent);
	strcpy(key, rig.sent[0].id);
	begun = clock_now();
	answer_one(&rig.sent[0], 503, 10000);
	run_until(is_parked);
	assert_int_equal(rig.group.held_bytes, 0);
	run_until(two_sent);
	assert_true(clock_now() - begun >= 10 * SEC_US);
	assert_string_equal(rig.sent[1].id, key);
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	run_until(nothing_left);
	b = stored(id);
	assert_int_equal(stored_item(b, 0)->attempts, 2);
	assert_true(stored_item(b, 0)->duplicate_risk);
	assert_in_range(stored_item(b, 0)->latency_ms, 10000, 12000);
	batch_unref(b);
	assert_done(id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
}

static void a_short_wait_or_a_waiting_caller_keeps_a_job_in_memory(void **state)
{
	struct batch *b = make_batch(1, 0, true, true);

	(void)state;
	submit_job(1, 0);
	run_until(one_sent);
	answer_one(&rig.sent[0], 503, 1500);
	b->policy.continue_on_disconnect = true;
	submit_batch(b);
	run_until(two_sent);
	answer_one(&rig.sent[1], 503, 3600000);
	run_for(SEC_US);
	assert_int_equal(count_asked(STORE_PARK), 0);
	assert_int_equal(dispatch_usage(rig.d).batches, 2);
}

static void a_hung_service_leaves_room_to_others(void **state)
{
	struct batch *b = make_batch(1, 0, true, true);
	size_t one = sizeof *b->items;
	struct dispatch_usage u;

	(void)state;
	batch_unref(b);
	rig.config.limits.resident_bytes = 8 * one;
	for (unsigned i = 0; i < 20; i++)
		submit_job(1, 0);
	run_for(SEC_US);
	u = dispatch_usage(rig.d);
	assert_int_equal(u.batches, 4);
	assert_int_equal(u.backlog, 16);
	/* The first service answers nothing, and holds half of the room for ever. */
	rig.answers = 200;
	for (unsigned i = 0; i < 10; i++)
		submit_job(1, 1);
	run_for(SEC_US);
	u = dispatch_usage(rig.d);
	assert_int_equal(u.batches, 4);
	assert_int_equal(u.backlog, 16);
	assert_int_equal(rig.n_sent, 4 + 10);
	/* It answers: the others of its jobs come into memory as there is room. */
	for (unsigned i = 0; i < 4; i++)
		answer_one(&rig.sent[i], 200, RETRY_AFTER_NONE);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 20 + 10);
}

/* A hung service with all the room that it can have, and a job for it that has
 * `deadline_ms` and gets none. */
static struct batch_id submit_without_room(int64_t deadline_ms)
{
	struct batch *b = make_batch(1, 0, true, true);

	rig.config.limits.resident_bytes = 2 * sizeof *b->items;
	b->policy.deadline_ms = deadline_ms;
	submit_job(1, 0);
	submit_job(1, 0);
	return submit_batch(b);
}

static struct batch_id submit_job_to(const char *url, const char *tenant)
{
	struct batch *b = make_batch(1, 1, true, true);

	b->items[0].to = slice_str(url);
	b->tenant = slice_str(tenant);
	return submit_batch(b);
}

static void assert_resident(unsigned batches, unsigned backlog)
{
	struct dispatch_usage u = dispatch_usage(rig.d);

	assert_int_equal(u.batches, batches);
	assert_int_equal(u.backlog, backlog);
}

/* One customer of a service for all of them, who holds a fifth of the room for ever. */
static void a_hung_origin_leaves_room_to_the_others_of_its_service(void **state)
{
	(void)state;
	rig.services[1].kind = SERVICE_WEBHOOK;
	rig.config.limits.resident_bytes = 40 * sizeof(struct item);
	for (unsigned i = 0; i < 60; i++)
		submit_job_to("http://127.0.0.1:1/hung", "");
	run_for(SEC_US);
	assert_resident(8, 52);
	rig.answers = 200;
	for (unsigned i = 0; i < 30; i++)
		submit_job_to("http://127.0.0.1:2/well", "");
	run_for(SEC_US);
	assert_resident(8, 52);
}

static void a_tenants_jobs_that_hang_leave_room_to_the_others_of_its_service(void **state)
{
	static struct tenant tenants[] = {{.name = ""}, {.name = "shop"}, {.name = "mill"}};

	(void)state;
	rig.config.tenants = tenants;
	rig.config.n_tenants = 3;
	rig.services[1].max_in_flight = 1000;
	rig.config.limits.resident_bytes = 40 * sizeof(struct item);
	for (unsigned i = 0; i < 20; i++)
		submit_job_to("hung", "shop");
	run_for(SEC_US);
	assert_resident(8, 12);
	rig.answers = 200;
	for (unsigned i = 0; i < 30; i++)
		submit_job_to("well", "mill");
	run_for(SEC_US);
	assert_resident(8, 12);
}

static void a_job_without_room_ends_in_time(void **state)
{
	struct batch_id id = submit_without_room(2000);

	(void)state;
	run_for(2 * SEC_US - 1000);
	assert_int_equal(dispatch_usage(rig.d).backlog, 1);
	run_for(SEC_US / 10);
	assert_int_equal(dispatch_usage(rig.d).backlog, 0);
	assert_done(id, BATCH_OUTCOME_FAILED, STOP_REASON_DEADLINE);
	assert_int_equal(rig.n_sent, 2);
	for (unsigned i = 0; i < 2; i++)
		answer_one(&rig.sent[i], 200, RETRY_AFTER_NONE);
	run_until(nothing_left);
}

static void a_job_without_room_ends_in_time_after_a_restart(void **state)
{
	struct batch_id id = submit_without_room(60000);
	struct batch *b;

	(void)state;
	run_for(SEC_US);
	dispatcher_close();
	dispatcher_open();
	recover_all();
	/* Whichever of the three finds room now. */
	run_for(60 * SEC_US);
	b = stored(id);
	assert_int_equal(b->state, BATCH_DONE);
	assert_int_equal(b->stop_reason, STOP_REASON_DEADLINE);
	batch_unref(b);
	rig.answers = 200;
	run_until(nothing_left);
}

static void a_load_that_fails_is_tried_again(void **state)
{
	struct batch *b = make_batch(1, 0, true, true);

	(void)state;
	rig.answers = 200;
	write_accepted(b, NULL, 0);
	recover_all();
	store_set(&rig.store, false, true);
	run_for(10 * SEC_US);
	assert_in_range(rig.store.n_reads, 2, 10);
	assert_int_equal(dispatch_usage(rig.d).backlog, 1);
	store_set(&rig.store, false, false);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 1);
}

static void few_jobs_are_asked_back_at_once(void **state)
{
	(void)state;
	rig.answers = 200;
	for (unsigned i = 0; i < 40; i++)
		write_accepted(make_batch(1, 0, true, true), NULL, 0);
	recover_all();
	store_set(&rig.store, true, false);
	run_for(SEC_US);
	assert_int_equal(rig.store.n_reads, 16);
	store_set(&rig.store, false, false);
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 40);
}

/* ---- cancel, watch ---- */

static void a_job_that_is_not_in_memory_is_fetched_to_be_cancelled(void **state)
{
	struct batch_id id = submit_job(2, 0);

	(void)state;
	rig.answers = 503;
	run_until(two_sent);
	answer_one(&rig.sent[0], 503, 3600000);
	answer_one(&rig.sent[1], 503, 3600000);
	run_until(is_parked);
	assert_int_equal(rig.group.tenants.of[0].queued, 2);
	assert_false(dispatch_cancel_job(rig.d, id, SLICE("shop")));
	assert_true(dispatch_cancel_job(rig.d, id, (struct slice){0}));
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 2);
	assert_done(id, BATCH_OUTCOME_INDETERMINATE, STOP_REASON_CANCELLED);
	assert_false(dispatch_cancel_job(rig.d, id, (struct slice){0}));
}

static struct watcher {
	struct dispatch_watch watch;
	unsigned changes, ends;
} watcher;

static void on_change(struct dispatch_watch *w, bool done)
{
	struct watcher *me = container_of(w, struct watcher, watch);

	assert_int_equal(me->ends, 0);
	me->changes++;
	me->ends += done;
}

static bool is_watched_to_the_end(void)
{
	return watcher.ends == 1;
}

static void a_watch_is_told_of_what_is_committed_and_of_the_end(void **state)
{
	struct batch_id id = submit_job(3, 0);

	(void)state;
	watcher = (struct watcher){.watch.on_change = on_change};
	dispatch_watch(rig.d, &watcher.watch, id);
	run_for(SEC_US);
	assert_int_equal(watcher.changes, 0);
	store_set(&rig.store, true, false);
	answer_one(&rig.sent[0], 200, RETRY_AFTER_NONE);
	answer_one(&rig.sent[1], 200, RETRY_AFTER_NONE);
	run_for(SEC_US);
	assert_int_equal(watcher.changes, 0);
	store_set(&rig.store, false, false);
	run_for(SEC_US);
	assert_in_range(watcher.changes, 1, 2);
	answer_one(&rig.sent[2], 200, RETRY_AFTER_NONE);
	run_until(is_watched_to_the_end);
	dispatch_unwatch(rig.d, &watcher.watch);
	assert_int_equal(dispatch_usage(rig.d).watches, 0);
}

/* A look right after the watch may come before the commit of what was on its way. */
static void who_watches_late_hears_of_what_was_on_its_way(void **state)
{
	struct batch_id id = submit_job(2, 0);

	(void)state;
	run_until(two_sent);
	store_set(&rig.store, true, false);
	answer_one(&rig.sent[0], 200, RETRY_AFTER_NONE);
	run_for(SEC_US);
	watcher = (struct watcher){.watch.on_change = on_change};
	dispatch_watch(rig.d, &watcher.watch, id);
	run_for(SEC_US);
	assert_int_equal(watcher.changes, 0);
	store_set(&rig.store, false, false);
	run_for(SEC_US);
	assert_int_equal(watcher.changes, 1);
	dispatch_unwatch(rig.d, &watcher.watch);
}

/* ---- the end of a process, and the next one ---- */

static void a_drain_leaves_jobs_unfinished(void **state)
{
	struct batch_id id = submit_job(8, 0);
	struct batch *b;

	(void)state;
	run_for(SEC_US);
	assert_int_equal(rig.n_sent, 4);
	dispatch_drain(rig.d, on_idle, NULL);
	answer_one(&rig.sent[0], 200, RETRY_AFTER_NONE);
	run_for(SEC_US);
	assert_false(rig.idle);
	dispatch_cancel_all(rig.d, WHY_SHUTDOWN);
	run_until(is_idle_now);
	assert_int_equal(rig.n_sent, 4);
	b = stored(id);
	assert_int_equal(b->state, BATCH_RUNNING);
	assert_int_equal(b->counts.pending, 7);
	for (uint32_t i = 1; i < 8; i++) {
		const struct item *it = stored_item(b, i);

		assert_int_equal(it->state, i < 4 ? ITEM_WAITING : ITEM_PENDING);
		assert_int_equal(it->attempts, i < 4);
		assert_int_equal(it->delivered, i < 4 ? DELIVERED_MAYBE : DELIVERED_NO);
		assert_false(it->in_flight);
	}
	batch_unref(b);
	/* The next process goes on. */
	dispatcher_close();
	dispatcher_open();
	rig.answers = 200;
	recover_all();
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 4 + 7);
	assert_done(id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
}

static void a_shutdown_settles_what_at_most_once_forbids_to_repeat(void **state)
{
	struct batch *b = make_batch(2, 0, true, true);
	struct batch_id id;

	(void)state;
	b->policy.at_most_once = true;
	id = submit_batch(b);
	run_until(two_sent);
	dispatch_drain(rig.d, on_idle, NULL);
	dispatch_cancel_all(rig.d, WHY_SHUTDOWN);
	run_until(is_idle_now);
	b = stored(id);
	assert_int_equal(stored_item(b, 0)->stop, STOP_MAYBE_DELIVERED);
	batch_unref(b);
	assert_done(id, BATCH_OUTCOME_INDETERMINATE, STOP_REASON_COMPLETED);
}

static void a_waiting_caller_is_told_that_its_job_goes_on_elsewhere(void **state)
{
	struct batch *b = make_batch(1, 0, true, true);

	(void)state;
	b->policy.continue_on_disconnect = true;
	submit_batch(b);
	run_until(one_sent);
	dispatch_drain(rig.d, on_idle, NULL);
	run_for(SEC_US);
	assert_int_equal(rig.n_done, 0);
	dispatch_cancel_all(rig.d, WHY_SHUTDOWN);
	run_until(is_idle_now);
	assert_int_equal(rig.n_done, 1);
	assert_int_equal(rig.done_state, BATCH_RUNNING);
}

static void what_was_claimed_counts_as_an_attempt_and_is_repeated(void **state)
{
	struct batch *b = make_batch(2, 0, true, true);
	struct batch_id id;

	(void)state;
	rig.answers = 200;
	id = write_accepted(b, (uint32_t[]){1}, 1);
	recover_all();
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 2);
	b = stored(id);
	assert_int_equal(stored_item(b, 0)->attempts, 1);
	assert_int_equal(stored_item(b, 1)->attempts, 2);
	assert_true(stored_item(b, 1)->duplicate_risk);
	batch_unref(b);
	assert_done(id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
}

static void at_most_once_what_was_claimed_is_never_repeated(void **state)
{
	struct batch *b = make_batch(2, 0, true, true);
	struct batch_id id;

	(void)state;
	rig.answers = 200;
	b->policy.at_most_once = true;
	id = write_accepted(b, (uint32_t[]){1}, 1);
	recover_all();
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 1);
	b = stored(id);
	assert_int_equal(stored_item(b, 1)->status, STATUS_INDETERMINATE);
	assert_int_equal(stored_item(b, 1)->code, CODE_INTERRUPTED);
	assert_int_equal(stored_item(b, 1)->stop, STOP_MAYBE_DELIVERED);
	batch_unref(b);
	assert_done(id, BATCH_OUTCOME_PARTIAL, STOP_REASON_COMPLETED);
}

static void a_synchronous_batch_ends_as_interrupted(void **state)
{
	struct batch *b = make_batch(2, 0, false, true);
	struct batch_id id;

	(void)state;
	id = write_accepted(b, (uint32_t[]){1}, 1);
	recover_all();
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 0);
	b = stored(id);
	assert_int_equal(stored_item(b, 0)->code, CODE_NOT_ATTEMPTED);
	assert_int_equal(stored_item(b, 0)->stop, STOP_INTERRUPTED);
	assert_int_equal(stored_item(b, 1)->code, CODE_INTERRUPTED);
	assert_int_equal(stored_item(b, 1)->stop, STOP_INTERRUPTED);
	assert_int_equal(stored_item(b, 1)->delivered, DELIVERED_MAYBE);
	batch_unref(b);
	assert_done(id, BATCH_OUTCOME_INDETERMINATE, STOP_REASON_INTERRUPTED);
}

/* The process ended between the failure and what should have followed from it. */
static void all_or_nothing_stops_for_a_failure_before_the_restart(void **state)
{
	struct batch *b = make_batch(2, 0, true, true);
	struct store_update u = {.op.what = STORE_UPDATE, .batch = b, .seq = 1};
	struct batch_id id;

	(void)state;
	b->policy.contract = CONTRACT_ALL_OR_NOTHING;
	id = write_accepted(batch_ref(b), NULL, 0);
	item_settle(&b->items[0], CODE_INVALID_ITEM, STOP_NOT_RETRYABLE, 0);
	u.item = b->items[0];
	u.counts = b->counts;
	store_write(&rig.store, &u.op);
	batch_unref(b);
	recover_all();
	run_until(nothing_left);
	assert_int_equal(rig.n_sent, 0);
	assert_done(id, BATCH_OUTCOME_FAILED, STOP_REASON_FIRST_FAILURE);
}

static void an_item_without_its_service_is_settled(void **state)
{
	struct batch *b = make_batch(2, 0, true, true);
	struct batch_id id;

	(void)state;
	b->items[0].service = b->items[1].service = ITEM_NO_SERVICE;
	id = write_accepted(b, (uint32_t[]){1}, 1);
	recover_all();
	run_until(nothing_left);
	b = stored(id);
	assert_int_equal(stored_item(b, 0)->code, CODE_INVALID_ITEM);
	assert_string_equal(stored_item(b, 0)->detail, "its service is no longer configured");
	assert_int_equal(stored_item(b, 1)->code, CODE_INTERRUPTED);
	assert_int_equal(stored_item(b, 1)->stop, STOP_NOT_RETRYABLE);
	batch_unref(b);
}

/* As a file that somebody mended by hand: the head says less than the items. */
static void a_batch_that_does_not_add_up_ends_no_process(void **state)
{
	struct batch *odd = make_batch(2, 0, true, true), *sound = make_batch(1, 0, true, true);
	struct batch_id odd_id, sound_id;

	(void)state;
	odd->counts.pending = 1;
	odd->counts.succeeded = 1;
	odd_id = write_accepted(odd, NULL, 0);
	sound_id = write_accepted(sound, NULL, 0);
	recover_all();
	rig.answers = 200;
	run_until(nothing_left);
	assert_done(sound_id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
	assert_int_equal(rig.n_sent, 1);
	odd = stored(odd_id);
	assert_int_not_equal(odd->state, BATCH_DONE);
	batch_unref(odd);
}

/* The wall clock of the machine was ahead when the job was accepted. */
static void a_clock_that_was_set_back_lengthens_no_deadline(void **state)
{
	struct batch *b = make_batch(1, 0, true, true);
	struct batch_id id;

	(void)state;
	b->policy.deadline_ms = 10000;
	b->created_unix_ms = clock_unix_ms() + 3600000;
	id = write_accepted(b, NULL, 0);
	recover_all();
	run_for(11 * SEC_US);
	b = stored(id);
	assert_int_equal(b->stop_reason, STOP_REASON_DEADLINE);
	assert_int_equal(b->finished_us - b->accepted_us, 10 * SEC_US);
	batch_unref(b);
}

/* Written by a process whose wall clock was an hour ahead: one item waits for ten
 * seconds, and one for five more. */
static struct batch *write_waiting(struct batch_id *ret_id)
{
	struct batch *b = make_batch(2, 0, true, true);
	const struct outcome refused = {.code = CODE_CONNECT_FAILED};

	b->created_unix_ms = clock_unix_ms() + 3600000;
	*ret_id = write_accepted(batch_ref(b), (uint32_t[]){0, 1}, 2);
	for (uint32_t i = 0; i < 2; i++) {
		struct item *it = &b->items[i];
		struct store_update u = {.op.what = STORE_UPDATE, .batch = b};

		item_set_state(it, ITEM_QUEUED);
		item_record(it, &refused, 0, 0, 0);
		item_set_state(it, ITEM_WAITING);
		it->due_unix_ms = b->created_unix_ms + 10000 + 5000 * i;
		u.item = *it;
		u.counts = b->counts;
		store_write(&rig.store, &u.op);
	}
	return b;
}

static void assert_sends_in_order(struct batch_id id)
{
	assert_int_equal(rig.n_sent, 1);
	run_for(4 * SEC_US);
	assert_int_equal(rig.n_sent, 1);
	run_for(2 * SEC_US);
	assert_int_equal(rig.n_sent, 2);
	assert_done(id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
}

static void a_clock_that_was_set_back_lengthens_no_wait(void **state)
{
	struct batch_id id;

	(void)state;
	batch_unref(write_waiting(&id));
	rig.answers = 200;
	recover_all();
	run_for(SEC_US / 2);
	assert_sends_in_order(id);
}

static void a_clock_that_was_set_back_lengthens_no_wait_in_the_store(void **state)
{
	struct batch_id id;
	struct batch *b = write_waiting(&id);
	struct store_park park = {.op.what = STORE_PARK, .row = b->store_row, .due_unix_ms = b->items[0].due_unix_ms};

	(void)state;
	store_write(&rig.store, &park.op);
	batch_unref(b);
	rig.answers = 200;
	recover_all();
	run_for(9 * SEC_US);
	assert_int_equal(rig.n_sent, 0);
	run_for(3 * SEC_US / 2);
	assert_sends_in_order(id);
}

/* A wait is over when it would have been, whatever the process did meanwhile. */
static void a_job_that_waits_is_not_fetched_before_its_time(void **state)
{
	struct batch_id id = submit_job(1, 0);

	(void)state;
	run_until(one_sent);
	answer_one(&rig.sent[0], 503, 60000);
	run_until(is_parked);
	dispatcher_close();
	dispatcher_open();
	recover_all();
	run_for(50 * SEC_US);
	assert_int_equal(rig.store.n_reads, 0);
	rig.answers = 200;
	run_until(nothing_left);
	assert_done(id, BATCH_OUTCOME_SUCCEEDED, STOP_REASON_COMPLETED);
}

/* ---- the rule of residency alone ---- */

static void a_service_holds_less_than_what_is_free(void **state)
{
	struct residency r;

	(void)state;
	residency_init(&r, 2);
	assert_true(residency_may_take(&r, 100, 0));
	residency_take(&r, 0, 40);
	assert_true(residency_may_take(&r, 100, 0));
	residency_take(&r, 0, 20);
	assert_false(residency_may_take(&r, 100, 0));
	assert_true(residency_may_take(&r, 100, 1));
	residency_take(&r, 1, 30);
	assert_false(residency_may_take(&r, 100, 1));
	assert_true(residency_may_take(&r, 100, ITEM_NO_SERVICE));
	residency_take(&r, ITEM_NO_SERVICE, 20);
	assert_false(residency_may_take(&r, 100, ITEM_NO_SERVICE));
	residency_give(&r, 0, 60);
	assert_true(residency_may_take(&r, 100, 0));
	residency_give(&r, 1, 30);
	residency_give(&r, ITEM_NO_SERVICE, 20);
	assert_int_equal(r.used, 0);
	/* One that is larger than all of the room comes alone. */
	assert_true(residency_may_take(&r, 1, 0));
	/* One of several parts of a service holds a fifth of what it could have alone. */
	residency_take(&r, 0, 19);
	assert_true(residency_part_may_take(&r, 100, 19));
	residency_take(&r, 0, 1);
	assert_false(residency_part_may_take(&r, 100, 20));
	assert_true(residency_part_may_take(&r, 100, 0));
	residency_give(&r, 0, 20);
	residency_free(&r);
}

#define RIG(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG(a_batch_that_the_store_refuses_starts_nothing),
		RIG(nothing_starts_before_the_store_has_the_batch),
		RIG(an_end_before_the_answer_is_remembered),
		RIG(an_attempt_starts_after_its_claim_is_committed),
		RIG(a_lane_claims_no_more_ahead_than_may_be_in_flight),
		RIG(a_claim_is_on_the_medium_only_where_a_repeat_is_forbidden),
		RIG(each_step_goes_to_the_store_in_its_order),
		RIG(nobody_is_told_of_an_end_that_is_not_committed),
		RIG(a_plain_batch_is_answered_before_the_store_has_it),
		RIG(a_failing_store_stops_jobs_and_no_plain_batch),
		RIG(a_claim_that_was_not_used_is_taken_back),
		RIG(a_cancel_waits_for_the_claim_that_is_asked_for),
		RIG(a_job_that_waits_leaves_memory_and_comes_back_as_it_was),
		RIG(a_short_wait_or_a_waiting_caller_keeps_a_job_in_memory),
		RIG(a_hung_service_leaves_room_to_others),
		RIG(a_hung_origin_leaves_room_to_the_others_of_its_service),
		RIG(a_tenants_jobs_that_hang_leave_room_to_the_others_of_its_service),
		RIG(a_job_without_room_ends_in_time),
		RIG(a_job_without_room_ends_in_time_after_a_restart),
		RIG(a_load_that_fails_is_tried_again),
		RIG(few_jobs_are_asked_back_at_once),
		RIG(a_job_that_is_not_in_memory_is_fetched_to_be_cancelled),
		RIG(a_watch_is_told_of_what_is_committed_and_of_the_end),
		RIG(who_watches_late_hears_of_what_was_on_its_way),
		RIG(a_drain_leaves_jobs_unfinished),
		RIG(a_shutdown_settles_what_at_most_once_forbids_to_repeat),
		RIG(a_waiting_caller_is_told_that_its_job_goes_on_elsewhere),
		RIG(what_was_claimed_counts_as_an_attempt_and_is_repeated),
		RIG(at_most_once_what_was_claimed_is_never_repeated),
		RIG(a_synchronous_batch_ends_as_interrupted),
		RIG(all_or_nothing_stops_for_a_failure_before_the_restart),
		RIG(an_item_without_its_service_is_settled),
		RIG(a_batch_that_does_not_add_up_ends_no_process),
		RIG(a_clock_that_was_set_back_lengthens_no_deadline),
		RIG(a_clock_that_was_set_back_lengthens_no_wait),
		RIG(a_clock_that_was_set_back_lengthens_no_wait_in_the_store),
		RIG(a_job_that_waits_is_not_fetched_before_its_time),
		cmocka_unit_test(a_service_holds_less_than_what_is_free),
	};

	log_init(LOG_LOGFMT, LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
