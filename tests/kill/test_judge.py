#!/usr/bin/python3
"""The judge of the kill test is tested: a good history has no complaints, and each
defect that is planted in it is found by the rule that names it."""

import copy
import os
import sys
from collections import Counter

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "functional"))

import harness
import judge
from history import Act, History, Life, Sighting
from draw import Intent, Item, Sending

# Two lives of a second each, then the last.
LIVES = ((0, 1000000), (2000000, 3000000), (4000000, 9000000))


def intent(name, kind, ways, **more):
    policy = {"retry": {"max_attempts": 3, "base_ms": 5, "cap_ms": 40}, "include": ["attempts"],
              **more.pop("policy", {})}
    items = [Item(f"{name}i{n}", way, "s0", f'{{"n":{n}}}') for n, way in enumerate(ways)]
    return Intent(name, kind, items, policy, {}, **more)


def request(n, at_us, item, batch_id, answered, **more):
    return {"n": n, "arrived_us": at_us, "answered_us": at_us + 1000, "answered": answered,
            "path": f"/s0/tag={item.tag}", "query": None, "webhook_id": f"{batch_id}.{item.tag}",
            "body": item.payload.encode(), "complete": True, **more}


def result(index, item, codes, **more):
    """Of attempts that ended so; None is success."""
    last = codes[-1] if codes else "not_attempted"
    maybe = any(c in ("interrupted", "upstream_error") for c in codes)
    delivered = "yes" if last is None else "maybe" if maybe else "no"
    r = {"index": index, "id": item.tag, "delivered": delivered, "ok": delivered == "yes", "attempts": len(codes),
         "status": {"yes": "succeeded", "maybe": "indeterminate",
                    "no": "failed" if codes else "not_attempted"}[delivered],
         "duplicate_risk": any(c in ("interrupted", "upstream_error") for c in codes[:-1]),
         "retryable": last not in (None, "recipient_gone"), "attempt_log": [{"code": c} for c in codes], **more}
    if last is not None:
        r["error"] = {"code": last}
    return r


def batch(batch_id, sent, results, **more):
    have = Counter(r["status"] for r in results)
    return {"id": batch_id, "state": "done", "outcome": "partial", "stop_reason": "completed", "durability": "disk",
            "metadata": {"intent": sent.name}, "retry_of": None, "results": results,
            "counts": {"total": len(results), "pending": 0, **{s: have[s] for s in judge.STATUSES}}, **more}


def answer(sent, at_us, status, batch_id, body=None, **headers):
    sent.sendings.append(Sending(at_us, status, {"Batch-Id": batch_id, **headers}, {"durability": "disk", **body},
                                 at_us + 5000))


