"""Checks ablate on a GPU against ablate on the CPU, times it beside PyTorch, transformers and vLLM on the same card, and compares its
times with what the card can do.

Build our side first: `just bench-cuda` does it. The Python that runs this needs what `peers/requirements.txt` lists; vLLM takes part
where it is installed. `--predict` needs neither a GPU nor PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no __pycache__ beside the sources
from measure import Failed, Verdict, middle, table
from model import PEERS, REPOSITORY, isolate, make_work
from servers import Server

SIZES = ["S", "M", "L", "default", "XL", "8B"]
DEFAULT_SIZES = ["S", "M", "default", "XL", "8B"]
CHECKED = ["S", "M", "default"]
"""What the CPU computes soon enough."""

IMAGE_TOKENS = 16
RANK = 16
"""Of the adapter with which an 8B model is trained. It has no room for all its moments."""

# Relative differences of log-probabilities, of the first gradient norm and of losses, at most; the share of equal greedy responses,
# at least. bf16 rounds to 8 bits, so small differences of probabilities choose other tokens.
LIMITS = {"f32": (1e-3, 1e-3, 0.01, 0.95), "tf32": (1e-2, 1e-2, 0.02, 0.8), "bf16": (0.05, 0.05, 0.05, 0.5)}

EXAMPLES = """\
examples:
  just bench-cuda                                         everything, in f32 and bf16, on cuda:0: 9 minutes
  just bench-cuda --sizes XL,8B --precision bf16 --out results
  python3 benches/cuda.py --predict                       expected times on an H200, without a GPU
  python3 benches/cuda.py --sizes S --peer-device cpu     our side on an emulated GPU
"""


@dataclass
class Result:
    """The times of one size, one precision and one kind of work."""

    size: str
    precision: str
    work: str
    parameters: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By side."""
    tokens: dict[str, float] = field(default_factory=dict)
    """Of one measurement."""
    cost: dict = field(default_factory=dict)
    """Of one training step, or of one decoding step."""
    steps: int = 1


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def cost(options: argparse.Namespace, model: Path, size: dict, precision: str, adapted: bool) -> dict:
    """The computed work of a size's training step, prefill and decoding step."""
    first_target = IMAGE_TOKENS if size["eyes"] else 0
    command = [str(options.server.with_name("bench-cost")), "--model", str(model), "--precision", precision]
    numbers = {
        "rows": size["rows"], "positions": size["inputs"], "targets": size["inputs"] - first_target,
        "tiles": int(bool(size["eyes"])), "prompts": size["prompts"], "samples": size["samples"],
        "prompt-tokens": size["prompt_tokens"], "new-tokens": size["new_tokens"],
    }
    for name, value in numbers.items():
        command += [f"--{name}", str(value)]
    if adapted:
        command += ["--lora", str(RANK), "--gradient-checkpointing"]
    return json.loads(run(command))


class Sides:
    """The programs of one size and precision."""

    def __init__(self, options: argparse.Namespace, size: str, folder: Path, precision: str) -> None:
        self.options, self.size, self.folder, self.precision = options, size, folder, precision
        self.adapted = size == "8B"

    def ours(self, device: str) -> Server:
        precision = "f32" if device == "cpu" else self.precision
        command = [str(self.options.server), "--model", str(self.folder / "model"), "--work", str(self.folder / "work.json"),
                   "--threads", str(self.options.threads), "--device", device, "--precision", precision]
        if self.adapted:
            command += ["--lora", str(RANK), "--gradient-checkpointing"]
        return Server(command)

    def peer(self, script: str) -> Server:
        rank = [str(RANK)] if self.adapted and script == "train.py" else []
        device = self.options.peer_device or self.options.device
        return Server([sys.executable, str(PEERS / script), str(self.folder), device, self.precision, *rank])


def distance(ours: list[float], theirs: list[float]) -> float:
    """The largest difference, relative to the larger of both."""
    return max(abs(a - b) / max(abs(a), abs(b), 1e-6) for a, b in zip(ours, theirs, strict=True))


