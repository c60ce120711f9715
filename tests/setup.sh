#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what a target of the Makefile needs, where it is missing: packages of Debian or Ubuntu, and
# .venv with the Python packages of requirements/. Starts no service. Repeating it costs a moment.
#
#     tests/setup.sh [--demo] [--test] [--docs] [PACKAGE...]
#
# Without options: what the build needs. --demo: what `make demo` needs too. --test: the tools of the
# tests and of `make lint` too. --docs: those of the documentation too. PACKAGE: more packages of the
# distribution. XDPSCOPE_SKIP_PACKAGES=1 leaves the system's packages to you.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin # Debian keeps them off a user's PATH

venv=.venv
cache=${XDG_CACHE_HOME:-$HOME/.cache}/xdpscope

sets=(build agent) # files of requirements/
packages=(clang gcc libc6-dev pkg-config libbpf-dev libelf-dev zlib1g-dev ca-certificates)
useful=() # taken where the distribution has them
demo=
test=

# A virtual machine, for hosts that do not let BPF programs be traced; traffic and XDP programs.
add_demo() {
	demo=1
	sets+=(vm)
	packages+=(qemu-system-x86 kmod udev busybox-static cpio file binutils iproute2 xdp-tools git libpcap0.8)
	useful+=(debian-archive-keyring)
}

for argument; do
	case $argument in
	--demo) add_demo ;;
	--test)
		add_demo
		test=1
		sets+=(test)
		packages+=(
			clang-format llvm
			systemd # the service, and its rating
			curl iputils-ping
			tshark # reads captures back
		)
		useful+=(bpftool chromium)
		;;
	--docs) sets+=(docs) ;;
	*) packages+=("$argument") ;;
	esac
done

say() { printf 'setup: %s\n' "$*"; }

die() {
	printf 'setup: %s\n' "$@" >&2
	exit 1
}

# The first Python that is new enough and can build an extension in an environment of its own. The
# distribution's comes first: it is built with profiles (PGO), and takes a third less time than one that
# pyenv builds with its defaults.
find_python() {
	local candidate
	for candidate in /usr/bin/python3 python3 python3.{14,13,12,11}; do
		if "$candidate" - 2>/dev/null <<-'CHECK'; then
			import ensurepip, sys, sysconfig, venv
			from pathlib import Path
			header = Path(sysconfig.get_path("include"), "Python.h")
			sys.exit(sys.version_info < (3, 11) or not header.exists())
		CHECK
			echo "$candidate"
			return
		fi
	done
	return 1
}

missing_of() {
	comm -13 <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
		sed -n 's/ installed$//p' | sort -u) <(printf '%s\n' "$@" | sort -u)
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "not root, and there is no sudo; as root run: apt-get install --no-install-recommends ${wanted[*]}"
	fi
}

# apt-get, reduced to a line a tenth of the way; everything is in the log. Its status has a descriptor
# of its own, since apt makes it non-blocking, which maintainer scripts that write to it do not bear;
# and it is made below sudo, which closes what it does not know.
apt() {
	local line percent shown=
	as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
		sh -c 'exec apt-get -y -o APT::Status-Fd=3 -o Dpkg::Use-Pty=0 "$@" 3>&1 >&2' apt-get \
		-o DPkg::Lock::Timeout=300 "$@" 2>>"$log" </dev/null |
		while IFS= read -r line; do
			if [[ $line =~ ^(dl|pm)status:[^:]*:([0-9]+)[.0-9]*:(.*) ]]; then
				percent=${BASH_REMATCH[1]}$((BASH_REMATCH[2] / 10))
				if [ "$percent" != "$shown" ]; then
					say "  ${BASH_REMATCH[2]} % ${BASH_REMATCH[3]}"
					shown=$percent
				fi
			fi
		done
}

update_lists() {
	[ "$updated" = 0 ] || return 0
	say "reading the package lists (apt-get update)"
	# A foreign source that is broken must not stop us: what we need may be there all the same.
	apt update || say "some package lists could not be read; trying with what there is"
	updated=1
}

known() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

# Whether the build finds its tools, on a system without apt.
build_tools_exist() {
	local tool
	for tool in clang gcc pkg-config; do command -v "$tool" >/dev/null || return 1; done
	pkg-config --exists 'libbpf >= 1.1' libelf zlib && find_python >/dev/null
}

