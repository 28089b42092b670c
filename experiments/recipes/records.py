"""What the recipes share: records, prompts, images and conversations as ablate has them."""

import io
import json
import os
import string
import tarfile
from pathlib import Path

# A result must not depend on what a hub serves today.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Instructions of ablate's templates: after a question, and after one whose answer is the letter of an option.
TEMPLATES = {
    "direct": ("Answer briefly.", "Answer with the letter."),
    "cot": ("Explain first, then answer.", "Explain first, then answer with the letter."),
    "bare": ("", ""),
}

# Stands for a response when the template is examined. No text has this character.
PROBE = "\U000f0003"


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write(path, records):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def of_datasets(items, names):
    """The items of these data sets; all, if there are no names."""
    missing = set(names) - {item["dataset"] for item in items}
    if missing:
        raise SystemExit(f"no item has the data set {', '.join(sorted(missing))}")
    return [item for item in items if not names or item["dataset"] in names]


def seed():
    """The seed of the instance, in the 32 bits that numpy accepts."""
    return int(os.environ.get("ABLATE_SEED", "0")) % 2**32


def render(item, template):
    """The user's turn of an item: question, options, instruction."""
    text, letter = TEMPLATES[template]
    options = [f"{name} {option}" for name, option in zip(string.ascii_uppercase, item.get("options") or [])]
    instruction = letter if item["answer_type"] in ("letter", "mmbench") else text
    return "\n".join([item["question"], *options, *([instruction] if instruction else [])])


class Images:
    """The image packs (`*.tar`) in a folder. A record names an image `PACK/MEMBER`, where PACK is the beginning of the
    blake3 hash of the tar file."""

    def __init__(self, folder="images"):
        from blake3 import blake3

        paths = sorted(Path(folder).glob("*.tar"))
        self.packs = {blake3(path.read_bytes()).hexdigest()[:16]: path for path in paths}
        # By process, because the workers of a data loader would share the position in the file.
        self.open_packs = {}

    def encoded(self, key):
        """The bytes of an image's file."""
        pack, member = key.split("/", 1)
        if pack not in self.packs:
            raise SystemExit(f"the image `{key}` is in none of the packs {[str(path) for path in self.packs.values()]}")
        place = (os.getpid(), pack)
        if place not in self.open_packs:
            self.open_packs[place] = tarfile.open(self.packs[pack])
        return self.open_packs[place].extractfile(member).read()

    def open(self, key):
        """An image, rotated by its EXIF orientation as ablate does."""
        from PIL import Image, ImageOps

        return ImageOps.exif_transpose(Image.open(io.BytesIO(self.encoded(key)))).convert("RGB")


class Chat:
    """The conversation format of a model, with the same targets as in ablate: a response and its end of turn."""

    def __init__(self, processor):
        self.processor = processor
        turns = [user("?", False), {"role": "assistant", "content": [{"type": "text", "text": PROBE}]}]
        prompt, whole = self.prompt("?", False), self.render(turns, False)
        if not whole.startswith(prompt) or whole.count(PROBE) != 1:
            raise SystemExit("the chat template does not write a conversation as its prompt followed by the response")
        before, after = whole[len(prompt) :].split(PROBE)
        eos = processor.tokenizer.eos_token
        self.before, self.after = before, after.split(eos)[0] + eos

    def prompt(self, text, image):
        """The text before a response."""
        return self.render([user(text, image)], True)

    def response(self, text, cut=False):
        """The text of a response. One that was cut has no end of turn."""
        return self.before + text + ("" if cut else self.after)

    def render(self, turns, opens_response):
        return self.processor.apply_chat_template(turns, add_generation_prompt=opens_response, tokenize=False)


def user(text, image):
    """The user's turn. The image comes first, if there is one."""
    return {"role": "user", "content": [{"type": "image"}] * bool(image) + [{"type": "text", "text": text}]}
