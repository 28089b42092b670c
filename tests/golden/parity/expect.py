"""What transformers computes for a folder: features, logits, log-probabilities, generations, chats."""

import copy
from pathlib import Path

import checkpoint
import templates
import tokens
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

NEW_TOKENS = 64
# Rounding moves logits by 1e-5: no token of a greedy path may be decided by less than this.
MARGIN = 5e-3
SENTENCES = [
    "The red square is on the left side of the blue circle, and there are three of them.",
    "Красный квадрат слева от синего круга; 红色的方块在蓝色圆圈的左边。",
    "How many are there? 12 + 34 = 46, isn't it?\n\tYes: größer als naïve.",
]


# Of a token, whether it is text or an image: Qwen2-VL counts positions by it, and in Gemma 3 an image sees all of itself.
KINDS = ["mm_token_type_ids", "token_type_ids"]
# What a processor makes of images.
SEEN = ["pixel_values", "image_sizes", "pixel_attention_mask", "image_grid_thw"]


def sequences(case):
    """Name, prompt, the pictures in it, and whether it is continued."""
    words = (" ".join(SENTENCES) + " ").split(" ") * 10
    texts = [
        ("short", "What is it", [], True),
        ("mixed", SENTENCES[1] + SENTENCES[2], [], False),
        ("long", " ".join(words[: case.long]), [], case.whole is None),
    ]
    if case.whole is None:
        return texts
    first, second = case.pictures[:2]
    image = tokens.image_text(case.tokenizer)
    seen = [
        ("image", f"USER: {image}\nWhat is on the left? ASSISTANT:", [first], True),
        ("images", f"{image} and {image}: which is larger?", [second, first], False),
    ]
    if case.whole in checkpoint.SPLIT or case.whole in ["internvl", "gemma3"]:
        four = [case.pictures[at % len(case.pictures)] for at in range(4)]
        seen.append(("four", f"{image}{image} before {image}, then\n{image}\n\nWhich is red?", four, False))
    if case.tokenizer == "qwen2vl":
        # One after the other, and two equal ones.
        four = [case.pictures[at % len(case.pictures)] for at in range(3)] + [first]
        seen.append(("four", f"Look: {image}{image}{image} {image}. Which?", four, True))
    return seen + texts[:2]


class Reader:
    """A folder's processor, read back as a user would, with the images where they lie."""

    def __init__(self, case, folder, pictures):
        self.case, self.pictures = case, pictures
        if case.whole is None:
            self.processor = self.tokenizer = AutoTokenizer.from_pretrained(folder)
            return
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.other = AutoImageProcessor.from_pretrained(folder, backend="torchvision")

    def image(self, name):
        return Image.open(Path(self.pictures) / f"{name}.png")

    def inputs(self, prompt, images):
        if not images:
            return {"input_ids": self.tokenizer(prompt, return_tensors="pt")["input_ids"]}
        pictures = [self.image(name) for name in images]
        made = self.processor(text=prompt, images=pictures, return_tensors="pt", **self.options())
        return {key: made[key] for key in ["input_ids", *self.kinds(), *SEEN] if key in made}

    def kinds(self):
        """The tokenizers of other families count their texts so."""
        return KINDS if self.case.whole == "gemma3" else KINDS[:1]

    def options(self):
        """Gemma 3's processor cuts images only when it is asked to."""
        return {name: value for name, value in self.case.cut.items() if "pan_and_scan" in name}


@torch.no_grad()
def generate(model, inputs):
    """The greedy answer, and by how much its closest decision was won: by nothing if an image token is in it, or if
    it would be another without a cache."""
    length = inputs["input_ids"].shape[1]
    whole = model.generate(
        **inputs, attention_mask=torch.ones_like(inputs["input_ids"]), do_sample=False, max_new_tokens=NEW_TOKENS
    )
    if getattr(model.config, "image_token_id", None) in whole[0, length:].tolist():
        return [], 0.0
    # What was added is text.
    added = whole.shape[1] - length
    kinds = {key: torch.nn.functional.pad(inputs[key], (0, added)) for key in KINDS if key in inputs}
    logits = model(**{**inputs, **kinds, "input_ids": whole}, use_cache=False).logits[0, length - 1 : -1]
    best = logits.topk(2).values
    if not torch.equal(logits.argmax(-1), whole[0, length:]):
        return [], 0.0
    return whole[0, length:].tolist(), (best[:, 0] - best[:, 1]).min().item()


def suits(case, model, reader, ends):
    """Whether the weights' greedy paths are clear and of the wanted length."""
    for _, prompt, images, continued in sequences(case):
        if not continued:
            continue
        inputs = reader.inputs(prompt, images)
        answer, margin = generate(model, inputs)
        if margin < MARGIN:
            return False
        ended = answer[-1] in ends
        if ended != case.stops or (case.stops and len(answer) < 4):
            return False
    return True


