"""What a command costs: processor time, time on the clock, memory. Knows no engine."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LAUNCHER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]

NOISE_KIB = 256
"""By so much the memory of equal processes differs."""

TAIL = 4000
"""Bytes of a command's output that are kept: a summary and the error that ended it stand last."""


class Failed(Exception):
    """A command that should have ended well did not."""


@dataclass(frozen=True)
class Usage:
    cpu: float
    """Seconds, user and system, of the process and of all below it that were waited for."""
    wall: float
    peak_mib: float
    """Resident memory of the largest process."""
    at_floor: bool
    """The peak is that of `launch.py`: the command's own lies below."""
    errors: str
    """The end of what it said on stderr."""


def measure(command: Sequence[str], folder: Path) -> Usage:
    """Runs a command in a folder to its end."""
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        tempfile.NamedTemporaryFile("r") as report,
    ):
        process = subprocess.Popen(
            [*LAUNCHER, report.name, *command],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True,
        )
        try:
            process.wait()
        except BaseException:
            # Ctrl-C: it reaches us only, since the command has a session of its own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        said, told = tail(errors), report.read().split()
        code = os.waitstatus_to_exitcode(int(told[0])) if told else "no report"
        if code != 0:
            last = said.strip() or tail(output).strip()
            raise Failed(f"`{' '.join(command)}` ended with {code}:\n{last}")
    cpu, wall, most, floor = map(float, told[1:])
    return Usage(cpu, wall, peak_mib=most / 1024, at_floor=most <= floor + NOISE_KIB, errors=said)


def tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    return file.read().decode(errors="replace")


def middle(values: Sequence[float]) -> str:
    """`0.041`, or with several rounds the median and the spread: `0.041 (0.040..0.043)`."""
    text = number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))}..{number(max(values))})"


def number(value: float) -> str:
    """Two digits at least, whatever the size."""
    decimals = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{decimals}f}"


def peak(usages: Sequence[Usage]) -> str:
    most = max(usages, key=lambda usage: usage.peak_mib)
    return f"<{most.peak_mib:.0f}" if most.at_floor else f"{most.peak_mib:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns with two spaces between them, the first `left` ones aligned to the left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        names = [cell.ljust(width) for cell, width in zip(row[:left], widths)]
        values = [cell.rjust(width) for cell, width in zip(row[left:], widths[left:])]
        return "  ".join(names + values).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


@dataclass(frozen=True)
class Verdict:
    what: str
    target: str
    value: str
    met: bool | None
    """`None` where it was not measured."""

    def line(self) -> str:
        mark = {True: "met   ", False: "MISSED", None: "-     "}[self.met]
        return f"{mark}  {self.what}: {self.value} (target: {self.target})"


def warn_if_busy() -> None:
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: the machine is busy (load {load:.1f}): trust CPU seconds more than wall seconds\n", flush=True)
