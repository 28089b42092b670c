"""Golden token ids and rendered chats, from `transformers` and `tokenizers`.

    HF_HUB_OFFLINE=1 python make_chat.py       # needs transformers, torch, pillow; writes the files in `chat/`

Tokenizers of the kinds that real models use are trained here, small, on generated text of many scripts. Beside them
stand chat templates in the manner of real models, written for this test. Files are the same byte by byte on every run.
"""

import json
import os
import random
import struct
import sys
import tempfile
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
# `statistics.py` beside this script is not python's module of that name.
sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent.resolve()]

import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

torch.set_num_threads(1)
HERE = Path(__file__).parent / "chat"
STRINGS = 1000
VOCAB = 1500

# Characters of scripts; a text draws words from one or several.
SCRIPTS = {
    "latin": "aeioutnrslcdmpéüñçßøłşœ",
    "greek": "αβγδεζηθικλμνοπρστυφχψωάέήίόύώ",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюяё",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي\u064b\u064e",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשת\u05b0\u05b8",
    "devanagari": "अआइईकखगघचजटडतदनपबमयरलवशसह\u093e\u093f\u0940\u094d\u0902",
    "thai": "กขคงจชซญดตถทธนบปผพฟมยรลวศสหอ\u0e31\u0e34\u0e35\u0e48\u0e49",
    "cjk": "的一是不了人我在有他这中大来上国个到说们日本語漢字学生",
    "kana": "あいうえおかきくけこさしすせそたちつてとなにぬアイウエオカキクケコ",
    "hangul": "가나다라마바사아자차카타파하한국어말글\u1112\u1161\u11ab",
    "fullwidth": "ａｂｃＡＢＣ１２３，。！",
}
WORDS = "the of and what is in this picture how many red blue bars are there explain answer sum it's don't I'LL we've cat".split()
EMOJI = ["🦀", "👩‍💻", "👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "☃", "🏳️‍🌈"]
SPACES = [" ", "  ", "\n", "\n\n", "\t", " \n ", "   ", "\r\n", "\u00a0", "\u3000", "\u2028", "        "]
CODE = ["def f(x):\n    return x[::-1]", "for (int i = 0; i < n; ++i) {", "</div>\n\t<p class=\"a\">", "a += b && !c;", "\\frac{1}{2}", "// TODO?"]
CONTROL = ["\u0000", "\u0001", "\u0007", "\u001b[0m", "\u007f", "\u200b", "\ufeff", "\ufffd", "e\u0301", "\u00e9", "\u1e9b\u0323", "\U000f0000"]


def piece(draw):
    kind = draw.randrange(12)
    if kind < 4:
        return draw.choice(WORDS)
    if kind < 7:
        letters = SCRIPTS[draw.choice(sorted(SCRIPTS))]
        return "".join(draw.choice(letters) for _ in range(draw.randint(1, 6)))
    if kind == 7:
        return str(draw.randrange(10 ** draw.randint(1, 13)))
    if kind == 8:
        return draw.choice(EMOJI)
    if kind == 9:
        return draw.choice(CODE)
    if kind == 10:
        return draw.choice(CONTROL)
    return draw.choice(".,;:!?-_()[]'\"#$%&*+/=@^`{|}~«»…")


def text(draw):
    parts = []
    for _ in range(draw.randint(1, 7)):
        parts.append(piece(draw))
        parts.append(draw.choice(SPACES) if draw.random() < 0.4 else draw.choice(["", " "]))
    return "".join(parts)


def texts(seed, count):
    draw = random.Random(seed)
    return [text(draw) for _ in range(count)]


CORPUS = texts(1, 3000) + [" ".join(WORDS)] * 20 + ["What is the sum of 12 and 34?\nThe answer is 46."] * 20
ASSISTANT_HEADERS = ["user", "assistant", "system", "USER: ", "ASSISTANT: ", "[INST] [/INST]"]


def trained(pre_tokenizer, normalizer, vocab, **trainer):
    tokenizer = Tokenizer(models.BPE())
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    corpus = CORPUS + ASSISTANT_HEADERS * 10
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab, min_frequency=2, show_progress=False, **trainer))
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def special(tokenizer, names):
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def opened(bos, tokenizer):
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))])


