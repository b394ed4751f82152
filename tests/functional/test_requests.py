"""Requests that cannot be taken: each gets its problem document with every error
at once, nothing is sent downstream, and the next request is served."""

import http.client
import json

import harness
import rawhttp
from harness import item

JSON_TYPE = {"Content-Type": "application/json"}

BROKEN = [
    b"", b" ", b"\n\n", b"{", b"}", b"[", b"]", b"{]", b"[}", b'{"', b'{"a', b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,',
    b'{"a":1,}', b'{,}', b'{"a" 1}', b'{"a"::1}', b'{"a":1 "b":2}', b'{a:1}', b"{'a':1}", b'{1:1}', b'{null:1}',
    b'{"a":}', b'[1,]', b'[,1]', b'[1,,2]', b'[1 2]', b'[1:2]', b'{"a":1}}', b'{"a":1}{"a":1}', b'{"a":1} x',
    b'{"a":01}', b'{"a":-}', b'{"a":+1}', b'{"a":1.}', b'{"a":.5}', b'{"a":1e}', b'{"a":1e+}', b'{"a":0x1}',
    b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":True}', b'{"a":nul}', b'{"a":tru}', b'{"a":undefined}',
    b'{"a":"\n"}', b'{"a":"\t"}', b'{"a":"\x00"}', b'{"a":"\x1f"}', b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\\uzzzz"}',
    b'{"a":"\\ud800"}', b'{"a":"\\ud800\\u0041"}', b'{"a":"\\udc00"}', b'{"a":"\\"}', b'{"a":"\xff"}', b'{"a":"\xc0\xaf"}',
    b'{"a":"\xed\xa0\x80"}', b'{"a":"\xf4\x90\x80\x80"}', b'{"a":"\xe2\x82"}', b'\xef\xbb\xbf{}', b'{"a":1/*x*/}',
    b'{"a":1//x\n}', b'\xff\xfe{\x00}\x00', b'{\x00}', b'{"a":1}\x00', b'{"a":\x0c1}', b'{"a":\xc2\xa01}', b"nul", b"'a'",
    b"[" * 100000, b'{"a":' * 100000, b'{"items":[{"id":"a","to":"b"},{"id":"c"',
]

BATCH_TYPES = {
    "contract": [1, None, [], {}, True], "order": [1, None, [], {}], "concurrency": ["1", 1.5, None, [], {}, True],
    "priority": ["1", 5.0, None, [], {}, True], "deadline_ms": ["1", 1.0, None, [], {}], "attempt_timeout_ms": ["1", 0.5, None, []],
    "delivery": [0, None, [], {}], "retry": [1, "x", None, [], True], "on_disconnect": [0, None, [], {}],
    "include": [1, "attempts", None, {}], "validate_only": [0, 1, "true", None, [], {}],
    "metadata": [1, "x", None, [], True], "service": [1, None, [], {}], "items": [1, "x", None, {}, True],
    "retry/max_attempts": ["3", 2.5, None, []], "retry/base_ms": ["3", 1e3, None], "retry/cap_ms": ["3", None, {}],
    "metadata/a": [1, None, [], {}, True], "include/0": [1, None, [], {}],
}
ITEM_TYPES = {
    "id": [1, None, [], {}, True], "to": [1, None, [], {}, False], "service": [1, None, [], {}],
    "dedupe_key": [1, None, [], {}], "ttl_ms": ["1", 1.5, None, [], {}],
}
RANGES = {
    "concurrency": [0, -1, 1025, 10**30], "priority": [-1, 10, 10**30], "deadline_ms": [0, -1, 604800001, 2**63, 2**64], "attempt_timeout_ms": [0, -5, 3600001],
    "retry/max_attempts": [0, 21, -1], "retry/base_ms": [-1, 3600001], "retry/cap_ms": [-1, 86400001],
    "items/0/ttl_ms": [0, -1, 604800001],
}
ENUMS = {"contract": ["", "Best_effort", "all_or_nothing ", "x"], "order": ["random", ""], "delivery": ["exactly_once"],
         "on_disconnect": ["ignore"], "include/0": ["results", ""]}


def put(batch, path, value):
    """Set what the pointer `path` names, making what is on the way."""
    *way, last = path.split("/")
    for part in way:
        if isinstance(batch, list):
            batch = batch[int(part)]
        else:
            batch = batch.setdefault(part, [None] if part == "include" else {})
    if isinstance(batch, list):
        batch[int(last)] = value
    else:
        batch[last] = value


