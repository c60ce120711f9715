#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Resolves every file of this directory again: all packages, those that they need in turn, and the
# hashes of their files. pyproject.toml says what is wanted. The result fits Python 3.11.2 (Debian 12)
# and newer, on any machine, and names no package index.
#
# UPGRADE= keeps the versions that the files have, for a change of pyproject.toml alone.
set -euo pipefail
cd "$(dirname "$0")/.."
upgrade=${UPGRADE---upgrade}

# Debian 12 has this one; a newer Python installs the same files.
oldest=3.11.2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python=.venv/bin/python
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet install \
	--require-hashes --only-binary :all: -r requirements/locks.txt

# uv does not read the settings of pip, by which this machine may reach its index.
setting() { "$python" -m pip config get "$1" 2>/dev/null || true; }
index=${PIP_INDEX_URL:-$(setting global.index-url)}
certificates=${PIP_CERT:-$(setting global.cert)}
export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index} SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}
[ -n "$UV_DEFAULT_INDEX" ] || unset UV_DEFAULT_INDEX
[ -n "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE

# Writes requirements/$1.txt; the rest are arguments of uv.
lock() {
	local name=$1
	shift
	cp "requirements/$name.txt" "$scratch/$name.txt" 2>/dev/null || true
	"$scratch/venv/bin/uv" pip compile --quiet --universal --python-version "$oldest" \
		--fork-strategy fewest --generate-hashes --no-header $upgrade \
		-o "$scratch/$name.txt" "$@"
	{
		echo "# Written by \`make locks\`; pyproject.toml says what is wanted."
		cat "$scratch/$name.txt"
	} >"requirements/$name.txt"
	echo "locks: requirements/$name.txt: $(grep -c '==' "requirements/$name.txt") packages"
}

wanted=$("$python" - <<'READ'
import tomllib

with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["build-system"]["requires"]))
READ
)
lock agent pyproject.toml
# One version of each package in everything that shares .venv.
lock vm --group vm -c requirements/agent.txt
lock test --group test -c requirements/agent.txt -c requirements/vm.txt
lock docs --group docs -c requirements/agent.txt -c requirements/vm.txt -c requirements/test.txt
lock build - -c requirements/agent.txt <<<"$wanted"
lock audit --group audit
lock locks --group locks
