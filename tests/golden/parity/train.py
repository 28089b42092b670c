"""Training: torch's AdamW, transformers' schedules, TRL's preference losses, PEFT's adapters, from weights and batches on
file.

    python tests/golden/parity/train.py          # writes tests/golden/train, which is committed
    python tests/golden/parity/train.py FOLDER [CASE...]
"""

import math
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import fixed
import checkpoint
import expect
import losses
import pictures
import templates
import tokens
import torch
from cases import Case, eyes, gemma, halves, interleaved, pixels, qwen3_eyes, qwen_eyes, rope, text
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import get_scheduler

STEPS = 20
# Preferences are learned sooner than words.
SFT_LR, DPO_LR = 2e-3, 3e-4
OPTIMIZER = {
    "schedule": "linear",
    "warmup": 0.2,
    "final_lr": 0.1,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.01,
    "clip": 1.0,
}
# Cosine schedules that end at zero.
COSINE = {**OPTIMIZER, "schedule": "cosine", "warmup": 0.1, "final_lr": 0.0}
COLD = {**COSINE, "warmup": 0.0}
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

# Families whose own parts are new: only the runs of `brief`.
BRIEF = [
    Case(
        "smolvlm",
        "llama",
        text(16, 4, 2, 24, positions=128, vocab=322),
        "smolvlm",
        "smolvlm",
        dtype="f32",
        whole="smolvlm",
        vision="smolvlm",
        eyes=eyes(12, 2, 16, 2, 20, 5),
        joint=dict(scale_factor=2),
        pixels="smolvlm",
        cut=dict(do_image_splitting=False),
        pictures=("wide", "tall", "square"),
    ),
    Case(
        "internvl",
        "qwen2",
        text(16, 4, 2, 24, positions=128, vocab=322, tie_word_embeddings=True),
        "internvl",
        "internvl",
        dtype="f32",
        whole="internvl",
        vision="internvl",
        eyes=eyes(12, 2, 16, 2, 20, 5, attention_bias=True),
        joint=dict(image_seq_length=4),
        pixels="internvl",
        pictures=("wide", "tall", "square"),
    ),
]
BRIEF += [
    Case(
        "qwen2-vl",
        "",
        text(16, 2, 1, 24, positions=128, vocab=307, rope_parameters=rope("default", 1e6, mrope_section=[1, 1, 2])),
        "qwen2vl",
        "qwen2-vl",
        dtype="f32",
        whole="qwen2_vl",
        eyes=qwen_eyes(4, depth=2, embed_dim=12, hidden_size=16, num_heads=3, mlp_ratio=2),
        cut=pixels(256, 768),
        pictures=("wide", "tall", "square"),
    ),
    Case(
        "qwen2.5-vl",
        "",
        text(16, 2, 1, 24, positions=128, vocab=307, rope_parameters=rope("default", 1e6, mrope_section=[2, 1, 1])),
        "qwen2vl",
        "qwen2-vl",
        dtype="f32",
        whole="qwen2_5_vl",
        eyes=qwen_eyes(
            4,
            depth=2,
            hidden_size=12,
            out_hidden_size=16,
            intermediate_size=16,
            num_heads=3,
            window_size=16,
            fullatt_block_indexes=[1],
        ),
        cut=pixels(256, 768),
        pictures=("wide", "tall", "square"),
    ),
]
BRIEF += [
    Case(
        "gemma3",
        "gemma3",
        text(16, 2, 1, 24, positions=128, vocab=341, query_pre_attn_scalar=10, **gemma(8, window=6, every=2, scaling=2.0)),
        "gemma3",
        "gemma3",
        dtype="f32",
        whole="gemma3",
        vision="siglip",
        eyes=eyes(12, 2, 16, 2, 20, 5, vision_use_head=False),
        joint=dict(mm_tokens_per_image=4),
        pixels="gemma3",
        pictures=("wide", "tall", "square"),
    ),
    Case(
        "qwen3-vl",
        "",
        text(16, 2, 1, 24, positions=128, vocab=307, head_dim=8, rope_parameters=interleaved(5e6, 2, 1, 1)),
        "qwen2vl",
        "qwen3-vl",
        dtype="f32",
        whole="qwen3_vl",
        eyes=qwen3_eyes(4, 12, 3, 16, 25, [0, 1], depth=2),
        joint=dict(tie_word_embeddings=True),
        cut=halves(256, 768),
        pictures=("wide", "tall", "square"),
    ),
]
# Features of an image.
FEATURES = {"smolvlm": 4, "internvl": 4, "gemma3": 4}
# The input that says which tokens are images, for the models that need it.
KINDS = {"gemma3": "token_type_ids", **dict.fromkeys(checkpoint.QWEN, "mm_token_type_ids")}


