"""The contract's tables (sections 5 and 6), written down a second time, and one
item with all that is known about it: plan, result, log and ledger.
"""

from dataclasses import dataclass
from typing import Optional

RETRYABLE = {"rate_limited", "connect_failed", "circuit_open", "not_attempted", "unavailable", "timeout",
             "connection_lost", "upstream_error", "aborted", "interrupted"}
FINAL = {"invalid_item", "payload_too_large", "recipient_not_found", "recipient_gone", "unauthenticated",
         "permission_denied", "rejected", "expired", "bad_response", "internal"}
DELIVERED = ("no", "maybe", "yes")
# Stops that lie in the item itself; the others come from outside. A deadline is
# either: the batch's, or a wait that would have gone past it.
OWN_STOPS = {"not_retryable", "max_attempts", "maybe_delivered", "ttl", "deadline"}
OUTSIDE_STOPS = {"first_failure", "disconnected", "deadline", "shed"}
BEFORE_SENDING = ("queue", "resolve", "connect", "tls")

# Codes of attempts that no status line answered, and what they can say.
UNANSWERED = {"permission_denied": {"no"}, "connect_failed": {"no"}, "timeout": {"no", "maybe"},
              "aborted": {"no", "maybe"}, "connection_lost": {"maybe"}, "bad_response": {"maybe"}}
# Codes of items that were never attempted.
UNATTEMPTED = {"invalid_item", "payload_too_large", "expired", "not_attempted", "circuit_open"}

_BY_STATUS = {400: "invalid_item", 422: "invalid_item", 401: "unauthenticated", 403: "permission_denied",
              404: "recipient_not_found", 408: "timeout", 410: "recipient_gone", 413: "payload_too_large",
              429: "rate_limited", 503: "unavailable", 504: "timeout"}


def verdict(status, service):
    """(code, delivered) of an answer with this status; the code of success is None."""
    if 200 <= status < 300:
        return None, "yes"
    if status == 503:
        return "unavailable", "no" if service == "narrow" else "maybe"
    if status in (408, 504):
        return "timeout", "maybe"
    if 300 <= status < 500:
        return _BY_STATUS.get(status, "rejected"), "no"
    return ("upstream_error" if status < 600 else "bad_response"), "maybe"


def is_2xx(status):
    return status is not None and 200 <= status < 300


def status_of(delivered, attempts, code):
    if delivered != "no":
        return {"yes": "succeeded", "maybe": "indeterminate"}[delivered]
    return "failed" if attempts > 0 or code not in RETRYABLE else "not_attempted"


def outcome_of(counts):
    if counts["succeeded"] == counts["total"]:
        return "succeeded"
    if counts["succeeded"] > 0:
        return "partial"
    return "indeterminate" if counts["indeterminate"] > 0 else "failed"


def of(kind):
    """Register a generator of complaints under its own name."""
    def register(function):
        kind.append(function)
        return function
    return register


@dataclass
class Request:
    """One request as the downstream saw it, and how it was to treat it."""

    entry: dict
    step: object

    @property
    def n(self):
        return self.entry["n"]

    @property
    def answered(self):
        return self.entry["answered"]

    @property
    def told(self):
        """The status that may have reached the daemon: its line has been sent, or
        at least begun where the answer is not sent in one piece."""
        if self.step.status is not None and (self.answered is not None or not self.step.ends):
            return self.step.status
        return None


@dataclass
class Item:
    plan: object
    result: Optional[dict]
    attempts: list
    requests: list
    refused: int = 0                    # tries that a breaker refused: no attempts

    @property
    def code(self):
        return self.result.get("error", {}).get("code")

    @property
    def concluded(self):
        """Every attempt ended by its answer, which the downstream sent in one
        piece: then the ledger's times lie within the attempts'."""
        return (len(self.requests) == len(self.attempts) and all(a.http_status for a in self.attempts)
                and all(r.step.ends and r.answered for r in self.requests))

    @property
    def was_cut(self):
        """An attempt of it was ended from our side, without an answer."""
        return any(a.code in ("timeout", "aborted") and a.http_status is None for a in self.attempts)


def items_of(record):
    results = {r["id"]: r for r in record.final["results"]} if record.final else {}
    return [Item(plan, results.get(plan.id), record.attempts.get(plan.id, []), requests_of(plan, record),
                 record.refused.get(plan.id, 0))
            for plan in record.plan.items]


def requests_of(plan, record):
    return [Request(e, plan.step(n)) for n, e in enumerate(record.entries.get(plan.tag, []))]
