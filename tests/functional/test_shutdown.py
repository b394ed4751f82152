"""How the daemon ends: it drains, and every client still gets its result."""

import json
import signal
import subprocess
import unittest

import gate
import harness
import rawhttp
from harness import item

FOR_EVER = 3600000
ASK = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Case(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.gate = gate.Gate()
        self.addCleanup(self.gate.close)

    def start(self, drain_ms=FOR_EVER, **config):
        self.settled = harness.Daemon({"limits": {"drain_ms": drain_ms}, **config})
        self.addCleanup(self.settled.stop, signal.SIGKILL)

    def signal(self, number=signal.SIGTERM):
        self.settled.child.send_signal(number)

    def ended(self):
        """It ends by itself, in order."""
        self.assertEqual(self.settled.child.wait(harness.LIMIT_S), 0, self.settled.text())
        self.settled.wait_line("event=stopped")

    def answer(self, sock):
        with sock, sock.makefile("rb") as stream:
            answer = rawhttp.read_answer(stream)
            self.assertIsNotNone(answer, "closed without an answer")
            return answer

    def in_flight(self, n=1, headers=None, **more):
        """A batch of `n` items of which the first has reached the gate."""
        sock = self.settled.start_post({"items": [item(i, self.gate.url) for i in range(n)], "concurrency": 1, **more}, headers)
        return sock, self.gate.take()[0]


class Drain(Case):
    def check_running_batch_ends_normally(self, number):
        self.start()
        sock, conn = self.in_flight()
        self.signal(number)
        self.settled.wait_line("event=draining")
        conn.sendall(gate.OK)
        answer = self.answer(sock)
        self.assertEqual((answer.status, answer.json["stop_reason"]), (200, "completed"))
        self.ended()

    def test_sigterm_lets_a_running_batch_end_normally(self):
        self.check_running_batch_ends_normally(signal.SIGTERM)

    def test_sigint_does_the_same(self):
        self.check_running_batch_ends_normally(signal.SIGINT)

    def test_meanwhile_it_is_not_ready_and_takes_no_new_batch(self):
        self.start()
        sock, conn = self.in_flight()
        self.signal()
        self.settled.wait_line("event=draining")
        ready = self.settled.ask("GET", "/readyz")
        for answer in (ready, self.settled.post({"items": [item(1, self.gate.url)]})):
            self.assertEqual((answer.status, answer.json["status"], answer.json["code"]), (503, 503, "shutting_down"))
            self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
            self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        self.assertEqual(self.settled.ask("GET", "/livez").status, 200)
        self.assertEqual(self.settled.metrics()["settled_requests_parked"], 1)
        with open(self.settled.config_path, "w", encoding="utf-8") as f:
            json.dump({"listen": f"127.0.0.1:{self.settled.port}"}, f)
        check = subprocess.run([*harness.SETTLED, "healthcheck", "--config", self.settled.config_path], capture_output=True,
                               text=True, timeout=harness.LIMIT_S, check=False)
        self.assertEqual(check.returncode, 1)
        self.assertIn("is it draining?", check.stderr)
        conn.sendall(gate.OK)
        self.assertEqual(self.answer(sock).status, 200)
        self.ended()
        self.assertFalse(self.gate.has_caller())

    def test_meanwhile_every_answer_closes_its_connection(self):
        self.start()
        kept = rawhttp.dial(self.settled.port)
        with kept, kept.makefile("rb") as stream:
            kept.sendall(ASK)
            self.assertNotIn("connection", rawhttp.read_answer(stream).headers)
            running, conn = self.in_flight()
            self.signal()
            self.settled.wait_line("event=draining")
            kept.sendall(ASK)
            answer = rawhttp.read_answer(stream)
            self.assertEqual((answer.status, answer.headers["connection"]), (200, "close"))
            self.assertEqual(stream.read(), b"")
        conn.sendall(gate.OK)
        self.assertEqual(self.answer(running).headers["connection"], "close")
        self.ended()

    def test_a_batch_that_runs_goes_on_to_its_next_items(self):
        self.start()
        sock, conn = self.in_flight(n=3)
        self.signal()
        self.settled.wait_line("event=draining")
        conn.sendall(gate.OK)
        for _ in range(2):
            self.gate.take(conn)
            conn.sendall(gate.OK)
        self.assertEqual(self.answer(sock).json["counts"]["succeeded"], 3)
        self.ended()

    def test_idle_connections_and_half_requests_do_not_hold_it(self):
        self.start()
        kept = rawhttp.dial(self.settled.port)
        with kept, kept.makefile("rb") as stream:
            kept.sendall(ASK)
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
            with rawhttp.dial(self.settled.port) as half, rawhttp.dial(self.settled.port):
                half.sendall(ASK[:-1])
                self.signal()
                self.ended()

    def test_a_batch_whose_body_is_on_its_way_is_refused_with_an_answer(self):
        self.start()
        running, conn = self.in_flight()
        body = harness.encode({"items": [item(1, self.gate.url)]})
        sock = rawhttp.dial(self.settled.port)
        sock.sendall(rawhttp.head(Content_Type="application/json", Content_Length=str(len(body))) + body[:5])
        self.signal()
        self.settled.wait_line("event=draining")
        sock.sendall(body[5:])
        with sock, sock.makefile("rb") as stream:
            answer = rawhttp.read_answer(stream)
        self.assertEqual((answer.status, answer.json["code"]), (503, "shutting_down"))
        conn.sendall(gate.OK)
        self.assertEqual(self.answer(running).status, 200)
        self.ended()

    def test_sighup_does_not_end_it(self):
        self.start()
        sock, conn = self.in_flight()
        self.signal(signal.SIGHUP)
        self.settled.wait_line("event=reloaded")
        self.assertEqual(self.settled.ask("GET", "/readyz").status, 200)
        conn.sendall(gate.OK)
        with sock, sock.makefile("rb") as stream:
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
        self.signal()
        self.ended()


class LameDuck(Case):
    """Whoever routes to the daemon learns of its end a moment later: until then it serves."""

    def start(self, **limits):
        super().start(limits={"drain_ms": FOR_EVER, "lame_duck_ms": FOR_EVER, **limits}, shards=2)

    def wait_both(self, event):
        for shard in range(2):
            self.settled.wait_line(f"event={event} shard={shard} ")

    def test_it_says_that_it_is_not_ready_and_takes_new_batches(self):
        self.start()
        self.signal()
        self.wait_both("lame_duck")
        ready = self.settled.ask("GET", "/readyz")
        self.assertEqual((ready.status, ready.json["code"]), (503, "shutting_down"))
        self.assertEqual(self.settled.ask("GET", "/livez").status, 200)
        sock, conn = self.in_flight()
        # Or the job would come by the same connection.
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        conn.close()
        answer = self.answer(sock)
        self.assertEqual((answer.status, answer.headers["connection"]), (200, "close"))
        job = self.settled.post({"items": [item(1, self.gate.url)]}, {"Prefer": "respond-async"})
        self.assertEqual(job.status, 202)
        self.gate.take()[0].sendall(gate.OK)
        done = self.settled.ask("GET", job.headers["Location"], headers={"Prefer": "wait=30"})
        self.assertEqual(done.json["outcome"], "succeeded")
        self.assertNotIn("event=draining", self.settled.text())
        self.signal()
        self.ended()

    def test_a_kept_connection_closes_with_its_next_answer(self):
        self.start()
        kept = rawhttp.dial(self.settled.port)
        with kept, kept.makefile("rb") as stream:
            kept.sendall(ASK)
            self.assertNotIn("connection", rawhttp.read_answer(stream).headers)
            self.signal()
            self.wait_both("lame_duck")
            kept.sendall(ASK)
            answer = rawhttp.read_answer(stream)
            self.assertEqual((answer.status, answer.headers["connection"]), (200, "close"))
            self.assertEqual(stream.read(), b"")
        self.signal()
        self.ended()

    def test_when_its_time_is_up_it_drains(self):
        self.start(lame_duck_ms=1)
        sock, conn = self.in_flight()
        self.signal()
        self.wait_both("draining")
        self.assertEqual(self.settled.post({"items": [item(1, self.gate.url)]}).status, 503)
        conn.sendall(gate.OK)
        self.assertEqual(self.answer(sock).status, 200)
        self.ended()

    def test_a_second_signal_begins_the_drain_and_a_third_ends_it(self):
        self.start()
        sock, _ = self.in_flight()
        self.signal()
        self.wait_both("lame_duck")
        self.signal()
        self.wait_both("draining")
        self.signal(signal.SIGINT)
        self.assertEqual(self.answer(sock).json["stop_reason"], "shutdown")
        self.ended()


class Abort(Case):
    def check_aborted(self, results, batch):
        """Item 0 was in flight, 1 waited for its retry or its turn, as did the others."""
        self.assertEqual((batch["stop_reason"], batch["counts"]["pending"]), ("shutdown", 0))
        results.sort(key=lambda r: r["index"])
        self.assertEqual((results[0]["error"]["code"], results[0]["delivered"], results[0]["stop"]), ("aborted", "maybe", "shutdown"))
        for result in results[1:]:
            self.assertEqual((result["status"], result["error"]["code"], result["stop"], result["attempts"]),
                             ("not_attempted", "not_attempted", "shutdown", 0))

    def test_after_drain_ms_the_rest_is_aborted_and_its_client_told(self):
        self.start(drain_ms=100)
        sock, _ = self.in_flight(n=5)
        self.signal()
        answer = self.answer(sock)
        self.assertEqual((answer.status, answer.headers["Batch-Outcome"]), (207, "indeterminate"))
        self.check_aborted(answer.json["results"], answer.json)
        self.ended()

    def test_a_stream_gets_its_last_line(self):
        self.start(drain_ms=100)
        sock, _ = self.in_flight(n=5, headers={"Accept": "application/x-ndjson"})
        self.signal()
        with sock, sock.makefile("rb") as stream:
            raw = stream.read()
        head, body = raw.split(b"\r\n\r\n", 1)
        self.assertIn(b" 200 ", head)
        lines = [json.loads(line) for line in body.splitlines() if line.startswith(b"{")]
        self.assertEqual(len(lines), 6)
        self.check_aborted(lines[:-1], lines[-1]["batch"])
        self.ended()

    def test_a_retry_wait_ends_at_once(self):
        self.start(drain_ms=0)
        sock, conn = self.in_flight(deadline_ms=FOR_EVER)
        conn.sendall(b"HTTP/1.1 503 x\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n")
        self.settled.wait_line("event=attempt_done")
        self.signal()
        result = self.answer(sock).json["results"][0]
        self.assertEqual((result["error"]["code"], result["stop"], result["attempts"]), ("unavailable", "shutdown", 1))
        self.ended()

    def test_a_second_signal_ends_the_drain(self):
        for second in (signal.SIGTERM, signal.SIGINT):
            self.start()
            sock, _ = self.in_flight()
            self.signal()
            self.settled.wait_line("event=draining")
            self.signal(second)
            self.assertEqual(self.answer(sock).json["stop_reason"], "shutdown")
            self.ended()

    def test_a_batch_that_its_client_left_to_go_on_is_left_to_the_next_process(self):
        self.start(drain_ms=100)
        sock, _ = self.in_flight(on_disconnect="continue")
        sock.close()
        self.signal()
        self.settled.wait_line("event=attempt_done .*code=aborted")
        self.ended()
        self.assertNotIn("event=batch_done", self.settled.text())

    def test_a_client_that_waits_for_a_batch_that_goes_on_gets_its_address(self):
        self.start(drain_ms=100)
        sock, _ = self.in_flight(on_disconnect="continue")
        self.signal()
        answer = self.answer(sock)
        self.assertEqual((answer.status, answer.json["state"], answer.json["counts"]["pending"]), (202, "running", 1))
        self.assertEqual(answer.headers["Location"], "/v1/batches/" + answer.json["id"])
        self.ended()

    def test_a_stream_of_a_batch_that_goes_on_ends_with_the_batch_as_it_stands(self):
        self.start(drain_ms=100)
        sock, _ = self.in_flight(2, {"Accept": "application/x-ndjson"}, on_disconnect="continue")
        self.signal()
        with sock, sock.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
        self.assertIn(b" 200 OK\r\n", head)
        line, = [json.loads(line) for line in body.split(b"\r\n") if line.startswith(b"{")]
        batch = line["batch"]
        self.assertIn(f"\r\nBatch-Id: {batch['id']}".encode(), head)
        self.assertEqual((batch["state"], batch["outcome"], batch["counts"]["pending"]), ("running", None, 2))
        self.assertTrue(body.endswith(b"\r\n0\r\n\r\n"), body)
        self.ended()

    def test_every_one_of_many_clients_gets_its_result(self):
        down = harness.Downstream()
        self.addCleanup(down.stop)
        for shards in (1, 2):
            down.clear()
            self.start(drain_ms=100, shards=shards)
            headers = [{}, {"Accept": "application/x-ndjson"}]
            socks = [self.settled.start_post({"items": [item(n, down.url + f"/hang?tag={n}") for n in range(4)]}, headers[i % 2])
                     for i in range(60)]
            down.wait(requests=240)
            self.signal()
            for i, sock in enumerate(socks):
                with sock, sock.makefile("rb") as stream:
                    raw = stream.read()
                self.assertIn(b" 200 " if i % 2 else b" 207 ", raw.split(b"\r\n")[0])
                self.assertIn(b'"stop_reason":"shutdown"', raw)
                self.assertIn(b'"counts":{"total":4,"succeeded":0,"failed":0,"indeterminate":4,', raw)
            self.ended()
            down.wait(in_flight=0)


if __name__ == "__main__":
    harness.main()
