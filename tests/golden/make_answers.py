"""Writes answers.jsonl: answers, what ablate must say of them, and what the published evaluator says.

    python3 tests/golden/make_answers.py

The verdicts are written by hand below. The evaluators are computed here from their published rules, with Python's own
`float`, `lower` and `re`, which those evaluators rest on:

- VLMEvalKit, vlmeval/utils/matching_util.py (`can_infer`) and vlmeval/dataset/utils/vqa_eval.py (`accuracy`)
- google-research/pix2struct, pix2struct/metrics.py (`relaxed_correctness`)
- the script of the DocVQA and InfographicVQA challenges, infographicsvqa_eval.py
- the VQA challenge, vqaEval.py, and EvalAI's evaluator of TextVQA (mmf, EvalAIAnswerProcessor)
- Yuliang-Liu/MultimodalOCR, example.py (OCRBench)

Where the score of an answer type of ablate's own differs from its evaluator's, the case names the difference; the names
are explained in docs/stages.md. Each case is repeated for the answer type that follows the evaluator, where no
difference is allowed.
"""

import json
import re
from pathlib import Path

MARKER = "### Answer:"

# --- the evaluators -------------------------------------------------------------------------------------------------


def float_or_none(text):
    try:
        return float(text)
    except ValueError:
        return None


def relaxed(gold, answer):
    def value(text):
        if not text.endswith("%"):
            return float_or_none(text)
        number = float_or_none(text.rstrip("%"))
        return None if number is None else number / 100.0

    gold_value, answer_value = value(gold), value(answer)
    # `not 0.0` is true: a gold answer of 0 is compared as text.
    if answer_value is None or not gold_value:
        return gold.lower() == answer.lower()
    return abs(answer_value - gold_value) / abs(gold_value) <= 0.05


REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def infer_option(answer, choices):
    """A letter, "Z" for a refusal, or None."""
    if "Failed to obtain answer via API" in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return "Z"
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    present = [letter for letter in choices if letter in words]
    if len(present) == 1:
        return present[0] if words.index(present[0]) > len(words) - 5 else None
    return "Z" if not present and "Z" in words else None


def infer_text(answer, choices):
    answer = answer.lower()
    if len(answer) > 2 * sum(len(text) for text in choices.values()):
        return None
    present = [letter for letter, text in choices.items() if text.lower() in answer]
    return present[0] if len(present) == 1 else None


def vlmevalkit(golds, answer, options):
    choices = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options or [""] * 26))
    found = infer_option(answer, choices) or (infer_text(answer, choices) if options else None)
    if found is None or found == "Z":
        return "unreadable"
    return float(found in golds)


def edits(one, other):
    row = list(range(len(other) + 1))
    for at, left in enumerate(one, 1):
        above, row[0] = row[0], at
        for column, right in enumerate(other, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (left != right))
    return row[-1]


def docvqa(golds, answer):
    def distance(gold):
        plain = [" ".join(text.strip().lower().split()) for text in (gold, answer)]
        length = max(len(gold.upper()), len(answer.upper()))
        return edits(*plain) / length if length else 0.0

    score = 1 - min(map(distance, golds))
    return 0.0 if score < 0.5 else score


MARKS = ";/[]\"{}()=+\\_-><@`,?!"
NUMBERS = dict(zip("none zero one two three four five six seven eight nine ten".split(), "0 0 1 2 3 4 5 6 7 8 9 10".split()))
# Those of the challenge's table that cases below use.
CONTRACTIONS = {
    "dont": "don't", "isnt": "isn't", "thats": "that's", "couldnt've": "couldn't've", "couldn'tve": "couldn't've",
    "somebody'd": "somebodyd", "oclock": "o'clock", "its": "its", "couldntve": "couldntve", "yall'll": "y'all'll",
}


def vqa_punctuation(text):
    plain = text
    for mark in MARKS:
        drop = mark + " " in text or " " + mark in text or re.search(r"\d,\d", text)
        plain = plain.replace(mark, "" if drop else " ")
    # The third argument of `sub` is the count: re.UNICODE is 32.
    return re.sub(r"\.(?!\d)", "", plain, count=32)


