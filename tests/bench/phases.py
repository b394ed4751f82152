"""The measurements. Each takes running processes and returns plain values."""

import http.client
import json
import socket
import subprocess
import threading
import time

from procs import Failed, Settled, logfmt
from stats import distribution, spread

# Contract section 9; what limits settled to the same 64 at once as the others.
IN_FLIGHT = 64

# For a batch of 100,000; everything else is measured with the limits as shipped.
RAISED = {"items": 100000, "body_bytes": 64 << 20}


def http_service(port, max_in_flight):
    return {"kind": "http", "url": f"http://127.0.0.1:{port}/send/{{to}}", "max_in_flight": max_in_flight,
            "attempt_timeout_ms": 60000}


def post_batch(port, batch):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        c.request("POST", "/v1/batches", json.dumps(batch), {"content-type": "application/json"})
        answer = c.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        c.close()


def small_batch(n, service="push"):
    return {"service": service, "concurrency": IN_FLIGHT,
            "items": [{"id": f"u{i}", "to": f"user-{i}", "payload": {"n": i}} for i in range(n)]}


def check_sender(name, port):
    """Once, before anything is timed: the whole answer, item by item."""
    for n in (1, 100):
        status, body = post_batch(port, small_batch(n))
        results = body.get("results", [])
        wanted = [(i, f"u{i}", "succeeded", True, "m-1") for i in range(n)]
        got = [(r.get("index"), r.get("id"), r.get("status"), r.get("ok"), r.get("message_id")) for r in results]
        if status != 200 or body.get("outcome") != "succeeded" or got != wanted:
            raise Failed(f"{name} does not settle a batch of {n}: {status} {json.dumps(body)[:600]}")


