"""Helpers of the tests: projects with a store of their own, the program, and the clusters that run.sh starts."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import unittest

ABLATE = os.environ["ABLATE"]
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ["CLUSTER_WORK"])
# Where a run without a cluster puts its results. All tests share it: a training that several of them need runs once.
UNDISTURBED = WORK / "undisturbed"

CONFIGURATION = """
[executor.slurm]
partition       = "main"
time            = "10m"
cpus            = 1
memory          = "1G"
grace           = "10s"
lost_after      = "10s"
files_within    = "10s"
command_timeout = "20s"
"""

# About 20 seconds on one idle core. The state is saved every second.
TRAINING = """
name = "training"

[stage.questions]
kind      = "items"
synthetic = { datasets = ["count"], split = "train", count = 100 }

[stage.tokenizer]
kind     = "tokenizer"
train_on = ["questions"]
vocab    = 320

[stage.base]
kind      = "base"
tokenizer = "tokenizer"
[stage.base.model]
vision    = { dim = 32, layers = 1, heads = 2, ff = 64 }
projector = { hidden = 32 }
decoder   = { dim = 32, layers = 2, heads = 2, kv_heads = 2, ff = 64 }

[stage.rows]
kind    = "mix"
sources = { short = { from = "questions", as = "direct" } }

[stage.sft]
kind         = "sft"
model        = "base"
data         = "rows"
steps        = 12000
batch        = 16
lr           = 1e-4
keep_seconds = 1
"""

# One stage, six that read it, and one that reads these. Each writes a line to a file outside when it runs.
COMMANDS = """
name = "commands"

[stage.first]
kind    = "command"
run     = "echo first >> RAN; sleep SECONDS; echo first > out"
outputs = ["out"]

[stage.middle]
kind    = "command"
inputs  = { in = "first" }
run     = "echo middle $NUMBER >> RAN; sleep SECONDS; (cat in; echo $NUMBER) > out"
env     = ["NUMBER=0"]
outputs = ["out"]

[stage.last]
kind    = "command"
inputs  = { INPUTS }
run     = "echo last >> RAN; cat in* > out"
outputs = ["out"]

