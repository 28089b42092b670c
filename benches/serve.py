"""Measures what `ablate serve` with open pages costs a run: serve.py PROGRAM [--pages 50] [--pairs 8]

Each pair runs the same training twice in a new folder, once alone and once while a server sends its state to the open pages; the order alternates.
Prints the ratio of the times of each pair, their median, and the range of the middle half. A target of 2 % is printed; it is an error only with
`--strict`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = 0.02


def wait_for_run(folder: Path) -> str:
    """The name of the run that goes on in the folder's store."""
    while True:
        for run in sorted((folder / "cache/runs").glob("*")) if (folder / "cache/runs").exists() else []:
            if (run / "events").exists():
                return run.name
        time.sleep(0.01)


class Pages:
    """A server and the connections of its open pages."""

    def __init__(self, program: Path, folder: Path, count: int) -> None:
        run = wait_for_run(folder)
        self.server = subprocess.Popen([program, "serve", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address = self.server.stdout.readline().strip().removeprefix("http://").rstrip("/")
        host, port = address.split(":")
        self.received = [0] * count
        for number in range(count):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(f"GET /runs/{run}/events HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            threading.Thread(target=self.read, args=(connection, number), daemon=True).start()

    def read(self, connection: socket.socket, number: int) -> None:
        while block := connection.recv(1 << 16):
            self.received[number] += len(block)

    def close(self) -> tuple[int, float]:
        """The bytes that the page with the fewest got, and the CPU seconds of the server."""
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        self.server.terminate()
        self.server.wait()
        return min(self.received), seconds


def run(program: Path, steps: int, pages: int) -> tuple[float, str]:
    folder = Path(tempfile.mkdtemp(prefix="ablate-serve-"))
    try:
        for name in ["reasoner.toml", "smoke.toml"]:
            shutil.copy(REPOSITORY / "experiments" / name, folder)
        prepare = [program, "run", "smoke.toml", "--quiet", "fresh", "lessons"]
        subprocess.run(prepare, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder / "cache/runs")
        command = [program, "run", "smoke.toml", "--quiet", "--only", "base", "--set", f"stage.base.steps={steps}"]
        begun = time.monotonic()
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        opened = Pages(program, folder, pages) if pages else None
        if child.wait() != 0:
            sys.exit(f"the run failed: {child.returncode}")
        seconds = time.monotonic() - begun
        note = ""
        if opened:
            fewest, cpu = opened.close()
            if fewest == 0:
                sys.exit("a page got nothing")
            note = f", server {cpu:.2f} s of CPU time, {fewest / 1024:.0f} KiB per page"
        return seconds, note
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2000, help="steps of the training")
    parser.add_argument("--strict", action="store_true", help="exit with 1 above the target")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    ratios = []
    for pair in range(arguments.pairs):
        times = {}
        for with_pages in [False, True] if pair % 2 == 0 else [True, False]:
            times[with_pages], note = run(program, arguments.steps, arguments.pages if with_pages else 0)
            if with_pages:
                shown = note
        ratios.append(times[True] / times[False])
        print(f"pair {pair + 1}: alone {times[False]:.2f} s, {arguments.pages} pages {times[True]:.2f} s, ratio {ratios[-1]:.4f}{shown}", flush=True)
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    cost = statistics.median(ratios) - 1
    verdict = "met" if cost < TARGET else "missed"
    print(f"{arguments.pages} pages cost {100 * cost:.2f} % (middle half {100 * (low - 1):.2f} to {100 * (high - 1):.2f} %); target below {100 * TARGET:.0f} %: {verdict}")
    if arguments.strict and cost >= TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()