def vqa_words(text):
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def soft_accuracy(golds, answer):
    if len(golds) == 1:  # The evaluators leave nobody over: always 0. ablate asks for the answer itself.
        return float(golds[0] == answer)
    others = (golds[:at] + golds[at + 1 :] for at in range(len(golds)))
    return sum(min(1, rest.count(answer) / 3) for rest in others) / len(golds)


def vqa_eval(golds, answer):
    *golds, answer = (text.replace("\n", " ").replace("\t", " ").strip() for text in (*golds, answer))
    if len(set(golds)) > 1:
        golds = [vqa_words(vqa_punctuation(gold)) for gold in golds]
        answer = vqa_words(vqa_punctuation(answer))
    return soft_accuracy([gold.lower() for gold in golds], answer.lower())


def textvqa(golds, answer):
    def plain(text):
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
        return vqa_words(vqa_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))

    return soft_accuracy([plain(gold) for gold in golds], plain(answer))


def ocrbench(golds, answer, dataset):
    if dataset == "HME100k":
        plain = lambda text: text.strip().replace("\n", " ").replace(" ", "")
    else:
        plain = lambda text: text.lower().strip().replace("\n", " ")
    return float(any(plain(gold) in plain(answer) for gold in golds))


def exact(golds, answer):
    return float(any(gold.strip().lower() == answer.strip().lower() for gold in golds))


# Own answer type: the evaluator that it is held against, the answer type that is this evaluator's rule, further ones.
EVALUATORS = {
    "letter": ("VLMEvalKit can_infer", "mmbench"),
    "number": ("pix2struct relaxed_correctness", "relaxed"),
    "text": ("VLMEvalKit accuracy", "exact"),
    "anls": ("DocVQA script", "docvqa"),
    "vqa": ("VQAEval", "vqa-eval"),
    "contains": ("OCRBench script", "ocrbench"),
}


def says(kind, golds, options, dataset, answer):
    if kind == "mmbench":
        return vlmevalkit(golds, answer, options)
    if kind == "relaxed":
        return float(any(relaxed(gold, answer) for gold in golds))
    if kind == "ocrbench":
        return ocrbench(golds, answer, dataset)
    return {"exact": exact, "docvqa": docvqa, "vqa-eval": vqa_eval, "textvqa": textvqa}[kind](golds, answer)


# --- the cases ------------------------------------------------------------------------------------------------------
# `r` right, `w` wrong, `u` unreadable, or a score; then the response, and the difference where the scores differ.

THREE = ["france", "uk", "red car"]
COLORS = ["red", "blue", "green"]

