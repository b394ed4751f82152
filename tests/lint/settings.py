#!/usr/bin/python3
"""A table of the README is the program's own: of settings or of metrics, by what the
given program prints. With --write it is put there."""
import subprocess
import sys
from pathlib import Path

import tap

def split(text, described):
    """The README before its table with the same head, the table, and what follows."""
    lines, head = text.splitlines(keepends=True), described.splitlines(keepends=True)[0]
    start = next((n for n, line in enumerate(lines) if line == head), len(lines))
    end = start
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "".join(lines[:start]), "".join(lines[start:end]), "".join(lines[end:])


def check_table(root, described):
    ours, theirs = split((root / "README.md").read_text(), described)[1].splitlines(), described.splitlines()
    found = [f"README.md: not the program's: {line}" for line in ours if line not in theirs]
    found += [f"README.md lacks: {line}" for line in theirs if line not in ours]
    if not found and ours != theirs:
        found.append("README.md: the rows are in another order")
    return found + ["put right by tests/lint/settings.py --write, with the same arguments"] if found else []


def write(root, described):
    path = root / "README.md"
    before, _, after = split(path.read_text(), described)
    path.write_text(before + described + after)


if __name__ == "__main__":
    ROOT, PROGRAM = Path(sys.argv[1]), sys.argv[2]
    TABLE = subprocess.run([PROGRAM], stdout=subprocess.PIPE, text=True, check=True).stdout
    if "--write" in sys.argv[3:]:
        write(ROOT, TABLE)
    else:
        tap.run([("the README's table is the program's", lambda: check_table(ROOT, TABLE))])
