#!/usr/bin/python3
"""The README's table of log events has every event of the program, with its level and
its fields in their order, and no other."""
import re
import sys
from pathlib import Path

import layers
import tap

CALL = re.compile(r'\blog_event(?:_limited)?\(|\bmake_line\(')
HEAD = re.compile(r'(?:[&\w]+, )?LOG_(DEBUG|INFO|WARN|ERROR), "([a-z_]+)"')
FIELD = re.compile(r'LOG_(?:STR|INT|SLICE)\(\s*(?:[^",()]*\? )?"([a-z_0-9]+)"')
ROW = re.compile(r"^\| `([a-z_]+)` \| (debug|info|warn|error) \| [^|]+ \| ([^|]*) \|$", re.M)


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
            yield head[2], head[1].lower(), FIELD.findall(args)


def of_program(root):
    found = {}
    for path in layers.sources(root, "lib", "cmd"):
        for event, level, fields in in_source(path.read_text()):
            levels, all_fields = found.setdefault(event, (set(), []))
            levels.add(level)
            all_fields += [f for f in fields if f not in all_fields]
    return found


def of_readme(text):
    return {event: (level, re.findall(r"`([a-z_0-9]+)`", fields)) for event, level, fields in ROW.findall(text)}


def compare(program, readme):
    found = [f"README.md: no event of the program: {event}" for event in readme if event not in program]
    for event, (levels, fields) in sorted(program.items()):
        row = f"| `{event}` | {', '.join(sorted(levels))} | ... | {', '.join(f'`{f}`' for f in fields)} |"
        if event not in readme:
            found.append(f"README.md lacks {row}")
        elif readme[event] != (", ".join(sorted(levels)), fields):
            found.append(f"README.md: {event}: it is {row}")
    return found


if __name__ == "__main__":
    ROOT = Path(sys.argv[1])
    tap.run([("the README has every event of the log",
              lambda: compare(of_program(ROOT), of_readme((ROOT / "README.md").read_text())))])
