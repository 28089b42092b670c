"""Converts what `lm_eval --log_samples --output_path FOLDER` writes, of any task, into `scores.jsonl`.

    python lm_eval_scores.py FOLDER --metric exact_match
"""

import argparse
import re
from pathlib import Path

import records

# What filters of lm-evaluation-harness return if they find no answer.
INVALID = ("", "[invalid]")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric", default="exact_match", help="the metric that is the score, from 0 to 1")
    parser.add_argument("--filter", default="none", help="the filter whose answers are scored")
    return parser.parse_args()


def score(sample, task, metric):
    doc, answer = sample["doc"], sample["filtered_resps"][0]
    if not isinstance(answer, str):
        raise SystemExit(f"task `{task}`: only tasks of the type generate_until have responses")
    if metric not in sample["metrics"]:
        raise SystemExit(f"task `{task}` has no metric `{metric}`: it has {', '.join(sample['metrics'])}")
    found = {
        "id": str(doc.get("id", sample["doc_id"])),
        "dataset": doc.get("dataset") or task,
        "prompt": sample["arguments"]["gen_args_0"]["arg_0"],
        "gold": doc.get("answers") or [sample["target"]],
        "response": sample["resps"][0][0],
        "score": float(sample[metric]),
    }
    # It is not recorded whether a response was cut, and not judged whether it has the prompt's form.
    found |= {} if answer in INVALID else {"answer": answer}
    return found | {key: doc[key] for key in ("image", "images") if doc.get(key)}


def main():
    options = arguments()
    files = sorted(options.folder.rglob("samples_*.jsonl"))
    if not files:
        raise SystemExit(f"`{options.folder}` has no samples_*.jsonl: was lm_eval run with --log_samples?")
    scores = []
    for path in files:
        task = re.fullmatch(r"samples_(.+)_\d{4}-.*", path.stem)[1]
        samples = records.read(path)
        chosen = [sample for sample in samples if sample["filter"] == options.filter]
        if not chosen:
            filters = sorted({sample["filter"] for sample in samples})
            raise SystemExit(f"task `{task}` has no filter `{options.filter}`: it has {', '.join(filters)}")
        scores += [score(sample, task, options.metric) for sample in chosen]
    records.write("scores.jsonl", scores)


if __name__ == "__main__":
    main()
