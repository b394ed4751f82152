"""The list of batches: newest first, each of them once over the pages, and by
state, outcome and key."""

import harness
import kit
import reading
from harness import item


def newest(ids):
    """Ids sort by time; those of one millisecond have an order all the same."""
    return sorted(ids, reverse=True)


class Listing(reading.Case):
    config = {"shards": 1}

    def page(self, query=""):
        answer = self.settled.ask("GET", "/v1/batches" + query)
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"), answer.body)
        return answer.json

    def pages(self, *params):
        """Ids of all batches, a page after the other; the sizes of the pages."""
        ids, sizes, cursor = [], [], None
        while True:
            page = self.page("?" + "&".join([*params, *([] if cursor is None else ["cursor=" + cursor])]))
            ids += [b["id"] for b in page["batches"]]
            sizes.append(len(page["batches"]))
            cursor = page["next_cursor"]
            if cursor is None:
                return ids, sizes

    def make(self, path="/ok", headers=None):
        answer = self.settled.post({"retry": {"max_attempts": 1}, "metadata": {"a": "b"}, "items": [item(1, self.url(path))]},
                                   {"Prefer": "respond-async, wait=30", **(headers or {})})
        self.assertIn(answer.status, (200, 207))
        return answer.headers["Batch-Id"]

    def setUp(self):
        """Each test has a list of its own."""
        super().setUp()
        for batch_id in self.pages("state=done", "limit=200")[0]:
            self.assertEqual(self.settled.ask("DELETE", "/v1/batches/" + batch_id).status, 204)
        self.assertEqual(self.page(), {"batches": [], "next_cursor": None})

    def test_the_newest_comes_first_and_each_once(self):
        ids = [self.make() for _ in range(11)]
        for limit, sizes in ((1, [1] * 11), (4, [4, 4, 3]), (11, [11]), (200, [11])):
            with self.subTest(limit=limit):
                self.assertEqual(self.pages(f"limit={limit}"), (newest(ids), sizes))
        self.assertEqual(self.pages(), (newest(ids), [11]))

    def test_a_page_has_fifty_unless_it_is_asked_for_more(self):
        ids = [self.make() for _ in range(51)]
        self.assertEqual(self.pages(), (newest(ids), [50, 1]))

    def test_a_new_batch_moves_no_page(self):
        ids = [self.make() for _ in range(4)]
        first = self.page("?limit=2")
        self.make()
        rest = self.page("?limit=2&cursor=" + first["next_cursor"])
        self.assertEqual([b["id"] for b in first["batches"] + rest["batches"]], newest(ids))

    def test_an_entry_is_the_batch_without_its_results(self):
        synchronous = self.settle({"items": [item(1, self.url("/gone"))]}, 207).headers["Batch-Id"]
        # What is written behind this one is there when it is.
        job = self.make()
        kit.until(lambda: len(self.page()["batches"]) == 2, "both are written")
        for entry, batch_id in zip(self.page()["batches"], newest([job, synchronous])):
            doc = self.settled.get_batch(batch_id).json
            del doc["results"]
            self.assertEqual(entry, doc)

    def test_a_synchronous_batch_that_runs_is_in_the_list_of_a_store_on_disk(self):
        batch_id = self.stream({"metadata": {"a": "b"}, "items": [item(1, self.held.url("one")), item(2, self.url("/ok"))]})
        self.held.wait("one")
        if harness.STORE == "memory" or "memory" in str(self.config):
            self.assertEqual(self.page()["batches"], [])
        else:
            kit.until(lambda: self.pages("state=running")[0] == [batch_id], "its note")
            entry, = self.page()["batches"]
            self.assertEqual((entry["metadata"], entry["counts"]["total"]), ({"a": "b"}, 2))
        self.held.answer("one")
        kit.until(lambda: self.pages("state=done")[0] == [batch_id], "its end")

    def test_filters_choose_and_combine(self):
        done = {outcome: [self.make(path) for _ in range(2)] for outcome, path in (
            ("succeeded", "/ok"), ("failed", "/gone"), ("indeterminate", "/x?status=503"))}
        running = self.job({"deadline_ms": reading.DAY_MS, "attempt_timeout_ms": 600000,
                            "items": [item(1, self.held.url("one"))]})
        self.held.wait("one")
        everything = newest([running, *sum(done.values(), [])])
        for params, want in (
                ([], everything), (["state=done"], newest(sum(done.values(), []))), (["state=running"], [running]), (["state=cancelling"], []),
                (["outcome=failed"], newest(done["failed"])), (["outcome=partial"], []),
                (["outcome=succeeded", "state=done"], newest(done["succeeded"])), (["outcome=succeeded", "state=running"], [])):
            for limit in (1, 200):
                with self.subTest(params=params, limit=limit):
                    self.assertEqual(self.pages(*params, f"limit={limit}")[0], want)
        self.held.answer("one")
        self.ended(running)

    def test_a_key_finds_its_batch(self):
        self.make()
        plain = self.make(headers={"Idempotency-Key": "order-7"})
        odd = self.make(headers={"Idempotency-Key": '"a b&c+d%"'})
        self.assertEqual(self.pages("key=order-7")[0], [plain])
        self.assertEqual(self.pages("key=a+b%26c%2Bd%25")[0], [odd])
        self.assertEqual(self.pages("key=order")[0], [])
        self.assertEqual(self.pages("key=order-7", "outcome=failed")[0], [])

    def test_what_is_wrong_with_a_query_is_listed(self):
        ids = [self.make() for _ in range(3)]
        cursor = self.page("?limit=1")["next_cursor"]
        for query, want in (
                ("?limit=0", [("limit", "range")]), ("?limit=201", [("limit", "range")]), ("?limit=ten", [("limit", "type")]),
                ("?state=dead", [("state", "enum")]), ("?state=done,running", [("state", "enum")]), ("?state", [("state", "enum")]),
                ("?outcome=none", [("outcome", "enum")]), ("?key=", [("key", "length")]), ("?key=" + "k" * 256, [("key", "length")]),
                ("?key=%0A", [("key", "format")]), ("?key=%C3%BC", [("key", "format")]), ("?page=2", [("page", "unknown_field")]),
                ("?state=done&state=done", [("state", "duplicate_key")]), ("?cursor=x", [("cursor", "format")]),
                ("?state=done&cursor=" + cursor, [("cursor", "format")]), ("?key=k&cursor=" + cursor, [("cursor", "format")]),
                ("?outcome=failed&cursor=" + cursor, [("cursor", "format")]),
                ("?x&limit=&state=x", [("x", "unknown_field"), ("limit", "type"), ("state", "enum")])):
            with self.subTest(query=query):
                self.assertEqual(self.faults("/v1/batches" + query), want)
        self.assertEqual([b["id"] for b in self.page(f"?cursor={cursor}&limit=7")["batches"]], newest(ids)[1:])

    def test_every_error_is_counted_and_a_hundred_are_listed(self):
        answer = self.settled.ask("GET", "/v1/batches?" + "&".join(f"p{n}" for n in range(130)))
        self.problem(answer, 422, "validation_failed")
        self.assertEqual((answer.json["error_count"], len(answer.json["errors"])), (130, 100))

    def test_what_was_forgotten_is_not_in_the_list(self):
        ids = [self.make() for _ in range(3)]
        self.assertEqual(self.settled.ask("DELETE", "/v1/batches/" + ids[1]).status, 204)
        self.assertEqual(self.pages("limit=1")[0], newest([ids[0], ids[2]]))

    def test_head_has_the_headers_of_get(self):
        self.make()
        get, head = (self.settled.ask(method, "/v1/batches") for method in ("GET", "HEAD"))
        self.assertEqual((head.status, head.body, head.headers["Content-Length"]), (200, b"", get.headers["Content-Length"]))
        self.rest.wait()


