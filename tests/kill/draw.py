"""What one epoch of the kill test does, drawn from its seed: lives of the daemon
and how each ends, and the batches that its clients send in each.
"""

import json
import random
from dataclasses import dataclass, field

# Where the program can be told to end itself (base/killpoint.h), and up to the how
# manieth passing of the point.
POINTS = {"before_commit": 40, "after_commit_before_answer": 40, "accepted_before_answer": 10,
          "attempt_started": 80, "result_not_recorded": 80}
LANES = 4                               # services, each a lane of its own
ATTEMPTS = 12                           # more than one item is killed in
STREAM = "application/x-ndjson"
SOON = {"base_ms": 5, "cap_ms": 40}


@dataclass(frozen=True)
class Way:
    """How the downstream treats an item, and what that makes of it: delivered;
    refused, for good or in the end; invalid, and never sent."""

    text: str
    end: str                            # delivered, refused, invalid
    doubt: bool = False                 # its first request may have been delivered, and is never confirmed
    wait_s: int = 0                     # what the first refusal asks for


WAYS = {
    "ok": Way("status=200", "delivered"),
    "slow": Way("status=200&wait_ms=12", "delivered"),
    "busy": Way("status=503&times=2", "delivered"),
    "later": Way("status=429&times=1&retry_after=1", "delivered", wait_s=1),
    "much_later": Way("status=429&times=1&retry_after=3", "delivered", wait_s=3),     # its job leaves memory
    "unsure": Way("status=500&times=1", "delivered", doubt=True),
    "lost": Way("close&times=1", "delivered", doubt=True),
    "gone": Way("status=410", "refused"),
    "limited": Way("status=429", "refused"),
    "invalid": Way("", "invalid"),       # under best_effort alone
}
DRAWN = ("ok",) * 6 + ("slow",) * 6 + ("busy",) * 4 + ("later",) * 2 + ("limited",) * 4 \
    + ("much_later", "unsure", "lost", "gone")


@dataclass
class Item:
    tag: str                            # its id, and in its URL
    way: str
    service: str
    payload: str                        # as it arrives
    shared: bool = False                # it is the batch's, and not sent with the item
    dedupe_key: str = None

    @property
    def to(self):
        return "" if self.way == "invalid" else f"tag={self.tag}&{WAYS[self.way].text}"


@dataclass
class Sending:
    """One time that a client sent a batch, and what it learned."""

    at_us: int
    status: int = None                  # None: no answer came
    headers: dict = field(default_factory=dict)
    body: object = None
    answered_us: int = None

    @property
    def batch_id(self):
        return self.headers.get("Batch-Id")

    @property
    def accepted(self):
        return self.status in (200, 202, 207) and self.batch_id is not None

    @property
    def replayed(self):
        return self.headers.get("Idempotent-Replayed") == "true"


@dataclass
class Intent:
    """A batch as its client means to send it, written down before it does."""

    name: str
    kind: str                           # job, sync, plain, continue
    items: list
    policy: dict
    headers: dict
    key: str = None
    leaves: bool = False                # it does not wait for the answer
    payload: str = "null"               # of the items that share it
    sendings: list = field(default_factory=list)

    @property
    def durable(self):
        return self.kind != "plain"

    @property
    def is_job(self):
        return self.kind in ("job", "continue")

    def get(self, name, default=None):
        return self.policy.get(name, default)

    @property
    def one_at_a_time(self):
        return self.get("order") == "sequential" or self.get("concurrency") == 1

    def body(self):
        """Payloads stand there as they are to arrive, byte for byte."""
        head = json.dumps({**self.policy, "metadata": {"intent": self.name}})[1:-1]
        items = ", ".join(_item_text(i) for i in self.items)
        return f'{{{head}, "payload": {self.payload}, "items": [{items}]}}'.encode()


def _item_text(item):
    members = {"id": item.tag, "to": item.to, "service": item.service}
    if item.dedupe_key is not None:
        members["dedupe_key"] = item.dedupe_key
    text = json.dumps(members)
    return text if item.shared else text[:-1] + f', "payload": {item.payload}}}'


@dataclass
class Cycle:
    shards: int
    resident_bytes: int                 # None: the default
    intents: list
    acts: list                          # what is done beside: peek, cancel, delete, retry
    end: str                            # sent, answers, requests, lines, point, term, drain
    n: int = 0
    point: str = None


