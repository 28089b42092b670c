"""What is minimised: the mean of `-log p` over a batch's learned tokens, TRL's preference losses by TRL's code, and losses with
token weights, which TRL has not."""

import math
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import add_fused_lm_head


def targets(row):
    return sum(row["loss"][1:])


def seen(rows, ids, images):
    """What a model is given of the images of rows."""
    shown = [images[row["image"]] for row in rows if row["image"]]
    if not shown:
        return {}
    found = {key: torch.cat([image[key] for image in shown]) for key in shown[0] if key not in ["image_token", "kinds"]}
    if "kinds" in shown[0]:
        found[shown[0]["kinds"]] = (ids == shown[0]["image_token"]).int()
    return found


def learned(model, row, images):
    """Log-probabilities of the learned tokens of a row."""
    ids = torch.tensor([row["ids"]])
    log_probs = model(input_ids=ids, use_cache=False, **seen([row], ids, images)).logits[0, :-1].log_softmax(-1)
    each = log_probs.gather(1, ids[0, 1:, None])[:, 0]
    return each[torch.tensor(row["loss"][1:]) == 1]


def cross_entropy(model, rows, examples, images):
    """Row after row without padding; the mean is over the tokens of the whole batch."""
    total = 0.0
    for row in (rows[example] for example in examples):
        total = total - learned(model, row, images).sum()
    return total / sum(targets(rows[example]) for example in examples)


@dataclass
class Variant:
    name: str
    # As ablate writes it; `types` and `weights` as TRL does.
    loss: dict
    types: list
    weights: list
    # Share of pairs whose preference is taken the wrong way round.
    smoothing: float = 0.0


VARIANTS = [
    Variant("dpo-sigmoid", {"loss": "sigmoid", "beta": 0.1}, ["sigmoid"], [1.0]),
    # TRL 1 has no such term; it is its sigmoid loss of both orders.
    Variant("dpo-smoothed", {"loss": "sigmoid", "beta": 0.1, "label_smoothing": 0.2}, ["sigmoid"], [1.0], 0.2),
    Variant("dpo-hinge", {"loss": "hinge", "beta": 0.1}, ["hinge"], [1.0]),
    Variant("dpo-ipo", {"loss": "ipo", "beta": 0.5}, ["ipo"], [1.0]),
    Variant("dpo-sft", {"loss": "sigmoid", "beta": 0.1, "sft_weight": 0.3}, ["sigmoid", "sft"], [1.0, 0.3]),
]


# Weights that fall from 1 at the first token of a response to 0 at token `horizon`.
WEIGHTS = {
    "cosine": lambda token, horizon: 0.5 + 0.5 * math.cos(math.pi * token / horizon),
    "linear": lambda token, horizon: 1 - token / horizon,
}
WEIGHTED = [
    {"name": "dpo-cosine", "loss": "sigmoid", "beta": 0.1, "token_weights": {"cosine": 8}},
    {"name": "dpo-linear", "loss": "sigmoid", "beta": 0.1, "token_weights": {"linear": 8}},
    {"name": "dpo-linear-ipo", "loss": "ipo", "beta": 0.5, "token_weights": {"linear": 8}},
]


def weighted(model, reference, pairs, images, variant):
    """DPO or IPO of weighted log-ratios. IPO takes their weighted mean."""
    ((shape, horizon),) = variant["token_weights"].items()

    def ratio(row):
        with torch.no_grad():
            base = learned(reference, row, images)
        ratios = learned(model, row, images) - base
        by_token = [WEIGHTS[shape](token, horizon) if token < horizon else 0.0 for token in range(len(ratios))]
        by_token = torch.tensor(by_token)
        total = (by_token * ratios).sum()
        return total / by_token.sum() if variant["loss"] == "ipo" else total

    h = torch.stack([ratio(pair["chosen"]) - ratio(pair["rejected"]) for pair in pairs])
    if variant["loss"] == "ipo":
        return ((h - 1 / (2 * variant["beta"])) ** 2).mean()
    return -torch.nn.functional.logsigmoid(variant["beta"] * h).mean()


class Trl(DPOTrainer):
    """TRL's trainer with what its loss needs and no more: no data sets, no loop."""

    def __init__(self, model, reference, variant):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        add_fused_lm_head(reference)
        self.model, self.ref_model, self.variant = model, reference, variant
        self.accelerator = Accelerator(cpu=True)
        self.args = SimpleNamespace(gradient_checkpointing_kwargs=None, gradient_checkpointing=False)
        self.loss_types, self.loss_weights = variant.types, variant.weights
        self.beta, self.label_smoothing = variant.loss["beta"], 0.0
        self.ld_alpha, self.f_divergence_type = None, "reverse_kl"
        self.use_weighting = self.precompute_ref_logps = self.aux_loss_enabled = False
        self._metrics, self._total_train_tokens, self._tp_size = {"train": defaultdict(list)}, 0, 1

    def loss(self, pairs, examples, images):
        chosen = [pairs[example]["chosen"] for example in examples]
        rejected = [pairs[example]["rejected"] for example in examples]
        right = self._compute_loss(self.model, padded(chosen + rejected, images), False)
        if not self.variant.smoothing:
            return right
        wrong = self._compute_loss(self.model, padded(rejected + chosen, images), False)
        return (1 - self.variant.smoothing) * right + self.variant.smoothing * wrong


def padded(rows, images):
    """Rows of a batch as TRL's collator lays them out: padded on the right."""
    longest = max(len(row["ids"]) for row in rows)

    def filled(key, value):
        return torch.tensor([key(row) + [value] * (longest - len(row["ids"])) for row in rows])

    batch = {
        "input_ids": filled(lambda row: row["ids"], 0),
        "attention_mask": filled(lambda row: [1] * len(row["ids"]), 0),
        "completion_mask": filled(lambda row: row["loss"], 0),
    }
    return {**batch, **seen(rows, batch["input_ids"], images)}
