"""Settling a batch over HTTP: the four tests that the founding article asks for
by name, the three contracts, order, deadlines, retries and delivery."""

import json

import harness
from harness import item


class FoundingArticle(harness.Case):
    def test_partial_failures_keep_every_result(self):
        answer = self.settled.post({"items": [
            item(1, self.url("/ok")), item(2, self.url("/gone")), item(3, self.url("/ok"))]})
        self.assertEqual(answer.status, 207)
        self.assertEqual([r["id"] for r in answer.json["results"]], ["i1", "i2", "i3"])
        self.assertEqual([r["status"] for r in answer.json["results"]], ["succeeded", "failed", "succeeded"])
        self.assertEqual(answer.json["outcome"], "partial")
        gone = answer.results["i2"]
        self.assertEqual(gone["error"], {"code": "recipient_gone", "message": "the downstream answered 410",
                                         "http_status": 410})
        self.assertEqual((gone["stop"], gone["attempts"], gone["retryable"]), ("not_retryable", 1, False))

    def test_timeout_is_a_local_deadline_and_says_maybe(self):
        answer = self.settled.post({"attempt_timeout_ms": harness.GIVE_UP_MS, "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1},
                                    "items": [item(1, self.url("/hang"))]})
        result = answer.results["i1"]
        self.assertEqual((result["status"], result["error"]["code"], result["delivered"], result["stop"]),
                         ("indeterminate", "timeout", "maybe", "max_attempts"))
        self.assertEqual((result["attempts"], result["duplicate_risk"]), (2, True))
        self.assertEqual(answer.json["stop_reason"], "completed")
        self.down.wait(gone=2)

    def test_cancellation_during_a_retry_wait_ends_the_wait(self):
        sock = self.settled.start_post({"deadline_ms": 7200000, "items": [
            item(1, self.url("/x?status=503&retry_after=3600"))]})
        self.settled.wait_line(r"event=attempt_done .*item=i1", self.log_start)
        sock.close()
        done = self.settled.wait_done("disconnected", self.log_start)
        result = self.settled.get_batch(done["batch"]).results["i1"]
        self.assertEqual((result["status"], result["error"]["code"], result["stop"], result["attempts"]),
                         ("indeterminate", "unavailable", "disconnected", 1))
        self.assertEqual(result["error"]["retry_after_ms"], 3600000)
        self.assertEqual(len(self.down.ledger()), 1)

    def test_mixed_success_in_one_batch(self):
        answer = self.settled.post({"attempt_timeout_ms": harness.GIVE_UP_MS, "retry": {"max_attempts": 3, "base_ms": 1, "cap_ms": 2},
                                    "items": [item(1, self.url("/ok")), item(2, self.url("/gone")),
                                              item(3, self.url("/flaky?times=2")), item(4, self.url("/hang"))]})
        self.assertEqual(answer.status, 207)
        self.assertEqual({i: r["status"] for i, r in answer.results.items()},
                         {"i1": "succeeded", "i2": "failed", "i3": "succeeded", "i4": "indeterminate"})
        self.assertEqual(answer.results["i3"]["attempts"], 3)
        self.assertEqual(answer.json["counts"], {"total": 4, "succeeded": 2, "failed": 1, "indeterminate": 1,
                                                 "not_attempted": 0, "pending": 0})


class Contracts(harness.Case):
    def test_all_or_nothing_stops_at_the_first_failure(self):
        answer = self.settled.post({"contract": "all_or_nothing", "concurrency": 2, "items": [
            item(1, self.url("/hang")), item(2, self.url("/gone")),
            *[item(n, self.url("/ok")) for n in range(3, 30)]]})
        self.assertEqual((answer.status, answer.json["stop_reason"]), (207, "first_failure"))
        self.assertEqual(answer.results["i1"]["error"]["code"], "aborted")
        self.assertEqual(answer.results["i1"]["stop"], "first_failure")
        self.assertEqual(answer.results["i2"]["error"]["code"], "recipient_gone")
        for n in range(3, 30):
            self.assertEqual((answer.results[f"i{n}"]["status"], answer.results[f"i{n}"]["stop"]),
                             ("not_attempted", "first_failure"))
        self.assertEqual(len(self.down.ledger()), 2)

    def test_all_or_nothing_succeeds_when_all_do(self):
        answer = self.settled.post({"contract": "all_or_nothing",
                                    "items": [item(n, self.url("/ok")) for n in range(50)]})
        self.assertEqual((answer.status, answer.json["outcome"], answer.json["stop_reason"]),
                         (200, "succeeded", "completed"))

    def test_one_invalid_item_refuses_the_batch_and_sends_nothing(self):
        for contract in ("all_or_nothing", "partial_success"):
            answer = self.settled.post({"contract": contract, "items": [
                item(1, self.url("/ok")), item(2, "not a url")]})
            self.assertEqual((answer.status, answer.json["code"]), (422, "validation_failed"))
            self.assertEqual(answer.json["errors"][0]["pointer"], "#/items/1/to")
        self.assertEqual(self.down.ledger(), [])

    def test_best_effort_reports_an_invalid_item_and_sends_the_others(self):
        answer = self.settled.post({"contract": "best_effort", "items": [
            item(1, self.url("/ok")), item(2, "not a url"), {"id": "i3"}]})
        self.assertEqual(answer.status, 207)
        self.assertEqual([r["status"] for r in answer.json["results"]], ["succeeded", "failed", "failed"])
        for bad in ("i2", "i3"):
            self.assertEqual((answer.results[bad]["error"]["code"], answer.results[bad]["attempts"]),
                             ("invalid_item", 0))
        self.assertEqual(len(self.down.ledger()), 1)


