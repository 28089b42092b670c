"""Runs experiments/recipes/side-by-side.toml and compares its arms. `run.sh` calls it."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "experiments/recipes"
sys.path.insert(0, str(RECIPES))

from endpoints import Endpoint, write_texts  # noqa: E402
from http2 import http2_server  # noqa: E402
from openai_rollout import Server  # noqa: E402

WORK = ROOT / "target/recipes"
ABLATE = os.environ.get("ABLATE", Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/ablate")
# With this environment activated. The processes share two cores; with several threads each they would wait for each other.
PATH = f"{sys.prefix}/bin:{os.environ['PATH']}"
ENVIRONMENT = os.environ | {"PATH": PATH, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TWO_PROCESSES = "python3 -m torch.distributed.run --standalone --nproc_per_node 2"
# A third-party server of the OpenAI protocol.
SERVE = "transformers serve {model} --host 127.0.0.1 --port {port} --device cpu --dtype float32"
LLAMA_SERVER = "llama-server-vulkan --model {model} --host 127.0.0.1 --port {port} --device none --threads 1 --ctx-size 2048"
# The largest difference of the losses of one step.
TOLERANCE = 1e-3


def prepare():
    """Makes the checkpoint."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    subprocess.run([sys.executable, ROOT / "tests/recipes/make_checkpoint.py", WORK / "checkpoint"], check=True)


def ablate(command, *more, experiment=RECIPES / "side-by-side.toml", variables=None):
    checkpoint = ["--set", f"vars.checkpoint={WORK / 'checkpoint'}"]
    line = [ABLATE, command, experiment, *checkpoint, *more]
    subprocess.run(line, cwd=WORK, env=ENVIRONMENT | (variables or {}), check=True)


def read(path, experiment="side-by-side"):
    with open(WORK / "out" / experiment / path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def compare_losses(native, recipe):
    ours, theirs = read(f"{native}/curve.jsonl"), read(f"{recipe}/curve.jsonl")
    assert len(ours) == len(theirs) == 20, (len(ours), len(theirs))
    assert ours[0]["loss"] - ours[-1]["loss"] > 50 * TOLERANCE, "nothing was learned"
    for one, other in zip(ours, theirs):
        assert (one["step"], one["tokens"]) == (other["step"], other["tokens"]), (one, other)
    largest = max(abs(one["loss"] - other["loss"]) for one, other in zip(ours, theirs))
    print(f"{recipe}: the losses of 20 steps differ from {native} by at most {largest:.1e}")
    assert largest < TOLERANCE


def compare_texts(name, ours, theirs):
    assert ours and ours.keys() == theirs.keys()
    different = [(key, ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]]
    assert not different, different[:3]
    print(f"{name}: {len(ours)} greedy responses are equal to those of ablate")


def samples(path):
    return {rollout["item"]["id"]: (rollout["prompt"], rollout["samples"]) for rollout in read(path)}


def endpoints():
    """Runs stages of ablate at servers."""
    texts = WORK / "texts.jsonl"
    write_texts(texts)
    run = partial(ablate, "run", "--set", f"vars.texts={texts}", experiment=ROOT / "tests/recipes/endpoints.toml")
    results = partial(read, experiment="endpoints")
    log = WORK / "http2.log"
    with http2_server(log) as (url, variables):
        run("distill_texts", "--set", f"vars.url={url}", "--set", "vars.model=http2", variables=variables)
    requests = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    connections = len({client for _, client in requests})
    assert len(requests) == 10 and connections <= 8, requests
    assert {version for version, _ in requests} == {"2"}, requests
    print(f"HTTP/2: 10 requests on {connections} connections")
    run("sft")
    model = (WORK / "out/endpoints/sft/model").resolve()
    with Server(SERVE.replace("{model}", str(model))) as url:
        Endpoint("transformers serve", url, model, run, results).check(images=True, compare_texts=compare_texts)
    # A wheel of llama.cpp's server, which `pip` installs on Linux with x86-64 only.
    if shutil.which("llama-server-vulkan", path=PATH):
        subprocess.run([sys.executable, ROOT / "tests/recipes/make_gguf.py", model, WORK / "model.gguf"], check=True)
        with Server(LLAMA_SERVER.replace("{model}", str(WORK / "model.gguf"))) as url:
            Endpoint("llama.cpp", url, "model.gguf", run, results).check(images=False, compare_texts=compare_texts)


def main():
    prepare()
    os.environ.update(ENVIRONMENT)
    endpoints()
    ablate("run", "sft")
    model = (WORK / "out/side-by-side/sft/model").resolve()
    with Server(SERVE.replace("{model}", str(model))) as url:
        ablate("run", "--set", f"vars.server=--url {url} --model {model}")
    compare_losses("sft", "trl_sft")
    compare_losses("dpo", "trl_dpo")
    for stage in ["openai_rollout", "vllm_rollout"]:
        compare_texts(stage, samples("greedy/rollouts.jsonl"), samples(f"{stage}/rollouts.jsonl"))
    for trainer in ["sft", "trl-sft", "dpo", "trl-dpo"]:
        responses = [
            {score["id"]: score["response"] for score in read(f"{stage}@trainer={trainer}/scores.jsonl")}
            for stage in ["eval", "lm_eval"]
        ]
        compare_texts(f"lm_eval of {trainer}", *responses)
    # The same with a model that two processes share.
    halves = {"launch": TWO_PROCESSES, "processes": 2, "rows": 28, "pairs": 8}
    values = [part for key, value in halves.items() for part in ("--set", f"vars.{key}={value}")]
    ablate("run", "trl_sft", "trl_dpo", *values)
    compare_losses("sft", "trl_sft")
    compare_losses("dpo", "trl_dpo")
    read_results()


def read_results():
    """Runs the two lines of docs/experiment.md that read the results with pandas."""
    ablate("results", "--out", "scores.parquet")
    page = (ROOT / "docs/experiment.md").read_text(encoding="utf-8")
    lines = page.split("## Results for other programs")[1].split("```python\n")[1].split("```")[0]
    printed = subprocess.run([sys.executable, "-c", lines], cwd=WORK, check=True, capture_output=True, text=True).stdout
    assert "lm_eval" in printed and "pick" in printed, printed
    print(printed)


if __name__ == "__main__":
    main()
