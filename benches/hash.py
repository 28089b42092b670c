"""Compares how fast ablate and b3sum hash a folder, and shows what ablate reads of it the second time: nothing.

Half of the folder is two large files, half is files of 1 MiB. It is read once before anything is measured, so that
both find it in memory. b3sum hashes all files in one call; `ablate plan` plans an experiment with one stage whose
input is the folder, each time on a new store.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no __pycache__ beside the sources
from measure import Failed, Usage, Verdict, measure, middle, peak, table, warn_if_busy

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 1 << 20

SETTLE = 3.0
"""Seconds until a file is old enough that its time stamp is trusted (2 s is the coarsest clock of a file system)."""

EXPERIMENT = """\
name = "hash"

[stage.use]
kind    = "command"
inputs  = { "data" = "data/files" }
run     = "ls data > out.txt"
outputs = ["out.txt"]
"""

EXAMPLES = """\
examples:
  python3 benches/hash.py                      2 GiB, five rounds: about a minute
  python3 benches/hash.py --size 64 --rounds 1
  python3 benches/hash.py --b3sum ~/.cargo/bin/b3sum
"""


def make_files(folder: Path, mebibytes: int) -> list[Path]:
    """Files of pseudo-random bytes, an hour old."""
    folder.mkdir(parents=True)
    small = max(1, mebibytes // 2)
    large = max(1, (mebibytes - small) // 2)
    sizes = {"large-0.bin": large, "large-1.bin": large} | {f"small-{i:05}.bin": 1 for i in range(small)}
    source = random.Random(0)
    hour_ago = time.time() - 3600
    for name, size in sizes.items():
        with open(folder / name, "wb") as file:
            for _ in range(size):
                file.write(source.randbytes(MIB))
        os.utime(folder / name, (hour_ago, hour_ago))
    return [folder / name for name in sizes]


def read_all(files: list[Path]) -> None:
    for path in files:
        with open(path, "rb") as file:
            while file.read(MIB):
                pass


@dataclass(frozen=True)
class Touched:
    """What a command did with the files of the folder, as far as it could be watched."""

    opened: int | None
    """Files of the folder that were opened or mapped."""
    read: int
    """Bytes: of the folder where `opened` is known, of anything at all otherwise."""

    def __str__(self) -> str:
        if self.opened is None:
            return f"read {self.read:,} bytes in all, the program's own files included (maps are not seen)"
        return f"opened {self.opened:,} of the folder's files, read {self.read:,} bytes of them"


def watch(command: list[str], folder: Path, files: list[Path]) -> Touched | None:
    """Runs a command under strace, or else asks the kernel how much it read. `None` where neither can be had."""
    if shutil.which("strace"):
        with tempfile.NamedTemporaryFile("r", suffix=".strace") as trace:
            calls = "openat,open,read,pread64,readv,preadv,mmap"
            measure(["strace", "-f", "-y", "-s0", "-e", f"trace={calls}", "-o", trace.name, *command], folder)
            return touched(trace.read(), {str(path.resolve()) for path in files})
    return asked(command, folder)


def touched(trace: str, files: set[str]) -> Touched:
    """Reads a trace. A call that another thread interrupts stands on two lines, and only the first names the file."""
    opened: set[str] = set()
    read = 0
    pending: dict[str, str] = defaultdict(str)
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            pending[thread] = call
            continue
        if call.startswith("<..."):
            call = pending.pop(thread, "") + call
        known = [path for path in re.findall(r"<(/[^>]*)>", call) if path in files]
        if not known or re.search(r"= -1 E", call):
            continue
        opened.update(known)
        result = re.search(r"= (\d+)$", call)
        if result and re.match(r"p?readv?(64)?\(", call):
            read += int(result.group(1))
        elif call.startswith("mmap("):
            # A map may be read without another call: all of it counts.
            read += int(call.split(",")[1])
    return Touched(len(opened), read)


def asked(command: list[str], folder: Path) -> Touched | None:
    """The kernel's count of the bytes that went through `read`, taken when the process has ended but is still known."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        counts = Path(f"/proc/{process.pid}/io").read_text()
    except OSError:
        return None  # some systems show it to root only
    finally:
        process.wait()
    return Touched(None, int(counts.split("rchar:")[1].split()[0]))


