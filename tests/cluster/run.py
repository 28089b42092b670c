"""Runs the tests of this folder, each in a process of its own, several at the same time: run.py [NAME...]

A name selects the tests that contain it. Tests of one class that have the cluster `daemons` run one after another.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import time
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent
# Most of a test's time is waiting for Slurm.
AT_ONCE = int(os.environ.get("CLUSTER_TESTS_AT_ONCE", "6"))


def tests(suite):
    for each in suite:
        yield from tests(each) if isinstance(each, unittest.TestSuite) else [each]


def run(ids):
    """Runs tests one after another, and returns those that failed."""
    failed = []
    for test in ids:
        begun = time.monotonic()
        ended = subprocess.run([sys.executable, "-m", "unittest", test], cwd=FOLDER, capture_output=True, text=True)
        seconds = time.monotonic() - begun
        print(f"{'ok    ' if ended.returncode == 0 else 'FAILED'} {seconds:5.1f} s  {test}", flush=True)
        if ended.returncode != 0:
            print(ended.stdout, ended.stderr, sep="\n", flush=True)
            failed.append(test)
    return failed


def main():
    found = [test for test in tests(unittest.defaultTestLoader.discover(str(FOLDER), "*_test.py"))]
    chosen = [test for test in found if not sys.argv[1:] or any(name in test.id() for name in sys.argv[1:])]
    if not chosen:
        sys.exit(f"no test is named {' or '.join(sys.argv[1:])}")
    alone = [test.id() for test in chosen if test.cluster.folder.name == "daemons"]
    groups = [alone] * bool(alone) + [[test.id()] for test in chosen if test.id() not in alone]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        failed = [test for tests in pool.map(run, groups) for test in tests]
    if failed and AT_ONCE > 1:
        # Slurm's own time limits are short here, and a loaded machine exceeds them. What fails alone too has failed.
        print(f"again, one after another: {len(failed)}", flush=True)
        failed = run(failed)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} tests passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
