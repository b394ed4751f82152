#!/usr/bin/python3
"""Modules include only what lies below them, and each foreign library has one user."""
import re
import sys
from pathlib import Path

import tap

LAYERS = [["base"], ["obs"], ["core"], ["config"], ["wire", "loop"], ["channel", "xfer", "store", "httpd"],
          ["dispatch"], ["routes"], ["app"]]
LAYER = {name: n for n, names in enumerate(LAYERS) for name in names}

# The first pattern that fits decides. libcrypto's errors also reach who uses libssl.
FOREIGN = [(r"yaml\.h", "config"), (r"jansson\.h", "wire"), (r"event2/|event\.h", "loop"), (r"curl/", "xfer"),
           (r"openssl/err\.h", "xfer base"), (r"openssl/(ssl|tls1)\.h", "xfer"), (r"openssl/", "base"),
           (r"sqlite3\.h", "store"), (r"microhttpd\.h", "httpd"), (r"gnutls/", "httpd")]
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def sources(root, *folders):
    for folder in folders:
        for path in sorted((root / folder).rglob("*.[ch]")):
            yield path


def includes(path):
    text = path.read_text()
    for m in INCLUDE.finditer(text):
        yield text.count("\n", 0, m.start()) + 1, m[1], m[2]


def module_of(root, path):
    parts = path.relative_to(root).parts
    return parts[1] if parts[0] == "lib" else None


def check_layers(root):
    found = []
    for path in sources(root, "lib"):
        me = module_of(root, path)
        if me not in LAYER:
            found.append(f"{path.relative_to(root)}: module {me} has no layer: add it to tests/lint/layers.py")
            continue
        for line, mark, name in includes(path):
            other = name.split("/")[0]
            if mark == '"' and other in LAYER and other != me and LAYER[other] >= LAYER[me]:
                found.append(f"{path.relative_to(root)}:{line}: {me} may not include {name}: "
                             f"{other} is not below it")
    return found


def check_full_paths(root):
    """Beside a file lies what only its module may use; all else is named with its module."""
    return [f'{path.relative_to(root)}:{line}: {name}: write "module/name.h"'
            for path in sources(root, "lib")
            for line, mark, name in includes(path)
            if mark == '"' and (".." in name or "/" not in name and not (path.parent / name).exists())]


def check_private(root):
    return [f"{path.relative_to(root)}:{line}: {name} is private to {name.split('/')[0]}"
            for path in sources(root, "lib", "cmd")
            for line, mark, name in includes(path)
            if name.endswith("-i.h") and "/" in name and name.split("/")[0] != module_of(root, path)]


def check_foreign(root):
    found = []
    for path in sources(root, "lib", "cmd/settled"):
        for line, mark, name in includes(path):
            owner = next((o for pattern, o in FOREIGN if mark == "<" and re.match(pattern, name)), None)
            if owner is not None and module_of(root, path) not in owner.split():
                found.append(f"{path.relative_to(root)}:{line}: <{name}> belongs to {owner} alone")
    return found


CHECKS = [("modules include only lower modules", check_layers),
          ("headers of our own are included by module and name", check_full_paths),
          ("private headers stay in their module", check_private),
          ("a foreign library is included in one module alone", check_foreign)]

if __name__ == "__main__":
    tap.run([(name, lambda c=check: c(Path(sys.argv[1]))) for name, check in CHECKS])
