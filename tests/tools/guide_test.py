"""docs/guide/tools.md: its files are saved, its commands run in order, and the output that it shows appears."""

import json
import re
import struct

from wandb.proto.wandb_internal_pb2 import Record

from support import ABLATE, REPOSITORY, Project

BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


class Guide(Project):
    def test_the_walk_runs_as_written(self):
        (self.folder / ".tools").mkdir()
        (self.folder / ".tools/ablate").symlink_to(ABLATE)
        output = ""
        for info, text in BLOCK.findall((REPOSITORY / "docs/guide/tools.md").read_text()):
            if "title=" in info:
                self.write(info.split("title=")[1], text)
            elif info == "sh":
                output = self.run_program("bash", "-euo", "pipefail", "-c", f"PATH=$PWD/.tools:$PATH\n{text}")
            else:
                self.assertEqual(info, "text")
                lines = iter(output.splitlines())
                for line in text.splitlines():
                    self.assertIn(line, lines, output)
        self.assert_wandb()

    def assert_wandb(self):
        """The offline runs of W&B have every loss of both curves."""
        losses = {}
        for path in (self.folder / "wandb").glob("offline-run-*/*.wandb"):
            name, found = None, []
            for data in wandb_records(path.read_bytes()):
                record = Record.FromString(data)
                if record.WhichOneof("record_type") == "run":
                    name = record.run.display_name
                for item in record.history.item:
                    if "train/loss" in (item.key, *item.nested_key):
                        found.append(json.loads(item.value_json))
            losses[name] = found
        expected = {"scores": []}
        for run in ["sft@lr=0.001", "sft@lr=0.003"]:
            curve = (self.folder / "out/rates" / run / "curve.jsonl").read_text()
            expected[run] = [json.loads(line)["loss"] for line in curve.splitlines()]
        self.assertEqual(losses, expected)


def wandb_records(data):
    """The records of an offline run. The file is a log of LevelDB after a header of 7 bytes: records are cut at blocks of 32 KiB."""
    position, record = 7, b""
    while position < len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, part = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        # 1: a whole record, 2: its first part, 3: a middle part, 4: the last part.
        if part in (1, 4):
            yield record
            record = b""
