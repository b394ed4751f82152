"""Batches as jobs: accepted with 202, asked for, waited for and forgotten."""

import json
import socket

import harness
import jobs
import kit
from harness import LIMIT_S, item
from jobs import ASYNC, Background, all_at_once, on_every_store

NDJSON = {"Accept": "application/x-ndjson"}


def read_answer(sock):
    with sock, sock.makefile("rb") as stream:
        return stream.read()


@on_every_store
class Accepted(jobs.Case):
    def test_the_202_says_where_the_batch_is(self):
        answer = self.settled.post({"metadata": {"a": "b"}, "items": [item(1, self.held.url("a"))]}, ASYNC)
        self.assertEqual(answer.status, 202)
        doc = answer.json
        self.assertRegex(doc["id"], jobs.ID)
        self.about(answer, doc["id"])
        self.assertEqual((answer.headers["Preference-Applied"], answer.headers["Content-Type"]),
                         ("respond-async", "application/json"))
        self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
        self.assertEqual((doc["state"], doc["outcome"], doc["metadata"]), ("queued", None, {"a": "b"}))
        self.assertEqual(doc["counts"], {"total": 1, "succeeded": 0, "failed": 0, "indeterminate": 0,
                                         "not_attempted": 0, "pending": 1})
        self.assertNotIn("results", doc)
        self.assertEqual(doc["durability"], self.config["store"])
        self.held.answer("a")
        done = self.done(doc["id"])
        self.assertEqual((done["outcome"], done["results"][0]["status"]), ("succeeded", "succeeded"))

    def test_a_wish_on_a_line_of_its_own_counts(self):
        body = harness.encode({"items": [item(1, self.url("/ok"))]})
        with socket.create_connection(("127.0.0.1", self.settled.port), timeout=LIMIT_S) as sock:
            sock.sendall((f"POST /v1/batches HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                          "prefer: wait=\"30\"; x, foo\r\nPREFER: Respond-Async\r\n\r\n").encode() + body)
            head = read_answer(sock).partition(b"\r\n\r\n")[0]
        self.assertIn(b" 200 OK\r\n", head)
        self.assertIn(b"Preference-Applied: respond-async, wait=30", head)

    def test_a_wish_that_is_not_understood_changes_nothing(self):
        for prefer in ("", "respond-asynch", "return=minimal", '"respond-async"', "respond-async=no", "wait=5"):
            answer = self.settled.post({"items": [item(1, self.url("/ok"))]}, {"Prefer": prefer})
            self.assertEqual((answer.status, answer.headers["Preference-Applied"]), (200, None), prefer)

    def test_an_end_that_comes_in_time_is_the_answer(self):
        for path, status, outcome in (("/ok", 200, "succeeded"), ("/gone", 207, "failed")):
            answer = self.settled.post({"items": [item(1, self.url(path))]}, {"Prefer": "respond-async, wait=60"})
            self.assertEqual((answer.status, answer.json["state"], answer.json["outcome"]), (status, "done", outcome))
            self.assertEqual(answer.headers["Preference-Applied"], "respond-async, wait=60")
            self.assertEqual(len(answer.json["results"]), 1)
            self.about(answer, answer.json["id"], outcome)
            self.assertEqual(self.get(answer.json["id"]).json, answer.json)

    def test_an_end_that_does_not_come_in_time_is_waited_for_elsewhere(self):
        for wait in (0, 1):
            answer = self.settled.post({"items": [item(1, self.held.url(f"w{wait}"))]},
                                       {"Prefer": f"wait={wait}, respond-async"})
            self.assertEqual((answer.status, answer.headers["Preference-Applied"]), (202, f"respond-async, wait={wait}"))
            self.assertEqual(answer.json["counts"]["pending"], 1)
            self.held.answer(f"w{wait}")
            self.assertEqual(self.done(answer.json["id"])["outcome"], "succeeded")

    def test_a_wait_is_held_at_a_minute(self):
        answer = self.settled.post({"items": [item(1, self.url("/ok"))]}, {"Prefer": "respond-async, wait=100000"})
        self.assertEqual((answer.status, answer.headers["Preference-Applied"]), (200, "respond-async, wait=60"))

    def test_it_is_no_stream(self):
        answer = self.settled.post({"items": [item(1, self.url("/ok"))]}, {**ASYNC, **NDJSON})
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (202, "application/json"))
        self.assertEqual(self.done(answer.json["id"])["outcome"], "succeeded")

    def test_the_policy_is_one_for_hours(self):
        for headers, attempts in ((ASYNC, 10), ({}, 3)):
            answer = self.settled.post({"retry": {"base_ms": 1, "cap_ms": 1}, "items": [item(1, self.url("/down"))]}, headers)
            doc = self.done(answer.headers["Batch-Id"])
            self.assertEqual((doc["results"][0]["attempts"], doc["results"][0]["stop"]), (attempts, "max_attempts"))

    def test_without_times_of_its_own_it_waits_up_to_a_second_and_in_the_end_up_to_an_hour(self):
        """A wait that would end past the deadline is not begun: of many random ones some are longer than that."""
        items = [item(n, self.url("/x?status=429")) for n in range(100)]
        for retry, deadline_ms, at_least in (({}, 700, 1), ({"base_ms": 3600000}, 60000, 50)):
            batch = self.accept({"retry": {"max_attempts": 2, **retry}, "deadline_ms": deadline_ms, "items": items})
            kit.until(lambda: self.get(batch).json["counts"]["failed"] >= at_least, "those that would wait too long")
            self.settled.ask("POST", self.route(batch, "/cancel"))
            self.assertGreaterEqual([r["stop"] for r in self.done(batch)["results"]].count("deadline"), at_least)

    def test_without_a_deadline_it_has_a_day(self):
        day = 86400
        batch = self.accept({"retry": {"max_attempts": 2}, "items": [
            item(n, self.url(f"/x?status=429&retry_after={s}")) for n, s in enumerate((day - 600, day + 600))]})
        kit.until(lambda: self.get(batch).json["counts"]["failed"] == 1, "one cannot wait so long")
        self.assertEqual(self.settled.ask("POST", self.route(batch, "/cancel")).json["counts"]["failed"], 2)
        self.assertEqual([r["stop"] for r in self.done(batch)["results"]], ["cancelled", "deadline"])

    def test_nothing_is_accepted_that_is_not_valid(self):
        self.problem(self.settled.post({"items": []}, ASYNC), 422, "validation_failed")
        self.problem(self.settled.post(b"{", ASYNC), 400, "malformed_json")
        answer = self.settled.post({"validate_only": True, "items": [item(1, self.url("/ok"))]}, ASYNC)
        self.assertEqual((answer.status, answer.json), (200, {"valid": True, "items": 1}))
        self.assertEqual(self.down.ledger(), [])

    def test_a_batch_whose_items_are_all_invalid_is_done_at_once(self):
        batch = self.accept({"contract": "best_effort", "items": [{"id": "a"}, {"id": "b"}]})
        doc = self.done(batch)
        self.assertEqual((doc["outcome"], [r["error"]["code"] for r in doc["results"]]), ("failed", ["invalid_item"] * 2))

    def test_no_hang_up_ends_a_job(self):
        for name, leave in kit.LEAVE.items():
            for prefer in ("respond-async", "respond-async, wait=60"):
                with self.subTest(leave=name, prefer=prefer):
                    self.held.gate.has_caller()
                    sock = self.settled.start_post({"items": [item(1, self.held.url("a"))]}, {"Prefer": prefer})
                    self.held.wait("a")
                    leave(sock)
                    kit.until(lambda: self.settled.metrics()["settled_requests_parked"] == 0, "the client is missed")
                    self.held.answer("a")
                    done = self.settled.wait_done("completed", self.log_start)
                    self.assertEqual(self.done(done["batch"])["outcome"], "succeeded")
                    self.log_start = self.settled.mark()


