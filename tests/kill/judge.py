"""The judge of the kill test: what must hold of every epoch, whatever was killed
when. Each rule is a function that yields complaints about a history.
"""

import re
from collections import Counter

from history import owner, refused, tag_of, taken
from draw import WAYS

RULES = []
STATUSES = ("succeeded", "failed", "indeterminate", "not_attempted")
DELIVERED = ("no", "maybe", "yes")


def rule(function):
    RULES.append(function)
    return function


def judge(history):
    """All complaints, as [(name of the rule, text)]."""
    return [(check.__name__, text) for check in RULES for text in check(history)]


def evidence(history, text):
    """What is known of the items that a complaint names, and of their batches."""
    named = set(re.findall(r"\w+", text))
    for s in history.stories:
        if s.item.tag in named or s.batch["id"] in named:
            yield (f"{s.item.tag}: {s.intent.kind} {s.item.way} {s.intent.policy} in {s.batch['id']}, "
                   f"{s.batch['stop_reason']}, {s.batch['durability']}: {s.result}")
            for e in s.requests:
                yield (f"{s.item.tag}: life {history.life_of(e['arrived_us'])}: {e['arrived_us']}..{e['answered_us']} "
                       f"request {e['n']}, answered {e['answered']}")
    for intent in history.intents.values():
        if intent.name in named or any(s.batch_id in named for s in intent.sendings):
            for s in intent.sendings:
                yield (f"{intent.name}: life {history.life_of(s.at_us)}: {s.at_us}..{s.answered_us} sent: "
                       f"{s.status} {s.batch_id} {s.headers.get('Idempotent-Replayed')}")


def answers(history):
    """Each sending that was answered with a batch."""
    return [(intent, s) for intent in history.intents.values() for s in intent.sendings if s.accepted]


def deleted(history, batch_id):
    """When somebody asked for a batch to be forgotten, and whether that was confirmed."""
    acts = [a for a in history.acts if a.kind == "delete" and a.batch_id == batch_id]
    return acts, any(a.status == 204 for a in acts)


# ---- what was promised is there ----

@rule
def what_was_acknowledged_is_there(history):
    """A 202, and any answer to a batch that is durable, survives."""
    known = {s.batch_id: f"{intent.name}, answered {s.status}" for intent, s in answers(history) if intent.durable}
    known.update({a.body["id"]: f"a retry of {a.batch_id}" for a in history.acts
                  if a.kind == "retry" and a.status == 202})
    known.update({s.batch_id: "shown as on disk" for s in history.sightings if s.body["durability"] == "disk"})
    for batch_id, what in known.items():
        if history.last.get(batch_id) != 200 and not deleted(history, batch_id)[0]:
            yield f"{batch_id} ({what}) is lost: GET answers {history.last.get(batch_id)}"


@rule
def every_batch_comes_to_its_end(history):
    for batch in history.batches.values():
        if batch["state"] != "done" or batch["counts"]["pending"] or batch["outcome"] is None:
            waiting = [r["id"] for r in batch["results"] if r["status"] in ("pending", "running")]
            yield f"{batch['id']} ({owner(batch)}) is {batch['state']}, and waits for {waiting}"


@rule
def a_batch_is_there_wholly(history):
    for batch in history.batches.values():
        intent = history.intents.get(owner(batch))
        if intent is None:
            yield f"{batch['id']}: nobody sent it"
            continue
        have = [r["id"] for r in batch["results"]]
        want = [i.tag for i in intent.items]
        if batch.get("retry_of"):
            want = [tag for tag in want if tag in have]
        if have != want or [r["index"] for r in batch["results"]] != list(range(len(have))):
            yield f"{batch['id']} has {have}, {intent.name} is {want}"


@rule
def counts_add_up(history):
    for batch in history.batches.values():
        have = Counter(r["status"] for r in batch["results"])
        want = {"total": len(batch["results"]), "pending": 0, **{s: have[s] for s in STATUSES}}
        if batch["state"] == "done" and batch["counts"] != want:
            yield f"{batch['id']}: counts {batch['counts']}, results {want}"


@rule
def what_is_durable_says_so(history):
    for batch in history.batches.values():
        intent = history.intents.get(owner(batch))
        if intent is not None and intent.durable and batch["durability"] != "disk":
            yield f"{batch['id']} ({intent.kind}) has durability {batch['durability']}"
    for intent, s in answers(history):
        if intent.durable and s.body.get("durability") != "disk":
            yield f"{intent.name} ({intent.kind}) was answered with durability {s.body.get('durability')}"


