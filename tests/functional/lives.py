"""What the tests about the store's files share: a directory in which one daemon
follows the other, and the few things that are asked of jobs there."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness
from harness import LIMIT_S

ASYNC = {"Prefer": "respond-async"}


class Case(unittest.TestCase):
    """For each test a directory, and a downstream that outlives the daemons."""

    longMessage = True
    maxDiff = None

    def setUp(self):
        self.home = self.make_home()
        self.data = os.path.join(self.home, "data")
        self.down = harness.Downstream()
        self.addCleanup(self.down.stop)

    def make_home(self):
        home = tempfile.mkdtemp(prefix="settled-store-")
        self.addCleanup(shutil.rmtree, home, True)
        return home

    def config(self, **more):
        return {"store": {"path": self.data}, **more}

    def start(self, **more):
        daemon = harness.Daemon(self.config(**more), self.down)
        self.addCleanup(self.end, daemon)
        return daemon

    def end(self, daemon):
        """What a test has not ended ends with it."""
        if daemon.child.returncode is None:
            daemon.stop(signal.SIGKILL)

    def stop(self, daemon):
        self.assertEqual(daemon.stop(), 0, daemon.text())

    def refused(self):
        """A start that has to fail: what it says."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump({"listen": "127.0.0.1:0", "shards": 1, **self.config()}, f)
            f.flush()
            done = subprocess.run([*harness.SETTLED, "--config", f.name], capture_output=True, text=True,
                                  timeout=LIMIT_S, check=False)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        return done.stderr

    def batch(self, *ways, **more):
        """Items that the downstream treats so: parameters of its query."""
        items = [harness.item(n, f"{self.down.url}/{n}?{way}") for n, way in enumerate(ways)]
        return {"retry": {"max_attempts": 5, "base_ms": 1, "cap_ms": 10}, "include": ["attempts"], "items": items, **more}

    def accept(self, daemon, *ways, **more):
        """A job: its id."""
        answer = daemon.post(self.batch(*ways, **more), ASYNC)
        self.assertEqual(answer.status, 202, answer.body)
        return answer.headers["Batch-Id"]

    def wait_done(self, daemon, batch_id):
        """The job when it is done."""
        while True:
            answer = daemon.ask("GET", "/v1/batches/" + batch_id, headers={"Prefer": "wait=10"})
            self.assertEqual(answer.status, 200, answer.body)
            if answer.json["state"] == "done":
                return answer
            self.assertIn(answer.json["state"], ("queued", "running", "cancelling"))
