"""Callers who show keys."""

import hashlib

import harness

JSON = {"Content-Type": "application/json"}


def bearer(key):
    return {"Authorization": "Bearer " + key}


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


def keys_config(keys):
    """`auth.keys` for a dict of keys, each with its tenant; None: it is an admin's."""
    return [{"name": f"k{n}", "sha256": sha256(key), **({"tenant": tenant} if tenant else {"scope": "admin"})}
            for n, (key, tenant) in enumerate(keys.items())]


class Caller:
    """Asks a daemon with a key, or without one."""

    def __init__(self, daemon, key):
        self.daemon, self.key = daemon, key

    def ask(self, method, path, body=None, headers=None):
        return self.daemon.ask(method, path, body, {**(bearer(self.key) if self.key else {}), **(headers or {})})

    def post(self, batch, headers=None):
        return self.ask("POST", "/v1/batches", harness.encode(batch), {**JSON, **(headers or {})})

    def done(self, batch_id):
        return self.ask("GET", "/v1/batches/" + batch_id, headers={"Prefer": "wait=60"})