@rule
def a_final_result_never_changes(history):
    """Of one that was in memory alone, less may be known after a death than was answered before."""
    for seen in history.sightings:
        if seen.body["durability"] != "disk":
            continue
        batch = history.batches.get(seen.batch_id)
        now = {r["index"]: r for r in batch["results"]} if batch else {}
        for r in seen.body["results"]:
            if r["status"] in STATUSES and r["index"] in now and now[r["index"]] != r:
                yield f"{seen.batch_id}: {r} was final, and is now {now[r['index']]}"


@rule
def what_is_deleted_stays_away(history):
    for batch_id in {a.batch_id for a in history.acts if a.kind == "delete"}:
        if deleted(history, batch_id)[1] and history.last.get(batch_id) != 404:
            yield f"{batch_id} was deleted, and GET answers {history.last.get(batch_id)}"


@rule
def a_life_ends_as_it_was_told(history):
    """By the signal, and not by a fault of its own a moment before."""
    for n, life in enumerate(history.lives):
        if life.status != (0 if life.end in ("term", "drain") else -9):
            yield f"life {n}, {life.end}, ended with {life.status}: {life.said}"


# ---- nothing else is sent ----

@rule
def a_batch_is_accepted_once(history):
    """Of each intent there is one batch at most, by whatever trace it left."""
    traces = {}
    for batch in history.batches.values():
        if not batch.get("retry_of"):
            traces.setdefault(owner(batch), set()).add(batch["id"])
    for intent, s in answers(history):
        traces.setdefault(intent.name, set()).add(s.batch_id)
    for entry in history.ledger:
        tag, trace = tag_of(entry), (entry["webhook_id"] or "").rsplit(".", 1)
        if trace[-1] == tag and history.intent_of(tag) is not None:
            traces.setdefault(history.intent_of(tag).name, set()).add(trace[0])
    for name, ids in traces.items():
        if len(ids) > 1:
            yield f"{name} became {sorted(ids)}"


@rule
def nothing_unasked_is_sent(history):
    """A batch that is not there was not sent. One that is in memory alone may go with the process."""
    told = {id(e) for story in history.stories for e in story.requests}
    for entry in history.ledger:
        intent = history.intent_of(tag_of(entry) or "")
        if intent is None:
            yield f"request {entry['n']} for {entry['path']} is of no batch"
        elif id(entry) not in told and intent.durable:
            yield f"request {entry['n']} for {tag_of(entry)}, which is in no batch, or was over before"


def cut_off(s):
    """Of a batch in memory alone nothing but its start is known after a death."""
    return s.intent.kind == "plain" and s.batch["stop_reason"] == "interrupted"


@rule
def requests_never_outnumber_attempts(history):
    for s in history.stories:
        if len(s.requests) > s.result["attempts"] and not cut_off(s):
            yield f"{s.item.tag}: {len(s.requests)} requests, {s.result['attempts']} attempts"


@rule
def attempts_are_bounded(history):
    for s in history.stories:
        if s.result["attempts"] > s.intent.policy["retry"]["max_attempts"]:
            yield f"{s.item.tag}: {s.result['attempts']} attempts"


@rule
def attempts_without_a_request_were_interrupted(history):
    """The downstream is always there, so an attempt that it did not see was killed or ended from outside."""
    for s in history.stories:
        log = s.result.get("attempt_log")
        if log is not None and s.batch["state"] == "done":
            excused = sum(a["code"] in ("interrupted", "aborted") for a in log)
            if len(log) - len(s.requests) > excused:
                yield f"{s.item.tag}: {len(s.requests)} requests, attempts {[a['code'] for a in log]}"


@rule
def duplicates_are_explained(history):
    """A request after one that may have been delivered shows as duplicate_risk. If the one before was answered,
    the process ended between them."""
    for s in history.stories:
        for a, b in zip(s.requests, s.requests[1:]):
            if refused(a) or cut_off(s):
                continue
            if not s.result["duplicate_risk"]:
                yield f"{s.item.tag}: request {b['n']} came after {a['n']}, without duplicate_risk"
            if taken(a) and not history.deaths_between(a["arrived_us"], b["arrived_us"]):
                yield f"{s.item.tag}: request {a['n']} was taken, and {b['n']} followed in the same life"


@rule
def at_most_once_means_it(history):
    for s in history.stories:
        if s.intent.get("delivery") == "at_most_once":
            for a, b in zip(s.requests, s.requests[1:]):
                if not refused(a):
                    yield f"{s.item.tag}: request {b['n']} after {a['n']}, which was answered {a['answered']}"


@rule
def an_interruption_needs_a_death(history):
    for s in history.stories:
        there = (s.interruptions or 0) + (s.code == "interrupted")
        if there and len(history.lives) < 2:
            yield f"{s.item.tag} was interrupted, and nothing died"
        if s.interruptions is not None and s.interruptions > len(history.lives) - 1:
            yield f"{s.item.tag} was interrupted {s.interruptions} times in {len(history.lives)} lives"


