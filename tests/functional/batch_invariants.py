"""What must hold of a batch with its results, of its answer, and of all batches
of a seed together.
"""

import re
from collections import Counter
from datetime import datetime

from model import DELIVERED, OWN_STOPS, items_of, of, outcome_of

RESULT_INVARIANTS = []
BATCH_INVARIANTS = []
SEED_INVARIANTS = []


# ---- one batch, with its results ----

@of(RESULT_INVARIANTS)
def one_result_per_item_in_order(record, items):
    have = [(r["index"], r["id"]) for r in record.final["results"]]
    want = [(n, item.id) for n, item in enumerate(record.plan.items)]
    if have != want:
        yield f"results {have}, items {want}"


@of(RESULT_INVARIANTS)
def counts_add_up(record, items):
    counts = dict(record.final["counts"])
    have = Counter(r["status"] for r in record.final["results"])
    want = {"total": len(record.plan.items), "pending": 0}
    want.update({s: have[s] for s in ("succeeded", "failed", "indeterminate", "not_attempted")})
    if counts != want:
        yield f"counts {counts}, results {want}"


@of(RESULT_INVARIANTS)
def outcome_is_arithmetic_on_the_counts(record, items):
    want = outcome_of(record.final["counts"])
    if record.final["state"] != "done" or record.final["outcome"] != want:
        yield f"state {record.final['state']}, outcome {record.final['outcome']}, not {want}"


@of(RESULT_INVARIANTS)
def stop_reason_is_plausible(record, items):
    reason, plan = record.final["stop_reason"], record.plan
    stops = {i.result.get("stop") for i in items if i.result}
    failed = [i for i in items if i.result and not i.result["ok"]]
    possible = {
        "completed": not stops & {"first_failure", "disconnected"},
        "first_failure": plan.get("contract") == "all_or_nothing" and bool(stops & OWN_STOPS),
        "disconnected": record.left and plan.get("on_disconnect") == "abort",
        "deadline": record.final["duration_ms"] >= plan.policy["deadline_ms"],
    }
    if not possible.get(reason, False):
        yield f"stop_reason {reason}, stops {stops}"
    if reason == "completed" and plan.get("contract") == "all_or_nothing" and failed:
        yield f"all_or_nothing was completed, though {failed[0].plan.id} failed"


@of(RESULT_INVARIANTS)
def all_or_nothing_starts_nothing_after_a_failure(record, items):
    """Of one attempt at a time, the log and the ledger give the order: nothing
    comes after an attempt that its item's failure was decided by. A deadline or
    a ttl may end a later wait, in which others had their turn."""
    if record.plan.get("contract") != "all_or_nothing" or record.plan.concurrency > 1:
        return
    for item in items:
        r = item.result
        if r is None or r["ok"] or not item.attempts or r["stop"] not in OWN_STOPS - {"deadline", "ttl"}:
            continue
        ended = item.attempts[-1].ended_us
        later = [f"{o.plan.id} attempt {a.n}" for o in items for a in o.attempts if a.started_us > ended]
        if item.concluded:
            last = item.requests[-1].entry["answered_us"]
            later += [f"{o.plan.id} request {q.n}" for o in items if o.concluded for q in o.requests
                      if q.entry["arrived_us"] > last]
        if later:
            yield f"{item.plan.id} failed, and then came {later}"


@of(RESULT_INVARIANTS)
def sequential_attempts_never_overlap(record, items):
    if record.plan.get("order") != "sequential":
        return
    attempts = [(n, a) for n, item in enumerate(items) for a in item.attempts]
    for (n, a), (m, b) in zip(attempts, attempts[1:]):
        if b.started_us < a.ended_us:
            yield f"{items[m].plan.id} attempt {b.n} began before {items[n].plan.id} attempt {a.n} ended"
    requests = [(n, r.entry) for n, item in enumerate(items) if item.concluded for r in item.requests]
    for (n, a), (m, b) in zip(requests, requests[1:]):
        if b["arrived_us"] < a["answered_us"]:
            yield f"{items[m].plan.id} request {b['n']} came before {items[n].plan.id} request {a['n']} was answered"


def most_at_once(intervals):
    """An end comes before a start at the same time."""
    edges = sorted([(end, -1) for _, end in intervals] + [(start, 1) for start, _ in intervals])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


