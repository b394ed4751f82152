"""Overload: each bound refuses before anything is sent, says when to come back, and
harms nobody else; best_effort makes room; what was counted is zero afterwards."""

import http.client
import json
import socket

import harness
import kit
from harness import LIMIT_S, item

WEBHOOK = {"kind": "webhook", "allow": ["127.0.0.0/8"]}


class Case(kit.HeldCase):
    """Items of the service `hold` are held until a test answers them, or leaves."""

    def items(self, n, path, service="webhook", first=0):
        return [item(i, self.held.url(f"{path}{i}"), service=service) for i in range(first, first + n)]

    def hold(self, n, path, **batch):
        """A batch that stays; its first item is at the downstream."""
        sock = self.settled.start_post({"deadline_ms": 600000, "attempt_timeout_ms": 600000, **batch,
                                        "items": self.items(n, path, batch.get("service", "webhook"))})
        self.held.wait(f"{path}0")
        self.addCleanup(sock.close)
        return sock

    def one(self, **batch):
        return {**batch, "items": [item(0, self.url("/ok"), service=batch.get("service", "webhook"))]}

    def refused(self, answer, what="items"):
        self.assertEqual((answer.status, answer.json["code"]), (503, "overloaded"))
        self.assertIn(what, answer.json["detail"])
        self.assertIn(int(answer.headers["Retry-After"]), range(1, 61))

    def refuse(self, batch, what="items"):
        """It is refused, and nothing of it is sent."""
        before = self.down.ledger()
        self.refused(self.settled.post(batch), what)
        self.assertEqual(self.down.ledger(), before)

    def accept(self, batch, status=200):
        answer = self.settled.post(batch)
        self.assertEqual(answer.status, status, answer.body)
        return answer

    def leave(self, *socks):
        for sock in socks:
            sock.close()
        self.rest.wait()

    def until_unfinished(self, n, in_flight=None):
        def now():
            m = self.settled.metrics()
            flying = sum(v for k, v in m.items() if k.startswith("settled_attempts_in_flight"))
            return m["settled_items_queued"] + flying, flying
        want = n, in_flight
        kit.until(lambda: now() == want if in_flight is not None else now()[0] == n,
                  lambda: f"{now()} items unfinished and in flight instead of {want}")


class Items(Case):
    config = {"limits": {"queued_items": 50}, "services": {"webhook": WEBHOOK}}

    def test_the_less_urgent_is_refused_first_and_the_next_is_served(self):
        sock = self.hold(40, "a")
        self.refuse({**self.one(), "priority": 0, "items": self.items(2, "b")})
        self.accept({**self.one(), "priority": 0})
        rest = self.hold(6, "c", priority=5)
        self.refuse(self.one())
        self.refuse({**self.one(), "priority": 8, "items": self.items(4, "b")})
        self.accept({**self.one(), "priority": 6})
        last = self.hold(4, "d", priority=9)
        self.refuse({**self.one(), "priority": 9})
        last.close()
        self.until_unfinished(46)
        self.accept({**self.one(), "priority": 9})
        self.leave(sock, rest)

    def test_a_body_is_not_awaited_by_a_process_that_is_full(self):
        sock = self.hold(50, "a", priority=9)
        conn = socket.create_connection(("127.0.0.1", self.settled.port), timeout=LIMIT_S)
        conn.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        answer = http.client.HTTPResponse(conn)
        answer.begin()
        self.assertEqual((answer.status, json.loads(answer.read())["code"]), (503, "overloaded"))
        self.assertIn(int(answer.headers["Retry-After"]), range(1, 61))
        conn.close()
        self.leave(sock)
        self.accept(self.one())

    def test_a_refusal_keeps_the_connection(self):
        sock = self.hold(50, "a", priority=9)
        conn = http.client.HTTPConnection("127.0.0.1", self.settled.port, timeout=LIMIT_S)
        conn.connect()
        port = conn.sock.getsockname()[1]
        for n, want in enumerate((503, 503, 200)):
            if n == 2:
                sock.close()
                self.until_unfinished(0)
            conn.request("POST", "/v1/batches", harness.encode(self.one()), {"Content-Type": "application/json"})
            answer = conn.getresponse()
            answer.read()
            self.assertEqual((answer.status, conn.sock.getsockname()[1]), (want, port))
        conn.close()

    def test_jobs_are_bounded_by_the_store_alone(self):
        sock = self.hold(50, "a", priority=9)
        answer = self.settled.post(self.one(), {"Prefer": "respond-async, wait=60"})
        self.assertEqual(answer.status, 200)
        self.leave(sock)

    def test_the_gauge_shows_what_the_bound_counts(self):
        job = self.settled.post({"items": self.items(3, "job")}, {"Prefer": "respond-async"})
        self.held.wait("job0", "job1", "job2")
        sock = self.hold(40, "a")
        m = self.settled.metrics()
        self.assertEqual(m["settled_items_unfinished"], 40)
        self.assertEqual(m["settled_items_queued"] + m['settled_attempts_in_flight{service="webhook"}'], 43)
        for n in range(3):
            self.held.answer(f"job{n}")
        self.settled.wait_line("event=batch_done batch=" + job.headers["Batch-Id"])
        self.leave(sock)

    def test_refusals_are_counted(self):
        sock = self.hold(50, "a", priority=9)
        name = 'settled_requests_refused_total{problem="overloaded"}'
        before = self.settled.metrics()[name]
        self.refuse(self.one())
        self.refuse({"items": self.items(2, "b")})
        self.assertEqual(self.settled.metrics()[name], before + 2)
        self.leave(sock)


