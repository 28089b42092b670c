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
python3 - <<'CHECK'
import json
from collections import Counter
read = lambda name: [json.loads(line) for line in open(f"out/packages/{name}.jsonl")]
shapes, digits, rows = read("shapes/items"), read("digits/items"), read("mixed/rows")
assert len(shapes) == len(digits) == 300 and len(rows) == 200
assert all(item["image"] and item["answers"] for item in shapes + digits)
assert {item["question"] for item in digits} == {"Which digit is this?"}
assert {item["answers"][0] for item in digits} == set("0123456789")
assert Counter(row["source"] for row in rows) == {"shapes": 100, "train": 100}
print("300 questions of easy-VQA, 300 digits, a mix of 200 rows")
CHECK
