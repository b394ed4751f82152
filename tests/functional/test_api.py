"""The API's description is true: its examples are accepted, and every answer,
stream line and problem fits its schema."""

import json
import re
import sys
from pathlib import Path

import harness
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
    config = {"services": {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}}

    def fits(self, schema, value):
        self.assertEqual(openapi.errors_of(DOC, {"$ref": f"#/components/schemas/{schema}"}, value), [], value)

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
                (self.settled.ask("GET", "/v1/batches"), "method_not_allowed")]:
            with self.subTest(code=code):
                self.assertEqual(answer.headers["Content-Type"].split(";")[0], "application/problem+json")
                self.fits("Problem", answer.json)
                self.assertEqual((answer.json["code"], answer.json["status"]), (code, answer.status))

    def test_probes_and_metrics_answer_as_described(self):
        for path in ("/v1/limits", "/livez", "/readyz", "/metrics", "/openapi.json"):
            with self.subTest(path=path):
                answer = self.settled.ask("GET", path)
                content = DOC["paths"][path]["get"]["responses"]["200"]["content"]
                self.assertEqual(answer.status, 200)
                kind = re.split("; *", answer.headers["Content-Type"])[0]
                self.assertIn(kind, content)
                if kind == "application/json":
                    self.assertEqual(openapi.errors_of(DOC, content[kind]["schema"], answer.json), [])

    def test_the_limits_in_force_are_those_of_the_example(self):
        content = DOC["paths"]["/v1/limits"]["get"]["responses"]["200"]["content"]["application/json"]
        self.assertEqual(self.settled.ask("GET", "/v1/limits").json, content["examples"]["defaults"]["value"])

    def test_the_description_is_served_with_its_examples(self):
        want = embed.with_examples(DOC, ROOT / "api")
        self.assertEqual(self.settled.ask("GET", "/openapi.json").json, want)


if __name__ == "__main__":
    harness.main()