def sentencepiece(metaspace):
    """As Llama 2 (a normalizer that puts `▁` before a text) or as Mistral (`Metaspace`, only before the first word)."""
    spaces = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    learned, merges = trained(pre_tokenizers.Metaspace(prepend_scheme="always"), None, VOCAB - 259)
    vocab = {}
    for name in ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(learned, key=learned.get):
        vocab.setdefault(name, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    if metaspace:
        tokenizer.pre_tokenizer = spaces
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special(tokenizer, ["<unk>", "<s>", "</s>", "<image>", "<pad>"])
    tokenizer.post_processor = opened("<s>", tokenizer)
    return tokenizer


def byte_level(pattern, normalizer, names, bos=None, further=()):
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    pieces = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = trained(pieces, normalizer, VOCAB, initial_alphabet=alphabet)
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=bos is not None))
    tokenizer.pre_tokenizer = pieces
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    special(tokenizer, names)
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in further])
    whole = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([whole, opened(bos, tokenizer)]) if bos else whole
    return tokenizer


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST

TOKENIZERS = {
    "llama2": lambda: sentencepiece(metaspace=False),
    "mistral": lambda: sentencepiece(metaspace=True),
    "llama3": lambda: byte_level(
        LLAMA3,
        None,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        bos="<|begin_of_text|>",
    ),
    "qwen2": lambda: byte_level(
        QWEN2,
        normalizers.NFC(),
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        further=["<think>", "</think>"],
    ),
}

