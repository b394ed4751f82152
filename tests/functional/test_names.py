"""Names through the real program and the system's own resolver: who waits for whom,
what is asked, and what is said when there is no answer."""

import namespace

if __name__ == "__main__":
    namespace.isolate()

import gate
import harness
import jobs
import kit
import nameserver
from harness import item

NAMES = {"threads": 4, "ttl_ms": 0, "negative_ttl_ms": 0}
SERVICES = {"hook": {"kind": "webhook", "allow": ["127.0.0.0/8", "::1"], "max_in_flight": 64},
            "other": {"kind": "webhook", "allow": ["127.0.0.0/8", "::1"]}}
RUNNING = "settled_name_lookups_running"


class Case(nameserver.Case):
    def setUp(self):
        super().setUp()
        self.names.names = {".live.test": ["127.0.0.1"], ".dead.test": None, ".broken.test": nameserver.SERVFAIL}

    def to(self, host, path="/ok?keep=no"):
        return f"http://{host}:{self.down.port}{path}"

    def post(self, urls, service="hook", **more):
        return self.settled.post({"service": service, "include": ["attempts"], "items": [item(n, u) for n, u in enumerate(urls)],
                                  "retry": {"max_attempts": 1}, **more})


class Names(Case):
    config = {"services": SERVICES, "names": {**NAMES, "ttl_ms": 60000}, "shards": 2}

    def test_a_name_leads_where_the_name_server_says(self):
        answer = self.post([self.to("a.live.test"), self.to("b.live.test.")])
        self.assertEqual([r["status"] for r in answer.json["results"]], ["succeeded"] * 2, answer.body)

    def test_one_look_up_serves_all_shards_and_is_kept(self):
        for _ in range(3):
            answer = self.post([self.to("same.live.test", f"/{n}?keep=no") for n in range(50)])
            self.assertEqual(answer.json["outcome"], "succeeded")
        self.assertEqual(self.names.count("same.live.test"), 1)

    def test_what_is_wrong_is_said_and_nothing_was_sent(self):
        answer = self.post([self.to("nowhere.test"), self.to("x.broken.test")])
        for result, says in zip(answer.json["results"], ("does not resolve", "name server gave no answer")):
            self.assertEqual((result["error"]["code"], result["delivered"], result["retryable"]), ("connect_failed", "no", True), result)
            self.assertIn(says, result["error"]["message"])
            self.assertEqual([a["phase"] for a in result["attempt_log"]], ["resolve"])
        self.assertEqual(self.down.ledger(), [])

    def test_without_a_time_for_faults_each_attempt_asks_anew(self):
        for n in range(1, 4):
            self.assertEqual(self.post([self.to("missing.test")]).json["results"][0]["error"]["code"], "connect_failed")
            self.assertEqual(self.names.count("missing.test"), n)

    def test_one_address_that_answers_is_enough(self):
        closed = gate.Gate("::1")
        closed.close()
        self.names.names["many.test"] = ["::1", "127.0.0.9", "127.0.0.1"]
        self.assertEqual(self.post([self.to("many.test")]).json["outcome"], "succeeded")
        self.assertEqual(len(self.down.ledger()), 1)


class Faults(Case):
    config = {"services": SERVICES, "names": {**NAMES, "negative_ttl_ms": 3600000}}

    def test_what_did_not_resolve_is_remembered(self):
        for _ in range(3):
            self.assertEqual(self.post([self.to("missing.test")]).json["results"][0]["error"]["code"], "connect_failed")
        self.assertEqual(self.names.count("missing.test"), 1)


class Queue(Case):
    config = {"services": SERVICES, "names": {**NAMES, "queued": 2}}

    def test_what_finds_no_place_in_it_fails_at_once(self):
        answer = self.settled.post({"service": "hook", "attempt_timeout_ms": 3600000, "retry": {"max_attempts": 1}, "deadline_ms": 3600000,
                                    "items": [item(n, self.to(f"{n}.dead.test")) for n in range(50)]}, jobs.ASYNC)
        # Two threads, for a service has half of the free ones, and two places at most.
        kit.until(lambda: self.settled.get_batch(answer.json["id"]).json["counts"]["failed"] >= 46, "all others fail")
        self.assertGreaterEqual(self.settled.metrics()['settled_name_lookups_total{result="queue_full"}'], 46)
        self.settled.ask("POST", f"/v1/batches/{answer.json['id']}/cancel")


