"""Preference optimization with TRL: reads `policy`, `reference`, `pairs.jsonl` and `images/`, writes `model` and
`curve.jsonl`.

Options are those of `trl.DPOConfig`, and the two of `training.Options`.
"""

import records
import training
from trl import DPOConfig, DPOTrainer


class Trainer(training.CountTargets, DPOTrainer):
    pass


def main():
    options, config = training.arguments(DPOConfig)
    processor = training.processor("policy")
    chat = records.Chat(processor)
    pairs = records.read("pairs.jsonl")
    examples = [
        {
            "prompt": chat.prompt(pair["prompt"], pair.get("image")),
            "chosen": chat.response(pair["chosen"], pair["chosen_cut"]),
            "rejected": chat.response(pair["rejected"], pair["rejected_cut"]),
        }
        for pair in pairs
    ]
    trainer = Trainer(
        model=training.model("policy", options),
        ref_model=training.model("reference", options),
        args=config,
        train_dataset=training.dataset(examples, [pair.get("image") for pair in pairs]),
        processing_class=processor,
    )
    trainer.train()
    training.save(trainer)


if __name__ == "__main__":
    main()
