"""What the tests of jobs, keys, cancels and retries share. Each of their cases
runs against every kind of store."""

import http.client
import re
import sys
import threading

import harness
import kit
from harness import LIMIT_S, item

ASYNC = {"Prefer": "respond-async"}
STORES = ("memory", "disk")
ID = re.compile(r"b_[0-9A-HJKMNP-TV-Z]{26}$")


def on_every_store(cls):
    """Instead of the class one for each store."""
    module = sys.modules[cls.__module__]
    for store in STORES:
        name = f"{cls.__name__}_{store}"
        setattr(module, name, type(name, (cls,), {"config": {**(cls.config or {}), "store": store},
                                                  "__module__": cls.__module__}))


class Case(kit.HeldCase):
    def route(self, batch_id, end=""):
        return f"/v1/batches/{batch_id}{end}"

    def accept(self, batch, headers=None):
        """The id of a job that was accepted."""
        answer = self.settled.post(batch, {**ASYNC, **(headers or {})})
        self.assertEqual(answer.status, 202, answer.body)
        return answer.headers["Batch-Id"]

    def get(self, batch_id, wait=None):
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        return self.settled.ask("GET", self.route(batch_id), headers=headers)

    def done(self, batch_id):
        """The document of a batch, once it is done."""
        doc = self.get(batch_id, 60).json
        self.assertEqual(doc["state"], "done", doc)
        return doc

    def problem(self, answer, status, code):
        self.assertEqual((answer.status, answer.json["code"], answer.json["status"]), (status, code, status), answer.body)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        if status in (409, 429, 503):
            self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
        return answer.json

    def about(self, answer, batch_id, outcome=None):
        """The headers of an answer about a batch."""
        self.assertEqual((answer.headers["Location"], answer.headers["Batch-Id"], answer.headers["Batch-Outcome"]),
                         (self.route(batch_id), batch_id, outcome))

    def refused_while_they_run(self, ask):
        """A job, a batch whose caller waits and one with a key, which `ask` is told to come back for while one of their
        two items is in flight; their ids, once they are done."""
        batches = []
        for n, headers in enumerate((ASYNC, {}, {"Idempotency-Key": "running"})):
            start = self.settled.mark()
            sock = self.settled.start_post({"items": [item(1, self.url("/gone")), item(2, self.held.url(f"r{n}"))]}, headers)
            batches.append(self.settled.wait_line(r"event=attempt_done batch=(\S+) item=i1 ", start)[1])
            self.held.wait(f"r{n}")
            answer = ask(batches[n])
            self.problem(answer, 409, "not_finished")
            self.about(answer, batches[n])
            self.held.answer(f"r{n}")
            self.done(batches[n])
            sock.close()
        return batches

    def sent(self):
        """What the downstream was sent, by webhook-id: how often."""
        keys = [entry["webhook_id"] for entry in self.down.ledger()]
        return {key: keys.count(key) for key in keys}


class Background:
    """A request whose answer comes later: in a thread of its own."""

    def __init__(self, ask, *args, **more):
        self.answer = self.error = None
        self.thread = threading.Thread(target=self._run, args=(ask, args, more), daemon=True)
        self.thread.start()

    def _run(self, ask, args, more):
        try:
            self.answer = ask(*args, **more)
        except (OSError, http.client.HTTPException) as e:
            self.error = e

    def result(self):
        self.thread.join(LIMIT_S)
        if self.error is not None:
            raise self.error
        assert self.answer is not None, "no answer in time"
        return self.answer


def all_at_once(n, ask):
    """The answers to n requests that are made at the same moment; ask(i) makes one."""
    start = threading.Barrier(n)

    def one(i):
        start.wait(LIMIT_S)
        return ask(i)

    return [b.result() for b in [Background(one, i) for i in range(n)]]


main = harness.main
