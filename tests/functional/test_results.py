"""Results by status and page, and as lines: every item once and in order, from
the store or from a batch that still runs, and nothing that grows with a slow reader."""

import json
import socket

import harness
import rawhttp
import reading
from harness import item
from reading import NDJSON

MIXED = ("/ok", "/gone", "/ok", "/x?status=503", "/invalid")
STATUSES = {"/ok": "succeeded", "/gone": "failed", "/x?status=503": "indeterminate", "/invalid": "failed"}
UNKNOWN = "b_01JD0000000000000000000000"


class Results(reading.Case):
    config = {"shards": 1}

    def mixed(self, n, **more):
        return {"retry": {"max_attempts": 1}, **more, "items": [
            item(i, self.spread(i, MIXED[i % len(MIXED)])) for i in range(n)]}

    def page(self, batch_id, query="", headers=()):
        answer = self.settled.ask("GET", f"/v1/batches/{batch_id}/results{query}", headers=dict(headers))
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual((answer.headers["Batch-Id"], answer.headers["Location"]), (batch_id, "/v1/batches/" + batch_id))
        return answer

    def pages(self, batch_id, *params):
        """All results, a page after the other; the sizes of the pages."""
        results, sizes, cursor = [], [], None
        while True:
            query = "&".join([*params, *([] if cursor is None else ["cursor=" + cursor])])
            page = self.page(batch_id, "?" + query).json
            self.assertEqual(page["id"], batch_id)
            results += page["results"]
            sizes.append(len(page["results"]))
            cursor = page["next_cursor"]
            if cursor is None:
                return results, sizes

    def whole(self, batch_id):
        return self.settled.get_batch(batch_id).json["results"]

    def test_pages_have_every_item_once_and_in_order(self):
        batch_id = self.settled_job(self.mixed(23))
        want = self.whole(batch_id)
        for limit, sizes in ((1, [1] * 23), (7, [7, 7, 7, 2]), (23, [23]), (1000, [23])):
            with self.subTest(limit=limit):
                self.assertEqual(self.pages(batch_id, f"limit={limit}"), (want, sizes))
        self.assertEqual(self.pages(batch_id), (want, [23]))

    def test_a_page_has_a_hundred_items_unless_it_is_asked_for_more(self):
        batch_id = self.settled_job(reading.final_at_once(250))
        self.assertEqual(self.pages(batch_id)[1], [100, 100, 50])

    def test_a_filter_covers_each_of_its_items_once(self):
        batch_id = self.settled_job(self.mixed(31, include=["attempts"]))
        whole = self.whole(batch_id)
        for wanted in (["succeeded"], ["failed"], ["indeterminate"], ["failed", "indeterminate"], ["not_attempted"],
                       ["pending", "running"], list(set(STATUSES.values()))):
            for limit in (1, 4, 1000):
                with self.subTest(wanted=wanted, limit=limit):
                    found, _ = self.pages(batch_id, "status=" + ",".join(wanted), f"limit={limit}")
                    self.assertEqual(found, [r for r in whole if r["status"] in wanted])
        self.assertEqual({r["status"] for r in whole}, set(STATUSES.values()))
        self.assertIn("attempt_log", whole[0])

    def test_a_comma_may_be_escaped(self):
        batch_id = self.settled_job(self.mixed(5))
        self.assertEqual(self.page(batch_id, "?status=failed%2Cindeterminate").body,
                         self.page(batch_id, "?status=failed,indeterminate").body)

    def test_lines_are_the_results_of_the_document(self):
        batch_id = self.settled_job(self.mixed(600))
        whole = self.whole(batch_id)
        for query, want in (("", whole), ("?limit=3", whole[:3]), ("?limit=300", whole[:300]),
                            ("?status=indeterminate", [r for r in whole if r["status"] == "indeterminate"]),
                            ("?status=failed&limit=2", [r for r in whole if r["status"] == "failed"][:2]),
                            ("?status=running", [])):
            with self.subTest(query=query):
                answer = self.page(batch_id, query, NDJSON)
                self.assertEqual(answer.headers["Content-Type"], "application/x-ndjson")
                self.assertEqual(answer.headers["Batch-Outcome"], "partial")
                self.assertEqual([json.loads(line) for line in answer.body.splitlines()], want)

    def test_lines_go_on_behind_a_page(self):
        batch_id = self.settled_job(self.mixed(23))
        cursor = self.page(batch_id, "?limit=9").json["next_cursor"]
        lines = self.page(batch_id, "?cursor=" + cursor, NDJSON).body.splitlines()
        self.assertEqual([json.loads(line) for line in lines], self.whole(batch_id)[9:])

    def test_a_batch_that_runs_shows_what_is_known(self):
        for kind, start in (("synchronous", self.stream), ("job", self.job)):
            with self.subTest(kind=kind):
                paths = [f"{kind}{n}" for n in range(3)]
                batch_id = start({"attempt_timeout_ms": 600000, "deadline_ms": reading.DAY_MS,
                                  "items": [item(n, self.held.url(path)) for n, path in enumerate(paths)]})
                events = self.events(batch_id)
                self.held.wait(*paths)
                self.held.answer(paths[1], "410 Gone")
                events.until("item")
                page = self.page(batch_id, "?limit=2")
                self.assertEqual((page.json["state"], page.headers["Batch-Outcome"]), ("running", None))
                self.assertEqual([r["status"] for r in page.json["results"]], ["running", "failed"])
                self.assertIsNotNone(page.json["next_cursor"])
                self.assertEqual([r["id"] for r in self.pages(batch_id, "status=running", "limit=1")[0]], ["i0", "i2"])
                self.assertEqual([json.loads(line)["id"] for line in self.page(batch_id, "", NDJSON).body.splitlines()],
                                 ["i0", "i1", "i2"])
                self.held.answer(paths[0])
                self.held.answer(paths[2])
                self.assertEqual(events.rest()[-1].data["outcome"], "partial")

    def test_what_is_wrong_with_a_query_is_listed(self):
        batch_id = self.settled_job(self.mixed(5))
        path = f"/v1/batches/{batch_id}/results"
        cursor = self.page(batch_id, "?limit=2").json["next_cursor"]
        for query, want in (
                ("?limit=0", [("limit", "range")]), ("?limit=1001", [("limit", "range")]), ("?limit=", [("limit", "type")]),
                ("?limit", [("limit", "type")]), ("?limit=-1", [("limit", "type")]), ("?limit=1e2", [("limit", "type")]),
                ("?limit=" + "9" * 400, [("limit", "range")]), ("?limit=1&limit=1", [("limit", "duplicate_key")]),
                ("?status=", [("status", "enum")]), ("?status=failed,", [("status", "enum")]),
                ("?status=Failed", [("status", "enum")]), ("?statuses=failed", [("statuses", "unknown_field")]),
                ("?cursor=", [("cursor", "length")]), ("?cursor=x", [("cursor", "format")]),
                ("?cursor=" + cursor[:-1] + "g", [("cursor", "format")]),
                ("?cursor=" + "0" * 48, [("cursor", "format")]), ("?cursor=" + cursor + "0", [("cursor", "length")]),
                ("?a/b~=1&status=x&limit=x&cursor=x",
                 [("a~1b~0", "unknown_field"), ("status", "enum"), ("limit", "type"), ("cursor", "format")])):
            with self.subTest(query=query):
                self.assertEqual(self.faults(path + query), want)
                self.assertEqual(self.faults(path + query, NDJSON), want)

    def test_a_cursor_is_of_its_batch_and_filter_alone(self):
        one, two = self.settled_job(self.mixed(5)), self.settled_job(self.mixed(5))
        cursor = self.page(one, "?limit=2").json["next_cursor"]
        self.assertEqual(self.faults(f"/v1/batches/{two}/results?cursor={cursor}"), [("cursor", "format")])
        self.assertEqual(self.faults(f"/v1/batches/{one}/results?status=failed&cursor={cursor}"), [("cursor", "format")])
        self.assertEqual(self.faults(f"/v1/batches?cursor={cursor}"), [("cursor", "format")])
        self.assertEqual(len(self.page(one, f"?limit=1000&cursor={cursor}").json["results"]), 3)
        other = self.page(one, "?status=succeeded,failed&limit=1").json["next_cursor"]
        self.assertEqual(len(self.page(one, f"?cursor={other}&status=failed,succeeded").json["results"]), 3)

    def test_what_is_not_there_is_not_found(self):
        for batch_id in (UNKNOWN, "x"):
            for headers in ({}, NDJSON):
                self.problem(self.settled.ask("GET", f"/v1/batches/{batch_id}/results", headers=headers), 404, "not_found")
        self.problem(self.settled.ask("GET", f"/v1/batches/{UNKNOWN}/results", headers={"Accept": "text/html"}), 406,
                     "not_acceptable")
        answer = self.settled.ask("POST", f"/v1/batches/{UNKNOWN}/results")
        self.problem(answer, 405, "method_not_allowed")
        self.assertEqual(answer.headers["Allow"], "GET, HEAD")

    def test_head_has_the_headers_of_get(self):
        batch_id = self.settled_job(self.mixed(5))
        path = f"/v1/batches/{batch_id}/results"
        for headers in ({}, NDJSON):
            with self.subTest(headers=headers):
                get, head = (self.settled.ask(method, path, headers=headers) for method in ("GET", "HEAD"))
                self.assertEqual((head.status, head.body), (200, b""))
                for name in ("Content-Type", "Content-Length", "Batch-Id", "Batch-Outcome"):
                    self.assertEqual(head.headers[name], get.headers[name], name)
        none = self.settled.ask("HEAD", path + "?status=running", headers=NDJSON)
        self.assertEqual((none.status, none.body), (200, b""))
        self.assertEqual(self.settled.ask("HEAD", f"/v1/batches/{UNKNOWN}/results").status, 404)
        self.rest.wait()


