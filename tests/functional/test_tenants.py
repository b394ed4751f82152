"""Keys and tenants: every route with the right key, and with every wrong one; and
that nobody finds what is another tenant's."""

import json
import sys
from pathlib import Path

import gate
import harness
import jobs
import kit
import lives
import rawhttp
from callers import JSON, Caller, bearer, keys_config, sha256
from harness import item
from jobs import ASYNC, Background

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lint"))

import openapi

DOC = openapi.load(ROOT)
UNKNOWN = "b_01JD0000000000000000000000"

# The key, its tenant. None: an admin's.
KEYS = {"shop-key": "shop", "shop-key-2": "shop", "mail-key": "mail", "admin-key": None}

# How each route is asked, whose keys open it, and what it then says: of a batch that
# is done, and of one that runs. A route without a row here fails the test below.
TENANT, ADMIN, ANY, OPEN = "tenant", "admin", "any", "open"
ROUTES = {
    ("GET", "/v1/batches"): (TENANT, None, 200, 200),
    ("POST", "/v1/batches"): (TENANT, b'{"service":"webhook","validate_only":true,"items":[{"id":"a","to":"http://a/","payload":1}]}', 200, 200),
    ("GET", "/v1/batches/{id}"): (TENANT, None, 200, 200),
    ("HEAD", "/v1/batches/{id}"): (TENANT, None, 200, 200),
    ("DELETE", "/v1/batches/{id}"): (TENANT, None, 204, 409),
    ("GET", "/v1/batches/{id}/results"): (TENANT, None, 200, 200),
    ("GET", "/v1/batches/{id}/events"): (TENANT, None, 200, None),
    ("POST", "/v1/batches/{id}/cancel"): (TENANT, b"", 200, 200),
    ("POST", "/v1/batches/{id}/retry"): (TENANT, b'{"select":"include_maybe"}', 422, 409),
    ("GET", "/v1/services"): (ADMIN, None, 200, 200),
    ("GET", "/v1/limits"): (ANY, None, 200, 200),
    ("GET", "/livez"): (OPEN, None, 200, 200),
    ("GET", "/readyz"): (OPEN, None, 200, 200),
    ("GET", "/metrics"): (ADMIN, None, 200, 200),
    ("GET", "/openapi.json"): (OPEN, None, 200, 200),
}
WITH_ID = [route for route in ROUTES if "{id}" in route[1]]
DONE, RUNS = 2, 3
# What changes what the others see comes last.
LAST = {DONE: ("DELETE", "/v1/batches/{id}"), RUNS: ("POST", "/v1/batches/{id}/cancel")}


def in_order(column):
    return sorted(WITH_ID, key=lambda route: route == LAST[column])


class Case(jobs.Case):
    config = {"shards": 2, "auth": {"keys": keys_config(KEYS)}}

    @classmethod
    def setUpClass(cls):
        harness.Case.setUpClass.__func__(cls)
        cls.shop, cls.shop2, cls.mail, cls.admin = (Caller(cls.settled, key) for key in KEYS)

    @classmethod
    def tearDownClass(cls):
        harness.Case.tearDownClass.__func__(cls)
        log = cls.settled.text()
        for key in KEYS:
            assert key not in log and sha256(key) not in log, "a key is in the log"

    def send(self, who, route, batch_id, headers=None):
        method, path = route
        body = ROUTES[route][1]
        return who.ask(method, path.replace("{id}", batch_id), body, {**(JSON if body else {}), **(headers or {})})

    def settle(self, who, path="/ok", headers=None):
        answer = who.post({"items": [item(0, self.url(path))]}, headers)
        self.assertIn(answer.status, (200, 202, 207), answer.body)
        if answer.status == 202:
            self.assertEqual(who.done(answer.headers["Batch-Id"]).json["state"], "done")
        return answer.headers["Batch-Id"]

    def problem(self, answer, status, code):
        if answer.body or status == 204:
            super().problem(answer, status, code)
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.headers["WWW-Authenticate"], "Bearer" if status == 401 else None)


