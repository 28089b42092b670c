"""What the recipes for TRL share: options, model, data set, curve and checkpoint."""

import fnmatch
import os
from dataclasses import dataclass, field
from pathlib import Path

import records
import torch
from conversations import image_keys
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, HfArgumentParser, ProcessorMixin
from transformers.distributed import DistributedConfig


@dataclass
class Options:
    freeze: list[str] = field(default_factory=list, metadata={"help": "patterns of names of frozen parameters"})
    fsdp_size: int = field(default=1, metadata={"help": "number of processes that share the model (FSDP2)"})


def arguments(options, config):
    """The options of a recipe, and TRL's, which have TRL's names and defaults except for these."""
    parser = HfArgumentParser((options, config))
    parser.set_defaults(
        output_dir=os.environ.get("TMPDIR", "."),
        seed=records.seed(),
        # Longer rows would be cut silently.
        max_length=None,
        save_strategy="no",
        report_to=["none"],
        disable_tqdm=True,
    )
    return parser.parse_args_into_dataclasses()


def processor(folder):
    # ablate resizes images as Pillow does.
    loaded = AutoProcessor.from_pretrained(folder, backend="pil")
    if not isinstance(loaded, ProcessorMixin):
        raise SystemExit("this recipe trains vision-language models, and the checkpoint has no image processor")
    return loaded


def model(folder, options):
    sharded = {"distributed_config": DistributedConfig(fsdp_size=options.fsdp_size)} if options.fsdp_size > 1 else {}
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, **sharded)
    for pattern in options.freeze:
        matching = [parameter for name, parameter in loaded.named_parameters() if fnmatch.fnmatch(name, pattern)]
        if not matching:
            raise SystemExit(f"--freeze: no parameter is named `{pattern}`")
        for parameter in matching:
            parameter.requires_grad_(False)
    return loaded


def dataset(examples, sources):
    """A data set of texts. The images of the records that they come from are opened when they are needed."""
    packs = records.Images()
    rows = [{**example, "images": image_keys(source)} for example, source in zip(examples, sources)]

    def open_images(batch):
        return {**batch, "images": [[packs.open(key) for key in row] for row in batch["images"]]}

    return Dataset.from_list(rows).with_transform(open_images)


class CountTargets:
    """Logs the number of tokens in the loss so far. Mixed into a trainer, which does not count them."""

    targets = 0

    def training_step(self, model, inputs, *more):
        mask = inputs["completion_mask"] if "completion_mask" in inputs else inputs["labels"] != -100
        self.targets += mask[:, 1:].sum().item()
        return super().training_step(model, inputs, *more)

    def log(self, logs, *more):
        if "loss" in logs:
            total = torch.tensor(self.targets, device=self.accelerator.device)
            logs["targets"] = self.accelerator.reduce(total).item()
        super().log(logs, *more)


# Fields of a curve, and their names in TRL's log.
CURVE = {
    "step": "step",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "gradient_norm": "grad_norm",
    "tokens": "targets",
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
}


def save(trainer):
    """Writes the checkpoint and the curve."""
    trainer.save_model("model")
    if trainer.is_world_process_zero():
        # It has the paths and the time of this run.
        Path("model/training_args.bin").unlink(missing_ok=True)
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        curve = [{name: entry[key] for name, key in CURVE.items() if key in entry} for entry in logged]
        records.write("curve.jsonl", curve)
