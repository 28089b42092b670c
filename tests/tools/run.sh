#!/usr/bin/env bash
# Reads what ablate writes with the programs that it is for: TensorBoard, pandas, W&B, LaTeX, shells, man, pip and uv.
# `just test-tools`. Needs python3, PyPI the first time, and Debian's packages of LaTeX, zsh, fish and mandoc, which it installs
# where apt-get can. All its output is in target/.
set -euo pipefail
cd "$(dirname "$0")/../.."

needed=()
command -v pdflatex >/dev/null || needed+=(texlive-latex-base texlive-latex-recommended texlive-fonts-recommended)
command -v lualatex >/dev/null || needed+=(texlive-luatex)
command -v pdftotext >/dev/null || needed+=(poppler-utils)
for program in zsh fish mandoc; do command -v "$program" >/dev/null || needed+=("$program"); done
if [ "${#needed[@]}" -gt 0 ]; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${needed[@]}"
fi

venv=target/tools-venv
if ! cmp --silent tests/tools/requirements.txt "$venv/requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement tests/tools/requirements.txt
    cp tests/tools/requirements.txt "$venv/requirements.txt"
fi
cargo build --release
target=${CARGO_TARGET_DIR:-target}
export ABLATE="$(realpath "$target")/release/ablate" PATH="$(realpath "$venv")/bin:$PATH"
exec "$venv/bin/python" -m unittest discover --start-directory tests/tools --pattern '*_test.py' "$@"
