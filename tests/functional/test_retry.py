"""POST /v1/batches/{id}/retry: items of a finished batch once more, as a job of its own."""

import json

import jobs
from harness import item
from jobs import ASYNC, on_every_store

JSON = {"Content-Type": "application/json"}
ONCE = {"max_attempts": 1}


@on_every_store
class Retry(jobs.Case):
    config = {"shards": 2}

    def retry(self, batch, body=None, headers=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return self.settled.ask("POST", self.route(batch, "/retry"), data, {**(JSON if data else {}), **(headers or {})})

    def retried(self, batch, body=None, headers=None):
        """The document of the new batch, once it is done."""
        answer = self.retry(batch, body, headers)
        self.assertEqual(answer.status, 202, answer.body)
        self.about(answer, answer.json["id"])
        self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
        self.assertEqual((answer.json["state"], answer.json["retry_of"]), ("queued", batch))
        return self.done(answer.json["id"])

    def first(self, headers=None, **more):
        """A batch that is done, with an item for each way to end; its id."""
        self.down.ask("DELETE", "/_script")
        answer = self.settled.post({"retry": ONCE, "metadata": {"k": "v"}, **more, "items": [
            item("ok", self.url("/ok")), item("gone", self.url("/gone")),
            item("limited", self.url("/x?status=429&times=1"), dedupe_key="mine:1"),
            item("down", self.url("/x?status=503&times=1")), item("lost", self.url("/x?close&times=1"))]}, headers)
        self.assertEqual({r["id"]: r["delivered"] for r in self.done(answer.headers["Batch-Id"])["results"]},
                         {"iok": "yes", "igone": "no", "ilimited": "no", "idown": "maybe", "ilost": "maybe"})
        return answer.headers["Batch-Id"]

    def ids(self, doc):
        return [r["id"] for r in doc["results"]]

    def test_safe_takes_what_was_surely_not_delivered(self):
        for body in (None, b"", {}, {"select": "safe"}):
            doc = self.retried(self.first(), body)
            self.assertEqual((self.ids(doc), doc["outcome"], doc["metadata"]), (["ilimited"], "succeeded", {"k": "v"}))
            self.assertEqual((doc["results"][0]["index"], doc["results"][0]["attempts"]), (0, 1))

    def test_include_maybe_takes_what_may_have_been_delivered_too(self):
        doc = self.retried(self.first(ASYNC), {"select": "include_maybe"})
        self.assertEqual((self.ids(doc), doc["outcome"]), (["ilimited", "idown", "ilost"], "succeeded"))

    def test_ids_take_what_they_name(self):
        doc = self.retried(self.first(), {"ids": ["idown", "igone"]})
        self.assertEqual(self.ids(doc), ["igone", "idown"])
        self.assertEqual([r["status"] for r in doc["results"]], ["failed", "succeeded"])

    def test_the_downstream_sees_the_same_dedupe_keys_and_payloads(self):
        batch = self.first()
        doc = self.retried(batch, {"select": "include_maybe"})
        entries = {}
        for entry in self.down.ledger():
            entries.setdefault(entry["webhook_id"], []).append(entry["body"])
        for name, dedupe_key in (("limited", "mine:1"), ("down", f"{batch}.idown"), ("lost", f"{batch}.ilost")):
            self.assertEqual(entries[dedupe_key], [json.dumps({"n": name}).encode()] * 2)
        self.assertEqual([k for k in entries if k.startswith(doc["id"])], [])

    def test_a_chain_of_retries_keeps_the_first_keys(self):
        batch = self.accept({"retry": ONCE, "items": [item(1, self.url("/x?status=429&times=3"))]})
        self.assertEqual(self.done(batch)["outcome"], "failed")
        ids = [batch]
        for outcome in ("failed", "failed", "succeeded"):
            doc = self.retried(ids[-1])
            self.assertEqual((doc["outcome"], doc["retry_of"]), (outcome, ids[-1]))
            ids.append(doc["id"])
        self.assertEqual(self.sent(), {f"{batch}.i1": 4})

    def test_a_payload_that_items_share_goes_out_again(self):
        answer = self.settled.post({"retry": ONCE, "payload": {"shared": [1.10, "é"]}, "items": [
            {"id": "a", "to": self.url("/x?status=429&times=1")}, {"id": "b", "to": self.url("/x?status=429&times=1")},
            {"id": "c", "to": self.url("/x?status=429&times=1"), "payload": 12345678901234567890123}]})
        self.assertEqual(self.retried(answer.json["id"])["outcome"], "succeeded")
        bodies = {e["webhook_id"]: e["body"] for e in self.down.ledger()}
        self.assertEqual([bodies[f"{answer.json['id']}.{i}"] for i in "abc"],
                         [json.dumps({"shared": [1.10, "é"]}).encode()] * 2 + [b"12345678901234567890123"])

    def test_the_policy_is_the_first_ones_and_a_jobs(self):
        """What the first one's caller gave is kept, whichever way it came; its defaults become a job's."""
        retry = {"max_attempts": 2, "base_ms": 1, "cap_ms": 1}
        for headers, more in ((ASYNC, {}), ({}, {}), ({"Idempotency-Key": "policy"}, {}), ({}, {"on_disconnect": "continue"})):
            answer = self.settled.post({"retry": retry, "include": ["attempts"], **more,
                                        "items": [item(1, self.url("/limited?retry_after=0"))]}, headers)
            batch = answer.headers["Batch-Id"]
            self.assertEqual(self.done(batch)["results"][0]["attempts"], 2)
            for _ in range(2):
                doc = self.retried(batch)
                self.assertEqual((doc["results"][0]["attempts"], len(doc["results"][0]["attempt_log"])), (2, 2), (headers, more))
                batch = doc["id"]

    def test_a_deadline_that_was_given_is_kept(self):
        batch = self.settled.post({"retry": ONCE, "deadline_ms": 300, "attempt_timeout_ms": 600000,
                                   "items": [item(1, self.url("/hang"))]}).json["id"]
        doc = self.retried(batch, {"select": "include_maybe"})
        self.assertEqual((doc["stop_reason"], doc["results"][0]["stop"]), ("deadline", "deadline"))

    def test_what_was_left_to_defaults_becomes_a_jobs(self):
        """A synchronous batch gives up after three attempts; a job goes on for ten."""
        for more in ({}, {"on_disconnect": "continue"}):
            batch = self.settled.post({"retry": {"base_ms": 1, "cap_ms": 1}, **more,
                                       "items": [item(1, self.url("/limited?retry_after=0"))]}).json["id"]
            self.assertEqual([self.done(b)["results"][0]["attempts"] for b in (batch, self.retried(batch)["id"])], [3, 10])

    def test_the_order_is_kept(self):
        batch = self.accept({"retry": ONCE, "order": "sequential", "items": [
            item(n, self.url("/x?status=429&times=1")) for n in range(5)]})
        self.done(batch)
        self.down.clear()
        self.assertEqual(self.ids(self.retried(batch, {"ids": ["i4", "i0", "i2"]})), ["i0", "i2", "i4"])
        self.assertEqual([e["webhook_id"][-2:] for e in self.down.ledger()], ["i0", "i2", "i4"])

    def test_a_batch_that_was_just_answered_can_be_retried(self):
        for _ in range(20):
            answer = self.settled.post({"retry": ONCE, "items": [item(1, self.url("/x?status=429&times=1"))]})
            self.assertEqual(self.retried(answer.json["id"])["outcome"], "succeeded")

    def test_while_it_runs_nothing_is_sent_again(self):
        self.refused_while_they_run(self.retry)

    def test_nothing_to_select(self):
        batch = self.settled.post({"items": [item(1, self.url("/ok")), item(2, self.url("/gone"))]}).json["id"]
        for body in (None, {"select": "safe"}, {"select": "include_maybe"}, {"ids": []}):
            for headers in ({}, {"Idempotency-Key": "nothing"}):
                answer = self.retry(batch, body, headers)
                self.problem(answer, 422, "nothing_selected")
                self.about(answer, batch)

    def test_ids_that_cannot_be_sent_again(self):
        batch = self.settled.post({"contract": "best_effort", "retry": ONCE, "items": [
            item(1, self.url("/ok")), item(2, self.url("/limited")), {"id": "bad"}]}).json["id"]
        answer = self.retry(batch, {"ids": ["i1", "i2", "nobody", "i2", "bad"]})
        problem = self.problem(answer, 422, "validation_failed")
        self.about(answer, batch)
        self.assertEqual([(e["pointer"], e["code"]) for e in problem["errors"]],
                         [("#/ids/0", "conflict"), ("#/ids/2", "enum"), ("#/ids/3", "duplicate_id"), ("#/ids/4", "enum")])
        self.assertIn("delivered", problem["errors"][0]["detail"])
        self.assertEqual(problem["error_count"], 4)

    def test_wishes_that_make_no_sense(self):
        batch = self.first()
        for body, errors in (
                ({"select": "all"}, [("#/select", "enum")]), ({"select": None}, [("#/select", "type")]),
                ({"selekt": "safe"}, [("#/selekt", "unknown_field")]), ({"ids": "i1"}, [("#/ids", "type")]),
                ({"ids": [1, "", "idown"]}, [("#/ids/0", "type"), ("#/ids/1", "length")]), ([], [("#", "type")]),
                ({"select": "safe", "ids": ["idown"]}, [("#/ids", "conflict")]),
                (b'{"select":"safe","select":"safe"}', [("#/select", "duplicate_key")])):
            problem = self.problem(self.retry(batch, body), 422, "validation_failed")
            self.assertEqual([(e["pointer"], e["code"]) for e in problem["errors"]], errors, body)
        self.problem(self.retry(batch, b"{"), 400, "malformed_json")
        self.problem(self.retry(batch, b"{}", {"Content-Type": "text/plain"}), 415, "unsupported_media_type")
        self.problem(self.retry("b_01JD0000000000000000000000"), 404, "not_found")
        answer = self.retry("b_01JD0000000000000000000000", {"ids": ["x"]})
        self.problem(answer, 404, "not_found")
        self.assertNotIn("Location", answer.headers)

    def test_a_key_makes_one_retry_of_many(self):
        batch = self.first()
        self.down.clear()
        headers = {"Idempotency-Key": "again"}
        answers = jobs.all_at_once(50, lambda i: self.retry(batch, {"select": "safe"}, headers))
        self.assertEqual(len({a.json["id"] for a in answers}), 1)
        self.assertLessEqual({a.status for a in answers}, {200, 202})
        self.assertEqual(self.done(answers[0].json["id"])["outcome"], "succeeded")
        self.assertEqual(self.sent(), {"mine:1": 1})
        again = self.retry(batch, {"select": "safe"}, headers)
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.json["outcome"]), (200, "true", "succeeded"))
        self.problem(self.retry(batch, {"select": "include_maybe"}, headers), 422, "key_reused")
        # The key of one route is not that of another, nor of another batch.
        other = self.settled.post({"items": [item(1, self.url("/ok"))]}, headers)
        self.assertEqual((other.status, other.headers["Idempotent-Replayed"]), (200, None))
        self.assertEqual(self.retry(self.first(), {"select": "safe"}, headers).headers["Idempotent-Replayed"], None)

    def test_its_end_can_be_waited_for(self):
        answer = self.retry(self.first(), None, {"Prefer": "respond-async, wait=60"})
        self.assertEqual((answer.status, answer.json["outcome"], len(answer.json["results"])), (200, "succeeded", 1))
        self.assertEqual(answer.headers["Preference-Applied"], "respond-async, wait=60")


if __name__ == "__main__":
    jobs.main()