[axis.number]
key    = "stage.middle.env"
values = [VALUES]
"""

SBATCH = "/usr/bin/sbatch"
# Counts its calls in a file next to it; `$call` is the number of this one.
COUNTING = """#!/bin/sh
echo >> "$0.calls"
call=$(wc -l < "$0.calls")
"""


def wait_until(what, condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} seconds: {what}")
        time.sleep(0.1)
    return found


class Cluster:
    """A cluster of up.sh."""

    def __init__(self, name):
        self.folder = WORK / name
        self.environment = {"SLURM_CONF": str(self.folder / "etc/slurm.conf")}

    def run(self, *command, check=True):
        environment = os.environ | self.environment
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if check and ended.returncode != 0:
            raise AssertionError(f"{command}: {ended.stderr}")
        return ended.stdout

    def jobs(self, folder):
        """The jobs in the queue of the project in this folder: (id, state)."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i|%T|%Z").splitlines()
        rows = [line.split("|") for line in lines]
        return [(job, state) for job, state, where in rows if pathlib.Path(where).is_relative_to(folder)]

    def pid(self, daemon):
        return int((self.folder / "pid" / daemon).read_text())

    def kill(self, daemon):
        pid = self.pid(daemon)
        os.kill(pid, signal.SIGKILL)
        wait_until(f"{daemon} ended", lambda: not alive(pid))

    def kill_node(self, node):
        """Ends a node as a power failure does: with all processes of its jobs."""
        self.kill(f"slurmd-{node}")
        log = str(self.folder / "log" / f"slurmd-{node}")
        jobs = [pid for pid in parents() if name_of(pid) == "slurmstepd" and log in open_files(pid)]
        if not jobs:
            raise AssertionError(f"{node} has no job")
        for pid in [each for job in jobs for each in [job, *descendants(job)]]:
            kill(pid)

    def wait_for_node(self, node, state):
        wait_until(f"{node} is {state}", lambda: f"State={state}" in self.run("scontrol", "--oneliner", "show", "node", node))

    def start(self, daemon):
        name, _, node = daemon.partition("-")
        self.run(name, *(["-N", node] if node else []))

    def node_of(self, job):
        return self.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def name_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def open_files(pid):
    try:
        return [os.readlink(path) for path in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def parents():
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    return found


def descendants(pid):
    tree = parents()
    found, new = [], [pid]
    while new:
        new = [child for child, parent in tree.items() if parent in new]
        found += new
    return found


class Project(unittest.TestCase):
    """A test in a folder of its own, which stays for a look at it."""

    cluster = Cluster("jobs")

    def setUp(self):
        self.folder = WORK / "projects" / self.id().split(".", 1)[-1]
        if self.folder.exists():
            # Objects of a store are read-only.
            subprocess.run(["chmod", "-R", "u+w", self.folder], check=True)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        # Without the configuration of the user who runs the tests.
        self.environment = {"NO_COLOR": "1", "HOME": str(self.folder), **self.cluster.environment}
        self.configure()
        self.children = []
        self.addCleanup(self.end_children)
        self.addCleanup(self.cancel_jobs)

    def end_children(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()

    def cancel_jobs(self):
        jobs = [job for job, _ in self.jobs()]
        if jobs:
            self.cluster.run("scancel", "--full", *jobs, check=False)

    def configure(self, more="", **values):
        """Writes the configuration with other values of [executor.slurm], and more lines."""
        text = CONFIGURATION
        for key, value in values.items():
            text = re.sub(rf"(?m)^{key} .*\n", "", text) + f"{key} = {json.dumps(value)}\n"
        self.write(".ablate.toml", text + more)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def write_commands(self, seconds=1, numbers=6):
        """The experiment of `COMMANDS`, and a function that returns what ran."""
        ran = self.folder / "ran"
        inputs = ", ".join(f'in{number} = "middle@number={number}"' for number in range(numbers))
        values = ", ".join(f'["NUMBER={number}"]' for number in range(numbers))
        text = COMMANDS.replace("RAN", str(ran)).replace("SECONDS", str(seconds))
        labels = ", ".join(f'"{number}"' for number in range(numbers))
        text = text.replace("INPUTS", inputs).replace("[VALUES]", f"[{values}]\nlabels = [{labels}]")
        self.write("commands.toml", text)
        self.expected_runs = sorted(["first", "last", *(f"middle {number}" for number in range(numbers))])
        return lambda: sorted(ran.read_text().splitlines()) if ran.exists() else []

    def write_program(self, name, text):
        """A program before those of the system in the search path."""
        path = self.write(f"bin/{name}", text)
        path.chmod(0o755)
        self.environment["PATH"] = f"{path.parent}:{os.environ['PATH']}"

    def environ(self):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("ABLATE", "SLURM", "SBATCH"))}
        return environment | self.environment

    def ablate(self, *arguments, code=0, timeout=400):
        """Runs the program and returns what it printed."""
        command = [ABLATE, *map(str, arguments)]
        ended = subprocess.run(command, cwd=self.folder, env=self.environ(), capture_output=True, text=True, timeout=timeout)
        printed = f"{ended.stdout}{ended.stderr}"
        if code is not None:
            self.assertEqual(ended.returncode, code, f"{command}\n{printed}")
        return printed

    def run_slurm(self, experiment, *arguments, **options):
        return self.ablate("run", experiment, "--executor", "slurm", *arguments, **options)

    def start_slurm(self, experiment, *arguments):
        """Starts the program; its output goes to a file."""
        command = [ABLATE, "run", experiment, "--executor", "slurm", *arguments]
        with (self.folder / f"driver-{len(self.children)}.log").open("w") as log:
            child = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ(),
                stdout=log,
                stderr=subprocess.STDOUT,
                # A shell lets the processes that it starts in the background ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.children.append(child)
        return child

    def jobs(self, state=None):
        return [(job, found) for job, found in self.cluster.jobs(self.folder) if state in (None, found)]

    def running_job(self):
        """The id of the job, when there is one and it runs."""
        return wait_until("a job runs", lambda: self.jobs("RUNNING"))[0][0]

    def wait_for_training(self):
        """Waits until a training has saved its state, and goes on for two seconds."""
        wait_until("a training has saved its state", self.is_training)
        time.sleep(2)

    def is_training(self):
        return bool(list(self.folder.glob("cache/work/*/scratch/*.safetensors")))

    def records(self, store=None):
        """The outputs of each record of a store: {fingerprint: {name: hash}}. No fingerprint has two records."""
        found = {}
        for line in ((store or self.folder / "cache") / "records").read_text().splitlines()[1:]:
            record = json.loads(line.split(" ", 2)[2])
            if store is None:
                self.assertNotIn(record["fingerprint"], found, "two records")
            found[record["fingerprint"]] = {name: output["hash"] for name, output in record["outputs"].items()}
        return found

    def check_results(self, experiment):
        """The results have the bytes of a run without a cluster, and another run has nothing to do."""
        self.ablate("run", experiment, "--quiet", "--executor", "local", "--store", UNDISTURBED)
        here, there = self.records(), self.records(UNDISTURBED)
        self.assertTrue(here)
        self.assertEqual(here, {fingerprint: there.get(fingerprint) for fingerprint in here})
        before = self.submissions()
        self.run_slurm(experiment)
        self.assertEqual(self.submissions(), before, "a job was submitted for nothing")

    def submissions(self):
        """The folders of all submissions."""
        return sorted(path.parent for path in self.folder.glob("cache/jobs/*/script.sh"))

    def starts(self):
        """How many jobs have started, by a line of their script."""
        path = self.folder / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def count_starts(self, **values):
        """Configures jobs so that `starts` counts them."""
        self.configure(setup=[f"echo $SLURM_JOB_ID >> {self.folder / 'starts'}"], **values)
