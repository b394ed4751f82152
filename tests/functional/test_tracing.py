"""Spans: what a batch, a job and their attempts leave in a trace, which traces are
recorded, and that no collector disturbs anything."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

import certs
import gate
import harness
import kit
from collector import Collector
from exposition import Exposition
from harness import LIMIT_S, item

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "b7ad6b7169203331"


def header(flags="01", trace=TRACE):
    return {"traceparent": f"00-{trace}-{PARENT}-{flags}"}


class Case(unittest.TestCase):
    """Each test has a collector and a daemon of its own."""

    def setUp(self):
        self.down = harness.Downstream()
        self.addCleanup(self.down.stop)

    def start(self, collector=None, tracing=None, **config):
        if collector is not None:
            self.addCleanup(collector.close)
            tracing = {"endpoint": collector.url, **(tracing or {})}
        self.settled = harness.Daemon({**config, **({"tracing": tracing} if tracing else {})}, self.down)
        self.addCleanup(self.stop)
        return collector

    def stop(self):
        if self.settled is not None:
            status, text = self.settled.stop(), self.settled.text()
            self.settled = None
            self.assertEqual(status, 0, text)

    def url(self, path):
        return self.down.url + path

    def spans_total(self):
        m = Exposition(self.settled.ask("GET", "/metrics").body.decode())
        return {r: m.get("settled_spans_total", result=r) for r in ("exported", "dropped_full", "dropped_failed")}

    def sent_spans(self):
        """Trace, span id and item of each attempt as the downstream saw it."""
        return sorted(e["traceparent"].split("-")[1:3] + [e["path"]] for e in self.down.ledger())


class Tree(Case):
    def test_a_batch_is_a_tree_under_the_callers_span(self):
        c = self.start(Collector())
        before = time.time_ns()
        answer = self.settled.post({"retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1}, "items": [
            item(1, self.url("/ok")), item(2, self.url("/gone")), item(3, self.url("/flaky?times=1")),
            item(4, "ok", service="push")]}, header())
        spans = c.wait_spans(6)
        after = time.time_ns()
        self.assertEqual({s["trace"] for s in spans}, {TRACE})
        root, = [s for s in spans if s["kind"] == "server"]
        attempts = [s for s in spans if s["kind"] == "client"]
        self.assertEqual((root["parent"], root["name"], root["failed"]), (PARENT, "POST /v1/batches", False))
        self.assertEqual(root["attributes"], {
            "http.request.method": "POST", "http.route": "/v1/batches", "http.response.status_code": 207,
            "settled.batch.id": answer.json["id"], "settled.items": 4, "settled.batch.outcome": "partial",
            "settled.batch.stop_reason": "completed"})
        self.assertEqual((len(attempts), {s["parent"] for s in attempts}), (5, {root["id"]}))
        self.assertEqual(len({s["id"] for s in spans}), 6)
        self.assertEqual(sorted(s["id"] for s in attempts), sorted(span for _, span, _ in self.sent_spans()))
        # The daemon's wall clock tells whole milliseconds.
        ms = 1_000_000
        for s in attempts:
            self.assertLessEqual(root["start"], s["start"])
            self.assertLessEqual(s["start"], s["end"])
            self.assertLessEqual(s["end"], root["end"])
        self.assertTrue(before - 7 * ms <= root["start"] <= root["end"] <= after + 7 * ms)

    def test_an_attempt_says_what_was_asked_and_what_came(self):
        c = self.start(Collector())
        answer = self.settled.post({"retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1}, "items": [
            item(1, self.url("/flaky?times=1")), item(2, self.url("/reset")), item(3, "ok", service="push")]}, header())
        found = {(s["attributes"]["settled.item.id"], s["attributes"]["settled.attempt"]): s
                 for s in c.wait_spans(6) if s["kind"] == "client"}
        common = {"http.request.method": "POST", "server.address": "127.0.0.1", "server.port": self.down.port,
                  "settled.batch.id": answer.json["id"]}
        self.assertEqual(found["i1", 1]["attributes"], {
            **common, "settled.service": "webhook", "settled.item.id": "i1", "settled.attempt": 1, "settled.delivered": "maybe",
            "error.type": "503", "http.response.status_code": 503})
        self.assertEqual(found["i1", 2]["attributes"], {
            **common, "settled.service": "webhook", "settled.item.id": "i1", "settled.attempt": 2, "settled.delivered": "yes",
            "http.request.resend_count": 1, "http.response.status_code": 200})
        self.assertEqual(found["i3", 1]["attributes"], {
            **common, "settled.service": "push", "settled.item.id": "i3", "settled.attempt": 1, "settled.delivered": "yes",
            "http.response.status_code": 200})
        self.assertEqual(found["i2", 1]["attributes"]["error.type"], "connection_lost")
        self.assertNotIn("http.response.status_code", found["i2", 1]["attributes"])
        self.assertEqual({k: s["failed"] for k, s in found.items()},
                         {("i1", 1): True, ("i1", 2): False, ("i2", 1): True, ("i2", 2): True, ("i3", 1): False})

    def test_a_failed_batch_is_an_error(self):
        c = self.start(Collector())
        self.settled.post({"contract": "all_or_nothing", "items": [item(1, self.url("/gone"))]}, header())
        root, = [s for s in c.wait_spans(2) if s["kind"] == "server"]
        self.assertEqual((root["failed"], root["attributes"]["error.type"], root["attributes"]["settled.batch.stop_reason"]),
                         (True, "failed", "first_failure"))

    def test_a_job_has_a_span_that_outlives_its_request(self):
        c = self.start(Collector())
        door = gate.Gate()
        answer = self.settled.post({"items": [item(1, door.url)]}, {**header(), "Prefer": "respond-async"})
        self.assertEqual(answer.status, 202)
        conn, _ = door.take()
        c.wait_spans(1)
        conn.sendall(gate.OK)
        spans = {s["kind"]: s for s in c.wait_spans(3)}
        self.assertEqual(set(spans), {"server", "internal", "client"})
        self.assertEqual([spans["server"]["parent"], spans["internal"]["parent"], spans["client"]["parent"]],
                         [PARENT, spans["server"]["id"], spans["internal"]["id"]])
        self.assertLess(spans["server"]["end"], spans["internal"]["end"])
        self.assertEqual((spans["internal"]["name"], spans["internal"]["attributes"]["settled.batch.outcome"]),
                         ("batch", "succeeded"))
        conn.close()
        door.close()

    def test_a_retry_names_its_route_and_continues_its_own_callers_trace(self):
        c = self.start(Collector())
        answer = self.settled.post({"items": [item(1, self.url("/gone"))]}, header())
        again = self.settled.ask("POST", answer.headers["Location"] + "/retry", b'{"ids": ["i1"]}', {
            "Content-Type": "application/json", **header(trace="f" * 32)})
        self.assertEqual(again.status, 202, again.body)
        spans = [s for s in c.wait_spans(5) if s["trace"] == "f" * 32]
        root, = [s for s in spans if s["kind"] == "server"]
        self.assertEqual((root["name"], root["parent"], root["attributes"]["settled.batch.id"]),
                         ("POST /v1/batches/{id}/retry", PARENT, again.json["id"]))
        self.assertEqual(len(spans), 3)


class Sampling(Case):
    def seen(self, c, *headers):
        """The flags that the downstream was sent, and the traces that were recorded; a last batch that is
        always recorded shows that the others had their chance."""
        for h in headers:
            self.settled.post({"items": [item(1, self.url("/ok"))]}, h)
        self.settled.post({"items": [item(1, self.url("/last"))]}, header(trace="e" * 32))
        c.wait(lambda: any(s["trace"] == "e" * 32 and s["kind"] == "server" for s in c.spans), "the last trace")
        flags = {e["traceparent"].split("-")[1]: e["traceparent"].split("-")[3] for e in self.down.ledger() if e["path"] == "/ok"}
        return flags, {s["trace"] for s in c.spans} - {"e" * 32}

    def test_the_caller_decides_about_its_own(self):
        c = self.start(Collector(), {"ratio": 0})
        flags, traces = self.seen(c, header("01"), header("00", "a" * 32))
        self.assertEqual((flags, traces), ({TRACE: "01", "a" * 32: "00"}, {TRACE}))

    def test_the_ratio_decides_about_those_that_begin_here(self):
        for ratio, n in ((0, 0), (1, 20)):
            c = self.start(Collector(), {"ratio": ratio})
            flags, traces = self.seen(c, *[{}] * 20)
            self.assertEqual(len(flags), 20)
            self.assertEqual((set(flags.values()), len(traces)), ({"01" if ratio else "00"}, n))
            self.stop()
            self.down.clear()

    def test_the_trace_id_alone_decides(self):
        c = self.start(Collector(), {"ratio": 0.5})
        flags, traces = self.seen(c, *[{}] * 60)
        chosen = {trace for trace in flags if int(trace[-14:], 16) < 1 << 55}
        self.assertEqual(traces, chosen)
        self.assertEqual({t for t, f in flags.items() if f == "01"}, chosen)
        self.assertTrue(0 < len(chosen) < 60)


class Collectors(Case):
    def settle(self, n=1):
        answer = self.settled.post({"items": [item(i, self.url("/ok")) for i in range(n)]}, header())
        self.assertEqual(answer.status, 200)

    def test_it_is_sent_what_the_operator_gave_and_no_log_shows_it(self):
        c = self.start(Collector(), {"headers": {"authorization": "Bearer s3cret-of-the-collector"}})
        self.settle()
        c.wait_spans(2)
        path, headers, _ = c.requests[0]
        self.assertEqual((path, headers["Content-Type"], headers["authorization"]),
                         ("/v1/traces", "application/json", "Bearer s3cret-of-the-collector"))
        self.assertNotIn("s3cret", self.settled.text())

    def test_without_an_endpoint_nothing_is_recorded(self):
        self.start()
        self.settle()
        self.assertEqual(self.spans_total(), {"exported": 0, "dropped_full": 0, "dropped_failed": 0})

    def test_what_may_pass_is_tried_again(self):
        c = self.start(Collector([503, 429]))
        self.settle()
        c.wait_spans(2)
        kit.until(lambda: self.spans_total() == {"exported": 2, "dropped_full": 0, "dropped_failed": 0}, self.spans_total)
        # A look at what there is may fall between the attempt's end and the request's.
        self.assertEqual([status for _, _, status in c.requests][:3], [503, 429, 200])
        self.settled.wait_line("event=span_export_failing http_status=503")
        self.settled.wait_line("event=span_export_recovered")
        self.assertEqual(self.settled.text().count("span_export_failing"), 1)

    def test_what_does_not_pass_is_dropped_at_once(self):
        c = self.start(Collector())
        for n, status in enumerate((400, 500), 1):
            asked, c.answers = len(c.requests), [status] * 10
            self.settle()
            kit.until(lambda n=n: self.spans_total()["dropped_failed"] == 2 * n, self.spans_total)
            # A look at what there is may fall between the attempt's end and the request's.
            self.assertIn(len(c.requests) - asked, (1, 2))
        c.answers = []
        self.settle()
        c.wait_spans(2)

    def test_the_tries_end(self):
        c = self.start(Collector([503] * 100))
        self.settle()
        kit.until(lambda: self.spans_total()["dropped_failed"] == 2, self.spans_total)
        # A look at what there is may fall between the attempt's end and the request's.
        self.assertIn(len(c.requests), (3, 6))

    def test_one_that_is_away_disturbs_nothing_and_is_counted(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        self.start(tracing={"endpoint": f"http://127.0.0.1:{port}"})
        for _ in range(20):
            self.settle(20)
        self.settled.wait_line("event=span_export_failing http_status=0")
        self.assertEqual(self.spans_total()["dropped_full"], 0)
        self.stop()

    def test_one_that_hangs_costs_the_ring_alone(self):
        """While it hangs there is one request, the ring fills, the rest is dropped and every batch goes on."""
        c = self.start(Collector(door=threading.Event()))
        for _ in range(11):
            self.settle(500)
        c.wait(lambda: c.requests, "a request")
        kit.until(lambda: self.spans_total()["dropped_full"] > 0, self.spans_total)
        self.assertEqual(self.spans_total()["exported"], 0)
        c.door.set()
        kit.until(lambda: sum(self.spans_total().values()) == 11 * 501, self.spans_total)
        self.assertGreaterEqual(self.spans_total()["exported"] + self.spans_total()["dropped_failed"], 4096)
        self.assertEqual(c.most, 1)

    def test_the_stop_sends_what_is_left(self):
        c = self.start(Collector())
        self.settle(600)
        self.stop()
        self.assertEqual(len(c.spans), 601)

    def test_the_stop_does_not_wait_for_one_that_hangs(self):
        c = self.start(Collector(door=threading.Event()))
        self.settle(600)
        c.wait(lambda: c.requests, "a request")
        self.settled.child.terminate()
        self.settled.child.wait(LIMIT_S)
        self.stop()
        self.assertEqual(c.spans, [])

    def test_it_is_trusted_and_shown_as_no_service_is(self):
        """The first service's own authority would vouch for this collector."""
        kit.need("openssl")
        with tempfile.TemporaryDirectory() as home:
            authority = certs.Authority(home)
            cert, key = authority.issue("collector")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            services = {name: {"kind": "webhook", "allow": ["127.0.0.0/8"], "ca_file": authority.cert} for name in ("webhook", "w2")}
            c = self.start(Collector(tls=context), services=services)
            self.settle()
            self.settled.wait_line("event=span_export_failing http_status=0")
            kit.until(lambda: self.spans_total()["dropped_failed"] == 2, self.spans_total)
            self.assertEqual(c.requests, [])

    def test_all_shards_export(self):
        c = self.start(Collector(), shards=3)
        ids = set()
        for n in range(30):
            ids.add(self.settled.post({"items": [item(n, self.url("/ok"))]}).json["id"])
        self.assertEqual({s["attributes"]["settled.batch.id"] for s in c.wait_spans(60)}, ids)


