"""Settling as a stream of lines: one for each item when it settles, and at last
the batch. A client that leaves or stops reading ends the batch, and costs no
memory meanwhile."""

import json

import harness
import kit
import rawhttp
import reading
from harness import item
from kit import LEAVE
from reading import DAY_MS, NDJSON

LINES = 20000
BATCH_BYTES = reading.ID_BYTES + 50 + 400        # an item's part of the request, and its record


class Stream:
    """The client's end of a stream: reads chunk by chunk, as much as it is asked to."""

    def __init__(self, sock):
        self.sock = sock
        self.file = sock.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        for line in iter(self.file.readline, b"\r\n"):
            name, value = line.decode().rstrip().split(": ", 1)
            self.headers[name.lower()] = value
        self.data = b""

    def line(self):
        """The next line, or None at the end of the answer."""
        while b"\n" not in self.data:
            size = int(self.file.readline(), 16)
            self.data += self.file.read(size)
            assert self.file.readline() == b"\r\n"
            if size == 0:
                assert self.data == b"", self.data
                return None
        line, _, self.data = self.data.partition(b"\n")
        return json.loads(line)

    def rest(self):
        return list(iter(self.line, None))

    def leave(self, leave):
        self.file.close()
        leave(self.sock)


class Streaming(kit.HeldCase):
    config = {"shards": 1}

    def start(self, batch):
        sock = self.settled.start_post({"deadline_ms": DAY_MS, "attempt_timeout_ms": 600000, **batch}, NDJSON)
        self.addCleanup(sock.close)
        return Stream(sock)

    def stored(self, stream):
        return self.settled.get_batch(stream.headers["batch-id"]).json

    def test_a_line_leaves_when_its_item_settles(self):
        stream = self.start({"items": [item(n, self.held.url(f"p{n}")) for n in (1, 2, 3)]})
        self.assertEqual((stream.status, stream.headers["content-type"]), (200, "application/x-ndjson"))
        self.assertRegex(stream.headers["batch-id"], "^b_")
        self.assertEqual(stream.headers["location"], "/v1/batches/" + stream.headers["batch-id"])
        self.assertNotIn("batch-outcome", stream.headers, "nobody knows it yet")
        self.held.wait("p1", "p2", "p3")
        for n, status in ((3, "200 OK"), (1, "410 Gone"), (2, "200 OK")):
            self.held.answer(f"p{n}", status)
            line = stream.line()
            self.assertEqual((line["id"], line["index"]), (f"i{n}", n - 1))
            self.assertEqual(line["status"], "succeeded" if status == "200 OK" else "failed")
        last = stream.line()
        self.assertEqual(set(last), {"batch"})
        self.assertNotIn("results", last["batch"])
        self.assertEqual((last["batch"]["state"], last["batch"]["outcome"]), ("done", "partial"))
        self.assertIsNone(stream.line())
        self.rest.wait()

    def test_a_running_batch_can_be_asked_for_beside_its_stream(self):
        stream = self.start({"items": [item(1, self.held.url("one")), item(2, self.held.url("two"))]})
        self.held.answer("one")
        first = stream.line()
        doc = self.stored(stream)
        self.assertEqual((doc["state"], doc["outcome"], doc["counts"]["pending"]), ("running", None, 1))
        self.assertEqual(doc["results"][0], first)
        self.held.answer("two")
        self.assertEqual(len(stream.rest()), 2)

    def test_lines_and_last_line_equal_the_batch_asked_for_by_id(self):
        stream = self.start({"include": ["attempts"], "attempt_timeout_ms": 50, "metadata": {"a": "ü"}, "concurrency": 7,
                             "retry": {"max_attempts": 3, "base_ms": 1, "cap_ms": 2}, "contract": "best_effort",
                             "items": [*(item(n, self.spread(n, path)) for n, path in enumerate(
                                 ("/ok", "/gone", "/flaky?times=2", "/hang", "/x?status=503", "/invalid", "/slow?wait_ms=5",
                                  "/x?status=200&body=%7B%22id%22:%22m-1%22%7D") * 12)), item(96, "no url"), {"id": "bad"}]})
        lines = stream.rest()
        doc = self.stored(stream)
        results = doc.pop("results")
        self.assertEqual(lines.pop(), {"batch": doc})
        self.assertEqual(len(lines), 98)
        self.assertEqual(sorted(lines, key=lambda r: r["index"]), results)
        self.assertNotEqual(lines, results, "in the order of settling")

    def test_a_batch_of_many_items_has_a_line_for_each(self):
        stream = self.start({"concurrency": 256, "items": [item(n, self.spread(n, "/ok")) for n in range(3000)]})
        lines = stream.rest()
        self.assertEqual(sorted(r["index"] for r in lines[:-1]), list(range(3000)))
        self.assertEqual(lines[-1]["batch"]["outcome"], "succeeded")

    def test_a_batch_that_stops_early_has_a_line_for_each_item(self):
        stream = self.start({"contract": "all_or_nothing", "concurrency": 2, "items": [
            item(1, self.url("/hang")), item(2, self.url("/gone")), item(3, self.url("/ok"))]})
        lines = stream.rest()
        self.assertEqual([(r["id"], r["stop"]) for r in lines[:2]], [("i2", "not_retryable"), ("i3", "first_failure")])
        self.assertEqual((lines[2]["id"], lines[2]["error"]["code"]), ("i1", "aborted"))
        self.assertEqual(lines[3]["batch"]["stop_reason"], "first_failure")

    def test_a_client_of_http_1_0_gets_the_lines_without_chunks(self):
        for _ in range(2):
            sock = self.settled.start_post({"items": [item(1, self.held.url("one")), item(2, self.url("/gone"))]},
                                           NDJSON, version="HTTP/1.0")
            with sock, sock.makefile("rb") as file:
                head = b"".join(iter(file.readline, b"\r\n"))
                self.assertNotIn(b"chunked", head)
                self.assertEqual(json.loads(file.readline())["id"], "i2")
                self.held.answer("one")
                self.assertEqual(json.loads(file.readline())["id"], "i1")
                self.assertEqual(json.loads(file.readline())["batch"]["outcome"], "partial")
                self.assertEqual(file.read(), b"")
        self.rest.wait()

    def test_a_refused_batch_is_a_problem_and_no_stream(self):
        answer = self.settled.post({"items": []}, NDJSON)
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (422, "application/problem+json"))

    def test_a_client_that_leaves_between_lines_ends_the_batch(self):
        for name, leave in {**LEAVE, "half-close": kit.half_close}.items():
            with self.subTest(leave=name):
                self.log_start = self.settled.mark()
                stream = self.start({"concurrency": 3, "items": [
                    item(1, self.held.url("one")), item(2, self.held.url("two")), item(3, self.spread(3, "/hang")),
                    item(4, self.url("/ok"))]})
                self.held.wait("two")
                self.down.wait(in_flight=1)
                self.held.answer("one")
                self.assertEqual(stream.line()["id"], "i1")
                self.assertEqual(stream.line()["id"], "i4")
                stream.leave(leave)
                doc = self.aborted()
                self.assertEqual([(r["status"], r.get("stop")) for r in doc["results"]],
                                 [("succeeded", None), ("indeterminate", "disconnected"),
                                  ("indeterminate", "disconnected"), ("succeeded", None)])
                self.held.wait_gone("two")
                self.down.wait(in_flight=0)
                stream.sock.close()
                self.rest.wait()

    def test_a_client_that_leaves_before_the_first_line_ends_the_batch(self):
        for name, leave in LEAVE.items():
            with self.subTest(leave=name):
                self.log_start = self.settled.mark()
                stream = self.start({"items": [item(1, self.held.url("one"))]})
                self.held.wait("one")
                stream.leave(leave)
                self.assertEqual(self.facts(self.aborted(), "code", "stop"), {("aborted", "disconnected")})
                self.held.wait_gone("one")
                self.rest.wait()


