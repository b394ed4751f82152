"""Clients that send slowly, or too many at once: time limits are absolute, the
connection limit holds, and healthy requests are served all the while.

SETTLED_SLOW_CLIENTS=N sets how many of each kind crowd in: 2000 unless given, or as
many as the process may have sockets for."""

import http.client
import json
import os
import resource
import select
import socket
import threading
import time

import gate
import harness
import kit
import rawhttp
import reading
from harness import item


class Dripper(threading.Thread):
    """Sends one byte at a time on each of some sockets until their peer closes."""

    def __init__(self, port, starts):
        super().__init__(daemon=True)
        self.todo = {}
        for start, rest in starts:
            sock = rawhttp.dial(port)
            sock.sendall(start)
            self.todo[sock] = [rest, 0]
        self.all = list(self.todo)
        self.closed = 0
        self.stopped = threading.Event()

    def run(self):
        while self.todo and not self.stopped.is_set():
            readable, _, _ = select.select(list(self.todo), [], [], 0.02)
            for sock in readable:
                self.drop(sock, self.heard(sock))
            for sock in list(self.todo):
                rest, at = self.todo[sock]
                try:
                    sock.send(rest[at % len(rest):at % len(rest) + 1])
                    self.todo[sock][1] += 1
                except (BrokenPipeError, ConnectionResetError):
                    self.drop(sock, False)

    @staticmethod
    def heard(sock):
        try:
            return bool(sock.recv(65536))
        except ConnectionResetError:
            return False

    def drop(self, sock, alive):
        if not alive:
            self.closed += 1
            del self.todo[sock]

    def wait_closed(self, case):
        """Every one of them was cut off by the other side."""
        self.join(harness.LIMIT_S)
        self.stopped.set()
        for sock in self.all:
            sock.close()
        case.assertEqual(self.closed, len(self.all))


HEAD = b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLOW = {
    "request line": (b"", b"G"),
    "empty lines": (b"", b"\r\n"),
    "header name": (HEAD, b"x"),
    "header lines": (HEAD, b"a: b\r\n"),
    "body by length": (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
    "body in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "one endless chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n", b" "),
    "chunk extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", b"a: b\r\n"),
    "second request": (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"G"),
}


class Slow(harness.Case):
    config = {"limits": {"header_ms": harness.GIVE_UP_MS, "body_ms": harness.GIVE_UP_MS, "idle_ms": harness.GIVE_UP_MS}}

    def serves(self):
        self.assertEqual(self.settled.post({"items": [item(1, self.url("/ok"))]}).status, 200)

    def test_what_drips_byte_by_byte_is_cut_at_an_absolute_limit(self):
        dripper = Dripper(self.settled.port, SLOW.values())
        dripper.start()
        for _ in range(20):
            self.serves()
        dripper.wait_closed(self)
        self.serves()

    def test_two_hundred_slow_clients_do_not_keep_others_from_being_served(self):
        kinds = list(SLOW.values())
        dripper = Dripper(self.settled.port, [kinds[n % len(kinds)] for n in range(200)])
        dripper.start()
        for _ in range(50):
            self.serves()
        dripper.wait_closed(self)
        self.serves()

    def test_silent_clients_are_cut_too(self):
        socks = [rawhttp.dial(self.settled.port) for _ in range(3)]
        socks[1].sendall(HEAD)
        socks[2].sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        for sock in socks:
            self.assertTrue(rawhttp.is_closed(sock))
            sock.close()
        self.serves()

    def test_an_idle_connection_is_closed_without_a_word(self):
        with rawhttp.dial(self.settled.port) as sock, sock.makefile("rb") as stream:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
            self.assertEqual(stream.read(), b"")

    def test_nothing_of_a_cut_request_is_sent(self):
        self.down.clear()
        body = harness.encode({"items": [item(1, self.url("/ok"))]})
        with rawhttp.dial(self.settled.port) as sock:
            sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
            self.assertTrue(rawhttp.is_closed(sock))
        self.assertEqual(self.down.ledger(), [])


