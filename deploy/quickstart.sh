#!/usr/bin/env bash
# See settled work: install packages, build, start the daemon and a programmable
# downstream, post a mixed batch, print its result, stop both.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh

usage() {
	cat <<'END'
usage: deploy/quickstart.sh [--keep | --stop]
  --keep  leave the daemon and the downstream running
  --stop  stop what an earlier --keep left running
END
}

state=build/quickstart
daemon_port=8080
downstream_port=9090
pids=()

stop_all() {
	local pid

	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in "${pids[@]}"; do
		wait "$pid" 2>/dev/null || true
	done
	pids=()
}

# Only what we started: a number may have gone to another program since.
stop_kept() {
	local pid name

	[ -f "$state/pids" ] || die "nothing to stop: no earlier --keep is on record in $state"
	while read -r pid name; do
		if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${name:0:15}" ]; then
			kill "$pid"
			timeout 60 tail --pid="$pid" -f /dev/null || die "$name (process $pid) is still running after 60 s"
			say "stopped $name"
		fi
	done <"$state/pids"
	rm -rf "$state"
}

answers() {
	(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

refuse_if_taken() {
	if answers "$1"; then
		if [ -f "$state/pids" ]; then
			die "port $1 is taken, by an earlier --keep perhaps: run deploy/quickstart.sh --stop first"
		fi
		die "port $1 on 127.0.0.1 is taken, and $2 needs it: stop what listens there (ss -ltnp names it), then try again"
	fi
}

program() {
	local path

	path=$(find build/cmd -type f -name "$1" -perm -u+x -print -quit)
	[ -n "$path" ] || die "the build left no program $1 under build/cmd"
	printf '%s\n' "$path"
}

# start NAME ARG...: in the background, its output in a file.
start() {
	local name=$1 path

	shift
	path=$(program "$name")
	nohup "$path" "$@" >"$state/$name.log" 2>&1 </dev/null &
	pids+=("$!")
	printf '%s %s\n' "$!" "$name" >>"$state/pids"
}

# wait_for NAME PID COMMAND...: until the command succeeds; 10 seconds at most.
wait_for() {
	local name=$1 pid=$2 end=$((SECONDS + 10))

	shift 2
	until "$@"; do
		if ! kill -0 "$pid" 2>/dev/null; then
			cat "$state/$name.log" >&2
			die "$name ended at once: its own words are above"
		fi
		[ "$SECONDS" -lt "$end" ] || {
			cat "$state/$name.log" >&2
			die "$name does not answer after 10 s: its own words are above"
		}
		sleep 0.05
	done
}

clean_up() {
	stop_all
	rm -rf "$state"
}

build() {
	install_packages "${PACKAGES_QUICKSTART[@]}"
	if [ ! -f build/meson-private/coredata.dat ]; then
		meson setup build -Dtests=false >/dev/null || die "meson setup failed: see build/meson-logs/meson-log.txt"
	fi
	say "building into build/"
	ninja -C build --quiet || die "the build failed: see above"
}

post_batch() {
	local status

	say "posting api/examples/batch.json to http://127.0.0.1:$daemon_port/v1/batches"
	status=$(curl -sS --max-time 60 -o "$state/result.json" -w '%{http_code}' -H 'Content-Type: application/json' \
		--data-binary @api/examples/batch.json "http://127.0.0.1:$daemon_port/v1/batches")
	say "HTTP $status (207: settled, but not every item succeeded)"
	/usr/bin/python3 -m json.tool --indent 2 "$state/result.json"
	[ "$status" = 200 ] || [ "$status" = 207 ] || die "a settled batch answers with 200 or 207: see above"
}

keep=false
case ${1:-} in
'') ;;
--keep) keep=true ;;
--stop)
	stop_kept
	exit 0
	;;
-h | --help)
	usage
	exit 0
	;;
*)
	usage >&2
	die "$1: not an option"
	;;
esac

refuse_if_taken "$daemon_port" settled
refuse_if_taken "$downstream_port" settled-downstream
build
rm -rf "$state"
mkdir -p "$state"
trap clean_up EXIT
trap 'exit 130' INT TERM
start settled-downstream
wait_for settled-downstream "${pids[0]}" answers "$downstream_port"
start settled --config deploy/quickstart.yaml
wait_for settled "${pids[1]}" curl -sf -o /dev/null --max-time 2 "http://127.0.0.1:$daemon_port/readyz"
post_batch
if $keep; then
	trap - EXIT
	say "both still run; their output is in $state. Stop them with: deploy/quickstart.sh --stop"
else
	clean_up
	say "stopped both; with --keep they go on running"
fi