def good():
    """A job that was killed in flight and whose wait spans a death; a synchronous batch that a death interrupted,
    and its replay; a sequential one that stopped; one at most once; one that was retried; one forgotten; one
    cancelled."""
    job = intent("e0b0", "job", ("ok", "later"))
    sync = intent("e0b1", "sync", ("slow",), key="key-e0b1")
    stop = intent("e0b2", "job", ("gone", "ok"), policy={"contract": "all_or_nothing", "order": "sequential"})
    once = intent("e0b3", "job", ("slow",), policy={"delivery": "at_most_once"})
    again = intent("e0b4", "job", ("limited", "ok"))
    old = intent("e0b5", "job", ("ok",))
    ended = intent("e0b6", "job", ("ok",))
    line = intent("e0b7", "job", ("ok", "ok"), policy={"order": "sequential"})
    h = History({i.name: i for i in (job, sync, stop, once, again, old, ended, line)})
    h.lives = [Life(a, b, "requests", -9) for a, b in LIVES]
    h.lives[-1].end, h.lives[-1].status = "drain", 0
    i = {name: x.items for name, x in h.intents.items()}
    h.ledger = [
        request(1, 100000, i["e0b0"][0], "b0", 200), request(2, 990000, i["e0b0"][1], "b0", 429),
        request(3, 2100000, i["e0b0"][0], "b0", 200), request(4, 2200000, i["e0b0"][1], "b0", 200),
        request(5, 500000, i["e0b1"][0], "b1", 200), request(6, 600000, i["e0b2"][0], "b2", 410),
        request(7, 700000, i["e0b3"][0], "b3", 200), request(8, 2300000, i["e0b4"][0], "b4", 429),
        request(9, 2310000, i["e0b4"][0], "b4", 429), request(10, 2320000, i["e0b4"][0], "b4", 429),
        request(11, 2330000, i["e0b4"][1], "b4", 200), request(12, 4100000, i["e0b4"][0], "b4", 429),
        request(13, 200000, i["e0b5"][0], "b5", 200), request(14, 300000, i["e0b7"][0], "b7", 200),
        request(15, 310000, i["e0b7"][1], "b7", 200)]
    for name in ("e0b0", "e0b2", "e0b3", "e0b4", "e0b5", "e0b6", "e0b7"):
        answer(h.intents[name], 50000, 202, "b" + name[-1], {"state": "queued"})
    sync.sendings.append(Sending(400000))
    h.batches = {b["id"]: b for b in (
        batch("b0", job, [result(0, i["e0b0"][0], ["interrupted", None]),
                          result(1, i["e0b0"][1], ["rate_limited", None])]),
        batch("b1", sync, [result(0, i["e0b1"][0], ["interrupted"], stop="interrupted")], stop_reason="interrupted"),
        batch("b2", stop, [result(0, i["e0b2"][0], ["recipient_gone"], stop="not_retryable"),
                           result(1, i["e0b2"][1], [], stop="first_failure")], stop_reason="first_failure"),
        batch("b3", once, [result(0, i["e0b3"][0], ["interrupted"], stop="maybe_delivered")]),
        batch("b4", again, [result(0, i["e0b4"][0], ["rate_limited"] * 3, stop="max_attempts"),
                            result(1, i["e0b4"][1], [None])]),
        batch("b5", old, [result(0, i["e0b5"][0], [None])]),
        batch("b6", ended, [result(0, i["e0b6"][0], [], stop="cancelled")], stop_reason="cancelled"),
        batch("b7", line, [result(0, i["e0b7"][0], [None]), result(1, i["e0b7"][1], [None])]),
        batch("b8", again, [result(0, i["e0b4"][0], ["rate_limited"] * 1, stop="max_attempts")], retry_of="b4"))}
    again.policy["retry"]["max_attempts"] = 3
    h.batches["b8"]["results"][0]["attempts"] = 3
    h.batches["b8"]["results"][0]["attempt_log"] = [{"code": "rate_limited"}] * 3
    h.ledger += [request(16, 4200000, i["e0b4"][0], "b4", 429), request(17, 4300000, i["e0b4"][0], "b4", 429)]
    for at_us in (2400000, 4400000):
        answer(sync, at_us, 207, "b1", h.batches["b1"], **{"Idempotent-Replayed": "true"})
    h.sightings = [Sighting("b0", 2500000, copy.deepcopy(h.batches["b0"]))]
    h.acts = [Act("retry", "b4", 4000001, 202, {"id": "b8"}, 4000500), Act("delete", "b5", 4000001, 204, None, 4000500),
              Act("cancel", "b6", 60000, 200, h.batches["b6"], 61000)]
    h.last = {b: 200 for b in h.batches}
    h.last["b5"] = 404
    return h


def entry(h, n):
    return next(e for e in h.ledger if e["n"] == n)


def extra(h, like, **more):
    """One request more, like another."""
    h.ledger.append({**entry(h, like), "n": 99, **more})


def lose(h, batch_id):
    del h.batches[batch_id]
    h.last[batch_id] = 404


def set_result(h, batch_id, index, **more):
    h.batches[batch_id]["results"][index].update(more)


def drop_request(h, n):
    h.ledger.remove(entry(h, n))


