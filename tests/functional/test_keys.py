"""Idempotency-Key: a request that is repeated is answered from the record, and
nothing is sent twice."""

import datetime
import json
import tempfile

import harness
import jobs
import kit
from harness import item
from jobs import ASYNC, Background, all_at_once, on_every_store

NDJSON = {"Accept": "application/x-ndjson"}


def key(text, **more):
    return {"Idempotency-Key": text, **more}


@on_every_store
class Replays(jobs.Case):
    config = {"shards": 2}

    def batch(self, *paths):
        return {"items": [item(n, self.url(p)) for n, p in enumerate(paths)]}

    def replayed(self, first, again):
        self.assertIsNone(first.headers["Idempotent-Replayed"])
        self.assertEqual(again.headers["Idempotent-Replayed"], "true")
        self.assertEqual((again.status, again.body), (first.status, first.body))
        for name in ("Content-Type", "Location", "Batch-Id", "Batch-Outcome"):
            self.assertEqual(again.headers[name], first.headers[name], name)

    def test_the_recorded_result_is_the_answer_and_nothing_is_sent(self):
        for n, paths in enumerate((["/ok"], ["/ok", "/gone"], ["/gone"])):
            batch = self.batch(*paths)
            first = self.settled.post(batch, key(f"whole-{n}"))
            sent = self.sent()
            self.assertEqual((first.status, len(sent)), (200 if n == 0 else 207, len(paths)))
            for _ in range(3):
                self.replayed(first, self.settled.post(batch, key(f"whole-{n}")))
            self.assertEqual(self.sent(), sent)
            self.down.clear()

    def test_the_same_key_may_come_bare_or_in_quotes(self):
        batch = self.batch("/ok")
        first = self.settled.post(batch, key("a b-1"))
        self.replayed(first, self.settled.post(batch, key('"a b-1"')))
        other = self.settled.post(batch, key("a b-2"))
        self.assertNotEqual(first.headers["Batch-Id"], other.headers["Batch-Id"])

    def test_a_stream_is_repeated_line_for_line(self):
        batch = {"concurrency": 1, **self.batch("/ok", "/wait_ms=30", "/gone", "/ok")}
        first = self.settled.post(batch, key("lines", **NDJSON))
        again = self.settled.post(batch, key("lines", **NDJSON))
        self.assertEqual((first.status, again.status, again.headers["Content-Type"]), (200, 200, "application/x-ndjson"))
        self.assertEqual(again.body.splitlines(), first.body.splitlines())
        self.assertEqual(again.headers["Idempotent-Replayed"], "true")
        whole = self.settled.post(batch, key("lines"))
        self.assertEqual((whole.status, whole.json["outcome"]), (207, "partial"))
        self.assertEqual(sorted(self.sent().values()), [1] * 4)

    def test_a_job_is_answered_with_its_202_until_it_is_done(self):
        batch = {"items": [item(1, self.held.url("a"))]}
        first = self.settled.post(batch, key("job", **ASYNC))
        self.held.wait("a")
        again = self.settled.post(batch, key("job", **ASYNC))
        self.assertEqual((first.status, again.status), (202, 202))
        self.about(again, first.json["id"])
        self.assertEqual((again.headers["Preference-Applied"], again.headers["Idempotent-Replayed"]), ("respond-async", "true"))
        self.assertGreaterEqual(int(again.headers["Retry-After"]), 1)
        self.assertEqual((again.json["id"], again.json["state"]), (first.json["id"], "running"))
        self.assertNotIn("results", again.json)
        # Whoever asks for the result at once gets no other batch either.
        self.assertEqual(self.settled.post(batch, key("job")).status, 202)
        waiting = Background(self.settled.post, batch, key("job", Prefer="respond-async, wait=60"))
        self.held.answer("a")
        for answer in (waiting.result(), self.settled.post(batch, key("job", **ASYNC)), self.settled.post(batch, key("job"))):
            self.assertEqual((answer.status, answer.json["outcome"]), (200, "succeeded"))
            self.assertEqual((answer.json["id"], answer.headers["Idempotent-Replayed"]), (first.json["id"], "true"))

    def test_a_replay_tells_what_was_applied_and_no_more(self):
        """The end is told at once; only a wait for it was a wish that could be followed."""
        batch = {"items": [item(1, self.held.url("a"))]}
        self.settled.post(batch, key("applied", **ASYNC))
        self.held.wait("a")
        running = self.settled.post(batch, key("applied", Prefer="wait=5"))
        self.assertEqual((running.status, running.headers["Preference-Applied"]), (202, None))
        self.held.answer("a")
        for prefer, applied in (("respond-async, wait=60", "respond-async, wait=60"), ("respond-async", None), ("wait=5", None)):
            answer = self.settled.post(batch, key("applied", Prefer=prefer))
            self.assertEqual((answer.status, answer.headers["Preference-Applied"]), (200, applied), prefer)

    def test_a_batch_whose_client_still_waits_is_a_conflict(self):
        batch = {"items": [item(1, self.held.url("a"))]}
        first = Background(self.settled.post, batch, key("sync"))
        self.held.wait("a")
        for headers in ({}, NDJSON, ASYNC):
            answer = self.settled.post(batch, key("sync", **headers))
            self.problem(answer, 409, "in_progress")
            self.assertEqual(answer.headers["Location"], self.route(answer.headers["Batch-Id"]))
        self.held.answer("a")
        self.assertEqual(first.result().headers["Batch-Id"], answer.headers["Batch-Id"])
        self.replayed(first.result(), self.settled.post(batch, key("sync")))

    def test_a_client_that_left_learns_what_was_sent(self):
        batch = {"concurrency": 1, "items": [item(1, self.url("/ok")), item(2, self.held.url("a")), item(3, self.url("/ok"))]}
        sock = self.settled.start_post(batch, key("left"))
        self.held.wait("a")
        harness.reset(sock)
        self.settled.wait_done("disconnected", self.log_start)
        kit.until(lambda: self.settled.post(batch, key("left")).status == 207, "it is not done")
        answer = self.settled.post(batch, key("left"))
        self.assertEqual((answer.json["stop_reason"], [r["attempts"] for r in answer.json["results"]]),
                         ("disconnected", [1, 1, 0]))
        self.assertEqual([r["delivered"] for r in answer.json["results"]], ["yes", "maybe", "no"])
        self.assertEqual(len(self.down.ledger()), 1)

    def test_a_client_that_leaves_at_any_moment_learns_what_was_sent(self):
        for n in range(30):
            batch = {"concurrency": 1, "items": [item(i, self.url("/ok"), dedupe_key=f"any-{n}-{i}") for i in range(5)]}
            sock = self.settled.start_post(batch, key(f"any-{n}"))
            if n % 3 == 0:
                self.settled.wait_line("event=attempt_done", self.log_start)
            harness.reset(sock)
            kit.until(lambda: self.settled.post(batch, key(f"any-{n}")).status in (200, 207), "it is not done")
            answer = self.settled.post(batch, key(f"any-{n}"))
            sent = self.sent()
            for i, result in enumerate(answer.json["results"]):
                times = sent.get(f"any-{n}-{i}", 0)
                self.assertLessEqual(int(result["ok"]), times, result)
                self.assertLessEqual(times, result["attempts"], result)
            self.log_start = self.settled.mark()

    def test_another_body_is_another_request(self):
        first = self.settled.post(self.batch("/ok"), key("body"))
        sent = self.sent()
        for other in (self.batch("/gone"), json.dumps({"service": "webhook", **self.batch("/ok")}).encode() + b" "):
            answer = self.settled.post(other, key("body"))
            self.problem(answer, 422, "key_reused")
            self.about(answer, first.headers["Batch-Id"])
        self.assertEqual(self.sent(), sent)
        self.replayed(first, self.settled.post(self.batch("/ok"), key("body")))

    def test_what_was_not_accepted_uses_no_key_up(self):
        self.problem(self.settled.post({"items": []}, key("free")), 422, "validation_failed")
        self.problem(self.settled.post(b"{", key("free")), 400, "malformed_json")
        self.assertEqual(self.settled.post({**self.batch("/ok"), "validate_only": True}, key("free")).json,
                         {"valid": True, "items": 1})
        answer = self.settled.post(self.batch("/ok"), key("free"))
        self.assertEqual((answer.status, answer.headers["Idempotent-Replayed"]), (200, None))

    def test_a_key_is_kept_as_long_as_its_result(self):
        batch = self.batch("/ok")
        first = self.settled.post(batch, key("forgotten"))
        self.assertEqual(self.settled.ask("DELETE", first.headers["Location"]).status, 204)
        again = self.settled.post(batch, key("forgotten"))
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"]), (200, None))
        self.assertNotEqual(again.headers["Batch-Id"], first.headers["Batch-Id"])

    def test_one_request_has_one_key(self):
        body = harness.encode(self.batch("/ok"))
        sock = self.settled.start_post(body, {"Idempotency-Key": "a\r\nIdempotency-Key: b"})
        with sock, sock.makefile("rb") as stream:
            self.assertIn(b" 400 ", stream.readline())
        self.assertEqual(self.down.ledger(), [])