class ResultsInMemory(Results):
    config = {"shards": 1, **reading.MEMORY}


class ResultsAcrossShards(Results):
    config = {"shards": 3}


class Large(reading.Case):
    """More items than are looked at for one page of a batch that is in memory alone."""
    config = {"shards": 1, "limits": {"items": 40001}}
    page, pages = Results.page, Results.pages

    def test_a_filter_that_finds_few_has_pages_without_any(self):
        batch = reading.final_at_once(40000)
        batch["items"].append({"id": "held", "to": self.held.url("held"), "payload": 0})
        batch_id = self.stream(batch)
        self.held.wait("held")
        results, sizes = self.pages(batch_id, "status=running", "limit=1000")
        self.assertEqual(([r["id"] for r in results], sizes), (["held"], [0, 0, 1]))
        self.assertEqual([json.loads(line) for line in self.page(batch_id, "?status=running", NDJSON).body.splitlines()], results)
        self.assertEqual(len(self.page(batch_id, "", NDJSON).body.splitlines()), 40001)
        self.held.answer("held")


class SlowLines(reading.Case):
    """10,000 results as lines, for somebody who takes them slowly or not at all."""
    config = {"shards": 1}

    def start(self):
        batch_id = self.settled_job(reading.final_at_once(10000))
        reader = reading.SlowReader(self.settled, rawhttp.head("GET", f"/v1/batches/{batch_id}/results", **NDJSON))
        self.addCleanup(reader.close)
        reader.wait_blocked()
        return reader

    def test_a_slow_reader_holds_up_nobody_and_gets_everything(self):
        reader = self.start()
        for n in range(20):
            self.settle({"items": [item(n, self.url("/ok"))]}, 200)
        lines = reader.rest().splitlines()
        self.assertEqual([json.loads(line)["index"] for line in lines], list(range(10000)))
        reader.close()
        self.rest.wait()

    def test_readers_that_stall_cost_a_page_each(self):
        self.start()
        before = reading.resident(self.settled)
        for _ in range(20):
            self.start_again()
        grown = reading.resident(self.settled) - before
        if not reading.instrumented(self.settled):
            self.assertLess(grown, 20 * 400000)

    def start_again(self):
        newest = self.settled.ask("GET", "/v1/batches?limit=1").json["batches"][0]["id"]
        reader = reading.SlowReader(self.settled, rawhttp.head("GET", f"/v1/batches/{newest}/results", **NDJSON))
        self.addCleanup(reader.close)
        reader.wait_blocked()

    def test_lines_of_a_batch_that_is_forgotten_meanwhile_break_off(self):
        reader = self.start()
        newest = self.settled.ask("GET", "/v1/batches?limit=1").json["batches"][0]["id"]
        self.assertEqual(self.settled.ask("DELETE", "/v1/batches/" + newest).status, 204)
        self.assertFalse(reader.bytes().endswith(b"\r\n0\r\n\r\n"), "it looks whole")
        reader.close()
        self.rest.wait()

    def test_a_reader_that_leaves_ends_its_stream(self):
        for leave in (socket.socket.close, harness.reset):
            self.log_start = self.settled.mark()
            reader = self.start()
            leave(reader.sock)
            self.rest.wait()


class SlowLinesInMemory(SlowLines):
    config = {"shards": 1, **reading.MEMORY}


if __name__ == "__main__":
    harness.main()