@on_every_store
class Continued(jobs.Case):
    """on_disconnect: continue waits as any synchronous batch does, and goes on without its client."""

    def test_its_client_gets_the_whole_answer(self):
        answer = self.settled.post({"on_disconnect": "continue", "items": [item(1, self.url("/ok"))]})
        self.assertEqual((answer.status, answer.json["outcome"], len(answer.json["results"])), (200, "succeeded", 1))
        self.assertIsNone(answer.headers["Preference-Applied"])
        self.assertEqual(self.get(answer.json["id"]).json, answer.json)

    def test_it_has_the_policy_of_a_synchronous_one(self):
        answer = self.settled.post({"on_disconnect": "continue", "retry": {"base_ms": 1, "cap_ms": 1},
                                    "items": [item(1, self.url("/down"))]})
        self.assertEqual(answer.results["i1"]["attempts"], 3)

    def test_it_may_be_a_stream(self):
        answer = self.settled.post({"on_disconnect": "continue", "items": [item(1, self.url("/ok"))]}, NDJSON)
        lines = [json.loads(line) for line in answer.body.splitlines()]
        self.assertEqual((answer.status, lines[0]["id"], lines[1]["batch"]["outcome"]), (200, "i1", "succeeded"))

    def test_a_stream_that_breaks_off_does_not_end_it(self):
        sock = self.settled.start_post({"on_disconnect": "continue", "concurrency": 1, "items": [
            item(1, self.url("/ok")), item(2, self.held.url("a"))]}, NDJSON)
        self.held.wait("a")
        batch = self.settled.wait_line(r"event=attempt_done batch=(\S+) item=i1 ", self.log_start)[1]
        harness.reset(sock)
        kit.until(lambda: self.settled.metrics()["settled_requests_parked"] == 0, "the client is missed")
        self.held.answer("a")
        self.assertEqual((self.done(batch)["outcome"], self.done(batch)["stop_reason"]), ("succeeded", "completed"))


