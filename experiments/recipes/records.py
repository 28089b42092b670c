"""What the recipes share: records and images as ablate writes them."""

import io
import json
import os
import tarfile
import threading
from pathlib import Path

from blake3 import blake3

# A result must not depend on what a hub serves today.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write(path, records):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def of_datasets(items, names):
    """The items of these data sets; all, if there are no names."""
    missing = set(names) - {item["dataset"] for item in items}
    if missing:
        raise SystemExit(f"no item has the data set {', '.join(sorted(missing))}")
    return [item for item in items if not names or item["dataset"] in names]


def seed():
    """The seed of the instance, in the 32 bits that numpy accepts."""
    return int(os.environ.get("ABLATE_SEED", "0")) % 2**32


class Images:
    """The image packs (`*.tar`) in a folder. A record names an image `PACK/MEMBER`, where PACK is the beginning of the
    blake3 hash of the tar file."""

    def __init__(self, folder="images"):
        paths = sorted(Path(folder).glob("*.tar"))
        self.packs = {blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()[:16]: path for path in paths}
        # By process and thread: workers of a data loader and threads of a pool would share the position in the file.
        self.open_packs = {}

    def encoded(self, key):
        """The bytes of an image's file."""
        pack, member = key.split("/", 1)
        if pack not in self.packs:
            raise SystemExit(f"the image `{key}` is in none of the packs {[str(path) for path in self.packs.values()]}")
        place = (os.getpid(), threading.get_ident(), pack)
        if place not in self.open_packs:
            self.open_packs[place] = tarfile.open(self.packs[pack])
        return self.open_packs[place].extractfile(member).read()

    def open(self, key):
        """An image, rotated by its EXIF orientation as ablate does."""
        from PIL import Image, ImageOps

        return ImageOps.exif_transpose(Image.open(io.BytesIO(self.encoded(key)))).convert("RGB")
