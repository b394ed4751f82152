"""SIGHUP: services and limits change while requests run, and none is lost. What
is wrong in the file is said, and changes nothing."""

import json
import os
import re
import signal
import threading

import harness
import kit
from callers import bearer, keys_config
from harness import item
from reloading import Reloading

NOTHING = 'added="" removed="" changed="" settings=""'


class Services(Reloading):
    def test_a_new_service_serves_at_once(self):
        self.assertEqual(self.send("late", "ok").status, 422)
        self.services["late"] = {"kind": "http", "url": self.down.url + "/late/{to}"}
        self.assertIn("added=late", self.reload())
        self.assertEqual(self.send("late", "ok").json["outcome"], "succeeded")
        self.assertIn("late", self.names())
        self.assertEqual(self.settled.metrics()['settled_attempts_total{service="late",code="ok"}'], 1)
        self.assertEqual(self.down.ledger()[0]["path"], "/late/ok")

    def test_a_changed_service_is_what_starts_now_and_what_waits(self):
        self.services["held"]["max_in_flight"] = 1
        self.assertIn("changed=held", self.reload())
        sock = self.begin("held", "first", "second", "third")
        self.held.wait("first")
        self.services["held"].update(url=self.down.url + "/moved/{to}", max_in_flight=8)
        self.assertIn("changed=held", self.reload())
        self.down.wait(requests=2)
        self.held.answer("first")
        answer = self.finish(sock)
        self.assertEqual((answer.status, [r["attempts"] for r in answer.json["results"]]), (200, [1, 1, 1]))
        self.assertEqual(sorted(e["path"] for e in self.down.ledger()), ["/moved/second", "/moved/third"])

    def test_jobs_that_wait_move_too_and_are_claimed_once(self):
        self.services["held"]["max_in_flight"] = 1
        self.reload()
        job = self.settled.post({"service": "held", "items": [item(n, f"j{n}") for n in range(20)]},
                                {"Prefer": "respond-async"}).json["id"]
        self.held.wait("j0")
        self.services["held"].update(url=self.down.url + "/moved/{to}", max_in_flight=8)
        self.reload()
        self.down.wait(requests=19)
        self.held.answer("j0")
        done = self.settled.ask("GET", "/v1/batches/" + job, headers={"Prefer": "wait=20"}).json
        self.assertEqual((done["outcome"], {r["attempts"] for r in done["results"]}), ("succeeded", {1}))
        self.assertEqual(len(self.down.ledger()), 19)

    def wait_for_a_pause(self):
        """Two items that wait for the end of a pause: the batch's connection."""
        self.services["held"].update(url=self.down.url + "/x?status=503&retry_after=60", max_pause_ms=60000)
        self.reload()
        self.send("held", "first", retry={"max_attempts": 1})
        sock = self.begin("held", "second", "third", deadline_ms=600000)
        kit.until(lambda: self.settled.metrics()["settled_items_queued"] == 2 and self.show("held")["queued"] == 0,
                  "they wait for its end")
        return sock

    def test_what_waits_for_a_pause_goes_where_there_is_none(self):
        sock = self.wait_for_a_pause()
        self.services["held"]["url"] = f"http://localhost:{self.down.port}/moved/{{to}}"
        self.reload()
        answer = self.finish(sock)
        self.assertEqual((answer.status, [r["attempts"] for r in answer.json["results"]]), (200, [1, 1]))
        self.assertEqual(sorted(e["path"] for e in self.down.ledger())[:2], ["/moved/second", "/moved/third"])

    def test_what_waits_for_a_pause_ends_with_its_service(self):
        sock = self.wait_for_a_pause()
        del self.services["held"]
        self.reload()
        self.assertEqual([(r["attempts"], r["error"]["code"]) for r in self.finish(sock).json["results"]],
                         [(0, "invalid_item")] * 2)

    def test_what_another_kind_does_not_take_is_not_sent(self):
        """A recipient that is no URL, of which a webhook would make one: in the lane, and before."""
        self.services["held"]["max_in_flight"] = 1
        self.reload()
        host = f"127.0.0.1:{self.down.port}"
        sock = self.begin("held", "first", host, host, concurrency=2)
        self.held.wait("first")
        self.services["held"] = {"kind": "webhook", "allow": ["127.0.0.0/8"]}
        self.reload()
        self.held.answer("first")
        first, *others = self.finish(sock).json["results"]
        self.assertTrue(first["ok"])
        for other in others:
            self.assertEqual((other["attempts"], other["error"]["code"], other["stop"]), (0, "invalid_item", "not_retryable"), other)
        self.assertEqual(self.down.ledger(), [])

    def test_an_attempt_ends_under_what_it_was_started_under(self):
        self.services["held"]["refuses_with"] = [503]
        self.reload()
        once = {"retry": {"max_attempts": 1}}
        sock = self.begin("held", "a", **once)
        self.held.wait("a")
        del self.services["held"]["refuses_with"]
        self.reload()
        self.held.answer("a", "503 No")
        self.assertEqual(self.finish(sock).json["results"][0]["delivered"], "no")
        sock = self.begin("held", "b", **once)
        self.held.answer("b", "503 No")
        self.assertEqual(self.finish(sock).json["results"][0]["delivered"], "maybe")

    def test_a_removed_service_takes_nothing_new_and_comes_back(self):
        self.services["held"]["max_in_flight"] = 1
        self.reload()
        sock = self.begin("held", "first", "second")
        self.held.wait("first")
        held = self.services.pop("held")
        self.assertIn("removed=held", self.reload())
        answer = self.send("held", "x")
        self.assertEqual((answer.status, answer.json["errors"][0]["code"]), (422, "unknown_service"))
        self.assertEqual(self.names(), ["push"])
        # Of two services one is left: it is the default now.
        self.assertEqual(self.settled.post(json.dumps({"items": [item(1, "ok")]}).encode()).status, 200)
        self.held.answer("first")
        results = self.finish(sock).json["results"]
        self.assertEqual((results[0]["status"], results[1]["error"]["code"], results[1]["attempts"]),
                         ("succeeded", "invalid_item", 0))
        self.assertIn("no longer configured", results[1]["error"]["message"])
        self.services["held"] = held
        self.assertIn("added=held", self.reload())
        sock = self.begin("held", "again")
        self.held.answer("again")
        self.assertEqual(self.finish(sock).status, 200)

    def test_a_retry_for_a_removed_service_is_refused(self):
        for async_header in ({}, {"Prefer": "respond-async, wait=20"}):
            first = self.settled.post({"service": "push", "items": [item(1, "status=404")], "retry": {"max_attempts": 1}},
                                      async_header)
            push = self.services.pop("push")
            self.reload()
            path = f"/v1/batches/{first.headers['Batch-Id']}/retry"
            answer = self.settled.ask("POST", path, b'{"ids": ["i1"]}', {"Content-Type": "application/json"})
            self.assertEqual(answer.status, 422, answer.body)
            self.assertIn(b"no longer configured", answer.body)
            self.services["push"] = push
            self.reload()
            self.assertEqual(self.settled.ask("POST", path, b'{"ids": ["i1"]}', {"Content-Type": "application/json"}).status, 202)

    def test_no_more_than_the_new_limit_starts(self):
        self.services["held"]["max_in_flight"] = 4
        self.reload()
        sock = self.begin("held", *[f"n{n}" for n in range(12)])
        self.held.wait(*[f"n{n}" for n in range(4)])
        self.services["held"]["max_in_flight"] = 1
        self.reload()
        self.assertEqual(self.show("held")["max_in_flight"], 1)
        for n in range(12):
            self.held.wait(f"n{n}")
            self.assertLessEqual(len(self.held.requests), max(4 - n, 1))
            self.held.answer(f"n{n}")
        self.assertEqual(self.finish(sock).status, 200)

    def test_more_services_than_there_is_room_for_ask_for_a_restart(self):
        for n in range(255):
            self.services[f"s{n}"] = {"kind": "webhook"}
        self.write()
        self.assertIn("restart", self.hup("reload_refused"))
        self.assertEqual(self.names(), ["held", "push"])
        self.services.popitem()
        self.reload()
        self.assertEqual(len(self.names()), 256)
        self.assertEqual(self.send("push", "ok").status, 200)


