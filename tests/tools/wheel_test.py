"""The wheel: built from the release build, installed by pip and by uv."""

import os
import subprocess
import venv

from support import REPOSITORY, Project


class Wheel(Project):
    def test_pip_and_uv_install_the_program(self):
        built = subprocess.run(
            ["maturin", "build", "--release", "--out", str(self.folder / "wheels")],
            cwd=REPOSITORY / "src/python", capture_output=True, text=True,
        )
        self.assertEqual(built.returncode, 0, built.stderr)
        [wheel] = (self.folder / "wheels").iterdir()
        venv.create(self.folder / "pip", with_pip=True)
        self.run_program("pip/bin/pip", "install", "--quiet", "--no-index", str(wheel))
        self.run_program("uv", "venv", "--quiet", "uv")
        python = {"VIRTUAL_ENV": str(self.folder / "uv"), "UV_CACHE_DIR": str(self.folder / "uv-cache")}
        self.run_program("uv", "pip", "install", "--quiet", "--offline", str(wheel), env=python)
        for tool in ["pip", "uv"]:
            program = str(self.folder / tool / "bin/ablate")
            self.assertRegex(self.run_program(program, "--version"), r"^ablate \d+\.\d+\.\d+\n$")
            self.run_program(program, "new", f"{tool}-study")
            self.run_program(program, "check", f"{tool}-study.toml")