CASES = [
    ("letter", ["B"], THREE, """
        r B | r B. | r (B) | r [B] | r **B** | r *B* | r B: | r B) | r # B | r {B}
        r "B" ^ markup | r `B` ^ markup | r $B$ ^ markup | r \\boxed{B} | r $\\boxed{\\text{B}}$
        r b ^ small letters | r b. ^ small letters | r (b) ^ small letters | r b) ^ small letters | r **b** ^ small letters
        r option b ^ small letters | r <answer>B</answer> ^ markup | r Ｂ ^ forms of Unicode | r B。 ^ forms of Unicode
        r Option B | r Option (B) | r Choice B. | r The answer is B | r The answer is B. | r The answer is: B
        r The answer is (B). | r The answer is **B**. | r Answer: B | r **Answer:** B | r **Answer: B**
        r The correct answer is option B. | r The correct option is B | r I think it is B. | r It must be B! | r So: B.
        r B. uk | r B: uk | r (B) uk | r B uk | r B - uk | r B – uk | r B, uk | r B) UK. | r **B. uk** | r B. **uk** | r b. uk
        r uk | r UK. | r "uk" | r **uk** | r The answer is uk. | r It is the UK. | r The uk is shown here. | r \\text{uk}
        r B.\\n\\nDone. | r B\\n\\nThe flag is shown. ^ text beside the option | r B because the flag has a cross on it. ^ text beside the option
        r B. rouge | r The answer is B, as the flag shows. ^ text beside the option | r B is correct. | r B is the answer to it. ^ text beside the option
        r A is too small. So the answer is B. ^ sentences | r The answer is A. No, the answer is B. ^ sentences
        w A | w C | w (C) | w D | w F. | w france | w A. france | w a | w red car | w The answer is C. | w c) red car
        w B, C | w B or C | w B. or C. | w B/C | w B and C | w A, B, C | w A, B, C, D, E | w B: no, it is C | w B, D ^ a second answer
        w B. france ^ a second answer | w B france ^ a second answer | w B. red car ^ a second answer
        w The answer is B or C | w uk or france | w B, not C | w B because france has no cross.
        w **B** or **C** | w (A) or (B) | w b or c | w Both B and uk or france
        u not B ^ denials | u It is not B. ^ denials | u B is wrong. ^ denials | u It isn't the uk ^ denials | u B is not the answer. | u B is certainly not right. | u Neither A nor B | w B over C
        u None of these. | u I cannot say. | u BC | u Because | u ? | u spain | u 2 | w Z | u The answer is unclear.
        u Cannot determine the answer | u I can't process this file. | u é | u B-spline | u The U.S.A.
    """),
    ("letter", ["C"], ["france", "uk", "a red car"], """
        r A red car. ^ the article A | r A red car ^ the article A | r a red car | r C. a red car | r It is a red car. | r It shows A red car ^ the article A
        w A | w A france | w A is right. | w A, because of the flag. | w A or C
        u A dog. | u A wheel | u I see a dog
    """),
    ("letter", ["A"], COLORS, """
        r A | r A. red | r red | r Red. | r A red | r It is red. | r The answer is A. | r A because it is warm. ^ text beside the option
        w B. red | w blue | w B | w red or blue | w red and green | w A or B | w A. blue ^ a second answer
        w reddish blue | u purple | r a ^ small letters | w a or b | w b or a
    """),
    ("letter", ["C"], ["a. m.", "B. Smith", "p. m."], """
        r C | r p. m. | r C. p. m. | r The answer is p. m. | w B. Smith | w b. smith | w a. m. | w A | w B
    """),
    ("letter", ["D"], ["12", "2", "22", "1/2"], """
        r D | r 1/2 ^ texts inside of texts | r D. 1/2 | r \\boxed{1/2} ^ texts inside of texts | w 2 | w A | w 12 | w D. 12 ^ a second answer | w 22 | w 12 or 1/2 | u 7 | u 122
    """),
    ("letter", ["B"], ["yes", "no"], """
        r B | r no | r No. | r B. no | r No, there is none. ^ text beside the option | w yes | w Yes. | w A | w yes and no | w B. yes ^ a second answer
        u maybe
    """),
    ("letter", ["B. uk"], ["france", "uk"], "r B ^ a letter with its text as gold | r uk ^ a letter with its text as gold | w A | u spain"),
    ("number", ["100"], [], """
        r 100 | r 95 | r 105 | r 100.0 | r 1e2 | r +100 | r 99.5 | w 94.9 | w 105.1 | w -100 | w 1000 | w 0
        r 100. | r 100.\\n\\nDone. ^ sentences | r The answer is 100. ^ sentences | r **100** ^ markup | r \\boxed{100} ^ markup
        r $100$ ^ markup | r Answer: 100 ^ sentences | r 100 cm ^ units | r 100cm ^ units | r 100 apples ^ units
        r $100 ^ units | r 100% ^ percent | r 100 % ^ percent | r about 100 ^ sentences | r x = 100 ^ sentences | r 60+40=100 ^ sentences
        r There are 100 bars. ^ sentences | r "100" ^ markup | r １００ | r ١٠٠ | r 100 (one hundred) ^ units | r [100] ^ markup | r (100) ^ markup
        w 100 or 200 | w 100, 200 | w 50 of 100 | w 100 million | w 100k | w 100 billion dollars
        u one hundred | u many | u 90-110 | u 1:40 | u ? | u not 100 | u inf | u nan | u more than 100 | u at least 100 | w 1 hundred and 5 | u >100 | u 100th | u Because
    """),
    ("number", ["12%"], [], """
        r 12% | r 12 % | r 12 ^ percent | r 12 percent ^ units | r 12.0 % | r The share is 12%. ^ sentences
        w 0.12 ^ percent | w 13% | w 1.2% | w 12 dollars | w $12 | w 12 points | u twelve
    """),
    ("number", ["0.5"], [], """
        r 0.5 | r .5 | r 1/2 ^ fractions | r \\frac{1}{2} ^ fractions | r \\dfrac{1}{2} ^ fractions | r $\\frac{1}{2}$ ^ fractions
        r ½ ^ fractions | r 0.50 | w 50% ^ percent | w 5 | w 1/3 | w 2 | w 1.5 | u half | u 1/0 | w 1 1/2
    """),
    ("number", ["1/2"], [], "r 1/2 | r 0.5 ^ fractions | r \\boxed{\\frac{1}{2}} ^ fractions | r ½ ^ fractions | w 1/4 | w 2"),
    ("number", ["0"], [], "r 0 | r 0.0 ^ zero | r -0 ^ zero | r 0% ^ percent | r 0 cm ^ units | w 0.01 | w 1 | u none | u zero"),
    ("number", ["1,234.5"], [], """
        r 1,234.5 | r 1234.5 ^ separators | r $1,234.5 ^ units | r 1 234.5 ^ separators | r 1,234.5 cm ^ units | w 12345
        u 1,2345 | u 1.234,5 | r 1,200 ^ separators | r 1,234 ^ separators
    """),
    ("number", ["1234"], [], "r 1,234 ^ separators | r 1234 | r 1 234 ^ separators | w 1.234 | u 12,34 | u 12:34"),
    ("number", ["15"], [], "u 1,5 | r 15 | r 15.3 | w 1.5 | r 15 years ^ units | r 15 years old ^ units"),
    ("number", ["$3 million"], [], "r $3 million | r 3,000,000 ^ units | r 3000000 ^ units | r 3 million ^ units | r $3,000,000 ^ units | r 3 million dollars ^ units | r 3 million US dollars ^ units | w 3 | w $3 | w 3 hundred | w €3 million | w 3 billion"),
    ("number", ["12 cm"], [], "r 12 cm | r 12 ^ units | r 12cm ^ units | r 12 CM | w 12 m | w 12 kg | w 1.2 cm | r 11.9 cm ^ units"),
    ("number", ["-3"], [], "r -3 | r - 3 ^ separators | r \u22123 ^ forms of Unicode | r -3.0 | r -3 degrees ^ units | r -$3 ^ units | r -3° ^ units | w 3 | w +3"),
    ("number", ["2010"], [], "r 2010 | r In 2010 ^ sentences | r 2011 | r 2010. | w 1900 | w 2010 and 2011 | u 2010-2012 | u 2010/11/12"),
    ("number", ["Spain"], [], "r Spain | r spain | r spain. ^ closing marks | r **Spain** ^ markup | r The answer is Spain. ^ sentences | r \"Spain\" ^ markup | w Italy | w 5 | w Spain and Italy"),
    ("number", ["2010-2012"], [], "r 2010-2012 | r 2010–2012 ^ forms of Unicode | w 2010 | w 2010-2013"),
    ("number", ["5", "five"], [], "r 5 | r five | r Five. ^ closing marks | w 6 | w six"),
    ("text", ["red"], [], """
        r red | r RED | r  red  | r red. ^ closing marks | r "red" ^ markup | r **red** ^ markup | r `red` ^ markup | r \\boxed{red} ^ markup
        r The answer is red. ^ sentences | r Answer: red ^ sentences | r “red” ^ markup | r [red] ^ markup | r red! ^ closing marks
        w blue | w red car | w a red | w red or blue | w redd | w The answer is red or blue. | w red\\n\\nDone. | w re d
        u ? | u ... | u **
    """),
    ("text", ["café"], [], "r café | r cafe\u0301 ^ forms of Unicode | r CAFÉ | w cafe | r café. ^ closing marks"),
    ("text", ["it's"], [], "r it's | r it’s ^ forms of Unicode | w its | r “it’s” ^ forms of Unicode"),
    ("text", ["10-12"], [], "r 10-12 | r 10–12 ^ forms of Unicode | r 10‑12 ^ forms of Unicode | w 10 12"),
    ("text", ["C*", "f(x)"], [], "r C* | r c* | r f(x) | w C | w fx | r `f(x)` ^ markup"),
    ("text", ["Red=3", "crimson = 3"], [], "r red=3 | r Crimson  = 3 ^ white space | w red=4 | w red = 3"),
    ("text", ["?"], [], "r ? | w what"),
    ("anls", ["abcd"], [], """
        r abcd | r ABCD | 0.75 abcx | 0.5 abxx | w axxx | r abcd\u200b ^ forms of Unicode | r **abcd** ^ markup | r "abcd" ^ markup
        0.8 The answer is abcd. ^ sentences | w The answer is xxxx. | 0.8 abcd. | 0.8 abcde | w xyz | u ? | 0.6666666666666667 abcdef
    """),
    ("anls", ["a b", "xyz"], [], "r a b | r a  b | r A\\nB | r xyz | 0.6666666666666667 xyy | w q | 0.75 wxyz"),
    ("anls", ["größe"], [], "0.8 große ^ lengths | 0.6666666666666667 grösse | r größe | r gro\u0308ße ^ forms of Unicode"),
    ("anls", ["12 May 2010"], [], "r 12 May 2010 | r 12 may 2010 | r Answer: 12 May 2010 ^ sentences | 0.9090909090909091 12 May 2011 | w 2010"),
    ("vqa", ["stop"] * 3 + ["stop sign"] * 2 + ["the stop sign", "red", "go", "walk", "wait"], [], """
        0.9 stop | 0.9 Stop. | 0.9 STOP! | 0.9 the stop | 0.9 stop sign | 0.9 a stop-sign | 0.3 red | 0.3 Go | w blue
        0.9 **stop** ^ markup | 0.9 The answer is stop. ^ sentences | 0.9 "stop" | w stop it | u ?
    """),
    ("vqa", ["2"] * 4 + ["two"] * 4 + ["three", "4"], [], "r 2 | r two | r Two. | r 2! | 0.3 3 | 0.3 four | w 5 | w none"),
    ("vqa", ["don't walk"] * 5 + ["dont walk"] * 4 + ["walk"], [], "r dont walk | r don't walk | r don’t walk ^ forms of Unicode | 0.3 walk | w do not walk"),
    ("vqa", ["1,000"] * 6 + ["1000"] * 4, [], "r 1,000 | r 1000 | r 1,000. | w 1 000 | w 100"),
    ("vqa", ["yes"] * 10, [], "r yes | r Yes | r yes. ^ one wording | r the yes ^ one wording | w no"),
    ("vqa", ["couldn't've"] * 5 + ["no"] * 5, [], "r couldnt've | r couldn'tve | w couldntve | r no"),
    ("vqa", ["somebodyd"] * 5 + ["no"] * 5, [], "r somebody'd"),
    ("vqa", ["u.s. a.b.c"] * 5 + ["no"] * 5, [], "r us abc | r U.S. A.B.C. | w u s abc"),
    ("vqa", ["stop"], [], "r stop | r Stop | w go | r **stop** ^ markup"),
    ("contains", ["No Parking"], [], """
        r no parking | r The sign says NO PARKING here. | r No  Parking ^ white space | r No\\nParking | r **No** Parking ^ markup
        r no parking. | w no-parking | w parking | w no | u ... | r No Par\u200bking ^ forms of Unicode | w None
    """),
    ("contains", ["12"], [], "r 12 | r 3124 | r 12 cm | w 3 14 | w 1 2 | w 21 | r １２ ^ forms of Unicode"),
    ("contains", ["café"], [], "r café | r Le cafe\u0301 ^ forms of Unicode | w cafe"),
    ("contains", ["a + b"], [], "r a + b | r So a + B. | w a+b"),
    ("contains@HME100k", ["x ^ { 2 } + Y"], [], "r x ^ { 2 } + Y | r x ^ { 2 } + y ^ formulas | w x^{2}+Y ^ formulas | w x^2"),
]

