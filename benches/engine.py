"""Compares ablate with build and experiment engines on one DAG of trivial stages: what does the engine itself cost?

Each engine gets the same graph in a fresh folder, and two jobs. `engines.py` has the graph and the engines, `README.md`
what the numbers mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no __pycache__ beside the sources
from engines import ENGINES, STAGES_PER_MIX, Engine, count_stages, mix_text, stages_of, write_data, write_mix
from measure import Failed, Usage, Verdict, measure, middle, peak, table, warn_if_busy

REPOSITORY = Path(__file__).resolve().parent.parent

FRESH_PLAN, COLD, NO_OP, PLAN = "plan, nothing built", "cold", "no-op", "plan"
ONE_MIX, REWRITE = "one mix changed", "equal rewrite"

SETTLE = 3.0
"""Seconds until a file is old enough that its time stamp is trusted (2 s is the coarsest clock of a file system)."""

EXAMPLES = """\
examples:
  python3 benches/engine.py                                     all engines, 101 to 10,001 stages: about 10 minutes
  python3 benches/engine.py --quick                             1,001 stages, three rounds: about a minute
  python3 benches/engine.py --sizes 10000 --engines ablate,ninja
  python3 benches/engine.py --linear 1000,10000,100000          how ablate and ninja grow
  python3 benches/engine.py --max dvc=1001 --sizes 1000         beyond an engine's own limit