class Reload(Case):
    def test_the_ratio_changes_and_the_collector_stays(self):
        c = self.start(Collector(), {"headers": {"api-key": "s3cret"}})
        with open(self.settled.config_path, encoding="utf-8") as f:
            config = json.load(f)
        config["tracing"] = {"endpoint": "http://127.0.0.1:9/elsewhere", "ratio": 0}
        with open(self.settled.config_path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.settled.child.send_signal(signal.SIGHUP)
        kept = self.settled.wait_line(r'event=restart_needed settings="?([^"]*)"? effect')[1]
        self.assertEqual(set(kept.split(", ")), {"tracing.endpoint", "tracing.headers"})
        self.assertIn("tracing.ratio", self.settled.wait_line(r"event=reloaded .*").string)
        self.settled.post({"items": [item(1, self.url("/ok"))]})
        self.settled.post({"items": [item(1, self.url("/ok"))]}, header())
        self.assertEqual({s["trace"] for s in c.wait_spans(2)}, {TRACE})
        self.assertEqual(c.requests[-1][1]["api-key"], "s3cret")

    def test_the_printed_configuration_shows_no_secret(self):
        done = subprocess.run([*harness.SETTLED, "--print-config", "--config", "/dev/stdin"], text=True, check=True,
                              stdout=subprocess.PIPE, env={**os.environ, "WHERE": "http://c/token-1"},
                              input='tracing: {endpoint: "${WHERE}", headers: {api-key: token-2}}\nservices: {w: {kind: webhook}}\n')
        self.assertNotIn("token", done.stdout)
        self.assertRegex(done.stdout, r'endpoint: "\*\*\*"')


class Settings(unittest.TestCase):
    def test_what_is_no_endpoint_is_refused(self):
        for tracing, wrong in (({"endpoint": "collector:4318"}, "http"), ({"endpoint": "http://c/?a=1"}, "query"),
                               ({"endpoint": "http://c", "ratio": 1.5}, "range"), ({"ratio": "x"}, "number"),
                               ({"headers": {"a b": "c"}}, "header"), ({"headers": []}, "map"), ({"endpiont": "http://c"}, "unknown")):
            with self.subTest(tracing):
                with self.assertRaises(AssertionError) as caught:
                    harness.Daemon({"tracing": tracing})
                self.assertRegex(str(caught.exception), re.compile(wrong))


if __name__ == "__main__":
    harness.main()
