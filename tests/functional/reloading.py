"""What the tests that reload the configuration share."""

import json
import signal
import unittest

import gate
import harness
import rawhttp
from harness import item


class Reloading(unittest.TestCase):
    """Each test has a daemon of its own, whose file it rewrites."""

    longMessage = True

    def setUp(self):
        self.down = harness.Downstream()
        self.addCleanup(self.down.stop)
        self.held = gate.Held()
        self.addCleanup(self.held.close)
        self.start()

    def start(self, **config):
        services = {"held": {"kind": "http", "url": self.held.url("{to}")},
                    "push": {"kind": "http", "url": self.down.url + "/{to}"}}
        self.settled = harness.Daemon({"shards": 2, "services": services, **config})
        self.addCleanup(self.stop)
        with open(self.settled.config_path, encoding="utf-8") as f:
            self.file = json.load(f)
        self.services, self.limits = self.file["services"], self.file.setdefault("limits", {})

    def stop(self):
        if self.settled.child.poll() is None:
            self.assertEqual(self.settled.stop(), 0, self.settled.text())

    def write(self, text=None):
        with open(self.settled.config_path, "w", encoding="utf-8") as f:
            f.write(json.dumps(self.file) if text is None else text)

    def hup(self, event="reloaded"):
        """Ask for a reload, and wait for what the daemon says of it."""
        start = self.settled.mark()
        self.settled.child.send_signal(signal.SIGHUP)
        return self.settled.wait_line(f"event={event} .*", start)[0]

    def reload(self):
        self.write()
        return self.hup()

    def names(self):
        return [s["name"] for s in self.settled.ask("GET", "/v1/services").json["services"]]

    def show(self, name):
        return {s["name"]: s for s in self.settled.ask("GET", "/v1/services").json["services"]}[name]

    def limit(self, name):
        return self.settled.ask("GET", "/v1/limits").json[name]

    def send(self, service, *to, **more):
        return self.settled.post({"service": service, "items": [item(n, t) for n, t in enumerate(to)], **more})

    def begin(self, service, *to, **more):
        return self.settled.start_post({"service": service, "items": [item(n, t) for n, t in enumerate(to)], **more})

    def finish(self, sock):
        with sock, sock.makefile("rb") as stream:
            return rawhttp.read_answer(stream)
