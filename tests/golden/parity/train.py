"""Twenty steps of training: torch's AdamW, TRL's preference losses, PEFT's adapters, from weights and batches on file.

    python tests/golden/parity/train.py          # writes tests/golden/train, which is committed
"""

import random
import shutil
import sys
import tempfile
from pathlib import Path

import fixed
import checkpoint
import losses
import pictures
import templates
import tokens
import torch
from cases import Case, eyes, text
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

STEPS, WARM, LOWEST = 20, 4, 0.1
# Preferences are learned sooner than words.
SFT_LR, DPO_LR = 2e-3, 3e-4
OPTIMIZER = {
    "steps": STEPS,
    "schedule": "linear",
    "warmup": WARM / STEPS,
    "final_lr": LOWEST,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.01,
    "clip": 1.0,
}
LORA = {"rank": 4, "alpha": 8}
TARGETS = {"lora-qv": ["q_proj", "v_proj"], "lora-all": "all-linear"}

CASES = [
    Case(
        "llava",
        "llama",
        text(16, 4, 2, 24, positions=128, vocab=322),
        "llama2",
        "llava",
        dtype="f32",
        whole="llava",
        vision="clip",
        eyes=eyes(12, 2, 16, 3, 20, 5),
        pixels="clip",
        pictures=("wide", "tall", "square"),
    ),
    Case(
        "qwen2",
        "qwen2",
        text(16, 4, 2, 24, positions=128, vocab=297, tie_word_embeddings=True),
        "qwen2",
        "qwen2",
        dtype="f32",
    ),
]


def rate(lr, step):
    """The learning rate at a step counted from 0: a line up over the first steps, then a line down to its tenth."""
    if step < WARM:
        return lr * (step + 1) / WARM
    return lr * (LOWEST + (1 - LOWEST) * (1 - (step + 1 - WARM) / (STEPS - WARM)))


def row(chance, case, image, image_token, prompt=None):
    """Token ids, which of them are learned, and the picture."""
    if prompt is None:
        prompt = [1] + [image_token] * 16 * (image is not None)
        prompt += [chance.randrange(3, 290) for _ in range(chance.randint(2, 9))]
    answer = [chance.randrange(3, 290) for _ in range(chance.randint(3, 17))]
    return {"ids": prompt + answer, "loss": [0] * len(prompt) + [1] * len(answer), "image": image}


def data(case, image_token):
    """Rows, every third of which has no picture, and pairs of rows with a common prompt."""
    chance = random.Random(case.name)
    rows, pairs = [], []
    for index in range(24):
        image = case.pictures[index % 3] if case.whole and index % 3 else None
        rows.append(row(chance, case, image, image_token))
    for index in range(16):
        image = case.pictures[index % 3] if case.whole else None
        chosen = row(chance, case, image, image_token)
        prompt = chosen["ids"][: chosen["loss"].index(1)]
        pairs.append({"chosen": chosen, "rejected": row(chance, case, image, image_token, prompt)})
    return {"rows": rows, "pairs": pairs}


def batches(count, size):
    """Which examples each step takes: in order, from the start again when they end."""
    return [[(step * size + at) % count for at in range(size)] for step in range(STEPS)]


def optimizer(model):
    """Decay on matrices only."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [each for each in learned if each.dim() >= 2], "weight_decay": OPTIMIZER["weight_decay"]},
            {"params": [each for each in learned if each.dim() < 2], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=tuple(OPTIMIZER["betas"]),
        eps=OPTIMIZER["eps"],
    )


def train(model, lr, plan, step_loss):
    """Twenty steps: losses before each, and norms of the gradients before they are cut."""
    made = optimizer(model)
    found = {"optimizer": {"lr": lr, **OPTIMIZER}, "batches": plan, "losses": [], "norms": []}
    for step, examples in enumerate(plan):
        for group in made.param_groups:
            group["lr"] = rate(lr, step)
        made.zero_grad()
        loss = step_loss(model, examples)
        loss.backward()
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found["norms"].append(torch.nn.utils.clip_grad_norm_(learned, OPTIMIZER["clip"]).item())
        found["losses"].append(loss.item())
        made.step()
    return found


def saved(model):
    """The weights under the names that transformers writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def record(folder, name, about, tensors):
    fixed.write_json(folder / f"{name}.json", about, width=1)
    if tensors is not None:
        fixed.write_tensors(folder / f"{name}.safetensors", tensors)


