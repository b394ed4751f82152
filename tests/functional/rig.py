"""A daemon and a downstream that many seeds share, and what is left of a plan
after it ran there: answers, results, log lines and ledger, to be judged.
"""

import contextlib
import http.client
import json
import os
import re
import select
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import quote, unquote

import harness

SECRET = "whsec_c2V0dGxlZCB0ZXN0cyBzaWduIHdpdGggdGhpcw=="
NARROW_PAYLOAD = 2000
# Of a body, in the ledger.
BODY_KEPT = 400000
# ESTABLISHED and CLOSE_WAIT in /proc/net/tcp.
TCP_OPEN = ("01", "08")
# So eager that each of them has its say within a seed.
PROTECTION = {"breaker": {"failure_ratio": 0.5, "min_attempts": 4, "window_ms": 500, "open_ms": 30}, "max_pause_ms": 30,
              "retry_budget": {"ratio": 0.2, "per_second": 20, "window_ms": 300}, "rate": {"per_second": 500, "burst": 5}}
# How long a client waits for its moment before it leaves all the same.
MOMENT_MS = 300


@dataclass
class Attempt:
    """One attempt as the daemon's log tells it."""

    n: int
    started_us: int
    ended_us: int
    code: Optional[str]
    delivered: str
    phase: str
    http_status: Optional[int]


@dataclass
class Record:
    """What became of one batch."""

    plan: object
    shards: int = 1
    status: Optional[int] = None        # of the POST; None: nobody waited for it
    headers: dict = field(default_factory=dict)
    answer: Optional[bytes] = None
    lines: Optional[list] = None        # of a stream; as many as were read
    id: Optional[str] = None
    left: bool = False
    glance: Optional[dict] = None       # the batch, seen while it ran
    final: Optional[dict] = None        # by GET, in the end
    final_raw: bytes = b""
    done: Optional[dict] = None         # the log's line
    n_done: int = 0
    attempts: dict = field(default_factory=dict)     # item id: [Attempt]
    refused: dict = field(default_factory=dict)      # item id: how many tries a breaker refused
    entries: dict = field(default_factory=dict)      # item tag: [ledger entry]
    late: list = field(default_factory=list)         # ledger entries after all had ended


@dataclass
class SeedRecord:
    plan: object
    batches: list
    strays: list                        # ledger entries of no item in the plan
    unknown: list                       # ids of batches that nobody sent
    before: dict                        # metrics
    after: dict
    fds: tuple = (0, 0)                 # the daemon's, at the beginning and now
    malformed: int = 0                  # requests that the downstream could not read


