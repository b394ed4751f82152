#!/usr/bin/env bash
# The kill test is worth what it finds: build each planted defect, and see that the
# test complains of it, by a rule that names it. The last line is "N passed, N failed".
#
# tests/kill/plants.sh [BUILD]   build directory (default: build-plants)
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${1:-build-plants} passed=0 failed=0
declare -A rules=(
	[ack_before_commit]="what_was_acknowledged_is_there,nothing_unasked_is_sent"
	[forget_key]=a_batch_is_accepted_once
	[drop_wait]=every_batch_comes_to_its_end
)

configure() {
	if [ -f "$build/meson-private/coredata.dat" ]; then
		meson setup --reconfigure "$build" "$@"
	else
		meson setup "$build" "$@"
	fi
}

# Only the files that look at what was planted are compiled again.
finds() {
	configure -Dtests=false -Dkill_points=true -Dplant="$1" &&
		ninja -C "$build" &&
		SETTLED_BIN=$build/cmd/settled/settled DOWNSTREAM_BIN=$build/cmd/downstream/settled-downstream \
			/usr/bin/python3 tests/kill/test_kill.py --points --cycles 36 --expect-complaint "${rules[$1]}"
}

# Whoever builds a release gets none of them.
release=$(mktemp -d)
trap 'rm -rf "$release"' EXIT
if meson setup "$release" --buildtype=release -Dtests=false -Dplant=forget_key >/dev/null; then
	echo "FAILED  a release was configured with a defect"
	failed=1
else
	passed=1
fi

for plant in "${!rules[@]}"; do
	printf '\n-- planted: %s\n' "$plant"
	if finds "$plant"; then
		passed=$((passed + 1))
	else
		echo "FAILED  the kill test does not find $plant"
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
