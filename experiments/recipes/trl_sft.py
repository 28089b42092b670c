"""Supervised fine-tuning with TRL: reads `base`, `rows.jsonl` and `images/`, writes `model` and `curve.jsonl`.

Options are those of `trl.SFTConfig`, of `training.Options` and of `Options`.
"""

from dataclasses import dataclass, field

import records
import training
from conversations import Chat
from trl import SFTConfig, SFTTrainer


@dataclass
class Options(training.Options):
    mask_history: bool = field(default=False, metadata={"help": "the loss leaves out responses of earlier turns"})


class Trainer(training.CountTargets, SFTTrainer):
    pass


def main():
    options, config = training.arguments(Options, SFTConfig)
    processor = training.processor("base")
    chat = Chat(processor)
    rows = records.read("rows.jsonl")
    with_history = sum(bool(row.get("history")) for row in rows)
    if with_history and not options.mask_history:
        raise SystemExit(
            f"{with_history} rows have earlier turns, and this recipe trains on the last response only: add "
            "`--mask_history true` if that is what you want (`mask_history = true` in a stage of kind `sft`)"
        )
    examples = [
        {"prompt": chat.prompt(row, row["prompt"]), "completion": chat.response(row, row["response"])} for row in rows
    ]
    trainer = Trainer(
        model=training.model("base", options),
        args=config,
        train_dataset=training.dataset(examples, rows),
        processing_class=processor,
    )
    trainer.train()
    training.save(trainer)


if __name__ == "__main__":
    main()
