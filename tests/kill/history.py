"""What is known of one epoch: what the clients wrote down, what the downstream
did, when the daemon lived, and what it said in the end. The judge reads it.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

TAG = re.compile(r"\btag=(\w+)")


@dataclass
class Life:
    started_us: int
    died_us: int = None                 # and all that it sent has been read by the downstream
    end: str = ""
    status: int = None                  # of the process: -9 where it was killed
    said: str = ""                      # its last lines


@dataclass
class Act:
    """A client's request about a batch that it knows."""

    kind: str                           # cancel, delete, retry
    batch_id: str
    at_us: int
    status: int = None                  # None: no answer came
    body: object = None
    answered_us: int = None


@dataclass
class Sighting:
    """A batch with its results, as a client saw it before the end."""

    batch_id: str
    at_us: int
    body: dict


@dataclass
class History:
    intents: dict                       # by name
    lives: list = field(default_factory=list)
    acts: list = field(default_factory=list)
    sightings: list = field(default_factory=list)
    ledger: list = field(default_factory=list)
    batches: dict = field(default_factory=dict)      # in the end, by id
    last: dict = field(default_factory=dict)         # and the status of each GET, by id, of all ids ever seen

    def __post_init__(self):
        self._stories = None

    def deaths_between(self, from_us, to_us):
        """Ends of the process, other than the last, within this time."""
        return sum(from_us <= life.died_us <= to_us for life in self.lives[:-1])

    def life_of(self, at_us):
        """Number of the life in which something arrived at the downstream."""
        return sum(life.started_us <= at_us for life in self.lives) - 1

    def intent_of(self, tag):
        return self.intents.get(tag.rsplit("i", 1)[0])

    @property
    def stories(self):
        """One for each item of each batch."""
        if self._stories is None:
            self._stories = list(_stories(self))
        return self._stories


@dataclass
class Story:
    """An item of a batch: its result, and the requests that were made for it."""

    intent: object
    item: object
    batch: dict
    result: dict
    requests: list

    @property
    def code(self):
        return self.result.get("error", {}).get("code")

    @property
    def interruptions(self):
        """Attempts that a death ended, by their records; None: there are none to look at."""
        log = self.result.get("attempt_log")
        return None if log is None else sum(a["code"] == "interrupted" for a in log)


def tag_of(entry):
    found = TAG.search(unquote(entry["path"] + "?" + (entry["query"] or "")))
    return found[1] if found else None


def owner(batch):
    """The name of the intent that a batch comes from."""
    ids = [r["id"] for r in batch.get("results", [])]
    return ids[0].rsplit("i", 1)[0] if ids else batch.get("metadata", {}).get("intent")


def refused(entry):
    """The downstream said that it did not take it; 503 means so here."""
    return entry["answered"] in (410, 429, 503)


def taken(entry):
    return entry["answered"] is not None and 200 <= entry["answered"] < 300


def _stories(history):
    by_tag = {}
    for entry in history.ledger:
        by_tag.setdefault(tag_of(entry), []).append(entry)
    retried = {}
    for act in history.acts:
        if act.kind == "retry" and act.status in (202, None):
            retried[act.batch_id] = min(act.at_us, retried.get(act.batch_id, act.at_us))
    for batch in history.batches.values():
        intent = history.intents.get(owner(batch))
        if intent is None:
            continue
        plans = {i.tag: i for i in intent.items}
        # A batch is retried after its end, so time tells whose a request is.
        first, last = 0, retried.get(batch["id"], float("inf"))
        if batch.get("retry_of"):
            first, last = retried.get(batch["retry_of"], 0), float("inf")
        for result in batch["results"]:
            if result["id"] in plans:
                own = [e for e in by_tag.get(result["id"], []) if first <= e["arrived_us"] < last]
                yield Story(intent, plans[result["id"]], batch, result, own)
