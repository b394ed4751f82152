"""POST /v1/batches/{id}/cancel: what is left of a batch ends, and the answer shows how."""

import json

import jobs
import rawhttp
from harness import item
from jobs import Background, all_at_once, on_every_store


@on_every_store
class Cancel(jobs.Case):
    config = {"shards": 2}

    def cancel(self, batch):
        return self.settled.ask("POST", self.route(batch, "/cancel"))

    def cancelled(self, batch):
        answer = self.cancel(batch)
        self.assertEqual((answer.status, answer.json["state"], answer.json["stop_reason"]), (200, "done", "cancelled"),
                         answer.body)
        self.about(answer, batch, answer.json["outcome"])
        return answer.json

    def test_what_is_in_flight_is_aborted_and_what_waits_is_not_attempted(self):
        batch = self.accept({"concurrency": 2, "items": [
            item(1, self.url("/ok")), item(2, self.held.url("a")), item(3, self.held.url("b")), item(4, self.url("/ok"))]})
        self.held.wait("a", "b")
        doc = self.cancelled(batch)
        self.assertEqual([(r["status"], r.get("stop"), r["attempts"]) for r in doc["results"]],
                         [("succeeded", None, 1), ("indeterminate", "cancelled", 1), ("indeterminate", "cancelled", 1),
                          ("not_attempted", "cancelled", 0)])
        self.assertEqual([r["error"]["code"] for r in doc["results"][1:]], ["aborted", "aborted", "not_attempted"])
        self.held.wait_gone("a")
        self.held.wait_gone("b")
        self.assertEqual(len(self.down.ledger()), 1)
        self.assertEqual(self.done(batch), doc)

    def test_a_wait_between_attempts_ends(self):
        batch = self.accept({"items": [item(1, self.url("/x?status=429&retry_after=3600"))]})
        self.settled.wait_line("event=attempt_done .*item=i1", self.log_start)
        doc = self.cancelled(batch)
        self.assertEqual((doc["outcome"], doc["results"][0]["stop"], doc["results"][0]["error"]["code"]),
                         ("failed", "cancelled", "rate_limited"))

    def test_an_attempt_that_was_answered_is_not_undone(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        self.held.answer("a")
        self.done(batch)
        answer = self.cancel(batch)
        self.assertEqual((answer.status, answer.json["outcome"], answer.json["stop_reason"]), (200, "succeeded", "completed"))

    def test_a_request_without_a_body_needs_no_length(self):
        """As `curl -X POST` sends it; a batch of one's own does need it."""
        batch = self.accept({"items": [item(1, self.url("/gone"))]})
        self.done(batch)
        asked = [self.route(batch, "/cancel"), self.route(batch, "/retry"), "/v1/batches"]
        found = rawhttp.exchange(self.settled.port, b"".join(
            f"POST {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in asked))
        self.assertEqual([(a.status, a.json.get("code")) for a in found],
                         [(200, None), (422, "nothing_selected"), (411, "length_required")])

    def test_again_it_changes_nothing(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        doc = self.cancelled(batch)
        for _ in range(3):
            self.assertEqual(self.cancelled(batch), doc)

    def test_many_at_once_agree(self):
        batch = self.accept({"items": [item(n, self.held.url(f"m{n}")) for n in range(5)]})
        self.held.wait(*(f"m{n}" for n in range(5)))
        answers = all_at_once(20, lambda i: self.cancel(batch))
        self.assertEqual({(a.status, a.json["stop_reason"]) for a in answers}, {(200, "cancelled")})
        self.assertEqual(len({a.body for a in answers}), 1)

    def test_what_is_unknown_stays_unknown(self):
        self.problem(self.cancel("b_01JD0000000000000000000000"), 404, "not_found")
        self.problem(self.cancel("x"), 404, "not_found")

    def test_a_synchronous_caller_is_told(self):
        for headers in ({}, {"Idempotency-Key": "cancelled"}, {"Accept": "application/x-ndjson"}):
            with self.subTest(headers=headers):
                start = self.settled.mark()
                caller = Background(self.settled.post, {"concurrency": 1, "items": [
                    item(1, self.url("/gone")), item(2, self.held.url("a"))]}, headers)
                batch = self.settled.wait_line(r"event=attempt_done batch=(\S+) item=i1 ", start)[1]
                self.held.wait("a")
                shown = self.cancelled(batch)
                self.held.wait_gone("a")
                answer = caller.result()
                self.assertEqual((answer.headers["Batch-Id"], answer.status), (batch, 200 if "Accept" in headers else 207))
                doc = json.loads(answer.body.splitlines()[-1])["batch"] if "Accept" in headers else answer.json
                self.assertEqual((doc["stop_reason"], doc["counts"]), ("cancelled", shown["counts"]))

    def test_a_poll_is_answered(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        poll = Background(self.get, batch, 60)
        self.cancelled(batch)
        self.assertEqual(poll.result().json["stop_reason"], "cancelled")

    def test_a_job_that_was_just_accepted_can_be_cancelled(self):
        for _ in range(20):
            batch = self.accept({"items": [item(1, self.url("/hang"))]})
            result = self.cancelled(batch)["results"][0]
            self.assertEqual((result["stop"], result["ok"]), ("cancelled", False))


if __name__ == "__main__":
    jobs.main()