class EveryRoute(Case):
    def test_every_route_has_a_row(self):
        described = {(method.upper(), path) for path, ways in DOC["paths"].items()
                     for method in ways if method in ("get", "head", "post", "put", "patch", "delete")}
        self.assertEqual(set(ROUTES), described)

    def test_without_a_key_that_is_known_it_is_401(self):
        batch_id = self.settle(self.shop)
        wrong = [{}, bearer("unknown-key"), bearer(""), bearer("shop-key shop-key"), bearer("shop-key\x01"),
                 {"Authorization": "shop-key"}, {"Authorization": "Basic c2hvcDprZXk="}, {"Authorization": "Bearer"},
                 bearer("SHOP-KEY"), bearer(sha256("shop-key")), bearer("shop-ke"), bearer("shop-keyy"),
                 bearer("x" * 2000)]
        for route, (scope, *_) in ROUTES.items():
            for headers in wrong:
                with self.subTest(route=route, headers=headers):
                    answer = self.send(Caller(self.settled, None), route, batch_id, headers)
                    if scope == OPEN:
                        self.assertEqual(answer.status, 200)
                    else:
                        self.problem(answer, 401, "unauthenticated")

    def test_two_keys_in_one_request_are_none(self):
        for lines in ("Authorization: Bearer shop-key\r\nAuthorization: Bearer shop-key\r\n",
                      "Authorization: Bearer shop-key\r\nauthorization: Basic x\r\n"):
            answer, = rawhttp.exchange(self.settled.port, f"GET /v1/batches HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n".encode())
            self.problem(answer, 401, "unauthenticated")

    def test_the_scheme_is_in_any_case(self):
        for scheme in ("bearer", "BEARER", "Bearer "):
            answer = self.settled.ask("GET", "/v1/batches", headers={"Authorization": scheme + " shop-key"})
            self.assertEqual(answer.status, 200)

    def test_a_key_of_the_wrong_scope_is_403(self):
        batch_id = self.settle(self.shop)
        for route, (scope, *_) in ROUTES.items():
            for who, wrong in ((self.shop, scope == ADMIN), (self.admin, scope == TENANT)):
                with self.subTest(route=route, key=who.key):
                    answer = self.send(who, route, UNKNOWN if not wrong else batch_id)
                    if wrong:
                        self.problem(answer, 403, "forbidden")
                    else:
                        self.assertNotIn(answer.status, (401, 403))

    def test_a_path_without_a_route_needs_no_key(self):
        for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/v1/batches", 405), ("POST", "/metrics", 405)):
            self.assertEqual(self.settled.ask(method, path, b"x" * 100000).status, status)

    def each_with_its_own_key(self, batch_id, column):
        for route in in_order(column):
            expected = ROUTES[route][column]
            if expected is None:
                continue
            with self.subTest(route=route):
                # Both keys of a tenant are as good.
                if route[0] == "GET":
                    self.assertEqual(self.send(self.shop2, route, batch_id).status, expected)
                answer = self.send(self.shop, route, batch_id)
                self.assertEqual(answer.status, expected, answer.body)

    def each_with_anothers_key(self, batch_id):
        """As if there were no such batch: to the byte."""
        for route in WITH_ID:
            for headers in ({}, {"Idempotency-Key": "k"}, {"Prefer": "wait=5"}):
                with self.subTest(route=route, headers=headers):
                    answer = self.send(self.mail, route, batch_id, headers)
                    unknown = self.send(self.mail, route, UNKNOWN, headers)
                    self.problem(answer, 404, "not_found")
                    self.assertEqual(answer.body, unknown.body)
                    names = sorted(set(answer.headers) - {"Date"})
                    self.assertEqual(names, sorted(set(unknown.headers) - {"Date"}))

    def goes_on(self, batch_id):
        doc = self.shop.ask("GET", "/v1/batches/" + batch_id).json
        return doc["state"], doc["counts"], doc["stop_reason"]

    def both(self, batch_id, column):
        before = self.goes_on(batch_id)
        self.each_with_anothers_key(batch_id)
        self.assertEqual(self.goes_on(batch_id), before)
        self.each_with_its_own_key(batch_id, column)

    def test_a_plain_batch_that_is_done_is_its_tenants(self):
        self.both(self.settle(self.shop), DONE)

    def test_a_job_that_is_done_is_its_tenants(self):
        self.both(self.settle(self.shop, headers=ASYNC), DONE)

    def test_a_batch_with_a_key_that_is_done_is_its_tenants(self):
        self.both(self.settle(self.shop, headers={"Idempotency-Key": "k"}), DONE)

    def test_a_plain_batch_that_runs_is_its_tenants(self):
        posted = Background(self.shop.post, {"items": [item(0, self.url("/ok")), item(1, self.held.url("plain"))]})
        batch_id = self.settled.wait_line(r"event=attempt_done batch=(\S+) item=i0 ", self.log_start)[1]
        self.held.wait("plain")
        self.both(batch_id, RUNS)
        # Its tenant's cancel came last.
        self.assertEqual(posted.result().json["stop_reason"], "cancelled")

    def test_a_job_that_runs_is_its_tenants(self):
        accepted = self.shop.post({"items": [item(0, self.held.url("job"))]}, ASYNC)
        self.held.wait("job")
        self.both(accepted.headers["Batch-Id"], RUNS)
        self.assertEqual(self.shop.done(accepted.headers["Batch-Id"]).json["stop_reason"], "cancelled")

    def test_a_job_that_sleeps_in_the_store_is_its_tenants(self):
        self.down.script("/later", "status=503&retry_after=3600", "status=200")
        accepted = self.shop.post({"items": [item(0, self.url("/later"))], "deadline_ms": 80000000,
                                   "retry": {"max_attempts": 5, "base_ms": 3600000, "cap_ms": 3600000}}, ASYNC)
        path = accepted.headers["Location"]
        kit.until(lambda: self.shop.ask("GET", path).json["results"][0]["attempts"] == 1, "an attempt that is written down")
        self.both(accepted.headers["Batch-Id"], RUNS)
        self.assertEqual(self.shop.done(accepted.headers["Batch-Id"]).json["stop_reason"], "cancelled")


