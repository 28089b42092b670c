"""Reads checkpoints that ablate exported with transformers, and compares them with what they were imported from."""

import json

import checkpoint
import expect
import torch
from safetensors.torch import load_file

# Of the largest logit. Equal weights give equal logits; a type that was widened does too.
ALLOWED = 1e-6


def weights(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file) if file.name != "expected.safetensors" else {})
    return found


@torch.no_grad()
def compared(case, source, folder, images):
    """Largest relative error of the logits, and how many tensors are the same in name, type and bits."""
    expected = json.loads((source / "expected.json").read_text("utf-8"))["sequences"]
    logits = load_file(source / "expected.safetensors")
    reader, model = expect.Reader(case, folder, images), checkpoint.load(case, folder)
    error = 0.0
    for name, sequence in expected.items():
        inputs = reader.inputs(sequence["prompt"], sequence["images"])
        assert inputs["input_ids"][0].tolist() == sequence["ids"], f"{case.name}: {name} has other token ids"
        right = logits[f"{name}.logits"]
        found = model(**inputs, use_cache=False).logits[0, sequence["positions"]]
        error = max(error, ((found - right).abs().max() / right.abs().max()).item())
    before, after = weights(source), weights(folder)
    kept = [name for name, each in before.items() if name in after and identical(each, after[name])]
    return error, len(kept), len(before)


def identical(one, other):
    return one.dtype == other.dtype and one.equal(other)


def exported(cases, hub, folder):
    """A line per case; ends with an error if one is missing or wrong."""
    wrong = []
    for case in cases:
        if not (folder / case.name).is_dir():
            print(f"{case.name:22} not exported")
            wrong.append(case.name)
            continue
        error, same, count = compared(case, hub / case.name, folder / case.name, hub / "images")
        print(f"{case.name:22} logits {error:.1e}, {same} of {count} tensors unchanged")
        if error > ALLOWED or same < count:
            wrong.append(case.name)
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")
