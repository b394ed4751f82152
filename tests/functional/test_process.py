"""The command line, and how the daemon starts."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import unittest

import harness
import kit

# In a new network even the loopback is down: raise it, and run what follows.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""


def run(*args, env=None, before=()):
    """The program to its end: (status, standard output, standard error)."""
    done = subprocess.run([*before, *harness.SETTLED, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=harness.LIMIT_S, env={**os.environ, **(env or {})}, check=False)
    return done.returncode, done.stdout, done.stderr


class Files(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="settled-test-")
        self.addCleanup(self.dir.cleanup)

    def file(self, text, name="settled.yaml"):
        path = os.path.join(self.dir.name, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path


class CommandLine(Files):
    def test_version_and_help_go_to_standard_output(self):
        status, out, err = run("--version")
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"^settled [0-9]+\.[0-9]+\.[0-9]+\S*\n$")
        status, out, err = run("--help")
        self.assertEqual((status, err), (0, ""))
        for word in ("--config", "--check", "--defaults", "--version", "healthcheck", "127.0.0.1:8080", "-h", "SETTLED_CONFIG"):
            self.assertIn(word, out)
        self.assertEqual(run("-h"), (0, out, ""))

    def test_help_fits_a_screen(self):
        lines = run("--help")[1].splitlines()
        self.assertLessEqual(len(lines), 24)
        self.assertLessEqual(max(map(len, lines)), 80)

    def test_what_help_shows_is_accepted(self):
        body = re.search(r"'\n(.*)'\n", run("--help")[1], re.S)[1]
        daemon = harness.Daemon({"services": {"webhook": {"kind": "webhook"}}})
        try:
            answer = daemon.post(json.dumps({**json.loads(body), "validate_only": True}).encode())
            self.assertEqual((answer.status, answer.json), (200, {"valid": True, "items": 1}))
        finally:
            daemon.stop()

    def test_wrong_arguments_are_refused_by_name_with_a_hint(self):
        for args, said in ((["--nonsense"], "--nonsense: unknown option"), (["--nonsense=1", "x"], "--nonsense=1: unknown option"),
                           (["-x"], "-x: unknown option"), (["-xh"], "-x: unknown option"),
                           (["--check=yes"], "--check=yes: this option takes no value"),
                           (["--config"], "--config: a file is wanted"), (["--config="], "--config: a file is wanted"),
                           (["--check", "--config"], "--config: a file is wanted"),
                           (["--config", "a", "--config", "b"], "--config: given twice"),
                           (["serve"], "`serve`: unknown argument"), ([""], "``: unknown argument"),
                           (["healthcheck", "now"], "`now`: unknown argument"), (["--check", "x"], "`x`: unknown argument")):
            with self.subTest(args=args):
                self.assertEqual(run(*args), (2, "", f"settled: {said}\nTry `settled --help`.\n"))

    def test_what_does_not_go_together_is_refused(self):
        for args, said in ((["--check", "healthcheck"], "--check and healthcheck: one at a time"),
                           (["healthcheck", "--check"], "--check and healthcheck: one at a time"),
                           (["--version", "--check"], "--version and --check: one at a time"),
                           (["--version", "--config", "x"], "--version: takes no --config"),
                           (["--defaults", "--config", "x"], "--defaults: takes no --config"),
                           (["--defaults", "healthcheck"], "--defaults and healthcheck: one at a time")):
            with self.subTest(args=args):
                self.assertEqual(run(*args), (2, "", f"settled: {said}\nTry `settled --help`.\n"))

    def test_a_good_configuration_passes_the_check(self):
        path = self.file("listen: 127.0.0.1:9\nshards: 2\nservices:\n  push: {kind: http, url: 'http://h/{to}'}\n")
        self.assertEqual(run("--check", "--config", path), (0, f"{path}: valid\n", ""))
        self.assertEqual(run("--check")[0], 0)
        self.assertEqual(run("--check", "--config", self.file('{"listen": "127.0.0.1:0"}', "settled.json"))[0], 0)

    def test_the_printed_defaults_are_a_file_to_start_from(self):
        status, out, err = run("--defaults")
        self.assertEqual((status, err), (0, ""))
        path = self.file(out)
        self.assertEqual(run("--check", "--config", path), (0, f"{path}: valid\n", ""))
        for setting in ("listen: 127.0.0.1:8080", "  answer_bytes: 65536", "    kind: webhook", "    # refuses_with:"):
            self.assertIn(setting + "\n", out)
        more = out.replace("# max_in_flight: 256", "max_in_flight: 3").replace("# secret:", "secret: whsec_" + "A" * 32)
        path = self.file(more, "more.yaml")
        self.assertEqual(run("--check", "--config", path)[0], 0)

    def test_the_environment_names_the_file_where_the_command_line_does_not(self):
        bad, good = self.file("listen: nowhere\n", "bad.yaml"), self.file("listen: 127.0.0.1:9\n", "good.yaml")
        env = {"SETTLED_CONFIG": bad}
        for args in ([], ["--check"], ["healthcheck"]):
            status, out, err = run(*args, env=env)
            self.assertEqual((status, out), (2, ""), args)
            self.assertTrue(err.startswith(bad + ":1:9: "), err)
        self.assertEqual(run("--check", "--config", good, env=env), (0, f"{good}: valid\n", ""))
        self.assertEqual(run("--check", env={"SETTLED_CONFIG": ""}), (0, "the defaults: valid\n", ""))
        self.assertEqual(run("--version", env=env)[0], 0)

    def test_what_cannot_be_printed_is_an_error(self):
        for ask in ("--defaults", "--version", "--help", "--check"):
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run([*harness.SETTLED, ask], stdout=full, timeout=harness.LIMIT_S, check=False)
            self.assertEqual(done.returncode, 1, ask)

    def test_a_bad_configuration_is_refused_with_line_and_column(self):
        path = self.file("listen: 127.0.0.1:9\nlimits:\n  itemz: 5\n  body_bytes: many\nservices:\n  push: {kind: httpx}\n")
        for args in (["--check", "--config", path], ["--config", path], ["healthcheck", "--config", path]):
            status, out, err = run(*args)
            self.assertEqual((status, out), (2, ""))
            self.assertEqual([m[0] for m in re.findall(r"^(.*:([0-9]+):([0-9]+)): ", err, re.M)],
                             [f"{path}:3:3", f"{path}:4:15", f"{path}:6:16"])
            self.assertIn("did you mean items?", err)

    def test_broken_yaml_is_refused_with_line_and_column(self):
        for text, place in (("listen: [1\n", ":2:1:"), ("a: b: c\n", ":1:5:"), ("listen: 1\nlisten: 2\n", ":2:1:"), ("\tx: 1\n", ":1:1:")):
            path = self.file(text)
            status, out, err = run("--check", "--config", path)
            self.assertEqual((status, out), (2, ""))
            self.assertIn(path + place, err)

    def test_a_file_that_cannot_be_read(self):
        for path in (os.path.join(self.dir.name, "missing.yaml"), self.dir.name):
            status, out, err = run("--config", path)
            self.assertEqual((status, out), (2, ""))
            self.assertTrue(err.startswith(path + ": "), err)

    def test_a_missing_secret_is_named_and_none_is_shown(self):
        path = self.file("services:\n  a: {kind: webhook, secret: '${NOT_SET_ANYWHERE}'}\n  b: {kind: webhook, secret: '${HALF}'}\n")
        status, _, err = run("--check", "--config", path, env={"HALF": "whsec_not-base64-but-private"})
        self.assertEqual(status, 2)
        self.assertIn("NOT_SET_ANYWHERE", err)
        self.assertNotIn("private", err)


class Start(Files):
    def test_without_a_configuration_it_serves_on_the_loopback(self):
        # In a network of its own, where port 8080 is free whatever runs here.
        settled = harness.Process(["unshare", "-n", "/usr/bin/python3", "-c", LOOPBACK_UP, *harness.SETTLED])
        try:
            settled.wait_line(r"event=listening .*host=127\.0\.0\.1 .*port=8080\b")
            inside = ["nsenter", "-t", str(settled.child.pid), "-n"]
            self.assertEqual(run("healthcheck", before=inside)[0], 0)
            asked = subprocess.run([*inside, "/usr/bin/python3", "-c", """
