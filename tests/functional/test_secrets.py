"""What is secret stays secret: credentials, payloads and a downstream's answer
are in no log line, no error, no metric and no result. At log.level debug alone
the start of an answer that is no success is in one field of the attempt's line."""

import base64
import json
import os
import re
import resource
import signal
import subprocess
import tempfile
import unittest

import callers
import harness
import reading
from harness import item

TOKEN = "token-from-the-environment-4711"
KEY = "whsec_" + base64.b64encode(b"a signing key of thirty-two byte").decode()
OLD_KEY = "whsec_" + base64.b64encode(b"one that it replaces, also of 32").decode()
ENV = {"TOKEN": TOKEN, "SIGNING_KEY": KEY, "OLD_KEY": OLD_KEY}
FROM_FILE = "key-from-a-file-0815"
PAYLOAD = "what-nobody-else-may-read"
RAW = "what-the-downstream-said"
LONG = RAW + "-at-such-length" * 20 + "-and-no-further"
QUOTE_MAX = 256
CAPABILITY = "capability-in-the-url"
HIDDEN = (TOKEN, KEY, KEY.removeprefix("whsec_"), "a signing key", OLD_KEY.removeprefix("whsec_"), "one that it replaces", FROM_FILE, PAYLOAD, RAW, CAPABILITY)