class Isolation(Case):
    def list(self, who, query=""):
        answer = who.ask("GET", "/v1/batches" + query)
        self.assertEqual(answer.status, 200, answer.body)
        return [b["id"] for b in answer.json["batches"]]

    def listed(self, who, ids):
        """What was answered from memory is written a moment later."""
        kit.until(lambda: set(ids) <= set(self.list(who)), "they are in the list")

    def test_the_list_is_the_callers(self):
        shop = [self.settle(self.shop) for _ in range(3)]
        mail = [self.settle(self.mail, "/gone"), self.settle(self.mail, headers=ASYNC)]
        self.listed(self.shop, shop)
        self.listed(self.mail, mail)
        for query in ("", "?state=done", "?outcome=succeeded", "?outcome=failed", "?state=queued"):
            with self.subTest(query=query):
                self.assertFalse(set(self.list(self.shop, query)) & set(mail))
                self.assertFalse(set(self.list(self.mail, query)) & set(shop))
        self.assertTrue(set(shop) <= set(self.list(self.shop2)))
        self.assertEqual(self.list(self.mail, "?outcome=failed")[0], mail[0])

    def test_pages_do_not_lead_into_another_tenants_list(self):
        for who in (self.shop, self.mail):
            self.listed(who, [self.settle(who) for _ in range(3)])
        page = self.shop.ask("GET", "/v1/batches?limit=1").json
        other = self.mail.ask("GET", "/v1/batches?limit=200&cursor=" + page["next_cursor"])
        if other.status == 200:
            self.assertFalse({b["id"] for b in other.json["batches"]} & set(self.list(self.shop)))

    def test_the_same_key_of_two_tenants_is_two_keys(self):
        batch = {"items": [item(0, self.url("/ok"))]}
        other = {"items": [item(1, self.url("/ok"))]}
        headers = {"Idempotency-Key": "same"}
        shop, mail = self.shop.post(batch, headers), self.mail.post(other, headers)
        self.assertEqual((shop.status, mail.status), (200, 200))
        self.assertNotEqual(shop.headers["Batch-Id"], mail.headers["Batch-Id"])
        for who, body, first in ((self.shop, batch, shop), (self.mail, other, mail), (self.shop2, batch, shop)):
            again = who.post(body, headers)
            self.assertEqual((again.headers["Idempotent-Replayed"], again.body), ("true", first.body))
        self.problem(self.mail.post(batch, headers), 422, "key_reused")
        for who, mine in ((self.shop, shop), (self.mail, mail)):
            self.assertEqual(self.list(who, "?key=same"), [mine.headers["Batch-Id"]])

    def test_a_retry_is_the_same_tenants(self):
        first = self.settle(self.shop, "/gone")
        again = self.shop.ask("POST", f"/v1/batches/{first}/retry", json.dumps({"ids": ["i0"]}), JSON)
        self.assertEqual(again.status, 202, again.body)
        new = again.headers["Batch-Id"]
        self.assertEqual(self.shop2.done(new).json["retry_of"], first)
        self.problem(self.mail.done(new), 404, "not_found")

    def test_looking_at_once_shares_nothing(self):
        """Looks of one shard at one batch go together; those of two tenants do not."""
        batch_id = self.settle(self.shop)
        who = [self.shop, self.mail] * 8
        answers = jobs.all_at_once(len(who), lambda i: who[i].ask("GET", "/v1/batches/" + batch_id))
        self.assertEqual([a.status for a in answers], [200, 404] * 8)
        answers = jobs.all_at_once(len(who), lambda i: who[i].ask("GET", f"/v1/batches/{batch_id}/events"))
        self.assertEqual([a.status for a in answers], [200, 404] * 8)

    def test_the_log_says_whose_a_batch_was(self):
        batch_id = self.settle(self.mail)
        self.assertEqual(self.settled.wait_line(f"batch={batch_id} .* tenant=(\\w+)", self.log_start)[1], "mail")

    def test_limits_are_the_callers(self):
        self.assertEqual(self.shop.ask("GET", "/v1/limits").json["tenant"]["name"], "shop")
        self.assertIsNone(self.admin.ask("GET", "/v1/limits").json["tenant"])


