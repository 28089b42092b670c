"""Compares training and rollouts with PyTorch and transformers: equal weights, equal tokens, equal threads.

`model.rs` is our side, `peers/` the others'; `README.md` says what the numbers mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no __pycache__ beside the sources
from contest import Place, generate, train
from kernels import kernels
from measure import Failed, Verdict, warn_if_busy
from outcome import Outcome, print_outcome, verdicts
from servers import Server

REPOSITORY = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).with_name("peers")
SIZES = ["S", "M", "L", "default", "smolvlm"]
CONTESTS = {"train": train, "generate": generate}
WORK = [*CONTESTS, "kernels"]

EXAMPLES = """\
examples:
  just bench-model                                    everything: about half an hour
  just bench-model --quick                            three rounds, without torch.compile
  just bench-model --sizes S,M --work train           training alone
  just bench-model --python ~/torch/bin/python        an environment that is there already
"""


def build() -> Path:
    """Our side, built for numbers that are reported. Cargo tells where it lies."""
    command = ["cargo", "build", "--profile", "dist", "--example", "bench-model"]
    done = subprocess.run(
        [*command, "--message-format=json-render-diagnostics"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command)}` ended with {done.returncode}")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["kind"] == ["example"]:
            return Path(message["executable"])
    raise Failed("cargo names no example `bench-model`")


def install(environment: Path) -> Path:
    """The peers' Python, from PyPI unless it is there already."""
    wanted, had = PEERS / "requirements.txt", environment / "requirements.txt"
    if not had.exists() or had.read_text() != wanted.read_text():
        print(f"installing torch and transformers into {environment} (several GiB, once)", flush=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(environment)],
            [str(environment / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr.strip()}")
        had.write_text(wanted.read_text())
    return environment / "bin/python"


def isolate(work: Path) -> None:
    """Nothing is fetched and nothing is left outside the work folder."""
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_HOME=str(work / "hub"), HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error",
        PYTHONDONTWRITEBYTECODE="1", TORCHINDUCTOR_CACHE_DIR=str(work / "inductor"),
    )
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)


def make_work(python: Path, size: str, folder: Path) -> None:
    folder.mkdir()
    command = [str(python), str(PEERS / "make_work.py"), size, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr.strip()}")


def machine(place: Place) -> dict[str, object]:
    """The processor, and what it can do at most: AVX2 multiply-adds on registers alone."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    with Server(place.ours()) as server:
        peaks = {threads: server.ask(do="peak", threads=threads).told["flops_per_second"]
                 for threads in sorted({1, place.threads})}
    return {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "peaks": peaks}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    def names(known: list[str]):
        def read(text: str) -> list[str]:
            found = [part for part in text.split(",") if part]
            for name in found:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(known)}")
            return found
        return read

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=names(SIZES), default=SIZES, metavar="SIZE,...",
                        help=f"any of {','.join(SIZES)} (default all)")
    parser.add_argument("--work", type=names(WORK), default=WORK, metavar="WORK,...",
                        help=f"any of {','.join(WORK)} (default all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="in which all sides take their turn (default 9)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N",
                        help="of each side (default all cores); PyTorch may take one if it is faster so")
    parser.add_argument("--quick", action="store_true", help="3 rounds and no torch.compile, unless said otherwise")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction,
                        help="whether torch.compile takes part in training (needs g++)")
    parser.add_argument("--patience", type=int, default=4, metavar="N",
                        help="so often a measurement is repeated that others disturbed (default 4)")
    parser.add_argument("--server", type=Path, metavar="FILE",
                        help="our side, if it is built already (default: cargo builds it)")
    parser.add_argument("--python", type=Path, metavar="FILE",
                        help="a Python that has what peers/requirements.txt lists (default: one is made)")
    parser.add_argument("--venv", type=Path, default=REPOSITORY / "target/bench-venv/model", metavar="DIR",
                        help="where the peers are installed from PyPI (default target/bench-venv/model)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every target is met")
    options = parser.parse_args(arguments)
    options.rounds = max(1, options.rounds or (3 if options.quick else 9))
    if options.compile is None:
        options.compile = not options.quick
    return options


def write_json(file: Path, told: dict[str, object], outcomes: list[Outcome], judged: list[Verdict]) -> None:
    document = {
        "machine": told,
        "results": [asdict(outcome) for outcome in outcomes],
        "verdicts": [asdict(verdict) for verdict in judged],
    }
    file.write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    options = parse()
    server = options.server or build()
    # Not resolved: a virtual environment is known by the link's place.
    python = options.python.absolute() if options.python else install(options.venv.resolve())
    warn_if_busy()
    outcomes: list[Outcome] = []
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        isolate(Path(folder))
        told: dict[str, object] = {}
        for size in options.sizes:
            place = Place(size, Path(folder) / size, server.resolve(), python, PEERS, options.threads, options.rounds,
                          options.patience)
            make_work(python, size, place.folder)
            if not told:
                told = machine(place)
                peaks = ", ".join(f"{threads} thread(s) {value / 1e9:.0f}" for threads, value in told["peaks"].items())
                print(f"{told['processor']}, {told['cores']} cores; peak in GFLOP/s: {peaks}\n", flush=True)
            for work in options.work:
                if work == "kernels":
                    found += kernels(place)
                    continue
                outcome = CONTESTS[work](place, options.compile)
                print_outcome(outcome, told["peaks"][options.threads])
                outcomes.append(outcome)
    judged = verdicts(outcomes) + found
    print("Targets of ablate, ratios of medians:")
    for verdict in judged:
        print(verdict.line())
    if options.json:
        write_json(options.json, told, outcomes, judged)
    return 1 if options.strict and not all(verdict.met for verdict in judged) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
