"""Disturbs runs on a real Slurm: jobs, nodes, the controller and the driver are killed. Each test ends with the results of an undisturbed run."""

import os
import random
import signal
import subprocess
import time
import unittest

from support import ABLATE, COUNTING, SBATCH, TRAINING, Cluster, Project, wait_until


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