def sft(case, folder, rows, images):
    model = checkpoint.load(case, folder).train()
    plan = batches(len(rows), 8)
    first = losses.cross_entropy(model, rows, plan[0], images)
    first.backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    off = accumulated(model, rows, plan[0], images, gradients)
    model.zero_grad()
    about = train(model, SFT_LR, plan, lambda model, examples: losses.cross_entropy(model, rows, examples, images))
    about["off_in_4_micro_batches"] = off
    record(folder, "sft", about, saved(model))


def accumulated(model, rows, examples, images, whole):
    """How far the gradient of four micro-batches of two rows is from the batch's, relative to its largest entry:
    when each is weighed by its tokens, and when each weighs a quarter."""
    off = {}
    total = sum(losses.targets(rows[example]) for example in examples)
    for name in ["by_tokens", "by_micro_batches"]:
        model.zero_grad()
        for at in range(0, len(examples), 2):
            micro = examples[at : at + 2]
            tokens = sum(losses.targets(rows[example]) for example in micro)
            share = tokens / total if name == "by_tokens" else 0.25
            (losses.cross_entropy(model, rows, micro, images) * share).backward()
        found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        largest = max(each.abs().max() for each in whole.values())
        off[name] = max((found[name] - whole[name]).abs().max() / largest for name in whole).item()
    assert off["by_tokens"] < 1e-5 < off["by_micro_batches"], off
    return off


def dpo(case, folder, pairs, images, variant):
    model, reference = checkpoint.load(case, folder).train(), checkpoint.load(case, folder)
    trainer = losses.Trl(model, reference, variant)
    plan = batches(len(pairs), 4)
    about = train(model, DPO_LR, plan, lambda model, examples: trainer.loss(pairs, examples, images))
    record(folder, variant.name, {"loss": variant.loss, **about}, saved(model))


def lora(case, folder, name, rows, images):
    torch.manual_seed(7)
    base = checkpoint.load(case, folder)
    config = LoraConfig(r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=0.0, target_modules=TARGETS[name])
    model = get_peft_model(base, config).train()
    model.peft_config["default"].base_model_name_or_path = ""
    keep(model, folder / name / "before")
    plan = batches(len(rows), 8)
    about = train(model, SFT_LR, plan, lambda model, examples: losses.cross_entropy(model, rows, examples, images))
    keep(model, folder / name / "after")
    again = PeftModel.from_pretrained(checkpoint.load(case, folder), folder / name / "after")
    record(folder, name, {**LORA, "targets": TARGETS[name], **about}, saved(again.merge_and_unload()))


def keep(model, folder):
    """As PEFT saves an adapter, without the card. Its list of modules comes in any order."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = fixed.json.loads(path.read_text())
    config["target_modules"].sort()
    path.write_text(fixed.json.dumps(config, indent=2) + "\n")


def make(case, folder, images):
    tokenizer, ends = tokens.tokenizer(case.tokenizer, templates.TEMPLATES[case.template])
    model = checkpoint.model(case, tokenizer, ends)
    processor = tokenizer if case.whole is None else checkpoint.processor(case, model.config, tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fixed.draw(model, 1, torch.float32, model.config.get_text_config().tie_word_embeddings)
    checkpoint.save(case, model, processor, ends, folder)
    made = data(case, tokenizer.convert_tokens_to_ids(tokens.IMAGE))
    fixed.write_json(folder / "data.json", made, width=2)
    values = {}
    if case.whole:
        pixels = checkpoint.image_processor(case)
        values = {name: pixels(pictures.picture(name), return_tensors="pt")["pixel_values"] for name in case.pictures}
        fixed.write_tensors(folder / "pixel_values.safetensors", {name: value[0] for name, value in values.items()})
    sft(case, folder, made["rows"], values)
    for variant in losses.VARIANTS:
        dpo(case, folder, made["pairs"], values, variant)
    for name in TARGETS:
        lora(case, folder, name, made["rows"], values)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "train"
    pictures.write(folder / "images")
    for case in CASES:
        make(case, folder / case.name, folder / "images")


if __name__ == "__main__":
    main()