def check(sides: Sides) -> list[Verdict]:
    options, size = sides.options, f"{sides.size} in {sides.precision}"
    near, first, curve, equal = LIMITS[sides.precision]
    with sides.ours("cpu") as cpu, sides.ours(options.device) as gpu:
        scores = [[value for row in side.ask(do="score").told["log_probs"] for value in row] for side in (cpu, gpu)]
        # The first step is one more.
        curves = [side.ask(do="train", steps=options.steps - 1).told for side in (cpu, gpu, gpu)]
        texts = [side.ask(do="generate", greedy=True).told["responses"] for side in (cpu, gpu)]
    losses = [curve["losses"] for curve in curves]
    norms = [curve["gradient_norms"] for curve in curves]
    same = sum(a == b for a, b in zip(*texts, strict=True)) / len(texts[0])

    def at_most(what: str, limit: float, found: float) -> Verdict:
        return Verdict(f"{size}, {what}", f"<= {limit:g}", f"{found:.2g}", found <= limit)

    return [
        at_most("log-probabilities beside the CPU's", near, distance(*scores)),
        at_most("first gradient norm beside the CPU's", first, distance(norms[0][:1], norms[1][:1])),
        at_most(f"losses of {options.steps} steps beside the CPU's", curve, distance(losses[0], losses[1])),
        Verdict(f"{size}, two runs on {options.device}", "equal losses", "equal" if losses[1] == losses[2] else "different",
                losses[1] == losses[2]),
        Verdict(f"{size}, greedy responses as the CPU's", f">= {equal:.0%}", f"{same:.0%}", same >= equal),
    ]


def race(sides: Sides, work: str, found: dict) -> Result:
    """Both sides, and vLLM, take turns."""
    options = sides.options
    size = json.loads((sides.folder / "size.json").read_text())
    result = Result(sides.size, sides.precision, work, size["parameters"])
    steps = min(options.timed_steps, 3) if sides.adapted else options.timed_steps
    peers: dict[str, str] = {"PyTorch": "train.py"} if work == "train" else {"transformers": "rollouts.py"}
    if work == "train":
        ours: dict[str, object] = {"do": "train", "steps": steps}
        theirs: dict[str, object] = {"threads": options.threads, "optimizer": "fused", "compile": False}
        result.steps, result.cost = steps, found["training"]
    else:
        ours, theirs = {"do": "generate", "greedy": False}, {"threads": options.threads, "together": size["prompts"]}
        result.steps, result.cost = size["new_tokens"], found["step"]
        if not size["eyes"] and importlib.util.find_spec("vllm"):
            peers["vLLM"] = "vllm_rollouts.py"
    turns = {"ablate": (lambda: sides.ours(options.device), ours)}
    turns |= {name: (lambda script=script: sides.peer(script), ours | theirs) for name, script in peers.items()}
    for name, (start, request) in turns.items():
        # One at a time: an 8B model fits twice into few cards.
        try:
            with start() as side:
                answers = [side.ask(**request) for _ in range(1 if sides.adapted else options.rounds)]
        except Failed as error:
            if name == "ablate":
                raise
            print(f"note: {sides.size} in {sides.precision}, {work}: {name} is left out: {error}", flush=True)
            continue
        result.seconds[name] = [answer.wall for answer in answers]
        result.tokens[name] = answers[-1].told["tokens"]
    return result


