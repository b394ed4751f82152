"""The container image: what it says of itself, how big it is, and that it runs
with a read-only root, one volume, any user and no shell, as process 1."""

import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import unittest

import container
import harness
import kit
import rawhttp
from harness import item

LIMIT_BYTES = 50 * 1000 * 1000
KEY = "a-key-that-nobody-else-has"
KEY_SHA256 = hashlib.sha256(KEY.encode()).hexdigest()
# The same settings as the image's own file, but for who may ask and where items go.
OPEN = """
listen: ${SETTLED_LISTEN}
auth: {open: true}
store: {path: /var/lib/settled}
services:
  push: {kind: http, url: "%s/push/{to}"}
"""


def setUpModule():
    container.need()
    global image
    image = container.Image()
    unittest.addModuleCleanup(image.close)
    container.own_network()


class Facts(unittest.TestCase):
    longMessage = True

    def test_it_says_what_an_engine_needs_to_know(self):
        config = image.config
        self.assertEqual(config["Entrypoint"], ["/usr/local/bin/settled"])
        self.assertFalse(config.get("Cmd"))
        self.assertEqual((config["User"], config["StopSignal"]), ("65532:0", "SIGTERM"))
        self.assertEqual((list(config["ExposedPorts"]), list(config["Volumes"])), (["8080/tcp"], ["/var/lib/settled"]))
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/usr/local/bin/settled", "healthcheck"])

    def test_its_labels_tell_what_it_is(self):
        labels = {k.removeprefix("org.opencontainers.image."): v for k, v in image.config["Labels"].items()}
        with open(os.path.join(container.ROOT, "meson.build"), encoding="utf-8") as f:
            version = re.search(r"^  version: '(.*)'", f.read(), re.M)[1]
        self.assertEqual((labels["title"], labels["licenses"], labels["version"]), ("settled", "MIT", version))
        self.assertTrue(labels["description"])

    def test_it_adds_at_most_50_MB_to_its_base(self):
        added = image.added_bytes()
        print(f"# the image adds {added / 1e6:.1f} MB to its base")
        self.assertLess(added, LIMIT_BYTES)

    def test_it_holds_no_secret_and_nothing_of_its_build(self):
        self.assertEqual([e for e in image.config["Env"] if re.match(r"\w*(KEY|SECRET|TOKEN|PASSWORD)", e)], [])
        with open(os.path.join(image.tree, "etc/settled/settled.yaml"), encoding="utf-8") as f:
            self.assertIn("sha256: ${SETTLED_KEY_SHA256}\n", f.read())
        for path in ("src", "build", "out", "tmp/packages.sh", "usr/bin/gcc", "usr/bin/meson"):
            self.assertFalse(os.path.lexists(os.path.join(image.tree, path)), path)
        self.assertEqual(os.listdir(os.path.join(image.tree, "var/lib/settled")), [])


