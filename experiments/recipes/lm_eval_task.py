"""The functions of lm_eval_task.yaml."""

from conversations import image_keys, parts, render
from records import Images

PACKS = Images()
# Where lm-evaluation-harness puts an image.
TAG = "<image>"


def doc_to_text(doc):
    found = parts(doc, render(doc, "direct"), True)
    if any(TAG in part for part in found if part is not None):
        raise SystemExit(f"item `{doc['id']}`: lm-evaluation-harness takes the text `{TAG}` for an image")
    return "".join(TAG if part is None else part for part in found)


def doc_to_image(doc):
    return [PACKS.open(key) for key in image_keys(doc)]


def doc_to_target(doc):
    return doc["answers"]
