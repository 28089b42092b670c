"""Data sets in the layouts that `items` and `mix` read, written by the libraries that people use.

    python make_layouts.py           # needs pillow, datasets, pyarrow, pandas, polars; writes into layouts/

Each file has the same questions, as far as its layout can hold them. `expected.json` lists them by file.
"""

import base64
import json
import os
import shutil
import sys
from pathlib import Path

# `statistics.py` next to this file would hide the standard library's.
sys.path.pop(0)
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image

HERE = Path(__file__).parent / "layouts"
PICTURES = ["a.png", "b.jpg", "c.webp", "d.gif", "sub/e.bmp"]


def pictures():
    folder = HERE / "pictures"
    (folder / "sub").mkdir(parents=True)
    y, x = np.mgrid[0:6, 0:8]
    for number, name in enumerate(PICTURES):
        planes = [(x * 20 + number * 30) % 256, (y * 40) % 256, (x * y * 5 + number) % 256]
        image = Image.fromarray(np.stack(planes, -1).astype(np.uint8))
        more = {"lossless": True} if name.endswith("webp") else {}
        image.save(folder / name, **more)


# Question, options, answer by letter or text, picture.
ROWS = [
    ("How many bars, \"red\" or blue?", [], "3", "a.png"),
    ("Which colour?\nName one.", ["red", "it's blue", "green"], "B", "b.jpg"),
    ("Is it a cat?", [], "yes", "c.webp"),
    ("Which is larger?", ["the dog", "the cat"], "A", "d.gif"),
    ("Wo ist Zürich?", [], "in der Schweiz", "sub/e.bmp"),
    ("What is 2 + 3?", [], "5", None),
]


def bytes_of(name):
    return (HERE / "pictures" / name).read_bytes()


def data_url(name):
    kind = {"png": "png", "jpg": "jpeg", "webp": "webp", "gif": "gif", "bmp": "bmp"}[name.rsplit(".")[-1]]
    return f"data:image/{kind};base64,{base64.b64encode(bytes_of(name)).decode()}"


def write_jsonl(name, rows):
    (HERE / name).parent.mkdir(parents=True, exist_ok=True)
    (HERE / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def columns():
    """Columns with other names: JSONL, CSV, and the tables of four libraries."""
    rows = [{"query": q, "choices": o or None, "label": a, "picture": p, "topic": "x"} for q, o, a, p in ROWS]
    write_jsonl("columns.jsonl", rows)
    pd.DataFrame(rows).to_csv(HERE / "columns.csv", index=False)
    flat = [{k: v for k, v in row.items() if k != "choices"} | {k: (row["choices"] or [])[i] if i < len(row["choices"] or []) else None
            for i, k in enumerate("ABC")} for row in rows]
    pd.DataFrame(flat).to_csv(HERE / "letters.tsv", index=False, sep="\t")
    features = Features({"query": Value("string"), "choices": List(Value("string")), "label": Value("string"),
                         "picture": datasets.Image(), "topic": Value("string")})
    stored = [row | {"picture": row["picture"] and {"path": row["picture"], "bytes": bytes_of(row["picture"])}} for row in rows]
    table = Dataset.from_list(stored, features=features)
    (HERE / "hub/data").mkdir(parents=True)
    for shard in range(2):
        table.shard(2, shard, contiguous=True).to_parquet(HERE / f"hub/data/train-{shard:05}-of-00002.parquet")
    table.select(range(2)).to_parquet(HERE / "hub/data/test-00000-of-00001.parquet")
    named = HERE.resolve() / "pictures"
    files = Dataset.from_list([row | {"picture": row["picture"] and str(named / row["picture"])} for row in rows], features=features)
    files.save_to_disk(HERE / "saved")
    DatasetDict({"train": files, "test": files.select(range(2))}).save_to_disk(HERE / "dict")
    # Pillow images lose their names.
    frame = pd.DataFrame([row | {"picture": row["picture"] and bytes_of(row["picture"])} for row in rows])
    frame["topic"] = frame["topic"].astype("category")
    frame.to_parquet(HERE / "pandas.parquet")
    frame.to_feather(HERE / "pandas.feather")
    polars = pl.from_pandas(frame)
    polars.write_parquet(HERE / "polars.parquet")
    polars.write_ipc(HERE / "polars.arrow")
    large = pa.Table.from_pandas(frame).cast(pa.schema([
        ("query", pa.large_string()), ("choices", pa.large_list(pa.large_string())), ("label", pa.dictionary(pa.int16(), pa.string())),
        ("picture", pa.large_binary()), ("topic", pa.string())]))
    with pa.ipc.new_file(HERE / "large.arrow", large.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(large, max_chunksize=2)
    pq.write_table(large, HERE / "gzip.parquet", compression="gzip")


def classes():
    """Class labels, numbers and ARC's choices."""
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["cat", "dog"]), "count": Value("int32"), "share": Value("float32")})
    rows = [{"image": {"path": p, "bytes": bytes_of(p)}, "label": n % 2, "count": n, "share": n / 10} for n, p in enumerate(PICTURES[:3])]
    Dataset.from_list(rows, features=features).to_parquet(HERE / "classes.parquet")
    features = Features({"id": Value("string"), "question": Value("string"), "choices": {"text": List(Value("string")), "label": List(Value("string"))},
                         "answerKey": Value("string")})
    rows = [{"id": "Mercury_1", "question": "Which?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"},
            {"id": "NYSED_2", "question": "What?", "choices": {"text": ["ice", "fog", "rain"], "label": ["1", "2", "3"]}, "answerKey": "3"}]
    Dataset.from_list(rows, features=features).to_parquet(HERE / "arc.parquet")


