"""Makes what both sides of `just bench-model` read: `make_work.py SIZE FOLDER`.

    FOLDER/model/       a checkpoint with random weights, as transformers saves it
    FOLDER/work.json    one batch of rows, the prompts, the pixels of their images
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

LEARNING_RATE = 5e-4
SAMPLES = 32


@dataclass(frozen=True)
class Eyes:
    family: str
    image_size: int
    patch_size: int
    tokens: int
    """Of an image, which is one tile."""


SMALL = Eyes("llava", 32, 8, 16)
# One tile of SmolVLM.
TILE = Eyes("smolvlm", 512, 16, 64)


@dataclass(frozen=True)
class Size:
    dim: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    theta: float
    rows: int
    inputs: int
    """Positions of a row that are computed: its last token is a target only."""
    prompts: int
    prompt_tokens: int
    new_tokens: int
    eyes: Eyes | None = None
    positions: int = 1024


# S, M and L are LLaMA-like decoders with a feed-forward layer of three times their width.
SIZES = {
    "S": Size(64, 2, 4, 2, 192, 512, 10000.0, rows=32, inputs=96, prompts=8, prompt_tokens=32, new_tokens=64),
    "M": Size(256, 4, 8, 4, 768, 4096, 10000.0, rows=8, inputs=256, prompts=4, prompt_tokens=32, new_tokens=64),
    "L": Size(512, 8, 8, 4, 1536, 8192, 10000.0, rows=4, inputs=256, prompts=2, prompt_tokens=32, new_tokens=64),
    # The nearest that transformers has to the default experiment's model, at its batch and length of responses.
    "default": Size(64, 3, 4, 4, 176, 480, 1000.0, rows=16, inputs=96, prompts=8, prompt_tokens=33, new_tokens=48,
                    eyes=SMALL),
    # 300 million parameters, for a GPU.
    "XL": Size(1024, 16, 16, 8, 4096, 24576, 10000.0, rows=16, inputs=512, prompts=16, prompt_tokens=64, new_tokens=128,
               eyes=SMALL),
    # SmolVLM-256M's shape.
    "smolvlm": Size(576, 30, 9, 3, 1536, 49280, 100000.0, rows=2, inputs=160, prompts=2, prompt_tokens=96, new_tokens=16,
                    eyes=TILE, positions=8192),
    # Llama 3's 8B, in bf16, for an adapter on a GPU.
    "8B": Size(4096, 32, 32, 8, 14336, 128256, 500000.0, rows=4, inputs=2048, prompts=1, prompt_tokens=512, new_tokens=128,
               positions=8192),
}


def model(size: Size) -> PreTrainedModel:
    text = LlamaConfig(
        hidden_size=size.dim, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads, intermediate_size=size.ff, vocab_size=size.vocab, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": size.theta}, max_position_embeddings=size.positions,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )
    if size.eyes is None:
        return LlamaForCausalLM(text)
    if size.eyes is TILE:
        vision = SmolVLMVisionConfig(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
            image_size=TILE.image_size, patch_size=TILE.patch_size,
        )
        return SmolVLMForConditionalGeneration(SmolVLMConfig(
            vision_config=vision, text_config=text, image_token_id=size.vocab - 1, scale_factor=4,
            tie_word_embeddings=False,
        ))
    vision = CLIPVisionConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=176,
        image_size=SMALL.image_size, patch_size=SMALL.patch_size, hidden_act="gelu",
    )
    return LlavaForConditionalGeneration(LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=size.vocab - 1, image_seq_length=SMALL.tokens,
        vision_feature_layer=-1, vision_feature_select_strategy="default", projector_hidden_act="gelu",
        tie_word_embeddings=False,
    ))


def work(size: Size, chance: random.Random) -> dict[str, object]:
    features, side = (size.eyes.tokens, size.eyes.image_size) if size.eyes else (0, 1)

    def tokens(count: int) -> list[int]:
        """Text, behind an image where the model has eyes."""
        image = [size.vocab - 1] * features
        text = [chance.randrange(1, size.vocab - 1) for _ in range(count - len(image))]
        return text[:1] + image + text[1:]

    def image(index: int) -> str | None:
        return str(index) if size.eyes else None

    first_target = 1 + features
    rows = [{"tokens": tokens(size.inputs + 1), "first_target": first_target, "image": image(index)}
            for index in range(size.rows)]
    prompts = [{"tokens": tokens(size.prompt_tokens), "image": image(index)} for index in range(size.prompts)]
    pixels = 3 * side * side
    images = {str(index): [round(chance.uniform(-2, 2), 4) for _ in range(pixels)]
              for index in range(max(size.rows, size.prompts) if size.eyes else 0)}
    return {"rows": rows, "learning_rate": LEARNING_RATE, "prompts": prompts, "samples": SAMPLES,
            "new_tokens": size.new_tokens, "image_size": side, "images": images}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    size = SIZES[name]
    torch.manual_seed(0)
    if name == "8B":
        # On a GPU it takes seconds.
        torch.set_default_dtype(torch.bfloat16)
        torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    made = model(size)
    made.save_pretrained(folder / "model")
    (folder / "work.json").write_text(json.dumps(work(size, random.Random(0))))
    parameters = sum(parameter.numel() for parameter in made.parameters())
    (folder / "size.json").write_text(json.dumps(asdict(size) | {"parameters": parameters}))


main()
