#!/usr/bin/env bash
# Runs packages.toml on the installed packages and checks what was read: tests/packages/run.sh PROGRAM
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1")
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

export PYTHONPATH="$work/site"
python3 -m pip install --quiet --target "$work/site" easy-vqa scikit-learn pillow
shapes=$work/site/easy_vqa/data
python3 "$here/digits.py" "$work/digits"

cd "$work"
cp "$here/packages.toml" .
"$program" run packages.toml --set "vars.easy_vqa=\"$shapes\"" --set "vars.digits=\"$work/digits\""
for rows in out/shapes/items.jsonl out/digits/items.jsonl out/mixed/rows.jsonl; do
  file=$(find . -path "*/${rows#out/}" -print -quit)
  echo "$rows: $(wc -l < "$file") rows, the first one:"
  head -n 1 "$file"
done
