"""What operators see: probes, metrics that agree with what was done, the API's
description, and log lines that machines can read."""

import hashlib
import json
import re
import sys
import unittest
from pathlib import Path

import yaml

import gate
import harness
import kit
from exposition import FAMILIES, Exposition
from harness import item

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "api"))
sys.path.insert(0, str(ROOT / "tests/lint"))

import embed
import openapi


class Case(harness.Case):
    def exposition(self):
        answer = self.settled.ask("GET", "/metrics")
        self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        return Exposition(answer.body.decode())


class Metrics(Case):
    def check_histogram(self, m, service, count):
        buckets = [(dict(ls)["le"], v) for (n, ls), v in m.samples.items()
                   if n == "settled_attempt_duration_seconds_bucket" and dict(ls)["service"] == service]
        bounds = [float(le) for le, _ in buckets]
        counts = [v for _, v in buckets]
        self.assertEqual(bounds, sorted(bounds))
        self.assertEqual(buckets[-1][0], "+Inf")
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], m.get("settled_attempt_duration_seconds_count", service=service))
        self.assertEqual(counts[-1], count)
        self.assertEqual(m.get("settled_attempt_duration_seconds_sum", service=service) > 0, count > 0)

    def test_it_is_the_text_format_with_every_family(self):
        m = self.exposition()
        self.assertEqual(m.types, FAMILIES)
        self.assertEqual(set(m.help), set(FAMILIES))
        for family, kind in FAMILIES.items():
            self.assertEqual(family.endswith("_total"), kind == "counter", family)

    def test_counters_start_at_zero_so_that_rates_exist(self):
        m = self.exposition()
        for name, label, values in (("settled_batches_total", "outcome", ("succeeded", "partial", "indeterminate", "failed")),
                                    ("settled_aborts_total", "reason", ("disconnected", "deadline", "shutdown", "first_failure")),
                                    ("settled_requests_refused_total", "problem", ("malformed_json", "overloaded"))):
            for value in values:
                self.assertIn((name, ((label, value),)), m.samples)

    def test_the_numbers_are_what_was_done(self):
        before = self.exposition()
        self.settled.post({"items": [item(n, self.url("/ok")) for n in range(5)]})
        self.settled.post({"retry": {"max_attempts": 3, "base_ms": 1, "cap_ms": 1}, "attempt_timeout_ms": harness.GIVE_UP_MS, "items": [
            item(1, self.url("/ok")), item(2, self.url("/gone")), item(3, self.url("/flaky?times=2")), item(4, self.url("/hang"))]})
        self.settled.post({"items": [item(1, "ok", service="push"), item(2, "gone", service="push")]})
        self.settled.post({"contract": "all_or_nothing", "concurrency": 1,
                           "items": [item(1, self.url("/gone")), item(2, self.url("/ok"))]})
        self.settled.post({"contract": "best_effort", "items": [item(1, "not a url")]})
        self.settled.post({"deadline_ms": harness.GIVE_UP_MS, "items": [item(1, self.url("/hang"))]})
        self.settled.post({"items": []})
        self.settled.post(b"{")
        self.settled.ask("GET", "/nowhere")
        self.settled.ask("PUT", "/livez")
        after = self.exposition()

        def grew(name, **labels):
            return after.get(name, **labels) - before.get(name, **labels)

        self.assertEqual({o: grew("settled_batches_total", outcome=o) for o in ("succeeded", "partial", "indeterminate", "failed")},
                         {"succeeded": 1, "partial": 2, "indeterminate": 1, "failed": 2})
        self.assertEqual({r: grew("settled_aborts_total", reason=r) for r in ("first_failure", "deadline", "disconnected", "shutdown")},
                         {"first_failure": 1, "deadline": 1, "disconnected": 0, "shutdown": 0})
        self.assertEqual(
            {key: grew("settled_items_total", status=key[0], code=key[1]) for key in [
                ("succeeded", "ok"), ("failed", "recipient_gone"), ("indeterminate", "timeout"), ("not_attempted", "not_attempted"),
                ("failed", "invalid_item")]},
            {("succeeded", "ok"): 8, ("failed", "recipient_gone"): 3, ("indeterminate", "timeout"): 2,
             ("not_attempted", "not_attempted"): 1, ("failed", "invalid_item"): 1})
        self.assertEqual(after.sum("settled_items_total") - before.sum("settled_items_total"), 15)
        self.assertEqual(
            {key: grew("settled_attempts_total", service=key[0], code=key[1]) for key in [
                ("webhook", "ok"), ("webhook", "recipient_gone"), ("webhook", "unavailable"), ("webhook", "timeout"),
                ("push", "ok"), ("push", "recipient_gone")]},
            {("webhook", "ok"): 7, ("webhook", "recipient_gone"): 2, ("webhook", "unavailable"): 2, ("webhook", "timeout"): 4,
             ("push", "ok"): 1, ("push", "recipient_gone"): 1})
        for service in ("webhook", "push"):
            self.check_histogram(after, service, after.sum("settled_attempts_total", service=service))
        self.assertEqual({p: grew("settled_requests_refused_total", problem=p)
                          for p in ("validation_failed", "malformed_json", "not_found", "method_not_allowed", "internal")},
                         {"validation_failed": 1, "malformed_json": 1, "not_found": 1, "method_not_allowed": 1, "internal": 0})
        self.assertEqual(after.sum("settled_attempts_total") - before.sum("settled_attempts_total"), len(self.down.ledger()))

    def gauges(self):
        m = self.exposition()
        return {"in_flight": m.get("settled_attempts_in_flight", service="webhook"), "queued": m.get("settled_items_queued"),
                "parked": m.get("settled_requests_parked"), "other": m.get("settled_attempts_in_flight", service="push")}

    def test_gauges_rise_while_a_batch_hangs_and_fall_to_zero(self):
        zero = {"in_flight": 0, "queued": 0, "parked": 0, "other": 0}
        self.assertEqual(self.gauges(), zero)
        for version in ({}, {"Accept": "application/x-ndjson"}):
            self.down.clear()
            sock = self.settled.start_post({"concurrency": 3, "items": [item(n, self.url("/hang")) for n in range(10)]}, version)
            self.down.wait(requests=3)
            self.assertEqual(self.gauges(), {"in_flight": 3, "queued": 7, "parked": 1, "other": 0})
            sock.close()
            self.settled.wait_done("disconnected", self.log_start)
            self.down.wait(in_flight=0)
            kit.until(lambda: self.gauges() == zero, self.gauges)
            self.log_start = self.settled.mark()

    def test_a_disconnect_is_counted_once(self):
        before = self.exposition().get("settled_aborts_total", reason="disconnected")
        for _ in range(5):
            self.log_start = self.settled.mark()
            self.down.clear()
            sock = self.settled.start_post({"items": [item(1, self.url("/hang"))]})
            self.down.wait(requests=1)
            sock.close()
            self.settled.wait_done("disconnected", self.log_start)
        self.assertEqual(self.exposition().get("settled_aborts_total", reason="disconnected"), before + 5)


