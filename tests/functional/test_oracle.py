"""The judge of the property tests is tested: the record of a real run is good,
and each defect that is planted in it is found by the invariant that names it."""

import copy
import json
import random

import harness
import invariants
import plan
import rig
from plan import Batch, Item, Leave, Plan, Step

OK = Step("status=200", 200, names_message=True)
GONE = Step("status=410", 410)
DOWN = Step("status=503", 503)
LATER = Step("status=429&retry_after=1", 429, retry_after=1)
LIMITED = Step("status=429", 429)
HANG = Step("hang")
RETRY = {"max_attempts": 3, "base_ms": 0, "cap_ms": 0}


def item(tag, down_url, service, *steps, **more):
    # A script's lines are what the ledger is compared with.
    made = Item(tag, tag, service, list(steps), payload=b'{"n": 1.10}', **more)
    made.to = f"{down_url}/{service}/{tag}?tag={tag}"
    made.script = [s.text for s in steps]
    if service == "narrow":
        made.to, made.script = f"tag={tag}&{steps[0].text}", []
    return made


def batch(tag, items, policy, **more):
    policy = {"deadline_ms": 20000, "attempt_timeout_ms": 10000, "retry": RETRY, **policy}
    made = Batch(tag, policy, items, b"{}", None, **more)
    made.body = plan.encode(made, random.Random(0))
    return made


def good_plan(down):
    large = item("s0b0i6", down, "narrow", OK)
    large.payload = json.dumps("x" * rig.NARROW_PAYLOAD).encode()
    invalid = item("s0b3i0", down, "webhook", OK, valid=False)
    refused = item("s0b4i1", down, "webhook", OK, valid=False)
    invalid.to = refused.to = "no URL"
    invalid.script = refused.script = []
    return Plan(0, [
        batch("s0b0", [item("s0b0i0", down, "webhook", OK), item("s0b0i1", down, "webhook", GONE),
                       item("s0b0i2", down, "webhook", DOWN, OK), item("s0b0i3", down, "webhook", LATER, OK),
                       item("s0b0i4", down, "webhook", Step("close")), item("s0b0i5", down, "signed", OK), large],
              {"include": ["attempts"], "concurrency": 2}),
        batch("s0b1", [item("s0b1i0", down, "webhook", LIMITED, OK), item("s0b1i1", down, "webhook", OK),
                       item("s0b1i2", down, "webhook", GONE), item("s0b1i3", down, "webhook", OK)],
              {"contract": "all_or_nothing", "order": "sequential", "delivery": "at_most_once"}),
        batch("s0b2", [item("s0b2i0", down, "webhook", OK), item("s0b2i1", down, "webhook", OK)], {},
              stream=True, glance=True),
        batch("s0b3", [invalid, item("s0b3i1", down, "webhook", OK)], {"contract": "best_effort"}),
        batch("s0b4", [item("s0b4i0", down, "webhook", OK), refused], {}),
    ])


def left_plan(down):
    return Plan(1, [batch("s1b0", [item("s1b0i0", down, "webhook", HANG), item("s1b0i1", down, "webhook", OK)],
                          {"order": "sequential"}, leave=Leave("fin", "requests"))])


class Doctor:
    """A copy of a good record, with short names for what is in it."""

    def __init__(self, record):
        self.seed = copy.deepcopy(record)

    def b(self, n):
        return self.seed.batches[n]

    def result(self, b, i):
        return self.b(b).final["results"][i]

    def attempts(self, b, i):
        record = self.b(b)
        return record.attempts.setdefault(record.plan.items[i].id, [])

    def entries(self, b, i):
        record = self.b(b)
        return record.entries.setdefault(record.plan.items[i].tag, [])

    def repeat(self, b, i):
        """The last request once more, as a replay would show."""
        again = copy.deepcopy(self.entries(b, i)[-1])
        self.entries(b, i).append(again)

    def forge(self, b, i):
        """A request that nothing was to make."""
        self.entries(b, i).append(copy.deepcopy(self.entries(0, 0)[0]))

    def refuse(self, b, i, n):
        record = self.b(b)
        record.refused[record.plan.items[i].id] = n

    def late(self, b, i, us):
        attempt = copy.deepcopy(self.attempts(0, 0)[0])
        attempt.started_us, attempt.ended_us = us, us + 1
        self.attempts(b, i).append(attempt)


def overlap_in_the_ledger(d):
    d.entries(1, 1)[0]["arrived_us"] = d.entries(1, 0)[-1]["answered_us"] - 1


def all_at_once(d):
    for i in range(6):
        for a in d.attempts(0, i):
            a.started_us, a.ended_us = 1, 2


