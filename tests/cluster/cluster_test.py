"""Runs experiments through a real Slurm and disturbs it: `run.sh` starts the clusters and these tests, many at the same time."""

import json
import os
import random
import re
import signal
import subprocess
import time
import unittest

from support import ABLATE, REPOSITORY, TRAINING, Cluster, Project, wait_until

SBATCH = "/usr/bin/sbatch"
# Counts its calls in the file beside it; `$call` is the number of this one.
COUNTING = """#!/bin/sh
echo >> "$0.calls"
call=$(wc -l < "$0.calls")
"""


class Results(Project):
    def test_default_experiment(self):
        for name in ["smoke.toml", "reasoner.toml"]:
            self.write(name, (REPOSITORY / "experiments" / name).read_text())
        self.run_slurm("smoke.toml")
        self.check_results("smoke.toml")

    def test_each_stage_runs_once_and_equal_ones_share_an_array(self):
        ran = self.write_commands()
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        self.assertEqual(len(self.submissions()), 3)
        self.check_results("commands.toml")

    def test_folder_with_special_characters(self):
        self.folder = self.folder / "50%j of 'all' & more"
        self.folder.mkdir()
        self.configure()
        self.write("one.toml", 'name = "one"\n[stage.one]\nkind = "command"\nrun = "echo > out"\noutputs = ["out"]\n')
        self.run_slurm("one.toml")
        self.check_results("one.toml")
        self.assertTrue((self.submissions()[0] / "0.out").exists())

    def test_no_more_jobs_than_allowed(self):
        ran = self.write_commands(numbers=12)
        self.configure(max_jobs=3)
        driver, most = self.start_slurm("commands.toml"), 0
        while driver.poll() is None:
            most = max(most, len([job for job, state in self.jobs() if state in ("PENDING", "RUNNING")]))
            time.sleep(0.1)
        self.assertEqual(driver.returncode, 0)
        self.assertEqual(most, 3)
        self.assertEqual(ran(), self.expected_runs)

    def test_stage_that_the_driver_runs(self):
        ran = self.write_commands(numbers=2)
        self.configure(local=["first"])
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        self.assertEqual(len(self.submissions()), 2)
        self.check_results("commands.toml")

    def test_resources_of_a_kind_of_a_stage_and_of_limits(self):
        self.write_commands(numbers=1)
        experiment = self.folder / "commands.toml"
        text = experiment.read_text().replace("[stage.middle]", '[stage.middle]\nlimits = { time = "3m", memory = "300M" }')
        experiment.write_text(text)
        # A time limit of two minutes for a kind, a memory limit for a stage; those of the experiment are valid before both.
        self.configure(
            '[executor.slurm.kind.command]\ntime = "2m"\n'
            '[executor.slurm.stage.last]\nmemory = "200M"\noptions = ["--comment=of-last"]\n'
        )
        seen = set()
        driver = self.start_slurm("commands.toml")
        while driver.poll() is None:
            for job in re.split(r"\n(?=JobId=)", self.cluster.run("scontrol", "--oneliner", "show", "jobs")):
                if f"WorkDir={self.folder}" in job:
                    found = dict(part.split("=", 1) for part in job.split() if "=" in part)
                    seen.add((found["TimeLimit"], found["MinMemoryNode"], found["Comment"]))
            time.sleep(0.1)
        self.assertEqual(driver.returncode, 0)
        # A job has five minutes more than its stage, for what it does before and after.
        self.assertEqual(
            seen, {("00:02:00", "1G", "commands:"), ("00:08:00", "300M", "commands:"), ("00:02:00", "200M", "of-last")}
        )


class Cancelled(Project):
    def test_training_continues_after_scancel(self):
        self.write("training.toml", TRAINING)
        self.count_starts()
        driver = self.start_slurm("training.toml")
        self.wait_for_training()
        self.cluster.run("scancel", self.running_job())
        self.assertEqual(driver.wait(60), 130)
        started = self.starts()
        self.run_slurm("training.toml")
        self.assertEqual(self.starts(), started + 1)
        self.check_results("training.toml")


