#!/usr/bin/python3
"""The house style, as far as a script can see it."""
import re
import sys
from pathlib import Path

import csource
import layers
import tap

# Labels of other people's enumerations, and errno: a default is fine there.
FOREIGN_LABEL = re.compile(r"(CURL|JSON_|YAML_|MHD_|AF_|EAI_|SIG|EV_|SSL_|X509_|IPPROTO_|SOCK_|SQLITE_|EPOLL|POLL)"
                           r"|E[A-Z0-9]+$")
OWN_LABEL = re.compile(r"[A-Z][A-Z0-9_]+$")
STATEMENT = re.compile(r"""(
    [\w>.\[\]()*-]+\s*([-+|&*/]|<<|>>)?=\s*[^=\s].*;    # an assignment
  | (if|for|while|switch)\s*\(.*\)\s*\{?                # the head of a block
  | (return|break|continue|goto)\b[^.]*;
  | \w+\(.*\);                                          # a call
  | \#\s*(include|if|ifdef|define)\b.*
)$""", re.VERBOSE)


def over_sources(root, find):
    return [f"{path.relative_to(root)}:{line}: {what}"
            for path in layers.sources(root, "lib", "cmd", "tests")
            for line, what in find(path.read_text())]


def check_default(root):
    def find(text):
        for line, labels, has_default in csource.switches(text):
            if has_default and any(OWN_LABEL.match(n) and not FOREIGN_LABEL.match(n) for n in labels):
                yield line, "a default in a switch over an enumeration of ours hides a value that is added later"
    return over_sources(root, find)


def check_typedef(root):
    def find(text):
        code = csource.code_only(text)
        for m in re.finditer(r"\btypedef\s+(struct|union|enum)\b", code):
            yield csource.line_of(code, m.start()), f"a {m[1]} is named, not typedef'd"
    return over_sources(root, find)


def check_dead_code(root):
    def find(text):
        for m in re.finditer(r"^[ \t]*#[ \t]*if[ \t]+0\b", text, re.MULTILINE):
            yield csource.line_of(text, m.start()), "#if 0: delete it, git remembers"
        # A file's head may show how to call it.
        for at, comment in csource.comments(text):
            if at == 0:
                continue
            for n, line in enumerate(comment.split("\n")):
                if STATEMENT.match(line.strip().removeprefix("/*").removesuffix("*/").lstrip("/* \t").strip()):
                    yield csource.line_of(text, at) + n, "this comment looks like code: delete it, or say it in words"
    return over_sources(root, find)


def check_tabs(root):
    def find(text):
        for n, line in enumerate(csource.code_only(text).split("\n"), 1):
            if line.startswith(" ") and line.strip():
                yield n, "indent with tabs"
    return over_sources(root, find)


def check_once(root):
    return [f"{path.relative_to(root)}: no #pragma once" for path in layers.sources(root, "lib", "cmd", "tests")
            if path.suffix == ".h" and "#pragma once" not in path.read_text()]


CHECKS = [("no default label in a switch over our own enumerations", check_default),
          ("no typedef'd structs", check_typedef),
          ("no code in comments", check_dead_code),
          ("tabs for indentation", check_tabs),
          ("headers are included once", check_once)]

if __name__ == "__main__":
    tap.run([(name, lambda c=check: c(Path(sys.argv[1]))) for name, check in CHECKS])
