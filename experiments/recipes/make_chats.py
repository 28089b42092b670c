"""Makes conversations of side-by-side.toml from items: a system message, an earlier turn, and images inside the turns."""

import json

COUNT = 8

items = [json.loads(line) for line in open("items.jsonl", encoding="utf-8")]
with open("rows.jsonl", "w", encoding="utf-8") as rows:
    for number, (one, other) in enumerate(zip(items[:COUNT], items[COUNT:])):
        turn = {"prompt": f"<image>\n{one['question']}", "response": one["answers"][0]}
        chat = {
            "id": f"chat-{number}",
            "dataset": "chats",
            "images": [one["image"], other["image"]],
            "system": "Answer in one word.",
            "history": [turn],
            "prompt": f"And here? <image> {other['question']}",
            "response": other["answers"][0],
        }
        rows.write(json.dumps(chat) + "\n")
