"""Supervised fine-tuning with TRL: reads `base`, `rows.jsonl` and `images/`, writes `model` and `curve.jsonl`.

Options are those of `trl.SFTConfig`, and the two of `training.Options`.
"""

import records
import training
from trl import SFTConfig, SFTTrainer


class Trainer(training.CountTargets, SFTTrainer):
    pass


def main():
    options, config = training.arguments(SFTConfig)
    processor = training.processor("base")
    chat = records.Chat(processor)
    rows = records.read("rows.jsonl")
    examples = [
        {"prompt": chat.prompt(row["prompt"], row.get("image")), "completion": chat.response(row["response"])}
        for row in rows
    ]
    trainer = Trainer(
        model=training.model("base", options),
        args=config,
        train_dataset=training.dataset(examples, [row.get("image") for row in rows]),
        processing_class=processor,
    )
    trainer.train()
    training.save(trainer)


if __name__ == "__main__":
    main()
