#!/usr/bin/env bash
# Opens pages of reports in a real headless Chromium: tests/browser/run.sh [PROGRAM]
#
# PAGES=FOLDER reuses the pages in a folder, or makes them there if it is empty. SCREENSHOTS=FOLDER writes pictures of the
# pages. Needs node 20; installs Chromium from Debian and the packages of package-lock.json from npm where they are missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..

if [ -z "${CHROMIUM:-}" ]; then
  if ! command -v chromium >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends chromium fonts-dejavu-core
  fi
  CHROMIUM=$(command -v chromium)
fi
export CHROMIUM
if [ $# -gt 0 ]; then
  program=$(realpath "$1")
else
  (cd "$root" && cargo build --release)
  program=$(realpath "${CARGO_TARGET_DIR:-$root/target}/release/ablate")
fi
export PROGRAM=$program
(cd "$here" && { [ -d node_modules ] || npm ci --no-audit --no-fund; })

if [ -z "${PAGES:-}" ]; then
  PAGES=$(mktemp -d)
  trap 'chmod -R u+w "$PAGES"; rm -rf "$PAGES"' EXIT
fi
export PAGES
[ -e "$PAGES/smoke.html" ] || python3 "$here/make_pages.py" "$program" "$PAGES"
node --test "$here"/*.test.js
