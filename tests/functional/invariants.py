"""The invariants of the contract (section 10), and what follows from its other
sections, each judged from outside: results against the plan, the log, and the
ledger of a downstream that knows nothing of batches.

Only what must hold is asserted. A request that was sent before its attempt was
cut may arrive at the downstream later than the next one, so the ledger's times
count only for attempts that their answer ended.
"""

from batch_invariants import BATCH_INVARIANTS, RESULT_INVARIANTS, SEED_INVARIANTS
from item_invariants import ITEM_INVARIANTS
from model import items_of

NAMES = {f.__name__ for kind in (ITEM_INVARIANTS, RESULT_INVARIANTS, BATCH_INVARIANTS, SEED_INVARIANTS) for f in kind}


def judge(seed_record):
    """All complaints: [(name of the invariant, batch's record or None, text)]."""
    found = []
    for record in seed_record.batches:
        found += [(name, record, text) for name, text in judge_batch(record)]
    for check in SEED_INVARIANTS:
        found += [(check.__name__, None, text) for text in check(seed_record)]
    return found


def judge_batch(record):
    found = [(check.__name__, text) for check in BATCH_INVARIANTS for text in check(record)]
    if record.final is None:
        return found
    items = items_of(record)
    found += [(check.__name__, text) for check in RESULT_INVARIANTS for text in check(record, items)]
    for item in items:
        if item.result is not None:
            found += [(check.__name__, f"{item.plan.id}: {text}")
                      for check in ITEM_INVARIANTS for text in check(record, item)]
    return found
