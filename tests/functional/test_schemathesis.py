"""Schemathesis (https://schemathesis.io) asks the real daemon whatever the API's
description allows, and what it does not: no answer is undocumented, none is a 500.

SETTLED_SCHEMATHESIS_EXAMPLES says how many requests of each kind (tests/run.sh --examples)."""

import hashlib
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

import callers
import harness

PINS = Path(__file__).with_name("schemathesis.txt")
PLACE = Path(harness.SETTLED[-1]).resolve().parents[2] / "schemathesis"
EXAMPLES = os.environ.get("SETTLED_SCHEMATHESIS_EXAMPLES", "10")
# Not these: which services there are, what was accepted before and the limits decide, too, what is accepted, and
# no schema can say so. That what is refused says which of the three it was is for test_requests.py.
WITHOUT = "positive_data_acceptance"


def install():
    """Schemathesis in an environment of its own in the build directory, made once for each list of pins."""
    mark = PLACE / hashlib.sha256(PINS.read_bytes()).hexdigest()
    if mark.exists():
        return
    for command in ([sys.executable, "-m", "venv", "--clear", str(PLACE)],
                    [str(PLACE / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--requirement", str(PINS)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 0:
            continue
        why = f"{' '.join(command)} failed; is the package index reachable, and python3-venv installed?\n{done.stdout}"
        if os.environ.get("CI") == "true":
            raise AssertionError(why)
        raise unittest.SkipTest(why.splitlines()[0])
    mark.touch()


class Case(harness.Case):
    """One service takes any recipient, so that most of what fits the description is settled."""

    config = {"log": {"level": "info"}, "limits": {"event_comment_ms": 50, "deadline_ms": 2000}}

    @classmethod
    def setUpClass(cls):
        install()
        super().setUpClass()

    @classmethod
    def start_daemon(cls):
        services = {"push": {"kind": "http", "url": cls.down.url + "/ok/{to}"}}
        return harness.Daemon({**cls.config, "services": services})

    def run_schemathesis(self, *args):
        done = subprocess.run(
            [str(PLACE / "bin/schemathesis"), "run", f"http://127.0.0.1:{self.settled.port}/openapi.json",
             "--exclude-checks", WITHOUT, "--max-examples", EXAMPLES, "--seed", "1", "--generation-database", "none",
             "--request-timeout", str(harness.LIMIT_S), "--continue-on-failure", "--no-color", "--warnings", "off", *args],
            cwd=self.settled.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"})
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def check(self, *args):
        """That it found nothing, and was not idle either."""
        said = self.run_schemathesis(*args)
        described = self.settled.ask("GET", "/openapi.json").json
        operations = sum(len([m for m in path if m in ("get", "post", "delete")]) for path in described["paths"].values())
        self.assertEqual(int(re.search(r"^ *Tested: (\d+)", said, re.M)[1]), operations, said)
        self.assertGreater(int(re.search(r"^ *(\d+) generated", said, re.M)[1]), 10 * operations, said)

    def settled_some(self):
        """Since this test began."""
        return any("outcome=succeeded" in line for line in self.settled.lines[self.log_start:] if line and "event=batch_done" in line)


class Open(Case):
    def test_every_answer_is_documented_and_none_is_a_server_error(self):
        self.check()
        self.assertTrue(self.settled_some(), "nothing was ever settled")


class Keys(Case):
    """With quotas that some requests exceed."""

    config = {**Case.config, "tenants": {"shop": {"batches_per_second": 20}},
              "auth": {"keys": callers.keys_config({"key-of-a-tenant": "shop", "key-of-an-admin": None})}}

    def test_nor_with_a_tenants_key(self):
        self.check("--header", "Authorization: Bearer key-of-a-tenant")
        self.assertTrue(self.settled_some(), "nothing was ever settled")

    def test_nor_with_an_admin_key(self):
        self.check("--header", "Authorization: Bearer key-of-an-admin")
        self.assertFalse(self.settled_some(), "an admin key has sent something")

    def test_nor_without_a_key(self):
        self.check()


if __name__ == "__main__":
    harness.main()
