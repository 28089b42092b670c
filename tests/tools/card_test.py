"""`ablate export`: the folder opens in transformers' layout, and its card is one for the Hugging Face hub."""

import json
import re
import shutil
import subprocess

from huggingface_hub import ModelCard

from support import ABLATE, REPOSITORY, HOSTILE, Project

STUDY = """
name  = "card"
about = '''%s'''

[stage]
test  = { kind = "items", path = "test.jsonl" }
mix   = { kind = "mix", sources = { all = { from = "test", as = "direct" } } }
base  = { kind = "base", path = "hf://some-org/small-llava" }
sft   = { kind = "sft", model = "base", data = "mix", steps = 1, batch = 2, lr = 1e-4 }
eval  = { kind = "eval", model = ["base", "sft"], benchmark = "test", max_tokens = 2 }
folder = { kind = "export", model = "sft" }
"""
ITEMS = [{"id": str(n), "dataset": "sums", "question": f"{n} + 1?", "answer_type": "number", "answers": [str(n + 1)]} for n in range(4)]


class Card(Project):
    def setUp(self):
        super().setUp()
        snapshot = self.folder / "hub/models--some-org--small-llava/snapshots/0123abc"
        shutil.copytree(REPOSITORY / "tests/golden/hub/llava", snapshot, ignore=shutil.ignore_patterns("expected*"))
        self.write("hub/models--some-org--small-llava/refs/main", "0123abc")
        self.write("test.jsonl", "".join(json.dumps(item) + "\n" for item in ITEMS))
        self.write("card.toml", STUDY % HOSTILE)

    def run_program(self, *command, **options):
        return super().run_program(*command, env={"HF_HUB_CACHE": str(self.folder / "hub")}, **options)

    def test_a_card_has_front_matter_scores_and_commands(self):
        self.ablate("run", "card.toml")
        self.ablate("export", "card.toml", "sft", "exported")
        card = ModelCard.load(self.folder / "exported/README.md")
        self.assertEqual(card.data.base_model, "some-org/small-llava")
        self.assertEqual((card.data.tags, card.data.library_name, card.data.license), (["ablate", "sft"], "transformers", None))
        for part in ["## Training", "## Data", "## Scores", "| eval@model=sft | sft | sums | 4 |", "## Lineage", "## Reproduce"]:
            self.assertIn(part, card.text)
        self.assertNotIn("eval@model=base", card.text.split("## Scores")[1].split("## Lineage")[0])
        self.assertNotIn(str(self.folder), card.content)
        config = json.loads((self.folder / "exported/config.json").read_text())
        self.assertEqual(config["model_type"], "llava")
        # The weights are those of the store, and the commands of the card make the same folder.
        weights = (self.folder / "exported/model.safetensors").read_bytes()
        self.assertEqual(weights, (self.folder / "out/card/sft/model/model.safetensors").read_bytes())
        commands = re.findall(r"^    ablate (.*)$", card.text, re.MULTILINE)
        self.assertEqual(commands, ["run card.toml sft", "export card.toml sft checkpoint", "results card.toml"])
        for command in commands:
            self.ablate(*command.split())
        first, again = [(self.folder / folder / "README.md").read_text() for folder in ["exported", "checkpoint"]]
        self.assertEqual(again, first)

    def test_export_changes_no_result(self):
        self.ablate("run", "card.toml")
        self.ablate("export", "card.toml", "sft", "exported")
        self.assertEqual(self.ablate_json("plan", "card.toml")["must_run"], 0)
        self.assertIn(" 0 problems", self.ablate("verify"))

    def test_the_result_of_the_stage_export_has_a_card_of_the_same_model(self):
        self.ablate("run", "card.toml")
        exported = self.ablate_json("export", "card.toml", "folder", "exported")
        self.assertEqual(exported, {"instance": "folder", "folder": "exported", "card": "exported/README.md"})
        self.assertIn("| eval@model=sft | sft | sums | 4 |", (self.folder / "exported/README.md").read_text())

    def test_a_checkpoint_without_scores_says_so(self):
        self.ablate("run", "card.toml", "sft")
        self.ablate("export", "card.toml", "sft", "exported")
        text = (self.folder / "exported/README.md").read_text()
        self.assertIn("had no scores when it was exported", text)
        self.assertIn("Not measured when it was exported: `eval@model=sft`", text)

    def test_wrong_exports_are_refused(self):
        refused = lambda *arguments: subprocess.run(
            [ABLATE, "export", "card.toml", *arguments], cwd=self.folder, capture_output=True, text=True,
            env={"HF_HUB_CACHE": str(self.folder / "hub"), "NO_COLOR": "1"},
        )
        ended = refused("sft", "exported")
        self.assertEqual(ended.returncode, 2)
        self.assertIn("`sft` has no up-to-date result: run `ablate run card.toml sft` first", ended.stderr)
        self.ablate("run", "card.toml", "sft")
        self.assertIn("`mix` has no checkpoint: its outputs are", refused("mix", "exported").stderr)
        self.write("exported/mine.txt", "")
        self.assertIn("`exported` already exists: name a new folder", refused("sft", "exported").stderr)
        self.assertEqual([path.name for path in (self.folder / "exported").iterdir()], ["mine.txt"])
        self.assertEqual([path.name for path in self.folder.iterdir() if "partial" in path.name], [])