class Stalled(harness.Case):
    config = {"limits": {"write_ms": 300, "connections": 1}}

    def test_a_client_that_takes_nothing_of_its_answer_loses_its_place(self):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(harness.LIMIT_S)
            sock.connect(("127.0.0.1", self.settled.port))
            sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
            select.select([sock], [], [])
            self.assertEqual(self.settled.ask("GET", "/livez").status, 200)


class HeldCase(harness.Case):
    """Without the connection that a kit.HeldCase keeps open."""

    def setUp(self):
        super().setUp()
        self.held = gate.Held()
        self.addCleanup(self.held.close)


class Connections(HeldCase):
    # The callers of one of several services may not hold them all.
    config = {"limits": {"connections": 5}, "services": {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}}

    def test_connections_over_the_limit_wait_and_are_served_when_others_close(self):
        first = [self.settled.start_post({"items": [item(n, self.held.url(f"p{n}"))]}) for n in range(5)]
        self.held.wait(*(f"p{n}" for n in range(5)))
        waiting = [rawhttp.dial(self.settled.port) for _ in range(5)]
        for sock in waiting:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        # Those that are in go on; the others have heard nothing.
        for n, sock in enumerate(first):
            self.assertEqual(select.select(waiting, [], [], 0)[0], [])
            self.held.answer(f"p{n}")
            with sock.makefile("rb") as stream:
                self.assertEqual(rawhttp.read_answer(stream).status, 200)
        for sock in first:
            sock.close()
        for sock in waiting:
            with sock, sock.makefile("rb") as stream:
                self.assertEqual(rawhttp.read_answer(stream).status, 200)

    def test_as_many_batches_as_connections_run_and_end(self):
        socks = [self.settled.start_post({"items": [item(n, self.url("/ok?wait_ms=50"))]}, {"Connection": "close"})
                 for n in range(25)]
        for sock in socks:
            with sock, sock.makefile("rb") as stream:
                answer = rawhttp.read_answer(stream)
                self.assertEqual((answer.status, json.loads(answer.body)["outcome"]), (200, "succeeded"))


class Crowded(HeldCase):
    """Every place is taken by somebody who sends no request, for longer than a test may take."""

    config = {"limits": {"connections": 8, "header_ms": 600000, "idle_ms": 600000}}

    def test_who_holds_a_place_without_a_request_loses_it_to_who_waits(self):
        socks = [rawhttp.dial(self.settled.port) for _ in range(40)]
        for n, sock in enumerate(socks):
            sock.sendall((b"", b"G", HEAD)[n % 3])
        for _ in range(3):
            self.assertEqual(self.settled.post({"items": [item(1, self.url("/ok"))]}).status, 200)
        for sock in socks:
            sock.close()

    def served(self, sock):
        with sock, sock.makefile("rb") as stream:
            self.assertEqual(rawhttp.read_answer(stream).status, 200)

    def test_who_is_answered_or_sends_a_body_keeps_it(self):
        body = harness.encode({"items": [item(1, self.url("/ok"))]})
        sending = [rawhttp.dial(self.settled.port) for _ in range(4)]
        for sock in sending:
            sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
        waiting = [self.settled.start_post({"items": [item(1, self.held.url(f"w{n}"))]}) for n in range(3)]
        self.held.wait("w0", "w1", "w2")
        silent = [rawhttp.dial(self.settled.port) for _ in range(8)]
        self.assertEqual(self.settled.ask("GET", "/livez").status, 200)
        for n, sock in enumerate(waiting):
            self.held.answer(f"w{n}")
            self.served(sock)
        for sock in sending:
            sock.sendall(body[-1:])
            self.served(sock)
        for sock in silent:
            sock.close()


