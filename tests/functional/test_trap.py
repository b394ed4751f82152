"""The address guard where every address there is leads to a trap: a webhook's URL,
its redirects and its names, however written, open no connection to any special one."""

import namespace

if __name__ == "__main__":
    namespace.isolate()

import select
import socket
import urllib.parse

import harness
import nameserver
import test_guard
from harness import item

# Of every special range, as a name server gives them.
SPECIAL = ["0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.2",
           "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192",
           "192.0.2.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1",
           "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
           "::", "::1", "::2", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:127.0.0.2", "::10.0.0.1", "::169.254.169.254",
           "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::1", "2001:10::1",
           "2001:db8::1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2002:a00:1::1", "3fff::1", "4000::1", "5f00::1",
           "fc00::1", "fd00:ec2::254", "fd12:3456::1", "fe80::1", "fe80::5efe:169.254.169.254", "fec0::1", "ff02::1", "ff0e::1",
           "fc00::5efe:192.168.0.1", "2600::5efe:10.0.0.1", "2600::200:5efe:169.254.169.254", "::ffff:0:10.0.0.1"]
# A server can listen on these beside one on 127.0.0.1.
BOUND = {"10.0.0.1", "100.64.0.1", "127.0.0.2", "168.63.129.16", "169.254.169.254", "172.16.0.1", "192.168.0.1", "198.18.0.1", "::1"}
# Public to the guard, so that a test can show what a trap sees; in here they are this host's too.
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111"]
STATUSES = (300, 301, 302, 303, 304, 305, 307, 308)


def listen(host, port):
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


class Trap:
    """Listens on every address of this network, or on some, on one port."""

    def __init__(self, hosts=("0.0.0.0", "::"), port=0):
        self.socks = []
        for host in hosts:
            self.socks.append(listen(host, port))
            port = self.socks[0].getsockname()[1]
        self.port = port

    def close(self):
        for sock in self.socks:
            sock.close()

    def caught(self):
        """The addresses at which somebody has come in since the last time."""
        seen = []
        while ready := select.select(self.socks, [], [], 0)[0]:
            for sock in ready:
                conn, _ = sock.accept()
                seen.append(conn.getsockname()[0])
                conn.close()
        return seen


def url(host, port):
    return f"http://{'[' + host + ']' if ':' in host and host[0] != '[' else host}:{port}/x"


class TrapCase(nameserver.Case):
    config = {"services": {"open": {"kind": "webhook"}, "one": {"kind": "webhook", "allow": ["127.0.0.1/32"]}},
              "names": {"ttl_ms": 0, "negative_ttl_ms": 0}}

    def setUp(self):
        super().setUp()
        self.trap = Trap()
        self.addCleanup(self.trap.close)

    def post(self, urls, service="open", **more):
        answer = self.settled.post({"service": service, "items": [item(n, u) for n, u in enumerate(urls)],
                                    "contract": "best_effort", "retry": {"max_attempts": 1}, **more})
        self.assertEqual(len(answer.json["results"]), len(urls), answer.body)
        return answer.json["results"]

    def assert_refused(self, urls, codes, service="open", **more):
        for to, result in zip(urls, self.post(urls, service, **more)):
            with self.subTest(url=to):
                self.assertIn(result["error"]["code"], codes, result)
                self.assertEqual(result["delivered"], "no")
        self.assertEqual(self.trap.caught(), [])


class Forms(TrapCase):
    def test_the_trap_sees_whoever_gets_through(self):
        for host in (*PUBLIC, "10.0.0.1", "169.254.169.254", "192.168.0.1", "100.64.0.1", "fd00:ec2::254", "2002:7f00:1::1", "64:ff9b::a00:1"):
            socket.create_connection((host, self.trap.port)).close()
            self.assertEqual(self.trap.caught(), [host])
        for result in self.post([url(host, self.trap.port) for host in PUBLIC], attempt_timeout_ms=harness.GIVE_UP_MS):
            self.assertIn(result["error"]["code"], ("timeout", "connection_lost"))
        self.assertEqual(sorted(self.trap.caught()), sorted(PUBLIC))

    def test_no_spelling_leads_anywhere(self):
        urls = {f"http://{host}:{self.trap.port}/x" for host in test_guard.GUARDED}
        urls |= {url(host, self.trap.port) for host in SPECIAL}
        self.assertGreaterEqual(len(urls), 110)
        self.assert_refused(sorted(urls), {"permission_denied"})

    def test_nothing_that_is_no_url_is_tried(self):
        urls = [form.replace("{}", str(self.trap.port)) for form in test_guard.INVALID]
        self.assert_refused(urls, {"invalid_item"})
        self.assert_refused(urls, {"invalid_item"}, "one")