install_packages() {
	if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
		if [ -z "$demo" ] && build_tools_exist; then return; fi
		die "this system has no apt, and this script knows no other package manager." \
			"docs/host.md has the packages of Fedora, RHEL and Arch to install first. On Debian they are:" \
			"  ${packages[*]} python3 python3-dev python3-venv" \
			"The demo and the tests also need prometheus. To skip this check: XDPSCOPE_SKIP_PACKAGES=1 make ..."
	fi
	find_python >/dev/null || packages+=(python3 python3-dev python3-venv)
	local wanted package updated=0
	mapfile -t wanted < <(missing_of "${packages[@]}")
	if [ ${#wanted[@]} -gt 0 ]; then
		for package in "${wanted[@]}"; do
			known "$package" || update_lists
		done
		if [ ${#useful[@]} -gt 0 ]; then
			for package in $(missing_of "${useful[@]}"); do
				if known "$package"; then wanted+=("$package"); fi
			done
		fi
		say "installing ${#wanted[@]} packages with apt, which may take some minutes: ${wanted[*]}"
		if ! apt --no-install-recommends install "${wanted[@]}"; then
			update_lists # the lists were old
			apt --no-install-recommends install "${wanted[@]}" || {
				tail -n 15 "$log" >&2
				die "apt-get could not install them; see above, put it right and try again"
			}
		fi
	fi
}

# Unpacks packages into the cache, where nothing of them is installed or started: $1 names the
# directory, the rest is a command that lists them once there are package lists.
unpack() {
	local directory=$1 wanted package
	shift
	mapfile -t wanted < <("$@" | sort -u)
	mkdir -p "$cache"
	partial=$(mktemp -d "$cache/.partial-XXXXXX")
	say "fetching ${wanted[*]} (unpacked into $cache/$directory; nothing is installed or started)"
	download() { (cd "$partial" && apt-get -qq -o APT::Sandbox::User=root download "${wanted[@]}") >>"$log" 2>&1; }
	if ! download; then
		update_lists
		mapfile -t wanted < <("$@" | sort -u)
		download || return 1
	fi
	mkdir "$partial/tree"
	for package in "$partial"/*.deb; do
		dpkg -x "$package" "$partial/tree"
	done
	rm -rf "${cache:?}/$directory"
	mv "$partial/tree" "$cache/$directory"
	rm -rf "$partial"
	partial=
}

# From Debian 13 on, promtool is a package of its own.
prometheus_packages() {
	apt-cache depends --recurse --no-{suggests,recommends,conflicts,breaks,replaces,enhances} prometheus |
		sed -n -E 's/^(prometheus|promtool|libjs-[^ ]*|fonts-[^ ]*)$/\1/p'
}

# Its package would start a server wherever it is installed. Its pages use scripts and fonts of others.
fetch_prometheus() {
	if command -v prometheus >/dev/null || [ -x "$cache/prometheus/usr/bin/prometheus" ]; then
		return
	fi
	local updated=0
	known prometheus || update_lists
	unpack prometheus prometheus_packages || {
		tail -n 15 "$log" >&2
		die "prometheus could not be fetched; see above, put it right and try again"
	}
}

# bcc's XDP examples are under /usr/share/doc, which container images leave out when they install.
# What compiles them are bcc itself and the headers of any one kernel: XDP's interface is stable.
bcc_packages() {
	local package=linux-headers-amd64
	printf '%s\n' bpfcc-tools python3-bpfcc libbpfcc
	while package=$(apt-cache depends "$package" | sed -n -E 's/^ *Depends: (linux-headers-.*)/\1/p') && [ "$package" ]; do
		echo "$package"
	done
}

fetch_bcc() {
	if [ -d "$cache/bcc" ]; then return; fi
	local updated=0
	known linux-headers-amd64 && known bpfcc-tools || update_lists
	# Ubuntu calls headers otherwise; tests that need bcc say that it is missing.
	if known linux-headers-amd64; then
		unpack bcc bcc_packages || say "bcc's examples could not be fetched: their tests will be skipped"
	fi
}

# What was unpacked becomes a command of the environment, which guests have on their PATH too.
link_prometheus() {
	local tree=$cache/prometheus
	if [ ! -x "$tree/usr/bin/prometheus" ] || [ -x "$venv/bin/prometheus" ]; then
		return
	fi
	ln -sf "$tree/usr/bin/promtool" "$venv/bin/promtool"
	printf '#!/bin/sh\nexec "%s" --web.local-assets="%s" "$@"\n' \
		"$tree/usr/bin/prometheus" "$tree/usr/share/prometheus/web/" >"$venv/bin/prometheus"
	chmod +x "$venv/bin/prometheus"
}

# Whether what was installed from a file ($1) is what the file says now.
current() { cmp -s "$1" "$venv/.installed/${1##*/}"; }

# Notes it.
installed() {
	[ ! -f "$venv/.installed" ] || rm "$venv/.installed" # a file in earlier versions
	mkdir -p "$venv/.installed"
	cp "$1" "$venv/.installed/"
}

make_venv() {
	local python each stale=() pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)
	if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
		python=$(find_python) ||
			die "no Python >= 3.11 with headers and the venv module; install one and put it first in PATH"
		say "making $venv with $("$python" --version)"
		"$python" -m venv --clear "$venv"
	fi
	for each in "${sets[@]}"; do
		if ! current "requirements/$each.txt"; then stale+=("$each.txt"); fi
	done
	if [ ${#stale[@]} -gt 0 ]; then
		say "installing the Python packages of requirements/ (${stale[*]%.txt})"
		# Wheels alone: what is built on the way would be built with what no hash was checked of.
		"${pip[@]}" --require-hashes --only-binary :all: "${stale[@]/#/-rrequirements/}" ||
			die "pip failed; see above. Without a way to a package index, see pip's own settings"
		for each in "${stale[@]}"; do installed "requirements/$each"; done
	fi
	if ! current pyproject.toml || ! current setup.py; then
		say "building xdpscope into $venv"
		# Without isolation: the build is then the one that `make build` repeats.
		"${pip[@]}" --no-build-isolation --no-deps --editable . || die "the build failed; see above"
		installed pyproject.toml
		installed setup.py
	fi
}

if [ "$(uname -sm)" != "Linux x86_64" ]; then
	die "xdpscope is for Linux on x86_64; this is $(uname -sm)"
fi
log=$(mktemp)
partial=
trap 'rm -rf "$log" ${partial:+"$partial"}' EXIT
if [ -z "${XDPSCOPE_SKIP_PACKAGES:-}" ]; then
	install_packages
	if [ "$demo" ]; then fetch_prometheus; fi
	if [ "$test" ]; then fetch_bcc; fi
fi
make_venv
if [ "$demo" ]; then link_prometheus; fi