class Capture:
    """A downstream that keeps the first request as it came, to compare what senders send."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.requests = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                conn, _ = self.socket.accept()
            except OSError:
                return
            with conn:
                raw = b""
                while not self.complete(raw):
                    more = conn.recv(65536)
                    if not more:
                        break
                    raw += more
                self.requests.append(raw)
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n"
                             b'{"id":"m-1"}')

    @staticmethod
    def complete(raw):
        head, blank, body = raw.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return bool(blank) and len(body) >= int(value)
        return bool(blank)

    def take(self):
        raw = self.requests.pop()
        head, _, body = raw.partition(b"\r\n\r\n")
        names = sorted(line.partition(b":")[0].decode().lower() for line in head.split(b"\r\n")[1:])
        return {"bytes": len(raw), "body_bytes": len(body), "headers": names}

    def close(self):
        # close() alone would leave the thread in accept().
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def request_shapes(procs, capture, with_settled):
    """One request of each sender: are they comparable?"""
    shapes = {}
    url = f"http://127.0.0.1:{capture.port}/send/"
    for name, extra in (("bare", []), ("minimal", ["--minimal"])):
        procs.run_tool(procs.sender_cpu, [procs.tool("bare"), "--url", url, "--batch", 1, "--streams", 1,
                                          "--requests", 1, *extra], 10)
        shapes[name] = capture.take()
    if with_settled:
        daemon = Settled(procs, {"push": http_service(capture.port, 1)})
        procs.run_tool(procs.load_cpu, [procs.tool("load"), "--port", daemon.port, "--batch", 1, "--connections", 1,
                                        "--ms", 1], 10)
        shapes["settled"] = capture.take()
        daemon.stop()
    return shapes


class Throughput:
    """Senders in turn, round after round, so that a slow minute hits them all."""

    def __init__(self, procs, opts, upstream, targets):
        self.procs, self.opts, self.upstream, self.targets = procs, opts, upstream, targets
        self.rounds = []                     # [{(sender, size): measurement}]

    def cells(self):
        for size in self.opts.sizes:
            for sender in self.opts.senders:
                # A batch of 10,000 is for flatness: Node would open 10,000 connections at once.
                if sender == "node" and size > 1000:
                    continue
                yield sender, size

    def measure(self, sender, size, ms, warmup_ms):
        common = ["--batch", size, "--ms", ms, "--warmup-ms", warmup_ms]
        if sender in ("bare", "minimal"):
            argv = [self.procs.tool("bare"), "--url", self.upstream, "--in-flight", IN_FLIGHT,
                    "--streams", self.opts.connections, *common]
            cpu = self.procs.sender_cpu
            if sender == "minimal":
                argv.append("--minimal")
        else:
            pid, port = self.targets[sender]
            argv = [self.procs.tool("load"), "--port", port, "--cpu-pid", pid, "--concurrency", IN_FLIGHT,
                    "--connections", self.opts.connections, *common]
            cpu = self.procs.load_cpu
        found = self.procs.run_tool(cpu, argv, 60 + ms / 1000)[0]
        found["items_s"] = found["items"] / found["seconds"]
        found["cpu_us_item"] = found["cpu_seconds"] * 1e6 / found["items"]
        found["busy"] = found["cpu_seconds"] / found["seconds"]
        return found

    def run(self, progress):
        # Half of the time is left for what follows; fewer whole rounds are better than none.
        began, budget = time.monotonic(), self.opts.max_seconds * 0.5
        for sender in self.targets:          # compilers of hot code, allocators, connections
            self.measure(sender, 100, 2000 if sender == "node" else 500, 0)
        for n in range(self.opts.rounds):
            cells = list(self.cells())
            turn = n % len(cells)
            found = {}
            for sender, size in cells[turn:] + cells[:turn]:
                progress(f"round {n + 1}/{self.opts.rounds}: {sender}, batches of {size}")
                found[sender, size] = self.measure(sender, size, int(self.opts.seconds * 1000), 150)
            self.rounds.append(found)
            used = time.monotonic() - began
            if used + used / (n + 1) > budget:
                break

    def summary(self):
        found = {"rounds": len(self.rounds), "cells": [], "ratios": [], "flatness": []}
        for sender, size in self.cells():
            runs = [r[sender, size] for r in self.rounds]
            found["cells"].append({"sender": sender, "batch": size, "runs": runs,
                                   **{key: spread([r[key] for r in runs])
                                      for key in ("items_s", "cpu_us_item", "busy")}})
        for size in self.opts.sizes:
            for other in ("bare", "minimal", "node"):
                found["ratios"] += self.ratio("items_s", ("settled", size), (other, size))
                if other == "bare":
                    found["ratios"] += self.ratio("cpu_us_item", ("settled", size), (other, size))
        for sender in ("settled", "bare"):
            for size in (s for s in self.opts.sizes if s > 100):
                for key in ("cpu_us_item", "items_s"):
                    found["flatness"] += self.ratio(key, (sender, size), (sender, 100))
        return found

    def ratio(self, key, one, other):
        """Per round, so that both parts come from the same minute."""
        if not all(one in r and other in r for r in self.rounds):
            return []
        values = [r[one][key] / r[other][key] for r in self.rounds]
        return [{"of": key, "one": list(one), "other": list(other), "values": values, **spread(values)}]


def batch_ends(log_text):
    """(gone, done) in microseconds for every batch that its client left."""
    for line in log_text.splitlines():
        if "event=batch_done" not in line:
            continue
        fields = logfmt(line)
        if fields.get("stop_reason") != "disconnected":
            continue
        if "ended_at_us" not in fields or "done_at_us" not in fields:
            raise Failed(f"the log line lacks ended_at_us or done_at_us: {line}")
        yield int(fields["ended_at_us"]), int(fields["done_at_us"])


def match_ends(aborts, ends):
    """Aborts came one after the other, so each owns the one end before the next close."""
    ends = sorted(ends)
    at = 0
    for i, abort in enumerate(aborts):
        until = aborts[i + 1]["closed_us"] if i + 1 < len(aborts) else float("inf")
        while at < len(ends) and ends[at][0] < abort["closed_us"]:
            at += 1
        if at == len(ends) or ends[at][0] >= until:
            raise Failed(f"no log line for abort {i + 1} of {len(aborts)}")
        abort["ended_at_us"], abort["done_at_us"] = ends[at]
        at += 1
    return aborts


def abort_row(n, kind, loaded, aborts):
    def since_close(key):
        return distribution([a[key] - a["closed_us"] for a in aborts])

    return {"in_flight": n, "kind": kind, "loaded": loaded, "aborts": len(aborts),
            "detected_us": since_close("ended_at_us"), "removed_us": since_close("done_at_us"),
            "last_fin_us": since_close("last_fin_us")}


def wait_for_ends(daemon, n):
    """The log's last line may come a moment after the last FIN."""
    give_up = time.monotonic() + 5
    while True:
        ends = list(batch_ends(daemon.log_text()))
        if len(ends) >= n or time.monotonic() > give_up:
            return ends
        time.sleep(0.02)


