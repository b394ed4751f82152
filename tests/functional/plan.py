"""What one seed does: batches, how the downstream treats each item, and what
becomes of the clients. All of it is drawn from random.Random(seed), so the same
seed is the same plan.
"""

import json
import random
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import quote

# Statuses by what the contract makes of them, so that each is drawn often enough.
SUCCESSES = (200, 200, 200, 200, 201, 202, 204)
REFUSALS = (301, 302, 304, 307, 400, 401, 403, 404, 405, 407, 409, 410, 413, 417, 418, 422, 429, 429, 451)
DOUBTS = (408, 500, 500, 501, 502, 503, 503, 503, 504, 599, 600, 999)
SERVICES = ("webhook", "webhook", "signed", "push", "push", "narrow")
GUARDED = "http://10.0.0.1/never"
REFUSED = "http://127.0.0.1:1/never"


@dataclass(frozen=True)
class Step:
    """How the downstream treats one request."""

    text: str                           # in the downstream's own words
    status: Optional[int] = None        # the final status line that it sends, if any
    ends: bool = True                   # its answer is whole, and one send() of the downstream
    names_message: bool = False         # the answer's body is {"id": "m-N"}, N from the ledger
    retry_after: Optional[int] = None   # seconds


@dataclass
class Item:
    tag: str                            # in its URL, unique over all seeds
    id: str
    service: str
    steps: list                         # the n-th request gets the n-th, or the last
    to: str = ""
    script: list = field(default_factory=list)
    payload: Optional[bytes] = None     # None: the batch's
    dedupe_key: Optional[str] = None
    ttl_ms: Optional[int] = None
    valid: bool = True

    def step(self, n):
        """The one for the n-th request, from 0."""
        return self.steps[min(n, len(self.steps) - 1)]


@dataclass
class Leave:
    how: str                            # fin, rst, half
    when: str                           # now, headers, lines, requests, answered, gone
    n: int = 1
    pipelined: bool = False


@dataclass
class Batch:
    tag: str
    policy: dict
    items: list
    payload: bytes
    service: Optional[str]
    stream: bool = False
    leave: Optional[Leave] = None
    glance: bool = False                # look at it by GET while it runs
    body: bytes = b""

    def get(self, name):
        defaults = {"contract": "partial_success", "order": "any", "delivery": "at_least_once",
                    "on_disconnect": "abort", "include": []}
        return self.policy.get(name, defaults.get(name))

    @property
    def concurrency(self):
        return 1 if self.get("order") == "sequential" else self.policy.get("concurrency", 64)

    @property
    def refused(self):
        """Validation lets no part of it through."""
        return self.get("contract") != "best_effort" and not all(i.valid for i in self.items)

    def payload_of(self, item):
        return self.payload if item.payload is None else item.payload


@dataclass
class Plan:
    seed: int
    batches: list


# ---- the downstream's behaviour ----

def _answer(rng, statuses, extra="", **more):
    status = rng.choice(statuses)
    return Step(f"status={status}{extra}", status, names_message=not extra and status in (200, 201, 202), **more)


def _any_answer(rng):
    return _answer(rng, rng.choice((SUCCESSES, REFUSALS, DOUBTS)))


def _waiting(rng):
    step = _any_answer(rng)
    return Step(f"{step.text}&wait_ms={rng.choice((1, 3, 10, 30, 80))}", step.status,
                names_message=step.names_message)


def _retry_after(rng):
    seconds = rng.choice((0, 0, 1, 3600))
    return _answer(rng, (429, 503), f"&retry_after={seconds}", retry_after=seconds)


def _silent(rng):
    return Step(rng.choice(("hang", "hang=before", "reset", "reset=before", "close", "close=before",
                            "broken=status", "status=103", "interim=101")))


def _silent_later(rng):
    return Step(rng.choice(("reset", "close")) + f"&wait_ms={rng.choice((1, 5, 20))}")


def _broken(rng):
    return _answer(rng, (200, 200, 410, 429, 500), "&broken=" + rng.choice(("headers", "length", "chunk")))


def _interim(rng):
    return _answer(rng, (200, 410, 503), f"&interim={rng.choice((100, 102, 103))}")


def _with_body(rng):
    bodies = ("body=" + quote('{"id":"'), "body=" + quote('{"id":17}'), "body=%00", "body=[]", "body_bytes=300")
    return _answer(rng, (200, 429, 503), "&" + rng.choice(bodies))


