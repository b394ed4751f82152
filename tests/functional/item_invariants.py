"""What must hold of each item: its result against its attempts in the log and
its requests in the downstream's ledger.
"""

import base64
import hashlib
import hmac
from collections import Counter

import rig
from model import (BEFORE_SENDING, DELIVERED, FINAL, OUTSIDE_STOPS, RETRYABLE, UNANSWERED, UNATTEMPTED, is_2xx, of,
                   status_of, verdict)

ITEM_INVARIANTS = []


@of(ITEM_INVARIANTS)
def ok_means_delivered_and_no_error(record, item):
    r = item.result
    if not (r["ok"] == (r["delivered"] == "yes") == ("error" not in r)):
        yield f"ok {r['ok']}, delivered {r['delivered']}, error {r.get('error')}"


@of(ITEM_INVARIANTS)
def without_an_attempt_nothing_is_delivered(record, item):
    r = item.result
    if r["attempts"] == 0 and (r["delivered"] != "no" or item.code not in UNATTEMPTED):
        yield f"no attempts, but delivered {r['delivered']} and code {item.code}"


@of(ITEM_INVARIANTS)
def a_refusal_is_told_where_nothing_else_was_tried(record, item):
    refused_alone = item.refused > 0 and item.result["attempts"] == 0
    if item.code == "circuit_open" and not refused_alone or item.code == "not_attempted" and refused_alone:
        yield f"code {item.code} after {item.result['attempts']} attempts and {item.refused} refused tries"


@of(ITEM_INVARIANTS)
def delivered_is_the_maximum_over_attempts(record, item):
    want = max((a.delivered for a in item.attempts), key=DELIVERED.index, default="no")
    if item.result["delivered"] != want:
        yield f"delivered {item.result['delivered']}, but its attempts say {want}"


@of(ITEM_INVARIANTS)
def duplicate_risk_means_a_repeat_after_a_maybe(record, item):
    # Of an attempt that had no answer and surely was not delivered, no byte was sent.
    sent = [a.delivered != "no" or a.http_status is not None for a in item.attempts]
    risk = any(a.delivered != "no" and any(sent[n:]) for n, a in enumerate(item.attempts, 1))
    if item.result["duplicate_risk"] != risk or (item.result["duplicate_risk"] and item.result["attempts"] < 2):
        yield f"duplicate_risk {item.result['duplicate_risk']}, attempts {[a.delivered for a in item.attempts]}"


@of(ITEM_INVARIANTS)
def attempts_are_counted_and_bounded(record, item):
    n, most = item.result["attempts"], record.plan.policy["retry"]["max_attempts"]
    if [a.n for a in item.attempts] != list(range(1, n + 1)) or n + item.refused > most:
        yield f"attempts {n} and {item.refused} refused of at most {most}, the log has {[a.n for a in item.attempts]}"


