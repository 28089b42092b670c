#!/usr/bin/env bash
# Compares ablate with transformers, TRL and PEFT on random checkpoints of every supported family: `just parity`.
# Needs python3, and PyPI the first time. All its output is in target/.
set -euo pipefail
cd "$(dirname "$0")/../.."

# ABLATE_PARITY_VENV may name an existing environment with the packages.
venv=${ABLATE_PARITY_VENV:-target/parity-venv}
made=$PWD/target/parity
if [ -z "${ABLATE_PARITY_VENV:-}" ] && ! cmp --silent tests/golden/requirements.txt "$venv/requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement tests/golden/requirements.txt
    cp tests/golden/requirements.txt "$venv/requirements.txt"
fi
rm -rf "$made"
"$venv/bin/python" tests/golden/parity all "$made/hub"
"$venv/bin/python" tests/golden/parity/train.py "$made/train"
# The tests print a table and export every checkpoint again, for transformers to read.
ABLATE_PARITY=$made cargo test --release --workspace --lib parity -- --nocapture
"$venv/bin/python" tests/golden/parity check "$made/hub" "$made/exported"