class Readers(Case):
    config = {**Case.config, "limits": {"event_readers": 8}}

    def events(self, who, batch_id):
        sock = rawhttp.dial(self.settled.port)
        self.addCleanup(sock.close)
        sock.sendall(f"GET /v1/batches/{batch_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {who.key}\r\n\r\n".encode())
        return int(sock.recv(12)[9:])

    def test_a_tenant_that_reads_all_events_leaves_streams_to_others(self):
        jobs_of = {who: who.post({"items": [item(0, self.held.url(who.key))]}, ASYNC).headers["Batch-Id"] for who in (self.shop, self.mail)}
        self.assertEqual([self.events(self.shop, jobs_of[self.shop]) for _ in range(8)], [200] * 4 + [503] * 4)
        self.assertEqual([self.events(self.mail, jobs_of[self.mail]) for _ in range(3)], [200, 200, 503])
        for who in jobs_of:
            self.held.answer(who.key)
            self.assertEqual(who.done(jobs_of[who]).json["state"], "done")
        kit.until(lambda: self.admin.ask("GET", "/metrics").body.find(b"\nsettled_event_readers 0\n") > 0, "a reader is left")
        self.assertEqual(self.events(self.shop, jobs_of[self.shop]), 200)


class Hanging(Case):
    """A tenant whose downstream hangs, in a process that others use."""
    config = {**Case.config, "operations": "127.0.0.1:0", "services": {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.rest = kit.Rest(cls.settled.operations())

    @classmethod
    def tearDownClass(cls):
        cls.rest.close()
        super().tearDownClass()

    def hang(self, who, n, path):
        """A batch of n items, whose first one is at the downstream."""
        batch = {"priority": 9, "deadline_ms": 600000, "attempt_timeout_ms": 600000,
                 "items": [item(i, self.held.url(f"{path}-{i}")) for i in range(n)]}
        sock = self.settled.start_post(batch, bearer(who.key))
        self.addCleanup(sock.close)
        self.held.wait(f"{path}-0")
        return sock

    def one(self, who, headers=None):
        return who.post({"priority": 9, "items": [item(0, self.url("/ok"))]}, headers)

    def refused(self, answer, what):
        self.problem(answer, 503, "overloaded")
        self.assertIn(what, answer.json["detail"])
        self.assertIn(int(answer.headers["Retry-After"]), range(1, 61))

    def leave(self, *socks):
        for sock in socks:
            sock.close()
        self.rest.wait()


class SharesOfCallers(Hanging):
    config = {**Hanging.config, "shards": 1, "limits": {"connections": 40, "waiting": 8}}

    def test_it_takes_half_of_the_callers_and_the_others_are_served(self):
        socks = [self.hang(self.shop, 1, f"c{n}") for n in range(20)]
        before = self.down.ledger()
        for who in (self.shop, self.shop2):
            self.refused(self.one(who), "callers of its tenant")
        self.assertEqual(self.down.ledger(), before)
        self.assertEqual(self.one(self.mail).status, 200)
        # A job holds no connection.
        self.assertEqual(self.one(self.shop, ASYNC).status, 202)
        self.leave(*socks)
        self.assertEqual(self.one(self.shop).status, 200)

    def test_its_next_body_is_not_awaited(self):
        socks = [self.hang(self.shop, 1, f"b{n}") for n in range(20)]
        with rawhttp.dial(self.settled.port) as conn:
            conn.sendall(rawhttp.head(Content_Type="application/json", Content_Length=100000, Authorization="Bearer shop-key"))
            with conn.makefile("rb") as stream:
                self.refused(rawhttp.read_answer(stream), "callers of its tenant")
        with rawhttp.dial(self.settled.port) as conn:
            conn.sendall(rawhttp.head(Content_Type="application/json", Content_Length=100, Authorization="Bearer mail-key",
                                      Expect="100-continue"))
            with conn.makefile("rb") as stream:
                self.assertTrue(stream.readline().startswith(b"HTTP/1.1 100 "))
        self.leave(*socks)

    def test_its_polls_leave_places_to_wait_to_the_others(self):
        jobs_of = {who: who.post({"items": [item(0, self.held.url(who.key))]}, ASYNC).headers["Batch-Id"]
                   for who in (self.shop, self.mail)}
        polls = []
        for n, who in enumerate([self.shop] * 4 + [self.mail] * 2, 1):
            polls.append(Background(who.done, jobs_of[who]))
            kit.until(lambda n=n: b"\nsettled_requests_waiting %d\n" % n in self.admin.ask("GET", "/metrics").body, f"{n} polls")
            if n == 4:
                self.refused(self.shop.done(jobs_of[self.shop]), "of your tenant")
        self.refused(self.mail.done(jobs_of[self.mail]), "of your tenant")
        self.assertEqual(self.shop.ask("GET", "/v1/batches/" + jobs_of[self.shop]).status, 200)
        for who in jobs_of:
            self.held.answer(who.key)
        self.assertEqual([p.result().json["state"] for p in polls], ["done"] * 6)
        self.rest.wait()
        self.assertEqual(self.shop.done(jobs_of[self.shop]).status, 200)


class SharesOfItems(Hanging):
    """Over all shards."""
    config = {**Hanging.config, "limits": {"queued_items": 40}}

    def test_it_takes_half_of_the_items_and_the_others_are_served(self):
        socks = [self.hang(self.shop, 4, f"i{n}") for n in range(5)]
        before = self.down.ledger()
        for who in [self.shop, self.shop2] * 4:
            self.refused(self.one(who), "items of its tenant")
        self.assertEqual(self.down.ledger(), before)
        for _ in range(8):
            self.assertEqual(self.one(self.mail).status, 200)
        self.leave(*socks)
        self.assertEqual(self.one(self.shop).status, 200)

    def test_its_best_effort_is_shed_before(self):
        socks = [self.hang(self.shop, 16, "s")]
        answer = self.shop.post({"contract": "best_effort", "priority": 9, "items": [item(0, self.url("/ok"))]})
        self.assertEqual((answer.status, answer.json["results"][0]["stop"]), (207, "shed"))
        self.assertEqual(self.one(self.shop).status, 200)
        self.leave(*socks)


class Metrics(Hanging):
    LIMITS = ("queued_items", "queued_bytes", "connections", "waiting", "event_readers")

    def part(self, who):
        metrics = self.settled.operations().metrics()
        # Under the names of the limits, to be divided by them.
        self.assertTrue(all(f'settled_limit{{limit="{name}"}}' in metrics for name in self.LIMITS))
        return [metrics[f'settled_tenant_held{{tenant="{who}",limit="{name}"}}'] for name in self.LIMITS]

    def test_they_say_which_tenant_fills_what(self):
        self.assertEqual([self.part("shop"), self.part("mail")], [[0] * 5] * 2)
        body = self.hang(self.shop, 3, "m")
        items, held_bytes, *rest = self.part("shop")
        self.assertEqual((items, *rest), (3, 1, 0, 0))
        self.assertGreater(held_bytes, 3 * len(self.held.url("m-0")))
        # A job is counted by none of the first three.
        job = self.shop.post({"items": [item(0, self.held.url("job"))]}, ASYNC).headers["Batch-Id"]
        poll = Background(self.shop.done, job)
        stream = rawhttp.dial(self.settled.port)
        self.addCleanup(stream.close)
        stream.sendall(f"GET /v1/batches/{job}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop-key\r\n\r\n".encode())
        kit.until(lambda: self.part("shop") == [3, held_bytes, 1, 1, 1], lambda: self.part("shop"))
        self.assertEqual(self.part("mail"), [0] * 5)
        self.held.answer("job")
        self.assertEqual(poll.result().json["state"], "done")
        self.leave(body, stream)
        self.assertEqual(self.part("shop"), [0] * 5)


class BeforeTheBody(Case):
    def test_a_body_without_a_key_is_not_waited_for(self):
        head = rawhttp.head(Content_Type="application/json", Content_Length=16 << 20)
        with rawhttp.dial(self.settled.port) as sock:
            sock.sendall(head)
            with sock.makefile("rb") as stream:
                self.problem(rawhttp.read_answer(stream), 401, "unauthenticated")
                self.assertIsNone(rawhttp.read_answer(stream))

    def test_a_body_without_a_key_is_not_taken(self):
        head = rawhttp.head(Content_Type="application/json", Content_Length=256 << 20)
        with rawhttp.dial(self.settled.port) as sock, self.assertRaises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(head)
            for _ in range(256):
                sock.sendall(bytes(1 << 20))

    def test_who_asks_first_is_told_before_it_sends(self):
        head = rawhttp.head(Content_Type="application/json", Content_Length=100, Expect="100-continue")
        with rawhttp.dial(self.settled.port) as sock:
            sock.sendall(head)
            with sock.makefile("rb") as stream:
                self.assertTrue(stream.readline().startswith(b"HTTP/1.1 401 "))

    def test_a_body_of_some_size_does_not_lose_the_answer(self):
        for size in (1, 10000, 900000):
            answer = self.settled.ask("POST", "/v1/batches", b"x" * size, JSON)
            self.problem(answer, 401, "unauthenticated")


class Operations(harness.Case):
    config = {"operations": "127.0.0.1:0", "auth": {"keys": keys_config(KEYS)}}

    def setUp(self):
        super().setUp()
        self.operations = self.settled.operations()

    def test_operations_alone_are_there_and_without_a_key(self):
        for (method, path), (scope, body, *_) in ROUTES.items():
            with self.subTest(route=(method, path)):
                answer = self.operations.ask(method, path.replace("{id}", UNKNOWN), body)
                self.assertEqual(answer.status, 404 if scope == TENANT else 200)
        self.assertIsNone(self.operations.ask("GET", "/v1/limits").json["tenant"])

    def test_on_the_main_address_they_are_as_before(self):
        for path, status in (("/metrics", 401), ("/v1/services", 401), ("/v1/limits", 401), ("/livez", 200)):
            self.assertEqual(self.settled.ask("GET", path).status, status)

    def test_its_slow_callers_have_the_same_time(self):
        daemon = harness.Daemon({**self.config, "limits": {"header_ms": 50}})
        self.addCleanup(daemon.stop)
        with rawhttp.dial(daemon.operations().port) as sock:
            sock.sendall(b"GET /livez HTTP/1.1\r\n")
            self.assertTrue(rawhttp.is_closed(sock))

    def test_a_port_that_is_taken_is_said(self):
        with self.assertRaises(AssertionError) as e:
            harness.Daemon({**self.config, "operations": f"127.0.0.1:{self.operations.port}"}).stop()
        self.assertIn("choose another with `operations`", str(e.exception))


class Restart(lives.Case):
    def config(self, **more):
        keys = more.pop("keys", KEYS)
        return super().config(auth={"keys": keys_config(keys)}, **more)

    def start_as(self, key, **more):
        return Caller(self.start(**more), key)

    def test_a_job_keeps_its_tenant_while_nobody_has_it(self):
        held = gate.Held()
        self.addCleanup(held.close)
        shop = self.start_as("shop-key")
        answer = shop.post({"items": [item(0, held.url("first"))], "retry": {"max_attempts": 3, "base_ms": 1, "cap_ms": 1}},
                           {**ASYNC, "Idempotency-Key": "k"})
        batch_id = answer.headers["Batch-Id"]
        held.wait("first")
        shop.daemon.stop(9)
        held.wait_gone("first")
        # Its tenant is gone from the configuration, yet the job goes on.
        mail = self.start_as("mail-key", keys={"mail-key": "mail", "admin-key": None})
        held.answer("first")
        mail.daemon.wait_line(f"event=batch_done batch={batch_id} .*tenant=shop")
        self.assertEqual(mail.ask("GET", "/v1/batches/" + batch_id).status, 404)
        self.assertEqual(mail.ask("GET", "/v1/batches").json["batches"], [])
        self.stop(mail.daemon)
        # Without any keys it is nobody's either.
        nobody = Caller(self.start(keys={}), None)
        self.assertEqual(nobody.ask("GET", "/v1/batches/" + batch_id).status, 404)
        self.assertEqual(nobody.ask("GET", "/v1/batches").json["batches"], [])
        self.stop(nobody.daemon)
        shop = self.start_as("shop-key-2")
        self.assertEqual(shop.ask("GET", "/v1/batches/" + batch_id).json["state"], "done")
        self.assertEqual(shop.ask("GET", "/v1/batches?key=k").json["batches"][0]["id"], batch_id)
        self.stop(shop.daemon)

    def test_a_tenant_that_is_gone_still_owns_its_waiting_job(self):
        """In the backlog, where only the store has it: another may not end it."""
        shop = self.start_as("shop-key")
        self.down.script("/later", "status=503&retry_after=3600")
        answer = shop.post({"items": [item(0, self.down.url + "/later")], "deadline_ms": 80000000,
                            "retry": {"max_attempts": 5, "base_ms": 3600000, "cap_ms": 3600000}}, ASYNC)
        batch_id = answer.headers["Batch-Id"]
        self.down.wait(requests=1)
        self.stop(shop.daemon)
        for keys, key in (({"mail-key": "mail"}, "mail-key"), ({}, None)):
            other = self.start_as(key, keys=keys)
            self.assertEqual(other.ask("POST", f"/v1/batches/{batch_id}/cancel").status, 404)
            self.stop(other.daemon)
        shop = self.start_as("shop-key")
        self.assertEqual(shop.ask("POST", f"/v1/batches/{batch_id}/cancel").json["stop_reason"], "cancelled")
        self.stop(shop.daemon)


if __name__ == "__main__":
    harness.main()
