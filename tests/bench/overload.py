"""What one service's trouble does to another, and what too much of everything does to the whole.

Ratios are computed within a round; rounds are interleaved, as in the comparison of senders."""

import socket
import subprocess
import threading
import time

from phases import IN_FLIGHT, http_service
from procs import Failed, Settled, accepts, wait_until
from stats import percentile, spread

# Of the healthy service's own load; the others get what their downstreams cannot bear.
NEIGHBOURS = ("hung", "refusing", "slow")
NEIGHBOUR_BATCH, NEIGHBOUR_RATE = 20, 5
SLOW_MS = 100                            # one at a time: 10 items/s of the 100 that are asked for
BATCH = 100


class Refusing:
    """A port that is ours and that nobody listens on."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]


def start_downstream(procs):
    """The programmable downstream, for answers that take their time."""
    binary = procs.build / "cmd" / "downstream" / "settled-downstream"
    p = procs.start(procs.load_cpu, [binary, "--listen", "127.0.0.1:0", "--ledger", "0"], stdout=subprocess.PIPE, text=True)
    port = int(p.stdout.readline().strip().rpartition(":")[2])
    wait_until("the downstream", lambda: accepts(port), p)
    return p, port


class Neighbour:
    def __init__(self, procs, sink, opts, nginx_port):
        self.procs, self.opts = procs, opts
        self.refusing = Refusing()
        self.downstream, slow_port = start_downstream(procs)
        self.services = {
            "push": http_service(nginx_port, IN_FLIGHT),
            "hung": {**http_service(sink.port, 256), "attempt_timeout_ms": 5000},
            "refusing": http_service(self.refusing.port, IN_FLIGHT),
            "slow": {**http_service(slow_port, 1), "url": f"http://127.0.0.1:{slow_port}/wait_ms={SLOW_MS}/{{to}}"},
        }

    def load(self, daemon):
        found = self.procs.run_tool(self.procs.load_cpu, [
            self.procs.tool("load"), "--port", daemon.port, "--cpu-pid", daemon.pid, "--concurrency", IN_FLIGHT,
            "--connections", self.opts.connections, "--warmup-ms", 300, "--ms", int(self.opts.seconds * 2000)], 120)[0]
        found["items_s"] = found["items"] / found["seconds"]
        return found

    def trouble(self, daemon, ms):
        """One open-loop client for each of the others: they have no patience with each other either."""
        return [self.procs.start(self.procs.load_cpu, [
            self.procs.tool("flood"), "--port", daemon.port, "--service", name, "--batch", NEIGHBOUR_BATCH,
            "--phase", f"{NEIGHBOUR_RATE}:{ms}", "--deadline-ms", 30000], stdout=subprocess.DEVNULL)
            for name in NEIGHBOURS]

    def run(self, progress):
        alone = Settled(self.procs, self.services)
        beside = Settled(self.procs, self.services)
        ms = int((self.opts.rounds * (self.opts.seconds * 4 + 2) + 40) * 1000)
        others = self.trouble(beside, ms)
        # Until the hung service has all its attempts in flight, and a queue behind them.
        time.sleep(6)
        rounds = []
        for n in range(self.opts.rounds):
            progress(f"neighbour: round {n + 1}/{self.opts.rounds}")
            pair = [self.load(alone), self.load(beside)] if n % 2 == 0 else [self.load(beside), self.load(alone)][::-1]
            rounds.append(pair)
        if any(p.poll() is not None for p in others):
            raise Failed("a neighbour's client ended while the healthy service was measured")
        for p in others:
            self.procs.stop(p)
        for daemon in (alone, beside):
            daemon.stop()
        self.procs.stop(self.downstream)
        return {"rounds": len(rounds), "neighbours": f"{NEIGHBOUR_RATE} batches of {NEIGHBOUR_BATCH} a second each",
                **{name: {key: spread([r[i][key] for r in rounds]) for key in ("items_s", "batch_us_p50", "batch_us_p99")}
                   for i, name in enumerate(("alone", "beside"))},
                "throughput_ratio": spread([b["items_s"] / a["items_s"] for a, b in rounds]),
                "p99_ratio": spread([b["batch_us_p99"] / a["batch_us_p99"] for a, b in rounds])}


class Memory(threading.Thread):
    """The most that a process holds while something else goes on."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.process, self.over, self.most = daemon, threading.Event(), 0
        self.start()

    def run(self):
        while not self.over.wait(0.1):
            self.most = max(self.most, self.process.memory()["vmrss"])

    def stop(self):
        self.over.set()
        self.join()
        return self.most


