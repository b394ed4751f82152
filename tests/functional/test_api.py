"""The API's description is true: its examples are accepted, and every answer,
stream line and problem fits its schema."""

import json
import re
import sys
import urllib.parse
from pathlib import Path

import harness
import rawhttp
from harness import item

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lint"))
sys.path.insert(0, str(ROOT / "api"))

import embed
import openapi

DOC = openapi.load(ROOT)
NDJSON = {"Accept": "application/x-ndjson"}
UNKNOWN = "/v1/batches/b_01JD0000000000000000000000"


def example(name):
    return (ROOT / "api/examples" / name).read_bytes()


class Api(harness.Case):
    # One service: the minimal example names none.
    config = {"services": {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}, "limits": {"deadline_ms": 30000, "drain_ms": 25000}}

    def fits(self, schema, value):
        self.assertEqual(openapi.errors_of(DOC, {"$ref": f"#/components/schemas/{schema}"}, value), [], value)

    def tells_the_batch(self, answer, response):
        for name in ("Location", "Batch-Id"):
            self.assertIn(name, answer.headers)
            self.assertIn(name, DOC["components"]["responses"][response]["headers"])

    def sent(self, name):
        """An example, with the downstream where it is in this test."""
        return example(name).replace(b"http://127.0.0.1:9090", self.down.url.encode())

    def settles(self, name, outcome):
        answer = self.settled.post(self.sent(name))
        self.assertEqual(answer.headers["Batch-Outcome"], outcome, answer.body)
        self.assertEqual(answer.status, 200 if outcome == "succeeded" else 207)
        self.fits("Batch", answer.json)
        again = self.settled.ask("GET", answer.headers["Location"])
        self.assertEqual((again.status, again.body), (200, answer.body))
        head = self.settled.ask("HEAD", answer.headers["Location"])
        self.assertEqual((head.status, head.body, head.headers["Batch-Id"]), (200, b"", answer.json["id"]))
        return answer.results

    def test_the_minimal_example_succeeds(self):
        self.settles("minimal.json", "succeeded")

    def test_the_example_of_all_or_nothing_succeeds(self):
        self.settles("all-or-nothing.json", "succeeded")

    def test_the_mixed_example_has_every_kind_of_result(self):
        results = self.settles("batch.json", "partial")
        self.assertEqual({name: r["status"] for name, r in results.items()},
                         {"success": "succeeded", "gone": "failed", "fails-twice-then-succeeds": "succeeded",
                          "hangs": "indeterminate", "own-payload": "succeeded"})
        self.assertEqual([len(r["attempt_log"]) for r in results.values()], [r["attempts"] for r in results.values()])
        body = next(e["body"] for e in self.down.ledger() if b"order" in e["body"] and b"amount" in e["body"])
        self.assertEqual(body, b'{"amount": 1.10, "order": 12345678901234567890}')

    def test_every_line_of_a_stream_fits(self):
        answer = self.settled.post(self.sent("all-or-nothing.json"), NDJSON)
        lines = [json.loads(line) for line in answer.body.splitlines()]
        self.assertEqual(len(lines), 3)
        for line in lines:
            self.fits("StreamLine", line)
        self.assertIn("batch", lines[-1])

    def test_invalid_items_are_results_under_best_effort(self):
        answer = self.settled.post({"contract": "best_effort", "items": [
            {"id": "no good"}, item(1, "not a url"), item(2, self.url("/ok"))]})
        self.assertEqual(answer.status, 207)
        self.fits("Batch", answer.json)

    def test_validation_alone_answers_valid(self):
        answer = self.settled.post({"validate_only": True, "items": [item(1, self.url("/ok"))]})
        self.fits("Valid", answer.json)
        self.assertEqual(self.down.ledger(), [])

    def test_problems_fit_and_carry_their_status(self):
        def post(body, headers):
            return self.settled.ask("POST", "/v1/batches", body, headers)

        json_type = {"Content-Type": "application/json"}
        for answer, code in [
                (post(b"{", json_type), "malformed_json"),
                (post(b'{"items": [{"id": "a b", "x": 1}, {"id": "a b"}], "contrakt": 1}', json_type),
                 "validation_failed"),
                (post(b"{}", {"Content-Type": "text/plain"}), "unsupported_media_type"),
                (post(example("minimal.json"), {**json_type, "Accept": "text/html"}), "not_acceptable"),
                (self.settled.ask("GET", UNKNOWN), "not_found"),
                (self.settled.ask("GET", "/nowhere"), "not_found"),
                (self.settled.ask("PUT", "/v1/batches"), "method_not_allowed"),
                (self.settled.ask("GET", "/v1/batches?limit=0"), "validation_failed"),
                (self.settled.ask("GET", UNKNOWN + "/events", headers={"Last-Event-ID": "x"}), "malformed_request"),
                (self.settled.ask("DELETE", UNKNOWN), "not_found")]:
            with self.subTest(code=code):
                self.assertEqual(answer.headers["Content-Type"].split(";")[0], "application/problem+json")
                self.fits("Problem", answer.json)
                self.assertEqual((answer.json["code"], answer.json["status"]), (code, answer.status))

    def test_the_example_of_a_problem_is_the_answer_to_its_request(self):
        content = DOC["components"]["responses"]["Invalid"]["content"]["application/problem+json"]
        shown = content["examples"]["validation"]
        answer = self.settled.ask("POST", "/v1/batches", json.dumps(shown["x-request"]), {"Content-Type": "application/json"})
        self.assertEqual((answer.status, answer.json), (422, json.loads((ROOT / "api" / shown["x-file"]).read_bytes())))

    def test_probes_and_metrics_answer_as_described(self):
        for path in ("/v1/limits", "/v1/services", "/v1/batches", "/livez", "/readyz", "/metrics", "/openapi.json"):
            with self.subTest(path=path):
                answer = self.settled.ask("GET", path)
                content = DOC["paths"][path]["get"]["responses"]["200"]["content"]
                self.assertEqual(answer.status, 200)
                kind = re.split("; *", answer.headers["Content-Type"])[0]
                self.assertIn(kind, content)
                if kind == "application/json":
                    self.assertEqual(openapi.errors_of(DOC, content[kind]["schema"], answer.json), [])

    def test_jobs_and_what_is_read_of_them_fit(self):
        batch = {"include": ["attempts"], "items": [item(n, self.url(p)) for n, p in enumerate(("/ok", "/gone", "/ok"))]}
        accepted = self.settled.post(batch, {"Prefer": "respond-async", "Idempotency-Key": "k"})
        self.assertEqual(accepted.status, 202)
        self.fits("BatchSummary", accepted.json)
        path = accepted.headers["Location"]
        done = self.settled.ask("GET", path, headers={"Prefer": "wait=30"})
        self.assertEqual((done.headers["Preference-Applied"], done.json["state"]), ("wait=30", "done"))
        self.fits("Batch", done.json)
        page = self.settled.ask("GET", path + "/results?limit=1")
        self.fits("ResultPage", page.json)
        self.fits("NextCursor", page.json["next_cursor"])
        for line in self.settled.ask("GET", path + "/results", headers=NDJSON).body.splitlines():
            self.fits("ItemResult", json.loads(line))
        self.fits("BatchList", self.settled.ask("GET", "/v1/batches?limit=1").json)
        replayed = self.settled.post(batch, {"Prefer": "respond-async", "Idempotency-Key": "k"})
        self.assertEqual((replayed.status, replayed.headers["Idempotent-Replayed"]), (207, "true"))
        self.fits("Batch", replayed.json)
        reused = self.settled.post({**batch, "order": "sequential"}, {"Idempotency-Key": "k"})
        self.assertEqual((reused.status, reused.json["code"]), (422, "key_reused"))
        self.fits("Problem", reused.json)
        self.tells_the_batch(reused, "Invalid")
        cancelled = self.settled.ask("POST", path + "/cancel")
        self.assertEqual(cancelled.status, 200)
        self.fits("Batch", cancelled.json)
        again = self.settled.ask("POST", path + "/retry", b'{"ids": ["i1"]}', {"Content-Type": "application/json"})
        self.assertEqual(again.status, 202, again.body)
        self.fits("BatchSummary", again.json)
        nothing = self.settled.ask("POST", path + "/retry", b'{"select": "safe"}', {"Content-Type": "application/json"})
        self.assertEqual((nothing.status, nothing.json["code"]), (422, "nothing_selected"))
        self.fits("Problem", nothing.json)
        self.tells_the_batch(nothing, "NothingSelected")
        self.assertEqual(self.settled.ask("DELETE", path).status, 204)

    def described(self, method, path, headers=None, body=None):
        """The answer; its status is described for this operation, and so is each header that is not every answer's."""
        answer = self.settled.ask(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        of = DOC["paths"][re.sub(r"b_[0-9A-Z]{26}", "{id}", path)][method.lower()]["responses"]
        self.assertIn(str(answer.status), of, path)
        own = set(answer.headers) - {"Date", "Connection", "Content-Type", "Content-Length", "Transfer-Encoding"}
        self.assertLessEqual(own, set(openapi.follow(DOC, of[str(answer.status)]).get("headers", {})), (method, path, answer.status))
        return answer

    def test_what_a_wish_or_a_key_changes_is_described(self):
        wait = {"Prefer": "wait=30"}
        batch = {"contract": "best_effort", "items": [item(0, self.url("/flaky?times=1&status=410")), item(1, self.url("/gone")), {"id": "i2"}]}
        path = self.settled.post(batch).headers["Location"]
        statuses = []
        for wanted in ("i0", "i1"):
            body = json.dumps({"ids": [wanted]}).encode()
            for headers in (wait, {"Idempotency-Key": wanted, **wait}, {"Idempotency-Key": wanted}):
                statuses.append(self.described("POST", path + "/retry", headers, body).status)
        self.assertEqual(statuses, [200] * 3 + [207] * 3)
        self.described("POST", path + "/retry", None, b'{"ids": ["i1"]}')
        for method, end in (("HEAD", ""), ("GET", ""), ("GET", "/events"), ("GET", "/results"), ("POST", "/cancel")):
            self.assertEqual(self.described(method, path + end, wait).status, 200)
        large = DOC["paths"]["/v1/limits"]["get"]["responses"]["200"]["content"]["application/json"]["examples"]["defaults"]
        self.assertEqual(self.described("POST", path + "/cancel", None, bytes(large["value"]["body_bytes"] + 1)).status, 413)

    def test_the_data_of_events_fits(self):
        batch = {"concurrency": 1, "items": [item(n, self.url("/slow?wait_ms=20")) for n in range(4)]}
        accepted = self.settled.post(batch, {"Prefer": "respond-async"})
        text = self.settled.ask("GET", accepted.headers["Location"] + "/events").body.decode()
        kinds = {"snapshot": "BatchSummary", "item": "ItemResult", "progress": "Progress", "done": "BatchSummary"}
        events = re.findall(r"event: (\w+)\nid: \d+\ndata: (.*)\n\n", text)
        self.assertEqual({name for name, _ in events}, set(kinds))
        for name, data in events:
            self.fits(kinds[name], json.loads(data))

    def test_the_example_of_a_wrong_query_is_the_answer_to_it(self):
        path = self.settled.post({"items": [item(1, self.url("/ok"))]}).headers["Location"]
        answer = self.settled.ask("GET", path + "/results?limit=1001")
        self.assertEqual((answer.status, answer.json), (422, json.loads(example("query-problem.json"))))

    def test_the_limits_in_force_are_those_of_the_example(self):
        content = DOC["paths"]["/v1/limits"]["get"]["responses"]["200"]["content"]["application/json"]
        self.assertEqual(self.settled.ask("GET", "/v1/limits").json, content["examples"]["defaults"]["value"])

    def test_what_is_no_http_is_refused_without_a_problem_document(self):
        for status, request in (
                (400, rawhttp.head("GET", "/livez").replace(b"Host:", b"Host")),
                (414, rawhttp.head("GET", "/" + "a" * 40000)), (431, rawhttp.head("GET", "/livez", X="a" * 40000)),
                (505, rawhttp.head("GET", "/livez").replace(b"HTTP/1.1", b"HTTP/2.0"))):
            with self.subTest(status=status):
                answer, = rawhttp.exchange(self.settled.port, request)
                self.assertEqual(answer.status, status)
                self.assertNotEqual(answer.headers["Content-Type"], "application/problem+json")

    def test_the_description_is_served_with_its_examples(self):
        want = embed.with_examples(DOC, ROOT / "api")
        self.assertEqual(self.settled.ask("GET", "/openapi.json").json, want)


def resolved(schema):
    """Without $ref, and with what its allOf says."""
    schema = openapi.follow(DOC, schema)
    for part in schema.get("allOf", []):
        schema = {**openapi.follow(DOC, part), **schema}
    return schema


def members(schema, path=()):
    """(path, schema) of a request and of everything in it that has a type."""
    schema = resolved(schema)
    yield path, schema
    for name, sub in schema.get("properties", {}).items():
        yield from members(sub, (*path, name))
    if "items" in schema:
        yield from members(schema["items"], (*path, 0))


def with_value(path, value):
    """A batch that is fine, but for what stands at `path`."""
    batch = node = {"validate_only": True, "service": "push", "payload": 1, "items": [{"id": "a", "to": "b"}]}
    for part, after in zip(path, path[1:]):
        if isinstance(node, dict):
            node.setdefault(part, [None] if after == 0 else {})
        node = node[part]
    node[path[-1]] = value
    return batch


def integer_samples(s):
    low, high = s["minimum"], s["maximum"]
    return [(low - 1, "range"), (low, None), (high, None), (high + 1, "range")]


def length_samples(char, low, high):
    return [(char * (low - 1), "length"), (char * low, None), (char * high, None), (char * (high + 1), "length")]


def text_samples(s):
    if "enum" in s:
        return [(word, None) for word in s["enum"]] + [("no such word", "enum")]
    if "pattern" in s:
        of, low, high = re.fullmatch(r"\^(\[.*\])\{(\d+),(\d+)\}\$", s["pattern"]).groups()
        chars = [chr(c) for c in range(128)] + ["\u00e9", "\u20ac"]
        return (length_samples(next(c for c in chars if re.match(of, c)), int(low), int(high))
                + [(c, None if re.match(of, c) else "format") for c in chars])
    return length_samples("x", s["minLength"], s["maxLength"])


def object_samples(s):
    known = [({}, None)] if not s.get("required") else []
    if "maxProperties" not in s:
        return known
    return known + [({str(n): "" for n in range(s["maxProperties"] + more)}, code) for more, code in ((0, None), (1, "length"))]


def array_samples(s):
    words = resolved(s["items"]).get("enum", [])
    if "maxItems" not in s:
        return [([], None), (words, None), (words * 2, None)]
    return [([{"id": str(n), "to": "b"} for n in range(size)], code) for size, code in (
        (s["minItems"] - 1, "empty_batch"), (s["minItems"], None), (s["maxItems"], None), (s["maxItems"] + 1, "too_many_items"))]


SAMPLES = {"integer": integer_samples, "string": text_samples, "object": object_samples, "array": array_samples,
           "boolean": lambda s: [], None: lambda s: []}
REQUEST = {"$ref": "#/components/schemas/BatchRequest"}
# Any text has the schema's leave; the daemon looks it up.
NAMES = [("service",), ("items", 0, "service")]


class Bounds(harness.Case):
    """Samples made from the request's schema: each bound and what is just beyond it."""

    def judge(self, path, batch, code):
        answer = self.settled.post(batch)
        found = [(e["pointer"], e["code"]) for e in answer.json.get("errors", [])]
        self.assertEqual((answer.status, found), (422, [("#/" + "/".join(map(str, path)), code)]) if code else (200, []))
        if len(batch.get("items", [])) < 1000:
            self.assertEqual(openapi.errors_of(DOC, REQUEST, batch) == [], code is None, batch)

    def test_each_bound_is_the_daemons(self):
        kinds = {}
        for path, schema in members(REQUEST):
            if not path or path == ("items", 0) or path in NAMES:
                continue
            for value, code in SAMPLES[schema.get("type")](schema):
                with self.subTest(path=path, value=str(value)[:60], code=code):
                    self.judge(path, with_value(path, value), code)
                    kinds[code] = kinds.get(code, 0) + 1
        self.assertEqual(set(kinds), {None, "range", "length", "format", "enum", "empty_batch", "too_many_items"})
        self.assertGreater(sum(kinds.values()), 300)
        self.assertEqual(self.down.ledger(), [])

    def test_no_field_is_missing_and_none_is_too_many(self):
        for path, schema in members(REQUEST):
            if "properties" not in schema:
                continue
            with self.subTest(path=path):
                batch = with_value((*path, "no-such-name"), 1)
                self.judge((*path, "no-such-name"), batch, "unknown_field")
                detail = self.settled.post(batch).json["errors"][0]["detail"]
                self.assertEqual(set(detail.split("the fields here are ")[1].split(", ")), set(schema["properties"]))

    def test_what_is_required_is_required_and_nothing_else(self):
        for path, schema in members(REQUEST):
            if schema.get("type") != "object":
                continue
            with self.subTest(path=path):
                answer = self.settled.post(with_value(path, {}) if path else {"validate_only": True})
                self.assertEqual({(e["pointer"], e["code"]) for e in answer.json.get("errors", [])},
                                 {("#/" + "/".join(map(str, (*path, name))), "required") for name in schema.get("required", [])})

    def test_the_words_that_are_listed_are_all(self):
        for path, schema in members(REQUEST):
            if "enum" not in schema:
                continue
            with self.subTest(path=path):
                detail = self.settled.post(with_value(path, "no such word")).json["errors"][0]["detail"]
                self.assertEqual(set(detail.split("is not one of: ")[1].split(", ")), set(schema["enum"]))


def query_samples(schema):
    schema = resolved(schema)
    if schema["type"] == "array":
        words = resolved(schema["items"])["enum"]
        return [(w, None) for w in (words[0], ",".join(words))] + [("no such word", "enum"), (words[0] + ",", "enum")]
    if schema["type"] == "integer":
        return integer_samples(schema) + [("x", "type"), ("", "type"), ("+1", "type")]
    # U+0000 is no text of a target.
    return [(text, code) for text, code in text_samples(schema) if "\0" not in text]


# What a cursor is made of is the daemon's alone.
QUERY_PARAMETERS = [(path, p) for path, method, about, op in openapi.operations(DOC) if method == "get"
                    for p in (openapi.follow(DOC, p) for p in op.get("parameters", [])) if p["in"] == "query" and p["name"] != "cursor"]


class Queries(harness.Case):
    """The same for the parameters of queries."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.batch_id = cls.settled.post({"items": [item(1, cls.down.url + "/ok")]}).headers["Batch-Id"]

    def ask(self, path, query, headers=None):
        answer = self.settled.ask("GET", f"{path.replace('{id}', self.batch_id)}?{query}", headers=headers or {})
        return answer.status, [] if answer.status == 200 else [(e["pointer"], e["code"]) for e in answer.json["errors"]]

    def test_each_bound_is_the_daemons(self):
        kinds = set()
        for path, param in QUERY_PARAMETERS:
            for value, code in query_samples(param["schema"]):
                with self.subTest(path=path, name=param["name"], value=str(value)[:60]):
                    kinds.add(code)
                    query = f"{param['name']}={urllib.parse.quote(str(value), safe='')}"
                    want = (422, [("#/query/" + param["name"], code)]) if code else (200, [])
                    self.assertEqual(self.ask(path, query), want)
        self.assertEqual(kinds, {None, "range", "type", "enum", "length", "format"})
        self.assertEqual(len(QUERY_PARAMETERS), 6)

    def test_every_parameter_is_known_and_no_other(self):
        for path in ("/v1/batches", "/v1/batches/{id}/results", "/v1/batches/{id}/events", "/v1/services"):
            params = (openapi.follow(DOC, p) for p in DOC["paths"][path]["get"].get("parameters", []))
            names = [p["name"] for p in params if p["in"] == "query"]
            with self.subTest(path=path):
                status, found = self.ask(path, "&".join(f"{name}=%80" for name in [*names, "no-such-name"]))
                self.assertEqual((status, [pointer for pointer, code in found if code == "unknown_field"]),
                                 (422, ["#/query/no-such-name"]))
                self.assertEqual({pointer for pointer, _ in found}, {f"#/query/{name}" for name in [*names, "no-such-name"]})


if __name__ == "__main__":
    harness.main()