class Rates(Reloading):
    def test_a_rate_is_kept_over_reloads(self):
        rate, n = 100, 60
        self.services["push"]["rate"] = {"per_second": rate, "burst": 1}
        self.reload()
        sock = self.begin("push", *["ok"] * n)
        self.down.wait(requests=1)
        for k in range(10):
            self.services["push"]["max_in_flight"] = 10 + k
            self.reload()
        self.assertEqual(self.finish(sock).status, 200)
        # Behind the lines of its attempts.
        self.settled.wait_line("event=batch_done")
        starts = sorted(int(at) for at in re.findall(r"event=attempt_done .*started_at_us=(\d+)", self.settled.text()))
        self.assertEqual(len(starts), n)
        for first, at in enumerate(starts):
            for k, later in enumerate(starts[first:], 1):
                self.assertLessEqual(k, 1 + rate * (later - at) / 1e6 + 1e-6)

    def test_a_new_rate_holds_for_what_waits(self):
        self.services["push"]["rate"] = {"per_second": 0.5, "burst": 1}
        self.reload()
        sock = self.begin("push", "ok", "ok", "ok")
        self.down.wait(requests=1)
        self.services["push"]["rate"] = {"per_second": 1000, "burst": 3}
        self.reload()
        self.assertEqual((self.finish(sock).status, len(self.down.ledger())), (200, 3))

    def test_what_a_slower_rate_owed_is_not_shown_of_the_new_one(self):
        self.services["push"]["rate"] = {"per_second": 0.001, "burst": 1}
        self.reload()
        self.assertEqual(self.send("push", "ok").status, 200)
        self.assertEqual(self.show("push")["rate"]["available"], 0)
        self.services["push"]["rate"] = {"per_second": 1000, "burst": 3}
        self.reload()
        self.assertIn(self.show("push")["rate"]["available"], (2, 3))