def rates(settings, steps):
    """Learning rates by step, as shares of the highest. The decay is that of transformers. Its warm-up begins at 0; here it is
    one step ahead, and the decay ends at `final_lr` instead of 0."""
    warm, lowest = math.ceil(settings["warmup"] * steps), settings["final_lr"]
    none = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(settings["schedule"], none, warm, steps)
    found = []
    for step in range(steps):
        decay = schedule.get_last_lr()[0]
        found.append((step + 1) / warm if step < warm else lowest + (1 - lowest) * decay)
        none.step()
        schedule.step()
    return found


def row(chance, counts, image, image_token, prompt=None):
    """Token ids, which of them are learned, and the picture."""
    if prompt is None:
        prompt = [1] + [image_token] * (counts[image] if image else 0)
        prompt += [chance.randrange(3, 290) for _ in range(chance.randint(2, 9))]
    answer = [chance.randrange(3, 290) for _ in range(chance.randint(3, 17))]
    return {"ids": prompt + answer, "loss": [0] * len(prompt) + [1] * len(answer), "image": image}


def data(case, image_token, counts):
    """Rows, every third of which has no picture, and pairs of rows with a common prompt."""
    chance = random.Random(case.name)
    rows, pairs = [], []
    for index in range(24):
        image = case.pictures[index % 3] if case.whole and index % 3 else None
        rows.append(row(chance, counts, image, image_token))
    for index in range(16):
        image = case.pictures[index % 3] if case.whole else None
        chosen = row(chance, counts, image, image_token)
        prompt = chosen["ids"][: chosen["loss"].index(1)]
        pairs.append({"chosen": chosen, "rejected": row(chance, counts, image, image_token, prompt)})
    return {"rows": rows, "pairs": pairs}


def batches(count, size):
    """Which examples each step takes: in order, from the start again when they end."""
    return [[(step * size + at) % count for at in range(size)] for step in range(STEPS)]


def shuffled(count, size, epochs, drop):
    """The batches of torch's loader; the last one of an epoch is smaller, or it is dropped."""
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(range(count), size, shuffle=True, drop_last=drop, generator=generator, collate_fn=list)
    return [batch for _ in range(epochs) for batch in loader]


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


def train(model, lr, plan, step_loss, settings=OPTIMIZER):
    """Losses before each step, learning rates, and norms of the gradients before they are cut."""
    made = optimizer(model)
    found = {"optimizer": {"lr": lr, **settings}, "batches": plan, "losses": [], "rates": [], "norms": []}
    for rate, examples in zip(rates(settings, len(plan)), plan):
        for group in made.param_groups:
            group["lr"] = lr * rate
        made.zero_grad()
        loss = step_loss(model, examples)
        loss.backward()
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found["norms"].append(torch.nn.utils.clip_grad_norm_(learned, settings["clip"]).item())
        found["losses"].append(loss.item())
        found["rates"].append(lr * rate)
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


def incomplete(case, folder, rows, images):
    """24 rows in batches of ten: four epochs with the last four rows, and six without."""
    for name, epochs, drop, settings in [("sft-keep", 4, False, COLD), ("sft-drop", 6, True, COSINE)]:
        model = checkpoint.load(case, folder).train()
        plan = shuffled(len(rows), 10, epochs, drop)

        def loss(model, examples):
            return losses.cross_entropy(model, rows, examples, images)

        about = {"batch": 10, "epochs": epochs, "last_batch": "drop" if drop else "keep"}
        record(folder, name, {**about, **train(model, SFT_LR, plan, loss, settings)}, saved(model))


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


def weighted(case, folder, pairs, images, variant):
    model, reference = checkpoint.load(case, folder).train(), checkpoint.load(case, folder)
    plan = batches(len(pairs), 4)

    def loss(model, examples):
        return losses.weighted(model, reference, [pairs[example] for example in examples], images, variant)

    record(folder, variant["name"], {"loss": variant, **train(model, DPO_LR, plan, loss)}, saved(model))