def draw_item(rng, tag, quick, common):
    way = rng.choice(DRAWN)
    if quick and WAYS[way].wait_s > rng.choice((0, 0, 1)):
        way = "slow"
    padding = "x" * rng.choice((0, 0, 0, 0, 0, 300, 20000))
    item = Item(tag, way, f"s{rng.randrange(LANES)}", f'{{"of":"{tag}","x":1.10,"p":"{padding}"}}')
    if rng.random() < 0.3:
        item.payload, item.shared = common, True
    if rng.random() < 0.2:
        item.dedupe_key = f"order-7:{tag}"
    return item


def draw_intent(rng, name):
    kind = rng.choices(("job", "sync", "plain", "continue"), (10, 4, 2, 2))[0]
    common = f'{{"all of":"{name}","x":12345678901234567890}}'
    items = [draw_item(rng, f"{name}i{n}", kind != "job", common) for n in range(rng.choice((1, 2, 5, 12)))]
    policy = {"deadline_ms": 600000, "retry": {"max_attempts": rng.choice((3, ATTEMPTS, ATTEMPTS)), **SOON}}
    if rng.random() < 0.3:
        policy["delivery"] = "at_most_once"
    if rng.random() < 0.3:
        policy["contract"] = rng.choice(("all_or_nothing", "best_effort"))
    if policy.get("contract") == "best_effort" and rng.random() < 0.5:
        rng.choice(items).way = "invalid"
    if rng.random() < 0.2:
        policy["order"] = "sequential"
    elif rng.random() < 0.4:
        policy["concurrency"] = rng.choice((1, 2, 4))
    if rng.random() < 0.5:
        policy["include"] = ["attempts"]
    if kind == "continue":
        policy["on_disconnect"] = "continue"
    headers, key = {}, None
    if kind == "job":
        headers["Prefer"] = rng.choice(("respond-async", "respond-async", "respond-async, wait=1"))
    if kind == "sync" or (kind == "job" and rng.random() < 0.4):
        key = f"key-{name}"
        headers["Idempotency-Key"] = f'"{key}"'
    if kind != "job" and rng.random() < 0.3:
        headers["Accept"] = STREAM
    leaves = kind == "continue" and rng.random() < 0.5
    return Intent(name, kind, items, policy, headers, key, leaves, common)


def draw_end(rng, points):
    """How a life ends, as (end, n, point). Each of `points` has its turn, and rather sooner than later."""
    ends = ["sent", "answers", "answers", "requests", "requests", "requests", "lines", "term"]
    end = rng.choice(ends + ["point"] * 5 if points else ends)
    if end == "point":
        points.append(points.pop(0))
        return end, min(rng.randint(1, POINTS[points[-1]]) for _ in range(2)), points[-1]
    return end, {"sent": rng.randint(1, 12), "answers": rng.randint(1, 12), "requests": rng.randint(1, 100),
                 "lines": rng.randint(1, 200), "term": rng.randint(1, 60)}[end], None


def draw_epoch(rng, epoch, cycles, points):
    """So many lives that end badly, and a last one that drains."""
    drawn, n = [], 0
    for _ in range(cycles):
        intents = []
        for _ in range(rng.randint(6, 16)):
            intents.append(draw_intent(rng, f"e{epoch}b{n}"))
            n += 1
        acts = rng.choices(("peek", "cancel", "delete", "retry"), (4, 1, 4, 8), k=rng.randint(4, 10))
        shards = rng.choice((1, 2, 3, 5))
        drawn.append(Cycle(shards, rng.choice((None, None, 65536)), intents, acts, *draw_end(rng, points)))
    drawn.append(Cycle(rng.choice((1, 2, 4)), None, [], [], "drain"))
    return drawn


def draw(seed, cycles, points, per_epoch=12):
    """Epochs of at most so many cycles each; `points`: this build has kill points."""
    rng = random.Random(seed)
    points = sorted(POINTS) if points else []
    left, epochs = cycles, []
    while left > 0:
        take = min(left, per_epoch)
        epochs.append(draw_epoch(rng, len(epochs), take, points))
        left -= take
    return epochs
