"""Jobs: what the store costs, how fast it accepts, and how much may wait in it."""

import os
import shutil
import time

from phases import IN_FLIGHT, http_service
from procs import Settled
from stats import spread

ACCEPT_BATCH = 1000
# A job's answer waits for commits, which overlap with those of other connections.
CONNECTIONS = 16
DAY_MS = 86400000


def fdatasyncs_per_second(folder, seconds=1.0):
    """What the disk does by itself: appends of 4 KiB, each synced."""
    path = folder / "fdatasync"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    n, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        os.pwrite(fd, b"x" * 4096, n * 4096)
        os.fdatasync(fd)
        n += 1
    os.close(fd)
    path.unlink()
    return n / seconds


class Jobs:
    def __init__(self, procs, sink, opts, nginx_port):
        self.procs, self.opts = procs, opts
        self.services = {"push": http_service(nginx_port, IN_FLIGHT), "hang": http_service(sink.port, IN_FLIGHT)}
        self.folder = procs.work / "jobs"
        # The store has threads of its own: both daemons may use both cores.
        self.cpus = f"{procs.sender_cpu},{procs.downstream_cpu}"
        self.limits = {"stored_items": 10 * opts.waiting + 10000000}

    def daemon(self):
        return Settled(self.procs, self.services, self.limits, self.folder, self.cpus)

    def load(self, daemon, ms, *args, patience_s=60):
        argv = [self.procs.tool("load"), "--port", daemon.port, "--cpu-pid", daemon.pid, "--ms", ms, *args]
        found = self.procs.run_tool(self.procs.load_cpu, argv, patience_s + ms / 1000)[0]
        found["items_s"] = found["items"] / found["seconds"]
        found["cpu_us_item"] = found["cpu_seconds"] * 1e6 / found["items"]
        return found

    def settle_jobs(self, daemon):
        return self.load(daemon, int(self.opts.seconds * 1000), "--warmup-ms", 200, "--concurrency", IN_FLIGHT,
                         "--connections", CONNECTIONS, "--prefer", "respond-async, wait=60")

    def settle(self, daemon, progress):
        memory = Settled(self.procs, self.services, cpu=self.cpus)
        rounds = []
        for n in range(self.opts.rounds):
            progress(f"jobs: round {n + 1}/{self.opts.rounds}, batches of 100")
            sync = self.load(memory, int(self.opts.seconds * 1000), "--warmup-ms", 200, "--concurrency", IN_FLIGHT,
                             "--connections", self.opts.connections)
            rounds.append((sync, self.settle_jobs(daemon)))
        memory.stop()
        return {**{name: {key: spread([r[i][key] for r in rounds]) for key in ("items_s", "cpu_us_item")}
                   for i, name in enumerate(("sync", "jobs"))},
                "ratio": spread([jobs["items_s"] / sync["items_s"] for sync, jobs in rounds])}

    def accept(self, daemon, ms, ids, connections=8, most=0):
        return self.load(daemon, ms, "--service", "hang", "--batch", ACCEPT_BATCH, "--connections", connections,
                         "--prefer", "respond-async", "--accept-only", "--deadline-ms", DAY_MS, "--ids", ids,
                         *(["--most", most] if most else []), patience_s=120)

    def accept_alone(self, progress):
        """A store of its own, which is then the one that waits."""
        daemon = self.daemon()
        progress("jobs: accepting alone")
        before = fdatasyncs_per_second(self.procs.work)
        found = self.accept(daemon, 3000, self.procs.work / "accepted")
        found["fdatasync_s"] = (before + fdatasyncs_per_second(self.procs.work)) / 2
        daemon.kill()
        shutil.rmtree(self.folder)
        return found

    def file_bytes(self):
        return sum(f.stat().st_size for f in self.folder.iterdir())

    def watch(self, daemon, ids, pollers, readers, gets):
        return self.procs.run_tool(self.procs.load_cpu, [self.procs.tool("watch"), "--port", daemon.port, "--ids", ids,
                                                         "--pollers", pollers, "--readers", readers,
                                                         "--gets", gets], 120)[0]

    def waiting(self, daemon, progress):
        ids, items = self.procs.work / "waiting", self.opts.waiting
        empty = [self.settle_jobs(daemon) for _ in range(self.opts.rounds)]
        progress(f"jobs: {items:,} items waiting")
        found = {"items": items}
        self.accept(daemon, 300000, ids, 8, max(1, items // ACCEPT_BATCH // 8))
        full = [self.settle_jobs(daemon) for _ in range(self.opts.rounds)]
        found["settle_ratio"] = spread([f["items_s"] / e["items_s"] for e, f in zip(empty, full)])
        found.update(self.watch(daemon, ids, 0, 0, 2000))
        found["memory"] = daemon.settled_memory()
        found["file_bytes"] = self.file_bytes()
        daemon.kill()
        progress("jobs: restart")
        again = self.daemon()
        found["restart_s"] = again.ready_s
        found["memory_after_restart"] = again.settled_memory()
        return again, ids, found

    def run(self, progress):
        found = {"accept": self.accept_alone(progress)}
        daemon = self.daemon()
        found["settle"] = self.settle(daemon, progress)
        daemon, ids, found["waiting"] = self.waiting(daemon, progress)
        progress("jobs: pollers and readers of events")
        found["watch"] = self.watch(daemon, ids, 5000, 1000, 2000)
        daemon.kill()
        shutil.rmtree(self.folder)
        return found
