/*
 * What all seeds together have exercised: a simulator that never meets a case
 * proves nothing about it.
 */
#include <stdio.h>

#include "sim.h"

static uint64_t races[RACE_MAX], codes[CODE_MAX], stops[STOP_MAX], contracts[CONTRACT_MAX],
	reasons[STOP_REASON_MAX], outcomes[BATCH_OUTCOME_MAX], statuses[STATUS_MAX], ends[ANSWER_INTERNAL + 1],
	batches, items, requests;

static const char *const race_names[RACE_MAX] = {
	[RACE_CANCEL_IN_WAIT] = "cancel_in_wait",
	[RACE_CANCEL_QUEUED] = "cancel_queued",
	[RACE_CANCEL_UNWRITTEN] = "cancel_before_first_byte",
	[RACE_CANCEL_WRITTEN] = "cancel_after_first_byte",
	[RACE_STATUS_BEFORE_CANCEL] = "status_before_cancel",
	[RACE_ANSWER_UNDER_WAY] = "cancel_of_an_ended_transfer",
	[RACE_FIRST_FAILURE_IN_FLIGHT] = "first_failure_in_flight",
	[RACE_DEADLINE_IN_FLIGHT] = "deadline_in_flight",
	[RACE_DEADLINE_IN_WAIT] = "deadline_in_wait",
	[RACE_TIMEOUT_AT_ANSWER] = "timeout_and_answer_at_once",
	[RACE_ENDED_TWICE] = "ended_twice",
	[RACE_END_OF_DONE] = "end_of_a_done_batch",
	[RACE_END_IN_CALLBACK] = "end_in_on_settled",
	[RACE_OTHER_SHARD] = "lane_on_another_shard",
	[RACE_CONCURRENCY_FULL] = "concurrency_full",
	[RACE_LANE_FULL] = "lane_full",
	[RACE_RETRY_AFTER] = "retry_after_obeyed",
	[RACE_DUPLICATE_SEEN] = "duplicate_seen_downstream",
	[RACE_BUSY] = "refused_busy",
	[RACE_SHUTDOWN_REFUSED] = "refused_draining",
	[RACE_DETACHED] = "detached",
	[RACE_DRAINED] = "drained",
	[RACE_SEQUENTIAL] = "sequential",
	[RACE_NO_MEMORY] = "no_memory_for_a_transfer",
	[RACE_SEEN_AFTER_CANCEL] = "seen_after_cancel",
	[RACE_SUBMIT_IN_CALLBACK] = "submit_in_on_done",
	[RACE_STALLED] = "stalled_shard",
	[RACE_DISK_FAILED] = "disk_failed",
	[RACE_PARKED] = "job_parked",
	[RACE_LOADED] = "job_loaded",
	[RACE_CRASH] = "crash",
	[RACE_RESTART] = "orderly_restart",
	[RACE_INTERRUPTED_SEEN] = "interrupted_and_seen",
	[RACE_CLAIMED_NOT_STARTED] = "claimed_and_not_started",
	[RACE_OUTCOME_LOST] = "answer_lost_by_a_crash",
	[RACE_ACCEPT_LOST] = "acceptance_lost_by_a_crash",
	[RACE_ACK_LOST] = "kept_and_not_acknowledged",
	[RACE_KEY_EXISTS] = "key_exists",
	[RACE_ACCEPT_REFUSED] = "acceptance_refused",
	[RACE_CANCEL_IN_STORE] = "cancel_of_a_job",
	[RACE_WATCHED] = "watched",
	[RACE_OTHER_SHARDS] = "other_number_of_shards",
	[RACE_NOTE_INTERRUPTED] = "note_ends_as_interrupted",
	[RACE_CRASH_AFTER_FINISH] = "crash_after_the_end",
	[RACE_PAUSED] = "lane_paused",
	[RACE_PAUSE_CUT] = "lane_paused_for_less_than_asked",
	[RACE_BREAKER_OPENED] = "breaker_opened",
	[RACE_BREAKER_CLOSED] = "breaker_closed_by_its_probe",
	[RACE_PROBE_SAID_NOTHING] = "probe_says_nothing",
	[RACE_STALE_OUTCOME] = "outcome_of_another_period",
	[RACE_REFUSED] = "try_refused",
	[RACE_RATE_HELD] = "lane_held_by_its_rate",
	[RACE_TENANTS_SHARE] = "tenants_share_by_weight",
	[RACE_PRIORITIES_SHARE] = "batches_share_by_priority",
	[RACE_SHED_AT_ONCE] = "shed_as_it_came",
	[RACE_SHED_LATER] = "shed_as_it_waited",
	[RACE_TENANT_FULL] = "refused_for_its_tenant",
	[RACE_TENANT_HAS_PART] = "refused_for_its_tenants_part",
	[RACE_RELOADED] = "limits_changed_while_it_runs",
	[RACE_LANES_SHARE] = "lanes_of_one_origin_at_once",
	[RACE_PAUSE_TOLD] = "lane_paused_by_another",
	[RACE_HELD] = "held_while_its_lane_pauses",
	[RACE_HELD_TOO_LONG] = "paused_beyond_the_deadline",
	[RACE_BUDGET_HELD] = "repeat_held_by_the_budget",
};

