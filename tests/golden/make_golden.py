"""Golden numbers of the model, the SFT loss and the DPO loss, from an implementation that shares no code with ours.

    python make_golden.py            # needs torch; writes the files beside this one

Weights are random float32, everything is computed from them in float64. The model follows Hugging Face's LLaVA and
LLaMA: a small encoder with learned positions, a GELU projector, a decoder with RoPE (rotate-half), SwiGLU and
grouped-query attention. Files are written byte by byte, so that equal numbers give equal files.
"""

import json
import math
import struct
from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
HERE = Path(__file__).parent
IMAGE, PATCH = 8, 4
VISION = dict(dim=8, layers=2, heads=2, ff=12)
HIDDEN = 10
DECODER = dict(dim=16, layers=2, heads=4, kv_heads=2, ff=24, rope_theta=100.0, norm_eps=1e-5, tied_head=False, max_positions=32)
VOCAB, IMAGE_TOKEN = 20, 1
PATCHES = (IMAGE // PATCH) ** 2


def shapes():
    found = {}

    def block(name, dim, kv_dim, ff):
        found[f"{name}.input_layernorm.weight"] = (dim,)
        found[f"{name}.self_attn.q_proj.weight"] = (dim, dim)
        found[f"{name}.self_attn.k_proj.weight"] = (kv_dim, dim)
        found[f"{name}.self_attn.v_proj.weight"] = (kv_dim, dim)
        found[f"{name}.self_attn.o_proj.weight"] = (dim, dim)
        found[f"{name}.post_attention_layernorm.weight"] = (dim,)
        found[f"{name}.mlp.gate_proj.weight"] = (ff, dim)
        found[f"{name}.mlp.up_proj.weight"] = (ff, dim)
        found[f"{name}.mlp.down_proj.weight"] = (dim, ff)

    v, d = VISION["dim"], DECODER["dim"]
    found["vision_tower.patch_embedding.weight"] = (v, PATCH * PATCH * 3)
    found["vision_tower.position_embedding.weight"] = (PATCHES, v)
    for i in range(VISION["layers"]):
        block(f"vision_tower.layers.{i}", v, v, VISION["ff"])
    found["vision_tower.norm.weight"] = (v,)
    found["multi_modal_projector.linear_1.weight"] = (HIDDEN, v)
    found["multi_modal_projector.linear_2.weight"] = (d, HIDDEN)
    found["model.embed_tokens.weight"] = (VOCAB, d)
    for i in range(DECODER["layers"]):
        block(f"model.layers.{i}", d, d // DECODER["heads"] * DECODER["kv_heads"], DECODER["ff"])
    found["model.norm.weight"] = (d,)
    found["lm_head.weight"] = (VOCAB, d)
    return found


def draw(generator):
    weights = {}
    for name, shape in shapes().items():
        noise = torch.randn(shape, generator=generator)
        weights[name] = 1 + 0.2 * noise if len(shape) == 1 else noise * (1.5 / math.sqrt(shape[-1]))
    return {name: weight.float() for name, weight in weights.items()}


def norm(x, weight):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + DECODER["norm_eps"]) * weight


def rotate(x):  # (heads, t, w)
    t, w = x.shape[-2:]
    angle = torch.arange(t).double()[:, None] * DECODER["rope_theta"] ** (-torch.arange(0, w, 2).double() / w)
    angle = torch.cat([angle, angle], -1)
    half = torch.cat([-x[..., w // 2 :], x[..., : w // 2]], -1)
    return x * angle.cos() + half * angle.sin()


def block(p, name, x, heads, kv_heads, causal):
    get = lambda part: p[f"{name}.{part}.weight"]
    t, dim = x.shape
    w = dim // heads
    h = norm(x, get("input_layernorm"))
    split = lambda y, n: y.view(t, n, w).transpose(0, 1)
    q = split(h @ get("self_attn.q_proj").T, heads)
    k = split(h @ get("self_attn.k_proj").T, kv_heads)
    v = split(h @ get("self_attn.v_proj").T, kv_heads)
    if causal:
        q, k = rotate(q), rotate(k)
    k, v = (y.repeat_interleave(heads // kv_heads, 0) for y in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(w)
    if causal:
        scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), -math.inf)
    x = x + (scores.softmax(-1) @ v).transpose(0, 1).reshape(t, dim) @ get("self_attn.o_proj").T
    h = norm(x, get("post_attention_layernorm"))
    return x + (F.silu(h @ get("mlp.gate_proj").T) * (h @ get("mlp.up_proj").T)) @ get("mlp.down_proj").T


def logits(p, tokens, pixels):
    """One sequence at a time: (t, vocab)."""
    x = p["model.embed_tokens.weight"][torch.tensor(tokens)]
    if pixels is not None:
        n = IMAGE // PATCH
        patches = pixels.view(n, PATCH, n, PATCH, 3).permute(0, 2, 1, 3, 4).reshape(PATCHES, -1)
        y = patches @ p["vision_tower.patch_embedding.weight"].T + p["vision_tower.position_embedding.weight"]
        for i in range(VISION["layers"]):
            y = block(p, f"vision_tower.layers.{i}", y, VISION["heads"], VISION["heads"], False)
        y = norm(y, p["vision_tower.norm.weight"])
        y = F.gelu(y @ p["multi_modal_projector.linear_1.weight"].T) @ p["multi_modal_projector.linear_2.weight"].T
        at = tokens.index(IMAGE_TOKEN)
        x = torch.cat([x[:at], y, x[at + PATCHES :]])
    for i in range(DECODER["layers"]):
        x = block(p, f"model.layers.{i}", x, DECODER["heads"], DECODER["kv_heads"], True)
    return norm(x, p["model.norm.weight"]) @ p["lm_head.weight"].T


def log_probs(p, row, images):
    out = logits(p, row["tokens"][:-1], images.get(row["image"]))
    picked = out.log_softmax(-1)[torch.arange(len(out)), torch.tensor(row["tokens"][1:])]
    return picked[torch.tensor(row["loss"][1:])]


def double(weights):
    return {name: weight.double().requires_grad_() for name, weight in weights.items()}


def write(path, arrays, metadata):
    header, body = {"__metadata__": metadata}, b""
    for name in sorted(arrays):
        values = arrays[name].detach().float().contiguous().flatten().tolist()
        data = struct.pack(f"<{len(values)}f", *values)
        header[name] = dict(dtype="F32", shape=list(arrays[name].shape), data_offsets=[len(body), len(body) + len(data)])
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def write_model(name, weights):
    write(HERE / name / "model.safetensors", weights, {"format": "pt"})
    model = dict(image_size=IMAGE, patch_size=PATCH, vision=VISION, projector=dict(hidden=HIDDEN), decoder=DECODER)
    header = dict(format=1, vocab=VOCAB, image_token=IMAGE_TOKEN, model=model)
    (HERE / name / "config.json").write_text(json.dumps(header, indent=2) + "\n")


def main():
    generator = torch.Generator().manual_seed(20240501)
    policy, reference = draw(generator), draw(generator)
    # A reference near the policy, as it is in practice.
    reference = {name: policy[name] + 0.05 * (reference[name] - policy[name]) for name in policy}
    images = {name: torch.rand(IMAGE * IMAGE * 3, generator=generator).float() * 2 - 1 for name in ("a", "b")}
    image = [IMAGE_TOKEN] * PATCHES
    row = lambda image, tokens, loss: dict(image=image, tokens=tokens, loss=[bool(x) for x in loss])
    rows = [
        row("a", [2, *image, 5, 6, 3, 7, 8, 4], [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]),
        row(None, [2, 9, 10, 3, 11, 4], [0, 0, 0, 0, 1, 1]),
        row("b", [2, *image, 12, 3, 13, 14, 15, 16, 4], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]),
        row("a", [2, *image, 17, 3, 18, 4], [0, 0, 0, 0, 0, 0, 0, 1, 1]),
    ]
    pairs = [
        dict(chosen=row("a", [2, *image, 5, 3, 7, 8, 4], [0] * 7 + [1] * 3), rejected=row("a", [2, *image, 5, 3, 9, 4], [0] * 7 + [1] * 2)),
        dict(chosen=row(None, [2, 6, 3, 10, 4], [0, 0, 0, 1, 1]), rejected=row(None, [2, 6, 3, 11, 12, 13], [0, 0, 0, 1, 1, 1])),
        dict(chosen=row("b", [2, *image, 14, 3, 19, 4], [0] * 7 + [1] * 2), rejected=row("b", [2, *image, 14, 3, 4], [0] * 7 + [1])),
    ]
    beta, sft_weight = 0.3, 0.25
    pixels = {name: values.double() for name, values in images.items()}
    expected = {}
    with torch.no_grad():
        p = double(policy)
        for i, r in enumerate(rows):
            expected[f"logits.{i}"] = logits(p, r["tokens"][:-1], pixels.get(r["image"]))

    p = double(policy)
    loss = -torch.cat([log_probs(p, r, pixels) for r in rows]).mean()
    loss.backward()
    expected["sft.loss"] = loss.reshape(1)
    expected |= {f"sft.{name}": weight.grad for name, weight in p.items()}

    p, q = double(policy), double(reference)
    terms, chosen_tokens = [], []
    for pair in pairs:
        chosen, rejected = log_probs(p, pair["chosen"], pixels), log_probs(p, pair["rejected"], pixels)
        with torch.no_grad():
            base = log_probs(q, pair["chosen"], pixels).sum() - log_probs(q, pair["rejected"], pixels).sum()
        terms.append(-F.logsigmoid(beta * (chosen.sum() - rejected.sum() - base)))
        chosen_tokens.append(chosen)
    loss = torch.stack(terms).mean() - sft_weight * torch.cat(chosen_tokens).mean()
    loss.backward()
    expected["dpo.loss"] = loss.reshape(1)
    expected |= {f"dpo.{name}": weight.grad for name, weight in p.items()}

    write_model("policy", policy)
    write_model("reference", reference)
    write(HERE / "expected.safetensors", expected, {})
    (HERE / "data.json").write_text(
        json.dumps(
            dict(rows=rows, pairs=pairs, beta=beta, sft_weight=sft_weight, images={n: v.tolist() for n, v in images.items()}),
            indent=None,
        )
        + "\n"
    )
    print("sft", expected["sft.loss"].item(), "dpo", expected["dpo.loss"].item())


main()