class TimeLimit(Project):
    def test_training_needs_several_jobs(self):
        self.write("training.toml", TRAINING.replace("steps        = 12000", "steps        = 40000"))
        # A job is told to end 30 seconds after its start, or earlier, because Slurm looks at its clock twice a minute.
        self.count_starts(time="1m", grace="30s", resumes=20)
        self.run_slurm("training.toml")
        # Five stages, and two more jobs of the training.
        self.assertGreaterEqual(self.starts(), 7)
        self.check_results("training.toml")

    def test_limit_of_resumes(self):
        self.write("training.toml", TRAINING.replace("steps        = 12000", "steps        = 240000"))
        self.configure(time="1m", grace="30s", resumes=1)
        printed = self.run_slurm("training.toml", code=1)
        self.assertIn("time limit", printed)
        self.assertIn("resumes", printed)


class Driver(Project):
    def test_killed_at_random_moments(self):
        ran = self.write_commands(seconds=2)
        moments = random.Random(int(os.environ.get("CLUSTER_SEED", "0")))
        for _ in range(8):
            driver = self.start_slurm("commands.toml")
            time.sleep(moments.uniform(0.1, 2))
            driver.kill()
            driver.wait()
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")

    def test_killed_right_after_sbatch_accepted_a_job(self):
        ran = self.write_commands()
        self.write_program("sbatch", COUNTING + f'answer=$({SBATCH} "$@")\nkill -9 $PPID\necho "$answer"\n')
        for _ in range(3):
            driver = self.start_slurm("commands.toml")
            # It ends by its own after the last submission.
            self.assertIn(driver.wait(60), (0, -signal.SIGKILL))
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        self.assertEqual(len((self.folder / "bin/sbatch.calls").read_text().splitlines()), 3)
        self.check_results("commands.toml")

    def test_two_at_once(self):
        ran = self.write_commands()
        drivers = [self.start_slurm("commands.toml") for _ in range(2)]
        self.assertEqual([driver.wait(120) for driver in drivers], [0, 0])
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")

    def test_interrupted_while_jobs_go_on(self):
        ran = self.write_commands(seconds=5)
        driver = self.start_slurm("commands.toml")
        job = self.running_job()
        driver.send_signal(signal.SIGINT)
        self.assertEqual(driver.wait(30), 130)
        self.assertIn((job, "RUNNING"), self.jobs())
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")

    def test_inside_a_job(self):
        ran = self.write_commands()
        command = f"{ABLATE} run commands.toml --executor slurm"
        options = ["--wait", "--mem=777", "--cpus-per-task=1", "--job-name=outer", f"--chdir={self.folder}"]
        environment = self.environ() | {"SBATCH_PARTITION": "closed"}
        outer = ["sbatch", "--partition=main", *options, f"--output={self.folder}/outer.log", f"--wrap={command}"]
        ended = subprocess.run(outer, env=environment, capture_output=True, text=True, timeout=200)
        self.assertEqual(ended.returncode, 0, ended.stderr + (self.folder / "outer.log").read_text())
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")


