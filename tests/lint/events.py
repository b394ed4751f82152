#!/usr/bin/python3
"""The README's table of log events has every event of the program, with its level and
its fields in their order, and no other. --write puts them there; what an event means
is the README's, and for a new one yours to say."""
import re
import sys
from pathlib import Path

import layers
import settings
import tap

CALL = re.compile(r'\blog_(?:event(?:_limited)?|write)\(|\bmake_line\(')
HEAD = re.compile(r'(?:[&\w]+, )?([^,"]*), "([a-z_]+)"')
LEVEL = re.compile(r"\bLOG_(DEBUG|INFO|WARN|ERROR)\b")
UNKNOWN = "?"
FIELD = re.compile(r'LOG_(?:STR|INT|SLICE)\(\s*(?:[^",()]*\? )?"([a-z_0-9]+)"(?: : "([a-z_0-9]+)")?')
ROW = re.compile(r"^\| `([a-z_]+)` \| (?:(?:debug|info|warn|error)(?:, )?)+ \| ([^|]+) \| ", re.M)
HEADLINE = "| Event | Level | When | Fields of its own |\n|---|---|---|---|\n"


def arguments(text, start):
    """Up to the bracket that closes the one before `start`; brackets in strings do not count."""
    depth, at = 1, start
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[()]', text[start:]):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return text[start:start + found.start()]
        at = found.end()
    return text[start:start + at]


def in_source(text):
    for call in CALL.finditer(text):
        args = arguments(text, call.end())
        head = HEAD.match(args)
        if head:
            fields = [name for either in FIELD.findall(args) for name in either if name]
            yield head[2], [level.lower() for level in LEVEL.findall(head[1])] or [UNKNOWN], fields


def of_program(root):
    found = {}
    for path in layers.sources(root, "lib", "cmd"):
        for event, its_levels, fields in in_source(path.read_text()):
            levels, all_fields = found.setdefault(event, (set(), []))
            levels.update(its_levels)
            all_fields += [f for f in fields if f not in all_fields]
    return found


def table(program, meanings):
    """As the README should have it; an event without a meaning gets none."""
    return HEADLINE + "".join(
        f"| `{event}` | {', '.join(sorted(levels))} | {meanings.get(event, '?')} | {', '.join(f'`{f}`' for f in fields)} |\n"
        for event, (levels, fields) in sorted(program.items()))


def check(root):
    program, meanings = of_program(root), dict(ROW.findall((root / "README.md").read_text()))
    silent = [f"README.md: say when {event} is written" for event in program if meanings.get(event, "?") == "?"]
    silent += [f"{event}: name its level in the call, which is where it is looked for" for event, (levels, _) in program.items()
               if UNKNOWN in levels]
    return silent + settings.check_table(root, table(program, meanings))


if __name__ == "__main__":
    ROOT = Path(sys.argv[1])
    if "--write" in sys.argv[2:]:
        settings.write(ROOT, table(of_program(ROOT), dict(ROW.findall((ROOT / "README.md").read_text()))))
        sys.exit()
    tap.run([("the README has every event of the log", lambda: check(ROOT))])