class Rig:
    def __init__(self, shards, protected=False):
        self.shards = shards
        self.down = harness.Downstream("--ledger-body", str(BODY_KEPT))
        services = {
            "webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]},
            "signed": {"kind": "webhook", "allow": ["127.0.0.0/8"], "secret": SECRET},
            "push": {"kind": "http", "url": self.down.url + "/push/{to}"},
            "narrow": {"kind": "http", "url": self.down.url + "/narrow/{to}", "refuses_with": [503],
                       "max_in_flight": 3, "max_payload_bytes": NARROW_PAYLOAD},
        }
        if protected:
            services = {name: {**service, **PROTECTION} for name, service in services.items()}
        try:
            self.settled = harness.Daemon({"shards": shards, "services": services,
                                           "limits": {"payload_bytes": 4000000}})
        except AssertionError:
            self.down.stop()
            raise
        self.fds = self.count_fds()
        self.metrics = self.settled.metrics()

    def stop(self):
        status = self.settled.stop()
        self.down.stop()
        return status

    def count_fds(self):
        """The daemon's, without its connections to the downstream, which it may
        keep; None while a connection of a client is not over, accepted or not."""
        pid = self.settled.child.pid
        kept, clients = set(), 0
        with open("/proc/net/tcp", encoding="ascii") as f:
            for line in f.readlines()[1:]:
                _, local, peer, state, *more = line.split()
                if int(peer.split(":")[1], 16) == self.down.port:
                    kept.add(f"socket:[{more[5]}]")
                clients += int(local.split(":")[1], 16) == self.settled.port and state in TCP_OPEN
        n = 0
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                n += os.readlink(f"/proc/{pid}/fd/{fd}") not in kept
        return n if clients == 0 else None

    def is_quiet(self):
        # A batch whose caller has gone may still be on its way to the disk.
        gauges = r"settled_(requests_parked|items_queued|attempts_in_flight|store_queued_operations|jobs_resident)(\{|$)"
        return not any(v != 0 for k, v in self.settled.metrics().items() if re.match(gauges, k))

    def wait_quiet(self):
        """Until nothing is going on: first in the table of connections, so that
        every request has been read, and then by the gauges. Returns the open
        fds; when it takes too long, the judge will say what is left."""
        until = time.monotonic() + harness.LIMIT_S
        while True:
            fds = self.count_fds() if self.is_quiet() else None
            if (fds == self.fds and self.is_quiet() and self.is_quiet()) or time.monotonic() > until:
                return fds
            with self.settled.changed:
                self.settled.changed.wait(0.005)

    def barrier(self):
        """The downstream has read all that was sent to it before. The second
        connection is accepted after what the first found ready was read."""
        self.down.stats()
        self.down.stats()

    # ---- running a plan ----

    def run(self, plan):
        self.down.clear()
        self.down.ask("DELETE", "/_script")
        for batch in plan.batches:
            for item in batch.items:
                if item.script:
                    path = "/".join(item.to.split("?")[0].split("/")[3:])
                    self.down.script(quote("/" + path), *item.script)
        log_start = self.settled.mark()
        malformed = self.down.stats()["malformed"]
        clients = [Client(self, batch) for batch in plan.batches]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        for client in clients:
            if client.failure is not None:
                raise client.failure
        fds = self.wait_quiet()
        for client in clients:
            client.close()
        record = self.collect(plan, [c.record for c in clients], log_start)
        record.fds = (self.fds, fds)
        record.malformed = self.down.stats()["malformed"] - malformed
        return record

    def collect(self, plan, records, log_start):
        self.barrier()
        early = {e["n"] for e in self.down.ledger()}
        before, self.metrics = self.metrics, self.settled.metrics()
        for record in records:
            if record.id is not None and not record.plan.refused:
                self.settled.wait_line(rf"event=batch_done batch={record.id}", log_start)
        self.settled.mark()              # of who left nothing else is known
        unknown = self.read_log(records, log_start)
        for record in records:
            if record.id is not None:
                got = self.settled.get_batch(record.id)
                record.final, record.final_raw = got.json, got.body
        ledger = self.down.ledger()
        strays = assign(ledger, records)
        for record in records:
            record.late = [e for own in record.entries.values() for e in own if e["n"] not in early]
        return SeedRecord(plan, records, strays, unknown, before, self.metrics)

    def read_log(self, records, log_start):
        """Attempts and ends by batch; returns the ids that belong to no record.
        A batch whose client left early is known by its items' ids."""
        by_id = {r.id: r for r in records if r.id is not None}
        attempts, refused, done, unknown = {}, {}, {}, []
        for line in self.settled.lines[log_start:]:
            fields = fields_of(line or "")
            if fields.get("event") == "attempt_done":
                attempts.setdefault(fields["batch"], []).append(fields)
            elif fields.get("event") == "attempt_refused":
                refused.setdefault(fields["batch"], Counter())[fields["item"]] += 1
            elif fields.get("event") == "batch_done":
                done.setdefault(fields["batch"], []).append(fields)
        for batch_id in set(done) - set(by_id):
            first = self.settled.get_batch(batch_id).json["results"][0]["id"]
            owner = [r for r in records if r.id is None and r.plan.items[0].id == first]
            if owner:
                owner[0].id = batch_id
                by_id[batch_id] = owner[0]
            else:
                unknown.append(batch_id)
        for batch_id, record in by_id.items():
            record.done = done.get(batch_id, [None])[0]
            record.n_done = len(done.get(batch_id, []))
            record.refused = refused.get(batch_id, {})
            for fields in attempts.get(batch_id, []):
                record.attempts.setdefault(fields["item"], []).append(attempt_of(fields))
        return unknown


