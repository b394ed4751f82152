#!/usr/bin/env bash
# Install what is needed, build, run every test, count. On a fresh Debian 12 as
# root this is the only command; run again, it only builds and tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh

usage() {
	cat <<'END'
usage: tests/run.sh [--suite NAME]... [--no-suite NAME]... [--seeds N] [--cycles N] [--examples N]
                    [--plans N] [--restarts N]
                    [--build DIR] [--setup ARG]... [--wrap COMMAND] [--slow N] [--jobs N]
                    [--build-only]
  --suite NAME     only these suites: lint, unit, sim, plants, functional, deploy, kill (default: all),
                   or valgrind, the functional tests that SETTLED_WRAP=valgrind is for
  --no-suite NAME  all but these
  --seeds N        seeds for the simulator (default 10000)
  --examples N     requests of each kind that Schemathesis makes (default 10)
  --plans N        random batches with faults for the real daemon (default 300)
  --cycles N       lives that the kill test ends (default 60)
  --restarts N     of two instances under load, one after the other (default 4)
  --build DIR      build directory (default: build)
  --setup ARG      an argument for `meson setup`, such as -Db_sanitize=address
  --wrap COMMAND   run each test under this command, such as valgrind
  --slow N         multiply every time limit of the tests by N
  --jobs N         tests side by side, most of which wait (default: two for each processor)
  --build-only     build, and run nothing
The last line is "N passed, N failed"; with CI=true, a skipped case has failed.
END
}

build=build seeds=${SETTLED_SIM_SEEDS:-10000} cycles=${SETTLED_KILL_CYCLES:-60}
restarts=${SETTLED_ROLLING_RESTARTS:-4} examples=${SETTLED_SCHEMATHESIS_EXAMPLES:-10}
plans=${SETTLED_PROPERTY_SEEDS:-300} jobs=$((2 * $(nproc))) build_only=false
setup=(-Dtests=true -Dkill_points=true) select=()
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--build-only)
		build_only=true
		shift
		continue
		;;
	esac
	[ $# -ge 2 ] || {
		usage >&2
		die "$1: not an option, or it needs a value"
	}
	case $1 in
	--suite) select+=(--suite "$2") ;;
	--no-suite) select+=(--no-suite "$2") ;;
	--seeds) seeds=$2 ;;
	--examples) examples=$2 ;;
	--plans) plans=$2 ;;
	--cycles) cycles=$2 ;;
	--restarts) restarts=$2 ;;
	--jobs) jobs=$2 ;;
	--build) build=$2 ;;
	--setup) setup+=("$2") ;;
	--wrap) select+=(--wrapper "$2") ;;
	--slow)
		select+=(--timeout-multiplier "$2")
		export SETTLED_TEST_PATIENCE=$2
		;;
	*)
		usage >&2
		die "$1: not an option"
		;;
	esac
	shift 2
done
[[ $seeds =~ ^[1-9][0-9]*$ ]] || die "--seeds $seeds: a positive number is wanted"
[[ $cycles =~ ^[1-9][0-9]*$ ]] || die "--cycles $cycles: a positive number is wanted"
[[ $restarts =~ ^[1-9][0-9]*$ ]] || die "--restarts $restarts: a positive number is wanted"
[[ $examples =~ ^[1-9][0-9]*$ ]] || die "--examples $examples: a positive number is wanted"
[[ $plans =~ ^[1-9][0-9]*$ ]] || die "--plans $plans: a positive number is wanted"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "--jobs $jobs: a positive number is wanted"
export SETTLED_SIM_SEEDS=$seeds SETTLED_KILL_CYCLES=$cycles
export SETTLED_ROLLING_RESTARTS=$restarts SETTLED_SCHEMATHESIS_EXAMPLES=$examples SETTLED_PROPERTY_SEEDS=$plans

# Each run ends with a count, also one that got no further than a failed step.
failed_step() {
	say "$1 failed: see above"
	echo "0 passed, 1 failed"
	exit 1
}

configure() {
	if [ ! -f "$build/meson-private/coredata.dat" ]; then
		meson setup "$build" "${setup[@]}"
	else
		meson setup --reconfigure "$build" "${setup[@]}" || meson setup --wipe "$build" "${setup[@]}"
	fi
}

# meson's scripts ask for Debian's Python; another one on PATH may lack its modules.
export PATH="/usr/bin:$PATH"

(install_packages "${PACKAGES_TEST[@]}" && install_node && install_npm) || failed_step "installing packages"
configure || failed_step "meson setup $build"
ninja -C "$build" || failed_step "the build in $build"
[ "$build_only" = false ] || exit 0

rm -f "$build"/meson-logs/testlog*
meson test -C "$build" --no-rebuild --print-errorlogs --num-processes "$jobs" "${select[@]}" || true
compgen -G "$build/meson-logs/testlog*.json" >/dev/null || failed_step "meson test in $build (did any test match?)"
ci=()
if [ "${CI:-}" = true ]; then
	ci=(--ci)
fi
/usr/bin/python3 tests/count.py log "$build" "${ci[@]}"
