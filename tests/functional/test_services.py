"""What reaches a downstream: URL, method, headers, signature, and how much of it
at once."""

import base64
import hashlib
import hmac
import re
import time
import urllib.parse

import gate
import harness
import rawhttp
from harness import item

KEY = b"thirty-two bytes of signing key!"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET")
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Case(harness.Case):
    def send(self, service, to, **more):
        """One item; the downstream's only entry."""
        self.settled.post({"service": service, "items": [item(1, to, **more)]})
        entries = self.down.ledger()
        self.down.clear()
        self.assertEqual(len(entries), 1)
        return entries[0]

    @staticmethod
    def headers(entry):
        return {name.lower(): value for name, value in entry["headers"]}


class Requests(Case):
    @classmethod
    def setUpClass(cls):
        cls.down = harness.Downstream()
        services = {"hook": {"kind": "webhook", "allow": ["127.0.0.0/8"]},
                    "signed": {"kind": "webhook", "allow": ["127.0.0.0/8"], "secret": SECRET},
                    "path": {"kind": "http", "url": cls.down.url + "/send/{to}/now"},
                    "query": {"kind": "http", "url": cls.down.url + "/send?tag={to}&key={to}"},
                    "plain": {"kind": "http", "url": cls.down.url + "/fixed", "secret": SECRET,
                              "headers": {"authorization": "Bearer x y", "X-Two": "a,b;c=\"d\"", "user-agent": "mine"}}}
        for method in METHODS:
            services[method.lower()] = {"kind": "http", "url": cls.down.url + "/{to}", "method": method}
        try:
            cls.settled = harness.Daemon({"services": services}, cls.down)
        except AssertionError:
            cls.down.stop()
            raise

    def test_the_recipient_is_percent_encoded_wherever_it_stands(self):
        for to in ("user-1", "a b", "a/b", "../../admin", "a?b=c&d", "a%2Fb", "\u00e9\u20ac\U0001f600", "a#b", "{to}", "a\\b", "\"<>^`|",
                   "a\r\nX: y", "\x01\x7f", ";:@&+$,!*'()[]", "...", "~.-_", "x" * 2048, "\u00e9" * 1024):
            want = urllib.parse.quote(to, safe="-._~")
            with self.subTest(to=to[:40]):
                entry = self.send("path", to)
                self.assertEqual((entry["path"], entry["query"]), (f"/send/{want}/now", None))
                entry = self.send("query", to)
                self.assertEqual((entry["path"], entry["query"]), ("/send", f"tag={want}&key={want}"))

    def test_dots_alone_are_no_recipient(self):
        for to in (".", ".."):
            answer = self.settled.post({"service": "path", "items": [item(1, to)]})
            self.assertEqual((answer.status, answer.json["errors"][0]["pointer"]), (422, "#/items/0/to"))
        self.assertEqual(self.down.ledger(), [])

    def test_a_webhook_url_arrives_as_given(self):
        for path in ("/a/b%2Fc?tag=d%20e&tag", "/a//b/./c/../d?tag=%zz"):
            entry = self.send("hook", self.url(path))
            self.assertEqual(entry["path"] + "?" + entry["query"], path)

    def test_each_method_carries_the_payload(self):
        for method in METHODS:
            entry = self.send(method.lower(), "x", payload={"a": [1, None]})
            self.assertEqual((entry["method"], entry["body"], entry["complete"]), (method, b'{"a": [1, null]}', True))
            self.assertEqual(self.headers(entry)["content-length"], "16")

    def test_the_headers_are_those_that_are_promised(self):
        entry = self.send("hook", self.url("/x"))
        headers = self.headers(entry)
        self.assertEqual(len(headers), len(entry["headers"]), "a header twice")
        self.assertEqual((headers["host"], headers["content-type"], headers["user-agent"]),
                         (f"127.0.0.1:{self.down.port}", "application/json", "settled"))
        self.assertEqual(set(headers), {"host", "user-agent", "accept", "content-type", "content-length", "webhook-id",
                                        "webhook-timestamp", "traceparent"})

    def test_the_operators_headers_are_sent_as_they_are(self):
        entry = self.send("plain", "x")
        headers = self.headers(entry)
        self.assertEqual((headers["authorization"], headers["x-two"], headers["user-agent"]), ("Bearer x y", 'a,b;c="d"', "mine"))
        self.assertEqual(len(headers), len(entry["headers"]), "a header twice")

    def test_a_caller_cannot_add_headers(self):
        entry = self.send("hook", self.url("/x"), dedupe_key="a:b;c=d")
        self.assertEqual(self.headers(entry)["webhook-id"], "a:b;c=d")

    def check_signature(self, entry):
        signed = f"{entry['webhook_id']}.{entry['webhook_timestamp']}.".encode() + entry["body"]
        want = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        self.assertEqual(entry["webhook_signature"], want)

    def test_signatures_can_be_verified(self):
        for payload in ({}, "", None, {"text": "\u00e9\u20ac" * 100}, [1.5, "a\"b"]):
            for service, to in (("signed", self.url("/x")), ("plain", "x")):
                self.check_signature(self.send(service, to, payload=payload))
        self.assertIsNone(self.send("hook", self.url("/x"))["webhook_signature"])

    def test_every_attempt_is_signed_anew_under_the_same_id(self):
        before = int(time.time())
        self.settled.post({"service": "signed", "retry": {"max_attempts": 3, "base_ms": 1, "cap_ms": 1},
                           "items": [item(1, self.url("/flaky?times=2"), dedupe_key="order-7:u1")]})
        ledger = self.down.ledger()
        self.assertEqual([e["webhook_id"] for e in ledger], ["order-7:u1"] * 3)
        for entry in ledger:
            self.check_signature(entry)
            self.assertTrue(before <= int(entry["webhook_timestamp"]) <= time.time())

    def test_the_default_key_names_batch_and_item(self):
        answer = self.settled.post({"service": "hook", "items": [item(n, self.url("/x")) for n in range(3)]})
        self.assertEqual({e["webhook_id"] for e in self.down.ledger()}, {f"{answer.json['id']}.i{n}" for n in range(3)})

    def traces(self, traceparent=None, flags="01", **headers):
        headers |= {} if traceparent is None else {"traceparent": traceparent}
        self.settled.post({"service": "hook", "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1},
                           "items": [item(1, self.url("/flaky?times=1")), item(2, self.url("/ok"))]}, headers)
        ledger = self.down.ledger()
        parts = [re.fullmatch(f"00-([0-9a-f]{{32}})-([0-9a-f]{{16}})-{flags}", e["traceparent"]) for e in ledger]
        self.assertEqual({dict(e["headers"]).get("tracestate") for e in ledger}, {headers.get("tracestate")})
        self.down.clear()
        self.assertEqual(len(parts), 3)
        self.assertEqual(len({m[2] for m in parts}), 3, "every attempt is a span of its own")
        trace, = {m[1] for m in parts}
        return trace, {m[2] for m in parts}

    def test_a_trace_is_continued(self):
        trace, spans = self.traces(f"00-{TRACE}-b7ad6b7169203331-01")
        self.assertEqual(trace, TRACE)
        self.assertNotIn("b7ad6b7169203331", spans)
        self.assertEqual(self.traces(f"01-{TRACE}-b7ad6b7169203331-00-more", flags="00")[0], TRACE)
        self.assertEqual(self.traces(f"00-{TRACE}-b7ad6b7169203331-01", tracestate="vendor=x,other=y")[0], TRACE)

    def test_of_a_trace_s_flags_only_known_ones_go_on(self):
        for flags, sent in (("ff", "01"), ("fe", "00"), ("03", "01")):
            self.assertEqual(self.traces(f"00-{TRACE}-b7ad6b7169203331-{flags}", flags=sent)[0], TRACE)

    def test_lines_of_a_tracestate_are_one_list_and_two_parents_are_none(self):
        parent = f"traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"
        for lines, state, continued in ((parent + "tracestate: vendor=x\r\nTraceState: other=y\r\n", "vendor=x, other=y", True),
                                        (parent + parent + "tracestate: vendor=x\r\n", None, False)):
            body = harness.encode({"service": "hook", "items": [item(1, self.url("/ok"))]})
            head = rawhttp.head(Content_Type="application/json", Content_Length=len(body), Connection="close")
            rawhttp.exchange(self.settled.port, head[:-2] + lines.encode() + b"\r\n" + body)
            entry, = self.down.ledger()
            self.down.clear()
            self.assertEqual((self.headers(entry).get("tracestate"), entry["traceparent"].split("-")[1] == TRACE), (state, continued))

    def test_a_trace_is_started_where_none_is_given_or_it_is_wrong(self):
        seen = set()
        for wrong in (None, "", "x", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-b7ad6b7169203331-01",
                      f"00-{TRACE.upper()}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331-01-x", f"00-{TRACE}-b7ad6b7169203331"):
            trace = self.traces(wrong)[0]
            self.assertNotEqual(trace, TRACE)
            self.assertNotIn(trace, seen)
            seen.add(trace)