class Keys(Reloading):
    def ask(self, key, path="/v1/limits"):
        return self.settled.ask("GET", path, headers=bearer(key)).status

    def set_keys(self, *names):
        self.file["auth"] = {"keys": keys_config({**{n: n for n in names}, "boss": None})}

    def test_keys_come_and_go(self):
        self.assertEqual(self.ask("nobody"), 200)
        self.set_keys("one", "two")
        self.assertIn("auth.keys", self.reload())
        self.assertEqual([self.ask(k) for k in ("one", "two", "nobody")], [200, 200, 401])
        self.set_keys("three", "two")
        self.file["tenants"] = {"two": {"max_priority": 3}}
        self.assertIn('settings="auth.keys, tenants"', self.reload())
        self.assertEqual([self.ask(k) for k in ("one", "two", "three")], [401, 200, 200])
        text = self.settled.ask("GET", "/metrics", headers=bearer("boss")).body
        self.assertIn(b'tenant="three"', text)

    def test_the_last_key_of_a_tenant_goes_and_what_is_left_of_it_is_told(self):
        self.set_keys("one", "two")
        self.file["tenants"] = {"one": {"max_priority": 3}}
        self.reload()
        self.set_keys("two")
        self.reload()
        self.settled.wait_line("event=tenant_without_key tenant=one ")
        self.assertEqual([self.ask(k) for k in ("one", "two")], [401, 200])

    def test_a_batch_stays_its_tenants_over_reloads(self):
        self.set_keys("one", "two")
        self.reload()
        mine = bearer("one")
        batch = self.settled.post({"service": "push", "items": [item(1, "ok")]}, mine).headers["Batch-Id"]
        self.set_keys("zero", "two", "one")
        self.reload()
        self.assertEqual([self.ask(k, "/v1/batches/" + batch) for k in ("zero", "two", "one")], [404, 404, 200])

    def test_what_a_tenant_owes_is_paid_at_its_new_rate(self):
        self.set_keys("one")
        self.file["tenants"] = {"one": {"batches_per_second": 0.01, "items_per_second": 0.01}}
        self.reload()
        batch, mine = {"service": "push", "items": [item(n, "ok") for n in range(10)]}, bearer("one")
        self.assertEqual([self.settled.post(batch, mine).status for _ in range(2)], [200, 429])
        self.file["tenants"] = {"one": {"batches_per_second": 100000, "items_per_second": 100000}}
        self.reload()
        self.assertEqual(self.settled.post(batch, mine).status, 200)

    def test_what_a_tenant_holds_stays_its_own_when_tenants_come_and_go(self):
        self.limits["queued_items"] = 40
        self.set_keys("one", "two")
        self.reload()
        def send(who, service):
            answer = self.settled.post({"service": service, "priority": 9, "items": [item(1, "ok")]}, bearer(who))
            return answer.status, answer.json.get("detail")
        hung = self.settled.start_post({"service": "held", "priority": 9, "items": [item(n, f"h{n}") for n in range(20)]},
                                       bearer("one"))
        self.held.wait("h0")
        full = 503, "too many unfinished items of its tenant; nothing was sent"
        for names in (("two", "one"), ("zero", "three", "one", "two"), ("three", "one")):
            self.set_keys(*names)
            self.reload()
            self.assertEqual([send(name, "push") for name in names], [full if name == "one" else (200, None) for name in names])
        # Alone it has what is left.
        self.set_keys("one")
        self.reload()
        self.assertEqual(send("one", "push"), (200, None))
        self.set_keys("two", "one")
        self.reload()
        hung.close()
        self.settled.wait_line("stop_reason=disconnected")
        self.assertEqual(send("one", "push"), (200, None))

    def test_a_replay_whose_caller_leaves_costs_nothing(self):
        """It hangs up while the store is asked for its key, mostly."""
        self.set_keys("one")
        self.reload()
        batch = {"service": "push", "items": [item(1, "ok")]}
        mine = {**bearer("one"), "Idempotency-Key": "known"}
        self.assertEqual(self.settled.post(batch, mine).status, 200)
        self.file["tenants"] = {"one": {"batches_per_second": 0.001, "items_per_second": 0.001}}
        self.reload()

        def asked():
            text = self.settled.ask("GET", "/metrics", headers=bearer("boss")).body.decode()
            return sum(float(n) for n in re.findall(r'^settled_http_requests_total{route="POST /v1/batches",.*} (\S+)$', text, re.M))

        def left():
            nonlocal sent
            sent += 1
            return re.findall(r"r=(\d+)", self.settled.post({**batch, "validate_only": True}, mine).headers["RateLimit"])

        sent = 1
        for _ in range(30):
            self.settled.start_post(batch, mine).close()
            sent += 1
            kit.until(lambda: asked() == sent, lambda: f"{asked()} of {sent} are over")
            # The store may still be asked for the key.
            kit.until(lambda: left() == ["1", "1"], "something of the quota is gone")
        self.assertEqual(len(self.down.ledger()), 1)

    def test_a_retry_is_as_urgent_as_its_tenant_may_be_now(self):
        self.set_keys("one")
        self.reload()
        mine = bearer("one")
        first = self.settled.post({"service": "push", "priority": 8, "items": [item(1, "gone")]}, mine)
        self.file["tenants"] = {"one": {"max_priority": 3}}
        self.reload()
        again = self.settled.ask("POST", f"/v1/batches/{first.headers['Batch-Id']}/retry", b'{"ids": ["i1"]}',
                                 {**mine, "Content-Type": "application/json"})
        self.assertEqual(again.status, 202, again.body)
        self.settled.wait_line(f"batch={again.headers['Batch-Id']} .*priority=3 ")


