#!/usr/bin/python3
"""What a module offers to others carries its prefixes; what its own files share
need not, but no two modules export the same name.

symbols.py ROOT MODULE=ARCHIVE...
"""
import re
import subprocess
import sys
from pathlib import Path

import layers
import tap

# Exact names or prefixes (ending in "_"). Modules that export families name them all.
PREFIXES = {
    "base": ["base_", "list_", "buf_", "blob_", "slice_", "arena_", "heap_", "rng_", "batch_id_", "cidr_", "cores_",
             "idmap_", "digest_", "pem_", "kill_point", "xcalloc", "xstrdup"],
    "obs": ["log_", "meter_", "metrics_", "span_", "spans_"],
    "core": ["op_", "batch_", "item_", "gate_", "outcome_", "code_", "contract_", "retry_", "why_", "stop_",
             "status_", "phase_", "delivered_", "rate_", "breaker_", "budget_", "window_", "part_"],
    "config": ["config_", "service_kind_"],
    "wire": ["wire_", "problem_"],
    "loop": ["loop_"],
    "channel": ["channel_"],
    "xfer": ["xfer_"],
    "store": ["store_", "memory_", "sqlite_"],
    "httpd": ["httpd_", "http_"],
    "dispatch": ["dispatch_"],
    "routes": ["routes_", "route_", "openapi_json", "openapi_json_len"],
    "app": ["app_"],
}


def exported(archive):
    out = subprocess.run(["nm", "--extern-only", "--defined-only", "--format=posix", archive],
                         check=True, capture_output=True, text=True).stdout
    # A line "archive[member]:" heads each member. gcc's sanitizers add names that
    # start with two underscores.
    names = [line.split()[0] for line in out.splitlines() if line and not line.endswith(":")]
    return {n for n in names if not n.startswith("__")}


def private_words(root, module):
    """Every word of the headers that no other module and no program includes."""
    used = {name for path in layers.sources(root, "lib", "cmd") if layers.module_of(root, path) != module
            for _, _, name in layers.includes(path)}
    texts = [p.read_text() for p in (root / "lib" / module).glob("*.h") if f"{module}/{p.name}" not in used]
    return set(re.findall(r"\w+", "\n".join(texts)))


def check_archive(root, module, archive):
    if module not in PREFIXES:
        return [f"module {module} has no prefixes: add it to tests/lint/symbols.py"]
    names = exported(archive)
    if not names:
        return [f"{archive}: it exports nothing"]
    private = private_words(root, module) if (root / "lib" / module).is_dir() else set()
    return [f"{module}: {name} has none of the prefixes {' '.join(PREFIXES[module])}, and no private header has it"
            for name in sorted(names) if not fits(name, PREFIXES[module]) and name not in private]


def fits(name, prefixes):
    return any(name.startswith(p) if p.endswith("_") else name == p for p in prefixes)


def check_unique(archives):
    owner, found = {}, []
    for module, archive in archives:
        for name in sorted(exported(archive)):
            if name in owner:
                found.append(f"{name}: exported by {owner[name]} and by {module}")
            owner[name] = module
    return found


if __name__ == "__main__":
    ROOT = Path(sys.argv[1])
    ARCHIVES = [arg.split("=", 1) for arg in sys.argv[2:]]
    tap.run([(f"what {m} offers carries its prefix", lambda m=m, a=a: check_archive(ROOT, m, a)) for m, a in ARCHIVES]
            + [("no name is exported by two modules", lambda: check_unique(ARCHIVES))])
