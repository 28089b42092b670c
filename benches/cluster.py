"""Measures the driver of `ablate run --executor slurm`: cluster.py PROGRAM [--instances 1000] [--seconds 120] [--strict]

Starts Debian's Slurm on this machine (tests/cluster/up.sh, which needs root), submits instances into a partition where no job starts, and prints

- the time from the start of the program until all jobs are in the queue, and the driver's CPU time until then (target: 30 s);
- the driver's share of a core while the jobs are pending, its calls of `squeue` included (target: 1 %), and its memory.

A missed target is printed; it is an error only with `--strict`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CLUSTER = REPOSITORY / "target/cluster-bench"
SUBMIT_SECONDS, CPU_SHARE = 30.0, 0.01

CONFIGURATION = """
[executor.slurm]
partition = "closed"
time      = "10m"
memory    = "100M"
max_jobs  = 100000
"""


def experiment(instances: int) -> str:
    numbers = ", ".join(f'["NUMBER={number}"]' for number in range(instances))
    labels = ", ".join(f'"{number}"' for number in range(instances))
    return f"""
name = "bench"

[stage.one]
kind    = "command"
run     = "echo $NUMBER > out"
env     = ["NUMBER=0"]
outputs = ["out"]

[axis.number]
key    = "stage.one.env"
values = [{numbers}]
labels = [{labels}]
"""


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def jobs(environment: dict[str, str]) -> int:
    listed = subprocess.run(["squeue", "--noheader", "--array"], env=environment, check=True, capture_output=True, text=True)
    return len(listed.stdout.splitlines())


def measure(program: Path, instances: int, seconds: float, folder: Path, environment: dict[str, str]) -> list[str]:
    (folder / "bench.toml").write_text(experiment(instances))
    (folder / ".ablate.toml").write_text(CONFIGURATION)
    begun = time.monotonic()
    with (folder / "log").open("w") as log:
        command = [program, "run", "bench.toml", "--executor", "slurm", "--quiet"]
        driver = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    while jobs(environment) < instances:
        if driver.poll() is not None:
            sys.exit(f"the run ended: {(folder / 'log').read_text()}")
        time.sleep(0.2)
    submitted, cpu = time.monotonic() - begun, cpu_seconds(driver.pid)
    print(f"{instances} jobs are in the queue after {submitted:.1f} s; the driver took {cpu:.2f} s of CPU time")
    # The links and notes of the submission are written.
    time.sleep(5)
    before = cpu_seconds(driver.pid)
    time.sleep(seconds)
    share = (cpu_seconds(driver.pid) - before) / seconds
    status = dict(line.split(":", 1) for line in Path(f"/proc/{driver.pid}/status").read_text().splitlines())
    memory = int(status["VmHWM"].split()[0]) / 1024
    print(f"while they are pending, the driver takes {share:.2%} of a core (over {seconds:.0f} s), and {memory:.0f} MiB of memory")
    driver.send_signal(signal.SIGTERM)
    driver.wait(60)
    missed = [f"the submission takes more than {SUBMIT_SECONDS:.0f} s"] if submitted > SUBMIT_SECONDS else []
    return missed + ([f"the driver takes more than {CPU_SHARE:.0%} of a core"] if share > CPU_SHARE else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the pending jobs are followed")
    parser.add_argument("--strict", action="store_true", help="a missed target is an error")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ablate-cluster-"))
    subprocess.run([REPOSITORY / "tests/cluster/up.sh", CLUSTER, "26740"], check=True)
    hidden = ("ABLATE_", "SLURM_", "SBATCH_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"SLURM_CONF": str(CLUSTER / "etc/slurm.conf"), "HOME": str(folder)}
    try:
        missed = measure(options.program.resolve(), options.instances, options.seconds, folder, environment)
    finally:
        subprocess.run([REPOSITORY / "tests/cluster/down.sh", CLUSTER], check=True)
        shutil.rmtree(folder)
    for target in missed:
        print(f"missed: {target}")
    if missed and options.strict:
        sys.exit(1)


if __name__ == "__main__":
    main()
