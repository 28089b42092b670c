#!/usr/bin/env bash
# Opens pages of reports in a real headless Chromium: tests/browser/run.sh [PROGRAM]
#
# PAGES=FOLDER reuses the pages in a folder, or makes them there if it is empty. SCREENSHOTS=FOLDER writes pictures of the
# pages. Needs node 20 or later; installs Chromium, node and npm from Debian, and the packages of package-lock.json from npm, where
# they are missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..

needed=()
if [ -z "${CHROMIUM:-}" ]; then command -v chromium >/dev/null || needed+=(chromium fonts-dejavu-core); fi
command -v node >/dev/null || needed+=(nodejs)
command -v npm >/dev/null || needed+=(npm)
if [ "${#needed[@]}" -gt 0 ]; then
  apt-get update
  apt-get install -y --no-install-recommends "${needed[@]}"
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
