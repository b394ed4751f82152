"""TLS towards callers: what works on plain text works here, a caller's end is seen
however it comes, and a certificate is replaced while requests run."""

import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

import gate
import harness
import kit
import rawhttp
from harness import item

NOTHING = 'added="" removed="" changed="" settings=""'


def make_certificate(folder, name="localhost"):
    """A certificate of its own root: (cert file, key file)."""
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", key + ".new", "-out", cert + ".new"], check=True, capture_output=True)
    os.rename(cert + ".new", cert)
    os.rename(key + ".new", key)
    return cert, key


class Daemon(harness.Daemon):
    """Asked over TLS, by a caller who trusts `ca` alone."""

    def __init__(self, config, downstream, folder):
        cert, key = make_certificate(folder)
        self.trust(cert)
        super().__init__({"shards": 2, "tls": {"cert_file": cert, "key_file": key}, **config}, downstream)

    def trust(self, ca):
        self.context = ssl.create_default_context(cafile=ca)

    def dial(self, context=None):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=harness.LIMIT_S)
        return (context or self.context).wrap_socket(sock, server_hostname="localhost")

    def ask(self, method, path, body=None, headers=None):
        conn = http.client.HTTPSConnection("localhost", self.port, timeout=harness.LIMIT_S, context=self.context)
        try:
            conn.request(method, path, body=body, headers=headers or {})
            answer = conn.getresponse()
            return harness.Answer(answer.status, answer.headers, answer.read())
        finally:
            conn.close()

    def start_post(self, batch, headers=None, version="HTTP/1.1"):
        body = harness.encode(batch)
        sock = self.dial()
        sock.sendall(rawhttp.head(Content_Type="application/json", Content_Length=len(body), **(headers or {})) + body)
        return sock


class Case(harness.Case):
    config = {}

    @classmethod
    def setUpClass(cls):
        kit.need("openssl")
        super().setUpClass()

    @classmethod
    def start_daemon(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="settled-test-")
        cls.addClassCleanup(cls.folder.cleanup)
        return Daemon(cls.config, cls.down, cls.folder.name)


def close_notify(sock):
    """Say that nothing follows, and leave the connection open."""
    sock.setblocking(False)
    try:
        sock.unwrap()
    except ssl.SSLError:
        pass


def half_close(sock):
    sock.shutdown(socket.SHUT_WR)


def kill(sock):
    harness.reset(sock)


def leave(sock):
    sock.close()


