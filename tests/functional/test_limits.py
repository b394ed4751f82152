"""What bounds the process: bytes of batches and of bodies on their way, and what
is refused in the metrics. And a batch that runs tells what it does."""

import http.client
import json
import select
import socket

import harness
import kit
from harness import LIMIT_S, item

SPACES = b" " * 60000


class Bytes(harness.Case):
    # Of several services one may not have it all.
    config = {"limits": {"queued_bytes": 150000}, "services": {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}}

    def padded(self, path="/hang"):
        return harness.encode({"deadline_ms": 600000, "attempt_timeout_ms": 600000,
                               "items": [item(1, self.url(path))]}) + SPACES

    def refused(self, answer):
        self.assertEqual((answer.status, answer.json["code"]), (503, "overloaded"))
        self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)

    def test_batches_are_refused_before_they_fill_the_memory(self):
        held = [self.settled.start_post(self.padded()) for _ in range(2)]
        self.down.wait(requests=2)
        self.refused(self.settled.post(self.padded("/ok")))
        self.assertEqual(self.settled.post({"items": [item(1, self.url("/ok"))]}).status, 200)
        held[0].close()
        self.settled.wait_done("disconnected", self.log_start)
        kit.until(lambda: self.settled.post(self.padded("/ok")).status == 200, "what is over leaves the memory")
        held[1].close()
        kit.until(lambda: self.settled.metrics()["settled_batches_held_bytes"] == 0, "it has left the memory")

    def too_large(self, answer):
        self.assertEqual((answer.status, answer.json["code"]), (413, "body_too_large"))
        self.assertIsNone(answer.headers["Retry-After"], "no time makes it fit")

    def test_invalid_items_count_too(self):
        items = [{"id": f"i{n}"} for n in range(900)]
        self.too_large(self.settled.post({"contract": "best_effort", "items": items}))

    def test_a_batch_that_never_fits_is_too_large(self):
        self.assertEqual(self.settled.ask("GET", "/v1/limits").json["body_bytes"], 150000)
        self.too_large(self.settled.post(self.padded("/ok") + SPACES * 2))
        almost = self.padded("/ok")
        almost += b" " * (150000 - len(almost))
        for headers in ({}, {"Prefer": "respond-async"}, {"Idempotency-Key": "k"}):
            self.too_large(self.settled.post(almost, headers))
        self.assertEqual(self.settled.post(self.padded("/ok") + SPACES).status, 200)
        kit.until(lambda: self.settled.metrics()["settled_batches_held_bytes"] == 0, "it has left the memory")

    def test_bodies_on_their_way_count_too(self):
        head = (f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(SPACES)}\r\n\r\n").encode()
        slow = [socket.create_connection(("127.0.0.1", self.settled.port), timeout=LIMIT_S) for _ in range(3)]
        for sock in slow:
            sock.sendall(head)
        refused, _, _ = select.select(slow, [], [], LIMIT_S)
        self.assertEqual(len(refused), 1)
        answer = http.client.HTTPResponse(refused[0])
        answer.begin()
        self.assertEqual((answer.status, json.loads(answer.read())["code"]), (503, "overloaded"))
        for sock in slow:
            sock.close()
        self.assertEqual(self.settled.post({"items": [item(1, self.url("/ok"))]}).status, 200)


class BytesOfShards(harness.Case):
    config = {"shards": 2, "limits": {"queued_bytes": 150000}}

    def test_a_body_that_no_shard_has_room_for_is_too_large(self):
        self.assertEqual(self.settled.ask("GET", "/v1/limits").json["body_bytes"], 75000)
        answer = self.settled.post(harness.encode({"items": [item(1, self.url("/ok"))]}) + b" " * 80000)
        self.assertEqual((answer.status, answer.json["code"]), (413, "body_too_large"))
        self.assertIn("/v1/limits", answer.json["detail"])
        answer = self.settled.ask("GET", "/livez", b"x")
        self.assertEqual((answer.status, answer.json["detail"]), (413, "no body is wanted here"))


