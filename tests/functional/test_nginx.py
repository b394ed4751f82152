"""nginx in front as a reverse proxy, with the four settings that it needs for
this: results, streams and refusals come through, and so does a client's end."""

import os
import shutil
import socket
import subprocess
import tempfile

import harness
import kit
from harness import item
from kit import LEAVE
from test_stream import NDJSON, Stream

# The listening socket is inherited, so that the kernel has chosen its port.
CONFIG = """
daemon off;
worker_processes 1;
{user}pid {dir}/pid;
error_log {dir}/error.log info;
events {{ worker_connections 512; }}
http {{
  access_log {dir}/access.log;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 32m;
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_ignore_client_abort off;
      proxy_read_timeout 3600s;
    }}
  }}
}}
"""


class Front:
    """nginx, and the ways to ask through it."""

    ask, post, start_post = harness.Daemon.ask, harness.Daemon.post, harness.Daemon.start_post

    def __init__(self, daemon):
        self.dir = tempfile.mkdtemp(prefix="settled-test-")
        user = "user root;\n" if os.geteuid() == 0 else ""
        config, log = os.path.join(self.dir, "nginx.conf"), os.path.join(self.dir, "error.log")
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            self.port = listener.getsockname()[1]
            with open(config, "w", encoding="utf-8") as f:
                f.write(CONFIG.format(dir=self.dir, upstream=daemon.port, port=self.port, user=user))
            self.nginx = subprocess.Popen(["nginx", "-p", self.dir, "-c", config, "-e", log],
                                          stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()],
                                          env={"PATH": os.environ["PATH"], "NGINX": f"{listener.fileno()};"})

    def stop(self):
        self.nginx.terminate()
        status = self.nginx.wait(harness.LIMIT_S)
        with open(os.path.join(self.dir, "error.log"), encoding="utf-8") as f:
            faults = [line for line in f if "[alert]" in line or "[emerg]" in line or "[crit]" in line]
        shutil.rmtree(self.dir)
        if status != 0 or faults:
            raise AssertionError(f"nginx ended with {status}:\n" + "".join(faults))


