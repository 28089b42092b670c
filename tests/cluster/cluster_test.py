"""Runs experiments through a real Slurm. `run.sh` starts the clusters and these tests, many at the same time."""

import json
import os
import re
import subprocess
import time
import unittest

from support import REPOSITORY, TRAINING, Project, wait_until


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


class Following(Project):
    def test_status_logs_and_stop(self):
        line = "echo the program speaks; sleep 100; echo > out"
        self.write("one.toml", f'name = "one"\n[stage.one]\nkind = "command"\nrun = "{line}"\noutputs = ["out"]\n')
        driver = self.start_slurm("one.toml")
        job = self.running_job()
        wait_until("the log", lambda: "the program speaks" in self.ablate("logs", "one.toml", "one", code=None), 30)
        # The job until its stage starts, then the stage.
        states = [job.split("_")[0], "running one"]
        wait_until("the state", lambda: any(state in self.ablate("status") for state in states), 30)
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


if __name__ == "__main__":
    unittest.main()
