"""The benchmark: see `run.sh --help`. run.sh builds, makes the directory and calls this."""

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import overload
import phases
import report
from procs import Failed, Procs, Settled, Sink, pin_self, start_nginx, start_node

PARTS = ("throughput", "abort", "memory", "jobs", "neighbour", "overload")
SENDERS = ("settled", "bare", "minimal", "node")


def choose_from(allowed):
    def parse(text):
        chosen = text.split(",")
        for one in chosen:
            if one not in allowed:
                raise argparse.ArgumentTypeError(f"{one!r} is not one of {', '.join(allowed)}")
        return chosen
    return parse


def sizes(text):
    return [int(n) for n in text.split(",")]


def arguments(argv):
    p = argparse.ArgumentParser(prog="tests/bench/run.sh", usage="%(prog)s [options], see --help",
                                add_help=False)
    p.add_argument("--build", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.2)
    p.add_argument("--sizes", type=sizes, default=[1, 10, 100, 1000, 10000])
    p.add_argument("--connections", type=int, default=4)
    p.add_argument("--senders", type=choose_from(SENDERS), default=list(SENDERS))
    p.add_argument("--parts", type=choose_from(PARTS), default=list(PARTS))
    p.add_argument("--aborts", type=int, default=100)
    p.add_argument("--waiting", type=int, default=1000000)
    p.add_argument("--overload-seconds", type=float, default=20)
    p.add_argument("--max-seconds", type=int, default=600)
    p.add_argument("--json")
    opts = p.parse_args(argv)
    if opts.rounds < 1 or opts.seconds <= 0 or opts.aborts < 1 or not 1 <= opts.connections <= 64:
        p.error("--rounds, --seconds, --aborts and --connections (to 64) must be positive")
    return opts


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def choose_cpus():
    """Sender, downstream, load: a third core takes the load client if there is one."""
    cpus = sorted(os.sched_getaffinity(0))
    downstream = cpus[1 % len(cpus)]
    return cpus[0], downstream, cpus[2] if len(cpus) > 2 else downstream


def first_line(argv):
    found = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    return (found.stdout + found.stderr).strip().partition("\n")[0]


def build_options(build):
    found = subprocess.run(["meson", "introspect", "--buildoptions", str(build)], capture_output=True, text=True,
                           check=True)
    return {o["name"]: o["value"] for o in json.loads(found.stdout)}


def placement(procs, connections):
    if not procs.pinned:
        return "one core for everything: the figures compare senders, and say nothing else"
    shared = "shares the downstream's core" if procs.load_cpu == procs.downstream_cpu else "has a core of its own"
    return (f"the sender alone on core {procs.sender_cpu}, nginx on core {procs.downstream_cpu}; the load client "
            f"{shared} ({connections} keep-alive connections; bare: as many streams of batches); "
            f"at most {phases.IN_FLIGHT} requests in flight, but for Node, which fetches all items at once")


def machine_facts(procs, opts, argv):
    options = build_options(procs.build)
    if options["b_sanitize"] != "none" or options["optimization"] in ("0", "g"):
        raise Failed(f"{procs.build} is a {options['buildtype']} build with sanitizer {options['b_sanitize']}: "
                     "measure an optimised build without one")
    model = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    facts = {"command": " ".join(["tests/bench/run.sh", *argv]),
             "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
             "cpu": f"{os.cpu_count()} x {model[0] if model else platform.machine()}",
             "kernel": platform.release(),
             "build": f"{options['buildtype']}, -O{options['optimization']}, lto {options['b_lto']}",
             "libraries": first_line([procs.tool("bare"), "--versions"]),
             "nginx": first_line(["nginx", "-v"]).partition("/")[2],
             "node": first_line(["node", "--version"]),
             "placement": placement(procs, opts.connections),
             "load average before": f"{os.getloadavg()[0]:.2f}"}
    if wants_settled(opts):
        daemon = procs.build / "cmd" / "settled" / "settled"
        if not daemon.exists():
            raise Failed(f"{daemon} is not there: without it, --senders bare,minimal,node")
        facts["settled"] = first_line([daemon, "--version"])
    return facts


def wants_settled(opts):
    return "settled" in opts.senders