class Aborts:
    """Rows of aborts of one daemon, idle at first, then busy with batches for nginx."""

    def __init__(self, procs, sink, opts, nginx_port):
        self.procs, self.sink, self.opts = procs, sink, opts
        self.daemon = Settled(procs, {"hang": http_service(sink.port, 1024),
                                      "push": http_service(nginx_port, IN_FLIGHT)})
        self.rows, self.total = [], 0

    def row(self, n, kind, loaded, progress):
        progress(f"abort: {n} in flight, {kind}{', under load' if loaded else ''}")
        count = self.opts.aborts if n < 500 else max(10, self.opts.aborts * 2 // 5)
        argv = [self.procs.tool("abort"), "--sink-fd", self.sink.fd, "--port", self.daemon.port, "--items", n,
                "--count", count, *(["--reset"] if kind == "RST" else [])]
        found = self.procs.run_tool(self.procs.load_cpu, argv, 60, pass_fds=[self.sink.fd])
        self.total += count
        ends = wait_for_ends(self.daemon, self.total)
        self.rows.append(abort_row(n, kind, loaded, match_ends(found, ends)))

    def run(self, progress):
        for n in (1, 10, 50, 500):
            for kind in ("FIN", "RST"):
                self.row(n, kind, False, progress)
        load = self.procs.start(self.procs.load_cpu, [self.procs.tool("load"), "--port", self.daemon.port,
                                                      "--ms", 600000], stdout=subprocess.DEVNULL)
        for n in (1, 50):
            self.row(n, "FIN", True, progress)
        if load.poll() is not None:
            raise Failed("the load client ended while aborts were measured")
        self.procs.stop(load)
        self.daemon.stop()
        return self.rows


def held_memory(procs, sink, items, concurrency):
    """A fresh daemon before and while it holds one batch at a downstream that hangs."""
    daemon = Settled(procs, {"hang": http_service(sink.port, 1024)}, RAISED if items > 10000 else None)
    before = daemon.settled_memory()
    p = procs.start(procs.load_cpu, [procs.tool("abort"), "--sink-fd", sink.fd, "--port", daemon.port, "--hold",
                                     "--items", items, "--concurrency", concurrency],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[sink.fd], text=True)
    line = p.stdout.readline()
    if not line:
        raise Failed(f"a batch of {items} was not held: {daemon.log_text()[-600:]}")
    batch = json.loads(line)
    held = daemon.settled_memory()
    p.stdin.close()
    p.stdin = None
    p.wait(30)
    procs.stop(p)
    daemon.stop()
    grown = held["vmrss"] - before["vmrss"]
    return {"items": items, "in_flight": batch["in_flight"], "before": before, "held": held, **batch,
            "per_item": grown / items, "per_item_beyond_payload": (grown - batch["payload_bytes"]) / items,
            "per_item_beyond_request": (grown - batch["request_bytes"]) / items}


def memory(procs, sink, progress):
    progress("memory: idle")
    daemon = Settled(procs, {"hang": http_service(sink.port, 1024)})
    found = {"idle": daemon.settled_memory(), "queued": [], "in_flight": []}
    daemon.stop()
    for items in (10000, 100000):
        progress(f"memory: {items} queued")
        found["queued"].append(held_memory(procs, sink, items, 1))
    progress("memory: 1000 in flight")
    found["in_flight"].append(held_memory(procs, sink, 1000, 1000))
    return found