class Submission(Project):
    def fail_first(self, calls, *words):
        """A `sbatch` whose first calls fail with these words."""
        said = "\n".join(f'    echo "sbatch: error: {line}" >&2' for line in words)
        self.write_program("sbatch", COUNTING + f'if [ "$call" -le {calls} ]; then\n{said}\n    exit 1\nfi\nexec {SBATCH} "$@"\n')

    def check_tried_again(self, *words):
        ran = self.write_commands(numbers=2)
        self.fail_first(2, *words)
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)

    def test_controller_does_not_answer(self):
        self.check_tried_again("Batch job submission failed: Unable to contact slurm controller (connect failure)")

    def test_answer_times_out(self):
        self.check_tried_again("Batch job submission failed: Socket timed out on send/recv operation")

    def test_limit_of_submitted_jobs(self):
        self.check_tried_again(
            "QOSMaxSubmitJobPerUserLimit",
            "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        )

    def test_machine_without_slurm(self):
        self.write_commands(numbers=1)
        self.environment["PATH"] = str(self.folder)
        self.assertIn("Slurm is not installed", self.run_slurm("commands.toml", code=None))

    def check_refused(self, *expected):
        ran = self.write_commands(numbers=1)
        begun = time.monotonic()
        printed = self.run_slurm("commands.toml", code=None)
        self.assertLess(time.monotonic() - begun, 30)
        for text in expected:
            self.assertIn(text, printed)
        self.assertEqual(ran(), [])

    def test_unknown_partition(self):
        self.configure(partition="nowhere")
        self.check_refused("nowhere", "partition")

    def test_account(self):
        self.fail_first(99, "Batch job submission failed: Invalid account or account/partition combination specified")
        self.configure(account="nobody")
        self.check_refused("Invalid account", "account")

    def test_time_above_the_limit_of_the_partition(self):
        self.configure(partition="short", time="2m")
        self.check_refused("time")

    def test_more_memory_than_a_node_has(self):
        self.configure(memory="100G")
        self.check_refused("memory")

    def test_answer_that_comes_too_late(self):
        ran = self.write_commands(numbers=2)
        self.configure(command_timeout="3s")
        late = f'answer=$({SBATCH} "$@")\n[ "$call" -gt 1 ] || sleep 30\necho "$answer"\n'
        self.write_program("sbatch", COUNTING + late)
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        # Two more arrays; the first was found in the queue.
        self.assertEqual(len((self.folder / "bin/sbatch.calls").read_text().splitlines()), 3)

    def test_job_that_is_accepted_after_the_driver_gave_up(self):
        ran = self.write_commands(numbers=2)
        self.configure(command_timeout="2s", lost_after="5s")
        # The driver ends the program after two seconds; what that left behind submits after 12.
        late = f"""if [ "$call" = 1 ]; then
    setsid sh -c 'sleep 12; exec {SBATCH} "$@"' late "$@" > "$0.late" 2>&1 &
    sleep 60
fi
exec {SBATCH} "$@"
"""
        self.write_program("sbatch", COUNTING + late)
        self.run_slurm("commands.toml")
        wait_until("the late job is submitted", lambda: (self.folder / "bin/sbatch.late").read_text(), 30)
        wait_until("it has ended", lambda: not self.jobs(), 60)
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")


class Failures(Project):
    def test_preempted_and_requeued(self):
        self.write("training.toml", TRAINING)
        self.count_starts(partition="low")
        driver = self.start_slurm("training.toml")
        self.wait_for_training()
        self.cluster.run("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wait", "--wrap=sleep 3")
        self.assertEqual(driver.wait(200), 0)
        self.assertEqual(self.starts(), 6)
        self.check_results("training.toml")

    def write_program_stage(self, line):
        self.write("one.toml", f'name = "one"\n[stage.one]\nkind = "command"\nrun = """{line}"""\noutputs = ["out"]\n')

    def test_out_of_memory(self):
        python = "import time; block = bytearray(600 << 20); time.sleep(60)"
        self.write_program_stage(f"/usr/bin/python3 -c '{python}'; echo > out")
        self.configure(memory="200M")
        printed = self.run_slurm("one.toml", code=1)
        self.assertIn("memory", printed)
        self.assertIn("limits.memory", printed)
        self.assertIn("200 MiB", printed)

    def test_modules_are_loaded(self):
        """`module` is a function of the shell that runs ablate, as Environment Modules and Lmod define it."""
        self.write_program_stage("echo > out")
        self.configure(setup=["module load cuda/12"])
        self.environment |= {"BASH_FUNC_module%%": f"() {{ echo $2 from $MODULEPATH > {self.folder}/loaded\n}}", "MODULEPATH": "/opt/modules"}
        self.run_slurm("one.toml")
        self.assertEqual((self.folder / "loaded").read_text(), "cuda/12 from /opt/modules\n")

    def test_line_of_the_setup_fails(self):
        self.write_program_stage("echo > out")
        self.configure(setup=["echo the module system speaks", "module-that-is-missing load cuda"])
        printed = self.run_slurm("one.toml", code=None)
        self.assertIn("module-that-is-missing", printed)
        self.assertIn("setup", printed)
        self.assertIn("the module system speaks", printed)
        self.assertFalse(list(self.folder.glob("out/one/one/out")))

    def test_program_fails(self):
        self.write_program_stage("echo what went wrong >&2; exit 3")
        printed = self.run_slurm("one.toml", code=1)
        self.assertIn("what went wrong", printed + self.ablate("logs", "one.toml", "one"))
        self.assertEqual(len(self.submissions()), 1)

    def test_program_that_fails_once_is_tried_again(self):
        self.write_program_stage(f"[ -e {self.folder}/failed ] || {{ echo > {self.folder}/failed; exit 3; }}; echo > out")
        with (self.folder / "one.toml").open("a") as file:
            file.write("limits = { retries = 1 }\n")
        self.run_slurm("one.toml")
        self.assertEqual(len(self.submissions()), 2)

    def test_job_that_is_killed_without_a_word(self):
        ran = self.write_commands(seconds=3, numbers=1)
        self.configure(setup=["[ -e killed ] || { touch killed; kill -9 $$; }"])
        self.run_slurm("commands.toml", code=None)
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)


