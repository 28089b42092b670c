#!/usr/bin/env bash
# Runs the recipes on a tiny random checkpoint and compares them with ablate's own stages: `just test-recipes`.
# Needs python3, and PyPI the first time. All its output is in target/. With ABLATE_TEST_LLAMA_CPP=1 llama.cpp is tested, too.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=$(bash tests/recipes/venv.sh)
"$venv/bin/python" -m unittest discover --quiet --start-directory tests/recipes
cargo build --release
exec "$venv/bin/python" tests/recipes/run.py
