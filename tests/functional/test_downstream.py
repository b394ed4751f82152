"""The programmable downstream: every behaviour as seen on the wire, and the
ledger that the other tests judge by."""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import unittest

import harness
import kit
from harness import LIMIT_S

BIG = b"x" * (8 * 1024 * 1024)


def request(path, body=b"", headers=(), method="POST", version="HTTP/1.1"):
    lines = [f"{method} {path} {version}", "Host: h", f"Content-Length: {len(body)}",
             *(f"{k}: {v}" for k, v in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_all(sock):
    """Everything until the peer's end, and which it was."""
    data = b""
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except ConnectionResetError:
        return data, "reset"
    return data, "fin"


class Base(unittest.TestCase):
    options = ()
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.down = harness.Downstream(*cls.options)

    @classmethod
    def tearDownClass(cls):
        status = cls.down.stop()
        if status != 0:
            raise AssertionError(f"ended with {status}:\n" + cls.down.text())

    def setUp(self):
        self.down.clear()
        self.down.ask("DELETE", "/_script")

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.down.port), timeout=LIMIT_S)
        self.addCleanup(sock.close)
        return sock

    def client(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.down.port, timeout=LIMIT_S)
        self.addCleanup(conn.close)
        return conn

    def ask(self, path, body=b"{}", headers=None, method="POST", conn=None):
        conn = conn or self.client()
        conn.request(method, path, body=body, headers=headers or {})
        answer = conn.getresponse()
        answer.data = answer.read()
        return answer

    def statuses(self, path, times, **headers):
        return [self.ask(path, headers=headers).status for _ in range(times)]

    def raw(self, data):
        """What comes back for these bytes until the connection ends, and how."""
        sock = self.connect()
        sock.sendall(data)
        return read_all(sock)

    def only_entry(self):
        entries = self.down.ledger()
        self.assertEqual(len(entries), 1)
        return entries[0]


