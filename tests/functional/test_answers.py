"""What a downstream's answer means: the table of CONTRACT section 6, broken and
endless answers, Retry-After, message ids, and connections that die."""

import email.utils
import threading
import time

import gate
import harness
from harness import item

RETRY = {"max_attempts": 2, "base_ms": 0, "cap_ms": 0}
# status: (code, delivered, retryable); the others by their class.
BY_STATUS = {400: ("invalid_item", "no", False), 422: ("invalid_item", "no", False), 401: ("unauthenticated", "no", False),
             403: ("permission_denied", "no", False), 404: ("recipient_not_found", "no", False), 408: ("timeout", "maybe", True),
             410: ("recipient_gone", "no", False), 413: ("payload_too_large", "no", False), 429: ("rate_limited", "no", True),
             503: ("unavailable", "maybe", True), 504: ("timeout", "maybe", True)}
BY_CLASS = {2: (None, "yes", False), 3: ("rejected", "no", False), 4: ("rejected", "no", False), 5: ("upstream_error", "maybe", True)}


def verdict(result):
    return result.get("error", {}).get("code"), result["delivered"], result["retryable"]


class Statuses(harness.Case):
    def test_every_status_has_its_meaning(self):
        codes = [s for s in range(200, 600)]
        answer = self.settled.post({"retry": RETRY, "include": ["attempts"],
                                    "items": [item(s, self.url(f"/x?status={s}")) for s in codes]})
        for status in codes:
            want = BY_STATUS.get(status, BY_CLASS[status // 100])
            result = answer.results[f"i{status}"]
            with self.subTest(status=status):
                self.assertEqual(verdict(result), want)
                self.assertEqual(result["attempts"], 2 if want[2] else 1)
                self.assertEqual(result["duplicate_risk"], want[1] == "maybe" and want[2])
                self.assertEqual(result["status"], {"yes": "succeeded", "no": "failed", "maybe": "indeterminate"}[want[1]])
                self.assertEqual({a["http_status"] for a in result["attempt_log"]}, {status})
                if want[0] is not None:
                    self.assertEqual(result["error"]["http_status"], status)
                    self.assertEqual(result["stop"], "max_attempts" if want[2] else "not_retryable")
        self.assertEqual(len(self.down.ledger()), sum(r["attempts"] for r in answer.json["results"]))

    def test_redirects_are_not_followed(self):
        for n, status in enumerate((301, 302, 303, 307, 308)):
            result = self.settled.post({"items": [item(n, self.url(f"/x?status={status}"))]}).results[f"i{n}"]
            self.assertEqual((verdict(result), result["attempts"]), (("rejected", "no", False), 1))
        self.assertEqual({e["path"] for e in self.down.ledger()}, {"/x"})

    def test_interim_answers_are_passed_over(self):
        items = [item(n, self.url(f"/x?interim={n}&status={s}")) for n, s in ((100, 200), (102, 410), (103, 201))]
        answer = self.settled.post({"items": items})
        self.assertEqual([r["status"] for r in answer.json["results"]], ["succeeded", "failed", "succeeded"])


class Answers(harness.Case):
    config = {"limits": {"answer_bytes": 1000}}

    def one(self, ask, **more):
        self.down.clear()
        answer = self.settled.post({"retry": RETRY, "items": [item(1, self.url("/x?" + ask))], **more})
        result = answer.results["i1"]
        self.assertEqual(len(self.down.ledger()), result["attempts"])
        return result

    def test_a_status_that_has_arrived_wins_over_what_follows(self):
        for what in ("endless=headers", "endless=body", "broken=headers", "broken=length", "broken=chunk", "body_bytes=100000",
                     "body_bytes=100000&drip_ms=1&drip_bytes=5000", "keep=no", "keep=lie"):
            for status, want in ((200, (None, "yes", False)), (410, ("recipient_gone", "no", False))):
                with self.subTest(what=what, status=status):
                    result = self.one(f"{what}&status={status}")
                    self.assertEqual((verdict(result), result["attempts"]), (want, 1))

    def test_an_answer_that_drips_past_the_timeout_has_arrived_with_its_status(self):
        result = self.one(f"status=200&body_bytes=900&drip_ms={harness.GIVE_UP_MS // 4}&drip_bytes=40", attempt_timeout_ms=harness.GIVE_UP_MS)
        self.assertEqual(verdict(result), (None, "yes", False))

    def test_a_status_line_that_never_ends_is_a_timeout(self):
        result = self.one(f"status=200&drip_ms={harness.GIVE_UP_MS // 4}", attempt_timeout_ms=harness.GIVE_UP_MS)
        self.assertEqual((verdict(result), result["attempts"]), (("timeout", "maybe", True), 2))

    def test_what_is_no_http_is_a_bad_response_and_not_repeated(self):
        result = self.one("broken=status")
        self.assertEqual((verdict(result), result["attempts"], result["stop"]), (("bad_response", "maybe", False), 1, "not_retryable"))

    def test_an_end_without_an_answer_is_a_lost_connection(self):
        for what in ("close", "close=before", "reset", "reset=before"):
            with self.subTest(what=what):
                result = self.one(what)
                self.assertEqual((verdict(result), result["attempts"], result["duplicate_risk"]), (("connection_lost", "maybe", True), 2, True))

    def test_nobody_there_means_nothing_was_sent(self):
        with_nobody = gate.Gate()
        with_nobody.close()
        result = self.settled.post({"retry": RETRY, "items": [item(1, with_nobody.url)]}).results["i1"]
        self.assertEqual((verdict(result), result["attempts"], result["duplicate_risk"]), (("connect_failed", "no", True), 2, False))

    def test_the_message_id_is_the_first_string_of_three_names(self):
        for body, want in (('{"id":"a"}', "a"), ('{"message_id":"b"}', "b"), ('{"name":"c"}', "c"), ('{"name":"c","message_id":"b","id":"a"}', "a"),
                           ('{"name":"c","message_id":"b"}', "b"), ('{"id":7,"name":"c"}', "c"), ('{"id":""}', None), ('{"id":7}', None),
                           ('{"id":null}', None), ('{"x":{"id":"a"}}', None), ('["a"]', None), ('"a"', None), ("", None), ("not json", None),
                           ('{"id":"a"', None), ('{"id":"\u00e9 \\u20ac \\""}', "\u00e9 \u20ac \""), ('{"id":"a"} x', None)):
            with self.subTest(body=body):
                result = self.one("body=" + "".join(f"%{b:02x}" for b in body.encode()))
                self.assertEqual((result["status"], result.get("message_id")), ("succeeded", want))
        self.assertNotIn("message_id", self.one("status=410&body=%7b%22id%22:%22a%22%7d"))

    def test_retry_after_in_seconds_is_a_lower_bound_and_is_passed_on(self):
        result = self.one("status=429&retry_after=70", deadline_ms=30000)
        self.assertEqual((result["attempts"], result["stop"], result["error"]["retry_after_ms"]), (1, "deadline", 70000))
        result = self.one("status=503&retry_after=1&times=1")
        self.assertEqual((result["status"], result["attempts"]), ("succeeded", 2))
        self.assertGreaterEqual(result["latency_ms"], 1000)
        first, second = self.down.ledger()
        self.assertGreaterEqual(second["arrived_us"] - first["arrived_us"], 1000000)
        self.assertNotIn("retry_after_ms", self.one("status=410&retry_after=7")["error"])


class Raw(harness.Case):
    """Answers byte by byte, from a downstream under the test's hand."""

    config = {"limits": {"answer_bytes": 1000}}

    def setUp(self):
        super().setUp()
        self.door = gate.Gate()
        self.addCleanup(self.door.close)

    def answered(self, data, end=True, **more):
        """The result of one attempt that is answered with these bytes."""
        return self.asked_and_answered(data, end, **more)[1]

    def asked_and_answered(self, data, end=True, **more):
        """And what was asked."""
        conns, asked = [], []

        def serve():
            conn, request = self.door.take()
            conns.append(conn)
            asked.append(request)
            try:
                conn.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass
            if end:
                conn.close()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        answer = self.settled.post({"retry": {"max_attempts": 1}, "items": [item(1, self.door.url + "/x")], **more})
        server.join()
        conns[0].close()
        return asked[0], answer.results["i1"]

    def test_bytes_that_are_no_status_line(self):
        for data in (b"\x00" * 100, b"\xff\xfe\r\n\r\n", b"<html></html>\r\n\r\n", b"220 smtp.example ESMTP\r\n", b"SSH-2.0-x\r\n",
                     b"HTTP\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
                     b"HTTP/3.0 200 OK\r\n\r\n", b"HTTP/9 200 OK\r\n\r\n", b"ICY 200 OK\r\n\r\n", b"http/1.1 200 OK\r\n\r\n", b"Http/1.1 410 x\r\n\r\n", b"HTTP 200 OK\r\n\r\n", b" HTTP/1.1 200 OK\r\n\r\n",
                     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", b"\x15\x03\x01\x00\x02\x02\x28",
                     b"HTTP/1.1 " + b"2" * 200000 + b"\r\n\r\n", b"x" * 200000):
            with self.subTest(data=data[:40]):
                self.assertEqual(verdict(self.answered(data)), ("bad_response", "maybe", False))

    def test_a_status_beyond_the_classes_is_no_answer_to_rely_on(self):
        for status in (600, 799, 999):
            result = self.answered(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status)
            self.assertEqual(verdict(result), ("bad_response", "maybe", False), status)

    def test_an_end_inside_the_status_line_is_a_lost_connection(self):
        for data in (b"", b"H", b"HTTP/1.1", b"HTTP/1.1 2", b"HTTP/1.1 200", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r"):
            with self.subTest(data=data):
                self.assertEqual(verdict(self.answered(data)), ("connection_lost", "maybe", True))

    def test_only_interim_answers_are_no_answer(self):
        self.assertEqual(verdict(self.answered(b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\n")), ("connection_lost", "maybe", True))
        result = self.answered(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        self.assertEqual(verdict(result), ("bad_response", "maybe", False))

    def test_switching_protocols_is_an_answer_and_is_not_waited_out(self):
        result = self.settled.post({"attempt_timeout_ms": harness.FOR_LONG_MS, "retry": RETRY,
                                    "items": [item(1, self.url("/x?interim=101"))]}).results["i1"]
        self.assertEqual((verdict(result), result["attempts"]), (("bad_response", "maybe", False), 1))

    def test_a_status_with_anything_after_it_counts(self):
        for rest in (b"", b"Content-Length: 99999999999999999999\r\n\r\n", b"Content-Length: -1\r\n\r\n", b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n",
                     b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Transfer-Encoding: gzip\r\n\r\nxxx", b"X: " + b"y" * 150000 + b"\r\n\r\n",
                     b"X: y\r\n" * 20000 + b"\r\n", b"no colon\r\n\r\n", b"\x00\x00\r\n\r\n", b"X: \x00\r\n\r\n", b"Content-Encoding: gzip\r\n\r\nnot gzip",
                     b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, b"Set-Cookie: a=b\r\nLocation: http://127.0.0.1:1/\r\n\r\n"):
            with self.subTest(rest=rest[:40]):
                self.assertEqual(verdict(self.answered(b"HTTP/1.1 204 x\r\n" + rest)), (None, "yes", False))
                self.assertEqual(verdict(self.answered(b"HTTP/1.1 500 x\r\n" + rest)), ("upstream_error", "maybe", True))

    def test_retry_after_as_a_date(self):
        for seconds, low, high in ((3600, 3500000, 3601000), (-3600, 0, 0)):
            date = email.utils.formatdate(time.time() + seconds, usegmt=True).encode()
            result = self.answered(b"HTTP/1.1 429 x\r\nRetry-After: " + date + b"\r\nContent-Length: 0\r\n\r\n")
            self.assertTrue(low <= result["error"]["retry_after_ms"] <= high, result)

    def test_a_retry_after_that_means_nothing_is_passed_over(self):
        for value in (b"", b"soon", b"-5", b"1.5", b"0x10", b"99999999999999999999999 years", b"\xff"):
            result = self.answered(b"HTTP/1.1 429 x\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n")
            self.assertNotIn("retry_after_ms", result["error"], value)
        result = self.answered(b"HTTP/1.1 429 x\r\nRetry-After: 99999999999999999999999\r\nContent-Length: 0\r\n\r\n")
        self.assertGreaterEqual(result["error"]["retry_after_ms"], 365 * 86400 * 1000)

    def test_a_cookie_is_not_sent_back(self):
        answer = b"HTTP/1.1 200 x\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
        for _ in range(2):
            asked, result = self.asked_and_answered(answer)
            self.assertEqual((result["ok"], b"cookie" in asked.lower()), (True, False))


class Resend(harness.Case):
    """libcurl repeats a request by itself when a reused connection dies: here it must not."""

    def setUp(self):
        super().setUp()
        self.door = gate.Gate()
        self.addCleanup(self.door.close)

    def test_a_reused_connection_that_dies_is_reported_and_not_repeated(self):
        requests = []

        def serve():
            conn, data = self.door.take()
            requests.append(data)
            conn.sendall(gate.OK)
            requests.append(self.door.take(conn)[1])
            conn.close()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        answer = self.settled.post({"order": "sequential", "retry": {"max_attempts": 1},
                                    "items": [item(1, self.door.url), item(2, self.door.url)]})
        server.join()
        self.assertEqual(verdict(answer.results["i1"]), (None, "yes", False))
        result = answer.results["i2"]
        self.assertEqual((verdict(result), result["attempts"], result["stop"]), (("connection_lost", "maybe", True), 1, "max_attempts"))
        self.assertEqual(len(requests), 2)
        self.assertFalse(self.door.has_caller())

    def test_at_most_once_is_kept_on_a_dying_connection(self):
        self.down.script("/x", *["ok", "close", "ok", "reset"] * 5)
        answer = self.settled.post({"order": "sequential", "delivery": "at_most_once",
                                    "items": [item(n, self.url("/x")) for n in range(20)]})
        self.assertEqual([verdict(r)[0] for r in answer.json["results"]], [None, "connection_lost"] * 10)
        self.assertEqual(len(self.down.ledger()), 20)

    def test_every_request_seen_is_an_attempt_reported(self):
        for concurrency in (1, 8):
            self.down.clear()
            self.down.script("/x", *["ok", "close", "ok", "ok", "reset", "keep=lie", "ok", "close=before"] * 100)
            answer = self.settled.post({"concurrency": concurrency, "retry": {"max_attempts": 4, "base_ms": 0, "cap_ms": 0},
                                        "items": [item(n, self.url("/x")) for n in range(100)]})
            seen = {}
            for entry in self.down.ledger():
                seen[entry["webhook_id"]] = seen.get(entry["webhook_id"], 0) + 1
            for result in answer.json["results"]:
                requests = seen[f"{answer.json['id']}.{result['id']}"]
                self.assertLessEqual(requests, result["attempts"], result)
                self.assertEqual(result["duplicate_risk"], result["attempts"] > 1, result)

    def test_a_connection_that_died_while_idle_does_no_harm(self):
        for _ in range(2):
            server = threading.Thread(target=self.answer_and_close, daemon=True)
            server.start()
            answer = self.settled.post({"delivery": "at_most_once", "items": [item(1, self.door.url)]})
            server.join()
            self.assertEqual((answer.status, answer.results["i1"]["attempts"]), (200, 1))

    def answer_and_close(self):
        conn, _ = self.door.take()
        conn.sendall(gate.OK)
        conn.close()


if __name__ == "__main__":
    harness.main()