class Secrets(unittest.TestCase):
    def setUp(self):
        self.down = harness.Downstream()
        self.addCleanup(self.down.stop)
        self.dir = tempfile.TemporaryDirectory(prefix="settled-test-")
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "key")
        with open(self.path, "w", encoding="utf-8") as f:
            f.write(FROM_FILE + "\n")

    def services(self):
        return {"push": {"kind": "http", "url": self.down.url + "/{to}", "secret": "${SIGNING_KEY}",
                         "headers": {"authorization": "Bearer ${TOKEN}", "x-api-key": f"${{file:{self.path}}}"}},
                "hook": {"kind": "webhook", "secret": ["${SIGNING_KEY}", "${OLD_KEY}"], "allow": ["127.0.0.0/8"]},
                "wall": {"kind": "webhook", "secret": "${SIGNING_KEY}"},
                "dead": {"kind": "http", "url": "http://127.0.0.1:1/{to}", "headers": {"authorization": "Bearer ${TOKEN}"}}}

    def batch(self):
        asks = [f"status={s}&body={LONG if s == 400 else RAW}"
                for s in (200, 201, 302, 400, 401, 403, 404, 410, 413, 429, 500, 503)]
        asks += ["hang", "reset", "close", "broken=status", "broken=headers", "broken=length", "endless=body", "endless=headers"]
        items = [item(n, f"{ask}&tag={CAPABILITY}", service="push") for n, ask in enumerate(asks)]
        items += [item(100 + n, f"{self.down.url}/x?{ask}&tag={CAPABILITY}", service="hook") for n, ask in enumerate(asks)]
        items += [item(200, f"{self.down.url}/x?tag={CAPABILITY}", service="wall"), item(201, CAPABILITY, service="dead"),
                  item(202, f"http://{CAPABILITY}.invalid/", service="hook"), item(203, f"x {CAPABILITY}", service="hook"),
                  item(204, f"http://{CAPABILITY}:{TOKEN}@127.0.0.1/", service="hook"),
                  item(205, f"https://localhost:1/{CAPABILITY}", service="hook")]
        for it in items:
            it["payload"] = {"text": PAYLOAD}
        return {"service": "hook", "contract": "best_effort", "attempt_timeout_ms": 300, "include": ["attempts"],
                "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1}, "items": items}

    def check(self, texts):
        for text in texts:
            for secret in HIDDEN:
                self.assertNotIn(secret, text)

    def ask_everything(self, level, log_format):
        """All that the daemon told callers, and its log."""
        daemon = harness.Daemon({"services": self.services(), "log": {"level": level, "format": log_format}},
                                env=ENV)
        texts = []
        for headers in ({}, {"Accept": "application/x-ndjson"}):
            answer = daemon.post(self.batch(), headers)
            texts.append(answer.body.decode() + str(answer.headers))
        texts += [daemon.ask("GET", path).body.decode() for path in ("/metrics", "/v1/services", "/v1/limits")]
        texts.append(daemon.post(b'{"items":[{"id":"%s","payload":"%s' % (PAYLOAD.encode(), TOKEN.encode())).body.decode())
        self.assertEqual(daemon.stop(), 0)
        return texts, daemon.text()

    def quotes(self, log, log_format):
        """The lines with a quoted answer as (status, quote), and the log without the quotes."""
        quote = r',"answer":"([^"]*)"' if log_format == "json" else r" answer=(\S+)"
        status = r'\bhttp_status"?[=:](\d+)'
        lines = [(int(re.search(status, line)[1]), re.search(quote, line)[1])
                 for line in log.splitlines() if "attempt_done" in line and re.search(quote, line)]
        return lines, re.sub(quote, "", log)

    def test_no_secret_leaves_the_process_but_to_its_service(self):
        for log_format in ("logfmt", "json"):
            texts, log = self.ask_everything("info", log_format)
            self.assertIn("batch_done", log)
            self.check([*texts, log])
            texts, log = self.ask_everything("debug", log_format)
            quotes, rest = self.quotes(log, log_format)
            self.check([*texts, rest])
            self.assertIn((410, RAW), quotes)
            self.assertIn((400, LONG[:QUOTE_MAX]), quotes)
            self.assertEqual([q for q in quotes if q[0] in (200, 201)], [])
            self.check([quote.replace(RAW, "") for _, quote in quotes])
        sent = self.down.ledger()
        headers = {k.lower(): v for e in sent for k, v in e["headers"]}
        self.assertEqual((headers["authorization"], headers["x-api-key"]), ("Bearer " + TOKEN, FROM_FILE))
        self.assertIn(PAYLOAD.encode(), sent[0]["body"])

    def test_an_error_of_the_configuration_shows_none(self):
        bad = {**ENV, "TOKEN": TOKEN + "\nX: y", "SIGNING_KEY": KEY + "!"}
        path = os.path.join(self.dir.name, "settled.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"""
listen: "${{TOKEN}}"
shards: "${{SIGNING_KEY}}"
limits: {{items: "${{TOKEN}}"}}
services:
  a: {{kind: http, url: "${{TOKEN}}", headers: {{x: "${{TOKEN}}"}}, method: "${{TOKEN}}"}}
  b: {{kind: webhook, secret: "${{SIGNING_KEY}}", allow: ["${{TOKEN}}"]}}
  c: {{kind: "${{file:{self.path}}}"}}
  d: {{kind: webhook, secret: ["${{SIGNING_KEY}}"], ca_file: "${{SIGNING_KEY}}", cert_file: "/${{SIGNING_KEY}}", key_file: "${{file:{self.path}}}"}}
""")
        done = subprocess.run([*harness.SETTLED, "--check", "--config", path], capture_output=True, text=True, check=False,
                              timeout=harness.LIMIT_S, env={**os.environ, **bad})
        self.assertEqual(done.returncode, 2)
        self.assertGreaterEqual(len(done.stderr.splitlines()), 12, done.stderr)
        self.check([done.stdout, done.stderr])

    def run_with(self, *args, config):
        path = os.path.join(self.dir.name, "settled.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(config if isinstance(config, str) else json.dumps(config))
        return subprocess.run([*harness.SETTLED, *args, "--config", path], capture_output=True, text=True, check=False,
                              timeout=harness.LIMIT_S, env={**os.environ, **ENV})

    def test_the_printed_configuration_shows_none_and_can_be_used_again(self):
        services = self.services()
        services["capable"] = {"kind": "http", "url": "http://x/${TOKEN}"}
        config = {"services": services, "store": {"memory": True}, "limits": {"items": 7}, "listen": "[::1]:1"}
        printed = self.run_with("--print-config", config=config)
        self.assertEqual((printed.returncode, printed.stderr), (0, ""))
        self.check([printed.stdout])
        self.assertEqual(printed.stdout.count('"***"'), 8)
        for line in ('listen: "[::1]:1"', "  items: 7", '    allow: ["127.0.0.0/8"]', f'    url: "{self.down.url}/{{to}}"'):
            self.assertIn(line + "\n", printed.stdout)
        refused = self.run_with("--check", config=printed.stdout)
        self.assertEqual((refused.returncode, len(re.findall("stands for a secret", refused.stderr))), (2, 8))
        whole = printed.stdout.replace('secret: "***"', 'secret: "${SIGNING_KEY}"')
        whole = whole.replace('secret: ["***", "***"]', 'secret: ["${SIGNING_KEY}", "${OLD_KEY}"]')
        whole = whole.replace('url: "***"', 'url: "http://x/${TOKEN}"').replace('"***"', '"${TOKEN}"')
        again = self.run_with("--print-config", config=whole)
        self.assertEqual((again.stderr, again.stdout), ("", printed.stdout))

    def test_a_refused_reload_shows_none(self):
        daemon = harness.Daemon({"services": self.services()}, env=ENV)
        with open(daemon.config_path, "w", encoding="utf-8") as f:
            f.write(f'limits: {{items: "${{TOKEN}}"}}\nservices: {{a: {{kind: webhook, secret: "${{file:{self.path}}}"}}}}\n')
        daemon.child.send_signal(signal.SIGHUP)
        daemon.wait_line("event=reload_refused .*secret")
        self.assertEqual(daemon.stop(), 0)
        self.check([daemon.text()])

    def dumps_core(self, services, reload=None, **more):
        """Does a daemon that dies leave its memory behind?"""
        limits = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
        try:
            daemon = harness.Daemon({"services": services, **more}, env=ENV, cwd=self.dir.name)
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, limits)
        if reload is not None:
            with open(daemon.config_path, "w", encoding="utf-8") as f:
                json.dump({"services": reload}, f)
            daemon.child.send_signal(signal.SIGHUP)
            daemon.wait_line("event=reloaded")
        self.instrumented = reading.instrumented(daemon)
        os.kill(daemon.child.pid, signal.SIGABRT)
        _, status = os.waitpid(daemon.child.pid, 0)
        daemon.child.returncode = -os.WTERMSIG(status)
        daemon.stop()
        return os.WCOREDUMP(status)

    def test_a_core_dump_has_none_because_there_is_none(self):
        plain = {"hook": {"kind": "webhook"}}
        # A sanitizer lets no program dump anything: there the control has nothing to show.
        if not self.dumps_core(plain) and not self.instrumented:
            self.skipTest("no core dumps here")
        self.assertFalse(self.dumps_core(self.services()))
        self.assertFalse(self.dumps_core(plain, reload=self.services()))
        self.assertFalse(self.dumps_core({"hook": {"kind": "webhook", "secret": "${SIGNING_KEY}"}}))
        self.assertFalse(self.dumps_core({"a": {"kind": "http", "url": "http://x/${TOKEN}"}}))
        # What it has of a caller's key is no secret; what the caller shows is.
        self.assertFalse(self.dumps_core(plain, auth={"keys": callers.keys_config({TOKEN: "t"})}))
        self.assertFalse(self.dumps_core(plain, tracing={"endpoint": "http://127.0.0.1:1/${TOKEN}"}))


if __name__ == "__main__":
    harness.main()
