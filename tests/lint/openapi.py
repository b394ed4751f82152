#!/usr/bin/python3
"""api/openapi.yaml is a sound OpenAPI 3.1 document, its examples fit its
schemas, and its closed lists are the program's."""
import json
import re
import sys
from pathlib import Path

import jsonschema
import tap
import yaml

METHODS = {"get", "head", "post", "put", "delete", "patch", "options", "trace"}

# Schema, header with the table, table, and names that are never on the wire.
TABLES = [("ErrorCode", "lib/core/outcome.h", "CODE_TABLE", {"ok"}),
          ("Stop", "lib/core/outcome.h", "STOP_TABLE", {"none"}),
          ("Delivered", "lib/core/outcome.h", "DELIVERED_TABLE", set()),
          ("Phase", "lib/core/outcome.h", "PHASE_TABLE", set()),
          ("Status", "lib/core/outcome.h", "STATUS_TABLE", set()),
          ("Contract", "lib/core/batch.h", "CONTRACT_TABLE", set()),
          ("State", "lib/core/batch.h", "BATCH_STATE_TABLE", set()),
          ("Outcome", "lib/core/batch.h", "BATCH_OUTCOME_TABLE", {"none"}),
          ("StopReason", "lib/core/batch.h", "STOP_REASON_TABLE", {"none"}),
          ("ProblemCode", "lib/wire/wire.h", "PROBLEM_TABLE", set()),
          ("FieldCode", "lib/wire/wire.h", "FAULT_TABLE", set())]


def load(root):
    return yaml.safe_load((root / "api/openapi.yaml").read_text())


def walk(node, where="#"):
    yield where, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, f"{where}/{str(key).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(node, list):
        for n, value in enumerate(node):
            yield from walk(value, f"{where}/{n}")


def lookup(doc, pointer):
    node = doc
    for part in pointer.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def follow(doc, node):
    while isinstance(node, dict) and set(node) & {"$ref"}:
        node = lookup(doc, node["$ref"])
    return node


def operations(doc):
    for path, item in doc["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item, item[method]


def check_references(root, doc):
    found = []
    for where, node in walk(doc):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            try:
                lookup(doc, node["$ref"])
            except (KeyError, TypeError):
                found.append(f"{where}: {node['$ref']} leads nowhere")
    return found


def check_document(root, doc):
    found = [f"#: no {key}" for key in ("openapi", "info", "paths") if key not in doc]
    if not str(doc.get("openapi", "")).startswith("3.1."):
        found.append("#/openapi: 3.1 is wanted")
    names = [op.get("operationId") for _, _, _, op in operations(doc)]
    for path, method, item, op in operations(doc):
        where = f"{method} {path}"
        if not op.get("operationId") or names.count(op["operationId"]) > 1:
            found.append(f"{where}: it needs an operationId of its own")
        if not op.get("responses") or not op.get("summary"):
            found.append(f"{where}: it needs a summary and responses")
        params = [follow(doc, p) for p in item.get("parameters", []) + op.get("parameters", [])]
        declared = {p["name"] for p in params if p["in"] == "path" and p.get("required")}
        if declared != set(re.findall(r"{(\w+)}", path)):
            found.append(f"{where}: its path parameters are not those it declares")
        for status, answer in op.get("responses", {}).items():
            if not re.fullmatch(r"[1-5]\d\d", str(status)) or "description" not in follow(doc, answer):
                found.append(f"{where}: response {status} needs a status of three digits and a description")
    return found


def check_schemas(root, doc):
    found = []
    for where, node in walk(doc):
        if re.search(r"(/schema|#/components/schemas/[^/]+)$", where) and isinstance(node, dict):
            try:
                jsonschema.Draft202012Validator.check_schema(node)
            except jsonschema.SchemaError as e:
                found.append(f"{where}: {e.message}")
    return found


def errors_of(doc, schema, value):
    whole = {"$ref": "#/schema", "schema": schema, "components": doc["components"]}
    validator = jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())
    return [f"{e.json_path}: {e.message}" for e in validator.iter_errors(value)]


def check_examples(root, doc):
    """Examples beside a schema; a file of api/examples through `x-file`."""
    found, used = [], set()
    for where, node in walk(doc):
        if not isinstance(node, dict) or not isinstance(node.get("schema"), dict):
            continue
        for name, example in node.get("examples", {}).items():
            example = follow(doc, example)
            if "x-file" in example:
                used.add(example["x-file"])
                value = json.loads((root / "api" / example["x-file"]).read_text())
            else:
                value = example["value"]
            found += [f"{where}/examples/{name}: {e}" for e in errors_of(doc, node["schema"], value)]
    for path in sorted((root / "api/examples").glob("*.json")):
        if f"examples/{path.name}" not in used:
            found.append(f"api/examples/{path.name}: no example of api/openapi.yaml names it as x-file")
    return found


def table(text, name):
    body = re.search(rf"#define {name}\(X\)((?:.*\\\n)*.*\n)", text)[1]
    return re.findall(r"X\(\w+, (\w+)", body)


def check_tables(root, doc):
    found = []
    for schema, header, name, hidden in TABLES:
        ours = [n for n in table((root / header).read_text(), name) if n not in hidden]
        theirs = doc["components"]["schemas"][schema]["enum"]
        if sorted(ours) != sorted(theirs):
            found.append(f"{schema}: differs from {name} in {header}: {sorted(set(ours) ^ set(theirs))}")
    return found


CHECKS = [("every reference leads somewhere", check_references),
          ("the document has what OpenAPI 3.1 asks for", check_document),
          ("every schema is JSON Schema 2020-12", check_schemas),
          ("every example fits its schema", check_examples),
          ("the closed lists are the program's", check_tables)]


def all_findings(root, doc):
    """Later checks need sound references: stop at the first that finds something."""
    for _, check in CHECKS:
        found = check(root, doc)
        if found:
            return found
    return []


if __name__ == "__main__":
    ROOT = Path(sys.argv[1])
    DOC = load(ROOT)
    tap.run([(name, lambda c=check: c(ROOT, DOC)) for name, check in CHECKS])
