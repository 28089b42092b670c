"""Samples responses with transformers: reads `model`, `items.jsonl` and `images/`, writes `rollouts.jsonl`."""

import argparse

import records
import torch
from conversations import TEMPLATES, Chat, image_keys, render
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--template", choices=TEMPLATES, default="cot")
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
        self.chat, self.images = Chat(self.processor), records.Images()
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
        """One sample for each pair of an item and its prompt. All have images, or none has."""
        texts = [self.chat.prompt(item, prompt) for item, prompt in turns]
        images = [[self.images.open(key) for key in image_keys(item)] for item, _ in turns]
        inputs = self.processor(
            text=texts, images=images if images[0] else None, padding=True, add_special_tokens=False, return_tensors="pt"
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
    turns = [(item, render(item, options.template)) for item in items]
    samples = [[] for _ in items]
    for part in ([i for i, item in enumerate(items) if bool(image_keys(item)) == with_images] for with_images in (1, 0)):
        for start in range(0, len(part), options.batch):
            batch = part[start : start + options.batch]
            for _ in range(options.samples):
                for index, sample in zip(batch, sampler.sample([turns[i] for i in batch])):
                    samples[index].append(sample)
            print(f"{sum(map(bool, samples))} of {len(items)} questions", flush=True)
    rollouts = zip(turns, samples)
    records.write(
        "rollouts.jsonl", [{"item": item, "prompt": prompt, "samples": found} for (item, prompt), found in rollouts]
    )


if __name__ == "__main__":
    main()