class Case(harness.Case):
    def refused(self, answer, status, code):
        """It is the problem, whole; nothing went out; the next request is served."""
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json", answer.body)
        problem = answer.json
        self.assertEqual((answer.status, problem["status"], problem["code"]), (status, status, code), problem)
        self.assertIn("title", problem)
        self.assertEqual(self.down.ledger(), [])
        self.serves()
        return problem

    def taken(self, answer):
        self.assertEqual(answer.status, 200, answer.body)
        self.down.clear()
        return answer

    def serves(self):
        self.taken(self.settled.post({"items": [item(1, self.url("/ok"))]}))

    def invalid(self, batch, *errors, headers=None):
        """Refused with exactly these (pointer, code)."""
        problem = self.refused(self.settled.post(batch, headers), 422, "validation_failed")
        self.assertEqual([(e["pointer"], e["code"]) for e in problem["errors"]], list(errors), batch)
        self.assertEqual(problem["error_count"], len(errors))
        for error in problem["errors"]:
            self.assertTrue(error["detail"])
        return problem

    def batch(self, path=None, value=None):
        batch = {"service": "webhook", "items": [item(1, self.url("/ok"))]}
        if path is not None:
            put(batch, path, value)
        return batch


class Json(Case):
    def test_broken_json_says_where(self):
        for body in BROKEN:
            with self.subTest(body=body[:40]):
                problem = self.refused(self.settled.ask("POST", "/v1/batches", body, JSON_TYPE), 400, "malformed_json")
                self.assertRegex(problem["detail"], "line [0-9]+, column [0-9]+|body is empty")

    def test_every_truncation_is_refused_on_a_kept_connection(self):
        body = harness.encode({"metadata": {"a": "\\\"\u20ac"}, "retry": {"max_attempts": 3}, "validate_only": False,
                               "items": [item(1, self.url("/ok"), ttl_ms=1000)]})
        conn = http.client.HTTPConnection("127.0.0.1", self.settled.port, timeout=harness.LIMIT_S)
        for n in range(len(body)):
            conn.request("POST", "/v1/batches", body[:n], JSON_TYPE)
            answer = conn.getresponse()
            self.assertEqual((answer.status, json.loads(answer.read())["code"]), (400, "malformed_json"), body[:n])
        self.assertEqual(self.down.ledger(), [])
        conn.request("POST", "/v1/batches", body, JSON_TYPE)
        self.assertEqual(conn.getresponse().status, 200)
        conn.close()

    def test_the_whole_body_has_to_be_an_object(self):
        for body in (b"[]", b"1", b'"x"', b"null", b"true", b" [1, {}] "):
            self.invalid(body, ("#", "type"))

    def test_wrong_types_are_named_by_pointer(self):
        for path, values in BATCH_TYPES.items():
            for value in values:
                with self.subTest(path=path, value=value):
                    self.invalid(self.batch(path, value), ("#/" + path, "type"))
        for path, values in ITEM_TYPES.items():
            for value in values:
                with self.subTest(path=path, value=value):
                    self.invalid(self.batch("items/0/" + path, value), (f"#/items/0/{path}", "type"))
        for value in (1, "x", None, [], True):
            self.invalid(self.batch("items/0", value), ("#/items/0", "type"))

    def test_numbers_out_of_range_and_words_not_in_the_list(self):
        for table, code in ((RANGES, "range"), (ENUMS, "enum")):
            for path, values in table.items():
                for value in values:
                    with self.subTest(path=path, value=value):
                        self.invalid(self.batch(path, value), ("#/" + path, code))


