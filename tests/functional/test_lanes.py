"""Lanes: what an origin is never sent more of than its service allows, whatever
shard the requests come in by; pauses that it asks for; and whose turn it is."""

import re
import threading

import gate
import harness
import kit
from batch_invariants import most_at_once
from callers import bearer, keys_config
from harness import item
from jobs import ASYNC

RATE, BURST, MOST = 100, 10, 8
WEBHOOK = {"kind": "webhook", "allow": ["127.0.0.0/8"]}


class Case(kit.Case):
    def starts(self, n):
        """When each of n attempts started, by batch and item, as the daemon's own log has it: its last lines may
        come a moment after the answer."""
        kit.until(lambda: sum(map(len, self.started().values())) >= n, lambda: f"{n} attempts in the log: {self.started()}")
        return self.started()

    def started(self):
        found = {}
        for line in self.settled.lines[self.log_start:]:
            at = re.search(r"event=attempt_done batch=(\S+) item=(\S+) .*started_at_us=(\d+)", line or "")
            if at:
                found.setdefault(f"{at[1]}.{at[2]}", []).append(int(at[3]))
        return found

    def service(self, name="webhook"):
        services = self.settled.ask("GET", "/v1/services").json["services"]
        return next(s for s in services if s["name"] == name)


class ExactLimits(Case):
    """Judged by the downstream's own ledger. An attempt arrives a moment after its
    start, and that moment differs: two that started w apart may arrive w - j apart,
    with j the difference between the longest and the shortest way. j is not guessed:
    starts are in the log, arrivals in the ledger, both by the clock of this machine.
    So over any window w of arrivals there are at most burst + rate * (w + j), and of
    starts at most burst + rate * w exactly. An answer leaves the downstream before
    the daemon can have seen it, so requests at once need no such tolerance."""

    config = {"shards": 1, "services": {"webhook": {**WEBHOOK, "max_in_flight": MOST,
                                                    "rate": {"per_second": RATE, "burst": BURST}}}}

    def batch(self, n_items, path):
        return {"items": [item(n, self.url(path)) for n in range(n_items)]}

    def post_at_once(self, n_batches, n_items, path):
        """Each on a connection of its own, so that every shard gets some."""
        answers = [None] * n_batches
        batch = self.batch(n_items, path)

        def post(n):
            answers[n] = self.settled.post(batch)

        threads = [threading.Thread(target=post, args=(n,)) for n in range(n_batches)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([a.json["counts"]["succeeded"] for a in answers], [n_items] * n_batches)

    def assert_never_more(self, at_us, slack_us):
        at_us = sorted(at_us)
        for i, first in enumerate(at_us):
            for n, last in enumerate(at_us[i:], 1):
                self.assertLessEqual(n, BURST + RATE * (last - first + slack_us) / 1e6 + 1e-6, (first, last))

    def judge(self, n):
        entries = self.down.ledger()
        starts = self.starts(n)
        ways = [e["arrived_us"] - starts[e["webhook_id"]][0] for e in entries]
        self.assertEqual((len(entries), len(starts)), (n, n))
        self.assertGreaterEqual(min(ways), 0)
        self.assert_never_more([s for times in starts.values() for s in times], 0)
        self.assert_never_more([e["arrived_us"] for e in entries], max(ways) - min(ways))
        self.assertLessEqual(most_at_once([(e["arrived_us"], e["answered_us"]) for e in entries]), MOST)

    def test_the_rate_holds_over_any_window(self):
        self.post_at_once(12, 20, "/ok")
        self.judge(240)

    def test_so_does_the_bound_on_what_is_in_flight(self):
        self.post_at_once(8, 10, "/ok?wait_ms=200")
        self.judge(80)

    def test_as_many_are_in_flight_as_may_be(self):
        sock = self.settled.start_post(self.batch(30, "/hang"))
        self.down.wait(in_flight=MOST)
        sock.close()
        self.settled.wait_done("disconnected", self.log_start)
        self.down.wait(in_flight=0)

    def test_repeats_count_too(self):
        self.post_at_once(5, 10, "/flaky?times=1")
        self.assertEqual(len(self.down.ledger()), 100)
        self.assert_never_more([s for times in self.starts(100).values() for s in times], 0)


class ExactLimitsOfFourShards(ExactLimits):
    config = {**ExactLimits.config, "shards": 4}


class ExactLimitsOfLanes(ExactLimits):
    """Judged over all lanes of the origin, whatever shards they are on."""

    shards, lanes = 1, 2
    PATHS = {"/ok": "quick", "/ok?wait_ms=200": "slow", "/flaky?times=1": "flaky", "/hang": "hang"}

    @classmethod
    def start_daemon(cls):
        services = {name: {"kind": "http", "url": cls.down.url + path, "lanes": cls.lanes, "max_in_flight": MOST,
                           "rate": {"per_second": RATE, "burst": BURST}} for path, name in cls.PATHS.items()}
        return harness.Daemon({"shards": cls.shards, "services": services}, cls.down)

    def batch(self, n_items, path):
        return {"service": self.PATHS[path], "items": [item(n, "x") for n in range(n_items)]}

    def test_no_lane_is_left_out(self):
        self.post_at_once(1, 40, "/ok")
        self.assertEqual(self.service("quick")["lanes"], self.lanes)


class ExactLimitsOfFourLanes(ExactLimitsOfLanes):
    lanes = 4


class ExactLimitsOfLanesOnTwoShards(ExactLimitsOfLanes):
    shards = 2


class ExactLimitsOfFourLanesOnTwoShards(ExactLimitsOfLanes):
    shards, lanes = 2, 4


class ExactLimitsOfLanesOnFourShards(ExactLimitsOfLanes):
    shards = 4


class ExactLimitsOfFourLanesOnFourShards(ExactLimitsOfLanes):
    shards, lanes = 4, 4


class Lanes(Case):
    """One origin on all shards."""

    @classmethod
    def start_daemon(cls):
        url = cls.down.url
        return harness.Daemon({"shards": 4, "services": {
            "hang": {"kind": "http", "url": url + "/hang", "lanes": 4, "max_in_flight": 10},
            "push": {"kind": "http", "url": url + "/{to}", "lanes": 4, "max_in_flight": 10},
            "busy": {"kind": "http", "url": url + "/x?status={to}&retry_after=60", "lanes": 4,
                     "max_pause_ms": 60000}}}, cls.down)

    def shards_at_work(self, n):
        self.starts(n)
        lines = [line for line in self.settled.lines[self.log_start:] if "event=attempt_done" in line]
        return {re.search(r" shard=(\d+)", line)[1] for line in lines}

    def test_one_large_batch_is_the_work_of_all_shards(self):
        answer = self.settled.post({"service": "push", "items": [item(n, f"ok/{n}") for n in range(100)]})
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.shards_at_work(100), {"0", "1", "2", "3"})

    def test_and_has_all_that_may_be_in_flight(self):
        sock = self.settled.start_post({"service": "hang", "items": [item(n, "x") for n in range(30)]})
        self.down.wait(in_flight=10)
        kit.until(lambda: self.service("hang")["queued"] == 20, "the others wait")
        shown = self.service("hang")
        self.assertEqual((shown["in_flight"], shown["lanes"], shown["lanes_per_origin"]), (10, 4, 4))
        metrics = self.settled.metrics()
        self.assertEqual((metrics['settled_lanes{service="hang"}'], metrics['settled_attempts_in_flight{service="hang"}']), (4, 10))
        sock.close()
        self.down.wait(in_flight=0)
        kit.until(lambda: self.service("hang")["queued"] == 0, "none waits")

    def test_so_have_many_small_ones(self):
        socks = [self.settled.start_post({"service": "hang", "items": [item(n, "x")]}) for n in range(15)]
        self.down.wait(in_flight=10)
        kit.until(lambda: self.service("hang")["queued"] == 5, "the others wait")
        self.assertEqual(self.down.stats()["in_flight"], 10)
        for sock in socks:
            sock.close()
        self.down.wait(in_flight=0)

    def test_retry_after_pauses_all_of_them(self):
        self.settled.post({"service": "busy", "retry": {"max_attempts": 1}, "items": [item(0, "503")]})
        kit.until(lambda: self.settled.metrics()['settled_lanes_paused{service="busy"}'] == 4, "all have heard")
        self.assertEqual(self.service("busy")["pause"]["lanes"], 4)
        answer = self.settled.post({"service": "busy", "deadline_ms": 20, "items": [item(n, "200") for n in range(1, 21)]})
        self.assertEqual({(r["stop"], r["attempts"]) for r in answer.results.values()}, {("deadline", 0)})
        self.assertEqual(len(self.down.ledger()), 1)


