#!/usr/bin/env bash
# Prints the folder of a virtual environment with the programs of the recipes, and makes it if there is none.
#
# ABLATE_RECIPES_VENV may name an existing environment with the packages. With ABLATE_TEST_LLAMA_CPP=1 a server of llama.cpp is
# installed, too: its wheel comes from a publisher that the project does not know, so it is not the default.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=${ABLATE_RECIPES_VENV:-target/recipes-venv}
packages=(experiments/recipes/requirements.txt tests/recipes/requirements.txt)
if [ -n "${ABLATE_TEST_LLAMA_CPP:-}" ]; then packages+=(tests/recipes/llama-cpp.txt); fi
if [ -z "${ABLATE_RECIPES_VENV:-}" ] && ! cat "${packages[@]}" | cmp --silent - "$venv/requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "${packages[0]}" --requirement "${packages[1]}" >&2
    if [ -n "${ABLATE_TEST_LLAMA_CPP:-}" ]; then
        "$venv/bin/pip" install --quiet --no-deps --require-hashes --requirement "${packages[2]}" >&2
    fi
    cat "${packages[@]}" > "$venv/requirements.txt"
fi
echo "$venv"
