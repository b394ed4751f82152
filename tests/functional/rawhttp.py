"""HTTP by hand, for requests that no client library would send."""

import http.client
import socket

import harness


def dial(port):
    return socket.create_connection(("127.0.0.1", port), timeout=harness.LIMIT_S)


def read_answer(stream):
    """The next final answer, or None where the connection has ended."""
    while True:
        line = stream.readline()
        if not line:
            return None
        version, status = line.split()[:2]
        if not version.startswith(b"HTTP/1."):
            raise AssertionError(f"not an answer: {line!r}")
        headers = http.client.parse_headers(stream)
        if int(status) < 200:
            continue
        length = headers.get("Content-Length")
        return harness.Answer(int(status), headers, stream.read() if length is None else stream.read(int(length)))


def exchange(port, data):
    """Send `data`; every final answer up to the end of the connection."""
    answers = []
    with dial(port) as sock:
        try:
            sock.sendall(data)
            with sock.makefile("rb") as stream:
                while (answer := read_answer(stream)) is not None:
                    answers.append(answer)
        except (BrokenPipeError, ConnectionResetError):
            pass
    return answers


def exchange_bytes(port, data):
    """Send `data`; everything that comes up to the end of the connection."""
    parts = []
    with dial(port) as sock:
        try:
            sock.sendall(data)
            while part := sock.recv(65536):
                parts.append(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
    return b"".join(parts)


def is_closed(sock):
    """Wait for the peer's end; what it says before is thrown away."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def head(method="POST", target="/v1/batches", **headers):
    """A request's head; a header's name is given with _ for -."""
    fields = {"Host": "127.0.0.1", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return (f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n").encode()