class Rates(Case):
    config = {"services": {"webhook": {**WEBHOOK, "rate": {"per_second": 0.001}}}}

    def test_what_waits_for_the_rate_ends_at_its_deadline_and_is_shown(self):
        self.settled.post({"items": [item(1, self.url("/ok"))]})
        sock = self.settled.start_post({"deadline_ms": 600000, "items": [item(2, self.url("/ok"))]})
        kit.until(lambda: self.service()["queued"] == 1, "it waits")
        self.assertEqual(self.service()["rate"], {"per_second": 0.001, "burst": 1, "available": 0})
        self.assertEqual(self.settled.metrics()['settled_lane_waits_total{service="webhook",reason="rate"}'], 1)
        answer = self.settled.post({"deadline_ms": 20, "items": [item(3, self.url("/ok"))]})
        result = answer.results["i3"]
        self.assertEqual((result["status"], result["error"]["code"], result["stop"], result["attempts"]),
                         ("not_attempted", "not_attempted", "deadline", 0))
        sock.close()
        self.settled.wait_done("disconnected", self.log_start)
        self.assertEqual(len(self.down.ledger()), 1)
        self.assertEqual(self.service()["queued"], 0)

    def test_a_job_claims_nothing_that_cannot_start_soon(self):
        """What is claimed counts as an attempt if the process dies; so it is seen by a kill."""
        config = {**self.config, "store": {"path": self.settled.dir + "/claims"}}
        jobs = []
        for life in (1, 2):
            daemon = harness.Daemon(config)
            try:
                while len(jobs) < 2:
                    jobs.append(daemon.post({"items": [item(n, self.url("/ok")) for n in range(5)]},
                                            {"Prefer": "respond-async"}).headers["Batch-Id"])
                kit.until(lambda: self.succeeded(daemon, jobs) == life, "one is sent, and that is on the disk")
                kit.until(lambda: daemon.metrics()['settled_attempts_queued{service="webhook"}'] == 10 - life, "the others wait")
                attempts = sum(r["attempts"] for job in jobs for r in daemon.get_batch(job).json["results"])
            finally:
                daemon.child.kill()
                daemon.child.wait()
                daemon.stop()
            self.assertEqual(attempts, life)
        self.assertEqual(len(self.down.ledger()), 2)

    def succeeded(self, daemon, jobs):
        return sum(daemon.get_batch(job).json["counts"]["succeeded"] for job in jobs)