class Store(Reloading):
    def test_a_job_for_a_new_service_outlives_the_process(self):
        self.services["late"] = {"kind": "http", "url": self.held.url("{to}")}
        self.reload()
        job = self.settled.post({"service": "late", "items": [item(1, "one")]}, {"Prefer": "respond-async"})
        self.assertEqual(job.status, 202)
        self.held.wait("one")
        if "path" not in self.file["store"]:
            return
        self.settled.child.kill()
        self.settled.child.wait()
        self.held.wait_gone("one")
        path, store = self.settled.config_path, self.file["store"]
        again = harness.Process([*harness.SETTLED, "--config", path])
        port = again.wait_line(r"event=listening .*port=(\d+)")[1]
        self.settled.port = int(port)
        self.held.answer("one")
        done = self.settled.ask("GET", f"/v1/batches/{job.headers['Batch-Id']}", headers={"Prefer": "wait=20"}).json
        self.assertEqual((done["outcome"], done["results"][0]["attempts"]), ("succeeded", 2), store)
        self.assertEqual(again.stop(), 0)

    def test_a_job_that_was_read_back_knows_a_new_service(self):
        self.services["late"] = {"kind": "http", "url": self.down.url + "/{to}"}
        self.reload()
        job = self.settled.post({"service": "late", "items": [item(1, "flaky?times=1")],
                                 "retry": {"max_attempts": 5, "base_ms": 2500, "cap_ms": 2500}},
                                {"Prefer": "respond-async"}).headers["Batch-Id"]
        done = self.settled.ask("GET", f"/v1/batches/{job}", headers={"Prefer": "wait=20"}).json
        self.assertEqual(done["counts"]["total"], 1)
        self.assertEqual(done["state"], "done")


