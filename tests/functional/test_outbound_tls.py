"""TLS towards downstreams: who is trusted, what is shown to them, and that no
connection made for one service is used for another that shows something else."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest
import warnings

import certs
import gate
import harness
import kit
from harness import item

# What libcurl would read for each connection, left to itself.
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


class Server:
    """Answers over TLS; seen: (path, the client's name or None, the connection's number)."""

    def __init__(self, identity, ca=None, require=False, close=False, **limits):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*identity)
        if ca is not None:
            self.context.load_verify_locations(ca)
            self.context.verify_mode = ssl.CERT_REQUIRED if require else ssl.CERT_OPTIONAL
        for name, value in limits.items():
            setattr(self.context, name, value)
        self.close_each, self.seen, self.faults, self.connections = close, [], [], 0
        self.changed = threading.Condition()
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=gate.serve_each, args=(self.sock, self._serve), daemon=True)
        self.thread.start()

    def _serve(self, conn):
        with self.changed:
            self.connections += 1
            number = self.connections
        try:
            with self.context.wrap_socket(conn, server_side=True) as tls:
                while True:
                    path = gate.read_request(tls).split()[1].decode()
                    cert = tls.getpeercert()
                    name = dict(pair[0] for pair in cert["subject"])["commonName"] if cert else None
                    with self.changed:
                        self.seen.append((path, name, number))
                    end = "Connection: close\r\n" if self.close_each else ""
                    tls.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{end}\r\n".encode())
                    if self.close_each:
                        return
        except AssertionError:
            pass                                 # the client has closed the connection
        except OSError as fault:
            with self.changed:
                self.faults.append(fault)
                self.changed.notify_all()

    def url(self, host="127.0.0.1"):
        return f"https://{host}:{self.port}/{{to}}"

    def stop(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(harness.LIMIT_S)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        kit.need("openssl")
        cls.dir = tempfile.TemporaryDirectory(prefix="settled-test-")
        cls.addClassCleanup(cls.dir.cleanup)
        cls.ca, cls.other = (certs.Authority(cls.dir.name, name) for name in ("ca", "other"))
        cls.identity = cls.ca.issue("server")

    def serve(self, *args, **kwargs):
        server = Server(*args, **kwargs)
        self.addCleanup(server.stop)
        return server

    def daemon(self, services, env=None, **more):
        daemon = harness.Daemon({"services": services, **more}, env=env)
        self.addCleanup(daemon.stop)
        return daemon

    def service(self, server, ca=None, identity=None, **more):
        files = {"ca_file": (ca or self.ca).cert, **more}
        if identity is not None:
            files |= {"cert_file": identity[0], "key_file": identity[1]}
        return {"kind": "http", "url": server.url(), **files}

    def ask(self, daemon, service, to="u"):
        answer = daemon.post({"service": service, "include": ["attempts"], "retry": {"max_attempts": 1}, "items": [item(1, to)]})
        return answer.json["results"][0]

    def assert_no_connection(self, result, message=None):
        self.assertEqual((result["error"]["code"], result["delivered"], result["attempt_log"][0]["phase"]), ("connect_failed", "no", "tls"),
                         result)
        self.assertIn(message or "", result["error"]["message"])


class Trust(Case):
    def test_a_services_own_authorities_replace_the_systems(self):
        server = self.serve(self.identity)
        both = os.path.join(self.dir.name, "both.pem")
        with open(both, "w", encoding="ascii") as f:
            for ca in (self.other, self.ca):
                with open(ca.cert, encoding="ascii") as one:
                    f.write(one.read())
        plain = {"kind": "http", "url": server.url()}
        daemon = self.daemon({"own": self.service(server), "wrong": self.service(server, self.other), "system": plain,
                              "both": {**plain, "ca_file": both}, "leaf": {**plain, "ca_file": self.identity[0]},
                              "hook": {"kind": "webhook", "ca_file": self.ca.cert, "allow": ["127.0.0.0/8"]}})
        for service, trusted in (("own", True), ("wrong", False), ("system", False), ("both", True), ("leaf", True), ("hook", True)) * 2:
            with self.subTest(service=service):
                result = self.ask(daemon, service, server.url().replace("{to}", "x") if service == "hook" else "x")
                self.assertEqual(result["ok"], trusted, result)
                if not trusted:
                    self.assert_no_connection(result, "the certificate is not trusted")
        self.assertEqual(len(server.seen), 8)

    def test_files_are_read_once(self):
        ca = os.path.join(self.dir.name, "gone.pem")
        with open(self.ca.cert, "rb") as f, open(ca, "wb") as copy:
            copy.write(f.read())
        server = self.serve(self.identity, close=True)
        daemon = self.daemon({"own": {"kind": "http", "url": server.url(), "ca_file": ca}})
        os.unlink(ca)
        for _ in range(3):
            self.assertTrue(self.ask(daemon, "own")["ok"])
        self.assertEqual(server.connections, 3)

    def test_no_connection_reads_the_systems_authorities_anew(self):
        if not os.path.exists(BUNDLE):
            self.skipTest(f"no {BUNDLE}")
        server = self.serve(self.identity, close=True)
        daemon = self.daemon({"own": self.service(server), "system": {"kind": "http", "url": server.url()}})

        def connect(times):
            for _ in range(times):
                self.assertEqual((self.ask(daemon, "own")["ok"], self.ask(daemon, "system")["ok"]), (True, False))
            with open(f"/proc/{daemon.child.pid}/io", encoding="ascii") as f:
                return int(re.search(r"^rchar: (\d+)$", f.read(), re.M)[1])

        before = connect(1)
        self.assertLess(connect(5) - before, os.path.getsize(BUNDLE))
        self.assertEqual(server.connections, 12)

    def test_a_certificate_out_of_its_time_or_for_another_host_is_refused(self):
        for name, identity, message in (
                ("expired", self.ca.issue("old", dates=("20200101000000Z", "20200102000000Z")), "the certificate has expired"),
                ("early", self.ca.issue("new", dates=("20900101000000Z", "20900102000000Z")), "the certificate is not valid yet"),
                ("elsewhere", self.ca.issue("elsewhere", "DNS:elsewhere.example,IP:127.0.0.2"), "the certificate is for another host")):
            with self.subTest(name=name):
                server = self.serve(identity)
                self.assert_no_connection(self.ask(self.daemon({"s": self.service(server)}), "s"), message)
                self.assertEqual(server.seen, [])

    def lax_policy(self):
        """A file for OPENSSL_CONF, by which the system itself would speak older versions."""
        path = os.path.join(self.dir.name, "lax.cnf")
        with open(path, "w", encoding="ascii") as f:
            f.write("openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = lax\n"
                    "[lax]\nMinProtocol = TLSv1\nCipherString = ALL:@SECLEVEL=0\n")
        return path

    def test_nothing_older_than_tls_1_2_is_spoken(self):
        warnings.simplefilter("ignore", DeprecationWarning)
        old = self.serve(self.identity, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
        old.context.set_ciphers("ALL:@SECLEVEL=0")
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(self.ca.cert)
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.set_ciphers("ALL:@SECLEVEL=0")
        with client.wrap_socket(socket.create_connection(("127.0.0.1", old.port)), server_hostname="127.0.0.1") as tls:
            self.assertEqual(tls.version(), "TLSv1.1")
        new = [self.serve(self.identity, minimum_version=v, maximum_version=v) for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]
        services = {f"s{n}": self.service(server) for n, server in enumerate((old, *new))}
        daemon = self.daemon(services, env={"OPENSSL_CONF": self.lax_policy()})
        self.assert_no_connection(self.ask(daemon, "s0"))
        self.assertEqual([self.ask(daemon, s)["ok"] for s in ("s1", "s2")], [True, True])
        self.assertEqual(old.seen, [])


class Identity(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.clients = {name: cls.ca.issue(name) for name in ("alice", "bob")}

    def test_a_downstream_that_asks_for_a_certificate_gets_it(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with self.subTest(version=version.name):
                server = self.serve(self.identity, self.ca.cert, require=True, maximum_version=version)
                stranger = self.other.issue("stranger")
                daemon = self.daemon({"alice": self.service(server, identity=self.clients["alice"]), "nobody": self.service(server),
                                      "stranger": self.service(server, identity=stranger)})
                self.assertTrue(self.ask(daemon, "alice")["ok"])
                for service in ("nobody", "stranger"):
                    result = self.ask(daemon, service)
                    self.assertFalse(result["ok"])
                    # By TLS 1.3 the client may speak before it hears that it was refused.
                    if version == ssl.TLSVersion.TLSv1_2:
                        self.assert_no_connection(result)
                    else:
                        self.assertIn(result["error"]["code"], ("connect_failed", "connection_lost"))
                self.assertEqual([name for _, name, _ in server.seen], ["alice"])

    def test_no_connection_and_no_session_crosses_services(self):
        """To one origin, again and again: by connections that stay, and by new ones
        that could resume the session of another."""
        wants = {"a1": "alice", "b": "bob", "none": None, "a2": "alice", "system": None}
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for close in (False, True):
                with self.subTest(version=version.name, close=close):
                    server = self.serve(self.identity, self.ca.cert, close=close, maximum_version=version)
                    services = {name: self.service(server, identity=self.clients.get(who)) for name, who in wants.items()}
                    services["system"] = {"kind": "http", "url": server.url()}
                    daemon = self.daemon(services)
                    for turn in range(4):
                        for name in wants:
                            self.assertEqual(self.ask(daemon, name, f"{name}-{turn}")["ok"], name != "system")
                    self.assertEqual(len(server.seen), 16)
                    used = {}
                    for path, who, number in server.seen:
                        self.assertEqual(who, wants[path[1:].split("-")[0]], path)
                        used.setdefault(who, set()).add(number)
                    if not close:
                        # Those that show the same may share: one connection for each.
                        self.assertEqual([len(numbers) for numbers in used.values()], [1, 1, 1])


    def test_a_reload_takes_what_the_files_hold_now(self):
        cert, key = (os.path.join(self.dir.name, name) for name in ("mine.pem", "mine.key"))

        def put(*sources):
            for source, target in zip(sources, (cert, key)):
                shutil.copy(source, target)

        server = self.serve(self.identity, self.ca.cert)
        put(*self.clients["alice"])
        daemon = self.daemon({"s": self.service(server, identity=(cert, key))})
        for turn, (sources, event, who) in enumerate((
                (self.clients["alice"], "reloaded", "alice"), (self.clients["bob"], "reloaded", "bob"),
                ((self.clients["alice"][0], self.clients["bob"][1]), "reload_refused", "bob"))):
            self.assertTrue(self.ask(daemon, "s")["ok"])
            put(*sources)
            start = daemon.mark()
            daemon.child.send_signal(signal.SIGHUP)
            daemon.wait_line(f"event={event}", start)
            self.assertTrue(self.ask(daemon, "s")["ok"], turn)
            self.assertEqual(server.seen[-1][1], who)
        # As long as they held the same, one connection was enough.
        self.assertEqual([number for _, _, number in server.seen], [1, 1, 1, 2, 2, 2])


class Check(Case):
    def run_it(self, services, *args):
        path = os.path.join(self.dir.name, "settled.yaml")
        with open(path, "w", encoding="ascii") as f:
            f.write("listen: 127.0.0.1:0\nstore: {memory: true}\nservices:\n" + services)
        return subprocess.run([*harness.SETTLED, "--config", path, *args], capture_output=True, text=True, timeout=harness.LIMIT_S,
                              check=False)

    def refused(self, line, message):
        done = self.run_it("  s:\n    kind: webhook\n" + line, "--check")
        self.assertEqual(done.returncode, 2, done)
        self.assertIn(message, done.stderr)
        self.assertNotIn("PRIVATE", done.stderr)

    def test_files_that_fit_are_fine(self):
        cert, key = self.ca.issue("fine")
        done = self.run_it(f"  s: {{kind: webhook, ca_file: {self.ca.cert}, cert_file: {cert}, key_file: {key}}}\n", "--check")
        self.assertEqual(done.returncode, 0, done)

    def test_what_is_wrong_is_said_with_its_place(self):
        cert, key = self.ca.issue("one")
        _, other_key = self.ca.issue("two")
        locked, junk, broken = (os.path.join(self.dir.name, name) for name in ("locked.key", "junk.pem", "broken.pem"))
        certs.openssl("ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked)
        with open(junk, "w", encoding="ascii") as f:
            f.write("nothing\n")
        with open(cert, encoding="ascii") as f, open(broken, "w", encoding="ascii") as b:
            b.write(f.read().replace("\nM", "\n#", 1))
        huge = os.path.join(self.dir.name, "huge.pem")
        with open(huge, "wb") as f:
            f.truncate(1024 * 1024 + 1)
        for value, what in (("/nowhere.pem", "/nowhere.pem does not exist"), (self.dir.name, "is a directory"), (junk, "holds no certificate"),
                            (broken, "holds a certificate that cannot be parsed"), (huge, "is larger than 1 MiB")):
            self.refused(f"    ca_file: {value}\n", "settled.yaml:6:14: services.s.ca_file: " + (what if what[0] == "/" else f"{value} {what}"))
        for c, k, message in ((cert, other_key, f"7:15: services.s.key_file: {other_key} is not the key of the certificate in {cert}: "),
                              (cert, locked, f"7:15: services.s.key_file: {locked} holds a key with a passphrase: "),
                              (cert, junk, f"7:15: services.s.key_file: {junk} holds no private key in PEM form: "),
                              (junk, key, f"6:16: services.s.cert_file: {junk} holds no certificate in PEM form: "),
                              ("/nowhere", key, "6:16: services.s.cert_file: /nowhere does not exist: "),
                              (cert, "/nowhere", "7:15: services.s.key_file: /nowhere does not exist: ")):
            self.refused(f"    cert_file: {c}\n    key_file: {k}\n", message)
        self.refused(f"    cert_file: {cert}\n", "4:3: services.s.key_file: required with cert_file")
        self.refused(f"    key_file: {key}\n", "4:3: services.s.cert_file: required with key_file")
        done = self.run_it(f"  s:\n    kind: http\n    url: http://h/\n    ca_file: {self.ca.cert}\n", "--check")
        self.assertIn("7:5: services.s.ca_file: the URL is plain http", done.stderr)

    def test_a_key_that_the_system_finds_too_short_stops_the_start(self):
        cert, key = self.ca.issue("short", key=("-newkey", "rsa:1024"))
        done = self.run_it(f"  s: {{kind: webhook, cert_file: {cert}, key_file: {key}}}\n")
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(f"{cert} is refused by the TLS library", done.stderr)


if __name__ == "__main__":
    harness.main()
