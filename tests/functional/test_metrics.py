"""Metrics as operators use them: the text passes promtool, requests are counted by
route and status, times are where they belong, and the process says what it takes."""

import os
import re
import socket
import subprocess

import harness
import kit
from exposition import Exposition
from harness import item, ms


class Case(kit.Case):
    def exposition(self):
        return Exposition(self.settled.ask("GET", "/metrics").body.decode())


def promtool(*args, stdin=""):
    kit.need("promtool")
    done = subprocess.run(["promtool", *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=harness.LIMIT_S)
    return done.returncode, done.stdout


class Text(Case):
    def test_promtool_has_nothing_against_it(self):
        self.settled.post({"items": [item(1, self.url("/ok")), item(2, self.url("/gone"))]})
        self.assertEqual(promtool("check", "metrics", stdin=self.settled.ask("GET", "/metrics").body.decode()), (0, ""))

    def test_promtool_would_tell(self):
        self.assertNotEqual(promtool("check", "metrics", stdin="# TYPE x_total gauge\nx_total 1\n")[0], 0)


class Requests(Case):
    def grown(self, act):
        before = self.exposition()
        act()
        after = self.exposition()
        return {tuple(v for _, v in ls): int(v - before.samples.get((n, ls), 0))
                for (n, ls), v in after.samples.items()
                if n == "settled_http_requests_total" and v != before.samples.get((n, ls), 0)}, before, after

    def test_each_is_counted_once_by_route_and_status(self):
        def act():
            answer = self.settled.post({"items": [item(1, self.url("/ok"))]})
            path = answer.headers["Location"]
            for method, to, body in (("GET", path, None), ("HEAD", path, None), ("GET", path + "/results", None),
                                     ("GET", "/v1/batches?state=running", None), ("GET", "/v1/batches?nonsense=1", None),
                                     ("GET", "/v1/services", None), ("GET", "/v1/limits", None), ("GET", "/livez", None),
                                     ("GET", "/readyz", None), ("GET", "/openapi.json", None), ("GET", "/nowhere", None),
                                     ("PUT", "/livez", None), ("POST", path + "/cancel", b""), ("POST", "/v1/batches", b"{")):
                self.settled.ask(method, to, body, {"Content-Type": "application/json"} if body else {})

        grown, before, after = self.grown(act)
        self.assertEqual(grown, {
            ("POST /v1/batches", "200"): 1, ("POST /v1/batches", "400"): 1, ("GET /v1/batches/{id}", "200"): 2,
            ("GET /v1/batches/{id}/results", "200"): 1, ("GET /v1/batches", "200"): 1, ("GET /v1/batches", "422"): 1,
            ("GET /v1/services", "200"): 1, ("GET /v1/limits", "200"): 1, ("GET /livez", "200"): 1, ("GET /readyz", "200"): 1,
            ("GET /openapi.json", "200"): 1, ("none", "404"): 1, ("none", "405"): 1,
            ("POST /v1/batches/{id}/cancel", "200"): 1, ("GET /metrics", "200"): 1})
        for route in {route for route, _ in grown}:
            self.assertEqual(after.get("settled_http_request_duration_seconds_count", route=route)
                             - before.get("settled_http_request_duration_seconds_count", route=route),
                             sum(n for (r, _), n in grown.items() if r == route), route)

    def test_a_client_that_leaves_is_a_499(self):
        def act():
            sock = self.settled.start_post({"items": [item(1, self.url("/hang"))]})
            self.down.wait(requests=1)
            sock.close()
            self.settled.wait_done("disconnected", self.log_start)
            self.rest.wait()

        self.assertEqual(self.grown(act)[0].get(("POST /v1/batches", "499")), 1)

    def test_what_the_server_itself_refuses_has_its_status(self):
        def act():
            for text in (b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n",
                         b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", self.settled.port), harness.LIMIT_S) as sock:
                    sock.sendall(text)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
            self.rest.wait()

        grown = self.grown(act)[0]
        self.assertEqual({key: n for key, n in grown.items() if key[1] in ("413", "400")},
                         {("POST /v1/batches", "413"): 1, ("none", "400"): 1})


class Times(Case):
    def test_batches_items_and_queues_are_timed_by_mode_outcome_and_service(self):
        before = self.exposition()
        self.settle({"concurrency": 1, "items": [item(n, self.url("/ok")) for n in range(3)]}, 200)
        self.settle({"items": [item(1, self.url("/gone"))]}, 207)
        answer = self.settled.post({"items": [item(1, "ok", service="push")]}, {"Prefer": "respond-async, wait=20"})
        self.assertEqual(answer.json["outcome"], "succeeded")
        after = self.exposition()

        def grew(name, **labels):
            return after.get(name + "_count", **labels) - before.get(name + "_count", **labels)

        self.assertEqual({k: grew("settled_batch_duration_seconds", mode=k[0], outcome=k[1]) for k in (
            ("synchronous", "succeeded"), ("synchronous", "failed"), ("asynchronous", "succeeded"), ("asynchronous", "failed"))},
            {("synchronous", "succeeded"): 1, ("synchronous", "failed"): 1, ("asynchronous", "succeeded"): 1,
             ("asynchronous", "failed"): 0})
        for name in ("settled_item_duration_seconds", "settled_attempt_queue_seconds", "settled_attempt_duration_seconds"):
            self.assertEqual((grew(name, service="webhook"), grew(name, service="push")), (4, 1), name)

    def test_a_wait_for_a_slot_is_in_the_queue_and_in_the_item_alone(self):
        """The second item waits for the first one's slot, which hangs until its timeout."""
        before = self.exposition()
        daemon = harness.Daemon({"services": {"slow": {"kind": "webhook", "allow": ["127.0.0.0/8"], "max_in_flight": 1}}})
        try:
            wait = ms(300)
            daemon.post({"service": "slow", "attempt_timeout_ms": wait, "retry": {"max_attempts": 1},
                         "items": [item(1, self.url("/hang")), item(2, self.url("/ok"))]})
            m = Exposition(daemon.ask("GET", "/metrics").body.decode())
            self.assertGreaterEqual(m.get("settled_attempt_queue_seconds_sum", service="slow"), wait / 1000)
            self.assertGreaterEqual(m.get("settled_item_duration_seconds_sum", service="slow"), 2 * wait / 1000)
            self.assertEqual(before.get("settled_attempt_queue_seconds_count", service="slow"), 0)
        finally:
            daemon.stop()


class Process(Case):
    def test_it_says_what_the_kernel_says(self):
        m = self.exposition()
        pid = self.settled.child.pid
        with open(f"/proc/{pid}/statm", encoding="ascii") as f:
            pages = [int(n) for n in f.read().split()[:2]]
        page = os.sysconf("SC_PAGESIZE")
        self.assertLess(abs(m.get("process_resident_memory_bytes") - pages[1] * page), 8 << 20)
        self.assertLess(abs(m.get("process_virtual_memory_bytes") - pages[0] * page), 64 << 20)
        with open(f"/proc/{pid}/limits", encoding="ascii") as f:
            self.assertEqual(str(int(m.get("process_max_fds"))), re.search(r"Max open files +(\d+)", f.read())[1])
        self.assertGreater(m.get("process_cpu_seconds_total"), 0)
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            ticks = int(f.read().rpartition(")")[2].split()[19])
        with open("/proc/stat", encoding="ascii") as f:
            booted = int(re.search(r"^btime (\d+)", f.read(), re.M)[1])
        # The kernel knows its own start to the second.
        self.assertLess(abs(m.get("process_start_time_seconds") - booted - ticks / os.sysconf("SC_CLK_TCK")), 2 + harness.LIMIT_S)
        self.assertEqual([dict(ls) for (n, ls) in m.samples if n == "settled_build_info"],
                         [{"version": subprocess.run([*harness.SETTLED, "--version"], stdout=subprocess.PIPE, text=True,
                                                     check=True).stdout.split()[-1]}])

    def test_descriptors_and_connections_are_counted(self):
        self.rest.wait()
        before = self.exposition()
        socks = [socket.create_connection(("127.0.0.1", self.settled.port)) for _ in range(20)]
        kit.until(lambda: self.exposition().get("settled_connections") >= 20, "20 connections")
        kit.until(lambda: self.exposition().get("process_open_fds") == before.get("process_open_fds") + 20, "20 descriptors")
        for sock in socks:
            sock.close()
        kit.until(lambda: self.exposition().get("settled_connections") <= 3, "no connections")

    def test_the_loop_is_measured_all_the_time(self):
        first = self.exposition().get("settled_loop_lag_seconds_count")
        kit.until(lambda: self.exposition().get("settled_loop_lag_seconds_count") >= first + 3, "three looks")

    def test_every_limit_is_a_series(self):
        m = self.exposition()
        limits = {k: v for k, v in self.settled.ask("GET", "/v1/limits").json.items() if isinstance(v, int)}
        self.assertEqual({dict(ls)["limit"]: v for (n, ls), v in m.samples.items() if n == "settled_limit"}, limits)


if __name__ == "__main__":
    harness.main()