def peaks(device: str) -> dict[str, float]:
    """FLOPs per second of a product by precision, and bytes per second of a copy, measured with PyTorch."""
    import torch

    gpu = device.startswith("cuda")
    width = 8192 if gpu else 512

    def best(work, count: int) -> float:
        times = []
        for _ in range(count):
            if gpu:
                torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times)

    found = {}
    for precision, dtype in (("f32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
        found[precision] = 2 * width**3 / best(lambda: a @ b, 8)
    source = torch.empty((1 << 30) if gpu else (1 << 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["bandwidth"] = 2 * source.numel() / best(lambda: target.copy_(source), 8)
    return found


def profile(sides: Sides) -> list[str]:
    """Time per kernel of a training, where `nsys` is installed."""
    if not shutil.which("nsys"):
        return []
    base = sides.folder / f"profile-{sides.precision}"
    with sides.ours(sides.options.device) as side:
        command = side.process.args
    request = json.dumps({"do": "train", "steps": 3}) + "\n"
    done = subprocess.run(["nsys", "profile", "-o", str(base), "--force-overwrite=true", *command], input=request,
                          capture_output=True, text=True)
    if done.returncode != 0:
        return []
    told = run(["nsys", "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", f"{base}.nsys-rep"])
    return told.strip().splitlines()[:21]


def show(results: list[Result], measured: dict[str, float]) -> str:
    """Markdown."""
    head = ["size", "precision", "work", "side", "tokens/s", "ms", "ratio", "of product peak", "of bandwidth", "predicted, H200"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---|" + "--:|" * (len(head) - 4)]
    for result in results:
        ours = statistics.median(result.seconds["ablate"])
        for side, walls in result.seconds.items():
            median = statistics.median(walls)
            row = [result.size, result.precision, result.work, side, f"{result.tokens[side] / median:,.0f}",
                   middle([wall * 1e3 / result.steps for wall in walls]), f"{median / ours:.2f}"]
            if side == "ablate":
                flops, moved = result.cost["flops"] * result.steps, result.cost["bytes"] * result.steps
                row += [f"{flops / ours / measured[result.precision]:.0%}", f"{moved / ours / measured['bandwidth']:.0%}",
                        f"{result.cost['predicted']['seconds'] * 1e3:.2f}"]
            lines.append("| " + " | ".join([*row, "", "", ""][: len(head)]) + " |")
    lines += ["", "ms: of a training step, or of a response token with the prefill. ratio: to ablate.", "",
              f"Measured peaks in TFLOP/s: f32 {measured['f32'] / 1e12:.1f}, tf32 {measured['tf32'] / 1e12:.1f}, "
              f"bf16 {measured['bf16'] / 1e12:.1f}; bandwidth {measured['bandwidth'] / 1e12:.2f} TB/s.", ""]
    for result in results:
        told = result.cost
        lines += [f"### {result.size} in {result.precision}: {result.work}", "",
                  f"{told['launches']} launches and {told['products']} products per step; largest by FLOPs:", "",
                  "| operation | calls | GFLOP | MB |", "|---|--:|--:|--:|"]
        lines += [f"| {item['name']} | {item['calls']} | {item['flops'] / 1e9:,.1f} | {item['bytes'] / 1e6:,.1f} |"
                  for item in told["items"][:8]] + [""]
    return "\n".join(lines)


# The sizes of `peers/make_work.py`, which needs PyTorch.
XL = {"dim": 1024, "layers": 16, "heads": 16, "kv_heads": 8, "ff": 4096, "vocab": 24576, "rows": 16, "inputs": 512, "prompts": 16,
      "samples": 32, "prompt_tokens": 64, "new_tokens": 128, "eyes": True, "theta": 10000.0, "positions": 1024}
EIGHT = {"dim": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "ff": 14336, "vocab": 128256, "rows": 4, "inputs": 2048,
         "prompts": 1, "samples": 32, "prompt_tokens": 512, "new_tokens": 128, "eyes": False, "theta": 500000.0,
         "positions": 8192}


def write_config(folder: Path, size: dict) -> None:
    """The config.json of a size, as transformers writes it."""
    text = {
        "model_type": "llama", "hidden_size": size["dim"], "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"], "num_key_value_heads": size["kv_heads"], "intermediate_size": size["ff"],
        "vocab_size": size["vocab"], "rms_norm_eps": 1e-5, "rope_theta": size["theta"],
        "max_position_embeddings": size["positions"], "tie_word_embeddings": False, "hidden_act": "silu",
    }
    vision = {"model_type": "clip_vision_model", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
              "intermediate_size": 176, "image_size": 32, "patch_size": 8, "hidden_act": "gelu", "projection_dim": 64}
    llava = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": text,
             "vision_config": vision, "image_token_index": size["vocab"] - 1, "vision_feature_layer": -1,
             "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu", "tie_word_embeddings": False}
    folder.mkdir()
    config = llava if size["eyes"] else text | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))


def predict(options: argparse.Namespace) -> str:
    """The table of docs/cuda.md."""
    lines = ["| model, pass | launches, products | TFLOP | GB | expected | the largest part | memory, GiB |", "|---|--:|--:|--:|--:|---|--:|"]
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        for name, size in (("XL", XL), ("8B", EIGHT)):
            write_config(Path(folder) / name, size)
            found = cost(options, Path(folder) / name, size, "bf16", name == "8B")
            trained = f"LoRA of rank {RANK}, checkpointing" if name == "8B" else "all parameters"
            sequences = size["prompts"] * size["samples"]
            passes = {
                "training": f"training step, {trained}, {size['rows']} x {size['inputs']} tokens",
                "prefill": f"prefill of {size['prompts']} x {size['prompt_tokens']} tokens",
                "step": f"decoding step of {sequences} sequences",
            }
            for key, text in passes.items():
                told = found[key]
                part, seconds = told["predicted"]["parts"][0]
                whole = told["predicted"]["seconds"]
                memory = f"{told['memory']['total'] / 2**30:.1f}" if told["memory"] else ""
                lines.append(f"| {name}, {text} | {told['launches']}, {told['products']} | {told['flops'] / 1e12:.2f} | "
                             f"{told['bytes'] / 1e9:.1f} | {whole * 1e3:.1f} ms | {part} {seconds / whole:.0%} | {memory} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    def names(known: list[str]):
        def read(text: str) -> list[str]:
            found = text.split(",")
            for name in found:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(known)}")
            return found
        return read

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=names(SIZES), default=DEFAULT_SIZES, metavar="SIZE,...",
                        help=f"any of {','.join(SIZES)} (default {','.join(DEFAULT_SIZES)})")
    parser.add_argument("--precision", type=names(list(LIMITS)), default=["f32", "bf16"], metavar="TYPE,...",
                        help="any of f32,tf32,bf16 (default f32,bf16); 8B runs in bf16 only")
    parser.add_argument("--device", default="cuda:0", help="what is checked and timed (default cuda:0)")
    parser.add_argument("--peer-device", metavar="DEVICE", help="of the other programs (default the same)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measurements of each side (default 3)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="of the checked training (default 50)")
    parser.add_argument("--timed-steps", type=int, default=10, metavar="N", help="of the timed training (default 10)")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="of each side on the CPU (default 4)")
    parser.add_argument("--budget", type=float, default=520, metavar="SECONDS",
                        help="after this time no further size begins (default 520)")
    parser.add_argument("--server", type=Path, default=REPOSITORY / "target/dist/examples/bench-model", metavar="FILE",
                        help="our side, beside `bench-cost` (default target/dist/examples/bench-model)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write cuda.md and cuda.json")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every check holds")
    parser.add_argument("--predict", action="store_true", help="print expected times on an H200, and measure nothing")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.predict:
        print(predict(options))
        return 0
    began = time.monotonic()
    verdicts: list[Verdict] = []
    results: list[Result] = []
    profiles: dict[str, list[str]] = {}
    measured = peaks(options.peer_device or options.device)
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        isolate(Path(folder))
        for size in options.sizes:
            if time.monotonic() - began > options.budget:
                print(f"note: {size} is left out: --budget is used up", flush=True)
                continue
            place = Path(folder) / size
            make_work(Path(sys.executable), size, place)
            known = json.loads((place / "size.json").read_text()) | {"samples": 32}
            for precision in options.precision if size != "8B" else ["bf16"]:
                sides = Sides(options, size, place, precision)
                if size in CHECKED:
                    verdicts += check(sides)
                found = cost(options, place / "model", known, precision, sides.adapted)
                for work in ("train", "generate"):
                    results.append(race(sides, work, found))
                    walls = ", ".join(f"{side} {statistics.median(seconds):.2f} s"
                                      for side, seconds in results[-1].seconds.items())
                    print(f"{size} in {precision}, {work}: {walls}", flush=True)
                if size == "XL":
                    profiles[precision] = profile(sides)
            shutil.rmtree(place)  # An 8B model takes 16 GB.
    text = show(results, measured)
    print(text)
    for verdict in verdicts:
        print(verdict.line())
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        lines = [text, "## Checks", "", *(f"- {verdict.line()}" for verdict in verdicts)]
        (options.out / "cuda.md").write_text("\n".join(lines) + "\n")
        document = {"peaks": measured, "results": [asdict(result) for result in results],
                    "verdicts": [asdict(verdict) for verdict in verdicts], "profiles": profiles}
        (options.out / "cuda.json").write_text(json.dumps(document, indent=1) + "\n")
    return 1 if options.strict and not all(verdict.met for verdict in verdicts) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
