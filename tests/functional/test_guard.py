"""The address guard through the real program: a webhook's URL leads to no special
address, however it is written, and nobody there sees even a connection."""

import gate
import harness
from harness import item

# Hosts that mean a special address; {} takes a listener's port.
GUARDED = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "127.0.1", "127.000.000.001", "0177.0.0.1", "0177.1", "0x7f.0.0.1",
    "0x7f.1", "0x7F.0x0.0x0.0x1", "2130706433", "0x7f000001", "0X7F000001", "017700000001", "00000177.0.0.1", "0", "0.0.0.0", "0x0",
    "00", "0.1", "localhost", "LOCALHOST", "LocalHost", "www.localhost",
    "[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[0::1]", "[::]", "[::ffff:127.0.0.1]",
    "[::FFFF:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]", "[::127.0.0.1]", "[::7f00:1]", "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:FF9B::169.254.169.254]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::1]", "[::ffff:0:127.0.0.1]",
    "10.0.0.1", "10.1", "012.0.0.1", "0xa.0.0.1", "167772161", "10.255.255.255", "172.16.0.1", "172.31.255.255", "0xac100001",
    "192.168.0.1", "192.168.257", "3232235521", "[::ffff:10.0.0.1]", "[::ffff:c0a8:1]", "[fc00::1]", "[fd12:3456::1]",
    "169.254.169.254", "169.254.1", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "025177524776",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "[fe80::1]", "[fe80::a9fe:a9fe]", "[febf::1]", "[fec0::1]",
    "100.64.0.1", "100.100.100.200", "100.127.255.255", "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "4294967295",
    "[ff02::1]", "[ff0e::1]", "[100::1]", "[2001:db8::1]", "[2001:10::1]", "[3fff::1]", "[4000::1]", "[::2]",
]

# Not even a URL that may be sent: refused before anything is tried.
INVALID = [
    "http://[::1%25lo]:{}/", "http://[::1%lo]:{}/", "http://[fe80::1%25eth0]:{}/", "http://user@127.0.0.1:{}/",
    "http://1.1.1.1:80@127.0.0.1:{}/", "http://127.0.0.1:{}@1.1.1.1/", "http://1.1.1.1\\@127.0.0.1:{}/", "http://1.1.1.1#@127.0.0.1:{}/",
    "http://127.0.0.1:{}#x", "http://127%2e0.0.1:{}/", "http://%31%32%37.0.0.1:{}/", "http://127\u30020\u30020\u30021:{}/",
    "http://\uff11\uff12\uff17.0.0.1:{}/", "http://\u2460\u2461\u2466.0.0.1:{}/", "http://loc\u0430lhost:{}/", "http:127.0.0.1:{}/",
    "http:/127.0.0.1:{}/", "http:///127.0.0.1:{}/", "//127.0.0.1:{}/", "127.0.0.1:{}", " http://127.0.0.1:{}/", "http://127.0.0.1 :{}/",
    "http://127.0.0.1\t:{}/", "http://127.0.0.1:{}\r\nx/", "http://127.0.0.1\u0000.example.com:{}/", "http://[127.0.0.1]:{}/",
    "http://127.0.0.1:0{}x/", "http://127..0.1:{}/", "http://.127.0.0.1:{}/", "ftp://127.0.0.1:{}/", "file:///etc/passwd",
    "gopher://127.0.0.1:{}/_x", "dict://127.0.0.1:{}/", "unix:///run/x", "javascript:alert(1)", "jar:http://127.0.0.1:{}!/",
    "http+unix://127.0.0.1:{}/", "httpx://127.0.0.1:{}/",
]


