"""One DAG, written down for each engine, and how each engine is called.

The DAG is a study in miniature: a root, M mixes of it, and nine stages per mix. That makes 1 + 10 * M stages:

    root -> mix -> sft -> rollout -> dpo        dpo reads sft and rollout; each mix reads its own data file, too
                     `-> 3 evals       `-> 3 evals

A stage is `cat` of its inputs through `sh -c`. Before them it writes its own name: two stages with equal commands and
equal inputs are *one* to an engine that goes by content, and it would be measured with less to do than the others.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import Usage

JOBS = 2
EVALS = 3
STAGES_PER_MIX = 4 + 2 * EVALS
ROOT_DATA = "data/root.txt"


@dataclass(frozen=True)
class Stage:
    name: str
    inputs: tuple[str, ...]
    """Names of other stages, and paths of data files."""


def is_data(source: str) -> bool:
    return source.startswith("data/")


def data_file(mix: int) -> str:
    return f"data/mix{mix}.txt"


def stages_of(mix: int) -> list[Stage]:
    """The stages that a change of one mix's file reaches."""
    stages = [
        Stage(f"mix-{mix}", ("root", data_file(mix))),
        Stage(f"sft-{mix}", (f"mix-{mix}",)),
        Stage(f"rollout-{mix}", (f"sft-{mix}",)),
        Stage(f"dpo-{mix}", (f"sft-{mix}", f"rollout-{mix}")),
    ]
    for model in ("sft", "dpo"):
        stages += [Stage(f"eval-{model}-{mix}-{i}", (f"{model}-{mix}",)) for i in range(EVALS)]
    return stages


def dag(mixes: int) -> Iterator[Stage]:
    """Every stage after what it reads."""
    yield Stage("root", (ROOT_DATA,))
    for mix in range(mixes):
        yield from stages_of(mix)


def count_stages(mixes: int) -> int:
    return 1 + STAGES_PER_MIX * mixes


def write_data(folder: Path, mixes: int) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / ROOT_DATA).write_text("root\n")
    for mix in range(mixes):
        write_mix(folder, mix, revision=0)


def mix_text(mix: int, revision: int) -> str:
    return f"data of mix {mix}, revision {revision}\n"


def write_mix(folder: Path, mix: int, revision: int) -> None:
    (folder / data_file(mix)).write_text(mix_text(mix, revision))


def shell_line(name: str, sources: list[str], output: str) -> str:
    # `sh` replaces itself by the last command of `-c`, so this is one process, as a lone `cat` would be.
    return f"echo {name} > {output}; cat {' '.join(sources)} >> {output}"


class Engine:
    """What is the same for the peers: outputs are `out/NAME.txt`, and a stage that ran has written its own again."""

    name = ""
    package = ""
    """Name and version on PyPI; empty for what is built here."""
    most: int | None = None
    """More stages than this are not tried, for this reason. One limit for all: nothing can be asked without a build."""
    reason = ""

    def __init__(self, binary: Path) -> None:
        self.binary = str(binary)

    def write(self, folder: Path, mixes: int) -> None:
        """Writes the file that describes the DAG."""
        raise NotImplementedError

    def run_command(self) -> list[str]:
        raise NotImplementedError

    def cold_command(self) -> list[str]:
        """A run that says as little as possible about each of thousands of stages."""
        return self.run_command()

    def plan_command(self) -> list[str]:
        raise NotImplementedError

    def version(self) -> str:
        done = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"\d+\.\d+\S*", done.stdout)
        return found.group() if found else "?"

    def output(self, folder: Path, stage: str) -> Path:
        return folder / "out" / f"{stage}.txt"

    def snapshot(self, folder: Path) -> dict[str, int]:
        """When each output was written last."""
        out = folder / "out"
        if not out.is_dir():
            return {}
        with os.scandir(out) as entries:
            return {entry.name: entry.stat().st_mtime_ns for entry in entries}

    def count(self, before: dict[str, int], folder: Path, usage: Usage) -> int | None:
        """How many stages the run executed; `None` where that cannot be told."""
        return sum(before.get(name) != time for name, time in self.snapshot(folder).items())


