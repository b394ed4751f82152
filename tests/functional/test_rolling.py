"""Two instances behind HAProxy, restarted one after the other while callers send
without a pause: no caller sees an error, and every item arrives once. Judged by
what the callers got, and by the downstream's ledger.

SETTLED_ROLLING_RESTARTS says how many restarts (4)."""

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import tempfile
import threading
import unittest

import gate
import harness
import kit
import proxies
from callers import JSON
from jobs import Background

RESTARTS = int(os.environ.get("SETTLED_ROLLING_RESTARTS", "4"))
CALLERS = 8
ITEMS = 3


class Instance:
    """A daemon with a store and an address of its own, which outlive its process.
    The address is one that no outgoing connection takes a port of."""

    def __init__(self, name, host, down, held):
        self.name, self.host, self.port = name, host, 0
        self.dir = tempfile.mkdtemp(prefix="settled-test-")
        self.config = {
            "shards": 2, "store": {"path": os.path.join(self.dir, "data")},
            # Several times what HAProxy needs to see it, on a machine however busy.
            "limits": {"lame_duck_ms": 2 * harness.GIVE_UP_MS, "drain_ms": 60000},
            "services": {"push": {"kind": "http", "url": down.url + "/push/{to}?wait_ms=40", "attempt_timeout_ms": harness.FOR_LONG_MS},
                         "held": {"kind": "http", "url": held.url("{to}"), "attempt_timeout_ms": harness.FOR_LONG_MS}}}
        self.start()

    def start(self):
        path = os.path.join(self.dir, "settled.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump({**self.config, "listen": f"{self.host}:{self.port}", "auth": {"open": True}}, f)
        self.process = harness.Process([*harness.SETTLED, "--config", path])
        self.port = int(self.process.wait_line(r"event=listening\b.*\bport=(\d+)")[1])

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def get(self, path, headers):
        return self.ask("GET", path, None, headers)

    def post(self, batch):
        return self.ask("POST", "/v1/batches", harness.encode(batch), JSON)

    def ask(self, method, path, body, headers):
        conn = http.client.HTTPConnection(self.host, self.port, timeout=harness.LIMIT_S)
        try:
            conn.request(method, path, body, headers)
            answer = conn.getresponse()
            return harness.Answer(answer.status, answer.headers, answer.read())
        finally:
            conn.close()

    def close(self):
        if self.process.child.poll() is None:
            self.process.stop(signal.SIGKILL)
        shutil.rmtree(self.dir)


class Caller(threading.Thread):
    """Posts one batch after the other on a kept connection; every third is a job."""

    def __init__(self, port, n, stop):
        super().__init__()
        self.port, self.n, self.stop = port, n, stop
        self.errors, self.sent, self.jobs = [], [], []

    def run(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2 * harness.LIMIT_S)
        for count in itertools.count():
            if self.stop.is_set():
                break
            try:
                self.post(conn, count)
            except (OSError, http.client.HTTPException) as e:
                self.errors.append(repr(e))
                conn.close()
        conn.close()

    def post(self, conn, count):
        tokens = [f"{self.n}-{count}-{i}" for i in range(ITEMS)]
        job = count % 3 == 2
        batch = {"service": "push", "items": [{"id": t, "to": t, "payload": t} for t in tokens]}
        conn.request("POST", "/v1/batches", json.dumps(batch),
                     {**JSON, **({"Prefer": "respond-async"} if job else {})})
        answer = conn.getresponse()
        doc = answer.read()
        if answer.status != (202 if job else 200):
            self.errors.append(f"{answer.status} {doc[:300]}")
        elif job:
            self.jobs.append(answer.headers["Location"])
        self.sent += tokens


class Rolling(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        kit.need("haproxy")

    def setUp(self):
        self.down = harness.Downstream("--ledger", "1000000")
        self.addCleanup(self.down.stop)
        self.held = gate.Held()
        self.addCleanup(self.held.close)
        self.instances = []
        for name, host in (("one", "127.0.0.2"), ("two", "127.0.0.3")):
            self.instances.append(Instance(name, host, self.down, self.held))
            self.addCleanup(self.instances[-1].close)
        self.front = proxies.Haproxy(*(i.address for i in self.instances), inter="50ms")
        self.addCleanup(self.front.stop)
        self.stop = threading.Event()
        self.callers = [Caller(self.front.port, n, self.stop) for n in range(CALLERS)]

    def restart(self, instance):
        """Returns how many batches it ended after it was told to stop."""
        seen = self.front.lines()
        old = instance.process
        last = Background(instance.post, {"service": "held", "items": [harness.item(0, instance.name)]})
        self.held.wait(instance.name)
        old.child.send_signal(signal.SIGTERM)
        old.wait_line("event=lame_duck")
        self.held.answer(instance.name)
        self.assertEqual(last.result().status, 200)
        self.assertEqual(old.child.wait(2 * harness.LIMIT_S), 0, old.text())
        old.stop()
        instance.start()
        self.front.wait_up(instance.name, seen)
        return len(re.findall("event=batch_done", old.text().split("event=lame_duck", 1)[1]))

    def check_jobs(self):
        """Each is at the one instance that took it, and succeeded."""
        for location in (job for caller in self.callers for job in caller.jobs):
            found = [a for a in (i.get(location, {"Prefer": "wait=60"}) for i in self.instances) if a.status != 404]
            self.assertEqual([(a.status, a.json["outcome"]) for a in found], [(200, "succeeded")], location)

    def test_no_caller_sees_an_error_and_nothing_is_lost(self):
        ended = []
        for caller in self.callers:
            caller.start()
        try:
            for instance in itertools.islice(itertools.cycle(self.instances), RESTARTS):
                ended.append(self.restart(instance))
        finally:
            self.stop.set()
            for caller in self.callers:
                caller.join()
        self.assertEqual([e for caller in self.callers for e in caller.errors], [])
        self.assertNotIn(0, ended, "it had nothing to do when it was stopped")
        self.check_jobs()
        sent = sorted(token for caller in self.callers for token in caller.sent)
        arrived = sorted(e["body"].decode().strip('"') for e in self.down.ledger())
        self.assertTrue(arrived == sent, f"{len(sent)} sent, {len(arrived)} arrived, {len(set(arrived))} of them once")
        print(f"# {RESTARTS} restarts, {len(sent)} items in {len(sent) // ITEMS} batches, "
              f"{sum(len(c.jobs) for c in self.callers)} of them jobs; {sum(ended)} batches ended by instances told to stop")


if __name__ == "__main__":
    harness.main()
