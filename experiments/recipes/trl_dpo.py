"""Preference optimization with TRL: reads `policy`, `reference`, `pairs.jsonl` and `images/`, writes `model` and
`curve.jsonl`.

Options are those of `trl.DPOConfig`, and of `training.Options`.
"""

import records
import training
from conversations import Chat
from trl import DPOConfig, DPOTrainer


class Trainer(training.CountTargets, DPOTrainer):
    pass


def main():
    options, config = training.arguments(training.Options, DPOConfig)
    processor = training.processor("policy")
    chat = Chat(processor)
    pairs = records.read("pairs.jsonl")
    examples = [
        {
            "prompt": chat.prompt(pair, pair["prompt"]),
            "chosen": chat.response(pair, pair["chosen"], pair.get("chosen_cut", False)),
            "rejected": chat.response(pair, pair["rejected"], pair.get("rejected_cut", False)),
        }
        for pair in pairs
    ]
    trainer = Trainer(
        model=training.model("policy", options),
        ref_model=training.model("reference", options),
        args=config,
        train_dataset=training.dataset(examples, pairs),
        processing_class=processor,
    )
    trainer.train()
    training.save(trainer)


if __name__ == "__main__":
    main()