class Validation(Case):
    def test_unknown_fields_are_errors_with_a_suggestion(self):
        problem = self.invalid(self.batch("contrct", "best_effort"), ("#/contrct", "unknown_field"))
        self.assertIn('"contract"', problem["errors"][0]["detail"])
        self.invalid(self.batch("items/0/payloads", {}), ("#/items/0/payloads", "unknown_field"))
        self.invalid(self.batch("retry/times", 3), ("#/retry/times", "unknown_field"))
        self.invalid(self.batch("a~b", 1), ("#/a~0b", "unknown_field"))

    def test_duplicate_keys_and_ids_are_errors(self):
        to = self.url("/ok").encode()
        self.invalid(b'{"service":"webhook","contract":"best_effort","contract":"all_or_nothing",'
                     b'"items":[{"id":"a","to":"%s","payload":1}]}' % to, ("#/contract", "duplicate_key"))
        self.invalid(b'{"service":"webhook","items":[{"id":"a","to":"%s","\\u0074o":"x","payload":1}]}' % to,
                     ("#/items/0/to", "duplicate_key"))
        problem = self.invalid({"items": [{**item(n, self.url("/ok")), "id": name} for n, name in enumerate("abab")]},
                               ("#/items/2/id", "duplicate_id"), ("#/items/3/id", "duplicate_id"))
        self.assertEqual([e["item_id"] for e in problem["errors"]], ["a", "b"])

    def test_a_payload_may_hold_what_a_batch_may_not(self):
        body = (b'{"service":"webhook","items":[{"id":"a","to":"%s","payload":{"id":1,"contract":null,"x":[1e999,-0]}}]}'
                % self.url("/ok").encode())
        self.taken(self.settled.post(body))

    def test_what_is_required_and_what_contradicts(self):
        self.invalid(b'{"service":"webhook"}', ("#/items", "required"))
        self.invalid({"items": []}, ("#/items", "empty_batch"))
        self.invalid(b'{"items":[{}]}', *[(f"#/items/0/{f}", "required") for f in ("id", "to", "payload", "service")])
        problem = self.invalid(self.batch("service", "nobody"), ("#/service", "unknown_service"))
        self.assertEqual(problem["errors"][0]["detail"],
                         'no service has the name "nobody": the names are the keys under `services` in the configuration')
        self.invalid(self.batch("items/0/service", "nobody"), ("#/items/0/service", "unknown_service"))
        self.invalid({**self.batch("order", "sequential"), "concurrency": 2}, ("#/concurrency", "conflict"))
        self.taken(self.settled.post(self.batch("retry/base_ms", 5000)))

    def test_recipients_and_ids_have_a_form(self):
        for name in ("a b", "\u00e4", "a\u0000", "a\"b", "a{b}", "a%20"):
            self.invalid(self.batch("items/0/id", name), ("#/items/0/id", "format"))
        for to in ("user-1", "ftp://x/", "http://", "http:///x", "http://u:p@x/", "http://x/#f", "http://x:0/", "http://x:65536/",
                   "http://x /", "http://x\\@y/", "//x/", "http://[::1/", "http://x/\r\nHost: y", "http://x/\u00e4", "a\u0000b"):
            self.invalid(self.batch("items/0/to", to), ("#/items/0/to", "format"))
        for key in ("a b", "a\r\nX: y", "\u00e4", "a\u0000"):
            self.invalid(self.batch("items/0/dedupe_key", key), ("#/items/0/dedupe_key", "format"))
        for path in ("id", "to", "dedupe_key"):
            self.invalid(self.batch("items/0/" + path, ""), (f"#/items/0/{path}", "length"))

    def test_all_errors_come_at_once_in_order(self):
        self.invalid(
            b'{"contract":"x","concurrency":0,"nope":1,"retry":{"max_attempts":"a","wat":1},"metadata":{"a":1},'
            b'"items":[{"id":"a b","to":1,"payload":1,"x":2},3,{"id":"ok","to":"http://127.0.0.1/","payload":1}]}',
            ("#/contract", "enum"), ("#/concurrency", "range"), ("#/nope", "unknown_field"),
            ("#/retry/max_attempts", "type"), ("#/retry/wat", "unknown_field"), ("#/metadata/a", "type"),
            ("#/items/0/id", "format"), ("#/items/0/to", "type"), ("#/items/0/x", "unknown_field"),
            ("#/items/0/service", "required"), ("#/items/1", "type"), ("#/items/2/service", "required"))

    def test_a_hundred_errors_are_listed_and_all_are_counted(self):
        problem = self.refused(self.settled.post({"items": [{**item(n, "not a url"), "zzzzzz": n} for n in range(150)]}),
                               422, "validation_failed")
        self.assertEqual((problem["error_count"], len(problem["errors"])), (300, 100))
        self.assertIn("300 errors", problem["detail"])

    def test_validate_only_checks_everything_and_sends_nothing(self):
        answer = self.settled.post({"validate_only": True, "items": [item(n, self.url("/ok")) for n in range(7)]})
        self.assertEqual((answer.status, answer.json), (200, {"valid": True, "items": 7}))
        for contract in ("all_or_nothing", "partial_success", "best_effort"):
            self.invalid({"validate_only": True, "contract": contract, "items": [item(1, self.url("/ok")), item(2, "x")]},
                         ("#/items/1/to", "format"))
        self.assertEqual(self.down.ledger(), [])