def swap(d):
    results = d.b(0).final["results"]
    results[0], results[1] = results[1], results[0]


def flip_a_byte(d):
    entry = d.entries(0, 0)[0]
    entry["body"] = entry["body"].replace(b"1.10", b"1.1 ")


# (the invariant that must find it, what is wrong, how to make it so)
DEFECTS = [
    ("ok_means_delivered_and_no_error", "ok without delivery", lambda d: d.result(0, 1).update(ok=True)),
    ("ok_means_delivered_and_no_error", "an error on a success", lambda d: d.result(0, 0).update(error={"code": "x"})),
    ("without_an_attempt_nothing_is_delivered", "maybe, never attempted",
     lambda d: d.result(0, 6).update(delivered="maybe")),
    ("delivered_is_the_maximum_over_attempts", "a maybe forgotten", lambda d: d.result(0, 4).update(delivered="no")),
    ("duplicate_risk_means_a_repeat_after_a_maybe", "a risk hidden",
     lambda d: d.result(0, 2).update(duplicate_risk=False)),
    ("duplicate_risk_means_a_repeat_after_a_maybe", "a risk without a repeat",
     lambda d: d.result(0, 0).update(duplicate_risk=True)),
    ("attempts_are_counted_and_bounded", "one attempt too many", lambda d: d.result(0, 0).update(attempts=2)),
    ("the_attempt_log_tells_the_attempts", "an attempt left out", lambda d: d.result(0, 2)["attempt_log"].pop(0)),
    ("the_attempt_log_tells_the_attempts", "a log nobody asked for",
     lambda d: d.result(1, 0).update(attempt_log=[])),
    ("requests_never_outnumber_attempts", "an extra request", lambda d: d.repeat(0, 0)),
    ("status_follows_from_the_facts", "a maybe called failed", lambda d: d.result(0, 4).update(status="failed")),
    ("retryable_follows_from_the_code", "a final code called retryable",
     lambda d: d.result(0, 1).update(retryable=True)),
    ("retryable_follows_from_the_code", "an unknown code", lambda d: d.result(0, 1)["error"].update(code="oops")),
    ("the_last_attempt_gives_the_error", "another attempt's code",
     lambda d: d.result(0, 4)["error"].update(code="timeout")),
    ("an_answer_decides_code_and_delivered", "410 as rejected",
     lambda d: setattr(d.attempts(0, 1)[0], "code", "rejected")),
    ("an_answer_decides_code_and_delivered", "410 as maybe",
     lambda d: setattr(d.attempts(0, 1)[0], "delivered", "maybe")),
    ("without_an_answer_the_bytes_sent_decide", "sent, lost, and called no",
     lambda d: setattr(d.attempts(0, 4)[0], "delivered", "no")),
    ("without_an_answer_the_bytes_sent_decide", "a timeout in wait as no",
     lambda d: d.attempts(0, 4).__setitem__(0, rig.Attempt(1, 0, 0, "timeout", "no", "wait", None))),
    ("reported_statuses_were_sent", "an answer nobody gave", lambda d: d.entries(0, 1).clear()),
    ("the_downstream_keeps_to_the_plan", "another answer than asked for",
     lambda d: d.entries(0, 1)[0].update(answered=404)),
    ("success_needs_a_2xx_in_the_ledger", "succeeded without a request", lambda d: d.entries(0, 0).clear()),
    ("success_needs_a_2xx_in_the_ledger", "succeeded, answered by 503 alone", lambda d: d.entries(0, 2).pop()),
    ("message_id_is_the_one_that_was_answered", "another's id", lambda d: d.result(0, 0).update(message_id="m-99")),
    ("message_id_is_the_one_that_was_answered", "no id", lambda d: d.result(0, 0).pop("message_id")),
    ("a_2xx_is_never_lost", "delivered no with a 2xx", lambda d: d.result(0, 0).update(delivered="no")),
    ("a_2xx_is_never_lost", "delivered maybe with a 2xx", lambda d: d.result(0, 0).update(delivered="maybe")),
    ("delivered_no_needs_a_refusal_of_every_request", "no, though it was read and not answered",
     lambda d: d.result(0, 4).update(delivered="no")),
    ("at_most_once_never_repeats_a_maybe", "a replayed request", lambda d: d.repeat(1, 1)),
    ("at_most_once_never_repeats_a_maybe", "an attempt after a maybe",
     lambda d: setattr(d.attempts(1, 0)[0], "delivered", "maybe")),
    ("payload_arrives_byte_for_byte", "a changed byte", flip_a_byte),
    ("payload_arrives_byte_for_byte", "a longer body", lambda d: d.entries(0, 0)[0].update(body_bytes=12)),
    ("every_attempt_has_the_same_webhook_id", "a second attempt with an id of its own",
     lambda d: d.entries(0, 2)[1].update(webhook_id="other")),
    ("signed_services_sign_what_they_send", "a wrong signature",
     lambda d: d.entries(0, 5)[0].update(webhook_signature="v1,AAAA")),
    ("signed_services_sign_what_they_send", "no signature",
     lambda d: d.entries(0, 5)[0].update(webhook_signature=None)),
    ("retry_after_is_a_lower_bound", "a repeat before its time",
     lambda d: setattr(d.attempts(0, 3)[1], "started_us", d.attempts(0, 3)[0].ended_us + 999999)),
    ("no_attempt_starts_after_its_deadline", "an attempt a minute later",
     lambda d: setattr(d.attempts(0, 0)[0], "started_us", d.attempts(0, 0)[0].started_us + 60000000)),
    ("no_attempt_starts_after_its_deadline", "an attempt after its ttl",
     lambda d: setattr(d.b(0).plan.items[3], "ttl_ms", 900)),
    ("a_refusal_is_told_where_nothing_else_was_tried", "a refusal that nobody logged",
     lambda d: d.result(0, 1).update(attempts=0, error={"code": "circuit_open"})),
    ("a_refusal_is_told_where_nothing_else_was_tried", "a refusal that is not told",
     lambda d: (d.result(0, 1).update(attempts=0, error={"code": "not_attempted"}), d.refuse(0, 1, 1))),
    ("attempts_are_counted_and_bounded", "more tries than there may be", lambda d: d.refuse(0, 0, 3)),
    ("stop_says_why_there_was_no_further_attempt", "no budget for a first attempt",
     lambda d: d.result(0, 1).update(attempts=0, stop="retry_budget")),
    ("stop_says_why_there_was_no_further_attempt", "max_attempts after one of three",
     lambda d: d.result(0, 1).update(stop="max_attempts")),
    ("stop_says_why_there_was_no_further_attempt", "no stop", lambda d: d.result(0, 1).pop("stop")),
    ("stop_says_why_there_was_no_further_attempt", "a stop that the batch did not have",
     lambda d: d.result(0, 4).update(stop="disconnected")),
    ("stop_says_why_there_was_no_further_attempt", "shed, though it is no best_effort",
     lambda d: d.result(0, 4).update(stop="shed")),
    ("an_invalid_item_is_never_attempted", "an invalid item sent", lambda d: d.forge(3, 0)),
    ("an_invalid_item_is_never_attempted", "a valid item called invalid",
     lambda d: d.b(3).plan.items[0].__setattr__("valid", True)),
    ("what_a_service_does_not_take_is_not_sent", "too large, and sent", lambda d: d.forge(0, 6)),
    ("one_result_per_item_in_order", "a dropped result", lambda d: d.b(0).final["results"].pop()),
    ("one_result_per_item_in_order", "swapped results", swap),
    ("counts_add_up", "a count too high", lambda d: d.b(0).final["counts"].update(succeeded=5)),
    ("counts_add_up", "one still pending", lambda d: d.b(0).final["counts"].update(pending=1)),
    ("outcome_is_arithmetic_on_the_counts", "partial called succeeded",
     lambda d: d.b(0).final.update(outcome="succeeded")),
    ("stop_reason_is_plausible", "a deadline before its time", lambda d: d.b(0).final.update(stop_reason="deadline")),
    ("stop_reason_is_plausible", "disconnected, though the client stayed",
     lambda d: d.b(0).final.update(stop_reason="disconnected")),
    ("stop_reason_is_plausible", "disconnected, though it was to continue",
     lambda d: d.b(0).plan.policy.update(on_disconnect="continue")),
    ("stop_reason_is_plausible", "all_or_nothing completed with a failure",
     lambda d: d.b(1).final.update(stop_reason="completed")),
    ("all_or_nothing_starts_nothing_after_a_failure", "an attempt after the failure",
     lambda d: d.late(1, 3, d.attempts(1, 2)[0].ended_us + 1)),
    ("sequential_attempts_never_overlap", "overlapping attempts",
     lambda d: setattr(d.attempts(1, 1)[0], "started_us", d.attempts(1, 0)[-1].ended_us - 1)),
    ("sequential_attempts_never_overlap", "overlapping requests", overlap_in_the_ledger),
    ("concurrency_bounds_the_attempts", "six at once, of two", all_at_once),
    ("nothing_starts_after_the_end", "an attempt after the first failure",
     lambda d: d.late(1, 3, int(d.b(1).done["ended_at_us"]) + 1)),
    ("nothing_starts_after_the_end", "an attempt after the disconnect",
     lambda d: d.late(0, 1, int(d.b(0).done["ended_at_us"]) + 1)),
    ("the_log_agrees_with_the_results", "other counts in the log", lambda d: d.b(0).done.update(attempts="1")),
    ("the_log_agrees_with_the_results", "done twice", lambda d: setattr(d.b(0), "n_done", 2)),
    ("times_are_in_order", "finished before it began",
     lambda d: d.b(0).final.update(finished_at="2001-01-01T00:00:00.000Z")),
    ("a_glance_while_it_runs_is_true", "counts of another time",
     lambda d: d.b(2).glance["counts"].update(pending=9)),
    ("a_refused_batch_sends_nothing", "a refused batch sent", lambda d: d.forge(4, 0)),
    ("a_refused_batch_sends_nothing", "an invalid batch accepted", lambda d: setattr(d.b(4), "status", 207)),
    ("no_error_status_once_an_attempt_started", "500 after attempts", lambda d: setattr(d.b(0), "status", 500)),
    ("every_accepted_batch_is_known_afterwards", "forgotten", lambda d: setattr(d.b(0), "final", None)),
    ("the_answer_is_what_get_gives", "another answer", lambda d: setattr(d.b(0), "answer", b"{}")),
    ("status_is_200_only_if_every_item_succeeded", "200 for partial", lambda d: setattr(d.b(0), "status", 200)),
    ("status_is_200_only_if_every_item_succeeded", "no Location", lambda d: d.b(0).headers.pop("Location")),
    ("stream_lines_are_the_results", "a line missing", lambda d: d.b(2).lines.pop(0)),
    ("stream_lines_are_the_results", "a line twice", lambda d: d.b(2).lines.insert(0, d.b(2).lines[0])),
    ("stream_lines_are_the_results", "no last line", lambda d: d.b(2).lines.pop()),
    ("nothing_arrives_after_the_end", "an arrival after the end", lambda d: d.b(0).late.append(d.entries(0, 0)[0])),
    ("every_request_belongs_to_an_item", "a request of nobody", lambda d: d.seed.strays.append(d.entries(0, 0)[0])),
    ("every_request_belongs_to_an_item", "a request that is no HTTP", lambda d: setattr(d.seed, "malformed", 1)),
    ("no_batch_comes_from_nowhere", "a batch of nobody", lambda d: d.seed.unknown.append("b_x")),
    ("metrics_agree_with_the_results", "a batch not counted",
     lambda d: d.seed.after.update({'settled_batches_total{outcome="partial"}': 0.0})),
    ("metrics_agree_with_the_results", "an attempt too many",
     lambda d: d.seed.after.update({'settled_attempts_total{service="webhook",code="internal"}': 1.0})),
    ("gauges_return_to_zero", "an item still queued", lambda d: d.seed.after.update({"settled_items_queued": 1.0})),
    ("file_descriptors_return_to_where_they_were", "a socket left", lambda d: setattr(d.seed, "fds", (10, 11))),
]
# Those that are planted into the record of a client that left.
IN_LEFT = {"an attempt after the disconnect", "disconnected, though it was to continue"}


