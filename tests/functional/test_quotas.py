"""Quotas of tenants: exact whatever number of shards there is, refused with the time
until they fit, and told in the headers of draft-ietf-httpapi-ratelimit-headers."""

import json
import re
import time

import gate
import harness
import jobs
import kit
import lives
from callers import JSON, Caller, keys_config
from harness import item
from jobs import ASYNC

FIELDS = ("RateLimit-Policy", "RateLimit")


def parse(line):
    """A list of strings with parameters (RFC 9651): {name: {parameter: value}}."""
    found = {}
    for member in line.split(", "):
        assert re.fullmatch(r'"[a-z]+"(;[a-z]+=(\d+|"[a-z]+"))*', member), line
        name, *parameters = member.split(";")
        assert json.loads(name) not in found, line
        found[json.loads(name)] = {k: json.loads(v) for k, v in (p.split("=") for p in parameters)}
    return found


class Case(kit.Case):
    """Each tenant has a quota, and its name is its key."""

    tenants = {}
    shards = 1

    @classmethod
    def setUpClass(cls):
        names = {name: name for name in cls.tenants}
        cls.config = {"shards": cls.shards, "tenants": cls.tenants, "operations": "127.0.0.1:0",
                      "auth": {"keys": keys_config({**names, "free": "free"})}}
        harness.Case.setUpClass.__func__(cls)
        cls.operations = cls.settled.operations()

    @classmethod
    def tearDownClass(cls):
        harness.Case.tearDownClass.__func__(cls)

    def who(self, name):
        return Caller(self.settled, name)

    def batch(self, n=1, path="/ok"):
        return {"items": [item(i, self.url(path)) for i in range(n)]}

    def metrics(self):
        return self.operations.metrics()

    def refused(self, answer):
        """Over a quota: how many seconds to wait."""
        self.assertEqual((answer.status, answer.json["code"]), (429, "quota_exceeded"), answer.body)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        for name in FIELDS:
            parse(answer.headers[name])
        return int(answer.headers["Retry-After"])


class Exact:
    """With so little that nothing comes back while the test runs, and by the clocks of
    both sides where it does."""

    tenants = {"one": {"batches_per_second": 0.001}, "items": {"items_per_second": 0.01},
               "both": {"batches_per_second": 100000, "items_per_second": 0.01},
               "fast": {"batches_per_second": 50}, "crowd": {"queued_items": 7}, "jobs": {"queued_items": 7}}

    def at_once(self, name, n, batch, headers=None):
        return jobs.all_at_once(n, lambda i: self.who(name).post(batch, headers))

    def test_of_many_at_once_only_what_the_quota_has_gets_through(self):
        answers = self.at_once("one", 24, self.batch(3))
        self.assertEqual(sorted({a.status for a in answers}), [200, 429])
        self.assertEqual([a.status for a in answers].count(200), 1)
        self.assertEqual(len(self.down.ledger()), 3)
        for answer in answers:
            if answer.status == 429:
                self.assertIn(self.refused(answer), range(900, 1001))
        self.assertEqual(self.metrics()['settled_tenant_batches_total{tenant="one"}'], 1)
        self.assertEqual(self.metrics()['settled_tenant_items_total{tenant="one"}'], 3)
        # Nobody else pays for it.
        self.assertEqual(self.who("free").post(self.batch()).status, 200)

    def test_a_batch_beyond_the_quota_goes_when_it_is_full_and_is_paid_for(self):
        answers = self.at_once("items", 12, self.batch(20))
        self.assertEqual([a.status for a in answers].count(200), 1)
        waits = [self.refused(a) for a in answers if a.status == 429]
        self.assertTrue(all(1900 < w <= 2000 for w in waits), waits)
        self.assertEqual(len(self.down.ledger()), 20)

    def test_what_one_quota_refuses_costs_nothing_of_the_other(self):
        self.assertEqual(self.who("both").post(self.batch()).status, 200)
        answers = self.at_once("both", 12, self.batch())
        for answer in answers:
            self.refused(answer)
            self.assertEqual(parse(answer.headers["RateLimit"])["batches"]["r"], 100000)

    def test_over_any_window_there_is_no_more_than_the_rate_and_its_burst(self):
        accepted = []

        def send(_):
            for _ in range(25):
                sent = time.monotonic()
                answer = self.who("fast").post(self.batch())
                if answer.status == 200:
                    accepted.append((sent, time.monotonic()))
                else:
                    self.refused(answer)

        jobs.all_at_once(8, lambda i: send(i) or True)
        self.assertGreaterEqual(len(accepted), 50)
        self.assertEqual(len(self.down.ledger()), len(accepted))
        for first, _ in accepted:
            for _, last in accepted:
                inside = sum(first <= s and r <= last for s, r in accepted)
                self.assertLessEqual(inside, 50 + 50 * max(last - first, 0))

    def fills_up(self, name, headers):
        held = gate.Held()
        self.addCleanup(held.close)
        batch = {"items": [item(i, held.url(f"{name}{i}")) for i in range(3)]}
        posted = [jobs.Background(self.who(name).post, {**batch, "items": [{**i, "to": i["to"] + f"-{n}"} for i in batch["items"]]},
                                  headers) for n in range(2)]
        paths = [f"{name}{i}-{n}" for i in range(3) for n in range(2)]
        held.wait(*paths)
        self.assertEqual(self.metrics()[f'settled_tenant_items_queued{{tenant="{name}"}}'], 6)
        self.refused(self.who(name).post(self.batch(2)))
        last = self.who(name).post(self.batch(1))
        self.assertEqual(last.status, 200)
        left = parse(last.headers["RateLimit"])["queued"]
        self.assertIn(left["r"], (0, 1))
        answers = self.at_once(name, 12, {"items": [item(0, held.url("last"))]}, {**ASYNC})
        self.assertEqual([a.status for a in answers].count(202), 1)
        held.wait("last")
        held.answer("last")
        for path in paths:
            held.answer(path)
        for p in posted:
            self.assertIn(p.result().status, (200, 202))
        kit.until(lambda: self.metrics()[f'settled_tenant_items_queued{{tenant="{name}"}}'] == 0, "items that are gone")
        self.assertEqual(self.who(name).post(self.batch(7)).status, 200)
        too_large = self.who(name).post(self.batch(8))
        self.assertEqual((too_large.status, too_large.json["errors"][0]["code"]), (422, "too_many_items"), "it never fits")

    def test_unfinished_items_are_bounded(self):
        self.fills_up("crowd", {})

    def test_those_of_jobs_too(self):
        self.fills_up("jobs", ASYNC)


