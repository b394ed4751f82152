"""The processes of the benchmark: started pinned, stopped by whoever started them.

Everything listens on loopback. A process that this module started dies with the
benchmark, even if the benchmark is killed (PR_SET_PDEATHSIG by way of setpriv).
"""

import http.client
import json
import os
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Failed(Exception):
    """A part of the benchmark did not do what it should: the run ends with this text."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Procs:
    """Where things run, and what runs now."""

    def __init__(self, work, build, cpus):
        self.work, self.build = Path(work), Path(build)
        self.sender_cpu, self.downstream_cpu, self.load_cpu = cpus
        self.running = []
        self.pinned = len({self.sender_cpu, self.downstream_cpu}) > 1

    def command(self, cpu, argv):
        pin = ["taskset", "-c", str(cpu)] if self.pinned else []
        return ["setpriv", "--pdeathsig", "TERM", *pin, *map(str, argv)]

    def tool(self, name):
        return self.build / "tests" / "bench" / f"bench_{name}"

    def start(self, cpu, argv, **kwargs):
        p = subprocess.Popen(self.command(cpu, argv), **kwargs)
        self.running.append(p)
        return p

    def stop(self, p, patience_s=10):
        """SIGTERM, and SIGKILL for one that does not listen; its exit status."""
        if p.poll() is None:
            p.terminate()
            try:
                p.wait(patience_s)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        if p in self.running:
            self.running.remove(p)
        for stream in (p.stdin, p.stdout, p.stderr):
            if stream:
                stream.close()
        return p.returncode

    def stop_all(self):
        for p in list(self.running):
            self.stop(p, 3)

    def run_tool(self, cpu, argv, timeout_s, **kwargs):
        """Run one of our programs to its end; the JSON lines that it printed."""
        p = self.start(cpu, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
        try:
            out, err = p.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{Path(argv[0]).name} took over {timeout_s} s") from None
        finally:
            self.stop(p)
        if p.returncode != 0:
            raise Failed(err.strip() or f"{Path(argv[0]).name} ended with {p.returncode}")
        return [json.loads(line) for line in out.splitlines()]


def wait_until(what, ready, process, patience_s=10.0):
    give_up = time.monotonic() + patience_s
    while not ready():
        if process.poll() is not None:
            raise Failed(f"{what} ended at its start with status {process.returncode}")
        if time.monotonic() > give_up:
            raise Failed(f"{what} was not ready after {patience_s:.0f} s")
        time.sleep(0.02)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def says_ready(port):
    try:
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        c.request("GET", "/readyz")
        return c.getresponse().status == 200
    except OSError:
        return False


NGINX = """
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_body_temp_path {work}/nginx-body;
    proxy_temp_path {work}/nginx-proxy;
    fastcgi_temp_path {work}/nginx-fastcgi;
    uwsgi_temp_path {work}/nginx-uwsgi;
    scgi_temp_path {work}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 '{{"id":"m-1"}}'; }}
    }}
}}
"""


def start_nginx(procs):
    """The downstream of all senders. Returns its port."""
    log = open(procs.work / "nginx.log", "wb")
    for _ in range(5):                       # a free port may be taken until nginx binds it
        port = free_port()
        conf = procs.work / "nginx.conf"
        conf.write_text(NGINX.format(work=procs.work, port=port))
        p = procs.start(procs.downstream_cpu, ["nginx", "-p", procs.work, "-e", "stderr", "-c", conf],
                        stdout=log, stderr=log)
        try:
            wait_until("nginx", lambda: accepts(port), p)
            return port
        except Failed:
            procs.stop(p)
    raise Failed("nginx does not start: " + (procs.work / "nginx.log").read_text(errors="replace")[-500:])


def start_node(procs, upstream):
    """The Node comparator. Returns (process, port)."""
    p = procs.start(procs.sender_cpu, ["node", HERE / "node.mjs", upstream], stdout=subprocess.PIPE, text=True)
    line = p.stdout.readline()
    if not line.strip().isdigit():
        raise Failed("the Node comparator did not start")
    return p, int(line)


class Settled:
    """One daemon of its own, with its configuration and its log."""

    count = 0

    def __init__(self, procs, services, limits=None, store=None, cpu=None):
        """`cpu`: where it runs, if not on the sender's core alone; as taskset takes it."""
        Settled.count += 1
        self.procs = procs
        self.log_path = procs.work / f"settled-{Settled.count}.log"
        log = open(self.log_path, "wb")
        binary = procs.build / "cmd" / "settled" / "settled"
        for attempt in range(5):
            self.port = free_port()
            config = procs.work / f"settled-{Settled.count}.yaml"
            # JSON is a subset of YAML.
            config.write_text(json.dumps({"listen": f"127.0.0.1:{self.port}", "shards": 1, "services": services,
                                          "store": {"path": str(store)} if store else {"memory": True},
                                          **({"limits": limits} if limits else {})}, indent=1))
            started = time.monotonic()
            self.process = procs.start(procs.sender_cpu if cpu is None else cpu, [binary, "--config", config],
                                       stdout=log, stderr=log, cwd=procs.work)
            try:
                wait_until("settled", lambda: says_ready(self.port), self.process, 60)
                self.ready_s = time.monotonic() - started
                return
            except Failed as failed:
                procs.stop(self.process)
                if attempt == 4:
                    raise Failed(f"{failed}: {self.log_text()[-1500:]}") from None

    @property
    def pid(self):
        return self.process.pid

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def stop(self):
        self.procs.stop(self.process, 40)

    def kill(self):
        self.process.kill()
        self.procs.stop(self.process)

    def memory(self):
        """Resident sizes in bytes, from the kernel."""
        found = {}
        for name, keys in (("status", ("VmRSS", "VmHWM")), ("smaps_rollup", ("Pss", "Private_Dirty"))):
            for line in Path(f"/proc/{self.pid}/{name}").read_text().splitlines():
                key, _, rest = line.partition(":")
                if key in keys:
                    found[key.lower()] = int(rest.split()[0]) * 1024
        return found

    def settled_memory(self):
        """The sizes once they have stood still for a while: a parser's buffers may go late."""
        give_up = time.monotonic() + 5
        last, still = self.memory(), 0
        while still < 5 and time.monotonic() < give_up:
            time.sleep(0.05)
            now = self.memory()
            still = still + 1 if abs(now["vmrss"] - last["vmrss"]) < 64 * 1024 else 0
            last = now
        return last


class Sink:
    """A listening socket that abort.c inherits: its port is known to the daemon first."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(4096)
        self.port = self.socket.getsockname()[1]

    @property
    def fd(self):
        return self.socket.fileno()

    def close(self):
        self.socket.close()


def logfmt(line):
    """One line of the daemon's log as a dict. Values that we read hold no blanks."""
    return dict(field.split("=", 1) for field in line.split() if "=" in field)


def pin_self(cpu, pinned):
    if pinned:
        os.sched_setaffinity(0, {cpu})