class NeverFits(harness.Case):
    """More items than there may ever be: no time to wait is true."""

    services = {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}
    config = {"limits": {"queued_items": 8, "stored_items": 6},
              "services": {**services, "small": {**services["webhook"], "max_queued": 3},
                           "tiny": {**services["webhook"], "max_queued": 2}}}

    def ask(self, n, headers=None, service="webhook", **more):
        items = [item(i, self.url("/ok"), service=service if i < n else "tiny") for i in range(n + more.pop("tiny", 0))]
        return self.settled.post({"items": items, **more}, headers)

    def never(self, answer, n, most, pointer="#/items"):
        self.assertEqual((answer.status, answer.json["code"], answer.json["error_count"]), (422, "validation_failed", 1))
        error = answer.json["errors"][0]
        self.assertEqual((error["pointer"], error["code"]), (pointer, "too_many_items"))
        self.assertIn(f"{n} items; at most {most} ", error["detail"])
        self.assertIsNone(answer.headers["Retry-After"])

    def test_a_batch_that_its_caller_waits_for(self):
        self.assertEqual([self.ask(8).status, self.ask(3, service="small").status, self.ask(3, service="small", tiny=2).status],
                         [200] * 3)
        self.never(self.ask(9), 9, 8)
        self.never(self.ask(9, {"Accept": "application/x-ndjson"}), 9, 8)
        self.never(self.ask(9, contract="all_or_nothing"), 9, 8)
        self.never(self.ask(4, service="small"), 4, 3)
        self.never(self.ask(2, tiny=3), 5, 4)
        self.never(self.ask(9, validate_only=True), 9, 8)
        self.assertEqual(len(self.down.ledger()), 16)

    def test_what_goes_to_the_store(self):
        async_, key = {"Prefer": "respond-async, wait=60"}, {"Idempotency-Key": "k"}
        self.assertEqual([self.ask(6, async_).status, self.ask(6, {"Idempotency-Key": "fits"}).status,
                          self.ask(6, async_, service="small").status], [200] * 3)
        self.never(self.ask(7, async_), 7, 6)
        self.never(self.ask(7, async_, contract="best_effort"), 7, 6)
        self.never(self.ask(7, key), 7, 6)
        self.never(self.ask(7, on_disconnect="continue"), 7, 6)

    def test_a_retry(self):
        first = self.settled.post({"items": [item(i, self.url("/gone")) for i in range(8)]})
        self.assertEqual(first.status, 207)
        answer = self.settled.ask("POST", first.headers["Location"] + "/retry",
                                  json.dumps({"ids": [f"i{n}" for n in range(8)]}).encode(), {"Content-Type": "application/json"})
        self.never(answer, 8, 6, "#")

    def test_best_effort_is_shed_instead(self):
        for headers, service in (({}, "webhook"), ({"Idempotency-Key": "e"}, "small")):
            answer = self.ask(9, headers, service, contract="best_effort")
            self.assertEqual(answer.status, 207, answer.body)
            self.assertEqual({r["stop"] for r in answer.json["results"] if not r["ok"]}, {"shed"})
            kit.until(lambda: self.settled.metrics()["settled_store_unfinished_items"] == 0, "the store has no room yet")

    def test_the_bounds_are_shown(self):
        limits = self.settled.ask("GET", "/v1/limits").json
        self.assertEqual((limits["queued_items"], limits["stored_items"], limits["max_queued"]), (8, 6, {"small": 3, "tiny": 2}))


class Metrics(harness.Case):
    config = {"limits": {"body_bytes": 1000}}

    def refusals(self):
        return {name.split('"')[1]: n for name, n in self.settled.metrics().items() if "refused_total" in name and n > 0}

    def test_every_refusal_is_counted_whoever_refuses(self):
        before = self.refusals()
        self.settled.ask("POST", "/v1/batches", b" " * 2000, {"Content-Type": "application/json"})
        self.settled.ask("GET", "/nothing")
        for head in (b"POST /v1/batches HTTP/1.1\r\nHost: x\r\n\r\n",
                     b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", self.settled.port), timeout=LIMIT_S) as sock:
                sock.sendall(head)
                while sock.recv(4096):
                    pass
        after = self.refusals()
        self.assertEqual({p: after[p] - before.get(p, 0) for p in after},
                         {"body_too_large": 1, "not_found": 1, "length_required": 1, "malformed_request": 1})


class Running(harness.Case):
    def test_an_attempt_in_flight_is_counted(self):
        self.down.script("/x", "status=503", "hang")
        sock = self.settled.start_post({"retry": {"base_ms": 0, "cap_ms": 0}, "items": [item(1, self.url("/x"))]})
        self.down.wait(requests=2)
        batch = self.settled.wait_line(r"event=attempt_done batch=(\S+)", self.log_start)[1]
        running = self.settled.get_batch(batch)
        self.assertEqual((running.status, running.json["state"], running.json["outcome"]), (200, "running", None))
        result = running.results["i1"]
        self.assertEqual((result["status"], result["ok"], result["attempts"]), ("running", None, 2))
        sock.close()
        self.settled.wait_done("disconnected", self.log_start)
        self.assertEqual(self.settled.get_batch(batch).results["i1"]["attempts"], 2)


if __name__ == "__main__":
    harness.main()