class Limits(harness.Case):
    config = {"limits": {"items": 3, "body_bytes": 5000, "payload_bytes": 70, "json_depth": 9, "keep_results_ms": 100000,
                         "results_bytes": 2**40, "drain_ms": 0, "deadline_ms": 2000, "max_deadline_ms": 4000}}

    def test_they_are_the_configured_ones_and_hold(self):
        answer = self.settled.ask("GET", "/v1/limits")
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"))
        limits = answer.json
        self.assertEqual({name: limits[name] for name in self.config["limits"]}, self.config["limits"])
        self.assertEqual((limits["answer_bytes"], limits["write_ms"]), (65536, 30000))
        for name, batch in (("items", {"items": [item(n, self.url("/ok")) for n in range(limits["items"] + 1)]}),
                            ("items/0/ttl_ms", {"items": [item(1, self.url("/ok"), ttl_ms=limits["max_deadline_ms"] + 1)]}),
                            ("deadline_ms", {"deadline_ms": limits["max_deadline_ms"] + 1, "items": [item(1, self.url("/ok"))]})):
            self.assertEqual(self.settled.post(batch).json["errors"][0]["pointer"], "#/" + name)

    def test_a_synchronous_batch_has_the_configured_deadline(self):
        answer = self.settled.post({"retry": {"max_attempts": 2}, "items": [item(1, self.url("/x?status=429&retry_after=3"))]})
        self.assertEqual(answer.json["results"][0]["stop"], "deadline")

    def test_other_methods_are_not_allowed(self):
        self.assertEqual(self.settled.ask("HEAD", "/v1/limits").status, 200)
        answer = self.settled.ask("POST", "/v1/limits", b"{}")
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"))