class Requests(Case):
    config = {"limits": {"body_bytes": 100000}}

    def test_versions_before_1_2_are_refused(self):
        for version, welcome in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)):
            context = ssl.create_default_context(cafile=os.path.join(self.folder.name, "cert.pem"))
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.maximum_version = version
            context.minimum_version = version
            if welcome:
                with self.settled.dial(context) as sock:
                    self.assertEqual(sock.version(), version.name.replace("_", "."))
            else:
                with self.assertRaises(ssl.SSLError):
                    self.settled.dial(context)

    def test_plain_text_is_not_answered(self):
        self.assertEqual(rawhttp.exchange(self.settled.port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"), [])
        self.assertEqual(self.settled.ask("GET", "/livez").status, 200)

    def test_batches_and_keep_alive(self):
        conn = http.client.HTTPSConnection("localhost", self.settled.port, timeout=harness.LIMIT_S, context=self.settled.context)
        for n in range(5):
            body = harness.encode({"items": [item(k, self.url(f"/ok?tag={n}")) for k in range(20)]})
            conn.request("POST", "/v1/batches", body, {"Content-Type": "application/json"})
            if n == 0:
                sock = conn.sock
            answer = conn.getresponse()
            self.assertEqual((answer.status, json.loads(answer.read())["outcome"]), (200, "succeeded"))
            self.assertIs(conn.sock, sock)
        conn.close()

    def test_streams_and_events(self):
        answer = self.settled.post({"items": [item(n, self.url("/ok")) for n in range(300)]}, {"Accept": "application/x-ndjson"})
        lines = [json.loads(line) for line in answer.body.splitlines()]
        self.assertEqual((len(lines), lines[-1]["batch"]["outcome"]), (301, "succeeded"))
        job = self.settled.post({"items": [item(1, self.url("/ok?wait_ms=100"))]}, {"Prefer": "respond-async"}).headers["Batch-Id"]
        self.assertIn(b"event: done", self.settled.ask("GET", f"/v1/batches/{job}/events").body)

    def test_a_body_of_many_records_arrives_whole(self):
        batch = {"items": [item(1, self.url("/ok"), payload={"text": "x" * 90000})]}
        self.assertEqual(self.settled.post(batch).status, 200)
        self.assertEqual(self.down.stats()["requests"], 1)

    def test_what_is_too_large_is_refused_before_and_within_its_body(self):
        big = b" " * 200000
        self.assertEqual(self.settled.post(big).json["code"], "body_too_large")
        with self.settled.dial() as sock, sock.makefile("rb") as stream:
            sock.sendall(rawhttp.head(Content_Type="application/json", Transfer_Encoding="chunked"))
            try:
                for _ in range(60):
                    sock.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
            except OSError:
                pass
            self.assertEqual(rawhttp.read_answer(stream).json["code"], "body_too_large")
            self.assertEqual(stream.read(), b"")

    def test_a_caller_that_waits_for_100_is_told_to_go_on(self):
        body = harness.encode({"items": [item(1, self.url("/ok"))]})
        with self.settled.dial() as sock, sock.makefile("rb") as stream:
            sock.sendall(rawhttp.head(Content_Type="application/json", Content_Length=len(body), Expect="100-continue"))
            self.assertEqual(stream.readline() + stream.readline(), b"HTTP/1.1 100 Continue\r\n\r\n")
            sock.sendall(body)
            self.assertEqual(rawhttp.read_answer(stream).status, 200)

    def test_a_slow_reader_gets_all_of_a_large_answer(self):
        batch = {"items": [item(n, self.url("/ok")) for n in range(800)], "include": ["attempts"]}
        sock = self.settled.start_post(batch)
        with sock, sock.makefile("rb", buffering=1000) as stream:
            answer = rawhttp.read_answer(stream)
        self.assertEqual((answer.status, answer.json["counts"]["succeeded"]), (200, 800))

    def test_the_health_check_speaks_it_too(self):
        with open(self.settled.config_path, encoding="utf-8") as f:
            config = json.load(f)
        config["listen"] = f"127.0.0.1:{self.settled.port}"
        path = os.path.join(self.folder.name, "probe.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        done = subprocess.run([*harness.SETTLED, "healthcheck", "--config", path], capture_output=True, timeout=harness.LIMIT_S, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        with socket.create_server(("127.0.0.1", 0)) as other:
            config["listen"] = f"127.0.0.1:{other.getsockname()[1]}"
            with open(path, "w", encoding="utf-8") as f:
                json.dump(config, f)
            child = subprocess.Popen([*harness.SETTLED, "healthcheck", "--config", path], stderr=subprocess.PIPE)
            conn, _ = other.accept()
            conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            self.assertIn(b"is not ready", child.communicate(timeout=harness.LIMIT_S)[1])
            self.assertEqual(child.returncode, 1)
            conn.close()


    def test_a_health_check_that_is_stopped_while_it_waits_goes_on(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(os.path.join(self.folder.name, name) for name in ("cert.pem", "key.pem")))
        with open(self.settled.config_path, encoding="utf-8") as f:
            config = json.load(f)
        path = os.path.join(self.folder.name, "probe.json")
        with socket.create_server(("127.0.0.1", 0)) as server, open(path, "w", encoding="utf-8") as f:
            json.dump({**config, "listen": f"127.0.0.1:{server.getsockname()[1]}"}, f)
            f.flush()
            child = subprocess.Popen([*harness.SETTLED, "healthcheck", "--config", path], stderr=subprocess.PIPE)
            conn = server.accept()[0]
            with context.wrap_socket(conn, server_side=True) as tls:
                tls.recv(1000)
                for part in (b"HTTP/1.1 ", b"200 OK\r\n\r\n"):
                    kit.stop_for_a_moment(child)
                    tls.sendall(part)
                self.assertEqual((child.communicate(timeout=harness.LIMIT_S)[1], child.returncode), (b"", 0))


class Leaving(Case):
    """A caller that leaves ends its batch: nothing more reaches the downstream."""

    ways = {"FIN": leave, "RST": kill, "close_notify": close_notify, "half-close": half_close}

    def setUp(self):
        super().setUp()
        self.held = gate.Held()
        self.addCleanup(self.held.close)

    def check(self, way, headers=None, more=b""):
        self.down.clear()
        self.log_start = self.settled.mark()
        name = f"first-{way}-{len(more)}"
        sock = self.settled.start_post({"concurrency": 1, "items": [item(0, self.held.url(name))] +
                                        [item(n, self.url("/ok")) for n in range(1, 20)]}, headers)
        self.held.wait(name)
        if more:
            sock.sendall(more)
        self.ways[way](sock)
        done = self.settled.wait_done("disconnected", self.log_start)
        self.held.wait_gone(name)
        self.assertEqual((done["outcome"], self.down.ledger()), ("indeterminate", []))
        doc = self.settled.get_batch(done["batch"]).json
        self.assertEqual(({r["attempts"] for r in doc["results"][1:]}, doc["results"][0]["error"]["code"]), ({0}, "aborted"))
        sock.close()

    def test_however_it_leaves(self):
        for way in self.ways:
            with self.subTest(way):
                self.check(way)

    def test_however_it_leaves_a_stream(self):
        for way in self.ways:
            with self.subTest(way):
                self.check(way, {"Accept": "application/x-ndjson"})

    def test_behind_what_it_has_pipelined(self):
        for way in self.ways:
            for more in (b"\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"x" * 100000):
                with self.subTest(way, n=len(more)):
                    self.check(way, more=more)

    def test_with_tls_1_2_as_well(self):
        self.settled.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.addCleanup(setattr, self.settled.context, "maximum_version", ssl.TLSVersion.TLSv1_3)
        for way in self.ways:
            with self.subTest(way):
                self.check(way)

    def test_whoever_stays_is_answered_though_it_has_sent_more(self):
        sock = self.settled.start_post({"items": [item(0, self.held.url("a"))]})
        self.held.wait("a")
        sock.sendall(b"\r\n")
        kit.wait_taken(sock)
        self.held.answer("a")
        with sock, sock.makefile("rb") as stream:
            answer = rawhttp.read_answer(stream)
            self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))
            self.assertEqual(stream.read(), b"")

    def test_a_node_client_that_aborts(self):
        kit.need("node")
        script = """
            const c = new AbortController();
            process.stdin.once('data', () => c.abort());
            fetch(process.argv[1], {method: 'POST', signal: c.signal, headers: {'content-type': 'application/json'},
                body: process.argv[2]}).catch(e => { console.log(e.name); process.stdin.destroy(); });"""
        body = harness.encode({"items": [item(0, self.held.url("node"))]})
        child = subprocess.Popen(["node", "-e", script, f"https://localhost:{self.settled.port}/v1/batches", body],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 env={**os.environ, "NODE_EXTRA_CA_CERTS": os.path.join(self.folder.name, "cert.pem")})
        self.held.wait("node")
        out = child.communicate(b"x", timeout=harness.LIMIT_S)[0]
        self.assertEqual(out, b"AbortError\n")
        self.settled.wait_done("disconnected", self.log_start)
        self.held.wait_gone("node")


class Time(Case):
    config = {"limits": {"header_ms": harness.GIVE_UP_MS, "idle_ms": harness.GIVE_UP_MS}}

    def test_a_handshake_has_the_time_of_a_head(self):
        hello = bytes.fromhex("1603010200")
        silent, begun, dripped = (rawhttp.dial(self.settled.port) for _ in range(3))
        begun.sendall(hello)
        until = threading.Event()

        def drip():
            try:
                while not until.wait(0.05):
                    dripped.sendall(b"\0")
            except OSError:
                pass

        dripper = threading.Thread(target=drip)
        dripped.sendall(hello)
        dripper.start()
        for sock in (silent, begun, dripped):
            self.assertTrue(rawhttp.is_closed(sock))
            sock.close()
        until.set()
        dripper.join()

    def test_a_handshake_that_stands_still_does_not_keep_the_processor(self):
        """libmicrohttpd asks for another run at once while half a record is there, some 100,000 times a second."""
        def processor():
            with open(f"/proc/{settled.child.pid}/stat", encoding="ascii") as stat:
                return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")

        settled = Daemon({"shards": 1, "limits": {"header_ms": 600000}}, self.down, tempfile.mkdtemp(dir=self.folder.name))
        socks = [rawhttp.dial(settled.port) for _ in range(5)]
        for sock in socks:
            sock.sendall(bytes.fromhex("16030102000100"))
        begun, used = time.monotonic(), processor()
        while processor() - used < 0.2 and time.monotonic() - begun < 2:
            select.select([], [], [], 0.05)
        self.assertGreaterEqual(time.monotonic() - begun, 2 * (processor() - used))
        self.assertEqual(settled.ask("GET", "/livez").status, 200)
        for sock in socks:
            sock.close()
        self.assertEqual(settled.stop(), 0)

    def test_an_idle_connection_is_closed_in_time(self):
        with self.settled.dial() as sock, sock.makefile("rb") as stream:
            sock.sendall(rawhttp.head("GET", "/livez"))
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
            try:
                self.assertEqual(stream.read(), b"")
            except ssl.SSLEOFError:
                pass


class Certificates(unittest.TestCase):
    def setUp(self):
        kit.need("openssl")
        self.folder = tempfile.TemporaryDirectory(prefix="settled-test-")
        self.addCleanup(self.folder.cleanup)
        self.down = harness.Downstream()
        self.addCleanup(self.down.stop)

    def start(self):
        self.settled = Daemon({}, self.down, self.folder.name)
        self.addCleanup(lambda: self.assertEqual(self.settled.stop(), 0))

    def hup(self, event):
        start = self.settled.mark()
        self.settled.child.send_signal(signal.SIGHUP)
        return self.settled.wait_line(f"event={event} .*", start)[0]

    def shown(self):
        with self.settled.dial(ssl._create_unverified_context()) as sock:
            return sock.getpeercert(True)

    def test_a_new_one_is_for_new_connections_and_old_ones_go_on(self):
        self.start()
        first = self.shown()
        with self.settled.dial() as old, old.makefile("rb") as stream:
            cert, _ = make_certificate(self.folder.name)
            self.assertIn('settings="the certificate"', self.hup("reloaded"))
            self.assertNotEqual(self.shown(), first)
            with self.assertRaises(ssl.SSLError):
                self.settled.dial()
            self.settled.trust(cert)
            self.assertEqual(self.settled.ask("GET", "/livez").status, 200)
            old.sendall(rawhttp.head("GET", "/livez"))
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
        self.assertIn(NOTHING, self.hup("reloaded"))

    def test_what_cannot_be_used_leaves_the_old_one(self):
        self.start()
        first = self.shown()
        other = tempfile.mkdtemp(dir=self.folder.name)
        _, other_key = make_certificate(other)
        cert, key = (os.path.join(self.folder.name, n) for n in ("cert.pem", "key.pem"))
        for path, text, said in ((cert, "nonsense", "no certificate"), (key, "nonsense", "no private key"),
                                 (cert, None, "No such file"), (key, open(other_key, encoding="ascii").read(), "is not the key")):
            with open(path, encoding="ascii") as f:
                before = f.read()
            if text is None:
                os.unlink(path)
            else:
                with open(path, "w", encoding="ascii") as f:
                    f.write(text)
            self.assertIn(said, self.hup("reload_refused"))
            done = subprocess.run([*harness.SETTLED, "--check", "--config", self.settled.config_path], capture_output=True,
                                  text=True, timeout=harness.LIMIT_S, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(said, done.stderr)
            done = subprocess.run([*harness.SETTLED, "--config", self.settled.config_path], capture_output=True, text=True,
                                  timeout=harness.LIMIT_S, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(said, done.stderr)
            with open(path, "w", encoding="ascii") as f:
                f.write(before)
            self.assertEqual(self.shown(), first)
        self.assertIn(NOTHING, self.hup("reloaded"))
        self.assertNotIn("BEGIN", self.settled.text())

    def test_to_begin_or_end_with_it_needs_a_restart(self):
        self.start()
        with open(self.settled.config_path, encoding="utf-8") as f:
            config = json.load(f)
        config.pop("tls")
        with open(self.settled.config_path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.assertIn("settings=tls", self.hup("restart_needed"))
        self.assertEqual(self.settled.ask("GET", "/livez").status, 200)

    def test_no_request_fails_while_certificates_change(self):
        self.start()
        context = ssl._create_unverified_context()
        stop, failed = threading.Event(), []

        def client():
            while not stop.is_set():
                try:
                    with self.settled.dial(context) as sock, sock.makefile("rb") as stream:
                        body = harness.encode({"items": [item(n, self.down.url + "/ok") for n in range(3)]})
                        for _ in range(3):
                            sock.sendall(rawhttp.head(Content_Type="application/json", Content_Length=len(body)) + body)
                            if rawhttp.read_answer(stream).status != 200:
                                failed.append("status")
                except OSError as e:
                    failed.append(repr(e))

        threads = [threading.Thread(target=client) for _ in range(4)]
        for t in threads:
            t.start()
        seen = set()
        for _ in range(8):
            make_certificate(self.folder.name)
            self.hup("reloaded")
            seen.add(self.shown())
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual((failed, len(seen)), ([], 8))

    def test_what_runs_is_answered_by_a_process_that_ends(self):
        self.settled = Daemon({}, self.down, self.folder.name)
        held = gate.Held()
        sock = self.settled.start_post({"items": [item(1, held.url("x"))]})
        held.wait("x")
        self.settled.child.send_signal(signal.SIGTERM)
        self.settled.wait_line("event=draining")
        held.answer("x")
        with sock, sock.makefile("rb") as stream:
            self.assertEqual(rawhttp.read_answer(stream).status, 200)
        self.assertEqual(self.settled.stop(), 0)
        held.close()

    def test_one_half_of_the_two_files_is_an_error(self):
        path = os.path.join(self.folder.name, "half.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write("tls: {cert_file: x}\n")
        done = subprocess.run([*harness.SETTLED, "--check", "--config", path], capture_output=True, text=True, check=False,
                              timeout=harness.LIMIT_S)
        self.assertEqual(done.returncode, 2)
        self.assertIn("half.yaml:1:1: tls.key_file: required", done.stderr)


if __name__ == "__main__":
    harness.main()
