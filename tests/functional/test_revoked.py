"""A reload that takes a key away also ends what its callers still read. What they sent
was accepted, and goes on."""

import http.client
import json

import harness
import kit
import rawhttp
import reading
from callers import bearer, keys_config
from harness import item
from reloading import Reloading

ASYNC = {"Prefer": "respond-async"}


class Case(Reloading):
    def setUp(self):
        super().setUp()
        self.set_keys(old="shop", new="shop", mail="mail")
        self.reload()

    def set_keys(self, **tenants):
        """Keys, each with its tenant; and one for operations."""
        self.file["auth"] = {"keys": keys_config({**tenants, "boss": None})}

    def gauge(self, name):
        text = self.settled.ask("GET", "/metrics", headers=bearer("boss")).body.decode()
        return float(text.split(f"\n{name} ", 1)[1].split("\n", 1)[0])

    def get(self, path, key, **headers):
        """A GET that is under way: its connection."""
        sock = rawhttp.dial(self.settled.port)
        self.addCleanup(sock.close)
        sock.sendall(rawhttp.head("GET", path, **bearer(key), **headers))
        return sock

    def job(self, key, path):
        answer = self.settled.post({"service": "held", "items": [item(1, path)]}, {**bearer(key), **ASYNC})
        self.assertEqual(answer.status, 202)
        self.held.wait(path)
        return answer.headers["Location"]

    def answered(self, sock):
        with sock.makefile("rb") as stream:
            return rawhttp.read_answer(stream)


class Readers(Case):
    def events(self, job, key):
        sock = self.get(job + "/events", key)
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        self.assertEqual((answer.status, answer.readline()), (200, b"event: snapshot\n"))
        return answer

    def check(self, kept, revoke):
        """Events and a wait of the key `old` end, those of the keys `kept` go on."""
        job = self.job("old", "a")
        streams = {k: self.events(job, k) for k in ("old", *kept)}
        polls = {k: self.get(job, k, Prefer="wait=60") for k in ("old", *kept)}
        kit.until(lambda: self.gauge("settled_requests_waiting") == len(polls), "they do not wait")
        revoke()
        refused = self.answered(polls.pop("old"))
        self.assertEqual((refused.status, refused.json["code"]), (401, "unauthenticated"))
        with self.assertRaises(http.client.IncompleteRead):
            streams.pop("old").read()
        kit.until(lambda: self.gauge("settled_event_readers") == len(kept), "the reader is still there")
        self.held.answer("a")
        for k in kept:
            self.assertEqual(self.answered(polls[k]).json["outcome"], "succeeded")
            self.assertIn(b"event: done\n", streams[k].read())

    def test_a_key_that_is_removed_reads_no_more(self):
        def revoke():
            self.set_keys(mail="mail", new="shop")
            self.reload()

        self.check(["new"], revoke)

    def test_a_key_that_moves_to_another_tenant_reads_no_more(self):
        def revoke():
            self.set_keys(new="shop", old="mail")
            self.reload()

        self.check(["new"], revoke)

    def test_a_tenant_that_is_removed_reads_no_more(self):
        def revoke():
            self.set_keys(mail="mail")
            self.reload()

        self.check([], revoke)

    def test_where_keys_come_who_has_none_reads_no_more(self):
        self.file["auth"] = {"open": True}
        self.reload()
        job = self.job("old", "a")
        stream = self.events(job, "nobody")
        self.set_keys(new="shop")
        self.reload()
        with self.assertRaises(http.client.IncompleteRead):
            stream.read()
        self.held.answer("a")

    def test_a_reader_of_results_that_stalls_is_cut(self):
        self.limits.update(items=20001, write_ms=3600000)
        self.file["services"]["webhook"] = {"kind": "webhook"}
        self.reload()
        job = self.settled.post(reading.final_at_once(20000), {**bearer("old"), "Prefer": "respond-async, wait=60"})
        reader = reading.SlowReader(self.settled, rawhttp.head("GET", job.headers["Location"] + "/results", **bearer("old"),
                                                               **reading.NDJSON))
        self.addCleanup(reader.close)
        reader.wait_blocked()
        self.set_keys(new="shop")
        self.reload()
        self.assertFalse(reader.bytes().endswith(b"\r\n0\r\n\r\n"), "it looks whole")


class Senders(Case):
    def test_what_was_accepted_goes_on_and_is_answered(self):
        posts = {to: self.settled.start_post({"service": "held", "items": [item(1, to)]}, {**bearer("old"), "Accept": accept})
                 for to, accept in (("whole", "application/json"), ("lines", "application/x-ndjson"))}
        self.held.wait(*posts)
        self.set_keys(mail="mail", new="shop")
        self.reload()
        for to in posts:
            self.held.answer(to)
        self.assertEqual(self.answered(posts["whole"]).json["outcome"], "succeeded")
        answer = http.client.HTTPResponse(posts["lines"])
        answer.begin()
        self.assertEqual([list(json.loads(line))[0] for line in answer.read().splitlines()], ["index", "batch"])
        for sock in posts.values():
            sock.close()

    def test_a_body_that_was_on_its_way_is_not_taken(self):
        body = harness.encode({"service": "push", "items": [item(1, "ok")]})
        head = rawhttp.head(Content_Type="application/json", Content_Length=len(body), Expect="100-continue", **bearer("old"))
        with rawhttp.dial(self.settled.port) as sock, sock.makefile("rb") as stream:
            sock.sendall(head)
            self.assertEqual((stream.readline()[:12], stream.readline()), (b"HTTP/1.1 100", b"\r\n"))
            self.set_keys(new="shop")
            self.reload()
            sock.sendall(body)
            self.assertEqual(rawhttp.read_answer(stream).status, 401)
        self.assertEqual(self.down.ledger(), [])


if __name__ == "__main__":
    harness.main()
