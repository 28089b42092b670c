"""PyTorch's side of training: `train.py FOLDER [DEVICE [PRECISION [RANK]]]`. A line of JSON in, a line of JSON out, as `model.rs`.

    {"do": "train", "steps": 20, "threads": 2, "optimizer": "fused", "compile": false}

Every request trains from the checkpoint anew, with a new optimizer, as a call of ours does: a step that is not timed, since
it touches all memory for the first time, then so many that are.

In bf16 the products are autocast. RANK trains an adapter on all linear layers of the blocks of a model in bf16, with gradient
checkpointing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText, LlamaForCausalLM
from twin import Twin

IGNORED = -100


class Adapted(torch.nn.Module):
    """A frozen linear layer with a LoRA adapter in f32."""

    def __init__(self, base: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        where = {"device": base.weight.device, "dtype": torch.float32}
        self.down = torch.nn.Parameter(torch.randn(rank, base.in_features, **where) / base.in_features**0.5)
        self.up = torch.nn.Parameter(torch.zeros(base.out_features, rank, **where))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


def adapt(model: LlamaForCausalLM, rank: int) -> None:
    model.requires_grad_(False)
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    setattr(part, name, Adapted(layer, rank))
    model.gradient_checkpointing_enable({"use_reentrant": False})


class Training:
    def __init__(self, folder: Path, device: str, precision: str, rank: int) -> None:
        self.device, self.bf16 = device.split(":")[0], precision == "bf16"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        self.work = json.loads((folder / "work.json").read_text())
        size = json.loads((folder / "size.json").read_text())
        rows = self.work["rows"]
        tokens = torch.tensor([row["tokens"] for row in rows])
        self.inputs, self.targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
        for row, targets in zip(rows, self.targets):
            targets[: row["first_target"] - 1] = IGNORED
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        path = str(folder / "model")
        if size["eyes"]:
            side = self.work["image_size"]
            # SmolVLM takes a list of tiles per row.
            shape = (-1, 1, 3, side, side) if size["eyes"]["family"] == "smolvlm" else (-1, 3, side, side)
            self.pixels = torch.tensor([self.work["images"][row["image"]] for row in rows]).view(shape).to(device)
            self.model = AutoModelForImageTextToText.from_pretrained(
                path, dtype=torch.float32, attn_implementation="sdpa"
            )
        else:
            self.pixels = None
            self.model = Twin(path) if rank == 0 else LlamaForCausalLM.from_pretrained(
                path, dtype=torch.bfloat16, attn_implementation="sdpa"
            )
        self.model.to(device)
        if rank > 0:
            adapt(self.model, rank)
        self.model.train()
        self.adapted = rank > 0
        self.start = {name: value.detach().clone() for name, value in self.model.named_parameters() if value.requires_grad}
        self.compiled = torch.compile(self.loss)

    def loss(self) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            if self.adapted:
                logits = self.model(input_ids=self.inputs, use_cache=False).logits
            elif self.pixels is None:
                logits = self.model(self.inputs)
            else:
                logits = self.model(input_ids=self.inputs, pixel_values=self.pixels, use_cache=False).logits
        logits = logits.float()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), self.targets.view(-1), ignore_index=IGNORED)

    def train(self, steps: int, threads: int, optimizer: str, compile: bool) -> dict[str, object]:
        torch.set_num_threads(threads)
        loss = self.compiled if compile else self.loss
        losses: list[float] = []
        self.model.load_state_dict(self.start, strict=False)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
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
    folder, device, precision, rank = (sys.argv[1:] + ["cpu", "f32", "0"][len(sys.argv) - 2 :])[:4]
    training = Training(Path(folder), device, precision, int(rank))
    for line in sys.stdin:
        request = json.loads(line)
        if request.pop("do") != "train":
            sys.exit(f"unknown request: {line}")
        print(json.dumps(training.train(**request)), flush=True)


main()