def fields_of(line):
    """A line in logfmt."""
    return {name: value.strip('"') for name, value in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line)}


def attempt_of(fields):
    started = int(fields["started_at_us"])
    return Attempt(int(fields["n"]), started, started + int(fields["duration_us"]),
                   None if fields["code"] == "ok" else fields["code"], fields["delivered"], fields["phase"],
                   int(fields["http_status"]) or None)


def assign(ledger, records):
    """Give each request to its item, by the tag in its URL alone."""
    owners = {item.tag: record for record in records for item in record.plan.items}
    strays = []
    for entry in ledger:
        found = re.search(r"\btag=(s\d+b\d+i\d+)", unquote(entry["path"] + "?" + (entry["query"] or "")))
        owner = owners.get(found[1]) if found else None
        if owner is None:
            strays.append(entry)
        else:
            owner.entries.setdefault(found[1], []).append(entry)
    return strays


class Client(threading.Thread):
    """One batch's client: it stays for the answer, or leaves in its moment."""

    def __init__(self, rig, plan):
        super().__init__(daemon=True)
        self.rig = rig
        self.plan = plan
        self.record = Record(plan, rig.shards)
        self.failure = None
        self.sock = None
        self.answer = None

    def run(self):
        try:
            self.settle()
        except (OSError, AssertionError, http.client.HTTPException, ValueError) as e:
            self.failure = AssertionError(f"the client of {self.plan.tag}: {e!r}")

    def settle(self):
        headers = {"Accept": "application/x-ndjson"} if self.plan.stream else {}
        self.sock = self.rig.settled.start_post(self.plan.body, headers)
        leave = self.plan.leave
        if leave is not None and leave.pipelined:
            self.sock.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        if leave is None or (self.plan.stream and leave.when in ("headers", "lines")):
            self.read_head()
        if leave is None:
            self.read_answer()
        else:
            self.leave(leave)

    def read_head(self):
        self.answer = http.client.HTTPResponse(self.sock)
        self.answer.begin()
        self.record.status = self.answer.status
        self.record.headers = dict(self.answer.headers)
        self.record.id = self.answer.headers["Batch-Id"]
        if self.plan.glance and self.record.id is not None:
            self.record.glance = self.rig.settled.get_batch(self.record.id).json

    def read_answer(self):
        self.record.answer = self.answer.read()
        if self.plan.stream and self.record.status == 200:
            self.record.lines = [json.loads(line) for line in self.record.answer.splitlines()]
        self.close()

    def leave(self, leave):
        if leave.when == "lines":
            self.read_lines(leave.n)
        elif leave.when in ("requests", "answered", "gone"):
            self.wait_ledger(leave)
        self.record.left = True
        if leave.how == "half":
            # Where bytes were pipelined, the daemon's answer may have ended in a reset.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            return
        if leave.how == "rst":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()

    def read_lines(self, n):
        self.record.lines = []
        self.sock.settimeout(MOMENT_MS / 1000)
        with contextlib.suppress(TimeoutError):
            while len(self.record.lines) < n and (line := self.answer.readline()):
                self.record.lines.append(json.loads(line))

    def wait_ledger(self, leave):
        """Until the downstream has seen so much, or the answer is there."""
        with socket.create_connection(("127.0.0.1", self.rig.down.port), timeout=harness.LIMIT_S) as wait:
            wait.sendall(f"GET /_ledger/wait?{leave.when}={leave.n}&timeout_ms={MOMENT_MS} HTTP/1.1\r\n\r\n".encode())
            select.select([wait, self.sock], [], [], harness.LIMIT_S)

    def close(self):
        if self.answer is not None:
            self.answer.close()
        self.sock.close()