class Results(harness.Case):
    config = {"store": "memory", "limits": {"results_bytes": 20000}}

    def test_the_oldest_go_first_beyond_their_bytes(self):
        done = [self.settled.post({"items": [item(n, self.url("/ok")) for n in range(20)]}).headers["Location"] for _ in range(10)]
        kit.until(lambda: self.settled.ask("GET", done[0]).status == 404, "the oldest has gone")
        self.assertEqual(self.settled.ask("GET", done[-1]).status, 200)


class Shards(Case):
    config = {"shards": 3}

    def test_the_shards_are_one_process_to_the_outside(self):
        locations = []
        for n in range(30):
            answer = self.settled.post({"items": [item(n, self.url("/ok"))]})
            locations.append(answer.headers["Location"])
        def counted():
            m = self.exposition()
            return (m.get("settled_batches_total", outcome="succeeded"), m.get("settled_attempts_total", service="webhook", code="ok"),
                    m.get("settled_items_queued"), m.get("settled_requests_parked"))

        # A client may have its answer before the other shard has seen to the request's end.
        kit.until(lambda: counted() == (30, 30, 0, 0), counted)
        for location in locations:
            for _ in range(3):
                self.assertEqual(self.settled.ask("GET", location).json["outcome"], "succeeded")


class Probes(Case):
    def test_probes_answer_briefly_also_while_all_is_busy(self):
        door = gate.Gate()
        sock = self.settled.start_post({"items": [item(1, door.url)]})
        conn, _ = door.take()
        for path, state in (("/livez", "alive"), ("/readyz", "ready")):
            answer = self.settled.ask("GET", path)
            self.assertEqual((answer.status, answer.json), (200, {"status": state}))
        conn.sendall(gate.OK)
        self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 200"))
        sock.close()
        conn.close()
        door.close()

    def test_the_description_is_the_file_in_the_project(self):
        answer = self.settled.ask("GET", "/openapi.json")
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        doc = yaml.safe_load((ROOT / "api/openapi.yaml").read_text(encoding="utf-8"))
        self.assertEqual(answer.json, embed.with_examples(doc, ROOT / "api"))

    def test_the_description_is_sound(self):
        doc = self.settled.ask("GET", "/openapi.json").json
        for check in (openapi.check_references, openapi.check_document):
            self.assertEqual(check(ROOT, doc), [])

    def test_what_is_served_is_described(self):
        doc = self.settled.ask("GET", "/openapi.json").json
        for path, about in doc["paths"].items():
            answer = self.settled.ask("PATCH", path.replace("{id}", "x"))
            methods = {m.upper() for m in about if m in openapi.METHODS}
            self.assertEqual((answer.status, set(answer.headers["Allow"].split(", "))),
                             (405, methods | ({"HEAD"} if "GET" in methods else set())), path)


LOGFMT = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]*)(?: |$)')
WHEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


def parse_logfmt(line):
    fields, at = {}, 0
    while at < len(line):
        found = LOGFMT.match(line, at)
        if not found or found[1] in fields:
            raise AssertionError(f"not logfmt at {at}: {line}")
        fields[found[1]] = found[2]
        at = found.end()
    return fields