class Noise:
    """How much CPU time others took meanwhile: processes that are not ours, and other guests of the host."""

    def __init__(self):
        self.before = self.now()

    @staticmethod
    def now():
        user, nice, system, idle, iowait, irq, softirq, steal = (
            int(n) / os.sysconf("SC_CLK_TCK") for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        # Most kernels charge the network's softirqs to the process they interrupt, so they are in ours.
        busy = user + nice + system + irq + softirq
        return {"busy": busy, "ours": ours, "steal": steal, "all": busy + idle + iowait + steal}

    def share(self):
        """Valid once our processes have ended: only then the kernel adds their time to ours."""
        now = self.now()
        grown = {key: now[key] - self.before[key] for key in now}
        return max(0.0, grown["busy"] - grown["ours"] + grown["steal"]) / max(grown["all"], 0.01)


def measure_throughput(procs, opts, nginx_port, found):
    upstream = f"http://127.0.0.1:{nginx_port}/send/"
    targets = {}
    if wants_settled(opts):
        daemon = Settled(procs, {"push": phases.http_service(nginx_port, phases.IN_FLIGHT)})
        targets["settled"] = (daemon.pid, daemon.port)
    if "node" in opts.senders:
        node, port = start_node(procs, upstream)
        targets["node"] = (node.pid, port)
    for name, (_, port) in targets.items():
        phases.check_sender(name, port)
    capture = phases.Capture()
    found["requests"] = phases.request_shapes(procs, capture, wants_settled(opts))
    capture.close()
    run = phases.Throughput(procs, opts, upstream, targets)
    run.run(progress)
    found["throughput"] = run.summary()
    if wants_settled(opts):
        daemon.stop()
    if "node" in opts.senders:
        procs.stop(node)


def measure(procs, opts, found):
    nginx_port = start_nginx(procs)
    if "throughput" in opts.parts:
        measure_throughput(procs, opts, nginx_port, found)
    if not wants_settled(opts):
        return
    sink = Sink()
    if "abort" in opts.parts:
        found["abort"] = phases.Aborts(procs, sink, opts, nginx_port).run(progress)
    if "memory" in opts.parts:
        found["memory"] = phases.memory(procs, sink, progress)
    if "jobs" in opts.parts:
        found["jobs"] = jobs.Jobs(procs, sink, opts, nginx_port).run(progress)
    if "neighbour" in opts.parts:
        found["neighbour"] = overload.Neighbour(procs, sink, opts, nginx_port).run(progress)
    if "overload" in opts.parts:
        found["overload"] = overload.overloads(procs, opts, nginx_port, progress)
    sink.close()


def run(procs, opts, argv):
    found = {"facts": machine_facts(procs, opts, argv)}
    noise, began = Noise(), time.monotonic()
    measure(procs, opts, found)
    procs.stop_all()
    found["noise"] = noise.share()
    found["facts"]["CPU time that others took"] = f"{found['noise']:.1%}"
    found["facts"]["took"] = f"{time.monotonic() - began:.0f} s"
    found["targets"] = report.targets(found)
    progress("")
    report.show(found)
    if opts.json:
        Path(opts.json).write_text(json.dumps(found, indent=1) + "\n")


def on_signal(number, _frame):
    if number == signal.SIGALRM:
        raise Failed("out of time: see --max-seconds")
    raise SystemExit(128 + number)


def show_logs(work):
    """What the daemons said last: their directory goes when this program ends."""
    for log in sorted(work.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines()[-5:]:
            print(f"  {log.name}: {line[:400]}", file=sys.stderr)


def main(argv):
    opts = arguments(argv)
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    signal.alarm(opts.max_seconds)
    procs = Procs(opts.work, opts.build, choose_cpus())
    pin_self(procs.load_cpu, procs.pinned)
    try:
        # The first four arguments are run.sh's own.
        run(procs, opts, argv[4:])
        return 0
    except (Failed, OSError, subprocess.SubprocessError) as failed:
        print(f"\nbenchmark: {failed}", file=sys.stderr)
        show_logs(procs.work)
        return 1
    finally:
        signal.alarm(0)
        procs.stop_all()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
