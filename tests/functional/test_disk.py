"""The disk fails under the real program: full, broken, read-only. No 202 that is not
true, no item lost, and it recovers by itself. On a small file system of its own,
in a mount namespace that ends with the tests."""

import os
import signal
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
    def test_what_needs_the_disk_is_refused_until_there_is_room(self):
        daemon = self.start()
        known = self.accept(daemon, "status=200")
        self.wait_done(daemon, known)
        keyed = self.batch("status=200"), {"Idempotency-Key": "known"}
        first = daemon.post(*keyed)
        self.fill()
        self.fails_and_goes_on(daemon)
        again = daemon.post(*keyed)
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"], again.body), (200, "true", first.body))
        self.assertEqual(daemon.get_batch(known).json["outcome"], "succeeded")
        self.free()
        self.works_again(daemon)
        self.stop(daemon)

    def test_a_stop_does_not_wait_for_room(self):
        """What is owed is given up after the drain: the next process counts it as interrupted."""
        daemon = self.start(limits={"drain_ms": 100})
        gate = kit.gate.Held()
        self.addCleanup(gate.close)
        claims = daemon.post({"concurrency": 1, "items": [harness.item(n, gate.url(f"c{n}")) for n in range(2)]},
                             lives.ASYNC).headers["Batch-Id"]
        gate.wait("c0")
        held, job = self.with_an_owed_result(daemon)
        gate.answer("c0")
        caller = daemon.start_post({"items": [harness.item(0, held.url("b"))]})
        held.wait("b")
        waiting = daemon.post(self.batch("status=200"))
        self.assertEqual(waiting.status, 200)
        self.stop(daemon)
        daemon.wait_line("event=store_gave_up")
        self.assertIn(b" 207 ", caller.recv(65536))
        self.free()
        daemon = self.start()
        held.wait("a")
        held.answer("a")
        result = self.wait_done(daemon, job).json["results"][0]
        self.assertEqual([a["code"] for a in result["attempt_log"]], ["interrupted", None])
        gate.wait("c0")
        gate.answer("c0")
        gate.wait("c1")
        gate.answer("c1")
        self.assertEqual([r["attempts"] for r in self.wait_done(daemon, claims).json["results"]], [2, 1],
                         "the second was never started before")
        self.stop(daemon)

    def with_an_owed_result(self, daemon):
        """A job whose answer comes while the disk is full."""
        held = kit.gate.Held()
        self.addCleanup(held.close)
        batch = {"items": [harness.item(0, held.url("a"))], "include": ["attempts"],
                 "retry": {"max_attempts": 5, "base_ms": 1, "cap_ms": 10}}
        job = daemon.post(batch, lives.ASYNC).headers["Batch-Id"]
        held.wait("a")
        self.fill()
        held.answer("a")
        self.wait_unready(daemon)
        return held, job

    def test_a_result_that_is_owed_is_recorded_when_there_is_room(self):
        daemon = self.start()
        _, job = self.with_an_owed_result(daemon)
        seen = daemon.get_batch(job).json
        self.assertEqual((seen["state"], seen["results"][0]["ok"]), ("running", None))
        self.free()
        result = self.wait_done(daemon, job).json["results"][0]
        self.assertEqual((result["status"], result["attempts"]), ("succeeded", 1))
        self.wait_ready(daemon)
        daemon.stop(signal.SIGKILL)
        self.assertEqual(self.start().get_batch(job).json["results"][0], result)

    def test_a_result_that_was_owed_when_it_was_killed_is_an_interruption(self):
        daemon = self.start()
        held, job = self.with_an_owed_result(daemon)
        daemon.stop(signal.SIGKILL)
        self.free()
        daemon = self.start()
        held.wait("a")
        held.answer("a")
        result = self.wait_done(daemon, job).json["results"][0]
        self.assertEqual([a["code"] for a in result["attempt_log"]], ["interrupted", None])
        self.assertTrue(result["duplicate_risk"])

    def test_a_start_on_a_full_disk_loses_nothing(self):
        daemon = self.start()
        job = self.accept(daemon, "status=429&times=1&retry_after=1", "status=200")
        daemon.stop(signal.SIGKILL)
        self.fill()
        daemon = self.start()
        self.assertEqual(daemon.get_batch(job).status, 200)
        self.fails_and_goes_on(daemon)
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


class Broken(Case):
    """Errors that no file system gives on demand: strace puts them into the calls."""

    def setUp(self):
        kit.need("strace")
        super().setUp()
        self.daemon = self.start()

    def break_disk(self, calls, error):
        """Until mend(): these calls fail, in every thread."""
        self.strace = harness.Process(["strace", "-f", "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}",
                                       "-p", str(self.daemon.child.pid)])
        self.addCleanup(self.mend)
        self.strace.wait_line("attached")

    def mend(self):
        if self.strace.child.returncode is None:
            self.strace.stop(signal.SIGINT)

    def breaks_and_mends(self, calls, error):
        self.break_disk(calls, error)
        self.fails_and_goes_on(self.daemon)
        self.mend()
        self.works_again(self.daemon)
        self.stop(self.daemon)

    def test_a_sync_that_fails_is_no_commit(self):
        self.breaks_and_mends("fsync,fdatasync", "EIO")

    def test_writes_that_fail(self):
        self.breaks_and_mends("pwrite64", "EIO")

    def test_a_file_system_that_turned_read_only(self):
        self.breaks_and_mends("pwrite64", "EROFS")


if __name__ == "__main__":
    in_namespace()
    harness.main()