def find_b3sum(given: str) -> str | None:
    found = shutil.which(given)
    if found is None:
        print(f"`{given}` is left out: it is not here (on Debian: apt-get install b3sum)")
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    print(said.strip())
    return found


def find_ablate(given: Path) -> str | None:
    if not given.is_file():
        print(f"ablate is left out: `{given}` is not here (cargo build --profile dist)")
        return None
    return str(given.resolve())


def row(name: str, rounds: list[Usage], size: int) -> list[str]:
    speed = size / statistics.median(usage.wall for usage in rounds) / 1e9
    walls, cpus = [usage.wall for usage in rounds], [usage.cpu for usage in rounds]
    return [name, middle(walls), middle(cpus), peak(rounds), f"{speed:.2f}"]


def race(commands: dict[str, list[str]], folder: Path, rounds: int) -> dict[str, list[Usage]]:
    """The programs take turns. Each call of ablate gets a store of its own, named after the round."""
    found: dict[str, list[Usage]] = {name: [] for name in commands}
    for turn in range(rounds):
        for name, command in commands.items():
            found[name].append(measure([part.replace("{turn}", str(turn)) for part in command], folder))
    return found


def compared(found: dict[str, list[Usage]]) -> Verdict:
    walls = {name: statistics.median(usage.wall for usage in usages) for name, usages in found.items()}
    what, target = "speed of a first plan", ">= 80 % of b3sum's"
    if len(walls) < 2:
        return Verdict(what, target, "not measured", None)
    share = walls["b3sum"] / walls["ablate plan"]
    return Verdict(what, target, f"{share:.0%} of b3sum's", share >= 0.8)


def untouched(first: Touched | None, second: Touched | None) -> Verdict:
    """The first plan, which has to read everything, shows that the watching works."""
    what, target = "a second plan", "opens none of the folder's files"
    if first is None or second is None:
        return Verdict(what, target, "not measured: it takes strace, or root", None)
    seen = second.opened is not None and first.opened
    return Verdict(what, target, f"{second}; the first {first}", second.opened == 0 if seen else None)


def bench(work: Path, options: argparse.Namespace) -> list[Verdict]:
    print(f"making {options.size:,} MiB of files", flush=True)
    files = make_files(work / "data/files", options.size)
    size = sum(path.stat().st_size for path in files)
    (work / "hash.toml").write_text(EXPERIMENT)
    time.sleep(SETTLE)
    read_all(files)

    commands: dict[str, list[str]] = {}
    if b3sum := find_b3sum(options.b3sum):
        commands["b3sum"] = [b3sum, *map(str, files)]
    if ablate := find_ablate(options.ablate):
        # A store that is named must be there, empty or not: only `run` makes one.
        for name in [*range(options.rounds), "watched"]:
            (work / f"store-{name}").mkdir()
        commands["ablate plan"] = [ablate, "plan", "hash.toml", "--store", "store-{turn}"]
    found = race(commands, work, options.rounds)
    rows = [row(name, usages, size) for name, usages in found.items()]
    judged = [compared(found)]
    if ablate:
        again = [ablate, "plan", "hash.toml", "--store", "store-0"]
        rows.append(row("ablate plan, again", [measure(again, work) for _ in range(options.rounds)], size)[:-1] + [""])
        watched = [ablate, "plan", "hash.toml", "--store", "store-watched"]
        judged.append(untouched(watch(watched, work, files), watch(watched, work, files)))
    print(f"\n{size / MIB:,.0f} MiB in {len(files):,} files, in memory\n")
    print(table(["", "wall s", "CPU s", "peak MiB", "GB/s"], rows, left=1), end="\n\n")
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="of the folder (default 2048)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each program, in turn (default 5)")
    parser.add_argument("--b3sum", default="b3sum", metavar="FILE", help="the program (default: from the PATH)")
    parser.add_argument("--ablate", type=Path, default=REPOSITORY / "target/dist/ablate", metavar="FILE",
                        help="the program (default target/dist/ablate)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="the folder is made here (default: temporary)")
    options = parser.parse_args()
    os.environ.pop("ABLATE_STORE", None)
    warn_if_busy()
    with tempfile.TemporaryDirectory(prefix="ablate-hash-", dir=options.work) as work:
        try:
            judged = bench(Path(work), options)
        except Failed as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
    for verdict in judged:
        print(verdict.line())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