# After a chain of thought the answer is what follows the last marker.
REASONED = [
    ("letter", ["B"], THREE, [
        ("r", "Flags.\n### Answer: B"), ("r", "Flags.\n### Answer: **B**"), ("r", "Flags.\n**### Answer: B**"),
        ("r", "A or C?\n### Answer: B. uk"), ("r", "### Answer: C\nNo.\n### Answer: B"), ("r", "Flags.\n### Answer: B\n\nDone."),
        ("r", "Flags.\n### Answer: The answer is B."), ("w", "Flags.\n### Answer: B, C"), ("w", "B\n### Answer: A"),
        ("u", "The answer is B."), ("u", "Flags.\n### Answer:"), ("u", "Flags.\n### Answer: ?"),
    ]),
    ("number", ["5"], [], [
        ("r", "3+2=5.\n### Answer: 5"), ("w", "3+2=6.\n### Answer: 6"), ("r", "Sum.\n### Answer: **5**"),
        ("r", "Sum.\n**### Answer: 5**"), ("r", "Sum.\n### Answer: 5 cm"), ("r", "Sum.\n### Answer: 5\n\nDone."),
        ("r", "Sum.\n### Answer: \\boxed{5}"), ("u", "Sum.\n### Answer: five"), ("w", "Sum.\n### Answer: 5 or 6"), ("u", "5"),
    ]),
    ("text", ["red"], [], [("r", "So.\n### Answer: red"), ("r", "So.\n### Answer: **red**"), ("w", "So.\n### Answer: blue")]),
]