def peer_sources(stage: Stage) -> list[str]:
    return [source if is_data(source) else f"out/{source}.txt" for source in stage.inputs]


class Ablate(Engine):
    """Explicit TOML, one table per stage: the dearest way to say it. Axes would say the same in thirty lines."""

    name = "ablate"

    def write(self, folder: Path, mixes: int) -> None:
        with open(folder / "dag.toml", "w") as file:
            file.write('name = "dag"\n')
            for stage in dag(mixes):
                # The names under which a stage sees its inputs: it runs in a clean folder.
                names = [f"{letter}.txt" for letter, _ in zip("abcdefgh", stage.inputs)]
                inputs = ", ".join(f'"{name}" = "{source}"' for name, source in zip(names, stage.inputs))
                file.write(
                    f"\n[stage.{stage.name}]\n"
                    f'kind    = "command"\n'
                    f"inputs  = {{ {inputs} }}\n"
                    f'run     = "{shell_line(stage.name, names, "out.txt")}"\n'
                    f'outputs = ["out.txt"]\n'
                )

    def run_command(self) -> list[str]:
        return [self.binary, "run", "dag.toml", "--jobs", str(JOBS)]

    def cold_command(self) -> list[str]:
        return [*self.run_command(), "-q"]  # without the summary, which `count` reads

    def plan_command(self) -> list[str]:
        return [self.binary, "plan", "dag.toml"]

    def output(self, folder: Path, stage: str) -> Path:
        """The link to the only output: nothing here knows how the store is laid out."""
        links = [path for path in (folder / "out/dag" / stage).glob("*") if path.is_file()]
        if len(links) != 1:
            raise FileNotFoundError(f"`{folder}/out/dag/{stage}` has {len(links)} outputs")
        return links[0]

    def snapshot(self, folder: Path) -> dict[str, int]:
        return {}

    def count(self, before: dict[str, int], folder: Path, usage: Usage) -> int | None:
        """From the summary: `12 ran, 40 fresh in 1.2 s`, where what is zero is not said."""
        for line in reversed(usage.errors.splitlines()):
            if re.search(r" in [\d.]+ s\b", line):
                ran = re.search(r"([\d,]+) ran\b", line)
                return int(ran.group(1).replace(",", "")) if ran else 0
        return None


class Ninja(Engine):
    """A plain rule without `restat`, as most ninja files are."""

    name = "ninja"
    package = "ninja==1.13.2"

    def write(self, folder: Path, mixes: int) -> None:
        with open(folder / "build.ninja", "w") as file:
            file.write("rule cat\n  command = " + shell_line("$name", ["$in"], "$out") + "\n")
            for stage in dag(mixes):
                file.write(f"build out/{stage.name}.txt: cat {' '.join(peer_sources(stage))}\n  name = {stage.name}\n")

    def run_command(self) -> list[str]:
        return [self.binary, "--quiet", f"-j{JOBS}"]

    def plan_command(self) -> list[str]:
        return [self.binary, "-n"]


class Doit(Engine):
    """Compares content (md5, asked only where the time stamp changed). It has no dry run: `list` tells states.

    Of its back ends, json makes no-op and plan a quarter cheaper than sqlite3 and dbm, and a cold run a quarter dearer.
    Threads beat processes, and both beat one at a time.
    """

    name = "doit"
    package = "doit==0.37.0"

    DODO = """\
DOIT_CONFIG = {"backend": "json", "reporter": "error-only", "verbosity": 0}


def task_stage():
    for line in open("stages.txt"):
        name, output, command, *sources = line.rstrip("\\n").split("\\t")
        yield {"name": name, "file_dep": sources, "targets": [output], "actions": [command]}
"""

    def write(self, folder: Path, mixes: int) -> None:
        (folder / "out").mkdir()
        (folder / "dodo.py").write_text(self.DODO)
        with open(folder / "stages.txt", "w") as file:
            for stage in dag(mixes):
                output, sources = f"out/{stage.name}.txt", peer_sources(stage)
                fields = [stage.name, output, shell_line(stage.name, sources, output), *sources]
                file.write("\t".join(fields) + "\n")

    def run_command(self) -> list[str]:
        return [self.binary, "run", "-n", str(JOBS), "-P", "thread"]

    def plan_command(self) -> list[str]:
        return [self.binary, "list", "--all", "--status"]