class Pauses(Case):
    config = {"services": {"webhook": {**WEBHOOK, "max_pause_ms": 60000}, "short": {**WEBHOOK, "max_pause_ms": 200},
                           "shown": {**WEBHOOK, "max_pause_ms": 60000}, "other": {**WEBHOOK, "max_pause_ms": 60000}}}

    def pause(self, status, retry_after, service="webhook"):
        answer = self.settled.post({"service": service, "retry": {"max_attempts": 1}, "items": [
            item(0, self.url(f"/x?status={status}&retry_after={retry_after}"))]})
        self.assertEqual(answer.results["i0"]["error"]["retry_after_ms"], retry_after * 1000)

    def gap_us(self):
        # The pause begins somewhere between the first one's arrival and what the ledger has of its answer.
        first, second = self.down.ledger()
        return second["arrived_us"] - first["arrived_us"]

    def test_retry_after_pauses_the_origin_for_other_items_too(self):
        for status in (429, 503):
            with self.subTest(status=status):
                self.down.clear()
                self.pause(status, 1)
                self.assertEqual(self.settled.post({"items": [item(1, self.url("/ok"))]}).status, 200)
                self.assertGreaterEqual(self.gap_us(), 1000000)
                self.assertIsNone(self.service()["pause"])

    def test_it_is_shown(self):
        self.pause(503, 3600, "shown")
        shown = self.service("shown")["pause"]
        self.assertEqual(shown["lanes"], 1)
        self.assertRegex(shown["until"], r"^20\d\d-.*Z$")

    def test_but_no_longer_than_the_operator_allows(self):
        self.pause(503, 3600, "short")
        self.assertEqual(self.settled.post({"service": "short", "items": [item(1, self.url("/ok"))]}).status, 200)
        self.assertGreaterEqual(self.gap_us(), 200000)

    def test_other_statuses_and_other_origins_know_no_pause(self):
        other = harness.Downstream()
        self.addCleanup(other.stop)

        def ask(to, **more):
            return self.settled.post({"service": "other", "retry": {"max_attempts": 1}, "items": [item(1, to)], **more})

        ask(other.url + "/x?status=500&retry_after=3600")
        self.assertEqual(ask(other.url + "/ok").status, 200)
        ask(other.url + "/x?status=429&retry_after=3600")
        self.assertEqual(ask(self.url("/ok")).status, 200)
        result = ask(other.url + "/ok", deadline_ms=20).results["i1"]
        self.assertEqual((result["stop"], result["attempts"]), ("deadline", 0))