"""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    stages: int
    scenario: str
    engine: str
    rounds: list[Usage]
    ran: int | None
    """Stages that were executed, where it can be told."""

    def cpu(self) -> float:
        return statistics.median(usage.cpu for usage in self.rounds)


@dataclass
class Place:
    """One engine in its folder."""

    engine: Engine
    folder: Path
    mixes: int

    def lay(self) -> None:
        """From nothing: the data files and the description of the graph."""
        shutil.rmtree(self.folder, ignore_errors=True)
        write_data(self.folder, self.mixes)
        self.engine.write(self.folder, self.mixes)

    def measure(self, command: list[str]) -> tuple[Usage, int | None]:
        """Runs a command; tells what it cost and how many stages it executed."""
        before = self.engine.snapshot(self.folder)
        usage = measure(command, self.folder)
        return usage, self.engine.count(before, self.folder, usage)

    def check_outputs(self, mix: int, revision: int) -> None:
        """Fails unless the outputs of all stages of a mix come from this revision of its data."""
        for stage in stages_of(mix):
            text = self.engine.output(self.folder, stage.name).read_text()
            if mix_text(mix, revision) not in text:
                raise Failed(f"the output of `{stage.name}` does not come from revision {revision} of its data")


class Contest:
    """All engines at one size, scenario after scenario. An engine that fails is out for the rest of it."""

    def __init__(self, engines: Iterable[Engine], work: Path, mixes: int, rounds: int) -> None:
        self.places = [Place(engine, work / f"{engine.name}-{mixes}", mixes) for engine in engines]
        self.mixes = mixes
        self.rounds = rounds
        self.results: list[Result] = []

    def run(self) -> list[Result]:
        self.each(lambda place: place.lay())
        time.sleep(SETTLE)
        self.scenario(FRESH_PLAN, lambda place: place.measure(place.engine.plan_command()))
        self.each(lambda place: place.lay())  # the plan may have left something behind
        time.sleep(SETTLE)
        self.scenario(COLD, lambda place: place.measure(place.engine.cold_command()))
        self.each(lambda place: place.check_outputs(self.mixes - 1, revision=0))
        time.sleep(SETTLE)
        self.scenario(NO_OP, lambda place: place.measure(place.engine.run_command()), self.rounds)
        self.scenario(PLAN, lambda place: place.measure(place.engine.plan_command()), self.rounds)
        self.rewrite(ONE_MIX, mix=0, revision=1)
        self.rewrite(REWRITE, mix=1, revision=0)
        for place in self.places:
            shutil.rmtree(place.folder, ignore_errors=True)
        return self.results

    def rewrite(self, scenario: str, mix: int, revision: int) -> None:
        self.each(lambda place: write_mix(place.folder, mix, revision))
        self.scenario(scenario, lambda place: place.measure(place.engine.run_command()))
        self.each(lambda place: place.check_outputs(mix, revision))

    def each(self, act: Callable[[Place], object]) -> None:
        for place in list(self.places):
            try:
                act(place)
            except (Failed, OSError, subprocess.CalledProcessError) as error:
                print(f"{place.engine.name} is out at {count_stages(self.mixes):,} stages: {error}", file=sys.stderr)
                self.places.remove(place)

    def scenario(self, name: str, act: Callable[[Place], tuple[Usage, int | None]], rounds: int = 1) -> None:
        """Engines take turns, so that a slow moment of the machine does not fall on one of them."""
        found: dict[str, list[tuple[Usage, int | None]]] = {place.engine.name: [] for place in self.places}
        for _ in range(rounds):
            self.each(lambda place: found[place.engine.name].append(act(place)))
        for engine, measured in found.items():
            if len(measured) == rounds:
                counts = [count for _, count in measured if count is not None]
                ran = max(counts) if counts and name not in (PLAN, FRESH_PLAN) else None
                usages = [usage for usage, _ in measured]
                self.results.append(Result(count_stages(self.mixes), name, engine, usages, ran))


def grow(engines: list[Engine], work: Path, mixes: int, rounds: int) -> list[Result]:
    """Cold and no-op alone, for `--linear`."""
    contest = Contest(engines, work, mixes, rounds)
    contest.each(lambda place: place.lay())
    time.sleep(SETTLE)
    contest.scenario(COLD, lambda place: place.measure(place.engine.cold_command()))
    time.sleep(SETTLE)
    contest.scenario(NO_OP, lambda place: place.measure(place.engine.run_command()), rounds)
    for place in contest.places:
        shutil.rmtree(place.folder, ignore_errors=True)
    return contest.results


def find(results: Iterable[Result], scenario: str, engine: str) -> Result | None:
    return next((result for result in results if (result.scenario, result.engine) == (scenario, engine)), None)


def ratio(results: Iterable[Result], scenario: str, engine: str) -> float | None:
    """CPU seconds per CPU second of ninja."""
    results = list(results)
    ours, ninja = find(results, scenario, engine), find(results, scenario, "ninja")
    return ours.cpu() / ninja.cpu() if ours and ninja and ninja.cpu() > 0 else None


def print_size(results: list[Result], engines: list[Engine], skipped: dict[str, str]) -> None:
    rows = []
    for scenario in (FRESH_PLAN, COLD, NO_OP, PLAN, ONE_MIX, REWRITE):
        for engine in engines:
            rows.append([scenario, engine.name, *cells(results, scenario, engine.name)])
    print(table(["scenario", "engine", "CPU s", "wall s", "peak MiB", "stages run", "CPU / ninja"], rows, left=2))
    for name, reason in skipped.items():
        print(f"-  {name} was left out: {reason}")
    print(flush=True)


def cells(results: list[Result], scenario: str, engine: str) -> list[str]:
    result = find(results, scenario, engine)
    if result is None:
        return ["-"] * 5
    compared = ratio(results, scenario, engine)
    return [
        middle([usage.cpu for usage in result.rounds]),
        middle([usage.wall for usage in result.rounds]),
        peak(result.rounds),
        "" if result.ran is None else f"{result.ran:,}",
        "" if compared is None else f"{compared:.2f}",
    ]


def print_growth(results: list[Result]) -> None:
    rows = []
    for result in results:
        if result.scenario == NO_OP:
            cold = next(r for r in results if (r.stages, r.engine, r.scenario) == (result.stages, result.engine, COLD))
            rows.append([
                f"{result.stages:,}",
                result.engine,
                middle([usage.cpu for usage in result.rounds]),
                middle([usage.wall for usage in result.rounds]),
                peak(result.rounds),
                f"{result.cpu() / result.stages * 1e6:.2f}",
                f"{cold.cpu():.1f}",
            ])
    print("Growth: a no-op, after one cold run at each size. The cost per stage should stay what it is.\n")
    head = ["stages", "engine", "no-op CPU s", "wall s", "peak MiB", "CPU µs / stage", "cold CPU s"]
    print(table(head, rows, left=2), end="\n\n", flush=True)


def verdicts(results: list[Result]) -> list[Verdict]:
    """ablate's targets, at the largest size that was run."""
    stages = max((result.stages for result in results), default=0)
    at = [result for result in results if result.stages == stages]
    return [
        no_dearer(at, NO_OP, 1.5),
        no_dearer(at, COLD, 2.0),
        light(at, FRESH_PLAN),
        light(at, PLAN),
        exactly(at, ONE_MIX, STAGES_PER_MIX),
        exactly(at, REWRITE, 0),
    ]


