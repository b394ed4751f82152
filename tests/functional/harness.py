"""What the functional tests share: the real programs on ports from the kernel,
their logs and the downstream's ledger as events to wait for, and TAP output.

No test sleeps: it waits for a log line, a ledger condition or an answer, each
with a generous limit that only a failure reaches.
"""

import base64
import contextlib
import copy
import fcntl
import http.client
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
import unittest

PATIENCE = float(os.environ.get("SETTLED_TEST_PATIENCE", "1"))
LIMIT_S = 30 * PATIENCE
# Perhaps under another program, such as valgrind.
SETTLED = [*os.environ.get("SETTLED_WRAP", "").split(), os.path.abspath(os.environ.get("SETTLED_BIN", "build/cmd/settled/settled"))]
# Where the daemons of the tests keep batches, unless a test says: disk or memory.
STORE = os.environ.get("SETTLED_TEST_STORE", "disk")
DOWNSTREAM = os.environ.get("DOWNSTREAM_BIN", "build/cmd/downstream/settled-downstream")

# The daemon drops lines that its reader has no room for: so much of them is one second's.
PIPE_BYTES = 1 << 20
# How long an attempt and a batch may take where a test is not about that: longer than any test waits.
FOR_LONG_MS = 3600000
# What hangs is given up after this time, or cut off: whatever does not hang comes sooner, also where the machine is slow
# and stands still for a second in between.
GIVE_UP_MS = max(2000, int(500 * PATIENCE))

# How the report of a sanitizer or of valgrind begins.
REPORT = re.compile(r"^==\d*=|: runtime error: ")

# What a developer's own daemon is told is not for those of the tests.
os.environ.pop("SETTLED_CONFIG", None)


