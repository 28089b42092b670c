"""Helpers of the tests: temporary projects and the program."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

ABLATE = os.environ["ABLATE"]
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Names that are special in LaTeX, YAML, CSV, Markdown, HTML or a shell.
HOSTILE = "50% & $x_1$ #2 {a} ~^ \\input{x} [b] \"c\" 'd' `e` <f> a--b | * é"

# Curves and scores of programs: exact numbers in no time. Two rates, two seeds, two prompts.
STUDY = r"""
name  = "hostile"
about = '''ABOUT'''

[stage.train]
kind    = "command"
run     = '''for step in 1 2 3 300; do printf '{"step": %s, "loss": %s, "learning_rate": 1e-5, "reward_accuracy": 0.75, "reward_margin": -0.125}\n' $step $RATE.$step$ABLATE_SEED; done > curve.jsonl'''
env     = ["RATE=1"]
outputs = { "curve.jsonl" = "curve" }

[stage.eval]
kind    = "command"
inputs  = { "curve.jsonl" = "train" }
run     = '''for item in 1 2 3 4 5 6 7 8; do printf '{"id": "%s", "dataset": "a_b", "score": %s}\n' $item $(((item * WEIGHT) % 2)); done > scores.jsonl'''
env     = ["WEIGHT=1"]
outputs = { "scores.jsonl" = "scores" }

[axis.rate]
key    = "stage.train.env"
values = [["RATE=1"], ["RATE=2"]]
labels = ["1e-5", "2e-5"]

[axis.weight]
key    = "stage.eval.env"
values = [["WEIGHT=1"], ["WEIGHT=2"]]
labels = ["one", "zero"]

[seeds]
values = [0, 1]
from   = ["train"]

[report.main]
title    = '''TITLE'''
rows     = ["weight"]
columns  = ["rate"]
baseline = "weight=zero"
labels   = { "weight=one" = '''LABEL''' }
[[report.main.contrasts]]
name  = '''CONTRAST'''
plus  = ["weight=one"]
minus = ["weight=zero"]
"""


def study(text=HOSTILE):
    """The study with a text in place of its titles and labels."""
    filled = STUDY
    for name in ["ABOUT", "TITLE", "LABEL", "CONTRAST"]:
        filled = filled.replace(f"'''{name}'''", f"'''{text}'''")
    return filled


class Project(unittest.TestCase):
    """A test in a temporary folder."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        # Objects of a store are read-only.
        self.addCleanup(lambda: (subprocess.run(["chmod", "-R", "u+w", folder.name]), folder.cleanup()))
        self.folder = pathlib.Path(folder.name)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run_program(self, *command, **options):
        environment = os.environ | {"NO_COLOR": "1"} | options.pop("env", {})
        environment.pop("ABLATE_STORE", None)
        ended = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, **options)
        self.assertEqual(ended.returncode, 0, f"{command}\n{ended.stdout}\n{ended.stderr}")
        return ended.stdout

    def ablate(self, *arguments):
        return self.run_program(ABLATE, *arguments)

    def ablate_json(self, *arguments):
        return json.loads(self.ablate(*arguments, "--json"))