@rule
def a_waiting_item_waits_on(history):
    """Retry-After holds over a restart, by the wall clock, to a millisecond or two. It is counted from the arrival of
    the refused request, for nobody knows when its answer left. An attempt that was interrupted knows of no answer."""
    for s in history.stories:
        for a, b in zip(s.requests, s.requests[1:]):
            asked = 1000000 * WAYS[s.item.way].wait_s - 2000 if a["answered"] == 429 else 0
            if asked > 0 and b["arrived_us"] - a["arrived_us"] < asked and not s.result["duplicate_risk"]:
                yield (f"{s.item.tag}: request {b['n']} came {b['arrived_us'] - a['arrived_us']} us after "
                       f"{a['n']}, which asked for {asked}")


# ---- what is sent is right ----

@rule
def every_attempt_has_the_same_webhook_id(history):
    for s in history.stories:
        want = s.item.dedupe_key or f"{s.batch.get('retry_of') or s.batch['id']}.{s.item.tag}"
        for entry in s.requests:
            if entry["webhook_id"] != want:
                yield f"{s.item.tag}: request {entry['n']} has webhook-id {entry['webhook_id']}, not {want}"


@rule
def payloads_arrive_as_they_were_sent(history):
    for s in history.stories:
        for entry in s.requests:
            if entry["complete"] and entry["body"] != s.item.payload.encode():
                yield f"{s.item.tag}: request {entry['n']} has {entry['body']!r}"


@rule
def sequential_items_come_in_order(history):
    for batch_id, stories in by_batch(history):
        if stories[0].intent.get("order") == "sequential":
            order = sorted((e["arrived_us"], s.result["index"]) for s in stories for e in s.requests)
            if [i for _, i in order] != sorted(i for _, i in order):
                yield f"{batch_id}: items came as {[i for _, i in order]}"


@rule
def all_or_nothing_stops_at_a_failure(history):
    """Of one attempt at a time: after a refusal nothing else comes in that life, and after the last one nothing at
    all. Between them a death may have been quicker than the record."""
    for batch_id, stories in by_batch(history):
        intent = stories[0].intent
        if intent.get("contract") != "all_or_nothing" or not intent.one_at_a_time:
            continue
        for s in stories:
            refusals = [e for e in s.requests if e["answered"] == 410]
            for refusal in refusals:
                life, last = history.life_of(refusal["arrived_us"]), refusal is refusals[-1]
                after = [e["n"] for o in stories if o is not s for e in o.requests
                         if e["arrived_us"] > refusal["answered_us"]
                         and (last or history.life_of(e["arrived_us"]) == life)]
                if after:
                    yield f"{batch_id}: {s.item.tag} was refused, and then came requests {after}"


def by_batch(history):
    found = {}
    for s in history.stories:
        found.setdefault(s.batch["id"], []).append(s)
    return found.items()


# ---- results are true ----

@rule
def delivered_is_what_the_downstream_saw(history):
    for s in history.stories:
        delivered = s.result["delivered"]
        if delivered == "no" and not all(refused(e) for e in s.requests):
            yield f"{s.item.tag}: delivered no, but requests were answered {[e['answered'] for e in s.requests]}"
        if delivered == "yes" and not any(taken(e) for e in s.requests):
            yield f"{s.item.tag}: delivered yes, but requests were answered {[e['answered'] for e in s.requests]}"
        want = "succeeded" if delivered == "yes" else "indeterminate" if delivered == "maybe" else s.result["status"]
        if s.batch["state"] == "done" and (s.result["ok"] != (delivered == "yes") or s.result["status"] != want):
            yield f"{s.item.tag}: {s.result}"


@rule
def a_job_ends_as_its_downstream_wills(history):
    """Whatever died: a job that nobody cancelled goes on until each item has its own end."""
    cancelled = {a.batch_id for a in history.acts if a.kind == "cancel"}
    for s in history.stories:
        if not s.intent.is_job or s.batch["id"] in cancelled or s.batch["state"] != "done":
            continue
        reasons = {"completed", "first_failure"} if s.intent.get("contract") == "all_or_nothing" else {"completed"}
        if s.batch["stop_reason"] not in reasons:
            yield f"{s.batch['id']}, a job, ended by {s.batch['stop_reason']}"
        elif s.batch["stop_reason"] == "completed" and not plausible_end(history, s):
            yield f"{s.item.tag}, which is {s.item.way}, ended as {s.result}"