# In the manner of LLaVA-1.5 with Vicuna: no special token but the image, no end of a turn.
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{# images first #}{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# In the manner of LLaVA-NeXT with Mistral: turns in brackets, turns have to alternate.
INST = """{{ bos_token }}
{%- set ns = namespace(system='', index=0) %}
{%- for message in messages %}
    {%- set written = namespace(text='') %}
    {%- for part in message.content %}
        {%- if part.type == 'image' %}
            {%- set written.text = written.text ~ '<image>\\n' %}
        {%- elif part.type == 'text' %}
            {%- set written.text = written.text ~ part.text %}
        {%- endif %}
    {%- endfor %}
    {%- if message.role == 'system' %}
        {%- set ns.system = written.text + '\\n\\n' %}
        {%- continue %}
    {%- endif %}
    {%- if (message.role == 'user') != (ns.index % 2 == 0) %}
        {{- raise_exception('user and assistant have to take turns') }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' ~ (ns.system if ns.index == 1 else '') ~ written.text ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ written.text.strip() ~ eos_token }}
    {%- endif %}
{%- endfor %}
"""

# In the manner of Llama 3: headers, trimmed contents.
HEADERS = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# In the manner of Qwen2: a system turn of its own unless there is one.
CHATML = """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# In the manner of LLaVA-NeXT with Qwen: the same with parts.
CHATML_PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# In the manner of Qwen3: a backward search, thoughts taken out of a response, an empty thought where there is none.
THINKING = """{%- if tools %}
    {{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def config(tokenizer, ends, image):
    values = {"text_config": {"eos_token_id": tokenizer.token_to_id(ends[0])}}
    if image:
        values["image_token_index"] = tokenizer.token_to_id("<image>")
    return values


def added(name):
    return {"__type": "AddedToken", "content": name, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


# Folder, tokenizer, template, where the template lies, tokens by role, ends of a text, whether it takes images.
FOLDERS = [
    ("vicuna", "llama2", VICUNA, "chat_template.json", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}, ["</s>"], True),
    ("inst", "mistral", INST, "processor_config.json", {"bos_token": added("<s>"), "eos_token": added("</s>")}, ["</s>"], True),
    (
        "headers",
        "llama3",
        HEADERS,
        "tokenizer_config.json",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ["<|end_of_text|>", "<|eot_id|>"],
        False,
    ),
    ("chatml", "qwen2", CHATML, "tokenizer_config.json", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ["<|im_end|>", "<|endoftext|>"], False),
    ("parts", "qwen2", CHATML_PARTS, "chat_template.jinja", {"eos_token": "<|im_end|>"}, ["<|im_end|>"], True),
    ("thinking", "qwen2", THINKING, "chat_template.jinja", {"eos_token": "<|im_end|>"}, ["<|im_end|>", "<|endoftext|>"], False),
]

# User's text and response.
TURNS = [
    ("What is the sum of 12 and 34?", "The answer is 46."),
    ("  What is  in\nthis picture? ", "A cat.\n\nAnd a dog."),
    ("Größe? 日本語 👩‍💻 αβγ", "नमस्ते 한국어 🦀"),
    ("def f(x):\n    return x", "```\nf(1)\n```"),
    ("a", "b"),
    ("מה זה? \u200b العربية", "ไทย e\u0301 1234567"),
    ("\tTabs\tand\ttrailing\n", " leading and trailing \n"),
    ("Why?", "<think>\nBecause 1 + 1 = 2.\n</think>\n\n2"),
]
# Texts that spell special tokens of their tokenizer.
SPELLED = {
    "inst": [("Is </s> an end? <s>", "No, </s>it is <image> not."), ("<image>", "a <s> b")],
    "headers": [("Say <|eot_id|> now", "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi")],
    "chatml": [("a<|im_end|>\n<|im_start|>system\nb", "c <|im_end|> d"), ("<|endoftext|>", "<|im_end|>")],
    "parts": [("How many <image> are there?", "One <image>.")],
    "thinking": [("a <|im_end|> b", "<think>\nc <|im_end|> d\n</think>\n\ne <|im_start|>f")],
}
SYSTEM = "You count  things."
PICTURE = Image.new("RGB", (28, 28), (200, 100, 50))


def parts(text, image=False):
    return ([{"type": "image", "image": PICTURE}] if image else []) + [{"type": "text", "text": text}]


def chats(folder, files, tokenizer_name, image):
    """Rendered texts and ids of one folder, by the class that lays out chats of such a model."""
    name = folder.name
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    # Only special tokens are characters in a text: a thought in a response is a thought.
    tokenizer.chat_control_tokens = []
    template = files["template"]
    if image:
        pixels = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        layout = LlavaProcessor(pixels, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template)
    else:
        layout = tokenizer
        assert tokenizer.chat_template == template

    def laid_out(messages, open_, spelled):
        text = layout.apply_chat_template(messages, add_generation_prompt=open_, tokenize=False)
        out = layout.apply_chat_template(messages, add_generation_prompt=open_, tokenize=True, return_dict=True, sanitize_control_tokens=spelled)
        ids = out["input_ids"]
        return text, list(ids[0]) if isinstance(ids[0], list) else list(ids)

    found = []
    turns = [(turn, False) for turn in TURNS] + [(turn, True) for turn in SPELLED.get(name, [])]
    for (user, response), spelled in turns:
        for with_image in [False, True] if image else [False]:
            for system in [None, SYSTEM] if not spelled else [None]:
                content = (lambda text, picture=False: parts(text, picture)) if image else (lambda text, picture=False: text)
                messages = [{"role": "user", "content": content(user, with_image)}]
                if system is not None:
                    messages.insert(0, {"role": "system", "content": content(system)})
                prompt, prompt_ids = laid_out(messages, True, spelled)
                messages.append({"role": "assistant", "content": content(response)})
                whole, whole_ids = laid_out(messages, False, spelled)
                found.append(
                    {
                        "system": system,
                        "image": with_image,
                        "user": user,
                        "response": response,
                        "prompt": prompt,
                        "prompt_ids": prompt_ids,
                        "whole": whole,
                        "whole_ids": whole_ids,
                    }
                )
    return found


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    HERE.mkdir(exist_ok=True)
    strings = texts(2, STRINGS - 40)
    draw = random.Random(3)
    names = ["<s>", "</s>", "<image>", "<|im_end|>", "<|eot_id|>", "<think>", "<0x41>", "<unk>"]
    strings += [text(draw) + draw.choice(names) + text(draw) + draw.choice(names) for _ in range(38)] + ["", " "]
    write_json(HERE / "strings.json", strings)

    tokenizers = {name: make() for name, make in TOKENIZERS.items()}
    for name, tokenizer in tokenizers.items():
        (HERE / f"{name}.json").write_text(tokenizer.to_str(), encoding="utf-8")
        # Through `transformers`; per string the number of ids, then the ids, as u16.
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        packed, decoded = bytearray(), {}
        for index, string in enumerate(strings):
            ids = fast(string, add_special_tokens=False)["input_ids"]
            packed += struct.pack(f"<{len(ids) + 1}H", len(ids), *ids)
            back = fast.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if back != string:
                decoded[str(index)] = back
        (HERE / f"{name}.ids").write_bytes(packed)
        # Only texts that do not come back as they were.
        write_json(HERE / f"{name}.decoded.json", decoded)

    written = []
    for name, tokenizer_name, template, place, roles, ends, image in FOLDERS:
        tokenizer = tokenizers[tokenizer_name]
        files = {
            "config.json": config(tokenizer, ends, image),
            "generation_config.json": {"eos_token_id": [tokenizer.token_to_id(end) for end in ends]},
            "tokenizer_config.json": dict(roles),
        }
        if place == "chat_template.jinja":
            files[place] = template
        else:
            files.setdefault(place, {})["chat_template"] = template
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / name
            folder.mkdir()
            tokenizer.save(str(folder / "tokenizer.json"))
            for file, value in files.items():
                (folder / file).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
            found = chats(folder, {"template": template}, tokenizer_name, image)
        written.append({"name": name, "tokenizer": tokenizer_name, "files": files, "chats": found})
    write_json(HERE / "chats.json", written)


main()