class Limits(Case):
    config = {"limits": {"items": 10, "body_bytes": 6000, "payload_bytes": 100, "json_depth": 8}}

    def test_items(self):
        items = [item(n, self.url("/ok")) for n in range(11)]
        self.invalid({"items": items}, ("#/items", "too_many_items"))
        self.taken(self.settled.post({"items": items[:10]}))

    def test_a_body_by_its_length(self):
        # Announced alone, it is refused before it is sent.
        for body, length in ((b"{", 6001), (b"", 2**40), (b"{" + b" " * 6000, 6001)):
            conn = http.client.HTTPConnection("127.0.0.1", self.settled.port, timeout=harness.LIMIT_S)
            conn.request("POST", "/v1/batches", body, {**JSON_TYPE, "Content-Length": str(length)})
            answer = conn.getresponse()
            self.refused(harness.Answer(answer.status, answer.headers, answer.read()), 413, "body_too_large")
            conn.close()

    def test_a_body_in_chunks(self):
        def chunks(n):
            yield b'{"items":'
            for _ in range(n):
                yield b" " * 1000

        for n in (6, 50):
            self.refused(self.settled.ask("POST", "/v1/batches", chunks(n), JSON_TYPE), 413, "body_too_large")
        body = harness.encode(self.batch())
        body += b" " * (6000 - len(body))
        self.taken(self.settled.ask("POST", "/v1/batches", iter([body[:3000], body[3000:]]), JSON_TYPE))

    def test_a_payload(self):
        self.invalid(self.batch("items/0/payload", "x" * 99), ("#/items/0/payload", "length"))
        self.invalid(self.batch("payload", "x" * 99), ("#/payload", "length"))
        self.taken(self.settled.post(self.batch("items/0/payload", "x" * 98)))

    def test_depth(self):
        def nested(n):
            return self.settled.post(b'{"service":"webhook","items":[{"id":"a","to":"%s","payload":%s%s}]}'
                                     % (self.url("/ok").encode(), b"[" * n, b"]" * n))

        problem = self.refused(nested(6), 400, "malformed_json")
        self.assertIn("the depth limit is 8", problem["detail"])
        self.taken(nested(5))

    def test_metadata(self):
        self.invalid(self.batch("metadata", {str(n): "" for n in range(17)}), ("#/metadata", "length"))
        self.invalid(self.batch("metadata", {"a": "x" * 1017}), ("#/metadata", "length"))
        for fits in ({str(n): "" for n in range(16)}, {"a": "x" * 1016}):
            answer = self.taken(self.settled.post(self.batch("metadata", fits)))
            self.assertEqual(answer.json["metadata"], fits)

    def test_strings(self):
        for path, most in (("id", 128), ("to", 2048), ("dedupe_key", 255)):
            start = self.url("/ok?tag=") if path == "to" else ""
            self.invalid(self.batch("items/0/" + path, start + "x" * (most + 1 - len(start))), (f"#/items/0/{path}", "length"))
            self.taken(self.settled.post(self.batch("items/0/" + path, start + "x" * (most - len(start)))))


class Headers(Case):
    def post(self, **headers):
        return self.settled.ask("POST", "/v1/batches", harness.encode(self.batch()),
                                {k.replace("_", "-"): v for k, v in headers.items()})

    def test_the_content_type_is_json(self):
        for kind in (None, "", "text/plain", "application/jsonx", "application/x-www-form-urlencoded", "json", "*/*",
                     "application/problem+json", "application/x-ndjson", "; application/json"):
            answer = self.post() if kind is None else self.post(Content_Type=kind)
            self.refused(answer, 415, "unsupported_media_type")
        for kind in ("application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8"):
            self.taken(self.post(Content_Type=kind))

    def test_a_coded_body_is_refused(self):
        for coding in ("gzip", "deflate", "br", "identity", "x"):
            self.refused(self.post(Content_Type="application/json", Content_Encoding=coding), 415, "unsupported_media_type")

    def test_an_accept_that_cannot_be_met(self):
        for accept in ("text/html", "application/xml", "application/json;q=0", "image/*", "text/*, application/json; q=0.0"):
            self.refused(self.post(Content_Type="application/json", Accept=accept), 406, "not_acceptable")
        for accept in ("*/*", "application/*", "application/json", "text/html, */*;q=0.1", "application/json;q=0.001"):
            self.taken(self.post(Content_Type="application/json", Accept=accept))

    def test_lines_of_an_accept_are_one_list(self):
        batch = harness.encode(self.batch())
        done = self.taken(self.settled.post(batch)).headers["Location"]
        for method, path, body, types in (("POST", "/v1/batches", batch, ("application/json", "application/x-ndjson")),
                                          ("GET", done + "/results", b"", ("application/json", "application/x-ndjson")),
                                          ("GET", done + "/events", b"", ("text/event-stream",))):
            for wanted in types:
                head = rawhttp.head(method, path, Content_Type="application/json", Content_Length=len(body), Connection="close")
                lines = f"Accept: text/html\r\nACCEPT: image/png, {wanted}\r\n\r\n".encode()
                answer, = rawhttp.exchange(self.settled.port, head[:-2] + lines + body)
                self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, wanted), path)

    def test_what_is_no_idempotency_key_is_refused_with_the_reason(self):
        for key in ("", '""', '"abc', '"a"b"', '"a";p=1', "k" * 256, "a\tb"):
            problem = self.refused(self.post(Content_Type="application/json", Idempotency_Key=key), 400, "malformed_request")
            self.assertIn("Idempotency-Key", problem["detail"])

    def test_an_expectation_does_not_hang(self):
        for expect in ("100-continue", "200-ok", "x" * 100):
            self.taken(self.post(Content_Type="application/json", Expect=expect))


