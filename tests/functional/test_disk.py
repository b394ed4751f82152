"""The disk fails under the real program: full, broken, read-only. No 202 that is not
true, no item lost, and it recovers by itself. On a small file system of its own,
in a mount namespace that ends with the tests."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import harness
import kit
import lives

SIZE = "16m"
INSIDE = "SETTLED_TEST_MOUNTS"


def in_namespace():
    """Run the tests where what they mount is nobody else's."""
    if os.geteuid() != 0 and os.environ.get("CI") != "true":
        print("TAP version 13\n1..0 # SKIP only root may mount a file system")
        sys.exit(0)
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def ask_ready(daemon):
    return daemon.ask("GET", "/readyz")


class Case(lives.Case):
    def make_home(self):
        home = super().make_home()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "settled-test", home], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", home], check=True)
        return home

    def fill(self):
        """Not one byte is left."""
        self.filler = os.path.join(self.home, "filler")
        with open(self.filler, "wb", buffering=0) as f:
            for size in (1 << 20, 4096, 1):
                try:
                    while f.write(b"\0" * size) == size:
                        pass
                except OSError as e:
                    self.assertEqual(e.errno, 28)

    def free(self):
        os.unlink(self.filler)

    def refusal(self, answer):
        """A 503 that says what to do, and when."""
        self.assertEqual(answer.status, 503, answer.body)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        self.assertIn("Retry-After", answer.headers)
        return answer.json

    def wait_unready(self, daemon):
        kit.until(lambda: ask_ready(daemon).status == 503, "the disk's failure shows in /readyz")
        return self.refusal(ask_ready(daemon))

    def wait_unready_by_asking(self, daemon):
        """Nothing that fails was written yet: something has to be."""
        self.refusal(daemon.post(self.batch("tag=refused"), lives.ASYNC))
        self.wait_unready(daemon)

    def wait_ready(self, daemon):
        kit.until(lambda: ask_ready(daemon).status == 200, "it recovers by itself")

    def fails_and_goes_on(self, daemon):
        """What is promised while the disk fails. Nothing that was refused is sent."""
        job = self.batch("tag=refused")
        self.refusal(daemon.post(job, lives.ASYNC))
        self.refusal(daemon.post(job, {"Idempotency-Key": "k"}))
        self.refusal(daemon.post({**job, "on_disconnect": "continue"}))
        self.assertGreater(len(self.wait_unready(daemon)["detail"]), 10)
        plain = daemon.post(self.batch("tag=plain"))
        self.assertEqual((plain.status, plain.json["durability"]), (200, "memory"))
        self.assertEqual(daemon.ask("GET", "/livez").status, 200)
        self.assertEqual([e["query"] for e in self.down.ledger() if "tag=refused" in e["query"]], [])

    def works_again(self, daemon):
        self.wait_ready(daemon)
        self.assertEqual(self.wait_done(daemon, self.accept(daemon, "status=200")).json["outcome"], "succeeded")
        self.assertEqual(daemon.post(self.batch("status=200"), {"Idempotency-Key": "k"}).status, 200)


class Full(Case):
    """The store may find room in its own log for a while, so that one is taken and the next is not: what counts is
    that each answer is true."""

    def test_what_was_accepted_is_done_and_what_was_refused_is_not_sent(self):
        daemon = self.start()
        known = self.accept(daemon, "status=200")
        self.wait_done(daemon, known)
        self.fill()
        accepted, refused = self.post_until_refused(daemon)
        plain = daemon.post(self.batch("tag=plain"))
        self.assertEqual((plain.status, plain.json["durability"]), (200, "memory"))
        self.assertEqual(daemon.get_batch(known).json["outcome"], "succeeded")
        self.free()
        self.works_again(daemon)
        for job in accepted:
            self.assertEqual(self.wait_done(daemon, job).json["outcome"], "succeeded")
        sent = {e["query"] for e in self.down.ledger()}
        self.assertEqual(sent & refused, set())
        self.stop(daemon)

    def post_until_refused(self, daemon):
        """Jobs: the ids of those that were accepted, and the queries of the one that was not."""
        accepted = []
        while True:
            batch = self.batch(f"tag=n{len(accepted)}")
            batch["items"][0]["payload"] = "x" * 100000
            answer = daemon.post(batch, lives.ASYNC)
            if answer.status != 202:
                self.refusal(answer)
                return accepted, {f"tag=n{len(accepted)}"}
            accepted.append(answer.headers["Batch-Id"])

    def test_a_start_on_a_full_disk_loses_nothing(self):
        daemon = self.start()
        job = self.accept(daemon, "status=429&times=1&retry_after=1", "status=200")
        daemon.stop(signal.SIGKILL)
        self.fill()
        daemon = self.start()
        self.assertEqual(daemon.get_batch(job).status, 200)
        self.free()
        self.works_again(daemon)
        self.assertEqual(self.wait_done(daemon, job).json["outcome"], "succeeded")