@on_every_store
class Expired(jobs.Case):
    config = {"limits": {"keep_results_ms": 1}}

    def test_a_result_goes_after_its_time_and_its_key_with_it(self):
        batch = {"items": [item(1, self.url("/ok"))]}
        first = self.settled.post(batch, key("old"))
        finished, expires = (datetime.datetime.fromisoformat(first.json[k].replace("Z", "+00:00")) for k in ("finished_at", "expires_at"))
        self.assertEqual(expires - finished, datetime.timedelta(milliseconds=1))
        kit.until(lambda: self.get(first.headers["Batch-Id"]).status == 404, "its time is over")
        again = self.settled.post(batch, key("old"))
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"]), (200, None))
        self.assertNotEqual(again.headers["Batch-Id"], first.headers["Batch-Id"])


@on_every_store
class Refused(jobs.Case):
    """What is known is told even where nothing new is taken."""

    config = {"limits": {"queued_items": 2}}

    def test_a_process_that_is_full_or_going_down_answers_what_it_knows(self):
        one = harness.Daemon({**self.config, "limits": {"queued_items": 2}})
        self.addCleanup(one.stop)
        batch = {"items": [item(1, self.url("/gone"))]}
        first = one.post(batch, key("known"))
        retried = one.ask("POST", first.headers["Location"] + "/retry", b'{"ids":["i1"]}',
                          {"Content-Type": "application/json", "Prefer": "respond-async, wait=60", **key("known")})
        self.assertEqual(retried.status, 207)
        sent = len(self.down.ledger())
        sock = one.start_post({"items": [item(n, self.held.url(f"f{n}")) for n in range(2)]})
        self.held.wait("f0", "f1")
        self.problem(one.post(batch, key("new")), 503, "overloaded")
        self.check(one, batch, first, retried)
        one.child.terminate()
        one.wait_line("event=draining")
        self.problem(one.post(batch, key("new")), 503, "shutting_down")
        self.check(one, batch, first, retried)
        self.assertEqual(len(self.down.ledger()), sent)
        self.held.answer("f0")
        self.held.answer("f1")
        sock.close()

    def check(self, one, batch, first, retried):
        again = one.post(batch, key("known"))
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (207, "true", first.body))
        again = one.post(batch, key("known", **NDJSON))
        self.assertEqual((again.status, len(again.body.splitlines())), (200, 2))
        again = one.ask("POST", first.headers["Location"] + "/retry", b'{"ids":["i1"]}',
                        {"Content-Type": "application/json", **key("known")})
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (207, "true", retried.body))

    def test_a_store_without_room_answers_what_it_knows(self):
        one = harness.Daemon({**self.config, "limits": {"stored_items": 1}})
        self.addCleanup(one.stop)
        batch = {"items": [item(1, self.url("/gone"))]}
        first = one.post(batch, key("known"))
        job = one.post({"items": [item(1, self.held.url("room"))]}, {"Prefer": "respond-async"})
        self.assertEqual((first.status, job.status), (207, 202))
        self.held.wait("room")
        self.problem(one.post(batch, key("new")), 503, "overloaded")
        again = one.post(batch, key("known"))
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (207, "true", first.body))
        self.held.answer("room")

    def test_a_retry_whose_first_batch_was_forgotten_is_still_known(self):
        first = self.settled.post({"items": [item(1, self.url("/gone"))]}).headers["Location"]
        body, headers = b'{"ids":["i1"]}', {"Content-Type": "application/json", **key("forgot")}
        retried = self.settled.ask("POST", first + "/retry", body, {**headers, "Prefer": "respond-async, wait=60"})
        self.assertEqual(self.settled.ask("DELETE", first).status, 204)
        again = self.settled.ask("POST", first + "/retry", body, headers)
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (207, "true", retried.body))
        self.problem(self.settled.ask("POST", first + "/retry", b"{}", headers), 404, "not_found")