class Case(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.volume = tempfile.mkdtemp(prefix="settled-test-")
        self.addCleanup(shutil.rmtree, self.volume)
        self.own_volume(65532, 0, 0o770)
        self.down = harness.Downstream()
        self.addCleanup(self.down.stop)

    def own_volume(self, user, group, mode):
        os.chown(self.volume, user, group)
        os.chmod(self.volume, mode)

    def start(self, **how):
        c = container.Container(image, self.volume, **how)
        self.addCleanup(c.close)
        return c

    def serve(self, **how):
        c = self.start(**{"config": OPEN % self.down.url, **how})
        c.wait_serving()
        return c


class Start(Case):
    def test_without_a_key_it_says_what_to_give_and_does_not_start(self):
        c = self.start()
        self.assertEqual(c.child.wait(harness.LIMIT_S), 2)
        c.reader.join(harness.LIMIT_S)
        self.assertIn("the environment variable SETTLED_KEY_SHA256 is not set", c.text())

    def test_with_a_key_it_serves_whoever_shows_it(self):
        c = self.start(env={"SETTLED_KEY_SHA256": KEY_SHA256})
        c.wait_serving()
        batch = {"validate_only": True, "items": [item(1, "https://example.com/hook")]}
        self.assertEqual(c.post(batch).status, 401)
        answer = c.post(batch, {"Authorization": f"Bearer {KEY}"})
        self.assertEqual((answer.status, answer.json), (200, {"valid": True, "items": 1}))
        self.assertTrue(all(json.loads(line) for line in c.lines if line), "a line that is no JSON")
        self.assertNotIn(KEY_SHA256, c.text())
        self.assertEqual(c.inside("/usr/local/bin/settled", "healthcheck").returncode, 0)
        self.assertEqual(c.end(signal.SIGTERM), 0)

    def test_metrics_are_shown_where_the_environment_says(self):
        c = self.start(env={"SETTLED_KEY_SHA256": KEY_SHA256, "SETTLED_OPERATIONS": "0.0.0.0:9090"})
        c.wait_serving()
        self.assertEqual(c.ask("GET", "/metrics").status, 401)
        c.port = 9090
        self.assertIn(b"settled_build_info", c.ask("GET", "/metrics").body)
        self.assertEqual(c.post({"items": []}).status, 404)

    def test_common_settings_come_from_the_environment(self):
        c = self.start(env={"SETTLED_KEY_SHA256": KEY_SHA256, "SETTLED_LISTEN": "127.0.0.1:8081", "SETTLED_LOG_FORMAT": "logfmt",
                            "SETTLED_LAME_DUCK_MS": "1", "SETTLED_DRAIN_MS": "2"})
        c.wait_line("event=listening host=127.0.0.1 port=8081 ")
        c.port = 8081
        limits = c.ask("GET", "/v1/limits", headers={"Authorization": f"Bearer {KEY}"}).json
        self.assertEqual((limits["lame_duck_ms"], limits["drain_ms"]), (1, 2))
        self.assertEqual(c.inside("/usr/local/bin/settled", "healthcheck").returncode, 0)


class Run(Case):
    def test_any_user_runs_it_on_a_read_only_root(self):
        for user, owner, mode in (("65532:0", (65532, 0), 0o770), ("12345:0", (65532, 0), 0o770), ("12345:12345", (12345, 12345), 0o700)):
            with self.subTest(user=user):
                shutil.rmtree(self.volume)
                os.mkdir(self.volume)
                self.own_volume(*owner, mode)
                c = self.serve(user=user)
                with open(f"/proc/{c.pid}/status", encoding="ascii") as f:
                    status = f.read()
                self.assertRegex(status, rf"Uid:(\s+{user.split(':')[0]}){{4}}\n")
                self.assertRegex(status, r"CapEff:\s+0{16}\n")
                self.assertRegex(status, r"NSpid:.*\t1\n")
                with open(f"/proc/{c.pid}/mounts", encoding="ascii") as f:
                    root = [line.split()[3] for line in f if line.split()[1] == "/"]
                self.assertRegex(root[-1], "^ro,")
                job = c.post({"service": "push", "items": [item(n, "x") for n in range(10)]}, {"Prefer": "respond-async"})
                self.assertEqual(job.status, 202)
                done = c.ask("GET", job.headers["Location"], headers={"Prefer": "wait=30"})
                self.assertEqual((done.json["outcome"], done.json["durability"]), ("succeeded", "disk"))
                self.assertEqual(c.end(signal.SIGTERM), 0)

    def test_jobs_are_in_the_volume_over_a_restart(self):
        c = self.serve()
        job = c.post({"service": "push", "items": [item(1, "x")]}, {"Prefer": "respond-async"})
        self.assertEqual(c.ask("GET", job.headers["Location"], headers={"Prefer": "wait=30"}).json["outcome"], "succeeded")
        self.assertEqual(c.end(signal.SIGTERM), 0)
        c = self.serve()
        self.assertEqual(c.ask("GET", job.headers["Location"]).json["outcome"], "succeeded")

    def test_its_health_check_needs_no_shell_and_tells_the_truth(self):
        c = self.serve()
        check = c.inside(*image.config["Healthcheck"]["Test"][1:])
        self.assertEqual((check.returncode, check.stdout + check.stderr), (0, ""))
        sock = c.start_post({"service": "push", "items": [item(1, "hang")]})
        self.addCleanup(sock.close)
        kit.until(lambda: "settled_requests_parked 1" in c.ask("GET", "/metrics").body.decode(), "no batch")
        os.kill(c.pid, signal.SIGTERM)
        c.wait_line("event=draining")
        check = c.inside(*image.config["Healthcheck"]["Test"][1:])
        self.assertEqual(check.returncode, 1)
        self.assertIn("is it draining?", check.stderr)


class ProcessOne(Case):
    def test_signals_drain_it_and_it_exits_with_0(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number.name):
                self.down.clear()
                c = self.serve()
                sock = c.start_post({"service": "push", "items": [item(1, "wait_ms=200")]})
                self.down.wait(requests=1)
                os.kill(c.pid, number)
                with sock, sock.makefile("rb") as stream:
                    answer = rawhttp.read_answer(stream)
                self.assertEqual((answer.status, answer.json["stop_reason"]), (200, "completed"))
                self.assertEqual(c.child.wait(harness.LIMIT_S), 0)

    def test_it_leaves_no_zombies_of_what_others_started_in_it(self):
        c = self.serve()
        # A child whose parent is gone is given to process 1, and then ends.
        with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as orphan:
            orphan.write("import os\nif os.fork() == 0:\n    while os.getppid() != 1:\n        os.sched_yield()\n"
                         "    print('an orphan', flush=True)\n")
            orphan.flush()
            done = container.run("nsenter", "--target", str(c.pid), "--pid", "/usr/bin/python3", orphan.name)
        self.assertEqual(done, "an orphan\n")
        kit.until(lambda: self.children(c.pid) == "", "a zombie is left")
        self.assertEqual(c.ask("GET", "/livez").status, 200)

    def children(self, pid):
        text = ""
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as f:
                text += f.read()
        return text


if __name__ == "__main__":
    harness.main()