def plausible_end(history, s):
    r, way = s.result, WAYS[s.item.way]
    exhausted = r["attempts"] == s.intent.policy["retry"]["max_attempts"] and r.get("stop") == "max_attempts"
    if way.end == "invalid":
        return s.code == "invalid_item" and r["attempts"] == 0 and not s.requests
    if s.intent.get("delivery") == "at_most_once" and r["delivered"] == "maybe":
        killed = s.code == "interrupted" and len(history.lives) > 1
        return r.get("stop") == "maybe_delivered" and (way.doubt or killed)
    if way.end == "delivered":
        return r["ok"] or exhausted
    return exhausted if s.item.way == "limited" else s.code == "recipient_gone" or exhausted


@rule
def a_synchronous_batch_does_not_outlive_its_process(history):
    for s in history.stories:
        if s.intent.is_job or s.batch.get("retry_of"):
            continue
        lives = {history.life_of(e["arrived_us"]) for e in s.requests}
        if len(lives) > 1:
            yield f"{s.item.tag} was sent in lives {sorted(lives)}"


@rule
def only_a_death_interrupts_a_synchronous_batch(history):
    for intent, sending in answers(history):
        if not intent.is_job and not sending.replayed and (sending.body or {}).get("stop_reason") == "interrupted":
            yield f"{intent.name} was answered as interrupted, by the process that ran it"
    for batch in history.batches.values():
        intent = history.intents.get(owner(batch))
        if intent is None or intent.is_job or batch.get("retry_of") or batch["state"] != "done":
            continue
        if batch["stop_reason"] not in ("completed", "first_failure", "interrupted", "disconnected", "shutdown"):
            yield f"{batch['id']} ({intent.kind}) ended by {batch['stop_reason']}"


# ---- keys ----

@rule
def a_key_gives_the_same_answer(history):
    """The second sending finds the batch of the first, and its result, if there was one."""
    for intent in history.intents.values():
        finals = [s.body["results"] for s in intent.sendings if s.accepted and s.body and s.body.get("state") == "done"]
        if any(f != finals[0] for f in finals):
            yield f"{intent.name}: its answers differ: {finals}"
        if intent.key is not None and intent.sendings and not intent.sendings[-1].accepted:
            yield f"{intent.name}: its last sending had no answer: {intent.sendings[-1]}"
        for n, s in enumerate(intent.sendings):
            # The batch of a process that died may not have been ended yet.
            code = (s.body or {}).get("code")
            later = code == "shutting_down" or (code == "in_progress" and n > 0 and not intent.is_job)
            if s.status is not None and s.status not in (200, 202, 207) and not later:
                yield f"{intent.name}: sending {n} was answered {s.status}: {s.body}"
            elif s.accepted and n > 0 and intent.sendings[n - 1].accepted and s.status != 202 and not s.replayed:
                yield f"{intent.name}: sending {n} was no replay, and the one before had been answered"


@rule
def a_replay_sends_nothing(history):
    """Nothing of a batch whose final result was replayed arrives after the replay was asked for."""
    retried = {a.batch_id for a in history.acts if a.kind == "retry"}
    for intent in history.intents.values():
        for n, s in enumerate(intent.sendings):
            if not s.accepted or not s.replayed or s.body.get("state") != "done":
                continue
            late = [e["n"] for st in history.stories if st.batch["id"] == s.batch_id
                    for e in st.requests if e["arrived_us"] > s.answered_us]
            if late:
                yield f"{intent.name}: requests {late} after sending {n} was answered with the result"
            if not intent.is_job and s.batch_id not in retried:
                late = [e["n"] for e in history.ledger if history.intent_of(tag_of(e) or "") is intent
                        and s.at_us < e["arrived_us"] < s.answered_us]
                if late:
                    yield f"{intent.name}: sending {n} was a replay, and sent {late}"


# ---- what clients did to batches ----

@rule
def what_is_cancelled_is_not_sent(history):
    for act in history.acts:
        if act.kind != "cancel" or act.status != 200 or act.body["state"] != "done":
            continue
        late = [e["n"] for s in history.stories if s.batch["id"] == act.batch_id
                for e in s.requests if e["arrived_us"] > act.answered_us]
        if late:
            yield f"{act.batch_id} was cancelled, and then came {late}"


@rule
def a_safe_retry_takes_what_was_not_delivered(history):
    for batch in history.batches.values():
        first = history.batches.get(batch.get("retry_of"))
        if first is None:
            continue
        safe = {r["id"] for r in first["results"] if r["retryable"] and r["delivered"] == "no"}
        have = {r["id"] for r in batch["results"]}
        if have != safe:
            yield f"{batch['id']} retries {sorted(have)}, and {sorted(safe)} could be"
