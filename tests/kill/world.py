"""The outer world of the kill test: a downstream that outlives every daemon, the
daemon's directory, clients with a journal, and the ways in which a life ends.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import harness
from harness import LIMIT_S
from history import Act, History, Life, Sighting
from draw import LANES, STREAM, Sending

CLIENTS = 8
# How long a moment is waited for that may never come.
MOMENT_S = max(3, harness.PATIENCE)
# Of an orderly stop: less than what some items wait for.
DRAIN_MS = 200
LAST_LINES = 40
ASK_FAILED = (OSError, http.client.HTTPException, ValueError)


def now_us():
    """The downstream's clock."""
    return time.monotonic_ns() // 1000


class Daemon(harness.Process):
    """One life of the daemon, in a directory that outlives it."""

    def __init__(self, home, downstream, cycle):
        config = {
            "listen": "127.0.0.1:0", "shards": cycle.shards, "log": {"level": "debug"},
            "store": {"path": os.path.join(home, "data")},
            "services": {f"s{n}": harness.undaunted({"kind": "http", "url": f"{downstream.url}/s{n}/{{to}}",
                                                     "refuses_with": [503], "max_in_flight": 8}) for n in range(LANES)},
        }
        config["limits"] = {"drain_ms": DRAIN_MS}
        if cycle.resident_bytes is not None:
            config["limits"]["resident_bytes"] = cycle.resident_bytes
        path = os.path.join(home, "settled.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        env = {"SETTLED_KILL_AT": f"{cycle.point}:{cycle.n}"} if cycle.end == "point" else {}
        self.port = None
        self.ending = cycle.end == "point"       # its clients may be let down
        super().__init__([*harness.SETTLED, "--config", path], env)

    def wait_listening(self):
        self.port = int(self.wait_line(r'event"?[=:]"?listening\b.*\bport"?[=:](\d+)')[1])

    def ask(self, method, path, body=None, headers=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            conn.request(method, path, body=body, headers=headers or {})
            answer = conn.getresponse()
            data = answer.read()
            return answer.status, answer.headers, json.loads(data) if data else None
        finally:
            conn.close()

    def wait_lines(self, n, seconds):
        until = time.monotonic() + seconds
        with self.changed:
            while len(self.lines) < n and self.child.poll() is None and self.changed.wait(until - time.monotonic()):
                pass


class Journal:
    """What the clients know, and when what they do has come to a number."""

    def __init__(self):
        self.lock = threading.Condition()
        self.sent = self.answered = 0
        self.known = {}                  # intents by the ids of their batches, as they were learned
        self.done = {}                   # of those seen done, by id
        self.history = None

    def begin(self, intents):
        self.history = History({i.name: i for i in intents})
        self.known.clear()
        self.done.clear()

    def learn(self, batch_id, intent):
        with self.lock:
            self.known.setdefault(batch_id, intent)

    def some_known(self, wanted):
        with self.lock:
            return [i for i, intent in self.known.items() if wanted(intent)][-12:]

    def see(self, at_us, body):
        with self.lock:
            self.history.sightings.append(Sighting(body["id"], at_us, body))
            if body["state"] == "done":
                self.done[body["id"]] = body

    def count(self, what):
        with self.lock:
            setattr(self, what, getattr(self, what) + 1)
            self.lock.notify_all()

    def wait(self, what, n, seconds):
        with self.lock:
            self.lock.wait_for(lambda: getattr(self, what) >= n, seconds)


class Clients:
    """Threads that send what a cycle asks for to one life of the daemon."""

    def __init__(self, journal, daemon, tasks):
        self.journal = journal
        self.daemon = daemon
        self.tasks = list(reversed(tasks))
        self.failures = []
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(CLIENTS)]
        for t in self.threads:
            t.start()

    def run(self):
        while True:
            with self.journal.lock:
                if not self.tasks:
                    return
                task = self.tasks.pop()
            # The daemon may go away at any moment; what was asked then has no answer.
            try:
                task(self)
            except ASK_FAILED:
                if self.daemon.child.poll() is None and not self.daemon.ending:
                    self.failures.append(harness.traceback.format_exc())

    def join(self):
        for t in self.threads:
            t.join()

    # ---- what they do ----

    def send(self, intent):
        """And again, as long as a batch that died with its process is being ended."""
        while (s := self.send_once(intent)).status == 409:
            self.daemon.ask("GET", s.headers["Location"], headers={"Prefer": "wait=5"})

    def send_once(self, intent):
        s = Sending(now_us())
        headers = {"Content-Type": "application/json", **intent.headers}
        conn = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=LIMIT_S)
        with self.journal.lock:
            intent.sendings.append(s)
        try:
            conn.request("POST", "/v1/batches", body=intent.body(), headers=headers)
            self.journal.count("sent")
            if intent.leaves:
                return s
            answer = conn.getresponse()
            streamed = answer.headers["Content-Type"] == STREAM
            body = self.read_lines(intent, answer) if streamed else json.loads(answer.read())
            # All of it at once, for whoever looks.
            s.body, s.headers, s.answered_us = body, dict(answer.headers), now_us()
            s.status = answer.status
        finally:
            conn.close()
            self.journal.count("answered")
        if s.accepted:
            self.journal.learn(s.batch_id, intent)
            if s.body.get("results") is not None:
                self.journal.see(s.answered_us, s.body)
        return s

    def read_lines(self, intent, answer):
        """A stream: its head promises the batch, and each line a result, however it ends."""
        batch_id, results = answer.headers["Batch-Id"], []
        self.journal.learn(batch_id, intent)
        try:
            while "batch" not in (line := json.loads(answer.readline())):
                results.append(line)
            return {**line["batch"], "results": sorted(results, key=lambda r: r["index"])}
        finally:
            self.journal.see(now_us(), {"id": batch_id, "state": "running", "results": results,
                                        "durability": "disk" if intent.durable else "memory"})

    def peek(self, batch_id):
        at_us = now_us()
        status, _, body = self.daemon.ask("GET", f"/v1/batches/{batch_id}")
        if status == 200:
            self.journal.see(at_us, body)

    def act(self, kind, batch_id):
        act = Act(kind, batch_id, now_us())
        with self.journal.lock:
            self.journal.history.acts.append(act)
        if kind == "delete":
            answer = self.daemon.ask("DELETE", f"/v1/batches/{batch_id}")
        else:
            body = b"{}" if kind == "retry" else None
            headers = {"Content-Type": "application/json"} if body else {}
            answer = self.daemon.ask("POST", f"/v1/batches/{batch_id}/{kind}", body, headers)
        act.answered_us, act.body, act.status = now_us(), answer[2], answer[0]
        if kind == "retry" and act.status == 202:
            self.journal.learn(act.body["id"], self.journal.known[batch_id])


