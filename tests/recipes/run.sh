#!/usr/bin/env bash
# Runs the recipes on a tiny random checkpoint and compares them with ablate's own stages: `just test-recipes`.
# Needs python3, and PyPI the first time. All its output is in target/.
set -euo pipefail
cd "$(dirname "$0")/../.."

# ABLATE_RECIPES_VENV may name an existing environment with the packages.
venv=${ABLATE_RECIPES_VENV:-target/recipes-venv}
packages=(experiments/recipes/requirements.txt tests/recipes/llama-cpp.txt)
if [ -z "${ABLATE_RECIPES_VENV:-}" ] && ! cat "${packages[@]}" | cmp --silent - "$venv/requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "${packages[0]}"
    "$venv/bin/pip" install --quiet --no-deps --require-hashes --requirement "${packages[1]}" ||
        echo "no server of llama.cpp for this machine: it is not tested" >&2
    cat "${packages[@]}" > "$venv/requirements.txt"
fi
"$venv/bin/python" -m unittest discover --quiet --start-directory tests/recipes
cargo build --release
exec "$venv/bin/python" tests/recipes/run.py
