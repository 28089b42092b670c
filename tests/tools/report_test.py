"""The files of a report: event files in TensorBoard, CSV in pandas, LaTeX in pdflatex and lualatex."""

import json
import math
import struct
import subprocess

import pandas
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from support import HOSTILE, Project, study

SESSION = "_hparams_/session_start_info"


class TensorBoard(Project):
    def test_event_files_have_every_value_of_the_curves(self):
        self.write("study.toml", study())
        self.ablate("run", "study.toml")
        runs = sorted((self.folder / "out/hostile/tensorboard").iterdir())
        self.assertEqual([run.name for run in runs], [f"train@rate={r},seed={s}" for r in ["1e-5", "2e-5"] for s in "01"])
        for run in runs:
            events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()
            curve = (self.folder / "out/hostile" / run.name / "curve.jsonl").read_text()
            steps = [json.loads(line) for line in curve.splitlines()]
            tags = {f"train/{key}" for key in steps[0] if key != "step"}
            self.assertEqual(set(events.Tags()["scalars"]), tags)
            for tag in tags:
                read = [(event.step, event.value) for event in events.Scalars(tag)]
                # TensorBoard keeps 32 bits.
                f32 = lambda value: struct.unpack("f", struct.pack("f", value))[0]
                self.assertEqual(read, [(step["step"], f32(step[tag.removeprefix("train/")])) for step in steps])
            times = [event.wall_time for event in events.Scalars("train/loss")]
            self.assertTrue(1.7e9 < times[0] <= times[-1] and times == sorted(times), times)
            content = HParamsPluginData.FromString(events.SummaryMetadata(SESSION).plugin_data.content)
            hparams = content.session_start_info.hparams
            rate = 1e-5 if "1e-5" in run.name else 2e-5
            self.assertEqual({name: value.number_value for name, value in hparams.items()}, {"rate": rate, "seed": float(run.name[-1])})

    def test_equal_results_have_equal_files_and_removed_runs_have_none(self):
        self.write("study.toml", study())
        self.ablate("run", "study.toml")
        files = lambda: {path: path.read_bytes() for path in (self.folder / "out/hostile/tensorboard").rglob("*tfevents*")}
        first = files()
        self.ablate("report", "study.toml")
        self.assertEqual(files(), first)
        self.write("study.toml", study().replace("values = [0, 1]", "values = [0]"))
        self.ablate("report", "study.toml")
        self.assertEqual(files(), {path: data for path, data in first.items() if path.parent.name.endswith("seed=0")})


class Pandas(Project):
    def test_cells_have_a_column_per_axis(self):
        self.write("study.toml", study())
        self.ablate("run", "study.toml")
        table = pandas.read_csv(self.folder / "out/hostile/report.csv")
        cells = table[table.dataset.isna()]
        self.assertEqual(set(table.row), {HOSTILE, "zero"})
        one = cells[(cells.weight == "one") & (cells.rate == 1e-5)]
        self.assertEqual(list(one["mean"]), [0.5])
        self.assertEqual(list(one["items"]), [8])
        # The column `mean` has both rates, and every cell both seeds.
        self.assertTrue(cells[cells.column == "mean"].rate.isna().all())
        self.assertTrue(table.seed.isna().all())
        self.assertEqual(list(table.dataset.dropna().unique()), ["a_b"])

    def test_contrasts_are_those_of_the_report(self):
        self.write("study.toml", study())
        self.ablate("run", "study.toml")
        table = pandas.read_csv(self.folder / "out/hostile/contrasts.csv")
        [expected] = json.loads((self.folder / "out/hostile/report.json").read_text())["tables"][0]["contrasts"]
        whole = table[table.dataset.isna() & table.seed.isna()].iloc[0]
        self.assertEqual(whole.contrast, HOSTILE)
        self.assertTrue(math.isclose(whole.difference, expected["difference"]["estimate"]["mean"]))
        self.assertEqual(whole.verdict, expected["shown_as"])
        by_seed = table[table.seed.notna()]
        self.assertEqual(list(by_seed.difference), [one["mean"] for one in expected["by_seed"]])


PAPER = r"""\documentclass{article}
\usepackage{booktabs}
%s
\begin{document}
Table~\ref{tab:hostile-main} and Table~\ref{tab:hostile-main-contrasts}.
\input{out/hostile/report.tex}
\end{document}
"""


class LaTeX(Project):
    def compile(self, engine, preamble, text):
        self.write("study.toml", study(text))
        self.ablate("run", "study.toml")
        self.write("paper.tex", PAPER % preamble)
        for _ in range(2):
            self.run_program(engine, "-halt-on-error", "-interaction=nonstopmode", "paper.tex")
        log = (self.folder / "paper.log").read_text(errors="replace")
        for wrong in ["\n! ", "undefined", "Missing character", "multiply defined"]:
            self.assertNotIn(wrong, log)
        return log

    def test_pdflatex_prints_hostile_names(self):
        for preamble in ["", r"\usepackage[T1]{fontenc}", r"\usepackage{array,amsmath}"]:
            with self.subTest(preamble):
                self.compile("pdflatex", preamble, HOSTILE)

    def test_lualatex_prints_hostile_names(self):
        self.compile("lualatex", "", HOSTILE + " Ω")

    def test_the_printed_text_is_the_name(self):
        self.compile("lualatex", r"\usepackage{fontspec}", HOSTILE)
        text = " ".join(self.run_program("pdftotext", "-layout", "paper.pdf", "-").split())
        for part in ["50% & $x_1$ #2 {a} ~^", "\\input{x} [b]", "<f> a--b | * é"]:
            self.assertIn(part, text)

    def test_engines_stop_at_letters_that_they_do_not_have(self):
        self.write("study.toml", study("日本"))
        self.ablate("run", "study.toml")
        for engine, preamble, message in [
            ("pdflatex", "", "Unicode character"),
            ("lualatex", r"\tracinglostchars=3", "Missing character"),
        ]:
            self.write("paper.tex", PAPER % preamble)
            command = [engine, "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
            ended = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
            self.assertNotEqual(ended.returncode, 0)
            self.assertIn(message, ended.stdout)
        # The file says what to do.
        self.assertIn("lualatex", (self.folder / "out/hostile/report.tex").read_text().split("\\begin")[0])