def _done_batch(clients, rng, wanted):
    """A batch that was seen done, perhaps just now, and that nobody did anything to yet."""
    journal = clients.journal
    known = [i for i in journal.some_known(lambda intent: intent.kind == "job") if i not in journal.done]
    for batch_id in rng.sample(known, min(len(known), 4)):
        clients.peek(batch_id)
    with journal.lock:
        touched = {a.batch_id for a in journal.history.acts} | {b.get("retry_of") for b in journal.done.values()}
        free = [i for i, b in journal.done.items() if i not in touched and wanted(b, journal.known[i])]
    return rng.choice(free) if free else None


def _retryable(batch, intent):
    """What nobody promised to keep may be gone by then."""
    return (not batch.get("retry_of") and intent.durable
            and any(r["retryable"] and r["delivered"] == "no" for r in batch["results"]))


def _forgettable(_, intent):
    """A key that is forgotten with its batch may be used again."""
    return intent.durable and intent.key is None


def _act(kind, rng):
    def task(clients):
        journal = clients.journal
        if kind == "peek" and (known := journal.some_known(lambda intent: True)):
            clients.peek(rng.choice(known))
        elif kind == "cancel" and (known := journal.some_known(lambda intent: intent.kind == "job")):
            clients.act("cancel", rng.choice(known))
        elif kind == "retry" and (found := _done_batch(clients, rng, _retryable)):
            clients.act("retry", found)
        elif kind == "delete" and (found := _done_batch(clients, rng, _forgettable)):
            clients.act("delete", found)
    return task


def _sender(intent):
    return lambda clients: clients.send(intent)


