"""The tests' own runner."""

import contextlib
import io
import os
import signal
import tempfile
import unittest

import harness
import kit


class Overriding(unittest.TestCase):
    def test_a_helper_that_takes_the_place_of_unittests_own_is_found(self):
        class Base(unittest.TestCase):
            maxDiff = None

            def fail(self, path):
                """As a helper may be named that makes a downstream fail."""

        class Sound(unittest.TestCase):
            def setUp(self):
                """A test's own."""

            def fail_at(self, path):
                """Another name."""

        class Derived(Base, Sound):
            pass

        self.assertEqual((harness.overridden(Derived), harness.overridden(Sound)), (["Base.fail"], []))


class Reading(unittest.TestCase):
    def test_who_reads_late_misses_nothing_and_knows_how_much_there_was(self):
        with tempfile.TemporaryDirectory() as folder:
            written = os.path.join(folder, "written")
            process = harness.Process(["sh", "-c", 'seq 100000; touch "$0"; kill -STOP $$', written])
            self.addCleanup(process.stop, signal.SIGKILL)
            with process.changed:        # nobody reads meanwhile
                kit.until(lambda: os.path.exists(written), "there is room for all of it")
            self.assertEqual(process.mark(), 100000)


class Reporting(unittest.TestCase):
    def told(self, text):
        process = harness.Process(["sh", "-c", 'printf "$0"; exit 9', text])
        process.child.wait(harness.LIMIT_S)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(process.stop(), 9)
        return out.getvalue()

    def test_a_sanitizers_report_goes_to_the_tests_output(self):
        for begin in ("==7== Invalid read", "=================================================================", "a.c:7: runtime error: b"):
            self.assertEqual(self.told(f"ts=1 first\\n{begin}\\nlast\\n"), f"# {begin}\n# last\n")
        self.assertEqual(self.told("ts=1 first\\nlast\\n"), "")


if __name__ == "__main__":
    harness.main()