class Order(harness.Case):
    def test_sequential_items_never_overlap(self):
        answer = self.settled.post({"order": "sequential", "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 2},
                                    "items": [item(1, self.url("/ok?wait_ms=20")), item(2, self.url("/flaky?times=1")),
                                              item(3, self.url("/ok?wait_ms=5")), item(4, self.url("/ok"))]})
        self.assertEqual(answer.json["outcome"], "succeeded")
        ledger = self.down.ledger()
        self.assertEqual([json.loads(e["body"])["n"] for e in ledger], [1, 2, 2, 3, 4])
        for before, after in zip(ledger, ledger[1:]):
            self.assertLessEqual(before["answered_us"], after["arrived_us"])

    def test_concurrency_bounds_the_attempts_of_a_batch(self):
        self.settled.post({"concurrency": 3, "items": [item(n, self.url("/ok?wait_ms=100")) for n in range(30)]})
        self.assertEqual(self.down.stats()["max_in_flight"], 3)


class Deadlines(harness.Case):
    def test_a_batch_deadline_ends_attempts_waits_and_queueing(self):
        answer = self.settled.post({"deadline_ms": harness.GIVE_UP_MS, "concurrency": 2, "items": [
            item(1, self.url("/hang")), item(2, self.url("/x?status=503")), item(3, self.url("/hang")),
            item(4, self.url("/ok"))], "retry": {"max_attempts": 20, "base_ms": 1000, "cap_ms": 1000}})
        self.assertEqual((answer.status, answer.json["stop_reason"]), (207, "deadline"))
        self.assertEqual((answer.results["i1"]["error"]["code"], answer.results["i1"]["stop"]), ("timeout", "deadline"))
        self.assertEqual(answer.json["counts"]["pending"], 0)
        self.down.wait(in_flight=0)

    def test_a_wait_past_the_deadline_is_not_begun(self):
        answer = self.settled.post({"deadline_ms": 20000, "items": [item(1, self.url("/x?status=503&retry_after=60"))]})
        result = answer.results["i1"]
        self.assertEqual((result["stop"], result["attempts"]), ("deadline", 1))
        self.assertEqual(answer.json["stop_reason"], "completed")

    def test_an_item_expires_before_its_first_attempt(self):
        answer = self.settled.post({"order": "sequential", "items": [
            item(1, self.url("/ok?wait_ms=100")), item(2, self.url("/ok"), ttl_ms=20)]})
        result = answer.results["i2"]
        self.assertEqual((result["status"], result["error"]["code"], result["stop"], result["attempts"]),
                         ("failed", "expired", "ttl", 0))
        self.assertEqual(len(self.down.ledger()), 1)


class Delivery(harness.Case):
    def test_at_most_once_never_repeats_what_may_have_arrived(self):
        answer = self.settled.post({"delivery": "at_most_once", "attempt_timeout_ms": harness.GIVE_UP_MS, "items": [
            item(1, self.url("/hang")), item(2, self.url("/x?status=500")), item(3, self.url("/x?reset=after")),
            item(4, self.url("/x?status=429&times=1&then=200"))], "retry": {"base_ms": 1, "cap_ms": 2}})
        for i in ("i1", "i2", "i3"):
            self.assertEqual((answer.results[i]["stop"], answer.results[i]["attempts"], answer.results[i]["delivered"]),
                             ("maybe_delivered", 1, "maybe"), i)
        self.assertEqual((answer.results["i4"]["status"], answer.results["i4"]["attempts"]), ("succeeded", 2))
        self.assertEqual(len(self.down.ledger()), 5)

    def test_every_attempt_of_an_item_has_the_same_id_and_body(self):
        payload = b'{"a": 1.10, "z":12345678901234567890, "b":"\\u00e9\\/",  "a2":1E400}'
        body = (b'{"service":"webhook","items":[{"id":"x","to":"%s","payload":%s}],"retry":{"base_ms":1,"cap_ms":2}}'
                % (self.url("/flaky?times=2").encode(), payload))
        answer = self.settled.post(body)
        self.assertEqual(answer.json["outcome"], "succeeded")
        ledger = self.down.ledger()
        self.assertEqual([e["body"] for e in ledger], [payload] * 3)
        self.assertEqual({e["webhook_id"] for e in ledger}, {answer.json["id"] + ".x"})

    def test_delivered_is_sticky_when_a_refusal_follows_a_timeout(self):
        self.down.script("/sticky", "hang", "status=410")
        answer = self.settled.post({"attempt_timeout_ms": harness.GIVE_UP_MS, "retry": {"max_attempts": 3, "base_ms": 1, "cap_ms": 1},
                                    "include": ["attempts"], "items": [item(1, self.url("/sticky"))]})
        result = answer.results["i1"]
        self.assertEqual((result["status"], result["delivered"], result["error"]["code"], result["duplicate_risk"]),
                         ("indeterminate", "maybe", "recipient_gone", True))
        self.assertEqual([(a["n"], a["code"], a["delivered"]) for a in result["attempt_log"]],
                         [(1, "timeout", "maybe"), (2, "recipient_gone", "no")])


if __name__ == "__main__":
    harness.main()
