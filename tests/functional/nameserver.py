"""A name server that a test commands. In a namespace of its own (see namespace.py)
the system's resolver asks it."""

import socket
import struct
import threading

import harness

A, AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2


def read_name(data, at):
    labels = []
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(labels).lower(), at + 1


class Nameserver:
    """names: a name (or ".suffix") to a list of addresses, to a code, to None for no
    answer at all, or to a function of how often it was asked that gives one of these."""

    def __init__(self):
        self.names = {}
        self.asked = {}                  # name: queries for A
        self.lock = threading.Lock()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 53))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self):
        self.sock.sendto(b"", ("127.0.0.1", 53))
        self.thread.join(harness.LIMIT_S)
        self.sock.close()

    def _serve(self):
        while True:
            data, peer = self.sock.recvfrom(4096)
            if not data:
                return
            answer = self._answer(data)
            if answer is not None:
                self.sock.sendto(answer, peer)

    def _find(self, name, count):
        found = next((v for k, v in self.names.items() if name == k or k.startswith(".") and name.endswith(k)), NXDOMAIN)
        return found(count) if callable(found) else found

    def _answer(self, data):
        name, at = read_name(data, 12)
        kind = struct.unpack_from("!H", data, at)[0]
        with self.lock:
            # The two questions of one look-up get the answer of the same turn.
            turns = self.asked.setdefault(name, {A: 0, AAAA: 0})
            turns[kind] = turns.get(kind, 0) + 1
            found = self._find(name, turns[kind])
        if found is None:
            return None
        code = found if isinstance(found, int) else 0
        family = socket.AF_INET if kind == A else socket.AF_INET6
        records = [] if code else [socket.inet_pton(family, a) for a in found if (":" in a) == (kind == AAAA)]
        head = data[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return head + data[12:at + 4] + b"".join(
            struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(r)) + r for r in records)

    def count(self, name):
        """Look-ups of this name so far."""
        with self.lock:
            return self.asked.get(name, {A: 0})[A]


class Case(harness.Case):
    """A daemon whose names are `names`, to be set by each test."""

    @classmethod
    def setUpClass(cls):
        cls.names = Nameserver()
        cls.addClassCleanup(cls.names.close)
        super().setUpClass()

    def setUp(self):
        super().setUp()
        self.names.names = {}
