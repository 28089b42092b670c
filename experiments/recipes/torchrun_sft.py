"""Supervised fine-tuning with PyTorch's DistributedDataParallel: reads `base`, `rows.jsonl` and `images/`, writes `model` and
`curve.jsonl`. Each process of `torchrun` trains on its share of every batch, with NCCL on GPUs and gloo on CPUs.

The result does not depend on the number of processes, except for rounding.
"""

import argparse
import os
import random

import records
import torch
import training
from conversations import Chat, image_keys
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import get_linear_schedule_with_warmup

IGNORED = -100


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--steps", type=int, help="the length of the training, instead of --epochs")
    parser.add_argument("--batch", type=int, default=32, help="rows per step, of all processes together")
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    parser.add_argument("--warmup", type=float, default=0.03, help="share of the steps")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--clip", type=float, default=1.0, help="largest global norm of the gradient")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16; parameters stay in float32")
    parser.add_argument("--freeze", nargs="+", default=[], help="patterns of names of frozen parameters")
    return parser.parse_args()


class Batches:
    """Batches of a process. All processes draw the same order, and each computes its rows of a batch."""

    def __init__(self, rows, processor, rank, processes):
        self.processor, self.rank, self.processes = processor, rank, processes
        self.chat, self.packs, self.rows = Chat(processor), records.Images(), rows

    def order(self, steps, size):
        """The numbers of the rows of each step: epochs, each in a new order."""
        draw, left = random.Random(records.seed()), []
        for _ in range(steps):
            if len(left) < size:
                epoch = list(range(len(self.rows)))
                draw.shuffle(epoch)
                left += epoch
            yield left[:size]
            left = left[size:]

    def share(self, numbers):
        """The inputs of this process for a batch."""
        return self.collate([self.encode(self.rows[number]) for number in numbers[self.rank :: self.processes]])

    def encode(self, row):
        """The prompt with its images, followed by the response, which is the target."""
        images = [self.packs.open(key) for key in image_keys(row)] or None
        text = self.chat.prompt(row, row["prompt"])
        prompt = self.processor(text=[text], images=images, add_special_tokens=False, return_tensors="pt")
        target = self.processor.tokenizer(self.chat.response(row, row["response"]), add_special_tokens=False)["input_ids"]
        length = prompt["input_ids"].shape[1]
        labels = [IGNORED] * length + target
        # Types of tokens and the attention mask have one value per token; what belongs to the images has another shape.
        per_token = {name: value[0].tolist() for name, value in prompt.items() if value.shape == prompt["input_ids"].shape}
        other = {name: value for name, value in prompt.items() if name not in per_token}
        filled = {name: value + [0] * len(target) for name, value in per_token.items()}
        ids = per_token["input_ids"] + target
        return filled | {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}, other

    def collate(self, examples):
        longest = max(len(tokens["labels"]) for tokens, _ in examples)
        padding = {"labels": IGNORED, "input_ids": self.processor.tokenizer.pad_token_id}
        found = {}
        for name in examples[0][0]:
            values = [tokens.get(name, []) for tokens, _ in examples]
            fill = padding.get(name, 0)
            found[name] = torch.tensor([value + [fill] * (longest - len(value)) for value in values])
        for name in sorted({name for _, other in examples for name in other}):
            found[name] = torch.cat([other[name] for _, other in examples if name in other])
        return found


def summed_loss(model, inputs):
    """The sum of the negative log-probabilities of the targets."""
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def main():
    options = arguments()
    on_gpu = torch.cuda.is_available()
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if rank == 0:
        print(f"{processes} processes, {'NCCL on GPUs' if on_gpu else 'gloo on CPUs'}", flush=True)

    rows, processor = records.read("rows.jsonl"), training.processor("base")
    if any(row.get("history") for row in rows):
        raise SystemExit("a row has earlier turns, and this recipe trains on one response per row")
    if not processes <= options.batch <= len(rows):
        raise SystemExit(f"--batch must be between the {processes} processes and the {len(rows)} rows")
    steps = options.steps or max(1, int(options.epochs * len(rows) / options.batch))
    torch.manual_seed(records.seed())
    model = training.model("base", training.Options(freeze=options.freeze)).to(device)
    # Without images, a batch does not use the vision tower.
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, round(options.warmup * steps), steps)

    batches, curve, targets = Batches(rows, processor, rank, processes), [], 0
    for step, numbers in enumerate(batches.order(steps, options.batch), 1):
        inputs = {name: value.to(device) for name, value in batches.share(numbers).items()}
        counted = (inputs["labels"][:, 1:] != IGNORED).sum()
        distributed.all_reduce(counted)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            loss = summed_loss(parallel, inputs) / counted
        # The mean over processes, which DistributedDataParallel computes, becomes the sum over the batch.
        (loss * processes).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, options.clip)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss = loss.detach()
        distributed.all_reduce(loss)
        targets += counted.item()
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss of step {step} is {loss.item()}: lower --learning-rate")
        curve.append(
            {"step": step, "loss": loss.item(), "learning_rate": rate, "gradient_norm": norm.item(), "tokens": targets}
        )
        if rank == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", flush=True)

    if rank == 0:
        model.save_pretrained("model")
        processor.save_pretrained("model")
        records.write("curve.jsonl", curve)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