class Detached(Project):
    def test_graph_finishes_alone(self):
        ran = self.write_commands()
        self.run_slurm("commands.toml", "--detach", code=75)
        wait_until("all stages ran", lambda: ran() == self.expected_runs)
        wait_until("no job is left", lambda: not self.jobs())
        self.check_results("commands.toml")

    def test_driver_follows_later(self):
        ran = self.write_commands(seconds=3)
        self.run_slurm("commands.toml", "--detach", code=75)
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")

    def test_stage_that_only_the_driver_runs(self):
        ran = self.write_commands(numbers=1)
        self.configure(local=["middle"])
        printed = self.run_slurm("commands.toml", "--detach", code=None)
        self.assertIn("`middle@number=0` does not run as a job", printed)
        self.assertIn("--until", printed)
        self.assertEqual((self.jobs(), ran()), ([], []))

    def test_training_continues_after_its_time_limit(self):
        self.write("training.toml", TRAINING)
        self.count_starts(time="1m", grace="30s", resumes=20)
        self.run_slurm("training.toml", "--detach", code=75)
        # The rest of the training needs a second job in any case.
        job = wait_until("it trains", lambda: self.is_training() and self.jobs("RUNNING"))[0][0]
        self.cluster.run("scancel", "--batch", "--signal=USR1", job)
        wait_until("no job is left", lambda: not self.jobs(), 200)
        self.assertGreaterEqual(self.starts(), 6)
        self.check_results("training.toml")

    def test_submitted_twice(self):
        ran = self.write_commands(seconds=2)
        for _ in range(2):
            self.run_slurm("commands.toml", "--detach", code=75)
        wait_until("all stages ran", lambda: ran() == self.expected_runs)
        wait_until("no job is left", lambda: not self.jobs())
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")

    def test_failure_cancels_what_needs_it(self):
        ran = self.write_commands()
        experiment = self.folder / "commands.toml"
        experiment.write_text(experiment.read_text().replace("(cat in; echo $NUMBER) > out", "[ $NUMBER != 3 ] && cat in > out"))
        self.run_slurm("commands.toml", "--detach", code=75)
        without_last = [line for line in self.expected_runs if line != "last"]
        wait_until("all other stages ran", lambda: ran() == without_last)
        wait_until("no job is left", lambda: not self.jobs())
        self.assertEqual(ran(), without_last)
        printed = self.run_slurm("commands.toml", code=1)
        self.assertIn("number=3", printed)