class Settings(Reloading):
    def test_limits_are_in_force_at_once(self):
        self.limits.update(items=2, body_bytes=300, json_depth=5, deadline_ms=2000)
        line = self.reload()
        self.assertIn("settings=\"limits.items, limits.body_bytes, limits.json_depth, limits.deadline_ms\"", line)
        self.assertEqual([self.limit(n) for n in ("items", "body_bytes", "json_depth", "deadline_ms")], [2, 300, 5, 2000])
        self.assertEqual(self.send("push", "a", "b", "c").status, 422)
        self.assertEqual(self.send("push", "a" * 400).status, 413)
        self.assertEqual(self.send("push", "ok").status, 200)

    def test_what_needs_a_restart_keeps_its_value(self):
        connections = self.limit("connections")
        self.file.update(listen="127.0.0.1:1", shards=1, store={"path": "/nowhere"})
        self.limits.update(connections=connections - 1, items=7)
        self.write()
        start = self.settled.mark()
        self.assertIn("settings=limits.items", self.hup())
        warning = self.settled.wait_line('level=warn event=restart_needed settings="(.*?)"', start)[1]
        self.assertEqual(set(warning.split(", ")),
                         {"listen", "shards", "limits.connections", "store.path"} | ({"store.memory"} if harness.STORE == "memory" else set()))
        self.assertEqual((self.limit("connections"), self.limit("items")), (connections, 7))

    def test_so_do_lanes_and_what_they_cannot_share_is_refused(self):
        self.services["push"]["lanes"] = 3
        self.services["new"] = {**self.services["push"], "lanes": 2}
        self.write()
        self.assertIn("settings=services.push.lanes", self.hup("restart_needed"))
        self.assertEqual([self.show(name)["lanes_per_origin"] for name in ("push", "new")], [1, 2])
        self.services["new"].update(lanes=1, max_in_flight=1)
        self.write()
        self.assertIn("services.new: it has 2 lanes until a restart", self.hup("reload_refused"))
        self.assertEqual(self.show("new")["max_in_flight"], 256)

    def test_log_level_and_format_change(self):
        self.file["log"] = {"level": "warn", "format": "json"}
        self.write()
        start = self.settled.mark()
        self.settled.child.send_signal(signal.SIGHUP)
        self.file["listen"] = "127.0.0.1:2"
        while self.settled.ask("GET", "/metrics").body.find(b'reloads_total{result="ok"} 1') < 0:
            pass
        self.write()
        self.settled.child.send_signal(signal.SIGHUP)
        self.assertEqual(json.loads(self.settled.wait_line('"event":"restart_needed"', start).string)["settings"], "listen")
        self.assertEqual([line for line in self.settled.lines[start:] if "event=reloaded" in line], [])

    def test_a_file_that_says_the_same_changes_nothing(self):
        self.assertIn(NOTHING, self.hup())
        self.assertEqual(self.send("push", "ok").status, 200)

    def test_every_error_is_logged_and_nothing_changes(self):
        self.services["push"]["url"] = "nonsense"
        self.services["new"] = {"kind": "webhook", "secret": "no"}
        self.limits["items"] = -1
        self.write()
        start = self.settled.mark()
        self.hup("reload_refused")
        said = [self.settled.wait_line(rf"event=reload_refused .*{re.escape(what)}", start).string
                for what in ("limits.items", "services.push.url", "services.new.secret")]
        for line in said:
            self.assertRegex(line, re.escape(self.settled.config_path) + r":\d+:\d+: ")
        self.assertEqual((self.names(), self.limit("items")), (["held", "push"], 10000))
        self.assertEqual(self.send("push", "ok").status, 200)
        self.assertEqual(self.settled.metrics()['settled_config_reloads_total{result="refused"}'], 1)

    def test_no_file_and_half_a_file_change_nothing(self):
        self.write('{"services": {"pu')
        self.assertIn("settled.json:1:", self.hup("reload_refused"))
        for nothing in ("", "# soon\n", "{}"):
            self.write(nothing)
            self.assertIn("the file is empty", self.hup("reload_refused"))
        os.unlink(self.settled.config_path)
        self.assertIn("No such file", self.hup("reload_refused"))
        os.mkfifo(self.settled.config_path)
        self.assertIn("the file is empty", self.hup("reload_refused"))
        os.unlink(self.settled.config_path)
        self.assertEqual(self.send("push", "ok").status, 200)
        self.assertIn(NOTHING, self.reload())
        at = self.settled.metrics()
        self.assertEqual((at['settled_config_reloads_total{result="refused"}'], at['settled_config_reloads_total{result="ok"}']), (6, 1))
        self.assertGreater(at["settled_config_last_reload_success_timestamp_seconds"], 1.6e9)

    def test_a_secret_in_a_file_is_read_anew_and_not_shown(self):
        path = os.path.join(self.settled.dir, "token")
        self.services["push"]["headers"] = {"authorization": f"${{file:{path}}}"}
        for token in ("first-token", "second-token"):
            with open(path, "w", encoding="utf-8") as f:
                f.write(token + "\n")
            self.assertIn("changed=push", self.reload())
            self.assertEqual(self.send("push", "ok").status, 200)
            self.assertIn(["authorization", token], [[k.lower(), v] for k, v in self.down.ledger()[-1]["headers"]])
            self.assertNotIn(token, self.settled.text())
        self.assertIn(NOTHING, self.reload())

    def test_an_open_daemon_cannot_lose_what_protects_it(self):
        self.stop()
        self.start(listen="0.0.0.0:0", auth={"open": True})
        self.file.update(listen="127.0.0.1:0", auth={"open": False})
        self.write()
        self.assertIn("can be reached from other machines", self.hup("reload_refused"))


