#!/usr/bin/env python3
"""Moves 2 GiB to and from an S3 server with ablate and with `aws s3 cp`, in turn.

    python3 benches/remote.py target/dist/ablate [--rounds 5] [--mib 2048]

Starts Ceph's S3 gateway on this machine with tests/remote/ceph_up.sh, unless AWS_ENDPOINT_URL names a server with a bucket `bench`
that may be overwritten. Installs the AWS command line from PyPI into target/awscli. Prints the times of each round, and the ratio of
the medians: above 1, ablate is faster.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = REPOSITORY / "target/awscli"

EXPERIMENT = """name = "bench"
[stage.big]
kind = "command"
run = "head -c {bytes} /dev/zero | openssl enc -aes-128-ctr -pass pass:1 -nosalt -pbkdf2 2>/dev/null > big.bin"
outputs = {{ "big.bin" = "file" }}
"""


def start_server(environment):
    """Starts the server if there is none, and returns the environment of its clients."""
    subprocess.run([REPOSITORY / "tests/remote/ceph_up.sh"], check=True)
    root = os.environ.get("CEPH_ROOT", REPOSITORY / "target/ceph")
    shown = subprocess.run(["bash", "-c", f"source '{root}/env' && env -0"], check=True, capture_output=True, env=environment)
    return dict(pair.split("=", 1) for pair in shown.stdout.decode().split("\0") if "=" in pair)


def install_aws():
    if not (PACKAGES / "bin/aws").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", PACKAGES, "awscli"], check=True)


def timed(command, environment, folder):
    begun = time.monotonic()
    subprocess.run(command, check=True, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def remove(folder):
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    shutil.rmtree(folder)


def measure(ablate, environment, rounds, mib, work):
    aws = [sys.executable, PACKAGES / "bin/aws"]
    (work / "bench.toml").write_text(EXPERIMENT.format(bytes=mib << 20))
    subprocess.run([ablate, "run", "-q", "--no-remote", "bench.toml"], check=True, env=environment, cwd=work)
    big = (work / "out/bench/big/big.bin").resolve()
    times = {name: [] for name in ["ablate push", "aws up", "ablate pull", "aws down"]}
    for number in range(rounds):
        subprocess.run([*aws, "s3", "rm", "--quiet", "--recursive", "s3://bench"], check=True, env=environment)
        remote = ["--remote", "s3://bench/x"]
        runs = [
            ("ablate push", [ablate, "push", "-q", "bench.toml", *remote]),
            ("aws up", [*aws, "s3", "cp", "--quiet", big, "s3://bench/y"]),
            ("ablate pull", [ablate, "pull", "-q", "--store", "other", "bench.toml", *remote]),
            ("aws down", [*aws, "s3", "cp", "--quiet", "s3://bench/y", "got"]),
        ]
        # Each client is first in half of the rounds.
        for pair in (runs[:2], runs[2:]):
            for name, command in pair if number % 2 == 0 else reversed(pair):
                times[name].append(timed(command, environment, work))
        remove(work / "other")
        (work / "got").unlink()
        print("  ".join(f"{name} {seconds[-1]:.1f} s" for name, seconds in times.items()), flush=True)
    return times


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ablate", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=2048)
    arguments = parser.parse_args()
    install_aws()
    own_server = "AWS_ENDPOINT_URL" not in os.environ
    environment = start_server(os.environ) if own_server else dict(os.environ)
    environment["PYTHONPATH"] = str(PACKAGES)
    for name in ["ABLATE_REMOTE", "ABLATE_STORE"]:
        environment.pop(name, None)
    work = Path(tempfile.mkdtemp())
    try:
        aws = [sys.executable, PACKAGES / "bin/aws"]
        subprocess.run([*aws, "s3", "mb", "s3://bench"], env=environment, capture_output=True)
        times = measure(arguments.ablate.resolve(), environment, arguments.rounds, arguments.mib, work)
    finally:
        remove(work)
        if own_server:
            subprocess.run([REPOSITORY / "tests/remote/ceph_down.sh"], check=True)
    for own, other in [("ablate push", "aws up"), ("ablate pull", "aws down")]:
        medians = [statistics.median(times[name]) for name in (own, other)]
        spread = ", ".join(f"{name} {min(times[name]):.1f} to {max(times[name]):.1f} s" for name in (own, other))
        rate = arguments.mib / medians[0]
        print(f"{own}: {rate:.0f} MiB/s, {100 * medians[1] / medians[0]:.0f} % of the speed of {other} ({spread})")


if __name__ == "__main__":
    main()