class Oracle(harness.unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        r = rig.Rig(1)
        try:
            cls.good = r.run(good_plan(r.down.url))
            cls.left = r.run(left_plan(r.down.url))
        finally:
            r.stop()

    def test_a_good_record_has_no_complaints(self):
        for record in (self.good, self.left):
            self.assertEqual([(n, t) for n, _, t in invariants.judge(record)], [])

    def test_the_good_record_is_what_the_defects_need(self):
        self.assertEqual(self.left.batches[0].final["stop_reason"], "disconnected")
        self.assertEqual([r.final and r.final["stop_reason"] for r in self.good.batches],
                         ["completed", "first_failure", "completed", "completed", None])
        self.assertEqual([r["status"] for r in self.good.batches[0].final["results"]],
                         ["succeeded", "failed", "succeeded", "succeeded", "indeterminate", "succeeded", "failed"])

    def test_each_planted_defect_is_found_by_the_invariant_that_names_it(self):
        for name, what, plant in DEFECTS:
            with self.subTest(invariant=name, defect=what):
                d = Doctor(self.left if what in IN_LEFT else self.good)
                plant(d)
                self.assertIn(name, {n for n, _, _ in invariants.judge(d.seed)})

    def test_each_invariant_has_a_planted_defect(self):
        self.assertEqual(invariants.NAMES, {name for name, _, _ in DEFECTS})


if __name__ == "__main__":
    harness.main()