class Shed(Case):
    config = {"limits": {"queued_items": 50}, "services": {"webhook": {**WEBHOOK, "max_in_flight": 2}}}

    def shed(self, doc):
        for r in doc["results"]:
            if r.get("stop") == "shed":
                self.assertEqual((r["status"], r["delivered"], r["retryable"], r["attempts"], r["error"]["code"]),
                                 ("not_attempted", "no", True, 0, "not_attempted"))
        return [r["index"] for r in doc["results"] if r.get("stop") == "shed"]

    def test_what_finds_no_room_is_shed_and_the_batch_is_not_refused(self):
        sock = self.hold(40, "a")
        before = self.settled.metrics()["settled_items_shed_total"]
        answer = self.accept({"contract": "best_effort", "priority": 9, "items": self.items(3, "b")}, 207)
        self.assertEqual(self.shed(answer.json), [0, 1, 2])
        self.assertEqual((answer.json["outcome"], answer.json["stop_reason"]), ("failed", "completed"))
        self.assertEqual(self.settled.metrics()["settled_items_shed_total"], before + 3)
        again = self.settled.ask("POST", answer.headers["Location"] + "/retry", None, {"Prefer": "respond-async"})
        self.assertEqual((again.status, again.json["counts"]["total"]), (202, 3))
        self.settled.ask("POST", again.headers["Location"] + "/cancel")
        self.leave(sock)

    def test_its_first_items_go_out_as_far_as_there_is_room(self):
        sock = self.hold(38, "a", concurrency=1)
        answer = self.settled.start_post({"contract": "best_effort", "items": [item(n, self.url("/ok")) for n in range(4)]})
        self.down.wait(requests=2)
        doc = json.loads(self.body(answer))
        self.assertEqual(self.shed(doc), [2, 3])
        self.assertEqual(doc["counts"]["succeeded"], 2)
        self.leave(sock)

    def body(self, sock):
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        self.assertEqual(answer.status, 207)
        body = answer.read()
        sock.close()
        return body

    def test_what_waits_makes_room_the_least_urgent_and_newest_first(self):
        def effort(path, priority):
            return self.settled.start_post({
                "contract": "best_effort", "priority": priority, "concurrency": 1, "deadline_ms": 600000,
                "attempt_timeout_ms": 600000, "items": self.items(10, path)})

        urgent = effort("u", 4)
        self.held.wait("u0")
        older = effort("o", 3)
        self.held.wait("o0")
        newer = effort("n", 3)
        self.until_unfinished(30)
        sock = self.settled.start_post({"deadline_ms": 600000, "items": self.items(14, "p")})
        kit.until(lambda: self.settled.metrics()["settled_items_shed_total"] >= 4, "some are shed")
        self.until_unfinished(40)
        self.assertEqual(self.held.requests.keys(), {"u0", "o0"})
        urgent.close()
        older.close()
        sock.close()
        self.assertEqual(self.shed(self.settle_rest(newer, "n", 6)), [6, 7, 8, 9])
        self.rest.wait()

    def settle_rest(self, sock, path, n):
        for i in range(n):
            self.held.answer(f"{path}{i}")
        return json.loads(self.body(sock))

    def test_a_batch_with_a_key_is_shed_on_disk_too(self):
        sock = self.hold(40, "a")
        batch = {"contract": "best_effort", "items": self.items(3, "b")}
        first = self.settled.post(batch, {"Idempotency-Key": "shed"})
        self.assertEqual((first.status, self.shed(first.json)), (207, [0, 1, 2]))
        self.leave(sock)
        again = self.settled.post(batch, {"Idempotency-Key": "shed"})
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (207, "true", first.body))


