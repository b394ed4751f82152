"""What holds through every reverse proxy of deploy/proxies: results, streams and
refusals come through, and so does a client's end."""

import os
import socket
import threading
import unittest

import gate
import harness
import kit
import rawhttp
from harness import item
from kit import LEAVE
from reading import ASYNC, Events
from test_stream import NDJSON, Stream


class Rest(kit.Rest):
    """A proxy keeps connections to the daemon, as it should: all other descriptors count."""

    def fds(self):
        port = f":{self.daemon.port:04X}"
        with open("/proc/net/tcp", encoding="ascii") as table:
            kept = {f"socket:[{f[9]}]" for f in (line.split() for line in table) if f[1].endswith(port)}
        count = 0
        for fd in os.scandir(f"/proc/{self.daemon.child.pid}/fd"):
            try:
                count += os.readlink(fd.path) not in kept
            except FileNotFoundError:
                pass
        return count


class Proxied(kit.HeldCase):
    """`program` runs the proxy `front_class`; a test module names both."""

    config = {"shards": 2, "limits": {"body_bytes": 2 << 20}}
    program = front_class = None

    @classmethod
    def setUpClass(cls):
        kit.need(cls.program)
        super().setUpClass()
        cls.rest.close()
        cls.rest = Rest(cls.settled)
        try:
            cls.front = cls.front_class(f"127.0.0.1:{cls.settled.port}")
        except AssertionError:
            super().tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        try:
            cls.front.stop()
        finally:
            super().tearDownClass()

    def start(self, batch, headers=None):
        sock = self.front.start_post({"deadline_ms": 3600000, "attempt_timeout_ms": 600000, **batch}, headers)
        self.addCleanup(sock.close)
        return sock

    def check_end(self):
        self.down.wait(in_flight=0)
        self.rest.wait()
        answer = self.front.post({"items": [item(1, self.url("/ok"))]})
        self.assertEqual(answer.status, 200)
        self.settled.wait_line("event=batch_done batch=" + answer.headers["Batch-Id"], self.log_start)
        self.rest.wait()

    def restart(self):
        self.down.clear()
        self.log_start = self.settled.mark()

    def test_results_come_through_unchanged(self):
        answer = self.front.post({"include": ["attempts"], "concurrency": 100, "attempt_timeout_ms": 100,
                                  "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1}, "items": [
                                      item(n, self.spread(n, path)) for n, path in enumerate(
                                          ("/ok", "/gone", "/flaky?times=1", "/x?status=503", "/hang") * 100)]})
        self.assertEqual(answer.status, 207)
        direct = self.settled.ask("GET", answer.headers["Location"])
        self.assertEqual(answer.body, direct.body)
        for name in ("Batch-Id", "Location", "Batch-Outcome", "Content-Type"):
            self.assertEqual(answer.headers[name], direct.headers[name], name)
        self.assertEqual(self.front.ask("GET", answer.headers["Location"]).body, direct.body)

    def test_refusals_come_through(self):
        for method, path, body, headers, status, code in (
                ("POST", "/v1/batches", b"{}", {"Content-Type": "application/json"}, 422, "validation_failed"),
                ("POST", "/v1/batches", b"{", {"Content-Type": "application/json"}, 400, "malformed_json"),
                ("POST", "/v1/batches", b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
                ("DELETE", "/v1/batches", None, {}, 405, "method_not_allowed"),
                ("GET", "/nothing", None, {}, 404, "not_found")):
            answer = self.front.ask(method, path, body, headers)
            self.assertEqual((answer.status, answer.json["code"], answer.headers["Content-Type"]),
                             (status, code, "application/problem+json"))
        self.assertEqual(self.front.ask("DELETE", "/v1/batches").headers["Allow"], "POST, GET, HEAD")
        self.assertEqual(self.down.ledger(), [])
        self.rest.wait()

    def test_a_body_that_is_too_large_is_refused_by_the_daemon(self):
        for _ in range(10):
            answer = self.front.post(b" " * (4 << 20))
            self.assertEqual((answer.status, answer.json["code"]), (413, "body_too_large"))
        self.check_end()

    def test_a_client_that_leaves_closes_every_transfer(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.restart()
                sock = self.start({"items": [item(n, self.spread(n, "/hang")) for n in range(50)]})
                self.down.wait(requests=50)
                doc = self.leave_and_get(leave, sock)
                self.assertEqual(self.facts(doc, "status", "code", "stop", "attempts"),
                                 {("indeterminate", "aborted", "disconnected", 1)})
                self.down.wait(gone=50)
                self.assertEqual(len(self.down.ledger()), 50)
                self.check_end()

    def test_a_client_that_leaves_ends_waits_and_queues(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.restart()
                sock = self.start({"concurrency": 1, "items": [
                    item(1, self.url("/x?status=503&retry_after=3000")), item(2, self.url("/hang")), item(3, self.url("/ok"))]})
                self.settled.wait_line(r"event=attempt_done .*item=i1 ", self.log_start)
                self.down.wait(requests=2)
                doc = self.leave_and_get(leave, sock)
                self.assertEqual([(r["error"]["code"], r["stop"], r["attempts"]) for r in doc["results"]], [
                    ("unavailable", "disconnected", 1), ("aborted", "disconnected", 1),
                    ("not_attempted", "disconnected", 0)])
                self.check_end()
                self.assertEqual(len(self.down.ledger()), 3)

    def test_a_client_that_leaves_lets_a_batch_continue_that_should(self):
        sock = self.start({"on_disconnect": "continue", "items": [item(1, self.held.url("one"))]})
        self.held.wait("one")
        sock.close()
        kit.until(lambda: self.settled.metrics()["settled_requests_parked"] == 0, "the client is missed")
        self.held.answer("one")
        done = self.settled.wait_done("completed", self.log_start)
        shown = self.settled.ask("GET", "/v1/batches/" + done["batch"], headers={"Prefer": "wait=30"})
        self.assertEqual(shown.json["outcome"], "succeeded")
        self.check_end()

    def test_a_stream_comes_through_line_by_line(self):
        stream = Stream(self.start({"items": [item(n, self.held.url(f"p{n}")) for n in (1, 2)]}, NDJSON))
        self.assertEqual((stream.status, stream.headers["content-type"]), (200, "application/x-ndjson"))
        self.held.wait("p1", "p2")
        self.held.answer("p2")
        lines = [stream.line()]
        self.assertEqual(lines[0]["id"], "i2")
        self.held.answer("p1")
        lines += stream.rest()
        doc = self.settled.get_batch(stream.headers["batch-id"]).json
        self.assertEqual([lines[1], lines[0]], doc.pop("results"))
        self.assertEqual(lines[2], {"batch": doc})
        self.check_end()

    def test_a_client_that_leaves_a_stream_ends_its_batch(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.restart()
                stream = Stream(self.start({"items": [item(1, self.url("/ok")), item(2, self.url("/hang"))]}, NDJSON))
                self.assertEqual(stream.line()["id"], "i1")
                self.down.wait(requests=2)
                stream.leave(leave)
                self.assertEqual([r.get("stop") for r in self.aborted()["results"]], [None, "disconnected"])
                self.check_end()

    def test_events_come_through_one_by_one(self):
        answer = self.front.post({"items": [item(n, self.held.url(f"p{n}")) for n in (1, 2)]}, ASYNC)
        self.assertEqual(answer.status, 202)
        events = Events(self.front, answer.headers["Batch-Id"])
        self.addCleanup(events.close)
        self.assertEqual((events.status, events.next().name), (200, "snapshot"))
        for n in (2, 1):
            self.held.answer(f"p{n}")
            self.assertEqual(events.until("item")[-1].data["id"], f"i{n}")
        self.assertEqual(events.rest()[-1].name, "done")
        self.check_end()

    def test_a_long_poll_waits_for_the_end(self):
        answer = self.front.post({"items": [item(1, self.held.url("one"))]}, ASYNC)
        polled = []
        poll = threading.Thread(target=lambda: polled.append(
            self.front.ask("GET", answer.headers["Location"], headers={"Prefer": "wait=30"})))
        poll.start()
        kit.until(lambda: self.settled.metrics()["settled_requests_waiting"] == 1, "nobody waits")
        self.held.answer("one")
        poll.join(harness.LIMIT_S)
        self.assertEqual((polled[0].status, polled[0].json["outcome"]), (200, "succeeded"))
        self.check_end()

    def test_a_big_batch_comes_through_whole(self):
        text = "x" * 1500
        answer = self.front.post({"items": [{**item(n, self.url("/ok")), "payload": f"{n} {text}"} for n in range(1000)]})
        self.assertEqual(answer.status, 200)
        bodies = {e["body"] for e in self.down.ledger()}
        self.assertTrue(bodies == {f'"{n} {text}"'.encode() for n in range(1000)}, "payloads differ")
        self.check_end()


class Losing:
    """An upstream that is ready, answers the first POST of a connection where
    `first`, and closes without a word at any other."""

    def __init__(self, first):
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.sock.getsockname()[1]}"
        self.first, self.posts = first, []
        threading.Thread(target=gate.serve_each, args=(self.sock, self._serve), daemon=True).start()

    def _serve(self, conn):
        first = self.first
        with conn:
            while True:
                try:
                    request = gate.read_request(conn)
                except (AssertionError, OSError):
                    return
                if request.startswith(b"POST"):
                    self.posts.append(request.partition(b"\r\n\r\n")[2])
                    if not first:
                        return
                    first = False
                conn.sendall(gate.OK)

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class ProxiedFaults(unittest.TestCase):
    """What a proxy does with an upstream that is not there, or goes away."""

    longMessage = True
    program = front_class = None

    def setUp(self):
        kit.need(self.program)

    def start(self, *addresses):
        self.front = self.front_class(*addresses)
        self.addCleanup(self.front.stop)

    def test_a_post_that_was_sent_is_never_sent_again(self):
        for first in (False, True):
            with self.subTest(kept_connection=first):
                upstreams = [Losing(first), Losing(first)]
                for upstream in upstreams:
                    self.addCleanup(upstream.close)
                self.start(*(u.address for u in upstreams))
                sent = [f"post {n}".encode() for n in range(8)]
                with rawhttp.dial(self.front.port) as sock, sock.makefile("rb") as stream:
                    for body in sent:
                        sock.sendall(rawhttp.head(Content_Length=str(len(body))) + body)
                        answer = rawhttp.read_answer(stream)
                        if answer is None:
                            break
                got = sorted(upstreams[0].posts + upstreams[1].posts)
                self.assertEqual(got, sent[:len(got)], "each once")
                self.assertGreaterEqual(len(got), 2 if first else 1)
                self.assertTrue(answer is None or answer.status == 502, answer)

    def test_a_connection_that_cannot_be_made_is_made_to_the_other_instance(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        down = harness.Downstream()
        self.addCleanup(down.stop)
        settled = harness.Daemon(downstream=down)
        self.addCleanup(settled.stop)
        for addresses in ((nobody, f"127.0.0.1:{settled.port}"), (f"127.0.0.1:{settled.port}", nobody)):
            self.start(*addresses)
            down.clear()
            for n in range(6):
                answer = self.front.post({"service": "push", "items": [item(n, "x")]})
                self.assertEqual(answer.status, 200)
            self.assertEqual(len(down.ledger()), 6)