class World:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.down = harness.Downstream("--ledger", "1000000", "--ledger-body", "65536")
        self.home = None
        self.daemon = None
        self.journal = Journal()
        self.reached = {}                # kill points that were, and how often
        self.lives = 0
        self.ways = {}                   # how lives ended, and how often

    def close(self):
        if self.daemon is not None and self.daemon.child.poll() is None:
            self.daemon.stop(signal.SIGKILL)
        self.down.stop()
        self.forget()

    def forget(self):
        if self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)
        self.home = None

    # ---- an epoch ----

    def run_epoch(self, cycles):
        self.forget()
        self.home = tempfile.mkdtemp(prefix="settled-kill-")
        self.down.clear()
        self.down.ask("DELETE", "/_script")
        self.journal.begin([i for c in cycles for i in c.intents])
        for cycle in cycles[:-1]:
            self.run_life(cycle)
        self.drain(cycles[-1])
        return self.journal.history

    def start(self, cycle):
        life = Life(now_us(), end=cycle.end)
        self.daemon = Daemon(self.home, self.down, cycle)
        self.journal.history.lives.append(life)
        self.lives += 1
        return life

    def tasks(self, cycle):
        """New batches, what was done to old ones, and those of before whose client has a key and no answer. Some
        that had their answer are sent again all the same."""
        again = [i for i in self.journal.history.intents.values() if i.key is not None and i.sendings
                 and (not i.sendings[-1].accepted or self.rng.random() < 0.1)]
        tasks = [_sender(i) for i in again] + [_sender(i) for i in cycle.intents]
        for kind in cycle.acts:
            tasks.insert(self.rng.randint(0, len(tasks)), _act(kind, self.rng))
        return tasks

    def run_life(self, cycle):
        requests = self.down.stats()["requests"] if cycle.end in ("requests", "term") else 0
        life = self.start(cycle)
        clients = None
        try:
            self.wait_up(cycle)
            if self.daemon.port is not None:
                self.journal.sent = self.journal.answered = 0
                clients = Clients(self.journal, self.daemon, self.tasks(cycle))
                self.wait_moment(cycle, requests)
        finally:
            self.end(life, signal.SIGTERM if cycle.end == "term" else signal.SIGKILL)
        if clients is not None:
            clients.join()
            self.check_clients(clients)
        self.barrier()
        life.died_us = now_us()
        self.ways[cycle.end] = self.ways.get(cycle.end, 0) + 1

    def end(self, life, sig):
        self.daemon.ending = True
        life.status = self.daemon.stop(sig)
        life.said = self.last_lines()

    def last_lines(self):
        return "\n".join(self.daemon.text().splitlines()[-LAST_LINES:])

    def wait_up(self, cycle):
        """A point may be passed before it listens, and a number of lines come together."""
        if cycle.end == "lines" and cycle.n < 10:
            self.daemon.wait_lines(cycle.n, MOMENT_S)
            return
        try:
            self.daemon.wait_listening()
        except AssertionError:
            self.daemon.child.wait(LIMIT_S)
            if cycle.end != "point" or self.daemon.child.returncode != -signal.SIGKILL:
                raise

    def wait_moment(self, cycle, requests):
        if cycle.end == "sent":
            self.journal.wait("sent", cycle.n, MOMENT_S)
        elif cycle.end == "answers":
            self.journal.wait("answered", cycle.n, MOMENT_S)
        elif cycle.end == "lines":
            self.daemon.wait_lines(cycle.n, MOMENT_S)
        elif cycle.end == "point":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.child.wait(MOMENT_S)
                self.reached[cycle.point] = self.reached.get(cycle.point, 0) + 1
        else:
            with contextlib.suppress(AssertionError):        # 408: so many do not come
                self.down.ask("GET", f"/_ledger/wait?requests={requests + cycle.n}&timeout_ms={int(1000 * MOMENT_S)}")

    def check_clients(self, clients):
        if clients.failures:
            raise AssertionError(f"a client was let down by a daemon that nobody had killed:\n{clients.failures[0]}\n"
                                 + self.last_lines())

    def barrier(self):
        """The downstream has read all that was sent to it before. The second connection is accepted after what the
        first found ready was read."""
        self.down.stats()
        self.down.stats()

    # ---- the end of an epoch ----

    def drain(self, cycle):
        life = self.start(cycle)
        self.daemon.wait_listening()
        clients = Clients(self.journal, self.daemon, self.tasks(cycle))
        clients.join()
        self.check_clients(clients)
        self.collect()
        self.barrier()
        self.journal.history.ledger = self.down.ledger()
        self.end(life, signal.SIGTERM)
        life.died_us = now_us()

    def collect(self):
        """Every batch that anybody knows of, as it is in the end."""
        history = self.journal.history
        ids = dict.fromkeys(self.journal.known)
        ids.update(dict.fromkeys(self.list_batches()))
        until = time.monotonic() + LIMIT_S
        for batch_id in ids:
            status, body = self.wait_done(batch_id, until)
            history.last[batch_id] = status
            if status == 200:
                history.batches[batch_id] = body
            elif batch_id in self.journal.done and any(a.kind == "delete" and a.batch_id == batch_id
                                                       for a in history.acts):
                history.batches[batch_id] = self.journal.done[batch_id]

    def wait_done(self, batch_id, until):
        """What is not done by then is shown as it is."""
        while True:
            left = max(0, min(5, int(until - time.monotonic())))
            status, _, body = self.daemon.ask("GET", f"/v1/batches/{batch_id}", headers={"Prefer": f"wait={left}"})
            if status != 200 or body["state"] == "done" or left == 0:
                return status, body

    def list_batches(self):
        cursor, found = "", []
        while cursor is not None:
            status, _, body = self.daemon.ask("GET", "/v1/batches?limit=100" + (cursor and f"&cursor={cursor}"))
            if status != 200:
                raise AssertionError(f"the list of batches: {status} {body}")
            found += [b["id"] for b in body["batches"]]
            cursor = body.get("next_cursor")
        return found
