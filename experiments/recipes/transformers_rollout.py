"""Samples responses with transformers: reads `model`, `items.jsonl` and `images/`, writes `rollouts.jsonl`."""

import argparse

import records
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--template", choices=records.TEMPLATES, default="cot")
    parser.add_argument("--datasets", nargs="+", default=[], help="only items of these data sets")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16, help="questions at a time")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


class Sampler:
    def __init__(self, options):
        # ablate resizes images as Pillow does.
        self.processor = AutoProcessor.from_pretrained("model", backend="pil", padding_side="left")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForImageTextToText.from_pretrained("model", dtype=options.dtype)
        self.model = model.to(device).eval()
        self.chat, self.images = records.Chat(self.processor), records.Images()
        sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
        self.generation = {
            "max_new_tokens": options.max_tokens,
            "do_sample": options.temperature > 0,
            **(sampling if options.temperature > 0 else {}),
        }
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])

    @torch.no_grad()
    def sample(self, turns):
        """One sample for each pair of a prompt and the key of its image."""
        texts = [self.chat.prompt(prompt, image) for prompt, image in turns]
        images = [[self.images.open(image)] for _, image in turns if image]
        inputs = self.processor(
            text=texts, images=images or None, padding=True, add_special_tokens=False, return_tensors="pt"
        ).to(self.model.device)
        found = self.model.generate(**inputs, **self.generation)[:, inputs["input_ids"].shape[1] :]
        return [self.record(ids) for ids in found.tolist()]

    def record(self, ids):
        """A sample without the padding after its end of turn."""
        end = next((at for at, token in enumerate(ids) if token in self.ends), None)
        text = self.processor.tokenizer.decode(ids[:end], skip_special_tokens=True)
        if end is None:
            return {"text": text, "finish": "length", "tokens": len(ids)}
        return {"text": text, "finish": "stop", "tokens": end + 1}


def main():
    options = arguments()
    set_seed(records.seed())
    sampler = Sampler(options)
    items = records.of_datasets(records.read("items.jsonl"), options.datasets)
    turns = [(records.render(item, options.template), item.get("image")) for item in items]
    # A batch has either only questions with an image or only questions without.
    order = sorted(range(len(items)), key=lambda index: turns[index][1] is None)
    samples = [[] for _ in items]
    for start in range(0, len(order), options.batch):
        batch = order[start : start + options.batch]
        for part in ([i for i in batch if turns[i][1]], [i for i in batch if not turns[i][1]]):
            for _ in range(options.samples if part else 0):
                for index, sample in zip(part, sampler.sample([turns[i] for i in part])):
                    samples[index].append(sample)
        print(f"{start + len(batch)} of {len(order)} questions", flush=True)
    records.write(
        "rollouts.jsonl",
        [
            {"item": item, "prompt": prompt, "samples": found}
            for item, (prompt, _), found in zip(items, turns, samples)
        ],
    )


if __name__ == "__main__":
    main()