class Following(Project):
    def test_status_logs_and_stop(self):
        line = "echo the program speaks; sleep 100; echo > out"
        self.write("one.toml", f'name = "one"\n[stage.one]\nkind = "command"\nrun = "{line}"\noutputs = ["out"]\n')
        driver = self.start_slurm("one.toml")
        job = self.running_job()
        wait_until("the log", lambda: "the program speaks" in self.ablate("logs", "one.toml", "one", code=None), 30)
        status = wait_until("the state", lambda: (s := self.ablate("status")) and "running" in s.lower() and s, 30)
        self.assertIn(job.split("_")[0], status)
        self.ablate("stop", "latest")
        self.assertEqual(driver.wait(60), 130)
        wait_until("the job is cancelled", lambda: not [job for job in self.jobs() if job[1] == "RUNNING"], 30)

    def test_state_of_pending_jobs(self):
        self.write_commands(numbers=1)
        self.configure(partition="closed")
        driver = self.start_slurm("commands.toml")
        wait_until("a job is pending", lambda: self.jobs("PENDING"))
        status = wait_until("the state", lambda: "pending" in (s := self.ablate("status").lower()) and s, 40)
        self.assertIn("partition", status)
        self.ablate("stop", "latest")
        self.assertEqual(driver.wait(60), 130)
        wait_until("the job is cancelled", lambda: not self.jobs(), 30)

    def test_stop_of_one_stage(self):
        ran = self.write_commands(seconds=4, numbers=3)
        driver = self.start_slurm("commands.toml")
        wait_until("they run", lambda: "middle 1" in ran())
        self.ablate("stop", "latest", "middle@number=1")
        self.assertEqual(driver.wait(60), 130)
        self.assertNotIn("last", ran())
        names = {path.parent.name for path in self.folder.glob("out/commands/*/out")}
        self.assertEqual(names & {f"middle@number={number}" for number in range(3)}, {"middle@number=0", "middle@number=2"})

    def test_plan_and_doctor(self):
        self.write_commands(numbers=2)
        plan = self.ablate("plan", "commands.toml", "--executor", "slurm")
        self.assertIn("partition main", plan)
        self.assertIn("would start at 20", plan)
        doctor = self.ablate("doctor", "--executor", "slurm")
        self.assertIn("22.05", doctor)
        self.assertIn("main", doctor)
        self.configure(partition="nowhere")
        self.assertIn("nowhere", self.ablate("doctor", "--executor", "slurm", code=None))

    def test_executor_of_the_configuration(self):
        self.write_commands(numbers=1)
        self.configure('\n[executor]\ndefault = "slurm"\n')
        self.ablate("run", "commands.toml")
        self.assertTrue(self.submissions())


