#!/usr/bin/python3
"""The kill test: clients that write down what they send, a downstream that writes
down what it gets, and a daemon that is killed in between, again and again. What
all three know is compared, item by item.

test_kill.py [--cycles N] [--seed S] [--points NAME,...] [--expect-complaint RULE,...]

Prints TAP: a case for each rule of the judge. --expect-complaint is for builds
with a planted defect: one of those rules has to complain, and that is success.
"""

import argparse
import collections
import itertools
import json
import os
import sys
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "functional"))

import coverage
import draw
import judge
from world import World

ENOUGH = 60
MOST_SHOWN = 5
WIDTH = 400


def options():
    p = argparse.ArgumentParser()
    p.add_argument("--cycles", type=int, default=int(os.environ.get("SETTLED_KILL_CYCLES", "60")))
    p.add_argument("--seed", type=int, default=int(os.environ.get("SETTLED_KILL_SEED", "1")))
    p.add_argument("--points", action=argparse.BooleanOptionalAction, default=False,
                   help="the build has kill points")
    p.add_argument("--expect-complaint", default="", metavar="RULE,...")
    return p.parse_args()


def tell(complaints, history):
    for name, text in complaints[:MOST_SHOWN]:
        print(f"# {name}: " + text[:10 * WIDTH].replace("\n", "\n# "))
        for line in itertools.islice(judge.evidence(history, text), MOST_SHOWN * 4):
            print(f"#     {line[:WIDTH]}")
    for n, life in enumerate(history.lives):
        print(f"# life {n}: {life.started_us}..{life.died_us} {life.end} {life.status}")


def run(o, world, seen):
    """All complaints by rule, until the first epoch that has any."""
    begun, epochs = time.monotonic(), draw.draw(o.seed, o.cycles, o.points)
    for n, cycles in enumerate(epochs):
        history = world.run_epoch(cycles)
        complaints = judge.judge(history)
        seen.update(coverage.happened(history))
        print(f"# epoch {n + 1} of {len(epochs)}: {len(history.lives)} lives, {len(history.batches)} batches, "
              f"{len(history.ledger)} requests, {len(complaints)} complaints, {time.monotonic() - begun:.1f} s",
              flush=True)
        if complaints:
            if not o.expect_complaint:
                tell(complaints, history)
            return dict(complaints)
    return {}


def main():
    o = options()
    print("TAP version 13")
    print(f"# {o.cycles} cycles, --seed {o.seed}", flush=True)
    world, seen = World(o.seed), collections.Counter()
    try:
        found = run(o, world, seen)
    finally:
        world.close()
    for what in sorted(seen):
        print(f"# {seen[what]:6} times: {what}")
    print(f"# {world.lives} lives; they ended by {json.dumps(world.ways)}; points {json.dumps(world.reached)}")
    if o.expect_complaint:
        wanted = o.expect_complaint.split(",")
        cases = [(f"the defect is found by {' or '.join(wanted)}", any(w in found for w in wanted))]
    else:
        cases = [(r.__name__, r.__name__ not in found) for r in judge.RULES]
        # A failure ends the run early, and a short one may miss much.
        if o.cycles >= ENOUGH and not found:
            cases += [(what, seen[what] > 0) for what in coverage.WANTED]
            cases += [(f"{p} was reached", p in world.reached) for p in draw.POINTS if o.points]
    for n, (name, good) in enumerate(cases, 1):
        print(f"{'ok' if good else 'not ok'} {n} - {name}")
    print(f"1..{len(cases)}")
    return 0 if all(good for _, good in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
