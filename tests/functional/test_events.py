"""A batch as it settles, as server-sent events: each item once and in the order
of settling, over any number of connections; readers that stall cost a page, and
none of them aborts anything or holds up a stop."""

import signal
import socket

import gate
import harness
import kit
import lives
import rawhttp
import reading
from harness import item
from kit import LEAVE
from reading import DAY_MS, items

UNKNOWN = "b_01JD0000000000000000000000"


class Events(reading.Case):
    config = {"shards": 1}

    def held_batch(self, *paths, **more):
        return {"deadline_ms": DAY_MS, "attempt_timeout_ms": 600000, **more,
                "items": [item(n, self.held.url(path)) for n, path in enumerate(paths)]}

    def check_whole(self, batch_id, events):
        """The events of a batch that is done, from its beginning; in the order in which its items settled."""
        doc = self.ended(batch_id)
        results = doc.pop("results")
        self.assertEqual((events[0].name, events[-1].name), ("snapshot", "done"))
        self.assertEqual([e.id for e in items(events)], list(range(1, len(results) + 1)))
        self.assertEqual(sorted((e.data for e in items(events)), key=lambda r: r["index"]), results)
        self.assertEqual(events[-1].data, doc)
        last = 0
        for event in events:
            last = event.id if event.name == "item" else last
            self.assertEqual(event.id, last, event)

    def test_events_follow_a_batch_as_it_settles(self):
        for kind, start in (("synchronous", self.stream), ("job", self.job)):
            with self.subTest(kind=kind):
                paths = [f"{kind}{n}" for n in range(3)]
                batch_id = start(self.held_batch(*paths))
                stream = self.events(batch_id)
                first = stream.next()
                self.assertEqual((first.name, first.id, first.data["counts"]["pending"]), ("snapshot", 0, 3))
                self.assertNotIn("results", first.data)
                seen = [first]
                for n, status in ((2, "200 OK"), (0, "410 Gone")):
                    self.held.answer(paths[n], status)
                    burst = stream.until("progress")
                    self.assertEqual([e.data["id"] for e in items(burst)], [f"i{n}"])
                    counts = burst[-1].data["counts"]
                    self.assertEqual(counts["total"] - counts["pending"], burst[-1].id)
                    seen += burst
                self.held.answer(paths[1])
                seen += stream.rest()
                self.assertEqual([e.data["id"] for e in items(seen)], ["i2", "i0", "i1"])
                self.assertEqual(seen[-1].name, "done")
                self.check_whole(batch_id, seen)

    def test_a_batch_that_is_done_is_told_at_once(self):
        paths = ("/ok", "/gone", "/flaky?times=1", "/x?status=503")
        batch = {"retry": {"max_attempts": 2, "base_ms": 1}, "include": ["attempts"], "metadata": {"a": "\u00fc\n"},
                 "items": [item(n, self.spread(n, paths[n % len(paths)])) for n in range(200)]}
        job = self.settled_job(batch)
        answer = self.settle(batch, 207)
        for batch_id in (job, answer.headers["Batch-Id"]):
            events = self.events(batch_id).rest()
            self.assertEqual([e.name for e in events], ["snapshot"] + ["item"] * 200 + ["done"])
            self.assertEqual(events[0].data, events[-1].data)
            self.check_whole(batch_id, events)

    def test_the_answer_says_what_it_is_about(self):
        batch_id = self.settled_job({"items": [item(1, self.url("/ok"))]})
        headers = self.events(batch_id).headers
        self.assertEqual((headers["Batch-Id"], headers["Location"], headers["Batch-Outcome"], headers["Cache-Control"]),
                         (batch_id, "/v1/batches/" + batch_id, "succeeded", "no-store"))
        running = self.job(self.held_batch("one"))
        self.assertEqual(headers["X-Accel-Buffering"], "no")
        self.assertIsNone(self.events(running).headers["Batch-Outcome"])
        self.held.answer("one")

    def test_who_comes_back_at_any_place_gets_the_rest(self):
        batch_id = self.settled_job({"concurrency": 3, "items": [item(n, self.spread(n, "/ok")) for n in range(12)]})
        whole = items(self.events(batch_id).rest())
        for last in range(13):
            with self.subTest(last=last):
                events = self.events(batch_id, last).rest()
                self.assertEqual((events[0].name, events[0].id), ("snapshot", last))
                self.assertEqual(items(events), whole[last:])
                self.assertEqual((events[-1].name, events[-1].id), ("done", 12))

    def test_cuts_anywhere_lose_nothing_and_repeat_nothing(self):
        paths = [f"p{n}" for n in range(8)]
        batch_id = self.job(self.held_batch(*paths))
        self.held.wait(*paths)
        seen, last = [], None
        for n, path in enumerate(reversed(paths)):
            stream = self.events(batch_id, last)
            if n % 3 == 0:
                stream.until("snapshot")
                self.held.answer(path)
                self.settled.wait_line(f"event=attempt_done batch={batch_id} item=i{7 - n} ", self.log_start)
                continue
            self.held.answer(path)
            while not seen or seen[-1].data["id"] != f"i{7 - n}":
                seen += items(stream.until("item"))
                last = seen[-1].id
            if n % 3 == 1:
                harness.reset(stream.conn.sock or socket.socket(fileno=stream.answer.fp.raw._sock.detach()))
        seen += items(self.events(batch_id, last).rest())
        self.assertEqual([e.id for e in seen], list(range(1, 9)))
        self.assertEqual([e.data["id"] for e in seen], [f"i{n}" for n in reversed(range(8))])
        self.assertEqual(self.ended(batch_id)["outcome"], "succeeded")

    def test_many_readers_get_the_same(self):
        batch_id = self.job({"concurrency": 32, "deadline_ms": DAY_MS, "items": [
            *(item(n, self.spread(n, "/slow?wait_ms=2")) for n in range(500)), item(500, self.held.url("last"))]})
        streams = [self.events(batch_id) for _ in range(16)]
        self.held.answer("last")
        for stream in streams:
            events = stream.rest()
            self.check_whole(batch_id, events)

    def test_an_id_beyond_what_has_settled_is_the_end_of_that(self):
        batch_id = self.job(self.held_batch("one", "two"))
        self.held.answer("one")
        self.events(batch_id).until("item")
        for last in ("2", "99", "9" * 300):
            stream = self.events(batch_id, last)
            self.assertEqual(stream.next()[:2], ("snapshot", 1))
        self.held.answer("two")
        self.assertEqual([(e.name, e.id) for e in stream.rest() if e.name != "progress"], [("item", 2), ("done", 2)])
        self.assertEqual([(e.name, e.id) for e in self.events(batch_id, 99).rest()], [("snapshot", 2), ("done", 2)])

    def test_an_empty_id_is_none(self):
        batch_id = self.settled_job({"items": [item(1, self.url("/ok"))]})
        self.assertEqual(len(items(self.events(batch_id, "").rest())), 1)

    def test_what_cannot_be_answered_is_refused(self):
        batch_id = self.settled_job({"items": [item(1, self.url("/ok"))]})
        path = f"/v1/batches/{batch_id}/events"
        for last in ("x", "-1", "1.0", "1 2", "0x1"):
            self.problem(self.settled.ask("GET", path, headers={"Last-Event-ID": last}), 400, "malformed_request")
        for accept in ("application/json", "text/html", "text/event-stream;q=0"):
            self.problem(self.settled.ask("GET", path, headers={"Accept": accept}), 406, "not_acceptable")
        for accept in ("text/event-stream", "text/*", "*/*", "text/html, text/event-stream;q=0.1"):
            self.assertEqual(self.settled.ask("GET", path, headers={"Accept": accept}).status, 200)
        for unknown in (UNKNOWN, "x"):
            self.problem(self.settled.ask("GET", f"/v1/batches/{unknown}/events"), 404, "not_found")
        self.assertEqual(self.faults(path + "?last_event_id=1"), [("last_event_id", "unknown_field")])
        answer = self.settled.ask("POST", path)
        self.problem(answer, 405, "method_not_allowed")
        self.assertEqual(answer.headers["Allow"], "GET, HEAD")

    def test_head_has_the_headers_alone(self):
        job = self.job(self.held_batch("one"))
        head = self.settled.ask("HEAD", f"/v1/batches/{job}/events")
        self.assertEqual((head.status, head.headers["Content-Type"], head.headers["Batch-Id"], head.body),
                         (200, "text/event-stream", job, b""))
        self.assertEqual(self.settled.ask("HEAD", f"/v1/batches/{UNKNOWN}/events").status, 404)
        self.held.answer("one")
        kit.until(lambda: self.settled.metrics()["settled_event_readers"] == 0, "a reader is left")

    def test_a_client_of_http_1_0_gets_events_without_chunks(self):
        batch_id = self.settled_job({"items": [item(1, self.url("/ok"))]})
        stream = self.events(batch_id, version="HTTP/1.0")
        self.assertIsNone(stream.headers["Transfer-Encoding"])
        self.assertEqual([e.name for e in stream.rest()], ["snapshot", "item", "done"])

    def test_readers_that_leave_abort_nothing(self):
        for kind, start in (("synchronous", self.stream), ("job", self.job)):
            for name, leave in LEAVE.items():
                with self.subTest(kind=kind, leave=name):
                    batch_id = start(self.held_batch("one", "two"))
                    self.held.wait("one", "two")
                    sock = socket.create_connection(("127.0.0.1", self.settled.port), timeout=harness.LIMIT_S)
                    sock.sendall(f"GET /v1/batches/{batch_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    self.assertIn(b"200 OK", sock.recv(100))
                    leave(sock)
                    kit.until(lambda: self.settled.metrics()["settled_event_readers"] == 0, "the reader is missed")
                    self.held.answer("one")
                    self.held.answer("two")
                    self.assertEqual(self.ended(batch_id)["outcome"], "succeeded")
                    sock.close()

    def test_a_batch_that_is_cancelled_is_told_to_its_end(self):
        batch_id = self.job(self.held_batch("one", "two", concurrency=1))
        self.held.wait("one")
        stream = self.events(batch_id)
        self.assertEqual(stream.next().name, "snapshot")
        self.assertEqual(self.settled.ask("POST", f"/v1/batches/{batch_id}/cancel").status, 200)
        events = stream.rest()
        self.assertEqual({e.data["stop"] for e in items(events)}, {"cancelled"})
        self.assertEqual((events[-1].name, events[-1].data["stop_reason"]), ("done", "cancelled"))
        self.held.wait_gone("one")


class EventsInMemory(Events):
    config = {"shards": 1, **reading.MEMORY}


class EventsAcrossShards(Events):
    config = {"shards": 3}


class Quiet(reading.Case):
    """Streams that have nothing to tell for a while, and bounds on their number."""
    config = {"shards": 1, "limits": {"event_comment_ms": 20, "event_readers": 2}}
    held_batch = Events.held_batch

    def test_comments_keep_a_quiet_stream_open(self):
        batch_id = self.job(self.held_batch("one"))
        stream = self.events(batch_id)
        self.assertEqual(stream.next().name, "snapshot")
        for _ in range(3):
            self.assertEqual(stream.any(), reading.COMMENT)
        self.held.answer("one")
        self.assertEqual([e.name for e in stream.rest() if e.name != "progress"], ["item", "done"])

    def test_readers_are_bounded(self):
        batch_id = self.job(self.held_batch("one"))
        streams = [self.events(batch_id) for _ in range(2)]
        answer = self.settled.ask("GET", f"/v1/batches/{batch_id}/events")
        self.problem(answer, 503, "overloaded")
        self.assertRegex(answer.headers["Retry-After"], r"^\d+$")
        self.assertEqual(self.settled.get_batch(batch_id).status, 200)
        self.assertEqual(self.settled.metrics()["settled_event_readers"], 2)
        streams[0].close()
        kit.until(lambda: self.settled.metrics()["settled_event_readers"] == 1, "the reader is missed")
        self.events(batch_id).until("snapshot")
        self.held.answer("one")
        self.assertEqual([e.name for e in streams[1].rest() if e.name != "progress"], ["snapshot", "item", "done"])
        self.rest.wait()


class QuietAcrossShards(Quiet):
    config = {"shards": 3, **Quiet.config, **reading.MEMORY}


class Stalled(reading.Case):
    """Readers that do not take what they asked for."""
    config = {"shards": 1, "limits": {"items": 20001, "write_ms": 3600000}}

    def start(self, batch_id):
        reader = reading.SlowReader(self.settled, rawhttp.head("GET", f"/v1/batches/{batch_id}/events"))
        self.addCleanup(reader.close)
        reader.wait_blocked()
        return reader

    def test_readers_that_stall_cost_a_page_each(self):
        batch_id = self.job(reading.final_at_once(20000, self.held))
        reader = self.start(batch_id)
        before = reading.resident(self.settled)
        for _ in range(20):
            self.start(batch_id)
        grown = reading.resident(self.settled) - before
        if not reading.instrumented(self.settled):
            self.assertLess(grown, 20 * 200000)
        self.held.answer("held")
        text = reader.rest().decode()
        ids = [int(line.removeprefix("id: ")) for line in text.split("event: item\n")[1:] for line in [line.split("\n")[0]]]
        self.assertEqual(ids, list(range(1, 20002)))
        self.assertTrue(text.rstrip().rsplit("\n", 3)[-3].startswith("event: done"))

    def test_events_of_a_batch_that_is_forgotten_meanwhile_break_off(self):
        batch_id = self.settled_job(reading.final_at_once(20000))
        reader = self.start(batch_id)
        self.assertEqual(self.settled.ask("DELETE", "/v1/batches/" + batch_id).status, 204)
        data = reader.bytes()
        self.assertFalse(data.endswith(b"\r\n0\r\n\r\n"), "it looks whole")
        self.assertNotIn(b"event: done", data)
        reader.close()
        self.rest.wait()

    def test_a_reader_that_stalls_holds_up_no_other(self):
        batch_id = self.job(reading.final_at_once(20000, self.held))
        self.start(batch_id)
        stream = self.events(batch_id)
        for _ in range(20000):
            stream.until("item")
        self.held.answer("held")
        self.assertEqual([e.name for e in stream.rest() if e.name != "progress"], ["item", "done"])


class StalledInMemory(Stalled):
    config = {**Stalled.config, **reading.MEMORY}


class Cut(reading.Case):
    """A reader that takes nothing is cut, and nothing else is."""
    config = {"shards": 1, "limits": {"items": 20001, "write_ms": 500}}

    def test_a_reader_that_stalls_is_cut_after_write_ms_and_the_batch_goes_on(self):
        batch_id = self.job(reading.final_at_once(20000, self.held))
        reader = reading.SlowReader(self.settled, rawhttp.head("GET", f"/v1/batches/{batch_id}/events"))
        self.addCleanup(reader.close)
        self.assertEqual(reader.sock.recv(12), b"HTTP/1.1 200")
        kit.until(lambda: self.settled.metrics()["settled_event_readers"] == 0, "it is still there")
        self.assertEqual(self.settled.get_batch(batch_id).json["state"], "running")
        self.held.answer("held")
        self.settled.wait_line("event=batch_done batch=" + batch_id)

    def test_a_quiet_stream_is_not_cut(self):
        batch_id = self.job(reading.final_at_once(3, self.held))
        stream = self.events(batch_id)
        self.assertEqual(len(items(stream.until("progress"))), 3)
        self.down.ask("POST", "/ok?wait_ms=1200")
        self.held.answer("held")
        self.assertEqual([e.name for e in stream.rest() if e.name != "progress"], ["item", "done"])


class Stop(reading.Case):
    """Streams while the process stops: a daemon for each test."""
    config = None
    limits = {"drain_ms": 60000, "write_ms": 3600000, "items": 20001}
    shards = 1

    def daemon(self):
        daemon = harness.Daemon({"shards": self.shards, "limits": self.limits}, self.down)
        self.addCleanup(daemon.stop)
        return daemon

    def job_that_waits(self, daemon):
        """Its one attempt has failed, and the next one is far away."""
        answer = daemon.post({"retry": {"base_ms": 3600000, "cap_ms": 3600000}, "items": [
            item(1, self.url("/x?status=503")), item(2, self.url("/ok"))]}, reading.ASYNC)
        self.assertEqual(answer.status, 202)
        return answer.headers["Batch-Id"]

    def test_a_stream_ends_with_the_process_and_holds_up_no_stop(self):
        daemon = self.daemon()
        batch_id = self.job_that_waits(daemon)
        streams = [reading.Events(daemon, batch_id) for _ in range(4)]
        for stream in streams:
            stream.until("item")
        self.assertEqual(daemon.stop(), 0)
        for stream in streams:
            self.assertNotIn("done", [e.name for e in stream.rest()])
            stream.close()
        self.assertNotIn("event=connections_left", daemon.text())
        self.assertNotIn("event=drain_ended", daemon.text())

    def test_readers_that_stall_are_closed_with_the_process(self):
        daemon = self.daemon()
        answer = daemon.post(reading.final_at_once(20000, self.held), reading.ASYNC)
        readers = [reading.SlowReader(daemon, rawhttp.head("GET", f"/v1/batches/{answer.headers['Batch-Id']}/{what}", **headers))
                   for what, headers in (("events", {}), ("results", reading.NDJSON), ("events", {}))]
        for reader in readers:
            reader.wait_blocked()
        self.held.answer("held")
        daemon.wait_line("event=batch_done")
        self.assertEqual(daemon.stop(), 0)
        for reader in readers:
            reader.close()

    def test_a_batch_that_ends_while_we_stop_is_told(self):
        daemon = self.daemon()
        sock = daemon.start_post({"items": [item(1, self.held.url("one"))]}, reading.NDJSON)
        self.addCleanup(sock.close)
        batch_id = next(line for line in iter(sock.makefile().readline, "\n") if line.startswith("Batch-Id"))[10:].strip()
        stream = reading.Events(daemon, batch_id)
        stream.until("snapshot")
        daemon.child.terminate()
        daemon.wait_line("event=draining")
        again = reading.Events(daemon, batch_id)
        self.assertEqual([again.status, again.next().name], [200, "snapshot"])
        self.held.answer("one")
        for each in (stream, again):
            self.assertEqual([e.name for e in each.rest() if e.name != "progress"], ["item", "done"])
            each.close()


class StopAcrossShards(Stop):
    shards = 3


class Lives(lives.Case):
    """A reader whose daemon ends, and who goes on with the next one."""

    def setUp(self):
        super().setUp()
        self.held = gate.Held()
        self.addCleanup(self.held.close)

    def test_what_one_process_told_the_next_one_does_not_repeat_and_nothing_is_lost(self):
        for sig, shards in ((signal.SIGKILL, (1, 3)), (signal.SIGKILL, (3, 1)), (signal.SIGTERM, (1, 1))):
            with self.subTest(sig=sig, shards=shards):
                paths = [f"{sig}-{shards[0]}-{n}" for n in range(6)]
                first = self.start(shards=shards[0], limits={"drain_ms": 0})
                answer = first.post({"retry": {"base_ms": 1, "cap_ms": 2, "max_attempts": 5}, "attempt_timeout_ms": 600000, "items": [
                    item(n, self.held.url(path)) for n, path in enumerate(paths)]}, reading.ASYNC)
                batch_id = answer.headers["Batch-Id"]
                stream = reading.Events(first, batch_id)
                self.held.wait(*paths)
                for path in paths[3:]:
                    self.held.answer(path)
                seen = []
                while len(seen) < 3:
                    seen += items(stream.until("item"))
                cursor = first.ask("GET", f"/v1/batches/{batch_id}/results?limit=2").json["next_cursor"]
                first.stop(sig)
                stream.close()
                for path in paths[:3]:
                    self.held.wait_gone(path)
                second = self.start(shards=shards[1])
                again = reading.Events(second, batch_id, seen[-1].id)
                for path in reversed(paths[:3]):
                    self.held.answer(path)
                seen += items(again.rest())
                again.close()
                self.assertEqual([e.id for e in seen], [1, 2, 3, 4, 5, 6])
                results = self.wait_done(second, batch_id).json["results"]
                self.assertEqual(sorted((e.data for e in seen), key=lambda r: r["index"]), results)
                rest = second.ask("GET", f"/v1/batches/{batch_id}/results?cursor={cursor}").json
                self.assertEqual(rest["results"], results[2:])
                second.stop()


if __name__ == "__main__":
    harness.main()