class Restarted(jobs.Case):
    def test_a_service_that_is_gone_does_not_hide_what_was_sent(self):
        directory = tempfile.TemporaryDirectory(prefix="settled-test-")
        self.addCleanup(directory.cleanup)
        config = {"store": {"path": directory.name}}
        one = harness.Daemon(config, self.down)
        batch = {"service": "push", "items": [item(1, "gone")]}
        first = one.post(batch, key("moved"))
        self.assertEqual((first.status, one.stop()), (207, 0))
        two = harness.Daemon(config)
        self.addCleanup(two.stop)
        self.problem(two.post(batch), 422, "validation_failed")
        again = two.post(batch, key("moved"))
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (207, "true", first.body))


@on_every_store
class Races(jobs.Case):
    config = {"shards": 2}
    CLIENTS = 50

    def test_of_many_equal_requests_one_is_sent(self):
        for n, headers in enumerate(({}, NDJSON, ASYNC, {"Prefer": "respond-async, wait=60"})):
            with self.subTest(headers=headers):
                self.down.clear()
                batch = {"items": [item(i, self.url("/ok")) for i in range(3)]}
                answers = all_at_once(self.CLIENTS, lambda i: self.settled.post(batch, key(f"race-{n}", **headers)))
                self.assertEqual(len({a.headers["Batch-Id"] for a in answers}), 1)
                self.assertLessEqual({a.status for a in answers}, {200, 202} if n >= 2 else {200, 409})
                fresh = [a for a in answers if a.status != 409 and a.headers["Idempotent-Replayed"] is None]
                self.assertEqual(len(fresh), 1)
                self.done(answers[0].headers["Batch-Id"])
                self.assertEqual(list(self.sent().values()), [1] * 3)

    def test_of_many_different_requests_one_has_the_key(self):
        answers = all_at_once(self.CLIENTS, lambda i: self.settled.post(
            {"metadata": {"n": str(i)}, "items": [item(1, self.url("/ok"))]}, key("differ")))
        won = [a for a in answers if a.status == 200]
        self.assertEqual(len(won), 1)
        for answer in answers:
            if answer is not won[0]:
                self.problem(answer, 422, "key_reused")
        self.assertEqual(list(self.sent().values()), [1])


if __name__ == "__main__":
    jobs.main()