class ListingInMemory(Listing):
    config = {"shards": 1, **reading.MEMORY}


class ListingAcrossShards(Listing):
    config = {"shards": 3}


class Services(reading.Case):
    """GET /v1/services: what is configured, and what goes on."""
    SECRET = "s3cr3t"
    config = {"shards": 3, "services": {
        "hooks": {"kind": "webhook", "allow": ["127.0.0.0/8"], "secret": "whsec_czNjcjN0czNjcjN0czNjcjN0czNjcjN0", "max_in_flight": 2},
        "push": {"kind": "http", "url": "http://push.internal:8081/s3cr3t/{to}?token=s3cr3t", "attempt_timeout_ms": 1234,
                 "headers": {"authorization": "Bearer s3cr3t"}},
        "plain": {"kind": "http", "url": "HTTPS://Push.Internal/{to}"}}}

    def services(self):
        answer = self.settled.ask("GET", "/v1/services")
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"))
        self.assertNotIn(self.SECRET, answer.body.decode())
        self.assertNotIn("czNjcjN0", answer.body.decode())
        services = {s.pop("name"): s for s in answer.json["services"]}
        self.assertLessEqual({s.pop("lanes") for s in services.values()}, {0, 1})  # what other tests leave
        return services

    def test_it_shows_what_is_configured_and_no_secret(self):
        rest = {"in_flight": 0, "queued": 0, "lanes_per_origin": 1, "breaker": None, "rate": None, "pause": None,
                "retry_budget": {"ratio": 0.2, "per_second": 1000000, "window_ms": 10000, "queued": 0}}
        self.assertEqual(self.services(), {
            "hooks": {"kind": "webhook", "origin": None, "attempt_timeout_ms": harness.FOR_LONG_MS, "max_in_flight": 2, **rest},
            "push": {"kind": "http", "origin": "http://push.internal:8081", "attempt_timeout_ms": 1234, "max_in_flight": 256, **rest},
            "plain": {"kind": "http", "origin": "https://push.internal:443", "attempt_timeout_ms": harness.FOR_LONG_MS,
                      "max_in_flight": 256, **rest}})

    def test_it_counts_what_is_in_flight_and_what_waits(self):
        paths = [f"p{n}" for n in range(5)]
        for start in (self.job, self.stream):
            batch_id = start({"service": "hooks", "deadline_ms": reading.DAY_MS, "attempt_timeout_ms": 600000,
                              "items": [item(n, self.held.url(path)) for n, path in enumerate(paths)]})
            self.held.wait(*paths[:2])
            kit.until(lambda: self.services()["hooks"]["queued"] == 3, "the others wait")
            self.assertEqual(self.services()["hooks"]["in_flight"], 2)
            for n, path in enumerate(paths):
                self.held.answer(path)
            self.settled.wait_line("event=batch_done batch=" + batch_id, self.log_start)
            kit.until(lambda: {(s["in_flight"], s["queued"]) for s in self.services().values()} == {(0, 0)}, self.services)

    def test_it_has_no_parameters(self):
        self.assertEqual(self.faults("/v1/services?name=push"), [("name", "unknown_field")])
        self.assertEqual(self.settled.ask("HEAD", "/v1/services").status, 200)


if __name__ == "__main__":
    harness.main()