@torch.no_grad()
def image(model, reader, name, tensors):
    """An image's pixel values and features, and how far torchvision's resizing is off."""
    picture = reader.image(name)
    # InternVL's processor asks for tiles, its image processor does not. Both return them without a list per image.
    options = dict(return_tensors="pt", **(dict(crop_to_patches=True) if reader.case.whole == "internvl" else {}))
    flat = reader.case.whole in ["internvl", "gemma3"]
    made = reader.processor.image_processor(images=[picture], **options)
    values = made["pixel_values"]
    if "image_grid_thw" in made:
        tensors[f"{name}.pixel_values"] = whole_image(reader.processor.image_processor, made)
    else:
        tensors[f"{name}.pixel_values"] = values if flat else values[0]
    seen = {key: made[key] for key in SEEN if key in made}
    features = model.get_image_features(return_dict=True, **seen).pooler_output
    features = features.flatten(0, 1) if flat else features[0]
    tensors[f"{name}.features"] = features
    other = reader.other(images=[picture], **options)["pixel_values"]
    return {
        "width": picture.width,
        "height": picture.height,
        "tokens": features.shape[0],
        "torchvision_off_by": round((other - values).abs().max().item(), 6),
        **({"tile": list(tensors[f"{name}.pixel_values"].shape[1:])} if "image_grid_thw" in made else {}),
    }


def whole_image(kind, made):
    """Qwen2-VL's patches, which hold an image once per frame, as an image again: (3, height, width)."""
    _, rows, columns = made["image_grid_thw"][0].tolist()
    merge, patch, frames = kind.merge_size, kind.patch_size, kind.temporal_patch_size
    cells = made["pixel_values"].view(rows // merge, columns // merge, merge, merge, 3, frames, patch, patch)
    assert cells.eq(cells[:, :, :, :, :, :1]).all()
    return cells[:, :, :, :, :, 0].permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)


@torch.no_grad()
def sequence(model, reader, name, prompt, images, continued, every, tensors):
    inputs = reader.inputs(prompt, images)
    ids = inputs["input_ids"][0]
    logits = model(**inputs, use_cache=False).logits[0]
    positions = sorted({*range(0, len(ids), every), len(ids) - 2, len(ids) - 1})
    tensors[f"{name}.logits"] = logits[positions]
    start = max(1, len(ids) - 12)
    log_probs = logits[start - 1 : -1].log_softmax(-1).gather(1, ids[start:, None])[:, 0]
    found = {
        "prompt": prompt,
        "images": images,
        "ids": ids.tolist(),
        "positions": positions,
        "span": [start, len(ids)],
        "log_probs": log_probs.tolist(),
    }
    if continued:
        found["greedy"], margin = generate(model, inputs)
        found["greedy_text"] = reader.tokenizer.decode(found["greedy"], skip_special_tokens=True)
        found["margin"] = round(margin, 4)
    return found


def chat(case, reader, turns, prompted):
    """A conversation as text and ids, and where the template says so, which of them the assistant wrote."""
    messages = templates.messages(turns, case.whole is not None)
    images = templates.images(turns) if case.whole is not None else []
    options = dict(add_generation_prompt=prompted)
    text = reader.processor.apply_chat_template(messages, tokenize=False, **options)
    marked = "{% generation %}" in templates.TEMPLATES[case.template]
    filled, left = copy.deepcopy(messages), list(images)
    for part in (part for message in filled if images for part in message["content"]):
        if part["type"] == "image":
            part["image"] = reader.image(left.pop(0))
    more = {"processor_kwargs": {"images_kwargs": reader.options()}} if reader.options() else {}
    made = reader.processor.apply_chat_template(
        filled, tokenize=True, return_dict=True, return_assistant_tokens_mask=marked, **options, **more
    )
    found = {"messages": messages, "add_generation_prompt": prompted, "images": images, "text": text}
    found["ids"] = flat(made["input_ids"])
    if marked:
        found["assistant"] = flat(made["assistant_masks"])
    return found


def flat(ids):
    """One row, which processors wrap and tokenizers do not."""
    ids = ids.tolist() if isinstance(ids, torch.Tensor) else ids
    return ids[0] if isinstance(ids[0], list) else ids


def expectations(case, folder, pictures, every, seed):
    reader = Reader(case, folder, pictures)
    model = checkpoint.load(case, folder)
    tensors, images = {}, {}
    if case.whole is not None:
        images = {name: image(model, reader, name, tensors) for name in case.pictures}
    read = {each[0]: sequence(model, reader, *each, every, tensors) for each in sequences(case)}
    chats = {
        name: chat(case, reader, turns, prompted)
        for name, (turns, prompted) in templates.CONVERSATIONS.items()
    }
    about = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "seed": seed,
        "dtype": case.dtype,
        "images": images,
        "sequences": read,
        "chats": chats,
    }
    return about, tensors