def no_dearer(results: list[Result], scenario: str, most: float) -> Verdict:
    compared = ratio(results, scenario, "ablate")
    value = "not measured" if compared is None else f"{compared:.2f} x ninja's"
    return Verdict(f"CPU of `{scenario}`", f"<= {most} x", value, None if compared is None else compared <= most)


def light(results: list[Result], scenario: str) -> Verdict:
    found = find(results, scenario, "ablate")
    value = "not measured" if found is None else f"{peak(found.rounds)} MiB"
    met = None if found is None else max(usage.peak_mib for usage in found.rounds) < 100
    return Verdict(f"peak memory of `{scenario}`", "< 100 MiB", value, met)


def exactly(results: list[Result], scenario: str, wanted: int) -> Verdict:
    found = find(results, scenario, "ablate")
    ran = None if found is None else found.ran
    value = "not measured" if ran is None else f"{ran:,} stages run"
    return Verdict(f"`{scenario}`", f"exactly {wanted}", value, None if ran is None else ran == wanted)


def provide(name: str, ablate: Path, environments: Path) -> Engine | None:
    """An engine ready to be called. Peers are installed each into an environment of its own: they cannot conflict."""
    kind = ENGINES[name]
    try:
        binary = install(kind.package, name, environments) if kind.package else ablate.resolve()
        engine = kind(binary)
        print(f"{name:<10} {engine.version()}", flush=True)
        return engine
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        print(f"{name:<10} is left out: {said.strip().splitlines()[-1]}", flush=True)
        return None