class ShedCallers(Case):
    config = {"shards": 1, "limits": {"connections": 30}, "services": {"webhook": {**WEBHOOK, "max_in_flight": 2}}}

    def test_who_waits_with_best_effort_makes_room_for_other_callers(self):
        efforts = [self.settled.start_post({"contract": "best_effort", "deadline_ms": 600000, "attempt_timeout_ms": 600000,
                                            "items": self.items(1, f"e{n}-")}) for n in range(24)]
        self.until_unfinished(24, in_flight=2)
        before = self.settled.metrics()["settled_items_shed_total"]
        socks = [self.settled.start_post({"deadline_ms": 600000, "attempt_timeout_ms": 600000,
                                          "items": self.items(1, f"p{n}-")}) for n in range(3)]
        kit.until(lambda: self.settled.metrics()["settled_items_shed_total"] == before + 3, "three are shed")
        self.until_unfinished(24, in_flight=2)
        for sock in (*efforts, *socks):
            sock.close()
        self.rest.wait()


class Services(Case):
    config = {"services": {"webhook": {**WEBHOOK, "max_queued": 10}, "other": WEBHOOK}}

    def test_a_service_has_its_own_bound_and_the_other_one_is_served(self):
        sock = self.hold(10, "a", priority=9)
        self.refuse(self.one(), "one of its services")
        mixed = {"items": [item(0, self.url("/ok"), service="other"), item(1, self.url("/ok"), service="webhook")]}
        self.refuse(mixed, "one of its services")
        self.accept(self.one(service="other"))
        answer = self.accept({"contract": "best_effort", **mixed}, 207)
        self.assertEqual([r.get("stop") for r in answer.json["results"]], [None, "shed"])
        self.leave(sock)
        self.accept(self.one())


class SeveralServices(Case):
    config = {"limits": {"queued_items": 100}, "services": {"webhook": WEBHOOK, "other": WEBHOOK}}

    def test_a_service_that_hangs_leaves_room_to_the_other(self):
        socks = [self.hold(40, "a"), self.hold(6, "b")]
        self.refuse(self.one(), "one of its services")
        for _ in range(3):
            self.accept(self.one(service="other"))
        self.leave(*socks)
        self.accept(self.one())


class Callers(Case):
    config = {"limits": {"connections": 20}, "services": {"webhook": WEBHOOK, "other": WEBHOOK}}

    def test_callers_of_a_hung_service_leave_connections_to_the_others(self):
        socks = [self.hold(1, f"a{n}-") for n in range(10)]
        self.refuse(self.one(), "callers")
        self.accept(self.one(service="other"))
        answer = self.settled.post(self.one(), {"Prefer": "respond-async"})
        self.assertEqual(answer.status, 202)
        self.leave(*socks)
        self.accept(self.one())


class Shards(Case):
    config = {"shards": 2, "limits": {"queued_items": 50}, "services": {"webhook": {**WEBHOOK, "max_in_flight": 2}}}

    def test_shards_share_one_bound_and_shed_for_each_other(self):
        efforts = [self.settled.start_post({"contract": "best_effort", "deadline_ms": 600000, "attempt_timeout_ms": 600000,
                                            "items": self.items(5, f"e{n}-")}) for n in range(8)]
        self.until_unfinished(40, in_flight=2)
        socks = [self.settled.start_post({"deadline_ms": 600000, "attempt_timeout_ms": 600000,
                                          "items": self.items(5, f"p{n}-")}) for n in range(8)]
        # Two are in flight, and what is in flight is not shed.
        self.until_unfinished(42, in_flight=2)
        for sock in (*efforts, *socks):
            sock.close()
        self.rest.wait()


if __name__ == "__main__":
    harness.main()