def _endless(rng):
    return _answer(rng, (200, 429, 500), "&endless=" + rng.choice(("headers", "body")), ends=False)


def _large(rng):
    return _answer(rng, (200, 503), f"&body_bytes={rng.choice((60000, 70000, 400000))}", ends=False)


def _dripping(rng):
    return _answer(rng, (200, 503), f"&drip_ms={rng.choice((1, 1, 5))}&drip_bytes={rng.choice((20, 50))}", ends=False)


def _not_kept(rng):
    return _answer(rng, (200, 429, 503), "&keep=" + rng.choice(("no", "lie")))


KINDS = ((30, _any_answer), (8, _waiting), (6, _retry_after), (16, _silent), (4, _silent_later), (6, _broken),
         (4, _interim), (4, _with_body), (4, _endless), (3, _large), (4, _dripping), (6, _not_kept))


def draw_step(rng):
    return rng.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])[0](rng)


def _draw_behaviour(rng, item):
    """Fill in steps and, for the downstream, how they are asked for; returns the
    parameters for the item's URL."""
    first = draw_step(rng)
    form = rng.random()
    if form < 0.35:
        item.steps = [_answer(rng, SUCCESSES)]
    elif form < 0.65 or (form >= 0.85 and item.service in ("push", "narrow")):
        item.steps = [first]
    elif form < 0.85:
        times, then = rng.randint(1, 3), rng.choice((200, 200, 200, 410, 503))
        item.steps = [first] * times + [Step(f"status={then}", then, names_message=then == 200)]
        return f"{first.text}&times={times}&then={then}"
    else:
        item.steps = [first] + [draw_step(rng) for _ in range(rng.randint(1, 3))]
        item.script = [step.text for step in item.steps]
        return "status=999"
    return item.steps[0].text


# ---- payloads ----

NUMBERS = ("0", "-0", "1.10", "1E400", "12345678901234567890", "1e-7", "-1.0E+2", "0.1000")
STRINGS = ('""', '"\\u00e9\\/\\n"', '"é😀"', '"\\ud83d\\ude00"', '"\\u0000"', '"a\\tb\\"c\\\\"', '"{[\\u007d"',
           '"\u2028"')


def draw_json(rng, depth=0):
    """JSON text with everything that a careless forwarder would change."""
    def space():
        return rng.choice(("", "", "", " ", "\n", "\t ", "\r\n"))

    kind = rng.random()
    if depth > 3 or kind < 0.5:
        return rng.choice(rng.choice((NUMBERS, STRINGS, ("true", "false", "null"))))
    parts = []
    for i in range(rng.randint(0, 4)):
        key = json.dumps(rng.choice(("k", "é", "a.b", " ")) + str(i), ensure_ascii=rng.random() < 0.5)
        name = f"{key}{space()}:" if kind < 0.8 else ""
        parts.append(space() + name + space() + draw_json(rng, depth + 1) + space())
    inside = ",".join(parts) or space()
    return "{" + inside + "}" if kind < 0.8 else "[" + inside + "]"


def _draw_payload(rng):
    if rng.random() < 0.01:
        # More than the sockets' buffers hold, so that sending it can be cut.
        return json.dumps("y" * 3000000).encode()
    if rng.random() < 0.04:
        return json.dumps("x" * rng.choice((3000, 20000, 200000))).encode()
    return draw_json(rng).encode()


# ---- items and batches ----

def _draw_item(rng, tag, down_url):
    item = Item(tag, tag + rng.choice(("", "", ".a", ":b@c", "/d+e-f_g")), rng.choice(SERVICES), [])
    parameters = f"tag={tag}&" + _draw_behaviour(rng, item)
    where = rng.random()
    if item.service in ("push", "narrow"):
        item.to = parameters + rng.choice(("", "&tag=é ü", "&tag=%25?#"))
    elif where < 0.03:
        item.to, item.steps, item.script = rng.choice((GUARDED, REFUSED)), [Step("nothing")], []
    else:
        item.to = f"{down_url}/{item.service}/{tag}?{parameters}"
    if rng.random() < 0.8:
        item.payload = _draw_payload(rng)
    if rng.random() < 0.2:
        item.dedupe_key = rng.choice(("order-7:", 'a"b\\', "%41")) + rng.choice((tag, "shared"))
    if rng.random() < 0.15:
        item.ttl_ms = rng.choice((1, 5, 20, 60, 200, 5000))
    return item