class ExactInOneShard(Exact, Case):
    shards = 1


class ExactInFourShards(Exact, Case):
    shards = 4


class Headers(Case):
    tenants = {"all": {"batches_per_second": 2.5, "items_per_second": 100, "queued_items": 50},
               "slow": {"batches_per_second": 0.25}, "key": {"batches_per_second": 0.001}, "again": {"batches_per_second": 1000}}

    def test_the_policy_is_what_is_configured(self):
        answer = self.who("all").post(self.batch(4))
        self.assertEqual(parse(answer.headers["RateLimit-Policy"]), {
            "batches": {"q": 3, "w": 2}, "items": {"q": 100, "w": 1, "qu": "items"}, "queued": {"q": 50, "qu": "items"}})
        left = parse(answer.headers["RateLimit"])
        self.assertEqual(list(left), ["batches", "items", "queued"])
        self.assertIn(left["batches"]["r"], (2, 3))
        self.assertIn(left["items"]["r"], range(96, 101))
        self.assertIn(left["items"]["t"], (0, 1))
        self.assertNotIn("t", left["queued"])
        limits = self.who("all").ask("GET", "/v1/limits").json["tenant"]
        self.assertEqual(limits, {"name": "all", "weight": 1, "max_priority": 9, "batches_per_second": 2.5,
                                  "items_per_second": 100, "queued_items": 50})

    def test_the_rest_follows_what_was_taken(self):
        answer = self.who("slow").post(self.batch())
        self.assertEqual(parse(answer.headers["RateLimit-Policy"]), {"batches": {"q": 1, "w": 4}})
        left = parse(answer.headers["RateLimit"])["batches"]
        self.assertEqual(left["r"], 0 if left["t"] > 0 else 1)
        self.assertIn(left["t"], range(5))

    def test_every_answer_of_the_two_routes_has_them(self):
        who = self.who("again")
        first = who.post(self.batch(path="/gone"))
        retry = f"/v1/batches/{first.headers['Batch-Id']}/retry"
        answers = [first, who.post(self.batch(), ASYNC), who.post(self.batch(), {"Accept": "application/x-ndjson"}), who.post(b"{"),
                   who.post({"items": []}), who.post({**self.batch(), "validate_only": True}),
                   who.ask("POST", retry, b'{"ids": ["i0"]}', JSON), who.ask("POST", retry, b"{", JSON),
                   who.ask("POST", "/v1/batches/b_01JD0000000000000000000000/retry")]
        self.assertEqual([a.status for a in answers], [207, 202, 200, 400, 422, 200, 202, 400, 404])
        for answer in answers:
            self.assertEqual(list(parse(answer.headers["RateLimit"])), ["batches"], answer.body)

    def test_without_a_quota_and_elsewhere_there_are_none(self):
        for answer in (self.who("free").post(self.batch()), self.who("all").ask("GET", "/v1/batches"),
                       self.settled.ask("POST", "/v1/batches", b"{}")):
            for name in FIELDS:
                self.assertIsNone(answer.headers[name])

    def test_a_replay_costs_nothing_and_is_never_refused(self):
        headers = {"Idempotency-Key": "k"}
        first = self.who("key").post(self.batch(), headers)
        self.assertEqual(first.status, 200)
        self.refused(self.who("key").post(self.batch()))
        for _ in range(3):
            again = self.who("key").post(self.batch(), headers)
            self.assertEqual((again.status, again.body, again.headers["Idempotent-Replayed"]), (200, first.body, "true"))


class Restart(lives.Case):
    def config(self, **more):
        return super().config(tenants={"shop": {"queued_items": 3}},
                              auth={"keys": keys_config({"shop": "shop"})}, **more)

    def test_jobs_that_were_left_count_again(self):
        held = gate.Held()
        self.addCleanup(held.close)
        shop = Caller(self.start(), "shop")
        job = {"items": [item(i, held.url(f"{i}")) for i in range(2)], "retry": {"max_attempts": 9, "base_ms": 1, "cap_ms": 1}}
        accepted = shop.post(job, ASYNC)
        self.assertEqual(accepted.status, 202)
        held.wait("0", "1")
        shop.daemon.stop(9)
        for path in ("0", "1"):
            held.wait_gone(path)
        shop = Caller(self.start(), "shop")
        held.wait("0", "1")
        self.assertEqual(shop.post({"items": job["items"]}).status, 429)
        held.answer("0")
        held.answer("1")
        self.assertEqual(shop.done(accepted.headers["Batch-Id"]).json["state"], "done")
        many = shop.post(self.batch("status=200", "status=200", "status=200"))
        self.assertEqual(many.status, 200, many.body)
        self.stop(shop.daemon)


if __name__ == "__main__":
    harness.main()
