#!/usr/bin/env bash
# Runs the recipes on a tiny random checkpoint and compares them with ablate's own stages: `just test-recipes`.
# Needs python3, and PyPI the first time. All its output is in target/.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release
exec python3 tests/recipes/run.py
