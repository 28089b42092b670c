"""Writes `jpeg/`: small images in every JPEG encoding, for `src/data/tests/jpeg.rs`.

    python3 tests/golden/make_jpegs.py
"""

from pathlib import Path

from PIL import Image

SIZE = (43, 29)
FOLDER = Path(__file__).parent / "jpeg"


def pixel(x, y):
    stripe = 90 if (x // 5 + y // 3) % 2 else 0
    return (x * 5 + stripe) % 256, (y * 7 + x * x) % 256, (x * y + stripe) % 256


picture = Image.new("RGB", SIZE)
picture.putdata([pixel(x, y) for y in range(SIZE[1]) for x in range(SIZE[0])])
turned = Image.Exif()
turned[0x0112] = 6  # to be shown a quarter turn clockwise
FOLDER.mkdir(exist_ok=True)
for name, mode, how in [
    ("baseline", "RGB", {}),
    ("progressive", "RGB", {"progressive": True}),
    ("restart", "RGB", {"restart_marker_blocks": 2}),
    ("progressive_restart", "RGB", {"progressive": True, "restart_marker_blocks": 2}),
    ("full_chroma", "RGB", {"subsampling": 0, "optimize": True}),
    ("half_chroma", "RGB", {"subsampling": 1, "progressive": True}),
    ("grey", "L", {}),
    ("cmyk", "CMYK", {}),
    ("turned", "RGB", {"exif": turned}),
]:
    picture.convert(mode).save(FOLDER / f"{name}.jpg", "JPEG", quality=75, **how)