class ReadOnly(Case):
    def test_a_start_is_refused_and_says_why(self):
        self.stop(self.start())
        subprocess.run(["mount", "-o", "remount,ro", self.home], check=True)
        said = self.refused()
        self.assertIn(self.data, said)
        self.assertIn("ead-only", said)
        subprocess.run(["mount", "-o", "remount,rw", self.home], check=True)
        self.stop(self.start())


class Failing(Case):
    """Errors that no file system gives on demand: strace puts them into the calls, until mend()."""

    def setUp(self):
        kit.need("strace")
        super().setUp()
        self.strace = None

    def break_disk(self, daemon, calls="pwrite64", error="ENOSPC"):
        """In every thread."""
        self.strace = harness.Process(["strace", "-f", "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}",
                                       "-p", str(daemon.child.pid)])
        self.addCleanup(self.mend)
        self.strace.wait_line("attached")

    def mend(self):
        if self.strace is not None:
            self.strace.stop(signal.SIGINT)
        self.strace = None


class Broken(Failing):
    def breaks_and_mends(self, calls, error):
        daemon = self.start()
        known = self.accept(daemon, "status=200")
        self.wait_done(daemon, known)
        keyed = self.batch("status=200"), {"Idempotency-Key": "known"}
        first = daemon.post(*keyed)
        self.break_disk(daemon, calls, error)
        self.fails_and_goes_on(daemon)
        again = daemon.post(*keyed)
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (200, "true", first.body))
        self.assertEqual(daemon.get_batch(known).json["outcome"], "succeeded")
        self.mend()
        self.works_again(daemon)
        self.stop(daemon)

    def test_a_batch_that_was_noted_does_not_run_for_ever(self):
        """A plain synchronous batch ends while the disk fails: its note must not outlive it."""
        daemon = self.start(limits={"drain_ms": 100})
        held = kit.gate.Held()
        self.addCleanup(held.close)
        caller = daemon.start_post({"items": [harness.item(0, held.url("a"))]})
        held.wait("a")
        running = "/v1/batches?state=running"
        kit.until(lambda: daemon.ask("GET", running).json["batches"], "it is noted")
        batch = daemon.ask("GET", running).json["batches"][0]["id"]
        self.break_disk(daemon, "pwrite64", "EIO")
        self.wait_unready_by_asking(daemon)
        held.answer("a")
        self.assertIn(b" 200 ", caller.recv(65536))
        self.mend()
        self.works_again(daemon)
        self.assertEqual(self.wait_done(daemon, batch).json["outcome"], "succeeded")
        self.stop(daemon)

    def test_a_stop_does_not_wait_for_the_disk(self):
        """What is owed is given up after the drain: the next process counts it as interrupted."""
        # The sanitizer looks for leaks at the end by the means that strace is using.
        leaks = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        daemon = harness.Daemon(self.config(limits={"drain_ms": 100}), self.down, leaks)
        self.addCleanup(self.end, daemon)
        held = kit.gate.Held()
        self.addCleanup(held.close)
        job = daemon.post({"concurrency": 1, "include": ["attempts"], "items": [
            harness.item(0, held.url("a0")), harness.item(1, self.down.url + "/second")],
            "retry": {"max_attempts": 5, "base_ms": 1, "cap_ms": 10}}, lives.ASYNC).headers["Batch-Id"]
        held.wait("a0")
        self.break_disk(daemon, "pwrite64", "EIO")
        held.answer("a0")
        self.wait_unready(daemon)
        caller = daemon.start_post({"items": [harness.item(0, held.url("plain"))]})
        held.wait("plain")
        self.stop(daemon)
        daemon.wait_line("event=store_gave_up")
        self.assertIn(b" 207 ", caller.recv(65536))
        self.mend()
        daemon = self.start()
        held.wait("a0")
        held.answer("a0")
        self.assertEqual([[a["code"] for a in r["attempt_log"]] for r in self.wait_done(daemon, job).json["results"]],
                         [["interrupted", None], [None]], "the second never started before")
        self.stop(daemon)

    def test_a_sync_that_fails_is_no_commit(self):
        self.breaks_and_mends("fsync,fdatasync", "EIO")

    def test_writes_that_fail(self):
        self.breaks_and_mends("pwrite64", "EIO")

    def test_a_disk_that_stays_full(self):
        self.breaks_and_mends("pwrite64", "ENOSPC")

    def test_a_file_system_that_turned_read_only(self):
        self.breaks_and_mends("pwrite64", "EROFS")


