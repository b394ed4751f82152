"""Property tests of the contract's invariants: random batches, faults and
disconnects against the real daemon, judged by the ledger of its downstream.

Each seed is a plan (plan.py) that is run (rig.py) and judged (invariants.py).
  SETTLED_PROPERTY_SEEDS=N   how many; the default fits into continuous integration
  SETTLED_PROPERTY_FIRST=N   the first of them; together with SEEDS=1, one again
"""

import http.client
import os
import re

import harness
import invariants
import plan
import rig

SEEDS = int(os.environ.get("SETTLED_PROPERTY_SEEDS", "300"))
FIRST = int(os.environ.get("SETTLED_PROPERTY_FIRST", "1"))
SHARDS = (1, 2, 3)


def tell_batch(batch, complaints):
    """What is known of one batch, and of those of its items that are complained of."""
    p = batch.plan
    text = [f"plan of {p.tag}: {p.policy} stream={p.stream} leave={p.leave}", f"log: {batch.done}",
            f"request: {p.body[:2000]!r}"]
    if batch.final is not None:
        text.append(f"result: { {k: v for k, v in batch.final.items() if k != 'results'} }")
    named = [i for i in p.items if any(i.id in complaint for _, _, complaint in complaints)]
    for item in (named or p.items)[:5]:
        text.append(f"  {item}"[:700])
        text += [f"    {a}" for a in batch.attempts.get(item.id, [])]
        for entry in batch.entries.get(item.tag, []):
            kept = {k: v for k, v in entry.items() if k not in ("headers", "traceparent", "method", "content_type")}
            text.append(f"    {kept}"[:700])
        text += [f"    {r}" for r in (batch.final or {}).get("results", []) if r["id"] == item.id]
    return text


def tell(seed, shards, record, complaints):
    """All that is needed to understand a failure, and to see it again."""
    text = [f"seed {seed} with {shards} shards"]
    for name, batch, complaint in complaints[:10]:
        text.append(f"  {name}: {batch.plan.tag + ': ' if batch else ''}{complaint}"[:1500])
    accused = [b for b in record.batches if any(b is c[1] for c in complaints)]
    for batch in accused[:2] or record.batches:
        text += tell_batch(batch, [c for c in complaints if c[1] is batch])
    return "\n".join([*text, again(seed)])


def again(seed):
    return ("again: SETTLED_PROPERTY_FIRST=%d SETTLED_PROPERTY_SEEDS=1 SETTLED_BIN=%s DOWNSTREAM_BIN=%s "
            "/usr/bin/python3 tests/functional/test_properties.py"
            % (seed, " ".join(harness.SETTLED), harness.DOWNSTREAM))


class Properties(harness.unittest.TestCase):
    maxDiff = None

    def settle_seeds(self, shards):
        seeds = [s for s in range(FIRST, FIRST + SEEDS) if SHARDS[s % len(SHARDS)] == shards]
        if not seeds:
            self.skipTest("no seed has this number of shards")
        self.settle_all(rig.Rig(shards), seeds)

    def settle_all(self, r, seeds):
        try:
            for seed in seeds:
                self.settle(r, seed)
        finally:
            status = r.stop()
        log = r.settled.text()
        self.assertEqual((status, re.findall(r".*(?:Sanitizer|runtime error).*", log)), (0, []), log[-5000:])

    def settle(self, r, seed):
        drawn = plan.draw(seed, r.down.url, r.shards)
        try:
            record = r.run(drawn)
        except (OSError, http.client.HTTPException, AssertionError) as e:
            self.fail(f"seed {seed} with {r.shards} shards: {e!r}\n{again(seed)}\n"
                      f"the log ends:\n{r.settled.text()[-8000:]}")
        complaints = invariants.judge(record)
        if complaints:
            self.fail(tell(seed, r.shards, record, complaints))

    def test_every_invariant_holds_where_downstreams_are_protected(self):
        """By breakers, rates, retry budgets and pauses, which the other daemons have not."""
        r = rig.Rig(2, protected=True)
        self.settle_all(r, range(FIRST, FIRST + max(SEEDS // 3, 1)))
        self.assertRegex(r.settled.text(), "event=attempt_refused")

    def test_every_invariant_holds_on_one_shard(self):
        self.settle_seeds(1)

    def test_every_invariant_holds_on_two_shards(self):
        self.settle_seeds(2)

    def test_every_invariant_holds_on_three_shards(self):
        self.settle_seeds(3)


if __name__ == "__main__":
    harness.main()
