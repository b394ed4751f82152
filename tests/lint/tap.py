"""A lint is a list of named checks; each returns what it found wrong, as text."""
import sys


def run(checks):
    """checks: (name, function returning a list of findings). Prints TAP."""
    print(f"1..{len(checks)}")
    bad = 0
    for n, (name, check) in enumerate(checks, 1):
        found = check()
        wrong = [f for f in found if not f.startswith("note: ")]
        print(f"{'not ok' if wrong else 'ok'} {n} - {name}")
        for text in found:
            print(f"# {text}")
        bad += bool(wrong)
    sys.exit(1 if bad else 0)