import http.client
conn = http.client.HTTPConnection("127.0.0.1", 8080)
conn.request("POST", "/v1/batches", '{"items": [{"id": "1", "to": "http://127.0.0.1:8080/livez", "payload": {}}]}',
             {"Content-Type": "application/json"})
print(conn.getresponse().read().decode())
"""], capture_output=True, text=True, timeout=harness.LIMIT_S, check=True)
            result = json.loads(asked.stdout)["results"][0]
            self.assertEqual((result["error"]["code"], result["delivered"]), ("permission_denied", "no"))
        finally:
            status = settled.stop()
        self.assertEqual(status, 0, settled.text())

    def test_a_taken_port_is_a_clear_error(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            status, out, err = run("--config", self.file(f"listen: 127.0.0.1:{port}\n"))
        self.assertEqual((status, out), (1, ""))
        self.assertRegex(err, rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use: .*`listen`")

    def test_a_second_daemon_does_not_share_the_port(self):
        first = harness.Daemon()
        try:
            status, _, err = run("--config", self.file(f"listen: 127.0.0.1:{first.port}\n"))
            self.assertEqual(status, 1)
            self.assertIn("Address already in use", err)
            self.assertEqual(first.ask("GET", "/livez").status, 200)
        finally:
            first.stop()

    def test_an_address_of_another_machine_is_a_clear_error(self):
        status, _, err = run("--config", self.file("listen: 192.0.2.1:8080\nauth: {open: true}\n"))
        self.assertEqual(status, 1)
        self.assertIn("cannot listen on 192.0.2.1:8080: Cannot assign requested address", err)

    def test_beyond_the_loopback_it_has_to_be_open(self):
        for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0"):
            status, _, err = run("--config", self.file(f"listen: '{address}'\n"))
            self.assertEqual(status, 2)
            self.assertIn("auth: {open: true}", err)
        daemon = harness.Daemon({"listen": "0.0.0.0:0", "auth": {"open": True}})
        self.assertEqual(daemon.ask("GET", "/livez").status, 200)
        self.assertEqual(daemon.stop(), 0)

    def test_it_serves_on_ipv6(self):
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        daemon = harness.Daemon({"listen": "[::1]:0"})
        try:
            with socket.create_connection(("::1", daemon.port), timeout=harness.LIMIT_S) as sock:
                sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 200"))
        finally:
            self.assertEqual(daemon.stop(), 0)

    def test_with_few_file_descriptors_it_does_less_at_once(self):
        downstream = harness.Downstream()
        self.addCleanup(downstream.stop)
        services = {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"], "max_in_flight": 1000}}
        for shards, files in ((1, 200), (2, 300)):
            downstream.clear()
            settled = harness.Daemon({"shards": shards, "services": services}, files=files)
            try:
                warned = settled.wait_line("event=few_file_descriptors")
                in_force = dict(re.findall(r"(\w+)=(\d+)", warned.string))
                self.assertEqual(in_force["have"], str(files))
                self.assertIn("ulimit -n", warned.string)
                answer = settled.post({"concurrency": 500, "items": [harness.item(n, downstream.url + "/wait_ms=20")
                                                                    for n in range(500)]})
                self.assertEqual(answer.status, 200, answer.body[:1000])
                self.assertEqual({r["attempts"] for r in answer.json["results"]}, {1})
                self.assertLessEqual(downstream.stats()["max_in_flight"], int(in_force["in_flight"]))
                self.assertEqual(settled.text().count("few_file_descriptors"), 1)
            finally:
                self.assertEqual(settled.stop(), 0, settled.text())

    def test_with_too_few_to_answer_anybody_it_does_not_start(self):
        downstream = harness.Downstream()
        self.addCleanup(downstream.stop)
        services = {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}
        for extra, fewest in (({"shards": 1}, 74), ({"shards": 2, "operations": "127.0.0.1:0"}, 92)):
            config = {**extra, "services": services}
            for files in (10, fewest - 1):
                with self.assertRaises(AssertionError) as refused:
                    harness.Daemon(config, files=files)
                self.assertIn(f"{files} file descriptors are too few", str(refused.exception))
                self.assertIn(f"takes {fewest} at least", str(refused.exception))
            settled = harness.Daemon(config, files=fewest)
            try:
                answer = settled.post({"items": [harness.item(n, downstream.url + "/ok") for n in range(50)]})
                self.assertEqual(answer.status, 200, answer.body[:1000])
            finally:
                self.assertEqual(settled.stop(), 0, settled.text())

    def test_with_enough_file_descriptors_it_says_nothing(self):
        settled = harness.Daemon({"limits": {"in_flight": 10, "connections": 10}}, files=200)
        self.assertEqual(settled.stop(), 0)
        self.assertNotIn("few_file", settled.text())

    def test_every_number_of_shards_serves_and_stops(self):
        for shards in (1, 2, 3, 7, "auto"):
            daemon = harness.Daemon({"shards": shards})
            for _ in range(20):
                self.assertEqual(daemon.ask("GET", "/readyz").status, 200)
            self.assertEqual(daemon.stop(), 0, daemon.text())


class Healthcheck(Files):
    def test_it_tells_a_ready_daemon_from_none(self):
        daemon = harness.Daemon()
        path = self.file(f"listen: 127.0.0.1:{daemon.port}\n")
        self.assertEqual(run("healthcheck", "--config", path), (0, "", ""))
        daemon.stop()
        status, out, err = run("healthcheck", "--config", path)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("Connection refused", err)

    def test_in_a_container_it_asks_the_daemon_of_the_same_file(self):
        # The image's health check can be given no argument, only the environment.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {"SETTLED_CONFIG": self.file(f"listen: 127.0.0.1:{port}\n")}
        settled = harness.Process(harness.SETTLED, env)
        try:
            settled.wait_line(rf"event=listening .*port={port}\b")
            self.assertEqual(run("healthcheck", env=env), (0, "", ""))
        finally:
            self.assertEqual(settled.stop(), 0)

    def test_it_asks_an_open_daemon_on_the_loopback(self):
        daemon = harness.Daemon({"listen": "0.0.0.0:0", "auth": {"open": True}})
        path = self.file(f"listen: 0.0.0.0:{daemon.port}\nauth: {{open: true}}\n")
        self.assertEqual(run("healthcheck", "--config", path)[0], 0)
        daemon.stop(signal.SIGINT)

    def test_one_that_is_stopped_while_it_waits_goes_on(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            path = self.file(f"listen: 127.0.0.1:{server.getsockname()[1]}\n")
            child = subprocess.Popen([*harness.SETTLED, "healthcheck", "--config", path], stderr=subprocess.PIPE)
            conn, _ = server.accept()
            conn.recv(1000)
            for part in (b"HTTP/1.1 ", b"200 OK\r\n\r\n"):
                kit.stop_for_a_moment(child)
                conn.sendall(part)
            self.assertEqual((child.communicate(timeout=harness.LIMIT_S)[1], child.returncode), (b"", 0))
            conn.close()

    def test_a_stranger_on_the_port_is_not_ready(self):
        downstream = harness.Downstream()
        path = self.file(f"listen: 127.0.0.1:{downstream.port}\n")
        downstream.script("/readyz", "status=503", "broken=status", "close", "reset", "ok")
        for status in (1, 1, 1, 1, 0):
            self.assertEqual(run("healthcheck", "--config", path)[0], status)
        downstream.stop()


if __name__ == "__main__":
    harness.main()
