"""The checkpoints: their sizes, choices, tokenizers and images."""

from dataclasses import dataclass, field

from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Idefics3Config,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SiglipVisionConfig,
    SmolVLMConfig,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

TEXT = {
    "gemma3": Gemma3TextConfig,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
VISION = {
    "clip": CLIPVisionConfig,
    "siglip": SiglipVisionConfig,
    "idefics3": Idefics3VisionConfig,
    "smolvlm": SmolVLMVisionConfig,
    "internvl": InternVLVisionConfig,
}
WHOLE = {
    "llava": LlavaConfig,
    "llava_next": LlavaNextConfig,
    "gemma3": Gemma3Config,
    "idefics3": Idefics3Config,
    "smolvlm": SmolVLMConfig,
    "internvl": InternVLConfig,
}
WHOLE |= {"qwen2_vl": Qwen2VLConfig, "qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}


@dataclass
class Case:
    name: str
    # A key of TEXT, and what its config is given.
    text: str
    sizes: dict
    tokenizer: str
    template: str
    dtype: str = "bf16"
    # Words in the longest sequence.
    long: int = 40
    # None: a language model.
    whole: str | None = None
    vision: str | None = None
    eyes: dict = field(default_factory=dict)
    # What the config of the whole is given.
    joint: dict = field(default_factory=dict)
    # The class of the image processor: clip, siglip, llava, llava_next, idefics3, smolvlm; and what it, or Qwen2-VL's, is given.
    pixels: str | None = None
    cut: dict = field(default_factory=dict)
    pictures: tuple = ("wide", "tall", "grey")
    # Whether the answers are to end before 64 tokens.
    stops: bool = False
    # Largest size of a shard in bytes.
    shard: int | None = None
    # Whether names and files are to be those of transformers 4.
    old: bool = False


def text(dim, heads, kv_heads, ff, layers=2, positions=512, vocab=304, **more):
    return dict(
        hidden_size=dim,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=ff,
        num_hidden_layers=layers,
        max_position_embeddings=positions,
        vocab_size=vocab,
        **more,
    )


def eyes(dim, heads, ff, layers, image, patch, **more):
    return dict(
        hidden_size=dim,
        num_attention_heads=heads,
        intermediate_size=ff,
        num_hidden_layers=layers,
        image_size=image,
        patch_size=patch,
        **more,
    )


def qwen_eyes(patch, merge=2, frames=2, **more):
    return dict(patch_size=patch, spatial_merge_size=merge, temporal_patch_size=frames, **more)


def qwen3_eyes(patch, dim, heads, out, positions, deepstack, **more):
    sizes = dict(hidden_size=dim, num_heads=heads, out_hidden_size=out, intermediate_size=dim + 4)
    sizes |= dict(num_position_embeddings=positions, deepstack_visual_indexes=deepstack)
    return qwen_eyes(patch, **{"depth": 3, **sizes, **more})


def pixels(least, most):
    """Bounds of the number of pixels of an image."""
    return dict(size={"shortest_edge": least, "longest_edge": most})


def gemma(head, window, every, theta=1e6, local=1e4, scaling=None):
    """Layers with a window, except each `every`th."""
    whole = rope("linear", theta, factor=scaling) if scaling else rope("default", theta)
    return dict(
        head_dim=head,
        sliding_window=window,
        sliding_window_pattern=every,
        rope_parameters={"full_attention": whole, "sliding_attention": rope("default", local)},
    )


def scan(least_side, most_parts, least_ratio):
    """Parts of long images."""
    return dict(
        do_pan_and_scan=True,
        pan_and_scan_min_crop_size=least_side,
        pan_and_scan_max_num_crops=most_parts,
        pan_and_scan_min_ratio_to_activate=least_ratio,
    )


def halves(least, most):
    """Qwen3-VL's mean and standard deviation, and the same bounds."""
    return dict(pixels(least, most), image_mean=[0.5] * 3, image_std=[0.5] * 3)


def rope(kind, theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


def interleaved(theta, *sections, kind="default", **more):
    return rope(kind, theta, mrope_section=list(sections), mrope_interleaved=True, **more)


LLAMA3_ROPE = rope(
    "llama3",
    500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)


def golden():
    """Small enough to be committed."""
    return [
        Case("llama2", "llama", text(32, 4, 4, 44, vocab=326, rms_norm_eps=1e-5), "llama2", "llama2"),
        Case(
            "llama3",
            "llama",
            text(32, 4, 1, 40, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
            "llama3",
            "llama3",
            long=60,
        ),
        Case(
            "llama-linear-biases",
            "llama",
            text(24, 4, 2, 36, attention_bias=True, mlp_bias=True, rope_parameters=rope("linear", factor=4.0)),
            "llama3",
            "llama3",
            dtype="f16",
        ),
        Case(
            "llama-yarn",
            "llama",
            text(32, 2, 1, 40, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32)),
            "llama3",
            "llama3",
            stops=True,
        ),
        Case("mistral", "mistral", text(24, 4, 2, 36, head_dim=8, vocab=326, sliding_window=1024), "llama2", "llama2"),
        Case(
            "qwen2",
            "qwen2",
            text(28, 2, 1, 40, layers=3, vocab=311, tie_word_embeddings=True, rope_parameters=rope("default", 1e6)),
            "qwen2",
            "qwen2",
            shard=30_000,
        ),
        Case(
            "qwen2-old",
            "qwen2",
            text(24, 4, 4, 36, vocab=299, rope_parameters=rope("default", 1e6)),
            "qwen2",
            "qwen2",
            old=True,
        ),
        Case("qwen3", "qwen3", text(24, 4, 2, 36, head_dim=8, vocab=304), "qwen2", "qwen3", dtype="f32"),
        Case(
            "llava",
            "llama",
            text(32, 4, 4, 44, vocab=326, rms_norm_eps=1e-5),
            "llama2",
            "llava",
            whole="llava",
            vision="clip",
            eyes=eyes(16, 2, 24, 3, 20, 5),
            pixels="clip",
            pictures=("wide", "tall", "grey", "tiny"),
        ),
        Case(
            "llava-layers",
            "llama",
            text(24, 4, 2, 36),
            "llama3",
            "llava",
            dtype="f16",
            whole="llava",
            vision="clip",
            eyes=eyes(12, 2, 20, 4, 22, 6, hidden_act="gelu"),
            joint=dict(
                vision_feature_layer=[-3, 1, -1],
                vision_feature_select_strategy="full",
                multimodal_projector_bias=False,
                projector_hidden_act="gelu",
            ),
            pixels="llava",
            pictures=("wide", "alpha"),
        ),
        Case(
            "llava-old",
            "llama",
            text(24, 4, 2, 36, vocab=326, rope_parameters=rope("linear", factor=2.0)),
            "llama2",
            "llava",
            dtype="f16",
            whole="llava",
            vision="clip",
            eyes=eyes(16, 4, 24, 2, 18, 6),
            pixels="clip",
            pictures=("square", "tall"),
            old=True,
        ),
        Case(
            "llava-siglip",
            "qwen2",
            text(24, 4, 2, 36, tie_word_embeddings=True, rope_parameters=rope("default", 1e6)),
            "qwen2",
            "llava-chatml",
            whole="llava",
            vision="siglip",
            eyes=eyes(16, 2, 24, 3, 20, 6),
            joint=dict(vision_feature_layer=-1, vision_feature_select_strategy="full"),
            pixels="siglip",
            pictures=("wide", "tall"),
        ),
        Case(
            "llava-next",
            "mistral",
            text(24, 4, 2, 36, vocab=326, sliding_window=None, rms_norm_eps=1e-5, rope_parameters=rope("default", 1e6)),
            "llama2",
            "llava-next-mistral",
            whole="llava_next",
            vision="clip",
            eyes=eyes(16, 2, 24, 3, 16, 4),
            joint=dict(image_grid_pinpoints=[[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]),
            pixels="llava_next",
        ),
        Case(
            "smolvlm",
            "llama",
            text(24, 3, 1, 36, vocab=336, rms_norm_eps=1e-5, rope_parameters=rope("default", 1e5)),
            "smolvlm",
            "smolvlm",
            whole="smolvlm",
            vision="smolvlm",
            eyes=eyes(16, 2, 24, 2, 16, 4),
            joint=dict(scale_factor=2),
            pixels="smolvlm",
            cut=dict(size={"longest_edge": 40}),
            pictures=("wide", "tall", "square", "tiny"),
        ),
        Case(
            "idefics3",
            "llama",
            text(24, 4, 2, 36, head_dim=8, vocab=311, rope_parameters=LLAMA3_ROPE),
            "idefics3",
            "smolvlm",
            dtype="f16",
            whole="idefics3",
            vision="idefics3",
            eyes=eyes(12, 3, 20, 3, 21, 7, hidden_act="gelu"),
            joint=dict(scale_factor=3, tie_word_embeddings=True),
            pixels="idefics3",
            cut=dict(size={"longest_edge": 63}),
            pictures=("wide", "tall", "grey"),
        ),
        Case(
            "internvl",
            "qwen2",
            text(24, 4, 2, 36, vocab=311, tie_word_embeddings=True, rope_parameters=rope("default", 1e6)),
            "internvl",
            "internvl",
            whole="internvl",
            vision="internvl",
            eyes=eyes(12, 2, 20, 2, 20, 5, attention_bias=True),
            joint=dict(image_seq_length=4),
            pixels="internvl",
            cut=dict(max_patches=6),
            pictures=("wide", "tall", "square", "tiny"),
        ),
        Case(
            "qwen2-vl",
            "",
            text(32, 4, 2, 36, vocab=313, rope_parameters=rope("default", 1e6, mrope_section=[1, 1, 2])),
            "qwen2vl",
            "qwen2-vl",
            whole="qwen2_vl",
            eyes=qwen_eyes(4, depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2),
            joint=dict(tie_word_embeddings=True),
            cut=pixels(128, 512),
            pictures=("wide", "tall", "tiny"),
            old=True,
        ),
        Case(
            "qwen2.5-vl",
            "",
            text(24, 2, 1, 36, vocab=307, rope_parameters=rope("default", 1e6, mrope_section=[2, 1, 3])),
            "qwen2vl",
            "qwen2-vl",
            dtype="f16",
            whole="qwen2_5_vl",
            eyes=qwen_eyes(
                4,
                depth=2,
                hidden_size=12,
                out_hidden_size=24,
                intermediate_size=20,
                num_heads=3,
                window_size=16,
                fullatt_block_indexes=[1],
            ),
            cut=pixels(256, 800),
            pictures=("wide", "tall"),
        ),
        Case(
            "gemma3-text",
            "gemma3",
            text(24, 4, 2, 36, layers=4, vocab=345, **gemma(8, window=12, every=3, theta=1e5), query_pre_attn_scalar=12),
            "gemma3",
            "gemma3",
            long=60,
        ),
        Case(
            "gemma3",
            "gemma3",
            text(32, 4, 1, 36, layers=3, vocab=351, **gemma(12, window=7, every=2, scaling=8.0), query_pre_attn_scalar=12),
            "gemma3",
            "gemma3",
            dtype="f16",
            whole="gemma3",
            vision="siglip",
            eyes=eyes(16, 2, 24, 2, 24, 4, vision_use_head=False),
            joint=dict(mm_tokens_per_image=9),
            pixels="gemma3",
            pictures=("wide", "tall", "square", "tiny"),
        ),
        Case(
            "gemma3-scan",
            "gemma3",
            text(24, 2, 2, 36, vocab=351, **gemma(16, window=20, every=2)),
            "gemma3",
            "gemma3",
            whole="gemma3",
            vision="siglip",
            eyes=eyes(12, 2, 20, 2, 20, 5, vision_use_head=False),
            joint=dict(mm_tokens_per_image=4),
            pixels="gemma3",
            cut=scan(8, 3, 1.2),
            pictures=("wide", "tall"),
        ),
        Case(
            "qwen3-vl",
            "",
            text(28, 4, 2, 36, layers=3, vocab=313, head_dim=8, rope_parameters=interleaved(5e6, 2, 1, 1)),
            "qwen2vl",
            "qwen3-vl",
            whole="qwen3_vl",
            eyes=qwen3_eyes(4, 16, 2, 28, 25, [0, 2]),
            joint=dict(tie_word_embeddings=True),
            cut=halves(128, 512),
            pictures=("wide", "tall", "tiny"),
            old=True,
        ),
        Case(
            "qwen3-vl-untied",
            "",
            text(24, 3, 1, 36, vocab=307, head_dim=12, attention_bias=True, rope_parameters=interleaved(5e5, 2, 2, 2)),
            "qwen2vl",
            "qwen3-vl",
            dtype="f16",
            whole="qwen3_vl",
            # The decoder's last layer has features too.
            eyes=qwen3_eyes(4, 12, 3, 24, 9, [0, 1], depth=2),
            cut=halves(256, 800),
            pictures=("wide", "tall"),
        ),
    ]


def larger(case, name, **changes):
    """The same family in another shape."""
    return Case(**{**case.__dict__, "name": name, "long": 100, "pictures": ALL, **changes})


ALL = ("wide", "tall", "square", "tiny", "grey", "alpha", "large")


def parity():
    """What `just parity` compares besides the golden ones: more shapes of every family."""
    made = {case.name: case for case in golden()}
    llama2, llama3, biases = made["llama2"], made["llama3"], made["llama-linear-biases"]
    mistral, qwen2, qwen3 = made["mistral"], made["qwen2"], made["qwen3"]
    llava, layers, siglip, following = (made[name] for name in ["llava", "llava-layers", "llava-siglip", "llava-next"])
    wide = dict(vocab=416, positions=1024)
    dynamic = text(48, 4, 4, 64, rope_parameters=rope("dynamic", factor=2.0), **wide)
    yarn = rope("yarn", factor=8.0, original_max_position_embeddings=64, attention_factor=0.9)
    ramp = rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=2.0, truncate=False)
    short = {**LLAMA3_ROPE, "original_max_position_embeddings": 128, "factor": 32.0}
    tied = dict(tie_word_embeddings=True)
    text_only = [
        larger(llama2, "llama2-wide", sizes=text(96, 6, 6, 160, layers=4, **wide)),
        larger(llama2, "llama2-f16", sizes=text(64, 8, 2, 96, layers=3, **wide), dtype="f16", stops=True),
        larger(llama3, "llama3-8-1", sizes=text(64, 8, 1, 96, layers=4, rope_parameters=LLAMA3_ROPE, **wide)),
        larger(llama3, "llama3-6-3", sizes=text(48, 6, 3, 80, rope_parameters=short, **tied, **wide), dtype="f32"),
        larger(llama3, "llama-head", sizes=text(40, 4, 2, 72, head_dim=16, **wide)),
        larger(biases, "llama-biases", sizes=text(64, 4, 4, 96, attention_bias=True, mlp_bias=True, **wide)),
        larger(llama3, "llama-linear", sizes=text(48, 4, 2, 64, rope_parameters=rope("linear", factor=2.5), **wide)),
        larger(llama3, "llama-yarn-given", sizes=text(48, 4, 2, 64, rope_parameters=yarn, **wide)),
        larger(llama3, "llama-yarn-ramp", sizes=text(48, 4, 2, 64, rope_parameters=ramp, **wide)),
        larger(llama3, "llama-dynamic", sizes=dynamic),
        larger(mistral, "mistral-wide", sizes=text(64, 8, 2, 96, layers=3, head_dim=16, sliding_window=1024, **wide)),
        larger(mistral, "mistral-tied", sizes=text(48, 6, 2, 64, sliding_window=None, **tied, **wide)),
        larger(qwen2, "qwen2-untied", sizes=text(56, 7, 1, 88, layers=3, positions=1024, vocab=421), shard=None),
        larger(qwen2, "qwen2-tied", sizes=text(64, 4, 2, 96, positions=1024, vocab=397, **tied), shard=60_000),
        larger(qwen3, "qwen3-tied", sizes=text(64, 8, 2, 96, layers=3, head_dim=16, **tied, **wide), dtype="bf16"),
        larger(qwen3, "qwen3-biases", sizes=text(48, 4, 4, 64, head_dim=24, attention_bias=True, **wide)),
    ]
    decoder = text(48, 4, 2, 64, **wide)
    anyres = dict(image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]])
    odd = dict(image_grid_pinpoints=[[30, 60], [60, 30], [60, 60]])
    strip = dict(image_grid_pinpoints=[[28, 28], [28, 84], [84, 28], [56, 84], [84, 56]])
    seeing = [
        larger(llava, "llava-f32", sizes=decoder, eyes=eyes(32, 4, 48, 4, 42, 14), dtype="f32"),
        larger(llava, "llava-padded", sizes=decoder, eyes=eyes(32, 2, 48, 3, 56, 14), pixels="llava"),
        larger(llava, "llava-plain-gelu", sizes=decoder, eyes=eyes(24, 2, 48, 3, 30, 7, hidden_act="gelu")),
        larger(layers, "llava-full", sizes=decoder, joint=dict(vision_feature_select_strategy="full")),
        larger(layers, "llava-layers-default", sizes=decoder, joint=dict(vision_feature_layer=[-2, 2])),
        larger(layers, "llava-layer-1", sizes=decoder, joint=dict(vision_feature_layer=1)),
        larger(siglip, "siglip-full", sizes=decoder, text="llama", eyes=eyes(32, 4, 48, 3, 56, 14), tokenizer="llama3"),
        larger(siglip, "siglip-headless", sizes=decoder, eyes=eyes(24, 2, 48, 3, 28, 7, vision_use_head=False)),
        larger(siglip, "siglip-default", sizes=decoder, joint=dict(vision_feature_select_strategy="default")),
        larger(siglip, "siglip-qwen3", sizes=dict(decoder, head_dim=16), text="qwen3"),
        larger(following, "next-llama", sizes=decoder, text="llama", eyes=eyes(24, 2, 48, 3, 28, 7), joint=anyres),
        larger(following, "next-strip", sizes=decoder, eyes=eyes(24, 2, 48, 3, 28, 14), joint=strip, dtype="f32"),
        larger(
            following,
            "next-layers-qwen2",
            sizes=decoder,
            text="qwen2",
            tokenizer="qwen2",
            template="llava-chatml",
            eyes=eyes(24, 2, 48, 3, 28, 7),
            joint=dict(anyres, vision_feature_layer=[-2, -1]),
        ),
        larger(
            following,
            "next-siglip",
            sizes=decoder,
            vision="siglip",
            eyes=eyes(24, 2, 48, 3, 28, 7),
            joint=dict(anyres, vision_feature_layer=-1, vision_feature_select_strategy="full"),
        ),
        larger(following, "next-old", sizes=decoder, eyes=eyes(24, 2, 48, 3, 30, 7), joint=odd, old=True),
    ]
    split, third, intern = made["smolvlm"], made["idefics3"], made["internvl"]
    normed = eyes(16, 2, 24, 3, 28, 7, use_qk_norm=True, norm_type="rms_norm", use_mean_pooling=False)
    untied = dict(tie_word_embeddings=False, image_seq_length=4)
    four, whole = {"longest_edge": 64}, dict(do_image_splitting=False)
    seeing += [
        larger(split, "smolvlm-wide", sizes=decoder, eyes=eyes(32, 4, 48, 3, 32, 4), joint=dict(scale_factor=4)),
        larger(split, "smolvlm-256m", sizes=dict(decoder, head_dim=16), cut=dict(size=four), dtype="f32"),
        larger(split, "smolvlm-tied", sizes=decoder, joint=dict(scale_factor=4, tie_word_embeddings=True)),
        larger(split, "smolvlm-whole", sizes=decoder, cut=whole),
        larger(split, "smolvlm-qwen2", text="qwen2", sizes=decoder, joint=dict(scale_factor=1)),
        larger(third, "idefics3-untied", sizes=decoder, joint=dict(scale_factor=3)),
        larger(intern, "internvl-untied", sizes=decoder, joint=untied, cut=dict(max_patches=12)),
        larger(intern, "internvl-normed", sizes=decoder, text="qwen3", eyes=normed, dtype="f32"),
        larger(intern, "internvl-whole", sizes=decoder, cut=dict(max_patches=1)),
        larger(
            intern,
            "internvl-quarter",
            sizes=decoder,
            eyes=eyes(24, 3, 32, 3, 56, 7),
            joint=dict(downsample_ratio=0.25, image_seq_length=4, vision_feature_layer=-2),
        ),
        larger(third, "idefics3-unresized", sizes=decoder, cut=dict(do_resize=False), joint=dict(scale_factor=1)),
    ]
    two, two_and_half = made["qwen2-vl"], made["qwen2.5-vl"]

    def turned(theta, *sections, kind="default", **more):
        return dict(rope_parameters=rope(kind, theta, mrope_section=list(sections), **more))

    def tower2(patch, dim, heads, out, **more):
        return qwen_eyes(patch, embed_dim=dim, num_heads=heads, hidden_size=out, **{"depth": 3, "mlp_ratio": 2, **more})

    def tower25(patch, dim, heads, out, window, full, **more):
        sizes = dict(hidden_size=dim, num_heads=heads, out_hidden_size=out, intermediate_size=dim + 12)
        return qwen_eyes(patch, **{"depth": 4, **sizes, "window_size": window, "fullatt_block_indexes": full, **more})

    yarn = turned(1e4, 2, 2, 2, kind="yarn", factor=4.0, original_max_position_embeddings=32)
    seeing += [
        larger(two, "qwen2-vl-f32", sizes=text(48, 4, 2, 64, **turned(1e6, 1, 2, 3), **wide), dtype="f32", old=False,
               eyes=tower2(4, 32, 4, 48), joint={}),
        larger(two, "qwen2-vl-gelu", sizes=text(56, 7, 1, 64, **turned(1e5, 2, 1, 1), positions=1024, vocab=401), old=False,
               eyes=tower2(3, 24, 2, 56, merge=3, hidden_act="gelu"), joint={}, cut=pixels(81, 1500)),
        larger(two, "qwen2-vl-old-untied", sizes=text(32, 4, 4, 48, **turned(1e6, 1, 1, 2), **wide), joint={}, cut=pixels(1024, 4096)),
        larger(two, "qwen2-vl-one", sizes=text(32, 4, 2, 48, **turned(1e6, 2, 1, 1), **wide), old=False, dtype="f16",
               eyes=tower2(6, 16, 4, 32, merge=1, frames=1), cut=pixels(300, 1200)),
        larger(two, "qwen2-vl-yarn", sizes=text(48, 4, 2, 64, **yarn, **wide), old=False, eyes=tower2(4, 16, 1, 48), joint={}),
        larger(two_and_half, "qwen2.5-vl-f32", sizes=text(48, 4, 2, 64, **turned(1e6, 2, 2, 2), **wide), dtype="f32",
               eyes=tower25(4, 32, 4, 48, 24, [1, 3])),
        larger(two_and_half, "qwen2.5-vl-tied", sizes=text(56, 7, 1, 64, **turned(1e6, 1, 2, 1), positions=1024, vocab=401),
               dtype="bf16", eyes=tower25(3, 16, 2, 56, 19, [0], merge=3), joint=dict(tie_word_embeddings=True), cut=pixels(81, 2500)),
        larger(two_and_half, "qwen2.5-vl-full", sizes=text(48, 2, 2, 64, **turned(1e6, 4, 4, 4), **wide),
               eyes=tower25(4, 24, 1, 48, 16, [0, 1, 2, 3])),
        larger(two_and_half, "qwen2.5-vl-windows", sizes=text(32, 4, 2, 48, **turned(1e6, 1, 1, 2), **wide),
               eyes=tower25(2, 16, 4, 32, 12, [], frames=1), cut=pixels(200, 900)),
        larger(two_and_half, "qwen2.5-vl-old", sizes=text(32, 4, 4, 48, **turned(1e6, 1, 1, 2), **wide), old=True,
               eyes=tower25(4, 16, 2, 32, 16, [2])),
    ]
    local, third, panned = made["gemma3-text"], made["gemma3"], made["gemma3-scan"]
    longer = dict(positions=1024, vocab=409)
    text_only += [
        larger(local, "gemma3-text-untied", sizes=text(48, 6, 2, 64, layers=5, tie_word_embeddings=False, **gemma(12, 9, 6), **longer)),
        larger(local, "gemma3-text-biases", sizes=text(48, 4, 4, 64, attention_bias=True, **gemma(16, 200, 2), **longer), dtype="f32"),
        larger(local, "gemma3-text-global", sizes=text(40, 4, 1, 64, query_pre_attn_scalar=7, **gemma(12, 5, 1), **longer)),
    ]
    seeing += [
        larger(third, "gemma3-f32", sizes=text(48, 4, 2, 64, layers=4, **gemma(16, 11, 3, scaling=4.0), **longer), dtype="f32",
               eyes=eyes(24, 3, 40, 3, 28, 7, hidden_act="gelu"), joint=dict(mm_tokens_per_image=16)),
        larger(third, "gemma3-untied", sizes=text(56, 7, 1, 64, **gemma(10, 40, 2), **longer), dtype="bf16",
               joint=dict(mm_tokens_per_image=4, tie_word_embeddings=False)),
        larger(third, "gemma3-one", sizes=text(32, 4, 2, 64, layers=2, **gemma(8, 6, 2), **longer), joint=dict(mm_tokens_per_image=1)),
        larger(third, "gemma3-old", sizes=text(32, 4, 4, 48, **gemma(8, 16, 2, scaling=2.0), **longer), old=True),
        larger(panned, "gemma3-scan-more", sizes=text(48, 4, 2, 64, **gemma(12, 30, 2), **longer), cut=scan(3, 5, 1.0), dtype="f32"),
    ]
    tied3, untied3 = made["qwen3-vl"], made["qwen3-vl-untied"]
    bent = interleaved(1e4, 3, 2, 3, kind="yarn", factor=4.0, original_max_position_embeddings=32)

    def deep(layers, *sections, **more):
        width = 2 * sum(sections)
        return text(48, 4, 2, 64, layers=layers, head_dim=width, rope_parameters=interleaved(5e6, *sections), **more, **wide)

    seeing += [
        larger(tied3, "qwen3-vl-f32", sizes=deep(4, 4, 2, 2), dtype="f32", old=False, eyes=qwen3_eyes(4, 32, 4, 48, 144, [0, 1, 3], depth=5)),
        larger(tied3, "qwen3-vl-one", sizes=deep(2, 2, 3, 3), dtype="f16", old=False,
               eyes=qwen3_eyes(6, 16, 4, 48, 49, [1], merge=1, frames=1), cut=halves(300, 1200)),
        larger(tied3, "qwen3-vl-flat", sizes=deep(3, 3, 3, 2), eyes=qwen3_eyes(4, 24, 2, 48, 1, [])),
        larger(untied3, "qwen3-vl-thirds", sizes=deep(3, 6, 1, 1), dtype="bf16", cut=halves(81, 2500),
               eyes=qwen3_eyes(3, 24, 2, 48, 36, [2], merge=3, hidden_act="gelu")),
        larger(untied3, "qwen3-vl-yarn", sizes=text(56, 7, 1, 64, head_dim=16, rope_parameters=bent, positions=1024, vocab=401),
               eyes=qwen3_eyes(2, 16, 1, 56, 16, [0, 2]), cut=halves(200, 900)),
        larger(untied3, "qwen3-vl-old", sizes=deep(3, 1, 4, 3), old=True, dtype="bf16", eyes=qwen3_eyes(4, 16, 2, 48, 2304, [0, 1, 2])),
    ]
    return text_only + seeing