class Answers(Base):
    def test_a_plain_request_is_accepted_with_an_id(self):
        answer = self.ask("/any/path")
        self.assertEqual(answer.status, 200)
        self.assertEqual(json.loads(answer.data), {"id": "m-1"})

    def test_a_status_from_query_segment_or_preset(self):
        for path, status in (("/x?status=418", 418), ("/send/status=410", 410), ("/status%3D503%26tag%3Du7", 503),
                             ("/ok", 200), ("/gone", 410), ("/push/missing/x", 404), ("/invalid", 422), ("/error", 500),
                             ("/gone?status=404", 404), ("/down%3Fstatus%3D504", 504), ("/x?status=200&tag=a&tag=b", 200),
                             ("/redirect", 302), ("/unauthorized", 401), ("/forbidden", 403), ("/goner", 200)):
            with self.subTest(path=path):
                self.assertEqual(self.ask(path).status, status)

    def test_fields_and_body(self):
        self.assertEqual(self.ask("/limited").headers["Retry-After"], "1")
        self.assertEqual(self.ask("/down?retry_after=0").headers["Retry-After"], "0")
        self.assertIsNone(self.ask("/down").headers["Retry-After"])
        self.assertEqual(self.ask("/redirect").headers["Location"], "/redirected")
        answer = self.ask("/x?header=X-A:%20one&header=X-B:two&body=b")
        self.assertEqual((answer.headers["X-A"], answer.headers["X-B"], answer.data), ("one", "two", b"b"))
        self.assertEqual(self.ask("/x?body=%7B%22a%22:1%26%7D").data, b'{"a":1&}')
        self.assertEqual(self.ask("/x?body=").data, b"")
        self.assertEqual(self.ask("/x?body_bytes=100000").data, b"x" * 100000)
        self.assertEqual(self.ask("/x?status=204").data, b"")

    def test_what_is_not_understood_is_said(self):
        for path in ("/x?stauts=503", "/x?status=abc", "/x?status=99", "/stauts=503", "/x?hang=maybe", "/x?wait_ms=-1",
                     "/x?mix=200", "/x?mix=200:0", "/x?interim=200", "/x?then=50", "/x?header=", "/x?wait_ms=99999999999999999999"):
            with self.subTest(path=path):
                answer = self.ask(path)
                self.assertEqual(answer.status, 400)
                self.assertEqual(self.down.ledger()[-1]["behaviour"], "invalid")

    def test_an_interim_answer_comes_first(self):
        data, end = self.raw(request("/x?interim=103&keep=no"))
        self.assertRegex(data, rb"^HTTP/1.1 103 \r\n\r\nHTTP/1.1 200 \r\n")
        self.assertEqual(end, "fin")

    def test_a_wait_is_a_lower_bound(self):
        began = time.monotonic()
        self.assertEqual(self.ask("/slow?wait_ms=80&status=500").status, 500)
        self.assertGreaterEqual(time.monotonic() - began, 0.08)
        entry = self.only_entry()
        self.assertGreaterEqual(entry["answered_us"] - entry["arrived_us"], 80000)

    def test_drips_arrive_in_pieces(self):
        began = time.monotonic()
        data, _ = self.raw(request("/drip?drip_ms=10&drip_bytes=20&keep=no"))
        self.assertGreater(len(data), 80)
        self.assertGreaterEqual(time.monotonic() - began, 0.01 * (len(data) // 20 - 2))
        self.assertTrue(data.endswith(b'{"id":"m-1"}'))
        sock = self.connect()
        sock.sendall(request(f"/drip?drip_ms={1000 * int(LIMIT_S)}&drip_bytes=20"))
        self.assertEqual(len(sock.recv(65536)), 20)

    def test_head_is_answered_without_a_body(self):
        answer = self.ask("/ok", method="HEAD", body=None)
        self.assertEqual((answer.status, answer.data), (200, b""))


class Misbehaviour(Base):
    def test_reset_after_the_body(self):
        self.assertEqual(self.raw(request("/reset", b"abc")), (b"", "reset"))
        entry = self.only_entry()
        self.assertEqual((entry["behaviour"], entry["complete"], entry["body"]), ("reset after", True, b"abc"))
        self.assertEqual((entry["answered"], entry["peer_gone_us"]), (None, None))

    def test_reset_before_the_body(self):
        sock = self.connect()
        sock.sendall(request("/x?reset=before", BIG)[:300])
        self.assertEqual(read_all(sock), (b"", "reset"))
        entry = self.only_entry()
        self.assertEqual((entry["behaviour"], entry["complete"], entry["body_bytes"]), ("reset before", False, 0))

    def test_close_is_a_fin_even_with_the_body_unread(self):
        self.assertEqual(self.raw(request("/close", b"abc")), (b"", "fin"))
        sock = self.connect()
        sock.sendall(request("/x?close=before", BIG)[:100000])
        self.assertEqual(read_all(sock), (b"", "fin"))
        after, before = self.down.ledger()
        self.assertEqual((after["behaviour"], after["complete"]), ("close after", True))
        self.assertEqual((before["behaviour"], before["complete"], before["answered"]), ("close before", False, None))

    def test_a_reset_waits_if_asked_to(self):
        began = time.monotonic()
        self.assertEqual(self.raw(request("/reset?wait_ms=50")), (b"", "reset"))
        self.assertGreaterEqual(time.monotonic() - began, 0.05)

    def test_hang_notices_that_the_peer_left(self):
        for leave in (socket.socket.close, harness.reset, lambda s: s.shutdown(socket.SHUT_WR)):
            for path in ("/hang", "/x?hang=before", "/slow?wait_ms=60000"):
                with self.subTest(leave=leave, path=path):
                    self.down.clear()
                    sock = self.connect()
                    sock.sendall(request(path, b"abc"))
                    self.down.wait(requests=1)
                    self.down.wait(in_flight=1)
                    before_us = self.only_entry()["arrived_us"]
                    self.assertIsNone(self.only_entry()["peer_gone_us"])
                    leave(sock)
                    self.down.wait(gone=1, in_flight=0)
                    entry = self.only_entry()
                    self.assertGreater(entry["peer_gone_us"], before_us)
                    self.assertIsNone(entry["answered"])

    def test_hang_before_leaves_the_body_unread(self):
        sock = self.connect()
        sock.setblocking(False)
        sock.send(request("/x?hang=before", BIG)[:65536])
        self.down.wait(in_flight=1)
        sent = 0
        try:
            while sent < len(BIG):
                sent += sock.send(BIG[sent:])
        except BlockingIOError:
            pass
        self.assertLess(sent, len(BIG))
        harness.reset(sock)
        self.down.wait(gone=1)
        self.assertEqual((self.only_entry()["body_bytes"], self.only_entry()["complete"]), (0, False))

    def test_endless_answers_never_end(self):
        for kind, filler in (("headers", b"X-Endless: yes\r\n"), ("body", b"x" * 16384)):
            with self.subTest(kind=kind):
                self.down.clear()
                sock = self.connect()
                sock.sendall(request(f"/x?endless={kind}"))
                data = b""
                while len(data) < 1000000:
                    data += sock.recv(65536)
                self.assertIn(filler, data)
                self.assertEqual(self.down.stats()["in_flight"], 1)
                sock.close()
                self.down.wait(gone=1)
                self.assertEqual(self.only_entry()["behaviour"], f"endless {kind}")

    def test_endless_and_dripping(self):
        sock = self.connect()
        sock.sendall(request(f"/endless?drip_ms={1000 * int(LIMIT_S)}&drip_bytes=100"))
        self.assertLessEqual(len(sock.recv(65536)), 100)
        sock.close()
        self.down.wait(gone=1)

    def test_broken_answers_end_the_connection(self):
        for kind, pattern in (("status", rb"^this is not HTTP"), ("headers", rb"^HTTP/1.1 200 \r\n(.*\r\n)*[^:]*\r\n"),
                              ("length", rb"Content-Length: 112\r\n\r\n.{12}$"), ("chunk", rb"\r\n\r\n2\r\n{}\r\nzz\r\n$")):
            with self.subTest(kind=kind):
                data, end = self.raw(request(f"/x?broken={kind}"))
                self.assertRegex(data, pattern)
                self.assertEqual(end, "fin")

    def test_keep_says_and_lies(self):
        self.assertIn(b"Connection: close", self.raw(request("/x?keep=no"))[0])
        data, end = self.raw(request("/x?keep=lie"))
        self.assertNotIn(b"Connection:", data)
        self.assertEqual((data[-12:], end), (b'{"id":"m-2"}', "fin"))

    def test_more_connections_than_one_may_hang(self):
        socks = [self.connect() for _ in range(500)]
        for n, sock in enumerate(socks):
            sock.sendall(request(f"/hang?tag={n}"))
        self.down.wait(in_flight=500, connections=500)
        for sock in socks:
            sock.close()
        self.down.wait(gone=500, in_flight=0, connections=0)
        self.assertEqual(self.down.stats()["max_in_flight"], 500)


class Counting(Base):
    def test_fails_n_times_and_then_succeeds(self):
        self.assertEqual(self.statuses("/a?status=503&times=2", 4), [503, 503, 200, 200])
        self.assertEqual(self.statuses("/b?status=500&times=1&then=202", 3), [500, 202, 202])
        self.assertEqual(self.statuses("/flaky", 3), [503, 503, 200])

    def test_each_webhook_id_and_path_counts_by_itself(self):
        first, second = {"webhook-id": "one"}, {"webhook-id": "two"}
        self.assertEqual(self.statuses("/flaky?times=1", 2, **first), [503, 200])
        self.assertEqual(self.statuses("/flaky?times=1", 2, **second), [503, 200])
        self.assertEqual(self.statuses("/other/flaky?times=1", 2, **first), [503, 200])

    def test_a_key_counts_across_paths(self):
        self.assertEqual(self.statuses("/c/flaky?times=1&key=k", 1) + self.statuses("/d/flaky?times=1&key=k", 1), [503, 200])

    def test_failing_may_be_a_hang_or_a_reset(self):
        self.assertEqual(self.raw(request("/e?reset&times=1")), (b"", "reset"))
        self.assertEqual(self.ask("/e?reset&times=1").status, 200)

    def test_a_mix_follows_its_weights_and_its_seed(self):
        path = "/m?mix=200:80,503:15,gone:5&seed="
        first = [self.ask(f"{path}7", headers={"webhook-id": f"i{n}"}).status for n in range(400)]
        self.down.ask("DELETE", "/_script")
        again = {n: self.ask(f"{path}7", headers={"webhook-id": f"i{n}"}).status for n in reversed(range(400))}
        self.assertEqual(first, [again[n] for n in range(400)])
        self.assertEqual(set(first), {200, 503, 410})
        self.assertTrue(270 < first.count(200) < 370, first.count(200))
        self.down.ask("DELETE", "/_script")
        self.assertNotEqual(first, [self.ask(f"{path}8", headers={"webhook-id": f"i{n}"}).status for n in range(400)])

    def test_a_mix_may_misbehave(self):
        self.assertEqual(self.raw(request("/m?mix=reset:1")), (b"", "reset"))
        self.assertEqual(self.down.ledger()[0]["behaviour"], "reset after")

    def test_a_script_is_used_in_turn_and_its_last_line_repeats(self):
        self.down.script("/x", "down", "", "  status=500&wait_ms=1  ", "flaky?status=429", "ok")
        self.assertEqual(self.statuses("/x?status=418", 6), [503, 500, 429, 200, 200, 200])
        self.assertEqual(self.ask("/y").status, 200)
        self.down.script("/x", "gone")
        self.assertEqual(self.statuses("/x", 2), [410, 410])

    def test_a_script_may_be_gone_through_per_id(self):
        self.down.script("/x&per=id", "down", "ok")
        for n in range(3):
            self.assertEqual(self.statuses("/x", 3, **{"webhook-id": f"i{n}"}), [503, 200, 200])

    def test_a_bad_script_is_refused_as_a_whole(self):
        answer = self.ask("/_script?path=/x", body=b"ok\nstauts=1\n")
        self.assertEqual((answer.status, answer.data.split(b":")[0]), (400, b"line 2"))
        self.assertEqual(self.ask("/_script?path=/x", body=b"\n\n").status, 400)
        self.assertEqual(self.ask("/_script", body=b"ok").status, 400)
        self.assertEqual(self.ask("/_script?path=/x&per=moon", body=b"ok").status, 400)
        self.assertEqual(self.ask("/_script?path=/x", body=b"ok\n" * 500000).status, 413)
        self.assertEqual(self.ask("/x").status, 200)


class Ledger(Base):
    options = ("--ledger", "100", "--ledger-body", "16")

    def test_an_entry_says_what_arrived(self):
        sent = {"webhook-id": 'a"b\\', "webhook-timestamp": "1614265330", "webhook-signature": "v1,abc",
                "traceparent": "00-1-2-01", "Content-Type": "application/json", "X-Twice": "1"}
        self.ask("/p/q?tag=%20", body=b'\x00\xff{"n": 1.10}', headers=sent, method="PUT")
        entry = self.only_entry()
        for name, value in sent.items():
            self.assertIn([name, value], entry["headers"])
            if name != "X-Twice":
                self.assertEqual(entry[name.lower().replace("-", "_")], value)
        self.assertEqual((entry["n"], entry["method"], entry["path"], entry["query"]), (1, "PUT", "/p/q", "tag=%20"))
        self.assertEqual((entry["body"], entry["body_bytes"], entry["complete"]), (b'\x00\xff{"n": 1.10}', 13, True))
        self.assertEqual((entry["behaviour"], entry["answered"], entry["peer_gone_us"]), ("answer", 200, None))
        self.assertGreaterEqual(entry["answered_us"], entry["arrived_us"])
        self.assertRegex(entry["arrived_at"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")

    def test_no_answer_is_there_before_the_ledger_says(self):
        """Also where something else has the processor between an answer and the look at the clock."""
        kit.need("strace")
        strace = harness.Process(["strace", "-e", "trace=sendto", "-e", "inject=sendto:delay_exit=300000", "-p", str(self.down.child.pid)])
        try:
            strace.wait_line("attached")
            self.ask("/ok")
            there_us = time.monotonic_ns() // 1000
        finally:
            strace.stop(signal.SIGINT)
        self.assertLessEqual(self.only_entry()["answered_us"], there_us)

    def test_what_did_not_come_is_null(self):
        self.raw(b"GET /x HTTP/1.0\r\n\r\n")
        entry = self.only_entry()
        for name in ("query", "webhook_id", "webhook_timestamp", "webhook_signature", "traceparent", "content_type"):
            self.assertIsNone(entry[name])
        self.assertEqual((entry["headers"], entry["body"]), ([], b""))

    def test_a_long_body_is_kept_in_part_and_counted_whole(self):
        self.ask("/x", body=BIG)
        entry = self.only_entry()
        self.assertEqual((entry["body"], entry["body_bytes"], entry["complete"]), (b"x" * 16, len(BIG), True))

    def test_chunked_bodies_are_decoded(self):
        head = b"POST /x?keep=no HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in (1, 7, 1000):
            self.down.clear()
            sock = self.connect()
            data = head + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
            for at in range(0, len(data), piece):
                sock.sendall(data[at:at + piece])
            read_all(sock)
            self.assertEqual((self.only_entry()["body"], self.only_entry()["complete"]), (b"abc0123456789", True))

    def test_a_request_cut_short_is_incomplete(self):
        sock = self.connect()
        sock.sendall(request("/x", b"0123456789")[:-4])
        self.down.wait(requests=1)
        sock.close()
        self.down.wait(gone=1)
        entry = self.only_entry()
        self.assertEqual((entry["complete"], entry["body"], entry["body_bytes"]), (False, b"012345", 6))
        self.assertIsNotNone(entry["peer_gone_us"])

    def test_filters(self):
        for n in range(6):
            self.ask(f"/p{n % 2}?status=20{n % 3}", headers={"webhook-id": f"i{n % 3}"})
        self.assertEqual([e["n"] for e in self.down.ledger("?path=/p1")], [2, 4, 6])
        self.assertEqual([e["n"] for e in self.down.ledger("?webhook_id=i2")], [3, 6])
        self.assertEqual([e["n"] for e in self.down.ledger("?webhook_id=i2&path=%2Fp1")], [6])
        self.assertEqual(self.down.ledger("?webhook_id="), [])
        counts = json.loads(self.down.ask("GET", "/_ledger/count?webhook_id=i2"))
        self.assertEqual((counts["requests"], counts["answered"], counts["in_flight"]), (2, 2, 0))

    def test_it_is_bounded_and_keeps_the_newest(self):
        conn = self.client()
        for _ in range(250):
            self.ask("/ok", conn=conn)
        self.assertEqual([e["n"] for e in self.down.ledger()], list(range(151, 251)))
        self.assertEqual(json.loads(self.down.ask("GET", "/_ledger/count"))["requests"], 250)
        self.assertEqual(len({e["connection"] for e in self.down.ledger()}), 1)

    def test_clearing_starts_again_but_forgets_nothing_in_flight(self):
        sock = self.connect()
        sock.sendall(request("/hang"))
        self.down.wait(in_flight=1)
        self.down.clear()
        self.assertEqual(self.down.ledger(), [])
        self.assertEqual((self.down.stats()["requests"], self.down.stats()["in_flight"]), (0, 1))
        sock.close()
        self.down.wait(in_flight=0)
        self.assertEqual(self.down.stats()["gone"], 0)
        self.ask("/ok")
        self.assertEqual(self.only_entry()["n"], 1)

    def test_a_wait_ends_when_its_condition_holds(self):
        waiter = self.connect()
        waiter.sendall(request("/_ledger/wait?requests=3&answered=2&path=/w&keep=no", method="GET"))
        self.ask("/other")
        self.ask("/w")
        sock = self.connect()
        sock.sendall(request("/w?hang"))
        self.down.wait(requests=2, path="/w")
        waiter.setblocking(False)
        self.assertRaises(BlockingIOError, waiter.recv, 1)
        waiter.settimeout(LIMIT_S)
        self.ask("/w")
        self.assertTrue(waiter.recv(65536).startswith(b"HTTP/1.1 200 "))

    def test_a_wait_that_takes_too_long_is_408(self):
        self.assertEqual(self.ask("/_ledger/wait?gone=1&timeout_ms=10", method="GET").status, 408)
        self.assertEqual(self.ask("/_ledger/wait", method="GET").status, 400)
        self.assertEqual(self.ask("/_nothing", method="GET").status, 404)

    def test_a_waiter_may_leave(self):
        for _ in range(20):
            sock = self.connect()
            sock.sendall(request("/_ledger/wait?requests=1", method="GET"))
            sock.close()
        self.ask("/ok")
        self.down.wait(answered=1)

    def test_without_a_ledger_the_counts_stay(self):
        down = harness.Downstream("--ledger", "0")
        self.addCleanup(down.stop)
        conn = http.client.HTTPConnection("127.0.0.1", down.port, timeout=LIMIT_S)
        self.addCleanup(conn.close)
        self.ask("/gone", conn=conn)
        down.wait(requests=1, answered=1)
        self.assertEqual(down.ledger(), [])


class Robustness(Base):
    def test_pipelined_requests_are_answered_in_order(self):
        data, end = self.raw(b"".join(request(f"/x?body={n}", b"abc") for n in range(2000)) + request("/x?keep=no"))
        self.assertEqual(re.findall(rb"\r\n\r\n(\d+)HTTP", data), [b"%d" % n for n in range(2000)])
        self.assertEqual(end, "fin")

    def test_a_flood_behind_a_hang_is_not_read(self):
        sock = self.connect()
        sock.sendall(request("/hang"))
        self.down.wait(in_flight=1)
        sock.setblocking(False)
        sent = 0
        try:
            while sent < 4 * len(BIG):
                sent += sock.send(BIG)
        except BlockingIOError:
            pass
        self.assertLess(sent, 4 * len(BIG))
        # A FIN would queue behind the bytes that nobody reads.
        harness.reset(sock)
        self.down.wait(gone=1, in_flight=0)

    def test_garbage_is_refused(self):
        for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"GET x HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\n\n",
                     b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                     b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", b"A" * 40000,
                     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                     b"POST /endless HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
                     b"POST /_script HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
                     b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000 + b"\r\n"):
            with self.subTest(data=data[:60]):
                got, _ = self.raw(data)
                self.assertTrue(got.startswith(b"HTTP/1.1 400 "), got)
        self.assertGreaterEqual(self.down.stats()["malformed"], 12)

    def test_random_bytes_and_random_cuts_do_no_harm(self):
        rng = random.Random(7)
        words = [b"GET ", b"POST ", b"/x", b"/_ledger", b"?status=", b"%", b"%zz", b"mix=", b"200:1,", b" HTTP/1.1", b"\r\n",
                 b"\r\n\r\n", b"Content-Length: ", b"5", b"Transfer-Encoding: chunked", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"\0",
                 b"/_script?path=/z", b"hang", b"&", b"=", b":", b"reset", b"/flaky"]
        for _ in range(500):
            sock = self.connect()
            sock.sendall(b"".join(rng.choice(words) for _ in range(rng.randrange(1, 30))))
            (harness.reset if rng.random() < 0.3 else socket.socket.close)(sock)
        self.assertEqual(self.ask("/ok").status, 200)
        self.down.wait(in_flight=0, connections=1)

    def test_slow_clients_send_byte_by_byte(self):
        sock = self.connect()
        for byte in request("/x?keep=no", b"abc"):
            sock.sendall(bytes([byte]))
        self.assertTrue(read_all(sock)[0].startswith(b"HTTP/1.1 200 "))
        self.assertEqual(self.only_entry()["body"], b"abc")

    def test_a_slow_reader_gets_all_of_a_large_answer(self):
        sock = self.connect()
        sock.sendall(request("/x?body_bytes=16000000&keep=no"))
        self.down.wait(requests=1)
        self.assertEqual(self.down.stats()["in_flight"], 1)
        data, end = read_all(sock)
        self.assertEqual((len(data.split(b"\r\n\r\n", 1)[1]), end), (16000000, "fin"))

    def test_a_client_that_expects_100_gets_it(self):
        sock = self.connect()
        data = request("/x?keep=no", b"abc", [("Expect", "100-continue")])
        sock.sendall(data[:-3])
        self.assertEqual(sock.recv(65536), b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(b"abc")
        self.assertTrue(read_all(sock)[0].startswith(b"HTTP/1.1 200 "))

    def test_http_1_0_is_closed_unless_kept(self):
        self.assertEqual(self.raw(request("/ok", version="HTTP/1.0"))[1], "fin")
        kept = request("/ok", headers=[("Connection", "keep-alive")], version="HTTP/1.0")
        self.assertEqual(self.raw(kept + request("/ok", version="HTTP/1.0"))[0].count(b"HTTP/1.1 200"), 2)


class CommandLine(unittest.TestCase):
    def run_it(self, *args):
        return subprocess.run([harness.DOWNSTREAM, *args], capture_output=True, text=True, timeout=LIMIT_S, check=False)

    def test_help_fits_a_screen_and_version_says_itself(self):
        text = self.run_it("--help")
        self.assertEqual((text.returncode, text.stderr), (0, ""))
        self.assertLessEqual(len(text.stdout.splitlines()), 40)
        self.assertLessEqual(max(map(len, text.stdout.splitlines())), 90)
        self.assertRegex(self.run_it("--version").stdout, r"^settled-downstream \d+\.\d+\.\d+\n$")

    def test_wrong_options_are_told(self):
        for args in (["--listen", "nowhere"], ["--ledger", "x"], ["--ledger-body", "-1"], ["--nope"], ["more"]):
            self.assertEqual(self.run_it(*args).returncode, 2, args)
        self.assertEqual(self.run_it("--listen", "192.0.2.1:1").returncode, 1)

    def test_it_runs_out_of_descriptors_and_recovers(self):
        down = harness.Process(["/bin/sh", "-c", 'ulimit -n 30; exec "$0" --listen 127.0.0.1:0', os.path.abspath(harness.DOWNSTREAM)])
        self.addCleanup(down.stop)
        port = int(down.wait_line(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        socks = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) for _ in range(60)]
        for sock in socks:
            sock.sendall(request("/ok?keep=no"))
        for sock in socks:
            self.assertTrue(read_all(sock)[0].startswith(b"HTTP/1.1 200 "))
            sock.close()


if __name__ == "__main__":
    harness.main()
