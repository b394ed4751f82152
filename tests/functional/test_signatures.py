"""Signatures as receivers check them: with the verifier that Standard Webhooks
publishes on npm, installed here in the version and with the digests of the lock file."""

import base64
import json
import os
import shutil
import subprocess
import tempfile

import harness
import kit
from harness import item

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "standardwebhooks")
OLD, NEW, WRONG = ("whsec_" + base64.b64encode(text).decode() for text in (
    b"the old key of 32 bytes or so...", b"the new key, also of 32 bytes...", b"a key that nobody was told of..."))
REFUSED = "WebhookVerificationError: No matching signature found"


class Signatures(harness.Case):
    config = {"services": {"rotating": {"kind": "webhook", "allow": ["127.0.0.0/8"], "secret": [NEW, OLD]},
                           "new": {"kind": "webhook", "allow": ["127.0.0.0/8"], "secret": NEW},
                           "unsigned": {"kind": "webhook", "allow": ["127.0.0.0/8"]}}}

    @classmethod
    def setUpClass(cls):
        kit.need("node", "npm")
        cls.dir = tempfile.TemporaryDirectory(prefix="settled-test-")
        cls.addClassCleanup(cls.dir.cleanup)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(HERE, name), cls.dir.name)
        done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=cls.dir.name, capture_output=True,
                              text=True, timeout=10 * harness.LIMIT_S, check=False)
        if done.returncode != 0:
            raise AssertionError("npm cannot install standardwebhooks; is registry.npmjs.org in reach?\n" + done.stderr + done.stdout)
        super().setUpClass()

    def deliver(self, service, payload=b'{"text": "\xc3\xa9 1.10", "n": 12345678901234567890}'):
        """The headers and the body that the downstream got."""
        body = json.dumps({"service": service, "items": [item(1, self.url("/hook"))]}).encode().replace(b'{"n": 1}', payload)
        answer = self.settled.post(body)
        self.assertEqual(answer.json["outcome"], "succeeded", answer.body)
        entry = self.down.ledger()[-1]
        self.assertEqual(entry["body"], payload)
        return {name.lower(): value for name, value in entry["headers"]}, entry["body"]

    def verify(self, *cases):
        lines = [json.dumps({"secret": secret, "headers": headers, "body": base64.b64encode(body).decode()})
                 for secret, headers, body in cases]
        done = subprocess.run(["node", os.path.join(HERE, "verify.mjs")], cwd=self.dir.name, input="\n".join(lines) + "\n",
                              capture_output=True, text=True, timeout=harness.LIMIT_S, check=True)
        return done.stdout.splitlines()

    def test_while_a_secret_is_replaced_the_old_and_the_new_one_verify(self):
        headers, body = self.deliver("rotating")
        self.assertEqual(self.verify((NEW, headers, body), (OLD, headers, body), (WRONG, headers, body)), ["ok", "ok", REFUSED])

    def test_the_new_secret_alone_verifies_when_the_old_one_is_gone(self):
        headers, body = self.deliver("new")
        self.assertEqual(self.verify((NEW, headers, body), (OLD, headers, body)), ["ok", REFUSED])
        self.assertEqual(len(headers["webhook-signature"].split()), 1)

    def test_what_was_changed_on_the_way_does_not_verify(self):
        headers, body = self.deliver("rotating")
        other, _ = self.deliver("rotating", b'{"text": "another"}')
        later = str(int(headers["webhook-timestamp"]) + 1)
        self.assertEqual(self.verify((NEW, headers, body.replace(b"1.10", b"1.1")), (NEW, headers, body + b" "),
                                     (NEW, {**headers, "webhook-id": other["webhook-id"]}, body),
                                     (NEW, {**headers, "webhook-timestamp": later}, body),
                                     (NEW, {**headers, "webhook-signature": other["webhook-signature"]}, body),
                                     (NEW, headers, body)), [REFUSED] * 5 + ["ok"])

    def test_each_attempt_of_an_item_verifies(self):
        to = self.url("/hook?status=500&times=1")
        answer = self.settled.post({"service": "rotating", "items": [item(1, to)], "retry": {"max_attempts": 2, "base_ms": 1, "cap_ms": 1}})
        self.assertEqual(answer.json["outcome"], "succeeded", answer.body)
        seen = [({name.lower(): value for name, value in e["headers"]}, e["body"]) for e in self.down.ledger()]
        self.assertEqual(len(seen), 2)
        self.assertEqual(self.verify(*((secret, *one) for one in seen for secret in (NEW, OLD))), ["ok"] * 4)
        self.assertEqual(seen[0][0]["webhook-id"], seen[1][0]["webhook-id"])

    def test_without_a_secret_there_is_no_signature(self):
        headers, body = self.deliver("unsigned")
        self.assertNotIn("webhook-signature", headers)
        self.assertEqual(self.verify((NEW, headers, body)), ["WebhookVerificationError: Missing required headers"])


if __name__ == "__main__":
    harness.main()