class StreamingAcrossShards(Streaming):
    config = {"shards": 3}


def slow_reader(daemon, held):
    """More results than any kernel's buffers, for a client that has not begun to read. One item is held."""
    body = harness.encode(reading.final_at_once(LINES, held))
    head = rawhttp.head(Content_Type="application/json", Content_Length=len(body), **NDJSON)
    return reading.SlowReader(daemon, head + body, 32768, 65536)


class Stalled(kit.HeldCase):
    """Readers that do not take what they asked for."""
    config = {"shards": 1, "limits": {"items": LINES + 1, "write_ms": 2 * harness.GIVE_UP_MS}}

    def start(self):
        reader = slow_reader(self.settled, self.held)
        self.addCleanup(reader.close)
        self.held.wait("held")
        return reader

    def start_blocked(self):
        reader = self.start()
        reader.wait_blocked()
        return reader

    def check_aborted(self):
        done = self.settled.wait_done("disconnected", self.log_start)
        self.assertEqual((int(done["items"]), int(done["failed"]), int(done["indeterminate"])), (LINES + 1, LINES, 1))
        result = self.settled.get_batch(done["batch"]).results["held"]
        self.assertEqual((result["error"]["code"], result["stop"]), ("aborted", "disconnected"))
        self.held.wait_gone("held")

    def test_a_reader_that_stalls_is_taken_for_gone_after_write_ms(self):
        reader = self.start()
        self.check_aborted()
        reader.close()
        self.rest.wait()

    def test_a_reader_that_reads_slowly_gets_everything(self):
        """Each pause is far from write_ms; all of them are longer."""
        reader = self.start_blocked()
        data = b""
        for _ in range(12):
            self.down.ask("POST", f"/ok?wait_ms={harness.GIVE_UP_MS // 5}")
            data += reader.sock.recv(32768)
        self.held.answer("held")
        while part := reader.sock.recv(1 << 20):
            data += part
        self.assertTrue(data.endswith(b"\r\n0\r\n\r\n"))
        text = reading.unchunk(data.partition(b"\r\n\r\n")[2])
        self.assertEqual(text.count(b"\n"), LINES + 2)
        last = json.loads(text.splitlines()[-1])["batch"]
        self.assertEqual((last["stop_reason"], last["counts"]["total"]), ("completed", LINES + 1))
        self.rest.wait()