def _draw_policy(rng):
    base_ms = rng.choice((0, 1, 5, 15))
    policy = {"deadline_ms": rng.choice((30, 100, 300, 700, 1500)),
              "attempt_timeout_ms": rng.choice((10, 25, 50, 100)),
              "retry": {"max_attempts": rng.randint(1, 5), "base_ms": base_ms,
                        "cap_ms": max(base_ms, rng.choice((0, 2, 30)))}}
    for name, values, chance in (("contract", ("all_or_nothing", "partial_success", "best_effort"), 0.8),
                                 ("delivery", ("at_least_once", "at_most_once"), 0.6),
                                 ("include", (["attempts"],), 0.5),
                                 ("on_disconnect", ("abort", "continue"), 0.4),
                                 ("metadata", ({}, {"campaign": "é \"x\""}), 0.2)):
        if rng.random() < chance:
            policy[name] = rng.choice(values)
    if rng.random() < 0.3:
        policy["order"] = "sequential"
    elif rng.random() < 0.6:
        policy["concurrency"] = rng.choice((1, 2, 3, 5, 8))
    return policy


def _draw_leave(rng, batch, shards):
    """A client that leaves in a moment that can be waited for. The moment may be
    another batch's, and so this one's request unread. After a reset only the
    order of one shard's queue can tell when it has been."""
    moments = ["requests", "requests", "answered", "gone", "now"]
    moments += ["headers", "lines", "lines"] if batch.stream else []
    leave = Leave(rng.choice(("fin", "fin", "rst", "half")), rng.choice(moments), rng.randint(1, 5),
                  rng.random() < 0.2)
    if shards > 1 and leave.when not in ("headers", "lines") and leave.how == "rst":
        leave.how = "fin"
    if batch.get("on_disconnect") == "abort" and rng.random() < 0.6:
        # Nothing but the disconnect ends what hangs here.
        batch.policy.update(deadline_ms=60000, attempt_timeout_ms=rng.choice((30, 60000)))
    return leave


def _draw_batch(rng, tag, down_url, shards):
    most = rng.choice((1, 4, 8, 30))
    items = [_draw_item(rng, f"{tag}i{i}", down_url) for i in range(rng.randint(1, most))]
    batch = Batch(tag, _draw_policy(rng), items, draw_json(rng).encode(), rng.choice((None, *SERVICES)))
    batch.stream = rng.random() < 0.3
    batch.glance = batch.stream and rng.random() < 0.5
    if rng.random() < 0.12:
        bad = rng.choice(items)
        bad.valid, bad.to, bad.script = False, "", []
    elif rng.random() < 0.35:
        batch.leave = _draw_leave(rng, batch, shards)
    batch.body = encode(batch, rng)
    return batch


def _object(members, rng):
    rng.shuffle(members)
    return b"{" + b", ".join(json.dumps(name).encode() + b": " + value for name, value in members) + b"}"


def _encode_item(batch, item, rng):
    def text(value):
        return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()

    members = [("id", text(item.id)), ("to", text(item.to))]
    if item.service != batch.service:
        members.append(("service", text(item.service)))
    for name, value in (("dedupe_key", item.dedupe_key), ("ttl_ms", item.ttl_ms)):
        if value is not None:
            members.append((name, text(value)))
    if item.payload is not None:
        members.append(("payload", item.payload))
    return _object(members, rng)


def encode(batch, rng):
    """The request's body. By hand, since json.dumps has payloads of its own mind."""
    members = [(name, json.dumps(value).encode()) for name, value in batch.policy.items()]
    members.append(("payload", batch.payload))
    members.append(("items", b"[" + b",".join(_encode_item(batch, i, rng) for i in batch.items) + b"]"))
    if batch.service is not None:
        members.append(("service", json.dumps(batch.service).encode()))
    return _object(members, rng)


def draw(seed, down_url, shards):
    rng = random.Random(seed)
    count = rng.choice((1, 1, 2, 3, 5))
    return Plan(seed, [_draw_batch(rng, f"s{seed}b{b}", down_url, shards) for b in range(count)])
