"""Clients that send slowly, or too many at once: time limits are absolute, the
connection limit holds, and healthy requests are served all the while."""

import json
import select
import socket
import threading

import harness
import rawhttp
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
    config = {"limits": {"header_ms": 400, "body_ms": 400, "idle_ms": 400}}

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


class Connections(harness.Case):
    # The callers of one of several services may not hold them all.
    config = {"limits": {"connections": 5}, "services": {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}}

    def test_connections_over_the_limit_wait_and_are_served_when_others_close(self):
        ask = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        first, streams = [], []
        for _ in range(5):
            sock = rawhttp.dial(self.settled.port)
            sock.sendall(ask)
            first.append(sock)
            streams.append(sock.makefile("rb"))
            self.assertEqual(rawhttp.read_answer(streams[-1]).status, 200)
        waiting = [rawhttp.dial(self.settled.port) for _ in range(5)]
        for sock in waiting:
            sock.sendall(ask)
        # Those that are in go on; the others have heard nothing.
        for sock, stream in zip(first, streams):
            sock.sendall(ask)
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
        self.assertEqual(select.select(waiting, [], [], 0)[0], [])
        for sock, stream in zip(first, streams):
            stream.close()
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


if __name__ == "__main__":
    harness.main()