class Snakemake(Engine):
    """Rules with wildcards, as one writes them. The greedy scheduler takes a third off the cold run."""

    name = "snakemake"
    package = "snakemake==9.27.1"
    most = 10_001
    reason = "a cold run costs 15 ms a stage and more in larger graphs"

    SNAKEFILE = """\
shell.executable("/bin/sh")
shell.prefix("")

rule all:
    input:
        expand("out/eval-{{model}}-{{mix}}-{{i}}.txt", model=["sft", "dpo"], mix=range({mixes}), i=range({evals}))
"""
    RULES = [
        ("root", "root", [ROOT_DATA], "root"),
        ("mix", "mix-{mix}", ["out/root.txt", "data/mix{mix}.txt"], "mix-{wildcards.mix}"),
        ("sft", "sft-{mix}", ["out/mix-{mix}.txt"], "sft-{wildcards.mix}"),
        ("rollout", "rollout-{mix}", ["out/sft-{mix}.txt"], "rollout-{wildcards.mix}"),
        ("dpo", "dpo-{mix}", ["out/sft-{mix}.txt", "out/rollout-{mix}.txt"], "dpo-{wildcards.mix}"),
        ("evaluate", "eval-{model}-{mix}-{i}", ["out/{model}-{mix}.txt"],
         "eval-{wildcards.model}-{wildcards.mix}-{wildcards.i}"),
    ]

    def write(self, folder: Path, mixes: int) -> None:
        rules = [self.SNAKEFILE.format(mixes=mixes, evals=EVALS)]
        for rule, output, sources, name in self.RULES:
            inputs = ", ".join(f'"{source}"' for source in sources)
            rules.append(
                f"rule {rule}:\n"
                f"    input: {inputs}\n"
                f'    output: "out/{output}.txt"\n'
                f'    shell: "{shell_line(name, ["{input}"], "{output}")}"\n'
            )
        (folder / "Snakefile").write_text("\n".join(rules))

    def run_command(self) -> list[str]:
        return [self.binary, "--cores", str(JOBS), "--scheduler", "greedy", "--quiet", "all"]

    def plan_command(self) -> list[str]:
        return [*self.run_command(), "--dry-run"]


class Dvc(Engine):
    """Runs one stage at a time: it has no jobs. `repro --dry` fails where nothing is built, so `status` is its plan."""

    name = "dvc"
    package = "dvc==3.67.1"
    most = 101
    reason = "a cold run costs 0.2 s a stage, and at 10,001 stages a no-op alone takes over two minutes"

    def write(self, folder: Path, mixes: int) -> None:
        (folder / "out").mkdir()
        subprocess.run([self.binary, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
        with open(folder / "dvc.yaml", "w") as file:
            file.write("stages:\n")
            for stage in dag(mixes):
                output, sources = f"out/{stage.name}.txt", peer_sources(stage)
                file.write(f"  {stage.name}:\n    cmd: {shell_line(stage.name, sources, output)}\n    deps:\n")
                file.writelines(f"    - {source}\n" for source in sources)
                file.write(f"    outs:\n    - {output}\n")

    def run_command(self) -> list[str]:
        return [self.binary, "repro", "--quiet"]

    def plan_command(self) -> list[str]:
        return [self.binary, "status"]


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Ablate, Ninja, Doit, Snakemake, Dvc)}