class Process:
    """A child whose output lines can be waited for; ended by its own id. `files`: how many it may have open;
    `pass_fds`: what it inherits."""

    def __init__(self, argv, env=None, files=None, pass_fds=(), cwd=None):
        self.lines = []
        self.changed = threading.Condition()
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, bufsize=0,
                                      env={**os.environ, **(env or {})}, pass_fds=pass_fds, cwd=cwd,
                                      preexec_fn=files and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))))
        with contextlib.suppress(PermissionError):       # of who has many pipes already
            fcntl.fcntl(self.child.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        """What leaves the pipe is in `lines` before anybody else has the lock: see mark()."""
        out, rest = self.child.stdout, b""
        ready = select.poll()
        ready.register(out, select.POLLIN)
        while self.lines[-1:] != [None]:
            ready.poll()
            with self.changed:
                part = out.read(PIPE_BYTES)
                *lines, rest = (rest + part).split(b"\n")
                if not part:
                    lines += [rest] if rest else []
                self.lines += [line.decode(errors="replace") for line in lines] + ([] if part else [None])
                self.changed.notify_all()

    def mark(self):
        """The number of the next line: all that was written up to now stands before it."""
        until = time.monotonic() + LIMIT_S
        with self.changed:
            while self.lines[-1:] != [None] and struct.unpack("i", fcntl.ioctl(self.child.stdout, termios.FIONREAD, bytes(4)))[0]:
                if not self.changed.wait(until - time.monotonic()):
                    raise AssertionError("nobody reads what it writes")
            return len(self.lines)

    def wait_line(self, pattern, start=0):
        """The first match of `pattern` in the lines from number `start` on."""
        until = time.monotonic() + LIMIT_S
        with self.changed:
            at = start
            while True:
                for line in self.lines[at:]:
                    at += 1
                    if line is None:
                        raise AssertionError(f"ended without /{pattern}/:\n" + self.text())
                    found = re.search(pattern, line)
                    if found:
                        return found
                if not self.changed.wait(until - time.monotonic()):
                    raise AssertionError(f"no line /{pattern}/ in time:\n" + self.text())

    def text(self):
        return "\n".join(line for line in self.lines if line is not None)

    def stop(self, sig=signal.SIGTERM):
        """Ask it to end, and return its exit status."""
        if self.child.poll() is None:
            self.child.send_signal(sig)
        try:
            self.child.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError("it did not end:\n" + self.text())
        finally:
            self.reader.join(LIMIT_S)
            self.child.stdout.close()
        if self.child.returncode != 0:
            self._report()
        return self.child.returncode

    def _report(self):
        """What a sanitizer or valgrind wrote about it, for whoever reads the failure."""
        lines = list(filter(None, self.lines))
        first = next((n for n, line in enumerate(lines) if REPORT.search(line)), len(lines))
        for line in lines[first:]:
            print("#", line)


class Downstream(Process):
    def __init__(self, *args):
        super().__init__([DOWNSTREAM, "--listen", "127.0.0.1:0", *args])
        found = self.wait_line(r"listening on http://127\.0\.0\.1:(\d+)")
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, body=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        conn.request(method, path, body=body)
        answer = conn.getresponse()
        data = answer.read()
        conn.close()
        if answer.status >= 300:
            raise AssertionError(f"{method} {path}: {answer.status} {data!r}")
        return data

    def ledger(self, query=""):
        entries = [json.loads(line) for line in self.ask("GET", "/_ledger" + query).splitlines()]
        for e in entries:
            e["body"] = base64.b64decode(e["body"])
        return entries

    def clear(self):
        self.ask("DELETE", "/_ledger")

    def wait(self, **condition):
        """Until the ledger has requests=N, gone=N or in_flight=N."""
        condition.setdefault("timeout_ms", int(LIMIT_S * 1000))
        self.ask("GET", "/_ledger/wait?" + "&".join(f"{k}={v}" for k, v in condition.items()))

    def script(self, path, *behaviours):
        self.ask("POST", "/_script?path=" + path, "\n".join(behaviours).encode())

    def stats(self):
        return json.loads(self.ask("GET", "/_stats"))


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def results(self):
        return {r["id"]: r for r in self.json["results"]}


def undaunted(service):
    """A test that fails many items on purpose, or lets one ask for a pause, is about something else than what protects
    a downstream from all the others: there is neither breaker nor retry budget nor pause, unless a test wants them."""
    return {"breaker": {"failure_ratio": 0}, "retry_budget": {"per_second": 1000000}, "max_pause_ms": 0, **service}


class Daemon(Process):
    """The daemon; `config` is what differs from the tests' defaults, its store also "memory" or "disk"."""

    def __init__(self, config=None, downstream=None, env=None, args=(), files=None, cwd=None):
        self.dir = tempfile.mkdtemp(prefix="settled-test-")
        services = {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}
        if downstream is not None:
            services["push"] = {"kind": "http", "url": downstream.url + "/push/{to}"}
        full = {"listen": "127.0.0.1:0", "shards": 1, "log": {"level": "debug"}, "services": services, "store": STORE}
        full.update(config or {})
        # What is held is held as long as its test wants, on a machine however slow; and what is left to be written at
        # the end has the tests' patience.
        full["services"] = {name: {"attempt_timeout_ms": FOR_LONG_MS, **undaunted(service)}
                            for name, service in full["services"].items()}
        full["limits"] = {"deadline_ms": FOR_LONG_MS, "drain_ms": ms(25000), **full.get("limits", {})}
        if isinstance(full["store"], str):
            full["store"] = {"memory": True} if full["store"] == "memory" else {"path": os.path.join(self.dir, "data")}
        self.config_path = os.path.join(self.dir, "settled.json")
        with open(self.config_path, "w", encoding="utf-8") as f:
            json.dump(full, f)
        super().__init__([*SETTLED, "--config", self.config_path, *args], env, files, cwd=cwd)
        try:
            self.port = int(self.wait_line(r'event"?[=:]"?listening\b.*\bport"?[=:](\d+)')[1])
        except AssertionError:
            self.stop()
            raise

    def stop(self, sig=signal.SIGTERM):
        status = super().stop(sig)
        shutil.rmtree(self.dir, ignore_errors=True)
        return status

    def operations(self):
        """The same daemon, asked at its address for operations."""
        there = copy.copy(self)
        there.port = int(self.wait_line(r"event=listening_for_operations .*port=(\d+)")[1])
        return there

    def ask(self, method, path, body=None, headers=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            conn.request(method, path, body=body, headers=headers or {})
            answer = conn.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            conn.close()

    def post(self, batch, headers=None):
        """POST a batch (a value, or bytes sent as they are) and return the answer."""
        body = encode(batch)
        return self.ask("POST", "/v1/batches", body, {"Content-Type": "application/json", **(headers or {})})

    def start_post(self, batch, headers=None, version="HTTP/1.1"):
        """Send a batch on a socket of its own and return the socket."""
        body = encode(batch)
        head = {"Host": "127.0.0.1", "Content-Type": "application/json",
                "Content-Length": str(len(body)), **(headers or {})}
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)
        sock.sendall((f"POST /v1/batches {version}\r\n"
                      + "".join(f"{k}: {v}\r\n" for k, v in head.items()) + "\r\n").encode() + body)
        return sock

    def get_batch(self, batch_id):
        return self.ask("GET", "/v1/batches/" + batch_id)

    def wait_done(self, reason="", start=0):
        """The log line of the next batch that is done, as a dict of its fields."""
        found = self.wait_line(r"event=batch_done .*" + (f"stop_reason={reason}" if reason else ""), start)
        return dict(re.findall(r"(\w+)=(\S+)", found.string))

    def metrics(self):
        text = self.ask("GET", "/metrics").body.decode()
        return {m[1]: float(m[2]) for m in re.finditer(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.M)}


def encode(batch):
    """Bytes stay as they are; a value's items go to webhooks where it says nothing."""
    if isinstance(batch, bytes):
        return batch
    return json.dumps({"service": "webhook", **batch} if isinstance(batch, dict) else batch).encode()


def ms(n):
    """A policy's time in which a daemon, however slow, has to have come somewhere."""
    return int(n * PATIENCE)


def reset(sock):
    """Close a socket with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def item(n, to, **more):
    return {"id": f"i{n}", "to": to, "payload": {"n": n}, **more}


class Case(unittest.TestCase):
    """A downstream and a daemon for the tests of one class; `config` may be set."""

    config = None
    longMessage = True
    maxDiff = None

    @classmethod
    def start_daemon(cls):
        """The daemon, with `cls.down` running."""
        return Daemon(cls.config, cls.down)

    @classmethod
    def setUpClass(cls):
        cls.down = Downstream()
        try:
            cls.settled = cls.start_daemon()
        except AssertionError:
            cls.down.stop()
            raise

    @classmethod
    def tearDownClass(cls):
        status = cls.settled.stop()
        cls.down.stop()
        if status != 0:
            raise AssertionError(f"the daemon ended with {status}:\n" + cls.settled.text())

    def setUp(self):
        self.down.clear()
        self.log_start = self.settled.mark()

    def url(self, path):
        return self.down.url + path


class _Tap(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.n = 0

    def _line(self, ok, test, note=""):
        self.n += 1
        name = test.id().split(".", 1)[-1] if "." in test.id() else str(test)
        print(f"{ok} {self.n} - {name}{note}", flush=True)

    def addSuccess(self, test):
        self._line("ok", test)

    def _bad(self, test, err):
        self._line("not ok", test)
        for line in "".join(traceback.format_exception(*err)).splitlines():
            print("# " + line)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._bad(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self._bad(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            super().addSubTest(test, subtest, err)
            self._bad(subtest, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._line("ok", test, f" # SKIP {reason}")


def overridden(case):
    """The methods of unittest that a class of tests, or one that it is made from, has by a name of its
    own. assertEqual() ends in fail(): a helper of that name would let every wrong result pass."""
    fixtures = {"setUp", "tearDown", "setUpClass", "tearDownClass"}
    return [f"{c.__name__}.{name}" for c in case.__mro__[:case.__mro__.index(unittest.TestCase)]
            for name in vars(c) if callable(getattr(unittest.TestCase, name, None)) and not name.startswith("__")
            and name not in fixtures]


def main(module="__main__"):
    """Run a file's tests (or those named on the command line) and print TAP."""
    names = sys.argv[1:]
    taken = {name for c in vars(sys.modules[module]).values()
             if isinstance(c, type) and issubclass(c, unittest.TestCase) and c is not unittest.TestCase
             for name in overridden(c)}
    if taken:
        sys.exit(f"{', '.join(sorted(taken))}: unittest has a method of this name and calls it; take another one")
    loader = unittest.defaultTestLoader
    suite = (loader.loadTestsFromNames(names, sys.modules[module]) if names
             else loader.loadTestsFromModule(sys.modules[module]))
    result = _Tap()
    print("TAP version 13")
    suite.run(result)
    print(f"1..{result.n}")
    sys.exit(0 if result.wasSuccessful() else 1)