# The words of the prompt and of both responses, and where the responses are cut.
CUTS = [
    ("How many?", "The answer is that there are three red circles.", "two blue squares", {"words": 4}),
    ("Where is it?", "on the  left\nside of the picture", "The cat is on the mat, and the dog is not.", {"words": 4}),
    ("What colour?", "red", "The answer is blue.", {"words": 4}),
    ("Is it?", "The cat is on the mat.", "Die Antwort ist, dass das Quadrat links liegt.", {"tokens": 7}),
    ("Which one?", "100% of the circles", "def area(width, height)", {"tokens": 7}),
    ("Count them.", "1,234.56", "three", {"tokens": 7}),
]


def cut_pairs(tokenizer):
    """Pairs of texts of which the beginnings are trained on. A response that was cut has no end."""

    def kept(text, limit):
        if "words" in limit:
            found = re.match(rf"\s*(?:\S+\s+){{0,{limit['words'] - 1}}}\S+", text).group()
            return found, found != text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokenizer.decode(ids[: limit["tokens"]]), len(ids) > limit["tokens"]

    def sequence(prompt, text, limit):
        text, cut = kept(text, limit)
        chat = [{"role": "user", "content": prompt}]
        opening = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        opening = tokenizer(opening, add_special_tokens=False)["input_ids"]
        answer = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * (not cut)
        return {"text": text, "cut": cut, "ids": opening + answer, "loss": [0] * len(opening) + [1] * len(answer)}

    def pair(prompt, chosen, rejected, limit):
        texts = {"prompt": prompt, "chosen_text": chosen, "rejected_text": rejected, "truncate": limit}
        sides = {"chosen": sequence(prompt, chosen, limit), "rejected": sequence(prompt, rejected, limit)}
        return texts | {name: {**side, "image": None} for name, side in sides.items()}

    return [pair(*cut) for cut in CUTS]


def cut(case, folder, tokenizer):
    pairs = cut_pairs(tokenizer)
    model, reference = checkpoint.load(case, folder).train(), checkpoint.load(case, folder)
    variant = losses.VARIANTS[0]
    trainer = losses.Trl(model, reference, variant)
    plan = batches(len(pairs), 3)
    about = train(model, DPO_LR, plan, lambda model, examples: trainer.loss(pairs, examples, {}))
    record(folder, "dpo-cut", {"loss": variant.loss, "pairs": pairs, **about}, saved(model))


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


def make(case, folder, images, brief):
    tokenizer, ends = tokens.tokenizer(case.tokenizer, templates.TEMPLATES[case.template])
    model = checkpoint.model(case, tokenizer, ends)
    processor = tokenizer if case.whole is None else checkpoint.processor(case, model.config, tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", model.config.tie_word_embeddings)
    fixed.draw(model, 1, torch.float32, tied)
    checkpoint.save(case, model, processor, ends, folder)
    image_token = tokenizer.convert_tokens_to_ids(tokens.image(case.tokenizer))
    values, counts = {}, {}
    if case.whole:
        kind = checkpoint.image_processor(case)
        values = {name: dict(kind(pictures.picture(name), return_tensors="pt")) for name in case.pictures}
        written = {}
        for name, value in values.items():
            if "image_grid_thw" in value:
                counts[name] = value["image_grid_thw"].prod().item() // kind.merge_size**2
                written[name] = expect.whole_image(kind, value)
            else:
                counts[name] = FEATURES.get(case.whole, 16)
                written[name] = value["pixel_values"].reshape(value["pixel_values"].shape[-3:])
                values[name] = {"pixel_values": value["pixel_values"]}
            if case.whole in KINDS:
                values[name].update(image_token=image_token, kinds=KINDS[case.whole])
        fixed.write_tensors(folder / "pixel_values.safetensors", written)
    made = data(case, image_token, counts)
    fixed.write_json(folder / "data.json", made, width=2)
    sft(case, folder, made["rows"], values)
    if brief:
        dpo(case, folder, made["pairs"], values, losses.VARIANTS[0])
        lora(case, folder, "lora-all", made["rows"], values)
        return
    for variant in losses.VARIANTS:
        dpo(case, folder, made["pairs"], values, variant)
    incomplete(case, folder, made["rows"], values)
    for variant in losses.WEIGHTED:
        weighted(case, folder, made["pairs"], values, variant)
    if not case.whole:
        cut(case, folder, tokenizer)
    for name in TARGETS:
        lora(case, folder, name, made["rows"], values)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "train"
    pictures.write(folder / "images")
    for case in CASES + BRIEF:
        if not sys.argv[2:] or case.name in sys.argv[2:]:
            make(case, folder / case.name, folder / "images", case in BRIEF)


if __name__ == "__main__":
    main()
