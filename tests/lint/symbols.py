#!/usr/bin/python3
"""The public symbols of each module's archive carry the module's prefixes."""
import subprocess
import sys

import tap

# Exact names or prefixes (ending in "_"). Modules that export families name them all.
PREFIXES = {
    "base": ["base_", "list_", "buf_", "blob_", "slice_", "arena_", "heap_", "rng_", "batch_id_", "cidr_",
             "xcalloc", "xstrdup"],
    "obs": ["log_", "meter_", "metrics_"],
    "core": ["op_", "batch_", "item_", "gate_", "outcome_", "code_", "contract_", "retry_", "why_", "stop_",
             "status_", "phase_", "delivered_"],
    "config": ["config_", "service_kind_"],
    "wire": ["wire_", "problem_"],
    "loop": ["loop_"],
    "channel": ["channel_"],
    "xfer": ["xfer_"],
    "store": ["store_"],
    "httpd": ["httpd_", "http_"],
    "dispatch": ["dispatch_"],
    "routes": ["routes_", "route_", "openapi_json", "openapi_json_len"],
    "app": ["app_"],
}


def check_archive(module, archive):
    if module not in PREFIXES:
        return [f"module {module} has no prefixes: add it to tests/lint/symbols.py"]
    out = subprocess.run(["nm", "--extern-only", "--defined-only", "--format=posix", archive],
                         check=True, capture_output=True, text=True).stdout
    # A line "archive[member]:" heads each member.
    names = [line.split()[0] for line in out.splitlines() if line and not line.endswith(":")]
    if not names:
        return [f"{archive}: it exports nothing"]
    return [f"{module}: {name} has none of the prefixes {' '.join(PREFIXES[module])}"
            for name in names if not fits(name, PREFIXES[module])]


def fits(name, prefixes):
    # gcc's sanitizers and profiling add names that start with two underscores.
    return name.startswith("__") or any(
        name.startswith(p) if p.endswith("_") else name == p for p in prefixes)


if __name__ == "__main__":
    pairs = [arg.split("=", 1) for arg in sys.argv[1:]]
    tap.run([(f"the symbols of {m} carry its prefix", lambda m=m, a=a: check_archive(m, a)) for m, a in pairs])
