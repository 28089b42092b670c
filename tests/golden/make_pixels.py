"""Golden pixels, grids and feature orders of Hugging Face's image processors.

    python make_pixels.py            # needs transformers 5.24, torch, torchvision, pillow; writes into pixels/

Small pictures of odd sizes and every kind of PNG, and for each processor its settings as `save_pretrained` writes them
and the values that the class with the Pillow backend computes. Files are written so that equal numbers give equal files.
It also prints how far the torchvision backend is from the Pillow one.
"""

import json
import os
import random
import shutil
import sys
import types
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# `statistics.py` beside this file would hide the standard library's.
sys.path.pop(0)

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_llava import LlavaImageProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

torch.set_num_threads(1)
HERE = Path(__file__).parent / "pixels"
CLIP = (CLIPImageProcessorPil, CLIPImageProcessor)
SIGLIP = (SiglipImageProcessorPil, SiglipImageProcessor)
LLAVA = (LlavaImageProcessorPil, LlavaImageProcessor)
NEXT = (LlavaNextImageProcessorPil, LlavaNextImageProcessor)
QWEN = (Qwen2VLImageProcessorPil, Qwen2VLImageProcessor)


def square(side):
    return {"height": side, "width": side}


def short(side):
    return {"shortest_edge": side}


PROCESSORS = {
    "clip": (CLIP, dict(size=short(14), crop_size=square(14))),
    "clip_border": (CLIP, dict(size=short(9), crop_size=square(14), resample=2)),
    "clip_fixed": (CLIP, dict(size={"height": 12, "width": 17}, crop_size=square(11), resample=1)),
    "clip_nearest": (CLIP, dict(size=short(21), crop_size=square(16), resample=0, do_normalize=False)),
    "clip_raw": (CLIP, dict(size=square(10), do_center_crop=False, do_rescale=False)),
    "siglip": (SIGLIP, dict(size=square(16))),
    "siglip_bilinear": (SIGLIP, dict(size=square(13), resample=2)),
    "llava_pad": (LLAVA, dict(size=short(14), crop_size=square(14), do_pad=True)),
    "llava_plain": (LLAVA, dict(size=short(16), crop_size=square(12))),
    "next": (NEXT, dict(size=short(10), crop_size=square(10),
                        image_grid_pinpoints=[[10, 20], [20, 10], [20, 20], [30, 10], [10, 30]])),
    "next_many": (NEXT, dict(size=short(7), crop_size=square(7), resample=2,
                             image_grid_pinpoints=[[7 * i, 7 * j] for i in range(1, 4) for j in range(1, 4)])),
    "next_fixed": (NEXT, dict(size=square(9), crop_size=square(9), image_grid_pinpoints=[[9, 9], [18, 27]])),
    "next_recut": (NEXT, dict(size=short(12), crop_size=square(8), image_grid_pinpoints=[[16, 16], [8, 24]])),
    "qwen2_vl": (QWEN, dict(patch_size=4, min_pixels=256, max_pixels=1024)),
    "qwen2_vl_bilinear": (QWEN, dict(patch_size=3, merge_size=3, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                     size={"shortest_edge": 81, "longest_edge": 600})),
    "qwen2_vl_one": (QWEN, dict(patch_size=7, merge_size=1, temporal_patch_size=1, min_pixels=49, max_pixels=600)),
}