@of(RESULT_INVARIANTS)
def concurrency_bounds_the_attempts(record, items):
    by_log = most_at_once([(a.started_us, a.ended_us) for i in items for a in i.attempts])
    by_ledger = most_at_once([(r.entry["arrived_us"], r.entry["answered_us"])
                              for i in items if i.concluded for r in i.requests])
    if max(by_log, by_ledger) > record.plan.concurrency:
        yield f"{by_log} attempts, {by_ledger} requests at once, of {record.plan.concurrency}"


@of(RESULT_INVARIANTS)
def nothing_starts_after_the_end(record, items):
    """From the instant when the end was seen, none in the same thread. Another
    shard closes its eyes when it has read the gate, so there, only what runs
    between two instructions can be later."""
    ended = int(record.done["ended_at_us"]) or int(record.done["done_at_us"])
    if record.final["stop_reason"] != "completed" and int(record.done["ended_at_us"]) == 0:
        yield "the log does not say when it was ended"
    slack = 0 if record.shards == 1 else 100
    for item in items:
        for a in item.attempts:
            if a.started_us > ended + slack:
                yield f"{item.plan.id} attempt {a.n} started {a.started_us - ended} us after the end"


@of(RESULT_INVARIANTS)
def the_log_agrees_with_the_results(record, items):
    if record.n_done != 1:
        yield f"{record.n_done} lines batch_done"
        return
    final, done = record.final, record.done
    want = {"outcome": final["outcome"], "stop_reason": final["stop_reason"], "items": final["counts"]["total"],
            "attempts": sum(r["attempts"] for r in final["results"]), "duration_ms": final["duration_ms"]}
    want.update({s: final["counts"][s] for s in ("succeeded", "failed", "indeterminate", "not_attempted")})
    have = {name: done[name] for name in want}
    if have != {name: str(value) for name, value in want.items()}:
        yield f"the log has {have}, the result {want}"


@of(RESULT_INVARIANTS)
def times_are_in_order(record, items):
    created, finished = (datetime.fromisoformat(record.final[n].replace("Z", "+00:00"))
                         for n in ("created_at", "finished_at"))
    if finished < created or record.final["duration_ms"] < 0:
        yield f"created {created}, finished {finished}, duration {record.final['duration_ms']} ms"


@of(RESULT_INVARIANTS)
def a_glance_while_it_runs_is_true(record, items):
    g = record.glance
    if g is None:
        return
    if [r["id"] for r in g["results"]] != [i.id for i in record.plan.items]:
        yield f"its results are of {[r['id'] for r in g['results']]}"
    have = Counter(r["status"] for r in g["results"])
    counts = {**g["counts"], "pending": have["pending"] + have["running"]}
    if counts != g["counts"] or sum(v for k, v in counts.items() if k != "total") != counts["total"]:
        yield f"counts {g['counts']}, results {dict(have)}"
    if (g["outcome"] is None) != (g["state"] != "done"):
        yield f"state {g['state']}, outcome {g['outcome']}"
    for now, end in zip(g["results"], record.final["results"]):
        if now["ok"] is None:
            grown = DELIVERED.index(now["delivered"]) <= DELIVERED.index(end["delivered"])
            if now["status"] not in ("pending", "running") or now["attempts"] > end["attempts"] or not grown:
                yield f"before {now}, in the end {end}"
        elif now != end:
            yield f"final as {now}, in the end {end}"


# ---- one batch, with its answer ----

@of(BATCH_INVARIANTS)
def a_refused_batch_sends_nothing(record):
    if not record.plan.refused:
        return
    if (record.status, record.id) != (422, None) and not record.left:
        yield f"status {record.status}, id {record.id}"
    if record.entries or record.attempts:
        yield f"it was refused, but sent: {list(record.entries)}"


@of(BATCH_INVARIANTS)
def no_error_status_once_an_attempt_started(record):
    started = bool(record.entries) or bool(record.attempts)
    if started and record.status is not None and record.status >= 400:
        yield f"status {record.status} after an attempt"


@of(BATCH_INVARIANTS)
def every_accepted_batch_is_known_afterwards(record):
    if record.plan.refused or (record.id is None and record.left and not record.entries):
        return
    if record.final is None or record.final.get("id") != record.id:
        yield f"GET of {record.id} gives {record.final_raw[:300]!r}"