class Torchrun(Project):
    def run_recipe(self, *options, **values):
        """Runs the recipe for torchrun, and checks its losses against those of ablate's own training."""
        venv = os.environ["RECIPES_VENV"]
        self.environment |= {"PATH": f"{venv}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        checkpoint = self.folder / "checkpoint"
        subprocess.run([f"{venv}/bin/python", REPOSITORY / "tests/recipes/make_checkpoint.py", checkpoint], check=True, capture_output=True)
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        self.configure(f"[executor.slurm.stage.torchrun_sft]\n{lines}")
        experiment = REPOSITORY / "tests/cluster/torchrun.toml"
        self.run_slurm(experiment, "--set", f"vars.checkpoint={checkpoint}", *options)
        ours, theirs = self.losses("sft"), self.losses("torchrun_sft")
        self.assertEqual(len(ours), 10)
        self.assertLess(max(abs(one - other) for one, other in zip(ours, theirs, strict=True)), 1e-3)
        self.assertGreater(ours[0] - ours[-1], 0.5)

    def losses(self, stage):
        lines = (self.folder / "out/torchrun" / stage / "curve.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    def log(self):
        return next(self.folder.glob("cache/runs/*/logs/torchrun_sft.log")).read_text()

    def test_two_processes_are_one_job(self):
        self.run_recipe(cpus=2, memory="4G")
        self.assertIn("2 processes, gloo on CPUs", self.log())
        tasks = [path for path in self.folder.glob("cache/jobs/*/[0-9]*.json") if "torchrun_sft.py" in path.read_text()]
        self.assertEqual(len(tasks), 1)

    def test_two_nodes(self):
        text = (REPOSITORY / "experiments/recipes/torchrun.toml").read_text()
        launch = re.search(r"(?m)^# launch *= \"(srun .*)\"$", text)[1]
        self.run_recipe("--set", f"vars.launch={launch}", "--set", "vars.processes=1", nodes=2, memory="4G")
        self.assertIn("2 processes, gloo on CPUs", self.log())


class Environment(Project):
    def test_variables_of_the_driver(self):
        ran = self.write_commands(numbers=1)
        self.configure(setup=[f"env > {self.folder}/environment"])
        hidden = {"A_SECRET_TOKEN": "hunter2", "SLURM_MEM_PER_NODE": "7", "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "5"}
        hidden |= {"SBATCH_PARTITION": "closed", "SBATCH_TIMELIMIT": "1", "SLURM_NTASKS": "9"}
        self.environment |= hidden
        self.run_slurm("commands.toml")
        self.assertEqual(ran(), self.expected_runs)
        self.assertNotIn("hunter2", (self.folder / "environment").read_text())
        self.assertEqual(self.files_with("hunter2"), "")

    def test_variable_that_a_program_declares(self):
        experiment = """
name = "one"

[stage.one]
kind    = "command"
run     = "[ -n \\"$A_TOKEN\\" ] && echo > out"
outputs = ["out"]
env     = { pass = ["A_TOKEN"] }
"""
        self.write("one.toml", experiment)
        self.environment |= {"A_TOKEN": "hunter2"}
        self.run_slurm("one.toml")
        self.assertEqual(self.files_with("hunter2"), "")

    def files_with(self, text):
        return subprocess.run(["grep", "-rl", text, self.folder / "cache"], capture_output=True, text=True).stdout


class Daemons(Project):
    """These kill daemons, so they have a cluster of their own and run one after another."""

    cluster = Cluster("daemons")

    def start_training(self):
        self.write("training.toml", TRAINING)
        self.count_starts()
        driver = self.start_slurm("training.toml")
        self.wait_for_training()
        return driver, self.cluster.node_of(self.running_job())

    def test_slurmd_killed_and_its_job_goes_on(self):
        driver, node = self.start_training()
        self.cluster.kill(f"slurmd-{node}")
        time.sleep(4)
        self.cluster.start(f"slurmd-{node}")
        self.assertEqual(driver.wait(200), 0)
        self.assertEqual(self.starts(), 5)
        self.check_results("training.toml")

    def test_node_lost(self):
        driver, node = self.start_training()
        self.cluster.kill_node(node)
        self.cluster.wait_for_node(node, "DOWN")
        self.cluster.start(f"slurmd-{node}")
        self.assertEqual(driver.wait(200), 0)
        self.assertEqual(self.starts(), 6)
        self.check_results("training.toml")

    def test_slurmd_away_until_its_job_counts_as_lost(self):
        """The job goes on while Slurm starts it again elsewhere: the second waits for the first."""
        driver, node = self.start_training()
        self.cluster.kill(f"slurmd-{node}")
        self.cluster.wait_for_node(node, "DOWN")
        self.assertEqual(driver.wait(200), 0)
        self.cluster.start(f"slurmd-{node}")
        self.check_results("training.toml")

    def test_controller_killed_right_after_a_submission(self):
        ran = self.write_commands(seconds=3)
        once = f'answer=$({SBATCH} "$@")\n[ "$call" != 2 ] || kill -9 {self.cluster.pid("slurmctld")}\necho "$answer"\n'
        self.write_program("sbatch", COUNTING + once)
        driver = self.start_slurm("commands.toml")
        wait_until("the controller is killed", lambda: self.folder.joinpath("bin/sbatch.calls").exists() and self.calls() >= 2)
        time.sleep(3)
        self.cluster.start("slurmctld")
        self.assertEqual(driver.wait(200), 0)
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")

    def calls(self):
        return len((self.folder / "bin/sbatch.calls").read_text().splitlines())

    def test_controller_away_while_jobs_run(self):
        ran = self.write_commands(seconds=10)
        driver = self.start_slurm("commands.toml")
        wait_until("they run", lambda: "middle 5" in ran())
        self.cluster.kill("slurmctld")
        time.sleep(20)
        self.assertIsNone(driver.poll())
        self.cluster.start("slurmctld")
        self.assertEqual(driver.wait(200), 0)
        self.assertEqual(ran(), self.expected_runs)
        self.check_results("commands.toml")


if __name__ == "__main__":
    unittest.main()
