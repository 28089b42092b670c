"""Measures the time and the memory of a report, and the size of its page, for many models, data sets, items and seeds.

A program that writes random scores replaces the evaluations: one file per model and seed, with a prompt and a response of
realistic length per item. Then `ablate report` computes the table of models by data sets with a baseline.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the source folder
from measure import Failed, Usage, Verdict, measure, table, warn_if_busy

REPOSITORY = Path(__file__).resolve().parent.parent

MODELS, DATASETS, ITEMS, SEEDS = 20, 57, 14_000, 3
"""The data sets and items of MMLU, 20 models, three seeds."""

MAX_MIB, MAX_SECONDS = 1024, 30
MAX_PAGE_MB = 20

EXAMPLES = """\
examples:
  python3 benches/report.py                                    20 models, 57 data sets, 14,000 items, 3 seeds
  python3 benches/report.py --models 2 --datasets 600          few rows, many data sets
  python3 benches/report.py --fan-out                          one evaluation per data set
  python3 benches/report.py --ablate target/release/ablate --strict
"""

SCORER = '''\
import json, os, random
model, seed = int(os.environ["MODEL"]), int(os.environ["ABLATE_SEED"])
datasets, items, only = int(os.environ["DATASETS"]), int(os.environ["ITEMS"]), os.environ.get("ONLY")
random = random.Random(f"{model}/{seed}")
words = " ".join(f"word{number}" for number in range(60))
with open("scores.jsonl", "w") as file:
    for item in range(items):
        dataset = f"subject-{item * datasets // items:03}"
        right = random.random() < 0.4 + model / 100
        if only in (None, dataset):
            answer = "A" if right else "B"
            score = {"id": f"{dataset}/{item}", "dataset": dataset, "prompt": f"Question {item}: {words}",
                     "gold": ["A"], "response": f"{words} So it is {answer}.", "finish": "stop", "answer": answer,
                     "compliant": random.random() < 0.95, "score": float(right)}
            file.write(json.dumps(score) + "\\n")
'''


def experiment(models: int, datasets: int, items: int, seeds: int, fan_out: bool) -> str:
    names = [f"subject-{number:03}" for number in range(datasets)]
    shared = f'"DATASETS={datasets}", "ITEMS={items}"'
    points = [(f"m{model:02}", f'["MODEL={model}", {shared}]') for model in range(models)]
    text = f"""\
name = "report"
[stage.eval]
kind    = "command"
run     = "python3 -I -S scorer.py"
inputs  = {{ "scorer.py" = "scorer.py" }}
outputs = {{ "scores.jsonl" = "scores" }}
[seeds]
values = {list(range(seeds))}
from   = ["eval"]
[axis.model]
key    = "stage.eval.env"
"""
    columns = "dataset"
    if fan_out:
        # One axis sets the environment, the other the command: one instance per model and data set.
        text = text.replace('[axis.model]\nkey    = "stage.eval.env"\n', "")
        text += '[axis.model]\nkey = "stage.eval.env"\n[axis.subject]\nkey = "stage.eval.run"\n'
        runs = ", ".join(f'"ONLY={name} python3 -I -S scorer.py"' for name in names)
        text = text.replace('key = "stage.eval.run"\n', f'key = "stage.eval.run"\nvalues = [{runs}]\nlabels = {names}\n')
        text = text.replace('key = "stage.eval.env"\n', 'key = "stage.eval.env"\nVALUES\n')
        columns = "subject"
    else:
        text += "VALUES\n"
    values = ", ".join(value for _, value in points)
    text = text.replace("VALUES\n", f"values = [{values}]\nlabels = {[label for label, _ in points]}\n")
    return text + f'[report.main]\nrows = ["model"]\ncolumns = ["{columns}"]\nbaseline = "model=m00"\n'


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=MODELS)
    parser.add_argument("--datasets", type=int, default=DATASETS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fan-out", action="store_true", help="one evaluation per data set")
    parser.add_argument("--ablate", type=Path, default=REPOSITORY / "target" / "dist" / "ablate")
    parser.add_argument("--folder", type=Path, help="working folder; results in it are reused")
    parser.add_argument("--strict", action="store_true", help="exit with an error if a target is missed")
    options = parser.parse_args()
    program = str(options.ablate.resolve())
    if not os.access(program, os.X_OK):
        parser.error(f"the program `{program}` does not exist: build it first")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ablate-report-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / "scorer.py").write_text(SCORER)
        sizes = (options.models, options.datasets, options.items, options.seeds)
        (folder / "report.toml").write_text(experiment(*sizes, options.fan_out))
        warn_if_busy()
        measure([program, "run", "report.toml", "--quiet", "--only", "eval"], folder)
        usage = measure([program, "report", "report.toml", "--quiet"], folder)
        page = (folder / "out" / "report" / "report.html").stat().st_size / 1e6
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    return print_results(usage, page, sizes, options.strict)


def print_results(usage: Usage, page: float, sizes: tuple[int, int, int, int], strict: bool) -> int:
    head = ["models", "data sets", "items", "seeds", "CPU s", "s", "MiB", "page MB"]
    numbers = [f"{usage.cpu:.1f}", f"{usage.wall:.1f}", f"{usage.peak_mib:.0f}", f"{page:.1f}"]
    print(table(head, [[*map(str, sizes), *numbers]], 0))
    verdicts = [
        Verdict("memory", f"{MAX_MIB} MiB", f"{usage.peak_mib:.0f} MiB", usage.peak_mib <= MAX_MIB),
        Verdict("page", f"{MAX_PAGE_MB} MB", f"{page:.1f} MB", page <= MAX_PAGE_MB),
        Verdict("time", f"{MAX_SECONDS} s", f"{usage.wall:.1f} s", usage.wall <= MAX_SECONDS),
    ]
    print("\n" + "\n".join(verdict.line() for verdict in verdicts))
    return int(strict and not all(verdict.met for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