@of(BATCH_INVARIANTS)
def the_answer_is_what_get_gives(record):
    if record.answer is not None and record.lines is None and not record.plan.refused \
            and record.answer != record.final_raw:
        yield f"POST gave {record.answer[:2000]!r}, GET {record.final_raw[:2000]!r}"


@of(BATCH_INVARIANTS)
def status_is_200_only_if_every_item_succeeded(record):
    if record.status is None or record.plan.refused or record.final is None:
        return
    if record.plan.stream:
        want = 200
    else:
        want = 200 if all(r["ok"] for r in record.final["results"]) else 207
        if record.headers.get("Batch-Outcome") != record.final["outcome"]:
            yield f"Batch-Outcome {record.headers.get('Batch-Outcome')}, outcome {record.final['outcome']}"
    if record.status != want or record.headers.get("Location") != f"/v1/batches/{record.id}":
        yield f"status {record.status}, not {want}; Location {record.headers.get('Location')}"


@of(BATCH_INVARIANTS)
def stream_lines_are_the_results(record):
    if record.lines is None or record.final is None:
        return
    whole = not record.left
    lines = [line for line in record.lines if "batch" not in line]
    results = {r["id"]: r for r in record.final["results"]}
    for line in lines:
        if line != results.get(line["id"]):
            yield f"a line {line}, the result {results.get(line['id'])}"
    names = [line["id"] for line in lines]
    if len(set(names)) != len(names) or (whole and set(names) != set(results)):
        yield f"lines for {names}"
    last = {"batch": {k: v for k, v in record.final.items() if k != "results"}}
    if (whole or len(lines) < len(record.lines)) and record.lines[-1] != last:
        yield f"the last line {record.lines[-1]}, not {last}"


@of(BATCH_INVARIANTS)
def nothing_arrives_after_the_end(record):
    """All batches were done and the downstream had read what was sent before."""
    for entry in record.late:
        yield f"request {entry['n']} arrived later than every end"


# ---- all batches of a seed ----

@of(SEED_INVARIANTS)
def every_request_belongs_to_an_item(seed):
    for entry in seed.strays:
        yield f"the ledger has {entry['method']} {entry['path']}?{entry['query']}"
    if seed.malformed:
        yield f"{seed.malformed} requests that the downstream could not read"


@of(SEED_INVARIANTS)
def no_batch_comes_from_nowhere(seed):
    for batch_id in seed.unknown:
        yield f"the log has {batch_id}, which nobody sent"


def difference(seed, name):
    """{labels: difference} of one counter."""
    found = Counter()
    for series, value in seed.after.items():
        m = re.fullmatch(name + r"\{(.*)\}", series)
        if m:
            labels = tuple(re.findall(r'="([^"]*)"', m[1]))
            found[labels] += int(value - seed.before.get(series, 0))
    return +found


@of(SEED_INVARIANTS)
def metrics_agree_with_the_results(seed):
    done = [(r, items_of(r)) for r in seed.batches if r.final and "results" in r.final]
    results = [x for r, _ in done for x in r.final["results"]]
    want = {
        "settled_batches_total": Counter((r.final["outcome"],) for r, _ in done),
        "settled_aborts_total": Counter((r.final["stop_reason"],) for r, _ in done
                                        if r.final["stop_reason"] != "completed"),
        "settled_items_total": Counter((x["status"], x.get("error", {}).get("code", "ok")) for x in results),
        "settled_attempts_total": Counter((i.plan.service, a.code or "ok") for _, items in done
                                          for i in items for a in i.attempts),
        "settled_attempts_refused_total": +Counter({(i.plan.service,): sum(o.refused for _, items in done for o in items
                                                                           if o.plan.service == i.plan.service)
                                                    for _, items in done for i in items}),
        "settled_requests_refused_total": Counter(("validation_failed",) for r in seed.batches
                                                  if r.plan.refused and r.status is not None),
    }
    for name, expected in want.items():
        have = difference(seed, name)
        if have != expected:
            yield f"{name} grew by {dict(have)}, the results say {dict(expected)}"


@of(SEED_INVARIANTS)
def gauges_return_to_zero(seed):
    for name, value in seed.after.items():
        if re.match("settled_(requests_parked|items_queued|attempts_in_flight)", name) and value != 0:
            yield f"{name} {value}"


@of(SEED_INVARIANTS)
def file_descriptors_return_to_where_they_were(seed):
    before, now = seed.fds
    if now != before:
        yield f"{now} open, {before} in the beginning"