class PausesInABatch(Case):
    config = {"services": {"webhook": {**WEBHOOK, "max_pause_ms": 60000}, "other": WEBHOOK}}

    def setUp(self):
        super().setUp()
        # A pause stays with its origin: each test has one of its own.
        self.asks = harness.Downstream()
        self.addCleanup(self.asks.stop)

    def mixed(self, retry_after, **more):
        """Somebody asks for a pause. A batch, four at once: eight for who asked, and behind them eight for another."""
        self.settled.post({"retry": {"max_attempts": 1}, "items": [
            item(0, self.asks.url + f"/x?status=503&retry_after={retry_after}")]})
        return {"concurrency": 4, "items": [item(n, self.asks.url + "/ok") for n in range(8)] + [
            {**item(n, self.url("/ok")), "service": "other"} for n in range(8, 16)], **more}

    def others_go_on(self):
        self.down.wait(answered=8)
        self.assertEqual(len(self.asks.ledger()), 1, "it pauses")

    def all_go_on(self, answer):
        self.assertEqual((answer.status, answer.json["counts"]["succeeded"]), (200, 16))
        self.assertEqual((len(self.asks.ledger()), len(self.down.ledger())), (9, 8))

    def test_items_of_other_services_go_on(self):
        sock = self.settled.start_post(self.mixed(3600))
        self.others_go_on()
        sock.close()
        self.settled.wait_done("disconnected", self.log_start)

    def test_so_they_do_in_a_job(self):
        job = self.settled.post(self.mixed(3600), ASYNC)
        self.others_go_on()
        self.assertEqual(self.settled.ask("POST", job.headers["Location"] + "/cancel").status, 200)

    def test_after_the_pause_all_go_on(self):
        self.all_go_on(self.settled.post(self.mixed(1)))

    def test_so_they_do_in_a_job_after_it(self):
        job = self.settled.post(self.mixed(3), ASYNC)
        self.all_go_on(self.settled.ask("GET", job.headers["Location"], headers={"Prefer": "wait=60"}))

    def test_what_cannot_have_its_turn_in_time_ends_at_once(self):
        answer = self.settled.post(self.mixed(3600, deadline_ms=30000))
        self.assertEqual((answer.status, answer.json["outcome"], answer.json["stop_reason"]), (207, "partial", "completed"))
        self.assertEqual(len(self.asks.ledger()), 1)
        for n in range(8):
            result = answer.results[f"i{n}"]
            self.assertEqual((result["status"], result["error"]["code"], result["stop"], result["attempts"],
                              result["retryable"]), ("not_attempted", "not_attempted", "deadline", 0, True))
            self.assertLessEqual(result["error"]["retry_after_ms"], 60000)
            self.assertGreater(result["error"]["retry_after_ms"], 30000)


