"""Completions in bash, zsh and fish, and manual pages."""

import os
import pathlib
import pty
import select
import subprocess
import time

from support import ABLATE, Project, study


class Completions(Project):
    def setUp(self):
        super().setUp()
        self.write("study.toml", study())
        self.write("notes.txt", "")
        (self.folder / "bin").mkdir()
        (self.folder / "bin/ablate").symlink_to(ABLATE)
        self.environment = os.environ | {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HOME": str(self.folder)}
        for shell in ["bash", "zsh", "fish"]:
            self.write(f"ablate.{shell}", self.ablate("completions", shell))

    def shell(self, *command):
        ended = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""), ended.stdout)
        return sorted(ended.stdout.split())

    def bash(self, line):
        """The candidates of bash, with its own splitting of the line into words."""
        script = f"""
            source ablate.bash
            COMP_LINE={quoted(line)} COMP_POINT={len(line)} COMP_TYPE=9
            # Bash splits words at these characters, too, and keeps them as words.
            mapfile -t COMP_WORDS < <(grep -oE '[@=:]|[^@=: ]+' <<< "$COMP_LINE")
            [[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            current=${{COMP_WORDS[COMP_CWORD]}}
            [[ $current == [@=:] ]] && current=""
            _ablate_complete ablate "$current" x
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        return self.shell("bash", "--norc", "-euo", "pipefail", "-c", script)

    def fish(self, line):
        return self.shell("fish", "--no-config", "-c", f"source ablate.fish; complete --do-complete {quoted(line)} | string replace -r '\\t.*' ''; true")

    def zsh(self, line):
        """The candidates that the script passes to zsh's `_describe`."""
        script = f"""
            autoload -Uz compinit; compinit -u -D; source ablate.zsh
            # Called with the name of an array: candidates with descriptions after a colon.
            _describe() {{ local name=$argv[3]; print -l -- ${{${{(P)name}}%%:*}}; }}
            words=({line if not line.endswith(' ') else line + "''"}); CURRENT=${{#words}}
            _clap_dynamic_completer_ablate
        """
        return self.shell("zsh", "-f", "-c", script)

    def test_every_shell_completes_the_names_of_the_experiment(self):
        instances = ["train@rate=1e-5,seed=0", "train@rate=1e-5,seed=1", "train@rate=2e-5,seed=0", "train@rate=2e-5,seed=1"]
        cases = [
            ("ablate show study.toml tra", ["train", *instances]),
            ("ablate run study.toml --until train@rate=2", instances[2:]),
            ("ablate report study.toml --report m", ["main"]),
            ("ablate new x --template s", ["sft"]),
            ("ablate run stu", ["study.toml"]),
        ]
        for line, expected in cases:
            with self.subTest(line):
                self.assertEqual(self.fish(line), expected)
                self.assertEqual(self.zsh(line), expected)
                # Bash gets the part after the last of its own separators.
                typed = line.split()[-1]
                cut = max(typed.rfind(separator) for separator in "@=:") + 1
                self.assertEqual(self.bash(line), sorted(name[cut:] for name in expected))

    def test_bash_completes_after_a_separator(self):
        self.assertEqual(self.bash("ablate show study.toml eval@ra"), sorted(
            f"rate={rate},seed={seed},weight={weight}" for rate in ["1e-5", "2e-5"] for seed in "01" for weight in ["one", "zero"]
        ))
        self.assertEqual(self.bash("ablate plan study.toml --set stage.train."), ["stage.train.env=", "stage.train.outputs=", "stage.train.run="])

    def test_bash_completes_at_a_terminal(self):
        """A line typed at a terminal, with the tab key."""
        self.write("rc", "PS1='> '\nsource ablate.bash\nbind 'set enable-bracketed-paste off'\n")
        process, terminal = pty.fork()
        if process == 0:
            os.chdir(self.folder)
            os.execvpe("bash", ["bash", "--noprofile", "--rcfile", "rc", "-i"], self.environment | {"TERM": "dumb"})
        os.write(terminal, b"ablate show stu\ttra\t@rate=1e\t0 --jso\t > shown; echo en''ded\n")
        output, ends = b"", time.monotonic() + 60
        while b"ended" not in output and time.monotonic() < ends:
            if select.select([terminal], [], [], 1)[0]:
                output += os.read(terminal, 4096)
        os.write(terminal, b"exit\n")
        os.waitpid(process, 0)
        self.assertIn('"name": "train@rate=1e-5,seed=0"', (self.folder / "shown").read_text(), output)

    def test_runs_of_the_store(self):
        self.ablate("run", "study.toml")
        [run] = [path.name for path in (self.folder / "cache/runs").iterdir()]
        self.assertEqual(self.fish("ablate status l"), ["latest", "latest~1"])
        self.assertEqual(self.fish("ablate status 2"), [run])

    def test_files_with_errors_have_no_candidates(self):
        self.write("wrong.toml", "[stage.x]\nkind = 'nothing'\n")
        self.assertEqual(self.fish("ablate show wrong.toml x"), [])


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


class ManualPages(Project):
    def test_pages_are_valid(self):
        self.ablate("man", "pages")
        pages = sorted(pathlib.Path(self.folder, "pages").iterdir())
        self.assertIn("ablate-run.1", [page.name for page in pages])
        self.run_program("mandoc", "-T", "lint", "-W", "error", *map(str, pages))
        text = self.run_program("mandoc", "-T", "utf8", str(self.folder / "pages/ablate-export.1"))
        self.assertIn("model card", text)
