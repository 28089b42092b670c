"""What the recipes share: the conversations of records, with the same texts and targets as in ablate."""

import re
import string

# Instructions of ablate's templates: after a question, and after one whose answer is the letter of an option.
TEMPLATES = {
    "direct": ("Answer briefly.", "Answer with the letter."),
    "cot": ("Explain first, then answer.", "Explain first, then answer with the letter."),
    "bare": ("", ""),
}
# Stands for a response when a chat template is examined. No text has this character.
PROBE = "\U000f0003"


def render(item, template):
    """The user's turn of an item: question, options, instruction."""
    text, letter = TEMPLATES[template]
    options = [f"{name} {option}" for name, option in zip(string.ascii_uppercase, item.get("options") or [])]
    instruction = letter if item["answer_type"] in ("letter", "mmbench") else text
    return "\n".join([item["question"], *options, *([instruction] if instruction else [])])


def image_keys(record):
    """The keys of a record's images, in order."""
    return [record["image"]] if record.get("image") else record.get("images") or []


def messages(record, prompt):
    """The conversation up to the user's last turn, which is `prompt`, as chat templates take it."""
    found = [message("system", [record["system"]])] if record.get("system") else []
    history = record.get("history") or []
    for index, text in enumerate([turn["prompt"] for turn in history] + [prompt]):
        found.append(message("user", parts(record, text, index == 0)))
        if index < len(history):
            found.append(message("assistant", [history[index]["response"]]))
    return found


def parts(record, text, first):
    """The texts of a user's turn, and `None` for each image. `image` stands before the first turn; `images` stand where
    the turns have `<image>`, and `\\<image>` is that text."""
    if not record.get("images"):
        return [None] * bool(first and record.get("image")) + [text]
    found = []
    for piece in re.split(r"(\\?<image>)", text):
        if piece == "<image>":
            found.append(None)
        elif found and found[-1] is not None:
            found[-1] += piece.removeprefix("\\") if piece == "\\<image>" else piece
        elif piece:
            found.append(piece.removeprefix("\\") if piece == "\\<image>" else piece)
    return found


def message(role, content):
    texts = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in content]
    return {"role": role, "content": texts}


class Chat:
    """The conversation format of a model. The target is a response and its end of turn."""

    def __init__(self, processor):
        self.processor = processor
        self.special = {*processor.tokenizer.all_special_tokens, getattr(processor, "image_token", None)} - {None}
        question = [message("user", ["?"])]
        prompt, whole = self.render(question, True), self.render([*question, message("assistant", [PROBE])], False)
        if not whole.startswith(prompt) or whole.count(PROBE) != 1:
            raise SystemExit("the chat template does not write a conversation as its prompt followed by the response")
        before, after = whole[len(prompt) :].split(PROBE)
        eos = processor.tokenizer.eos_token
        self.before, self.after = before, after.split(eos)[0] + eos

    def prompt(self, record, prompt):
        """The text before the last response."""
        turns = messages(record, prompt)
        self.check(record, [part.get("text", "") for turn in turns for part in turn["content"]])
        return self.render(turns, True)

    def response(self, record, text, cut=False):
        """The text of a response. One that was cut has no end of turn."""
        self.check(record, [text])
        return self.before + text + ("" if cut else self.after)

    def check(self, record, texts):
        """ablate encodes the name of a special token as text; a rendered template cannot tell them apart."""
        for token in sorted(self.special):
            if any(token in text for text in texts):
                raise SystemExit(f"`{record['id']}`: the text has the special token `{token}`: remove this record")

    def render(self, turns, opens_response):
        return self.processor.apply_chat_template(turns, add_generation_prompt=opens_response, tokenize=False)
