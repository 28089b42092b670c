"""Three small tokenizers, trained on the spot, built like those of Llama 2, Llama 3 and Qwen 2; and strings to cut."""

import random

import fixed  # noqa: F401
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

IMAGE = "<image>"

CORPUS = [
    "What is the colour of the square on the left side of the picture?",
    "The answer is that there are three red circles and two blue squares in the image.",
    "USER: Is the cat on the mat? ASSISTANT: The cat is on the mat, and the dog is not.",
    "How many of these are there? Count the objects, then answer with one number.",
    "Die Antwort ist, dass das rote Quadrat links neben dem blauen Kreis liegt.",
    "La réponse est que le carré rouge est à gauche du cercle bleu.",
    "El cuadrado rojo está a la izquierda del círculo azul, ¿verdad?",
    "Красный квадрат слева от синего круга. Ответ: три.",
    "红色的方块在蓝色圆圈的左边。答案是三个。",
    "赤い四角は青い丸の左にあります。答えは三つです。",
    "المربع الأحمر على يسار الدائرة الزرقاء.",
    "लाल वर्ग नीले वृत्त के बाईं ओर है।",
    "def area(width, height):\n    return width * height\n",
    "0123456789 1,234.56 2024-01-02 3.14159 100%",
]

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = WORDS + r"\p{N}{1,3}" + REST
QWEN2_SPLIT = WORDS + r"\p{N}" + REST


def special(names):
    return [AddedToken(name, normalized=False, special=True) for name in names]


def starts_with(token, id):
    return processors.TemplateProcessing(
        single=f"{token}:0 $A:0", pair=f"{token}:0 $A:0 {token}:1 $B:1", special_tokens=[(token, id)]
    )


def learned(words, base, size):
    """Byte pair encoding (Sennrich et al. 2016): vocabulary and merges. The library's trainer breaks ties by chance."""
    words, vocab, merges = [list(word) for word in words], list(base), []
    while len(vocab) < size:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        left, right = max(sorted(counts), key=counts.get)
        merges.append((left, right))
        vocab.append(left + right)
        for word in words:
            at = 0
            while at + 1 < len(word):
                if word[at] == left and word[at + 1] == right:
                    word[at : at + 2] = [left + right]
                at += 1
    return {token: id for id, token in enumerate(vocab)}, merges


def byte_level(split, size, specials, normalizer=None, ignore_merges=False):
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words = [word for line in CORPUS for word, _ in pre_tokenizer.pre_tokenize_str(line)]
    vocab, merges = learned(words, sorted(pre_tokenizers.ByteLevel.alphabet()), size)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special(specials))
    return tokenizer


def llama2():
    """SentencePiece's BPE with bytes for what it does not know: no pre-tokenizer, spaces are letters."""
    base = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁" + word for line in CORPUS[:3] for word in line.split(" ")]
    vocab, merges = learned(words, base + sorted(set("".join(words))), 320)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(special(["<unk>", "<s>", "</s>", IMAGE, "<pad>"]))
    tokenizer.post_processor = starts_with("<s>", 1)
    names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    return tokenizer, names, ["</s>"]


def llama3():
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", IMAGE]
    tokenizer = byte_level(LLAMA3_SPLIT, 296, specials, ignore_merges=True)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            starts_with("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>")),
        ]
    )
    names = dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|end_of_text|>")
    return tokenizer, names, ["<|end_of_text|>", "<|eot_id|>"]