class Nginx(kit.HeldCase):
    config = {"shards": 2, "limits": {"body_bytes": 2 << 20}}

    @classmethod
    def setUpClass(cls):
        kit.need("nginx")
        super().setUpClass()
        cls.front = Front(cls.settled)

    @classmethod
    def tearDownClass(cls):
        try:
            cls.front.stop()
        finally:
            super().tearDownClass()

    def start(self, batch, headers=None):
        sock = self.front.start_post({"deadline_ms": 3600000, "attempt_timeout_ms": 600000, **batch}, headers)
        self.addCleanup(sock.close)
        return sock

    def check_end(self):
        self.down.wait(in_flight=0)
        self.rest.wait()
        answer = self.front.post({"items": [item(1, self.url("/ok"))]})
        self.assertEqual(answer.status, 200)
        self.settled.wait_line("event=batch_done batch=" + answer.headers["Batch-Id"], self.log_start)
        self.rest.wait()

    def restart(self):
        self.down.clear()
        self.log_start = len(self.settled.lines)

    def test_results_come_through_unchanged(self):
        answer = self.front.post({"include": ["attempts"], "concurrency": 100, "attempt_timeout_ms": 100,
                                  "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1}, "items": [
                                      item(n, self.spread(n, path)) for n, path in enumerate(
                                          ("/ok", "/gone", "/flaky?times=1", "/x?status=503", "/hang") * 100)]})
        self.assertEqual(answer.status, 207)
        direct = self.settled.ask("GET", answer.headers["Location"])
        self.assertEqual(answer.body, direct.body)
        for name in ("Batch-Id", "Location", "Batch-Outcome", "Content-Type"):
            self.assertEqual(answer.headers[name], direct.headers[name], name)
        self.assertEqual(self.front.ask("GET", answer.headers["Location"]).body, direct.body)

    def test_refusals_come_through(self):
        for method, path, body, headers, status, code in (
                ("POST", "/v1/batches", b"{}", {"Content-Type": "application/json"}, 422, "validation_failed"),
                ("POST", "/v1/batches", b"{", {"Content-Type": "application/json"}, 400, "malformed_json"),
                ("POST", "/v1/batches", b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
                ("DELETE", "/v1/batches", None, {}, 405, "method_not_allowed"),
                ("GET", "/nothing", None, {}, 404, "not_found")):
            answer = self.front.ask(method, path, body, headers)
            self.assertEqual((answer.status, answer.json["code"], answer.headers["Content-Type"]),
                             (status, code, "application/problem+json"))
        self.assertEqual(self.front.ask("DELETE", "/v1/batches").headers["Allow"], "POST, GET, HEAD")
        self.assertEqual(self.down.ledger(), [])
        self.rest.wait()

    def test_a_body_that_is_too_large_is_refused_by_the_daemon(self):
        for _ in range(10):
            answer = self.front.post(b" " * (4 << 20))
            self.assertEqual((answer.status, answer.json["code"]), (413, "body_too_large"))
        self.check_end()

    def test_a_client_that_leaves_closes_every_transfer(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.restart()
                sock = self.start({"items": [item(n, self.spread(n, "/hang")) for n in range(50)]})
                self.down.wait(requests=50)
                doc = self.leave_and_get(leave, sock)
                self.assertEqual(self.facts(doc, "status", "code", "stop", "attempts"),
                                 {("indeterminate", "aborted", "disconnected", 1)})
                self.down.wait(gone=50)
                self.assertEqual(len(self.down.ledger()), 50)
                self.check_end()

    def test_a_client_that_leaves_ends_waits_and_queues(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.restart()
                sock = self.start({"concurrency": 1, "items": [
                    item(1, self.url("/x?status=503&retry_after=3000")), item(2, self.url("/hang")), item(3, self.url("/ok"))]})
                self.settled.wait_line(r"event=attempt_done .*item=i1 ", self.log_start)
                self.down.wait(requests=2)
                doc = self.leave_and_get(leave, sock)
                self.assertEqual([(r["error"]["code"], r["stop"], r["attempts"]) for r in doc["results"]], [
                    ("unavailable", "disconnected", 1), ("aborted", "disconnected", 1),
                    ("not_attempted", "disconnected", 0)])
                self.check_end()
                self.assertEqual(len(self.down.ledger()), 3)

    def test_a_client_that_leaves_lets_a_batch_continue_that_should(self):
        sock = self.start({"on_disconnect": "continue", "items": [item(1, self.held.url("one"))]})
        self.held.wait("one")
        sock.close()
        kit.until(lambda: self.settled.metrics()["settled_requests_parked"] == 0, "the client is missed")
        self.held.answer("one")
        done = self.settled.wait_done("completed", self.log_start)
        shown = self.settled.ask("GET", "/v1/batches/" + done["batch"], headers={"Prefer": "wait=30"})
        self.assertEqual(shown.json["outcome"], "succeeded")
        self.check_end()

    def test_a_stream_comes_through_line_by_line(self):
        stream = Stream(self.start({"items": [item(n, self.held.url(f"p{n}")) for n in (1, 2)]}, NDJSON))
        self.assertEqual((stream.status, stream.headers["content-type"]), (200, "application/x-ndjson"))
        self.held.wait("p1", "p2")
        self.held.answer("p2")
        lines = [stream.line()]
        self.assertEqual(lines[0]["id"], "i2")
        self.held.answer("p1")
        lines += stream.rest()
        doc = self.settled.get_batch(stream.headers["batch-id"]).json
        self.assertEqual([lines[1], lines[0]], doc.pop("results"))
        self.assertEqual(lines[2], {"batch": doc})
        self.check_end()

    def test_a_client_that_leaves_a_stream_ends_its_batch(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.restart()
                stream = Stream(self.start({"items": [item(1, self.url("/ok")), item(2, self.url("/hang"))]}, NDJSON))
                self.assertEqual(stream.line()["id"], "i1")
                self.down.wait(requests=2)
                stream.leave(leave)
                self.assertEqual([r.get("stop") for r in self.aborted()["results"]], [None, "disconnected"])
                self.check_end()


if __name__ == "__main__":
    harness.main()
