#!/usr/bin/python3
"""What holds for every file of the tree: layout, whitespace, scripts, data."""
import json
import re
import subprocess
import sys
from pathlib import Path

import tap
import yaml

TOP_LEVEL = {"cmd", "lib", "api", "tests", "deploy", "Dockerfile", "meson.build", "meson_options.txt", "README.md",
             "LICENSE"}
# Spelt so that this file passes its own check.
LEFTOVER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")


def tracked(root):
    """The project's files: what git has or would add; without git, all but build trees."""
    git = subprocess.run(["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z", "--cached", "--others",
                          "--exclude-standard"], capture_output=True)
    if git.returncode == 0:
        names = git.stdout.decode().split("\0")[:-1]
    else:
        names = [str(p.relative_to(root)) for p in root.rglob("*")]
        names = [n for n in names if not re.match(r"build|\.git/|settled-data/|.*__pycache__", n)]
    return sorted(root / n for n in set(names) if (root / n).is_file())


def text_files(root):
    """Without the licence, which is not ours to edit, and what fuzzers and tests feed on, good or bad."""
    for path in tracked(root):
        data = path.read_bytes()
        if b"\0" not in data and path.name != "LICENSE" and "corpus" not in path.parts:
            yield path, data.decode("utf-8", "replace")


def check_layout(root):
    tops = sorted({p.relative_to(root).parts[0] for p in tracked(root)})
    return [f"{name}: only {' '.join(sorted(TOP_LEVEL))} and dot files belong at the top"
            for name in tops if name not in TOP_LEVEL and not name.startswith(".")]


def check_whitespace(root):
    found = []
    for path, text in text_files(root):
        if text and not text.endswith("\n"):
            found.append(f"{path.relative_to(root)}: no newline at its end")
        for n, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip():
                found.append(f"{path.relative_to(root)}:{n}: white space at the end of the line")
    return found


def check_leftovers(root):
    return [f"{path.relative_to(root)}:{n}: finish it, or open an issue"
            for path, text in text_files(root)
            for n, line in enumerate(text.split("\n"), 1) if LEFTOVER.search(line)]


def scripts(root):
    for path, text in text_files(root):
        if path.suffix == ".sh" or re.match(r"#!.*\b(ba)?sh\b", text):
            yield path, text


def check_shell(root):
    names = [str(p.relative_to(root)) for p, _ in scripts(root)]
    if not names:
        return []
    run = subprocess.run(["shellcheck", "-x", "--format=gcc", *names], cwd=root, capture_output=True, text=True)
    return run.stdout.splitlines() + run.stderr.splitlines()


def check_strict(root):
    return [f"{path.relative_to(root)}: no `set -euo pipefail`"
            for path, text in scripts(root) if text.startswith("#!") and "set -euo pipefail" not in text]


def check_data(root):
    found = []
    for path, text in text_files(root):
        try:
            if path.suffix == ".json":
                json.loads(text)
            elif path.suffix in (".yaml", ".yml"):
                list(yaml.safe_load_all(text))
        except (ValueError, yaml.YAMLError) as e:
            found.append(f"{path.relative_to(root)}: {' '.join(str(e).split())}")
    return found


def check_registered(root):
    """A test that no build file names never runs, and nobody would notice."""
    found = []
    for path in tracked(root):
        test = re.fullmatch(r"test_(\w+)\.(c|py)", path.name)
        build = path.parent / "meson.build"
        if test and build.is_file() and f"'{test[1]}'" not in build.read_text() and \
                f"'test_{test[1]}'" not in build.read_text():
            found.append(f"{path.relative_to(root)}: name it in {build.relative_to(root)}, or it never runs")
    return found


CHECKS = [("only the agreed names at the top level", check_layout),
          ("no trailing white space", check_whitespace),
          ("nothing left for later in the text", check_leftovers),
          ("shellcheck has nothing to say", check_shell),
          ("scripts stop at the first failure", check_strict),
          ("JSON and YAML files parse", check_data),
          ("every test is named in its folder's build file", check_registered)]

if __name__ == "__main__":
    tap.run([(name, lambda c=check: c(Path(sys.argv[1]))) for name, check in CHECKS])
