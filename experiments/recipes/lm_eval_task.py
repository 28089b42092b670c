"""The functions of lm_eval_task.yaml."""

import records

PACKS = records.Images()


def doc_to_text(doc):
    # lm-evaluation-harness replaces the tag by the image.
    return "<image>" * bool(doc.get("image")) + records.render(doc, "direct")


def doc_to_image(doc):
    return [PACKS.open(doc["image"])] if doc.get("image") else []


def doc_to_target(doc):
    return doc["answers"]
