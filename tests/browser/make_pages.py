"""Makes the pages that the browser tests open: make_pages.py PROGRAM FOLDER

`large` has 20 models, 50 data sets and 14,000 items; `hostile` has texts that would break a page that does not escape them;
`sweeps` has one page per kind of plot; `smoke` is the default experiment in miniature, and `compare` compares two of its models.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "benches"))
sys.dont_write_bytecode = True  # no __pycache__ in the source folder
import report as bench

HOSTILE_SCORER = r'''
import json, os
model = os.environ["MODEL"]
texts = ["</script><script>alert('script')</script>", "<!-- <script> --", "<img src=x onerror=alert('image')>",
         "\" onload=\"alert('attribute')\" x='", "\u202eright to left \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
         "W" * 5_000, "<think>\n</details></think>&lt;b&gt;", "${alert(1)}` \\ \0 \x1b[31m", "<svg onload=alert('svg')>"]
with open("scores.jsonl", "w") as file:
    for item in range(10_000):
        text = texts[item % len(texts)]
        right = (item % 3 == 0) if model == "a" else (item % 4 == 0)
        score = {"id": f"{item} {text[:200]}", "dataset": f"<b>{item % 3}</b>", "prompt": f"question {item} {text}", "gold": [text[:300]],
                 "response": f"{text} of {model}", "finish": "length" if item % 50 == 0 else "stop", "answer": text[:100],
                 "compliant": item % 7 != 0, "unreadable": item % 11 == 0 and not right, "score": 0.5 if item % 10 == 9 else float(right)}
        file.write(json.dumps(score) + "\n")
'''

HOSTILE = r'''
name  = "hostile"
about = "</style><script>alert('about')</script> & \"quotes\""
[stage.eval]
kind    = "command"
run     = "python3 -I -S scorer.py"
inputs  = { "scorer.py" = "scorer.py" }
outputs = { "scores.jsonl" = "scores" }
[axis.model]
key    = "stage.eval.env"
values = [["MODEL=a"], ["MODEL=b"]]
labels = ["a", "b"]
[report.main]
title   = "<script>alert('title')</script>"
rows    = ["model"]
columns = ["dataset"]
contrasts = [{ name = "<img src=x onerror=alert(1)>", about = "</td></table>", plus = ["model=a"], minus = ["model=b"] }]
[report.main.labels]
"model=a" = "<i onclick=alert(1)>a"
"model=b" = "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW"
'''

SWEEP_SCORER = r'''
import json, os, random
from collections import Counter
a, b = float(os.environ.get("A", 1)), float(os.environ.get("B", 1))
if os.path.exists("rows.jsonl"):
    sources = Counter(json.loads(line)["source"] for line in open("rows.jsonl"))
    a, b = (sources[name] / sum(sources.values()) for name in ("first", "second"))
    share = 0.3 + 0.5 * a + 1.2 * a * b
else:
    share = 0.2 + 0.1 * a ** 0.5 + 0.02 * b
random = random.Random(f"{a}/{b}/{os.environ['ABLATE_SEED']}")
with open("scores.jsonl", "w") as file:
    for item in range(200):
        score = {"id": str(item), "dataset": "d", "prompt": f"question {item}", "gold": ["1"], "response": "so it is 1",
                 "finish": "stop", "answer": "1", "compliant": True, "score": float(random.random() < share)}
        file.write(json.dumps(score) + "\n")
with open("curve.jsonl", "w") as file:
    for step in range(1, 101):
        file.write(json.dumps({"step": step, "loss": 3 / (1 + a * step / 20) + random.random() / 5}) + "\n")
'''

SWEEPS = r'''
name = "sweeps"
[stage.line]
kind    = "command"
run     = "python3 -I -S scorer.py"
inputs  = { "scorer.py" = "scorer.py" }
outputs = { "scores.jsonl" = "scores", "curve.jsonl" = "curve" }
[stage.heat]
kind    = "command"
run     = "python3 -I -S scorer.py"
inputs  = { "scorer.py" = "scorer.py" }
outputs = { "scores.jsonl" = "scores" }
[stage.first]
kind      = "items"
synthetic = { datasets = ["text"], split = "train", count = 50 }
[stage.second]
kind      = "items"
synthetic = { datasets = ["text"], split = "test", count = 50 }
[stage.third]
kind      = "items"
synthetic = { datasets = ["text"], split = "dev", count = 50 }
[stage.mix]
kind = "mix"
rows = 100
sources = { first = { from = "first", replace = true }, second = { from = "second", replace = true }, third = { from = "third", replace = true } }
[stage.mixed]
kind    = "command"
run     = "python3 -I -S scorer.py"
inputs  = { "scorer.py" = "scorer.py", "rows.jsonl" = "mix" }
outputs = { "scores.jsonl" = "scores" }
[seeds]
values = [0, 1, 2]
from   = ["line", "heat", "mixed"]
[axis.n]
key    = "stage.line.env"
values = [["A=1"], ["A=2"], ["A=4"], ["A=16"]]
labels = ["1", "2", "4", "16"]
[axis.recipe]
key    = "stage.line.run"
values = ["python3 -I -S scorer.py", "B=6 python3 -I -S scorer.py"]
labels = ["plain", "better"]
[axis.width]
key    = "stage.heat.env"
values = [["A=1"], ["A=2"], ["A=4"]]
labels = ["1", "2", "4"]
[axis.depth]
key    = "stage.heat.run"
values = ["B=1 python3 -I -S scorer.py", "B=3 python3 -I -S scorer.py", "B=9 python3 -I -S scorer.py"]
labels = ["1", "3", "9"]
[axis.ratio]
simplex = ["stage.mix.sources.first.weight", "stage.mix.sources.second.weight", "stage.mix.sources.third.weight"]
step    = 0.25
[report.line]
stage   = "line"
rows    = ["recipe"]
columns = ["n"]
[report.heat]
stage   = "heat"
rows    = ["width"]
columns = ["depth"]
[report.mixed]
stage = "mixed"
rows  = ["ratio"]
'''


# Every response is another text, which compresses like English.
LARGE_SCORER = bench.SCORER.replace(
    '"response": f"{words} So', '"response": f"{\' \'.join(random.choices(vocabulary, k=60))} So'
).replace("with open", "vocabulary = [f'{number * 7919 % 100_003:x}' for number in range(4_000)]\nwith open")
assert "vocabulary, k=60" in LARGE_SCORER


def make(program: str, folder: Path, name: str, experiment: str, scorer: str) -> None:
    work = folder / name
    work.mkdir(parents=True, exist_ok=True)
    (work / "scorer.py").write_text(scorer)
    (work / f"{name}.toml").write_text(experiment)
    subprocess.run([program, "run", f"{name}.toml", "--quiet"], cwd=work, check=True, stdout=subprocess.DEVNULL)
    shutil.copy(next((work / "out").glob("*/report.html")), folder / f"{name}.html")


def main() -> None:
    program, folder = sys.argv[1], Path(sys.argv[2])
    make(program, folder, "hostile", HOSTILE, HOSTILE_SCORER)
    make(program, folder, "sweeps", SWEEPS, SWEEP_SCORER)
    make(program, folder, "large", bench.experiment(20, 50, 14_000, 1, False), LARGE_SCORER)
    smoke = folder / "smoke"
    smoke.mkdir(exist_ok=True)
    subprocess.run(
        [program, "run", str(REPOSITORY / "experiments/smoke.toml"), "--quiet"],
        cwd=smoke, check=True, stdout=subprocess.DEVNULL,
    )
    shutil.copy(smoke / "out/smoke/report.html", folder / "smoke.html")
    sides = ["image=given,model=base", "image=given,mix=both,model=sft"]
    subprocess.run(
        [program, "compare", str(REPOSITORY / "experiments/smoke.toml"), *sides, "--html", "compare.html"],
        cwd=smoke, check=True, stdout=subprocess.DEVNULL,
    )
    shutil.copy(smoke / "compare.html", folder / "compare.html")


if __name__ == "__main__":
    main()