class Limits(Case):
    """What a service has of its own."""

    config = {"services": {
        "webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]},
        "two": {"kind": "webhook", "allow": ["127.0.0.0/8"], "max_in_flight": 2},
        "quick": {"kind": "webhook", "allow": ["127.0.0.0/8"], "attempt_timeout_ms": 60},
        "small": {"kind": "webhook", "allow": ["127.0.0.0/8"], "max_payload_bytes": 10},
        "refuses": {"kind": "webhook", "allow": ["127.0.0.0/8"], "refuses_with": [503]}}}

    def test_a_payload_over_the_services_own_limit_is_not_sent(self):
        answer = self.settled.post({"service": "small", "items": [item(1, self.url("/ok"), payload="x" * 9),
                                                                  item(2, self.url("/ok"), payload="x" * 8),
                                                                  item(3, self.url("/ok"), payload="x" * 9, service="webhook")]})
        result = answer.results["i1"]
        self.assertEqual((result["status"], result["error"]["code"], result["attempts"], result["stop"], result["delivered"],
                          result["retryable"]), ("failed", "payload_too_large", 0, "not_retryable", "no", False))
        self.assertEqual([answer.results[i]["status"] for i in ("i2", "i3")], ["succeeded", "succeeded"])
        self.assertEqual(len(self.down.ledger()), 2)

    def test_validation_alone_names_the_service_whose_limit_it_is(self):
        batch = {"service": "small", "items": [item(1, self.url("/ok"), payload="x" * 8), item(2, self.url("/ok"), payload="x" * 9),
                                               item(3, self.url("/ok"), payload="x" * 9, service="webhook")]}
        for contract in ("all_or_nothing", "partial_success", "best_effort"):
            answer = self.settled.post({"validate_only": True, "contract": contract, **batch})
            self.assertEqual((answer.status, answer.json["errors"]), (422, [
                {"pointer": "#/items/1/payload", "item_id": "i2", "code": "length",
                 "detail": 'the payload has 11 bytes; the service "small" takes at most 10'}]))
        self.assertEqual(self.down.ledger(), [])

    def test_the_services_timeout_holds_unless_the_batch_has_one(self):
        once = {"retry": {"max_attempts": 1}}
        result = self.settled.post({"service": "quick", "items": [item(1, self.url("/hang"))], **once}).results["i1"]
        self.assertEqual((result["error"]["code"], result["stop"]), ("timeout", "max_attempts"))
        answer = self.settled.post({"service": "quick", "attempt_timeout_ms": 20000, "items": [item(1, self.url("/ok?wait_ms=200"))], **once})
        self.assertEqual(answer.status, 200)

    def test_refuses_with_makes_503_a_no(self):
        for service, delivered, status in (("refuses", "no", "failed"), ("webhook", "maybe", "indeterminate")):
            result = self.settled.post({"service": service, "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1},
                                        "items": [item(1, self.url("/down"))]}).results["i1"]
            self.assertEqual((result["error"]["code"], result["delivered"], result["status"], result["retryable"], result["attempts"]),
                             ("unavailable", delivered, status, True, 2))

    def test_at_most_once_repeats_what_was_refused(self):
        for service, attempts in (("refuses", 3), ("webhook", 1)):
            self.down.clear()
            result = self.settled.post({"service": service, "delivery": "at_most_once", "retry": {"max_attempts": 5, "base_ms": 1, "cap_ms": 1},
                                        "items": [item(1, self.url(f"/flaky?times=2&tag={service}"))]}).results["i1"]
            self.assertEqual((result["attempts"], len(self.down.ledger())), (attempts, attempts))

    def check_never_more_than_two(self, settled):
        self.down.clear()
        batch = {"service": "two", "items": [item(n, self.url("/ok?wait_ms=3")) for n in range(40)]}
        socks = [settled.start_post(batch, {"Connection": "close"}) for _ in range(3)]
        for sock in socks:
            with sock, sock.makefile("rb") as stream:
                self.assertIn(b'"outcome":"succeeded"', stream.read())
        self.assertEqual(self.down.stats()["max_in_flight"], 2)
        self.assertEqual(len(self.down.ledger()), 120)

    def test_never_more_than_max_in_flight_over_all_batches(self):
        self.check_never_more_than_two(self.settled)

    def test_nor_with_several_shards(self):
        settled = harness.Daemon({**self.config, "shards": 2})
        try:
            for _ in range(3):
                self.check_never_more_than_two(settled)
        finally:
            settled.stop()

    def test_one_slow_origin_does_not_hold_up_another(self):
        door = gate.Gate()
        sock = self.settled.start_post({"service": "two", "concurrency": 10, "items": [item(n, door.url) for n in range(5)]})
        first, second = door.take()[0], door.take()[0]
        self.assertEqual(self.settled.post({"service": "two", "items": [item(n, self.url("/ok")) for n in range(5)]}).status, 200)
        self.assertFalse(door.has_caller())
        for conn in (first, second, sock):
            conn.close()
        self.settled.wait_done("disconnected", self.log_start)
        door.close()


if __name__ == "__main__":
    harness.main()
