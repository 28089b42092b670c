"""Conversations with several images and several turns, as transformers computes them for checkpoints of `hub`.

    python tests/golden/make_conversations.py

writes `tests/golden/conversations.json`. The versions are in `requirements.txt`. For each checkpoint:

- `chat`: a conversation of three turns. `ids` are the tokens, `assistant` is the mask of `{% generation %}` blocks where the
  template has them, and `log_probs` are the natural logarithms of the probabilities of all tokens but the first.
- `question`: a question about two images (or none). `ids` is the prompt, `greedy` are up to 16 tokens, and `margin` is the
  smallest difference between the two largest logits of a step.
"""

import json
import sys
from pathlib import Path

# `statistics.py` next to this script is not python's module of that name.
sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent.resolve()]

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

GOLDEN = Path(__file__).parent
CASES = ["llava", "llava-next", "llava-siglip", "qwen2", "llama3", "mistral"]
NEW_TOKENS = 16


def text(words):
    return {"type": "text", "text": words}


def image(name):
    return {"type": "image", "image": name}


QUESTION = [{"role": "user", "content": [image("wide"), text("Is it larger than "), image("tall"), text("?")]}]
CHAT = [
    {"role": "user", "content": [image("tall"), image("wide"), text("How many circles are there?")]},
    {"role": "assistant", "content": [text("There are three.")]},
    {"role": "user", "content": [text("And squares?")]},
    {"role": "assistant", "content": [text("Two\n\nof them.")]},
    {"role": "user", "content": [image("tall"), text("And here?")]},
    {"role": "assistant", "content": [text("One, on the left.")]},
]


def flat(ids):
    ids = ids.tolist() if isinstance(ids, torch.Tensor) else ids
    return ids[0] if isinstance(ids[0], list) else ids


class Reader:
    def __init__(self, folder):
        self.vision = "vision_config" in json.loads((folder / "config.json").read_text())
        kind = AutoModelForImageTextToText if self.vision else AutoModelForCausalLM
        self.model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.processor = (AutoProcessor if self.vision else AutoTokenizer).from_pretrained(folder)
        if self.vision:
            self.processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    def inputs(self, messages, prompted):
        """The inputs of the model, and the mask of the assistant."""
        if not self.vision:
            words = lambda message: "".join(part.get("text", "") for part in message["content"])
            messages = [{"role": message["role"], "content": words(message)} for message in messages]
        load = lambda part: image(Image.open(GOLDEN / "hub" / "images" / f"{part['image']}.png")) if "image" in part else part
        if self.vision:
            messages = [{**message, "content": [load(part) for part in message["content"]]} for message in messages]
        template = self.processor.chat_template
        made = self.processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=prompted,
            return_assistant_tokens_mask="{% generation %}" in template,
        )
        mask = made.get("assistant_masks")
        keys = ["input_ids", "pixel_values", "image_sizes"]
        return {key: made[key] for key in keys if key in made}, None if mask is None else flat(mask)


@torch.no_grad()
def chat(reader):
    inputs, mask = reader.inputs(CHAT, False)
    ids = inputs["input_ids"][0]
    logits = reader.model(**inputs, use_cache=False).logits[0]
    log_probs = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return {"ids": ids.tolist(), "assistant": mask, "log_probs": [round(value, 6) for value in log_probs.tolist()]}


@torch.no_grad()
def question(reader):
    inputs, _ = reader.inputs(QUESTION, True)
    length = inputs["input_ids"].shape[1]
    whole = reader.model.generate(
        **inputs,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
    )
    logits = reader.model(**{**inputs, "input_ids": whole}, use_cache=False).logits[0, length - 1 : -1]
    best = logits.topk(2).values
    assert torch.equal(logits.argmax(-1), whole[0, length:]), "the cache changes a token"
    margin = (best[:, 0] - best[:, 1]).min().item()
    return {"ids": flat(inputs["input_ids"]), "greedy": whole[0, length:].tolist(), "margin": round(margin, 4)}


def main():
    found = {}
    for name in CASES:
        reader = Reader(GOLDEN / "hub" / name)
        found[name] = {"chat": chat(reader), "question": question(reader)}
        print(name, len(found[name]["chat"]["ids"]), found[name]["question"])
    lines = [f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in found.items()]
    (GOLDEN / "conversations.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
