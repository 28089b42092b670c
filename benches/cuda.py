"""Checks ablate on a GPU against ablate on the CPU, and times it beside PyTorch and transformers on the same card.

Build our side first: `src/nn/cuda/with-toolkit.sh cargo build --profile dist --features cuda --example bench-model`.
The Python that runs this needs what `peers/requirements.txt` lists.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no __pycache__ beside the sources
from measure import Failed, Verdict, middle, table
from model import PEERS, REPOSITORY, isolate, make_work
from servers import Server

SIZES = ["S", "M", "L", "default", "XL"]
CHECKED = ["S", "M", "default"]
"""What the CPU computes soon enough."""

STEPS = 50
NEAR, CURVE, EQUAL = 1e-3, 0.01, 0.95
"""Relative differences of log-probabilities and of losses, at most; the share of equal greedy responses, at least."""

EXAMPLES = """\
examples:
  python3 benches/cuda.py                                all checks and timings on cuda:0
  python3 benches/cuda.py --sizes XL --peak 67           MFU of a card of 67 TFLOP/s
  python3 benches/cuda.py --sizes S --device cpu         the script itself, where there is no GPU
"""


class Sides:
    """The programs of one size."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder

    def ours(self, device: str) -> Server:
        return Server([str(self.options.server), "--model", str(self.folder / "model"), "--work",
                       str(self.folder / "work.json"), "--threads", str(self.options.threads), "--device", device])

    def peer(self, script: str) -> Server:
        device = self.options.device
        return Server([sys.executable, str(PEERS / script), str(self.folder), device])


def distance(ours: list[float], theirs: list[float]) -> float:
    """The largest difference, relative to the larger of both."""
    return max(abs(a - b) / max(abs(a), abs(b), 1e-6) for a, b in zip(ours, theirs, strict=True))


def check(size: str, sides: Sides) -> list[Verdict]:
    with sides.ours("cpu") as cpu, sides.ours(sides.options.device) as gpu:
        scores = [[value for row in side.ask(do="score").told["log_probs"] for value in row] for side in (cpu, gpu)]
        # The first step is one more.
        curves = [side.ask(do="train", steps=STEPS - 1).told for side in (cpu, gpu, gpu)]
        texts = [side.ask(do="generate", greedy=True).told["responses"] for side in (cpu, gpu)]
    losses = [curve["losses"] for curve in curves]
    norms = [curve["gradient_norms"] for curve in curves]
    same = sum(a == b for a, b in zip(*texts, strict=True)) / len(texts[0])

    def at_most(what: str, limit: float, found: float) -> Verdict:
        return Verdict(f"{size}, {what}", f"<= {limit:g}", f"{found:.2g}", found <= limit)

    print(f"{size}: two runs on {sides.options.device} differ by {distance(losses[1], losses[2]):.2g} in losses, "
          f"{distance(norms[1], norms[2]):.2g} in gradient norms", flush=True)
    return [
        at_most("log-probabilities beside the CPU's", NEAR, distance(*scores)),
        at_most("first gradient norm beside the CPU's", NEAR, distance(norms[0][:1], norms[1][:1])),
        at_most(f"losses of {STEPS} steps beside the CPU's", CURVE, distance(losses[0], losses[1])),
        Verdict(f"{size}, greedy responses as the CPU's", f">= {EQUAL:.0%}", f"{same:.0%}", same >= EQUAL),
    ]


def race(size: str, sides: Sides, work: str) -> None:
    options = sides.options
    told = json.loads((sides.folder / "size.json").read_text())
    if work == "train":
        ours, theirs = {"do": "train", "steps": 10}, {"threads": options.threads, "optimizer": "fused", "compile": False}
    else:
        ours, theirs = {"do": "generate", "greedy": False}, {"threads": options.threads, "together": told["prompts"]}
    script = "train.py" if work == "train" else "rollouts.py"
    walls: list[list[float]] = [[], []]
    with sides.ours(options.device) as mine, sides.peer(script) as peer:
        for turn in range(1 + options.rounds):
            answers = [mine.ask(**ours), peer.ask(**ours, **theirs)]
            for wall, answer in zip(walls, answers):
                # The first turn is a warm-up.
                wall.extend([answer.wall] if turn > 0 else [])
    flops = answers[0].told.get("flops", 0.0)
    rows = []
    for name, answer, wall in zip(("ablate", "PyTorch" if work == "train" else "transformers"), answers, walls):
        median = statistics.median(wall)
        used = f"{flops / median / options.peak / 1e12:.1%}" if flops and options.peak else ""
        ratio = "" if name == "ablate" else f"{median / statistics.median(walls[0]):.2f} x"
        rows.append([name, f"{answer.told['tokens'] / median:,.0f}", middle([value * 1e3 for value in wall]), used, ratio])
    print(f"{size}, {told['parameters'] / 1e6:.1f} million parameters: {work}\n")
    print(table(["side", "tokens/s", "ms", "MFU", "ratio"], rows, left=1) + "\n", flush=True)


def parse() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in SIZES:
                raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(SIZES)}")
        return found

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=names, default=SIZES, metavar="SIZE,...", help=f"any of {','.join(SIZES)}")
    parser.add_argument("--device", default="cuda:0", help="what is checked and timed (default cuda:0)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="in which both sides take a turn (default 5)")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="of each side on the CPU (default 4)")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="what the card can do in f32, for the MFU")
    parser.add_argument("--server", type=Path, default=REPOSITORY / "target/dist/examples/bench-model", metavar="FILE",
                        help="our side (default target/dist/examples/bench-model)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every check holds")
    return parser.parse_args()


def main() -> int:
    options = parse()
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        isolate(Path(folder))
        for size in options.sizes:
            sides = Sides(options, Path(folder) / size)
            make_work(Path(sys.executable), size, sides.folder)
            if size in CHECKED:
                verdicts += check(size, sides)
            race(size, sides, "train")
            race(size, sides, "generate")
    for verdict in verdicts:
        print(verdict.line())
    return 1 if options.strict and not all(verdict.met for verdict in verdicts) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
