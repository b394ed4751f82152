"""What the tests that read batches share: event streams, results page by page,
and clients that take their time."""

import contextlib
import http.client
import json
import re
import socket
from collections import namedtuple

import harness
import kit

ASYNC = {"Prefer": "respond-async"}
NDJSON = {"Accept": "application/x-ndjson"}
MEMORY = {"store": {"memory": True}}
DAY_MS = 24 * 3600 * 1000
ID_BYTES = 100

Event = namedtuple("Event", "name id data")
COMMENT = Event(None, None, None)


class Events:
    """The client's end of an event stream; next() waits for an event."""

    def __init__(self, daemon, batch_id, last=None, version=None):
        self.conn = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=harness.LIMIT_S)
        if version is not None:
            self.conn._http_vsn_str = version
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        self.conn.request("GET", f"/v1/batches/{batch_id}/events", headers=headers)
        self.answer = self.conn.getresponse()
        self.status, self.headers = self.answer.status, self.answer.headers

    def any(self):
        """The next event or comment; None: the stream has ended as it should."""
        fields = {}
        while (line := self.answer.readline().decode()) not in ("\n", ""):
            name, _, value = line.rstrip("\n").partition(":")
            assert name not in fields, line
            fields[name] = value.removeprefix(" ")
        if line == "":
            assert not fields, fields
            return None
        if fields == {"": ""}:
            return COMMENT
        assert set(fields) == {"event", "id", "data"}, fields
        return Event(fields["event"], int(fields["id"]), json.loads(fields["data"]))

    def next(self):
        while (event := self.any()) is COMMENT:
            pass
        return event

    def until(self, name):
        """Events up to the first one of this name, which is the last in the list."""
        events = [self.next()]
        while events[-1].name != name:
            events.append(self.next())
        return events

    def rest(self):
        return list(iter(self.next, None))

    def close(self):
        self.answer.close()
        self.conn.close()


def items(events):
    return [e for e in events if e.name == "item"]


class SlowReader:
    """A request on a connection whose own buffer is small, so that reading is what it is about."""

    def __init__(self, daemon, request, room=4096, blocked=16384):
        self.blocked = blocked
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.sock.settimeout(harness.LIMIT_S)
        self.sock.connect(("127.0.0.1", daemon.port))
        self.sock.sendall(request)
        self.ports = self.sock.getpeername()[1], self.sock.getsockname()[1]

    def unsent(self):
        """Bytes that the daemon's kernel has for this client and cannot get rid of."""
        return kit.queues(*self.ports)[0]

    def wait_blocked(self):
        kit.until(lambda: self.unsent() > self.blocked, lambda: f"{self.unsent()} bytes unsent")

    def bytes(self):
        """All that comes up to the end of the connection."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := self.sock.recv(1 << 20):
                data += part
        return data

    def rest(self):
        """The body, out of its chunks, to a proper end."""
        data = self.bytes()
        head, _, data = data.partition(b"\r\n\r\n")
        assert b"\r\nTransfer-Encoding: chunked" in head, head
        return unchunk(data)

    def close(self):
        self.sock.close()


def unchunk(data):
    """What chunks hold, up to their proper end."""
    text = []
    while True:
        size, _, data = data.partition(b"\r\n")
        if int(size, 16) == 0:
            break
        text.append(data[:int(size, 16)])
        data = data[int(size, 16) + 2:]
    assert data == b"\r\n", data
    return b"".join(text)


def resident(daemon):
    with open(f"/proc/{daemon.child.pid}/status", encoding="ascii") as f:
        return int(re.search(r"^VmRSS:\s+(\d+) kB", f.read(), re.M)[1]) * 1024


def instrumented(daemon):
    """Under a sanitizer or valgrind, whose own memory says nothing about ours."""
    with open(f"/proc/{daemon.child.pid}/maps", encoding="ascii") as f:
        return re.search("lib[at]san|vgpreload", f.read()) is not None


def final_at_once(n, held=None):
    """A batch of n items that are final from the start, invalid as they are, and
    perhaps of one that is held. Their ids are long, so that results are."""
    first = [] if held is None else [{"id": "held", "to": held.url("held"), "payload": 0}]
    return {"contract": "best_effort", "deadline_ms": DAY_MS, "attempt_timeout_ms": 600000, "items": [
        *first, *({"id": str(i).rjust(ID_BYTES, "x"), "to": "x", "payload": 0} for i in range(n))]}


class Case(kit.HeldCase):
    """A kit.HeldCase with jobs."""

    def job(self, batch):
        """Accepted as a job: its id."""
        answer = self.settled.post(batch, ASYNC)
        self.assertEqual(answer.status, 202, answer.body)
        return answer.headers["Batch-Id"]

    def stream(self, batch):
        """A synchronous batch that runs, answered by a stream: its id."""
        sock = self.settled.start_post(batch, NDJSON)
        self.addCleanup(sock.close)
        answer = http.client.HTTPResponse(sock)
        self.addCleanup(answer.close)
        answer.begin()
        self.assertEqual(answer.status, 200)
        return answer.headers["Batch-Id"]

    def ended(self, batch_id):
        """The batch as soon as it is done."""
        doc = self.settled.ask("GET", "/v1/batches/" + batch_id, headers={"Prefer": "wait=30"}).json
        self.assertEqual(doc["state"], "done")
        return doc

    def settled_job(self, batch):
        batch_id = self.job(batch)
        self.ended(batch_id)
        return batch_id

    def events(self, batch_id, last=None, **more):
        stream = Events(self.settled, batch_id, last, **more)
        self.addCleanup(stream.close)
        self.assertEqual((stream.status, stream.headers["Content-Type"]), (200, "text/event-stream"))
        return stream

    def problem(self, answer, status, code):
        self.assertEqual((answer.status, answer.headers["Content-Type"], answer.json["code"]),
                         (status, "application/problem+json", code), answer.body)

    def faults(self, path, headers=()):
        """What is wrong with the query, as pairs of parameter and code."""
        answer = self.settled.ask("GET", path, headers=dict(headers))
        self.problem(answer, 422, "validation_failed")
        self.assertEqual(answer.json["error_count"], len(answer.json["errors"]))
        return [(e["pointer"].removeprefix("#/query/"), e["code"]) for e in answer.json["errors"]]
