#!/usr/bin/python3
"""Functions fit on a screen, files stay readable, parameter lists short."""
import re
import sys
from pathlib import Path

import csource
import layers
import tap

FUNCTION_NOTE, FUNCTION_MAX = 40, 80
FILE_NOTE, FILE_MAX = 600, 1000
PARAMS_MAX = 6
MAIN_MAX = 100
# A library decides the parameters of what it calls back.
LIBRARY_TYPE = re.compile(r"\b(struct MHD_|CURLM? \*|yaml_|evutil_|gnutls_)")
FOLDERS = ("lib", "cmd", "tests")


def check_functions(root):
    found = []
    for path in layers.sources(root, *FOLDERS):
        for f in csource.functions(path.read_text()):
            where = f"{path.relative_to(root)}:{f.line}: {f.name} has {f.lines} lines"
            if f.lines > FUNCTION_MAX:
                found.append(f"{where}, more than {FUNCTION_MAX}: split it")
            elif f.lines > FUNCTION_NOTE:
                found.append(f"note: {where}")
    return found


def check_params(root):
    found = []
    for path in layers.sources(root, *FOLDERS):
        for f in csource.functions(path.read_text()):
            n = csource.count_params(f.params)
            if n > PARAMS_MAX and not LIBRARY_TYPE.search(f.params):
                found.append(f"{path.relative_to(root)}:{f.line}: {f.name} has {n} parameters, more than "
                             f"{PARAMS_MAX}: pass a struct")
    return found


def check_files(root):
    found = []
    for path in layers.sources(root, *FOLDERS):
        lines = path.read_text().count("\n")
        where = f"{path.relative_to(root)}: {lines} lines"
        if lines > FILE_MAX:
            found.append(f"{where}, more than {FILE_MAX}: split it")
        elif lines > FILE_NOTE:
            found.append(f"note: {where}")
    return found


def check_main(root):
    main = root / "cmd/settled/main.c"
    lines = main.read_text().count("\n") if main.exists() else 0
    return [f"cmd/settled/main.c: {lines} lines, {MAIN_MAX} or more"] if lines >= MAIN_MAX else []


CHECKS = [(f"no function over {FUNCTION_MAX} lines", check_functions),
          (f"no function with more than {PARAMS_MAX} parameters", check_params),
          (f"no file over {FILE_MAX} lines", check_files),
          (f"cmd/settled/main.c stays under {MAIN_MAX} lines", check_main)]

if __name__ == "__main__":
    tap.run([(name, lambda c=check: c(Path(sys.argv[1]))) for name, check in CHECKS])