class Routes(Case):
    def ask(self, method, path):
        return self.settled.ask(method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None, JSON_TYPE)

    def test_unknown_paths(self):
        for path in ("/", "/v1", "/v1/", "/v1/batches/", "/v1/batchesx", "/V1/batches", "/v1/batches/x/y", "/livez/", "//livez",
                     "/%2e%2e/livez", "/v1/batches/b_01JD0000000000000000000000/nothing", "/metrics.json", "/" + "a" * 4000):
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
                with self.subTest(method=method, path=path[:40]):
                    self.refused(self.ask(method, path), 404, "not_found")

    def test_unknown_batches(self):
        for name in ("x", "b_", "b_01JD0000000000000000000000", "b_" + "Z" * 26, "b_" + "0" * 26, "..", "%20", "a" * 3000):
            with self.subTest(name=name[:40]):
                self.refused(self.ask("GET", "/v1/batches/" + name), 404, "not_found")
                self.refused(self.ask("DELETE", "/v1/batches/" + name), 404, "not_found")
                self.refused(self.ask("POST", f"/v1/batches/{name}/cancel"), 404, "not_found")
                self.refused(self.ask("POST", f"/v1/batches/{name}/retry"), 404, "not_found")

    def test_wrong_methods_say_which_are_right(self):
        for path, allow in (("/v1/batches", "POST, GET, HEAD"), ("/livez", "GET, HEAD"), ("/readyz", "GET, HEAD"), ("/metrics", "GET, HEAD"),
                            ("/openapi.json", "GET, HEAD"), ("/v1/batches/x", "GET, HEAD, DELETE"),
                            ("/v1/batches/x/cancel", "POST"), ("/v1/batches/x/retry", "POST")):
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "BREW"):
                if method in allow:
                    continue
                with self.subTest(method=method, path=path):
                    answer = self.ask(method, path)
                    self.refused(answer, 405, "method_not_allowed")
                    self.assertEqual(answer.headers["Allow"], allow)

    def test_head_is_get_without_the_body(self):
        batch = self.settled.post({"items": [item(1, self.url("/ok"))]}).headers["Location"]
        for path in ("/livez", "/readyz", "/openapi.json", "/v1/batches", "/v1/services", batch, batch + "/results", "/nowhere", "/v1/batches/x"):
            get, head = self.settled.ask("GET", path), self.settled.ask("HEAD", path)
            self.assertEqual((head.status, head.body), (get.status, b""), path)
            for name in ("Content-Type", "Content-Length", "Batch-Id", "Batch-Outcome"):
                self.assertEqual(head.headers[name], get.headers[name], (path, name))
        self.taken(self.settled.ask("HEAD", "/metrics"))
        head = self.settled.ask("HEAD", "/v1/batches/x/cancel")
        self.assertEqual((head.status, head.headers["Allow"], head.body), (405, "POST", b""))

    def test_a_body_where_none_is_wanted(self):
        answer = self.settled.ask("GET", "/livez", b"{}")
        self.refused(answer, 413, "body_too_large")


class Uploads(harness.Case):
    def test_an_answer_without_a_route_survives_a_large_upload(self):
        """The body is on its way: a connection closed on unread bytes would lose the answer."""
        for path, status, code in (("/nothing", 404, "not_found"), ("/livez", 405, "method_not_allowed")):
            for _ in range(5):
                answer = self.settled.ask("POST", path, b" " * (4 << 20), JSON_TYPE)
                self.assertEqual((answer.status, answer.json["code"]), (status, code))


if __name__ == "__main__":
    harness.main()
