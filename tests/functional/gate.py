"""Downstreams that answer when they are told to, byte for byte: a Gate, whose
requests a test takes one after the other, and a Held, which has them by path."""

import re
import socket
import threading

import harness

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def read_request(conn):
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(conn, data)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
    while length and len(body) < int(length[1]):
        body += receive(conn, body)
    return head + b"\r\n\r\n" + body


def receive(conn, so_far):
    part = conn.recv(65536)
    if not part:
        raise AssertionError(f"the connection ended inside a request: {so_far!r}")
    return part


def serve_each(sock, serve):
    """Calls serve(connection) for everyone who connects, each in a thread, until `sock` is closed."""
    while True:
        try:
            conn, _ = sock.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(conn,), daemon=True).start()


class Gate:
    """Listens on a port of its own; take() is the next request that arrives."""

    def __init__(self, host="127.0.0.1"):
        self.sock = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.sock.settimeout(harness.LIMIT_S)
        self.port = self.sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self):
        self.sock.close()

    def take(self, conn=None):
        """A request on a new connection, or the next one on `conn`: (connection, its bytes)."""
        if conn is None:
            conn, _ = self.sock.accept()
            conn.settimeout(harness.LIMIT_S)
        return conn, read_request(conn)

    def has_caller(self):
        """Somebody has connected and was not taken yet."""
        self.sock.setblocking(False)
        try:
            conn, _ = self.sock.accept()
            conn.close()
            return True
        except BlockingIOError:
            return False
        finally:
            self.sock.settimeout(harness.LIMIT_S)


class Held:
    """Keeps every request until it is told what to send; a thread takes them."""

    def __init__(self):
        self.gate = Gate()
        self.gate.sock.settimeout(None)
        self.changed = threading.Condition()
        self.requests = {}               # path: socket
        self.thread = threading.Thread(target=serve_each, args=(self.gate.sock, self._read), daemon=True)
        self.thread.start()

    def url(self, path):
        return f"{self.gate.url}/{path}"

    def _read(self, conn):
        conn.settimeout(harness.LIMIT_S)
        try:
            path = read_request(conn).split()[1].decode().lstrip("/")
        except (AssertionError, OSError):
            conn.close()                 # it was given up before it was whole
            return
        with self.changed:
            self.requests[path] = conn
            self.changed.notify_all()

    def _socket(self, path):
        with self.changed:
            if not self.changed.wait_for(lambda: path in self.requests, harness.LIMIT_S):
                raise AssertionError(f"no request for {path}")
            return self.requests[path]

    def wait(self, *paths):
        for path in paths:
            self._socket(path)

    def send(self, path, data):
        self._socket(path).sendall(data)

    def answer(self, path, status="200 OK"):
        self.send(path, f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        self.requests.pop(path).close()

    def answer_any(self):
        """Answer the oldest request that waits; its path."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.requests, harness.LIMIT_S):
                raise AssertionError("no request")
            path = next(iter(self.requests))
        self.answer(path)
        return path

    def wait_gone(self, path):
        """Until the daemon has closed the connection of this request."""
        try:
            assert self._socket(path).recv(1) == b""
        except ConnectionResetError:
            pass
        self.requests.pop(path).close()

    def close(self):
        self.gate.sock.shutdown(socket.SHUT_RDWR)
        self.gate.close()
        self.thread.join(harness.LIMIT_S)
        with self.changed:
            for conn in self.requests.values():
                conn.close()
