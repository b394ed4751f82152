"""A downstream that answers when it is told to, byte for byte."""

import socket

import harness

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


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
        data = b""
        while b"\r\n\r\n" not in data:
            part = conn.recv(65536)
            if not part:
                raise AssertionError(f"the connection ended inside a request: {data!r}")
            data += part
        length = 0
        for line in data.split(b"\r\n\r\n")[0].split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(data.split(b"\r\n\r\n", 1)[1]) < length:
            data += conn.recv(65536)
        return conn, data

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