def qwen2():
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE]
    tokenizer = byte_level(QWEN2_SPLIT, 293, specials, normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return tokenizer, names, ["<|im_end|>", "<|endoftext|>"]


# The names of Idefics3's processor.
AROUND, WHOLE, UTTERANCE = "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"


def smolvlm():
    """Every digit is a token; the tags of tiles are special tokens."""
    tags = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", AROUND, IMAGE, UTTERANCE, WHOLE, *tags]
    tokenizer = byte_level(QWEN2_SPLIT, 293, specials)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = dict(bos_token="<|im_start|>", eos_token=UTTERANCE, unk_token="<|endoftext|>", pad_token="<|im_end|>")
    return tokenizer, names, [UTTERANCE]


def idefics3():
    """As Llama 3's. The tags of tiles are not special."""
    tokenizer, names, ends = llama3()
    tokenizer.add_special_tokens(special([AROUND, UTTERANCE]))
    return tokenizer, names, ends


def internvl():
    """As Qwen 2's, with the tokens around images."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", IMAGE, "<video>"]
    tokenizer = byte_level(QWEN2_SPLIT, 293, specials, normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return tokenizer, names, ["<|im_end|>", "<|endoftext|>"]


# Of Qwen2-VL: an image in a text is this token between two others.
PAD, VIDEO, START, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"


def qwen2vl():
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", START, END, PAD, VIDEO]
    tokenizer = byte_level(QWEN2_SPLIT, 293, specials, normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return tokenizer, names, ["<|im_end|>", "<|endoftext|>"]


# Of Gemma 3: what stands for an image in a text, what ends it, and its features.
BOI, EOI, SOFT = "<start_of_image>", "<end_of_image>", "<image_soft_token>"


def gemma3():
    """SentencePiece's BPE with bytes for what it does not know. Line breaks that follow each other are one token."""
    base = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    words = [word.replace(" ", "▁") for line in CORPUS[:3] for word in line.split(" ")]
    words = ["▁" + word for word in words]
    vocab, merges = learned(words, base + sorted(set("".join(words)) | {"\n", " "}), 330)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens([AddedToken("\n" * count, normalized=False, special=False) for count in range(1, 6)])
    tokenizer.add_special_tokens(
        special(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", BOI, EOI, SOFT])
    )
    tokenizer.post_processor = starts_with("<bos>", 2)
    names = dict(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")
    return tokenizer, names, ["<eos>", "<end_of_turn>"]


# Tokens with a role of a model, besides the image token.
ROLES = {
    "gemma3": dict(boi_token=BOI, eoi_token=EOI),
    "internvl": dict(start_image_token="<img>", end_image_token="</img>", context_image_token=IMAGE, video_token="<video>")
}
def image(kind):
    """The image token of a tokenizer."""
    return {"qwen2vl": PAD, "gemma3": SOFT}.get(kind, IMAGE)


def image_text(kind):
    """An image in a text."""
    return {"qwen2vl": START + PAD + END, "gemma3": BOI}.get(kind, IMAGE)


MADE = {}


def tokenizer(kind, template):
    """The tokenizer as transformers wraps it, and the ids that end an answer."""
    if kind not in MADE:
        MADE[kind] = {"llama2": llama2, "llama3": llama3, "qwen2": qwen2, "smolvlm": smolvlm, "idefics3": idefics3, "internvl": internvl, "qwen2vl": qwen2vl, "gemma3": gemma3}[kind]()
    made, names, ends = MADE[kind]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(made.to_str()), extra_special_tokens={"image_token": image(kind), **ROLES.get(kind, {})}, **names
    )
    wrapped.chat_template = template
    return wrapped, [made.token_to_id(end) for end in ends]


SCRIPTS = [
    "the square on the left is red and what are they",
    "größer ähnlich Straße übermäßig naïve façade œuvre Ångström",
    "Красный квадрат слева от синего круга Ответ три",
    "κόκκινο τετράγωνο αριστερά από τον κύκλο",
    "红色 方块 蓝色 圆圈 左边 答案 三个",
    "赤い 四角 青い 丸 カタカナ ひらがな 漢字",
    "빨간 사각형 파란 원 왼쪽 정답",
    "المربع الأحمر على يسار الدائرة",
    "הריבוע האדום משמאל לעיגול הכחול",
    "लाल वर्ग नीले वृत्त के बाईं ओर",
    "สี่เหลี่ยม สีแดง อยู่ ทาง ซ้าย",
    "🙂 👩‍👩‍👧 🇨🇭 ✅ ½ № ™ e\u0301 ﬁ \u00a0 \u200b",
    "I'm you're it's we'll don't 'S 'T O'Neill",
    "12 3456 7.89 1e-5 0x1F 2024-01-02 100%",
    "{ } [ ] ( ) == != => // # $ % & * _ ~ `",
    "<s> </s> <image> <pad> <|im_end|> <|eot_id|> <|begin_of_text|> <0x0A> <unk>",
]
BETWEEN = [" ", " ", " ", " ", "  ", "", "\n", "\n\n", "\t", ", ", ". ", " \n ", "\r\n", "   "]


def strings(count):
    """Strings of several scripts, with runs of white space, and names of special tokens in between."""
    chance = random.Random(5)
    words = [script.split(" ") for script in SCRIPTS]
    found = ["", " ", "\n", "  leading", "trailing  ", "a", "\u0000\u0001\ufffd"]
    while len(found) < count:
        scripts = chance.choices(words, k=chance.randint(1, 3))
        text = ""
        for _ in range(chance.randint(1, 12)):
            text += chance.choice(chance.choice(scripts)) + chance.choice(BETWEEN)
        found.append(text)
    return found