class Order:
    """One at a time, held until all wait: the order is the lane's alone."""

    config = {"services": {"webhook": {**WEBHOOK, "max_in_flight": 1}}}

    def headers(self, name):
        return {}

    def queued(self):
        services = self.settled.ask("GET", "/v1/services", headers=self.headers("operator")).json["services"]
        return services[0]["queued"]

    def order(self, *batches):
        """Post each, a batch and its items' name, behind one that is in flight; the names in the order of arrival."""
        socks = [self.settled.start_post({"items": [item(0, self.held.url("first"))]}, self.headers(batches[0][1]))]
        self.held.wait("first")
        total = 0
        for batch, name, n in batches:
            items = [item(i, self.held.url(f"{name}-{i}")) for i in range(n)]
            socks.append(self.settled.start_post({"concurrency": n, "items": items, **batch}, self.headers(name)))
            total += n
            kit.until(lambda: self.queued() == total, "all wait")
        self.held.answer("first")
        came = [self.held.answer_any() for _ in range(total)]
        for sock in socks:
            self.assertIn(b" 200 OK", sock.recv(65536))
            sock.close()
        return [path.split("-")[0] for path in came]


class Turns(Order, kit.HeldCase):
    def test_a_large_batch_lets_a_small_one_in_between(self):
        came = self.order(({}, "large", 60), ({}, "small", 2))
        self.assertEqual(came[:4].count("small"), 2, came)

    def test_urgent_batches_have_more_turns_and_the_others_some(self):
        came = self.order(({"priority": 0}, "later", 20), ({"priority": 9}, "now", 40), ({"priority": 4}, "soon", 20))
        # 1, 10 and 5 of 16, by turns: never more than one beside it.
        self.assertAlmostEqual(came[:32].count("now"), 20, delta=1, msg=came)
        self.assertAlmostEqual(came[:32].count("soon"), 10, delta=1, msg=came)
        self.assertAlmostEqual(came[:32].count("later"), 2, delta=1, msg=came)

    def test_so_do_jobs(self):
        """What has to be claimed first has its turns where it is claimed."""
        jobs = {"small": 3, "large": 40}
        first = self.settled.start_post({"items": [item(0, self.held.url("first"))]})
        self.held.wait("first")
        for name, n in reversed(jobs.items()):
            self.settled.post({"concurrency": n, "priority": 9 if name == "small" else 0,
                               "items": [item(i, self.held.url(f"{name}-{i}")) for i in range(n)]},
                              {"Prefer": "respond-async"})
        kit.until(lambda: self.queued() == 43, "all wait")
        self.held.answer("first")
        came = [self.held.answer_any().split("-")[0] for _ in range(43)]
        first.close()
        # One of the large one was claimed ahead of the other's coming.
        self.assertEqual(came[:6].count("small"), 3, came)


class TenantsTurns(Order, harness.Case):
    KEYS = {"one": "one", "three": "three", "operator": None}
    config = {**Order.config, "tenants": {"three": {"weight": 3}}, "auth": {"keys": keys_config(KEYS)}}

    def setUp(self):
        super().setUp()
        self.held = gate.Held()
        self.addCleanup(self.held.close)

    def headers(self, name):
        return bearer(name if name in self.KEYS else "one")

    def test_tenants_have_turns_by_their_weights(self):
        came = self.order(({"priority": 9}, "one", 40), ({"priority": 0}, "three", 30))
        for n in range(0, 40, 4):
            self.assertAlmostEqual(came[:n].count("three"), n * 3 / 4, delta=1, msg=came)


class Slots(kit.HeldCase):
    """The shard's own bound is shared: who hangs leaves others a part."""

    config = {"limits": {"in_flight": 8}, "services": {"webhook": WEBHOOK, "other": WEBHOOK}}

    def test_a_service_that_hangs_leaves_slots_to_others(self):
        sock = self.settled.start_post({"items": [item(n, self.url("/hang")) for n in range(20)]})
        self.down.wait(in_flight=4)
        answer = self.settled.post({"service": "other", "items": [item(n, self.url("/ok")) for n in range(50)]})
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.down.stats()["in_flight"], 4)
        sock.close()
        self.down.wait(in_flight=0)


if __name__ == "__main__":
    harness.main()
