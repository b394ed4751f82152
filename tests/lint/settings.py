#!/usr/bin/python3
"""The README's table of settings is the program's own. With --write it is put there."""
import subprocess
import sys
from pathlib import Path

import tap

HEAD = "| Setting |"


def split(text):
    """The README before its table of settings, the table, and what follows."""
    lines = text.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if line.startswith(HEAD)), len(lines))
    end = start
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "".join(lines[:start]), "".join(lines[start:end]), "".join(lines[end:])


def check_table(root, described):
    ours, theirs = split((root / "README.md").read_text())[1].splitlines(), described.splitlines()
    found = [f"README.md: no setting of the program: {line}" for line in ours if line not in theirs]
    found += [f"README.md lacks: {line}" for line in theirs if line not in ours]
    if not found and ours != theirs:
        found.append("README.md: the settings are in another order")
    return found + ["put right by tests/lint/settings.py --write, with the same arguments"] if found else []


def write(root, described):
    path = root / "README.md"
    before, _, after = split(path.read_text())
    path.write_text(before + described + after)


if __name__ == "__main__":
    ROOT, PROGRAM = Path(sys.argv[1]), sys.argv[2]
    TABLE = subprocess.run([PROGRAM], stdout=subprocess.PIPE, text=True, check=True).stdout
    if "--write" in sys.argv[3:]:
        write(ROOT, TABLE)
    else:
        tap.run([("the README's settings are the program's", lambda: check_table(ROOT, TABLE))])
