"""Programs that work on request: a line of JSON in, a line of JSON out. Knows no work and no peer.

All of them run in parallel and take turns, so the use of the others while one is timed is measured too.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import Failed, tail

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Answer:
    told: dict
    """What the server said. Its `wall` is the time of the work alone."""
    cpu: float
    """Seconds, user and system, of the server's process."""
    others: float
    """What everything else took of the machine meanwhile: 1 is all of its cores."""

    @property
    def wall(self) -> float:
        return self.told["wall"]


class Server:
    """A process; leaves with the `with` block."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] = {}) -> None:
        self.name = Path(command[0] if len(command) < 2 or command[1].startswith("-") else command[1]).name
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ask(self, **request: object) -> Answer:
        before, began = self.cpu(), time.perf_counter()
        machine = busy()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise Failed(f"`{self.name}` ended with {code} at {json.dumps(request)}:\n{tail(self.errors).strip()}")
        cpu = self.cpu() - before
        everything, elapsed = busy() - machine, time.perf_counter() - began
        others = max(0.0, everything - cpu) / (elapsed * os.cpu_count())
        return Answer(json.loads(line), cpu, others)

    def cpu(self) -> float:
        """Seconds so far, of all threads, those that have ended included."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_mib(self) -> float:
        """Resident memory at its highest."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


def busy() -> float:
    """Seconds of all cores so far that somebody used, or that the hypervisor gave to another machine."""
    user, nice, system, _idle, _wait, interrupt, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + interrupt + soft + steal) / TICKS
