"""The store's directory from outside: one process, files that are what they should
be, and what the next process finds."""

import hashlib
import os
import signal
import sqlite3

import gate
import harness
import kit
import lives

DATABASE = "settled.db"


def contents(folder):
    """Digests of all files with content, but the lock and the log's index: they belong to who looked last."""
    found = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            data = f.read()
        if data and name not in ("lock", DATABASE + "-shm"):
            found[name] = hashlib.sha256(data).hexdigest()
    return found


class Directory(lives.Case):
    def test_a_second_process_is_refused_and_the_first_goes_on(self):
        first = self.start()
        said = self.refused()
        self.assertIn(self.data, said)
        self.assertIn(f"process {first.child.pid} ", said)
        self.assertEqual(self.wait_done(first, self.accept(first, "status=200")).json["outcome"], "succeeded")
        self.stop(first)
        self.start()

    def test_a_killed_process_leaves_no_lock(self):
        self.start().stop(signal.SIGKILL)
        self.start()

    def test_a_missing_directory_is_made_for_its_owner_alone(self):
        self.data = os.path.join(self.home, "a", "b")
        self.start()
        self.assertEqual(os.stat(self.data).st_mode & 0o777, 0o700)

    def test_a_path_that_is_no_directory_is_refused(self):
        with open(self.data, "w", encoding="ascii") as f:
            f.write("a file\n")
        self.assertIn(self.data, self.refused())
        with open(self.data, encoding="ascii") as f:
            self.assertEqual(f.read(), "a file\n")


