#!/usr/bin/python3
"""Each lint, and the counting of test cases, can fail: a planted violation is found."""
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import alerts
import count
import events
import idioms
import layers
import openapi
import settings
import sizes
import symbols
import tap
import tree


def planted(check, good, bad):
    """`check` finds nothing in the tree `good`, and something with `bad` over it."""
    def test():
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            plant(root, good)
            wrong = [f"found in a sound tree: {f}" for f in check(root) if not f.startswith("note: ")]
            plant(root, bad)
            return wrong or ([] if any(not f.startswith("note: ") for f in check(root)) else ["not found"])
    return test


def plant(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


SOUND = {
    "lib/core/a.c": '#include "base/buf.h"\n#include "core/a-i.h"\n\n'
                    "/* Frees what b holds; p may be NULL. */\n"
                    "int core_a(enum e e, int (*f)(void *, int, int, int, int, int, int), int b)\n{\n"
                    "\tswitch (e) {\n\tcase E_ONE:\n\t\tbreak;\n\t}\n"
                    "\tswitch (b) {\n\tcase CURLE_OK:\n\t\tbreak;\n\tdefault:\n\t\tbreak;\n\t}\n\treturn '{';\n}\n",
    "lib/core/a-i.h": "#pragma once\n\nint core_a(enum e e, int b);\n",
    "lib/config/config.c": "#include <yaml.h>\n",
    "cmd/settled/main.c": "int main(void)\n{\n\treturn 0;\n}\n",
    "tests/run.sh": "#!/bin/bash\nset -euo pipefail\necho \"$1\"\n",
    "api/a.json": "{}\n",
}


def file_of(name, text):
    return {name: text}


LONG = "int core_long(void)\n{\n" + "\tcore_step();\n" * 90 + "\treturn 0;\n}\n"
DEFAULT = "void core_b(enum e e)\n{\n\tswitch (e) {\n\tcase E_ONE:\n\tdefault:\n\t\tbreak;\n\t}\n}\n"


def archive_of(folder, name, text):
    source, archive = folder / f"{name}.c", folder / f"{name}.a"
    source.write_text(text)
    subprocess.run(["cc", "-c", source, "-o", source.with_suffix(".o")], check=True)
    subprocess.run(["ar", "rc", archive, source.with_suffix(".o")], check=True, capture_output=True)
    return archive


def bad_symbol():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        plant(root, {"lib/core/core-i.h": "int shared;\n", "lib/core/op.h": "int stray;\n",
                     "lib/wire/wire.c": '#include "core/op.h"\n'})
        archive = archive_of(root, "a", "int op_good, shared, stray;\n")
        found = symbols.check_archive(root, "core", archive)
        return [] if len(found) == 1 and "stray" in found[0] else [f"found {found}"]


def twice_exported():
    with tempfile.TemporaryDirectory() as name:
        one, other = (archive_of(Path(name), n, "int twice;\n") for n in ("a", "b"))
        if symbols.check_unique([("core", one)]):
            return ["found with one archive"]
        return [] if symbols.check_unique([("core", one), ("wire", other)]) else ["not found"]


def counted(result, stdout, want, protocol="tap", status=0):
    """One test with this output gives (passed, failed, skipped)."""
    def test():
        with tempfile.TemporaryDirectory() as name:
            build = Path(name)
            run = {"name": "t", "result": result, "stdout": stdout, "returncode": status}
            plant(build, {"meson-info/intro-tests.json": json.dumps([{"name": "t", "protocol": protocol}]),
                          "meson-logs/testlog.json": json.dumps(run) + "\n"})
            tally = count.count_log(build)
            got = (tally.passed, len(tally.failures), len(tally.skips))
            return [] if got == want else [f"passed, failed, skipped: {got}, not {want}"]
    return test


def stages_say_again_what_failed():
    with tempfile.TemporaryDirectory() as name:
        one, other = Path(name) / "asan", Path(name) / "gcc"
        log = "1..1\n# before\nnot ok 1 - a\n# after\n".splitlines()
        one.write_text("noise\nFAILED  t: a" + count.said(log, 2) + "\nnoise\n1 passed, 1 failed\n")
        other.write_text("1 passed, 0 failed\n")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = count.main_sum([one, other])
    want = "asan: FAILED  t: a\n    # before\n    # after\n2 passed, 1 failed\n"
    return [] if (status, out.getvalue()) == (1, want) else [f"it said {out.getvalue()!r} and returned {status}"]


def broken_api(change):
    def test():
        root = Path(sys.argv[1])
        sound = openapi.load(root)
        wrong = [f"found in the sound file: {f}" for f in openapi.all_findings(root, sound)]
        broken = json.loads(json.dumps(sound))
        change(broken)
        return wrong or ([] if openapi.all_findings(root, broken) else ["not found"])
    return test


def settings_table(readme, described, wrong):
    """The lint finds something or nothing, and nothing once --write has been there."""
    def test():
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            plant(root, {"README.md": readme})
            found = settings.check_table(root, described)
            settings.write(root, described)
            if settings.check_table(root, described) or not (root / "README.md").read_text().endswith("|\n\nAfter.\n"):
                return ["--write did not put it right"]
            return [] if bool(found) == wrong else [f"found {found}"]
    return test


def set_at(*path, value):
    def change(doc):
        for key in path[:-1]:
            doc = doc[key]
        doc[path[-1]] = value
    return change


def drop_at(*path):
    def change(doc):
        for key in path[:-1]:
            doc = doc[key]
        del doc[path[-1]]
    return change


METRICS = "| `settled_a_total` | counter | count | `code` (x, y) | A. |\n| `settled_b` | histogram | count | `a`, `code` | B. |\n"


def asks(expr, wrong):
    def test():
        found = alerts.check_expression(expr, alerts.families(METRICS))
        return [] if bool(found) == wrong else [f"found {found}"]
    return test


EVENTS = {"lib/core/a.c": 'log_event(LOG_INFO, "begun", LOG_INT("n", 1));\n',
          "README.md": events.HEADLINE + "| `begun` | info | it began | `n` |\n"}
SETTINGS = "| Setting | Default |\n|---|---|\n| a | 1 |\n"
SCHEMAS = ("components", "schemas")
CHECKS = [
    ("an include that goes up is found",
     planted(layers.check_layers, SOUND, file_of("lib/core/b.c", '#include "wire/wire.h"\n'))),
    ("an include of a neighbour is found",
     planted(layers.check_layers, SOUND, file_of("lib/xfer/b.c", '#include "store/store.h"\n'))),
    ("a module without a layer is found",
     planted(layers.check_layers, SOUND, file_of("lib/utils/b.c", "\n"))),
    ("an include without its module is found",
     planted(layers.check_full_paths, SOUND, file_of("lib/core/b.c", '#include "buf.h"\n'))),
    ("a private header outside its module is found",
     planted(layers.check_private, SOUND, file_of("lib/wire/b.c", '#include "core/a-i.h"\n'))),
    ("a second user of a foreign library is found",
     planted(layers.check_foreign, SOUND, file_of("lib/app/b.c", "#include <yaml.h>\n"))),
    ("libcrypto outside channel is found",
     planted(layers.check_foreign, SOUND, file_of("lib/xfer/b.c", "#include <openssl/hmac.h>\n"))),
    ("a public symbol without a prefix is found", bad_symbol),
    ("a name that two modules export is found", twice_exported),
    ("a long function is found", planted(sizes.check_functions, SOUND, file_of("lib/core/b.c", LONG))),
    ("a long parameter list is found",
     planted(sizes.check_params, SOUND, file_of("lib/core/b.h", "int core_p(int a, int b, int c, int d, int e, int f, int g);\n"))),
    ("a long file is found", planted(sizes.check_files, SOUND, file_of("lib/core/b.c", "\n" * 1001))),
    ("a long main.c is found", planted(sizes.check_main, SOUND, file_of("cmd/settled/main.c", "\n" * 100))),
    ("a default over our own enumeration is found", planted(idioms.check_default, SOUND, file_of("lib/core/b.c", DEFAULT))),
    ("a typedef'd struct is found",
     planted(idioms.check_typedef, SOUND, file_of("lib/core/b.h", "typedef struct a { int b; } a_t;\n"))),
    ("a statement in a comment is found",
     planted(idioms.check_dead_code, SOUND, file_of("lib/core/b.c", "int a;\n/* a = core_b(1); */\n"))),
    ("a block that is switched off is found",
     planted(idioms.check_dead_code, SOUND, file_of("lib/core/b.c", "#if 0\nint a;\n#endif\n"))),
    ("indentation by spaces is found",
     planted(idioms.check_tabs, SOUND, file_of("lib/core/b.c", "void core_b(void)\n{\n    core_a();\n}\n"))),
    ("a header without a guard is found", planted(idioms.check_once, SOUND, file_of("lib/core/b.h", "int core_b;\n"))),
    ("a stray name at the top is found", planted(tree.check_layout, SOUND, file_of("utils/a.c", "\n"))),
    ("trailing white space is found", planted(tree.check_whitespace, SOUND, file_of("lib/core/b.c", "int a; \n"))),
    ("something left for later is found",
     planted(tree.check_leftovers, SOUND, file_of("lib/core/b.c", "/* TO" + "DO: later */\n"))),
    ("an unquoted variable is found",
     planted(tree.check_shell, SOUND, file_of("tests/b.sh", "#!/bin/bash\nset -euo pipefail\nrm $1\n"))),
    ("a script that goes on after a failure is found",
     planted(tree.check_strict, SOUND, file_of("tests/b.sh", "#!/bin/bash\necho\n"))),
    ("JSON that does not parse is found", planted(tree.check_data, SOUND, file_of("api/b.json", '{"a": 1,}\n'))),
    ("YAML that does not parse is found", planted(tree.check_data, SOUND, file_of("api/b.yaml", "a: [1\n"))),
    ("a test that no build file names is found", planted(tree.check_registered, file_of("tests/unit/meson.build", "\n"),
                                                         file_of("tests/unit/test_b.c", "\n"))),
    ("a reference into nothing is found",
     broken_api(set_at(*SCHEMAS, "BatchSummary", "properties", "counts", "$ref", value="#/components/schemas/Nothing"))),
    ("a schema that is none is found", broken_api(set_at(*SCHEMAS, "ItemResult", "type", value="objekt"))),
    ("an example that breaks its schema is found", broken_api(set_at(*SCHEMAS, "Item", "required", value=["nothing"]))),
    ("an operation without a name is found", broken_api(drop_at("paths", "/livez", "get", "operationId"))),
    ("an undeclared path parameter is found", broken_api(drop_at("paths", "/v1/batches/{id}", "parameters"))),
    ("a list of codes that differs from the program's is found",
     broken_api(lambda doc: doc["components"]["schemas"]["ErrorCode"]["enum"].pop())),
    ("a list of field codes that differs is found",
     broken_api(lambda doc: doc["components"]["schemas"]["FieldCode"]["enum"].pop())),
    ("a table of settings that is right passes", settings_table(SETTINGS + "\nAfter.\n", SETTINGS, False)),
    ("a setting that the README lacks is found", settings_table(SETTINGS + "\nAfter.\n", SETTINGS + "| b | 2 |\n", True)),
    ("a setting that is gone is found", settings_table(SETTINGS + "| b | 2 |\n\nAfter.\n", SETTINGS, True)),
    ("an expression that asks for what there is passes", asks('sum by (code, le) (rate(settled_b_bucket{a="x y", job="j"}[5m]))', False)),
    ("a metric that is gone is found", asks("rate(settled_c_total[5m])", True)),
    ("a label that is gone is found", asks('settled_a_total{codes=~"x"}', True)),
    ("a value that is gone is found", asks('settled_a_total{code="z"}', True)),
    ("an alternative that is gone is found", asks('settled_a_total{code=~"x|z"}', True)),
    ("values that there are pass", asks('settled_a_total{code=~"x|y"} or settled_b_sum{code!="any", a=~"$a"}', False)),
    ("a label to group by that is gone is found", asks("sum by (service) (settled_a_total)", True)),
    ("a histogram without a suffix is found", asks("settled_b", True)),
    ("an expression that asks for nothing is found", asks("vector(1)", True)),
    ("a field that has one name or another is found by both",
     planted(events.check, EVENTS, file_of("lib/core/b.c", 'log_event(LOG_INFO, "begun", LOG_INT(a->n == b ? "n" : "m", 1));\n'))),
    ("an event that the README lacks is found", planted(events.check, EVENTS, file_of("lib/core/b.c", 'log_event(LOG_WARN, "ended");\n'))),
    ("one whose level depends on something, too",
     planted(events.check, EVENTS, file_of("lib/core/b.c", 'log_event(a->bad ? LOG_WARN : LOG_INFO, "ended");\n'))),
    ("a level that is not in the call is found",
     planted(events.check, EVENTS, file_of("lib/core/b.c", 'log_event(level, "begun", LOG_INT("n", 1));\n'))),
    ("passed cases are counted", counted("OK", "1..2\nok 1 - a\nok 2 - b\n", (2, 0, 0))),
    ("a failed case is counted", counted("FAIL", "1..2\nok 1 - a\nnot ok 2 - b\n", (1, 1, 0))),
    ("a skipped case is counted apart", counted("OK", "1..2\nok 1 - a # SKIP no b\nok 2\n", (1, 0, 1))),
    ("a skipped test is counted apart", counted("SKIP", "1..0 # SKIP no b\n", (0, 0, 1))),
    ("a crash counts as failed", counted("ERROR", "1..2\nok 1 - a\n", (1, 1, 0), status=-11)),
    ("a crash after the last case counts as failed", counted("ERROR", "1..1\nok 1 - a\n", (1, 1, 0), status=-11)),
    ("a test without a plan counts as failed", counted("OK", "ok 1 - a\n", (1, 1, 0))),
    ("a test without cases counts as failed", counted("SKIP", "", (0, 1, 0))),
    ("a failure marked as known counts as failed", counted("OK", "1..1\nnot ok 1 - a # TO" + "DO b\n", (0, 1, 0))),
    ("a plain test that fails is counted", counted("FAIL", "", (0, 1, 0), protocol="exitcode", status=1)),
    ("a plain test that passes is counted", counted("OK", "", (1, 0, 0), protocol="exitcode")),
    ("what failed in a stage is said again at the end", stages_say_again_what_failed),
]

if __name__ == "__main__":
    tap.run(CHECKS)