class UnderLoad(Reloading):
    def test_no_request_is_lost_while_it_reloads(self):
        stop, failed, sent = threading.Event(), [], []

        def client(k):
            while not stop.is_set():
                answer = self.send("push", *[f"ok?tag={k}" for _ in range(5)])
                sent.append(5)
                if answer.status != 200:
                    failed.append(answer.body)

        threads = [threading.Thread(target=client, args=(k,)) for k in range(6)]
        for t in threads:
            t.start()
        for n in range(30):
            self.services["push"].update(url=self.down.url + f"/v{n % 3}/{{to}}", max_in_flight=1 + n % 7)
            self.services.pop("extra", None) if n % 2 else self.services.update(extra={"kind": "webhook"})
            self.reload()
            self.assertEqual(self.show("push")["max_in_flight"], 1 + n % 7)
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual(failed, [])
        self.assertEqual(len(self.down.ledger()), sum(sent))

    def test_many_signals_are_few_reloads_and_the_last_one_counts(self):
        self.limits["items"] = 77
        for _ in range(200):
            self.settled.child.send_signal(signal.SIGHUP)
        self.reload()
        while self.limit("items") != 77:
            pass
        reloads = self.settled.metrics()['settled_config_reloads_total{result="ok"}']
        self.assertLessEqual(reloads, 201)
        self.assertEqual(self.send("push", "ok").status, 200)

    def test_a_drain_refuses_a_reload(self):
        sock = self.begin("held", "x")
        self.held.wait("x")
        self.settled.child.send_signal(signal.SIGTERM)
        self.settled.wait_line("event=draining")
        self.limits["items"] = 5
        self.write()
        self.assertIn("about to end", self.hup("reload_refused"))
        self.held.answer("x")
        self.assertEqual(self.finish(sock).status, 200)


if __name__ == "__main__":
    harness.main()
