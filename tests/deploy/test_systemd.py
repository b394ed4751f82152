"""The systemd unit: how hard it is, that it parses, and that the daemon lives
under what it forbids."""

import atexit
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "..", "deploy", "systemd")
UNIT = os.path.join(FOLDER, "settled.service")
USER = 65534                             # as DynamicUser=, nobody in particular
# Where that user may read them, wherever the project lies.
OPEN = tempfile.mkdtemp(prefix="settled-test-")
atexit.register(shutil.rmtree, OPEN)
os.chmod(OPEN, 0o755)
BINARY = os.environ.get("SETTLED_BIN", "build/cmd/settled/settled")
for _path in (os.path.join(HERE, "confined.py"), UNIT, BINARY):
    shutil.copy(_path, OPEN)
CONFINED = (f"setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "
            f"/usr/bin/python3 {OPEN}/confined.py {OPEN}/settled.service")
os.environ.update(SETTLED_WRAP=CONFINED, SETTLED_BIN=os.path.join(OPEN, "settled"))

import harness  # noqa: E402, which reads them
import kit  # noqa: E402
from harness import item  # noqa: E402

MOST = 2.0


def analyze(*args):
    return subprocess.run(["systemd-analyze", "--no-pager", *args], capture_output=True, text=True, check=False)


def own_folder(mkdtemp):
    def make(**how):
        path = mkdtemp(**how)
        os.chown(path, USER, USER)
        return path
    return make


def value(name):
    with open(UNIT, encoding="utf-8") as f:
        return re.search(rf"^{name}=(.*)$", f.read(), re.M)[1]


class Unit(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        kit.need("systemd-analyze")

    def test_its_exposure_is_at_most_2(self):
        found = analyze("security", "--offline=true", UNIT)
        exposure = float(re.search(r"Overall exposure level for settled.service: ([\d.]+)", found.stdout)[1])
        print(f"# exposure level {exposure}")
        self.assertLessEqual(exposure, MOST, found.stdout)

    def test_systemd_understands_every_line_of_it(self):
        with open(UNIT, encoding="utf-8") as f, tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "settled.service")
            with open(path, "w", encoding="utf-8") as copy:
                copy.write(f.read().replace("/usr/local/bin/settled", "/bin/true"))
            found = analyze("verify", "--man=no", path)
        self.assertNotIn("settled.service", found.stdout + found.stderr)

    def test_its_configuration_is_valid_and_fits_it(self):
        path = os.path.join(FOLDER, "settled.yaml")
        check = subprocess.run([harness.SETTLED[-1], "--check", "--config", path], capture_output=True, text=True, check=False)
        self.assertEqual(check.returncode, 0, check.stderr)
        with open(path, encoding="utf-8") as f:
            self.assertIn(f"store: {{path: {value('WorkingDirectory')}}}", f.read())
        self.assertEqual(value("WorkingDirectory"), "/var/lib/" + value("StateDirectory"))

    def test_it_stops_later_than_the_daemon_gives_up_by_itself(self):
        defaults = subprocess.run([harness.SETTLED[-1], "--defaults"], capture_output=True, text=True, check=True).stdout
        drain_ms = int(re.search(r"^  drain_ms: (\d+)$", defaults, re.M)[1])
        self.assertGreaterEqual(int(value("TimeoutStopSec").removesuffix("s")) * 1000, 5000 + drain_ms + 15000 + 5000)


class Confined(harness.Case):
    """The unit's system calls alone, no capability, no code that is written; a violation is the end."""

    config = {"shards": 2, "services": {"webhook": {"kind": "webhook", "allow": ["127.0.0.0/8", "::1"]}}}

    @classmethod
    def setUpClass(cls):
        kit.need("systemd-analyze", "setpriv")
        with mock.patch.object(tempfile, "mkdtemp", own_folder(tempfile.mkdtemp)):
            super().setUpClass()

    def test_it_is_confined_indeed(self):
        with open(f"/proc/{self.settled.child.pid}/status", encoding="ascii") as f:
            status = f.read()
        for line in (r"Seccomp:\s+2", r"NoNewPrivs:\s+1", r"CapEff:\s+0{16}", r"CapBnd:\s+0{16}"):
            self.assertRegex(status, line)
        for code in ("import os; os.nice(1)", "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
                     "import mmap; mmap.mmap(-1, 4096, prot=7)", "import os; os.chroot('/')"):
            end = subprocess.run([*CONFINED.split(), "/usr/bin/python3", "-c", code], capture_output=True, check=False)
            self.assertNotIn(end.returncode, (0, 1), code)

    def test_it_settles_batches_and_jobs_and_streams(self):
        port = self.down.port
        batch = {"items": [item(n, url) for n, url in enumerate([
            self.url("/ok"), f"http://localhost:{port}/ok", self.url("/flaky?times=1"), self.url("/gone")])]}
        answer = self.settled.post(batch)
        self.assertEqual((answer.status, answer.json["counts"]["succeeded"]), (207, 3))
        self.assertEqual(self.settled.post(batch, {"Accept": "application/x-ndjson"}).status, 200)
        job = self.settled.post({"items": [item(1, self.url("/ok"))]}, {"Prefer": "respond-async", "Idempotency-Key": "one"})
        done = self.settled.ask("GET", job.headers["Location"], headers={"Prefer": "wait=30"})
        self.assertEqual(done.json["outcome"], "succeeded")
        for path in ("/metrics", "/readyz", "/v1/services", "/v1/batches", "/openapi.json"):
            self.assertEqual(self.settled.ask("GET", path).status, 200)

    def test_a_signal_to_reload_is_no_end(self):
        self.settled.child.send_signal(1)
        self.settled.wait_line("event=reload")
        self.assertEqual(self.settled.ask("GET", "/readyz").status, 200)


if __name__ == "__main__":
    harness.main()
