#!/usr/bin/python3
"""The dashboard and the alert rules ask only for metrics and labels that the program
has; every alert is tested, says what to do, and stands in the README's runbook, where
--write puts it."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import settings
import tap

RULES, TESTS = "deploy/prometheus/settled-rules.yml", "deploy/prometheus/settled-rules-test.yml"
DASHBOARD = "deploy/grafana/dashboards/settled.json"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| \w+ \| (.*?) \|", re.M)
# Given by Prometheus: of each target, and of the target itself.
TARGET = {"job", "instance"}
OTHERS = {"up": dict.fromkeys(TARGET)}
SELECTOR = re.compile(r"\b((?:settled|process)_\w+|up)\b\s*(?:\{([^}]*)\})?")


def families(described):
    """Name to labels and their values (None: any), a histogram's under the names of its series."""
    found = dict(OTHERS)
    for name, kind, labels in ROW.findall(described):
        has = dict.fromkeys(TARGET)
        for label, values in re.findall(r"`(\w+)`(?: \(([^)]*)\))?", labels):
            has[label] = values.split(", ") if values else None
        if kind == "histogram":
            found |= {name + "_bucket": has | {"le": None}, name + "_sum": has, name + "_count": has}
        else:
            found[name] = has
    return found


def check_value(operator, text, values):
    """Can a matcher ever meet one of these values? Each alternative has to."""
    if values is None or text.startswith("$"):
        return True
    if "~" not in operator:
        return text in values
    return all(any(re.fullmatch(one, v) for v in values) for one in text.split("|"))


def check_expression(expr, known):
    """What is wrong with one expression, as texts."""
    found, used = [], set()
    # Inside of quotes nothing is a name, so they are put aside; grouping labels are looked at apart.
    quoted = []
    plain = re.sub(r'"((?:[^"\\]|\\.)*)"', lambda m: quoted.append(m[1]) or f'"{len(quoted) - 1}"', expr)
    by = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", plain)
    for name, matchers in SELECTOR.findall(re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", plain)):
        if name not in known:
            found.append(f"no metric {name}")
            continue
        used |= set(known[name])
        for label, operator, n in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"(\d+)"', matchers or ""):
            if label not in known[name]:
                found.append(f"{name} has no label {label}")
            elif not check_value(operator, quoted[int(n)], known[name][label]):
                found.append(f"{name}: {label} is never {quoted[int(n)]}")
    if not used and not found:
        found.append("asks for no metric")
    for group in by:
        found += [f"nothing has a label {label}" for label in re.split(r"\s*,\s*", group.strip()) if label and label not in used]
    return found


def dashboard_expressions(board):
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def check_dashboard(root, known):
    board = json.loads((root / DASHBOARD).read_text())
    found = [f"{DASHBOARD}: {title}: {wrong}" for title, expr in dashboard_expressions(board)
             for wrong in check_expression(expr, known)]
    variables = {v["name"] for v in board["templating"]["list"]}
    for v in board["templating"]["list"]:
        if v["type"] == "query":
            found += [f"{DASHBOARD}: variable {v['name']}: {wrong}" for wrong in check_expression(v["query"]["query"], known)]
    text = json.dumps(board)
    found += [f"{DASHBOARD}: no variable {name}" for name in set(re.findall(r"\$\{?([a-z]\w*)", text))
              if name not in variables and not name.startswith("__")]
    ids = [p["id"] for p in board["panels"]]
    if len(ids) != len(set(ids)):
        found.append(f"{DASHBOARD}: two panels have the same id")
    for p in board["panels"]:
        if p["type"] != "row" and not (p.get("targets") and p.get("description") and p["fieldConfig"]["defaults"].get("unit")):
            found.append(f"{DASHBOARD}: {p['title']}: needs a target, a description and a unit")
    return found


def alerts_of(root):
    return [r for g in yaml.safe_load((root / RULES).read_text())["groups"] for r in g["rules"]]


def check_rules(root, known):
    found, names = [], set()
    for r in alerts_of(root):
        found += [f"{RULES}: {r['alert']}: {wrong}" for wrong in check_expression(r["expr"], known)]
        found += [f"{RULES}: {r['alert']}: no {what}" for what in ("summary", "description", "action") if not r["annotations"].get(what)]
        if r["labels"].get("severity") not in ("page", "ticket"):
            found.append(f"{RULES}: {r['alert']}: severity is page or ticket")
        if r["alert"] in names:
            found.append(f"{RULES}: {r['alert']}: twice")
        names.add(r["alert"])
    return found


def check_tested(root, known):
    fires, quiet = set(), set()
    found = []
    for case in yaml.safe_load((root / TESTS).read_text())["tests"]:
        for s in case["input_series"]:
            found += [f"{TESTS}: {case['name']}: {wrong}" for wrong in check_expression(s["series"], known)]
        for test in case["promql_expr_test"]:
            alert = re.search(r'alertname="(\w+)"', test["expr"])[1]
            (fires if test["exp_samples"] else quiet).add(alert)
    names = {r["alert"] for r in alerts_of(root)}
    found += [f"{TESTS}: {name} never fires" for name in sorted(names - fires)]
    found += [f"{TESTS}: {name} is never quiet" for name in sorted(names - quiet)]
    return found + [f"{TESTS}: there is no alert {name}" for name in sorted((fires | quiet) - names)]


def runbook(root):
    rows = [f"| `{r['alert']}` | {r['labels']['severity']} | {r['annotations']['description']} | {r['annotations']['action']} |\n"
            for r in alerts_of(root)]
    return "| Alert | Severity | It means | Do |\n|---|---|---|---|\n" + "".join(rows)


def check_runbook(root):
    """The README's runbook is made of the rules' annotations."""
    return settings.check_table(root, runbook(root))


def promtool(root, *args):
    if shutil.which("promtool") is None:
        return ["promtool is not installed (Debian package prometheus)"] if os.environ.get("CI") == "true" else [
            "note: promtool is not installed, so this was not checked"]
    done = subprocess.run(["promtool", *args], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.splitlines() if done.returncode else []


if __name__ == "__main__":
    ROOT = Path(sys.argv[1])
    if "--write" in sys.argv[3:]:
        settings.write(ROOT, runbook(ROOT))
        sys.exit()
    KNOWN = families(subprocess.run([sys.argv[2]], stdout=subprocess.PIPE, text=True, check=True).stdout)
    tap.run([
        ("the dashboard asks for what there is", lambda: check_dashboard(ROOT, KNOWN)),
        ("the rules ask for what there is, and say what to do", lambda: check_rules(ROOT, KNOWN)),
        ("every alert is tested", lambda: check_tested(ROOT, KNOWN)),
        ("every alert is in the runbook", lambda: check_runbook(ROOT)),
        ("promtool takes the rules", lambda: promtool(ROOT, "check", "rules", RULES)),
        ("promtool's tests of the rules pass", lambda: promtool(ROOT, "test", "rules", TESTS)),
        ("promtool takes the configuration", lambda: promtool(ROOT, "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml")),
    ])
