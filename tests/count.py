#!/usr/bin/python3
"""Count test cases from what really ran, and say so in one last line.

count.py log BUILD [--ci]   the cases of BUILD's last `meson test`
count.py sum FILE...        add up the last lines "N passed, N failed", and say again what failed

Meson forgives what we do not: a TAP test without a plan, with no cases at all,
or with a failure marked as known is fine for it. Here a binary whose cases do
not match its plan, or that meson calls bad without a failed case (a crash, a
timeout, a sanitizer's report), counts as one failed case more.
"""
import itertools
import json
import re
import sys
from pathlib import Path

SHOWN = 40  # lines of what a failed case says, the last ones
CASE = re.compile(r"^(not )?ok\b\s*(\d+)?\s*-?\s*([^#]*)(?:#\s*(\w+)\S*\s*(.*))?$")
PLAN = re.compile(r"^1\.\.(\d+)(?:\s*#\s*skip\S*\s*(.*))?$", re.IGNORECASE)
TOTAL = re.compile(r"^(\d+) passed, (\d+) failed$")


class Tally:
    def __init__(self):
        self.passed = 0
        self.failures = []  # texts
        self.skips = []

    def passes(self):
        self.passed += 1

    def fails(self, where, why):
        self.failures.append(f"{where}: {why}")

    def skips_one(self, where, why):
        self.skips.append(f"{where}: {why or 'no reason given'}")


def said(lines, at):
    """What stands as comments around the line of a case that failed, indented."""
    def comments(around):
        return list(itertools.takewhile(lambda line: line.startswith("#"), around))

    told = comments(reversed(lines[:at]))[::-1] + comments(lines[at + 1:])
    return "".join("\n    " + line for line in told[-SHOWN:])


def count_tap(tally, test, text):
    """Count one TAP test's cases; returns True if any of them failed."""
    plan, seen, failed = None, 0, False
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if m := PLAN.match(line):
            if plan is not None:
                tally.fails(test, "it printed two plans")
                failed = True
            plan = int(m[1])
            if plan == 0 and m[2] is not None:
                tally.skips_one(test, m[2])
                return False
        elif line.startswith("Bail out!"):
            tally.fails(test, line)
            failed = True
        elif m := CASE.match(line):
            seen += 1
            name = f"{test}: {m[3].strip() or m[2]}"
            if (m[4] or "").lower() == "skip":
                tally.skips_one(name, m[5])
            elif m[1]:
                tally.fails(name, "not ok" + said(lines, at))
                failed = True
            else:
                tally.passes()
    if plan != seen or seen == 0:
        tally.fails(test, f"it planned {'nothing' if plan is None else plan} and ran {seen} cases")
        failed = True
    return failed


def count_log(build):
    tally = Tally()
    tests = json.loads((build / "meson-info/intro-tests.json").read_text())
    tap = {t["name"] for t in tests if t["protocol"] == "tap"}
    # With a wrapper meson puts its name in: testlog-valgrind.json.
    log = max((build / "meson-logs").glob("testlog*.json"), key=lambda p: p.stat().st_mtime)
    for line in log.read_text().splitlines():
        run = json.loads(line)
        name = run["name"]
        bad = run["result"] not in ("OK", "SKIP", "EXPECTEDFAIL")
        known = False
        if name.split(" / ")[-1] in tap:
            known = count_tap(tally, name, run.get("stdout", ""))
        elif run["result"] == "SKIP":
            tally.skips_one(name, "exit status 77")
        elif not bad:
            tally.passes()
        if bad and not known:
            tally.fails(name, f"{run['result'].lower()}, exit status {run['returncode']}")
    return tally


def finish(passed, failed):
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def main_log(build, ci):
    tally = count_log(Path(build))
    for text in tally.failures:
        print(f"FAILED  {text}")
    for text in tally.skips:
        print(f"SKIPPED {text}")
    failed = len(tally.failures) + (len(tally.skips) if ci else 0)
    if tally.skips and ci:
        print("skipped cases count as failed here: everything a test needs has to be installed")
    if tally.passed + failed == 0:
        print("FAILED  no test case ran: check the suite names")
        failed = 1
    return finish(tally.passed, failed)


def print_failed(stage, lines):
    """A stage's failures, with what they say, so that the end of a long log has them all."""
    shown = False
    for line in lines:
        shown = line.startswith("FAILED ") or (shown and line.startswith("    "))
        if shown:
            print(f"{Path(stage).name}: {line}" if line.startswith("FAILED ") else line)


def main_sum(files):
    passed = failed = 0
    for name in files:
        lines = Path(name).read_text(errors="replace").splitlines()
        print_failed(name, lines)
        m = TOTAL.match(lines[-1]) if lines else None
        if m:
            passed, failed = passed + int(m[1]), failed + int(m[2])
        else:
            print(f"FAILED  {name}: ended without a count")
            failed += 1
    return finish(passed, failed)


if __name__ == "__main__":
    if len(sys.argv) >= 3 and sys.argv[1] == "log":
        sys.exit(main_log(sys.argv[2], "--ci" in sys.argv[3:]))
    if len(sys.argv) >= 3 and sys.argv[1] == "sum":
        sys.exit(main_sum(sys.argv[2:]))
    sys.exit(__doc__)
