"""Clients that nobody here wrote: Node's fetch with an AbortController, Python's
http.client and urllib, curl. Each settles batches, and each leaves in its way."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request

import harness
import kit
from harness import item

JSON = {"Content-Type": "application/json"}

# Says what happens on its output; SIGUSR2 aborts.
FETCH = """
import {readFile} from 'node:fs/promises';
const [url, file, accept] = process.argv.slice(2);
const body = await readFile(file);
const controller = new AbortController();
process.on('SIGUSR2', () => controller.abort());
try {
  const response = await fetch(url, {method: 'POST', signal: controller.signal, body,
                                     headers: {'Content-Type': 'application/json', 'Accept': accept}});
  console.log('status', response.status, response.headers.get('content-type'), response.headers.get('batch-id'));
  let text = '';
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    for (let end; accept !== 'application/json' && (end = text.indexOf('\\n')) >= 0; text = text.slice(end + 1))
      console.log('line', text.slice(0, end));
  }
  console.log('rest', text);
} catch (error) {
  console.log('threw', error.name);
}
process.exit(0);
"""


class Clients(kit.HeldCase):
    config = {"shards": 2, "limits": {"body_bytes": 4 << 20}}

    def setUp(self):
        super().setUp()
        self.dir = tempfile.TemporaryDirectory(prefix="settled-test-")
        self.addCleanup(self.dir.cleanup)

    def file(self, name, content):
        path = os.path.join(self.dir.name, name)
        with open(path, "wb") as f:
            f.write(content)
        return path

    def address(self, path="/v1/batches"):
        return f"http://127.0.0.1:{self.settled.port}{path}"

    def batch(self, *urls, **more):
        """A batch that lasts until its client leaves, or its downstream answers."""
        return {"service": "webhook", "deadline_ms": 3600000, "attempt_timeout_ms": 600000, **more,
                "items": [item(n, url) for n, url in enumerate(urls)]}

    def check_aborted(self, *facts):
        doc = self.aborted()
        self.assertEqual([(r["status"], r.get("error", {}).get("code"), r.get("stop")) for r in doc["results"]],
                         list(facts))
        self.down.wait(in_flight=0)
        self.assertEqual(len(self.down.ledger()), sum(r["attempts"] for r in doc["results"]))
        self.rest.wait()
        self.settle({"items": [item(1, self.url("/ok"))]}, 200)


ABORTED = ("indeterminate", "aborted", "disconnected")


class Node(Clients):
    @classmethod
    def setUpClass(cls):
        kit.need("node")
        super().setUpClass()

    def fetch(self, batch, accept="application/json"):
        node = harness.Process(["node", self.file("fetch.mjs", FETCH.encode()), self.address(),
                                self.file("batch.json", json.dumps(batch).encode()), accept])
        self.addCleanup(node.stop)
        return node

    def abort(self, node):
        node.child.send_signal(signal.SIGUSR2)
        node.wait_line("threw AbortError")

    def test_fetch_settles_a_batch(self):
        node = self.fetch(self.batch(self.url("/ok"), self.url("/gone"), self.url("/flaky?times=1")))
        self.assertEqual(node.wait_line(r"^status (\d+) (\S+)").groups(), ("207", "application/json"))
        answer = json.loads(node.wait_line("^rest (.*)")[1])
        self.assertEqual([r["status"] for r in answer["results"]], ["succeeded", "failed", "succeeded"])
        self.assertEqual(answer, self.settled.get_batch(answer["id"]).json)

    def test_fetch_reads_a_stream(self):
        node = self.fetch(self.batch(self.url("/ok"), self.held.url("one")), "application/x-ndjson")
        self.assertEqual(json.loads(node.wait_line("^line (.*)")[1])["id"], "i0")
        self.held.answer("one")
        self.assertEqual(json.loads(node.wait_line("^line (.*id.*i1.*)")[1])["status"], "succeeded")
        self.assertEqual(json.loads(node.wait_line('^line (.*batch.*)')[1])["batch"]["outcome"], "succeeded")
        node.wait_line("^rest $")

    def test_fetch_aborted_in_flight_ends_the_batch(self):
        node = self.fetch(self.batch(*[self.spread(n, "/hang") for n in range(10)]))
        self.down.wait(requests=10)
        self.abort(node)
        self.check_aborted(*[ABORTED] * 10)

    def test_fetch_aborted_in_a_retry_wait_ends_the_wait(self):
        node = self.fetch(self.batch(self.url("/x?status=503&retry_after=3000")))
        self.settled.wait_line(r"event=attempt_done .*item=i0 ", self.log_start)
        self.abort(node)
        self.check_aborted(("indeterminate", "unavailable", "disconnected"))

    def test_fetch_aborted_while_reading_a_stream_ends_the_batch(self):
        node = self.fetch(self.batch(self.url("/ok"), self.spread(1, "/hang"), concurrency=2), "application/x-ndjson")
        node.wait_line("^line .*i0")
        self.down.wait(requests=2)
        self.abort(node)
        self.check_aborted(("succeeded", None, None), ABORTED)

    def test_a_node_that_is_killed_ends_the_batch(self):
        node = self.fetch(self.batch(self.url("/hang")))
        self.down.wait(requests=1)
        node.stop(signal.SIGKILL)
        self.check_aborted(ABORTED)


class Python(Clients):
    def test_urllib_settles_a_batch_and_reads_problems(self):
        def post(batch):
            return urllib.request.urlopen(urllib.request.Request(self.address(), json.dumps(batch).encode(), JSON),
                                          timeout=harness.LIMIT_S)
        with post(self.batch(self.url("/ok"))) as answer:
            self.assertEqual((answer.status, json.load(answer)["outcome"]), (200, "succeeded"))
        with post(self.batch(self.url("/gone"))) as answer:
            self.assertEqual((answer.status, json.load(answer)["outcome"]), (207, "failed"))
        with self.assertRaises(urllib.error.HTTPError) as refused:
            post({"items": []})
        with refused.exception as problem:
            self.assertEqual((problem.code, json.load(problem)["code"]), (422, "validation_failed"))

    def test_urllib_that_times_out_ends_the_batch(self):
        body = json.dumps(self.batch(self.url("/hang"))).encode()
        with self.assertRaises(TimeoutError):
            urllib.request.urlopen(urllib.request.Request(self.address(), body, JSON), timeout=harness.GIVE_UP_MS / 1000)
        self.check_aborted(ABORTED)

    def test_http_client_keeps_its_connection(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.settled.port, timeout=harness.LIMIT_S)
        self.addCleanup(conn.close)
        conn.connect()
        port = conn.sock.getsockname()[1]
        for path, status in (("/ok", 200), ("/gone", 207), ("/ok", 200)):
            conn.request("POST", "/v1/batches", json.dumps(self.batch(self.url(path))), JSON)
            answer = conn.getresponse()
            doc = json.load(answer)
            self.assertEqual((answer.status, answer.getheader("Batch-Id")), (status, doc["id"]))
            conn.request("GET", answer.getheader("Location"))
            self.assertEqual(json.load(conn.getresponse()), doc)
        self.assertEqual(conn.sock.getsockname()[1], port)

    def test_http_client_sends_a_body_in_chunks(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.settled.port, timeout=harness.LIMIT_S)
        self.addCleanup(conn.close)
        body = json.dumps(self.batch(*[self.url("/ok")] * 50)).encode()
        parts = (body[at:at + 100] for at in range(0, len(body), 100))
        conn.request("POST", "/v1/batches", parts, JSON, encode_chunked=True)
        self.assertEqual(conn.getresponse().status, 200)


class Curl(Clients):
    TIME = ("--max-time", str(harness.GIVE_UP_MS / 1000))

    @classmethod
    def setUpClass(cls):
        kit.need("curl")
        super().setUpClass()

    def curl(self, *args, status=0):
        done = subprocess.run(["curl", "-sS", *args], capture_output=True, timeout=harness.LIMIT_S, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def post(self, batch, *args, **more):
        path = self.file("batch.json", json.dumps(batch).encode())
        return self.curl(*args, "-H", "Content-Type: application/json", "--data-binary", "@" + path, self.address(), **more)

    def big(self, n_bytes):
        items = [item(n, self.url("/ok"), payload="x" * 200000) for n in range(n_bytes // 200000)]
        return {"service": "webhook", "items": items}

    def test_curl_that_runs_out_of_time_ends_the_batch(self):
        self.post(self.batch(self.url("/hang")), *self.TIME, status=28)
        self.check_aborted(ABORTED)

    def test_curl_that_runs_out_of_time_in_a_stream_has_the_lines_so_far(self):
        out = self.post(self.batch(self.url("/ok"), self.url("/hang")), *self.TIME, "-N",
                        "-H", "Accept: application/x-ndjson", status=28)
        self.assertEqual([json.loads(line)["id"] for line in out.splitlines()], ["i0"])
        self.check_aborted(("succeeded", None, None), ABORTED)

    def test_a_large_body_is_asked_for_and_arrives_whole(self):
        out = self.post(self.big(2000000), "-D", "-", "-H", "Expect: 100-continue", "--expect100-timeout",
                        str(harness.LIMIT_S))
        interim, head, body = out.split(b"\r\n\r\n", 2)
        self.assertEqual((interim, head.split(b"\r\n")[0]), (b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 OK"))
        self.assertEqual(json.loads(body)["counts"]["succeeded"], 10)
        self.assertEqual({e["body_bytes"] for e in self.down.ledger()}, {200002})

    def test_a_body_that_is_too_large_is_refused_before_it_is_sent(self):
        out = self.post(self.big(5000000), "-D", "-", "-H", "Expect: 100-continue", "--expect100-timeout",
                        str(harness.LIMIT_S), "-w", "%{size_upload}")
        head, body = out.split(b"\r\n\r\n", 1)
        self.assertEqual(head.split(b"\r\n")[0].split()[1], b"413")
        self.assertEqual(body[-1:], b"0", "bytes sent")
        self.assertEqual(json.loads(body[:-1])["code"], "body_too_large")

    def test_head_answers_as_get_without_a_body(self):
        batch = self.settle({"items": [item(1, self.url("/ok"))]}, 200).json["id"]
        for path in ("/livez", "/v1/batches/" + batch, "/v1/batches/none", "/nowhere"):
            got = self.curl("-i", self.address(path)).split(b"\r\n\r\n", 1)
            head = self.curl("-I", self.address(path)).split(b"\r\n\r\n", 1)
            self.assertEqual(head[1], b"")
            self.assertEqual(fields(head[0]), fields(got[0]))
            self.assertIn(b"Content-Length: %d" % len(got[1]), head[0].split(b"\r\n"))

    def test_http_1_0_settles_a_batch(self):
        out = self.post(self.batch(self.url("/ok"), self.url("/gone")), "-0", "-i")
        head, body = out.split(b"\r\n\r\n", 1)
        self.assertEqual((head.split(b"\r\n")[0].split()[1], json.loads(body)["outcome"]), (b"207", "partial"))
        lines = self.post(self.batch(self.url("/ok")), "-0", "-H", "Accept: application/x-ndjson").splitlines()
        self.assertEqual((json.loads(lines[0])["id"], json.loads(lines[1])["batch"]["outcome"]), ("i0", "succeeded"))


def fields(head):
    """Status line and header fields, but for the time."""
    return sorted(line for line in head.split(b"\r\n") if not line.startswith(b"Date:"))


if __name__ == "__main__":
    harness.main()