class Guard(harness.Case):
    config = {"services": {"open": {"kind": "webhook"}, "narrow": {"kind": "webhook", "allow": ["127.0.0.2/32"]},
                           "loopback": {"kind": "webhook", "allow": ["127.0.0.0/8", "::1"]}}}

    def setUp(self):
        super().setUp()
        self.doors = [gate.Gate(), gate.Gate("::1")]
        for door in self.doors:
            self.addCleanup(door.close)

    def post(self, service, urls, **more):
        items = [item(n, url, service=service) for n, url in enumerate(urls)]
        return self.settled.post({"service": service, "retry": {"max_attempts": 3, "base_ms": 1, "cap_ms": 1}, "items": items, **more})

    def assert_untouched(self):
        self.assertEqual([door.has_caller() for door in self.doors], [False, False])
        self.assertEqual(self.down.ledger(), [])

    def test_no_spelling_of_a_special_address_is_connected(self):
        for service in ("open", "narrow"):
            urls = [f"{scheme}://{host}:{door.port}/x" for host in GUARDED for door in self.doors for scheme in ("http", "https")]
            answer = self.post(service, urls)
            for url, result in zip(urls, answer.json["results"]):
                if service == "narrow" and "127.0.0.2" in url:
                    continue
                with self.subTest(service=service, url=url):
                    self.assertEqual((result.get("error", {}).get("code"), result["delivered"], result["retryable"], result["attempts"],
                                      result["stop"]), ("permission_denied", "no", False, 1, "not_retryable"), result)
            self.assert_untouched()

    def test_a_name_that_may_not_resolve_is_not_connected_either(self):
        urls = [f"http://{host}:{self.doors[0].port}/" for host in ("localhost.", "ip6-localhost", "localhost.localdomain", "127.0.0.1.")]
        for result in self.post("open", urls, attempt_timeout_ms=500).json["results"]:
            self.assertIn(result["error"]["code"], ("permission_denied", "connect_failed", "timeout"), result)
            self.assertEqual(result["delivered"], "no")
        self.assert_untouched()

    def test_no_port_and_no_path_makes_a_difference(self):
        urls = ["http://127.0.0.1", "http://127.0.0.1/", "https://127.0.0.1", "http://127.0.0.1?x", "HTTP://127.0.0.1:80/",
                f"http://127.0.0.1:{self.down.port}/_ledger", f"hTTp://LOCALHOST:{self.down.port}/ok"]
        for result in self.post("open", urls).json["results"]:
            self.assertEqual(result["error"]["code"], "permission_denied", result)
        self.assert_untouched()

    def test_what_is_no_http_url_is_an_invalid_item(self):
        urls = [url.replace("{}", str(door.port)) for url in INVALID for door in self.doors]
        for service in ("open", "loopback"):
            for url, result in zip(urls, self.post(service, urls, contract="best_effort").json["results"]):
                with self.subTest(url=url):
                    self.assertEqual((result["error"]["code"], result["attempts"]), ("invalid_item", 0))
        self.assert_untouched()

    def test_what_is_allowed_passes_in_every_spelling_and_nothing_else(self):
        port = self.down.port
        hosts = ["127.0.0.1", "127.1", "0x7f000001", "0177.0.0.1", "2130706433", "localhost", "[::ffff:127.0.0.1]"]
        answer = self.post("loopback", [f"http://{host}:{port}/ok" for host in hosts])
        self.assertEqual([r["status"] for r in answer.json["results"]], ["succeeded"] * len(hosts), answer.body)
        self.assertEqual(len(self.down.ledger()), len(hosts))
        answer = self.post("loopback", [f"http://{h}:{port}/ok" for h in ("10.0.0.1", "0.0.0.0", "[fd00::1]", "169.254.169.254", "[::]")])
        for result in answer.json["results"]:
            self.assertEqual(result["error"]["code"], "permission_denied", result)

    def test_a_connection_that_another_service_opened_is_not_reused(self):
        url = self.url("/ok")
        for _ in range(3):
            self.assertEqual(self.post("loopback", [url]).json["outcome"], "succeeded")
            for service in ("open", "narrow"):
                self.assertEqual(self.post(service, [url]).json["results"][0]["error"]["code"], "permission_denied")
        self.assertEqual(len(self.down.ledger()), 3)

    def test_the_proxies_of_the_environment_are_not_used(self):
        proxy = f"http://127.0.0.1:{self.doors[0].port}"
        names = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        daemon = harness.Daemon(self.config, env={**{n: proxy for n in names}, "no_proxy": ""})
        try:
            answer = daemon.post({"service": "loopback", "items": [item(1, self.url("/ok")), item(2, "http://10.0.0.1/", service="open")]})
        finally:
            daemon.stop()
        self.assertEqual([r["status"] for r in answer.json["results"]], ["succeeded", "failed"])
        self.assertFalse(self.doors[0].has_caller())


if __name__ == "__main__":
    harness.main()
