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
    Gemma3Processor,
    GenerationConfig,
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

SQUARE = {
    "clip": CLIPImageProcessorPil,
    "llava": LlavaImageProcessorPil,
    "llava_next": LlavaNextImageProcessorPil,
}


# Families whose processors write the grid of tiles into the text.
SPLIT = {
    "idefics3": (Idefics3ImageProcessorPil, Idefics3Processor),
    "smolvlm": (SmolVLMImageProcessorPil, SmolVLMProcessor),
}


QWEN = {
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
}


def qwen_config(case, tokenizer, ids):
    """The parts are given as dictionaries: the classes of the parts follow from that of the whole."""
    named = dict(image=tokens.PAD, video=tokens.VIDEO, vision_start=tokens.START, vision_end=tokens.END)
    special = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    return WHOLE[case.whole](text_config={**case.sizes, **ids}, vision_config=dict(case.eyes), **special, **case.joint)


def config(case, tokenizer, ends):
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends if len(ends) > 1 else ends[0])
    ids["pad_token_id"] = tokenizer.pad_token_id
    if case.whole in QWEN:
        return qwen_config(case, tokenizer, ids)
    text = TEXT[case.text](**{**case.sizes, **ids})
    if case.whole is None:
        return text
    vision = VISION[case.vision](**case.eyes)
    if case.whole in SPLIT or case.whole == "internvl":
        image = tokenizer.convert_tokens_to_ids(tokens.IMAGE)
        return WHOLE[case.whole](vision_config=vision, text_config=text, image_token_id=image, **case.joint)
    if case.whole == "gemma3":
        named = dict(boi=tokens.BOI, eoi=tokens.EOI, image=tokens.SOFT)
        special = {f"{name}_token_index": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
        return WHOLE[case.whole](vision_config=vision, text_config=text, **special, **case.joint)
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
    if case.whole in QWEN:
        sizes = {name: case.eyes[name] for name in ["patch_size", "temporal_patch_size"]}
        return Qwen2VLImageProcessorPil(merge_size=case.eyes["spatial_merge_size"], **sizes, **case.cut)
    side = case.eyes["image_size"]
    if case.pixels == "internvl":
        return GotOcr2ImageProcessorPil(size={"height": side, "width": side}, **case.cut)
    if case.pixels == "gemma3":
        return Gemma3ImageProcessorPil(size={"height": side, "width": side}, **case.cut)
    if case.pixels in SPLIT:
        return SPLIT[case.pixels][0](max_image_size={"longest_edge": side}, **case.cut)
    both = {"height": side, "width": side}
    if case.pixels == "siglip":
        return SiglipImageProcessorPil(size=both)
    more = {"image_grid_pinpoints": case.joint["image_grid_pinpoints"]} if case.pixels == "llava_next" else {}
    if case.pixels == "llava":
        more["do_pad"] = True
    return SQUARE[case.pixels](size={"shortest_edge": side}, crop_size=both, **more)


def processor(case, config, tokenizer):
    if case.whole == "internvl":
        return InternVLProcessor(
            image_processor=image_processor(case),
            tokenizer=tokenizer,
            video_processor=InternVLVideoProcessor(),
            image_seq_length=config.image_seq_length,
            chat_template=templates.TEMPLATES[case.template],
        )
    if case.whole == "gemma3":
        return Gemma3Processor(
            image_processor=image_processor(case),
            tokenizer=tokenizer,
            image_seq_length=config.mm_tokens_per_image,
            chat_template=templates.TEMPLATES[case.template],
        )
    if case.whole in QWEN:
        kind, video = QWEN[case.whole]
        return kind(
            image_processor=image_processor(case),
            tokenizer=tokenizer,
            video_processor=video(),
            chat_template=templates.TEMPLATES[case.template],
        )
    if case.whole in SPLIT:
        more = {"video_processor": SmolVLMVideoProcessor()} if case.whole == "smolvlm" else {}
        return SPLIT[case.whole][1](
            image_processor=image_processor(case),
            tokenizer=tokenizer,
            image_seq_len=(case.eyes["image_size"] // case.eyes["patch_size"]) ** 2 // config.scale_factor**2,
            chat_template=templates.TEMPLATES[case.template],
            **more,
        )
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