def scored(mark):
    score = {"r": 1.0, "w": 0.0, "u": 0.0}.get(mark)
    score = float(mark) if score is None else score
    return score, "unreadable" if mark == "u" else "right" if score >= 0.5 else "wrong"


def rows():
    for kind, golds, options, cases in CASES:
        kind, _, dataset = kind.partition("@")
        for case in re.split(r"\s*\|\s*|\n\s*", cases.strip()):
            mark, response, difference = re.fullmatch(r"(\S+) (.*?)(?: \^ ([a-zA-Z' ]+))?", case).groups()
            response = response.replace("\\n", "\n")
            yield from compared(kind, golds, options, dataset, response, "direct", mark, difference or "")
    for kind, golds, options, cases in REASONED:
        for mark, response in cases:
            yield from reasoned(kind, golds, options, response, mark)


def row(kind, golds, options, dataset, response, style, score, verdict, evaluator=None, said=None, difference=""):
    made = {"type": kind, "gold": golds, "options": options, "dataset": dataset, "style": style, "response": response,
            "verdict": verdict, "score": score, "evaluator": evaluator, "says": said, "difference": difference}
    return {key: value for key, value in made.items() if value not in ("", None) and not (key == "options" and not value)}


def compared(kind, golds, options, dataset, response, style, mark, difference):
    evaluator, reference = EVALUATORS[kind]
    answer = response.strip()
    said = says(reference, golds, options, dataset, answer)
    score, verdict = scored(mark)
    said_score = 0.0 if said == "unreadable" else said
    apart = abs(said_score - score) > 1e-9
    if apart != bool(difference):
        PROBLEMS.append(f"{kind} {golds} {response!r}: {verdict} {score}, {evaluator} says {said}; difference `{difference}`")
    yield row(kind, golds, options, dataset, response, style, score, verdict, evaluator, said, difference)
    twins = [(reference, evaluator, said)]
    if kind == "vqa":
        twins.append(("textvqa", "EvalAI TextVQA", textvqa(golds, answer)))
    for twin, name, said in twins:
        read = "unreadable" if said == "unreadable" else "right" if said >= 0.5 else "wrong"
        yield row(twin, golds, options, dataset, response, style, 0.0 if read == "unreadable" else said, read, name, said)


def reasoned(kind, golds, options, response, mark):
    score, verdict = scored(mark)
    yield row(kind, golds, options, "", response, "cot", score, verdict)


PROBLEMS = []

if __name__ == "__main__":
    table = list(rows())
    for problem in PROBLEMS:
        print(problem)
    path = Path(__file__).with_name("answers.jsonl")
    path.write_text("".join(json.dumps(made, ensure_ascii=False) + "\n" for made in table), encoding="utf-8")
    print(f"{len(table)} rows, {sum('difference' in made for made in table)} with a difference")
