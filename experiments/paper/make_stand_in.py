"""Makes a folder with the layout of the paper's data and a few invented rows in each file, to plan the studies with.

    python3 experiments/paper/make_stand_in.py experiments/paper/data

The folder is what `vars.data` of base.toml names. Nothing in it is the paper's: put the released files in its place.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

ROWS = 4
"""Rows of each file."""

SFT = ["aokvqa", "chartqa", "docvqa", "infovqa", "textvqa", "ai2d", "mathvision"]
BENCH = ["aokvqa", "chartqa", "docvqa", "infovqa", "textvqa", "ai2d", "sqa", "mathvista"]
LETTERS = {"aokvqa", "ai2d", "sqa"}

DIRECT = {False: "Answer the question with a short answer.",
          True: "Answer with the option's letter from the given choices directly."}
COT = {False: "Generate a reason first and then output a short answer.",
       True: "Generate a reason first and then output a letter answer."}


def picture(number: int) -> bytes:
    """A PNG of 8 x 8 pixels in one colour of its own."""
    line = b"\0" + bytes([number % 256, number * 7 % 256, number * 31 % 256]) * 8

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(line * 8)) + chunk(b"IEND", b"")


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.pictures = 0

    def image(self, dataset: str) -> str:
        name = f"{dataset}/{self.pictures}.png"
        path = self.root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(self.pictures))
        self.pictures += 1
        return name

    def write(self, name: str, rows: Iterator[dict] | list[dict]) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def question(dataset: str, number: int) -> str:
    text = f"What is the value of item {number} in this {dataset} picture?"
    return text + "\nA. one\nB. two\nC. three" if dataset in LETTERS else text


def answer(dataset: str, number: int) -> str:
    return "ABC"[number % 3] if dataset in LETTERS else str(10 + number)


def talk(identity: str, image: str | None, human: str, reply: str) -> dict:
    row = {"id": identity}
    if image:
        row["image"] = image
        human = f"<image>\n{human}"
    row["conversations"] = [{"from": "human", "value": human}, {"from": "gpt", "value": reply}]
    return row


def both(folder: Folder, dataset: str, cot: str, direct: str) -> None:
    """The same questions with rationales and with short answers."""
    letters = dataset in LETTERS
    images = [folder.image(dataset) for _ in range(ROWS)]
    asked = [(f"{dataset}-{n}", images[n], question(dataset, n), answer(dataset, n)) for n in range(ROWS)]
    folder.write(cot, [talk(i, image, f"{q}\n{COT[letters]}", f"The picture shows it.\n\n### Answer: {a}") for i, image, q, a in asked])
    folder.write(direct, [talk(i, image, f"{q}\n{DIRECT[letters]}", a) for i, image, q, a in asked])


def main(root: Path) -> None:
    folder = Folder(root)
    for dataset in SFT:
        both(folder, dataset, f"sft/{dataset}/cot.none.jsonl", f"sft/{dataset}/direct.none.jsonl")
    both(folder, "sqa", "sft/sqa/cot.image.none.jsonl", "sft/sqa/direct.image.none.jsonl")
    for form in ("mcq", "sa"):
        both(folder, f"geo-{form}", f"sft/math/geo.{form}.x2.jsonl", f"sft/math/geo.{form}.direct.jsonl")
    for name in ("geo-align.rationale.4k", "geo-qa.rationale.4k", "geo-align.qa.4k", "geo-qa.qa.4k"):
        rows = [talk(f"{name}-{n}", folder.image("geo"), "Describe the figure.", f"Triangle {n}.") for n in range(ROWS)]
        folder.write(f"sft/math/{name}.jsonl", rows)
    rows = [talk(f"p-{n}", folder.image("general"), "What is this?", f"Thing {n}.") for n in range(ROWS)]
    folder.write("sft/pt_data_mix_2k.jsonl", rows)
    for name in ("mathplus", "mathinstruct"):
        rows = [talk(f"{name}-{n}", None, f"What is {n} + 2?", f"{n} + 2 = {n + 2}.\n\n### Answer: {n + 2}") for n in range(ROWS)]
        folder.write(f"text/{name}.jsonl", rows)
    for dataset in BENCH:
        rows = [talk(f"{dataset}-test-{n}", folder.image(f"bench-{dataset}"), question(dataset, n), answer(dataset, n)) for n in range(ROWS)]
        folder.write(f"bench/{dataset}.jsonl", rows)
    folder.write("dpo/rlaifv.jsonl", [
        {"idx": n, "ds_name": "rlaifv", "image": folder.image("rlaifv"), "question": "What is in the picture?",
         "chosen": f"One colour, number {n}.", "rejected": "A dog and a cat."} for n in range(ROWS)])
    (root / "base").mkdir(exist_ok=True)
    (root / "base" / "PUT_THE_CHECKPOINT_HERE").write_text("the base model of base.toml, as `ablate` exports one\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