class Owed(Failing):
    """What the store has not taken yet, though it happened."""

    def with_an_owed_result(self, daemon):
        """A job whose answer comes while the disk is full."""
        held = kit.gate.Held()
        self.addCleanup(held.close)
        batch = {"items": [harness.item(0, held.url("a"))], "include": ["attempts"],
                 "retry": {"max_attempts": 5, "base_ms": 1, "cap_ms": 10}}
        job = daemon.post(batch, lives.ASYNC).headers["Batch-Id"]
        held.wait("a")
        self.break_disk(daemon)
        held.answer("a")
        self.wait_unready(daemon)
        return held, job

    def test_a_result_that_is_owed_is_recorded_when_there_is_room(self):
        daemon = self.start()
        _, job = self.with_an_owed_result(daemon)
        seen = daemon.get_batch(job).json
        self.assertEqual((seen["state"], seen["results"][0]["ok"]), ("running", None))
        self.mend()
        result = self.wait_done(daemon, job).json["results"][0]
        self.assertEqual((result["status"], result["attempts"]), ("succeeded", 1))
        self.wait_ready(daemon)
        daemon.stop(signal.SIGKILL)
        self.assertEqual(self.start().get_batch(job).json["results"][0], result)

    def test_a_stream_waits_for_the_disk(self):
        """A line that was read is a result that stays."""
        daemon = self.start()
        held = kit.gate.Held()
        self.addCleanup(held.close)
        sock = daemon.start_post({"items": [harness.item(0, held.url("a"))]},
                                 {"Idempotency-Key": "k", "Accept": "application/x-ndjson"})
        self.addCleanup(sock.close)
        held.wait("a")
        self.break_disk(daemon)
        held.answer("a")
        self.wait_unready(daemon)
        head = sock.recv(1 << 16, socket.MSG_DONTWAIT)
        self.assertIn(b" 200 OK\r\n", head)
        self.assertNotIn(b"succeeded", head)
        self.mend()
        rest = b""
        while b"0\r\n\r\n" not in rest:
            rest += kit.gate.receive(sock, rest)
        lines = [json.loads(line) for line in re.findall(rb"^{.*}$", rest, re.M)]
        self.assertEqual([lines[0]["status"], lines[1]["batch"]["outcome"]], ["succeeded", "succeeded"])

    def test_a_result_that_was_owed_when_it_was_killed_is_an_interruption(self):
        daemon = self.start()
        held, job = self.with_an_owed_result(daemon)
        daemon.stop(signal.SIGKILL)
        self.mend()
        daemon = self.start()
        held.wait("a")
        held.answer("a")
        result = self.wait_done(daemon, job).json["results"][0]
        self.assertEqual([a["code"] for a in result["attempt_log"]], ["interrupted", None])
        self.assertTrue(result["duplicate_risk"])


if __name__ == "__main__":
    in_namespace()
    harness.main()