@on_every_store
class Polls(jobs.Case):
    config = {"shards": 2}

    def test_a_poll_is_answered_when_the_batch_is_done(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        running = self.get(batch)
        self.assertEqual((running.status, running.json["state"], running.json["counts"]["pending"]), (200, "running", 1))
        self.about(running, batch)
        poll = Background(self.get, batch, 60)
        self.held.answer("a")
        answer = poll.result()
        self.assertEqual((answer.status, answer.json["state"], answer.headers["Preference-Applied"]),
                         (200, "done", "wait=60"))
        self.about(answer, batch, "succeeded")

    def test_a_poll_is_answered_when_its_time_is_over(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        answer = self.get(batch, 1)
        self.assertEqual((answer.status, answer.json["outcome"], answer.headers["Preference-Applied"]), (200, None, "wait=1"))
        self.held.answer("a")
        self.done(batch)

    def test_what_is_done_or_unknown_is_not_waited_for(self):
        batch = self.accept({"items": [item(1, self.url("/ok"))]})
        self.done(batch)
        self.assertEqual(self.get(batch, 60).json["state"], "done")
        self.problem(self.get("b_01JD0000000000000000000000", 60), 404, "not_found")

    def test_a_synchronous_batch_can_be_waited_for(self):
        sock = self.settled.start_post({"items": [item(1, self.url("/ok")), item(2, self.held.url("a"))]})
        batch = self.settled.wait_line(r"event=attempt_done batch=(\S+) item=i1 ", self.log_start)[1]
        self.held.wait("a")
        poll = Background(self.get, batch, 60)
        self.held.answer("a")
        self.assertEqual(poll.result().json["state"], "done")
        sock.close()

    def test_many_polls_of_one_batch_are_answered_at_its_end(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        polls = [Background(self.get, batch, 60) for _ in range(100)]
        kit.until(lambda: self.settled.metrics()["settled_requests_waiting"] == 100, "they do not wait")
        looks = all_at_once(50, lambda i: self.get(batch))
        self.assertEqual({a.json["state"] for a in looks}, {"running"})
        self.held.answer("a")
        self.assertEqual({p.result().json["state"] for p in polls}, {"done"})

    def test_polls_that_hang_up_leave_nothing_behind(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        self.rest.gauges()
        for leave in list(kit.LEAVE.values()) * 5:
            sock = socket.create_connection(("127.0.0.1", self.settled.port), timeout=LIMIT_S)
            sock.sendall(f"GET {self.route(batch)} HTTP/1.1\r\nHost: x\r\nPrefer: wait=60\r\n\r\n".encode())
            leave(sock)
        poll = Background(self.get, batch, 60)
        self.held.answer("a")
        self.assertEqual(poll.result().json["state"], "done")
        self.rest.wait()

    def test_head_waits_too(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        head = Background(self.settled.ask, "HEAD", self.route(batch), headers={"Prefer": "wait=60"})
        self.held.answer("a")
        answer = head.result()
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.about(answer, batch, "succeeded")


@on_every_store
class Bounded(jobs.Case):
    config = {"limits": {"waiting": 1}}

    def test_more_than_may_wait_are_refused_or_answered_early(self):
        batch = self.accept({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        first = Background(self.get, batch, 60)
        kit.until(lambda: self.settled.metrics()["settled_requests_waiting"] == 1, "nobody waits")
        self.problem(self.get(batch, 60), 503, "overloaded")
        self.assertEqual(self.get(batch).status, 200)
        early = self.settled.post({"items": [item(1, self.held.url("b"))]}, {"Prefer": "respond-async, wait=60"})
        self.assertEqual((early.status, early.headers["Preference-Applied"]), (202, "respond-async"))
        self.held.answer("a")
        self.assertEqual(first.result().json["state"], "done")
        self.held.answer("b")
        self.assertEqual(self.done(early.json["id"])["outcome"], "succeeded")


@on_every_store
class Full(jobs.Case):
    config = {"limits": {"stored_items": 3}}

    def test_what_the_store_has_no_room_for_is_refused_and_not_sent(self):
        batch = self.accept({"items": [item(n, self.held.url(f"s{n}")) for n in range(2)]})
        self.held.wait("s0", "s1")
        big = {"items": [item(n, self.url("/ok")) for n in range(2)]}
        for headers in (ASYNC, {"Prefer": "respond-async, wait=60"}, {"Idempotency-Key": "full"}):
            refused = self.settled.post(big, headers)
            self.problem(refused, 503, "overloaded")
            # None has gone lately, so nobody knows.
            self.assertIn(int(refused.headers["Retry-After"]), range(11, 14))
        self.assertEqual(self.down.ledger(), [])
        self.assertEqual(self.settled.post(big).status, 200)
        self.held.answer("s0")
        self.held.answer("s1")
        self.done(batch)
        answer = self.settled.post(big, {"Idempotency-Key": "full"})
        self.assertEqual((answer.status, answer.headers["Idempotent-Replayed"]), (200, None))


@on_every_store
class Forgotten(jobs.Case):
    config = {"shards": 2}

    def delete(self, batch):
        return self.settled.ask("DELETE", self.route(batch))

    def test_a_batch_that_is_done_is_forgotten(self):
        for headers in (ASYNC, {}):
            batch = self.settled.post({"items": [item(1, self.url("/ok"))]}, headers).headers["Batch-Id"]
            self.done(batch)
            answer = self.delete(batch)
            self.assertEqual((answer.status, answer.body, answer.headers["Content-Type"]), (204, b"", None))
            self.about(answer, batch)
            self.problem(self.get(batch), 404, "not_found")
            self.problem(self.delete(batch), 404, "not_found")

    def test_what_was_just_answered_is_forgotten_at_once(self):
        for _ in range(20):
            batch = self.settled.post({"items": [item(1, self.url("/ok"))]}).headers["Batch-Id"]
            self.assertEqual(self.delete(batch).status, 204)
            self.problem(self.get(batch), 404, "not_found")

    def test_what_runs_is_not(self):
        for batch in self.refused_while_they_run(self.delete):
            self.assertEqual(self.delete(batch).status, 204)


@on_every_store
class Stopped(jobs.Case):
    """A daemon for each test, for it is stopped."""

    def setUp(self):
        super().setUp()
        self.one = harness.Daemon({"store": self.config["store"], "limits": {"drain_ms": harness.FOR_LONG_MS}})
        self.addCleanup(self.one.stop)

    def test_polls_are_answered_before_the_process_ends(self):
        answer = self.one.post({"items": [item(1, self.url("/x?status=503&retry_after=3600"))]}, ASYNC)
        self.one.wait_line("event=attempt_done")
        polls = [Background(self.one.ask, "GET", answer.headers["Location"], headers={"Prefer": "wait=60"}) for _ in range(5)]
        kit.until(lambda: self.one.metrics()["settled_requests_waiting"] == 5, "they do not wait")
        self.one.child.terminate()
        for poll in polls:
            self.assertEqual((poll.result().status, poll.result().json["state"]), (200, "running"))
        self.assertEqual(self.one.stop(), 0)

    def test_a_drain_shows_batches_and_takes_none(self):
        sock = self.one.start_post({"items": [item(1, self.held.url("a"))]})
        self.held.wait("a")
        answer = self.one.post({"items": [item(1, self.url("/ok"))]}, {"Prefer": "respond-async, wait=60"})
        waiting = self.one.post({"items": [item(2, self.url("/x?status=503&retry_after=3600"))]}, ASYNC)
        kit.until(lambda: self.one.metrics()["settled_job_parks_total"] == 1, "it is not in the store alone")
        self.one.child.terminate()
        self.one.wait_line("event=draining")
        self.problem(self.one.post({"items": [item(1, self.url("/ok"))]}, ASYNC), 503, "shutting_down")
        self.problem(self.one.ask("POST", answer.headers["Location"] + "/retry"), 503, "shutting_down")
        answered = self.one.ask("POST", waiting.headers["Location"] + "/cancel")
        self.problem(answered, 503, "shutting_down")
        self.about(answered, waiting.json["id"])
        self.assertEqual(self.one.ask("POST", answer.headers["Location"] + "/cancel").json["outcome"], "succeeded")
        got = self.one.ask("GET", answer.headers["Location"], headers={"Prefer": "wait=60"})
        self.assertEqual((got.status, got.json["state"]), (200, "done"))
        self.held.answer("a")
        sock.close()
        self.assertEqual(self.one.stop(), 0)


if __name__ == "__main__":
    jobs.main()
