"""The client leaves, and its batch ends: no attempt starts, waits end, transfers
are closed, and the result is kept. The downstream's ledger is the judge. All of
it with one shard, and with lanes on other shards than the client's."""

import functools
import json
import signal
import socket

import gate
import harness
import kit
from harness import item
from kit import LEAVE

DAY_MS = 24 * 3600 * 1000


def each_way(test):
    """Run it with a client that leaves by FIN and one that leaves by RST, each
    from a clean start to a clean end."""
    @functools.wraps(test)
    def run(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.setUp()
                test(self, leave)
                self.check_end()
    return run


class Abort(kit.Case):
    config = {"shards": 1, "services": {
        "webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]},
        "narrow": {"kind": "webhook", "allow": ["127.0.0.0/8"], "max_in_flight": 2}}}

    def setUp(self):
        super().setUp()
        self.aborts = self.count_aborts()

    def count_aborts(self):
        return self.settled.metrics().get('settled_aborts_total{reason="disconnected"}', 0)

    def hanging(self, n, first=1):
        return [item(i, self.spread(i, "/hang")) for i in range(first, first + n)]

    def start(self, batch, **how):
        return self.settled.start_post({"deadline_ms": DAY_MS, "attempt_timeout_ms": 600000, **batch}, **how)

    def check_end(self, aborts=1):
        self.down.wait(in_flight=0)
        kit.until(lambda: self.count_aborts() >= self.aborts + aborts, "it is counted")
        self.rest.wait()
        self.assertEqual(self.count_aborts(), self.aborts + aborts)
        seen = len(self.down.ledger())
        self.settle({"items": [item(1, self.url("/ok"))]}, 200)
        self.assertEqual(len(self.down.ledger()), seen + 1, "only the next batch's attempt came after the end")
        self.rest.wait()

    def check_all_aborted(self, doc, n):
        self.assertEqual(self.facts(doc, "status", "code", "stop", "delivered", "attempts", "ok", "retryable"),
                         {("indeterminate", "aborted", "disconnected", "maybe", 1, False, True)})
        self.assertEqual((doc["outcome"], doc["counts"]["indeterminate"]), ("indeterminate", n))
        self.down.wait(gone=n)
        ledger = self.down.ledger()
        self.assertEqual(len(ledger), n)
        for e in ledger:
            self.assertIsNone(e["answered"])
            self.assertIsNotNone(e["peer_gone_us"])
            self.assertLessEqual(e["arrived_us"], doc["ended_at_us"])

    def check_in_flight(self, leave, n):
        sock = self.start({"concurrency": n, "items": self.hanging(n)})
        self.down.wait(requests=n)
        self.check_all_aborted(self.leave_and_get(leave, sock), n)

    @each_way
    def test_one_transfer_in_flight_is_closed(self, leave):
        self.check_in_flight(leave, 1)

    @each_way
    def test_ten_transfers_in_flight_are_closed(self, leave):
        self.check_in_flight(leave, 10)

    @each_way
    def test_a_hundred_transfers_in_flight_are_closed(self, leave):
        self.check_in_flight(leave, 100)

    @each_way
    def test_items_queued_behind_the_concurrency_are_not_attempted(self, leave):
        sock = self.start({"concurrency": 1, "items": self.hanging(20)})
        self.down.wait(requests=1)
        self.check_queued(self.leave_and_get(leave, sock), 1)

    @each_way
    def test_items_queued_behind_the_service_are_not_attempted(self, leave):
        sock = self.start({"service": "narrow", "concurrency": 20, "items": [
            item(n, self.url("/hang")) for n in range(20)]})
        self.down.wait(requests=2)
        self.check_queued(self.leave_and_get(leave, sock), 2)

    def check_queued(self, doc, in_flight):
        self.assertEqual([r["attempts"] for r in doc["results"]], [1] * in_flight + [0] * (20 - in_flight))
        for r in doc["results"][in_flight:]:
            self.assertEqual((r["status"], r["error"]["code"], r["stop"], r["delivered"], r["ok"], r["retryable"]),
                             ("not_attempted", "not_attempted", "disconnected", "no", False, True))
        self.assertEqual((doc["counts"]["indeterminate"], doc["counts"]["not_attempted"]), (in_flight, 20 - in_flight))
        self.down.wait(gone=in_flight)
        self.assertEqual(len(self.down.ledger()), in_flight)

    @each_way
    def test_no_attempt_starts_while_items_are_settling(self, leave):
        sock = self.start({"concurrency": 8, "include": ["attempts"], "items": [
            item(n, self.spread(n, f"/ok?wait_ms={harness.ms(50)}")) for n in range(2000)]})
        self.down.wait(answered=50)
        doc = self.leave_and_get(leave, sock)
        self.down.wait(in_flight=0)
        ledger = self.down.ledger()
        self.assertGreater(doc["counts"]["not_attempted"], 0)
        self.assertLessEqual(len(ledger), sum(r["attempts"] for r in doc["results"]))
        late = [e for e in ledger if e["arrived_us"] > doc["ended_at_us"]]
        self.assertLessEqual(len(late), 8, "only what had been started could still arrive")
        self.assertLessEqual(self.facts(doc, "status", "stop"),
                             {("succeeded", None), ("indeterminate", "disconnected"), ("failed", "disconnected"),
                              ("not_attempted", "disconnected")})
        self.check_evidence(doc, ledger)

    def check_evidence(self, doc, ledger):
        """What the results claim about each item against what the downstream saw."""
        seen = {json.loads(e["body"])["n"]: e for e in ledger}
        for n, r in enumerate(doc["results"]):
            if r["delivered"] == "yes":
                self.assertEqual(seen[n]["answered"], 200)
            elif r["delivered"] == "no":
                self.assertNotIn(n, seen)

    @each_way
    def test_a_wait_between_attempts_ends(self, leave):
        sock = self.start({"items": [item(n, self.spread(n, "/x?status=503&retry_after=3600"))
                                     for n in range(10)]})
        for n in range(10):
            self.settled.wait_line(rf"event=attempt_done .*item=i{n} ", self.log_start)
        doc = self.leave_and_get(leave, sock)
        self.assertEqual(self.facts(doc, "status", "code", "stop", "delivered", "attempts"),
                         {("indeterminate", "unavailable", "disconnected", "maybe", 1)})
        self.assertEqual(len(self.down.ledger()), 10)

    @each_way
    def test_a_connection_being_made_is_given_up_and_nothing_was_delivered(self, leave):
        nowhere = kit.Unreachable()
        self.addCleanup(nowhere.close)
        sock = self.start({"include": ["attempts"], "items": [item(n, nowhere.url(n)) for n in range(10)]})
        nowhere.wait_connecting(10)
        doc = self.leave_and_get(leave, sock)
        self.assertEqual(self.facts(doc, "status", "code", "stop", "delivered", "attempts"),
                         {("failed", "aborted", "disconnected", "no", 1)})
        self.assertEqual({a["phase"] for r in doc["results"] for a in r["attempt_log"]}, {"connect"})
        self.assertEqual(doc["outcome"], "failed")

    @each_way
    def test_a_client_is_missed_behind_a_pipelined_request(self, leave):
        sock = self.start({"items": self.hanging(3)})
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        self.down.wait(requests=3)
        self.check_all_aborted(self.leave_and_get(leave, sock), 3)

    @each_way
    def test_a_client_is_missed_behind_more_than_a_receive_buffer(self, leave):
        sock = self.start({"items": self.hanging(3)})
        self.down.wait(requests=3)
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 25000)
        self.assertEqual(self.batches_done(), [])
        self.check_all_aborted(self.leave_and_get(leave, sock), 3)

    def test_a_client_that_floods_is_taken_for_gone(self):
        sock = self.start({"items": self.hanging(3)})
        self.down.wait(requests=3)
        with self.assertRaises(OSError):
            while True:
                sock.sendall(b"x" * 65536)
        sock.close()
        self.check_all_aborted(self.aborted(), 3)
        self.check_end()

    def test_a_half_close_counts_as_a_disconnect(self):
        sock = self.start({"items": self.hanging(3)})
        self.down.wait(requests=3)
        doc = self.leave_and_get(kit.half_close, sock)
        self.check_all_aborted(doc, 3)
        self.assertEqual(sock.recv(1), b"", "nothing is answered to who has left")
        sock.close()
        self.check_end()

    def test_a_client_that_left_before_its_request_was_read_is_missed(self):
        for leave in (kit.fin, kit.half_close):
            with self.subTest(leave=leave.__name__):
                self.setUp()
                self.settled.child.send_signal(signal.SIGSTOP)
                try:
                    sock = self.start({"concurrency": 2, "items": self.hanging(10)})
                    leave(sock)
                finally:
                    self.settled.child.send_signal(signal.SIGCONT)
                doc = self.aborted()
                sock.close()
                self.down.wait(in_flight=0)
                self.assertLessEqual(sum(r["attempts"] for r in doc["results"]), 2)
                self.assertLessEqual(len(self.down.ledger()), sum(r["attempts"] for r in doc["results"]))
                self.assertEqual({r["stop"] for r in doc["results"]}, {"disconnected"})
                self.check_end()

    @each_way
    def test_a_later_batch_on_a_kept_connection_is_aborted_like_the_first(self, leave):
        sock = self.start({"items": [item(1, self.url("/ok"))]})
        self.assertEqual(read_status(sock), 200)
        send_on(sock, {"items": [item(2, self.url("/gone"))]})
        self.assertEqual(read_status(sock), 207)
        self.settled.wait_line(r"event=batch_done .*outcome=failed", self.log_start)
        self.log_start = self.settled.mark()
        self.down.clear()
        send_on(sock, {"items": self.hanging(3), "deadline_ms": DAY_MS})
        self.down.wait(requests=3)
        self.check_all_aborted(self.leave_and_get(leave, sock), 3)

    def test_a_client_that_leaves_during_its_upload_has_made_no_batch(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.setUp()
                sock = socket.create_connection(("127.0.0.1", self.settled.port), timeout=harness.LIMIT_S)
                body = harness.encode({"items": self.hanging(100)})
                sock.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                             b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
                kit.until(lambda: self.rest.gauges() == 0 and self.rest.fds() > self.rest.at_first, "the connection")
                leave(sock)
                self.rest.wait()
                self.assertEqual((self.batches_done(), self.down.ledger()), ([], []))
                self.check_end(aborts=0)

    @each_way
    def test_a_client_of_http_1_0_is_missed_too(self, leave):
        sock = self.start({"items": self.hanging(3)}, version="HTTP/1.0")
        self.down.wait(requests=3)
        self.check_all_aborted(self.leave_and_get(leave, sock), 3)

    def test_the_other_contracts_end_the_same_way(self):
        for batch in ({"contract": "all_or_nothing"}, {"contract": "best_effort"}, {"order": "sequential"}):
            with self.subTest(**batch):
                self.setUp()
                sock = self.start({**batch, "items": self.hanging(5)})
                n = 1 if "order" in batch else 5
                self.down.wait(requests=n)
                doc = self.leave_and_get(kit.fin, sock)
                self.assertEqual(self.facts(doc, "stop"), {("disconnected",)})
                self.assertEqual([r["attempts"] for r in doc["results"]], [1] * n + [0] * (5 - n))
                self.down.wait(gone=n)
                self.check_end()

    def test_on_disconnect_continue_goes_on_to_its_end(self):
        held = gate.Held()
        self.addCleanup(held.close)
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.setUp()
                sock = self.start({"on_disconnect": "continue", "concurrency": 1, "items": [
                    item(1, self.url("/ok")), item(2, held.url("a")), item(3, self.url("/gone"))]})
                held.wait("a")
                batch = self.settled.wait_line(r"event=attempt_done batch=(\S+)", self.log_start)[1]
                leave(sock)
                kit.until(lambda: self.settled.metrics()["settled_requests_parked"] == 0, "the client is missed")
                running = self.settled.get_batch(batch).json
                self.assertEqual((running["state"], running["outcome"], running["counts"]["pending"]),
                                 ("running", None, 2))
                held.answer("a")
                doc = self.settled.ask("GET", "/v1/batches/" + batch, headers={"Prefer": "wait=60"}).json
                self.assertEqual((doc["outcome"], doc["stop_reason"]), ("partial", "completed"))
                self.assertEqual([r["status"] for r in doc["results"]], ["succeeded", "succeeded", "failed"])
                self.check_end(aborts=0)

    @each_way
    def test_another_batch_in_the_same_lane_goes_on(self, leave):
        held = gate.Held()
        self.addCleanup(held.close)
        one = self.start({"items": [item(1, held.url("one"))]})
        other = self.start({"items": [item(1, held.url("other")), item(2, held.url("another"))]})
        held.wait("one", "other", "another")
        self.assertEqual(self.facts(self.leave_and_get(leave, one), "code"), {("aborted",)})
        held.wait_gone("one")
        held.answer("other")
        held.answer("another")
        self.assertEqual(read_status(other), 200)
        other.close()

    @each_way
    def test_an_answer_whose_status_came_before_the_abort_wins(self, leave):
        held = gate.Held()
        self.addCleanup(held.close)
        sock = self.start({"items": [item(n, held.url(p)) for n, p in enumerate(("good", "bad", "none", "last"))]})
        held.wait("good", "bad", "none", "last")
        held.send("good", b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nnot yet")
        held.send("bad", b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nnot yet")
        held.send("none", b"HTTP/1.1 20")
        held.answer("last")
        self.settled.wait_line("event=attempt_done .*item=i3 ", self.log_start)
        doc = self.leave_and_get(leave, sock)
        self.assertEqual([(r["status"], r.get("error", {}).get("code"), r.get("stop"), r["delivered"])
                          for r in doc["results"]],
                         [("succeeded", None, None, "yes"), ("failed", "recipient_not_found", "not_retryable", "no"),
                          ("indeterminate", "aborted", "disconnected", "maybe"), ("succeeded", None, None, "yes")])
        self.assertEqual(doc["outcome"], "partial")
        for path in ("good", "bad", "none"):
            held.wait_gone(path)

    @each_way
    def test_an_answer_that_arrived_unread_before_the_abort_wins(self, leave):
        held = gate.Held()
        self.addCleanup(held.close)
        sock = self.start({"items": [item(n, held.url(p)) for n, p in enumerate(("whole", "begun"))]})
        held.wait("whole", "begun")
        self.settled.child.send_signal(signal.SIGSTOP)
        try:
            held.send("begun", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot yet")
            held.answer("whole")
            leave(sock)
        finally:
            self.settled.child.send_signal(signal.SIGCONT)
        doc = self.aborted()
        self.assertEqual([(r["status"], r["delivered"]) for r in doc["results"]], [("succeeded", "yes")] * 2)
        held.wait_gone("begun")


class AbortAcrossShards(Abort):
    config = {**Abort.config, "shards": 3}


def send_on(sock, batch):
    body = harness.encode(batch)
    sock.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)


def read_status(sock):
    """One answer off a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    while len(body) < int(fields["content-length"]):
        body += sock.recv(65536)
    return int(head.split()[1])


if __name__ == "__main__":
    harness.main()
