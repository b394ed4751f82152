"""What the tests about clients that leave, streams and real clients share:
services that answer when they are told to, ways to leave, and a look at what
the daemon still holds."""

import http.client
import os
import re
import shutil
import signal
import socket
import time
import unittest

import gate
import harness
from harness import LIMIT_S, PATIENCE

GAUGES = re.compile(r"^settled_(?:attempts_in_flight|items_queued|items_unfinished|requests_parked|requests_waiting|event_readers|"
                    r"tenant_held)\S* (\S+)$", re.M)


def fin(sock):
    sock.close()


def half_close(sock):
    sock.shutdown(socket.SHUT_WR)


LOOPBACK = ("127.0.0.1", "127.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0177.1")
SYN_SENT = "02"
LEAVE = {"FIN": fin, "RST": harness.reset}


def until(condition, what):
    """Ask again and again: for what nothing announces. `what` may be a function,
    which then says how far it came. Between two looks the processor is left to
    who is waited for, and to the tests beside this one."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not in time: {what() if callable(what) else what}")
        time.sleep(0.002 * PATIENCE)


def queues(local, peer):
    """What a connection of this machine has not got rid of, and what it has not read."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        for f in map(str.split, table):
            if f[1].endswith(f":{local:04X}") and f[2].endswith(f":{peer:04X}"):
                return tuple(int(n, 16) for n in f[4].split(":"))
    return 0, 0


def wait_taken(sock):
    """Until the daemon has read all that was sent to it."""
    here, there = sock.getsockname()[1], sock.getpeername()[1]
    until(lambda: queues(here, there)[0] == 0, "it arrives")
    until(lambda: queues(there, here)[1] == 0, "it is read")


def stop_for_a_moment(child):
    """A process that waits is interrupted, as by the freezer of a container."""
    def waits():
        with open(f"/proc/{child.pid}/stat", encoding="ascii") as f:
            return f.read().rpartition(") ")[2][0] == "S"

    until(waits, "it waits")
    for sig, then in ((signal.SIGSTOP, os.WSTOPPED), (signal.SIGCONT, os.WCONTINUED)):
        child.send_signal(sig)
        os.waitid(os.P_PID, child.pid, then)


def need(*tools):
    """Without a tool its tests are skipped; where everything has to run they fail."""
    missing = [t for t in tools if shutil.which(t) is None]
    if not missing:
        return
    if os.environ.get("CI") == "true":
        raise AssertionError(f"not installed: {' '.join(missing)}")
    raise unittest.SkipTest(f"not installed: {' '.join(missing)}")


class Rest:
    """What a daemon holds when nothing goes on. It asks on one connection that
    stays open, so that asking changes nothing."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.conn = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=LIMIT_S)
        self.gauges()
        self.at_first = self.fds()

    def close(self):
        self.conn.close()

    def fds(self):
        return len(os.listdir(f"/proc/{self.daemon.child.pid}/fd"))

    def gauges(self):
        self.conn.request("GET", "/metrics")
        found = GAUGES.findall(self.conn.getresponse().read().decode())
        assert len(found) >= 3, found
        return sum(abs(float(v)) for v in found)

    def wait(self):
        """Until every descriptor and every gauge is back where it was."""
        until(lambda: self.gauges() == 0 and self.fds() == self.at_first,
              lambda: f"{self.gauges()} in the gauges, {self.fds()} descriptors instead of {self.at_first}")


class Case(harness.Case):
    """A harness.Case that knows what its daemon held before the first batch."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.rest = Rest(cls.settled)

    @classmethod
    def tearDownClass(cls):
        cls.rest.close()
        super().tearDownClass()

    def url(self, path):
        """The downstream closes its connections, so that none stays in the pool."""
        return super().url(path + ("&" if "?" in path else "?") + "keep=no")

    def spread(self, n, path):
        """The same, the host written in one of several ways: each is a lane of its
        own, and several shards divide the lanes among them."""
        return self.url(path).replace("127.0.0.1", LOOPBACK[n % len(LOOPBACK)])

    def batches_done(self):
        return [line for line in self.settled.lines[self.log_start:] if line and "event=batch_done" in line]

    def settle(self, batch, status, headers=None):
        """Post a batch that settles; its line is in the log when this returns."""
        answer = self.settled.post(batch, headers)
        self.assertEqual(answer.status, status)
        self.settled.wait_line("event=batch_done batch=" + answer.headers["Batch-Id"], self.log_start)
        return answer

    def leave_and_get(self, leave, sock):
        """Leave, wait for the end, check that log and document agree; the document."""
        leave(sock)
        return self.aborted()

    def aborted(self, reason="disconnected"):
        done = self.settled.wait_done(reason, self.log_start)
        answer = self.settled.get_batch(done["batch"])
        self.assertEqual(answer.status, 200)
        doc = answer.json
        self.assertEqual((doc["state"], doc["stop_reason"]), ("done", reason))
        self.assertEqual(sum(done["batch"] in line for line in self.batches_done()), 1)
        self.assertEqual({k: int(done[k]) for k in ("items", "succeeded", "failed", "indeterminate", "not_attempted")},
                         {"items": doc["counts"]["total"], **{k: doc["counts"][k] for k in (
                             "succeeded", "failed", "indeterminate", "not_attempted")}})
        self.assertEqual((doc["counts"]["pending"], done["outcome"]), (0, doc["outcome"]))
        self.assertEqual(int(done["attempts"]), sum(r["attempts"] for r in doc["results"]))
        doc["ended_at_us"] = int(done["ended_at_us"])
        return doc

    def facts(self, doc, *names):
        """The set of what the items' results say under these names; code is the error's."""
        return {tuple(r.get("error", {}).get("code") if n == "code" else r.get(n) for n in names)
                for r in doc["results"]}


class HeldCase(Case):
    """With a downstream that holds on to requests, for each test its own."""

    def setUp(self):
        super().setUp()
        self.held = gate.Held()
        self.addCleanup(self.held.close)


class Unreachable:
    """A port that nothing answers from: its queue of connections is full."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self.listener.getsockname()[1]
        self.waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self.waiting.append(sock)
        self.at_first = self.connecting()

    def connecting(self):
        with open("/proc/net/tcp", encoding="ascii") as table:
            fields = [line.split() for line in table]
        return sum(f[2].endswith(f":{self.port:04X}") and f[3] == SYN_SENT for f in fields)

    def wait_connecting(self, n):
        until(lambda: self.connecting() - self.at_first == n, f"{n} connections being made")

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    def close(self):
        for sock in (*self.waiting, self.listener):
            sock.close()
