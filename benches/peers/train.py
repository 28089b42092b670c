"""PyTorch's side of training: `train.py FOLDER [DEVICE]`. A line of JSON in, a line of JSON out, as `model.rs`.

    {"do": "train", "steps": 20, "threads": 2, "optimizer": "fused", "compile": false}

Every request trains from the checkpoint anew, with a new optimizer, as a call of ours does: a step that is not timed, since
it touches all memory for the first time, then so many that are.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration
from twin import Twin

IGNORED = -100


class Training:
    def __init__(self, folder: Path, device: str) -> None:
        self.work = json.loads((folder / "work.json").read_text())
        size = json.loads((folder / "size.json").read_text())
        rows = self.work["rows"]
        tokens = torch.tensor([row["tokens"] for row in rows])
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        for row, targets in zip(rows, self.targets):
            targets[: row["first_target"] - 1] = IGNORED
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        path = str(folder / "model")
        if size["eyes"]:
            side = self.work["image_size"]
            self.pixels = torch.tensor([self.work["images"][row["image"]] for row in rows]).view(-1, 3, side, side)
            self.pixels = self.pixels.to(device)
            self.model = LlavaForConditionalGeneration.from_pretrained(
                path, dtype=torch.float32, attn_implementation="sdpa"
            )
        else:
            self.pixels = None
            self.model = Twin(path)
        self.model.to(device).train()
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.compiled = torch.compile(self.loss)

    def loss(self) -> torch.Tensor:
        if self.pixels is None:
            logits = self.model(self.inputs)
        else:
            logits = self.model(input_ids=self.inputs, pixel_values=self.pixels, use_cache=False).logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), self.targets.view(-1), ignore_index=IGNORED)

    def train(self, steps: int, threads: int, optimizer: str, compile: bool) -> dict[str, object]:
        torch.set_num_threads(threads)
        loss = self.compiled if compile else self.loss
        losses: list[float] = []
        self.model.load_state_dict(self.start)
        parameters = list(self.model.parameters())
        stepper = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
                {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=self.work["learning_rate"], betas=(0.9, 0.95), eps=1e-8, **{optimizer: True},
        )
        for step in range(1 + steps):
            if step == 1:
                began = time.perf_counter()
            value = loss()
            stepper.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            stepper.step()
            losses.append(value.item())
        return {"wall": time.perf_counter() - began, "tokens": steps * self.inputs.numel(), "losses": losses}


def main() -> None:
    training = Training(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cpu")
    for line in sys.stdin:
        request = json.loads(line)
        if request.pop("do") != "train":
            sys.exit(f"unknown request: {line}")
        print(json.dumps(training.train(**request)), flush=True)


main()
