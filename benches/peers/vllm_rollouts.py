"""vLLM's side of rollouts of text: `vllm_rollouts.py FOLDER DEVICE PRECISION`. A line of JSON in, a line of JSON out, as `model.rs`.

    {"do": "generate", "greedy": false, "threads": 2, "together": 4}
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
from vllm import LLM, SamplingParams


def main() -> None:
    folder, precision = Path(sys.argv[1]), sys.argv[3]
    work = json.loads((folder / "work.json").read_text())
    model = LLM(str(folder / "model"), dtype="bfloat16" if precision == "bf16" else "float32", skip_tokenizer_init=True,
                gpu_memory_utilization=0.5, enable_prefix_caching=True, max_model_len=1024)
    prompts = [{"prompt_token_ids": prompt["tokens"]} for prompt in work["prompts"]]
    for line in sys.stdin:
        request, new = json.loads(line), work["new_tokens"]
        samples = 1 if request["greedy"] else work["samples"]
        sampling = SamplingParams(n=samples, temperature=0.0 if request["greedy"] else 1.0, max_tokens=new, min_tokens=new,
                                  ignore_eos=True, detokenize=False)
        # The first time is not told, as on the other side.
        for _ in range(2):
            began = time.perf_counter()
            found = model.generate(prompts, sampling, use_tqdm=False)
            wall = time.perf_counter() - began
        responses = [list(one.token_ids) for answer in found for one in answer.outputs]
        told = responses if request["greedy"] else []
        print(json.dumps({"wall": wall, "tokens": sum(map(len, responses)), "responses": told}), flush=True)


main()
