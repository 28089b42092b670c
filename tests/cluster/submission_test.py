"""Submissions that fail, that Slurm refuses, and whose answer is lost."""

import time
import unittest

from support import COUNTING, SBATCH, Project, wait_until


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


if __name__ == "__main__":
    unittest.main()
