"""transformers' side of rollouts: `rollouts.py FOLDER [DEVICE [PRECISION]]`. A line of JSON in, a line of JSON out, as `model.rs`.

    {"do": "generate", "greedy": false, "threads": 2, "together": 4}

`together`: prompts of a call of `generate`, all of one length.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, LlamaForCausalLM


class Rollouts:
    def __init__(self, folder: Path, device: str, precision: str) -> None:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.work = json.loads((folder / "work.json").read_text())
        size = json.loads((folder / "size.json").read_text())
        prompts = self.work["prompts"]
        self.tokens = torch.tensor([prompt["tokens"] for prompt in prompts]).to(device)
        kind = AutoModelForImageTextToText if size["eyes"] else LlamaForCausalLM
        self.model = kind.from_pretrained(folder / "model", dtype=dtype, attn_implementation="sdpa")
        self.model.to(device).eval()
        self.pixels = None
        self.never: list[int] = []
        if size["eyes"]:
            side = self.work["image_size"]
            images = [self.work["images"][prompt["image"]] for prompt in prompts]
            shape = (-1, 1, 3, side, side) if size["eyes"]["family"] == "smolvlm" else (-1, 3, side, side)
            self.pixels = torch.tensor(images).view(shape).to(device, dtype)
            self.never = [self.model.config.image_token_id]

    def generate(self, greedy: bool, threads: int, together: int) -> dict[str, object]:
        torch.set_num_threads(threads)
        new = self.work["new_tokens"]
        how: dict[str, object] = {"min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0}
        if greedy:
            # Ours never writes the image token. In sampling the peer is spared the work of leaving it out.
            how |= {"do_sample": False, "suppress_tokens": self.never or None}
        else:
            how |= {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
                    "num_return_sequences": self.work["samples"]}
        # The first time is not told, as on the other side.
        for _ in range(2):
            began, responses = time.perf_counter(), []
            with torch.inference_mode():
                for first in range(0, len(self.tokens), together):
                    tokens = self.tokens[first : first + together]
                    images = {} if self.pixels is None else {"pixel_values": self.pixels[first : first + together]}
                    found = self.model.generate(
                        input_ids=tokens, attention_mask=torch.ones_like(tokens), **images, **how
                    )
                    responses.append(found[:, tokens.shape[1] :])
            wall = time.perf_counter() - began
        count = sum(response.numel() for response in responses)
        told = [row for response in responses for row in response.tolist()] if greedy else []
        return {"wall": wall, "tokens": count, "responses": told}


def main() -> None:
    folder, device, precision = (sys.argv[1:] + ["cpu", "f32"][len(sys.argv) - 2 :])[:3]
    rollouts = Rollouts(Path(folder), device, precision)
    for line in sys.stdin:
        request = json.loads(line)
        if request.pop("do") != "generate":
            sys.exit(f"unknown request: {line}")
        print(json.dumps(rollouts.generate(**request)), flush=True)


main()
