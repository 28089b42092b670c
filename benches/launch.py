"""Runs one command and writes what it cost: `launch.py REPORT COMMAND...`. A process of its own for `measure.py`.

It imports next to nothing on purpose. Linux counts the memory that a process had before `exec` as its own, and that is
the memory of its parent: nothing below the size of this interpreter can be seen. So it is kept small (run it with
`-I -S`), and what `true` seems to take is reported, too.
"""

import os
import sys
import time


def run(command):
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    return time.perf_counter() - start, status, used


_, _, least = run(["true"])
wall, status, used = run(sys.argv[2:])
with open(sys.argv[1], "w") as report:
    report.write(f"{status} {used.ru_utime + used.ru_stime} {wall} {used.ru_maxrss} {least.ru_maxrss}")