# What there is too little of: what the service may be sent, or processors. The downstream works on
# one core with the client, which takes more of it to flood than for the peak; the report says how much.
OVERLOADS = {"downstream": {"rate": {"per_second": 5000, "burst": 500}}, "processor": {}}


class Overload:
    """First the peak, by a closed loop; then half of it, ten times of it, and half again, by an open one."""

    TIMES, CALM_S = 10, 5

    def __init__(self, procs, opts, nginx_port, short_of):
        self.procs, self.opts = procs, opts
        self.daemon = Settled(procs, {"push": {**http_service(nginx_port, IN_FLIGHT), **OVERLOADS[short_of]}})

    def peak(self, ms=3000):
        found = self.procs.run_tool(self.procs.load_cpu, [
            self.procs.tool("load"), "--port", self.daemon.port, "--concurrency", IN_FLIGHT, "--connections",
            max(16, self.opts.connections), "--warmup-ms", 500, "--ms", ms], 60)[0]
        return found["items"] / found["seconds"]

    def flood(self, peak):
        """The phases: calm, overload, calm."""
        calm, rate = peak / BATCH / 2, peak / BATCH * self.TIMES
        seconds = self.opts.overload_seconds
        return self.procs.run_tool(self.procs.load_cpu, [
            self.procs.tool("flood"), "--port", self.daemon.port, "--cpu-pid", self.daemon.pid, "--batch", BATCH,
            "--concurrency", IN_FLIGHT, "--phase", f"{calm}:{self.CALM_S * 1000}", "--phase", f"{rate}:{int(seconds * 1000)}",
            "--phase", f"{calm}:{2 * self.CALM_S * 1000}"], seconds + 90)

    def recovery_s(self, before, after):
        """The first second from which on everything is as before: nothing refused, and no slower than twice."""
        usual = max(2 * percentile([s["p99"] for s in before["by_second"]], 50), 10000)
        for n in range(len(after["by_second"]) - 1, -1, -1):
            s = after["by_second"][n]
            if s["refused"] or s["partial"] or s["failed"] or s["p99"] > usual:
                return n + 1
        return 0

    def run(self, progress):
        progress("overload: the peak")
        peak = self.peak()
        idle = self.daemon.settled_memory()["vmrss"]
        memory = Memory(self.daemon)
        progress(f"overload: {self.TIMES} times {peak:,.0f} items/s for {self.opts.overload_seconds} s")
        before, over, after = self.flood(peak)
        most = memory.stop()
        # The machine may have become slower or faster meanwhile.
        peak_after = self.peak()
        log = self.daemon.log_text()
        self.daemon.stop()
        goodput = over["good_items"] / over["seconds"]
        return {"peak_items_s": peak, "peak_after_items_s": peak_after, "before": before, "over": over, "after": after,
                "goodput_items_s": goodput, "goodput_ratio": goodput / ((peak + peak_after) / 2),
                "offered_ratio": over["sent"] * BATCH / over["seconds"] / peak,
                "rss_before": idle, "rss_most": most, "recovery_s": self.recovery_s(before, after),
                "log_lines": log.count("\n")}


def overloads(procs, opts, nginx_port, progress):
    return {what: Overload(procs, opts, nginx_port, what).run(progress) for what in OVERLOADS}