class Files(lives.Case):
    """A file that is not what it should be is refused, and stays as it is."""

    def setUp(self):
        super().setUp()
        first = self.start()
        self.known = self.accept(first, "status=200")
        self.wait_done(first, self.known)
        self.stop(first)
        self.database = os.path.join(self.data, DATABASE)

    def refused_untouched(self):
        before = contents(self.data)
        said = self.refused()
        self.assertIn(self.database, said)
        self.assertEqual(contents(self.data), before)
        return said

    def overwrite(self, at, data):
        with open(self.database, "r+b") as f:
            f.seek(at)
            f.write(data)

    def test_a_file_of_something_else(self):
        with open(self.database, "wb") as f:
            f.write(b"listen: 127.0.0.1:8080\n" * 1000)
        self.assertIn("no database of settled", self.refused_untouched())

    def test_a_damaged_head(self):
        self.overwrite(0, b"\xff" * 100)
        self.assertIn("damaged", self.refused_untouched())

    def test_damaged_pages(self):
        size = os.path.getsize(self.database)
        self.overwrite(4096, b"\xa5" * (size - 4096))
        self.refused_untouched()

    def test_a_file_that_was_cut_off(self):
        os.truncate(self.database, os.path.getsize(self.database) // 2 // 4096 * 4096)
        self.refused_untouched()

    def test_a_file_without_content(self):
        os.truncate(self.database, 0)
        self.refused_untouched()

    def test_a_schema_of_a_later_version(self):
        db = sqlite3.connect(self.database)
        db.execute("PRAGMA user_version = 1000")
        db.commit()
        db.close()
        self.assertIn("1000", self.refused_untouched())

    def test_a_start_that_cannot_read_all_unfinished_jobs_sends_none_of_them(self):
        daemon = self.start()
        for _ in range(2):
            self.accept(daemon, "hang")
        self.down.wait(in_flight=2)
        daemon.stop(signal.SIGKILL)
        self.down.wait(in_flight=0)
        db = sqlite3.connect(self.database)
        db.execute("UPDATE batch SET priority = 99 WHERE id = (SELECT max(id) FROM batch)")
        db.commit()
        db.close()
        self.down.clear()
        self.assertIn("cannot read the unfinished batches", self.refused())
        self.assertEqual(self.down.ledger(), [])

    def test_what_is_put_back_serves_again(self):
        with open(self.database, "rb") as f:
            good = f.read()
        self.overwrite(0, b"\xff" * 100)
        self.refused()
        with open(self.database, "wb") as f:
            f.write(good)
        self.assertEqual(self.wait_done(self.start(), self.known).json["outcome"], "succeeded")


class NextProcess(lives.Case):
    """What was accepted is found again, whatever has changed in between."""

    def test_with_another_number_of_shards_all_jobs_are_found(self):
        daemon = self.start(shards=4)
        # A batch belongs to the shard whose connection brought it.
        ids = [self.accept(daemon, "status=429&times=1&retry_after=1", "status=200") for _ in range(24)]
        daemon.stop(signal.SIGKILL)
        for shards in (1, 3):
            daemon = self.start(shards=shards)
            for batch_id in ids:
                self.assertEqual(daemon.get_batch(batch_id).status, 200)
            self.stop(daemon)
        daemon = self.start(shards=2)
        for batch_id in ids:
            batch = self.wait_done(daemon, batch_id).json
            self.assertEqual((batch["outcome"], batch["durability"]), ("succeeded", "disk"))
        # An attempt that was claimed and not sent counts all the same.
        self.assertLessEqual(self.down.stats()["requests"],
                             sum(r["attempts"] for i in ids for r in daemon.get_batch(i).json["results"]))

    def test_a_finished_result_is_the_same_after_a_restart(self):
        daemon = self.start()
        job = self.accept(daemon, "status=200", "status=410", "status=500", metadata={"campaign": "spring"})
        self.wait_done(daemon, job)
        before = daemon.get_batch(job).json
        self.stop(daemon)
        self.assertEqual(self.start().get_batch(job).json, before)

    def test_a_plain_synchronous_result_is_there_after_an_orderly_restart(self):
        daemon = self.start()
        answer = daemon.post(self.batch("status=200", "status=410"))
        self.assertEqual(answer.json["durability"], "memory")
        self.stop(daemon)
        self.assertEqual(self.start().get_batch(answer.headers["Batch-Id"]).json, answer.json)

    def test_a_key_is_known_after_a_restart(self):
        daemon = self.start()
        key = {"Idempotency-Key": '"order-7"'}
        batch = self.batch("status=200")
        first = daemon.post(batch, key)
        self.assertEqual(first.status, 200, first.body)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            daemon.stop(sig)
            daemon = self.start()
            again = daemon.post(batch, key)
            self.assertEqual((again.status, again.headers["Idempotent-Replayed"]), (200, "true"))
            self.assertEqual(again.json["results"], first.json["results"])
        self.assertEqual(daemon.post({**batch, "order": "sequential"}, key).status, 422)
        self.assertEqual(self.down.stats()["requests"], 1)

    def test_jobs_for_a_service_that_is_gone_are_told_of_at_the_start(self):
        daemon = self.start()
        job = self.accept(daemon, "status=429&times=9&retry_after=600", "status=429&times=9&retry_after=600")
        self.down.wait(answered=2)
        self.stop(daemon)
        daemon = self.start(services={"renamed": {"kind": "webhook"}})
        daemon.wait_line("level=warn event=service_missing items=2 ")
        self.assertEqual(daemon.get_batch(job).status, 200)
        self.stop(daemon)

    def test_a_deleted_batch_stays_deleted(self):
        daemon = self.start()
        job = self.accept(daemon, "status=200")
        self.wait_done(daemon, job)
        self.assertEqual(daemon.ask("DELETE", "/v1/batches/" + job).status, 204)
        daemon.stop(signal.SIGKILL)
        self.assertEqual(self.start().get_batch(job).status, 404)


class OrderlyStop(lives.Case):
    """SIGTERM hands jobs to the next process; it settles none of them."""

    def result(self, daemon, job):
        return self.wait_done(daemon, job).json["results"][0]

    def test_what_waits_goes_on_in_the_next_process(self):
        daemon = self.start()
        job = self.accept(daemon, "status=429&times=1&retry_after=1")
        self.down.wait(answered=1)
        daemon.wait_line(rf"event=attempt_done .*batch={job}")
        self.stop(daemon)
        result = self.result(self.start(), job)
        self.assertEqual([a["code"] for a in result["attempt_log"]], ["rate_limited", None])
        self.assertFalse(result["duplicate_risk"])
        first, second = self.down.ledger()
        self.assertGreaterEqual(second["arrived_us"] - first["answered_us"], 1000000)

    def test_what_is_in_flight_may_finish(self):
        held = gate.Held()
        self.addCleanup(held.close)
        daemon = self.start()
        job = daemon.post({"items": [harness.item(0, held.url("a"))]}, lives.ASYNC).headers["Batch-Id"]
        held.wait("a")
        daemon.child.terminate()
        daemon.wait_line("event=draining")
        held.answer("a")
        self.stop(daemon)
        result = self.result(self.start(), job)
        self.assertEqual((result["status"], result["attempts"]), ("succeeded", 1))
        self.assertEqual(held.requests, {}, "it came once more")

    def test_what_does_not_finish_is_repeated_and_says_so(self):
        daemon = self.start(limits={"drain_ms": 100})
        job = self.accept(daemon, "hang&times=1")
        self.down.wait(in_flight=1)
        self.stop(daemon)
        result = self.result(self.start(), job)
        self.assertEqual([a["code"] for a in result["attempt_log"]], ["aborted", None])
        self.assertEqual((result["status"], result["duplicate_risk"]), ("succeeded", True))

    def test_what_does_not_finish_is_not_repeated_under_at_most_once(self):
        daemon = self.start(limits={"drain_ms": 100})
        job = self.accept(daemon, "hang&times=1", delivery="at_most_once")
        self.down.wait(in_flight=1)
        self.stop(daemon)
        result = self.result(self.start(), job)
        self.assertEqual((result["status"], result["stop"], result["attempts"]), ("indeterminate", "maybe_delivered", 1))
        self.assertEqual(self.down.stats()["requests"], 1)


class KilledInFlight(lives.Case):
    """kill -9 with an attempt in flight: interrupted, and then as the delivery says."""

    def killed(self, **more):
        daemon = self.start()
        job = self.accept(daemon, "hang&times=1", **more)
        self.down.wait(in_flight=1)
        daemon.stop(signal.SIGKILL)
        return self.wait_done(self.start(), job).json["results"][0]

    def test_at_least_once_repeats_it_with_the_same_id(self):
        result = self.killed()
        self.assertEqual([a["code"] for a in result["attempt_log"]], ["interrupted", None])
        self.assertEqual((result["status"], result["duplicate_risk"], result["attempts"]), ("succeeded", True, 2))
        self.assertEqual(len({e["webhook_id"] for e in self.down.ledger()}), 1)

    def test_at_most_once_settles_it(self):
        result = self.killed(delivery="at_most_once")
        self.assertEqual((result["status"], result["delivered"], result["error"]["code"], result["stop"]),
                         ("indeterminate", "maybe", "interrupted", "maybe_delivered"))
        self.assertEqual(self.down.stats()["requests"], 1)

    def test_a_keyed_synchronous_batch_ends_as_interrupted_and_its_replay_sends_nothing(self):
        daemon = self.start()
        key, batch = {"Idempotency-Key": "k"}, self.batch("hang")
        sock = daemon.start_post(batch, key)
        self.addCleanup(sock.close)
        self.down.wait(in_flight=1)
        daemon.stop(signal.SIGKILL)
        daemon = self.start()
        kit.until(lambda: daemon.ask("GET", "/v1/batches?state=done").json["batches"], "its end is not kept")
        again = daemon.post(batch, key)
        self.assertEqual((again.status, again.headers["Idempotent-Replayed"]), (207, "true"))
        self.assertEqual((again.json["stop_reason"], again.json["results"][0]["error"]["code"]),
                         ("interrupted", "interrupted"))
        self.assertEqual(self.down.stats()["requests"], 1)

    def test_a_plain_synchronous_batch_cannot_be_sent_again_and_the_reason_is_true(self):
        """Its payloads were never stored: it was not delivered for that."""
        daemon = self.start()
        sock = daemon.start_post(self.batch("hang"))
        self.addCleanup(sock.close)
        self.down.wait(in_flight=1)
        kit.until(lambda: daemon.ask("GET", "/v1/batches").json["batches"], "the note of it is not there")
        batch = self.down.ledger()[0]["webhook_id"].split(".")[0]
        daemon.stop(signal.SIGKILL)
        daemon = self.start()
        self.assertEqual([(r["delivered"], r["attempts"], r["error"]["code"]) for r in self.wait_done(daemon, batch).json["results"]],
                         [("maybe", 1, "interrupted")])
        for body, code in ((b'{"ids":["i0"]}', "validation_failed"), (b'{"select":"include_maybe"}', "nothing_selected")):
            answer = daemon.ask("POST", f"/v1/batches/{batch}/retry", body, {"Content-Type": "application/json"})
            self.assertEqual((answer.status, answer.json["code"]), (422, code))
            detail = answer.json["errors"][0]["detail"] if "errors" in answer.json else answer.json["detail"]
            self.assertIn("not kept, as the batch had no key", detail)
            self.assertNotIn("was delivered", detail)

    def test_on_disconnect_continue_goes_on_as_a_job(self):
        daemon = self.start()
        sock = daemon.start_post(self.batch("hang&times=1", on_disconnect="continue"))
        self.addCleanup(sock.close)
        self.down.wait(in_flight=1)
        daemon.stop(signal.SIGKILL)
        job = self.down.ledger()[0]["webhook_id"].split(".")[0]
        self.assertEqual(self.wait_done(self.start(), job).json["outcome"], "succeeded")


if __name__ == "__main__":
    harness.main()
