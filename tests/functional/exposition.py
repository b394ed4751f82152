"""The Prometheus text format, read strictly, and which families the README promises."""

import re
from pathlib import Path

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
ROW = re.compile(r"^\| `((?:settled|process)_\w+)` \| (counter|gauge|histogram) \|", re.M)
# What the README promises, which tests/lint holds to the program's own table.
FAMILIES = dict(ROW.findall((Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")))


def parse_labels(text):
    labels, at = {}, 0
    while at < len(text):
        found = LABEL.match(text, at)
        if not found or found[1] in labels:
            raise AssertionError(f"not labels: {text}")
        labels[found[1]] = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], found[2])
        at = found.end()
    return labels


class Exposition:
    """The Prometheus text format 0.0.4, read strictly."""

    def __init__(self, text):
        self.types, self.help, self.samples = {}, {}, {}
        self.family = None
        if not text.endswith("\n"):
            raise AssertionError("the last line does not end")
        for line in text[:-1].split("\n"):
            if line.startswith("# HELP "):
                self.start(*line[7:].split(" ", 1))
            elif line.startswith("# TYPE "):
                self.set_type(*line[7:].split(" "))
            else:
                self.sample(line)

    def start(self, name, text):
        if name in self.help or not NAME.fullmatch(name) or not text:
            raise AssertionError(f"HELP of {name}")
        self.help[name] = text
        self.family = name

    def set_type(self, name, kind):
        if name != self.family or name in self.types or kind not in ("counter", "gauge", "histogram"):
            raise AssertionError(f"TYPE of {name}")
        self.types[name] = kind

    def sample(self, line):
        found = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9]+(?:\.[0-9]+)?)", line)
        if not found:
            raise AssertionError(f"not a sample: {line!r}")
        suffixes = ("_bucket", "_sum", "_count") if self.types[self.family] == "histogram" else ("",)
        if found[1] not in [self.family + s for s in suffixes]:
            raise AssertionError(f"{line} stands under {self.family}")
        key = (found[1], tuple(sorted(parse_labels(found[2] or "").items())))
        if key in self.samples:
            raise AssertionError(f"twice: {line}")
        self.samples[key] = float(found[3])

    def get(self, name, **labels):
        return self.samples.get((name, tuple(sorted(labels.items()))), 0)

    def sum(self, name, **labels):
        return sum(v for (n, ls), v in self.samples.items() if n == name and set(labels.items()) <= set(ls))
