"""Writes a case's folder: weights, config, tokenizer, processor, as transformers saves them."""

import json

import fixed
import templates
import tokens
import torch
from cases import TEXT, VISION, WHOLE
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    LlavaNextProcessor,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SQUARE = {
    "clip": CLIPImageProcessorPil,
    "llava": LlavaImageProcessorPil,
    "llava_next": LlavaNextImageProcessorPil,
}


def config(case, tokenizer, ends):
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends if len(ends) > 1 else ends[0])
    text = TEXT[case.text](**{**case.sizes, **ids, "pad_token_id": tokenizer.pad_token_id})
    if case.whole is None:
        return text
    vision = VISION[case.vision](**case.eyes)
    return WHOLE[case.whole](
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(tokens.IMAGE),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        **case.joint,
    )


def empty(case, config, dtype):
    """A model whose weights are yet to be drawn."""
    kind = AutoModelForCausalLM if case.whole is None else AutoModelForImageTextToText
    return kind.from_config(config, dtype=dtype, attn_implementation="eager").eval()


def model(case, tokenizer, ends):
    made = empty(case, config(case, tokenizer, ends), torch.float32)
    made.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=made.config.get_text_config().eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return made


def load(case, folder):
    """The model as float32 from the folder's weights, whatever they were saved in."""
    kind = AutoModelForCausalLM if case.whole is None else AutoModelForImageTextToText
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def image_processor(case):
    side = case.eyes["image_size"]
    both = {"height": side, "width": side}
    if case.pixels == "siglip":
        return SiglipImageProcessorPil(size=both)
    more = {"image_grid_pinpoints": case.joint["image_grid_pinpoints"]} if case.pixels == "llava_next" else {}
    if case.pixels == "llava":
        more["do_pad"] = True
    return SQUARE[case.pixels](size={"shortest_edge": side}, crop_size=both, **more)


def processor(case, config, tokenizer):
    kind = LlavaProcessor if case.whole == "llava" else LlavaNextProcessor
    return kind(
        image_processor=image_processor(case),
        tokenizer=tokenizer,
        patch_size=case.eyes["patch_size"],
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(case.vision == "clip"),
        chat_template=templates.TEMPLATES[case.template],
    )


def save(case, model, processor, ends, folder):
    """Writes what `save_pretrained` writes of model, tokenizer and processor."""
    tokenizer = getattr(processor, "tokenizer", processor)
    # Not `model.to(dtype)`, which would round the rotary frequencies too.
    saved = empty(case, config(case, tokenizer, ends), fixed.DTYPES[case.dtype])
    saved.load_state_dict(model.state_dict())
    saved.generation_config = model.generation_config
    more = {} if case.shard is None else {"max_shard_size": case.shard}
    saved.save_pretrained(folder, **more)
    processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    # Packed: half the bytes of a small tokenizer are white space.
    path = folder / "tokenizer.json"
    path.write_text(
        json.dumps(json.loads(path.read_text("utf-8")), ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
