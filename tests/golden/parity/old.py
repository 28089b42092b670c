"""Rewrites a folder into what transformers 4 wrote: the names of tensors, the keys of configs, one file per part."""

import json

from safetensors.torch import load_file, save_file

# What transformers 5 writes into a decoder's config and 4 did not.
NEW_IN_TEXT = ["dtype", "layer_types", "pad_token_id"]
# What the cases leave as the class has it.
USUAL_IN_TEXT = ["attention_bias", "attention_dropout", "head_dim", "hidden_act", "initializer_range", "mlp_bias"]
USUAL_IN_TEXT += ["pretraining_tp", "use_cache", "tie_word_embeddings", "bos_token_id", "eos_token_id"]
USUAL_IN_VISION = ["attention_dropout", "dtype", "hidden_act", "initializer_factor", "initializer_range"]
USUAL_IN_VISION += ["layer_norm_eps", "num_channels"]
DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


def pretty(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def old_rope(text):
    """`rope_theta` beside `rope_scaling`, whose kind was called `type`."""
    rope = dict(text.pop("rope_parameters"))
    kind = rope.pop("rope_type")
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = {"type": kind, **rope} if kind != "default" or rope else None


def old_text(text, dtype):
    old_rope(text)
    for key in NEW_IN_TEXT:
        text.pop(key, None)
    text["torch_dtype"] = dtype


def old_config(config, dtype):
    dtype = DTYPES[dtype]
    config.pop("dtype", None)
    config["torch_dtype"] = dtype
    config["transformers_version"] = "4.40.0"
    if config["model_type"] in ["qwen2_vl", "qwen2_5_vl"]:
        return old_qwen_vl(config, dtype)
    if config["model_type"] == "gemma3":
        return old_gemma3(config, dtype)
    if config["model_type"] == "qwen3_vl":
        return old_qwen3_vl(config, dtype)
    if "text_config" not in config:
        old_text(config, dtype)
        if config["model_type"] == "qwen2":
            config.update(sliding_window=4096, use_sliding_window=False, max_window_layers=28)
        return config
    text = config["text_config"]
    old_text(text, dtype)
    # Only what differs from the class's defaults was kept.
    for key in USUAL_IN_TEXT:
        text.pop(key, None)
    if text["rope_scaling"] is None:
        text.pop("rope_scaling")
    if text["rope_theta"] == 10000.0:
        text.pop("rope_theta")
    vision = config["vision_config"]
    for key in USUAL_IN_VISION:
        vision.pop(key, None)
    config.pop("multimodal_projector_bias")
    config["ignore_index"] = -100
    return config


def old_gemma3(config, dtype):
    """One base of rotary positions for each kind of layer, and the distance between the layers without a window."""
    text, vision = config["text_config"], config["vision_config"]
    ropes = text.pop("rope_parameters")
    whole, local = ropes["full_attention"], ropes["sliding_attention"]
    text["rope_theta"], text["rope_local_base_freq"] = whole.pop("rope_theta"), local["rope_theta"]
    text["rope_scaling"] = whole if whole["rope_type"] != "default" else None
    text["sliding_window_pattern"] = text.pop("_sliding_window_pattern")
    for key in NEW_IN_TEXT:
        text.pop(key, None)
    for key in USUAL_IN_VISION:
        vision.pop(key, None)
    text["torch_dtype"] = dtype
    return config


def old_qwen_vl(config, dtype):
    """The fields of the decoder stood in the outer object."""
    text, vision = config.pop("text_config"), config["vision_config"]
    old_text(text, dtype)
    if text["rope_scaling"] is None or text["rope_scaling"]["type"] == "default":
        text["rope_scaling"]["type"] = "mrope"
    text.pop("model_type")
    text.update(sliding_window=32768, use_sliding_window=False, max_window_layers=28)
    for key in ["dtype", "initializer_range", "model_type", "rope_parameters"]:
        vision.pop(key, None)
    vision["in_chans"] = vision.pop("in_channels")
    vision["spatial_patch_size"] = vision["patch_size"]
    if vision["hidden_act"] == "quick_gelu":
        vision.pop("hidden_act")
    return {**config, **text}


def old_qwen3_vl(config, dtype):
    """As transformers 4.57 wrote it: the type of the numbers stands in the decoder's fields only."""
    text, vision = config["text_config"], config["vision_config"]
    old_text(text, dtype)
    text["dtype"] = text.pop("torch_dtype")
    text["rope_scaling"]["rope_type"] = text["rope_scaling"].pop("type")
    for key in ["dtype", "rope_parameters"]:
        vision.pop(key, None)
    vision["model_type"] = "qwen3_vl"
    config.pop("torch_dtype")
    config["transformers_version"] = "4.57.0.dev0"
    return config


def old_name(name):
    """The tower's inner model had a name of its own."""
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def rewrite(case, folder):
    path = folder / "config.json"
    pretty(path, old_config(json.loads(path.read_text()), case.dtype))
    weights = load_file(folder / "model.safetensors")
    renamed = {old_name(name): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    path = folder / "tokenizer_config.json"
    names = json.loads(path.read_text())
    added = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    kept = {key: names[key] for key in ["bos_token", "eos_token", "unk_token", "pad_token"] if key in names}
    if case.whole == "gemma3":
        kept |= {key: names[key] for key in ["boi_token", "eoi_token", "image_token"]}
        kept["extra_special_tokens"] = {key: names[key] for key in ["boi_token", "eoi_token", "image_token"]}
    template = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").unlink()
    tokenizer = {
        "added_tokens_decoder": {str(token.pop("id")): token for token in added},
        **kept,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if case.whole is None:
        tokenizer["chat_template"] = template
    pretty(path, tokenizer)
    pretty(folder / "special_tokens_map.json", kept)
    if case.whole is None:
        return
    pretty(folder / "chat_template.json", {"chat_template": template})
    path = folder / "processor_config.json"
    processor = json.loads(path.read_text())
    pixels = processor.pop("image_processor")
    pixels["processor_class"] = processor["processor_class"]
    pretty(folder / "preprocessor_config.json", pixels)
    pretty(path, processor)
