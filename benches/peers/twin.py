"""A LLaMA decoder in plain PyTorch, on the weights of a Hugging Face folder.

transformers' own module computes the same and takes longer: whoever trains small models for speed writes this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import LlamaConfig


class Twin(torch.nn.Module):
    def __init__(self, folder: str) -> None:
        super().__init__()
        config = LlamaConfig.from_pretrained(folder)
        self.layers, self.eps = config.num_hidden_layers, config.rms_norm_eps
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.hidden_size // self.heads
        arrays = load_file(f"{folder}/model.safetensors")
        # A ParameterDict takes no dots.
        self.arrays = torch.nn.ParameterDict({name.replace(".", "/"): torch.nn.Parameter(value)
                                              for name, value in arrays.items()})
        theta = config.rope_parameters["rope_theta"]
        steps = 1.0 / theta ** (torch.arange(0, self.width, 2, dtype=torch.float64) / self.width)
        angles = torch.arange(config.max_position_embeddings, dtype=torch.float64)[:, None] * steps
        angles = torch.cat([angles, angles], -1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def weight(self, name: str) -> torch.Tensor:
        return self.arrays[f"{name}.weight".replace(".", "/")]

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary positions; `x` is (batch, heads, positions, width)."""
        count, half = x.shape[2], self.width // 2
        halves = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cos[:count] + halves * self.sin[:count]

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight(name), self.eps)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, positions) to logits (batch, positions, vocabulary)."""
        batch, positions = tokens.shape
        x = F.embedding(tokens, self.weight("model.embed_tokens"))
        for layer in range(self.layers):
            def linear(x: torch.Tensor, name: str) -> torch.Tensor:
                return F.linear(x, self.weight(f"model.layers.{layer}.{name}"))

            h = self.norm(x, f"model.layers.{layer}.input_layernorm")
            q, k, v = (linear(h, f"self_attn.{name}_proj").view(batch, positions, -1, self.width).transpose(1, 2)
                       for name in "qkv")
            h = F.scaled_dot_product_attention(
                self.turned(q), self.turned(k), v, is_causal=True, enable_gqa=self.heads != self.kv_heads
            )
            x = x + linear(h.transpose(1, 2).reshape(batch, positions, -1), "self_attn.o_proj")
            h = self.norm(x, f"model.layers.{layer}.post_attention_layernorm")
            x = x + linear(F.silu(linear(h, "mlp.gate_proj")) * linear(h, "mlp.up_proj"), "mlp.down_proj")
        return F.linear(self.norm(x, "model.norm"), self.weight("lm_head"))