DEFECTS = [
    ("what_was_acknowledged_is_there", "a job that was answered 202 is gone", lambda h: lose(h, "b0")),
    ("what_was_acknowledged_is_there", "a retry that was answered 202 is gone", lambda h: lose(h, "b8")),
    ("what_was_acknowledged_is_there", "a batch that was shown is gone",
     lambda h: (h.intents["e0b0"].sendings.clear(), lose(h, "b0"))),
    ("every_batch_comes_to_its_end", "it still runs", lambda h: h.batches["b0"].update(state="running")),
    ("every_batch_comes_to_its_end", "an item still waits", lambda h: h.batches["b0"]["counts"].update(pending=1)),
    ("a_batch_is_there_wholly", "an item is missing", lambda h: h.batches["b7"]["results"].pop()),
    ("a_batch_is_there_wholly", "nobody sent it", lambda h: h.intents.pop("e0b7")),
    ("counts_add_up", "one too many", lambda h: h.batches["b0"]["counts"].update(failed=1)),
    ("what_is_durable_says_so", "a job in memory", lambda h: h.batches["b0"].update(durability="memory")),
    ("what_is_durable_says_so", "an answer says otherwise",
     lambda h: h.intents["e0b0"].sendings[0].body.update(durability="memory")),
    ("a_final_result_never_changes", "other than it was seen",
     lambda h: h.sightings[0].body["results"][0].update(attempts=1)),
    ("what_is_deleted_stays_away", "it is back", lambda h: h.last.update(b5=200)),
    ("a_life_ends_as_it_was_told", "it crashed at its end", lambda h: setattr(h.lives[-1], "status", -11)),
    ("a_life_ends_as_it_was_told", "it crashed before it was killed", lambda h: setattr(h.lives[0], "status", -6)),
    ("a_batch_is_accepted_once", "another batch by the same key",
     lambda h: answer(h.intents["e0b1"], 4500000, 200, "b9", {"results": []})),
    ("a_batch_is_accepted_once", "a trace of another batch", lambda h: entry(h, 1).update(webhook_id="b9.e0b0i0")),
    ("nothing_unasked_is_sent", "of no batch", lambda h: extra(h, 1, path="/s0/tag=e7b7i7")),
    ("nothing_unasked_is_sent", "of a batch that is not there",
     lambda h: (lose(h, "b7"), h.intents["e0b7"].sendings.clear())),
    ("requests_never_outnumber_attempts", "one more", lambda h: set_result(h, "b0", 1, attempts=1)),
    ("attempts_are_bounded", "more than asked for", lambda h: set_result(h, "b0", 1, attempts=4)),
    ("attempts_without_a_request_were_interrupted", "one that was never made", lambda h: drop_request(h, 15)),
    ("duplicates_are_explained", "no duplicate_risk", lambda h: set_result(h, "b0", 0, duplicate_risk=False)),
    ("duplicates_are_explained", "nothing died between", lambda h: entry(h, 3).update(arrived_us=150000)),
    ("at_most_once_means_it", "a second request", lambda h: extra(h, 7, arrived_us=2400000)),
    ("an_interruption_needs_a_death", "more than there were deaths",
     lambda h: set_result(h, "b0", 0, attempt_log=[{"code": "interrupted"}] * 3)),
    ("an_interruption_needs_a_death", "nothing died", lambda h: h.lives.__delitem__(slice(0, 2))),
    ("a_waiting_item_waits_on", "the wait was dropped", lambda h: entry(h, 4).update(arrived_us=1500000)),
    ("every_attempt_has_the_same_webhook_id", "another one", lambda h: entry(h, 12).update(webhook_id="b8.e0b4i0")),
    ("every_attempt_has_the_same_webhook_id", "not the one that was given",
     lambda h: setattr(h.intents["e0b4"].items[0], "dedupe_key", "order-7")),
    ("payloads_arrive_as_they_were_sent", "nothing", lambda h: entry(h, 3).update(body=b"")),
    ("sequential_items_come_in_order", "the wrong way round", lambda h: entry(h, 14).update(arrived_us=320000)),
    ("all_or_nothing_stops_at_a_failure", "the next item all the same",
     lambda h: h.ledger.append(request(99, 2500000, h.intents["e0b2"].items[1], "b2", 200))),
    ("all_or_nothing_stops_at_a_failure", "the next item before the refusal came again",
     lambda h: h.ledger.extend([request(98, 650000, h.intents["e0b2"].items[1], "b2", 200),
                                request(99, 2500000, h.intents["e0b2"].items[0], "b2", 410)])),
    ("delivered_is_what_the_downstream_saw", "no, but it was taken",
     lambda h: set_result(h, "b3", 0, delivered="no")),
    ("delivered_is_what_the_downstream_saw", "yes, but it was refused", lambda h: entry(h, 11).update(answered=410)),
    ("delivered_is_what_the_downstream_saw", "ok without delivery", lambda h: set_result(h, "b3", 0, ok=True)),
    ("a_job_ends_as_its_downstream_wills", "ended by a death",
     lambda h: h.batches["b0"].update(stop_reason="interrupted")),
    ("a_job_ends_as_its_downstream_wills", "invalid, and sent",
     lambda h: setattr(h.intents["e0b7"].items[0], "way", "invalid")),
    ("a_job_ends_as_its_downstream_wills", "given up too early",
     lambda h: set_result(h, "b4", 0, attempts=2)),
    ("a_job_ends_as_its_downstream_wills", "unsure though nothing died in it",
     lambda h: set_result(h, "b3", 0, error={"code": "timeout"})),
    ("a_synchronous_batch_does_not_outlive_its_process", "sent in two lives",
     lambda h: extra(h, 5, arrived_us=2100000)),
    ("only_a_death_interrupts_a_synchronous_batch", "by the process that ran it",
     lambda h: h.intents["e0b1"].sendings[1].headers.pop("Idempotent-Replayed")),
    ("only_a_death_interrupts_a_synchronous_batch", "cancelled by nobody",
     lambda h: h.batches["b1"].update(stop_reason="deadline")),
    ("a_key_gives_the_same_answer", "another result",
     lambda h: h.intents["e0b1"].sendings[2].__setattr__("body", {"state": "done", "results": []})),
    ("a_key_gives_the_same_answer", "refused", lambda h: setattr(h.intents["e0b1"].sendings[1], "status", 409)),
    ("a_key_gives_the_same_answer", "no replay",
     lambda h: h.intents["e0b1"].sendings[2].headers.pop("Idempotent-Replayed")),
    ("a_replay_sends_nothing", "after it", lambda h: extra(h, 5, arrived_us=2500000)),
    ("a_replay_sends_nothing", "during it", lambda h: extra(h, 5, arrived_us=2402000)),
    ("what_is_cancelled_is_not_sent", "after the cancel",
     lambda h: h.ledger.append(request(99, 62000, h.intents["e0b6"].items[0], "b6", 200))),
    ("a_safe_retry_takes_what_was_not_delivered", "a maybe",
     lambda h: set_result(h, "b4", 0, delivered="maybe")),
]


class Judge(harness.unittest.TestCase):
    maxDiff = None

    def test_a_good_history_has_no_complaints(self):
        self.assertEqual(judge.judge(good()), [])

    def test_each_planted_defect_is_found_by_the_rule_that_names_it(self):
        for name, what, plant in DEFECTS:
            with self.subTest(rule=name, defect=what):
                h = copy.deepcopy(good())
                plant(h)
                self.assertIn(name, {n for n, _ in judge.judge(h)})

    def test_each_rule_has_a_planted_defect(self):
        self.assertEqual({r.__name__ for r in judge.RULES}, {name for name, _, _ in DEFECTS})


if __name__ == "__main__":
    harness.main()