class Names(TrapCase):
    def test_no_name_leads_to_a_special_address(self):
        hosts = [f"n{n}.test" for n in range(len(SPECIAL))]
        self.names.names = {host: [address] for host, address in zip(hosts, SPECIAL)}
        urls = [url(host, self.trap.port) for host in (*hosts, "in-hosts.test", "IN-HOSTS.test", "localhost", "a.localhost")]
        self.assert_refused(urls, {"permission_denied"})
        self.assertEqual([self.names.count(host) for host in hosts], [1] * len(hosts))

    def test_a_name_with_both_kinds_leads_to_the_good_one_only(self):
        self.names.names = {f"m{n}.test": [bad, "127.0.0.1", "::1"] for n, bad in enumerate(SPECIAL) if bad != "::1"}
        results = self.post([url(host, self.down.port) for host in self.names.names], "one")
        self.assertEqual({r["status"] for r in results}, {"succeeded"})
        self.assert_refused([url(host.replace("m", "o"), self.trap.port) for host in self.names.names], {"connect_failed"})
        trapped = {f"t{n}.test": [a, b] for n, (a, b) in enumerate(zip(SPECIAL, SPECIAL[1:]))}
        self.names.names = trapped
        self.assert_refused([url(host, self.trap.port) for host in trapped], {"permission_denied"}, "one")

    def test_a_name_that_changes_leads_nowhere_else(self):
        """The first attempt reaches the downstream, which asks for another; by then the
        name means something else."""
        hosts = [f"r{n}.test" for n in range(len(SPECIAL))]
        trap = Trap([bad for bad in SPECIAL if bad in BOUND], self.down.port)
        self.addCleanup(trap.close)
        for host, bad in zip(hosts, SPECIAL):
            self.names.names[host] = lambda turn, bad=bad: ["127.0.0.1"] if turn == 1 else [bad]
        urls = [f"http://{host}:{self.down.port}/x?status=429&retry_after=2&keep=no" for host in hosts]
        results = self.post(urls, "one", retry={"max_attempts": 2, "base_ms": 1, "cap_ms": 1})
        self.assertEqual({(r["error"]["code"], r["attempts"], r["delivered"]) for r in results}, {("permission_denied", 2, "no")})
        self.assertEqual([self.names.count(host) for host in hosts], [2] * len(hosts))
        self.assertEqual(len(self.down.ledger()), len(hosts))
        self.assertEqual(trap.caught(), [])
        socket.create_connection(("169.254.169.254", self.down.port)).close()
        self.assertEqual(trap.caught(), ["169.254.169.254"])


class Redirects(TrapCase):
    def location(self, to, status):
        query = urllib.parse.urlencode({"status": status, "header": "Location: " + to})
        return f"{self.down.url}/r?{query}"

    def test_no_redirect_is_followed(self):
        port = self.trap.port
        targets = [url(host, port) for host in ("127.0.0.1", "127.0.0.2", "10.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", *PUBLIC)]
        targets += [f"https://127.0.0.1:{port}/", f"//127.0.0.1:{port}/", f"ftp://127.0.0.1:{port}/", f"gopher://127.0.0.1:{port}/_x",
                    f"dict://127.0.0.1:{port}/d", f"telnet://127.0.0.1:{port}", f"smtp://127.0.0.1:{port}", f"ldap://127.0.0.1:{port}/",
                    "file:///etc/passwd", "/again", f"\\\\127.0.0.1:{port}/"]
        urls = [self.location(to, status) for to in targets for status in STATUSES]
        self.assertGreaterEqual(len(urls), 100)
        self.assert_refused(urls, {"rejected"}, "one")
        self.assertEqual(len(self.down.ledger()), len(urls))

    def test_no_other_header_is_one(self):
        headers = [f"Refresh: 0; url={url('127.0.0.1', self.trap.port)}", f"Content-Location: {url('127.0.0.1', self.trap.port)}",
                   f'Alt-Svc: h1="127.0.0.1:{self.trap.port}"', f"Link: <{url('127.0.0.1', self.trap.port)}>; rel=preload"]
        urls = [f"{self.down.url}/r?{urllib.parse.urlencode({'header': h})}" for h in headers for _ in range(2)]
        self.assertEqual({r["status"] for r in self.post(urls, "one")}, {"succeeded"})
        self.assertEqual(self.trap.caught(), [])
        self.assertEqual(len(self.down.ledger()), len(urls))


if __name__ == "__main__":
    harness.main()