void cover_race(enum race r)
{
	races[r]++;
}

void cover_batch(const struct sim_batch *b)
{
	batches++;
	items += b->n_items;
	contracts[b->want.contract]++;
	reasons[b->b->stop_reason]++;
	outcomes[b->b->outcome]++;
	for (unsigned i = 0; i < b->n_items; i++) {
		codes[b->items[i].code]++;
		stops[b->items[i].stop]++;
		statuses[b->items[i].status]++;
		for (int r = b->items[i].first; r >= 0; r = sim.requests[r].next) {
			requests++;
			ends[sim.requests[r].answer.end]++;
			if (sim.requests[r].cancel_us != NEVER &&
			    sim.requests[r].answer.end != ANSWER_CANCELLED &&
			    sim.requests[r].cancel_us == sim.requests[r].deadline_us)
				races[RACE_TIMEOUT_AT_ANSWER]++;
		}
	}
}

static void line(const char *what, const char *name, uint64_t n)
{
	printf("# %-12s %-28s %12llu\n", what, name, (unsigned long long)n);
}

void cover_report(void)
{
	line("total", "batches", batches);
	line("total", "items", items);
	line("total", "requests", requests);
	for (unsigned i = 0; i < CODE_MAX; i++)
		line("code", code_str((enum code)i), codes[i]);
	for (unsigned i = 0; i < STOP_MAX; i++)
		line("stop", stop_str((enum stop)i), stops[i]);
	for (unsigned i = STATUS_SUCCEEDED; i < STATUS_MAX; i++)
		line("status", status_str((enum status)i), statuses[i]);
	for (unsigned i = 0; i < CONTRACT_MAX; i++)
		line("contract", contract_str((enum contract)i), contracts[i]);
	for (unsigned i = 1; i < STOP_REASON_MAX; i++)
		line("stop_reason", stop_reason_str((enum stop_reason)i), reasons[i]);
	for (unsigned i = 1; i < BATCH_OUTCOME_MAX; i++)
		line("outcome", batch_outcome_str((enum batch_outcome)i), outcomes[i]);
	for (unsigned i = 0; i < RACE_MAX; i++)
		line("race", race_names[i], races[i]);
}

const char *cover_missing(void)
{
	for (unsigned i = 0; i < CODE_MAX; i++)
		if (codes[i] == 0)
			return code_str((enum code)i);
	for (unsigned i = 0; i < STOP_MAX; i++)
		if (stops[i] == 0)
			return stop_str((enum stop)i);
	for (unsigned i = STOP_REASON_COMPLETED; i < STOP_REASON_MAX; i++)
		if (reasons[i] == 0)
			return stop_reason_str((enum stop_reason)i);
	for (unsigned i = BATCH_OUTCOME_SUCCEEDED; i < BATCH_OUTCOME_MAX; i++)
		if (outcomes[i] == 0)
			return batch_outcome_str((enum batch_outcome)i);
	for (unsigned i = 0; i < ARRAY_LEN(ends); i++)
		if (ends[i] == 0)
			return "an answer_end";
	for (unsigned i = 0; i < RACE_MAX; i++)
		if (races[i] == 0)
			return race_names[i];
	return NULL;
}
