#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs the wheel of `make wheel` into a virtual environment, and the systemd service, which it does
# not start. Repeating it upgrades. Asks sudo for root.
#
#     config/install.sh [PREFIX]        # /opt/xdpscope
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${1:-/opt/xdpscope}

say() { printf 'install: %s\n' "$*"; }

if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		say "not root, and there is no sudo; as root run: config/install.sh $prefix" >&2
		exit 1
	}
	exec sudo "$PWD/config/install.sh" "$prefix"
fi

# The service sees neither /home nor /root: only the system's own Python will do.
find_python() {
	local candidate
	for candidate in /usr/bin/python3 /usr/bin/python3.{14,13,12,11} /usr/local/bin/python3; do
		if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			echo "$candidate"
			return
		fi
	done
	say "no Python >= 3.11 with the venv module in /usr/bin; docs/host.md has the packages" >&2
	return 1
}

python=$(find_python)
umask 022
if ! "$prefix/bin/python" -m pip --version >/dev/null 2>&1; then
	say "making $prefix with $("$python" --version)"
	"$python" -m venv --clear "$prefix"
fi
pip() { "$prefix/bin/python" -m pip --disable-pip-version-check --quiet --no-cache-dir "$@"; }
say "installing the Python packages of requirements/agent.txt"
pip install --require-hashes --only-binary :all: -r requirements/agent.txt
pip install --no-index --no-deps --force-reinstall dist/xdpscope-*.whl
mkdir -p /usr/local/bin
ln -sfn "$prefix/bin/xdpscope" /usr/local/bin/xdpscope

# Shell completion and the manual page. Only fish does not search /usr/local by itself.
link() {
	mkdir -p "$(dirname "$2")"
	ln -sfn "$prefix/share/$1" "$2"
}
for file in bash-completion/completions/xdpscope zsh/site-functions/_xdpscope man/man8/xdpscope.8; do
	link "$file" "/usr/local/share/$file"
done
link fish/vendor_completions.d/xdpscope.fish /etc/fish/completions/xdpscope.fish

if [ ! -e /etc/xdpscope/xdpscope.yaml ]; then
	install -D -m 644 config/xdpscope.yaml /etc/xdpscope/xdpscope.yaml
fi
install -D -m 644 config/systemd/xdpscope.service /etc/systemd/system/xdpscope.service
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
say "$(/usr/local/bin/xdpscope --version) in $prefix, $(du -sm "$prefix" | cut -f1) MB"
say "check this host:    sudo /usr/local/bin/xdpscope doctor"
say "start the service:  sudo systemctl enable --now xdpscope"