class Blocked(kit.HeldCase):
    """Clients that leave while the daemon waits for room to write to them."""
    config = {"shards": 1, "limits": {"items": LINES + 1, "write_ms": 3600000}}
    start, start_blocked, check_aborted = Stalled.start, Stalled.start_blocked, Stalled.check_aborted

    def test_a_client_that_leaves_is_missed_while_the_daemon_cannot_write(self):
        for name, leave in {**LEAVE, "half-close": kit.half_close}.items():
            with self.subTest(leave=name):
                self.log_start = self.settled.mark()
                reader = self.start_blocked()
                leave(reader.sock)
                self.check_aborted()
                reader.close()
                self.rest.wait()


class Memory(kit.HeldCase):
    """With limits that let nothing else end the batch, or keep its result."""
    config = {"shards": 1, "store": {"memory": True},
              "limits": {"items": LINES + 1, "write_ms": 3600000, "results_bytes": 1}}

    def start(self):
        reader = slow_reader(self.settled, self.held)
        self.addCleanup(reader.close)
        return reader

    def test_a_reader_that_stalls_costs_no_more_memory_than_one_that_reads(self):
        at_first = reading.resident(self.settled)
        stream = Stream(self.start().sock)
        size = sum(len(json.dumps(stream.line(), separators=(",", ":"))) for _ in range(LINES))
        self.assertGreater(size, 6 << 20)
        one_read = reading.resident(self.settled)
        self.start().wait_blocked()
        one_stalled = reading.resident(self.settled)
        self.assertLess(one_stalled - one_read, one_read - at_first + size // 2)
        if not reading.instrumented(self.settled):
            self.assertLess(one_stalled - one_read, LINES * BATCH_BYTES + size // 2)


if __name__ == "__main__":
    harness.main()
