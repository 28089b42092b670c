"""Pixels of WebP, GIF and BMP files as Pillow decodes them.

    python make_formats.py           # needs pillow, numpy; writes into formats/

Every file has one small picture; an animated one has several, of which the first counts. `expected.json` holds the RGB
bytes in hex, with transparent pixels composited on white.
"""

import json
import shutil
import sys
from pathlib import Path

# `statistics.py` next to this file would hide the standard library's.
sys.path.pop(0)

import numpy as np
from PIL import Image

HERE = Path(__file__).parent / "formats"


def colours(width, height, channels=3, shift=0):
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (c + 2) * 37 + y * (5 - c) * 23 + shift) % 256 for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 4 + 20, y * 4 + 30, 200 - x * 2 - y], -1).astype(np.uint8)


def files():
    rgb, alpha = Image.fromarray(colours(9, 7)), Image.fromarray(colours(9, 7, 4))
    yield "plain.bmp", rgb, {}
    yield "palette.bmp", rgb.quantize(16), {}
    yield "grey.bmp", Image.fromarray(colours(9, 7)[..., 0]), {}
    yield "bits.bmp", Image.fromarray(colours(9, 7)[..., 0]).convert("1"), {}
    yield "plain.gif", rgb, {}
    clear = rgb.quantize(8)
    yield "clear.gif", clear, {"transparency": 3}
    second = Image.fromarray(colours(9, 7, shift=90))
    yield "animated.gif", rgb, {"save_all": True, "append_images": [second], "duration": 100}
    yield "lossless.webp", rgb, {"lossless": True}
    yield "alpha.webp", alpha, {"lossless": True, "exact": True}
    yield "animated.webp", rgb, {"save_all": True, "append_images": [second], "lossless": True}
    yield "lossy.webp", Image.fromarray(smooth(40, 30)), {"quality": 90}
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "turned.webp", rgb, {"lossless": True, "exif": exif.tobytes()}


def decoded(path):
    image = Image.open(path)
    image.seek(0)
    from PIL import ImageOps
    image = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    expected = {}
    for name, image, more in files():
        image.save(HERE / name, **more)
        pixels = decoded(HERE / name)
        animated = getattr(Image.open(HERE / name), "n_frames", 1) > 1
        expected[name] = {"size": pixels.size, "animated": animated, "rgb": pixels.tobytes().hex()}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
