#!/bin/bash
# Build what the benchmark needs and run it. All of it is explained in usage().
set -euo pipefail

usage() {
	cat <<'TEXT'
usage: tests/bench/run.sh [options]

Measures settled on one shard next to a bare libcurl loop on libevent and to a
Node server with native fetch and Promise.allSettled, all against the same nginx,
in turn, in one run; then how fast an abort takes hold, and memory.

  --json FILE       also write every figure of every round to FILE
  --rounds N        rounds of the interleaved comparison (5)
  --seconds S       time per sender, batch size and round (1.2)
  --sizes A,B       batch sizes (1,10,100,1000,10000); Node is left out over 1,000
  --connections N   connections of the load client, streams of the bare loop (4)
  --senders A,B     of settled, bare, minimal, node (all)
  --parts A,B       of throughput, abort, memory, jobs, neighbour, overload (all)
  --overload-seconds S  how long the overload lasts (20; the figure that is asked for is 60)
  --waiting N       items that wait in the store for the part jobs (1000000)
  --aborts N        aborts per row, two fifths of it at 500 in flight (100)
  --max-seconds N   give up after this time (600); the comparison takes half of it
                    at most, and fewer rounds where a slow machine needs that
  --build DIR       meson build directory (build-bench); set up as a release build,
                    as the container's is, or with its own options if it is there

What is compared
  settled   POST /v1/batches to the daemon, every answer checked: 200, succeeded,
            an ok result for every item
  bare      the same items with the same URLs, headers and payloads from a bare
            libcurl multi loop, every answer checked for 200
  minimal   as bare, with one fixed request and a content-type alone
  node      the same POST to node.mjs, every answer checked alike
Ratios are computed within each round and reported with their spread: neighbours
on the machine then disturb both parts alike. CPU time is that of the sender's
process, by the kernel's CPU clock of that process. "of its core" says whether
the sender was the bottleneck: below 90 % something else was.

Abort: a client posts a batch to a downstream that never answers, waits until
every item is in flight there, and closes (FIN) or resets (RST). Times run from
just before its close(): until the daemon saw it (ended_at_us in its log), until
the last transfer was removed (done_at_us), until the downstream saw the last
connection end. Targets on latency are judged by their 99th percentile.

Memory: resident size from /proc, once it stands still; per item: what a batch
adds to a fresh daemon while it waits at a downstream that hangs.

Jobs: batches with Prefer: respond-async, kept on disk. settle: as `settled` above,
but each answer waits for the job's end (wait=60) on more connections, next to the
same load without Prefer on a daemon that keeps batches in memory, in turn, both
free to use both cores, as the store has threads of its own; accept:
only the 202 for batches of 1,000 whose downstream hangs, next to what the disk
itself does in fdatasync calls; waiting: with --waiting items in the store, memory,
a restart after kill -9, GET of a batch, and throughput next to that before; watch:
GET of a batch while 5,000 others poll and 1,000 read events.

Neighbour: a healthy service at its peak, on a daemon that has nothing else to do, and
on one with three others that get 100 items a second each: one that never answers, one
that refuses connections, one that is ten times too slow; in turn.

Overload: the peak by a closed loop of 16 connections; then batches of 100 at half of
it for 5 s, at ten times of it, and at half of it again for 10 s, by an open loop that
opens as many connections as it takes. Goodput are the items that are delivered to
callers who still wait; a refusal's time runs from when its request was due. "client's"
is what the load client took of the core that it shares with the downstream.

Run it on a machine that is otherwise idle; the report says how much CPU time
others took meanwhile, and warns above 5 %. Needs nginx-light, nodejs 18 or later,
python3, util-linux, and what the build needs. Uses loopback only.
TEXT
}

here=$(dirname -- "$(realpath -- "$0")")
build=$here/../../build-bench
args=()
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--build) build=${2:?--build wants a directory}; shift 2 ;;
	--json) args+=("$1" "$(realpath -m -- "${2:?--json wants a file}")"); shift 2 ;;
	*) args+=("$1"); shift ;;
	esac
done

# nginx lives in sbin, which an ordinary user's PATH may lack.
PATH=$PATH:/usr/sbin:/sbin
for tool in meson nginx node taskset setpriv; do
	command -v "$tool" >/dev/null || { echo "run.sh: $tool is missing; see --help" >&2; exit 1; }
done

build=$(realpath -m -- "$build")
cd -- "$here/../.."
# A directory of deploy/quickstart.sh's lacks the benchmark's programs: -Dtests=true.
if [ -f "$build/meson-private/coredata.dat" ]; then
	meson setup --reconfigure "$build" -Dtests=true >&2
else
	meson setup "$build" --buildtype=release -Dtests=true >&2
fi
meson compile -C "$build" >&2

# Connections to the hanging downstream and Node's own need descriptors.
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true

work=$(mktemp -d)
child=
trap 'rm -rf -- "$work"' EXIT
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' INT TERM HUP

# In the background, so that a signal reaches the trap at once; Python then stops
# what it started, and only after that the directory goes.
PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$here/bench.py" --build "$build" --work "$work" "${args[@]}" &
child=$!
status=0
while wait "$child" || status=$?; kill -0 "$child" 2>/dev/null; do
	status=0
done
exit "$status"
