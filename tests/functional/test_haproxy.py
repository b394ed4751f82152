"""HAProxy in front, with deploy/proxies/haproxy.cfg."""

import signal
import unittest

import gate
import harness
import kit
import proxied
import proxies
import rawhttp
from harness import item


class Haproxy(proxied.Proxied):
    program = "haproxy"
    front_class = proxies.Haproxy


class Faults(proxied.ProxiedFaults):
    program = "haproxy"
    front_class = proxies.Haproxy


class Health(unittest.TestCase):
    """HAProxy asks /readyz, and sends nothing to who says no."""

    def test_an_instance_that_is_to_end_gets_nothing_new_and_ends_what_it_has(self):
        kit.need("haproxy")
        held = gate.Held()
        self.addCleanup(held.close)
        daemons = [harness.Daemon({"limits": {"lame_duck_ms": 3600000}}) for _ in range(2)]
        for daemon in daemons:
            self.addCleanup(daemon.stop, signal.SIGKILL)
        front = proxies.Haproxy(*(f"127.0.0.1:{d.port}" for d in daemons))
        self.addCleanup(front.stop)
        sock = front.start_post({"items": [item(0, held.url("first"))]})
        held.wait("first")
        old = [d.metrics()["settled_requests_parked"] for d in daemons].index(1)
        daemons[old].child.send_signal(signal.SIGTERM)
        front.process.wait_line(f"Server settled/{('one', 'two')[old]} is DOWN")
        for n in range(1, 5):
            new = front.start_post({"items": [item(n, held.url(f"new{n}"))]})
            self.addCleanup(new.close)
            held.wait(f"new{n}")
        self.assertEqual([d.metrics()["settled_requests_parked"] for d in daemons],
                         [1, 4] if old == 0 else [4, 1])
        held.answer("first")
        with sock, sock.makefile("rb") as stream:
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
        for n in range(1, 5):
            held.answer(f"new{n}")
        daemons[old].child.send_signal(signal.SIGTERM)
        self.assertEqual(daemons[old].child.wait(harness.LIMIT_S), 0)


if __name__ == "__main__":
    harness.main()
