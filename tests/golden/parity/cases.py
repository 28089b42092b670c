"""The checkpoints: their sizes, choices, tokenizers and images."""

from dataclasses import dataclass, field

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

TEXT = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
VISION = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}
WHOLE = {"llava": LlavaConfig, "llava_next": LlavaNextConfig}


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
    # What LlavaConfig or LlavaNextConfig is given.
    joint: dict = field(default_factory=dict)
    # The class of the image processor: clip, siglip, llava, llava_next.
    pixels: str | None = None
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


def rope(kind, theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


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
    return text_only + seeing