def install(package: str, name: str, environments: Path) -> Path:
    environment = environments.resolve() / package.replace("==", "-")
    binary = environment / "bin" / name
    if not binary.exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(environment)],
            [str(environment / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", package],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    return binary


def isolate(work: Path) -> None:
    """Engines find no settings of the user's, leave nothing outside the work folder, and call nobody."""
    os.environ.pop("ABLATE_STORE", None)
    home = work / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR"):
        os.environ[name] = str(home)
    os.environ.update(DVC_NO_ANALYTICS="1", NO_COLOR="1")


def compare(engines: list[Engine], limits: dict[str, int], work: Path, sizes: list[int], rounds: int) -> list[Result]:
    results: list[Result] = []
    for size in sizes:
        mixes = size // STAGES_PER_MIX
        stages = count_stages(mixes)
        skipped = {
            engine.name: f"{limits[engine.name]:,} stages at most; {engine.reason or 'as told by --max'}"
            for engine in engines
            if engine.name in limits and stages > limits[engine.name]
        }
        print(f"{stages:,} stages ({mixes:,} mixes)\n", flush=True)
        found = Contest([engine for engine in engines if engine.name not in skipped], work, mixes, rounds).run()
        print_size(found, engines, skipped)
        results += found
    return results


def numbers(text: str) -> list[int]:
    """`1000,10000`: about so many stages each."""
    found = [int(part) for part in text.replace("_", "").split(",") if part]
    if any(size < 2 * STAGES_PER_MIX for size in found):
        raise argparse.ArgumentTypeError(f"a size has {2 * STAGES_PER_MIX} stages at least")
    return found


def names(text: str) -> list[str]:
    found = [part for part in text.split(",") if part]
    for name in found:
        if name not in ENGINES:
            raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(ENGINES)}")
    return found


def limit(text: str) -> tuple[str, int]:
    name, _, most = text.partition("=")
    if name not in ENGINES or not most.isdigit():
        raise argparse.ArgumentTypeError(f"`{text}` is not like dvc=1001")
    return name, int(most)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=numbers, metavar="N,...",
                        help="about so many stages each (default 100,1000,10000; none with --linear)")
    parser.add_argument("--engines", type=names, default=list(ENGINES), metavar="NAME,...",
                        help=f"any of {','.join(ENGINES)} (default all), in the order in which they take turns")
    parser.add_argument("--rounds", type=int, metavar="N", help="of no-op and plan (default 5)")
    parser.add_argument("--quick", action="store_true", help="1,001 stages and 3 rounds, unless said otherwise")
    parser.add_argument("--linear", type=numbers, default=[], metavar="N,...",
                        help="growth of ablate's and ninja's no-op over these sizes; each needs a cold run first "
                             "(minutes at 100,000)")
    parser.add_argument("--max", type=limit, action="append", default=[], dest="limits", metavar="ENGINE=STAGES",
                        help="largest graph that an engine is given, in place of its own limit; repeatable")
    parser.add_argument("--ablate", type=Path, default=REPOSITORY / "target/dist/ablate", metavar="FILE",
                        help="the program (default target/dist/ablate)")
    parser.add_argument("--venv", type=Path, default=REPOSITORY / "target/bench-venv", metavar="DIR",
                        help="where the peers are installed from PyPI (default target/bench-venv)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folders of the engines go here (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every target is met")
    options = parser.parse_args(arguments)
    if options.sizes is None:
        options.sizes = [1000] if options.quick else [] if options.linear else [100, 1000, 10000]
    options.rounds = max(1, options.rounds or (3 if options.quick else 5))
    return options


def write_json(file: Path, engines: list[Engine], results: list[Result], growth: list[Result],
               judged: list[Verdict]) -> None:
    def plain(result: Result) -> dict[str, object]:
        rounds = [{"cpu": u.cpu, "wall": u.wall, "peak_mib": u.peak_mib, "at_floor": u.at_floor} for u in result.rounds]
        return {"stages": result.stages, "scenario": result.scenario, "engine": result.engine, "ran": result.ran,
                "rounds": rounds}

    document = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "versions": {engine.name: engine.version() for engine in engines},
        "results": [plain(result) for result in results],
        "linear": [plain(result) for result in growth],
        "verdicts": [asdict(verdict) for verdict in judged],
    }
    file.write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    options = parse()
    warn_if_busy()
    provided = [provide(name, options.ablate, options.venv) for name in options.engines]
    engines = [engine for engine in provided if engine is not None]
    print()
    limits = {engine.name: engine.most for engine in engines if engine.most is not None} | dict(options.limits)
    with tempfile.TemporaryDirectory(prefix="ablate-bench-", dir=options.work) as folder:
        work = Path(folder)
        isolate(work)
        results = compare(engines, limits, work, options.sizes, options.rounds)
        growing = [engine for engine in engines if engine.name in ("ablate", "ninja")]
        growth: list[Result] = []
        for size in options.linear:
            growth += grow(growing, work, size // STAGES_PER_MIX, options.rounds)
    if growth:
        print_growth(growth)
    judged = verdicts(results) if results else []
    if judged:
        print(f"Targets of ablate, at {max(result.stages for result in results):,} stages:")
    for verdict in judged:
        print(verdict.line())
    if options.json:
        write_json(options.json, engines, results, growth, judged)
    return 1 if options.strict and not all(verdict.met for verdict in judged) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