class Logs(unittest.TestCase):
    def lines(self, log_format):
        """The lines of a life with a batch of each kind, each parsed."""
        down = harness.Downstream()
        daemon = harness.Daemon({"log": {"format": log_format, "level": "debug"}}, down)
        ids = ["a.b_c:d@e/f+g-h", "x" * 128, "3", "4"]
        answer = daemon.post({"attempt_timeout_ms": harness.GIVE_UP_MS, "retry": {"max_attempts": 1}, "items": [
            {**item(0, down.url + "/ok"), "id": ids[0]}, {**item(1, down.url + "/gone"), "id": ids[1]},
            {**item(2, down.url + "/hang"), "id": ids[2]}, {**item(3, "ok", service="push"), "id": ids[3]}]})
        daemon.post({"contract": "best_effort", "items": [item(1, "bad \" url=\n\\")]})
        status = daemon.stop()
        down.stop()
        self.assertEqual(status, 0)
        parse = json.loads if log_format == "json" else parse_logfmt
        return answer.json["id"], ids, [parse(line) for line in daemon.lines if line is not None]

    def test_each_line_parses_and_names_its_batch_and_item(self):
        for log_format in ("logfmt", "json"):
            with self.subTest(log_format):
                batch, ids, lines = self.lines(log_format)
                for line in lines:
                    self.assertRegex(line["ts"], WHEN)
                    self.assertIn(line["level"], ("debug", "info", "warn", "error"))
                    self.assertTrue(line["event"])
                attempts = [line for line in lines if line["event"] == "attempt_done"]
                self.assertEqual({line["batch"] for line in attempts}, {batch})
                self.assertEqual(sorted((line["item"], line["code"]) for line in attempts),
                                 sorted(zip(ids, ("ok", "recipient_gone", "timeout", "ok"))))
                self.assertEqual({line["service"] for line in attempts}, {"webhook", "push"})
                done, _ = [line for line in lines if line["event"] == "batch_done"]
                self.assertEqual([str(done[f]) for f in ("batch", "outcome", "stop_reason", "items", "succeeded", "failed",
                                                         "indeterminate", "not_attempted", "attempts")],
                                 [batch, "partial", "completed", "4", "2", "1", "1", "0", "4"])
                self.assertEqual([line["event"] for line in lines if "draining" in line["event"] or "stopped" in line["event"]],
                                 ["draining", "stopped"])

    def test_a_batchs_line_says_whose_it_is_and_where_to_look_further(self):
        down = harness.Downstream()
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        key = hashlib.sha256(b"the-key").hexdigest()
        daemon = harness.Daemon({"auth": {"keys": [{"name": "till-3", "tenant": "shop", "sha256": key}]}}, down)
        wait = harness.ms(300)
        answer = daemon.post({"concurrency": 1, "attempt_timeout_ms": wait, "retry": {"max_attempts": 1},
                              "items": [item(1, down.url + "/hang"), item(2, down.url + "/ok")]},
                             {"Authorization": "Bearer the-key", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        self.assertEqual(answer.status, 207)
        done = daemon.wait_done()
        daemon.stop()
        down.stop()
        self.assertEqual({f: done[f] for f in ("tenant", "key", "trace", "priority")},
                         {"tenant": "shop", "key": "till-3", "trace": trace, "priority": "5"})
        # Nothing was before its first attempt, which hangs: that is no part of the wait.
        self.assertLessEqual(int(done["wait_ms"]) + wait, int(done["duration_ms"]) + 1)

    def test_the_level_is_the_least_that_is_written(self):
        for level, events in (("debug", {"listening", "attempt_done", "batch_done", "draining", "stopped"}),
                              ("info", {"listening", "batch_done", "draining", "stopped"})):
            down = harness.Downstream()
            daemon = harness.Daemon({"log": {"level": level}}, down)
            daemon.post({"items": [item(1, down.url + "/ok")]})
            daemon.stop()
            down.stop()
            self.assertEqual({parse_logfmt(line)["event"] for line in daemon.lines if line}, events)


if __name__ == "__main__":
    harness.main()
