"""What makes equal runs write equal bytes: seeds, threads, drawn weights and how files are written."""

import json
import os
import zlib

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def generator(seed, name):
    """A random stream of its own for every name, so that a new tensor leaves the others as they were."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def drawn(name, shape, seed, tied):
    """A weight that shows when it is forgotten: norms are not one, biases not zero, attention is not uniform."""
    normal = torch.randn(shape, generator=generator(seed, name))
    last, kind = name.rsplit(".", 2)[-2:] if "." in name else ("", name)
    if kind == "bias" or kind == "in_proj_bias":
        return 0.2 * normal
    if "norm" in last or "layrnorm" in last or last == "ln_q":
        return 1.0 + 0.2 * normal
    if kind in ("lambda_1", "lambda_2"):
        return 0.7 + 0.2 * normal
    if kind == "position_embeddings":
        return 0.5 * normal
    if kind in ("class_embedding", "cls_token", "image_newline", "probe"):
        return normal
    if last == "position_embedding":
        return 0.5 * normal
    if last == "embed_tokens":
        return normal * (3.0 / shape[1] ** 0.5 if tied else 1.0)
    fan_in = normal[0].numel()
    gain = {"lm_head": 3.0, "q_proj": 1.7, "k_proj": 1.7, "qkv": 1.7}.get(last, 1.3)
    return normal * (gain / fan_in**0.5)


@torch.no_grad()
def draw(model, seed, dtype, tied):
    """Fills a float32 model with numbers that `dtype` can hold."""
    # Gemma 3 adds one to its norms, but not to those of its tower.
    gemma = model.config.get_text_config().model_type == "gemma3_text"
    for name, parameter in model.named_parameters():
        values = drawn(name, parameter.shape, seed, tied)
        if gemma and "norm.weight" in name and "vision_tower" not in name:
            values = values - 1.0
        parameter.copy_(values.to(dtype).float())


def write_json(path, value, width=1):
    """The outer `width` levels one entry a line, the rest packed, so that lists of ids stay on their line."""

    def text(value, depth):
        packed = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if depth == width or not value or not isinstance(value, (dict, list)):
            return packed
        pad, end = "\n" + " " * (depth + 1), "\n" + " " * depth
        if isinstance(value, dict):
            entries = [f"{json.dumps(key, ensure_ascii=False)}: {text(each, depth + 1)}" for key, each in value.items()]
            return "{" + pad + f",{pad}".join(entries) + end + "}"
        return "[" + pad + f",{pad}".join(text(each, depth + 1) for each in value) + end + "]"

    path.write_text(text(value, 0) + "\n", encoding="utf-8")


def write_tensors(path, tensors):
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, path)
    path.chmod(0o644)