class Crowd(threading.Thread):
    """Many clients that never come to an end by themselves. One byte each, again and
    again; or nothing at all, or an answer that is not read."""

    KINDS = {"silent": (b"", b""), "headers": (HEAD, b"x"), "body": (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
             "reader": (b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 40, b"")}

    def __init__(self, port, each):
        super().__init__(daemon=True)
        self.poll = select.epoll()
        self.socks, self.left = {}, {kind: each for kind in self.KINDS}
        for kind, (start, more) in self.KINDS.items():
            for _ in range(each):
                sock = socket.socket()
                if kind == "reader":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", port))
                sock.sendall(start)
                sock.setblocking(False)
                self.socks[sock.fileno()] = (sock, kind, more)
                self.poll.register(sock.fileno(), select.EPOLLRDHUP | (0 if kind == "reader" else select.EPOLLIN))
        self.until = time.monotonic() + 3 * harness.LIMIT_S

    def run(self):
        while self.socks and time.monotonic() < self.until:
            for fd, _ in self.poll.poll(0.5):
                self.drop(fd)
            for fd in list(self.socks):
                sock, _, more = self.socks[fd]
                try:
                    sock.send(more)
                except OSError:
                    self.drop(fd)

    def drop(self, fd):
        sock, kind, _ = self.socks.pop(fd)
        self.left[kind] -= 1
        self.poll.unregister(fd)
        sock.close()


class Thousands(harness.Case):
    """As many of each kind as SETTLED_SLOW_CLIENTS says, while healthy clients go on."""

    room = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000) // 4
    each = int(os.environ.get("SETTLED_SLOW_CLIENTS", min(2000 if harness.PATIENCE == 1 else 200, room)))
    config = {"shards": 2, "limits": {"header_ms": 4000, "body_ms": 4000, "write_ms": 4000, "idle_ms": 4000}}

    @classmethod
    def setUpClass(cls):
        # Meson has malloc write to all that it gives, so memory that nobody uses would count.
        os.environ.pop("MALLOC_PERTURB_", None)
        cls.files = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(4 * cls.each + 1000, cls.files[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, cls.files[0]), cls.files[1]))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        resource.setrlimit(resource.RLIMIT_NOFILE, cls.files)

    def healthy(self, crowd, results):
        body = harness.encode({"items": [item(n, self.url("/ok")) for n in range(3)]})
        while crowd.is_alive() or len(results) < 200:
            conn = http.client.HTTPConnection("127.0.0.1", self.settled.port, timeout=harness.LIMIT_S)
            for _ in range(10):
                try:
                    conn.request("POST", "/v1/batches", body, {"Content-Type": "application/json"})
                    answer = conn.getresponse()
                    results.append(answer.status == 200 and json.loads(answer.read())["outcome"] == "succeeded")
                except OSError:
                    results.append(False)
                    break
            conn.close()

    def test_healthy_clients_are_served_while_slow_ones_are_cut(self):
        before, results = reading.resident(self.settled), []
        crowd = Crowd(self.settled.port, self.each)
        crowd.start()
        clients = [threading.Thread(target=self.healthy, args=(crowd, results)) for _ in range(4)]
        for client in clients:
            client.start()
        most = before
        while crowd.is_alive():
            most = max(most, reading.resident(self.settled))
            crowd.join(0.2)
        for client in clients:
            client.join()
        print(f"# {self.each} of each kind: {results.count(True)} of {len(results)} healthy requests succeeded; "
              f"{(most - before) >> 20} MiB more")
        self.assertEqual(crowd.left, dict.fromkeys(Crowd.KINDS, 0))
        self.assertGreaterEqual(results.count(True), 0.999 * len(results))
        if not reading.instrumented(self.settled):
            self.assertLess(most - before, (64 << 20) + 4 * self.each * (64 << 10))
        kit.until(lambda: self.settled.metrics()["settled_connections"] <= 2, "all of them gone")


if __name__ == "__main__":
    harness.main()
