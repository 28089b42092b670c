#!/usr/bin/env python3
"""Assembles the CUDA kernels for every supported GPU and writes their registers, shared memory and spills to docs/cuda-kernels.md.

    src/nn/cuda/with-toolkit.sh python3 tests/kernel_table.py            write the file
    src/nn/cuda/with-toolkit.sh python3 tests/kernel_table.py --check    compare with it

It takes the PTX that cargo's build script makes. It fails if a kernel does not assemble, or if a kernel of attention or a norm spills
registers. It needs no GPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TABLE = REPOSITORY / "docs/cuda-kernels.md"
CAPABILITIES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
MUST_NOT_SPILL = re.compile("attention|norm")


@dataclass(frozen=True)
class Kernel:
    registers: int
    shared: int
    """Bytes of static shared memory."""
    spilled: int
    """Bytes of registers that are stored to memory, per thread."""


class Failed(Exception):
    pass


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr.strip()}")
    return done


def compiled() -> Path:
    """The folder with the PTX of ablate-nn's build script."""
    command = ["cargo", "check", "--release", "-p", "ablate-nn", "--features", "cuda", "--message-format=json"]
    folders = []
    for line in run(command).stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "build-script-executed" and "/src/nn#" in message["package_id"]:
            folders.append(Path(message["out_dir"]))
    if not folders:
        raise Failed("cargo names no output folder of the build script of ablate-nn")
    return folders[-1]


def assembler() -> str:
    """ptxas of the fetched toolkit, or the one beside the installed compiler."""
    fetched = Path(os.environ.get("CUDA_PATH", "")) / "nvidia/cu13/bin/ptxas"
    found = str(fetched) if fetched.is_file() else shutil.which("ptxas") or shutil.which("/usr/local/cuda/bin/ptxas")
    if found is None:
        raise Failed("no ptxas: run this script through src/nn/cuda/with-toolkit.sh")
    return found


def assemble(ptxas: str, ptx: Path, capability: str) -> dict[str, Kernel]:
    """The kernels of a PTX file by name; none if it is for newer GPUs."""
    target = re.search(r"^\.target sm_(\d+)", ptx.read_text(), re.MULTILINE)
    architecture = int(capability.replace(".", ""))
    if target is None:
        raise Failed(f"{ptx.name} has no `.target`")
    if int(target[1]) > architecture:
        return {}
    told = run([ptxas, "-v", f"--gpu-name=sm_{architecture}", "--output-file=/dev/null", str(ptx)]).stderr
    kernels: dict[str, Kernel] = {}
    name, spilled = "", 0
    for line in told.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name, spilled = found[1], 0
        elif found := re.search(r"(\d+) bytes spill stores", line):
            spilled = int(found[1])
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name] = Kernel(int(found[1]), int(shared[1]) if shared else 0, spilled)
    return kernels


def table(kernels: dict[str, dict[str, Kernel]], columns: list[str]) -> list[str]:
    """By name of the kernel and capability."""
    def cell(kernel: Kernel | None) -> str:
        if kernel is None:
            return "-"
        return f"{kernel.registers}" + (f" (spills {kernel.spilled})" if kernel.spilled else "")

    lines = [f"| kernel | shared memory, bytes | {' | '.join(columns)} |", f"|---|--:|{'--:|' * len(columns)}"]
    for name, found in sorted(kernels.items()):
        shared = max(kernel.shared for kernel in found.values())
        lines.append(f"| `{name}` | {shared:,} | {' | '.join(cell(found.get(column)) for column in columns)} |")
    return lines


def document(ptxas: str) -> tuple[str, list[str]]:
    """The table, and what is wrong with the kernels."""
    version = re.search(r"V([\d.]+)", run([ptxas, "--version"]).stdout)
    lines = [
        "# CUDA kernels",
        "",
        f"Registers per thread by compute capability, from `ptxas -v` of version {version[1] if version else 'unknown'}. "
        "\"spills\" are bytes per thread that do not",
        "fit into registers. Shared memory is the static one; kernels of attention take more at the launch. Written by",
        "`just kernel-table`.",
    ]
    problems = []
    files = sorted(compiled().glob("*.ptx"))
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        jobs = {(ptx, capability): pool.submit(assemble, ptxas, ptx, capability)
                for ptx in files for capability in CAPABILITIES}
        for ptx in files:
            kernels: dict[str, dict[str, Kernel]] = {}
            for capability in CAPABILITIES:
                for name, kernel in jobs[ptx, capability].result().items():
                    kernels.setdefault(name, {})[capability] = kernel
                    if kernel.spilled and MUST_NOT_SPILL.search(name):
                        problems.append(f"{ptx.name}: `{name}` spills {kernel.spilled} bytes for {capability}")
            columns = [name for name in CAPABILITIES if any(name in found for found in kernels.values())]
            lines += ["", f"## {ptx.stem}", "", *table(kernels, columns)]
    return "\n".join(lines) + "\n", problems


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        raise Failed(__doc__.strip())
    text, problems = document(assembler())
    written = TABLE.read_text() if TABLE.is_file() else ""
    if not check:
        TABLE.write_text(text)
    elif (told := text.splitlines()[2]) != written.splitlines()[2:3][0]:
        print(f"{TABLE.name} is not compared, because it is from another version: {told}")
    elif text != written:
        problems.append("docs/cuda-kernels.md is out of date: `just kernel-table` writes it")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