def conversations():
    """LLaVA, ShareGPT, OpenAI, TRL, ms-swift and Alpaca. Options are part of the question."""
    flat = [(q, a, p) for q, o, a, p in ROWS if not o]
    llava = [{"id": str(n), **({"image": p} if p else {}), "conversations": [
        {"from": "human", "value": ("<image>\n" if p else "") + q}, {"from": "gpt", "value": a}]} for n, (q, a, p) in enumerate(flat)]
    (HERE / "llava.json").write_text(json.dumps(llava, ensure_ascii=False))
    stored = [row | {"image": row.get("image") and {"path": row["image"], "bytes": bytes_of(row["image"])}} for row in llava]
    turn = {"from": Value("string"), "value": Value("string")}
    Dataset.from_list(stored, features=Features({"id": Value("string"), "image": datasets.Image(), "conversations": List(turn)})).to_parquet(HERE / "llava.parquet")
    write_jsonl("sharegpt.jsonl", [{"conversations": [{"from": "human", "value": ("<image>" if p else "") + q}, {"from": "gpt", "value": a}],
                                    "images": [p] if p else []} for q, a, p in flat])
    write_jsonl("openai.jsonl", [{"messages": [
        {"role": "user", "content": [{"type": "text", "text": q}] + ([{"type": "image_url", "image_url": {"url": data_url(p)}}] if p else [])},
        {"role": "assistant", "content": a}]} for q, a, p in flat])
    write_jsonl("swift.jsonl", [{"messages": [{"role": "user", "content": ("<image>" if p else "") + q}, {"role": "assistant", "content": a}],
                                 **({"images": ["./" + p]} if p else {})} for q, a, p in flat])
    part = {"type": Value("string"), "text": Value("string")}
    message = {"role": Value("string"), "content": List(part)}
    trl = [{"images": [{"path": None, "bytes": bytes_of(p)}] if p else [],
            "prompt": [{"role": "user", "content": ([{"type": "image", "text": None}] if p else []) + [{"type": "text", "text": q}]}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": a}]}]} for q, a, p in flat]
    Dataset.from_list(trl, features=Features({"images": List(datasets.Image()), "prompt": List(message), "completion": List(message)})).to_parquet(HERE / "trl.parquet")
    write_jsonl("completion.jsonl", [{"prompt": q, "completion": a} for q, a, p in flat if not p])
    (HERE / "alpaca.json").write_text(json.dumps([{"instruction": q, "input": "", "output": a} for q, a, p in flat if not p]
                                                 + [{"instruction": "Add.", "input": "2 and 3", "output": "5"}]))
    chosen = [{"prompt": [{"role": "user", "content": q}], "chosen": [{"role": "assistant", "content": a}],
               "rejected": [{"role": "assistant", "content": "no idea"}]} for q, a, p in flat]
    Dataset.from_list(chosen).to_parquet(HERE / "preferences.parquet")


def tables():
    """VLMEvalKit's TSV, rows that are lists, and an image folder."""
    rows = []
    for n, (q, o, a, p) in enumerate(ROWS):
        row = {"index": n, "image": base64.b64encode(bytes_of(p)).decode() if p else None, "question": q, "hint": None,
               **{letter: o[i] if i < len(o) else None for i, letter in enumerate("ABC")}, "answer": a, "category": "x", "split": "dev"}
        rows.append(row)
    # A row with the image of row 1, and one with several answers.
    rows.append(rows[1] | {"index": 1000001, "image": "1", "hint": "Look."})
    rows.append(rows[0] | {"index": 7, "image": "0", "answer": "['3', 'three']"})
    pd.DataFrame(rows).to_csv(HERE / "vlmevalkit.tsv", sep="\t", index=False)
    (HERE / "lists.json").write_text(json.dumps([[q, a, i] for i, (q, o, a, p) in enumerate(ROWS[:1])]))
    for split, some in [("train", ROWS[:2]), ("test", ROWS[2:3])]:
        folder = HERE / "imagefolder" / split
        folder.mkdir(parents=True)
        for q, o, a, p in some:
            shutil.copy(HERE / "pictures" / p, folder / p)
        pd.DataFrame([{"file_name": p, "question": q, "answer": a} for q, o, a, p in some]).to_csv(folder / "metadata.csv", index=False)


def expected():
    every = [{"question": q, "options": o, "answers": [a], "image": p} for q, o, a, p in ROWS]
    flat = [row for row in every if not row["options"]]
    text = [row for row in flat if not row["image"]]
    result = {name: every for name in ["columns.jsonl", "columns.csv", "letters.tsv", "hub", "saved", "dict", "pandas.parquet",
                                       "pandas.feather", "polars.parquet", "polars.arrow", "large.arrow"]}
    result |= {name: flat for name in ["llava.json", "llava.parquet", "sharegpt.jsonl", "openai.jsonl", "swift.jsonl", "trl.parquet"]}
    result["completion.jsonl"] = text
    result["alpaca.json"] = text + [{"question": "Add.\n2 and 3", "options": [], "answers": ["5"], "image": None}]
    again = [every[1] | {"question": "Hint: Look.\n" + every[1]["question"]}, every[0] | {"answers": ["3", "three"]}]
    result["vlmevalkit.tsv"] = every + again
    result["classes.parquet"] = [{"question": f"What is animal {n}?", "options": [], "answers": [["cat", "dog"][n % 2], f"{n / 10}"], "image": p}
                                 for n, p in enumerate(PICTURES[:3])]
    result["arc.parquet"] = [{"question": "Which?", "options": ["red", "blue"], "answers": ["B"], "image": None},
                             {"question": "What?", "options": ["ice", "fog", "rain"], "answers": ["C"], "image": None}]
    result["imagefolder"] = [row | {"options": [], "answers": row["answers"]} for row in every[:2]]
    (HERE / "expected.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    datasets.disable_progress_bars()
    pictures()
    columns()
    classes()
    conversations()
    tables()
    expected()
