"""A collector of spans for the tests: OTLP over HTTP in JSON, as strict as the
protocol, that answers what it is told to."""

import http.server
import json
import select
import threading

from harness import LIMIT_S


class Collector:
    """`answers` are the statuses of the first requests, 200 comes after them; `door`, if
    given, is an event that each request waits for before it is answered; `tls`, if given, the context to serve with."""

    def __init__(self, answers=(), door=None, tls=None):
        self.answers, self.door = list(answers), door
        self.requests, self.spans = [], []
        self.open, self.most = set(), 0  # connections whose request waits for its answer; how many at once
        self.changed = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.take(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def take(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self.changed:
            status = self.answers.pop(0) if self.answers else 200
            # Of what was given up the answer is not awaited.
            self.open = {conn for conn in self.open if not left(conn)} | {handler.connection}
            self.most = max(self.most, len(self.open))
            self.requests.append((handler.path, dict(handler.headers), status))
            self.changed.notify_all()
        if self.door is not None:
            self.door.wait(LIMIT_S)
        with self.changed:
            if status == 200:
                self.spans += read(body)
            self.open.discard(handler.connection)
            self.changed.notify_all()
        try:
            handler.send_response(status)
            handler.send_header("Content-Length", "2")
            handler.end_headers()
            handler.wfile.write(b"{}")
        except OSError:
            pass

    def wait(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(condition, LIMIT_S):
                raise AssertionError(f"not in time: {what}; {len(self.spans)} spans, {self.requests}")

    def wait_spans(self, n):
        self.wait(lambda: len(self.spans) >= n, f"{n} spans")
        return self.spans

    def close(self):
        if self.door is not None:
            self.door.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(LIMIT_S)


def left(conn):
    look = select.poll()
    look.register(conn, select.POLLRDHUP)
    return bool(look.poll(0))


def read(body):
    """The spans of a request, each checked against the protocol."""
    doc = json.loads(body)
    spans = []
    assert set(doc) == {"resourceSpans"}
    for resource in doc["resourceSpans"]:
        about = attributes(resource["resource"]["attributes"])
        assert about["service.name"] == "settled" and about["service.version"], about
        for scope in resource["scopeSpans"]:
            assert scope["scope"]["name"] == "settled"
            spans += [read_span(s) for s in scope["spans"]]
    return spans


def read_span(s):
    assert set(s) <= {"traceId", "spanId", "parentSpanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano",
                      "attributes", "status"}, s
    for key, digits in (("traceId", 32), ("spanId", 16), ("parentSpanId", 16)):
        if key in s:
            assert len(s[key]) == digits and int(s[key], 16) > 0 and s[key] == s[key].lower(), s
    assert s["kind"] in (1, 2, 3) and s["name"]
    assert isinstance(s["startTimeUnixNano"], str) and isinstance(s["endTimeUnixNano"], str)
    return {"trace": s["traceId"], "id": s["spanId"], "parent": s.get("parentSpanId"), "name": s["name"],
            "kind": {1: "internal", 2: "server", 3: "client"}[s["kind"]], "start": int(s["startTimeUnixNano"]),
            "end": int(s["endTimeUnixNano"]), "attributes": attributes(s["attributes"]),
            "failed": s["status"].get("code", 0) == 2}


def attributes(pairs):
    found = {}
    for pair in pairs:
        (kind, value), = pair["value"].items()
        assert kind in ("stringValue", "intValue") and isinstance(value, str) and pair["key"] not in found, pair
        found[pair["key"]] = int(value) if kind == "intValue" else value
    return found
