"""What happened in an epoch that the kill test is there for: a run in which it
did not happen has shown nothing of it."""

from collections import Counter

from history import owner, refused, taken


def happened(history):
    """How often, by what it was."""
    seen = Counter()
    for s in history.stories:
        seen.update(of_item(history, s))
    there = {owner(b) for b in history.batches.values()}
    for intent in history.intents.values():
        seen.update(of_intent(intent, there))
    seen.update(f"a {a.kind} was confirmed" for a in history.acts if a.status in (200, 202, 204))
    seen["a final result was seen, and something died after"] += sum(
        s.body["state"] == "done" and s.at_us < history.lives[-1].started_us for s in history.sightings)
    return seen


def of_item(history, s):
    lives = [history.life_of(e["arrived_us"]) for e in s.requests]
    if s.code == "interrupted" and s.intent.get("delivery") == "at_most_once" and s.intent.is_job:
        yield "an item at most once was interrupted"
    if s.code == "interrupted" and s.intent.kind == "sync":
        yield "a synchronous batch with a key was interrupted"
    if s.code == "interrupted" and s.intent.kind == "plain":
        yield "a plain synchronous batch was interrupted"
    if sum(taken(e) for e in s.requests) > 1:
        yield "an item was taken twice"
    if s.interruptions and s.interruptions > 1:
        yield "an item was interrupted twice"
    if any(b > a and refused(e) for e, a, b in zip(s.requests, lives, lives[1:])):
        yield "an item waited while something died"
    if s.intent.get("order") == "sequential" and len({*lives}) > 1:
        yield "a sequential batch went on after a death"


def of_intent(intent, there):
    unknown = not any(s.accepted for s in intent.sendings)
    if intent.sendings and unknown and intent.is_job and intent.key is None:
        yield "a job without an answer was there" if intent.name in there else "a job without an answer was not there"
    for before, s in zip(intent.sendings, intent.sendings[1:]):
        if s.replayed and s.body.get("state") == "done":
            yield "a key had its result again" if before.accepted else "a key without an answer had its result"
        elif s.status == 202 and before.accepted:
            yield "a key had its job again"


WANTED = (
    "an item at most once was interrupted", "a synchronous batch with a key was interrupted",
    "a plain synchronous batch was interrupted", "an item was taken twice", "an item was interrupted twice",
    "an item waited while something died", "a sequential batch went on after a death",
    "a job without an answer was there", "a job without an answer was not there", "a key had its result again",
    "a key without an answer had its result", "a key had its job again", "a cancel was confirmed",
    "a retry was confirmed", "a delete was confirmed", "a final result was seen, and something died after")
