# shellcheck shell=bash
# The Debian 12 packages that settled needs, and how to install them. Sourced by
# tests/run.sh, .ci/run, deploy/quickstart.sh and the Dockerfile's steps.

# shellcheck disable=SC2034  # the lists are for whoever sources this file
PACKAGES_BUILD=(gcc libc6-dev binutils meson ninja-build pkg-config python3 python3-yaml
	libmicrohttpd-dev libgnutls28-dev libcurl4-openssl-dev libjansson-dev libevent-dev libyaml-dev libssl-dev libsqlite3-dev)
# shellcheck disable=SC2034
PACKAGES_RUN=(libmicrohttpd12 libgnutls30 libcurl4 libjansson4 libevent-core-2.1-7 libyaml-0-2 libssl3 libsqlite3-0 ca-certificates)
# shellcheck disable=SC2034
PACKAGES_QUICKSTART=("${PACKAGES_BUILD[@]}" ca-certificates curl)
# shellcheck disable=SC2034
PACKAGES_TEST=("${PACKAGES_BUILD[@]}" buildah ca-certificates curl debootstrap git haproxy iproute2 libcmocka-dev nginx
	openssl prometheus python3-jsonschema python3-seccomp python3-venv shellcheck strace systemd util-linux)
# shellcheck disable=SC2034
PACKAGES_CI=("${PACKAGES_TEST[@]}" clang valgrind)

say() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
	say "$*"
	exit 1
}

missing_packages() {
	local name

	for name in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s\n' "$name"
	done
}

# Installing nginx or haproxy must not start it: port 80 may be in use, and nobody asked.
without_services() {
	local guard=/usr/sbin/policy-rc.d status=0

	if [ -e "$guard" ]; then
		"$@"
		return
	fi
	printf '#!/bin/sh\nexit 101\n' >"$guard"
	chmod 755 "$guard"
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	"$@" || status=$?
	rm -f "$guard"
	trap - EXIT
	return "$status"
}

apt_get() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" >/dev/null
}

apt_install() {
	local try

	for try in 1 2 3; do
		if apt_get update && without_services apt_get install -y --no-install-recommends "$@"; then
			return
		fi
		say "apt-get failed (try $try of 3)"
		sleep "$try"
	done
	die "cannot install: $*. See apt-get's message above; is this Debian 12, with network?"
}

# install_packages NAME...: what is missing of them, as root; else say what to do.
install_packages() {
	local missing

	command -v dpkg-query >/dev/null || die "dpkg-query is not here: this script knows Debian 12 only"
	mapfile -t missing < <(missing_packages "$@")
	[ "${#missing[@]}" -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		die "missing packages. As root: apt-get install --no-install-recommends ${missing[*]}"
	fi
	say "installing ${missing[*]}"
	apt_install "${missing[@]}"
}

# The functional tests use Node's fetch: any Node of 18 or later will do.
install_node() {
	if command -v node >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)'; then
		return 0
	fi
	install_packages nodejs
}

# One test installs a package that receivers of webhooks use.
install_npm() {
	command -v npm >/dev/null || install_packages npm
}
