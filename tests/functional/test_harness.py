"""The tests' own runner."""

import unittest

import harness


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


if __name__ == "__main__":
    harness.main()