def pictures():
    """Name and Pillow image: gradients with noise."""
    draw = np.random.default_rng(7)

    def colours(width, height, channels=3, noise=40):
        y, x = np.mgrid[0:height, 0:width]
        planes = [(x * (c + 2) * 97 // width + y * (5 - c) * 61 // height) % 256 for c in range(channels)]
        rough = draw.integers(-noise, noise + 1, (height, width, channels)) if noise else 0
        return np.clip(np.stack(planes, -1) + rough, 0, 255).astype(np.uint8)

    yield "tiny.png", Image.fromarray(colours(7, 5))
    yield "square.png", Image.fromarray(colours(64, 64))
    yield "wide.png", Image.fromarray(colours(100, 30))
    yield "tall.png", Image.fromarray(colours(30, 100))
    yield "large.png", Image.fromarray(colours(333, 217, noise=1))
    yield "line.png", Image.fromarray(colours(90, 1))
    yield "exact.png", Image.fromarray(colours(28, 28))
    yield "grey.png", Image.fromarray(colours(41, 23)[..., 0])
    yield "grey_alpha.png", Image.fromarray(colours(19, 24, 2))
    yield "bits.png", Image.fromarray(colours(37, 21)[..., 0]).convert("1")
    yield "palette.png", Image.fromarray(colours(33, 40)).quantize(16)
    yield "palette_clear.png", Image.fromarray(colours(33, 21)).quantize(8)
    yield "alpha.png", Image.fromarray(colours(31, 45, 4))
    yield "deep.png", Image.fromarray((colours(29, 31)[..., 0].astype(np.uint16) * 3))
    yield "photo.jpg", Image.fromarray(colours(120, 80, noise=12))
    yield "grey.jpg", Image.fromarray(colours(50, 70, noise=12)[..., 0])


def values_of(processor, image, **kind):
    """Pixel values. Qwen2-VL's patches, which hold an image once per frame, become an image again: (3, height, width)."""
    made = processor(image, **kind)
    values = np.asarray(made["pixel_values"], dtype=np.float32)
    if "image_grid_thw" not in made:
        return values[0]
    _, rows, columns = np.asarray(made["image_grid_thw"])[0]
    merge, patch, frames = processor.merge_size, processor.patch_size, processor.temporal_patch_size
    cells = values.reshape(rows // merge, columns // merge, merge, merge, 3, frames, patch, patch)
    assert all(np.array_equal(cells[:, :, :, :, :, frame], cells[:, :, :, :, :, 0]) for frame in range(frames))
    return cells[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def make_pixels():
    images = {}
    for name, image in pictures():
        more = {"transparency": 3} if name == "palette_clear.png" else {}
        image.save(HERE / name, **(dict(quality=90) if name.endswith("jpg") else dict(optimize=True, **more)))
        images[name] = Image.open(HERE / name)
        images[name].load()
    blob, index = bytearray(), []
    for kind, ((pillow, torchvision), settings) in PROCESSORS.items():
        processor, other = pillow(**settings), torchvision(**settings)
        folder = HERE / kind
        folder.mkdir()
        if kind == "next_many":
            # Where transformers 5 writes it when a tokenizer is beside it.
            whole = {"image_processor": processor.to_dict(), "processor_class": "LlavaNextProcessor"}
            (folder / "processor_config.json").write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
        else:
            processor.save_pretrained(folder)
        most, values, far, which = 0.0, 0, 0, ""
        for name, image in images.items():
            got, there = values_of(processor, image, return_tensors="np"), values_of(other, image, return_tensors="pt")
            # In levels of 255.
            unit = 1.0 if not settings.get("do_rescale", True) else 1 / 255
            unit = unit / np.asarray(processor.image_std, np.float32)[:, None, None] if settings.get("do_normalize", True) else unit
            apart = np.abs(got - there) / unit
            which = name if apart.max() > most else which
            most, values, far = max(most, apart.max()), values + apart.size, far + int((apart > 0.5).sum())
            index.append({"processor": kind, "image": name, "tiles": len(got) if got.ndim == 4 else 1,
                          "offset": len(blob) // 4})
            blob += got.astype("<f4").tobytes()
        print(f"{kind}: torchvision differs by up to {most:.2f} levels ({which}), in {far} of {values} values")
    (HERE / "expected.f32").write_bytes(blob)
    write_json(HERE / "expected.json", index)


def sizes(count):
    draw = random.Random(11)
    fixed = [(1, 1), (1, 500), (500, 1), (336, 336), (672, 336), (335, 337), (640, 480), (1000, 999), (28, 28), (2000, 30)]
    return fixed + [(draw.randint(1, 1500), draw.randint(1, 1500)) for _ in range(count)]


def make_features():
    """Grids, numbers of features, and the order of a few in full: the features are numbered, a newline is -1."""
    cases = []
    lists = [
        (336, 14, [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]),
        (28, 14, [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]),
        (42, 14, [[42 * i, 42 * j] for i in range(1, 5) for j in range(1, 5)]),
        (20, 10, [[60, 20]]),
    ]
    for size, patch, pinpoints in lists:
        side = size // patch
        model = types.SimpleNamespace(config=types.SimpleNamespace(
            image_grid_pinpoints=pinpoints, vision_config=types.SimpleNamespace(image_size=size, patch_size=patch)))
        processor = types.SimpleNamespace(
            image_processor=types.SimpleNamespace(image_grid_pinpoints=pinpoints), patch_size=patch,
            num_additional_image_tokens=0, _get_unpadded_features=lambda *a: LlavaNextProcessor._get_unpadded_features(None, *a))
        entries = []
        for number, (width, height) in enumerate(sizes(60 if size > 100 else 120)):
            best = select_best_resolution((height, width), pinpoints)
            grid = (best[0] // size, best[1] // size)
            tiles = 1 + grid[0] * grid[1]
            features = torch.arange(tiles * side * side, dtype=torch.float64).view(tiles, side * side, 1)
            packed, _ = LlavaNextModel.pack_image_features(
                model, [features], [(height, width)], "default", image_newline=torch.full((1,), -1.0, dtype=torch.float64))
            order = packed[0][:, 0].long().tolist()
            count = LlavaNextProcessor._get_number_of_features(processor, height, width, size, size)
            assert count == len(order), (width, height, count, len(order))
            entry = {"width": width, "height": height, "grid": grid, "count": count}
            if size < 100 and number % 8 < 2:
                entry["order"] = order
            entries.append(entry)
        cases.append({"image_size": size, "patch_size": patch, "pinpoints": pinpoints, "images": entries})
    write_json(HERE / "features.json", cases)


def make_smart_resize():
    """Sizes of images after Qwen2-VL's resizing: `[width, height, new width, new height]`."""
    draw = random.Random(13)
    cases = []
    for cell, least, most in [(28, 3136, 12845056), (28, 3136, 1003520), (32, 65536, 16777216), (28, 200704, 200704), (6, 40, 900), (7, 1, 1500)]:
        found = []
        fixed = [(1, 1), (1, 200), (200, 1), (14, 14), (42, 42), (70, 98), (28, 28), (3584, 3584), (8000, 60), (13, 2599)]
        scales = [(draw.choice([20, 100, 500, 3000, 9000]), draw.choice([20, 100, 500, 3000, 9000])) for _ in range(100)]
        for width, height in fixed + [(draw.randint(1, across), draw.randint(1, down)) for across, down in scales]:
            if max(width, height) / min(width, height) <= 200:
                tall, wide = smart_resize(height, width, factor=cell, min_pixels=least, max_pixels=most)
                found.append([width, height, wide, tall])
        cases.append({"cell": cell, "min_pixels": least, "max_pixels": most, "sizes": found})
    write_json(HERE / "smart_resize.json", cases)


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    make_pixels()
    make_features()
    make_smart_resize()