class DeadResolver(Case):
    """Look-ups that nobody answers hang for longer than the tests take."""

    @classmethod
    def setUpClass(cls):
        cls.config = {"services": {**SERVICES, "third": SERVICES["other"]}, "names": {**NAMES, "threads": 8}}
        super().setUpClass()

    def setUp(self):
        super().setUp()
        self.hanging = []

    def hang(self, service, n, suffix):
        """Have so many names of a service waited for; returns how many look-ups run."""
        items = [item(i, self.to(f"{suffix}{i}.dead.test")) for i in range(n)]
        answer = self.settled.post({"service": service, "items": items, "attempt_timeout_ms": 3600000, "concurrency": 1024,
                                    "deadline_ms": 3600000}, jobs.ASYNC)
        self.assertEqual(answer.status, 202, answer.body)
        self.hanging.append(answer.json["id"])

    def cancel_all(self):
        for batch in self.hanging:
            self.settled.ask("POST", f"/v1/batches/{batch}/cancel")
        for batch in self.hanging:
            self.settled.wait_line("event=batch_done batch=" + batch)
            doc = self.settled.get_batch(batch).json
            self.assertEqual({r["delivered"] for r in doc["results"]}, {"no"})

    def test_it_stalls_no_other_service_and_no_cancel(self):
        self.hang("hook", 200, "a")
        kit.until(lambda: self.settled.metrics()[RUNNING] == 4, lambda: self.settled.metrics()[RUNNING])
        self.hang("other", 200, "b")
        kit.until(lambda: self.settled.metrics()[RUNNING] == 6, lambda: self.settled.metrics()[RUNNING])
        for n in range(20):
            urls = [self.to(f"{n}.live.test"), self.to("127.0.0.1"), self.to("localhost")]
            answer = self.post(urls, service="third")
            self.assertEqual(answer.json["outcome"], "succeeded", answer.body)
        self.assertEqual(self.settled.metrics()[RUNNING], 6)
        self.assertEqual(len(self.down.ledger()), 60)
        self.cancel_all()
        metrics = self.settled.metrics()
        self.assertEqual((metrics[RUNNING], metrics["settled_name_lookups_waiting"]), (6, 0))


class Configured(Case):
    """What the configuration names has threads of its own."""

    @classmethod
    def setUpClass(cls):
        hold = {f"gone{n}": {"kind": "http", "url": f"http://gone{n}.dead.test/{{to}}"} for n in range(2)}
        cls.probe = gate.Gate()
        named = {"named": {"kind": "http", "url": f"http://named.live.test:{cls.probe.port}/{{to}}"}}
        cls.config = {"services": {**SERVICES, **hold, **named}, "names": {**NAMES, "threads": 4}}
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        cls.probe.close()
        super().tearDownClass()

    def test_callers_names_and_other_services_do_not_hold_it(self):
        answer = self.settled.post({"service": "hook", "attempt_timeout_ms": 3600000, "deadline_ms": 3600000, "concurrency": 1024, "items": [
            *(item(n, self.to(f"x{n}.dead.test"), service="hook") for n in range(100)),
            *(item(100 + n, self.to(f"y{n}.dead.test"), service="other") for n in range(100)),
            *(item(200 + n, "u", service=f"gone{n}") for n in range(2))]}, jobs.ASYNC)
        self.assertEqual(answer.status, 202, answer.body)
        kit.until(lambda: self.settled.metrics()[RUNNING] >= 5, lambda: self.settled.metrics()[RUNNING])
        for _ in range(5):
            sock = self.settled.start_post({"service": "named", "items": [item(1, "u")]})
            conn, _ = self.probe.take()
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            conn.close()
            self.assertIn(b"200 OK", sock.recv(4096))
            sock.close()
        self.settled.ask("POST", f"/v1/batches/{answer.json['id']}/cancel")


if __name__ == "__main__":
    harness.main()
