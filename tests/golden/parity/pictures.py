"""Small images, all different in shape and kind, written as PNG."""

import random

from PIL import Image, ImageDraw

# Name: width, height, mode, seed.
PICTURES = {
    "wide": (61, 23, "RGB", 1),
    "tall": (19, 57, "RGB", 2),
    "square": (40, 40, "RGB", 3),
    "tiny": (5, 7, "RGB", 4),
    "grey": (33, 45, "L", 5),
    "alpha": (52, 31, "RGBA", 6),
    "large": (301, 187, "RGB", 7),
}


def picture(name):
    width, height, mode, seed = PICTURES[name]
    chance = random.Random(seed)
    image = Image.new("RGBA", (width, height))
    for x in range(width):
        for y in range(height):
            wave = (x * 5 + y * 3 + seed * 40) % 256
            image.putpixel((x, y), ((x * 255) // width, (y * 255) // height, wave, 255))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = chance.randrange(width), chance.randrange(height)
        colour = tuple(chance.randrange(256) for _ in range(4))
        pen.rectangle([x, y, x + width // 4, y + height // 4], fill=colour)
    return image.convert(mode)


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        picture(name).save(folder / f"{name}.png", optimize=True)