@of(ITEM_INVARIANTS)
def the_attempt_log_tells_the_attempts(record, item):
    wanted = record.plan.get("include") == ["attempts"]
    if ("attempt_log" in item.result) != wanted:
        yield f"attempt_log there: {not wanted}, asked for: {wanted}"
    elif wanted:
        have = [(a["n"], a["code"], a["delivered"], a["phase"], a["http_status"], a["duration_ms"])
                for a in item.result["attempt_log"]]
        want = [(a.n, a.code, a.delivered, a.phase, a.http_status, (a.ended_us - a.started_us) // 1000)
                for a in item.attempts]
        if have != want:
            yield f"attempt_log {have}, the log has {want}"


@of(ITEM_INVARIANTS)
def requests_never_outnumber_attempts(record, item):
    if len(item.requests) > item.result["attempts"]:
        yield f"{len(item.requests)} requests, {item.result['attempts']} attempts"


@of(ITEM_INVARIANTS)
def status_follows_from_the_facts(record, item):
    r = item.result
    want = status_of(r["delivered"], r["attempts"], item.code)
    if r["status"] != want:
        yield f"status {r['status']}, not {want}"


@of(ITEM_INVARIANTS)
def retryable_follows_from_the_code(record, item):
    if item.code is not None and item.code not in RETRYABLE | FINAL:
        yield f"no such code: {item.code}"
    if item.result["retryable"] != (item.code in RETRYABLE):
        yield f"code {item.code}, retryable {item.result['retryable']}"


@of(ITEM_INVARIANTS)
def the_last_attempt_gives_the_error(record, item):
    if not item.attempts:
        return
    last = item.attempts[-1]
    have = item.code, item.result.get("error", {}).get("http_status")
    want = last.code, (last.http_status if last.code is not None else None)
    if have != want:
        yield f"error {have}, the last attempt {want}"


@of(ITEM_INVARIANTS)
def an_answer_decides_code_and_delivered(record, item):
    for a in item.attempts:
        if a.http_status is not None and (a.code, a.delivered) != verdict(a.http_status, item.plan.service):
            yield f"attempt {a.n} was answered {a.http_status}: {a.code}, {a.delivered}"


@of(ITEM_INVARIANTS)
def without_an_answer_the_bytes_sent_decide(record, item):
    for a in item.attempts:
        if a.http_status is not None:
            continue
        unsent = a.phase in BEFORE_SENDING
        if a.delivered not in UNANSWERED.get(a.code, ()):
            yield f"attempt {a.n} had no answer: {a.code}, {a.delivered}"
        elif unsent and a.delivered != "no" or a.phase in ("wait", "receive") and a.delivered == "no":
            yield f"attempt {a.n} ended in phase {a.phase}: {a.delivered}"


@of(ITEM_INVARIANTS)
def reported_statuses_were_sent(record, item):
    have = Counter(a.http_status for a in item.attempts if a.http_status is not None)
    sent = Counter(r.told for r in item.requests if r.told is not None)
    if have - sent:
        yield f"attempts report {dict(have)}, the downstream sent {dict(sent)}"


@of(ITEM_INVARIANTS)
def the_downstream_keeps_to_the_plan(record, item):
    """Or its ledger would be no judge."""
    for r in item.requests:
        if r.step.status is not None and r.answered not in (None, r.step.status):
            yield f"request {r.n} was answered {r.answered}, not {r.step.status}"


@of(ITEM_INVARIANTS)
def success_needs_a_2xx_in_the_ledger(record, item):
    if item.result["delivered"] == "yes" and not any(is_2xx(r.told) for r in item.requests):
        yield f"succeeded, but its requests were told {[r.told for r in item.requests]}"


@of(ITEM_INVARIANTS)
def message_id_is_the_one_that_was_answered(record, item):
    named = {f"m-{r.n}" for r in item.requests if is_2xx(r.told)}
    have = item.result.get("message_id")
    certain = all(r.step.names_message for r in item.requests) and not item.was_cut
    if have not in named | {None} or (item.result["ok"] and certain and have is None):
        yield f"message_id {have}, the downstream gave {named}"


@of(ITEM_INVARIANTS)
def a_2xx_is_never_lost(record, item):
    accepted = [r for r in item.requests if is_2xx(r.step.status) and is_2xx(r.answered)]
    if not accepted:
        return
    delivered = item.result["delivered"]
    if delivered == "no" or (delivered == "maybe" and not item.was_cut):
        yield f"answered {accepted[0].answered}, but delivered is {delivered}"


@of(ITEM_INVARIANTS)
def delivered_no_needs_a_refusal_of_every_request(record, item):
    if item.result["delivered"] != "no":
        return
    for r in item.requests:
        if r.told is None or verdict(r.told, item.plan.service)[1] != "no":
            yield f"delivered no, but request {r.n} was told {r.told} by '{r.step.text}'"


@of(ITEM_INVARIANTS)
def at_most_once_never_repeats_a_maybe(record, item):
    if record.plan.get("delivery") != "at_most_once":
        return
    for r in item.requests[:-1]:
        if r.told is None or verdict(r.told, item.plan.service)[1] != "no":
            yield f"another request after number {r.n}, which was told {r.told} by '{r.step.text}'"
    if any(a.delivered != "no" for a in item.attempts[:-1]):
        yield f"another attempt after one that may have been delivered: {[a.delivered for a in item.attempts]}"


@of(ITEM_INVARIANTS)
def payload_arrives_byte_for_byte(record, item):
    want = record.plan.payload_of(item.plan)
    for r in item.requests:
        e = r.entry
        whole = e["body"] == want[:rig.BODY_KEPT] and e["body_bytes"] == len(want)
        if not (whole if e["complete"] else want.startswith(e["body"])):
            yield f"request {e['n']} has {e['body'][:200]!r} ({e['body_bytes']} bytes), not {want[:200]!r}"


@of(ITEM_INVARIANTS)
def every_attempt_has_the_same_webhook_id(record, item):
    want = item.plan.dedupe_key or f"{record.id}.{item.plan.id}"
    for r in item.requests:
        if r.entry["webhook_id"] != want:
            yield f"request {r.n} has webhook-id {r.entry['webhook_id']}, not {want}"


@of(ITEM_INVARIANTS)
def signed_services_sign_what_they_send(record, item):
    key = base64.b64decode(rig.SECRET.removeprefix("whsec_"))
    for r in item.requests:
        e = r.entry
        if item.plan.service != "signed":
            want = None
        else:
            text = f"{e['webhook_id']}.{e['webhook_timestamp']}.".encode() + record.plan.payload_of(item.plan)
            want = "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
        if e["webhook_signature"] != want:
            yield f"request {e['n']} is signed {e['webhook_signature']}, not {want}"


@of(ITEM_INVARIANTS)
def retry_after_is_a_lower_bound(record, item):
    if len(item.requests) != len(item.attempts):
        return
    for a, r, following in zip(item.attempts, item.requests, item.attempts[1:]):
        if r.step.retry_after is None or a.http_status != r.step.status:
            continue
        waited = following.started_us - a.ended_us
        if waited < r.step.retry_after * 1000000:
            yield f"attempt {following.n} came {waited} us after 'Retry-After: {r.step.retry_after}'"


@of(ITEM_INVARIANTS)
def no_attempt_starts_after_its_deadline(record, item):
    # Rounded to the millisecond before, so the acceptance was not later.
    accepted_us = int(record.done["done_at_us"]) - 1000 * int(record.done["duration_ms"])
    ms = min(record.plan.policy["deadline_ms"], item.plan.ttl_ms or float("inf"))
    for a in item.attempts:
        if a.started_us > accepted_us + 1000 * ms:
            yield f"attempt {a.n} started {a.started_us - accepted_us} us after acceptance, of {ms} ms"


@of(ITEM_INVARIANTS)
def stop_says_why_there_was_no_further_attempt(record, item):
    r, batch = item.result, record.final
    stop = r.get("stop")
    wrong = {
        None: not r["ok"],
        "not_retryable": r["retryable"],
        "max_attempts": r["attempts"] + item.refused != record.plan.policy["retry"]["max_attempts"],
        "retry_budget": r["attempts"] == 0,
        "maybe_delivered": record.plan.get("delivery") != "at_most_once" or r["delivered"] != "maybe",
        "ttl": item.plan.ttl_ms is None,
        "deadline": False,
        "first_failure": batch["stop_reason"] != "first_failure",
        "disconnected": batch["stop_reason"] != "disconnected",
        "shed": record.plan.get("contract") != "best_effort",
    }
    if wrong.get(stop, True) or (r["ok"] and stop is not None):
        yield f"stop {stop} with {r}"
    if item.code in ("aborted", "not_attempted") and stop not in OUTSIDE_STOPS:
        yield f"code {item.code}, but stop {stop}"
    if item.code == "expired" and (stop != "ttl" or r["attempts"] > 0):
        yield f"expired with {r}"
    if not r["retryable"] and stop in ("max_attempts", "deadline"):
        yield f"code {item.code} is final in itself, but stop is {stop}"


@of(ITEM_INVARIANTS)
def an_invalid_item_is_never_attempted(record, item):
    if (item.code == "invalid_item" and not item.attempts) == item.plan.valid:
        yield f"valid: {item.plan.valid}, code {item.code}, attempts {len(item.attempts)}"
    if not item.plan.valid and (item.requests or item.attempts):
        yield "it is invalid, and was sent"


@of(ITEM_INVARIANTS)
def what_a_service_does_not_take_is_not_sent(record, item):
    size = len(record.plan.payload_of(item.plan))
    if item.plan.service == "narrow" and size > rig.NARROW_PAYLOAD and (item.requests or item.attempts):
        yield f"{size} bytes were sent, of at most {rig.NARROW_PAYLOAD}"
